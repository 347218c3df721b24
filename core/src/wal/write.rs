//! Writing: one record at a time, read back before it counts.

use super::mount::FOUNDED_FIRST;
use super::record::{
    BOOT, CHECKPOINT, CHUNK, COMMIT, ENTRIES, FIRST, HARD_STATE, HEAD_BYTES, KIND, Link, NOTE,
    NOTHING_NEW, OPEN, OPEN_BYTES_MAX, Place, SEAL, SECTIONS_BYTES_MAX, Sections, checksum,
    geometry_word, salt, tells_all,
};
use super::types::{HardState, Mounted, Progress, WalFault, Want};
use super::{Boot, Phase, SNAP_DATA_AT, Wal, Work};
use crate::flash::FlashOp;
use crate::log::{Log, copy};
use crate::types::{EntryId, Index};

/// A record that is on its way to flash: what will be true when it is there.
#[derive(Clone, Copy)]
pub(super) struct Outgoing {
    at: Place,
    pub(super) tag: u8,
    crc: u32,
    total: u32,
    hard_state: HardState,
    note: u32,
    /// The last of its entries, and what they follow.
    last: EntryId,
    after: Index,
    chunk_bytes: u32,
    /// The log is not what it was without it.
    matters: bool,
    /// Live segments that stay so when this one is opened.
    keep: u8,
    pub(super) link: Link,
}

impl Outgoing {
    /// Do these bytes begin with it?
    fn is(&self, bytes: &[u8]) -> bool {
        let record = bytes.get(..self.total as usize).and_then(<[u8]>::split_first_chunk);
        record.is_some_and(|(crc, rest)| {
            u32::from_le_bytes(*crc) == self.crc && checksum(self.at.seed, rest) == self.crc
        })
    }

    /// A chunk of a snapshot that was given up belongs to nothing any more.
    pub(super) const fn orphan(&mut self) {
        if self.tag == CHUNK {
            self.tag = 0;
        }
    }
}

/// What goes into a record beside its sections.
#[derive(Clone, Copy)]
pub(super) enum Data {
    None,
    /// Entries behind the first index, up to the second.
    Entries(Index, Index),
    /// A chunk of a snapshot, in the buffer at [`SNAP_DATA_AT`].
    Chunk(u32),
}

/// Why a record can't be written now.
pub(super) enum Held {
    /// Too few segments would stay free.
    Room,
    /// No segment is ready.
    Erase,
}

impl Wal {
    /// Bytes that are left in the segment in use.
    pub(super) fn room(&self) -> u32 {
        if self.order.is_empty() || self.closed {
            return 0;
        }
        self.geometry.segment_bytes().saturating_sub(self.tail.offset)
    }

    /// Entries may be logged only while so many segments stay free: one for a boot, and what a snapshot takes. One
    /// more, where the ring has it, for a snapshot that comes to nothing: it is given free by the next.
    pub(super) fn spare(&self) -> u32 {
        let segment = self.geometry.segment_bytes();
        let (mut takes, mut bytes) = (1u32, self.snapshot_flash.saturating_add(OPEN_BYTES_MAX));
        // No division: that is 400 bytes of code on a part without one.
        while let Some(rest) = bytes.checked_sub(segment).filter(|rest| *rest > 0 && segment > 0) {
            (bytes, takes) = (rest, takes.saturating_add(1));
        }
        // The newest snapshot, one that comes to nothing, its successor, one for a boot, one for entries.
        let ample = self.segments_usable() >= takes.wrapping_mul(2).saturating_add(3);
        takes.saturating_add(1).saturating_add(u32::from(ample))
    }

    /// Live segments that are still needed when the next one links to `link`: what came to nothing behind that, a
    /// snapshot that was given up or many boots in a row, fills no segment.
    fn kept_by(&self, link: Link) -> usize {
        let keep = self.order.iter().position(|s| s.saturating_add(1) == link.0);
        keep.map_or(0, |keep| keep.saturating_add(1))
    }

    /// Where the next segment has to link to.
    fn link_next(&self) -> Link {
        if self.snap.first.is_none() || self.boot != Boot::None {
            self.matter
        } else {
            self.tail.link()
        }
    }

    /// A snapshot that would end in another segment than it begins, or that is to free the very segment it
    /// would begin in, begins in a new one. The last one is opened only where it does not fit for certain.
    fn wants_fresh_segment(&self, last: bool, log: &mut Log) -> bool {
        if self.snap.first.is_some() || self.order.is_empty() {
            return false;
        }
        let restated = log.fit(self.snap.id.index, log.last().index, usize::MAX).1 as u32;
        let likely = self.snapshot_flash.saturating_add(restated);
        let ample = likely.saturating_add(likely.wrapping_shr(1)).saturating_add(256);
        let short = self.room() < if last { likely } else { ample };
        if self.matter.0 == self.tail.segment.saturating_add(1) {
            return short || (!last && self.order.len() == 1 && self.wants_snapshot());
        }
        // A quarter of a segment is to spare.
        let segment = self.geometry.segment_bytes();
        short && self.room() < segment.saturating_sub(segment.wrapping_shr(2))
    }

    /// Composes a record: here if it fits, else at the beginning of the next segment, if after that still
    /// `hold` segments are free. What does not fit beside the head of a segment or of a boot follows by itself.
    pub(super) fn record(
        &mut self,
        mut tag: u8,
        mut data: Data,
        hold: u32,
        hard_state: HardState,
        log: &mut Log,
        buf: &mut [u8],
    ) -> Result<Progress, Held> {
        let link = self.link_next();
        let mut it = Sections {
            geometry: geometry_word(&self.geometry),
            seq: self.seq.saturating_add(1),
            link,
            from: self.boot_from,
            retired: self.retired,
            record_max: self.buffer_bytes,
            note: self.note,
            identity: self.identity,
            checkpoint: self.checkpoint,
            hard_state,
            seal: self.tail.seed ^ salt(self.seq),
            snap: self.snap.id,
            snap_at: self.snap.bytes,
            ..Sections::EMPTY
        };
        if tag == CHECKPOINT {
            (it.checkpoint, it.before) = (self.snap.checkpoint(), self.checkpoint);
        }
        // The least that has to go along; at a boot, what is restated, whole or not at all.
        let restating = self.boot == Boot::Now;
        let mut least = 0;
        if let Data::Entries(after, last) = data {
            it.prev = EntryId::new(after, log.term(after).unwrap_or_default());
            tag |= if self.written == Some(it.prev) { ENTRIES } else { ENTRIES | FIRST };
            let last = if restating { last } else { after.next() };
            least = log.fit(after, last, usize::MAX).1 as u32;
        } else if let Data::Chunk(bytes) = data {
            least = bytes;
        }
        if self.boot != Boot::None {
            tag = BOOT | (tag & ENTRIES);
            tag |= if tag & ENTRIES != 0 { FIRST } else { 0 };
            if let Data::Chunk(_) = data {
                (data, least) = (Data::None, 0);
            }
        }
        let sections = it.encode(tag, &mut []) as u32;
        let size = self.geometry.padded(HEAD_BYTES.saturating_add(sections).saturating_add(least));
        if size > self.buffer_bytes {
            self.fault = Some(WalFault::Misused);
            return Err(Held::Room);
        }
        let dead = self.order.len().saturating_sub(self.kept_by(link)) as u32;
        let left = self.free().saturating_add(dead).saturating_sub(1);
        let is_chunk = matches!(data, Data::Chunk(_));
        let fresh = is_chunk && left >= hold && self.wants_fresh_segment(left == 0, log);
        if size <= self.room() && !fresh {
            let max = self.room().min(self.buffer_bytes);
            return Ok(self.compose(tag, &it, data, least, self.tail, max, log, buf));
        }
        if tag & KIND == SEAL || left < hold || self.free() == 0 {
            return Err(Held::Room);
        }
        let segment = *self.ready.first().ok_or(Held::Erase)?;
        it.erases = self.wear.erases(segment);
        it.written = self.written.unwrap_or_default();
        it.checkpoint = self.checkpoint;
        // As long as this one may decay, the next boot may need what it gives up: then it says nothing new.
        let plain = is_chunk || dead > 0;
        if plain {
            (it.hard_state, it.note) = (self.durable, self.note_durable);
        }
        tag = OPEN | (tag & (ENTRIES | FIRST));
        let max = if restating { self.buffer_bytes } else { OPEN_BYTES_MAX };
        let sections = it.encode(tag, &mut []) as u32;
        let fits = HEAD_BYTES.saturating_add(sections).saturating_add(least) <= max;
        if !fits || (plain && !restating) {
            (tag, data, least) = (OPEN, Data::None, 0);
        }
        // A boot shows what it restates once that is sealed, and the next one may have to stand behind.
        let behind = u32::from(self.geometry.page_bytes).saturating_add(OPEN_BYTES_MAX);
        let room = least.saturating_add(behind.wrapping_shl(1)) <= self.geometry.segment_bytes();
        if dead > 0 && room && !self.checkpoint.is_none() {
            tag |= NOTHING_NEW;
        }
        Ok(self.compose(tag, &it, data, least, Place::start_of(segment), max, log, buf))
    }

    /// Puts a record of at most `max` bytes into the buffer and sends it off to `at`; `least` bytes of data
    /// are known to fit.
    #[allow(clippy::too_many_arguments)]
    fn compose(
        &mut self,
        tag: u8,
        it: &Sections,
        data: Data,
        least: u32,
        at: Place,
        max: u32,
        log: &mut Log,
        buf: &mut [u8],
    ) -> Progress {
        let mut out = Outgoing {
            at,
            tag,
            crc: 0,
            total: 0,
            hard_state: it.hard_state,
            note: it.note,
            last: EntryId::ZERO,
            after: Index::ZERO,
            chunk_bytes: 0,
            matters: false,
            keep: self.kept_by(it.link) as u8,
            link: it.link,
        };
        let restating = self.boot == Boot::Now;
        let head = HEAD_BYTES as usize;
        let mut to = head.saturating_add(it.encode(tag, &mut []));
        let mut bytes = 0;
        if let Data::Entries(after, last) = data {
            // A boot must be able to restate it.
            let whole = self.buffer_bytes.saturating_sub(SECTIONS_BYTES_MAX) as usize;
            let room = (max as usize).saturating_sub(to).min(whole).max(least as usize);
            let (last, len) = log.fit(after, last, room);
            bytes = len;
            (out.after, out.last) = (after, EntryId::new(last, log.term(last).unwrap_or_default()));
            out.matters = (restating && self.boot_matters) || last > log.durable();
        } else if let Data::Chunk(len) = data {
            (out.chunk_bytes, bytes) = (len, len as usize);
        }
        // The commit index goes along where it fills padding that is programmed anyway.
        let with_commit = head.saturating_add(it.encode(tag | COMMIT, &mut []));
        let padded = |to: usize| self.geometry.padded(to.saturating_add(bytes) as u32);
        let newer = it.hard_state.commit > self.durable.commit && tag != CHUNK;
        if newer && padded(with_commit) == padded(to) {
            (out.tag, to) = (tag | COMMIT, with_commit);
        }
        let tag = out.tag;
        match data {
            Data::None => {}
            // The chunk moves down to where the sections will end, byte by byte: the two places overlap.
            Data::Chunk(_) => {
                for i in 0..bytes {
                    let byte = buf.get(SNAP_DATA_AT.saturating_add(i)).copied().unwrap_or_default();
                    if let Some(place) = buf.get_mut(to.saturating_add(i)) {
                        *place = byte;
                    }
                }
            }
            Data::Entries(after, _) => {
                let place = buf.get_mut(to..to.saturating_add(bytes)).unwrap_or_default();
                log.copy(after, out.last.index, place);
                if !restating {
                    log.write_begins(out.last.index);
                }
            }
        }
        let sections = it.encode(tag, buf.get_mut(head..).unwrap_or_default());
        let body = sections.saturating_add(bytes);
        let total = head.saturating_add(body);
        let [low, high] = (body as u16).to_le_bytes();
        copy(buf.get_mut(4..).unwrap_or_default(), &[low, high, tag]);
        out.total = total as u32;
        out.crc = checksum(at.seed, buf.get(4..total).unwrap_or_default());
        copy(buf, &out.crc.to_le_bytes());
        let len = self.geometry.padded(out.total);
        buf.get_mut(total..len as usize).unwrap_or_default().fill(self.geometry.erased);
        self.work = Work::Write(out);
        self.window.forget();
        Progress::Op(FlashOp::Write { offset: self.offset_of(&at), len })
    }

    /// The write has ended: read back what was written.
    pub(super) fn verify(
        &mut self,
        mut ok: bool,
        out: Outgoing,
        log: &mut Log,
        buf: &[u8],
    ) -> Option<Progress> {
        if ok {
            self.window.ahead = self.geometry.padded(out.total);
            // No more than was written, whatever its head says now: a chunk may wait in the buffer behind.
            match self.fetch(out.at.offset, &out.at, out.total) {
                Err(_) => {
                    self.work = Work::Verify(out);
                    return Some(self.window.op());
                }
                Ok(found) => ok = found.is_some_and(|at| out.is(buf.get(at..).unwrap_or_default())),
            }
        }
        self.window.forget();
        if ok {
            return self.record_ends(&out, log);
        }
        // The segment does not hold what was written, or it may: out of use with it, and on in the next one, which
        // must not have the same place in the order. Nor does anything follow in the one before: if this first record
        // stands after all, that ends at its link.
        let opens = out.tag & KIND == OPEN;
        self.closed = true;
        self.seq = self.seq.saturating_add(u32::from(opens));
        self.retire(out.at.segment);
        if self.phase == Phase::Founding {
            self.phase = Phase::Running;
            return Some(Progress::Formatted);
        }
        if out.tag == CHUNK && self.snap.active {
            self.abort_snapshot();
            return Some(Progress::SnapshotLost);
        }
        None
    }

    /// The record is in flash.
    fn record_ends(&mut self, out: &Outgoing, log: &mut Log) -> Option<Progress> {
        let kind = out.tag & KIND;
        let tells_all = tells_all(kind);
        let padded = self.geometry.padded(out.total);
        if kind == OPEN {
            self.order.truncate(usize::from(out.keep));
            let _ = self.order.push(out.at.segment);
            self.matter = out.link;
            self.seq = self.seq.saturating_add(1);
            self.ready.retain(|segment| *segment != out.at.segment);
            self.closed = false;
        }
        self.tail = Place {
            segment: out.at.segment,
            offset: out.at.offset.saturating_add(padded),
            seed: out.crc ^ salt(self.seq),
        };
        self.bytes_written = self.bytes_written.saturating_add(padded);
        self.records = self.records.saturating_add(1);
        self.unsealed = kind != SEAL;
        self.unproven = false;
        if tells_all || out.tag & HARD_STATE != 0 {
            (self.durable.term, self.durable.vote) = (out.hard_state.term, out.hard_state.vote);
        }
        if tells_all || out.tag & COMMIT != 0 {
            self.durable.commit = out.hard_state.commit;
        }
        if tells_all {
            self.note_durable = out.note;
        }
        if out.tag & ENTRIES != 0 {
            log.write_ends();
            self.written = Some(out.last);
            if self.snap.restated >= out.after {
                self.snap.restated = out.last.index;
            }
        }
        if out.matters || kind == CHECKPOINT {
            self.matter = self.tail.link();
        }
        if self.phase == Phase::Founding {
            // This segment was not erased: nothing more goes into it.
            (self.closed, self.phase) = (true, Phase::Running);
            self.tail.segment = FOUNDED_FIRST.saturating_sub(1);
            return Some(Progress::Formatted);
        }
        match core::mem::replace(&mut self.boot, Boot::None) {
            Boot::Now if kind == OPEN => {
                // It is sealed at once, or the next boot would need another segment.
                self.boot = Boot::Seal;
                return None;
            }
            Boot::Now | Boot::Seal => return self.mounted(),
            Boot::None if out.tag & (KIND | NOTHING_NEW) == OPEN | NOTHING_NEW => {
                self.boot = Boot::Certify;
            }
            Boot::None | Boot::Sealed | Boot::Owed | Boot::Certify => {}
        }
        match kind {
            CHECKPOINT => Some(self.checkpoint_ends()),
            CHUNK => self.chunk_ends(out.at, out.chunk_bytes, padded),
            SEAL => None,
            _ => Some(Progress::Durable),
        }
    }

    /// What the caller wants to be durable and is not yet: one record with all of it that fits.
    pub(super) fn group(
        &mut self,
        want: &Want,
        log: &mut Log,
        buf: &mut [u8],
    ) -> Option<Result<Progress, Held>> {
        let mounting = self.boot == Boot::Now;
        let mut hard_state = if mounting { self.durable } else { want.hard_state };
        hard_state.commit = hard_state.commit.max(self.durable.commit);
        let mut tag = 0;
        if (hard_state.term, hard_state.vote) != (self.durable.term, self.durable.vote) {
            tag |= HARD_STATE;
        }
        if self.note != self.note_durable {
            // With no entries, which have kinds of their own.
            match self.record(NOTE, Data::None, 1, hard_state, log, buf) {
                Err(Held::Room) => {}
                other => return Some(other),
            }
        }
        if want.commit_needed > self.durable.commit {
            hard_state.commit = hard_state.commit.max(want.commit_needed);
            tag |= COMMIT;
        }
        if mounting {
            let last = self.written.unwrap_or_default().index;
            let restated = self.boot_after.filter(|after| *after < last);
            let data = restated.map_or(Data::None, |after| Data::Entries(after, last));
            return Some(self.record(tag, data, 0, hard_state, log, buf));
        }
        let spare = self.spare();
        if log.last().index > log.durable() && self.free() >= spare {
            let data = Data::Entries(log.durable(), log.last().index);
            match self.record(tag, data, spare, hard_state, log, buf) {
                Err(Held::Room) => {}
                other => return Some(other),
            }
        }
        if tag == 0 {
            return None;
        }
        match self.record(tag, Data::None, 1, hard_state, log, buf) {
            Err(Held::Room) if self.free() == 0 => {
                self.fault = self.fault.or(Some(WalFault::Full));
                None
            }
            // A vote is worth more than a snapshot that does not fit any more.
            Err(Held::Room) if self.snap.first.is_some() => {
                self.abort_snapshot();
                Some(Ok(Progress::SnapshotLost))
            }
            other => Some(other),
        }
    }

    /// Marks the last record as written whole and acknowledged. Where that does not fit any more, the next
    /// segment is opened already: its link tells the same.
    pub(super) fn seal(&mut self, want: &Want, log: &mut Log, buf: &mut [u8]) -> Option<Progress> {
        let boot = matches!(self.boot, Boot::Now | Boot::Sealed | Boot::Owed);
        if !self.unsealed || boot || self.order.is_empty() {
            return None;
        }
        let commit = want.hard_state.commit.max(self.durable.commit);
        let tag = if commit > self.durable.commit { SEAL | COMMIT } else { SEAL };
        let hard_state = HardState { commit, ..self.durable };
        let sealing = core::mem::replace(&mut self.boot, Boot::None);
        let sealed = self.record(tag, Data::None, 0, hard_state, log, buf);
        self.boot = sealing;
        if let Ok(progress) = sealed {
            return Some(progress);
        }
        let dead = self.order.len().saturating_sub(self.kept_by(self.link_next())) as u32;
        if self.free().saturating_add(dead) <= self.spare() || self.ready.is_empty() {
            return None;
        }
        self.closed = true;
        self.record(HARD_STATE, Data::None, self.spare(), hard_state, log, buf).ok()
    }

    pub(super) fn mounted(&mut self) -> Option<Progress> {
        Some(Progress::Mounted(Mounted {
            identity: self.identity?,
            hard_state: self.durable,
            snapshot: self.snapshot()?,
            tail: self.tail_found,
        }))
    }
}
