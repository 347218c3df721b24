//! The bytes of an entry: the same in the RAM log, in a frame and in flash, so that moving entries
//! between them is one copy.
//!
//! A command of up to 127 bytes with the term of the entry before is its length, one byte, and its data. Any
//! other entry: `tag` (0x80, kind, and whether a term follows) · `length` LEB128 · `term` LEB128 if it differs
//! from the entry before · data.

use crate::types::{EntryId, Term};
use crate::wire::COUNT_MAX;

/// The longest head: tag, 16-bit length, 64-bit term.
pub const HEAD_BYTES_MAX: usize = 14;

/// The most data that one entry can hold, by its encoding. What a cluster accepts is in its limits.
pub const DATA_BYTES_MAX: usize = u16::MAX as usize;

const TAG_KIND: u8 = 0x03;
const TAG_TERM: u8 = 0x04;
const TAG: u8 = 0x80;
/// The longest command that needs no tag.
const SHORT_BYTES_MAX: u16 = 0x7f;

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Kind {
    /// A command of the application.
    Command,
    /// The empty entry by which a leader commits what it inherited (Raft §8).
    Empty,
    /// A change of membership.
    Membership,
    /// A command under its member's own number, which takes effect once.
    Once,
}

/// One entry, its data borrowed from wherever it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Place and term.
    pub id: EntryId,
    /// What it is for.
    pub kind: Kind,
    /// The command, opaque to the core.
    pub data: &'a [u8],
}

/// An entry's head, decoded.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    /// Only where it differs from the entry before.
    pub(crate) term: Option<Term>,
    pub(crate) head_bytes: usize,
    pub(crate) data_bytes: usize,
}

impl Head {
    /// Bytes of the whole entry.
    pub(crate) const fn bytes(&self) -> usize {
        self.head_bytes.saturating_add(self.data_bytes)
    }

    /// `None` if `bytes` does not begin with a whole, valid head.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&tag, rest) = bytes.split_first()?;
        if tag & TAG == 0 {
            let data_bytes = usize::from(tag);
            return Some(Self { kind: Kind::Command, term: None, head_bytes: 1, data_bytes });
        }
        let kind = match tag & TAG_KIND {
            0 => Kind::Command,
            1 => Kind::Empty,
            2 => Kind::Membership,
            _ => Kind::Once,
        };
        if tag & !(TAG | TAG_KIND | TAG_TERM) != 0 {
            return None;
        }
        let (data_bytes, rest) = decode_varint(rest)?;
        let data_bytes = usize::from(u16::try_from(data_bytes).ok()?);
        let (term, rest) = if tag & TAG_TERM == 0 {
            (None, rest)
        } else {
            let (term, rest) = decode_varint(rest)?;
            (Some(Term(term)), rest)
        };
        // Each entry has one encoding: equal entries are equal bytes.
        let short = usize::from(SHORT_BYTES_MAX);
        if kind == Kind::Command && term.is_none() && data_bytes <= short {
            return None;
        }
        let head_bytes = bytes.len().saturating_sub(rest.len());
        Some(Self { kind, term, head_bytes, data_bytes })
    }

    /// Encodes a head; the term is written only if it is given.
    pub(crate) fn encode(
        kind: Kind,
        term: Option<Term>,
        data_bytes: u16,
    ) -> ([u8; HEAD_BYTES_MAX], usize) {
        let mut bytes = [0; HEAD_BYTES_MAX];
        if kind == Kind::Command && term.is_none() && data_bytes <= SHORT_BYTES_MAX {
            put(&mut bytes, &mut 0, data_bytes as u8);
            return (bytes, 1);
        }
        let mut tag = match kind {
            Kind::Command => TAG,
            Kind::Empty => TAG | 1,
            Kind::Membership => TAG | 2,
            Kind::Once => TAG | 3,
        };
        if term.is_some() {
            tag |= TAG_TERM;
        }
        let mut at = 0;
        put(&mut bytes, &mut at, tag);
        encode_varint(u64::from(data_bytes), &mut bytes, &mut at);
        if let Some(Term(term)) = term {
            encode_varint(term, &mut bytes, &mut at);
        }
        (bytes, at)
    }
}

/// Consecutive entries in their encoded form, as a frame or a flash record holds them.
///
/// Iterating yields each entry, or ends with [`Malformed`] where the bytes are not entries.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a> {
    prev: EntryId,
    bytes: &'a [u8],
}

/// The bytes are not entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Malformed;

impl<'a> Entries<'a> {
    /// The entries that follow `prev`.
    pub const fn new(prev: EntryId, bytes: &'a [u8]) -> Self {
        Self { prev, bytes }
    }

    /// The entry before the first one.
    pub const fn prev(&self) -> EntryId {
        self.prev
    }

    /// The bytes of those that were not iterated over yet.
    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The next entry with its own encoded bytes.
    pub(crate) fn next_raw(&mut self) -> Option<Result<(Entry<'a>, &'a [u8]), Malformed>> {
        if self.bytes.is_empty() {
            return None;
        }
        let entry = self.split();
        if entry.is_none() {
            self.bytes = &[];
        }
        Some(entry.ok_or(Malformed))
    }

    fn split(&mut self) -> Option<(Entry<'a>, &'a [u8])> {
        let head = Head::decode(self.bytes)?;
        let (raw, rest) = self.bytes.split_at_checked(head.bytes())?;
        let (_, data) = raw.split_at_checked(head.head_bytes)?;
        let term = head.term.unwrap_or(self.prev.term);
        // Terms never fall along a log, and an entry that needs none has the one before it (LG13).
        if term < self.prev.term || head.term == Some(self.prev.term) || term == Term::ZERO {
            return None;
        }
        // Nothing could be said of one behind the last.
        if self.prev.index.0 >= COUNT_MAX {
            return None;
        }
        let id = EntryId::new(self.prev.index.next(), term);
        self.prev = id;
        self.bytes = rest;
        Some((Entry { id, kind: head.kind, data }, raw))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_raw().map(|next| next.map(|(entry, _)| entry))
    }
}

fn put(bytes: &mut [u8], at: &mut usize, byte: u8) {
    if let Some(place) = bytes.get_mut(*at) {
        *place = byte;
    }
    *at = at.saturating_add(1);
}

/// Writes `value` as LEB128 at `at`, and moves `at` behind it; what does not fit is left out.
pub(crate) fn encode_varint(mut value: u64, bytes: &mut [u8], at: &mut usize) {
    while value > 0x7f {
        put(bytes, at, (value as u8) | 0x80);
        value >>= 7;
    }
    put(bytes, at, value as u8);
}

/// Reads a LEB128 value; `None` if it is cut off or too long.
pub(crate) fn decode_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, mut rest) = bytes.split_first()?;
    let mut value = u64::from(first & 0x7f);
    let (mut byte, mut shift) = (first, 0u32);
    while byte & 0x80 != 0 {
        shift = shift.saturating_add(7);
        (byte, rest) = rest.split_first().map(|(byte, rest)| (*byte, rest))?;
        // Of the tenth byte one bit is left.
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f).wrapping_shl(shift);
    }
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Index;

    fn raw(kind: Kind, term: Option<u64>, data: &[u8]) -> Vec<u8> {
        let (head, len) = Head::encode(kind, term.map(Term), data.len() as u16);
        [&head[..len], data].concat()
    }

    #[test]
    fn a_head_reads_back_as_it_was_written_at_every_width() {
        for term in [None, Some(1), Some(127), Some(128), Some(u64::MAX)] {
            for len in [0usize, 1, 127, 128, 16_383, 16_384, 65_535] {
                let bytes = raw(Kind::Membership, term, &vec![7; len]);
                let head = Head::decode(&bytes).unwrap();
                assert_eq!(head.kind, Kind::Membership);
                assert_eq!(head.term, term.map(Term));
                assert_eq!(head.data_bytes, len);
                assert_eq!(head.bytes(), bytes.len());
                assert!(head.head_bytes <= HEAD_BYTES_MAX);
            }
        }
    }

    #[test]
    fn entries_inherit_the_term_of_the_one_before_and_refuse_a_falling_one() {
        let prev = EntryId::new(Index(4), Term(3));
        let bytes = [raw(Kind::Command, None, b"a"), raw(Kind::Empty, Some(5), b"")].concat();
        let got: Vec<_> = Entries::new(prev, &bytes).map(|e| e.unwrap().id).collect();
        assert_eq!(got, [EntryId::new(Index(5), Term(3)), EntryId::new(Index(6), Term(5))]);
        let falling = raw(Kind::Command, Some(2), b"a");
        assert_eq!(Entries::new(prev, &falling).next(), Some(Err(Malformed)));
        let same_again = raw(Kind::Command, Some(3), b"a");
        assert_eq!(Entries::new(prev, &same_again).next(), Some(Err(Malformed)));
        let no_term = raw(Kind::Command, None, b"a");
        assert_eq!(Entries::new(EntryId::ZERO, &no_term).next(), Some(Err(Malformed)));
    }

    #[test]
    fn cut_or_unknown_bytes_end_the_entries_with_an_error() {
        let whole = raw(Kind::Command, None, b"abc");
        let prev = EntryId::new(Index(1), Term(1));
        for cut in 1..whole.len() {
            assert_eq!(Entries::new(prev, &whole[..cut]).next(), Some(Err(Malformed)), "{cut}");
        }
        for tag in [3u8, 8, 0x80, 0xff] {
            assert_eq!(Entries::new(prev, &[tag, 0]).next(), Some(Err(Malformed)), "{tag}");
        }
        assert!(decode_varint(&[0xff; 10]).is_none());
    }
}
