//! A directory that keeps the boards' flash images, `board-1.qfl` and on, from one run to the next.
//!
//! The images of one moment belong together: a board whose flash went back in time has forgotten what it
//! promised. So they are replaced all or none, also if the machine fails half way: the new ones are written
//! beside the old, a marker file says that they are whole, and only then they take the old ones' names. Whoever
//! opens the directory next finishes what the marker began, or throws away what has none.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs4::{FileExt, TryLockError};

const LOCK: &str = "quorate.lock";
const MARKER: &str = "images.complete";

/// What is wrong with a directory or an image in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
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
    /// Another process has the directory open.
    #[error("{}: another run is using this directory; wait for it, or choose another --data", .0.display())]
    InUse(PathBuf),
    /// Some boards have an image and some have none.
    #[error("{}: this board's image is missing, while others are there; restore it, or empty the directory to begin anew", .0.display())]
    Missing(PathBuf),
}

/// An open directory, locked against other runs until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    boards: usize,
    /// Nothing was here before and nothing was stored: leave nothing behind.
    to_remove: bool,
    _lock: File,
}

impl DataDir {
    /// Opens the directory for `boards` images. If there is none it is made, in a parent that must exist.
    ///
    /// # Errors
    /// The directory can't be made, read or written, or another run has it open.
    pub fn open(path: &Path, boards: usize) -> Result<Self, DataDirError> {
        let to_remove = match fs::create_dir(path) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(failed(path, "can't make this directory")(e)),
        };
        let lock_path = path.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed(&lock_path, "can't open"))?;
        match FileExt::try_lock(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirError::InUse(path.into())),
            Err(TryLockError::Error(e)) => return Err(failed(&lock_path, "can't lock")(e)),
        }
        let dir = Self { path: path.into(), boards, to_remove, _lock: lock };
        if dir.path.join(MARKER).exists() {
            dir.rename_all()?;
        }
        for board in 1..=boards {
            remove(&dir.new_path(board))?;
        }
        Ok(dir)
    }

    /// Where board number `board`'s image is.
    pub fn image_path(&self, board: usize) -> PathBuf {
        self.path.join(format!("board-{board}.qfl"))
    }

    /// Reads all images, board 1's first; `None` if there are none yet.
    ///
    /// # Errors
    /// One can't be read, or some are missing.
    pub fn images(&self) -> Result<Option<Vec<Vec<u8>>>, DataDirError> {
        let mut images = Vec::new();
        let mut missing = None;
        for board in 1..=self.boards {
            let path = self.image_path(board);
            match fs::read(&path) {
                Ok(image) => images.push(image),
                Err(e) if e.kind() == io::ErrorKind::NotFound => missing = missing.or(Some(path)),
                Err(e) => return Err(failed(&path, "can't read this image")(e)),
            }
        }
        match missing {
            None => Ok(Some(images)),
            Some(_) if images.is_empty() => Ok(None),
            Some(path) => Err(DataDirError::Missing(path)),
        }
    }

    /// Replaces all images, or none if it fails.
    ///
    /// # Errors
    /// One can't be written.
    pub fn store(&mut self, images: &[Vec<u8>]) -> Result<(), DataDirError> {
        for (board, image) in (1..).zip(images) {
            let path = self.new_path(board);
            File::create(&path)
                .and_then(|mut file| file.write_all(image).and_then(|()| file.sync_all()))
                .map_err(failed(&path, "can't write this image"))?;
        }
        self.sync()?;
        self.to_remove = false;
        let marker = self.path.join(MARKER);
        File::create(&marker)
            .and_then(|file| file.sync_all())
            .map_err(failed(&marker, "can't write"))?;
        self.sync()?;
        self.rename_all()
    }

    fn new_path(&self, board: usize) -> PathBuf {
        self.path.join(format!("board-{board}.qfl.new"))
    }

    /// Carries out what the marker announces; may be done again after it was cut short.
    fn rename_all(&self) -> Result<(), DataDirError> {
        for board in 1..=self.boards {
            let (from, to) = (self.new_path(board), self.image_path(board));
            match fs::rename(&from, &to) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&to, "can't replace this image")(e));
                }
                _ => {}
            }
        }
        self.sync()?;
        remove(&self.path.join(MARKER))?;
        self.sync()
    }

    /// Makes the names in the directory durable, where the system has a way to do that.
    fn sync(&self) -> Result<(), DataDirError> {
        if cfg!(unix) {
            let synced = File::open(&self.path).and_then(|dir| dir.sync_all());
            return synced.map_err(failed(&self.path, "can't be synced"));
        }
        Ok(())
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.to_remove {
            // Nobody can be waiting for the lock: whoever finds it taken gives up. What can't be
            // removed does no harm.
            for board in 1..=self.boards {
                let _ = fs::remove_file(self.new_path(board));
            }
            let _ = fs::remove_file(self.path.join(LOCK));
            let _ = fs::remove_dir(&self.path);
        }
    }
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_path_buf();
    move |source| DataDirError::Io { path, doing, source }
}

fn remove(path: &Path) -> Result<(), DataDirError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(path, "can't remove")(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(tag: u8) -> Vec<Vec<u8>> {
        vec![vec![tag, 1], vec![tag, 2]]
    }

    #[test]
    fn what_was_stored_is_there_when_it_is_opened_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        let mut dir = DataDir::open(&path, 2).unwrap();
        assert_eq!(dir.images().unwrap(), None);
        dir.store(&images(1)).unwrap();
        drop(dir);
        assert_eq!(DataDir::open(&path, 2).unwrap().images().unwrap(), Some(images(1)));
        let mut names: Vec<_> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["board-1.qfl", "board-2.qfl", LOCK]);
    }

    #[test]
    fn a_directory_that_was_made_in_vain_is_gone_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        drop(DataDir::open(&path, 2).unwrap());
        assert!(!path.exists());
        fs::create_dir(&path).unwrap();
        drop(DataDir::open(&path, 2).unwrap());
        assert!(path.exists());
    }

    #[test]
    fn a_second_run_on_the_same_directory_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let first = DataDir::open(temp.path(), 2).unwrap();
        assert!(matches!(DataDir::open(temp.path(), 2), Err(DataDirError::InUse(_))));
        drop(first);
        assert!(DataDir::open(temp.path(), 2).is_ok());
    }

    #[test]
    fn images_written_without_the_marker_are_forgotten() {
        let temp = tempfile::tempdir().unwrap();
        let mut dir = DataDir::open(temp.path(), 2).unwrap();
        dir.store(&images(1)).unwrap();
        fs::write(dir.new_path(1), [2, 1]).unwrap();
        drop(dir);
        let dir = DataDir::open(temp.path(), 2).unwrap();
        assert_eq!(dir.images().unwrap(), Some(images(1)));
        assert!(!dir.new_path(1).exists());
    }

    #[test]
    fn a_replacement_that_was_cut_short_behind_the_marker_is_finished() {
        let temp = tempfile::tempdir().unwrap();
        let mut dir = DataDir::open(temp.path(), 2).unwrap();
        dir.store(&images(1)).unwrap();
        fs::write(dir.image_path(1), [2, 1]).unwrap();
        fs::write(dir.new_path(2), [2, 2]).unwrap();
        fs::write(temp.path().join(MARKER), "").unwrap();
        drop(dir);
        let dir = DataDir::open(temp.path(), 2).unwrap();
        assert_eq!(dir.images().unwrap(), Some(images(2)));
        assert!(!temp.path().join(MARKER).exists());
    }

    #[test]
    fn a_missing_image_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let mut dir = DataDir::open(temp.path(), 2).unwrap();
        dir.store(&images(1)).unwrap();
        fs::remove_file(dir.image_path(2)).unwrap();
        let error = dir.images().unwrap_err().to_string();
        assert!(error.contains("board-2.qfl: this board's image is missing"), "{error}");
    }

    #[test]
    fn a_directory_in_a_place_that_is_not_there_is_refused_by_name() {
        let temp = tempfile::tempdir().unwrap();
        let error = DataDir::open(&temp.path().join("no/data"), 2).unwrap_err().to_string();
        assert!(error.contains("no/data: can't make this directory: "), "{error}");
    }
}
