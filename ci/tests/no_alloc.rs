//! A running cluster allocates nothing inside the core: every call of it is counted.

use std::cell::Cell;

use quorate_fuzz::board::{Board, id};

const BOARDS: u8 = 3;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what one call of the core allocates.
fn count(call: &mut dyn FnMut()) {
    let counted = allocation_counter::measure(call);
    CALLS.set(CALLS.get() + 1);
    ALLOCATIONS.set(ALLOCATIONS.get() + counted.count_total);
}

/// Hands every frame to whom it is for, until nobody has anything to say. Board `away` hears nothing.
fn deliver(boards: &mut [Board], away: Option<usize>) {
    loop {
        let mut frames = Vec::new();
        for (at, board) in boards.iter_mut().enumerate() {
            frames.extend(board.sent.drain(..).map(|(to, frame)| (at, to, frame)));
        }
        if frames.is_empty() {
            return;
        }
        for (from, to, frame) in frames {
            for (at, board) in boards.iter_mut().enumerate() {
                let heard = to.contains(id(at as u8 + 1)) && away != Some(at) && away != Some(from);
                if heard {
                    board.frame(&frame);
                }
            }
        }
    }
}

fn pass(boards: &mut [Board], away: Option<usize>, ms: u32) {
    for _ in 0..ms / 10 {
        boards.iter_mut().for_each(|board| board.pass(10));
        deliver(boards, away);
    }
}

/// Proposes at whichever board leads.
fn propose(boards: &mut [Board], away: Option<usize>, command: &[u8]) -> bool {
    let taken = boards.iter_mut().any(|board| board.propose(command));
    deliver(boards, away);
    taken
}

#[test]
fn a_running_cluster_allocates_nothing_inside_the_core() {
    let mut boards: Vec<Board> = (1..=BOARDS).map(|n| Board::watched(n, BOARDS, count)).collect();
    pass(&mut boards, None, 5_000);
    // Enough to fill the log and the flash several times over, with a board that falls behind, comes
    // back, gets a snapshot, and boots again.
    let away = Some(2);
    let mut taken = 0;
    for round in 0..300u32 {
        let deaf = away.filter(|_| (100..250).contains(&round));
        taken += u32::from(propose(&mut boards, deaf, &[round as u8; 40]));
        pass(&mut boards, deaf, 50);
    }
    boards[1].reboot(0);
    pass(&mut boards, None, 20_000);

    let status: Vec<_> = boards.iter().map(Board::status).collect();
    assert!(taken > 200, "{taken} commands were taken: {status:#?}");
    let applied = status[0].applied;
    assert!(
        applied.0 > 200 && status.iter().all(|status| status.applied == applied),
        "{status:#?}"
    );
    assert!(status.iter().all(|status| status.snapshot.index.0 > 0), "{status:#?}");
    let applied = boards.iter().map(|board| board.applied).min();
    assert!(applied > Some(50), "{applied:?} commands were applied by some board");
    assert!(CALLS.get() > 10_000, "{} calls", CALLS.get());
    assert_eq!(ALLOCATIONS.get(), 0);
}

#[test]
fn an_allocation_would_be_counted() {
    ALLOCATIONS.set(0);
    count(&mut || drop(std::hint::black_box(vec![1u8])));
    assert_eq!(ALLOCATIONS.get(), 1);
}
