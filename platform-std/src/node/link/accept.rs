//! The connections that peers make: they bring frames and questions, and take answers.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate::{ClusterId, NodeId, NodeSet};
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::codec::{Hello, Message, VERSION, Verdict, Welcome};
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
#[derive(Clone)]
pub(super) struct Own {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    /// Who was a member and is none any more, as far as this process has seen it.
    pub(super) gone: Arc<Mutex<NodeSet>>,
}

impl Own {
    fn is_gone(&self, id: u8) -> bool {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        NodeId::new(id).is_some_and(|id| gone.contains(id))
    }
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
        let (own, arrived) = (own.clone(), arrived.clone());
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
    let (verdict, reason) = judge(&own, hello);
    if verdict == Verdict::Refused {
        tracing::warn!(address = ?stream.peer_addr().ok(), "refused a connection: {reason}");
    }
    Welcome { cluster: own.cluster, verdict, reason }.write(&mut stream).await?;
    let (Verdict::Welcome, false, Some(from)) =
        (verdict, hello.is_question(), NodeId::new(hello.from))
    else {
        return stream.shutdown().await;
    };
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
            Message::Removed => Arrived::Removed(from),
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

/// Is whoever says that talked to? If not, why not.
fn judge(own: &Own, hello: Hello) -> (Verdict, String) {
    let Hello { version, from, to, cluster } = hello;
    let refusal = if version != VERSION {
        format!("you speak version {version} of the link, this node version {VERSION}")
    } else if NodeId::new(from).is_none() {
        format!("{from} is no number of a node")
    } else if to != own.node.get() {
        format!("this is node {}, you wanted node {to}", own.node)
    } else if from == to {
        format!("this is node {to}, and so you say you are")
    } else if hello.is_question() {
        return (Verdict::Welcome, String::new());
    } else if cluster != own.cluster {
        format!("this is cluster {:?}, you are of cluster {cluster:?}", own.cluster)
    } else if own.is_gone(from) {
        let why = format!("node {from} was taken out of the cluster");
        return (Verdict::Removed, why);
    } else {
        return (Verdict::Welcome, String::new());
    };
    (Verdict::Refused, refusal)
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
        let gone = Arc::new(Mutex::new(NodeSet::one(id(4))));
        let own = Own { cluster: ClusterId([1; 4]), node: id(1), gone };
        let good = Hello::new(own.cluster, id(2), id(1));
        let told = |change: fn(&mut Hello)| {
            let mut hello = good;
            change(&mut hello);
            let (verdict, reason) = judge(&own, hello);
            assert_eq!(verdict == Verdict::Welcome, reason.is_empty());
            reason
        };
        assert_eq!(told(|_| {}), "");
        assert_eq!(told(|h| h.cluster = ClusterId([0; 4])), "");
        assert_eq!(told(|h| h.from = 4), "node 4 was taken out of the cluster");
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
