//! The log in RAM: a fixed number of bytes, a ring, entries in their encoded form.
//!
//! `base` is the last entry that is no longer here (it is in a snapshot); `last` the newest one;
//! `durable` the newest that flash is known to hold. Frames and flash records are copied from here and
//! from nowhere else.

use crate::entry::{Entries, Entry, HEAD_BYTES_MAX, Head, Kind};
use crate::types::{EntryId, Index, Term};
use crate::wire::COUNT_MAX;

/// Places remembered in the ring, so that reading on is one step: one for flash and one for peers that are at the same
/// place. Applying, and what a snapshot covers, have one of their own.
const CURSORS: usize = 2;
/// A walk longer than this is remembered in a place of its own.
const WALK_STEPS_SHORT: u32 = 8;

/// The log has no room for this entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Full {
    /// What the entry takes.
    pub bytes_needed: usize,
    /// What is free.
    pub bytes_free: usize,
}

/// What came of [`Log::append_entries`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Appended {
    /// The log now holds the entries up to here.
    UpTo(Index),
    /// The log is full; it holds the entries up to here.
    FullAfter(Index),
    /// An entry contradicts one at or below the index that must not change: nothing of it was taken.
    Conflict(Index),
    /// The bytes are not entries, or do not follow this log; those before the bad one were taken.
    Malformed,
}

/// A place in the log: so many entries, and their bytes, lie between `base` and it, and the one before it has that term.
#[derive(Clone, Copy)]
struct Place {
    entries: u32,
    bytes: u32,
    term: Term,
}

impl Place {
    const START: Self = Self { entries: 0, bytes: 0, term: Term::ZERO };

    /// The place behind an entry that lies here.
    fn behind(self, head: &Head) -> Self {
        Self {
            entries: self.entries.saturating_add(1),
            bytes: self.bytes.saturating_add(head.bytes() as u32),
            term: head.term.unwrap_or(self.term),
        }
    }
}

/// A fixed-capacity log. Built as `Log<[u8; N]>`, used as `Log`.
///
/// What it remembers of entries is counted from `base`: 32 bits are enough, and half as long to compare.
pub struct Log<B: ?Sized = [u8]> {
    base: EntryId,
    end: Place,
    durable: u32,
    /// The newest entry of the flash write that is under way, cut back if it is overwritten meanwhile.
    writing: u32,
    /// Entries behind are not to be written yet; 0: all are.
    upto: u32,
    /// Where the first entry lies in the ring.
    head: u32,
    /// Bytes put aside right before the first entry.
    aside: u32,
    /// Bytes that no entry may take.
    kept: u32,
    /// Remembered places; the start of the log is one that is not in use.
    cursors: [Place; CURSORS],
    /// The place behind the entry that was read last.
    next_read: Place,
    /// The place that [`Log::bytes_up_to`] was last asked about.
    mark: Place,
    /// The cursors that were of use since each had its turn, a bit for each: another one gives way.
    cursors_used: u8,
    ring: B,
}

impl<const N: usize> Log<[u8; N]> {
    /// An empty log, all zeros.
    pub const fn new() -> Self {
        Self {
            base: EntryId::ZERO,
            end: Place::START,
            durable: 0,
            writing: 0,
            upto: 0,
            head: 0,
            aside: 0,
            kept: 0,
            cursors: [Place::START; CURSORS],
            next_read: Place::START,
            mark: Place::START,
            cursors_used: 0,
            ring: [0; N],
        }
    }
}

impl<const N: usize> Default for Log<[u8; N]> {
    fn default() -> Self {
        Self::new()
    }
}

impl Log {
    /// Empties the log: the next entry follows `base`, which a snapshot covers. What was put aside stays.
    pub fn reset(&mut self, base: EntryId) {
        self.base = base;
        (self.durable, self.writing, self.upto) = (0, 0, 0);
        let first = self.first();
        self.places().for_each(|place| *place = first);
    }

    /// The last entry that is no longer here.
    pub const fn base(&self) -> EntryId {
        self.base
    }

    /// The newest entry, or `base` if there is none.
    pub const fn last(&self) -> EntryId {
        EntryId::new(self.index(self.end.entries), self.end.term)
    }

    /// The newest entry that flash is known to hold.
    pub const fn durable(&self) -> Index {
        self.index(self.durable)
    }

    /// Does flash hold all of it?
    pub(crate) const fn is_durable(&self) -> bool {
        self.durable == self.end.entries
    }

    /// The last entry that flash may hold as of now: those between [`Log::durable`] and this are to be written.
    pub fn due(&self) -> Index {
        let entries = self.end.entries;
        self.index(if self.upto == 0 { entries } else { entries.min(self.upto) })
    }

    /// Entries behind `upto` have to wait until something else is durable; 0: none has to.
    #[inline(never)]
    pub(crate) fn write_upto(&mut self, upto: Index) {
        self.upto = self.entries_up_to(upto);
    }

    /// Bytes that entries can take: one of the ring stays free, so that its end never meets its beginning,
    /// and so do those that are kept for what is put aside.
    pub const fn bytes_capacity(&self) -> usize {
        self.ring.len().saturating_sub(1).saturating_sub(self.kept as usize)
    }

    /// Keeps `bytes` of the ring for [`Log::put_aside`]: a log full of entries must still be able to take a
    /// snapshot in their place.
    pub fn keep_aside(&mut self, bytes: usize) {
        self.kept = u32::try_from(bytes).unwrap_or(u32::MAX);
    }

    /// Bytes that the entries here take, heads included.
    pub const fn bytes_used(&self) -> usize {
        self.end.bytes as usize
    }

    /// Bytes that are free for entries, heads included.
    pub const fn bytes_free(&self) -> usize {
        self.bytes_capacity().saturating_sub(self.end.bytes as usize)
    }

    /// Entries that are here.
    pub const fn count(&self) -> u64 {
        self.end.entries as u64
    }

    /// The term of entry `index`; `None` outside of `base..=last`, never a guess (LG3).
    pub fn term(&mut self, index: Index) -> Option<Term> {
        let entries = self.entries_here(index)?;
        if entries == 0 {
            return Some(self.base.term);
        }
        self.seek(entries).map(|place| place.term)
    }

    /// Does the log hold exactly this entry, or end its compacted part with it?
    pub fn holds(&mut self, id: EntryId) -> bool {
        self.term(id.index) == Some(id.term)
    }

    /// The newest entry at or below `id.index` whose term is at most `id.term`; entries below `base`
    /// count as fitting (LG4). By it a leader finds where logs part in one round for each term.
    pub fn find_conflict(&mut self, id: EntryId) -> EntryId {
        if id.index < self.base.index {
            return EntryId::new(id.index, Term::ZERO);
        }
        let max = self.entries_up_to(id.index);
        // Terms never fall along a log: one walk finds the first that is too new.
        let mut found = self.first();
        while found.entries < max {
            match self.step(found) {
                Some(next) if next.term <= id.term => found = next,
                _ => break,
            }
        }
        EntryId::new(self.index(found.entries), found.term)
    }

    /// Appends one entry of the leader's own. There is no room, either, for one behind the last index of all.
    pub fn append(&mut self, term: Term, kind: Kind, data: &[u8]) -> Result<EntryId, Full> {
        let new_term = (term != self.end.term).then_some(term);
        let data_bytes = u16::try_from(data.len()).unwrap_or(u16::MAX);
        let (head, head_bytes) = Head::encode(kind, new_term, data_bytes);
        let bytes_needed = head_bytes.saturating_add(data.len());
        let bytes_free = self.bytes_free();
        let too_long = bytes_needed > bytes_free || usize::from(data_bytes) != data.len();
        if too_long || self.last().index.0 >= COUNT_MAX {
            return Err(Full { bytes_needed, bytes_free });
        }
        self.push(head.get(..head_bytes).unwrap_or_default());
        self.push(data);
        self.end.entries = self.end.entries.saturating_add(1);
        self.end.term = term;
        Ok(self.last())
    }

    /// Takes over what a leader sent: `entries` follow an entry that the caller has found here. Entries
    /// that are here already stay; the first that differs, and all behind it, gives way, unless it is at
    /// or below `keep` (Raft §5.3, receiver rules 3 and 4).
    pub fn append_entries(&mut self, mut entries: Entries<'_>, keep: Index) -> Appended {
        let mut upto = entries.prev().index;
        loop {
            let before = entries.prev();
            let Some(next) = entries.next_raw() else {
                return Appended::UpTo(upto);
            };
            let Ok((Entry { id, .. }, raw)) = next else {
                return Appended::Malformed;
            };
            if id.index <= self.last().index {
                match self.term(id.index) {
                    Some(term) if term != id.term => {
                        if id.index <= keep {
                            return Appended::Conflict(id.index);
                        }
                        self.truncate(id.index.previous());
                    }
                    // Here already, or compacted, thus committed and the same.
                    _ => {
                        upto = id.index;
                        continue;
                    }
                }
            }
            // An encoded entry means the same only behind the same one: a gap would corrupt the log.
            if before != self.last() {
                return Appended::Malformed;
            }
            if raw.len() > self.bytes_free() {
                return Appended::FullAfter(upto);
            }
            self.push(raw);
            self.end.entries = self.end.entries.saturating_add(1);
            self.end.term = id.term;
            upto = id.index;
        }
    }

    /// Takes over entries that are known to be whole and to end with `last`, if they follow this log and there is room
    /// for all of them: the most frequent case of [`Log::append_entries`], without a look at each.
    pub fn append_whole(&mut self, entries: &Entries<'_>, last: EntryId) -> bool {
        let (prev, bytes) = (entries.prev(), entries.bytes());
        let fits = prev == self.last() && bytes.len() <= self.bytes_free();
        if fits && !bytes.is_empty() {
            self.push(bytes);
            let more = last.index.since(prev.index) as u32;
            self.end.entries = self.end.entries.saturating_add(more);
            self.end.term = last.term;
        }
        fits
    }

    /// Drops everything behind `last`.
    fn truncate(&mut self, last: Index) {
        if let Some(entries) = self.entries_here(last)
            && let Some((place, ..)) = self.locate(entries)
        {
            self.durable = self.durable.min(entries);
            self.writing = self.writing.min(entries);
            self.end = place;
            let first = self.first();
            for kept in self.places().filter(|kept| kept.entries > entries) {
                *kept = first;
            }
        }
    }

    /// Drops everything up to and including `index`; beyond `last` nothing happens.
    pub fn compact(&mut self, index: Index) {
        if let Some(entries) = self.entries_here(index)
            && let Some((to, ..)) = self.locate(entries)
        {
            self.base = EntryId::new(index, to.term);
            self.move_head(self.wrap(to.bytes));
            for count in [&mut self.durable, &mut self.writing, &mut self.upto] {
                *count = count.saturating_sub(to.entries);
            }
            for place in self.places() {
                if place.entries <= to.entries {
                    place.term = to.term;
                }
                place.entries = place.entries.saturating_sub(to.entries);
                place.bytes = place.bytes.saturating_sub(to.bytes);
            }
        }
    }

    /// All remembered places, the end of the log last.
    fn places(&mut self) -> impl Iterator<Item = &mut Place> {
        self.cursors.iter_mut().chain([&mut self.next_read, &mut self.mark, &mut self.end])
    }

    /// The entries behind `after`, as many whole ones as fit `bytes_max`, none behind `last_max`:
    /// the last of them, and the bytes they take.
    pub fn fit(&mut self, after: Index, last_max: Index, bytes_max: usize) -> (Index, usize) {
        let from = self.entries_here(after).and_then(|entries| self.seek(entries));
        from.map_or((after, 0), |from| self.fit_from(from, last_max, bytes_max))
    }

    fn fit_from(&self, from: Place, last_max: Index, bytes_max: usize) -> (Index, usize) {
        let entries_max = self.entries_up_to(last_max);
        let bytes = |to: Place| to.bytes.saturating_sub(from.bytes) as usize;
        let mut to = self.end;
        if entries_max < to.entries || bytes(to) > bytes_max {
            to = from;
            while to.entries < entries_max {
                match self.step(to) {
                    Some(next) if bytes(next) <= bytes_max => to = next,
                    _ => break,
                }
            }
        }
        (self.index(to.entries), bytes(to))
    }

    /// Copies the encoded entries behind `after` up to `last`, as [`Log::fit`] measured them; the
    /// number of bytes, or `None` if they are not here or do not fit.
    pub fn copy(&mut self, after: Index, last: Index, out: &mut [u8]) -> Option<usize> {
        let from = self.seek(self.entries_here(after)?)?.bytes;
        let to = self.seek(self.entries_here(last)?)?.bytes;
        let bytes = to.checked_sub(from)? as usize;
        self.copy_out(from, out.get_mut(..bytes)?);
        Some(bytes)
    }

    /// Copies the encoded entries behind `after`, as many whole ones as fit `out`, none behind `last_max`: the last of
    /// them, and the bytes they take.
    pub fn copy_fit(&mut self, after: Index, last_max: Index, out: &mut [u8]) -> (Index, usize) {
        let Some(from) = self.entries_here(after).and_then(|entries| self.seek(entries)) else {
            return (after, 0);
        };
        let (last, bytes) = self.fit_from(from, last_max, out.len());
        self.copy_out(from.bytes, out.get_mut(..bytes).unwrap_or_default());
        (last, bytes)
    }

    /// Copies the data of entry `index` into `out`: what it is, its term, and how many bytes.
    pub fn read(&mut self, index: Index, out: &mut [u8]) -> Option<(Kind, Term, usize)> {
        self.read_behind(index, 0, out)
    }

    /// The same without the first `skip` bytes of the data.
    pub(crate) fn read_behind(
        &mut self,
        index: Index,
        skip: usize,
        out: &mut [u8],
    ) -> Option<(Kind, Term, usize)> {
        let (place, head) = self.find(index)?;
        let data_bytes = head.data_bytes.checked_sub(skip)?;
        let at = place.bytes.saturating_add(head.head_bytes.saturating_add(skip) as u32);
        self.copy_out(at, out.get_mut(..data_bytes)?);
        self.next_read = place.behind(&head);
        Some((head.kind, self.next_read.term, data_bytes))
    }

    /// Is entry `index` of this kind, with data that begin with these bytes?
    pub(crate) fn begins_with(&mut self, index: Index, kind: Kind, bytes: &[u8]) -> bool {
        let Some((place, head)) = self.find(index) else {
            return false;
        };
        self.next_read = place.behind(&head);
        let mut at = place.bytes.wrapping_add(head.head_bytes as u32);
        head.kind == kind
            && bytes.len() <= head.data_bytes
            && bytes.iter().all(|byte| {
                let here = self.ring.get(self.wrap(at) as usize);
                at = at.wrapping_add(1);
                here == Some(byte)
            })
    }

    /// What entry `index` is, and the bytes of its data.
    pub fn kind(&mut self, index: Index) -> Option<(Kind, usize)> {
        self.find(index).map(|(_, head)| (head.kind, head.data_bytes))
    }

    /// Bytes of the encoded entries up to and including `index`; asked again about the same one, it costs no walk.
    pub fn bytes_up_to(&mut self, index: Index) -> usize {
        let Some(entries) = self.entries_here(index) else {
            return 0;
        };
        if self.mark.entries != entries
            && let Some((place, ..)) = self.locate(entries)
        {
            self.mark = place;
        }
        self.mark.bytes as usize
    }

    /// Bytes of the encoded entries behind `index`.
    pub fn bytes_behind(&mut self, index: Index) -> usize {
        let before = self.seek(self.entries_up_to(index)).map_or(0, |place| place.bytes);
        self.end.bytes.saturating_sub(before) as usize
    }

    /// A flash write of the entries up to `last` begins.
    pub fn write_begins(&mut self, last: Index) {
        self.writing = self.entries_up_to(last);
    }

    /// That write is done: what was not overwritten meanwhile is durable (B26).
    pub fn write_ends(&mut self) {
        self.durable = self.durable.max(self.writing);
    }

    /// Puts bytes aside, in place of what was there, until they are dropped: a piece of a snapshot on its way from the link
    /// to flash, or a command on its way to the leader. `false` if they are more than is kept free for that.
    pub fn put_aside(&mut self, bytes: &[u8]) -> bool {
        let taken = bytes.len().saturating_add(self.end.bytes as usize);
        let fits = bytes.len() <= self.kept as usize && taken < self.ring.len();
        if fits {
            self.aside = bytes.len() as u32;
            self.copy_in(self.aside_at(), bytes);
        }
        fits
    }

    /// Copies what was put aside into `out`; `None` if that is nothing, or `out` is too short.
    pub fn read_aside(&self, out: &mut [u8]) -> Option<usize> {
        let len = self.aside as usize;
        self.copy_from(self.aside_at(), out.get_mut(..len)?);
        Some(len).filter(|len| *len > 0)
    }

    /// What was put aside is not needed any more.
    pub const fn drop_aside(&mut self) {
        self.aside = 0;
    }

    /// Right before the first entry: no entry comes there, as that much is kept free.
    fn aside_at(&self) -> u32 {
        let before = self.head.checked_sub(self.aside);
        let end = self.head.saturating_add(self.ring.len() as u32);
        before.unwrap_or(end.saturating_sub(self.aside))
    }

    /// The first entries are dropped; what was put aside goes along, the last byte first: the places may overlap.
    fn move_head(&mut self, head: u32) {
        let len = self.ring.len();
        let place = |from: u32, i: u32| {
            let at = from.saturating_add(i) as usize;
            at.checked_sub(len).unwrap_or(at)
        };
        let from = self.aside_at();
        self.head = head;
        let to = self.aside_at();
        for i in (0..self.aside).rev() {
            let byte = self.ring.get(place(from, i)).copied();
            if let (Some(place), Some(byte)) = (self.ring.get_mut(place(to, i)), byte) {
                *place = byte;
            }
        }
    }

    /// The entry behind so many others.
    const fn index(&self, entries: u32) -> Index {
        Index(self.base.index.0.wrapping_add(entries as u64))
    }

    /// How many entries there are up to `index`; `None` outside of `base..=last`.
    fn entries_here(&self, index: Index) -> Option<u32> {
        let entries = index.0.checked_sub(self.base.index.0)?;
        (entries <= u64::from(self.end.entries)).then_some(entries as u32)
    }

    /// The same, none before `base` and all behind `last`.
    #[inline(never)]
    fn entries_up_to(&self, index: Index) -> u32 {
        index.since(self.base.index).min(u64::from(self.end.entries)) as u32
    }

    fn find(&mut self, index: Index) -> Option<(Place, Head)> {
        let before = self.entries_here(index)?.checked_sub(1)?;
        if self.next_read.entries != before {
            (self.next_read, ..) = self.locate(before)?;
        }
        Some((self.next_read, self.head_at(self.next_read)?))
    }

    /// The place behind so many entries. It is remembered, as one that is read on from.
    fn seek(&mut self, entries: u32) -> Option<Place> {
        let (found, mut cursor, steps) = self.locate(entries)?;
        let bit = |cursor: usize| 1u8.wrapping_shl(cursor as u32);
        if steps > 0 && (cursor == CURSORS || steps > WALK_STEPS_SHORT) {
            let unused = (0..CURSORS).find(|i| self.cursors_used & bit(*i) == 0);
            cursor = unused.unwrap_or_default();
        }
        if let Some(kept) = self.cursors.get_mut(cursor) {
            *kept = found;
            self.cursors_used |= bit(cursor);
            if self.cursors_used == bit(CURSORS).wrapping_sub(1) {
                self.cursors_used = bit(cursor);
            }
        }
        Some(found)
    }

    /// The same, with the cursor that the walk began at, or [`CURSORS`], and its steps.
    fn locate(&self, entries: u32) -> Option<(Place, usize, u32)> {
        if entries == self.end.entries {
            return Some((self.end, CURSORS, 0));
        }
        let mut place = self.first();
        let mut cursor = CURSORS;
        for (i, kept) in self.cursors.iter().enumerate() {
            if kept.entries <= entries && kept.entries > place.entries {
                place = *kept;
                cursor = i;
            }
        }
        let mut steps = 0u32;
        while place.entries < entries {
            place = self.step(place)?;
            steps = steps.saturating_add(1);
        }
        Some((place, cursor, steps))
    }

    /// The place of the first entry here.
    const fn first(&self) -> Place {
        Place { term: self.base.term, ..Place::START }
    }

    fn step(&self, place: Place) -> Option<Place> {
        self.head_at(place).map(|head| place.behind(&head))
    }

    fn head_at(&self, place: Place) -> Option<Head> {
        let start = self.wrap(place.bytes) as usize;
        if let Some(bytes) = self.ring.get(start..start.saturating_add(HEAD_BYTES_MAX)) {
            return Head::decode(bytes);
        }
        let mut bytes = [0; HEAD_BYTES_MAX];
        self.copy_out(place.bytes, &mut bytes);
        Head::decode(&bytes)
    }

    /// Where in the ring the byte lies that is so far behind the first one.
    fn wrap(&self, behind: u32) -> u32 {
        let at = self.head.saturating_add(behind);
        at.checked_sub(self.ring.len() as u32).unwrap_or(at)
    }

    fn push(&mut self, bytes: &[u8]) {
        self.copy_in(self.wrap(self.end.bytes), bytes);
        self.end.bytes = self.end.bytes.saturating_add(bytes.len() as u32);
    }

    #[inline(never)]
    fn copy_in(&mut self, at: u32, bytes: &[u8]) {
        let at = at as usize;
        let before_end = self.ring.len().saturating_sub(at).min(bytes.len());
        let (first, second) = bytes.split_at_checked(before_end).unwrap_or((bytes, &[]));
        copy(self.ring.get_mut(at..).unwrap_or_default(), first);
        copy(&mut self.ring, second);
    }

    fn copy_out(&self, behind: u32, out: &mut [u8]) {
        self.copy_from(self.wrap(behind), out);
    }

    fn copy_from(&self, at: u32, out: &mut [u8]) {
        let tail = self.ring.get(at as usize..).unwrap_or_default();
        let before_end = tail.len().min(out.len());
        let (first, second) = out.split_at_mut_checked(before_end).unwrap_or_default();
        copy(first, tail);
        copy(second, &self.ring);
    }
}

/// Copies as much as both hold: no length can be wrong, so nothing can panic.
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    let len = to.len().min(from.len());
    if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index as Pick;

    const KEPT: usize = 6;

    /// What the log is, as simply as can be.
    #[derive(Clone, Debug, Default)]
    struct Model {
        base: EntryId,
        entries: Vec<(EntryId, Kind, Vec<u8>)>,
        durable: u64,
        writing: u64,
        aside: Vec<u8>,
    }

    impl Model {
        fn last(&self) -> EntryId {
            self.entries.last().map_or(self.base, |e| e.0)
        }

        fn term(&self, index: u64) -> Option<Term> {
            if index == self.base.index.0 {
                return Some(self.base.term);
            }
            self.entries.iter().find(|e| e.0.index.0 == index).map(|e| e.0.term)
        }

        fn truncate(&mut self, last: u64) {
            self.entries.retain(|e| e.0.index.0 <= last);
            self.durable = self.durable.min(last);
            self.writing = self.writing.min(last);
        }

        fn compact(&mut self, index: u64) {
            if let Some(term) = self.term(index) {
                self.base = EntryId::new(Index(index), term);
                self.entries.retain(|e| e.0.index.0 > index);
                self.durable = self.durable.max(index);
                self.writing = self.writing.max(index);
            }
        }
    }

    /// The bytes of entries that follow one of term `before`.
    fn encode(mut before: Term, entries: &[(EntryId, Kind, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (id, kind, data) in entries {
            let term = (id.term != before).then_some(id.term);
            let (head, len) = Head::encode(*kind, term, data.len() as u16);
            bytes.extend_from_slice(&head[..len]);
            bytes.extend_from_slice(data);
            before = id.term;
        }
        bytes
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append {
            term_up: u64,
            data: Vec<u8>,
        },
        /// Entries from a leader: they follow entry `from`, agree for `same` entries, then are new.
        Take {
            from: Pick,
            same: usize,
            new: Vec<(u64, Vec<u8>)>,
            keep: Pick,
        },
        Compact(Pick),
        Reset {
            jump: u64,
        },
        WriteBegins(Pick),
        WriteEnds,
        Aside(Vec<u8>),
        DropAside,
        Look {
            from: Pick,
            to: Pick,
            bytes_max: usize,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let data = || prop::collection::vec(any::<u8>(), 0..18);
        let step = prop_oneof![
            5 => (0u64..3, data()).prop_map(|(t, data)| Step::Append { term_up: t / 2, data }),
            5 => (any::<Pick>(), 0usize..4, prop::collection::vec((0u64..3, data()), 0..5), any::<Pick>())
                .prop_map(|(from, same, new, keep)| Step::Take { from, same, new, keep }),
            2 => any::<Pick>().prop_map(Step::Compact),
            1 => (0u64..1000).prop_map(|jump| Step::Reset { jump }),
            2 => any::<Pick>().prop_map(Step::WriteBegins),
            2 => Just(Step::WriteEnds),
            2 => data().prop_map(Step::Aside),
            1 => Just(Step::DropAside),
            3 => (any::<Pick>(), any::<Pick>(), 0usize..120)
                .prop_map(|(from, to, bytes_max)| Step::Look { from, to, bytes_max }),
        ];
        prop::collection::vec(step, 1..120)
    }

    fn pick(pick: &Pick, model: &Model) -> u64 {
        model.base.index.0 + pick.index(model.entries.len() + 1) as u64
    }

    fn take(
        log: &mut Log,
        model: &mut Model,
        from: u64,
        keep: u64,
        sent: &[(EntryId, Kind, Vec<u8>)],
    ) {
        let prev = EntryId::new(Index(from), model.term(from).unwrap());
        let bytes = encode(prev.term, sent);
        let got = log.append_entries(Entries::new(prev, &bytes), Index(keep));
        let mut want = Appended::UpTo(sent.last().map_or(prev.index, |e| e.0.index));
        let mut upto = prev.index;
        for entry in sent {
            let index = entry.0.index;
            if index <= model.last().index {
                if model.term(index.0) == Some(entry.0.term) {
                    upto = index;
                    continue;
                }
                if index.0 <= keep {
                    want = Appended::Conflict(index);
                    break;
                }
                model.truncate(index.0 - 1);
            }
            let used = encode(model.base.term, &model.entries).len();
            let more = encode(model.last().term, std::slice::from_ref(entry)).len();
            if used + more > log.bytes_capacity() {
                want = Appended::FullAfter(upto);
                break;
            }
            model.entries.push(entry.clone());
            upto = index;
        }
        assert_eq!(got, want);
    }

    fn apply(log: &mut Log, model: &mut Model, step: &Step) {
        match step {
            Step::Append { term_up, data } => {
                let term = Term(model.last().term.0.max(1) + term_up);
                let id = EntryId::new(model.last().index.next(), term);
                let entry = (id, Kind::Command, data.clone());
                let used = encode(model.base.term, &model.entries).len();
                let needed = encode(model.last().term, std::slice::from_ref(&entry)).len();
                let free = log.bytes_capacity() - used;
                let got = log.append(term, Kind::Command, data);
                if needed <= free {
                    assert_eq!(got, Ok(id));
                    model.entries.push(entry);
                } else {
                    assert_eq!(got, Err(Full { bytes_needed: needed, bytes_free: free }));
                }
            }
            Step::Take { from, same, new, keep } => {
                let from = pick(from, model);
                let keep = pick(keep, model);
                let here = model.entries.iter().filter(|e| e.0.index.0 > from);
                let mut sent: Vec<_> = here.take(*same).cloned().collect();
                for (up, data) in new {
                    let before = sent.last().map_or(model.term(from).unwrap(), |e| e.0.term);
                    let index = Index(from + sent.len() as u64 + 1);
                    // Two entries of one index and term are the same entry (Log Matching).
                    let mut term = Term(before.0.max(1) + up);
                    if model.term(index.0) == Some(term) {
                        term = term.next();
                    }
                    sent.push((EntryId::new(index, term), Kind::Command, data.clone()));
                }
                take(log, model, from, keep, &sent);
            }
            Step::Compact(at) => {
                let index = pick(at, model);
                log.compact(Index(index));
                model.compact(index);
            }
            Step::Reset { jump } => {
                let base = EntryId::new(model.last().index.plus(*jump), model.last().term.next());
                log.reset(base);
                *model = Model {
                    base,
                    durable: base.index.0,
                    writing: base.index.0,
                    aside: std::mem::take(&mut model.aside),
                    ..Model::default()
                };
            }
            Step::WriteBegins(last) => {
                let last = pick(last, model);
                log.write_begins(Index(last));
                model.writing = last;
            }
            Step::WriteEnds => {
                log.write_ends();
                model.durable = model.durable.max(model.writing);
            }
            Step::Aside(bytes) => {
                let fits = bytes.len() <= KEPT;
                assert_eq!(log.put_aside(bytes), fits);
                if fits {
                    model.aside.clone_from(bytes);
                }
            }
            Step::DropAside => {
                log.drop_aside();
                model.aside.clear();
            }
            Step::Look { from, to, bytes_max } => {
                let (from, to) = (pick(from, model), pick(to, model));
                let here: Vec<_> =
                    model.entries.iter().filter(|e| e.0.index.0 > from).cloned().collect();
                let before = model.term(from).unwrap();
                let fits = |n: &usize| encode(before, &here[..*n]).len() <= *bytes_max;
                let count = to.saturating_sub(from) as usize;
                let count = (0..=count).rev().find(fits).unwrap();
                let want = encode(before, &here[..count]);
                let (last, bytes) = log.fit(Index(from), Index(to), *bytes_max);
                assert_eq!((last.0, bytes), (from + count as u64, want.len()));
                let mut out = vec![0; bytes];
                assert_eq!(log.copy(Index(from), last, &mut out), Some(bytes));
                assert_eq!(out, want);
            }
        }
    }

    fn compare(log: &mut Log, model: &Model) {
        assert_eq!((log.base(), log.last()), (model.base, model.last()));
        assert_eq!(log.durable().0, model.durable);
        assert_eq!(log.count(), model.entries.len() as u64);
        let bytes = encode(model.base.term, &model.entries);
        assert_eq!(log.bytes_used(), bytes.len());
        assert_eq!(log.bytes_free(), log.bytes_capacity() - bytes.len());
        let (base, last) = (model.base.index.0, model.last().index.0);
        // Backwards too, so that no order of reading is the one that works.
        for index in (base.saturating_sub(1)..=last + 2).chain((base..=last).rev()) {
            assert_eq!(log.term(Index(index)), model.term(index), "term of {index}");
        }
        for (id, kind, data) in &model.entries {
            let mut out = [0; 18];
            assert_eq!(log.read(id.index, &mut out), Some((*kind, id.term, data.len())));
            assert_eq!(out[..data.len()], data[..]);
            assert_eq!(log.kind(id.index), Some((*kind, data.len())));
            assert!(log.holds(*id) && !log.holds(EntryId::new(id.index, id.term.next())));
        }
        for term in 0..=model.last().term.0 + 1 {
            for index in base..=last + 1 {
                let fits = |e: &EntryId| e.index.0 <= index && e.term.0 <= term;
                let ids = model.entries.iter().map(|e| e.0);
                let want = ids.rev().find(fits).unwrap_or(model.base);
                let id = EntryId::new(Index(index), Term(term));
                assert_eq!(log.find_conflict(id), want, "{id:?}");
            }
        }
        let mut aside = [0; KEPT];
        let len = log.read_aside(&mut aside).unwrap_or(0);
        assert_eq!(aside[..len], model.aside[..]);
        assert_eq!(log.read(Index(last + 1), &mut [0; 18]), None);
        assert_eq!(log.copy(Index(base), Index(last + 1), &mut [0; 400]), None);
    }

    fn check(log: &mut Log, steps: &[Step]) {
        let mut model = Model::default();
        log.keep_aside(KEPT);
        for step in steps {
            apply(log, &mut model, step);
            compare(log, &model);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        #[test]
        fn a_log_of_any_size_does_what_a_list_of_entries_does(steps in steps(), size in 0usize..5) {
            match size {
                0 => check(&mut Log::<[u8; 23]>::new(), &steps),
                1 => check(&mut Log::<[u8; 64]>::new(), &steps),
                2 => check(&mut Log::<[u8; 97]>::new(), &steps),
                3 => check(&mut Log::<[u8; 131]>::new(), &steps),
                _ => check(&mut Log::<[u8; 257]>::new(), &steps),
            }
        }

        #[test]
        fn whatever_bytes_come_as_entries_the_log_stays_readable(
            bytes in prop::collection::vec(0u8..9, 0..60),
            term in 0u64..3,
            own in 0usize..4,
        ) {
            let mut log = Log::<[u8; 61]>::new();
            let log: &mut Log = &mut log;
            for _ in 0..own {
                log.append(Term(1), Kind::Command, b"abc").unwrap();
            }
            log.append_entries(Entries::new(EntryId::new(Index(own as u64), Term(term)), &bytes), Index::ZERO);
            let mut out = [0; 61];
            let len = log.copy(Index::ZERO, log.last().index, &mut out).unwrap();
            prop_assert_eq!(len, log.bytes_used());
            let all: Vec<_> = Entries::new(EntryId::ZERO, &out[..len]).map(|e| e.unwrap().id).collect();
            prop_assert_eq!(all.last().copied().unwrap_or(EntryId::ZERO), log.last());
        }
    }

    #[test]
    fn an_overwritten_entry_is_not_durable_because_its_predecessor_was_written() {
        let mut log = Log::<[u8; 64]>::new();
        let log: &mut Log = &mut log;
        for _ in 0..3 {
            log.append(Term(1), Kind::Command, b"a").unwrap();
        }
        log.write_begins(Index(3));
        let other = (EntryId::new(Index(2), Term(2)), Kind::Command, b"b".to_vec());
        let one = EntryId::new(Index(1), Term(1));
        log.append_entries(Entries::new(one, &encode(Term(1), &[other])), Index(1));
        log.append(Term(2), Kind::Command, b"c").unwrap();
        log.write_ends();
        assert_eq!(log.durable(), Index(1), "entries 2 and 3 are others than those written");
        log.write_begins(Index(3));
        log.write_ends();
        assert_eq!(log.durable(), Index(3));
    }

    #[test]
    fn entries_that_do_not_follow_the_log_are_not_taken() {
        let mut log = Log::<[u8; 64]>::new();
        let log: &mut Log = &mut log;
        log.append(Term(1), Kind::Command, b"a").unwrap();
        let next = |index, term| [(EntryId::new(Index(index), Term(term)), Kind::Command, vec![1])];
        for prev in [EntryId::new(Index(2), Term(1)), EntryId::new(Index(1), Term(2))] {
            let bytes = encode(prev.term, &next(prev.index.0 + 1, prev.term.0));
            let got = log.append_entries(Entries::new(prev, &bytes), Index::ZERO);
            assert_eq!((got, log.last().index), (Appended::Malformed, Index(1)), "{prev:?}");
        }
    }

    #[test]
    fn what_is_put_aside_takes_what_is_kept_for_it_and_no_more() {
        let mut log = Log::<[u8; 32]>::new();
        let log: &mut Log = &mut log;
        assert!(!log.put_aside(&[7; 1]));
        log.keep_aside(10);
        assert!(log.put_aside(&[7; 10]) && !log.put_aside(&[9; 11]));
        assert_eq!(log.read_aside(&mut [0; 9]), None);
        while log.append(Term(1), Kind::Command, &[1]).is_ok() {}
        let mut out = [0; 10];
        assert_eq!((log.read_aside(&mut out), out), (Some(10), [7; 10]));
    }

    #[test]
    fn an_entry_too_long_for_its_length_field_is_refused() {
        let mut log = Log::<[u8; 70_000]>::new();
        let log: &mut Log = &mut log;
        let longest = vec![5; crate::entry::DATA_BYTES_MAX];
        assert!(log.append(Term(1), Kind::Command, &longest).is_ok());
        log.reset(EntryId::ZERO);
        assert!(log.append(Term(1), Kind::Command, &[longest, vec![5]].concat()).is_err());
    }
}
