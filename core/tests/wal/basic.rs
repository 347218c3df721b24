//! The flash log on sound flash.

use crate::board::{Board, IDENTITY, Stop};
use crate::flash::{Faults, Flash};
use crate::image::geometry;
use quorate::flash::Geometry;
use quorate::wal::{MountError, Progress, Tail};
use quorate::{ClusterId, EntryId, Identity, Index, NodeId, Term};

fn founded(geometry: Geometry) -> Board {
    let mut board = Board::new(Flash::new(geometry, Faults::MILD), 512, 1);
    board.format(false).unwrap();
    board
}

#[test]
fn a_founded_log_mounts_empty_and_shows_whose_it_is() {
    for word in [1, 2, 4, 8, 16, 32] {
        for erased in [0xff, 0] {
            let mut board = founded(Geometry { erased, ..geometry(word, 3) });
            let mounted = board.mount().unwrap();
            assert_eq!(mounted.identity, IDENTITY);
            assert_eq!(mounted.snapshot.id, EntryId::ZERO);
            assert_eq!(mounted.tail, Tail::Clean);
            assert_eq!(board.read_snapshot().unwrap(), b"founded");
        }
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_mount() {
    for word in [1, 4, 8, 32] {
        let mut board = founded(geometry(word, 4));
        board.set_hard_state(3, NodeId::new(2));
        for i in 0..10u8 {
            assert!(board.append(3, &[i; 33]));
            board.settle().unwrap();
        }
        assert_eq!(board.log.durable(), Index(10));
        let mounted = board.mount().unwrap();
        assert_eq!(mounted.hard_state.term, Term(3));
        assert_eq!(mounted.hard_state.vote, NodeId::new(2));
        assert_eq!(board.log.last(), EntryId::new(Index(10), Term(3)));
    }
}

#[test]
fn one_group_commit_is_one_write_of_hard_state_and_entries() {
    let mut board = founded(geometry(4, 4));
    board.set_hard_state(1, None);
    for i in 0..5u8 {
        assert!(board.append(1, &[i; 16]));
    }
    let before = board.flash.counters.writes;
    board.settle().unwrap();
    assert_eq!(board.flash.counters.writes, before + 1);
    assert_eq!(board.log.durable(), Index(5));
}

#[test]
fn a_conflicting_suffix_gives_way_without_an_erase() {
    let mut board = founded(geometry(4, 4));
    for i in 0..6u8 {
        assert!(board.append(1, &[i; 20]));
    }
    board.settle().unwrap();
    let erases = board.flash.counters.erases;
    board.overwrite(3, 2, b"other");
    board.settle().unwrap();
    assert_eq!(board.flash.counters.erases, erases);
    board.mount().unwrap();
    assert_eq!(board.log.last(), EntryId::new(Index(4), Term(2)));
}

#[test]
fn the_ring_goes_round_as_long_as_snapshots_are_taken_when_asked_for() {
    for segments in [3, 4, 6] {
        for word in [1, 4, 32] {
            let mut board = founded(geometry(word, segments));
            board.want.idle = true;
            for i in 0..600u64 {
                assert!(board.append(1, &i.to_le_bytes().repeat(8)));
                board.settle().unwrap();
                assert_eq!(board.log.durable(), Index(i + 1), "{segments} {word}");
                if board.wal.wants_snapshot() || board.log.bytes_free() < 1024 {
                    let id = EntryId::new(Index(i), Term(1));
                    let content = vec![i as u8; 300];
                    assert!(board.take_snapshot(id, &content, false).unwrap());
                }
            }
            board.mount().unwrap();
            board.read_snapshot().unwrap();
            assert_eq!(board.log.last().index, Index(600));
            let status = board.wal.status();
            let least = (0..segments).map(|segment| status.wear.erases(segment)).min().unwrap();
            assert!(status.wear.most() - least <= 2, "{status:?}");
            assert_eq!(status.segments_retired, 0);
        }
    }
}

#[test]
fn an_installed_snapshot_voids_the_log() {
    let mut board = founded(geometry(4, 4));
    for i in 0..6u8 {
        assert!(board.append(1, &[i; 20]));
    }
    board.settle().unwrap();
    let id = EntryId::new(Index(100), Term(4));
    assert!(board.take_snapshot(id, &[5; 700], true).unwrap());
    assert!(board.append(4, b"next"));
    board.settle().unwrap();
    let mounted = board.mount().unwrap();
    assert_eq!(mounted.snapshot.id, id);
    assert_eq!(board.log.last(), EntryId::new(Index(101), Term(4)));
    board.read_snapshot().unwrap();
}

#[test]
fn formatting_refuses_what_is_not_blank_unless_told_to() {
    let mut board = founded(geometry(4, 4));
    assert!(matches!(board.format(false), Err(Stop::Refused(MountError::NotBlank))));
    board.mount().unwrap();
    let mut board = Board::new(Flash::new(geometry(4, 4), Faults::MILD), 512, 1);
    board.flash.bytes[3000] = 1;
    assert!(matches!(board.mount(), Err(Stop::Refused(MountError::Foreign))));
    assert!(matches!(board.format(false), Err(Stop::Refused(MountError::NotBlank))));
    board.format(true).unwrap();
    board.mount().unwrap();
}

#[test]
fn a_founding_begun_for_another_is_done_for_whom_it_is_asked_for_last() {
    let mut board = Board::new(Flash::new(geometry(4, 4), Faults::MILD), 512, 1);
    let other = Identity { cluster: ClusterId(*b"else"), ..IDENTITY };
    board.wal.format(board.geometry(), board.buf.len(), other, false).unwrap();
    assert_eq!(board.step().unwrap(), Progress::Formatted);
    // The power goes before there is a first snapshot.
    let mut board = board.without_power();
    board.format(false).unwrap();
    assert_eq!(board.mount().unwrap().identity, IDENTITY);
}

#[test]
fn a_note_is_remembered_until_another_one_is_set() {
    let mut board = founded(geometry(4, 3));
    board.set_note(0xdead);
    board.settle().unwrap();
    board.mount().unwrap();
    assert_eq!(board.wal.note(), 0xdead);
    for i in 0..100u64 {
        assert!(board.append(1, &i.to_le_bytes().repeat(8)));
        board.settle().unwrap();
        if board.wal.wants_snapshot() || board.log.bytes_free() < 1024 {
            assert!(board.take_snapshot(EntryId::new(Index(i), Term(1)), b"s", false).unwrap());
        }
    }
    board.mount().unwrap();
    assert_eq!(board.wal.note(), 0xdead);
    board.set_note(0);
    board.settle().unwrap();
    board.mount().unwrap();
    assert_eq!(board.wal.note(), 0);
}

#[test]
fn a_mount_reads_the_heads_of_the_segments_the_newest_segment_and_what_is_live() {
    for word in [1, 4, 32] {
        for segments in [4, 16] {
            for behind in [0, 40] {
                let mut board = founded(geometry(word, segments));
                board.want.idle = true;
                let mut live = 0;
                for i in 0..700u64 {
                    assert!(board.append(1, &i.to_le_bytes().repeat(5)));
                    board.settle().unwrap();
                    let full = board.wal.wants_snapshot() || board.log.bytes_free() < 1024;
                    if full || i == 650 - behind {
                        live = board.flash.counters.words * u64::from(word);
                        board.take_snapshot(board.log.last(), &[7; 100], false).unwrap();
                    }
                }
                live = board.flash.counters.words * u64::from(word) - live;
                let before = board.flash.counters.bytes_read;
                board.mount().unwrap();
                let read = board.flash.counters.bytes_read - before;
                let heads = u64::from(segments) * 256;
                // What lies across the end of a buffer is read twice.
                let once = heads + 2048 + live;
                assert!(read <= once + once / 8, "{word} {segments}: {read} for {once}");
            }
        }
    }
}
