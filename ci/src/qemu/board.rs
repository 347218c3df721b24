//! A board of the rig: its flash through all its lives, and how its power goes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use quorate_flash_lab::random::Random;

use super::hub::Hub;
use super::image::{self, Addresses, Firmware};
use super::machine::{Machine, Start};
use crate::tools::Trouble;

/// What is kept of a board's flash: the identity page at its beginning, the log from [`LOG`] on.
pub(super) const KEPT: u32 = 0x3_0000;
pub(super) const KEPT_BYTES: usize = 0x1_0000;
/// Where the log begins, and its erase blocks.
pub(super) const LOG: usize = 0x8000;
const BLOCK_BYTES: usize = 1024;

/// The words of the firmware's `watch.rs`, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Watch {
    /// 0: at rest, 1: a word is being written, 2: a block is being erased.
    pub(super) flash: u32,
    pub(super) flash_at: u32,
    /// 1: it runs.
    pub(super) state: u32,
    pub(super) leads: bool,
    pub(super) term: u32,
    pub(super) applied: u32,
    pub(super) revision: u32,
    pub(super) taken: u32,
    pub(super) done: u32,
    pub(super) unknown: u32,
}

const WATCH_BYTES: usize = 40;

impl Watch {
    fn parse(bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(4).map(|word| match word {
            [a, b, c, d] => u32::from_le_bytes([*a, *b, *c, *d]),
            _ => 0,
        });
        let mut next = || words.next().unwrap_or(0);
        Self {
            flash: next(),
            flash_at: next(),
            state: next(),
            leads: next() != 0,
            term: next(),
            applied: next(),
            revision: next(),
            taken: next(),
            done: next(),
            unknown: next(),
        }
    }
}

/// How power goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// At whatever instant it is.
    AnyInstant,
    /// Inside a flash operation, if one can be caught.
    InFlash,
    /// Inside the erasing of a block, if one can be caught.
    InErase,
}

/// What a power cut has hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) write: bool,
    pub(super) erase: bool,
    /// The last word, or the block, was left half done.
    pub(super) torn: bool,
}

/// What is needed to start a board.
pub(super) struct Rig<'a> {
    pub(super) firmwares: &'a [Firmware],
    pub(super) folder: &'a Path,
    pub(super) hub: &'a Hub,
}

impl Rig<'_> {
    /// Every third board has the last firmware, the others the first.
    pub(super) fn is_of_last(place: usize) -> bool {
        place % 3 == 2
    }

    fn firmware(&self, place: usize) -> &Firmware {
        let last = self.firmwares.len() - 1;
        &self.firmwares[if Self::is_of_last(place) { last } else { 0 }]
    }

    fn addresses(&self, place: usize) -> &Addresses {
        &self.firmware(place).addresses
    }
}

/// One board.
pub(super) struct Board {
    pub(super) place: usize,
    pub(super) flash: Vec<u8>,
    machine: Option<Machine>,
    /// When it is to be started again.
    pub(super) on_at: Option<Instant>,
    /// As last seen.
    pub(super) watch: Watch,
    pub(super) starts: u32,
    /// The deepest stack so far, in bytes.
    pub(super) stack: usize,
}

impl Board {
    /// A board that was never on, with its identity page.
    pub(super) fn new(place: usize, page: &[u8]) -> Self {
        let mut flash = vec![0xff; KEPT_BYTES];
        flash[..page.len()].copy_from_slice(page);
        let watch = Watch::default();
        Self { place, flash, machine: None, on_at: None, watch, starts: 0, stack: 0 }
    }

    /// Its number.
    pub(super) fn id(&self) -> u8 {
        self.place as u8 + 1
    }

    pub(super) fn log_path(&self, rig: &Rig<'_>) -> PathBuf {
        rig.folder.join(format!("board-{}.defmt", self.id()))
    }

    pub(super) fn is_on(&self) -> bool {
        self.machine.is_some()
    }

    /// Power comes.
    pub(super) fn switch_on(&mut self, rig: &Rig<'_>) -> Result<(), Trouble> {
        let name = format!("board-{}", self.id());
        let start = Start {
            machine: "microbit",
            image: &rig.firmware(self.place).path,
            load: Some((&self.flash, KEPT)),
            serial: Some(rig.hub.socket(self.place)),
            more: &[],
            folder: rig.folder,
            name: &name,
        };
        self.machine = Some(Machine::start(&start, &self.log_path(rig))?);
        (self.watch, self.on_at) = (Watch::default(), None);
        self.starts += 1;
        Ok(())
    }

    /// Looks at it while it runs.
    pub(super) fn look(&mut self, rig: &Rig<'_>) -> Result<Watch, Trouble> {
        if let Some(machine) = &mut self.machine {
            self.watch =
                Watch::parse(&machine.memory(rig.addresses(self.place).watch, WATCH_BYTES)?);
            if machine.has_ended() {
                return Err(Trouble::Failed(format!("board {}: QEMU has ended", self.id())));
            }
        }
        Ok(self.watch)
    }

    /// Its flash, as it is at this instant; the board goes on.
    pub(super) fn dump(&mut self) -> Result<Vec<u8>, Trouble> {
        let Some(machine) = &mut self.machine else {
            return Ok(self.flash.clone());
        };
        machine.stop()?;
        let flash = machine.memory(KEPT, KEPT_BYTES)?;
        machine.go_on()?;
        Ok(flash)
    }

    /// Pauses it, and leaves it paused if that is an instant for this cut.
    pub(super) fn pauses_for(&mut self, rig: &Rig<'_>, cut: Cut) -> Result<bool, Trouble> {
        let Some(machine) = &mut self.machine else {
            return Ok(true);
        };
        machine.stop()?;
        let watch = Watch::parse(&machine.memory(rig.addresses(self.place).watch, WATCH_BYTES)?);
        let caught = match cut {
            Cut::AnyInstant => true,
            Cut::InFlash => watch.flash != 0,
            Cut::InErase => watch.flash == 2,
        };
        if !caught {
            machine.go_on()?;
        }
        Ok(caught)
    }

    /// Power goes: the board is paused, its flash kept as it is at that instant, and its process killed. With `tears` what was being
    /// written or erased is left half done.
    pub(super) fn switch_off(
        &mut self,
        rig: &Rig<'_>,
        tears: bool,
        random: &mut Random,
    ) -> Result<Hit, Trouble> {
        let Some(mut machine) = self.machine.take() else {
            return Ok(Hit::default());
        };
        machine.stop()?;
        let watch = Watch::parse(&machine.memory(rig.addresses(self.place).watch, WATCH_BYTES)?);
        self.flash = machine.memory(KEPT, KEPT_BYTES)?;
        let addresses = rig.addresses(self.place);
        let stack = machine.memory(addresses.stack_end, addresses.stack_bytes())?;
        self.stack = self.stack.max(image::depth(&stack));
        drop(machine);
        let mut hit = Hit { write: watch.flash == 1, erase: watch.flash == 2, torn: false };
        if tears && watch.flash != 0 {
            hit.torn = tear(&mut self.flash, watch, random);
        }
        Ok(hit)
    }
}

/// Leaves the operation that is under way half done: of what was to be programmed some bits are not yet, of what was to be erased some
/// are already. What QEMU has carried out by then is a whole word, or nothing of a block or all of it.
fn tear(flash: &mut [u8], watch: Watch, random: &mut Random) -> bool {
    let bytes = if watch.flash == 1 { 4 } else { BLOCK_BYTES };
    let Some(at) = watch.flash_at.checked_sub(KEPT) else {
        return false;
    };
    let Some(place) = flash.get_mut(at as usize..).and_then(|rest| rest.get_mut(..bytes)) else {
        return false;
    };
    let before = place.to_vec();
    // A part of the block may be as it was.
    let from = random.below(bytes as u64) as usize;
    let from = if watch.flash == 1 { 0 } else { from };
    for byte in place.iter_mut().skip(from) {
        *byte |= random.draw() as u8;
    }
    place != before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_word_has_bits_that_are_not_programmed_yet_and_nothing_else_changes() {
        let mut random = Random(1);
        let mut seen = 0;
        for _ in 0..50 {
            let mut flash = vec![0; KEPT_BYTES];
            let watch = Watch { flash: 1, flash_at: KEPT + 16, ..Watch::default() };
            seen += u32::from(tear(&mut flash, watch, &mut random));
            assert!(flash[..16].iter().chain(&flash[20..]).all(|byte| *byte == 0));
        }
        assert!(seen > 40);
        let mut flash = vec![0xff; KEPT_BYTES];
        let watch = Watch { flash: 2, flash_at: KEPT, ..Watch::default() };
        assert!(!tear(&mut flash, watch, &mut random), "an erased block stays erased");
        let outside = Watch { flash: 1, flash_at: 4, ..Watch::default() };
        assert!(!tear(&mut flash, outside, &mut random));
    }

    #[test]
    fn the_words_are_taken_in_the_firmware_s_order() {
        let bytes: Vec<u8> = (1u32..=10).flat_map(u32::to_le_bytes).collect();
        let watch = Watch::parse(&bytes);
        assert_eq!((watch.flash, watch.flash_at, watch.state, watch.leads), (1, 2, 3, true));
        assert_eq!((watch.term, watch.applied, watch.revision), (5, 6, 7));
        assert_eq!((watch.taken, watch.done, watch.unknown), (8, 9, 10));
    }
}
