//! Bits that flip, buses that fail.

use crate::board::{BANK_BYTES, Board, Event};
use quorate::storage::Storage;
use quorate::wal::{MountError, Progress, WalFault};

/// A board with all that a medium can hold, some of it dead.
fn lived() -> Board {
    let mut board = Board::founded(1);
    let life = [
        Event::Batch,
        Event::Vote,
        Event::BeginSnapshot,
        Event::EndSnapshot,
        Event::Append,
        Event::Conflict,
        Event::Batch,
        Event::BeginSnapshot,
        Event::Piece,
        Event::Abort,
    ];
    for event in life {
        board.happens(event).unwrap();
        board.settle().unwrap();
    }
    board
}

#[test]
fn any_flipped_bit_is_harmless_or_told() {
    let mut board = lived();
    let sound = board.medium.clone();
    let (mut harmless, mut mended, mut told) = (0, 0, 0);
    for bit in 0..sound.bytes.len() * 8 {
        board.medium.bytes.clone_from(&sound.bytes);
        board.medium.bytes[bit / 8] ^= 1 << (bit % 8);
        let damaged = board.medium.bytes.clone();
        match board.refused() {
            // What is shown is then compared with what was confirmed.
            None => {
                board.boot().unwrap();
                let is_state = (8..200).contains(&(bit / 8));
                assert_eq!(is_state, board.medium.bytes == sound.bytes, "bit {bit}");
                *(if is_state { &mut mended } else { &mut harmless }) += 1;
            }
            Some(error) => {
                let in_mark = matches!(error, MountError::Foreign | MountError::Newer { .. });
                let in_mark = in_mark || matches!(error, MountError::Older { .. });
                let in_data = matches!(error, MountError::Corrupt { offset: 256.., .. });
                assert!(if bit < 64 { in_mark } else { in_data }, "bit {bit}: {error:?}");
                assert_eq!(board.medium.bytes, damaged, "damage is left as it is");
                told += 1;
            }
        }
    }
    assert_eq!(mended, 2 * 96 * 8);
    assert!(harmless > 8000 && told > 900, "{harmless} {told}");
}

#[test]
fn a_state_of_which_neither_copy_is_whole_is_told_and_not_formatted_over() {
    let mut board = lived();
    board.medium.bytes[20] ^= 1;
    board.medium.bytes[120] ^= 1;
    assert_eq!(board.refused(), Some(MountError::Corrupt { segment: 0, offset: 8 }));
}

#[test]
fn a_snapshot_that_went_bad_since_the_mount_is_told_when_it_is_read() {
    let mut board = lived();
    let content = board.store.snapshot().unwrap().bytes;
    let sound = board.medium.bytes.clone();
    // A bit in the first piece, whichever bank it is in.
    for bank in [256, 256 + BANK_BYTES] {
        board.medium.bytes[bank + 10] ^= 0x10;
    }
    board.store.read_snapshot(content - 1, 10);
    assert_eq!(board.answer().unwrap(), Progress::ChunkUnreadable);
    board.medium.bytes = sound;
    board.store.read_snapshot(content - 1, 10);
    assert!(matches!(board.answer().unwrap(), Progress::ChunkRead { len: 1, .. }));
}

#[test]
fn a_bus_that_fails_stops_the_storage_and_loses_nothing() {
    let mut board = lived();
    board.medium.fails = true;
    board.append(10);
    let stopped = Progress::Fault(WalFault::WornOut);
    assert_eq!(board.answer().unwrap(), stopped);
    assert_eq!(board.answer().unwrap(), stopped);
    assert_eq!(board.refused(), Some(MountError::Fault(WalFault::WornOut)));
    board.medium.fails = false;
    board.boot().unwrap();
}

#[test]
fn bytes_of_any_kind_are_refused_and_read_once() {
    let mut board = Board::founded(2);
    for seed in 0..300 {
        let mut bytes = quorate_flash_lab::random::Random(seed).bytes(board.medium.bytes.len());
        // Half of them with the mark, so that they are looked at.
        if seed % 2 == 0 {
            bytes[..8].copy_from_slice(b"quorate\x01");
        }
        board.medium.bytes = bytes;
        let corrupt = Some(MountError::Corrupt { segment: 0, offset: 8 });
        let want = if seed % 2 == 0 { corrupt } else { Some(MountError::Foreign) };
        assert_eq!(board.refused(), want);
    }
}
