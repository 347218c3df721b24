//! The rules of the Raft paper and of Ongaro's thesis, one test for each, through messages alone.

use crate::support::{Cluster, Setup, at, id};
use quorate::entry::Kind;
use quorate::log::Log;
use quorate::raft::{ProgressState, Role};
use quorate::wire::{Message, Reject};
use quorate::{EntryId, Index, Term};

fn append(term: u64, prev: EntryId, commit: u64) -> Message {
    Message::Append { term: Term(term), prev, commit: Index(commit) }
}

fn beat(term: u64, commit: EntryId) -> Message {
    Message::Heartbeat { term: Term(term), commit, round: 1, reply: true }
}

fn vote_request(term: u64, last: EntryId) -> Message {
    Message::VoteRequest {
        term: Term(term),
        last,
        commit: EntryId::ZERO,
        pre: false,
        transfer: false,
    }
}

fn vote(term: u64, granted: bool) -> Message {
    Message::VoteReply { term: Term(term), commit: EntryId::ZERO, pre: false, granted }
}

fn question(term: u64, last: EntryId) -> Message {
    Message::VoteRequest {
        term: Term(term),
        last,
        commit: EntryId::ZERO,
        pre: true,
        transfer: false,
    }
}

fn reply(term: u64, matched: u64) -> Message {
    let (matched, received) = (Index(matched), Index(matched));
    Message::Reply { term: Term(term), matched, received, round: 0, reject: None, room: None }
}

/// The encoded entries of these terms behind `prev`, each with data that tells term and index.
fn entries(prev: EntryId, terms: &[u64]) -> Vec<u8> {
    let mut log = Box::new(Log::<[u8; 1024]>::new());
    let log: &mut Log = &mut *log;
    log.reset(prev);
    for term in terms {
        let data = format!("{term}.{}", log.last().index.next());
        log.append(Term(*term), Kind::Command, data.as_bytes()).unwrap();
    }
    let mut bytes = vec![0; log.bytes_used()];
    log.copy(prev.index, log.last().index, &mut bytes).unwrap();
    bytes
}

/// Board 1 as follower, candidate or leader of term 1 in a cluster of three, with nothing on its way.
fn board_in(role: Role) -> Cluster {
    let mut cluster = Cluster::new(Setup::plain(3));
    match role {
        Role::Leader => {
            cluster.elect(1);
            cluster.beats(1);
        }
        Role::Candidate => cluster.campaign(1),
        _ => cluster.step(1, 2, beat(1, EntryId::ZERO), &[]),
    }
    cluster.network.clear();
    assert_eq!((cluster.board(1).raft.role(), cluster.board(1).raft.term()), (role, Term(1)));
    cluster
}

fn role(cluster: &Cluster, n: u8) -> (Role, u64) {
    (cluster.board(n).raft.role(), cluster.board(n).raft.term().0)
}

const ROLES: [Role; 3] = [Role::Follower, Role::Candidate, Role::Leader];

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
fn boards_with_one_seed_rarely_time_out_together() {
    // B29: a board's number sets it apart from others with the same seed.
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

// Raft §5.3

#[test]
fn a_leader_appends_a_proposal_and_sends_it_to_everybody() {
    let mut cluster = board_in(Role::Leader);
    let id = cluster.propose(1, b"x").unwrap();
    assert_eq!(id, at(1, 2));
    let want = append(1, at(1, 1), 1);
    assert_eq!(cluster.sent(1), [(2, want), (3, want)]);
}

#[test]
fn an_entry_commits_when_a_majority_holds_it() {
    let table: [(u8, &[u8], bool); 7] = [
        (1, &[], true),
        (3, &[], false),
        (3, &[2], true),
        (5, &[2], false),
        (5, &[2, 4], true),
        (4, &[3], false),
        (4, &[3, 4], true),
    ];
    for (boards, holders, committed) in table {
        let mut cluster = Cluster::new(Setup::plain(boards));
        cluster.elect(1);
        cluster.beats(1);
        let id = cluster.propose(1, b"x").unwrap();
        for from in holders {
            cluster.step(1, *from, reply(1, id.index.0), &[]);
        }
        assert_eq!(cluster.board(1).raft.commit() == id.index, committed, "{boards} {holders:?}");
        assert_eq!(cluster.board(1).commands().len(), usize::from(committed));
    }
}

#[test]
fn a_commit_takes_the_entries_before_it_along() {
    for terms in [&[1][..], &[1, 1], &[1, 2], &[2, 2, 3]] {
        let mut cluster = Cluster::with_logs(Setup::plain(3), &[terms]);
        cluster.elect(1);
        let id = cluster.propose(1, b"x").unwrap();
        assert_eq!(cluster.board(1).raft.commit(), id.index.previous());
        cluster.stabilize();
        let want = terms.len() as u64 + 2;
        for n in 1..=3 {
            assert_eq!(cluster.board(n).raft.commit(), Index(want), "{terms:?}");
            assert_eq!(cluster.board(n).commands().len(), terms.len() + 1);
        }
    }
}

#[test]
fn a_follower_commits_what_the_leader_has_but_never_more_than_it_was_sent() {
    for (commit, want) in [(0, 0), (1, 1), (2, 2), (9, 2)] {
        let mut cluster = board_in(Role::Follower);
        let sent = entries(EntryId::ZERO, &[1, 1]);
        cluster.step(1, 2, append(1, EntryId::ZERO, commit), &sent);
        assert_eq!(cluster.board(1).raft.commit(), Index(want));
        cluster.step(1, 2, append(1, EntryId::ZERO, 0), &[]);
        assert_eq!(cluster.board(1).raft.commit(), Index(want), "it never goes back");
    }
    // What is here beyond what was sent may be another leader's (Raft Figure 2, receiver rule 5).
    let mut cluster = Cluster::with_logs(Setup::plain(3), &[&[1, 1, 1]]);
    cluster.step(1, 2, append(2, at(1, 1), 3), &[]);
    assert_eq!(cluster.board(1).raft.commit(), Index(1));
}

#[test]
fn a_heartbeat_commits_only_what_is_held_with_its_term() {
    for (commit, want) in [(at(1, 2), 2), (at(2, 2), 0), (at(1, 4), 0), (at(0, 2), 0)] {
        let mut cluster = Cluster::with_logs(Setup::plain(3), &[&[1, 1, 1]]);
        cluster.step(1, 2, beat(2, commit), &[]);
        assert_eq!(cluster.board(1).raft.commit(), Index(want), "{commit:?}");
    }
}

#[test]
fn a_follower_refuses_entries_that_do_not_follow_its_log_and_says_where_it_might() {
    let table = [
        (at(1, 1), None),
        (at(2, 2), None),
        (at(1, 2), Some(at(1, 1))),
        (at(2, 3), Some(at(2, 2))),
        (at(1, 5), Some(at(1, 1))),
    ];
    for (prev, hint) in table {
        let mut cluster = Cluster::with_logs(Setup::plain(3), &[&[1, 2]]);
        cluster.step(1, 2, append(3, prev, 0), &[]);
        let sent = cluster.sent(1);
        let [(2, Message::Reply { term, reject, matched, .. })] = sent[..] else {
            panic!("{sent:?}");
        };
        assert_eq!(term, Term(3));
        assert_eq!(reject, hint.map(|hint| Reject { rejected: prev.index, hint }), "{prev:?}");
        assert_eq!(matched, if hint.is_none() { prev.index } else { Index::ZERO });
        assert_eq!(cluster.board_mut(1).terms(), [1, 2]);
    }
}

#[test]
fn a_followers_entries_give_way_only_where_they_conflict() {
    let table: [(EntryId, &[u64], &[u64]); 6] = [
        (at(2, 2), &[3], &[1, 2, 3]),
        (at(1, 1), &[3, 4], &[1, 3, 4]),
        (EntryId::ZERO, &[1], &[1, 2]),
        (EntryId::ZERO, &[1, 2], &[1, 2]),
        (EntryId::ZERO, &[3], &[3]),
        (at(1, 1), &[], &[1, 2]),
    ];
    for (prev, sent, want) in table {
        let mut cluster = Cluster::with_logs(Setup::plain(3), &[&[1, 2]]);
        cluster.step(1, 2, append(5, prev, 0), &entries(prev, sent));
        assert_eq!(cluster.board_mut(1).terms(), want, "{prev:?} {sent:?}");
        assert_eq!(cluster.board(1).disk.entries.len(), want.len(), "flash has the same");
    }
}

#[test]
fn an_entry_of_a_term_after_its_leaders_is_not_taken() {
    let mut cluster = board_in(Role::Follower);
    let sent = entries(EntryId::ZERO, &[1, 2]);
    cluster.step(1, 2, append(1, EntryId::ZERO, 2), &sent);
    assert_eq!((cluster.board(1).log.count(), cluster.board(1).raft.commit()), (0, Index::ZERO));
}

#[test]
fn a_leader_brings_every_log_of_figure_7_in_line_with_its_own() {
    let leader: &[u64] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let figure: [&[u64]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    let mut logs = vec![leader];
    logs.extend(figure);
    let mut cluster = Cluster::with_logs(Setup::plain(7), &logs);
    // In the paper it leads in term 8: (d) had been the leader of term 7.
    cluster.board_mut(1).disk.term = Term(7);
    cluster.boot(1);
    cluster.elect(1);
    cluster.beats(2);
    for n in 1..=7 {
        let want = [leader, &[8]].concat();
        assert_eq!(cluster.board_mut(n).terms(), want, "{n}");
        assert_eq!(cluster.board(n).raft.commit(), Index(11));
        assert_eq!(cluster.board(n).commands().len(), 10);
    }
}

#[test]
fn fast_rejection_asks_at_most_once_for_each_term() {
    // The logs of a leader and a follower, and how many appends it takes until they agree.
    let table: [(&[u64], &[u64], usize); 7] = [
        (&[1, 3, 3, 3, 5, 5, 5, 5, 5], &[1, 1, 1, 1, 2, 2], 2),
        (&[1, 3, 3, 3, 5, 5, 5, 5, 5], &[1, 3, 3, 3, 3, 3, 3, 4], 2),
        (&[1, 1, 1, 1], &[1, 1, 1, 4], 2),
        (&[1, 1, 1, 1, 6, 6], &[1, 1, 1, 1, 4, 4], 2),
        (&[2, 2, 2, 2], &[1, 1, 1, 1, 1, 1], 2),
        (&[1, 1, 1, 5, 5, 5], &[1, 1, 1, 2, 3, 4], 2),
        (&[1, 2, 3, 4, 5, 6, 7], &[1, 1, 1, 1, 1, 1, 1], 2),
    ];
    for (leader, follower, appends) in table {
        let logs = [leader, follower, leader];
        let mut cluster = Cluster::with_logs(Setup::plain(3), &logs);
        for n in 1..=3 {
            cluster.board_mut(n).disk.term = Term(9);
            cluster.boot(n);
        }
        cluster.campaign(1);
        cluster.step(1, 3, vote(10, true), &[]);
        cluster.take(None, Some(3));
        let mut count = 0;
        while cluster.board(2).log.last() != cluster.board(1).log.last() {
            let to_two = cluster.take(Some(1), Some(2));
            assert!(!to_two.is_empty(), "{follower:?} is left behind");
            for sent in to_two {
                count += usize::from(matches!(sent.message(), Message::Append { .. }));
                cluster.deliver_one(&sent);
            }
            cluster.deliver(Some(2), Some(1));
            cluster.take(None, Some(3));
        }
        assert_eq!(count, appends, "{leader:?} {follower:?}");
        assert_eq!(cluster.board(2).log.last().term, Term(10));
    }
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

// Raft §5.4.2, Figure 8

#[test]
fn a_leader_commits_no_entry_of_a_past_term_by_counting() {
    for (matched, want) in [(1, 0), (2, 0), (3, 3)] {
        let mut cluster = Cluster::with_logs(Setup::plain(3), &[&[1, 2]]);
        cluster.campaign(1);
        cluster.step(1, 2, vote(3, true), &[]);
        cluster.step(1, 2, reply(3, matched), &[]);
        assert_eq!(cluster.board(1).raft.commit(), Index(want), "held up to {matched}");
    }
}

#[test]
fn an_entry_on_a_majority_may_be_overwritten_until_the_leaders_own_is_there_as_figure_8_shows() {
    // (a) S1 led term 2 and put entry 2 on S2. (b) S5 led term 3 with an entry of its own.
    let logs: [&[u64]; 5] = [&[1, 2], &[1, 2], &[1], &[1], &[1, 3]];
    let mut cluster = Cluster::with_logs(Setup::plain(5), &logs);
    for n in 1..=5 {
        cluster.board_mut(n).disk.term = Term(3);
        cluster.boot(n);
    }
    // (c) S1 leads term 4 and brings entry 2 to S3, but its own entry to nobody.
    cluster.campaign(1);
    cluster.step(1, 2, vote(4, true), &[]);
    cluster.step(1, 3, vote(4, true), &[]);
    cluster.step(3, 1, append(4, at(1, 1), 0), &entries(at(1, 1), &[2]));
    cluster.step(1, 2, reply(4, 2), &[]);
    cluster.step(1, 3, reply(4, 2), &[]);
    assert_eq!(cluster.board(1).raft.commit(), Index::ZERO, "held by three, and not committed");
    // (d) S1 is gone; S5 is elected by S2 to S4, whose last entries are older, and overwrites it.
    cluster.network.clear();
    cluster.isolate(1);
    for n in 2..=4 {
        cluster.board_mut(n).disk.term = Term(4);
        cluster.boot(n);
    }
    cluster.board_mut(5).disk.term = Term(4);
    cluster.boot(5);
    cluster.elect(5);
    cluster.beats(2);
    for n in 2..=5 {
        assert_eq!(cluster.board_mut(n).terms(), [1, 3, 5], "{n}");
        assert_eq!(cluster.board(n).raft.commit(), Index(3));
    }
}

#[test]
fn a_leader_with_its_own_entry_on_a_majority_can_no_longer_be_overwritten_as_figure_8_shows() {
    let logs: [&[u64]; 5] = [&[1, 2], &[1, 2], &[1, 2], &[1], &[1, 3]];
    let mut cluster = Cluster::with_logs(Setup::plain(5), &logs);
    for n in 1..=5 {
        cluster.board_mut(n).disk.term = Term(3);
        cluster.boot(n);
    }
    // (e) S1's entry of term 4 reaches S2 and S3.
    cluster.isolate(5);
    cluster.isolate(4);
    cluster.elect(1);
    assert_eq!(cluster.board(1).raft.commit(), Index(3));
    cluster.isolate(1);
    cluster.cuts.clear();
    cluster.isolate(1);
    cluster.network.clear();
    cluster.campaign(5);
    cluster.campaign(5);
    cluster.stabilize();
    assert_ne!(cluster.board(5).raft.role(), Role::Leader, "S2 and S3 know better");
    cluster.elect(2);
    cluster.beats(2);
    assert_eq!(cluster.board_mut(5).terms()[..3], [1, 2, 4]);
}

// Raft §5.5, §5.6: what is repeated does no harm.

#[test]
fn a_repeated_append_changes_nothing_and_is_acknowledged_again() {
    let mut cluster = board_in(Role::Follower);
    let sent = entries(EntryId::ZERO, &[1, 1, 1]);
    cluster.step(1, 2, append(1, EntryId::ZERO, 0), &sent);
    cluster.step(1, 2, append(1, EntryId::ZERO, 0), &sent[..3]);
    let first = cluster.sent(1);
    assert_eq!(cluster.board_mut(1).terms(), [1, 1, 1], "a late shorter one cuts nothing off");
    cluster.step(1, 2, append(1, EntryId::ZERO, 0), &sent);
    assert_eq!(cluster.sent(1), first[..1]);
}

// Raft §7

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

// Raft §8

#[test]
fn a_new_leader_commits_what_it_inherited_by_an_empty_entry_of_its_own() {
    let mut cluster = Cluster::with_logs(Setup::plain(3), &[&[1, 1], &[1, 1], &[1, 1]]);
    cluster.elect(1);
    cluster.beats(1);
    for n in 1..=3 {
        assert_eq!(cluster.board(n).raft.commit(), Index(3));
        assert_eq!(cluster.board_mut(n).entries()[2].kind, Kind::Empty);
    }
}

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

// etcd's findings, by their numbers in the reference

#[test]
fn a_late_rejection_never_moves_next_to_what_is_held_already() {
    // B17
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
fn a_board_that_is_caught_up_leaves_the_probe_state_at_the_next_heartbeat() {
    // B15
    let mut cluster = board_in(Role::Leader);
    cluster.board_mut(1).raft.report_unreachable(id(2));
    assert_eq!(cluster.board(1).state_of(2), ProgressState::Probe);
    cluster.beats(1);
    assert_eq!(cluster.board(1).state_of(2), ProgressState::Replicate);
}

#[test]
fn a_reply_that_claims_more_than_the_leader_has_counts_for_nothing() {
    let mut cluster = board_in(Role::Leader);
    cluster.propose(1, b"x").unwrap();
    cluster.step(1, 2, reply(1, 99), &[]);
    assert_eq!(cluster.board(1).raft.commit(), Index(1));
    assert_eq!(cluster.board(1).raft.progress(id(2)).unwrap().matched(), Index(1));
}

#[test]
fn a_leader_is_no_candidate() {
    let mut cluster = board_in(Role::Leader);
    cluster.campaign(1);
    assert_eq!((role(&cluster, 1), cluster.sent(1)), ((Role::Leader, 1), vec![]));
}

#[test]
fn what_an_earlier_leader_sent_is_not_acknowledged_to_the_next_one() {
    // Raft §5.4.3: of an old leader's entries only the committed ones are the new leader's for certain.
    let mut cluster = Cluster::new(Setup::plain(3));
    cluster.step(1, 2, append(1, EntryId::ZERO, 1), &entries(EntryId::ZERO, &[1, 1, 1]));
    assert_eq!(cluster.sent(1), [(2, reply(1, 3))]);
    cluster.step(1, 3, beat(2, EntryId::ZERO), &[]);
    let sent = cluster.sent(1);
    let [(3, Message::Reply { matched, received, .. })] = sent[..] else { panic!("{sent:?}") };
    assert_eq!((matched, received), (Index(1), Index(1)));
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

#[test]
fn a_refusal_that_reconnects_the_logs_ends_the_need_of_a_snapshot() {
    // B16; the refusal is of an append that was overtaken by others.
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
