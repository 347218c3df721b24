//! Segments that fail, wear, and rings that are nearly too small.

use crate::board::Board;
use crate::flash::{Faults, Flash};
use crate::image::{founded, geometry, shown};
use crate::random::Random;
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::wal::{Progress, SNAP_DATA_AT, Wal, WalFault};
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
    for segments in (3..=12).chain([19, 31]) {
        for bytes in (200u32..).step_by(if segments > 12 { 1_000 } else { 300 }) {
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

/// However full the newest segment is; and with a little news at each boot, once for as much as a segment takes.
#[test]
fn boots_without_news_wear_nothing_out() {
    let mut board = founded(4, 6);
    board.want.idle = true;
    for _ in 0..30 {
        assert!(board.append(1, &[7; 40]));
        board.settle().unwrap();
        let erases = board.flash.counters.erases;
        for _ in 0..50 {
            board.mount().unwrap();
            board.settle().unwrap();
        }
        assert_eq!(board.flash.counters.erases, erases);
    }
    for _ in 0..5 {
        let (erases, mut written) = (board.flash.counters.erases, 0);
        while written < 2048 {
            board.mount().unwrap();
            if board.log.bytes_used() > 500 || board.wal.wants_snapshot() {
                let id = EntryId::new(board.log.durable(), Term(1));
                assert!(board.take_snapshot(id, b"", false).unwrap());
            }
            assert!(board.append(1, &[7; 40]));
            board.settle().unwrap();
            written += board.wal.status().bytes_written;
        }
        let erased = board.flash.counters.erases - erases;
        assert!(erased <= 4, "{erased}");
    }
}

/// The entry that the segment was opened for is replaced by a shorter one, which would fit into the segment before. There it
/// would be void: the first record that was told to have failed has ended that segment, if it stands.
#[test]
fn what_is_shorter_than_what_opened_a_segment_is_not_written_before_it() {
    let mut opened = 0;
    for (before, long) in (20..60u8).flat_map(|n| [100usize, 150, 200].map(|len| (n, len))) {
        let mut board = founded(4, 6);
        for i in 0..before {
            assert!(board.append(1, &[i; 40]));
            board.settle().unwrap();
        }
        assert!(board.append(1, &vec![before; long]));
        let mut told = false;
        let mut writes = false;
        while !writes {
            let told_of = board.wal.poll(&board.want, &mut board.log, &mut board.buf);
            let Progress::Op(op) = told_of else { panic!("nothing is written: {told_of:?}") };
            writes = matches!(op, FlashOp::Write { .. });
            let done = board.flash.run(op, &mut board.buf, &mut board.random).unwrap();
            let done = fails_to_open(&mut told)(&mut board.flash, op, done);
            board.wal.handle(done);
        }
        opened += u32::from(told);
        board.overwrite(before.into(), 2, b"short");
        settle_by(&mut board, &mut as_it_was);
        let shown = shown(board.flash).unwrap();
        let last = shown.log.last_key_value().map(|(index, entry)| (*index, entry.1.clone()));
        assert_eq!(last, Some((u64::from(before) + 1, b"short".to_vec())), "{before} {long}");
    }
    assert!(opened > 5, "{opened}");
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

/// A segment is opened whose first record gives up what came to nothing, votes among it, and the seal behind that fails.
/// That first record counts for nothing yet: what it gives up is not erased before something stands behind one.
#[test]
fn what_a_first_record_gives_up_stays_until_something_stands_behind_one() {
    let (mut failed, mut erased, mut full) = (0, 0, 0);
    for (segments, chunks) in (5..9u8).flat_map(|segments| (1..40).map(move |n| (segments, n))) {
        // Then one vote after the other.
        let mut board = lost_snapshot(segments, chunks);
        let last = board.wal.status().segments_free == 1;
        let (mut opened, mut behind, mut fallen) = (false, false, false);
        'life: for term in 1..=200 {
            board.want.hard_state.term = Term(term);
            board.want.idle = fallen;
            let mut fails = |flash: &mut Flash, op, mut done| {
                if let FlashOp::Write { offset, .. } = op {
                    if behind && !fallen {
                        fallen = true;
                        flash.bytes[offset as usize] ^= 1;
                        done = FlashDone::Failed;
                    }
                    behind = !opened && offset % 2048 == 0;
                    opened |= behind;
                }
                if !matches!(op, FlashOp::Read { .. }) {
                    erased += u32::from(fallen && matches!(op, FlashOp::Erase { .. }));
                    let shown = shown(flash.clone()).unwrap().hard_state.term;
                    assert!(shown.0 + 1 >= term, "{segments} {chunks}: {shown:?} of {term}");
                }
                done
            };
            loop {
                match told_by(&mut board, &mut fails) {
                    Progress::Idle => break,
                    Progress::Durable => {}
                    // The segment that failed was the only one left: a boot tries it once more.
                    Progress::Fault(WalFault::Full) if last => {
                        full += 1;
                        let mounted = shown(board.flash.clone()).unwrap();
                        assert_eq!(mounted.hard_state.term.0 + 1, term);
                        break 'life;
                    }
                    other => panic!("{segments} {chunks}: {other:?}"),
                }
            }
        }
        failed += u32::from(fallen);
    }
    assert!(failed > 100 && erased > 100 && full > 4, "{failed} {erased} {full}");
}

/// A boot finds no more than a first record and a seal, of which not all may hold: nothing that the first record gives up is
/// erased before a boot stands behind, also if that is written twice.
#[test]
fn a_boot_behind_nothing_but_a_first_record_and_a_seal_is_written_again_if_it_fails() {
    let mut tried = 0;
    for (segments, chunks) in (5..9u8).flat_map(|segments| (1..40).map(move |n| (segments, n))) {
        let Some((flash, seal)) = votes_behind_a_lost_snapshot(segments, chunks) else {
            continue;
        };
        let mut board = Board::new(flash, 512, 3);
        assert!(board.wal.mount(board.geometry(), 512).is_ok());
        let (mut fails, mut shown_term) = (true, 0);
        board.want.hard_state.term = Term(300);
        board.want.idle = true;
        loop {
            let mut ends = |flash: &mut Flash, op, done| {
                if let FlashOp::Write { offset, .. } = op
                    && std::mem::take(&mut fails)
                {
                    flash.bytes[offset as usize] ^= 1;
                    return FlashDone::Failed;
                }
                let mut decayed = flash.clone();
                decayed.bytes[seal..seal + 8].fill(0x5a);
                let term = shown(decayed).unwrap().hard_state.term.0;
                assert!(term >= shown_term, "{segments} {chunks}: {term} of {shown_term}");
                done
            };
            match told_by(&mut board, &mut ends) {
                Progress::Idle => break,
                Progress::Durable => {}
                Progress::Mounted(mounted) => shown_term = mounted.hard_state.term.0,
                other => panic!("{other:?}"),
            }
        }
        assert!(!fails && board.wal.durable().term == Term(300));
        tried += 1;
    }
    assert!(tried > 100, "{tried}");
}

/// Entries that are all alike, a little too long for one more of them in a record, with words of which they take one more:
/// a ring that is accepted for them holds them twice.
#[test]
fn rings_are_accepted_for_no_more_than_hold_the_least_fitting_entries_twice() {
    let mut tried = 0;
    for (word, buffer) in [(4, 256), (16, 256), (16, 300), (32, 256), (32, 320), (32, 512)] {
        for (segments, share) in (3..8u8).flat_map(|n| (1..6usize).map(move |share| (n, share))) {
            let geometry = Geometry { block_bytes: 4096, ..geometry(word, segments) };
            // One byte more than fits so often into what records keep for entries.
            let len = (buffer - 128) / share + 1 - 4;
            let mut live = 3_700;
            while Wal::check(&geometry, buffer, live).is_err() {
                live -= 20;
            }
            let mut board = Board::new(Flash::new(geometry, Faults::MILD), buffer, 1);
            board.format(false).unwrap();
            board.live_bytes = Some(live).filter(|_| segments % 2 == 0);
            board.mount().unwrap();
            if len > board.wal.entry_bytes_max() - 4 {
                continue;
            }
            // A log as full as it may be, of which nothing is committed: all of it is restated, again and again.
            let mut random = Random(u64::from(word) << 16 | (buffer + share) as u64);
            for round in 0..600u32 {
                board.want.idle = random.one_in(3);
                if board.log.bytes_used() + len + 4 <= live as usize {
                    assert!(board.append(1, &vec![round as u8; len]));
                } else {
                    board.set_hard_state(u64::from(round), None);
                }
                board.settle().unwrap();
                if random.one_in(8) {
                    board.mount().unwrap();
                    board.settle().unwrap();
                }
                let (mut snapshots, mut cuts) = (0, random.below(4));
                while board.wal.wants_snapshot() || board.log.durable() < board.log.last().index {
                    if cuts > 0 {
                        board.flash.cut_after(random.below(60));
                        cuts -= 1;
                    }
                    let taken = board.take_snapshot(EntryId::ZERO, &[7; 9], false);
                    if taken.is_err() {
                        board.flash.boot(&mut random);
                        board.mount().unwrap();
                    } else {
                        snapshots += 1;
                        let used = segments - board.wal.status().segments_free;
                        let accepted = if segments > 4 { (segments - 3) / 2 } else { 1 };
                        assert!(used <= accepted, "{word} {buffer} {segments} {share}: {used}");
                    }
                    board.flash.fuse = None;
                    board.settle().unwrap();
                    assert!(snapshots < 5, "{word} {buffer} {segments} {share}: {live}");
                }
            }
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}

/// A first record that a boot takes as never written can't be erased, and its seal, cut short, reads well later: the segment
/// that is used in its stead must be the newer one all the same.
#[test]
fn a_first_record_that_does_not_go_away_has_a_place_in_the_order_of_its_own() {
    let mut tried = 0;
    for (segments, chunks) in (5..9u8).flat_map(|segments| (1..30).map(move |n| (segments, n))) {
        let Some((flash, seal)) = votes_behind_a_lost_snapshot(segments, chunks) else {
            continue;
        };
        let mut board = Board::new(flash, 512, 3);
        let byte = std::mem::replace(&mut board.flash.bytes[seal], 0x5a);
        let before = board.flash.clone();
        assert!(board.wal.mount(board.geometry(), 512).is_ok());
        board.want.hard_state.term = Term(300);
        let mut told = false;
        loop {
            let mut ends = |flash: &mut Flash, op, done| {
                let FlashOp::Erase { offset, .. } = op else {
                    return done;
                };
                let here = seal / 2048 == offset as usize / 2048;
                if !here || std::mem::replace(&mut told, true) {
                    return done;
                }
                let place = offset as usize..offset as usize + 2048;
                flash.bytes[place.clone()].copy_from_slice(&before.bytes[place]);
                FlashDone::Failed
            };
            match told_by(&mut board, &mut ends) {
                // Where it was the last one, nothing is left to go on in.
                Progress::Idle | Progress::Fault(WalFault::Full) => break,
                Progress::Durable | Progress::Mounted(_) => {}
                other => panic!("{segments} {chunks}: {other:?}"),
            }
        }
        assert!(told, "{segments} {chunks}");
        if board.wal.durable().term < Term(300) {
            continue;
        }
        board.flash.bytes[seal] = byte;
        let shown = shown(board.flash).unwrap();
        assert_eq!(shown.hard_state.term, Term(300), "{segments} {chunks}");
        tried += 1;
    }
    assert!(tried > 50, "{tried}");
}

/// A board whose snapshot has come to nothing after so many chunks.
fn lost_snapshot(segments: u8, chunks: u32) -> Board {
    let mut board = founded(4, segments);
    board.wal.begin_snapshot(EntryId::ZERO);
    for chunk in 0..chunks {
        board.buf[SNAP_DATA_AT..SNAP_DATA_AT + 300].fill(0xab);
        board.wal.put_chunk(chunk * 300, 300);
        while told_by(&mut board, &mut as_it_was) != Progress::Idle {}
    }
    board.wal.abort_snapshot();
    board
}

/// A snapshot that comes to nothing, then one vote after the other, until a segment is opened and sealed behind it: the flash at
/// that moment, and where the seal is.
fn votes_behind_a_lost_snapshot(segments: u8, chunks: u32) -> Option<(Flash, usize)> {
    let mut board = lost_snapshot(segments, chunks);
    let (mut opened, mut sealed) = (false, None);
    for term in 1..200 {
        board.want.hard_state.term = Term(term);
        settle_by(&mut board, &mut |flash, op, done| {
            if let FlashOp::Write { offset, .. } = op {
                if opened && sealed.is_none() {
                    sealed = Some((flash.clone(), offset as usize));
                }
                opened = offset % 2048 == 0;
            }
            done
        });
        if sealed.is_some() {
            break;
        }
    }
    // By its tag, the first record says nothing new; else no seal follows.
    sealed.filter(|(flash, seal)| flash.bytes[seal / 2048 * 2048 + 6] & 0xf4 == 0x54)
}
