//! Work on all cores, and panics that are findings.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{panic, thread};

/// A rule that did not hold.
pub(crate) struct Broken {
    /// Its number in `core/docs/invariants.md`.
    pub(crate) rule: String,
    /// What was seen.
    pub(crate) text: String,
}

/// Does this, and turns a panic into what it says.
pub(crate) fn watched<T>(work: impl FnOnce() -> T) -> Result<T, Broken> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => panic.downcast_ref::<&str>().copied().unwrap_or_default().to_owned(),
        };
        match text.split_once(": ") {
            Some((rule @ ("F1" | "F2" | "I7"), text)) => {
                Broken { rule: rule.to_owned(), text: text.to_owned() }
            }
            // The core never panics.
            _ => Broken { rule: "P1".to_owned(), text },
        }
    })
}

/// What `work` makes of each of the `items`, in their order. Meanwhile panics are not printed.
pub(crate) fn on_all_cores<I: Sync, T: Send>(items: &[I], work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let printing = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((i, item)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    items.get(i).map(|item| (i, item))
                } {
                    let result = work(item);
                    if let Ok(mut done) = done.lock() {
                        done.push((i, result));
                    }
                }
            });
        }
    });
    panic::set_hook(printing);
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_tells_the_rule_that_did_not_hold() {
        let rule = |text: &'static str| {
            let found = watched(|| panic!("{text}"));
            found.map_err(|broken| (broken.rule, broken.text))
        };
        let found: Vec<Result<(), _>> = on_all_cores(&["I7: gone", "out of range: 3"], |t| rule(t));
        let told = |rule: &str, text: &str| Err((rule.to_owned(), text.to_owned()));
        assert_eq!(found, [told("I7", "gone"), told("P1", "out of range: 3")]);
    }

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..100).collect();
        let squares = on_all_cores(&items, |item| item * item);
        assert_eq!(squares, items.iter().map(|item| item * item).collect::<Vec<_>>());
    }
}
