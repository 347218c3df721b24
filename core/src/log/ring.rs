//! The bytes of the log: a ring, in which entries follow one another, with what is put aside right before the first.

use super::Log;

impl Log {
    /// Puts bytes aside, in place of what was there, until they are dropped: a piece of a snapshot on its way from the link
    /// to flash, or a command on its way to the leader. `false` if they are more than is kept free for that.
    pub fn put_aside(&mut self, bytes: &[u8]) -> bool {
        let taken = bytes.len().saturating_add(self.end.bytes as usize);
        let fits = bytes.len() <= self.kept as usize && taken < self.ring.len();
        if fits {
            self.aside = bytes.len() as u32;
            self.copy_in(self.aside_at(), bytes);
        }
        fits
    }

    /// Copies what was put aside into `out`; `None` if that is nothing, or `out` is too short.
    pub fn read_aside(&self, out: &mut [u8]) -> Option<usize> {
        let len = self.aside as usize;
        self.copy_from(self.aside_at(), out.get_mut(..len)?);
        Some(len).filter(|len| *len > 0)
    }

    /// What was put aside is not needed any more.
    pub const fn drop_aside(&mut self) {
        self.aside = 0;
    }

    /// Right before the first entry: no entry comes there, as that much is kept free.
    fn aside_at(&self) -> u32 {
        let before = self.head.checked_sub(self.aside);
        let end = self.head.saturating_add(self.ring.len() as u32);
        before.unwrap_or(end.saturating_sub(self.aside))
    }

    /// The first entries are dropped; what was put aside goes along, the last byte first: the places may overlap.
    pub(super) fn move_head(&mut self, head: u32) {
        let len = self.ring.len();
        let place = |from: u32, i: u32| {
            let at = from.saturating_add(i) as usize;
            at.checked_sub(len).unwrap_or(at)
        };
        let from = self.aside_at();
        self.head = head;
        let to = self.aside_at();
        for i in (0..self.aside).rev() {
            let byte = self.ring.get(place(from, i)).copied();
            if let (Some(place), Some(byte)) = (self.ring.get_mut(place(to, i)), byte) {
                *place = byte;
            }
        }
    }

    /// Where in the ring the byte lies that is so far behind the first one.
    pub(super) fn wrap(&self, behind: u32) -> u32 {
        let at = self.head.saturating_add(behind);
        at.checked_sub(self.ring.len() as u32).unwrap_or(at)
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.copy_in(self.wrap(self.end.bytes), bytes);
        self.end.bytes = self.end.bytes.saturating_add(bytes.len() as u32);
    }

    #[inline(never)]
    fn copy_in(&mut self, at: u32, bytes: &[u8]) {
        let at = at as usize;
        let before_end = self.ring.len().saturating_sub(at).min(bytes.len());
        let (first, second) = bytes.split_at_checked(before_end).unwrap_or((bytes, &[]));
        copy(self.ring.get_mut(at..).unwrap_or_default(), first);
        copy(&mut self.ring, second);
    }

    pub(super) fn copy_out(&self, behind: u32, out: &mut [u8]) {
        self.copy_from(self.wrap(behind), out);
    }

    fn copy_from(&self, at: u32, out: &mut [u8]) {
        let tail = self.ring.get(at as usize..).unwrap_or_default();
        let before_end = tail.len().min(out.len());
        let (first, second) = out.split_at_mut_checked(before_end).unwrap_or_default();
        copy(first, tail);
        copy(second, &self.ring);
    }
}

/// Copies as much as both hold: no length can be wrong, so nothing can panic.
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    let len = to.len().min(from.len());
    if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
        to.copy_from_slice(from);
    }
}
