//! `cargo ci differential`: the protocol and the crate `raft` 0.7 by the same random schedules.

mod ours;
mod pair;
mod schedule;
mod side;
mod theirs;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::Parser;

use pair::{Pair, Sum};
use schedule::{Dice, Step, draw};
use side::Setup;

/// Runs schedules and compares what the two make of them.
#[derive(Parser)]
struct Args {
    /// How many schedules.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
    /// The seed of the first; the others follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A schedule: how the nodes are made, and what happens to them.
fn schedule(seed: u64) -> (Setup, Vec<Step>) {
    let mut dice = Dice::new(seed);
    let voters = if dice.roll(2) == 0 { 3 } else { 5 };
    let changes = dice.roll(2) == 0;
    let setup = Setup {
        voters,
        nodes: voters + if changes { 1 } else { 0 },
        pre_vote: dice.roll(2) == 0,
        append_bytes: [40, 150, 10_000, 10_000][dice.roll(4) as usize],
        inflight: [4, 256][dice.roll(2) as usize],
        seed,
    };
    (setup, draw(&mut dice, setup.nodes, changes))
}

/// What came of it: also a panic of either is a difference.
fn compare(setup: Setup, steps: &[Step]) -> Result<Sum, String> {
    let lived = catch_unwind(AssertUnwindSafe(|| Pair::new(setup).run(steps)));
    lived.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panics: {}", text.unwrap_or_default()))
    })
}

/// Leaves steps out, many at a time and then few, as long as what is left still fails.
fn shrink(mut steps: Vec<Step>, fails: impl Fn(&[Step]) -> bool) -> Vec<Step> {
    let mut lot = steps.len() / 2;
    while lot > 0 {
        let mut at = 0;
        while at < steps.len() {
            let end = (at + lot).min(steps.len());
            let fewer = [&steps[..at], &steps[end..]].concat();
            if fails(&fewer) {
                steps = fewer;
            } else {
                at = end;
            }
        }
        lot /= 2;
    }
    steps
}

fn main() -> ExitCode {
    let Args { count, seed } = Args::parse();
    // Panics are told with their schedule.
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicU64::new(0);
    let (sum, failed) = (Mutex::new(Sum::default()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let seed = seed.wrapping_add(number);
            let (setup, steps) = schedule(seed);
            match compare(setup, &steps) {
                Ok(ran) => sum.lock().unwrap_or_else(PoisonError::into_inner).add(&ran),
                Err(what) => {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).push((seed, what));
                    next.store(count, Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        (0..jobs).for_each(|_| _ = scope.spawn(work));
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some((seed, what)) = failed.into_iter().min() {
        tell(seed, &what);
        return ExitCode::FAILURE;
    }
    print(count, &sum);
    match too_little(count, &sum) {
        None => ExitCode::SUCCESS,
        Some(what) => {
            println!("too little happened: {what}");
            ExitCode::from(2)
        }
    }
}

fn tell(seed: u64, what: &str) {
    let (setup, steps) = schedule(seed);
    println!("D1 violated: cargo ci differential --count 1 --seed {seed}");
    println!("{what}");
    let steps = shrink(steps, |steps| compare(setup, steps).is_err());
    println!("{setup:?}, and of its steps these are enough:");
    steps.iter().for_each(|step| println!("  {step:?}"));
    if let Err(what) = compare(setup, &steps) {
        println!("{what}");
    }
}

fn print(count: u64, sum: &Sum) {
    println!("{count} schedules, {} steps: no difference", sum.steps);
    let [ours, theirs] = sum.messages;
    println!("messages: {ours}, and {theirs} of the crate raft; {} lost", sum.lost);
    println!(
        "elections: {}; proposals: {}; commits: {}",
        sum.elections, sum.proposals, sum.commits
    );
    println!("changes: {}, of them joint: {}; restarts: {}", sum.changes, sum.joint, sum.restarts);
    let [ours, theirs] = sum.truncations;
    println!("conflict truncations: {ours}, and {theirs} of the crate raft");
    let [ours, theirs] = sum.snapshots;
    println!("snapshots installed: {ours}, and {theirs} of the crate raft");
    println!("settled, and compared in full: {} times", sum.settled);
    let Sum { votes_left_out, steps_left_out, kinds_left_out, parted, .. } = sum;
    println!(
        "left out: {votes_left_out} votes, {steps_left_out} steps, {kinds_left_out} kinds of messages; \
         {parted} schedules ended early"
    );
}

/// A comparison of schedules in which nothing happened proves nothing.
fn too_little(count: u64, sum: &Sum) -> Option<&'static str> {
    let Sum { truncations, snapshots, .. } = sum;
    let wanted = [
        (truncations.iter().all(|n| *n > 0), "no conflict was truncated"),
        (snapshots.iter().all(|n| *n > 0), "no snapshot was installed"),
        (sum.elections > count && sum.commits > count, "elections or commits"),
        (sum.restarts > 0 && sum.lost > 0, "restarts or losses"),
        (sum.changes > sum.joint && sum.joint > 0, "changes of membership"),
        (sum.settled >= count, "few comparisons in full"),
        (sum.parted * 10 <= count, "many schedules ended early"),
        (sum.steps_left_out * 20 <= sum.steps, "many steps left out"),
    ];
    // One schedule may lack any of it.
    wanted.into_iter().find(|(holds, _)| !holds && count >= 100).map(|(_, what)| what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_schedule_is_shrunk_to_the_steps_that_make_it_fail() {
        let (_, mut steps) = schedule(1);
        let (first, second) = (Step::Restart { node: 77 }, Step::Campaign { node: 78 });
        steps.insert(steps.len() / 3, first);
        steps.insert(steps.len() / 3 * 2, second);
        let fails = |steps: &[Step]| {
            let at = |wanted| steps.iter().position(|step| *step == wanted);
            at(first).zip(at(second)).is_some_and(|(first, second)| first < second)
        };
        assert_eq!(shrink(steps, fails), [first, second]);
    }

    #[test]
    fn a_panic_is_a_difference() {
        let (setup, _) = schedule(1);
        let nobody = [Step::Restart { node: 77 }];
        assert!(compare(setup, &nobody).is_err_and(|what| what.contains("panics")));
    }

    #[test]
    fn too_few_events_are_told() {
        let seeds = 1..=120;
        let mut sum = Sum::default();
        seeds.for_each(|seed| {
            let (setup, steps) = schedule(seed);
            sum.add(&compare(setup, &steps).unwrap());
        });
        assert_eq!(too_little(120, &sum), None);
        sum.truncations[1] = 0;
        assert!(too_little(120, &sum).is_some());
    }
}
