//! TIMER0 as the board's clock: 1 MHz, 32 bits, and what wakes the CPU.

use cortex_m::peripheral::NVIC;
use nrf51_pac::{Interrupt, TIMER0, interrupt};

/// It is not slept for longer, in ms: the button is looked at now and then.
const SLEEP_MS_MAX: u64 = 20;

fn timer() -> &'static nrf51_pac::timer0::RegisterBlock {
    // SAFETY: only this module touches it; its channels 0 (to wake), 1 and 2 (to read) are used in one place each.
    unsafe { &*TIMER0::ptr() }
}

/// Starts it.
pub fn start(_: TIMER0) {
    timer().bitmode.write(|w| w.bitmode()._32bit());
    // SAFETY: 16 MHz divided by 2^4.
    timer().prescaler.write(|w| unsafe { w.bits(4) });
    timer().intenset.write(|w| w.compare0().set());
    timer().tasks_start.write(|w| unsafe { w.bits(1) });
    // SAFETY: no critical section is open.
    unsafe { NVIC::unmask(Interrupt::TIMER0) };
}

/// µs, turning over to 0 after an hour.
pub fn now_us() -> u32 {
    timer().tasks_capture[1].write(|w| unsafe { w.bits(1) });
    timer().cc[1].read().bits()
}

/// Stays here so long.
pub fn wait_us(us: u32) {
    let begun = now_us();
    while now_us().wrapping_sub(begun) < us {}
}

/// Sleeps for so many ms, or until an interrupt, unless there is something to do by now.
pub fn sleep(ms: u64, awake: impl FnOnce() -> bool) {
    let us = ms.min(SLEEP_MS_MAX) as u32 * 1000;
    if us == 0 {
        return;
    }
    timer().cc[0].write(|w| unsafe { w.bits(now_us().wrapping_add(us)) });
    cortex_m::interrupt::free(|_| {
        // An interrupt that comes now ends the sleep before it has begun.
        if !awake() {
            cortex_m::asm::wfi();
        }
    });
}

#[interrupt]
fn TIMER0() {
    timer().events_compare[0].reset();
    #[cfg(feature = "async")]
    WAITS.wake();
}

/// Whom it wakes: one task, whatever it waits for.
#[cfg(feature = "async")]
static WAITS: embassy_sync::waitqueue::AtomicWaker = embassy_sync::waitqueue::AtomicWaker::new();
/// A waiting task is woken at least so often, in ms: the next who waits may set the channel anew.
#[cfg(feature = "async")]
const LOOK_MS: u64 = 5;

/// The clock of the async runner.
#[cfg(feature = "async")]
pub struct Clock<C>(pub C);

#[cfg(feature = "async")]
impl<C: quorate_embedded::clock::Clock> quorate_embedded::clock::Clock for Clock<C> {
    fn now(&mut self) -> quorate::Instant {
        self.0.now()
    }

    fn read_every_ms(&self) -> u32 {
        self.0.read_every_ms()
    }
}

#[cfg(feature = "async")]
impl<C: quorate_embedded::clock::Clock> quorate_embedded::clock::AsyncClock for Clock<C> {
    async fn wait_until(&mut self, until: quorate::Instant) {
        use quorate_embedded::clock::Clock as _;
        core::future::poll_fn(|context| {
            let left = until.since(self.now());
            if left == 0 {
                return core::task::Poll::Ready(());
            }
            WAITS.register(context.waker());
            let us = left.min(LOOK_MS) as u32 * 1000;
            // SAFETY: the channel that wakes.
            timer().cc[0].write(|w| unsafe { w.bits(now_us().wrapping_add(us)) });
            core::task::Poll::Pending
        })
        .await;
    }
}
