//! The nRF51's flash behind the traits of `embedded-storage`: words of 4 bytes, pages of 1 KB. The CPU stands still while the part works.

use core::ptr;

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use nrf51_pac::NVMC;

use crate::watch::{self, WATCH};

const PAGE_BYTES: u32 = 1024;
/// Bytes of the whole flash.
const CAPACITY: u32 = 256 * 1024;
/// What the part takes for a word and for a page, in µs.
pub const WORD_US: u32 = 46;
pub const PAGE_US: u32 = 22_000;

/// The flash, whole. What may be touched is for a partition to say.
pub struct Nvmc(());

/// What the part was asked for can't be.
#[derive(Debug)]
pub struct OutOfPlace;

impl NorFlashError for OutOfPlace {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::OutOfBounds
    }
}

fn check(offset: u32, len: usize, unit: u32) -> Result<(), OutOfPlace> {
    let end = u32::try_from(len).ok().and_then(|len| offset.checked_add(len));
    let fits = end.is_some_and(|end| end <= CAPACITY && end.is_multiple_of(unit))
        && offset.is_multiple_of(unit);
    if fits { Ok(()) } else { Err(OutOfPlace) }
}

impl Nvmc {
    /// Takes the controller.
    pub fn new(_: &NVMC) -> Self {
        Self(())
    }

    /// The same once more, for the identity page: outside of an operation the controller has no state.
    pub fn again() -> Self {
        Self(())
    }

    fn controller(&self) -> &nrf51_pac::nvmc::RegisterBlock {
        // SAFETY: only this driver touches it, on the only thread; no interrupt does.
        unsafe { &*NVMC::ptr() }
    }

    /// Does one step of the controller's, of which a debugger can see that it is under way.
    fn step(&self, kind: u32, at: u32, us: u32, step: impl FnOnce()) {
        WATCH.flash_at.set(at);
        WATCH.flash.set(kind);
        // A page is erased in the middle of its time, a word stands from the beginning of its own.
        if kind == watch::ERASES {
            pass(us / 2);
        }
        step();
        while self.controller().ready.read().bits() & 1 == 0 {}
        pass(if kind == watch::ERASES { us / 2 } else { us });
        WATCH.flash.set(watch::RESTS);
    }
}

/// QEMU's flash is done at once; the part is not.
fn pass(us: u32) {
    if cfg!(feature = "emulated-flash") {
        crate::timer::wait_us(us);
    }
}

impl ErrorType for Nvmc {
    type Error = OutOfPlace;
}

impl ReadNorFlash for Nvmc {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), OutOfPlace> {
        check(offset, bytes.len(), 1)?;
        for (at, byte) in (offset..).zip(bytes) {
            // SAFETY: an address of the flash, which is readable everywhere. What is there changes: the compiler must look.
            *byte = unsafe { ptr::read_volatile(ptr::without_provenance::<u8>(at as usize)) };
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        CAPACITY as usize
    }
}

impl NorFlash for Nvmc {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = PAGE_BYTES as usize;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), OutOfPlace> {
        check(from, to.saturating_sub(from) as usize, PAGE_BYTES)?;
        for page in (from..to).step_by(PAGE_BYTES as usize) {
            self.controller().config.write(|w| w.wen().een());
            self.step(watch::ERASES, page, PAGE_US, || {
                // SAFETY: a page, behind the program: the partition has seen to that.
                self.controller().erasepage().write(|w| unsafe { w.bits(page) });
            });
        }
        self.controller().config.write(|w| w.wen().ren());
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), OutOfPlace> {
        check(offset, bytes.len(), 4)?;
        self.controller().config.write(|w| w.wen().wen());
        for (at, word) in (offset..).step_by(4).zip(bytes.as_chunks::<4>().0) {
            self.step(watch::WRITES, at, WORD_US, || {
                // SAFETY: a word of the flash, behind the program: the partition has seen to that.
                unsafe {
                    let place = ptr::without_provenance_mut::<u32>(at as usize);
                    ptr::write_volatile(place, u32::from_le_bytes(*word));
                }
            });
        }
        self.controller().config.write(|w| w.wen().ren());
        Ok(())
    }
}

/// The CPU stands still meanwhile: there is nothing to await.
#[cfg(feature = "async")]
impl embedded_storage_async::nor_flash::ReadNorFlash for Nvmc {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), OutOfPlace> {
        ReadNorFlash::read(self, offset, bytes)
    }

    fn capacity(&self) -> usize {
        CAPACITY as usize
    }
}

#[cfg(feature = "async")]
impl embedded_storage_async::nor_flash::NorFlash for Nvmc {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = PAGE_BYTES as usize;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), OutOfPlace> {
        NorFlash::erase(self, from, to)
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), OutOfPlace> {
        NorFlash::write(self, offset, bytes)
    }
}
