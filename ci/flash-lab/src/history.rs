//! Short histories, each with a cut at every operation, in every word.

use crate::board::{Board, Stop};
use crate::flash::{Faults, Flash, Fuse, Leaves, Pattern};
use crate::life::works;
use quorate::flash::Geometry;
use quorate::{EntryId, Index, NodeId, Term};

/// What may happen to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// One entry.
    Append,
    /// Three entries in one record.
    Batch,
    /// The last entries give way to one of a later term.
    Conflict,
    /// A new term and a vote.
    HardState,
    /// A snapshot of what is durable.
    Compaction,
    /// A snapshot of a leader's.
    Installed,
    /// The board starts again.
    Boot,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Append,
        Self::Batch,
        Self::Conflict,
        Self::HardState,
        Self::Compaction,
        Self::Installed,
        Self::Boot,
    ];
}

/// On what a history takes place.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// How the flash is laid out.
    pub geometry: Geometry,
    /// Bytes of the flash buffer.
    pub buffer: usize,
    /// Bytes of each entry.
    pub entry: usize,
    /// There is time for upkeep after each event.
    pub idle: bool,
    /// The first segment is nearly full before the history begins.
    pub late: bool,
}

/// How much was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    /// Histories.
    pub histories: u64,
    /// Operations that were cut.
    pub operations: u64,
    /// Cuts.
    pub cuts: u64,
    /// Second cuts, in the mount that follows one.
    pub again: u64,
}

impl Stage {
    fn board(&self) -> Board {
        let flash = Flash::new(self.geometry, Faults::MILD);
        let mut board = Board::new(flash, self.buffer, 1);
        assert!(board.format(false).is_ok(), "F2: the founding fails");
        if self.late {
            // The events themselves open the next segment.
            board.want.idle = false;
            while board.wal.status().bytes_written + 100 < self.geometry.segment_bytes() {
                board.append(1, &[0x1a; 40]);
                assert!(board.settle().is_ok(), "F2: the log stops");
            }
        }
        board.want.idle = self.idle;
        board
    }

    fn happen(&self, board: &mut Board, event: Event, i: usize) -> Result<(), Stop> {
        let term = board.log.last().term.0.max(board.want.hard_state.term.0).max(1);
        let (durable, last) = (board.log.durable(), board.log.last().index.0);
        let data = vec![i as u8 + 1; self.entry];
        match event {
            Event::Append => {
                board.append(term, &data);
            }
            Event::Batch => {
                for _ in 0..3 {
                    board.append(term, &data);
                }
            }
            Event::Conflict => {
                let base = board.log.base().index.0.max(board.committed);
                if base < last {
                    board.overwrite(base + (last - base) / 2, term + 1, &data);
                }
            }
            Event::HardState => board.set_hard_state(term + 1, NodeId::new(1 + i as u8)),
            Event::Compaction => {
                let id = EntryId::new(durable, board.log.term(durable).unwrap_or_default());
                board.take_snapshot(id, &[0xc0 + i as u8; 70], false)?;
            }
            Event::Installed => {
                let id = EntryId::new(Index(last + 3), Term(term + 1));
                board.take_snapshot(id, &[0xd0 + i as u8; 70], true)?;
            }
            Event::Boot => {
                let mut random = board.random.clone();
                board.flash.boot_keeping_fuse(&mut random);
                board.mount()?;
            }
        }
        board.settle()
    }

    /// The events before the last one happen; the power goes in the last one, in operation `after`.
    fn until_cut(&self, history: &[Event], fuse: Option<Fuse>) -> (Board, Result<(), Stop>) {
        let mut board = self.board();
        let mut ended = Ok(());
        for (i, event) in history.iter().enumerate() {
            if i + 1 == history.len() {
                board.flash.fuse = fuse;
                board.flash.last_written = 0;
            }
            ended = self.happen(&mut board, *event, i);
        }
        (board, ended)
    }

    /// Cuts the last event of a history at each of its operations, in each word, with each pattern; then the
    /// board is started, checked, used, and started again. With `again`, that mount is cut as well, at each of its
    /// operations in the first and in the last word.
    ///
    /// # Panics
    /// A rule does not hold.
    pub fn try_all(&self, history: &[Event], again: bool, tried: &mut Tried) {
        tried.histories += 1;
        for after in 0.. {
            // How many words has this operation? A cut in its first word tells.
            let Some(board) = self.cut(history, after, 0, Pattern::Done) else {
                return;
            };
            let words = board.flash.last_written;
            tried.operations += 1;
            for word in 0..words {
                for pattern in Pattern::ALL {
                    let Some(mut board) = self.cut(history, after, word, pattern) else {
                        continue;
                    };
                    tried.cuts += 1;
                    if again {
                        cut_mounts(&board, tried);
                    }
                    goes_on(&mut board);
                }
            }
        }
    }

    /// The board when the power has gone; `None` if the last event was over before.
    fn cut(&self, history: &[Event], after: u64, word: usize, pattern: Pattern) -> Option<Board> {
        let leaves = Some(Leaves { word, pattern });
        let fuse = Fuse { after, erases_only: false, leaves };
        let (board, ended) = self.until_cut(history, Some(fuse));
        match ended {
            Ok(()) => None,
            Err(Stop::Cut) => Some(board),
            Err(Stop::Refused(error)) => panic!("F2: the mount is refused: {error}"),
        }
    }
}

/// Cuts the next mount at each of its operations, in the first and in the last word, with each pattern.
fn cut_mounts(board: &Board, tried: &mut Tried) {
    for after in 0.. {
        let Some(cut) = cut_mount(board, after, 0, Pattern::Done) else {
            return;
        };
        let mut words = vec![0, cut.flash.last_written - 1];
        words.dedup();
        for word in words {
            for pattern in Pattern::ALL {
                if let Some(mut board) = cut_mount(board, after, word, pattern) {
                    tried.again += 1;
                    goes_on(&mut board);
                }
            }
        }
    }
}

/// The board when the power has gone once more, in the mount; `None` if that was over before.
fn cut_mount(board: &Board, after: u64, word: usize, pattern: Pattern) -> Option<Board> {
    let mut board = board.without_power();
    let mut random = board.random.clone();
    board.flash.boot(&mut random);
    let leaves = Some(Leaves { word, pattern });
    board.flash.fuse = Some(Fuse { after, erases_only: false, leaves });
    match board.mount() {
        Ok(_) => None,
        Err(Stop::Cut) => Some(board),
        Err(Stop::Refused(error)) => panic!("F2: the mount is refused: {error}"),
    }
}

/// The board starts, is checked and used; three times.
fn goes_on(board: &mut Board) {
    for _ in 0..3 {
        let mut random = board.random.clone();
        board.flash.boot(&mut random);
        match board.mount() {
            Ok(_) => {}
            Err(error) => panic!("F2: the mount is refused: {error:?}"),
        }
        let fine = board.read_snapshot().and_then(|_| works(board));
        assert!(fine.is_ok(), "F2: the log does not go on");
    }
}
