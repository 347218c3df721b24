//! Links over TCP: one connection to each peer, and one from it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate::{ClusterId, NodeId, NodeSet};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::accept::{self, Map, Own};
use super::codec::{Hello, Message};
use super::dial::{Dial, Out};
use super::health::{Health, PeerHealth};
use super::{Arrived, Task};

/// Frames for one peer that are not sent yet.
const LANE_MAX: usize = 256;
/// Pieces of a snapshot that are not sent yet.
const BULK_MAX: usize = 4;
/// How long a connection to somebody who is no peer any more is kept.
const FAREWELL: Duration = Duration::from_secs(2);
/// The number of the message that brings a piece of a snapshot (`core/docs/wire-format.md`).
const SNAPSHOT: u8 = 5;

#[derive(Debug)]
struct Peer {
    address: SocketAddr,
    lane: mpsc::Sender<Out>,
    bulk: mpsc::Sender<Out>,
    health: Arc<Health>,
    _task: Task,
}

/// Connections to all peers.
#[derive(Debug)]
pub struct Tcp {
    cluster: ClusterId,
    node: NodeId,
    map: Map,
    peers: BTreeMap<NodeId, Peer>,
    arrived: mpsc::Sender<Arrived>,
    /// Who was a peer and is none any more.
    gone: Arc<Mutex<NodeSet>>,
    _accepting: Task,
}

impl Tcp {
    /// Listens there for peers of this cluster, whose maps hold the same; peers are dialled as they become known.
    ///
    /// # Errors
    /// The address is in use, or none of this machine's.
    pub async fn listen(
        address: SocketAddr,
        cluster: ClusterId,
        node: NodeId,
        map: Map,
        arrived: mpsc::Sender<Arrived>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let gone = Arc::new(Mutex::new(NodeSet::EMPTY));
        let own = Own { cluster, node, map, gone: gone.clone() };
        let accepting = Task::spawn(accept::run(listener, own, arrived.clone()));
        let peers = BTreeMap::new();
        Ok(Self { cluster, node, map, peers, arrived, gone, _accepting: accepting })
    }

    pub(super) fn set_peers(&mut self, peers: &[(NodeId, SocketAddr)]) {
        let ids: NodeSet = peers.iter().map(|(id, _)| *id).collect();
        let known: NodeSet = self.peers.keys().copied().collect();
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        *gone = gone.union(known).difference(ids);
        drop(gone);
        for id in known.iter() {
            let at = self.peers.get(&id).map(|peer| peer.address);
            if peers.iter().any(|(other, address)| *other == id && Some(*address) == at) {
                continue;
            }
            if let Some(peer) = self.peers.remove(&id).filter(|_| !ids.contains(id)) {
                peer.put(&peer.lane, Message::Removed);
                // It is told, and then let go.
                tokio::spawn(async move {
                    tokio::time::sleep(FAREWELL).await;
                    drop(peer);
                });
            }
        }
        for (id, address) in peers.iter().copied().filter(|(id, _)| *id != self.node) {
            let hello = Hello::new(self.cluster, self.node, id, self.map.limits());
            let arrived = &self.arrived;
            self.peers.entry(id).or_insert_with(|| Peer::dial(hello, id, address, arrived.clone()));
        }
    }

    /// Sends a frame; whom it was not handed over for.
    pub(super) fn send(&mut self, to: NodeSet, frame: &[u8]) -> NodeSet {
        let is_bulk = frame.first().is_some_and(|byte| byte & 0x1f == SNAPSHOT);
        let frame: Arc<[u8]> = frame.into();
        let mut left = to;
        for id in to.iter() {
            let Some(peer) = self.peers.get(&id) else { continue };
            let lane = if is_bulk { &peer.bulk } else { &peer.lane };
            if peer.put(lane, Message::Frame(frame.clone())) {
                left.remove(id);
            }
        }
        left
    }

    pub(super) fn ask(&mut self, to: NodeId, number: u64, body: Vec<u8>) -> bool {
        let peer = self.peers.get(&to);
        peer.is_some_and(|peer| peer.put(&peer.lane, Message::Ask(number, body.into())))
    }

    pub(super) fn health(&self) -> Vec<PeerHealth> {
        self.peers.iter().map(|(id, peer)| peer.health.look(*id, peer.address)).collect()
    }
}

impl Peer {
    fn dial(hello: Hello, id: NodeId, address: SocketAddr, arrived: mpsc::Sender<Arrived>) -> Self {
        let (lane, lane_end) = mpsc::channel(LANE_MAX);
        let (bulk, bulk_end) = mpsc::channel(BULK_MAX);
        let health = Arc::new(Health::new());
        let dial = Dial {
            hello,
            id,
            address,
            lane: lane_end,
            bulk: bulk_end,
            health: health.clone(),
            arrived,
        };
        Self { address, lane, bulk, health, _task: Task::spawn(dial.run()) }
    }

    /// Never waits: what there is no connection or no room for is dropped.
    fn put(&self, lane: &mpsc::Sender<Out>, out: Out) -> bool {
        let put = self.health.is_up() && lane.try_send(out).is_ok();
        if !put {
            self.health.dropped();
        }
        put
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::{Verdict, Welcome};
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    const CLUSTER: ClusterId = ClusterId([1, 2, 3, 4]);
    const SOON: Duration = Duration::from_secs(20);

    fn id(id: u8) -> NodeId {
        NodeId::new(id).unwrap()
    }

    struct End {
        tcp: Tcp,
        address: SocketAddr,
        arrivals: mpsc::Receiver<Arrived>,
    }

    /// The system gives the ports away anew: one that was free a moment ago is so still.
    fn free_address() -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    }

    async fn end(node: u8, cluster: ClusterId, address: SocketAddr) -> End {
        let (arrived, arrivals) = super::super::arrivals();
        let tcp = Tcp::listen(address, cluster, id(node), Map::default(), arrived).await.unwrap();
        End { tcp, address, arrivals }
    }

    impl End {
        /// Sends until it arrives.
        async fn send_until_taken(&mut self, to: &mut Self, frame: &[u8]) {
            let deliver = async {
                loop {
                    let left = self.tcp.send(NodeSet::one(to.tcp.node), frame);
                    let wait = timeout(Duration::from_millis(20), to.next_frame());
                    if let (true, Ok(got)) = (left.is_empty(), wait.await) {
                        assert_eq!(got, frame);
                        return;
                    }
                }
            };
            timeout(SOON, deliver).await.expect("the frame arrives");
        }

        async fn next_frame(&mut self) -> Vec<u8> {
            loop {
                if let Some(Arrived::Frame(frame)) = self.arrivals.recv().await {
                    return frame;
                }
            }
        }

        async fn error_of(&self, peer: u8) -> String {
            let told = async {
                loop {
                    let health = self.tcp.health();
                    let peer = health.iter().find(|peer_health| peer_health.id == id(peer));
                    if let Some(error) = peer.and_then(|peer| peer.error.clone()) {
                        return error;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(SOON, told).await.expect("an error is told")
        }
    }

    #[tokio::test]
    async fn frames_go_both_ways_and_again_after_a_peer_has_started_anew() {
        let mut one = end(1, CLUSTER, free_address()).await;
        let mut two = end(2, CLUSTER, free_address()).await;
        one.tcp.set_peers(&[(id(2), two.address)]);
        two.tcp.set_peers(&[(id(1), one.address)]);
        one.send_until_taken(&mut two, b"one").await;
        two.send_until_taken(&mut one, b"two").await;
        // A round trip is measured.
        let measured = async {
            while one.tcp.health()[0].round_trip_ms.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, measured).await.unwrap();
        let address = two.address;
        drop(two);
        let lost = async {
            loop {
                if let Some(Arrived::Unreachable(peer)) = one.arrivals.recv().await {
                    return peer;
                }
            }
        };
        assert_eq!(timeout(SOON, lost).await.unwrap(), id(2));
        assert_eq!(one.tcp.send(NodeSet::one(id(2)), b"lost"), NodeSet::one(id(2)));
        let mut two = end(2, CLUSTER, address).await;
        one.send_until_taken(&mut two, b"again").await;
        assert!(one.tcp.health()[0].connections >= 2);
    }

    #[tokio::test]
    async fn a_question_is_answered_to_who_asked() {
        let mut one = end(1, CLUSTER, free_address()).await;
        let mut two = end(2, CLUSTER, free_address()).await;
        one.tcp.set_peers(&[(id(2), two.address)]);
        one.send_until_taken(&mut two, b"up").await;
        assert!(one.tcp.ask(id(2), 77, b"put".to_vec()));
        let Some(Arrived::Asked(asked)) = timeout(SOON, two.arrivals.recv()).await.unwrap() else {
            panic!("something else arrived");
        };
        assert_eq!(asked.body, b"put");
        asked.answer(b"done".to_vec());
        let answer = timeout(SOON, one.arrivals.recv()).await.unwrap();
        assert!(matches!(answer, Some(Arrived::Answered(77, body)) if body == b"done"));
    }

    #[tokio::test]
    async fn another_cluster_is_refused_and_both_say_which() {
        let mut one = end(1, CLUSTER, free_address()).await;
        let mut two = end(2, ClusterId([9; 4]), free_address()).await;
        one.tcp.set_peers(&[(id(2), two.address), (id(3), two.address)]);
        let refused = "refused: this is cluster 09090909, you are of cluster 01020304";
        assert_eq!(one.error_of(2).await, refused);
        assert_eq!(one.error_of(3).await, "refused: this is node 2, you wanted node 3");
        assert_eq!(one.tcp.send(NodeSet::one(id(2)), b"x"), NodeSet::one(id(2)));
        assert!(two.arrivals.try_recv().is_err());
        let told = super::super::ask_for_cluster(id(4), &[(id(2), two.address)]).await;
        assert_eq!(told, Ok(ClusterId([9; 4])));
    }

    #[tokio::test]
    async fn who_is_no_peer_any_more_is_told_now_and_whenever_it_comes_again() {
        let mut one = end(1, CLUSTER, free_address()).await;
        let mut two = end(2, CLUSTER, free_address()).await;
        one.tcp.set_peers(&[(id(2), two.address)]);
        one.send_until_taken(&mut two, b"up").await;
        one.tcp.set_peers(&[]);
        let told = async |two: &mut End| {
            loop {
                if let Some(Arrived::Removed(by)) = two.arrivals.recv().await {
                    return by;
                }
            }
        };
        assert_eq!(timeout(SOON, told(&mut two)).await.unwrap(), id(1));
        two.tcp.set_peers(&[(id(1), one.address)]);
        assert_eq!(timeout(SOON, told(&mut two)).await.unwrap(), id(1));
        assert_eq!(two.error_of(1).await, "refused: node 2 was taken out of the cluster");
        one.tcp.set_peers(&[(id(2), two.address)]);
        two.send_until_taken(&mut one, b"back").await;
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_costs_frames_and_no_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut one = end(1, CLUSTER, free_address()).await;
        one.tcp.set_peers(&[(id(2), listener.local_addr().unwrap())]);
        let (mut deaf, _) = listener.accept().await.unwrap();
        let mut hello = [0; 25];
        deaf.read_exact(&mut hello).await.unwrap();
        let (verdict, reason) = (Verdict::Welcome, String::new());
        let welcome = Welcome { cluster: CLUSTER, verdict, reason };
        welcome.write(&mut deaf).await.unwrap();
        let to = NodeSet::one(id(2));
        let frame = vec![0; 60_000];
        // More than both systems and the lane can hold; none of it waits.
        let mut dropped = 0;
        for _ in 0..2_000 {
            dropped += one.tcp.send(to, &frame).len();
            tokio::task::yield_now().await;
        }
        assert!(dropped > 500, "{dropped} of 2000 frames were dropped");
        assert!(one.tcp.health()[0].frames_dropped >= 500);
    }

    #[tokio::test]
    async fn garbage_and_silence_on_the_port_hold_up_nobody() {
        let mut one = end(1, CLUSTER, free_address()).await;
        let mut two = end(2, CLUSTER, free_address()).await;
        let mut silent = Vec::new();
        for _ in 0..50 {
            silent.push(TcpStream::connect(two.address).await.unwrap());
        }
        // More than there are places for: each gives its own back.
        for _ in 0..200 {
            let mut http = TcpStream::connect(two.address).await.unwrap();
            http.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            // It is closed, not answered.
            assert_eq!(timeout(SOON, http.read(&mut [0; 8])).await.unwrap().unwrap_or(0), 0);
        }
        // A good hello, then nonsense.
        let mut liar = TcpStream::connect(two.address).await.unwrap();
        Hello::new(CLUSTER, id(3), id(2), None).write(&mut liar).await.unwrap();
        liar.write_all(&[0xff; 64]).await.unwrap();
        one.tcp.set_peers(&[(id(2), two.address)]);
        one.send_until_taken(&mut two, b"through").await;
    }
}
