//! Snapshots for who is too far behind (Raft §7).

use crate::messages::{board_in, reply};
use crate::support::{Cluster, Setup, at, id, set};
use quorate::change::{Transition, What};
use quorate::membership::Membership;
use quorate::raft::{ProgressState, Role};
use quorate::wire::{Message, Reject};
use quorate::{EntryId, Index, Instant, Term};

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

/// Board 3 of three is cut off from the start, and what it misses is compacted.
fn far_behind(setup: Setup) -> Cluster {
    let mut cluster = Cluster::new(setup);
    cluster.isolate(3);
    cluster.elect(1);
    for data in [b"a", b"b", b"c"] {
        cluster.propose(1, data).unwrap();
        cluster.stabilize();
    }
    cluster.snapshot(1);
    cluster.compact(1);
    cluster
}

#[test]
fn b18_while_a_snapshot_is_on_its_way_the_next_entry_is_the_one_behind_it_and_none_is_sent() {
    let mut cluster = far_behind(Setup::plain(3));
    cluster.cuts.clear();
    cluster.tick(1, 100);
    cluster.deliver(None, None);
    cluster.deliver(Some(3), Some(1));
    let snapshot = cluster.board(1).raft.snapshot();
    let progress = *cluster.board(1).raft.progress(id(3)).unwrap();
    assert_eq!(progress.state(), ProgressState::Snapshot);
    assert_eq!(progress.next(), snapshot.index.next());
    cluster.take(Some(1), Some(3));
    cluster.propose(1, b"d").unwrap();
    let to_three: Vec<_> = cluster.take(Some(1), Some(3));
    assert!(to_three.iter().all(|s| !matches!(s.message(), Message::Append { .. })));
    cluster.beats(3);
    assert_eq!(cluster.board(3).commands(), ["a", "b", "c", "d"]);
}

#[test]
fn a_snapshot_that_is_lost_on_its_way_is_sent_again_and_a_newer_one_takes_its_place() {
    let mut cluster = far_behind(Setup::plain(3));
    cluster.cuts.clear();
    cluster.tick(1, 100);
    cluster.deliver(None, None);
    cluster.deliver(Some(3), Some(1));
    let pieces = cluster.take(Some(1), Some(3));
    assert!(pieces.iter().any(|s| matches!(s.message(), Message::Snapshot { .. })));
    cluster.propose(1, b"d").unwrap();
    cluster.stabilize();
    let newer = cluster.snapshot(1);
    cluster.compact(1);
    cluster.beats(3);
    assert_eq!(cluster.board(3).commands(), ["a", "b", "c", "d"]);
    assert_eq!(cluster.board(3).raft.snapshot(), newer);
}

#[test]
fn b04_a_board_that_is_a_member_of_the_outgoing_half_alone_takes_the_snapshot() {
    let mut cluster = Cluster::new(Setup::plain(3));
    cluster.isolate(3);
    cluster.elect(1);
    let steps = [(What::Remove, 3)];
    cluster.change(1, Transition::Explicit, &steps).unwrap();
    cluster.stabilize();
    cluster.propose(1, b"a").unwrap();
    cluster.stabilize();
    cluster.snapshot(1);
    cluster.compact(1);
    cluster.cuts.clear();
    cluster.beats(3);
    let joint = Membership { outgoing: set(&[1, 2, 3]), ..Membership::of_voters(set(&[1, 2])) };
    assert_eq!(*cluster.board(3).raft.membership(), joint);
    assert_eq!(cluster.board(3).commands(), ["a"]);
    // It has a say as long as the outgoing half has.
    cluster.isolate(2);
    let id = cluster.propose(1, b"b").unwrap();
    cluster.beats(1);
    assert_eq!(cluster.board(1).raft.commit(), id.index.previous(), "2 is in both halves");
}

#[test]
fn a_snapshot_makes_a_voter_a_learner_and_a_learner_a_voter() {
    let learner = Membership { learners: set(&[3]), ..Membership::of_voters(set(&[1, 2])) };
    let all = Membership::of_voters(set(&[1, 2, 3]));
    for (from, step, to) in [(all, What::AddLearner, learner), (learner, What::AddVoter, all)] {
        let mut cluster = Cluster::new(Setup { membership: Some(from), ..Setup::plain(3) });
        cluster.isolate(3);
        cluster.elect(1);
        cluster.change(1, Transition::Auto, &[(step, 3)]).unwrap();
        cluster.stabilize();
        cluster.snapshot(1);
        cluster.compact(1);
        cluster.cuts.clear();
        cluster.beats(3);
        assert_eq!(*cluster.board(3).raft.membership(), to);
        // And so it starts again.
        cluster.restart(3);
        assert_eq!(*cluster.board(3).raft.membership(), to);
        let stands = cluster.board(3).raft.deadline() != Instant::FOREVER;
        assert_eq!(stands, step == What::AddVoter);
    }
}

#[test]
fn b35_a_board_that_knows_nobody_takes_the_snapshot_before_the_first_entry() {
    let mut cluster = Cluster::new(Setup::voters(2, &[1]));
    cluster.board_mut(2).disk.membership = Some(Membership::default());
    cluster.boot(2);
    cluster.elect(1);
    cluster.change(1, Transition::Auto, &[(What::AddLearner, 2)]).unwrap();
    cluster.stabilize();
    cluster.beats(3);
    let board = cluster.board(2);
    // All entries are there yet: but who the members were before the first stands in no entry.
    assert_eq!((board.raft.snapshot(), board.log.base()), (EntryId::ZERO, EntryId::ZERO));
    assert_eq!(board.raft.membership(), cluster.board(1).raft.membership());
    assert_eq!(board.raft.membership().members(), set(&[1, 2]));
}

#[test]
fn a_restored_board_goes_on_behind_its_snapshot_and_hands_nothing_out_twice() {
    let mut cluster = far_behind(Setup::plain(3));
    cluster.propose(1, b"d").unwrap();
    cluster.stabilize();
    cluster.restart(1);
    assert_eq!(cluster.board(1).log.base(), cluster.board(1).raft.snapshot());
    assert_eq!(cluster.board(1).commands(), ["a", "b", "c"], "restored; the rest is applied again");
    cluster.cuts.clear();
    cluster.elect(1);
    cluster.beats(3);
    for n in 1..=3 {
        assert_eq!(cluster.board(n).commands(), ["a", "b", "c", "d"], "{n}");
    }
}

#[test]
fn b16_an_acknowledgement_that_reconnects_the_logs_ends_the_need_of_a_snapshot() {
    let mut cluster = far_behind(Setup::plain(3));
    cluster.tick(1, 100);
    cluster.step(1, 3, reply(1, 0), &[]);
    assert_eq!(cluster.board(1).state_of(3), ProgressState::Snapshot);
    // A newer one is to be sent, but the entries behind the first are here yet.
    let first = cluster.board(1).raft.snapshot();
    cluster.propose(1, b"d").unwrap();
    cluster.stabilize();
    assert!(cluster.snapshot(1).index > first.index);
    assert_eq!(cluster.board(1).log.base(), first);
    cluster.step(1, 3, reply(1, first.index.0 - 1), &[]);
    assert_eq!(cluster.board(1).state_of(3), ProgressState::Snapshot);
    cluster.step(1, 3, reply(1, first.index.0), &[]);
    assert_eq!(cluster.board(1).state_of(3), ProgressState::Replicate);
    let sent = cluster.sent(1);
    let entries = |m: &Message| matches!(m, Message::Append { prev, .. } if *prev == first);
    assert!(sent.iter().any(|(to, m)| *to == 3 && entries(m)), "{sent:?}");
}
