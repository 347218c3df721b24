//! Rot anywhere in the images that random lives with power cuts leave, and what comes of it.

use crate::board::{Board, Stop};
use crate::flash::{EraseFault, Faults, Flash, Fuse};
use crate::image::{Shown, shown};
use crate::random::Random;
use quorate::flash::Geometry;
use quorate::wal::MountError;
use quorate::{EntryId, Index, NodeId, Term};

/// Bytes of entries that a board keeps, at most.
const LOG_FULL: usize = 900;
/// With so many it takes a snapshot.
const LOG_LONG: usize = 700;
/// A snapshot has less bytes than this.
const SNAPSHOT: u64 = 500;

/// A board's flash at the end of its life, its last record sealed.
pub struct Life {
    /// As the board left it.
    pub flash: Flash,
    /// What the newest snapshot that came from a leader covers; no older one will do.
    pub installed: Index,
}

/// What is wrong with one place of an image that was sound otherwise.
#[derive(Clone, Copy, Debug)]
pub enum Rot {
    /// A flipped bit: of this byte, this one.
    Bit(usize, u8),
    /// Another byte, here.
    Byte(usize, u8),
    /// A word that can't be read: this one.
    Unreadable(usize),
    /// A word of noise of this seed: this one.
    Noise(usize, u64),
    /// A word of this byte alone: this one.
    Plain(usize, u8),
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcomes {
    /// The same was shown.
    pub harmless: u32,
    /// The mount was refused: `Corrupt`.
    pub corrupt: u32,
    /// The mount was refused: `Foreign`.
    pub foreign: u32,
    /// An older snapshot was taken, with the whole log behind it, or the newest could not be read.
    pub older: u32,
}

impl Outcomes {
    /// Adds those of another image.
    pub const fn add(&mut self, other: &Self) {
        self.harmless += other.harmless;
        self.corrupt += other.corrupt;
        self.foreign += other.foreign;
        self.older += other.older;
    }
}

/// The life that follows from this seed: boots with cuts in between, and rest in the end.
///
/// # Panics
/// The log loses something, refuses or stops.
pub fn life(seed: u64) -> Life {
    let mut random = Random(seed);
    let word = random.pick(&[1u8, 4, 8, 32]);
    let geometry = Geometry {
        word_bytes: word,
        erased: random.pick(&[0, 0xff, 0xff, 0xff]),
        page_bytes: random.pick(&[u16::from(word), u16::from(word), 256]),
        block_bytes: 512,
        blocks_per_segment: 4,
        segments: random.pick(&[4, 5, 6, 7]),
    };
    let erase = random.pick(&[
        EraseFault::Prefix,
        EraseFault::RandomBits,
        EraseFault::Marginal,
        EraseFault::PreProgrammed,
    ]);
    let (decay, ecc) = (random.one_in(2), random.one_in(3));
    let faults = Faults { erase, decay, ecc, flicker: false };
    let mut board = Board::new(Flash::new(geometry, faults), 512, random.draw());
    board.format(false).unwrap();
    let mut installed = Index(0);
    for _ in 0..random.below(5) {
        board.flash.fuse =
            Some(Fuse { after: random.below(60), erases_only: random.one_in(5), leaves: None });
        session(&mut board, &mut random, &mut installed);
        let mut decaying = Random(random.draw());
        board.flash.boot(&mut decaying);
        board.mount().unwrap();
        installed = installed.min(board.log.base().index);
    }
    session(&mut board, &mut random, &mut installed);
    board.want.idle = true;
    board.settle().unwrap();
    if board.wal.wants_snapshot() {
        // Where no segment may be opened for a seal any more, the snapshot that is due then puts the last record out of doubt.
        compact(&mut board, &mut random).unwrap();
        board.settle().unwrap();
    }
    Life { flash: board.flash, installed }
}

/// What a board does until its power is cut, or for a while.
fn session(board: &mut Board, random: &mut Random, installed: &mut Index) {
    for _ in 0..random.below(60) + 1 {
        match act(board, random, installed) {
            Ok(()) => {}
            Err(Stop::Cut) => return,
            Err(stop) => panic!("F2: {stop:?}"),
        }
    }
}

fn act(board: &mut Board, random: &mut Random, installed: &mut Index) -> Result<(), Stop> {
    board.want.idle = random.one_in(3);
    let term = board.log.last().term.max(board.want.hard_state.term).0.max(1);
    match random.below(14) {
        0..=7 => {
            for _ in 0..random.below(3) + 1 {
                let len = random.below(60) as usize;
                let data = random.bytes(len);
                if board.log.bytes_used() + len < LOG_FULL {
                    board.append(term, &data);
                }
            }
        }
        8 => board.set_hard_state(term + 1, NodeId::new(1 + random.below(5) as u8)),
        9 => {
            let (base, last) = (board.log.base().index.0, board.log.last().index.0);
            let first = base.max(board.committed);
            if first < last {
                board.overwrite(first + random.below(last - first), term + 1, b"another");
            }
        }
        10 => {
            board.settle()?;
            let index = Index(board.log.last().index.0 + random.below(4));
            let content = content(random);
            if board.take_snapshot(EntryId::new(index, Term(term + 1)), &content, true)? {
                *installed = index;
            }
        }
        11 => board.set_note(random.draw() as u32),
        12 => board.abandon_snapshot(40)?,
        _ => {}
    }
    if random.one_in(2) {
        board.settle()?;
    }
    if board.wal.wants_snapshot() || board.log.bytes_used() > LOG_LONG || random.one_in(30) {
        compact(board, random)?;
    }
    Ok(())
}

/// A snapshot of all that is durable.
fn compact(board: &mut Board, random: &mut Random) -> Result<(), Stop> {
    board.settle()?;
    let index = board.log.durable();
    if let Some(term) = board.log.term(index) {
        board.take_snapshot(EntryId::new(index, term), &content(random), false)?;
    }
    Ok(())
}

fn content(random: &mut Random) -> Vec<u8> {
    let len = random.below(SNAPSHOT) as usize;
    random.bytes(len)
}

/// Lets `count` places rot, one at a time, where something is written.
///
/// # Errors
/// What rotted, and what was shown then in place of what, if nothing told.
///
/// # Panics
/// The image is not sound.
pub fn rot(life: &Life, count: u32, random: &mut Random) -> Result<Outcomes, String> {
    let mut before = life.flash.clone();
    before.fuse = None;
    let sound = shown(before.clone()).unwrap();
    let erased = before.geometry.erased;
    let used: Vec<usize> =
        (0..before.bytes.len()).filter(|at| before.bytes[*at] != erased).collect();
    let mut outcomes = Outcomes::default();
    for _ in 0..count {
        let rot = some(random.pick(&used), &before.geometry, random);
        let found = shown(after(&before, rot));
        match found {
            Ok(same) if same == sound => outcomes.harmless += 1,
            Err(MountError::Corrupt { .. }) => outcomes.corrupt += 1,
            Err(MountError::Foreign) => outcomes.foreign += 1,
            Ok(other) if is_older(&other, &sound, life.installed) => outcomes.older += 1,
            Err(error) => return Err(format!("{rot:?}: {error:?}")),
            Ok(other) => {
                return Err(format!("{rot:?}: {} in place of {}", brief(&other), brief(&sound)));
            }
        }
    }
    Ok(outcomes)
}

/// Of one of the kinds, at this byte or in its word.
fn some(at: usize, geometry: &Geometry, random: &mut Random) -> Rot {
    let word = at / usize::from(geometry.word_bytes);
    match random.below(6) {
        0 | 1 => Rot::Bit(at, random.below(8) as u8),
        2 => Rot::Byte(at, random.draw() as u8),
        3 => Rot::Unreadable(word),
        4 => Rot::Noise(word, random.draw()),
        _ => Rot::Plain(word, random.pick(&[0, 0xff])),
    }
}

/// The image with that in it.
fn after(before: &Flash, rot: Rot) -> Flash {
    let mut flash = before.clone();
    let bytes = usize::from(flash.geometry.word_bytes);
    match rot {
        Rot::Bit(at, bit) => flash.bytes[at] ^= 1 << bit,
        Rot::Byte(at, byte) => flash.bytes[at] = byte,
        Rot::Unreadable(word) => {
            flash.unreadable.insert(word);
        }
        Rot::Noise(word, seed) => {
            let noise = Random(seed).bytes(bytes);
            flash.bytes[word * bytes..][..bytes].copy_from_slice(&noise);
        }
        Rot::Plain(word, byte) => flash.bytes[word * bytes..][..bytes].fill(byte),
    }
    flash
}

fn brief(shown: &Shown) -> String {
    let Shown { hard_state, snapshot, content, log } = shown;
    let content = content.as_ref().map(Vec::len);
    let log: Vec<String> = log.iter().map(|(index, (term, _))| format!("{term}/{index}")).collect();
    format!("{hard_state:?}, snapshot {snapshot:?} of {content:?} bytes, log [{}]", log.join(" "))
}

/// Only the newest snapshot is gone, or what it holds, and an older one reaches the log.
fn is_older(found: &Shown, sound: &Shown, installed: Index) -> bool {
    let is_same = found.snapshot == sound.snapshot;
    found.reaches_all_of(sound)
        && (is_same || (found.snapshot.index >= installed && found.content.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A whole image, with nothing gone: what else is shown must not pass.
    #[test]
    fn what_is_gone_in_silence_is_told() {
        let mut board = crate::image::lived(4);
        board.settle().unwrap();
        let sound = shown(board.flash.clone()).unwrap();
        let without = |change: fn(&mut Shown)| {
            let mut other = sound.clone();
            change(&mut other);
            is_older(&other, &sound, Index(0))
        };
        assert!(without(|shown| shown.content = None));
        assert!(!without(|shown| shown.log.clear()));
        assert!(!without(|shown| shown.hard_state.vote = None));
        assert!(without(|shown| shown.snapshot.index.0 -= 1));
        assert!(!is_older(
            &Shown { snapshot: EntryId::new(Index(0), Term(0)), ..sound.clone() },
            &sound,
            sound.snapshot.index
        ));
    }
}
