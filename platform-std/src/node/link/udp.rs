//! Links over UDP: one frame is one datagram, with nothing around it. All that is to be checked is in the frame.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate::{NodeId, NodeSet};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::{Arrived, Task};

/// After an error it is not tried at once again: on some systems a peer that is not there is one.
const AGAIN: Duration = Duration::from_millis(1);

/// A socket that sends datagrams to all peers.
#[derive(Debug)]
pub struct Udp {
    socket: Arc<UdpSocket>,
    node: NodeId,
    peers: BTreeMap<NodeId, SocketAddr>,
    _receiving: Task,
}

impl Udp {
    /// Listens there.
    ///
    /// # Errors
    /// The address is in use, or none of this machine's.
    pub async fn bind(
        address: SocketAddr,
        node: NodeId,
        arrived: mpsc::Sender<Arrived>,
    ) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::bind(address).await?);
        let receiving = Task::spawn(receive(socket.clone(), arrived));
        Ok(Self { socket, node, peers: BTreeMap::new(), _receiving: receiving })
    }

    pub(super) fn set_peers(&mut self, peers: &[(NodeId, SocketAddr)]) {
        self.peers = peers.iter().copied().filter(|(id, _)| *id != self.node).collect();
    }

    pub(super) fn send(&mut self, to: NodeSet, frame: &[u8]) -> NodeSet {
        let mut left = to;
        for id in to.iter() {
            let Some(address) = self.peers.get(&id) else { continue };
            // A full buffer is as good as a datagram that was lost on its way.
            let _ = self.socket.try_send_to(frame, *address);
            left.remove(id);
        }
        left
    }
}

async fn receive(socket: Arc<UdpSocket>, arrived: mpsc::Sender<Arrived>) {
    let mut bytes = vec![0; usize::from(u16::MAX) + 1];
    loop {
        match socket.recv(&mut bytes).await {
            Ok(len) => {
                // What the node has no time for is lost, as anything may be.
                let frame = Arrived::Frame(bytes[..len].to_vec());
                if let Err(mpsc::error::TrySendError::Closed(_)) = arrived.try_send(frame) {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!("udp: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
