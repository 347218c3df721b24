//! Mounting: finding the end of the log, and loading what is live.

use super::read::{Header, Miss, Opened};
use super::record::{
    Checkpoint, Link, NOTHING_NEW, OPEN_BYTES_MAX, Place, SEAL, VERSION, geometry_word, salt,
};
use super::types::{MountError, Progress, Tail};
use super::walk::Walk;
use super::{Boot, Phase, Wal, Work};
use crate::entry::decode_varint;
use crate::log::Log;
use crate::types::{EntryId, Index};

/// Cells that read now so and now so may make a mount begin anew, this often.
const RETRIES: u8 = 32;

/// Where in a first record its geometry begins, and its order of use ends at the latest.
const GEOMETRY_AT: usize = 8;
const ORDER_END: u32 = 22;

/// What a founding that is cut short may leave behind at the start of a segment, bytes.
pub(super) const TRACE_BYTES: u32 = 64;

/// The segment that a founding erases first; the others are marked before, so that what a cut leaves of it
/// is known to be ours.
pub(super) const FOUNDED_FIRST: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The beginning of each segment: which is the newest?
    Headers,
    /// The newest segment, for all but the log.
    Tail,
    /// Segments that would be newer, had their first record not been lost.
    Suspects,
    /// From the newest segment back to the one with the first chunk.
    Order,
    /// Each live segment, from the first chunk on.
    Link,
    Load,
    /// All of it, if nothing tells that a log was here.
    Blank,
}

/// What a mount has to remember between its steps.
#[derive(Clone, Copy)]
pub(super) struct Mount {
    step: Step,
    /// The segment, or place in the order, that is next.
    segment: u8,
    pub(super) format: bool,
    pub(super) erase_anyway: bool,
    newest: Option<u8>,
    /// Where the newest segment links to, where its last record ends, and where nothing is written behind.
    link: Link,
    end: u32,
    dirty: u32,
    refused: Option<MountError>,
    /// Segments that begin with nothing.
    blank: u32,
    blank_at: u32,
    pub(super) walk: Walk,
    /// The order of use of the segment that is looked at, and of the one behind it.
    seq: u32,
    seq_next: u32,
    /// The last entry met, if it is known.
    pub(super) written: Option<EntryId>,
    /// Bytes of the newest snapshot that were found.
    pub(super) chunk_at: u32,
    /// The record that tells of the newest snapshot has been met.
    pub(super) reached: bool,
    /// Entries were met that do not follow those in the log.
    pub(super) gap: bool,
    /// A chunk that can't be read: segment and offset in the partition.
    pub(super) damage: Option<(u8, u32)>,
    /// The snapshot before the newest one.
    pub(super) before: Checkpoint,
    /// The last record: its tag, where what it restates begins, and what its entries follow.
    pub(super) last_tag: u8,
    pub(super) last_from: u32,
    pub(super) last_prev: Option<Index>,
    retries: u8,
    /// A suspect is looked at as the segment after the newest, not as what it says itself.
    last_try: bool,
    /// Segments whose only record is their first one, which says nothing new: they are taken as never opened.
    void: u32,
}

/// Why a step can't go on.
pub(super) enum Halt {
    /// A read comes first.
    Read,
    Refused(MountError),
    /// What was read a moment ago reads otherwise now.
    Unstable,
}

impl From<Miss> for Halt {
    fn from(_: Miss) -> Self {
        Self::Read
    }
}

impl Mount {
    pub(super) const fn new(format: bool, erase_anyway: bool) -> Self {
        Self {
            step: Step::Headers,
            segment: 0,
            format,
            erase_anyway,
            newest: None,
            link: (0, 0),
            end: 0,
            dirty: 0,
            refused: None,
            blank: 0,
            blank_at: 0,
            walk: Walk::START,
            seq: 0,
            seq_next: 0,
            written: None,
            chunk_at: 0,
            reached: false,
            gap: false,
            damage: None,
            before: Checkpoint::NONE,
            last_tag: 0,
            last_from: 0,
            last_prev: None,
            retries: 0,
            last_try: false,
            void: 0,
        }
    }

    /// The same mount from its beginning.
    const fn again(&self, retries: u8, void: u32) -> Self {
        let anew = Self::new(self.format, self.erase_anyway);
        Self { retries, void, ..anew }
    }
}

impl Wal {
    /// Goes on with the mount; `None` once it has led to a log that runs.
    pub(super) fn poll_mount(
        &mut self,
        mut mount: Mount,
        log: &mut Log,
        buf: &[u8],
    ) -> Option<Progress> {
        // Every turn ends one step for one segment, or the mount.
        while self.phase == Phase::Mounting {
            let ended = match mount.step {
                Step::Headers => self.headers(&mut mount, buf),
                Step::Tail => self.tail_step(&mut mount, log, buf),
                Step::Suspects => self.suspects_step(&mut mount, log, buf),
                Step::Order => self.order_step(&mut mount, buf),
                Step::Link => self.link_step(&mut mount, log, buf),
                Step::Load => self.load_step(&mut mount, log, buf),
                Step::Blank => self.blank_step(&mut mount, buf),
            };
            match ended {
                Ok(()) => {}
                Err(Halt::Read) => {
                    self.work = Work::Mount(mount);
                    return Some(self.window.op());
                }
                Err(Halt::Unstable) if mount.retries < RETRIES => {
                    mount = mount.again(mount.retries.saturating_add(1), mount.void);
                    self.forget_log();
                }
                Err(Halt::Unstable) => return Some(self.refuse(self.corrupt_at(&mount))),
                Err(Halt::Refused(MountError::Unformatted)) if mount.format => {
                    self.begin_founding(&mount);
                }
                Err(Halt::Refused(_)) if mount.format => {
                    return Some(self.refuse(MountError::NotBlank));
                }
                Err(Halt::Refused(error)) => return Some(self.refuse(error)),
            }
        }
        None
    }

    fn corrupt_at(&self, mount: &Mount) -> MountError {
        let Place { segment, .. } = mount.walk.at;
        MountError::Corrupt { segment, offset: self.offset_of(&mount.walk.at) }
    }

    pub(super) fn refuse(&mut self, error: MountError) -> Progress {
        self.phase = Phase::Off;
        Progress::Refused(error)
    }

    /// What an unfounded log has said is void. A first record without a snapshot marks the flash as ours, before
    /// an erase that is cut short could make it look like anything else's.
    fn begin_founding(&mut self, mount: &Mount) {
        self.forget_log();
        self.tail.segment = FOUNDED_FIRST.saturating_sub(1);
        let may_mark = |segment: &u8| {
            *segment != FOUNDED_FIRST && mount.blank.wrapping_shr(u32::from(*segment)) & 1 == 1
        };
        if let Some(segment) = (0..self.geometry.segments).find(may_mark) {
            let _ = self.ready.push(segment);
        }
        self.phase = Phase::Founding;
    }

    fn headers(&mut self, mount: &mut Mount, buf: &[u8]) -> Result<(), Halt> {
        let segment = mount.segment;
        if segment >= self.geometry.segments {
            mount.segment = 0;
            self.wear.guess(segment, mount.blank, self.suspects);
            if mount.format && mount.erase_anyway {
                mount.blank = 0;
                self.begin_founding(mount);
                self.suspects = all_segments(&self.geometry);
                // The newest segment goes last: what is left of an old log must not be mounted without it.
                self.tail.segment = mount.newest.unwrap_or(self.tail.segment);
            } else if let Some(error) = mount.refused {
                return Err(Halt::Refused(error));
            } else if let Some(newest) = mount.newest {
                mount.walk = Walk::new(Place::start_of(newest), salt(self.seq), 0);
                mount.step = Step::Tail;
            } else {
                mount.step = Step::Suspects;
            }
            return Ok(());
        }
        let bit = 1u32.wrapping_shl(u32::from(segment));
        match self.header(segment, buf)? {
            Header::Blank => mount.blank |= bit,
            Header::Other => self.suspects |= bit,
            Header::Open(_) if mount.void & bit != 0 => {}
            Header::Open(open) => {
                if let Some(error) = self.other_format(&open) {
                    mount.refused = mount.refused.or(Some(error));
                }
                let none = mount.newest.is_none();
                self.wear.set(segment, open.erases);
                if none || open.seq > self.seq {
                    mount.newest = Some(segment);
                    mount.link = open.link;
                    (self.seq, self.record_max) = (open.seq, open.record_max);
                }
            }
        }
        mount.segment = segment.saturating_add(1);
        Ok(())
    }

    /// A first record of another version, or for another geometry, or with longer records than the buffer.
    fn other_format(&self, open: &Opened) -> Option<MountError> {
        let Opened { version, geometry, record_max, .. } = *open;
        if version > VERSION {
            return Some(MountError::Newer { version });
        }
        if version < VERSION {
            return Some(MountError::Older { version });
        }
        if geometry != geometry_word(&self.geometry) {
            return Some(MountError::OtherGeometry {
                word_bytes: 1u8.wrapping_shl(geometry & 7),
                segment_bytes: geometry.wrapping_shr(8).wrapping_shl(7),
                segments: (geometry.wrapping_shr(3) & 31).saturating_add(1) as u8,
            });
        }
        let bytes_needed = record_max as usize;
        (record_max > self.buffer_bytes).then_some(MountError::BufferTooSmall { bytes_needed })
    }

    fn tail_step(&mut self, mount: &mut Mount, log: &mut Log, buf: &[u8]) -> Result<(), Halt> {
        self.walk(mount, false, log, buf)?;
        (mount.end, mount.dirty) = (mount.walk.at.offset, mount.walk.dirty);
        if mount.end == 0 {
            return Err(Halt::Unstable);
        }
        self.suspects &= !self.retired;
        mount.walk = Walk::START;
        mount.step = Step::Suspects;
        Ok(())
    }

    /// A segment whose first record does not check, but behind which records follow one another as they would in
    /// one that is newer than the newest, was the newest: its first record is rotten, not torn.
    fn suspects_step(&mut self, mount: &mut Mount, log: &mut Log, buf: &[u8]) -> Result<(), Halt> {
        let segment = mount.segment;
        if segment < self.geometry.segments {
            let suspect = self.suspects.wrapping_shr(u32::from(segment)) & 1 == 1;
            if suspect && mount.walk.is_unused() {
                let at = Place::start_of(segment);
                // Whatever is behind the fields that every first record begins with: geometry, erases, order.
                let start = self.fetch(0, &at, ORDER_END)?.unwrap_or(usize::MAX);
                let fields = buf.get(start.saturating_add(GEOMETRY_AT)..).unwrap_or_default();
                let geometry = geometry_word(&self.geometry).to_le_bytes();
                let ours = fields.strip_prefix(&geometry);
                let told = ours.and_then(|rest| decode_varint(decode_varint(rest)?.1));
                let next = self.seq.saturating_add(1);
                // What was opened in between may have come to nothing, and be gone.
                let seq = match told {
                    Some((seq, _)) if !mount.last_try => (seq as u32).max(next),
                    _ => next,
                };
                mount.last_try = seq == next;
                if ours.is_some() || mount.newest.is_some() {
                    mount.walk = Walk::new(at, salt(seq), 0);
                    let records = self.record_max.min(self.buffer_bytes).wrapping_mul(3);
                    mount.walk.reach = OPEN_BYTES_MAX.saturating_add(records);
                }
            }
            if !mount.walk.is_unused() {
                self.walk(mount, false, log, buf)?;
                mount.walk = Walk::START;
            }
            if suspect && !mount.last_try {
                mount.last_try = true;
            } else {
                (mount.last_try, mount.segment) = (false, segment.saturating_add(1));
            }
            return Ok(());
        }
        if mount.newest.is_none() {
            (mount.segment, mount.step) = (0, Step::Blank);
            return Ok(());
        }
        if self.checkpoint.is_none() {
            return Err(Halt::Refused(MountError::Unformatted));
        }
        if mount.format {
            return Err(Halt::Refused(MountError::NotBlank));
        }
        self.begin_order(mount)
    }

    fn begin_order(&mut self, mount: &mut Mount) -> Result<(), Halt> {
        self.order.clear();
        let _ = mount.newest.map(|newest| self.order.push(newest));
        mount.step = Step::Order;
        mount.seq = u32::MAX;
        Ok(())
    }

    fn order_step(&mut self, mount: &mut Mount, buf: &[u8]) -> Result<(), Halt> {
        let segment = self.order.last().copied().unwrap_or_default();
        let Header::Open(open) = self.header(segment, buf)? else {
            return Err(self.damaged(mount, segment));
        };
        if open.seq >= mount.seq {
            return Err(self.damaged(mount, segment));
        }
        mount.seq = open.seq;
        if segment == self.checkpoint.first.segment {
            self.order.reverse();
            mount.segment = 0;
            mount.step = Step::Link;
            return Ok(());
        }
        let link = open.link.0.checked_sub(1).filter(|link| *link < self.geometry.segments);
        match link.map(|link| self.order.push(link)) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.damaged(mount, segment)),
        }
    }

    /// `segment`, or the chunk that was found damaged before, is why the log can't be loaded.
    fn damaged(&self, mount: &Mount, segment: u8) -> Halt {
        let (segment, offset) = mount.damage.unwrap_or((segment, self.segment_at(segment)));
        Halt::Refused(MountError::Corrupt { segment, offset })
    }

    /// Where the live part of the next segment in the order begins and ends.
    fn link_step(&mut self, mount: &mut Mount, log: &mut Log, buf: &[u8]) -> Result<(), Halt> {
        let i = usize::from(mount.segment);
        let segment = self.order.get(i).copied().unwrap_or_default();
        let mut limit = mount.end;
        if let Some(next) = self.order.get(i.saturating_add(1)).copied() {
            match self.header(next, buf)? {
                Header::Open(open) if open.link.0 == segment.saturating_add(1) => {
                    (limit, mount.seq_next) = (open.link.1, open.seq);
                }
                _ => return Err(self.damaged(mount, next)),
            }
        }
        let mut start = Place::start_of(segment);
        if i == 0 {
            start = self.checkpoint.first;
            self.matter = start.link();
            log.reset(self.checkpoint.id);
            (mount.written, mount.chunk_at, self.snapshot_flash) = (None, 0, 0);
            (mount.gap, mount.reached) = (false, false);
        }
        mount.walk = Walk::new(start, salt(mount.seq), limit);
        mount.step = Step::Load;
        Ok(())
    }

    fn load_step(&mut self, mount: &mut Mount, log: &mut Log, buf: &[u8]) -> Result<(), Halt> {
        let last = self.walk(mount, true, log, buf)?;
        mount.segment = mount.segment.saturating_add(1);
        if usize::from(mount.segment) < self.order.len() {
            mount.seq = mount.seq_next;
            mount.step = Step::Link;
            return Ok(());
        }
        let whole = mount.reached && mount.chunk_at == self.checkpoint.bytes && !mount.gap;
        let Some(last) = last.filter(|_| whole) else {
            // The newest snapshot is damaged. The one before will do if all that followed it is still here.
            let first = self.checkpoint.first;
            mount.damage = mount.damage.or(Some((first.segment, self.offset_of(&first))));
            if mount.before.is_none() || mount.before == self.checkpoint {
                return Err(self.damaged(mount, first.segment));
            }
            self.checkpoint = core::mem::replace(&mut mount.before, Checkpoint::NONE);
            return self.begin_order(mount);
        };
        self.end_mount(mount, last, log);
        // Nothing must hang on the only record of a segment, which may decay. If it says nothing new, the log is what it
        // was without it: it may need what this one has given up.
        if self.closed && (mount.last_tag & NOTHING_NEW != 0 || self.free() == 0) {
            let bit = 1u32.wrapping_shl(u32::from(last.segment));
            *mount = mount.again(mount.retries, mount.void | bit);
            self.forget_log();
            self.phase = Phase::Mounting;
        }
        Ok(())
    }

    /// The log is loaded; its last record starts at `last`.
    fn end_mount(&mut self, mount: &Mount, last: Place, log: &mut Log) {
        let end = mount.walk.at;
        let dirty = mount.dirty.max(end.offset);
        let torn = dirty > end.offset;
        self.tail_found =
            if torn { Tail::Torn { offset: self.offset_of(&end) } } else { Tail::Clean };
        // A write cut short may have touched the page behind the last one that shows it. So may the head of a
        // record, of which some bytes are the same as erased ones.
        let in_page = u32::from(self.geometry.page_bytes).saturating_sub(1);
        let offset = (dirty.saturating_add(8) | in_page).saturating_add(1);
        let offset = offset.min(self.geometry.segment_bytes());
        // The next record is a boot: it takes the last one's place in the chain.
        self.tail = Place { offset, ..last };
        self.boot_from = mount.last_from;
        self.written = mount.written;
        let sealed = mount.last_tag & super::record::KIND == SEAL;
        // The only record of a segment is not enough to go on from.
        self.closed = !sealed && last.offset == 0;
        self.boot = if sealed { Boot::Sealed } else { Boot::Now };
        let before = mount.walk.recent.get(1).copied().flatten();
        // What stands behind a seal tells that it was whole.
        self.unproven = sealed && !torn && before.is_some_and(|before| before.offset == 0);
        if !sealed {
            // It may decay, or it may be one that was never acknowledged: it is written once more, and
            // nothing hangs on it.
            self.boot_after = mount.last_prev.map(|prev| prev.max(log.base().index));
            self.boot_matters = self.matter == end.link();
            if self.boot_matters {
                let before = Place { offset: mount.last_from, ..last };
                self.matter = if last.offset == 0 { mount.link } else { before.link() };
            }
        }
        log.write_begins(log.last().index);
        log.write_ends();
        self.note = self.note_durable;
        self.suspects |= mount.void;
        for segment in self.order.iter() {
            self.suspects &= !1u32.wrapping_shl(u32::from(*segment));
        }
        self.phase = Phase::Running;
    }

    /// No log was ever here. Is anything else?
    fn blank_step(&mut self, mount: &mut Mount, buf: &[u8]) -> Result<(), Halt> {
        let segment = mount.segment;
        if segment >= self.geometry.segments {
            return Err(Halt::Refused(MountError::Unformatted));
        }
        let first = 1u32.wrapping_shl(u32::from(FOUNDED_FIRST));
        let all_marked = mount.blank & all_segments(&self.geometry) & !first == 0;
        let skipped = if segment == FOUNDED_FIRST { 0 } else { TRACE_BYTES };
        let offset = mount.blank_at.max(skipped);
        let len = self.buffer_bytes.min(self.geometry.segment_bytes().saturating_sub(offset));
        if len == 0 || (segment == FOUNDED_FIRST && all_marked) {
            (mount.blank_at, mount.segment) = (0, segment.saturating_add(1));
            return Ok(());
        }
        let place = Place { offset, ..Place::start_of(segment) };
        let at = self.fetch(offset, &place, len)?;
        let bytes = at.and_then(|at| buf.get(at..at.saturating_add(len as usize)));
        if !self.is_blank(bytes.unwrap_or_default()) {
            return Err(Halt::Refused(MountError::Foreign));
        }
        mount.blank_at = offset.saturating_add(len);
        Ok(())
    }
}

/// A bit for each segment.
fn all_segments(geometry: &crate::flash::Geometry) -> u32 {
    u32::MAX.wrapping_shr(32u32.saturating_sub(u32::from(geometry.segments)))
}
