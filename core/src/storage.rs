//! The seam under a node: what keeps its state through power cuts.

use crate::flash::{FlashDone, Geometry};
use crate::identity::Identity;
use crate::log::Log;
use crate::types::EntryId;
use crate::wal::{GeometryError, HardState, Progress, SnapshotInfo, Status, Wal, Want};

/// What a [`Node`](crate::node::Node) keeps its state in: the flash log [`Wal`], or something of the board's own,
/// such as byte-writable memory (`examples/fram-storage`, which is there to be copied), a file, memory in a test.
///
/// Sans-IO, at most one operation at a time. The methods do what [`Wal`]'s of the same names do; what is said there
/// of segments, erasing and seals is the flash log's own affair ([`Want::idle`] and [`Want::allow_erase`] too). Of
/// any storage it holds that:
///
/// - What was confirmed as durable, or shown by a mount, is there after a power cut at any instant. What was begun
///   and not confirmed may be there or not, but nothing else in its place.
/// - [`Log::durable`] tells which entries are missing. [`Log::write_begins`] and [`Log::write_ends`] enclose the
///   operations that write them. Where it falls, entries gave way to a later leader's: they may be forgotten from
///   then on, while what stands before them may not.
/// - No entry behind [`Log::due`] is written: what a node knows of an earlier one has to be durable before.
/// - The commit index never comes to be durable ahead of the entries that it counts; at a mount it is a hint.
/// - A snapshot keeps the pieces that it was put in: [`Progress::ChunkRead`] never goes beyond the end of one.
/// - Nothing aborts or replaces a snapshot that was ended, until [`Progress::SnapshotDurable`] or
///   [`Progress::SnapshotLost`] is told.
/// - What is not blank is formatted only if that is asked for, but for a founding that was cut short.
pub trait Storage {
    /// A storage that is not in use; all zeros, so that a node in a `static` costs no flash.
    const OFF: Self;

    /// See [`Wal::check`]; what has no geometry has no limits.
    ///
    /// # Errors
    /// The geometry can't hold a log of that size.
    fn check(
        _geometry: &Geometry,
        _buffer_bytes: usize,
        _live_bytes: u32,
    ) -> Result<(), GeometryError> {
        Ok(())
    }

    /// See [`Wal::mount`].
    ///
    /// # Errors
    /// The geometry can't hold a log.
    fn mount(&mut self, geometry: Geometry, buffer_bytes: usize) -> Result<(), GeometryError>;

    /// See [`Wal::format`].
    ///
    /// # Errors
    /// The geometry can't hold a log.
    fn format(
        &mut self,
        geometry: Geometry,
        buffer_bytes: usize,
        identity: Identity,
        erase_anyway: bool,
    ) -> Result<(), GeometryError>;

    /// See [`Wal::poll`].
    fn poll(&mut self, want: &Want, log: &mut Log, buffer: &mut [u8]) -> Progress;

    /// See [`Wal::handle`].
    fn handle(&mut self, done: FlashDone);

    /// See [`Wal::is_busy`].
    fn is_busy(&self) -> bool;

    /// See [`Wal::durable`].
    fn durable(&self) -> HardState;

    /// See [`Wal::snapshot`].
    fn snapshot(&self) -> Option<SnapshotInfo>;

    /// See [`Wal::begin_snapshot`].
    fn begin_snapshot(&mut self, id: EntryId);

    /// See [`Wal::put_chunk`].
    fn put_chunk(&mut self, offset: u32, len: usize) -> bool;

    /// See [`Wal::begun_crc`].
    fn begun_crc(&self) -> u32;

    /// See [`Wal::end_snapshot`].
    fn end_snapshot(&mut self, installed: bool);

    /// See [`Wal::abort_snapshot`].
    fn abort_snapshot(&mut self);

    /// See [`Wal::read_snapshot`].
    fn read_snapshot(&mut self, offset: u32, len_max: usize);

    /// See [`Wal::reserve`]; what frees no segments has no use for it.
    fn reserve(&mut self, _live_bytes: u32) {}

    /// See [`Wal::wants_snapshot`].
    fn wants_snapshot(&self) -> bool;

    /// See [`Wal::note`]; a storage may do without.
    fn note(&self) -> u32 {
        0
    }

    /// See [`Wal::set_note`].
    fn set_note(&mut self, _note: u32) {}

    /// See [`Wal::is_noted`].
    fn is_noted(&self) -> bool {
        true
    }

    /// See [`Wal::status`].
    fn status(&self) -> Status;
}

impl Storage for Wal {
    const OFF: Self = Self::new();

    fn check(
        geometry: &Geometry,
        buffer_bytes: usize,
        live_bytes: u32,
    ) -> Result<(), GeometryError> {
        Self::check(geometry, buffer_bytes, live_bytes)
    }

    fn mount(&mut self, geometry: Geometry, buffer_bytes: usize) -> Result<(), GeometryError> {
        self.mount(geometry, buffer_bytes)
    }

    fn format(
        &mut self,
        geometry: Geometry,
        buffer_bytes: usize,
        identity: Identity,
        erase_anyway: bool,
    ) -> Result<(), GeometryError> {
        self.format(geometry, buffer_bytes, identity, erase_anyway)
    }

    fn poll(&mut self, want: &Want, log: &mut Log, buffer: &mut [u8]) -> Progress {
        self.poll(want, log, buffer)
    }

    fn handle(&mut self, done: FlashDone) {
        self.handle(done);
    }

    fn is_busy(&self) -> bool {
        self.is_busy()
    }

    fn durable(&self) -> HardState {
        self.durable()
    }

    fn snapshot(&self) -> Option<SnapshotInfo> {
        self.snapshot()
    }

    fn begin_snapshot(&mut self, id: EntryId) {
        self.begin_snapshot(id);
    }

    fn put_chunk(&mut self, offset: u32, len: usize) -> bool {
        self.put_chunk(offset, len)
    }

    fn begun_crc(&self) -> u32 {
        self.begun_crc()
    }

    fn end_snapshot(&mut self, installed: bool) {
        self.end_snapshot(installed);
    }

    fn abort_snapshot(&mut self) {
        self.abort_snapshot();
    }

    fn read_snapshot(&mut self, offset: u32, len_max: usize) {
        self.read_snapshot(offset, len_max);
    }

    fn reserve(&mut self, live_bytes: u32) {
        self.reserve(live_bytes);
    }

    fn wants_snapshot(&self) -> bool {
        self.wants_snapshot()
    }

    fn note(&self) -> u32 {
        self.note()
    }

    fn set_note(&mut self, note: u32) {
        self.set_note(note);
    }

    fn is_noted(&self) -> bool {
        self.is_noted()
    }

    fn status(&self) -> Status {
        self.status()
    }
}
