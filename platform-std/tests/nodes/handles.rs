//! Nodes in this process, each with its own file and sockets, by their handles.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate::membership::Member;
use quorate::node::Founding;
use quorate::typed::Outcome;
use quorate::{ClusterId, NodeId};
use quorate_std::content::Value;
use quorate_std::node::link::WireAddress;
use quorate_std::node::sizes::Sizes;
use quorate_std::node::{
    Consistency, Ended, Handle, Joining, Notice, Options, ReadError, Running, StartError,
    Transport, WriteError, address, found, start,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::broadcast::error::RecvError;

const CLUSTER: ClusterId = ClusterId(*b"test");
/// Far longer than anything takes that works.
const LONG: Duration = Duration::from_secs(30);
const SIZES: Sizes = Sizes { frame_bytes: 8192, log_bytes: 1 << 16, map_bytes: 1 << 16 };

fn id(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

/// The system gives ports away in turn: one that was free a moment ago is so still.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// How the nodes of a test reach each other.
#[derive(Clone, Debug)]
enum Medium {
    Sockets(Transport),
    /// All on one wire, each with the frames of a board.
    Wire(WireAddress),
}

/// What stands for a serial line that all are on: each hears what the others say.
async fn wire() -> WireAddress {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (line, _) = tokio::sync::broadcast::channel::<(u16, Vec<u8>)>(1024);
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let (line, mut heard) = (line.clone(), line.subscribe());
            let (read, mut write) = stream.into_split();
            tokio::spawn(async move {
                let mut read = BufReader::new(read);
                let mut bytes = Vec::new();
                // One speaks at a time: what stands between two zeros stays together.
                while matches!(read.read_until(0, &mut bytes).await, Ok(1..)) {
                    let _ = line.send((peer.port(), std::mem::take(&mut bytes)));
                }
            });
            tokio::spawn(async move {
                // Who is too slow misses something.
                loop {
                    match heard.recv().await {
                        Ok((from, _)) if from == peer.port() => {}
                        Ok((_, bytes)) if write.write_all(&bytes).await.is_ok() => {}
                        Err(RecvError::Lagged(_)) => {}
                        _ => return,
                    }
                }
            });
        }
    });
    WireAddress::Tcp(address.to_string())
}

struct Cluster {
    dir: tempfile::TempDir,
    peers: Vec<(NodeId, SocketAddr)>,
    medium: Medium,
    sizes: Sizes,
    nodes: Vec<Option<(Handle, Running)>>,
}

impl Cluster {
    async fn found(members: u8, transport: Transport) -> Self {
        Self::found_on(members, Medium::Sockets(transport), SIZES).await
    }

    async fn found_on(members: u8, medium: Medium, sizes: Sizes) -> Self {
        let peers: Vec<_> = (1..=members).map(|n| (id(n), free_address())).collect();
        let dir = tempfile::tempdir().unwrap();
        let on_wire = matches!(medium, Medium::Wire(_));
        let member = |(id, at): &(NodeId, SocketAddr)| Member {
            address: if on_wire { Default::default() } else { address::encode(*at) },
            ..Member::new(*id)
        };
        let members: Vec<_> = peers.iter().map(member).collect();
        for (node, _) in &peers {
            let limits = sizes.limits();
            let founding = Founding {
                cluster: CLUSTER,
                node: *node,
                members: &members,
                limits,
                erase_anyway: false,
            };
            found(&data(dir.path(), *node), &founding).unwrap();
        }
        let mut cluster = Self { dir, peers, medium, sizes, nodes: Vec::new() };
        for n in 1..=cluster.peers.len() as u8 {
            // Where the others are, the membership knows.
            let options = Options { peers: Vec::new(), ..cluster.options(n) };
            cluster.start_with(options).await;
        }
        cluster
    }

    fn options(&self, n: u8) -> Options {
        let mut options = Options::new(id(n), data(self.dir.path(), id(n)), self.peers.clone());
        match &self.medium {
            Medium::Sockets(transport) => options.transport = *transport,
            Medium::Wire(wire) => {
                (options.wire, options.peers) = (Some(wire.clone()), Vec::new());
            }
        }
        (options.heartbeat_ms, options.election_ms) = (Some(40), Some(400));
        options
    }

    async fn start(&mut self, n: u8) {
        let options = self.options(n);
        self.start_with(options).await;
    }

    /// One more node, without a vote, by way of node `by`.
    async fn admit(&mut self, n: u8, by: u8) {
        let at = free_address();
        self.handle(by).add_learner(id(n), Some(at), LONG).await.unwrap();
        let mut options = self.options(n);
        options.peers.push((id(n), at));
        options.join = Some(Joining { cluster: None, limits: self.sizes.limits() });
        self.start_with(options).await;
    }

    async fn start_with(&mut self, options: Options) {
        let at = usize::from(options.id.get()) - 1;
        self.nodes.resize_with(self.nodes.len().max(at + 1), || None);
        // Its last life may not have given the file up yet.
        let began = Instant::now();
        let started = loop {
            match start(options.clone()).await {
                Err(StartError::File(_) | StartError::Listen { .. }) if began.elapsed() < LONG => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                started => break started,
            }
        };
        self.nodes[at] = Some(started.unwrap());
    }

    async fn stop(&mut self, n: u8) {
        let (handle, _) = self.nodes[usize::from(n) - 1].take().unwrap();
        handle.stop().await;
    }

    fn handle(&self, n: u8) -> &Handle {
        &self.nodes[usize::from(n) - 1].as_ref().unwrap().0
    }

    fn running(&self) -> impl Iterator<Item = &Handle> {
        self.nodes.iter().flatten().map(|(handle, _)| handle)
    }

    async fn leader(&self) -> u8 {
        let began = Instant::now();
        loop {
            for handle in self.running() {
                let report = handle.status().await.unwrap();
                if report.role == "leader" {
                    return report.id;
                }
            }
            assert!(began.elapsed() < LONG, "there is no leader");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Until all that run show the same.
    async fn agree(&self) {
        let began = Instant::now();
        loop {
            let mut shown = Vec::new();
            for handle in self.running() {
                let report = handle.status().await.unwrap();
                shown.push((report.revision, report.hash, report.applied));
            }
            if shown.windows(2).all(|pair| pair[0] == pair[1]) {
                return;
            }
            assert!(began.elapsed() < LONG, "{shown:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn data(dir: &Path, node: NodeId) -> PathBuf {
    dir.join(node.to_string())
}

fn text(text: &str) -> Value {
    Value::Str(text.into())
}

async fn get(handle: &Handle, key: &str) -> Option<Value> {
    let shown = handle.get(key, Consistency::Linearizable, LONG).await.unwrap();
    shown.items.into_iter().next().map(|item| item.value)
}

#[tokio::test]
async fn what_is_put_by_any_node_is_read_by_any_other() {
    let small = Sizes { frame_bytes: 256, ..SIZES };
    for (medium, sizes) in [
        (Medium::Sockets(Transport::Tcp), SIZES),
        (Medium::Sockets(Transport::Udp), SIZES),
        (Medium::Wire(wire().await), small),
    ] {
        let cluster = Cluster::found_on(3, medium, sizes).await;
        for n in 1..=3 {
            let key = format!("from-{n}");
            let written = cluster.handle(n).put(&key, &Value::Int(n.into()), None, LONG).await;
            assert!(written.unwrap().changed);
            for reader in 1..=3 {
                assert_eq!(get(cluster.handle(reader), &key).await, Some(Value::Int(n.into())));
            }
        }
        cluster.agree().await;
    }
}

#[tokio::test]
async fn a_write_says_what_became_of_it() {
    let cluster = Cluster::found(1, Transport::Tcp).await;
    let handle = cluster.handle(1);
    let first = handle.put("k", &text("a"), Some(0), LONG).await.unwrap();
    assert_eq!((first.revision, first.changed), (Some(1), true));
    let mismatch = handle.put("k", &text("b"), Some(0), LONG).await;
    assert_eq!(mismatch, Err(WriteError::Refused(Outcome::Mismatch { revision: 1 })));
    let same = handle.put("k", &text("a"), None, LONG).await.unwrap();
    assert_eq!((same.revision, same.changed), (Some(1), false));
    let next = handle.put("k", &text("b"), Some(1), LONG).await.unwrap();
    assert_eq!(next.revision, Some(2));
    let gone = handle.delete("k", Some(2), LONG).await.unwrap();
    assert_eq!((gone.revision, gone.changed), (Some(3), true));
    let none = handle.delete("k", None, LONG).await.unwrap();
    assert_eq!((none.revision, none.changed), (Some(0), false));
    let long = handle.put(&"k".repeat(256), &text(""), None, LONG).await.unwrap_err();
    assert_eq!(long.to_string(), "too large: a key of 256 bytes, 255 are allowed");
    let large = handle.put("k", &text(&"v".repeat(9000)), None, LONG).await.unwrap_err();
    assert!(large.to_string().starts_with("too large: a value of 9000 bytes, "), "{large}");
    assert_eq!(get(handle, "k").await, None);
}

#[tokio::test]
async fn everything_is_there_after_a_restart_and_logs_are_compacted_meanwhile() {
    let mut cluster = Cluster::found(3, Transport::Tcp).await;
    let leader = cluster.leader().await;
    // Many logs full.
    let value = text(&"v".repeat(2000));
    for n in 0..400 {
        let key = format!("key-{}", n % 20);
        let written = cluster.handle(leader).put(&key, &value, None, LONG).await.unwrap();
        assert_eq!(written.changed, n < 20);
    }
    let report = cluster.handle(leader).status().await.unwrap();
    assert!(report.counts.snapshots_taken > 3, "{:?}", report.counts);
    assert_eq!(report.keys, 20);
    for n in 1..=3 {
        cluster.stop(n).await;
    }
    for n in 1..=3 {
        cluster.start(n).await;
    }
    assert_eq!(get(cluster.handle(1), "key-19").await, Some(value));
    cluster.agree().await;
    assert_eq!(cluster.handle(2).status().await.unwrap().revision, 20);
}

#[tokio::test]
async fn without_a_quorum_writes_are_unknown_and_reads_say_nothing() {
    let mut cluster = Cluster::found(3, Transport::Tcp).await;
    let short = Duration::from_millis(1500);
    cluster.handle(1).put("k", &text("old"), None, LONG).await.unwrap();
    let leader = cluster.leader().await;
    for other in (1..=3).filter(|n| *n != leader) {
        cluster.stop(other).await;
    }
    let handle = cluster.handle(leader);
    let write = handle.put("k", &text("new"), None, short).await;
    assert_eq!(write, Err(WriteError::Unknown { proposed: true }));
    // By now it does not lead any more.
    let write = handle.put("k", &text("newer"), None, short).await;
    assert_eq!(write, Err(WriteError::Unknown { proposed: false }));
    let read = handle.get("k", Consistency::Linearizable, short).await;
    assert_eq!(read, Err(ReadError::NoQuorum));
    let shown = handle.get("k", Consistency::Local, short).await.unwrap();
    assert_eq!(shown.items[0].value, text("old"));
}

#[tokio::test]
async fn a_watcher_sees_every_change_in_order() {
    let cluster = Cluster::found(3, Transport::Tcp).await;
    cluster.handle(1).put("before", &Value::Bool(true), None, LONG).await.unwrap();
    let mut watch = cluster.handle(1).watch().await.unwrap();
    assert_eq!(watch.revision, 1);
    for n in 0..50i64 {
        let key = format!("k{}", n % 7);
        cluster.handle(2).put(&key, &Value::Int(n), None, LONG).await.unwrap();
    }
    cluster.handle(3).delete("k3", None, LONG).await.unwrap();
    for n in 0..50i64 {
        let Some(Notice::Set(item)) = watch.next().await else { panic!("no change {n}") };
        let expected = (format!("k{}", n % 7), Value::Int(n), n as u64 + 2);
        assert_eq!((item.key, item.value, item.revision), expected);
    }
    let deleted = Notice::Deleted { key: "k3".into(), revision: 52 };
    assert_eq!(watch.next().await, Some(deleted));
}

#[tokio::test]
async fn a_node_of_an_older_schema_than_what_was_written_says_so_and_applies_nothing() {
    let mut cluster = Cluster::found(1, Transport::Tcp).await;
    cluster.stop(1).await;
    let newer = Options { schema: 2, ..cluster.options(1) };
    cluster.start_with(newer.clone()).await;
    cluster.handle(1).put("k", &text("x"), None, LONG).await.unwrap();
    cluster.stop(1).await;
    cluster.start(1).await;
    let began = Instant::now();
    while cluster.handle(1).status().await.unwrap().newer_schema != Some(2) {
        assert!(began.elapsed() < LONG, "it takes what is newer");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(cluster.handle(1).status().await.unwrap().keys, 0);
    cluster.stop(1).await;
    cluster.start_with(newer).await;
    assert_eq!(get(cluster.handle(1), "k").await, Some(text("x")));
}

#[tokio::test]
async fn a_member_without_an_address_is_reached_by_the_wire_and_let_in_by_its_leader_alone() {
    let small = Sizes { frame_bytes: 256, ..SIZES };
    let mut cluster = Cluster::found_on(3, Medium::Wire(wire().await), small).await;
    let leader = cluster.leader().await;
    cluster.handle(leader).put("k", &text("x"), None, LONG).await.unwrap();
    let follower = (1..=3).find(|n| *n != leader).unwrap();
    let refused = cluster.handle(follower).add_learner(id(4), None, LONG).await.unwrap_err();
    let hint = format!("once it leads (quorate transfer {follower})");
    assert!(refused.to_string().contains(&hint), "{refused}");
    cluster.handle(follower).transfer(id(follower), LONG).await.unwrap();
    cluster.handle(follower).add_learner(id(4), None, LONG).await.unwrap();
    let mut options = cluster.options(4);
    options.join = Some(Joining { cluster: Some(CLUSTER), limits: small.limits() });
    cluster.start_with(options).await;
    cluster.agree().await;
    assert_eq!(get(cluster.handle(4), "k").await, Some(text("x")));
    let report = cluster.handle(4).status().await.unwrap();
    assert_eq!((report.role, report.leader), ("learner", Some(follower)));
    // And hands its commands on as any member does.
    cluster.handle(4).put("k", &text("y"), None, LONG).await.unwrap();
    assert_eq!(get(cluster.handle(leader), "k").await, Some(text("y")));
}

#[tokio::test]
async fn a_member_is_added_gets_a_vote_and_is_removed_and_leadership_moves() {
    let mut cluster = Cluster::found(3, Transport::Tcp).await;
    let leader = cluster.leader().await;
    for n in 0..100 {
        let written = cluster.handle(1).put(&format!("k{n}"), &text("x"), None, LONG).await;
        written.unwrap();
    }
    // By way of a follower.
    let follower = (1..=3).find(|n| *n != leader).unwrap();
    cluster.admit(4, follower).await;
    // It is not caught up at first, or not heard of.
    let began = Instant::now();
    while let Err(error) = cluster.handle(follower).promote(id(4), false, LONG).await {
        assert!(began.elapsed() < LONG, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.agree().await;
    assert_eq!(get(cluster.handle(4), "k99").await, Some(text("x")));
    cluster.handle(leader).transfer(id(4), LONG).await.unwrap();
    assert_eq!(cluster.handle(4).status().await.unwrap().role, "leader");
    cluster.handle(4).transfer(id(4), LONG).await.unwrap();
    // The old leader goes, by way of the new one, and stops by itself.
    cluster.handle(4).remove_member(id(leader), LONG).await.unwrap();
    let (_handle, mut running) = cluster.nodes[usize::from(leader) - 1].take().unwrap();
    let ended = tokio::time::timeout(LONG, running.ended()).await.unwrap();
    assert!(matches!(ended, Ended::Removed), "{ended}");
    cluster.handle(follower).put("after", &text("y"), None, LONG).await.unwrap();
    let report = cluster.handle(follower).status().await.unwrap();
    assert_eq!(report.members.iter().filter(|member| member.voter).count(), 3);
}

#[tokio::test]
async fn one_member_takes_the_place_of_another_by_one_change() {
    let mut cluster = Cluster::found(3, Transport::Tcp).await;
    let leader = cluster.leader().await;
    let old = (1..=3).find(|n| *n != leader).unwrap();
    cluster.handle(old).put("k", &text("x"), None, LONG).await.unwrap();
    cluster.admit(4, leader).await;
    let began = Instant::now();
    while let Err(error) = cluster.handle(4).replace_member(id(old), id(4), false, LONG).await {
        assert!(began.elapsed() < LONG, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_handle, mut running) = cluster.nodes[usize::from(old) - 1].take().unwrap();
    let ended = tokio::time::timeout(LONG, running.ended()).await.unwrap();
    assert!(matches!(ended, Ended::Removed), "{ended}");
    cluster.handle(4).put("k", &text("y"), None, LONG).await.unwrap();
    let members = cluster.handle(leader).status().await.unwrap().members;
    let voters: Vec<_> = members.iter().filter(|m| m.voter).map(|m| m.id.get()).collect();
    let expected: Vec<_> = (1..=4).filter(|n| *n != old).collect();
    assert_eq!(voters, expected);
}

#[tokio::test]
async fn a_node_that_lost_its_disk_gets_its_place_back() {
    let mut cluster = Cluster::found(3, Transport::Tcp).await;
    for n in 0..50 {
        cluster.handle(1).put(&format!("k{n}"), &text("x"), None, LONG).await.unwrap();
    }
    cluster.stop(3).await;
    std::fs::remove_dir_all(data(cluster.dir.path(), id(3))).unwrap();
    let blank = start(cluster.options(3)).await.unwrap_err();
    assert!(matches!(blank, StartError::Nobody(_)), "{blank}");
    let options = Options {
        join: Some(Joining { cluster: None, limits: cluster.sizes.limits() }),
        ..cluster.options(3)
    };
    cluster.start_with(options).await;
    let began = Instant::now();
    loop {
        let report = cluster.handle(3).status().await.unwrap();
        if report.keys == 50 && report.members.iter().all(|member| member.voter) {
            assert!(report.generation > 1);
            break;
        }
        assert!(began.elapsed() < LONG, "{report:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// At a replay, the node that is removed is none that this process has ever talked to.
#[tokio::test]
async fn a_cluster_starts_again_whose_logs_remove_a_member_that_is_not_there() {
    let mut cluster = Cluster::found(3, Transport::Tcp).await;
    cluster.stop(3).await;
    cluster.handle(1).remove_member(id(3), LONG).await.unwrap();
    cluster.handle(1).put("k", &text("x"), None, LONG).await.unwrap();
    for n in [1, 2] {
        cluster.stop(n).await;
    }
    for n in [1, 2] {
        cluster.start(n).await;
    }
    cluster.handle(2).put("again", &text("y"), None, LONG).await.unwrap();
    cluster.agree().await;
    for handle in cluster.running() {
        assert_eq!(get(handle, "k").await, Some(text("x")));
        let report = handle.status().await.unwrap();
        assert_eq!(report.snapshot, 0, "a snapshot hides the change");
        let ids: Vec<_> = report.members.iter().map(|member| member.id).collect();
        assert_eq!(ids, [id(1), id(2)]);
    }
    // To remove it once more is no fault either.
    cluster.handle(1).remove_member(id(3), LONG).await.unwrap();
    assert_eq!(cluster.handle(2).status().await.unwrap().members.len(), 2);
}

#[tokio::test]
async fn the_directory_of_another_node_and_a_port_in_use_are_refused_by_name() {
    let mut cluster = Cluster::found(3, Transport::Tcp).await;
    let used = start(cluster.options(1)).await.unwrap_err();
    assert!(used.to_string().contains("another process is using this image"), "{used}");
    cluster.stop(1).await;
    let other = Options { id: id(2), ..cluster.options(1) };
    let other = start(other).await.unwrap_err().to_string();
    assert!(other.ends_with("this is the image of node 1, not of node 2"), "{other}");
    let second = cluster.peers[1].1;
    let listen = Options { listen: Some(second), ..cluster.options(1) };
    let listen = start(listen).await.unwrap_err().to_string();
    assert!(listen.starts_with(&format!("can't listen on {second}: ")), "{listen}");
}
