//! The layer under a flash file: what a disk does, and what it may forget.

use std::fs::File;
use std::io;

/// A file of a fixed length, as far as the flash log needs one.
///
/// What was written is kept by a power cut only once [`Disk::sync`] has returned. Until then each sector of it may be there or
/// not, in any order. A sector (512 bytes) is written whole or not at all, and one that is written again with what it held
/// still holds that: as databases on such disks take for granted, too.
pub trait Disk: Send {
    /// Its length.
    ///
    /// # Errors
    /// The system's.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// The system's, and the end of the file.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// The system's. Some of it may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything durable that was written.
    ///
    /// # Errors
    /// The system's. Nobody knows then what is durable, and trying again does not tell: the system may have forgotten
    /// what it could not write.
    fn sync(&mut self) -> io::Result<()>;
}

#[cfg(unix)]
impl Disk for File {
    fn bytes(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, bytes, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(not(unix))]
impl Disk for File {
    fn bytes(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file: &File = self;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        use std::io::{Seek, SeekFrom, Write};
        self.seek(SeekFrom::Start(offset))?;
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
