//! A small host for the protocol: boards, their flash, and the frames between them.

use crate::board::{Board, Disk, Record, log_of};
use crate::checks::Checks;
use crate::drive::encode;
use quorate::change::{Change, Step, Transition, What};
use quorate::entry::{HEAD_BYTES_MAX, Kind};
use quorate::event::Events;
use quorate::membership::Membership;
use quorate::raft::{ChangeRefused, Options, Raft, Restored, Role, Stepped, TransferRefused};
use quorate::wire::{self, Envelope, Message};
use quorate::{EntryId, Index, Instant, NodeId, NodeSet, Term};
use std::collections::BTreeSet;

/// Rounds of deliveries after which a cluster that nobody disturbs must be quiet.
const ROUNDS_MAX: usize = 300;

pub(crate) fn id(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

pub(crate) fn set(ids: &[u8]) -> NodeSet {
    ids.iter().map(|n| id(*n)).collect()
}

pub(crate) fn at(term: u64, index: u64) -> EntryId {
    EntryId::new(Index(index), Term(term))
}

/// How the boards of a cluster are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) boards: u8,
    pub(crate) log_bytes: usize,
    pub(crate) frame_bytes: usize,
    pub(crate) pre_vote: bool,
    pub(crate) check_quorum: bool,
    pub(crate) election_ms: u32,
    pub(crate) heartbeat_ms: u32,
    pub(crate) seed: u64,
    /// Snapshots are taken, and the log is compacted, as it fills up.
    pub(crate) snapshots: bool,
    /// Who is what when the cluster starts; all boards vote unless it is said.
    pub(crate) membership: Option<Membership>,
    pub(crate) step_down_on_removal: bool,
    pub(crate) check_changes: bool,
    pub(crate) lease_ms: u32,
    pub(crate) silent_ms: u32,
}

impl Setup {
    pub(crate) const fn new(boards: u8) -> Self {
        Self {
            boards,
            log_bytes: 1024,
            frame_bytes: 128,
            pre_vote: true,
            check_quorum: true,
            election_ms: 1000,
            heartbeat_ms: 100,
            seed: 1,
            snapshots: false,
            membership: None,
            step_down_on_removal: true,
            check_changes: true,
            lease_ms: 0,
            silent_ms: 0,
        }
    }

    /// So many boards, of which only these vote; the others are no members yet.
    pub(crate) fn voters(boards: u8, voters: &[u8]) -> Self {
        Self { membership: Some(Membership::of_voters(set(voters))), ..Self::plain(boards) }
    }

    /// Elections as in the paper: no question first, no lease.
    pub(crate) const fn plain(boards: u8) -> Self {
        Self { pre_vote: false, check_quorum: false, ..Self::new(boards) }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) bytes: Vec<u8>,
}

impl Sent {
    pub(crate) fn message(&self) -> Message {
        wire::decode(&self.bytes).unwrap().envelope.message
    }
}

pub(crate) struct Cluster {
    pub(crate) setup: Setup,
    pub(crate) boards: Vec<Board>,
    /// Frames on their way, oldest first.
    pub(crate) network: Vec<Sent>,
    /// Links that lose everything.
    pub(crate) cuts: BTreeSet<(NodeId, NodeId)>,
    /// What happened, as text.
    pub(crate) out: Vec<String>,
    pub(crate) checks: Checks,
}

impl Cluster {
    pub(crate) fn new(setup: Setup) -> Self {
        let mut cluster = Self {
            setup,
            boards: Vec::new(),
            network: Vec::new(),
            cuts: BTreeSet::new(),
            out: Vec::new(),
            checks: Checks::default(),
        };
        for n in 1..=setup.boards {
            cluster.boards.push(Board {
                raft: Raft::new(),
                log: log_of(setup.log_bytes),
                now: 0,
                disk: Disk::default(),
                applied: Vec::new(),
                manual: false,
                applies_later: false,
                reads: Vec::new(),
                events: Events::new(),
                writing: None,
                receiving: None,
            });
            cluster.boot(n);
        }
        cluster
    }

    /// Boards that start with logs of empty entries of these terms, in the term of the newest.
    pub(crate) fn with_logs(setup: Setup, logs: &[&[u64]]) -> Self {
        let mut cluster = Self::new(setup);
        for (n, terms) in (1..).zip(logs) {
            let record = |(i, t): (u64, &u64)| Record {
                id: at(*t, i),
                kind: Kind::Command,
                data: format!("{t}.{i}").into_bytes(),
            };
            let disk = &mut cluster.board_mut(n).disk;
            disk.entries = (1..).zip(*terms).map(record).collect();
            disk.term = disk.last().term;
            cluster.boot(n);
        }
        cluster
    }

    /// Gives a board a log of another size; it starts anew with what its flash holds.
    pub(crate) fn resize(&mut self, n: u8, bytes: usize) {
        self.board_mut(n).log = log_of(bytes);
        self.boot(n);
    }

    pub(crate) fn board(&self, n: u8) -> &Board {
        &self.boards[usize::from(n) - 1]
    }

    pub(crate) fn board_mut(&mut self, n: u8) -> &mut Board {
        &mut self.boards[usize::from(n) - 1]
    }

    fn ids(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.setup.boards
    }

    /// A power cut, and the start after it: what flash does not hold is gone.
    pub(crate) fn boot(&mut self, n: u8) {
        let setup = self.setup;
        let membership = self.board(n).disk.membership.unwrap_or(self.first_membership());
        let applied: Vec<Record> = self.checks.prefix(self.board(n).disk.snapshot.index);
        let board = self.board_mut(n);
        board.writing = None;
        board.receiving = None;
        board.reads.clear();
        board.events = Events::new();
        board.log.reset(board.disk.base);
        for record in &board.disk.entries {
            assert_eq!(board.log.append(record.id.term, record.kind, &record.data), Ok(record.id));
        }
        board.log.write_begins(board.log.last().index);
        board.log.write_ends();
        let options = Options {
            election_ms: setup.election_ms,
            heartbeat_ms: setup.heartbeat_ms,
            pre_vote: setup.pre_vote,
            check_quorum: setup.check_quorum,
            step_down_on_removal: setup.step_down_on_removal,
            check_changes: setup.check_changes,
            lease_ms: setup.lease_ms,
            silent_ms: setup.silent_ms,
            seed: setup.seed,
        };
        let restored = Restored {
            term: board.disk.term,
            vote: board.disk.vote,
            commit: board.disk.commit,
            applied: board.disk.snapshot.index,
            membership,
        };
        board.raft.start(Instant::from_millis(board.now), id(n), options, &restored, &board.log);
        board.raft.set_snapshot(board.disk.snapshot);
        board.applied = applied;
    }

    /// The configuration that all boards know from the start.
    pub(crate) fn first_membership(&self) -> Membership {
        let all = Membership::of_voters(self.ids().map(id).collect());
        self.setup.membership.unwrap_or(all)
    }

    pub(crate) fn restart(&mut self, n: u8) {
        self.boot(n);
        self.pump(n);
    }

    pub(crate) fn campaign(&mut self, n: u8) {
        let board = self.board_mut(n);
        board.raft.campaign(Instant::from_millis(board.now), &mut board.log, &mut board.events);
        self.pump(n);
    }

    /// `ms` pass on board `n`.
    pub(crate) fn tick(&mut self, n: u8, ms: u64) {
        let board = self.board_mut(n);
        board.now += ms;
        let now = Instant::from_millis(board.now);
        board.raft.handle_timeout(now, &mut board.log, &mut board.events);
        self.pump(n);
    }

    pub(crate) fn tick_all(&mut self, ms: u64) {
        self.ids().for_each(|n| self.tick(n, ms));
    }

    /// Time passes on board `n` until it has something to do.
    pub(crate) fn timeout(&mut self, n: u8) {
        let board = self.board(n);
        let until = board.raft.deadline().since(Instant::from_millis(board.now));
        self.tick(n, until);
    }

    /// Proposes as a node does: only to a leader, and with room kept back for the entries of leaders.
    pub(crate) fn propose(&mut self, n: u8, data: &[u8]) -> Result<EntryId, &'static str> {
        const RESERVE_BYTES: usize = 40;
        let board = self.board_mut(n);
        if board.raft.role() != Role::Leader {
            return Err("not the leader");
        }
        board.make_room(data.len() + HEAD_BYTES_MAX + RESERVE_BYTES);
        if data.len() + HEAD_BYTES_MAX + RESERVE_BYTES > board.log.bytes_free() {
            return Err("the log is full");
        }
        let id = board.raft.propose(Kind::Command, data, &mut board.log).unwrap();
        self.pump(n);
        Ok(id)
    }

    /// Proposes a change of membership.
    pub(crate) fn change(
        &mut self,
        n: u8,
        how: Transition,
        steps: &[(What, u8)],
    ) -> Result<EntryId, ChangeRefused> {
        let steps: Vec<_> = steps.iter().map(|(what, n)| Step::new(*what, id(*n))).collect();
        let mut data = [0; 64];
        let len = Change::encode(how, &steps, &mut data).unwrap();
        let len = if steps.is_empty() && how == Transition::Auto { 0 } else { len };
        let board = self.board_mut(n);
        let proposed = board.raft.propose_change(&data[..len], &mut board.log)?;
        self.pump(n);
        Ok(proposed)
    }

    pub(crate) fn transfer(&mut self, n: u8, to: u8) -> Result<(), TransferRefused> {
        let board = self.board_mut(n);
        board.raft.transfer_leader(Instant::from_millis(board.now), id(to))?;
        self.pump(n);
        Ok(())
    }

    /// Begins a read; `None` if too many are under way.
    pub(crate) fn read(&mut self, n: u8, lease: bool) -> Option<u32> {
        let board = self.board_mut(n);
        let read = board.raft.read(Instant::from_millis(board.now), lease).ok()?;
        self.pump(n);
        Some(read)
    }

    /// How many commands board `n` had applied when the read was answered.
    pub(crate) fn answered(&self, n: u8, read: u32) -> Option<usize> {
        self.board(n).reads.iter().find(|(id, _)| *id == read).map(|(_, applied)| *applied)
    }

    /// Board `to` takes a message as if it had come from `from`.
    pub(crate) fn step(&mut self, to: u8, from: u8, message: Message, payload: &[u8]) {
        let frame =
            Sent { from: id(from), to: id(to), bytes: encode(from, id(to), message, payload) };
        self.arrive(&frame);
    }

    fn arrive(&mut self, sent: &Sent) {
        let frame = wire::decode(&sent.bytes).expect("what was encoded can be decoded");
        let Envelope { from, to, message, .. } = frame.envelope;
        assert!(from == sent.from && to.contains(sent.to));
        let n = sent.to.get();
        let board = self.board_mut(n);
        let now = Instant::from_millis(board.now);
        if matches!(message, Message::Append { .. }) {
            board.make_room(frame.payload.len());
        }
        let stepped =
            board.raft.step(now, from, &message, frame.payload, &mut board.log, &mut board.events);
        if stepped == Stepped::WantsSnapshot {
            self.receive_snapshot(n, message);
        }
        self.pump(n);
    }

    /// One frame arrives, unless its link is cut.
    pub(crate) fn deliver_one(&mut self, sent: &Sent) -> bool {
        let arrives = !self.cuts.contains(&(sent.from, sent.to));
        if arrives {
            self.arrive(sent);
        }
        arrives
    }

    /// Whatever is on its way from `from` to `to`, taken off the network.
    pub(crate) fn take(&mut self, from: Option<u8>, to: Option<u8>) -> Vec<Sent> {
        let fits =
            |s: &Sent| from.is_none_or(|n| s.from == id(n)) && to.is_none_or(|n| s.to == id(n));
        let (taken, rest) = self.network.drain(..).partition(fits);
        self.network = rest;
        taken
    }

    /// The messages on their way from `from`, taken off the network.
    pub(crate) fn sent(&mut self, from: u8) -> Vec<(u8, Message)> {
        self.take(Some(from), None).iter().map(|s| (s.to.get(), s.message())).collect()
    }

    /// Lets what is on its way arrive; what is sent meanwhile stays on its way.
    pub(crate) fn deliver(&mut self, from: Option<u8>, to: Option<u8>) -> usize {
        let taken = self.take(from, to);
        taken.iter().filter(|sent| self.deliver_one(sent)).count()
    }

    /// Delivers until nothing is on its way any more.
    pub(crate) fn stabilize(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if self.network.is_empty() {
                return;
            }
            self.deliver(None, None);
        }
        panic!("the cluster does not come to rest: {:?}", self.network.last().map(Sent::message));
    }

    /// A few heartbeats of every leader, each with all that comes of it.
    pub(crate) fn beats(&mut self, count: usize) {
        for _ in 0..count {
            for n in self.ids() {
                if self.board(n).raft.role() == Role::Leader {
                    self.tick(n, u64::from(self.setup.heartbeat_ms));
                }
            }
            self.stabilize();
        }
    }

    /// Makes `n` the leader without waiting for time; the others' leases have to be over.
    pub(crate) fn elect(&mut self, n: u8) {
        for other in self.ids().filter(|other| *other != n) {
            self.board_mut(other).now += u64::from(self.setup.election_ms);
        }
        self.campaign(n);
        self.stabilize();
        assert_eq!(self.board(n).raft.role(), Role::Leader);
    }

    pub(crate) fn isolate(&mut self, n: u8) {
        for other in self.ids().filter(|other| *other != n) {
            self.cuts.insert((id(n), id(other)));
            self.cuts.insert((id(other), id(n)));
        }
    }

    /// The flash write of everything new begins.
    pub(crate) fn persist_begins(&mut self, n: u8) {
        self.board_mut(n).persist_begins();
    }

    /// That write ends, and the board hears of it.
    pub(crate) fn persist_ends(&mut self, n: u8) {
        self.board_mut(n).persist_ends();
        self.pump(n);
    }

    pub(crate) fn persist(&mut self, n: u8) {
        self.persist_begins(n);
        self.persist_ends(n);
    }

    /// The board takes a snapshot of what it has applied; it is durable at once.
    pub(crate) fn snapshot(&mut self, n: u8) -> EntryId {
        let board = self.board_mut(n);
        let applied = board.raft.applied();
        let id = EntryId::new(applied, board.log.term(applied).unwrap());
        let membership = *board.raft.membership();
        board.disk.snapshot = id;
        board.disk.membership = Some(membership);
        board.raft.set_snapshot(id);
        self.checks.snapshot(id, membership);
        id
    }

    /// Drops what the snapshot covers from the log.
    pub(crate) fn compact(&mut self, n: u8) {
        let board = self.board_mut(n);
        let snapshot = board.raft.snapshot();
        board.log.compact(snapshot.index);
    }

    pub(crate) fn note(&mut self, line: String) {
        self.out.push(line);
    }

    pub(crate) fn leader(&self) -> Option<u8> {
        let leads = |n: &u8| self.board(*n).raft.role() == Role::Leader;
        self.ids().filter(leads).max_by_key(|n| self.board(*n).raft.term())
    }
}
