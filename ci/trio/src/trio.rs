//! The three nodes, their time, and what drives them.

use quorate::event::Event;
use quorate::flash::{FlashDone, FlashOp};
use quorate::membership::Member;
use quorate::node::{Boot, Founding, Node, Output, ProposalId};
use quorate::raft::Role;
use quorate::{ClusterId, Instant, NodeId};

use crate::app::App;
use crate::ether::Ether;
use crate::meter::{Call, Costs};
use crate::random::Random;
use crate::trace::Trace;
use crate::{BUFFER_BYTES, Board, FRAME_BYTES, GEOMETRY, LIMITS, LOG_BYTES, NODES, config};

/// What happened.
#[derive(Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) elections: u32,
    pub(crate) cuts: u32,
    pub(crate) torn: u32,
    pub(crate) mounts: u32,
    pub(crate) taken: u32,
    pub(crate) installed: u32,
    pub(crate) changes: u32,
    pub(crate) reads: u32,
    pub(crate) forwarded: u32,
    pub(crate) stopped: u32,
}

impl Tally {
    const NONE: Self = Self {
        elections: 0,
        cuts: 0,
        torn: 0,
        mounts: 0,
        taken: 0,
        installed: 0,
        changes: 0,
        reads: 0,
        forwarded: 0,
        stopped: 0,
    };
}

/// Power that is to fail in the middle of a write.
#[derive(Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) node: usize,
    /// Writes before that one.
    pub(crate) writes: u32,
}

/// Three nodes, for a `static`.
pub struct Trio {
    nodes: [Node<[u8; LOG_BYTES]>; NODES],
    pub(crate) apps: [App; NODES],
    frame: [u8; FRAME_BYTES],
    buffers: [[u8; BUFFER_BYTES]; NODES],
    /// When each wants to be woken, and when it gets power again.
    until: [Instant; NODES],
    pub(crate) back_at: [Option<Instant>; NODES],
    /// Instructions of a mount that is under way.
    mounting: [Option<u32>; NODES],
    pub(crate) proposals: [Option<ProposalId>; NODES],
    pub(crate) cut: Option<Cut>,
    pub(crate) now: Instant,
    pub(crate) random: Random,
    pub(crate) ether: Ether,
    pub(crate) trace: Trace,
    pub(crate) tally: Tally,
    pub(crate) costs: Costs,
}

pub(crate) fn id(at: usize) -> NodeId {
    NodeId::new(at as u8 + 1).expect("nodes are few")
}

impl Trio {
    /// Three that are off.
    pub const fn new() -> Self {
        Self {
            nodes: [const { Node::new() }; NODES],
            apps: [App::new(); NODES],
            frame: [0; FRAME_BYTES],
            buffers: [[0; BUFFER_BYTES]; NODES],
            until: [Instant::ZERO; NODES],
            back_at: [None; NODES],
            mounting: [None; NODES],
            proposals: [None; NODES],
            cut: None,
            now: Instant::ZERO,
            random: Random(0),
            ether: Ether::new(),
            trace: Trace(0),
            tally: Tally::NONE,
            costs: Costs::NONE,
        }
    }

    /// What the calls took, in all runs.
    pub fn costs(&self) -> Costs {
        self.costs
    }

    /// Founds a cluster on erased flash.
    pub(crate) fn found(&mut self, board: &mut impl Board, seed: u64) {
        (self.cut, self.now, self.random) = (None, Instant::ZERO, Random(seed));
        (self.trace, self.tally) = (Trace::NEW, Tally::NONE);
        self.ether.clear();
        board.erase(0, GEOMETRY.bytes() * NODES as u32);
        let cluster = ClusterId((self.random.draw() as u32).to_le_bytes());
        for at in 0..NODES {
            self.lose(board, at);
            self.start_founding(board, at, cluster);
        }
        (0..NODES).for_each(|at| self.drive(board, at));
    }

    #[inline(never)]
    fn start_founding(&mut self, board: &mut impl Board, at: usize, cluster: ClusterId) {
        let members: [Member; NODES] = core::array::from_fn(|at| Member::new(id(at)));
        let (node, members, limits) = (id(at), &members[..], LIMITS);
        let founding = Founding { cluster, node, members, limits, erase_anyway: false };
        self.start(board, at, Boot::Found(&founding));
    }

    /// A node without power: what was in RAM is gone.
    pub(crate) fn lose(&mut self, board: &mut impl Board, at: usize) {
        board.renew(&mut self.nodes[at]);
        self.apps[at] = App::new();
        (self.until[at], self.back_at[at]) = (Instant::FOREVER, Some(Instant::FOREVER));
        (self.mounting[at], self.proposals[at]) = (None, None);
    }

    pub(crate) fn mount(&mut self, board: &mut impl Board, at: usize) {
        self.tally.mounts += 1;
        self.mounting[at] = Some(0);
        self.start(board, at, Boot::Mount);
        self.drive(board, at);
    }

    #[inline(never)]
    fn start(&mut self, board: &mut impl Board, at: usize, boot: Boot<'_>) {
        self.back_at[at] = None;
        let (now, config) = (self.now, config(self.random.draw()));
        let started =
            self.call(board, at, Call::Start, |node, _, _| node.start(now, &config, boot));
        started.expect("the configuration can work");
    }

    pub(crate) fn is_on(&self, at: usize) -> bool {
        self.back_at[at].is_none()
    }

    pub(crate) fn node(&self, at: usize) -> &Node {
        &self.nodes[at]
    }

    /// The node that leads in the newest term.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |at: &usize| self.is_on(*at) && self.node(*at).raft().role() == Role::Leader;
        (0..NODES).filter(leads).max_by_key(|at| self.node(*at).raft().term())
    }

    /// Have all the same state, with all that is in any log?
    pub(crate) fn agree(&self) -> bool {
        let applied = |at: usize| self.node(at).raft().applied();
        let last = (0..NODES).map(|at| self.node(at).raft().commit()).max();
        let same = |at: usize| Some(applied(at)) == last && self.apps[at] == self.apps[0];
        (0..NODES).all(|at| self.is_on(at) && same(at))
    }

    /// Makes a call of one node's.
    pub(crate) fn call<R>(
        &mut self,
        board: &mut impl Board,
        at: usize,
        what: Call,
        call: impl FnOnce(&mut Node, &mut [u8], &mut [u8]) -> R,
    ) -> R {
        let node: &mut Node = &mut self.nodes[at];
        let (frame, buffer) = (&mut self.frame[..], &mut self.buffers[at][..]);
        let (result, instructions) = board.count(|| call(node, frame, buffer));
        self.costs.add(at, what, instructions);
        if let Some(sum) = &mut self.mounting[at] {
            *sum += instructions;
        }
        result
    }

    /// Carries out what a node says until it waits, or loses power.
    pub(crate) fn drive(&mut self, board: &mut impl Board, at: usize) {
        while self.is_on(at) {
            let output = self.poll(board, at);
            if !self.carry_out(board, at, &output) {
                return;
            }
        }
    }

    // These are apart so that the stack does not hold what both need: there are 16 KB.
    #[inline(never)]
    fn poll(&mut self, board: &mut impl Board, at: usize) -> Output {
        let now = self.now;
        self.call(board, at, Call::PollOutput, |node, frame, buffer| {
            node.poll_output(now, frame, buffer)
        })
    }

    /// False once the node waits.
    #[inline(never)]
    fn carry_out(&mut self, board: &mut impl Board, at: usize, output: &Output) -> bool {
        let now = self.now;
        self.trace.told(format_args!("{at} at {now:?}: {output:?}"));
        match *output {
            Output::Flash(op) => self.flash(board, at, op),
            Output::Transmit { to, len } => {
                let frame = &self.frame[..len];
                self.trace.bytes(frame);
                self.ether.send(now, id(at), to, frame, &mut self.random);
            }
            Output::Apply { len, .. } => {
                let command = &self.frame[..len];
                self.trace.bytes(command);
                self.apps[at].apply(command);
                self.trace.bytes(self.apps[at].bytes());
            }
            Output::TakeSnapshot { offset, at: place, len_max } => {
                let out = &mut self.buffers[at][place..place + len_max];
                let len = self.apps[at].snapshot(offset, out);
                self.trace.bytes(&out[..len]);
                self.call(board, at, Call::HandleSnapshot, |node, _, _| {
                    node.handle_snapshot(len);
                });
            }
            Output::RestoreSnapshot { offset, at: place, len, .. } => {
                let bytes = &self.buffers[at][place..place + len];
                self.trace.bytes(bytes);
                let fits = self.apps[at].restore(offset, bytes);
                self.trace.told(format_args!("{fits}"));
            }
            Output::ReadReady(_) => self.tally.reads += 1,
            Output::Proposed { .. } => self.tally.forwarded += 1,
            Output::Event(event) => self.happened(event),
            Output::Wait { until } => {
                // Time goes on whatever a node says.
                self.until[at] = until.max(now.after(1));
                if let Some(sum) = self.mounting[at].take() {
                    self.costs.mount = sum.max(self.costs.mount);
                }
                return false;
            }
        }
        true
    }

    fn happened(&mut self, event: Event) {
        let tally = &mut self.tally;
        *match event {
            Event::Became { role: Role::Leader, .. } => &mut tally.elections,
            Event::SnapshotTaken { .. } => &mut tally.taken,
            Event::SnapshotInstalled { .. } => &mut tally.installed,
            Event::MembershipChanged { .. } => &mut tally.changes,
            Event::Stopped(_) => &mut tally.stopped,
            _ => return,
        } += 1;
    }

    /// Carries out one operation, if power does not fail meanwhile.
    fn flash(&mut self, board: &mut impl Board, at: usize, op: FlashOp) {
        let base = GEOMETRY.bytes() * at as u32;
        match op {
            FlashOp::Read { offset, len } => {
                let bytes = &mut self.buffers[at][..len as usize];
                board.read(base + offset, bytes);
                self.trace.bytes(bytes);
            }
            FlashOp::Write { offset, len } => {
                if let Some(cut) = self.cut.as_mut().filter(|cut| cut.node == at) {
                    if cut.writes == 0 {
                        return self.lose_in_write(board, at, base + offset, len);
                    }
                    cut.writes -= 1;
                }
                let bytes = &self.buffers[at][..len as usize];
                self.trace.bytes(bytes);
                board.write(base + offset, bytes);
            }
            FlashOp::Erase { offset, len } => board.erase(base + offset, len),
        }
        let now = self.now;
        self.call(board, at, Call::HandleFlash, |node, _, _| node.handle_flash(now, FlashDone::Ok));
    }

    /// Some words of a write stand, the next has some of its bits, and the rest is as it was.
    fn lose_in_write(&mut self, board: &mut impl Board, at: usize, place: u32, len: u32) {
        let word = usize::from(GEOMETRY.word_bytes);
        let whole = self.random.below(len / word as u32) as usize * word;
        let bits = (self.random.draw() as u32).to_le_bytes();
        let torn = &mut self.buffers[at][..whole + word];
        torn[whole..].iter_mut().zip(bits).for_each(|(byte, bits)| *byte |= bits);
        self.trace.bytes(torn);
        board.write(place, torn);
        self.tally.cuts += 1;
        self.tally.torn += u32::from(bits != [0; 4]);
        self.cut = None;
        self.lose(board, at);
        self.back_at[at] = Some(self.now.after(100 + self.random.below(400)));
    }

    /// When something happens by itself next.
    pub(crate) fn next(&self) -> Instant {
        let nodes = (0..NODES).map(|at| self.back_at[at].unwrap_or(self.until[at]));
        nodes.chain(self.ether.next()).min().unwrap_or(Instant::FOREVER)
    }

    /// All that happens by itself up to `until`, which is then.
    pub(crate) fn run(&mut self, board: &mut impl Board, until: Instant) {
        while self.next() <= until {
            self.now = self.next().max(self.now);
            self.step(board);
        }
        self.now = until;
    }

    /// What is due by now: a frame, or else what the nodes wait for.
    pub(crate) fn step(&mut self, board: &mut impl Board) {
        let now = self.now;
        if let Some(place) = self.ether.due(now) {
            let to = self.ether.to(place);
            let there = |at: &usize| to.contains(id(*at));
            for at in (0..NODES).filter(there) {
                if self.is_on(at) {
                    self.hear(board, at, place);
                }
            }
            self.ether.free(place);
            for at in (0..NODES).filter(there) {
                self.drive(board, at);
            }
            return;
        }
        for at in 0..NODES {
            if self.back_at[at].is_some_and(|back| back <= now) {
                self.mount(board, at);
            } else if self.is_on(at) && self.until[at] <= now {
                self.wake(board, at);
                self.drive(board, at);
            }
        }
    }

    #[inline(never)]
    fn wake(&mut self, board: &mut impl Board, at: usize) {
        let now = self.now;
        self.call(board, at, Call::HandleTimeout, |node, _, _| node.handle_timeout(now));
    }

    #[inline(never)]
    fn hear(&mut self, board: &mut impl Board, at: usize, place: usize) {
        let now = self.now;
        // Into the buffer that frames are received in, as on a board.
        let frame = self.ether.frame(place);
        let len = frame.len();
        self.frame[..len].copy_from_slice(frame);
        self.call(board, at, Call::HandleFrame, |node, frame, _| {
            node.handle_frame(now, &frame[..len]);
        });
    }
}

impl Default for Trio {
    fn default() -> Self {
        Self::new()
    }
}
