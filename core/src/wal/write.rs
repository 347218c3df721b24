//! Writing: one record at a time, read back before it counts.

use super::mount::FOUNDED_FIRST;
use super::read::{Halt, Io};
use super::record::{
    BOOT, CHECKPOINT, CHUNK, COMMIT, ENTRIES, FIRST, HARD_STATE, HEAD_BYTES, Head, KIND, Link,
    NOTE, NOTHING_NEW, OPEN, OPEN_BYTES_MAX, Place, SEAL, SECTIONS_BYTES_MAX, VERSION,
    geometry_word, salt,
};
use super::ring::bit;
use super::types::{HardState, Mounted, Progress, WalFault};
use super::{Boot, Phase, SNAP_DATA_AT, Wal, Work};
use crate::check::checksum;
use crate::flash::FlashOp;
use crate::log::{Log, copy};
use crate::types::EntryId;

/// A record that is on its way to flash, or the segment that is being erased.
#[derive(Clone, Copy)]
pub(super) struct Outgoing {
    pub(super) at: Place,
    crc: u32,
    len: u32,
    /// Zero for a chunk of a snapshot that was given up meanwhile: it belongs to nothing any more.
    pub(super) tag: u8,
    /// The log is not what it was without it.
    matters: bool,
}

impl Outgoing {
    pub(super) const NONE: Self =
        Self { at: Place::NOWHERE, crc: 0, len: 0, tag: 0, matters: false };
}

impl Wal {
    /// Bytes that are left in the segment in use.
    pub(super) fn room(&self) -> u32 {
        if self.order.is_empty() || self.closed {
            return 0;
        }
        self.segment_bytes().saturating_sub(self.tail.offset)
    }

    /// Live segments that are still needed when the next one links to `link`: what came to nothing behind that, a
    /// snapshot that was given up or many boots in a row, fills no segment.
    fn kept_by(&self, link: Link) -> usize {
        let keep = self.order.iter().position(|s| s.wrapping_add(1) == link.0);
        keep.map_or(0, |keep| keep.wrapping_add(1))
    }

    /// What the newest segment's first record gives up is given up.
    fn give_up(&mut self) {
        self.order.truncate(usize::from(self.kept));
    }

    /// Where the next segment has to link to.
    fn link_next(&self) -> Link {
        if self.snap.to.is_none() || self.boot != Boot::None {
            self.matter
        } else {
            self.tail.link()
        }
    }

    /// A snapshot that would end in another segment than it begins, or that is to free the very segment it
    /// would begin in, begins in a new one. The last one is opened only where it does not fit for certain.
    fn wants_fresh_segment(&self, last: bool, log: &mut Log) -> bool {
        if !self.snap.to.is_none() || self.order.is_empty() {
            return false;
        }
        let restated = log.fit(self.snap.to.id.index, log.last().index, usize::MAX).1 as u32;
        let likely = self.snapshot_flash.wrapping_add(restated);
        let ample = likely.wrapping_add(likely.wrapping_shr(1)).wrapping_add(256);
        let short = self.room() < if last { likely } else { ample };
        if self.matter.0 == self.tail.segment.wrapping_add(1) {
            return short || (!last && self.order.len() == 1 && self.wants_snapshot());
        }
        // A quarter of a segment is to spare.
        let segment = self.segment_bytes();
        short && self.room() < segment.saturating_sub(segment.wrapping_shr(2))
    }

    /// Composes a record: here if it fits, else at the beginning of the next segment, if after that still
    /// `hold` segments are free. What does not fit beside the head of a segment or of a boot follows by itself.
    ///
    /// With the flag [`ENTRIES`] those go in that [`Io`] says, as many as fit; a [`CHUNK`] lies in the buffer at
    /// [`SNAP_DATA_AT`]. Without the flag [`HARD_STATE`] term and vote stay as they are.
    pub(super) fn record(&mut self, io: &mut Io<'_>, mut tag: u8, hold: u32) -> Halt {
        let it = &mut io.it;
        (it.all, it.before) = (self.all, self.all.checkpoint);
        (it.all.note, it.all.record_max) = (self.note, self.buffer_bytes);
        let (want, own) = (io.want, &mut it.all.hard_state);
        if tag & HARD_STATE != 0 {
            (own.term, own.vote) = (want.hard_state.term, want.hard_state.vote);
        }
        own.commit = own.commit.max(want.hard_state.commit).max(want.commit_needed);
        (it.version, it.geometry) = (VERSION, geometry_word(&self.geometry));
        (it.seq, it.link) = (self.seq.wrapping_add(1), self.link_next());
        it.from = self.boot_from;
        it.seal = self.tail.seed ^ salt(self.seq);
        (it.snap, it.snap_at) = (self.snap.to.id, self.snap.to.bytes);
        if tag == CHECKPOINT {
            it.all.checkpoint = self.snap.to;
        }
        let restating = self.boot == Boot::Now;
        if self.boot != Boot::None {
            tag = BOOT | (tag & ENTRIES);
        }
        // The least that has to go along; at a boot, what is restated, whole or not at all.
        let mut least = 0;
        if tag & ENTRIES != 0 {
            it.prev = EntryId::new(io.after, io.log.term(io.after).unwrap_or_default());
            if self.boot != Boot::None || self.written != Some(it.prev) {
                tag |= FIRST;
            }
            let last = if restating { io.last } else { io.after.next() };
            least = io.log.fit(io.after, last, usize::MAX).1 as u32;
        } else if tag == CHUNK {
            least = self.snap.chunk.saturating_sub(1);
        }
        let mut size = self.padded(it.bytes(tag).wrapping_add(least));
        // A shorter buffer must be told of longer records by one that it can read.
        if tag & KIND == BOOT && size > self.all.record_max && !restating {
            (tag, least) = (BOOT, 0);
            size = self.padded(it.bytes(tag));
        }
        if size > self.buffer_bytes {
            self.fault = Some(WalFault::Misused);
            return Halt::Room;
        }
        let dead = self.order.len().saturating_sub(self.kept_by(it.link)) as u32;
        let left = self.free().wrapping_add(dead).saturating_sub(1);
        let fresh = tag == CHUNK && left >= hold && self.wants_fresh_segment(left == 0, io.log);
        let (mut at, mut max) = (self.tail, self.room().min(self.all.record_max));
        if size > self.room() || fresh {
            if tag & KIND == SEAL || left < hold || self.free() == 0 {
                return Halt::Room;
            }
            let Some(segment) = self.first_of(self.ready) else {
                return Halt::Erase;
            };
            at = Place::start_of(segment);
            it.erases = self.wear.erases(segment);
            it.written = self.written.unwrap_or_default();
            it.all.checkpoint = it.before;
            // As long as this one may decay, the next boot may need what it gives up: then it says nothing new.
            let plain = tag == CHUNK || dead > 0;
            // Not in the middle of a snapshot: should the seal behind fail, one would be opened that links to what matters.
            let begins = tag == CHUNK && self.snap.to.is_none();
            if plain {
                it.all = self.all;
                it.all.record_max = self.buffer_bytes;
            }
            max = if restating { self.buffer_bytes } else { OPEN_BYTES_MAX };
            tag = OPEN | (tag & (ENTRIES | FIRST));
            if it.bytes(tag).wrapping_add(least) > max || (plain && !restating) {
                (tag, least) = (OPEN, 0);
            }
            // A boot shows what it restates once that is sealed, and the next one may have to stand behind.
            let behind = u32::from(self.geometry.page_bytes).wrapping_add(OPEN_BYTES_MAX);
            let needed = least.wrapping_add(behind.wrapping_shl(1));
            if (dead > 0 || begins)
                && needed <= self.segment_bytes()
                && !self.all.checkpoint.is_none()
            {
                tag |= NOTHING_NEW;
            }
        }
        self.compose(io, tag, least, at, max)
    }

    /// Puts a record of at most `max` bytes into the buffer and sends it off to `at`; `least` bytes of data
    /// are known to fit.
    fn compose(&mut self, io: &mut Io<'_>, mut tag: u8, least: u32, at: Place, max: u32) -> Halt {
        let restating = self.boot == Boot::Now;
        let mut to = io.it.bytes(tag);
        let (mut bytes, mut matters) = (least, false);
        if tag & ENTRIES != 0 {
            // A boot must be able to restate it.
            let whole = self.buffer_bytes.saturating_sub(SECTIONS_BYTES_MAX);
            let room = max.saturating_sub(to).min(whole).max(least);
            let (last, len) = io.log.fit(io.after, io.last, room as usize);
            (io.last, bytes) = (last, len as u32);
            matters = (restating && self.boot_matters) || last > io.log.durable();
        }
        // The commit index goes along where it fills padding that is programmed anyway.
        let newer = io.it.all.hard_state.commit > self.all.hard_state.commit && tag != CHUNK;
        let with_commit = io.it.bytes(tag | COMMIT);
        let padded = |to: u32| self.padded(to.wrapping_add(bytes));
        if newer && padded(with_commit) == padded(to) {
            (tag, to) = (tag | COMMIT, with_commit);
        }
        let (total, len) = (to.wrapping_add(bytes), padded(to));
        if tag & ENTRIES != 0 {
            let place = io.buf.get_mut(to as usize..total as usize).unwrap_or_default();
            io.log.copy(io.after, io.last, place);
            if !restating {
                io.log.write_begins(io.last);
            }
        } else {
            // A chunk moves down to where the sections will end, byte by byte: the two places overlap.
            for i in 0..bytes as usize {
                let byte = io.buf.get(SNAP_DATA_AT.wrapping_add(i)).copied().unwrap_or_default();
                if let Some(place) = io.buf.get_mut((to as usize).wrapping_add(i)) {
                    *place = byte;
                }
            }
        }
        io.it.encode(tag, io.buf.get_mut(HEAD_BYTES as usize..).unwrap_or_default());
        let [low, high] = (total.saturating_sub(HEAD_BYTES) as u16).to_le_bytes();
        copy(io.buf.get_mut(4..).unwrap_or_default(), &[low, high, tag]);
        let crc = checksum(at.seed, io.buf.get(4..total as usize).unwrap_or_default());
        copy(io.buf, &crc.to_le_bytes());
        let padding = io.buf.get_mut(total as usize..len as usize);
        padding.unwrap_or_default().fill(self.geometry.erased);
        self.out = Outgoing { at, crc, len, tag, matters };
        self.work = Work::Write;
        self.window.forget();
        io.tell(Progress::Op(FlashOp::Write { offset: self.offset_of(&at), len }))
    }

    /// The write has ended: read back what was written.
    #[inline(never)]
    pub(super) fn verify(&mut self, io: &mut Io<'_>, mut ok: bool) -> Result<(), Halt> {
        let out = self.out;
        if ok {
            // No more than was written, whatever its head says now: a chunk may wait in the buffer behind.
            ok = self.fetch(io, &out.at, out.len)?;
            io.head = Head::decode(io.bytes(HEAD_BYTES)).unwrap_or(Head::NONE);
            ok &= io.head.tag != 0 && io.head.crc == out.crc && io.head.total <= out.len;
            ok &= io.follows(out.at.seed) && io.says();
        }
        self.work = Work::None;
        self.window.forget();
        if ok {
            return self.record_ends(io);
        }
        // The segment does not hold what was written, or it may: out of use with it, and on in the next one, which
        // must not have the same place in the order. Nor does anything follow in the one before: if this first record
        // stands after all, that ends at its link.
        let first = out.at.offset == 0;
        if self.unproven && !first {
            // Nothing may be erased yet: the same boot once more, behind this one.
            self.tail.offset = self.guarded(out.at.offset.wrapping_add(out.len));
        } else {
            self.closed = true;
        }
        self.seq = self.seq.wrapping_add(u32::from(first));
        self.retire(out.at.segment);
        if self.phase == Phase::Founding {
            self.phase = Phase::Running;
            return Err(io.tell(Progress::Formatted));
        }
        if out.tag == CHUNK && self.snap.active {
            self.abort_snapshot();
            return Err(io.tell(Progress::SnapshotLost));
        }
        Ok(())
    }

    /// The record is in flash, and looked at.
    fn record_ends(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        let Outgoing { at, matters, .. } = self.out;
        let (tag, kind) = (io.head.tag, io.head.kind());
        if kind == OPEN {
            self.matter = io.it.link;
            self.kept = self.kept_by(io.it.link) as u8;
            self.alone = tag & NOTHING_NEW != 0;
            if !self.alone {
                self.give_up();
            }
            let _ = self.order.push(at.segment);
            self.seq = self.seq.wrapping_add(1);
            self.ready &= !bit(at.segment);
            self.closed = false;
        } else if core::mem::take(&mut self.alone) {
            self.give_up();
            let _ = self.order.push(at.segment);
        }
        self.tail = self.end_of(io, &at, salt(self.seq));
        let padded = self.padded(io.head.total);
        self.bytes_written = self.bytes_written.saturating_add(padded);
        self.records = self.records.saturating_add(1);
        self.unsealed = kind != SEAL;
        self.unproven = false;
        self.take_over(io);
        if tag & ENTRIES != 0 {
            io.log.write_ends();
            if let Some((prev, last)) = self.entries(io) {
                self.written = Some(last);
                if self.snap.restated >= prev.index {
                    self.snap.restated = last.index;
                }
            }
        }
        if matters || kind == CHECKPOINT {
            self.matter = self.tail.link();
        }
        if self.phase == Phase::Founding {
            // This segment was not erased: nothing more goes into it.
            (self.closed, self.phase) = (true, Phase::Running);
            self.tail.segment = FOUNDED_FIRST.saturating_sub(1);
            return Err(io.tell(Progress::Formatted));
        }
        match core::mem::replace(&mut self.boot, Boot::None) {
            Boot::Now if kind == OPEN => {
                // It is sealed at once, or the next boot would need another segment.
                self.boot = Boot::Seal;
                return Ok(());
            }
            Boot::Now | Boot::Seal => return self.mounted(io),
            Boot::None | Boot::Sealed | Boot::Owed => {}
        }
        match kind {
            CHECKPOINT => Err(self.checkpoint_ends(io)),
            CHUNK if self.out.tag == 0 => Ok(()),
            CHUNK => self.chunk_ends(io),
            SEAL => Ok(()),
            _ => Err(io.tell(Progress::Durable)),
        }
    }

    /// What the caller wants to be durable and is not yet: one record with all of it that fits.
    pub(super) fn group(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        if self.note != self.all.note && self.boot != Boot::Now {
            // With no entries, which have kinds of their own.
            match self.record(io, NOTE, 1) {
                Halt::Room => {}
                halt => return Err(halt),
            }
        }
        let mut tag = 0;
        if io.want.commit_needed > self.all.hard_state.commit {
            tag |= COMMIT;
        }
        if self.boot == Boot::Now {
            io.last = self.written.unwrap_or_default().index;
            if let Some(after) = self.boot_after.filter(|after| *after < io.last) {
                (io.after, tag) = (after, ENTRIES);
            }
            return Err(self.record(io, tag, 0));
        }
        let HardState { term, vote, .. } = io.want.hard_state;
        if (term, vote) != (self.all.hard_state.term, self.all.hard_state.vote) {
            tag |= HARD_STATE;
        }
        let spare = self.spare();
        (io.after, io.last) = (io.log.durable(), io.log.due());
        if io.last > io.after && self.free() >= spare {
            match self.record(io, tag | ENTRIES, spare) {
                Halt::Room => {}
                halt => return Err(halt),
            }
        }
        if tag == 0 {
            return Ok(());
        }
        match self.record(io, tag, 1) {
            Halt::Room if self.free() == 0 => {
                self.fault = self.fault.or(Some(WalFault::Full));
                Ok(())
            }
            // A vote is worth more than a snapshot that does not fit any more.
            Halt::Room if !self.snap.to.is_none() => {
                self.abort_snapshot();
                Err(io.tell(Progress::SnapshotLost))
            }
            halt => Err(halt),
        }
    }

    /// Marks the last record as written whole and acknowledged. Where that does not fit any more, the next
    /// segment is opened already: its link tells the same.
    pub(super) fn seal(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        let boot = matches!(self.boot, Boot::Now | Boot::Sealed | Boot::Owed);
        // A founding that is not done leaves no seal behind: it would look like a log.
        if !self.unsealed || boot || self.order.is_empty() || self.all.checkpoint.is_none() {
            return Ok(());
        }
        let newer = io.want.hard_state.commit > self.all.hard_state.commit;
        let sealing = core::mem::replace(&mut self.boot, Boot::None);
        let sealed = self.record(io, if newer { SEAL | COMMIT } else { SEAL }, 0);
        self.boot = sealing;
        if sealed == Halt::Tell {
            return Err(sealed);
        }
        let dead = self.order.len().saturating_sub(self.kept_by(self.link_next())) as u32;
        if self.free().wrapping_add(dead) <= self.spare() || self.ready == 0 {
            return Ok(());
        }
        self.closed = true;
        match self.record(io, 0, self.spare()) {
            Halt::Tell => Err(Halt::Tell),
            _ => Ok(()),
        }
    }

    pub(super) fn mounted(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        let (Some(identity), Some(snapshot)) = (self.all.identity, self.snapshot()) else {
            return Ok(());
        };
        let (hard_state, tail) = (self.all.hard_state, self.tail_found);
        Err(io.tell(Progress::Mounted(Mounted { identity, hard_state, snapshot, tail })))
    }
}
