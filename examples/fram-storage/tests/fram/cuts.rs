//! The power goes at every byte of every write.

use crate::board::{Board, Event, MEDIUM_BYTES};
use crate::medium::{Cut, Medium};
use quorate::storage::Storage;
use quorate::wal::{Progress, Tail};
use quorate_flash_lab::random::Random;

/// What comes after a cut: a boot in which it may go again, a life that goes on, one more boot.
fn survives(mut board: Board) {
    board.medium.fuse = match board.random.below(3) {
        0 => Some((0, board.random.below(100) as usize)),
        _ => None,
    };
    if board.boot().is_err() {
        board.boot().unwrap();
    }
    board.medium.fuse = None;
    for event in [Event::Vote, Event::Append, Event::ReadSnapshot] {
        board.happens(event).unwrap();
        board.settle().unwrap();
    }
    let waits = board.log.durable() < board.log.last().index;
    assert_eq!(waits, board.store.wants_snapshot());
    board.boot().unwrap();
    assert_eq!(board.boot().unwrap().tail, Tail::Clean);
}

/// A history, cut at every byte of every write behind the first `uncut` events; how many cuts that were.
fn cut_everywhere(history: impl Fn(&mut Board, bool) -> Result<(), Cut>, seed: u64) -> usize {
    let mut whole = Board::founded(seed);
    history(&mut whole, false).unwrap();
    let before = whole.medium.writes.len();
    history(&mut whole, true).unwrap();
    let writes = whole.medium.writes.split_off(before);
    let mut cuts = 0;
    for (i, len) in writes.iter().enumerate() {
        for byte in 0..=*len {
            let mut board = Board::founded(seed);
            history(&mut board, false).unwrap();
            board.medium.fuse = Some((i, byte));
            history(&mut board, true).expect_err("the same history, the same writes");
            survives(board);
            cuts += 1;
        }
    }
    cuts
}

#[test]
fn a_cut_at_any_byte_of_any_short_history_loses_nothing_that_was_confirmed() {
    let all = Event::ALL;
    let mut cuts = 0;
    for number in 0..all.len().pow(3) {
        let events =
            [number / all.len().pow(2), number / all.len() % all.len(), number % all.len()];
        let [first, second, last] = events.map(|i| all[i]);
        // What a cut in an earlier event leads to is seen in the histories that begin otherwise.
        let history = |board: &mut Board, end: bool| {
            let events: &[Event] = if end { &[last] } else { &[Event::Batch, first, second] };
            for event in events {
                board.happens(*event)?;
                board.settle()?;
            }
            Ok(())
        };
        cuts += cut_everywhere(history, number as u64);
    }
    assert!(cuts > 100_000, "{cuts}");
}

#[test]
fn events_may_come_while_an_operation_is_out() {
    let (mut cuts, mut short) = (0, 0);
    for seed in 0..60 {
        let history = |board: &mut Board, end: bool| {
            let mut random = Random(seed * 2 + u64::from(end));
            for _ in 0..if end { 12 } else { 30 } {
                let grows = random.one_in(3);
                let event = if grows { Event::Batch } else { random.pick(&Event::ALL) };
                board.happens(event)?;
                board.run(random.below(5))?;
            }
            board.settle()
        };
        let mut board = Board::founded(seed);
        for end in [false, true] {
            history(&mut board, end).unwrap();
        }
        short += board.short;
        cuts += cut_everywhere(history, seed);
    }
    assert!(cuts > 50_000, "{cuts}");
    assert!(short > 0, "no bank was ever full");
}

#[test]
fn a_founding_that_is_cut_at_any_byte_can_be_done_again() {
    for blank in [0, 0xff] {
        let mut whole = Board::on(Medium::new(MEDIUM_BYTES, blank), 1);
        whole.found().unwrap();
        for (i, len) in whole.medium.writes.iter().enumerate() {
            for byte in 0..=*len {
                for seed in 0..4 {
                    let mut board = Board::on(Medium::new(MEDIUM_BYTES, blank), seed);
                    board.medium.fuse = Some((i, byte));
                    board.found().unwrap_err();
                    match board.refused() {
                        None => board.boot().map(drop).unwrap(),
                        Some(error) => {
                            assert_eq!(error, quorate::wal::MountError::Unformatted);
                            let mut again = Board::on(board.medium.clone(), 1);
                            again.found().unwrap();
                            again.boot().unwrap();
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn entries_that_find_no_room_wait_for_a_snapshot_and_votes_do_not() {
    let mut board = Board::founded(1);
    board.take_snapshot(200).unwrap();
    board.settle().unwrap();
    while !board.store.wants_snapshot() && board.log.bytes_free() > 40 {
        board.append(30);
        board.settle().unwrap();
    }
    assert!(board.log.durable() < board.log.last().index);
    board.happens(Event::Vote).unwrap();
    assert_eq!(board.answer().unwrap(), Progress::Durable);
    board.settle().unwrap();
    // One that covers nothing new, and is as large, makes no room either.
    assert!(board.store.wants_snapshot());
    board.take_snapshot(200).unwrap();
    board.settle().unwrap();
    assert!(board.store.wants_snapshot());
    board.take_snapshot(20).unwrap();
    board.settle().unwrap();
    assert_eq!(board.log.durable(), board.log.last().index);
    assert!(!board.store.wants_snapshot());
    board.boot().unwrap();
}

#[test]
fn entries_that_gave_way_wait_for_no_room() {
    let mut board = Board::founded(1);
    board.take_snapshot(200).unwrap();
    board.settle().unwrap();
    while !board.store.wants_snapshot() {
        board.append(30);
        board.settle().unwrap();
    }
    while board.log.durable() < board.log.last().index {
        board.happens(Event::Conflict).unwrap();
        board.settle().unwrap();
    }
    assert!(!board.store.wants_snapshot());
}

#[test]
fn entries_that_give_way_while_they_are_copied_are_not_copied() {
    for operations in 0..10 {
        let mut board = Board::founded(operations);
        (0..4).for_each(|_| board.happens(Event::Batch).unwrap());
        board.settle().unwrap();
        board.take_snapshot(40).unwrap();
        board.run(operations).unwrap();
        board.happens(Event::Conflict).unwrap();
        board.settle().unwrap();
        board.happens(Event::Append).unwrap();
        board.settle().unwrap();
        board.boot().unwrap();
    }
}
