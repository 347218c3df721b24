//! The crate `raft`, on the same host: its disk is written at once, what it asks for is done to the end.

use std::collections::BTreeMap;

use protobuf::Message as _;
use quorate::change::{Transition, What};
use quorate::entry::Kind;
use quorate::membership::Membership;
use quorate::raft::Role;
use quorate::{EntryId, Index, NodeSet, Term};
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
    EntryType, HardState, Message, MessageType, Snapshot,
};
use raft::{
    Config, GetEntriesContext, NO_LIMIT, RaftState, RawNode, SnapshotStatus, StateRole, Storage,
    StorageError,
};

use crate::side::{Applied, Class, Counts, Record, Setup, Side, State, Wish, id};

/// What a cut of the power leaves.
#[derive(Clone, Default)]
struct Disk {
    hard: HardState,
    members: ConfState,
    /// The last compacted entry: index and term.
    base: (u64, u64),
    entries: Vec<Entry>,
    applied: u64,
}

impl Disk {
    fn place(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.base.0 + 1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    fn last(&self) -> (u64, u64) {
        self.entries.last().map_or(self.base, |entry| (entry.index, entry.term))
    }

    /// Puts entries where they belong; whether others gave way.
    fn write(&mut self, entries: &[Entry]) -> bool {
        let Some(first) = entries.first() else {
            return false;
        };
        let kept = first.index - self.base.0 - 1;
        let replaced = (kept as usize) < self.entries.len();
        self.entries.truncate(kept as usize);
        self.entries.extend_from_slice(entries);
        replaced
    }
}

impl Storage for Disk {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard.clone(), conf_state: self.members.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let from = (low - self.base.0 - 1) as usize;
        let upto = (high - self.base.0 - 1) as usize;
        let mut entries = self.entries[from..upto].to_vec();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        if index < self.base.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let entry = self.place(index).ok_or(raft::Error::Store(StorageError::Unavailable))?;
        Ok(entry.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().0)
    }

    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        // Made when it is asked for: a node that is no member in it would refuse it.
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (self.applied, self.term(self.applied)?);
        meta.set_conf_state(self.members.clone());
        Ok(snapshot)
    }
}

pub(crate) struct Theirs {
    setup: Setup,
    nodes: Vec<RawNode<Disk>>,
    links: BTreeMap<(u8, u8), Vec<Message>>,
    hand: Vec<Message>,
    given: Vec<bool>,
    applied: Applied,
    counts: Counts,
}

impl Theirs {
    pub(crate) fn new(setup: Setup) -> Self {
        let members =
            ConfState { voters: (1..=u64::from(setup.voters)).collect(), ..ConfState::default() };
        let disk = Disk { members, ..Disk::default() };
        let nodes = (1..=setup.nodes).map(|n| start(&setup, n, disk.clone())).collect();
        let mut theirs = Self {
            setup,
            nodes,
            links: BTreeMap::new(),
            hand: Vec::new(),
            given: Vec::new(),
            applied: Applied::default(),
            counts: Counts::default(),
        };
        (1..=setup.nodes).for_each(|n| theirs.work(n));
        theirs
    }

    fn node(&self, node: u8) -> &RawNode<Disk> {
        &self.nodes[usize::from(node) - 1]
    }

    fn node_mut(&mut self, node: u8) -> &mut RawNode<Disk> {
        &mut self.nodes[usize::from(node) - 1]
    }

    fn work(&mut self, n: u8) {
        while self.node(n).has_ready() {
            let mut ready = self.node_mut(n).ready();
            self.send(n, ready.take_messages());
            if ready.snapshot().get_metadata().index > 0 {
                let meta = ready.snapshot().get_metadata().clone();
                let disk = self.node_mut(n).mut_store();
                disk.base = (meta.index, meta.term);
                disk.entries.clear();
                disk.members = meta.get_conf_state().clone();
                disk.applied = meta.index;
                self.counts.snapshots += 1;
            }
            self.apply(n, ready.take_committed_entries());
            let disk = self.node_mut(n).mut_store();
            let truncated = disk.write(ready.entries());
            if let Some(hard) = ready.hs() {
                disk.hard = hard.clone();
            }
            self.counts.truncations += u64::from(truncated);
            self.send(n, ready.take_persisted_messages());
            let mut light = self.node_mut(n).advance(ready);
            if let Some(commit) = light.commit_index() {
                self.node_mut(n).mut_store().hard.commit = commit;
            }
            self.send(n, light.take_messages());
            self.apply(n, light.take_committed_entries());
            self.node_mut(n).advance_apply();
        }
    }

    fn send(&mut self, from: u8, messages: Vec<Message>) {
        for mut message in messages {
            // Votes tell what is committed, each in other messages: left out (decision O1).
            if is_vote(message.get_msg_type()) {
                (message.commit, message.commit_term) = (0, 0);
            }
            if let Class::Lead { term, .. } = class(&message) {
                self.applied.leads(from, term);
            }
            self.links.entry((from, message.to as u8)).or_default().push(message);
            self.counts.messages += 1;
        }
    }

    fn apply(&mut self, n: u8, entries: Vec<Entry>) {
        for entry in entries {
            let record = record(&entry);
            if record.kind == Kind::Membership {
                let change = change_of(&entry);
                // One that can't be made is none.
                if let Ok(members) = self.node_mut(n).apply_conf_change(&change) {
                    self.node_mut(n).mut_store().members = members;
                }
            }
            self.node_mut(n).mut_store().applied = entry.index;
            self.applied.applies(n, &record);
        }
    }
}

fn start(setup: &Setup, n: u8, disk: Disk) -> RawNode<Disk> {
    let config = Config {
        id: u64::from(n),
        applied: disk.applied,
        pre_vote: setup.pre_vote,
        check_quorum: false,
        max_size_per_msg: setup.append_bytes as u64,
        max_inflight_msgs: setup.inflight,
        max_uncommitted_size: NO_LIMIT,
        ..Config::default()
    };
    let silent = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&config, disk, &silent).expect("the configuration is sound")
}

/// A change is written in one of two forms.
fn change_of(entry: &Entry) -> ConfChangeV2 {
    let mut change = ConfChangeV2::default();
    change.merge_from_bytes(&entry.data).expect("it was written by this crate");
    change
}

fn record(entry: &Entry) -> Record {
    let (kind, data) = match entry.get_entry_type() {
        EntryType::EntryNormal if entry.data.is_empty() => (Kind::Empty, Vec::new()),
        EntryType::EntryNormal => (Kind::Command, entry.data.to_vec()),
        _ => (Kind::Membership, Vec::new()),
    };
    Record { id: EntryId::new(Index(entry.index), Term(entry.term)), kind, data }
}

fn is_vote(kind: MessageType) -> bool {
    use MessageType::{
        MsgRequestPreVote, MsgRequestPreVoteResponse, MsgRequestVote, MsgRequestVoteResponse,
    };
    matches!(
        kind,
        MsgRequestVote | MsgRequestVoteResponse | MsgRequestPreVote | MsgRequestPreVoteResponse
    )
}

fn class(message: &Message) -> Class {
    let term = message.term;
    let kind = message.get_msg_type();
    let pre =
        matches!(kind, MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse);
    match kind {
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
            let last = EntryId::new(Index(message.index), Term(message.log_term));
            Class::VoteRequest { term, last, pre }
        }
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
            Class::VoteReply { term, pre, granted: !message.reject }
        }
        MessageType::MsgHeartbeat => Class::Lead { term, heartbeat: true },
        MessageType::MsgAppend | MessageType::MsgSnapshot => Class::Lead { term, heartbeat: false },
        _ => Class::Answer { term },
    }
}

impl Side for Theirs {
    fn name(&self) -> &'static str {
        "raft"
    }

    fn state(&self, node: u8) -> State {
        let raft = &self.node(node).raft;
        let role = match raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        };
        State { role, term: raft.term, vote: raft.vote as u8, lead: raft.leader_id as u8 }
    }

    fn last(&self, node: u8) -> EntryId {
        let (index, term) = self.node(node).store().last();
        EntryId::new(Index(index), Term(term))
    }

    fn commit(&self, node: u8) -> u64 {
        self.node(node).raft.raft_log.committed
    }

    fn applied(&self, node: u8) -> u64 {
        self.node(node).raft.raft_log.applied
    }

    fn membership(&self, node: u8) -> Membership {
        let members = self.node(node).raft.prs().conf().to_conf_state();
        let set = |ids: &[u64]| ids.iter().map(|n| id(*n as u8)).collect::<NodeSet>();
        Membership {
            voters: set(members.get_voters()),
            outgoing: set(members.get_voters_outgoing()),
            learners: set(members.get_learners()),
            learners_next: set(members.get_learners_next()),
            auto_leave: members.auto_leave,
        }
    }

    fn log(&self, node: u8) -> (EntryId, Vec<Record>) {
        let disk = self.node(node).store();
        let base = EntryId::new(Index(disk.base.0), Term(disk.base.1));
        (base, disk.entries.iter().map(record).collect())
    }

    fn campaign(&mut self, node: u8) {
        let _ = self.node_mut(node).campaign();
        self.work(node);
    }

    fn beat(&mut self, node: u8) {
        self.node_mut(node).ping();
        self.work(node);
    }

    fn propose(&mut self, node: u8, data: &[u8], lost: bool) {
        self.node_mut(node).propose(Vec::new(), data.to_vec()).expect("it leads");
        if lost {
            let messages = self.node_mut(node).ready().take_messages();
            self.send(node, messages);
            self.restart(node);
        } else {
            self.work(node);
        }
    }

    fn change(&mut self, node: u8, wish: &Wish) {
        let mut change = ConfChangeV2::default();
        change.set_transition(match wish.transition {
            Transition::Auto => ConfChangeTransition::Auto,
            Transition::Implicit => ConfChangeTransition::Implicit,
            Transition::Explicit => ConfChangeTransition::Explicit,
        });
        let step = |(what, who): &(What, u8)| {
            let mut step = ConfChangeSingle { node_id: u64::from(*who), ..Default::default() };
            step.set_change_type(match what {
                What::AddVoter => ConfChangeType::AddNode,
                What::AddLearner => ConfChangeType::AddLearnerNode,
                _ => ConfChangeType::RemoveNode,
            });
            step
        };
        change.set_changes(wish.steps.iter().map(step).collect::<Vec<_>>().into());
        self.node_mut(node).propose_conf_change(Vec::new(), change).expect("it leads");
        self.work(node);
    }

    fn restart(&mut self, node: u8) {
        let disk = self.node(node).store().clone();
        let fresh = start(&self.setup, node, disk);
        *self.node_mut(node) = fresh;
        self.work(node);
    }

    fn compact(&mut self, node: u8, kept: u64) {
        let disk = self.node_mut(node).mut_store();
        let upto = disk.applied.saturating_sub(kept);
        if upto <= disk.base.0 {
            return;
        }
        let term = disk.place(upto).map_or(disk.base.1, |entry| entry.term);
        disk.entries.retain(|entry| entry.index > upto);
        disk.base = (upto, term);
    }

    fn waiting(&self, from: u8, to: u8) -> Vec<Class> {
        self.links.get(&(from, to)).into_iter().flatten().map(class).collect()
    }

    fn take(&mut self, from: u8, to: u8) {
        self.hand = self.links.remove(&(from, to)).unwrap_or_default();
        self.given = vec![false; self.hand.len()];
    }

    fn give(&mut self, _from: u8, to: u8, number: usize) {
        self.given[number] = true;
        let message = self.hand[number].clone();
        // What comes from a stranger is refused.
        let _ = self.node_mut(to).step(message);
        self.work(to);
    }

    fn lose_rest(&mut self, from: u8, to: u8) {
        // Its links say when a snapshot did not arrive; without that it waits for ever.
        let lost = std::mem::take(&mut self.hand).into_iter().zip(std::mem::take(&mut self.given));
        for (message, given) in lost {
            if !given && message.get_msg_type() == MessageType::MsgSnapshot {
                self.node_mut(from).report_snapshot(u64::from(to), SnapshotStatus::Failure);
                self.work(from);
            }
        }
    }

    fn counts(&self) -> Counts {
        self.counts
    }

    fn applied_log(&self) -> &Applied {
        &self.applied
    }
}
