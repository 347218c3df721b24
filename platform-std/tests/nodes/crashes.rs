//! Nodes that are killed under load.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use crate::load::{Load, Record};
use crate::process::{Cluster, rounds};

const CLIENTS: u64 = 8;
const TIMEOUT_MS: u64 = 3000;

#[test]
fn nothing_acknowledged_is_lost_when_leaders_and_whole_clusters_are_killed_under_load() {
    let mut cluster = Cluster::start(3, &[]);
    let clock = Arc::new(AtomicU64::new(1));
    let record = Arc::new(Mutex::new(Record::default()));
    for round in 0..rounds(3) {
        let load = Load::start(&cluster, (CLIENTS, TIMEOUT_MS), round, &clock, &record);
        load.progress(&cluster, 60);
        let leader = cluster.leader();
        cluster.nodes[leader].kill();
        // The others go on without it.
        load.progress(&cluster, 30);
        cluster.start_node(leader);
        load.progress(&cluster, 30);
        if round % 2 == 1 {
            for node in &mut cluster.nodes {
                node.kill();
            }
            for at in 0..cluster.nodes.len() {
                cluster.start_node(at);
            }
            load.progress(&cluster, 30);
        }
        load.stop();
        cluster.agree();
        record.lock().unwrap().check(&cluster);
    }
    let record = record.lock().unwrap();
    assert!(record.reads > 20, "{} reads", record.reads);
    // Every node holds it on its disk, too.
    let revision = cluster.agree();
    for node in &mut cluster.nodes {
        node.signal("-TERM");
        assert_eq!(node.ended(), 0);
        let image = std::fs::read(node.data.join("node.qfl")).unwrap();
        let board = quorate_std::image::read(&image).unwrap();
        assert_eq!(board.id(), node.id);
        assert!(board.revision <= revision);
    }
}
