//! Segments that fail, wear, and rings that are nearly too small.

use crate::board::Board;
use crate::image::{founded, geometry, shown};
use quorate::flash::{FlashDone, FlashOp};
use quorate::wal::{Progress, Wal};
use quorate::{EntryId, Index, Term};

/// Polls until nothing is to be done; a write to the start of a segment is told to have failed the first time.
fn settle_with_a_lie(board: &mut Board, told: &mut bool) {
    loop {
        match board.wal.poll(&board.want, &mut board.log, &mut board.buf) {
            Progress::Op(op) => {
                let done = board.flash.run(op, &mut board.buf, &mut board.random).unwrap();
                let opens = matches!(op, FlashOp::Write { offset, .. } if offset % 2048 == 0);
                let lie = opens && !std::mem::replace(told, *told || opens);
                board.wal.handle(if lie { FlashDone::Failed } else { done });
            }
            Progress::Idle => return,
            Progress::Durable => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_first_record_that_is_told_to_have_failed_and_stands_all_the_same_hides_nothing() {
    let mut board = founded(4, 6);
    let mut told = false;
    for i in 0..70u8 {
        assert!(board.append(1, &[i; 40]));
        settle_with_a_lie(&mut board, &mut told);
    }
    assert!(told);
    assert_eq!(board.log.durable(), Index(70));
    assert_eq!(shown(board.flash).unwrap().log.len(), 70);
}

#[test]
fn whatever_snapshot_a_ring_is_accepted_for_entries_go_on() {
    for segments in 3..=12 {
        for bytes in (200u32..).step_by(300) {
            // Chunks of some 200 bytes, and a little log.
            let live = bytes.div_ceil(200) * 24 + bytes + 300;
            if Wal::check(&geometry(4, segments), 512, live).is_err() {
                break;
            }
            let mut board = founded(4, segments);
            for i in 0..30u8 {
                assert!(board.append(1, &[i; 30]));
                board.settle().unwrap();
                let mut snapshots = 0;
                while board.wal.wants_snapshot() || (i % 8 == 3 && snapshots == 0) {
                    let last = board.log.durable();
                    let id = EntryId::new(last, Term(u64::from(last > Index::ZERO)));
                    board.take_snapshot(id, &vec![i; bytes as usize], false).unwrap();
                    board.settle().unwrap();
                    snapshots += 1;
                    assert!(snapshots < 4, "{segments} segments, {bytes} bytes");
                }
                assert_eq!(board.log.durable(), board.log.last().index, "{segments} {bytes}");
            }
        }
    }
}

#[test]
fn boots_without_news_wear_nothing_out() {
    let mut board = founded(4, 6);
    assert!(board.append(1, b"x"));
    board.want.idle = true;
    board.settle().unwrap();
    let erases = board.flash.counters.erases;
    for _ in 0..300 {
        board.mount().unwrap();
        board.settle().unwrap();
    }
    assert!(board.flash.counters.erases <= erases + 2, "{}", board.flash.counters.erases - erases);
}
