//! How much a cluster of PCs holds, and what that asks of a node's file.

use quorate::config::{Config, FRAME_BYTES_MIN, Flash, Link};
use quorate::flash::Geometry;
use quorate::node::{Limits, entry_bytes_max, flash_buffer_bytes_min, live_bytes};
use quorate::typed::MapLimits;
use quorate::wal::{BUFFER_BYTES_MAX, Wal};

use crate::boxed;
use crate::provision::log_bytes_min;

/// What a forwarded command has before it, at most.
const TAG_BYTES: u16 = 11;
/// A disk reads and writes pages.
const PAGE_BYTES: u16 = 4096;
const WORD_BYTES: u8 = 8;
const BLOCK_BYTES: u32 = 1 << 16;
/// Few segments, each erased at once: with more of them snapshots find room in smaller steps, and erases are more.
const SEGMENTS_WANTED: u8 = 12;

/// What a founder chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The largest frame; a key and its value have to fit one.
    pub frame_bytes: u16,
    /// Entries in memory, and on disk beside a snapshot.
    pub log_bytes: u32,
    /// Keys and values, with 10 bytes for each.
    pub map_bytes: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { frame_bytes: 32_768, log_bytes: 1 << 20, map_bytes: 1 << 20 }
    }
}

impl Sizes {
    /// The largest log, and the largest map.
    pub const BYTES_MAX: u32 = boxed::BYTES_MAX as u32;

    /// The cluster's constants.
    pub fn limits(&self) -> Limits {
        let map = MapLimits { bytes: self.map_bytes, ..MapLimits::default() };
        Limits {
            frame_bytes: self.frame_bytes,
            entry_bytes: entry_bytes_max(self.frame_bytes),
            log_bytes: self.log_bytes,
            snapshot_bytes: map.snapshot_bytes_max(),
        }
    }

    /// The smallest file that holds as much: half a dozen segments or a few more.
    ///
    /// # Errors
    /// There is none, or one of the sizes is out of range.
    pub fn geometry(&self) -> Result<Geometry, String> {
        let max = Self::BYTES_MAX;
        if self.log_bytes > max || self.map_bytes > max {
            return Err(format!("log and map are at most {max} bytes each"));
        }
        if self.map_bytes == 0 {
            return Err("a map of 0 bytes holds nothing".into());
        }
        if self.frame_bytes < FRAME_BYTES_MIN {
            return Err(format!("frames are at least {FRAME_BYTES_MIN} bytes"));
        }
        geometry_for(&self.limits())
    }
}

/// Can a cluster be founded with a log like that? A node that joins is told what the cluster has, and may say less.
pub(crate) fn log_is_enough(limits: &Limits) -> Result<(), String> {
    let (frame_bytes, min) = (limits.frame_bytes, log_bytes_min(limits.entry_bytes));
    if limits.log_bytes < min {
        return Err(format!("with frames of {frame_bytes} bytes a log is at least {min} bytes"));
    }
    Ok(())
}

/// The smallest file for a cluster with these constants.
///
/// # Errors
/// There is none.
pub fn geometry_for(limits: &Limits) -> Result<Geometry, String> {
    if flash_buffer_bytes_min(limits.frame_bytes) > BUFFER_BYTES_MAX {
        return Err(format!("frames are at most {} bytes", BUFFER_BYTES_MAX - 512));
    }
    let mut refused = String::new();
    for blocks in [2u16, 4, 8, 16, 32, 64, 128, 256, 512] {
        for segments in 6..=SEGMENTS_WANTED {
            let geometry = geometry(blocks, segments);
            // What the node's log has room for in memory, it may have to write.
            let log_bytes = boxed::capacity(limits.log_bytes as usize) as u32;
            let live = live_bytes(log_bytes, limits, &geometry);
            match Wal::check(&geometry, BUFFER_BYTES_MAX, live) {
                Ok(()) => return Ok(geometry),
                Err(error) => refused = error.to_string(),
            }
        }
    }
    Err(format!("no file holds that: {refused}"))
}

const fn geometry(blocks_per_segment: u16, segments: u8) -> Geometry {
    Geometry {
        word_bytes: WORD_BYTES,
        erased: 0xff,
        page_bytes: PAGE_BYTES,
        block_bytes: BLOCK_BYTES,
        blocks_per_segment,
        segments,
    }
}

/// The layout of an image as it was found, with the pages of the disk that it lies on now, if its segments have room for such.
pub(crate) fn on_disk(found: Geometry) -> Geometry {
    let page_bytes = PAGE_BYTES.max(found.page_bytes);
    let paged = Geometry { page_bytes, ..found };
    if Wal::check(&paged, BUFFER_BYTES_MAX, 0).is_ok() { paged } else { found }
}

/// What a map holds in a cluster with these constants: the same on every PC, whatever its command line says.
pub fn map_limits(limits: &Limits) -> MapLimits {
    let mut map = MapLimits { keys: u16::MAX, ..MapLimits::default() };
    // What is around key and value in a command; a value is counted as ten bytes at least.
    let around = (map.command_bytes_max() as u16).saturating_sub(10).saturating_add(TAG_BYTES);
    let bytes = limits.entry_bytes.saturating_sub(around);
    map.key_bytes = u8::try_from(bytes / 4).unwrap_or(u8::MAX);
    map.value_bytes = bytes.saturating_sub(map.key_bytes.into());
    let empty = MapLimits { bytes: 0, ..map }.snapshot_bytes_max();
    MapLimits { bytes: limits.snapshot_bytes.saturating_sub(empty), ..map }
}

/// Is a map of these limits one that the cluster's boards can have?
pub(crate) fn map_fits(map: &MapLimits, limits: &Limits) -> Result<(), String> {
    let of = |what, given, max: u32| {
        format!(
            "a map like that makes {what} of {given} bytes, and the cluster's are {max} at most"
        )
    };
    let (snapshot, command) = (map.snapshot_bytes_max(), map.command_bytes_max());
    if snapshot > limits.snapshot_bytes {
        return Err(of("snapshots", snapshot, limits.snapshot_bytes));
    }
    if command > limits.entry_bytes.into() {
        return Err(of("commands", command, limits.entry_bytes.into()));
    }
    Ok(())
}

/// The link between PCs, as timeouts are reckoned for it: a local network, and a scheduler that has other things to do.
pub fn socket_link(frame_bytes: u16) -> Link {
    Link {
        bits_per_second: 100_000_000,
        frame_bytes,
        fragment_bytes: 0,
        overhead_bytes: 90,
        turnaround_us: 300,
        duty_permille: 1000,
        broadcast: false,
    }
}

/// A file as flash: what takes long is to make a write durable.
pub(crate) const fn flash(geometry: Geometry) -> Flash {
    Flash { geometry, word_us: 1000, erase_ms_max: 100, stalls: false }
}

/// What a node is started with. `None` where what a network of PCs is used to will do: a heartbeat each 100 ms, ten of them
/// to doubt a leader.
pub(crate) fn config(
    mut config: Config,
    heartbeat_ms: Option<u32>,
    election_ms: Option<u32>,
) -> Config {
    config.heartbeat_ms = heartbeat_ms.unwrap_or(config.heartbeat_ms.max(100));
    config.election_ms =
        election_ms.unwrap_or(config.election_ms.max(config.heartbeat_ms.saturating_mul(10)));
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::membership::MEMBERS_MAX;

    #[test]
    fn the_longest_command_fits_an_entry_also_when_it_is_forwarded() {
        for frame_bytes in [128, 250, 1400, 32_768, 65_000] {
            let limits = Sizes { frame_bytes, ..Sizes::default() }.limits();
            let map = map_limits(&limits);
            let bytes = map.command_bytes_max() + u32::from(TAG_BYTES);
            assert!(bytes <= u32::from(limits.entry_bytes), "{frame_bytes}: {bytes}");
            assert!(bytes + 4 > u32::from(limits.entry_bytes), "{frame_bytes}: {bytes}");
            assert!(map.key_bytes >= 10 && map.value_bytes >= 30, "{map:?}");
            assert_eq!(map.snapshot_bytes_max(), limits.snapshot_bytes);
        }
    }

    #[test]
    fn a_file_is_found_for_every_size_and_is_not_much_larger_than_it_has_to_be() {
        for shift in 16..=24 {
            let bytes = 1 << shift;
            let sizes = Sizes { log_bytes: bytes, map_bytes: bytes, ..Sizes::default() };
            let geometry = sizes.geometry().unwrap();
            let live = (boxed::capacity(bytes as usize) as u32 + bytes) / 4 * 5;
            assert!(geometry.bytes() >= 2 * live, "{geometry:?}");
            assert!(geometry.bytes() <= (5 * live).max(2 << 20), "{} for {live}", geometry.bytes());
        }
        let default = Sizes::default().geometry().unwrap();
        assert!(default.bytes() <= 16 << 20, "{default:?}");
    }

    #[test]
    fn sizes_beyond_reach_are_refused_with_the_bound() {
        let log = Sizes { log_bytes: u32::MAX, ..Sizes::default() }.geometry().unwrap_err();
        assert_eq!(log, "log and map are at most 16777216 bytes each");
        let frame = Sizes { frame_bytes: u16::MAX, ..Sizes::default() }.geometry().unwrap_err();
        assert_eq!(frame, "frames are at most 65024 bytes");
        let frame = Sizes { frame_bytes: 95, ..Sizes::default() }.geometry().unwrap_err();
        assert_eq!(frame, "frames are at least 96 bytes");
        let map = Sizes { map_bytes: 0, ..Sizes::default() }.geometry().unwrap_err();
        assert_eq!(map, "a map of 0 bytes holds nothing");
    }

    #[test]
    fn a_cluster_is_founded_with_the_least_log_that_is_told_and_with_no_smaller_one() {
        for frame_bytes in [96, 1400, 32_768, 65_000] {
            let sizes = |log_bytes| Sizes { frame_bytes, log_bytes, map_bytes: 4096 };
            let least = log_bytes_min(sizes(0).limits().entry_bytes);
            let id = quorate::NodeId::new(1).unwrap();
            let founded = |log_bytes| {
                let founding = quorate::node::Founding {
                    cluster: quorate::ClusterId([1; 4]),
                    node: id,
                    members: &[quorate::membership::Member::new(id)],
                    limits: sizes(log_bytes).limits(),
                    erase_anyway: false,
                };
                let dir = tempfile::tempdir().unwrap();
                crate::node::found(dir.path(), &founding).map_err(|error| error.to_string())
            };
            let told =
                format!("with frames of {frame_bytes} bytes a log is at least {least} bytes");
            assert_eq!(founded(least - 1), Err(told));
            assert_eq!(founded(least), Ok(()));
        }
    }

    #[test]
    fn a_map_that_the_cluster_can_t_hold_is_refused_with_both_figures() {
        let limits =
            Limits { frame_bytes: 112, entry_bytes: 59, log_bytes: 1800, snapshot_bytes: 309 };
        let map = MapLimits { keys: 12, key_bytes: 12, value_bytes: 10, bytes: 300 };
        assert_eq!(map_fits(&map, &limits), Ok(()));
        let large = map_fits(&MapLimits { bytes: 301, ..map }, &limits).unwrap_err();
        assert!(large.contains("snapshots of 310 bytes") && large.contains("309"), "{large}");
        let long = map_fits(&MapLimits { value_bytes: 60, ..map }, &limits).unwrap_err();
        assert!(long.contains("commands of ") && long.contains(" 59 at most"), "{long}");
    }

    #[test]
    fn the_usual_timeouts_are_accepted() {
        let geometry = Sizes::default().geometry().unwrap();
        let planned = || Config::new(socket_link(32_768), flash(geometry), MEMBERS_MAX as u8, 1);
        let usual = config(planned(), None, None);
        assert_eq!((usual.heartbeat_ms, usual.election_ms), (100, 1000));
        assert_eq!(usual.check(), Ok(()));
        let fast = config(planned(), Some(30), Some(300));
        assert_eq!(fast.check(), Ok(()));
        assert_eq!(config(planned(), Some(u32::MAX), None).election_ms, u32::MAX);
    }
}
