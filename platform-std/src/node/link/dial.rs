//! The connection that a node makes to a peer: it carries the frames to it, and questions.
//!
//! Each node dials each peer, so that there are two connections between two nodes and none has to be chosen. A connection that is
//! lost is made again, after a wait that doubles each time and is drawn anew, so that nodes which start together do not
//! stay in step.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate::{ClusterId, NodeId};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Arrived;
use super::codec::{Hello, Message, Verdict, Welcome};
use super::health::Health;

/// A connection, with its hello, has to be made in this time.
const CONNECT_MAX: Duration = Duration::from_secs(3);
const PING_EVERY: Duration = Duration::from_millis(500);
/// A peer that answers no ping for so long is not there.
const SILENCE_MAX: Duration = Duration::from_secs(4);
const WAIT_MIN: Duration = Duration::from_millis(40);
const WAIT_MAX: Duration = Duration::from_secs(2);
const BUFFER_BYTES: usize = 1 << 16;

/// What goes to a peer.
pub(super) type Out = Message<Arc<[u8]>>;

/// One peer, as the task sees it that dials it.
pub(super) struct Dial {
    pub(super) hello: Hello,
    pub(super) id: NodeId,
    pub(super) address: SocketAddr,
    /// In order.
    pub(super) lane: mpsc::Receiver<Out>,
    /// Pieces of snapshots: whenever nothing else is there.
    pub(super) bulk: mpsc::Receiver<Out>,
    pub(super) health: Arc<Health>,
    pub(super) arrived: mpsc::Sender<Arrived>,
}

impl Dial {
    /// Keeps the connection up, for ever.
    pub(super) async fn run(mut self) {
        let mut wait = WAIT_MIN;
        loop {
            let ended = match self.connect().await {
                Ok(stream) => {
                    tracing::info!(peer = %self.id, address = %self.address, "connected");
                    let began = Instant::now();
                    self.drain();
                    self.health.connected();
                    let error = self.serve(stream).await;
                    // One that is made and lost at once, again and again, is waited for like one that can't be made.
                    if began.elapsed() > WAIT_MAX {
                        wait = WAIT_MIN;
                    }
                    error
                }
                Err(error) => error,
            };
            if self.health.failed(ended.to_string()) {
                tracing::warn!(peer = %self.id, address = %self.address, "no connection: {ended}");
            }
            if self.arrived.send(Arrived::Unreachable(self.id)).await.is_err() {
                return;
            }
            self.drain();
            tokio::time::sleep(jittered(wait)).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    /// What waited for a connection is old by now.
    fn drain(&mut self) {
        while self.lane.try_recv().is_ok() || self.bulk.try_recv().is_ok() {}
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let (stream, welcome) = introduce(self.hello, self.address).await?;
        if welcome.verdict == Verdict::Removed {
            // If the node has no ear for it now: it is told at the next attempt.
            let _ = self.arrived.try_send(Arrived::Removed(self.id));
        }
        accepted(&welcome).map(|()| stream)
    }

    /// Until the connection is lost.
    async fn serve(&mut self, stream: TcpStream) -> io::Error {
        let (read, write) = stream.into_split();
        let began = Instant::now();
        tokio::select! {
            error = receive(read, &self.health, &self.arrived, began) => error,
            error = send(write, &mut self.lane, &mut self.bulk, began) => error,
        }
    }
}

/// Dials, and says hello.
async fn introduce(hello: Hello, address: SocketAddr) -> io::Result<(TcpStream, Welcome)> {
    let connected = timeout(CONNECT_MAX, async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        hello.write(&mut stream).await?;
        let welcome = Welcome::read(&mut stream).await?;
        Ok((stream, welcome))
    });
    connected.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

pub(super) async fn ask_for_cluster(
    own: NodeId,
    peer: NodeId,
    address: SocketAddr,
) -> io::Result<ClusterId> {
    let (_, welcome) = introduce(Hello::question(own, peer), address).await?;
    accepted(&welcome).map(|()| welcome.cluster)
}

fn accepted(welcome: &Welcome) -> io::Result<()> {
    if welcome.verdict == Verdict::Welcome {
        return Ok(());
    }
    let what = format!("refused: {}", welcome.reason);
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
}

/// Half of it to three halves of it.
fn jittered(wait: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(0);
    wait.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX))
}

async fn receive(
    read: impl AsyncRead + Unpin,
    health: &Health,
    arrived: &mpsc::Sender<Arrived>,
    began: Instant,
) -> io::Error {
    let mut read = BufReader::new(read);
    loop {
        let message = match timeout(SILENCE_MAX, Message::read(&mut read)).await {
            Ok(Ok(message)) => message,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the peer");
            }
            Ok(Err(error)) => return error,
            Err(_) => return io::Error::new(io::ErrorKind::TimedOut, "the peer is silent"),
        };
        match message {
            Message::Pong(sent_us) => {
                let sent = Duration::from_micros(sent_us);
                health.round_trip(began.elapsed().saturating_sub(sent));
            }
            Message::Answer(number, body) => {
                if arrived.send(Arrived::Answered(number, body)).await.is_err() {
                    return io::ErrorKind::BrokenPipe.into();
                }
            }
            // Nothing else is said on this side of a connection.
            _ => return io::Error::new(io::ErrorKind::InvalidData, "the peer talks out of turn"),
        }
    }
}

async fn send(
    write: impl AsyncWrite + Unpin,
    lane: &mut mpsc::Receiver<Out>,
    bulk: &mut mpsc::Receiver<Out>,
    began: Instant,
) -> io::Error {
    let mut write = BufWriter::with_capacity(BUFFER_BYTES, write);
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        let next = tokio::select! {
            biased;
            Some(out) = lane.recv() => out,
            _ = ping.tick() => Message::Ping(began.elapsed().as_micros() as u64),
            Some(out) = bulk.recv() => out,
            else => return io::ErrorKind::BrokenPipe.into(),
        };
        let mut written = next.write(&mut write).await;
        while let (Ok(()), Ok(more)) = (&written, lane.try_recv()) {
            written = more.write(&mut write).await;
        }
        if let Err(error) = match written {
            Ok(()) => write.flush().await,
            Err(error) => Err(error),
        } {
            return error;
        }
    }
}
