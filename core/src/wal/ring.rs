//! The ring of segments: which are live, which are free, and how one is made ready.
//!
//! Segments are used in cyclic order, so that wear spreads by itself. A segment is ready once an erase of it has
//! returned since the mount; flash that merely reads blank is never believed, for an erase that was cut short
//! may read blank and decay.

use super::read::{Halt, Io};
use super::record::{HEAD_BYTES, OPEN_BYTES_MAX, SECTIONS_BYTES_MAX};
use super::types::{GeometryError, Progress, WalFault};
use super::{BUFFER_BYTES_MAX, BUFFER_BYTES_MIN, Wal, Work};
use crate::flash::{FlashOp, Geometry};

/// The fewest segments that a log can live in.
const SEGMENTS_MIN: u8 = 3;
pub(super) const SEGMENTS_MAX: u8 = 32;
/// So many are kept erased.
const READY_MAX: u32 = 2;
const BLOCK_UNIT: u32 = 128;
/// Longer segments than this can't be told in a first record, or make offsets overflow.
const SEGMENT_BYTES_MAX: u32 = 64 << 20;

/// Refuses what can't hold a log, with the numbers that would do.
pub(super) fn check(geometry: &Geometry, buffer_bytes: usize) -> Result<(), GeometryError> {
    let word = geometry.word_bytes;
    if !word.is_power_of_two() || word > 32 {
        return Err(GeometryError::Word);
    }
    let page = u32::from(geometry.page_bytes);
    if !page.is_power_of_two() || page < u32::from(word) {
        return Err(GeometryError::Page);
    }
    let block = geometry.block_bytes;
    let fits = |unit: u32| block & unit.saturating_sub(1) == 0;
    if block == 0 || !fits(page) || !fits(BLOCK_UNIT) {
        return Err(GeometryError::Block);
    }
    if !(SEGMENTS_MIN..=SEGMENTS_MAX).contains(&geometry.segments) {
        return Err(GeometryError::Segments { min: SEGMENTS_MIN, max: SEGMENTS_MAX });
    }
    if buffer_bytes < BUFFER_BYTES_MIN {
        return Err(GeometryError::BufferBytes { min: BUFFER_BYTES_MIN });
    }
    let min = page.saturating_mul(2).saturating_add(1024).max(BLOCK_UNIT);
    let bytes = geometry.block_bytes.checked_mul(u32::from(geometry.blocks_per_segment));
    match bytes {
        Some(bytes) if (min..=SEGMENT_BYTES_MAX).contains(&bytes) => Ok(()),
        _ => Err(GeometryError::SegmentBytes { min, max: SEGMENT_BYTES_MAX }),
    }
}

/// What a segment has beside its longest record. Its first one must be able to restate that, with a seal behind, and another
/// boot: else what fits no segment would have one opened after the other.
fn beside_record(geometry: &Geometry) -> u32 {
    u32::from(geometry.page_bytes).saturating_add(OPEN_BYTES_MAX).wrapping_shl(1)
}

/// The longest record.
pub(super) fn record_bytes_max(geometry: &Geometry) -> u32 {
    geometry.segment_bytes().saturating_sub(beside_record(geometry))
}

/// Refuses segments that are too short for records of that length.
pub(super) fn check_record(geometry: &Geometry, bytes: usize) -> Result<(), GeometryError> {
    let bytes = bytes.min(BUFFER_BYTES_MAX) as u32;
    if bytes <= record_bytes_max(geometry) {
        return Ok(());
    }
    let min = bytes.saturating_add(beside_record(geometry));
    Err(GeometryError::SegmentBytes { min, max: SEGMENT_BYTES_MAX })
}

/// What log and snapshot take in a ring.
struct Need {
    /// Bytes, with their heads and a quarter to spare.
    bytes: u32,
    /// Segments; none if half of one holds them, and no more than a ring has.
    segments: u32,
    /// The most that one record holds.
    data_max: u32,
}

impl Need {
    fn new(geometry: &Geometry, buffer_bytes: u32, live_bytes: u32) -> Self {
        let data_max = buffer_bytes.min(record_bytes_max(geometry));
        let data_max = data_max.saturating_sub(SECTIONS_BYTES_MAX);
        // Two records that follow one another hold more than one could. In sixteenths, this is what their heads add.
        let heads = HEAD_BYTES.wrapping_add(u32::from(geometry.word_bytes)).wrapping_shl(5);
        let heads = (1..64u32).find(|n| n.saturating_mul(data_max) >= heads).unwrap_or(64);
        let with = |n: u32| live_bytes.saturating_add(live_bytes.wrapping_shr(4).saturating_mul(n));
        let (least, bytes) = (with(heads), with(heads.max(4)));
        let usable = geometry.segment_bytes().saturating_sub(OPEN_BYTES_MAX).max(1);
        let half = usable.wrapping_shr(1);
        // What does not fit the rest of a segment goes into the next one.
        let rest = data_max.min(half);
        let fit = |n: &u32| {
            let (all, rests) = (usable.saturating_mul(*n), rest.saturating_mul(n.wrapping_sub(1)));
            all >= bytes && all.saturating_sub(rests) >= least
        };
        // No division: that is 400 bytes of code on a part without one.
        let most = u32::from(SEGMENTS_MAX);
        let segments = if bytes <= half { 0 } else { (1..most).find(fit).unwrap_or(most) };
        Self { bytes, segments, data_max }
    }
}

/// Refuses a ring that can't hold so many bytes of log and snapshot twice: a new snapshot, and what it restates behind
/// it, is written while the old one is still there. Three segments more are for entries, for a boot, and for a snapshot
/// that comes to nothing. Where half of a segment holds all, entries go into the other half, and a ring of three will do.
pub(super) fn check_live(
    geometry: &Geometry,
    buffer_bytes: usize,
    live_bytes: u32,
) -> Result<(), GeometryError> {
    let need = Need::new(geometry, buffer_bytes.min(BUFFER_BYTES_MAX) as u32, live_bytes);
    let segments = need.segments.saturating_mul(2).saturating_add(3);
    let min = u8::try_from(segments).unwrap_or(u8::MAX);
    if geometry.segments >= min {
        return Ok(());
    }
    if min > SEGMENTS_MAX {
        // Then it takes longer ones.
        let half = u32::from(SEGMENTS_MAX.wrapping_shr(1)).saturating_sub(2).max(1);
        let min = need.bytes.div_ceil(half).saturating_add(need.data_max);
        let min = min.saturating_add(OPEN_BYTES_MAX);
        return Err(GeometryError::SegmentBytes { min, max: SEGMENT_BYTES_MAX });
    }
    Err(GeometryError::Segments { min, max: SEGMENTS_MAX })
}

/// One segment of a set.
pub(super) const fn bit(segment: u8) -> u32 {
    1u32.wrapping_shl(segment as u32)
}

/// How many segments a set has.
pub(super) const fn count(mut set: u32) -> u32 {
    let mut count = 0u32;
    while set != 0 {
        set &= set.wrapping_sub(1);
        count = count.wrapping_add(1);
    }
    count
}

impl Wal {
    pub(super) fn all_segments(&self) -> u32 {
        u32::MAX.wrapping_shr(32u32.wrapping_sub(u32::from(self.geometry.segments)))
    }

    /// Those that hold something that is needed.
    pub(super) fn live(&self) -> u32 {
        self.order.iter().fold(0, |live, segment| live | bit(*segment))
    }

    /// Those that are not retired, and hold nothing that is needed.
    pub(super) fn free_segments(&self) -> u32 {
        self.all_segments() & !(self.all.retired | self.live())
    }

    /// How many segments hold nothing that is needed.
    pub(super) fn free(&self) -> u32 {
        count(self.free_segments())
    }

    #[inline(never)]
    pub(super) fn segments_usable(&self) -> u32 {
        count(self.all_segments() & !self.all.retired)
    }

    /// Entries may be logged only while so many segments stay free: what a snapshot takes, one for a boot, and in all but
    /// the shortest ring one for a snapshot that comes to nothing, which the next gives free.
    pub(super) fn spare(&self) -> u32 {
        let most = self.segments_usable().wrapping_shr(1).wrapping_add(1);
        most.min(u32::from(self.takes).wrapping_add(2))
    }

    /// The board keeps so many bytes of entries and of a snapshot at most, as [`Wal::check`] counts them. As long as it
    /// has not said so since the mount, as much stays free as the ring can take on.
    pub fn reserve(&mut self, live_bytes: u32) {
        let need = Need::new(&self.geometry, self.buffer_bytes, live_bytes);
        self.takes = need.segments.max(1) as u8;
    }

    /// Takes `segment` out of use for good.
    pub(super) fn retire(&mut self, segment: u8) {
        self.all.retired |= bit(segment);
        self.ready &= !bit(segment);
        if self.segments_usable() < u32::from(SEGMENTS_MIN) {
            self.fault = Some(WalFault::WornOut);
        }
    }

    /// The first segment of a set, in cyclic order behind the one in use.
    pub(super) fn first_of(&self, set: u32) -> Option<u8> {
        let behind = set & (u32::MAX - 1).wrapping_shl(u32::from(self.tail.segment));
        let set = if behind == 0 { set } else { behind };
        (0..self.geometry.segments).find(|segment| set & bit(*segment) != 0)
    }

    /// Starts to make a free segment ready: one that begins with what may yet turn into a first record, else the
    /// one that comes after all that are ready, if fewer than two are.
    pub(super) fn erase_next(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        let free = self.free_segments() & !self.ready;
        let mut next = self.first_of(free & self.suspects);
        if count(self.ready) < READY_MAX {
            next = next.or(self.first_of(free));
        }
        let Some(segment) = next else {
            return Ok(());
        };
        self.window.forget();
        (self.work, self.out.at.segment) = (Work::Erase, segment);
        let (offset, len) = (self.segment_at(segment), self.segment_bytes());
        Err(io.tell(Progress::Op(FlashOp::Erase { offset, len })))
    }

    /// The erase has ended.
    #[inline(never)]
    pub(super) fn erased(&mut self, ok: bool) {
        self.work = Work::None;
        let segment = self.out.at.segment;
        let suspect = self.suspects & bit(segment) != 0;
        self.suspects &= !bit(segment);
        if !ok {
            if suspect {
                // What stands there still may have the place behind in the order of use.
                (self.closed, self.seq) = (true, self.seq.wrapping_add(1));
            }
            return self.retire(segment);
        }
        self.wear.set(segment, self.wear.erases(segment).saturating_add(1));
        if count(self.ready) < READY_MAX {
            self.ready |= bit(segment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_too_small_for_log_and_snapshot_is_refused_with_what_would_do() {
        let ring = |block_bytes, segments| Geometry {
            word_bytes: 4,
            erased: 0xff,
            page_bytes: 4,
            block_bytes,
            blocks_per_segment: 1,
            segments,
        };
        // 5,000 bytes and a quarter are 4 segments of 2,048 less their heads: twice that, and three.
        let refused = Err(GeometryError::Segments { min: 11, max: 32 });
        assert_eq!(Wal::check(&ring(2048, 10), 512, 5_000), refused);
        assert_eq!(Wal::check(&ring(2048, 11), 512, 5_000), Ok(()));
        // One segment holds it, or half of one.
        let refused = Err(GeometryError::Segments { min: 5, max: 32 });
        assert_eq!(Wal::check(&ring(2048, 4), 512, 1_400), refused);
        assert_eq!(Wal::check(&ring(2048, 5), 512, 1_400), Ok(()));
        assert_eq!(Wal::check(&ring(2048, 3), 512, 700), Ok(()));
        let refused = Err(GeometryError::SegmentBytes { min: 2504, max: SEGMENT_BYTES_MAX });
        assert_eq!(Wal::check(&ring(2048, 9), 2048, 700), refused);
        assert_eq!(Wal::check(&ring(2560, 9), 2048, 700), Ok(()));
        let refused = Wal::check(&ring(2048, 32), 512, 100_000);
        let Err(GeometryError::SegmentBytes { min, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!(min > 2048);
        assert_eq!(Wal::check(&ring(min.next_multiple_of(128), 32), 512, 100_000), Ok(()));
    }

    #[test]
    fn a_snapshot_that_takes_what_the_ring_was_accepted_for_is_enough() {
        for takes in 1..=14u8 {
            let mut wal = Wal::new();
            wal.geometry = Geometry {
                word_bytes: 4,
                erased: 0xff,
                page_bytes: 4,
                block_bytes: 2048,
                blocks_per_segment: 1,
                segments: 2 * takes + 3,
            };
            wal.takes = takes;
            wal.order = (0..takes).collect();
            wal.tail.offset = 2048;
            assert!(!wal.wants_snapshot(), "{takes}");
        }
    }
}
