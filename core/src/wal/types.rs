//! What the flash log tells and is told.

#[cfg(doc)]
use super::Wal;
use super::ring::bit;
use crate::flash::FlashOp;
use crate::identity::Identity;
#[cfg(doc)]
use crate::log::Log;
use crate::types::{EntryId, Index, NodeId, Term};

/// Where a snapshot's bytes go in the flash buffer before [`Wal::put_chunk`].
pub const SNAP_DATA_AT: usize = 128;

/// What a chunk of a snapshot takes in flash beside its bytes, before it is padded to the word: checksum, length,
/// tag, and the longest counters.
pub const CHUNK_OVERHEAD_BYTES_MAX: u32 = 7 + 6 + 6 + 5;

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
// Numbered from 1, so that no error at all is all zeros.
#[repr(u8)]
pub enum MountError {
    /// Nothing was ever founded here: blank, or a founding that was cut short. [`Wal::format`] will do it.
    Unformatted = 1,
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
    WornOut = 1,
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
    /// The snapshot that was begun is given up: its chunk could not be written, or there is no room for
    /// more of it. It may be begun anew.
    SnapshotLost,
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
    /// How many segments there are.
    pub segments: u8,
    /// How often each of them was erased.
    pub wear: Wear,
    /// Segments that hold nothing live.
    pub segments_free: u8,
    /// Free segments that were erased since the mount, and are used next.
    pub segments_ready: u8,
    /// Segments that failed and are out of use.
    pub segments_retired: u8,
    /// Bytes programmed since the mount.
    pub bytes_written: u32,
    /// Records written since the mount.
    pub records: u32,
}

/// How often each segment was erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Wear {
    most: u32,
    /// How many erases less than the most worn one each has; wear is even, so that a byte is enough.
    less: [u8; 32],
}

impl Wear {
    pub(super) const NONE: Self = Self { most: 0, less: [0; 32] };

    /// The most often erased segment's erases.
    pub const fn most(&self) -> u32 {
        self.most
    }

    /// How often this segment was erased: from its first record, or, where that is gone, as good a guess as can be.
    pub fn erases(&self, segment: u8) -> u32 {
        let less = self.less.get(usize::from(segment)).copied().unwrap_or_default();
        self.most.saturating_sub(u32::from(less))
    }

    /// What is left to the most worn segment of the erases that the part endures, in percent.
    pub fn life_left_percent(&self, cycles: u32) -> u8 {
        life_left_percent(self.most, cycles)
    }

    pub(super) fn set(&mut self, segment: u8, erases: u32) {
        let more = erases.saturating_sub(self.most);
        self.most = self.most.max(erases);
        for (i, less) in self.less.iter_mut().enumerate() {
            let now = u32::from(*less).saturating_add(more);
            let now = if i == usize::from(segment) { self.most.wrapping_sub(erases) } else { now };
            *less = now.min(255) as u8;
        }
    }

    /// Of segments whose count can't be read: what is blank was erased last, or never, and is taken to be the
    /// least worn; others as the most worn.
    pub(super) fn guess(&mut self, segments: u8, blank: u32, others: u32) {
        let mut least = 0;
        for round in 0..2 {
            for (segment, less) in (0..segments).zip(&mut self.less) {
                if others & bit(segment) != 0 {
                    *less = 0;
                } else if blank & bit(segment) == 0 {
                    least = least.max(*less);
                } else if round == 1 {
                    *less = least;
                }
            }
        }
    }
}

/// What is left after so many erases of those that a part endures (its datasheet's cycles), in percent.
pub fn life_left_percent(erases: u32, cycles: u32) -> u8 {
    let left = u64::from(cycles.saturating_sub(erases));
    left.saturating_mul(100).checked_div(u64::from(cycles)).unwrap_or_default() as u8
}
