//! What a cluster's limits ask of a board: buffers, log, flash.

use super::{Limits, Node};
use crate::event::Fault;
use crate::flash::Geometry;
use crate::storage::Storage;
#[cfg(doc)]
use crate::wal::Wal;
use crate::wal::{BUFFER_BYTES_MIN, CHUNK_OVERHEAD_BYTES_MAX, SNAP_DATA_AT};
use crate::wire;

/// Bytes of flash that a log of `log_bytes` and a snapshot take at once, by the pieces that the snapshot is made of:
/// what [`Wal::check`] asks for.
pub fn live_bytes(log_bytes: u32, limits: &Limits, geometry: &Geometry) -> u32 {
    let piece = piece_bytes_max(limits.frame_bytes).max(1) as u32;
    let pieces = limits.snapshot_bytes.div_ceil(piece).saturating_add(3);
    let each = geometry.padded(piece.saturating_add(CHUNK_OVERHEAD_BYTES_MAX));
    log_bytes.saturating_add(pieces.saturating_mul(each))
}

/// The largest command that one frame carries, whatever the counters have grown to.
pub const fn entry_bytes_max(frame_bytes: u16) -> u16 {
    let overhead = wire::APPEND_OVERHEAD_BYTES_MAX + ENTRY_HEAD_BYTES_MAX;
    frame_bytes.saturating_sub(overhead as u16)
}

/// The smallest flash buffer that holds a piece of a snapshot, as long as one frame carries.
pub const fn flash_buffer_bytes_min(frame_bytes: u16) -> usize {
    // A whole number of the longest words.
    let needed = SNAP_DATA_AT.saturating_add(piece_bytes_max(frame_bytes)).next_multiple_of(32);
    if needed > BUFFER_BYTES_MIN { needed } else { BUFFER_BYTES_MIN }
}

/// What the log of a node with a ring of `ring_bytes` holds: the most that a cluster's `log_bytes` can ask
/// of it.
pub const fn log_bytes_max(ring_bytes: usize, frame_bytes: u16) -> u32 {
    ring_bytes.saturating_sub(1).saturating_sub(piece_bytes_max(frame_bytes)) as u32
}

/// Bytes of a snapshot in one piece: the same on every board, whatever its buffers are.
pub(super) const fn piece_bytes_max(frame_bytes: u16) -> usize {
    (frame_bytes as usize).saturating_sub(wire::SNAPSHOT_OVERHEAD_BYTES_MAX)
}

/// An entry's head with the largest term that a frame can carry.
const ENTRY_HEAD_BYTES_MAX: usize = 1 + 3 + 6;

impl<S: Storage> Node<[u8], S> {
    /// The log and the caller's buffers have to hold what the cluster's limits allow.
    pub(super) fn check_buffers(&mut self, frame: &[u8], flash: &[u8]) -> bool {
        let frame_bytes = self.limits.frame_bytes;
        self.log.keep_aside(piece_bytes_max(frame_bytes));
        let link_bytes = usize::from(self.link_frame_bytes);
        let needed = [
            (frame.len().min(link_bytes), usize::from(frame_bytes)),
            (flash.len(), flash_buffer_bytes_min(frame_bytes)),
            (self.log.bytes_capacity(), self.limits.log_bytes as usize),
        ];
        let short = needed.into_iter().find(|(given, needed)| given < needed);
        if let Some((given, needed)) = short {
            let (bytes_given, bytes_needed) = (given as u32, needed as u32);
            self.stop(Fault::Buffers { bytes_given, bytes_needed });
        }
        let capacity = self.log.bytes_capacity() as u32;
        if let Some(geometry) = &self.geometry {
            self.storage.reserve(live_bytes(capacity, &self.limits, geometry));
        }
        short.is_none()
    }
}
