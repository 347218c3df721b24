//! The UART with what the blocking link asks of it. At 115,200 baud, as embassy has it by default.

use embassy_rp::uart::{BufferedUart, Error};
use embedded_io::{ErrorType, Read, ReadReady, Write, WriteReady};

/// A UART whose interrupt keeps what comes, and sends what is there to be sent.
pub struct Wire(pub BufferedUart);

impl ErrorType for Wire {
    type Error = Error;
}

impl Read for Wire {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        Read::read(&mut self.0, bytes)
    }
}

impl ReadReady for Wire {
    fn read_ready(&mut self) -> Result<bool, Error> {
        self.0.read_ready()
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        Write::write(&mut self.0, bytes)
    }

    fn flush(&mut self) -> Result<(), Error> {
        Write::flush(&mut self.0)
    }
}

impl WriteReady for Wire {
    /// The buffer holds a frame: none is begun before the last one is gone.
    fn write_ready(&mut self) -> Result<bool, Error> {
        Ok(!self.0.busy())
    }
}
