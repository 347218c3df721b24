//! The application on the host: two boards in super-loops on one link, their buttons, and what they show.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::task::Poll;

use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use quorate::config::{Config, Flash};
use quorate::event::Event;
use quorate::flash::Geometry;
use quorate::membership::Member;
use quorate::node::{Boot, Founding, Limits, Node, Outcome};
use quorate::plan;
use quorate::typed::{Command, ConfigMap, StateMachine, Value};
use quorate::{ClusterId, EntryId, Index, Instant, NodeId, NodeSet, Term};
use quorate_apps::{
    App, Button, COMMAND_BYTES, LAMP, LEVEL, MAP_BYTES, Panel, REPORT, SCHEMA, Settings, turn,
};
use quorate_embedded::clock::Clock;
use quorate_embedded::flash::Partition;
use quorate_embedded::link::Link;
use quorate_embedded::runner::{Parts, SuperLoop};

const GEOMETRY: Geometry = Geometry {
    word_bytes: 4,
    erased: 0xff,
    page_bytes: 4,
    block_bytes: 1024,
    blocks_per_segment: 2,
    segments: 8,
};

struct Memory(Vec<u8>);

impl ErrorType for Memory {
    type Error = Infallible;
}

impl ReadNorFlash for Memory {
    const READ_SIZE: usize = 1;
    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
        Ok(())
    }
    fn capacity(&self) -> usize {
        self.0.len()
    }
}

impl NorFlash for Memory {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 1024;
    fn erase(&mut self, from: u32, to: u32) -> Result<(), Infallible> {
        self.0[from as usize..to as usize].fill(0xff);
        Ok(())
    }
    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Infallible> {
        self.0[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

type Queue = Rc<RefCell<VecDeque<Vec<u8>>>>;

struct Wire {
    comes: Queue,
    goes: Queue,
    frame: Vec<u8>,
}

impl Link for Wire {
    fn send(&mut self, _: Instant, _: NodeSet, frame: &[u8]) -> Poll<()> {
        self.goes.borrow_mut().push_back(frame.to_vec());
        Poll::Ready(())
    }
    fn receive(&mut self, _: Instant) -> Option<&[u8]> {
        self.frame = self.comes.borrow_mut().pop_front()?;
        Some(&self.frame)
    }
}

#[derive(Clone, Default)]
struct Time(Rc<RefCell<u64>>);

impl Clock for Time {
    fn now(&mut self) -> Instant {
        Instant::from_millis(*self.0.borrow())
    }
}

#[derive(Default)]
struct Pins {
    shown: Vec<Settings>,
    events: usize,
    applied: usize,
    press: bool,
}

impl Panel for Pins {
    fn show(&mut self, settings: &Settings) {
        self.shown.push(*settings);
    }
    fn tell(&mut self, _: Event) {
        self.events += 1;
    }
    fn answer(&mut self, outcome: Outcome) {
        self.applied += usize::from(matches!(outcome, Outcome::Applied { .. }));
    }
    fn is_pressed(&mut self, _: Instant) -> bool {
        std::mem::take(&mut self.press)
    }
}

type Board = SuperLoop<'static, App<'static>, Wire, Memory, Time>;

fn boards(time: &Time) -> Vec<(Board, Pins)> {
    let ids = [1, 2].map(|n| NodeId::new(n).unwrap());
    let members = ids.map(Member::new);
    let queues: [Queue; 2] = Default::default();
    let start = |at: usize| {
        let map: &'static mut ConfigMap = Box::leak(Box::new(ConfigMap::<[u8; MAP_BYTES]>::new()));
        let node: &'static mut Node = Box::leak(Box::new(Node::<[u8; 1200]>::new()));
        let flash = Memory(vec![0xff; GEOMETRY.bytes() as usize]);
        let (goes, comes) = (queues[1 - at].clone(), queues[at].clone());
        let mut board = SuperLoop::new(Parts {
            node,
            app: App::new(map).unwrap(),
            link: Wire { comes, goes, frame: vec![] },
            flash: Partition::new(flash, 0, 0..0, &GEOMETRY).unwrap(),
            clock: time.clone(),
            frame: Vec::leak(vec![0; 112]),
            buffer: Vec::leak(vec![0; 256]),
            power: None,
        });
        let limits = Limits {
            frame_bytes: 112,
            entry_bytes: 59,
            log_bytes: 900,
            snapshot_bytes: MAP_BYTES as u32,
        };
        let founding = Founding {
            cluster: ClusterId([1; 4]),
            node: ids[at],
            members: &members,
            limits,
            erase_anyway: false,
        };
        let flash = Flash { geometry: GEOMETRY, word_us: 46, erase_ms_max: 22, stalls: true };
        let config = Config::new(plan::serial(115_200), flash, 2, at as u64 + 1);
        board.start(&config, Boot::Found(&founding)).unwrap();
        (board, Pins::default())
    };
    vec![start(0), start(1)]
}

/// Lets `ms` pass.
fn run(boards: &mut [(Board, Pins)], time: &Time, ms: u64) {
    for _ in 0..ms / 5 {
        *time.0.borrow_mut() += 5;
        for (board, pins) in &mut *boards {
            turn(board, pins);
        }
    }
}

#[test]
fn each_board_s_button_switches_the_lamp_of_all() {
    let time = Time::default();
    let mut boards = boards(&time);
    run(&mut boards, &time, 5_000);
    assert!(boards.iter().all(|(_, pins)| pins.events > 0 && pins.shown.is_empty()));
    for (presses, by) in [(1, 0), (2, 1), (3, 1)] {
        boards[by].1.press = true;
        run(&mut boards, &time, 3_000);
        let lamp = presses % 2 == 1;
        for (board, pins) in &mut boards {
            assert_eq!(pins.shown.last().map(|it| it.lamp), Some(lamp), "press {presses}");
            assert_eq!(pins.shown.len(), presses);
            assert_eq!(board.app().map().get(LAMP), Some(Value::Bool(lamp)));
        }
    }
    assert_eq!((boards[0].1.applied, boards[1].1.applied), (1, 2));
}

#[test]
fn two_presses_at_once_switch_the_lamp_once() {
    let time = Time::default();
    let mut boards = boards(&time);
    run(&mut boards, &time, 5_000);
    boards.iter_mut().for_each(|(_, pins)| pins.press = true);
    run(&mut boards, &time, 5_000);
    for (board, pins) in &mut boards {
        assert!(board.app().settings().lamp);
        assert_eq!((pins.shown.len(), pins.applied), (1, 1));
    }
}

fn set(app: &mut App<'_>, index: u64, key: &str, value: Value<'_>) {
    let mut bytes = [0; COMMAND_BYTES];
    let len = Command::Set { key, value, expected: None }.encode(SCHEMA, &mut bytes).unwrap();
    app.apply(EntryId::new(Index(index), Term(1)), &bytes[..len]).unwrap();
}

#[test]
fn what_is_set_to_nonsense_is_bounded_or_as_by_default() {
    let mut map = ConfigMap::<[u8; MAP_BYTES]>::new();
    let mut app = App::new(&mut map).unwrap();
    assert_eq!((app.poll_change(), app.settings()), (None, Settings::default()));
    set(&mut app, 1, LEVEL, Value::Int(40));
    set(&mut app, 2, REPORT, Value::Int(5));
    let settings = Settings { lamp: false, level_percent: 40, report_every_s: 5 };
    assert_eq!((app.poll_change(), app.poll_change()), (Some(settings), None));
    set(&mut app, 8, "else", Value::Int(5));
    assert_eq!(app.poll_change(), None, "of no concern here");
    set(&mut app, 3, LEVEL, Value::Int(1 << 40));
    set(&mut app, 4, REPORT, Value::Int(-1));
    set(&mut app, 5, LAMP, Value::Str("on"));
    let settings = Settings { lamp: false, level_percent: 100, report_every_s: 1 };
    assert_eq!(app.poll_change(), Some(settings));
    set(&mut app, 6, LEVEL, Value::Bytes(&[1]));
    set(&mut app, 7, REPORT, Value::Int(1 << 40));
    let settings = Settings { lamp: false, level_percent: 100, report_every_s: 86_400 };
    assert_eq!(app.poll_change(), Some(settings));
}

#[test]
fn the_longest_command_is_taken_and_fits() {
    let mut map = ConfigMap::<[u8; MAP_BYTES]>::new();
    let mut app = App::new(&mut map).unwrap();
    set(&mut app, 1, "twelve-bytes", Value::Bytes(&[9; 10]));
    assert_eq!(app.map().get("twelve-bytes"), Some(Value::Bytes(&[9; 10])));
    let mut small = ConfigMap::<[u8; MAP_BYTES - 1]>::new();
    assert!(App::new(&mut small).is_err());
}

#[test]
fn a_contact_that_bounces_is_one_press() {
    let mut button = Button::new();
    let mut at = |ms: u64, down: bool| button.is_pressed(down, Instant::from_millis(ms));
    // 25 ms of bouncing, pressed for a second, 25 ms of bouncing.
    let bounces = |from: u64| (0..25).map(move |i| (from + i, i % 3 == 0));
    let contact = bounces(100).chain((125..1100).map(|t| (t, true))).chain(bounces(1100));
    let presses: Vec<u64> = contact
        .chain((1125..2000).map(|t| (t, false)))
        .filter(|(t, d)| at(*t, *d))
        .map(|(t, _)| t)
        .collect();
    assert_eq!(presses, [154]);
    assert!(!at(3000, true) && at(3030, true) && !at(3031, true));
}
