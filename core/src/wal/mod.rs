//! The flash log: what a board must not forget, in raw NOR flash.
//!
//! Sans-IO: [`Wal::poll`] yields at most one [`FlashOp`] at a time, [`Wal::handle`] takes how it ended.
//! Bytes to write are in the caller's flash buffer when the operation is yielded; bytes that were read
//! must be there at the next `poll`. While an operation is out the log does not touch the buffer.
//! One group commit is one record is one write. The layout is in `core/docs/flash-format.md`.

mod mount;
mod read;
mod record;
mod ring;
mod search;
mod snapshot;
mod types;
mod write;

pub use types::*;

#[cfg(doc)]
use crate::flash::FlashOp;
use crate::flash::{FlashDone, Geometry};
use crate::identity::Identity;
use crate::log::Log;
use crate::types::{EntryId, Index, Term};
use mount::Mount;
use read::Window;
use record::{Checkpoint, Head, Place, SECTIONS_BYTES_MAX};
use snapshot::{Begun, Cursor};
use write::{Held, Outgoing};

/// The operation that was yielded last.
// With a number of its own, so that `None` is all zeros and not a third value of the `bool`.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    None,
    Out,
    Ended(bool),
}

/// What the operation that was yielded last is part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Job {
    None,
    Write,
    Verify,
    CertRead,
    Erase,
    CertWrite,
    CertVerify,
}

/// What the log is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Off,
    Mounting,
    Formatting,
    Running,
}

/// Is what the log ended with at the mount still to be put out of doubt?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Boot {
    None,
    /// By the next record: it was sealed.
    Owed,
    /// Before the mount is told.
    Now,
    /// It is, by the first record of a new segment; that one is sealed at once, or the next boot would need
    /// another segment.
    Opened,
}

/// The flash log.
pub struct Wal {
    geometry: Geometry,
    buffer_bytes: u32,
    phase: Phase,
    op: Op,
    job: Job,
    boot: Boot,
    fault: Option<WalFault>,
    window: Window,
    identity: Option<Identity>,
    durable: HardState,
    /// The newest segment's place in the order of use, and where it links to.
    seq: u32,
    link: Option<Place>,
    /// Where the next record goes.
    tail: Place,
    /// Nothing more goes into the newest segment: a write there failed.
    closed: bool,
    /// Behind the last record without which the log would not be what it is.
    matter: Place,
    /// The last record; its flags, what its entries follow, and whether it matters, as the mount found it.
    last: Place,
    /// The same, or where the record starts that it restates: what restates it continues from there.
    last_link: Place,
    last_flags: u16,
    last_prev: Index,
    last_matters: bool,
    /// The last entry that was written, which the next one may follow without saying so.
    written: Option<EntryId>,
    /// A record was written, or a segment made ready, since the last seal.
    unsealed: bool,
    /// Live segments, oldest first.
    order: heapless::Vec<u8, 32, u8>,
    retired: u32,
    /// The segments that are used next, numbers plus one, and the checksums of their certificates.
    ready: [u8; 2],
    ready_chain: [u32; 2],
    certifying: u8,
    cert_next: u32,
    /// Erases of the segment that is being certified.
    erases: u32,
    erases_max: u32,
    erases_min: u32,
    checkpoint: Option<Checkpoint>,
    checkpoint_next: Option<Checkpoint>,
    checkpoint_at: Option<Place>,
    snap: Begun,
    cursor: Cursor,
    outgoing: Outgoing,
    tail_found: Tail,
    bytes_written: u32,
    records: u32,
    mount: Mount,
}

impl Wal {
    /// A log that is not in use, all zeros.
    pub const fn new() -> Self {
        const NOWHERE: Place = Place { segment: 0, offset: 0, chain: 0 };
        Self {
            geometry: Geometry {
                word_bytes: 0,
                erased: 0,
                page_bytes: 0,
                block_bytes: 0,
                blocks_per_segment: 0,
                segments: 0,
            },
            buffer_bytes: 0,
            phase: Phase::Off,
            op: Op::None,
            job: Job::None,
            boot: Boot::None,
            fault: None,
            window: Window::EMPTY,
            identity: None,
            durable: HardState { term: Term::ZERO, vote: None, commit: Index::ZERO },
            seq: 0,
            link: None,
            tail: NOWHERE,
            closed: false,
            matter: NOWHERE,
            last: NOWHERE,
            last_link: NOWHERE,
            last_flags: 0,
            last_prev: Index::ZERO,
            last_matters: false,
            written: None,
            unsealed: false,
            order: heapless::Vec::new(),
            retired: 0,
            ready: [0; 2],
            ready_chain: [0; 2],
            certifying: 0,
            cert_next: 0,
            erases: 0,
            erases_max: 0,
            erases_min: 0,
            checkpoint: None,
            checkpoint_next: None,
            checkpoint_at: None,
            snap: Begun::NONE,
            cursor: Cursor::START,
            outgoing: Outgoing::NONE,
            tail_found: Tail::Clean,
            bytes_written: 0,
            records: 0,
            mount: Mount::START,
        }
    }

    /// Begins to mount the log; polling ends in [`Progress::Mounted`] or [`Progress::Refused`].
    /// The caller's log is reset and loaded.
    ///
    /// # Errors
    /// The geometry can't hold a log.
    pub fn mount(&mut self, geometry: Geometry, buffer_bytes: usize) -> Result<(), GeometryError> {
        ring::check(&geometry, buffer_bytes)?;
        *self = Self::new();
        self.geometry = geometry;
        let bytes = buffer_bytes.min(BUFFER_BYTES_MAX) as u32;
        self.buffer_bytes = bytes & !self.word().saturating_sub(1);
        self.phase = Phase::Mounting;
        Ok(())
    }

    /// Begins to format the flash for `identity`; polling ends in [`Progress::Formatted`] or
    /// [`Progress::Refused`]. What is not blank is refused unless `erase_anyway`, but for a founding
    /// that was cut short. Erase counts are kept where they can be read. A snapshot then founds the log.
    ///
    /// # Errors
    /// The geometry can't hold a log.
    pub fn format(
        &mut self,
        geometry: Geometry,
        buffer_bytes: usize,
        identity: Identity,
        erase_anyway: bool,
    ) -> Result<(), GeometryError> {
        self.mount(geometry, buffer_bytes)?;
        self.identity = Some(identity);
        self.mount.format = true;
        self.mount.erase_anyway = erase_anyway;
        Ok(())
    }

    /// The next flash operation, or what came of the last one. To be called until it says
    /// [`Progress::Idle`]; also then again whenever `want` or `log` has changed.
    pub fn poll(&mut self, want: &Want, log: &mut Log, buf: &mut [u8]) -> Progress {
        let ended = match self.op {
            Op::Out => return Progress::Idle,
            Op::None => None,
            Op::Ended(ok) => Some(ok),
        };
        self.op = Op::None;
        let Some(buf) = buf.get_mut(..self.buffer_bytes as usize) else {
            self.fault = Some(WalFault::Misused);
            return Progress::Fault(WalFault::Misused);
        };
        let word = self.word();
        let ended = match ended {
            Some(ok) if self.window.take(ok, word) => Some(true),
            other => other,
        };
        let progress = match self.phase {
            Phase::Off => Progress::Idle,
            Phase::Mounting => self.poll_mount(want, log, buf),
            Phase::Formatting => self.poll_format(ended, want, buf),
            Phase::Running => self.poll_running(ended, want, log, buf),
        };
        if matches!(progress, Progress::Op(_)) {
            self.op = Op::Out;
        }
        progress
    }

    fn poll_running(
        &mut self,
        ended: Option<bool>,
        want: &Want,
        log: &mut Log,
        buf: &mut [u8],
    ) -> Progress {
        let mut ok = ended.unwrap_or(true);
        // Each turn either yields, or ends a job and begins another: the bound is never met.
        for _ in 0..16 {
            if let Some(fault) = self.fault {
                return Progress::Fault(fault);
            }
            let done = match self.job {
                Job::None => return self.next(want, log, buf),
                Job::Write | Job::Verify => self.written(ok, log, buf),
                _ => self.certify_step(ok, buf),
            };
            if let Some(progress) = done {
                return progress;
            }
            ok = true;
        }
        Progress::Idle
    }

    /// What to do next, when nothing is under way.
    fn next(&mut self, want: &Want, log: &mut Log, buf: &mut [u8]) -> Progress {
        self.window.ahead = 0;
        let record = if self.boot == Boot::Now {
            Some(self.boot_record(log, buf))
        } else if self.boot == Boot::Opened {
            self.boot = Boot::None;
            match self.seal(want, log, buf) {
                Some(progress) => {
                    self.boot = Boot::Opened;
                    return progress;
                }
                None => return self.mounted().unwrap_or(Progress::Idle),
            }
        } else if self.has_chunk() {
            // It lies in the buffer.
            self.snapshot_record(want, log, buf)
        } else {
            match self.group(want, log, buf) {
                Some(Err(Held::Room)) | None => self.snapshot_record(want, log, buf),
                other => other,
            }
        };
        match record {
            Some(Ok(progress)) => return progress,
            Some(Err(Held::Erase)) if want.allow_erase => {
                if let Some(progress) = self.certify_next(buf) {
                    return progress;
                }
            }
            Some(Err(Held::Room)) if self.boot == Boot::Now => {
                self.fault = self.fault.or(Some(WalFault::Full));
            }
            _ => {}
        }
        if let Some(fault) = self.fault {
            return Progress::Fault(fault);
        }
        if self.boot == Boot::Now || self.has_chunk() {
            return Progress::Idle;
        }
        if let Some(progress) = self.read_step(buf) {
            return progress;
        }
        self.window.ahead = 0;
        if want.idle {
            if let Some(progress) = self.seal(want, log, buf) {
                return progress;
            }
            if want.allow_erase
                && self.checkpoint.is_some()
                && let Some(progress) = self.certify_next(buf)
            {
                return progress;
            }
        }
        Progress::Idle
    }

    /// The operation that [`Wal::poll`] yielded has ended.
    pub fn handle(&mut self, done: FlashDone) {
        if self.op == Op::Out {
            self.op = Op::Ended(done == FlashDone::Ok);
        }
    }

    /// The flash buffer is not to be touched: an operation is out, or what it read is not taken in yet.
    pub fn is_busy(&self) -> bool {
        self.op != Op::None
    }

    /// What flash is known to hold.
    pub const fn durable(&self) -> HardState {
        self.durable
    }

    /// The longest entry, head included, that fits a record, in bytes.
    pub const fn entry_bytes_max(&self) -> usize {
        self.buffer_bytes.saturating_sub(SECTIONS_BYTES_MAX) as usize
    }

    /// Free segments have fallen to the reserve: only a new snapshot will free more, even one that covers
    /// nothing new.
    pub fn wants_snapshot(&self) -> bool {
        self.bytes_until_pressure() == 0
    }

    /// Bytes that can still be logged before [`Wal::wants_snapshot`].
    pub fn bytes_until_pressure(&self) -> u32 {
        let free = self.free();
        let segment = self.geometry.segment_bytes();
        let Some(more) = free.checked_sub(self.spare()) else {
            return 0;
        };
        let left = segment.saturating_mul(more).saturating_add(self.room());
        let most = self.segments_usable().saturating_sub(self.spare()).saturating_mul(segment);
        left.saturating_sub(most.wrapping_shr(2))
    }

    /// How the flash is doing.
    pub fn status(&self) -> Status {
        Status {
            erases_max: self.erases_max,
            erases_min: self.erases_min,
            segments_free: self.free() as u8,
            segments_ready: self.ready.iter().filter(|ready| **ready != 0).count() as u8,
            segments_retired: self.retired.count_ones() as u8,
            bytes_written: self.bytes_written,
            records: self.records,
        }
    }

    /// Where the record at `place` ends.
    fn end_of(&self, place: &Place, head: &Head) -> Place {
        Place {
            segment: place.segment,
            offset: place.offset.saturating_add(self.geometry.padded(head.total())),
            chain: head.crc,
        }
    }
}

impl Default for Wal {
    fn default() -> Self {
        Self::new()
    }
}
