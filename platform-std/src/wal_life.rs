//! How long a ring of flash lasts: the flash log itself is run on flash that counts, so that headers, padding, seals,
//! and the snapshots that free segments are all in the figure.

use quorate::entry::Kind;
use quorate::flash::Geometry;
use quorate::log::Log;
use quorate::wal::{
    BUFFER_BYTES_MAX, GeometryError, HardState, Progress, SNAP_DATA_AT, Wal, WalFault, Want,
};
use quorate::{ClusterId, EntryId, Generation, Identity, Index, NodeId, Term};

use crate::image::{LOG_BYTES, perform};

/// A year in days.
const DAYS: f64 = 365.25;
/// A board is idle when so much time has passed since the last entry: an election timeout.
const IDLE_SECONDS: f64 = 1.0;
/// What a record keeps free for its head.
const RECORD_HEAD_BYTES: usize = 128;
/// A snapshot comes in pieces of one frame.
const PIECE_BYTES: usize = 200;
/// So many erases are counted: two turns of the longest ring.
const ERASES: u64 = 64;
/// A longer ring is not looked at, bytes.
const RING_BYTES_MAX: u32 = 16 << 20;
/// A measurement ends here, however long the ring.
const GROUPS_MAX: u64 = 4_000_000;

/// What a board writes.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes of an entry's command.
    pub entry_bytes: usize,
    /// Entries that come together, and are one record.
    pub batch: usize,
    /// Entries in a day.
    pub entries_per_day: f64,
    /// Bytes of the log in RAM: a snapshot is taken when half of it is full.
    pub log_bytes: usize,
    /// Bytes of a snapshot.
    pub snapshot_bytes: usize,
}

/// What it costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Life {
    /// How the ring is laid out.
    pub geometry: Geometry,
    /// Segments erased for each entry.
    pub erases_per_entry: f64,
    /// Bytes programmed for each byte of the commands.
    pub bytes_per_byte: f64,
    /// Entries from one snapshot to the next.
    pub entries_per_snapshot: f64,
    /// Segments erased in a day.
    pub erases_per_day: f64,
    /// Years until each segment has been erased as often as the part stands.
    pub years: f64,
}

/// Why there is no figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LifeError {
    /// The ring can't hold it.
    #[error("{0}")]
    Geometry(#[from] GeometryError),
    /// The log in RAM can't hold a batch.
    #[error(
        "half of a log of {log_bytes} bytes must hold a batch of {batch_bytes} bytes, and the log has less than {LOG_BYTES}"
    )]
    Log {
        /// Bytes of the log.
        log_bytes: usize,
        /// Bytes of a batch.
        batch_bytes: usize,
    },
    /// The flash log stops.
    #[error("{0}; a longer ring would do")]
    Stopped(WalFault),
    /// No ring would do.
    #[error("no ring lasts that long: the largest, of {bytes} bytes, lasts {years:.1} years", years = f64::from(*.tenths) / 10.0)]
    TooLong {
        /// Bytes of the largest ring.
        bytes: u32,
        /// Tenths of years.
        tenths: u32,
    },
}

/// Runs the flash log under this load on a ring like this, whose blocks can be erased so often.
///
/// # Errors
/// The ring or the log in RAM is too small.
pub fn measure(geometry: Geometry, load: &Load, cycles: u32) -> Result<Life, LifeError> {
    let batch_bytes = load.batch.saturating_mul(load.entry_bytes.saturating_add(4));
    let fits = batch_bytes <= load.log_bytes / 2 && load.log_bytes < LOG_BYTES;
    if !fits {
        return Err(LifeError::Log { log_bytes: load.log_bytes, batch_bytes });
    }
    let mut board = Board::found(geometry, load)?;
    // Once around, so that every segment has been used; then it counts.
    board.run(u64::from(geometry.segments))?;
    let (groups, erases, bytes, snapshots) =
        (board.groups, board.erases, board.bytes_programmed, board.snapshots);
    board.run(erases + ERASES)?;
    let entries = ((board.groups - groups) * load.batch as u64).max(1) as f64;
    let bytes = board.bytes_programmed - bytes;
    let erased = match board.erases - erases {
        // A ring so long that it was not come around: each segment is erased once for what it holds.
        0 => bytes as f64 / f64::from(geometry.segment_bytes()),
        erased => erased as f64,
    };
    let erases_per_entry = erased / entries;
    let erases_per_day = erases_per_entry * load.entries_per_day;
    let commands = entries * load.entry_bytes as f64;
    Ok(Life {
        geometry,
        erases_per_entry,
        bytes_per_byte: bytes as f64 / commands,
        entries_per_snapshot: entries / (board.snapshots - snapshots).max(1) as f64,
        erases_per_day,
        years: f64::from(cycles) * f64::from(geometry.segments) / (erases_per_day * DAYS),
    })
}

/// The smallest ring that lasts so many years, with segments like these, or longer ones if 32 of them are too few.
///
/// # Errors
/// No ring lasts that long, or the log in RAM is too small.
pub fn smallest(
    geometry: Geometry,
    load: &Load,
    cycles: u32,
    years: f64,
) -> Result<Life, LifeError> {
    let mut geometry = Geometry { segments: 32, ..geometry };
    let lasts = |geometry| match measure(geometry, load, cycles) {
        Ok(life) if life.years >= years => Ok(Ok(life)),
        Ok(life) => Ok(Err(LifeError::TooLong {
            bytes: geometry.bytes(),
            tenths: (life.years * 10.0) as u32,
        })),
        Err(error @ LifeError::Log { .. }) => Err(error),
        Err(error) => Ok(Err(error)),
    };
    let mut best = loop {
        match lasts(geometry)? {
            Ok(life) => break life,
            Err(error) => {
                let Some(longer) = geometry.blocks_per_segment.checked_mul(2) else {
                    return Err(error);
                };
                let next = Geometry { blocks_per_segment: longer, ..geometry };
                if next.bytes() > RING_BYTES_MAX {
                    return Err(error);
                }
                geometry = next;
            }
        }
    };
    let (mut short, mut enough) = (2u8, 32);
    while enough - short > 1 {
        let middle = short.midpoint(enough);
        match lasts(Geometry { segments: middle, ..geometry })? {
            Ok(life) => (best, enough) = (life, middle),
            Err(_) => short = middle,
        }
    }
    Ok(best)
}

/// A flash log with nothing else, on flash that counts.
struct Board {
    wal: Wal,
    log: Box<Log>,
    buffer: Vec<u8>,
    flash: Vec<u8>,
    erased: u8,
    want: Want,
    load: Load,
    groups: u64,
    erases: u64,
    bytes_programmed: u64,
    snapshots: u64,
}

impl Board {
    fn found(geometry: Geometry, load: &Load) -> Result<Self, LifeError> {
        let record = load.batch * (load.entry_bytes + 4) + RECORD_HEAD_BYTES;
        let buffer_bytes = record.max(512).next_multiple_of(32).min(BUFFER_BYTES_MAX);
        let live_bytes = load.log_bytes + load.snapshot_bytes;
        Wal::check(&geometry, buffer_bytes, u32::try_from(live_bytes).unwrap_or(u32::MAX))?;
        let mut board = Self {
            wal: Wal::new(),
            log: Box::new(Log::<[u8; LOG_BYTES]>::new()),
            buffer: vec![0; buffer_bytes],
            flash: vec![geometry.erased; geometry.bytes() as usize],
            erased: geometry.erased,
            want: Want {
                hard_state: HardState { term: Term(1), ..HardState::default() },
                commit_needed: Index::ZERO,
                idle: false,
                allow_erase: true,
            },
            load: *load,
            groups: 0,
            erases: 0,
            bytes_programmed: 0,
            snapshots: 0,
        };
        let cluster = ClusterId([1; 4]);
        let node = NodeId::new(1).ok_or(GeometryError::Word)?;
        let identity = Identity { cluster, node, generation: Generation(1) };
        board.wal.format(geometry, buffer_bytes, identity, false)?;
        board.settle()?;
        board.wal.reserve(u32::try_from(live_bytes).unwrap_or(u32::MAX));
        board.snapshot()?;
        Ok(board)
    }

    /// Works until that many segments have been erased.
    fn run(&mut self, erases: u64) -> Result<(), LifeError> {
        let groups_max = self.groups + GROUPS_MAX;
        let groups_per_day = self.load.entries_per_day / self.load.batch as f64;
        let is_sparse = groups_per_day * IDLE_SECONDS <= 86_400.0;
        let command = vec![0x5a; self.load.entry_bytes];
        while self.erases < erases && self.groups < groups_max {
            self.want.idle = false;
            for _ in 0..self.load.batch {
                let log_bytes = self.load.log_bytes;
                if self.log.append(Term(1), Kind::Command, &command).is_err() {
                    return Err(LifeError::Log { log_bytes, batch_bytes: log_bytes });
                }
            }
            self.settle()?;
            self.want.hard_state.commit = self.log.durable();
            self.want.idle = is_sparse;
            self.settle()?;
            if self.wal.wants_snapshot() || self.log.bytes_used() >= self.load.log_bytes / 2 {
                self.snapshot()?;
            }
            self.groups += 1;
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<(), LifeError> {
        let index = self.log.durable();
        let id = EntryId::new(index, self.log.term(index).unwrap_or_default());
        self.wal.begin_snapshot(id);
        let piece = PIECE_BYTES.min(self.wal.chunk_bytes_max());
        for at in (0..self.load.snapshot_bytes).step_by(piece) {
            let len = piece.min(self.load.snapshot_bytes - at);
            self.buffer[SNAP_DATA_AT..SNAP_DATA_AT + len].fill(0xa5);
            self.wal.put_chunk(at as u32, len);
            self.settle()?;
        }
        self.wal.end_snapshot(false);
        self.settle()?;
        self.log.compact(id.index);
        self.snapshots += 1;
        Ok(())
    }

    /// Polls until nothing is left to do.
    fn settle(&mut self) -> Result<(), LifeError> {
        loop {
            match self.wal.poll(&self.want, &mut self.log, &mut self.buffer) {
                Progress::Op(op) => {
                    match op {
                        quorate::flash::FlashOp::Erase { .. } => self.erases += 1,
                        quorate::flash::FlashOp::Write { len, .. } => {
                            self.bytes_programmed += u64::from(len);
                        }
                        quorate::flash::FlashOp::Read { .. } => {}
                    }
                    let done = perform(&mut self.flash, self.erased, op, &mut self.buffer);
                    self.wal.handle(done);
                }
                Progress::Fault(fault) => return Err(LifeError::Stopped(fault)),
                Progress::SnapshotLost | Progress::Refused(_) => {
                    return Err(LifeError::Stopped(WalFault::Full));
                }
                Progress::Idle => return Ok(()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::plan::part;

    /// A load that is nearly all entries: the snapshots are small and rare, and no time is idle.
    const DENSE: Load = Load {
        entry_bytes: 64,
        batch: 1,
        entries_per_day: 1e7,
        log_bytes: 16_384,
        snapshot_bytes: 16,
    };

    fn ring(segments: u8) -> Geometry {
        Geometry { segments, ..part("nrf52840").unwrap().flash.geometry }
    }

    #[test]
    fn of_entries_alone_little_more_is_programmed_than_they_hold() {
        let single = measure(ring(32), &DENSE, 10_000).unwrap();
        // 64 bytes with a head of the entry and of the record, in whole words, are 72.
        assert!((1.125..1.16).contains(&single.bytes_per_byte), "{single:?}");
        let eight = measure(ring(32), &Load { batch: 8, ..DENSE }, 10_000).unwrap();
        assert!((1.03..1.07).contains(&eight.bytes_per_byte), "{eight:?}");
        // 56 such records fill a segment; a snapshot begins in a new one, so that of every third a part stays empty.
        let per_erase = 1.0 / single.erases_per_entry;
        assert!((128.0 / 3.0 - 1.0..56.0).contains(&per_erase), "{per_erase}");
    }

    #[test]
    fn seals_snapshots_and_more_entries_shorten_the_life() {
        let measured = |load: Load| measure(ring(8), &load, 10_000).unwrap();
        let life = |load: Load| measured(load).years;
        let load = Load { log_bytes: 4096, ..DENSE };
        let sparse = Load { entries_per_day: 1000.0, ..load };
        assert!(life(Load { snapshot_bytes: 2048, ..load }) < life(load) * 0.7);
        // A seal is 12 bytes.
        assert!(measured(sparse).bytes_per_byte > measured(load).bytes_per_byte + 0.15);
        let twice = life(Load { entries_per_day: 2000.0, ..sparse });
        assert!((life(sparse) - 2.0 * twice).abs() < 1e-9 * twice);
    }

    #[test]
    fn the_smallest_ring_lasts_and_a_segment_less_does_not() {
        let load = Load { entries_per_day: 2000.0, log_bytes: 2048, ..DENSE };
        for years in [0.5, 8.0, 60.0] {
            let life = smallest(ring(8), &load, 10_000, years).unwrap();
            assert!(life.years >= years, "{life:?}");
            let fewer = Geometry { segments: life.geometry.segments - 1, ..life.geometry };
            let short = measure(fewer, &load, 10_000).map_or(0.0, |life| life.years);
            assert!(short < years, "{life:?}");
        }
        let error = smallest(ring(8), &load, 1, 1e9).unwrap_err().to_string();
        assert!(error.starts_with("no ring lasts that long: the largest, of "), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_figures() {
        let error = |geometry, load: Load| measure(geometry, &load, 1).unwrap_err();
        let batch = Load { batch: 40, log_bytes: 4096, ..DENSE };
        assert_eq!(error(ring(8), batch), LifeError::Log { log_bytes: 4096, batch_bytes: 2720 });
        let large = Load { snapshot_bytes: 20_000, ..DENSE };
        assert!(matches!(
            error(ring(8), large),
            LifeError::Geometry(GeometryError::Segments { min: 9.., .. })
        ));
    }
}
