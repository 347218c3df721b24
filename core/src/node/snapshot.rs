//! Snapshots: taking one, receiving one, restoring one, sending one (Raft §7).
//!
//! A snapshot is a stream of pieces that fit one frame: first what the cluster is (limits, membership),
//! then its members, then the application's state. Pieces keep their bounds from the board that took the
//! snapshot to the last that restores it, in flash and on the link.

use super::poll::Flow;
use super::{Limits, Node, Output, Phase, piece_bytes_max};
use crate::codec::Coded;
use crate::event::{Event, Fault};
use crate::membership::{MEMBERS_MAX, Member, Membership};
use crate::raft::{ProgressState, Role};
use crate::storage::Storage;
use crate::types::{EntryId, Generation, Instant, NodeId, NodeSet};
use crate::wal::{SNAP_DATA_AT, WalFault};
use crate::wire::Message;

/// The first piece of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Head {
    pub(crate) limits: Limits,
    pub(crate) membership: Membership,
    /// The highest generation that was given to anybody.
    pub(crate) generations: Generation,
    pub(crate) members: u8,
}

/// The most bytes that head and members take in a snapshot.
const HEAD_BYTES_MAX: u32 = 256;

/// The snapshot that is being made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Task {
    #[default]
    None,
    /// This node's own.
    Take {
        id: EntryId,
        /// The next piece starts here.
        offset: u32,
        stage: Stage,
        /// A piece is on its way to flash.
        writing: bool,
    },
    /// The leader's.
    Receive {
        id: EntryId,
        bytes: u32,
        check: u32,
        /// Durable so far.
        offset: u32,
        /// Members still to come, as of what is durable, and with the piece on its way; `None` before the head.
        members: [Option<u8>; 2],
        /// Bytes put aside in the log, or on their way to flash.
        piece: u16,
        writing: bool,
        /// The leader is to be told how far it is.
        reply_owed: bool,
    },
    /// The last piece is durable: the snapshot is being completed.
    End { id: EntryId, installed: bool },
}

/// What comes next of a snapshot that is being taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Head,
    /// Members from here on.
    Members(u8),
    /// The application's state, which starts at this offset.
    State(u32),
    /// The application was asked for so many bytes.
    Asked(u32, u16),
    /// It gave so many.
    Answered(u32, u16, u16),
    Done,
}

/// What the snapshot in flash is being read for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reading {
    #[default]
    None,
    /// To restore it.
    Restore {
        offset: u32,
        /// Members still to come; `None` before the head.
        members: Option<u8>,
        /// Where the application's state starts, once that is known.
        state_at: u32,
        /// The next piece has been asked for.
        asked: bool,
    },
    /// To send a piece of it.
    Send { to: NodeId },
}

impl Task {
    /// The application's state must not change meanwhile.
    pub(super) const fn holds_state(&self) -> bool {
        matches!(self, Self::Take { .. })
    }

    /// The flash buffer is the application's until it has answered.
    pub(super) const fn awaits_application(&self) -> bool {
        matches!(self, Self::Take { stage: Stage::Asked(..), .. })
    }

    /// The leader is to be told how far its snapshot has come.
    pub(super) const fn owes_reply(&self) -> bool {
        matches!(self, Self::Receive { reply_owed: true, .. })
    }

    /// The log is about to be replaced.
    pub(super) const fn is_installing(&self) -> bool {
        matches!(self, Self::End { installed: true, .. })
    }

    pub(super) fn answer(&mut self, len: usize) {
        if let Self::Take { stage, .. } = self
            && let Stage::Asked(state_at, asked) = *stage
        {
            let given = u16::try_from(len).unwrap_or(asked).min(asked);
            *stage = Stage::Answered(state_at, asked, given);
        }
    }
}

impl<S: Storage> Node<[u8], S> {
    pub(super) fn begin_snapshot(&mut self, id: EntryId) {
        self.storage.begin_snapshot(id);
        self.task = Task::Take { id, offset: 0, stage: Stage::Head, writing: false };
    }

    fn begin_own_snapshot(&mut self) {
        let applied = self.raft.applied();
        let term = self.log.term(applied).unwrap_or_default();
        self.begin_snapshot(EntryId::new(applied, term));
    }

    /// Is it time for a snapshot? When half of the log is applied and not covered by one, or when flash
    /// has no other way to free itself.
    #[inline]
    pub(super) fn wants_snapshot(&mut self, now: Instant) -> bool {
        let covered = self.raft.snapshot().index;
        let half = self.log.bytes_capacity().min(self.limits.log_bytes as usize).wrapping_shr(1);
        let beyond = self.log.bytes_used().saturating_sub(self.log.bytes_up_to(covered));
        let pressing = self.storage.wants_snapshot() | self.raft.is_short_of_room();
        // Most looks end here.
        (beyond >= half || pressing) && self.may_begin_snapshot(now, beyond, half)
    }

    fn may_begin_snapshot(&mut self, now: Instant, beyond: usize, half: usize) -> bool {
        let (applied, covered) = (self.raft.applied(), self.raft.snapshot().index);
        let off = self.newer_schema.is_some() || self.snapshots_off;
        if self.phase != Phase::Running || off || now < self.snapshot_after {
            return false;
        }
        if self.storage.wants_snapshot() {
            return true;
        }
        // What the leader sent did not fit: each entry that can be dropped counts, but not each with a snapshot of its own.
        if applied <= covered || self.raft.is_short_of_room() {
            return applied > covered && applied >= self.raft.commit().min(self.log.durable());
        }
        let is_due = beyond.saturating_sub(self.log.bytes_behind(applied)) >= half;
        is_due && !self.is_delivering(now)
    }

    /// Is a member getting on with the snapshot that there is? A newer one would make it begin anew, time and
    /// again under a steady load.
    fn is_delivering(&mut self, now: Instant) -> bool {
        let delivered = self.raft.snapshot_delivered();
        if delivered != self.delivered {
            (self.delivered, self.deliver_until) = (delivered, self.election_timeout_from(now));
        }
        delivered.is_some() && now < self.deliver_until
    }

    /// The next step of the snapshot that is being made; called when flash is free.
    pub(super) fn poll_task(&mut self, now: Instant, flash: &mut [u8]) -> Flow {
        if let Task::Receive { id, writing: false, piece, .. } = self.task
            && (self.is_overtaken(id) || (piece == 0 && self.wants_snapshot(now)))
        {
            // The log has come by itself to where the snapshot would have led, or nobody goes on with it. Kept
            // on, it would stand in the way of this node's own snapshots.
            self.storage.abort_snapshot();
            self.task = Task::None;
        }
        match self.task {
            Task::None => {
                let idle = matches!(self.reading, Reading::None) && !self.applying;
                if idle && self.wants_snapshot(now) {
                    self.begin_own_snapshot();
                    return Flow::Again;
                }
                Flow::Rest
            }
            Task::Take { id, offset, stage, writing: false } => {
                // What the application has put into the buffer has to leave it.
                if !matches!(stage, Stage::Answered(..)) && self.raft.must_listen(now) {
                    return Flow::Rest;
                }
                self.poll_taking(id, offset, stage, flash)
            }
            Task::Receive { offset, piece, writing: false, .. } if piece > 0 => {
                self.poll_receiving(offset, flash)
            }
            _ => Flow::Rest,
        }
    }

    #[cold]
    #[inline(never)]
    fn poll_taking(&mut self, id: EntryId, offset: u32, stage: Stage, flash: &mut [u8]) -> Flow {
        let piece_max = piece_bytes_max(self.limits.frame_bytes);
        let end = SNAP_DATA_AT.saturating_add(piece_max);
        let Some(place) = flash.get_mut(SNAP_DATA_AT..end) else {
            self.stop(Fault::Flash(WalFault::Misused));
            return Flow::Again;
        };
        let (len, next) = match stage {
            Stage::Head => {
                let head = Head {
                    limits: self.limits,
                    membership: self.membership_to_save(),
                    generations: self.generations,
                    members: self.roster.len() as u8,
                };
                let len = head.put(place).map_or(0, |bytes| bytes.len());
                (len, Stage::Members(0))
            }
            Stage::Members(from) => {
                let mut len = 0usize;
                let mut next = from;
                for member in self.roster.iter().skip(usize::from(from)) {
                    let rest = place.get_mut(len..).unwrap_or_default();
                    let Some(put) = member.put(rest) else {
                        break;
                    };
                    len = len.saturating_add(put.len());
                    next = next.saturating_add(1);
                }
                let more = usize::from(next) < self.roster.len();
                let after = if more { Stage::Members(next) } else { Stage::State(0) };
                (len, after)
            }
            Stage::State(state_at) => {
                // A founding has no state yet, unless it goes on from another cluster's.
                if self.founding && self.recovery.is_none() {
                    self.task = Task::Take { id, offset, stage: Stage::Done, writing: false };
                    return Flow::Again;
                }
                let state_at = if state_at == 0 { offset } else { state_at };
                let done = offset.saturating_sub(state_at);
                let stage = Stage::Asked(state_at, piece_max as u16);
                self.task = Task::Take { id, offset, stage, writing: false };
                let (at, len_max) = (SNAP_DATA_AT, piece_max);
                return Flow::Out(Output::TakeSnapshot { offset: done, at, len_max });
            }
            Stage::Answered(state_at, asked, given) => {
                let state = offset.saturating_sub(state_at).saturating_add(u32::from(given));
                if state > self.limits.snapshot_bytes {
                    self.storage.abort_snapshot();
                    self.task = Task::None;
                    self.snapshots_off = true;
                    let bytes_max = self.limits.snapshot_bytes;
                    self.events.push(Event::SnapshotTooLarge { bytes_max });
                    return Flow::Again;
                }
                let next = if given < asked { Stage::Done } else { Stage::State(state_at) };
                (usize::from(given), next)
            }
            Stage::Asked(..) => return Flow::Rest,
            Stage::Done => {
                self.storage.end_snapshot(false);
                self.task = Task::End { id, installed: false };
                return Flow::Again;
            }
        };
        let writing = len > 0;
        if writing && !self.storage.put_chunk(offset, len) {
            self.stop(Fault::Flash(WalFault::Misused));
            return Flow::Again;
        }
        let offset = offset.saturating_add(len as u32);
        self.task = Task::Take { id, offset, stage: next, writing };
        // The piece lies in the flash buffer: the flash log takes it now. Without one, look again.
        if writing { Flow::Rest } else { Flow::Again }
    }

    #[inline(never)]
    fn membership_to_save(&self) -> Membership {
        if self.founding {
            return Membership::of_voters(self.roster.iter().map(|m| m.id).collect());
        }
        *self.raft.membership()
    }

    fn poll_receiving(&mut self, offset: u32, flash: &mut [u8]) -> Flow {
        let place = flash.get_mut(SNAP_DATA_AT..).unwrap_or_default();
        let taken = self.log.read_aside(place);
        self.log.drop_aside();
        let put = taken.is_some_and(|len| self.storage.put_chunk(offset, len));
        if let Task::Receive { piece, writing, reply_owed, .. } = &mut self.task {
            *writing = put;
            if !put {
                // The leader has to send it again.
                *piece = 0;
                *reply_owed = true;
            }
        }
        Flow::Rest
    }

    /// A piece of the leader's snapshot has come.
    pub(super) fn receive_snapshot(&mut self, message: &Message, payload: &[u8]) {
        let Message::Snapshot { id, offset, bytes, check, .. } = *message else {
            return;
        };
        let too_large = bytes > self.limits.snapshot_bytes.saturating_add(HEAD_BYTES_MAX);
        if too_large || bytes == 0 || payload.len() > piece_bytes_max(self.limits.frame_bytes) {
            return;
        }
        match self.task {
            Task::Receive { id: old, check: old_check, .. } if old == id && old_check == check => {}
            // One piece at a time is on its way to flash; the leader sends this one again.
            Task::End { .. } | Task::Take { .. } | Task::Receive { writing: true, .. } => return,
            Task::None | Task::Receive { .. } => {
                if self.phase != Phase::Running || self.reading != Reading::None {
                    return;
                }
                self.storage.begin_snapshot(id);
                self.task = Task::Receive {
                    id,
                    bytes,
                    check,
                    offset: 0,
                    members: [None; 2],
                    piece: 0,
                    writing: false,
                    reply_owed: false,
                };
            }
        }
        let Task::Receive { offset: durable, members, piece, reply_owed, .. } = &mut self.task
        else {
            return;
        };
        if *piece > 0 {
            return;
        }
        let rest = (bytes.saturating_sub(offset) as usize).checked_sub(payload.len());
        let Some(rest) = rest.filter(|_| offset == *durable && !payload.is_empty()) else {
            *reply_owed = true;
            return;
        };
        // What could not be restored is not even kept: no bytes from outside may stop a node.
        let left = members_left(members[0], payload, &self.limits);
        let Some(left) = left.filter(|left| rest > 0 || *left == 0) else {
            return;
        };
        self.forward.give_way();
        if self.log.put_aside(payload) {
            (*piece, members[1]) = (payload.len() as u16, Some(left));
        }
    }

    pub(super) fn poll_snapshot_reply(&mut self) -> Option<(NodeSet, Message)> {
        match &mut self.task {
            Task::Receive { id, offset, reply_owed, .. } if *reply_owed => {
                let lead = self.raft.lead()?;
                let term = self.raft.term();
                *reply_owed = false;
                let message = Message::SnapshotReply { term, id: *id, offset: *offset };
                (self.raft.role() != Role::Leader).then_some((NodeSet::one(lead), message))
            }
            _ => None,
        }
    }

    /// An installed snapshot voids the log: there must be nothing in it that a leader counts on.
    fn is_overtaken(&mut self, id: EntryId) -> bool {
        !self.raft.knows_nobody() && (id.index <= self.raft.commit() || self.log.holds(id))
    }

    pub(super) fn chunk_written(&mut self) {
        match &mut self.task {
            Task::Take { writing, .. } => *writing = false,
            Task::Receive { id, bytes, check, offset, members, piece, writing, reply_owed } => {
                members[0] = members[1];
                *offset = offset.saturating_add(u32::from(*piece));
                *piece = 0;
                *writing = false;
                if *offset < *bytes {
                    *reply_owed = true;
                    return;
                }
                let (id, is_sound) = (*id, self.storage.begun_crc() == *check);
                if is_sound && !self.is_overtaken(id) {
                    self.storage.end_snapshot(true);
                    self.task = Task::End { id, installed: true };
                } else {
                    // Pieces of two snapshots, or none is needed any more.
                    self.storage.abort_snapshot();
                    self.task = Task::None;
                }
            }
            _ => {}
        }
    }

    /// Flash had to give the snapshot up: it is begun anew when it is wanted again.
    pub(super) fn snapshot_lost(&mut self, now: Instant) {
        self.task = Task::None;
        // What did not fit now will not fit at once.
        self.snapshot_after = self.election_timeout_from(now);
        if self.founding {
            self.begin_snapshot(EntryId::ZERO);
        }
    }

    pub(super) fn snapshot_durable(&mut self, now: Instant, id: EntryId) {
        let installed = self.task.is_installing();
        self.task = Task::None;
        if self.founding {
            return self.founded(now, id);
        }
        if installed {
            let membership = *self.raft.membership();
            self.raft.restore(id, membership, &mut self.log);
            self.begin_restore();
            self.events.push(Event::SnapshotInstalled { id });
        } else {
            self.raft.set_snapshot(id);
            self.events.push(Event::SnapshotTaken { id });
        }
    }

    pub(super) fn begin_restore(&mut self) {
        self.phase = Phase::Restoring;
        self.reading = Reading::Restore { offset: 0, members: None, state_at: 0, asked: false };
    }

    /// Asks flash for the next piece that is wanted.
    #[inline(never)]
    pub(super) fn poll_reading(&mut self) {
        match &mut self.reading {
            Reading::Restore { offset, asked, .. } if !*asked => {
                *asked = true;
                self.storage.read_snapshot(*offset, usize::MAX);
            }
            Reading::None if self.raft.role() == Role::Leader && self.task == Task::None => {
                if let Some((to, offset)) = self.raft.poll_snapshot() {
                    self.reading = Reading::Send { to };
                    self.storage.read_snapshot(offset, piece_bytes_max(self.limits.frame_bytes));
                }
            }
            _ => {}
        }
    }

    pub(super) fn chunk_read(
        &mut self,
        at: usize,
        len: usize,
        offset: u32,
        frame: &mut [u8],
        flash: &[u8],
    ) -> Flow {
        let piece = flash.get(at..at.saturating_add(len)).unwrap_or_default();
        match self.reading {
            Reading::None => Flow::Again,
            Reading::Send { to } => {
                self.reading = Reading::None;
                self.raft.snapshot_sent(to);
                if piece.is_empty() {
                    self.raft.begin_snapshot_anew(to);
                }
                match self.send_piece(to, offset, piece, frame) {
                    Some(output) => Flow::Out(output),
                    None => Flow::Again,
                }
            }
            Reading::Restore { .. } => self.restore_piece(offset, at, piece, frame, flash),
        }
    }

    fn send_piece(
        &self,
        to: NodeId,
        offset: u32,
        piece: &[u8],
        frame: &mut [u8],
    ) -> Option<Output> {
        let snapshot = self.storage.snapshot()?;
        let waits = |to| self.raft.progress(to).map(|p| p.state()) == Some(ProgressState::Snapshot);
        if self.raft.role() != Role::Leader || !waits(to) || piece.is_empty() {
            return None;
        }
        let message = Message::Snapshot {
            term: self.raft.term(),
            id: snapshot.id,
            offset,
            bytes: snapshot.bytes,
            check: snapshot.crc,
        };
        self.transmit(NodeSet::one(to), &message, piece, frame)
    }

    pub(super) fn chunk_unreadable(&mut self) {
        match core::mem::take(&mut self.reading) {
            // A fresh one takes the place of what can't be read any more.
            Reading::Send { to } => {
                self.raft.snapshot_sent(to);
                if self.task == Task::None && self.newer_schema.is_none() {
                    self.begin_own_snapshot();
                }
            }
            _ => self.stop(Fault::Snapshot),
        }
    }
}

/// Members still to come behind this piece of a snapshot, if `members` were before it (`None`: not even the
/// head); `None` if it is no such piece of this cluster.
fn members_left(members: Option<u8>, piece: &[u8], limits: &Limits) -> Option<u8> {
    let mut rest = piece;
    let mut left = match members {
        Some(left) => left,
        None => {
            let (head, after) = Head::take(rest)?;
            rest = after;
            (head.limits == *limits && usize::from(head.members) <= MEMBERS_MAX)
                .then_some(head.members)?
        }
    };
    while left > 0 && !rest.is_empty() {
        (_, rest) = Member::take(rest)?;
        left = left.saturating_sub(1);
    }
    Some(left)
}
