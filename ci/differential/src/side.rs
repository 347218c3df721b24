//! What both implementations are asked to do, and what is seen of them.

use std::collections::BTreeMap;

use quorate::change::Transition;
use quorate::change::What;
use quorate::entry::Kind;
use quorate::membership::Membership;
use quorate::raft::Role;
use quorate::{EntryId, NodeId, NodeSet};

/// How the nodes of a schedule are made. Nodes are numbered from 1; those behind the voters are spare.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) voters: u8,
    pub(crate) nodes: u8,
    pub(crate) pre_vote: bool,
    /// Bytes of entries in one append, about; a single entry always goes.
    pub(crate) append_bytes: usize,
    /// Appends that may be on their way to a node, where that can be set.
    pub(crate) inflight: usize,
    pub(crate) seed: u64,
}

impl Setup {
    pub(crate) fn membership(&self) -> Membership {
        Membership::of_voters((1..=self.voters).map(id).collect::<NodeSet>())
    }
}

pub(crate) fn id(node: u8) -> NodeId {
    NodeId::new(node).expect("nodes are numbered from 1 to 31")
}

/// What both have to agree on at every moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) role: Role,
    pub(crate) term: u64,
    pub(crate) vote: u8,
    pub(crate) lead: u8,
}

/// An entry. What a change of membership holds is written differently by each; what it does is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: EntryId,
    pub(crate) kind: Kind,
    pub(crate) data: Vec<u8>,
}

/// A message as far as both know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    VoteRequest {
        term: u64,
        last: EntryId,
        pre: bool,
    },
    VoteReply {
        term: u64,
        pre: bool,
        granted: bool,
    },
    /// From a leader.
    Lead {
        term: u64,
        heartbeat: bool,
    },
    /// To a leader.
    Answer {
        term: u64,
    },
}

impl Class {
    pub(crate) const fn is_vote(&self) -> bool {
        matches!(self, Self::VoteRequest { .. } | Self::VoteReply { .. })
    }
}

/// A change of membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) transition: Transition,
    pub(crate) steps: Vec<(What, u8)>,
}

/// What happened on one side.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Entries of a log that gave way to a leader's.
    pub(crate) truncations: u64,
    pub(crate) snapshots: u64,
    pub(crate) messages: u64,
}

/// A cluster of one implementation. Whatever is given to a node, it carries out to the end: what it owes becomes
/// durable, is sent, and is applied.
pub(crate) trait Side {
    fn name(&self) -> &'static str;
    fn state(&self, node: u8) -> State;
    fn last(&self, node: u8) -> EntryId;
    fn commit(&self, node: u8) -> u64;
    fn applied(&self, node: u8) -> u64;
    fn membership(&self, node: u8) -> Membership;
    /// The last entry that is compacted, and what follows.
    fn log(&self, node: u8) -> (EntryId, Vec<Record>);
    /// The configuration in effect, and those that the changes lead to which stand in the log of this node; empty on a side
    /// that can't tell.
    fn memberships_ahead(&self, _node: u8) -> Vec<Membership> {
        Vec::new()
    }

    fn campaign(&mut self, node: u8);
    fn beat(&mut self, node: u8);
    /// Proposes at a leader; what it sends goes out. It is not durable yet if `lost`, and the power is cut.
    fn propose(&mut self, node: u8, data: &[u8], lost: bool);
    fn change(&mut self, node: u8, wish: &Wish);
    fn restart(&mut self, node: u8);
    /// Takes a snapshot of what is applied, and drops all but `kept` of the entries that it covers.
    fn compact(&mut self, node: u8, kept: u64);

    /// What is on its way from one to the other, oldest first.
    fn waiting(&self, from: u8, to: u8) -> Vec<Class>;
    /// Takes everything on its way off the link, to be given by number.
    fn take(&mut self, from: u8, to: u8);
    fn give(&mut self, from: u8, to: u8, number: usize);
    /// What was taken and not given is lost.
    fn lose_rest(&mut self, from: u8, to: u8);

    fn counts(&self) -> Counts;
    /// What was applied anywhere, and what did not fit to it.
    fn applied_log(&self) -> &Applied;
}

/// What the nodes of one side applied: the same at an index on all (Raft Figure 3, State Machine Safety), and one leader
/// a term (Election Safety).
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) records: BTreeMap<u64, Record>,
    leaders: BTreeMap<u64, u8>,
    pub(crate) trouble: Option<String>,
}

impl Applied {
    pub(crate) fn applies(&mut self, node: u8, record: &Record) {
        let first = self.records.entry(record.id.index.0).or_insert_with(|| record.clone());
        if first != record {
            let was = first.id;
            self.trouble
                .get_or_insert(format!("node {node} applies {:?} after {was:?}", record.id));
        }
    }

    pub(crate) fn leads(&mut self, node: u8, term: u64) {
        let first = *self.leaders.entry(term).or_insert(node);
        if first != node {
            self.trouble.get_or_insert(format!("nodes {first} and {node} lead in term {term}"));
        }
    }

    pub(crate) fn elections(&self) -> usize {
        self.leaders.len()
    }
}
