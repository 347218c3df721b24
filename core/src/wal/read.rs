//! Reading: what is in the flash buffer, and which read comes next. A place that can't be read is
//! narrowed down to its word, so that one bad word does not spoil what is good beside it.

use super::Wal;
use super::record::{Cert, HEAD_BYTES_MAX, Head, OPEN, Place, Sections, checksum};
use crate::flash::FlashOp;

/// What of the flash is in the buffer. Offsets are from the start of the partition.
#[derive(Clone, Copy, Default)]
pub(super) struct Window {
    at: u32,
    len: u32,
    /// The read that is out; zero if none is.
    asked: u32,
    /// Read this far ahead if there is room.
    pub(super) ahead: u32,
    /// A word that can't be read, plus one.
    bad: u32,
    /// It lies in there; nothing is looked for while `high` is zero.
    low: u32,
    high: u32,
    /// The segment, plus one, whose certificate can't be read.
    bad_cert: u8,
}

impl Window {
    pub(super) const EMPTY: Self =
        Self { at: 0, len: 0, asked: 0, ahead: 0, bad: 0, low: 0, high: 0, bad_cert: 0 };

    /// The flash or the buffer is about to change.
    pub(super) fn forget(&mut self) {
        (self.len, self.bad, self.bad_cert) = (0, 0, 0);
    }

    /// Is the operation that is out a read? Then this is how it ended.
    pub(super) fn take(&mut self, ok: bool, word: u32) -> bool {
        let asked = core::mem::take(&mut self.asked);
        if asked == 0 {
            return false;
        }
        if self.high > 0 {
            let middle = self.at.saturating_add(asked);
            if ok {
                self.low = middle;
            } else {
                self.high = middle;
            }
        } else if ok {
            self.len = asked;
        } else {
            self.low = self.at;
            self.high = self.at.saturating_add(asked);
        }
        if self.high > 0 && self.high.saturating_sub(self.low) <= word {
            self.bad = self.low.saturating_add(1);
            self.high = 0;
            self.len = 0;
        }
        true
    }
}

/// What the beginning of a segment says.
#[derive(Clone, Copy, Default)]
pub(super) struct Header {
    /// `None` if it can't be read.
    pub(super) cert: Option<Cert>,
    /// The first record, if it is whole.
    pub(super) open: Option<Opened>,
    /// Nothing stands where the certificate would.
    pub(super) cert_blank: bool,
    /// Nothing stands where the first record would begin.
    pub(super) blank: bool,
    /// What an unchecked first record says of its place in the order of use.
    pub(super) seq_unchecked: Option<u32>,
}

/// The first record of a segment.
#[derive(Clone, Copy)]
pub(super) struct Opened {
    /// Where it starts.
    pub(super) at: Place,
    pub(super) seq: u32,
    pub(super) link: Option<Place>,
    pub(super) record_max: u32,
}

impl Wal {
    pub(super) fn word(&self) -> u32 {
        u32::from(self.geometry.word_bytes)
    }

    /// Bytes of a padded certificate.
    pub(super) fn cert_bytes(&self) -> u32 {
        self.geometry.padded(super::record::CERT_BYTES as u32)
    }

    pub(super) fn segment_at(&self, segment: u8) -> u32 {
        self.geometry.segment_bytes().saturating_mul(u32::from(segment))
    }

    pub(super) fn offset_of(&self, place: &Place) -> u32 {
        self.segment_at(place.segment).saturating_add(place.offset)
    }

    /// Gets `len` bytes at `at` of `segment` into the buffer: where they are, and how many, which is fewer
    /// where the segment ends or a word can't be read. `Err` is the read to do first. A read starts at
    /// `base` if all fits the buffer from there, so that what the caller looks at together stays together.
    pub(super) fn fetch(
        &mut self,
        segment: u8,
        base: u32,
        at: u32,
        len: u32,
    ) -> Result<(usize, usize), FlashOp> {
        let word = self.word();
        let start = self.segment_at(segment);
        let (base, at) = (start.saturating_add(base), start.saturating_add(at));
        let end = start.saturating_add(self.geometry.segment_bytes());
        let len = self.geometry.padded(len).min(end.saturating_sub(at)).min(self.buffer_bytes);
        let window = &mut self.window;
        if window.high > 0 {
            let half = window.high.saturating_sub(window.low).wrapping_shr(1);
            let ask = half.checked_next_multiple_of(word).unwrap_or(word).max(word);
            window.at = window.low;
            window.asked = ask;
            return Err(FlashOp::Read { offset: window.low, len: ask });
        }
        let bad = window.bad.checked_sub(1);
        let window_end = window.at.saturating_add(window.len);
        if at >= window.at && at < window_end {
            let have = window_end.saturating_sub(at);
            if have >= len || bad == Some(window_end) {
                return Ok((at.saturating_sub(window.at) as usize, have.min(len) as usize));
            }
        }
        if bad == Some(at) || len == 0 {
            return Ok((0, 0));
        }
        let from_base = at.saturating_add(len).saturating_sub(base) <= self.buffer_bytes;
        let between = bad.is_some_and(|bad| (base..at).contains(&bad));
        let first = if from_base && base <= at && !between { base } else { at };
        let wanted = at.saturating_add(len).max(first.saturating_add(window.ahead));
        let limit = first.saturating_add(self.buffer_bytes & !word.saturating_sub(1));
        let mut last = wanted.min(limit).min(end);
        if let Some(bad) = bad
            && (first..last).contains(&bad)
        {
            last = bad;
        }
        window.at = first;
        window.len = 0;
        window.asked = last.saturating_sub(first);
        Err(FlashOp::Read { offset: first, len: window.asked })
    }

    /// The record at `place` if it is whole and follows its chain, and where in the buffer it starts.
    /// With `near`, one that does not fit the buffer together with what lies from `base` on counts as none.
    pub(super) fn look(
        &mut self,
        base: u32,
        near: bool,
        place: &Place,
        buf: &[u8],
    ) -> Result<Option<(Head, usize)>, FlashOp> {
        let room = self.geometry.segment_bytes().saturating_sub(place.offset);
        let span = if near { place.offset.saturating_sub(base) } else { 0 };
        let head_len = (HEAD_BYTES_MAX as u32).min(room);
        let start = self.segment_at(place.segment);
        let between = start.saturating_add(base)..start.saturating_add(place.offset);
        let parted = self.window.bad.checked_sub(1).is_some_and(|bad| between.contains(&bad));
        if self.geometry.padded(head_len).saturating_add(span) > self.buffer_bytes
            || (near && parted)
        {
            return Ok(None);
        }
        let (at, len) = self.fetch(place.segment, base, place.offset, head_len)?;
        let Some(head) = buf.get(at..at.saturating_add(len)).and_then(Head::decode) else {
            return Ok(None);
        };
        let padded = self.geometry.padded(head.total());
        if padded > room || padded.saturating_add(span) > self.buffer_bytes {
            return Ok(None);
        }
        let (at, len) = self.fetch(place.segment, base, place.offset, head.total())?;
        let total = head.total() as usize;
        let whole = len >= total
            && buf
                .get(at.saturating_add(4)..at.saturating_add(total))
                .is_some_and(|bytes| checksum(place.chain, bytes) == head.crc);
        Ok(whole.then_some((head, at)))
    }

    /// What a record that is in the buffer says; `None` if it makes no sense.
    pub(super) fn sections<'a>(head: &Head, at: usize, buf: &'a [u8]) -> Option<Sections<'a>> {
        let from = at.saturating_add(head.bytes as usize);
        let body = buf.get(from..at.saturating_add(head.total() as usize))?;
        Sections::decode(head.flags, body)
    }

    /// What the beginning of `segment` says. A damaged certificate does no harm as long as its
    /// checksum, or all the rest of it, can still be read.
    pub(super) fn header(&mut self, segment: u8, buf: &[u8]) -> Result<Header, FlashOp> {
        let cert_bytes = self.cert_bytes();
        let mut header = Header::default();
        let mut base = cert_bytes;
        if self.window.bad_cert != segment.saturating_add(1) {
            let (at, len) = self.fetch(segment, 0, 0, cert_bytes)?;
            let bytes = buf.get(at..at.saturating_add(len)).unwrap_or_default();
            header.cert_blank = bytes.iter().all(|byte| *byte == self.geometry.erased);
            header.cert = Cert::decode(bytes);
            match header.cert {
                Some(_) => base = 0,
                None => self.window.bad_cert = segment.saturating_add(1),
            }
        }
        let (at, len) = self.fetch(segment, base, cert_bytes, 64)?;
        let first = buf.get(at..at.saturating_add(len)).unwrap_or_default();
        header.blank = len > 0 && first.iter().all(|byte| *byte == self.geometry.erased);
        header.seq_unchecked = Head::decode(first)
            .filter(|head| head.flags & OPEN != 0)
            .and_then(|head| crate::entry::decode_varint(first.get(head.bytes as usize..)?))
            .and_then(|(seq, _)| u32::try_from(seq).ok());
        let seeds = header.cert.map(|cert| [cert.crc, cert.computed]);
        for chain in seeds.into_iter().flatten() {
            let place = Place { segment, offset: cert_bytes, chain };
            if let Some((head, at)) = self.look(0, true, &place, buf)?
                && let Some(it) = Self::sections(&head, at, buf)
                && it.has(OPEN)
            {
                let (seq, link, record_max) = (it.seq, it.link, it.record_max);
                header.open = Some(Opened { at: place, seq, link, record_max });
                break;
            }
        }
        Ok(header)
    }
}
