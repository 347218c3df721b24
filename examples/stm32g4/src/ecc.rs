//! Flash whose words have ECC: a word that power was cut in may be unreadable. The chip tells that by its non-maskable interrupt, and goes on
//! with what it has read; for the log it is a read that failed.

use core::sync::atomic::{AtomicU8, Ordering};

use cortex_m::asm::dsb;
use cortex_m_rt::exception;
use embassy_stm32::pac::FLASH;
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};

/// Nothing of the log is being read; it is; what was read is worth nothing.
const IDLE: u8 = 0;
const READS: u8 = 1;
const UNREADABLE: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(IDLE);

/// A flash driver that does not look for such words itself.
pub struct Ecc<F>(pub F);

impl<F> ErrorType for Ecc<F> {
    type Error = NorFlashErrorKind;
}

impl<F: ReadNorFlash> ReadNorFlash for Ecc<F> {
    const READ_SIZE: usize = F::READ_SIZE;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        STATE.store(READS, Ordering::SeqCst);
        dsb();
        let read = self.0.read(offset, bytes);
        // All that was read has arrived, or its interrupt has.
        dsb();
        let state = STATE.swap(IDLE, Ordering::SeqCst);
        read.map_err(|error| error.kind())?;
        if state == UNREADABLE { Err(NorFlashErrorKind::Other) } else { Ok(()) }
    }

    fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl<F: NorFlash> NorFlash for Ecc<F> {
    const WRITE_SIZE: usize = F::WRITE_SIZE;
    const ERASE_SIZE: usize = F::ERASE_SIZE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        self.0.erase(from, to).map_err(|error| error.kind())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        self.0.write(offset, bytes).map_err(|error| error.kind())
    }
}

/// # Safety
/// It touches one register, which nothing else does, and one atomic.
#[exception]
unsafe fn NonMaskableInt() {
    let told = FLASH.eccr().read();
    let ecc = told.eccd() || told.eccd2();
    // Bits that were told are cleared by writing them back.
    FLASH.eccr().write_value(told);
    // In the program itself, or from something else: it can't go on.
    assert!(ecc && STATE.swap(UNREADABLE, Ordering::SeqCst) != IDLE, "NMI");
}
