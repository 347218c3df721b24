//! A disk that forgets, fills up and fails, and a process that dies where it is told to: for tests.
//!
//! Nothing of this is there without the feature `faults`, which no other feature turns on; this package's own tests do. A node does so only if its
//! environment says what ([`FAULTS`]).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::disk::Disk;

/// The environment variable that tells a node's faults, with commas between them:
///
/// - `die=POINT:N`: the process ends as it comes by there the N-th time (`node::Point`), and what is not synced may be gone
/// - `full=N`: the disk is full from the N-th write on
/// - `unsyncable=N`: the N-th sync and all behind it fail
/// - `ignore-syncs`: syncs do nothing, the switch that shows what tests are worth
/// - `seed=N`: what is forgotten is drawn from it
pub const FAULTS: &str = "QUORATE_FAULTS";

/// The exit code of a process that died where it was told to.
pub const DIED: u8 = 86;

/// What is written whole or not at all.
const SECTOR: u64 = 512;
type Sector = [u8; SECTOR as usize];

/// What is to go wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Where to die, and times to come by there before that.
    die: Option<(String, u32)>,
    /// Writes until the disk is full.
    writes_left: Option<u32>,
    /// Syncs until they fail.
    syncs_left: Option<u32>,
    ignores_syncs: bool,
    seed: u64,
}

impl Faults {
    /// What the environment says; `None` if nothing.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn from_environment() -> Result<Option<Self>, String> {
        std::env::var(FAULTS).ok().map(|text| Self::parse(&text)).transpose()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        let wrong = |what: &str| format!("{FAULTS}: {what:?} makes no sense");
        let count = |text: &str| text.parse::<u32>().ok()?.checked_sub(1);
        for what in text.split(',') {
            match what.split_once('=') {
                Some(("die", place)) => {
                    let (point, n) = place.split_once(':').ok_or_else(|| wrong(what))?;
                    faults.die = Some((point.into(), count(n).ok_or_else(|| wrong(what))?));
                }
                Some(("full", n)) => {
                    faults.writes_left = Some(count(n).ok_or_else(|| wrong(what))?);
                }
                Some(("unsyncable", n)) => {
                    faults.syncs_left = Some(count(n).ok_or_else(|| wrong(what))?);
                }
                Some(("seed", seed)) => faults.seed = seed.parse().map_err(|_| wrong(what))?,
                None if what == "ignore-syncs" => faults.ignores_syncs = true,
                _ => return Err(wrong(what)),
            }
        }
        Ok(faults)
    }
}

struct Inside<D> {
    /// What is durable.
    durable: D,
    /// Each sector's contents since the last sync, the newest last.
    unsynced: BTreeMap<u64, Vec<Sector>>,
    faults: Faults,
    dice: Xoshiro256PlusPlus,
}

/// A disk that loses what was not synced, over one that does not; and what else is to go wrong. Clones are the same disk.
pub struct Forgetful<D>(Arc<Mutex<Inside<D>>>);

impl<D> Clone for Forgetful<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D> std::fmt::Debug for Forgetful<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Forgetful")
    }
}

impl<D: Disk> Forgetful<D> {
    /// Over this one.
    pub fn new(durable: D, faults: Faults) -> Self {
        let dice = Xoshiro256PlusPlus::seed_from_u64(faults.seed);
        Self(Arc::new(Mutex::new(Inside { durable, unsynced: BTreeMap::new(), faults, dice })))
    }

    fn inside(&self) -> MutexGuard<'_, Inside<D>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on syncs do nothing.
    pub fn ignore_syncs(&self) {
        self.inside().faults.ignores_syncs = true;
    }

    /// From now on syncs fail, or do not any more.
    pub fn fail_syncs(&self, fail: bool) {
        self.inside().faults.syncs_left = fail.then_some(0);
    }

    /// It is full after so many writes more, or never.
    pub fn fill_up_after(&self, writes: Option<u32>) {
        self.inside().faults.writes_left = writes;
    }

    /// A kill that takes the page cache along: of every sector stays what is durable, or anything that was written to it
    /// since.
    ///
    /// # Errors
    /// The disk's below.
    pub fn lose_power(&self) -> io::Result<()> {
        self.inside().settle()
    }

    /// Ends the process if this is where it is to die.
    pub fn pass(&self, point: &str) {
        let mut inside = self.inside();
        match &mut inside.faults.die {
            Some((place, left)) if place == point && *left > 0 => *left -= 1,
            Some((place, _)) if place == point => {
                let settled = inside.settle();
                eprintln!("dies at {point}, as told ({settled:?})");
                // The lock is never given back: nobody writes one more word.
                std::process::exit(DIED.into());
            }
            _ => {}
        }
    }
}

impl<D: Disk> Inside<D> {
    fn sector(&self, sector: u64) -> io::Result<Sector> {
        let newest = self.unsynced.get(&sector).and_then(|versions| versions.last());
        if let Some(newest) = newest {
            return Ok(*newest);
        }
        let mut content = [0; SECTOR as usize];
        self.durable.read_at(sector * SECTOR, &mut content)?;
        Ok(content)
    }

    fn settle(&mut self) -> io::Result<()> {
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            let choice = self.dice.next_u64() as usize % (versions.len() + 1);
            if let Some(version) = versions.get(choice) {
                self.durable.write_at(sector * SECTOR, version)?;
            }
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        let mut at = offset;
        while !left.is_empty() {
            let (sector, within) = (at / SECTOR, (at % SECTOR) as usize);
            let (now, later) = left.split_at(left.len().min(SECTOR as usize - within));
            let mut content = self.sector(sector)?;
            content[within..within + now.len()].copy_from_slice(now);
            self.unsynced.entry(sector).or_default().push(content);
            at += now.len() as u64;
            left = later;
        }
        Ok(())
    }
}

impl<D: Disk> Disk for Forgetful<D> {
    fn bytes(&self) -> io::Result<u64> {
        self.inside().durable.bytes()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let inside = self.inside();
        let (mut at, mut left) = (offset, bytes);
        while !left.is_empty() {
            let (sector, within) = (at / SECTOR, (at % SECTOR) as usize);
            let (now, later) = {
                let len = left.len().min(SECTOR as usize - within);
                left.split_at_mut(len)
            };
            now.copy_from_slice(&inside.sector(sector)?[within..within + now.len()]);
            at += now.len() as u64;
            left = later;
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inside = self.inside();
        match &mut inside.faults.writes_left {
            Some(0) => {
                // As far as there was room.
                inside.write_at(offset, &bytes[..bytes.len() / 2])?;
                inside.settle()?;
                return Err(io::ErrorKind::StorageFull.into());
            }
            Some(left) => *left -= 1,
            None => {}
        }
        inside.write_at(offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.pass("BeforeSync");
        let mut inside = self.inside();
        match &mut inside.faults.syncs_left {
            Some(0) => {
                // Some of it went to the disk, and the rest the system has forgotten.
                inside.settle()?;
                return Err(io::Error::other("the disk can't be synced"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        if inside.faults.ignores_syncs {
            return Ok(());
        }
        for (sector, versions) in std::mem::take(&mut inside.unsynced) {
            if let Some(version) = versions.last() {
                inside.durable.write_at(sector * SECTOR, version)?;
            }
        }
        Ok(())
    }
}

/// Memory.
impl Disk for Vec<u8> {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let from = self.get(offset as usize..).and_then(|rest| rest.get(..bytes.len()));
        bytes.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let to = self.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..bytes.len()));
        to.ok_or(io::ErrorKind::WriteZero)?.copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Forgetful<Vec<u8>> {
    /// In memory, with nothing wrong yet.
    pub fn in_memory(image: Vec<u8>, seed: u64) -> Self {
        Self::new(image, Faults { seed, ..Faults::default() })
    }

    /// What is there after a kill.
    pub fn after_kill(&self) -> Vec<u8> {
        let mut inside = self.inside();
        // Memory does not fail within its length.
        let _ = inside.settle();
        inside.durable.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_written_and_others_refused() {
        let parsed = Faults::parse("die=AfterSave:3,full=1,unsyncable=9,seed=5,ignore-syncs");
        let expected = Faults {
            die: Some(("AfterSave".into(), 2)),
            writes_left: Some(0),
            syncs_left: Some(8),
            ignores_syncs: true,
            seed: 5,
        };
        assert_eq!(parsed, Ok(expected));
        for wrong in ["", "die", "die=AfterSave", "die=AfterSave:0", "full=x", "sync", "seed=-1"] {
            Faults::parse(wrong).unwrap_err();
        }
    }

    #[test]
    fn what_was_not_synced_may_be_lost_by_the_sector_and_what_was_is_not() {
        let mut survived = [0; 2];
        for seed in 0..64 {
            let mut disk = Forgetful::in_memory(vec![0; 1536], seed);
            disk.write_at(500, &[1; 24]).unwrap();
            disk.sync().unwrap();
            disk.write_at(1000, &[2; 48]).unwrap();
            disk.lose_power().unwrap();
            let mut bytes = [0; 48];
            disk.read_at(500, &mut bytes[..24]).unwrap();
            assert_eq!(bytes[..24], [1; 24]);
            disk.read_at(1000, &mut bytes).unwrap();
            for (count, part) in survived.iter_mut().zip([&bytes[..24], &bytes[24..]]) {
                assert!(part.iter().all(|byte| *byte == part[0]), "a sector is torn");
                *count += u32::from(part[0] == 2);
            }
        }
        assert!(survived.iter().all(|count| (8..56).contains(count)), "{survived:?}");
    }
}
