//! What a debugger can see of the board while it runs, without stopping it: `cargo ci qemu` looks here for how far a board is, and whether
//! it is about to lose power in the middle of a flash operation. What the boards have agreed on it reads from their flash.

use core::sync::atomic::{AtomicU32, Ordering};

/// A word for others to read.
#[repr(transparent)]
pub struct Word(AtomicU32);

impl Word {
    const fn zero() -> Self {
        Self(AtomicU32::new(0))
    }

    pub fn set(&self, word: u32) {
        self.0.store(word, Ordering::Relaxed);
    }

    pub fn count(&self) {
        self.set(self.0.load(Ordering::Relaxed).wrapping_add(1));
    }
}

/// The flash is at rest.
pub const RESTS: u32 = 0;
/// The word at `flash_at` is being programmed.
pub const WRITES: u32 = 1;
/// The page at `flash_at` is being erased.
pub const ERASES: u32 = 2;

/// In this order, for the host: see `ci/src/qemu/board.rs`.
#[repr(C)]
pub struct Watch {
    pub flash: Word,
    pub flash_at: Word,
    /// 1 once the board has booted; 2 if it has stopped, 3 if the firmware panicked.
    pub state: Word,
    pub leads: Word,
    pub term: Word,
    pub applied: Word,
    /// Effective changes of the map.
    pub revision: Word,
    /// Commands that came by the wire, those that took effect, and those of which that is not known.
    pub taken: Word,
    pub done: Word,
    pub unknown: Word,
}

/// Here.
#[unsafe(no_mangle)]
pub static WATCH: Watch = Watch {
    flash: Word::zero(),
    flash_at: Word::zero(),
    state: Word::zero(),
    leads: Word::zero(),
    term: Word::zero(),
    applied: Word::zero(),
    revision: Word::zero(),
    taken: Word::zero(),
    done: Word::zero(),
    unknown: Word::zero(),
};
