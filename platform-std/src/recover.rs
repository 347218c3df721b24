//! A cluster that has lost its majority for good is founded again out of one board's image (etcd's forced new cluster).
//!
//! The board's log is mounted, everything in it is applied as if it were committed, and a cluster of this board alone is
//! founded in a new image, with that state. It has an identity of its own: boards of the old cluster that come
//! back after all are strangers to it, and it to them.

use quorate::node::{Boot, Status};
use quorate::wal::inspect::Kind;
use quorate::{ClusterId, NodeSet};

use crate::image::{self, BoardImage, FLASH_BUFFER_BYTES, ImageError};
use crate::wal_image;

/// What is known before: where the new cluster would begin, and what may be lost.
#[derive(Clone, Debug)]
pub struct Prospect {
    /// The board as it is.
    pub board: BoardImage,
    /// The longest record of its log, bytes: its flash buffer holds as much.
    buffer_bytes: usize,
}

impl Prospect {
    /// Looks at an image.
    ///
    /// # Errors
    /// It is no image, or a damaged one.
    pub fn of(image: &[u8]) -> Result<Self, ImageError> {
        let board = image::read(image)?;
        let log = wal_image::read(image)?;
        let opened = log.records.iter().filter(|record| record.kind == Kind::Open);
        let longest = opened.map(|record| record.says.all.record_max as usize).max();
        Ok(Self { board, buffer_bytes: longest.unwrap_or(FLASH_BUFFER_BYTES) })
    }

    fn status(&self) -> &Status {
        &self.board.status
    }

    /// Entries in its log that the board did not know to be committed: they will take effect.
    pub fn undecided(&self) -> u64 {
        self.status().last.index.0.saturating_sub(self.status().commit.0)
    }

    /// The other members, which will be strangers.
    pub fn others(&self) -> NodeSet {
        let own = self.status().id.map_or(NodeSet::EMPTY, NodeSet::one);
        self.status().membership.members().difference(own)
    }

    /// The image of a board that begins the cluster `cluster` alone, with all that `image` holds.
    ///
    /// # Errors
    /// The board can't go on with what its image holds.
    pub fn recover(&self, image: &[u8], cluster: ClusterId) -> Result<Vec<u8>, ImageError> {
        let mut bytes = image.to_vec();
        let boot = Boot::Recover { cluster };
        image::boot(&mut bytes, self.board.geometry, boot, self.buffer_bytes)
            .map_err(image::explain)?;
        Ok(bytes)
    }
}
