//! Snapshots for who is too far behind (Raft §7).

use crate::messages::{board_in, reply};
use crate::support::{Cluster, Setup, at, id};
use quorate::raft::{ProgressState, Role};
use quorate::wire::{Message, Reject};
use quorate::{Index, Term};

#[test]
fn a_follower_that_needs_compacted_entries_gets_the_snapshot_and_the_entries_behind_it() {
    let mut cluster = Cluster::new(Setup::plain(3));
    cluster.elect(1);
    cluster.isolate(3);
    for data in [b"a", b"b", b"c"] {
        cluster.propose(1, data).unwrap();
        cluster.stabilize();
    }
    cluster.snapshot(1);
    cluster.compact(1);
    cluster.cuts.clear();
    cluster.propose(1, b"d").unwrap();
    cluster.beats(3);
    assert_eq!(cluster.board(3).commands(), ["a", "b", "c", "d"]);
    assert_eq!(cluster.board(3).log.base(), cluster.board(1).raft.snapshot());
    assert_eq!(cluster.board(1).state_of(3), ProgressState::Replicate);
}

#[test]
fn a_snapshot_of_what_is_here_already_only_tells_what_is_committed() {
    let mut cluster = Cluster::with_logs(Setup::plain(3), &[&[1, 1, 1]]);
    let message = |id| Message::Snapshot { term: Term(2), id, offset: 0, bytes: 40, check: 0 };
    cluster.step(1, 2, message(at(1, 2)), &[0; 16]);
    assert_eq!(cluster.board_mut(1).terms(), [1, 1, 1]);
    assert_eq!(cluster.board(1).raft.commit(), Index(2));
    cluster.step(1, 2, message(at(1, 1)), &[0; 16]);
    assert_eq!(cluster.board(1).raft.commit(), Index(2), "it never goes back");
    let told: Vec<_> = cluster.sent(1).into_iter().map(|(_, m)| m).collect();
    assert_eq!(told, [reply(2, 2), reply(2, 2)]);
}

#[test]
fn a_board_that_nobody_hears_gets_no_snapshot() {
    let mut cluster = Cluster::new(Setup::new(3));
    cluster.elect(1);
    cluster.isolate(3);
    cluster.propose(1, b"a").unwrap();
    cluster.beats(11);
    cluster.snapshot(1);
    cluster.compact(1);
    cluster.board_mut(1).raft.report_unreachable(id(3));
    cluster.beats(1);
    let to_three = |c: &Cluster| c.out.iter().filter(|l| l.starts_with("1->3 snapshot")).count();
    assert_eq!(to_three(&cluster), 0);
    cluster.cuts.clear();
    cluster.beats(2);
    assert!(to_three(&cluster) > 0);
}

#[test]
fn b16_a_refusal_that_reconnects_the_logs_ends_the_need_of_a_snapshot() {
    // The refusal is of an append that was overtaken by others.
    let mut cluster = board_in(Role::Leader);
    cluster.isolate(3);
    for data in [b"a", b"b", b"c"] {
        cluster.propose(1, data).unwrap();
        cluster.stabilize();
    }
    cluster.snapshot(1);
    cluster.compact(1);
    cluster.board_mut(1).raft.report_unreachable(id(3));
    cluster.tick(1, 100);
    assert_eq!(cluster.board(1).state_of(3), ProgressState::Snapshot);
    let reject = Some(Reject { rejected: Index(5), hint: at(1, 4) });
    let (matched, received) = (Index(4), Index(4));
    let overtaken =
        Message::Reply { term: Term(1), matched, received, round: 0, reject, room: None };
    cluster.step(1, 3, overtaken, &[]);
    assert_ne!(cluster.board(1).state_of(3), ProgressState::Snapshot);
}
