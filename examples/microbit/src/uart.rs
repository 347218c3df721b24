//! UART0 behind the traits of `embedded-io`: 115,200 baud; what comes is kept in a ring by the interrupt.

use core::convert::Infallible;
use core::sync::atomic::{AtomicU8, Ordering};

use cortex_m::peripheral::NVIC;
use embedded_io::{ErrorType, Read, ReadReady, Write, WriteReady};
use nrf51_pac::{Interrupt, UART0, interrupt};

/// Bytes that are kept: what comes in 11 ms.
const RING_BYTES: usize = 128;

/// Written by the interrupt, read by the program.
struct Ring {
    bytes: [AtomicU8; RING_BYTES],
    /// Where the next byte goes, and where the next one is. Both count on, modulo 256.
    head: AtomicU8,
    tail: AtomicU8,
}

static RING: Ring = Ring {
    bytes: [const { AtomicU8::new(0) }; RING_BYTES],
    head: AtomicU8::new(0),
    tail: AtomicU8::new(0),
};

impl Ring {
    fn len(&self) -> u8 {
        self.head.load(Ordering::Acquire).wrapping_sub(self.tail.load(Ordering::Acquire))
    }

    /// A byte that has no room is lost, and with it the frame that it is of.
    fn push(&self, byte: u8) {
        if usize::from(self.len()) < RING_BYTES {
            let head = self.head.load(Ordering::Relaxed);
            self.bytes[usize::from(head) % RING_BYTES].store(byte, Ordering::Relaxed);
            self.head.store(head.wrapping_add(1), Ordering::Release);
        }
    }

    fn pop(&self) -> Option<u8> {
        if self.len() == 0 {
            return None;
        }
        let tail = self.tail.load(Ordering::Relaxed);
        let byte = self.bytes[usize::from(tail) % RING_BYTES].load(Ordering::Relaxed);
        self.tail.store(tail.wrapping_add(1), Ordering::Release);
        Some(byte)
    }
}

fn uart() -> &'static nrf51_pac::uart0::RegisterBlock {
    // SAFETY: the program sends, the interrupt receives; they share no register.
    unsafe { &*UART0::ptr() }
}

/// The line.
pub struct Uart(());

impl Uart {
    /// Takes the UART, with the micro:bit's own pins.
    pub fn new(_: UART0) -> Self {
        // SAFETY: pins 24 and 25, and 115,200 baud as the reference manual spells it.
        unsafe {
            // First of all: QEMU's takes nothing before.
            uart().enable.write(|w| w.enable().enabled());
            uart().pseltxd.write(|w| w.bits(24));
            uart().pselrxd.write(|w| w.bits(25));
            uart().baudrate.write(|w| w.bits(0x01d7_e000));
            uart().intenset.write(|w| w.rxdrdy().set());
            uart().tasks_startrx.write(|w| w.bits(1));
            uart().tasks_starttx.write(|w| w.bits(1));
            NVIC::unmask(Interrupt::UART0);
        }
        Self(())
    }
}

/// Has anything come that was not read yet?
pub fn has_come() -> bool {
    RING.len() > 0
}

/// Whom it wakes that something has come.
#[cfg(feature = "async")]
static WAITS: embassy_sync::waitqueue::AtomicWaker = embassy_sync::waitqueue::AtomicWaker::new();

#[interrupt]
fn UART0() {
    while uart().events_rxdrdy.read().bits() != 0 {
        uart().events_rxdrdy.reset();
        RING.push(uart().rxd.read().bits() as u8);
    }
    #[cfg(feature = "async")]
    WAITS.wake();
}

impl ErrorType for Uart {
    type Error = Infallible;
}

impl Read for Uart {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
        let mut count = 0;
        for place in bytes {
            let Some(byte) = RING.pop() else { break };
            (*place, count) = (byte, count + 1);
        }
        Ok(count)
    }
}

impl ReadReady for Uart {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(has_come())
    }
}

impl Write for Uart {
    /// One byte at a time: the part has no buffer.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let Some(byte) = bytes.first() else { return Ok(0) };
        uart().events_txdrdy.reset();
        // SAFETY: a byte.
        uart().txd.write(|w| unsafe { w.bits(u32::from(*byte)) });
        while uart().events_txdrdy.read().bits() == 0 {}
        Ok(1)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl WriteReady for Uart {
    fn write_ready(&mut self) -> Result<bool, Infallible> {
        Ok(true)
    }
}

#[cfg(feature = "async")]
impl embedded_io_async::Read for Uart {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
        core::future::poll_fn(|context| {
            WAITS.register(context.waker());
            if has_come() { core::task::Poll::Ready(()) } else { core::task::Poll::Pending }
        })
        .await;
        Read::read(self, bytes)
    }
}

#[cfg(feature = "async")]
impl embedded_io_async::Write for Uart {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        // Byte by byte, so that others get their turn on a real wire.
        embassy_futures::yield_now().await;
        Write::write(self, bytes)
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
