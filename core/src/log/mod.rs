//! The log in RAM: a fixed number of bytes, a ring, entries in their encoded form.
//!
//! `base` is the last entry that is no longer here (it is in a snapshot); `last` the newest one;
//! `durable` the newest that flash is known to hold. Frames and flash records are copied from here and
//! from nowhere else.

mod places;
mod ring;

use places::Place;
pub(crate) use ring::copy;

use crate::entry::{Entries, Entry, Head, Kind};
use crate::types::{EntryId, Index, Term};
use crate::wire::COUNT_MAX;

/// Places remembered in the ring, so that reading on is one step: one for flash and one for peers that are at the same
/// place. Applying, and what a snapshot covers, have one of their own.
const CURSORS: usize = 2;

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
}

#[cfg(test)]
mod tests;
