//! Whole nodes: bytes in, bytes out, with a storage in memory.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod node_support;

use node_support::{Cluster, id};
use quorate::NodeSet;
use quorate::node::ProposeError;

fn same_everywhere(cluster: &Cluster) {
    for host in &cluster.hosts {
        assert_eq!(host.state, cluster.hosts[0].state, "{:?}", host.node.status());
    }
}

#[test]
fn three_nodes_elect_a_leader_and_apply_its_commands_with_four_frames_each() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    let frames = cluster.frames;
    for i in 0..20u8 {
        cluster.hosts[leader].node.propose(&[i; 16]).unwrap();
        cluster.settle();
    }
    assert_eq!(cluster.frames - frames, 80);
    for host in &cluster.hosts {
        assert_eq!(host.applied.len(), 20);
        assert!(host.applied.iter().zip(0u8..).all(|((_, c), i)| *c == [i; 16]));
    }
}

#[test]
fn a_log_that_fills_up_is_compacted_and_goes_on() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    for i in 0..200u32 {
        cluster.hosts[leader].node.propose(&i.to_le_bytes()).unwrap();
        cluster.settle();
    }
    assert!(cluster.hosts[leader].node.status().snapshot.index.0 > 100);
    same_everywhere(&cluster);
    assert_eq!(cluster.hosts[leader].applied.len(), 200);
}

#[test]
fn a_node_that_was_away_too_long_gets_a_snapshot() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    let away = (leader + 1) % 3;
    cluster.cut = NodeSet::one(id(away as u8 + 1));
    for i in 0..200u32 {
        let leader = cluster.leader().expect("a leader");
        cluster.hosts[leader].node.propose(&i.to_le_bytes()).unwrap();
        cluster.settle();
    }
    assert!(cluster.hosts[away].applied.is_empty());
    cluster.cut = NodeSet::EMPTY;
    cluster.run(3000);
    same_everywhere(&cluster);
    assert!(cluster.hosts[away].applied.len() < 200);
}

#[test]
fn without_a_quorum_a_full_log_refuses_and_recovers_by_itself() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    cluster.cut = (0..3).filter(|i| *i != leader).map(|i| id(i as u8 + 1)).collect();
    let mut taken = 0u32;
    let refused = loop {
        match cluster.hosts[leader].node.propose(&taken.to_le_bytes()) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 1000);
    };
    assert!(matches!(refused, ProposeError::LogFull { bytes_free: 0..4 }), "{refused:?}");
    cluster.cut = NodeSet::EMPTY;
    cluster.run(3000);
    same_everywhere(&cluster);
    let leader = cluster.leader().expect("a leader");
    assert!(cluster.hosts[leader].node.propose(b"more").is_ok());
}
