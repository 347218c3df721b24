//! Snapshots: written as chunks through the log itself, read back from it (Raft §7).

use super::read::{Halt, Header, Io};
use super::record::{CHECKPOINT, CHUNK, Checkpoint, ENTRIES, Place, salt};
use super::types::{Progress, SnapshotInfo};
use super::{SNAP_DATA_AT, Wal};
use crate::check::checksum;
#[cfg(doc)]
use crate::log::Log;
use crate::types::{EntryId, Index};

/// The snapshot that is being written; in a mount, the one before the newest.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    pub(super) active: bool,
    /// No more chunks: what is behind it is restated, then the checkpoint.
    ending: bool,
    /// What its checkpoint will tell, as far as it is in flash.
    pub(super) to: Checkpoint,
    flash_bytes: u32,
    /// A chunk that waits in the buffer, its length plus one.
    pub(super) chunk: u32,
    /// Entries up to here stand behind the first chunk.
    pub(super) restated: Index,
}

/// How far the newest snapshot has been read.
#[derive(Clone, Copy)]
pub(super) struct Cursor {
    stage: Stage,
    /// What is asked for, the length plus one.
    wanted: u32,
    offset: u32,
    /// The next record to look at, and its segment's salt; the chunk there or behind starts at `chunk_at`.
    at: Place,
    salt: u32,
    chunk_at: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing is known: the segment of the first chunk is to be looked at.
    Begin,
    Follow,
    /// The record there is none: the next segment is to be looked at.
    Cross,
}

impl Begun {
    pub(super) const NONE: Self = Self {
        active: false,
        ending: false,
        to: Checkpoint::NONE,
        flash_bytes: 0,
        chunk: 0,
        restated: Index::ZERO,
    };
}

impl Cursor {
    pub(super) const START: Self = Self {
        stage: Stage::Begin,
        wanted: 0,
        offset: 0,
        at: Place::NOWHERE,
        salt: 0,
        chunk_at: 0,
    };
}

impl Wal {
    /// The newest whole snapshot in flash; `None` before the founding one.
    pub const fn snapshot(&self) -> Option<SnapshotInfo> {
        let Checkpoint { id, bytes, crc, .. } = self.all.checkpoint;
        if self.all.checkpoint.is_none() { None } else { Some(SnapshotInfo { id, bytes, crc }) }
    }

    /// Bytes of a snapshot that one chunk can hold.
    pub const fn chunk_bytes_max(&self) -> usize {
        (self.buffer_bytes as usize).saturating_sub(SNAP_DATA_AT)
    }

    /// Begins a snapshot that covers everything up to `id`, which may be the one that the newest covers:
    /// a new snapshot is what frees segments. One that was begun before is forgotten.
    pub fn begin_snapshot(&mut self, id: EntryId) {
        self.abort_snapshot();
        (self.snap.active, self.snap.to.id) = (true, id);
    }

    /// The next `len` bytes of the snapshot are in the flash buffer at [`SNAP_DATA_AT`]; they lie at
    /// `offset` in it, which is where the chunk before ended. The next [`Wal::poll`] must follow before
    /// anything else touches the buffer. `false` if it is not the time for it: no snapshot begun,
    /// [`Wal::is_busy`], the wrong offset, or too long.
    pub fn put_chunk(&mut self, offset: u32, len: usize) -> bool {
        let fits = len <= self.chunk_bytes_max() && self.snap.to.bytes == offset;
        let timely = self.snap.active && !self.snap.ending && self.snap.chunk == 0;
        if !fits || !timely || self.is_busy() {
            return false;
        }
        self.window.forget();
        self.snap.chunk = (len as u32).wrapping_add(1);
        true
    }

    /// CRC-32C of the chunks that are durable, to compare before [`Wal::end_snapshot`].
    pub const fn begun_crc(&self) -> u32 {
        self.snap.to.crc
    }

    /// All chunks are put. If `installed`, the log before and behind the snapshot's last entry is void:
    /// the caller resets its [`Log`] to the snapshot's id when [`Progress::SnapshotDurable`] is told, before it polls
    /// again. Otherwise what is durable behind it is kept.
    pub fn end_snapshot(&mut self, installed: bool) {
        self.snap.ending = self.snap.active;
        self.snap.to.installed = u8::from(installed);
        if self.snap.to.is_none() && self.snap.chunk == 0 {
            self.snap.chunk = 1;
        }
    }

    /// Gives up the snapshot that was begun.
    #[inline(never)]
    pub fn abort_snapshot(&mut self) {
        self.snap = Begun::NONE;
        // A chunk that is on its way belongs to nothing any more.
        self.out.tag = 0;
    }

    pub(super) const fn has_chunk(&self) -> bool {
        self.snap.chunk > 0
    }

    /// The next record of the snapshot, if it is time for one.
    pub(super) fn snapshot_record(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        (io.after, io.last) = (self.snap.restated, io.log.durable());
        io.after = io.after.max(self.snap.to.id.index).max(io.log.base().index);
        let (mut tag, mut hold) = (CHECKPOINT, 1);
        if self.has_chunk() {
            tag = CHUNK;
            // If all but one segment are live, only a snapshot in that one can free them.
            let last_way = self.snap.to.is_none() && self.free() == 1;
            if last_way && self.matter.0 == self.tail.segment.wrapping_add(1) {
                hold = 0;
            }
        } else if !self.snap.ending {
            return Ok(());
        } else if self.snap.to.installed == 0 && io.after < io.last {
            // The live part of the log is to begin at the first chunk: what is durable behind the snapshot
            // is written once more.
            tag = ENTRIES;
        }
        let halt = self.record(io, tag, hold);
        if halt == Halt::Room && self.fault.is_none() {
            self.abort_snapshot();
            return Err(io.tell(Progress::SnapshotLost));
        }
        Err(halt)
    }

    /// A chunk is durable.
    pub(super) fn chunk_ends(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        if !self.snap.active {
            return Ok(());
        }
        let padded = self.padded(io.head.total);
        let chunk = io.data().0;
        if self.snap.to.is_none() {
            self.snap.to.first = self.out.at;
            self.snap.restated = self.snap.to.id.index;
            // Nothing that stands before the first chunk is read again: entries must say what they follow.
            self.written = None;
        }
        self.snap.to.bytes = self.snap.to.bytes.wrapping_add(chunk.len() as u32);
        self.snap.flash_bytes = self.snap.flash_bytes.wrapping_add(padded);
        self.snap.to.crc = checksum(self.snap.to.crc, chunk);
        self.snap.chunk = 0;
        if self.snap.ending { Ok(()) } else { Err(io.tell(Progress::ChunkWritten)) }
    }

    /// The checkpoint is durable: everything before the first chunk is dead.
    pub(super) fn checkpoint_ends(&mut self, io: &mut Io<'_>) -> Halt {
        self.snapshot_flash = self.snap.flash_bytes;
        let first = self.all.checkpoint.first.segment;
        let mut live = false;
        self.order.retain(|segment| {
            live |= *segment == first;
            live
        });
        if self.snap.to.installed != 0 {
            self.written = None;
        }
        (self.cursor, self.snap) = (Cursor::START, Begun::NONE);
        io.tell(Progress::SnapshotDurable(self.all.checkpoint.id))
    }

    /// Asks for up to `len_max` bytes of the newest snapshot from `offset`; polling yields
    /// [`Progress::ChunkRead`] with what the chunk there holds, or [`Progress::ChunkUnreadable`]. Reading on in order is cheap.
    pub fn read_snapshot(&mut self, offset: u32, len_max: usize) {
        self.cursor.offset = offset;
        self.cursor.wanted = (len_max.min(self.buffer_bytes as usize) as u32).wrapping_add(1);
        if offset < self.cursor.chunk_at {
            self.cursor.stage = Stage::Begin;
        }
    }

    /// One step of reading the snapshot, if something is asked for.
    #[inline(never)]
    pub(super) fn read_step(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        let Some(len_max) = self.cursor.wanted.checked_sub(1) else {
            return Ok(());
        };
        self.window.plan(self.buffer_bytes, 0);
        if !self.read_chunk(io, len_max)? {
            self.cursor = Cursor::START;
            io.progress = Progress::ChunkUnreadable;
        }
        self.cursor.wanted = 0;
        Err(Halt::Tell)
    }

    /// The chunk, if it can be read.
    fn read_chunk(&mut self, io: &mut Io<'_>, len_max: u32) -> Result<bool, Halt> {
        let (offset, checkpoint) = (self.cursor.offset, self.all.checkpoint);
        if offset >= checkpoint.bytes {
            io.progress = Progress::ChunkRead { at: 0, len: 0, offset };
            return Ok(true);
        }
        loop {
            let at = self.cursor.at;
            match self.cursor.stage {
                Stage::Begin | Stage::Cross => {
                    let mut start = checkpoint.first;
                    if self.cursor.stage == Stage::Cross {
                        let mut behind = self.order.iter().skip_while(|s| **s != at.segment);
                        let Some(next) = behind.nth(1).copied() else {
                            return Ok(false);
                        };
                        start = Place::start_of(next);
                    } else {
                        self.cursor.chunk_at = 0;
                    }
                    let opens = self.header(io, start.segment)? == Header::Open;
                    let (from, link) = (at.link(), io.it.link);
                    // What was told to fail may stand behind the link, and was followed.
                    let follows = link.0 == from.0 && link.1 <= from.1;
                    if !opens || (start.offset == 0 && !follows) {
                        return Ok(false);
                    }
                    (self.cursor.at, self.cursor.salt) = (start, salt(io.it.seq));
                    self.cursor.stage = Stage::Follow;
                }
                Stage::Follow => {
                    if !self.look(io, &at)? {
                        self.cursor.stage = Stage::Cross;
                        continue;
                    }
                    if !io.says() || io.head.kind() == CHECKPOINT {
                        return Ok(false);
                    }
                    let ours = io.head.kind() == CHUNK && io.it.snap == checkpoint.id;
                    if ours && io.it.snap_at == self.cursor.chunk_at {
                        let bytes = io.data().0.len() as u32;
                        let skip = offset.saturating_sub(io.it.snap_at);
                        if skip < bytes {
                            let data_at = io.head.total.saturating_sub(bytes).wrapping_add(skip);
                            let at = io.at.wrapping_add(data_at as usize);
                            let len = bytes.saturating_sub(skip).min(len_max) as usize;
                            io.progress = Progress::ChunkRead { at, len, offset };
                            return Ok(true);
                        }
                        self.cursor.chunk_at = self.cursor.chunk_at.wrapping_add(bytes);
                    }
                    self.cursor.at = self.end_of(io, &at, self.cursor.salt);
                }
            }
        }
    }
}
