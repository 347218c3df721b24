//! The flash log: what a board must not forget, in raw NOR flash.
//!
//! Sans-IO: [`Wal::poll`] yields at most one [`FlashOp`] at a time, [`Wal::handle`] takes how it ended.
//! Bytes to write are in the caller's flash buffer when the operation is yielded; bytes that were read
//! must be there at the next `poll`. While an operation is out the log does not touch the buffer.
//! One group commit is one record is one write. The layout is in `core/docs/flash-format.md`.

use crate::flash::{FlashDone, FlashOp, Geometry};
use crate::identity::Identity;
use crate::log::Log;
use crate::types::{EntryId, Index, NodeId, Term};

/// Where a snapshot's bytes go in the flash buffer before [`Wal::put_chunk`].
pub const SNAP_DATA_AT: usize = 64;

/// The smallest flash buffer, bytes.
pub const BUFFER_BYTES_MIN: usize = 256;
/// The largest flash buffer that is used, bytes; of a longer one the rest stays untouched.
pub const BUFFER_BYTES_MAX: usize = 65_536;

/// What a Raft member must have in flash before it speaks (Raft §5.2, figure 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct HardState {
    /// The newest term it has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// A hint: entries up to here were known to be committed.
    pub commit: Index,
}

/// What the caller wants of the flash log, level-triggered: passed anew at every [`Wal::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Want {
    /// Term and vote are made durable at once; the commit index goes along where it costs nothing.
    pub hard_state: HardState,
    /// The commit index must be durable at least up to here.
    pub commit_needed: Index,
    /// There is time for upkeep: a seal, and erasing ahead, one erase at a time.
    pub idle: bool,
    /// Erasing is safe now. Without it nothing is erased, and an append may have to wait.
    pub allow_erase: bool,
}

/// The newest snapshot that flash holds whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SnapshotInfo {
    /// The last entry that it covers.
    pub id: EntryId,
    /// Its length in bytes.
    pub bytes: u32,
    /// CRC-32C of those bytes.
    pub crc: u32,
}

/// How the log ended when it was mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Tail {
    /// With a sealed record, or with nothing behind the last whole one.
    Clean,
    /// A write had been cut short. It was never acknowledged, and is cut off.
    Torn {
        /// Where it began, bytes from the start of the partition.
        offset: u32,
    },
}

/// What a mount has found. The entries are in the caller's [`Log`], all durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Mounted {
    /// Whose log this is.
    pub identity: Identity,
    /// Term, vote and the commit hint.
    pub hard_state: HardState,
    /// The snapshot that the log's base is the last entry of.
    pub snapshot: SnapshotInfo,
    /// How the log ended.
    pub tail: Tail,
}

/// Why flash could not be mounted or formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum MountError {
    /// Nothing was ever founded here: blank, or a founding that was cut short. [`Wal::format`] will do it.
    Unformatted,
    /// Other data than a log of this library.
    Foreign,
    /// A log of an older format.
    Older {
        /// The version found.
        version: u8,
    },
    /// A log of a newer format.
    Newer {
        /// The version found.
        version: u8,
    },
    /// A log that was laid out for another geometry.
    OtherGeometry {
        /// The word it was laid out for, bytes.
        word_bytes: u8,
        /// The segment it was laid out for, bytes.
        segment_bytes: u32,
        /// Its segments.
        segments: u8,
    },
    /// A record that had been written whole can't be read any more. Nothing was changed.
    Corrupt {
        /// The segment.
        segment: u8,
        /// Bytes from the start of the partition.
        offset: u32,
    },
    /// The log in RAM can't hold the entries that flash holds.
    LogTooSmall {
        /// What the entries found so far take; there may be more.
        bytes_needed: usize,
    },
    /// The log holds records that are longer than the flash buffer.
    BufferTooSmall {
        /// The buffer that would do, bytes.
        bytes_needed: usize,
    },
    /// [`Wal::format`] was not told to erase what is here.
    NotBlank,
    /// Flash failed while it was being made ready.
    Fault(WalFault),
}

impl core::fmt::Display for MountError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unformatted => f.write_str("the flash holds no log"),
            Self::Foreign => f.write_str("the flash holds other data"),
            Self::Older { version } => write!(f, "the log has the older format {version}"),
            Self::Newer { version } => write!(f, "the log has the newer format {version}"),
            Self::OtherGeometry { word_bytes, segment_bytes, segments } => write!(
                f,
                "the log was laid out for {segments} segments of {segment_bytes} bytes, words of {word_bytes}"
            ),
            Self::Corrupt { segment, offset } => {
                write!(f, "the log is damaged in segment {segment} at byte {offset}")
            }
            Self::LogTooSmall { bytes_needed } => {
                write!(f, "the log in RAM needs {bytes_needed} bytes or more")
            }
            Self::BufferTooSmall { bytes_needed } => {
                write!(f, "the flash buffer needs {bytes_needed} bytes")
            }
            Self::NotBlank => f.write_str("the flash is not blank"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for MountError {}

/// Why the flash log has stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum WalFault {
    /// So many segments failed that the rest is too few.
    WornOut,
    /// Every segment holds something live: no snapshot was taken in time.
    Full,
    /// The caller broke the contract: a wrong buffer, or an entry that fits no record.
    Misused,
}

impl core::fmt::Display for WalFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::WornOut => "the flash is worn out",
            Self::Full => "the flash log is full",
            Self::Misused => "the flash log was misused",
        })
    }
}

impl core::error::Error for WalFault {}

/// A geometry that can't hold a log, with what would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum GeometryError {
    /// A word is 1, 2, 4, 8, 16 or 32 bytes.
    Word,
    /// A page is a power of two, at least a word.
    Page,
    /// An erase block is a multiple of the page and of 128 bytes.
    Block,
    /// The number of segments is out of range.
    Segments {
        /// At least.
        min: u8,
        /// At most.
        max: u8,
    },
    /// A segment is too short or too long.
    SegmentBytes {
        /// At least.
        min: u32,
        /// At most.
        max: u32,
    },
    /// The flash buffer is too short.
    BufferBytes {
        /// At least.
        min: usize,
    },
}

impl core::fmt::Display for GeometryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Word => f.write_str("a flash word is 1, 2, 4, 8, 16 or 32 bytes"),
            Self::Page => f.write_str("a flash page is a power of two, at least a word"),
            Self::Block => f.write_str("an erase block is a multiple of the page and of 128 bytes"),
            Self::Segments { min, max } => write!(f, "a log has {min} to {max} segments"),
            Self::SegmentBytes { min, max } => write!(f, "a segment has {min} to {max} bytes"),
            Self::BufferBytes { min } => write!(f, "a flash buffer has at least {min} bytes"),
        }
    }
}

impl core::error::Error for GeometryError {}

/// What came of a [`Wal::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Progress {
    /// Carry this out and tell [`Wal::handle`]; leave the flash buffer alone meanwhile.
    Op(FlashOp),
    /// Something became durable: see [`Wal::durable`] and [`Log::durable`].
    Durable,
    /// The log is mounted, and what it shows will still be there after a power cut.
    Mounted(Mounted),
    /// The flash is formatted; a first snapshot (index 0, or an installed one) founds the log.
    Formatted,
    /// The snapshot that was ended is whole in flash. What it covers may be compacted in RAM.
    SnapshotDurable(EntryId),
    /// The chunk is durable: the next one may be put.
    ChunkWritten,
    /// Bytes of the snapshot are in the flash buffer until the next poll; none beyond its end.
    ChunkRead {
        /// Where in the buffer.
        at: usize,
        /// How many bytes.
        len: usize,
        /// Where in the snapshot.
        offset: u32,
    },
    /// The snapshot in flash can't be read any more: a chunk is damaged.
    ChunkUnreadable,
    /// Mounting or formatting failed; the log is not in use.
    Refused(MountError),
    /// The log has stopped for good. Told at every poll from now on.
    Fault(WalFault),
    /// Nothing to do now.
    Idle,
}

/// How the flash is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Status {
    /// The most often erased segment's erases.
    pub erases_max: u32,
    /// The least often erased segment's erases.
    pub erases_min: u32,
    /// Segments that hold nothing live.
    pub segments_free: u8,
    /// Free segments that are erased and certified.
    pub segments_ready: u8,
    /// Segments that failed and are out of use.
    pub segments_retired: u8,
    /// Bytes programmed since the mount.
    pub bytes_written: u32,
    /// Records written since the mount.
    pub records: u32,
}

/// The flash log.
pub struct Wal {
    durable: HardState,
}

impl Wal {
    /// A log that is not in use, all zeros.
    pub const fn new() -> Self {
        Self { durable: HardState { term: Term::ZERO, vote: None, commit: Index::ZERO } }
    }

    /// Begins to mount the log; polling ends in [`Progress::Mounted`] or [`Progress::Refused`].
    /// The caller's log is reset and loaded.
    pub fn mount(
        &mut self,
        _geometry: Geometry,
        _buffer_bytes: usize,
    ) -> Result<(), GeometryError> {
        Ok(())
    }

    /// Begins to format the flash for `identity`; polling ends in [`Progress::Formatted`] or
    /// [`Progress::Refused`]. What is not blank is refused unless `erase_anyway`, but for a founding
    /// that was cut short. Erase counts are kept where they can be read.
    pub fn format(
        &mut self,
        _geometry: Geometry,
        _buffer_bytes: usize,
        _identity: Identity,
        _erase_anyway: bool,
    ) -> Result<(), GeometryError> {
        Ok(())
    }

    /// The next flash operation, or what came of the last one. To be called until it says
    /// [`Progress::Idle`]; also then again whenever `want` or `log` has changed.
    pub fn poll(&mut self, _want: &Want, _log: &mut Log, _buf: &mut [u8]) -> Progress {
        Progress::Idle
    }

    /// The operation that [`Wal::poll`] yielded has ended.
    pub fn handle(&mut self, _done: FlashDone) {}

    /// An operation is out: the flash buffer is not to be touched.
    pub const fn is_busy(&self) -> bool {
        false
    }

    /// What flash is known to hold.
    pub const fn durable(&self) -> HardState {
        self.durable
    }

    /// The newest whole snapshot in flash; `None` before the founding one.
    pub const fn snapshot(&self) -> Option<SnapshotInfo> {
        None
    }

    /// Bytes of a snapshot that one chunk holds.
    pub const fn chunk_bytes_max(&self) -> usize {
        0
    }

    /// Begins a snapshot that covers everything up to `id`; one that was begun before is forgotten.
    pub fn begin_snapshot(&mut self, _id: EntryId) {}

    /// The next `len` bytes of the snapshot are in the flash buffer at [`SNAP_DATA_AT`]; they lie at
    /// `offset` in it, which is where the chunk before ended. The next [`Wal::poll`] must follow before
    /// anything else touches the buffer. `false` if it is not the time for it: no snapshot begun, an operation
    /// out, the wrong offset, or too long.
    pub fn put_chunk(&mut self, _offset: u32, _len: usize) -> bool {
        false
    }

    /// All chunks are put. If `installed`, the log before and behind the snapshot's last entry is void:
    /// the caller has reset or will reset its [`Log`] to the snapshot's id. Otherwise what is durable
    /// behind it is kept. Polling yields [`Progress::SnapshotDurable`].
    pub fn end_snapshot(&mut self, _installed: bool) {}

    /// CRC-32C of the chunks put so far, to compare before [`Wal::end_snapshot`].
    pub const fn begun_crc(&self) -> u32 {
        0
    }

    /// Gives up the snapshot that was begun.
    pub fn abort_snapshot(&mut self) {}

    /// Asks for up to `len_max` bytes of the newest snapshot from `offset`; polling yields
    /// [`Progress::ChunkRead`] or [`Progress::ChunkUnreadable`]. Reading on in order is cheap.
    pub fn read_snapshot(&mut self, _offset: u32, _len_max: usize) {}

    /// Free segments have fallen to the reserve: only a new snapshot will free more.
    pub const fn wants_snapshot(&self) -> bool {
        false
    }

    /// Bytes that can still be logged before [`Wal::wants_snapshot`].
    pub const fn bytes_until_pressure(&self) -> u32 {
        0
    }

    /// How the flash is doing.
    pub const fn status(&self) -> Status {
        Status {
            erases_max: 0,
            erases_min: 0,
            segments_free: 0,
            segments_ready: 0,
            segments_retired: 0,
            bytes_written: 0,
            records: 0,
        }
    }
}

impl Default for Wal {
    fn default() -> Self {
        Self::new()
    }
}
