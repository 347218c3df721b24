//! What goes in when a node starts, what comes out of it, what it reports.

use super::{Outcome, ProposalId, ReadId};
use crate::change::ChangeError;
use crate::entry::HEAD_BYTES_MAX;
use crate::event::{Event, Fault, Note};
use crate::flash::FlashOp;
use crate::membership::{Member, Membership};
use crate::raft::{ProposeRefused, Role};
use crate::types::{ClusterId, EntryId, Generation, Index, Instant, NodeId, NodeSet, Term};
use serde::{Deserialize, Serialize};

/// Constants of a cluster, fixed when it is founded. A node that offers less is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Limits {
    /// The largest frame on the link, bytes.
    pub frame_bytes: u16,
    /// The largest command, bytes.
    pub entry_bytes: u16,
    /// What each member's log holds at least, bytes.
    pub log_bytes: u32,
    /// The largest snapshot of the application's state, bytes.
    pub snapshot_bytes: u32,
}

/// The explicit act that makes a cluster: given once to each founding board, the same to all but `node`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founding<'a> {
    /// Drawn at random for this cluster.
    pub cluster: ClusterId,
    /// Which of the members this board is.
    pub node: NodeId,
    /// The founding members, all voters.
    pub members: &'a [Member],
    /// The cluster's constants.
    pub limits: Limits,
    /// Erase whatever the flash holds. Without it anything but blank flash is refused.
    pub erase_anyway: bool,
}

/// How a node comes to its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot<'a> {
    /// From the log in flash. Blank flash is refused: it is never a voter.
    Mount,
    /// By founding a cluster.
    Found(&'a Founding<'a>),
    /// By asking for a member's place, with blank flash: a new board, or one that has lost its flash.
    Join {
        /// The cluster.
        cluster: ClusterId,
        /// Which of its members this board is; it has to be one already.
        node: NodeId,
        /// Drawn by hardware at random for this call; not zero.
        nonce: u32,
    },
    /// By founding a cluster of this board alone out of what its log holds: for when the majority of a cluster is lost for
    /// good. What only the lost boards held is gone; what this one holds counts as committed, though it may not have been.
    /// The flash is erased and written anew: power must not fail meanwhile, so this is best done to a copy of its image.
    Recover {
        /// Drawn at random: should boards of the old cluster come back, they are strangers.
        cluster: ClusterId,
    },
}

/// Why a node did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum StartError {
    /// Timeouts, link and flash do not go together.
    Config(crate::config::ConfigError),
    /// It is started, or was: a node starts once, unless it found no log to mount.
    Started,
    /// The flash can't hold the cluster's log and a snapshot.
    Geometry(crate::wal::GeometryError),
    /// More members than the cluster can have, the same one twice, one that is not of the first generation, or this node is
    /// not among them.
    Members {
        /// The most there can be.
        max: u8,
    },
    /// The limits do not fit each other, or this board.
    Limits {
        /// Which of them, by its name.
        limit: &'static str,
        /// What it may be at most (`log_bytes` and `entry_bytes`), or has to be at least (`frame_bytes`).
        bound: u32,
    },
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Started => f.write_str("the node is started already"),
            Self::Config(error) => error.fmt(f),
            Self::Geometry(error) => error.fmt(f),
            Self::Members { max } => {
                write!(
                    f,
                    "members are 1 to {max} different ones of generation 1, this node among them"
                )
            }
            Self::Limits { limit, bound } => {
                write!(f, "{limit} does not fit: the bound is {bound}")
            }
        }
    }
}

impl core::error::Error for StartError {}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ProposeError {
    /// Only the leader takes commands.
    NotLeader {
        /// The leader, if one is known.
        leader: Option<NodeId>,
    },
    /// The log is full of entries that are not committed, applied and compacted yet. It recovers by itself.
    LogFull {
        /// Bytes that a command could have now.
        bytes_free: u32,
    },
    /// The command is longer than the cluster allows.
    TooLarge {
        /// The longest.
        bytes_max: u32,
    },
    /// Leadership is being handed to another member.
    Transferring,
    /// The node has not started, or has stopped.
    NotRunning,
}

impl From<ProposeRefused> for ProposeError {
    fn from(refused: ProposeRefused) -> Self {
        match refused {
            ProposeRefused::Transferring => Self::Transferring,
            ProposeRefused::Removed => Self::NotLeader { leader: None },
            ProposeRefused::Full(full) => {
                let bytes_free = full.bytes_free.saturating_sub(HEAD_BYTES_MAX) as u32;
                Self::LogFull { bytes_free }
            }
        }
    }
}

impl core::fmt::Display for ProposeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotLeader { leader: Some(leader) } => {
                write!(f, "not the leader; that is {leader}")
            }
            Self::NotLeader { leader: None } => f.write_str("not the leader; none is known"),
            Self::LogFull { bytes_free } => {
                write!(f, "the log is full: room for {bytes_free} bytes")
            }
            Self::TooLarge { bytes_max } => {
                write!(f, "the command is too large: {bytes_max} bytes at most")
            }
            Self::Transferring => f.write_str("leadership is being handed to another member"),
            Self::NotRunning => f.write_str("the node is not running"),
        }
    }
}

impl core::error::Error for ProposeError {}

/// Why a change of membership was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ChangeMembersError {
    /// As for a command.
    Propose(ProposeError),
    /// An earlier change is not applied yet.
    Pending,
    /// It can't be made.
    Change(ChangeError),
    /// That member's log is too far behind for a vote: it would hold up every commit.
    NotCaughtUp {
        /// The member.
        id: NodeId,
    },
}

impl core::fmt::Display for ChangeMembersError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Propose(error) => error.fmt(f),
            Self::Pending => f.write_str("an earlier change of membership is not applied yet"),
            Self::Change(error) => error.fmt(f),
            Self::NotCaughtUp { id } => write!(f, "member {id} has not caught up with the log"),
        }
    }
}

impl core::error::Error for ChangeMembersError {}

/// What the driver has to do. The bytes are in its own buffers: it can hold an `Output` for as long as
/// it leaves them alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Output {
    /// Carry out a flash operation, then tell [`Node::handle_flash`](super::Node::handle_flash). One at a
    /// time; until it is answered the flash buffer belongs to it.
    Flash(FlashOp),
    /// Send `frame[..len]`. A radio sends it once, a link to one peer at a time sends it to each.
    Transmit {
        /// Everybody it is for.
        to: NodeSet,
        /// Its bytes.
        len: usize,
    },
    /// A committed command is in `frame[..len]`: apply it. It counts as applied at the next poll.
    Apply {
        /// Which entry it is.
        id: EntryId,
        /// Its bytes.
        len: usize,
    },
    /// Put the application's state, from byte `offset`, at `flash[at..at + len_max]`, then tell
    /// [`Node::handle_snapshot`](super::Node::handle_snapshot) how many bytes: fewer than `len_max` is the end.
    TakeSnapshot {
        /// Bytes of the state that are taken already.
        offset: u32,
        /// Where in the flash buffer.
        at: usize,
        /// How many at most.
        len_max: usize,
    },
    /// The application's state, from byte `offset`, is at `flash[at..at + len]`. At 0 it begins anew.
    RestoreSnapshot {
        /// Bytes that came before.
        offset: u32,
        /// Where in the flash buffer.
        at: usize,
        /// How many.
        len: usize,
        /// The state is whole.
        last: bool,
    },
    /// The state, as it is now, serves this read ([`Node::read`](super::Node::read)).
    ReadReady(ReadId),
    /// What became of a command that was forwarded ([`Node::forward`](super::Node::forward)).
    Proposed {
        /// Which one.
        id: ProposalId,
        /// It took effect, or may.
        outcome: Outcome,
    },
    /// Something happened.
    Event(Event),
    /// Nothing more to do until then, or until something arrives.
    Wait {
        /// When to call [`Node::handle_timeout`](super::Node::handle_timeout).
        until: Instant,
    },
}

/// A look at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Status {
    /// Which member; `None` before the log is mounted.
    pub id: Option<NodeId>,
    /// Which cluster.
    pub cluster: ClusterId,
    /// Which life of the member.
    pub generation: Generation,
    /// Mounted, restored and taking part.
    pub running: bool,
    /// Why it has stopped.
    pub fault: Option<Fault>,
    /// What it is.
    pub role: Role,
    /// The newest term.
    pub term: Term,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// The last entry known to be committed.
    pub commit: Index,
    /// The last entry that was applied.
    pub applied: Index,
    /// The last entry.
    pub last: EntryId,
    /// The last entry that flash holds.
    pub durable: Index,
    /// The last entry that the snapshot covers.
    pub snapshot: EntryId,
    /// Who votes and who learns.
    pub membership: Membership,
    /// Bytes of the log in RAM that are free.
    pub log_bytes_free: u32,
    /// A command needs this schema; nothing is applied until the firmware knows it.
    pub newer_schema: Option<u16>,
    /// Frames refused since the start.
    pub frames_refused: u32,
    /// Events that nobody polled in time.
    pub events_lost: u32,
    /// What flash remembers of the last stop and reset.
    pub note: Note,
    /// The flash log.
    pub flash: crate::wal::Status,
}
