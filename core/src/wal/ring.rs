//! The ring of segments: which are live, which are free, and how one is made ready.
//!
//! Segments are used in cyclic order, so that wear spreads by itself. A segment is ready once an erase of it has
//! returned since the mount; flash that merely reads blank is never believed, for an erase that was cut short
//! may read blank and decay.

use super::record::OPEN_BYTES_MAX;
use super::types::{GeometryError, Progress, WalFault};
use super::{BUFFER_BYTES_MAX, BUFFER_BYTES_MIN, Wal, Work};
use crate::flash::{FlashOp, Geometry};

/// The fewest segments that a log can live in.
const SEGMENTS_MIN: u8 = 3;
const SEGMENTS_MAX: u8 = 32;
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

/// Refuses a ring that can't hold so many bytes of log and snapshot twice: a new snapshot, and what it restates behind
/// it, is written while the old one is still there. Three segments more are for entries, for a boot, and for a snapshot
/// that comes to nothing. Where one segment holds all, two more will do, and one where half of it does: then
/// what power cuts leave behind fits beside.
pub(super) fn check_live(geometry: &Geometry, live_bytes: u32) -> Result<(), GeometryError> {
    let with_heads = live_bytes.saturating_add(live_bytes.wrapping_shr(2));
    let usable = geometry.segment_bytes().saturating_sub(OPEN_BYTES_MAX).max(1);
    let takes = with_heads.div_ceil(usable);
    let more = match takes {
        0 | 1 if with_heads <= usable.wrapping_shr(1) => 1,
        0 | 1 => 2,
        _ => 3,
    };
    let segments = takes.saturating_mul(2).saturating_add(more);
    let min = u8::try_from(segments).unwrap_or(u8::MAX).max(SEGMENTS_MIN);
    if geometry.segments >= min {
        return Ok(());
    }
    if min > SEGMENTS_MAX {
        // Then it takes longer ones.
        let half = u32::from(SEGMENTS_MAX.wrapping_shr(1)).saturating_sub(2).max(1);
        let min = with_heads.div_ceil(half).saturating_add(OPEN_BYTES_MAX);
        return Err(GeometryError::SegmentBytes { min, max: SEGMENT_BYTES_MAX });
    }
    Err(GeometryError::Segments { min, max: SEGMENTS_MAX })
}

impl Wal {
    const fn bit(segment: u8) -> u32 {
        1u32.wrapping_shl(segment as u32)
    }

    /// Not retired, and holding nothing that is needed.
    fn is_free(&self, segment: u8) -> bool {
        self.retired & Self::bit(segment) == 0 && !self.order.contains(&segment)
    }

    /// How many segments hold nothing that is needed.
    pub(super) fn free(&self) -> u32 {
        (0..self.geometry.segments).filter(|segment| self.is_free(*segment)).count() as u32
    }

    pub(super) fn segments_usable(&self) -> u32 {
        u32::from(self.geometry.segments).saturating_sub(self.retired.count_ones())
    }

    /// Takes `segment` out of use for good.
    pub(super) fn retire(&mut self, segment: u8) {
        self.retired |= Self::bit(segment);
        self.ready.retain(|ready| *ready != segment);
        if self.segments_usable() < u32::from(SEGMENTS_MIN) {
            self.fault = Some(WalFault::WornOut);
        }
    }

    /// The segment that is erased next: one that begins with what may yet turn into a first record, else the
    /// free one that comes after all that are ready.
    fn next_to_erase(&self) -> Option<u8> {
        let last = *self.ready.last().unwrap_or(&self.tail.segment);
        let segments = self.geometry.segments;
        let cyclic = (last.saturating_add(1)..segments).chain(0..last.saturating_add(1));
        let mut free =
            cyclic.filter(|segment| self.is_free(*segment) && !self.ready.contains(segment));
        let first = free.clone().next();
        free.find(|segment| self.suspects & Self::bit(*segment) != 0)
            .or(first.filter(|_| !self.ready.is_full()))
    }

    /// Starts to make a free segment ready, if fewer than two are.
    pub(super) fn erase_next(&mut self) -> Option<Progress> {
        let segment = self.next_to_erase()?;
        self.window.forget();
        self.work = Work::Erase(segment);
        let (offset, len) = (self.segment_at(segment), self.geometry.segment_bytes());
        Some(Progress::Op(FlashOp::Erase { offset, len }))
    }

    /// The erase has ended.
    pub(super) fn erased(&mut self, ok: bool, segment: u8) {
        self.suspects &= !Self::bit(segment);
        if !ok {
            return self.retire(segment);
        }
        self.wear.set(segment, self.wear.erases(segment).saturating_add(1));
        if !self.ready.is_full() {
            let _ = self.ready.push(segment);
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
        let refused = Err(GeometryError::Segments { min: 4, max: 32 });
        assert_eq!(Wal::check(&ring(2048, 3), 512, 1_400), refused);
        assert_eq!(Wal::check(&ring(2048, 4), 512, 1_400), Ok(()));
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
}
