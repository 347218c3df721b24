//! Who decides: voters, learners, and the two halves of a joint configuration (Raft §6).

use crate::types::{Generation, Index, NodeId, NodeSet};
use serde::{Deserialize, Serialize};

/// The most members a cluster has at once, learners and both halves of a joint configuration together.
pub const MEMBERS_MAX: usize = 8;

/// The longest [`Address`] in bytes: an IPv6 socket address.
pub const ADDRESS_BYTES_MAX: usize = 18;

/// Where a member is reached: opaque to the core, kept for the platform.
pub type Address = heapless::Vec<u8, ADDRESS_BYTES_MAX, u8>;

/// One member: which board, which life of it, and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// Which life of that number.
    pub generation: Generation,
    /// Where the platform reaches it.
    pub address: Address,
    /// The request that it was admitted on; 0 if it was not asked for by a board.
    pub nonce: u32,
    /// It had a vote before it lost its memory, and gets it back once it has caught up.
    pub returning: bool,
    /// The session under which commands that it forwards take effect; 0 if it has opened none.
    pub session: u32,
    /// The number of the last of them that did.
    pub commands: u32,
}

impl Member {
    /// A member of the first generation without an address.
    pub const fn new(id: NodeId) -> Self {
        Self {
            id,
            generation: Generation(1),
            address: Address::new(),
            nonce: 0,
            returning: false,
            session: 0,
            commands: 0,
        }
    }
}

/// Which members vote and which only follow. Outside of a joint configuration `outgoing` is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Membership {
    /// Voters; in a joint configuration the incoming half.
    pub voters: NodeSet,
    /// Voters of the configuration that is being left.
    pub outgoing: NodeSet,
    /// Members that receive the log and do not count.
    pub learners: NodeSet,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub learners_next: NodeSet,
    /// The leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

/// What a set of answers means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum VoteResult {
    /// A quorum said yes.
    Won,
    /// A quorum can no longer be had.
    Lost,
    /// Answers are missing.
    Pending,
}

impl Membership {
    /// A plain configuration of voters.
    pub const fn of_voters(voters: NodeSet) -> Self {
        Self {
            voters,
            outgoing: NodeSet::EMPTY,
            learners: NodeSet::EMPTY,
            learners_next: NodeSet::EMPTY,
            auto_leave: false,
        }
    }

    /// Everybody who receives the log.
    pub const fn members(&self) -> NodeSet {
        self.voters().union(self.learners).union(self.learners_next)
    }

    /// Everybody who has a vote, in either half.
    pub const fn voters(&self) -> NodeSet {
        self.voters.union(self.outgoing)
    }

    /// Two configurations at once?
    pub const fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// The outcome of a vote in both halves; a half without voters has agreed (CC16).
    pub fn vote_result(&self, yes: NodeSet, no: NodeSet) -> VoteResult {
        match (half_result(self.voters, yes, no), half_result(self.outgoing, yes, no)) {
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
            _ => VoteResult::Pending,
        }
    }

    /// Do these members make a quorum of both halves?
    pub fn has_quorum(&self, members: NodeSet) -> bool {
        self.vote_result(members, NodeSet::EMPTY) == VoteResult::Won
    }

    /// The highest index that a quorum of both halves holds; `None` if there is no voter at all.
    pub fn committed(&self, matched: impl Fn(NodeId) -> Index) -> Option<Index> {
        match (half_committed(self.voters, &matched), half_committed(self.outgoing, &matched)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// A majority of `count` voters.
const fn majority(count: usize) -> usize {
    count.wrapping_shr(1).saturating_add(1)
}

fn half_result(voters: NodeSet, yes: NodeSet, no: NodeSet) -> VoteResult {
    let needed = majority(voters.len());
    if voters.is_empty() || voters.intersection(yes).len() >= needed {
        VoteResult::Won
    } else if voters.difference(no).len() < needed {
        VoteResult::Lost
    } else {
        VoteResult::Pending
    }
}

fn half_committed(voters: NodeSet, matched: &impl Fn(NodeId) -> Index) -> Option<Index> {
    let count = voters.len();
    if count == 0 {
        return None;
    }
    // The highest first.
    let mut held = [Index::ZERO; MEMBERS_MAX];
    for id in voters.iter() {
        let mut index = matched(id);
        for place in held.iter_mut().take(count) {
            if index > *place {
                core::mem::swap(&mut index, place);
            }
        }
    }
    held.get(majority(count).saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(bits: u8) -> NodeSet {
        (1..=8u8).filter(|i| bits & (1 << (i - 1)) != 0).filter_map(NodeId::new).collect()
    }

    proptest! {
        #[test]
        fn the_committed_index_is_the_middle_of_the_sorted_ones(bits in 1u8.., held in prop::array::uniform8(0u64..20)) {
            let voters = set(bits);
            let mut sorted: Vec<u64> = voters.iter().map(|id| held[id.get() as usize - 1]).collect();
            sorted.sort_unstable();
            let middle = sorted[(sorted.len() - 1) / 2];
            let got = Membership::of_voters(voters).committed(|id| Index(held[id.get() as usize - 1]));
            prop_assert_eq!(got, Some(Index(middle)));
        }

        #[test]
        fn a_joint_vote_is_won_only_in_both_halves(a in 1u8.., b in 1u8.., yes: u8, no: u8) {
            let no = no & !yes;
            let (half_a, half_b) = (set(a), set(b));
            let joint = Membership { outgoing: half_b, ..Membership::of_voters(half_a) };
            let alone = |half| Membership::of_voters(half).vote_result(set(yes), set(no));
            let want = match (alone(half_a), alone(half_b)) {
                (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
                (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
                _ => VoteResult::Pending,
            };
            prop_assert_eq!(joint.vote_result(set(yes), set(no)), want);
        }

        #[test]
        fn two_quorums_always_share_a_member(voters in 1u8.., x: u8, y: u8) {
            let membership = Membership::of_voters(set(voters));
            if membership.has_quorum(set(x)) && membership.has_quorum(set(y)) {
                prop_assert!(!set(x & y & voters).is_empty());
            }
        }
    }
}
