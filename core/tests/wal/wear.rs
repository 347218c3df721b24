//! Segments that fail, wear, and rings that are nearly too small.

use crate::board::Board;
use crate::flash::Flash;
use crate::image::{founded, geometry, shown};
use quorate::flash::{FlashDone, FlashOp};
use quorate::wal::{Progress, SNAP_DATA_AT, Wal};
use quorate::{EntryId, Index, Term};

/// How an operation ends that was carried out as it should be.
type Ends<'a> = &'a mut dyn FnMut(&mut Flash, FlashOp, FlashDone) -> FlashDone;

fn as_it_was(_: &mut Flash, _: FlashOp, done: FlashDone) -> FlashDone {
    done
}

/// The next write to the start of a segment is told to have failed, and stands.
fn fails_to_open(told: &mut bool) -> impl FnMut(&mut Flash, FlashOp, FlashDone) -> FlashDone {
    move |_, op, done| {
        let opens = matches!(op, FlashOp::Write { offset, .. } if offset % 2048 == 0);
        let fails = opens && !std::mem::replace(told, *told || opens);
        if fails { FlashDone::Failed } else { done }
    }
}

/// Polls until something is told.
fn told_by(board: &mut Board, ends: Ends<'_>) -> Progress {
    loop {
        match board.wal.poll(&board.want, &mut board.log, &mut board.buf) {
            Progress::Op(op) => {
                let done = board.flash.run(op, &mut board.buf, &mut board.random).unwrap();
                let done = ends(&mut board.flash, op, done);
                board.wal.handle(done);
            }
            told => return told,
        }
    }
}

fn settle_by(board: &mut Board, ends: Ends<'_>) {
    loop {
        match told_by(board, ends) {
            Progress::Idle => return,
            Progress::Durable => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Takes a snapshot in one chunk; `false` if it was given up.
fn snapshot_by(board: &mut Board, id: EntryId, content: &[u8], ends: Ends<'_>) -> bool {
    board.wal.begin_snapshot(id);
    board.buf[SNAP_DATA_AT..SNAP_DATA_AT + content.len()].copy_from_slice(content);
    assert!(board.wal.put_chunk(0, content.len()));
    loop {
        match told_by(board, ends) {
            Progress::ChunkWritten => board.wal.end_snapshot(false),
            Progress::SnapshotDurable(done) => {
                assert_eq!(done, id);
                board.log.compact(id.index);
                return true;
            }
            Progress::SnapshotLost => return false,
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
        settle_by(&mut board, &mut fails_to_open(&mut told));
    }
    assert!(told);
    assert_eq!(board.log.durable(), Index(70));
    assert_eq!(shown(board.flash).unwrap().log.len(), 70);
}

/// In the middle of a snapshot a record is told to have failed and stands: the next segment goes on before it.
#[test]
fn a_snapshot_is_read_past_a_record_that_was_told_to_have_failed_and_stands() {
    let mut board = founded(4, 6);
    let (id, content) = (EntryId::ZERO, [[7; 100], [8; 100]].concat());
    board.wal.begin_snapshot(id);
    assert!(board.put_chunk(0, &content[..100]).unwrap());
    board.set_hard_state(5, None);
    let mut fails = 1;
    settle_by(&mut board, &mut |_, op, done| {
        let lie = fails > 0 && matches!(op, FlashOp::Write { .. });
        fails -= u32::from(lie);
        if lie { FlashDone::Failed } else { done }
    });
    assert_eq!((fails, board.wal.status().segments_retired), (0, 1));
    assert!(board.put_chunk(100, &content[100..]).unwrap());
    assert!(board.end_snapshot(id, &content, false).unwrap());
    assert_eq!(board.read_snapshot().unwrap(), content);
    board.mount().unwrap();
    assert_eq!(board.read_snapshot().unwrap(), content);
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

/// A snapshot that was to begin in a segment of its own, whose first record is told to have failed, must not be written
/// where that one has ended the segment before: what stands there, acknowledged, would be void.
#[test]
fn a_snapshot_behind_a_first_record_that_failed_and_stands_is_not_lost() {
    let mut failed = 0;
    for (before, behind) in (1..40u8).flat_map(|n| (1..40u8).map(move |m| (n, m))) {
        let mut board = founded(4, 4);
        let id = |board: &Board| EntryId::new(board.log.durable(), Term(1));
        let log = |board: &mut Board, count: u8| {
            for i in 0..count {
                assert!(board.append(1, &[i; 40]));
                settle_by(board, &mut as_it_was);
            }
        };
        log(&mut board, before);
        let mut newest = id(&board);
        assert!(snapshot_by(&mut board, newest, &[before; 360], &mut as_it_was));
        log(&mut board, behind);
        let mut told = false;
        let (last, next) = (board.log.durable().0, id(&board));
        if snapshot_by(&mut board, next, &[behind; 360], &mut fails_to_open(&mut told)) {
            newest = next;
        }
        failed += u32::from(told);
        let shown = shown(board.flash).unwrap();
        let end = shown.log.keys().last().map_or(shown.snapshot.index.0, |index| *index);
        assert_eq!((shown.snapshot, end), (newest, last), "{before} {behind}");
    }
    assert!(failed > 500, "{failed}");
}

/// A chunk waits in the buffer while the segment is opened that it goes into. The first record there has lost its length
/// by the time it is read back: no more is read than was written, or what is read takes the chunk's place.
#[test]
fn a_chunk_that_waits_is_not_overwritten_by_a_record_that_has_lost_its_length() {
    let mut opened = 0;
    for (before, length) in (30..40u8).flat_map(|n| [100u16, 300, 500].map(|len| (n, len))) {
        let mut board = founded(4, 6);
        for i in 0..before {
            assert!(board.append(1, &[i; 40]));
            board.settle().unwrap();
        }
        let mut hit = false;
        let mut fails = |flash: &mut Flash, op: FlashOp, done: FlashDone| {
            if let FlashOp::Write { offset, .. } = op
                && offset % 2048 == 0
                && !std::mem::replace(&mut hit, true)
            {
                // Checksum, length, tag.
                let at = offset as usize + 4;
                flash.bytes[at..at + 2].copy_from_slice(&length.to_le_bytes());
            }
            done
        };
        let content: Vec<u8> = (0..360u16).map(|i| i as u8 ^ before).collect();
        let id = EntryId::new(board.log.durable(), Term(1));
        assert!(snapshot_by(&mut board, id, &content, &mut fails));
        opened += u32::from(hit);
        let shown = shown(board.flash).unwrap();
        assert_eq!((shown.snapshot, shown.content), (id, Some(content)), "{before} {length}");
    }
    assert!(opened > 10, "{opened}");
}
