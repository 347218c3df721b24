//! Who makes the trouble: from time to time one of the faults that a run may have, aimed to hurt.

use super::client::Client;
use super::dice::Dice;
use super::options::{Fault, Faults};
use super::profile::weather;
use super::report::COMMITS_MIN;
use super::world::{What, World};
use super::{churn, partial};

/// The trouble of a run.
#[derive(Debug)]
pub(super) struct Nemesis {
    dice: Dice,
    /// The faults to choose from, some more often than others.
    menu: Vec<Fault>,
    /// Between two acts on average, in µs.
    pace_us: u64,
    /// When the faults end.
    ends_us: u64,
    /// When the present partition is to be healed, and the cut directions.
    whole_us: Option<u64>,
    /// Who is kept away until it needs a snapshot, and until when.
    away: Option<(usize, u64)>,
}

/// Faults that need somebody to make them, with how often they are chosen.
const ACTS: [(Fault, usize); 13] = [
    (Fault::Cuts, 6),
    (Fault::LeaderCuts, 4),
    (Fault::CutAll, 2),
    (Fault::BrownOut, 2),
    (Fault::Partition, 4),
    (Fault::OneWay, 3),
    (Fault::LogFull, 3),
    (Fault::Snapshots, 3),
    (Fault::PartialPartition, 4),
    (Fault::Membership, 6),
    (Fault::Transfers, 5),
    (Fault::Sleep, 3),
    (Fault::Wipes, 4),
];

impl Nemesis {
    /// Begins the faults of a run; they end after three quarters of its time.
    pub(super) fn start(world: &mut World) {
        let faults = world.options.faults;
        let span_us = u64::from(world.options.virtual_seconds) * 750_000;
        let mut dice = world.dice.boards.fork();
        let mut menu = Vec::new();
        for (fault, weight) in ACTS {
            // A run leans towards some faults, another run towards others.
            let weight = if dice.chance(300) { 1 } else { weight };
            menu.extend(std::iter::repeat_n(fault, if faults.has(fault) { weight } else { 0 }));
        }
        if menu.is_empty() && Self::tears(faults) {
            // Torn flash comes of cuts.
            menu.push(Fault::Cuts);
        }
        let election_us = world.profile.election_us();
        let pace_us = (election_us * dice.within(4, 9)).clamp(span_us / 70, span_us / 16);
        world.amid_faults = faults != Faults::NONE;
        world.set_weather(weather(faults, &mut dice));
        let nemesis = Self { dice, menu, pace_us, ends_us: span_us, whole_us: None, away: None };
        world.nemesis = Some(Box::new(nemesis));
        world.plan(election_us, What::Nemesis);
    }

    fn tears(faults: Faults) -> bool {
        let torn = [Fault::TornWrites, Fault::TornErases, Fault::Decay];
        torn.iter().any(|fault| faults.has(*fault))
    }

    pub(super) fn act(world: &mut World) {
        let Some(mut nemesis) = world.nemesis.take() else {
            return;
        };
        if world.now_us >= nemesis.ends_us {
            return world.heal();
        }
        let mended = nemesis.mend(world);
        let quiet = nemesis.whole_us.is_none() && nemesis.away.is_none() && !mended;
        if quiet && !nemesis.is_too_much(world) {
            nemesis.make_trouble(world);
        }
        let pace_us = nemesis.pace_us;
        let next_us = world.now_us + pace_us / 4 + nemesis.dice.below(pace_us * 3 / 2);
        let next_us = nemesis.next_mending(next_us).min(nemesis.ends_us);
        world.nemesis = Some(nemesis);
        world.plan(next_us, What::Nemesis);
    }

    /// Commits lag so far behind that the run would show nothing.
    fn is_too_much(&self, world: &World) -> bool {
        let due = 2 * COMMITS_MIN * world.now_us / self.ends_us.max(1);
        world.counters.commits_amid_faults < due && world.now_us > self.ends_us / 8
    }

    fn next_mending(&self, next_us: u64) -> u64 {
        let away = self.away.map(|(_, until_us)| until_us);
        [self.whole_us, away].into_iter().flatten().fold(next_us, u64::min)
    }

    /// Ends what has lasted long enough; true if it did.
    fn mend(&mut self, world: &mut World) -> bool {
        let before = (self.whole_us, self.away);
        if self.whole_us.is_some_and(|until_us| world.now_us >= until_us) {
            self.whole_us = None;
            let now_us = world.now_us;
            world.trace.line(format_args!("{now_us} 0 whole"));
            world.ambush = None;
            world.air.heal();
        }
        if let Some((board, until_us)) = self.away
            && world.now_us >= until_us
        {
            self.away = None;
            world.power_on(board);
        }
        before != (self.whole_us, self.away)
    }

    fn make_trouble(&mut self, world: &mut World) {
        if self.dice.chance(250) {
            let weather = weather(world.options.faults, &mut self.dice);
            world.set_weather(weather);
        }
        if self.menu.is_empty() {
            return;
        }
        let choice = self.dice.pick(&self.menu);
        let late = world.now_us > self.ends_us / 2;
        let wants_leader = world.options.faults.has(Fault::LeaderCuts);
        // Whatever else happens: in the second half a run makes up for the leader that was not cut yet.
        let fault = match choice {
            _ if late && wants_leader && world.counters.leader_crashes == 0 => Fault::LeaderCuts,
            other => other,
        };
        let election_us = world.profile.election_us();
        let boards = world.boards.len();
        let any = self.dice.below(boards as u64) as usize;
        match fault {
            Fault::Cuts => self.cut(world, any),
            Fault::LeaderCuts => {
                if let Some(leader) = world.leader() {
                    self.cut(world, leader);
                }
            }
            Fault::CutAll => {
                let off_us = self.dice.within(1, 3 * election_us);
                if self.dice.chance(700) {
                    world.blackout_armed = Some(off_us);
                } else {
                    world.cut_all(off_us);
                }
            }
            Fault::BrownOut => {
                world.boards[any].brown_outs = self.dice.within(1, 6) as u32;
                let off_us = self.dice.below(election_us);
                world.cut(any, off_us);
            }
            Fault::Partition if boards > 2 && self.dice.chance(300) => self.ambush(world),
            Fault::Partition => self.partition(world),
            Fault::OneWay => self.cut_directions(world),
            Fault::LogFull => {
                if Client::may_burst(world)
                    && let Some(client) = &mut world.client
                {
                    client.burst = 300;
                }
            }
            Fault::Snapshots => {
                world.cut(any, u64::MAX);
                let away_us = self.dice.within(3, 20) * election_us;
                let left_us = self.ends_us.saturating_sub(world.now_us) / 3;
                self.away = Some((any, world.now_us + away_us.min(left_us)));
            }
            Fault::PartialPartition => {
                let links = partial::cuts(boards, |_, _| false, &mut self.dice);
                world.cut_links(links);
                self.whole_us = self.last_us(world);
            }
            Fault::Membership => churn::change(world, &mut self.dice),
            Fault::Transfers => self.transfer(world),
            Fault::Sleep => {
                let at = world.leader().filter(|_| self.dice.chance(500)).unwrap_or(any);
                let for_us = self.dice.within(1, 6 * election_us);
                world.sleep(at, for_us);
            }
            Fault::Wipes => churn::wipe(world, &mut self.dice),
            _ => {}
        }
    }

    /// Leadership is handed over, on the leader or by way of a board that follows. At times the leader hears nothing from then
    /// on, and does not learn what comes of it.
    fn transfer(&mut self, world: &mut World) {
        let boards = world.boards.len() as u64;
        let to = world.boards[self.dice.below(boards) as usize].id;
        let Some(leader) = world.leader() else {
            return;
        };
        let any = self.dice.below(boards) as usize;
        let at = if self.dice.chance(700) { leader } else { any };
        let answer = world.transfer_leader(at, to);
        if answer == Some(Ok(())) && at == leader && self.dice.chance(300) {
            (0..world.boards.len()).filter(|at| *at != leader).for_each(|at| {
                world.cut_one_way(at, leader);
            });
            self.whole_us = self.last_us(world);
        }
    }

    /// Mostly in the middle of a flash operation, at times at any moment.
    fn cut(&mut self, world: &mut World, board: usize) {
        if self.dice.chance(800) {
            world.arm_cut(board);
        } else {
            let off_us = self.dice.below(4 * world.profile.election_us());
            world.cut(board, off_us);
        }
    }

    fn last_us(&mut self, world: &World) -> Option<u64> {
        let elections = self.dice.within(1, 8);
        Some(world.now_us + elections * world.profile.election_us())
    }

    fn partition(&mut self, world: &mut World) {
        let mut sides: Vec<u8> = world.boards.iter().map(|_| self.dice.below(2) as u8).collect();
        if self.dice.chance(400)
            && let Some(leader) = world.leader()
        {
            sides.fill(0);
            sides[leader] = 1;
        }
        world.partition(&sides);
        self.whole_us = self.last_us(world);
    }

    /// For a while each new leader is cut off, most before they have committed anything: terms are begun
    /// and left, and logs part (Raft Figure 8).
    fn ambush(&mut self, world: &mut World) {
        world.ambush = Some(self.dice.fork());
        let elections = self.dice.within(10, 30);
        self.whole_us = Some(world.now_us + elections * world.profile.election_us());
    }

    /// A new leader has said its first word.
    pub(super) fn lie_in_wait(world: &mut World, leader: usize) {
        let election_us = world.profile.election_us();
        let Some(dice) = &mut world.ambush else {
            return;
        };
        if dice.chance(600) {
            Self::cut_off(world, leader);
        } else {
            let after_us = dice.below(election_us);
            let at_us = world.now_us + after_us;
            world.plan(at_us, What::Ambush { board: leader });
        }
    }

    /// Leaves the leader with less than a majority, and joins all others.
    pub(super) fn cut_off(world: &mut World, leader: usize) {
        if world.leader() != Some(leader) {
            return;
        }
        let Some(dice) = &mut world.ambush else {
            return;
        };
        let mut sides = vec![0; world.boards.len()];
        let mut room = (sides.len() - 1) / 2;
        for (at, side) in sides.iter_mut().enumerate() {
            let with = at != leader && room > 1 && dice.chance(300);
            room -= usize::from(with);
            *side = u8::from(with || at == leader);
        }
        world.partition(&sides);
    }

    fn cut_directions(&mut self, world: &mut World) {
        let boards = world.boards.len() as u64;
        let one = self.dice.below(boards) as usize;
        let kind = self.dice.below(3);
        for other in 0..world.boards.len() {
            if other == one {
                continue;
            }
            match kind {
                0 => world.cut_one_way(one, other),
                1 => world.cut_one_way(other, one),
                _ if self.dice.chance(400) => world.cut_one_way(one, other),
                _ => {}
            }
        }
        self.whole_us = self.last_us(world);
    }
}
