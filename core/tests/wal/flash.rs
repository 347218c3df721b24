//! NOR flash as bad as it gets: power is cut inside a word or an erase, words read well once and decay,
//! erased blocks that were not erased to the end read blank and fall back, torn words can't be read.
//!
//! What must never happen is asserted here: a word programmed twice, or programmed after an erase that was
//! cut short.

use crate::random::Random;
use quorate::flash::{FlashDone, FlashOp, Geometry};
use std::collections::BTreeMap;

/// What an erase that is cut short leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EraseFault {
    /// Erased up to somewhere.
    Prefix,
    /// Any bits.
    RandomBits,
    /// It reads blank, and decays.
    Marginal,
    /// All programmed, as before an erase that starts by that.
    PreProgrammed,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) erase: EraseFault,
    /// Torn words may read as if whole, or blank, and change later.
    pub(crate) marginal: bool,
    /// Torn words can't be read.
    pub(crate) ecc: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) writes: u64,
    pub(crate) words: u64,
    pub(crate) erases: u64,
    pub(crate) reads: u64,
    pub(crate) bytes_read: u64,
    pub(crate) hidden_rewritten: u64,
    pub(crate) cuts_in_write: u64,
    pub(crate) cuts_in_erase: u64,
}

/// The power is gone.
#[derive(Debug)]
pub(crate) struct Cut;

#[derive(Clone)]
pub(crate) struct Flash {
    pub(crate) geometry: Geometry,
    pub(crate) bytes: Vec<u8>,
    /// Words that were touched since they were erased to the end.
    touched: Vec<bool>,
    /// Words that may read otherwise after the next boot.
    weak: BTreeMap<usize, ()>,
    /// Torn words at the start of a write that read as if nothing had been written.
    hidden: BTreeMap<usize, ()>,
    /// Words that can't be read.
    pub(crate) unreadable: BTreeMap<usize, ()>,
    pub(crate) faults: Faults,
    /// Writes and erases to go until one is cut short.
    pub(crate) fuse: Option<u64>,
    /// Segments of which every write from now on fails.
    pub(crate) broken: u32,
    pub(crate) counters: Counters,
}

impl Flash {
    pub(crate) fn new(geometry: Geometry, faults: Faults) -> Self {
        let bytes = geometry.bytes() as usize;
        let words = bytes / usize::from(geometry.word_bytes);
        Self {
            geometry,
            bytes: vec![geometry.erased; bytes],
            touched: vec![false; words],
            weak: BTreeMap::new(),
            hidden: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            faults,
            fuse: None,
            broken: 0,
            counters: Counters::default(),
        }
    }

    fn word(&self) -> usize {
        usize::from(self.geometry.word_bytes)
    }

    fn burns(&mut self) -> bool {
        match &mut self.fuse {
            Some(0) => true,
            Some(n) => {
                *n -= 1;
                false
            }
            None => false,
        }
    }

    /// Carries an operation out on `buf`.
    pub(crate) fn run(
        &mut self,
        op: FlashOp,
        buf: &mut [u8],
        random: &mut Random,
    ) -> Result<FlashDone, Cut> {
        let w = self.word();
        match op {
            FlashOp::Read { offset, len } => {
                let (from, len) = (offset as usize, len as usize);
                assert!(len > 0 && from + len <= self.bytes.len() && len <= buf.len());
                assert!(from % w == 0 && len % w == 0, "read {from} {len}");
                self.counters.reads += 1;
                self.counters.bytes_read += len as u64;
                let words = from / w..(from + len) / w;
                if self.unreadable.range(words).next().is_some() {
                    buf[..len].fill(0xa5);
                    return Ok(FlashDone::Failed);
                }
                buf[..len].copy_from_slice(&self.bytes[from..from + len]);
                Ok(FlashDone::Ok)
            }
            FlashOp::Write { offset, len } => {
                let (from, len) = (offset as usize, len as usize);
                assert!(len > 0 && from % w == 0 && len % w == 0);
                let segment = self.geometry.segment_bytes() as usize;
                assert_eq!(from / segment, (from + len - 1) / segment);
                self.counters.writes += 1;
                let torn =
                    if self.burns() { Some(random.below((len / w) as u64) as usize) } else { None };
                for i in 0..len / w {
                    let place = from / w + i;
                    // A write cut short in its first word may not show at all: nothing tells that word
                    // from a blank one.
                    let hidden = self.hidden.remove(&place).is_some();
                    assert!(!self.touched[place] || hidden, "word {place} is programmed twice");
                    self.counters.hidden_rewritten += u64::from(hidden);
                    self.weak.remove(&place);
                    self.touched[place] = true;
                    let new = &buf[i * w..(i + 1) * w];
                    if torn == Some(i) {
                        self.tear(place, new, random);
                        let now = &self.bytes[place * w..(place + 1) * w];
                        let blank = now.iter().all(|byte| *byte == self.geometry.erased);
                        if i == 0 && blank && !self.unreadable.contains_key(&place) {
                            self.hidden.insert(place, ());
                        }
                        self.counters.cuts_in_write += 1;
                        return Err(Cut);
                    }
                    self.bytes[place * w..(place + 1) * w].copy_from_slice(new);
                    self.counters.words += 1;
                }
                if self.broken & (1 << (from / segment)) != 0 {
                    self.bytes[from + len / 2] ^= 0x10;
                    return Ok(if random.one_in(2) { FlashDone::Failed } else { FlashDone::Ok });
                }
                Ok(FlashDone::Ok)
            }
            FlashOp::Erase { offset, len } => {
                let (from, len) = (offset as usize, len as usize);
                let segment = self.geometry.segment_bytes() as usize;
                assert!(from % segment == 0 && len == segment);
                self.counters.erases += 1;
                if self.burns() {
                    self.tear_erase(from, len, random);
                    self.counters.cuts_in_erase += 1;
                    return Err(Cut);
                }
                self.bytes[from..from + len].fill(self.geometry.erased);
                for place in from / w..(from + len) / w {
                    self.touched[place] = false;
                    self.weak.remove(&place);
                    self.hidden.remove(&place);
                    self.unreadable.remove(&place);
                }
                Ok(FlashDone::Ok)
            }
        }
    }

    fn randomize(&mut self, place: usize, random: &mut Random) {
        let w = self.word();
        for byte in &mut self.bytes[place * w..(place + 1) * w] {
            *byte = random.next() as u8;
        }
    }

    fn tear(&mut self, place: usize, new: &[u8], random: &mut Random) {
        let w = self.word();
        if self.faults.ecc && random.one_in(2) {
            self.unreadable.insert(place, ());
            return;
        }
        match random.below(5) {
            // It reads as before the write.
            0 => {}
            1 | 2 => self.bytes[place * w..(place + 1) * w].copy_from_slice(new),
            3 => {
                for (byte, new) in self.bytes[place * w..(place + 1) * w].iter_mut().zip(new) {
                    let bits = random.next() as u8;
                    *byte = (*byte & bits) | (new & !bits);
                }
            }
            _ => self.randomize(place, random),
        }
        if self.faults.marginal {
            self.weak.insert(place, ());
        }
    }

    fn tear_erase(&mut self, from: usize, len: usize, random: &mut Random) {
        let w = self.word();
        for place in from / w..(from + len) / w {
            self.touched[place] = true;
        }
        match self.faults.erase {
            EraseFault::Prefix => {
                let upto = random.below(len as u64) as usize / w * w;
                if random.one_in(2) {
                    self.bytes[from..from + upto].fill(self.geometry.erased);
                } else {
                    self.bytes[from + upto..from + len].fill(self.geometry.erased);
                }
            }
            EraseFault::RandomBits => {
                let dense = random.one_in(2);
                for place in from / w..(from + len) / w {
                    if dense || random.one_in(8) {
                        self.randomize(place, random);
                    }
                }
            }
            EraseFault::Marginal => {
                self.bytes[from..from + len].fill(self.geometry.erased);
                for _ in 0..4 {
                    let place = from / w + random.below((len / w) as u64) as usize;
                    self.weak.insert(place, ());
                }
                self.weak.insert(from / w, ());
            }
            EraseFault::PreProgrammed => {
                self.bytes[from..from + len].fill(!self.geometry.erased);
            }
        }
        if self.faults.ecc {
            for _ in 0..random.below(4) {
                let place = from / w + random.below((len / w) as u64) as usize;
                self.unreadable.insert(place, ());
            }
        }
    }

    /// A boot: weak words may read otherwise from now on.
    pub(crate) fn boot(&mut self, random: &mut Random) {
        self.fuse = None;
        for place in self.weak.keys().copied().collect::<Vec<_>>() {
            if random.one_in(2) {
                if self.faults.ecc && random.one_in(3) {
                    self.unreadable.insert(place, ());
                } else {
                    self.randomize(place, random);
                }
                if random.one_in(2) {
                    self.weak.remove(&place);
                }
            }
        }
    }
}
