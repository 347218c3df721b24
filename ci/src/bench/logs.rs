//! The logs that are compared: each appends entries in groups, keeps the newest ones, and finds them again.

use std::ops::ControlFlow;

use ekv::Database;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use futures::executor::block_on;
use quorate::entry::{Entries, Kind};
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::log::Log;
use quorate::wal::inspect::{ENTRIES, Records};
use quorate::wal::{HardState, Progress, SNAP_DATA_AT, Wal, Want};
use quorate::{ClusterId, EntryId, Generation, Identity, Index, NodeId, Term};
use sequential_storage::cache::{Cache, Uncached};
use sequential_storage::queue::{QueueConfig, QueueStorage};

use super::mock::{BLOCK, BLOCKS, Counts, Mock};

/// How far behind the newest entry one is looked for.
const BEHIND: u64 = 100;

/// Bytes of the snapshot by which the flash log gives segments free.
const SNAPSHOT_BYTES: usize = 64;
/// Bytes of the log in RAM, as large as the flash: what limits the log here is flash. And of the flash buffer.
const LOG_BYTES: usize = BLOCK * BLOCKS;
const BUFFER_BYTES: usize = 2048 + 256;
/// What has to be written behind one another at a snapshot: it, and what is on its way.
const LIVE_BYTES: u32 = (SNAPSHOT_BYTES + BUFFER_BYTES) as u32;

/// A log of entries on a flash that counts.
pub(super) trait Contestant {
    /// Appends entries, durable together if the log can do that.
    fn append(&mut self, entries: &[Vec<u8>]);
    /// What was done to the flash so far.
    fn counts(&mut self) -> Counts;
    /// Bytes read by a fresh start, up to the first entry that could be appended or read.
    fn mount(&mut self) -> u64;
    /// Bytes read to get at an entry from the middle of what is there.
    fn read_one(&mut self) -> u64;
}

/// The flash log of this library.
pub(super) struct Ours<const W: usize> {
    flash: Mock<W>,
    wal: Wal,
    log: Box<Log>,
    buffer: Vec<u8>,
}

impl<const W: usize> Ours<W> {
    pub(super) fn new() -> Self {
        let mut ours = Self {
            flash: Mock::new(),
            wal: Wal::new(),
            log: Box::new(Log::<[u8; LOG_BYTES]>::new()),
            buffer: vec![0; BUFFER_BYTES],
        };
        let identity = Identity {
            cluster: ClusterId(*b"bnch"),
            node: NodeId::new(1).expect("a node id"),
            generation: Generation(1),
        };
        let begun = ours.wal.format(Self::geometry(), BUFFER_BYTES, identity, false);
        begun.expect("a geometry that works");
        ours.until(|progress| *progress == Progress::Formatted);
        ours.wal.reserve(LIVE_BYTES);
        ours.snapshot(EntryId::ZERO);
        ours
    }

    const fn geometry() -> Geometry {
        Geometry {
            word_bytes: W as u8,
            erased: 0xff,
            page_bytes: if W == 1 { 256 } else { W as u16 },
            block_bytes: BLOCK as u32,
            blocks_per_segment: 1,
            segments: BLOCKS as u8,
        }
    }

    /// Polls, and carries out what is asked for, until `done`.
    fn until(&mut self, mut done: impl FnMut(&Progress) -> bool) -> Progress {
        let want = Want {
            hard_state: HardState { term: Term(1), vote: NodeId::new(1), commit: Index::ZERO },
            commit_needed: Index::ZERO,
            idle: false,
            allow_erase: true,
        };
        loop {
            let progress = self.wal.poll(&want, &mut self.log, &mut self.buffer);
            if done(&progress) {
                return progress;
            }
            match progress {
                Progress::Op(op) => {
                    match op {
                        FlashOp::Read { offset, len } => {
                            self.flash.get(offset as usize, &mut self.buffer[..len as usize]);
                        }
                        FlashOp::Write { offset, len } => {
                            self.flash.program(offset as usize, &self.buffer[..len as usize]);
                        }
                        FlashOp::Erase { offset, len } => {
                            assert_eq!(len as usize, BLOCK);
                            self.flash.erase_block(offset as usize);
                        }
                    }
                    self.wal.handle(FlashDone::Ok);
                }
                Progress::Durable | Progress::SnapshotLost => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn snapshot(&mut self, id: EntryId) {
        self.wal.begin_snapshot(id);
        self.buffer[SNAP_DATA_AT..][..SNAPSHOT_BYTES].fill(7);
        assert!(self.wal.put_chunk(0, SNAPSHOT_BYTES));
        self.until(|progress| *progress == Progress::ChunkWritten);
        self.wal.end_snapshot(false);
        self.until(|progress| *progress == Progress::SnapshotDurable(id));
        self.log.compact(id.index);
    }
}

impl<const W: usize> Contestant for Ours<W> {
    fn append(&mut self, entries: &[Vec<u8>]) {
        // A state machine that has applied everything: the snapshot covers what was written.
        if self.wal.wants_snapshot() {
            self.snapshot(self.log.last());
        }
        for entry in entries {
            self.log.append(Term(1), Kind::Command, entry).expect("room in the log");
        }
        let last = self.log.last().index;
        while self.log.durable() < last {
            self.until(|progress| *progress == Progress::Durable);
        }
    }

    fn counts(&mut self) -> Counts {
        self.flash.counts
    }

    fn mount(&mut self) -> u64 {
        self.snapshot(self.log.last());
        let before = self.flash.counts.bytes_read;
        self.wal.mount(Self::geometry(), BUFFER_BYTES).expect("a geometry that works");
        self.until(|progress| matches!(progress, Progress::Mounted(_)));
        self.wal.reserve(LIVE_BYTES);
        self.flash.counts.bytes_read - before
    }

    fn read_one(&mut self) -> u64 {
        // The first record of each segment says which entry was written before it; then that segment is followed.
        let headers = 64 * BLOCKS as u64;
        let middle = self.log.last().index.0.saturating_sub(BEHIND);
        let segments = self.flash.bytes().chunks(BLOCK);
        let found = segments.filter_map(|segment| {
            let mut records = Records::new(&Self::geometry(), segment);
            let open = records.next()?;
            (open.says.written.index.0 < middle).then_some((open.says.written.index.0, segment))
        });
        let Some((mut at, segment)) = found.max_by_key(|(index, _)| *index) else {
            panic!("no segment holds entry {middle}");
        };
        let end = Records::new(&Self::geometry(), segment).try_for_each(|record| {
            if record.tag & ENTRIES != 0 {
                at += Entries::new(EntryId::new(Index(at), Term(1)), record.data).count() as u64;
            }
            if at >= middle {
                ControlFlow::Break(record.offset + record.bytes)
            } else {
                ControlFlow::Continue(())
            }
        });
        let ControlFlow::Break(end) = end else {
            panic!("entry {middle} is not where it should be");
        };
        headers + u64::from(end)
    }
}

/// The queue of sequential-storage, which gives the oldest page away. An entry has to bring its index and term along.
pub(super) struct Queue<const W: usize> {
    /// Always there, but while it is opened anew.
    queue: Option<Opened<W>>,
    buffer: Vec<u8>,
    last: u64,
}

type Opened<const W: usize> = QueueStorage<Mock<W>, Cache<Uncached, Uncached, Uncached>>;

impl<const W: usize> Queue<W> {
    pub(super) fn new() -> Self {
        Self { queue: Some(Self::open(Mock::new())), buffer: vec![0; BLOCK], last: 0 }
    }

    fn open(flash: Mock<W>) -> Opened<W> {
        let range = 0..(BLOCK * BLOCKS) as u32;
        QueueStorage::new(flash, QueueConfig::new(range), Cache::new_uncached())
    }

    fn queue(&mut self) -> &mut Opened<W> {
        self.queue.as_mut().expect("a queue")
    }

    /// Bytes read while going through the entries, from the oldest on, to this one.
    fn read_to(&mut self, index: u64) -> u64 {
        let before = self.counts().bytes_read;
        let mut buffer = std::mem::take(&mut self.buffer);
        block_on(async {
            let mut entries = self.queue().iter().await.expect("a sound queue");
            while let Some(entry) = entries.next(&mut buffer).await.expect("a sound queue") {
                let (at, _) = entry.split_first_chunk().expect("an index");
                if u64::from(u32::from_le_bytes(*at)) == index {
                    break;
                }
            }
        });
        self.buffer = buffer;
        self.counts().bytes_read - before
    }
}

impl<const W: usize> Contestant for Queue<W> {
    fn append(&mut self, entries: &[Vec<u8>]) {
        for entry in entries {
            self.last += 1;
            let (index, term) = ((self.last as u32).to_le_bytes(), 1u32.to_le_bytes());
            let item = [&index, &term, &entry[..]].concat();
            block_on(self.queue().push(&item, true)).expect("room in the queue");
        }
    }

    fn counts(&mut self) -> Counts {
        self.queue().flash().counts
    }

    fn mount(&mut self) -> u64 {
        let (flash, _) = self.queue.take().expect("a queue").destroy();
        self.queue = Some(Self::open(flash));
        let before = self.counts().bytes_read;
        block_on(self.queue.as_mut().expect("a queue").space_left()).expect("a sound queue");
        self.counts().bytes_read - before
    }

    fn read_one(&mut self) -> u64 {
        self.read_to(self.last.saturating_sub(BEHIND))
    }
}

/// The key-value store ekv, with the index as the key; entries that are too old are deleted with each group.
pub(super) struct Store {
    store: Database<Mock<4>, NoopRawMutex>,
    first: u64,
    last: u64,
    keep: u64,
}

impl Store {
    /// Keeps so many entries.
    pub(super) fn new(keep: u64) -> Self {
        let store = Database::new(Mock::new(), ekv::Config::default());
        block_on(store.format()).expect("a fresh flash");
        Self { store, first: 1, last: 0, keep }
    }
}

impl Contestant for Store {
    fn append(&mut self, entries: &[Vec<u8>]) {
        block_on(async {
            let mut group = self.store.write_transaction().await;
            // Keys in order, the oldest first.
            while self.last + entries.len() as u64 - self.first >= self.keep {
                group.delete(&self.first.to_be_bytes()).await.expect("room in the store");
                self.first += 1;
            }
            for entry in entries {
                self.last += 1;
                group.write(&self.last.to_be_bytes(), entry).await.expect("room in the store");
            }
            group.commit().await.expect("room in the store");
        });
    }

    fn counts(&mut self) -> Counts {
        block_on(self.store.lock_flash()).counts
    }

    fn mount(&mut self) -> u64 {
        let flash = std::mem::replace(&mut *block_on(self.store.lock_flash()), Mock::new());
        let before = flash.counts.bytes_read;
        self.store = Database::new(flash, ekv::Config::default());
        block_on(self.store.mount()).expect("a sound store");
        self.counts().bytes_read - before
    }

    fn read_one(&mut self) -> u64 {
        let before = self.counts().bytes_read;
        let key = (self.last - self.keep / 2).to_be_bytes();
        block_on(async {
            let store = self.store.read_transaction().await;
            store.read(&key, &mut [0; BLOCK]).await.expect("the entry")
        });
        self.counts().bytes_read - before
    }
}
