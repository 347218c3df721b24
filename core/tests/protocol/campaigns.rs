//! Elections from end to end, each with and without a question first (Raft §5.2, §5.4; thesis §9.6).

use crate::messages::{ROLES, append, beat, board_in, question, role, vote, vote_request};
use crate::support::{Cluster, Setup, at, id};
use quorate::raft::Role;
use quorate::wire::Message;
use quorate::{EntryId, Index, Term};

/// Boards of either kind.
fn both(boards: u8) -> [Setup; 2] {
    [false, true].map(|pre_vote| Setup { pre_vote, ..Setup::plain(boards) })
}

#[test]
fn who_is_elected_depends_on_who_lives_and_on_their_logs() {
    type Logs<'a> = &'a [&'a [u64]];
    let table: [(Logs<'_>, &[u8], Option<Role>); 7] = [
        (&[&[]], &[], Some(Role::Leader)),
        (&[&[], &[], &[]], &[], Some(Role::Leader)),
        (&[&[], &[], &[]], &[3], Some(Role::Leader)),
        (&[&[], &[], &[]], &[2, 3], None),
        (&[&[], &[], &[], &[]], &[2, 3], None),
        (&[&[], &[], &[], &[], &[]], &[2, 3], Some(Role::Leader)),
        // Three logs are longer: no majority is left.
        (&[&[], &[1], &[1], &[1, 1], &[]], &[], Some(Role::Follower)),
    ];
    for (logs, dead, want) in table {
        for setup in both(logs.len() as u8) {
            let mut cluster = Cluster::with_logs(setup, logs);
            dead.iter().for_each(|n| cluster.isolate(*n));
            cluster.campaign(1);
            cluster.stabilize();
            let waits = if setup.pre_vote { Role::PreCandidate } else { Role::Candidate };
            assert_eq!(cluster.board(1).raft.role(), want.unwrap_or(waits), "{logs:?} {dead:?}");
        }
    }
}

#[test]
fn leadership_can_go_round_and_the_log_goes_on() {
    for setup in both(3) {
        let mut cluster = Cluster::new(setup);
        for (count, n) in (1..).zip((1..=3).chain(1..=3)) {
            cluster.elect(n);
            cluster.propose(n, &[b'0' + n]).unwrap();
            cluster.beats(2);
            let want: Vec<_> = ["1", "2", "3"].into_iter().cycle().take(count).collect();
            assert!(cluster.boards.iter().all(|board| board.commands() == want));
            let roles: Vec<Role> = cluster.boards.iter().map(|b| b.raft.role()).collect();
            assert_eq!(roles.iter().filter(|role| **role == Role::Leader).count(), 1, "{roles:?}");
        }
    }
}

#[test]
fn what_a_lost_leader_of_a_later_term_left_behind_is_overwritten() {
    // Board 3 led term 2 by the votes of 4 and 5, and its entry is on no other board.
    for setup in both(5) {
        let mut cluster = Cluster::with_logs(setup, &[&[1], &[1], &[2], &[], &[]]);
        for n in 3..=5 {
            cluster.board_mut(n).disk.term = Term(2);
            cluster.board_mut(n).disk.vote = Some(id(3));
            cluster.boot(n);
        }
        cluster.campaign(1);
        cluster.stabilize();
        assert_eq!(role(&cluster, 1), (Role::Follower, 2), "three have voted in term 2");
        cluster.campaign(1);
        cluster.stabilize();
        assert_eq!(role(&cluster, 1), (Role::Leader, 3));
        cluster.beats(2);
        for n in 1..=5 {
            assert_eq!(cluster.board_mut(n).terms(), [1, 3], "{n}");
        }
    }
}

#[test]
fn of_two_candidates_one_wins_and_the_other_finds_it() {
    for setup in both(3) {
        let mut cluster = Cluster::new(setup);
        cluster.cuts.extend([(id(1), id(3)), (id(3), id(1))]);
        cluster.campaign(1);
        cluster.campaign(3);
        cluster.stabilize();
        assert_eq!(role(&cluster, 1), (Role::Leader, 1));
        // 2 votes once a term, but may say twice that it would.
        assert_ne!(cluster.board(3).raft.role(), Role::Leader);
        cluster.cuts.clear();
        cluster.campaign(3);
        cluster.stabilize();
        // Its log is shorter: it costs a leader that was not asked first, and nothing else.
        assert_ne!(cluster.board(3).raft.role(), Role::Leader);
        assert_eq!(cluster.board(1).raft.role() == Role::Leader, setup.pre_vote);
        cluster.elect(1);
        cluster.beats(2);
        let leader_log = cluster.board_mut(1).entries();
        for n in 2..=3 {
            assert_eq!(cluster.board_mut(n).entries(), leader_log);
        }
    }
}

#[test]
fn a_candidate_that_was_cut_off_takes_over_the_leaders_log() {
    let mut cluster = Cluster::new(Setup::plain(3));
    cluster.isolate(1);
    cluster.campaign(1);
    cluster.elect(3);
    assert_eq!(role(&cluster, 1), (Role::Candidate, 1));
    cluster.cuts.clear();
    cluster.propose(3, b"x").unwrap();
    cluster.beats(2);
    assert_eq!(role(&cluster, 1), (Role::Follower, 1));
    for n in 1..=3 {
        assert_eq!(cluster.board(n).commands(), ["x"], "{n}");
    }
}

#[test]
fn a_board_votes_in_a_later_term_whatever_it_is() {
    for was in ROLES {
        let last = board_in(was).board(1).log.last();
        let mut cluster = board_in(was);
        cluster.step(1, 2, vote_request(2, last), &[]);
        assert_eq!(role(&cluster, 1), (Role::Follower, 2), "{was:?}");
        assert_eq!(cluster.board(1).raft.vote(), Some(id(2)));
        let mut cluster = board_in(was);
        let (vote, commit) = (cluster.board(1).raft.vote(), cluster.board(1).raft.commit());
        cluster.step(1, 2, question(2, last), &[]);
        // A question changes nothing, whatever the answer.
        assert_eq!(role(&cluster, 1), (was, 1));
        assert_eq!(cluster.board(1).raft.vote(), vote);
        let commit = EntryId::new(commit, Term(commit.0));
        let would = Message::VoteReply { term: Term(2), commit, pre: true, granted: true };
        assert_eq!(cluster.sent(1), [(2, would)], "{was:?}");
    }
}

#[test]
fn b11_a_vote_for_oneself_counts_when_flash_holds_it_and_in_its_own_term() {
    // Another's vote is here before the own one is durable.
    let stands = || {
        let mut cluster = Cluster::new(Setup::plain(3));
        cluster.board_mut(1).manual = true;
        cluster.campaign(1);
        cluster.persist_begins(1);
        cluster.step(1, 2, vote(1, true), &[]);
        assert_eq!(role(&cluster, 1), (Role::Candidate, 1), "one vote of three");
        cluster
    };
    let mut cluster = stands();
    cluster.persist_ends(1);
    assert_eq!(role(&cluster, 1), (Role::Leader, 1));
    // The election is lost meanwhile.
    let mut cluster = stands();
    cluster.step(1, 3, beat(1, EntryId::ZERO), &[]);
    cluster.persist_ends(1);
    assert_eq!(role(&cluster, 1), (Role::Follower, 1));
    // The next one is begun meanwhile: what becomes durable is the vote of the last term.
    let mut cluster = stands();
    cluster.tick(1, 2000);
    assert_eq!(role(&cluster, 1), (Role::Candidate, 2));
    cluster.step(1, 2, vote(2, true), &[]);
    cluster.persist_ends(1);
    assert_eq!(role(&cluster, 1), (Role::Candidate, 2));
    cluster.persist(1);
    assert_eq!(role(&cluster, 1), (Role::Leader, 2));
}

#[test]
fn b12_nothing_outside_of_the_log_has_a_term() {
    // Nothing follows an entry that is not here, and nothing is committed by its name.
    let mut cluster = Cluster::new(Setup::plain(3));
    cluster.step(1, 2, append(1, at(0, 7), 0), &[]);
    let sent = cluster.sent(1);
    assert!(matches!(sent[..], [(2, Message::Reply { reject: Some(_), .. })]), "{sent:?}");
    cluster.step(1, 2, beat(1, at(0, 7)), &[]);
    assert_eq!(cluster.board(1).raft.commit(), Index::ZERO);
    // Behind what is compacted neither.
    let mut cluster = board_in(Role::Leader);
    cluster.snapshot(2);
    cluster.compact(2);
    let log = &mut cluster.board_mut(2).log;
    assert_eq!(
        (log.term(Index(0)), log.term(Index(1)), log.term(Index(2))),
        (None, Some(Term(1)), None)
    );
}
