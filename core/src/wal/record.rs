//! The bytes of a record: one kind of record, with sections in a fixed order.
//!
//! A record's fields are listed once, in [`Sections::fields`], for writing and reading both.

use super::ring::count;
use super::types::HardState;
use crate::entry::{decode_varint, encode_varint};
use crate::flash::Geometry;
use crate::identity::Identity;
use crate::log::copy;
use crate::types::{ClusterId, EntryId, Generation, Index, NodeId, Term};

/// The format that this code writes, and the only one that it reads.
pub const VERSION: u8 = 1;

/// Checksum, length and tag.
pub(super) const HEAD_BYTES: u32 = 7;
/// Where in it the tag is.
pub(super) const TAG_AT: usize = 6;
/// What a record keeps free for head and sections, so that its data fit another one that restates it.
pub(super) const SECTIONS_BYTES_MAX: u32 = 128;
/// The first record of a segment is no longer than this, so that any buffer can check it.
pub(super) const OPEN_BYTES_MAX: u32 = 224;

/// A flag of a tag: entries, to the end of the body.
pub const ENTRIES: u8 = 1;
/// A flag of a tag: which entry they follow; without it, the last one written.
pub const FIRST: u8 = 2;
/// A flag of a tag: term and vote.
pub const HARD_STATE: u8 = 4;
/// A flag of a tag: the commit index.
pub const COMMIT: u8 = 8;

/// A flag of a first record, whose term and vote go without saying: the segments before hold all that it says.
pub(super) const NOTHING_NEW: u8 = 4;

/// The kinds of a tag.
pub(super) const KIND: u8 = 0xf0;
/// A chunk of a snapshot, to the end of the body.
pub(super) const CHUNK: u8 = 0x10;
pub(super) const SEAL: u8 = 0x20;
pub(super) const CHECKPOINT: u8 = 0x30;
pub(super) const BOOT: u8 = 0x40;
pub(super) const OPEN: u8 = 0x50;
/// A new note.
pub(super) const NOTE: u8 = 0x60;

/// Does a record of this kind tell all that is no entry?
pub const fn tells_all(kind: u8) -> bool {
    matches!(kind, CHECKPOINT | BOOT | OPEN | NOTE)
}

/// What tells the records of one life of a segment from those of another, and of another segment.
pub(super) const fn salt(seq: u32) -> u32 {
    seq.wrapping_mul(0x9e37_79b9)
}

/// Where a record starts or ends, and what the checksum of the record there starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The segment.
    pub segment: u8,
    /// Bytes from the start of the segment.
    pub offset: u32,
    /// What the checksum starts from.
    pub seed: u32,
}

impl Place {
    pub(super) const NOWHERE: Self = Self { segment: 0, offset: 0, seed: 0 };

    /// Not a place.
    pub(super) const NONE: Self = Self { segment: u8::MAX, offset: u32::MAX, seed: 0 };

    pub(super) const fn is_none(&self) -> bool {
        self.offset == u32::MAX
    }

    /// Where the first record of a segment is.
    pub(super) const fn start_of(segment: u8) -> Self {
        Self { segment, offset: 0, seed: 0 }
    }

    pub(super) const fn link(&self) -> Link {
        (self.segment.wrapping_add(1), self.offset)
    }
}

/// Where a segment ends whose successor is read next: its number plus one, 0 for none, and the offset.
pub(super) type Link = (u8, u32);

/// The geometry as a segment's first record tells it: word, segments, segment in units of 128 bytes.
pub(super) const fn geometry_word(geometry: &Geometry) -> u32 {
    // Of a power of two, this is the logarithm.
    let word = count(geometry.word_bytes.wrapping_sub(1) as u32);
    let segments = geometry.segments.saturating_sub(1) as u32;
    let units = geometry.segment_bytes().wrapping_shr(7);
    word | segments.wrapping_shl(3) | units.wrapping_shl(8)
}

/// The beginning of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) crc: u32,
    /// Bytes of the whole record, not padded.
    pub(super) total: u32,
    /// Zero if there is none.
    pub(super) tag: u8,
}

impl Head {
    pub(super) const NONE: Self = Self { crc: 0, total: 0, tag: 0 };

    /// `None` where no record can begin, as on blank flash.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, d, low, high, tag, ..] = bytes else {
            return None;
        };
        let body_bytes = u32::from(u16::from_le_bytes([low, high]));
        let known = tag != 0 && tag & KIND <= NOTE;
        known.then_some(Self {
            crc: u32::from_le_bytes([a, b, c, d]),
            tag,
            total: HEAD_BYTES.wrapping_add(body_bytes),
        })
    }

    pub(super) const fn kind(&self) -> u8 {
        self.tag & KIND
    }
}

/// A snapshot that is whole in flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last entry that it covers.
    pub id: EntryId,
    /// Its length.
    pub bytes: u32,
    /// CRC-32C of it.
    pub crc: u32,
    /// Its first chunk; nothing before that is needed. At offset 0, where no chunk can be, there is no
    /// snapshot yet. (No `Option` in here: what is absent has to be all zeros.)
    pub first: Place,
    /// 1 if it came from a leader: the log before and behind it is void.
    pub installed: u8,
}

impl Checkpoint {
    pub(super) const NONE: Self =
        Self { id: EntryId::ZERO, bytes: 0, crc: 0, first: Place::NOWHERE, installed: 0 };

    pub(super) const fn is_none(&self) -> bool {
        self.first.offset == 0
    }
}

/// All that a log holds beside its entries.
#[derive(Clone, Copy, Debug)]
pub struct All {
    /// Segments out of use.
    pub retired: u32,
    /// No record behind is longer.
    pub record_max: u32,
    /// What the board wants to be remembered.
    pub note: u32,
    /// Whose log it is.
    pub identity: Option<Identity>,
    /// The newest snapshot.
    pub checkpoint: Checkpoint,
    /// Term, vote and commit index.
    pub hard_state: HardState,
}

impl All {
    pub(super) const NOTHING: Self = Self {
        retired: 0,
        record_max: 0,
        note: 0,
        identity: None,
        checkpoint: Checkpoint::NONE,
        hard_state: HardState { term: Term::ZERO, vote: None, commit: Index::ZERO },
    };
}

/// What a record says. A field counts only if the record's tag says that it is there.
#[derive(Clone, Copy, Debug)]
pub struct Sections {
    /// The format.
    pub version: u8,
    /// What the log was laid out for.
    pub geometry: u32,
    /// How often the segment was erased.
    pub erases: u32,
    /// The segment's place in the order of use.
    pub seq: u32,
    /// Where the segment before ends: its number plus one, 0 for none, and the offset.
    pub link: (u8, u32),
    /// The last entry written before.
    pub written: EntryId,
    /// What lies between there and here is void.
    pub from: u32,
    /// All that is no entry; of it term, vote and commit index also by themselves.
    pub all: All,
    /// The checkpoint before.
    pub before: Checkpoint,
    /// The checksum of the record before, so that a seal can be told without what it follows.
    pub seal: u32,
    /// The snapshot of which this is a chunk.
    pub snap: EntryId,
    /// Where the chunk lies in it.
    pub snap_at: u32,
    /// What the entries follow.
    pub prev: EntryId,
}

impl Sections {
    pub(super) const EMPTY: Self = Self {
        version: 0,
        geometry: 0,
        erases: 0,
        seq: 0,
        link: (0, 0),
        written: EntryId::ZERO,
        from: 0,
        all: All::NOTHING,
        before: Checkpoint::NONE,
        seal: 0,
        snap: EntryId::ZERO,
        snap_at: 0,
        prev: EntryId::ZERO,
    };

    /// The fields of a record with this tag, in the order of the format.
    fn fields(&mut self, tag: u8, io: &mut Fields<'_>) {
        let kind = tag & KIND;
        let has = |flag: u8| tag & flag != 0;
        let tells_all = tells_all(kind);
        if kind == OPEN {
            io.byte(&mut self.version);
            io.word(&mut self.geometry);
            io.short(&mut self.erases);
            io.short(&mut self.seq);
            io.byte(&mut self.link.0);
            io.short(&mut self.link.1);
            io.id(&mut self.written);
        }
        if kind == BOOT {
            io.short(&mut self.from);
        }
        if tells_all {
            io.short(&mut self.all.retired);
            io.short(&mut self.all.record_max);
            io.short(&mut self.all.note);
            io.identity(&mut self.all.identity);
            io.checkpoint(&mut self.all.checkpoint);
        }
        if kind == CHECKPOINT {
            io.checkpoint(&mut self.before);
        }
        if tells_all || has(HARD_STATE) {
            io.number(&mut self.all.hard_state.term.0);
            io.node(&mut self.all.hard_state.vote);
        }
        if tells_all || has(COMMIT) {
            io.number(&mut self.all.hard_state.commit.0);
        }
        if kind == SEAL {
            io.word(&mut self.seal);
        }
        if kind == CHUNK {
            io.id(&mut self.snap);
            io.short(&mut self.snap_at);
        }
        if has(FIRST) {
            io.id(&mut self.prev);
        }
    }

    /// Encodes everything but the data; the number of bytes. (Writing changes nothing: the fields are listed once.)
    pub(super) fn encode(&mut self, tag: u8, out: &mut [u8]) -> usize {
        let mut io = Fields { io: Io::Write(out), at: 0, bad: false };
        self.fields(tag, &mut io);
        io.at
    }

    /// Bytes of a whole record without its data.
    pub(super) fn bytes(&mut self, tag: u8) -> u32 {
        HEAD_BYTES.wrapping_add(self.encode(tag, &mut []) as u32)
    }

    /// Takes over what a body says; where in it the data begin, or `None` if it is not what its tag says.
    pub(super) fn decode(&mut self, tag: u8, body: &[u8]) -> Option<usize> {
        let mut io = Fields { io: Io::Read(body), at: 0, bad: false };
        *self = Self::EMPTY;
        self.fields(tag, &mut io);
        let has_data = tag & ENTRIES != 0 || tag & KIND == CHUNK;
        (!io.bad && (has_data || io.at == body.len())).then_some(io.at)
    }
}

enum Io<'a> {
    Read(&'a [u8]),
    Write(&'a mut [u8]),
}

/// Goes over the fields of a record, to write or to read them.
struct Fields<'a> {
    io: Io<'a>,
    at: usize,
    bad: bool,
}

impl Fields<'_> {
    fn array<const N: usize>(&mut self, value: &mut [u8; N]) {
        match &mut self.io {
            Io::Write(out) => copy(out.get_mut(self.at..).unwrap_or_default(), value),
            Io::Read(bytes) => match bytes.get(self.at..).and_then(<[u8]>::first_chunk::<N>) {
                Some(found) => *value = *found,
                None => self.bad = true,
            },
        }
        self.at = self.at.wrapping_add(N);
    }

    fn byte(&mut self, value: &mut u8) {
        let mut bytes = [*value];
        self.array(&mut bytes);
        [*value] = bytes;
    }

    fn word(&mut self, value: &mut u32) {
        let mut bytes = value.to_le_bytes();
        self.array(&mut bytes);
        *value = u32::from_le_bytes(bytes);
    }

    fn number(&mut self, value: &mut u64) {
        match &mut self.io {
            Io::Write(out) => encode_varint(*value, out, &mut self.at),
            Io::Read(bytes) => match bytes.get(self.at..).and_then(decode_varint) {
                Some((found, rest)) => {
                    *value = found;
                    self.at = bytes.len().saturating_sub(rest.len());
                }
                None => self.bad = true,
            },
        }
    }

    fn short(&mut self, value: &mut u32) {
        let mut number = u64::from(*value);
        self.number(&mut number);
        self.bad |= number > u64::from(u32::MAX);
        *value = number as u32;
    }

    fn id(&mut self, id: &mut EntryId) {
        self.number(&mut id.index.0);
        self.number(&mut id.term.0);
    }

    fn node(&mut self, node: &mut Option<NodeId>) {
        let mut number = node.map_or(0, NodeId::get);
        self.byte(&mut number);
        *node = NodeId::new(number);
        self.bad |= node.is_none() && number != 0;
    }

    fn identity(&mut self, identity: &mut Option<Identity>) {
        let mut node = identity.map(|it| it.node);
        let (mut cluster, mut generation) =
            identity.map_or(([0; 4], 0), |it| (it.cluster.0, u32::from(it.generation.0)));
        self.node(&mut node);
        if let Some(node) = node {
            self.array(&mut cluster);
            self.short(&mut generation);
            let (cluster, generation) = (ClusterId(cluster), Generation(generation as u16));
            *identity = Some(Identity { cluster, node, generation });
        }
    }

    fn checkpoint(&mut self, it: &mut Checkpoint) {
        self.short(&mut it.first.offset);
        if it.is_none() {
            return;
        }
        self.byte(&mut it.first.segment);
        self.word(&mut it.first.seed);
        self.byte(&mut it.installed);
        self.id(&mut it.id);
        self.short(&mut it.bytes);
        self.word(&mut it.crc);
    }
}
