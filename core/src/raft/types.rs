//! What goes into the protocol and comes out of it.

#[cfg(doc)]
use super::Raft;
use crate::change::ChangeError;
use crate::log::Full;
use crate::membership::Membership;
use crate::types::{Index, NodeId, NodeSet, Term};
use crate::wire::Message;

/// What a node is in its term (Raft §5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether it would be elected (Raft thesis §9.6).
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// How the protocol behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Options {
    /// The shortest election timeout; each is drawn from here up to twice this (Raft §5.2).
    pub election_ms: u32,
    /// Between heartbeats, and between repetitions of an unanswered vote request.
    pub heartbeat_ms: u32,
    /// Ask before standing for election (Raft thesis §9.6).
    pub pre_vote: bool,
    /// A leader without a quorum steps down, and a heard leader is not voted against (Raft thesis §6.2).
    pub check_quorum: bool,
    /// A leader that is no voter any more becomes a follower once it has applied that (CC13).
    pub step_down_on_removal: bool,
    /// A change of membership that can't be made now is refused when it is proposed (CC3); all are checked when applied.
    pub check_changes: bool,
    /// How long a leader may trust that nobody else leads, in ms from the beginning of a round of heartbeats that a quorum
    /// has answered; 0 if not at all. Less than every member's `election_ms`, by what their clocks may differ, and
    /// only with `check_quorum` (RI3).
    pub lease_ms: u32,
    /// For so long after its start, and with `check_quorum` after it has heard a leader, a node votes for nobody, in ms, also
    /// where a later term has made it forget that leader: it counts on that (RI3).
    pub silent_ms: u32,
    /// Draws election timeouts.
    pub seed: u64,
}

/// The state to start from, as storage has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The newest term heard of.
    pub term: Term,
    /// Who got the vote in it.
    pub vote: Option<NodeId>,
    /// Known to be committed.
    pub commit: Index,
    /// Applied already: what the snapshot covers.
    pub applied: Index,
    /// The configuration as of `applied`.
    pub membership: Membership,
}

/// A message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Everybody it is for.
    pub to: NodeSet,
    /// What to say.
    pub message: Message,
    /// For an append, the entries behind `prev` up to here at most; tell [`Raft::sent`] how many it was.
    pub entries_upto: Index,
    /// Bytes of entries that the receivers said they can take.
    pub entries_bytes_max: usize,
}

/// Why a command was not proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ProposeRefused {
    /// Leadership is being handed to another member.
    Transferring,
    /// The leader is no member any more.
    Removed,
    /// The log is full.
    Full(Full),
}

/// Why a change of membership was not proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ChangeRefused {
    /// An earlier one may not be applied yet.
    Pending,
    /// It can't be made.
    Change(ChangeError),
    /// As for a command.
    Propose(ProposeRefused),
}

/// What the driver has to do after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// Nothing beyond polling.
    Done,
    /// A piece of a snapshot came from the leader of this term, and it is ahead of what is committed here.
    WantsSnapshot,
}

impl Outgoing {
    pub(super) const fn plain(to: NodeSet, message: Message) -> Self {
        Self { to, message, entries_upto: Index::ZERO, entries_bytes_max: 0 }
    }
}
