//! The holes that a first log of this kind fell into, each at the place where it opens.

use crate::board::Board;
use crate::flash::{Faults, Flash};
use crate::image::{founded, geometry};
use crate::random::Random;
use quorate::wal::{MountError, Progress, Tail};
use quorate::{EntryId, Index, Term};

use crate::board::Stop;

fn boot(board: &mut Board) {
    board.mount().unwrap();
    board.want.idle = false;
}

/// Where the last thing is that was written in the segment that holds `from`.
fn end_of_data(board: &Board, from: usize) -> usize {
    let segment = from / 2048 * 2048;
    let bytes = &board.flash.bytes[segment..segment + 2048];
    segment + bytes.iter().rposition(|byte| *byte != 0xff).unwrap() + 1
}

/// A record that is only almost written reads well at the first boot, and decays afterwards. What the boot
/// writes must not hang on it.
#[test]
fn hole_1_a_last_record_that_was_shown_may_decay_later() {
    let mut board = founded(4, 4);
    board.append(1, b"acknowledged");
    board.settle().unwrap();
    let before = end_of_data(&board, 2048);
    board.append(1, b"half written");
    board.settle().unwrap();
    let after = end_of_data(&board, 2048);
    boot(&mut board);
    assert_eq!(board.log.last().index, Index(2));
    board.append(1, b"and then");
    board.settle().unwrap();
    board.flash.bytes[before..after].fill(0x5a);
    boot(&mut board);
    assert_eq!(board.log.last().index, Index(3));
}

/// The only record of a new segment decays after a boot has shown it: what it linked to must not be lost
/// with it, nor what it held.
#[test]
fn hole_2_the_only_record_of_the_newest_segment_may_decay_later() {
    let mut board = founded(4, 5);
    let segment_of = |board: &Board| {
        (0..5).max_by_key(|i| {
            // Checksum, length, tag, version, geometry, erases, then the place in the order of use.
            let seq = board.flash.bytes[i * 2048 + 13];
            (seq != 0xff, seq)
        })
    };
    let first = segment_of(&board);
    let mut i = 0;
    while segment_of(&board) == first {
        board.append(1, &[i; 50]);
        board.settle().unwrap();
        i += 1;
    }
    let second = segment_of(&board).unwrap();
    let last = board.log.last();
    boot(&mut board);
    board.flash.bytes[second * 2048..second * 2048 + 2048].fill(0x33);
    boot(&mut board);
    assert_eq!(board.log.last(), last);
}

#[test]
fn hole_3_a_crash_loop_never_fills_the_ring() {
    let mut board = founded(4, 3);
    board.append(1, b"still here");
    board.settle().unwrap();
    let erases = board.flash.counters.erases;
    for _ in 0..3000 {
        boot(&mut board);
    }
    // The boots have taken one segment of three: a snapshot gives it back.
    let erases = board.flash.counters.erases - erases;
    if board.wal.wants_snapshot() {
        let id = board.log.last();
        assert!(board.take_snapshot(id, b"as it was", false).unwrap());
    }
    board.append(1, b"and it goes on");
    board.settle().unwrap();
    assert_eq!(board.log.durable(), Index(2));
    // The boots fill one segment; the next is sealed at once, and from then on nothing is left to say.
    assert!(erases <= 2, "{erases}");
}

/// The first record of the newest segment rots: the segment must not be taken for one that was never used.
#[test]
fn hole_4_a_rotten_first_record_is_reported() {
    let mut board = founded(4, 5);
    let mut i = 0;
    let newest = loop {
        board.append(1, &[i; 50]);
        board.settle().unwrap();
        i += 1;
        let used = |segment: usize| {
            let bytes = &board.flash.bytes[segment * 2048..segment * 2048 + 2048];
            bytes.iter().filter(|byte| **byte != 0xff).count()
        };
        if let Some(segment) = (0..5).find(|s| *s != 1 && used(*s) > 200) {
            break segment;
        }
    };
    for byte in 0..14 {
        let sound = board.flash.clone();
        board.flash.bytes[newest * 2048 + byte] ^= 0x10;
        let refused = board.mount();
        assert!(
            matches!(refused, Err(Stop::Refused(MountError::Corrupt { .. }))),
            "{byte}: {refused:?}"
        );
        board.flash = sound;
    }
}

#[test]
fn a_torn_tail_is_cut_and_told() {
    let mut board = founded(4, 5);
    board.append(1, b"acknowledged");
    board.settle().unwrap();
    let end = end_of_data(&board, 2048).next_multiple_of(4);
    board.append(1, b"half written");
    board.flash.cut_after(0);
    assert!(matches!(board.settle(), Err(Stop::Cut)));
    board.flash.fuse = None;
    board.flash.bytes[end] = 0x11;
    let mounted = board.mount().unwrap();
    assert_eq!(mounted.tail, Tail::Torn { offset: end as u32 });
    assert_eq!(board.log.last(), EntryId::new(Index(1), Term(1)));
}

/// A write is cut in its last byte, behind a seal. One boot shows the log without it, and the next finds that byte as it
/// should be: what was shown stays.
#[test]
fn what_was_torn_behind_a_seal_does_not_come_back() {
    let mut board = founded(1, 4);
    board.append(1, b"shown");
    board.want.idle = true;
    board.settle().unwrap();
    board.want.idle = false;
    let before = end_of_data(&board, 2048);
    board.overwrite(0, 2, b"another");
    board.settle().unwrap();
    let last = end_of_data(&board, 2048) - 1;
    assert!(last > before);
    let byte = std::mem::replace(&mut board.flash.bytes[last], 0x5a);
    let mut board = Board::new(board.flash, 512, 3);
    for _ in 0..2 {
        board.wal.mount(board.geometry(), 512).unwrap();
        assert!(matches!(board.step(), Ok(Progress::Mounted(_))));
        assert_eq!(board.log.last(), EntryId::new(Index(1), Term(1)));
        board.flash.bytes[last] = byte;
    }
}

/// The first word of a chunk is torn, and reads as it should be later on, when what was written since ends where that chunk
/// would have: it is torn all the same, and no chunk to be missed.
#[test]
fn a_torn_chunk_hides_nothing_that_ends_where_it_would_have() {
    let mut board = founded(8, 4);
    board.append(1, b"acknowledged");
    board.settle().unwrap();
    let at = end_of_data(&board, 2048).next_multiple_of(8);
    board.flash.bytes[at..at + 8].fill(0x5a);
    board.mount().unwrap();
    board.append(1, b"behind the boot");
    board.settle().unwrap();
    let end = end_of_data(&board, 2048).next_multiple_of(8);
    let [low, high] = ((end - at - 7) as u16).to_le_bytes();
    board.flash.bytes[at..at + 8].copy_from_slice(&[1, 2, 3, 4, low, high, 0x10, 0]);
    board.mount().unwrap();
    assert_eq!(board.log.last().index, Index(2));
}

/// A torn seal reads well at one boot only. What stands before it is loaded at that boot by itself, and not from the
/// boot record that has made it void: it is restated once more, or the next boot would find it nowhere.
#[test]
fn a_torn_seal_that_reads_well_for_one_boot_takes_nothing_away() {
    let mut board = founded(1, 4);
    board.append(1, b"acknowledged");
    board.settle().unwrap();
    let at = end_of_data(&board, 2048);
    board.want.idle = true;
    board.settle().unwrap();
    let last = end_of_data(&board, 2048) - 1;
    assert!(last > at);
    let sealed = board.flash.bytes[last];
    board.want.idle = false;
    for byte in [0x5a, sealed, 0x5a] {
        board.flash.bytes[last] = byte;
        board.mount().unwrap();
        assert_eq!(board.log.last(), EntryId::new(Index(1), Term(1)));
    }
}

/// Upkeep while a log is founded, which is cut short: no seal is left behind, by which it would look like a log that
/// has rotted.
#[test]
fn a_founding_with_time_for_upkeep_is_cut_short_and_done_again() {
    let mut cuts = 0;
    for after in 0..40 {
        let mut board = Board::new(Flash::new(geometry(2, 3), Faults::MILD), 512, 1);
        board.pauses = true;
        board.random = Random(after);
        board.flash.cut_after(after / 2);
        if board.format(false).is_ok() {
            continue;
        }
        cuts += 1;
        board.flash.boot(&mut Random(after));
        // The first record of the segment that the log begins in is gone, as an erase that is cut short leaves it.
        board.flash.bytes[2048..2052].fill(0xff);
        assert!(matches!(board.mount(), Err(Stop::Refused(MountError::Unformatted))), "{after}");
        board.format(false).unwrap();
    }
    assert!(cuts > 10, "{cuts}");
}

/// Of a write that was cut short only the end of a long word is to be seen: nothing may be programmed there.
#[test]
fn a_torn_write_of_which_only_the_end_of_a_word_shows_is_told() {
    for word in [8, 16, 32] {
        let mut board = founded(word, 4);
        board.append(1, b"acknowledged");
        board.want.idle = true;
        board.settle().unwrap();
        let end = end_of_data(&board, 2048).next_multiple_of(usize::from(word));
        board.flash.bytes[end + usize::from(word) - 1] = 0x11;
        let mounted = board.mount().unwrap();
        assert_eq!(mounted.tail, Tail::Torn { offset: end as u32 }, "{word}");
    }
}
