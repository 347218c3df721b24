//! Walking along a chain of records, and what to make of the place where it breaks.

use super::Wal;
use super::mount::{Halt, Mount};
use super::read::{Miss, body_of, says};
use super::record::{
    BOOT, CHECKPOINT, CHUNK, COMMIT, ENTRIES, FIRST, HARD_STATE, HEAD_BYTES, Head, KIND, OPEN,
    Place, SEAL, Sections, tells_all,
};
use super::types::MountError;
use crate::check::checksum;
use crate::entry::Entries;
use crate::log::{Appended, Log};
use crate::types::EntryId;

/// A walk through one segment.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    /// The record that is looked at.
    pub(super) at: Place,
    /// The segment's.
    salt: u32,
    /// Where the segment ends, if that is known; else 0.
    limit: u32,
    stage: Stage,
    /// The record before, which is loaded once its successor, or the end, is known: until then a boot that
    /// comes later may declare it void.
    pending: Option<Place>,
    /// Where the last good records start, which a boot may continue; the newest first.
    pub(super) recent: [Option<Place>; 4],
    /// The search ends here at the latest.
    pub(super) reach: u32,
    /// The search has come so far; nothing is written from `dirty` on.
    search: u32,
    pub(super) dirty: u32,
    /// Something that was acknowledged stands behind the break.
    rotten: bool,
    /// What the checksum of the broken record's successor may start from.
    seeds: [u32; 2],
    /// If a record is here, starting from this or that, the one before it was written whole.
    successor: Option<(Place, u32)>,
    /// One of those behind the break is none that a founding writes before it is done.
    founded: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Follow,
    /// The record at `at` is whole, and the next one is here.
    Count(Place),
    /// The chain is broken: what is left of the record there?
    Broken,
    /// A chunk of a snapshot, by what is left of it; its successor would be here.
    Skip(Place),
    Search,
}

impl Walk {
    pub(super) const START: Self = Self::new(Place::NOWHERE, 0, 0);

    pub(super) const fn new(at: Place, salt: u32, limit: u32) -> Self {
        Self {
            at,
            salt,
            limit,
            stage: Stage::Follow,
            pending: None,
            recent: [None; 4],
            reach: u32::MAX,
            search: 0,
            dirty: 0,
            rotten: false,
            seeds: [0; 2],
            successor: None,
            founded: false,
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.at == Place::NOWHERE && self.salt == 0
    }

    fn good(&mut self, at: Place) {
        let [a, b, c, _] = self.recent;
        self.recent = [Some(at), a, b, c];
    }
}

impl Wal {
    pub(super) fn corrupt(&self, place: &Place) -> Halt {
        Halt::Refused(MountError::Corrupt { segment: place.segment, offset: self.offset_of(place) })
    }

    /// There should be a record. In the newest segment there was one a moment ago: its end is known.
    fn lost(&self, at: &Place) -> Halt {
        if self.order.last() == Some(&at.segment) { Halt::Unstable } else { self.corrupt(at) }
    }

    /// Follows the chain to its end; the last good record, if there is one. Without `load` it takes over what the records say of everything but
    /// the log; with it, only the entries and the chunks of the newest snapshot.
    pub(super) fn walk(
        &mut self,
        mount: &mut Mount,
        load: bool,
        log: &mut Log,
        buf: &[u8],
    ) -> Result<Option<Place>, Halt> {
        // Every turn moves on along the segment.
        loop {
            let Walk { at, limit, pending, .. } = mount.walk;
            let all = self.buffer_bytes;
            self.window.ahead = if limit > 0 { limit.saturating_sub(at.offset) } else { all };
            match mount.walk.stage {
                Stage::Follow if limit > 0 && at.offset >= limit => {
                    if at.offset > limit {
                        return Err(self.lost(&at));
                    }
                    self.load_pending(mount, load, log, buf)?;
                    return Ok(pending);
                }
                Stage::Follow => {
                    let base = pending.unwrap_or(at).offset;
                    let Some((head, start)) = self.look(base, &at, buf)? else {
                        mount.walk.stage = Stage::Broken;
                        continue;
                    };
                    let next = self.end_of(&at, &head, mount.walk.salt);
                    if !load {
                        let (it, _) = says(&head, start, buf).ok_or_else(|| self.corrupt(&at))?;
                        self.take_over(head.tag, &it);
                    }
                    mount.walk.stage = Stage::Count(next);
                }
                Stage::Count(next) => {
                    self.load_pending(mount, load, log, buf)?;
                    let walk = &mut mount.walk;
                    walk.good(at);
                    (walk.pending, walk.at, walk.stage) = (Some(at), next, Stage::Follow);
                }
                Stage::Broken => self.broken(&mut mount.walk, &at, buf)?,
                Stage::Skip(next) => {
                    // A chunk can be missed; the log can't.
                    if next.offset == limit || self.look(next.offset, &next, buf)?.is_some() {
                        mount.damage = Some((at.segment, self.offset_of(&at)));
                        (mount.walk.at, mount.walk.stage) = (next, Stage::Follow);
                    } else {
                        mount.walk.stage = Stage::Search;
                    }
                }
                Stage::Search => {
                    if self.search(&mut mount.walk, buf)? {
                        continue;
                    }
                    // A founding that was cut short, and then erased and cut short, leaves records behind too.
                    let founded = mount.walk.founded || !self.checkpoint.is_none();
                    if (mount.walk.rotten && founded) || limit > 0 {
                        return Err(self.lost(&at));
                    }
                    self.window.ahead = 0;
                    self.load_pending(mount, load, log, buf)?;
                    return Ok(pending);
                }
            }
        }
    }

    /// What is left of a record that does not check?
    fn broken(&mut self, walk: &mut Walk, at: &Place, buf: &[u8]) -> Result<(), Miss> {
        let salt = walk.salt;
        let mut stage = Stage::Search;
        let mut seeds = [salt; 2];
        if let Some(start) = self.fetch(at.offset, at, HEAD_BYTES)? {
            let bytes = buf.get(start..).unwrap_or_default();
            seeds = [bytes.first_chunk().map_or(0, |crc| u32::from_le_bytes(*crc)) ^ salt; 2];
        }
        if let Some((head, start)) = self.look_unchecked(at.offset, at, buf)? {
            seeds[1] = checksum(at.seed, body_of(&head, start, buf)) ^ salt;
            if head.tag == CHUNK {
                stage = Stage::Skip(self.end_of(at, &head, salt));
            }
        }
        (walk.seeds, walk.rotten, walk.stage) = (seeds, false, stage);
        (walk.search, walk.dirty) = (at.offset, at.offset);
        Ok(())
    }

    /// Looks through the rest of the segment: for a boot that goes on from a good record, for what only
    /// an acknowledged record can have behind it, and for the end of what is written.
    fn search(&mut self, walk: &mut Walk, buf: &[u8]) -> Result<bool, Miss> {
        let word = self.word();
        let end = if walk.limit > 0 { walk.limit } else { self.geometry.segment_bytes() };
        let end = end.min(walk.reach);
        while walk.search < end {
            if let Some((next, other)) = walk.successor {
                if let Some((head, start)) = self.look_unchecked(next.offset, &next, buf)? {
                    let body = body_of(&head, start, buf);
                    if [next.seed, other].iter().any(|seed| checksum(*seed, body) == head.crc) {
                        walk.rotten = true;
                        walk.founded |= !matches!(head.kind(), OPEN | CHUNK);
                    }
                }
                walk.successor = None;
                walk.search = walk.search.saturating_add(word);
                continue;
            }
            let here = Place { offset: walk.search, ..walk.at };
            let next = walk.search.saturating_add(word);
            let len = HEAD_BYTES.min(end.saturating_sub(walk.search));
            let Some(start) = self.fetch(here.offset, &here, len)? else {
                (walk.dirty, walk.search) = (next, next);
                continue;
            };
            let bytes = buf.get(start..start.saturating_add(len as usize)).unwrap_or_default();
            let blank = self.is_blank(bytes);
            if !self.is_blank(bytes.get(..word as usize).unwrap_or(bytes)) {
                walk.dirty = walk.dirty.max(next);
            }
            if !blank && self.search_at(walk, &here, buf)? {
                return Ok(true);
            }
            if walk.successor.is_none() {
                walk.search = next;
            }
        }
        Ok(false)
    }

    /// What may begin at `here`; true if it is a boot by which the walk goes on.
    fn search_at(&mut self, walk: &mut Walk, here: &Place, buf: &[u8]) -> Result<bool, Miss> {
        let Some(start) = self.fetch(here.offset, here, HEAD_BYTES)? else {
            return Ok(false);
        };
        let Some(head) = buf.get(start..).and_then(Head::decode) else {
            return Ok(false);
        };
        let broken = walk.at;
        let kind = head.kind();
        let next = self.end_of(here, &head, walk.salt);
        if (here.offset == broken.offset || kind == BOOT) && head.total <= self.record_max {
            // Programmed bytes may read as erased ones.
            walk.dirty = walk.dirty.max(next.offset);
        }
        let Some(start) = self.fetch(here.offset, here, head.total)? else {
            return Ok(false);
        };
        let body = body_of(&head, start, buf);
        let follows = |seed: u32| checksum(seed, body) == head.crc;
        let it = if matches!(kind, BOOT | SEAL) {
            says(&head, start, buf).map(|(it, _)| it)
        } else {
            None
        };
        if let Some(it) = it.filter(|_| kind == BOOT) {
            let recent = walk.recent.into_iter().flatten().chain([broken]);
            let from = recent.into_iter().find(|r| r.offset == it.from && follows(r.seed));
            if let Some(from) = from {
                for place in &mut walk.recent {
                    *place = place.filter(|place| place.offset < from.offset);
                }
                // The boot restates that record, and stands where it stood in the chain.
                walk.good(from);
                walk.pending = walk.pending.filter(|pending| pending.offset < from.offset);
                walk.at = Place { offset: here.offset, ..from };
                walk.stage = Stage::Follow;
                return Ok(true);
            }
        }
        let is_broken = here.offset == broken.offset;
        let seals = it.is_some_and(|it| kind == SEAL && follows(it.seal ^ walk.salt));
        if seals || (!is_broken && walk.seeds.iter().any(|seed| follows(*seed))) {
            walk.rotten = true;
            walk.founded |= !matches!(kind, OPEN | CHUNK);
        }
        if !walk.rotten || self.checkpoint.is_none() {
            let other = if is_broken { walk.seeds[1] } else { next.seed };
            walk.successor = Some((next, other));
        }
        Ok(false)
    }

    /// Takes over what a record says of everything but the log.
    fn take_over(&mut self, tag: u8, it: &Sections) {
        let kind = tag & KIND;
        let tells_all = tells_all(kind);
        if tells_all {
            (self.retired, self.record_max, self.note_durable) =
                (it.retired, it.record_max, it.note);
            (self.identity, self.checkpoint) = (it.identity, it.checkpoint);
        }
        if tells_all || tag & HARD_STATE != 0 {
            (self.durable.term, self.durable.vote) = (it.hard_state.term, it.hard_state.vote);
        }
        if tells_all || tag & COMMIT != 0 {
            self.durable.commit = it.hard_state.commit;
        }
    }

    /// Loads the record that was held back.
    fn load_pending(
        &mut self,
        mount: &mut Mount,
        load: bool,
        log: &mut Log,
        buf: &[u8],
    ) -> Result<(), Halt> {
        let Some(at) = mount.walk.pending.filter(|_| load) else {
            return Ok(());
        };
        let (head, start) = self.look(at.offset, &at, buf)?.ok_or(Halt::Unstable)?;
        let (it, data) = says(&head, start, buf).ok_or_else(|| self.corrupt(&at))?;
        let kind = head.kind();
        mount.walk.pending = None;
        mount.last_tag = head.tag;
        // A boot stands in for the record that it restates.
        mount.last_from = if kind == BOOT { it.from } else { at.offset };
        mount.last_prev = None;
        let end = self.end_of(&at, &head, mount.walk.salt);
        match kind {
            OPEN => mount.written = Some(it.written),
            CHUNK
                if !mount.reached
                    && it.snap == self.checkpoint.id
                    && it.snap_at == mount.chunk_at =>
            {
                mount.chunk_at = mount.chunk_at.saturating_add(data.len() as u32);
                let padded = self.geometry.padded(head.total);
                self.snapshot_flash = self.snapshot_flash.saturating_add(padded);
            }
            // What a snapshot of a leader's has made void can't take its place.
            CHECKPOINT if it.checkpoint.installed == 0 => mount.before = it.before,
            _ => {}
        }
        if tells_all(kind) && !mount.reached && it.checkpoint == self.checkpoint {
            mount.reached = true;
            self.matter = if kind == OPEN { it.link } else { end.link() };
            if it.checkpoint.installed != 0 {
                log.reset(it.checkpoint.id);
                mount.gap = false;
            } else if mount.gap {
                return Err(self.corrupt(&at));
            }
        }
        if head.tag & ENTRIES != 0 {
            let prev = if head.tag & FIRST != 0 { Some(it.prev) } else { mount.written };
            let prev = prev.ok_or_else(|| self.corrupt(&at))?;
            mount.last_prev = Some(prev.index);
            let first = head.tag & FIRST != 0;
            if self.load_entries(mount, &at, prev, first, data, log)? {
                self.matter = end.link();
            }
        }
        Ok(())
    }

    /// Puts the entries of a record into the log, as a follower does with those of a leader (Raft §5.3):
    /// what is there already stays, what differs gives way. Has the log changed?
    fn load_entries(
        &mut self,
        mount: &mut Mount,
        at: &Place,
        prev: EntryId,
        first: bool,
        data: &[u8],
        log: &mut Log,
    ) -> Result<bool, Halt> {
        let mut last = prev;
        for entry in Entries::new(prev, data) {
            last = entry.map_err(|_| self.corrupt(at))?.id;
        }
        mount.written = Some(last);
        let base = log.base().index;
        let attached = if first { prev.index < base || log.holds(prev) } else { !mount.gap };
        if !attached {
            // Behind the first chunk of a snapshot and before what is restated for it.
            mount.gap = true;
            return Ok(false);
        }
        let before = (log.last(), knows(log, last));
        match log.append_entries(Entries::new(prev, data), base) {
            Appended::Conflict(_) => mount.gap = true,
            Appended::UpTo(_) => mount.gap = false,
            Appended::FullAfter(_) => {
                let bytes_needed = log.bytes_capacity().saturating_add(data.len());
                return Err(Halt::Refused(MountError::LogTooSmall { bytes_needed }));
            }
            Appended::Malformed => return Err(self.corrupt(at)),
        }
        Ok(!mount.gap && before != (log.last(), knows(log, last)))
    }
}

fn knows(log: &mut Log, id: EntryId) -> bool {
    id.index <= log.base().index || log.holds(id)
}
