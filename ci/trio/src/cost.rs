//! What a committed entry costs: a run without faults, in which time stands still.

use core::fmt;

use crate::meter::Call;
use crate::trio::Trio;
use crate::{Board, ENTRY_BYTES, NODES};

/// Entries before counting begins: the log and the flash ring are in use then.
const WARM: u32 = 128;
/// Entries that count.
const ENTRIES: u32 = 256;

/// Instructions of a committed entry.
pub struct Cost {
    /// Inside the calls of the leader.
    pub leader: u32,
    /// Of all three nodes.
    pub all: u32,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.leader, self.all)
    }
}

/// Counts it for entries of so many bytes, so many of them at once: by the difference of two lengths of the run.
pub fn cost(trio: &mut Trio, board: &mut impl Board, bytes: usize, batch: u32) -> Cost {
    trio.found(board, 1);
    let leader = loop {
        if let Some(leader) = trio.leader().filter(|_| trio.agree()) {
            break leader;
        }
        trio.run(board, trio.now.after(1));
    };
    commit(trio, board, leader, bytes, batch, WARM);
    let before = trio.costs.sums;
    commit(trio, board, leader, bytes, batch, ENTRIES);
    let taken = |at: usize| trio.costs.sums[at].wrapping_sub(before[at]);
    let all: u32 = (0..NODES).map(taken).sum();
    Cost { leader: taken(leader) / ENTRIES, all: all / ENTRIES }
}

fn commit(
    trio: &mut Trio,
    board: &mut impl Board,
    leader: usize,
    bytes: usize,
    batch: u32,
    entries: u32,
) {
    let command = [0x5a; ENTRY_BYTES];
    let mut proposed = 0;
    while proposed < entries {
        let (before, end) = (proposed, entries.min(proposed + batch));
        while proposed < end {
            let taken = trio
                .call(board, leader, Call::Propose, |node, _, _| node.propose(&command[..bytes]));
            // A full log takes what does not fit when it has made room.
            if taken.is_err() {
                break;
            }
            proposed += 1;
        }
        trio.drive(board, leader);
        while trio.ether.next().is_some() {
            trio.step(board);
        }
        // What waits for time to pass gets it.
        if proposed == before {
            trio.run(board, trio.now.after(1));
        }
        while !trio.agree() {
            trio.run(board, trio.now.after(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::Host;
    use crate::{Trio, cost};

    #[test]
    fn all_entries_are_applied_by_all() {
        let mut trio = Trio::new();
        cost(&mut trio, &mut Host::new(), 64, 8);
        assert_eq!(trio.apps[0].count(), super::WARM + super::ENTRIES);
        assert!(trio.agree());
    }
}
