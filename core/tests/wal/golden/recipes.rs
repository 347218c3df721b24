//! How the images came about.

use crate::board::{Board, Stop};
use crate::flash::{Faults, Flash, Fuse, Leaves, Pattern};
use quorate::flash::Geometry;
use quorate::{EntryId, Index, NodeId, Term};

/// Small rings, as every byte of them is kept.
const fn geometry(word: u8, segments: u8) -> Geometry {
    Geometry {
        word_bytes: word,
        erased: 0xff,
        page_bytes: word as u16,
        block_bytes: 256,
        blocks_per_segment: 5,
        segments,
    }
}

fn founded(geometry: Geometry) -> Board {
    let mut board = Board::new(Flash::new(geometry, Faults::MILD), 512, 1);
    board.format(false).unwrap();
    board
}

/// One record with so many entries.
fn write(board: &mut Board, term: u64, count: u64) {
    for _ in 0..count {
        let name = format!("entry {}", board.log.last().index.0 + 1);
        assert!(board.append(term, name.as_bytes()));
    }
    board.settle().unwrap();
}

type Recipe = fn() -> Board;

/// Every image: its name, and the flash.
pub(crate) fn all() -> Vec<(&'static str, Flash)> {
    let images: [(&str, Recipe); 17] = [
        ("v1-01-founded-word-4", || founded(geometry(4, 3))),
        ("v1-02-conflict-word-1", || conflict(geometry(1, 3))),
        ("v1-03-conflict-word-32", || conflict(geometry(32, 3))),
        ("v1-04-wrapped-word-8", || wrapped(geometry(8, 3))),
        ("v1-05-wrapped-word-16", || wrapped(geometry(16, 3))),
        ("v1-06-torn-tail-word-4", || torn_tail(geometry(4, 3))),
        ("v1-07-torn-tail-page-64", || torn_tail(Geometry { page_bytes: 64, ..geometry(2, 3) })),
        ("v1-08-boot-word-4", || boots(geometry(4, 3))),
        ("v1-09-boot-in-a-segment-of-its-own-word-32", || boot_opens(geometry(32, 3))),
        ("v1-10-retired-word-4", || retired(geometry(4, 5))),
        ("v1-11-note-word-4-blank-00", || noted(Geometry { erased: 0, ..geometry(4, 3) })),
        ("v1-12-installed-word-8-blank-00", || installed(Geometry { erased: 0, ..geometry(8, 3) })),
        ("v1-13-snapshot-under-way-word-1", || under_way(geometry(1, 4))),
        ("v1-14-sealed-word-4", || sealed(geometry(4, 4))),
        ("v1-15-newest-snapshot-rotten-word-4", || rotten_snapshot(geometry(4, 4))),
        ("v1-16-torn-first-record-word-8", || torn_open(geometry(8, 5))),
        ("v1-17-older-snapshot-of-a-wrapped-ring-word-4", || wrapped_rotten(geometry(4, 5))),
    ];
    images.into_iter().map(|(name, make)| (name, make().flash)).collect()
}

/// Term, vote and entries in one record; the last of them give way to others, twice.
fn conflict(geometry: Geometry) -> Board {
    let mut board = founded(geometry);
    board.set_hard_state(2, NodeId::new(1));
    write(&mut board, 2, 5);
    board.overwrite(3, 3, b"instead of entry 4");
    board.settle().unwrap();
    board.set_hard_state(4, NodeId::new(2));
    write(&mut board, 3, 2);
    board.overwrite(5, 4, b"instead of entry 6");
    write(&mut board, 4, 1);
    board.want.hard_state.commit = Index(6);
    board.want.commit_needed = Index(6);
    board.settle().unwrap();
    board
}

/// The ring has gone round, with a snapshot whenever one was wanted; the one before the newest is still there.
fn wrapped(geometry: Geometry) -> Board {
    let mut board = founded(geometry);
    board.want.idle = true;
    board.set_hard_state(7, NodeId::new(5));
    let mut snapshots = 0;
    while snapshots < 8 || board.wal.status().wear.most() < 4 {
        let name =
            format!("entry {}, of the term that all of them are of", board.log.last().index.0 + 1);
        assert!(board.append(7, name.as_bytes()));
        board.settle().unwrap();
        if board.wal.wants_snapshot() {
            let id = EntryId::new(Index(board.log.durable().0 - 1), Term(7));
            let content = format!("the state after entry {}; ", id.index.0).repeat(5);
            assert!(board.take_snapshot(id, content.as_bytes(), false).unwrap());
            snapshots += 1;
        }
    }
    board.want.idle = false;
    write(&mut board, 7, 2);
    board
}

/// The power goes in the next write, in its second word or what stands for it; the board has not come back yet.
fn cut(board: &mut Board) {
    let word = usize::from(board.geometry().word_bytes);
    let leaves = Some(Leaves { word: 12 / word.min(12), pattern: Pattern::Half });
    board.flash.fuse = Some(Fuse { after: 0, erases_only: false, leaves });
    assert!(matches!(board.settle(), Err(Stop::Cut)));
    board.flash.fuse = None;
}

fn torn_tail(geometry: Geometry) -> Board {
    let mut board = founded(geometry);
    board.set_hard_state(1, NodeId::new(3));
    write(&mut board, 1, 3);
    board.append(1, b"never acknowledged");
    cut(&mut board);
    board
}

/// A torn write, the boot behind it, more entries, another torn write and boot, a seal, and a boot in a group.
fn boots(geometry: Geometry) -> Board {
    let mut board = torn_tail(geometry);
    board.mount().unwrap();
    write(&mut board, 1, 2);
    board.append(1, b"never acknowledged either");
    cut(&mut board);
    board.mount().unwrap();
    board.want.idle = true;
    board.settle().unwrap();
    board.mount().unwrap();
    board.want.idle = false;
    write(&mut board, 1, 1);
    board
}

/// Boots, until one has opened the next segment.
fn boot_opens(geometry: Geometry) -> Board {
    let mut board = founded(geometry);
    board.set_hard_state(9, None);
    write(&mut board, 9, 2);
    let erases = board.flash.counters.erases;
    while board.flash.counters.erases == erases {
        board.mount().unwrap();
    }
    board
}

fn retired(geometry: Geometry) -> Board {
    let mut board = founded(geometry);
    board.set_hard_state(1, NodeId::new(3));
    write(&mut board, 1, 4);
    board.flash.broken = 1 << 1;
    write(&mut board, 1, 4);
    write(&mut board, 1, 1);
    assert_eq!(board.wal.status().segments_retired, 1);
    board
}

fn noted(geometry: Geometry) -> Board {
    let mut board = founded(geometry);
    board.set_hard_state(3, NodeId::new(4));
    write(&mut board, 3, 1);
    board.set_note(0xbeef);
    board.settle().unwrap();
    write(&mut board, 3, 2);
    board
}

/// A snapshot of a leader's stands in place of the log; entries follow it.
fn installed(geometry: Geometry) -> Board {
    let mut board = founded(geometry);
    board.set_hard_state(2, NodeId::new(1));
    write(&mut board, 2, 4);
    board.set_hard_state(6, None);
    let id = EntryId::new(Index(100), Term(5));
    assert!(board.take_snapshot(id, &b"a leader's state; ".repeat(20), true).unwrap());
    write(&mut board, 6, 3);
    board
}

/// The first part of a second snapshot is there, and an entry behind it.
fn under_way(geometry: Geometry) -> Board {
    let mut board = founded(geometry);
    write(&mut board, 1, 3);
    let id = EntryId::new(Index(2), Term(1));
    assert!(board.take_snapshot(id, b"the state after entry 2", false).unwrap());
    board.wal.begin_snapshot(EntryId::new(Index(3), Term(1)));
    assert!(board.put_chunk(0, b"the state after").unwrap());
    write(&mut board, 1, 1);
    board
}

fn sealed(geometry: Geometry) -> Board {
    let mut board = conflict(geometry);
    board.want.idle = true;
    board.settle().unwrap();
    board
}

/// The newest snapshot can't be read: the one before it counts, and all entries since.
fn rotten_snapshot(geometry: Geometry) -> Board {
    let mut board = founded(geometry);
    write(&mut board, 1, 3);
    let content = b"the state after entry 2";
    let id = EntryId::new(Index(2), Term(1));
    assert!(board.take_snapshot(id, content, false).unwrap());
    write(&mut board, 1, 2);
    board.want.idle = true;
    board.settle().unwrap();
    let at = board.flash.bytes.windows(9).position(|bytes| bytes == b"the state").unwrap();
    board.flash.bytes[at + 2] ^= 0x20;
    board
}

/// The ring has gone round, and of the newest snapshot one word can't be read any more.
fn wrapped_rotten(geometry: Geometry) -> Board {
    let mut board = wrapped(geometry);
    let newest = format!("the state after entry {}", board.wal.snapshot().unwrap().id.index.0);
    let mut places = board.flash.bytes.windows(newest.len());
    let at = places.position(|bytes| bytes == newest.as_bytes()).unwrap();
    board.flash.bytes[at] ^= 0x20;
    board
}

/// The power goes while the first record of a segment is written.
fn torn_open(geometry: Geometry) -> Board {
    let operations = |board: &Board| board.flash.counters.writes + board.flash.counters.erases;
    let mut trial = founded(geometry);
    let (founding, erases, mut before) = (operations(&trial), trial.flash.counters.erases, 0);
    while trial.flash.counters.erases == erases {
        before = operations(&trial) - founding;
        write(&mut trial, 1, 4);
    }
    let mut board = founded(geometry);
    // The one behind the erase.
    let leaves = Some(Leaves { word: 3, pattern: Pattern::Half });
    board.flash.fuse = Some(Fuse { after: before + 1, erases_only: false, leaves });
    while board.flash.cuts() == 0 {
        for _ in 0..4 {
            let name = format!("entry {}", board.log.last().index.0 + 1);
            assert!(board.append(1, name.as_bytes()));
        }
        let _ = board.settle();
    }
    board.flash.fuse = None;
    board
}
