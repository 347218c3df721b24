//! The main job: a configuration is put on five simulated boards, change by change, while power fails and the
//! radio is cut, until every board's flash holds it.

use std::collections::VecDeque;

use quorate::node::Status;
use quorate::raft::Role;
use quorate::typed::ConfigMap;
use quorate::{EntryId, Term};

use crate::boards::{self, BOARDS};
use crate::content::{Change, Content, Value, changes};
use crate::fit;
use crate::image;
use crate::sim::{Dice, World};

/// The client looks at the boards this often, µs of their time.
const STEP_US: u64 = 2_000;
/// What has not happened within this time will not happen, µs.
const PATIENCE_US: u64 = 120_000_000;
/// From the end of one trouble to the next, µs.
const CALM_US: u64 = 300_000;
/// How long a board that is to be cut in the middle of a flash operation may take to begin one, µs.
const ARMED_US: u64 = 3_000_000;
/// How long boards stay without power at most, µs.
const OFF_US: u64 = 600_000;
/// How long a partition lasts, µs: the side with a majority elects a leader and goes on.
const PARTITION_US: u64 = 2_500_000;

/// What happens while it runs.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// Something worth a line.
    Event {
        /// When, µs of the boards' time.
        at_us: u64,
        /// What.
        what: &'a str,
    },
    /// How far it is.
    Progress {
        /// When, µs of the boards' time.
        at_us: u64,
        /// Changes that are committed.
        done: usize,
        /// Changes there are.
        total: usize,
    },
}

/// How a board fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardReport {
    /// Its number.
    pub id: u8,
    /// What it is at the end.
    pub role: &'static str,
    /// Frames that it sent.
    pub frames_sent: u64,
    /// Bytes that it programmed.
    pub flash_bytes_written: u64,
    /// Blocks that it erased.
    pub erases: u64,
    /// Power cuts that it survived.
    pub power_cuts: u64,
}

/// A run that came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Keys that were given a value.
    pub set: usize,
    /// Keys that were taken out.
    pub deleted: usize,
    /// Keys that were right already.
    pub unchanged: usize,
    /// How long it took, µs of the boards' time.
    pub virtual_us: u64,
    /// The boards, in the order of their numbers.
    pub boards: Vec<BoardReport>,
    /// Their flash.
    pub images: Vec<Vec<u8>>,
}

/// A run that did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// Nothing more happens.
    #[error("the boards are stuck after {seconds} s of their time: waited in vain for {what}")]
    Stuck {
        /// Seconds of the boards' time.
        seconds: u64,
        /// What was waited for.
        what: &'static str,
    },
    /// An invariant did not hold.
    #[error("the boards broke a rule: {0}")]
    Violation(String),
}

/// Trouble that a run brings. One is over before the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The leader loses power, if it can be in the middle of a flash write.
    CutLeader,
    /// A board that has not lost power yet does.
    CutOther,
    /// The leader and one other board neither hear the rest nor are heard.
    Partition,
    /// All boards lose power at one instant.
    CutAll,
}

/// The trouble of every run, and at which share of the changes it comes, ‰.
const TROUBLES: [(Trouble, usize); 7] = [
    (Trouble::CutLeader, 150),
    (Trouble::CutOther, 300),
    (Trouble::Partition, 400),
    (Trouble::CutOther, 550),
    (Trouble::CutOther, 650),
    (Trouble::CutOther, 750),
    (Trouble::CutAll, 900),
];

/// Puts `target` on the boards: blank ones, or those with the flash of an earlier run.
///
/// # Errors
/// The boards got stuck, or broke an invariant.
pub fn run(
    target: &Content,
    images: Option<Vec<Vec<u8>>>,
    seed: u64,
    tell: &mut dyn FnMut(News<'_>),
) -> Result<Outcome, JobError> {
    let mut job = Job {
        world: boards::world(seed, images),
        dice: Dice::new(!seed),
        tell,
        todo: VecDeque::new(),
        waiting: None,
        done: 0,
        gate: 0,
        total: 0,
        set: 0,
        has_power: vec![false; BOARDS],
        led: None,
    };
    job.wait("a leader", |job| job.settled_leader().is_some())?;
    job.compare(target);
    for (at, (trouble, permille)) in TROUBLES.iter().enumerate() {
        job.gate = (job.total * permille).div_ceil(1000);
        job.wait("a change to be committed", |job| job.done == job.gate)?;
        job.pass(CALM_US)?;
        let next = TROUBLES.get(at + 1).map_or(1000, |(_, permille)| *permille);
        job.gate = (job.total * next).div_ceil(1000);
        job.bring(*trouble)?;
        job.wait("all boards to have power", |job| job.has_power.iter().all(|power| *power))?;
        job.wait("a leader", |job| job.settled_leader().is_some() || job.waiting.is_some())?;
    }
    job.gate = job.total;
    job.wait("the last changes to be committed", |job| job.done == job.total)?;
    job.settle(target)?;
    Ok(job.outcome(target))
}

struct Job<'a> {
    world: World,
    dice: Dice,
    tell: &'a mut dyn FnMut(News<'_>),
    /// Changes that are not proposed yet.
    todo: VecDeque<Change>,
    /// The change that was proposed last, until it is known what became of it.
    waiting: Option<(EntryId, Change)>,
    done: usize,
    /// So many changes may be made before the next trouble has begun.
    gate: usize,
    total: usize,
    /// Changes that set a key.
    set: usize,
    /// Which boards had power when they were last looked at.
    has_power: Vec<bool>,
    /// Which board led then, in which term.
    led: Option<(usize, Term)>,
}

impl Job<'_> {
    /// Lets a little time pass, in which the client does its work.
    fn advance(&mut self) -> Result<(), JobError> {
        let at_us = self.world.now_us() + STEP_US;
        self.world.advance_to(at_us);
        if let Some(violation) = self.world.violations().first() {
            return Err(JobError::Violation(violation.to_string()));
        }
        self.look();
        self.resolve();
        self.propose();
        Ok(())
    }

    fn pass(&mut self, us: u64) -> Result<(), JobError> {
        let end_us = self.world.now_us() + us;
        while self.world.now_us() < end_us {
            self.advance()?;
        }
        Ok(())
    }

    fn wait(
        &mut self,
        what: &'static str,
        mut happened: impl FnMut(&Self) -> bool,
    ) -> Result<(), JobError> {
        let end_us = self.world.now_us() + PATIENCE_US;
        while !happened(self) {
            if self.world.now_us() > end_us {
                return Err(JobError::Stuck { seconds: self.world.now_us() / 1_000_000, what });
            }
            self.advance()?;
        }
        Ok(())
    }

    fn say(&mut self, what: &str) {
        (self.tell)(News::Event { at_us: self.world.now_us(), what });
    }

    /// Tells what is different from the last look.
    fn look(&mut self) {
        for at in 0..BOARDS {
            let has_power = self.world.status(at).is_some();
            if std::mem::replace(&mut self.has_power[at], has_power) != has_power && has_power {
                self.say(&format!("board {} has power", at + 1));
            }
        }
        let led = self.leader().map(|(at, status)| (at, status.term));
        if led.is_some() && led != self.led {
            self.led = led;
            if let Some((at, term)) = led {
                self.say(&format!("board {} leads, term {term}", at + 1));
            }
        }
    }

    /// The board that leads, as far as it knows.
    fn leader(&self) -> Option<(usize, Status)> {
        let at = self.world.leader()?;
        let status = self.world.status(at)?;
        (status.role == Role::Leader).then_some((at, status))
    }

    /// A leader that has committed an entry of its own term and applied all of its log: what it does not
    /// hold now, no board will ever apply (Raft §5.4).
    fn settled_leader(&self) -> Option<(usize, Status)> {
        let settled = |s: &Status| s.last.term == s.term && s.applied == s.last.index;
        self.leader().filter(|(_, status)| settled(status))
    }

    /// Works out what has to change on the boards.
    fn compare(&mut self, target: &Content) {
        let found = self.settled_leader().and_then(|(at, _)| self.world.app(at)).map(content_of);
        self.todo = changes(&found.unwrap_or_default(), target).into();
        self.set = self.todo.iter().filter(|change| matches!(change, Change::Set(..))).count();
        self.total = self.todo.len();
        self.progress();
    }

    fn progress(&mut self) {
        let (at_us, done, total) = (self.world.now_us(), self.done, self.total);
        (self.tell)(News::Progress { at_us, done, total });
    }

    /// Proposes the next change once it is known what became of the one before: so each takes effect
    /// exactly once.
    fn propose(&mut self) {
        let (None, Some(change), Some((at, _))) = (&self.waiting, self.todo.front(), self.leader())
        else {
            return;
        };
        if self.done >= self.gate {
            return;
        }
        // It was encoded when the file was checked, or came from a board.
        let Ok(command) = fit::command(change) else { return };
        // A refusal is no harm: it is proposed again later, maybe elsewhere.
        if let Ok(id) = self.world.propose(at, &command) {
            self.waiting = self.todo.pop_front().map(|change| (id, change));
        }
    }

    /// Finds out what became of the change that was proposed.
    fn resolve(&mut self) {
        let (Some((id, change)), Some((at, status))) = (&self.waiting, self.leader()) else {
            return;
        };
        let applied = if status.term == id.term {
            status.applied >= id.index
        } else if status.term > id.term && self.settled_leader().is_some() {
            if !self.world.app(at).is_some_and(|app| holds(app, change)) {
                // Its leader failed before it was committed.
                self.todo.extend(self.waiting.take().map(|(_, change)| change));
                self.todo.rotate_right(1);
                return;
            }
            true
        } else {
            false
        };
        if applied {
            self.waiting = None;
            self.done += 1;
            self.progress();
        }
    }

    fn bring(&mut self, trouble: Trouble) -> Result<(), JobError> {
        match trouble {
            Trouble::CutLeader => loop {
                self.wait("a leader", |job| job.leader().is_some())?;
                let crashes = self.world.counters().leader_crashes;
                if let Some((at, _)) = self.leader() {
                    self.cut(at)?;
                }
                if self.world.counters().leader_crashes > crashes {
                    return Ok(());
                }
            },
            Trouble::CutOther => {
                let cuts: Vec<_> = self.world.boards().iter().map(|board| board.cuts).collect();
                let least = cuts.iter().min().copied().unwrap_or_default();
                let spared: Vec<_> = (0..BOARDS).filter(|at| cuts[*at] == least).collect();
                let at = self.dice.pick(&spared);
                self.cut(at)
            }
            Trouble::Partition => {
                self.wait("a leader", |job| job.leader().is_some())?;
                let leader = self.leader().map_or(0, |(at, _)| at);
                let with = (leader + self.dice.within(1, BOARDS as u64 - 1) as usize) % BOARDS;
                let sides: Vec<_> =
                    (0..BOARDS).map(|at| u8::from([leader, with].contains(&at))).collect();
                self.say(&format!(
                    "partition: boards {} and {}, the leader among them, are cut off from the others",
                    leader.min(with) + 1,
                    leader.max(with) + 1,
                ));
                self.world.partition(&sides);
                self.pass(PARTITION_US)?;
                self.world.partition(&[0; BOARDS]);
                self.say("the partition is over");
                Ok(())
            }
            Trouble::CutAll => {
                self.say("all boards lose power at once");
                self.world.cut_all(OFF_US);
                self.look();
                Ok(())
            }
        }
    }

    /// Cuts a board's power in the middle of its next flash operation, or soon if there is none.
    fn cut(&mut self, at: usize) -> Result<(), JobError> {
        let cuts = |job: &Self| job.world.boards()[at].cuts;
        let (before, torn_before) = (cuts(self), self.world.counters().power_cuts);
        let name = match self.leader() {
            Some((leader, _)) if leader == at => format!("the leader, board {},", at + 1),
            _ => format!("board {}", at + 1),
        };
        self.world.arm_cut(at);
        let end_us = self.world.now_us() + ARMED_US;
        while cuts(self) == before {
            if self.world.now_us() > end_us {
                self.world.cut(at, OFF_US);
            } else {
                self.advance()?;
            }
        }
        let amid = if self.world.counters().power_cuts > torn_before {
            " in the middle of a flash operation"
        } else {
            ""
        };
        self.look();
        self.say(&format!("{name} loses power{amid}"));
        Ok(())
    }

    /// Waits until each board's flash, mounted afresh, holds the target and knows all that is committed: boards
    /// write that down when they have nothing else to do.
    fn settle(&mut self, target: &Content) -> Result<(), JobError> {
        let end_us = self.world.now_us() + PATIENCE_US;
        while !self.is_settled(target) {
            if self.world.now_us() > end_us {
                let what = "every board's flash to hold the file";
                return Err(JobError::Stuck { seconds: self.world.now_us() / 1_000_000, what });
            }
            self.pass(CALM_US)?;
        }
        Ok(())
    }

    fn is_settled(&self, target: &Content) -> bool {
        let Some((_, leader)) = self.settled_leader() else {
            return false;
        };
        self.world.images().iter().all(|image| {
            image::read(image).is_ok_and(|board| {
                board.content == *target && board.status.applied == leader.applied
            })
        })
    }

    fn outcome(&self, target: &Content) -> Outcome {
        let boards = self.world.boards().iter().enumerate().map(|(at, board)| BoardReport {
            id: board.number(),
            role: match self.world.status(at).map(|status| status.role) {
                Some(Role::Leader) => "leader",
                Some(Role::Follower) => "follower",
                Some(_) => "candidate",
                None => "off",
            },
            frames_sent: board.frames_sent,
            flash_bytes_written: board.chip.bytes_written,
            erases: board.chip.erases,
            power_cuts: board.cuts,
        });
        Outcome {
            set: self.set,
            deleted: self.total - self.set,
            unchanged: target.len() - self.set,
            virtual_us: self.world.now_us(),
            boards: boards.collect(),
            images: self.world.images(),
        }
    }
}

fn content_of(app: &ConfigMap) -> Content {
    app.iter().map(|item| (item.key.to_string(), Value::from(item.value))).collect()
}

/// Is it as the change makes it?
fn holds(app: &ConfigMap, change: &Change) -> bool {
    match change {
        Change::Set(key, value) => app.get(key).map(Value::from).as_ref() == Some(value),
        Change::Delete(key) => app.get(key).is_none(),
    }
}
