//! The flash log: what a board must not forget, in raw NOR flash.
//!
//! Sans-IO: [`Wal::poll`] yields at most one [`FlashOp`] at a time, [`Wal::handle`] takes how it ended.
//! Bytes to write are in the caller's flash buffer when the operation is yielded; bytes that were read
//! must be there at the next `poll`. While an operation is out the log does not touch the buffer.
//! One group commit is one record is one write. The layout is in `core/docs/flash-format.md`.

pub mod inspect;
mod mount;
mod read;
mod record;
mod ring;
mod snapshot;
mod types;
mod walk;
mod write;

pub use types::*;

#[cfg(doc)]
use crate::flash::FlashOp;
use crate::flash::{FlashDone, Geometry};
use crate::identity::Identity;
use crate::log::Log;
use crate::types::{EntryId, Index};
use mount::Mount;
use read::{Halt, Io, Window};
use record::{All, Link, Place, SEAL, SECTIONS_BYTES_MAX};
use snapshot::{Begun, Cursor};
use write::Outgoing;

/// The operation that was yielded last.
// With a number of its own, so that `None` is all zeros and not a third value of the `bool`.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    None,
    Out,
    Ended(bool),
}

/// What the operation that was yielded last is part of, [`Outgoing`] with it.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    None,
    Write,
    Erase,
}

/// What the log is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Off,
    Mounting,
    /// The flash is being marked as ours.
    Founding,
    Running,
}

/// Is what the log ended with at the mount still to be put out of doubt?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Boot {
    None,
    /// By the next record: the last one is sealed, and the mount can be told.
    Sealed,
    /// The same, and it is told.
    Owed,
    /// Before the mount is told.
    Now,
    /// It is, but for a seal.
    Seal,
}

/// The flash log.
// In this order: on a small core one instruction reaches the first 32 bytes and the first 31 words of a struct, and
// what lies behind takes two or three.
#[repr(C)]
pub struct Wal {
    phase: Phase,
    op: Op,
    boot: Boot,
    fault: Option<WalFault>,
    work: Work,
    /// Nothing more goes into the newest segment.
    closed: bool,
    /// The newest segment holds its first record and a seal, which may be half written.
    unproven: bool,
    /// It holds nothing but its first record, which says nothing new: what that gives up may be needed yet, and stays
    /// in the order.
    alone: bool,
    /// Segments that it keeps.
    kept: u8,
    /// A record was written since the last seal.
    unsealed: bool,
    /// The log is not what it is without what the next boot record restates.
    boot_matters: bool,
    /// Segments that the board's entries and a snapshot take together.
    takes: u8,
    geometry: Geometry,
    buffer_bytes: u32,
    /// The newest segment's place in the order of use.
    seq: u32,
    /// Where the next record goes.
    tail: Place,
    /// Behind the last record without which the log would not be what it is.
    matter: Link,
    /// Free segments that begin with something that may turn into a first record yet.
    suspects: u32,
    /// What the board wants to be remembered.
    note: u32,
    /// Where what the next boot record restates begins, and what the entries there follow.
    boot_from: u32,
    /// Bytes that the chunks of the newest snapshot take there.
    snapshot_flash: u32,
    /// The segments that are erased: they are used next.
    ready: u32,
    out: Outgoing,
    /// What is in flash beside the entries.
    all: All,
    /// The last entry that was written, which the next one may follow without saying so.
    written: Option<EntryId>,
    boot_after: Option<Index>,
    window: Window,
    snap: Begun,
    cursor: Cursor,
    mount: Mount,
    /// Live segments, oldest first.
    order: heapless::Vec<u8, 32, u8>,
    wear: Wear,
    tail_found: Tail,
    bytes_written: u32,
    records: u32,
}

impl Wal {
    /// A log that is not in use, all zeros.
    pub const fn new() -> Self {
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
            boot: Boot::None,
            fault: None,
            work: Work::None,
            out: Outgoing::NONE,
            mount: Mount::NONE,
            window: Window::EMPTY,
            all: All::NOTHING,
            snapshot_flash: 0,
            seq: 0,
            tail: Place::NOWHERE,
            closed: false,
            unproven: false,
            alone: false,
            kept: 0,
            unsealed: false,
            matter: (0, 0),
            boot_from: 0,
            boot_after: None,
            boot_matters: false,
            takes: 0,
            written: None,
            order: heapless::Vec::new(),
            note: 0,
            suspects: 0,
            ready: 0,
            wear: Wear::NONE,
            snap: Begun::NONE,
            cursor: Cursor::START,
            tail_found: Tail::Clean,
            bytes_written: 0,
            records: 0,
        }
    }

    /// Can a log be kept there, with records that take so much of the flash buffer, and with so many bytes of entries and
    /// of a snapshot at once? Of a snapshot its chunks count, each with [`CHUNK_OVERHEAD_BYTES_MAX`] and padded to the word.
    ///
    /// # Errors
    /// It can't, with what would do.
    pub fn check(
        geometry: &Geometry,
        buffer_bytes: usize,
        live_bytes: u32,
    ) -> Result<(), GeometryError> {
        ring::check(geometry, buffer_bytes)?;
        ring::check_record(geometry, buffer_bytes)?;
        ring::check_live(geometry, buffer_bytes, live_bytes)
    }

    /// Begins to mount the log; polling ends in [`Progress::Mounted`] or [`Progress::Refused`].
    /// The caller's log is reset and loaded.
    ///
    /// # Errors
    /// The geometry can't hold a log.
    pub fn mount(&mut self, geometry: Geometry, buffer_bytes: usize) -> Result<(), GeometryError> {
        ring::check(&geometry, buffer_bytes)?;
        self.begin(geometry, buffer_bytes.min(BUFFER_BYTES_MAX) as u32, None, false);
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
        (self.mount.format, self.mount.erase_anyway) = (Some(identity), erase_anyway);
        Ok(())
    }

    fn begin(
        &mut self,
        geometry: Geometry,
        buffer_bytes: u32,
        format: Option<Identity>,
        erase_anyway: bool,
    ) {
        *self = const { Self::new() };
        (self.geometry, self.takes) = (geometry, ring::SEGMENTS_MAX);
        let bytes = buffer_bytes.min(ring::record_bytes_max(&geometry));
        self.buffer_bytes = bytes & !self.word().saturating_sub(1);
        self.phase = Phase::Mounting;
        (self.mount.format, self.mount.erase_anyway) = (format, erase_anyway);
    }

    /// The next flash operation, or what came of the last one. To be called until it says
    /// [`Progress::Idle`]; also then again whenever `want` or `log` has changed.
    pub fn poll(&mut self, want: &Want, log: &mut Log, buf: &mut [u8]) -> Progress {
        let mut ok = match self.op {
            Op::Out => return Progress::Idle,
            Op::None => true,
            Op::Ended(ok) => ok,
        };
        self.op = Op::None;
        let Some(buf) = buf.get_mut(..self.buffer_bytes as usize) else {
            self.fault = Some(WalFault::Misused);
            return Progress::Fault(WalFault::Misused);
        };
        // What can't be read is for the reader to see.
        ok |= self.window.take(ok);
        let mut io = Io::new(want, log, buf);
        // Each turn either tells something, or ends one work and begins another: the bound is never met.
        for _ in 0..16 {
            let told = match (self.fault, self.phase, self.work) {
                (Some(fault), ..) => Err(io.tell(Progress::Fault(fault))),
                (_, Phase::Mounting, _) => self.poll_mount(&mut io),
                (_, _, Work::None) => self.next(&mut io),
                (_, _, Work::Write) => self.verify(&mut io, ok),
                (_, _, Work::Erase) => {
                    self.erased(ok);
                    Ok(())
                }
            };
            if told.is_err() {
                break;
            }
            ok = true;
        }
        if matches!(io.progress, Progress::Op(_)) {
            self.op = Op::Out;
        }
        io.progress
    }

    /// What to do next, when nothing is under way.
    #[inline(never)]
    fn next(&mut self, io: &mut Io<'_>) -> Result<(), Halt> {
        self.window.plan(0, 0);
        let written = match (self.phase, self.boot) {
            (Phase::Off | Phase::Mounting, _) => return Err(io.tell(Progress::Idle)),
            (Phase::Founding, _) if self.ready == 0 => {
                self.phase = Phase::Running;
                return Err(io.tell(Progress::Formatted));
            }
            (Phase::Founding, _) => Err(self.record(io, 0, 0)),
            // What may turn into the beginning of a newer segment has to go first.
            _ if self.suspects != 0
                && (self.boot != Boot::None || self.all.checkpoint.is_none()) =>
            {
                Err(Halt::Erase)
            }
            (_, Boot::Sealed) => {
                self.boot = Boot::Owed;
                return self.mounted(io);
            }
            (_, Boot::Now) => self.group(io),
            // The seal has failed: all of it once more.
            (_, Boot::Seal) if self.closed => {
                self.boot = Boot::Now;
                return Ok(());
            }
            (_, Boot::Seal) => {
                self.seal(io)?;
                self.boot = Boot::None;
                return self.mounted(io);
            }
            _ if self.alone => Err(self.record(io, if self.closed { 0 } else { SEAL }, 0)),
            // It lies in the buffer.
            _ if self.has_chunk() => self.snapshot_record(io),
            (_, Boot::None | Boot::Owed) => match self.group(io) {
                Err(Halt::Room) | Ok(()) => self.snapshot_record(io),
                other => other,
            },
        };
        match written {
            Err(Halt::Tell) => return written,
            Err(Halt::Erase) if io.want.allow_erase => {
                // Else what is erased may be needed, should the seal decay.
                if self.unproven && self.suspects == 0 && self.record(io, 0, 0) == Halt::Tell {
                    return Err(Halt::Tell);
                }
                self.erase_next(io)?;
            }
            Err(Halt::Room) if self.boot == Boot::Now || self.alone => {
                self.fault = self.fault.or(Some(WalFault::Full));
            }
            _ => {}
        }
        if self.fault.is_some() {
            return Ok(());
        }
        if matches!(self.boot, Boot::Now | Boot::Sealed) || self.has_chunk() {
            return Err(io.tell(Progress::Idle));
        }
        self.read_step(io)?;
        self.window.plan(0, 0);
        if io.want.idle {
            self.seal(io)?;
            // Not at every boot: it would wear out the segments that come next. Only a board that has written as much as is
            // left, or half of a segment, is about to fill the rest.
            let half = self.segment_bytes().wrapping_shr(1);
            let soon = self.room() < half.min(self.bytes_written);
            if io.want.allow_erase && !self.all.checkpoint.is_none() && soon && !self.unproven {
                self.erase_next(io)?;
            }
        }
        Err(io.tell(Progress::Idle))
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

    /// What the board has remembered, as the mount has found it or as it was set since.
    pub const fn note(&self) -> u32 {
        self.note
    }

    /// Has the board remember this: written at the next poll if it differs from what flash holds.
    pub const fn set_note(&mut self, note: u32) {
        self.note = note;
    }

    /// Flash holds what was set.
    pub const fn is_noted(&self) -> bool {
        self.note == self.all.note
    }

    /// What flash is known to hold.
    pub const fn durable(&self) -> HardState {
        self.all.hard_state
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
        let segment = self.segment_bytes();
        let Some(more) = free.checked_sub(self.spare()) else {
            return 0;
        };
        let left = segment.wrapping_mul(more).wrapping_add(self.room());
        // In time: an eighth of all before, and no more than what a snapshot leaves at least.
        let most = self.segments_usable().saturating_sub(self.spare()).wrapping_mul(segment);
        left.saturating_sub(most.min(segment.wrapping_shl(2)).wrapping_shr(3))
    }

    /// How the flash is doing.
    pub fn status(&self) -> Status {
        Status {
            segments: self.geometry.segments,
            wear: self.wear,
            segments_free: self.free() as u8,
            segments_ready: ring::count(self.ready) as u8,
            segments_retired: ring::count(self.all.retired) as u8,
            bytes_written: self.bytes_written,
            records: self.records,
        }
    }
}

impl Default for Wal {
    fn default() -> Self {
        Self::new()
    }
}
