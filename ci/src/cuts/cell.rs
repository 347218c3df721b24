//! The cells of the campaign: every word size with every kind of fault.

use std::fmt;

use quorate::flash::Geometry;
use quorate_flash_lab::flash::{EraseFault, Faults};
use quorate_flash_lab::life::Session;
use quorate_flash_lab::random::Random;

const WORDS: [u8; 6] = [1, 2, 4, 8, 16, 32];
const ERASES: [(&str, EraseFault); 4] = [
    ("prefix", EraseFault::Prefix),
    ("bits", EraseFault::RandomBits),
    ("marginal", EraseFault::Marginal),
    ("programmed", EraseFault::PreProgrammed),
];
/// Torn words: as they are, read once and decay, can't be read, both, or now so and now so.
const TORN: [(&str, bool, bool, bool); 5] = [
    ("plain", false, false, false),
    ("decay", true, false, false),
    ("ecc", false, true, false),
    ("both", true, true, false),
    (FLICKER, true, true, true),
];
/// Cells that are run only if they are named: what they do is told apart in all but a few of a million cuts (`flash-format.md`).
const FLICKER: &str = "flicker";
const LOOPS: [(&str, bool); 2] = [("once", false), ("loop", true)];

/// How often the power goes in one session.
const CUTS: u64 = 10;

/// One cell.
#[derive(Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) word: u8,
    pub(crate) erase: &'static str,
    pub(crate) torn: &'static str,
    pub(crate) crashes: &'static str,
    faults: Faults,
    crash_loops: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.word, self.erase, self.torn, self.crashes)
    }
}

/// All cells, in an order that does not change.
pub(crate) fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for word in WORDS {
        for (erase, fault) in ERASES {
            for (torn, decay, ecc, flicker) in TORN {
                for (crashes, crash_loops) in LOOPS {
                    let faults = Faults { erase: fault, decay, ecc, flicker };
                    cells.push(Cell { word, erase, torn, crashes, faults, crash_loops });
                }
            }
        }
    }
    cells
}

impl Cell {
    /// Is one of these its name, the beginning of it, or another part?
    fn is_called(&self, names: &[String]) -> bool {
        let name = self.to_string();
        names.iter().any(|part| name.starts_with(part) || name.contains(&format!("-{part}")))
    }

    /// Is it one of a campaign with these cells, or of one that names none?
    pub(crate) fn is_wanted(&self, names: &[String]) -> bool {
        let flickers = self.torn == FLICKER;
        match names {
            [] => !flickers,
            _ => {
                self.is_called(names)
                    && (!flickers || names.iter().any(|name| name.contains(FLICKER)))
            }
        }
    }

    /// The seed of the cell's session number `i`, in a campaign with the seed `campaign`.
    pub(crate) fn seed(&self, campaign: u64, i: u64) -> u64 {
        let name = self.to_string().bytes().fold(campaign, |hash, byte| {
            Random(hash.wrapping_mul(31).wrapping_add(u64::from(byte))).draw()
        });
        // Short enough to be typed.
        Random(name.wrapping_add(i)).draw() >> 20
    }

    /// The session of this seed: the layout of its flash follows from it, too.
    pub(crate) fn session(&self, seed: u64) -> Session {
        let mut random = Random(!seed);
        let word = u16::from(self.word);
        // Internal flash programs by the word; SPI NOR a page at once.
        let page = random.pick(&[word, word, 64, 256]);
        let blocks = [128, 256, 512, 1024, 2048, 4096];
        let block_bytes = random.pick(&blocks).max(u32::from(page));
        let least = (1024 + 2 * u32::from(page)).div_ceil(block_bytes);
        let more = random.below(u64::from(1024 / block_bytes) + 2) as u32;
        let geometry = Geometry {
            word_bytes: self.word,
            erased: if random.one_in(4) { 0 } else { 0xff },
            page_bytes: page,
            block_bytes,
            blocks_per_segment: (least + more) as u16,
            segments: 3 + random.below(6) as u8,
        };
        // A ring that loses segments still has three.
        let lies =
            if random.one_in(3) { random.below(u64::from(geometry.segments) - 2) } else { 0 };
        Session {
            geometry,
            lies: lies as u32,
            buffer: random.pick(&[256, 300, 512, 1024, 2048]),
            faults: self.faults,
            crash_loops: self.crash_loops,
            cuts: CUTS,
            seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_cell_has_a_name_of_its_own_and_every_session_another_seed() {
        let cells = all();
        let names: BTreeSet<String> = cells.iter().map(Cell::to_string).collect();
        assert_eq!((cells.len(), names.len()), (240, 240));
        let seeds: BTreeSet<u64> =
            cells.iter().flat_map(|cell| (0..50).map(|i| cell.seed(1, i))).collect();
        assert_eq!(seeds.len(), 240 * 50);
    }

    #[test]
    fn a_cell_is_found_by_its_name_or_a_part_of_it() {
        let count = |part: &str| {
            all().into_iter().filter(|cell| cell.is_called(&[part.to_owned()])).count()
        };
        let parts = ["2-", "decay", "32-bits", "4-bits-ecc-loop", "none"].map(count);
        assert_eq!(parts, [40, 48, 10, 1, 0]);
    }

    #[test]
    fn sessions_have_every_number_of_segments_and_pages_of_every_kind() {
        let cell = all()[0];
        let sessions: Vec<Session> = (0..300).map(|seed| cell.session(seed)).collect();
        let segments: BTreeSet<u8> = sessions.iter().map(|s| s.geometry.segments).collect();
        let pages: BTreeSet<u16> = sessions.iter().map(|s| s.geometry.page_bytes).collect();
        let erased: BTreeSet<u8> = sessions.iter().map(|s| s.geometry.erased).collect();
        assert_eq!(segments, (3..=8).collect());
        assert_eq!(pages, BTreeSet::from([1, 64, 256]));
        assert_eq!(erased, BTreeSet::from([0, 0xff]));
        assert!(sessions.iter().any(|s| s.geometry.blocks_per_segment > 8));
    }
}
