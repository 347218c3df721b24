//! Whole nodes: members that are added, removed, and come back without their memory.

use crate::support::{Cluster, Host, id};
use quorate::change::{ChangeError, Step, Transition, What};
use quorate::event::Event;
use quorate::node::ChangeMembersError;
use quorate::raft::Role;
use quorate::{EntryId, Generation, NodeSet};

fn set(ids: &[u8]) -> NodeSet {
    ids.iter().map(|n| id(*n)).collect()
}

/// Proposes a change at the leader and lets it take effect everywhere.
fn change(cluster: &mut Cluster, how: Transition, steps: &[(What, u8)]) -> EntryId {
    let steps: Vec<_> = steps.iter().map(|(what, n)| Step::new(*what, id(*n))).collect();
    let leader = cluster.leader().expect("a leader");
    let done = cluster.hosts[leader].node.change_members(how, &steps, false).unwrap();
    cluster.run(500);
    done
}

fn propose(cluster: &mut Cluster, command: &[u8]) {
    let leader = cluster.leader().expect("a leader");
    cluster.hosts[leader].node.propose(command).unwrap();
    cluster.settle();
}

fn same_everywhere(cluster: &Cluster) {
    for host in &cluster.hosts {
        assert_eq!(host.state, cluster.hosts[0].state, "{:?}", host.node.status());
        let (a, b) = (host.node.status(), cluster.hosts[0].node.status());
        assert_eq!(a.membership, b.membership);
        assert_eq!(host.node.members(), cluster.hosts[0].node.members());
    }
}

#[test]
fn a_new_board_joins_as_a_learner_and_votes_once_it_has_caught_up() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    for i in 0..150u8 {
        propose(&mut cluster, &[i; 16]);
    }
    let leader = cluster.leader().unwrap();
    let early = [Step::new(What::AddVoter, id(4))];
    let refused = cluster.hosts[leader].node.change_members(Transition::Auto, &early, false);
    assert_eq!(refused, Err(ChangeMembersError::NotCaughtUp { id: id(4) }));
    change(&mut cluster, Transition::Auto, &[(What::AddLearner, 4)]);
    cluster.hosts.push(Host::join(4, 77, cluster.now));
    cluster.run(5000);
    let admitted = |event: &Event| matches!(event, Event::Admitted { .. });
    assert!(cluster.hosts[3].events.iter().any(admitted));
    assert_eq!(cluster.hosts[3].node.status().membership.learners, set(&[4]));
    same_everywhere(&cluster);
    change(&mut cluster, Transition::Auto, &[(What::AddVoter, 4)]);
    propose(&mut cluster, b"with four");
    cluster.run(500);
    same_everywhere(&cluster);
    assert_eq!(cluster.hosts[0].node.status().membership.voters, set(&[1, 2, 3, 4]));
}

#[test]
fn a_board_that_lost_its_flash_comes_back_under_its_number_and_gets_its_vote_back() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    for i in 0..150u8 {
        propose(&mut cluster, &[i; 16]);
    }
    let lost = (cluster.leader().unwrap() + 1) % 3;
    let n = lost as u8 + 1;
    cluster.hosts[lost] = Host::off();
    cluster.run(3000);
    cluster.hosts[lost] = Host::join(n, 4711, cluster.now);
    cluster.run(10_000);
    for i in 0..20u8 {
        propose(&mut cluster, &[i; 7]);
    }
    cluster.run(500);
    same_everywhere(&cluster);
    let status = cluster.hosts[lost].node.status();
    assert_eq!(status.generation, Generation(2));
    assert_eq!(status.membership.voters, set(&[1, 2, 3]));
    assert!(status.membership.learners.is_empty());
    // It counts: with it and one other a leader is elected and commits.
    let leader = cluster.leader().unwrap();
    let other = (0..3).find(|i| *i != leader && *i != lost).unwrap();
    cluster.cut = if leader == lost { set(&[other as u8 + 1]) } else { set(&[leader as u8 + 1]) };
    cluster.run(10_000);
    propose(&mut cluster, b"by two");
    cluster.cut = NodeSet::EMPTY;
    cluster.run(3000);
    same_everywhere(&cluster);
}

#[test]
fn a_board_that_has_the_beginning_of_one_leader_s_snapshot_is_sent_that_of_the_next() {
    for seed in 1..10u64 {
        let mut cluster = Cluster::new(5);
        cluster.run(2000);
        for i in 0..150u8 {
            propose(&mut cluster, &[i; 16]);
        }
        let leader = cluster.leader().unwrap();
        let lost = (leader + 1) % 5;
        cluster.hosts[lost] = Host::off();
        cluster.run(3000);
        let leader = cluster.leader().unwrap();
        cluster.hosts[lost] = Host::join(lost as u8 + 1, 4711, cluster.now);
        // Pieces are lost: the leader goes before the snapshot is whole.
        cluster.noise = seed;
        let seen =
            |cluster: &Cluster, of: fn(&Event) -> bool| cluster.hosts[lost].events.iter().any(of);
        while !seen(&cluster, |event| matches!(event, Event::Started { .. })) {
            cluster.run(5);
        }
        cluster.run(seed as u32 % 3 * 50);
        cluster.noise = 0;
        cluster.cut = set(&[leader as u8 + 1]);
        cluster.run(10_000);
        cluster.cut = NodeSet::EMPTY;
        cluster.run(2000);
        let installed = seen(&cluster, |event| matches!(event, Event::SnapshotInstalled { .. }));
        assert!(installed, "{seed}: {:?}", cluster.hosts[lost].node.status());
        same_everywhere(&cluster);
    }
}

#[test]
fn a_member_that_lives_keeps_its_place_whoever_asks_for_it() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().unwrap();
    let asked = (leader + 1) % 3;
    let mut babbler = Host::join(asked as u8 + 1, 99, cluster.now);
    for _ in 0..50 {
        for (_, frame) in babbler.drive(cluster.now) {
            cluster.hosts[leader].node.handle_frame(cluster.now, &frame);
        }
        cluster.run(100);
        babbler.node.handle_timeout(cluster.now);
    }
    same_everywhere(&cluster);
    assert_eq!(cluster.hosts[asked].node.status().generation, Generation(1));
    assert!(cluster.hosts[0].node.members().iter().all(|m| m.generation == Generation(1)));
}

#[test]
fn a_board_whose_place_was_given_away_is_told_so_and_is_not_heard() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let lost = (cluster.leader().unwrap() + 1) % 3;
    let n = lost as u8 + 1;
    // The old board is only out of reach.
    let old = std::mem::replace(&mut cluster.hosts[lost], Host::off());
    cluster.run(3000);
    cluster.hosts[lost] = Host::join(n, 1, cluster.now);
    cluster.run(10_000);
    assert_eq!(cluster.hosts[lost].node.status().generation, Generation(2));
    cluster.hosts[lost] = old;
    cluster.run(10_000);
    let told = Event::Displaced { generation: Generation(2) };
    assert!(cluster.hosts[lost].events.contains(&told));
    propose(&mut cluster, b"the others go on");
}

#[test]
fn without_a_quorum_beside_it_a_lost_board_has_to_wait_and_is_told_so() {
    let mut cluster = Cluster::new(2);
    cluster.run(2000);
    let leader = cluster.leader().unwrap();
    let lost = 1 - leader;
    let mut blank = Host::join(lost as u8 + 1, 5, cluster.now);
    cluster.cut = set(&[lost as u8 + 1]);
    for _ in 0..100 {
        for (_, frame) in blank.drive(cluster.now) {
            cluster.hosts[leader].node.handle_frame(cluster.now, &frame);
        }
        cluster.run(100);
        blank.node.handle_timeout(cluster.now);
    }
    let left = &cluster.hosts[leader];
    let waits = Event::NoQuorumWithout { id: id(lost as u8 + 1) };
    assert!(left.events.contains(&waits));
    assert!(left.node.members().iter().all(|m| m.generation == Generation(1)));
    // The board that was only out of reach is a member as before.
    cluster.cut = NodeSet::EMPTY;
    cluster.run(3000);
    propose(&mut cluster, b"both again");
    cluster.run(500);
    same_everywhere(&cluster);
}

#[test]
fn many_members_change_at_once_through_a_joint_configuration_that_is_left_once() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let learners = [(What::AddLearner, 4), (What::AddLearner, 5)];
    for learner in learners {
        change(&mut cluster, Transition::Auto, &[learner]);
        cluster.hosts.push(Host::join(learner.1, u32::from(learner.1), cluster.now));
        cluster.run(5000);
    }
    let before = cluster.hosts[0].node.status().last.index;
    let leader = cluster.leader().unwrap() as u8 + 1;
    let away = (1..=3).find(|n| *n != leader).unwrap();
    let steps = [(What::AddVoter, 4), (What::AddVoter, 5), (What::Remove, away)];
    change(&mut cluster, Transition::Auto, &steps);
    let removed = cluster.hosts.iter().enumerate().filter(|(i, _)| *i as u8 + 1 != away);
    for (_, host) in removed {
        let membership = host.node.status().membership;
        assert!(!membership.is_joint() && !membership.voters.contains(id(away)));
        assert_eq!(membership.voters.len(), 4);
    }
    // The change, and its end: no more (B1).
    assert_eq!(cluster.hosts[usize::from(leader) - 1].node.status().last.index.0, before.0 + 2);
}

#[test]
fn a_leader_that_is_removed_steps_down_and_the_others_elect_another() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().unwrap();
    change(&mut cluster, Transition::Auto, &[(What::Remove, leader as u8 + 1)]);
    assert_eq!(cluster.hosts[leader].node.status().role, Role::Follower);
    cluster.run(10_000);
    let next = cluster.leader().unwrap();
    assert_ne!(next, leader);
    // The one that was removed disturbs nobody.
    let term = cluster.hosts[next].node.status().term;
    cluster.run(10_000);
    assert_eq!(cluster.hosts[next].node.status().term, term);
}

#[test]
fn changes_follow_one_another() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().unwrap();
    let node = &mut cluster.hosts[leader].node;
    let add = |n| [Step::new(What::AddLearner, id(n))];
    assert!(node.change_members(Transition::Auto, &add(4), false).is_ok());
    let refused = node.change_members(Transition::Auto, &add(5), false);
    assert_eq!(refused, Err(ChangeMembersError::Pending));
    cluster.run(500);
    let node = &mut cluster.hosts[leader].node;
    assert!(node.change_members(Transition::Auto, &add(5), false).is_ok());
    cluster.run(500);
    let refused = cluster.hosts[leader].node.change_members(Transition::Auto, &[], false);
    assert_eq!(refused, Err(ChangeMembersError::Change(ChangeError::NotJoint)));
}
