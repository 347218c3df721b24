//! Reads that see every write that was acknowledged before (Raft thesis §6.4).
//!
//! A read needs an index up to which the state has to be applied, and the certainty that nobody else led when that index
//! was taken. A leader gets it from a quorum that answers a round of heartbeats begun afterwards (the round is the
//! leader's own number, so that no late answer can stand for another read: B9), or from its lease. A follower
//! asks its leader, and asks again with every heartbeat.

use super::{Outgoing, Raft, Role};
use crate::log::Log;
use crate::types::{Index, Instant, NodeId, NodeSet};
use crate::wire::Message;

/// Reads that are under way at a node at once, those of its followers among them.
pub const READS_MAX: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nobody reads in this place.
    Free,
    /// The leader is to be asked.
    Ask,
    /// It was asked.
    Asked,
    /// A quorum has to answer this round, or a later one.
    Round(u32),
    /// The state has to be applied up to the index.
    Ready,
}

/// A read that is under way, or room for one.
#[derive(Clone, Copy)]
pub(super) struct Read {
    from: Option<NodeId>,
    context: u32,
    lease: bool,
    step: Step,
    index: Index,
}

impl Read {
    pub(super) const NONE: Self =
        Self { from: None, context: 0, lease: false, step: Step::Free, index: Index::ZERO };
}

/// No more reads can be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TooManyReads;

/// What a leader may do without asking: until when nobody else can lead (Raft thesis §6.4.1).
#[derive(Clone, Copy)]
pub(super) struct Lease {
    until: Instant,
    /// A round whose answers will prolong it, and when that was begun.
    round: u32,
    round_at: Instant,
    /// Not in this term any more.
    pub(super) void: bool,
}

impl Lease {
    pub(super) const NONE: Self =
        Self { until: Instant::ZERO, round: 0, round_at: Instant::ZERO, void: false };
}

impl Raft {
    /// Begins a read of this node's own; [`Raft::poll_read`] tells when it may be served. With `lease` a leader that
    /// may trust its lease need not ask the others.
    ///
    /// # Errors
    /// [`READS_MAX`] are under way.
    pub fn read(&mut self, now: Instant, lease: bool) -> Result<u32, TooManyReads> {
        let from = self.id.ok_or(TooManyReads)?;
        let context = self.read_context.wrapping_add(1);
        self.add_read(now, from, context, lease)?;
        self.read_context = context;
        Ok(context)
    }

    /// Nobody waits for that read any more.
    pub fn cancel_read(&mut self, context: u32) {
        let own = self.id;
        for read in self.reads.iter_mut().filter(|r| r.from == own && r.context == context) {
            *read = Read::NONE;
        }
    }

    /// May it be that the state serves one?
    pub(super) fn has_ready_reads(&self) -> bool {
        self.reads.iter().any(|read| read.step == Step::Ready)
    }

    /// A read of this node's own that the state as it is applied now may serve.
    pub fn poll_read(&mut self) -> Option<u32> {
        self.confirm_reads();
        let (own, applied) = (self.id, self.applied);
        self.take_ready(|read| read.from == own && read.index <= applied).map(|read| read.context)
    }

    fn take_ready(&mut self, which: impl Fn(&Read) -> bool) -> Option<Read> {
        let ready = |read: &&mut Read| read.step == Step::Ready && which(read);
        self.reads.iter_mut().find(ready).map(|read| core::mem::replace(read, Read::NONE))
    }

    /// The clock stood still: what was promised by it holds no more.
    pub fn clock_stopped(&mut self) {
        // A round that is out was begun before.
        self.lease.until = Instant::ZERO;
        self.lease.round_at = Instant::ZERO;
        self.lease.round = self.round;
    }

    fn add_read(
        &mut self,
        now: Instant,
        from: NodeId,
        context: u32,
        lease: bool,
    ) -> Result<(), TooManyReads> {
        let from = Some(from);
        if self.reads.iter().any(|read| read.from == from && read.context == context) {
            return Ok(());
        }
        let free = self.reads.iter().position(|read| read.from.is_none()).ok_or(TooManyReads)?;
        let mut read = Read { from, context, lease, step: Step::Ask, index: Index::ZERO };
        if self.role == Role::Leader {
            // What leaders before have committed is committed with this one's first entry (RI2).
            read.index = self.commit.max(self.term_start);
            let trusted = lease && self.holds_lease(now) && self.commit >= self.term_start;
            read.step = if trusted { Step::Ready } else { self.next_round() };
        }
        self.looks = true;
        if let Some(place) = self.reads.get_mut(free) {
            *place = read;
        }
        Ok(())
    }

    fn next_round(&mut self) -> Step {
        self.owes_round = true;
        Step::Round(self.round.saturating_add(1))
    }

    fn holds_lease(&self, now: Instant) -> bool {
        self.options.lease_ms > 0 && !self.lease.void && now < self.lease.until
    }

    /// A leader's round begins at this time: its answers may prolong the lease.
    pub(super) fn lease_round(&mut self, now: Instant) {
        // Else the one before has not been answered yet.
        if self.lease.round_at == Instant::ZERO {
            (self.lease.round, self.lease.round_at) = (self.round, now);
        }
    }

    /// Answers have come in: who has heard which round?
    pub(super) fn prolong_lease(&mut self) {
        let Lease { round, round_at, .. } = self.lease;
        if self.options.lease_ms > 0 && round_at > Instant::ZERO && self.has_answered(round) {
            self.lease.until = round_at.after(self.options.lease_ms);
            self.lease.round_at = Instant::ZERO;
        }
    }

    /// Has a quorum heard this round, or a later one?
    fn has_answered(&self, round: u32) -> bool {
        // The last round of a term may be begun more than once.
        let once = round < u32::MAX;
        let heard = self.progress.iter().filter(|p| once && p.round_heard >= round);
        let heard: NodeSet = heard.filter_map(|p| p.id).chain(self.id).collect();
        self.membership.has_quorum(heard)
    }

    /// Is it high time to hear whom this node counts on: its leader, or a quorum that follows it? A part that stalls the
    /// CPU is deaf while it works, so nothing is given to it then that can wait.
    pub(crate) fn must_listen(&self, now: Instant) -> bool {
        match self.role {
            Role::Leader => !self.has_answered(self.round.saturating_sub(1)),
            Role::Follower if self.lead.is_some() => {
                now.since(self.timer_since) > u64::from(self.options.heartbeat_ms)
            }
            _ => false,
        }
    }

    /// Also where nobody has answered, but the quorum has become smaller (O8).
    fn confirm_reads(&mut self) {
        if self.role != Role::Leader || self.commit < self.term_start {
            return;
        }
        for i in 0..self.reads.len() {
            if let Some(Step::Round(round)) = self.reads.get(i).map(|read| read.step)
                && self.has_answered(round)
                && let Some(read) = self.reads.get_mut(i)
            {
                read.step = Step::Ready;
            }
        }
    }

    /// The role or the term has changed: reads of others are nobody's any more, this node's own begin anew (O9).
    pub(super) fn reset_reads(&mut self) {
        self.owes_round = false;
        for read in &mut self.reads {
            if read.from != self.id {
                *read = Read::NONE;
            } else if read.from.is_some() && read.step != Step::Ready {
                read.step = Step::Ask;
            }
        }
    }

    /// A node that has just become leader answers its own reads.
    pub(super) fn lead_reads(&mut self) {
        let first = Step::Round(self.round.saturating_add(1));
        for read in self.reads.iter_mut().filter(|read| read.step == Step::Ask) {
            (read.step, read.index, self.owes_round) = (first, self.term_start, true);
        }
    }

    /// The leader lives: what it may not have heard is asked again.
    pub(super) fn ask_again(&mut self) {
        for read in self.reads.iter_mut().filter(|read| read.step == Step::Asked) {
            read.step = Step::Ask;
        }
    }

    pub(super) fn handle_read(&mut self, now: Instant, from: NodeId, context: u32, lease: bool) {
        if self.role == Role::Leader {
            // Where there are too many it will be asked again.
            let _ = self.add_read(now, from, context, lease);
        }
    }

    pub(super) fn handle_read_reply(&mut self, from: NodeId, context: u32, index: Index) {
        let own = self.id;
        let asked = |read: &&mut Read| {
            read.from == own && read.context == context && read.step == Step::Asked
        };
        if self.lead == Some(from)
            && let Some(read) = self.reads.iter_mut().find(asked)
        {
            (read.step, read.index) = (Step::Ready, index);
        }
    }

    /// A leader: a round that reads wait for, and answers to followers.
    pub(super) fn poll_leader_reads(&mut self, log: &mut Log) -> Option<Outgoing> {
        let own = self.id;
        self.confirm_reads();
        if let Some(Read { from: Some(from), context, index, .. }) =
            self.take_ready(|read| read.from != own)
        {
            let message = Message::ReadIndexReply { term: self.term, context, index };
            return Some(Outgoing::plain(NodeSet::one(from), message));
        }
        if !core::mem::take(&mut self.owes_round) {
            return None;
        }
        let to = self.others(self.membership.members());
        self.round = self.round.saturating_add(1);
        (!to.is_empty()).then(|| self.heartbeat(to, true, log))
    }

    /// A follower: what the leader is to be asked.
    pub(super) fn poll_read_request(&mut self) -> Option<Outgoing> {
        let lead = self.lead.filter(|_| self.role == Role::Follower)?;
        let read = self.reads.iter_mut().find(|read| read.step == Step::Ask)?;
        read.step = Step::Asked;
        let (context, lease) = (read.context, read.lease);
        let message = Message::ReadIndex { term: self.term, context, lease };
        Some(Outgoing::plain(NodeSet::one(lead), message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Events;
    use crate::membership::Membership;

    /// A leader of three whose next round of heartbeats is this one.
    fn leader(next_round: u32) -> Raft {
        let mut raft = Raft::new();
        let ids = [1, 2, 3].map(|n| NodeId::new(n).unwrap());
        (raft.id, raft.lead, raft.role) = (Some(ids[0]), Some(ids[0]), Role::Leader);
        raft.membership = Membership::of_voters(ids.into_iter().collect());
        raft.reset_progress(Index(1));
        raft.round = next_round - 1;
        raft
    }

    #[test]
    fn the_last_round_of_a_term_confirms_nothing_and_the_next_beat_ends_the_term() {
        let mut log = crate::log::Log::<[u8; 64]>::new();
        let log: &mut Log = &mut log;
        let mut raft = leader(u32::MAX - 1);
        let heard = |raft: &mut Raft, log: &mut Log| {
            let said = raft.poll_leader_reads(log);
            let from = NodeId::new(2).unwrap();
            let reply = Message::Reply {
                term: raft.term,
                matched: Index::ZERO,
                received: Index::ZERO,
                round: raft.round,
                reject: None,
                room: None,
            };
            raft.handle_reply(from, &reply, log);
            said.is_some()
        };
        let first = raft.read(Instant::ZERO, false).unwrap();
        assert!(heard(&mut raft, log));
        assert_eq!(raft.poll_read(), Some(first));
        // The last one may have been begun by the first of two reads, and heard before the second was.
        for _ in 0..2 {
            raft.read(Instant::ZERO, false).unwrap();
            assert!(heard(&mut raft, log));
            assert_eq!((raft.round, raft.poll_read()), (u32::MAX, None));
        }
        raft.handle_timeout(Instant::from_millis(1), log, &mut Events::new());
        assert_eq!(raft.role(), Role::Follower);
        let asking = raft.reads.iter().filter(|read| read.step == Step::Ask);
        assert_eq!(asking.count(), 2);
    }
}
