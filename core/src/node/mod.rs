//! A node: the protocol, its log and its flash log, driven by bytes and time.
//!
//! Call one of the `handle_*` functions when something happened, then [`Node::poll_output`] until it says
//! [`Output::Wait`].

mod forward;
mod limits;
mod members;
mod output;
mod poll;
mod read;
mod restore;
mod snapshot;

pub use forward::{ForwardError, Outcome, ProposalId};
pub use limits::{entry_bytes_max, flash_buffer_bytes_min, live_bytes, log_bytes_max};
pub use output::{
    Boot, ChangeMembersError, Founding, Limits, Output, ProposeError, StartError, Status,
};
pub use read::{ReadError, ReadId};

use crate::config::Config;
use crate::entry::{HEAD_BYTES_MAX, Kind};
use crate::event::{Event, Events, Fault, FrameRefusal, Note};
use crate::flash::{FlashDone, Geometry};
use crate::identity::Identity;
use crate::log::Log;
use crate::membership::{MEMBERS_MAX, Member, Membership};
use crate::raft::{Options, Raft, Restored, Role, Stepped, TransferRefused};
use crate::storage::Storage;
use crate::types::{ClusterId, EntryId, Generation, Index, Instant, NodeId};
use crate::wal::{MountError, Mounted, Tail, Wal};
use crate::wire::{self, Message};
use forward::Forward;
pub(crate) use forward::Tag;
use limits::piece_bytes_max;
use members::Request;
pub(crate) use snapshot::Head;
use snapshot::{Reading, Task};

/// Log bytes that proposals leave free: 16 empty entries of leaders in a row, and a membership change
/// with its leave (8 bytes and 64 bytes each).
pub const RESERVE_BYTES: usize = 16 * 8 + 2 * 64;

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Off,
    /// Waits for the first poll, which brings the buffers.
    Boot,
    /// Asks for a place in a cluster.
    Joining,
    /// The flash log is being mounted, or formatted and founded.
    Opening,
    /// The snapshot is being read: first who is a member, then the application's state.
    Restoring,
    /// What the log holds is being applied, for a new cluster to begin with it.
    Recovering,
    Running,
    Stopped,
}

/// A consensus node. Build it as `Node<[u8; N]>`, `N` bytes of log, in a `static`; use it as `Node`.
/// `S` is what keeps its state, the flash log unless said otherwise.
pub struct Node<B: ?Sized = [u8], S = Wal> {
    phase: Phase,
    /// One or none. Unlike an `Option`, none is all zeros whatever the type is.
    fault: heapless::Vec<Fault, 1>,
    /// What the board wants to be remembered.
    own: Option<u16>,
    /// Power may be gone before an erase is over.
    erases_held: bool,
    identity: Option<Identity>,
    founding: bool,
    erase_anyway: bool,
    /// The cluster that is to be founded out of what is here.
    recovery: Option<ClusterId>,
    geometry: Option<Geometry>,
    /// The link's own limit.
    link_frame_bytes: u16,
    limits: Limits,
    roster: heapless::Vec<Member, MEMBERS_MAX>,
    /// The highest generation that was given to anybody.
    generations: Generation,
    /// This board's request for a place.
    request: Option<Request>,
    /// A board that is to be told that it has one.
    admitted: Option<NodeId>,
    raft: Raft,
    storage: S,
    events: Events,
    task: Task,
    reading: Reading,
    forward: Forward,
    /// The newest change of membership that is committed and durable, as far as the log was looked at for such.
    change_at: Index,
    looked_at: Index,
    /// The next entry was handed out to be applied.
    applying: bool,
    /// Flash had nothing to do, and nothing has come in since.
    rests: bool,
    newer_schema: Option<u16>,
    /// When upkeep of the flash log may begin.
    idle_at: Instant,
    /// Nothing is left to keep up.
    kept_up: bool,
    /// The state has outgrown the limit.
    snapshots_off: bool,
    /// No snapshot is begun before.
    snapshot_after: Instant,
    /// How far the members that get a snapshot have come, and how long that is waited for.
    delivered: Option<u32>,
    deliver_until: Instant,
    frames_refused: u32,
    log: Log<B>,
}

impl<const N: usize, S: Storage> Node<[u8; N], S> {
    /// A node that is off, all zeros.
    pub const fn new() -> Self {
        Self {
            phase: Phase::Off,
            fault: heapless::Vec::new(),
            own: None,
            erases_held: false,
            identity: None,
            founding: false,
            erase_anyway: false,
            recovery: None,
            geometry: None,
            link_frame_bytes: 0,
            limits: Limits { frame_bytes: 0, entry_bytes: 0, log_bytes: 0, snapshot_bytes: 0 },
            roster: heapless::Vec::new(),
            generations: Generation(0),
            request: None,
            admitted: None,
            raft: Raft::new(),
            storage: S::OFF,
            events: Events::new(),
            task: Task::None,
            reading: Reading::None,
            forward: Forward::NONE,
            change_at: Index::ZERO,
            looked_at: Index::ZERO,
            applying: false,
            rests: false,
            newer_schema: None,
            idle_at: Instant::ZERO,
            kept_up: false,
            snapshots_off: false,
            snapshot_after: Instant::ZERO,
            delivered: None,
            deliver_until: Instant::ZERO,
            frames_refused: 0,
            log: Log::new(),
        }
    }
}

impl<const N: usize, S: Storage> Default for Node<[u8; N], S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Storage> Node<[u8], S> {
    /// Starts a node that is off, or one that has found no log to mount ([`MountError::Unformatted`]): that one knows nothing and
    /// has said nothing. What comes of it is polled.
    ///
    /// # Errors
    /// The configuration can't work, with what would.
    pub fn start(
        &mut self,
        now: Instant,
        config: &Config,
        boot: Boot<'_>,
    ) -> Result<(), StartError> {
        let unformatted = Fault::Mount(MountError::Unformatted);
        let found_nothing =
            self.phase == Phase::Stopped && self.fault.first() == Some(&unformatted);
        if self.phase != Phase::Off && !found_nothing {
            return Err(StartError::Started);
        }
        config.check().map_err(StartError::Config)?;
        if let Boot::Found(founding) = boot {
            self.check_founding(config, founding)?;
            self.limits = founding.limits;
            self.identity = Some(Identity {
                cluster: founding.cluster,
                node: founding.node,
                generation: Generation(1),
            });
            self.generations = Generation(1);
            self.roster.clear();
            // The number was checked.
            let _ = self.roster.extend_from_slice(founding.members);
            self.founding = true;
            self.erase_anyway = founding.erase_anyway;
        }
        self.phase = Phase::Boot;
        self.fault.clear();
        self.recovery = None;
        if let Boot::Join { cluster, node, nonce } = boot {
            self.identity = Some(Identity { cluster, node, generation: Generation(0) });
            self.request = Some(Request { nonce, again_at: now });
            self.phase = Phase::Joining;
        }
        if let Boot::Recover { cluster } = boot {
            self.recovery = Some(cluster);
        }
        self.geometry = Some(config.flash.geometry);
        self.link_frame_bytes = config.link.frame_bytes;
        self.raft.options = Options {
            election_ms: config.election_ms,
            heartbeat_ms: config.heartbeat_ms,
            pre_vote: config.pre_vote,
            check_quorum: config.check_quorum,
            step_down_on_removal: true,
            check_changes: true,
            lease_ms: config.lease_ms(),
            silent_ms: config.election_ms,
            seed: config.seed,
        };
        self.idle_at = now;
        Ok(())
    }

    fn check_founding(
        &mut self,
        config: &Config,
        founding: &Founding<'_>,
    ) -> Result<(), StartError> {
        let members = founding.members;
        let twice = |m: &Member| members.iter().filter(|n| n.id == m.id).count() > 1;
        let here = members.iter().any(|m| m.id == founding.node);
        let max = MEMBERS_MAX.min(usize::from(config.members_max));
        let first = members.iter().all(|m| m.generation == Generation(1));
        if members.len() > max || !here || !first || members.iter().any(twice) {
            return Err(StartError::Members { max: max as u8 });
        }
        let limits = founding.limits;
        let frame_bytes_min = wire::FRAME_BYTES_MIN as u16;
        if limits.frame_bytes < frame_bytes_min || limits.frame_bytes > config.link.frame_bytes {
            let bound = u32::from(config.link.frame_bytes);
            return Err(StartError::Limits { limit: "frame_bytes", bound });
        }
        let entry_bytes_max = entry_bytes_max(limits.frame_bytes);
        if limits.entry_bytes == 0 || limits.entry_bytes > entry_bytes_max {
            let bound = u32::from(entry_bytes_max);
            return Err(StartError::Limits { limit: "entry_bytes", bound });
        }
        self.log.keep_aside(piece_bytes_max(limits.frame_bytes));
        let capacity = self.log.bytes_capacity();
        // A snapshot is due when half of the log is applied: proposals must get that far.
        let needed = RESERVE_BYTES
            .saturating_add(usize::from(limits.entry_bytes))
            .saturating_add(HEAD_BYTES_MAX)
            .saturating_mul(2);
        if limits.log_bytes as usize > capacity || (limits.log_bytes as usize) < needed {
            return Err(StartError::Limits { limit: "log_bytes", bound: capacity as u32 });
        }
        let live_bytes = live_bytes(capacity as u32, &limits, &config.flash.geometry);
        let buffer_bytes = flash_buffer_bytes_min(limits.frame_bytes);
        S::check(&config.flash.geometry, buffer_bytes, live_bytes).map_err(StartError::Geometry)
    }

    /// Takes a frame from the link, whatever its bytes are.
    #[inline(never)] // As `poll_output`.
    pub fn handle_frame(&mut self, now: Instant, frame: &[u8]) {
        let (Phase::Running | Phase::Restoring | Phase::Joining, Some(own)) =
            (self.phase, self.identity)
        else {
            return;
        };
        let joining = self.phase == Phase::Joining;
        // What came between the decision to replace the log and its being durable would be lost with it, after
        // it was acknowledged: the leader sends it again. And what is to become another cluster's has left this one.
        if self.task.is_installing() || self.recovery.is_some() {
            return;
        }
        if frame.len() > usize::from(self.limits.frame_bytes) && !joining {
            return self.refuse_frame(FrameRefusal::TooLong);
        }
        let decoded = wire::decode(frame);
        let frame = match &decoded {
            Ok(frame) => frame,
            Err(error) => return self.refuse_frame(FrameRefusal::Unreadable(*error)),
        };
        let wire::Envelope { cluster, to, from, generation, ref message, .. } = frame.envelope;
        if cluster != own.cluster {
            return self.refuse_frame(FrameRefusal::Cluster);
        }
        if !to.contains(own.node) {
            return; // Heard on a shared medium.
        }
        if from == own.node {
            return self.refuse_frame(FrameRefusal::Stranger { from });
        }
        match *message {
            Message::Join { nonce } => return self.handle_join(from, nonce),
            Message::Admitted { nonce, generation, .. } if joining => {
                return self.handle_admitted(nonce, generation, frame.payload);
            }
            Message::Admitted { generation, .. } if generation > own.generation => {
                return self.events.push(Event::Displaced { generation });
            }
            _ if joining => return,
            // Whoever has not restored its state yet does not know who is a member (B3).
            Message::TimeoutNow { .. } if self.phase != Phase::Running => return,
            _ => {}
        }
        // A member that is not known here may be newer than this node's configuration; a past life of a
        // known one is not (CC14, O3). A leader or candidate may be in a newer life than is known here; but what
        // counts towards a quorum is said by the very life that this node's configuration counts (O6).
        let counts = matches!(
            message,
            Message::VoteReply { .. } | Message::Reply { .. } | Message::Propose { .. }
        );
        let member = self.roster.iter().find(|m| m.id == from);
        let stranger =
            |m: &Member| m.generation > generation || (counts && m.generation < generation);
        if member.is_some_and(stranger) {
            // It is told whose place it has lost.
            let leads = self.raft.role() == Role::Leader;
            self.admitted = member.filter(|m| leads && m.generation > generation).map(|m| m.id);
            return self.refuse_frame(FrameRefusal::Stranger { from });
        }
        match message {
            Message::Append { .. } => self.make_room(frame.payload.len()),
            // What these lead to is seen by what flash has to hold.
            Message::Heartbeat { reply: false, .. } | Message::Reply { .. } => {}
            _ => self.rests = false,
        }
        let raft = &mut self.raft;
        match raft.step(now, from, message, frame.payload, &mut self.log, &mut self.events) {
            Stepped::Done => self.handle_forwarded(from, message, frame.payload),
            Stepped::WantsSnapshot => self.receive_snapshot(message, frame.payload),
        }
        // A snapshot makes room.
        self.rests &= !self.raft.is_short_of_room();
    }

    fn refuse_frame(&mut self, why: FrameRefusal) {
        self.frames_refused = self.frames_refused.saturating_add(1);
        self.events.push(Event::FrameRefused { why });
    }

    /// Lets time have its effect. Calls that are early or late do no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        // Without its configuration and state a node stands for nothing (B3).
        if self.phase == Phase::Running && !self.task.is_installing() {
            self.rests = false;
            self.raft.handle_timeout(now, &mut self.log, &mut self.events);
            self.give_up_forward(now);
        }
    }

    /// The flash operation of the last [`Output::Flash`] has ended. What was read has to be in the flash
    /// buffer at the next poll.
    pub fn handle_flash(&mut self, now: Instant, done: FlashDone) {
        self.idle_at = self.election_timeout_from(now);
        self.rests = false;
        self.storage.handle(done);
        // One operation may follow the other for long, and the driver come to no wait: heartbeats go out in between.
        if self.raft.role() == Role::Leader && now >= self.raft.deadline() {
            self.handle_timeout(now);
        }
    }

    /// The shortest election timeout from now on: the patience that a node has with anything.
    #[inline(never)]
    fn election_timeout_from(&self, now: Instant) -> Instant {
        now.after(self.raft.options.election_ms)
    }

    /// Hands leadership to another voter, on the leader; on a follower the leader is asked to, once. Nothing can be proposed
    /// until it is done, or given up after an election timeout: [`Status::leader`] tells who leads.
    ///
    /// # Errors
    /// It can't be done, or is done already.
    pub fn transfer_leader(&mut self, now: Instant, to: NodeId) -> Result<(), TransferRefused> {
        if self.phase != Phase::Running {
            return Err(TransferRefused::NoLeader);
        }
        self.raft.transfer_leader(now, to)
    }

    /// The link to a member is known to be down: frames that were on their way are lost.
    pub fn handle_unreachable(&mut self, id: NodeId) {
        self.raft.report_unreachable(id);
    }

    /// Answers [`Output::TakeSnapshot`]: so many bytes of the state were put into the flash buffer.
    pub fn handle_snapshot(&mut self, len: usize) {
        self.rests = false;
        self.task.answer(len);
    }

    /// Answers [`Output::Apply`] or [`Output::RestoreSnapshot`] instead of applying: newer firmware wrote
    /// it. The node goes on replicating and applies nothing more.
    pub fn refuse_apply(&mut self, schema: u16) {
        if self.newer_schema.is_none() {
            self.events.push(Event::NewerSchema { found: schema });
        }
        self.newer_schema = Some(schema);
        self.applying = false;
    }

    /// Proposes a command. It is committed when [`Output::Apply`] hands it out under the returned id, and
    /// lost when that index is applied with another term.
    ///
    /// # Errors
    /// Typed refusals; nothing has happened then.
    pub fn propose(&mut self, command: &[u8]) -> Result<EntryId, ProposeError> {
        self.may_propose()?;
        let bytes_max = usize::from(self.limits.entry_bytes);
        if command.len() > bytes_max {
            return Err(ProposeError::TooLarge { bytes_max: bytes_max as u32 });
        }
        self.room_for(command.len())?;
        self.raft.propose(Kind::Command, command, &mut self.log).map_err(ProposeError::from)
    }

    fn may_propose(&self) -> Result<(), ProposeError> {
        if self.phase != Phase::Running {
            return Err(ProposeError::NotRunning);
        }
        if self.raft.role() != Role::Leader {
            return Err(ProposeError::NotLeader { leader: self.raft.lead() });
        }
        Ok(())
    }

    /// Is there room for a command of so many bytes, with the reserve kept back?
    fn room_for(&mut self, bytes: usize) -> Result<(), ProposeError> {
        let needed = bytes.saturating_add(HEAD_BYTES_MAX);
        self.make_room(needed.saturating_add(RESERVE_BYTES));
        let room = self.log_room();
        if needed > room {
            let bytes_free = room.saturating_sub(HEAD_BYTES_MAX) as u32;
            return Err(ProposeError::LogFull { bytes_free });
        }
        Ok(())
    }

    /// Bytes that proposals may still take: a member with the smallest allowed log must be able to follow.
    fn log_room(&mut self) -> usize {
        let covered = self.log.bytes_up_to(self.raft.snapshot().index);
        let used = self.log.bytes_used().saturating_sub(covered);
        let of_cluster = (self.limits.log_bytes as usize).saturating_sub(used);
        of_cluster.min(self.log.bytes_free()).saturating_sub(RESERVE_BYTES)
    }

    /// Drops entries that a durable snapshot covers, the oldest first, until `bytes` and a quarter of the
    /// log are free: who is a little behind shall find its entries here.
    fn make_room(&mut self, bytes: usize) {
        let (capacity, free) = (self.log.bytes_capacity(), self.log.bytes_free());
        let wanted = bytes.max(capacity.wrapping_shr(2));
        if free >= wanted {
            return;
        }
        // And a little more: it is a walk through what is dropped.
        let missing = wanted.saturating_add(capacity.wrapping_shr(4)).saturating_sub(free);
        let covered = self.raft.snapshot().index;
        if self.log.base().index < covered {
            let (kept_back, _) = self.log.fit(self.log.base().index, covered, missing);
            self.log.compact(kept_back.next().min(covered));
        }
    }

    /// A look at the node.
    pub fn status(&self) -> Status {
        let identity = self.identity;
        Status {
            id: identity.map(|i| i.node),
            cluster: identity.map_or(ClusterId::default(), |i| i.cluster),
            generation: identity.map_or(Generation::default(), |i| i.generation),
            running: self.phase == Phase::Running,
            fault: self.fault.first().copied(),
            role: self.raft.role(),
            term: self.raft.term(),
            leader: self.raft.lead(),
            commit: self.raft.commit(),
            applied: self.raft.applied(),
            last: self.log.last(),
            durable: self.log.durable(),
            snapshot: self.raft.snapshot(),
            membership: *self.raft.membership(),
            log_bytes_free: self.log.bytes_free() as u32,
            newer_schema: self.newer_schema,
            frames_refused: self.frames_refused,
            events_lost: self.events.lost(),
            note: Note(self.storage.note()),
            flash: self.storage.status(),
        }
    }

    /// Has a number of the board's own remembered in flash, such as why it was reset; see [`Status::note`].
    pub fn remember(&mut self, own: u16) {
        self.own = Some(own);
        self.rests = false;
        if self.phase == Phase::Running {
            self.note_own();
        }
    }

    fn note_own(&mut self) {
        if let Some(own) = self.own {
            self.storage.set_note(Note(self.storage.note()).with_own(own).0);
        }
    }

    /// Begins no erase from now on, or does so again: for a board that is warned before its power fails. An erase that is
    /// cut short is the worst that can happen to flash. What finds no room without one waits.
    pub const fn hold_erases(&mut self, hold: bool) {
        self.rests &= hold == self.erases_held;
        self.erases_held = hold;
    }

    /// The cluster's constants.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The members, with their addresses.
    pub fn members(&self) -> &[Member] {
        &self.roster
    }

    /// The protocol's state, to look at.
    pub const fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Stops for good: silence is what the others can deal with.
    fn stop(&mut self, fault: Fault) {
        self.phase = Phase::Stopped;
        if self.fault.push(fault).is_ok() {
            self.storage.set_note(Note(self.storage.note()).with_fault(fault).0);
            self.events.push(Event::Stopped(fault));
        }
    }

    fn start_raft(&mut self, now: Instant, mounted: &Mounted) {
        let options = self.raft.options;
        let restored = Restored {
            term: mounted.hard_state.term,
            vote: mounted.hard_state.vote,
            // For a new cluster, all that is here.
            commit: match self.recovery {
                Some(_) => Index(u64::MAX),
                None => mounted.hard_state.commit,
            },
            applied: mounted.snapshot.id.index,
            membership: Membership::default(),
        };
        self.raft.start(now, mounted.identity.node, options, &restored, &self.log);
        (self.change_at, self.looked_at) = (Index::ZERO, Index::ZERO);
        self.identity = Some(mounted.identity);
        self.note_own();
        let torn = mounted.tail != Tail::Clean;
        self.events.push(Event::Started { last: self.log.last(), torn });
    }

    /// That a change of membership is committed must be durable before an entry behind it is: after a power cut this board
    /// would stand with a log that holds the next change and an idea of the members from before the last, and two such steps
    /// are quorums apart. So the commit of the newest change has to be durable, and entries behind one that is not
    /// durable itself have to wait.
    fn look_for_changes(&mut self) {
        let mut upto = Index::ZERO;
        self.looked_at = self.looked_at.max(self.raft.applied());
        while upto == Index::ZERO && self.looked_at < self.raft.commit() {
            let index = self.looked_at.next();
            let changes = matches!(self.log.kind(index), Some((Kind::Membership, _)));
            if changes && index > self.log.durable() {
                upto = index;
            } else {
                self.looked_at = index;
                self.change_at = if changes { index } else { self.change_at };
            }
        }
        self.log.write_upto(upto);
    }
}
