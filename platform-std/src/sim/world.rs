//! A world of boards that share nothing but bytes on the air: one queue of what is to happen, and time
//! that jumps from one event to the next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use quorate::membership::Member;
use quorate::node::{ProposeError, Status};
use quorate::raft::Role;
use quorate::typed::ConfigMap;
use quorate::{ClusterId, EntryId, NodeId, NodeSet};

use super::air_events;
use super::babbler::Babbler;
use super::board::{Board, Cluster};
use super::checks::Checks;
use super::client::Client;
use super::dice::Dice;
use super::nemesis::Nemesis;
use super::options::{Faults, Options};
use super::profile::Profile;
use super::radio::{Air, Place, Weather};
use super::report::Counters;
use super::rules::{Rule, Violation};
use super::spec::{Shown, SpecEvents};
use super::trace::Trace;
use super::upkeep::Upkeep;

/// Something that will happen.
#[derive(Clone, Debug)]
pub(super) enum What {
    Boot { board: usize, life: u32 },
    Timer { board: usize, life: u32 },
    FlashEnd { board: usize, life: u32 },
    Attempt { place: Place, life: u32 },
    AirEnd { place: Place, life: u32 },
    Arrive(air_events::Arriving),
    Cut { board: usize, life: u32, off_us: u64 },
    Blackout { off_us: u64 },
    Ambush { board: usize },
    Wake { board: usize, life: u32 },
    Nemesis,
    Upkeep,
    Client,
    Babble,
}

#[derive(Clone, Debug)]
struct Scheduled {
    at_us: u64,
    /// What was planned first happens first.
    number: u64,
    what: What,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Chance, one stream for each part of the world.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) air: Dice,
    pub(super) flash: Dice,
    pub(super) boards: Dice,
}

/// Boards, the air between them, and everything that happens to them.
#[derive(Debug)]
pub struct World {
    pub(super) options: Options,
    pub(super) profile: Profile,
    pub(super) cluster: Cluster,
    pub(super) now_us: u64,
    number: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    pub(super) boards: Vec<Board>,
    pub(super) air: Air,
    pub(super) air_log: air_events::AirLog,
    pub(super) checks: Checks,
    pub(super) trace: Trace,
    pub(super) counters: Counters,
    pub(super) dice: Streams,
    /// What a cut may do to flash.
    pub(super) flash_faults: Faults,
    /// All boards are cut in the middle of the next program or erase operation of any of them.
    pub(super) blackout_armed: Option<u64>,
    /// New leaders are cut off, and when is drawn from here.
    pub(super) ambush: Option<Dice>,
    /// When each board last acted as a leader.
    pub(super) led_us: Vec<Option<u64>>,
    /// Faults are at work.
    pub(super) amid_faults: bool,
    pub(super) nemesis: Option<Box<Nemesis>>,
    pub(super) upkeep: Option<Box<Upkeep>>,
    pub(super) client: Option<Box<Client>>,
    pub(super) babbler: Option<Box<Babbler>>,
    /// The run in the specification's form, if it is wanted.
    pub(super) spec: Option<Box<SpecEvents>>,
    tail: Vec<String>,
}

impl World {
    /// The world of `options`, with its own clients and faults.
    pub fn new(options: Options, trace: Trace) -> Self {
        let mut dice = Dice::new(options.seed);
        let profile = Profile::draw(&options, &mut dice);
        let mut world = Self::build(options, profile, Vec::new(), true, trace, dice);
        Client::start(&mut world);
        Nemesis::start(&mut world);
        Upkeep::start(&mut world);
        Babbler::start(&mut world);
        world
    }

    /// A calm world without clients, whose boards have these flash images, or blank flash where there is
    /// none. Whoever made it proposes, and asks for faults.
    pub fn with(options: Options, profile: Profile, images: Vec<Option<Vec<u8>>>) -> Self {
        let dice = Dice::new(options.seed);
        Self::build(options, profile, images, false, Trace::default(), dice)
    }

    fn build(
        options: Options,
        profile: Profile,
        mut images: Vec<Option<Vec<u8>>>,
        own_clients: bool,
        mut trace: Trace,
        mut dice: Dice,
    ) -> Self {
        // No field of the options fails to be written.
        let header = serde_json::to_string(&options).unwrap_or_default();
        trace.line(format_args!("{header}"));
        let count = profile.boards.len();
        images.resize(count, None);
        let ids = (1..=count as u8).filter_map(NodeId::new);
        let mut cluster_id = [0; 4];
        dice.fill(&mut cluster_id);
        let cluster = Cluster {
            id: ClusterId(cluster_id),
            members: ids.clone().map(Member::new).collect(),
            limits: profile.limits,
            map: profile.map,
        };
        let boards = ids.zip(&profile.boards).zip(images);
        let boards: Vec<_> =
            boards.map(|((id, board), image)| Board::new(id, board.clone(), image)).collect();
        let mut world = Self {
            air: Air::new(profile.link, count + 1),
            air_log: air_events::AirLog::new(count + 1),
            checks: Checks::new(count as u8, own_clients, dice.fork()),
            options,
            profile,
            cluster,
            now_us: 0,
            number: 0,
            queue: BinaryHeap::new(),
            boards,
            trace,
            counters: Counters::default(),
            dice: Streams { air: dice.fork(), flash: dice.fork(), boards: dice.fork() },
            flash_faults: options.faults,
            blackout_armed: None,
            ambush: None,
            led_us: vec![None; count],
            amid_faults: false,
            nemesis: None,
            upkeep: None,
            client: None,
            babbler: None,
            spec: None,
            tail: Vec::new(),
        };
        for board in 0..count {
            let at_us = world.dice.boards.below(20_000);
            world.plan(at_us, What::Boot { board, life: 0 });
        }
        world
    }

    /// Plans an event.
    pub(super) fn plan(&mut self, at_us: u64, what: What) {
        self.number += 1;
        let number = self.number;
        self.queue.push(Reverse(Scheduled { at_us: at_us.max(self.now_us), number, what }));
    }

    /// Lets everything happen up to and including `time_us`.
    pub fn advance_to(&mut self, time_us: u64) {
        while let Some(Reverse(next)) = self.queue.peek() {
            if next.at_us > time_us {
                break;
            }
            self.step();
        }
        self.now_us = self.now_us.max(time_us);
    }

    /// Lets the next event happen; its time, or `None` if nothing is planned.
    pub fn step(&mut self) -> Option<u64> {
        let Reverse(next) = self.queue.pop()?;
        self.now_us = next.at_us;
        self.checks.verdict.now_us = next.at_us;
        self.happen(next.what);
        if self.tail.is_empty() && !self.checks.verdict.holds() {
            self.tail = self.trace.tail();
        }
        Some(self.now_us)
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Boot { board, life } => {
                if self.boards[board].life == life && self.boards[board].live.is_none() {
                    self.boot(board);
                }
            }
            What::Timer { board, life } => {
                if self.boards[board].life == life {
                    self.timer(board);
                }
            }
            What::FlashEnd { board, life } => {
                if self.boards[board].life == life {
                    self.flash_end(board);
                }
            }
            What::Attempt { place, life } => self.attempt(place, life),
            What::AirEnd { place, life } => self.air_end(place, life),
            What::Arrive(arriving) => self.arrive(&arriving),
            What::Cut { board, life, off_us } => {
                if self.boards[board].life == life {
                    self.cut(board, off_us);
                }
            }
            What::Blackout { off_us } => self.cut_all(off_us),
            What::Ambush { board } => Nemesis::cut_off(self, board),
            What::Wake { board, life } => {
                if self.boards[board].life == life {
                    self.wake(board);
                }
            }
            What::Nemesis => Nemesis::act(self),
            What::Upkeep => Upkeep::act(self),
            What::Client => Client::act(self),
            What::Babble => Babbler::act(self),
        }
    }

    /// Virtual time since the beginning, in µs.
    pub const fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The board that was last seen to lead, if it has power. One that is alone says nothing: if nobody else can have taken over,
    /// it is asked.
    pub fn leader(&self) -> Option<usize> {
        let (_, number) = self.checks.protocol.leader()?;
        let board = usize::from(number).checked_sub(1)?;
        let voters = self.checks.members.latest().voters();
        let seen = self.boards.get(board)?;
        if voters.contains(seen.id) {
            return seen.live.as_ref().map(|_| board);
        }
        let leads = |board: &Board| {
            let live = board.live.as_ref().filter(|_| voters.contains(board.id));
            live.is_some_and(|live| live.node.status().role == Role::Leader)
        };
        self.boards.iter().position(leads)
    }

    /// Proposes a command at `board`. What becomes of it is told by [`World::is_acknowledged`].
    ///
    /// # Errors
    /// The node's refusal; [`ProposeError::NotRunning`] too if the board has no power or stands still.
    pub fn propose(&mut self, board: usize, command: &[u8]) -> Result<EntryId, ProposeError> {
        let (now_us, number) = (self.now_us, self.boards[board].number());
        let deaf = self.boards[board].is_deaf();
        let Some(live) = self.boards[board].live.as_mut().filter(|_| !deaf) else {
            return Err(ProposeError::NotRunning);
        };
        let answer = live.node.propose(command);
        let hex = super::trace::Hex(command);
        self.trace.line(format_args!("{now_us} {number} < propose {hex} {answer:?}"));
        if let Ok(id) = answer {
            live.waiting.push((id, command.to_vec()));
            self.leads(board, id.term);
        }
        self.observe(board);
        self.pump(board);
        answer
    }

    /// A board as the specification's events show it, if they are wanted and it has power.
    pub(super) fn shown(&self, board: usize) -> Option<Shown> {
        self.spec.as_ref()?;
        self.boards[board].live.as_ref().map(|live| Shown::of(&live.node))
    }

    /// Something was given to a board.
    pub(super) fn observe(&mut self, board: usize) {
        let (ms, number, shown) =
            (self.now_us / 1000, self.boards[board].number(), self.shown(board));
        if let (Some(spec), Some(shown)) = (&mut self.spec, shown) {
            spec.observe(ms, number, &shown);
        }
    }

    /// Was the command at `id` acknowledged by the board that took it?
    pub fn is_acknowledged(&self, id: EntryId) -> bool {
        self.checks.durability.has_acknowledged(id)
    }

    /// The board acted as a leader.
    pub(super) fn leads(&mut self, board: usize, term: quorate::Term) {
        self.led_us[board] = Some(self.now_us);
        let number = self.boards[board].number();
        self.checks.protocol.leads(number, term, &mut self.checks.verdict);
    }

    /// Cuts the power of `board` in the middle of its next program or erase operation.
    pub fn arm_cut(&mut self, board: usize) {
        self.boards[board].armed = true;
    }

    /// Everybody hears everybody, frames arrive unharmed, and every board has power.
    pub fn heal(&mut self) {
        let now_us = self.now_us;
        self.trace.line(format_args!("{now_us} 0 healed"));
        self.air.heal();
        self.air.weather = Weather::default();
        self.blackout_armed = None;
        self.ambush = None;
        self.amid_faults = false;
        for at in 0..self.boards.len() {
            self.boards[at].armed = false;
            self.boards[at].brown_outs = 0;
            self.power_on(at);
        }
    }

    /// Splits the boards: those with an equal number hear each other.
    pub fn partition(&mut self, sides: &[u8]) {
        let now_us = self.now_us;
        self.trace.line(format_args!("{now_us} 0 partition {sides:?}"));
        self.air.partition(sides);
        self.air_log.partitioned = true;
    }

    /// `to` hears `from` no more.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        let now_us = self.now_us;
        self.trace.line(format_args!("{now_us} 0 one-way {} {}", from + 1, to + 1));
        self.air.cut_one_way(from, to);
        self.air_log.one_way = true;
    }

    /// Cuts links between single pairs, each one way, from a board to another; all others are whole.
    pub fn cut_links(&mut self, links: Vec<(usize, usize)>) {
        let now_us = self.now_us;
        self.trace.line(format_args!("{now_us} 0 partial {links:?}"));
        self.air_log.partial = !links.is_empty();
        self.air.cut_links(links);
    }

    /// What may happen to frames from now on.
    pub fn set_weather(&mut self, weather: Weather) {
        let now_us = self.now_us;
        self.trace.line(format_args!("{now_us} 0 {weather:?}"));
        self.air.weather = weather;
    }

    /// The flash images as they are now.
    pub fn images(&self) -> Vec<Vec<u8>> {
        self.boards.iter().map(|board| board.chip.image().to_vec()).collect()
    }

    /// The boards' number, parts, flash and counts.
    pub fn boards(&self) -> &[Board] {
        &self.boards
    }

    /// A look at a board's node, if it has power.
    pub fn status(&self, board: usize) -> Option<Status> {
        self.boards[board].live.as_ref().map(|live| live.node.status())
    }

    /// A look at a board's application, if it has power.
    pub fn app(&self, board: usize) -> Option<&ConfigMap> {
        self.boards[board].live.as_ref().map(|live| &*live.app)
    }

    /// The rules that did not hold so far.
    pub fn violations(&self) -> &[Violation] {
        self.checks.verdict.violations()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        counters.elections = self.checks.protocol.elections();
        counters.transfers = self.checks.protocol.transfers();
        counters.acknowledged = self.checks.durability.acknowledged();
        counters.images_checked = self.checks.images;
        for board in &self.boards {
            counters.flash_bytes_written += board.chip.bytes_written;
            counters.flash_erases += board.chip.erases;
            counters.frames_sent += board.frames_sent;
            counters.drift_ms += board.drift_ms(self.now_us);
        }
        counters
    }

    /// The last lines of the trace when a rule was first seen not to hold.
    pub fn tail(&self) -> &[String] {
        &self.tail
    }

    /// The trace.
    pub fn trace(&mut self) -> &mut Trace {
        &mut self.trace
    }

    /// Have all boards power, and do all members show all that was ever applied?
    pub(super) fn is_everywhere(&self) -> bool {
        self.boards.iter().all(|board| board.live.is_some()) && self.behind().is_empty()
    }

    fn behind(&self) -> Vec<u8> {
        let members = self.checks.members.latest().members();
        let model = self.checks.model.as_ref();
        model.map_or(Vec::new(), |model| model.behind(members))
    }

    /// Members that have not got their place back, or their vote.
    pub(super) fn homeless(&self) -> NodeSet {
        let latest = self.checks.members.latest();
        let has_place = |id: NodeId| {
            let board = self.boards.get(usize::from(id.get()) - 1);
            board.is_some_and(|board| board.founded && latest.counts(id, board.generation))
        };
        latest
            .members()
            .iter()
            .filter(|id| !has_place(*id) || latest.returning.contains(*id))
            .collect()
    }

    /// Is a joint configuration in effect?
    pub(super) fn is_joint(&self) -> bool {
        !self.checks.members.latest().membership.outgoing.is_empty()
    }

    /// Where the boards are, for the report of a violation.
    pub(super) fn describe(&self) -> String {
        let leader = self.checks.protocol.leader();
        let frontier = self.checks.protocol.frontier();
        let off = self.boards.iter().filter(|board| board.live.is_none()).count();
        format!(
            "leader {leader:?}, applied {frontier:?}, boards behind {:?}, {off} without power, {:?}",
            self.behind(),
            self.checks.members.latest().membership
        )
    }

    /// The client's next request, at `board`.
    pub(super) fn ask_at(&mut self, board: usize) -> Option<EntryId> {
        let mut client = self.client.take()?;
        let answer = client.ask_at(self, board);
        self.client = Some(client);
        answer.ok()
    }

    /// A rule did not hold for the world as a whole.
    pub(super) fn red(&mut self, rule: Rule, what: impl FnOnce() -> String) {
        self.checks.verdict.now_us = self.now_us;
        self.checks.verdict.red(rule, 0, what);
        if self.tail.is_empty() {
            self.tail = self.trace.tail();
        }
    }

    /// Everybody but `place`.
    pub(super) fn others(&self, place: Place) -> NodeSet {
        let ids = self.boards.iter().enumerate();
        ids.filter(|(at, _)| *at != place).map(|(_, board)| board.id).collect()
    }

    /// Frames that were on the air not long ago.
    pub(super) fn heard(&self) -> &[(u64, Rc<[u8]>)] {
        &self.air_log.heard
    }
}
