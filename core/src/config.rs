//! What a node is told about its link, its flash and its timeouts, and whether that can work.

use core::fmt;

use crate::flash::Geometry;
use crate::types::NodeId;

/// The smallest frame that carries every message, in bytes: what IEEE 802.15.4 leaves to its user.
pub const FRAME_BYTES_MIN: u16 = crate::wire::FRAME_BYTES_MIN as u16;

/// What a heartbeat or the reply to one is reckoned as, in bytes, while nothing else is going on: enough
/// for members up to number 21, 2 million terms and 34 billion entries, and little less than beyond.
pub const IDLE_FRAME_BYTES: u16 = 32;

/// A frame that takes longer than this on the air is refused, in µs. It keeps every sum in this file
/// within 32 bits, and LoRa at its slowest is at half of it.
const FRAME_US_MAX: u32 = 10_000_000;

/// Idle traffic may take one part in this many of the air: the rest is for entries, votes and repeats.
const AIR_SHARE: u32 = 5;
/// The leader's heartbeats may take one part in this many of the air that the law allows it.
const DUTY_SHARE: u32 = 2;
/// Heartbeats that may be lost in a row before a follower doubts the leader. A radio that loses every
/// fifth frame loses ten in a row once in ten million times.
const HEARTBEATS: u32 = 10;
/// Full rounds that must fit an election timeout: pre-vote, vote and first append take three, and one
/// is on the air already when they begin (Raft §5.6: broadcast time ≪ election timeout).
const ROUNDS: u32 = 4;
/// Longest erases that must fit an election timeout where the CPU stalls meanwhile: that of the
/// leader, that of a follower right behind it, and as long again for the heartbeat to arrive.
const ERASES: u32 = 3;

/// The link between the boards: one shared medium on which one board speaks at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Link {
    /// Payload bits in a second while a frame is being sent; a serial line with a start and a stop bit
    /// has 8 of these in 10 baud.
    pub bits_per_second: u32,
    /// The largest frame that the core may hand over, in bytes, at least [`FRAME_BYTES_MIN`].
    pub frame_bytes: u16,
    /// What an adapter cuts larger frames into, in bytes of payload; 0 if it sends each frame whole.
    pub fragment_bytes: u16,
    /// What the link adds to each frame or fragment: preamble, header, checksum, in bytes of air time.
    pub overhead_bytes: u16,
    /// From one frame or fragment to the next: turning the radio round, back-off, acknowledgement, the
    /// scheduler's delay, in µs.
    pub turnaround_us: u32,
    /// The share of time that one board may send, by law or by its battery, in ‰; 1000 if unlimited.
    pub duty_permille: u16,
    /// Does one frame reach all boards?
    pub broadcast: bool,
}

impl Link {
    /// How long a frame of `bytes` keeps the link busy, in µs, with its turnaround. Saturating.
    pub const fn air_us(&self, bytes: u16) -> u32 {
        let fragments = match self.fragment_bytes {
            0 => 1,
            size => {
                let whole = (bytes as u32).div_ceil(size as u32);
                if whole == 0 { 1 } else { whole }
            }
        };
        let on_air =
            fragments.saturating_mul(self.overhead_bytes as u32).saturating_add(bytes as u32);
        // Sixteenths of a µs for one byte: fine enough for 100 Mbit/s, and no 64-bit division.
        let byte_time = match self.bits_per_second {
            0 => u32::MAX,
            rate => 128_000_000u32.div_ceil(rate),
        };
        let sending = match on_air.checked_mul(byte_time) {
            Some(sixteenths) => sixteenths.div_ceil(16),
            None => u32::MAX,
        };
        sending.saturating_add(fragments.saturating_mul(self.turnaround_us))
    }

    /// Frames that reach all the others.
    pub(crate) const fn fan_out(&self, members: u8) -> u32 {
        match (members.saturating_sub(1), self.broadcast) {
            (0, _) => 0,
            (_, true) => 1,
            (others, false) => others as u32,
        }
    }

    /// One heartbeat to all and the replies of all, in µs.
    pub(crate) const fn idle_us(&self, members: u8) -> u32 {
        let frames = self.fan_out(members).saturating_add(members.saturating_sub(1) as u32);
        frames.saturating_mul(self.air_us(IDLE_FRAME_BYTES))
    }
}

/// The flash part that holds the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Flash {
    /// The partition.
    pub geometry: Geometry,
    /// Programming one `page_bytes` unit of the geometry, in µs.
    pub word_us: u32,
    /// The longest that erasing one block takes, in ms: the datasheet's maximum, not its typical value.
    pub erase_ms_max: u32,
    /// Does the CPU stand still, deaf to the link, while the part programs or erases?
    pub stalls: bool,
}

impl Flash {
    /// Programming `bytes`, in µs. Saturating.
    pub const fn write_us(&self, bytes: u16) -> u32 {
        let unit = if self.geometry.page_bytes == 0 { 1 } else { self.geometry.page_bytes };
        (bytes as u32).div_ceil(unit as u32).saturating_mul(self.word_us)
    }
}

/// What a node is started with. [`Config::new`] plans the timeouts; each can then be changed, and
/// [`Config::check`] says whether the whole can work.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Config {
    /// Where randomness comes from: different on every board, or their elections collide.
    pub seed: u64,
    /// How long a follower waits for its leader before it stands for election, in ms: the wait is drawn
    /// anew each time, from this to twice this (Raft §5.2).
    pub election_ms: u32,
    /// From one heartbeat of the leader to the next, in ms.
    pub heartbeat_ms: u32,
    /// Ask whether an election could be won before raising the term (Raft thesis §9.6).
    pub pre_vote: bool,
    /// A leader that hears no majority for an election timeout steps down, and a follower that hears a
    /// leader helps nobody against it (Raft thesis §6.2).
    pub check_quorum: bool,
    /// How far this board's clock may be off, in ‰, if reads may rely on it (`Node::read` by lease); `None` if they may not.
    /// Every member has to have check-quorum on and an `election_ms` as long as this board's, and a board whose clock
    /// stands still in sleep has to say so (`Node::handle_clock_stopped`) (Raft thesis §6.4.1).
    pub lease_clock_error_permille: Option<u16>,
    /// The most members that this cluster will have, 1 to 31. Timeouts are reckoned for that many.
    pub members_max: u8,
    /// The link between the boards.
    pub link: Link,
    /// The flash part that holds the log.
    pub flash: Flash,
}

impl Config {
    /// The shortest timeouts that [`Config::check`] accepts, with pre-vote and check-quorum on.
    pub fn new(link: Link, flash: Flash, members_max: u8, seed: u64) -> Self {
        let (heartbeat_ms, _) = heartbeat_needed(&link, members_max);
        let (election_ms, _) = election_needed(heartbeat_ms, &link, &flash, members_max);
        Self {
            seed,
            election_ms,
            heartbeat_ms,
            pre_vote: true,
            check_quorum: true,
            lease_clock_error_permille: None,
            members_max,
            link,
            flash,
        }
    }

    /// How long a leader's lease lasts: what is left of an election timeout when this clock is slow and a follower's is fast.
    pub(crate) fn lease_ms(&self) -> u32 {
        let Some(error) = self.lease_clock_error_permille else {
            return 0;
        };
        let share = 1000u32.saturating_sub(u32::from(error).saturating_mul(2));
        // In parts of a thousand first: it can't overflow.
        (self.election_ms / 1000)
            .saturating_mul(share)
            .saturating_add((self.election_ms % 1000).saturating_mul(share) / 1000)
    }

    /// Can a cluster work with this?
    ///
    /// # Errors
    /// The first thing that can't work, with what was given and what would do.
    pub fn check(&self) -> Result<(), ConfigError> {
        let link = &self.link;
        if self.members_max == 0 || self.members_max > NodeId::MAX {
            return Err(ConfigError::Members { given: self.members_max, max: NodeId::MAX });
        }
        if link.frame_bytes < FRAME_BYTES_MIN {
            let given = link.frame_bytes;
            return Err(ConfigError::FrameTooSmall { given, needed: FRAME_BYTES_MIN });
        }
        if link.duty_permille == 0 || link.duty_permille > 1000 {
            return Err(ConfigError::Duty { given: link.duty_permille, max: 1000 });
        }
        let air_us = link.air_us(link.frame_bytes);
        if air_us > FRAME_US_MAX {
            let (given_ms, max_ms) = (air_us.div_ceil(1000), FRAME_US_MAX / 1000);
            return Err(ConfigError::FrameTooSlow { given_ms, max_ms });
        }
        let (needed_ms, why) = heartbeat_needed(link, self.members_max);
        if self.heartbeat_ms < needed_ms {
            return Err(ConfigError::HeartbeatTooShort {
                given_ms: self.heartbeat_ms,
                needed_ms,
                why,
            });
        }
        let (needed_ms, why) =
            election_needed(self.heartbeat_ms, link, &self.flash, self.members_max);
        if self.election_ms < needed_ms {
            return Err(ConfigError::ElectionTooShort {
                given_ms: self.election_ms,
                needed_ms,
                why,
            });
        }
        Ok(())
    }
}

/// The shortest heartbeat interval that leaves air for anything else, in ms, and what asks for it.
pub(crate) fn heartbeat_needed(link: &Link, members: u8) -> (u32, HeartbeatLimit) {
    let air_ms = link.idle_us(members).saturating_mul(AIR_SHARE).div_ceil(1000).max(1);
    let own_us = link.fan_out(members).saturating_mul(link.air_us(IDLE_FRAME_BYTES));
    let duty = u32::from(link.duty_permille.max(1));
    let duty_ms = match duty {
        1000.. => 0,
        _ => own_us.div_ceil(1000).saturating_mul(1000).div_ceil(duty).saturating_mul(DUTY_SHARE),
    };
    if duty_ms > air_ms { (duty_ms, HeartbeatLimit::Duty) } else { (air_ms, HeartbeatLimit::Air) }
}

/// The shortest election timeout with that heartbeat, in ms, and what asks for it.
pub(crate) fn election_needed(
    heartbeat_ms: u32,
    link: &Link,
    flash: &Flash,
    members: u8,
) -> (u32, ElectionLimit) {
    let mut needed = (heartbeat_ms.saturating_mul(HEARTBEATS), ElectionLimit::Heartbeats);
    let rounds_ms = round_us(link, flash, members).div_ceil(1000).saturating_mul(ROUNDS);
    // A segment is erased at once, whatever blocks it has.
    let segment_ms = flash.erase_ms_max.saturating_mul(flash.geometry.blocks_per_segment.into());
    let erases_ms = if flash.stalls { segment_ms.saturating_mul(ERASES) } else { 0 };
    for (ms, why) in [(rounds_ms, ElectionLimit::Rounds), (erases_ms, ElectionLimit::Erase)] {
        if ms > needed.0 {
            needed = (ms, why);
        }
    }
    needed
}

/// One full round: the largest frame to all, a flash write of as much, and the replies of all, in µs.
pub(crate) fn round_us(link: &Link, flash: &Flash, members: u8) -> u32 {
    let replies = u32::from(members.saturating_sub(1));
    let out = link.fan_out(members).saturating_mul(link.air_us(link.frame_bytes));
    let back = replies.saturating_mul(link.air_us(IDLE_FRAME_BYTES));
    out.saturating_add(flash.write_us(link.frame_bytes)).saturating_add(back)
}

/// What asks for a longer heartbeat interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum HeartbeatLimit {
    /// Heartbeats and their replies would take more than a fifth of the air.
    Air,
    /// The leader's heartbeats would take more than half of what its duty cycle allows.
    Duty,
}

/// What asks for a longer election timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ElectionLimit {
    /// Ten heartbeats, so that a few lost ones depose nobody.
    Heartbeats,
    /// Four full rounds on the link, so that an election is over before the next one begins.
    Rounds,
    /// Three of the longest erases, while which the CPU stands still.
    Erase,
}

/// A [`Config`] that can't work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ConfigError {
    /// `members_max` is not 1 to `max`.
    Members {
        /// Members.
        given: u8,
        /// The most.
        max: u8,
    },
    /// The link's frames don't hold every message; an adapter can put them together from smaller ones.
    FrameTooSmall {
        /// Bytes.
        given: u16,
        /// Bytes that would do.
        needed: u16,
    },
    /// A frame takes too long on the air: a rate of zero, or frames too large for the rate.
    FrameTooSlow {
        /// One largest frame, in ms.
        given_ms: u32,
        /// What would do.
        max_ms: u32,
    },
    /// The duty cycle is not 1 to `max` ‰.
    Duty {
        /// ‰.
        given: u16,
        /// ‰: no limit.
        max: u16,
    },
    /// Heartbeats would fill the link.
    HeartbeatTooShort {
        /// ms.
        given_ms: u32,
        /// ms that would do.
        needed_ms: u32,
        /// What asks for it.
        why: HeartbeatLimit,
    },
    /// Leaders would be deposed, or elections undecided, for no better reason than this timeout.
    ElectionTooShort {
        /// ms.
        given_ms: u32,
        /// ms that would do.
        needed_ms: u32,
        /// What asks for it.
        why: ElectionLimit,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Members { given, max } => write!(f, "{given} members: 1 to {max} can be"),
            Self::FrameTooSmall { given, needed } => {
                write!(f, "frames of {given} bytes are too small: {needed} would do")
            }
            Self::FrameTooSlow { given_ms, max_ms } => {
                write!(f, "a frame takes {given_ms} ms on the link: at most {max_ms} ms would do")
            }
            Self::Duty { given, max } => write!(f, "a duty cycle of {given} ‰: 1 to {max} can be"),
            Self::HeartbeatTooShort { given_ms, needed_ms, why } => {
                write!(
                    f,
                    "a heartbeat every {given_ms} ms is too often: {needed_ms} ms would do, "
                )?;
                f.write_str(match why {
                    HeartbeatLimit::Air => "as idle traffic may take a fifth of the air",
                    HeartbeatLimit::Duty => "as heartbeats may take half of the duty cycle",
                })
            }
            Self::ElectionTooShort { given_ms, needed_ms, why } => {
                write!(
                    f,
                    "an election timeout of {given_ms} ms is too short: {needed_ms} ms would do, "
                )?;
                f.write_str(match why {
                    ElectionLimit::Heartbeats => "ten heartbeats",
                    ElectionLimit::Rounds => "four full rounds on this link",
                    ElectionLimit::Erase => "three of the longest erases of this flash",
                })
            }
        }
    }
}

impl core::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterId, EntryId, Generation, Index, Term};
    use crate::wire::{self, Envelope, Message};

    #[test]
    fn idle_frames_are_no_larger_than_they_are_reckoned() {
        let (term, index, round) = (Term((1 << 21) - 1), Index((1 << 35) - 1), u32::MAX);
        let beat =
            Message::Heartbeat { term, commit: EntryId::new(index, term), round, reply: true };
        let (reject, room) = (None, None);
        let reply = Message::Reply { term, matched: index, received: index, round, reject, room };
        for message in [beat, reply] {
            let envelope = Envelope {
                cluster: ClusterId([255; 4]),
                to: (1..=21).filter_map(NodeId::new).collect(),
                from: NodeId::new(21).unwrap(),
                generation: Generation(127),
                message,
            };
            let mut frame = [0; 64];
            let bytes = wire::encode(&envelope, &mut frame).unwrap();
            // With the check behind it.
            assert!(bytes + 4 <= usize::from(IDLE_FRAME_BYTES), "{bytes}: {message:?}");
            assert!(bytes + 4 + 6 > usize::from(IDLE_FRAME_BYTES), "{bytes}: {message:?}");
        }
    }

    fn nrf52840() -> Flash {
        let geometry = Geometry {
            word_bytes: 4,
            erased: 0xff,
            page_bytes: 4,
            block_bytes: 4096,
            blocks_per_segment: 1,
            segments: 8,
        };
        Flash { geometry, word_us: 41, erase_ms_max: 90, stalls: true }
    }

    fn radio() -> Link {
        Link {
            bits_per_second: 250_000,
            frame_bytes: 100,
            fragment_bytes: 0,
            overhead_bytes: 8,
            turnaround_us: 500,
            duty_permille: 1000,
            broadcast: true,
        }
    }

    #[test]
    fn air_time_is_bytes_and_overhead_at_the_rate_and_a_turnaround() {
        assert_eq!(radio().air_us(92), 100 * 32 + 500);
        let fragmented = Link { fragment_bytes: 50, ..radio() };
        assert_eq!(fragmented.air_us(100), (100 + 2 * 8) * 32 + 2 * 500);
        assert_eq!(fragmented.air_us(101), (101 + 3 * 8) * 32 + 3 * 500);
        assert_eq!(Link { bits_per_second: 0, ..radio() }.air_us(1), u32::MAX);
    }

    #[test]
    fn a_stalling_flash_asks_for_three_of_its_longest_erases() {
        let mut config = Config::new(radio(), nrf52840(), 2, 1);
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.election_ms, 270);
        config.election_ms = 269;
        let why = ElectionLimit::Erase;
        let refused = ConfigError::ElectionTooShort { given_ms: 269, needed_ms: 270, why };
        assert_eq!(config.check(), Err(refused));
        config.flash.stalls = false;
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn a_slower_heartbeat_asks_for_a_longer_election_timeout() {
        let mut config = Config::new(radio(), nrf52840(), 5, 1);
        config.heartbeat_ms = 1000;
        let error = config.check().unwrap_err();
        assert!(error.to_string().contains("10000 ms would do, ten heartbeats"), "{error}");
        config.election_ms = 10000;
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn a_slow_link_asks_for_four_full_rounds() {
        // One member replies little and the frame is large: rounds outweigh heartbeats.
        let link = Link { bits_per_second: 10_000, frame_bytes: 4096, ..radio() };
        let mut config = Config::new(link, Flash { stalls: false, ..nrf52840() }, 2, 1);
        let round_us = link.air_us(4096) + 1024 * 41 + link.air_us(IDLE_FRAME_BYTES);
        assert_eq!(config.election_ms, 4 * round_us.div_ceil(1000));
        config.election_ms -= 1;
        let error = config.check().unwrap_err();
        assert!(matches!(error, ConfigError::ElectionTooShort { why: ElectionLimit::Rounds, .. }));
    }

    #[test]
    fn idle_traffic_takes_at_most_a_fifth_of_the_air_and_half_of_the_duty_cycle() {
        let idle_us = radio().air_us(IDLE_FRAME_BYTES);
        assert_eq!(heartbeat_needed(&radio(), 5).0, (5 * idle_us * 5).div_ceil(1000));
        let unicast = Link { broadcast: false, ..radio() };
        assert_eq!(heartbeat_needed(&unicast, 5).0, (8 * idle_us * 5).div_ceil(1000));
        let limited = Link { duty_permille: 10, ..radio() };
        let needed_ms = idle_us.div_ceil(1000) * 100 * 2;
        assert_eq!(heartbeat_needed(&limited, 5), (needed_ms, HeartbeatLimit::Duty));
    }

    #[test]
    fn what_no_timeout_can_mend_is_refused_with_both_figures() {
        let good = Config::new(radio(), nrf52840(), 5, 1);
        let with = |change: fn(&mut Config)| {
            let mut config = good.clone();
            change(&mut config);
            config.check()
        };
        let frame = ConfigError::FrameTooSmall { given: 95, needed: 96 };
        assert_eq!(with(|c| c.link.frame_bytes = 95), Err(frame));
        let max_ms = 10_000;
        let slow = ConfigError::FrameTooSlow { given_ms: u32::MAX.div_ceil(1000), max_ms };
        assert_eq!(with(|c| c.link.bits_per_second = 0), Err(slow));
        let duty = |given| Err(ConfigError::Duty { given, max: 1000 });
        assert_eq!(with(|c| c.link.duty_permille = 0), duty(0));
        assert_eq!(with(|c| c.link.duty_permille = 1001), duty(1001));
        let members = |given| Err(ConfigError::Members { given, max: 31 });
        assert_eq!(with(|c| c.members_max = 0), members(0));
        assert_eq!(with(|c| c.members_max = 32), members(32));
    }
}
