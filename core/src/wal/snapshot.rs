//! Snapshots: written as chunks through the log itself, read back from it (Raft §7).

use super::read::{Header, Miss, says};
use super::record::{CHECKPOINT, CHUNK, Checkpoint, Place, salt};
use super::types::{HardState, Progress, SnapshotInfo, Want};
use super::write::{Data, Held};
use super::{SNAP_DATA_AT, Wal, Work};
use crate::check::checksum;
use crate::log::Log;
use crate::types::{EntryId, Index};

/// The snapshot that is being written.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    pub(super) active: bool,
    /// No more chunks: what is behind it is restated, then the checkpoint.
    ending: bool,
    installed: bool,
    pub(super) id: EntryId,
    /// Its first chunk in flash.
    pub(super) first: Option<Place>,
    /// Bytes in flash, and their checksum.
    pub(super) bytes: u32,
    flash_bytes: u32,
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
    /// The next record to look at, and its segment's salt; the chunk there or behind starts at `chunk_at`.
    at: Option<Place>,
    salt: Option<u32>,
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
        flash_bytes: 0,
        crc: 0,
        crc_next: 0,
        chunk: 0,
        restated: Index::ZERO,
    };

    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            id: self.id,
            bytes: self.bytes,
            crc: self.crc,
            first: self.first.unwrap_or_default(),
            installed: u8::from(self.installed),
        }
    }
}

impl Cursor {
    pub(super) const START: Self =
        Self { wanted: 0, offset: 0, at: None, salt: None, crossing: false, chunk_at: 0 };
}

impl Wal {
    /// The newest whole snapshot in flash; `None` before the founding one.
    pub const fn snapshot(&self) -> Option<SnapshotInfo> {
        let Checkpoint { id, bytes, crc, .. } = self.checkpoint;
        if self.checkpoint.is_none() { None } else { Some(SnapshotInfo { id, bytes, crc }) }
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
        if let Work::Write(out) | Work::Verify(out) = &mut self.work {
            out.orphan();
        }
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
        let commit = want.hard_state.commit.max(self.durable.commit);
        let hard_state = HardState { commit, ..self.durable };
        let from = self.snap.restated.max(self.snap.id.index).max(log.base().index);
        let (mut tag, mut data, mut hold) = (CHECKPOINT, Data::None, 1);
        if let Some(len) = self.snap.chunk.checked_sub(1) {
            let end = SNAP_DATA_AT.saturating_add(len as usize);
            let bytes = buf.get(SNAP_DATA_AT..end).unwrap_or_default();
            self.snap.crc_next = checksum(self.snap.crc, bytes);
            // If all but one segment are live, only a snapshot in that one can free them.
            let last_way = self.snap.first.is_none() && self.free() == 1;
            if last_way && self.matter.0 == self.tail.segment.saturating_add(1) {
                hold = 0;
            }
            (tag, data) = (CHUNK, Data::Chunk(len));
        } else if !self.snap.ending {
            return None;
        } else if !self.snap.installed && from < log.durable() {
            // The live part of the log is to begin at the first chunk: what is durable behind the snapshot
            // is written once more.
            (tag, data) = (0, Data::Entries(from, log.durable()));
        }
        let written = self.record(tag, data, hold, hard_state, log, buf);
        if matches!(written, Err(Held::Room)) && self.fault.is_none() {
            self.abort_snapshot();
            return Some(Ok(Progress::SnapshotLost));
        }
        Some(written)
    }

    /// A chunk is durable.
    pub(super) fn chunk_ends(&mut self, at: Place, bytes: u32, padded: u32) -> Option<Progress> {
        if !self.snap.active {
            return None;
        }
        if self.snap.first.is_none() {
            self.snap.first = Some(at);
            self.snap.restated = self.snap.id.index;
            // Nothing that stands before the first chunk is read again: entries must say what they follow.
            self.written = None;
        }
        self.snap.bytes = self.snap.bytes.saturating_add(bytes);
        self.snap.flash_bytes = self.snap.flash_bytes.saturating_add(padded);
        self.snap.crc = self.snap.crc_next;
        self.snap.chunk = 0;
        (!self.snap.ending).then_some(Progress::ChunkWritten)
    }

    /// The checkpoint is durable: everything before the first chunk is dead.
    pub(super) fn checkpoint_ends(&mut self) -> Progress {
        (self.checkpoint, self.snapshot_flash) = (self.snap.checkpoint(), self.snap.flash_bytes);
        let first = self.checkpoint.first.segment;
        let mut live = false;
        self.order.retain(|segment| {
            live |= *segment == first;
            live
        });
        if self.snap.installed {
            self.written = None;
        }
        (self.cursor, self.snap) = (Cursor::START, Begun::NONE);
        Progress::SnapshotDurable(self.checkpoint.id)
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
        self.window.ahead = self.buffer_bytes;
        let done = match self.read_chunk(len_max, buf) {
            Err(_) => return Some(self.window.op()),
            Ok(Some(done)) => done,
            Ok(None) => {
                self.cursor = Cursor::START;
                Progress::ChunkUnreadable
            }
        };
        self.cursor.wanted = 0;
        Some(done)
    }

    fn read_chunk(&mut self, len_max: u32, buf: &[u8]) -> Result<Option<Progress>, Miss> {
        let (offset, checkpoint) = (self.cursor.offset, self.checkpoint);
        if offset >= checkpoint.bytes {
            return Ok(Some(Progress::ChunkRead { at: 0, len: 0, offset }));
        }
        loop {
            let at = self.cursor.at.unwrap_or(checkpoint.first);
            if self.cursor.at.is_none() {
                (self.cursor.chunk_at, self.cursor.salt) = (0, None);
            }
            self.cursor.at = Some(at);
            let Some(salt_here) = self.cursor.salt else {
                let Header::Open(open) = self.header(at.segment, buf)? else {
                    return Ok(None);
                };
                self.cursor.salt = Some(salt(open.seq));
                continue;
            };
            let found = if self.cursor.crossing { None } else { self.look(at.offset, &at, buf)? };
            let Some((head, start)) = found else {
                self.cursor.crossing = true;
                let Some(next) = self.next_live(at.segment) else {
                    return Ok(None);
                };
                let Header::Open(open) = self.header(next, buf)? else {
                    return Ok(None);
                };
                if open.link != at.link() {
                    return Ok(None);
                }
                self.cursor.crossing = false;
                self.cursor.at = Some(Place::start_of(next));
                self.cursor.salt = Some(salt(open.seq));
                continue;
            };
            let Some((it, data)) = says(&head, start, buf) else {
                return Ok(None);
            };
            if head.kind() == CHECKPOINT {
                return Ok(None);
            }
            let ours = head.kind() == CHUNK && it.snap == checkpoint.id;
            if ours && it.snap_at == self.cursor.chunk_at {
                let bytes = data.len() as u32;
                let skip = offset.saturating_sub(it.snap_at);
                if skip < bytes {
                    let data_at = (head.total.saturating_sub(bytes)) as usize;
                    let at = start.saturating_add(data_at).saturating_add(skip as usize);
                    let len = bytes.saturating_sub(skip).min(len_max) as usize;
                    return Ok(Some(Progress::ChunkRead { at, len, offset }));
                }
                self.cursor.chunk_at = self.cursor.chunk_at.saturating_add(bytes);
            }
            self.cursor.at = Some(self.end_of(&at, &head, salt_here));
        }
    }

    fn next_live(&self, segment: u8) -> Option<u8> {
        self.order.iter().skip_while(|s| **s != segment).nth(1).copied()
    }
}
