//! What all images share: how a function is kept that nobody calls, and what the chip starts with.
//!
//! An image holds the addresses of the functions that its user would call, in a section beside code and
//! constants. The linker keeps those and what they need, and nothing else; the compiler knows nothing of what
//! they are called with.

#![no_std]

use core::panic::PanicInfo;

/// An address that the linker keeps, of a function or of a variable.
#[repr(transparent)]
pub struct Kept(pub *const ());

// SAFETY: it is an address that nobody follows.
unsafe impl Sync for Kept {}

/// Keeps these functions and variables.
#[macro_export]
macro_rules! keep {
    ($($what:expr),* $(,)?) => {
        const _: () = {
            #[unsafe(link_section = ".vectors")]
            #[used]
            static KEPT: [$crate::Kept; [$(stringify!($what)),*].len()] =
                [$($crate::Kept($what as *const ())),*];
        };
    };
}

/// Keeps what a user of the log in RAM calls.
#[macro_export]
macro_rules! keep_log {
    () => {
        use quorate::log::Log;

        $crate::keep![
            Log::reset,
            Log::append,
            Log::append_entries,
            Log::compact,
            Log::fit,
            Log::copy,
            Log::read,
            Log::kind,
            Log::holds,
            Log::write_begins,
            Log::write_ends,
        ];
    };
}

/// Keeps what the loop of a board calls.
#[macro_export]
macro_rules! keep_node {
    () => {
        $crate::keep![
            <Node>::start,
            <Node>::handle_frame,
            <Node>::handle_timeout,
            <Node>::handle_flash,
            <Node>::handle_snapshot,
            <Node>::handle_unreachable,
            <Node>::poll_output,
            <Node>::propose,
            <Node>::refuse_apply,
            <Node>::status,
        ];
    };
}

/// The first code that runs.
#[unsafe(no_mangle)]
extern "C" fn Reset() -> ! {
    #[allow(clippy::empty_loop, reason = "there is nothing else to do")]
    loop {}
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    Reset()
}
