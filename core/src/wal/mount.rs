//! Mounting: finding the end of the log, and loading what is live.

use super::read::{Halt, Header, Io};
use super::record::{
    All, Checkpoint, KIND, Link, NOTHING_NEW, OPEN_BYTES_MAX, Place, SEAL, VERSION, geometry_word,
    salt,
};
use super::ring::bit;
use super::snapshot::Begun;
use super::types::{MountError, Progress, Tail};
use super::walk::Walk;
use super::{Boot, Phase, Wal};
use crate::entry::decode_varint;
use crate::identity::Identity;

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
    /// The same: the one that is next is being walked through.
    Suspect,
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
    pub(super) erase_anyway: bool,
    newest: Option<u8>,
    /// The record that tells of the newest snapshot has been met.
    pub(super) reached: bool,
    /// Entries were met that do not follow those in the log.
    pub(super) gap: bool,
    /// The last record's tag.
    pub(super) last_tag: u8,
    retries: u8,
    /// For whom the flash is to be formatted, if it is not to be mounted.
    pub(super) format: Option<Identity>,
    /// A suspect is looked at as the segment after the newest, not as what it says itself.
    last_try: bool,
    /// Where the newest segment links to, where its last record ends, and where nothing is written behind.
    link: Link,
    end: u32,
    dirty: u32,
    refused: Option<MountError>,
    /// Segments that begin with nothing.
    blank: u32,
    blank_at: u32,
    /// Segments whose only record is their first one, which says nothing new: they are taken as never opened.
    void: u32,
    /// The order of use of the segment that is looked at, and of the one behind it.
    seq: u32,
    seq_next: u32,
    /// Bytes of the newest snapshot that were found.
    pub(super) chunk_at: u32,
    /// A chunk that can't be read; at offset 0, where no chunk is, there is none.
    pub(super) damage: Place,
    pub(super) walk: Walk,
}

impl Mount {
    /// The beginning of one: all zeros.
    pub(super) const NONE: Self = Self {
        step: Step::Headers,
        segment: 0,
        format: None,
        erase_anyway: false,
        newest: None,
        reached: false,
        gap: false,
        last_tag: 0,
        retries: 0,
        last_try: false,
        link: (0, 0),
        end: 0,
        dirty: 0,
        refused: None,
        blank: 0,
        blank_at: 0,
        void: 0,
        seq: 0,
        seq_next: 0,
        chunk_at: 0,
        damage: Place::NOWHERE,
        walk: Walk::NONE,
    };
}

impl Wal {
    /// Goes on with the mount.
    pub(super) fn poll_mount(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        // Every turn ends one step for one segment, or the mount.
        while self.phase == Phase::Mounting {
            let ended = match self.mount.step {
                Step::Headers => self.headers(io),
                Step::Tail => self.tail_step(io),
                Step::Suspects => self.suspects_step(io),
                Step::Suspect => self.suspect_step(io),
                Step::Order => self.order_step(io),
                Step::Link => self.link_step(io),
                Step::Load => self.load_step(io),
                Step::Blank => self.blank_step(io),
            };
            match ended {
                Ok(()) => {}
                Err(Halt::Unstable) if self.mount.retries < RETRIES => {
                    self.mount.retries = self.mount.retries.wrapping_add(1);
                    self.begin_again();
                }
                Err(Halt::Refused | Halt::Unstable) => {
                    if ended == Err(Halt::Unstable) {
                        self.corrupt(io, &self.mount.walk.at());
                    }
                    if self.mount.format.is_some() {
                        if io.progress == Progress::Refused(MountError::Unformatted) {
                            self.begin_founding();
                            continue;
                        }
                        io.refuse(MountError::NotBlank);
                    }
                    self.phase = Phase::Off;
                    return Err(Halt::Tell);
                }
                halted => return halted,
            }
        }
        Ok(())
    }

    /// Begins the same mount once more.
    fn begin_again(&mut self) {
        let (geometry, buffer_bytes) = (self.geometry, self.buffer_bytes);
        let Mount { format, erase_anyway, retries, void, .. } = self.mount;
        self.begin(geometry, buffer_bytes, format, erase_anyway);
        (self.mount.retries, self.mount.void) = (retries, void);
    }

    /// What an unfounded log has said is void. A first record without a snapshot marks the flash as ours, before
    /// an erase that is cut short could make it look like anything else's.
    #[inline(never)]
    fn begin_founding(&mut self) {
        self.window.forget();
        self.order.clear();
        self.all = All { identity: self.mount.format, ..All::NOTHING };
        self.snap = Begun::NONE;
        self.suspects = 0;
        self.written = None;
        self.tail.segment = FOUNDED_FIRST.saturating_sub(1);
        let may_mark = self.first_of(self.mount.blank & !bit(FOUNDED_FIRST));
        self.ready = may_mark.map_or(0, bit);
        self.phase = Phase::Founding;
    }

    #[inline(never)]
    fn headers(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        let segment = self.mount.segment;
        if segment >= self.geometry.segments {
            self.mount.segment = 0;
            self.wear.guess(segment, self.mount.blank, self.suspects);
            self.mount.step = Step::Suspects;
            if self.mount.format.is_some() && self.mount.erase_anyway {
                self.mount.blank = 0;
                self.begin_founding();
                self.suspects = self.all_segments();
                // The newest segment goes last: what is left of an old log must not be mounted without it.
                self.tail.segment = self.mount.newest.unwrap_or(self.tail.segment);
            } else if let Some(error) = self.mount.refused {
                return Err(io.refuse(error));
            } else if let Some(newest) = self.mount.newest {
                self.mount.walk.begin(Place::start_of(newest), salt(self.seq), 0);
                self.mount.step = Step::Tail;
            }
            return Ok(());
        }
        match self.header(io, segment)? {
            Header::Blank => self.mount.blank |= bit(segment),
            Header::Other => self.suspects |= bit(segment),
            Header::Open => {
                self.wear.set(segment, io.it.erases);
                self.mount.refused = self.mount.refused.or(self.other_format(io));
                // The mark of a founding that was torn may read well later, and be as new as the log.
                let next = self.seq.wrapping_add(u32::from(segment != FOUNDED_FIRST));
                let newer = self.mount.newest.is_none() || io.it.seq >= next;
                if newer && self.mount.void & bit(segment) == 0 {
                    self.mount.newest = Some(segment);
                    self.mount.link = io.it.link;
                    (self.seq, self.all.record_max) = (io.it.seq, io.it.all.record_max);
                }
            }
        }
        self.mount.segment = segment.wrapping_add(1);
        Ok(())
    }

    /// A first record of another version, or for another geometry, or with longer records than the buffer.
    fn other_format(&self, io: &Io<'_>) -> Option<MountError> {
        let (version, geometry) = (io.it.version, io.it.geometry);
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
                segments: (geometry.wrapping_shr(3) & 31).wrapping_add(1) as u8,
            });
        }
        self.buffer_too_small(io.it.all.record_max)
    }

    /// Records of that length don't fit the buffer.
    pub(super) fn buffer_too_small(&self, record_max: u32) -> Option<MountError> {
        let bytes_needed = record_max as usize;
        (record_max > self.buffer_bytes).then_some(MountError::BufferTooSmall { bytes_needed })
    }

    fn tail_step(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        self.walk(io, false)?;
        (self.mount.end, self.mount.dirty) = (self.mount.walk.at().offset, self.mount.walk.dirty);
        if self.mount.end == 0 {
            return Err(Halt::Unstable);
        }
        self.suspects &= !self.all.retired;
        self.mount.step = Step::Suspects;
        Ok(())
    }

    /// A segment whose first record does not check, but behind which records follow one another as they would in
    /// one that is newer than the newest, was the newest: its first record is rotten, not torn.
    #[inline(never)]
    fn suspects_step(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        let segment = self.mount.segment;
        if segment >= self.geometry.segments {
            if self.mount.newest.is_none() {
                (self.mount.segment, self.mount.step) = (0, Step::Blank);
                return Ok(());
            }
            if self.all.checkpoint.is_none() {
                return Err(io.refuse(MountError::Unformatted));
            }
            if self.mount.format.is_some() {
                return Err(io.refuse(MountError::NotBlank));
            }
            self.begin_order();
            return Ok(());
        }
        if self.suspects & bit(segment) == 0 {
            self.mount.segment = segment.wrapping_add(1);
            return Ok(());
        }
        let at = Place::start_of(segment);
        // Whatever is behind the fields that every first record begins with: geometry, erases, order.
        let readable = self.fetch(io, &at, ORDER_END)?;
        let fields = io.bytes(ORDER_END).get(GEOMETRY_AT..).filter(|_| readable);
        let geometry = geometry_word(&self.geometry).to_le_bytes();
        let ours = fields.unwrap_or_default().strip_prefix(&geometry);
        if ours.is_none() && self.mount.newest.is_none() {
            (self.mount.segment, self.mount.last_try) = (segment.wrapping_add(1), false);
            return Ok(());
        }
        let told = ours.and_then(|rest| decode_varint(decode_varint(rest)?.1));
        let next = self.seq.wrapping_add(1);
        // What was opened in between may have come to nothing, and be gone.
        let seq = match told {
            Some((seq, _)) if !self.mount.last_try => (seq as u32).max(next),
            _ => next,
        };
        self.mount.last_try = seq == next;
        self.mount.step = Step::Suspect;
        self.mount.walk.begin(at, salt(seq), 0);
        // Without a whole first record it is not known how long records are.
        if self.mount.newest.is_some() {
            let records = self.all.record_max.min(self.buffer_bytes).wrapping_mul(3);
            self.mount.walk.reach = OPEN_BYTES_MAX.wrapping_add(records);
        }
        Ok(())
    }

    fn suspect_step(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        self.walk(io, false)?;
        if self.mount.last_try {
            self.mount.segment = self.mount.segment.wrapping_add(1);
        }
        self.mount.last_try = !self.mount.last_try;
        self.mount.step = Step::Suspects;
        // Was it followed? Then its first record reads well now.
        if self.mount.walk.pending.is_none() { Ok(()) } else { Err(Halt::Unstable) }
    }

    fn begin_order(&mut self) {
        self.order.clear();
        let _ = self.mount.newest.map(|newest| self.order.push(newest));
        self.mount.step = Step::Order;
        self.mount.seq = u32::MAX;
    }

    fn order_step(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        let segment = self.order.last().copied().unwrap_or_default();
        if self.header(io, segment)? != Header::Open || io.it.seq >= self.mount.seq {
            return Err(self.damaged(io, segment));
        }
        self.mount.seq = io.it.seq;
        if segment == self.all.checkpoint.first.segment {
            self.order.reverse();
            self.mount.segment = 0;
            self.mount.step = Step::Link;
            return Ok(());
        }
        let link = io.it.link.0.checked_sub(1).filter(|link| *link < self.geometry.segments);
        match link.map(|link| self.order.push(link)) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.damaged(io, segment)),
        }
    }

    /// `segment`, or the chunk that was found damaged before, is why the log can't be loaded.
    fn damaged(&self, io: &mut Io<'_>, segment: u8) -> Halt {
        let start = Place::start_of(segment);
        self.corrupt(io, if self.mount.damage.offset == 0 { &start } else { &self.mount.damage })
    }

    /// Where the live part of the next segment in the order begins and ends.
    #[inline(never)]
    fn link_step(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        let i = usize::from(self.mount.segment);
        let segment = self.order.get(i).copied().unwrap_or_default();
        let mut limit = self.mount.end;
        if let Some(next) = self.order.get(i.wrapping_add(1)).copied() {
            let opens = self.header(io, next)? == Header::Open;
            if !opens || io.it.link.0 != segment.wrapping_add(1) {
                return Err(self.damaged(io, next));
            }
            (limit, self.mount.seq_next) = (io.it.link.1, io.it.seq);
        }
        let mut start = Place::start_of(segment);
        if i == 0 {
            start = self.all.checkpoint.first;
            self.matter = start.link();
            io.log.reset(self.all.checkpoint.id);
            (self.written, self.mount.chunk_at, self.snapshot_flash) = (None, 0, 0);
            (self.mount.gap, self.mount.reached) = (false, false);
        }
        self.mount.walk.begin(start, salt(self.mount.seq), limit);
        self.mount.step = Step::Load;
        Ok(())
    }

    fn load_step(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        self.walk(io, true)?;
        self.mount.segment = self.mount.segment.wrapping_add(1);
        if usize::from(self.mount.segment) < self.order.len() {
            self.mount.seq = self.mount.seq_next;
            self.mount.step = Step::Link;
            return Ok(());
        }
        let last = self.mount.walk.pending;
        let whole = self.mount.reached
            && self.mount.chunk_at == self.all.checkpoint.bytes
            && !self.mount.gap
            && !last.is_none();
        if !whole {
            // The newest snapshot is damaged. The one before will do if all that followed it is still here.
            let first = self.all.checkpoint.first;
            if self.mount.damage.offset == 0 {
                self.mount.damage = first;
            }
            if self.snap.to.is_none() || self.snap.to == self.all.checkpoint {
                return Err(self.damaged(io, first.segment));
            }
            (self.all.checkpoint, self.snap.to) = (self.snap.to, Checkpoint::NONE);
            self.begin_order();
            return Ok(());
        }
        self.end_mount(io, last);
        // Nothing must hang on the only record of a segment, which may decay. If it says nothing new, the log is what it
        // was without it: it may need what this one has given up.
        if self.closed && (self.mount.last_tag & NOTHING_NEW != 0 || self.free() == 0) {
            self.mount.void |= bit(last.segment);
            self.begin_again();
        }
        Ok(())
    }

    /// Where a boot may stand behind what ends there. A write cut short may have touched the page behind the last one
    /// that shows it. So may the head of a record, of which some bytes are the same as erased ones.
    pub(super) fn guarded(&self, dirty: u32) -> u32 {
        let in_page = u32::from(self.geometry.page_bytes).saturating_sub(1);
        let offset = (dirty.wrapping_add(8) | in_page).wrapping_add(1);
        offset.min(self.segment_bytes())
    }

    /// The log is loaded; its last record starts at `last`.
    fn end_mount(&mut self, io: &mut Io<'_>, last: Place) {
        let end = self.mount.walk.at();
        let dirty = self.mount.dirty.max(end.offset);
        let torn = dirty > end.offset;
        self.tail_found =
            if torn { Tail::Torn { offset: self.offset_of(&end) } } else { Tail::Clean };
        let offset = self.guarded(dirty);
        // The next record is a boot: it takes the last one's place in the chain.
        self.tail = Place { offset, ..last };
        // What is torn behind a seal may read well at the next boot: it is declared void, too.
        let sealed = self.mount.last_tag & KIND == SEAL && !torn;
        // The only record of a segment is not enough to go on from.
        self.closed = !sealed && last.offset == 0;
        self.boot = if sealed { Boot::Sealed } else { Boot::Now };
        let [_, _, before, ..] = self.mount.walk.recent;
        // What stands behind a seal tells that it was whole.
        self.unproven = sealed && before.offset == 0;
        if !sealed {
            // It may decay, or it may be one that was never acknowledged: it is written once more, and
            // nothing hangs on it.
            self.boot_after = self.boot_after.map(|prev| prev.max(io.log.base().index));
            // Whatever stands from there on is void then, also what was read because a torn word reads well now.
            let (segment, from) = Place { offset: self.boot_from, ..last }.link();
            self.boot_matters = self.matter.0 == segment && self.matter.1 > from;
            if self.boot_matters {
                self.matter = if last.offset == 0 { self.mount.link } else { (segment, from) };
            } else {
                // The log is the same without it.
                (self.boot_after, self.written) = (None, None);
            }
        }
        io.log.write_begins(io.log.last().index);
        io.log.write_ends();
        self.note = self.all.note;
        self.snap = Begun::NONE;
        self.suspects = (self.suspects | self.mount.void) & self.free_segments();
        self.phase = Phase::Running;
    }

    /// No log was ever here. Is anything else?
    fn blank_step(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        let segment = self.mount.segment;
        if segment >= self.geometry.segments {
            return Err(io.refuse(MountError::Unformatted));
        }
        let first = segment == FOUNDED_FIRST;
        let all_marked = self.mount.blank & self.all_segments() & !bit(FOUNDED_FIRST) == 0;
        let offset = self.mount.blank_at.max(if first { 0 } else { TRACE_BYTES });
        let len = self.buffer_bytes.min(self.segment_bytes().saturating_sub(offset));
        if len == 0 || (first && all_marked) {
            (self.mount.blank_at, self.mount.segment) = (0, segment.wrapping_add(1));
            return Ok(());
        }
        let place = Place { offset, ..Place::start_of(segment) };
        if !self.fetch(io, &place, len)? || !self.is_blank(io.bytes(len)) {
            return Err(io.refuse(MountError::Foreign));
        }
        self.mount.blank_at = offset.wrapping_add(len);
        Ok(())
    }
}
