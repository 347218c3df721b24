//! This project's protocol on a host that knows no time and writes to its disk at once.

use std::collections::BTreeMap;

use quorate::change::{Change, Step, Transition};
use quorate::entry::{Entries, Kind};
use quorate::event::{Event, Events};
use quorate::log::Log;
use quorate::membership::Membership;
use quorate::raft::{Options, Raft, Restored, Role, Stepped};
use quorate::wire::Message;
use quorate::{EntryId, Index, Instant, NodeId, NodeSet, Term};

use crate::side::{Applied, Class, Counts, Record, Setup, Side, State, Wish, id};

const LOG_BYTES: usize = 1 << 15;
/// More outputs in answer to one input are a loop without end.
const OUTPUTS_MAX: usize = 10_000;

/// What a cut of the power leaves.
#[derive(Clone, Default)]
struct Disk {
    term: Term,
    vote: Option<NodeId>,
    commit: Index,
    base: EntryId,
    entries: Vec<Record>,
    snapshot: EntryId,
    applied: Index,
    membership: Membership,
}

impl Disk {
    fn last(&self) -> EntryId {
        self.entries.last().map_or(self.base, |record| record.id)
    }
}

struct Node {
    raft: Raft,
    log: Box<Log>,
    now: Instant,
    events: Events,
    disk: Disk,
}

#[derive(Clone)]
struct Sent {
    message: Message,
    payload: Vec<u8>,
}

pub(crate) struct Ours {
    setup: Setup,
    nodes: Vec<Node>,
    links: BTreeMap<(u8, u8), Vec<Sent>>,
    hand: Vec<Sent>,
    /// Who was a member at each snapshot.
    snapshots: BTreeMap<u64, Membership>,
    applied: Applied,
    counts: Counts,
}

impl Ours {
    pub(crate) fn new(setup: Setup) -> Self {
        let disk = Disk { membership: setup.membership(), ..Disk::default() };
        let node = |_| Node {
            raft: Raft::new(),
            log: Box::new(Log::<[u8; LOG_BYTES]>::new()) as Box<Log>,
            now: Instant::ZERO,
            events: Events::new(),
            disk: disk.clone(),
        };
        let mut ours = Self {
            setup,
            nodes: (0..setup.nodes).map(node).collect(),
            links: BTreeMap::new(),
            hand: Vec::new(),
            snapshots: BTreeMap::new(),
            applied: Applied::default(),
            counts: Counts::default(),
        };
        (1..=setup.nodes).for_each(|n| ours.restart(n));
        ours
    }

    fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node) - 1]
    }

    fn node_mut(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node) - 1]
    }

    /// Everything that a node owes, to the end.
    fn work(&mut self, n: u8) {
        for _ in 0..OUTPUTS_MAX {
            if self.speak(n) || self.persist(n) || self.apply(n) {
                continue;
            }
            return self.hear_events(n);
        }
        self.applied.trouble.get_or_insert(format!("node {n} never ends"));
    }

    fn speak(&mut self, n: u8) -> bool {
        let append_bytes = self.setup.append_bytes;
        let Node { raft, log, disk, .. } = self.node_mut(n);
        if let Some(outgoing) = raft.poll_message(log) {
            let mut payload = Vec::new();
            if let Message::Append { prev, .. } = outgoing.message {
                let room = append_bytes.min(outgoing.entries_bytes_max);
                let (mut last, mut bytes) = log.fit(prev.index, outgoing.entries_upto, room);
                if last == prev.index && prev.index < outgoing.entries_upto {
                    // A single entry always goes.
                    (last, bytes) = log.fit(prev.index, prev.index.next(), usize::MAX);
                }
                payload.resize(bytes, 0);
                assert_eq!(log.copy(prev.index, last, &mut payload), Some(bytes));
                raft.sent(outgoing.to, last);
            }
            self.send(n, outgoing.to, outgoing.message, &payload);
            return true;
        }
        if let Some((to, offset)) = raft.poll_snapshot() {
            raft.snapshot_sent(to);
            let (term, id) = (raft.term(), disk.snapshot);
            let message = Message::Snapshot { term, id, offset, bytes: 1, check: 0 };
            self.send(n, NodeSet::one(to), message, &[]);
            return true;
        }
        false
    }

    fn send(&mut self, from: u8, to: NodeSet, mut message: Message, payload: &[u8]) {
        // Votes tell what is committed, each in other messages: left out (decision O1).
        if let Message::VoteRequest { commit, .. } | Message::VoteReply { commit, .. } =
            &mut message
        {
            *commit = EntryId::ZERO;
        }
        if matches!(message, Message::Append { .. } | Message::Heartbeat { .. }) {
            self.applied.leads(from, message.term().0);
        }
        for receiver in to.iter() {
            let sent = Sent { message, payload: payload.to_vec() };
            self.links.entry((from, receiver.get())).or_default().push(sent);
            self.counts.messages += 1;
        }
    }

    fn persist(&mut self, n: u8) -> bool {
        let Node { raft, log, now, events, disk } = self.node_mut(n);
        let hard = (raft.term(), raft.vote());
        let clean = (disk.term, disk.vote) == hard
            && disk.last() == log.last()
            && log.durable() == log.last().index
            && disk.base == log.base();
        disk.commit = raft.commit();
        if clean {
            return false;
        }
        (disk.term, disk.vote) = hard;
        log.write_begins(log.last().index);
        let replaced = log.base() != disk.base && !log.holds(disk.last());
        disk.base = log.base();
        disk.entries.retain(|record| record.id.index > log.base().index);
        let before = disk.entries.len();
        while disk.entries.last().is_some_and(|record| !log.holds(record.id)) {
            disk.entries.pop();
        }
        let truncated = disk.entries.len() < before && !replaced;
        let mut data = vec![0; LOG_BYTES];
        while disk.last().index < log.last().index {
            let index = disk.last().index.next();
            let (kind, term, len) = log.read(index, &mut data).expect("it is in the log");
            let id = EntryId::new(index, term);
            disk.entries.push(Record { id, kind, data: data[..len].to_vec() });
        }
        log.write_ends();
        raft.set_durable(*now, hard.0, hard.1, log, events);
        self.counts.truncations += u64::from(truncated);
        true
    }

    fn apply(&mut self, n: u8) -> bool {
        let Node { raft, log, now, events, disk } = self.node_mut(n);
        let next = raft.applied().next();
        if next > raft.commit().min(log.durable()) {
            return false;
        }
        let mut data = vec![0; LOG_BYTES];
        let (kind, term, len) = log.read(next, &mut data).expect("what is committed is here");
        data.truncate(len);
        raft.set_applied(next);
        if kind == Kind::Membership {
            // One that can't be made is none.
            let _ = raft.apply_change(*now, &data, log, events);
            data.clear();
        }
        (disk.applied, disk.membership) = (next, *raft.membership());
        let record = Record { id: EntryId::new(next, term), kind, data };
        self.applied.applies(n, &record);
        true
    }

    fn hear_events(&mut self, n: u8) {
        while let Some(event) = self.node_mut(n).events.pop() {
            if let Event::ImpossibleFrame { from } = event {
                let trouble = format!("node {n} takes a message of {from} for impossible");
                self.applied.trouble.get_or_insert(trouble);
            }
        }
    }

    fn install(&mut self, n: u8, snapshot: EntryId) {
        let membership = self.snapshots.get(&snapshot.index.0).copied();
        let Node { raft, log, disk, .. } = self.node_mut(n);
        let membership = membership.expect("a snapshot that was sent was taken");
        raft.restore(snapshot, membership, log);
        disk.snapshot = snapshot;
        (disk.applied, disk.membership) = (raft.applied(), membership);
        self.counts.snapshots += 1;
    }
}

/// Entries as they are compared.
fn shown(record: &Record) -> Record {
    let mut shown = record.clone();
    if shown.kind == Kind::Membership {
        shown.data.clear();
    }
    shown
}

impl Side for Ours {
    fn name(&self) -> &'static str {
        "quorate"
    }

    fn state(&self, node: u8) -> State {
        let raft = &self.node(node).raft;
        let number = |id: Option<NodeId>| id.map_or(0, NodeId::get);
        State {
            role: raft.role(),
            term: raft.term().0,
            vote: number(raft.vote()),
            lead: number(raft.lead()),
        }
    }

    fn last(&self, node: u8) -> EntryId {
        self.node(node).log.last()
    }

    fn commit(&self, node: u8) -> u64 {
        self.node(node).raft.commit().0
    }

    fn applied(&self, node: u8) -> u64 {
        self.node(node).raft.applied().0
    }

    fn membership(&self, node: u8) -> Membership {
        *self.node(node).raft.membership()
    }

    fn log(&self, node: u8) -> (EntryId, Vec<Record>) {
        let disk = &self.node(node).disk;
        (disk.base, disk.entries.iter().map(shown).collect())
    }

    fn memberships_ahead(&self, node: u8) -> Vec<Membership> {
        let Node { raft, disk, .. } = self.node(node);
        let mut ahead = vec![*raft.membership()];
        let pending = disk.entries.iter().filter(|record| record.id.index > raft.applied());
        for record in pending.filter(|record| record.kind == Kind::Membership) {
            let before = ahead.last().copied().unwrap_or_default();
            let change = Change::decode(&record.data);
            ahead.extend(change.and_then(|change| change.apply(&before)));
        }
        // A joint configuration is left in the end.
        let last = ahead.last().copied().unwrap_or_default();
        ahead.extend(last.changed(Transition::Auto, std::iter::empty()));
        ahead
    }

    fn campaign(&mut self, node: u8) {
        let Node { raft, log, now, events, .. } = self.node_mut(node);
        raft.campaign(*now, log, events);
        self.work(node);
    }

    fn beat(&mut self, node: u8) {
        let Node { raft, log, now, events, .. } = self.node_mut(node);
        if raft.role() == Role::Leader {
            *now = raft.deadline();
            raft.handle_timeout(*now, log, events);
            self.work(node);
        }
    }

    fn propose(&mut self, node: u8, data: &[u8], lost: bool) {
        let Node { raft, log, .. } = self.node_mut(node);
        raft.propose(Kind::Command, data, log).expect("the log is large enough");
        if lost {
            while self.speak(node) {}
            self.restart(node);
        } else {
            self.work(node);
        }
    }

    fn change(&mut self, node: u8, wish: &Wish) {
        let steps: Vec<_> =
            wish.steps.iter().map(|(what, who)| Step::new(*what, id(*who))).collect();
        let mut data = [0; 200];
        let len = match steps.is_empty() {
            true => 0,
            false => Change::encode(wish.transition, &steps, &mut data).expect("it is short"),
        };
        let Node { raft, log, .. } = self.node_mut(node);
        if let Err(refused) = raft.propose_change(&data[..len], log) {
            let trouble = format!("node {node} refuses {wish:?}: {refused:?}");
            self.applied.trouble.get_or_insert(trouble);
        }
        self.work(node);
    }

    fn restart(&mut self, node: u8) {
        let Setup { pre_vote, seed, .. } = self.setup;
        let Node { raft, log, now, events, disk } = self.node_mut(node);
        *events = Events::new();
        log.reset(disk.base);
        for record in &disk.entries {
            assert_eq!(log.append(record.id.term, record.kind, &record.data), Ok(record.id));
        }
        log.write_begins(log.last().index);
        log.write_ends();
        let options = Options {
            election_ms: 1000,
            heartbeat_ms: 100,
            pre_vote,
            // No time passes here that it could be measured by.
            check_quorum: false,
            lease_ms: 0,
            silent_ms: 0,
            step_down_on_removal: false,
            check_changes: true,
            seed,
        };
        let restored = Restored {
            term: disk.term,
            vote: disk.vote,
            commit: disk.commit,
            applied: disk.applied,
            membership: disk.membership,
        };
        raft.start(*now, id(node), options, &restored, log);
        raft.set_snapshot(disk.snapshot);
        self.work(node);
    }

    fn compact(&mut self, node: u8, kept: u64) {
        let Node { raft, log, disk, .. } = self.node_mut(node);
        let applied = raft.applied();
        let upto = Index(applied.0.saturating_sub(kept));
        if upto <= log.base().index {
            return;
        }
        let snapshot = EntryId::new(applied, log.term(applied).expect("what is applied is here"));
        disk.snapshot = snapshot;
        raft.set_snapshot(snapshot);
        log.compact(upto);
        let membership = disk.membership;
        self.snapshots.insert(applied.0, membership);
        self.work(node);
    }

    fn waiting(&self, from: u8, to: u8) -> Vec<Class> {
        let link = self.links.get(&(from, to)).into_iter().flatten();
        link.map(|sent| class(&sent.message)).collect()
    }

    fn take(&mut self, from: u8, to: u8) {
        self.hand = self.links.remove(&(from, to)).unwrap_or_default();
    }

    fn give(&mut self, from: u8, to: u8, number: usize) {
        let Sent { message, payload } = self.hand[number].clone();
        if let Message::Append { prev, .. } = message {
            assert!(Entries::new(prev, &payload).all(|entry| entry.is_ok()));
        }
        let Node { raft, log, now, events, .. } = self.node_mut(to);
        let stepped = raft.step(*now, id(from), &message, &payload, log, events);
        if let (Stepped::WantsSnapshot, Message::Snapshot { id, .. }) = (stepped, message) {
            self.install(to, id);
        }
        self.work(to);
    }

    fn lose_rest(&mut self, _from: u8, _to: u8) {
        self.hand.clear();
    }

    fn counts(&self) -> Counts {
        self.counts
    }

    fn applied_log(&self) -> &Applied {
        &self.applied
    }
}

fn class(message: &Message) -> Class {
    let term = message.term().0;
    match *message {
        Message::VoteRequest { last, pre, .. } => Class::VoteRequest { term, last, pre },
        Message::VoteReply { pre, granted, .. } => Class::VoteReply { term, pre, granted },
        Message::Heartbeat { reply, .. } => Class::Lead { term, heartbeat: reply },
        Message::Append { .. } | Message::Snapshot { .. } => Class::Lead { term, heartbeat: false },
        _ => Class::Answer { term },
    }
}
