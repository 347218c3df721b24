//! Byte-writable memory: a write goes byte by byte, and the byte in which the power goes may be anything.

use quorate::flash::{FlashDone, FlashOp};
use quorate_flash_lab::random::Random;

/// The power is gone.
#[derive(Debug)]
pub(crate) struct Cut;

#[derive(Clone)]
pub(crate) struct Medium {
    pub(crate) bytes: Vec<u8>,
    /// The power goes in the write after so many others, behind so many of its bytes.
    pub(crate) fuse: Option<(usize, usize)>,
    /// How long each write was.
    pub(crate) writes: Vec<usize>,
    /// This and the following operations fail.
    pub(crate) fails: bool,
}

impl Medium {
    pub(crate) fn new(bytes: usize, blank: u8) -> Self {
        Self { bytes: vec![blank; bytes], fuse: None, writes: vec![], fails: false }
    }

    pub(crate) fn run(
        &mut self,
        op: FlashOp,
        buf: &mut [u8],
        random: &mut Random,
    ) -> Result<FlashDone, Cut> {
        if self.fails {
            return Ok(FlashDone::Failed);
        }
        match op {
            FlashOp::Read { offset, len } => {
                assert!(len > 0, "nothing is read");
                let (from, len) = (offset as usize, len as usize);
                buf[..len].copy_from_slice(&self.bytes[from..from + len]);
            }
            FlashOp::Write { offset, len } => {
                let (from, len) = (offset as usize, len as usize);
                assert!(len > 0, "nothing is written");
                if let Some((0, whole)) = self.fuse {
                    let whole = whole.min(len);
                    self.bytes[from..from + whole].copy_from_slice(&buf[..whole]);
                    if whole < len {
                        self.bytes[from + whole] = random.draw() as u8;
                    }
                    self.fuse = None;
                    return Err(Cut);
                }
                if let Some((writes, _)) = &mut self.fuse {
                    *writes -= 1;
                }
                self.bytes[from..from + len].copy_from_slice(&buf[..len]);
                self.writes.push(len);
            }
            FlashOp::Erase { .. } => panic!("nothing has to be erased here"),
        }
        Ok(FlashDone::Ok)
    }
}
