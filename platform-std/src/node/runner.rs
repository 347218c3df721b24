//! The task that owns a node: sockets and handles bring it frames and requests, it answers, sends, and has the flash thread
//! write, each by a queue that is bounded.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use quorate::event::Event;
use quorate::membership::Member;
use quorate::node::{Node, Output};
use quorate::raft::{Role, TransferRefused};
use quorate::typed::{Command, ConfigMap, MapLimits, Outcome, serve};
use quorate::{EntryId, Instant, NodeId, NodeSet};
use tokio::sync::{broadcast, mpsc};

use super::address;
use super::events::{self, is_noteworthy};
use super::flash_thread::FlashThread;
use super::handle::{Consistency, Notice, ReadError, Request};
use super::link::{Arrived, Links};
use super::points::{Point, Points};
use super::question::{Answer, Leader, Question};
use super::reads::{self, Reads};
use super::report::{Counts, MemberReport, Report};
use super::sizes;
use super::writes::Writes;
use crate::fit;

/// What is taken from a queue at once, before the node is asked what it owes: one write to flash is for all of it.
const BATCH: usize = 512;
/// How often it is looked for what has waited too long.
const SWEEP_EVERY: Duration = Duration::from_millis(50);
const MEMBERS_AGAIN: Duration = Duration::from_millis(500);
/// The number of the empty question, where the members are: no write has it.
const MEMBERS_QUESTION: u64 = u64::MAX;
/// So soon a node that joins has its place, if all is well.
const PLACE_WITHIN: Duration = Duration::from_secs(5);
/// Changes that a slow watcher may be behind.
const NOTICES_MAX: usize = 4096;
/// Writes and reads that wait for the cluster; what comes then has to wait in front of the door.
const UNDER_WAY_MAX: usize = 16_384;

/// Tag and schema of a command stand before it (`quorate::typed`).
const COMMAND_HEAD_BYTES: usize = 3;

/// Why a node does not run any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// It was asked to.
    #[error("stopped")]
    Stopped,
    /// It was taken out of the cluster.
    #[error("this node is no member of the cluster any more")]
    Removed,
    /// The disk failed. Nothing that was acknowledged is lost, unless the disk lost it.
    #[error("the disk failed, so this node stops: {0}")]
    Disk(#[source] io::Error),
    /// The core has stopped.
    #[error("{0}")]
    Fault(String),
}

/// The parts of a node that runs.
pub(super) struct Runner {
    pub(super) own: NodeId,
    pub(super) node: Box<Node>,
    pub(super) map: Box<ConfigMap>,
    /// What it may hold, if that does not follow from the cluster's limits.
    pub(super) map_limits: Option<MapLimits>,
    pub(super) schema: u16,
    /// What it holds, for handles.
    pub(super) longest: Arc<RwLock<MapLimits>>,
    pub(super) links: Links,
    pub(super) flash: FlashThread,
    pub(super) arrivals: mpsc::Receiver<Arrived>,
    pub(super) requests: mpsc::Receiver<Request>,
    /// Where members are that the membership has no address of.
    pub(super) static_peers: Vec<(NodeId, SocketAddr)>,
    pub(super) began: std::time::Instant,
    pub(super) election_ms: u32,
    pub(super) frame: Vec<u8>,
    /// Empty while the flash thread has it.
    pub(super) buffer: Vec<u8>,
    pub(super) points: Points,
    pub(super) state: State,
}

/// What the runner itself has to remember.
pub(super) struct State {
    writes: Writes,
    reads: Reads,
    notices: broadcast::Sender<Notice>,
    counts: Counts,
    /// Since when flash is at an operation.
    flash_since: Option<std::time::Instant>,
    /// Peers that a link did not take a frame for since they were told of last.
    dropped: NodeSet,
    was_member: bool,
    /// The members that links know of.
    members: Vec<Member>,
    /// Who says that it is none any more.
    removed_by: NodeSet,
    /// Who asks for a place again and again, and was told of.
    knocked: NodeSet,
    /// It has no place here any more, and goes when the others know.
    leaves_at: Option<Instant>,
    /// The core has stopped; it has flash remember why.
    fault: Option<String>,
    ended: Option<Ended>,
    swept: std::time::Instant,
    /// It has said that it waits for its place.
    told_to_wait: bool,
    asked_for_members: std::time::Instant,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            writes: Writes::default(),
            reads: Reads::default(),
            notices: broadcast::channel(NOTICES_MAX).0,
            counts: Counts::default(),
            flash_since: None,
            dropped: NodeSet::EMPTY,
            was_member: false,
            members: Vec::new(),
            removed_by: NodeSet::EMPTY,
            knocked: NodeSet::EMPTY,
            leaves_at: None,
            fault: None,
            ended: None,
            swept: std::time::Instant::now(),
            told_to_wait: false,
            asked_for_members: std::time::Instant::now(),
        }
    }
}

impl Runner {
    fn now(&self) -> Instant {
        Instant::from_millis(self.began.elapsed().as_millis() as u64)
    }

    /// Runs the node to its end.
    pub(super) async fn run(mut self) -> Ended {
        self.links.set_peers(&self.static_peers);
        let ended = loop {
            let until = self.turn();
            if let Some(ended) = self.state.ended.take() {
                break ended;
            }
            self.wait(until).await;
        };
        // An operation that is under way comes to its end before the file is given up.
        if self.state.flash_since.is_some() {
            self.flash.done().await;
        }
        ended
    }

    /// Does all that can be done now; until when.
    fn turn(&mut self) -> Instant {
        let now = self.now();
        self.node.handle_timeout(now);
        let mut until = self.poll(now);
        let leader = self.leader();
        let State { writes, reads, counts, .. } = &mut self.state;
        reads.advance(&mut self.node, now);
        writes.advance(&mut self.node, &mut self.links, leader, now, counts);
        // What they have brought goes out at once.
        until = until.min(self.poll(now));
        for peer in std::mem::replace(&mut self.state.dropped, NodeSet::EMPTY).iter() {
            self.node.handle_unreachable(peer);
        }
        self.look_for_the_end(now);
        self.sweep();
        until
    }

    /// Takes everything that the node has to say.
    fn poll(&mut self, now: Instant) -> Instant {
        let until = loop {
            if !self.links.has_room() {
                break now.after(SWEEP_EVERY.as_millis() as u32);
            }
            let output = self.node.poll_output(now, &mut self.frame, &mut self.buffer);
            match output {
                Output::Wait { until } => break until,
                Output::Flash(op) => {
                    self.state.flash_since = Some(std::time::Instant::now());
                    self.points.begins(op, &self.buffer, self.node.status().applied);
                    self.flash.begin(op, std::mem::take(&mut self.buffer));
                }
                Output::Transmit { to, len } => {
                    self.points.pass(match self.node.status().role {
                        Role::Leader => Point::BeforeLeaderSend,
                        _ => Point::BeforeFollowerSend,
                    });
                    // Who asks for a place asks all numbers that there are.
                    let members = self.node.raft().membership().members();
                    let left = self.links.send(to, &self.frame[..len]).intersection(members);
                    self.state.counts.frames_sent += (to.len() - left.len()) as u64;
                    self.state.counts.frames_dropped += left.len() as u64;
                    self.state.dropped = self.state.dropped.union(left);
                }
                Output::Apply { id, len } => {
                    self.points.pass(Point::BeforeApply);
                    serve(&mut self.node, &mut *self.map, &output, &self.frame, &mut self.buffer);
                    if let Some(outcome) = self.map.outcome(id) {
                        self.state.counts.applied += 1;
                        self.state.writes.applied(id, outcome, &mut self.state.counts);
                    }
                    self.notify(id, len);
                    self.points.pass(Point::AfterApply);
                }
                Output::ReadReady(id) => {
                    self.state.reads.ready(id, &self.map, &mut self.state.counts);
                }
                Output::Proposed { id, outcome } => {
                    self.state.writes.core_answered(id, outcome, &mut self.state.counts);
                }
                Output::Event(event) => self.happened(now, &event),
                Output::TakeSnapshot { .. } | Output::RestoreSnapshot { .. } => {
                    if matches!(output, Output::RestoreSnapshot { offset: 0, .. }) {
                        self.points.restores(Point::BeforeRestore);
                    }
                    serve(&mut self.node, &mut *self.map, &output, &self.frame, &mut self.buffer);
                    if matches!(output, Output::RestoreSnapshot { last: true, .. }) {
                        let revision = self.map.revision();
                        // Nobody may be watching.
                        let _ = self.state.notices.send(Notice::Everything { revision });
                        self.points.restores(Point::AfterRestore);
                    }
                }
            }
        };
        let status = self.node.status();
        let State { writes, counts, .. } = &mut self.state;
        writes.applied_up_to(status.applied, &status.membership, counts);
        // While a snapshot is restored some of them are not known yet.
        if status.running && self.node.members() != self.state.members {
            self.state.members = self.node.members().to_vec();
            self.set_peers();
        }
        until
    }

    /// Waits for whatever comes first, and takes what else is there by then.
    async fn wait(&mut self, until: Instant) {
        let now = self.now();
        let mut ms = until.since(now);
        if self.state.writes.len() + self.state.reads.len() > 0 || self.state.leaves_at.is_some() {
            ms = ms.min(SWEEP_EVERY.as_millis() as u64);
        }
        // An hour is as good as for ever.
        let sleep = Duration::from_millis(ms.min(3_600_000));
        let room = UNDER_WAY_MAX.saturating_sub(self.state.writes.len() + self.state.reads.len());
        tokio::select! {
            done = self.flash.done(), if self.state.flash_since.is_some() => self.flash_done(done),
            Some(arrived) = self.arrivals.recv() => self.arrived(arrived),
            request = self.requests.recv(), if room > 0 => match request {
                Some(request) => self.requested(request),
                None => self.state.ended = Some(Ended::Stopped),
            },
            () = self.links.room(), if !self.links.has_room() => {}
            () = tokio::time::sleep(sleep) => {}
        }
        if self.state.flash_since.is_some()
            && let Some(done) = self.flash.try_done()
        {
            self.flash_done(done);
        }
        for _ in 0..BATCH {
            let Ok(arrived) = self.arrivals.try_recv() else { break };
            self.arrived(arrived);
        }
        for _ in 0..BATCH.min(room.saturating_sub(1)) {
            let Ok(request) = self.requests.try_recv() else { break };
            self.requested(request);
        }
    }

    fn flash_done(&mut self, done: super::flash_thread::Done) {
        let took = self.state.flash_since.take().map(|since| since.elapsed()).unwrap_or_default();
        let counts = &mut self.state.counts;
        counts.flash_seconds += took.as_secs_f64();
        counts.flash_syncs = done.figures.syncs;
        counts.flash_bytes = done.figures.bytes_written;
        counts.flash_erases = done.figures.erases;
        match done.done {
            Ok(ended) => {
                self.points.done();
                self.buffer = done.buffer;
                self.node.handle_flash(self.now(), ended);
            }
            // Nothing is known of what the disk holds: not one more word (fail-stop).
            Err(error) => self.state.ended = Some(Ended::Disk(error)),
        }
    }

    fn arrived(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Frame(frame) => {
                self.state.counts.frames_received += 1;
                self.node.handle_frame(self.now(), &frame);
            }
            Arrived::Asked(asked) if asked.body.is_empty() => {
                let members = self.members_with_addresses();
                asked.answer(postcard::to_allocvec(&members).unwrap_or_default());
            }
            Arrived::Asked(asked) => {
                let answer = match Question::decode(&asked.body) {
                    Some(question) => question.place(&mut self.node),
                    None => Answer::Refused("the question can't be read".into()),
                };
                asked.answer(answer.encode());
            }
            Arrived::Answered(MEMBERS_QUESTION, body) => self.members_told(&body),
            Arrived::Answered(number, body) => {
                let answer = Answer::decode(&body);
                let answer = answer.unwrap_or(Answer::Refused("the answer can't be read".into()));
                let applied = self.node.status().applied;
                let State { writes, counts, .. } = &mut self.state;
                writes.leader_answered(number, answer, applied, counts);
            }
            Arrived::Unreachable(peer) => {
                self.node.handle_unreachable(peer);
                self.state.writes.lost(peer, &mut self.state.counts);
            }
            Arrived::Removed(by) => self.removed_by(by),
        }
    }

    /// A node that has no place yet asks those that it knows where the others are: the one that leads may be among them.
    fn look_for_members(&mut self) {
        if self.node.status().running || self.state.asked_for_members.elapsed() < MEMBERS_AGAIN {
            return;
        }
        self.state.asked_for_members = std::time::Instant::now();
        for (id, _) in &self.static_peers {
            self.links.ask(*id, MEMBERS_QUESTION, Vec::new());
        }
    }

    fn members_told(&mut self, body: &[u8]) {
        let members: Vec<(NodeId, SocketAddr)> = postcard::from_bytes(body).unwrap_or_default();
        if self.node.status().running {
            return;
        }
        for (id, address) in members {
            if id != self.own && self.static_peers.iter().all(|(known, _)| *known != id) {
                self.static_peers.push((id, address));
            }
        }
        self.set_peers();
    }

    /// A follower that is taken out often never hears of it from the core: the leader has stopped talking to it. One member may
    /// be mistaken; most of them are not.
    fn removed_by(&mut self, member: NodeId) {
        let others = self.node.status().membership.members().difference(NodeSet::one(self.own));
        if others.contains(member) && !self.state.removed_by.contains(member) {
            self.state.removed_by.insert(member);
            tracing::warn!("node {member} says that this node was taken out of the cluster");
        }
        if 2 * self.state.removed_by.intersection(others).len() > others.len() {
            self.state.ended.get_or_insert(Ended::Removed);
        }
    }

    fn requested(&mut self, request: Request) {
        // Who asked may be gone: then nobody wants the answer.
        match request {
            Request::Write(write) => self.state.writes.put(write),
            Request::Read(read, Consistency::Linearizable) => self.state.reads.put(read),
            Request::Read(read, Consistency::Local) if !self.node.status().running => {
                // What is restored so far is no state of any moment.
                let _ = read.answer.send(Err(ReadError::NotReady));
            }
            Request::Read(read, Consistency::Local) => {
                self.state.counts.reads_local += 1;
                reads::answer(read, &self.map);
            }
            Request::Watch(answer) => {
                let _ = answer.send((self.map.revision(), self.state.notices.subscribe()));
            }
            Request::Transfer(to, answer) => {
                // A follower hands the wish on, and would hear of no refusal.
                let transferred = match self.node.status() {
                    status if status.running && !status.membership.voters().contains(to) => {
                        Err(TransferRefused::NotVoter)
                    }
                    _ => self.node.transfer_leader(self.now(), to),
                };
                let _ = answer.send(transferred.map_err(|error| error.to_string()));
            }
            Request::Status(answer) => {
                let _ = answer.send(self.report());
            }
            Request::Image(answer) => self.flash.copy(answer),
            Request::Stop => self.state.ended = Some(Ended::Stopped),
        }
    }

    fn leader(&self) -> Leader {
        let status = self.node.status();
        match (status.running, status.role, status.leader) {
            (false, ..) => Leader::None,
            (_, Role::Leader, _) => Leader::Here,
            (.., Some(leader)) => Leader::There(leader),
            (.., None) => Leader::None,
        }
    }

    /// Who asks for a place does so each second: that is told once, until the members are others.
    fn is_news(&mut self, event: &Event) -> bool {
        let knocked = &mut self.state.knocked;
        match event {
            Event::Knocks { id } | Event::NoQuorumWithout { id } if knocked.contains(*id) => false,
            Event::Knocks { id } | Event::NoQuorumWithout { id } => {
                knocked.insert(*id);
                true
            }
            Event::MembershipChanged { .. } => {
                *knocked = NodeSet::EMPTY;
                true
            }
            _ => true,
        }
    }

    fn happened(&mut self, now: Instant, event: &Event) {
        if is_noteworthy(event) && self.is_news(event) {
            tracing::info!("{}", events::in_words(event));
        } else {
            tracing::debug!("{event:?}");
        }
        let counts = &mut self.state.counts;
        match event {
            Event::FrameRefused { .. } => counts.frames_refused += 1,
            // Now it is known how large the map has to be.
            Event::Admitted { .. } if self.map_limits.is_none() => {
                let limits = sizes::map_limits(self.node.limits());
                self.map = fit::new_map(limits, self.schema);
                *self.longest.write().unwrap_or_else(PoisonError::into_inner) = limits;
            }
            Event::SnapshotTaken { .. } => counts.snapshots_taken += 1,
            Event::SnapshotInstalled { id } => {
                counts.snapshots_installed += 1;
                self.state.writes.restored(id.index, counts);
            }
            Event::MembershipChanged { membership } => {
                if membership.members().contains(self.own) {
                    self.state.leaves_at = None;
                } else if self.state.was_member {
                    // The others are to learn of it from this node, if it led.
                    let leaves_at = now.after(self.election_ms.saturating_mul(2));
                    self.state.leaves_at.get_or_insert(leaves_at);
                }
            }
            Event::Stopped(fault) => {
                self.state.fault = Some(events::fault_in_words(fault));
            }
            _ => {}
        }
        self.state.was_member |= self.node.status().membership.members().contains(self.own);
    }

    fn look_for_the_end(&mut self, now: Instant) {
        let State { leaves_at, fault, ended, flash_since, .. } = &mut self.state;
        if leaves_at.is_some_and(|at| now >= at) {
            ended.get_or_insert(Ended::Removed);
        }
        if flash_since.is_none()
            && let Some(fault) = fault.take()
        {
            ended.get_or_insert(Ended::Fault(fault));
        }
    }

    fn sweep(&mut self) {
        if self.state.swept.elapsed() >= SWEEP_EVERY {
            self.state.swept = std::time::Instant::now();
            let State { writes, reads, counts, .. } = &mut self.state;
            let now = tokio::time::Instant::now();
            writes.sweep(now, counts);
            reads.sweep(&mut self.node, now);
            self.tell_who_waits();
            self.look_for_members();
        }
    }

    /// A node that nobody lets in would be silent for ever.
    fn tell_who_waits(&mut self) {
        let status = self.node.status();
        let waits = !status.running && !status.membership.members().contains(self.own);
        if waits && !self.state.told_to_wait && self.began.elapsed() > PLACE_WITHIN {
            self.state.told_to_wait = true;
            tracing::warn!(
                "has no place yet: it has to be a member (`quorate member add {} ADDRESS`), and a node of --cluster has to be there",
                self.own
            );
        }
    }

    fn members_with_addresses(&self) -> Vec<(NodeId, SocketAddr)> {
        let members = self.node.members().iter();
        members.filter_map(|m| Some((m.id, address::decode(&m.address)?))).collect()
    }

    /// The membership says where members are; the command line, where that says nothing, and until it is known.
    fn set_peers(&mut self) {
        let members = self.node.members();
        let mut peers = self.members_with_addresses();
        for (id, address) in &self.static_peers {
            let is_member = members.is_empty() || members.iter().any(|member| member.id == *id);
            if is_member && peers.iter().all(|(known, _)| known != id) {
                peers.push((*id, *address));
            }
        }
        self.links.set_peers(&peers);
    }

    /// Tells watchers what the command in the frame buffer has changed.
    fn notify(&mut self, id: EntryId, len: usize) {
        let (Some(Outcome::Done { revision }), true) =
            (self.map.outcome(id), self.state.notices.receiver_count() > 0)
        else {
            return;
        };
        let command = self.frame.get(COMMAND_HEAD_BYTES..len).unwrap_or_default();
        let notice = match postcard::from_bytes(command) {
            Ok(Command::Set { key, value, .. }) => {
                Notice::Set(reads::item(quorate::typed::Item { key, value, revision }))
            }
            Ok(Command::Delete { key, .. }) => Notice::Deleted { key: key.into(), revision },
            // No other command changes anything.
            _ => return,
        };
        // The last watcher may have left.
        let _ = self.state.notices.send(notice);
    }

    fn report(&self) -> Report {
        let status = self.node.status();
        let membership = &status.membership;
        let is_member = membership.members().contains(self.own);
        let role = match status.role {
            _ if !status.running && !is_member => "joining",
            Role::Leader => "leader",
            _ if is_member && !membership.voters().contains(self.own) => "learner",
            Role::Candidate => "candidate",
            Role::PreCandidate => "pre-candidate",
            Role::Follower => "follower",
        };
        let member = |member: &Member| MemberReport {
            id: member.id,
            generation: member.generation.0,
            voter: membership.voters().contains(member.id),
            address: address::decode(&member.address).map(|address| address.to_string()),
        };
        let mut members: Vec<_> = self.node.members().iter().map(member).collect();
        members.sort_by_key(|member| member.id);
        Report {
            id: self.own.get(),
            cluster: format!("{:?}", status.cluster),
            generation: status.generation.0,
            running: status.running,
            role,
            leader: status.leader.map(NodeId::get),
            term: status.term.0,
            commit: status.commit.0,
            applied: status.applied.0,
            last: status.last.index.0,
            durable: status.durable.0,
            snapshot: status.snapshot.index.0,
            revision: self.map.revision(),
            keys: self.map.len(),
            hash: format!("{:016x}", self.map.hash()),
            map_bytes_free: self.map.bytes_free(),
            log_bytes_free: status.log_bytes_free,
            members,
            peers: self.links.health(),
            counts: self.state.counts,
            up_s: self.began.elapsed().as_secs_f64(),
            newer_schema: status.newer_schema,
        }
    }
}
