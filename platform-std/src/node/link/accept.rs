//! The connections that peers make: they bring frames and questions, and take answers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use quorate::{ClusterId, NodeId};
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::codec::{Hello, Message, VERSION, Welcome};
use super::{Arrived, Asked};

/// Whoever dials has to say hello in this time.
const HELLO_MAX: Duration = Duration::from_secs(3);
/// A peer pings twice in a second: one that says nothing for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Connections at a time; more are turned away.
const CONNECTIONS_MAX: usize = 128;
/// Answers that a peer has not taken yet.
const ANSWERS_MAX: usize = 4096;
/// After a failed accept (no descriptors left) it is not tried at once again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Who is called here.
#[derive(Clone, Copy)]
pub(super) struct Own {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
}

/// Accepts connections, for ever.
pub(super) async fn run(listener: TcpListener, own: Own, arrived: mpsc::Sender<Arrived>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("can't accept a connection: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let arrived = arrived.clone();
        connections.spawn(async move {
            if let Err(error) = serve(stream, own, arrived).await {
                tracing::debug!(%address, "connection ended: {error}");
            }
            drop(place);
        });
    }
}

async fn serve(mut stream: TcpStream, own: Own, arrived: mpsc::Sender<Arrived>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let hello = timeout(HELLO_MAX, Hello::read(&mut stream));
    let hello = match hello.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(hello) => hello,
        Err(error) => {
            tracing::warn!(address = ?stream.peer_addr().ok(), "refused a connection: {error}");
            return Err(error);
        }
    };
    let refusal = refusal(own, hello);
    if !refusal.is_empty() {
        tracing::warn!(address = ?stream.peer_addr().ok(), "refused a connection: {refusal}");
    }
    let welcome = Welcome { cluster: own.cluster, refusal };
    welcome.write(&mut stream).await?;
    if !welcome.refusal.is_empty() || hello.is_question() {
        return stream.shutdown().await;
    }
    let (read, write) = stream.into_split();
    let (back, answers) = mpsc::channel(ANSWERS_MAX);
    let (pongs, pings) = mpsc::channel(4);
    let answering = super::Task::spawn(answer(write, answers, pings));
    let mut read = BufReader::with_capacity(1 << 16, read);
    loop {
        let message = timeout(SILENCE_MAX, Message::read(&mut read)).await;
        let message = message.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let arrival = match message {
            Message::Frame(frame) => Arrived::Frame(frame),
            Message::Ask(number, body) => {
                Arrived::Asked(Asked { body, number, back: back.clone() })
            }
            Message::Ping(number) => {
                // One that is not answered is as good as one that came late.
                let _ = pongs.try_send(number);
                continue;
            }
            Message::Pong(_) | Message::Answer(..) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the peer talks out of turn",
                ));
            }
        };
        if answering.0.is_finished() || arrived.send(arrival).await.is_err() {
            return Ok(());
        }
    }
}

/// Why whoever says that is not talked to; empty if it is.
fn refusal(own: Own, hello: Hello) -> String {
    let Hello { version, from, to, cluster } = hello;
    if version != VERSION {
        return format!("you speak version {version} of the link, this node version {VERSION}");
    }
    if NodeId::new(from).is_none() {
        return format!("{from} is no number of a node");
    }
    if to != own.node.get() {
        return format!("this is node {}, you wanted node {to}", own.node);
    }
    if from == to {
        return format!("this is node {to}, and so you say you are");
    }
    if !hello.is_question() && cluster != own.cluster {
        return format!("this is cluster {:?}, you are of cluster {cluster:?}", own.cluster);
    }
    String::new()
}

async fn answer(
    write: OwnedWriteHalf,
    mut answers: mpsc::Receiver<(u64, Vec<u8>)>,
    mut pings: mpsc::Receiver<u64>,
) {
    let mut write = BufWriter::new(write);
    loop {
        let message = tokio::select! {
            Some(number) = pings.recv() => Message::Pong(number),
            Some((number, body)) = answers.recv() => Message::Answer(number, body),
            else => return,
        };
        let mut written = message.write(&mut write).await;
        while let (Ok(()), Ok((number, body))) = (&written, answers.try_recv()) {
            written = Message::Answer(number, body).write(&mut write).await;
        }
        if written.is_err() || write.flush().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mismatch_is_refused_with_what_is_here_and_what_was_said() {
        let id = |id| NodeId::new(id).unwrap();
        let own = Own { cluster: ClusterId([1; 4]), node: id(1) };
        let good = Hello::new(own.cluster, id(2), id(1));
        let told = |change: fn(&mut Hello)| {
            let mut hello = good;
            change(&mut hello);
            refusal(own, hello)
        };
        assert_eq!(told(|_| {}), "");
        assert_eq!(told(|h| h.cluster = ClusterId([0; 4])), "");
        assert_eq!(
            told(|h| h.cluster = ClusterId([2; 4])),
            "this is cluster 01010101, you are of cluster 02020202"
        );
        assert_eq!(told(|h| h.to = 3), "this is node 1, you wanted node 3");
        assert_eq!(told(|h| h.from = 1), "this is node 1, and so you say you are");
        assert_eq!(told(|h| h.from = 99), "99 is no number of a node");
        assert_eq!(told(|h| h.version = 2), "you speak version 2 of the link, this node version 1");
    }
}
