//! What kind of world a seed draws: the link, each board's part and log, the timeouts, the weather.

use quorate::config::{Config, Flash, Link};
use quorate::flash::Geometry;
use quorate::node::{Limits, entry_bytes_max, flash_buffer_bytes_min, live_bytes, log_bytes_max};
use quorate::typed::MapLimits;
use quorate::wal::Wal;

use super::dice::Dice;
use super::flash::Part;
use super::options::{Fault, Faults, Options};

/// Keys that the clients of a simulation use.
pub(super) const KEYS: u64 = 8;

/// By how much a clock may be off, in parts per million.
const DRIFT_PPM_MAX: u16 = 20_000;

/// Blocks are smaller than the parts have them, so that a short run fills and erases them often; times
/// are the parts' own.
const fn part(name: &'static str, word_bytes: u8, page_bytes: u16, block_bytes: u32) -> Part {
    Part {
        name,
        geometry: Geometry {
            word_bytes,
            erased: 0xff,
            page_bytes,
            block_bytes,
            blocks_per_segment: 1,
            segments: 6,
        },
        program_us: 41,
        erase_us_min: 80_000,
        erase_us_max: 90_000,
        read_us: 0,
        stalls: true,
        ecc: false,
    }
}

/// Nordic nRF52840: words of 4 bytes, the CPU stands still while it writes.
pub const NRF52840: Part = part("nrf52840", 4, 4, 2048);
const STM32L4: Part = Part {
    program_us: 90,
    erase_us_min: 20_000,
    erase_us_max: 25_000,
    ecc: true,
    ..part("stm32l4", 8, 8, 2048)
};
const STM32H7: Part = Part {
    program_us: 200,
    erase_us_min: 400_000,
    erase_us_max: 1_100_000,
    ecc: true,
    ..part("stm32h7", 32, 32, 4096)
};
const RP2040: Part = Part {
    program_us: 400,
    erase_us_min: 40_000,
    erase_us_max: 400_000,
    ..part("rp2040", 1, 256, 4096)
};
const W25Q: Part = Part { read_us: 20, stalls: false, ..RP2040 };
const STM32L0: Part = Part {
    geometry: Geometry { erased: 0, blocks_per_segment: 16, ..part("", 4, 4, 128).geometry },
    program_us: 3200,
    erase_us_min: 3000,
    erase_us_max: 3400,
    ..part("stm32l0", 4, 4, 128)
};
const STM32F0: Part = Part {
    geometry: Geometry { blocks_per_segment: 2, ..part("", 2, 2, 1024).geometry },
    program_us: 60,
    erase_us_min: 20_000,
    erase_us_max: 40_000,
    ..part("stm32f0", 2, 2, 1024)
};
const STM32H5: Part = Part {
    geometry: Geometry { word_bytes: 16, page_bytes: 16, ..part("", 16, 16, 2048).geometry },
    program_us: 80,
    erase_us_min: 2000,
    erase_us_max: 10_000,
    ecc: true,
    stalls: false,
    ..part("stm32h5", 16, 16, 2048)
};

/// The parts, the usual ones more often.
const PARTS: [Part; 10] =
    [NRF52840, NRF52840, NRF52840, STM32L4, STM32L4, W25Q, RP2040, STM32L0, STM32F0, STM32H5];

/// One board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardProfile {
    /// Its flash part.
    pub part: Part,
    /// Bytes of its log in RAM: 1024, 2048, 4096, 8192 or 32768.
    pub log_bytes: usize,
    /// Bytes of its flash buffer.
    pub flash_buffer_bytes: usize,
    /// How much its clock is off, in parts per million.
    pub drift_ppm: i32,
    /// Its own random number, burnt in at the factory.
    pub entropy: u64,
    /// A boot draws its seed from hardware, instead of counting on from its own number.
    pub has_hardware_random: bool,
}

/// One world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The air.
    pub link: Link,
    /// All frames reach all boards, also those that they are not for.
    pub promiscuous: bool,
    /// Limits of the cluster.
    pub limits: Limits,
    /// Limits of the application.
    pub map: MapLimits,
    /// Election timeout of all boards, in ms.
    pub election_ms: u32,
    /// Heartbeat interval of all boards, in ms.
    pub heartbeat_ms: u32,
    /// By how much clocks may be off for leases, in ‰; `None`: no leader has one.
    pub lease_clock_error_permille: Option<u16>,
    /// The boards.
    pub boards: Vec<BoardProfile>,
}

fn radio(dice: &mut Dice) -> Link {
    let ieee802154 = Link {
        bits_per_second: 250_000,
        frame_bytes: dice.pick(&[96, 100, 116]),
        fragment_bytes: 0,
        overhead_bytes: 17,
        turnaround_us: 300,
        duty_permille: 1000,
        broadcast: true,
    };
    match dice.below(6) {
        0 | 1 => ieee802154,
        2 => {
            Link { bits_per_second: 1_000_000, frame_bytes: 250, overhead_bytes: 43, ..ieee802154 }
        }
        3 => Link { bits_per_second: 92_160, frame_bytes: 192, overhead_bytes: 4, ..ieee802154 },
        4 => Link { broadcast: false, ..ieee802154 },
        _ => Link {
            bits_per_second: 10_000_000,
            frame_bytes: 512,
            overhead_bytes: 46,
            turnaround_us: 100,
            broadcast: false,
            ..ieee802154
        },
    }
}

impl Profile {
    /// The world of a seed.
    pub fn draw(options: &Options, dice: &mut Dice) -> Self {
        let link = radio(dice);
        let same = dice.chance(500);
        let slow = dice.chance(40);
        let first = if slow { STM32H7 } else { dice.pick(&PARTS) };
        // Beside a piece of a snapshot and the reserve, half of the log has to be for entries.
        let log_bytes_min = match link.frame_bytes {
            ..=300 => dice.pick(&[1024, 1024, 2048]),
            _ => 2048,
        };
        let limits = Limits {
            frame_bytes: link.frame_bytes,
            entry_bytes: entry_bytes_max(link.frame_bytes).min(48),
            log_bytes: log_bytes_max(log_bytes_min, link.frame_bytes),
            snapshot_bytes: 1024,
        };
        let boards = (0..options.boards).map(|_| {
            let mut part = if same { first } else { dice.pick(&PARTS) };
            // The cluster's logs are those of its smallest board; others have more.
            let log_bytes = log_bytes_min * dice.pick(&[1, 1, 1, 1, 1, 2, 2, 4]);
            let buffer_bytes_min = flash_buffer_bytes_min(link.frame_bytes);
            let flash_buffer_bytes = buffer_bytes_min + dice.pick(&[0, 64, 256]);
            // From the smallest ring that a node accepts, which takes its buffer to be the shortest.
            let live_bytes = live_bytes(log_bytes as u32, &limits, &part.geometry);
            part.geometry.segments = 3;
            while Wal::check(&part.geometry, buffer_bytes_min, live_bytes).is_err() {
                part.geometry.segments += 1;
            }
            part.geometry.segments += dice.below(4) as u8;
            BoardProfile {
                part,
                log_bytes,
                flash_buffer_bytes,
                drift_ppm: if options.faults.has(Fault::Drift) {
                    let off = i32::from(DRIFT_PPM_MAX);
                    dice.within(0, 2 * u64::from(DRIFT_PPM_MAX)) as i32 - off
                } else {
                    0
                },
                entropy: dice.bits(),
                has_hardware_random: dice.chance(750),
            }
        });
        let boards: Vec<_> = boards.collect();
        let map = MapLimits { keys: 2 * KEYS as u16, key_bytes: 8, value_bytes: 8, bytes: 512 };
        let mut profile = Self {
            link,
            promiscuous: dice.chance(250),
            limits,
            map,
            election_ms: 0,
            heartbeat_ms: 0,
            lease_clock_error_permille: dice.chance(800).then_some(DRIFT_PPM_MAX.div_ceil(1000)),
            boards,
        };
        profile.plan();
        // Some clusters are set up tightly, some at leisure.
        profile.election_ms += profile.election_ms * dice.below(40) as u32 / 100;
        profile
    }

    /// Sets the shortest timeouts that work for all boards.
    pub fn plan(&mut self) {
        let members = self.boards.len() as u8;
        let plans: Vec<_> = self
            .boards
            .iter()
            .map(|board| Config::new(self.link, flash_of(&board.part), members, 0))
            .collect();
        self.heartbeat_ms = plans.iter().map(|plan| plan.heartbeat_ms).max().unwrap_or(0);
        self.election_ms = plans.iter().map(|plan| plan.election_ms).max().unwrap_or(0);
    }

    /// What board `at` is configured with.
    pub fn config(&self, at: usize, seed: u64) -> Config {
        let flash = flash_of(&self.boards[at].part);
        let mut config = Config::new(self.link, flash, self.boards.len() as u8, seed);
        config.election_ms = self.election_ms;
        config.heartbeat_ms = self.heartbeat_ms;
        config.lease_clock_error_permille = self.lease_clock_error_permille;
        config
    }

    /// The election timeout in µs.
    pub fn election_us(&self) -> u64 {
        u64::from(self.election_ms) * 1000
    }
}

/// The part as the core is told of it.
fn flash_of(part: &Part) -> Flash {
    Flash {
        geometry: part.geometry,
        word_us: part.program_us,
        erase_ms_max: part.erase_us_max.div_ceil(1000),
        stalls: part.stalls,
    }
}

/// How bad the weather can get with these faults.
pub(super) fn weather(faults: Faults, dice: &mut Dice) -> super::radio::Weather {
    let mut rate = |fault, rates: &[u32]| if faults.has(fault) { dice.pick(rates) } else { 0 };
    super::radio::Weather {
        loss: rate(Fault::Loss, &[10, 30, 80, 150, 250]),
        duplication: rate(Fault::Duplication, &[5, 20, 60]),
        reorder: rate(Fault::Reorder, &[5, 20, 60]),
        corruption: rate(Fault::Corruption, &[2, 10, 40]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_world_that_a_seed_can_draw_is_one_that_the_core_accepts() {
        for seed in 0..300 {
            let boards = (seed % 7 + 1) as u8;
            let options = Options { boards, ..Options::new(seed) };
            let profile = Profile::draw(&options, &mut Dice::new(seed));
            for at in 0..usize::from(boards) {
                assert_eq!(profile.config(at, 1).check(), Ok(()), "seed {seed}, board {at}");
            }
        }
    }

    #[test]
    fn without_faults_the_weather_is_fine() {
        let calm = weather(Faults::NONE, &mut Dice::new(1));
        assert_eq!(calm, super::super::radio::Weather::default());
    }
}
