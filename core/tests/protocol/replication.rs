//! Entries: appended, taken over, committed (Raft §5.3, §5.4.2).

use crate::messages::{append, beat, board_in, entries, reply, vote};
use crate::support::{Cluster, Setup, at, id};
use quorate::entry::Kind;
use quorate::raft::Role;
use quorate::wire::{Message, Reject};
use quorate::{EntryId, Index, Term};

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
        cluster.step(1, 2, beat(2, EntryId::ZERO), &[]);
        assert_eq!(cluster.board(1).raft.commit(), Index(want), "it never goes back");
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
fn b07_fast_rejection_asks_at_most_once_for_each_term() {
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

#[test]
fn a_reply_that_claims_more_than_the_leader_has_counts_for_nothing() {
    let mut cluster = board_in(Role::Leader);
    cluster.propose(1, b"x").unwrap();
    cluster.step(1, 2, reply(1, 99), &[]);
    assert_eq!(cluster.board(1).raft.commit(), Index(1));
    assert_eq!(cluster.board(1).raft.progress(id(2)).unwrap().matched(), Index(1));
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
