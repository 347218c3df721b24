//! Snapshots: written as chunks through the log itself, read back from it (Raft §7).

use super::record::{CHECKPOINT, Checkpoint, Place, SNAP, checksum};
use super::types::{Progress, SnapshotInfo, Want};
use super::write::{Data, Held};
use super::{SNAP_DATA_AT, Wal};
use crate::log::Log;
use crate::types::{EntryId, Index};

/// The snapshot that is being written.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    pub(super) active: bool,
    /// No more chunks: what is behind it is restated, then the checkpoint.
    pub(super) ending: bool,
    installed: bool,
    id: EntryId,
    /// Its first chunk in flash.
    pub(super) first: Option<Place>,
    /// Bytes in flash, and their checksum.
    bytes: u32,
    crc: u32,
    crc_next: u32,
    /// A chunk that waits in the buffer, its length plus one.
    chunk: u32,
    /// Entries up to here stand behind the first chunk.
    pub(super) restated: Index,
}

/// How far the newest snapshot has been read.
#[derive(Clone, Copy)]
pub(super) struct Cursor {
    /// What is asked for, the length plus one.
    wanted: u32,
    offset: u32,
    /// The record there is none: the next segment is to be looked at.
    crossing: bool,
    /// The next record to look at; the chunk there or behind starts at `chunk_at`.
    at: Option<Place>,
    chunk_at: u32,
}

impl Begun {
    pub(super) const NONE: Self = Self {
        active: false,
        ending: false,
        installed: false,
        id: EntryId::ZERO,
        first: None,
        bytes: 0,
        crc: 0,
        crc_next: 0,
        chunk: 0,
        restated: Index::ZERO,
    };
}

impl Cursor {
    pub(super) const START: Self =
        Self { wanted: 0, offset: 0, at: None, crossing: false, chunk_at: 0 };
}

impl Checkpoint {
    pub(super) const fn info(&self) -> SnapshotInfo {
        SnapshotInfo { id: self.id, bytes: self.bytes, crc: self.crc }
    }
}

impl Wal {
    /// The newest whole snapshot in flash; `None` before the founding one.
    pub const fn snapshot(&self) -> Option<SnapshotInfo> {
        match &self.checkpoint {
            Some(checkpoint) => Some(checkpoint.info()),
            None => None,
        }
    }

    /// Bytes of a snapshot that one chunk can hold.
    pub const fn chunk_bytes_max(&self) -> usize {
        (self.buffer_bytes as usize).saturating_sub(SNAP_DATA_AT)
    }

    /// Begins a snapshot that covers everything up to `id`, which may be the one that the newest covers:
    /// a new snapshot is what frees segments. One that was begun before is forgotten.
    pub fn begin_snapshot(&mut self, id: EntryId) {
        self.abort_snapshot();
        (self.snap.active, self.snap.id) = (true, id);
    }

    /// The next `len` bytes of the snapshot are in the flash buffer at [`SNAP_DATA_AT`]; they lie at
    /// `offset` in it, which is where the chunk before ended. The next [`Wal::poll`] must follow before
    /// anything else touches the buffer. `false` if it is not the time for it: no snapshot begun,
    /// [`Wal::is_busy`], the wrong offset, or too long.
    pub fn put_chunk(&mut self, offset: u32, len: usize) -> bool {
        let fits = len <= self.chunk_bytes_max() && self.snap.bytes == offset;
        let timely = self.snap.active && !self.snap.ending && self.snap.chunk == 0;
        if !fits || !timely || self.is_busy() {
            return false;
        }
        self.window.forget();
        self.snap.chunk = (len as u32).saturating_add(1);
        true
    }

    /// CRC-32C of the chunks that are durable, to compare before [`Wal::end_snapshot`].
    pub const fn begun_crc(&self) -> u32 {
        self.snap.crc
    }

    /// All chunks are put. If `installed`, the log before and behind the snapshot's last entry is void:
    /// the caller resets its [`Log`] to the snapshot's id when [`Progress::SnapshotDurable`] is told, before it polls
    /// again. Otherwise what is durable behind it is kept.
    pub fn end_snapshot(&mut self, installed: bool) {
        self.snap.ending = self.snap.active;
        self.snap.installed = installed;
        if self.snap.first.is_none() && self.snap.chunk == 0 {
            self.snap.chunk = 1;
        }
    }

    /// Gives up the snapshot that was begun.
    pub fn abort_snapshot(&mut self) {
        self.snap = Begun::NONE;
        // A chunk that is on its way belongs to nothing any more.
        self.outgoing.flags &= !SNAP;
    }

    pub(super) const fn has_chunk(&self) -> bool {
        self.snap.chunk > 0
    }

    /// The next record of the snapshot, if it is time for one.
    pub(super) fn snapshot_record(
        &mut self,
        want: &Want,
        log: &mut Log,
        buf: &mut [u8],
    ) -> Option<Result<Progress, Held>> {
        let mut it = self.base(want);
        if let Some(len) = self.snap.chunk.checked_sub(1) {
            let end = SNAP_DATA_AT.saturating_add(len as usize);
            let data = buf.get(SNAP_DATA_AT..end).unwrap_or_default();
            self.snap.crc_next = checksum(self.snap.crc, data);
            // If all but one segment are live, only a snapshot in that one can free them.
            let last_way = self.snap.first.is_none() && self.free() == 1;
            let hold = if last_way && self.matter.segment == self.tail.segment { 0 } else { 1 };
            (it.flags, it.snap, it.snap_at) = (SNAP, self.snap.id, self.snap.bytes);
            return Some(self.lost_if_full(|wal| wal.record(it, Data::Chunk(len), hold, log, buf)));
        }
        if !self.snap.ending {
            return None;
        }
        // The live part of the log is to begin at the first chunk: what is durable behind the snapshot
        // is written once more.
        let from = self.snap.restated.max(self.snap.id.index).max(log.base().index);
        if !self.snap.installed && from < log.durable() {
            it.flags = self.entries_flags(&mut it.prev, from, log);
            let data = Data::Entries(from, log.durable());
            return Some(self.lost_if_full(|wal| wal.record(it, data, 1, log, buf)));
        }
        it.flags = CHECKPOINT;
        it.checkpoint = self.snap.first.zip(self.identity).map(|(first, identity)| Checkpoint {
            id: self.snap.id,
            bytes: self.snap.bytes,
            crc: self.snap.crc,
            first,
            prev: self.checkpoint_at.unwrap_or_default(),
            identity,
            installed: u8::from(self.snap.installed),
        });
        self.checkpoint_next = it.checkpoint;
        Some(self.lost_if_full(|wal| wal.record(it, Data::None, 1, log, buf)))
    }

    fn lost_if_full(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<Progress, Held>,
    ) -> Result<Progress, Held> {
        match write(self) {
            Err(Held::Room) if self.fault.is_none() => {
                self.abort_snapshot();
                Ok(Progress::SnapshotLost)
            }
            other => other,
        }
    }

    /// A chunk is durable.
    pub(super) fn chunk_ends(&mut self, at: Place, bytes: u32) {
        if !self.snap.active {
            return;
        }
        if self.snap.first.is_none() {
            self.snap.first = Some(at);
            self.snap.restated = self.snap.id.index;
            // Nothing that stands before the first chunk is read again: entries must say what they follow.
            self.written = None;
        }
        self.snap.bytes = self.snap.bytes.saturating_add(bytes);
        self.snap.crc = self.snap.crc_next;
        self.snap.chunk = 0;
    }

    /// The checkpoint is durable: everything before the first chunk is dead.
    pub(super) fn checkpoint_ends(&mut self) -> Progress {
        let mut id = self.snap.id;
        if let Some(checkpoint) = self.checkpoint_next.take() {
            self.checkpoint = Some(checkpoint);
            id = checkpoint.id;
            let first = self.order.iter().position(|s| *s == checkpoint.first.segment);
            let live = self.order.clone();
            self.order.clear();
            // It fits, being a part; `collect` would link a panic.
            let _ =
                self.order.extend_from_slice(live.get(first.unwrap_or(0)..).unwrap_or_default());
            if checkpoint.installed != 0 {
                self.written = None;
            }
        }
        self.cursor = Cursor::START;
        if self.snap.ending {
            self.snap = Begun::NONE;
        }
        Progress::SnapshotDurable(id)
    }

    /// Asks for up to `len_max` bytes of the newest snapshot from `offset`; polling yields
    /// [`Progress::ChunkRead`] with what the chunk there holds, or [`Progress::ChunkUnreadable`]. Reading on in order is cheap.
    pub fn read_snapshot(&mut self, offset: u32, len_max: usize) {
        self.cursor.offset = offset;
        self.cursor.wanted = u32::try_from(len_max).unwrap_or(u32::MAX).saturating_add(1).max(1);
        if offset < self.cursor.chunk_at {
            self.cursor.at = None;
        }
    }

    /// One step of reading the snapshot; `None` if nothing is asked for.
    pub(super) fn read_step(&mut self, buf: &[u8]) -> Option<Progress> {
        let len_max = self.cursor.wanted.checked_sub(1)?;
        let done = match self.read_chunk(len_max, buf) {
            Err(op) => return Some(Progress::Op(op)),
            Ok(done) => done.unwrap_or(Progress::ChunkUnreadable),
        };
        self.cursor.wanted = 0;
        if done == Progress::ChunkUnreadable {
            self.cursor.at = None;
        }
        Some(done)
    }

    fn read_chunk(
        &mut self,
        len_max: u32,
        buf: &[u8],
    ) -> Result<Option<Progress>, crate::flash::FlashOp> {
        let Some(checkpoint) = self.checkpoint else {
            return Ok(None);
        };
        let offset = self.cursor.offset;
        if offset >= checkpoint.bytes {
            return Ok(Some(Progress::ChunkRead { at: 0, len: 0, offset }));
        }
        self.window.ahead = self.buffer_bytes;
        loop {
            let at = self.cursor.at.unwrap_or_else(|| {
                self.cursor.chunk_at = 0;
                checkpoint.first
            });
            self.cursor.at = Some(at);
            let found =
                if self.cursor.crossing { None } else { self.look(at.offset, false, &at, buf)? };
            let Some((head, start)) = found else {
                self.cursor.crossing = true;
                let Some(next) = self.next_live(at.segment) else {
                    self.cursor.crossing = false;
                    return Ok(None);
                };
                let open = self.header(next, buf)?.open.filter(|open| open.link == Some(at));
                self.cursor.crossing = false;
                let Some(open) = open else {
                    return Ok(None);
                };
                self.cursor.at = Some(open.at);
                continue;
            };
            let it = Self::sections(&head, start, buf).unwrap_or_default();
            if it.has(CHECKPOINT) {
                return Ok(None);
            }
            if it.has(SNAP) && it.snap == checkpoint.id && it.snap_at == self.cursor.chunk_at {
                let bytes = it.data.len() as u32;
                let skip = offset.saturating_sub(it.snap_at);
                if skip < bytes {
                    let data_at = (head.total() as usize).saturating_sub(it.data.len());
                    let at = start.saturating_add(data_at).saturating_add(skip as usize);
                    let len = bytes.saturating_sub(skip).min(len_max) as usize;
                    return Ok(Some(Progress::ChunkRead { at, len, offset }));
                }
                self.cursor.chunk_at = self.cursor.chunk_at.saturating_add(bytes);
            }
            self.cursor.at = Some(self.end_of(&at, &head));
        }
    }

    fn next_live(&self, segment: u8) -> Option<u8> {
        self.order.iter().skip_while(|s| **s != segment).nth(1).copied()
    }
}
