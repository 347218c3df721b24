//! What persons do about a cluster: joint configurations are left, and boards that have lost their place come back blank.

use quorate::change::{Step, Transition, What};
use quorate::{NodeId, NodeSet};

use super::churn;
use super::dice::Dice;
use super::options::Fault;
use super::world::{What as Event, World};

/// Who looks after the cluster.
#[derive(Debug)]
pub(super) struct Upkeep {
    dice: Dice,
}

impl Upkeep {
    pub(super) fn start(world: &mut World) {
        let dice = world.dice.boards.fork();
        world.upkeep = Some(Box::new(Self { dice }));
        world.plan(world.profile.election_us(), Event::Upkeep);
    }

    pub(super) fn act(world: &mut World) {
        let Some(mut upkeep) = world.upkeep.take() else {
            return;
        };
        upkeep.leave_joint(world);
        upkeep.replace(world);
        let next_us = world.now_us + world.profile.election_us();
        world.upkeep = Some(upkeep);
        world.plan(next_us, Event::Upkeep);
    }

    fn leave_joint(&mut self, world: &mut World) {
        let membership = world.checks.members.latest().membership;
        let due = !world.amid_faults || self.dice.chance(200);
        if due
            && !membership.outgoing.is_empty()
            && !membership.auto_leave
            && let Some(leader) = world.leader()
        {
            world.change_members(leader, Transition::Auto, &[], false);
        }
    }

    /// Boards that were removed, or whose place was given away, get blank flash, as soon as nobody needs what they hold.
    fn replace(&mut self, world: &mut World) {
        let members = world.checks.members.latest().members();
        for at in 0..world.boards.len() {
            let id = world.boards[at].id;
            let displaced = world.is_displaced(at);
            let removed = !members.contains(id) && world.amid_faults && self.dice.chance(200);
            let used = world.boards[at].founded;
            if (displaced || removed) && used && world.can_do_without(NodeSet::one(id)) {
                let off_us = self.dice.below(world.profile.election_us());
                world.wipe(at, off_us);
            }
        }
        self.promote(world);
    }

    /// A member that was added without a vote gets one.
    fn promote(&mut self, world: &mut World) {
        let latest = world.checks.members.latest();
        let waits = latest.membership.learners.difference(latest.returning);
        let churns = world.options.faults.has(Fault::Membership) && world.amid_faults;
        let waiting: Vec<NodeId> = waits.iter().collect();
        if churns
            && self.dice.chance(100)
            && !waiting.is_empty()
            && let Some(leader) = world.leader()
        {
            let step = Step::new(What::AddVoter, self.dice.pick(&waiting));
            churn::propose(world, leader, Transition::Auto, &[step], false);
        }
    }
}
