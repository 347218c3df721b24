//! The protocol: terms, votes, replication, commitment. It knows messages, entries and how far
//! flash has come; not bytes, not flash, not boards.
//!
//! Input by [`Raft::step`], [`Raft::handle_timeout`] and [`Raft::set_durable`]; output by
//! [`Raft::poll_message`], which computes what is owed from the state instead of queueing it.

mod election;
mod follower;
mod leader;
mod members;
mod progress;
mod read;
mod transfer;
mod types;

pub use progress::{INFLIGHT_MAX, Progress, ProgressState};
pub use read::{READS_MAX, TooManyReads};
pub use transfer::TransferRefused;
pub use types::{ChangeRefused, Options, Outgoing, ProposeRefused, Restored, Role, Stepped};

use crate::entry::Kind;
use crate::event::{Event, Events};
use crate::log::Log;
use crate::membership::{MEMBERS_MAX, Membership};
use crate::types::{EntryId, Index, Instant, NodeId, NodeSet, Term};
use crate::wire::{Message, Reject};
use read::{Lease, Read};
use transfer::Transfer;

/// Members that a node can have beside itself.
const OTHERS_MAX: usize = MEMBERS_MAX.saturating_sub(1);

/// The reply that a follower owes its leader.
#[derive(Clone, Copy, Default)]
struct OwedReply {
    owed: bool,
    round: u32,
    reject: Option<Reject>,
    full: bool,
}

/// One node's protocol state.
pub struct Raft {
    id: Option<NodeId>,
    role: Role,
    lead: Option<NodeId>,
    term: Term,
    vote: Option<NodeId>,
    /// Term and vote that flash holds.
    durable: (Term, Option<NodeId>),
    commit: Index,
    applied: Index,
    membership: Membership,
    /// What a node wants of its protocol, from before that starts.
    pub(crate) options: Options,
    rng: u64,

    /// When the election timer was last reset, and how long it runs.
    timer_since: Instant,
    timer_ms: u32,
    /// No vote before.
    silent_until: Instant,
    /// A leader's next heartbeat, a candidate's next repetition.
    beat_at: Instant,
    /// A leader's next look at who is there.
    quorum_at: Instant,

    granted: NodeSet,
    refused: NodeSet,

    owes_vote_request: NodeSet,
    owes_vote_grant: bool,
    owes_vote_refusal: NodeSet,
    owes_pre_grant: NodeSet,
    pre_grant_term: Term,
    owes_pre_refusal: NodeSet,
    /// Leaders of the past, to be told the term.
    owes_term: NodeSet,
    owes_heartbeat: NodeSet,
    owes_append: NodeSet,
    /// A message may be owed: something has changed since a look at everything found none.
    looks: bool,
    owes_snapshot: NodeSet,
    /// Leader: who was told how far the log is committed.
    told: NodeSet,
    reply: OwedReply,
    /// A follower's wish, for its leader.
    transfer_wanted: Option<NodeId>,
    /// Candidate: the leader has asked for this election.
    transferred: bool,
    /// Leader: whom leadership is being handed to.
    transfer: Transfer,
    reads: [Read; READS_MAX],
    read_context: u32,
    /// Drawn at the start, not 0: tells this life of the node from others.
    life: u32,
    /// Leader: a round of heartbeats that reads wait for.
    owes_round: bool,
    lease: Lease,

    /// Follower: the log is the leader's up to here.
    consistent: Index,
    /// Follower: what the leader was last told.
    matched_told: Index,

    /// Leader: its own first entry; nothing before it commits by counting (Raft §5.4.2).
    term_start: Index,
    /// Leader: a change of membership may stand up to here, and no other is begun before that is applied (CC2).
    pending_change: Index,
    round: u32,
    recent_active: NodeSet,
    /// Who was heard in the election timeout before.
    active_before: NodeSet,
    /// Of the others.
    progress: [Progress; OTHERS_MAX],
    /// How many of them are looked at: none behind is a member's.
    slots: u8,
    /// The newest durable snapshot, to send to who is too far behind.
    snapshot: EntryId,
}

impl Raft {
    /// All zeros; [`Raft::start`] fills it in.
    pub const fn new() -> Self {
        const UNUSED: Progress = Progress::UNUSED;
        Self {
            id: None,
            role: Role::Follower,
            lead: None,
            term: Term::ZERO,
            vote: None,
            durable: (Term::ZERO, None),
            commit: Index::ZERO,
            applied: Index::ZERO,
            membership: Membership::of_voters(NodeSet::EMPTY),
            options: Options {
                election_ms: 0,
                heartbeat_ms: 0,
                pre_vote: false,
                check_quorum: false,
                step_down_on_removal: false,
                check_changes: false,
                lease_ms: 0,
                silent_ms: 0,
                seed: 0,
            },
            rng: 0,
            timer_since: Instant::ZERO,
            timer_ms: 0,
            silent_until: Instant::ZERO,
            beat_at: Instant::ZERO,
            quorum_at: Instant::ZERO,
            granted: NodeSet::EMPTY,
            refused: NodeSet::EMPTY,
            owes_vote_request: NodeSet::EMPTY,
            owes_vote_grant: false,
            owes_vote_refusal: NodeSet::EMPTY,
            owes_pre_grant: NodeSet::EMPTY,
            pre_grant_term: Term::ZERO,
            owes_pre_refusal: NodeSet::EMPTY,
            owes_term: NodeSet::EMPTY,
            owes_heartbeat: NodeSet::EMPTY,
            owes_append: NodeSet::EMPTY,
            looks: false,
            owes_snapshot: NodeSet::EMPTY,
            told: NodeSet::EMPTY,
            reply: OwedReply { owed: false, round: 0, reject: None, full: false },
            transfer_wanted: None,
            transferred: false,
            transfer: Transfer::NONE,
            reads: [Read::NONE; READS_MAX],
            read_context: 0,
            life: 0,
            owes_round: false,
            lease: Lease::NONE,
            consistent: Index::ZERO,
            matched_told: Index::ZERO,
            term_start: Index::ZERO,
            pending_change: Index::ZERO,
            round: 0,
            recent_active: NodeSet::EMPTY,
            active_before: NodeSet::EMPTY,
            progress: [UNUSED; OTHERS_MAX],
            slots: 0,
            snapshot: EntryId::ZERO,
        }
    }

    /// Back to the beginning, but for the options, in place: on the way through the stack of a small board this would be the deepest it ever gets.
    #[inline(never)]
    pub(crate) fn clear(&mut self) {
        let options = self.options;
        *self = const { Self::new() };
        self.options = options;
    }

    /// Starts as a follower from what storage held (SM10). `log` is loaded, and all of it durable.
    pub fn start(
        &mut self,
        now: Instant,
        id: NodeId,
        options: Options,
        restored: &Restored,
        log: &Log,
    ) {
        self.clear();
        self.id = Some(id);
        self.options = options;
        if !options.check_quorum {
            self.options.lease_ms = 0;
        }
        // One that has heard of no term has heard of no leader.
        if restored.term > Term::ZERO {
            self.silent_until = now.after(options.silent_ms);
        }
        // The id sets boards apart that were given the same seed (B29).
        self.rng = options.seed ^ u64::from(id.get()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.term = restored.term;
        self.vote = restored.vote;
        self.durable = (restored.term, restored.vote);
        self.snapshot = log.base();
        self.applied = restored.applied;
        self.commit = restored.commit.max(restored.applied).min(log.last().index);
        self.membership = restored.membership;
        self.consistent = self.commit;
        self.reset_progress(log.last().index.next());
        self.reset_timer(now);
        // No late answer to an earlier life is taken for one to this.
        self.life = self.rng as u32 | 1;
        self.read_context = self.life;
    }

    /// A number that tells this life of the node from others; not 0.
    pub(crate) const fn life(&self) -> u32 {
        self.life
    }

    /// This node.
    pub const fn id(&self) -> Option<NodeId> {
        self.id
    }

    /// What it is.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The newest term it knows.
    pub const fn term(&self) -> Term {
        self.term
    }

    /// Whom it voted for in this term.
    pub const fn vote(&self) -> Option<NodeId> {
        self.vote
    }

    /// The leader of this term, if it knows one.
    pub const fn lead(&self) -> Option<NodeId> {
        self.lead
    }

    /// The last entry known to be committed.
    pub const fn commit(&self) -> Index {
        self.commit
    }

    /// The last entry that was applied.
    pub const fn applied(&self) -> Index {
        self.applied
    }

    /// The configuration in effect.
    pub const fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The newest durable snapshot.
    pub const fn snapshot(&self) -> EntryId {
        self.snapshot
    }

    /// What a leader knows of one of the others.
    pub fn progress(&self, id: NodeId) -> Option<&Progress> {
        self.progress.iter().find(|p| p.id == Some(id))
    }

    /// When [`Raft::handle_timeout`] has something to do next.
    pub fn deadline(&self) -> Instant {
        let beat_at = self.beat_at.min(self.transfer_deadline());
        match self.role {
            Role::Leader if self.options.check_quorum => beat_at.min(self.quorum_at),
            Role::Leader => beat_at,
            _ if !self.is_promotable() => Instant::FOREVER,
            Role::Follower => self.timer_since.after(self.timer_ms),
            _ => self.timer_since.after(self.timer_ms).min(self.beat_at),
        }
    }

    /// Lets time have its effect; a call too early or too late does no harm.
    pub fn handle_timeout(&mut self, now: Instant, log: &mut Log, events: &mut Events) {
        self.looks = true;
        if self.role == Role::Leader {
            self.give_up_transfer(now);
            if self.options.check_quorum && now >= self.quorum_at {
                self.check_quorum(now, events);
            }
            if self.role == Role::Leader && now >= self.beat_at {
                self.beat(now, events);
            }
        } else if self.is_promotable() {
            if now >= self.timer_since.after(self.timer_ms) {
                self.campaign(now, log, events);
            } else if self.role != Role::Follower && now >= self.beat_at {
                self.repeat_vote_requests(now);
            }
        }
    }

    /// Takes a message from member `from`; `payload` is what came with it.
    pub fn step(
        &mut self,
        now: Instant,
        from: NodeId,
        message: &Message,
        payload: &[u8],
        log: &mut Log,
        events: &mut Events,
    ) -> Stepped {
        // What these lead to owes an answer here and there alone.
        let quiet =
            matches!(message, Message::Append { .. } | Message::Heartbeat { reply: false, .. });
        self.looks |= !quiet;
        if matches!(message, Message::VoteRequest { .. }) {
            self.handle_vote_request(now, from, message, log, events);
            return Stepped::Done;
        }
        let term = message.term();
        if term < self.term {
            self.answer_stale(from, message);
            return Stepped::Done;
        }
        let from_leader = message.is_leaders();
        // A granted pre-vote carries the term that was asked about; it is nobody's yet (SM2).
        let future = matches!(message, Message::VoteReply { pre: true, granted: true, .. });
        if term > self.term && !future {
            self.become_follower(now, term, from_leader.then_some(from), events);
        }
        if from_leader {
            if self.lead.is_some_and(|lead| lead != from) {
                // Two leaders in one term cannot be (Raft §5.2): the frame is not what it claims.
                events.push(Event::ImpossibleFrame { from });
                return Stepped::Done;
            }
            if self.lead != Some(from) {
                self.become_follower(now, term, Some(from), events);
            }
            self.reset_timer(now);
            if self.options.check_quorum {
                self.silent_until = self.silent_until.max(now.after(self.options.silent_ms));
            }
        }
        match *message {
            Message::Append { prev, commit, .. } => {
                self.handle_append(from, prev, commit, payload, log, events);
            }
            Message::Heartbeat { commit, round, reply, .. } => {
                self.handle_heartbeat(commit, round, reply, log);
            }
            Message::Snapshot { id, .. } => return self.handle_snapshot(id, log),
            Message::Reply { .. } => self.handle_reply(from, message, log),
            Message::SnapshotReply { id, offset, .. } => {
                self.handle_snapshot_reply(from, id, offset);
            }
            Message::VoteReply { .. } => self.handle_vote_reply(now, from, message, log, events),
            Message::TimeoutNow { .. } => self.handle_timeout_now(now, log, events),
            Message::Transfer { to, .. } => {
                if self.role == Role::Leader {
                    // Whoever wished for it sees who leads.
                    let _ = self.transfer_leader(now, to);
                }
            }
            Message::ReadIndex { context, lease, .. } => {
                self.handle_read(now, from, context, lease);
            }
            Message::ReadIndexReply { context, index, .. } => {
                self.handle_read_reply(from, context, index);
            }
            // Boards are admitted, and their commands taken, above the protocol.
            Message::VoteRequest { .. }
            | Message::Join { .. }
            | Message::Admitted { .. }
            | Message::Propose { .. } => {}
        }
        Stepped::Done
    }

    /// Flash now holds this term and vote, and the log up to [`Log::durable`].
    pub fn set_durable(
        &mut self,
        now: Instant,
        term: Term,
        vote: Option<NodeId>,
        log: &mut Log,
        events: &mut Events,
    ) {
        self.durable = (term, vote);
        match self.role {
            // A candidate's own vote counts when flash holds it (B11).
            Role::Candidate if self.is_vote_durable() => {
                self.looks = true;
                self.count_own_vote(now, log, events);
            }
            Role::Leader => self.advance_commit(log),
            _ => {
                self.looks = true;
                if self.lead.is_some() && self.matched(log) > self.matched_told {
                    self.reply.owed = true;
                }
            }
        }
    }

    /// Appends a command of the application (leader only).
    ///
    /// # Errors
    /// Nothing is proposed now (PP1).
    pub fn propose(
        &mut self,
        kind: Kind,
        data: &[u8],
        log: &mut Log,
    ) -> Result<EntryId, ProposeRefused> {
        if self.transfer.is_some() {
            return Err(ProposeRefused::Transferring);
        }
        if self.id.is_none_or(|id| !self.membership.members().contains(id)) {
            return Err(ProposeRefused::Removed);
        }
        let id = log.append(self.term, kind, data).map_err(ProposeRefused::Full)?;
        self.owe_appends();
        Ok(id)
    }

    /// Entries up to `index` have been applied.
    pub fn set_applied(&mut self, index: Index) {
        self.applied = self.applied.max(index).min(self.commit);
        self.looks |= self.has_ready_reads();
    }

    /// A snapshot that covers the log up to `id` is durable.
    pub fn set_snapshot(&mut self, id: EntryId) {
        self.snapshot = id;
    }

    /// Replaces log and configuration by an installed snapshot's, which is durable (SN4).
    pub fn restore(&mut self, id: EntryId, membership: Membership, log: &mut Log) {
        if log.holds(id) {
            log.compact(id.index);
        } else {
            log.reset(id);
        }
        self.snapshot = id;
        self.commit = self.commit.max(id.index);
        self.applied = self.applied.max(id.index);
        self.consistent = self.consistent.max(id.index);
        self.set_membership(membership, log);
        self.reply.owed = self.lead.is_some();
    }

    /// Leader: who was heard within the last election timeouts, this node among them.
    pub fn active(&self) -> NodeSet {
        let own = self.id.map_or(NodeSet::EMPTY, NodeSet::one);
        self.recent_active.union(self.active_before).union(own)
    }

    /// Follows nobody any more, in the same term: votes freely, and waits as long as before (EL9). False on anything but a
    /// follower, and where leases count on its promise.
    pub fn forget_leader(&mut self) -> bool {
        let forgets = self.role == Role::Follower && self.options.lease_ms == 0;
        if forgets {
            self.lead = None;
            self.silent_until = Instant::ZERO;
        }
        forgets
    }

    /// Has the election timer run for so long from when it was last reset, in ms, until it is drawn anew: for scripts.
    pub const fn set_election_timeout(&mut self, timer_ms: u32) {
        self.timer_ms = timer_ms;
    }

    /// Is there certainly no message owed, and no read ready?
    pub(crate) const fn is_silent(&self) -> bool {
        !(self.looks | self.membership.auto_leave)
    }

    /// The next message owed, the urgent ones first. For an append, [`Raft::sent`] has to follow.
    pub fn poll_message(&mut self, log: &mut Log) -> Option<Outgoing> {
        if self.is_silent() {
            return None;
        }
        let outgoing = self.look_for_message(log);
        self.looks = outgoing.is_some();
        outgoing
    }

    fn look_for_message(&mut self, log: &mut Log) -> Option<Outgoing> {
        if let Some((to, message)) = self.poll_vote_message(log) {
            return Some(Outgoing::plain(to, message));
        }
        if let Some((to, message)) = self.poll_reply(log) {
            return Some(Outgoing::plain(to, message));
        }
        if self.role == Role::Leader {
            self.leave_joint(log);
            return self.poll_leader(log);
        }
        self.poll_transfer_wanted().or_else(|| self.poll_read_request())
    }

    fn is_promotable(&self) -> bool {
        self.id.is_some_and(|id| self.membership.voters().contains(id))
    }

    /// Does flash hold term and vote?
    pub(crate) fn is_vote_durable(&self) -> bool {
        self.durable == (self.term, self.vote)
    }

    /// Everybody but this node.
    #[inline(never)]
    fn others(&self, set: NodeSet) -> NodeSet {
        self.id.map_or(set, |id| set.difference(NodeSet::one(id)))
    }

    fn reset_timer(&mut self, now: Instant) {
        self.timer_since = now;
        // xorshift64*; the multiplication takes the place of a division: a share of `election_ms`.
        let mut x = self.rng | 1;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.rng = x;
        let random = (x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32;
        let share = u64::from(random).wrapping_mul(u64::from(self.options.election_ms)) >> 32;
        self.timer_ms = self.options.election_ms.saturating_add(share as u32);
    }

    fn reset_progress(&mut self, next: Index) {
        let mut ids = self.others(self.membership.members()).iter();
        for progress in &mut self.progress {
            progress.reset(ids.next(), next);
        }
        // Of no commit at all nobody has to be told.
        self.told = if self.commit == Index::ZERO { NodeSet::ALL } else { NodeSet::EMPTY };
        self.count_slots();
    }

    pub(super) fn count_slots(&mut self) {
        let last = self.progress.iter().rposition(|p| p.id.is_some());
        self.slots = last.map_or(0, |last| last.saturating_add(1)) as u8;
    }

    /// What is known of members; a slot between them may be nobody's.
    pub(super) fn slots_mut(&mut self) -> &mut [Progress] {
        self.progress.get_mut(..usize::from(self.slots)).unwrap_or_default()
    }
}

impl Default for Raft {
    fn default() -> Self {
        Self::new()
    }
}
