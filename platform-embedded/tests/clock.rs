//! Clocks: rates, wraps, bounds.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use proptest::prelude::*;
use quorate::Instant;
use quorate_embedded::clock::{AsyncClock, Clock, CounterClock, EmbassyClock, RateError};
use std::cell::Cell;

/// Rates that timers have: Hz, prescaler.
const RATES: [(u32, u32); 9] = [
    (32_768, 1),
    (32_768, 33),
    (16_000_000, 512),
    (16_000_000, 16),
    (16_000_000, 1),
    (64_000_000, 64),
    (1_000_000, 1),
    (72_000_000, 7200),
    (1_000, 1),
];

proptest! {
    #[test]
    fn read_often_enough_it_counts_every_millisecond(
        rate in 0usize..RATES.len(),
        bits in prop_oneof![Just(16u8), Just(24), Just(32), 8u8..=32],
        start in any::<u32>(),
        steps in prop::collection::vec(0.0f64..1.0, 1..300),
    ) {
        let (hz, prescaler) = RATES[rate];
        // A turn of 4 ms at least.
        let bits = bits.max(if hz / prescaler > 1_000_000 { 16 } else { 12 });
        let ticks = Cell::new(u64::from(start));
        let mask = u64::MAX >> (64 - u32::from(bits));
        let mut clock =
            CounterClock::new(|| (ticks.get() & mask) as u32, bits, hz, prescaler).unwrap();
        for step in steps {
            // Anything up to a whole turn less one count.
            ticks.set(ticks.get() + (mask as f64 * step) as u64);
            let passed = u128::from(ticks.get() - u64::from(start));
            let ms = passed * 1000 * u128::from(prescaler) / u128::from(hz);
            prop_assert_eq!(u128::from(clock.now().as_millis()), ms);
        }
    }
}

#[test]
fn a_turn_that_is_missed_is_what_the_bound_is_for() {
    let ticks = Cell::new(0u64);
    // 16 bits at 32,768 Hz: two seconds.
    let mut clock = CounterClock::new(|| ticks.get() as u16 as u32, 16, 32_768, 1).unwrap();
    assert_eq!((clock.turn_ms(), clock.read_every_ms()), (1999, 999));
    ticks.set(ticks.get() + 32_768 * 3 / 2);
    assert_eq!(clock.now(), Instant::from_millis(1500));
    ticks.set(ticks.get() + 32_768 * 5 / 2);
    assert_eq!(clock.now(), Instant::from_millis(2000), "2 of these 2.5 s are lost");
    let slow = CounterClock::new(|| 0, 32, 100, 1).unwrap();
    assert_eq!(slow.turn_ms(), u32::MAX);
}

#[test]
fn counters_that_cannot_be_reckoned_with_are_refused() {
    let new = |bits, hz, prescaler| CounterClock::new(|| 0, bits, hz, prescaler).map(|_| ());
    assert_eq!(new(7, 1000, 1), Err(RateError::Bits { given: 7 }));
    assert_eq!(new(33, 1000, 1), Err(RateError::Bits { given: 33 }));
    assert_eq!(new(32, 0, 1), Err(RateError::Rate));
    assert_eq!(new(32, 1000, 0), Err(RateError::Rate));
    assert_eq!(new(32, 16_000_001, 1), Err(RateError::Rate));
    assert_eq!(new(32, 1000, u32::MAX), Err(RateError::Rate));
    // 256 us, and a little less and no less than 4 ms.
    assert_eq!(new(8, 1_000_000, 1), Err(RateError::Turn));
    assert_eq!(new(12, 1_048_576, 1), Err(RateError::Turn));
    assert_eq!(new(12, 1_000_000, 1), Ok(()));
    assert_eq!(new(32, 4_290_000, 1), Ok(()));
    assert_eq!(new(32, 480_000_000, 1), Ok(()));
}

#[test]
fn embassy_time_is_a_clock() {
    let driver = embassy_time::MockDriver::get();
    let mut clock = EmbassyClock;
    let before = clock.now();
    driver.advance(embassy_time::Duration::from_millis(1234));
    let now = clock.now();
    assert_eq!(now.since(before), 1234);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut waiting = Box::pin(clock.wait_until(now.after(50)));
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    driver.advance(embassy_time::Duration::from_millis(49));
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    driver.advance(embassy_time::Duration::from_millis(1));
    assert!(waiting.as_mut().poll(&mut context).is_ready());
    drop(waiting);
    let mut for_ever = Box::pin(clock.wait_until(Instant::FOREVER));
    assert!(for_ever.as_mut().poll(&mut context).is_pending());
}
