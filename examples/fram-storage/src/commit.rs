//! Entries, term and vote: what a node wants to be durable, and when it is.

use crate::snapshot::{Begun, Cursor};
use crate::state::{Slot, State, checksum};
use crate::{Fram, Work};
use quorate::Index;
use quorate::log::Log;
use quorate::wal::{HardState, Progress, WalFault, Want};

impl Fram {
    /// What the caller wants to be durable and is not yet.
    pub(crate) fn commit(
        &mut self,
        want: &Want,
        log: &mut Log,
        buf: &mut [u8],
    ) -> Option<Progress> {
        let mut next = State { note: self.note, ..self.state };
        next.hard_state = want.hard_state;
        next.hard_state.commit = want.hard_state.commit.max(self.state.hard_state.commit);
        (self.next_last, self.short) = (self.last, false);
        // Entries gave way: they must not count any more when others are written over them.
        if self.last > log.durable() {
            (next.entries_bytes, next.entries_crc) =
                measure(log, self.state.snapshot.id.index, log.durable(), buf);
            self.begun.forget_entries();
            self.next_last = log.durable();
            self.next = next;
            return Some(self.write_copy(Slot::First, Work::FirstCopy, buf));
        }
        if log.due() > log.durable() {
            let counted = self.state.pieces_bytes.saturating_add(self.state.entries_bytes);
            let room = self.bank_bytes().saturating_sub(counted) as usize;
            let (last, bytes) = log.fit(log.durable(), log.due(), room.min(buf.len()));
            if bytes > 0 {
                let place = buf.get_mut(..bytes).unwrap_or_default();
                log.copy(log.durable(), last, place);
                next.entries_bytes = next.entries_bytes.saturating_add(bytes as u32);
                next.entries_crc = checksum(next.entries_crc, place);
                log.write_begins(last);
                (self.next, self.next_last) = (next, last);
                let offset = self.bank_at(self.state.bank).saturating_add(counted);
                return Some(self.write(offset, bytes, Work::Entries));
            }
            if room >= buf.len() {
                // An entry that the buffer does not hold.
                return Some(self.stop(WalFault::Misused));
            }
            self.short = true;
        }
        let HardState { term, vote, commit } = self.state.hard_state;
        let news = (next.hard_state.term, next.hard_state.vote) != (term, vote);
        let news = news || next.note != self.state.note;
        if !news && want.commit_needed <= commit {
            return None;
        }
        next.hard_state.commit = next.hard_state.commit.max(want.commit_needed);
        self.next = next;
        Some(self.write_copy(Slot::First, Work::FirstCopy, buf))
    }

    /// Both copies of the state are written.
    pub(crate) fn state_ends(&mut self, log: &mut Log) -> Progress {
        let turned = self.next.bank != self.state.bank;
        (self.state, self.last) = (self.next, self.next_last);
        self.commits = self.commits.saturating_add(1);
        if !turned {
            log.write_ends();
            return Progress::Durable;
        }
        self.begun = Begun::NONE;
        self.cursor = Cursor::START;
        Progress::SnapshotDurable(self.state.snapshot.id)
    }
}

/// How many bytes the entries behind `after` up to `last` take, and their checksum.
fn measure(log: &mut Log, after: Index, last: Index, buf: &mut [u8]) -> (u32, u32) {
    let (mut at, mut sum, mut crc) = (after, 0u32, 0);
    loop {
        let (upto, bytes) = log.fit(at, last, buf.len());
        if bytes == 0 {
            return (sum, crc);
        }
        let place = buf.get_mut(..bytes).unwrap_or_default();
        log.copy(at, upto, place);
        (at, sum, crc) = (upto, sum.saturating_add(bytes as u32), checksum(crc, place));
    }
}
