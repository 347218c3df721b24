//! Terms, elections and votes (Raft §5.1, §5.2, §5.4.1).

use crate::messages::{
    ROLES, append, beat, board_in, entries, question, reply, role, vote, vote_request,
};
use crate::support::{Cluster, Setup, at, id};
use quorate::raft::Role;
use quorate::wire::Message;
use quorate::{EntryId, Term};

// Raft §5.1

#[test]
fn a_higher_term_makes_anybody_a_follower_of_it() {
    for was in ROLES {
        for (message, lead) in [
            (append(2, EntryId::ZERO, 0), Some(id(2))),
            (beat(2, EntryId::ZERO), Some(id(2))),
            (reply(2, 0), None),
            (vote(2, false), None),
        ] {
            let mut cluster = board_in(was);
            cluster.step(1, 2, message, &[]);
            assert_eq!(role(&cluster, 1), (Role::Follower, 2), "{was:?} {message:?}");
            assert_eq!(cluster.board(1).raft.lead(), lead, "{was:?} {message:?}");
            assert_eq!(cluster.board(1).disk.term, Term(2), "the term is durable");
        }
    }
}

#[test]
fn a_message_of_a_past_term_changes_nothing() {
    for was in ROLES {
        let mut cluster = board_in(was);
        cluster.step(1, 2, beat(1, EntryId::ZERO), &[]);
        cluster.step(1, 3, reply(3, 0), &[]);
        let before = cluster.board_mut(1).entries();
        let stale = entries(EntryId::ZERO, &[1, 1, 1]);
        cluster.step(1, 2, append(2, EntryId::ZERO, 3), &stale);
        cluster.step(1, 2, beat(2, EntryId::ZERO), &[]);
        cluster.step(1, 2, vote(2, true), &[]);
        cluster.step(1, 2, vote_request(2, at(2, 9)), &[]);
        assert_eq!(role(&cluster, 1), (Role::Follower, 3), "{was:?}");
        assert_eq!(cluster.board(1).raft.lead(), None);
        assert_eq!(cluster.board_mut(1).entries(), before);
        assert_eq!(cluster.board(1).raft.vote(), None);
    }
}

// Raft §5.2

#[test]
fn a_board_starts_as_a_follower() {
    let cluster = Cluster::new(Setup::plain(3));
    assert!((1..=3).all(|n| role(&cluster, n) == (Role::Follower, 0)));
}

#[test]
fn a_leader_sends_a_heartbeat_to_everybody_each_interval() {
    let mut cluster = board_in(Role::Leader);
    cluster.tick(1, 99);
    assert_eq!(cluster.sent(1), []);
    cluster.tick(1, 1);
    let sent = cluster.sent(1);
    assert_eq!(sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [2, 3]);
    assert!(sent.iter().all(|(_, m)| matches!(m, Message::Heartbeat { reply: true, .. })));
}

#[test]
fn a_follower_that_hears_nothing_for_an_election_timeout_stands_for_election() {
    let mut cluster = board_in(Role::Follower);
    cluster.tick(1, 999);
    assert_eq!(role(&cluster, 1).0, Role::Follower);
    cluster.tick(1, 1001);
    assert_eq!(role(&cluster, 1), (Role::Candidate, 2));
    assert_eq!(cluster.board(1).raft.vote(), Some(id(1)));
    let last = cluster.board(1).log.last();
    assert_eq!(cluster.sent(1), [(2, vote_request(2, last)), (3, vote_request(2, last))]);
}

#[test]
fn a_heard_leader_holds_an_election_off() {
    let mut cluster = board_in(Role::Follower);
    for _ in 0..10 {
        cluster.tick(1, 900);
        cluster.step(1, 2, beat(1, EntryId::ZERO), &[]);
    }
    assert_eq!(role(&cluster, 1), (Role::Follower, 1));
}

#[test]
fn a_candidate_without_an_outcome_starts_a_new_election() {
    let mut cluster = board_in(Role::Candidate);
    cluster.tick(1, 2000);
    assert_eq!(role(&cluster, 1), (Role::Candidate, 2));
    let last = EntryId::ZERO;
    assert_eq!(cluster.sent(1), [(2, vote_request(2, last)), (3, vote_request(2, last))]);
}

#[test]
fn a_candidate_wins_with_a_majority_loses_against_one_and_waits_else() {
    let table: [(u8, &[bool], Role); 9] = [
        (1, &[], Role::Leader),
        (3, &[true], Role::Leader),
        (3, &[false, true], Role::Leader),
        (3, &[false], Role::Candidate),
        (3, &[false, false], Role::Follower),
        (5, &[true], Role::Candidate),
        (5, &[true, false, false], Role::Candidate),
        (5, &[true, true], Role::Leader),
        (5, &[true, false, false, false], Role::Follower),
    ];
    for (boards, votes, want) in table {
        let mut cluster = Cluster::new(Setup::plain(boards));
        cluster.campaign(1);
        for (from, granted) in (2..).zip(votes) {
            cluster.step(1, from, vote(1, *granted), &[]);
            // A repeated or changed answer counts for nothing.
            cluster.step(1, from, vote(1, !granted), &[]);
        }
        assert_eq!(role(&cluster, 1), (want, 1), "{boards} {votes:?}");
    }
}

#[test]
fn a_board_votes_for_one_candidate_a_term_the_first_that_asks() {
    let mut cluster = Cluster::new(Setup::plain(3));
    cluster.step(1, 2, vote_request(1, EntryId::ZERO), &[]);
    cluster.step(1, 3, vote_request(1, EntryId::ZERO), &[]);
    cluster.step(1, 2, vote_request(1, EntryId::ZERO), &[]);
    assert_eq!(cluster.sent(1), [(2, vote(1, true)), (3, vote(1, false)), (2, vote(1, true))]);
    cluster.restart(1);
    cluster.step(1, 3, vote_request(1, EntryId::ZERO), &[]);
    cluster.step(1, 3, vote_request(2, EntryId::ZERO), &[]);
    assert_eq!(cluster.sent(1), [(3, vote(1, false)), (3, vote(2, true))]);
}

#[test]
fn a_candidate_that_hears_a_leader_of_its_term_or_a_later_one_follows_it() {
    for term in [1, 2] {
        for message in [append(term, EntryId::ZERO, 0), beat(term, EntryId::ZERO)] {
            let mut cluster = board_in(Role::Candidate);
            cluster.step(1, 2, message, &[]);
            assert_eq!(role(&cluster, 1), (Role::Follower, term));
            assert_eq!(cluster.board(1).raft.lead(), Some(id(2)));
            assert_eq!(cluster.board(1).raft.vote(), (term == 1).then_some(id(1)), "SM4");
        }
    }
}

#[test]
fn a_second_leader_in_a_term_is_not_believed() {
    let mut cluster = board_in(Role::Leader);
    cluster.step(1, 2, beat(1, EntryId::ZERO), &[]);
    assert_eq!(role(&cluster, 1), (Role::Leader, 1));
    let mut cluster = board_in(Role::Follower);
    cluster.step(1, 3, append(1, EntryId::ZERO, 1), &entries(EntryId::ZERO, &[1]));
    assert_eq!(cluster.board(1).raft.lead(), Some(id(2)));
    assert_eq!(cluster.board(1).log.count(), 0);
    assert_eq!(cluster.checks.impossible_frames, 1);
}

#[test]
fn a_leader_is_no_candidate() {
    let mut cluster = board_in(Role::Leader);
    cluster.campaign(1);
    assert_eq!((role(&cluster, 1), cluster.sent(1)), ((Role::Leader, 1), vec![]));
}

#[test]
fn election_timeouts_are_spread_over_the_second_half_and_redrawn_each_time() {
    for was in [Role::Follower, Role::Candidate] {
        let mut cluster = board_in(was);
        let mut seen = [0; 10];
        for _ in 0..1000 {
            let (before, term) = (cluster.board(1).now, cluster.board(1).raft.term());
            while cluster.board(1).raft.term() == term {
                cluster.timeout(1);
            }
            let waited = cluster.board(1).now - before;
            assert!((1000..2000).contains(&waited), "{waited}");
            seen[(waited as usize - 1000) / 100] += 1;
            if was == Role::Follower {
                cluster.step(1, 2, beat(term.0 + 1, EntryId::ZERO), &[]);
            }
            cluster.network.clear();
        }
        assert!(seen.iter().all(|count| (50..200).contains(count)), "{was:?}: {seen:?}");
    }
}

#[test]
fn b29_boards_with_one_seed_rarely_time_out_together() {
    // A board's number sets it apart from others with the same seed.
    let mut together = 0;
    for seed in 0..500 {
        let cluster = Cluster::new(Setup { seed, ..Setup::plain(5) });
        let mut deadlines: Vec<u64> =
            cluster.boards.iter().map(|b| b.raft.deadline().as_millis()).collect();
        deadlines.sort_unstable();
        together += usize::from(deadlines[1] - deadlines[0] < 10);
    }
    assert!(together < 50, "{together} of 500");
}

// Raft §5.4.1

#[test]
fn a_vote_is_given_only_to_a_log_that_is_as_up_to_date() {
    let table: [(&[u64], EntryId, bool); 9] = [
        (&[1], at(1, 1), true),
        (&[1], at(1, 2), true),
        (&[1, 1], at(1, 1), false),
        (&[1], at(2, 1), true),
        (&[1], at(2, 2), true),
        (&[1, 1], at(2, 1), true),
        (&[2], at(1, 1), false),
        (&[2], at(1, 2), false),
        (&[2, 1 + 1], at(1, 9), false),
    ];
    for (log, last, granted) in table {
        for pre in [false, true] {
            let mut cluster = Cluster::with_logs(Setup::plain(2), &[log]);
            let request = if pre { question(3, last) } else { vote_request(3, last) };
            cluster.step(1, 2, request, &[]);
            // A refused question is answered in the voter's own term.
            let term = if pre && !granted { log[0] } else { 3 };
            let want = Message::VoteReply { term: Term(term), commit: EntryId::ZERO, pre, granted };
            assert_eq!(cluster.sent(1), [(2, want)], "{log:?} {last:?}");
        }
    }
}

#[test]
fn a_candidate_claims_only_what_flash_holds() {
    let mut cluster = Cluster::new(Setup::new(3));
    cluster.step(1, 2, append(1, EntryId::ZERO, 0), &entries(EntryId::ZERO, &[1]));
    cluster.board_mut(1).manual = true;
    cluster.step(1, 2, append(1, at(1, 1), 0), &entries(at(1, 1), &[1]));
    cluster.network.clear();
    cluster.campaign(1);
    assert_eq!(cluster.sent(1), [(2, question(2, at(1, 1))), (3, question(2, at(1, 1)))]);
}
