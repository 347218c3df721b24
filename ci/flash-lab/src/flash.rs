//! NOR flash as bad as it gets: power is cut inside a word, a page or an erase, words read well once and
//! decay, blocks that were not erased to the end read blank and fall back, torn words can't be read.
//!
//! What must never happen is seen here: a word programmed twice, or programmed after an erase that was
//! cut short.

use crate::lies::Lies;
use crate::random::Random;
use quorate::flash::{FlashDone, FlashOp, Geometry};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What an erase that is cut short leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EraseFault {
    /// Erased up to somewhere, or from somewhere on.
    Prefix,
    /// Any bits, everywhere or here and there.
    RandomBits,
    /// It reads blank, and decays.
    Marginal,
    /// Programmed, all or up to somewhere, as before an erase that starts by that.
    PreProgrammed,
}

/// How bad the flash is.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// What an erase leaves behind.
    pub erase: EraseFault,
    /// Torn words may read as if whole, or blank, and change later.
    pub decay: bool,
    /// Torn words may be unreadable.
    pub ecc: bool,
    /// Torn words that change later may also come to read as they were meant to, and change again; not once a boot has
    /// seen nothing of the write, nor once an erase has begun.
    pub flicker: bool,
}

impl Faults {
    /// Nothing worse than a prefix.
    pub const MILD: Self =
        Self { erase: EraseFault::Prefix, decay: false, ecc: false, flicker: false };
}

/// What was done to the flash.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Writes begun.
    pub writes: u64,
    /// Words programmed.
    pub words: u64,
    /// Erases begun.
    pub erases: u64,
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Words programmed over the trace of a write that had left none.
    pub hidden_rewritten: u64,
    /// Writes cut short.
    pub cuts_in_write: u64,
    /// Erases cut short.
    pub cuts_in_erase: u64,
}

/// The power is gone.
#[derive(Debug)]
pub struct Cut;

/// When the power goes.
#[derive(Clone, Copy, Debug)]
pub struct Fuse {
    /// So many operations are carried out before the one that is cut short.
    pub after: u64,
    /// Only erases count.
    pub erases_only: bool,
    /// What is left of the operation; without it, whatever the faults allow.
    pub leaves: Option<Leaves>,
}

/// An erase can be cut exactly at the beginning of each of so many equal parts.
pub const ERASE_STAGES: usize = 8;

/// An exact cut.
#[derive(Clone, Copy, Debug)]
pub struct Leaves {
    /// The word of the operation that is being programmed; the last one, if it has fewer. An erase has
    /// come so many of its [`ERASE_STAGES`] far.
    pub word: usize,
    /// What it reads as.
    pub pattern: Pattern,
}

/// What a word reads as in which the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// As before.
    Untouched,
    /// As if it had been done.
    Done,
    /// Every second bit is done.
    Half,
    /// Every bit is the opposite of what was to be.
    Inverted,
    /// As if done until the boot after the next, then the opposite.
    DoneOnce,
    /// As before until the boot after the next, then the opposite of what was to be.
    UntouchedOnce,
}

impl Pattern {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Untouched,
        Self::Done,
        Self::Half,
        Self::Inverted,
        Self::DoneOnce,
        Self::UntouchedOnce,
    ];
}

/// The flash.
#[derive(Clone)]
pub struct Flash {
    /// How it is laid out.
    pub geometry: Geometry,
    /// What it reads as.
    pub bytes: Vec<u8>,
    /// Words that were touched since they were erased to the end.
    pub(crate) touched: Vec<bool>,
    /// Words that may read otherwise after the next boot, and what was to be written there.
    weak: BTreeMap<usize, Vec<u8>>,
    /// Words of a write that was cut short and reads as if it had never begun.
    hidden: BTreeSet<usize>,
    /// Where writes were cut short and left something to see.
    traces: Vec<Range<usize>>,
    /// Words that will read otherwise: after how many boots, where, as what.
    later: Vec<(u8, usize, Vec<u8>)>,
    /// Words that kept what they held through an erase that was told to succeed.
    pub(crate) residue: BTreeSet<usize>,
    /// Words that can't be read.
    pub unreadable: BTreeSet<usize>,
    /// How bad it is.
    pub faults: Faults,
    /// When the power goes; it never does without.
    pub fuse: Option<Fuse>,
    /// Segments of which every write from now on fails.
    pub broken: u32,
    /// Operations that end otherwise than they tell.
    pub lies: Lies,
    /// What was done to it.
    pub counters: Counters,
    /// Print every operation.
    pub trace: bool,
    /// The places at which the operation that was cut last could have been cut: its words, or for an erase
    /// some of them.
    pub last_written: usize,
}

impl Flash {
    /// Flash as it comes from the factory.
    pub fn new(geometry: Geometry, faults: Faults) -> Self {
        let bytes = geometry.bytes() as usize;
        let words = bytes / usize::from(geometry.word_bytes);
        Self {
            geometry,
            bytes: vec![geometry.erased; bytes],
            touched: vec![false; words],
            weak: BTreeMap::new(),
            hidden: BTreeSet::new(),
            traces: vec![],
            later: vec![],
            residue: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            faults,
            fuse: None,
            broken: 0,
            lies: Lies::default(),
            counters: Counters::default(),
            trace: false,
            last_written: 0,
        }
    }

    /// Flash that holds these bytes: what is not blank was programmed.
    pub fn holding(geometry: Geometry, faults: Faults, bytes: &[u8]) -> Self {
        let mut flash = Self::new(geometry, faults);
        flash.bytes.copy_from_slice(bytes);
        let word = flash.word();
        for (touched, word) in flash.touched.iter_mut().zip(bytes.chunks(word)) {
            *touched = word.iter().any(|byte| *byte != geometry.erased);
        }
        flash
    }

    /// The power goes in the operation after the next `after` ones.
    pub fn cut_after(&mut self, after: u64) {
        self.fuse = Some(Fuse { after, erases_only: false, leaves: None });
    }

    /// Cuts that landed inside an operation.
    pub const fn cuts(&self) -> u64 {
        self.counters.cuts_in_write + self.counters.cuts_in_erase
    }

    pub(crate) fn word(&self) -> usize {
        usize::from(self.geometry.word_bytes)
    }

    /// Is this the operation that is cut short?
    fn burns(&mut self, erase: bool) -> Option<Fuse> {
        match &mut self.fuse {
            Some(fuse) if fuse.erases_only && !erase => None,
            Some(Fuse { after: 0, .. }) => self.fuse,
            Some(fuse) => {
                fuse.after -= 1;
                None
            }
            None => None,
        }
    }

    /// Carries an operation out on `buf`.
    ///
    /// # Errors
    /// The power went meanwhile.
    pub fn run(
        &mut self,
        op: FlashOp,
        buf: &mut [u8],
        random: &mut Random,
    ) -> Result<FlashDone, Cut> {
        let w = self.word();
        let (FlashOp::Read { offset, len }
        | FlashOp::Write { offset, len }
        | FlashOp::Erase { offset, len }) = op;
        let (from, len) = (offset as usize, len as usize);
        ensure!(
            len > 0 && from % w == 0 && len % w == 0 && from + len <= self.bytes.len(),
            "F1",
            "{op:?} is out of line or bounds"
        );
        let done = match op {
            FlashOp::Read { .. } => {
                ensure!(len <= buf.len(), "F1", "{op:?} does not fit the buffer");
                Ok(self.read(from, len, buf))
            }
            FlashOp::Write { .. } => {
                let segment = self.geometry.segment_bytes() as usize;
                let inside = from / segment == (from + len - 1) / segment && len <= buf.len();
                ensure!(inside, "F1", "{op:?} goes beyond its segment or the buffer");
                self.write(from, &buf[..len], random)
            }
            FlashOp::Erase { .. } => {
                let segment = self.geometry.segment_bytes() as usize;
                let whole = from % segment == 0 && len == segment;
                ensure!(whole, "F1", "{op:?} is not a segment");
                self.erase(from, len, random)
            }
        };
        if self.trace {
            let how = done.as_ref().map_or("CUT".to_owned(), |done| format!("{done:?}"));
            eprintln!("    {op:?}: {how}");
        }
        done
    }

    fn read(&mut self, from: usize, len: usize, buf: &mut [u8]) -> FlashDone {
        let w = self.word();
        self.counters.reads += 1;
        self.counters.bytes_read += len as u64;
        if self.unreadable.range(from / w..(from + len) / w).next().is_some() {
            buf[..len].fill(0xa5);
            return FlashDone::Failed;
        }
        buf[..len].copy_from_slice(&self.bytes[from..from + len]);
        FlashDone::Ok
    }

    fn write(&mut self, from: usize, new: &[u8], random: &mut Random) -> Result<FlashDone, Cut> {
        let w = self.word();
        let words = new.len() / w;
        self.counters.writes += 1;
        let cut = self.burns(false);
        let torn = match cut {
            None => words..words,
            Some(Fuse { leaves: Some(leaves), .. }) => {
                let word = leaves.word.min(words - 1);
                word..word + 1
            }
            Some(_) => self.torn_words(from / w, words, random),
        };
        self.hide_traces();
        for i in 0..torn.end {
            let place = from / w + i;
            // A write may be cut short so early that nothing tells its words from blank ones, or not for long.
            let hidden = self.hidden.remove(&place);
            let fresh = !self.touched[place] || hidden;
            ensure!(fresh, "F1", "word {place} (byte {}) is programmed twice", place * w);
            self.counters.hidden_rewritten += u64::from(hidden);
            self.weak.remove(&place);
            self.later.retain(|(_, later, _)| *later != place);
            self.touched[place] = true;
            let new = &new[i * w..(i + 1) * w];
            if torn.contains(&i) {
                match cut.and_then(|fuse| fuse.leaves) {
                    Some(leaves) => self.leave(place, new, leaves.pattern),
                    None => self.tear(place, new, random),
                }
            } else {
                self.program(place, new);
                self.counters.words += 1;
            }
        }
        if cut.is_some() {
            self.last_written = words;
            self.traces.push(from / w..from / w + torn.end);
            self.counters.cuts_in_write += 1;
            return Err(Cut);
        }
        if self.broken & (1 << (from / self.geometry.segment_bytes() as usize)) != 0 {
            self.bytes[from + new.len() / 2] ^= 0x10;
            return Ok(if random.one_in(2) { FlashDone::Failed } else { FlashDone::Ok });
        }
        let first = from.is_multiple_of(self.geometry.segment_bytes() as usize);
        if self.lies(first, random) {
            return Ok(self.lie_of_write(from / w..from / w + words, random));
        }
        Ok(FlashDone::Ok)
    }

    /// Forgets the traces of cut writes of which nothing is to be seen.
    fn hide_traces(&mut self) {
        let (w, erased) = (self.word(), self.geometry.erased);
        for places in std::mem::take(&mut self.traces) {
            let mut bytes = self.bytes[places.start * w..places.end * w].iter();
            let readable = self.unreadable.range(places.clone()).next().is_none();
            if readable && bytes.all(|byte| *byte == erased) {
                self.comes_to_nothing(places.clone());
                self.hidden.extend(places);
            } else {
                self.traces.push(places);
            }
        }
    }

    /// Words there that flicker stay as they are.
    fn comes_to_nothing(&mut self, places: Range<usize>) {
        if self.faults.flicker {
            self.weak.retain(|place, _| !places.contains(place));
        }
    }

    /// The words in which a write is cut short: one, or all of a page that is programmed at once.
    fn torn_words(&self, first: usize, words: usize, random: &mut Random) -> Range<usize> {
        let torn = random.below(words as u64) as usize;
        let per_page = usize::from(self.geometry.page_bytes) / self.word();
        if per_page == 1 || random.one_in(2) {
            return torn..torn + 1;
        }
        let page = (first + torn) / per_page * per_page;
        page.saturating_sub(first)..(page + per_page - first).min(words)
    }

    fn erase(&mut self, from: usize, len: usize, random: &mut Random) -> Result<FlashDone, Cut> {
        self.counters.erases += 1;
        let w = self.word();
        self.traces.retain(|places| places.end * w <= from || places.start * w >= from + len);
        let Some(fuse) = self.burns(true) else {
            if self.lies(false, random) {
                return Ok(self.lie_of_erase(from..from + len, random));
            }
            self.erase_to_the_end(from..from + len);
            return Ok(FlashDone::Ok);
        };
        // Blocks are erased one after another; the power goes in one of them.
        let block = self.geometry.block_bytes as usize;
        let blocks = (len / block) as u64;
        self.last_written = ERASE_STAGES;
        if let Some(leaves) = fuse.leaves {
            let come = len / ERASE_STAGES * leaves.word.min(ERASE_STAGES - 1);
            let at = from + come / block * block;
            self.erase_to_the_end(from..at);
            self.leave_erase(at..at + block, from + come - at, leaves.pattern);
        } else {
            let at = from + random.below(blocks) as usize * block;
            self.erase_to_the_end(from..at);
            self.tear_erase(at, block, random);
        }
        self.counters.cuts_in_erase += 1;
        Err(Cut)
    }

    pub(crate) fn erase_to_the_end(&mut self, range: Range<usize>) {
        let w = self.word();
        self.bytes[range.clone()].fill(self.geometry.erased);
        for place in range.start / w..range.end / w {
            self.touched[place] = false;
            self.weak.remove(&place);
            self.hidden.remove(&place);
            self.residue.remove(&place);
            self.unreadable.remove(&place);
        }
        self.later.retain(|(_, place, _)| !range.contains(&(place * w)));
    }

    fn randomize(&mut self, place: usize, random: &mut Random) {
        let w = self.word();
        for byte in &mut self.bytes[place * w..(place + 1) * w] {
            *byte = random.draw() as u8;
        }
    }

    fn leave(&mut self, place: usize, new: &[u8], pattern: Pattern) {
        let w = self.word();
        let now = &mut self.bytes[place * w..(place + 1) * w];
        let opposite: Vec<u8> = new.iter().map(|byte| !byte).collect();
        match pattern {
            Pattern::Untouched => {}
            Pattern::Done | Pattern::DoneOnce => now.copy_from_slice(new),
            Pattern::Half => {
                for (byte, new) in now.iter_mut().zip(new) {
                    *byte = (*byte & 0x55) | (new & 0xaa);
                }
            }
            Pattern::Inverted => now.copy_from_slice(&opposite),
            Pattern::UntouchedOnce => {}
        }
        if matches!(pattern, Pattern::DoneOnce | Pattern::UntouchedOnce) {
            self.later.push((2, place, opposite));
        }
    }

    /// The erase of one block came as far as `upto`; the rest is as the pattern says.
    fn leave_erase(&mut self, block: Range<usize>, upto: usize, pattern: Pattern) {
        let w = self.word();
        let erased = self.geometry.erased;
        let upto = block.start + upto.min(block.len());
        self.bytes[block.start..upto].fill(erased);
        for place in block.start / w..block.end / w {
            self.touched[place] = true;
            let blank = vec![erased; w];
            if place * w >= upto {
                self.leave(place, &blank, pattern);
            }
        }
    }

    fn tear(&mut self, place: usize, new: &[u8], random: &mut Random) {
        let w = self.word();
        if self.faults.ecc && random.one_in(2) {
            self.unreadable.insert(place);
            if self.faults.flicker {
                self.weak.insert(place, new.to_vec());
            }
            return;
        }
        match random.below(5) {
            // It reads as before the write.
            0 => {}
            1 | 2 => self.bytes[place * w..(place + 1) * w].copy_from_slice(new),
            3 => {
                for (byte, new) in self.bytes[place * w..(place + 1) * w].iter_mut().zip(new) {
                    let bits = random.draw() as u8;
                    *byte = (*byte & bits) | (new & !bits);
                }
            }
            _ => self.randomize(place, random),
        }
        if self.faults.decay {
            self.weak.insert(place, new.to_vec());
        }
    }

    fn tear_erase(&mut self, from: usize, len: usize, random: &mut Random) {
        let w = self.word();
        let places = from / w..(from + len) / w;
        for place in places.clone() {
            self.touched[place] = true;
        }
        self.comes_to_nothing(places.clone());
        let upto = random.below(len as u64) as usize / w * w;
        match self.faults.erase {
            EraseFault::Prefix => {
                if random.one_in(2) {
                    self.bytes[from..from + upto].fill(self.geometry.erased);
                } else {
                    self.bytes[from + upto..from + len].fill(self.geometry.erased);
                }
            }
            EraseFault::RandomBits => {
                let dense = random.one_in(2);
                for place in places.clone() {
                    if dense || random.one_in(8) {
                        self.randomize(place, random);
                    }
                }
            }
            EraseFault::Marginal => {
                self.bytes[from..from + len].fill(self.geometry.erased);
                let blank = vec![self.geometry.erased; w];
                for _ in 0..4 {
                    let place = from / w + random.below((len / w) as u64) as usize;
                    self.weak.insert(place, blank.clone());
                }
                self.weak.insert(from / w, blank);
            }
            EraseFault::PreProgrammed => {
                let upto = if random.one_in(2) { len } else { upto };
                self.bytes[from..from + upto].fill(!self.geometry.erased);
            }
        }
        if self.faults.ecc {
            for _ in 0..random.below(4) {
                self.unreadable.insert(from / w + random.below((len / w) as u64) as usize);
            }
        }
    }

    /// A boot: weak words may read otherwise from now on.
    pub fn boot(&mut self, random: &mut Random) {
        self.fuse = None;
        self.boot_keeping_fuse(random);
    }

    /// A boot in which the power may go.
    pub fn boot_keeping_fuse(&mut self, random: &mut Random) {
        let w = self.word();
        let Faults { ecc, flicker, .. } = self.faults;
        for (place, new) in self.weak.clone() {
            if random.one_in(2) {
                if flicker {
                    self.unreadable.remove(&place);
                }
                if ecc && random.one_in(3) {
                    self.unreadable.insert(place);
                } else if flicker && random.one_in(2) {
                    self.bytes[place * w..(place + 1) * w].copy_from_slice(&new);
                } else {
                    self.randomize(place, random);
                }
                if random.one_in(2) {
                    self.weak.remove(&place);
                }
            }
        }
        for (boots, place, bytes) in &mut self.later {
            *boots -= 1;
            if *boots == 0 {
                self.bytes[*place * w..(*place + 1) * w].copy_from_slice(bytes);
            }
        }
        self.later.retain(|(boots, ..)| *boots > 0);
    }
}
