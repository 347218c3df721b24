//! How frames get from node to node: TCP or UDP between PCs, a serial line to a wire of boards.
//!
//! A link never blocks the node: what it can't take it drops, and says so; the core lives with frames that are lost. A wire of boards is slow: while it
//! has a frame to send the node is not asked for the next one, which is then as new as it can be.

mod accept;
mod codec;
mod dial;
mod health;
mod tcp;
mod udp;
mod wire;

use std::net::SocketAddr;

use quorate::{ClusterId, NodeId, NodeSet};
use tokio::sync::mpsc;

pub use accept::Map;
pub use health::PeerHealth;
pub use tcp::Tcp;
pub use udp::Udp;
pub use wire::{Wire, WireAddress};

/// Which cluster of its peers a node that has blank flash is to join.
///
/// # Errors
/// Nobody tells, with what each of them said.
pub async fn ask_for_cluster(
    own: NodeId,
    peers: &[(NodeId, SocketAddr)],
) -> Result<ClusterId, String> {
    let mut told = String::new();
    for (id, address) in peers.iter().filter(|(id, _)| *id != own) {
        match dial::ask_for_cluster(own, *id, *address).await {
            Ok(cluster) => return Ok(cluster),
            Err(error) => told += &format!("; node {id} at {address}: {error}"),
        }
    }
    Err(format!("no member of the cluster answers{told}"))
}

/// What came over a link.
#[derive(Debug)]
pub enum Arrived {
    /// A frame for the core, whatever its bytes are.
    Frame(Vec<u8>),
    /// A member wants something of the leader.
    Asked(Asked),
    /// The answer to a question of this node's own.
    Answered(u64, Vec<u8>),
    /// The connection to that member was lost, with all that was on its way.
    Unreachable(NodeId),
    /// That member says that this node is none any more.
    Removed(NodeId),
}

/// A question, and where its answer goes.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub body: Vec<u8>,
    number: u64,
    back: mpsc::Sender<(u64, Vec<u8>)>,
}

impl Asked {
    /// Answers it; who asked may be gone, or not listen.
    pub fn answer(self, body: Vec<u8>) {
        let _ = self.back.try_send((self.number, body));
    }
}

/// Frames that have come, until the node takes them.
const ARRIVED_MAX: usize = 1024;

/// Where links put what has come, and the node takes it.
pub fn arrivals() -> (mpsc::Sender<Arrived>, mpsc::Receiver<Arrived>) {
    mpsc::channel(ARRIVED_MAX)
}

/// All the links of a node.
#[derive(Debug, Default)]
pub struct Links {
    /// To peers that have a socket address.
    pub tcp: Option<Tcp>,
    /// The same by datagrams.
    pub udp: Option<Udp>,
    /// To everybody else.
    pub wire: Option<Wire>,
}

impl Links {
    /// Sends a frame; whom it was not even handed over for.
    pub fn send(&mut self, to: NodeSet, frame: &[u8]) -> NodeSet {
        let mut left = to;
        if let Some(tcp) = &mut self.tcp {
            left = tcp.send(left, frame);
        } else if let Some(udp) = &mut self.udp {
            left = udp.send(left, frame);
        }
        match &self.wire {
            // It can't tell who is on it.
            Some(wire) if !left.is_empty() && wire.send(frame) => NodeSet::EMPTY,
            _ => left,
        }
    }

    /// Is there room for a frame to anybody? Sockets always have it, or drop what they have not.
    pub fn has_room(&self) -> bool {
        self.wire.as_ref().is_none_or(Wire::has_room)
    }

    /// Until there is.
    pub async fn room(&self) {
        if let Some(wire) = &self.wire {
            wire.room().await;
        }
    }

    /// Tells where the members are.
    pub fn set_peers(&mut self, peers: &[(NodeId, SocketAddr)]) {
        if let Some(tcp) = &mut self.tcp {
            tcp.set_peers(peers);
        } else if let Some(udp) = &mut self.udp {
            udp.set_peers(peers);
        }
    }

    /// Asks a member; `false` if it can't be asked.
    pub fn ask(&mut self, to: NodeId, number: u64, body: Vec<u8>) -> bool {
        self.tcp.as_mut().is_some_and(|tcp| tcp.ask(to, number, body))
    }

    /// Can members be asked at all?
    pub const fn can_ask(&self) -> bool {
        self.tcp.is_some()
    }

    /// How the connections are.
    pub fn health(&self) -> Vec<PeerHealth> {
        self.tcp.as_ref().map(Tcp::health).unwrap_or_default()
    }
}

/// A task that ends with whoever holds this.
#[derive(Debug)]
struct Task(tokio::task::JoinHandle<()>);

impl Task {
    fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
