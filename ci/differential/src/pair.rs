//! Both implementations by the same steps, and the comparison.
//!
//! They send different messages in different numbers: one repairs a follower by an append where the other waits for a
//! heartbeat's answer, and so on. So logs may differ until everything has arrived; what may not differ at any moment is
//! who leads in which term and who has voted for whom. These rules make that so, and the first three are counted where they strike:
//!
//! * A vote request that the two would rightly decide differently, because the voter's log differs, is lost on both.
//! * A node stands for election, proposes and changes members only while its log and members are the same on both. By
//!   this every leader's log is the same on both.
//! * Of a kind and term of message that only one of them has on a link nothing arrives, unless it changes neither role nor
//!   term of whom it reaches.
//! * What votes tell of the commit index is left out: each tells it in other messages (decision O1).
//!
//! Where all have talked until they agree ("settled"), the logs, what is committed, what was applied and the members are
//! the same on both and on all nodes.

use std::collections::BTreeSet;

use quorate::change::{Transition, What};
use quorate::membership::Membership;
use quorate::raft::Role;

use crate::ours::Ours;
use crate::schedule::{Dice, Fate, Step};
use crate::side::{Class, Setup, Side, Wish, id};
use crate::theirs::Theirs;

/// Rounds of talk in which logs that part at every term have to be repaired.
const EXCHANGE_ROUNDS: usize = 4;
const SETTLE_ROUNDS: usize = 12;
/// Messages on a link; more are lost.
const LINK_MAX: usize = 60;

/// What schedules did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    pub(crate) steps: u64,
    pub(crate) elections: u64,
    pub(crate) commits: u64,
    pub(crate) proposals: u64,
    pub(crate) restarts: u64,
    pub(crate) lost: u64,
    pub(crate) changes: u64,
    pub(crate) joint: u64,
    pub(crate) settled: u64,
    pub(crate) truncations: [u64; 2],
    pub(crate) snapshots: [u64; 2],
    pub(crate) messages: [u64; 2],
    /// Where one of the rules struck: vote requests lost, steps left out, kinds of messages left out.
    pub(crate) votes_left_out: u64,
    pub(crate) steps_left_out: u64,
    pub(crate) kinds_left_out: u64,
    /// Schedules that ended early: each node was ahead of the others on one side only, and nobody could be elected on both.
    pub(crate) parted: u64,
}

impl Sum {
    pub(crate) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.elections += other.elections;
        self.commits += other.commits;
        self.proposals += other.proposals;
        self.restarts += other.restarts;
        self.lost += other.lost;
        self.changes += other.changes;
        self.joint += other.joint;
        self.settled += other.settled;
        self.votes_left_out += other.votes_left_out;
        self.steps_left_out += other.steps_left_out;
        self.kinds_left_out += other.kinds_left_out;
        self.parted += other.parted;
        for side in 0..2 {
            self.truncations[side] += other.truncations[side];
            self.snapshots[side] += other.snapshots[side];
            self.messages[side] += other.messages[side];
        }
    }
}

pub(crate) struct Pair {
    setup: Setup,
    sides: [Box<dyn Side>; 2],
    cut_off: BTreeSet<u8>,
    proposed: u64,
    sum: Sum,
}

type Outcome = Result<(), String>;

impl Pair {
    pub(crate) fn new(setup: Setup) -> Self {
        let sides: [Box<dyn Side>; 2] = [Box::new(Ours::new(setup)), Box::new(Theirs::new(setup))];
        Self { setup, sides, cut_off: BTreeSet::new(), proposed: 0, sum: Sum::default() }
    }

    /// Carries out a schedule.
    ///
    /// # Errors
    /// What differs, and after which step.
    pub(crate) fn run(&mut self, steps: &[Step]) -> Result<Sum, String> {
        for (number, step) in steps.iter().enumerate() {
            let done = self.step(step).and_then(|()| self.compare());
            done.map_err(|what| format!("step {number}, {step:?}: {what}"))?;
            self.sum.steps += 1;
            if self.sum.parted > 0 {
                break;
            }
        }
        self.sum.elections = self.sides[0].applied_log().elections() as u64;
        self.sum.commits = self.sides[0].applied_log().records.len() as u64;
        for (at, side) in self.sides.iter().enumerate() {
            let counts = side.counts();
            self.sum.truncations[at] = counts.truncations;
            self.sum.snapshots[at] = counts.snapshots;
            self.sum.messages[at] = counts.messages;
        }
        Ok(self.sum)
    }

    fn nodes(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.setup.nodes
    }

    fn step(&mut self, step: &Step) -> Outcome {
        match *step {
            Step::Deliver { from, to, fate, votes_first, luck } => {
                self.deliver(from, to, fate, votes_first, luck)?;
            }
            Step::Lose { from, to } => self.lose(from, to),
            Step::Exchange { a, b } => self.exchange(a, b)?,
            Step::Campaign { node } => self.campaign(node),
            Step::Propose { pick, bytes } => self.propose(pick, bytes, false),
            Step::ProposeAndCrash { pick, bytes } => self.propose(pick, bytes, true),
            Step::Restart { node } => {
                self.sum.restarts += 1;
                self.sides.iter_mut().for_each(|side| side.restart(node));
            }
            Step::Compact { node, kept } => self.compact(node, kept),
            Step::CutOff { node } => self.cut_off(node),
            Step::CutOffLeader => {
                if let Some(leader) = self.newest_leader() {
                    self.cut_off(leader);
                }
            }
            Step::Reconnect => self.cut_off.clear(),
            Step::Settle { luck } => {
                self.settle(&mut Dice::new(luck))?;
            }
            Step::Change { luck } => self.change(&mut Dice::new(luck))?,
        }
        for from in self.nodes() {
            for to in self.nodes() {
                if self.sides.iter().any(|side| side.waiting(from, to).len() > LINK_MAX) {
                    self.lose(from, to);
                }
            }
        }
        Ok(())
    }

    fn cut_off(&mut self, node: u8) {
        // A majority stays.
        if 2 * (self.cut_off.len() + 1) < usize::from(self.setup.voters) {
            self.cut_off.insert(node);
        }
    }

    fn lose(&mut self, from: u8, to: u8) {
        for side in &mut self.sides {
            self.sum.lost += side.waiting(from, to).len() as u64;
            side.take(from, to);
            side.lose_rest(from, to);
        }
    }

    fn same_members(&self, node: u8) -> bool {
        self.sides[0].membership(node) == self.sides[1].membership(node)
    }

    /// Log and members of `node` are the same on both sides: what it starts has to lead to the same.
    fn is_same(&self, node: u8) -> bool {
        let ((base_a, log_a), (base_b, log_b)) = (self.sides[0].log(node), self.sides[1].log(node));
        let base = base_a.index.max(base_b.index);
        let behind =
            |log: Vec<_>| log.into_iter().filter(move |r: &crate::side::Record| r.id.index > base);
        self.same_members(node)
            && self.sides[0].last(node) == self.sides[1].last(node)
            && behind(log_a).eq(behind(log_b))
    }

    fn campaign(&mut self, node: u8) {
        if self.is_same(node) && self.keeps_its_vote(node) {
            self.sides.iter_mut().for_each(|side| side.campaign(node));
        } else {
            self.sum.steps_left_out += 1;
        }
    }

    /// No leader comes to be that its own log removes: the crate `raft` does not survive that.
    fn keeps_its_vote(&self, node: u8) -> bool {
        let [ours, theirs] = &self.sides;
        theirs.membership(node).voters.contains(id(node))
            && ours.memberships_ahead(node).iter().all(|ahead| ahead.voters.contains(id(node)))
    }

    fn leaders(&self) -> Vec<u8> {
        self.nodes().filter(|n| self.sides[0].state(*n).role == Role::Leader).collect()
    }

    fn propose(&mut self, pick: u8, bytes: u8, lost: bool) {
        let leaders = self.leaders();
        let Some(node) = leaders.get(usize::from(pick) % leaders.len().max(1)).copied() else {
            return;
        };
        if !self.is_same(node) {
            self.sum.steps_left_out += 1;
            return;
        }
        self.proposed += 1;
        self.sum.proposals += 1;
        self.sum.restarts += u64::from(lost);
        let mut data = self.proposed.to_le_bytes().to_vec();
        data.resize(8 + usize::from(bytes), bytes);
        self.sides.iter_mut().for_each(|side| side.propose(node, &data, lost));
    }

    fn compact(&mut self, node: u8, kept: u8) {
        let [a, b] = &self.sides;
        if a.applied(node) == b.applied(node) {
            self.sides.iter_mut().for_each(|side| side.compact(node, u64::from(kept)));
        }
    }

    fn exchange(&mut self, a: u8, b: u8) -> Outcome {
        for _ in 0..EXCHANGE_ROUNDS {
            self.deliver(a, b, Fate::InOrder, false, 0)?;
            self.deliver(b, a, Fate::InOrder, false, 0)?;
        }
        Ok(())
    }

    /// Everything on its way from one to the other arrives; of a leader a heartbeat at least.
    fn deliver(&mut self, from: u8, to: u8, fate: Fate, votes_first: bool, luck: u64) -> Outcome {
        if self.cut_off.contains(&from) || self.cut_off.contains(&to) {
            self.lose(from, to);
            return Ok(());
        }
        if self.sides[0].state(from).role == Role::Leader {
            self.sides.iter_mut().for_each(|side| side.beat(from));
        }
        let classes = [self.sides[0].waiting(from, to), self.sides[1].waiting(from, to)];
        self.sides.iter_mut().for_each(|side| side.take(from, to));
        if votes_first {
            self.deliver_votes(from, to, &classes)?;
        }
        let kinds = classes.each_ref().map(|classes| kinds(classes));
        let mut shared: BTreeSet<_> = kinds[0].intersection(&kinds[1]).copied().collect();
        for kind in kinds[0].symmetric_difference(&kinds[1]) {
            if self.is_quiet_news(from, to, *kind) {
                shared.insert(*kind);
            } else {
                self.sum.kinds_left_out += 1;
            }
        }
        for (at, side) in self.sides.iter_mut().enumerate() {
            let order = order(&classes[at], &shared, fate, &mut Dice::new(luck + at as u64));
            order.into_iter().for_each(|number| side.give(from, to, number));
        }
        if !votes_first {
            self.deliver_votes(from, to, &classes)?;
        }
        self.sides.iter_mut().for_each(|side| side.lose_rest(from, to));
        Ok(())
    }

    /// Messages of this kind and term change neither role nor term of whom they reach.
    fn is_quiet_news(&self, from: u8, to: u8, (lead, term): (bool, u64)) -> bool {
        let state = self.sides[0].state(to);
        if lead {
            let follows = state.role == Role::Follower && state.lead == from;
            term < state.term || (term == state.term && follows)
        } else {
            term <= state.term
        }
    }

    /// The votes on a link are the same on both sides, and so is what they lead to.
    fn deliver_votes(&mut self, from: u8, to: u8, classes: &[Vec<Class>; 2]) -> Outcome {
        let of = |classes: &[Class]| -> Vec<(usize, Class)> {
            classes.iter().copied().enumerate().filter(|(_, class)| class.is_vote()).collect()
        };
        let votes = [of(&classes[0]), of(&classes[1])];
        let said = |votes: &[(usize, Class)]| votes.iter().map(|(_, v)| *v).collect::<Vec<_>>();
        let (ours, theirs) = (said(&votes[0]), said(&votes[1]));
        if ours != theirs {
            return Err(format!("votes from {from} to {to}: {ours:?} and {theirs:?}"));
        }
        for ((ours, vote), (theirs, _)) in votes[0].iter().zip(&votes[1]) {
            let numbers = [*ours, *theirs];
            let decided = self.sides.each_ref().map(|side| decision(&**side, from, to, vote));
            if decided[0] != decided[1] || decided[0].is_none() {
                self.sum.votes_left_out += 1;
                continue;
            }
            for (side, number) in self.sides.iter_mut().zip(numbers) {
                side.give(from, to, number);
            }
            self.compare()?;
        }
        Ok(())
    }

    /// All talk until they agree, with an election where nobody leads; the leader, or none if nobody can be elected.
    fn settle(&mut self, dice: &mut Dice) -> Result<Option<u8>, String> {
        self.cut_off.clear();
        for attempt in 0..3 * self.setup.nodes {
            for _ in 0..SETTLE_ROUNDS {
                let leader = self.newest_leader();
                if let Some(leader) = leader.filter(|leader| self.is_settled(*leader)) {
                    self.compare_settled(leader)?;
                    self.sum.settled += 1;
                    return Ok(Some(leader));
                }
                if leader.is_none() && attempt > 0 && self.is_quiet() {
                    break;
                }
                for from in self.nodes() {
                    for to in self.nodes().filter(|to| *to != from) {
                        self.deliver(from, to, Fate::InOrder, false, 0)?;
                        self.compare()?;
                    }
                }
            }
            if self.newest_leader().is_none() {
                let first = dice.node(self.setup.nodes);
                let candidates = self.nodes().map(|n| (n + first) % self.setup.nodes + 1);
                let can = |n: &u8| self.is_same(*n) && self.keeps_its_vote(*n);
                let candidates: Vec<u8> = candidates.filter(can).collect();
                let longest = candidates.iter().max_by_key(|n| {
                    let last = self.sides[0].last(**n);
                    (last.term, last.index)
                });
                let any = candidates.get(usize::from(attempt) % candidates.len().max(1));
                if let Some(node) = if attempt % 2 == 0 { longest } else { any } {
                    self.campaign(*node);
                }
            }
        }
        if let Some(leader) = self.newest_leader() {
            let state = self.sides.each_ref().map(|side| {
                let of = |n: u8| (n, side.last(n), side.commit(n));
                self.nodes().map(of).collect::<Vec<_>>()
            });
            return Err(format!("{leader} leads, and they do not come to agree: {state:?}"));
        }
        self.sum.parted += 1;
        Ok(None)
    }

    fn is_quiet(&self) -> bool {
        self.nodes().all(|from| {
            self.nodes().all(|to| self.sides.iter().all(|s| s.waiting(from, to).is_empty()))
        })
    }

    /// The leader that no other node's term is beyond, of those that it leads.
    fn newest_leader(&self) -> Option<u8> {
        let term = |n: u8| self.sides[0].state(n).term;
        let leader = self.leaders().into_iter().max_by_key(|n| term(*n))?;
        let members = self.sides[0].membership(leader).members();
        members.iter().all(|member| term(member.get()) <= term(leader)).then_some(leader)
    }

    fn is_settled(&self, leader: u8) -> bool {
        let last = self.sides[0].last(leader);
        let of = |side: &dyn Side| {
            let members = side.membership(leader);
            members.members().iter().all(|member| {
                let n = member.get();
                side.last(n) == last
                    && side.commit(n) == last.index.0
                    && side.applied(n) == last.index.0
                    && side.state(n).term == side.state(leader).term
                    && side.membership(n) == members
            })
        };
        self.same_members(leader) && self.sides.iter().all(|side| of(&**side))
    }

    /// Terms, roles and votes: at every moment.
    fn compare(&self) -> Outcome {
        for side in &self.sides {
            if let Some(trouble) = &side.applied_log().trouble {
                return Err(format!("{}: {trouble}", side.name()));
            }
        }
        for n in self.nodes() {
            let (ours, theirs) = (self.sides[0].state(n), self.sides[1].state(n));
            if ours != theirs {
                return Err(format!("node {n} is {ours:?}, and {theirs:?} by the crate raft"));
            }
        }
        Ok(())
    }

    /// Where all have talked until they agree: everything.
    fn compare_settled(&self, leader: u8) -> Outcome {
        let [ours, theirs] = &self.sides;
        for member in ours.membership(leader).members().iter() {
            let n = member.get();
            if !self.is_same(n) {
                let (ours, theirs) = (ours.log(n), theirs.log(n));
                return Err(format!("settled, and the log of {n} is {ours:?}, and {theirs:?}"));
            }
        }
        let commit = ours.commit(leader);
        let (a, b) = (&ours.applied_log().records, &theirs.applied_log().records);
        for index in 1..=commit {
            if a.get(&index) != b.get(&index) || !a.contains_key(&index) {
                let (a, b) = (a.get(&index), b.get(&index));
                return Err(format!("settled, and {a:?} is applied, and {b:?} by the crate raft"));
            }
        }
        Ok(())
    }

    /// One change, decided by the leader of a settled cluster; who is left out of it learns of it later.
    fn change(&mut self, dice: &mut Dice) -> Outcome {
        let Some(leader) = self.settle(dice)? else {
            return Ok(());
        };
        let now = self.sides[0].membership(leader);
        let Some(wish) = wish(dice, &now, self.setup.nodes, leader) else {
            return Ok(());
        };
        self.sum.changes += 1;
        self.sides.iter_mut().for_each(|side| side.change(leader, &wish));
        let left_out: Vec<u8> = self.nodes().filter(|_| dice.roll(4) == 0).collect();
        for _ in 0..2 {
            for n in self.nodes().filter(|n| *n != leader && !left_out.contains(n)) {
                self.exchange(leader, n)?;
                self.compare()?;
            }
        }
        self.sum.joint += u64::from(wish.transition != Transition::Auto || wish.steps.len() > 1);
        Ok(())
    }
}

/// The kinds and terms of messages that are no votes.
fn kinds(classes: &[Class]) -> BTreeSet<(bool, u64)> {
    classes.iter().filter_map(kind).collect()
}

fn kind(class: &Class) -> Option<(bool, u64)> {
    match *class {
        Class::Lead { term, .. } => Some((true, term)),
        Class::Answer { term } => Some((false, term)),
        _ => None,
    }
}

/// The order in which a link hands over what both sides have on it; at least one message of each kind.
fn order(
    classes: &[Class],
    shared: &BTreeSet<(bool, u64)>,
    fate: Fate,
    dice: &mut Dice,
) -> Vec<usize> {
    let of = |number: &usize| kind(&classes[*number]);
    let fits = |number: &usize| of(number).is_some_and(|kind| shared.contains(&kind));
    let mut order: Vec<usize> = (0..classes.len()).filter(fits).collect();
    match fate {
        Fate::InOrder => {}
        Fate::Shuffled => {
            for at in (1..order.len()).rev() {
                order.swap(at, dice.roll(at as u64 + 1) as usize);
            }
        }
        Fate::Doubled => {
            let again: Vec<usize> = order.iter().copied().filter(|_| dice.roll(2) == 0).collect();
            order.extend(again);
        }
        Fate::SomeLost => {
            let is_last = |number: &usize| {
                !order.iter().any(|later| later > number && of(later) == of(number))
            };
            let heartbeat =
                |number: &usize| matches!(classes[*number], Class::Lead { heartbeat: true, .. });
            let kept = |number: &usize| is_last(number) || heartbeat(number) || dice.roll(3) > 0;
            order = order.iter().copied().filter(kept).collect();
        }
    }
    order
}

/// What a node will say to a vote request, by the rule that both follow (Raft §5.2, §5.4.1), or whether a reply counts;
/// `None` for what they are known to take differently.
fn decision(side: &dyn Side, from: u8, to: u8, vote: &Class) -> Option<bool> {
    let state = side.state(to);
    match *vote {
        Class::VoteRequest { term, last, .. } => {
            let newer = term > state.term;
            let free = state.vote == 0 && state.lead == 0;
            let may = state.vote == from || free || newer;
            Some(term >= state.term && may && last.is_up_to_date(side.last(to)))
        }
        // One granted to an earlier question: the crate raft counts it, this project does not.
        Class::VoteReply { term, pre: true, granted: true } if term != state.term + 1 => None,
        _ => Some(true),
    }
}

/// A change that can be made and leaves the leader its vote.
fn wish(dice: &mut Dice, now: &Membership, nodes: u8, leader: u8) -> Option<Wish> {
    for _ in 0..10 {
        let joint = !now.outgoing.is_empty();
        let wish = if joint {
            Wish { transition: Transition::Auto, steps: Vec::new() }
        } else {
            let transition = match dice.roll(4) {
                0 => Transition::Implicit,
                1 => Transition::Explicit,
                _ => Transition::Auto,
            };
            let count = 1 + dice.roll(3);
            let mut whom: Vec<u8> = (1..=nodes).filter(|n| *n != leader).collect();
            let mut steps = Vec::new();
            for _ in 0..count.min(whom.len() as u64) {
                let who = whom.remove(dice.roll(whom.len() as u64) as usize);
                let what = match dice.roll(5) {
                    0 | 1 => What::AddVoter,
                    2 => What::AddLearner,
                    _ => What::Remove,
                };
                steps.push((what, who));
            }
            Wish { transition, steps }
        };
        let steps = wish.steps.iter().map(|(what, who)| (*what, id(*who)));
        let next = now.changed(wish.transition, steps);
        if next.is_ok_and(|next| next.voters.contains(id(leader)) && next.voters.len() > 1) {
            return Some(wish);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> Pair {
        let setup = Setup {
            voters: 3,
            nodes: 3,
            pre_vote: false,
            append_bytes: 1000,
            inflight: 4,
            seed: 1,
        };
        Pair::new(setup)
    }

    fn settled() -> (Pair, u8) {
        let mut pair = pair();
        let leader = pair.settle(&mut Dice::new(1)).unwrap().unwrap();
        (pair, leader)
    }

    #[test]
    fn what_one_side_does_alone_is_a_difference() {
        let mut pair = pair();
        assert_eq!(pair.compare(), Ok(()));
        pair.sides[1].campaign(2);
        assert!(pair.compare().is_err());
    }

    #[test]
    fn a_vote_that_one_side_lacks_is_a_difference() {
        let mut pair = pair();
        pair.campaign(1);
        pair.sides[0].take(1, 2);
        pair.sides[0].lose_rest(1, 2);
        assert!(pair.exchange(1, 2).is_err());
    }

    #[test]
    fn another_command_at_an_index_is_a_difference_once_all_agree() {
        let (mut pair, leader) = settled();
        pair.sides[0].propose(leader, b"one", false);
        pair.sides[1].propose(leader, b"two", false);
        let ended = pair.settle(&mut Dice::new(2));
        assert!(ended.as_ref().is_err_and(|what| what.contains("settled")), "{ended:?}");
    }

    #[test]
    fn a_command_that_one_side_lost_keeps_them_from_settling() {
        let (mut pair, leader) = settled();
        pair.propose(leader, 3, false);
        assert!(pair.settle(&mut Dice::new(2)).unwrap().is_some());
        pair.sides[0].propose(leader, b"one", false);
        let ended = pair.settle(&mut Dice::new(2));
        assert!(ended.as_ref().is_err_and(|what| what.contains("come to agree")), "{ended:?}");
    }

    #[test]
    fn of_a_link_at_least_one_message_of_each_kind_arrives() {
        let lead = |term, heartbeat| Class::Lead { term, heartbeat };
        let classes = [
            lead(3, true),
            lead(3, false),
            Class::Answer { term: 4 },
            lead(3, false),
            lead(2, false),
        ];
        let shared = BTreeSet::from([(true, 3), (false, 4)]);
        for luck in 0..200 {
            for fate in [Fate::InOrder, Fate::Shuffled, Fate::Doubled, Fate::SomeLost] {
                let order = order(&classes, &shared, fate, &mut Dice::new(luck));
                let kept: Vec<Class> = order.iter().map(|number| classes[*number]).collect();
                assert_eq!(kinds(&kept), shared, "{fate:?}");
                assert!(fate == Fate::SomeLost || order.len() >= 4, "{fate:?}");
            }
        }
    }
}
