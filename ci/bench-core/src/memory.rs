//! A storage in memory: whatever it is asked to keep is durable at once.

use quorate::flash::{FlashDone, Geometry};
use quorate::log::Log;
use quorate::storage::Storage;
use quorate::wal::{GeometryError, HardState, Progress, SNAP_DATA_AT, SnapshotInfo, Status, Want};
use quorate::{EntryId, Identity, Index, Term};

/// A snapshot in the pieces that it was put in: reads stop where one ends.
struct Snapshot {
    id: EntryId,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Snapshot {
    const NONE: Self = Self { id: EntryId::ZERO, bytes: Vec::new(), ends: Vec::new() };
}

/// The state of one node.
pub(crate) struct Memory {
    durable: HardState,
    snapshot: Snapshot,
    begun: Snapshot,
    put: Option<usize>,
    read: Option<(usize, usize)>,
    next: Option<Progress>,
}

impl Storage for Memory {
    const OFF: Self = Self {
        durable: HardState { term: Term::ZERO, vote: None, commit: Index::ZERO },
        snapshot: Snapshot::NONE,
        begun: Snapshot::NONE,
        put: None,
        read: None,
        next: None,
    };

    fn mount(&mut self, _: Geometry, _: usize) -> Result<(), GeometryError> {
        panic!("nothing is mounted here");
    }

    fn format(&mut self, _: Geometry, _: usize, _: Identity, _: bool) -> Result<(), GeometryError> {
        self.next = Some(Progress::Formatted);
        Ok(())
    }

    fn poll(&mut self, want: &Want, log: &mut Log, buffer: &mut [u8]) -> Progress {
        if let Some(len) = self.put.take() {
            self.begun.bytes.extend_from_slice(&buffer[SNAP_DATA_AT..SNAP_DATA_AT + len]);
            self.begun.ends.push(self.begun.bytes.len());
            return Progress::ChunkWritten;
        }
        if let Some(next) = self.next.take() {
            return next;
        }
        if let Some((start, len_max)) = self.read.take() {
            let Snapshot { bytes, ends, .. } = &self.snapshot;
            let end = ends.iter().copied().find(|end| *end > start).unwrap_or(start);
            let len = (end - start).min(len_max);
            buffer[..len].copy_from_slice(&bytes[start..start + len]);
            return Progress::ChunkRead { at: 0, len, offset: start as u32 };
        }
        let HardState { term, vote, .. } = want.hard_state;
        let news = (term, vote) != (self.durable.term, self.durable.vote);
        // The commit index is durable as well: nobody waits to be told that.
        self.durable = want.hard_state;
        if (news || log.durable() < log.due()) && !self.snapshot.bytes.is_empty() {
            log.write_begins(log.due());
            log.write_ends();
            return Progress::Durable;
        }
        Progress::Idle
    }

    fn handle(&mut self, _: FlashDone) {}

    fn is_busy(&self) -> bool {
        false
    }

    fn durable(&self) -> HardState {
        self.durable
    }

    fn snapshot(&self) -> Option<SnapshotInfo> {
        let Snapshot { id, ref bytes, .. } = self.snapshot;
        // A whole frame has its own check, and no other storage reads this one.
        let info = SnapshotInfo { id, bytes: bytes.len() as u32, crc: 0 };
        (!bytes.is_empty()).then_some(info)
    }

    fn begin_snapshot(&mut self, id: EntryId) {
        self.abort_snapshot();
        self.begun.id = id;
    }

    fn put_chunk(&mut self, offset: u32, len: usize) -> bool {
        let fits = self.begun.bytes.len() == offset as usize;
        if fits {
            self.put = Some(len);
        }
        fits
    }

    fn begun_crc(&self) -> u32 {
        0
    }

    fn end_snapshot(&mut self, _installed: bool) {
        std::mem::swap(&mut self.snapshot, &mut self.begun);
        self.next = Some(Progress::SnapshotDurable(self.snapshot.id));
    }

    fn abort_snapshot(&mut self) {
        self.begun.bytes.clear();
        self.begun.ends.clear();
        self.put = None;
    }

    fn read_snapshot(&mut self, offset: u32, len_max: usize) {
        self.read = Some((offset as usize, len_max));
    }

    fn wants_snapshot(&self) -> bool {
        false
    }

    fn status(&self) -> Status {
        Status::default()
    }
}
