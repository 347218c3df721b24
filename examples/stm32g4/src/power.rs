//! Why the chip was reset, and its warning before the supply fails.

use embassy_stm32::interrupt::typelevel::{Handler, Interrupt, PVD_PVM};
use embassy_stm32::pac::{EXTI, PWR, RCC};
use quorate_embedded::power::{PowerFail, reset};

/// What the runner looks at before an erase.
pub static SUPPLY: PowerFail = PowerFail::new();
/// The detector's line to the interrupt.
const LINE: usize = 16;
/// The highest of its thresholds: 2.9 V.
const THRESHOLD: u8 = 6;

/// The supply has crossed the threshold, downwards or upwards.
pub struct Crossing;

impl Handler<PVD_PVM> for Crossing {
    unsafe fn on_interrupt() {
        EXTI.pr(0).write(|w| w.set_line(LINE, true));
        SUPPLY.set_failing(PWR.sr2().read().pvdo());
    }
}

/// Warns from now on when the supply falls below 2.9 V; the flash works down to 1.71 V.
pub fn watch() {
    EXTI.rtsr(0).modify(|w| w.set_line(LINE, true));
    EXTI.ftsr(0).modify(|w| w.set_line(LINE, true));
    EXTI.imr(0).modify(|w| w.set_line(LINE, true));
    // Last: a supply that is too low already is a crossing, too.
    PWR.cr2().modify(|w| {
        w.set_pls(THRESHOLD);
        w.set_pvde(true);
    });
    // SAFETY: the handler is bound, and shares nothing but the static above.
    unsafe { PVD_PVM::enable() };
}

/// Why the chip was reset; asked once, for the flags stay until they are cleared. The pin is pulled by every other reason, too.
pub fn reset_reason() -> u16 {
    let flags = RCC.csr().read();
    RCC.csr().modify(|w| w.set_rmvf(true));
    reset::first([
        (flags.iwdgrstf() | flags.wwdgrstf(), reset::WATCHDOG),
        (flags.lpwrrstf(), reset::WAKE),
        (flags.sftrstf() | flags.oblrstf(), reset::SOFTWARE),
        // Also when power comes: the chip does not tell them apart.
        (flags.borrstf(), reset::POWER_ON),
        (flags.pinrstf(), reset::PIN),
    ])
}
