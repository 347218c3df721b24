//! The identity page: what `quorate provision` tells a board about itself, so that one firmware image serves all boards.
//! `core/docs/identity-page.md` is its format.
//!
//! A page that founds does so once. Before a board that has founded says a word it marks its page; should it lose its log
//! later, it asks for its place ([`Boot::Join`]) and does not found a second time, which would be a second vote in a term that it
//! has voted in.

use core::fmt;

use embedded_storage::nor_flash::{NorFlash, ReadNorFlash};
use quorate::check::checksum;
use quorate::config::{Config, ConfigError, Flash, Link};
use quorate::membership::{MEMBERS_MAX, Member};
use quorate::node::{Boot, Founding, Limits};
use quorate::{ClusterId, NodeId, NodeSet};

/// Bytes of a page. It has an erase block to itself, but for what the firmware keeps of its own there.
pub const PAGE_BYTES: usize = 96;
/// The version of the format.
pub const VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"QIDP";
/// Bytes before the checksum, which stands there in every version.
const BODY_BYTES: usize = 60;
/// Where the mark begins, as long as the longest word.
const MARK_AT: usize = 64;
const MARK_BYTES: usize = PAGE_BYTES - MARK_AT;
const FOUNDS: u8 = 1;
const BROADCAST: u8 = 2;

/// What a board is told about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Page {
    /// Which member it is.
    pub node: NodeId,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// The founding members, if the page was made for founding; else who was a member when it was made.
    pub members: NodeSet,
    /// The most members that timeouts are reckoned for.
    pub members_max: u8,
    /// The cluster's constants.
    pub limits: Limits,
    /// The link between the boards.
    pub link: Link,
    /// From one heartbeat to the next, in ms; 0: as [`Config::new`] plans it.
    pub heartbeat_ms: u32,
    /// The election timeout, in ms; 0: the shortest that goes with the heartbeat.
    pub election_ms: u32,
    /// Drawn at random for this page alone.
    pub entropy: u64,
    founds: bool,
    marked: bool,
}

/// Why there is no page to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PageError {
    /// Every byte is erased: this board was never provisioned.
    Blank,
    /// Something else than an identity page is there.
    Foreign,
    /// A page whose bytes are not those that were written.
    Damaged,
    /// A page for newer firmware.
    Newer {
        /// Its version.
        version: u8,
    },
    /// A page that was written whole, and says what can't be.
    Malformed,
    /// The flash driver failed.
    Unreadable,
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("this board was never provisioned"),
            Self::Foreign => f.write_str("other data stands in the place of the identity page"),
            Self::Damaged => f.write_str("the identity page is damaged"),
            Self::Newer { version } => {
                write!(f, "the identity page has the newer version {version}")
            }
            Self::Malformed => f.write_str("the identity page says what can't be"),
            Self::Unreadable => f.write_str("the identity page can't be read"),
        }
    }
}

impl core::error::Error for PageError {}

/// Takes fields one behind the other; what is beyond the end is zero.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk::<N>().unwrap_or((&[0; N], &[]));
        self.0 = rest;
        *field
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
}

impl Page {
    /// Reads a page out of these bytes; `erased` is what an erased byte reads as.
    ///
    /// # Errors
    /// It is none, or none that can be used.
    pub fn parse(bytes: &[u8; PAGE_BYTES], erased: u8) -> Result<Self, PageError> {
        if bytes.iter().all(|byte| *byte == erased) {
            return Err(PageError::Blank);
        }
        let (body, rest) = bytes.split_at_checked(BODY_BYTES).unwrap_or_default();
        let mut fields = Fields(body);
        if fields.take() != MAGIC {
            return Err(PageError::Foreign);
        }
        if Fields(rest).word() != checksum(0, body) {
            return Err(PageError::Damaged);
        }
        let [version, node, flags, members_max] = fields.take();
        if version > VERSION {
            return Err(PageError::Newer { version });
        }
        let malformed = PageError::Malformed;
        let node = NodeId::new(node).filter(|_| version == VERSION).ok_or(malformed)?;
        let (cluster, entropy) = (ClusterId(fields.take()), u64::from_le_bytes(fields.take()));
        let members = fields.word();
        // Bit `id - 1` for each, as sets are everywhere.
        let members: NodeSet = NodeSet::ALL
            .iter()
            .filter(|id| members & 1u32.wrapping_shl(u32::from(id.get()).wrapping_sub(1)) != 0)
            .collect();
        let limits = Limits {
            frame_bytes: fields.half(),
            entry_bytes: fields.half(),
            log_bytes: fields.word(),
            snapshot_bytes: fields.word(),
        };
        let (bits_per_second, turnaround_us) = (fields.word(), fields.word());
        let link = Link {
            bits_per_second,
            turnaround_us,
            frame_bytes: fields.half(),
            fragment_bytes: fields.half(),
            overhead_bytes: fields.half(),
            duty_permille: fields.half(),
            broadcast: flags & BROADCAST != 0,
        };
        let (heartbeat_ms, election_ms) = (fields.word(), fields.word());
        let founds = flags & FOUNDS != 0;
        // Whether the rest can work is for the node to say.
        if founds && (!members.contains(node) || members.len() > MEMBERS_MAX) {
            return Err(malformed);
        }
        // A mark that was cut short, or has lost a bit, is one: it is the safe side.
        let marked = rest.iter().skip(MARK_AT - BODY_BYTES).any(|byte| *byte != erased);
        Ok(Self {
            node,
            cluster,
            members,
            members_max,
            limits,
            link,
            heartbeat_ms,
            election_ms,
            entropy,
            founds,
            marked,
        })
    }

    /// Reads the page that lies `offset` bytes from the beginning of the flash.
    ///
    /// # Errors
    /// As [`Page::parse`].
    pub fn read(flash: &mut impl ReadNorFlash, offset: u32, erased: u8) -> Result<Self, PageError> {
        let mut bytes = [0; PAGE_BYTES];
        let (body, mark) = bytes.split_at_mut_checked(MARK_AT).unwrap_or_default();
        flash.read(offset, body).map_err(|_| PageError::Unreadable)?;
        // Where there is ECC, a mark that was cut short may be unreadable: it is one.
        if flash.read(offset.saturating_add(MARK_AT as u32), mark).is_err() {
            mark.fill(!erased);
        }
        Self::parse(&bytes, erased)
    }

    /// Has this board to found its cluster, if it has no log? Not if it has done so before.
    pub const fn founds(&self) -> bool {
        self.founds && !self.marked
    }

    /// Marks the page that lies `offset` bytes from the beginning of the flash: this board has founded. To be done when the node
    /// has told that it started, and before it is polled again.
    ///
    /// # Errors
    /// What the flash driver fails with; the board must not go on then.
    pub fn mark<F: NorFlash>(flash: &mut F, offset: u32, erased: u8) -> Result<(), F::Error> {
        flash.write(offset.saturating_add(MARK_AT as u32), &[!erased; MARK_BYTES])
    }

    /// What a node is configured with: this page's link, the chip's own flash, and a seed that is this board's, and this start's
    /// by `fresh`: a number from hardware, or 0 where there is none.
    #[inline(never)]
    pub fn config(&self, flash: Flash, fresh: u64) -> Config {
        let mut config = Config::new(self.link, flash, self.members_max, self.entropy ^ fresh);
        for (planned, told) in [
            (&mut config.heartbeat_ms, self.heartbeat_ms),
            (&mut config.election_ms, self.election_ms),
        ] {
            if told != 0 {
                *planned = told;
            }
        }
        // The one that was told alone takes the other along.
        if self.election_ms == 0
            && let Err(ConfigError::ElectionTooShort { needed_ms, .. }) = config.check()
        {
            config.election_ms = needed_ms;
        }
        config
    }

    /// Starts a board that has no log, in the way that it has to. `nonce` is drawn by hardware, anew at each call.
    // On its own, so that the members lie on the stack no longer than that.
    #[inline(never)]
    pub fn boot_without_log<R>(&self, nonce: u32, start: impl FnOnce(Boot<'_>) -> R) -> R {
        let Self { cluster, node, limits, .. } = *self;
        if !self.founds() {
            // Zero is no request.
            return start(Boot::Join { cluster, node, nonce: nonce.max(1) });
        }
        let mut members = heapless::Vec::<Member, MEMBERS_MAX>::new();
        for id in self.members.iter() {
            // There is room: it was counted.
            let _ = members.push(Member::new(id));
        }
        let founding = Founding { cluster, node, members: &members, limits, erase_anyway: false };
        start(Boot::Found(&founding))
    }
}
