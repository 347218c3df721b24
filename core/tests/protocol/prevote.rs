//! Asking before standing, leaders that are heard, leaders that hear nobody (Raft thesis §6.2, §9.6).

use crate::messages::{question, role, vote_request};
use crate::support::{Cluster, Setup, at, id};
use quorate::raft::Role;
use quorate::wire::Message;
use quorate::{EntryId, Term};

// Thesis §9.6: pre-vote

#[test]
fn a_question_changes_neither_term_nor_vote_on_either_side() {
    let mut cluster = Cluster::new(Setup::new(3));
    cluster.campaign(1);
    cluster.deliver(None, None);
    for n in 1..=3 {
        assert_eq!(cluster.board(n).raft.term(), Term::ZERO);
        assert_eq!(cluster.board(n).raft.vote(), None);
    }
    assert_eq!(role(&cluster, 1), (Role::PreCandidate, 0));
}

#[test]
fn a_refused_question_tells_a_term_that_is_behind() {
    let mut cluster = Cluster::with_logs(Setup::new(3), &[&[], &[5], &[5]]);
    cluster.campaign(1);
    cluster.deliver(Some(1), Some(2));
    cluster.deliver(Some(2), Some(1));
    assert_eq!(role(&cluster, 1), (Role::Follower, 5));
}

#[test]
fn an_answer_to_a_question_is_no_vote() {
    let mut cluster = Cluster::new(Setup::new(5));
    cluster.campaign(1);
    let would =
        Message::VoteReply { term: Term(1), commit: EntryId::ZERO, pre: true, granted: true };
    cluster.step(1, 2, would, &[]);
    cluster.step(1, 3, would, &[]);
    assert_eq!(role(&cluster, 1), (Role::Candidate, 1));
    cluster.step(1, 4, would, &[]);
    cluster.step(1, 5, would, &[]);
    assert_eq!(role(&cluster, 1), (Role::Candidate, 1));
    let old = Message::VoteReply { term: Term(9), commit: EntryId::ZERO, pre: true, granted: true };
    cluster.step(1, 4, old, &[]);
    assert_eq!(role(&cluster, 1), (Role::Candidate, 1), "a term that nobody is in yet");
}

// Thesis §6.2: leases and check-quorum

#[test]
fn a_leader_stays_while_a_quorum_answers_and_goes_when_it_does_not() {
    for (silent, stays) in [(&[5][..], true), (&[4, 5], true), (&[3, 4, 5], false)] {
        let mut cluster = Cluster::new(Setup::new(5));
        cluster.elect(1);
        for n in silent {
            cluster.isolate(*n);
        }
        for _ in 0..25 {
            cluster.tick(1, 100);
            cluster.stabilize();
        }
        assert_eq!(cluster.board(1).raft.role() == Role::Leader, stays, "{silent:?}");
        assert_eq!(cluster.board(1).raft.term(), Term(1));
    }
}

#[test]
fn who_hears_its_leader_answers_no_election_unless_the_leader_asked_for_it() {
    let mut cluster = Cluster::new(Setup::new(3));
    cluster.elect(1);
    cluster.beats(1);
    for request in [question(2, at(1, 9)), vote_request(9, at(9, 9))] {
        cluster.step(2, 3, request, &[]);
        cluster.step(1, 3, request, &[]);
        assert_eq!((cluster.sent(2), cluster.sent(1)), (vec![], vec![]));
        assert_eq!((role(&cluster, 2).1, role(&cluster, 1)), (1, (Role::Leader, 1)));
    }
    let transfer = Message::VoteRequest {
        term: Term(2),
        last: at(1, 9),
        commit: EntryId::ZERO,
        pre: false,
        transfer: true,
    };
    cluster.step(2, 3, transfer, &[]);
    let granted = Message::VoteReply { term: Term(2), commit: at(1, 1), pre: false, granted: true };
    assert_eq!(cluster.sent(2), [(3, granted)]);
}

#[test]
fn a_board_of_an_earlier_term_does_not_keep_the_others_from_electing() {
    let mut cluster = Cluster::new(Setup { check_quorum: false, ..Setup::new(3) });
    cluster.isolate(3);
    cluster.elect(1);
    cluster.elect(2);
    cluster.campaign(3);
    assert_eq!(
        (role(&cluster, 2), role(&cluster, 3)),
        ((Role::Leader, 2), (Role::PreCandidate, 0))
    );
    cluster.cuts.clear();
    cluster.isolate(2);
    cluster.campaign(3);
    cluster.campaign(1);
    cluster.stabilize();
    assert_eq!(role(&cluster, 1), (Role::Leader, 3));
    assert_eq!(role(&cluster, 3), (Role::Follower, 3));
}

#[test]
fn two_that_were_both_encouraged_split_the_vote_and_one_wins_later() {
    let mut cluster = Cluster::new(Setup { check_quorum: false, ..Setup::new(3) });
    cluster.elect(1);
    cluster.isolate(1);
    cluster.campaign(2);
    cluster.campaign(3);
    for _ in 0..3 {
        cluster.deliver(Some(2), Some(3));
        cluster.deliver(Some(3), Some(2));
    }
    assert_eq!(
        (role(&cluster, 2), role(&cluster, 3)),
        ((Role::Candidate, 2), (Role::Candidate, 2))
    );
    cluster.campaign(2);
    cluster.stabilize();
    assert_eq!((role(&cluster, 2), role(&cluster, 3)), ((Role::Leader, 3), (Role::Follower, 3)));
}

#[test]
fn a_leader_that_is_heard_is_superseded_only_once_it_is_not() {
    for pre_vote in [false, true] {
        let mut cluster = Cluster::new(Setup { pre_vote, ..Setup::new(3) });
        cluster.elect(1);
        cluster.beats(1);
        cluster.isolate(1);
        cluster.campaign(3);
        cluster.stabilize();
        assert_ne!(cluster.board(3).raft.role(), Role::Leader, "2 hears its leader");
        assert_eq!(role(&cluster, 2), (Role::Follower, 1));
        cluster.board_mut(2).now += 1000;
        cluster.campaign(3);
        cluster.stabilize();
        assert_eq!(cluster.board(3).raft.role(), Role::Leader);
        assert_eq!(cluster.board(2).raft.lead(), Some(id(3)));
    }
}

#[test]
fn a_candidate_that_is_stuck_in_a_later_term_is_freed_by_the_leaders_stepping_down() {
    // 3 came to later terms while it was cut off, without having to ask; from then on it may have to.
    for pre_vote in [false, true] {
        let mut cluster = Cluster::new(Setup { pre_vote: false, ..Setup::new(3) });
        cluster.elect(1);
        cluster.isolate(3);
        (0..3).for_each(|_| cluster.campaign(3));
        cluster.beats(1);
        if pre_vote {
            cluster.setup.pre_vote = true;
            (1..=3).for_each(|n| cluster.restart(n));
            cluster.elect(1);
            cluster.beats(1);
        }
        cluster.cuts.clear();
        let (lead, stuck) = (cluster.board(1).raft.term(), cluster.board(3).raft.term());
        assert!(stuck > lead);
        cluster.campaign(3);
        cluster.stabilize();
        assert_eq!(
            role(&cluster, 1),
            (Role::Leader, lead.0),
            "its lease holds against the request"
        );
        cluster.beats(1);
        assert_ne!(
            cluster.board(1).raft.role(),
            Role::Leader,
            "the answer to its heartbeat tells it"
        );
        for _ in 0..100 {
            cluster.tick_all(100);
            cluster.stabilize();
        }
        let leader = cluster.leader().unwrap();
        assert!(cluster.board(leader).raft.term() > stuck);
        assert!((1..=3).all(|n| cluster.board(n).raft.lead() == Some(id(leader))));
    }
}

#[test]
fn who_lost_its_leader_for_a_while_costs_the_others_theirs_only_if_it_does_not_ask_first() {
    for pre_vote in [false, true] {
        let mut cluster = Cluster::new(Setup { pre_vote, ..Setup::new(3) });
        cluster.elect(1);
        cluster.beats(1);
        cluster.cuts.insert((id(1), id(3)));
        cluster.tick(3, 2000);
        cluster.cuts.clear();
        cluster.stabilize();
        cluster.beats(1);
        assert_eq!(cluster.board(1).raft.role() == Role::Leader, pre_vote);
        assert_eq!(cluster.board(3).raft.lead().is_some(), pre_vote);
    }
}
