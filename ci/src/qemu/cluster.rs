//! The boards of a run, with what they are asked for meanwhile. All of it goes on in [`Cluster::tick`], while the run waits for something.

use std::thread;
use std::time::{Duration, Instant};

use quorate::typed::Command;
use quorate_apps::{COMMAND_BYTES, SCHEMA};
use quorate_flash_lab::random::Random;
use quorate_std::content::Value;

use super::board::{Board, Cut, Hit, Rig};
use super::judge::Judge;
use crate::tools::{Trouble, failed};

/// How often the boards are looked at.
const TICK: Duration = Duration::from_millis(10);
/// So long a flash operation is waited for, to cut power inside of it.
const HUNT: Duration = Duration::from_secs(8);
/// A command that a board has not taken in hand by then was lost on its way to it.
const LOST: Duration = Duration::from_millis(1500);
/// And what comes of a second copy of one has come by then.
const SETTLES: Duration = Duration::from_millis(500);
/// Keys that are set again and again.
const KEYS: u64 = 6;

/// A change that one board was asked for.
struct Ask {
    place: usize,
    starts: u32,
    key: String,
    value: Value,
    sent: Instant,
    again: bool,
    done: u32,
    unknown: u32,
    taken: u32,
}

/// What a run has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) resets: u32,
    pub(super) kills: u32,
    pub(super) reloads: u32,
    pub(super) in_writes: u32,
    pub(super) in_erases: u32,
    pub(super) torn: u32,
    pub(super) done: u32,
    pub(super) unknown: u32,
}

/// Boards on a wire.
pub(super) struct Cluster<'a> {
    pub(super) rig: Rig<'a>,
    pub(super) boards: Vec<Board>,
    pub(super) judge: Judge,
    pub(super) random: Random,
    pub(super) tally: Tally,
    /// Places that changes are asked of, one after the other.
    pub(super) load: Vec<usize>,
    ask: Option<Ask>,
    /// Nothing is asked before.
    quiet_until: Instant,
    next: i64,
}

impl<'a> Cluster<'a> {
    /// Boards that are off, with these identity pages.
    pub(super) fn new(rig: Rig<'a>, pages: &[Vec<u8>], seed: u64) -> Self {
        let boards = pages.iter().enumerate().map(|(place, page)| Board::new(place, page));
        Self {
            rig,
            boards: boards.collect(),
            judge: Judge::default(),
            random: Random(seed),
            tally: Tally::default(),
            load: Vec::new(),
            ask: None,
            quiet_until: Instant::now(),
            next: 0,
        }
    }

    /// Power comes to a board.
    pub(super) fn switch_on(&mut self, place: usize) -> Result<(), Trouble> {
        let board = &mut self.boards[place];
        self.tally.reloads += u32::from(board.starts > 0);
        board.switch_on(&self.rig)
    }

    /// Power goes, and what the board's flash is then has to make sense; it comes back after `off`, if at all.
    pub(super) fn cut(
        &mut self,
        place: usize,
        cut: Cut,
        tears: bool,
        off: Option<Duration>,
    ) -> Result<Hit, Trouble> {
        self.hunt(place, cut)?;
        let board = &mut self.boards[place];
        let hit = board.switch_off(&self.rig, tears, &mut self.random)?;
        self.tally.in_writes += u32::from(hit.write);
        self.tally.in_erases += u32::from(hit.erase);
        self.tally.torn += u32::from(hit.torn);
        let (id, flash) = (board.id(), board.flash.clone());
        self.judge.look(id, &flash).map_err(Trouble::Failed)?;
        self.boards[place].on_at = off.map(|off| Instant::now() + off);
        Ok(hit)
    }

    /// Pauses a board at an instant that suits the cut, under load, if one comes soon enough.
    fn hunt(&mut self, place: usize, cut: Cut) -> Result<(), Trouble> {
        let begun = Instant::now();
        while !self.boards[place].pauses_for(&self.rig, cut)? && begun.elapsed() < HUNT {
            thread::sleep(Duration::from_micros(self.random.below(1500)));
            if self.random.one_in(4) {
                self.look()?;
            }
        }
        Ok(())
    }

    /// One look at everything, and a pause.
    fn tick(&mut self) -> Result<(), Trouble> {
        self.look()?;
        thread::sleep(TICK);
        Ok(())
    }

    /// One look at everything.
    fn look(&mut self) -> Result<(), Trouble> {
        for place in 0..self.boards.len() {
            if self.boards[place].on_at.is_some_and(|at| at <= Instant::now()) {
                self.switch_on(place)?;
            }
            let board = &mut self.boards[place];
            let watch = board.look(&self.rig)?;
            match watch.state {
                0 | 1 => {}
                2 => return failed(format!("board {} has stopped", board.id())),
                _ => return failed(format!("board {}: the firmware panicked", board.id())),
            }
        }
        self.follow();
        Ok(())
    }

    /// Sees what became of the change that was asked for, and asks for the next one.
    fn follow(&mut self) {
        if let Some(ask) = &mut self.ask {
            let board = &self.boards[ask.place];
            let lives = board.is_on() && board.starts == ask.starts;
            let took_effect = lives && board.watch.done > ask.done;
            let unknown = !lives || board.watch.unknown > ask.unknown;
            let lost = board.watch.taken == ask.taken && ask.sent.elapsed() > LOST;
            if took_effect {
                self.judge.took_effect(&ask.key, ask.value.clone());
                self.tally.done += 1;
            } else if unknown {
                self.judge.may_take_effect(&ask.key, ask.value.clone());
                self.tally.unknown += 1;
            } else if lost {
                (ask.sent, ask.again) = (Instant::now(), true);
                send(&self.rig, ask);
                return;
            } else {
                return;
            }
            if ask.again {
                self.quiet_until = Instant::now() + SETTLES;
            }
            self.ask = None;
        }
        if Instant::now() < self.quiet_until || self.load.is_empty() {
            return;
        }
        let place = self.random.pick(&self.load);
        let key = format!("k{}", self.random.below(KEYS));
        let value = self.fresh();
        self.begin(place, &key, value);
    }

    /// A value that nothing was ever given.
    pub(super) fn fresh(&mut self) -> Value {
        self.next += 1;
        Value::Int(self.next)
    }

    /// Asks a board, if it runs and has nothing else in hand.
    fn begin(&mut self, place: usize, key: &str, value: Value) -> bool {
        let board = &self.boards[place];
        let watch = board.watch;
        let free = watch.taken == watch.done.wrapping_add(watch.unknown);
        if self.ask.is_some() || !board.is_on() || watch.state != 1 || !free {
            return false;
        }
        let ask = Ask {
            place,
            starts: board.starts,
            key: key.to_owned(),
            value,
            sent: Instant::now(),
            again: false,
            done: watch.done,
            unknown: watch.unknown,
            taken: watch.taken,
        };
        send(&self.rig, &ask);
        self.ask = Some(ask);
        true
    }

    /// Nothing is asked of any board.
    pub(super) fn is_idle(&self) -> bool {
        self.ask.is_none()
    }

    /// Gives a change to one board and waits until it has taken effect.
    pub(super) fn set(&mut self, place: usize, key: &str, value: Value) -> Result<(), Trouble> {
        let load = std::mem::take(&mut self.load);
        for _ in 0..3 {
            let done = self.tally.done;
            let (begun, given) = (key.to_owned(), value.clone());
            self.wait("a board to take a change", 30, move |it| {
                it.begin(place, &begun, given.clone())
            })?;
            self.wait("a change to take effect", 60, |it| it.ask.is_none())?;
            if self.tally.done > done {
                self.load = load;
                return Ok(());
            }
        }
        failed(format!("{key} could not be set"))
    }

    /// Gives a change to one board that can't take effect: what becomes of it is not waited for.
    pub(super) fn give(&mut self, place: usize, key: &str, value: Value) -> Result<(), Trouble> {
        self.judge.may_take_effect(key, value.clone());
        self.wait("a change to be decided on", 60, |it| it.ask.is_none())?;
        let (key, value) = (key.to_owned(), value);
        self.wait("a board to take a change", 30, |it| it.begin(place, &key, value.clone()))?;
        // It is not this one that is waited for.
        self.ask = None;
        Ok(())
    }

    /// Goes on until something is so.
    pub(super) fn wait(
        &mut self,
        what: &str,
        seconds: u64,
        mut is_so: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), Trouble> {
        let begun = Instant::now();
        while !is_so(self) {
            if begun.elapsed() > Duration::from_secs(seconds) {
                let boards: Vec<_> = self.boards.iter().map(|board| board.watch).collect();
                return failed(format!("waited {seconds} s in vain for {what}: {boards:#?}"));
            }
            self.tick()?;
        }
        Ok(())
    }

    /// The same, where looking may fail.
    pub(super) fn until(
        &mut self,
        what: &str,
        seconds: u64,
        mut is_so: impl FnMut(&mut Self) -> Result<bool, Trouble>,
    ) -> Result<(), Trouble> {
        let mut ended = Ok(());
        self.wait(what, seconds, |it| {
            let looked = is_so(it);
            let (so, error) = looked.map_or_else(|error| (true, Err(error)), |so| (so, Ok(())));
            ended = error;
            so
        })?;
        ended
    }

    /// The deepest stack of the boards with the first firmware, and of those with the last.
    pub(super) fn stack(&self) -> [usize; 2] {
        [false, true].map(|last| {
            let boards = self.boards.iter().filter(|board| Rig::is_of_last(board.place) == last);
            boards.map(|board| board.stack).max().unwrap_or(0)
        })
    }

    /// Goes on for so long.
    pub(super) fn run(&mut self, ms: u64) -> Result<(), Trouble> {
        let until = Instant::now() + Duration::from_millis(ms);
        self.wait("time to pass", 1 + ms / 500, |_| Instant::now() >= until)
    }

    /// Everybody is on and runs, and holds the same.
    pub(super) fn agree(&self) -> bool {
        let first = self.boards.first().map(|board| board.watch);
        self.boards.iter().all(|board| {
            let (watch, first) = (board.watch, first.unwrap_or_default());
            let same = (watch.applied, watch.revision) == (first.applied, first.revision);
            board.is_on() && watch.state == 1 && watch.applied > 0 && same
        })
    }
}

fn send(rig: &Rig<'_>, ask: &Ask) {
    let (mut bytes, key) = ([0; COMMAND_BYTES], ask.key.as_str());
    let value = match &ask.value {
        Value::Bool(on) => quorate::typed::Value::Bool(*on),
        Value::Int(number) => quorate::typed::Value::Int(*number),
        Value::Str(text) => quorate::typed::Value::Str(text),
        Value::Float(number) => quorate::typed::Value::from(*number),
        Value::Bytes(bytes) => quorate::typed::Value::Bytes(bytes),
    };
    let command = Command::Set { key, value, expected: None };
    if let Ok(len) = command.encode(SCHEMA, &mut bytes) {
        rig.hub.command(ask.place, &bytes[..len]);
    }
}
