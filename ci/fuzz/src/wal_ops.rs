//! Any sequence of what a flash log can be asked for, on flash that loses power at the worst place, wears out
//! or rots. The board and the model of what it may have forgotten are those of the campaigns (`ci/flash-lab`):
//! nothing acknowledged or shown is lost, no word is programmed twice, every mount ends within its bound, and
//! after all of it the log goes on.

use quorate::flash::Geometry;
use quorate::wal::inspect::Records;
use quorate::wal::{MountError, Progress};
use quorate::{EntryId, Index, NodeId, Term};
use quorate_flash_lab::board::{Board, Stop};
use quorate_flash_lab::flash::{EraseFault, Faults, Flash, Fuse, Leaves, Pattern};
use quorate_flash_lab::image::{Shown, shown};
use quorate_flash_lab::life::works;

use crate::input::Input;

/// Operations of one life: more would say nothing that a second life does not.
const OPERATIONS_MAX: u32 = 300;
/// Operations while a snapshot is under way.
const MEANWHILE_MAX: u8 = 6;
/// Chunks of a snapshot, but for those that fill the buffer.
const CHUNKS_MAX: usize = 6;
/// So often in a row the power goes while no segment is free; then the life is over, in a small ring.
const CUTS_PRESSED_MAX: u32 = 2;
/// From so many segments on one is kept for a snapshot that is cut short: the power may go as often as it likes.
const SEGMENTS_ROOMY: u32 = 5;
/// At least so many segments stay sound: fewer, and the log rightly stops.
const SEGMENTS_SOUND: u32 = 4;
/// So many times its bytes a mount reads of the partition at most: the newest segment to its end, what may be
/// newer yet, all that is live; the same again if the newest one turns out to count for nothing. Where words
/// can't be read, what is around them is read piece by piece.
const READ_TIMES_MAX: u64 = 5;
const READ_TIMES_MAX_ECC: u64 = 12;
/// A read has more bytes than this, all in all; where words can't be read, it may be no more than a head.
const READ_BYTES_MIN: u64 = 16;
const READ_BYTES_MIN_ECC: u64 = 7;

/// Where in a first record its geometry begins, and its order of use ends at the latest.
const GEOMETRY_AT: usize = 8;
const ORDER_END: usize = 22;

/// A life.
struct Life<'a> {
    board: Board,
    input: Input<'a>,
    /// What fits log and snapshot, bytes.
    entries_max: usize,
    snapshot_max: usize,
    /// The founding was cut short, and begun anew.
    founded_anew: bool,
    /// Cuts one after another while no segment was free.
    cuts_pressed: u32,
}

/// Lives it to its end.
pub fn run(data: &[u8]) {
    let mut life = Life::born(Input(data));
    life.found();
    if !life.boot() {
        return;
    }
    for _ in 0..OPERATIONS_MAX {
        if life.input.is_empty() {
            break;
        }
        match life.next() {
            Ok(()) => life.cuts_pressed = 0,
            Err(_) if life.boot() => {}
            Err(_) => return,
        }
    }
    // Whatever it came to: what is shown now is there the next time, and the log goes on.
    life.input = Input(&[]);
    for _ in 0..2 {
        if !life.boot() {
            return;
        }
        let fine = life.board.read_snapshot().map(|_| ()).and_then(|()| works(&mut life.board));
        assert!(fine.is_ok(), "F2: the log does not go on");
    }
}

/// The flash and the buffer that an input begins with.
fn flash(input: &mut Input<'_>) -> (Flash, usize) {
    let (shape, kind) = (input.byte(), input.byte());
    let word_bytes = 1u8 << (shape % 6);
    let page_bytes = [u16::from(word_bytes), u16::from(word_bytes), 64, 256][usize::from(kind % 4)];
    let block_bytes = [128, 256, 1024, 2048][usize::from(kind / 4 % 4)].max(u32::from(page_bytes));
    let least = (1024 + 2 * u32::from(page_bytes)).div_ceil(block_bytes);
    let blocks_per_segment = (least + u32::from(shape / 6 % 3) * 512 / block_bytes) as u16;
    let erased = if kind / 16 % 2 == 0 { 0xff } else { 0 };
    let segments = 3 + kind / 32;
    let geometry =
        Geometry { word_bytes, erased, page_bytes, block_bytes, blocks_per_segment, segments };
    let faults = input.byte();
    let erase = match faults % 4 {
        0 => EraseFault::Prefix,
        1 => EraseFault::RandomBits,
        2 => EraseFault::Marginal,
        _ => EraseFault::PreProgrammed,
    };
    let faults = Faults { erase, decay: faults & 4 != 0, ecc: faults & 8 != 0, flicker: false };
    let buffer = [256, 300, 512][usize::from(shape / 18 % 3)];
    (Flash::new(geometry, faults), buffer)
}

impl<'a> Life<'a> {
    fn born(mut input: Input<'a>) -> Self {
        let (flash, buffer) = flash(&mut input);
        let geometry = flash.geometry;
        // Together with what holds them, half of the other segments with a quarter to spare; less, to leave
        // room for the heads of many short records, and for segments that wear out.
        let halves = (u32::from(geometry.segments).min(SEGMENTS_SOUND) - 1) / 2;
        let most = geometry.segment_bytes() as usize * halves as usize * 3 / 4;
        let board = Board::new(flash, buffer, u64::from(input.byte()));
        Self {
            board,
            input,
            entries_max: most * 2 / 5,
            snapshot_max: (most / 5).min(400),
            founded_anew: false,
            cuts_pressed: 0,
        }
    }

    /// The power comes back: words that are weak may decay.
    fn power(&mut self) {
        let mut rest = self.board.random.clone();
        self.board.flash.boot(&mut rest);
        self.board.random.draw();
    }

    /// If the next operation is a cut, it is meant for what comes next.
    fn cut_ahead(&mut self) {
        if let Some(kind @ 0..=2) = self.input.0.first().map(|byte| byte % KINDS) {
            self.input.byte();
            self.cut(kind);
        }
    }

    fn cut(&mut self, kind: u8) {
        let (after, how) = (self.input.byte(), self.input.byte());
        let pattern = Pattern::ALL[usize::from(how) % Pattern::ALL.len()];
        let word = usize::from(how) / Pattern::ALL.len();
        let erases_only = kind == 1;
        // What is left is told word by word, or follows from the faults of the flash.
        let leaves = (kind != 2 && after < 0x80).then_some(Leaves { word, pattern });
        self.board.flash.fuse =
            Some(Fuse { after: u64::from(after & 0x7f) % 24, erases_only, leaves });
    }

    /// Founds the log, if need be again and again.
    fn found(&mut self) {
        while !self.board.founded {
            self.board.hard_states = vec![(0, None)];
            self.power();
            match self.mount() {
                // The founding was done when the power went.
                Ok(()) => self.board.founded = true,
                Err(Stop::Refused(MountError::Unformatted)) => {
                    self.cut_ahead();
                    match self.board.format(false) {
                        Ok(()) => {}
                        Err(Stop::Cut) => self.founded_anew = true,
                        Err(Stop::Refused(error)) => panic!("F2: founding is refused: {error}"),
                    }
                }
                Err(error) => panic!("F2: the mount is refused: {error:?}"),
            }
        }
    }

    /// Starts the board, if need be again and again; `false` if the power went too often where no segment was
    /// left: what is cut short there, a snapshot or a boot, takes room that only a snapshot could free.
    fn boot(&mut self) -> bool {
        loop {
            let full = self.board.wal.status().segments_free == 0;
            let sound =
                u32::from(self.board.geometry().segments) - self.board.flash.broken.count_ones();
            if sound < SEGMENTS_ROOMY {
                self.cuts_pressed += u32::from(full || self.cuts_pressed > 0);
            }
            self.power();
            self.cut_ahead();
            self.board.want.allow_erase = true;
            match self.mount() {
                Ok(()) => break,
                Err(Stop::Cut) => {}
                Err(Stop::Refused(_)) if self.cuts_pressed > CUTS_PRESSED_MAX => break,
                Err(Stop::Refused(error)) => panic!("F2: the mount is refused: {error}"),
            }
        }
        self.board.want.idle = false;
        self.cuts_pressed <= CUTS_PRESSED_MAX
    }

    /// Mounts, and counts what is read meanwhile.
    fn mount(&mut self) -> Result<(), Stop> {
        let before = self.board.flash.counters;
        let mounted = self.board.mount();
        let after = self.board.flash.counters;
        let partition = u64::from(self.board.geometry().bytes());
        let bytes = after.bytes_read - before.bytes_read;
        let reads = after.reads - before.reads;
        let ecc = self.board.flash.faults.ecc;
        let (times, least) = if ecc {
            (READ_TIMES_MAX_ECC, READ_BYTES_MIN_ECC)
        } else {
            (READ_TIMES_MAX, READ_BYTES_MIN)
        };
        let most = times * partition;
        let bounded = bytes <= most && reads <= most / least;
        assert!(bounded, "F2: a mount of {partition} bytes read {bytes} bytes in {reads} reads");
        mounted.map(|_| ())
    }

    /// One operation.
    fn next(&mut self) -> Result<(), Stop> {
        match self.input.byte() % KINDS {
            kind @ 0..=2 => self.cut(kind),
            3 => {
                // Time passes without a loss.
                self.power();
                return Err(Stop::Cut);
            }
            4 => self.board.want.idle = !self.board.want.idle,
            5 => self.board.want.allow_erase = !self.board.want.allow_erase,
            6 => {
                // Two erases ahead, a seal: all the upkeep there is.
                (self.board.want.idle, self.board.want.allow_erase) = (true, true);
                self.board.settle()?;
            }
            7 => _ = self.board.read_snapshot()?,
            8 => self.rot()?,
            9 => self.wear_out(),
            10 => {
                let len = 1 + usize::from(self.input.byte());
                self.board.abandon_snapshot(len)?;
            }
            11 => self.snapshot(false)?,
            12 => self.snapshot(true)?,
            13 => {
                if let Progress::Fault(fault) = self.board.step()? {
                    panic!("F2: {fault}");
                }
            }
            14 => self.board.settle()?,
            _ => self.change(),
        }
        if self.board.wal.wants_snapshot() || self.board.log.bytes_used() > self.entries_max {
            self.snapshot(false)?;
        }
        Ok(())
    }

    /// Something new for the log to hold; it is written when the log is polled.
    fn change(&mut self) {
        let (kind, how) = (self.input.byte(), self.input.byte());
        let board = &mut self.board;
        let blank = board.geometry().erased;
        let term = board.log.last().term.0.max(board.want.hard_state.term.0).max(1);
        let last = board.log.last().index.0;
        match kind % 8 {
            0..=3 => {
                let longest = board.wal.entry_bytes_max().saturating_sub(24).max(1);
                let len = if how >= 0xf8 { longest } else { usize::from(how).min(longest) };
                for at in 0..1 + kind / 8 % 8 {
                    if board.log.bytes_used() + len <= self.entries_max {
                        board.append(term, &filled(how ^ at, len, blank));
                    }
                }
            }
            4 => {
                let base = board.log.base().index.0.max(board.committed);
                if base < last && board.log.bytes_free() > 64 {
                    let after = base + u64::from(how) % (last - base);
                    board.overwrite(after, term + 1, &[kind; 9]);
                }
            }
            5 => {
                let vote = NodeId::new(how % 6);
                board.set_hard_state(term + 1, vote);
            }
            6 => board.want.commit_needed = board.log.durable(),
            _ => board.set_note(u32::from(how) << (kind / 8 % 24)),
        }
    }

    /// Takes or installs a snapshot, while other things happen.
    fn snapshot(&mut self, installed: bool) -> Result<(), Stop> {
        let (which, len, how) = (self.input.byte(), self.input.byte(), self.input.byte());
        let board = &mut self.board;
        board.want.allow_erase = true;
        board.settle()?;
        let (from, last) =
            (board.committed.max(board.log.base().index.0), board.log.last().index.0);
        let index =
            from + u64::from(which) % (last.max(from) - from + if installed { 6 } else { 1 });
        let id = if installed {
            // Of another term than the entry there, if there is one.
            let term = board.log.last().term.0.max(board.want.hard_state.term.0) + 1;
            EntryId::new(Index(index + 1), Term(term))
        } else {
            let index = Index(index).min(board.log.durable());
            EntryId::new(index, board.log.term(index).unwrap_or_default())
        };
        if !installed {
            board.committed = board.committed.max(id.index.0);
        }
        let len = usize::from(len) * 2 % (self.snapshot_max + 1);
        let content = filled(how, len, board.geometry().erased);
        board.wal.begin_snapshot(id);
        // Not in so many chunks that their heads take more than what fits.
        let chunk = usize::from(how).max(content.len() / CHUNKS_MAX) + 1;
        let chunk = chunk.min(board.wal.chunk_bytes_max());
        let mut left = MEANWHILE_MAX;
        for (i, part) in content.chunks(chunk).enumerate() {
            if !self.board.put_chunk(i * chunk, part)? {
                return Ok(());
            }
            if !installed && left > 0 && self.meanwhile() {
                left -= 1;
            }
        }
        self.board.want.allow_erase = true;
        self.board.end_snapshot(id, &content, installed)?;
        Ok(())
    }

    /// Lets something happen between two chunks, if the input says so.
    fn meanwhile(&mut self) -> bool {
        let happens = self.input.0.first().is_some_and(|byte| byte % KINDS == KINDS - 1);
        if happens {
            self.input.byte();
            self.change();
        }
        happens
    }

    /// A segment takes no write from now on, if enough others are left.
    fn wear_out(&mut self) {
        let segments = u32::from(self.board.geometry().segments);
        let worn = self.board.flash.broken | 1 << (u32::from(self.input.byte()) % segments);
        if worn.count_ones() + SEGMENTS_SOUND <= segments {
            self.board.flash.broken = worn;
        }
    }

    /// A place of a sealed log that rots, or can't be read, is reported or harmless, or costs no more than the
    /// newest snapshot. The board itself keeps its flash as it was.
    fn rot(&mut self) -> Result<(), Stop> {
        let (place, how) = (usize::from(self.input.half()), self.input.byte());
        (self.board.want.idle, self.board.want.allow_erase) = (true, true);
        self.board.settle()?;
        let mut flash = self.board.flash.clone();
        flash.fuse = None;
        let sound = shown(flash.clone()).expect("F2: a sealed log is mounted");
        let word = usize::from(flash.geometry.word_bytes);
        let segment = flash.geometry.segment_bytes() as usize;
        let at = place % flash.bytes.len();
        let hit_from = if how & 8 != 0 {
            flash.unreadable.insert(at / word);
            0
        } else {
            flash.bytes[at] ^= 1 << (how % 8);
            GEOMETRY_AT
        };
        // Where a first record does not tell its order of use any more, only the order behind the newest one is left.
        let in_order = at % segment / word * word < ORDER_END && at % segment >= hit_from;
        let lost =
            in_order && !follows_another(&flash.geometry, &self.board.flash.bytes, at / segment);
        match shown(flash) {
            Ok(same) if same == hinting(&sound, &same) => {}
            Ok(older) if self.is_older(&older, &sound) => {}
            Err(MountError::Corrupt { .. }) => {}
            Err(MountError::Foreign) | Ok(_) if lost => {}
            // The only first record that was left is gone, but for what a founding that was cut short had left behind.
            Err(MountError::Unformatted) if self.founded_anew && at / segment == 1 => {}
            other => panic!("I7: rot at byte {at} in silence: {other:?} instead of {sound:?}"),
        }
        Ok(())
    }

    /// The newest snapshot is lost, and nothing else: an older one is shown, and all that follows it.
    fn is_older(&self, older: &Shown, sound: &Shown) -> bool {
        let mut log = older.log.clone();
        log.retain(|index, _| *index > sound.snapshot.index.0);
        let written = self.board.contents.iter().any(|((index, _), content)| {
            *index == older.snapshot.index.0 && older.content.as_ref() == Some(content)
        });
        let other = (older.snapshot, &older.content) != (sound.snapshot, &sound.content);
        let Shown { snapshot: id, .. } = sound;
        let reached = older.snapshot == *id
            || older.log.get(&id.index.0).is_some_and(|(term, _)| *term == id.term.0);
        other
            && written
            && reached
            && (&log, older.hard_state) == (&sound.log, hinting(sound, older).hard_state)
    }
}

/// Is there a segment with the order of use right before this one's?
fn follows_another(geometry: &Geometry, bytes: &[u8], segment: usize) -> bool {
    let orders = bytes.chunks(geometry.segment_bytes() as usize);
    let orders: Vec<_> = orders
        .map(|bytes| Records::new(geometry, bytes).next().map(|open| open.says.seq))
        .collect();
    orders[segment].is_none_or(|order| orders.contains(&order.checked_sub(1)))
}

/// `sound`, with the commit index of `other` if that is lower: it is a hint, which a segment that is nothing but
/// its first record may lose.
fn hinting(sound: &Shown, other: &Shown) -> Shown {
    let mut sound = sound.clone();
    sound.hard_state.commit = sound.hard_state.commit.min(other.hard_state.commit);
    sound
}

/// Bytes of which some may be as erased flash, but no more in a row than still shows how far a write has come.
fn filled(byte: u8, len: usize, blank: u8) -> Vec<u8> {
    let some = byte & 0x80 != 0;
    let shows = byte & 0x3f | 0x40;
    (0..len).map(|i| if some && i % (BLANK_RUN + 1) != 0 { blank } else { shows }).collect()
}

/// So many blank bytes in a row; a head that follows may have some more, and the guard is of eight.
const BLANK_RUN: usize = 4;

/// Kinds of operations.
const KINDS: u8 = 16;
