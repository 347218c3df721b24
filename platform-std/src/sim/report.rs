//! What a run or a sweep comes to, as a person reads it and as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::options::{Fault, Options};
use super::rules::Violation;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened, counted where it had an effect.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// Adds those of another run.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Each with its name.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Commands that took effect.
    commits,
    /// Those of them while faults were at work.
    commits_amid_faults,
    /// Writes that were acknowledged to a client.
    acknowledged,
    /// Terms in which a board led.
    elections,
    /// Power cuts of the board that led.
    leader_crashes,
    /// Power cuts in the middle of a program or erase operation.
    power_cuts,
    /// Power cuts at any time.
    power_cuts_all,
    /// Moments at which all boards lost their power.
    blackouts,
    /// Power cuts of a board that had not finished booting.
    brown_outs,
    /// Words left with bits that are neither the old nor the new ones.
    torn_writes,
    /// Blocks left neither as they were nor erased.
    torn_erases,
    /// Words that read differently at a later boot.
    words_decayed,
    /// Frames that bad weather kept from a receiver.
    frames_lost,
    /// Frames that two boards sent at once.
    frames_collided,
    /// Frames that arrived while the receiver's flash kept it deaf, or that had no power.
    frames_unheard,
    /// Frames that arrived a second time.
    frames_duplicated,
    /// Frames that arrived behind a newer one of the same sender.
    frames_reordered,
    /// Changed frames that were handed to a board.
    frames_corrupted,
    /// Frames of a stranger that were handed to a board.
    frames_babbled,
    /// Frames that boards sent.
    frames_sent,
    /// Partitions that kept a frame from a receiver.
    partitions,
    /// Cuts of one direction that did.
    one_way_partitions,
    /// Cuts of single links that did.
    partial_partitions,
    /// Milliseconds until a majority that was connected pairwise had committed.
    majority_ms,
    /// Changes of membership that took effect.
    membership_changes,
    /// Those of them that began a joint configuration.
    joint_changes,
    /// Members that came to be none.
    members_removed,
    /// Elections that a leader asked for and that were won.
    transfers,
    /// Clocks that stood still for a while.
    clocks_stopped,
    /// Boards whose flash was blank from one moment to the next while they were members.
    boards_wiped,
    /// Those of them that led.
    leaders_wiped,
    /// Boards with blank flash that were given a place.
    boards_admitted,
    /// Reads that were answered after others had been asked, each held against all that was acknowledged before.
    reads_checked,
    /// Reads that a leader might answer by its lease, checked in the same way.
    lease_reads_checked,
    /// Commands that a member had the leader propose, and that took effect.
    forwards_applied,
    /// Those of which the member was told that nobody knows.
    forwards_unknown,
    /// Of these, those that were sent again under their own number.
    forwards_repeated,
    /// Boots after a power cut.
    restarts,
    /// Snapshots received from a leader and restored.
    snapshots_installed,
    /// Snapshots that boards took of their own.
    snapshots_taken,
    /// Proposals refused because the log was full.
    log_full_refusals,
    /// Proposals refused for another reason.
    other_refusals,
    /// Compare-and-sets that found another revision.
    mismatches,
    /// Milliseconds by which clocks went apart.
    drift_ms,
    /// Bytes programmed.
    flash_bytes_written,
    /// Blocks erased.
    flash_erases,
    /// Flash images mounted afresh to be checked.
    images_checked,
}

impl Counters {
    /// How often `fault` had an effect.
    pub const fn bites(&self, fault: Fault) -> u64 {
        match fault {
            Fault::Loss => self.frames_lost,
            Fault::Duplication => self.frames_duplicated,
            Fault::Reorder => self.frames_reordered,
            Fault::Corruption => self.frames_corrupted,
            Fault::Partition => self.partitions,
            Fault::OneWay => self.one_way_partitions,
            Fault::Cuts => self.power_cuts,
            Fault::LeaderCuts => self.leader_crashes,
            Fault::CutAll => self.blackouts,
            Fault::TornWrites => self.torn_writes,
            Fault::TornErases => self.torn_erases,
            Fault::Decay => self.words_decayed,
            Fault::BrownOut => self.brown_outs,
            Fault::Drift => self.drift_ms,
            Fault::Babble => self.frames_babbled,
            Fault::LogFull => self.log_full_refusals,
            Fault::Snapshots => self.snapshots_installed,
            Fault::PartialPartition => self.partial_partitions,
            Fault::Membership => self.membership_changes,
            Fault::Transfers => self.transfers,
            Fault::Sleep => self.clocks_stopped,
            Fault::Wipes => self.boards_wiped,
        }
    }
}

/// How it ended; the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything held.
    Held = 0,
    /// A rule did not hold.
    Violated = 1,
    /// Too little happened to say.
    Inconclusive = 2,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Its boards.
    pub boards: u8,
    /// Its faults, by name.
    pub faults: String,
    /// FNV-1a of the trace, in hexadecimal digits.
    pub trace_hash: String,
    /// How many rules did not hold.
    pub violations: u64,
    /// Which, and what was seen.
    pub violated: Vec<Violation>,
    /// Faults that were asked for by name and had no effect.
    pub without_effect: Vec<&'static str>,
    /// What happened.
    #[serde(flatten)]
    pub counters: Counters,
    /// From the end of the faults until a new write was on all boards, in virtual ms.
    pub healed_ms: u64,
    /// Virtual time.
    pub virtual_seconds: u64,
    /// Time on this machine.
    pub wall_seconds: f64,
    /// The last lines of the trace at the first violation.
    #[serde(skip)]
    pub tail: Vec<String>,
}

impl Report {
    /// How the run ended, where `named` faults were asked for by name.
    pub fn ending(&self) -> Ending {
        if !self.violated.is_empty() {
            Ending::Violated
        } else if !self.without_effect.is_empty() {
            Ending::Inconclusive
        } else {
            Ending::Held
        }
    }
}

/// The faults of `options` that were named and had no effect. Of `all`, a seed need not have each.
pub(super) fn without_effect(options: &Options, counters: &Counters) -> Vec<&'static str> {
    if options.faults == super::options::Faults::ALL {
        return Vec::new();
    }
    let idle = options.faults.iter().filter(|fault| counters.bites(*fault) == 0);
    idle.map(Fault::name).collect()
}

/// Many runs.
#[derive(Clone, Debug, Serialize)]
pub struct SweepReport {
    /// The seeds, as `A..B`.
    pub seeds: String,
    /// Boards in each.
    pub boards: u8,
    /// Faults, by name.
    pub faults: String,
    /// FNV-1a over the hashes of all traces, in the order of the seeds.
    pub trace_hash: String,
    /// Runs.
    pub runs: u64,
    /// Runs in which a rule did not hold.
    pub violations: u64,
    /// The seeds of those, with the rules.
    pub violated: BTreeMap<u64, Vec<Violation>>,
    /// Runs that crashed a leader and committed 20 entries amid faults.
    pub conclusive: u64,
    /// Faults asked for by name that had no effect in any run.
    pub without_effect: Vec<&'static str>,
    /// What happened in all runs together.
    #[serde(flatten)]
    pub counters: Counters,
    /// What happened in the median run, each counter by itself.
    pub medians: BTreeMap<&'static str, u64>,
    /// The longest time from the end of the faults until a new write was on all boards, in virtual ms.
    pub healed_ms_max: u64,
    /// Virtual time of all runs together.
    pub virtual_seconds: u64,
    /// Time on this machine.
    pub wall_seconds: f64,
    /// Faults were `all`.
    #[serde(skip)]
    pub all: bool,
}

/// Commits amid faults that make a run tell something.
pub const COMMITS_MIN: u64 = 20;

impl SweepReport {
    /// Sums up `runs`.
    pub fn of(seeds: std::ops::Range<u64>, options: &Options, runs: &[Report], wall: f64) -> Self {
        let mut counters = Counters::default();
        let mut hash = super::trace::Fnv::default();
        let mut columns: BTreeMap<&'static str, Vec<u64>> = BTreeMap::new();
        for run in runs {
            counters.add(&run.counters);
            hash.add(run.trace_hash.as_bytes());
            for (name, count) in run.counters.each() {
                columns.entry(name).or_default().push(count);
            }
        }
        let median = |mut column: Vec<u64>| {
            column.sort_unstable();
            column.get(column.len() / 2).copied().unwrap_or(0)
        };
        let tells = |run: &&Report| {
            let told = run.counters.commits_amid_faults >= COMMITS_MIN;
            told && run.counters.leader_crashes > 0
        };
        let violated = runs.iter().filter(|run| !run.violated.is_empty());
        Self {
            seeds: format!("{}..{}", seeds.start, seeds.end),
            boards: options.boards,
            faults: options.faults.to_string(),
            trace_hash: format!("{:016x}", hash.0),
            runs: runs.len() as u64,
            violations: violated.clone().count() as u64,
            violated: violated.map(|run| (run.seed, run.violated.clone())).collect(),
            conclusive: runs.iter().filter(tells).count() as u64,
            without_effect: without_effect(options, &counters),
            counters,
            medians: columns.into_iter().map(|(name, column)| (name, median(column))).collect(),
            healed_ms_max: runs.iter().map(|run| run.healed_ms).max().unwrap_or(0),
            virtual_seconds: runs.iter().map(|run| run.virtual_seconds).sum(),
            wall_seconds: wall,
            all: options.faults == super::options::Faults::ALL,
        }
    }

    /// How the sweep ended.
    pub fn ending(&self) -> Ending {
        if self.violations > 0 {
            Ending::Violated
        } else if !self.without_effect.is_empty() || (self.all && self.conclusive * 2 < self.runs) {
            Ending::Inconclusive
        } else {
            Ending::Held
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::options::Faults;
    use crate::sim::rules::Rule;

    fn run(seed: u64, commits_amid_faults: u64, leader_crashes: u64) -> Report {
        let counters = Counters { commits_amid_faults, leader_crashes, ..Counters::default() };
        Report {
            seed,
            boards: 5,
            faults: "all".into(),
            trace_hash: format!("{seed:016x}"),
            violations: 0,
            violated: Vec::new(),
            without_effect: Vec::new(),
            counters,
            healed_ms: seed,
            virtual_seconds: 10,
            wall_seconds: 0.1,
            tail: Vec::new(),
        }
    }

    #[test]
    fn a_sweep_of_all_faults_is_inconclusive_if_most_of_its_seeds_saw_too_little() {
        let options = Options::new(0);
        let runs = [run(0, 20, 1), run(1, 19, 1), run(2, 100, 0)];
        let sweep = |runs: &[Report]| SweepReport::of(0..3, &options, runs, 1.0);
        assert_eq!(sweep(&runs).ending(), Ending::Inconclusive);
        assert_eq!(sweep(&runs[..2]).ending(), Ending::Held);
        assert_eq!(sweep(&runs).medians["commits_amid_faults"], 20);
        assert_eq!(sweep(&runs).counters.commits_amid_faults, 139);
    }

    #[test]
    fn a_violation_outweighs_everything_else() {
        let mut bad = run(1, 0, 0);
        bad.violated.push(Violation { rule: Rule::I1, at_us: 1, board: 1, what: "x".into() });
        bad.without_effect.push("loss");
        assert_eq!(bad.ending(), Ending::Violated);
        let sweep = SweepReport::of(0..1, &Options::new(0), &[bad], 1.0);
        assert_eq!(sweep.ending(), Ending::Violated);
        assert!(sweep.violated.contains_key(&1));
    }

    #[test]
    fn a_fault_that_was_named_and_did_nothing_makes_a_run_inconclusive() {
        let faults = Faults::NONE.with(Fault::Loss).with(Fault::Cuts);
        let options = Options { faults, ..Options::new(0) };
        let counters = Counters { frames_lost: 1, power_cuts_all: 9, ..Counters::default() };
        assert_eq!(without_effect(&options, &counters), ["cuts"]);
        assert_eq!(without_effect(&Options::new(0), &counters), [""; 0]);
    }

    #[test]
    fn the_json_object_has_every_promised_field() {
        let json = serde_json::to_value(run(3, 1, 1)).unwrap();
        for field in [
            "seed",
            "trace_hash",
            "violations",
            "commits",
            "elections",
            "leader_crashes",
            "power_cuts",
            "torn_writes",
            "torn_erases",
            "frames_lost",
            "frames_duplicated",
            "frames_corrupted",
            "partitions",
            "one_way_partitions",
            "membership_changes",
            "joint_changes",
            "transfers",
            "reads_checked",
            "lease_reads_checked",
            "boards_wiped",
            "restarts",
            "snapshots_installed",
            "log_full_refusals",
            "virtual_seconds",
            "wall_seconds",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
        let sweep = SweepReport::of(0..1, &Options::new(0), &[run(0, 1, 1)], 1.0);
        let json = serde_json::to_value(sweep).unwrap();
        assert!(json.get("seeds").is_some() && json["medians"].get("commits").is_some());
    }
}
