//! How much a board keeps in its flash: up to all that the log takes on there.

use crate::random::Random;
use quorate::flash::Geometry;
use quorate::wal::{CHUNK_OVERHEAD_BYTES_MAX, SNAP_DATA_AT, Wal};

/// The log in RAM holds no more, with room for an entry that is put in before it is seen to be too long.
const LOG_BYTES_MAX: u32 = 3_800;
/// An entry's head.
const HEAD_BYTES: usize = 12;

/// What a board keeps at once.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes of entries, as the log in RAM counts them.
    pub entries: usize,
    /// Bytes of flash that the chunks of a snapshot take.
    pub snapshot: u32,
    /// Of both at once.
    pub live: u32,
    /// Bytes in a chunk; without it, any number.
    pub piece: Option<usize>,
    /// Bytes in an entry; without it, any number.
    pub entry: Option<usize>,
    word: u32,
    piece_max: u64,
}

impl Load {
    /// What a board keeps there at most, with records of such a length, if so many of the segments may come to fail.
    ///
    /// # Panics
    /// Not even the least fits.
    pub fn most(geometry: &Geometry, record: usize, failures: u32) -> u32 {
        let left = Geometry { segments: geometry.segments - failures as u8, ..*geometry };
        let fits = |live: &u32| Wal::check(&left, record, *live).is_ok();
        let (mut most, mut more) = (0, geometry.bytes());
        assert!(fits(&most) && !fits(&more), "the lab itself: {left:?}");
        while more - most > 1 {
            let middle = most.midpoint(more);
            *(if fits(&middle) { &mut most } else { &mut more }) = middle;
        }
        most
    }

    /// A share of what fits, often all of it.
    pub fn draw(geometry: &Geometry, buffer: usize, failures: u32, random: &mut Random) -> Self {
        let mut wal = Wal::new();
        assert!(wal.mount(*geometry, buffer).is_ok(), "the lab itself: {geometry:?}");
        let piece_max = wal.chunk_bytes_max();
        let most = u64::from(Self::most(geometry, SNAP_DATA_AT + piece_max, failures));
        let live = if random.one_in(2) { most } else { random.below(most) };
        let entries = random.below(live + 1).min(u64::from(LOG_BYTES_MAX)) as u32;
        let piece_max = piece_max as u64;
        // As long as a frame carries, as the buffer takes, of one length, or of any.
        let piece = match random.below(4) {
            0 => None,
            1 => Some(piece_max as usize),
            2 => Some(1 + random.below(piece_max) as usize),
            _ => Some(piece_max.min(32 + random.below(200)) as usize),
        };
        // Entries that are all alike fill a record, or are a little too long for one more of them.
        let shares = wal.entry_bytes_max() as u64 / (1 + random.below(4));
        let entry = Some(shares.saturating_sub(random.below(24)) as usize);
        let entry = entry.filter(|_| random.one_in(3));
        let word = u32::from(geometry.word_bytes);
        let (live, snapshot) = (live as u32, live as u32 - entries);
        Self { entries: entries as usize, snapshot, live, piece, entry, word, piece_max }
    }

    /// Can so many bytes of one more entry be kept beside these?
    pub const fn takes(&self, used: usize, len: usize) -> bool {
        used + len + HEAD_BYTES <= self.entries
    }

    /// The lengths of a snapshot's chunks: any number of them, or as many as fit.
    pub fn chunks(&self, random: &mut Random) -> Vec<usize> {
        let mut left = u64::from(self.snapshot);
        if random.one_in(2) {
            left = random.below(left + 1);
        }
        let mut chunks = vec![];
        loop {
            let len = self.piece.unwrap_or_else(|| 1 + random.below(self.piece_max) as usize);
            let takes = |len| {
                u64::from((len as u32 + CHUNK_OVERHEAD_BYTES_MAX).next_multiple_of(self.word))
            };
            let Some(rest) = left.checked_sub(takes(len)) else {
                // What is left of it.
                let len = left.saturating_sub(takes(0)) as usize;
                if len > 0 && takes(len) <= left {
                    chunks.push(len);
                }
                return chunks;
            };
            left = rest;
            chunks.push(len);
        }
    }
}
