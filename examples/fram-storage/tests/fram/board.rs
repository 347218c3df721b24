//! A board with nothing but this storage on it, and a model of what it may have forgotten: nothing that was
//! confirmed, nothing that a mount has shown, and of entries that gave way in the log nothing before them.

use crate::medium::{Cut, Medium};
use quorate::entry::{Entries, Kind};
use quorate::flash::{FlashOp, Geometry};
use quorate::log::Log;
use quorate::storage::Storage;
use quorate::wal::{HardState, MountError, Mounted, Progress, SNAP_DATA_AT, SnapshotInfo, Want};
use quorate::{ClusterId, EntryId, Generation, Identity, Index, NodeId, Term};
use quorate_flash_lab::random::Random;
use quorate_fram::{Fram, part};
use std::collections::BTreeMap;

pub(crate) const IDENTITY: Identity = Identity {
    cluster: ClusterId(*b"cafe"),
    node: NodeId::new(3).unwrap(),
    generation: Generation(7),
};

/// Two banks of this size: too small for a full log with a large snapshot, which is to be seen, too.
pub(crate) const BANK_BYTES: usize = 640;
pub(crate) const MEDIUM_BYTES: usize = 256 + 2 * BANK_BYTES;
/// Smaller than a full log, so that reading and copying take several steps.
const BUFFER_BYTES: usize = 256;

/// Entries by index: term and data.
type Held = BTreeMap<u64, (u64, Vec<u8>)>;

/// What can happen to a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A term and a vote.
    Vote,
    Append,
    /// A number of the board's own.
    Note,
    /// Three entries at once.
    Batch,
    /// Entries of an older leader give way to one of a newer.
    Conflict,
    BeginSnapshot,
    Piece,
    EndSnapshot,
    /// All of a leader's snapshot.
    Install,
    Abort,
    ReadSnapshot,
    Boot,
}

impl Event {
    pub(crate) const ALL: [Self; 12] = [
        Self::Note,
        Self::Vote,
        Self::Append,
        Self::Batch,
        Self::Conflict,
        Self::BeginSnapshot,
        Self::Piece,
        Self::EndSnapshot,
        Self::Install,
        Self::Abort,
        Self::ReadSnapshot,
        Self::Boot,
    ];
}

pub(crate) struct Board {
    pub(crate) store: Fram,
    pub(crate) log: Box<Log>,
    pub(crate) buf: Vec<u8>,
    pub(crate) medium: Medium,
    pub(crate) random: Random,
    want: Want,
    /// An operation that is out.
    out: Option<FlashOp>,
    /// The snapshot that is being written; whether it is installed.
    begun: Option<(EntryId, Vec<u8>)>,
    ending: Option<bool>,
    /// Must be there.
    kept: u64,
    /// One of these is there, or its beginning.
    versions: Vec<Held>,
    hard_states: Vec<(Term, Option<NodeId>)>,
    commit: Index,
    notes: Vec<u32>,
    snapshots: Vec<SnapshotInfo>,
    contents: BTreeMap<(u64, u32), Vec<u8>>,
    /// Entries with these numbers are never the same twice.
    next: u8,
    pub(crate) short: u32,
}

fn held(log: &mut Log) -> Held {
    let mut out = [0; 512];
    (log.base().index.0 + 1..=log.last().index.0)
        .map(|i| {
            let (_, term, len) = log.read(Index(i), &mut out).unwrap();
            (i, (term.0, out[..len].to_vec()))
        })
        .collect()
}

pub(crate) fn geometry() -> Geometry {
    part(MEDIUM_BYTES as u32, 9).geometry
}

impl Board {
    pub(crate) fn on(medium: Medium, seed: u64) -> Self {
        Self {
            store: Fram::OFF,
            log: Box::new(Log::<[u8; 561]>::new()),
            buf: vec![0; BUFFER_BYTES],
            medium,
            random: Random(seed),
            want: Want {
                hard_state: HardState::default(),
                commit_needed: Index::ZERO,
                idle: false,
                allow_erase: false,
            },
            out: None,
            begun: None,
            ending: None,
            kept: 0,
            versions: vec![Held::new()],
            hard_states: vec![(Term(0), None)],
            commit: Index::ZERO,
            notes: vec![0],
            snapshots: vec![],
            contents: BTreeMap::new(),
            next: 0,
            short: 0,
        }
    }

    pub(crate) fn founded(seed: u64) -> Self {
        let mut board = Self::on(Medium::new(MEDIUM_BYTES, 0xff), seed);
        board.found().unwrap();
        board
    }

    /// Formats the medium and writes the first snapshot.
    pub(crate) fn found(&mut self) -> Result<(), Cut> {
        self.store.format(geometry(), BUFFER_BYTES, IDENTITY, false).unwrap();
        let formatted = self.answer()?;
        assert_eq!(formatted, Progress::Formatted);
        self.log.reset(EntryId::ZERO);
        self.begin(EntryId::ZERO, vec![1; 30]);
        self.piece()?;
        self.end(false);
        self.settle()
    }

    pub(crate) fn boot(&mut self) -> Result<Mounted, Cut> {
        self.out = None;
        (self.begun, self.ending) = (None, None);
        self.store = Fram::OFF;
        self.store.mount(geometry(), BUFFER_BYTES).unwrap();
        match self.answer()? {
            Progress::Mounted(mounted) => {
                self.check(&mounted);
                Ok(mounted)
            }
            other => panic!("no mount: {other:?}"),
        }
    }

    /// How a mount is refused.
    pub(crate) fn refused(&mut self) -> Option<MountError> {
        self.store = Fram::OFF;
        self.store.mount(geometry(), BUFFER_BYTES).unwrap();
        match self.answer().unwrap() {
            Progress::Refused(error) => Some(error),
            Progress::Mounted(_) => None,
            other => panic!("{other:?}"),
        }
    }

    /// One operation, or an answer.
    fn step(&mut self) -> Result<Option<Progress>, Cut> {
        if let Some(op) = self.out.take() {
            let done = self.medium.run(op, &mut self.buf, &mut self.random)?;
            self.store.handle(done);
        }
        self.want.hard_state.commit =
            self.want.hard_state.commit.max(self.log.base().index).min(self.log.durable());
        match self.store.poll(&self.want, &mut self.log, &mut self.buf) {
            Progress::Op(op) => {
                self.out = Some(op);
                Ok(None)
            }
            other => {
                self.confirmed(&other);
                Ok(Some(other))
            }
        }
    }

    pub(crate) fn answer(&mut self) -> Result<Progress, Cut> {
        for _ in 0..10_000 {
            if let Some(progress) = self.step()? {
                return Ok(progress);
            }
        }
        panic!("an endless loop");
    }

    /// Goes on for so many operations, or until nothing is left to do.
    pub(crate) fn run(&mut self, operations: u64) -> Result<(), Cut> {
        for _ in 0..operations {
            match self.step()? {
                Some(Progress::Idle) => return Ok(()),
                Some(
                    bad @ (Progress::Fault(_)
                    | Progress::Refused(_)
                    | Progress::ChunkUnreadable
                    | Progress::Mounted(_)),
                ) => panic!("{bad:?}"),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn settle(&mut self) -> Result<(), Cut> {
        self.run(10_000)?;
        assert!(self.out.is_none(), "an endless loop");
        Ok(())
    }

    fn confirmed(&mut self, progress: &Progress) {
        match *progress {
            Progress::Durable => {
                let HardState { term, vote, commit } = self.store.durable();
                let at = self.hard_states.iter().position(|state| *state == (term, vote));
                self.hard_states.drain(..at.expect("a term and vote that were asked for"));
                self.commit = self.commit.max(commit);
                self.kept = self.log.durable().0;
                if self.store.is_noted() {
                    self.notes = vec![self.store.note()];
                }
            }
            Progress::SnapshotDurable(id) => {
                let info = self.store.snapshot().unwrap();
                assert_eq!(info.id, id);
                assert!(self.snapshots.contains(&info));
                self.snapshots = vec![info];
                if self.ending.take() == Some(true) {
                    self.log.reset(id);
                    self.kept = id.index.0;
                    self.versions = vec![Held::new()];
                } else {
                    self.log.compact(id.index);
                }
                self.begun = None;
            }
            Progress::SnapshotLost => {
                self.begun = None;
                self.ending = None;
            }
            Progress::ChunkRead { at, len, offset } => {
                let info = self.store.snapshot().unwrap();
                let whole = &self.contents[&(info.id.index.0, info.crc)];
                // A shorter one may have taken its place since it was asked for.
                assert!(len > 0 || offset >= info.bytes);
                let there = whole.get(offset as usize..).unwrap_or_default();
                assert_eq!(self.buf[at..at + len], there[..len]);
            }
            _ => {}
        }
    }

    fn check(&mut self, mounted: &Mounted) {
        let HardState { term, vote, commit } = mounted.hard_state;
        assert_eq!(mounted.identity, IDENTITY);
        assert!(self.hard_states.contains(&(term, vote)), "{term:?} {vote:?}");
        assert!(commit >= self.commit, "commit {commit} of {}", self.commit);
        assert!(self.notes.contains(&self.store.note()), "note {}", self.store.note());
        self.notes = vec![self.store.note()];
        assert!(self.snapshots.contains(&mounted.snapshot), "{:?}", mounted.snapshot);
        let (shown, last) = (held(&mut self.log), self.log.last().index);
        assert_eq!(self.log.base(), mounted.snapshot.id);
        assert_eq!(self.log.durable(), last);
        assert!(last.0 >= self.kept, "up to {last}, and {} was confirmed", self.kept);
        let is_of = |all: &Held| shown.iter().all(|(i, entry)| all.get(i) == Some(entry));
        assert!(self.versions.iter().any(is_of), "never written like this: {shown:?}");
        self.kept = last.0;
        self.versions = vec![shown];
        self.hard_states = vec![(term, vote)];
        self.commit = commit;
        self.snapshots = vec![mounted.snapshot];
        self.want.hard_state = mounted.hard_state;
    }

    pub(crate) fn happens(&mut self, event: Event) -> Result<(), Cut> {
        match event {
            Event::Vote => {
                let term = self.want.hard_state.term.next();
                let vote = NodeId::new(1 + self.random.below(3) as u8);
                (self.want.hard_state.term, self.want.hard_state.vote) = (term, vote);
                self.hard_states.push((term, vote));
            }
            Event::Note => {
                let note = self.random.draw() as u32;
                self.notes.push(note);
                self.store.set_note(note);
            }
            Event::Append => self.append(self.next % 90),
            Event::Batch => (0..3).for_each(|_| self.append(20)),
            Event::Conflict => self.conflict(),
            Event::BeginSnapshot => {
                let covered = self.store.snapshot().unwrap().id.index;
                let span = self.log.durable().since(covered) + 1;
                let index = Index(covered.0 + self.random.below(span));
                let term = self.log.term(index).unwrap();
                // What a snapshot covers is committed.
                self.commit_up_to(index);
                let len = 1 + self.random.below(300) as usize;
                let content = self.random.bytes(len);
                self.begin(EntryId::new(index, term), content);
            }
            Event::Piece => self.piece()?,
            Event::EndSnapshot => {
                while self.begun.is_some() && self.ending.is_none() && !self.is_put() {
                    self.piece()?;
                }
                self.end(false);
            }
            Event::Install => {
                self.settle()?;
                let index = self.log.last().index.plus(1 + self.random.below(5));
                let content = self.random.bytes(70);
                self.begin(EntryId::new(index, self.log.last().term.next()), content);
                while !self.is_put() {
                    self.piece()?;
                }
                self.end(true);
                self.settle()?;
                self.commit_up_to(index);
            }
            Event::Abort => {
                if self.ending.is_none() {
                    self.begun = None;
                    self.store.abort_snapshot();
                }
            }
            Event::ReadSnapshot => {
                let bytes = u64::from(self.store.snapshot().unwrap().bytes);
                let len_max = 1 + self.random.below(200) as usize;
                self.store.read_snapshot(self.random.below(bytes + 1) as u32, len_max);
            }
            Event::Boot => drop(self.boot()?),
        }
        self.short += u32::from(self.store.wants_snapshot());
        Ok(())
    }

    /// All pieces of a snapshot of so many bytes that covers nothing new; its end is still to be written.
    pub(crate) fn take_snapshot(&mut self, len: usize) -> Result<(), Cut> {
        let id = self.store.snapshot().unwrap().id;
        let content = self.random.bytes(len);
        self.begin(id, content);
        self.happens(Event::EndSnapshot)
    }

    fn commit_up_to(&mut self, index: Index) {
        self.want.hard_state.commit = self.want.hard_state.commit.max(index);
    }

    pub(crate) fn append(&mut self, len: u8) {
        self.next = self.next.wrapping_add(1);
        let term = self.log.last().term.max(self.want.hard_state.term).max(Term(1));
        let data = vec![self.next; usize::from(len)];
        if self.log.append(term, Kind::Command, &data).is_ok() {
            self.versions.push(held(&mut self.log));
        }
    }

    fn conflict(&mut self) {
        let firm = self.want.hard_state.commit.max(self.log.base().index);
        let loose = self.log.last().index.since(firm);
        if loose == 0 {
            return;
        }
        let after = Index(firm.0 + self.random.below(loose));
        let prev = EntryId::new(after, self.log.term(after).unwrap());
        self.next = self.next.wrapping_add(1);
        let mut other = Log::<[u8; 256]>::new();
        let other: &mut Log = &mut other;
        other.reset(prev);
        let term = self.log.last().term.next();
        other.append(term, Kind::Command, &[self.next; 8]).unwrap();
        let mut raw = [0; 64];
        let len = other.copy(after, after.next(), &mut raw).unwrap();
        self.log.append_entries(Entries::new(prev, &raw[..len]), firm);
        self.kept = self.kept.min(after.0);
        self.versions.push(held(&mut self.log));
    }

    fn begin(&mut self, id: EntryId, content: Vec<u8>) {
        if self.ending.is_some() {
            return;
        }
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&content);
        let info = SnapshotInfo { id, bytes: content.len() as u32, crc };
        self.snapshots.push(info);
        self.contents.insert((id.index.0, crc), content.clone());
        self.store.begin_snapshot(id);
        self.begun = Some((id, content));
    }

    /// How much of the snapshot has been put.
    fn is_put(&self) -> bool {
        self.begun.as_ref().is_none_or(|(_, content)| content.is_empty())
    }

    fn piece(&mut self) -> Result<(), Cut> {
        if self.is_put() || self.ending.is_some() {
            return Ok(());
        }
        let (_, content) = self.begun.as_mut().unwrap();
        let len = content.len().min(50);
        let rest = content.split_off(len);
        let piece = std::mem::replace(content, rest);
        let (id, crc) = {
            let info = self.snapshots.last().unwrap();
            (info.id.index.0, info.crc)
        };
        let whole = self.contents[&(id, crc)].len();
        let offset = whole - piece.len() - self.begun.as_ref().unwrap().1.len();
        // The buffer has to be free.
        self.settle()?;
        self.buf[SNAP_DATA_AT..SNAP_DATA_AT + piece.len()].copy_from_slice(&piece);
        assert!(self.store.put_chunk(offset as u32, piece.len()));
        match self.answer()? {
            Progress::ChunkWritten | Progress::SnapshotLost => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, installed: bool) {
        if self.begun.is_some() && self.ending.is_none() {
            self.ending = Some(installed);
            self.store.end_snapshot(installed);
        }
    }
}
