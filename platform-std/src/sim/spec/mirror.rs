//! What is kept of each board, as it shows itself and as the specification has it, and of each message.

use std::collections::BTreeMap;

use quorate::node::Node;
use quorate::raft::Role;
use quorate::{EntryId, NodeId, NodeSet};

use super::lines::Msg;

/// A board as it shows itself.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Shown {
    pub(super) role: Role,
    pub(super) term: u64,
    pub(super) vote: u8,
    pub(super) commit: u64,
    pub(super) last: EntryId,
    pub(super) durable: u64,
    /// Members, and the voters of an outgoing configuration.
    pub(super) conf: [NodeSet; 2],
}

impl Shown {
    pub(in crate::sim) fn of(node: &Node) -> Self {
        let (raft, status) = (node.raft(), node.status());
        Self {
            role: raft.role(),
            term: raft.term().0,
            vote: raft.vote().map_or(0, NodeId::get),
            commit: raft.commit().0,
            last: status.last,
            durable: status.durable.0,
            conf: [raft.membership().members(), raft.membership().outgoing],
        }
    }
}

/// What the specification would have kept of a board: terms of its log by index.
#[derive(Clone, Debug, Default)]
pub(super) struct Durable {
    pub(super) term: u64,
    pub(super) vote: u8,
    pub(super) log: Vec<u64>,
    pub(super) commit: u64,
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
    /// It has run before.
    pub(super) known: bool,
    /// It runs.
    pub(super) runs: bool,
    pub(super) conf: [NodeSet; 2],
    pub(super) role: Role,
    pub(super) now: Durable,
    pub(super) durable: Durable,
    pub(super) matched: BTreeMap<u8, u64>,
    /// Up to here it knows what is committed by a vote's frame, or from who did: the specification's votes do not tell.
    pub(super) hidden: u64,
}

impl Mirror {
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
    pub(super) from: u8,
    pub(super) to: u8,
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
