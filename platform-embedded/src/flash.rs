//! The partition that holds the log, over the traits that flash drivers have.

use core::fmt;
use core::ops::Range;

use embedded_storage::nor_flash::NorFlash;
use quorate::flash::{FlashDone, FlashOp, Geometry};

#[cfg(feature = "async")]
use embedded_storage_async::nor_flash::NorFlash as AsyncNorFlash;

/// Where the program ends, in bytes from the beginning of the flash that starts at address `$flash_start`: as the linker
/// script of cortex-m-rt tells it. It declares symbols of the linker, which takes an `unsafe extern` block, in the firmware.
#[macro_export]
macro_rules! program_end {
    ($flash_start:expr) => {{
        unsafe extern "C" {
            // Where the initial values of `.data` lie in flash, the last thing in it, and where `.data` is in RAM.
            static __sidata: u32;
            static __sdata: u32;
            static __edata: u32;
        }
        let data = (&raw const __edata as u32).wrapping_sub(&raw const __sdata as u32);
        (&raw const __sidata as u32).wrapping_add(data).wrapping_sub($flash_start)
    }};
}

/// The part of a flash that holds the log. Nothing outside of it is ever read, written or erased.
///
/// A read that fails is an answer that the log expects: unreadable words (ECC) are what a torn write leaves on some parts.
/// An erase or a write that fails is a worn place. No error ends the board.
#[derive(Debug)]
pub struct Partition<F> {
    flash: F,
    start: u32,
    geometry: Geometry,
}

/// What a flash driver says of its part.
struct Part {
    capacity: usize,
    read: usize,
    write: usize,
    erase: usize,
}

impl<F: NorFlash> Partition<F> {
    /// The partition of that geometry that begins at byte `start` of `flash`, of which the program takes the bytes `program`:
    /// `0..program_end!(…)`, or `0..0` on a part of its own.
    ///
    /// The program's end is asked of the linker each time, and not written down twice: firmware that has grown into the
    /// partition refuses to open it, and says how far it reaches.
    ///
    /// # Errors
    /// The partition does not lie in the flash, on its erase blocks and beside the program, or has other words.
    pub fn new(
        flash: F,
        start: u32,
        program: Range<u32>,
        geometry: &Geometry,
    ) -> Result<Self, PartitionError> {
        let capacity = flash.capacity();
        let (read, write, erase) = (F::READ_SIZE, F::WRITE_SIZE, F::ERASE_SIZE);
        check(&Part { capacity, read, write, erase }, start, &program, geometry)?;
        Ok(Self { flash, start, geometry: *geometry })
    }

    /// Carries an operation out on the first bytes of `buffer`.
    pub fn perform(&mut self, op: FlashOp, buffer: &mut [u8]) -> FlashDone {
        let Some(step) = self.step(op, buffer) else {
            return FlashDone::Failed;
        };
        let result = match step {
            Step::Read(at, bytes) => self.flash.read(at, bytes),
            Step::Write(at, bytes) => self.flash.write(at, bytes),
            Step::Erase(from, to) => self.flash.erase(from, to),
        };
        done(result.is_ok())
    }
}

#[cfg(feature = "async")]
impl<F: AsyncNorFlash> Partition<F> {
    /// As [`Partition::new`], for an async driver; a blocking one becomes async by an adapter such as
    /// `embassy_embedded_hal::adapter::BlockingAsync`, and stalls the board as it did before.
    ///
    /// # Errors
    /// As [`Partition::new`].
    pub fn new_async(
        flash: F,
        start: u32,
        program: Range<u32>,
        geometry: &Geometry,
    ) -> Result<Self, PartitionError> {
        let capacity = flash.capacity();
        let (read, write, erase) = (F::READ_SIZE, F::WRITE_SIZE, F::ERASE_SIZE);
        check(&Part { capacity, read, write, erase }, start, &program, geometry)?;
        Ok(Self { flash, start, geometry: *geometry })
    }

    /// Carries an operation out on the first bytes of `buffer`.
    pub async fn perform_async(&mut self, op: FlashOp, buffer: &mut [u8]) -> FlashDone {
        let Some(step) = self.step(op, buffer) else {
            return FlashDone::Failed;
        };
        let result = match step {
            Step::Read(at, bytes) => self.flash.read(at, bytes).await,
            Step::Write(at, bytes) => self.flash.write(at, bytes).await,
            Step::Erase(from, to) => self.flash.erase(from, to).await,
        };
        done(result.is_ok())
    }

    /// Carries an operation to its end of which it is not known how far it came, as its future was dropped. A read and an
    /// erase are done again. Of a write, what stands is left, what is blank is written, and anything else is a failure: no word is
    /// programmed twice.
    pub async fn resume_async(&mut self, op: FlashOp, buffer: &mut [u8]) -> FlashDone {
        let FlashOp::Write { offset, len } = op else {
            return self.perform_async(op, buffer).await;
        };
        let word = u32::from(self.geometry.word_bytes);
        let mut stands = 0;
        let mut read = [0; WORD_BYTES_MAX];
        while stands < len {
            let place = FlashOp::Read { offset: offset.saturating_add(stands), len: word };
            if self.perform_async(place, &mut read).await == FlashDone::Failed {
                return FlashDone::Failed;
            }
            let (from, to) = (stands as usize, stands.saturating_add(word) as usize);
            if buffer.get(from..to) != read.get(..word as usize) {
                break;
            }
            stands = stands.saturating_add(word);
        }
        let rest = len.saturating_sub(stands);
        let mut blank = 0;
        while blank < rest {
            let at = offset.saturating_add(stands).saturating_add(blank);
            let place = FlashOp::Read { offset: at, len: word };
            let ok = self.perform_async(place, &mut read).await == FlashDone::Ok;
            let erased = self.geometry.erased;
            let is_blank = read.iter().take(word as usize).all(|byte| *byte == erased);
            if !ok || !is_blank {
                return FlashDone::Failed;
            }
            blank = blank.saturating_add(word);
        }
        if rest == 0 {
            return FlashDone::Ok;
        }
        let write = FlashOp::Write { offset: offset.saturating_add(stands), len: rest };
        self.perform_async(write, buffer.get_mut(stands as usize..).unwrap_or_default()).await
    }
}

/// The longest word of a [`Geometry`].
const WORD_BYTES_MAX: usize = 32;

/// An operation, where the flash has it.
enum Step<'b> {
    Read(u32, &'b mut [u8]),
    Write(u32, &'b [u8]),
    Erase(u32, u32),
}

const fn done(ok: bool) -> FlashDone {
    if ok { FlashDone::Ok } else { FlashDone::Failed }
}

impl<F> Partition<F> {
    /// How the partition is laid out.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Gives the flash back.
    pub fn into_inner(self) -> F {
        self.flash
    }

    /// The operation on the flash; `None` if it goes beyond the partition or the buffer, whatever has asked for that.
    fn step<'b>(&self, op: FlashOp, buffer: &'b mut [u8]) -> Option<Step<'b>> {
        let (FlashOp::Read { offset, len }
        | FlashOp::Write { offset, len }
        | FlashOp::Erase { offset, len }) = op;
        let end = offset.checked_add(len)?;
        if end > self.geometry.bytes() {
            return None;
        }
        let (from, to) = (self.start.checked_add(offset)?, self.start.checked_add(end)?);
        Some(match op {
            FlashOp::Read { .. } => Step::Read(from, buffer.get_mut(..len as usize)?),
            FlashOp::Write { .. } => Step::Write(from, buffer.get(..len as usize)?),
            FlashOp::Erase { .. } => Step::Erase(from, to),
        })
    }
}

fn check(
    part: &Part,
    start: u32,
    program: &Range<u32>,
    geometry: &Geometry,
) -> Result<(), PartitionError> {
    let capacity = u32::try_from(part.capacity).unwrap_or(u32::MAX);
    let end = u64::from(start).saturating_add(geometry.bytes().into());
    if geometry.bytes() == 0 || end > u64::from(capacity) {
        return Err(PartitionError::Capacity { end, capacity });
    }
    let word = geometry.word_bytes;
    let fits = |unit: usize| usize::from(word).checked_rem(unit) == Some(0);
    if !fits(part.write) || !fits(part.read) || usize::from(word) > WORD_BYTES_MAX {
        return Err(PartitionError::Word { given: word, unit: part.write.max(part.read) as u32 });
    }
    let (block, erase) = (geometry.block_bytes, part.erase as u32);
    if block.checked_rem(erase) != Some(0) || start.checked_rem(erase) != Some(0) {
        return Err(PartitionError::Block { start, block, erase });
    }
    // As the partition is made of whole erase blocks, it shares none with what is beside it.
    let apart = program.is_empty() || u64::from(program.start) >= end || program.end <= start;
    if !apart {
        return Err(PartitionError::Program { program_end: program.end, start });
    }
    Ok(())
}

/// A partition that the log can't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PartitionError {
    /// It is empty, or ends beyond the flash.
    Capacity {
        /// Where it ends, in bytes from the beginning of the flash.
        end: u64,
        /// Bytes of the flash.
        capacity: u32,
    },
    /// The geometry's word is no multiple of what the flash reads and writes at once.
    Word {
        /// Bytes.
        given: u8,
        /// Bytes that the flash takes.
        unit: u32,
    },
    /// The partition, or a block of its geometry, is not made of whole erase blocks.
    Block {
        /// Where it begins.
        start: u32,
        /// Bytes of the geometry's block.
        block: u32,
        /// Bytes of an erase block.
        erase: u32,
    },
    /// The program reaches into it: firmware that has grown, or a partition that is in its place.
    Program {
        /// Where the program ends.
        program_end: u32,
        /// Where the partition begins.
        start: u32,
    },
}

impl fmt::Display for PartitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity { end, capacity } => {
                write!(f, "a partition that ends at {end} in a flash of {capacity} bytes")
            }
            Self::Word { given, unit } => {
                write!(f, "words of {given} bytes in a flash with words of {unit}")
            }
            Self::Block { start, block, erase } => write!(
                f,
                "a partition at {start} with blocks of {block} bytes in a flash that erases {erase} at once"
            ),
            Self::Program { program_end, start } => {
                write!(f, "the program ends at {program_end}, the partition begins at {start}")
            }
        }
    }
}

impl core::error::Error for PartitionError {}
