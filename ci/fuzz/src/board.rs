//! A board on the workbench: a node, its application, and its flash, which is honest unless told
//! otherwise and keeps every rule of NOR flash by assertion.

use std::collections::VecDeque;

use quorate::config::{Config, Flash, Link};
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::membership::Member;
use quorate::node::{Boot, Founding, Limits, Node, Output, Status};
use quorate::wire;
use quorate::{ClusterId, Instant, NodeId, NodeSet};

pub const CLUSTER: ClusterId = ClusterId([0xC1, 0x05, 0x7E, 0x12]);
const LOG_BYTES: usize = 1024;
const FRAME_BYTES: u16 = 128;
/// What a flash operation writes at most.
pub const BUFFER_BYTES: usize = 256;
/// The state that the application has to keep.
const STATE_BYTES: usize = 300;
/// Frames that are kept.
const SENT_MAX: usize = 64;
/// Calls of `poll_output` without an input in between: far more than anything takes.
const POLLS_MAX: u32 = 20_000;

pub const GEOMETRY: Geometry = Geometry {
    word_bytes: 4,
    erased: 0xFF,
    page_bytes: 4,
    block_bytes: 1024,
    blocks_per_segment: 2,
    segments: 7,
};

/// NOR flash: a word is programmed once between two erases.
pub struct Nor {
    pub bytes: Vec<u8>,
    /// Which words were programmed since they were erased.
    programmed: Vec<bool>,
    geometry: Geometry,
}

impl Nor {
    pub fn blank(geometry: Geometry) -> Self {
        let bytes = vec![geometry.erased; geometry.bytes() as usize];
        let words = bytes.len() / usize::from(geometry.word_bytes);
        Self { bytes, programmed: vec![false; words], geometry }
    }

    /// A flash that holds these bytes, and is blank behind them.
    pub fn with(geometry: Geometry, image: &[u8]) -> Self {
        let mut flash = Self::blank(geometry);
        let len = image.len().min(flash.bytes.len());
        flash.bytes[..len].copy_from_slice(&image[..len]);
        let word = usize::from(geometry.word_bytes);
        for (programmed, word) in flash.programmed.iter_mut().zip(flash.bytes.chunks(word)) {
            *programmed = word.iter().any(|b| *b != geometry.erased);
        }
        flash
    }

    /// Carries out an operation, of which a cut leaves `done` bytes.
    pub fn carry_out(&mut self, op: FlashOp, buffer: &mut [u8], done: Option<usize>) {
        let word = usize::from(self.geometry.word_bytes);
        match op {
            FlashOp::Read { offset, len } => {
                let (offset, len) = (offset as usize, len as usize);
                buffer[..len].copy_from_slice(&self.bytes[offset..offset + len]);
            }
            FlashOp::Write { offset, len } => {
                let (offset, len) = (offset as usize, len as usize);
                assert!(offset % word == 0 && len % word == 0 && len > 0, "whole words");
                let done = done.unwrap_or(len).min(len);
                self.bytes[offset..offset + done].copy_from_slice(&buffer[..done]);
                for at in offset / word..(offset + done).div_ceil(word) {
                    assert!(!self.programmed[at], "word {at} is programmed twice");
                    self.programmed[at] = true;
                }
            }
            FlashOp::Erase { offset, len } => {
                let (offset, len) = (offset as usize, len as usize);
                let block = self.geometry.block_bytes as usize;
                assert!(offset % block == 0 && len % block == 0 && len > 0, "whole blocks");
                let done = done.unwrap_or(len).min(len);
                self.bytes[offset..offset + done].fill(self.geometry.erased);
                self.programmed[offset / word..(offset + done) / word].fill(false);
            }
        }
    }
}

/// How flash operations end from now on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Temper {
    /// As they should.
    Honest,
    /// The next one fails, and has done nothing.
    Fails,
}

/// Runs one call of the core, and may look at what happens meanwhile.
pub type Watch = fn(&mut dyn FnMut());

/// The board.
pub struct Board {
    node: Box<Node<[u8; LOG_BYTES]>>,
    number: u8,
    /// Around every call of the core.
    pub watch: Watch,
    /// Commands that it applied.
    pub applied: u64,
    pub flash: Nor,
    pub now: Instant,
    pub temper: Temper,
    /// An operation that was not carried out yet.
    pub out: Option<FlashOp>,
    /// Operations are carried out at once.
    pub prompt: bool,
    /// What it sent, the newest last.
    pub sent: VecDeque<(NodeSet, Vec<u8>)>,
    frame: [u8; FRAME_BYTES as usize],
    buffer: [u8; BUFFER_BYTES],
    until: Instant,
}

fn config(number: u8) -> Config {
    let link = Link {
        bits_per_second: 250_000,
        frame_bytes: FRAME_BYTES,
        fragment_bytes: 0,
        overhead_bytes: 10,
        turnaround_us: 200,
        duty_permille: 1000,
        broadcast: true,
    };
    let flash = Flash { geometry: GEOMETRY, word_us: 40, erase_ms_max: 90, stalls: true };
    Config::new(link, flash, 3, u64::from(number))
}

fn watched<T>(watch: Watch, call: impl FnOnce() -> T) -> T {
    let (mut call, mut result) = (Some(call), None);
    watch(&mut || {
        if let Some(call) = call.take() {
            result = Some(call());
        }
    });
    result.expect("a watch makes the call")
}

/// A member's number.
pub fn id(number: u8) -> NodeId {
    NodeId::new(number).expect("a member's number")
}

impl Board {
    /// Board `number` of a cluster of `members`, founded and running.
    pub fn founded(number: u8, members: u8) -> Self {
        Self::watched(number, members, |call| call())
    }

    /// As [`Board::founded`], watched from its founding on.
    pub fn watched(number: u8, members: u8, watch: Watch) -> Self {
        let mut board = Self {
            node: Box::default(),
            number,
            watch,
            applied: 0,
            flash: Nor::blank(GEOMETRY),
            now: Instant::ZERO,
            temper: Temper::Honest,
            out: None,
            prompt: true,
            sent: VecDeque::new(),
            frame: [0; FRAME_BYTES as usize],
            buffer: [0; BUFFER_BYTES],
            until: Instant::ZERO,
        };
        let members: Vec<Member> = (1..=members).map(id).map(Member::new).collect();
        let limits = Limits {
            frame_bytes: FRAME_BYTES,
            entry_bytes: 40,
            log_bytes: 900,
            snapshot_bytes: STATE_BYTES as u32,
        };
        let founding = Founding {
            cluster: CLUSTER,
            node: id(number),
            members: &members,
            limits,
            erase_anyway: false,
        };
        let (now, config) = (board.now, config(number));
        board.call(|node| node.start(now, &config, Boot::Found(&founding))).expect("it can work");
        board.settle();
        assert!(board.status().running, "{:?}", board.status());
        board
    }

    /// Every call of the core goes through here.
    fn call<T>(&mut self, call: impl FnOnce(&mut Node) -> T) -> T {
        let node: &mut Node = &mut *self.node;
        watched(self.watch, || call(node))
    }

    /// A look at the node.
    pub fn status(&self) -> Status {
        let node: &Node = &*self.node;
        node.status()
    }

    /// Power is cut, `done` bytes into whatever flash operation is out, and comes back.
    pub fn reboot(&mut self, done: usize) {
        if let Some(op @ (FlashOp::Write { .. } | FlashOp::Erase { .. })) = self.out.take() {
            // Bytes of a torn word are programmed: the whole word counts as written.
            self.flash.carry_out(op, &mut self.buffer, Some(done));
        }
        *self.node = Node::new();
        self.buffer.fill(0xA5);
        self.frame.fill(0xA5);
        let (now, number) = (self.now, self.number);
        let config = config(number);
        self.call(|node| node.start(now, &config, Boot::Mount)).expect("it can work");
        self.settle();
    }

    pub fn frame(&mut self, frame: &[u8]) {
        let now = self.now;
        self.call(|node| node.handle_frame(now, frame));
        self.settle();
    }

    /// Lets time pass, up to a moment or to what the node waits for.
    pub fn pass(&mut self, ms: u32) {
        self.now = if ms == 0 && self.until < Instant::FOREVER {
            self.until.max(self.now)
        } else {
            self.now.after(ms)
        };
        let now = self.now;
        self.call(|node| node.handle_timeout(now));
        self.settle();
    }

    pub fn propose(&mut self, command: &[u8]) -> bool {
        let taken = self.call(|node| node.propose(command)).is_ok();
        self.settle();
        taken
    }

    /// The operation that is out is carried out.
    pub fn answer(&mut self) {
        if let Some(op) = self.out.take() {
            let done = self.carry_out(op);
            let now = self.now;
            self.call(|node| node.handle_flash(now, done));
            self.settle();
        }
    }

    fn carry_out(&mut self, op: FlashOp) -> FlashDone {
        if self.temper == Temper::Fails {
            self.temper = Temper::Honest;
            return FlashDone::Failed;
        }
        self.flash.carry_out(op, &mut self.buffer, None);
        FlashDone::Ok
    }

    /// Answers to what was never asked.
    pub fn misuse(&mut self, which: u8, number: u16) {
        let now = self.now;
        match which % 4 {
            0 if self.out.is_none() => self.call(|node| node.handle_flash(now, FlashDone::Ok)),
            1 => self.call(|node| node.handle_snapshot(usize::from(number))),
            2 => self.call(|node| node.refuse_apply(number)),
            _ => self.call(|node| node.handle_unreachable(id(number as u8 % 31 + 1))),
        }
        self.settle();
    }

    /// Does all that the node asks for.
    pub fn settle(&mut self) {
        for _ in 0..POLLS_MAX {
            let now = self.now;
            let node: &mut Node = &mut *self.node;
            let (frame, buffer) = (&mut self.frame, &mut self.buffer);
            match watched(self.watch, || node.poll_output(now, frame, buffer)) {
                Output::Flash(op) if self.prompt => {
                    let done = self.carry_out(op);
                    self.call(|node| node.handle_flash(now, done));
                }
                Output::Flash(op) => {
                    assert!(self.out.replace(op).is_none(), "one flash operation at a time");
                }
                Output::Transmit { to, len } => {
                    assert!(!to.is_empty(), "a frame for nobody");
                    let frame = &self.frame[..len];
                    let said =
                        wire::decode(frame).expect("a node sends what it would read").envelope;
                    assert_eq!(said.cluster, CLUSTER);
                    self.sent.push_back((to, frame.to_vec()));
                    if self.sent.len() > SENT_MAX {
                        self.sent.pop_front();
                    }
                }
                Output::Apply { len, .. } => {
                    assert!(len <= self.frame.len());
                    self.applied += 1;
                }
                Output::TakeSnapshot { offset, at, len_max } => {
                    let left = STATE_BYTES.saturating_sub(offset as usize);
                    let len = left.min(len_max);
                    self.buffer[at..at + len].fill(0x5A);
                    self.call(|node| node.handle_snapshot(len));
                }
                Output::RestoreSnapshot { at, len, .. } => assert!(at + len <= self.buffer.len()),
                Output::ReadReady(_) | Output::Proposed { .. } | Output::Event(_) => {}
                Output::Wait { until } => {
                    self.until = until;
                    return;
                }
            }
        }
        panic!("no end of outputs");
    }
}
