//! Identity pages: what firmware reads at boot to know which board it runs on (`core/docs/identity-page.md`).
//!
//! This is the side that writes them; `quorate_embedded::identity` reads them on the board.

use std::num::NonZeroU8;

use crc::{CRC_32_ISCSI, Crc};
use quorate::config::{Config, ConfigError, Link};
use quorate::entry::HEAD_BYTES_MAX;
use quorate::membership::MEMBERS_MAX;
use quorate::node::{Limits, RESERVE_BYTES, entry_bytes_max};
use quorate::plan;
use quorate::{ClusterId, NodeId};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 96;
/// The version of the format.
pub const VERSION: u8 = 1;

const MAGIC: &[u8; 4] = b"QIDP";
const FOUNDS: u8 = 1;
const BROADCAST: u8 = 2;

/// What all boards of a cluster are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provision {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its members, when the pages are made.
    pub members: Vec<NodeId>,
    /// The most members that timeouts are reckoned for.
    pub members_max: u8,
    /// Its constants.
    pub limits: Limits,
    /// The link between the boards.
    pub link: Link,
    /// From one heartbeat to the next, in ms, if it is not what is planned.
    pub heartbeat_ms: Option<u32>,
    /// The election timeout, in ms, if it is not what is planned.
    pub election_ms: Option<u32>,
}

/// Why pages can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// More members than a cluster can have, or none.
    #[error("{given} members: 1 to {max} can be")]
    Members {
        /// Members.
        given: usize,
        /// The most.
        max: usize,
    },
    /// The same member more than once.
    #[error("member {0} is named twice")]
    Twice(NodeId),
    /// Timeouts are reckoned for fewer members than there are.
    #[error("timeouts for {given} members at most: there are {members}")]
    MembersMax {
        /// What was given.
        given: u8,
        /// Members.
        members: usize,
    },
    /// Link and timeouts can't work.
    #[error("{0}")]
    Config(ConfigError),
    /// The cluster's frames are longer than the link's, or too short.
    #[error("frames of {given} bytes: {min} to {max} can be on this link")]
    Frame {
        /// Bytes.
        given: u16,
        /// The least.
        min: u16,
        /// The most.
        max: u16,
    },
    /// A command does not fit a frame.
    #[error("commands of {given} bytes: 1 to {max} fit a frame of {frame_bytes}")]
    Entry {
        /// Bytes.
        given: u16,
        /// The most.
        max: u16,
        /// Bytes of a frame.
        frame_bytes: u16,
    },
    /// Such a log would be full before a snapshot is due.
    #[error("a log of {given} bytes: {min} is the least for commands of {entry_bytes}")]
    Log {
        /// Bytes.
        given: u32,
        /// The least.
        min: u32,
        /// The longest command.
        entry_bytes: u16,
    },
}

impl Provision {
    /// Can a cluster work with this? What depends on the board's chip is left to the board.
    ///
    /// # Errors
    /// The first thing that can't work, with what would.
    pub fn check(&self) -> Result<(), ProvisionError> {
        let count = self.members.len();
        if count == 0 || count > MEMBERS_MAX {
            return Err(ProvisionError::Members { given: count, max: MEMBERS_MAX });
        }
        let twice = |id: &&NodeId| self.members.iter().filter(|other| other == id).count() > 1;
        if let Some(id) = self.members.iter().find(twice) {
            return Err(ProvisionError::Twice(*id));
        }
        if usize::from(self.members_max) < count {
            return Err(ProvisionError::MembersMax { given: self.members_max, members: count });
        }
        // A part that stalls nobody: what the chip asks for beyond, the board itself finds out.
        let part = plan::part("w25q").map(|part| part.flash);
        let Some(flash) = part else {
            return Err(ProvisionError::Members { given: count, max: 0 });
        };
        let mut config = Config::new(self.link, flash, self.members_max, 0);
        config.heartbeat_ms = self.heartbeat_ms.unwrap_or(config.heartbeat_ms);
        let planned = config.heartbeat_ms.saturating_mul(10).max(config.election_ms);
        config.election_ms = self.election_ms.unwrap_or(planned);
        config.check().map_err(ProvisionError::Config)?;
        let Limits { frame_bytes, entry_bytes, log_bytes, .. } = self.limits;
        let (min, max) = (quorate::config::FRAME_BYTES_MIN, self.link.frame_bytes);
        if !(min..=max).contains(&frame_bytes) {
            return Err(ProvisionError::Frame { given: frame_bytes, min, max });
        }
        let max = entry_bytes_max(frame_bytes);
        if entry_bytes == 0 || entry_bytes > max {
            return Err(ProvisionError::Entry { given: entry_bytes, max, frame_bytes });
        }
        let min = log_bytes_min(entry_bytes);
        if log_bytes < min {
            return Err(ProvisionError::Log { given: log_bytes, min, entry_bytes });
        }
        Ok(())
    }

    /// The page of board `node`, for flash whose erased bytes read as `erased`: to be put at the beginning of an erased block.
    /// With `founds` the board founds the cluster, together with the other members; without, it asks for its place in it.
    pub fn page(&self, node: NodeId, founds: bool, entropy: u64, erased: u8) -> [u8; PAGE_BYTES] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(founds, FOUNDS) | flag(self.link.broadcast, BROADCAST);
        let members = self.members.iter().fold(0u32, |bits, id| bits | 1 << (id.get() - 1));
        let (limits, link) = (&self.limits, &self.link);
        let mut page = Vec::with_capacity(PAGE_BYTES);
        page.extend(MAGIC);
        page.extend([VERSION, node.get(), flags, self.members_max]);
        page.extend(self.cluster.0);
        page.extend(entropy.to_le_bytes());
        page.extend(members.to_le_bytes());
        page.extend(limits.frame_bytes.to_le_bytes());
        page.extend(limits.entry_bytes.to_le_bytes());
        page.extend(limits.log_bytes.to_le_bytes());
        page.extend(limits.snapshot_bytes.to_le_bytes());
        page.extend(link.bits_per_second.to_le_bytes());
        page.extend(link.turnaround_us.to_le_bytes());
        for half in [link.frame_bytes, link.fragment_bytes, link.overhead_bytes, link.duty_permille]
        {
            page.extend(half.to_le_bytes());
        }
        page.extend(self.heartbeat_ms.unwrap_or(0).to_le_bytes());
        page.extend(self.election_ms.unwrap_or(0).to_le_bytes());
        let check = Crc::<u32>::new(&CRC_32_ISCSI).checksum(&page);
        page.extend(check.to_le_bytes());
        let mut whole = [erased; PAGE_BYTES];
        whole.iter_mut().zip(page).for_each(|(place, byte)| *place = byte);
        whole
    }
}

/// The shortest log for commands of so many bytes: what [`Node::start`](quorate::node::Node::start) asks for.
pub fn log_bytes_min(entry_bytes: u16) -> u32 {
    ((RESERVE_BYTES + usize::from(entry_bytes) + HEAD_BYTES_MAX) * 2) as u32
}

/// A member number, as a person writes it.
pub fn node_id(text: &str) -> Result<NodeId, String> {
    let number: Option<NonZeroU8> = text.parse().ok();
    let id = number.and_then(|number| NodeId::new(number.get()));
    id.ok_or_else(|| format!("a member is a number from 1 to {}", NodeId::MAX))
}
