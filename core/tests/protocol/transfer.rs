//! Handing leadership over (Raft thesis §3.10).

use crate::messages::{role, vote_request};
use crate::support::{Cluster, Setup, id, set};
use quorate::Term;
use quorate::change::{Transition, What};
use quorate::entry::Kind;
use quorate::membership::Membership;
use quorate::raft::{ProposeRefused, Role, TransferRefused};
use quorate::wire::Message;

/// Board 1 leads three, all caught up.
fn led(setup: Setup) -> Cluster {
    let mut cluster = Cluster::new(setup);
    cluster.elect(1);
    cluster.beats(1);
    cluster.network.clear();
    cluster
}

/// As [`led`], and board 3 can't be reached: a transfer to it does not get on.
fn held_up() -> Cluster {
    let mut cluster = led(Setup::plain(3));
    cluster.isolate(3);
    cluster.transfer(1, 3).unwrap();
    cluster.stabilize();
    assert_eq!(transferring(&cluster), Some(3));
    cluster
}

fn transferring(cluster: &Cluster) -> Option<u8> {
    cluster.board(1).raft.transferring().map(|id| id.get())
}

/// May board 1 propose?
fn proposes(cluster: &mut Cluster) -> Result<(), ProposeRefused> {
    let board = cluster.board_mut(1);
    board.raft.propose(Kind::Command, b"y", &mut board.log).map(|_| ())
}

#[test]
fn leadership_goes_to_whom_the_leader_hands_it_and_back_whatever_leases_say() {
    for setup in [Setup::plain(3), Setup::new(3)] {
        let mut cluster = led(setup);
        cluster.transfer(1, 2).unwrap();
        cluster.stabilize();
        assert_eq!(
            (role(&cluster, 2), role(&cluster, 1)),
            ((Role::Leader, 2), (Role::Follower, 2))
        );
        cluster.beats(1);
        cluster.transfer(2, 1).unwrap();
        cluster.stabilize();
        assert_eq!(role(&cluster, 1), (Role::Leader, 3));
    }
}

#[test]
fn b06_a_wish_that_a_follower_passes_on_names_who_is_to_lead() {
    for (through, to) in [(2, 2), (2, 3), (3, 2)] {
        let mut cluster = led(Setup::new(3));
        cluster.transfer(through, to).unwrap();
        cluster.stabilize();
        assert_eq!(role(&cluster, to), (Role::Leader, 2), "to {to} through {through}");
    }
    let mut nobody = Cluster::new(Setup::new(3));
    assert_eq!(nobody.transfer(2, 3), Err(TransferRefused::NoLeader));
}

#[test]
fn a_member_that_is_behind_is_brought_up_to_date_first() {
    for compacted in [false, true] {
        let mut cluster = led(Setup::plain(3));
        cluster.isolate(3);
        for data in [b"a", b"b", b"c"] {
            cluster.propose(1, data).unwrap();
            cluster.stabilize();
        }
        if compacted {
            cluster.snapshot(1);
            cluster.compact(1);
        }
        cluster.cuts.clear();
        cluster.transfer(1, 3).unwrap();
        cluster.stabilize();
        cluster.beats(3);
        assert_eq!(role(&cluster, 3), (Role::Leader, 2), "compacted: {compacted}");
        assert_eq!(cluster.board(3).commands(), ["a", "b", "c"]);
    }
}

#[test]
fn a_request_to_take_over_that_is_lost_is_made_again() {
    let mut cluster = led(Setup::plain(3));
    cluster.transfer(1, 3).unwrap();
    let lost = cluster.take(Some(1), Some(3));
    assert!(lost.iter().any(|s| matches!(s.message(), Message::TimeoutNow { .. })));
    cluster.stabilize();
    assert_eq!(role(&cluster, 3), (Role::Follower, 1));
    cluster.beats(1);
    assert_eq!(role(&cluster, 3), (Role::Leader, 2));
    // Late, it has no effect in a later term.
    lost.iter().for_each(|sent| _ = cluster.deliver_one(sent));
    assert_eq!(role(&cluster, 3), (Role::Leader, 2));
}

#[test]
fn leadership_goes_to_a_voter_and_not_to_oneself() {
    let membership = Membership { learners: set(&[3]), ..Membership::of_voters(set(&[1, 2])) };
    let mut cluster = led(Setup { membership: Some(membership), ..Setup::plain(3) });
    assert_eq!(cluster.transfer(1, 1), Err(TransferRefused::Leads));
    assert_eq!(cluster.transfer(1, 3), Err(TransferRefused::NotVoter), "a learner");
    assert_eq!(cluster.transfer(1, 4), Err(TransferRefused::NotVoter), "nobody");
    assert_eq!((role(&cluster, 1), transferring(&cluster)), ((Role::Leader, 1), None));
    assert!(proposes(&mut cluster).is_ok());
}

#[test]
fn nothing_is_proposed_while_leadership_is_handed_over_and_an_election_timeout_ends_that() {
    let mut cluster = held_up();
    assert_eq!(proposes(&mut cluster), Err(ProposeRefused::Transferring));
    cluster.tick(1, 999);
    assert_eq!(transferring(&cluster), Some(3));
    cluster.tick(1, 1);
    assert_eq!(transferring(&cluster), None);
    assert!(proposes(&mut cluster).is_ok());
    assert_eq!(role(&cluster, 1), (Role::Leader, 1));
}

#[test]
fn a_second_request_to_the_same_member_is_none_and_wins_no_time() {
    let mut cluster = held_up();
    cluster.tick(1, 500);
    assert_eq!(cluster.transfer(1, 3), Err(TransferRefused::Pending));
    cluster.tick(1, 500);
    assert_eq!(transferring(&cluster), None);
}

#[test]
fn a_request_to_another_member_takes_the_place_of_the_first() {
    let mut cluster = held_up();
    cluster.transfer(1, 2).unwrap();
    cluster.stabilize();
    assert_eq!(role(&cluster, 2), (Role::Leader, 2));
}

#[test]
fn a_leader_that_is_asked_to_lead_itself_gives_the_handing_over_up() {
    let mut cluster = held_up();
    assert_eq!(cluster.transfer(1, 1), Err(TransferRefused::Leads));
    assert_eq!(transferring(&cluster), None);
    assert!(proposes(&mut cluster).is_ok());
}

#[test]
fn a_later_term_ends_the_handing_over() {
    let mut cluster = held_up();
    let last = cluster.board(1).log.last();
    cluster.step(1, 2, vote_request(2, last), &[]);
    assert_eq!((role(&cluster, 1), transferring(&cluster)), ((Role::Follower, 2), None));
    cluster.cuts.clear();
    cluster.elect(1);
    assert!(proposes(&mut cluster).is_ok());
}

#[test]
fn b05_a_member_that_loses_its_vote_is_not_waited_for() {
    for (what, how) in [
        (What::Remove, Transition::Auto),
        (What::AddLearner, Transition::Auto),
        (What::AddLearner, Transition::Implicit),
    ] {
        let mut cluster = led(Setup::plain(3));
        cluster.board_mut(1).applies_later = true;
        cluster.change(1, how, &[(what, 3)]).unwrap();
        cluster.isolate(3);
        cluster.transfer(1, 3).unwrap();
        cluster.stabilize();
        assert_eq!(transferring(&cluster), Some(3));
        cluster.board_mut(1).applies_later = false;
        cluster.pump(1);
        // In a joint configuration it has its vote yet, and loses it with the end, which waits for the transfer.
        let waits = how == Transition::Implicit;
        assert_eq!(transferring(&cluster), waits.then_some(3), "{what:?}");
        cluster.beats(11);
        assert_eq!(transferring(&cluster), None, "{what:?}");
        assert!(!cluster.board(1).raft.membership().voters().contains(id(3)));
        assert!(proposes(&mut cluster).is_ok());
    }
}

#[test]
fn who_follows_nobody_or_another_is_not_made_a_candidate_by_a_late_request() {
    let mut cluster = led(Setup::plain(3));
    cluster.step(2, 1, Message::TimeoutNow { term: Term(0) }, &[]);
    assert_eq!(role(&cluster, 2), (Role::Follower, 1), "of an earlier term");
    cluster.elect(2);
    cluster.step(2, 1, Message::TimeoutNow { term: Term(2) }, &[]);
    assert_eq!(role(&cluster, 2), (Role::Leader, 2), "it leads already");
}
