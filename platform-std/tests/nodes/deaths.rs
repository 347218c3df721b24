//! Nodes that die at a named step, with what is not synced (etcd's crash points, and a few more: `docs/etcd-tests.md`), and
//! nodes whose disks fail.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_std::faults::DIED;

use crate::load::{Load, Record};
use crate::process::{Cluster, rounds};

const CLIENTS: u64 = 6;
/// Who asks a node that is about to die is not to spend the whole test with it.
const TIMEOUT_MS: u64 = 1000;
/// No fault but that a kill from outside, too, takes along what is not synced.
const FORGETFUL: &str = "seed=1";

/// What it takes for a node to come by a point.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drive {
    Clients,
    /// The node that is to die has to lead.
    Lead,
    /// The node that is to die has to follow: another one leads.
    Follow,
    /// Others lead by turns.
    Elections,
    /// Much is written, so that snapshots are taken and what they cover is erased.
    Fill,
    /// The node was away too long: the leader sends it a snapshot.
    Away,
}

/// Each point, and at which pass by it the node dies.
pub(crate) const POINTS: [(&str, u32, Drive); 15] = [
    ("BeforeSave", 12, Drive::Clients),
    ("BeforeSync", 25, Drive::Clients),
    ("AfterSave", 12, Drive::Lead),
    ("BeforeSaveVote", 2, Drive::Elections),
    ("AfterSaveVote", 2, Drive::Elections),
    ("BeforeSaveSnapshot", 1, Drive::Away),
    ("BeforeCheckpoint", 1, Drive::Fill),
    ("AfterSaveSnapshot", 1, Drive::Away),
    ("BeforeLeaderSend", 40, Drive::Lead),
    ("BeforeFollowerSend", 20, Drive::Follow),
    ("BeforeRestore", 1, Drive::Away),
    ("AfterRestore", 1, Drive::Away),
    ("AfterRelease", 1, Drive::Fill),
    ("BeforeApply", 15, Drive::Lead),
    ("AfterApply", 15, Drive::Clients),
];

/// Large values at a few keys, by whatever node: a log of this size holds some twenty of them.
fn fill(cluster: &Cluster, values: usize) {
    for n in 0..values {
        let value = format!("{n:04000}");
        cluster.nodes.iter().find(|node| {
            let path = format!("/fill/{}?timeout_ms={TIMEOUT_MS}", n % 4);
            matches!(node.request("PUT", &path, value.as_bytes()), Some((204, _)))
        });
    }
}

/// Clusters that live through rounds.
struct Bench {
    cluster: Cluster,
    clock: Arc<AtomicU64>,
    record: Arc<Mutex<Record>>,
    round: u64,
}

/// How a node is to end.
struct Death {
    faults: String,
    code: u8,
    told: String,
}

impl Death {
    fn at(point: &str, n: u32) -> Self {
        let told = format!("dies at {point}, as told (Ok(()))");
        Self { faults: format!("die={point}:{n}"), code: DIED, told }
    }

    fn by_disk(faults: &str, error: &str) -> Self {
        let told = format!("error: the disk failed, so this node stops: {error}\n");
        Self { faults: faults.into(), code: 1, told }
    }
}

impl Bench {
    fn new(members: u8) -> Self {
        let mut cluster = Cluster::found(members, &[]);
        for at in 0..cluster.nodes.len() {
            cluster.nodes[at].faults = Some(FORGETFUL.into());
            cluster.start_node(at);
        }
        cluster.leader();
        Self { cluster, clock: Arc::new(AtomicU64::new(1)), record: Arc::default(), round: 0 }
    }

    fn load(&mut self) -> Load {
        self.round += 1;
        let clients = (CLIENTS, TIMEOUT_MS);
        Load::start(&self.cluster, clients, self.round, &self.clock, &self.record)
    }

    fn restart(&mut self, at: usize, faults: &str) {
        self.cluster.nodes[at].kill();
        self.cluster.nodes[at].faults = Some(faults.into());
        self.cluster.start_node(at);
    }

    /// Waits until the node has ended by itself, as it is to.
    fn wait_for(&mut self, victim: usize, death: &Death, drive: Drive) {
        let mut code = None;
        for turn in 0.. {
            code = self.cluster.nodes[victim].try_ended();
            // Far more turns than any round takes.
            if code.is_some() || turn > 2000 {
                break;
            }
            let to = match drive {
                Drive::Lead => Some(victim),
                Drive::Follow => Some((victim + 1) % self.cluster.nodes.len()),
                Drive::Elections => Some(turn % self.cluster.nodes.len()),
                Drive::Fill => {
                    fill(&self.cluster, 4);
                    None
                }
                Drive::Clients | Drive::Away => None,
            };
            if let Some(to) = to {
                let path = format!("/v1/leader/{}?timeout_ms=500", self.cluster.nodes[to].id);
                let mut nodes = self.cluster.nodes.iter();
                // By whoever can answer.
                nodes.find(|node| node.request("POST", &path, b"").is_some());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let log = self.cluster.nodes[victim].log_of_life();
        assert_eq!(code, Some(death.code.into()), "{}: {log}", death.faults);
        assert!(log.contains(&death.told), "{}: {log}", death.faults);
    }

    /// A round: a node ends so, in every second round everybody else with it, and comes back.
    fn dies(&mut self, victim: usize, death: &Death, drive: Drive) {
        let others: Vec<_> = (0..self.cluster.nodes.len()).filter(|at| *at != victim).collect();
        self.cluster.leader();
        if drive == Drive::Away {
            self.cluster.nodes[victim].kill();
            fill(&self.cluster, 40);
        }
        let load = self.load();
        self.restart(victim, &format!("{},seed={}", death.faults, self.round));
        self.wait_for(victim, death, drive);
        if self.round.is_multiple_of(2) {
            // The power fails everywhere.
            others.iter().for_each(|at| self.restart(*at, FORGETFUL));
        }
        if !others.is_empty() {
            // They go on without it.
            load.progress(&self.cluster, 10);
        }
        self.restart(victim, FORGETFUL);
        load.progress(&self.cluster, 10);
        load.stop();
        self.check();
    }

    /// A round for each of these points; in each further turn at a later pass, by another node.
    fn dies_at(&mut self, points: &[(&str, u32, Drive)]) {
        for turn in 0..rounds(1) as u32 {
            for (at, (point, n, drive)) in points.iter().enumerate() {
                // What is rare comes by once.
                let later = if *n > 2 { 3 * turn } else { 0 };
                let victim = (at + turn as usize) % self.cluster.nodes.len();
                self.dies(victim, &Death::at(point, n + later), *drive);
            }
        }
    }

    /// All come to agree, and nothing is lost.
    fn check(&self) {
        self.cluster.agree();
        self.record.lock().unwrap().check(&self.cluster);
    }
}

#[test]
fn a_node_of_three_that_dies_at_any_of_etcds_crash_points_loses_nothing_acknowledged() {
    // It is waiting, most of the time: several at once.
    std::thread::scope(|scope| {
        for points in POINTS.chunks(5) {
            scope.spawn(move || Bench::new(3).dies_at(points));
        }
    });
}

/// Nobody else holds what it acknowledged.
#[test]
fn a_node_alone_that_dies_at_any_point_loses_nothing_acknowledged() {
    let is_own = |(point, _, drive): &(&str, u32, Drive)| {
        !matches!(drive, Drive::Away | Drive::Elections) && !point.ends_with("Send")
    };
    let points: Vec<_> = POINTS.into_iter().filter(is_own).collect();
    std::thread::scope(|scope| {
        for points in points.chunks(4) {
            scope.spawn(move || Bench::new(1).dies_at(points));
        }
    });
}

/// What these tests are worth: with syncs that do nothing, what was acknowledged is gone.
#[test]
fn without_syncs_a_node_that_dies_has_lost_what_it_acknowledged() {
    let mut bench = Bench::new(1);
    let load = bench.load();
    let death = Death::at("BeforeSave", 80);
    bench.restart(0, &format!("{},ignore-syncs", death.faults));
    bench.wait_for(0, &death, Drive::Clients);
    load.stop();
    bench.restart(0, FORGETFUL);
    let began = std::time::Instant::now();
    let lost = loop {
        // What is left of its image may not even be one.
        if bench.cluster.nodes[0].try_ended().is_some() {
            break true;
        }
        if let Some(missing) = bench.record.lock().unwrap().missing(&bench.cluster) {
            break missing > 0;
        }
        assert!(began.elapsed() < crate::process::LONG);
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(lost, "nothing was lost");
}

#[test]
fn a_disk_that_is_full_or_cannot_be_synced_stops_its_node_and_nobody_else() {
    let full = |n| Death::by_disk(&format!("full={n}"), "no storage space");
    let unsyncable = |n| Death::by_disk(&format!("unsyncable={n}"), "the disk can't be synced");
    std::thread::scope(|scope| {
        // The only one.
        scope.spawn(|| {
            let mut alone = Bench::new(1);
            alone.dies(0, &full(30), Drive::Clients);
            alone.dies(0, &unsyncable(30), Drive::Clients);
        });
        scope.spawn(|| {
            let mut bench = Bench::new(3);
            bench.dies(0, &full(20), Drive::Clients);
            bench.dies(1, &unsyncable(20), Drive::Lead);
        });
        // Two of three: nobody acknowledges anything then, and it is all there once they work again.
        let mut bench = Bench::new(3);
        let load = bench.load();
        let deaths = [full(40), unsyncable(30)];
        for (at, death) in deaths.iter().enumerate() {
            bench.restart(at, &death.faults);
        }
        for (at, death) in deaths.iter().enumerate() {
            bench.wait_for(at, death, Drive::Clients);
        }
        let last = &bench.cluster.nodes[2];
        let (status, told) = last.request("PUT", "/k?timeout_ms=600", b"x").unwrap();
        assert_eq!(status, 504, "{told}");
        load.stop();
        bench.restart(0, FORGETFUL);
        bench.restart(1, FORGETFUL);
        bench.check();
    });
}
