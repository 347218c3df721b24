//! Members that come and go: changes of all kinds, and boards that lose their flash, as long as the others can do without.

use quorate::change::{Change, Step, Transition, What};
use quorate::{NodeId, NodeSet};

use super::dice::Dice;
use super::durability::inspect;
use super::members::Configuration;
use super::world::World;

/// Tries to find a change that leaves a quorum of boards that are there.
const TRIES: u32 = 8;

/// Proposes some change at the leader.
pub(super) fn change(world: &mut World, dice: &mut Dice) {
    let Some(leader) = world.leader() else {
        return;
    };
    let now = world.checks.members.latest().clone();
    let all: NodeSet = world.boards.iter().map(|board| board.id).collect();
    let outside = all.difference(now.members());
    let plain = world.options.plain_changes;
    for _ in 0..TRIES {
        let (transition, steps) = if !now.membership.outgoing.is_empty() {
            (Transition::Auto, Vec::new())
        } else if !outside.is_empty() && dice.chance(500) {
            let what = if dice.chance(800) || plain { What::AddLearner } else { What::AddVoter };
            (Transition::Auto, vec![Step::new(what, pick(outside, dice))])
        } else {
            draw(&now, all, plain, dice)
        };
        if propose(world, leader, transition, &steps, dice.chance(150)) {
            return;
        }
    }
}

/// Proposes a change if it leaves a quorum of boards that are there.
pub(super) fn propose(
    world: &mut World,
    leader: usize,
    transition: Transition,
    steps: &[Step],
    force: bool,
) -> bool {
    let now = world.checks.members.latest();
    let mut data = [0; 64];
    let len = Change::encode(transition, steps, &mut data).unwrap_or(0);
    let next = Change::decode(&data[..len]).ok().and_then(|change| now.after(&change));
    let sound = next.is_some_and(|next| next.has_quorum(world.present(&next, NodeSet::EMPTY)));
    if sound {
        world.change_members(leader, transition, steps, force);
    }
    sound
}

fn pick(from: NodeSet, dice: &mut Dice) -> NodeId {
    let ids: Vec<NodeId> = from.iter().collect();
    dice.pick(&ids)
}

/// One step at once, or several through a joint configuration.
fn draw(
    now: &Configuration,
    all: NodeSet,
    plain: bool,
    dice: &mut Dice,
) -> (Transition, Vec<Step>) {
    let learners = now.membership.learners;
    let transition = match dice.below(10) {
        _ if plain => Transition::Auto,
        0..5 => Transition::Auto,
        5..7 => Transition::Implicit,
        _ => Transition::Explicit,
    };
    let one = plain || transition == Transition::Auto && dice.chance(700);
    let count = if one { 1 } else { dice.within(1, 3) };
    let step = |dice: &mut Dice| {
        let id = pick(all, dice);
        let what = match dice.below(10) {
            _ if learners.contains(id) && dice.chance(700) => What::AddVoter,
            0..4 => What::AddVoter,
            4..7 if !(plain && now.membership.voters.contains(id)) => What::AddLearner,
            4..9 => What::Remove,
            _ => What::Update,
        };
        Step::new(what, id)
    };
    let mut steps: Vec<Step> = (0..count).map(|_| step(dice)).collect();
    steps.dedup_by_key(|step| step.id);
    (transition, steps)
}

/// One board loses its flash, or two do; at times it is the leader.
pub(super) fn wipe(world: &mut World, dice: &mut Dice) {
    let boards = world.boards.len();
    let count = if boards >= 5 && dice.chance(400) { 2 } else { 1 };
    for _ in 0..TRIES {
        let leader = world.leader().filter(|_| dice.chance(400));
        let first = leader.unwrap_or_else(|| dice.below(boards as u64) as usize);
        let others = (0..count - 1).map(|_| dice.below(boards as u64) as usize);
        let chosen: Vec<usize> = std::iter::once(first).chain(others).collect();
        let gone: NodeSet = chosen.iter().map(|at| world.boards[*at].id).collect();
        let members = world.checks.members.latest().members();
        if gone.difference(members).is_empty() && world.can_do_without(gone) {
            for at in chosen {
                let off_us = dice.below(2 * world.profile.election_us());
                world.wipe(at, off_us);
            }
            return;
        }
    }
}

impl World {
    /// Boards whose flash is that of a member, but for `gone`.
    pub(super) fn present(&self, members: &Configuration, gone: NodeSet) -> NodeSet {
        let here = |id: &NodeId| {
            let board = &self.boards[usize::from(id.get()) - 1];
            !gone.contains(*id) && board.founded && members.counts(*id, board.generation)
        };
        members.members().iter().filter(here).collect()
    }

    /// Is there a quorum without these boards, whatever of what stands in logs comes to be committed?
    pub(super) fn can_do_without(&self, gone: NodeSet) -> bool {
        let latest = self.checks.members.latest();
        let left = self.present(latest, gone);
        let enough = |members: &Configuration| members.has_quorum(self.present(members, gone));
        // The leader may be about to give it its vote back.
        let mut voting = latest.clone();
        voting.membership.voters =
            latest.membership.voters.union(latest.returning.intersection(gone));
        enough(latest)
            && enough(&voting)
            && self.boards.iter().filter(|board| left.contains(board.id)).all(|board| {
                // Entries that are not durable yet may be sent all the same.
                let status = board.live.as_ref().map(|live| live.node.status());
                let settled = status.is_none_or(|s| !s.running || s.durable == s.last.index);
                let held = inspect(&board.chip).ok();
                settled
                    && held
                        .is_some_and(|held| self.checks.members.possible(&held).iter().all(enough))
            })
    }

    /// Is the board's place another life's by now?
    pub(super) fn is_displaced(&self, at: usize) -> bool {
        let board = &self.boards[at];
        let life = self.checks.members.latest().generations.get(&board.id);
        board.founded && life.is_some_and(|life| *life > board.generation)
    }
}
