//! One node of a script: the protocol with its log, what its storage holds, and an application that appends
//! what it is handed. What goes in stands here, what comes of it in `ready`.
//!
//! What the protocol has to say is polled after each input and waits in the outbox until the script has the node's
//! ready processed; what has to be durable first is not there to be polled before that.

mod ready;

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
use super::storage::{Disk, Record};
use ready::Write;

/// Milliseconds of one tick.
const TICK_MS: u32 = 1_000;
/// Bytes of a node's log in RAM: more than any script fills.
const LOG_BYTES: usize = 1 << 16;

/// One node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) raft: Raft,
    pub(super) log: Box<Log>,
    events: Events,
    /// The election timeout in ticks: the script's, until the original would draw another, or what stands for that one.
    timeout: u32,
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
        let election_ms = u32::from(made.election_ticks) * TICK_MS;
        let options = Options {
            election_ms,
            heartbeat_ms: u32::from(made.heartbeat_ticks) * TICK_MS,
            pre_vote: made.pre_vote,
            check_quorum: made.check_quorum,
            step_down_on_removal: made.step_down_on_removal,
            check_changes: !made.changes_unchecked,
            // A lease is shorter than an election timeout.
            lease_ms: if made.lease_reads { election_ms - TICK_MS } else { 0 },
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
            timeout: 0,
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
        node.draw_timeout();
        node.keep_timeout();
        node
    }

    fn now(&self) -> Instant {
        Instant::from_millis(self.now_ms)
    }

    pub(super) fn campaign(&mut self) {
        self.raft.campaign(self.now(), &mut self.log, &mut self.events);
        self.poll();
    }

    pub(super) fn tick_election(&mut self) {
        self.tick(self.made.election_ticks);
    }

    pub(super) fn tick_heartbeat(&mut self) {
        self.tick(self.made.heartbeat_ticks);
    }

    pub(super) fn tick(&mut self, ticks: u16) {
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
        self.timeout = ticks;
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

    /// Looks at what has happened: has the node changed its role or term, or stood again?
    fn note_events(&mut self) -> bool {
        let mut became = false;
        while let Some(event) = self.events.pop() {
            if let Event::Became { role, .. } = event {
                became = true;
                // Whoever only asks keeps the timeout that it has.
                if role != Role::PreCandidate {
                    self.draw_timeout();
                }
            }
        }
        became
    }

    /// This core draws a timeout whenever its timer starts again, the original with role and term alone: whole ticks, less
    /// than twice the shortest. What it would draw no script can know; here each node has another in each term.
    fn draw_timeout(&mut self) {
        let shortest = u32::from(self.made.election_ticks);
        let term = u32::try_from(self.raft.term().0 % u64::from(shortest)).unwrap_or_default();
        self.timeout = shortest + (u32::from(self.id.get()) + term) % shortest;
    }

    fn keep_timeout(&mut self) {
        self.raft.set_election_timeout(self.timeout.saturating_mul(TICK_MS));
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
