//! Reading a board's flash image, as it lies in a file: the same log is mounted that the board would mount, on
//! a copy. Nothing but the image is needed: how the flash was laid out is found in it.

use std::collections::BTreeMap;

use quorate::config::{Config, Flash, Link};
use quorate::event::{Event, Fault};
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::membership::{MEMBERS_MAX, Member};
use quorate::node::{Boot, Limits, Node, Output, StartError, Status};
use quorate::typed::{ConfigMap, MapLimits, serve};
use quorate::wal::{BUFFER_BYTES_MAX, MountError};
use quorate::{Instant, NodeId};

use crate::boxed::{self, BYTES_MAX};
use crate::content::{Content, Value};
use crate::{fit, wal_layout};

/// A log in RAM that holds whatever a board's could, unless its flash is larger.
pub(crate) const LOG_BYTES: usize = 256 * 1024;

/// Bytes that log and map take at most, if they come out of an image of that length.
pub(crate) fn bytes_within(image: usize) -> usize {
    image.clamp(LOG_BYTES, BYTES_MAX)
}
/// Larger than any frame.
const FRAME_BYTES: usize = u16::MAX as usize;
/// As large as any board's.
pub(crate) const FLASH_BUFFER_BYTES: usize = BUFFER_BYTES_MAX;
/// The shortest image of a node on a PC, about (`node::Sizes`).
const PC_BYTES_MIN: u32 = 3 << 18;
/// A mount of the largest image takes far fewer steps.
pub(crate) const STEPS_MAX: u32 = 10_000_000;

/// What a board knew when its image was taken.
#[derive(Clone, Debug)]
pub struct BoardImage {
    /// How its flash is laid out.
    pub geometry: Geometry,
    /// Which board, how far it is, and how its flash is doing.
    pub status: Status,
    /// The cluster's constants.
    pub limits: Limits,
    /// The members, with their addresses.
    pub members: Vec<Member>,
    /// A power cut had cut the last write short. It was never acknowledged, and is not part of the log.
    pub torn: bool,
    /// The configuration, up to the last entry that the image knows to be committed.
    pub content: Content,
    /// The revision of each key's last change.
    pub revisions: BTreeMap<String, u64>,
    /// The revision of the whole.
    pub revision: u64,
    /// The hash of the whole, the same on every board that holds the same.
    pub hash: u64,
}

impl BoardImage {
    /// Which board it is; a mounted log names one.
    pub fn id(&self) -> u8 {
        self.status.id.map_or(0, NodeId::get)
    }
}

/// Why an image can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// No layout of a flash log has this length.
    #[error("{bytes} bytes are not the image of a whole flash partition")]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// It holds the log of a partition of another length.
    #[error(
        "the log in it was laid out for {segments} segments of {segment_bytes} bytes; {bytes} bytes are not the image of that partition"
    )]
    Partition {
        /// Segments of the log.
        segments: u8,
        /// Bytes of each.
        segment_bytes: u32,
        /// Bytes of the image.
        bytes: usize,
    },
    /// Every byte is blank.
    #[error("this flash is blank: the board was never founded or admitted")]
    Blank,
    /// Something else than a log.
    #[error("this is not the flash image of a board: {0}")]
    NotALog(MountError),
    /// A log of another version.
    #[error("{0}; this program reads another one")]
    Version(MountError),
    /// A record that had been written whole can't be read.
    #[error(
        "damaged at byte {offset} (segment {segment}): a record that was written whole can't be read. Take this flash for lost: an older copy has forgotten promises, a blank one gets its place back"
    )]
    Damaged {
        /// Where in the file.
        offset: u32,
        /// Which segment.
        segment: u8,
    },
    /// The log is sound, what it says is not.
    #[error("the log can be read, but not used: {0:?}")]
    Unusable(Fault),
}

/// Mounts a copy of the image and reads all that it knows to be committed.
///
/// # Errors
/// It is no image, or a damaged one. A record torn by a power cut is no damage.
pub fn read(image: &[u8]) -> Result<BoardImage, ImageError> {
    // It has no layout that could be found; to try them all takes seconds.
    let blank = |erased: u8| image.iter().all(|byte| *byte == erased);
    if blank(0xff) || blank(0x00) {
        return Err(ImageError::Blank);
    }
    let mut error = ImageError::Length { bytes: image.len() };
    let found = wal_layout::find_layout(image).ok();
    for geometry in found.into_iter().chain(layouts(image)) {
        match mount(image, geometry) {
            Ok(board) => return Ok(board),
            Err(Fault::Mount(MountError::OtherGeometry {
                word_bytes,
                segment_bytes,
                segments,
            })) => {
                // The log itself says how it was laid out.
                let geometry = layout(geometry.erased, word_bytes, segment_bytes, segments);
                if geometry.bytes() as usize != image.len() {
                    return Err(ImageError::Length { bytes: image.len() });
                }
                return mount(image, geometry).map_err(explain);
            }
            // With the wrong layout everything looks like this, with the right one only other data does.
            Err(Fault::Mount(e @ (MountError::Foreign | MountError::Unformatted))) => {
                if matches!(error, ImageError::Length { .. }) {
                    error = ImageError::NotALog(e);
                }
            }
            Err(Fault::Geometry(_)) => {}
            Err(fault) => error = explain(fault),
        }
    }
    Err(error)
}

/// Every layout that an image of this length can have, the likeliest first.
fn layouts(image: &[u8]) -> impl Iterator<Item = Geometry> {
    let bytes = u32::try_from(image.len()).unwrap_or(0);
    let zeros = image.iter().filter(|byte| **byte == 0).count();
    let ones = image.iter().filter(|byte| **byte == 0xff).count();
    let erased = if ones >= zeros { [0xff, 0x00] } else { [0x00, 0xff] };
    let mut rings: Vec<u8> =
        (3..=32).filter(|n| bytes > 0 && bytes.is_multiple_of(u32::from(*n))).collect();
    rings.sort_by_key(|n| !(bytes / u32::from(*n)).is_power_of_two());
    // That of a node on a PC, which waits for this at its start, is longer than most boards' flash.
    let words = if bytes < PC_BYTES_MIN { [4u8, 8, 1, 16, 32, 2] } else { [8, 4, 1, 16, 32, 2] };
    erased.into_iter().flat_map(move |erased| {
        let rings = rings.clone();
        words.into_iter().flat_map(move |word| {
            let rings = rings.clone();
            rings.into_iter().map(move |n| layout(erased, word, bytes / u32::from(n), n))
        })
    })
}

pub(crate) fn layout(erased: u8, word_bytes: u8, segment_bytes: u32, segments: u8) -> Geometry {
    Geometry {
        word_bytes,
        erased,
        // The board's is not told. The smallest takes the shortest segments and the longest records.
        page_bytes: word_bytes.into(),
        block_bytes: segment_bytes,
        blocks_per_segment: 1,
        segments,
    }
}

/// A node that was started on an image, and the configuration that it holds.
pub(crate) struct Booted {
    pub(crate) node: Box<Node>,
    pub(crate) map: Box<ConfigMap>,
    torn: bool,
}

/// Runs a node on the image until it has done all that it can by itself.
pub(crate) fn boot(
    bytes: &mut [u8],
    geometry: Geometry,
    boot: Boot<'_>,
    buffer_bytes: usize,
) -> Result<Booted, Fault> {
    let (mut log_bytes, map_bytes) = (bytes_within(bytes.len()), bytes_within(bytes.len()));
    if let Boot::Found(founding) = boot {
        // As the node will have it: the flash has to hold as much.
        log_bytes = founding.limits.log_bytes as usize;
    }
    let mut node = boxed::node(log_bytes);
    let map_limits = MapLimits { bytes: (map_bytes - 64) as u32, ..fit::WIDEST };
    let mut map = fit::new_map(map_limits, u16::MAX);
    let (mut frame, mut flash) = (vec![0; FRAME_BYTES], vec![0; buffer_bytes]);
    let mut torn = false;
    // Time stands still, so that the node neither stands for election nor keeps up its flash.
    let now = Instant::ZERO;
    match node.start(now, &config(geometry), boot) {
        Ok(()) => {}
        Err(StartError::Geometry(error)) => return Err(Fault::Geometry(error)),
        Err(_) => return Err(Fault::Geometry(quorate::wal::GeometryError::Word)),
    }
    for _ in 0..STEPS_MAX {
        let output = node.poll_output(now, &mut frame, &mut flash);
        if serve(&mut node, &mut *map, &output, &frame, &mut flash) {
            continue;
        }
        match output {
            Output::Flash(op) => {
                let done = perform(bytes, geometry.erased, op, &mut flash);
                node.handle_flash(now, done);
            }
            Output::Event(Event::Started { torn: found, .. }) => torn |= found,
            Output::Wait { .. } => break,
            _ => {}
        }
    }
    let status = node.status();
    if let Some(fault) = status.fault {
        return Err(fault);
    }
    if !status.running {
        return Err(Fault::Snapshot);
    }
    Ok(Booted { node, map, torn })
}

/// What a board makes of a copy of the image.
fn mount(image: &[u8], geometry: Geometry) -> Result<BoardImage, Fault> {
    let booted = boot(&mut image.to_vec(), geometry, Boot::Mount, FLASH_BUFFER_BYTES)?;
    let Booted { node, map, torn } = booted;
    let mut content = Content::new();
    let mut revisions = BTreeMap::new();
    for item in map.iter() {
        content.insert(item.key.into(), Value::from(item.value));
        revisions.insert(item.key.into(), item.revision);
    }
    Ok(BoardImage {
        geometry,
        status: node.status(),
        limits: *node.limits(),
        members: node.members().to_vec(),
        torn,
        content,
        revisions,
        revision: map.revision(),
        hash: map.hash(),
    })
}

/// Carries out a flash operation on the copy.
pub(crate) fn perform(image: &mut [u8], erased: u8, op: FlashOp, buffer: &mut [u8]) -> FlashDone {
    let (FlashOp::Read { offset, len }
    | FlashOp::Write { offset, len }
    | FlashOp::Erase { offset, len }) = op;
    let Some(place) =
        image.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..len as usize))
    else {
        return FlashDone::Failed;
    };
    match (op, buffer.get_mut(..len as usize)) {
        (FlashOp::Erase { .. }, _) => place.fill(erased),
        (FlashOp::Read { .. }, Some(buffer)) => buffer.copy_from_slice(place),
        (FlashOp::Write { .. }, Some(buffer)) => place.copy_from_slice(buffer),
        _ => return FlashDone::Failed,
    }
    FlashDone::Ok
}

/// A link and timeouts that suit any cluster: nothing is ever sent.
fn config(geometry: Geometry) -> Config {
    let link = Link {
        bits_per_second: 100_000_000,
        frame_bytes: u16::MAX,
        fragment_bytes: 0,
        overhead_bytes: 0,
        turnaround_us: 0,
        duty_permille: 1000,
        broadcast: true,
    };
    let flash = Flash { geometry, word_us: 0, erase_ms_max: 0, stalls: false };
    Config::new(link, flash, MEMBERS_MAX as u8, 0)
}

pub(crate) fn explain(fault: Fault) -> ImageError {
    match fault {
        Fault::Mount(MountError::Corrupt { segment, offset }) => {
            ImageError::Damaged { segment, offset }
        }
        Fault::Mount(e @ (MountError::Older { .. } | MountError::Newer { .. })) => {
            ImageError::Version(e)
        }
        Fault::Mount(e) => ImageError::NotALog(e),
        fault => ImageError::Unusable(fault),
    }
}
