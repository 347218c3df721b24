//! Many runs on several threads.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::options::Options;
use super::report::{Report, SweepReport};
use super::run::run;
use super::trace::Trace;

/// Runs `options` with each of `seeds`, `jobs` at a time. `done` sees each report as it comes, in no
/// particular order; the sum is the same whatever that is.
pub fn sweep(
    seeds: Range<u64>,
    options: &Options,
    jobs: usize,
    done: impl Fn(&Report) + Sync,
) -> SweepReport {
    let began = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let take = |seed| (seed < seeds.end).then(|| seed + 1);
                    let Ok(seed) = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    else {
                        break;
                    };
                    let (report, _) = run(&Options { seed, ..*options }, Trace::default());
                    done(&report);
                    // A poisoned lock: another thread has panicked, and the scope will tell.
                    if let Ok(mut reports) = reports.lock() {
                        reports.push(report);
                    }
                }
            });
        }
    });
    let mut reports = reports.into_inner().unwrap_or_default();
    reports.sort_unstable_by_key(|report| report.seed);
    SweepReport::of(seeds, options, &reports, began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_is_the_same_on_one_thread_and_on_two() {
        let options = Options { virtual_seconds: 20, boards: 3, ..Options::new(0) };
        let one = sweep(0..6, &options, 1, |_| {});
        let two = sweep(0..6, &options, 2, |_| {});
        assert_eq!(one.trace_hash, two.trace_hash);
        assert_eq!((one.runs, one.counters), (6, two.counters));
    }
}
