//! A board with nothing but a flash log on it, and a model of what it may have forgotten: nothing that was
//! acknowledged, and nothing that it has shown after a boot.

use crate::flash::{Cut, Flash};
use crate::random::Random;
use quorate::entry::{Entries, Kind};
use quorate::flash::Geometry;
use quorate::log::{Appended, Log};
use quorate::wal::{
    HardState, MountError, Mounted, Progress, SNAP_DATA_AT, SnapshotInfo, Tail, Wal, Want,
};
use quorate::{ClusterId, EntryId, Generation, Identity, Index, NodeId, Term};
use std::collections::BTreeMap;

/// Whose log it is.
pub const IDENTITY: Identity = Identity {
    cluster: ClusterId(*b"cafe"),
    node: NodeId::new(3).unwrap(),
    generation: Generation(7),
};

/// Entries by index: term, and the entry as it is encoded.
pub type Held = BTreeMap<u64, (u64, Vec<u8>)>;

/// A state of the log that flash may hold: at least `min`, and what follows it.
#[derive(Clone, Debug)]
pub struct Version {
    /// Entries up to here were acknowledged.
    pub min: u64,
    /// All that may be there.
    pub entries: Held,
}

/// The board.
pub struct Board {
    /// The log in flash.
    pub wal: Wal,
    /// The log in RAM.
    pub log: Box<Log>,
    /// The flash buffer.
    pub buf: Vec<u8>,
    /// The flash.
    pub flash: Flash,
    /// Bytes of entries and of a snapshot at most, if the log is told.
    pub live_bytes: Option<u32>,
    /// Between two chunks of a snapshot there is time for upkeep, now and then.
    pub pauses: bool,
    /// What the flash does where it may do this or that.
    pub random: Random,
    /// What the board wants of its log.
    pub want: Want,
    /// Nothing at or below may be truncated.
    pub committed: u64,
    /// The states of the log that flash may hold, the newest acknowledged one first.
    pub versions: Vec<Version>,
    /// The terms and votes that flash may hold, the newest acknowledged one first.
    pub hard_states: Vec<(u64, Option<NodeId>)>,
    /// The notes that flash may hold.
    pub notes: Vec<u32>,
    /// A snapshot of a leader's up to here is about to stand in place of the whole log.
    pub installing: Option<u64>,
    /// The snapshots that flash may hold, the newest acknowledged one first.
    pub snapshots: Vec<SnapshotInfo>,
    /// What each snapshot holds, by index and checksum.
    pub contents: BTreeMap<(u64, u32), Vec<u8>>,
    /// The founding is done.
    pub founded: bool,
    /// Was made durable on demand, or shown.
    pub commit: Index,
    /// Mounts that have told of a torn tail.
    pub torn_tails: u64,
}

/// Whatever the log has to write before a chunk, it does not take so many records.
const ANSWERS_MAX: u32 = 1_000;

fn entry_bytes(log: &mut Log, index: u64) -> (u64, Vec<u8>) {
    let mut out = vec![0; 4096];
    let (_, term, len) = log.read(Index(index), &mut out).unwrap();
    out.truncate(len);
    (term.0, out)
}

/// All entries of a log.
pub fn held(log: &mut Log) -> Held {
    (log.base().index.0 + 1..=log.last().index.0).map(|i| (i, entry_bytes(log, i))).collect()
}

/// Why something did not come to its end.
#[derive(Debug)]
pub enum Stop {
    /// The power went.
    Cut,
    /// The flash was refused.
    Refused(MountError),
}

impl From<Cut> for Stop {
    fn from(_: Cut) -> Self {
        Self::Cut
    }
}

impl Board {
    /// A board on this flash, with a flash buffer of so many bytes.
    pub fn new(flash: Flash, buffer: usize, seed: u64) -> Self {
        Self {
            wal: Wal::new(),
            log: Box::new(Log::<[u8; 4096]>::new()),
            buf: vec![0; buffer],
            flash,
            live_bytes: None,
            pauses: false,
            random: Random(seed),
            want: Want {
                hard_state: HardState::default(),
                commit_needed: Index::ZERO,
                idle: false,
                allow_erase: true,
            },
            committed: 0,
            versions: vec![Version { min: 0, entries: Held::new() }],
            hard_states: vec![(0, None)],
            notes: vec![0],
            installing: None,
            snapshots: vec![],
            contents: BTreeMap::new(),
            founded: false,
            commit: Index::ZERO,
            torn_tails: 0,
        }
    }

    /// Another one with the same flash and the same past, as it is without power: what was in RAM is gone.
    pub fn without_power(&self) -> Self {
        Self {
            want: self.want,
            committed: self.committed,
            versions: self.versions.clone(),
            hard_states: self.hard_states.clone(),
            notes: self.notes.clone(),
            installing: self.installing,
            snapshots: self.snapshots.clone(),
            contents: self.contents.clone(),
            founded: self.founded,
            commit: self.commit,
            torn_tails: self.torn_tails,
            ..Self::new(self.flash.clone(), self.buf.len(), self.random.0)
        }
    }

    /// How its flash is laid out.
    pub fn geometry(&self) -> Geometry {
        self.flash.geometry
    }

    /// One answer of the log that is not an operation.
    ///
    /// # Errors
    /// The power went.
    pub fn step(&mut self) -> Result<Progress, Stop> {
        for _ in 0..100_000 {
            match self.wal.poll(&self.want, &mut self.log, &mut self.buf) {
                Progress::Op(op) => {
                    let done = self.flash.run(op, &mut self.buf, &mut self.random)?;
                    self.wal.handle(done);
                }
                other => {
                    self.acknowledged(&other);
                    return Ok(other);
                }
            }
        }
        panic!("F2: an endless loop");
    }

    fn acknowledged(&mut self, progress: &Progress) {
        match *progress {
            Progress::Durable => {
                if self.wal.is_noted() {
                    self.notes = vec![self.wal.note()];
                }
                let durable = self.wal.durable();
                self.commit = self.commit.max(durable.commit);
                let state = (durable.term.0, durable.vote);
                let asked_for = self.hard_states.contains(&state);
                ensure!(asked_for, "I7", "{state:?} was never asked for");
                while self.hard_states[0] != state {
                    self.hard_states.remove(0);
                }
                let min = self.log.durable().0;
                let last = self.versions.last_mut().unwrap();
                if min > last.min || self.versions.len() > 1 {
                    // An older state can't come back once the newest one has begun to be written.
                    let held = held(&mut self.log);
                    let newest = self.versions.last_mut().unwrap();
                    if min >= newest.min {
                        newest.min = min;
                        newest.entries = held;
                        let keep = self.versions.len() - 1;
                        self.versions.drain(..keep);
                    }
                }
            }
            Progress::SnapshotDurable(id) => {
                let info = self.wal.snapshot().unwrap();
                ensure!(info.id == id, "I7", "{info:?} is not {id:?}");
                self.snapshots = vec![info];
            }
            _ => {}
        }
    }

    /// Polls until nothing is left to do.
    ///
    /// # Errors
    /// The power went.
    pub fn settle(&mut self) -> Result<(), Stop> {
        loop {
            match self.step()? {
                Progress::Idle => return Ok(()),
                Progress::Fault(fault) => panic!("F2: {fault}"),
                Progress::Refused(error) => return Err(Stop::Refused(error)),
                _ => {}
            }
        }
    }

    /// Founds the log, with a first snapshot.
    ///
    /// # Errors
    /// The power went, or the flash was refused.
    pub fn format(&mut self, erase_anyway: bool) -> Result<(), Stop> {
        self.wal.format(self.geometry(), self.buf.len(), IDENTITY, erase_anyway).unwrap();
        match self.step()? {
            Progress::Formatted => {}
            Progress::Refused(error) => return Err(Stop::Refused(error)),
            other => panic!("F2: {other:?}"),
        }
        self.log.reset(EntryId::ZERO);
        self.take_snapshot(EntryId::ZERO, b"founded", false)?;
        self.founded = true;
        Ok(())
    }

    /// Mounts and compares what is shown with what may have been forgotten.
    ///
    /// # Errors
    /// The power went, or the flash was refused.
    pub fn mount(&mut self) -> Result<Mounted, Stop> {
        self.wal.mount(self.geometry(), self.buf.len()).unwrap();
        let mounted = match self.step()? {
            Progress::Mounted(mounted) => mounted,
            Progress::Refused(error) => return Err(Stop::Refused(error)),
            Progress::Fault(fault) => return Err(Stop::Refused(MountError::Fault(fault))),
            other => panic!("F2: {other:?}"),
        };
        if let Some(live_bytes) = self.live_bytes {
            self.wal.reserve(live_bytes);
        }
        self.check(&mounted);
        Ok(mounted)
    }

    fn check(&mut self, mounted: &Mounted) {
        let hard = mounted.hard_state;
        ensure!(mounted.identity == IDENTITY, "I7", "{:?}", mounted.identity);
        ensure!(hard.commit >= self.commit, "I7", "{hard:?}, acknowledged {:?}", self.commit);
        self.commit = hard.commit;
        let shown = (hard.term.0, hard.vote);
        ensure!(self.hard_states.contains(&shown), "I7", "{shown:?} of {:?}", self.hard_states);
        let note = self.wal.note();
        ensure!(self.notes.contains(&note), "I7", "note {note} of {:?}", self.notes);
        let last = self.log.last().index.0;
        let log = held(&mut self.log);
        let snapshot = mounted.snapshot;
        ensure!(self.snapshots.contains(&snapshot), "I7", "{snapshot:?} of {:?}", self.snapshots);
        let (base, durable) = (self.log.base(), self.log.durable());
        ensure!(base == snapshot.id, "I7", "{base:?} is not the end of {snapshot:?}");
        ensure!(durable.0 == last, "I7", "{durable:?} of {last}");
        let fits = |version: &Version| {
            last >= version.min
                && log.iter().all(|(i, entry)| match version.entries.get(i) {
                    Some(other) => other == entry,
                    None => false,
                })
        };
        ensure!(
            self.versions.iter().any(fits)
                || (log.is_empty() && last >= self.versions[0].min)
                || (log.is_empty() && self.installing == Some(last)),
            "I7",
            "the log shown ({} to {last}) is none that was written: {:?}\n{:?}",
            snapshot.id.index.0 + 1,
            log,
            self.versions
        );
        self.installing = None;
        self.notes = vec![note];
        self.hard_states = vec![shown];
        self.want.hard_state = mounted.hard_state;
        self.want.commit_needed = Index::ZERO;
        self.snapshots = vec![snapshot];
        self.versions = vec![Version { min: last, entries: log }];
        self.committed = self.committed.max(snapshot.id.index.0);
        if matches!(mounted.tail, Tail::Torn { .. }) {
            self.torn_tails += 1;
        }
    }

    /// Has a note remembered.
    pub fn set_note(&mut self, note: u32) {
        self.wal.set_note(note);
        self.notes.push(note);
    }

    /// Wants another term and vote.
    pub fn set_hard_state(&mut self, term: u64, vote: Option<NodeId>) {
        self.want.hard_state.term = Term(term);
        self.want.hard_state.vote = vote;
        self.hard_states.push((term, vote));
    }

    /// Puts an entry into the log; `false` if it is full.
    pub fn append(&mut self, term: u64, data: &[u8]) -> bool {
        if self.log.append(Term(term), Kind::Command, data).is_err() {
            return false;
        }
        let held = held(&mut self.log);
        self.versions.last_mut().unwrap().entries.extend(held);
        true
    }

    /// Replaces everything behind `after` by one entry of a later term.
    pub fn overwrite(&mut self, after: u64, term: u64, data: &[u8]) {
        let prev = EntryId::new(Index(after), self.log.term(Index(after)).unwrap());
        let mut other = Log::<[u8; 4096]>::new();
        let other: &mut Log = &mut other;
        other.reset(prev);
        other.append(Term(term), Kind::Command, data).unwrap();
        let mut raw = vec![0; 4096];
        let len = other.copy(prev.index, prev.index.next(), &mut raw).unwrap();
        let appended =
            self.log.append_entries(Entries::new(prev, &raw[..len]), Index(self.committed));
        assert!(matches!(appended, Appended::UpTo(_)), "the lab itself: {appended:?}");
        let entries = held(&mut self.log);
        // The old state stays possible until the new one is acknowledged.
        self.versions.push(Version { min: after + 1, entries });
    }

    /// Takes or installs a snapshot; `false` if flash has given it up.
    ///
    /// # Errors
    /// The power went.
    pub fn take_snapshot(
        &mut self,
        id: EntryId,
        content: &[u8],
        installed: bool,
    ) -> Result<bool, Stop> {
        let mut chunks = vec![];
        let mut left = content.len();
        while left > 0 {
            let most = self.wal.chunk_bytes_max().min(left) as u64;
            let len = 1 + self.random.below(most) as usize;
            chunks.push(len);
            left -= len;
        }
        self.take_snapshot_in(&chunks, id, content, installed)
    }

    /// Takes or installs a snapshot in chunks of these lengths; `false` if flash has given it up.
    ///
    /// # Errors
    /// The power went.
    pub fn take_snapshot_in(
        &mut self,
        chunks: &[usize],
        id: EntryId,
        content: &[u8],
        installed: bool,
    ) -> Result<bool, Stop> {
        if !installed {
            self.committed = self.committed.max(id.index.0);
        }
        self.settle()?;
        self.wal.begin_snapshot(id);
        let mut at = 0;
        for len in chunks {
            if !self.put_chunk(at, &content[at..at + len])? {
                return Ok(false);
            }
            at += len;
            if self.pauses && self.random.one_in(4) {
                let idle = std::mem::replace(&mut self.want.idle, true);
                let goes_on = self.settle_in_snapshot()?;
                self.want.idle = idle;
                if !goes_on {
                    return Ok(false);
                }
            }
        }
        self.end_snapshot(id, content, installed)
    }

    /// Upkeep between two chunks; `false` if flash has given the snapshot up.
    fn settle_in_snapshot(&mut self) -> Result<bool, Stop> {
        loop {
            match self.step()? {
                Progress::Idle => return Ok(true),
                Progress::SnapshotLost => return Ok(false),
                Progress::Durable => {}
                other => panic!("F2: {other:?}"),
            }
        }
    }

    /// Writes a part of the snapshot that was begun; `false` if flash has given that up.
    ///
    /// # Errors
    /// The power went.
    pub fn put_chunk(&mut self, at: usize, chunk: &[u8]) -> Result<bool, Stop> {
        self.buf[SNAP_DATA_AT..SNAP_DATA_AT + chunk.len()].copy_from_slice(chunk);
        ensure!(self.wal.put_chunk(at as u32, chunk.len()), "F2", "no chunk is taken");
        for _ in 0..ANSWERS_MAX {
            match self.step()? {
                Progress::ChunkWritten => return Ok(true),
                Progress::SnapshotLost => return Ok(false),
                Progress::Durable => {}
                other => panic!("F2: {other:?}"),
            }
        }
        panic!("F2: the chunk's turn never comes");
    }

    /// Ends the snapshot that was begun, all of which is written; `false` if flash has given it up.
    ///
    /// # Errors
    /// The power went.
    pub fn end_snapshot(
        &mut self,
        id: EntryId,
        content: &[u8],
        installed: bool,
    ) -> Result<bool, Stop> {
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(content);
        let info = SnapshotInfo { id, bytes: content.len() as u32, crc };
        ensure!(self.wal.begun_crc() == crc, "I7", "another snapshot was written");
        self.contents.insert((id.index.0, crc), content.to_vec());
        self.snapshots.push(info);
        self.installing = installed.then_some(id.index.0);
        // What has given way in RAM, and is not replaced in flash yet, need not outlive the checkpoint.
        let durable = self.log.durable().0;
        let older = self.versions.len() - usize::from(!installed);
        for version in &mut self.versions[..older] {
            version.min = version.min.min(durable);
        }
        self.wal.end_snapshot(installed);
        loop {
            match self.step()? {
                Progress::SnapshotDurable(done) => {
                    ensure!(done == id, "I7", "{done:?} is not {id:?}");
                    break;
                }
                Progress::SnapshotLost => {
                    // A checkpoint that was told to fail may stand.
                    if self.flash.lies.told == 0 {
                        self.snapshots.pop();
                        self.installing = None;
                    }
                    return Ok(false);
                }
                Progress::Durable => {}
                other => panic!("F2: {other:?}"),
            }
        }
        self.installing = None;
        if installed {
            self.log.reset(id);
            self.committed = self.committed.max(id.index.0);
            self.versions = vec![Version { min: id.index.0, entries: Held::new() }];
        } else {
            self.log.compact(id.index);
        }
        Ok(true)
    }

    /// Begins a snapshot, writes one chunk of it, and gives it up.
    ///
    /// # Errors
    /// The power went.
    pub fn abandon_snapshot(&mut self, len: usize) -> Result<(), Stop> {
        self.want.allow_erase = true;
        self.settle()?;
        self.wal.begin_snapshot(EntryId::new(self.log.durable(), Term(1)));
        let len = len.min(self.wal.chunk_bytes_max());
        self.buf[SNAP_DATA_AT..SNAP_DATA_AT + len].fill(0xab);
        ensure!(self.wal.put_chunk(0, len), "F2", "no chunk is taken");
        loop {
            match self.step()? {
                Progress::ChunkWritten | Progress::SnapshotLost => break,
                Progress::Durable => {}
                other => panic!("F2: {other:?}"),
            }
        }
        self.wal.abort_snapshot();
        Ok(())
    }

    /// Reads the newest snapshot and compares it.
    ///
    /// # Errors
    /// The power went.
    pub fn read_snapshot(&mut self) -> Result<Vec<u8>, Stop> {
        let info = self.wal.snapshot().unwrap();
        let mut content = vec![];
        while content.len() < info.bytes as usize {
            self.wal.read_snapshot(content.len() as u32, usize::MAX);
            match self.step()? {
                Progress::ChunkRead { at, len, offset } => {
                    let follows = offset as usize == content.len() && len > 0;
                    ensure!(follows, "I7", "{len} bytes of the snapshot at {offset}");
                    content.extend_from_slice(&self.buf[at..at + len]);
                }
                Progress::Durable => {}
                other => panic!("F2: {other:?}"),
            }
        }
        let written = &self.contents[&(info.id.index.0, info.crc)];
        ensure!(&content == written, "I7", "the snapshot reads otherwise");
        Ok(content)
    }
}
