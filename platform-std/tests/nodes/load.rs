//! Clients that write and read at once, and remember what they were told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use serde_json::Value as Json;

use crate::linear::{Event, Op, is_linearizable};
use crate::process::{Cluster, request};

/// Registers that all clients write and read.
const REGISTERS: u64 = 4;

/// What all clients were told.
#[derive(Default)]
pub(crate) struct Record {
    /// Keys of their own, each written once.
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// What happened to each register.
    registers: [Vec<Event>; REGISTERS as usize],
    /// Writes of which nobody knows.
    pub(crate) unknown: u64,
    pub(crate) reads: u64,
}

/// A key that a client was told is written.
pub(crate) struct Acknowledged {
    key: String,
    revision: u64,
    /// By whom, and between which ticks of the clock.
    node: SocketAddr,
    call: u64,
    ret: u64,
}

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    record: Arc<Mutex<Record>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts clients on all nodes of the cluster, each of which waits so long for an answer. `clock` orders all calls and
    /// returns, and goes on from load to load.
    pub(crate) fn start(
        cluster: &Cluster,
        (clients, timeout_ms): (u64, u64),
        round: u64,
        clock: &Arc<AtomicU64>,
        record: &Arc<Mutex<Record>>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let nodes: Vec<_> = cluster.nodes.iter().map(|node| node.http).collect();
        let start = |client| {
            let (stop, record, nodes) = (stop.clone(), record.clone(), nodes.clone());
            let clock = clock.clone();
            std::thread::spawn(move || {
                let mut client = Client {
                    id: round * clients + client,
                    dice: Xoshiro256PlusPlus::seed_from_u64(round * clients + client),
                    nodes,
                    clock,
                    record,
                    timeout_ms,
                    written: 0,
                };
                while !stop.load(Ordering::Relaxed) {
                    client.step();
                }
            })
        };
        let clients = (0..clients).map(start).collect();
        Self { stop, record: record.clone(), clients }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.record.lock().unwrap().acknowledged.len()
    }

    /// Waits until clients have been told of so many more writes.
    pub(crate) fn progress(&self, cluster: &Cluster, more: usize) {
        let goal = self.acknowledged() + more;
        cluster.wait("writes are acknowledged", || (self.acknowledged() >= goal).then_some(()));
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
    }
}

struct Client {
    id: u64,
    dice: Xoshiro256PlusPlus,
    nodes: Vec<SocketAddr>,
    clock: Arc<AtomicU64>,
    record: Arc<Mutex<Record>>,
    timeout_ms: u64,
    written: u64,
}

impl Client {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn step(&mut self) {
        let node = self.nodes[self.dice.next_u64() as usize % self.nodes.len()];
        self.written += 1;
        match self.dice.next_u64() % 4 {
            0 | 1 => self.create(node),
            2 => self.write(node),
            _ => self.read(node),
        }
    }

    /// A key of its own.
    fn create(&mut self, node: SocketAddr) {
        let key = format!("own/{}/{}", self.id, self.written);
        let body = format!("{{\"value\": {}}}", self.written);
        let path = format!("/v1/keys/{key}?expected=0&timeout_ms={}", self.timeout_ms);
        let call = self.tick();
        match put(node, &path, &body) {
            Told::Done(revision) => {
                let ret = self.tick();
                let acknowledged = Acknowledged { key, revision, node, call, ret };
                self.record.lock().unwrap().acknowledged.push(acknowledged);
            }
            Told::Unknown => self.record.lock().unwrap().unknown += 1,
            Told::Nothing => {}
        }
    }

    fn write(&mut self, node: SocketAddr) {
        let register = self.dice.next_u64() % REGISTERS;
        let value = self.id * 1_000_000 + self.written;
        let call = self.tick();
        let path = format!("/v1/keys/register/{register}?timeout_ms={}", self.timeout_ms);
        let told = put(node, &path, &format!("{{\"value\": {value}}}"));
        let ret = self.tick();
        let mut record = self.record.lock().unwrap();
        let ret = match told {
            Told::Done(_) => Some(ret),
            Told::Unknown => None,
            Told::Nothing => return,
        };
        record.unknown += u64::from(ret.is_none());
        record.registers[register as usize].push(Event { op: Op::Write(value), call, ret });
    }

    fn read(&mut self, node: SocketAddr) {
        let register = self.dice.next_u64() % REGISTERS;
        let call = self.tick();
        let path = format!("/v1/keys/register/{register}?timeout_ms={}", self.timeout_ms);
        let told = request(node, "GET", &path, b"");
        let ret = Some(self.tick());
        let seen = match told {
            Some((200, body)) => {
                let body: Json = serde_json::from_str(&body).unwrap();
                body["value"].as_u64().unwrap()
            }
            Some((404, _)) => 0,
            _ => return,
        };
        let mut record = self.record.lock().unwrap();
        record.reads += 1;
        record.registers[register as usize].push(Event { op: Op::Read(seen), call, ret });
    }
}

enum Told {
    Done(u64),
    Unknown,
    /// It certainly had no effect.
    Nothing,
}

fn put(node: SocketAddr, path: &str, body: &str) -> Told {
    let Some((status, text)) = request(node, "PUT", path, body.as_bytes()) else {
        return Told::Unknown;
    };
    let body: Json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}"));
    match status {
        200 => Told::Done(body["revision"].as_u64().unwrap()),
        503 | 504 if body["unknown"] == true && body["proposed"] != false => Told::Unknown,
        429 | 503 | 504 => Told::Nothing,
        _ => panic!("{path}: {status}: {text}"),
    }
}

/// The clients' own keys, and their revisions.
fn found(cluster: &Cluster) -> Option<HashMap<String, u64>> {
    let path = "/v1/keys?prefix=own/&timeout_ms=20000";
    let (status, listed) = cluster.nodes[0].json("GET", path, b"")?;
    let keys = listed["keys"].as_array().filter(|_| status == 200)?;
    let own = |item: &Json| Some((item["key"].as_str()?.to_owned(), item["revision"].as_u64()?));
    keys.iter().map(own).collect()
}

impl Record {
    /// Writes that this node was asked for and acknowledged between these ticks.
    pub(crate) fn acknowledged_by(&self, node: SocketAddr, from: u64, to: u64) -> usize {
        let within = |one: &&Acknowledged| one.node == node && one.call >= from && one.ret <= to;
        self.acknowledged.iter().filter(within).count()
    }

    /// How many of the keys that were acknowledged are not there; `None` if nobody tells.
    pub(crate) fn missing(&self, cluster: &Cluster) -> Option<usize> {
        let found = found(cluster)?;
        let is_missing = |one: &&Acknowledged| found.get(&one.key) != Some(&one.revision);
        Some(self.acknowledged.iter().filter(is_missing).count())
    }

    /// All that was acknowledged is there once, and what was read is what one register would have shown.
    pub(crate) fn check(&self, cluster: &Cluster) {
        let found = found(cluster).unwrap();
        for Acknowledged { key, revision, .. } in &self.acknowledged {
            assert_eq!(found.get(key), Some(revision), "{key}");
        }
        let more = found.len() - self.acknowledged.len();
        assert!(more as u64 <= self.unknown, "{more} keys that nobody wrote");
        for (register, history) in self.registers.iter().enumerate() {
            assert!(is_linearizable(history), "register {register}: {history:?}");
        }
    }
}
