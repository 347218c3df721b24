//! What happened, as data: defmt, a simulator, a transcript and a lamp all render the same events.

use crate::change::ChangeError;
use crate::membership::Membership;
use crate::raft::Role;
use crate::types::{EntryId, Generation, Index, NodeId, Term};
use crate::wire::FrameError;

/// Something worth knowing that happened inside a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Event {
    /// Flash is mounted (or formatted) and the node runs.
    Started {
        /// The last entry found.
        last: EntryId,
        /// The last record was torn by a power cut and has been cut off; it was never acknowledged.
        torn: bool,
    },
    /// The node changed its role or its term.
    Became {
        /// What it is now.
        role: Role,
        /// In which term.
        term: Term,
    },
    /// The node follows a leader.
    Follows {
        /// Whom.
        leader: NodeId,
        /// In which term.
        term: Term,
    },
    /// The node promised its vote.
    Voted {
        /// To whom.
        candidate: NodeId,
        /// In which term.
        term: Term,
    },
    /// A snapshot of this node's own is durable.
    SnapshotTaken {
        /// The last entry that it covers.
        id: EntryId,
    },
    /// A leader's snapshot is durable and has been restored.
    SnapshotInstalled {
        /// The last entry that it covers.
        id: EntryId,
    },
    /// A frame was dropped.
    FrameRefused {
        /// Why.
        why: FrameRefusal,
    },
    /// A frame said what cannot be, a second leader in a term or a contradiction to what is committed.
    ImpossibleFrame {
        /// Who is said to have sent it.
        from: NodeId,
    },
    /// A leader's entries did not fit into this node's log.
    LogFull {
        /// The last entry that did.
        last: Index,
    },
    /// A command or snapshot was written by newer firmware: this node goes on replicating and applies no more.
    NewerSchema {
        /// The schema it needs.
        found: u16,
    },
    /// The application's state has grown beyond the cluster's limit: no snapshot is taken any more, and the
    /// log fills up.
    SnapshotTooLarge {
        /// The limit.
        bytes_max: u32,
    },
    /// A change of membership was applied.
    MembershipChanged {
        /// The configuration in effect.
        membership: Membership,
    },
    /// A change of membership was applied that can't be made: it has no effect, here as everywhere.
    ChangeVoid {
        /// Why.
        error: ChangeError,
    },
    /// A board with blank flash asks for a place that is nobody's yet: a person has to add that member.
    Knocks {
        /// The number it has.
        id: NodeId,
    },
    /// A board with blank flash has to wait: without the member that it was, there is no quorum to decide on it.
    NoQuorumWithout {
        /// The member.
        id: NodeId,
    },
    /// This board, with blank flash, was given its place.
    Admitted {
        /// Which life of the member it is.
        generation: Generation,
    },
    /// Another board was given this one's place, a leader says: what this one says is not heard any more.
    Displaced {
        /// Which life of the member that board is.
        generation: Generation,
    },
    /// The node has stopped, for good.
    Stopped(Fault),
}

/// Why a frame was dropped at intake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum FrameRefusal {
    /// It is longer than the cluster's limit.
    TooLong,
    /// It is not a frame.
    Unreadable(FrameError),
    /// From another cluster.
    Cluster,
    /// From no member, or from a past life of one.
    Stranger {
        /// Who it says it is.
        from: NodeId,
    },
}

/// Why a node has stopped. It is silent from then on, which Raft tolerates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Fault {
    /// The flash log could not be mounted.
    Mount(crate::wal::MountError),
    /// The flash partition can't hold a log.
    Geometry(crate::wal::GeometryError),
    /// The flash log failed while running.
    Flash(crate::wal::WalFault),
    /// The snapshot in flash is whole but says nothing that can be restored, or can't be read any more.
    Snapshot,
    /// A numbered invariant (`core/docs/invariants.md`) did not hold.
    Invariant(u8),
    /// Its place was given to another board of the same number.
    Replaced,
    /// A buffer or the log is smaller than the cluster's limits ask for.
    Buffers {
        /// Bytes that it has.
        bytes_given: u32,
        /// Bytes that it should have.
        bytes_needed: u32,
    },
}

/// What a board remembers of its last stop and reset, in the flash log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Note(pub u32);

impl Note {
    const SNAPSHOT: u8 = 1;
    const INVARIANT: u8 = 2;
    const BUFFERS: u8 = 3;
    const REPLACED: u8 = 4;

    /// The same, with this fault; where flash itself is what failed, it can't remember that.
    pub(crate) const fn with_fault(self, fault: Fault) -> Self {
        let (code, detail) = match fault {
            Fault::Snapshot => (Self::SNAPSHOT, 0),
            Fault::Invariant(number) => (Self::INVARIANT, number),
            Fault::Buffers { .. } => (Self::BUFFERS, 0),
            Fault::Replaced => (Self::REPLACED, 0),
            Fault::Mount(_) | Fault::Geometry(_) | Fault::Flash(_) => return self,
        };
        let [low, high, ..] = self.0.to_le_bytes();
        Self(u32::from_le_bytes([low, high, detail, code]))
    }

    /// The same, with this number of the board's own.
    pub(crate) const fn with_own(self, own: u16) -> Self {
        Self(self.0 & 0xffff_0000 | own as u32)
    }

    /// A number of the board's own, such as why it was reset.
    pub const fn own(self) -> u16 {
        self.0 as u16
    }

    /// The last [`Fault`] that this board stopped with, told in words; `None` if it never did.
    pub const fn fault(self) -> Option<&'static str> {
        let [_, _, detail, code] = self.0.to_le_bytes();
        Some(match (code, detail) {
            (0, _) => return None,
            (Self::SNAPSHOT, _) => "its snapshot could not be restored",
            (Self::INVARIANT, 5) => "invariant 5 did not hold",
            (Self::INVARIANT, _) => "an invariant did not hold",
            (Self::BUFFERS, _) => "a buffer was smaller than the cluster's limits ask for",
            (Self::REPLACED, _) => "its place was given to another board",
            _ => "a fault that newer firmware knows",
        })
    }
}

/// Room for what one input can cause.
const EVENTS_MAX: usize = 4;

/// Events that wait to be polled; the oldest give way, counted, if nobody polls.
#[derive(Default)]
pub struct Events {
    queue: heapless::Deque<Event, EVENTS_MAX>,
    lost: u32,
}

impl Events {
    /// No events.
    pub const fn new() -> Self {
        Self { queue: heapless::Deque::new(), lost: 0 }
    }

    /// Adds one.
    pub fn push(&mut self, event: Event) {
        if self.queue.is_full() {
            self.queue.pop_front();
            self.lost = self.lost.saturating_add(1);
        }
        // There is room now.
        let _ = self.queue.push_back(event);
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }

    /// How many gave way.
    pub const fn lost(&self) -> u32 {
        self.lost
    }
}
