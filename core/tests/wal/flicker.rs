//! Torn words that read as noise at one boot and as they were meant to at a later one.

use crate::board::{Board, Stop};
use crate::flash::{Faults, Flash, Fuse, Leaves, Pattern};
use crate::image::{founded, geometry};
use quorate::Index;

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
