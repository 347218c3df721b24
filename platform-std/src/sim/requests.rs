//! What boards are asked for, by clients and by persons, and what they answer.

use quorate::change::{Step, Transition};
use quorate::node::{ChangeMembersError, ForwardError, Outcome, ProposalId, ReadId};
use quorate::raft::TransferRefused;
use quorate::{EntryId, Instant, NodeId};

use super::board::{Forwarding, Live, Reading};
use super::model::Effect;
use super::rules::Rule;
use super::trace::Hex;
use super::world::World;

impl World {
    /// The board, if it has power and is not deaf, with what its clock says.
    fn awake(&mut self, at: usize) -> Option<(&mut Live, Instant)> {
        let now_us = self.now_us;
        let board = &mut self.boards[at];
        let now = board.clock(now_us);
        let deaf = board.is_deaf();
        board.live.as_mut().filter(|_| !deaf).map(|live| (live, now))
    }

    fn asked(&mut self, at: usize, what: std::fmt::Arguments<'_>) {
        let (now_us, number) = (self.now_us, self.boards[at].number());
        self.trace.line(format_args!("{now_us} {number} < {what}"));
        self.observe(at);
        self.pump(at);
    }

    /// Proposes a change of membership at `at`; `None` if the board can't be asked.
    pub fn change_members(
        &mut self,
        at: usize,
        transition: Transition,
        steps: &[Step],
        force: bool,
    ) -> Option<Result<EntryId, ChangeMembersError>> {
        let (live, _) = self.awake(at)?;
        let answer = live.node.change_members(transition, steps, force);
        self.asked(at, format_args!("change {transition:?} {steps:?} {force} {answer:?}"));
        Some(answer)
    }

    /// Has the leader hand over to `to`, asked for at `at`; `None` if the board can't be asked.
    pub fn transfer_leader(
        &mut self,
        at: usize,
        to: NodeId,
    ) -> Option<Result<(), TransferRefused>> {
        let (live, now) = self.awake(at)?;
        let answer = live.node.transfer_leader(now, to);
        self.asked(at, format_args!("transfer {to} {answer:?}"));
        Some(answer)
    }

    /// Begins a read at `at`, which has to show all that was acknowledged and shown up to now.
    pub(super) fn begin_read(&mut self, at: usize, lease: bool) {
        let due = self.checks.model.as_ref().map_or(0, |model| model.promised());
        let Some((live, now)) = self.awake(at) else {
            return;
        };
        let answer = live.node.read(now, lease);
        if let Ok(id) = answer {
            live.reads.push(Reading { id, lease, due });
        }
        self.asked(at, format_args!("read {lease} {answer:?}"));
    }

    /// Gives up the read that was begun first at `at`.
    pub(super) fn cancel_read(&mut self, at: usize) {
        let Some((live, _)) = self.awake(at) else {
            return;
        };
        if live.reads.is_empty() {
            return;
        }
        let Reading { id, .. } = live.reads.remove(0);
        live.node.cancel_read(id);
        self.asked(at, format_args!("cancel {id:?}"));
    }

    pub(super) fn read_ready(&mut self, at: usize, id: ReadId) {
        let board = &mut self.boards[at];
        let number = board.number();
        let Some(live) = &mut board.live else {
            return;
        };
        let Some(place) = live.reads.iter().position(|read| read.id == id) else {
            let what = || format!("answers {id:?}, which nobody waits for");
            return self.checks.verdict.red(Rule::P1, number, what);
        };
        let Reading { lease, due, .. } = live.reads.swap_remove(place);
        if let Some(model) = &mut self.checks.model {
            model.read(number, due, &mut self.checks.verdict);
        }
        if lease && self.profile.lease_clock_error_permille.is_some() {
            self.counters.lease_reads_checked += 1;
        } else {
            self.counters.reads_checked += 1;
        }
    }

    /// Has the leader propose a command, from `at`.
    ///
    /// # Errors
    /// The board's refusal.
    pub(super) fn forward(
        &mut self,
        at: usize,
        command: &[u8],
        for_ms: u32,
    ) -> Result<(), ForwardError> {
        let (live, now) = self.awake(at).ok_or(ForwardError::NotRunning)?;
        let answer = live.node.forward(command, now.after(for_ms));
        if let Ok(id) = answer {
            live.forwarding =
                Some(Forwarding { id, command: command.to_vec(), again: 0, is_unknown: false });
        }
        self.asked(at, format_args!("forward {} {answer:?}", Hex(command)));
        answer.map(|_| ())
    }

    /// Sends the command of `at` whose outcome is unknown again, under its own number.
    pub(super) fn forward_again(&mut self, at: usize, for_ms: u32) {
        let Some((live, now)) = self.awake(at) else {
            return;
        };
        let Some(Forwarding { id, command, again, is_unknown }) = &mut live.forwarding else {
            return;
        };
        let answer = live.node.forward_again(*id, command, now.after(for_ms));
        *again += 1;
        let id = *id;
        match answer {
            Ok(()) => {
                *is_unknown = false;
                self.counters.forwards_repeated += 1;
            }
            Err(ForwardError::Busy) => {}
            Err(_) => live.forwarding = None,
        }
        self.asked(at, format_args!("again {id:?} {answer:?}"));
    }

    pub(super) fn forwarded(&mut self, at: usize, id: ProposalId, outcome: Outcome) {
        let board = &mut self.boards[at];
        let number = board.number();
        let Some(live) = &mut board.live else {
            return;
        };
        let Some(forwarding) = live.forwarding.take_if(|of| of.id == id) else {
            let what = || format!("tells what became of {id:?}, which nobody waits for");
            return self.checks.verdict.red(Rule::P1, number, what);
        };
        match outcome {
            Outcome::Unknown => {
                self.counters.forwards_unknown += 1;
                live.forwarding = Some(Forwarding { is_unknown: true, ..forwarding });
            }
            Outcome::Applied { id } => {
                self.counters.forwards_applied += 1;
                let effect = id.and_then(|id| live.app.outcome(id)).and_then(Effect::of);
                if let Some(model) = &mut self.checks.model {
                    model.told_applied(number, &forwarding.command, id, &mut self.checks.verdict);
                }
                if let (Some(id), Some(_)) = (id, effect)
                    && self.checks.acknowledges(number, id, &forwarding.command, effect)
                {
                    self.look_for_acknowledged();
                }
            }
        }
    }

    /// The board applied `id`: whose proposal was it, and whose did it replace?
    pub(super) fn answer_clients(&mut self, at: usize, id: EntryId) {
        let board = &mut self.boards[at];
        let number = board.number();
        let Some(live) = &mut board.live else {
            return;
        };
        // A board that led before may have taken another one for this place, which is not to come any more.
        let mut answered = None;
        live.waiting.retain_mut(|(waits, command)| {
            if *waits == id {
                answered = Some(std::mem::take(command));
            }
            waits.index != id.index
        });
        let Some(command) = answered else {
            return;
        };
        let effect = live.app.outcome(id).and_then(Effect::of);
        self.counters.mismatches += u64::from(matches!(effect, Some(Effect::Mismatch(_))));
        if self.checks.acknowledges(number, id, &command, effect) {
            self.look_for_acknowledged();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::typed::{Command, Value};

    use crate::sim::board::SCHEMA;
    use crate::sim::dice::Dice;
    use crate::sim::options::{Faults, Options};
    use crate::sim::profile::Profile;

    fn set(value: i64) -> Vec<u8> {
        let value = Value::Int(value);
        let mut bytes = [0; 64];
        let command = Command::Set { key: "key", value, expected: None };
        let len = command.encode(SCHEMA, &mut bytes).unwrap();
        bytes[..len].to_vec()
    }

    #[test]
    fn a_write_is_acknowledged_whatever_the_board_took_for_its_place_when_it_led_before() {
        let options = Options { boards: 3, faults: Faults::NONE, ..Options::new(1) };
        let profile = Profile::draw(&options, &mut Dice::new(1));
        let mut world = World::with(options, profile, Vec::new());
        let elections = |world: &mut World, count| {
            world.advance_to(world.now_us + count * world.profile.election_us());
        };
        elections(&mut world, 20);
        let first = world.leader().unwrap();
        let mut sides = [0; 3];
        sides[first] = 1;
        world.partition(&sides);
        // Nobody hears of these.
        let replaced = [1, 2, 3].map(|value| world.propose(first, &set(value)).unwrap());
        elections(&mut world, 20);
        assert_ne!(world.leader(), Some(first));
        world.heal();
        elections(&mut world, 4);
        let second = world.leader().unwrap();
        let to = world.boards[first].id;
        assert_eq!(world.transfer_leader(second, to), Some(Ok(())));
        elections(&mut world, 4);
        assert_eq!(world.leader(), Some(first));
        let id = world.propose(first, &set(4)).unwrap();
        assert!(replaced.iter().any(|replaced| replaced.index == id.index), "{id:?} {replaced:?}");
        elections(&mut world, 4);
        assert!(world.is_acknowledged(id));
        assert!(!replaced.iter().any(|replaced| world.is_acknowledged(*replaced)));
        assert_eq!(world.violations(), []);
    }
}
