//! The nodes of an interaction script, and what is on its way between them.

use quorate::entry::Kind;
use quorate::{Index, NodeId};

use super::command::{AddNodes, Command};
use super::message::InFlight;
use super::node::Node;
use super::storage;

/// Rounds after which nodes that nobody disturbs have to be quiet.
const ROUNDS_MAX: usize = 1_000;

/// All nodes, and the pool of messages.
#[derive(Default)]
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    pool: Vec<InFlight>,
}

/// A command that can't be followed as it stands.
pub(super) type Unfit = String;

impl World {
    /// Follows a command; what came of it where there is more to say than that it was done.
    ///
    /// # Errors
    /// The script asks for what isn't there.
    pub(super) fn follow(&mut self, command: &Command) -> Result<Vec<String>, Unfit> {
        let mut said = Vec::new();
        match command {
            Command::Look => {}
            Command::RaftState => said.extend(self.nodes.iter().map(Node::state_text)),
            Command::RaftLog(id) => said = self.node(*id)?.log_text(),
            Command::AddNodes(made) => self.add(made)?,
            Command::Campaign(id) => self.node(*id)?.campaign(),
            Command::Compact(id, index) => {
                if let Err(why) = self.node(*id)?.compact(Index(*index)) {
                    said.push(format!("error: {why}"));
                }
            }
            Command::Deliver { to, kind } => {
                for (id, lost) in to {
                    self.deliver(*id, kind.as_deref(), *lost, &mut said)?;
                }
            }
            Command::ProcessReady(ids) => self.each(ids, |world, id| world.process_ready(id))?,
            Command::ProcessAppend(ids) => {
                self.each(ids, |world, id| {
                    let said = world.node(id)?.process_append();
                    world.pool.extend(said.into_iter().flatten());
                    Ok(())
                })?;
            }
            Command::ProcessApply(ids) => {
                self.each(ids, |world, id| {
                    let news = world.node(id)?.process_apply();
                    world.pool.extend(news);
                    Ok(())
                })?;
            }
            Command::SetElectionTimeout(id, ticks) => self.node(*id)?.set_election_timeout(*ticks),
            Command::Stabilize(ids) => self.stabilize(ids, &mut said)?,
            Command::TickElection(id) => self.node(*id)?.tick_election(),
            Command::TickHeartbeat(id) => self.node(*id)?.tick_heartbeat(),
            Command::Tick(id, ticks) => self.node(*id)?.tick(*ticks),
            Command::TransferLeadership { from, to } => {
                said.extend(self.node(*from)?.transfer_leadership(*to).err());
            }
            Command::ForgetLeader(id) => said.extend(self.node(*id)?.forget_leader().err()),
            Command::SendSnapshot { from, to } => {
                let snapshot = self.node(*from)?.send_snapshot(*to);
                self.pool.push(snapshot);
            }
            Command::Propose(id, data) => {
                said.extend(self.node(*id)?.propose(Kind::Command, data.as_bytes()).err());
            }
            Command::ProposeChange(id, change) => {
                let data = storage::encode(change).ok_or("the change is too long")?;
                said.extend(self.node(*id)?.propose(Kind::Membership, &data).err());
            }
            Command::ReportUnreachable { from, to } => self.node(*from)?.report_unreachable(*to),
        }
        Ok(said)
    }

    /// Nothing is on its way to a node that is there, and none has anything left to do.
    pub(super) fn is_quiescent(&mut self) -> bool {
        let busy = |node: &mut Node| node.has_ready() || node.has_thread_work();
        let there = self.nodes.len();
        let arrives = |sent: &InFlight| usize::from(sent.to.get()) <= there;
        !self.pool.iter().any(arrives) && !self.nodes.iter_mut().any(busy)
    }

    fn add(&mut self, made: &AddNodes) -> Result<(), Unfit> {
        for _ in 0..made.count {
            let id = u8::try_from(self.nodes.len() + 1).ok().and_then(NodeId::new);
            let id = id.ok_or_else(|| format!("there are {} nodes at most", NodeId::MAX))?;
            self.nodes.push(Node::new(id, made));
        }
        Ok(())
    }

    fn node(&mut self, id: NodeId) -> Result<&mut Node, Unfit> {
        let node = self.nodes.get_mut(usize::from(id.get()) - 1);
        node.ok_or_else(|| format!("node {id} was not added"))
    }

    fn each(
        &mut self,
        ids: &[NodeId],
        mut act: impl FnMut(&mut Self, NodeId) -> Result<(), Unfit>,
    ) -> Result<(), Unfit> {
        ids.iter().try_for_each(|id| act(self, *id))
    }

    fn process_ready(&mut self, id: NodeId) -> Result<(), Unfit> {
        let sent = self.node(id)?.process_ready();
        self.pool.extend(sent);
        Ok(())
    }

    /// Lets what is on its way to `id` arrive, in the order in which it was sent.
    fn deliver(
        &mut self,
        id: NodeId,
        kind: Option<&str>,
        lost: bool,
        said: &mut Vec<String>,
    ) -> Result<(), Unfit> {
        let taken = |sent: &InFlight| {
            let meant = sent.to == id && kind.is_none_or(|kind| sent.is_of(kind));
            meant && !(lost && sent.is_local())
        };
        let (taken, rest) = self.pool.drain(..).partition::<Vec<_>, _>(taken);
        self.pool = rest;
        if !lost {
            for InFlight { from, content, .. } in taken {
                said.extend(self.node(id)?.step(from, content).err());
            }
        }
        Ok(())
    }

    /// In rounds: each node's ready, then what has come for it, then its threads.
    fn stabilize(&mut self, ids: &[NodeId], said: &mut Vec<String>) -> Result<(), Unfit> {
        let ids = match ids {
            [] => self.nodes.iter().map(|node| node.id).collect(),
            ids => ids.to_vec(),
        };
        for _ in 0..ROUNDS_MAX {
            let mut done = true;
            for id in &ids {
                if self.node(*id)?.has_ready() {
                    self.process_ready(*id)?;
                    done = false;
                }
            }
            for id in &ids {
                if self.pool.iter().any(|sent| sent.to == *id) {
                    self.deliver(*id, None, false, said)?;
                    done = false;
                }
            }
            for id in &ids {
                while let Some(said) = self.node(*id)?.process_append() {
                    self.pool.extend(said);
                    done = false;
                }
            }
            for id in &ids {
                while let Some(news) = self.node(*id)?.process_apply() {
                    self.pool.push(news);
                    done = false;
                }
            }
            if done {
                return Ok(());
            }
        }
        Err(format!("the nodes do not come to rest within {ROUNDS_MAX} rounds"))
    }
}
