//! What is on a medium before there is a log, and what may be founded.

use crate::board::{Board, Event, IDENTITY, MEDIUM_BYTES, geometry};
use crate::medium::Medium;
use quorate::flash::Geometry;
use quorate::storage::Storage;
use quorate::wal::{GeometryError, MountError, Progress};
use quorate_fram::state::VERSION;
use quorate_fram::{Fram, part};

fn formatted(board: &mut Board, erase_anyway: bool) -> Progress {
    board.store.format(geometry(), board.buf.len(), IDENTITY, erase_anyway).unwrap();
    board.answer().unwrap()
}

#[test]
fn blank_memory_is_unformatted_and_can_be_founded() {
    for blank in [0, 0xff] {
        let mut board = Board::on(Medium::new(MEDIUM_BYTES, blank), 1);
        assert_eq!(board.refused(), Some(MountError::Unformatted));
        assert_eq!(board.medium.writes, [0; 0], "a mount changes nothing");
        board.found().unwrap();
        board.boot().unwrap();
    }
}

#[test]
fn data_of_somebody_else_anywhere_is_foreign_and_not_formatted_over() {
    for at in [1, 8, 199, 255, 256, 900, MEDIUM_BYTES - 1] {
        for blank in [0, 0xff] {
            let mut medium = Medium::new(MEDIUM_BYTES, blank);
            medium.bytes[at] = 0x42;
            let mut board = Board::on(medium.clone(), 1);
            assert_eq!(board.refused(), Some(MountError::Foreign), "{at}");
            assert_eq!(formatted(&mut board, false), Progress::Refused(MountError::NotBlank));
            assert_eq!(board.medium.bytes, medium.bytes);
            assert_eq!(formatted(&mut board, true), Progress::Formatted);
            assert_eq!(board.refused(), Some(MountError::Unformatted));
        }
    }
}

#[test]
fn a_log_is_not_formatted_over_unless_it_is_said() {
    let mut board = Board::founded(1);
    let before = board.medium.bytes.clone();
    assert_eq!(formatted(&mut board, false), Progress::Refused(MountError::NotBlank));
    assert_eq!(board.medium.bytes, before);
    board.boot().unwrap();
    assert_eq!(formatted(&mut board, true), Progress::Formatted);
    assert_eq!(board.refused(), Some(MountError::Unformatted));
}

#[test]
fn a_format_over_a_log_leaves_the_old_log_or_none_wherever_it_is_cut() {
    for byte in 0..=256 {
        let mut board = Board::founded(byte as u64);
        board.store.format(geometry(), board.buf.len(), IDENTITY, true).unwrap();
        board.medium.fuse = Some((0, byte));
        board.answer().unwrap_err();
        match board.refused() {
            None => board.boot().map(drop).unwrap(),
            // The byte of the mark in which the power went.
            Some(error) if byte < 8 => assert_ne!(error, MountError::Unformatted),
            Some(error) => assert_eq!(error, MountError::Unformatted, "{byte}"),
        }
    }
}

#[test]
fn another_version_and_another_size_are_told_apart() {
    let mut board = Board::founded(1);
    board.medium.bytes[7] = 2;
    assert_eq!(board.refused(), Some(MountError::Newer { version: 2 }));
    board.medium.bytes[7] = 0;
    assert_eq!(board.refused(), Some(MountError::Older { version: 0 }));
    board.medium.bytes[7] = 1;
    let larger = part(MEDIUM_BYTES as u32 + 2, 9).geometry;
    board.medium.bytes.extend([0xff; 2]);
    board.store.mount(larger, board.buf.len()).unwrap();
    let segment_bytes = MEDIUM_BYTES as u32;
    let error = MountError::OtherGeometry { word_bytes: 1, segment_bytes, segments: 1 };
    assert_eq!(board.answer().unwrap(), Progress::Refused(error));
}

#[test]
fn a_log_in_ram_or_a_buffer_that_is_too_small_is_refused_with_what_would_do() {
    let mut board = Board::founded(1);
    for _ in 0..10 {
        board.append(30);
    }
    board.settle().unwrap();
    let used = board.log.bytes_used();
    board.log = Box::new(quorate::log::Log::<[u8; 300]>::new());
    assert_eq!(board.refused(), Some(MountError::LogTooSmall { bytes_needed: used }));
    let short = board.store.mount(geometry(), 255);
    assert_eq!(short, Err(GeometryError::BufferBytes { min: 256 }));
}

#[test]
fn memory_that_does_not_hold_a_log_and_a_snapshot_twice_is_refused_with_what_would_do() {
    let geometry = part(4096, 9).geometry;
    assert_eq!(Fram::check(&geometry, 256, 1920), Ok(()));
    let small = GeometryError::SegmentBytes { min: 256 + 2 * 1921, max: u32::MAX };
    assert_eq!(Fram::check(&geometry, 256, 1921), Err(small));
    let words = Geometry { word_bytes: 4, ..geometry };
    assert_eq!(Fram::check(&words, 256, 0), Err(GeometryError::Word));
}

#[test]
fn a_medium_of_this_version_has_these_bytes() {
    let mut board = Board::founded(1);
    board.append(20);
    board.happens(Event::Vote).unwrap();
    board.settle().unwrap();
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&board.medium.bytes);
    // If it differs, boards in the field can't be mounted any more: that asks for a new version.
    assert_eq!((VERSION, crc), (1, 0x2f5f_f87e));
}
