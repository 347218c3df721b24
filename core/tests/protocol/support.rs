//! A small host for the protocol: boards, their flash, and the frames between them.

use crate::checks::Checks;
use crate::render;
use quorate::entry::{Entries, HEAD_BYTES_MAX, Kind};
use quorate::event::Events;
use quorate::log::Log;
use quorate::membership::Membership;
use quorate::raft::{Options, ProgressState, Raft, Restored, Role, Stepped};
use quorate::wire::{self, Envelope, Message};
use quorate::{ClusterId, EntryId, Generation, Index, Instant, NodeId, NodeSet, Term};
use std::collections::BTreeSet;

/// More messages than this in answer to one input are a loop without end.
const MESSAGES_MAX: usize = 60;
/// Rounds of deliveries after which a cluster that nobody disturbs must be quiet.
const ROUNDS_MAX: usize = 300;
/// A snapshot of this host: so many bytes, sent in pieces.
const SNAPSHOT_BYTES: u32 = 40;
const PIECE_BYTES: u32 = 16;

pub(crate) fn id(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
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
        }
    }

    /// Elections as in the paper: no question first, no lease.
    pub(crate) const fn plain(boards: u8) -> Self {
        Self { pre_vote: false, check_quorum: false, ..Self::new(boards) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: EntryId,
    pub(crate) kind: Kind,
    pub(crate) data: Vec<u8>,
}

/// What a board's flash holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
    pub(crate) commit: Index,
    pub(crate) snapshot: EntryId,
    pub(crate) base: EntryId,
    pub(crate) entries: Vec<Record>,
}

impl Disk {
    pub(crate) fn last(&self) -> EntryId {
        self.entries.last().map_or(self.base, |r| r.id)
    }
}

pub(crate) struct Board {
    pub(crate) raft: Raft,
    pub(crate) log: Box<Log>,
    pub(crate) now: u64,
    pub(crate) disk: Disk,
    pub(crate) applied: Vec<Record>,
    /// Flash writes wait until they are asked for.
    pub(crate) manual: bool,
    events: Events,
    /// A write that has begun.
    writing: Option<Disk>,
    /// A snapshot that is being received, and how much of it is here.
    receiving: Option<(EntryId, u32)>,
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

fn log_of(bytes: usize) -> Box<Log> {
    match bytes {
        96 => Box::new(Log::<[u8; 96]>::new()),
        128 => Box::new(Log::<[u8; 128]>::new()),
        256 => Box::new(Log::<[u8; 256]>::new()),
        512 => Box::new(Log::<[u8; 512]>::new()),
        1024 => Box::new(Log::<[u8; 1024]>::new()),
        8192 => Box::new(Log::<[u8; 8192]>::new()),
        other => panic!("no board has a log of {other} bytes"),
    }
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
        let members: NodeSet = self.ids().map(id).collect();
        let applied: Vec<Record> = self.checks.prefix(self.board(n).disk.snapshot.index);
        let board = self.board_mut(n);
        board.writing = None;
        board.receiving = None;
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
            step_down_on_removal: true,
            check_changes: true,
            lease_ms: 0,
            silent_ms: 0,
            seed: setup.seed,
        };
        let restored = Restored {
            term: board.disk.term,
            vote: board.disk.vote,
            commit: board.disk.commit,
            applied: board.disk.snapshot.index,
            membership: Membership::of_voters(members),
        };
        board.raft.start(Instant::from_millis(board.now), id(n), options, &restored, &board.log);
        board.raft.set_snapshot(board.disk.snapshot);
        board.applied = applied;
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
        board.disk.snapshot = id;
        board.raft.set_snapshot(id);
        id
    }

    /// Drops what the snapshot covers from the log.
    pub(crate) fn compact(&mut self, n: u8) {
        let board = self.board_mut(n);
        let snapshot = board.raft.snapshot();
        board.log.compact(snapshot.index);
    }

    /// What a leader tells a board by its snapshot's pieces, up to the last.
    fn receive_snapshot(&mut self, n: u8, message: Message) {
        let Message::Snapshot { id: whole, offset, .. } = message else {
            panic!("{message:?} is no snapshot");
        };
        let board = self.board_mut(n);
        if board.receiving.is_none_or(|(id, _)| id != whole) {
            board.receiving = Some((whole, 0));
        }
        let Some((_, here)) = &mut board.receiving else { return };
        if offset == *here {
            *here = (*here + PIECE_BYTES).min(SNAPSHOT_BYTES);
        }
        let here = *here;
        if here < SNAPSHOT_BYTES {
            if let Some(lead) = self.board(n).raft.lead() {
                let term = self.board(n).raft.term();
                let message = Message::SnapshotReply { term, id: whole, offset: here };
                self.send(n, NodeSet::one(lead), message, &[]);
            }
            return;
        }
        let applied = self.checks.prefix(whole.index);
        let board = self.board_mut(n);
        board.receiving = None;
        let membership = *board.raft.membership();
        board.raft.restore(whole, membership, &mut board.log);
        board.applied = applied;
        board.disk.snapshot = whole;
        if board.disk.last().index <= whole.index || board.log.count() == 0 {
            board.disk.base = whole;
            board.disk.entries.clear();
        }
        board.disk.commit = board.disk.commit.max(whole.index);
        self.note(format!("{n} installed the snapshot up to {whole:?}"));
    }

    pub(crate) fn note(&mut self, line: String) {
        self.out.push(line);
    }

    /// Does all that board `n` owes: flash writes (unless by hand), messages, entries to apply.
    pub(crate) fn pump(&mut self, n: u8) {
        let mut messages = 0;
        loop {
            self.note_events(n);
            let setup = self.setup;
            let board = self.board_mut(n);
            if !board.manual && board.is_dirty() {
                board.persist_begins();
                board.persist_ends();
                continue;
            }
            if let Some(outgoing) = board.raft.poll_message(&mut board.log) {
                let mut payload = vec![0; setup.frame_bytes];
                let mut len = 0;
                if let Message::Append { prev, .. } = outgoing.message {
                    let head = wire::APPEND_OVERHEAD_BYTES_MAX;
                    let room = (setup.frame_bytes - head).min(outgoing.entries_bytes_max);
                    let (last, bytes) = board.log.fit(prev.index, outgoing.entries_upto, room);
                    assert_eq!(board.log.copy(prev.index, last, &mut payload), Some(bytes));
                    board.raft.sent(outgoing.to, last);
                    len = bytes;
                }
                self.send(n, outgoing.to, outgoing.message, &payload[..len]);
                messages += 1;
                assert!(messages < MESSAGES_MAX, "{n} never ends: {:?}", outgoing.message);
                continue;
            }
            if let Some((to, offset)) = board.raft.poll_snapshot() {
                board.raft.snapshot_sent(to);
                let message = Message::Snapshot {
                    term: board.raft.term(),
                    id: board.disk.snapshot,
                    offset,
                    bytes: SNAPSHOT_BYTES,
                    check: 0,
                };
                let piece = [n; PIECE_BYTES as usize];
                let len = PIECE_BYTES.min(SNAPSHOT_BYTES - offset) as usize;
                self.send(n, NodeSet::one(to), message, &piece[..len]);
                continue;
            }
            let next = board.raft.applied().next();
            if next <= board.raft.commit().min(board.log.durable()) {
                let mut data = [0; 256];
                let (kind, term, len) = board.log.read(next, &mut data).unwrap();
                let record =
                    Record { id: EntryId::new(next, term), kind, data: data[..len].to_vec() };
                board.raft.set_applied(next);
                board.applied.push(record.clone());
                self.checks.applied(n, &record);
                if kind == Kind::Command {
                    self.note(format!("{n} applies {}", render::record(&record)));
                }
                continue;
            }
            if setup.snapshots && board.log.bytes_free() < board.log.bytes_capacity() / 2 {
                let board = self.board(n);
                if board.raft.applied() > board.raft.snapshot().index {
                    self.snapshot(n);
                    self.board_mut(n).make_room(setup.log_bytes / 4);
                    continue;
                }
            }
            break;
        }
        let mut checks = std::mem::take(&mut self.checks);
        checks.board(self.board_mut(n));
        self.checks = checks;
    }

    fn note_events(&mut self, n: u8) {
        while let Some(event) = self.board_mut(n).events.pop() {
            self.checks.event(n, &event);
            self.note(format!("{n} {}", render::event(&event)));
        }
    }

    fn send(&mut self, from: u8, to: NodeSet, message: Message, payload: &[u8]) {
        assert!(!to.is_empty() && !to.contains(id(from)), "{message:?} to {to:?}");
        self.checks.said(&self.boards[usize::from(from) - 1], id(from), &message);
        let to_text: Vec<String> = to.iter().map(|id| id.to_string()).collect();
        self.note(format!("{from}->{} {}", to_text.join(","), render::message(&message, payload)));
        for receiver in to.iter() {
            let bytes = encode(from, receiver, message, payload);
            assert!(bytes.len() <= self.setup.frame_bytes, "{message:?} is too long");
            self.network.push(Sent { from: id(from), to: receiver, bytes });
        }
    }

    pub(crate) fn leader(&self) -> Option<u8> {
        let leads = |n: &u8| self.board(*n).raft.role() == Role::Leader;
        self.ids().filter(leads).max_by_key(|n| self.board(*n).raft.term())
    }
}

fn encode(from: u8, to: NodeId, message: Message, payload: &[u8]) -> Vec<u8> {
    let envelope = Envelope {
        version: wire::VERSION,
        cluster: ClusterId(*b"test"),
        to: NodeSet::one(to),
        from: id(from),
        generation: Generation(1),
        message,
    };
    let mut frame = vec![0; payload.len() + 96];
    let head = wire::encode(&envelope, &mut frame).unwrap();
    frame[head..head + payload.len()].copy_from_slice(payload);
    let len = wire::seal(&mut frame, head + payload.len()).unwrap();
    frame.truncate(len);
    frame
}

impl Board {
    pub(crate) fn entries(&mut self) -> Vec<Record> {
        let (base, last) = (self.log.base().index, self.log.last().index);
        let mut bytes = vec![0; self.log.bytes_used()];
        let len = self.log.copy(base, last, &mut bytes).unwrap();
        let record =
            |e: quorate::entry::Entry<'_>| Record { id: e.id, kind: e.kind, data: e.data.to_vec() };
        Entries::new(self.log.base(), &bytes[..len]).map(|e| record(e.unwrap())).collect()
    }

    /// The terms of the entries in the log.
    pub(crate) fn terms(&mut self) -> Vec<u64> {
        self.entries().iter().map(|r| r.id.term.0).collect()
    }

    pub(crate) fn commands(&self) -> Vec<String> {
        let commands = self.applied.iter().filter(|r| r.kind == Kind::Command);
        commands.map(|r| String::from_utf8_lossy(&r.data).into_owned()).collect()
    }

    pub(crate) fn state_of(&self, n: u8) -> ProgressState {
        self.raft.progress(id(n)).unwrap().state()
    }

    fn is_dirty(&self) -> bool {
        let disk = &self.disk;
        (disk.term, disk.vote) != (self.raft.term(), self.raft.vote())
            || self.log.durable() < self.log.last().index
            || disk.last() != self.log.last()
    }

    fn persist_begins(&mut self) {
        let entries = self.entries();
        self.writing = Some(Disk {
            term: self.raft.term(),
            vote: self.raft.vote(),
            commit: self.raft.commit(),
            snapshot: self.disk.snapshot,
            base: self.log.base(),
            entries,
        });
        self.log.write_begins(self.log.last().index);
    }

    fn persist_ends(&mut self) {
        let Some(written) = self.writing.take() else { return };
        let snapshot = self.disk.snapshot;
        // A snapshot that was installed meanwhile stays, with what the write has behind it.
        if written.base.index >= self.disk.base.index {
            self.disk = Disk { snapshot, ..written };
        } else {
            (self.disk.term, self.disk.vote) = (written.term, written.vote);
        }
        self.log.write_ends();
        let now = Instant::from_millis(self.now);
        let (term, vote) = (self.disk.term, self.disk.vote);
        self.raft.set_durable(now, term, vote, &mut self.log, &mut self.events);
    }

    /// Drops entries that a snapshot covers until there is room.
    fn make_room(&mut self, bytes: usize) {
        while self.log.bytes_free() < bytes && self.log.base().index < self.raft.snapshot().index {
            self.log.compact(self.log.base().index.next());
        }
    }
}
