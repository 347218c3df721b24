//! Reading: what is in the flash buffer, and which read comes next. Where a long read fails, only what is
//! needed is read again, so that one bad word does not spoil what is good beside it.

use super::Wal;
use super::mount::TRACE_BYTES;
use super::record::{HEAD_BYTES, Head, NOTE, OPEN, Place, Sections, TAG_AT, VERSION};
use super::types::{MountError, Progress, Want};
use crate::check::checksum;
use crate::flash::FlashOp;
use crate::log::Log;
use crate::types::Index;

/// What a poll works with: what the caller has lent, the record that was looked at last, and what is told.
pub(super) struct Io<'a> {
    pub(super) want: &'a Want,
    pub(super) log: &'a mut Log,
    pub(super) buf: &'a mut [u8],
    /// Where in the buffer that is which was fetched last.
    pub(super) at: usize,
    /// How the record there begins, and what it says; its data begin there in the buffer.
    pub(super) head: Head,
    pub(super) it: Sections,
    data_at: usize,
    /// The entries that go into the next record: behind the one, up to the other.
    pub(super) after: Index,
    pub(super) last: Index,
    pub(super) progress: Progress,
}

/// Why a step does not go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Halt {
    /// The caller is told something, an operation maybe: [`Io::progress`].
    Tell,
    /// The mount is refused: also there.
    Refused,
    /// What was read a moment ago reads otherwise now.
    Unstable,
    /// A record can't be written: too few segments would stay free.
    Room,
    /// It can't yet: no segment is ready.
    Erase,
}

impl<'a> Io<'a> {
    pub(super) fn new(want: &'a Want, log: &'a mut Log, buf: &'a mut [u8]) -> Self {
        Self {
            want,
            log,
            buf,
            at: 0,
            head: Head::NONE,
            it: Sections::EMPTY,
            data_at: 0,
            after: Index::ZERO,
            last: Index::ZERO,
            progress: Progress::Idle,
        }
    }

    pub(super) fn tell(&mut self, progress: Progress) -> Halt {
        self.progress = progress;
        Halt::Tell
    }

    #[inline(never)]
    pub(super) fn refuse(&mut self, error: MountError) -> Halt {
        self.progress = Progress::Refused(error);
        Halt::Refused
    }

    /// `len` bytes of what was fetched.
    #[inline(never)]
    pub(super) fn bytes(&self, len: u32) -> &[u8] {
        let end = self.at.wrapping_add(len as usize);
        self.buf.get(self.at..end).unwrap_or_default()
    }

    /// Does the record start from this checksum?
    pub(super) fn follows(&self, seed: u32) -> bool {
        self.checksum(seed) == self.head.crc
    }

    /// Does it with another tag than it has? Then that is what is rotten.
    pub(super) fn follows_with_another_tag(&mut self, seed: u32) -> bool {
        let tag_at = self.at.wrapping_add(TAG_AT);
        let mut follows = false;
        // The last one is what it was.
        for tag in (1..NOTE | 0xf).chain([self.head.tag]) {
            if let Some(byte) = self.buf.get_mut(tag_at) {
                *byte = tag;
            }
            follows |= self.follows(seed);
        }
        follows
    }

    /// The checksum of the record covers length, tag and body.
    pub(super) fn checksum(&self, seed: u32) -> u32 {
        checksum(seed, self.bytes(self.head.total).get(4..).unwrap_or_default())
    }

    /// Reads what the record says; `false` if it is not what its tag says.
    pub(super) fn says(&mut self) -> bool {
        let end = self.at.wrapping_add(self.head.total as usize);
        let body_at = self.at.wrapping_add(HEAD_BYTES as usize);
        let body = self.buf.get(body_at..end).unwrap_or_default();
        let data_at = self.it.decode(self.head.tag, body);
        self.data_at = body_at.wrapping_add(data_at.unwrap_or_default());
        data_at.is_some()
    }

    /// The data of the record: entries, or a chunk. (Beside the log, which may take them.)
    pub(super) fn data(&mut self) -> (&[u8], &mut Log) {
        let end = self.at.wrapping_add(self.head.total as usize);
        (self.buf.get(self.data_at..end).unwrap_or_default(), self.log)
    }
}

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
    ahead: u32,
    /// Read from here if all fits, so that what is looked at together stays together; 0 if from nowhere else.
    base: u32,
}

impl Window {
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
        base: 0,
    };

    /// The flash or the buffer is about to change.
    #[inline(never)]
    pub(super) const fn forget(&mut self) {
        (self.len, self.asked, self.doubt_len, self.bad_len) = (0, 0, 0, 0);
    }

    /// How far the next reads go beyond what is asked for, and where they may begin before it.
    #[inline(never)]
    pub(super) const fn plan(&mut self, ahead: u32, base: u32) {
        (self.ahead, self.base) = (ahead, base);
    }

    /// Is the operation that is out a read? Then this is how it ended.
    #[inline(never)]
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

/// What the beginning of a segment is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// Nothing stands there.
    Blank,
    /// Something that is not a whole first record.
    Other,
    /// A first record. [`Io::it`] is what it says.
    Open,
}

impl Wal {
    pub(super) fn word(&self) -> u32 {
        u32::from(self.geometry.word_bytes)
    }

    pub(super) fn segment_bytes(&self) -> u32 {
        self.geometry.segment_bytes()
    }

    pub(super) fn padded(&self, bytes: u32) -> u32 {
        self.geometry.padded(bytes)
    }

    pub(super) fn segment_at(&self, segment: u8) -> u32 {
        self.segment_bytes().wrapping_mul(u32::from(segment))
    }

    pub(super) fn offset_of(&self, place: &Place) -> u32 {
        self.segment_at(place.segment).wrapping_add(place.offset)
    }

    /// Are `len` bytes at `place` in the buffer? `false` if they can't be read or go beyond the segment; if they
    /// are to be read first, that is told.
    pub(super) fn fetch(&mut self, io: &mut Io<'_>, place: &Place, len: u32) -> Result<bool, Halt> {
        let len = self.padded(len);
        let rest = self.segment_bytes().saturating_sub(place.offset);
        if len > rest || len > self.buffer_bytes {
            return Ok(false);
        }
        let at = self.offset_of(place);
        let (end, segment_end) = (at.wrapping_add(len), at.wrapping_add(rest));
        let window = &mut self.window;
        if at >= window.at && end <= window.at.wrapping_add(window.len) {
            io.at = at.saturating_sub(window.at) as usize;
            return Ok(true);
        }
        let bad_end = window.bad.wrapping_add(window.bad_len);
        if window.bad_len > 0 && at <= window.bad && bad_end <= end {
            return Ok(false);
        }
        let base = window.base;
        let near = base > 0 && base < at && end.saturating_sub(base) <= self.buffer_bytes;
        let mut from = if near { base } else { at };
        let mut far = from.wrapping_add(window.ahead).max(end).min(segment_end);
        far = far.min(from.wrapping_add(self.buffer_bytes));
        let doubt_end = window.doubt.wrapping_add(window.doubt_len);
        if from < doubt_end && far > window.doubt {
            (from, far) = (at, end);
        }
        (window.at, window.len) = (from, 0);
        (window.asked, window.needed) = (far.saturating_sub(from), len);
        Err(io.tell(Progress::Op(FlashOp::Read { offset: from, len: window.asked })))
    }

    /// Is there a record at `place` that is whole and follows its chain?
    pub(super) fn look(&mut self, io: &mut Io<'_>, place: &Place) -> Result<bool, Halt> {
        Ok(self.look_unchecked(io, place)? && io.follows(place.seed))
    }

    /// Is there what may be a record at `place`, all of it in the buffer?
    pub(super) fn look_unchecked(&mut self, io: &mut Io<'_>, place: &Place) -> Result<bool, Halt> {
        io.head = Head::NONE;
        if self.fetch(io, place, HEAD_BYTES)?
            && let Some(head) = Head::decode(io.bytes(HEAD_BYTES))
        {
            io.head = head;
            return self.fetch(io, place, head.total);
        }
        Ok(false)
    }

    /// What is the beginning of `segment`?
    pub(super) fn header(&mut self, io: &mut Io<'_>, segment: u8) -> Result<Header, Halt> {
        self.window.plan(0, 0);
        let place = Place::start_of(segment);
        if self.look(io, &place)? && io.head.kind() == OPEN {
            // Another version may go on otherwise behind its number.
            if !io.says() || io.it.version != VERSION {
                io.it = Sections { version: io.it.version, ..Sections::EMPTY };
            }
            return Ok(Header::Open);
        }
        // Of a page that is programmed at once, any word may still read as blank.
        let blank = self.fetch(io, &place, TRACE_BYTES)? && self.is_blank(io.bytes(TRACE_BYTES));
        // What could not be read may be read once more.
        self.window.forget();
        Ok(if blank { Header::Blank } else { Header::Other })
    }

    /// Are these bytes, some, all as an erase leaves them?
    pub(super) fn is_blank(&self, bytes: &[u8]) -> bool {
        !bytes.is_empty() && bytes.iter().all(|byte| *byte == self.geometry.erased)
    }

    /// Where the record at `place` that was looked at ends, in a segment with this salt.
    pub(super) fn end_of(&self, io: &Io<'_>, place: &Place, salt: u32) -> Place {
        Place {
            segment: place.segment,
            offset: place.offset.wrapping_add(self.padded(io.head.total)),
            seed: io.head.crc ^ salt,
        }
    }
}
