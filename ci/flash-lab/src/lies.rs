//! Flash that wears out: operations that are told to fail but stand, and ones that are told to succeed and do not
//! hold. What does not hold differs at once, for it can be read back; what decays later is rot.

use crate::flash::Flash;
use crate::random::Random;
use quorate::flash::FlashDone;
use std::ops::Range;

/// Operations that end otherwise than they tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lies {
    /// So many are still to come.
    pub left: u32,
    /// So many writes and erases are carried out as they should be before the next one.
    pub after: u64,
    /// The next one comes with the first record of a segment.
    pub first: bool,
    /// So many came.
    pub told: u64,
}

/// The most writes and erases between two lies.
const FAR: u64 = 120;

impl Flash {
    /// Is this operation, a write of a segment's first record or another one, the one that does not end as it tells?
    pub(crate) fn lies(&mut self, first: bool, random: &mut Random) -> bool {
        let lies = &mut self.lies;
        if lies.left == 0 {
            return false;
        }
        if lies.after > 0 || (lies.first && !first) {
            lies.after = lies.after.saturating_sub(1);
            return false;
        }
        lies.left -= 1;
        lies.told += 1;
        (lies.after, lies.first) = (random.below(FAR), random.one_in(2));
        true
    }

    /// Something is wrong with a write to these words, which has just been carried out: how it ends.
    pub(crate) fn lie_of_write(&mut self, words: Range<usize>, random: &mut Random) -> FlashDone {
        let w = self.word();
        let one = words.start + random.below(words.len() as u64) as usize;
        match random.below(6) {
            // It stands.
            0 | 1 => FlashDone::Failed,
            // It stands up to somewhere.
            2 => {
                self.bytes[one * w..words.end * w].fill(self.geometry.erased);
                self.touched[one..words.end].fill(false);
                FlashDone::Failed
            }
            // It does not hold, or can't be read; nor does what is written there from now on.
            kind => {
                if self.faults.ecc && kind == 3 {
                    self.unreadable.insert(one);
                } else {
                    self.bytes[one * w] ^= 1 << random.below(8);
                }
                if kind == 4 {
                    self.broken |= 1 << (one * w / self.geometry.segment_bytes() as usize);
                }
                if random.one_in(3) { FlashDone::Failed } else { FlashDone::Ok }
            }
        }
    }

    /// Something is wrong with an erase: how it ends.
    pub(crate) fn lie_of_erase(&mut self, range: Range<usize>, random: &mut Random) -> FlashDone {
        let w = self.word();
        let words = range.start / w..range.end / w;
        let before = self.bytes[range.clone()].to_vec();
        self.erase_to_the_end(range);
        // It stands; or some words keep what they held, which is told or not.
        let kind = random.below(4);
        let done = if kind < 2 { FlashDone::Failed } else { FlashDone::Ok };
        if done == FlashDone::Failed {
            // Nothing may be programmed there.
            self.touched[words.clone()].fill(true);
        }
        if kind == 0 {
            return done;
        }
        let middle = words.start + random.below(words.len() as u64) as usize;
        let how = random.below(3);
        for (place, old) in words.zip(before.chunks(w)) {
            let keeps = match how {
                0 => place < middle,
                1 => place >= middle,
                _ => random.one_in(8),
            };
            if keeps && old.iter().any(|byte| *byte != self.geometry.erased) {
                self.bytes[place * w..(place + 1) * w].copy_from_slice(old);
                if done == FlashDone::Ok {
                    self.residue.insert(place);
                }
            }
        }
        done
    }

    /// Programs a word. Where an erase has not held, though it was told to, bits only ever go one way.
    pub(crate) fn program(&mut self, place: usize, new: &[u8]) {
        let w = self.word();
        let ones = self.geometry.erased != 0;
        let kept = self.residue.remove(&place);
        for (byte, new) in self.bytes[place * w..(place + 1) * w].iter_mut().zip(new) {
            *byte = match (kept, ones) {
                (false, _) => *new,
                (true, true) => *byte & new,
                (true, false) => *byte | new,
            };
        }
    }
}
