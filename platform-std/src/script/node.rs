//! One node of a script: the protocol with its log, what its storage holds, and an application that appends
//! what it is handed.
//!
//! What the protocol has to say is polled after each input and waits in the outbox until the script has the node's
//! ready processed; what has to be durable first is not there to be polled before that.

use std::collections::VecDeque;

use quorate::entry::Kind;
use quorate::event::{Event, Events};
use quorate::log::Log;
use quorate::membership::Membership;
use quorate::raft::{ChangeRefused, Options, Outgoing, Raft, Restored, Role, Stepped};
use quorate::wire::Message;
use quorate::{EntryId, Index, Instant, NodeId, Term};

use super::command::AddNodes;
use super::message::{Content, InFlight, Snapshot};
use super::storage::{Disk, Record, entry_bytes, records};

/// Milliseconds of one tick; an election timeout has three, a heartbeat interval one.
const TICK_MS: u32 = 1_000;
/// Ticks of an election timeout.
pub(super) const ELECTION_TICKS: u32 = 3;
/// A lease is shorter than an election timeout.
const LEASE_MS: u32 = 2 * TICK_MS;
/// Bytes of a node's log in RAM: more than any script fills.
const LOG_BYTES: usize = 1 << 16;
/// A write that is waiting for the append thread.
struct Write {
    disk: Disk,
    /// A leader's snapshot that takes the place of everything.
    snapshot: Option<Snapshot>,
    /// The log knows of this write: what it holds is durable when it ends.
    marked: bool,
}

/// One node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) raft: Raft,
    pub(super) log: Box<Log>,
    events: Events,
    /// The script's election timeout, until the original would draw another.
    timeout_ms: Option<u32>,
    made: AddNodes,
    now_ms: u64,
    /// What storage holds, and what it was last told to hold.
    stored: Disk,
    told: Disk,
    /// What the application has come to.
    state: Snapshot,
    outbox: Vec<InFlight>,
    /// Entries up to here were handed to the application.
    handed_out: Index,
    /// A leader's snapshot, with storage writes that take their time.
    received: Option<Snapshot>,
    writes: VecDeque<Write>,
    applies: VecDeque<Vec<Record>>,
}

impl Node {
    pub(super) fn new(id: NodeId, made: &AddNodes) -> Self {
        let mut log: Box<Log> = Box::new(Log::<[u8; LOG_BYTES]>::new());
        let begin = match made.index {
            0 => EntryId::ZERO,
            index => EntryId::new(Index(index), Term(1)),
        };
        log.reset(begin);
        let membership = Membership {
            learners: made.learners.iter().copied().collect(),
            ..Membership::of_voters(made.voters.iter().copied().collect())
        };
        let options = Options {
            election_ms: ELECTION_TICKS * TICK_MS,
            heartbeat_ms: TICK_MS,
            pre_vote: made.pre_vote,
            check_quorum: made.check_quorum,
            step_down_on_removal: made.step_down_on_removal,
            check_changes: !made.changes_unchecked,
            lease_ms: if made.lease_reads { LEASE_MS } else { 0 },
            silent_ms: 0,
            seed: 1,
        };
        let restored = Restored {
            term: Term::ZERO,
            vote: None,
            commit: begin.index,
            applied: begin.index,
            membership,
        };
        let mut raft = Raft::new();
        raft.start(Instant::ZERO, id, options, &restored, &log);
        let content = made.content.clone().into_bytes();
        let state = Snapshot { id: begin, membership, content };
        let mut node = Self {
            id,
            raft,
            log,
            events: Events::new(),
            timeout_ms: None,
            made: made.clone(),
            now_ms: 0,
            stored: Disk::default(),
            told: Disk::default(),
            state,
            outbox: Vec::new(),
            handed_out: begin.index,
            received: None,
            writes: VecDeque::new(),
            applies: VecDeque::new(),
        };
        node.told = node.image();
        node.stored = node.told.clone();
        node
    }

    fn now(&self) -> Instant {
        Instant::from_millis(self.now_ms)
    }

    pub(super) fn campaign(&mut self) {
        self.raft.campaign(self.now(), &mut self.log, &mut self.events);
        self.poll();
    }

    pub(super) fn tick(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.now_ms += u64::from(TICK_MS);
            let said = self.outbox.len();
            self.raft.handle_timeout(self.now(), &mut self.log, &mut self.events);
            // A candidate that does not stand anew repeats itself, for links that lose frames; the original does not.
            let stood = self.note_events();
            self.poll();
            let mut new = self.outbox.split_off(said);
            new.retain(|sent| stood || !sent.asks_for_a_vote());
            self.outbox.append(&mut new);
        }
    }

    pub(super) fn report_unreachable(&mut self, id: NodeId) {
        self.raft.report_unreachable(id);
        self.poll();
    }

    pub(super) fn set_election_timeout(&mut self, ticks: u32) {
        self.timeout_ms = Some(ticks.saturating_mul(TICK_MS));
        self.keep_timeout();
    }

    pub(super) fn transfer_leadership(&mut self, to: NodeId) -> Result<(), String> {
        let wished = self.raft.transfer_leader(self.now(), to);
        self.poll();
        wished.map_err(|why| format!("refused: {why}"))
    }

    pub(super) fn forget_leader(&mut self) -> Result<(), String> {
        let forgot = self.raft.forget_leader();
        self.poll();
        let why = "refused: no follower, or leases count on it";
        if forgot { Ok(()) } else { Err(why.into()) }
    }

    /// Sends the newest snapshot, whoever needs it.
    pub(super) fn send_snapshot(&mut self, to: NodeId) -> InFlight {
        self.snapshot_to(to)
    }

    /// Storage drops the entries up to `index`.
    pub(super) fn compact(&mut self, index: Index) -> Result<(), &'static str> {
        if index <= self.log.base().index {
            return Err("these entries are compacted already");
        }
        if index > self.state.id.index || index > self.log.durable() {
            return Err("these entries are not all applied and durable");
        }
        self.log.compact(index);
        self.stored.compact(index);
        self.told.compact(index);
        self.writes.iter_mut().for_each(|write| write.disk.compact(index));
        Ok(())
    }

    /// Proposes a command, or hands it on to the leader.
    pub(super) fn propose(&mut self, kind: Kind, data: &[u8]) -> Result<(), String> {
        let dropped = || DROPPED.to_owned();
        let proposed = match (self.raft.role(), self.raft.lead()) {
            (Role::Leader, _) if kind == Kind::Membership => self.propose_change(data),
            (Role::Leader, _) => {
                self.raft.propose(kind, data, &mut self.log).map(drop).map_err(|_| dropped())
            }
            (Role::Follower, Some(lead)) => {
                let content = Content::Proposal { kind, data: data.to_vec() };
                self.outbox.push(InFlight { from: self.id, to: lead, content });
                Ok(())
            }
            _ => Err(dropped()),
        };
        self.poll();
        proposed
    }

    /// A change that is refused leaves an empty entry in its place (CC3).
    fn propose_change(&mut self, data: &[u8]) -> Result<(), String> {
        match self.raft.propose_change(data, &mut self.log) {
            Ok(_) => Ok(()),
            Err(ChangeRefused::Propose(_)) => Err(DROPPED.into()),
            Err(refused) => {
                let why = match refused {
                    ChangeRefused::Change(why) => why.to_string(),
                    _ => "an earlier change may not be applied yet".into(),
                };
                let empty = self.raft.propose(Kind::Command, &[], &mut self.log);
                empty.map_err(|_| DROPPED)?;
                Err(format!("refused, an empty entry takes its place: {why}"))
            }
        }
    }

    /// A message arrives.
    pub(super) fn step(&mut self, from: NodeId, content: Content) -> Result<(), String> {
        let now = self.now();
        let mut result = Ok(());
        match content {
            Content::Message { message, .. } if self.is_answer_of_a_stranger(from, &message) => {
                result = Err(format!("an answer of {from}, which is no member here, is not taken"));
            }
            Content::Message { message, payload } => {
                let (log, events) = (&mut self.log, &mut self.events);
                let _ = self.raft.step(now, from, &message, &payload, log, events);
            }
            Content::Snapshot { message, snapshot } => {
                let (log, events) = (&mut self.log, &mut self.events);
                let stepped = self.raft.step(now, from, &message, &[], log, events);
                // A snapshot that this node has no part in would leave it without a say (SN4).
                if stepped == Stepped::WantsSnapshot
                    && snapshot.membership.members().contains(self.id)
                {
                    if self.made.async_writes {
                        self.received = Some(snapshot);
                    } else {
                        self.install(snapshot);
                    }
                }
            }
            Content::Proposal { kind, data } => result = self.propose(kind, &data),
            Content::Applied { index } => self.raft.set_applied(index),
        }
        self.poll();
        result
    }

    fn is_answer_of_a_stranger(&self, from: NodeId, message: &Message) -> bool {
        let answers = matches!(
            message,
            Message::Reply { .. } | Message::VoteReply { .. } | Message::SnapshotReply { .. }
        );
        answers && !self.raft.membership().members().contains(from)
    }

    fn install(&mut self, snapshot: Snapshot) {
        self.raft.restore(snapshot.id, snapshot.membership, &mut self.log);
        self.handed_out = snapshot.id.index;
        self.state = snapshot;
    }

    fn set_durable(&mut self, term: Term, vote: Option<NodeId>) {
        let (now, log) = (self.now(), &mut self.log);
        self.raft.set_durable(now, term, vote, log, &mut self.events);
    }

    /// Has this node anything to write, send or apply?
    pub(super) fn has_ready(&mut self) -> bool {
        !self.outbox.is_empty() || self.has_to_write() || self.handed_out < self.appliable()
    }

    /// Does a thread of this node have work?
    pub(super) fn has_thread_work(&self) -> bool {
        !self.writes.is_empty() || !self.applies.is_empty()
    }

    fn has_to_write(&mut self) -> bool {
        // What a snapshot on its way to storage is to replace is not written.
        if self.writes.iter().any(|write| write.snapshot.is_some()) {
            return false;
        }
        // The log does not know of a write that began while another was on its way: it is repeated.
        let untold = self.writes.is_empty() && self.log.durable() < self.log.last().index;
        let image = self.image();
        self.received.is_some() || untold || self.told != image
    }

    fn appliable(&self) -> Index {
        self.raft.commit().min(match self.made.async_writes {
            true => self.log.durable(),
            // Written before it is applied.
            false => self.log.last().index,
        })
    }

    /// Writes, sends and applies what is there now, in this order; what comes of that is for the next time.
    pub(super) fn process_ready(&mut self) -> Vec<InFlight> {
        let sent = if self.made.async_writes { self.begin_writes() } else { self.write_at_once() };
        self.poll();
        sent
    }

    fn write_at_once(&mut self) -> Vec<InFlight> {
        let leads = self.raft.role() == Role::Leader;
        let applies = self.next_to_apply();
        // Nobody waits for a commit index to be written.
        let hard_state = (self.raft.term(), self.raft.vote());
        let awaited = self.log.durable() < self.log.last().index
            || (self.told.term, self.told.vote) != hard_state;
        if self.has_to_write() {
            self.log.write_begins(self.log.last().index);
            self.told = self.image();
            self.stored = self.told.clone();
            self.log.write_ends();
        }
        let mut sent = std::mem::take(&mut self.outbox);
        let (term, vote) = (self.told.term, self.told.vote);
        // A leader counts its own write after the messages of before have left, all others answer with it.
        if awaited && !leads {
            self.set_durable(term, vote);
            self.poll();
            if self.raft.role() != Role::Leader {
                sent.append(&mut self.outbox);
            }
        }
        for record in applies {
            self.raft.set_applied(record.id.index);
            self.apply(record);
        }
        if awaited && leads {
            self.set_durable(term, vote);
        }
        sent
    }

    fn begin_writes(&mut self) -> Vec<InFlight> {
        if self.has_to_write() {
            // The log knows of one write at a time, as a flash log does.
            let marked = self.writes.is_empty() && self.received.is_none();
            if marked {
                self.log.write_begins(self.log.last().index);
            }
            let snapshot = self.received.take();
            let disk = match &snapshot {
                Some(snapshot) => self.image().restored(snapshot.id),
                None => self.image(),
            };
            self.told = disk.clone();
            self.writes.push_back(Write { disk, snapshot, marked });
        }
        let applies = self.next_to_apply();
        if !applies.is_empty() {
            self.applies.push_back(applies);
        }
        std::mem::take(&mut self.outbox)
    }

    /// The oldest write is done: what was waiting for it is said. `None` if there is none.
    pub(super) fn process_append(&mut self) -> Option<Vec<InFlight>> {
        let write = self.writes.pop_front()?;
        if write.marked {
            self.log.write_ends();
        }
        if let Some(snapshot) = write.snapshot
            && snapshot.id.index > self.raft.commit()
        {
            self.install(snapshot);
        }
        self.stored = write.disk;
        let said = self.outbox.len();
        self.set_durable(self.stored.term, self.stored.vote);
        self.poll();
        // What a leader has to say of it waits for its turn.
        let leads = self.raft.role() == Role::Leader;
        Some(if leads { Vec::new() } else { self.outbox.split_off(said) })
    }

    /// The oldest entries that were handed out are applied; what the node is to hear of it.
    pub(super) fn process_apply(&mut self) -> Option<InFlight> {
        let records = self.applies.pop_front()?;
        let index = records.last()?.id.index;
        records.into_iter().for_each(|record| self.apply(record));
        self.poll();
        Some(InFlight { from: self.id, to: self.id, content: Content::Applied { index } })
    }

    fn next_to_apply(&mut self) -> Vec<Record> {
        let (from, to) = (self.handed_out, self.appliable());
        let limit = self.made.committed_bytes_max;
        let mut bytes = 0;
        let within = |record: &Record| {
            let first = bytes == 0;
            bytes += entry_bytes(record);
            limit == 0 || first || bytes <= limit
        };
        let committed = |record: &Record| record.id.index > from && record.id.index <= to;
        let records: Vec<Record> =
            records(&mut self.log).into_iter().filter(committed).take_while(within).collect();
        self.handed_out = records.last().map_or(from, |record| record.id.index);
        records
    }

    fn apply(&mut self, record: Record) {
        match record.kind {
            Kind::Membership => {
                // One that can't be made has no effect.
                let (now, log, events) = (self.now(), &mut self.log, &mut self.events);
                let _ = self.raft.apply_change(now, &record.data, log, events);
                self.state.membership = *self.raft.membership();
            }
            Kind::Command | Kind::Once => self.state.content.extend(&record.data),
            Kind::Empty => {}
        }
        self.state.id = record.id;
    }

    /// The node's state in a line, as scripts have it.
    pub(super) fn state_text(&self) -> String {
        let raft = &self.raft;
        let vote = if raft.membership().voters().contains(self.id) { "Voter" } else { "Non-Voter" };
        let lead = raft.lead().map_or(0, NodeId::get);
        format!("{}: State{:?} ({vote}) Term:{} Lead:{lead}", self.id, raft.role(), raft.term())
    }

    /// The log in storage, an entry in a line, as scripts have it.
    pub(super) fn log_text(&self) -> Vec<String> {
        self.stored.text()
    }

    /// What storage would have to hold now.
    fn image(&mut self) -> Disk {
        Disk::of(&self.raft, &mut self.log)
    }

    /// Looks at what has happened: has the node changed its role or term, or stood again?
    fn note_events(&mut self) -> bool {
        let mut became = false;
        while let Some(event) = self.events.pop() {
            if let Event::Became { role, .. } = event {
                became = true;
                // Whoever only asks keeps the timeout that it has.
                self.timeout_ms = self.timeout_ms.filter(|_| role == Role::PreCandidate);
            }
        }
        became
    }

    /// This core draws a timeout whenever its timer starts again, the original with role and term alone.
    fn keep_timeout(&mut self) {
        if let Some(timeout_ms) = self.timeout_ms {
            self.raft.set_election_timeout(timeout_ms);
        }
    }

    /// Takes what the protocol has to say into the outbox.
    fn poll(&mut self) {
        self.note_events();
        self.keep_timeout();
        // A snapshot is made when it is asked for, of what has been applied.
        self.raft.set_snapshot(self.state.id);
        loop {
            if let Some(outgoing) = self.raft.poll_message(&mut self.log) {
                self.put_out(outgoing);
            } else if let Some((to, _)) = self.raft.poll_snapshot() {
                self.raft.snapshot_sent(to);
                let sent = self.snapshot_to(to);
                self.outbox.push(sent);
            } else {
                break;
            }
        }
    }

    fn put_out(&mut self, outgoing: Outgoing) {
        let mut payload = Vec::new();
        if let Message::Append { prev, .. } = outgoing.message {
            let max = outgoing.entries_bytes_max;
            let (last, bytes) = self.log.fit(prev.index, outgoing.entries_upto, max);
            payload.resize(bytes, 0);
            let copied = self.log.copy(prev.index, last, &mut payload);
            debug_assert_eq!(copied, Some(bytes));
            self.raft.sent(outgoing.to, last);
        }
        for to in outgoing.to.iter() {
            let content = Content::Message { message: outgoing.message, payload: payload.clone() };
            self.outbox.push(InFlight { from: self.id, to, content });
        }
    }

    fn snapshot_to(&self, to: NodeId) -> InFlight {
        let snapshot = self.state.clone();
        let message = Message::Snapshot {
            term: self.raft.term(),
            id: snapshot.id,
            offset: 0,
            bytes: snapshot.content.len() as u32,
            check: 0,
        };
        InFlight { from: self.id, to, content: Content::Snapshot { message, snapshot } }
    }
}

/// A proposal that nobody takes.
const DROPPED: &str = "error: raft proposal dropped";
