//! Is a history of one register linearizable? The search of Wing and Gong, which remembers where it has been (Lowe).

use std::collections::HashSet;

/// What a client did, and what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Wrote that value, of which nobody else ever writes another.
    Write(u64),
    /// Saw that value; 0 for none.
    Read(u64),
}

/// One request: it took effect at one moment between its call and its return.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) op: Op,
    pub(crate) call: u64,
    /// `None`: nobody knows whether, or when, it took effect. Reads of which nothing is known are left out.
    pub(crate) ret: Option<u64>,
}

/// Is there an order of these in which each takes effect within its time, and each read sees the last write?
pub(crate) fn is_linearizable(history: &[Event]) -> bool {
    let mut events: Vec<_> = history.iter().filter_map(|event| decided(*event, history)).collect();
    events.sort_by_key(|event| event.call);
    let words = events.len().div_ceil(64);
    let known = events.iter().filter(|event| event.ret.is_some()).count();
    let mut seen = HashSet::new();
    let mut open = vec![(vec![0u64; words], 0u64, 0usize)];
    while let Some((done, value, known_done)) = open.pop() {
        if known_done == known {
            return true;
        }
        let is_done = |at: usize| done[at / 64] & (1 << (at % 64)) != 0;
        let left = || (0..events.len()).filter(|at| !is_done(*at));
        // Nothing takes effect after something that was called when it had returned.
        let first_return = left().filter_map(|at| events[at].ret).min().unwrap_or(u64::MAX);
        for at in left() {
            let event = events[at];
            if event.call > first_return {
                break;
            }
            let next = match event.op {
                Op::Write(written) => written,
                Op::Read(read) if read == value => value,
                Op::Read(_) => continue,
            };
            let mut done = done.clone();
            done[at / 64] |= 1 << (at % 64);
            if seen.insert((done.clone(), next)) {
                open.push((done, next, known_done + usize::from(event.ret.is_some())));
            }
        }
    }
    false
}

/// A write of which nobody knows took effect before whoever saw it returned; if nobody saw it, it makes no difference.
fn decided(event: Event, history: &[Event]) -> Option<Event> {
    let (Op::Write(value), None) = (event.op, event.ret) else { return Some(event) };
    let saw = history.iter().filter(|other| other.op == Op::Read(value));
    let ret = saw.filter_map(|other| other.ret).min()?;
    Some(Event { ret: Some(ret), ..event })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(op: Op, call: u64, ret: impl Into<Option<u64>>) -> Event {
        Event { op, call, ret: ret.into() }
    }

    #[test]
    fn a_read_sees_the_last_write_that_returned_before_it() {
        use Op::{Read, Write};
        let one = event(Write(1), 0, 1);
        let two = event(Write(2), 2, 3);
        assert!(is_linearizable(&[one, two, event(Read(2), 4, 5)]));
        assert!(!is_linearizable(&[one, two, event(Read(1), 4, 5)]), "stale");
        assert!(!is_linearizable(&[one, two, event(Read(0), 4, 5)]), "lost");
        assert!(!is_linearizable(&[one, two, event(Read(3), 4, 5)]), "out of thin air");
    }

    #[test]
    fn what_overlaps_may_go_either_way_but_not_back_again() {
        use Op::{Read, Write};
        let one = event(Write(1), 0, 1);
        let two = event(Write(2), 2, 10);
        let reads = |first, second| {
            is_linearizable(&[one, two, event(Read(first), 3, 4), event(Read(second), 5, 6)])
        };
        assert!(reads(1, 1) && reads(1, 2) && reads(2, 2));
        assert!(!reads(2, 1));
    }

    #[test]
    fn an_unknown_write_may_take_effect_late_or_never_but_not_twice() {
        use Op::{Read, Write};
        let one = event(Write(1), 0, None);
        let two = event(Write(2), 5, 6);
        assert!(is_linearizable(&[one, two, event(Read(2), 7, 8)]));
        assert!(is_linearizable(&[one, two, event(Read(1), 7, 8)]));
        let back = [one, event(Read(1), 1, 2), two, event(Read(2), 7, 8), event(Read(1), 9, 10)];
        assert!(!is_linearizable(&back));
        assert!(!is_linearizable(&[event(Read(1), 0, 1), event(Write(1), 2, None)]), "too early");
    }

    #[test]
    fn a_long_history_of_many_clients_is_decided() {
        // Eight clients at a time; each value is read by the next round.
        let mut history = Vec::new();
        for round in 0..60u64 {
            for client in 0..7 {
                let value = round * 7 + client + 1;
                history.push(event(Op::Write(value), round * 10, round * 10 + 5));
            }
            history.push(event(Op::Read(round * 7 + 3), round * 10 + 6, round * 10 + 7));
        }
        assert!(is_linearizable(&history));
        let last = history.len() - 1;
        history[last].op = Op::Read(1);
        assert!(!is_linearizable(&history));
    }
}
