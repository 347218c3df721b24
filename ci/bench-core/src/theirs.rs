//! The cluster of the crate `raft`, set up for speed: many entries in a message, many messages in flight, and a batch
//! proposed as one message.

use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode};

use crate::Cluster;
use crate::link::{Commands, Link, Sent};

/// Applied entries that stay in a log.
const KEPT: u64 = 4096;
/// As long as a message with 64 commands of 1 KiB.
const LINK_FRAME_BYTES: usize = 70_000;

struct Host {
    node: RawNode<MemStorage>,
    /// Commands applied so far.
    applied: u64,
    compacted: u64,
}

/// Nodes, their storages and the link between them.
pub(crate) struct Theirs {
    hosts: Vec<Host>,
    link: Link<u64>,
    commands: Commands,
    proposed: u64,
}

impl Theirs {
    pub(crate) fn new(nodes: usize, command_bytes: usize) -> Self {
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let voters: Vec<u64> = (1..=nodes as u64).collect();
        let host = |id: &u64| {
            let config = Config {
                id: *id,
                election_tick: 10,
                heartbeat_tick: 1,
                max_size_per_msg: 1 << 20,
                max_inflight_msgs: 256,
                ..Config::default()
            };
            let storage = MemStorage::new_with_conf_state((voters.clone(), vec![]));
            let node = RawNode::new(&config, storage, &log).expect("the configuration is sound");
            Host { node, applied: 0, compacted: 0 }
        };
        let mut cluster = Self {
            hosts: voters.iter().map(host).collect(),
            link: Link::new(LINK_FRAME_BYTES),
            commands: Commands::new(command_bytes),
            proposed: 0,
        };
        cluster.hosts[0].node.campaign().expect("a follower can stand for election");
        cluster.settle();
        cluster
    }

    /// The leader has something to do; until no frame is on its way.
    fn settle(&mut self) {
        self.hosts[0].drive(&mut self.link, &self.commands);
        while let Some((to, frame)) = self.link.receive() {
            let message = Message::parse_from_bytes(&frame).expect("a message was sent");
            self.link.done(frame);
            let host = &mut self.hosts[to as usize - 1];
            host.node.step(message).expect("the message is from a member");
            host.drive(&mut self.link, &self.commands);
        }
    }
}

impl Host {
    fn drive(&mut self, link: &mut Link<u64>, commands: &Commands) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            send(link, ready.take_messages());
            self.apply(commands, ready.take_committed_entries());
            let storage = self.node.raft.raft_log.store.clone();
            storage.wl().append(ready.entries()).expect("entries follow the log");
            if let Some(state) = ready.hs() {
                storage.wl().set_hardstate(state.clone());
            }
            send(link, ready.take_persisted_messages());
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                storage.wl().mut_hard_state().commit = commit;
            }
            send(link, light.take_messages());
            self.apply(commands, light.take_committed_entries());
            self.node.advance_apply();
        }
    }

    fn apply(&mut self, commands: &Commands, entries: Vec<Entry>) {
        for entry in entries {
            if entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
                commands.check(self.applied, &entry.data);
                self.applied += 1;
            }
            // Else its log would grow for ever.
            if entry.index >= self.compacted + 2 * KEPT {
                self.compacted = entry.index - KEPT;
                let compacted = self.node.raft.raft_log.store.wl().compact(self.compacted);
                compacted.expect("what is applied can go");
            }
        }
    }
}

fn send(link: &mut Link<u64>, messages: Vec<Message>) {
    for message in messages {
        link.send(message.to, 1, |frame| {
            message.write_to_vec(frame).expect("a message can be written");
        });
    }
}

impl Cluster for Theirs {
    fn commit(&mut self, batch: u64) {
        let leader = &mut self.hosts[0].node;
        let numbers = self.proposed..self.proposed + batch;
        if batch == 1 {
            let command = self.commands.get(self.proposed).to_vec();
            leader.propose(vec![], command).expect("the leader takes proposals");
        } else {
            let entry = |number| Entry {
                data: self.commands.get(number).to_vec().into(),
                ..Entry::default()
            };
            let mut message = Message { from: 1, ..Message::default() };
            message.set_msg_type(MessageType::MsgPropose);
            message.set_entries(numbers.map(entry).collect());
            leader.step(message).expect("the leader takes proposals");
        }
        self.proposed += batch;
        self.settle();
        for host in &self.hosts {
            assert_eq!(host.applied, self.proposed, "a node has not applied everything");
        }
    }

    fn sent(&self) -> Sent {
        self.link.sent
    }
}
