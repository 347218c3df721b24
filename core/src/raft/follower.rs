//! A follower: taking entries over, and saying how far it has come (Raft §5.3).

use super::{Raft, Role, Stepped};
use crate::entry::{Entries, Entry};
use crate::event::{Event, Events};
use crate::log::{Appended, Log};
use crate::types::{EntryId, Index, NodeId, NodeSet, Term};
use crate::wire::{Message, Reject};

impl Raft {
    pub(super) fn handle_append(
        &mut self,
        from: NodeId,
        prev: EntryId,
        commit: Index,
        payload: &[u8],
        log: &mut Log,
        events: &mut Events,
    ) {
        // What the members were before the first entry is in a snapshot alone.
        if self.knows_nobody() {
            self.owe_reply();
            return;
        }
        // No leader holds an entry of a term after its own (LG13).
        let entries = Entries::new(prev, payload);
        let mut end = prev;
        for entry in entries {
            match entry {
                Ok(Entry { id, .. }) if id.term <= self.term => end = id,
                _ => return events.push(Event::ImpossibleFrame { from }),
            }
        }
        // What is committed here is the leader's too (Leader Completeness, Raft §5.4.3): `prev` need not be
        // looked up, and may be compacted.
        if prev.index > self.commit && !log.holds(prev) {
            let end = EntryId::new(prev.index.min(log.last().index), prev.term);
            let hint = log.find_conflict(end);
            self.reply.reject = Some(Reject { rejected: prev.index, hint });
            self.owe_reply();
            return;
        }
        let appended = if log.append_whole(&entries, end) {
            Appended::UpTo(end.index)
        } else {
            log.append_entries(entries, self.commit)
        };
        match appended {
            Appended::UpTo(last) => {
                self.accept(last, commit, log);
                self.reply.reject = None;
                // An answer that tells of new entries waits until they are durable.
                if log.durable() >= last {
                    self.owe_reply();
                }
            }
            Appended::FullAfter(last) => {
                self.accept(last, commit, log);
                self.reply.reject = None;
                self.reply.full = true;
                self.owe_reply();
                events.push(Event::LogFull { last });
            }
            // Only what is sound was taken; nothing is said of it.
            Appended::Conflict(_) | Appended::Malformed => {
                events.push(Event::ImpossibleFrame { from });
            }
        }
    }

    fn owe_reply(&mut self) {
        (self.reply.owed, self.looks) = (true, true);
    }

    pub(super) fn accept(&mut self, last: Index, commit: Index, log: &Log) {
        self.consistent = self.consistent.max(last);
        self.commit_to(commit.min(last), log);
    }

    pub(super) fn handle_heartbeat(
        &mut self,
        commit: EntryId,
        round: u32,
        reply: bool,
        log: &mut Log,
    ) {
        // The same entry means the same log up to it (Log Matching).
        if log.holds(commit) {
            self.accept(commit.index, commit.index, log);
        }
        if reply {
            self.reply.round = round;
            self.owe_reply();
            self.ask_again();
        }
    }

    pub(super) fn handle_snapshot(&mut self, id: EntryId, log: &mut Log) -> Stepped {
        if !self.knows_nobody() && (id.index <= self.commit || log.holds(id)) {
            // Nothing to replace: at most it tells what is committed (SN4).
            if log.holds(id) {
                self.accept(id.index, id.index, log);
            }
            self.owe_reply();
            return Stepped::Done;
        }
        Stepped::WantsSnapshot
    }

    /// A board that was admitted and has heard nothing yet: it needs a snapshot, and asks for it with every answer.
    pub(crate) const fn knows_nobody(&self) -> bool {
        self.membership.members().is_empty()
    }

    fn commit_to(&mut self, index: Index, log: &Log) {
        self.commit = self.commit.max(index.min(log.last().index));
    }

    /// A leader or candidate of the past learns the term from the answer (SM3).
    pub(super) fn answer_stale(&mut self, from: NodeId, message: &Message) {
        if message.is_leaders() && (self.options.check_quorum || self.options.pre_vote) {
            self.owes_term.insert(from);
        }
    }

    /// The last entry that is the leader's and durable.
    pub(super) fn matched(&self, log: &Log) -> Index {
        self.consistent.min(log.durable())
    }

    /// Bytes of entries that can be taken behind those that are known to be the leader's: what stands there
    /// now gives way, and what a snapshot covers can be dropped.
    fn room(&self, log: &mut Log) -> usize {
        let gives_way = log.bytes_behind(self.consistent);
        let covered = log.bytes_up_to(self.snapshot.index);
        let kept = log.bytes_used().saturating_sub(gives_way).saturating_sub(covered);
        log.bytes_capacity().saturating_sub(kept)
    }

    /// Has the leader sent what did not fit?
    pub(crate) const fn is_short_of_room(&self) -> bool {
        self.reply.full
    }

    pub(super) fn poll_reply(&mut self, log: &mut Log) -> Option<(NodeSet, Message)> {
        // Whatever is said in a term, that must be durable (RD3).
        if self.durable.0 != self.term {
            return None;
        }
        if !self.owes_term.is_empty() {
            let to = core::mem::take(&mut self.owes_term);
            return Some((to, self.reply_message(Index::ZERO, Index::ZERO)));
        }
        let lead = self.lead.filter(|_| self.role == Role::Follower)?;
        if !self.reply.owed {
            return None;
        }
        if self.knows_nobody() {
            self.reply.owed = false;
            let (term, id) = (self.term, EntryId::ZERO);
            return Some((NodeSet::one(lead), Message::SnapshotReply { term, id, offset: 0 }));
        }
        let mut room = 0;
        if self.reply.full {
            room = self.room(log);
            self.reply.full = room <= log.bytes_capacity().wrapping_shr(2);
        }
        let matched = self.matched(log);
        let mut message = self.reply_message(matched, self.consistent);
        if let Message::Reply { round, reject, room: said, .. } = &mut message {
            *round = self.reply.round;
            *reject = self.reply.reject.take();
            *said = self.reply.full.then_some(room as u32);
        }
        self.reply.owed = false;
        self.matched_told = matched;
        Some((NodeSet::one(lead), message))
    }

    fn reply_message(&self, matched: Index, received: Index) -> Message {
        let term: Term = self.term;
        Message::Reply { term, matched, received, round: 0, reject: None, room: None }
    }
}
