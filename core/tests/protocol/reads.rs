//! Reads that see what was acknowledged before, by a round of heartbeats or by lease (Raft thesis §6.4).

use crate::messages::{question, role, vote, vote_request};
use crate::support::{Cluster, Sent, Setup, id, set};
use quorate::change::{Transition, What};
use quorate::membership::Membership;
use quorate::raft::{READS_MAX, Role};
use quorate::wire::Message;
use quorate::{EntryId, Term};

/// Board 1 leads, its first entry is committed, and `x` is applied everywhere.
fn led(setup: Setup) -> Cluster {
    let mut cluster = Cluster::new(setup);
    cluster.elect(1);
    cluster.propose(1, b"x").unwrap();
    cluster.stabilize();
    cluster.beats(1);
    cluster
}

#[test]
fn a_read_on_any_member_sees_all_that_was_committed_before_it() {
    let membership = Membership { learners: set(&[4]), ..Membership::of_voters(set(&[1, 2, 3])) };
    let mut cluster = led(Setup { membership: Some(membership), ..Setup::plain(4) });
    for (count, n) in (2..).zip([1, 2, 3, 4, 1, 4]) {
        // 4 may hear of the commit later than it asks; what it shows has to wait for that.
        cluster.propose(1, b"y").unwrap();
        cluster.deliver(Some(1), Some(2));
        cluster.deliver(Some(2), Some(1));
        let read = cluster.read(n, false).unwrap();
        assert_eq!(cluster.answered(n, read), None, "nobody was asked yet");
        cluster.stabilize();
        cluster.beats(1);
        assert_eq!(cluster.answered(n, read), Some(count), "on {n}");
    }
}

#[test]
fn a_read_waits_for_a_quorum_that_answers() {
    let mut cluster = led(Setup::plain(5));
    [3, 4, 5].iter().for_each(|n| cluster.isolate(*n));
    let read = cluster.read(1, false).unwrap();
    cluster.beats(5);
    assert_eq!(cluster.answered(1, read), None);
    cluster.cuts.clear();
    cluster.beats(1);
    assert_eq!(cluster.answered(1, read), Some(1), "the next heartbeat asks again");
}

#[test]
fn b08_a_read_of_a_leader_that_has_committed_nothing_yet_waits_for_that() {
    for from in [1, 2] {
        // What is committed of the last term is known to nobody yet.
        let mut cluster = Cluster::with_logs(Setup::plain(3), &[&[1], &[1], &[1]]);
        cluster.campaign(1);
        cluster.network.clear();
        cluster.step(1, 2, vote(2, true), &[]);
        assert_eq!((role(&cluster, 1).0, cluster.board(1).raft.commit().0), (Role::Leader, 0));
        // A quorum answers its heartbeats, and nobody gets its entries.
        cluster.tick(1, 100);
        let deliver = |cluster: &mut Cluster, from, to| {
            cluster.network.retain(|s| !matches!(s.message(), Message::Append { .. }));
            cluster.deliver(from, to);
        };
        deliver(&mut cluster, Some(1), None);
        let read = cluster.read(from, false).unwrap();
        for _ in 0..3 {
            deliver(&mut cluster, None, Some(1));
            deliver(&mut cluster, Some(1), None);
        }
        assert_eq!(cluster.board(1).raft.commit().0, 0);
        assert_eq!(cluster.answered(from, read), None);
        cluster.stabilize();
        cluster.beats(2);
        assert_eq!(cluster.answered(from, read), Some(1), "on {from}");
    }
}

#[test]
fn b09_a_late_heartbeat_answer_confirms_no_later_read() {
    let mut cluster = led(Setup::plain(3));
    let early = cluster.read(1, false).unwrap();
    cluster.deliver(Some(1), None);
    let late: Vec<Sent> = cluster.take(None, Some(1));
    assert!(late.iter().any(|s| matches!(s.message(), Message::Reply { .. })));
    // Nobody waits for the first read any more, and another leads.
    cluster.board_mut(1).raft.cancel_read(early);
    cluster.isolate(1);
    cluster.elect(2);
    cluster.propose(2, b"newer").unwrap();
    cluster.stabilize();
    assert_eq!(cluster.board(1).raft.role(), Role::Leader, "for all it knows");
    let read = cluster.read(1, false).unwrap();
    cluster.cuts.clear();
    cluster.take(Some(2), None);
    for sent in &late {
        cluster.deliver_one(sent);
        cluster.deliver_one(sent);
    }
    assert_eq!(cluster.answered(1, read), None, "they were given before the read began");
    cluster.beats(2);
    assert_eq!(cluster.answered(1, read), Some(2));
}

#[test]
fn b09_an_answer_to_a_read_of_an_earlier_life_answers_none_of_this_one() {
    let mut cluster = led(Setup::plain(3));
    cluster.read(2, false).unwrap();
    cluster.deliver(Some(2), Some(1));
    cluster.deliver(Some(1), Some(3));
    cluster.deliver(Some(3), Some(1));
    let answers = cluster.take(Some(1), Some(2));
    let is_answer = |s: &&Sent| matches!(s.message(), Message::ReadIndexReply { .. });
    assert_eq!(answers.iter().filter(is_answer).count(), 1);
    cluster.setup.seed += 1;
    cluster.snapshot(2);
    cluster.restart(2);
    assert_eq!(cluster.board(2).commands(), ["x"]);
    cluster.propose(1, b"newer").unwrap();
    cluster.deliver(Some(1), Some(3));
    cluster.deliver(Some(3), Some(1));
    cluster.take(None, Some(2));
    cluster.tick(1, 100);
    cluster.deliver(Some(1), Some(2));
    cluster.board_mut(2).applies_later = true;
    let read = cluster.read(2, false).unwrap();
    answers.iter().for_each(|sent| _ = cluster.deliver_one(sent));
    assert_eq!(cluster.answered(2, read), None);
}

#[test]
fn a_lost_answer_or_question_only_delays_a_read() {
    let mut cluster = led(Setup::plain(3));
    for lost in 0..4 {
        let read = cluster.read(2, false).unwrap();
        for _ in 0..lost {
            cluster.deliver(None, None);
        }
        cluster.network.clear();
        assert_eq!(cluster.answered(2, read), None);
        cluster.beats(3);
        assert!(cluster.answered(2, read).is_some(), "lost after {lost} steps");
    }
}

#[test]
fn answered_reads_take_no_room() {
    let mut cluster = led(Setup::plain(3));
    for _ in 0..5 {
        let reads: Vec<u32> = (0..READS_MAX).map(|_| cluster.read(1, false).unwrap()).collect();
        assert_eq!(cluster.read(1, false), None, "the limit");
        cluster.stabilize();
        assert!(reads.iter().all(|read| cluster.answered(1, *read).is_some()));
    }
}

#[test]
fn a_follower_that_asks_a_leader_of_the_past_is_answered_by_the_present_one() {
    let mut cluster = led(Setup::plain(3));
    cluster.isolate(3);
    cluster.elect(2);
    cluster.propose(2, b"newer").unwrap();
    cluster.stabilize();
    cluster.cuts.clear();
    // For all 3 knows, 1 leads.
    let read = cluster.read(3, false).unwrap();
    cluster.deliver(Some(3), Some(1));
    assert_eq!(cluster.network.iter().filter(|s| s.from == id(1)).count(), 0);
    cluster.beats(3);
    assert_eq!(cluster.answered(3, read), Some(2));
}

#[test]
fn a_leader_that_is_the_only_voter_asks_nobody() {
    let membership = Membership { learners: set(&[2]), ..Membership::of_voters(set(&[1])) };
    let mut cluster = led(Setup { membership: Some(membership), ..Setup::plain(2) });
    let learners = cluster.read(2, false).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.answered(2, learners), Some(1));
    cluster.isolate(2);
    let own = cluster.read(1, false).unwrap();
    assert_eq!(cluster.answered(1, own), Some(1), "at once");
}

#[test]
fn o08_reads_complete_where_the_voters_shrink_to_the_leader() {
    let mut cluster = led(Setup::plain(2));
    cluster.board_mut(1).applies_later = true;
    cluster.change(1, Transition::Auto, &[(What::Remove, 2)]).unwrap();
    cluster.stabilize();
    cluster.isolate(2);
    let read = cluster.read(1, false).unwrap();
    assert_eq!(cluster.answered(1, read), None);
    cluster.board_mut(1).applies_later = false;
    cluster.pump(1);
    assert_eq!(cluster.answered(1, read), Some(1));
}

#[test]
fn o09_a_leader_that_steps_down_keeps_no_read_of_others() {
    let mut cluster = led(Setup::plain(3));
    let reads: Vec<u32> = (0..READS_MAX).map(|_| cluster.read(3, false).unwrap()).collect();
    cluster.deliver(Some(3), Some(1));
    assert_eq!(cluster.read(1, false), None, "all places are taken");
    cluster.elect(2);
    assert!(cluster.read(1, false).is_some());
    cluster.beats(3);
    assert!(reads.iter().all(|read| cluster.answered(3, *read).is_some()), "2 has answered them");
    assert!(!cluster.out.iter().any(|line| line.starts_with("1->3 read reply")));
}

#[test]
fn by_lease_a_leader_answers_itself_and_its_followers_without_asking_until_the_lease_ends() {
    let setup = Setup { lease_ms: 900, ..Setup::new(3) };
    let mut cluster = led(setup);
    let own = cluster.read(1, true).unwrap();
    assert_eq!(cluster.answered(1, own), Some(1), "at once");
    cluster.isolate(3);
    let followers = cluster.read(2, true).unwrap();
    cluster.deliver(Some(2), Some(1));
    cluster.deliver(Some(1), Some(2));
    assert_eq!(cluster.answered(2, followers), Some(1), "after one question and one answer");
    cluster.isolate(2);
    cluster.board_mut(1).now += 900;
    let late = cluster.read(1, true).unwrap();
    assert_eq!(cluster.answered(1, late), None);
}

#[test]
fn o04_the_request_to_take_over_ends_the_lease_for_the_term() {
    let mut cluster = led(Setup { lease_ms: 900, ..Setup::new(3) });
    cluster.transfer(1, 2).unwrap();
    cluster.network.clear();
    let read = cluster.read(1, true).unwrap();
    assert_eq!(cluster.answered(1, read), None);
    // Nor does it come back when the transfer has come to nothing.
    cluster.stabilize();
    cluster.take(None, None);
    cluster.isolate(2);
    cluster.beats(12);
    assert_eq!(
        (role(&cluster, 1), cluster.board(1).raft.transferring()),
        ((Role::Leader, 1), None)
    );
    cluster.isolate(3);
    let read = cluster.read(1, true).unwrap();
    assert_eq!(cluster.answered(1, read), None);
}

#[test]
fn what_a_board_promised_its_leader_holds_in_later_terms_as_well() {
    // A refusal of the time before this leader, on its way for long, takes board 2 to a later term: it knows no leader
    // then, but 1 still counts on its silence.
    let mut cluster = led(Setup { lease_ms: 900, silent_ms: 1000, ..Setup::new(3) });
    cluster.isolate(3);
    cluster.beats(1);
    let late =
        Message::VoteReply { term: Term(5), commit: EntryId::ZERO, pre: true, granted: false };
    cluster.step(2, 3, late, &[]);
    assert_eq!((role(&cluster, 2), cluster.board(2).raft.lead()), ((Role::Follower, 5), None));
    cluster.network.clear();
    let last = cluster.board(1).log.last();
    let asks = [question(6, last), vote_request(5, last), vote_request(6, last)];
    for ask in asks {
        cluster.step(2, 3, ask, &[]);
        assert_eq!(cluster.sent(2), [], "{ask:?}");
    }
    assert_eq!(cluster.board(2).raft.vote(), None);
    let read = cluster.read(1, true).unwrap();
    assert_eq!(cluster.answered(1, read), Some(1), "by its lease");
    // It is over when the lease is.
    cluster.board_mut(2).now += 1000;
    cluster.step(2, 3, vote_request(6, last), &[]);
    assert_eq!(cluster.board(2).raft.vote(), Some(id(3)));
}
