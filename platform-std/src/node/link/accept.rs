//! The connections that peers make: they bring frames and questions, and take answers.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate::typed::MapLimits;
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
    pub(super) map: Map,
    /// Who was a member and is none any more, as far as this process has seen it.
    pub(super) gone: Arc<Mutex<NodeSet>>,
}

/// What the map of a node may hold: constants of the cluster, or nodes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// What this node was told that it may; `None`: what follows from the cluster's limits.
    pub told: Option<MapLimits>,
    /// What follows from those; `None` while they are not known.
    pub usual: Option<MapLimits>,
}

impl Map {
    /// What it holds, as far as that is known.
    pub(super) fn limits(&self) -> Option<MapLimits> {
        self.told.or(self.usual)
    }

    /// Why a node with another map is not talked to.
    fn refusal(&self, other: Option<MapLimits>) -> Option<String> {
        let (own, other) = (self.limits()?, other.or(self.usual)?);
        let words = |map: MapLimits| {
            let MapLimits { keys, key_bytes, value_bytes, bytes } = map;
            format!("keys {keys}, key_bytes {key_bytes}, value_bytes {value_bytes}, bytes {bytes}")
        };
        (own != other).then(|| {
            format!(
                "all maps have to hold the same: this node's [map] is {}; yours {}",
                words(own),
                words(other)
            )
        })
    }
}

impl Own {
    fn is_gone(&self, id: u8) -> bool {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        NodeId::new(id).is_some_and(|id| gone.contains(id))
    }
}

/// So many peers and reasons are told apart.
const REFUSALS_MAX: usize = 256;

/// Whom a connection was refused, why and how often. Whoever is refused dials again and again: that is told once.
#[derive(Default)]
struct Refusals(Mutex<BTreeMap<(IpAddr, String), u64>>);

impl Refusals {
    fn tell(&self, address: Option<IpAddr>, reason: &str) {
        let times = address.and_then(|from| self.count(from, reason));
        if times == Some(1) {
            tracing::warn!(?address, "refused a connection: {reason} (told once)");
        } else {
            tracing::debug!(?address, ?times, "refused a connection: {reason}");
        }
    }

    /// The how manieth time it is; `None` where that is not kept any more.
    fn count(&self, from: IpAddr, reason: &str) -> Option<u64> {
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (from, reason.to_owned());
        if refusals.len() >= REFUSALS_MAX && !refusals.contains_key(&key) {
            return None;
        }
        let times = refusals.entry(key).or_default();
        *times += 1;
        Some(*times)
    }
}

/// Accepts connections, for ever.
pub(super) async fn run(listener: TcpListener, own: Own, arrived: mpsc::Sender<Arrived>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let refusals = Arc::new(Refusals::default());
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
        let (own, refusals, arrived) = (own.clone(), refusals.clone(), arrived.clone());
        connections.spawn(async move {
            if let Err(error) = serve(stream, own, &refusals, arrived).await {
                tracing::debug!(%address, "connection ended: {error}");
            }
            drop(place);
        });
    }
}

async fn serve(
    mut stream: TcpStream,
    own: Own,
    refusals: &Refusals,
    arrived: mpsc::Sender<Arrived>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let address = stream.peer_addr().ok().map(|at| at.ip());
    let hello = timeout(HELLO_MAX, Hello::read(&mut stream));
    let hello = match hello.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(hello) => hello,
        Err(error) => {
            refusals.tell(address, &error.to_string());
            return Err(error);
        }
    };
    let (verdict, reason) = judge(&own, hello);
    if verdict == Verdict::Refused {
        refusals.tell(address, &reason);
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
    let Hello { version, from, to, cluster, map } = hello;
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
    } else if let Some(why) = own.map.refusal(map) {
        why
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
    fn refusals_are_counted_by_peer_and_reason_and_no_more_than_so_many_are_kept() {
        let refusals = Refusals::default();
        let [one, other] = [[127, 0, 0, 1], [127, 0, 0, 2]].map(IpAddr::from);
        assert_eq!(refusals.count(one, "a"), Some(1));
        assert_eq!(refusals.count(one, "a"), Some(2));
        assert_eq!(refusals.count(one, "b"), Some(1));
        assert_eq!(refusals.count(other, "a"), Some(1));
        for n in 3..REFUSALS_MAX {
            assert_eq!(refusals.count(other, &n.to_string()), Some(1));
        }
        assert_eq!(refusals.count(other, "one too many"), None);
        assert_eq!(refusals.count(one, "a"), Some(3));
    }

    #[test]
    fn each_mismatch_is_refused_with_what_is_here_and_what_was_said() {
        let id = |id| NodeId::new(id).unwrap();
        let gone = Arc::new(Mutex::new(NodeSet::one(id(4))));
        let usual = MapLimits { keys: 12, key_bytes: 8, value_bytes: 90, bytes: 300 };
        let map = Map { told: None, usual: Some(usual) };
        let own = Own { cluster: ClusterId([1; 4]), node: id(1), map, gone };
        let good = Hello::new(own.cluster, id(2), id(1), Some(usual));
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
        assert_eq!(told(|h| h.version = 1), "you speak version 1 of the link, this node version 2");
        assert_eq!(told(|h| h.map = None), "");
        assert_eq!(
            told(|h| h.map.as_mut().unwrap().bytes = 301),
            "all maps have to hold the same: this node's [map] is keys 12, key_bytes 8, value_bytes 90, bytes 300; yours keys 12, key_bytes 8, value_bytes 90, bytes 301"
        );
    }

    #[test]
    fn maps_are_compared_as_far_as_both_are_known() {
        let small = MapLimits { keys: 12, key_bytes: 8, value_bytes: 90, bytes: 300 };
        let large = MapLimits { bytes: 301, ..small };
        let differ = |told, usual, other| Map { told, usual }.refusal(other).is_some();
        // One that joins, and was told nothing, has what follows from the limits that it will be told.
        assert!(!differ(None, Some(small), None) && !differ(Some(small), Some(large), Some(small)));
        assert!(differ(Some(large), Some(small), None) && differ(None, Some(small), Some(large)));
        // Neither is it known to that one itself.
        assert!(!differ(None, None, Some(small)) && !differ(Some(small), None, None));
        assert!(differ(Some(small), None, Some(large)));
    }
}
