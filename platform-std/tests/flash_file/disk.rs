//! A disk that forgets, fills up and fails.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use quorate_std::disk::Disk;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::Rng;

/// What is written whole or not at all.
const SECTOR: usize = 512;

#[derive(Default)]
struct Inside {
    durable: Vec<u8>,
    /// Each sector's contents since the last sync, the newest last.
    unsynced: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    /// The switch that shows what the tests are worth: syncs do nothing.
    ignores_syncs: bool,
    fail_sync: bool,
    /// Writes from now on until the disk is full.
    writes_left: Option<u32>,
}

/// Shared, so that what it holds can be had when the flash file is gone.
#[derive(Clone, Default)]
pub(crate) struct Forgetful(Arc<Mutex<Inside>>);

impl Forgetful {
    pub(crate) fn new(image: Vec<u8>) -> Self {
        let disk = Self::default();
        disk.inside().durable = image;
        disk
    }

    fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.0.lock().unwrap()
    }

    pub(crate) fn ignore_syncs(&self) {
        self.inside().ignores_syncs = true;
    }

    pub(crate) fn fail_syncs(&self, fail: bool) {
        self.inside().fail_sync = fail;
    }

    pub(crate) fn fill_up_after(&self, writes: Option<u32>) {
        self.inside().writes_left = writes;
    }

    /// What is there after a kill that takes the page cache along: of every sector what is durable, or anything that
    /// was written to it since.
    pub(crate) fn after_kill(&self, dice: &mut Xoshiro256PlusPlus) -> Vec<u8> {
        let mut inside = self.inside();
        let mut image = std::mem::take(&mut inside.durable);
        for (sector, versions) in std::mem::take(&mut inside.unsynced) {
            let choice = dice.next_u64() as usize % (versions.len() + 1);
            if let Some(version) = versions.get(choice) {
                let at = sector * SECTOR;
                image[at..at + SECTOR].copy_from_slice(version);
            }
        }
        image
    }
}

impl Inside {
    fn sector(&self, sector: usize) -> [u8; SECTOR] {
        let newest = self.unsynced.get(&sector).and_then(|versions| versions.last());
        newest.copied().unwrap_or_else(|| {
            let at = sector * SECTOR;
            self.durable[at..at + SECTOR].try_into().unwrap()
        })
    }
}

impl Disk for Forgetful {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.inside().durable.len() as u64)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let inside = self.inside();
        for (at, byte) in (offset as usize..).zip(bytes) {
            *byte = inside.sector(at / SECTOR)[at % SECTOR];
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inside = self.inside();
        match &mut inside.writes_left {
            Some(0) => return Err(io::ErrorKind::StorageFull.into()),
            Some(left) => *left -= 1,
            None => {}
        }
        let mut at = offset as usize;
        let end = at + bytes.len();
        while at < end {
            let (sector, within) = (at / SECTOR, at % SECTOR);
            let len = (SECTOR - within).min(end - at);
            let mut content = inside.sector(sector);
            let from = at - offset as usize;
            content[within..within + len].copy_from_slice(&bytes[from..from + len]);
            inside.unsynced.entry(sector).or_default().push(content);
            at += len;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inside = self.inside();
        if inside.fail_sync {
            return Err(io::Error::other("the disk can't be synced"));
        }
        if inside.ignores_syncs {
            return Ok(());
        }
        for (sector, versions) in std::mem::take(&mut inside.unsynced) {
            let at = sector * SECTOR;
            inside.durable[at..at + SECTOR].copy_from_slice(versions.last().unwrap());
        }
        Ok(())
    }
}
