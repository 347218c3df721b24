//! Power that fails, and why a board was reset.

use core::sync::atomic::{AtomicBool, Ordering};

/// A brown-out warning: set by an interrupt, looked at by a runner, in a `static` between them.
///
/// While power fails no erase is begun. An erase takes tens of milliseconds, and one that is cut short leaves cells that read
/// as anything; writes are short, and the log outlives a torn one. A board that leads does well to hand leadership over
/// ([`Node::transfer_leader`](quorate::node::Node::transfer_leader)): once its flash has no room left, it can take no more commands.
///
/// ```
/// use quorate_embedded::power::PowerFail;
/// static POWER: PowerFail = PowerFail::new();
/// // In the handler of the power-fail comparator:
/// POWER.set_failing(true);
/// assert!(POWER.is_failing());
/// ```
#[derive(Debug, Default)]
pub struct PowerFail(AtomicBool);

impl PowerFail {
    /// Power is good.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// The supply falls (`true`), or has recovered.
    pub fn set_failing(&self, failing: bool) {
        self.0.store(failing, Ordering::Release);
    }

    /// May power be gone soon?
    pub fn is_failing(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Why a board was reset, for [`Node::remember`](quorate::node::Node::remember): the flash log keeps it through the next reset,
/// and `quorate wal inspect` shows it. Numbers from 256 on are the application's own.
pub mod reset {
    /// Power came.
    pub const POWER_ON: u16 = 1;
    /// The reset pin.
    pub const PIN: u16 = 2;
    /// The supply fell too low.
    pub const BROWN_OUT: u16 = 3;
    /// The watchdog was not fed.
    pub const WATCHDOG: u16 = 4;
    /// The firmware asked for it.
    pub const SOFTWARE: u16 = 5;
    /// The firmware panicked.
    pub const PANIC: u16 = 6;
    /// A fault inside a fault handler.
    pub const LOCKUP: u16 = 7;
    /// Woken from a sleep in which memory is lost.
    pub const WAKE: u16 = 8;
    /// A debugger.
    pub const DEBUGGER: u16 = 9;
    /// New firmware was installed.
    pub const UPDATE: u16 = 10;
    /// The clock failed.
    pub const CLOCK: u16 = 11;

    /// The first of these that is so: chips have a flag for each reason, some raise several at once, and none when power came.
    ///
    /// ```
    /// use quorate_embedded::power::reset;
    /// assert_eq!(reset::first([(false, reset::WATCHDOG), (true, reset::PIN)]), reset::PIN);
    /// assert_eq!(reset::first([(false, reset::PIN)]), reset::POWER_ON);
    /// ```
    pub fn first(reasons: impl IntoIterator<Item = (bool, u16)>) -> u16 {
        reasons.into_iter().find(|(is, _)| *is).map_or(POWER_ON, |(_, reason)| reason)
    }

    /// The reason in words; `None` for the application's own.
    pub const fn name(reason: u16) -> Option<&'static str> {
        Some(match reason {
            POWER_ON => "power on",
            PIN => "reset pin",
            BROWN_OUT => "brown-out",
            WATCHDOG => "watchdog",
            SOFTWARE => "software reset",
            PANIC => "panic",
            LOCKUP => "lockup",
            WAKE => "wake-up",
            DEBUGGER => "debugger",
            UPDATE => "update",
            CLOCK => "clock failure",
            _ => return None,
        })
    }
}
