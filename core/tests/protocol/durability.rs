//! What flash does not hold yet counts for nothing, and what it has held of other entries neither (etcd's RD3, AS2).

use crate::messages::{append, beat, board_in, entries, reply, role, vote_request};
use crate::support::{Cluster, Setup, at, id};
use quorate::entry::Entries;
use quorate::event::Events;
use quorate::log::Appended;
use quorate::raft::{Raft, Restored, Role};
use quorate::wire::Message;
use quorate::{EntryId, Index, Instant, Term};

#[test]
fn b10_a_single_voter_commits_and_applies_what_flash_holds() {
    let mut cluster = Cluster::new(Setup::plain(1));
    cluster.elect(1);
    cluster.board_mut(1).manual = true;
    cluster.propose(1, b"x").unwrap();
    cluster.persist_begins(1);
    cluster.propose(1, b"y").unwrap();
    assert_eq!((cluster.board(1).raft.commit(), cluster.board(1).commands().len()), (Index(1), 0));
    cluster.persist_ends(1);
    assert_eq!(cluster.board(1).raft.commit(), Index(2));
    assert_eq!(cluster.board(1).commands(), ["x"]);
}

#[test]
fn a_leader_counts_its_own_entry_when_it_is_durable() {
    let mut cluster = board_in(Role::Leader);
    cluster.board_mut(1).manual = true;
    let id = cluster.propose(1, b"x").unwrap();
    cluster.step(1, 2, reply(1, 2), &[]);
    assert_eq!(cluster.board(1).raft.commit(), id.index.previous(), "one of three");
    cluster.persist(1);
    assert_eq!(cluster.board(1).raft.commit(), id.index);
}

#[test]
fn b11_a_write_of_a_leader_that_ends_in_a_later_term_acknowledges_nothing_of_its_own() {
    let mut cluster = board_in(Role::Leader);
    cluster.board_mut(1).manual = true;
    cluster.propose(1, b"x").unwrap();
    cluster.persist_begins(1);
    cluster.step(1, 2, reply(1, 2), &[]);
    cluster.step(1, 3, beat(2, EntryId::ZERO), &[]);
    cluster.network.clear();
    cluster.persist_ends(1);
    assert_eq!(
        (role(&cluster, 1), cluster.board(1).raft.commit()),
        ((Role::Follower, 2), Index(1))
    );
    // What it tells the new leader is what that one must have too: nothing of what it appended itself.
    cluster.persist(1);
    let sent = cluster.sent(1);
    let held = |m: &Message| matches!(m, Message::Reply { matched: Index(1), .. });
    assert!(!sent.is_empty() && sent.iter().all(|(to, m)| *to == 3 && held(m)), "{sent:?}");
}

#[test]
fn b26_a_write_of_entries_that_were_replaced_meanwhile_makes_none_durable() {
    for again in [false, true] {
        let mut cluster = board_in(Role::Follower);
        cluster.board_mut(1).manual = true;
        // Entries of term 1 are being written; a leader of term 2 replaces them; and then come others at the same
        // places, or the same once more.
        cluster.step(1, 2, append(1, EntryId::ZERO, 0), &entries(EntryId::ZERO, &[1, 1]));
        cluster.persist_begins(1);
        cluster.step(1, 3, append(2, EntryId::ZERO, 0), &entries(EntryId::ZERO, &[2]));
        let terms: &[u64] = if again { &[1, 1] } else { &[3, 3] };
        let log = &mut cluster.board_mut(1).log;
        let appended = log.append_entries(
            Entries::new(EntryId::ZERO, &entries(EntryId::ZERO, terms)),
            Index::ZERO,
        );
        assert_eq!(appended, Appended::UpTo(Index(2)));
        cluster.network.clear();
        cluster.board_mut(1).raft.forget_leader();
        cluster.board_mut(1).persist_ends();
        assert_eq!(cluster.board(1).log.durable(), Index::ZERO, "again: {again}");
        cluster.board_mut(1).persist_begins();
        cluster.board_mut(1).persist_ends();
        assert_eq!(cluster.board(1).log.durable(), Index(2));
    }
}

#[test]
fn b33_a_vote_that_is_given_during_a_write_is_in_the_next_one_and_said_behind_it() {
    let mut cluster = board_in(Role::Follower);
    cluster.board_mut(1).manual = true;
    cluster.step(1, 2, append(1, EntryId::ZERO, 0), &entries(EntryId::ZERO, &[1]));
    cluster.persist_begins(1);
    cluster.step(1, 3, vote_request(2, at(1, 1)), &[]);
    assert_eq!(cluster.board(1).raft.vote(), Some(id(3)));
    cluster.persist_ends(1);
    assert_eq!((cluster.board(1).disk.term, cluster.board(1).disk.vote), (Term(1), None));
    let voted = |m: &Message| matches!(m, Message::VoteReply { .. });
    assert!(!cluster.sent(1).iter().any(|(_, m)| voted(m)), "flash holds no vote yet");
    cluster.persist(1);
    assert!(cluster.sent(1).iter().any(|(to, m)| *to == 3 && voted(m)));
}

#[test]
fn b32_no_board_sends_a_message_to_itself() {
    // The host refuses any; here is that each kind is owed to oneself by nobody.
    for setup in [Setup::new(1), Setup::plain(1), Setup::new(3)] {
        let mut cluster = Cluster::new(setup);
        cluster.elect(1);
        cluster.propose(1, b"x").unwrap();
        assert!(cluster.read(1, false).is_some());
        cluster.beats(3);
        assert_eq!(cluster.board(1).commands(), ["x"]);
        assert!(!cluster.out.iter().any(|line| line.starts_with("1->1")));
        assert_eq!(cluster.out.iter().any(|line| line.starts_with("1->")), setup.boards > 1);
    }
}

#[test]
fn b36_numbers_at_their_end_are_refused_and_count_no_further() {
    let mut cluster = Cluster::new(Setup::plain(3));
    let board = cluster.board_mut(1);
    let mut events = Events::new();
    let end = Index(u64::MAX);
    // Past the check of frames, which ends them at 2^42: the protocol itself.
    for prev in [EntryId::new(end, Term(1)), EntryId::new(end.previous(), Term(1))] {
        let one = entries(EntryId::new(Index(0), Term(1)), &[1]);
        let message = Message::Append { term: Term(1), prev, commit: end };
        board.raft.step(Instant::ZERO, id(2), &message, &one, &mut board.log, &mut events);
        assert_eq!((board.raft.commit(), board.log.count()), (Index::ZERO, 0));
    }
    let commit = EntryId::new(end, Term(1));
    let beat = Message::Heartbeat { term: Term(1), commit, round: u32::MAX, reply: true };
    board.raft.step(Instant::FOREVER, id(2), &beat, &[], &mut board.log, &mut events);
    assert_eq!(board.raft.commit(), Index::ZERO);
    // A log that ends there takes nothing more.
    let log = &mut board.log;
    log.reset(EntryId::new(end, Term(1)));
    let mut raft = Raft::new();
    let restored =
        Restored { term: Term(u64::MAX), commit: end, applied: end, ..Restored::default() };
    let options = quorate::raft::Options {
        election_ms: u32::MAX,
        heartbeat_ms: u32::MAX,
        pre_vote: false,
        check_quorum: true,
        step_down_on_removal: true,
        check_changes: true,
        lease_ms: u32::MAX,
        silent_ms: u32::MAX,
        seed: u64::MAX,
    };
    raft.start(Instant::FOREVER, id(1), options, &restored, log);
    let message =
        Message::Append { term: Term(u64::MAX), prev: EntryId::new(end, Term(1)), commit: end };
    let more = entries(EntryId::new(Index(0), Term(1)), &[1, 1]);
    raft.step(Instant::FOREVER, id(2), &message, &more, log, &mut events);
    assert_eq!((log.last().index, raft.commit()), (end, end));
}
