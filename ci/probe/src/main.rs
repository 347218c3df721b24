//! Firmware that calls every public method of the core with input the compiler can't see through, and
//! handles every output. It is linked, not run: CI looks for panics and an allocator in its image.

#![no_std]
#![no_main]
#![expect(
    clippy::deref_addrof,
    reason = "a reference to a `static mut` is made this way, and on purpose"
)]

mod drive;
mod layers;
mod port;
mod typed;

use core::panic::PanicInfo;
use quorate::node::Node;

/// Bytes of log in RAM.
const LOG_BYTES: usize = 2048;

static mut NODE: Node<[u8; LOG_BYTES]> = Node::new();
static mut FRAME: [u8; 256] = [0; 256];
static mut FLASH: [u8; 512] = [0; 512];

/// What the chip fetches behind the stack pointer: where to start.
#[unsafe(link_section = ".vectors")]
#[used]
static RESET: unsafe extern "C" fn() -> ! = Reset;

/// The first code that runs.
#[unsafe(no_mangle)]
unsafe extern "C" fn Reset() -> ! {
    // SAFETY: the only references to these, made once, on the only thread.
    let (node, frame, flash) =
        unsafe { (&mut *(&raw mut NODE), &mut *(&raw mut FRAME), &mut *(&raw mut FLASH)) };
    loop {
        match port::byte() {
            0 => layers::drive(frame),
            #[cfg(feature = "planted-panic")]
            1 => port::show(planted(frame, port::size())),
            _ => drive::drive(node, frame, flash),
        }
    }
}

/// An index out of bounds, for the search to find.
#[cfg(feature = "planted-panic")]
#[inline(never)]
fn planted(bytes: &[u8], at: usize) -> u8 {
    bytes[at]
}

/// Only linked if something can panic.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        port::show(port::word());
    }
}
