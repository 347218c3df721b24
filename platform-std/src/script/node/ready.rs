//! Writing, sending and applying: at once, or by threads that take their time.

use quorate::Index;
use quorate::entry::Kind;
use quorate::raft::Role;

use super::Node;
use crate::script::message::{Content, InFlight, Snapshot};
use crate::script::storage::{Disk, Record, entry_bytes, records};

/// A write that is waiting for the append thread.
pub(super) struct Write {
    pub(super) disk: Disk,
    /// A leader's snapshot that takes the place of everything.
    snapshot: Option<Snapshot>,
}

impl Node {
    /// Has this node anything to write, send or apply?
    pub(in crate::script) fn has_ready(&mut self) -> bool {
        !self.outbox.is_empty() || self.has_to_write() || self.handed_out < self.appliable()
    }

    /// Does a thread of this node have work?
    pub(in crate::script) fn has_thread_work(&self) -> bool {
        !self.writes.is_empty() || !self.applies.is_empty()
    }

    fn has_to_write(&mut self) -> bool {
        // What a snapshot on its way to storage is to replace is not written.
        if self.writes.iter().any(|write| write.snapshot.is_some()) {
            return false;
        }
        // What a write held that another one was to overwrite is written again.
        let untold = self.writes.is_empty() && self.log.durable() < self.log.last().index;
        let image = self.image();
        self.received.is_some() || untold || self.told != image
    }

    fn appliable(&self) -> Index {
        // Without threads it is written before it is applied.
        let waits = self.made.async_writes && !self.made.applies_unwritten;
        self.raft.commit().min(if waits { self.log.durable() } else { self.log.last().index })
    }

    /// Writes, sends and applies what is there now, in this order; what comes of that is for the next time.
    pub(in crate::script) fn process_ready(&mut self) -> Vec<InFlight> {
        let sent = if self.made.async_writes { self.begin_writes() } else { self.write_at_once() };
        self.poll();
        sent
    }

    fn write_at_once(&mut self) -> Vec<InFlight> {
        let leads = self.raft.role() == Role::Leader;
        let applies = self.next_to_apply();
        // Nobody waits for a commit index to be written.
        let hard_state = (self.raft.term(), self.raft.vote());
        let awaited = self.log.durable() < self.log.last().index
            || (self.told.term, self.told.vote) != hard_state;
        if self.has_to_write() {
            self.log.write_begins(self.log.last().index);
            self.told = self.image();
            self.stored = self.told.clone();
            self.log.write_ends();
        }
        let mut sent = std::mem::take(&mut self.outbox);
        let (term, vote) = (self.told.term, self.told.vote);
        // A leader counts its own write after the messages of before have left, all others answer with it.
        if awaited && !leads {
            self.set_durable(term, vote);
            self.poll();
            if self.raft.role() != Role::Leader {
                sent.append(&mut self.outbox);
            }
        }
        for record in applies {
            self.raft.set_applied(record.id.index);
            self.apply(record);
        }
        if awaited && leads {
            self.set_durable(term, vote);
        }
        sent
    }

    fn begin_writes(&mut self) -> Vec<InFlight> {
        if self.has_to_write() {
            let snapshot = self.received.take();
            let disk = match &snapshot {
                Some(snapshot) => self.image().restored(snapshot.id),
                None => self.image(),
            };
            self.told = disk.clone();
            self.writes.push_back(Write { disk, snapshot });
            if self.writes.len() == 1 {
                self.begin_oldest();
            }
        }
        self.write_term_ahead();
        let applies = self.next_to_apply();
        if !applies.is_empty() {
            self.applies.push_back(applies);
        }
        std::mem::take(&mut self.outbox)
    }

    /// A new term is stored before all that waits, unless with a vote for another node: nothing is said in it until then
    /// (RD3), but the original asks for votes and answers heartbeats at once.
    fn write_term_ahead(&mut self) {
        let (term, vote) = (self.raft.term(), self.raft.vote());
        if (self.stored.term, self.stored.vote) == (term, vote)
            || vote.is_some_and(|vote| vote != self.id)
        {
            return;
        }
        let waiting = self.writes.iter_mut().map(|write| &mut write.disk);
        for disk in waiting.chain([&mut self.stored]) {
            (disk.term, disk.vote) = (term, vote);
        }
        self.set_durable(term, vote);
        self.poll();
    }

    /// The log knows of one write at a time, as a flash log does: the oldest is on its way. What it holds, and none of
    /// those behind it takes away again, is durable when it ends (AS2).
    fn begin_oldest(&mut self) {
        let mut kept = self.log.last().index;
        for write in &self.writes {
            kept = kept.min(match write.snapshot {
                None => write.disk.agrees_up_to(&mut self.log),
                Some(_) => self.log.durable(),
            });
        }
        self.log.write_begins(kept);
    }

    /// The oldest write is done: what was waiting for it is said. `None` if there is none.
    pub(in crate::script) fn process_append(&mut self) -> Option<Vec<InFlight>> {
        let write = self.writes.pop_front()?;
        self.log.write_ends();
        if let Some(snapshot) = write.snapshot
            && snapshot.id.index > self.raft.commit()
        {
            self.install(snapshot);
        }
        self.stored = write.disk;
        self.begin_oldest();
        let said = self.outbox.len();
        self.set_durable(self.stored.term, self.stored.vote);
        self.poll();
        // What a leader has to say of it waits for its turn.
        let leads = self.raft.role() == Role::Leader;
        Some(if leads { Vec::new() } else { self.outbox.split_off(said) })
    }

    /// The oldest entries that were handed out are applied; what the node is to hear of it.
    pub(in crate::script) fn process_apply(&mut self) -> Option<InFlight> {
        let records = self.applies.pop_front()?;
        let index = records.last()?.id.index;
        records.into_iter().for_each(|record| self.apply(record));
        self.poll();
        Some(InFlight { from: self.id, to: self.id, content: Content::Applied { index } })
    }

    fn next_to_apply(&mut self) -> Vec<Record> {
        let (from, to) = (self.handed_out, self.appliable());
        let limit = self.made.committed_bytes_max;
        let mut bytes = 0;
        let within = |record: &Record| {
            let first = bytes == 0;
            bytes += entry_bytes(record);
            limit == 0 || first || bytes <= limit
        };
        let committed = |record: &Record| record.id.index > from && record.id.index <= to;
        let records: Vec<Record> =
            records(&mut self.log).into_iter().filter(committed).take_while(within).collect();
        self.handed_out = records.last().map_or(from, |record| record.id.index);
        records
    }

    fn apply(&mut self, record: Record) {
        match record.kind {
            Kind::Membership => {
                // One that can't be made has no effect.
                let (now, log, events) = (self.now(), &mut self.log, &mut self.events);
                let _ = self.raft.apply_change(now, &record.data, log, events);
                self.state.membership = *self.raft.membership();
            }
            Kind::Command | Kind::Once => self.state.content.extend(&record.data),
            Kind::Empty => {}
        }
        self.state.id = record.id;
    }

    /// What storage would have to hold now.
    pub(super) fn image(&mut self) -> Disk {
        Disk::of(&self.raft, &mut self.log)
    }
}
