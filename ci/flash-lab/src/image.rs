//! Images of flash, and what comes of one whose bits are flipped.

use crate::board::{Board, Held, Stop, held};
use crate::flash::{Faults, Flash};
use quorate::flash::Geometry;
use quorate::wal::{HardState, MountError, Progress};
use quorate::{EntryId, Index, NodeId, Term};

/// A ring of so many segments of 2 KiB.
pub const fn geometry(word: u8, segments: u8) -> Geometry {
    Geometry {
        word_bytes: word,
        erased: 0xff,
        page_bytes: word as u16,
        block_bytes: 2048,
        blocks_per_segment: 1,
        segments,
    }
}

/// A board that was founded a moment ago, on sound flash.
///
/// # Panics
/// The founding fails.
pub fn founded(word: u8, segments: u8) -> Board {
    let mut board = Board::new(Flash::new(geometry(word, segments), Faults::MILD), 512, 1);
    board.format(false).unwrap();
    board
}

/// A board whose log goes over two segments, with a snapshot and a change of mind.
///
/// # Panics
/// The log fails.
pub fn lived(word: u8) -> Board {
    let mut board = founded(word, 5);
    let say = |board: &mut Board, i: u64| {
        let term = board.log.last().term.0.max(1);
        board.append(term, &[i as u8; 40]);
        board.settle().unwrap();
    };
    (0..12).for_each(|i| say(&mut board, i));
    board.set_hard_state(4, NodeId::new(2));
    board.settle().unwrap();
    let id = EntryId::new(Index(8), Term(1));
    ensure!(board.take_snapshot(id, &[9; 333], false).unwrap(), "F2", "no snapshot");
    board.overwrite(10, 5, b"another mind");
    board.settle().unwrap();
    (0..14).for_each(|i| say(&mut board, i));
    board
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// What the snapshot covers.
    pub snapshot: EntryId,
    /// What it holds; `None` if it can't be read.
    pub content: Option<Vec<u8>>,
    /// The log.
    pub log: Held,
}

impl Shown {
    /// Is all there that is not in `sound`'s snapshot?
    pub(crate) fn reaches_all_of(&self, sound: &Self) -> bool {
        let behind = |index: &u64| *index > sound.snapshot.index.0;
        let log = self.log.iter().filter(|(index, _)| behind(index));
        log.eq(&sound.log) && self.hard_state == sound.hard_state
    }
}

/// Mounts this flash.
///
/// # Errors
/// It is refused.
///
/// # Panics
/// The log does something else than mount or refuse.
pub fn shown(flash: Flash) -> Result<Shown, MountError> {
    let mut board = Board::new(flash, 512, 3);
    board.wal.mount(board.geometry(), board.buf.len()).unwrap();
    let mounted = match board.step() {
        Ok(Progress::Mounted(mounted)) => mounted,
        Ok(Progress::Refused(error)) | Err(Stop::Refused(error)) => return Err(error),
        other => panic!("F2: {other:?}"),
    };
    board.want.hard_state = mounted.hard_state;
    let mut content = Some(vec![]);
    while let Some(bytes) = &mut content {
        if bytes.len() >= mounted.snapshot.bytes as usize {
            break;
        }
        board.wal.read_snapshot(bytes.len() as u32, usize::MAX);
        match board.step().unwrap() {
            Progress::ChunkRead { at, len, .. } if len > 0 => {
                bytes.extend_from_slice(&board.buf[at..at + len]);
            }
            _ => content = None,
        }
    }
    Ok(Shown {
        hard_state: mounted.hard_state,
        snapshot: mounted.snapshot.id,
        content,
        log: held(&mut board.log),
    })
}

/// What came of flips of single bits, each in an image that was sound otherwise.
#[derive(Clone, Debug, Default)]
pub struct Flips {
    /// The same was shown.
    pub harmless: u32,
    /// The damage was reported.
    pub reported: u32,
    /// The older snapshot was taken, with the whole log behind it.
    pub older: u32,
    /// The very last record was cut, as if it had been torn: what is shown is the state before it.
    pub last_record: u32,
    /// Bits after whose flip something else was shown, and nothing told.
    pub silent: Vec<usize>,
}

/// Flips every `step`th bit of the image `after`, one at a time; `before` is the image before its last record.
///
/// # Panics
/// One of the two images is not sound.
pub fn flips(before: &Flash, after: &Flash, step: usize) -> Flips {
    let sound = shown(after.clone()).unwrap();
    let without_last = shown(before.clone()).unwrap();
    let changed = |at: &usize| before.bytes[*at] != after.bytes[*at];
    let first = (0..after.bytes.len()).find(changed).unwrap_or_default();
    let end = (0..after.bytes.len()).rfind(changed).map_or(0, |last| last + 1);
    let mut tally = Flips::default();
    for bit in (0..after.bytes.len() * 8).step_by(step) {
        let mut flash = after.clone();
        flash.bytes[bit / 8] ^= 1 << (bit % 8);
        match shown(flash) {
            Ok(same) if same == sound => tally.harmless += 1,
            Err(MountError::Corrupt { .. }) => tally.reported += 1,
            Ok(cut) if (first..end).contains(&(bit / 8)) && cut == without_last => {
                tally.last_record += 1;
            }
            Ok(older) if older.snapshot != sound.snapshot && older.reaches_all_of(&sound) => {
                tally.older += 1;
            }
            _ => tally.silent.push(bit),
        }
    }
    tally
}

/// The images before and after the last record: sealed, or with an entry that is not.
///
/// # Panics
/// The log fails.
pub fn last_record(word: u8, sealed: bool) -> (Flash, Flash) {
    let mut board = lived(word);
    let before = board.flash.clone();
    if sealed {
        board.want.idle = true;
    } else {
        board.append(5, &[77; 40]);
    }
    board.settle().unwrap();
    (before, board.flash)
}
