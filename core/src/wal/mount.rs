//! Mounting: finding the end of the log, and loading what is live; and formatting.

use super::record::{CHECKPOINT, Cert, OPEN, Place, SEAL, VERSION, geometry_word};
use super::search::{Halt, Walk, Walked};
use super::types::{HardState, MountError, Progress, Tail, Want};
use super::{Boot, Job, Phase, Wal};
use crate::flash::FlashOp;
use crate::log::Log;

/// Cells that read now so and now so may make a mount begin anew, this often.
const RETRIES: u8 = 32;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The beginning of each segment: which is the newest?
    Headers,
    /// The newest segment, for the newest checkpoint.
    Tail,
    /// Segments that could be newer, had their first record not been lost.
    Suspects,
    Checkpoint,
    /// From the newest segment back to the one with the first chunk.
    Order,
    /// Each live segment, from the first chunk on.
    Link,
    Load,
    /// The segments that are claimed to be ready.
    Ready,
    /// All of it, if nothing tells that a log was here.
    Blank,
    Marker,
    Erase,
}

/// What a mount has to remember between its steps.
pub(super) struct Mount {
    step: Step,
    /// The segment, or place in the order, that is next.
    segment: u8,
    pub(super) format: bool,
    pub(super) erase_anyway: bool,
    certs: bool,
    suspects: u32,
    /// The newest segment: its certificate's number, its first record.
    tail_number: u32,
    tail: Option<Place>,
    refused: Option<MountError>,
    pub(super) walk: Walk,
    /// The longest record that the log may hold.
    pub(super) record_max: u32,
    /// Bytes of the snapshot that were found whole.
    pub(super) chunk_at: u32,
    /// Entries were met that do not follow those in the log.
    pub(super) gap: bool,
    /// A chunk that can't be read.
    pub(super) damage: Option<MountError>,
    retries: u8,
    blank_at: u32,
    /// Where the next segment of the order starts.
    next_start: Place,
    /// The segments that are claimed to be ready; of the first of them there is doubt.
    claimed: [u8; 2],
    doubt: bool,
    /// A segment without a trace of a certificate.
    marker: Option<u8>,
    /// A segment with a certificate.
    newest_cert: u8,
    /// A checkpoint stands behind a first record that can't be read.
    pub(super) checkpoint_seen: bool,
}

impl Mount {
    pub(super) const START: Self = Self {
        step: Step::Headers,
        segment: 0,
        format: false,
        erase_anyway: false,
        certs: false,
        suspects: 0,
        tail_number: 0,
        tail: None,
        refused: None,
        walk: Walk::START,
        record_max: 0,
        chunk_at: 0,
        gap: false,
        damage: None,
        retries: 0,
        blank_at: 0,
        next_start: Place { segment: 0, offset: 0, chain: 0 },
        claimed: [0; 2],
        doubt: false,
        marker: None,
        newest_cert: 0,
        checkpoint_seen: false,
    };
}

impl Wal {
    pub(super) fn poll_mount(&mut self, want: &Want, log: &mut Log, buf: &mut [u8]) -> Progress {
        // Every turn ends one step for one segment, or the mount.
        loop {
            let ended = match self.mount.step {
                Step::Headers => self.headers(buf),
                Step::Suspects => self.suspects(log, buf),
                Step::Tail => self.tail_step(log, buf),
                Step::Checkpoint => self.checkpoint_step(buf),
                Step::Order => self.order_step(buf),
                Step::Link => self.link_step(log, buf),
                Step::Load => self.load_step(log, buf),
                Step::Ready => self.ready_step(buf),
                Step::Blank => self.blank_step(buf),
                Step::Marker | Step::Erase => {
                    self.phase = Phase::Formatting;
                    return self.poll_format(None, want, buf);
                }
            };
            match ended {
                Ok(()) if self.phase == Phase::Running => {
                    if self.boot == Boot::Now {
                        return self.poll_running(None, want, log, buf);
                    }
                    return self.mounted().unwrap_or(Progress::Idle);
                }
                Ok(()) => {}
                Err(Halt::Read(op)) => return Progress::Op(op),
                Err(Halt::Refused(error)) => match self.refuse(error) {
                    Some(error) => return Progress::Refused(error),
                    None => continue,
                },
                Err(Halt::Unstable) => {
                    self.mount.retries = self.mount.retries.saturating_add(1);
                    if self.mount.retries > RETRIES {
                        let at = self.mount.walk.at;
                        let (segment, offset) = (at.segment, self.offset_of(&at));
                        self.phase = Phase::Off;
                        return Progress::Refused(MountError::Corrupt { segment, offset });
                    }
                    self.restart();
                }
            }
        }
    }

    fn restart(&mut self) {
        let (format, erase_anyway, retries) =
            (self.mount.format, self.mount.erase_anyway, self.mount.retries);
        self.mount = Mount { format, erase_anyway, retries, ..Mount::START };
        self.window.forget();
        self.order.clear();
        self.checkpoint_at = None;
        self.checkpoint = None;
    }

    /// What a refusal means for formatting: an unfounded log is what it looks for.
    fn refuse(&mut self, error: MountError) -> Option<MountError> {
        if !self.mount.format {
            self.phase = Phase::Off;
            return Some(error);
        }
        if error == MountError::Unformatted {
            self.mount.step = Step::Marker;
            // What an unfounded log has said is void.
            (self.ready, self.retired) = ([0; 2], 0);
            self.durable = HardState::default();
            self.written = None;
            return None;
        }
        self.phase = Phase::Off;
        Some(MountError::NotBlank)
    }

    fn headers(&mut self, buf: &[u8]) -> Result<(), Halt> {
        let segment = self.mount.segment;
        if segment >= self.geometry.segments {
            self.mount.segment = 0;
            self.mount.step = match self.mount.tail {
                _ if self.mount.format && self.mount.erase_anyway => Step::Erase,
                Some(tail) => {
                    self.fits_buffer()?;
                    self.mount.walk = Walk::from(tail, None);
                    Step::Tail
                }
                None => Step::Suspects,
            };
            return Ok(());
        }
        self.window.ahead = self.cert_bytes().saturating_add(64);
        let header = self.header(segment, buf)?;
        let bit = 1u32.wrapping_shl(u32::from(segment));
        // Segment 1 is formatted first.
        if header.cert_blank && self.mount.marker != Some(0) && segment != 1 {
            self.mount.marker = Some(segment);
        }
        self.mount.segment = segment.saturating_add(1);
        if let Some(cert) = header.cert.filter(|cert| cert.is_valid()) {
            if let Some(error) = self.other_format(&cert) {
                self.mount.refused = self.mount.refused.or(Some(error));
                return Ok(());
            }
            self.erases_min = match self.mount.certs {
                true => self.erases_min.min(cert.erases),
                false => cert.erases,
            };
            self.mount.certs = true;
            self.mount.newest_cert = segment;
            self.erases_max = self.erases_max.max(cert.erases);
            self.cert_next = self.cert_next.max(cert.number.saturating_add(1));
        }
        match header.open {
            Some(open) => {
                self.mount.certs = true;
                if self.mount.tail.is_none() || open.seq > self.seq {
                    self.seq = open.seq;
                    self.mount.tail = Some(open.at);
                    self.link = open.link;
                    self.mount.tail_number = header.cert.map_or(0, |cert| cert.number);
                    self.mount.record_max = open.record_max;
                }
            }
            None if !header.blank => self.mount.suspects |= bit,
            None => {}
        }
        Ok(())
    }

    /// A certificate of another version, or for another geometry.
    fn other_format(&self, cert: &Cert) -> Option<MountError> {
        let (version, geometry) = (cert.version, cert.geometry);
        if version > VERSION {
            return Some(MountError::Newer { version });
        }
        if version < VERSION {
            return Some(MountError::Older { version });
        }
        (geometry != geometry_word(&self.geometry)).then_some(MountError::OtherGeometry {
            word_bytes: 1u8.wrapping_shl(geometry & 7),
            segment_bytes: geometry.wrapping_shr(8).wrapping_shl(7),
            segments: (geometry.wrapping_shr(3) & 31).saturating_add(1) as u8,
        })
    }

    /// A segment with a newer certificate, or none that can be read but a newer first record, in which
    /// one record follows another, was the newest: its first record is rotten, not torn.
    fn suspects(&mut self, log: &mut Log, buf: &[u8]) -> Result<(), Halt> {
        let segment = self.mount.segment;
        if segment >= self.geometry.segments {
            self.mount.step = self.after_suspects()?;
            return Ok(());
        }
        let bit = 1u32.wrapping_shl(u32::from(segment));
        if self.mount.suspects & bit != 0 {
            let walking = self.mount.walk.at.segment == segment && self.mount.walk.at.offset > 0;
            if !walking {
                self.window.ahead = self.cert_bytes().saturating_add(64);
                let header = self.header(segment, buf)?;
                let none = self.mount.tail.is_none();
                let newer = match header.cert {
                    Some(cert) => cert.is_valid() && (none || cert.number > self.mount.tail_number),
                    None => header.seq_unchecked.is_some_and(|seq| none || seq > self.seq),
                };
                if newer && header.open.is_none() {
                    let chain = header.cert.map_or(0, |cert| cert.crc);
                    let offset = self.cert_bytes();
                    self.mount.record_max = self.mount.record_max.max(self.buffer_bytes);
                    self.mount.walk = Walk::broken(Place { segment, offset, chain });
                    return Ok(());
                }
            } else {
                self.walk(false, log, buf)?;
                self.mount.walk = Walk::START;
            }
        }
        self.mount.segment = segment.saturating_add(1);
        Ok(())
    }

    fn after_suspects(&mut self) -> Result<Step, Halt> {
        if self.mount.tail.is_some() {
            return Ok(Step::Checkpoint);
        }
        if let Some(error) = self.mount.refused {
            return Err(Halt::Refused(error));
        }
        if self.mount.certs {
            return Err(Halt::Refused(MountError::Unformatted));
        }
        self.mount.segment = 0;
        Ok(Step::Blank)
    }

    /// Records that are longer than the buffer can't be checked.
    fn fits_buffer(&self) -> Result<(), Halt> {
        if self.mount.record_max > self.buffer_bytes {
            let bytes_needed = self.mount.record_max as usize;
            return Err(Halt::Refused(MountError::BufferTooSmall { bytes_needed }));
        }
        Ok(())
    }

    fn tail_step(&mut self, log: &mut Log, buf: &[u8]) -> Result<(), Halt> {
        self.window.ahead = self.buffer_bytes;
        self.walk(false, log, buf)?;
        self.fits_buffer()?;
        self.mount.walk = Walk::START;
        self.mount.step = Step::Suspects;
        Ok(())
    }

    fn checkpoint_step(&mut self, buf: &[u8]) -> Result<(), Halt> {
        let Some(at) = self.checkpoint_at else {
            return Err(Halt::Refused(MountError::Unformatted));
        };
        let segment_bytes = self.geometry.segment_bytes();
        let inside = at.segment < self.geometry.segments && at.offset < segment_bytes;
        let found = if inside { self.look(at.offset, false, &at, buf)? } else { None };
        let checkpoint = found
            .and_then(|(head, start)| Self::sections(&head, start, buf))
            .filter(|it| it.has(CHECKPOINT))
            .and_then(|it| it.checkpoint);
        let Some(checkpoint) = checkpoint else {
            let offset = self.offset_of(&at);
            let corrupt = MountError::Corrupt { segment: at.segment, offset };
            return Err(Halt::Refused(self.mount.damage.unwrap_or(corrupt)));
        };
        if self.mount.format {
            return Err(Halt::Refused(MountError::NotBlank));
        }
        self.checkpoint = Some(checkpoint);
        self.identity = Some(checkpoint.identity);
        self.order.clear();
        if let Some(tail) = self.mount.tail {
            let _ = self.order.push(tail.segment);
        }
        self.mount.step = Step::Order;
        Ok(())
    }

    fn first(&self) -> Place {
        self.checkpoint.map(|checkpoint| checkpoint.first).unwrap_or_default()
    }

    fn order_step(&mut self, buf: &[u8]) -> Result<(), Halt> {
        let segment = self.order.last().copied().unwrap_or_default();
        if segment == self.first().segment {
            self.order.reverse();
            self.mount.segment = 0;
            self.mount.step = Step::Link;
            return Ok(());
        }
        self.window.ahead = self.cert_bytes().saturating_add(64);
        let open = self.header(segment, buf)?.open;
        let link = open.and_then(|open| open.link).map(|link| link.segment);
        match link.filter(|link| *link < self.geometry.segments && !self.order.contains(link)) {
            Some(link) if self.order.push(link).is_ok() => Ok(()),
            _ => Err(self.corrupt_segment(segment)),
        }
    }

    fn corrupt_segment(&self, segment: u8) -> Halt {
        let offset = self.segment_at(segment);
        Halt::Refused(self.mount.damage.unwrap_or(MountError::Corrupt { segment, offset }))
    }

    /// Where the live part of the next segment in the order begins and ends.
    fn link_step(&mut self, log: &mut Log, buf: &[u8]) -> Result<(), Halt> {
        let i = usize::from(self.mount.segment);
        let Some(segment) = self.order.get(i).copied() else {
            return Err(self.corrupt_segment(0));
        };
        let start = self.mount.next_start;
        let limit = match self.order.get(i.saturating_add(1)).copied() {
            None => None,
            Some(next) => {
                self.window.ahead = self.cert_bytes().saturating_add(64);
                let Some(open) = self.header(next, buf)?.open else {
                    return Err(self.corrupt_segment(next));
                };
                self.mount.next_start = open.at;
                match open.link {
                    Some(link) if link.segment == segment => Some(link),
                    _ => return Err(self.corrupt_segment(next)),
                }
            }
        };
        let start = if i == 0 { self.first() } else { start };
        if i == 0 {
            log.reset(self.checkpoint.map(|checkpoint| checkpoint.id).unwrap_or_default());
            self.written = None;
            self.mount.gap = false;
            self.mount.chunk_at = 0;
        }
        self.mount.walk = Walk::from(start, limit);
        self.mount.step = Step::Load;
        Ok(())
    }

    fn load_step(&mut self, log: &mut Log, buf: &[u8]) -> Result<(), Halt> {
        self.window.ahead = self.buffer_bytes;
        let last = match self.walk(true, log, buf)? {
            Walked::Link => {
                self.mount.segment = self.mount.segment.saturating_add(1);
                self.mount.step = Step::Link;
                return Ok(());
            }
            Walked::End(last) => last,
        };
        let at = self.mount.walk.at;
        let Some(last) = last else {
            return Err(self.corrupt_segment(at.segment));
        };
        let whole = self.checkpoint.is_some_and(|it| it.bytes == self.mount.chunk_at);
        if !whole || self.mount.gap {
            // The newest snapshot is damaged. The one before will do if all that followed it is still here.
            let (segment, offset) = (at.segment, self.offset_of(&self.first()));
            self.mount.damage = self.mount.damage.or(Some(MountError::Corrupt { segment, offset }));
            self.checkpoint_at = self.checkpoint.and_then(|checkpoint| checkpoint.prev());
            self.mount.step = Step::Checkpoint;
            return Ok(());
        }
        log.write_begins(log.last().index);
        log.write_ends();
        self.end_at(at, last);
        Ok(())
    }

    /// The log ends at `at`, and its last record starts at `last`.
    fn end_at(&mut self, at: Place, last: Place) {
        let dirty = self.mount.walk.dirty.max(at.offset);
        let torn = dirty > at.offset;
        self.tail_found =
            if torn { Tail::Torn { offset: self.offset_of(&at) } } else { Tail::Clean };
        // A write cut short may have touched the page behind the last one that shows it.
        let page = u32::from(self.geometry.page_bytes);
        // So may the head of a record, of which some bytes are the same as erased ones.
        let head = if page < 8 { 8 } else { 0 };
        let pages = dirty.saturating_add(head).checked_div(page).unwrap_or(0).saturating_add(1);
        let offset = pages.saturating_mul(page).min(self.geometry.segment_bytes());
        // The next record is a boot: it takes the last one's place in the chain.
        self.tail = Place { offset, ..last };
        self.last = last;
        self.written = None;
        self.boot = if self.last_flags & SEAL != 0 { Boot::Owed } else { Boot::Now };
        let room = self.geometry.segment_bytes().saturating_sub(at.offset);
        let rolling = room <= self.mount.record_max.saturating_add(page.saturating_mul(2));
        // The next segment may hold the first record of a write cut short that does not even show.
        self.mount.doubt = torn || rolling || self.last_flags & OPEN != 0;
        self.mount.claimed = core::mem::take(&mut self.ready);
        self.mount.segment = 0;
        self.mount.step = Step::Ready;
    }

    fn ready_step(&mut self, buf: &[u8]) -> Result<(), Halt> {
        let i = self.mount.segment;
        let Some(claimed) = self.mount.claimed.get(usize::from(i)).copied() else {
            self.phase = Phase::Running;
            return Ok(());
        };
        let doubt = i == 0 && self.mount.doubt;
        if let Some(segment) = claimed.checked_sub(1)
            && segment < self.geometry.segments
            && self.is_free(segment)
            && !doubt
        {
            self.window.ahead = self.cert_bytes().saturating_add(64);
            let header = self.header(segment, buf)?;
            let geometry = geometry_word(&self.geometry);
            if let Some(cert) = header.cert.filter(|cert| cert.is_valid() && header.blank)
                && cert.geometry == geometry
                && cert.number > self.mount.tail_number
            {
                self.add_ready(segment, cert.crc);
            }
        }
        self.mount.segment = i.saturating_add(1);
        Ok(())
    }

    /// No log was ever here. Is anything else?
    fn blank_step(&mut self, buf: &[u8]) -> Result<(), Halt> {
        let segment = self.mount.segment;
        if segment >= self.geometry.segments {
            return Err(Halt::Refused(MountError::Unformatted));
        }
        // What a founding's first writes, cut short, may have left; and its first erase, if every other
        // segment has a trace of such a write.
        let offset = self.mount.blank_at.max(self.cert_bytes());
        let erased_first = segment == 1 && self.mount.marker.is_none();
        if offset >= self.geometry.segment_bytes() || erased_first {
            self.mount.blank_at = 0;
            self.mount.segment = segment.saturating_add(1);
            return Ok(());
        }
        let (at, len) = self.fetch(segment, offset, offset, self.buffer_bytes)?;
        let bytes = buf.get(at..at.saturating_add(len)).unwrap_or_default();
        if len == 0 || bytes.iter().any(|byte| *byte != self.geometry.erased) {
            return Err(Halt::Refused(MountError::Foreign));
        }
        self.mount.blank_at = offset.saturating_add(len as u32);
        Ok(())
    }

    pub(super) fn poll_format(
        &mut self,
        ended: Option<bool>,
        want: &Want,
        buf: &mut [u8],
    ) -> Progress {
        self.window.ahead = 0;
        if self.mount.step == Step::Marker {
            self.mount.step = Step::Erase;
            self.mount.segment = 0;
            if let Some(marker) = self.mount.marker.filter(|_| !self.mount.certs) {
                // Erasing blank flash may leave anything if it is cut short: a certificate in a segment that is
                // not the first to be erased tells that it was we.
                self.erases = 0;
                self.write_cert(buf);
                let (offset, len) = (self.segment_at(marker), self.cert_bytes());
                self.cert_next = self.cert_next.saturating_add(1);
                return Progress::Op(FlashOp::Write { offset, len });
            }
        }
        if self.job != Job::None {
            let mut ok = ended.unwrap_or(true);
            while self.job != Job::None {
                if let Some(progress) = self.certify_step(ok, buf) {
                    return progress;
                }
                ok = true;
            }
            self.mount.segment = self.mount.segment.saturating_add(1);
        }
        if let Some(fault) = self.fault {
            self.phase = Phase::Off;
            return Progress::Refused(MountError::Fault(fault));
        }
        if self.mount.segment >= self.geometry.segments {
            self.phase = Phase::Running;
            return Progress::Formatted;
        }
        if !want.allow_erase {
            return Progress::Idle;
        }
        // The newest segment goes last: what is left of the old log must not be mounted without it. Where
        // there is none, a certificate goes last that tells of a format that was cut short.
        let newest = self.mount.tail.map_or(self.mount.newest_cert, |tail| tail.segment);
        let segment = u32::from(newest)
            .saturating_add(u32::from(self.mount.segment))
            .saturating_add(1)
            .checked_rem(u32::from(self.geometry.segments));
        self.certify(segment.unwrap_or(0) as u8, buf)
    }
}
