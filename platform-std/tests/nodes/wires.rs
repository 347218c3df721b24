//! Faults on the wires between nodes, while clients write and read.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::load::{Load, Record};
use crate::process::{Cluster, Process, rounds};
use crate::proxy::{Fault, Wires};

const CLIENTS: u64 = 8;
/// Who asks a node that is cut off is not to spend the whole test with it.
const TIMEOUT_MS: u64 = 400;

/// Three nodes on wires with faults, and clients.
struct Bench {
    cluster: Cluster,
    wires: Wires,
    clock: Arc<AtomicU64>,
    record: Arc<Mutex<Record>>,
    round: u64,
}

impl Bench {
    fn new() -> Self {
        let (cluster, wires) = Cluster::start_on_wires(3);
        Self {
            cluster,
            wires,
            clock: Arc::new(AtomicU64::new(1)),
            record: Arc::default(),
            round: 0,
        }
    }

    fn load(&mut self) -> Load {
        self.round += 1;
        let clients = (CLIENTS, TIMEOUT_MS);
        let load = Load::start(&self.cluster, clients, self.round, &self.clock, &self.record);
        load.progress(&self.cluster, 20);
        load
    }

    fn id(&self, at: usize) -> u8 {
        self.cluster.nodes[at].id
    }

    /// Nothing is wrong with the wires any more: all come to agree, and nothing is lost.
    fn mend(&self, load: Load) {
        self.wires.set_all(Fault::None);
        load.progress(&self.cluster, 20);
        load.stop();
        self.cluster.agree();
        self.record.lock().unwrap().check(&self.cluster);
    }

    /// With this fault the other two go on, and this one acknowledges nothing and shows nothing.
    fn in_minority(&mut self, at: usize, fault: impl Fn(&Wires, u8)) {
        let load = self.load();
        fault(&self.wires, self.id(at));
        // What was asked before this moment may be on its way still.
        let from = self.clock.fetch_add(1, Ordering::SeqCst);
        load.progress(&self.cluster, 20);
        let node = &self.cluster.nodes[at];
        says_nothing(node);
        let http: SocketAddr = node.http;
        load.progress(&self.cluster, 20);
        let to = self.clock.fetch_add(1, Ordering::SeqCst);
        let record = self.record.lock().unwrap();
        assert_eq!(record.acknowledged_by(http, from, to), 0, "node {}", node.id);
        drop(record);
        self.mend(load);
    }
}

fn says_nothing(node: &Process) {
    let (status, body) = node.request("PUT", "/cut?timeout_ms=400", b"new-value").unwrap();
    assert_eq!(status, 504, "{body}");
    assert!(body.starts_with("unknown: "), "{body}");
    let path = "/v1/keys/register/0?timeout_ms=400";
    let (status, body) = node.json("GET", path, b"").unwrap();
    assert_eq!((status, &body["value"]), (504, &serde_json::Value::Null), "{body}");
}

#[test]
fn a_majority_that_is_connected_both_ways_goes_on_and_a_minority_acknowledges_nothing() {
    let cut = |wires: &Wires, id| {
        wires.set_said_by(id, Fault::Cut);
        wires.set_said_to(id, Fault::Cut);
    };
    // It is waiting, most of the time: two at once.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bench = Bench::new();
            let leader = bench.cluster.leader();
            bench.in_minority(leader, cut);
            let follower = (bench.cluster.leader() + 1) % 3;
            bench.in_minority(follower, |wires, id| wires.set_said_by(id, Fault::Cut));
        });
        let mut bench = Bench::new();
        // It hears all, and is not heard.
        let leader = bench.cluster.leader();
        bench.in_minority(leader, |wires, id| wires.set_said_by(id, Fault::Cut));
        // It is heard, and hears nothing.
        let leader = bench.cluster.leader();
        bench.in_minority(leader, |wires, id| wires.set_said_to(id, Fault::Cut));
    });
}

#[test]
fn delays_resets_and_a_slow_reader_cost_time_alone() {
    let mut bench = Bench::new();

    // Each piece by itself, either way: what overtakes what changes all the time.
    let load = bench.load();
    bench.wires.set_all(Fault::Delayed(40));
    load.progress(&bench.cluster, 40);
    let Bench { cluster, wires, .. } = &bench;
    cluster.wait("much is late", || (wires.delayed() > 10_000).then_some(()));
    bench.mend(load);

    // All connections, again and again, each time with what was under way.
    let load = bench.load();
    let before = bench.wires.reset();
    for _ in 0..4 {
        load.progress(&bench.cluster, 10);
        bench.wires.reset();
    }
    let Bench { cluster, wires, .. } = &bench;
    let goal = before + 12;
    cluster.wait("connections are reset", || (wires.reset() >= goal).then_some(()));
    bench.mend(load);

    // One that takes what is said to it far slower than it is said falls behind, by itself.
    let leader = bench.cluster.leader();
    let slow = (leader + 1) % 3;
    let load = bench.load();
    bench.wires.set_said_to(bench.id(slow), Fault::Slow(300));
    let applied = |at: usize| bench.cluster.nodes[at].status()?["applied"].as_u64();
    bench.cluster.wait("it falls behind", || {
        let (slow, leader) = (applied(slow)?, applied(bench.cluster.leader())?);
        (leader > slow + 40).then_some(())
    });
    load.progress(&bench.cluster, 20);
    bench.mend(load);

    // And one whose words are taken so slowly, the leader's own pings' answers among them.
    let load = bench.load();
    let slow = (bench.cluster.leader() + 1) % 3;
    bench.wires.set_said_by(bench.id(slow), Fault::Slow(300));
    load.progress(&bench.cluster, 40);
    bench.mend(load);
}

#[test]
fn a_wire_between_two_of_three_that_is_cut_holds_up_neither_the_third_nor_a_majority() {
    let mut bench = Bench::new();
    let leader = bench.cluster.leader();
    let (leader, follower) = (bench.id(leader), bench.id((leader + 1) % 3));
    for one_way in [false, true] {
        let load = bench.load();
        bench.wires.set(follower, leader, Fault::Cut);
        if !one_way {
            bench.wires.set(leader, follower, Fault::Cut);
        }
        load.progress(&bench.cluster, 60);
        bench.mend(load);
    }
}

/// Nobody is promised to go on meanwhile; nobody may be told what is not so.
#[test]
fn whatever_comes_and_goes_on_all_wires_nothing_acknowledged_is_lost() {
    let mut bench = Bench::new();
    let mut dice = Xoshiro256PlusPlus::seed_from_u64(7);
    for _ in 0..rounds(1) {
        let load = bench.load();
        for _ in 0..10 {
            for (from, to) in [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)] {
                let fault = match dice.next_u64() % 6 {
                    0 => Fault::Cut,
                    1 => Fault::Delayed(dice.next_u64() % 200),
                    2 => Fault::Slow(2000),
                    _ => Fault::None,
                };
                bench.wires.set(from, to, fault);
            }
            if dice.next_u64().is_multiple_of(4) {
                bench.wires.reset();
            }
            std::thread::sleep(Duration::from_millis(100 + dice.next_u64() % 300));
        }
        bench.mend(load);
    }
}
