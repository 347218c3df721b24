//! Changes of several voters through a joint configuration: both halves decide, and it is left once (Raft §6;
//! thesis §4.3). Changes that only some know to be committed.

use crate::messages::role;
use crate::support::{Cluster, Setup, at, set};
use quorate::change::{ChangeError, Transition, What};
use quorate::entry::Kind;
use quorate::membership::Membership;
use quorate::raft::{ChangeRefused, Role};
use quorate::{Index, NodeSet};

const AUTO: Transition = Transition::Auto;
const IMPLICIT: Transition = Transition::Implicit;
const EXPLICIT: Transition = Transition::Explicit;

fn led(setup: Setup) -> Cluster {
    let mut cluster = Cluster::new(setup);
    cluster.elect(1);
    cluster.beats(1);
    cluster.network.clear();
    cluster
}

fn membership(cluster: &Cluster, n: u8) -> Membership {
    *cluster.board(n).raft.membership()
}

/// Changes of membership in the log, the ends of joint configurations among them.
fn changes(cluster: &mut Cluster, n: u8) -> usize {
    let entries = cluster.board_mut(n).entries();
    entries.iter().filter(|record| record.kind == Kind::Membership).count()
}

#[test]
fn a_change_is_made_at_once_or_through_a_joint_configuration_as_it_asks() {
    let one = [(What::AddVoter, 3)];
    let two = [(What::AddVoter, 3), (What::AddLearner, 4)];
    let swap = [(What::AddLearner, 2), (What::AddVoter, 3)];
    // What was asked for; whether it is left by itself, entries in the log, and voters and learners in the end.
    type Row<'a> = (Transition, &'a [(What, u8)], bool, usize, &'a [u8], &'a [u8]);
    let table: [Row<'_>; 7] = [
        (AUTO, &one, true, 1, &[1, 2, 3], &[]),
        (AUTO, &two, true, 2, &[1, 2, 3], &[4]),
        (AUTO, &swap, true, 2, &[1, 3], &[2]),
        (IMPLICIT, &one, true, 2, &[1, 2, 3], &[]),
        (IMPLICIT, &swap, true, 2, &[1, 3], &[2]),
        (EXPLICIT, &one, false, 2, &[1, 2, 3], &[]),
        (EXPLICIT, &swap, false, 2, &[1, 3], &[2]),
    ];
    for (how, steps, by_itself, entries, voters, learners) in table {
        let mut cluster = led(Setup::voters(4, &[1, 2]));
        cluster.change(1, how, steps).unwrap();
        cluster.stabilize();
        cluster.beats(3);
        let now = membership(&cluster, 1);
        assert_eq!(now.is_joint(), !by_itself, "{how:?} {steps:?}");
        if !by_itself {
            assert_eq!((now.outgoing, now.auto_leave), (set(&[1, 2]), false));
            let another = cluster.change(1, AUTO, &[(What::AddLearner, 4)]);
            assert_eq!(another, Err(ChangeRefused::Change(ChangeError::Joint)));
            cluster.change(1, AUTO, &[]).unwrap();
            cluster.stabilize();
            cluster.beats(3);
        }
        let want = Membership { learners: set(learners), ..Membership::of_voters(set(voters)) };
        for n in want.members().iter() {
            assert_eq!(membership(&cluster, n.get()), want, "{how:?} {steps:?} on {n}");
        }
        assert_eq!(changes(&mut cluster, 1), entries, "{how:?} {steps:?}");
        let again = cluster.change(1, AUTO, &[]);
        assert_eq!(again, Err(ChangeRefused::Change(ChangeError::NotJoint)));
    }
}

/// Voters 1, 2, 3 on their way to 1, 4, 5, and not asked to go on yet.
fn halfway() -> Cluster {
    let mut cluster = led(Setup::voters(5, &[1, 2, 3]));
    let steps = [(What::Remove, 2), (What::Remove, 3), (What::AddVoter, 4), (What::AddVoter, 5)];
    cluster.change(1, EXPLICIT, &steps).unwrap();
    cluster.stabilize();
    cluster.beats(3);
    assert_eq!(
        (membership(&cluster, 5).voters, membership(&cluster, 5).outgoing),
        (set(&[1, 4, 5]), set(&[1, 2, 3]))
    );
    cluster
}

#[test]
fn both_halves_of_a_joint_configuration_have_to_hold_an_entry_and_to_elect() {
    for silent in [[2, 3], [4, 5]] {
        let mut cluster = halfway();
        silent.iter().for_each(|n| cluster.isolate(*n));
        let id = cluster.propose(1, b"x").unwrap();
        cluster.beats(2);
        assert_eq!(cluster.board(1).raft.commit(), id.index.previous(), "without {silent:?}");
        cluster.cuts.clear();
        cluster.beats(2);
        assert_eq!(cluster.board(1).raft.commit(), id.index);
        silent.iter().for_each(|n| cluster.isolate(*n));
        let candidate = if silent[0] == 2 { 4 } else { 2 };
        cluster.campaign(candidate);
        cluster.stabilize();
        assert_ne!(cluster.board(candidate).raft.role(), Role::Leader, "without {silent:?}");
        cluster.cuts.clear();
        cluster.elect(candidate);
    }
}

#[test]
fn b01_a_joint_configuration_is_left_once_whoever_leads() {
    let steps = [(What::Remove, 3), (What::AddVoter, 4)];
    let setup = Setup::voters(4, &[1, 2, 3]);
    // The leader stays.
    let mut cluster = led(setup);
    cluster.change(1, IMPLICIT, &steps).unwrap();
    cluster.stabilize();
    cluster.beats(3);
    left_once(&mut cluster, 1);
    // It is lost before the change is committed; or before it has left; or with the end on one other board.
    for lost_after in 0..3 {
        let mut cluster = led(setup);
        cluster.change(1, IMPLICIT, &steps).unwrap();
        cluster.deliver(Some(1), Some(2));
        if lost_after > 0 {
            cluster.board_mut(1).applies_later = lost_after == 1;
            cluster.deliver(Some(2), Some(1));
            cluster.deliver(Some(1), Some(2));
        }
        let here = cluster.board_mut(1).log.last().index;
        assert_eq!(here, Index(if lost_after == 2 { 3 } else { 2 }));
        cluster.deliver(Some(1), Some(2));
        assert_eq!(cluster.board(2).log.last().index, here);
        cluster.network.clear();
        cluster.isolate(1);
        cluster.elect(2);
        cluster.beats(4);
        left_once(&mut cluster, 2);
        cluster.cuts.clear();
        cluster.board_mut(1).applies_later = false;
        cluster.beats(3);
        left_once(&mut cluster, 1);
    }
}

fn left_once(cluster: &mut Cluster, n: u8) {
    assert_eq!(membership(cluster, n), Membership::of_voters(set(&[1, 2, 4])));
    assert_eq!(changes(cluster, n), 2);
}

#[test]
fn b01_an_end_that_a_transfer_holds_up_is_made_up_for() {
    let mut cluster = led(Setup::voters(4, &[1, 2, 3]));
    cluster.board_mut(1).applies_later = true;
    cluster.change(1, IMPLICIT, &[(What::AddVoter, 4)]).unwrap();
    cluster.stabilize();
    cluster.isolate(3);
    cluster.transfer(1, 3).unwrap();
    cluster.board_mut(1).applies_later = false;
    cluster.beats(2);
    assert!(membership(&cluster, 1).is_joint(), "nothing is proposed meanwhile");
    cluster.beats(10);
    assert_eq!(membership(&cluster, 1), Membership::of_voters(set(&[1, 2, 3, 4])));
    assert_eq!(changes(&mut cluster, 1), 2);
}

#[test]
fn b31_a_change_that_is_void_leaves_no_joint_configuration() {
    let mut cluster = led(Setup { check_changes: false, ..Setup::voters(3, &[1, 2]) });
    cluster.change(1, EXPLICIT, &[(What::AddVoter, 3)]).unwrap();
    cluster.stabilize();
    cluster.beats(2);
    let joint = membership(&cluster, 1);
    assert!(joint.is_joint());
    for (how, steps) in [(AUTO, &[(What::Remove, 2)][..]), (IMPLICIT, &[(What::Remove, 2)])] {
        let id = cluster.change(1, how, steps).unwrap();
        cluster.stabilize();
        cluster.beats(1);
        for n in 1..=3 {
            assert!(cluster.board(n).raft.applied() >= id.index);
            assert_eq!(membership(&cluster, n), joint, "{how:?} on {n}");
        }
    }
}

#[test]
fn o07_a_joint_change_may_remove_all_voters_but_one() {
    let mut cluster = led(Setup::plain(5));
    let steps = [2, 3, 4, 5].map(|n| (What::Remove, n));
    cluster.change(1, AUTO, &steps).unwrap();
    cluster.stabilize();
    assert_eq!(membership(&cluster, 1), Membership::of_voters(set(&[1])));
    // Until it is left, three of the five have to agree: their quorums share a member with those before.
    let mut cluster = led(Setup::plain(5));
    cluster.change(1, EXPLICIT, &steps).unwrap();
    cluster.stabilize();
    assert_eq!(membership(&cluster, 1).voters, set(&[1]));
    [3, 4, 5].iter().for_each(|n| cluster.isolate(*n));
    let id = cluster.propose(1, b"x").unwrap();
    cluster.beats(3);
    assert_eq!(cluster.board(1).raft.commit(), id.index.previous());
    cluster.cuts.clear();
    cluster.beats(3);
    assert_eq!(cluster.board(1).raft.commit(), id.index);
}

/// Boards 2 and 3 are alive and a quorum of the members from now on, 2, 3, 4. Only 3 knows that 1 is removed, and it has
/// the shorter log; 2 needs three votes, for all it knows.
fn known_to_the_shorter_log_alone() -> Cluster {
    let mut cluster = led(Setup::plain(4));
    cluster.change(1, AUTO, &[(What::Remove, 1)]).unwrap();
    cluster.deliver(Some(1), Some(3));
    cluster.propose(1, b"x").unwrap();
    cluster.deliver(Some(1), Some(2));
    cluster.take(Some(1), None);
    cluster.deliver(None, Some(1));
    cluster.deliver(Some(1), Some(3));
    for n in [1, 4] {
        cluster.isolate(n);
    }
    cluster.network.clear();
    assert_eq!((cluster.board(2).log.last(), cluster.board(3).log.last()), (at(1, 3), at(1, 2)));
    let voters: [NodeSet; 2] = [2, 3].map(|n| membership(&cluster, n).voters);
    assert_eq!(voters, [set(&[1, 2, 3, 4]), set(&[2, 3, 4])]);
    cluster
}

#[test]
fn o01_a_vote_request_tells_what_is_committed() {
    let mut cluster = known_to_the_shorter_log_alone();
    cluster.campaign(3);
    cluster.stabilize();
    assert_ne!(role(&cluster, 3).0, Role::Leader, "its log is too short");
    assert_eq!(membership(&cluster, 2).voters, set(&[2, 3, 4]));
    cluster.elect(2);
}

#[test]
fn o01_an_answer_to_a_vote_request_tells_what_is_committed() {
    for pre_vote in [false, true] {
        let mut cluster = known_to_the_shorter_log_alone();
        if pre_vote {
            cluster.setup.pre_vote = true;
            cluster.restart(2);
        }
        cluster.campaign(2);
        cluster.stabilize();
        assert_eq!(membership(&cluster, 2).voters, set(&[2, 3, 4]));
        cluster.elect(2);
    }
}

#[test]
fn o12_of_two_members_the_one_that_was_removed_unknowingly_waits_for_the_other() {
    let mut cluster = led(Setup::plain(2));
    cluster.change(1, AUTO, &[(What::Remove, 2)]).unwrap();
    cluster.deliver(Some(1), Some(2));
    cluster.deliver(Some(2), Some(1));
    cluster.network.clear();
    cluster.isolate(1);
    assert_eq!(membership(&cluster, 1).voters, set(&[1]));
    // It does not know, and must not decide alone.
    assert_eq!(membership(&cluster, 2).voters, set(&[1, 2]));
    for _ in 0..50 {
        cluster.tick(2, 1000);
        assert_ne!(cluster.board(2).raft.role(), Role::Leader);
    }
    // The other one can, also after a restart, and needs nobody.
    cluster.propose(1, b"x").unwrap();
    assert_eq!(cluster.board(1).commands(), ["x"]);
    cluster.restart(1);
    cluster.elect(1);
    cluster.propose(1, b"y").unwrap();
    assert_eq!(cluster.board(1).commands(), ["x", "y"]);
}
