//! Whole nodes, each on a medium of its own, and a link that loses nothing but what is cut off.

use crate::media::Medium;
use quorate::config::{Config, Link};
use quorate::event::{Event, Fault};
use quorate::flash::FlashOp;
use quorate::membership::Member;
use quorate::node::{Boot, Founding, Limits, Node, Output};
use quorate::raft::Role;
use quorate::wal::MountError;
use quorate::{ClusterId, Index, Instant, NodeId, NodeSet};
use std::collections::VecDeque;

const FRAME_BYTES: u16 = 128;
const LIMITS: Limits =
    Limits { frame_bytes: FRAME_BYTES, entry_bytes: 64, log_bytes: 900, snapshot_bytes: 3072 };

/// When the power goes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Never,
    /// In the next write or erase.
    NextWrite,
    /// In the operation after so many others.
    Operation(u32),
    /// When more entries are durable than so many, before the next word of the board.
    Durable(u64),
}

pub(crate) struct Host<M: Medium> {
    pub(crate) medium: M,
    /// A board without power has none.
    pub(crate) node: Option<Box<Node<[u8], M::Storage>>>,
    pub(crate) when: When,
    /// The application: all commands that were applied, each behind its length.
    pub(crate) state: Vec<u8>,
    /// The last command of which it was told.
    told: Index,
    restoring: Vec<u8>,
    frame: Vec<u8>,
    buf: Vec<u8>,
    until: Instant,
}

pub(crate) struct Cluster<M: Medium> {
    pub(crate) hosts: Vec<Host<M>>,
    pub(crate) now: Instant,
    pub(crate) isolated: NodeSet,
    /// What there is to tell.
    pub(crate) out: Vec<String>,
    queue: VecDeque<(NodeId, NodeSet, Vec<u8>)>,
}

pub(crate) fn id(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

fn event(event: &Event) -> String {
    match *event {
        // How the last write had ended is the store's own affair.
        Event::Started { last, .. } => format!("starts with a log up to {last:?}"),
        Event::Became { role: r, term } => format!("becomes {} in t{term}", role(r)),
        Event::Follows { leader, term } => format!("follows {leader} in t{term}"),
        Event::Voted { candidate, term } => format!("votes for {candidate} in t{term}"),
        Event::SnapshotTaken { id } => format!("has taken a snapshot up to {id:?}"),
        Event::SnapshotInstalled { id } => format!("has installed a snapshot up to {id:?}"),
        Event::Stopped(Fault::Mount(error)) => match error {
            MountError::Unformatted => "stops: it was never founded".into(),
            MountError::Foreign => "stops: its memory holds something else".into(),
            MountError::NotBlank => "stops: its memory is not blank".into(),
            MountError::Corrupt { .. } => "stops: its memory is damaged".into(),
            other => format!("stops: {other}"),
        },
        ref other => format!("{other:?}"),
    }
}

pub(crate) fn commands(state: &[u8]) -> Vec<String> {
    let (mut rest, mut all) = (state, vec![]);
    while let Some((&len, after)) = rest.split_first() {
        let (command, next) = after.split_at(usize::from(len));
        all.push(String::from_utf8_lossy(command).into_owned());
        rest = next;
    }
    all
}

impl<M: Medium> Host<M> {
    fn new(n: u8) -> Self {
        Self {
            medium: M::new(n),
            node: None,
            when: When::Never,
            state: vec![],
            told: Index::ZERO,
            restoring: vec![],
            frame: vec![0; usize::from(FRAME_BYTES)],
            buf: vec![0; 256],
            until: Instant::FOREVER,
        }
    }

    fn config(&self, seed: u64) -> Config {
        let link = Link {
            bits_per_second: 1_000_000,
            frame_bytes: FRAME_BYTES,
            fragment_bytes: 0,
            overhead_bytes: 8,
            turnaround_us: 100,
            duty_permille: 1000,
            broadcast: true,
        };
        let mut config = Config::new(link, self.medium.part(), 5, seed);
        // The same for all, whatever their store is.
        (config.heartbeat_ms, config.election_ms) = (20, 200);
        config
    }

    fn turns_off(&mut self) {
        self.node = None;
        self.when = When::Never;
        self.until = Instant::FOREVER;
    }

    /// Does the power go in this operation?
    fn is_cut(&mut self, op: FlashOp) -> bool {
        match &mut self.when {
            When::NextWrite => !matches!(op, FlashOp::Read { .. }),
            When::Operation(0) => true,
            When::Operation(left) => {
                *left -= 1;
                false
            }
            When::Durable(_) | When::Never => false,
        }
    }
}

impl<M: Medium> Cluster<M> {
    pub(crate) fn new(boards: u8) -> Self {
        let hosts = (1..=boards).map(Host::new).collect();
        let mut cluster = Self {
            hosts,
            now: Instant::ZERO,
            isolated: NodeSet::EMPTY,
            out: vec![],
            queue: VecDeque::new(),
        };
        (1..=boards).for_each(|n| cluster.found(n));
        cluster
    }

    pub(crate) fn note(&mut self, n: u8, text: &str) {
        self.out.push(format!("{n} {text}"));
    }

    pub(crate) fn host(&mut self, n: u8) -> &mut Host<M> {
        &mut self.hosts[usize::from(n) - 1]
    }

    pub(crate) fn node(&mut self, n: u8) -> &mut Node<[u8], M::Storage> {
        self.host(n).node.as_mut().expect("a board that has power")
    }

    pub(crate) fn found(&mut self, n: u8) {
        let members: Vec<Member> =
            (1..=self.hosts.len() as u8).map(|i| Member::new(id(i))).collect();
        let founding = Founding {
            cluster: ClusterId([1, 2, 3, 4]),
            node: id(n),
            members: &members,
            limits: LIMITS,
            erase_anyway: false,
        };
        self.start(n, Boot::Found(&founding));
    }

    pub(crate) fn restart(&mut self, n: u8) {
        self.host(n).turns_off();
        self.host(n).state.clear();
        self.host(n).medium.boot();
        self.start(n, Boot::Mount);
    }

    fn start(&mut self, n: u8, boot: Boot<'_>) {
        let now = self.now;
        let host = self.host(n);
        let mut node: Box<Node<[u8], M::Storage>> = Box::new(Node::<[u8; 1024], _>::new());
        // Another seed at each start, as a board would have.
        let seed = u64::from(n) + now.as_millis() * 32;
        node.start(now, &host.config(seed), boot).unwrap();
        host.node = Some(node);
        self.drive(n);
    }

    pub(crate) fn power_goes(&mut self, n: u8) {
        self.host(n).turns_off();
        self.note(n, "loses its power");
    }

    /// Does everything that board `n` has to do.
    fn drive(&mut self, n: u8) {
        let now = self.now;
        for _ in 0..10_000 {
            let host = self.host(n);
            let Some(node) = host.node.as_mut() else {
                return;
            };
            let output = node.poll_output(now, &mut host.frame, &mut host.buf);
            let durable = node.status().durable.0;
            if matches!(host.when, When::Durable(than) if durable > than) {
                return self.power_goes(n);
            }
            match output {
                Output::Flash(op) => {
                    if host.is_cut(op) {
                        if !matches!(op, FlashOp::Read { .. }) {
                            host.medium.cut(op, &mut host.buf);
                        }
                        return self.power_goes(n);
                    }
                    let Ok(done) = host.medium.run(op, &mut host.buf) else {
                        panic!("nobody has cut the power");
                    };
                    node_of(host).handle_flash(now, done);
                }
                Output::Transmit { to, len } => {
                    let frame = host.frame[..len].to_vec();
                    self.queue.push_back((id(n), to, frame));
                }
                Output::Apply { id, len } => {
                    let command = host.frame[..len].to_vec();
                    host.state.push(len as u8);
                    host.state.extend_from_slice(&command);
                    // How many of them a restart applies by itself is the store's own affair: the commit
                    // index goes along where it costs nothing.
                    if host.told < id.index {
                        host.told = id.index;
                        let text = String::from_utf8_lossy(&command);
                        self.note(n, &format!("applies {id:?} {text:?}"));
                    }
                }
                Output::TakeSnapshot { offset, at, len_max } => {
                    let rest = &host.state[offset as usize..];
                    let len = rest.len().min(len_max);
                    host.buf[at..at + len].copy_from_slice(&rest[..len]);
                    node_of(host).handle_snapshot(len);
                }
                Output::RestoreSnapshot { offset, at, len, last } => {
                    host.restoring.truncate(offset as usize);
                    host.restoring.extend_from_slice(&host.buf[at..at + len]);
                    if last {
                        host.state.clone_from(&host.restoring);
                        let count = commands(&host.state).len();
                        self.note(n, &format!("restores {count} commands"));
                    }
                }
                Output::ReadReady(_) | Output::Proposed { .. } => {}
                Output::Event(happened) => self.note(n, &event(&happened)),
                Output::Wait { until } => {
                    host.until = until;
                    return;
                }
            }
        }
        panic!("board {n} never waits");
    }

    /// Everything that can happen without time passing.
    pub(crate) fn settle(&mut self) {
        (1..=self.hosts.len() as u8).for_each(|n| self.drive(n));
        while let Some((from, to, frame)) = self.queue.pop_front() {
            let cut = self.isolated;
            for to in to.iter().filter(|to| !cut.contains(*to) && !cut.contains(from)) {
                let now = self.now;
                if let Some(node) = &mut self.host(to.get()).node {
                    node.handle_frame(now, &frame);
                    self.drive(to.get());
                }
            }
        }
    }

    /// Lets time pass, waking each board when it asked to be.
    pub(crate) fn run(&mut self, ms: u32) {
        let end = self.now.after(ms);
        self.settle();
        while let Some(next) = self.hosts.iter().map(|h| h.until).min().filter(|t| *t <= end) {
            self.now = self.now.max(next);
            let now = self.now;
            for host in &mut self.hosts {
                if let Some(node) = &mut host.node {
                    node.handle_timeout(now);
                }
            }
            self.settle();
            if self.hosts.iter().map(|h| h.until).min() <= Some(self.now) {
                self.now = self.now.after(1);
            }
        }
        self.now = end;
    }
}

fn node_of<M: Medium>(host: &mut Host<M>) -> &mut Node<[u8], M::Storage> {
    host.node.as_mut().expect("a board that has power")
}
