//! Reading: what is in the flash buffer, and which read comes next. Where a long read fails, only what is
//! needed is read again, so that one bad word does not spoil what is good beside it.

use super::Wal;
use super::mount::TRACE_BYTES;
use super::record::{HEAD_BYTES, Head, Link, OPEN, Place, Sections};
use super::types::Progress;
use crate::check::checksum;
use crate::flash::FlashOp;

/// What of the flash is in the buffer. Offsets are from the start of the partition.
#[derive(Clone, Copy)]
pub(super) struct Window {
    at: u32,
    len: u32,
    /// The read that is out, and the part of it that was asked for; zero if none is.
    asked: u32,
    needed: u32,
    /// A long read failed: nothing is read ahead in there. From where, and how long.
    doubt: u32,
    doubt_len: u32,
    /// A read of no more than was asked for failed.
    bad: u32,
    bad_len: u32,
    /// Read this far if there is room.
    pub(super) ahead: u32,
}

impl Window {
    /// The read that was found to be missing.
    pub(super) const fn op(&self) -> Progress {
        Progress::Op(FlashOp::Read { offset: self.at, len: self.asked })
    }

    pub(super) const EMPTY: Self = Self {
        at: 0,
        len: 0,
        asked: 0,
        needed: 0,
        doubt: 0,
        doubt_len: 0,
        bad: 0,
        bad_len: 0,
        ahead: 0,
    };

    /// The flash or the buffer is about to change.
    pub(super) fn forget(&mut self) {
        *self = Self::EMPTY;
    }

    /// Is the operation that is out a read? Then this is how it ended.
    pub(super) fn take(&mut self, ok: bool) -> bool {
        let asked = core::mem::take(&mut self.asked);
        if ok {
            self.len = asked;
        } else if asked > self.needed {
            (self.doubt, self.doubt_len) = (self.at, asked);
        } else {
            (self.bad, self.bad_len) = (self.at, asked);
        }
        asked > 0
    }
}

/// What the beginning of a segment says.
pub(super) enum Header {
    /// Nothing stands there.
    Blank,
    /// Something that is not a whole first record.
    Other,
    Open(Opened),
}

/// The first record of a segment.
#[derive(Clone, Copy)]
pub(super) struct Opened {
    pub(super) version: u8,
    pub(super) geometry: u32,
    pub(super) erases: u32,
    pub(super) seq: u32,
    pub(super) link: Link,
    pub(super) record_max: u32,
}

/// A read comes first: [`Window::op`].
pub(super) struct Miss;

impl Wal {
    pub(super) fn word(&self) -> u32 {
        u32::from(self.geometry.word_bytes)
    }

    pub(super) fn segment_at(&self, segment: u8) -> u32 {
        self.geometry.segment_bytes().wrapping_mul(u32::from(segment))
    }

    pub(super) fn offset_of(&self, place: &Place) -> u32 {
        self.segment_at(place.segment).saturating_add(place.offset)
    }

    /// Where in the buffer `len` bytes at `place` are; `None` if they can't be read or go beyond the
    /// segment. `Err` is the read to do first. It starts at `base` if all fits the buffer from there, so that
    /// what the caller looks at together stays together.
    pub(super) fn fetch(
        &mut self,
        base: u32,
        place: &Place,
        len: u32,
    ) -> Result<Option<usize>, Miss> {
        let segment = self.segment_at(place.segment);
        let segment_end = segment.saturating_add(self.geometry.segment_bytes());
        let at = segment.saturating_add(place.offset);
        let len = self.geometry.padded(len);
        let end = at.saturating_add(len);
        if end > segment_end || len > self.buffer_bytes {
            return Ok(None);
        }
        let window = &mut self.window;
        if at >= window.at && end <= window.at.saturating_add(window.len) {
            return Ok(Some(at.saturating_sub(window.at) as usize));
        }
        let bad_end = window.bad.saturating_add(window.bad_len);
        if window.bad_len > 0 && at <= window.bad && bad_end <= end {
            return Ok(None);
        }
        let base = segment.saturating_add(base);
        let mut from =
            if base < at && end.saturating_sub(base) <= self.buffer_bytes { base } else { at };
        let mut far = from.saturating_add(window.ahead).max(end).min(segment_end);
        far = far.min(from.saturating_add(self.buffer_bytes));
        let doubt_end = window.doubt.saturating_add(window.doubt_len);
        if from < doubt_end && far > window.doubt {
            (from, far) = (at, end);
        }
        (window.at, window.len) = (from, 0);
        (window.asked, window.needed) = (far.saturating_sub(from), len);
        Err(Miss)
    }

    /// The record at `place` if it is whole and follows its chain, and where in the buffer it starts.
    pub(super) fn look(
        &mut self,
        base: u32,
        place: &Place,
        buf: &[u8],
    ) -> Result<Option<(Head, usize)>, Miss> {
        let Some((head, at)) = self.look_unchecked(base, place, buf)? else {
            return Ok(None);
        };
        let sound = checksum(place.seed, body_of(&head, at, buf)) == head.crc;
        Ok(sound.then_some((head, at)))
    }

    /// What may be a record at `place`, all of it in the buffer.
    pub(super) fn look_unchecked(
        &mut self,
        base: u32,
        place: &Place,
        buf: &[u8],
    ) -> Result<Option<(Head, usize)>, Miss> {
        let Some(at) = self.fetch(base, place, HEAD_BYTES)? else {
            return Ok(None);
        };
        let Some(head) = buf.get(at..).and_then(Head::decode) else {
            return Ok(None);
        };
        Ok(self.fetch(base, place, head.total)?.map(|at| (head, at)))
    }

    /// What the beginning of `segment` says.
    pub(super) fn header(&mut self, segment: u8, buf: &[u8]) -> Result<Header, Miss> {
        self.window.ahead = 0;
        let place = Place::start_of(segment);
        if let Some((head, at)) = self.look(0, &place, buf)?
            && head.kind() == OPEN
        {
            let version = body_of(&head, at, buf).get(3).copied().unwrap_or_default();
            // Another version may go on otherwise behind its number.
            let (it, _) = says(&head, at, buf).unwrap_or((Sections::EMPTY, &[]));
            return Ok(Header::Open(Opened {
                version,
                geometry: it.geometry,
                erases: it.erases,
                seq: it.seq,
                link: it.link,
                record_max: it.record_max,
            }));
        }
        // Of a page that is programmed at once, any word may still read as blank.
        let bytes = match self.fetch(0, &place, TRACE_BYTES)? {
            Some(at) => buf.get(at..at.saturating_add(TRACE_BYTES as usize)).unwrap_or_default(),
            None => &[],
        };
        Ok(if self.is_blank(bytes) { Header::Blank } else { Header::Other })
    }

    /// Are these bytes, some, all as an erase leaves them?
    pub(super) fn is_blank(&self, bytes: &[u8]) -> bool {
        !bytes.is_empty() && bytes.iter().all(|byte| *byte == self.geometry.erased)
    }

    /// Where the record at `place` ends, in a segment with this salt.
    pub(super) fn end_of(&self, place: &Place, head: &Head, salt: u32) -> Place {
        Place {
            segment: place.segment,
            offset: place.offset.saturating_add(self.geometry.padded(head.total)),
            seed: head.crc ^ salt,
        }
    }
}

/// What the checksum of a record in the buffer covers: length, tag and body.
pub(super) fn body_of<'a>(head: &Head, at: usize, buf: &'a [u8]) -> &'a [u8] {
    let end = at.saturating_add(head.total as usize);
    buf.get(at.saturating_add(4)..end).unwrap_or_default()
}

/// What a record in the buffer says, and its data; `None` if it is not what its tag says.
pub(super) fn says<'a>(head: &Head, at: usize, buf: &'a [u8]) -> Option<(Sections, &'a [u8])> {
    let body = body_of(head, at, buf).get(3..)?;
    let (it, data_at) = Sections::decode(head.tag, body)?;
    Some((it, body.get(data_at..)?))
}
