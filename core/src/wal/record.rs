//! The bytes of certificates and records: one kind of record, with optional sections in a fixed order.

use crate::entry::{decode_varint, encode_varint};
use crate::flash::Geometry;
use crate::identity::Identity;
use crate::log::copy;
use crate::types::{ClusterId, EntryId, Generation, Index, NodeId, Term};
use crc::{CRC_32_ISCSI, Crc, Table};

/// The format that this code writes, and the only one that it reads.
pub(super) const VERSION: u8 = 1;
const MAGIC: [u8; 3] = *b"Qrt";

/// A certificate, before it is padded to the word.
pub(super) const CERT_BYTES: usize = 20;
/// Checksum, length and flags of a record at their longest.
pub(super) const HEAD_BYTES_MAX: usize = 9;
/// What a record keeps free for head and sections, so that its data fit another one that restates it.
pub(super) const SECTIONS_BYTES_MAX: u32 = 112;
/// The first record of a segment is no longer than this, so that any buffer can check it.
pub(super) const OPEN_BYTES_MAX: u32 = 224;

/// Entries, to the end of the body.
pub(super) const ENTRIES: u16 = 1;
/// Which entry they follow; without it, the last one written.
pub(super) const FIRST: u16 = 2;
pub(super) const HARD_STATE: u16 = 4;
pub(super) const COMMIT: u16 = 8;
/// A chunk of a snapshot, to the end of the body.
pub(super) const SNAP: u16 = 16;
pub(super) const SEAL: u16 = 32;
pub(super) const CHECKPOINT: u16 = 64;
pub(super) const OPEN: u16 = 128;
pub(super) const BOOT: u16 = 256;
/// Room for a last fault: nothing writes it yet, every reader steps over it.
pub(super) const FAULT: u16 = 512;
const KNOWN: u16 = 1023;

static CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

/// CRC-32C of `bytes` behind whatever has the checksum `seed`; from zero it is the usual one.
pub(super) fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut digest = CRC.digest_with_initial((!seed).reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

/// Where a record starts or ends, with the checksum that the chain has there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u8,
    pub(super) offset: u32,
    pub(super) chain: u32,
}

/// What makes an erased segment usable: programmed after the erase has returned, never before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cert {
    pub(super) version: u8,
    pub(super) erases: u32,
    /// Grows with every certificate of this flash.
    pub(super) number: u32,
    pub(super) geometry: u32,
    pub(super) crc: u32,
    /// What the checksum should be.
    pub(super) computed: u32,
    magic: bool,
}

impl Cert {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let fields = bytes.get(..16)?;
        let mut reader = Reader(bytes);
        let (magic, version) = (reader.array::<3>()?, reader.byte()?);
        Some(Self {
            magic: magic == MAGIC,
            version,
            erases: reader.word()?,
            number: reader.word()?,
            geometry: reader.word()?,
            crc: reader.word()?,
            computed: checksum(0, fields),
        })
    }

    pub(super) const fn is_valid(&self) -> bool {
        self.magic && self.crc == self.computed
    }

    pub(super) fn encode(erases: u32, number: u32, geometry: u32, out: &mut [u8]) {
        let mut writer = Writer { bytes: out, at: 0 };
        writer.bytes(&MAGIC);
        writer.byte(VERSION);
        writer.word(erases);
        writer.word(number);
        writer.word(geometry);
        let crc = checksum(0, out.get(..16).unwrap_or_default());
        copy(out.get_mut(16..).unwrap_or_default(), &crc.to_le_bytes());
    }
}

/// The geometry as a certificate tells it: word, segments, length of a segment in units of 128 bytes.
pub(super) const fn geometry_word(geometry: &Geometry) -> u32 {
    let word = geometry.word_bytes.trailing_zeros();
    let segments = geometry.segments.saturating_sub(1) as u32;
    let units = geometry.segment_bytes().wrapping_shr(7);
    word | segments.wrapping_shl(3) | units.wrapping_shl(8)
}

/// The beginning of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) crc: u32,
    pub(super) flags: u16,
    pub(super) bytes: u32,
    pub(super) body_bytes: u32,
}

impl Head {
    /// `None` where no record can begin, as on blank flash.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let crc = reader.word()?;
        let body_bytes = u32::from(u16::try_from(reader.varint()?).ok()?);
        let flags = u16::try_from(reader.varint()?).ok()?;
        if flags == 0 || flags & !KNOWN != 0 {
            return None;
        }
        let rest = reader.0.len();
        Some(Self { crc, flags, bytes: bytes.len().saturating_sub(rest) as u32, body_bytes })
    }

    /// Bytes of the whole record, not padded.
    pub(super) const fn total(&self) -> u32 {
        self.bytes.saturating_add(self.body_bytes)
    }

    /// Encodes length and flags; the checksum's place is left as it is.
    pub(super) fn encode(flags: u16, body_bytes: u32, out: &mut [u8]) -> usize {
        let mut at = 4;
        encode_varint(u64::from(body_bytes), out, &mut at);
        encode_varint(u64::from(flags), out, &mut at);
        at
    }
}

/// A snapshot is whole in flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) id: EntryId,
    pub(super) bytes: u32,
    pub(super) crc: u32,
    /// Its first chunk; nothing before that is needed.
    pub(super) first: Place,
    /// The checkpoint before it; all zeros if there is none. (No `Option` and no `bool` in here: what is
    /// absent has to be all zeros, or the node's log would lie in flash and RAM both.)
    pub(super) prev: Place,
    pub(super) identity: Identity,
    /// It came from a leader: the log before and behind it is void.
    pub(super) installed: u8,
}

impl Checkpoint {
    /// The checkpoint before it.
    pub(super) fn prev(&self) -> Option<Place> {
        // No record starts at 0: the certificate is there.
        (self.prev.offset > 0).then_some(self.prev)
    }
}

/// What a record says. A field counts only if its flag is set.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sections<'a> {
    pub(super) flags: u16,
    /// OPEN: the segment's place in the order of use.
    pub(super) seq: u32,
    /// OPEN: where the segment before ends; none for the first one of all.
    pub(super) link: Option<Place>,
    /// BOOT: what lies between here and that offset is void.
    pub(super) from: u32,
    /// OPEN, BOOT: the newest checkpoint.
    pub(super) checkpoint_at: Option<Place>,
    /// OPEN, BOOT: no record behind is longer.
    pub(super) record_max: u32,
    /// OPEN, BOOT, SEAL: segments out of use.
    pub(super) retired: u32,
    /// OPEN, BOOT, SEAL: the next segments to use, numbers plus one, erased and certified.
    pub(super) ready: [u8; 2],
    pub(super) term: Term,
    pub(super) vote: Option<NodeId>,
    pub(super) commit: Index,
    /// SEAL: the checksum before, so that a seal can be told without what it follows.
    pub(super) seal: u32,
    pub(super) checkpoint: Option<Checkpoint>,
    /// SNAP: the snapshot, and where the chunk lies in it.
    pub(super) snap: EntryId,
    pub(super) snap_at: u32,
    /// FIRST: what the entries follow.
    pub(super) prev: EntryId,
    /// Entries or a chunk.
    pub(super) data: &'a [u8],
}

impl<'a> Sections<'a> {
    pub(super) const fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    /// Encodes everything but the data; the number of bytes.
    pub(super) fn encode(&self, out: &mut [u8]) -> usize {
        let mut to = Writer { bytes: out, at: 0 };
        if self.has(OPEN) {
            to.varint(u64::from(self.seq));
            to.place(self.link);
        }
        if self.has(BOOT) {
            to.varint(u64::from(self.from));
        }
        if self.has(OPEN | BOOT) {
            to.place(self.checkpoint_at);
            to.varint(u64::from(self.record_max));
        }
        if self.has(OPEN | BOOT | SEAL) {
            to.varint(u64::from(self.retired));
            to.bytes(&self.ready);
        }
        if self.has(HARD_STATE) {
            to.varint(self.term.0);
            to.byte(self.vote.map_or(0, NodeId::get));
        }
        if self.has(COMMIT) {
            to.varint(self.commit.0);
        }
        if self.has(SEAL) {
            to.word(self.seal);
        }
        if let Some(checkpoint) = self.checkpoint.filter(|_| self.has(CHECKPOINT)) {
            to.checkpoint(&checkpoint);
        }
        if self.has(SNAP) {
            to.id(self.snap);
            to.varint(u64::from(self.snap_at));
        }
        if self.has(FIRST) {
            to.id(self.prev);
        }
        to.at
    }

    /// `None` if the body is not what its flags say.
    pub(super) fn decode(flags: u16, body: &'a [u8]) -> Option<Self> {
        let mut from = Reader(body);
        let mut it = Self { flags, ..Self::default() };
        if it.has(OPEN) {
            it.seq = from.small()?;
            it.link = from.place()?;
        }
        if it.has(BOOT) {
            it.from = from.small()?;
        }
        if it.has(OPEN | BOOT) {
            it.checkpoint_at = from.place()?;
            it.record_max = from.small()?;
        }
        if it.has(OPEN | BOOT | SEAL) {
            it.retired = from.small()?;
            it.ready = from.array()?;
        }
        if it.has(HARD_STATE) {
            it.term = Term(from.varint()?);
            it.vote = match from.byte()? {
                0 => None,
                id => Some(NodeId::new(id)?),
            };
        }
        if it.has(COMMIT) {
            it.commit = Index(from.varint()?);
        }
        if it.has(SEAL) {
            it.seal = from.word()?;
        }
        if it.has(CHECKPOINT) {
            it.checkpoint = Some(from.checkpoint()?);
        }
        if it.has(FAULT) {
            from.byte()?;
            from.varint()?;
        }
        if it.has(SNAP) {
            it.snap = from.id()?;
            it.snap_at = from.small()?;
        }
        if it.has(FIRST) {
            it.prev = from.id()?;
        }
        it.data = from.0;
        let sound = match flags & (ENTRIES | SNAP) {
            0 => it.data.is_empty(),
            both => both != ENTRIES | SNAP,
        };
        sound.then_some(it)
    }
}

struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        copy(self.bytes.get_mut(self.at..).unwrap_or_default(), bytes);
        self.at = self.at.saturating_add(bytes.len());
    }

    fn byte(&mut self, byte: u8) {
        self.bytes(&[byte]);
    }

    fn word(&mut self, word: u32) {
        self.bytes(&word.to_le_bytes());
    }

    fn varint(&mut self, value: u64) {
        encode_varint(value, self.bytes, &mut self.at);
    }

    fn id(&mut self, id: EntryId) {
        self.varint(id.index.0);
        self.varint(id.term.0);
    }

    fn place(&mut self, place: Option<Place>) {
        let Some(Place { segment, offset, chain }) = place else {
            return self.byte(0);
        };
        self.byte(segment.saturating_add(1));
        self.varint(u64::from(offset));
        self.word(chain);
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.byte(checkpoint.installed);
        self.id(checkpoint.id);
        self.varint(u64::from(checkpoint.bytes));
        self.word(checkpoint.crc);
        self.place(Some(checkpoint.first));
        self.place(checkpoint.prev());
        self.bytes(&checkpoint.identity.cluster.0);
        self.byte(checkpoint.identity.node.get());
        self.varint(u64::from(checkpoint.identity.generation.0));
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn word(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn varint(&mut self) -> Option<u64> {
        let (value, rest) = decode_varint(self.0)?;
        self.0 = rest;
        Some(value)
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }

    fn id(&mut self) -> Option<EntryId> {
        Some(EntryId::new(Index(self.varint()?), Term(self.varint()?)))
    }

    #[allow(clippy::option_option)]
    fn place(&mut self) -> Option<Option<Place>> {
        let Some(segment) = self.byte()?.checked_sub(1) else {
            return Some(None);
        };
        let (offset, chain) = (self.small()?, self.word()?);
        (segment < 32).then_some(Some(Place { segment, offset, chain }))
    }

    fn checkpoint(&mut self) -> Option<Checkpoint> {
        Some(Checkpoint {
            installed: self.byte()?.min(1),
            id: self.id()?,
            bytes: self.small()?,
            crc: self.word()?,
            first: self.place()??,
            prev: self.place()?.unwrap_or_default(),
            identity: Identity {
                cluster: ClusterId(self.array()?),
                node: NodeId::new(self.byte()?)?,
                generation: Generation(u16::try_from(self.varint()?).ok()?),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { segment: 31, offset: u32::MAX, chain: 0x1234_5678 };

    fn longest() -> Sections<'static> {
        let id = EntryId::new(Index(u64::MAX), Term(u64::MAX));
        Sections {
            flags: OPEN | HARD_STATE | COMMIT,
            seq: u32::MAX,
            link: Some(PLACE),
            from: u32::MAX,
            checkpoint_at: Some(PLACE),
            record_max: 65_536,
            retired: u32::MAX,
            ready: [32, 31],
            term: Term(u64::MAX),
            vote: NodeId::new(31),
            commit: Index(u64::MAX),
            seal: u32::MAX,
            checkpoint: Some(Checkpoint {
                id,
                bytes: u32::MAX,
                crc: 7,
                first: PLACE,
                prev: PLACE,
                identity: Identity {
                    cluster: ClusterId([9; 4]),
                    node: NodeId::new(1).unwrap(),
                    generation: Generation(u16::MAX),
                },
                installed: 1,
            }),
            snap: id,
            snap_at: u32::MAX,
            prev: id,
            data: b"",
        }
    }

    #[test]
    fn every_combination_of_sections_reads_back_as_it_was_written() {
        for flags in 1..FAULT {
            let it = Sections { flags, ..longest() };
            let mut bytes = [0; 256];
            let mut len = it.encode(&mut bytes);
            if flags & (ENTRIES | SNAP) != 0 {
                bytes[len] = 0x77;
                len += 1;
            }
            let back = Sections::decode(flags, &bytes[..len]);
            if flags & (ENTRIES | SNAP) == ENTRIES | SNAP {
                assert!(back.is_none(), "entries and a chunk in one record");
                continue;
            }
            let back = back.unwrap();
            let mut again = [0; 256];
            assert_eq!(back.encode(&mut again), len - back.data.len());
            assert_eq!(again[..len - back.data.len()], bytes[..len - back.data.len()]);
            for cut in 0..len - back.data.len() {
                assert!(
                    Sections::decode(flags, &bytes[..cut]).is_none(),
                    "{flags:#x} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn head_and_sections_at_their_longest_fit_what_is_kept_free_for_them() {
        for flags in [
            OPEN | HARD_STATE | COMMIT | ENTRIES | FIRST,
            BOOT | HARD_STATE | COMMIT | ENTRIES | FIRST,
            SNAP,
        ] {
            let len = Sections { flags, ..longest() }.encode(&mut [0; 256]);
            assert!((HEAD_BYTES_MAX + len) as u32 <= SECTIONS_BYTES_MAX, "{flags:#x}: {len}");
        }
        let checkpoint = OPEN | BOOT | HARD_STATE | COMMIT | CHECKPOINT;
        let len = Sections { flags: checkpoint, ..longest() }.encode(&mut [0; 256]);
        assert!(len <= 192 && (HEAD_BYTES_MAX + len) as u32 <= OPEN_BYTES_MAX);
    }

    #[test]
    fn a_last_fault_that_a_later_release_writes_is_stepped_over() {
        let body = [5, 0x80, 1, 3, 0];
        assert!(Sections::decode(FAULT, &body[..3]).is_some());
        assert!(Sections::decode(FAULT, &body[..2]).is_none());
    }

    #[test]
    fn blank_flash_of_either_kind_is_no_record_and_no_certificate() {
        for erased in [0, 0xff] {
            assert!(Head::decode(&[erased; 16]).is_none());
            assert!(!Cert::decode(&[erased; 20]).unwrap().is_valid());
        }
    }

    #[test]
    fn a_checksum_goes_on_where_another_ended() {
        let whole = checksum(0, b"123456789");
        assert_eq!(whole, 0xe306_9283, "CRC-32C");
        assert_eq!(checksum(checksum(0, b"1234"), b"56789"), whole);
        assert_ne!(checksum(1, b"123456789"), whole);
    }
}
