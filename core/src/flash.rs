//! What the core asks of flash: offsets within the partition that the board gave it.

/// One flash operation. Each is a crash point: power may be gone before, in or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum FlashOp {
    /// Read `len` bytes from `offset` into the first `len` bytes of the flash buffer.
    Read {
        /// Bytes from the start of the partition.
        offset: u32,
        /// How many bytes.
        len: u32,
    },
    /// Program the first `len` bytes of the flash buffer at `offset`; both are multiples of the word.
    Write {
        /// Bytes from the start of the partition.
        offset: u32,
        /// How many bytes.
        len: u32,
    },
    /// Erase `len` bytes from `offset`; both are multiples of the erase block.
    Erase {
        /// Bytes from the start of the partition.
        offset: u32,
        /// How many bytes.
        len: u32,
    },
}

/// How a flash operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum FlashDone {
    /// It is done; what was read is in the flash buffer.
    Ok,
    /// It failed. A failed read is an unreadable place (ECC), a failed write or erase a worn one.
    Failed,
}

/// The partition that holds the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Geometry {
    /// The smallest unit that can be programmed, 1, 2, 4, 8, 16 or 32 bytes.
    pub word_bytes: u8,
    /// What an erased byte reads as: 0xFF, or 0x00 on STM32L0 and L1.
    pub erased: u8,
    /// The unit that one program operation fills: equal to the word on internal flash, 256 on SPI NOR.
    /// A write cut short leaves doubt in the rest of this unit.
    pub page_bytes: u16,
    /// The smallest unit that can be erased.
    pub block_bytes: u32,
    /// Erase blocks in one segment of the log.
    pub blocks_per_segment: u16,
    /// Segments in the partition, 3 to 32.
    pub segments: u8,
}

impl Geometry {
    /// Bytes of a segment, in a geometry that [`Wal::check`](crate::wal::Wal::check) takes.
    pub const fn segment_bytes(&self) -> u32 {
        self.block_bytes.wrapping_mul(self.blocks_per_segment as u32)
    }

    /// Bytes of the partition.
    pub const fn bytes(&self) -> u32 {
        self.segment_bytes().saturating_mul(self.segments as u32)
    }

    /// `bytes` rounded up to whole words, in such a geometry.
    pub const fn padded(&self, bytes: u32) -> u32 {
        let rest = (self.word_bytes as u32).wrapping_sub(1);
        bytes.wrapping_add(rest) & !rest
    }
}
