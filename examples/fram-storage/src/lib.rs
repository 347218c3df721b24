//! A node's storage in memory that can be written byte by byte and keeps what it holds: FRAM, MRAM, RAM with a
//! battery. Nothing is ever erased, and what is no longer needed is written over in place.
//!
//! # Layout, version 1
//!
//! Numbers are little-endian, offsets are from the start of the medium, checksums are CRC-32C.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | the mark: `quorate`, and the version of the layout |
//! | 8 | 96 | the state: checksum of the rest · fields as postcard writes them ([`state`]) · zeros |
//! | 104 | 96 | the state once more |
//! | 200 | 56 | nothing |
//! | 256 | half of the rest | bank 0 |
//! | behind it | the other half | bank 1 |
//!
//! A bank holds a snapshot, piece by piece, and behind it the entries that it does not cover, encoded as in the log
//! in RAM and with nothing in between. A piece is: length (2) · checksum of all bytes of the snapshot up to its end (4)
//! · its bytes. The state says which bank counts, how long snapshot and entries are, and their checksums. What it
//! does not count is not there: that is how a write cut short at any byte does no harm.
//!
//! # How it is kept
//!
//! - **Entries** are written behind the last one, then the state, both copies, the first one first. Then they are
//!   durable.
//! - **Entries that gave way** in the log are no longer counted by a state of its own, before others are written over
//!   them. (A power cut in between forgets them. That is allowed: they were never committed, and never will be.)
//! - **A snapshot** is written to the bank that does not count, with copies of the entries behind it. Then the state
//!   says that this bank counts.
//! - **A mount** takes the first copy of the state that is whole and writes the other one anew if it differs, before
//!   it shows anything. A bit that flipped in one copy is mended in this way; in what is counted, it is reported.

#![cfg_attr(not(test), no_std)]

mod commit;
mod mount;
mod snapshot;
pub mod state;

use mount::Step;
use quorate::config::Flash;
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::log::Log;
use quorate::storage::Storage;
use quorate::wal::{
    BUFFER_BYTES_MAX, BUFFER_BYTES_MIN, GeometryError, HardState, Progress, SNAP_DATA_AT,
    SnapshotInfo, Status, WalFault, Want,
};
use quorate::{EntryId, Identity, Index};
use snapshot::{Begun, Cursor, PIECE_HEAD_BYTES};
use state::{BANKS_AT, SLOT_BYTES, Slot, State};

/// A part of so many bytes, for `Config`. `byte_us` is how long one byte takes to be written: 9 µs on I2C at 1 MHz.
pub const fn part(bytes: u32, byte_us: u32) -> Flash {
    let geometry = Geometry {
        word_bytes: 1,
        erased: 0,
        page_bytes: 1,
        block_bytes: bytes,
        blocks_per_segment: 1,
        segments: 1,
    };
    Flash { geometry, word_us: byte_us, erase_ms_max: 0, stalls: false }
}

/// The operation that was yielded last.
// With a number of its own, as what follows, so that `None` is all zeros.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    None,
    Out,
    Ended(bool),
}

/// What that operation is part of.
#[repr(u8)]
#[derive(Clone, Copy)]
enum Work {
    None,
    Mount(Step),
    /// Entries; then both copies of the state that counts them.
    Entries,
    FirstCopy,
    SecondCopy,
    /// A piece of a snapshot: its length, and the checksum up to its end.
    Piece(usize, u32),
    /// Entries behind a snapshot: up to which, how many bytes, and the checksum up to their end.
    Behind(Index, u32, u32),
    Read,
}

/// A storage in byte-writable memory: put it under a node as `Node<[u8; N], Fram>`.
pub struct Fram {
    bytes: u32,
    buffer_bytes: usize,
    running: bool,
    fault: Option<WalFault>,
    op: Op,
    work: Work,
    /// Whom it is being formatted for.
    founder: Option<Identity>,
    /// What the medium says, and what both copies are going to say.
    state: State,
    next: State,
    /// The last entry that they count.
    last: Index,
    next_last: Index,
    note: u32,
    /// The copy of the state that a mount writes anew.
    mend: Option<Slot>,
    /// Entries wait for room, which only a snapshot makes.
    short: bool,
    begun: Begun,
    cursor: Cursor,
    /// The part of the snapshot that is asked for: from where, and how many bytes.
    read: Option<(u32, usize)>,
    bytes_written: u32,
    commits: u32,
}

impl Fram {
    const fn bank_bytes(&self) -> u32 {
        self.bytes.saturating_sub(BANKS_AT).wrapping_shr(1)
    }

    const fn bank_at(&self, bank: u8) -> u32 {
        BANKS_AT.saturating_add(if bank == 0 { 0 } else { self.bank_bytes() })
    }

    fn begin(&mut self, geometry: &Geometry, buffer_bytes: usize) -> Result<(), GeometryError> {
        Self::check(geometry, buffer_bytes, 0)?;
        *self = Self::OFF;
        self.bytes = geometry.bytes();
        self.buffer_bytes = buffer_bytes.min(BUFFER_BYTES_MAX);
        Ok(())
    }

    fn write(&mut self, offset: u32, len: usize, work: Work) -> Progress {
        self.work = work;
        self.bytes_written = self.bytes_written.saturating_add(len as u32);
        Progress::Op(FlashOp::Write { offset, len: len as u32 })
    }

    /// Reads from `offset` as much as the buffer holds, not beyond `end`.
    fn read(&mut self, offset: u32, end: u32, work: Work) -> Progress {
        self.work = work;
        let len = end.saturating_sub(offset).min(self.buffer_bytes as u32);
        Progress::Op(FlashOp::Read { offset, len })
    }

    /// Writes one copy of the next state.
    fn write_copy(&mut self, slot: Slot, work: Work, buf: &mut [u8]) -> Progress {
        self.next.encode(buf.get_mut(..SLOT_BYTES).unwrap_or_default());
        self.write(slot.at(), SLOT_BYTES, work)
    }

    fn stop(&mut self, fault: WalFault) -> Progress {
        self.fault = Some(fault);
        Progress::Fault(fault)
    }

    /// What to do next, when nothing is under way.
    fn next(&mut self, want: &Want, log: &mut Log, buf: &mut [u8]) -> Progress {
        if !self.running {
            return Progress::Idle;
        }
        // It lies in the buffer.
        if let Some(len) = self.begun.piece.take() {
            return self.write_piece(len, buf);
        }
        if self.state.owner.is_some()
            && let Some(progress) = self.commit(want, log, buf)
        {
            return progress;
        }
        if self.begun.ending {
            return self.end_step(want, log, buf);
        }
        let Some((offset, _)) = self.read else {
            return Progress::Idle;
        };
        if offset >= self.state.snapshot.bytes {
            self.read = None;
            return Progress::ChunkRead { at: 0, len: 0, offset };
        }
        if offset < self.cursor.offset {
            self.cursor = Cursor::START;
        }
        self.read_piece(Work::Read)
    }
}

impl Storage for Fram {
    const OFF: Self = Self {
        bytes: 0,
        buffer_bytes: 0,
        running: false,
        fault: None,
        op: Op::None,
        work: Work::None,
        founder: None,
        state: State::NONE,
        next: State::NONE,
        last: Index::ZERO,
        next_last: Index::ZERO,
        note: 0,
        mend: None,
        short: false,
        begun: Begun::NONE,
        cursor: Cursor::START,
        read: None,
        bytes_written: 0,
        commits: 0,
    };

    fn check(
        geometry: &Geometry,
        buffer_bytes: usize,
        live_bytes: u32,
    ) -> Result<(), GeometryError> {
        if geometry.word_bytes != 1 {
            return Err(GeometryError::Word);
        }
        if buffer_bytes < BUFFER_BYTES_MIN {
            return Err(GeometryError::BufferBytes { min: BUFFER_BYTES_MIN });
        }
        // Each bank has to hold a log and a snapshot.
        let min = BANKS_AT.saturating_add(live_bytes.saturating_mul(2));
        if geometry.bytes() < min {
            return Err(GeometryError::SegmentBytes { min, max: u32::MAX });
        }
        Ok(())
    }

    fn mount(&mut self, geometry: Geometry, buffer_bytes: usize) -> Result<(), GeometryError> {
        self.begin(&geometry, buffer_bytes)?;
        self.work = Work::Mount(Step::Begin);
        Ok(())
    }

    fn format(
        &mut self,
        geometry: Geometry,
        buffer_bytes: usize,
        identity: Identity,
        erase_anyway: bool,
    ) -> Result<(), GeometryError> {
        self.begin(&geometry, buffer_bytes)?;
        self.founder = Some(identity);
        self.work = Work::Mount(if erase_anyway { Step::Overwrite } else { Step::Begin });
        Ok(())
    }

    fn poll(&mut self, want: &Want, log: &mut Log, buffer: &mut [u8]) -> Progress {
        let ok = match self.op {
            Op::Out => return Progress::Idle,
            Op::None => true,
            Op::Ended(ok) => ok,
        };
        self.op = Op::None;
        let Some(buf) = buffer.get_mut(..self.buffer_bytes) else {
            return self.stop(WalFault::Misused);
        };
        if let Some(fault) = self.fault {
            return Progress::Fault(fault);
        }
        let progress = match core::mem::replace(&mut self.work, Work::None) {
            Work::None => self.next(want, log, buf),
            Work::Mount(step) => self.mount_step(step, ok, log, buf),
            Work::Read => self.piece_read(ok, want, log, buf),
            _ if !ok => self.stop(WalFault::WornOut),
            Work::Entries => self.write_copy(Slot::First, Work::FirstCopy, buf),
            Work::FirstCopy => self.write_copy(Slot::Second, Work::SecondCopy, buf),
            Work::SecondCopy => self.state_ends(log),
            Work::Piece(len, crc) => {
                let state = &mut self.begun.state;
                let total = len.saturating_add(PIECE_HEAD_BYTES) as u32;
                state.pieces_bytes = state.pieces_bytes.saturating_add(total);
                state.snapshot.bytes = state.snapshot.bytes.saturating_add(len as u32);
                state.snapshot.crc = crc;
                Progress::ChunkWritten
            }
            Work::Behind(last, bytes, crc) => {
                self.begun.copied = last;
                let state = &mut self.begun.state;
                state.entries_bytes = state.entries_bytes.saturating_add(bytes);
                state.entries_crc = crc;
                self.next(want, log, buf)
            }
        };
        if matches!(progress, Progress::Op(_)) {
            self.op = Op::Out;
        }
        progress
    }

    fn handle(&mut self, done: FlashDone) {
        if self.op == Op::Out {
            self.op = Op::Ended(done == FlashDone::Ok);
        }
    }

    fn is_busy(&self) -> bool {
        self.op != Op::None
    }

    fn durable(&self) -> HardState {
        self.state.hard_state
    }

    fn snapshot(&self) -> Option<SnapshotInfo> {
        self.state.owner.map(|_| self.state.snapshot)
    }

    fn begin_snapshot(&mut self, id: EntryId) {
        self.abort_snapshot();
        self.begun.active = true;
        self.begun.copied = id.index;
        self.begun.state = State {
            medium_bytes: self.bytes,
            owner: self.state.owner.or(self.founder),
            bank: self.state.bank ^ 1,
            snapshot: SnapshotInfo { id, bytes: 0, crc: 0 },
            ..State::NONE
        };
    }

    fn put_chunk(&mut self, offset: u32, len: usize) -> bool {
        let Begun { active, ending, piece, ref state, .. } = self.begun;
        let timely = active && !ending && piece.is_none() && !self.is_busy();
        let fits = len <= self.buffer_bytes.saturating_sub(SNAP_DATA_AT);
        let put = timely && fits && offset == state.snapshot.bytes;
        if put {
            self.begun.piece = Some(len);
        }
        put
    }

    fn begun_crc(&self) -> u32 {
        self.begun.state.snapshot.crc
    }

    fn end_snapshot(&mut self, installed: bool) {
        self.begun.ending = self.begun.active;
        self.begun.installed = installed;
    }

    fn abort_snapshot(&mut self) {
        self.begun = Begun::NONE;
        // What is on its way belongs to nothing any more.
        if let Work::Piece(..) | Work::Behind(..) = self.work {
            self.work = Work::None;
        }
    }

    fn read_snapshot(&mut self, offset: u32, len_max: usize) {
        self.read = Some((offset, len_max));
    }

    fn wants_snapshot(&self) -> bool {
        self.short
    }

    fn note(&self) -> u32 {
        self.note
    }

    fn set_note(&mut self, note: u32) {
        self.note = note;
    }

    fn is_noted(&self) -> bool {
        self.note == self.state.note
    }

    fn status(&self) -> Status {
        Status { bytes_written: self.bytes_written, records: self.commits, ..Status::default() }
    }
}
