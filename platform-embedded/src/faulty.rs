//! Links and flash that misbehave on purpose: on a board as in a test, by a seed that brings the same trouble again.

use core::task::Poll;

#[cfg(feature = "async")]
use crate::link::AsyncLink;
use crate::link::{Link, copy};
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
#[cfg(feature = "async")]
use embedded_storage_async::nor_flash::{
    NorFlash as AsyncNorFlash, ReadNorFlash as AsyncReadNorFlash,
};
use quorate::{Instant, NodeSet};

/// Numbers that look drawn (xorshift).
#[derive(Clone, Debug)]
struct Dice(u32);

impl Dice {
    const fn new(seed: u32) -> Self {
        // Seeds are small numbers: what is drawn first shall differ between them too.
        let mixed = (seed ^ seed.wrapping_shr(16)).wrapping_add(1).wrapping_mul(0x9e37_79b9);
        let mixed = (mixed ^ mixed.wrapping_shr(15)).wrapping_mul(0x85eb_ca6b);
        Self(if mixed == 0 { 1 } else { mixed })
    }

    fn draw(&mut self) -> u32 {
        self.0 ^= self.0.wrapping_shl(13);
        self.0 ^= self.0.wrapping_shr(17);
        self.0 ^= self.0.wrapping_shl(5);
        self.0
    }

    fn below(&mut self, n: u32) -> u32 {
        self.draw().checked_rem(n).unwrap_or(0)
    }

    fn happens(&mut self, permille: u16) -> bool {
        self.below(1000) < permille.into()
    }
}

/// What happens to frames that come in, each in ‰.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LinkFaults {
    /// It is lost.
    pub lose_permille: u16,
    /// It comes twice.
    pub duplicate_permille: u16,
    /// One bit of it is flipped.
    pub corrupt_permille: u16,
    /// It is held back until so many others have come (see `delay_frames`); of several, one at a time.
    pub delay_permille: u16,
    /// How many others, at most.
    pub delay_frames: u8,
}

/// How often each happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LinkCounters {
    /// Frames that came in.
    pub received: u32,
    /// Lost.
    pub lost: u32,
    /// Came twice.
    pub duplicated: u32,
    /// Came with a flipped bit.
    pub corrupted: u32,
    /// Came late.
    pub delayed: u32,
}

/// A link over which frames come in lost, twice, corrupt or late.
pub struct FaultyLink<'a, L> {
    link: L,
    faults: LinkFaults,
    dice: Dice,
    counters: LinkCounters,
    /// The frame that is handed over.
    frame: &'a mut [u8],
    /// The one that is held back, its length, and for how many others yet.
    held: &'a mut [u8],
    held_len: usize,
    held_for: u32,
}

impl<'a, L> FaultyLink<'a, L> {
    /// Puts trouble into `link`. `memory` holds two frames.
    pub fn new(link: L, faults: LinkFaults, seed: u32, memory: &'a mut [u8]) -> Self {
        let (frame, held) = memory.split_at_mut(memory.len() / 2);
        let dice = Dice::new(seed);
        let counters = LinkCounters::default();
        Self { link, faults, dice, counters, frame, held, held_len: 0, held_for: 0 }
    }

    /// Other trouble from now on.
    pub const fn set_faults(&mut self, faults: LinkFaults) {
        self.faults = faults;
    }

    /// What happened so far.
    pub const fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    /// A frame that is due; its length.
    fn due(&mut self) -> Option<usize> {
        if self.held_len == 0 || self.held_for > 0 {
            return None;
        }
        let len = core::mem::take(&mut self.held_len);
        Some(copy(self.frame, self.held.get(..len).unwrap_or_default()))
    }

    /// A frame of `len` bytes has come into `frame`; is it to be handed over?
    fn pass(&mut self, len: usize) -> bool {
        let Self { faults, dice, counters, .. } = self;
        counters.received = counters.received.wrapping_add(1);
        self.held_for = self.held_for.saturating_sub(1);
        if dice.happens(faults.lose_permille) {
            counters.lost = counters.lost.wrapping_add(1);
            return false;
        }
        let free = self.held_len == 0;
        if free && dice.happens(faults.delay_permille) {
            counters.delayed = counters.delayed.wrapping_add(1);
            self.held_len = copy(self.held, self.frame.get(..len).unwrap_or_default());
            self.held_for = dice.below(faults.delay_frames.into()).saturating_add(1);
            return false;
        }
        if free && dice.happens(faults.duplicate_permille) {
            counters.duplicated = counters.duplicated.wrapping_add(1);
            self.held_len = copy(self.held, self.frame.get(..len).unwrap_or_default());
            self.held_for = 0;
        }
        if dice.happens(faults.corrupt_permille) {
            let place = dice.below(len as u32) as usize;
            if let Some(byte) = self.frame.get_mut(place) {
                counters.corrupted = counters.corrupted.wrapping_add(1);
                *byte ^= 1u8.wrapping_shl(dice.below(8));
            }
        }
        true
    }
}

impl<L: Link> Link for FaultyLink<'_, L> {
    fn send(&mut self, now: Instant, to: NodeSet, frame: &[u8]) -> Poll<()> {
        self.link.send(now, to, frame)
    }

    fn receive(&mut self, now: Instant) -> Option<&[u8]> {
        let len = loop {
            if let Some(len) = self.due() {
                break len;
            }
            let len = copy(self.frame, self.link.receive(now)?);
            if self.pass(len) {
                break len;
            }
        };
        self.frame.get(..len)
    }

    fn is_busy(&self) -> bool {
        self.link.is_busy()
    }
}

#[cfg(feature = "async")]
impl<L: AsyncLink> AsyncLink for FaultyLink<'_, L> {
    async fn send(&mut self, to: NodeSet, frame: &[u8]) {
        self.link.send(to, frame).await;
    }

    async fn receive(&mut self) -> &[u8] {
        let len = loop {
            if let Some(len) = self.due() {
                break len;
            }
            let len = copy(self.frame, self.link.receive().await);
            if self.pass(len) {
                break len;
            }
        };
        self.frame.get(..len).unwrap_or_default()
    }
}

/// What happens to flash operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct FlashFaults {
    /// A read fails, ‰.
    pub read_permille: u16,
    /// A write fails, ‰: nothing of it, some of it or all of it stands.
    pub write_permille: u16,
    /// An erase fails, ‰, and has changed nothing.
    pub erase_permille: u16,
    /// After so many writes and erases the next one is torn, and the flash does nothing more: as if power had failed. To be
    /// followed by a reset.
    pub tear_after: Option<u32>,
}

/// The error of a [`FaultyFlash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum FaultyError<E> {
    /// Of the flash itself.
    Flash(E),
    /// Brought about.
    Planted,
}

impl<E: NorFlashError> NorFlashError for FaultyError<E> {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Flash(error) => error.kind(),
            Self::Planted => NorFlashErrorKind::Other,
        }
    }
}

/// A flash whose operations fail or are torn.
#[derive(Clone, Debug)]
pub struct FaultyFlash<F> {
    flash: F,
    faults: FlashFaults,
    dice: Dice,
    /// Planted so far.
    planted: u32,
    torn: bool,
}

/// How far an operation comes.
enum Fate {
    Whole,
    /// So many parts of 256.
    Part(u32),
    Nothing,
}

impl<F> FaultyFlash<F> {
    /// Puts trouble into `flash`.
    pub const fn new(flash: F, faults: FlashFaults, seed: u32) -> Self {
        Self { flash, faults, dice: Dice::new(seed), planted: 0, torn: false }
    }

    /// Other trouble from now on.
    pub const fn set_faults(&mut self, faults: FlashFaults) {
        self.faults = faults;
    }

    /// How many operations were made to fail.
    pub const fn planted(&self) -> u32 {
        self.planted
    }

    /// The flash was torn, and is dead until a reset.
    pub const fn is_torn(&self) -> bool {
        self.torn
    }

    /// The flash.
    pub fn into_inner(self) -> F {
        self.flash
    }

    fn read_fails(&mut self) -> bool {
        let fails = self.torn || self.dice.happens(self.faults.read_permille);
        self.planted = self.planted.wrapping_add(fails.into());
        fails
    }

    /// What becomes of a write or an erase that fails for so many in a thousand.
    fn fate(&mut self, permille: u16, can_stand: bool) -> Fate {
        if self.torn {
            return Fate::Nothing;
        }
        let fate = match &mut self.faults.tear_after {
            Some(0) => {
                self.torn = true;
                Fate::Part(self.dice.below(256))
            }
            after => {
                if let Some(after) = after {
                    *after = after.saturating_sub(1);
                }
                match (self.dice.happens(permille), can_stand) {
                    (false, _) => return Fate::Whole,
                    (true, false) => Fate::Nothing,
                    (true, true) => Fate::Part(self.dice.below(257)),
                }
            }
        };
        self.planted = self.planted.wrapping_add(1);
        fate
    }
}

/// That part of `bytes`, in whole units.
fn share(bytes: u32, unit: usize, part: u32) -> u32 {
    let unit = unit as u32;
    let units = bytes.checked_div(unit).unwrap_or(0);
    let some = units.saturating_mul(part).wrapping_shr(8);
    some.saturating_mul(unit)
}

impl<F: ErrorType> ErrorType for FaultyFlash<F> {
    type Error = FaultyError<F::Error>;
}

impl<F: ReadNorFlash> ReadNorFlash for FaultyFlash<F> {
    const READ_SIZE: usize = F::READ_SIZE;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Self::Error> {
        if self.read_fails() {
            return Err(FaultyError::Planted);
        }
        self.flash.read(offset, bytes).map_err(FaultyError::Flash)
    }

    fn capacity(&self) -> usize {
        self.flash.capacity()
    }
}

impl<F: NorFlash> NorFlash for FaultyFlash<F> {
    const WRITE_SIZE: usize = F::WRITE_SIZE;
    const ERASE_SIZE: usize = F::ERASE_SIZE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Self::Error> {
        let upto = match self.fate(self.faults.erase_permille, false) {
            Fate::Whole => return self.flash.erase(from, to).map_err(FaultyError::Flash),
            Fate::Part(part) => share(to.saturating_sub(from), F::ERASE_SIZE, part),
            Fate::Nothing => 0,
        };
        if upto > 0 {
            self.flash.erase(from, from.saturating_add(upto)).map_err(FaultyError::Flash)?;
        }
        Err(FaultyError::Planted)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Self::Error> {
        let upto = match self.fate(self.faults.write_permille, true) {
            Fate::Whole => return self.flash.write(offset, bytes).map_err(FaultyError::Flash),
            Fate::Part(part) => share(bytes.len() as u32, F::WRITE_SIZE, part) as usize,
            Fate::Nothing => 0,
        };
        if let Some(bytes) = bytes.get(..upto).filter(|bytes| !bytes.is_empty()) {
            self.flash.write(offset, bytes).map_err(FaultyError::Flash)?;
        }
        Err(FaultyError::Planted)
    }
}

#[cfg(feature = "async")]
impl<F: AsyncReadNorFlash> AsyncReadNorFlash for FaultyFlash<F> {
    const READ_SIZE: usize = F::READ_SIZE;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Self::Error> {
        if self.read_fails() {
            return Err(FaultyError::Planted);
        }
        self.flash.read(offset, bytes).await.map_err(FaultyError::Flash)
    }

    fn capacity(&self) -> usize {
        self.flash.capacity()
    }
}

#[cfg(feature = "async")]
impl<F: AsyncNorFlash> AsyncNorFlash for FaultyFlash<F> {
    const WRITE_SIZE: usize = F::WRITE_SIZE;
    const ERASE_SIZE: usize = F::ERASE_SIZE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), Self::Error> {
        let upto = match self.fate(self.faults.erase_permille, false) {
            Fate::Whole => return self.flash.erase(from, to).await.map_err(FaultyError::Flash),
            Fate::Part(part) => share(to.saturating_sub(from), F::ERASE_SIZE, part),
            Fate::Nothing => 0,
        };
        if upto > 0 {
            self.flash.erase(from, from.saturating_add(upto)).await.map_err(FaultyError::Flash)?;
        }
        Err(FaultyError::Planted)
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Self::Error> {
        let upto = match self.fate(self.faults.write_permille, true) {
            Fate::Whole => {
                return self.flash.write(offset, bytes).await.map_err(FaultyError::Flash);
            }
            Fate::Part(part) => share(bytes.len() as u32, F::WRITE_SIZE, part) as usize,
            Fate::Nothing => 0,
        };
        if let Some(bytes) = bytes.get(..upto).filter(|bytes| !bytes.is_empty()) {
            self.flash.write(offset, bytes).await.map_err(FaultyError::Flash)?;
        }
        Err(FaultyError::Planted)
    }
}
