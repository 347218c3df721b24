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

pub(crate) const IDENTITY: Identity = Identity {
    cluster: ClusterId(*b"cafe"),
    node: NodeId::new(3).unwrap(),
    generation: Generation(7),
};

pub(crate) type Held = BTreeMap<u64, (u64, Vec<u8>)>;

/// A state of the log that flash may hold: at least `min`, and what follows it.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) min: u64,
    pub(crate) entries: Held,
}

pub(crate) struct Board {
    pub(crate) wal: Wal,
    pub(crate) log: Box<Log>,
    pub(crate) buf: Vec<u8>,
    pub(crate) flash: Flash,
    pub(crate) random: Random,
    pub(crate) want: Want,
    /// Nothing at or below may be truncated.
    pub(crate) committed: u64,
    pub(crate) versions: Vec<Version>,
    pub(crate) hard_states: Vec<(u64, Option<NodeId>)>,
    /// The snapshots that flash may hold, the newest acknowledged one first.
    pub(crate) snapshots: Vec<SnapshotInfo>,
    pub(crate) contents: BTreeMap<(u64, u32), Vec<u8>>,
    pub(crate) founded: bool,
    /// Was made durable on demand, or shown.
    pub(crate) commit: Index,
    pub(crate) torn_tails: u64,
}

pub(crate) fn entry_bytes(log: &mut Log, index: u64) -> (u64, Vec<u8>) {
    let mut out = vec![0; 4096];
    let (_, term, len) = log.read(Index(index), &mut out).unwrap();
    out.truncate(len);
    (term.0, out)
}

pub(crate) fn held(log: &mut Log) -> Held {
    (log.base().index.0 + 1..=log.last().index.0).map(|i| (i, entry_bytes(log, i))).collect()
}

#[derive(Debug)]
pub(crate) enum Stop {
    Cut,
    Refused(MountError),
}

impl From<Cut> for Stop {
    fn from(_: Cut) -> Self {
        Self::Cut
    }
}

impl Board {
    pub(crate) fn new(flash: Flash, buffer: usize, seed: u64) -> Self {
        Self {
            wal: Wal::new(),
            log: Box::new(Log::<[u8; 4096]>::new()),
            buf: vec![0; buffer],
            flash,
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
            snapshots: vec![],
            contents: BTreeMap::new(),
            founded: false,
            commit: Index::ZERO,
            torn_tails: 0,
        }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.flash.geometry
    }

    /// One answer of the log that is not an operation.
    pub(crate) fn step(&mut self) -> Result<Progress, Stop> {
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
        panic!("an endless loop");
    }

    fn acknowledged(&mut self, progress: &Progress) {
        match *progress {
            Progress::Durable => {
                let durable = self.wal.durable();
                self.commit = self.commit.max(durable.commit);
                let state = (durable.term.0, durable.vote);
                if self.hard_states.contains(&state) {
                    while self.hard_states[0] != state {
                        self.hard_states.remove(0);
                    }
                } else {
                    panic!("{state:?} was never asked for");
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
                assert_eq!(info.id, id);
                self.snapshots = vec![info];
            }
            _ => {}
        }
    }

    /// Polls until nothing is left to do.
    pub(crate) fn settle(&mut self) -> Result<(), Stop> {
        loop {
            match self.step()? {
                Progress::Idle => return Ok(()),
                Progress::Fault(fault) => panic!("{fault}"),
                Progress::Refused(error) => return Err(Stop::Refused(error)),
                _ => {}
            }
        }
    }

    pub(crate) fn format(&mut self, erase_anyway: bool) -> Result<(), Stop> {
        self.wal.format(self.geometry(), self.buf.len(), IDENTITY, erase_anyway).unwrap();
        match self.step()? {
            Progress::Formatted => {}
            Progress::Refused(error) => return Err(Stop::Refused(error)),
            other => panic!("{other:?}"),
        }
        self.log.reset(EntryId::ZERO);
        self.take_snapshot(EntryId::ZERO, b"founded", false)?;
        self.founded = true;
        Ok(())
    }

    /// Mounts and compares what is shown with what may have been forgotten.
    pub(crate) fn mount(&mut self) -> Result<Mounted, Stop> {
        self.wal.mount(self.geometry(), self.buf.len()).unwrap();
        let mounted = match self.step()? {
            Progress::Mounted(mounted) => mounted,
            Progress::Refused(error) => return Err(Stop::Refused(error)),
            other => panic!("{other:?}"),
        };
        self.check(&mounted);
        Ok(mounted)
    }

    fn check(&mut self, mounted: &Mounted) {
        assert_eq!(mounted.identity, IDENTITY);
        assert!(mounted.hard_state.commit >= self.commit, "{:?}", mounted.hard_state);
        self.commit = mounted.hard_state.commit;
        let shown = (mounted.hard_state.term.0, mounted.hard_state.vote);
        assert!(self.hard_states.contains(&shown), "{shown:?} not in {:?}", self.hard_states);
        let last = self.log.last().index.0;
        let log = held(&mut self.log);
        let snapshot = mounted.snapshot;
        assert!(self.snapshots.contains(&snapshot), "{snapshot:?} {:?}", self.snapshots);
        assert_eq!(self.log.base(), snapshot.id);
        assert_eq!(self.log.durable(), self.log.last().index);
        let fits = |version: &Version| {
            last >= version.min
                && log.iter().all(|(i, entry)| match version.entries.get(i) {
                    Some(other) => other == entry,
                    None => false,
                })
        };
        assert!(
            self.versions.iter().any(fits) || (log.is_empty() && last >= self.versions[0].min),
            "the log shown ({} to {last}) is none that was written: {:?}\n{:?}",
            snapshot.id.index.0 + 1,
            log,
            self.versions
        );
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

    pub(crate) fn set_hard_state(&mut self, term: u64, vote: Option<NodeId>) {
        self.want.hard_state.term = Term(term);
        self.want.hard_state.vote = vote;
        self.hard_states.push((term, vote));
    }

    pub(crate) fn append(&mut self, term: u64, data: &[u8]) -> bool {
        if self.log.append(Term(term), Kind::Command, data).is_err() {
            return false;
        }
        let held = held(&mut self.log);
        self.versions.last_mut().unwrap().entries.extend(held);
        true
    }

    /// Replaces everything behind `after` by one entry of a later term.
    pub(crate) fn overwrite(&mut self, after: u64, term: u64, data: &[u8]) {
        let prev = EntryId::new(Index(after), self.log.term(Index(after)).unwrap());
        let mut other = Log::<[u8; 4096]>::new();
        let other: &mut Log = &mut other;
        other.reset(prev);
        other.append(Term(term), Kind::Command, data).unwrap();
        let mut raw = vec![0; 4096];
        let len = other.copy(prev.index, prev.index.next(), &mut raw).unwrap();
        let appended =
            self.log.append_entries(Entries::new(prev, &raw[..len]), Index(self.committed));
        assert!(matches!(appended, Appended::UpTo(_)), "{appended:?}");
        let entries = held(&mut self.log);
        // The old state stays possible until the new one is acknowledged.
        self.versions.push(Version { min: after + 1, entries });
    }

    /// Takes or installs a snapshot; `false` if flash has given it up.
    pub(crate) fn take_snapshot(
        &mut self,
        id: EntryId,
        content: &[u8],
        installed: bool,
    ) -> Result<bool, Stop> {
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(content);
        let info = SnapshotInfo { id, bytes: content.len() as u32, crc };
        self.contents.insert((id.index.0, crc), content.to_vec());
        if !installed {
            self.committed = self.committed.max(id.index.0);
        }
        self.settle()?;
        self.wal.begin_snapshot(id);
        let mut at = 0;
        while at < content.len() {
            let most = self.wal.chunk_bytes_max().min(content.len() - at) as u64;
            let len = 1 + self.random.below(most) as usize;
            self.buf[SNAP_DATA_AT..SNAP_DATA_AT + len].copy_from_slice(&content[at..at + len]);
            assert!(self.wal.put_chunk(at as u32, len));
            loop {
                match self.step()? {
                    Progress::ChunkWritten => break,
                    Progress::SnapshotLost => return Ok(false),
                    Progress::Durable => {}
                    other => panic!("{other:?}"),
                }
            }
            at += len;
        }
        assert_eq!(self.wal.begun_crc(), crc);
        self.snapshots.push(info);
        if installed {
            self.versions.push(Version { min: id.index.0, entries: Held::new() });
        }
        // What has given way in RAM, and is not replaced in flash yet, need not outlive the checkpoint.
        let durable = self.log.durable().0;
        let older = self.versions.len() - 1;
        for version in &mut self.versions[..older] {
            version.min = version.min.min(durable);
        }
        self.wal.end_snapshot(installed);
        loop {
            match self.step()? {
                Progress::SnapshotDurable(done) => {
                    assert_eq!(done, id);
                    break;
                }
                Progress::SnapshotLost => {
                    self.snapshots.pop();
                    if installed {
                        self.versions.pop();
                    }
                    return Ok(false);
                }
                Progress::Durable => {}
                other => panic!("{other:?}"),
            }
        }
        if installed {
            self.log.reset(id);
            self.committed = self.committed.max(id.index.0);
            self.versions = vec![Version { min: id.index.0, entries: Held::new() }];
        } else {
            self.log.compact(id.index);
        }
        Ok(true)
    }

    pub(crate) fn read_snapshot(&mut self) -> Result<Vec<u8>, Stop> {
        let info = self.wal.snapshot().unwrap();
        let mut content = vec![];
        while content.len() < info.bytes as usize {
            self.wal.read_snapshot(content.len() as u32, usize::MAX);
            match self.step()? {
                Progress::ChunkRead { at, len, offset } => {
                    assert_eq!(offset as usize, content.len());
                    assert!(len > 0);
                    content.extend_from_slice(&self.buf[at..at + len]);
                }
                Progress::Durable => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(&content, &self.contents[&(info.id.index.0, info.crc)]);
        Ok(content)
    }
}
