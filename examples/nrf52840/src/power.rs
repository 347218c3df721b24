//! Why the chip was reset, and its warning before the supply fails.

use core::sync::atomic::{AtomicBool, Ordering};

use embassy_nrf::interrupt::typelevel::{CLOCK_POWER, Handler, Interrupt};
use embassy_nrf::pac::POWER;
use embassy_nrf::pac::power::regs::Resetreas;
use embassy_nrf::pac::power::vals::Threshold;
use embassy_time::Timer;
use quorate_embedded::power::{PowerFail, reset};

/// What the runner looks at before an erase.
pub static SUPPLY: PowerFail = PowerFail::new();
static WARNED: AtomicBool = AtomicBool::new(false);
/// So long the supply is taken for failing before it is looked at again, in ms.
const AGAIN_MS: u64 = 100;

/// The chip's comparator has seen the supply fall.
pub struct Warning;

impl Handler<CLOCK_POWER> for Warning {
    unsafe fn on_interrupt() {
        POWER.events_pofwarn().write_value(0);
        WARNED.store(true, Ordering::Release);
        SUPPLY.set_failing(true);
    }
}

/// Warns from now on when the supply falls below 2.4 V; the flash works down to 1.7 V.
pub fn watch() {
    compare(true);
    POWER.intenset().write(|w| w.set_pofwarn(true));
    // SAFETY: the handler is bound, and shares nothing but the statics above.
    unsafe { CLOCK_POWER::enable() };
}

fn compare(on: bool) {
    POWER.pofcon().write(|w| {
        w.set_pof(on);
        w.set_threshold(Threshold::V24);
    });
}

/// The comparator tells that the supply falls, not that it is good again: switched on anew it warns at once if it is not.
pub async fn recover() {
    loop {
        Timer::after_millis(AGAIN_MS).await;
        if SUPPLY.is_failing() {
            WARNED.store(false, Ordering::Release);
            compare(false);
            compare(true);
            Timer::after_millis(1).await;
            // A warning in between would be lost.
            cortex_m::interrupt::free(|_| SUPPLY.set_failing(WARNED.load(Ordering::Acquire)));
        }
    }
}

/// Why the chip was reset; asked once, for the flags stay until they are cleared. A brown-out looks as if power had just come.
pub fn reset_reason() -> u16 {
    let flags = POWER.resetreas().read();
    POWER.resetreas().write_value(Resetreas(u32::MAX));
    reset::first([
        (flags.dog(), reset::WATCHDOG),
        (flags.lockup(), reset::LOCKUP),
        (flags.sreq(), reset::SOFTWARE),
        (flags.dif(), reset::DEBUGGER),
        (flags.off() | flags.lpcomp() | flags.nfc() | flags.vbus(), reset::WAKE),
        (flags.resetpin(), reset::PIN),
    ])
}
