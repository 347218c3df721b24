//! Random lives of a board: it works, loses power, comes back, and must know what it knew.

use crate::board::{Board, Stop};
use crate::flash::{Faults, Flash, Fuse};
use crate::lies::Lies;
use crate::load::Load;
use crate::random::Random;
use quorate::flash::Geometry;
use quorate::wal::{MountError, Progress};
use quorate::{EntryId, Index, NodeId, Term};

/// One life.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// How its flash is laid out.
    pub geometry: Geometry,
    /// Bytes of its flash buffer.
    pub buffer: usize,
    /// How bad its flash is.
    pub faults: Faults,
    /// Cuts follow one another within the mount.
    pub crash_loops: bool,
    /// So often the power goes.
    pub cuts: u64,
    /// So many writes and erases end otherwise than they tell.
    pub lies: u32,
    /// What everything else follows from.
    pub seed: u64,
}

/// Boots of a session, at most: there is always something to do that can be cut short.
const BOOTS_MAX: u32 = 1_000;
/// Steps of a life, if no cut ends it.
const STEPS: u64 = 120;

/// What lives amount to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Lives.
    pub sessions: u64,
    /// Cuts inside a write.
    pub cuts_in_write: u64,
    /// Cuts inside an erase.
    pub cuts_in_erase: u64,
    /// Of all those, the ones within a mount.
    pub cuts_in_mount: u64,
    /// Of all those, the ones within a founding.
    pub cuts_in_founding: u64,
    /// Mounts that came to their end.
    pub mounts: u64,
    /// Mounts that have told of a torn tail.
    pub torn_tails: u64,
    /// Snapshots, taken or installed.
    pub snapshots: u64,
    /// Entries put into the log.
    pub entries: u64,
    /// Writes and erases that ended otherwise than they told.
    pub lies: u64,
    /// Words programmed over the trace of a write that had left none.
    pub hidden: u64,
}

impl Tally {
    /// Cuts that landed inside an operation.
    pub const fn cuts(&self) -> u64 {
        self.cuts_in_write + self.cuts_in_erase
    }

    /// Adds another one.
    pub const fn add(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.cuts_in_write += other.cuts_in_write;
        self.cuts_in_erase += other.cuts_in_erase;
        self.cuts_in_mount += other.cuts_in_mount;
        self.cuts_in_founding += other.cuts_in_founding;
        self.mounts += other.mounts;
        self.torn_tails += other.torn_tails;
        self.snapshots += other.snapshots;
        self.entries += other.entries;
        self.lies += other.lies;
        self.hidden += other.hidden;
    }
}

impl Session {
    /// Lives it. With `trace`, every operation of the flash is printed.
    ///
    /// # Panics
    /// A rule does not hold: the text begins with its number.
    pub fn run(&self, trace: bool) -> Tally {
        let mut random = Random(self.seed);
        let mut flash = Flash::new(self.geometry, self.faults);
        flash.trace = trace;
        let mut board = Board::new(flash, self.buffer, random.draw());
        board.pauses = true;
        let mut tally = Tally { sessions: 1, ..Tally::default() };
        self.found(&mut board, &mut random, &mut tally);
        let load = Load::draw(&self.geometry, self.buffer, self.lies, &mut random);
        board.live_bytes = Some(load.live).filter(|_| random.one_in(2));
        let (left, after, first) = (self.lies, random.below(60), random.one_in(2));
        board.flash.lies = Lies { left, after, first, told: 0 };
        let (mut in_a_row, mut boots) = (0, 0);
        while board.flash.cuts() < self.cuts {
            boots += 1;
            ensure!(boots < BOOTS_MAX, "F2", "the log does nothing that could be cut short");
            board.want.allow_erase = true;
            if self.crash_loops && in_a_row > 0 {
                in_a_row -= 1;
                // A mount has hardly ever more than two operations.
                let far = if random.one_in(4) { 5 } else { 2 };
                let after = random.below(far);
                board.flash.fuse = Some(Fuse { after, erases_only: false, leaves: None });
            }
            say(&board, "mount");
            let before = board.flash.cuts();
            match board.mount() {
                Ok(_) => {
                    tally.mounts += 1;
                    board.flash.fuse = None;
                    let far = if random.one_in(3) { 6 } else { 150 };
                    board.flash.fuse = Some(fuse(&mut random, far));
                    let lived = live(&mut board, &load, &mut random, &mut tally);
                    // A log that is stuck meets no cut.
                    match lived.and_then(|()| works_with(&mut board, &load, &mut random)) {
                        Err(Stop::Refused(error)) => panic!("F2: {error}"),
                        Err(Stop::Cut) => in_a_row = random.below(6),
                        Ok(()) => {}
                    }
                }
                Err(Stop::Refused(error)) => panic!("F2: the mount is refused: {error}"),
                Err(Stop::Cut) => tally.cuts_in_mount += board.flash.cuts() - before,
            }
            reboot(&mut board, &mut random);
        }
        say(&board, "mount after the last cut");
        board.want.allow_erase = true;
        for _ in 0..2 {
            match board.mount() {
                Ok(_) => tally.mounts += 1,
                Err(error) => panic!("F2: the mount is refused: {error:?}"),
            }
            let fine = works_with(&mut board, &load, &mut random);
            assert!(fine.is_ok(), "F2: the log is refused");
            reboot(&mut board, &mut random);
        }
        let counters = board.flash.counters;
        tally.cuts_in_write = counters.cuts_in_write;
        tally.cuts_in_erase = counters.cuts_in_erase;
        tally.torn_tails = board.torn_tails;
        tally.hidden = counters.hidden_rewritten;
        tally.lies = board.flash.lies.told;
        tally
    }

    /// Founds the log, if need be again and again.
    fn found(&self, board: &mut Board, random: &mut Random, tally: &mut Tally) {
        let cuts = random.below(self.cuts);
        while !board.founded {
            board.hard_states = vec![(0, None)];
            say(board, "mount to found");
            match board.mount() {
                // The founding was done when the power went.
                Ok(_) => board.founded = true,
                Err(Stop::Refused(MountError::Unformatted)) => {
                    if board.flash.cuts() < cuts {
                        board.flash.fuse = Some(fuse(random, 12));
                    }
                    say(board, "found");
                    match board.format(false) {
                        Ok(()) => {}
                        Err(Stop::Cut) => tally.cuts_in_founding += 1,
                        Err(Stop::Refused(error)) => panic!("F2: founding is refused: {error}"),
                    }
                }
                Err(error) => panic!("F2: the mount is refused: {error:?}"),
            }
            reboot(board, random);
        }
    }
}

fn reboot(board: &mut Board, random: &mut Random) {
    let mut rest = Random(random.draw());
    board.flash.boot(&mut rest);
}

fn say(board: &Board, what: &str) {
    if board.flash.trace {
        eprintln!("  {what}");
    }
}

fn fuse(random: &mut Random, far: u64) -> Fuse {
    let erases_only = random.one_in(4);
    let far = if erases_only { far.div_ceil(12) + 1 } else { far };
    Fuse { after: random.below(far), erases_only, leaves: None }
}

/// Some life on a board; ends with a cut, if one comes.
fn live(
    board: &mut Board,
    load: &Load,
    random: &mut Random,
    tally: &mut Tally,
) -> Result<(), Stop> {
    board.read_snapshot()?;
    if random.one_in(4) {
        works_with(board, load, random)?;
    }
    for _ in 0..STEPS {
        board.want.idle = random.one_in(3);
        board.want.allow_erase = !random.one_in(8);
        let term = board.log.last().term.0.max(board.want.hard_state.term.0).max(1);
        match random.below(20) {
            0..=9 => {
                // Some are long, and some come in bursts that fill a record.
                let (count, most) = match random.below(16) {
                    0 => (20, 60),
                    1 => (1, longest_entry(board)),
                    2..=5 => (3, 100),
                    _ => (3, 24),
                };
                for _ in 0..=random.below(count) {
                    let len = load.entry.unwrap_or_else(|| random.below(most) as usize);
                    let data = random.bytes(len);
                    if load.takes(board.log.bytes_used(), len) && board.append(term, &data) {
                        say(board, &format!("append {len} bytes"));
                        tally.entries += 1;
                    }
                }
            }
            10 | 11 => {
                let vote = NodeId::new(1 + random.below(5) as u8).filter(|_| random.one_in(2));
                say(board, &format!("hard state {} {vote:?}", term + 1));
                board.set_hard_state(term + 1, vote);
            }
            12 | 13 => {
                let (base, last) =
                    (board.log.base().index.0.max(board.committed), board.log.last().index.0);
                if base < last && load.takes(board.log.bytes_used(), 9) {
                    let after = base + random.below(last - base);
                    say(board, &format!("overwrite after {after}"));
                    let data = random.bytes(9);
                    board.overwrite(after, term + 1, &data);
                }
            }
            14 => board.want.commit_needed = board.log.durable(),
            15 if random.one_in(2) => {
                let id = EntryId::new(Index(board.log.last().index.0 + 5), Term(term + 1));
                tally.snapshots += u64::from(snapshot(board, load, random, id, true)?);
            }
            16 if random.one_in(2) => {
                say(board, "a snapshot that is given up");
                board.abandon_snapshot(1 + random.below(60) as usize)?;
            }
            17 if random.one_in(3) => board.set_note(random.draw() as u32),
            _ => {}
        }
        if random.one_in(3) {
            board.settle()?;
        } else if let Progress::Fault(fault) = board.step()? {
            panic!("F2: {fault}");
        }
        if board.wal.wants_snapshot() || !load.takes(board.log.bytes_used(), 8) || random.one_in(25)
        {
            board.want.allow_erase = true;
            board.settle()?;
            let (from, to) = (board.committed.max(board.log.base().index.0), board.log.durable().0);
            let index = Index(from + random.below(to.max(from) - from + 1));
            if let Some(term) = board.log.term(index) {
                let id = EntryId::new(index, term);
                tally.snapshots += u64::from(snapshot(board, load, random, id, false)?);
            }
        }
    }
    Ok(())
}

/// What fits a record together with its head, of one byte to spare for every figure of the entry's own.
fn longest_entry(board: &Board) -> u64 {
    board.wal.entry_bytes_max().saturating_sub(24).max(1) as u64
}

fn snapshot(
    board: &mut Board,
    load: &Load,
    random: &mut Random,
    id: EntryId,
    installed: bool,
) -> Result<bool, Stop> {
    let chunks = load.chunks(random);
    let content = random.bytes(chunks.iter().sum());
    let (count, len) = (chunks.len(), content.len());
    say(board, &format!("snapshot of {len} bytes in {count} up to {id:?}, installed: {installed}"));
    board.want.allow_erase = true;
    board.take_snapshot_in(&chunks, id, &content, installed)
}

/// The log works: it takes an entry, after a snapshot if it asks for one, as long as those of this load are.
///
/// # Errors
/// The power went.
///
/// # Panics
/// The log takes no entry.
fn works_with(board: &mut Board, load: &Load, random: &mut Random) -> Result<(), Stop> {
    say(board, "does it work under its load?");
    board.want.idle = false;
    board.want.allow_erase = true;
    // What was put in before comes first.
    board.settle()?;
    let before = board.log.durable().0;
    for round in 0..6u8 {
        let term = board.log.last().term.0.max(1);
        let full = !load.takes(board.log.bytes_used(), 5);
        if (!full || board.log.last().index.0 == board.committed) && board.append(term, &[round; 5])
        {
            say(board, "append 5 bytes");
        }
        board.settle()?;
        if board.log.durable().0 > before {
            return Ok(());
        }
        // A board whose entries are not committed can but take the same snapshot again.
        let base = board.log.base().index.max(Index(board.committed));
        let index = if full { board.log.durable() } else { base };
        if let Some(term) = board.log.term(index) {
            snapshot(board, load, random, EntryId::new(index, term), false)?;
        }
    }
    panic!("F2: the log takes no entry: {:?}", board.wal.status());
}

/// The log works: it takes an entry, after a short snapshot if it asks for one.
///
/// # Errors
/// The power went.
///
/// # Panics
/// The log takes no entry.
pub fn works(board: &mut Board) -> Result<(), Stop> {
    say(board, "does it work?");
    board.want.idle = false;
    board.want.allow_erase = true;
    for round in 0..6u8 {
        let before = board.log.durable().0;
        let term = board.log.last().term.0.max(1);
        if board.log.bytes_free() > 200 && board.append(term, &[round; 5]) {
            board.settle()?;
        }
        if board.log.durable().0 > before {
            return Ok(());
        }
        let index = board.log.durable();
        if let Some(term) = board.log.term(index) {
            board.take_snapshot(EntryId::new(index, term), b"to make room", false)?;
        }
    }
    panic!("F2: the log takes no entry: {:?}", board.wal.status());
}
