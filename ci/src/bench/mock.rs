//! A flash that counts, for all logs alike: words of `W` bytes, erase blocks of 4 KiB, programmed in pages of 256
//! bytes where the part does so.

use std::convert::Infallible;

use embedded_storage_async::nor_flash::{ErrorType, MultiwriteNorFlash, NorFlash, ReadNorFlash};

/// The erase block, bytes.
pub(super) const BLOCK: usize = 4096;
/// Blocks of the partition.
pub(super) const BLOCKS: usize = 16;

/// What was done to a flash.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) writes: u64,
    pub(super) bytes_written: u64,
    pub(super) words_twice: u64,
    pub(super) erases: u64,
    pub(super) reads: u64,
    pub(super) bytes_read: u64,
    /// Pages of 256 bytes that write calls have touched.
    pages: u64,
}

impl Counts {
    /// What was done since `earlier`.
    pub(super) const fn since(self, earlier: Self) -> Self {
        Self {
            writes: self.writes - earlier.writes,
            bytes_written: self.bytes_written - earlier.bytes_written,
            words_twice: self.words_twice - earlier.words_twice,
            erases: self.erases - earlier.erases,
            reads: self.reads - earlier.reads,
            bytes_read: self.bytes_read - earlier.bytes_read,
            pages: self.pages - earlier.pages,
        }
    }

    /// Milliseconds on an nRF52840: 41 µs for 4 bytes, 85 ms for an erase (product specification 1.11).
    pub(super) fn nrf52840_ms(self) -> f64 {
        self.bytes_written as f64 / 4.0 * 0.041 + self.erases as f64 * 85.0
    }

    /// Milliseconds on an RP2040 with its W25Q flash: 0.4 ms for each page of 256 bytes that a call touches, 45 ms for
    /// an erase (typical values).
    pub(super) fn rp2040_ms(self) -> f64 {
        self.pages as f64 * 0.4 + self.erases as f64 * 45.0
    }
}

pub(super) struct Mock<const W: usize> {
    bytes: Vec<u8>,
    written: Vec<bool>,
    pub(super) counts: Counts,
}

impl<const W: usize> Mock<W> {
    pub(super) fn new() -> Self {
        let bytes = BLOCK * BLOCKS;
        Self {
            bytes: vec![0xff; bytes],
            written: vec![false; bytes / W],
            counts: Counts::default(),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn get(&mut self, offset: usize, out: &mut [u8]) {
        self.counts.reads += 1;
        self.counts.bytes_read += out.len() as u64;
        out.copy_from_slice(&self.bytes[offset..offset + out.len()]);
    }

    pub(super) fn program(&mut self, offset: usize, data: &[u8]) {
        assert!(
            offset.is_multiple_of(W) && data.len().is_multiple_of(W),
            "{offset} {}",
            data.len()
        );
        self.counts.writes += 1;
        self.counts.bytes_written += data.len() as u64;
        self.counts.pages += ((offset + data.len()).div_ceil(256) - offset / 256) as u64;
        for word in offset / W..(offset + data.len()) / W {
            self.counts.words_twice += u64::from(std::mem::replace(&mut self.written[word], true));
        }
        for (to, from) in self.bytes[offset..].iter_mut().zip(data) {
            *to &= from;
        }
    }

    pub(super) fn erase_block(&mut self, offset: usize) {
        assert!(offset.is_multiple_of(BLOCK));
        self.counts.erases += 1;
        self.bytes[offset..offset + BLOCK].fill(0xff);
        self.written[offset / W..(offset + BLOCK) / W].fill(false);
    }
}

impl<const W: usize> ErrorType for Mock<W> {
    type Error = Infallible;
}

impl<const W: usize> ReadNorFlash for Mock<W> {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.get(offset as usize, bytes);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl<const W: usize> NorFlash for Mock<W> {
    const WRITE_SIZE: usize = W;
    const ERASE_SIZE: usize = BLOCK;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), Infallible> {
        (from as usize..to as usize).step_by(BLOCK).for_each(|offset| self.erase_block(offset));
        Ok(())
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Infallible> {
        self.program(offset as usize, bytes);
        Ok(())
    }
}

impl<const W: usize> MultiwriteNorFlash for Mock<W> {}

impl<const W: usize> ekv::flash::Flash for Mock<W> {
    type Error = Infallible;

    fn page_count(&self) -> usize {
        BLOCKS
    }

    async fn erase(&mut self, page: ekv::flash::PageID) -> Result<(), Infallible> {
        self.erase_block(page.index() * BLOCK);
        Ok(())
    }

    async fn read(
        &mut self,
        page: ekv::flash::PageID,
        offset: usize,
        data: &mut [u8],
    ) -> Result<(), Infallible> {
        self.get(page.index() * BLOCK + offset, data);
        Ok(())
    }

    async fn write(
        &mut self,
        page: ekv::flash::PageID,
        offset: usize,
        data: &[u8],
    ) -> Result<(), Infallible> {
        self.program(page.index() * BLOCK + offset, data);
        Ok(())
    }
}
