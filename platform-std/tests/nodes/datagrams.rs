//! Nodes on UDP, with a network between them that loses, repeats, reorders and damages datagrams, and one that lets nothing through one way.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Lines};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use serde_json::Value as Json;

use crate::load::{Load, Record};
use crate::process::{Cluster, free_address};

/// A follower has one command on its way at a time, and more than two clients at each node would wait for each other.
const CLIENTS: u64 = 6;
const TIMEOUT_MS: u64 = 1000;
/// How long a datagram may be late: others overtake it.
const LATE_MS: u64 = 60;
/// What comes twice comes again when others have written the same.
const AGAIN_MS: u64 = 500;
/// How often a proxy looks for what is due.
const STEP: Duration = Duration::from_millis(1);

/// What a way does to datagrams, in ‰ each.
#[derive(Clone, Copy, Default)]
struct Fault {
    lose: u64,
    repeat: u64,
    late: u64,
    damage: u64,
    /// Something that is no frame comes besides.
    garbage: u64,
    cut: bool,
}

const ALL: Fault = Fault { lose: 150, repeat: 300, late: 200, damage: 50, garbage: 50, cut: false };

#[derive(Default)]
struct Counts {
    lost: AtomicU64,
    repeated: AtomicU64,
    late: AtomicU64,
    damaged: AtomicU64,
    garbage: AtomicU64,
    cut: AtomicU64,
}

/// The network: each node is reached through a socket of it. With this gone there is none.
struct Network {
    faults: Arc<Mutex<BTreeMap<(u8, u8), Fault>>>,
    counts: Arc<Counts>,
    ends: Arc<AtomicBool>,
    proxies: Vec<JoinHandle<()>>,
}

impl Network {
    /// For nodes with these numbers and addresses; and where each is reached by the others.
    fn new(nodes: &[(u8, SocketAddr)]) -> (Self, Vec<SocketAddr>) {
        let mut network = Self {
            faults: Arc::default(),
            counts: Arc::default(),
            ends: Arc::default(),
            proxies: Vec::new(),
        };
        let mut addresses = Vec::new();
        for (to, at) in nodes {
            let socket = UdpSocket::bind(free_address()).unwrap();
            socket.set_read_timeout(Some(STEP)).unwrap();
            addresses.push(socket.local_addr().unwrap());
            let proxy = Proxy {
                to: *to,
                at: *at,
                socket,
                nodes: nodes.to_vec(),
                faults: network.faults.clone(),
                counts: network.counts.clone(),
                dice: Xoshiro256PlusPlus::seed_from_u64((*to).into()),
                under_way: Vec::new(),
            };
            let ends = network.ends.clone();
            network.proxies.push(std::thread::spawn(move || proxy.run(&ends)));
        }
        (network, addresses)
    }

    fn set(&self, fault: impl Fn(u8, u8) -> Fault) {
        let mut faults = self.faults.lock().unwrap();
        for (from, to) in [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)] {
            faults.insert((from, to), fault(from, to));
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for proxy in self.proxies.drain(..) {
            let _ = proxy.join();
        }
    }
}

/// What stands before one node.
struct Proxy {
    to: u8,
    at: SocketAddr,
    socket: UdpSocket,
    nodes: Vec<(u8, SocketAddr)>,
    faults: Arc<Mutex<BTreeMap<(u8, u8), Fault>>>,
    counts: Arc<Counts>,
    dice: Xoshiro256PlusPlus,
    under_way: Vec<(Instant, Vec<u8>)>,
}

impl Proxy {
    fn run(mut self, ends: &AtomicBool) {
        let mut bytes = vec![0; 1 << 16];
        while !ends.load(Ordering::Relaxed) {
            if let Ok((len, from)) = self.socket.recv_from(&mut bytes)
                && let Some((from, _)) = self.nodes.iter().find(|(_, at)| *at == from)
            {
                self.take(*from, &bytes[..len]);
            }
            let now = Instant::now();
            for (_, datagram) in self.under_way.extract_if(.., |(due, _)| *due <= now) {
                // Nobody may be there.
                let _ = self.socket.send_to(&datagram, self.at);
            }
        }
    }

    fn happens(&mut self, permille: u64, count: impl Fn(&Counts) -> &AtomicU64) -> bool {
        let happens = self.dice.next_u64() % 1000 < permille;
        count(&self.counts).fetch_add(happens.into(), Ordering::Relaxed);
        happens
    }

    fn take(&mut self, from: u8, datagram: &[u8]) {
        let fault = self.faults.lock().unwrap().get(&(from, self.to)).copied().unwrap_or_default();
        if fault.cut {
            self.counts.cut.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.happens(fault.garbage, |counts| &counts.garbage) {
            let len = self.dice.next_u64() as usize % 200;
            let garbage = std::iter::repeat_with(|| self.dice.next_u64() as u8).take(len).collect();
            self.under_way.push((Instant::now(), garbage));
        }
        if self.happens(fault.lose, |counts| &counts.lost) {
            return;
        }
        let copies = 1 + u64::from(self.happens(fault.repeat, |counts| &counts.repeated));
        for copy_ms in [0, AGAIN_MS].into_iter().take(copies as usize) {
            let mut copy = datagram.to_vec();
            if self.happens(fault.damage, |counts| &counts.damaged) && !copy.is_empty() {
                let at = self.dice.next_u64() as usize % copy.len();
                // Never to what it was.
                copy[at] ^= 1 + (self.dice.next_u64() % 255) as u8;
            }
            let late = self.happens(fault.late, |counts| &counts.late);
            let ms = if late { 1 + self.dice.next_u64() % LATE_MS } else { 0 } + copy_ms;
            self.under_way.push((Instant::now() + Duration::from_millis(ms), copy));
        }
    }
}

/// What a node tells of changes to registers, to each of which each value is written once.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    /// From now on.
    fn of(http: SocketAddr) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(["watch", "register/", "--node", &http.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("watching"));
        Self { child, lines }
    }

    /// All that was told; how many changes, each of which came once.
    fn each_once(mut self) -> usize {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut seen = HashSet::new();
        for line in self.lines.map_while(Result::ok) {
            let line: Json = serde_json::from_str(&line).unwrap();
            if let Some(key) = line["key"].as_str() {
                let change = (key.to_owned(), line["value"].to_string());
                assert!(seen.insert(change), "twice: {line}");
            }
        }
        seen.len()
    }
}

#[test]
fn whatever_a_network_does_to_datagrams_nothing_acknowledged_is_lost_or_done_twice() {
    let (cluster, network) = Cluster::start_through(3, &["--transport", "udp"], Network::new);
    let (clock, record) = (Arc::new(AtomicU64::new(1)), Arc::<Mutex<Record>>::default());
    let mut round = 0;
    let mut load = || {
        round += 1;
        Load::start(&cluster, (CLIENTS, TIMEOUT_MS), round, &clock, &record)
    };
    let mend = |load: Load| {
        network.set(|_, _| Fault::default());
        load.progress(&cluster, 10);
        load.stop();
        cluster.agree();
        record.lock().unwrap().check(&cluster);
    };

    let watch = Watch::of(cluster.nodes[0].http);
    let running = load();
    network.set(|_, _| ALL);
    running.progress(&cluster, 100);
    mend(running);

    // It is not heard, but hears: the others go on, and it acknowledges nothing.
    let running = load();
    let leader = cluster.leader();
    let mute = cluster.nodes[leader].id;
    network.set(|from, _| Fault { cut: from == mute, ..ALL });
    // What was asked before this moment may be on its way still.
    let from = clock.fetch_add(1, Ordering::SeqCst);
    running.progress(&cluster, 30);
    let to = clock.fetch_add(1, Ordering::SeqCst);
    let http = cluster.nodes[leader].http;
    assert_eq!(record.lock().unwrap().acknowledged_by(http, from, to), 0, "node {mute}");
    mend(running);

    assert!(watch.each_once() > 10);
    let Counts { lost, repeated, late, damaged, garbage, cut } = &*network.counts;
    for (count, what) in [
        (lost, "lost"),
        (repeated, "repeated"),
        (late, "late"),
        (damaged, "damaged"),
        (garbage, "garbage"),
        (cut, "cut off"),
    ] {
        assert!(count.load(Ordering::Relaxed) > 0, "nothing was {what}: this proves nothing");
    }
    let refused = |node: &crate::process::Process| {
        node.status().and_then(|status| status["counts"]["frames_refused"].as_u64())
    };
    assert!(cluster.nodes.iter().filter_map(refused).sum::<u64>() > 0, "no frame was refused");
}
