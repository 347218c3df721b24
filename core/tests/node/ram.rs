//! A storage in memory: what the flash log promises, without flash.

use quorate::flash::{FlashDone, Geometry};
use quorate::log::Log;
use quorate::storage::Storage;
use quorate::wal::{
    GeometryError, HardState, Mounted, Progress, SNAP_DATA_AT, SnapshotInfo, Status, Tail, Want,
};
use quorate::{EntryId, Identity, Index, Term};
use std::collections::VecDeque;

/// State in memory; every step is durable at once.
pub(crate) struct Ram {
    identity: Option<Identity>,
    durable: HardState,
    snapshot: Option<(EntryId, Vec<u8>)>,
    begun: Option<(EntryId, Vec<u8>)>,
    put: Option<usize>,
    read: Option<(u32, usize)>,
    /// Where each piece of the snapshot ends: reads stop there, as they do in flash.
    bounds: Vec<usize>,
    begun_bounds: Vec<usize>,
    next: VecDeque<Progress>,
}

impl Storage for Ram {
    const OFF: Self = Self {
        identity: None,
        durable: HardState { term: Term::ZERO, vote: None, commit: Index::ZERO },
        snapshot: None,
        begun: None,
        put: None,
        read: None,
        bounds: Vec::new(),
        begun_bounds: Vec::new(),
        next: VecDeque::new(),
    };

    fn mount(&mut self, _: Geometry, _: usize) -> Result<(), GeometryError> {
        let (Some(identity), Some(snapshot)) = (self.identity, self.snapshot()) else {
            panic!("nothing to mount");
        };
        let (hard_state, tail) = (self.durable, Tail::Clean);
        self.next.push_back(Progress::Mounted(Mounted { identity, hard_state, snapshot, tail }));
        Ok(())
    }

    fn format(
        &mut self,
        _: Geometry,
        _: usize,
        identity: Identity,
        _: bool,
    ) -> Result<(), GeometryError> {
        self.identity = Some(identity);
        self.next.push_back(Progress::Formatted);
        Ok(())
    }

    fn poll(&mut self, want: &Want, log: &mut Log, buffer: &mut [u8]) -> Progress {
        if let Some(len) = self.put.take() {
            let (_, bytes) = self.begun.as_mut().expect("a snapshot was begun");
            bytes.extend_from_slice(&buffer[SNAP_DATA_AT..SNAP_DATA_AT + len]);
            self.begun_bounds.push(bytes.len());
            return Progress::ChunkWritten;
        }
        if let Some(next) = self.next.pop_front() {
            return next;
        }
        if let Some((offset, len_max)) = self.read.take() {
            let (_, bytes) = self.snapshot.as_ref().expect("there is a snapshot");
            let start = offset as usize;
            let end = self.bounds.iter().copied().find(|end| *end > start).unwrap_or(start);
            let len = (end - start).min(len_max);
            buffer[..len].copy_from_slice(&bytes[start..start + len]);
            return Progress::ChunkRead { at: 0, len, offset };
        }
        let hard_state = want.hard_state;
        // A commit index in front of the entries that it counts would make others committed by a power cut.
        assert!(hard_state.commit <= log.durable());
        let news = (hard_state.term, hard_state.vote) != (self.durable.term, self.durable.vote);
        if self.snapshot.is_some()
            && (news
                || log.durable() < log.last().index
                || want.commit_needed > self.durable.commit)
        {
            log.write_begins(log.last().index);
            log.write_ends();
            self.durable = hard_state;
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
        let (id, bytes) = self.snapshot.as_ref()?;
        Some(SnapshotInfo { id: *id, bytes: bytes.len() as u32, crc: check(bytes) })
    }

    fn begin_snapshot(&mut self, id: EntryId) {
        self.begun = Some((id, vec![]));
        self.begun_bounds.clear();
    }

    fn put_chunk(&mut self, offset: u32, len: usize) -> bool {
        let fits = self.begun.as_ref().is_some_and(|(_, bytes)| bytes.len() == offset as usize);
        if fits {
            self.put = Some(len);
        }
        fits
    }

    fn begun_crc(&self) -> u32 {
        self.begun.as_ref().map_or(0, |(_, bytes)| check(bytes))
    }

    fn end_snapshot(&mut self, _installed: bool) {
        let (id, bytes) = self.begun.take().expect("a snapshot was begun");
        self.bounds = std::mem::take(&mut self.begun_bounds);
        self.snapshot = Some((id, bytes));
        self.next.push_back(Progress::SnapshotDurable(id));
    }

    fn abort_snapshot(&mut self) {
        self.begun = None;
        self.put = None;
    }

    fn read_snapshot(&mut self, offset: u32, len_max: usize) {
        self.read = Some((offset, len_max));
    }

    fn wants_snapshot(&self) -> bool {
        false
    }

    fn status(&self) -> Status {
        Status::default()
    }
}

fn check(bytes: &[u8]) -> u32 {
    crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(bytes)
}
