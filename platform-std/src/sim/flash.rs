//! A NOR flash part: words that can be programmed once, blocks that are erased whole, operations that
//! take their time, and what a power cut leaves behind.

use quorate::flash::{FlashDone, FlashOp, Geometry};

use super::dice::Dice;
use super::options::{Fault, Faults};

/// A kind of part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is called in reports.
    pub name: &'static str,
    /// The partition.
    pub geometry: Geometry,
    /// Programming one `page_bytes` unit, in µs.
    pub program_us: u32,
    /// Erasing one block at best, in µs.
    pub erase_us_min: u32,
    /// Erasing one block at worst, in µs.
    pub erase_us_max: u32,
    /// Reading 32 bytes, in µs; 0 if the part is mapped into memory.
    pub read_us: u32,
    /// The CPU stands still while the part programs or erases.
    pub stalls: bool,
    /// A word with arbitrary bits fails to be read, instead of reading as some value.
    pub ecc: bool,
}

/// What the core must never ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// A word was programmed again without an erase between, or in a block whose erase was cut.
    WordTwice {
        /// Where.
        offset: u32,
    },
    /// An offset or length that is not aligned, or is out of bounds.
    Range {
        /// Where.
        offset: u32,
        /// How long.
        len: u32,
    },
    /// An operation while another one was out.
    Busy,
}

/// What a cut did to the part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// A program or erase operation was under way.
    pub in_operation: bool,
    /// A word was left with bits that are neither the old nor the new ones.
    pub torn_write: bool,
    /// A block was left neither as it was nor erased.
    pub torn_erase: bool,
}

/// Cells that read well now and won't later.
#[derive(Clone, Debug)]
struct Weak {
    offset: u32,
    later: Vec<u8>,
    /// Boots until they fail.
    boots: u8,
}

#[derive(Clone, Debug)]
struct Running {
    op: FlashOp,
    data: Vec<u8>,
    began_us: u64,
    ends_us: u64,
}

/// One board's part, with its bytes.
#[derive(Clone, Debug)]
pub struct Chip {
    part: Part,
    bytes: Vec<u8>,
    /// Words that were programmed, or may have been, since their block was erased.
    used: Vec<bool>,
    /// Words that an ECC part cannot read.
    unreadable: Vec<bool>,
    weak: Vec<Weak>,
    running: Option<Running>,
    /// Bytes programmed so far.
    pub bytes_written: u64,
    /// Blocks erased so far.
    pub erases: u64,
}

impl Chip {
    /// A part fresh from the factory, or with the image that it held before.
    pub fn new(part: Part, image: Option<Vec<u8>>) -> Self {
        let len = part.geometry.bytes() as usize;
        let words = len / usize::from(part.geometry.word_bytes);
        let mut bytes = image.unwrap_or_else(|| vec![part.geometry.erased; len]);
        bytes.resize(len, part.geometry.erased);
        let used = bytes
            .chunks(usize::from(part.geometry.word_bytes))
            .map(|word| word.iter().any(|byte| *byte != part.geometry.erased))
            .collect();
        Self {
            part,
            bytes,
            used,
            unreadable: vec![false; words],
            weak: Vec::new(),
            running: None,
            bytes_written: 0,
            erases: 0,
        }
    }

    /// Another one of the kind takes its place, fresh from the factory.
    pub fn replace(&mut self) {
        let Self { bytes_written, erases, .. } = *self;
        *self = Self { bytes_written, erases, ..Self::new(self.part, None) };
    }

    /// What kind it is.
    pub const fn part(&self) -> &Part {
        &self.part
    }

    /// What it holds, without the operation that is under way.
    pub fn image(&self) -> &[u8] {
        &self.bytes
    }

    /// A copy that can be mounted without touching this one: nothing is under way in it, and weak cells
    /// hold.
    pub fn copy(&self) -> Self {
        Self { running: None, weak: Vec::new(), ..self.clone() }
    }

    /// Is an operation under way that makes the CPU stand still?
    pub fn stalls(&self) -> bool {
        let modifies = |r: &Running| !matches!(r.op, FlashOp::Read { .. });
        self.part.stalls && self.running.as_ref().is_some_and(modifies)
    }

    /// The program or erase operation that is under way: when it began and when it will end.
    pub fn modifying(&self) -> Option<(FlashOp, u64, u64)> {
        let running = self.running.as_ref()?;
        (!matches!(running.op, FlashOp::Read { .. })).then_some((
            running.op,
            running.began_us,
            running.ends_us,
        ))
    }

    /// Begins an operation; when it will end. `data` is the flash buffer.
    pub fn begin(
        &mut self,
        op: FlashOp,
        data: &[u8],
        now_us: u64,
        dice: &mut Dice,
    ) -> Result<u64, Misuse> {
        if self.running.is_some() {
            return Err(Misuse::Busy);
        }
        let geometry = &self.part.geometry;
        let word = u32::from(geometry.word_bytes);
        let (offset, len, unit) = match op {
            FlashOp::Read { offset, len } => (offset, len, 1),
            FlashOp::Write { offset, len } => (offset, len, word),
            FlashOp::Erase { offset, len } => (offset, len, geometry.block_bytes),
        };
        let end = u64::from(offset) + u64::from(len);
        let aligned = offset.is_multiple_of(unit) && len.is_multiple_of(unit);
        let buffered = matches!(op, FlashOp::Erase { .. }) || len as usize <= data.len();
        if !aligned || !buffered || end > self.bytes.len() as u64 || len == 0 {
            return Err(Misuse::Range { offset, len });
        }
        let (duration_us, data) = match op {
            FlashOp::Read { .. } => {
                (u64::from(self.part.read_us) * u64::from(len.div_ceil(32)), Vec::new())
            }
            FlashOp::Write { .. } => {
                let words = (offset / word) as usize..((offset + len) / word) as usize;
                if let Some(again) = words.clone().find(|at| self.used[*at]) {
                    return Err(Misuse::WordTwice { offset: again as u32 * word });
                }
                let page = u64::from(geometry.page_bytes);
                let pages = end.div_ceil(page) - u64::from(offset) / page;
                self.bytes_written += u64::from(len);
                (pages * u64::from(self.part.program_us), data[..len as usize].to_vec())
            }
            FlashOp::Erase { .. } => {
                let blocks = len / geometry.block_bytes;
                self.erases += u64::from(blocks);
                let each =
                    dice.within(self.part.erase_us_min.into(), self.part.erase_us_max.into());
                (u64::from(blocks) * each, Vec::new())
            }
        };
        let ends_us = now_us + duration_us;
        self.running = Some(Running { op, data, began_us: now_us, ends_us });
        Ok(ends_us)
    }

    /// Ends the operation: how it ended; what was read is put into `buffer`.
    pub fn finish(&mut self, buffer: &mut [u8]) -> Option<(FlashOp, FlashDone)> {
        let Running { op, data, .. } = self.running.take()?;
        let mut done = FlashDone::Ok;
        match op {
            FlashOp::Read { offset, len } => {
                let range = offset as usize..(offset + len) as usize;
                if self.words(offset, len).any(|word| self.unreadable[word]) {
                    done = FlashDone::Failed;
                } else {
                    buffer[..len as usize].copy_from_slice(&self.bytes[range]);
                }
            }
            FlashOp::Write { offset, len } => self.program(offset, &data[..len as usize]),
            FlashOp::Erase { offset, len } => self.erase(offset, len),
        }
        Some((op, done))
    }

    fn words(&self, offset: u32, len: u32) -> std::ops::Range<usize> {
        let word = u32::from(self.part.geometry.word_bytes);
        (offset / word) as usize..(offset + len).div_ceil(word) as usize
    }

    fn program(&mut self, offset: u32, data: &[u8]) {
        let words = self.words(offset, data.len() as u32);
        self.used[words].fill(true);
        self.bytes[offset as usize..][..data.len()].copy_from_slice(data);
    }

    fn erase(&mut self, offset: u32, len: u32) {
        self.bytes[offset as usize..][..len as usize].fill(self.part.geometry.erased);
        let words = self.words(offset, len);
        self.used[words.clone()].fill(false);
        self.unreadable[words].fill(false);
        self.weak.retain(|weak| !(offset..offset + len).contains(&weak.offset));
    }

    /// Power is gone at `now_us`.
    pub fn cut(&mut self, now_us: u64, faults: Faults, dice: &mut Dice) -> Cut {
        let Some(Running { op, data, began_us, ends_us }) = self.running.take() else {
            return Cut::default();
        };
        let took = (ends_us - began_us).max(1);
        let gone = now_us.saturating_sub(began_us).min(took);
        match op {
            FlashOp::Read { .. } => Cut::default(),
            FlashOp::Write { offset, .. } => {
                let torn_write = self.cut_write(offset, &data, gone, took, faults, dice);
                Cut { in_operation: true, torn_write, torn_erase: false }
            }
            FlashOp::Erase { offset, len } => {
                let block = self.part.geometry.block_bytes;
                let done = (u64::from(len / block) * gone / took) as u32;
                self.erase(offset, done * block);
                let torn_erase =
                    done * block < len && self.cut_erase(offset + done * block, faults, dice);
                Cut { in_operation: true, torn_write: false, torn_erase }
            }
        }
    }

    /// The pages before the cut hold, the one in progress is in doubt, the ones behind are untouched.
    fn cut_write(
        &mut self,
        offset: u32,
        data: &[u8],
        gone: u64,
        took: u64,
        faults: Faults,
        dice: &mut Dice,
    ) -> bool {
        let page = u32::from(self.part.geometry.page_bytes);
        let end = offset + data.len() as u32;
        let pages = end.div_ceil(page) - offset / page;
        let done = (u64::from(pages) * gone / took) as u32;
        let from = (offset / page + done) * page;
        let (from, upto) = (from.clamp(offset, end), (from + page).clamp(offset, end));
        let (held, rest) = data.split_at((from - offset) as usize);
        self.program(offset, held);
        if from == upto {
            return false;
        }
        let doubtful = &rest[..(upto - from) as usize];
        if !faults.has(Fault::TornWrites) {
            if dice.chance(500) {
                self.program(from, doubtful);
            }
            return false;
        }
        let word_bytes = usize::from(self.part.geometry.word_bytes);
        let mut torn = false;
        for (at, new) in doubtful.chunks(word_bytes).enumerate() {
            torn |= self.tear_word(from + (at * word_bytes) as u32, new, faults, dice);
        }
        self.forget_blank(offset, (upto - offset) as usize);
        torn
    }

    /// Words of a write that was cut, and that read as blank: nobody can know that they were meant, so
    /// they may be programmed. In a block whose erase was cut no word may, whatever it reads as.
    fn forget_blank(&mut self, offset: u32, len: usize) {
        let word_bytes = usize::from(self.part.geometry.word_bytes);
        let words = self.words(offset, len as u32);
        for word in words {
            let bytes = &self.bytes[word * word_bytes..][..word_bytes];
            if bytes.iter().all(|byte| *byte == self.part.geometry.erased) {
                self.used[word] = false;
            }
        }
    }

    /// Leaves one word as it was, as it should have become, as it should have become for now, or with
    /// arbitrary bits; true if it reads as neither.
    fn tear_word(&mut self, offset: u32, new: &[u8], faults: Faults, dice: &mut Dice) -> bool {
        let at = offset as usize..offset as usize + new.len();
        let old = self.bytes[at.clone()].to_vec();
        let arbitrary = torn_bits(&old, new, dice);
        let choice = dice.below(8);
        if choice == 0 {
            // The pulse was too short to leave a trace that anybody could see: the word is as it was.
            return false;
        }
        if choice <= 2 {
            self.program(offset, new);
            if faults.has(Fault::Decay) && choice == 1 {
                let boots = dice.within(1, 3) as u8;
                self.weak.push(Weak { offset, later: arbitrary, boots });
            }
            return false;
        }
        if arbitrary == old {
            return false;
        }
        self.program(offset, &arbitrary);
        let neither = arbitrary != old && arbitrary != new;
        if self.part.ecc && neither {
            let word = self.words(offset, 1).start;
            self.unreadable[word] = true;
        }
        neither
    }

    /// Leaves one block erased in part; true if it is neither as it was nor erased.
    fn cut_erase(&mut self, offset: u32, faults: Faults, dice: &mut Dice) -> bool {
        let len = self.part.geometry.block_bytes;
        let erased = self.part.geometry.erased;
        let at = offset as usize..(offset + len) as usize;
        let words = self.words(offset, len);
        if !faults.has(Fault::TornErases) {
            if dice.chance(500) {
                self.erase(offset, len);
            }
            return false;
        }
        let old = self.bytes[at.clone()].to_vec();
        let kinds = if faults.has(Fault::Decay) { 4 } else { 3 };
        match dice.below(kinds) {
            0 => {
                let upto = dice.below(u64::from(len)) as usize;
                self.bytes[at.clone()][..upto].fill(erased);
            }
            1 => {
                for byte in &mut self.bytes[at.clone()] {
                    let mask = dice.bits() as u8;
                    *byte = (*byte & mask) | (erased & !mask);
                }
            }
            2 => self.bytes[at.clone()].fill(!erased),
            _ => {
                self.bytes[at.clone()].fill(erased);
                for _ in 0..3 {
                    let place = offset + dice.below(u64::from(len)) as u32;
                    let later = vec![erased ^ (1 << dice.below(8))];
                    let boots = dice.within(1, 3) as u8;
                    self.weak.push(Weak { offset: place, later, boots });
                }
            }
        }
        // Whatever it reads as, no word of it may be programmed before the block was erased to the end.
        self.used[words].fill(true);
        let now = &self.bytes[at];
        *now != old[..] && now.iter().any(|byte| *byte != erased)
    }

    /// Power is back: cells whose time has come fail. How many words read differently from now on.
    pub fn boot(&mut self) -> u32 {
        let mut failed = 0;
        let mut weak = std::mem::take(&mut self.weak);
        weak.retain_mut(|cells| {
            cells.boots -= 1;
            if cells.boots > 0 {
                return true;
            }
            let at = cells.offset as usize..cells.offset as usize + cells.later.len();
            if self.bytes[at.clone()] != cells.later[..] {
                failed += 1;
                self.bytes[at].copy_from_slice(&cells.later);
                self.forget_blank(cells.offset, cells.later.len());
                if self.part.ecc {
                    let word = self.words(cells.offset, 1).start;
                    self.unreadable[word] = true;
                }
            }
            false
        });
        self.weak = weak;
        failed
    }
}

/// Bits of a word on the way from `old` to `new`, or, as the physics promises nothing, any bits.
fn torn_bits(old: &[u8], new: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bits = vec![0; old.len()];
    dice.fill(&mut bits);
    if dice.chance(700) {
        for ((bit, old), new) in bits.iter_mut().zip(old).zip(new) {
            *bit = (*old & *bit) | (*new & !*bit);
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(word_bytes: u8, page_bytes: u16, ecc: bool) -> Part {
        let geometry = Geometry {
            word_bytes,
            erased: 0xff,
            page_bytes,
            block_bytes: 256,
            blocks_per_segment: 1,
            segments: 4,
        };
        Part {
            name: "test",
            geometry,
            program_us: 10,
            erase_us_min: 1000,
            erase_us_max: 1000,
            read_us: 0,
            stalls: true,
            ecc,
        }
    }

    fn run(chip: &mut Chip, op: FlashOp, buffer: &mut [u8]) -> FlashDone {
        chip.begin(op, buffer, 0, &mut Dice::new(1)).unwrap();
        chip.finish(buffer).unwrap().1
    }

    #[test]
    fn a_word_programmed_twice_is_refused_until_its_block_is_erased() {
        let mut chip = Chip::new(part(4, 4, false), None);
        let mut buffer = [0xff; 256];
        let write = FlashOp::Write { offset: 8, len: 8 };
        run(&mut chip, write, &mut buffer);
        let again = chip.begin(write, &buffer, 0, &mut Dice::new(1));
        assert_eq!(again, Err(Misuse::WordTwice { offset: 8 }));
        run(&mut chip, FlashOp::Erase { offset: 0, len: 256 }, &mut buffer);
        assert_eq!(run(&mut chip, write, &mut buffer), FlashDone::Ok);
    }

    #[test]
    fn operations_out_of_line_or_out_of_bounds_are_refused() {
        let mut chip = Chip::new(part(4, 4, false), None);
        let dice = &mut Dice::new(1);
        for op in [
            FlashOp::Write { offset: 2, len: 4 },
            FlashOp::Write { offset: 4, len: 2 },
            FlashOp::Write { offset: 1020, len: 8 },
            FlashOp::Erase { offset: 128, len: 256 },
            FlashOp::Read { offset: u32::MAX, len: 4 },
            FlashOp::Read { offset: 0, len: 512 },
        ] {
            assert!(
                matches!(chip.begin(op, &[0; 256], 0, dice), Err(Misuse::Range { .. })),
                "{op:?}"
            );
        }
        chip.begin(FlashOp::Read { offset: 0, len: 4 }, &[0; 256], 0, dice).unwrap();
        let second = chip.begin(FlashOp::Read { offset: 0, len: 4 }, &[0; 256], 0, dice);
        assert_eq!(second, Err(Misuse::Busy));
    }

    #[test]
    fn a_cut_write_keeps_what_was_programmed_before_and_leaves_alone_what_comes_behind() {
        for seed in 0..200 {
            let dice = &mut Dice::new(seed);
            let mut chip = Chip::new(part(4, 4, false), None);
            let data: Vec<u8> = (0..64).collect();
            chip.begin(FlashOp::Write { offset: 0, len: 64 }, &data, 0, dice).unwrap();
            let cut = chip.cut(75, Faults::ALL, dice);
            assert!(cut.in_operation);
            assert_eq!(chip.image()[..28], data[..28]);
            assert!(chip.image()[32..].iter().all(|byte| *byte == 0xff));
            let word = &chip.image()[28..32];
            assert_eq!(cut.torn_write, word != &data[28..32] && word != [0xff; 4]);
        }
    }

    #[test]
    fn a_cut_inside_a_page_leaves_the_whole_page_in_doubt() {
        let mut damaged = 0;
        for seed in 0..50 {
            let dice = &mut Dice::new(seed);
            let mut chip = Chip::new(part(1, 128, false), None);
            chip.begin(FlashOp::Write { offset: 64, len: 128 }, &[0; 128], 0, dice).unwrap();
            chip.cut(5, Faults::ALL, dice);
            assert!(chip.image()[..64].iter().all(|byte| *byte == 0xff));
            assert!(chip.image()[128..].iter().all(|byte| *byte == 0xff));
            damaged += u32::from(chip.image()[64..128].iter().any(|b| *b != 0xff && *b != 0));
        }
        assert!(damaged > 25, "{damaged}");
    }

    #[test]
    fn without_the_fault_a_cut_tears_nothing() {
        let faults = Faults::ALL.without(Fault::TornWrites).without(Fault::TornErases);
        for seed in 0..100 {
            let dice = &mut Dice::new(seed);
            let mut chip = Chip::new(part(4, 4, false), None);
            chip.begin(FlashOp::Write { offset: 0, len: 8 }, &[0; 8], 0, dice).unwrap();
            let cut = chip.cut(5, faults, dice);
            assert!(cut.in_operation && !cut.torn_write);
            assert!([[0xff; 4], [0; 4]].iter().any(|word| chip.image()[..4] == *word));
        }
    }

    #[test]
    fn a_torn_block_takes_no_word_before_it_is_erased_to_the_end() {
        for seed in 0..100 {
            let dice = &mut Dice::new(seed);
            let mut chip = Chip::new(part(4, 4, false), Some(vec![0x5a; 1024]));
            chip.begin(FlashOp::Erase { offset: 256, len: 256 }, &[], 0, dice).unwrap();
            let cut = chip.cut(500, Faults::ALL, dice);
            let block = &chip.image()[256..512];
            let between = block != [0x5a; 256] && block != [0xff; 256];
            assert_eq!(cut.torn_erase, between);
            let write = chip.begin(FlashOp::Write { offset: 256, len: 4 }, &[0; 4], 0, dice);
            assert_eq!(write, Err(Misuse::WordTwice { offset: 256 }));
        }
    }

    #[test]
    fn weak_words_read_well_once_and_fail_at_a_later_boot() {
        let mut failed = 0;
        for seed in 0..200 {
            let dice = &mut Dice::new(seed);
            let mut chip = Chip::new(part(4, 4, false), None);
            chip.begin(FlashOp::Write { offset: 0, len: 4 }, &[1, 2, 3, 4], 0, dice).unwrap();
            chip.cut(5, Faults::ALL, dice);
            let weak = !chip.weak.is_empty();
            if weak {
                assert_eq!(chip.image()[..4], [1, 2, 3, 4]);
            }
            let words: u32 = (0..4).map(|_| chip.boot()).sum();
            assert!(weak || words == 0);
            failed += words;
        }
        assert!(failed > 5, "{failed}");
    }

    #[test]
    fn a_part_with_ecc_fails_to_read_a_torn_word() {
        let mut failed = 0;
        for seed in 0..50 {
            let dice = &mut Dice::new(seed);
            let mut chip = Chip::new(part(8, 8, true), None);
            chip.begin(FlashOp::Write { offset: 0, len: 8 }, &[0x55; 8], 0, dice).unwrap();
            let cut = chip.cut(5, Faults::ALL, dice);
            let done = run(&mut chip, FlashOp::Read { offset: 0, len: 8 }, &mut [0; 8]);
            assert_eq!(done == FlashDone::Failed, cut.torn_write);
            failed += u32::from(cut.torn_write);
        }
        assert!(failed > 20, "{failed}");
    }
}
