//! The blocking runner: boards in super-loops on one serial wire, with plain timers, links and flash that misbehave.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use embedded_io::{ErrorType as IoErrorType, Read, ReadReady, Write, WriteReady};
use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use quorate::config::{Config, Flash};
use quorate::event::Event;
use quorate::flash::Geometry;
use quorate::membership::Member;
use quorate::node::{Boot, Founding, Limits, Node, Outcome, Status};
use quorate::plan;
use quorate::raft::Role;
use quorate::typed::{Change, Command, ConfigMap, MapLimits, Value};
use quorate::{ClusterId, Instant, NodeId};
use quorate_embedded::clock::CounterClock;
use quorate_embedded::faulty::{FaultyFlash, FaultyLink, FlashFaults, LinkFaults};
use quorate_embedded::flash::Partition;
use quorate_embedded::link::Serial;
use quorate_embedded::power::{PowerFail, reset};
use quorate_embedded::runner::{BootError, News, Parts, SuperLoop};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::task::Poll;

/// What 115,200 baud carry in a millisecond.
const BYTES_PER_MS: usize = 11;
const LIMITS: Limits =
    Limits { frame_bytes: 128, entry_bytes: 70, log_bytes: 900, snapshot_bytes: 600 };
const MAP: MapLimits = MapLimits { keys: 16, key_bytes: 12, value_bytes: 16, bytes: 500 };
const GEOMETRY: Geometry = Geometry {
    word_bytes: 4,
    erased: 0xff,
    page_bytes: 4,
    block_bytes: 1024,
    blocks_per_segment: 2,
    segments: 8,
};
const START: u32 = 16 * 1024;

/// A wire that all share: what one board writes, all others read, and two at once garble each other. Bytes may be hit.
struct Wire {
    now_ms: Cell<u64>,
    out: RefCell<Vec<VecDeque<u8>>>,
    comes: RefCell<Vec<VecDeque<u8>>>,
    noise_permille: Cell<u64>,
    random: Cell<u64>,
    cut_off: RefCell<Vec<bool>>,
}

impl Wire {
    fn draw(&self) -> u64 {
        let next = self.random.get().wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        self.random.set(next);
        next >> 33
    }

    /// A millisecond passes.
    fn pass(&self) {
        self.now_ms.set(self.now_ms.get() + 1);
        let (mut out, mut comes) = (self.out.borrow_mut(), self.comes.borrow_mut());
        let cut_off = self.cut_off.borrow();
        for from in 0..out.len() {
            for _ in 0..BYTES_PER_MS {
                let Some(mut byte) = out[from].pop_front() else { break };
                if self.draw() % 1000 < self.noise_permille.get() {
                    byte = self.draw() as u8;
                }
                for to in (0..comes.len()).filter(|to| *to != from) {
                    if !cut_off[from] && !cut_off[to] && comes[to].len() < 512 {
                        comes[to].push_back(byte);
                    }
                }
            }
        }
    }
}

struct Uart {
    wire: Rc<Wire>,
    at: usize,
}

impl IoErrorType for Uart {
    type Error = Infallible;
}

impl Read for Uart {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
        let comes = &mut self.wire.comes.borrow_mut()[self.at];
        let count = bytes.len().min(comes.len());
        assert!(count > 0, "it would wait");
        bytes[..count].iter_mut().for_each(|byte| *byte = comes.pop_front().unwrap());
        Ok(count)
    }
}

impl ReadReady for Uart {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(!self.wire.comes.borrow()[self.at].is_empty())
    }
}

impl Write for Uart {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let out = &mut self.wire.out.borrow_mut()[self.at];
        let count = bytes.len().min(16 - out.len());
        assert!(count > 0, "it would wait");
        out.extend(&bytes[..count]);
        Ok(count)
    }
    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl WriteReady for Uart {
    fn write_ready(&mut self) -> Result<bool, Infallible> {
        Ok(self.wire.out.borrow()[self.at].len() < 16)
    }
}

/// Flash that keeps its bytes when the board loses power.
#[derive(Clone)]
struct Memory {
    bytes: Rc<RefCell<Vec<u8>>>,
    erases: Rc<Cell<u32>>,
}

impl ErrorType for Memory {
    type Error = Infallible;
}

impl ReadNorFlash for Memory {
    const READ_SIZE: usize = 1;
    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.copy_from_slice(&self.bytes.borrow()[offset as usize..][..bytes.len()]);
        Ok(())
    }
    fn capacity(&self) -> usize {
        self.bytes.borrow().len()
    }
}

impl NorFlash for Memory {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 1024;
    fn erase(&mut self, from: u32, to: u32) -> Result<(), Infallible> {
        self.erases.set(self.erases.get() + 1);
        self.bytes.borrow_mut()[from as usize..to as usize].fill(0xff);
        Ok(())
    }
    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Infallible> {
        let place = &mut self.bytes.borrow_mut()[offset as usize..][..bytes.len()];
        assert!(place.iter().all(|byte| *byte == 0xff), "programmed twice at {offset}");
        place.copy_from_slice(bytes);
        Ok(())
    }
}

type Timer = Box<dyn FnMut() -> u32>;
type Link = FaultyLink<'static, Serial<'static, Uart>>;
type Loop =
    SuperLoop<'static, &'static mut ConfigMap, Link, FaultyFlash<Memory>, CounterClock<Timer>>;

struct Board {
    flash: Memory,
    run: Option<Loop>,
    until: Instant,
    events: Vec<Event>,
    outcomes: Vec<Outcome>,
    power: &'static PowerFail,
}

struct Bench {
    wire: Rc<Wire>,
    boards: Vec<Board>,
    starts: u64,
    faults: LinkFaults,
}

fn id(at: usize) -> NodeId {
    NodeId::new(at as u8 + 1).unwrap()
}

fn leak(bytes: usize) -> &'static mut [u8] {
    Vec::leak(vec![0; bytes])
}

impl Bench {
    fn new(count: usize, seed: u64) -> Self {
        let wire = Wire {
            now_ms: Cell::new(0),
            out: RefCell::new(vec![VecDeque::new(); count]),
            comes: RefCell::new(vec![VecDeque::new(); count]),
            noise_permille: Cell::new(0),
            random: Cell::new(seed),
            cut_off: RefCell::new(vec![false; count]),
        };
        let board = |_| Board {
            flash: Memory {
                bytes: Rc::new(RefCell::new(vec![0xff; 2 * START as usize])),
                erases: Rc::default(),
            },
            run: None,
            until: Instant::ZERO,
            events: vec![],
            outcomes: vec![],
            power: Box::leak(Box::new(PowerFail::new())),
        };
        let boards = (0..count).map(board).collect();
        let faults = LinkFaults::default();
        let mut bench = Self { wire: Rc::new(wire), boards, starts: 0, faults };
        let members: Vec<Member> = (0..count).map(|at| Member::new(id(at))).collect();
        for at in 0..count {
            let founding = Founding {
                cluster: ClusterId([1; 4]),
                node: id(at),
                members: &members,
                limits: LIMITS,
                erase_anyway: false,
            };
            bench.start(at, Boot::Found(&founding), FlashFaults::default()).unwrap();
        }
        bench
    }

    fn start(&mut self, at: usize, boot: Boot<'_>, faults: FlashFaults) -> Result<(), BootError> {
        self.starts += 1;
        let flash = Flash { geometry: GEOMETRY, word_us: 46, erase_ms_max: 22, stalls: true };
        let seed = self.wire.draw() << 8 | self.starts;
        let config = Config::new(plan::serial(115_200), flash, 5, seed);
        let app: &'static mut ConfigMap = Box::leak(Box::new(ConfigMap::<[u8; 600]>::new()));
        app.start(MAP, 1, None).unwrap();
        let node: &'static mut Node = Box::leak(Box::new(Node::<[u8; 1200]>::new()));
        let uart = Uart { wire: self.wire.clone(), at };
        let memory = leak(Serial::<Uart>::memory_bytes(128));
        let serial = Serial::new_shared(uart, memory, seed as u32);
        let link = FaultyLink::new(serial, self.faults, seed as u32, leak(256));
        let board = &mut self.boards[at];
        let driver = FaultyFlash::new(board.flash.clone(), faults, seed as u32);
        let flash = Partition::new(driver, START, 0..START, &GEOMETRY).unwrap();
        // 24 bits at 1 MHz: a turn takes 16.8 s.
        let wire = self.wire.clone();
        let count: Timer = Box::new(move || (wire.now_ms.get() * 1000) as u32 & 0xff_ffff);
        let clock = CounterClock::new(count, 24, 16_000_000, 16).unwrap();
        let (frame, buffer) = (leak(128), leak(256));
        let power = Some(board.power);
        let mut run = SuperLoop::new(Parts { node, app, link, flash, clock, frame, buffer, power });
        let started = run.start(&config, boot);
        board.run = Some(run);
        (board.until, board.events) = (Instant::ZERO, vec![]);
        started
    }

    /// A board does what there is to do, when it asked to be called or something has come.
    fn turn(&mut self, at: usize) {
        let comes = !self.wire.comes.borrow()[at].is_empty();
        let board = &mut self.boards[at];
        let Some(run) = &mut board.run else { return };
        if !comes && run.now() < board.until {
            return;
        }
        for _ in 0..10_000 {
            match run.poll() {
                News::Event(event) => board.events.push(event),
                News::ReadReady(_) => {}
                News::Proposed { outcome, .. } => board.outcomes.push(outcome),
                News::Wait { until } => {
                    let (now, link) = (run.now(), run.link());
                    assert!(!quorate_embedded::link::Link::is_busy(link) || until <= now);
                    board.until = until;
                    return;
                }
            }
        }
        panic!("never waits");
    }

    fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.wire.pass();
            for at in 0..self.boards.len() {
                self.turn(at);
            }
        }
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&mut Self) -> bool) {
        for _ in 0..6000 {
            if done(self) {
                return;
            }
            self.run_ms(20);
        }
        panic!("in vain: {what}");
    }

    fn status(&mut self, at: usize) -> Option<Status> {
        self.boards[at].run.as_mut().map(|run| run.node().status())
    }

    fn leader(&mut self) -> Option<usize> {
        (0..self.boards.len()).find(|at| {
            self.status(*at).is_some_and(|s| s.role == Role::Leader && s.last.term == s.term)
        })
    }

    fn set(&mut self, at: usize, key: &str, value: i64) {
        let mut bytes = [0; 70];
        let command = Command::Set { key, value: Value::Int(value), expected: None };
        let len = command.encode(1, &mut bytes).unwrap();
        let before = self.boards[at].outcomes.len();
        self.run_until("the command to be taken", |bench| {
            let board = &mut bench.boards[at];
            board.until = Instant::ZERO;
            let run = board.run.as_mut().unwrap();
            let until = run.now().after(60_000);
            run.node().forward(&bytes[..len], until).is_ok()
        });
        self.run_until("its outcome", |bench| bench.boards[at].outcomes.len() > before);
        let outcome = self.boards[at].outcomes.last();
        assert!(matches!(outcome, Some(Outcome::Applied { .. })), "{key} = {value}: {outcome:?}");
    }

    fn value(&mut self, at: usize, key: &str) -> Option<i64> {
        match self.boards[at].run.as_mut()?.app().get(key) {
            Some(Value::Int(value)) => Some(value),
            _ => None,
        }
    }

    fn show_everywhere(&mut self, key: &str, value: i64) {
        self.run_until("all boards to show it", |bench| {
            (0..bench.boards.len()).all(|at| bench.value(at, key) == Some(value))
        });
    }
}

#[test]
fn three_boards_agree_over_a_wire_with_noise_and_a_link_with_faults() {
    let mut bench = Bench::new(3, 5);
    bench.run_until("a leader", |bench| bench.leader().is_some());
    bench.wire.noise_permille.set(1);
    for at in 0..3 {
        bench.boards[at].run.as_mut().unwrap().link().set_faults(LinkFaults {
            lose_permille: 50,
            duplicate_permille: 50,
            corrupt_permille: 20,
            delay_permille: 50,
            delay_frames: 4,
        });
    }
    for n in 0..150i64 {
        bench.set(n as usize % 3, ["lamp", "fan", "door"][n as usize % 7 % 3], n);
    }
    bench.set(0, "last", 1);
    bench.show_everywhere("last", 1);
    let expected: Vec<_> = ["lamp", "fan", "door"].map(|key| bench.value(0, key)).to_vec();
    for at in 0..3 {
        let shown: Vec<_> = ["lamp", "fan", "door"].map(|key| bench.value(at, key)).to_vec();
        assert_eq!(shown, expected);
        let status = bench.status(at).unwrap();
        assert!(status.fault.is_none() && status.snapshot.index.0 > 0, "{status:?}");
        let counters = *bench.boards[at].run.as_mut().unwrap().link().counters();
        let each = [counters.lost, counters.duplicated, counters.corrupted, counters.delayed];
        assert!(each.iter().all(|count| *count > 0), "{counters:?}");
        // Noise is caught by the frames' own check.
        assert!(status.frames_refused > 0);
        let told = core::iter::from_fn(|| {
            let run = bench.boards[at].run.as_mut().unwrap();
            run.app().poll_change().map(|change| matches!(change, Change::Set(_)))
        });
        assert!(told.count() > 0);
    }
}

#[test]
fn a_board_that_boots_in_the_middle_of_frames_catches_up_and_keeps_why_it_was_reset() {
    let mut bench = Bench::new(3, 6);
    bench.run_until("a leader", |bench| bench.leader().is_some());
    bench.set(0, "lamp", 1);
    bench.show_everywhere("lamp", 1);
    for life in 0..5u16 {
        let at = usize::from(life) % 3;
        // Torn in a write or an erase that comes soon: as if power had failed in it.
        let faults = FlashFaults { tear_after: Some(u32::from(life)), ..FlashFaults::default() };
        bench.boards[at].run = None;
        bench.start(at, Boot::Mount, faults).unwrap();
        bench.run_ms(300);
        bench.set((at + 1) % 3, "lamp", i64::from(life));
        bench.boards[at].run = None;
        bench.wire.comes.borrow_mut()[at].clear();
        bench.run_ms(37);
        bench.start(at, Boot::Mount, FlashFaults::default()).unwrap();
        let reason = [reset::BROWN_OUT, reset::WATCHDOG][usize::from(life) % 2];
        bench.boards[at].run.as_mut().unwrap().node().remember(reason);
        bench.show_everywhere("lamp", i64::from(life));
        bench.run_ms(3_000);
        bench.boards[at].run = None;
        bench.start(at, Boot::Mount, FlashFaults::default()).unwrap();
        bench.run_until("the board to run", |bench| bench.status(at).unwrap().running);
        let note = bench.status(at).unwrap().note;
        assert_eq!((note.own(), note.fault()), (reason, None));
    }
    assert_eq!(reset::name(reset::WATCHDOG), Some("watchdog"));
    assert_eq!(reset::name(300), None);
}

#[test]
fn while_power_fails_no_erase_is_begun() {
    let mut bench = Bench::new(3, 7);
    bench.run_until("a leader", |bench| bench.leader().is_some());
    let erases = |bench: &Bench, at: usize| bench.boards[at].flash.erases.get();
    for n in 0..200 {
        bench.set(0, "lamp", n);
    }
    let leader = bench.leader().unwrap();
    let (failing, other) = ((leader + 1) % 3, (leader + 2) % 3);
    bench.boards[failing].power.set_failing(true);
    let (before, others) = (erases(&bench, failing), erases(&bench, other));
    // What finds room is written all the same, also behind pauses in which flash would be erased ahead.
    for n in 200..204 {
        bench.set(leader, "lamp", n);
        bench.run_ms(5_000);
        let status = bench.status(failing).unwrap();
        assert_eq!(status.durable, status.last.index, "{n}");
    }
    for n in 204..600 {
        bench.set(leader, "lamp", n);
    }
    assert_eq!(erases(&bench, failing), before);
    assert!(erases(&bench, other) > others + 6, "{others} {}", erases(&bench, other));
    bench.boards[failing].power.set_failing(false);
    bench.show_everywhere("lamp", 599);
    assert!(erases(&bench, failing) > before);
}

#[test]
fn boards_that_found_while_power_fails_go_on_when_it_is_good_again() {
    let mut bench = Bench::new(3, 7);
    bench.boards.iter().for_each(|board| board.power.set_failing(true));
    bench.run_ms(5_000);
    assert!(bench.boards.iter().all(|board| board.flash.erases.get() == 0));
    bench.boards.iter().for_each(|board| board.power.set_failing(false));
    // Nobody calls them but when they asked for it.
    bench.run_ms(5_000);
    assert!(bench.leader().is_some());
}

#[test]
fn writes_that_fail_retire_places_and_not_the_board() {
    let mut bench = Bench::new(3, 8);
    bench.run_until("a leader", |bench| bench.leader().is_some());
    bench.boards[2].run = None;
    let faults = FlashFaults { read_permille: 2, write_permille: 4, ..FlashFaults::default() };
    bench.start(2, Boot::Mount, faults).unwrap();
    for n in 0..100 {
        bench.set(0, "lamp", n);
    }
    bench.show_everywhere("lamp", 99);
    let status = bench.status(2).unwrap();
    assert!(status.flash.segments_retired > 0 && status.fault.is_none(), "{status:?}");
}

#[test]
fn a_partition_of_another_geometry_than_the_configuration_is_refused() {
    let mut bench = Bench::new(1, 9);
    let flash = Flash {
        geometry: Geometry { segments: 7, ..GEOMETRY },
        word_us: 46,
        erase_ms_max: 22,
        stalls: true,
    };
    let config = Config::new(plan::serial(115_200), flash, 5, 1);
    let run = bench.boards[0].run.as_mut().unwrap();
    assert_eq!(run.start(&config, Boot::Mount), Err(BootError::Partition));
}

/// A link that always has another frame, as one that brings them faster than the board takes them in.
struct Flood(u32, [u8; 20]);

impl quorate_embedded::link::Link for Flood {
    fn send(&mut self, _: Instant, _: quorate::NodeSet, _: &[u8]) -> Poll<()> {
        Poll::Ready(())
    }

    fn receive(&mut self, _: Instant) -> Option<&[u8]> {
        self.0 += 1;
        assert!(self.0 < 1_000, "the caller never has its turn");
        Some(&self.1)
    }
}

#[test]
fn a_link_that_always_has_a_frame_leaves_the_caller_its_turn() {
    let app: &'static mut ConfigMap = Box::leak(Box::new(ConfigMap::<[u8; 600]>::new()));
    let node: &'static mut Node = Box::leak(Box::new(Node::<[u8; 1200]>::new()));
    let bytes = Rc::new(RefCell::new(vec![0xff; 2 * START as usize]));
    let driver = Memory { bytes, erases: Rc::default() };
    let flash = Partition::new(driver, START, 0..START, &GEOMETRY).unwrap();
    let count: Timer = Box::new(|| 1_000);
    let clock = CounterClock::new(count, 24, 16_000_000, 16).unwrap();
    let (link, frame, buffer) = (Flood(0, [9; 20]), leak(128), leak(256));
    let mut run =
        SuperLoop::new(Parts { node, app, link, flash, clock, frame, buffer, power: None });
    let now = run.now();
    assert!(matches!(run.poll(), News::Wait { until } if until <= now));
    assert!(run.link().0 > 1);
}
