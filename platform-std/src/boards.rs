//! The boards of the main job: five of one kind, such as one would build today. Flash as in an nRF52840, whose
//! CPU stands still while it programs or erases; a 1 Mbit/s packet radio that all of them share.

use quorate::config::Link;
use quorate::flash::Geometry;
use quorate::node::{Limits, entry_bytes_max, log_bytes_max};
use quorate::typed::MapLimits;

use crate::sim::{
    BoardProfile, Dice, Fault, Faults, NRF52840, Options, Part, Profile, Weather, World,
};

/// How many.
pub const BOARDS: usize = 5;

/// Bytes of the log in RAM.
pub const LOG_BYTES: usize = 2048;

/// Bytes of the flash buffer.
pub const FLASH_BUFFER_BYTES: usize = 512;

const FRAME_BYTES: u16 = 250;

/// What a board's configuration may hold.
pub const MAP_LIMITS: MapLimits =
    MapLimits { keys: 128, key_bytes: 48, value_bytes: 120, bytes: 4096 };

/// The constants of the cluster.
pub const LIMITS: Limits = Limits {
    frame_bytes: FRAME_BYTES,
    entry_bytes: entry_bytes_max(FRAME_BYTES),
    log_bytes: log_bytes_max(LOG_BYTES, FRAME_BYTES),
    snapshot_bytes: MAP_LIMITS.snapshot_bytes_max(),
};

/// The flash part, with a partition of 36 KiB for the log.
const PART: Part =
    Part { geometry: Geometry { block_bytes: 4096, segments: 9, ..NRF52840.geometry }, ..NRF52840 };

/// How the flash partition is laid out.
pub const fn geometry() -> Geometry {
    PART.geometry
}

/// The radio.
const LINK: Link = Link {
    bits_per_second: 1_000_000,
    frame_bytes: FRAME_BYTES,
    fragment_bytes: 0,
    overhead_bytes: 12,
    turnaround_us: 300,
    duty_permille: 1000,
    broadcast: true,
};

/// Of a thousand frames, how many fare badly.
const WEATHER: Weather = Weather { loss: 30, duplication: 10, reorder: 10, corruption: 5 };

/// The boards, with blank flash or that of an earlier run, in a world without faults but those of the radio.
pub fn world(seed: u64, images: Option<Vec<Vec<u8>>>) -> World {
    let mut dice = Dice::new(seed);
    let board = |_| BoardProfile {
        part: PART,
        log_bytes: LOG_BYTES,
        flash_buffer_bytes: FLASH_BUFFER_BYTES,
        drift_ppm: dice.within(0, 2000) as i32 - 1000,
        entropy: dice.bits(),
        has_hardware_random: true,
    };
    let mut profile = Profile {
        link: LINK,
        promiscuous: true,
        limits: LIMITS,
        map: MAP_LIMITS,
        election_ms: 0,
        heartbeat_ms: 0,
        lease_clock_error_permille: None,
        boards: (0..BOARDS).map(board).collect(),
    };
    profile.plan();
    // What a power cut may do to the flash. Everything else is up to whoever has the world.
    let faults = Faults::NONE.with(Fault::TornWrites).with(Fault::TornErases).with(Fault::Decay);
    let options =
        Options { boards: BOARDS as u8, virtual_seconds: 0, faults, ..Options::new(seed) };
    let images = images.unwrap_or_default().into_iter().map(Some).collect();
    let mut world = World::with(options, profile, images);
    world.set_weather(WEATHER);
    world
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_command_fits_an_entry_and_the_timeouts_fit_link_and_flash() {
        assert!(MAP_LIMITS.command_bytes_max() <= u32::from(LIMITS.entry_bytes));
        let world = world(1, None);
        assert_eq!(world.boards().len(), BOARDS);
        assert!(world.violations().is_empty());
    }
}
