//! How the log in an image is laid out, told by the image alone.

use quorate::flash::Geometry;
use quorate::wal::MountError;
use quorate::wal::inspect::{Kind, Records, VERSION};

use crate::image::{ImageError, layout};

/// Segments begin at multiples of this.
const BLOCK_UNIT: usize = 128;
/// A record begins with its checksum, the bytes of its body, and its tag.
const RECORD_HEAD_BYTES: usize = 7;
/// The bits of a tag that are the kind, and the kind of a segment's first record.
const KIND: u8 = 0xf0;
const OPEN: u8 = 0x50;

/// How the log in the image is laid out, as the first records of its segments tell it.
pub(crate) fn find_layout(image: &[u8]) -> Result<Geometry, ImageError> {
    let mut candidates: Vec<((u8, u32, u8), u32)> = vec![];
    let (mut other_version, mut other_length) = (None, None);
    // Where the first record is none, the next one is of no interest.
    let coarse = layout(0xff, 32, image.len() as u32, 1);
    for at in (0..image.len()).step_by(BLOCK_UNIT) {
        let Some(&[.., low, high, tag]) = image[at..].first_chunk::<RECORD_HEAD_BYTES>() else {
            continue;
        };
        let end = at + RECORD_HEAD_BYTES + usize::from(u16::from_le_bytes([low, high]));
        if tag & KIND != OPEN || end > image.len() {
            continue;
        }
        let first = Records::new(&coarse, &image[at..end]).next();
        let Some(first) = first.filter(|first| first.kind == Kind::Open) else { continue };
        if first.says.version > VERSION {
            other_version.get_or_insert(MountError::Newer { version: first.says.version });
            continue;
        }
        if first.says.version < VERSION {
            other_version.get_or_insert(MountError::Older { version: first.says.version });
            continue;
        }
        let word = 1u8 << (first.says.geometry & 7).min(5);
        let segments = (first.says.geometry >> 3 & 31) as u8 + 1;
        let segment_bytes = (first.says.geometry >> 8) << 7;
        let bytes = u64::from(segment_bytes) * u64::from(segments);
        if bytes != image.len() as u64 || !at.is_multiple_of(segment_bytes.max(1) as usize) {
            other_length.get_or_insert((segments, segment_bytes, image.len()));
            continue;
        }
        let it = (word, segment_bytes, segments);
        match candidates.iter_mut().find(|(known, _)| *known == it) {
            Some((_, count)) => *count += 1,
            None => candidates.push((it, 1)),
        }
    }
    if let Some(((word, segment_bytes, segments), _)) =
        candidates.into_iter().max_by_key(|(_, count)| *count)
    {
        let geometry = layout(0xff, word, segment_bytes, segments);
        return Ok(Geometry { erased: blank_value(image, &geometry), ..geometry });
    }
    let blank = [0x00, 0xff].iter().any(|blank| image.iter().all(|byte| byte == blank));
    Err(match (other_version, other_length) {
        _ if image.is_empty() => ImageError::Length { bytes: 0 },
        _ if blank => ImageError::Blank,
        (Some(error), _) => ImageError::Version(error),
        (None, Some((segments, segment_bytes, bytes))) => {
            ImageError::Partition { segments, segment_bytes, bytes }
        }
        (None, None) => ImageError::NotALog(MountError::Foreign),
    })
}

/// What an erased byte reads as: what records are padded with, and what is left of their segments. A log may be full of the
/// other value, and so may be what an erase that was cut short has left.
fn blank_value(image: &[u8], geometry: &Geometry) -> u8 {
    let (mut ones, mut zeros) = (0, 0);
    let mut count = |bytes: &[u8]| {
        ones += bytes.iter().filter(|byte| **byte == 0xff).count();
        zeros += bytes.iter().filter(|byte| **byte == 0).count();
    };
    for segment in image.chunks(geometry.segment_bytes() as usize) {
        let mut end = segment.len();
        for record in Records::new(geometry, segment) {
            let from = (record.offset + record.bytes) as usize;
            end = geometry.padded(from as u32) as usize;
            count(segment.get(from..end).unwrap_or_default());
        }
        // What was torn there does not reach the end.
        let rest = segment.get(end..).unwrap_or_default();
        let blank = rest.iter().rev().take_while(|byte| Some(*byte) == rest.last()).count();
        count(&rest[rest.len() - blank..]);
    }
    if ones >= zeros { 0xff } else { 0x00 }
}
