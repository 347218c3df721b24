//! Places in the log: entries lie behind one another, and each is found by walking from one that is known.

use super::{CURSORS, Log};
use crate::entry::{HEAD_BYTES_MAX, Head};
use crate::types::{Index, Term};

/// A walk longer than this is remembered in a place of its own.
const WALK_STEPS_SHORT: u32 = 8;

/// A place in the log: so many entries, and their bytes, lie between `base` and it, and the one before it has that term.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) entries: u32,
    pub(super) bytes: u32,
    pub(super) term: Term,
}

impl Place {
    pub(super) const START: Self = Self { entries: 0, bytes: 0, term: Term::ZERO };

    /// The place behind an entry that lies here.
    pub(super) fn behind(self, head: &Head) -> Self {
        Self {
            entries: self.entries.saturating_add(1),
            bytes: self.bytes.saturating_add(head.bytes() as u32),
            term: head.term.unwrap_or(self.term),
        }
    }
}

impl Log {
    /// The entry behind so many others.
    pub(super) const fn index(&self, entries: u32) -> Index {
        Index(self.base.index.0.wrapping_add(entries as u64))
    }

    /// How many entries there are up to `index`; `None` outside of `base..=last`.
    pub(super) fn entries_here(&self, index: Index) -> Option<u32> {
        let entries = index.0.checked_sub(self.base.index.0)?;
        (entries <= u64::from(self.end.entries)).then_some(entries as u32)
    }

    /// The same, none before `base` and all behind `last`.
    #[inline(never)]
    pub(super) fn entries_up_to(&self, index: Index) -> u32 {
        index.since(self.base.index).min(u64::from(self.end.entries)) as u32
    }

    pub(super) fn find(&mut self, index: Index) -> Option<(Place, Head)> {
        let before = self.entries_here(index)?.checked_sub(1)?;
        if self.next_read.entries.wrapping_add(1) == before {
            self.next_read = self.step(self.next_read)?;
        } else if self.next_read.entries != before {
            (self.next_read, ..) = self.locate(before)?;
        }
        Some((self.next_read, self.head_at(self.next_read)?))
    }

    /// The place behind so many entries. It is remembered, as one that is read on from.
    pub(super) fn seek(&mut self, entries: u32) -> Option<Place> {
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
    pub(super) fn locate(&self, entries: u32) -> Option<(Place, usize, u32)> {
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
    pub(super) const fn first(&self) -> Place {
        Place { term: self.base.term, ..Place::START }
    }

    pub(super) fn step(&self, place: Place) -> Option<Place> {
        self.head_at(place).map(|head| place.behind(&head))
    }

    pub(super) fn head_at(&self, place: Place) -> Option<Head> {
        let start = self.wrap(place.bytes) as usize;
        if let Some(bytes) = self.ring.get(start..start.saturating_add(HEAD_BYTES_MAX)) {
            return Head::decode(bytes);
        }
        let mut bytes = [0; HEAD_BYTES_MAX];
        self.copy_out(place.bytes, &mut bytes);
        Head::decode(&bytes)
    }
}
