//! Wires with faults: each node is reached through a proxy, which knows from the hello who dials.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::process::free_address;

/// A hello's length, and where in it the number of the node that dials stands (`docs/link.md`).
const HELLO_BYTES: usize = 16;
const HELLO_FROM: usize = 10;
/// Read at a time, and by a slow reader.
const CHUNK_BYTES: usize = 16_384;
const SLOW_BYTES: usize = 64;
/// Chunks that are on their way at once.
const UNDER_WAY_MAX: usize = 64;

/// What is wrong with all that goes from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Each piece is late by up to so many milliseconds, in order.
    Delayed(u64),
    /// Nothing goes this way; what is under way arrives when it is mended, as with TCP.
    Cut,
    /// So many bytes in a second are read.
    Slow(u64),
}

struct Shared {
    ways: BTreeMap<(u8, u8), watch::Sender<Fault>>,
    /// A new number ends all connections that there are.
    resets: watch::Sender<u64>,
    /// Connections that were ended so.
    reset: AtomicU64,
    /// Bytes that were late on purpose.
    delayed: AtomicU64,
}

/// The wires between all nodes. With this gone there are none.
pub(crate) struct Wires {
    shared: Arc<Shared>,
    _runtime: Runtime,
    ids: Vec<u8>,
}

impl Wires {
    /// For nodes with these numbers and addresses; and where each is reached by the others.
    pub(crate) fn new(nodes: &[(u8, SocketAddr)]) -> (Self, Vec<SocketAddr>) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let ids: Vec<_> = nodes.iter().map(|(id, _)| *id).collect();
        let pairs = ids.iter().flat_map(|from| ids.iter().map(|to| (*from, *to)));
        let ways = pairs.map(|pair| (pair, watch::Sender::new(Fault::None))).collect();
        let shared = Arc::new(Shared {
            ways,
            resets: watch::Sender::new(0),
            reset: AtomicU64::new(0),
            delayed: AtomicU64::new(0),
        });
        let mut addresses = Vec::new();
        for (id, address) in nodes {
            let listener = runtime.block_on(TcpListener::bind(free_address())).unwrap();
            addresses.push(listener.local_addr().unwrap());
            runtime.spawn(accept(listener, *id, *address, shared.clone()));
        }
        (Self { shared, _runtime: runtime, ids }, addresses)
    }

    /// From now on, all that goes this way.
    pub(crate) fn set(&self, from: u8, to: u8, fault: Fault) {
        self.shared.ways[&(from, to)].send_replace(fault);
    }

    /// What this node says to all others, or what all others say to it.
    pub(crate) fn set_said_by(&self, id: u8, fault: Fault) {
        self.ids.iter().for_each(|other| self.set(id, *other, fault));
    }

    pub(crate) fn set_said_to(&self, id: u8, fault: Fault) {
        self.ids.iter().for_each(|other| self.set(*other, id, fault));
    }

    pub(crate) fn set_all(&self, fault: Fault) {
        self.ids.iter().for_each(|id| self.set_said_by(*id, fault));
    }

    /// Ends all connections as a system does that has lost them; how many there were so far.
    pub(crate) fn reset(&self) -> u64 {
        self.shared.resets.send_modify(|number| *number += 1);
        self.shared.reset.load(Ordering::SeqCst)
    }

    /// Bytes that were late on purpose.
    pub(crate) fn delayed(&self) -> u64 {
        self.shared.delayed.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, to: u8, address: SocketAddr, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = shared.clone();
        // A connection that ends is nothing to tell of.
        tokio::spawn(async move { carry(stream, to, address, &shared).await });
    }
}

/// Carries what is said over one connection, both ways, to its end.
async fn carry(
    mut dialled: TcpStream,
    to: u8,
    address: SocketAddr,
    shared: &Shared,
) -> io::Result<()> {
    let mut resets = shared.resets.subscribe();
    let mut hello = [0; HELLO_BYTES];
    dialled.read_exact(&mut hello).await?;
    let mut onward = TcpStream::connect(address).await?;
    dialled.set_nodelay(true)?;
    onward.set_nodelay(true)?;
    let way = |from, to| shared.ways.get(&(from, to)).ok_or(io::ErrorKind::InvalidData);
    let (there, back) = (way(hello[HELLO_FROM], to)?, way(to, hello[HELLO_FROM])?);
    let ended = {
        let (from_dialler, to_dialler) = dialled.split();
        let (from_node, to_node) = onward.split();
        tokio::select! {
            ended = pump(from_dialler, to_node, there, hello.to_vec(), shared) => ended,
            ended = pump(from_node, to_dialler, back, Vec::new(), shared) => ended,
            _ = resets.changed() => {
                shared.reset.fetch_add(1, Ordering::SeqCst);
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
    };
    if ended.is_err() {
        // Closed with this, a connection is reset: what was under way is gone.
        dialled.set_zero_linger()?;
        onward.set_zero_linger()?;
    }
    ended
}

/// One way of a connection: its ends are the only ones that read and write there.
async fn pump(
    mut read: ReadHalf<'_>,
    mut write: WriteHalf<'_>,
    way: &watch::Sender<Fault>,
    first: Vec<u8>,
    shared: &Shared,
) -> io::Result<()> {
    let (queue, mut queued) = mpsc::channel(UNDER_WAY_MAX);
    let mut fault = way.subscribe();
    let reading = async move {
        // The channel's other end lives as long as this one.
        let _ = queue.send((Instant::now(), first)).await;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let now = *fault.borrow_and_update();
            let max = match now {
                Fault::Cut => {
                    let _ = fault.changed().await;
                    continue;
                }
                Fault::Slow(_) => SLOW_BYTES,
                _ => CHUNK_BYTES,
            };
            let len = tokio::select! {
                read = read.read(&mut chunk[..max]) => read?,
                _ = fault.changed() => continue,
            };
            if len == 0 {
                return Ok(());
            }
            let late = match now {
                Fault::Delayed(ms_max) => {
                    shared.delayed.fetch_add(len as u64, Ordering::SeqCst);
                    let random = u64::from(getrandom::u32().unwrap_or(0));
                    Duration::from_millis(random % (ms_max + 1))
                }
                _ => Duration::ZERO,
            };
            let _ = queue.send((Instant::now() + late, chunk[..len].to_vec())).await;
            if let Fault::Slow(bytes_per_second) = now {
                let ms = 1000 * len as u64 / bytes_per_second;
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
        }
    };
    let mut fault = way.subscribe();
    let writing = async move {
        while let Some((due, bytes)) = queued.recv().await {
            tokio::time::sleep_until(due).await;
            let _ = fault.wait_for(|fault| *fault != Fault::Cut).await;
            write.write_all(&bytes).await?;
        }
        write.shutdown().await
    };
    tokio::try_join!(reading, writing).map(|_| ())
}
