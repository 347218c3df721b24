//! How a program talks to its node.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use quorate::change::{Step, What};
use quorate::typed::{Command, MapLimits, Outcome};
use quorate::{EntryId, NodeId};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

use super::address;
use super::question::Question;
use super::report::Report;
use crate::content::Value;
use crate::fit;

/// What the node is still to look at.
pub(super) const REQUESTS_MAX: usize = 4096;
/// How long a node that does nothing is waited for beyond what was asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// Nobody waits longer, whatever is asked for: a point in time has an end.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

fn after(within: Duration) -> Instant {
    Instant::now() + within.min(FOR_EVER)
}

/// A write that took effect, or was not needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The entry that it is; `None` if a snapshot covers it.
    pub id: Option<EntryId>,
    /// The revision that the key has now, and the map if it `changed`; `None` if it is not known any more.
    pub revision: Option<u64>,
    /// It was not so before.
    pub changed: bool,
}

/// Why a write is not known to have taken effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// It has not, and will not: as a command it was committed, and refused everywhere.
    #[error("{}", outcome_in_words(.0))]
    Refused(Outcome),
    /// It was not even proposed: it is too large for this cluster.
    #[error("too large: {what}")]
    TooLarge {
        /// What is, and what would do.
        what: String,
    },
    /// It was not proposed: too many others wait already.
    #[error("too many requests wait already: nothing was written")]
    Busy,
    /// The time is up. It may have taken effect, or may yet do so, once at most; unless it was not even proposed.
    #[error("unknown: {}", if *.proposed { "no quorum has confirmed it in time; it may take effect yet" } else { "it was not even proposed in time, for want of a leader or of room in the log" })]
    Unknown {
        /// It may be in a log somewhere.
        proposed: bool,
    },
    /// The node has stopped meanwhile. What was proposed before may have taken effect, or may yet do so.
    #[error("unknown: the node has stopped")]
    Stopped,
}

/// Why a read was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader has confirmed in time, with a quorum behind it, that nothing newer is known.
    #[error("no quorum has confirmed in time that this is the newest state")]
    NoQuorum,
    /// Too many others wait already.
    #[error("too many requests wait already")]
    Busy,
    /// The node has not started yet.
    #[error("the node is not ready yet")]
    NotReady,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a change of membership is not known to be in effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// It can't be made. Nothing has changed.
    #[error("{0}")]
    Refused(String),
    /// As for a write.
    #[error("{0}")]
    Write(WriteError),
}

/// Why leadership is not with somebody else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// It can't be handed over.
    #[error("{0}")]
    Refused(String),
    /// It was tried, and somebody else leads, or nobody.
    #[error("that node does not lead after all")]
    TimedOut,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// How fresh what is read has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// It shows every write that was acknowledged before the read began, by whatever node.
    Linearizable,
    /// What this node has applied: it may be behind, also for long.
    Local,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// The map's revision when it was written last.
    pub revision: u64,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The keys that were asked for and are there, in order.
    pub items: Vec<Item>,
    /// The map's revision at that moment.
    pub revision: u64,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A key has a new value.
    Set(Item),
    /// A key was taken out.
    Deleted {
        /// Which.
        key: String,
        /// The map's revision since then.
        revision: u64,
    },
    /// Anything may have changed up to this revision: a snapshot was restored. Read again what you need.
    Everything {
        /// The map's revision now.
        revision: u64,
    },
}

/// A stream of changes.
#[derive(Debug)]
pub struct Watch {
    /// The map's revision when it began: every change behind it is told.
    pub revision: u64,
    notices: broadcast::Receiver<Notice>,
}

impl Watch {
    /// The next change, in the order of revisions; `None` when the node has stopped. A watcher that is too slow is told
    /// [`Notice::Everything`] in place of what it missed, with the revision 0.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice> {
        match self.notices.recv().await {
            Ok(notice) => Some(notice),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Notice::Everything { revision: 0 }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Query {
    Key(String),
    Prefix(String),
}

/// A write, or a change of membership, on its way.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) question: Question,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<Written, ChangeError>>,
}

#[derive(Debug)]
pub(super) struct Read {
    pub(super) query: Query,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<Shown, ReadError>>,
}

#[derive(Debug)]
pub(super) enum Request {
    Write(Write),
    Read(Read, Consistency),
    Watch(oneshot::Sender<(u64, broadcast::Receiver<Notice>)>),
    Transfer(NodeId, oneshot::Sender<Result<(), String>>),
    Status(oneshot::Sender<Report>),
    Image(oneshot::Sender<std::io::Result<Vec<u8>>>),
    Stop,
}

/// A node that runs, for any number of tasks.
///
/// Each call waits for its answer. If its future is dropped before, the request may or may not be carried out: a write may
/// take effect, once at most. Nothing else is left behind.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) requests: mpsc::Sender<Request>,
    /// What the map takes, as far as it is known yet.
    pub(super) longest: Arc<RwLock<MapLimits>>,
    pub(super) schema: u16,
}

impl Handle {
    /// Gives `key` a value. `expected` is the revision that the key must have (0: it must not be there); `None`: any.
    ///
    /// Answers when the write is committed and applied on this node, `within` that time or not much later. A dropped future: see
    /// [`Handle`].
    ///
    /// # Errors
    /// It has no effect, or nobody knows.
    pub async fn put(
        &self,
        key: &str,
        value: &Value,
        expected: Option<u64>,
        within: Duration,
    ) -> Result<Written, WriteError> {
        self.fits(key, value)?;
        self.command(&Command::Set { key, value: fit::board_value(value), expected }, within).await
    }

    /// Takes `key` out; as [`Handle::put`].
    ///
    /// # Errors
    /// It has no effect, or nobody knows.
    pub async fn delete(
        &self,
        key: &str,
        expected: Option<u64>,
        within: Duration,
    ) -> Result<Written, WriteError> {
        self.command(&Command::Delete { key, expected }, within).await
    }

    fn longest(&self) -> MapLimits {
        *self.longest.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the map would refuse anyway need not be told to everybody.
    fn fits(&self, key: &str, value: &Value) -> Result<(), WriteError> {
        let limits = self.longest();
        let bytes = match value {
            Value::Str(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
        };
        for (what, bytes, max) in [
            ("key", key.len(), usize::from(limits.key_bytes)),
            ("value", bytes, usize::from(limits.value_bytes)),
        ] {
            if bytes > max {
                let what = format!("a {what} of {bytes} bytes, {max} are allowed");
                return Err(WriteError::TooLarge { what });
            }
        }
        Ok(())
    }

    async fn command(
        &self,
        command: &Command<'_>,
        within: Duration,
    ) -> Result<Written, WriteError> {
        let mut bytes = vec![0; self.longest().command_bytes_max() as usize];
        let len = command.encode(self.schema, &mut bytes);
        let len = len.map_err(|error| WriteError::TooLarge { what: error.to_string() })?;
        bytes.truncate(len);
        match self.write(Question::Command(bytes), within).await {
            Ok(written) => Ok(written),
            Err(ChangeError::Write(error)) => Err(error),
            Err(ChangeError::Refused(what)) => Err(WriteError::TooLarge { what }),
        }
    }

    async fn write(&self, question: Question, within: Duration) -> Result<Written, ChangeError> {
        let (answer, answered) = oneshot::channel();
        let deadline = after(within);
        let request = Request::Write(Write { question, deadline, answer });
        match self.requests.try_send(request) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err(ChangeError::Write(WriteError::Busy));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                return Err(ChangeError::Write(WriteError::Stopped));
            }
        }
        match tokio::time::timeout_at(deadline + PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ChangeError::Write(WriteError::Stopped)),
            Err(_) => Err(ChangeError::Write(WriteError::Unknown { proposed: true })),
        }
    }

    /// What `key` holds. A dropped future leaves nothing behind.
    ///
    /// # Errors
    /// It can't be told; with [`Consistency::Local`] only because the node does not run.
    pub async fn get(
        &self,
        key: &str,
        consistency: Consistency,
        within: Duration,
    ) -> Result<Shown, ReadError> {
        self.read(Query::Key(key.into()), consistency, within).await
    }

    /// All keys that begin like that; as [`Handle::get`].
    ///
    /// # Errors
    /// It can't be told.
    pub async fn list(
        &self,
        prefix: &str,
        consistency: Consistency,
        within: Duration,
    ) -> Result<Shown, ReadError> {
        self.read(Query::Prefix(prefix.into()), consistency, within).await
    }

    async fn read(
        &self,
        query: Query,
        consistency: Consistency,
        within: Duration,
    ) -> Result<Shown, ReadError> {
        let (answer, answered) = oneshot::channel();
        let deadline = after(within);
        let request = Request::Read(Read { query, deadline, answer }, consistency);
        match self.requests.try_send(request) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(ReadError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(ReadError::Stopped),
        }
        match tokio::time::timeout_at(deadline + PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::NoQuorum),
        }
    }

    /// Every change from now on, as this node applies them. `None` if the node has stopped. A dropped future leaves nothing behind.
    pub async fn watch(&self) -> Option<Watch> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Watch(answer)).await.ok()?;
        let (revision, notices) = answered.await.ok()?;
        Some(Watch { revision, notices })
    }

    /// Adds a member that follows without a vote, or gives a member another address; without one it is reached by the wire. Answers when
    /// that is in effect here. A dropped future: see [`Handle`], as for all changes of membership.
    ///
    /// # Errors
    /// It is not in effect, or nobody knows.
    pub async fn add_learner(
        &self,
        id: NodeId,
        at: Option<SocketAddr>,
        within: Duration,
    ) -> Result<(), ChangeError> {
        let address = at.map(address::encode).unwrap_or_default();
        let step = Step { address, ..Step::new(What::AddLearner, id) };
        self.change(vec![step], false, within).await
    }

    /// Tells where a member is now.
    ///
    /// # Errors
    /// It is not in effect, or nobody knows.
    pub async fn move_member(
        &self,
        id: NodeId,
        to: SocketAddr,
        within: Duration,
    ) -> Result<(), ChangeError> {
        let step = Step { address: address::encode(to), ..Step::new(What::Update, id) };
        self.change(vec![step], false, within).await
    }

    /// Gives a member a vote, once it has caught up; with `force` also before, which holds up every write until it has.
    ///
    /// # Errors
    /// It is not in effect, or nobody knows.
    pub async fn promote(
        &self,
        id: NodeId,
        force: bool,
        within: Duration,
    ) -> Result<(), ChangeError> {
        self.change(vec![Step::new(What::AddVoter, id)], force, within).await
    }

    /// Takes a member out. A node that learns that it is none any more stops by itself.
    ///
    /// # Errors
    /// It is not in effect, or nobody knows.
    pub async fn remove_member(&self, id: NodeId, within: Duration) -> Result<(), ChangeError> {
        self.change(vec![Step::new(What::Remove, id)], false, within).await
    }

    /// Gives a member a vote in place of another, which is taken out: one change, by a joint configuration (Raft §6), so that there is never one voter more
    /// or less. Answers when both halves have agreed to it.
    ///
    /// # Errors
    /// It is not in effect, or nobody knows.
    pub async fn replace_member(
        &self,
        old: NodeId,
        new: NodeId,
        force: bool,
        within: Duration,
    ) -> Result<(), ChangeError> {
        if old == new {
            // It would be taken out.
            return Err(ChangeError::Refused(format!("node {new} can't take its own place")));
        }
        let steps = vec![Step::new(What::AddVoter, new), Step::new(What::Remove, old)];
        self.change(steps, force, within).await
    }

    async fn change(
        &self,
        steps: Vec<Step>,
        force: bool,
        within: Duration,
    ) -> Result<(), ChangeError> {
        self.write(Question::Change { steps, force }, within).await.map(|_| ())
    }

    /// Hands leadership to another voter, and waits until it leads. If the future is dropped, it may do so yet.
    ///
    /// # Errors
    /// It does not lead.
    pub async fn transfer(&self, to: NodeId, within: Duration) -> Result<(), TransferError> {
        let deadline = after(within);
        let (answer, answered) = oneshot::channel();
        let stopped = |_| TransferError::Stopped;
        self.requests
            .send(Request::Transfer(to, answer))
            .await
            .map_err(|_| TransferError::Stopped)?;
        let asked = answered.await.map_err(stopped)?;
        loop {
            let report = self.status().await.ok_or(TransferError::Stopped)?;
            // It may have led already.
            if report.leader == Some(to.get()) {
                return Ok(());
            }
            if let Err(why) = asked {
                return Err(TransferError::Refused(why));
            }
            if Instant::now() >= deadline {
                return Err(TransferError::TimedOut);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A look at the node; `None` if it has stopped. A dropped future leaves nothing behind.
    pub async fn status(&self) -> Option<Report> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Status(answer)).await.ok()?;
        answered.await.ok()
    }

    /// A copy of the node's flash as it is, for `quorate config dump`, `quorate wal inspect` and `quorate wal recover`. Never start a node
    /// from one while its cluster lives: it has forgotten what it promised since. A dropped future leaves nothing behind.
    ///
    /// # Errors
    /// It can't be read.
    pub async fn image(&self) -> std::io::Result<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        let stopped = || std::io::Error::other("the node has stopped");
        self.requests.send(Request::Image(answer)).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    /// Stops the node, and waits until its file is closed. Requests under way end without an answer: what was proposed may
    /// take effect yet. If the future is dropped it stops all the same.
    pub async fn stop(&self) {
        let _ = self.requests.send(Request::Stop).await;
        self.requests.closed().await;
    }
}

/// An outcome that is no success, as a person reads it.
pub fn outcome_in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { revision } => format!("done at revision {revision}"),
        Outcome::Unchanged { revision } => format!("unchanged since revision {revision}"),
        Outcome::Mismatch { revision: 0 } => "the key is not there".into(),
        Outcome::Mismatch { revision } => format!("the key has revision {revision}"),
        Outcome::TooManyKeys { max } => format!("there is no place for one more key than {max}"),
        Outcome::KeyTooLong { max } => format!("a key has at most {max} bytes"),
        Outcome::ValueTooLong { max } => format!("a value has at most {max} bytes"),
        Outcome::Full { bytes_needed, bytes_free } => {
            format!("it takes {bytes_needed} bytes, and only {bytes_free} are free")
        }
        Outcome::Outdated { schema } => format!("the map has moved on to schema {schema}"),
        _ => "it is no command".into(),
    }
}
