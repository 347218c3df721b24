//! Clients that set, delete and compare-and-set a few keys, mostly where they believe the leader is, and read on any board.

use quorate::node::ProposeError;
use quorate::raft::Role;
use quorate::typed::{Command, Value};

use super::board::SCHEMA;
use super::dice::Dice;
use super::model::Request;
use super::options::Fault;
use super::profile::KEYS;
use super::world::{What, World};

/// The client of a run.
#[derive(Debug)]
pub(super) struct Client {
    dice: Dice,
    /// Requests made so far: no value is used twice.
    made: i64,
    /// Between two requests on average, in µs.
    pace_us: u64,
    /// It asks no more.
    pub silent: bool,
    /// How many more to ask for at once.
    pub burst: u32,
}

impl Client {
    pub(super) fn start(world: &mut World) {
        let mut dice = world.dice.boards.fork();
        let heartbeat_us = u64::from(world.profile.heartbeat_ms) * 1000;
        let pace_us = (heartbeat_us * dice.within(1, 6)).clamp(60_000, 800_000);
        world.client = Some(Box::new(Self { dice, made: 0, pace_us, silent: false, burst: 0 }));
        world.plan(world.profile.election_us(), What::Client);
    }

    pub(super) fn act(world: &mut World) {
        let Some(mut client) = world.client.take() else {
            return;
        };
        if !client.silent {
            client.ask(world);
            client.read(world);
            client.forward(world);
        }
        while client.burst > 0 && client.ask(world) {
            client.burst -= 1;
        }
        client.burst = 0;
        let next_us = world.now_us + 1 + client.dice.below(2 * client.pace_us);
        world.client = Some(client);
        world.plan(next_us, What::Client);
    }

    /// Makes one request; true if it was taken.
    fn ask(&mut self, world: &mut World) -> bool {
        let count = world.boards.len() as u64;
        let leader = world.leader().filter(|_| !self.dice.chance(100));
        let board = leader.unwrap_or_else(|| self.dice.below(count) as usize);
        self.ask_at(world, board).is_ok()
    }

    /// Reads, on the leader or on any board, on one that led before above all: it may not know yet that it does no more.
    fn read(&mut self, world: &mut World) {
        if self.dice.chance(600) {
            return;
        }
        let count = world.boards.len() as u64;
        let at = match self.dice.below(3) {
            0 => world.leader(),
            1 => {
                let leads = |at: &usize| world.status(*at).is_some_and(|s| s.role == Role::Leader);
                (0..world.boards.len()).find(leads)
            }
            _ => None,
        };
        let at = at.unwrap_or_else(|| self.dice.below(count) as usize);
        if self.dice.chance(100) {
            world.cancel_read(at);
        } else {
            world.begin_read(at, self.dice.chance(500));
        }
    }

    /// Has a board send a command to the leader; one of which it is not known what became of it, again, or gives it up.
    fn forward(&mut self, world: &mut World) {
        let at = self.dice.below(world.boards.len() as u64) as usize;
        let for_ms = self.dice.within(1, 6) as u32 * world.profile.election_ms;
        let waits = world.boards[at].live.as_ref().and_then(|live| live.forwarding.as_ref());
        if waits.is_some_and(|waits| waits.is_unknown && waits.again < 4) && self.dice.chance(700) {
            return world.forward_again(at, for_ms);
        }
        if self.dice.chance(700) {
            return;
        }
        let bytes = self.compose(world);
        if world.forward(at, &bytes, for_ms).is_err() {
            self.refused(world, &bytes);
        }
    }

    fn refused(&self, world: &mut World, command: &[u8]) {
        if let Some(model) = &mut world.checks.model {
            model.refused(command);
        }
    }

    /// The next request, which the model is told of.
    fn compose(&mut self, world: &mut World) -> Vec<u8> {
        self.made += 1;
        let key = format!("key-{}", self.dice.below(KEYS));
        let model = world.checks.model.as_ref();
        let revision = model.map_or(0, |model| model.key_revision(&key));
        let expected = match self.dice.below(10) {
            0..3 => Some(revision),
            3 => Some(revision.saturating_sub(self.dice.below(3))),
            _ => None,
        };
        let value = (!self.dice.chance(120)).then_some(self.made);
        let mut bytes = [0; 64];
        let command = match value {
            Some(value) => Command::Set { key: &key, value: Value::Int(value), expected },
            None => Command::Delete { key: &key, expected },
        };
        let len = command.encode(SCHEMA, &mut bytes).unwrap_or(0);
        if let Some(model) = &mut world.checks.model {
            model.proposes(&bytes[..len], Request { key: key.clone(), value, expected });
        }
        bytes[..len].to_vec()
    }

    /// Makes one request at `board`.
    ///
    /// # Errors
    /// The board's refusal.
    pub(super) fn ask_at(
        &mut self,
        world: &mut World,
        board: usize,
    ) -> Result<quorate::EntryId, ProposeError> {
        let bytes = self.compose(world);
        let answer = world.propose(board, &bytes);
        if let Err(error) = answer {
            self.refused(world, &bytes);
            match error {
                ProposeError::LogFull { .. } => world.counters.log_full_refusals += 1,
                _ => world.counters.other_refusals += 1,
            }
        }
        answer
    }

    /// Is the fault of too many requests at once among those of this run?
    pub(super) fn may_burst(world: &World) -> bool {
        world.options.faults.has(Fault::LogFull)
    }
}
