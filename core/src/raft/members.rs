//! Changes of membership in the protocol: proposed, applied, and what follows from them (Raft §6).

use super::{ChangeRefused, ProgressState, Raft, Role};
use crate::change::{Change, ChangeError};
use crate::entry::Kind;
use crate::event::{Event, Events};
use crate::log::Log;
use crate::membership::Membership;
use crate::types::{EntryId, Index, Instant, NodeId};

/// A learner that is no more entries behind may be given a vote.
const CAUGHT_UP_ENTRIES: u64 = 8;

impl Raft {
    /// Appends a change of membership (leader only); without data it leaves a joint configuration. It takes effect by
    /// [`Raft::apply_change`] (CC2).
    ///
    /// # Errors
    /// It can't be made now, or there is no room for it.
    pub fn propose_change(&mut self, data: &[u8], log: &mut Log) -> Result<EntryId, ChangeRefused> {
        let change = Change::decode(data).map_err(ChangeRefused::Change)?;
        if self.options.check_changes {
            if self.pending_change > self.applied {
                return Err(ChangeRefused::Pending);
            }
            change.apply(&self.membership).map_err(ChangeRefused::Change)?;
        }
        let id = self.propose(Kind::Membership, data, log).map_err(ChangeRefused::Propose)?;
        self.pending_change = id.index;
        Ok(id)
    }

    /// Puts a committed change into effect, which is the next entry to apply. One that can't be made is none: all nodes
    /// apply the same changes in the same order.
    ///
    /// # Errors
    /// It can't be made; the membership is what it was.
    pub fn apply_change(
        &mut self,
        now: Instant,
        data: &[u8],
        log: &mut Log,
        events: &mut Events,
    ) -> Result<(), ChangeError> {
        let membership = Change::decode(data)?.apply(&self.membership)?;
        self.set_membership(membership, log);
        events.push(Event::MembershipChanged { membership });
        let left = self.role == Role::Leader && !self.is_promotable();
        if left && self.options.step_down_on_removal {
            self.become_follower(now, self.term, None, events);
        }
        Ok(())
    }

    /// What was known of a member is of another life of it.
    pub fn forget_member(&mut self, id: NodeId, log: &Log) {
        let next = log.last().index.next();
        for progress in self.progress.iter_mut().filter(|p| p.id == Some(id)) {
            progress.reset(Some(id), next);
        }
        self.told.remove(id);
        self.looks = true;
    }

    /// Leader: the member's log is nearly this one's.
    pub fn has_caught_up(&self, id: NodeId) -> bool {
        self.progress(id).is_some_and(|p| {
            let behind = self.commit.0.saturating_sub(p.matched.0);
            p.state == ProgressState::Replicate && behind <= CAUGHT_UP_ENTRIES
        })
    }

    /// Puts a configuration into effect.
    pub fn set_membership(&mut self, membership: Membership, log: &mut Log) {
        self.membership = membership;
        self.looks = true;
        let members = self.others(membership.members());
        for gone in &mut self.progress {
            if gone.id.is_some_and(|id| !members.contains(id)) {
                gone.reset(None, Index::ZERO);
            }
        }
        for id in members.iter() {
            if self.progress(id).is_none() {
                if let Some(free) = self.progress.iter_mut().find(|p| p.id.is_none()) {
                    free.reset(Some(id), log.last().index.next());
                }
                self.told.remove(id);
                // Else check-quorum would count it as gone before it could answer (CC6).
                self.recent_active.insert(id);
            }
        }
        self.count_slots();
        self.check_transfer();
        if self.role == Role::Leader {
            self.advance_commit(log);
            self.owe_appends();
        }
    }
}
