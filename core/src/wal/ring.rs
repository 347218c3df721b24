//! The ring of segments: which are live, which are free, and how one is made ready.
//!
//! Segments are used in cyclic order, so that wear spreads by itself. A segment is ready once it was erased,
//! certified and read back; blank flash is never believed.

use super::record::{Cert, geometry_word};
use super::types::{GeometryError, Progress, WalFault};
use super::{BUFFER_BYTES_MIN, Job, Phase, Wal};
use crate::flash::{FlashOp, Geometry};

/// The fewest segments that a log can live in.
const SEGMENTS_MIN: u8 = 3;
const SEGMENTS_MAX: u8 = 32;
const BLOCK_UNIT: u32 = 128;
/// Longer segments than this can't be told in a certificate, or make offsets overflow.
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
    let fits = |unit| block.checked_rem(unit) == Some(0);
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

impl Wal {
    fn bit(segment: u8) -> u32 {
        1u32.wrapping_shl(u32::from(segment))
    }

    pub(super) fn is_retired(&self, segment: u8) -> bool {
        self.retired & Self::bit(segment) != 0
    }

    fn is_ready(&self, segment: u8) -> bool {
        self.ready.contains(&segment.saturating_add(1))
    }

    /// Not retired, and holding nothing that is needed.
    pub(super) fn is_free(&self, segment: u8) -> bool {
        !self.is_retired(segment) && !self.order.contains(&segment)
    }

    /// How many segments hold nothing that is needed.
    pub(super) fn free(&self) -> u32 {
        (0..self.geometry.segments).filter(|segment| self.is_free(*segment)).count() as u32
    }

    pub(super) fn segments_usable(&self) -> u32 {
        u32::from(self.geometry.segments).saturating_sub(self.retired.count_ones())
    }

    /// The segment after `segment` in the order of use.
    pub(super) fn after(&self, segment: u8) -> u8 {
        let next = segment.saturating_add(1);
        if next < self.geometry.segments { next } else { 0 }
    }

    /// The segment that is certified next: the free one that comes after all that are ready.
    fn next_to_certify(&self) -> Option<u8> {
        let last_ready = self.ready.iter().rev().find_map(|ready| ready.checked_sub(1));
        let mut segment = last_ready.unwrap_or(self.tail.segment);
        for _ in 0..self.geometry.segments {
            segment = self.after(segment);
            if self.is_free(segment) && !self.is_ready(segment) {
                return Some(segment);
            }
        }
        None
    }

    /// The segment that is used next, if one is ready.
    pub(super) fn next_ready(&self) -> Option<u8> {
        self.ready.first().and_then(|ready| ready.checked_sub(1))
    }

    pub(super) fn take_ready(&mut self) {
        let ([_, second], [_, chain]) = (self.ready, self.ready_chain);
        self.ready = [second, 0];
        self.ready_chain = [chain, 0];
    }

    /// `chain` is the checksum of its certificate.
    pub(super) fn add_ready(&mut self, segment: u8, chain: u32) {
        let places = self.ready.iter_mut().zip(self.ready_chain.iter_mut());
        if let Some((place, its_chain)) = places.into_iter().find(|(place, _)| **place == 0) {
            *place = segment.saturating_add(1);
            *its_chain = chain;
        }
    }

    /// Takes `segment` out of use for good.
    pub(super) fn retire(&mut self, segment: u8) {
        self.retired |= Self::bit(segment);
        if self.next_ready() == Some(segment) {
            self.take_ready();
        }
        if self.segments_usable() < u32::from(SEGMENTS_MIN) {
            self.fault = Some(WalFault::WornOut);
        }
    }

    /// Starts to make a free segment ready if fewer than two are.
    pub(super) fn certify_next(&mut self, buf: &mut [u8]) -> Option<Progress> {
        if self.ready.iter().all(|ready| *ready != 0) {
            return None;
        }
        let segment = self.next_to_certify()?;
        Some(self.certify(segment, buf))
    }

    /// Starts to erase and certify `segment`.
    pub(super) fn certify(&mut self, segment: u8, buf: &mut [u8]) -> Progress {
        self.certifying = segment;
        self.job = Job::CertRead;
        self.window.forget();
        self.certify_step(true, buf).unwrap_or(Progress::Idle)
    }

    /// One step of making a segment ready; `None` once it is, or is retired.
    pub(super) fn certify_step(&mut self, ok: bool, buf: &mut [u8]) -> Option<Progress> {
        let segment = self.certifying;
        let (offset, len) = (self.segment_at(segment), self.cert_bytes());
        if !ok {
            return self.certify_ends(None);
        }
        match self.job {
            Job::CertRead => {
                let (at, have) = match self.fetch(segment, 0, 0, len) {
                    Ok(found) => found,
                    Err(op) => return Some(Progress::Op(op)),
                };
                let bytes = buf.get(at..at.saturating_add(have)).unwrap_or_default();
                let erases = Cert::decode(bytes).filter(Cert::is_valid).map(|cert| cert.erases);
                // A count that is lost is taken to be the highest; what was never used has the lowest.
                let formatting = self.phase == Phase::Formatting;
                let lost = if formatting { self.erases_min } else { self.erases_max };
                self.erases = erases.unwrap_or(lost).saturating_add(1);
                self.window.forget();
                self.job = Job::Erase;
                Some(Progress::Op(FlashOp::Erase { offset, len: self.geometry.segment_bytes() }))
            }
            Job::Erase => {
                self.write_cert(buf);
                self.job = Job::CertWrite;
                Some(Progress::Op(FlashOp::Write { offset, len }))
            }
            Job::CertWrite => {
                self.job = Job::CertVerify;
                self.certify_step(true, buf)
            }
            _ => {
                let (at, have) = match self.fetch(segment, 0, 0, len) {
                    Ok(found) => found,
                    Err(op) => return Some(Progress::Op(op)),
                };
                let bytes = buf.get(at..at.saturating_add(have)).unwrap_or_default();
                let number = self.cert_next;
                let whole = |cert: &Cert| cert.is_valid() && cert.number == number;
                let cert = Cert::decode(bytes).filter(whole);
                self.certify_ends(cert.map(|cert| cert.crc))
            }
        }
    }

    /// Puts a certificate into the buffer.
    pub(super) fn write_cert(&mut self, buf: &mut [u8]) {
        let place = buf.get_mut(..self.cert_bytes() as usize).unwrap_or_default();
        place.fill(self.geometry.erased);
        self.window.forget();
        Cert::encode(self.erases, self.cert_next, geometry_word(&self.geometry), place);
    }

    fn certify_ends(&mut self, chain: Option<u32>) -> Option<Progress> {
        self.job = Job::None;
        self.window.forget();
        self.cert_next = self.cert_next.saturating_add(1);
        if let Some(chain) = chain {
            self.erases_max = self.erases_max.max(self.erases);
            self.add_ready(self.certifying, chain);
            self.unsealed = true;
        } else {
            self.retire(self.certifying);
        }
        None
    }
}
