//! Images that are damaged, foreign, of another version or geometry, or nothing but noise.

use crate::board::{Board, IDENTITY, Stop};
use crate::flash::{Faults, Flash};
use crate::image::{Flips, flips, founded, geometry, last_record, lived, shown};
use crate::random::Random;
use quorate::flash::Geometry;
use quorate::wal::inspect::Records;
use quorate::wal::{GeometryError, MountError, Progress, SNAP_DATA_AT, Wal};
use quorate::{EntryId, Index, NodeId, Term};

#[test]
fn no_flipped_bit_of_a_sealed_image_passes_in_silence() {
    for (word, step) in [(1, 13), (4, 3), (32, 13)] {
        let (before, after) = last_record(word, true);
        let Flips { harmless, reported, older, last_record, silent } = flips(&before, &after, step);
        assert!(reported > 500 && older > 200 && harmless > 2_000);
        assert_eq!((silent, last_record), (vec![], 0));
    }
}

#[test]
fn without_a_seal_only_a_flip_in_the_very_last_record_passes_for_a_torn_write() {
    let (before, after) = last_record(4, false);
    let Flips { reported, last_record, silent, .. } = flips(&before, &after, 5);
    assert!(reported > 1_000);
    assert_eq!(silent, vec![]);
    // The last record holds one entry of 40 bytes.
    assert!(last_record > 0 && last_record <= 48 * 8 / 5 + 1, "{last_record}");
}

#[test]
fn a_word_that_cannot_be_read_is_like_a_damaged_one_and_spoils_nothing_else() {
    let mut board = lived(8);
    board.want.idle = true;
    board.settle().unwrap();
    let sound = shown(board.flash.clone()).unwrap();
    let (mut harmless, mut reported) = (0, 0);
    for word in 0..board.flash.bytes.len() / 8 {
        let mut flash = board.flash.clone();
        flash.unreadable.insert(word);
        match shown(flash) {
            Ok(same) if same == sound => harmless += 1,
            Ok(older) if older.snapshot != sound.snapshot => {}
            Err(MountError::Corrupt { .. }) => reported += 1,
            other => panic!("word {word}: {other:?}"),
        }
    }
    assert!(harmless > 400 && reported > 80, "{harmless} {reported}");
}

#[test]
fn arbitrary_bytes_end_in_an_answer_after_a_bounded_number_of_reads() {
    let mut random = Random(5);
    let sound = lived(4);
    let mut most = 0;
    for round in 0..400 {
        let word = [1, 4, 8, 32][round % 4];
        let mut flash = Flash::new(geometry(word, 5), Faults::MILD);
        if round % 2 == 0 {
            flash.bytes.copy_from_slice(&sound.flash.bytes);
        }
        let changes = 1 + random.below(200);
        for _ in 0..if round % 5 == 0 { 20_000 } else { changes } {
            let at = random.below(flash.bytes.len() as u64) as usize;
            flash.bytes[at] = random.draw() as u8;
        }
        let mut board = Board::new(flash, 512, 3);
        board.wal.mount(board.geometry(), 512).unwrap();
        let _ = board.wal.poll(&board.want, &mut board.log, &mut board.buf);
        board.wal.mount(board.geometry(), 512).unwrap();
        let answer = board.step();
        assert!(matches!(answer, Ok(Progress::Mounted(_) | Progress::Refused(_))), "{answer:?}");
        most = most.max(board.flash.counters.reads);
    }
    assert!(most < 20_000, "{most} reads");
}

#[test]
fn a_damaged_newest_snapshot_gives_way_to_the_older_one_while_the_log_still_reaches_it() {
    let mut board = lived(4);
    let newest = [9u8; 64];
    let at = board.flash.bytes.windows(64).position(|bytes| bytes == newest).unwrap();
    board.flash.bytes[at + 20] ^= 4;
    let shown = shown(board.flash.clone()).unwrap();
    assert_eq!(shown.snapshot, EntryId::ZERO);
    assert_eq!(shown.content.as_deref(), Some(&b"founded"[..]));
    assert_eq!(shown.log.keys().copied().collect::<Vec<_>>(), (1..=25).collect::<Vec<_>>());
    // The segment with the older one is erased: now nothing is left to fall back to.
    let first = board.flash.bytes.windows(3).position(|bytes| bytes == b"fou").unwrap();
    let segment = first / 2048 * 2048;
    if segment != at / 2048 * 2048 {
        board.flash.bytes[segment..segment + 2048].fill(0xff);
        assert!(matches!(crate::image::shown(board.flash), Err(MountError::Corrupt { .. })));
    }
}

#[test]
fn a_damaged_snapshot_of_a_leaders_never_gives_way_to_the_log_that_it_had_made_void() {
    for index in [2, 100] {
        let mut board = founded(4, 6);
        for i in 0..4u8 {
            board.append(1, &[i; 40]);
            board.settle().unwrap();
        }
        assert!(board.take_snapshot(EntryId::new(Index(index), Term(3)), &[9; 64], true).unwrap());
        board.want.idle = true;
        board.settle().unwrap();
        let at = board.flash.bytes.windows(8).position(|bytes| bytes == [9; 8]).unwrap();
        board.flash.bytes[at] ^= 1;
        let refused = shown(board.flash);
        assert!(matches!(refused, Err(MountError::Corrupt { .. })), "{index}: {refused:?}");
    }
}

#[test]
fn other_versions_and_geometries_are_told_apart_and_nothing_is_changed() {
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    for (version, error) in
        [(2, MountError::Newer { version: 2 }), (0, MountError::Older { version: 0 })]
    {
        let mut flash = lived(4).flash;
        for segment in 0..5 {
            // The first record: checksum, length, tag, version.
            let open = &mut flash.bytes[segment * 2048..(segment + 1) * 2048];
            if open[6] & 0xf0 == 0x50 {
                let end = 7 + usize::from(u16::from_le_bytes([open[4], open[5]]));
                open[7] = version;
                let sum = crc.checksum(&open[4..end]).to_le_bytes();
                open[..4].copy_from_slice(&sum);
            }
        }
        let before = flash.bytes.clone();
        let mut board = Board::new(flash, 512, 1);
        let refused = board.mount();
        assert!(matches!(refused, Err(Stop::Refused(found)) if found == error), "{refused:?}");
        assert_eq!(board.flash.bytes, before);
    }
    let mut board = lived(4);
    board.flash.geometry.segments = 3;
    let other = MountError::OtherGeometry { word_bytes: 4, segment_bytes: 2048, segments: 5 };
    let refused = board.mount();
    assert!(matches!(refused, Err(Stop::Refused(found)) if found == other), "{refused:?}");
}

#[test]
fn geometries_that_cannot_work_are_refused_with_what_would() {
    let good = geometry(4, 5);
    let mut wal = Wal::new();
    let mut refused = |geometry: Geometry, buffer: usize| wal.mount(geometry, buffer).unwrap_err();
    assert_eq!(refused(Geometry { word_bytes: 3, ..good }, 512), GeometryError::Word);
    assert_eq!(refused(Geometry { word_bytes: 64, ..good }, 512), GeometryError::Word);
    assert_eq!(refused(Geometry { page_bytes: 2, ..good }, 512), GeometryError::Page);
    assert_eq!(refused(Geometry { block_bytes: 100, ..good }, 512), GeometryError::Block);
    assert_eq!(
        refused(Geometry { segments: 2, ..good }, 512),
        GeometryError::Segments { min: 3, max: 32 }
    );
    assert!(matches!(
        refused(Geometry { block_bytes: 128, ..good }, 512),
        GeometryError::SegmentBytes { min: 1032, .. }
    ));
    assert_eq!(refused(good, 255), GeometryError::BufferBytes { min: 256 });
    let many = Geometry { block_bytes: 128, blocks_per_segment: 16, ..good };
    wal.mount(many, 512).unwrap();
}

/// Whoever follows the numbers in refusals comes to a ring that is accepted.
#[test]
fn a_geometry_too_small_is_refused_with_numbers_that_do() {
    let mut refused = 0;
    for (word, block) in [(1, 128), (4, 1024), (8, 2048), (32, 4096), (4, 256 << 10)] {
        for segments in [0, 3, 4, 7, 32] {
            for buffer in [0, 512, 2048, 4096] {
                for live in [0, 700, 5_000, 100_000, 2_000_000] {
                    let mut geometry = Geometry { block_bytes: block, ..geometry(word, segments) };
                    let mut buffer = buffer;
                    let mut steps = 0;
                    while let Err(error) = Wal::check(&geometry, buffer, live) {
                        (refused, steps) = (refused + 1, steps + 1);
                        assert!(steps < 8, "{geometry:?}, {buffer}, {live}: {error:?}");
                        match error {
                            GeometryError::Segments { min, .. } => geometry.segments = min,
                            GeometryError::BufferBytes { min } => buffer = min,
                            GeometryError::SegmentBytes { min, max } => {
                                assert!(min <= max);
                                geometry.blocks_per_segment = min.div_ceil(block) as u16;
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                }
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn a_buffer_that_is_too_short_for_the_records_is_refused_with_the_length() {
    let mut board = lived(4);
    board.wal.mount(board.geometry(), 256).unwrap();
    board.buf.truncate(256);
    let answer = board.step().unwrap();
    assert_eq!(answer, Progress::Refused(MountError::BufferTooSmall { bytes_needed: 512 }));
}

/// A board is given a longer buffer, and then the old one again: with or without a seal, what the longer one wrote is not
/// taken for a torn write, nor for rot.
#[test]
fn a_buffer_that_was_longer_for_a_while_is_asked_for_again() {
    for (sealed, len) in [(false, 1000), (true, 1000), (false, 20)] {
        let mut board = founded(4, 6);
        board.append(1, &[7; 40]);
        board.want.idle = true;
        board.settle().unwrap();
        board.buf = vec![0; 1400];
        board.mount().unwrap();
        board.want.idle = sealed;
        for entry in [vec![9; len], vec![8; 1000]] {
            assert!(board.append(1, &entry));
            board.settle().unwrap();
        }
        assert_eq!(board.log.durable(), Index(3));
        let sound = board.without_power();
        board.buf = vec![0; 512];
        board.wal.mount(board.geometry(), 512).unwrap();
        let answer = board.step().unwrap();
        assert_eq!(answer, Progress::Refused(MountError::BufferTooSmall { bytes_needed: 1400 }));
        let mut board = sound;
        board.mount().unwrap();
        assert_eq!(board.log.last().index, Index(3));
    }
}

/// A byte rots, by which a record looks like a chunk of a snapshot: such a one could be missed, this one can't. One bit does
/// that to a checkpoint, without which the log is what a leader's snapshot had made void, or nothing that was ever founded.
#[test]
fn no_other_record_passes_for_a_damaged_chunk() {
    let mut board = founded(4, 6);
    let mut life = |installed: bool| {
        for i in 0..3u8 {
            board.append(2, &[i; 30]);
            board.settle().unwrap();
        }
        let id = EntryId::new(Index(board.log.last().index.0 + u64::from(installed)), Term(2));
        assert!(board.take_snapshot(id, &[9; 64], installed).unwrap());
    };
    life(false);
    life(true);
    board.append(3, b"behind it");
    board.set_hard_state(4, NodeId::new(2));
    board.set_note(5);
    board.want.idle = true;
    board.settle().unwrap();
    let sound = shown(board.flash.clone()).unwrap();
    let (mut harmless, mut reported) = (0, 0);
    for start in (0..board.flash.bytes.len()).step_by(2048) {
        for record in Records::new(&board.geometry(), &board.flash.bytes[start..start + 2048]) {
            let mut flash = board.flash.clone();
            flash.bytes[start + record.offset as usize + 6] = 0x10;
            match shown(flash) {
                Ok(same) if same == sound => harmless += 1,
                Err(MountError::Corrupt { .. }) => reported += 1,
                other => panic!("{:?} at {start} + {}: {other:?}", record.kind, record.offset),
            }
        }
    }
    assert!(harmless > 2 && reported > 8, "{harmless} {reported}");
}

/// Where words can't be read any more instead of being wrong, too.
#[test]
fn a_newest_snapshot_that_cannot_be_read_gives_way_to_the_older_one() {
    let board = lived(8);
    let at = board.flash.bytes.windows(64).position(|bytes| bytes == [9; 64]).unwrap();
    let mut flash = board.flash.clone();
    flash.unreadable.insert(at / 8 + 2);
    let older = shown(flash).unwrap();
    assert_eq!((older.snapshot, older.log.len()), (EntryId::ZERO, 25));
}

#[test]
fn a_segment_that_does_not_take_a_write_is_retired_and_nothing_is_lost() {
    let mut board = founded(4, 6);
    board.append(1, b"before");
    board.settle().unwrap();
    board.flash.broken = 1 << 1 | 1 << 2;
    for i in 0..30u8 {
        board.append(1, &[i; 30]);
        board.settle().unwrap();
        assert_eq!(board.log.durable().0, u64::from(i) + 2);
    }
    assert_eq!(board.wal.status().segments_retired, 2);
    board.mount().unwrap();
    assert_eq!(board.wal.status().segments_retired, 2);
    assert_eq!(board.log.last().index, Index(31));
    board.flash.broken = 0x3f;
    board.append(1, b"never");
    let fault = (0..20).map(|_| board.step().unwrap()).find(|p| matches!(p, Progress::Fault(_)));
    assert_eq!(fault, Some(Progress::Fault(quorate::wal::WalFault::WornOut)));
}

/// The bytes of a founded log are the format: they must not change without a new version.
#[test]
fn the_first_bytes_of_a_founded_log_are_what_they_were() {
    let mut board = founded(4, 3);
    board.set_hard_state(2, NodeId::new(1));
    board.append(2, b"golden");
    board.settle().unwrap();
    let hex: String =
        board.flash.bytes[2048..2048 + 120].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN);
    assert_eq!(IDENTITY.cluster.0, *b"cafe");
    assert_eq!(SNAP_DATA_AT, 128);
}

/// The first record of the segment; a chunk; the rest of the snapshot; its checkpoint; hard state and an entry.
const GOLDEN: &str = concat!(
    "ef32e1a219005001121000000102000000000080040003636166650700000000",
    "a373fd95060010000000666f75ffffff",
    "c2c9c5fb0700100000036e646564ffff",
    "678bc75d1c00300080040003636166650720019dc18f9e00000007f689911200000000ff",
    "9259afd90d000702010000840602676f6c64656e",
);

/// The places of the segments in the order of use, by what their first records say; zero without one.
fn orders(board: &Board) -> Vec<u32> {
    let segments = board.flash.bytes.chunks(2048);
    let first = |segment| Records::new(&board.geometry(), segment).next();
    segments.map(|segment| first(segment).map_or(0, |record| record.says.seq)).collect()
}

#[test]
fn a_rotten_first_record_is_reported_also_when_those_before_it_are_gone() {
    let mut board = founded(4, 3);
    board.want.idle = true;
    assert!(board.append(1, &[1; 40]));
    board.settle().unwrap();
    let gap = (0..100).find_map(|_| {
        board.abandon_snapshot(300).unwrap();
        board.settle().unwrap();
        let orders = orders(&board);
        let (newest, most) = orders.iter().enumerate().max_by_key(|(_, seq)| **seq)?;
        (*most > 3 && !orders.contains(&(most - 1))).then_some(newest)
    });
    let newest = gap.unwrap();
    assert!(board.append(1, &[2; 40]));
    board.settle().unwrap();
    for byte in 0..7 {
        let mut flash = board.flash.clone();
        flash.bytes[newest * 2048 + byte] ^= 0x10;
        let refused = shown(flash);
        assert!(matches!(refused, Err(MountError::Corrupt { .. })), "{byte}: {refused:?}");
    }
}

#[test]
fn a_log_whose_only_first_record_is_rotten_is_damaged_and_not_foreign() {
    let mut board = founded(4, 4);
    assert!(board.append(1, &[1; 40]));
    board.settle().unwrap();
    for seq in [1, 2] {
        let mark = orders(&board).iter().position(|it| *it == seq).unwrap();
        board.flash.bytes[mark * 2048] ^= 0x10;
    }
    let refused = shown(board.flash);
    assert!(matches!(refused, Err(MountError::Corrupt { .. })), "{refused:?}");
}

/// In a ring of three that keeps two erased, one segment may hold all. Its first record is told by what stands behind it,
/// however many chunks of a snapshot come first; but for what it says itself of the layout and of its place in the order.
#[test]
fn rot_in_the_only_first_record_is_reported_wherever_its_place_can_be_told() {
    let mut board = Board::new(Flash::new(geometry(4, 3), Faults::MILD), 512, 1);
    board.wal.format(board.geometry(), board.buf.len(), IDENTITY, false).unwrap();
    assert_eq!(board.step().unwrap(), Progress::Formatted);
    assert!(board.take_snapshot_in(&[90; 4], EntryId::ZERO, &[7; 360], false).unwrap());
    board.want.idle = true;
    let mut entries = 0..30u8;
    while orders(&board) != [0, 2, 0] {
        assert!(board.append(1, &[entries.next().unwrap(); 40]));
        board.settle().unwrap();
    }
    let geometry = board.geometry();
    let open = Records::new(&geometry, &board.flash.bytes[2048..4096]).next().unwrap();
    let mut foreign = 0;
    for byte in 0..open.bytes as usize {
        let mut flash = board.flash.clone();
        flash.bytes[2048 + byte] ^= 0x10;
        match shown(flash) {
            Err(MountError::Corrupt { .. }) => {}
            Err(MountError::Foreign) if (8..22).contains(&byte) => foreign += 1,
            other => panic!("byte {byte}: {other:?}"),
        }
    }
    assert!(foreign > 0);
}
