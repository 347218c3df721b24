//! Whole nodes on the host: flash that does everything at once, and a link that is a queue.

use quorate::config::{Config, Flash, Link};
use quorate::event::Event;
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::membership::Member;
use quorate::node::{Boot, Founding, Limits, Node, Outcome, Output, ProposalId, ReadId};
use quorate::raft::Role;
use quorate::wire::{self, Envelope, Message};
use quorate::{ClusterId, EntryId, Generation, Instant, NodeId, NodeSet};
use std::collections::VecDeque;

pub(crate) fn id(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

pub(crate) const FRAME_BYTES: u16 = 128;

pub(crate) fn config(seed: u64) -> Config {
    let link = Link {
        bits_per_second: 1_000_000,
        frame_bytes: FRAME_BYTES,
        fragment_bytes: 0,
        overhead_bytes: 8,
        turnaround_us: 100,
        duty_permille: 1000,
        broadcast: true,
    };
    let geometry = Geometry {
        word_bytes: 4,
        erased: 0xff,
        page_bytes: 4,
        block_bytes: 2048,
        blocks_per_segment: 1,
        segments: 16,
    };
    Config::new(link, Flash { geometry, word_us: 41, erase_ms_max: 1, stalls: false }, 5, seed)
}

pub(crate) const LIMITS: Limits =
    Limits { frame_bytes: FRAME_BYTES, entry_bytes: 64, log_bytes: 900, snapshot_bytes: 4096 };

/// A frame that this life of member `from` could have sent.
pub(crate) fn forged(
    (from, generation): (NodeId, u16),
    to: NodeId,
    message: Message,
    payload: &[u8],
) -> Vec<u8> {
    let envelope = Envelope {
        cluster: ClusterId([1, 2, 3, 4]),
        to: NodeSet::one(to),
        from,
        generation: Generation(generation),
        message,
    };
    let mut frame = vec![0; 96 + payload.len()];
    let head = wire::encode(&envelope, &mut frame).unwrap();
    frame[head..head + payload.len()].copy_from_slice(payload);
    let len = wire::seal(&mut frame, head + payload.len()).unwrap();
    frame.truncate(len);
    frame
}

/// A node, its buffers, and an application that keeps every command.
pub(crate) struct Host {
    pub(crate) node: Box<Node>,
    /// The flash part.
    part: Vec<u8>,
    pub(crate) erases: usize,
    pub(crate) frame: Vec<u8>,
    pub(crate) flash: Vec<u8>,
    pub(crate) applied: Vec<(EntryId, Vec<u8>)>,
    /// The application's state: all commands, each behind its length.
    pub(crate) state: Vec<u8>,
    /// Its firmware is older than this schema, in which the state is kept.
    pub(crate) too_new: Option<u16>,
    pub(crate) events: Vec<Event>,
    /// Reads that may be served, and how many commands were applied by then.
    pub(crate) reads: Vec<(ReadId, usize)>,
    pub(crate) outcomes: Vec<(ProposalId, Outcome)>,
    pub(crate) until: Instant,
    /// Flash takes so long that everything else is done first.
    pub(crate) slow: bool,
    /// A flash operation takes until it is let go; so many before it do not.
    pub(crate) holds: Option<u32>,
    /// The CPU stands still while flash is written or erased, until that is let go.
    pub(crate) stalls: bool,
    pub(crate) held: Option<FlashOp>,
    /// Comes behind each piece of a snapshot that is restored but the last, and what the node is then.
    pub(crate) nag: Option<Vec<u8>>,
    pub(crate) nagged: Vec<Role>,
    /// What was handed out while a snapshot was only partly restored.
    pub(crate) too_early: usize,
    restoring: Vec<u8>,
    pub(crate) config: Config,
    starts: u64,
}

impl Host {
    pub(crate) fn found(n: u8, of: u8, now: Instant, set: impl Fn(&mut Config)) -> Self {
        let members: Vec<Member> = (1..=of).map(|i| Member::new(id(i))).collect();
        let founding = Founding {
            cluster: ClusterId([1, 2, 3, 4]),
            node: id(n),
            members: &members,
            limits: LIMITS,
            erase_anyway: false,
        };
        let mut host = Self::off();
        host.config = config(u64::from(n));
        set(&mut host.config);
        host.node.start(now, &host.config, Boot::Found(&founding)).unwrap();
        host
    }

    /// The power goes and comes back: what is in flash is all that is left.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.starts += 1;
        self.node = Box::new(Node::<[u8; 1024]>::new());
        self.applied.clear();
        self.state.clear();
        // Entropy is drawn anew at each start.
        self.config.seed += self.starts << 32;
        self.node.start(now, &self.config, Boot::Mount).unwrap();
    }

    /// A board with blank flash that asks for the place of member `n`.
    pub(crate) fn join(n: u8, nonce: u32, now: Instant) -> Self {
        Self::join_cluster(ClusterId([1, 2, 3, 4]), n, nonce, now)
    }

    pub(crate) fn join_cluster(cluster: ClusterId, n: u8, nonce: u32, now: Instant) -> Self {
        let mut host = Self::off();
        let boot = Boot::Join { cluster, node: id(n), nonce };
        host.node.start(now, &config(u64::from(n)), boot).unwrap();
        host
    }

    pub(crate) fn off() -> Self {
        Self {
            node: Box::new(Node::<[u8; 1024]>::new()),
            part: vec![0xff; 16 * 2048],
            erases: 0,
            frame: vec![0; usize::from(FRAME_BYTES)],
            flash: vec![0; 256],
            applied: vec![],
            state: vec![],
            too_new: None,
            events: vec![],
            reads: vec![],
            outcomes: vec![],
            until: Instant::ZERO,
            slow: false,
            holds: None,
            stalls: false,
            held: None,
            nag: None,
            nagged: vec![],
            too_early: 0,
            restoring: vec![],
            config: config(0),
            starts: 0,
        }
    }

    /// What is in flash becomes a cluster of this board alone.
    pub(crate) fn recover(&mut self, now: Instant, cluster: ClusterId) {
        self.node = Box::new(Node::<[u8; 1024]>::new());
        self.applied.clear();
        self.state.clear();
        self.events.clear();
        self.node.start(now, &self.config, Boot::Recover { cluster }).unwrap();
    }

    /// The flash operation that is held comes to its end.
    pub(crate) fn let_go(&mut self, now: Instant) {
        if let Some(op) = self.held.take() {
            self.perform(op);
            self.node.handle_flash(now, FlashDone::Ok);
        }
    }

    /// A board with a copy of this one's flash, as it would start after a power cut now, alone.
    pub(crate) fn after_a_cut(&self, now: Instant) -> Self {
        let mut copy = Self::off();
        (copy.part, copy.config) = (self.part.clone(), self.config.clone());
        copy.node.start(now, &copy.config, Boot::Mount).unwrap();
        let _ = copy.drive(now);
        copy
    }

    fn perform(&mut self, op: FlashOp) {
        match op {
            FlashOp::Read { offset, len } => {
                let (at, len) = (offset as usize, len as usize);
                self.flash[..len].copy_from_slice(&self.part[at..at + len]);
            }
            FlashOp::Write { offset, len } => {
                let (at, len) = (offset as usize, len as usize);
                assert!(self.part[at..at + len].iter().all(|byte| *byte == 0xff), "twice");
                self.part[at..at + len].copy_from_slice(&self.flash[..len]);
            }
            FlashOp::Erase { offset, len } => {
                self.erases += 1;
                self.part[offset as usize..][..len as usize].fill(0xff);
            }
        }
    }

    /// Does everything that is to be done; the frames to send.
    pub(crate) fn drive(&mut self, now: Instant) -> Vec<(NodeSet, Vec<u8>)> {
        let mut frames = vec![];
        let mut flash = None;
        for _ in 0..10_000 {
            match self.node.poll_output(now, &mut self.frame, &mut self.flash) {
                Output::Flash(op @ (FlashOp::Write { .. } | FlashOp::Erase { .. }))
                    if self.stalls =>
                {
                    self.held = Some(op);
                    return frames;
                }
                Output::Flash(op) if self.holds == Some(0) => self.held = Some(op),
                Output::Flash(op) if self.slow => flash = Some(op),
                Output::Flash(op) => {
                    self.holds = self.holds.map(|before| before - 1);
                    self.perform(op);
                    self.node.handle_flash(now, FlashDone::Ok);
                }
                Output::Transmit { to, len } => frames.push((to, self.frame[..len].to_vec())),
                Output::Apply { id, len } => {
                    self.too_early += usize::from(!self.restoring.is_empty());
                    let command = self.frame[..len].to_vec();
                    self.state.push(len as u8);
                    self.state.extend_from_slice(&command);
                    self.applied.push((id, command));
                }
                Output::TakeSnapshot { offset, at, len_max } => {
                    let rest = &self.state[offset as usize..];
                    let len = rest.len().min(len_max);
                    self.flash[at..at + len].copy_from_slice(&rest[..len]);
                    self.node.handle_snapshot(len);
                }
                Output::RestoreSnapshot { offset, at, len, last } => {
                    if let Some(schema) = self.too_new {
                        self.node.refuse_apply(schema);
                        continue;
                    }
                    if offset == 0 {
                        self.restoring.clear();
                    }
                    assert_eq!(offset as usize, self.restoring.len());
                    self.restoring.extend_from_slice(&self.flash[at..at + len]);
                    if last {
                        self.state = std::mem::take(&mut self.restoring);
                    } else if let Some(frame) = &self.nag {
                        self.node.handle_frame(now, frame);
                        self.nagged.push(self.node.status().role);
                    }
                }
                Output::Proposed { id, outcome } => self.outcomes.push((id, outcome)),
                Output::ReadReady(id) => self.reads.push((id, self.applied.len())),
                Output::Event(event) => self.events.push(event),
                Output::Wait { until } => {
                    if let Some(op) = flash.take() {
                        self.perform(op);
                        self.node.handle_flash(now, FlashDone::Ok);
                        continue;
                    }
                    self.until = until;
                    return frames;
                }
            }
        }
        panic!("never waits");
    }
}

/// Nodes and a link without loss, unless a frame is dropped by `lose`.
pub(crate) struct Cluster {
    pub(crate) hosts: Vec<Host>,
    pub(crate) now: Instant,
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
    /// Nodes that are cut off.
    pub(crate) cut: NodeSet,
    /// What draws which frames are lost, and which come twice; 0: none.
    pub(crate) noise: u64,
    queue: VecDeque<(NodeId, NodeSet, Vec<u8>)>,
}

impl Cluster {
    pub(crate) fn new(n: u8) -> Self {
        Self::with(n, |_| {})
    }

    /// The same, with boards that are configured by `set`.
    pub(crate) fn with(n: u8, set: impl Fn(&mut Config)) -> Self {
        let hosts = (1..=n).map(|i| Host::found(i, n, Instant::ZERO, &set)).collect();
        Self {
            hosts,
            now: Instant::ZERO,
            frames: 0,
            bytes: 0,
            cut: NodeSet::EMPTY,
            noise: 0,
            queue: VecDeque::new(),
        }
    }

    pub(crate) fn settle(&mut self) {
        for i in 0..self.hosts.len() {
            self.drive(i);
        }
        while let Some((from, to, frame)) = self.queue.pop_front() {
            let cut = self.cut;
            for to in to.iter().filter(|to| !cut.contains(*to) && !cut.contains(from)) {
                let i = usize::from(to.get()) - 1;
                if i >= self.hosts.len() {
                    break;
                }
                for _ in 0..self.copies() {
                    self.hosts[i].node.handle_frame(self.now, &frame);
                    self.drive(i);
                }
            }
        }
    }

    /// How often a frame comes: one in four is lost, one in four comes twice.
    fn copies(&mut self) -> u32 {
        if self.noise == 0 {
            return 1;
        }
        self.noise = self.noise.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        [0, 1, 1, 2][(self.noise >> 62) as usize]
    }

    pub(crate) fn drive(&mut self, i: usize) {
        for (to, frame) in self.hosts[i].drive(self.now) {
            self.frames += 1;
            self.bytes += frame.len();
            self.queue.push_back((id(i as u8 + 1), to, frame));
        }
    }

    /// Lets `ms` pass, waking each node when it asked to be.
    pub(crate) fn run(&mut self, ms: u32) {
        let end = self.now.after(ms);
        self.settle();
        while let Some(next) = self.hosts.iter().map(|h| h.until).min().filter(|t| *t <= end) {
            self.now = self.now.max(next);
            for host in &mut self.hosts {
                host.node.handle_timeout(self.now);
            }
            self.settle();
            if self.hosts.iter().map(|h| h.until).min() <= Some(self.now) {
                self.now = self.now.after(1);
            }
        }
        self.now = end;
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |h: &Host| h.node.status().role == Role::Leader;
        let cut = |i: &usize| self.cut.contains(id(*i as u8 + 1));
        let mut leaders: Vec<usize> =
            (0..self.hosts.len()).filter(|i| leads(&self.hosts[*i]) && !cut(i)).collect();
        leaders.sort_by_key(|i| self.hosts[*i].node.status().term);
        leaders.pop()
    }
}
