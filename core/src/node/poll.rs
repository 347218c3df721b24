//! The one way out of a node: what it owes, in the order in which it may be done.

use super::{Node, Output, Phase, snapshot::Reading};
use crate::entry::Kind;
use crate::event::Fault;
use crate::identity::Identity;
use crate::membership::Member;
use crate::storage::Storage;
use crate::types::{EntryId, Generation, Index, Instant, NodeSet};
use crate::wal::{HardState, Mounted, Progress, Tail, Want};
use crate::wire::{self, Message};

/// What one look at the flash log led to.
pub(super) enum Flow {
    /// Something for the driver to do.
    Out(Output),
    /// The state has changed: look again from the start.
    Again,
    /// Nothing.
    Rest,
}

impl<S: Storage> Node<[u8], S> {
    /// The next thing to do; call it until it says [`Output::Wait`]. While a flash operation is out it goes
    /// on with whatever does not depend on it, and leaves `flash` alone.
    // Small boards: what it takes of the stack and of flash would be its caller's too. So it is with all below that are not
    // inlined: none of what they take is there while the flash log works, which goes deepest.
    #[inline(never)]
    pub fn poll_output(&mut self, now: Instant, frame: &mut [u8], flash: &mut [u8]) -> Output {
        if core::mem::take(&mut self.applying) {
            self.raft.set_applied(self.raft.applied().next());
            self.rests &= !self.wants_snapshot(now);
        }
        loop {
            if let Some(event) = self.events.pop() {
                return Output::Event(event);
            }
            match self.phase {
                Phase::Off => return Output::Wait { until: Instant::FOREVER },
                Phase::Stopped => return self.poll_note(flash),
                Phase::Boot => {
                    self.open(frame, flash);
                    continue;
                }
                Phase::Joining => {
                    return match self.poll_join(now, frame) {
                        Flow::Out(output) => output,
                        _ => Output::Wait { until: self.deadline(now) },
                    };
                }
                Phase::Opening | Phase::Restoring | Phase::Recovering => {}
                Phase::Running if self.is_silent() => {}
                Phase::Running => {
                    if let Some(output) = self.poll_saying(frame) {
                        return output;
                    }
                }
            }
            let looks = !self.flash_rests(now);
            if looks {
                match self.poll_flash(now, frame, flash) {
                    Flow::Out(output) => return output,
                    Flow::Again => continue,
                    Flow::Rest => {}
                }
            }
            match self.poll_apply(now, frame, looks) {
                Flow::Out(output) => return output,
                Flow::Again => self.rests = false,
                Flow::Rest if self.phase == Phase::Recovering && self.found_alone(flash) => {}
                Flow::Rest => return Output::Wait { until: self.deadline(now) },
            }
        }
    }

    /// What is to be said, to the application or to others.
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn poll_saying(&mut self, frame: &mut [u8]) -> Option<Output> {
        self.return_votes();
        if let Some(read) = self.poll_read() {
            return Some(read);
        }
        if let Some(output) = self.poll_forward(frame) {
            return Some(output);
        }
        self.poll_message(frame)
    }

    /// Is there certainly nothing to say? Most looks find that.
    fn is_silent(&self) -> bool {
        let learners = self.raft.membership().learners;
        let told = self.admitted.is_none() & learners.is_empty() & !self.task.owes_reply();
        told & self.raft.is_silent() && self.forward.is_silent()
    }

    /// Had flash nothing to do, and still has not?
    fn flash_rests(&self, now: Instant) -> bool {
        let rests = self.rests & self.log.is_durable() & !self.raft.owes_snapshot();
        rests && self.phase == Phase::Running && now < self.idle_at && self.raft.is_vote_durable()
    }

    /// A node that has stopped has its flash remember why, and does nothing else.
    fn poll_note(&mut self, flash: &mut [u8]) -> Output {
        let hard_state = self.storage.durable();
        let allow_erase = !self.erases_held;
        let want = Want { hard_state, commit_needed: Index::ZERO, idle: false, allow_erase };
        while !self.storage.is_noted() {
            match self.storage.poll(&want, &mut self.log, flash) {
                Progress::Op(op) => return Output::Flash(op),
                Progress::Idle | Progress::Fault(_) | Progress::Refused(_) => break,
                _ => {}
            }
        }
        Output::Wait { until: Instant::FOREVER }
    }

    fn deadline(&self, now: Instant) -> Instant {
        if let Some(request) = self.request {
            return request.again_at;
        }
        let raft = match self.phase {
            Phase::Running if !self.task.is_installing() => self.raft.deadline(),
            _ => Instant::FOREVER,
        };
        let until = raft.min(self.forward.deadline());
        if self.kept_up || now >= self.idle_at { until } else { until.min(self.idle_at) }
    }

    /// The first poll: now the buffers are known.
    #[cold]
    #[inline(never)]
    fn open(&mut self, frame: &[u8], flash: &[u8]) {
        self.phase = Phase::Opening;
        if self.founding && !self.check_buffers(frame, flash) {
            return;
        }
        let flash_bytes = flash.len();
        let Some(geometry) = self.geometry else {
            return;
        };
        let opened = match self.identity {
            Some(identity) if self.founding => {
                self.storage.format(geometry, flash_bytes, identity, self.erase_anyway)
            }
            _ => self.storage.mount(geometry, flash_bytes),
        };
        if let Err(error) = opened {
            self.stop(Fault::Geometry(error));
        }
    }

    fn poll_flash(&mut self, now: Instant, frame: &mut [u8], flash: &mut [u8]) -> Flow {
        if self.task.awaits_application() {
            return Flow::Rest;
        }
        // What was just read belongs to the storage, which takes it in first.
        if !self.storage.is_busy() {
            match self.poll_task(now, flash) {
                Flow::Rest => {}
                other => return other,
            }
            self.poll_reading();
        }
        let idle = now >= self.idle_at;
        self.look_for_changes();
        let want = Want {
            hard_state: HardState {
                term: self.raft.term(),
                vote: self.raft.vote(),
                // No further than the entries that it counts: others may stand there in flash yet.
                commit: self.raft.commit().min(self.log.durable()),
            },
            // What no seal has taken along is worth a record of its own in the end.
            commit_needed: if idle && self.kept_up {
                self.change_at.max(self.raft.commit().min(self.log.durable()))
            } else {
                self.change_at
            },
            idle,
            allow_erase: !self.erases_held,
        };
        let progress = self.storage.poll(&want, &mut self.log, flash);
        let is_idle = matches!(progress, Progress::Idle);
        self.rests = is_idle & !self.task.holds_state();
        self.kept_up &= is_idle;
        match progress {
            Progress::Op(op) => Flow::Out(Output::Flash(op)),
            Progress::Idle => {
                self.kept_up |= idle;
                Flow::Rest
            }
            progress => self.flash_progressed(now, &progress, frame, flash),
        }
    }

    /// What came of the flash log's work.
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn flash_progressed(
        &mut self,
        now: Instant,
        progress: &Progress,
        frame: &mut [u8],
        flash: &[u8],
    ) -> Flow {
        match progress {
            Progress::Op(_) | Progress::Idle => {}
            Progress::Durable => {
                let HardState { term, vote, .. } = self.storage.durable();
                self.raft.set_durable(now, term, vote, &mut self.log, &mut self.events);
                self.idle_at = self.election_timeout_from(now);
            }
            Progress::Formatted => self.begin_snapshot(EntryId::ZERO),
            Progress::Mounted(mounted) => {
                self.start_raft(now, mounted);
                self.begin_restore();
            }
            Progress::SnapshotDurable(id) => self.snapshot_durable(now, *id),
            Progress::ChunkWritten => self.chunk_written(),
            Progress::SnapshotLost => self.snapshot_lost(now),
            Progress::ChunkRead { at, len, offset } => {
                return self.chunk_read(*at, *len, *offset, frame, flash);
            }
            Progress::ChunkUnreadable => self.chunk_unreadable(),
            Progress::Refused(error) => self.stop(Fault::Mount(*error)),
            Progress::Fault(fault) => self.stop(Fault::Flash(*fault)),
        }
        Flow::Again
    }

    /// A founded board starts as if it had been mounted.
    pub(super) fn founded(&mut self, now: Instant, id: EntryId) {
        if let (Some(identity), Some(snapshot)) = (self.identity, self.storage.snapshot()) {
            self.recovery = None;
            self.log.reset(id);
            let mounted = Mounted {
                identity,
                hard_state: self.storage.durable(),
                snapshot,
                tail: Tail::Clean,
            };
            self.founding = false;
            self.start_raft(now, &mounted);
            self.begin_restore();
        }
    }

    /// All that is here has been applied: it becomes the state that a cluster of this board alone begins with.
    #[cold]
    #[inline(never)]
    fn found_alone(&mut self, flash: &[u8]) -> bool {
        let all = self.raft.applied() == self.log.last().index && self.newer_schema.is_none();
        let (true, Some(cluster), Some(own), Some(geometry)) =
            (all, self.recovery, self.identity, self.geometry)
        else {
            return false;
        };
        self.dismiss(NodeSet::one(own.node));
        for member in &mut self.roster {
            *member = Member { address: member.address.clone(), ..Member::new(own.node) };
        }
        let identity = Identity { cluster, generation: Generation(1), ..own };
        (self.identity, self.generations) = (Some(identity), Generation(1));
        (self.founding, self.phase) = (true, Phase::Opening);
        self.raft.clear();
        self.log.reset(EntryId::ZERO);
        if let Err(error) = self.storage.format(geometry, flash.len(), identity, true) {
            self.stop(Fault::Geometry(error));
        }
        true
    }

    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn poll_message(&mut self, frame: &mut [u8]) -> Option<Output> {
        if let Some((to, message)) = self.poll_snapshot_reply() {
            return self.transmit(to, &message, &[], frame);
        }
        if let Some(output) = self.poll_admitted(frame) {
            return Some(output);
        }
        let mut outgoing = self.raft.poll_message(&mut self.log)?;
        let Message::Append { prev, .. } = outgoing.message else {
            self.ask_for_snapshot(&mut outgoing.message);
            return self.transmit(outgoing.to, &outgoing.message, &[], frame);
        };
        let frame_bytes = usize::from(self.limits.frame_bytes).min(frame.len());
        let head = wire::say(self.identity.as_ref()?, outgoing.to, &outgoing.message, frame)?;
        let room = wire::payload_bytes_max(frame_bytes, head).min(outgoing.entries_bytes_max);
        let place = frame.get_mut(head..head.saturating_add(room))?;
        let (last, bytes) = self.log.copy_fit(prev.index, outgoing.entries_upto, place);
        let end = head.saturating_add(bytes);
        self.raft.sent(outgoing.to, last);
        let len = wire::seal(frame, end)?;
        Some(Output::Transmit { to: outgoing.to, len })
    }

    pub(super) fn transmit(
        &self,
        to: NodeSet,
        message: &Message,
        payload: &[u8],
        frame: &mut [u8],
    ) -> Option<Output> {
        let head = wire::say(self.identity.as_ref()?, to, message, frame)?;
        let end = head.saturating_add(payload.len());
        crate::log::copy(frame.get_mut(head..end)?, payload);
        let len = wire::seal(frame, end)?;
        Some(Output::Transmit { to, len })
    }

    /// Hands out the next entry that is committed, and durable here (AS3, B10).
    #[cfg_attr(not(target_pointer_width = "64"), inline(never))]
    fn poll_apply(&mut self, now: Instant, frame: &mut [u8], looked: bool) -> Flow {
        let next = self.raft.applied().next();
        let held_up = !matches!(self.phase, Phase::Running | Phase::Recovering)
            || self.newer_schema.is_some()
            || self.task.holds_state()
            || matches!(self.reading, Reading::Restore { .. });
        if held_up || next > self.raft.commit().min(self.log.durable()) {
            return Flow::Rest;
        }
        match self.log.read(next, frame) {
            Some((Kind::Command, term, len)) => {
                let id = EntryId::new(next, term);
                self.applying = true;
                Flow::Out(Output::Apply { id, len })
            }
            // What is not the application's alone may have to be durable as committed before that.
            Some(_) if !looked => Flow::Again,
            Some((Kind::Once, term, len)) => {
                let id = EntryId::new(next, term);
                if let Some(len) = self.apply_once(id, len, frame) {
                    self.applying = true;
                    return Flow::Out(Output::Apply { id, len });
                }
                self.raft.set_applied(next);
                Flow::Again
            }
            Some((kind, _, len)) => {
                self.raft.set_applied(next);
                if kind == Kind::Membership {
                    self.apply_change(now, frame.get(..len).unwrap_or_default());
                }
                Flow::Again
            }
            None => {
                // A committed entry that can't be read out of memory: this board is not sound.
                self.stop(Fault::Invariant(5));
                Flow::Again
            }
        }
    }
}
