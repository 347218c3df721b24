//! One board: the protocol, its log, its flash, and what it has applied.

use crate::support::id;
use quorate::entry::{Entries, Kind};
use quorate::event::Events;
use quorate::log::Log;
use quorate::membership::Membership;
use quorate::raft::{ProgressState, Raft};
use quorate::{EntryId, Index, Instant, NodeId, Term};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: EntryId,
    pub(crate) kind: Kind,
    pub(crate) data: Vec<u8>,
}

/// What a board's flash holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
    pub(crate) commit: Index,
    pub(crate) snapshot: EntryId,
    /// The configuration as of the snapshot, if it is not the one that the cluster started with.
    pub(crate) membership: Option<Membership>,
    pub(crate) base: EntryId,
    pub(crate) entries: Vec<Record>,
}

impl Disk {
    pub(crate) fn last(&self) -> EntryId {
        self.entries.last().map_or(self.base, |r| r.id)
    }
}

pub(crate) struct Board {
    pub(crate) raft: Raft,
    pub(crate) log: Box<Log>,
    pub(crate) now: u64,
    pub(crate) disk: Disk,
    pub(crate) applied: Vec<Record>,
    /// Flash writes wait until they are asked for.
    pub(crate) manual: bool,
    /// Committed entries wait to be applied.
    pub(crate) applies_later: bool,
    /// Reads that were answered, and how many commands were applied by then.
    pub(crate) reads: Vec<(u32, usize)>,
    pub(crate) events: Events,
    /// A write that has begun.
    pub(crate) writing: Option<Disk>,
    /// A snapshot that is being received, and how much of it is here.
    pub(crate) receiving: Option<(EntryId, u32)>,
}

pub(crate) fn log_of(bytes: usize) -> Box<Log> {
    match bytes {
        96 => Box::new(Log::<[u8; 96]>::new()),
        128 => Box::new(Log::<[u8; 128]>::new()),
        256 => Box::new(Log::<[u8; 256]>::new()),
        512 => Box::new(Log::<[u8; 512]>::new()),
        1024 => Box::new(Log::<[u8; 1024]>::new()),
        8192 => Box::new(Log::<[u8; 8192]>::new()),
        other => panic!("no board has a log of {other} bytes"),
    }
}

impl Board {
    pub(crate) fn entries(&mut self) -> Vec<Record> {
        let (base, last) = (self.log.base().index, self.log.last().index);
        let mut bytes = vec![0; self.log.bytes_used()];
        let len = self.log.copy(base, last, &mut bytes).unwrap();
        let record =
            |e: quorate::entry::Entry<'_>| Record { id: e.id, kind: e.kind, data: e.data.to_vec() };
        Entries::new(self.log.base(), &bytes[..len]).map(|e| record(e.unwrap())).collect()
    }

    /// The terms of the entries in the log.
    pub(crate) fn terms(&mut self) -> Vec<u64> {
        self.entries().iter().map(|r| r.id.term.0).collect()
    }

    pub(crate) fn commands(&self) -> Vec<String> {
        let commands = self.applied.iter().filter(|r| r.kind == Kind::Command);
        commands.map(|r| String::from_utf8_lossy(&r.data).into_owned()).collect()
    }

    pub(crate) fn state_of(&self, n: u8) -> ProgressState {
        self.raft.progress(id(n)).unwrap().state()
    }

    pub(crate) fn is_dirty(&self) -> bool {
        let disk = &self.disk;
        (disk.term, disk.vote) != (self.raft.term(), self.raft.vote())
            || self.log.durable() < self.log.last().index
            || disk.last() != self.log.last()
    }

    pub(crate) fn persist_begins(&mut self) {
        let entries = self.entries();
        self.writing = Some(Disk {
            term: self.raft.term(),
            vote: self.raft.vote(),
            commit: self.raft.commit(),
            snapshot: self.disk.snapshot,
            membership: self.disk.membership,
            base: self.log.base(),
            entries,
        });
        self.log.write_begins(self.log.last().index);
    }

    pub(crate) fn persist_ends(&mut self) {
        let Some(written) = self.writing.take() else { return };
        let Disk { snapshot, membership, .. } = self.disk;
        // A snapshot that was installed meanwhile stays, with what the write has behind it.
        if written.base.index >= self.disk.base.index {
            self.disk = Disk { snapshot, membership, ..written };
        } else {
            (self.disk.term, self.disk.vote) = (written.term, written.vote);
        }
        self.log.write_ends();
        let now = Instant::from_millis(self.now);
        let (term, vote) = (self.disk.term, self.disk.vote);
        self.raft.set_durable(now, term, vote, &mut self.log, &mut self.events);
    }

    /// Drops entries that a snapshot covers until there is room.
    pub(crate) fn make_room(&mut self, bytes: usize) {
        while self.log.bytes_free() < bytes && self.log.base().index < self.raft.snapshot().index {
            self.log.compact(self.log.base().index.next());
        }
    }
}
