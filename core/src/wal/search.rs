//! Walking along a chain of records, and what to make of the place where it breaks.

use super::Wal;
use super::record::{
    BOOT, CHECKPOINT, COMMIT, ENTRIES, HARD_STATE, HEAD_BYTES_MAX, Head, OPEN, Place, SEAL, SNAP,
    Sections, checksum,
};
use super::types::MountError;
use crate::entry::Entries;
use crate::flash::FlashOp;
use crate::log::{Appended, Log};
use crate::types::EntryId;

/// A walk through one segment. A record counts once its successor, or the end, is known: until then a
/// later boot may declare it void.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    /// The record that is looked at.
    pub(super) at: Place,
    /// Where it ends, once it was found whole.
    next: Option<Place>,
    /// The record before it, which does not count yet.
    pending: Option<Place>,
    /// Where the last good records start: what a boot may continue.
    recent: [Place; 4],
    recent_len: u8,
    /// Where the next segment links to.
    limit: Option<Place>,
    stage: Stage,
    /// The search has come so far.
    search: u32,
    /// Nothing is written from here on.
    pub(super) dirty: u32,
    /// Something that was acknowledged stands behind the break.
    rotten: bool,
    /// Checksums that a successor of the broken record could follow.
    seeds: [Option<u32>; 2],
    /// Where it would start, by what is left of the broken record.
    successor: Option<Place>,
    broken_flags: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Follow,
    /// The chain is broken: what is left of the record there?
    Broken,
    Successor,
    /// It was a chunk of a snapshot, which is left out.
    Skip(Place),
    Search,
}

/// How a walk ended.
pub(super) enum Walked {
    /// At the link of the next segment.
    Link,
    /// At the end of the log; the last good record, if there is one.
    End(Option<Place>),
}

impl Walk {
    pub(super) const START: Self = Self::from(Place { segment: 0, offset: 0, chain: 0 }, None);

    pub(super) const fn from(at: Place, limit: Option<Place>) -> Self {
        Self {
            at,
            next: None,
            pending: None,
            recent: [Place { segment: 0, offset: 0, chain: 0 }; 4],
            recent_len: 0,
            limit,
            stage: Stage::Follow,
            search: 0,
            dirty: 0,
            rotten: false,
            seeds: [None; 2],
            successor: None,
            broken_flags: 0,
        }
    }

    /// A walk that starts with a break at `at`: the first record of a segment is not valid.
    pub(super) const fn broken(at: Place) -> Self {
        let mut walk = Self::from(at, None);
        walk.stage = Stage::Broken;
        walk
    }

    fn good(&mut self, at: Place) {
        if usize::from(self.recent_len) == self.recent.len() {
            let [_, a, b, c] = self.recent;
            self.recent = [a, b, c, at];
        } else {
            if let Some(place) = self.recent.get_mut(usize::from(self.recent_len)) {
                *place = at;
            }
            self.recent_len = self.recent_len.saturating_add(1);
        }
    }

    /// Goes on at a boot that continues from `from`.
    fn jump(&mut self, from: Place, boot: u32) {
        let kept = self.recent.iter().take(usize::from(self.recent_len));
        self.recent_len = kept.filter(|place| place.offset < from.offset).count() as u8;
        // The boot restates that record, and stands where it stood in the chain.
        self.good(from);
        if self.pending.is_some_and(|pending| pending.offset >= from.offset) {
            self.pending = None;
        }
        self.at = Place { offset: boot, ..from };
        self.stage = Stage::Follow;
        self.next = None;
    }
}

/// Why a walk can't go on.
pub(super) enum Halt {
    /// A read comes first.
    Read(FlashOp),
    Refused(MountError),
    /// What was read a moment ago reads otherwise now.
    Unstable,
}

impl From<FlashOp> for Halt {
    fn from(op: FlashOp) -> Self {
        Self::Read(op)
    }
}

impl Wal {
    fn corrupt(&self, place: &Place) -> Halt {
        let offset = self.offset_of(place);
        Halt::Refused(MountError::Corrupt { segment: place.segment, offset })
    }

    /// Follows the chain to its end. With `load`, entries go into `log`.
    pub(super) fn walk(&mut self, load: bool, log: &mut Log, buf: &[u8]) -> Result<Walked, Halt> {
        // Every turn moves on along the segment.
        loop {
            let at = self.mount.walk.at;
            if let Some(next) = self.mount.walk.next {
                self.count_pending(load, log, buf)?;
                let walk = &mut self.mount.walk;
                walk.good(at);
                walk.pending = Some(at);
                walk.at = next;
                walk.next = None;
                continue;
            }
            if let Some(limit) = self.mount.walk.limit
                && at.offset >= limit.offset
            {
                if at != limit {
                    return Err(self.corrupt(&at));
                }
                self.count_pending(load, log, buf)?;
                return Ok(Walked::Link);
            }
            match self.mount.walk.stage {
                Stage::Follow => {
                    let base = self.mount.walk.pending.unwrap_or(at).offset;
                    match self.look(base, false, &at, buf)? {
                        Some((head, _)) => self.mount.walk.next = Some(self.end_of(&at, &head)),
                        None => self.mount.walk.stage = Stage::Broken,
                    }
                }
                Stage::Broken => self.inspect(&at, buf)?,
                Stage::Successor => self.try_successor(buf)?,
                Stage::Skip(next) => {
                    self.count_pending(load, log, buf)?;
                    let (segment, offset) = (at.segment, self.offset_of(&at));
                    self.mount.damage = Some(MountError::Corrupt { segment, offset });
                    self.mount.walk.at = next;
                    self.mount.walk.stage = Stage::Follow;
                }
                Stage::Search => {
                    if self.search(buf)? {
                        continue;
                    }
                    // A founding that was cut short, and then formatted away and cut short, leaves records
                    // behind too, but no checkpoint.
                    let founded = self.checkpoint_at.is_some() || self.mount.checkpoint_seen;
                    let rotten = self.mount.walk.rotten && founded;
                    if rotten || self.mount.walk.limit.is_some() {
                        return Err(self.corrupt(&at));
                    }
                    let last = self.mount.walk.pending;
                    self.count_pending(load, log, buf)?;
                    return Ok(Walked::End(last));
                }
            }
        }
    }

    fn count_pending(&mut self, load: bool, log: &mut Log, buf: &[u8]) -> Result<(), Halt> {
        let Some(at) = self.mount.walk.pending else {
            return Ok(());
        };
        let Some((head, start)) = self.look(at.offset, false, &at, buf)? else {
            return Err(Halt::Unstable);
        };
        let end = self.end_of(&at, &head);
        let Some(it) = Self::sections(&head, start, buf) else {
            return Err(self.corrupt(&at));
        };
        self.count(at, end, &it, load, log)?;
        self.mount.walk.pending = None;
        Ok(())
    }

    /// What is left of a record that does not check.
    fn inspect(&mut self, at: &Place, buf: &[u8]) -> Result<(), Halt> {
        let (start, len) = self.fetch(at.segment, at.offset, at.offset, HEAD_BYTES_MAX as u32)?;
        let bytes = buf.get(start..start.saturating_add(len)).unwrap_or_default();
        let room = self.geometry.segment_bytes().saturating_sub(at.offset);
        let mut seeds = [None; 2];
        let mut successor = None;
        let mut flags = 0;
        if let Some(head) = Head::decode(bytes) {
            flags = head.flags;
            let total = self.geometry.padded(head.total());
            let mut computed = None;
            if total <= room && total <= self.buffer_bytes {
                let (start, len) = self.fetch(at.segment, at.offset, at.offset, head.total())?;
                let body = start.saturating_add(4)..start.saturating_add(head.total() as usize);
                let whole = len >= head.total() as usize;
                computed = buf.get(body).filter(|_| whole).map(|body| checksum(at.chain, body));
                successor = Some(Place { chain: head.crc, ..self.end_of(at, &head) });
            }
            seeds = [Some(head.crc), computed];
        } else if let Some(crc) = bytes.first_chunk::<4>()
            && bytes.iter().any(|byte| *byte != self.geometry.erased)
        {
            seeds = [Some(u32::from_le_bytes(*crc)), None];
        }
        let walk = &mut self.mount.walk;
        (walk.seeds, walk.successor, walk.broken_flags) = (seeds, successor, flags);
        (walk.search, walk.dirty) = (at.offset, at.offset);
        walk.rotten = false;
        walk.stage = Stage::Successor;
        Ok(())
    }

    /// A record follows the broken one: it had been written whole. A chunk of a snapshot can be missed, if
    /// what is left of it says so; the log can't.
    fn try_successor(&mut self, buf: &[u8]) -> Result<(), FlashOp> {
        let successor = self.mount.walk.successor;
        self.mount.walk.stage = match successor {
            Some(next) if self.follows(&next, buf)? => {
                if self.mount.walk.broken_flags == SNAP {
                    Stage::Skip(next)
                } else {
                    self.mount.walk.rotten = true;
                    Stage::Search
                }
            }
            _ => Stage::Search,
        };
        Ok(())
    }

    /// Is there a record at `next`, or the end of the segment's live part?
    fn follows(&mut self, next: &Place, buf: &[u8]) -> Result<bool, FlashOp> {
        let room = self.geometry.segment_bytes().saturating_sub(next.offset);
        let at_link = self.mount.walk.limit == Some(*next);
        Ok(at_link || (room > 0 && self.look(next.offset, false, next, buf)?.is_some()))
    }

    /// Looks through the rest of the segment: for a boot that goes on from a good record, for what only
    /// an acknowledged record can have behind it, and for the end of what is written.
    fn search(&mut self, buf: &[u8]) -> Result<bool, FlashOp> {
        let word = self.word();
        let at = self.mount.walk.at;
        let end = self.mount.walk.limit.map_or(self.geometry.segment_bytes(), |l| l.offset);
        self.window.ahead = self.buffer_bytes;
        while self.mount.walk.search < end {
            let q = self.mount.walk.search;
            let (start, len) = self.fetch(at.segment, q, q, HEAD_BYTES_MAX as u32)?;
            let window = buf.get(start..start.saturating_add(len)).unwrap_or_default();
            let erased = self.geometry.erased;
            let blank = window.iter().take_while(|byte| **byte == erased).count();
            let next = q.saturating_add(word);
            if len > 0 && blank == len {
                self.mount.walk.search = next;
                continue;
            }
            if len == 0 || blank < word as usize {
                self.mount.walk.dirty = self.mount.walk.dirty.max(next);
            }
            if let Some(head) = Head::decode(window) {
                let here = Place { offset: q, ..at };
                let end = self.end_of(&here, &head).offset;
                if (q == at.offset || head.flags & BOOT != 0)
                    && end.saturating_sub(q) <= self.mount.record_max
                {
                    // Programmed bytes may read as erased ones.
                    self.mount.walk.dirty = self.mount.walk.dirty.max(end);
                }
                if head.flags & (BOOT | SEAL) != 0
                    && let Some(found) = self.search_marks(here, buf)?
                {
                    self.mount.walk.jump(found, q);
                    return Ok(true);
                }
                self.search_pair(&head, here, buf)?;
            }
            self.mount.walk.search = next;
        }
        Ok(false)
    }

    /// Is there a boot at `here` that continues from one of the last good records? Which one? A seal
    /// tells by itself that what is before it was acknowledged.
    fn search_marks(&mut self, here: Place, buf: &[u8]) -> Result<Option<Place>, FlashOp> {
        let walk = self.mount.walk;
        let recent = walk.recent.iter().take(usize::from(walk.recent_len));
        for from in recent.rev().chain([&walk.at]) {
            let place = Place { chain: from.chain, ..here };
            if let Some((head, start)) = self.look(here.offset, true, &place, buf)?
                && let Some(it) = Self::sections(&head, start, buf)
                && it.has(BOOT)
                && it.from == from.offset
            {
                return Ok(Some(*from));
            }
        }
        let (start, len) = self.fetch(here.segment, here.offset, here.offset, 64)?;
        let bytes = buf.get(start..start.saturating_add(len)).unwrap_or_default();
        if let Some(head) = Head::decode(bytes)
            && head.flags & SEAL != 0
            && let Some(body) = bytes.get(head.bytes as usize..head.total() as usize)
            && let Some(it) = Sections::decode(head.flags, body)
            && bytes.get(4..head.total() as usize).map(|b| checksum(it.seal, b)) == Some(head.crc)
        {
            self.mount.walk.rotten = true;
        }
        Ok(None)
    }

    /// Is there a record at `here` that follows the broken one, or two that follow one another?
    fn search_pair(&mut self, head: &Head, here: Place, buf: &[u8]) -> Result<(), FlashOp> {
        let walk = self.mount.walk;
        let reach = walk.at.offset.saturating_add(self.mount.record_max);
        let certain = self.checkpoint_at.is_some() || self.mount.checkpoint_seen;
        if certain && (walk.rotten || here.offset > reach) {
            return Ok(());
        }
        let next = self.end_of(&here, head);
        let mut found = false;
        if here.offset > walk.at.offset {
            for chain in walk.seeds.into_iter().flatten() {
                let place = Place { chain, ..here };
                found |= self.look(here.offset, true, &place, buf)?.is_some();
            }
        } else if let Some(chain) = walk.seeds.get(1).copied().flatten() {
            let place = Place { chain, ..next };
            found |= self.look(here.offset, true, &place, buf)?.is_some();
        }
        if next.offset < self.geometry.segment_bytes()
            && let Some((head_next, _)) = self.look(here.offset, true, &next, buf)?
        {
            found = true;
            self.mount.checkpoint_seen |= (head.flags | head_next.flags) & CHECKPOINT != 0;
        }
        self.mount.walk.rotten |= found;
        Ok(())
    }

    /// Takes over what a record says.
    fn count(
        &mut self,
        at: Place,
        end: Place,
        it: &Sections<'_>,
        load: bool,
        log: &mut Log,
    ) -> Result<(), Halt> {
        self.last_matters = it.has(CHECKPOINT);
        if it.has(OPEN | BOOT) {
            if !load {
                self.checkpoint_at = it.checkpoint_at;
            }
            self.mount.record_max = it.record_max;
        }
        if it.has(OPEN | BOOT | SEAL) {
            self.retired = it.retired;
            self.ready = it.ready;
        }
        if it.has(HARD_STATE) {
            (self.durable.term, self.durable.vote) = (it.term, it.vote);
        }
        if it.has(COMMIT) {
            self.durable.commit = self.durable.commit.max(it.commit);
        }
        if it.has(CHECKPOINT) {
            if !load {
                self.checkpoint_at = Some(at);
            }
            if let Some(checkpoint) = it.checkpoint.filter(|_| load) {
                let own = self.checkpoint.is_some_and(|own| own.first == checkpoint.first);
                if checkpoint.installed != 0 {
                    if !own {
                        return Err(self.corrupt(&at));
                    }
                    log.reset(checkpoint.id);
                    self.mount.gap = false;
                } else if own && self.mount.gap {
                    return Err(self.corrupt(&at));
                }
            }
        }
        if it.has(ENTRIES) && load {
            self.load(at, it, log)?;
        }
        if let Some(checkpoint) = self.checkpoint.filter(|_| load && it.has(SNAP))
            && self.mount.chunk_at < checkpoint.bytes
            && it.snap == checkpoint.id
            && it.snap_at == self.mount.chunk_at
        {
            self.mount.chunk_at = self.mount.chunk_at.saturating_add(it.data.len() as u32);
        }
        self.last_flags = it.flags;
        // A boot stands in for the record that it restates.
        self.last_link = at;
        if it.has(BOOT) && !it.has(OPEN) {
            self.last_link.offset = it.from;
        }
        if self.last_matters {
            self.matter = end;
        }
        Ok(())
    }

    /// Puts the entries of a record into the log, as a follower does with those of a leader (Raft §5.3):
    /// what is there already stays, what differs gives way.
    fn load(&mut self, at: Place, it: &Sections<'_>, log: &mut Log) -> Result<(), Halt> {
        let first = it.has(super::record::FIRST);
        let prev = match self.written {
            _ if first => it.prev,
            Some(written) => written,
            None => return Err(self.corrupt(&at)),
        };
        self.last_prev = prev.index;
        let mut last = prev;
        for entry in Entries::new(prev, it.data) {
            last = entry.map_err(|_| self.corrupt(&at))?.id;
        }
        self.written = Some(last);
        let base = log.base().index;
        let attached = if first { prev.index < base || log.holds(prev) } else { !self.mount.gap };
        if !attached {
            // Behind the first chunk of a snapshot and before what is restated for it.
            self.mount.gap = true;
            return Ok(());
        }
        let before = (log.last(), last_of(log, last));
        match log.append_entries(Entries::new(prev, it.data), base) {
            Appended::UpTo(_) => {}
            Appended::Conflict(_) => {
                self.mount.gap = true;
                return Ok(());
            }
            Appended::FullAfter(_) => {
                let bytes_needed = log.bytes_capacity().saturating_add(it.data.len());
                return Err(Halt::Refused(MountError::LogTooSmall { bytes_needed }));
            }
            Appended::Malformed => return Err(self.corrupt(&at)),
        }
        self.mount.gap = false;
        self.last_matters |= before != (log.last(), last_of(log, last));
        Ok(())
    }
}

fn last_of(log: &mut Log, id: EntryId) -> bool {
    id.index <= log.base().index || log.holds(id)
}
