//! Why the chip was reset, and its warning before the supply fails.

use core::sync::atomic::{AtomicBool, Ordering};

use cortex_m::peripheral::NVIC;
use nrf51_pac::power::RegisterBlock;
use nrf51_pac::{Interrupt, POWER, interrupt};
use quorate_embedded::power::{PowerFail, reset};

use crate::timer;

/// What the runner looks at before an erase.
pub static SUPPLY: PowerFail = PowerFail::new();
static WARNED: AtomicBool = AtomicBool::new(false);
/// The comparator has told by then, in µs.
const SETTLES_US: u32 = 50;

fn power() -> &'static RegisterBlock {
    // SAFETY: only this module touches these registers.
    unsafe { &*POWER::ptr() }
}

/// Warns from now on when the supply falls below 2.5 V; the flash works down to 1.8 V.
pub fn watch(_: POWER) {
    compare();
    power().intenset.write(|w| w.pofwarn().set());
    // SAFETY: no critical section is open.
    unsafe { NVIC::unmask(Interrupt::POWER_CLOCK) };
}

/// The comparator tells that the supply falls, not that it is good again: switched on anew it warns at once if it is not.
fn compare() {
    power().pofcon.reset();
    power().pofcon.write(|w| w.pof().enabled().threshold().v25());
}

/// To be called now and then: is a supply that was failing good again?
pub fn look() {
    if SUPPLY.is_failing() {
        WARNED.store(false, Ordering::Release);
        compare();
        timer::wait_us(SETTLES_US);
        // A warning in between would be lost.
        cortex_m::interrupt::free(|_| SUPPLY.set_failing(WARNED.load(Ordering::Acquire)));
    }
}

#[interrupt]
fn POWER_CLOCK() {
    power().events_pofwarn.reset();
    WARNED.store(true, Ordering::Release);
    SUPPLY.set_failing(true);
}

/// Why the chip was reset; asked once, for the flags stay until they are cleared. A brown-out looks as if power had just come.
pub fn reset_reason() -> u16 {
    let flags = power().resetreas.read();
    // SAFETY: each flag is cleared by a 1.
    power().resetreas.write(|w| unsafe { w.bits(u32::MAX) });
    // QEMU has no such register: its first flag is always up.
    let pin = flags.resetpin().bit() && !cfg!(feature = "emulated-flash");
    reset::first([
        (flags.dog().bit(), reset::WATCHDOG),
        (flags.lockup().bit(), reset::LOCKUP),
        (flags.sreq().bit(), reset::SOFTWARE),
        (flags.dif().bit(), reset::DEBUGGER),
        (flags.off().bit() | flags.lpcomp().bit(), reset::WAKE),
        (pin, reset::PIN),
    ])
}
