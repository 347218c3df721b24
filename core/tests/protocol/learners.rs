//! Members without a vote, and boards that are no members (Raft thesis §4.2.1).

use crate::messages::{append, beat, role, vote_request};
use crate::support::{Cluster, Setup, at, id, set};
use quorate::change::{Transition, What};
use quorate::membership::Membership;
use quorate::raft::{ProgressState, Role};
use quorate::wire::Message;
use quorate::{EntryId, Index, Instant, Term};

/// Voters and learners, as given; nobody else.
fn with_learners(voters: &[u8], learners: &[u8]) -> Setup {
    let membership = Membership { learners: set(learners), ..Membership::of_voters(set(voters)) };
    let boards = (voters.len() + learners.len()) as u8;
    Setup { membership: Some(membership), ..Setup::plain(boards) }
}

#[test]
fn a_learner_never_stands_for_election_whoever_asks_it_to() {
    let mut cluster = Cluster::new(with_learners(&[1], &[2]));
    assert_eq!(cluster.board(2).raft.deadline(), Instant::FOREVER);
    cluster.tick(2, 100_000);
    cluster.campaign(2);
    cluster.step(2, 1, beat(1, EntryId::ZERO), &[]);
    cluster.step(2, 1, Message::TimeoutNow { term: Term(1) }, &[]);
    assert_eq!(role(&cluster, 2), (Role::Follower, 1));
    assert!(cluster.sent(2).iter().all(|(_, m)| matches!(m, Message::Reply { .. })));
}

#[test]
fn a_learner_votes_if_it_is_asked_to() {
    // It may have been given a vote without knowing it yet (CC10).
    let mut cluster = Cluster::new(with_learners(&[1], &[2]));
    cluster.step(2, 1, vote_request(1, at(0, 0)), &[]);
    assert_eq!(cluster.board(2).raft.vote(), Some(id(1)));
    let sent = cluster.sent(2);
    assert!(matches!(sent[..], [(1, Message::VoteReply { granted: true, .. })]), "{sent:?}");
}

#[test]
fn a_learner_that_is_given_a_vote_can_be_elected() {
    let mut cluster = Cluster::new(with_learners(&[1], &[2]));
    cluster.elect(1);
    cluster.beats(1);
    cluster.change(1, Transition::Auto, &[(What::AddVoter, 2)]).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.board(2).raft.membership().voters, set(&[1, 2]));
    cluster.elect(2);
    assert_eq!((role(&cluster, 1), role(&cluster, 2)), ((Role::Follower, 2), (Role::Leader, 2)));
}

#[test]
fn a_learner_gets_entries_and_commits_and_counts_for_neither_commits_nor_presence() {
    let setup = Setup { check_quorum: true, ..with_learners(&[1, 2], &[3]) };
    let mut cluster = Cluster::new(setup);
    cluster.elect(1);
    cluster.propose(1, b"x").unwrap();
    cluster.stabilize();
    cluster.beats(1);
    assert_eq!(cluster.board(3).commands(), ["x"]);
    cluster.isolate(2);
    let id = cluster.propose(1, b"y").unwrap();
    cluster.beats(1);
    assert_eq!(cluster.board(3).log.last(), id, "it has the entry");
    assert_eq!(cluster.board(1).raft.commit(), id.index.previous(), "and does not count");
    cluster.beats(25);
    assert_eq!(cluster.board(1).raft.role(), Role::Follower, "nor does its answer");
}

#[test]
fn a_learner_that_is_far_behind_gets_a_snapshot() {
    let mut cluster = Cluster::new(with_learners(&[1], &[2]));
    cluster.isolate(2);
    cluster.elect(1);
    for data in [b"a", b"b", b"c"] {
        cluster.propose(1, data).unwrap();
    }
    cluster.snapshot(1);
    cluster.compact(1);
    cluster.cuts.clear();
    cluster.beats(3);
    assert_eq!(cluster.board(2).commands(), ["a", "b", "c"]);
    assert_eq!(cluster.board(2).raft.membership().learners, set(&[2]));
    assert_eq!(cluster.board(1).state_of(2), ProgressState::Replicate);
}

#[test]
fn a_board_that_is_outside_of_its_own_configuration_follows_and_never_stands() {
    let setup = Setup { check_quorum: true, ..Setup::voters(3, &[1, 2]) };
    let mut cluster = Cluster::new(setup);
    cluster.step(3, 1, append(1, EntryId::ZERO, 0), &[]);
    assert_eq!(cluster.board(3).raft.lead(), Some(id(1)));
    cluster.tick(3, 100_000);
    cluster.step(3, 1, Message::TimeoutNow { term: Term(1) }, &[]);
    cluster.campaign(3);
    assert_eq!(role(&cluster, 3), (Role::Follower, 1));
    cluster.step(3, 2, beat(2, EntryId::ZERO), &[]);
    assert_eq!((role(&cluster, 3).1, cluster.board(3).raft.lead()), (2, Some(id(2))));
}

#[test]
fn an_answer_of_a_board_that_is_no_member_counts_for_nothing() {
    let mut cluster = Cluster::new(Setup::voters(4, &[1, 2, 3]));
    cluster.campaign(1);
    let granted =
        Message::VoteReply { term: Term(1), commit: EntryId::ZERO, pre: false, granted: true };
    cluster.step(1, 4, granted, &[]);
    assert_eq!(role(&cluster, 1), (Role::Candidate, 1));
    cluster.step(1, 2, granted, &[]);
    assert_eq!(role(&cluster, 1), (Role::Leader, 1));
    cluster.step(1, 4, crate::messages::reply(1, 1), &[]);
    assert_eq!(cluster.board(1).raft.commit(), Index::ZERO);
}
