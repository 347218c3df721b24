//! What is kept of each board, as it shows itself and as the specification has it, and of each message.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use quorate::membership::Membership;
use quorate::node::Node;
use quorate::raft::Role;
use quorate::{EntryId, NodeId};
use serde::{Serialize, Serializer};

use super::lines::Msg;
use super::members::Members;

/// A board in one of its lives: another server of the specification in each, which knows no server that forgets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Server {
    pub(super) board: u8,
    pub(super) generation: u16,
}

impl Server {
    /// Whom a vote that was not given is for.
    pub(super) const NOBODY: Self = Self { board: 0, generation: 0 };
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation {
            0 | 1 => write!(f, "{}", self.board),
            later => write!(f, "{}.{later}", self.board),
        }
    }
}

impl Serialize for Server {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A board as it shows itself.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Shown {
    pub(super) generation: u16,
    pub(super) role: Role,
    pub(super) term: u64,
    pub(super) vote: u8,
    pub(super) commit: u64,
    pub(super) applied: u64,
    pub(super) last: EntryId,
    pub(super) durable: u64,
    pub(super) membership: Membership,
    /// The newest life of any member.
    pub(super) newest: u16,
}

impl Shown {
    pub(in crate::sim) fn of(node: &Node) -> Self {
        let (raft, status) = (node.raft(), node.status());
        Self {
            generation: status.generation.0,
            role: raft.role(),
            term: raft.term().0,
            vote: raft.vote().map_or(0, NodeId::get),
            commit: raft.commit().0,
            applied: status.applied.0,
            last: status.last,
            durable: status.durable.0,
            membership: *raft.membership(),
            newest: node.members().iter().map(|member| member.generation.0).max().unwrap_or(0),
        }
    }
}

/// What the specification would have kept of a board: terms of its log by index.
#[derive(Clone, Debug, Default)]
pub(super) struct Durable {
    pub(super) term: u64,
    pub(super) vote: Server,
    pub(super) log: Vec<u64>,
    pub(super) commit: u64,
    pub(super) members: Arc<Members>,
    /// The change that led to them.
    pub(super) changed: u64,
}

impl Durable {
    pub(super) fn holds(&self, index: u64, term: u64) -> bool {
        let at = (index as usize).checked_sub(1);
        at.is_none_or(|at| self.log.get(at) == Some(&term))
    }
}

/// A board as the specification has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Mirror {
    /// The trace has it.
    pub(super) known: bool,
    /// Some board was it.
    pub(super) ran: bool,
    /// It runs.
    pub(super) runs: bool,
    /// Its place is another life's by now: what it does yet is nobody's business.
    pub(super) displaced: bool,
    pub(super) role: Role,
    pub(super) now: Durable,
    pub(super) durable: Durable,
    pub(super) matched: BTreeMap<Server, u64>,
    /// The change that it appended as a leader and has not put into effect as one; 0 if there is none.
    pub(super) pending: u64,
    /// Up to here it knows what is committed by a vote's frame, or from who did: the specification's votes do not tell.
    pub(super) hidden: u64,
}

impl Mirror {
    /// Whom the board shows to have its vote.
    pub(super) fn vote(&self, shown: &Shown) -> Server {
        let given = NodeId::new(shown.vote).filter(|id| id.get() != self.now.vote.board);
        match given.and_then(|id| self.now.members.server(id)) {
            _ if shown.vote == 0 => Server::NOBODY,
            Some(server) => server,
            None => self.now.vote,
        }
    }

    /// The commit index that the board shows, as the specification has it.
    pub(super) fn commit(&self, shown: &Shown) -> u64 {
        if shown.commit <= self.hidden {
            self.now.commit
        } else {
            shown.commit.max(self.now.commit)
        }
    }
}

/// A request of the specification, which a frame stands for.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) msg: Msg,
    pub(super) from: Server,
    pub(super) to: Server,
    /// The term of its one entry.
    pub(super) entry: Option<u64>,
    /// Received; another copy of the frame is another message.
    pub(super) taken: bool,
    /// Its line.
    pub(super) line: usize,
}

/// A reply of the specification, which it makes by itself.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) msg: Msg,
    /// Not on its way before the sender is ready.
    pub(super) pending: bool,
}

/// Replies of one board to another that are remembered: of those on their way the newest tell most.
pub(super) const REPLIES_MAX: usize = 256;
