//! One run: faults, then healing, then proof that the cluster lives and has lost nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::options::Options;
use super::partial;
use super::report::{Report, without_effect};
use super::rules::{Rule, Violation};
use super::spec::SpecEvents;
use super::trace::Trace;
use super::world::World;

/// Election timeouts that healing may take until a new write is on all boards. A board may need several
/// failed elections, and then a snapshot.
const HEAL_ELECTIONS: u64 = 60;
/// What it may take besides, in µs: on fast links timeouts are short, and mounting takes time too.
const HEAL_US: u64 = 5_000_000;
/// Election timeouts of calm in which nothing may happen to the leader.
const CALM_ELECTIONS: u64 = 20;

/// Runs `options` to their end; the trace comes back with the report.
pub fn run(options: &Options, trace: Trace) -> (Report, Trace) {
    let (report, trace, _) = run_observed(options, trace, None);
    (report, trace)
}

/// The same, and what the specification's events are of it.
pub fn run_observed(
    options: &Options,
    trace: Trace,
    spec: Option<Box<SpecEvents>>,
) -> (Report, Trace, Option<Box<SpecEvents>>) {
    let began = Instant::now();
    let mut world = World::new(*options, trace);
    world.spec = spec;
    let lived = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let healed_us = lived.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.red(Rule::P1, || format!("panics: {}", text.unwrap_or_default()));
        0
    });
    let counters = world.counters();
    let violated: Vec<Violation> = world.violations().to_vec();
    let report = Report {
        seed: options.seed,
        boards: options.boards,
        faults: options.faults.to_string(),
        trace_hash: format!("{:016x}", world.trace.hash()),
        violations: violated.len() as u64,
        violated,
        without_effect: without_effect(options, &counters),
        counters,
        healed_ms: healed_us / 1000,
        virtual_seconds: world.now_us() / 1_000_000,
        wall_seconds: began.elapsed().as_secs_f64(),
        tail: world.tail().to_vec(),
    };
    (report, std::mem::take(&mut world.trace), world.spec)
}

/// Lives through a run; how long healing took, in µs.
fn live(world: &mut World) -> u64 {
    let span_us = u64::from(world.options.virtual_seconds) * 1_000_000;
    let faults_us = span_us / 4 * 3;
    world.advance_to(faults_us);
    world.heal();
    if let Some(client) = &mut world.client {
        client.silent = true;
    }
    let healed_us = heal(world);
    if world.violations().is_empty() {
        partial::prove(world);
    }
    if world.violations().is_empty() {
        heal(world);
    }
    if world.violations().is_empty() {
        if let Some(client) = &mut world.client {
            client.silent = false;
        }
        calm(world, span_us);
        settle(world);
    }
    judge(world);
    healed_us
}

/// Waits for a new write to be on all boards.
fn heal(world: &mut World) -> u64 {
    let began_us = world.now_us;
    let election_us = world.profile.election_us();
    let deadline_us = began_us + HEAL_ELECTIONS * election_us + HEAL_US;
    let mut canary = None;
    while world.now_us < deadline_us {
        world.advance_to(world.now_us + (election_us / 8).max(1000));
        match canary {
            Some(id) if world.is_acknowledged(id) => {
                if world.is_everywhere() && world.homeless().is_empty() && !world.is_joint() {
                    return world.now_us - began_us;
                }
            }
            // It may have been replaced by another leader's entry.
            Some(id) if world.checks.protocol.frontier() >= id.index => canary = None,
            _ => {
                let behind = canary.is_some_and(|id| {
                    world.checks.protocol.leader().is_some_and(|(term, _)| term > id.term)
                });
                if canary.is_none() || behind {
                    canary = world.leader().and_then(|leader| world.ask_at(leader)).or(canary);
                }
            }
        }
    }
    let found = world.describe();
    let homeless = world.homeless();
    if !homeless.is_empty() {
        world.red(Rule::L3, || {
            format!("{homeless:?} are not back after {HEAL_ELECTIONS} elections: {found}")
        });
    }
    world.red(Rule::L1, || format!("not healed after {HEAL_ELECTIONS} elections: {found}"));
    world.now_us - began_us
}

/// Nothing goes wrong, so no leadership may be lost.
fn calm(world: &mut World, span_us: u64) {
    let election_us = world.profile.election_us();
    let until_us = span_us.max(world.now_us + CALM_ELECTIONS * election_us);
    // Who has just come back may still be on its way to be heard.
    world.advance_to(world.now_us + 2 * election_us);
    let before = world.checks.protocol.leader();
    while world.now_us < until_us {
        world.advance_to((world.now_us + election_us).min(until_us));
        let now = world.checks.protocol.leader();
        if now != before {
            let erases = world.counters().flash_erases;
            return world.red(Rule::E1, || {
                format!(
                    "leader {before:?} was replaced by {now:?} in calm time, {erases} erases so far"
                )
            });
        }
    }
}

/// No more requests: in the end all boards hold the same.
fn settle(world: &mut World) {
    if let Some(client) = &mut world.client {
        client.silent = true;
    }
    let election_us = world.profile.election_us();
    let deadline_us = world.now_us + HEAL_ELECTIONS * election_us;
    while !world.is_everywhere() && world.now_us < deadline_us {
        world.advance_to(world.now_us + election_us);
    }
    if !world.is_everywhere() {
        let found = world.describe();
        world.red(Rule::L1, || format!("boards differ without any faults: {found}"));
    }
    // Idle time, for the seal that follows the last record.
    world.advance_to(world.now_us + 4 * election_us);
}

/// Everything once more, by what flash holds.
fn judge(world: &mut World) {
    world.look_for_acknowledged();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::options::{Fault, Faults};

    fn short(seed: u64, faults: Faults) -> Report {
        let options = Options { virtual_seconds: 40, boards: 3, faults, ..Options::new(seed) };
        run(&options, Trace::default()).0
    }

    #[test]
    fn the_same_options_make_the_same_run_and_another_seed_another_one() {
        let (one, again, other) =
            (short(1, Faults::ALL), short(1, Faults::ALL), short(2, Faults::ALL));
        assert_eq!(one.trace_hash, again.trace_hash);
        assert_eq!(one.counters, again.counters);
        assert_ne!(one.trace_hash, other.trace_hash);
    }

    #[test]
    fn a_run_without_faults_has_none_and_commits() {
        for seed in 0..5 {
            let report = short(seed, Faults::NONE);
            assert_eq!(report.violated, [], "seed {seed}");
            // A full log is back-pressure: clients that are faster than flash meet it without any fault.
            let faults = Fault::ALL.iter().filter(|fault| **fault != Fault::LogFull);
            let bites: Vec<_> = faults.filter(|f| report.counters.bites(**f) > 0).collect();
            assert_eq!(bites, [&Fault::ALL[0]; 0], "seed {seed}");
            assert!(report.counters.commits > 20, "{report:?}");
        }
    }

    #[test]
    fn each_fault_takes_effect_where_it_is_asked_for() {
        for fault in Fault::ALL {
            let cuts = Faults::NONE.with(*fault).with(Fault::Cuts);
            let faults = match fault {
                Fault::TornErases | Fault::Decay => {
                    cuts.with(Fault::TornWrites).with(Fault::TornErases)
                }
                Fault::TornWrites => cuts,
                _ => Faults::NONE.with(*fault),
            };
            let bitten = (0..12).any(|seed| {
                let options = Options { boards: 3, faults, ..Options::new(seed) };
                run(&options, Trace::default()).0.counters.bites(*fault) > 0
            });
            assert!(bitten, "{fault:?}");
        }
    }
}
