//! Timeouts for a link and a flash part, and what usual links and parts are like.

use crate::config::{
    ElectionLimit, Flash, HeartbeatLimit, IDLE_FRAME_BYTES, Link, election_needed,
    heartbeat_needed, round_us,
};
use crate::flash::Geometry;

#[cfg(doc)]
use crate::config::Config;

/// The shortest timeouts that [`Config::check`] accepts, and what they cost and bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Plan {
    /// From one heartbeat to the next, in ms.
    pub heartbeat_ms: u32,
    /// What asks for so much.
    pub heartbeat_why: HeartbeatLimit,
    /// The election timeout, in ms.
    pub election_ms: u32,
    /// What asks for so much.
    pub election_why: ElectionLimit,
    /// The share of the air that heartbeats and their replies take while nothing else is sent, turnaround
    /// included, in ‰.
    pub idle_air_permille: u32,
    /// The share of time that the leader itself sends meanwhile, in ‰.
    pub idle_leader_permille: u32,
    /// One full round: the largest frame to all, a flash write of as much, the replies of all; in ms.
    /// About what it takes to commit.
    pub round_ms: u32,
    /// From the loss of a leader to the next one, typically, in ms: the shortest of the waits that the
    /// others draw, and a round for the votes. The loss of frames adds to it.
    pub failover_ms: u32,
}

impl Plan {
    /// Plans for so many members. [`Config::check`] still has to be asked: a link that is no good has no
    /// good timeouts.
    pub fn for_link(link: &Link, members: u8, flash: &Flash) -> Self {
        let (heartbeat_ms, heartbeat_why) = heartbeat_needed(link, members);
        let (election_ms, election_why) = election_needed(heartbeat_ms, link, flash, members);
        let round_ms = round_us(link, flash, members).div_ceil(1000);
        // The mean of the smallest of n draws from 0 to 1 is 1 / (n + 1); the leader draws none.
        let first_draw_ms = election_ms.checked_div(u32::from(members)).unwrap_or(0);
        let leader_us = link.fan_out(members).saturating_mul(link.air_us(IDLE_FRAME_BYTES));
        // A µs in each ms is one in a thousand.
        let permille = |us: u32| us.checked_div(heartbeat_ms).unwrap_or(0);
        Self {
            heartbeat_ms,
            heartbeat_why,
            election_ms,
            election_why,
            idle_air_permille: permille(link.idle_us(members)),
            idle_leader_permille: permille(leader_us),
            round_ms,
            failover_ms: election_ms.saturating_add(first_draw_ms).saturating_add(round_ms),
        }
    }
}

/// What a link that goes by this name is like; a number is a serial line of so many baud.
///
/// Turnaround times, and what LoRa and BLE add to a frame, are reckoned from their standards and not
/// measured; a radio driver that knows better should say so in its own [`Link`].
pub fn link(name: &str) -> Option<Link> {
    if let Ok(baud) = name.parse() {
        return Some(serial(baud));
    }
    LINKS.iter().find(|(known, _)| *known == name).map(|(_, link)| *link)
}

/// A serial line that all boards share: 8 data bits in 10 baud, COBS, and silence of three characters
/// between frames.
pub const fn serial(baud: u32) -> Link {
    let turnaround_us = match 30_000_000u32.checked_div(baud) {
        Some(characters_us) => characters_us.saturating_add(100),
        None => 0,
    };
    let whole = radio(baud.saturating_sub(baud / 5), 256, 4, turnaround_us);
    Link { duty_permille: 1000, ..whole }
}

const fn radio(
    bits_per_second: u32,
    frame_bytes: u16,
    overhead_bytes: u16,
    turnaround_us: u32,
) -> Link {
    Link {
        bits_per_second,
        frame_bytes,
        fragment_bytes: 0,
        overhead_bytes,
        turnaround_us,
        duty_permille: 1000,
        broadcast: true,
    }
}

const fn fragmented(fragment_bytes: u16, link: Link) -> Link {
    Link { fragment_bytes, ..link }
}

/// A sub-band of 868 MHz in which a sender may be heard one hundredth of the time.
const fn one_percent(link: Link) -> Link {
    Link { duty_permille: 10, ..link }
}

const fn unicast(link: Link) -> Link {
    Link { broadcast: false, ..link }
}

/// The links that have a name. LoRa is at 125 kHz and a coding rate of 4/5; its overhead is preamble and
/// header, spread over the rate of the payload.
pub const LINKS: [(&str, Link); 9] = [
    ("802.15.4", radio(250_000, 116, 17, 1500)),
    ("esp-now", radio(1_000_000, 250, 67, 500)),
    ("ble", unicast(fragmented(17, radio(1_000_000, 120, 20, 1250)))),
    ("lora-sf7", one_percent(radio(5469, 192, 19, 5000))),
    ("lora-sf9", one_percent(radio(1758, 112, 22, 20_000))),
    ("lora-sf12", one_percent(fragmented(48, radio(244, 96, 27, 100_000)))),
    ("can-fd", fragmented(60, radio(2_000_000, 240, 26, 20))),
    ("udp", unicast(radio(100_000_000, 1400, 66, 2000))),
    ("tcp", unicast(radio(100_000_000, 16_384, 90, 2000))),
];

/// A flash part, as its maker describes it, with a log of the size that suits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Part {
    /// What it goes by.
    pub name: &'static str,
    /// How it is written and erased.
    pub flash: Flash,
    /// How often a block can be erased.
    pub cycles: u32,
}

/// The part that goes by this name.
pub fn part(name: &str) -> Option<&'static Part> {
    PARTS.iter().find(|part| part.name == name)
}

/// Word, page and block in bytes; blocks in a segment and segments in the log.
type Sizes = (u8, u16, u32, u16, u8);
/// Programming a page in µs; the longest erase of a block in ms; erase cycles.
type Wear = (u32, u32, u32);

const fn describe(name: &'static str, erased: u8, sizes: Sizes, wear: Wear, stalls: bool) -> Part {
    let (word_bytes, page_bytes, block_bytes, blocks_per_segment, segments) = sizes;
    let (word_us, erase_ms_max, cycles) = wear;
    let geometry =
        Geometry { word_bytes, erased, page_bytes, block_bytes, blocks_per_segment, segments };
    Part { name, flash: Flash { geometry, word_us, erase_ms_max, stalls }, cycles }
}

/// The parts that have a name. Not confirmed against a datasheet: the times of nRF51, STM32G0, F4, H7 and
/// L0 and of SPI NOR (W25Q, as on RP2040 and ESP32-C3), and the cycles of STM32 and SPI NOR.
pub const PARTS: [Part; 12] = [
    describe("nrf52840", 0xff, (4, 4, 4096, 1, 8), (41, 90, 10_000), true),
    // Also at most 181 writes in 512 bytes between erases.
    describe("nrf52832", 0xff, (4, 4, 4096, 1, 8), (41, 90, 10_000), true),
    describe("nrf51", 0xff, (4, 4, 1024, 4, 8), (46, 22, 20_000), true),
    describe("rp2040", 0xff, (1, 256, 4096, 1, 8), (400, 400, 100_000), true),
    describe("stm32l4", 0xff, (8, 8, 2048, 2, 8), (82, 25, 10_000), true),
    describe("stm32g0", 0xff, (8, 8, 2048, 2, 8), (125, 40, 10_000), true),
    describe("stm32f4", 0xff, (4, 4, 131_072, 1, 3), (16, 2000, 10_000), true),
    describe("stm32h7", 0xff, (32, 32, 131_072, 1, 3), (100, 2000, 10_000), true),
    describe("stm32l0", 0x00, (4, 4, 128, 32, 8), (3200, 4, 10_000), true),
    describe("esp32c3", 0xff, (4, 256, 4096, 1, 8), (400, 400, 100_000), true),
    describe("w25q", 0xff, (1, 256, 4096, 1, 16), (400, 400, 100_000), false),
    // A file on a disk: what takes long is to make it durable.
    describe("file", 0xff, (8, 4096, 65_536, 1, 8), (5000, 10, u32::MAX), false),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use proptest::prelude::*;

    fn links() -> impl Strategy<Value = Link> {
        let whole = (
            (50u32..200_000_000, 96u16..4096, 0u16..200),
            (0u32..50_000, 1u16..=1000, any::<bool>(), 0u16..100),
        );
        whole.prop_map(|((rate, frame, overhead), (turnaround, duty, broadcast, fragment))| Link {
            duty_permille: duty,
            broadcast,
            fragment_bytes: fragment,
            ..radio(rate, frame, overhead, turnaround)
        })
    }

    fn check_is_tight(link: Link, members: u8, flash: Flash) {
        let mut config = Config::new(link, flash, members, 1);
        if link.air_us(link.frame_bytes) > 10_000_000 {
            assert!(config.check().is_err());
            return;
        }
        let plan = Plan::for_link(&link, members, &flash);
        (config.heartbeat_ms, config.election_ms) = (plan.heartbeat_ms, plan.election_ms);
        assert_eq!(config.check(), Ok(()), "{link:?}");
        config.election_ms -= 1;
        assert!(config.check().is_err());
        config.election_ms = u32::MAX;
        config.heartbeat_ms -= 1;
        assert!(config.check().is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_is_planned_is_accepted_and_a_millisecond_less_is_not(
            link in links(), members in 1u8..=31, part in 0usize..PARTS.len(),
        ) {
            check_is_tight(link, members, PARTS[part].flash);
        }
    }

    #[test]
    fn every_named_link_works_with_every_named_part() {
        let serial = [1200, 9600, 115_200, 1_000_000].map(|baud| ("serial", serial(baud)));
        for (name, link) in LINKS.into_iter().chain(serial) {
            for part in PARTS {
                for members in [1, 3, 5, 7] {
                    assert!(link.air_us(link.frame_bytes) < 10_000_000, "{name}");
                    check_is_tight(link, members, part.flash);
                    let plan = Plan::for_link(&link, members, &part.flash);
                    assert!(plan.idle_air_permille <= 200, "{name}");
                    assert!(
                        plan.idle_leader_permille * 2 <= u32::from(link.duty_permille),
                        "{name}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_name_or_a_baud_rate_finds_its_link_and_part() {
        assert_eq!(link("115200"), Some(serial(115_200)));
        assert_eq!(link("115200").unwrap().bits_per_second, 92_160);
        assert_eq!(link("lora-sf9").unwrap().duty_permille, 10);
        assert_eq!(link("lora"), None);
        assert_eq!(part("stm32l0").unwrap().flash.geometry.erased, 0);
        assert_eq!(part("z80"), None);
        let dead = Config::new(link("0").unwrap(), PARTS[0].flash, 3, 1);
        assert!(dead.check().is_err());
    }

    #[test]
    fn lora_takes_the_time_that_its_formula_gives() {
        // Semtech AN1200.13: symbols = 12.25 + 8 + ceil((8 n - 4 SF + 44) / (4 (SF - 2 DE))) * 5.
        let formula_us = |sf: u32, bytes: u32| {
            let bits = 4 * if sf > 10 { sf - 2 } else { sf };
            let symbols_x4 = 81 + 20 * (8 * bytes + 44 - 4 * sf).div_ceil(bits);
            symbols_x4 * ((1 << sf) * 8) / 4
        };
        // Three bytes stand before what a fragment carries.
        let cases = [("lora-sf7", 7, 100, 0), ("lora-sf9", 9, 96, 0), ("lora-sf12", 12, 48, 3)];
        for (name, sf, bytes, head) in cases {
            let link = link(name).unwrap();
            let given = link.air_us(bytes as u16) - link.turnaround_us;
            let expected = formula_us(sf, bytes + head);
            assert!(given.abs_diff(expected) * 25 < expected, "{name}: {given} for {expected}");
        }
    }

    #[test]
    fn figures_for_five_boards_on_a_radio_with_nrf52840_flash() {
        let (link, part) = (link("802.15.4").unwrap(), part("nrf52840").unwrap());
        let plan = Plan::for_link(&link, 5, &part.flash);
        // 49 bytes of 32 µs and 1500 µs, five times, are 15,340 µs: a fifth of the air.
        assert_eq!((plan.heartbeat_ms, plan.election_ms), (77, 770));
        assert_eq!((plan.idle_air_permille, plan.idle_leader_permille), (199, 39));
        // 133 bytes and a turnaround, 29 words of 41 µs, four replies.
        assert_eq!(plan.round_ms, (5756u32 + 29 * 41 + 4 * 3068).div_ceil(1000));
        assert_eq!(plan.failover_ms, 770 + 154 + plan.round_ms);
        let alone = Plan::for_link(&link, 1, &part.flash);
        assert_eq!((alone.idle_air_permille, alone.election_ms), (0, 270));
    }
}
