//! A leader: sending entries, counting who holds them, committing (Raft §5.3, §5.4.2).

use super::{Outgoing, Progress, ProgressState, Raft, Role};
use crate::entry::Kind;
use crate::event::{Event, Events};
use crate::log::Log;
use crate::types::{EntryId, Index, Instant, NodeId, NodeSet};
use crate::wire::{Message, Reject};

impl Raft {
    pub(super) fn become_leader(&mut self, now: Instant, log: &mut Log, events: &mut Events) {
        let next = log.last().index.next();
        self.reset(now, self.term);
        self.role = Role::Leader;
        self.lead = self.id;
        (self.recent_active, self.active_before) = (NodeSet::EMPTY, NodeSet::EMPTY);
        self.reset_progress(next);
        // It commits what it inherited by an entry of its own term (Raft §5.4.2, §8).
        let own = loop {
            let covered = log.base().index < self.snapshot.index && log.count() > 0;
            match log.append(self.term, Kind::Empty, &[]) {
                Ok(own) => break own,
                // What a snapshot covers gives way.
                Err(_) if covered => log.compact(log.base().index.next()),
                Err(_) => {
                    events.push(Event::LogFull { last: log.last().index });
                    self.become_follower(now, self.term, None, events);
                    return;
                }
            }
        };
        self.term_start = own.index;
        // What was inherited may hold a change (CC3).
        self.pending_change = own.index.previous();
        self.quorum_at = now.after(self.options.election_ms);
        self.beat_at = now.after(self.options.heartbeat_ms);
        self.round = 0;
        self.lead_reads();
        self.owe_appends();
        events.push(Event::Became { role: Role::Leader, term: self.term });
    }

    pub(super) fn beat(&mut self, now: Instant, events: &mut Events) {
        // No round has its number twice in a term: reads rely on it.
        let Some(round) = self.round.checked_add(1) else {
            return self.become_follower(now, self.term, None, events);
        };
        self.round = round;
        self.beat_at = now.after(self.options.heartbeat_ms);
        self.owes_heartbeat = self.others(self.membership.members());
        // This round is theirs, too.
        self.owes_round = false;
        self.lease_round(now);
        self.repeat_transfer();
        // A piece of a snapshot may be lost as well; who is not there gets none.
        let receives = |p: &&Progress| p.state == ProgressState::Snapshot;
        let receivers: NodeSet =
            self.progress.iter().filter(receives).filter_map(|p| p.id).collect();
        self.owes_snapshot = receivers.intersection(self.recent_active);
    }

    pub(super) fn check_quorum(&mut self, now: Instant, events: &mut Events) {
        let mut active = core::mem::take(&mut self.recent_active);
        self.active_before = active;
        active = self.id.map_or(active, |id| active.union(NodeSet::one(id)));
        self.quorum_at = now.after(self.options.election_ms);
        if !self.membership.has_quorum(active) {
            self.become_follower(now, self.term, None, events);
        }
    }

    pub(super) fn handle_reply(&mut self, from: NodeId, message: &Message, log: &mut Log) {
        let Message::Reply { matched, received, round, reject, room, .. } = *message else {
            return;
        };
        let last = log.last().index;
        // Nobody can hold more than the log has, or have heard what was not said yet (a forged or a past life's answer).
        if self.role != Role::Leader || received > last || round > self.round {
            return;
        }
        let Some(progress) = self.progress.iter_mut().find(|p| p.id == Some(from)) else {
            return;
        };
        self.recent_active.insert(from);
        (progress.is_full, progress.room) = (room.is_some(), room.unwrap_or_default());
        progress.round_heard = progress.round_heard.max(round);
        let news = progress.acknowledged(matched);
        let lost = progress.has_lost(round, received);
        // Whatever reconnects it with this log ends the need of a snapshot (SN3, B16).
        if progress.state == ProgressState::Snapshot && progress.matched >= log.base().index {
            progress.become_replicate(received);
        }
        if let Some(Reject { rejected, hint }) = reject {
            // At most one probe for each term: both sides skip what cannot match (PR13).
            let hint = log.find_conflict(hint);
            if progress.rejected(rejected, hint.index) {
                self.owes_append.insert(from);
            }
        } else {
            match progress.state {
                ProgressState::Probe => {
                    progress.paused = false;
                    if received >= progress.next.previous() {
                        progress.become_replicate(received);
                    }
                    self.owes_append.insert(from);
                }
                ProgressState::Replicate if lost => {
                    progress.become_probe_after(received);
                    self.owes_append.insert(from);
                }
                _ => {}
            }
        }
        // What is committed already is so by any count.
        if news && matched > self.commit {
            self.advance_commit(log);
        }
        self.prolong_lease();
    }

    pub(super) fn handle_snapshot_reply(&mut self, from: NodeId, id: EntryId, offset: u32) {
        if self.role != Role::Leader {
            return;
        }
        let Some(progress) = self.progress.iter_mut().find(|p| p.id == Some(from)) else {
            return;
        };
        self.recent_active.insert(from);
        // It knows nobody, or has the beginning of what another leader sent: no append helps it.
        let needs_one = progress.state == ProgressState::Probe && progress.matched == Index::ZERO;
        if (id == EntryId::ZERO || needs_one) && progress.state != ProgressState::Snapshot {
            progress.become_snapshot(self.snapshot.index);
            self.owes_snapshot.insert(from);
        }
        // What was sent already is sent again by the heartbeat, or a repeated frame would multiply itself.
        if progress.state == ProgressState::Snapshot
            && progress.next == id.index.next()
            && progress.snapshot_offset != offset
        {
            progress.snapshot_offset = offset;
            self.owes_snapshot.insert(from);
        }
    }

    /// Commits what a quorum holds durably, but nothing of an earlier term by counting (Raft §5.4.2).
    pub(super) fn advance_commit(&mut self, log: &Log) {
        let own = self.id;
        let matched = |id| {
            if Some(id) == own {
                log.durable()
            } else {
                self.progress(id).map_or(Index::ZERO, Progress::matched)
            }
        };
        if let Some(index) = self.membership.committed(matched)
            && index >= self.term_start
        {
            let commit = self.commit.max(index.min(log.last().index));
            if commit > self.commit {
                self.commit = commit;
                self.told = NodeSet::EMPTY;
                self.looks = true;
            }
        }
    }

    /// Leaves a joint configuration that is to be left without being asked, as soon as there is room for it. What an
    /// earlier leader appended for that counts: it is pending until applied (CC8, B1).
    #[inline(never)]
    pub(super) fn leave_joint(&mut self, log: &mut Log) {
        if self.membership.auto_leave && self.applied >= self.pending_change {
            // Else at the next poll.
            if let Ok(id) = self.propose(Kind::Membership, &[], log) {
                self.pending_change = id.index;
            }
        }
    }

    pub(super) fn owe_appends(&mut self) {
        self.owes_append = self.others(self.membership.members());
        self.looks = true;
    }

    pub(super) fn poll_leader(&mut self, log: &mut Log) -> Option<Outgoing> {
        if !self.owes_heartbeat.is_empty() {
            let to = core::mem::take(&mut self.owes_heartbeat);
            return Some(self.heartbeat(to, true, log));
        }
        if let Some(outgoing) = self.poll_leader_reads(log).or_else(|| self.poll_transfer(log)) {
            return Some(outgoing);
        }
        let (append, behind) = self.poll_append(log);
        if append.is_some() || behind.is_empty() {
            return append;
        }
        Some(self.heartbeat(behind, false, log))
    }

    /// The last entry known to be committed.
    pub(super) fn commit_id(&self, log: &mut Log) -> EntryId {
        let own = self.role == Role::Leader && self.commit >= self.term_start;
        let term = if own { self.term } else { log.term(self.commit).unwrap_or_default() };
        EntryId::new(self.commit, term)
    }

    pub(super) fn heartbeat(&mut self, to: NodeSet, reply: bool, log: &mut Log) -> Outgoing {
        let commit = self.commit_id(log);
        let round = self.round;
        self.told = self.told.union(to);
        if reply {
            for progress in self.slots_mut() {
                if progress.id.is_some_and(|id| to.contains(id)) {
                    progress.beat(round);
                }
            }
        }
        let message = Message::Heartbeat { term: self.term, commit, round: self.round, reply };
        Outgoing::plain(to, message)
    }

    /// The next append, and who was not told how far the log is committed.
    fn poll_append(&mut self, log: &mut Log) -> (Option<Outgoing>, NodeSet) {
        let last = log.last().index;
        let owed = self.owes_append;
        // Entries from here on are this leader's own, and still here.
        let own_from = self.term_start.max(log.base().index);
        let mut behind = NodeSet::EMPTY;
        let mut chosen: Option<(NodeSet, EntryId, Option<u32>)> = None;
        for progress in self.progress.iter_mut().take(self.slots.into()) {
            let Some(id) = progress.id else {
                continue;
            };
            if progress.state == ProgressState::Replicate && !self.told.contains(id) {
                behind.insert(id);
            }
            let probes = progress.state == ProgressState::Probe && owed.contains(id);
            if !(progress.next <= last || probes) || !progress.is_ready() {
                continue;
            }
            let before = progress.next.previous();
            let known = if before >= own_from { Some(self.term) } else { log.term(before) };
            let Some(term) = known else {
                // Compacted: only a snapshot helps, and only who is there gets one (PR5).
                if self.recent_active.contains(id) {
                    progress.become_snapshot(self.snapshot.index);
                    self.owes_snapshot.insert(id);
                }
                continue;
            };
            // A full member takes nothing now; a probe tells more than its entries.
            let full =
                progress.room().is_some_and(|r| log.fit(before, progress.next, r as usize).1 == 0);
            if full && progress.state == ProgressState::Replicate {
                continue;
            }
            match &mut chosen {
                None => {
                    chosen = Some((NodeSet::one(id), EntryId::new(before, term), progress.room()));
                }
                // The same frame serves everybody who is at the same place.
                Some((to, prev, room)) if prev.index == before && *room == progress.room() => {
                    to.insert(id);
                }
                Some(_) => {}
            }
        }
        let outgoing = chosen.map(|(to, prev, room)| Outgoing {
            to,
            message: Message::Append { term: self.term, prev, commit: self.commit },
            entries_upto: last,
            entries_bytes_max: room.map_or(usize::MAX, |bytes| bytes as usize),
        });
        (outgoing, behind)
    }

    /// An append went out to `to` with the entries up to `last`; none if that is the one before the first.
    pub fn sent(&mut self, to: NodeSet, last: Index) {
        self.owes_append = self.owes_append.difference(to);
        if self.commit <= last {
            self.told = self.told.union(to);
        }
        for progress in self.slots_mut() {
            if progress.id.is_some_and(|id| to.contains(id)) {
                progress.sent(last);
            }
        }
    }

    /// The link to a member is down: what was sent ahead is probably lost (PR11).
    pub fn report_unreachable(&mut self, id: NodeId) {
        if let Some(progress) = self.progress.iter_mut().find(|p| p.id == Some(id))
            && progress.state == ProgressState::Replicate
        {
            progress.become_probe_after(Index::ZERO);
            self.looks = true;
        }
    }

    /// Is a piece of the snapshot owed to anybody?
    pub(crate) const fn owes_snapshot(&self) -> bool {
        !self.owes_snapshot.is_empty()
    }

    /// A member to whom the next piece of the snapshot is owed, and where that piece starts.
    pub fn poll_snapshot(&mut self) -> Option<(NodeId, u32)> {
        let snapshot = self.snapshot.index;
        let owed = self.owes_snapshot;
        if owed.is_empty() {
            return None;
        }
        let waiting = |p: &&mut Progress| {
            p.state == ProgressState::Snapshot && p.id.is_some_and(|id| owed.contains(id))
        };
        let progress = self.progress.iter_mut().find(waiting)?;
        if progress.next != snapshot.next() {
            // A newer one has taken its place.
            progress.become_snapshot(snapshot);
        }
        Some((progress.id?, progress.snapshot_offset))
    }

    /// Bytes of the snapshot that its receivers have, together; `None` if no member gets one.
    pub(crate) fn snapshot_delivered(&self) -> Option<u32> {
        let getting = self.progress.iter().filter(|p| p.state == ProgressState::Snapshot);
        let leads = self.role == Role::Leader;
        getting.filter(|_| leads).map(|p| p.snapshot_offset).reduce(u32::saturating_add)
    }

    /// There is no such piece: what the member is said to have got is not of this snapshot.
    pub(crate) fn begin_snapshot_anew(&mut self, to: NodeId) {
        if let Some(progress) = self.progress.iter_mut().find(|p| p.id == Some(to)) {
            progress.snapshot_offset = 0;
        }
    }

    /// That piece went out.
    pub fn snapshot_sent(&mut self, to: NodeId) {
        self.owes_snapshot.remove(to);
    }
}
