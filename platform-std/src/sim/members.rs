//! Who is a member: the changes that boards put into effect, one after the other, followed by a model of its own.
//!
//! A board tells that it has put a change into effect. Which one that was is read from a copy of its flash.

use std::collections::BTreeMap;

use quorate::change::{Change, Step, Transition, What};
use quorate::entry::Kind;
use quorate::membership::{MEMBERS_MAX, Membership};
use quorate::{EntryId, Generation, Index, NodeId, NodeSet, Term};

use super::durability::Held;
use super::rules::{Rule, Verdict};

/// Members, and the lives that count as theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Configuration {
    /// Who votes and who follows.
    pub membership: Membership,
    /// Which life of each member it is.
    pub generations: BTreeMap<NodeId, Generation>,
    /// Who is to get a vote back that it lost with its flash.
    pub returning: NodeSet,
    highest: Generation,
}

/// Is more than half of `voters` among `boards`?
fn majority(voters: NodeSet, boards: NodeSet) -> bool {
    2 * voters.intersection(boards).len() > voters.len()
}

impl Configuration {
    /// The first one, of voters.
    pub(super) fn founding(founders: NodeSet) -> Self {
        let first = Generation(1);
        Self {
            membership: Membership::of_voters(founders),
            generations: founders.iter().map(|id| (id, first)).collect(),
            returning: NodeSet::EMPTY,
            highest: first,
        }
    }

    /// Do `boards` make a quorum, of both halves where there are two?
    pub(super) fn has_quorum(&self, boards: NodeSet) -> bool {
        let Membership { voters, outgoing, .. } = self.membership;
        majority(voters, boards) && (outgoing.is_empty() || majority(outgoing, boards))
    }

    /// Everybody who is a member.
    pub(super) fn members(&self) -> NodeSet {
        let Membership { voters, outgoing, learners, learners_next, .. } = self.membership;
        voters.union(outgoing).union(learners).union(learners_next)
    }

    /// Everybody with a vote.
    pub(super) fn voters(&self) -> NodeSet {
        self.membership.voters.union(self.membership.outgoing)
    }

    /// Is this life of the board a member?
    pub(super) fn counts(&self, id: NodeId, generation: Generation) -> bool {
        self.generations.get(&id) == Some(&generation)
    }

    /// What a change makes of it; `None` if it can't be made.
    pub(super) fn after(&self, change: &Change<'_>) -> Option<Self> {
        let steps: Vec<Step> = change.steps().collect::<Option<_>>()?;
        let mut next = self.clone();
        next.membership = after(self.membership, change.transition, &steps)?;
        let members = next.members();
        next.generations.retain(|id, _| members.contains(*id));
        next.returning = next.returning.intersection(members);
        for Step { id, what, .. } in steps.into_iter().filter(|step| members.contains(step.id)) {
            let known = next.generations.contains_key(&id);
            let readmitted = known && matches!(what, What::Admit { .. });
            if readmitted && self.voters().contains(id) {
                next.returning.insert(id);
            }
            if known && matches!(what, What::AddVoter | What::AddLearner) {
                next.returning.remove(id);
            }
            if readmitted || !known {
                next.highest = Generation(next.highest.0 + 1);
                next.generations.insert(id, next.highest);
            }
        }
        Some(next)
    }
}

/// Simple changes move one voter at most; joint ones keep the old voters beside the new ones until they are left (Raft §6).
fn after(now: Membership, transition: Transition, steps: &[Step]) -> Option<Membership> {
    let is_joint = !now.outgoing.is_empty();
    let simple = transition == Transition::Auto && steps.len() == 1;
    let mut next = now;
    if transition == Transition::Auto && steps.is_empty() {
        next.learners = now.learners.union(now.learners_next);
        (next.learners_next, next.outgoing, next.auto_leave) =
            (NodeSet::EMPTY, NodeSet::EMPTY, false);
        return is_joint.then_some(next);
    }
    if is_joint {
        return None;
    }
    if !simple {
        (next.outgoing, next.auto_leave) = (now.voters, transition != Transition::Explicit);
    }
    for Step { id, what, .. } in steps {
        let id = *id;
        if *what == What::Update {
            continue;
        }
        for set in [&mut next.voters, &mut next.learners, &mut next.learners_next] {
            set.remove(id);
        }
        match what {
            What::AddVoter => next.voters.insert(id),
            What::Remove => {}
            // Whoever votes in the old half yet becomes a learner when that is left.
            _ if next.outgoing.contains(id) => next.learners_next.insert(id),
            _ => next.learners.insert(id),
        }
    }
    let moved = next.voters.difference(now.voters).union(now.voters.difference(next.voters));
    let all = next.voters.union(next.outgoing).union(next.learners).union(next.learners_next);
    let sound = !next.voters.is_empty() && all.len() <= MEMBERS_MAX;
    (sound && !(simple && moved.len() > 1)).then_some(next)
}

/// What a change that was put into effect for the first time has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// It began a joint configuration.
    pub joint: bool,
    /// Members that came to be none.
    pub removed: NodeSet,
    /// Members that were given a new life.
    pub admitted: NodeSet,
}

/// The configurations that were in effect, and which of them is on each board.
#[derive(Clone, Debug)]
pub(super) struct Members {
    configurations: BTreeMap<Index, (Term, Configuration)>,
    /// Of each board, the change that it put into effect last.
    boards: Vec<Index>,
}

impl Members {
    /// Boards that were founded together.
    pub(super) fn new(founders: NodeSet, boards: u8) -> Self {
        let founding = (Term::ZERO, Configuration::founding(founders));
        Self {
            configurations: BTreeMap::from([(Index::ZERO, founding)]),
            boards: vec![Index::ZERO; usize::from(boards) + 1],
        }
    }

    /// The newest configuration that is in effect on any board.
    pub(super) fn latest(&self) -> &Configuration {
        // The first one is never taken out.
        &self.configurations[self.configurations.keys().next_back().unwrap_or(&Index::ZERO)].1
    }

    /// The newest change at or before `index`, and what it made.
    pub(super) fn at(&self, index: Index) -> (Index, &Configuration) {
        let found = self.configurations.range(..=index).next_back();
        let (at, (_, configuration)) = found.unwrap_or_else(|| {
            unreachable!("the founding configuration stands at index 0 and is never taken out")
        });
        (*at, configuration)
    }

    /// The board's members are now those of a snapshot up to `index`, of its own or of a leader.
    pub(super) fn restored(&mut self, board: u8, index: Index) {
        self.boards[usize::from(board)] = self.at(index).0;
    }

    /// A board tells that it has put a change into effect that led to `told`, or (`None`) one that can't be made. `held`
    /// is what its flash holds at that moment.
    pub(super) fn changed(
        &mut self,
        board: u8,
        held: &Held,
        told: Option<Membership>,
        verdict: &mut Verdict,
    ) -> Option<News> {
        let before = self.boards[usize::from(board)];
        let later = |entry: &&(EntryId, Kind, Vec<u8>)| {
            entry.1 == Kind::Membership && entry.0.index > before
        };
        let Some((id, _, data)) = held.entries.iter().find(later) else {
            verdict.red(Rule::I8, board, || {
                format!("puts a change into effect that its flash does not hold: {told:?}")
            });
            return None;
        };
        self.boards[usize::from(board)] = id.index;
        let left_out = self.configurations.range(before.next()..id.index).next();
        if let Some((left_out, _)) = left_out {
            verdict.red(Rule::I8, board, || {
                format!("puts {id:?} into effect and leaves out the change at {left_out}")
            });
        }
        let base = self.at(before).1.clone();
        let made = Change::decode(data).ok().and_then(|change| base.after(&change));
        if made.as_ref().map(|next| next.membership) != told {
            let due = made.as_ref().map(|next| next.membership);
            verdict.red(Rule::I8, board, || {
                format!("makes {told:?} of {:?} by {id:?}, due is {due:?}", base.membership)
            });
        }
        let has_effect = made.is_some();
        if !has_effect {
            verdict.red(Rule::I8, board, || {
                format!("{id:?} can't be made of {:?}, and was proposed", base.membership)
            });
        }
        let next = made.unwrap_or_else(|| base.clone());
        if let Some((term, known)) = self.configurations.get(&id.index) {
            if *term != id.term || *known != next {
                verdict.red(Rule::I8, board, || {
                    format!("puts {id:?} into effect, where another board found one of {term:?}")
                });
            }
            return None;
        }
        let lives = |of: &Configuration, id: NodeId| of.generations.get(&id).copied();
        let news = News {
            joint: !next.membership.outgoing.is_empty(),
            removed: base.members().difference(next.members()),
            admitted: next
                .members()
                .iter()
                .filter(|id| lives(&base, *id) != lives(&next, *id))
                .collect(),
        };
        self.configurations.insert(id.index, (id.term, next));
        has_effect.then_some(news)
    }

    /// The configurations that a board with this flash may elect or be elected by: what it knows to be committed, and what
    /// stands behind that.
    pub(super) fn possible(&self, held: &Held) -> Vec<Configuration> {
        let committed = held.commit.max(held.snapshot.index);
        let (at, base) = self.at(committed.max(held.snapshot.index));
        let mut all = vec![base.clone()];
        for (id, kind, data) in &held.entries {
            if *kind == Kind::Membership
                && id.index > at
                && let (Some(last), Ok(change)) = (all.last(), Change::decode(data))
                && let Some(next) = last.after(&change)
            {
                all.push(next);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u8]) -> NodeSet {
        ids.iter().filter_map(|id| NodeId::new(*id)).collect()
    }

    fn step(what: What, id: u8) -> Step {
        Step::new(what, NodeId::new(id).unwrap())
    }

    fn data(transition: Transition, steps: &[Step]) -> Vec<u8> {
        let mut bytes = [0; 64];
        let len = Change::encode(transition, steps, &mut bytes).unwrap();
        bytes[..len].to_vec()
    }

    fn held(changes: &[(u64, Vec<u8>)]) -> Held {
        let entry = |(index, data): &(u64, Vec<u8>)| {
            (EntryId::new(Index(*index), Term(1)), Kind::Membership, data.clone())
        };
        Held { entries: changes.iter().map(entry).collect(), ..Held::default() }
    }

    #[test]
    fn the_model_makes_of_members_what_the_core_makes_of_them() {
        let mut dice = super::super::dice::Dice::new(3);
        let (mut now, mut joint, mut refused) = (Configuration::founding(set(&[1, 2, 3])), 0, 0);
        for _ in 0..3000 {
            let transition =
                dice.pick(&[Transition::Auto, Transition::Implicit, Transition::Explicit]);
            let steps: Vec<Step> = (0..dice.below(4))
                .map(|_| {
                    let admit = What::Admit { nonce: 1 };
                    let what =
                        [What::AddVoter, What::AddLearner, What::Remove, What::Update, admit];
                    step(dice.pick(&what), dice.within(1, 9) as u8)
                })
                .collect();
            let bytes = data(transition, &steps);
            let change = Change::decode(&bytes).unwrap();
            let next = now.after(&change);
            assert_eq!(
                next.as_ref().map(|next| next.membership),
                change.apply(&now.membership).ok(),
                "{transition:?} {steps:?} {now:?}"
            );
            refused += u32::from(next.is_none());
            now = next.unwrap_or(now);
            joint += u32::from(now.membership.is_joint());
        }
        assert!(joint > 100 && refused > 100, "{joint} {refused}");
    }

    #[test]
    fn a_board_that_leaves_a_change_out_or_makes_another_of_it_is_found() {
        let first = (4, data(Transition::Auto, &[step(What::Remove, 3)]));
        let second = (7, data(Transition::Auto, &[step(What::AddLearner, 3)]));
        let both = held(&[first.clone(), second.clone()]);
        let told = |voters: &[u8], learners: &[u8]| {
            Some(Membership { learners: set(learners), ..Membership::of_voters(set(voters)) })
        };
        let mut members = Members::new(set(&[1, 2, 3]), 3);
        let mut verdict = Verdict::default();
        let news = members.changed(1, &both, told(&[1, 2], &[]), &mut verdict).unwrap();
        assert_eq!((news.removed, news.joint), (set(&[3]), false));
        let news = members.changed(1, &both, told(&[1, 2], &[3]), &mut verdict).unwrap();
        assert_eq!(news.admitted, set(&[3]));
        assert_eq!(members.changed(2, &both, told(&[1, 2], &[]), &mut verdict), None);
        assert!(verdict.holds(), "{:?}", verdict.violations());
        assert!(members.latest().counts(NodeId::new(3).unwrap(), Generation(2)));

        let mut other = Verdict::default();
        members.clone().changed(2, &both, told(&[1, 2, 3], &[]), &mut other);
        assert_eq!(other.violations()[0].rule, Rule::I8);
        let mut left_out = Verdict::default();
        members.changed(3, &held(&[second]), told(&[1, 2], &[3]), &mut left_out);
        assert_eq!(left_out.violations()[0].rule, Rule::I8);
        let mut nothing = Verdict::default();
        members.changed(2, &held(&[first]), None, &mut nothing);
        assert_eq!(nothing.violations()[0].rule, Rule::I8);
    }

    #[test]
    fn a_joint_quorum_is_one_of_both_halves() {
        let mut joint = Configuration::founding(set(&[1, 2, 3]));
        joint.membership.outgoing = set(&[3, 4, 5]);
        assert!(joint.has_quorum(set(&[1, 3, 4])));
        assert!(!joint.has_quorum(set(&[1, 2, 3])));
        assert!(!joint.has_quorum(set(&[1, 4, 5])));
    }
}
