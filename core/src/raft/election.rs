//! Elections: asking, standing, voting (Raft §5.2, §5.4.1; thesis §6.2, §9.6).

use super::{Lease, OwedReply, Raft, Role, Transfer};
use crate::entry::Kind;
use crate::event::{Event, Events};
use crate::log::Log;
use crate::membership::VoteResult;
use crate::types::{EntryId, Index, Instant, NodeId, NodeSet, Term};
use crate::wire::{COUNT_MAX, Message};

impl Raft {
    /// Stands for election, or asks about it first. Nothing happens on a leader, on a node without a
    /// vote, while a membership change is committed but not applied (CC12, B2), and at the end of all terms: others
    /// would refuse what it says of one more.
    pub fn campaign(&mut self, now: Instant, log: &mut Log, events: &mut Events) {
        if !self.may_campaign(now, log) {
            return;
        }
        if self.options.pre_vote {
            self.become_pre_candidate(now, log, events);
        } else {
            self.become_candidate(now, events);
        }
    }

    /// The leader wants this node to lead: nobody has to be asked first, and the others need not wait until they doubt
    /// the leader (EL8).
    pub(super) fn handle_timeout_now(&mut self, now: Instant, log: &mut Log, events: &mut Events) {
        if self.role == Role::Follower && self.may_campaign(now, log) {
            self.become_candidate(now, events);
            self.transferred = true;
        }
    }

    fn may_campaign(&mut self, now: Instant, log: &mut Log) -> bool {
        if self.role == Role::Leader || !self.is_promotable() {
            return false;
        }
        let free = self.term.0 < COUNT_MAX && !self.has_unapplied_membership(log);
        if !free {
            self.reset_timer(now);
        }
        free
    }

    fn has_unapplied_membership(&self, log: &mut Log) -> bool {
        let mut index = self.applied;
        while index < self.commit {
            index = index.next();
            if log.kind(index).is_some_and(|(kind, _)| kind == Kind::Membership) {
                return true;
            }
        }
        false
    }

    fn become_pre_candidate(&mut self, now: Instant, log: &mut Log, events: &mut Events) {
        // Neither term nor vote changes: a question binds nobody (EL5).
        self.lead = None;
        self.stand(now, Role::PreCandidate, events);
        self.count_own_vote(now, log, events);
    }

    fn become_candidate(&mut self, now: Instant, events: &mut Events) {
        self.reset(now, self.term.next());
        self.vote = self.id;
        self.stand(now, Role::Candidate, events);
    }

    fn stand(&mut self, now: Instant, role: Role, events: &mut Events) {
        self.role = role;
        self.granted = NodeSet::EMPTY;
        self.refused = NodeSet::EMPTY;
        self.reset_timer(now);
        self.repeat_vote_requests(now);
        events.push(Event::Became { role, term: self.term });
    }

    /// Radios lose frames: who has not answered is asked again.
    pub(super) fn repeat_vote_requests(&mut self, now: Instant) {
        let answered = self.granted.union(self.refused);
        self.owes_vote_request = self.others(self.membership.voters()).difference(answered);
        self.looks = true;
        self.beat_at = now.after(self.options.heartbeat_ms);
    }

    pub(super) fn count_own_vote(&mut self, now: Instant, log: &mut Log, events: &mut Events) {
        if let Some(id) = self.id {
            self.granted.insert(id);
        }
        self.tally(now, log, events);
    }

    pub(super) fn handle_vote_request(
        &mut self,
        now: Instant,
        from: NodeId,
        message: &Message,
        log: &mut Log,
        events: &mut Events,
    ) {
        let Message::VoteRequest { term, last, commit, pre, transfer } = *message else {
            return;
        };
        self.learn_commit(now, commit, log, events);
        if term < self.term {
            // A candidate that is behind must learn the term, or it asks for ever (SM3).
            if pre {
                self.owes_pre_refusal.insert(from);
            }
            return;
        }
        // Its leader lives (thesis §6.2), or may do so. A vote that was given is said again.
        let lives = match self.lead {
            _ if term > self.term => self.hears_leader(now) || now < self.silent_until,
            None => self.vote != Some(from) && now < self.silent_until,
            Some(_) => false,
        };
        if lives && !transfer {
            return;
        }
        if term > self.term && !pre {
            self.become_follower(now, term, None, events);
        }
        let free = self.vote.is_none() && self.lead.is_none();
        let may_vote = self.vote == Some(from) || free || (pre && term > self.term);
        let granted = may_vote && last.is_up_to_date(log.last());
        match (pre, granted) {
            (true, true) => {
                if term > self.pre_grant_term {
                    self.owes_pre_grant = NodeSet::EMPTY;
                }
                self.pre_grant_term = term;
                self.owes_pre_grant.insert(from);
            }
            (true, false) => self.owes_pre_refusal.insert(from),
            (false, true) => {
                // Only a real vote holds off an election of one's own (EL3).
                self.reset_timer(now);
                self.owes_vote_grant = true;
                // A repeated request is no new vote.
                if self.vote.replace(from).is_none() {
                    events.push(Event::Voted { candidate: from, term: self.term });
                }
            }
            (false, false) => self.owes_vote_refusal.insert(from),
        }
    }

    /// What another knows to be committed is committed here as well, if it is here: or the one that knows of a change of
    /// membership, and has the shorter log, would wait for ever for votes of those that do not know (O1). A candidate
    /// that learns of a change has to apply it first (CC12).
    fn learn_commit(&mut self, now: Instant, commit: EntryId, log: &mut Log, events: &mut Events) {
        if self.role == Role::Leader || commit.index <= self.commit || !log.holds(commit) {
            return;
        }
        self.accept(commit.index, commit.index, log);
        if self.role != Role::Follower && self.has_unapplied_membership(log) {
            self.become_follower(now, self.term, None, events);
        }
    }

    fn hears_leader(&self, now: Instant) -> bool {
        self.options.check_quorum
            && self.lead.is_some()
            && (self.role == Role::Leader
                || now.since(self.timer_since) < u64::from(self.options.election_ms))
    }

    pub(super) fn handle_vote_reply(
        &mut self,
        now: Instant,
        from: NodeId,
        message: &Message,
        log: &mut Log,
        events: &mut Events,
    ) {
        let Message::VoteReply { term, commit, pre, granted } = *message else {
            return;
        };
        self.learn_commit(now, commit, log, events);
        let asked = match self.role {
            Role::PreCandidate => pre && (!granted || term == self.term.next()),
            Role::Candidate => !pre && term == self.term,
            _ => false,
        };
        if !asked || !self.membership.voters().contains(from) {
            return;
        }
        // The first answer counts (EL4).
        if !self.granted.union(self.refused).contains(from) {
            if granted {
                self.granted.insert(from);
            } else {
                self.refused.insert(from);
            }
        }
        self.tally(now, log, events);
    }

    fn tally(&mut self, now: Instant, log: &mut Log, events: &mut Events) {
        match (self.membership.vote_result(self.granted, self.refused), self.role) {
            (VoteResult::Won, Role::PreCandidate) => self.become_candidate(now, events),
            (VoteResult::Won, Role::Candidate) => self.become_leader(now, log, events),
            (VoteResult::Lost, _) => self.become_follower(now, self.term, None, events),
            _ => {}
        }
    }

    pub(super) fn become_follower(
        &mut self,
        now: Instant,
        term: Term,
        lead: Option<NodeId>,
        events: &mut Events,
    ) {
        let changed = self.role != Role::Follower || self.term != term;
        self.reset(now, term);
        self.role = Role::Follower;
        self.lead = lead;
        if changed {
            events.push(Event::Became { role: Role::Follower, term });
        }
        if let Some(leader) = lead {
            events.push(Event::Follows { leader, term });
        }
    }

    /// Forgets what belonged to the last role; the vote only with its term (SM4).
    pub(super) fn reset(&mut self, now: Instant, term: Term) {
        if term != self.term {
            self.term = term;
            self.vote = None;
            self.owes_vote_grant = false;
            self.owes_vote_refusal = NodeSet::EMPTY;
            // It would be refused by now.
            if term >= self.pre_grant_term {
                self.owes_pre_grant = NodeSet::EMPTY;
            }
        }
        self.lead = None;
        self.granted = NodeSet::EMPTY;
        self.refused = NodeSet::EMPTY;
        self.owes_vote_request = NodeSet::EMPTY;
        self.owes_heartbeat = NodeSet::EMPTY;
        self.owes_append = NodeSet::EMPTY;
        self.looks = true;
        self.owes_snapshot = NodeSet::EMPTY;
        self.reply = OwedReply::default();
        (self.transfer, self.transferred, self.lease) = (Transfer::NONE, false, Lease::NONE);
        self.reset_reads();
        // What an earlier leader sent may not be this one's; what is committed is (Raft §5.4.3).
        self.consistent = self.commit;
        self.matched_told = Index::ZERO;
        self.reset_timer(now);
    }

    pub(super) fn poll_vote_message(&mut self, log: &mut Log) -> Option<(NodeSet, Message)> {
        let asked = self.owes_vote_request.union(self.owes_vote_refusal);
        let asked = asked.union(self.owes_pre_grant).union(self.owes_pre_refusal);
        if asked.is_empty() && !self.owes_vote_grant {
            return None;
        }
        let take = core::mem::take::<NodeSet>;
        let term = self.term;
        let commit = self.commit_id(log);
        if !self.owes_vote_request.is_empty() {
            // Only what a power cut would leave is claimed.
            let durable = log.durable();
            let last = EntryId::new(durable, log.term(durable).unwrap_or_default());
            let asking = self.role == Role::PreCandidate;
            let term = if asking { term.next() } else { term };
            if asking || (self.role == Role::Candidate && self.is_vote_durable()) {
                let to = take(&mut self.owes_vote_request);
                let message = Message::VoteRequest {
                    term,
                    last,
                    commit,
                    pre: asking,
                    transfer: self.transferred,
                };
                return Some((to, message));
            }
        }
        // A vote is said when flash holds it, and only then (RD3).
        if let (true, true, Some(to)) = (self.owes_vote_grant, self.is_vote_durable(), self.vote) {
            self.owes_vote_grant = false;
            let message = Message::VoteReply { term, commit, pre: false, granted: true };
            return Some((NodeSet::one(to), message));
        }
        let (owed, term, pre, granted) = if !self.owes_pre_grant.is_empty() {
            (&mut self.owes_pre_grant, self.pre_grant_term, true, true)
        } else if !self.owes_vote_refusal.is_empty() {
            (&mut self.owes_vote_refusal, term, false, false)
        } else {
            (&mut self.owes_pre_refusal, term, true, false)
        };
        let to = take(owed);
        (!to.is_empty()).then_some((to, Message::VoteReply { term, commit, pre, granted }))
    }
}
