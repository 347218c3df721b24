//! Where a board's time comes from.

use core::fmt;
use quorate::Instant;

/// A source of ticks. It never goes back, and need not know what time of day it is.
pub trait Clock {
    /// Milliseconds since a moment of the board's choice.
    fn now(&mut self) -> Instant;

    /// It has to be read at least this often, in ms, or it loses count; a runner does so by itself as long as it is called
    /// when it asked to be.
    fn read_every_ms(&self) -> u32 {
        u32::MAX
    }
}

impl<T: Clock + ?Sized> Clock for &mut T {
    fn now(&mut self) -> Instant {
        (**self).now()
    }

    fn read_every_ms(&self) -> u32 {
        (**self).read_every_ms()
    }
}

/// A clock that can be waited for.
#[cfg(feature = "async")]
#[allow(async_fn_in_trait)] // As everywhere in embedded Rust: executors do not send tasks to other threads.
pub trait AsyncClock: Clock {
    /// Returns at `until`, or later; at once if that is past. Dropping the wait has no effect.
    async fn wait_until(&mut self, until: Instant);
}

#[cfg(feature = "async")]
impl<T: AsyncClock + ?Sized> AsyncClock for &mut T {
    async fn wait_until(&mut self, until: Instant) {
        (**self).wait_until(until).await;
    }
}

/// A counter is read twice in a turn, by who counts in milliseconds.
const TURN_MS_MIN: u32 = 4;

/// A free-running hardware counter of 8 to 32 bits, extended to 64.
///
/// It loses count if it is not read once in each turn of the counter: see [`CounterClock::turn_ms`]. Reading takes 32-bit
/// divisions only.
///
/// ```
/// use quorate_embedded::clock::{Clock, CounterClock};
/// # fn timer_ticks() -> u32 { 31_250 }
/// // A 24-bit timer that counts 16 MHz divided by 512.
/// let mut clock = CounterClock::new(timer_ticks, 24, 16_000_000, 512)?;
/// assert_eq!(clock.turn_ms(), 536_870);
/// let now = clock.now();
/// # Ok::<(), quorate_embedded::clock::RateError>(())
/// ```
pub struct CounterClock<F> {
    count: F,
    mask: u32,
    /// `ticks` counts are `ms` milliseconds: the rate as a fraction in lowest terms.
    ticks: u32,
    ms: u32,
    /// The last count that was seen.
    last: u32,
    /// What is left over of a millisecond, in parts of `ticks`.
    rest: u32,
    now_ms: u64,
}

impl<F: FnMut() -> u32> CounterClock<F> {
    /// A clock of what `count` reads: a counter of `bits` bits that turns over to 0 behind its largest value, and counts
    /// `hz` divided by `prescaler`.
    ///
    /// # Errors
    /// No such counter, or its rate can't be reckoned with in 32 bits, or it turns too fast for a clock of milliseconds.
    pub fn new(mut count: F, bits: u8, hz: u32, prescaler: u32) -> Result<Self, RateError> {
        let mask = match bits {
            8..32 => 1u32.wrapping_shl(bits.into()).wrapping_sub(1),
            32 => u32::MAX,
            _ => return Err(RateError::Bits { given: bits }),
        };
        let ms = prescaler.checked_mul(1000).ok_or(RateError::Rate)?;
        let divisor = common_divisor(hz, ms);
        let (Some(ticks), Some(ms)) = (hz.checked_div(divisor), ms.checked_div(divisor)) else {
            return Err(RateError::Rate);
        };
        let sums_fit = ms.checked_add(1).and_then(|ms| ticks.checked_mul(ms)).is_some();
        if ticks == 0 || ms == 0 || !sums_fit {
            return Err(RateError::Rate);
        }
        let last = count() & mask;
        let clock = Self { count, mask, ticks, ms, last, rest: 0, now_ms: 0 };
        if clock.turn_ms() < TURN_MS_MIN {
            return Err(RateError::Turn);
        }
        Ok(clock)
    }

    /// How long one turn of the counter takes, in ms: it has to be read more often than that. A runner reads it twice in a turn.
    pub fn turn_ms(&self) -> u32 {
        let (ms, _) = self.reckon(self.mask, 0);
        u32::try_from(ms).unwrap_or(u32::MAX)
    }

    /// Counts in whole milliseconds, and what is left.
    fn reckon(&self, counts: u32, rest: u32) -> (u64, u32) {
        // Not zero: it was checked.
        let whole = counts.checked_div(self.ticks).unwrap_or(0);
        let left = counts.checked_rem(self.ticks).unwrap_or(0);
        // Below ticks * (ms + 1), which fits.
        let parts = left.wrapping_mul(self.ms).wrapping_add(rest);
        let some = parts.checked_div(self.ticks).unwrap_or(0);
        let rest = parts.checked_rem(self.ticks).unwrap_or(0);
        (u64::from(whole).wrapping_mul(self.ms.into()).wrapping_add(some.into()), rest)
    }
}

impl<F: FnMut() -> u32> Clock for CounterClock<F> {
    fn now(&mut self) -> Instant {
        let count = (self.count)() & self.mask;
        let counts = count.wrapping_sub(self.last) & self.mask;
        let (ms, rest) = self.reckon(counts, self.rest);
        (self.last, self.rest) = (count, rest);
        self.now_ms = self.now_ms.saturating_add(ms);
        Instant::from_millis(self.now_ms)
    }

    fn read_every_ms(&self) -> u32 {
        self.turn_ms() / 2
    }
}

/// A counter that is no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum RateError {
    /// It has not 8 to 32 bits.
    Bits {
        /// Bits.
        given: u8,
    },
    /// It counts nothing, or its counts in a millisecond are a fraction that takes more than 32 bits: so are most rates above 4.29 MHz that are no whole
    /// number of kHz.
    Rate,
    /// It turns over in less than 4 ms, and could not be read in time.
    Turn,
}

impl fmt::Display for RateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bits { given } => write!(f, "a counter of {given} bits: 8 to 32 can be"),
            Self::Rate => f.write_str("that rate can't be reckoned with in 32 bits"),
            Self::Turn => write!(f, "the counter turns over in less than {TURN_MS_MIN} ms"),
        }
    }
}

impl core::error::Error for RateError {}

/// The greatest, by Euclid.
const fn common_divisor(mut a: u32, mut b: u32) -> u32 {
    while let Some(rest) = a.checked_rem(b) {
        (a, b) = (b, rest);
    }
    a
}

/// The clock of embassy-time.
#[cfg(feature = "embassy-time")]
#[derive(Clone, Copy, Debug, Default)]
pub struct EmbassyClock;

#[cfg(feature = "embassy-time")]
impl Clock for EmbassyClock {
    fn now(&mut self) -> Instant {
        Instant::from_millis(embassy_time::Instant::now().as_millis())
    }
}

#[cfg(feature = "embassy-time")]
impl AsyncClock for EmbassyClock {
    async fn wait_until(&mut self, until: Instant) {
        match embassy_time::Instant::try_from_millis(until.as_millis()) {
            Some(until) => embassy_time::Timer::at(until).await,
            // Beyond what its ticks can count.
            None => core::future::pending().await,
        }
    }
}
