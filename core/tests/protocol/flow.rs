//! What a leader sends when: probes, windows, what is sent again, what is told of a commit (Raft §5.3; etcd's tracker).

use crate::messages::{board_in, reply};
use crate::support::{at, id};
use quorate::raft::{ProgressState, Role};
use quorate::wire::{Message, Reject};
use quorate::{Index, Term};

#[test]
fn b17_a_late_rejection_never_moves_next_to_what_is_held_already() {
    let mut cluster = board_in(Role::Leader);
    for data in [b"a", b"b", b"c"] {
        cluster.propose(1, data).unwrap();
    }
    cluster.step(1, 2, reply(1, 4), &[]);
    cluster.sent(1);
    let late = |rejected: u64, hint| {
        let reject = Some(Reject { rejected: Index(rejected), hint });
        let none = Index::ZERO;
        Message::Reply {
            term: Term(1),
            matched: none,
            received: none,
            round: 0,
            reject,
            room: None,
        }
    };
    for rejected in 0..=4 {
        cluster.step(1, 2, late(rejected, at(0, 0)), &[]);
        let progress = cluster.board(1).raft.progress(id(2)).unwrap();
        assert_eq!((progress.matched(), progress.next()), (Index(4), Index(5)));
        assert_eq!(progress.state(), ProgressState::Replicate);
    }
    assert_eq!(
        cluster.sent(1).iter().filter(|(to, _)| *to == 2).count(),
        0,
        "no answers to old news"
    );
}

#[test]
fn b15_a_board_that_is_caught_up_leaves_the_probe_state_at_the_next_heartbeat() {
    let mut cluster = board_in(Role::Leader);
    cluster.board_mut(1).raft.report_unreachable(id(2));
    assert_eq!(cluster.board(1).state_of(2), ProgressState::Probe);
    cluster.beats(1);
    assert_eq!(cluster.board(1).state_of(2), ProgressState::Replicate);
}

#[test]
fn entries_that_a_power_cut_took_out_of_memory_are_sent_again() {
    let mut cluster = board_in(Role::Leader);
    cluster.board_mut(2).manual = true;
    cluster.propose(1, b"x").unwrap();
    cluster.stabilize();
    // A probe finds them in memory, and nothing else is proposed that would show that they are gone.
    cluster.board_mut(1).raft.report_unreachable(id(2));
    cluster.beats(2);
    let progress = cluster.board(1).raft.progress(id(2)).unwrap();
    assert_eq!((progress.matched(), progress.next()), (Index(1), Index(3)));
    assert_eq!(progress.state(), ProgressState::Replicate);
    cluster.board_mut(2).manual = false;
    cluster.restart(2);
    assert_eq!(cluster.board(2).log.last(), at(1, 1));
    cluster.beats(3);
    assert_eq!(cluster.board(2).commands(), ["x"]);
}
