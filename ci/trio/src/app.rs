//! What the nodes replicate: a state that depends on every command and on their order.

use crate::STATE_BYTES;
use crate::trace::Trace;

/// The state, as its snapshot: a hash of all commands, their number, and what has passed through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct App([u8; STATE_BYTES]);

const HASH: core::ops::Range<usize> = 0..8;
const COUNT: core::ops::Range<usize> = 8..12;
const REST: core::ops::RangeFrom<usize> = 12..;

impl App {
    pub(crate) const fn new() -> Self {
        Self([0; STATE_BYTES])
    }

    /// Commands applied.
    pub(crate) fn count(&self) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[COUNT]);
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn apply(&mut self, command: &[u8]) {
        let count = self.count().wrapping_add(1);
        let mut hash = Trace::NEW;
        hash.bytes(&self.0);
        hash.bytes(command);
        let rest = &mut self.0[REST];
        rest.rotate_right(1);
        rest.iter_mut().zip(command).for_each(|(old, new)| *old ^= new);
        self.0[HASH].copy_from_slice(&hash.0.to_le_bytes());
        self.0[COUNT].copy_from_slice(&count.to_le_bytes());
    }

    /// Puts the state, from byte `offset`, into `out`; how much that was.
    pub(crate) fn snapshot(&self, offset: u32, out: &mut [u8]) -> usize {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(out.len());
        out[..len].copy_from_slice(&rest[..len]);
        len
    }

    /// A piece of a state; false if it is too long.
    pub(crate) fn restore(&mut self, offset: u32, bytes: &[u8]) -> bool {
        let place = self.0.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..bytes.len()));
        place.map(|place| place.copy_from_slice(bytes)).is_some()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
