//! Whole nodes: who is heard in which life of a board, what a board without its memory does, what one does that is only
//! getting its state.

use crate::support::{Cluster, Host, config, forged, id};
use quorate::change::{Step, Transition, What};
use quorate::event::{Event, Fault, FrameRefusal};
use quorate::node::Boot;
use quorate::raft::Role;
use quorate::wal::MountError;
use quorate::wire::{self, Message};
use quorate::{EntryId, Generation, Index, Instant, NodeSet, Term};

fn started() -> (Cluster, usize) {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    (cluster, leader)
}

fn change(cluster: &mut Cluster, what: What, host: usize) {
    let leader = cluster.leader().expect("a leader");
    let step = [Step::new(what, id(host as u8 + 1))];
    cluster.hosts[leader].node.change_members(Transition::Auto, &step, false).unwrap();
    cluster.run(500);
}

/// A board that was away, and whose leader has only a snapshot for it.
fn far_behind() -> (Cluster, usize) {
    let (mut cluster, leader) = started();
    let away = (leader + 1) % 3;
    cluster.cut = NodeSet::one(id(away as u8 + 1));
    for i in 0..200u32 {
        let leader = cluster.leader().expect("a leader");
        cluster.hosts[leader].node.propose(&i.to_le_bytes()).unwrap();
        cluster.settle();
    }
    cluster.cut = NodeSet::EMPTY;
    (cluster, away)
}

#[test]
fn b03_a_board_that_has_not_restored_its_snapshot_yet_does_not_stand() {
    let (mut cluster, away) = far_behind();
    let leader = cluster.leader().unwrap();
    let term = cluster.hosts[leader].node.status().term;
    let n = |host: usize| id(host as u8 + 1);
    let nag = forged((n(leader), 1), n(away), Message::TimeoutNow { term }, &[]);
    cluster.hosts[away].nag = Some(nag);
    cluster.run(3000);
    let nagged = &cluster.hosts[away].nagged;
    assert!(nagged.len() > 3, "{nagged:?}");
    assert!(nagged.iter().all(|role| *role == Role::Follower), "{nagged:?}");
    assert_eq!(cluster.hosts[away].state, cluster.hosts[leader].state);
}

#[test]
fn b22_no_entry_is_handed_out_before_the_snapshot_under_it_is_restored() {
    let (mut cluster, away) = far_behind();
    for i in 0..60u32 {
        let leader = cluster.leader().expect("a leader");
        let _ = cluster.hosts[leader].node.propose(&i.to_le_bytes());
        cluster.run(20);
    }
    cluster.run(2000);
    let installed = |event: &Event| matches!(event, Event::SnapshotInstalled { .. });
    assert!(cluster.hosts[away].events.iter().any(installed));
    assert!(!cluster.hosts[away].applied.is_empty(), "entries behind the snapshot");
    assert_eq!(cluster.hosts[away].too_early, 0);
    assert_eq!(cluster.hosts[away].state, cluster.hosts[(away + 1) % 3].state);
    // The same at a start.
    let now = cluster.now;
    cluster.hosts[away].slow = true;
    cluster.hosts[away].restart(now);
    cluster.run(2000);
    assert!(!cluster.hosts[away].applied.is_empty());
    assert_eq!(cluster.hosts[away].too_early, 0);
    assert_eq!(cluster.hosts[away].state, cluster.hosts[(away + 1) % 3].state);
}

#[test]
fn o03_an_answer_of_an_earlier_life_of_a_member_counts_for_nothing() {
    let (mut cluster, leader) = started();
    cluster.hosts[leader].node.propose(b"x").unwrap();
    cluster.run(100);
    let again = (leader + 1) % 3;
    let n = |host: usize| id(host as u8 + 1);
    let term = cluster.hosts[leader].node.status().term;
    // Removed and added again, by hand and within one term; the board itself is out of reach.
    cluster.cut = NodeSet::one(n(again));
    change(&mut cluster, What::Remove, again);
    change(&mut cluster, What::AddLearner, again);
    let now = cluster.now;
    let host = &mut cluster.hosts[leader];
    assert_eq!(host.node.status().term, term);
    let generation = host.node.members().iter().find(|m| m.id == n(again)).unwrap().generation;
    assert_eq!(generation, Generation(2));
    let last = host.node.status().last.index;
    let reply = |matched| {
        let (matched, received) = (Index(matched), Index(matched));
        Message::Reply { term, matched, received, round: 0, reject: None, room: None }
    };
    let matched = |host: &Host| host.node.raft().progress(n(again)).unwrap().matched();
    host.node.handle_frame(now, &forged((n(again), 1), n(leader), reply(last.0), &[]));
    assert_eq!(matched(host), Index::ZERO);
    host.drive(now);
    let refused = FrameRefusal::Stranger { from: n(again) };
    assert!(host.events.contains(&Event::FrameRefused { why: refused }));
    host.node.handle_frame(now, &forged((n(again), 2), n(leader), reply(1), &[]));
    assert_eq!(matched(host), Index(1), "this life is heard");
}

#[test]
fn o06_blank_flash_is_refused_and_what_is_not_here_is_not_committed() {
    let mut host = Host::off();
    host.node.start(Instant::ZERO, &config(1), Boot::Mount).unwrap();
    let said = host.drive(Instant::ZERO);
    let status = host.node.status();
    assert_eq!(status.fault, Some(Fault::Mount(MountError::Unformatted)));
    assert!(
        said.is_empty()
            && host.events.contains(&Event::Stopped(Fault::Mount(MountError::Unformatted)))
    );
    // A leader that knows more to be committed than a board holds stops nobody.
    let (mut cluster, leader) = started();
    let (now, follower) = (cluster.now, (leader + 1) % 3);
    let term = cluster.hosts[leader].node.status().term;
    let commit = EntryId::new(Index(77), term);
    let beat = Message::Heartbeat { term, commit, round: 9, reply: true };
    let n = |host: usize| id(host as u8 + 1);
    cluster.hosts[leader].node.propose(b"x").unwrap();
    for (_, frame) in cluster.hosts[leader].drive(now) {
        cluster.hosts[follower].node.handle_frame(now, &frame);
    }
    cluster.hosts[follower].drive(now);
    cluster.cut = NodeSet::one(n(leader));
    let before = cluster.hosts[follower].node.status();
    assert!(before.commit < before.last.index);
    cluster.hosts[follower].node.handle_frame(now, &forged((n(leader), 1), n(follower), beat, &[]));
    cluster.settle();
    let after = cluster.hosts[follower].node.status();
    assert!(after.running && after.fault.is_none());
    assert_eq!(after.commit, before.commit);
}

#[test]
fn o10_the_status_tells_that_a_joint_configuration_will_be_left_without_being_asked() {
    for (how, auto_leave) in [(Transition::Implicit, true), (Transition::Explicit, false)] {
        let (mut cluster, leader) = started();
        let (now, follower) = (cluster.now, (leader + 1) % 3);
        let n = |host: usize| id(host as u8 + 1);
        let step = [Step::new(What::AddLearner, id(4))];
        cluster.hosts[leader].node.change_members(how, &step, false).unwrap();
        // One round between the two: the change is applied, its end is not.
        for (from, to) in [(leader, follower), (follower, leader)] {
            for (whom, frame) in cluster.hosts[from].drive(now) {
                assert!(whom.contains(n(to)));
                cluster.hosts[to].node.handle_frame(now, &frame);
            }
        }
        cluster.hosts[leader].drive(now);
        let membership = cluster.hosts[leader].node.status().membership;
        assert!(membership.is_joint());
        assert_eq!(membership.auto_leave, auto_leave, "{how:?}");
    }
}

#[test]
fn o11_a_question_of_any_length_does_no_harm() {
    let (mut cluster, leader) = started();
    let (now, other) = (cluster.now, (leader + 1) % 3);
    let term = cluster.hosts[leader].node.status().term;
    let n = |host: usize| id(host as u8 + 1);
    for context in [0, 1, 127, 128, u32::MAX] {
        let ask = Message::ReadIndex { term, context, lease: true };
        let whole = forged((n(other), 1), n(leader), ask, &[]);
        let body = &whole[..whole.len() - 4];
        for len in 0..body.len() {
            let mut frame = body[..len].to_vec();
            frame.resize(len + 4, 0);
            let len = wire::seal(&mut frame, len).unwrap();
            cluster.hosts[leader].node.handle_frame(now, &frame[..len]);
        }
        cluster.settle();
        assert!(cluster.hosts[leader].node.status().running);
    }
    assert!(cluster.hosts[leader].node.status().frames_refused > 50);
    let read = cluster.hosts[leader].node.read(now, false).unwrap();
    cluster.run(300);
    assert!(cluster.hosts[leader].reads.iter().any(|(id, _)| *id == read));
}

#[test]
fn o13_a_board_that_lost_its_flash_gives_no_second_vote() {
    // Without a place it answers nothing.
    let (mut cluster, leader) = started();
    let (now, voted, candidate) = (cluster.now, (leader + 1) % 3, (leader + 2) % 3);
    let n = |host: usize| id(host as u8 + 1);
    let term = cluster.hosts[leader].node.status().term;
    cluster.hosts[voted] = Host::join(voted as u8 + 1, 4711, now);
    for term in [term, term.next()] {
        for pre in [false, true] {
            let last = EntryId::new(Index(99), term);
            let (commit, transfer) = (EntryId::ZERO, true);
            let ask = Message::VoteRequest { term, last, commit, pre, transfer };
            let frame = forged((n(candidate), 1), n(voted), ask, &[]);
            cluster.hosts[voted].node.handle_frame(now, &frame);
        }
    }
    let said: Vec<_> = cluster.hosts[voted].drive(now);
    for (_, frame) in &said {
        let message = wire::decode(frame).unwrap().envelope.message;
        assert!(matches!(message, Message::Join { .. }), "{message:?}");
    }
    // With a place, it is another life: a candidate that counts the first one does not count it.
    cluster.cut = [leader, voted].map(n).into_iter().collect();
    cluster.run(3000);
    let host = &mut cluster.hosts[candidate];
    assert_eq!(host.node.status().role, Role::PreCandidate);
    let now = cluster.now;
    let says = |term: Term, pre, generation| {
        let reply = Message::VoteReply { term, commit: EntryId::ZERO, pre, granted: true };
        forged((n(voted), generation), n(candidate), reply, &[])
    };
    let stands_for = host.node.status().term.next();
    host.node.handle_frame(now, &says(stands_for, true, 2));
    assert_eq!(host.node.status().role, Role::PreCandidate);
    host.node.handle_frame(now, &says(stands_for, true, 1));
    host.drive(now);
    assert_eq!(host.node.status().role, Role::Candidate);
    host.node.handle_frame(now, &says(stands_for, false, 2));
    assert_eq!(host.node.status().role, Role::Candidate);
    host.node.handle_frame(now, &says(stands_for, false, 1));
    assert_eq!(host.node.status().role, Role::Leader);
}
