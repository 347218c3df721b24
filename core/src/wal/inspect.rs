//! A reader of the records in one segment's bytes, for tools that look at flash images. It does no I/O and believes
//! nothing: a record counts if its checksum continues the chain. Which segment follows which, and whether a
//! break is a torn write or rot, is for the mount to say.

pub use super::record::{
    All, COMMIT, Checkpoint, ENTRIES, FIRST, HARD_STATE, Place, Sections, VERSION, tells_all,
};
use super::record::{BOOT, CHECKPOINT, CHUNK, HEAD_BYTES, Head, NOTE, OPEN, SEAL, salt};
use crate::check::checksum;
use crate::flash::Geometry;

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Entries, term and vote, the commit index: what came together.
    Group,
    /// A part of a snapshot.
    Chunk,
    /// The record before was written whole and acknowledged.
    Seal,
    /// A snapshot is whole.
    Checkpoint,
    /// A board has started here: what stands from [`Sections::from`] on up to here is void.
    Boot,
    /// The first of a segment.
    Open,
    /// The board wanted a number to be remembered.
    Note,
}

/// A record that checks.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Bytes from the start of the segment.
    pub offset: u32,
    /// Its length, not padded.
    pub bytes: u32,
    /// What it is for.
    pub kind: Kind,
    /// Its kind, and flags for what it has besides.
    pub tag: u8,
    /// What it says.
    pub says: Sections,
    /// The encoded entries, or the chunk; empty if there is neither.
    pub data: &'a [u8],
}

/// The records of one segment, followed as by a mount: where the chain breaks, a BOOT behind may continue it. Ends within
/// the bytes, whatever these are; behind a first record of another version at once.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    geometry: Geometry,
    bytes: &'a [u8],
    salt: u32,
    at: Place,
    /// The last good records, the newest first.
    recent: [Option<Place>; 4],
}

impl<'a> Records<'a> {
    /// From the first record on.
    pub fn new(geometry: &Geometry, segment: &'a [u8]) -> Self {
        Self::starting(geometry, segment, Place::NOWHERE, 0)
    }

    /// From this place on, in a segment with this place in the order of use.
    pub fn starting(geometry: &Geometry, segment: &'a [u8], at: Place, order: u32) -> Self {
        let (geometry, bytes, salt) = (*geometry, segment, salt(order));
        Self { geometry, bytes, salt, at, recent: [None; 4] }
    }

    /// Where the next record is looked for: once there is none, where the chain ends or breaks.
    pub const fn at(&self) -> Place {
        self.at
    }

    fn read(&self, at: Place) -> Option<(Head, Sections, &'a [u8])> {
        let bytes = self.bytes.get(at.offset as usize..)?;
        let head = Head::decode(bytes)?;
        let checked = bytes.get(4..head.total as usize)?;
        let opens = head.kind() == OPEN;
        if checksum(at.seed, checked) != head.crc || opens != (at.offset == 0) {
            return None;
        }
        let body = checked.get(3..)?;
        let version = body.first().copied().filter(|_| opens).unwrap_or(VERSION);
        if version != VERSION {
            return Some((head, Sections { version, ..Sections::EMPTY }, &[]));
        }
        let mut says = Sections::EMPTY;
        let data_at = says.decode(head.tag, body)?;
        Some((head, says, body.get(data_at..)?))
    }

    /// The next boot that continues the chain from one of the last good records, or from the break.
    fn boot(&self) -> Option<Place> {
        let word = usize::from(self.geometry.word_bytes.max(1));
        (self.at.offset as usize..self.bytes.len()).step_by(word).find_map(|offset| {
            let rest = self.bytes.get(offset..)?;
            let head = Head::decode(rest).filter(|head| head.kind() == BOOT)?;
            let body = rest.get(HEAD_BYTES as usize..head.total as usize)?;
            let mut says = Sections::EMPTY;
            says.decode(head.tag, body)?;
            let mut recent = self.recent.into_iter().flatten().chain([self.at]);
            let from = recent.find(|from| from.offset == says.from)?;
            let here = Place { offset: offset as u32, ..from };
            self.read(here).map(|_| here)
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        if self.read(self.at).is_none() {
            self.at = self.boot()?;
        }
        let (at, (head, says, data)) = (self.at, self.read(self.at)?);
        let [a, b, c, _] = self.recent;
        self.recent = [Some(at), a, b, c];
        let kind = match head.kind() {
            CHUNK => Kind::Chunk,
            SEAL => Kind::Seal,
            CHECKPOINT => Kind::Checkpoint,
            BOOT => Kind::Boot,
            OPEN => Kind::Open,
            NOTE => Kind::Note,
            _ => Kind::Group,
        };
        if kind == Kind::Open {
            self.salt = salt(says.seq);
            self.bytes = if says.version == VERSION { self.bytes } else { &[] };
        }
        let offset = at.offset.saturating_add(self.geometry.padded(head.total));
        self.at = Place { offset, seed: head.crc ^ self.salt, ..at };
        let (offset, bytes, tag) = (at.offset, head.total, head.tag);
        Some(Record { offset, bytes, kind, tag, says, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::record::geometry_word;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const SEGMENT_BYTES: usize = 2048;

    fn geometry(word_bytes: u8) -> Geometry {
        Geometry {
            word_bytes,
            erased: 0xff,
            page_bytes: u16::from(word_bytes),
            block_bytes: SEGMENT_BYTES as u32,
            blocks_per_segment: 1,
            segments: 4,
        }
    }

    /// Puts a record at `at`, and moves `at` behind it.
    fn put(segment: &mut [u8], at: &mut Place, salt: u32, word: u8, tag: u8, body: &[u8]) {
        let [low, high] = (body.len() as u16).to_le_bytes();
        let checked = [&[low, high, tag], body].concat();
        let crc = checksum(at.seed, &checked);
        let record = [&crc.to_le_bytes()[..], &checked].concat();
        let from = at.offset as usize;
        if let Some(place) = segment.get_mut(from..from + record.len()) {
            place.copy_from_slice(&record);
        }
        at.offset += geometry(word).padded(record.len() as u32);
        at.seed = crc ^ salt;
    }

    fn says(kind: u8, says: &Sections) -> Vec<u8> {
        let mut body = vec![0; 200];
        let len = { *says }.encode(kind, &mut body);
        body.truncate(len);
        body
    }

    /// A segment, fourth in the order of use, with its first record and two seals; the place behind, and those of the seals.
    fn segment(word: u8) -> (Vec<u8>, Place, [Place; 2]) {
        let mut bytes = vec![0xff; SEGMENT_BYTES];
        let mut at = Place::NOWHERE;
        let geometry = geometry_word(&geometry(word));
        let open = says(OPEN, &Sections { version: VERSION, geometry, seq: 4, ..Sections::EMPTY });
        put(&mut bytes, &mut at, salt(4), word, OPEN, &open);
        let seals = [0; 2].map(|_| {
            let here = at;
            put(&mut bytes, &mut at, salt(4), word, SEAL, &[0; 4]);
            here
        });
        (bytes, at, seals)
    }

    fn places(records: &mut Records<'_>) -> Vec<(Kind, u32)> {
        records.map(|record| (record.kind, record.offset)).collect()
    }

    #[test]
    fn the_chain_is_followed_to_its_end() {
        let (bytes, end, [one, two]) = segment(8);
        let mut records = Records::new(&geometry(8), &bytes);
        let expected = [(Kind::Open, 0), (Kind::Seal, one.offset), (Kind::Seal, two.offset)];
        assert_eq!(places(&mut records), expected);
        assert_eq!(records.at(), end);
        let mut behind = Records::starting(&geometry(8), &bytes, one, 4);
        assert_eq!(places(&mut behind), expected[1..]);
        let mut of_another_life = Records::starting(&geometry(8), &bytes, one, 5);
        assert_eq!(places(&mut of_another_life), expected[1..2]);
    }

    #[test]
    fn a_boot_continues_from_the_record_that_it_names_and_from_no_other() {
        let (sound, end, [before, last]) = segment(4);
        let other_seed = Place { seed: last.seed ^ 1, ..last };
        let other_place = Place { offset: last.offset - 4, ..last };
        for (from, found) in
            [(last, true), (before, true), (other_seed, false), (other_place, false)]
        {
            let mut bytes = sound.clone();
            let boot = says(BOOT, &Sections { from: from.offset, ..Sections::EMPTY });
            let mut at = Place { offset: end.offset + 64, ..from };
            put(&mut bytes, &mut at, salt(4), 4, BOOT, &boot);
            put(&mut bytes, &mut at, salt(4), 4, SEAL, &[0; 4]);
            let mut records = Records::new(&geometry(4), &bytes);
            let kinds: Vec<_> = places(&mut records).into_iter().map(|(kind, _)| kind).collect();
            let all = [Kind::Open, Kind::Seal, Kind::Seal, Kind::Boot, Kind::Seal];
            assert_eq!(kinds, all[..if found { 5 } else { 3 }]);
            assert_eq!(records.at(), if found { at } else { end });
        }
    }

    #[test]
    fn of_another_version_only_the_version_is_told() {
        let mut bytes = vec![0xff; SEGMENT_BYTES];
        let mut at = Place::NOWHERE;
        put(&mut bytes, &mut at, salt(0), 4, OPEN, &[VERSION + 1, 1, 2, 3]);
        put(&mut bytes, &mut at, salt(0), 4, SEAL, &[0; 4]);
        let mut records = Records::new(&geometry(4), &bytes);
        assert_eq!(records.next().map(|record| record.says.version), Some(VERSION + 1));
        assert!(records.next().is_none());
    }

    /// Records in order, each within the segment, and an end.
    fn check(mut records: Records<'_>, bytes: &[u8]) -> usize {
        let (mut behind, mut count) = (records.at().offset, 0);
        while let Some(record) = records.next() {
            assert!(record.offset >= behind && record.bytes >= HEAD_BYTES);
            behind = record.offset + record.bytes;
            assert!(behind as usize <= bytes.len() && records.at().offset >= behind);
            count += 1;
        }
        assert!(records.next().is_none());
        count
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_are_read_to_an_end(
            bytes in vec(any::<u8>(), 0..600), word in 0u8..40, at in any::<(u8, u32, u32)>(), order: u32,
        ) {
            let (segment, offset, seed) = at;
            check(Records::new(&geometry(word), &bytes), &bytes);
            for offset in [offset, offset % 600] {
                let at = Place { segment, offset, seed };
                check(Records::starting(&geometry(word), &bytes, at, order), &bytes);
            }
        }

        #[test]
        fn whatever_a_record_says_that_checks_it_is_read_to_an_end(
            bodies in vec((any::<u8>(), vec(any::<u8>(), 0..90)), 1..30), word in 0u32..6,
            flips in vec((0..SEGMENT_BYTES, any::<u8>()), 0..3),
        ) {
            let word = 1 << word;
            let (mut bytes, mut at, _) = segment(word);
            for (tag, body) in &bodies {
                put(&mut bytes, &mut at, salt(4), word, tag % 0x70, body);
            }
            for (at, flip) in flips {
                bytes[at] ^= flip;
            }
            let count = check(Records::new(&geometry(word), &bytes), &bytes);
            prop_assert!(count <= bodies.len() + 3);
        }
    }
}
