//! The flash log in a board's image, looked at from outside: which segments and records there are, what they say,
//! what is live, and where it is torn or rotten. The verdict is the core's own, which mounts a copy; the rest is
//! read record by record, so that a damaged image can be looked at as well.

use quorate::flash::Geometry;
use quorate::log::Log;
use quorate::wal::inspect::{
    COMMIT, Checkpoint, HARD_STATE, Kind, Place, Records, Sections, tells_all,
};
use quorate::wal::{HardState, MountError, Mounted, Progress, Tail, Wal, Want};
use quorate::{EntryId, Identity, Index};

use crate::boxed;
use crate::image::{FLASH_BUFFER_BYTES, ImageError, STEPS_MAX, bytes_within, perform};
use crate::wal_layout::find_layout;
use crate::wal_walk::{Step, Walk};

/// What a segment is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// It holds something that is needed.
    Live,
    /// What it holds is not needed any more.
    Free,
    /// Nothing is there.
    Erased,
    /// It begins with something else than a whole first record, as an erase that was cut short leaves behind.
    Unreadable,
    /// A write or an erase failed there: it is out of use.
    Retired,
}

/// One segment.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its number.
    pub number: u8,
    /// What it is to the log.
    pub state: SegmentState,
    /// It is written to.
    pub is_newest: bool,
    /// Its place in the order of use, if its first record is whole.
    pub order: Option<u32>,
    /// How often it had been erased when it was taken into use.
    pub erases: Option<u32>,
    /// The segment before, and the offset at which that one ends.
    pub link: Option<(u8, u32)>,
    /// Bytes up to the end of its last record.
    pub bytes_used: u32,
    /// Bytes of its live records.
    pub bytes_live: u32,
    /// Records that check.
    pub records: usize,
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// It is part of the log.
    Live,
    /// It is not needed any more.
    Dead,
    /// It was written, but a later boot or segment goes on from before it.
    Void,
}

/// A record that checks.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its segment.
    pub segment: u8,
    /// Bytes from the start of the segment.
    pub offset: u32,
    /// Its length, not padded.
    pub bytes: u32,
    /// What becomes of it.
    pub state: RecordState,
    /// What it is for.
    pub kind: Kind,
    /// Its kind and flags.
    pub tag: u8,
    /// What it says.
    pub says: Sections,
    /// What its entries follow, and the last of them; `None` without entries, or if that can't be known.
    pub entries: Option<(EntryId, EntryId)>,
    /// Bytes of entries, or of a chunk.
    pub data_bytes: usize,
}

impl Found {
    /// Does it tell term and vote?
    pub const fn tells_vote(&self) -> bool {
        self.tells_all() || self.tag & HARD_STATE != 0
    }

    /// Does it tell the commit index?
    pub const fn tells_commit(&self) -> bool {
        self.tells_all() || self.tag & COMMIT != 0
    }

    /// Does it restate everything that is no entry?
    pub const fn tells_all(&self) -> bool {
        tells_all(self.tag & 0xf0)
    }
}

/// A place that can't be what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub segment: u8,
    /// Bytes from the start of the image.
    pub offset: u32,
    /// What is wrong.
    pub what: String,
}

/// What a board would make of its flash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is there.
    Sound,
    /// Everything is there, and a write that a power cut has cut short: it was never acknowledged.
    Torn {
        /// Where it began, bytes from the start of the image.
        offset: u32,
    },
    /// Something that had been written whole can't be read, though the board might live with it.
    Damaged(Vec<Damage>),
    /// The log can be read, but a board can't go on with it.
    Stopped(MountError),
}

/// The flash log of an image.
#[derive(Clone, Debug)]
pub struct WalImage {
    /// How the flash is laid out.
    pub geometry: Geometry,
    /// What a board would make of it.
    pub verdict: Verdict,
    /// What a board would refuse it with, if it would.
    pub refused: Option<MountError>,
    /// Whose log it is.
    pub identity: Option<Identity>,
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// The newest snapshot that can be used; for an image that can't be mounted, the newest that is told of.
    pub snapshot: Option<Checkpoint>,
    /// The last entry of the log, and the bytes of all; `None` if it can't be mounted.
    pub log: Option<(EntryId, usize)>,
    /// The number that the board has kept for itself.
    pub note: u32,
    /// All segments, by number.
    pub segments: Vec<Segment>,
    /// All records, by segment and place.
    pub records: Vec<Found>,
    /// Places at which a write had been cut short before an earlier boot, bytes from the start of the image.
    pub cuts: Vec<u32>,
}

impl WalImage {
    /// Bytes from the start of the image, of an offset in a segment.
    pub fn place(&self, segment: u8, offset: u32) -> u64 {
        u64::from(segment) * u64::from(self.geometry.segment_bytes()) + u64::from(offset)
    }

    /// The live segments, oldest first.
    pub fn live(&self) -> Vec<&Segment> {
        let mut live: Vec<_> =
            self.segments.iter().filter(|segment| segment.state == SegmentState::Live).collect();
        live.sort_by_key(|segment| segment.order);
        live
    }

    /// The most and the least that a segment was erased.
    pub fn erases(&self) -> Option<(u32, u32)> {
        let counts = || self.segments.iter().filter_map(|segment| segment.erases);
        Some((counts().max()?, counts().min()?))
    }

    /// Of so many erases that the part endures, what is left to the most worn segment, in percent.
    pub fn life_left_percent(&self, cycles: u32) -> u8 {
        let most = self.erases().map_or(0, |(most, _)| most);
        quorate::wal::life_left_percent(most, cycles)
    }
}

/// Looks at the flash log in `image`.
///
/// # Errors
/// It holds no log, or one of another version, or is not as long as the log in it was laid out for. Damage is
/// no error.
pub fn read(image: &[u8]) -> Result<WalImage, ImageError> {
    let geometry = find_layout(image)?;
    let mounted = mount(image, geometry);
    let refused = mounted.as_ref().err().copied();
    match refused {
        Some(MountError::Unformatted | MountError::Foreign) => {
            return Err(ImageError::NotALog(refused.unwrap_or(MountError::Unformatted)));
        }
        Some(e @ (MountError::Newer { .. } | MountError::Older { .. })) => {
            return Err(ImageError::Version(e));
        }
        _ => {}
    }
    let mounted = mounted.ok();
    let mut reader = Reader { image, geometry, records: vec![], damage: vec![], cuts: vec![] };
    let mut segments: Vec<_> = (0..geometry.segments).map(|number| reader.header(number)).collect();
    let newest = (segments.iter().filter(|segment| segment.order.is_some()))
        .max_by_key(|segment| segment.order)
        .map(|segment| segment.number);
    let told = newest.and_then(|newest| reader.last_of_all(newest));
    let snapshot = reader.snapshot_in_use(told.as_ref(), mounted.as_ref());
    let limits = live_range(&segments, newest, snapshot.as_ref());
    for segment in &mut segments {
        segment.is_newest = Some(segment.number) == newest;
        let retired = told.is_some_and(|told| told.all.retired & (1 << segment.number) != 0);
        if retired && segment.state != SegmentState::Live {
            segment.state = SegmentState::Retired;
        }
        let limit = limits.iter().find(|(live, _)| *live == segment.number).map(|(_, end)| *end);
        reader.read_segment(segment, limit, snapshot.as_ref(), newest_order(&told));
    }
    let Reader { records, mut damage, cuts, .. } = reader;
    if let Some(MountError::Corrupt { segment, offset }) = refused
        && !damage.iter().any(|known| known.offset == offset)
    {
        let what = "a record that was written whole can't be read".into();
        damage.insert(0, Damage { segment, offset, what });
    }
    if let (Some(mounted), Some(told)) = (&mounted, &told) {
        damage.extend(mounted.damage_of_snapshot(&geometry, told));
    }
    let tail = mounted.as_ref().map(|mounted| mounted.mounted.tail);
    let verdict = match (refused, tail) {
        _ if !damage.is_empty() => Verdict::Damaged(damage),
        (Some(refused), _) => Verdict::Stopped(refused),
        (None, Some(Tail::Torn { offset })) => Verdict::Torn { offset },
        _ => Verdict::Sound,
    };
    Ok(WalImage {
        geometry,
        verdict,
        refused,
        identity: mounted
            .as_ref()
            .map(|it| it.mounted.identity)
            .or(told.and_then(|it| it.all.identity)),
        hard_state: (mounted.as_ref().map(|it| it.mounted.hard_state))
            .or(told.map(|it| it.all.hard_state))
            .unwrap_or_default(),
        snapshot,
        log: mounted.as_ref().map(|it| (it.last, it.log_bytes)),
        note: mounted.as_ref().map_or(told.map_or(0, |it| it.all.note), |it| it.note),
        segments,
        records,
        cuts,
    })
}

fn newest_order(told: &Option<Sections>) -> u32 {
    told.map_or(0, |it| it.seq)
}

/// A log that the core has mounted.
struct Mount {
    mounted: Mounted,
    last: EntryId,
    log_bytes: usize,
    note: u32,
    /// The snapshot can be read from beginning to end, and its checksum is right.
    snapshot_reads: bool,
}

impl Mount {
    /// The newest snapshot was not used, or can't be read.
    fn damage_of_snapshot(&self, geometry: &Geometry, told: &Sections) -> Option<Damage> {
        let (used, newest) = (self.mounted.snapshot, told.all.checkpoint);
        let first = newest.first;
        let start = geometry.segment_bytes().saturating_mul(first.segment.into());
        let offset = start.saturating_add(first.offset);
        let older = (used.id, used.crc) != (newest.id, newest.crc);
        let what = match (older, self.snapshot_reads) {
            (false, true) => return None,
            (false, false) => "the snapshot can't be read".into(),
            (true, _) => format!(
                "the newest snapshot, up to entry {}, can't be read; the one up to {} is used",
                newest.id.index, used.id.index
            ),
        };
        Some(Damage { segment: first.segment, offset, what })
    }
}

/// Mounts a copy, as a board would.
fn mount(image: &[u8], geometry: Geometry) -> Result<Mount, MountError> {
    let mut bytes = image.to_vec();
    let mut wal = Wal::new();
    let mut log: Box<Log> = boxed::log(bytes_within(image.len()));
    let mut buffer = vec![0; FLASH_BUFFER_BYTES];
    wal.mount(geometry, buffer.len()).map_err(|_| MountError::Foreign)?;
    let hard_state = HardState::default();
    let mut want = Want { hard_state, commit_needed: Index::ZERO, idle: false, allow_erase: true };
    let mut found: Option<Mount> = None;
    let digest = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let (mut content, mut read) = (digest.digest(), 0);
    for _ in 0..STEPS_MAX {
        match wal.poll(&want, &mut log, &mut buffer) {
            Progress::Op(op) => {
                let done = perform(&mut bytes, geometry.erased, op, &mut buffer);
                wal.handle(done);
            }
            Progress::Mounted(mounted) => {
                want.hard_state = mounted.hard_state;
                let (last, log_bytes) = (log.last(), log.bytes_used());
                let note = wal.note();
                found = Some(Mount { mounted, last, log_bytes, note, snapshot_reads: false });
                wal.read_snapshot(0, usize::MAX);
            }
            Progress::ChunkRead { at, len, .. } if len > 0 => {
                content.update(&buffer[at..at + len]);
                read += len as u32;
                wal.read_snapshot(read, usize::MAX);
            }
            Progress::Refused(error) => return Err(error),
            Progress::Fault(fault) => return Err(MountError::Fault(fault)),
            _ => break,
        }
    }
    let mut found = found.ok_or(MountError::Unformatted)?;
    let snapshot = found.mounted.snapshot;
    found.snapshot_reads = read == snapshot.bytes && content.finalize() == snapshot.crc;
    Ok(found)
}

/// The live segments from the newest back to that of the first chunk, with the offset at which each ends for its
/// successor; 0 for the newest.
fn live_range(
    segments: &[Segment],
    newest: Option<u8>,
    snapshot: Option<&Checkpoint>,
) -> Vec<(u8, u32)> {
    let mut live = vec![];
    let mut next = newest.map(|newest| (newest, 0));
    while let Some((number, limit)) = next
        && live.len() < segments.len()
    {
        live.push((number, limit));
        if snapshot.is_some_and(|snapshot| snapshot.first.segment == number) {
            break;
        }
        next = segments.get(usize::from(number)).and_then(|segment| segment.link);
    }
    live
}

/// Reads the records of an image.
struct Reader<'a> {
    image: &'a [u8],
    geometry: Geometry,
    records: Vec<Found>,
    damage: Vec<Damage>,
    cuts: Vec<u32>,
}

impl<'a> Reader<'a> {
    fn start_of(&self, number: u8) -> usize {
        self.geometry.segment_bytes() as usize * usize::from(number)
    }

    fn bytes(&self, number: u8) -> &'a [u8] {
        let start = self.start_of(number);
        &self.image[start..start + self.geometry.segment_bytes() as usize]
    }

    fn is_blank(&self, bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| *byte == self.geometry.erased)
    }

    fn walk(&self, number: u8) -> Walk<'a> {
        let bytes = self.bytes(number);
        Walk::new(Records::new(&self.geometry, bytes), bytes, self.geometry, number)
    }

    /// A segment by its first record.
    fn header(&self, number: u8) -> Segment {
        let bytes = self.bytes(number);
        let first = Records::new(&self.geometry, bytes).next().map(|first| first.says);
        Segment {
            number,
            state: match first {
                Some(_) => SegmentState::Free,
                None if self.is_blank(bytes) => SegmentState::Erased,
                None => SegmentState::Unreadable,
            },
            is_newest: false,
            order: first.map(|says| says.seq),
            erases: first.map(|says| says.erases),
            link: (first.and_then(|says| Some((says.link.0.checked_sub(1)?, says.link.1))))
                .filter(|link| link.0 < self.geometry.segments),
            bytes_used: 0,
            bytes_live: 0,
            records: 0,
        }
    }

    /// What the newest segment tells of everything but entries, the last word of all its records.
    fn last_of_all(&self, newest: u8) -> Option<Sections> {
        let mut told: Option<Sections> = None;
        for record in self.walk(newest) {
            let Step::Record(record) = record else { continue };
            let says = record.says;
            if record.tells_all() {
                let order = told.map_or(says.seq, |told| told.seq);
                told = Some(Sections { seq: order, ..says });
            } else if let Some(told) = &mut told {
                if record.tells_vote() {
                    (told.all.hard_state.term, told.all.hard_state.vote) =
                        (says.all.hard_state.term, says.all.hard_state.vote);
                }
                if record.tells_commit() {
                    told.all.hard_state.commit = says.all.hard_state.commit;
                }
            }
        }
        told
    }

    /// The snapshot that a mount has found, with its place; else the newest.
    fn snapshot_in_use(
        &self,
        told: Option<&Sections>,
        mounted: Option<&Mount>,
    ) -> Option<Checkpoint> {
        let newest = told.map(|told| told.all.checkpoint).filter(|it| it.first.offset != 0);
        let Some(used) = mounted.map(|mounted| mounted.mounted.snapshot) else { return newest };
        let is_used =
            |it: &Checkpoint| it.first.offset != 0 && it.id == used.id && it.crc == used.crc;
        if newest.is_some_and(|newest| is_used(&newest)) {
            return newest;
        }
        (0..self.geometry.segments)
            .flat_map(|number| Records::new(&self.geometry, self.bytes(number)))
            .flat_map(|record| [record.says.all.checkpoint, record.says.before])
            .find(is_used)
    }

    /// Reads the records of a segment. A live one ends at `limit`, or at the end of the log if that is 0.
    fn read_segment(
        &mut self,
        segment: &mut Segment,
        limit: Option<u32>,
        snapshot: Option<&Checkpoint>,
        newest_order: u32,
    ) {
        let bytes = self.bytes(segment.number);
        let before = self.records.len();
        let begins = snapshot.map(|it| it.first).filter(|it| it.segment == segment.number);
        let begins = limit.and(begins);
        if limit.is_some() {
            segment.state = SegmentState::Live;
        }
        let mut walk = self.walk(segment.number);
        if segment.state == SegmentState::Unreadable {
            // It may have been the newest, with its first record rotten.
            let start = Place { segment: 0, offset: 0, seed: 0 };
            let order = newest_order.wrapping_add(1);
            let records = Records::starting(&self.geometry, bytes, start, order);
            walk = Walk::new(records, bytes, self.geometry, segment.number);
            walk.order = order;
        }
        walk.limit = limit;
        walk.resume = begins;
        let steps: Vec<_> = walk.by_ref().collect();
        let end = walk.end;
        let from = begins.map_or(0, |begins| begins.offset);
        for step in steps {
            match step {
                Step::Record(mut record) => {
                    let of_log = limit.is_some_and(|limit| limit == 0 || record.offset < limit);
                    record.state = match limit {
                        None => RecordState::Dead,
                        // The first record tells whose the chain is.
                        Some(_) if record.offset < from && record.kind != Kind::Open => {
                            RecordState::Dead
                        }
                        Some(_) if of_log => RecordState::Live,
                        Some(_) => RecordState::Void,
                    };
                    if record.kind == Kind::Boot && record.state == RecordState::Live {
                        let back = |it: &&mut Found| it.offset >= record.says.from;
                        let earlier = self.records[before..].iter_mut().filter(back);
                        earlier.for_each(|it| it.state = RecordState::Void);
                    }
                    self.records.push(*record);
                }
                Step::Cut(offset) => {
                    if limit.is_some() {
                        self.cuts.push(self.start_of(segment.number) as u32 + offset);
                    }
                }
                Step::Rot(offset) => {
                    // The chain of the newest segment is followed from its beginning, those of the others from
                    // the first chunk on.
                    let needed =
                        limit.is_some_and(|limit| limit == 0 || (from..limit).contains(&offset));
                    if needed {
                        self.damage.push(Damage {
                            segment: segment.number,
                            offset: self.start_of(segment.number) as u32 + offset,
                            what: "a record that was written whole can't be read".into(),
                        });
                    }
                }
            }
        }
        segment.bytes_used = end;
        segment.records = self.records.len() - before;
        let live = || self.records[before..].iter().filter(|it| it.state == RecordState::Live);
        segment.bytes_live = live().map(|it| self.geometry.padded(it.bytes)).sum();
    }
}
