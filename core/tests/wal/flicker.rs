//! Torn words that read as noise at one boot and as they were meant to at a later one, and reads that fail once.

use crate::board::{Board, Held, Stop};
use crate::flash::{Faults, Flash, Fuse, Leaves, Pattern};
use crate::image::{founded, geometry, last_record, shown};
use quorate::Index;
use quorate::flash::{FlashDone, FlashOp};
use quorate::wal::Progress;

/// The write after the next `after` writes and erases is to be cut short in its last word, which reads as the opposite of what
/// it was meant to be.
fn cut_in_last_word(board: &mut Board, after: u64) {
    let leaves = Leaves { word: usize::MAX, pattern: Pattern::Inverted };
    board.flash.fuse = Some(Fuse { after, erases_only: false, leaves: Some(leaves) });
}

/// Where the last word is in the segment that shows anything; the power is back.
fn last_word(board: &mut Board, segment: usize) -> usize {
    board.flash.fuse = None;
    let bytes = &board.flash.bytes[segment * 2048..][..2048];
    let last = segment * 2048 + bytes.iter().rposition(|byte| *byte != 0xff).unwrap();
    last - last % usize::from(board.flash.geometry.word_bytes)
}

/// What read as the opposite reads as it was meant to, or the other way round.
fn turn(board: &mut Board, at: usize) {
    let word = usize::from(board.flash.geometry.word_bytes);
    board.flash.bytes[at..at + word].iter_mut().for_each(|byte| *byte = !*byte);
}

/// A record and the boot that has voided it are both torn. The next boot finds the record whole and the boot not, and goes on
/// from the record; when that first boot reads well later on, it must not void what came behind.
#[test]
fn a_torn_boot_that_reads_well_later_voids_nothing() {
    for word in [1, 4, 8] {
        let mut board = founded(word, 4);
        board.append(1, b"acknowledged");
        board.settle().unwrap();
        board.append(1, b"half written");
        cut_in_last_word(&mut board, 0);
        assert!(matches!(board.settle(), Err(Stop::Cut)));
        let record = last_word(&mut board, 1);
        cut_in_last_word(&mut board, 0);
        assert!(matches!(board.mount(), Err(Stop::Cut)));
        let boot = last_word(&mut board, 1);
        assert!(boot > record);
        turn(&mut board, record);
        board.mount().unwrap();
        assert_eq!(board.log.last().index, Index(2));
        board.append(1, b"and then");
        board.settle().unwrap();
        for at in [boot, record, boot, record] {
            turn(&mut board, at);
            board.mount().unwrap();
            assert_eq!(board.log.last().index, Index(3), "{word}");
        }
    }
}

/// A founding marks a segment, and is cut short in that; the next one can't read it. When it reads well later on, the log
/// that was founded meanwhile is newer.
#[test]
fn a_torn_mark_of_a_founding_that_reads_well_later_is_not_the_newest() {
    for word in [1, 4, 8] {
        let mut board = Board::new(Flash::new(geometry(word, 3), Faults::MILD), 512, 1);
        // The first mark is written, and no more.
        cut_in_last_word(&mut board, 1);
        assert!(matches!(board.format(false), Err(Stop::Cut)));
        cut_in_last_word(&mut board, 0);
        assert!(matches!(board.format(false), Err(Stop::Cut)));
        let mark = last_word(&mut board, 0);
        board.format(false).unwrap();
        turn(&mut board, mark);
        board.mount().unwrap();
        board.append(1, b"it works");
        board.settle().unwrap();
        assert_eq!(board.log.durable(), Index(1), "{word}");
    }
}

/// A mount one read of which fails, or has a byte wrong; how many reads there were, and what it leaves in flash.
fn mounted_with_a_bad_read(flash: &Flash, bad: u32, fails: bool) -> (u32, Flash) {
    let mut board = Board::new(flash.clone(), 512, 3);
    board.wal.mount(board.geometry(), 512).unwrap();
    let mut reads = 0;
    loop {
        match board.wal.poll(&board.want, &mut board.log, &mut board.buf) {
            Progress::Op(op) => {
                let mut done = board.flash.run(op, &mut board.buf, &mut board.random).unwrap();
                if matches!(op, FlashOp::Read { .. }) {
                    if reads == bad {
                        board.buf[4] ^= 0x10;
                        done = if fails { FlashDone::Failed } else { done };
                    }
                    reads += 1;
                }
                board.wal.handle(done);
            }
            Progress::Mounted(_) | Progress::Refused(_) => return (reads, board.flash),
            other => panic!("{other:?}"),
        }
    }
}

/// The newest segment's first record is the one that must not be missed: the segment would be erased.
#[test]
fn a_read_that_fails_once_costs_nothing_but_a_last_record_that_is_not_sealed() {
    for (word, is_sealed) in [1, 4, 8, 32].into_iter().flat_map(|w| [(w, true), (w, false)]) {
        let (before, after) = last_record(word, is_sealed);
        let (cut, sound) = (shown(before).unwrap(), shown(after.clone()).unwrap());
        let (reads, _) = mounted_with_a_bad_read(&after, u32::MAX, true);
        assert!(reads > 10);
        for bad in 0..reads {
            for fails in [true, false] {
                let (_, left) = mounted_with_a_bad_read(&after, bad, fails);
                let shown = shown(left).unwrap();
                let same = shown.log.iter().filter(|(i, _)| **i > sound.snapshot.index.0);
                let log: Held = same.map(|(i, entry)| (*i, entry.clone())).collect();
                let place = format!("word {word}, sealed: {is_sealed}, read {bad} of {reads}");
                assert_eq!(shown.hard_state, sound.hard_state, "{place}");
                // An older snapshot does as well.
                assert!(shown.content.is_some(), "{place}");
                assert!(log == sound.log || (!is_sealed && log == cut.log), "{place}");
            }
        }
    }
}
