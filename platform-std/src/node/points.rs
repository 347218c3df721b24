//! The places where a test may end a node's process: those that etcd's own tests crash at, and a few more.
//!
//! Without the feature `faults` all of this comes to nothing.

use quorate::Index;
use quorate::flash::FlashOp;
use quorate::wal::inspect::{ENTRIES, HARD_STATE};

/// Where a record's tag stands, and what its upper half says (`core/docs/flash-format.md`).
const TAG_AT: usize = 6;
const KIND: u8 = 0xf0;
const GROUP: u8 = 0x00;
const CHUNK: u8 = 0x10;
const CHECKPOINT: u8 = 0x30;

/// A step of the loop that is begun, or was just done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// Entries are to be written.
    BeforeSave,
    /// Entries are durable, and the core does not know it yet.
    AfterSave,
    /// Term or vote.
    BeforeSaveVote,
    AfterSaveVote,
    /// The first piece of a leader's snapshot.
    BeforeSaveSnapshot,
    /// All pieces of a snapshot are durable; that it is whole is to be written.
    BeforeCheckpoint,
    /// A leader's snapshot is whole, and the core does not know it yet.
    AfterSaveSnapshot,
    /// A frame is to be sent.
    BeforeLeaderSend,
    BeforeFollowerSend,
    /// The first piece of a leader's snapshot is handed to the application, or the last one was.
    BeforeRestore,
    AfterRestore,
    /// What a snapshot covers is erased.
    AfterRelease,
    BeforeApply,
    AfterApply,
}

/// A flash operation that is under way, as far as it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum UnderWay {
    #[default]
    Other,
    Group {
        entries: bool,
        vote: bool,
    },
    Checkpoint,
    Erase,
}

/// Where the node is.
#[derive(Debug, Default)]
pub(super) struct Points {
    under_way: UnderWay,
    /// The newest snapshot in flash, whole or not, is one that a leader sent in this life.
    received: bool,
    /// One was made whole in this life.
    has_checkpoint: bool,
    #[cfg(feature = "faults")]
    disk: Option<crate::faults::Forgetful<std::fs::File>>,
}

impl Points {
    /// Ends the process by this disk.
    #[cfg(feature = "faults")]
    pub(super) fn on(disk: crate::faults::Forgetful<std::fs::File>) -> Self {
        Self { disk: Some(disk), ..Self::default() }
    }

    /// The node comes by here.
    pub(super) fn pass(&self, point: Point) {
        #[cfg(feature = "faults")]
        if let Some(disk) = &self.disk {
            disk.pass(&format!("{point:?}"));
        }
        #[cfg(not(feature = "faults"))]
        let _ = point;
    }

    /// An operation is to be begun, with what it writes in the buffer.
    pub(super) fn begins(&mut self, op: FlashOp, buffer: &[u8], applied: Index) {
        self.under_way = UnderWay::Other;
        let tag = match op {
            FlashOp::Erase { .. } => return self.under_way = UnderWay::Erase,
            FlashOp::Read { .. } => return,
            FlashOp::Write { .. } => buffer.get(TAG_AT).copied().unwrap_or_default(),
        };
        match tag & KIND {
            GROUP => {
                let (entries, vote) = (tag & ENTRIES != 0, tag & HARD_STATE != 0);
                self.under_way = UnderWay::Group { entries, vote };
                self.pass_if(entries, Point::BeforeSave);
                self.pass_if(vote, Point::BeforeSaveVote);
            }
            CHUNK => {
                let mut body = buffer.get(TAG_AT + 1..).unwrap_or_default();
                let [index, _term, offset] = [(); 3].map(|()| varint(&mut body));
                // What this node takes covers what it has applied.
                self.received = index > applied.0;
                self.pass_if(self.received && offset == 0, Point::BeforeSaveSnapshot);
            }
            CHECKPOINT => {
                self.under_way = UnderWay::Checkpoint;
                self.pass(Point::BeforeCheckpoint);
            }
            _ => {}
        }
    }

    /// That operation is durable.
    pub(super) fn done(&mut self) {
        match std::mem::take(&mut self.under_way) {
            UnderWay::Group { entries, vote } => {
                self.pass_if(entries, Point::AfterSave);
                self.pass_if(vote, Point::AfterSaveVote);
            }
            UnderWay::Checkpoint => {
                self.has_checkpoint = true;
                self.pass_if(self.received, Point::AfterSaveSnapshot);
            }
            UnderWay::Erase => self.pass_if(self.has_checkpoint, Point::AfterRelease),
            UnderWay::Other => {}
        }
    }

    /// A piece of a snapshot is handed to the application; those of the start don't count.
    pub(super) fn restores(&self, point: Point) {
        self.pass_if(self.received, point);
    }

    fn pass_if(&self, condition: bool, point: Point) {
        if condition {
            self.pass(point);
        }
    }
}

/// The number that these bytes begin with, 7 bits at a time.
fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    while let Some((byte, rest)) = bytes.split_first() {
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}
