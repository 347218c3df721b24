//! What a leader sends when: probes, windows, what is sent again, what is told of a commit (Raft §5.3; etcd's tracker).

use crate::messages::{board_in, reply};
use crate::support::{Cluster, Sent, Setup, at, id};
use quorate::entry::Kind;
use quorate::raft::{INFLIGHT_MAX, ProgressState, Role};
use quorate::wire::{APPEND_OVERHEAD_BYTES_MAX, Message, Reject};
use quorate::{Index, Term};

#[test]
fn b17_a_late_rejection_never_moves_next_to_what_is_held_already() {
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
fn b15_a_board_that_is_caught_up_leaves_the_probe_state_at_the_next_heartbeat() {
    let mut cluster = board_in(Role::Leader);
    cluster.board_mut(1).raft.report_unreachable(id(2));
    assert_eq!(cluster.board(1).state_of(2), ProgressState::Probe);
    cluster.beats(1);
    assert_eq!(cluster.board(1).state_of(2), ProgressState::Replicate);
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

/// Appends on their way from board 1 to board 2.
fn appends(cluster: &Cluster) -> usize {
    let fits = |s: &&Sent| {
        s.from == id(1) && s.to == id(2) && matches!(s.message(), Message::Append { .. })
    };
    cluster.network.iter().filter(fits).count()
}

#[test]
fn a_member_that_is_probed_gets_one_append_and_the_next_after_a_heartbeat_is_answered() {
    let mut cluster = board_in(Role::Leader);
    cluster.board_mut(1).raft.report_unreachable(id(2));
    for data in [b"a", b"b", b"c"] {
        cluster.propose(1, data).unwrap();
    }
    assert_eq!(appends(&cluster), 1, "however much is proposed");
    cluster.network.clear();
    // A heartbeat alone changes nothing: it may be lost as well.
    cluster.tick(1, 100);
    assert_eq!((appends(&cluster), cluster.board(1).state_of(2)), (0, ProgressState::Probe));
    cluster.deliver(Some(1), Some(2));
    cluster.deliver(Some(2), Some(1));
    assert_eq!(appends(&cluster), 1);
    cluster.stabilize();
    assert_eq!(cluster.board(2).commands(), ["a", "b", "c"]);
}

#[test]
fn who_was_reported_unreachable_is_probed_from_behind_what_it_holds() {
    let mut cluster = board_in(Role::Leader);
    cluster.propose(1, b"a").unwrap();
    cluster.propose(1, b"b").unwrap();
    let sent_ahead = *cluster.board(1).raft.progress(id(2)).unwrap();
    assert_eq!((sent_ahead.matched(), sent_ahead.next()), (Index(1), Index(4)));
    cluster.board_mut(1).raft.report_unreachable(id(2));
    let probed = *cluster.board(1).raft.progress(id(2)).unwrap();
    assert_eq!((probed.state(), probed.next()), (ProgressState::Probe, Index(2)));
}

#[test]
fn b13_a_full_window_stays_full_however_many_heartbeats_are_answered() {
    let mut cluster = board_in(Role::Leader);
    // Board 2 takes frames and makes nothing durable.
    cluster.board_mut(2).manual = true;
    let mut sent = 0;
    for _ in 0..10 {
        cluster.propose(1, b"x").unwrap();
        sent += appends(&cluster);
        cluster.stabilize();
    }
    assert_eq!(sent, INFLIGHT_MAX);
    for _ in 0..10 {
        cluster.tick(1, 100);
        cluster.deliver(Some(1), None);
        cluster.deliver(None, Some(1));
        assert_eq!(appends(&cluster), 0);
        cluster.stabilize();
    }
    assert_eq!(cluster.board(2).log.last().index, Index(1 + INFLIGHT_MAX as u64));
    // Each acknowledgement moves it on.
    cluster.persist(2);
    cluster.deliver(Some(2), Some(1));
    assert!(appends(&cluster) > 0);
    cluster.board_mut(2).manual = false;
    cluster.persist(2);
    cluster.beats(2);
    assert_eq!(cluster.board(2).commands().len(), 10);
}

#[test]
fn an_acknowledgement_frees_what_it_covers_and_a_stale_one_nothing() {
    let mut cluster = board_in(Role::Leader);
    for _ in 0..INFLIGHT_MAX + 3 {
        cluster.propose(1, b"x").unwrap();
    }
    assert_eq!(appends(&cluster), INFLIGHT_MAX);
    cluster.network.clear();
    for stale in [0, 1] {
        cluster.step(1, 2, reply(1, stale), &[]);
        assert_eq!(appends(&cluster), 0, "{stale}");
    }
    // One of four is acknowledged: there is room for one, and it takes all that waits.
    cluster.step(1, 2, reply(1, 2), &[]);
    assert_eq!(appends(&cluster), 1);
    cluster.step(1, 2, reply(1, 2), &[]);
    assert_eq!(appends(&cluster), 1, "said twice");
    assert_eq!(cluster.board(1).raft.progress(id(2)).unwrap().next(), Index(9));
}

#[test]
fn b14_a_window_that_is_given_up_is_empty() {
    let mut cluster = board_in(Role::Leader);
    cluster.board_mut(2).manual = true;
    for _ in 0..INFLIGHT_MAX {
        cluster.propose(1, b"x").unwrap();
    }
    assert_eq!(appends(&cluster), INFLIGHT_MAX);
    // All are lost. One probe brings them, and is what counts as on its way until they are durable.
    cluster.network.clear();
    cluster.board_mut(1).raft.report_unreachable(id(2));
    cluster.beats(1);
    assert_eq!(cluster.board(1).state_of(2), ProgressState::Replicate);
    assert_eq!(cluster.board(2).log.last(), cluster.board(1).log.last());
    for _ in 0..INFLIGHT_MAX {
        cluster.propose(1, b"y").unwrap();
    }
    assert_eq!(appends(&cluster), INFLIGHT_MAX - 1);
}

#[test]
fn b19_a_commit_is_told_once() {
    let mut cluster = board_in(Role::Leader);
    let news = |cluster: &mut Cluster| {
        let is_news = |m: &Message| matches!(m, Message::Heartbeat { reply: false, .. });
        cluster.sent(1).iter().filter(|(to, m)| *to == 2 && is_news(m)).count()
    };
    cluster.propose(1, b"x").unwrap();
    cluster.deliver(Some(1), None);
    cluster.deliver(None, Some(1));
    assert_eq!(news(&mut cluster), 1, "by two acknowledgements");
    cluster.propose(1, b"y").unwrap();
    cluster.deliver(Some(1), None);
    // What goes out anyway tells it as well.
    let board = cluster.board_mut(1);
    board.raft.propose(Kind::Command, b"z", &mut board.log).unwrap();
    cluster.deliver(Some(2), Some(1));
    assert_eq!(cluster.board(1).commands(), ["x", "y"]);
    assert_eq!(news(&mut cluster), 0);
    cluster.tick(1, 99);
    assert_eq!(news(&mut cluster), 0);
}

#[test]
fn b24_an_append_takes_what_fits_the_frame_and_no_more() {
    let mut cluster = Cluster::new(Setup { frame_bytes: 96, ..Setup::plain(2) });
    let room = cluster.setup.frame_bytes - APPEND_OVERHEAD_BYTES_MAX;
    cluster.elect(1);
    cluster.beats(1);
    cluster.board_mut(1).raft.report_unreachable(id(2));
    cluster.propose(1, b"probe").unwrap();
    cluster.take(Some(1), None);
    for len in [5, 9, 17, 20, 3, 30, 11, 8] {
        cluster.propose(1, &vec![b'x'; len]).unwrap();
    }
    let waiting: Vec<usize> =
        cluster.board_mut(1).entries().iter().skip(1).map(|r| 1 + r.data.len()).collect();
    let mut sizes = Vec::new();
    for _ in 0..6 {
        cluster.tick(1, 100);
        for sent in cluster.take(Some(1), Some(2)) {
            let frame = quorate::wire::decode(&sent.bytes).unwrap();
            if matches!(frame.envelope.message, Message::Append { .. }) {
                sizes.push(frame.payload.len());
            }
            cluster.deliver_one(&sent);
        }
        cluster.deliver(Some(2), Some(1));
    }
    // As many whole entries as fit, each time.
    let mut want = vec![0];
    for bytes in waiting {
        match want.last_mut() {
            Some(last) if *last + bytes <= room => *last += bytes,
            _ => want.push(bytes),
        }
    }
    assert_eq!(sizes, want);
    assert_eq!(cluster.board(2).log.last(), cluster.board(1).log.last());
}

#[test]
fn entries_that_are_proposed_together_travel_together() {
    let mut cluster = board_in(Role::Leader);
    let board = cluster.board_mut(1);
    for data in [b"a", b"b", b"c"] {
        board.raft.propose(Kind::Command, data, &mut board.log).unwrap();
    }
    cluster.pump(1);
    assert_eq!(appends(&cluster), 1);
    cluster.stabilize();
    assert_eq!(cluster.board(2).commands(), ["a", "b", "c"]);
}

#[test]
fn a_heartbeats_answer_that_shows_a_member_behind_is_answered_with_entries() {
    let mut cluster = board_in(Role::Leader);
    cluster.propose(1, b"x").unwrap();
    cluster.network.clear();
    // Lost, and noticed by the answer to a heartbeat that was sent after it.
    cluster.tick(1, 100);
    cluster.deliver(Some(1), Some(2));
    assert_eq!(appends(&cluster), 0);
    cluster.deliver(Some(2), Some(1));
    assert_eq!(appends(&cluster), 1);
    cluster.stabilize();
    cluster.tick(1, 100);
    cluster.deliver(Some(1), Some(2));
    cluster.deliver(Some(2), Some(1));
    assert_eq!(appends(&cluster), 0, "nothing is missing any more");
}

#[test]
fn o05_one_heartbeat_serves_all_and_commits_what_its_receiver_holds() {
    let mut cluster = board_in(Role::Leader);
    cluster.propose(1, b"x").unwrap();
    cluster.deliver(Some(1), None);
    // 2 has acknowledged, 3 as well, but that is lost: the leader does not know that 3 has it.
    cluster.deliver(Some(2), Some(1));
    cluster.network.clear();
    assert_eq!(cluster.board(1).raft.progress(id(3)).unwrap().matched(), Index(1));
    cluster.tick(1, 100);
    let beats = cluster.take(Some(1), None);
    assert_eq!(beats.len(), 2);
    assert_eq!(beats[0].message(), beats[1].message());
    beats.iter().for_each(|sent| _ = cluster.deliver_one(sent));
    assert_eq!((cluster.board(2).commands().len(), cluster.board(3).commands().len()), (1, 1));
}
