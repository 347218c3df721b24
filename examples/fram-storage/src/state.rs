//! The state: what counts of a medium, in one block that is there twice.
//!
//! Its fields, in this order: bytes of the medium, cluster, member, generation · term, vote, commit index, the board's
//! note · the bank that counts, the last entry of the snapshot (index, term), its bytes, their checksum · bytes of its
//! pieces with their heads, bytes of the entries, their checksum.

use crc::{CRC_32_ISCSI, Crc, Table};
use quorate::wal::{HardState, SnapshotInfo};
use quorate::{ClusterId, EntryId, Generation, Identity, Index, NodeId, Term};

/// The version of the layout that this code writes, and the only one that it reads.
pub const VERSION: u8 = 1;
/// What a medium begins with.
pub const MARK: [u8; 8] = [b'q', b'u', b'o', b'r', b'a', b't', b'e', VERSION];
/// Where the first copy of the state is.
pub const SLOTS_AT: u32 = MARK.len() as u32;
/// What each copy takes.
pub const SLOT_BYTES: usize = 96;
/// Where the first bank is.
pub const BANKS_AT: u32 = 256;

static CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

/// CRC-32C of `bytes` behind whatever has the checksum `before`; from zero it is the usual one.
pub(crate) fn checksum(before: u32, bytes: &[u8]) -> u32 {
    let mut digest = CRC.digest_with_initial((!before).reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

/// Copies as much as both hold: no length can be wrong, so nothing can panic.
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

/// One of the two copies of the state.
// Numbered from 1, so that none of them is all zeros.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    First = 1,
    Second,
}

impl Slot {
    /// Where it is.
    pub(crate) const fn at(self) -> u32 {
        match self {
            Self::First => SLOTS_AT,
            Self::Second => SLOTS_AT.saturating_add(SLOT_BYTES as u32),
        }
    }
}

/// What the medium says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The size that it was laid out for.
    pub(crate) medium_bytes: u32,
    /// Whose it is; nobody's before it is founded, which is never written.
    pub(crate) owner: Option<Identity>,
    pub(crate) hard_state: HardState,
    /// What the board wants to be remembered.
    pub(crate) note: u32,
    /// The bank that counts.
    pub(crate) bank: u8,
    pub(crate) snapshot: SnapshotInfo,
    /// What its pieces take, with their heads.
    pub(crate) pieces_bytes: u32,
    /// What the entries behind them take, and their checksum.
    pub(crate) entries_bytes: u32,
    pub(crate) entries_crc: u32,
}

/// The fields in the order in which they are written.
type Fields = (
    (u32, ClusterId, NodeId, Generation),
    (Term, Option<NodeId>, Index, u32),
    (u8, EntryId, u32, u32),
    (u32, u32, u32),
);

impl State {
    /// Before the founding; all zeros.
    pub(crate) const NONE: Self = Self {
        medium_bytes: 0,
        owner: None,
        hard_state: HardState { term: Term::ZERO, vote: None, commit: Index::ZERO },
        note: 0,
        bank: 0,
        snapshot: SnapshotInfo { id: EntryId::ZERO, bytes: 0, crc: 0 },
        pieces_bytes: 0,
        entries_bytes: 0,
        entries_crc: 0,
    };

    /// Fills a slot.
    pub(crate) fn encode(&self, slot: &mut [u8]) {
        slot.fill(0);
        let Some((crc, body)) = slot.split_at_mut_checked(4) else {
            return;
        };
        if let Some(Identity { cluster, node, generation }) = self.owner {
            let HardState { term, vote, commit } = self.hard_state;
            let SnapshotInfo { id, bytes, crc } = self.snapshot;
            let fields: Fields = (
                (self.medium_bytes, cluster, node, generation),
                (term, vote, commit, self.note),
                (self.bank, id, bytes, crc),
                (self.pieces_bytes, self.entries_bytes, self.entries_crc),
            );
            // It fits, whatever the counters have grown to.
            let _ = postcard::to_slice(&fields, body);
        }
        copy(crc, &checksum(0, body).to_le_bytes());
    }

    /// What a slot holds; nothing if it is not whole.
    pub(crate) fn decode(slot: &[u8]) -> Option<Self> {
        let (crc, body) = slot.split_at_checked(4)?;
        if crc != checksum(0, body).to_le_bytes() {
            return None;
        }
        let (fields, _) = postcard::take_from_bytes::<Fields>(body).ok()?;
        let (owner, (term, vote, commit, note), snapshot, sizes) = fields;
        Some(Self {
            medium_bytes: owner.0,
            owner: Some(Identity { cluster: owner.1, node: owner.2, generation: owner.3 }),
            hard_state: HardState { term, vote, commit },
            note,
            bank: snapshot.0 & 1,
            snapshot: SnapshotInfo { id: snapshot.1, bytes: snapshot.2, crc: snapshot.3 },
            pieces_bytes: sizes.0,
            entries_bytes: sizes.1,
            entries_crc: sizes.2,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_state_fits_its_slot_and_reads_back() {
        let node = NodeId::new(NodeId::MAX);
        let (cluster, generation) = (ClusterId([255; 4]), Generation(u16::MAX));
        let index = Index(u64::MAX);
        let largest = State {
            medium_bytes: u32::MAX,
            owner: node.map(|node| Identity { cluster, node, generation }),
            hard_state: HardState { term: Term(u64::MAX), vote: node, commit: index },
            note: u32::MAX,
            bank: 1,
            snapshot: SnapshotInfo {
                id: EntryId::new(index, Term(u64::MAX)),
                bytes: u32::MAX,
                crc: u32::MAX,
            },
            pieces_bytes: u32::MAX,
            entries_bytes: u32::MAX,
            entries_crc: u32::MAX,
        };
        let mut slot = [0xaa; SLOT_BYTES];
        largest.encode(&mut slot);
        assert_eq!(State::decode(&slot), Some(largest));
    }
}
