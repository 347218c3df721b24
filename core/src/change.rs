//! Changes of membership: simple ones of a single voter, and joint ones of many (Raft §6; thesis §4.1, §4.3).
//!
//! A change is an entry of [`Kind::Membership`](crate::entry::Kind): a [`Transition`], then its steps, as
//! postcard would write them. It takes effect when it is applied, on every node at the same place in the log. Without steps it
//! leaves a joint configuration.

use crate::codec::{Coded, Writer};
use crate::membership::{Address, MEMBERS_MAX, Membership};
use crate::types::NodeId;
use serde::{Deserialize, Serialize};

/// What becomes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum What {
    /// It votes from now on, whether it was a member or not.
    AddVoter,
    /// It follows without a vote; a voter is demoted.
    AddLearner,
    /// It is no member any more.
    Remove,
    /// Its address has changed.
    Update,
    /// A board that has forgotten everything takes this member's place, as a learner of a new generation; it gets the
    /// vote back, if the member had one, when it has caught up.
    Admit {
        /// What the board drew for its request: it believes no other admission.
        nonce: u32,
    },
}

/// One step of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Step {
    /// Whom it is about.
    pub id: NodeId,
    /// What becomes of it.
    pub what: What,
    /// Where the platform reaches it; empty to leave that as it is.
    pub address: Address,
}

impl Step {
    /// A step without an address.
    pub const fn new(what: What, id: NodeId) -> Self {
        Self { id, what, address: Address::new() }
    }
}

/// How a change is gone about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Transition {
    /// At once if it has one step, else through a joint configuration that the leader leaves by itself.
    #[default]
    Auto,
    /// Through a joint configuration that the leader leaves by itself.
    Implicit,
    /// Through a joint configuration that is left by another change, without steps.
    Explicit,
}

/// Why a change can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ChangeError {
    /// A joint configuration has to be left first.
    Joint,
    /// There is no joint configuration to leave.
    NotJoint,
    /// No voter would be left, or there was none to begin with.
    NoVoters,
    /// More than one voter would change at once: that takes a joint configuration.
    TooManyVoters,
    /// More members at once than a cluster can have.
    TooManyMembers {
        /// At most, both halves of a joint configuration and learners together.
        max: usize,
    },
    /// It can't be read.
    Malformed,
}

impl core::fmt::Display for ChangeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Joint => f.write_str("the joint configuration has to be left first"),
            Self::NotJoint => f.write_str("there is no joint configuration to leave"),
            Self::NoVoters => f.write_str("no voter would be left"),
            Self::TooManyVoters => f.write_str("more than one voter would change at once"),
            Self::TooManyMembers { max } => write!(f, "a cluster has {max} members at most"),
            Self::Malformed => f.write_str("the change can't be read"),
        }
    }
}

impl core::error::Error for ChangeError {}

/// A change as an entry holds it.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// How it is gone about.
    pub transition: Transition,
    steps: &'a [u8],
}

impl<'a> Change<'a> {
    /// Reads an entry's data; nothing at all leaves a joint configuration.
    pub fn decode(data: &'a [u8]) -> Result<Self, ChangeError> {
        if data.is_empty() {
            return Ok(Self { transition: Transition::Auto, steps: &[] });
        }
        let (transition, steps) = Transition::take(data).ok_or(ChangeError::Malformed)?;
        let change = Self { transition, steps };
        let sound = change.steps().all(|step| step.is_some());
        sound.then_some(change).ok_or(ChangeError::Malformed)
    }

    /// Writes a change into `out`; its length, or `None` if it does not fit.
    pub fn encode(transition: Transition, steps: &[Step], out: &mut [u8]) -> Option<usize> {
        let mut writer = Writer::new(out);
        transition.write(&mut writer);
        steps.iter().for_each(|step| step.write(&mut writer));
        writer.end().map(|written| written.len())
    }

    /// What becomes of whom; `None` where it can't be read.
    pub fn steps(&self) -> impl Iterator<Item = Option<Step>> + Clone + use<'a> {
        let mut rest = Some(self.steps);
        core::iter::from_fn(move || {
            let bytes = rest.filter(|bytes| !bytes.is_empty())?;
            let step = Step::take(bytes);
            rest = step.as_ref().map(|(_, rest)| *rest);
            Some(step.map(|(step, _)| step))
        })
    }

    /// It only leaves a joint configuration.
    pub fn leaves(&self) -> bool {
        self.steps.is_empty() && self.transition == Transition::Auto
    }

    /// The configuration that it leads to.
    pub fn apply(&self, to: &Membership) -> Result<Membership, ChangeError> {
        to.changed(self.transition, self.steps().flatten().map(|step| (step.what, step.id)))
    }
}

impl Membership {
    /// This configuration after a change (CC1, CC4).
    ///
    /// # Errors
    /// The change can't be made here; nothing has changed.
    pub fn changed(
        &self,
        transition: Transition,
        steps: impl Iterator<Item = (What, NodeId)> + Clone,
    ) -> Result<Self, ChangeError> {
        match (transition, steps.clone().take(2).count()) {
            (Transition::Auto, 0) => return self.left(),
            (Transition::Auto, 1) => return self.changed_at_once(steps),
            _ if self.is_joint() => return Err(ChangeError::Joint),
            _ if self.voters.is_empty() => return Err(ChangeError::NoVoters),
            _ => {}
        }
        let auto_leave = transition != Transition::Explicit;
        let mut next = Self { outgoing: self.voters, auto_leave, ..*self };
        next.take_steps(steps);
        next.checked()
    }

    /// The configuration behind a joint one.
    fn left(&self) -> Result<Self, ChangeError> {
        if !self.is_joint() {
            return Err(ChangeError::NotJoint);
        }
        Ok(Self {
            learners: self.learners.union(self.learners_next),
            ..Self::of_voters(self.voters)
        })
    }

    /// This configuration after steps that change one voter at most, without a joint one in between.
    ///
    /// # Errors
    /// The change can't be made here; nothing has changed.
    pub fn changed_at_once(
        &self,
        steps: impl Iterator<Item = (What, NodeId)>,
    ) -> Result<Self, ChangeError> {
        if self.is_joint() {
            return Err(ChangeError::Joint);
        }
        let mut next = *self;
        next.take_steps(steps);
        let lost = self.voters.difference(next.voters);
        if next.voters.difference(self.voters).union(lost).len() > 1 {
            return Err(ChangeError::TooManyVoters);
        }
        next.checked()
    }

    fn take_steps(&mut self, steps: impl Iterator<Item = (What, NodeId)>) {
        for (what, id) in steps {
            if what == What::Update {
                continue;
            }
            self.voters.remove(id);
            self.learners.remove(id);
            self.learners_next.remove(id);
            match what {
                What::AddVoter => self.voters.insert(id),
                // It votes in the outgoing half yet, and is no learner before that is left (CC5).
                What::AddLearner | What::Admit { .. } if self.outgoing.contains(id) => {
                    self.learners_next.insert(id)
                }
                What::AddLearner | What::Admit { .. } => self.learners.insert(id),
                What::Remove | What::Update => {}
            }
        }
    }

    fn checked(self) -> Result<Self, ChangeError> {
        if self.voters.is_empty() {
            return Err(ChangeError::NoVoters);
        }
        if self.members().len() > MEMBERS_MAX {
            return Err(ChangeError::TooManyMembers { max: MEMBERS_MAX });
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeSet;
    use proptest::prelude::*;

    fn set(ids: &[u8]) -> NodeSet {
        ids.iter().filter_map(|id| NodeId::new(*id)).collect()
    }

    fn steps(of: &[(What, u8)]) -> impl Iterator<Item = (What, NodeId)> + Clone + use<> {
        let steps: Vec<_> = of.iter().map(|(s, id)| (*s, NodeId::new(*id).unwrap())).collect();
        steps.into_iter()
    }

    #[test]
    fn a_demoted_voter_is_a_learner_only_once_the_joint_configuration_is_left() {
        let now = Membership::of_voters(set(&[1, 2, 3]));
        let to = steps(&[(What::AddLearner, 1), (What::AddVoter, 4)]);
        let joint = now.changed(Transition::Explicit, to).unwrap();
        assert_eq!(joint.learners, NodeSet::EMPTY);
        assert_eq!((joint.outgoing, joint.learners_next), (set(&[1, 2, 3]), set(&[1])));
        let left = joint.changed(Transition::Auto, steps(&[])).unwrap();
        assert_eq!((left.voters, left.learners), (set(&[2, 3, 4]), set(&[1])));
        assert!(!left.is_joint() && left.learners_next.is_empty());
    }

    #[test]
    fn changes_that_cannot_be_made_are_refused_and_change_nothing() {
        let now = Membership::of_voters(set(&[1, 2]));
        let joint = now.changed(Transition::Implicit, steps(&[(What::AddVoter, 3)])).unwrap();
        assert!(joint.auto_leave);
        let refused =
            |from: &Membership, how, of: &[(What, u8)]| from.changed(how, steps(of)).err();
        let auto = Transition::Auto;
        assert_eq!(refused(&now, auto, &[]), Some(ChangeError::NotJoint));
        assert_eq!(refused(&joint, auto, &[(What::Remove, 1)]), Some(ChangeError::Joint));
        let all = [(What::Remove, 1), (What::Remove, 2)];
        assert_eq!(refused(&now, auto, &all), Some(ChangeError::NoVoters));
        let two = now.changed_at_once(steps(&[(What::AddVoter, 3), (What::AddVoter, 4)]));
        assert_eq!(two, Err(ChangeError::TooManyVoters));
        let many: Vec<_> = (3..=9).map(|id| (What::AddLearner, id)).collect();
        let max = MEMBERS_MAX;
        assert_eq!(refused(&now, auto, &many), Some(ChangeError::TooManyMembers { max }));
    }

    fn any_steps() -> impl Strategy<Value = Vec<(What, u8)>> {
        let step = prop_oneof![
            Just(What::AddVoter),
            Just(What::AddLearner),
            Just(What::Remove),
            Just(What::Update),
            any::<u32>().prop_map(|nonce| What::Admit { nonce })
        ];
        prop::collection::vec((step, 1u8..7), 0..5)
    }

    proptest! {
        #[test]
        fn whatever_changes_are_made_the_configuration_stays_sound(
            all in prop::collection::vec((0u8..3, any_steps()), 1..20)
        ) {
            let mut now = Membership::of_voters(set(&[1]));
            for (how, of) in all {
                let how = [Transition::Auto, Transition::Implicit, Transition::Explicit][usize::from(how)];
                let Ok(next) = now.changed(how, steps(&of)) else { continue };
                // CC5
                prop_assert!(!next.voters.is_empty());
                prop_assert!(next.learners.intersection(next.voters()).is_empty());
                prop_assert!(next.learners_next.difference(next.outgoing).is_empty());
                prop_assert!(next.learners_next.intersection(next.learners).is_empty());
                prop_assert!(next.is_joint() || (next.learners_next.is_empty() && !next.auto_leave));
                // Quorums before and after share a member, or both could decide.
                for bits in 0..128u8 {
                    let some = set(&(1..7).filter(|i| bits & (1 << i) != 0).collect::<Vec<_>>());
                    let others = now.voters().union(next.voters()).difference(some);
                    prop_assert!(!(now.has_quorum(some) && next.has_quorum(others)));
                }
                now = next;
            }
        }

        #[test]
        fn steps_one_by_one_lead_where_a_joint_configuration_leads_once_it_is_left(
            learners in 0u8..64, of in any_steps()
        ) {
            let learners = (4..7).filter(|i| learners & (1 << (i - 1)) != 0).collect::<Vec<_>>();
            let now = Membership { learners: set(&learners), ..Membership::of_voters(set(&[1, 2, 3])) };
            let one_by_one = of.iter().try_fold(now, |at, step| at.changed(Transition::Auto, steps(&[*step])));
            prop_assume!(one_by_one.is_ok() && !of.is_empty());
            let joint = now.changed(Transition::Explicit, steps(&of)).unwrap();
            prop_assert_eq!(joint.outgoing, now.voters);
            prop_assert_eq!(joint.changed(Transition::Auto, steps(&[])), one_by_one);
        }

        #[test]
        fn a_change_is_read_as_it_was_written(how in 0u8..3, of in any_steps()) {
            let how = [Transition::Auto, Transition::Implicit, Transition::Explicit][usize::from(how)];
            let of: Vec<_> =
                of.iter().map(|(what, id)| Step::new(*what, NodeId::new(*id).unwrap())).collect();
            let mut bytes = [0; 200];
            let len = Change::encode(how, &of, &mut bytes).unwrap();
            let change = Change::decode(&bytes[..len]).unwrap();
            prop_assert_eq!(change.transition, how);
            prop_assert_eq!(change.steps().flatten().collect::<Vec<_>>(), of);
        }

        #[test]
        fn any_bytes_are_a_change_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(change) = Change::decode(&bytes) {
                let _ = change.apply(&Membership::of_voters(set(&[1, 2, 3])));
                prop_assert!(change.steps().all(|step| step.is_some()));
            }
        }
    }
}
