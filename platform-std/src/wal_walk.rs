//! A walk through the records of one segment of an image, across what is rotten.

use quorate::EntryId;
use quorate::entry::Entries;
use quorate::flash::Geometry;
use quorate::wal::inspect::{ENTRIES, FIRST, Kind, Place, Records};

use crate::wal_image::{Found, RecordState};

/// Checksum, length and tag.
const HEAD_BYTES: usize = 7;
/// A kind above this one is none.
const TAG_MAX: u8 = 0x6f;

/// What a walk through a segment meets.
pub(crate) enum Step {
    Record(Box<Found>),
    /// A boot goes on behind something that was cut short here.
    Cut(u32),
    /// The chain breaks here, and what stands behind tells that the record had been written whole.
    Rot(u32),
}

/// Walks through a segment, across what is rotten.
pub(crate) struct Walk<'a> {
    records: Records<'a>,
    bytes: &'a [u8],
    geometry: Geometry,
    segment: u8,
    pub(crate) order: u32,
    /// Where a live segment ends, 0 if nothing tells.
    pub(crate) limit: Option<u32>,
    /// The first live record: a place from which to go on if the chain breaks before it.
    pub(crate) resume: Option<Place>,
    /// The last entry before each record that was met, for boots that go back.
    written: Vec<(u32, Option<EntryId>)>,
    last: Option<EntryId>,
    /// Behind the last record.
    pub(crate) end: u32,
    next: Option<Found>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(
        records: Records<'a>,
        bytes: &'a [u8],
        geometry: Geometry,
        segment: u8,
    ) -> Self {
        Self {
            records,
            bytes,
            geometry,
            segment,
            order: 0,
            limit: None,
            resume: None,
            written: vec![],
            last: None,
            end: 0,
            next: None,
        }
    }

    /// The next record that the chain leads to.
    fn chained(&mut self) -> Option<Found> {
        let record = self.records.next()?;
        let says = record.says;
        match record.kind {
            Kind::Open => (self.order, self.last) = (says.seq, Some(says.written)),
            Kind::Boot => {
                let back = self.written.iter().find(|(offset, _)| *offset >= says.from);
                self.last = back.map_or(self.last, |(_, last)| *last);
            }
            _ => {}
        }
        self.written.push((record.offset, self.last));
        let mut entries = None;
        if record.tag & ENTRIES != 0 {
            let prev = if record.tag & FIRST != 0 { Some(says.prev) } else { self.last };
            let last = |prev| Entries::new(prev, record.data).last()?.ok();
            entries = prev.and_then(|prev| Some((prev, last(prev)?.id)));
            self.last = entries.map(|(_, last)| last);
        }
        Some(Found {
            segment: self.segment,
            offset: record.offset,
            bytes: record.bytes,
            state: RecordState::Dead,
            kind: record.kind,
            tag: record.tag,
            says,
            entries,
            data_bytes: record.data.len(),
        })
    }

    fn is_blank(&self, from: u32, to: u32) -> bool {
        let bytes = self.bytes.get(from as usize..to as usize).unwrap_or_default();
        bytes.iter().all(|byte| *byte == self.geometry.erased)
    }

    /// Behind a break: where records stand that only follow what was written whole.
    fn behind_rot(&self) -> Option<Place> {
        let (broken, word) = (self.records.at(), usize::from(self.geometry.word_bytes));
        let salt = self.order.wrapping_mul(0x9e37_79b9);
        for offset in (broken.offset as usize..self.bytes.len()).step_by(word) {
            let rest = &self.bytes[offset..];
            let &[a, b, c, d, low, high, tag, ..] = rest else { break };
            let total = HEAD_BYTES + usize::from(u16::from_le_bytes([low, high]));
            let Some(body) = rest.get(4..total) else { continue };
            if tag == 0 || tag > TAG_MAX {
                continue;
            }
            let next = offset as u32 + self.geometry.padded(total as u32);
            for crc in [u32::from_le_bytes([a, b, c, d]), checksum(broken.seed, body)] {
                let place = Place { offset: next, seed: crc ^ salt, ..broken };
                let mut records = Records::starting(&self.geometry, self.bytes, place, self.order);
                if records.next().is_some_and(|record| record.offset == next) {
                    return Some(place);
                }
            }
        }
        None
    }
}

impl Iterator for Walk<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let broken = self.records.at().offset;
        if let Some(record) = self.next.take().or_else(|| self.chained()) {
            if record.offset > self.end && !self.is_blank(self.end, record.offset) {
                let cut = self.end;
                self.end = record.offset;
                self.next = Some(record);
                return Some(Step::Cut(cut));
            }
            self.end = record.offset + self.geometry.padded(record.bytes);
            return Some(Step::Record(Box::new(record)));
        }
        // A live segment that has reached its end, or one that is of no interest any more.
        if self.limit.is_some_and(|limit| limit > 0 && broken >= limit) {
            return None;
        }
        let resume = self.resume.take().filter(|resume| resume.offset > broken);
        let rotten = resume.or_else(|| self.behind_rot());
        let at_end = self.limit.is_none_or(|limit| limit == 0);
        match rotten {
            Some(place) => {
                self.records = Records::starting(&self.geometry, self.bytes, place, self.order);
                (self.end, self.last) = (place.offset, None);
                Some(Step::Rot(broken))
            }
            None if at_end => None,
            // It should go on, and nothing tells where.
            None => {
                self.records =
                    Records::starting(&self.geometry, &[], self.records.at(), self.order);
                self.limit = None;
                Some(Step::Rot(broken))
            }
        }
    }
}

/// CRC-32C behind what has this checksum.
fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    static CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let mut digest = CRC.digest_with_initial((!seed).reverse_bits());
    digest.update(bytes);
    digest.finalize()
}
