//! Links between single pairs that are cut, and what a majority owes that is connected all the same.

use quorate::NodeSet;

use super::dice::Dice;
use super::options::Fault;
use super::rules::Rule;
use super::world::{What, World};

/// Election timeouts within which a majority that is connected pairwise has to commit something.
pub(super) const MAJORITY_ELECTIONS: u64 = 20;
/// Election timeouts for which it has to keep its leader then.
pub(super) const KEPT_ELECTIONS: u64 = 10;

/// Directions between `boards` boards to be cut, but for those that are `spared`.
pub(super) fn cuts(
    boards: usize,
    spared: impl Fn(usize, usize) -> bool,
    dice: &mut Dice,
) -> Vec<(usize, usize)> {
    let rate = dice.pick(&[150, 400, 700, 950]);
    let both_ways = dice.chance(300);
    let mut links = Vec::new();
    for from in 0..boards {
        for to in (0..boards).filter(|to| *to != from && !spared(from, *to)) {
            let cut = if both_ways && to < from {
                links.contains(&(to, from))
            } else {
                dice.chance(rate)
            };
            if cut {
                links.push((from, to));
            }
        }
    }
    links
}

/// Cuts links at will, but for those between the boards of some majority; then there has to be a leader that commits, and it
/// has to stay.
pub(super) fn prove(world: &mut World) {
    let boards = world.boards.len();
    // Without pre-vote a board that is heard and does not hear the answers stands again and again, and each time uses up votes of
    // the majority: nobody else gets them in that term.
    let promised = world.options.pre_vote;
    if boards < 3 || !promised || !world.options.faults.has(Fault::PartialPartition) {
        return;
    }
    if !agree_on_members(world) {
        return;
    }
    let mut dice = world.dice.boards.fork();
    let majority = draw_majority(world, &mut dice);
    let inside = |at: usize| majority.contains(world.boards[at].id);
    let links = cuts(boards, |a, b| inside(a) && inside(b), &mut dice);
    // The stranger repeats frames to boards that don't hear who sent them: that would be another link.
    let babbler = world.babbler.take();
    world.cut_links(links);
    let began_us = world.now_us;
    let found = write(world, MAJORITY_ELECTIONS);
    world.counters.majority_ms = (world.now_us - began_us) / 1000;
    if !found {
        let state = world.describe();
        return world.red(Rule::L2, || {
            format!(
                "{majority:?} have not committed within {MAJORITY_ELECTIONS} election timeouts: {state}"
            )
        });
    }
    let leader = world.checks.protocol.leader();
    let until_us = world.now_us + KEPT_ELECTIONS * world.profile.election_us();
    while world.now_us < until_us {
        let written = write(world, KEPT_ELECTIONS);
        let now = world.checks.protocol.leader();
        if !written || now != leader {
            return world.red(Rule::L2, || {
                format!("{majority:?} have not kept leader {leader:?}: {now:?}, written {written}")
            });
        }
        world.advance_to(world.now_us + world.profile.election_us());
    }
    world.heal();
    if babbler.is_some() {
        world.babbler = babbler;
        world.plan(world.now_us, What::Babble);
    }
}

/// Waits until all boards stand with the same members, and no vote is to be returned. Before that a majority of the newest
/// configuration may be none for its own boards: the change is committed by others, and these can't know.
fn agree_on_members(world: &mut World) -> bool {
    let until_us = world.now_us + MAJORITY_ELECTIONS * world.profile.election_us();
    while world.now_us < until_us {
        let mut live = world.boards.iter().filter_map(|board| board.live.as_ref());
        let newest = world.checks.members.latest();
        let agreed = live.all(|live| {
            let here = live.node.status().membership;
            here == newest.membership && newest.returning.is_empty()
        });
        if agreed {
            return true;
        }
        world.advance_to(world.now_us + world.profile.election_us());
    }
    false
}

/// A quorum of voters, and at times some boards more; the leader is among them or not.
fn draw_majority(world: &World, dice: &mut Dice) -> NodeSet {
    let members = world.checks.members.latest();
    let mut voters: Vec<_> = members.voters().iter().collect();
    for at in (1..voters.len()).rev() {
        voters.swap(at, dice.below(at as u64 + 1) as usize);
    }
    let leader = world.leader().map(|at| world.boards[at].id);
    if dice.chance(400) {
        voters.sort_by_key(|id| Some(*id) == leader);
    }
    let mut majority = NodeSet::EMPTY;
    for id in voters {
        if !members.has_quorum(majority) || dice.chance(100) {
            majority.insert(id);
        }
    }
    majority
}

/// Writes something, at whoever leads; false if that was not acknowledged within so many election timeouts.
fn write(world: &mut World, elections: u64) -> bool {
    let election_us = world.profile.election_us();
    let until_us = world.now_us + elections * election_us;
    let mut asked = None;
    while world.now_us < until_us {
        if asked.is_some_and(|id| world.is_acknowledged(id)) {
            return true;
        }
        let leader = world.checks.protocol.leader().map(|(term, _)| term);
        if asked.is_none_or(|id: quorate::EntryId| Some(id.term) != leader) {
            asked = world.leader().and_then(|leader| world.ask_at(leader)).or(asked);
        }
        world.advance_to(world.now_us + (election_us / 8).max(1000));
    }
    false
}
