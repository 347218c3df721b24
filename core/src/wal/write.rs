//! Writing: one record at a time, read back before it counts.

use super::record::{
    BOOT, CHECKPOINT, COMMIT, ENTRIES, FIRST, HARD_STATE, HEAD_BYTES_MAX, Head, OPEN,
    OPEN_BYTES_MAX, Place, SEAL, SECTIONS_BYTES_MAX, SNAP, Sections, checksum,
};
use super::types::{HardState, Mounted, Progress, WalFault, Want};
use super::{Boot, Job, SNAP_DATA_AT, Wal};
use crate::flash::FlashOp;
use crate::log::{Log, copy};
use crate::types::{EntryId, Index};

/// A record that is on its way to flash: what will be true when it is there.
#[derive(Clone, Copy)]
pub(super) struct Outgoing {
    at: Place,
    pub(super) flags: u16,
    crc: u32,
    total: u32,
    hard_state: HardState,
    /// What its entries follow, and the last of them.
    after: Index,
    last: EntryId,
    chunk_bytes: u32,
    link: Option<Place>,
    /// The log is not what it was without it.
    matters: bool,
}

impl Outgoing {
    pub(super) const NONE: Self = Self {
        at: Place { segment: 0, offset: 0, chain: 0 },
        flags: 0,
        crc: 0,
        total: 0,
        hard_state: HardState { term: crate::types::Term::ZERO, vote: None, commit: Index::ZERO },
        after: Index::ZERO,
        last: EntryId::ZERO,
        chunk_bytes: 0,
        link: None,
        matters: false,
    };
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

/// A head and sections with room to spare; a checkpoint in a first record is the longest.
type Scratch = [u8; 192];

impl Wal {
    /// Bytes that are left in the segment in use.
    pub(super) fn room(&self) -> u32 {
        if self.order.is_empty() || self.closed {
            return 0;
        }
        self.geometry.segment_bytes().saturating_sub(self.tail.offset)
    }

    /// Entries may be logged only while so many segments stay free: one for a boot, and what a snapshot takes.
    pub(super) fn spare(&self) -> u32 {
        let snapshot = self.checkpoint.map_or(0, |checkpoint| checkpoint.bytes);
        let with_heads = snapshot.saturating_add(snapshot.wrapping_shr(2));
        let segments = with_heads.div_ceil(self.geometry.segment_bytes().max(1)).max(1);
        segments.saturating_add(1)
    }

    /// Segments behind the one that `link` leads to: dead as soon as the next one is opened with it.
    fn dead_behind(&self, link: Option<Place>) -> u32 {
        let keep = link.and_then(|link| self.order.iter().position(|s| *s == link.segment));
        self.order.len().saturating_sub(keep.map_or(0, |keep| keep.saturating_add(1))) as u32
    }

    /// A snapshot that would end in another segment than it begins, or that is to free the very segment it
    /// would begin in, begins in a new one.
    fn wants_fresh_segment(&self, log: &Log) -> bool {
        if self.snap.first.is_some() || self.order.is_empty() {
            return false;
        }
        let snapshot = self.checkpoint.map_or(0, |checkpoint| checkpoint.bytes);
        let likely = snapshot.saturating_add(log.bytes_used() as u32);
        let likely = likely.saturating_add(likely.wrapping_shr(1)).saturating_add(256);
        let short = self.room() < likely;
        if self.matter.segment == self.tail.segment {
            return short || self.wants_snapshot();
        }
        short && self.room() < self.geometry.segment_bytes().wrapping_shr(1)
    }

    /// Where the next segment has to link to: to the last record that matters, so that what came to
    /// nothing behind it, a snapshot that was given up or many boots in a row, fills no segment.
    fn link_next(&self) -> Option<Place> {
        if self.order.is_empty() {
            return None;
        }
        match self.boot {
            Boot::Now if self.last_matters && self.last.offset == self.cert_bytes() => self.link,
            Boot::Now if self.last_matters => Some(self.last_link),
            _ if self.snap.first.is_some() => Some(self.tail),
            _ => Some(self.matter),
        }
    }

    /// Composes a record: here if it fits, else at the beginning of the next segment, if after that still
    /// `hold` segments are free. What does not fit beside the head of a segment or of a boot follows by itself.
    pub(super) fn record(
        &mut self,
        mut it: Sections<'_>,
        mut data: Data,
        hold: u32,
        log: &mut Log,
        buf: &mut [u8],
    ) -> Result<Progress, Held> {
        let mut scratch: Scratch = [0; 192];
        it.checkpoint_at = self.checkpoint_at;
        it.record_max = self.buffer_bytes;
        it.retired = self.retired;
        it.ready = self.ready;
        if self.boot != Boot::None {
            it.flags |= BOOT | HARD_STATE | (self.last_flags & COMMIT);
            it.from = self.last_link.offset;
            if matches!(data, Data::Chunk(_)) {
                (it.flags, data) = (it.flags & !SNAP, Data::None);
            }
        }
        let data_min = match data {
            Data::None => 0,
            Data::Entries(after, _) => log.fit(after, after.next(), usize::MAX).1 as u32,
            Data::Chunk(bytes) => bytes,
        };
        let forced = self.boot == Boot::Now && self.last.offset == self.cert_bytes();
        let link = self.link_next();
        let left = self.free().saturating_add(self.dead_behind(link)).saturating_sub(1);
        let fresh =
            matches!(data, Data::Chunk(_)) && left >= hold.max(1) && self.wants_fresh_segment(log);
        let restating = self.boot == Boot::Now && self.last_matters;
        let size = |it: &Sections<'_>, scratch: &mut Scratch, data: u32| {
            let body = (it.encode(scratch) as u32).saturating_add(data);
            (Head::encode(it.flags, body, scratch) as u32).saturating_add(body)
        };
        // A boot restates a record whole or not at all.
        let data_all = match data {
            Data::Entries(after, last) if restating => log.fit(after, last, usize::MAX).1 as u32,
            _ => data_min,
        };
        let least = self.geometry.padded(size(&it, &mut scratch, data_all));
        if least > self.buffer_bytes {
            self.fault = Some(WalFault::Misused);
            return Err(Held::Room);
        }
        if least <= self.room() && !forced && !fresh {
            it.seal = self.tail.chain;
            let max = self.room().min(self.buffer_bytes);
            return Ok(self.compose(it, data, data_all, self.tail, max, log, buf));
        }
        if it.has(SEAL) {
            return Err(Held::Room);
        }
        if left < hold || (self.free() == 0) {
            return Err(Held::Room);
        }
        let segment = self.next_ready().ok_or(Held::Erase)?;
        it.flags = (it.flags & !BOOT) | OPEN | HARD_STATE;
        // The record that told it may be one of those that the link skips.
        if it.commit > Index::ZERO {
            it.flags |= COMMIT;
        }
        if it.has(ENTRIES) {
            it.flags |= FIRST;
        }
        it.seq = self.seq.saturating_add(1);
        it.link = link;
        it.ready = [self.ready.get(1).copied().unwrap_or(0), 0];
        let max = if restating { self.buffer_bytes } else { OPEN_BYTES_MAX };
        if size(&it, &mut scratch, data_all) > max {
            it.flags &= !(SNAP | ENTRIES | FIRST);
            data = Data::None;
        }
        let at = Place {
            segment,
            offset: self.cert_bytes(),
            chain: self.ready_chain.first().copied().unwrap_or(0),
        };
        Ok(self.compose(it, data, data_all, at, max, log, buf))
    }

    /// Puts a record of at most `max` bytes into the buffer and sends it off to `at`; `data_min` bytes of
    /// data are known to fit.
    #[allow(clippy::too_many_arguments)]
    fn compose(
        &mut self,
        mut it: Sections<'_>,
        data: Data,
        data_min: u32,
        at: Place,
        max: u32,
        log: &mut Log,
        buf: &mut [u8],
    ) -> Progress {
        let mut scratch: Scratch = [0; 192];
        let restating = self.boot == Boot::Now && self.last_matters;
        let mut sections = it.encode(&mut scratch);
        let mut outgoing = Outgoing { at, link: it.link, ..Outgoing::NONE };
        let mut data_bytes = 0usize;
        match data {
            Data::None => {}
            Data::Chunk(bytes) => {
                data_bytes = bytes as usize;
                outgoing.chunk_bytes = bytes;
            }
            Data::Entries(after, last) => {
                let whole = self.buffer_bytes.saturating_sub(SECTIONS_BYTES_MAX) as usize;
                let mut head = [0; HEAD_BYTES_MAX];
                let heads = sections.saturating_add(Head::encode(it.flags, max, &mut head));
                let room = (max as usize).saturating_sub(heads).min(whole);
                let room = if restating { 0 } else { room }.max(data_min as usize);
                let (last, bytes) = log.fit(after, last, room);
                data_bytes = bytes;
                outgoing.after = after;
                outgoing.last = EntryId::new(last, log.term(last).unwrap_or_default());
                outgoing.matters = restating || last > log.durable();
            }
        }
        // The commit index goes along where it fills padding that is programmed anyway.
        let size = |sections: usize, flags: u16| {
            let mut head = [0; HEAD_BYTES_MAX];
            let body = sections.saturating_add(data_bytes);
            let head = Head::encode(flags, body as u32, &mut head);
            self.geometry.padded(head.saturating_add(body) as u32)
        };
        if !it.has(COMMIT) && it.commit > self.durable.commit {
            let with = Sections { flags: it.flags | COMMIT, ..it };
            let longer = with.encode(&mut scratch);
            let padded = size(longer, with.flags);
            if padded == size(sections, it.flags) && padded <= max {
                it = with;
                sections = longer;
            } else {
                sections = it.encode(&mut scratch);
            }
        }
        let body = sections.saturating_add(data_bytes);
        let head = Head::encode(it.flags, body as u32, buf);
        let data_at = head.saturating_add(sections);
        let total = head.saturating_add(body);
        match data {
            Data::None => {}
            // The chunk moves down to where the sections end, byte by byte, since the two places overlap.
            Data::Chunk(_) => {
                for i in 0..data_bytes {
                    let byte = buf.get(SNAP_DATA_AT.saturating_add(i)).copied().unwrap_or_default();
                    if let Some(place) = buf.get_mut(data_at.saturating_add(i)) {
                        *place = byte;
                    }
                }
            }
            Data::Entries(after, _) => {
                let place = buf.get_mut(data_at..total).unwrap_or_default();
                log.copy(after, outgoing.last.index, place);
                if !restating {
                    log.write_begins(outgoing.last.index);
                }
            }
        }
        copy(
            buf.get_mut(head..data_at).unwrap_or_default(),
            scratch.get(..sections).unwrap_or_default(),
        );
        outgoing.flags = it.flags;
        outgoing.hard_state = HardState { term: it.term, vote: it.vote, commit: it.commit };
        outgoing.total = total as u32;
        outgoing.crc = checksum(at.chain, buf.get(4..total).unwrap_or_default());
        copy(buf, &outgoing.crc.to_le_bytes());
        let len = self.geometry.padded(outgoing.total);
        buf.get_mut(total..len as usize).unwrap_or_default().fill(self.geometry.erased);
        self.outgoing = outgoing;
        self.job = Job::Write;
        self.window.forget();
        Progress::Op(FlashOp::Write { offset: self.offset_of(&at), len })
    }

    /// The write has ended: read back what was written.
    pub(super) fn written(&mut self, ok: bool, log: &mut Log, buf: &[u8]) -> Option<Progress> {
        let Outgoing { at, total, crc, .. } = self.outgoing;
        if !ok {
            return self.write_failed();
        }
        self.window.ahead = 0;
        let (from, have) = match self.fetch(at.segment, at.offset, at.offset, total) {
            Ok(found) => found,
            Err(op) => {
                self.job = Job::Verify;
                return Some(Progress::Op(op));
            }
        };
        let bytes = buf.get(from..from.saturating_add(total as usize)).unwrap_or_default();
        let (stored, rest) = bytes.split_at_checked(4).unwrap_or_default();
        self.window.forget();
        if have < total as usize || stored != crc.to_le_bytes() || checksum(at.chain, rest) != crc {
            return self.write_failed();
        }
        self.record_ends(log)
    }

    /// The segment does not hold what was written: out of use with it, and on in the next one.
    fn write_failed(&mut self) -> Option<Progress> {
        self.job = Job::None;
        self.window.forget();
        let Outgoing { at, flags, .. } = self.outgoing;
        if flags & OPEN == 0 {
            self.closed = true;
        }
        self.retire(at.segment);
        if flags & SNAP != 0 {
            self.abort_snapshot();
            return Some(Progress::SnapshotLost);
        }
        None
    }

    /// The record is in flash.
    fn record_ends(&mut self, log: &mut Log) -> Option<Progress> {
        self.job = Job::None;
        let done = core::mem::replace(&mut self.outgoing, Outgoing::NONE);
        let has = |flags: u16| done.flags & flags != 0;
        (self.last, self.last_link) = (done.at, done.at);
        let padded = self.geometry.padded(done.total);
        self.tail = Place {
            segment: done.at.segment,
            offset: done.at.offset.saturating_add(padded),
            chain: done.crc,
        };
        self.bytes_written = self.bytes_written.saturating_add(padded);
        self.records = self.records.saturating_add(1);
        self.unsealed = !has(SEAL);
        if has(OPEN) {
            let dead = self.dead_behind(done.link) as usize;
            self.order.truncate(self.order.len().saturating_sub(dead));
            let _ = self.order.push(done.at.segment);
            if done.link.is_none() {
                self.matter = done.at;
            }
            self.link = done.link;
            self.seq = self.seq.saturating_add(1);
            self.take_ready();
            self.closed = false;
        }
        let mounting = self.boot == Boot::Now;
        let opened = self.boot == Boot::Opened;
        if has(OPEN | BOOT) || opened {
            let boot_opens = mounting && has(OPEN);
            self.boot = if boot_opens { Boot::Opened } else { Boot::None };
        }
        if has(HARD_STATE) {
            self.durable.term = done.hard_state.term;
            self.durable.vote = done.hard_state.vote;
        }
        if has(COMMIT) {
            self.durable.commit = done.hard_state.commit;
        }
        if has(OPEN) {
            // What the chain has skipped says nothing any more.
            self.written = None;
        }
        if has(ENTRIES) {
            log.write_ends();
            self.written = Some(done.last);
            if self.snap.restated >= done.after {
                self.snap.restated = done.last.index;
            }
        }
        if done.matters || has(CHECKPOINT) {
            self.matter = self.tail;
        }
        if has(CHECKPOINT) {
            self.checkpoint_at = Some(done.at);
            if !mounting {
                return Some(self.checkpoint_ends());
            }
        }
        if mounting || opened {
            return if self.boot == Boot::Opened { None } else { self.mounted() };
        }
        if has(SNAP) {
            self.chunk_ends(done.at, done.chunk_bytes);
            return (!self.snap.ending).then_some(Progress::ChunkWritten);
        }
        (!has(SEAL)).then_some(Progress::Durable)
    }

    /// What the caller wants to be durable and is not yet: one record with all of it that fits.
    pub(super) fn group(
        &mut self,
        want: &Want,
        log: &mut Log,
        buf: &mut [u8],
    ) -> Option<Result<Progress, Held>> {
        let mut it = self.base(want);
        let mut flags = 0;
        if (want.hard_state.term, want.hard_state.vote) != (self.durable.term, self.durable.vote) {
            flags |= HARD_STATE;
        }
        if want.commit_needed > self.durable.commit {
            it.commit = it.commit.max(want.commit_needed);
            flags |= COMMIT;
        }
        let spare = self.spare();
        if log.last().index > log.durable() && self.free() >= spare {
            let after = log.durable();
            it.flags = flags | self.entries_flags(&mut it.prev, after, log);
            let data = Data::Entries(after, log.last().index);
            match self.record(it, data, spare, log, buf) {
                Err(Held::Room) => {}
                other => return Some(other),
            }
        }
        if flags == 0 {
            return None;
        }
        it.flags = flags;
        match self.record(it, Data::None, 1, log, buf) {
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

    /// A record's hard state and commit index, without flags.
    pub(super) fn base(&self, want: &Want) -> Sections<'static> {
        Sections {
            term: want.hard_state.term,
            vote: want.hard_state.vote,
            commit: want.hard_state.commit.max(self.durable.commit),
            ..Sections::default()
        }
    }

    /// Entries behind `after` need to say so unless they continue what was written last.
    pub(super) fn entries_flags(&self, prev: &mut EntryId, after: Index, log: &mut Log) -> u16 {
        *prev = EntryId::new(after, log.term(after).unwrap_or_default());
        if self.written == Some(*prev) { ENTRIES } else { ENTRIES | FIRST }
    }

    /// The first record after a mount that ended in doubt.
    pub(super) fn boot_record(&mut self, log: &mut Log, buf: &mut [u8]) -> Result<Progress, Held> {
        let HardState { term, vote, commit } = self.durable;
        let mut it = Sections { term, vote, commit, ..Sections::default() };
        it.flags = BOOT | HARD_STATE;
        let mut data = Data::None;
        if self.last_matters && self.last_flags & ENTRIES != 0 {
            let after = self.last_prev.max(log.base().index);
            if after < log.last().index {
                self.entries_flags(&mut it.prev, after, log);
                it.flags |= ENTRIES | FIRST;
                data = Data::Entries(after, log.last().index);
            }
        }
        if self.last_matters && self.last_flags & CHECKPOINT != 0 {
            it.checkpoint = self.checkpoint;
            it.flags |= CHECKPOINT;
        }
        self.record(it, data, 0, log, buf)
    }

    /// Marks the last record as written whole and acknowledged. Where that does not fit any more, the next
    /// segment is opened already: its link tells the same.
    pub(super) fn seal(&mut self, want: &Want, log: &mut Log, buf: &mut [u8]) -> Option<Progress> {
        if !self.unsealed || self.boot != Boot::None || self.order.is_empty() {
            return None;
        }
        let mut it = self.base(want);
        (it.term, it.vote) = (self.durable.term, self.durable.vote);
        it.flags = SEAL;
        if it.commit > self.durable.commit {
            it.flags |= COMMIT;
        }
        if let Ok(progress) = self.record(it, Data::None, 0, log, buf) {
            return Some(progress);
        }
        let left = self.free().saturating_add(self.dead_behind(self.link_next()));
        if left <= self.spare() || self.next_ready().is_none() {
            return None;
        }
        self.closed = true;
        it.flags = HARD_STATE;
        self.record(it, Data::None, self.spare(), log, buf).ok()
    }

    pub(super) fn mounted(&mut self) -> Option<Progress> {
        let checkpoint = self.checkpoint?;
        Some(Progress::Mounted(Mounted {
            identity: checkpoint.identity,
            hard_state: self.durable,
            snapshot: checkpoint.info(),
            tail: self.tail_found,
        }))
    }
}
