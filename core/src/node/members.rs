//! Who is a member: changes that are proposed and applied, and boards that come back with blank flash.
//!
//! A member is a number and a generation. A board that lost its flash asks for its place; the leader gives it away again,
//! under a new generation and without a vote, by a change of membership that names the request. What the old flash
//! has voted or acknowledged stays with the old generation, and that is nobody's any more.

use super::poll::Flow;
use super::snapshot::Task;
use super::{ChangeMembersError, Limits, Node, Output, Phase, ProposeError, RESERVE_BYTES};
use crate::change::{Change, ChangeError, Step, Transition, What};
use crate::codec::Coded;
use crate::event::{Event, Fault};
use crate::identity::Identity;
use crate::membership::Member;
use crate::raft::{ChangeRefused, Role};
use crate::storage::Storage;
use crate::types::{EntryId, Generation, Instant, NodeId, NodeSet};
use crate::wire::Message;

/// The longest change as an entry: a transition and two steps with addresses.
const CHANGE_BYTES_MAX: usize = 64;

/// A request for a member's place.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) nonce: u32,
    /// When it is made again.
    pub(super) again_at: Instant,
}

impl<S: Storage> Node<[u8], S> {
    /// Proposes a change of membership; it takes effect on each member when it is applied there. A board gets a vote only
    /// once it is a learner that has caught up, unless `force`.
    ///
    /// # Errors
    /// Typed refusals; nothing has happened then.
    pub fn change_members(
        &mut self,
        transition: Transition,
        steps: &[Step],
        force: bool,
    ) -> Result<EntryId, ChangeMembersError> {
        self.may_propose().map_err(ChangeMembersError::Propose)?;
        let voters = self.raft.membership().voters();
        let early = |step: &&Step| {
            let votes = step.what == What::AddVoter && !voters.contains(step.id);
            votes && !self.raft.has_caught_up(step.id)
        };
        if let Some(step) = steps.iter().find(early).filter(|_| !force) {
            return Err(ChangeMembersError::NotCaughtUp { id: step.id });
        }
        let mut data = [0; CHANGE_BYTES_MAX];
        let data = Change::encode(transition, steps, &mut data).and_then(|len| data.get(..len));
        let bytes_max = u32::from(self.limits.entry_bytes).min(CHANGE_BYTES_MAX as u32);
        let too_large = ChangeMembersError::Propose(ProposeError::TooLarge { bytes_max });
        let data = data.filter(|data| data.len() <= bytes_max as usize).ok_or(too_large)?;
        self.make_room(RESERVE_BYTES);
        self.raft.propose_change(data, &mut self.log).map_err(|refused| match refused {
            ChangeRefused::Pending => ChangeMembersError::Pending,
            ChangeRefused::Change(error) => ChangeMembersError::Change(error),
            ChangeRefused::Propose(refused) => ChangeMembersError::Propose(refused.into()),
        })
    }

    /// Puts a committed change into effect.
    pub(super) fn apply_change(&mut self, now: Instant, data: &[u8]) {
        let voters = self.raft.membership().voters();
        let applied = self.raft.apply_change(now, data, &mut self.log, &mut self.events);
        let (Ok(()), Ok(change)) = (applied, Change::decode(data)) else {
            let error = applied.err().unwrap_or(ChangeError::Malformed);
            return self.events.push(Event::ChangeVoid { error });
        };
        let members = self.raft.membership().members();
        self.dismiss(members);
        for step in change.steps().flatten().filter(|step| members.contains(step.id)) {
            self.take_step(step, voters);
        }
        self.look_for_own_place();
    }

    /// Keeps of the roster who is a member yet.
    pub(super) fn dismiss(&mut self, members: NodeSet) {
        while let Some(at) = self.roster.iter().position(|member| !members.contains(member.id))
            && let Some(last) = self.roster.pop()
        {
            if let Some(gone) = self.roster.get_mut(at) {
                gone.clone_from(&last);
            }
        }
    }

    fn take_step(&mut self, step: Step, voters: NodeSet) {
        let next = Generation(self.generations.0.saturating_add(1));
        let known = self.roster.iter_mut().find(|member| member.id == step.id);
        let Some(member) = known else {
            self.generations = next;
            let member = Member { generation: next, address: step.address, ..Member::new(step.id) };
            // There is room: the change was checked against the most members.
            let _ = self.roster.push(member);
            return;
        };
        match step.what {
            What::Admit { nonce } => {
                member.returning |= voters.contains(step.id);
                (member.generation, member.nonce, self.generations) = (next, nonce, next);
                (member.session, member.commands) = (0, 0);
                self.raft.forget_member(step.id, &self.log);
            }
            What::AddVoter | What::AddLearner => member.returning = false,
            What::Remove | What::Update => {}
        }
        if !step.address.is_empty() {
            member.address = step.address;
        }
    }

    /// Is this board's place another's by now?
    pub(super) fn look_for_own_place(&mut self) {
        let Some(own) = self.identity else {
            return;
        };
        let given = |member: &Member| member.id == own.node && member.generation > own.generation;
        if self.roster.iter().any(given) {
            self.stop(Fault::Replaced);
        }
    }

    /// A board with blank flash asks for the place of member `from`.
    pub(super) fn handle_join(&mut self, from: NodeId, nonce: u32) {
        if self.phase != Phase::Running {
            return;
        }
        if self.raft.role() != Role::Leader {
            if self.raft.lead().is_none() {
                self.events.push(Event::NoQuorumWithout { id: from });
            }
            return;
        }
        let Some(member) = self.roster.iter().find(|member| member.id == from) else {
            return self.events.push(Event::Knocks { id: from });
        };
        if member.nonce == nonce {
            self.admitted = Some(from);
            return;
        }
        // A request that is heard late, or twice, must not cost a member that lives its place.
        let active = self.raft.active();
        if active.contains(from) {
            return;
        }
        if !self.raft.membership().has_quorum(active) {
            return self.events.push(Event::NoQuorumWithout { id: from });
        }
        // What can't be done now is asked for again.
        let step = Step::new(What::Admit { nonce }, from);
        let _ = self.change_members(Transition::Auto, &[step], true);
    }

    /// What a board is told that was admitted.
    pub(super) fn poll_admitted(&mut self, frame: &mut [u8]) -> Option<Output> {
        let to = self.admitted.take()?;
        let member = self.roster.iter().find(|member| member.id == to)?;
        let (nonce, generation) = (member.nonce, member.generation);
        let message = Message::Admitted { term: self.raft.term(), nonce, generation };
        let mut limits = [0; 24];
        let limits = self.limits.put(&mut limits)?;
        self.transmit(NodeSet::one(to), &message, limits, frame)
    }

    /// This board, with blank flash, asks for its place, and asks again.
    #[inline(never)]
    pub(super) fn poll_join(&mut self, now: Instant, frame: &mut [u8]) -> Flow {
        let again_at = self.election_timeout_from(now);
        let Some(request) = self.request.as_mut().filter(|request| now >= request.again_at) else {
            return Flow::Rest;
        };
        request.again_at = again_at;
        let message = Message::Join { nonce: request.nonce };
        let own = self.identity.map_or(NodeSet::EMPTY, |own| NodeSet::one(own.node));
        let to = NodeSet::ALL.difference(own);
        self.transmit(to, &message, &[], frame).map_or(Flow::Rest, Flow::Out)
    }

    /// This board has a place, if the answer is to its own request: it founds its log in that life, as one that knows nobody.
    pub(super) fn handle_admitted(&mut self, nonce: u32, generation: Generation, limits: &[u8]) {
        let ours = self.request.is_some_and(|request| request.nonce == nonce);
        let (true, Some((limits, _)), Some(own)) = (ours, Limits::take(limits), self.identity)
        else {
            return;
        };
        (self.limits, self.request) = (limits, None);
        self.identity = Some(Identity { generation, ..own });
        (self.founding, self.phase) = (true, Phase::Boot);
        self.roster.clear();
        self.events.push(Event::Admitted { generation });
    }

    /// A board that knows nobody asks for a snapshot with every answer, also while it gets one: then it says how far that is.
    pub(super) fn ask_for_snapshot(&self, message: &mut Message) {
        if let (
            Message::SnapshotReply { id, offset, .. },
            Task::Receive { id: of, offset: at, .. },
        ) = (message, &self.task)
        {
            (*id, *offset) = (*of, *at);
        }
    }

    /// Gives the vote back to a member that has caught up since it was admitted again.
    pub(super) fn return_votes(&mut self) {
        let learners = self.raft.membership().learners;
        let joint = self.raft.membership().is_joint();
        if learners.is_empty() || self.raft.role() != Role::Leader || joint {
            return;
        }
        let ready = |member: &&Member| {
            let waits = member.returning && learners.contains(member.id);
            waits && self.raft.has_caught_up(member.id)
        };
        if let Some(id) = self.roster.iter().find(ready).map(|member| member.id) {
            // What can't be done now can be done at a later poll.
            let _ = self.change_members(Transition::Auto, &[Step::new(What::AddVoter, id)], false);
        }
    }
}
