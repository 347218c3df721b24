//! Whole nodes: a cluster that lost its majority is founded again out of one board, on purpose.

use crate::support::{Cluster, id};
use quorate::change::{Step, Transition, What};
use quorate::event::Event;
use quorate::raft::Role;
use quorate::{ClusterId, EntryId, NodeSet};

const NEW: ClusterId = ClusterId([9, 9, 9, 9]);

/// Three boards with a history long enough for a snapshot, and the leader's last command known to itself alone.
fn lost_majority() -> (Cluster, usize) {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    for i in 0..150u8 {
        cluster.hosts[leader].node.propose(&[i; 16]).unwrap();
        cluster.settle();
    }
    cluster.cut = NodeSet::one(id(leader as u8 + 1));
    cluster.hosts[leader].node.propose(b"known to one").unwrap();
    cluster.settle();
    (cluster, leader)
}

#[test]
fn a_board_goes_on_alone_with_all_that_it_holds() {
    let (mut cluster, last) = lost_majority();
    let mut state = cluster.hosts[last].state.clone();
    state.push(12);
    state.extend_from_slice(b"known to one");
    let now = cluster.now;
    cluster.hosts[last].recover(now, NEW);
    cluster.run(5000);
    let host = &mut cluster.hosts[last];
    assert_eq!(host.state, state);
    let status = host.node.status();
    assert_eq!((status.cluster, status.role, status.fault), (NEW, Role::Leader, None));
    let own = NodeSet::one(id(last as u8 + 1));
    assert_eq!(status.membership.members(), own);
    assert_eq!(host.node.members().len(), 1);
    let begins = |event: &Event| matches!(event, Event::Started { last: EntryId::ZERO, .. });
    assert!(host.events.iter().any(begins), "a log of its own: {:?}", host.events);
    host.node.propose(b"goes on").unwrap();
    cluster.run(100);
    // And keeps it all through a power cut.
    let now = cluster.now;
    let state = cluster.hosts[last].state.clone();
    cluster.hosts[last].restart(now);
    cluster.run(5000);
    assert_eq!(cluster.hosts[last].state, state);
    assert_eq!(cluster.hosts[last].node.status().cluster, NEW);
}

#[test]
fn boards_of_the_old_cluster_that_come_back_are_strangers() {
    let (mut cluster, last) = lost_majority();
    let now = cluster.now;
    cluster.hosts[last].recover(now, NEW);
    cluster.run(5000);
    cluster.cut = NodeSet::EMPTY;
    cluster.run(5000);
    let alone = cluster.hosts[last].node.status();
    let others: Vec<_> =
        (0..3).filter(|i| *i != last).map(|i| cluster.hosts[i].node.status()).collect();
    assert_eq!(alone.membership.members().len(), 1);
    assert!(others.iter().all(|other| other.membership.members().len() == 3));
    assert_eq!(others.iter().filter(|other| other.role == Role::Leader).count(), 1);
    assert!(alone.frames_refused > 0);
    assert_eq!(alone.cluster, NEW);
    assert!(others.iter().all(|other| other.cluster != NEW));
}

#[test]
fn new_boards_join_the_recovered_cluster() {
    let (mut cluster, last) = lost_majority();
    let now = cluster.now;
    cluster.hosts[last].recover(now, NEW);
    cluster.run(5000);
    let next = (last + 1) % 3;
    let steps = [Step::new(What::AddLearner, id(next as u8 + 1))];
    cluster.hosts[last].node.change_members(Transition::Auto, &steps, false).unwrap();
    let now = cluster.now;
    cluster.hosts[next] = crate::support::Host::join_cluster(NEW, next as u8 + 1, 77, now);
    cluster.cut = NodeSet::EMPTY;
    cluster.run(5000);
    assert_eq!(cluster.hosts[next].state, cluster.hosts[last].state);
}
