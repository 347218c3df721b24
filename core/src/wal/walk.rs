//! Walking along a chain of records, and what to make of the place where it breaks.

use super::Wal;
use super::read::{Halt, Io};
use super::record::{
    BOOT, CHECKPOINT, CHUNK, COMMIT, ENTRIES, FIRST, HARD_STATE, HEAD_BYTES, KIND, OPEN, Place,
    SEAL, tells_all,
};
use super::types::MountError;
use crate::entry::Entries;
use crate::log::{Appended, Log};
use crate::types::EntryId;

/// A walk through one segment.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    /// The record that is looked at, then where the last good records start, which a boot may continue; the newest
    /// first.
    pub(super) recent: [Place; 5],
    /// The record before, and whether it is still to be loaded: not before its successor, or the end, is known, for a
    /// boot that comes later may declare it void.
    pub(super) pending: Place,
    held: bool,
    stage: Stage,
    /// The segment's.
    salt: u32,
    /// Where the segment ends, if that is known; else 0.
    limit: u32,
    /// Where the record that is looked at ends.
    next: Place,
    /// The search ends here at the latest.
    pub(super) reach: u32,
    /// The search has come so far; nothing is written from `dirty` on.
    search: u32,
    pub(super) dirty: u32,
    /// What the checksum of the broken record's successor may start from.
    seeds: [u32; 2],
    /// What that of the record at `next` may start from besides.
    other: u32,
    /// The last boot behind the break that goes on from a good record, if there is one, and that record's number in
    /// `recent`; else 0.
    boot: u32,
    boot_last: usize,
    /// Something that was acknowledged stands behind the break.
    rotten: bool,
    /// One of those behind the break is none that a founding writes before it is done.
    founded: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Follow,
    /// The record is whole, and the next one is at `next`.
    Count,
    /// The chain is broken: what is left of the record there?
    Broken,
    /// A chunk of a snapshot, by what is left of it; its successor would be at `next`.
    Skip,
    Search,
    /// If a record is at `next`, the one before it was written whole.
    Successor,
}

impl Walk {
    /// All zeros.
    pub(super) const NONE: Self = Self {
        recent: [Place::NOWHERE; 5],
        pending: Place::NOWHERE,
        held: false,
        stage: Stage::Follow,
        salt: 0,
        limit: 0,
        next: Place::NOWHERE,
        reach: 0,
        search: 0,
        dirty: 0,
        seeds: [0; 2],
        other: 0,
        boot: 0,
        boot_last: 0,
        rotten: false,
        founded: false,
    };

    /// With `limit`, the segment ends there.
    #[inline(never)]
    pub(super) const fn begin(&mut self, at: Place, salt: u32, limit: u32) {
        self.recent = [Place::NONE; 5];
        let [first, ..] = &mut self.recent;
        *first = at;
        (self.pending, self.held, self.stage) = (Place::NONE, false, Stage::Follow);
        (self.salt, self.limit, self.reach) = (salt, limit, u32::MAX);
        (self.dirty, self.founded) = (0, false);
    }

    /// The record that is looked at.
    pub(super) const fn at(&self) -> Place {
        let [at, ..] = self.recent;
        at
    }

    /// The next record to look at is at `at`, and the last good one is that with this number in `recent`.
    fn go_on(&mut self, at: Place, last: usize) {
        let mut rest = self.recent.into_iter().skip(last);
        let [first, others @ ..] = &mut self.recent;
        *first = at;
        for place in others {
            *place = rest.next().unwrap_or(Place::NONE);
        }
        self.stage = Stage::Follow;
    }

    /// The boot that was found restates a record, and stands where that stood in the chain.
    fn go_on_at_boot(&mut self) {
        let from = self.recent.get(self.boot_last).copied().unwrap_or(Place::NONE);
        self.go_on(Place { offset: self.boot, ..from }, self.boot_last);
        if self.pending.offset >= from.offset {
            (self.pending, self.held) = (Place::NONE, false);
        }
    }
}

impl Wal {
    pub(super) fn corrupt(&self, io: &mut Io<'_>, place: &Place) -> Halt {
        let offset = self.offset_of(place);
        io.refuse(MountError::Corrupt { segment: place.segment, offset })
    }

    /// There should be a record. In the newest segment there was one a moment ago: its end is known.
    fn lost(&self, io: &mut Io<'_>) -> Halt {
        let at = self.mount.walk.at();
        if self.order.last() == Some(&at.segment) {
            return Halt::Unstable;
        }
        self.corrupt(io, &at)
    }

    /// Follows the chain to its end. Without `load` it takes over what the records say of everything but
    /// the log; with it, only the entries and the chunks of the newest snapshot.
    pub(super) fn walk(&mut self, io: &mut Io<'_>, load: bool) -> Result<(), Halt> {
        // Every turn moves on along the segment.
        loop {
            let Walk { limit, next, .. } = self.mount.walk;
            let at = self.mount.walk.at();
            let ahead = if limit > 0 { limit.saturating_sub(at.offset) } else { self.buffer_bytes };
            // What is held back stays in the buffer beside the record that is looked at.
            let together = self.mount.walk.held && self.mount.walk.stage == Stage::Follow;
            let base = if together { self.offset_of(&self.mount.walk.pending) } else { 0 };
            self.window.plan(ahead, base);
            match self.mount.walk.stage {
                Stage::Follow if limit > 0 && at.offset >= limit => {
                    if at.offset > limit {
                        return Err(self.lost(io));
                    }
                    return self.load_pending(io, load);
                }
                Stage::Follow => {
                    if !self.look(io, &at)? {
                        self.mount.walk.stage = Stage::Broken;
                        continue;
                    }
                    if !load {
                        if !io.says() {
                            return Err(self.corrupt(io, &at));
                        }
                        self.take_over(io);
                        if let Some(error) = self.buffer_too_small(self.all.record_max) {
                            return Err(io.refuse(error));
                        }
                    }
                    self.mount.walk.next = self.end_of(io, &at, self.mount.walk.salt);
                    self.mount.walk.stage = Stage::Count;
                }
                Stage::Count => {
                    self.load_pending(io, load)?;
                    self.mount.walk.go_on(next, 0);
                    (self.mount.walk.pending, self.mount.walk.held) = (at, true);
                }
                Stage::Broken => self.broken(io, &at)?,
                Stage::Skip => {
                    // A chunk can be missed; the log can't.
                    if self.look(io, &next)? {
                        self.skip(&at, next);
                    } else {
                        self.mount.walk.stage = Stage::Search;
                    }
                }
                Stage::Search | Stage::Successor => {
                    if self.search(io)? {
                        self.mount.walk.go_on_at_boot();
                        continue;
                    }
                    // The last one of its segment; a torn one, which may be as long, has a boot behind it.
                    if limit > 0 && self.is_chunk(io, &at)? {
                        let next = self.end_of(io, &at, 0);
                        if next.offset == limit {
                            self.skip(&at, next);
                            continue;
                        }
                    }
                    // A founding that was cut short, and then erased and cut short, leaves records behind too.
                    let founded = self.mount.walk.founded || !self.all.checkpoint.is_none();
                    if (self.mount.walk.rotten && founded) || limit > 0 {
                        return Err(self.lost(io));
                    }
                    self.window.plan(0, 0);
                    return self.load_pending(io, load);
                }
            }
        }
    }

    /// What is left of a record that does not check?
    #[inline(never)]
    fn broken(&mut self, io: &mut Io<'_>, at: &Place) -> Result<(), Halt> {
        let salt = self.mount.walk.salt;
        let mut stage = Stage::Search;
        let mut seeds = [salt; 2];
        if self.fetch(io, at, HEAD_BYTES)? {
            seeds = [io.bytes(4).first_chunk().map_or(0, |crc| u32::from_le_bytes(*crc)) ^ salt; 2];
        }
        if self.look_unchecked(io, at)? {
            seeds[1] = io.checksum(at.seed) ^ salt;
        }
        if self.is_chunk(io, at)? {
            self.mount.walk.next = self.end_of(io, at, salt);
            stage = Stage::Skip;
        }
        let walk = &mut self.mount.walk;
        (walk.seeds, walk.rotten, walk.stage) = (seeds, false, stage);
        (walk.search, walk.dirty, walk.boot) = (at.offset, at.offset, 0);
        Ok(())
    }

    /// Was the record there, which does not check, a chunk of a snapshot? Nothing else must pass for one.
    fn is_chunk(&mut self, io: &mut Io<'_>, at: &Place) -> Result<bool, Halt> {
        let whole = self.look_unchecked(io, at)?;
        Ok(io.head.tag == CHUNK && !(whole && io.follows_with_another_tag(at.seed)))
    }

    /// The chunk at `at` is missed; the next record is at `next`.
    const fn skip(&mut self, at: &Place, next: Place) {
        self.mount.damage = *at;
        let [first, ..] = &mut self.mount.walk.recent;
        *first = next;
        self.mount.walk.stage = Stage::Follow;
    }

    /// Looks through the rest of the segment: for a boot that goes on from a good record, for what only
    /// an acknowledged record can have behind it, and for the end of what is written. True if there is a boot: the last
    /// one, for one that was torn may read well now, and void what a later one goes on from. Behind one with a record that
    /// follows it, there is none.
    #[inline(never)]
    fn search(&mut self, io: &mut Io<'_>) -> Result<bool, Halt> {
        let Walk { limit, reach, .. } = self.mount.walk;
        let end = if limit > 0 { limit } else { u32::MAX };
        let end = end.min(reach).min(self.segment_bytes());
        while self.mount.walk.search < end {
            if self.mount.walk.stage == Stage::Successor {
                let Walk { next, other, .. } = self.mount.walk;
                if self.look_unchecked(io, &next)? && (io.follows(next.seed) || io.follows(other)) {
                    if self.mount.walk.boot > 0 {
                        return Ok(true);
                    }
                    self.acknowledged(io);
                }
                self.mount.walk.stage = Stage::Search;
            } else {
                let offset = self.mount.walk.search;
                let here = Place { offset, ..self.mount.walk.at() };
                let next = offset.wrapping_add(self.word());
                let len = HEAD_BYTES.min(end.saturating_sub(offset));
                if self.fetch(io, &here, len)? {
                    let blank = self.is_blank(io.bytes(len));
                    if !self.is_blank(io.bytes(self.word())) {
                        self.mount.walk.dirty = self.mount.walk.dirty.max(next);
                    }
                    if !blank {
                        self.search_at(io, &here)?;
                    }
                } else {
                    self.mount.walk.dirty = self.mount.walk.dirty.max(next);
                }
                if self.mount.walk.stage == Stage::Successor {
                    continue;
                }
            }
            self.mount.walk.search = self.mount.walk.search.wrapping_add(self.word());
        }
        Ok(self.mount.walk.boot > 0)
    }

    /// The record that was looked at could not stand there, had the broken one not been acknowledged.
    const fn acknowledged(&mut self, io: &Io<'_>) {
        self.mount.walk.rotten = true;
        self.mount.walk.founded |= !matches!(io.head.kind(), OPEN | CHUNK);
    }

    /// What may begin at `here`.
    fn search_at(&mut self, io: &mut Io<'_>, here: &Place) -> Result<(), Halt> {
        let whole = self.look_unchecked(io, here)?;
        if io.head.tag == 0 {
            return Ok(());
        }
        let kind = io.head.kind();
        let next = self.end_of(io, here, self.mount.walk.salt);
        let is_broken = here.offset == self.mount.walk.at().offset;
        let walk = &mut self.mount.walk;
        if (is_broken || kind == BOOT) && io.head.total <= self.all.record_max {
            // Programmed bytes may read as erased ones.
            walk.dirty = walk.dirty.max(next.offset);
        }
        if !whole {
            return Ok(());
        }
        let says = matches!(kind, BOOT | SEAL) && io.says();
        if kind == BOOT && says && io.it.from <= here.offset {
            for (i, from) in walk.recent.into_iter().enumerate() {
                if from.offset == io.it.from && io.follows(from.seed) {
                    (walk.boot, walk.boot_last) = (here.offset, i);
                    (walk.next, walk.other, walk.stage) = (next, next.seed, Stage::Successor);
                    return Ok(());
                }
            }
        }
        if walk.boot > 0 {
            return Ok(());
        }
        let [stored, computed] = walk.seeds;
        let successor = !is_broken && (io.follows(stored) || io.follows(computed));
        if successor || (kind == SEAL && says && io.follows(io.it.seal ^ walk.salt)) {
            self.acknowledged(io);
        }
        if !self.mount.walk.rotten || self.all.checkpoint.is_none() {
            let walk = &mut self.mount.walk;
            walk.other = if is_broken { computed } else { next.seed };
            (walk.next, walk.stage) = (next, Stage::Successor);
        }
        Ok(())
    }

    /// Takes over what a record says of everything but the log.
    pub(super) fn take_over(&mut self, io: &Io<'_>) {
        let (tag, all) = (io.head.tag, &io.it.all);
        if tells_all(tag & KIND) {
            self.all = *all;
        }
        let own = &mut self.all.hard_state;
        if tag & HARD_STATE != 0 {
            (own.term, own.vote) = (all.hard_state.term, all.hard_state.vote);
        }
        if tag & COMMIT != 0 {
            own.commit = all.hard_state.commit;
        }
    }

    /// Loads the record that was held back.
    fn load_pending(&mut self, io: &mut Io<'_>, load: bool) -> Result<(), Halt> {
        if !load || !self.mount.walk.held {
            return Ok(());
        }
        let at = self.mount.walk.pending;
        if !self.look(io, &at)? {
            return Err(Halt::Unstable);
        }
        if !io.says() {
            return Err(self.corrupt(io, &at));
        }
        let (tag, kind) = (io.head.tag, io.head.kind());
        self.mount.walk.held = false;
        self.mount.last_tag = tag;
        // A boot stands in for the record that it restates.
        self.boot_from = if kind == BOOT { io.it.from } else { at.offset };
        self.boot_after = None;
        let end = self.end_of(io, &at, self.mount.walk.salt);
        match kind {
            OPEN => self.written = Some(io.it.written),
            CHUNK
                if !self.mount.reached
                    && io.it.snap == self.all.checkpoint.id
                    && io.it.snap_at == self.mount.chunk_at =>
            {
                let bytes = io.data().0.len() as u32;
                self.mount.chunk_at = self.mount.chunk_at.wrapping_add(bytes);
                let padded = self.padded(io.head.total);
                self.snapshot_flash = self.snapshot_flash.wrapping_add(padded);
            }
            // What a snapshot of a leader's has made void can't take its place.
            CHECKPOINT if io.it.all.checkpoint.installed == 0 => self.snap.to = io.it.before,
            _ => {}
        }
        if tells_all(kind) && !self.mount.reached && io.it.all.checkpoint == self.all.checkpoint {
            self.mount.reached = true;
            self.matter = if kind == OPEN { io.it.link } else { end.link() };
            if self.all.checkpoint.installed != 0 {
                io.log.reset(self.all.checkpoint.id);
                self.mount.gap = false;
            } else if self.mount.gap {
                return Err(self.corrupt(io, &at));
            }
        }
        if tag & ENTRIES != 0 && self.load_entries(io, &at)? {
            self.matter = end.link();
        }
        Ok(())
    }

    /// Puts the entries of a record into the log, as a follower does with those of a leader (Raft §5.3):
    /// what is there already stays, what differs gives way. Has the log changed?
    fn load_entries(&mut self, io: &mut Io<'_>, at: &Place) -> Result<bool, Halt> {
        let Some((prev, last)) = self.entries(io) else {
            return Err(self.corrupt(io, at));
        };
        self.written = Some(last);
        self.boot_after = Some(prev.index);
        let first = io.head.tag & FIRST != 0;
        let (data, log) = io.data();
        let base = log.base().index;
        let attached = if first { prev.index < base || log.holds(prev) } else { !self.mount.gap };
        if !attached {
            // Behind the first chunk of a snapshot and before what is restated for it.
            self.mount.gap = true;
            return Ok(false);
        }
        let before = (log.last(), knows(log, last));
        let appended = log.append_entries(Entries::new(prev, data), base);
        let changed = before != (log.last(), knows(log, last));
        self.mount.gap = match appended {
            Appended::Conflict(_) => true,
            Appended::UpTo(_) => false,
            Appended::FullAfter(_) => {
                let bytes_needed = log.bytes_capacity().wrapping_add(data.len());
                return Err(io.refuse(MountError::LogTooSmall { bytes_needed }));
            }
            Appended::Malformed => return Err(self.corrupt(io, at)),
        };
        Ok(!self.mount.gap && changed)
    }

    /// What the entries of the record that was looked at follow, and the last of them.
    pub(super) fn entries(&self, io: &mut Io<'_>) -> Option<(EntryId, EntryId)> {
        let prev = if io.head.tag & FIRST != 0 { io.it.prev } else { self.written? };
        let mut last = prev;
        for entry in Entries::new(prev, io.data().0) {
            last = entry.ok()?.id;
        }
        Some((prev, last))
    }
}

fn knows(log: &mut Log, id: EntryId) -> bool {
    id.index <= log.base().index || log.holds(id)
}
