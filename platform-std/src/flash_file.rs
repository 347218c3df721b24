//! NOR flash in a file: the same image that is read from a board's flash, byte for byte.
//!
//! A program only clears bits, an erase sets a whole block; an operation has ended only when the disk has it. So what the
//! core acknowledges survives a kill and a power cut. Anything that the disk refuses is final: after a failed `fsync` nobody knows
//! what it holds, so every later operation is refused too, and the node stops.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs4::{FileExt, TryLockError};
use quorate::flash::{FlashDone, FlashOp, Geometry};

use crate::disk::Disk;

/// Bytes that are written at a time when a file is made.
const CHUNK_BYTES: usize = 1 << 20;

/// Why there is no flash file to work with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlashFileError {
    /// The system refused an operation.
    #[error("{}: {doing}: {source}", path.display())]
    Io {
        /// On what.
        path: PathBuf,
        /// What was to be done.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{}: another process is using this image: stop it, or use another --data", .0.display())]
    InUse(PathBuf),
    /// There is one already.
    #[error("{}: there is an image already; it is left alone", .0.display())]
    Exists(PathBuf),
}

/// A partition of flash in a file, or on another [`Disk`].
#[derive(Debug)]
pub struct FlashFile<D = File> {
    disk: D,
    erased: u8,
    failed: bool,
    before: Vec<u8>,
    figures: Figures,
}

/// What a flash file was asked to do so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Writes and erases, each made durable by itself.
    pub syncs: u64,
    /// Bytes that were programmed.
    pub bytes_written: u64,
    /// Erases.
    pub erases: u64,
}

impl<D: Disk> FlashFile<D> {
    /// Flash with this erased value on a disk.
    pub const fn new(disk: D, erased: u8) -> Self {
        Self {
            disk,
            erased,
            failed: false,
            before: Vec::new(),
            figures: Figures { syncs: 0, bytes_written: 0, erases: 0 },
        }
    }

    /// The disk under it.
    pub const fn disk(&mut self) -> &mut D {
        &mut self.disk
    }

    /// The disk alone.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// The same, with another erased value.
    #[must_use]
    pub fn with_erased(self, erased: u8) -> Self {
        Self { erased, ..self }
    }

    /// What it was asked to do.
    pub const fn figures(&self) -> Figures {
        self.figures
    }

    /// The whole image.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.disk.bytes()?).map_err(io::Error::other)?];
        self.disk.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Carries out an operation; what it reads or writes is at the beginning of `buffer`. When this returns, it is durable.
    ///
    /// # Errors
    /// The disk's. No later operation is carried out any more.
    pub fn perform(&mut self, op: FlashOp, buffer: &mut [u8]) -> io::Result<FlashDone> {
        if self.failed {
            return Err(io::Error::other("an earlier operation has failed"));
        }
        let done = self.try_perform(op, buffer);
        self.failed = done.is_err();
        done
    }

    fn try_perform(&mut self, op: FlashOp, buffer: &mut [u8]) -> io::Result<FlashDone> {
        let (FlashOp::Read { offset, len }
        | FlashOp::Write { offset, len }
        | FlashOp::Erase { offset, len }) = op;
        let (offset, len) = (u64::from(offset), len as usize);
        if offset.saturating_add(len as u64) > self.disk.bytes()? {
            return Ok(FlashDone::Failed);
        }
        match (op, buffer.get_mut(..len)) {
            (FlashOp::Erase { .. }, _) => {
                self.disk.write_at(offset, &vec![self.erased; len])?;
                self.figures.erases += 1;
            }
            (FlashOp::Read { .. }, Some(bytes)) => {
                self.disk.read_at(offset, bytes)?;
                return Ok(FlashDone::Ok);
            }
            (FlashOp::Write { .. }, Some(bytes)) => {
                self.program(offset, bytes)?;
                self.figures.bytes_written += len as u64;
            }
            (_, None) => return Ok(FlashDone::Failed),
        }
        self.figures.syncs += 1;
        self.disk.sync().map(|()| FlashDone::Ok)
    }

    /// Bits that are not erased any more stay so: whoever writes a word twice finds that out when it is read.
    fn program(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.before.resize(bytes.len(), 0);
        self.disk.read_at(offset, &mut self.before)?;
        let blank = self.erased;
        for (place, byte) in self.before.iter_mut().zip(bytes) {
            // Exclusive-or with the blank value makes a set bit one that is programmed.
            *place = ((*place ^ blank) | (byte ^ blank)) ^ blank;
        }
        self.disk.write_at(offset, &self.before)
    }
}

impl FlashFile {
    /// Opens an image, and locks it against other processes until it is dropped.
    ///
    /// # Errors
    /// It can't be opened, or another process has it.
    pub fn open(path: &Path, erased: u8) -> Result<Self, FlashFileError> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed(path, "can't open this image"))?;
        lock(path, &file)?;
        Ok(Self::new(file, erased))
    }
}

/// Makes an image file: all of it is there and durable, or there is none. All its bytes are written, so that no disk that is full
/// later gets in the way.
///
/// # Errors
/// There is one already, or it can't be written.
pub fn create(path: &Path, image: &[u8]) -> Result<(), FlashFileError> {
    // Never a name that somebody else's file may have, as one with another ending might.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".quorate-new");
    let new = path.with_file_name(name);
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&new)
        .map_err(failed(&new, "can't make this image"))?;
    // Whoever else makes it does so under the same lock.
    lock(&new, &file)?;
    if path.exists() {
        let _ = fs::remove_file(&new);
        return Err(FlashFileError::Exists(path.into()));
    }
    if let Err(source) = write_all(&mut file, image) {
        // What is left of it would take the room that is missing.
        let _ = fs::remove_file(&new);
        return Err(failed(path, "can't write this image")(source));
    }
    fs::rename(&new, path).map_err(failed(path, "can't name this image"))?;
    sync_directory(path)
}

/// A blank image of that many bytes.
///
/// # Errors
/// As [`create`].
pub fn create_blank(path: &Path, geometry: &Geometry) -> Result<(), FlashFileError> {
    create(path, &vec![geometry.erased; geometry.bytes() as usize])
}

fn write_all(file: &mut File, image: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    image.chunks(CHUNK_BYTES).try_for_each(|chunk| file.write_all(chunk))?;
    file.sync_all()
}

/// Makes the name durable, where the system has a way to do that.
fn sync_directory(path: &Path) -> Result<(), FlashFileError> {
    if cfg!(unix) {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        return synced.map_err(failed(dir, "can't be synced"));
    }
    Ok(())
}

fn lock(path: &Path, file: &File) -> Result<(), FlashFileError> {
    match FileExt::try_lock(file) {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(FlashFileError::InUse(path.into())),
        Err(TryLockError::Error(e)) => Err(failed(path, "can't lock this image")(e)),
    }
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> FlashFileError {
    let path = path.to_path_buf();
    move |source| FlashFileError::Io { path, doing, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank(erased: u8) -> (tempfile::TempDir, FlashFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.qfl");
        create(&path, &[erased; 1024]).unwrap();
        let flash = FlashFile::open(&path, erased).unwrap();
        (dir, flash)
    }

    fn write(flash: &mut FlashFile, offset: u32, bytes: &[u8]) {
        let len = bytes.len() as u32;
        let done = flash.perform(FlashOp::Write { offset, len }, &mut bytes.to_vec()).unwrap();
        assert_eq!(done, FlashDone::Ok);
    }

    #[test]
    fn a_program_only_moves_bits_away_from_the_erased_value_and_an_erase_brings_them_back() {
        for (erased, twice) in [(0xff, 0b1000), (0x00, 0b1110)] {
            let (_dir, mut flash) = blank(erased);
            write(&mut flash, 8, &[0b1100]);
            write(&mut flash, 8, &[0b1010]);
            assert_eq!(flash.read_all().unwrap()[8], twice, "{erased}");
            let done = flash.perform(FlashOp::Erase { offset: 0, len: 128 }, &mut []).unwrap();
            assert_eq!(done, FlashDone::Ok);
            assert_eq!(flash.read_all().unwrap(), vec![erased; 1024]);
            assert_eq!(flash.figures(), Figures { syncs: 3, bytes_written: 2, erases: 1 });
        }
    }

    #[test]
    fn what_is_beyond_the_end_or_the_buffer_fails_and_changes_nothing() {
        let (_dir, mut flash) = blank(0xff);
        for op in [
            FlashOp::Write { offset: 1020, len: 8 },
            FlashOp::Erase { offset: 1024, len: 128 },
            FlashOp::Read { offset: 1017, len: 8 },
            FlashOp::Write { offset: 0, len: 9 },
        ] {
            assert_eq!(flash.perform(op, &mut [0; 8]).unwrap(), FlashDone::Failed, "{op:?}");
        }
        assert_eq!(flash.read_all().unwrap(), vec![0xff; 1024]);
    }

    #[test]
    fn an_image_that_is_open_or_exists_is_refused_by_name() {
        let (dir, flash) = blank(0xff);
        let path = dir.path().join("node.qfl");
        let error = FlashFile::open(&path, 0xff).unwrap_err();
        assert!(matches!(&error, FlashFileError::InUse(at) if *at == path), "{error}");
        drop(flash);
        FlashFile::open(&path, 0xff).unwrap();
        let error = create(&path, &[0; 4]).unwrap_err();
        assert!(matches!(&error, FlashFileError::Exists(at) if *at == path), "{error}");
        assert_eq!(fs::read(&path).unwrap(), vec![0xff; 1024]);
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["node.qfl"]);
    }

    #[test]
    fn files_beside_an_image_that_is_made_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("copy.new");
        fs::write(&other, "precious").unwrap();
        create(&dir.path().join("copy.qfl"), &[0; 4]).unwrap();
        let error = create(&other, &[0; 4]).unwrap_err();
        assert!(matches!(&error, FlashFileError::Exists(at) if *at == other), "{error}");
        assert_eq!(fs::read(&other).unwrap(), b"precious");
    }
}
