//! Snapshots: written piece by piece to the bank that does not count, and read from the one that does.

use crate::state::{Slot, State, checksum, copy};
use crate::{Fram, Work};
use quorate::Index;
use quorate::log::Log;
use quorate::wal::{HardState, Progress, SNAP_DATA_AT, Want};

/// Length and checksum in front of each piece.
pub(crate) const PIECE_HEAD_BYTES: usize = 6;

/// The snapshot that is being written, to the bank that does not count.
#[derive(Clone, Copy)]
pub(crate) struct Begun {
    pub(crate) active: bool,
    pub(crate) ending: bool,
    pub(crate) installed: bool,
    /// A piece that waits in the buffer.
    pub(crate) piece: Option<usize>,
    /// Entries up to here stand behind it.
    pub(crate) copied: Index,
    /// What the state is going to say of it.
    pub(crate) state: State,
}

/// A place in the snapshot that counts: where a piece begins in it and in the bank, and the checksum up to there.
#[derive(Clone, Copy)]
pub(crate) struct Cursor {
    pub(crate) offset: u32,
    pub(crate) at: u32,
    pub(crate) crc: u32,
}

impl Cursor {
    pub(crate) const START: Self = Self { offset: 0, at: 0, crc: 0 };
}

impl Begun {
    pub(crate) const NONE: Self = Self {
        active: false,
        ending: false,
        installed: false,
        piece: None,
        copied: Index::ZERO,
        state: State::NONE,
    };

    /// The entries behind the snapshot have to be copied from the first one on.
    pub(crate) fn forget_entries(&mut self) {
        self.copied = self.state.snapshot.id.index;
        (self.state.entries_bytes, self.state.entries_crc) = (0, 0);
    }
}

impl Fram {
    pub(crate) fn write_piece(&mut self, len: usize, buf: &mut [u8]) -> Progress {
        let total = len.saturating_add(PIECE_HEAD_BYTES);
        let at = self.begun.state.pieces_bytes;
        if self.bank_bytes() < at.saturating_add(total as u32) {
            self.begun = Begun::NONE;
            return Progress::SnapshotLost;
        }
        // Byte by byte: the two places overlap.
        for i in 0..len {
            let byte = buf.get(SNAP_DATA_AT.saturating_add(i)).copied().unwrap_or_default();
            if let Some(place) = buf.get_mut(PIECE_HEAD_BYTES.saturating_add(i)) {
                *place = byte;
            }
        }
        let bytes = buf.get(PIECE_HEAD_BYTES..total).unwrap_or_default();
        let crc = checksum(self.begun.state.snapshot.crc, bytes);
        let [low, high] = (len as u16).to_le_bytes();
        let [a, b, c, d] = crc.to_le_bytes();
        copy(buf, &[low, high, a, b, c, d]);
        let offset = self.bank_at(self.begun.state.bank).saturating_add(at);
        self.write(offset, total, Work::Piece(len, crc))
    }

    /// All pieces are written: the entries behind the snapshot follow, then the state.
    pub(crate) fn end_step(&mut self, want: &Want, log: &mut Log, buf: &mut [u8]) -> Progress {
        let Begun { copied, state, installed, .. } = self.begun;
        if !installed && copied < log.durable() {
            let counted = state.pieces_bytes.saturating_add(state.entries_bytes);
            let room = self.bank_bytes().saturating_sub(counted) as usize;
            let (last, bytes) = log.fit(copied, log.durable(), room.min(buf.len()));
            if bytes == 0 {
                self.begun = Begun::NONE;
                return Progress::SnapshotLost;
            }
            let place = buf.get_mut(..bytes).unwrap_or_default();
            log.copy(copied, last, place);
            let crc = checksum(state.entries_crc, place);
            let offset = self.bank_at(state.bank).saturating_add(counted);
            return self.write(offset, bytes, Work::Behind(last, bytes as u32, crc));
        }
        let commit = want.hard_state.commit.max(self.state.hard_state.commit);
        let hard_state = HardState { commit, ..self.state.hard_state };
        self.next = State { hard_state, note: self.note, ..state };
        self.next_last = if installed { state.snapshot.id.index } else { log.durable() };
        self.write_copy(Slot::First, Work::FirstCopy, buf)
    }

    /// Reads the piece at the cursor.
    pub(crate) fn read_piece(&mut self, work: Work) -> Progress {
        let bank = self.bank_at(self.state.bank);
        let end = bank.saturating_add(self.state.pieces_bytes);
        self.read(bank.saturating_add(self.cursor.at), end, work)
    }

    /// The piece at the cursor lies in the buffer: its length, and the checksum up to its end; nothing if it is
    /// damaged.
    pub(crate) fn look(&self, buf: &[u8]) -> Option<(usize, u32)> {
        let (head, rest) = buf.split_at_checked(PIECE_HEAD_BYTES)?;
        let &[low, high, a, b, c, d] = head else {
            return None;
        };
        let len = usize::from(u16::from_le_bytes([low, high]));
        let crc = checksum(self.cursor.crc, rest.get(..len)?);
        (crc == u32::from_le_bytes([a, b, c, d])).then_some((len, crc))
    }

    pub(crate) fn step_over(&mut self, len: usize, crc: u32) {
        let Cursor { offset, at, .. } = self.cursor;
        let total = len.saturating_add(PIECE_HEAD_BYTES) as u32;
        let offset = offset.saturating_add(len as u32);
        self.cursor = Cursor { offset, at: at.saturating_add(total), crc };
    }

    /// A piece was read: it is the one that is asked for, or the next one may be.
    pub(crate) fn piece_read(
        &mut self,
        ok: bool,
        want: &Want,
        log: &mut Log,
        buf: &mut [u8],
    ) -> Progress {
        // Meanwhile, something that stands before it may have been asked for.
        let asked = self.read.filter(|(offset, _)| *offset >= self.cursor.offset);
        let Some((offset, len_max)) = asked else {
            return self.next(want, log, buf);
        };
        let piece = self.look(buf).filter(|_| ok && self.cursor.at < self.state.pieces_bytes);
        let Some((len, crc)) = piece else {
            (self.read, self.cursor) = (None, Cursor::START);
            return Progress::ChunkUnreadable;
        };
        let skipped = offset.saturating_sub(self.cursor.offset) as usize;
        if skipped >= len {
            self.step_over(len, crc);
            return self.next(want, log, buf);
        }
        self.read = None;
        let at = PIECE_HEAD_BYTES.saturating_add(skipped);
        Progress::ChunkRead { at, len: len.saturating_sub(skipped).min(len_max), offset }
    }
}
