//! Boards with an async runner each, and an application that counts.

use super::flash::{BLOCK, Part, SimFlash, WORD};
use super::radio::{Medium, SimRadio};
use super::{SimClock, World};
use quorate::config::{Config, Flash, Link};
use quorate::event::Event;
use quorate::flash::Geometry;
use quorate::membership::Member;
use quorate::node::{Boot, Founding, Limits, Node, Outcome};
use quorate::raft::Role;
use quorate::typed::{NewerSchema, RestoreError, StateMachine};
use quorate::{ClusterId, EntryId, NodeId};
use quorate_embedded::flash::Partition;
use quorate_embedded::link::{AsyncLink, FragmentLink, PacketLink, SENDERS_MAX};
use quorate_embedded::power::PowerFail;
use quorate_embedded::runner::{Commands, Desk, Handle, Parts, Runner};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

pub(crate) const CLUSTER: ClusterId = ClusterId([7, 1, 7, 1]);
/// Commands that an application tells apart.
pub(crate) const IDS: usize = 400;
pub(crate) const COMMAND_BYTES: usize = 24;
const SEGMENTS: u8 = 8;
const BLOCKS: usize = 2;
/// Bytes of the partition, and of the program before it.
const HALF_BYTES: usize = BLOCK * BLOCKS * SEGMENTS as usize;

pub(crate) fn id(board: usize) -> NodeId {
    NodeId::new(board as u8 + 1).unwrap()
}

pub(crate) fn command(n: usize) -> [u8; COMMAND_BYTES] {
    let mut bytes = [0x5a; COMMAND_BYTES];
    bytes[..2].copy_from_slice(&(n as u16).to_le_bytes());
    bytes
}

/// How often each command took effect, and whether the state was ever restored from a snapshot of others.
pub(crate) struct Tally {
    pub(crate) counts: RefCell<Vec<u8>>,
    pub(crate) restores: Cell<u64>,
    pub(crate) changes: Cell<u64>,
}

impl Tally {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            counts: RefCell::new(vec![0; IDS]),
            restores: Cell::new(0),
            changes: Cell::new(0),
        })
    }
}

/// The part of a tally that a runner owns.
pub(crate) struct App(Rc<Tally>, Vec<u8>);

impl App {
    pub(crate) fn new(tally: Rc<Tally>) -> Self {
        Self(tally, vec![])
    }
}

impl StateMachine for App {
    fn apply(&mut self, _id: EntryId, command: &[u8]) -> Result<(), NewerSchema> {
        assert_eq!(command.len(), COMMAND_BYTES);
        assert!(command[2..].iter().all(|byte| *byte == 0x5a));
        self.0.counts.borrow_mut()[usize::from(u16::from_le_bytes([command[0], command[1]]))] += 1;
        self.0.changes.set(self.0.changes.get() + 1);
        Ok(())
    }

    fn snapshot(&self, offset: u32, out: &mut [u8]) -> usize {
        let counts = self.0.counts.borrow();
        let rest = &counts[offset as usize..];
        let len = rest.len().min(out.len());
        out[..len].copy_from_slice(&rest[..len]);
        len
    }

    fn restore(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError> {
        if offset == 0 {
            self.1.clear();
        }
        assert_eq!(offset as usize, self.1.len());
        self.1.extend_from_slice(bytes);
        if last && !self.1.is_empty() {
            *self.0.counts.borrow_mut() = std::mem::take(&mut self.1);
            self.0.restores.set(self.0.restores.get() + 1);
        }
        Ok(())
    }
}

/// What kind of cluster.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) boards: usize,
    pub(crate) packet_bytes: usize,
    pub(crate) frame_bytes: u16,
    pub(crate) byte_us: u64,
    pub(crate) loss_permille: u64,
    pub(crate) turnaround_us: u32,
    pub(crate) erase_ms: u32,
    /// Does the CPU stand still while flash works, and do the timeouts know?
    pub(crate) stalls: bool,
    pub(crate) stalls_planned: bool,
    pub(crate) seed: u64,
}

impl Setup {
    pub(crate) fn new(packet_bytes: usize, frame_bytes: u16) -> Self {
        Self {
            boards: 3,
            packet_bytes,
            frame_bytes,
            byte_us: 32,
            loss_permille: 0,
            turnaround_us: 1000,
            erase_ms: 20,
            stalls: false,
            stalls_planned: false,
            seed: 1,
        }
    }

    fn fragments(&self) -> bool {
        self.packet_bytes < usize::from(self.frame_bytes)
    }

    pub(crate) fn config(&self, board: usize, start: u64) -> Config {
        let link = Link {
            bits_per_second: (8_000_000 / self.byte_us) as u32,
            frame_bytes: self.frame_bytes,
            fragment_bytes: if self.fragments() { self.packet_bytes as u16 - 3 } else { 0 },
            overhead_bytes: 8,
            turnaround_us: self.turnaround_us,
            duty_permille: 1000,
            broadcast: true,
        };
        let geometry = Geometry {
            word_bytes: WORD as u8,
            erased: 0xff,
            page_bytes: WORD as u16,
            block_bytes: BLOCK as u32,
            blocks_per_segment: BLOCKS as u16,
            segments: SEGMENTS,
        };
        let flash = Flash {
            geometry,
            word_us: 41,
            erase_ms_max: self.erase_ms,
            stalls: self.stalls_planned,
        };
        let seed = self.seed << 32 | start << 8 | board as u64;
        Config::new(link, flash, self.boards as u8, seed)
    }
}

/// What is left of a board without power, and how it is reached.
pub(crate) struct Board {
    pub(crate) part: Rc<Part>,
    pub(crate) tally: Rc<Tally>,
    pub(crate) desk: &'static Desk,
    pub(crate) events: Rc<RefCell<Vec<Event>>>,
    pub(crate) power: &'static PowerFail,
    starts: u64,
}

pub(crate) struct Cluster {
    pub(crate) setup: Setup,
    pub(crate) world: Rc<World>,
    pub(crate) medium: Rc<Medium>,
    pub(crate) boards: Vec<Board>,
}

fn leaked(bytes: usize) -> &'static mut [u8] {
    Vec::leak(vec![0; bytes])
}

async fn run<L: AsyncLink>(
    mut runner: Runner<'static, App, L, SimFlash, SimClock>,
    events: Rc<RefCell<Vec<Event>>>,
    world: Rc<World>,
    drop_us: u64,
) {
    loop {
        let running = runner.run(|event| events.borrow_mut().push(*event));
        if drop_us == 0 {
            running.await;
        }
        let us = world.dice.below(drop_us) + 1;
        embassy_futures::select::select(running, world.sleep(us)).await;
    }
}

impl Cluster {
    pub(crate) fn new(setup: Setup) -> Self {
        Self::dropping(setup, 0)
    }

    /// A cluster whose runners are dropped and called again, every so many µs at most.
    pub(crate) fn dropping(setup: Setup, drop_us: u64) -> Self {
        let world = World::new(setup.boards, setup.seed);
        let medium = Medium::new(&world, setup.boards, setup.packet_bytes, setup.byte_us);
        medium.loss_permille.set(setup.loss_permille);
        let board = |_| Board {
            part: Part::blank(2 * HALF_BYTES, setup.erase_ms.into(), setup.stalls),
            tally: Tally::new(),
            desk: Box::leak(Box::new(Desk::<Commands<COMMAND_BYTES>>::new())),
            events: Rc::default(),
            power: Box::leak(Box::new(PowerFail::new())),
            starts: 0,
        };
        let boards = (0..setup.boards).map(board).collect();
        let mut cluster = Self { setup, world, medium, boards };
        let members: Vec<Member> = (0..setup.boards).map(|at| Member::new(id(at))).collect();
        for at in 0..setup.boards {
            let founding = Founding {
                cluster: CLUSTER,
                node: id(at),
                members: &members,
                limits: Limits {
                    frame_bytes: setup.frame_bytes,
                    entry_bytes: 40,
                    log_bytes: 900,
                    snapshot_bytes: 512,
                },
                erase_anyway: false,
            };
            cluster.start(at, Boot::Found(&founding), drop_us);
        }
        cluster
    }

    /// A board gets power.
    pub(crate) fn start(&mut self, at: usize, boot: Boot<'_>, drop_us: u64) {
        let setup = self.setup;
        let board = &mut self.boards[at];
        board.starts += 1;
        let config = setup.config(at, board.starts);
        let desk: &'static Desk = Box::leak(Box::new(Desk::<Commands<COMMAND_BYTES>>::new()));
        (board.desk, board.tally, board.events) = (desk, Tally::new(), Rc::default());
        let (events, world) = (board.events.clone(), self.world.clone());
        let frame_bytes = usize::from(setup.frame_bytes);
        let driver = SimFlash { world: world.clone(), part: board.part.clone(), board: at };
        // The program has the lower half.
        let program_bytes = HALF_BYTES as u32;
        let geometry = &config.flash.geometry;
        let flash =
            Partition::new_async(driver, program_bytes, 0..program_bytes, geometry).unwrap();
        let radio = SimRadio { medium: self.medium.clone(), board: at };
        let node: &'static mut Node = Box::leak(Box::new(Node::<[u8; 1200]>::new()));
        let app = App::new(board.tally.clone());
        let (frame, buffer) = (leaked(frame_bytes), leaked(512));
        let (clock, power) = (SimClock(world.clone()), Some(board.power));
        if setup.fragments() {
            let bytes = setup.packet_bytes + frame_bytes * (SENDERS_MAX.min(setup.boards - 1));
            let seed = world.dice.draw() as u16;
            let link = FragmentLink::new_async(radio, id(at), seed, frame_bytes, leaked(bytes));
            let parts = Parts { node, app, link, flash, clock, frame, buffer, power };
            let mut runner = Runner::new(parts, desk);
            runner.start(&config, boot).unwrap();
            self.world.spawn(at, run(runner, events, world, drop_us));
        } else {
            let link = PacketLink::new(radio, leaked(setup.packet_bytes));
            let parts = Parts { node, app, link, flash, clock, frame, buffer, power };
            let mut runner = Runner::new(parts, desk);
            runner.start(&config, boot).unwrap();
            self.world.spawn(at, run(runner, events, world, drop_us));
        }
    }

    /// A board's power goes.
    pub(crate) fn cut(&self, at: usize) {
        self.world.kill(at);
        self.medium.forget(at);
    }

    pub(crate) fn handle(&self, at: usize) -> Handle<'static> {
        self.boards[at].desk.handle()
    }

    /// Spawns what a task on a board does, and where its answer is found.
    pub(crate) fn ask<T: 'static>(
        &self,
        at: usize,
        asked: impl Future<Output = T> + 'static,
    ) -> Rc<RefCell<Option<T>>> {
        let answer = Rc::new(RefCell::new(None));
        let place = answer.clone();
        self.world.spawn(at, async move {
            let got = asked.await;
            *place.borrow_mut() = Some(got);
        });
        answer
    }

    /// Spawns it, and waits for the answer.
    pub(crate) fn answer<T: 'static>(
        &self,
        at: usize,
        asked: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let answer = self.ask(at, asked);
        self.world.run_until(120_000, || answer.borrow().is_some());
        answer.take()
    }

    pub(crate) fn status(&self, at: usize) -> quorate::node::Status {
        let handle = self.handle(at);
        self.answer(at, async move { handle.status().await }).expect("a status")
    }

    pub(crate) fn elect(&self) -> usize {
        for _ in 0..100 {
            self.world.run_ms(200);
            let leads = |at: &usize| {
                let status = self.status(*at);
                status.role == Role::Leader && status.last.term == status.term
            };
            if let Some(at) = (0..self.setup.boards).find(leads) {
                return at;
            }
        }
        panic!("no leader");
    }

    /// Every board shows the same, or it does so in the end.
    pub(crate) fn agree(&self) {
        let same = || {
            let first = self.boards[0].tally.counts.borrow();
            self.boards.iter().all(|board| *board.tally.counts.borrow() == *first)
        };
        assert!(self.world.run_until(120_000, same), "boards show different states");
    }

    /// Has commands `from..upto` take effect, each asked for on another board.
    pub(crate) fn commit(&self, from: usize, upto: usize, boards: &[usize]) {
        for n in from..upto {
            let at = boards[n % boards.len()];
            let handle = self.handle(at);
            let outcome = self.answer(at, async move {
                let mut outcome = handle.forward(&command(n), 60_000).await;
                // Before the board has heard of the cluster, or while a snapshot is on its way.
                while outcome.is_err() {
                    handle.status().await;
                    outcome = handle.forward(&command(n), 60_000).await;
                }
                outcome
            });
            let (_, outcome) = outcome.expect("an answer").unwrap();
            assert!(matches!(outcome, Outcome::Applied { .. }), "{n} on {at}: {outcome:?}");
        }
    }

    /// Commands below `upto` took effect once on each board, others never.
    pub(crate) fn counts_once(&self, upto: usize) {
        self.agree();
        let counts = self.boards[0].tally.counts.borrow();
        assert!(counts[..upto].iter().all(|count| *count == 1), "{counts:?}");
        assert!(counts[upto..].iter().all(|count| *count == 0), "{counts:?}");
    }

    /// How many such events there were on that board since it started.
    pub(crate) fn happened(&self, at: usize, what: impl Fn(&Event) -> bool) -> usize {
        self.boards[at].events.borrow().iter().filter(|event| what(event)).count()
    }
}
