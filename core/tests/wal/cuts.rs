//! The flash log under power cuts: a random campaign, and one test for each hole that a log of this kind
//! has been seen to fall into.

use crate::board::{Board, Stop};
use crate::flash::{EraseFault, Faults, Flash};
use crate::random::Random;
use quorate::flash::Geometry;
use quorate::{EntryId, Index, NodeId};

struct Tally {
    cuts_in_write: u64,
    cuts_in_erase: u64,
    torn_tails: u64,
    snapshots: u64,
    appends: u64,
    hidden: u64,
}

/// Some life on a board; ends with a cut, if one comes.
fn live(board: &mut Board, random: &mut Random, tally: &mut Tally, steps: u64) -> Result<(), Stop> {
    // What a snapshot restates has to fit: a segment of a ring of three, with room to spare.
    let most_used = if board.geometry().segments == 3 { 900 } else { 3000 };
    for _ in 0..steps {
        board.want.idle = random.one_in(3);
        let term = board.log.last().term.0.max(board.want.hard_state.term.0).max(1);
        match random.below(10) {
            0..=4 => {
                for _ in 0..=random.below(3) {
                    let most = if random.one_in(4) { 100 } else { 24 };
                    let len = random.below(most) as usize;
                    let data: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
                    board.append(term, &data);
                    tally.appends += 1;
                }
            }
            5 => {
                let vote = NodeId::new(1 + random.below(5) as u8).filter(|_| random.one_in(2));
                board.set_hard_state(term + 1, vote);
            }
            6 => {
                let (base, last) =
                    (board.log.base().index.0.max(board.committed), board.log.last().index.0);
                if base < last {
                    let after = base + random.below(last - base);
                    let data = [random.next() as u8; 9];
                    if board.log.bytes_free() > 64 {
                        board.overwrite(after, term + 1, &data);
                    }
                }
            }
            7 => board.want.commit_needed = board.log.durable(),
            8 if random.one_in(4) => {
                let id = EntryId::new(Index(board.log.last().index.0 + 5), quorate::Term(term + 1));
                let content: Vec<u8> =
                    (0..random.below(200)).map(|_| random.next() as u8).collect();
                tally.snapshots += u64::from(board.take_snapshot(id, &content, true)?);
            }
            _ => {}
        }
        if random.one_in(3) {
            board.settle()?;
        } else {
            board.step().map(|_| ())?;
        }
        if board.wal.wants_snapshot() || board.log.bytes_used() > most_used || random.one_in(25) {
            board.settle()?;
            let (from, to) = (board.committed.max(board.log.base().index.0), board.log.durable().0);
            let index = from + random.below(to.max(from) - from + 1);
            if let Some(term) = board.log.term(Index(index)) {
                let content: Vec<u8> =
                    (0..random.below(300)).map(|_| random.next() as u8).collect();
                let id = EntryId::new(Index(index), term);
                tally.snapshots += u64::from(board.take_snapshot(id, &content, false)?);
            }
        }
    }
    Ok(())
}

/// The log works: it takes an entry, after a snapshot if it asks for one.
fn works(board: &mut Board) -> Result<(), Stop> {
    board.want.idle = false;
    for round in 0..6u8 {
        let before = board.log.durable().0;
        let term = board.log.last().term.0.max(1);
        if board.log.bytes_free() > 200 && board.append(term, &[round; 5]) {
            board.settle()?;
        }
        if board.log.durable().0 > before {
            return Ok(());
        }
        let index = board.log.durable();
        let id = EntryId::new(index, board.log.term(index).unwrap());
        board.take_snapshot(id, b"to make room", false)?;
    }
    panic!("the log takes no entry: {:?}", board.wal.status());
}

fn session(geometry: Geometry, faults: Faults, seed: u64, cuts: u64, tally: &mut Tally) {
    let mut random = Random(seed);
    let buffer = [256, 320, 512][random.below(3) as usize];
    let mut board = Board::new(Flash::new(geometry, faults), buffer, random.next());
    let mut done = 0;
    while !board.founded {
        if done < cuts {
            board.flash.fuse = Some(random.below(20));
        }
        board.hard_states = vec![(0, None)];
        match board.mount() {
            // The founding was done when the power went.
            Ok(_) => board.founded = true,
            Err(Stop::Refused(quorate::wal::MountError::Unformatted)) => {
                match board.format(false) {
                    Ok(()) => {}
                    Err(Stop::Cut) => done += 1,
                    Err(Stop::Refused(error)) => panic!("{error}"),
                }
            }
            Err(Stop::Cut) => done += 1,
            Err(Stop::Refused(error)) => panic!("{error}"),
        }
        let mut rest = Random(random.next());
        board.flash.boot(&mut rest);
    }
    while done < cuts {
        let far = if random.one_in(3) { 6 } else { 150 };
        board.flash.fuse = Some(random.below(far));
        let ended = board.mount().and_then(|_| {
            board.read_snapshot()?;
            live(&mut board, &mut random, tally, 120)
        });
        match ended {
            Err(Stop::Cut) => done += 1,
            Err(Stop::Refused(error)) => panic!("{error} after {done} cuts"),
            Ok(()) => {}
        }
        let mut rest = Random(random.next());
        board.flash.boot(&mut rest);
    }
    board.mount().expect("a mount after the last cut");
    works(&mut board).unwrap();
    board.mount().expect("a mount of a log that works");
    tally.cuts_in_write += board.flash.counters.cuts_in_write;
    tally.cuts_in_erase += board.flash.counters.cuts_in_erase;
    tally.torn_tails += board.torn_tails;
    tally.hidden += board.flash.counters.hidden_rewritten;
}

fn geometry(word: u8, page: u16, segments: u8, bytes: u32) -> Geometry {
    Geometry {
        word_bytes: word,
        erased: 0xff,
        page_bytes: page.max(u16::from(word)),
        block_bytes: bytes,
        blocks_per_segment: 1,
        segments,
    }
}

fn campaign(word: u8, sessions: u64) {
    let mut tally = Tally {
        cuts_in_write: 0,
        cuts_in_erase: 0,
        torn_tails: 0,
        snapshots: 0,
        appends: 0,
        hidden: 0,
    };
    let first = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0u64);
    let sessions = std::env::var("SESSIONS").ok().and_then(|s| s.parse().ok()).unwrap_or(sessions);
    for seed in first..first + sessions {
        for erase in [
            EraseFault::Prefix,
            EraseFault::RandomBits,
            EraseFault::Marginal,
            EraseFault::PreProgrammed,
        ] {
            for (marginal, ecc) in [(false, false), (true, false), (true, true)] {
                let faults = Faults { erase, marginal, ecc };
                let segments = [3, 4, 6][seed as usize % 3];
                let mut geometry = geometry(word, 1, segments, 2048);
                if seed % 5 == 4 {
                    // As on a SPI NOR, where a page is programmed at once.
                    geometry.page_bytes = 64;
                }
                if seed % 4 == 3 {
                    geometry.erased = 0;
                }
                let run = std::panic::AssertUnwindSafe(|| {
                    session(geometry, faults, seed, 8, &mut tally);
                });
                if let Err(panic) = std::panic::catch_unwind(run) {
                    eprintln!("word {word} seed {seed} {faults:?} segments {segments}");
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
    println!(
        "word {word}: {} cuts in writes, {} in erases, {} torn tails, {} snapshots, {} entries, {} hidden",
        tally.cuts_in_write,
        tally.cuts_in_erase,
        tally.torn_tails,
        tally.snapshots,
        tally.appends,
        tally.hidden
    );
    assert!(tally.cuts_in_write > 20 && tally.cuts_in_erase > 5 && tally.snapshots > 20);
}

#[test]
fn nothing_acknowledged_or_shown_is_lost_with_words_of_one_byte() {
    campaign(1, 20);
}

#[test]
fn nothing_acknowledged_or_shown_is_lost_with_words_of_four_bytes() {
    campaign(4, 20);
}

#[test]
fn nothing_acknowledged_or_shown_is_lost_with_words_of_eight_bytes() {
    campaign(8, 20);
}

#[test]
fn nothing_acknowledged_or_shown_is_lost_with_words_of_32_bytes() {
    campaign(32, 20);
}
