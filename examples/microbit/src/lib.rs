#![no_std]
//! The parts of a BBC micro:bit that its firmwares share: `main.rs` in a loop of its own, `async.rs` by an executor.

pub mod console;
pub mod nvmc;
pub mod panel;
pub mod power;
pub mod timer;
pub mod uart;
pub mod watch;

use quorate::config::Flash;
use quorate::flash::Geometry;

/// Where the identity page lies, and the log: behind what `memory.x` leaves to the program.
pub const PAGE: u32 = 0x3_0000;
pub const LOG: u32 = 0x3_8000;
pub const GEOMETRY: Geometry = Geometry {
    word_bytes: 4,
    erased: 0xff,
    page_bytes: 4,
    block_bytes: 1024,
    blocks_per_segment: 2,
    segments: 16,
};
pub const FLASH: Flash =
    Flash { geometry: GEOMETRY, word_us: nvmc::WORD_US, erase_ms_max: 22, stalls: true };
/// The longest frame that a cluster of such boards can be founded with.
pub const FRAME_BYTES: usize = 112;
