//! This library's cluster, as boards run it: the node with pre-vote and check-quorum, and bytes on the link.

use quorate::config::Config;
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::membership::Member;
use quorate::node::{Boot, Founding, Limits, Node, Output, flash_buffer_bytes_min, log_bytes_max};
use quorate::plan;
use quorate::raft::Role;
use quorate::storage::Storage;
use quorate::{ClusterId, Instant, NodeId, NodeSet};

use crate::Cluster;
use crate::link::{Commands, Link, Sent};

/// What a cluster is made with.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) nodes: u8,
    pub(crate) command_bytes: u16,
    pub(crate) frame_bytes: u16,
}

/// Time stands still once there is a leader, here as for the opponent, which is given no ticks.
struct Host<S> {
    node: Box<Node<[u8], S>>,
    frame: Vec<u8>,
    buffer: Vec<u8>,
    /// NOR flash, for the storage that asks for it.
    flash: Vec<u8>,
    /// Commands applied so far: all of the application's state.
    applied: u64,
    until: Instant,
}

/// Nodes, and the link between them.
pub(crate) struct Ours<S> {
    hosts: Vec<Host<S>>,
    now: Instant,
    leader: usize,
    link: Link<NodeSet>,
    commands: Commands,
    proposed: u64,
}

impl<S: Storage> Ours<S> {
    pub(crate) fn new<const N: usize>(sizes: Sizes) -> Self {
        let members: Vec<Member> =
            (1..=sizes.nodes).filter_map(NodeId::new).map(Member::new).collect();
        let mut cluster = Self {
            hosts: members.iter().map(|m| Host::found::<N>(m.id, &members, sizes)).collect(),
            now: Instant::ZERO,
            leader: 0,
            link: Link::new(sizes.frame_bytes.into()),
            commands: Commands::new(sizes.command_bytes.into()),
            proposed: 0,
        };
        cluster.drive_all();
        let leads = |host: &Host<S>| host.node.raft().role() == Role::Leader;
        while !cluster.hosts.iter().any(leads) {
            let next = cluster.hosts.iter().map(|host| host.until).min().unwrap_or_default();
            cluster.now = cluster.now.max(next).after(1);
            for host in &mut cluster.hosts {
                host.node.handle_timeout(cluster.now);
            }
            cluster.drive_all();
        }
        cluster.leader = cluster.hosts.iter().position(leads).unwrap_or_default();
        cluster
    }

    fn drive_all(&mut self) {
        for host in &mut self.hosts {
            host.drive(self.now, &mut self.link, &self.commands);
        }
        self.settle();
    }

    /// Until no frame is on its way.
    fn settle(&mut self) {
        while let Some((to, frame)) = self.link.receive() {
            for to in to.iter() {
                let host = &mut self.hosts[usize::from(to.get()) - 1];
                host.node.handle_frame(self.now, &frame);
                host.drive(self.now, &mut self.link, &self.commands);
            }
            self.link.done(frame);
        }
    }
}

impl<S: Storage> Host<S> {
    fn found<const N: usize>(id: NodeId, members: &[Member], sizes: Sizes) -> Self {
        let Sizes { command_bytes, frame_bytes, .. } = sizes;
        let mut node: Box<Node<[u8], S>> = Box::new(Node::<[u8; N], S>::new());
        let mut link = plan::link("tcp").expect("the link has a name");
        link.frame_bytes = frame_bytes;
        let part = plan::part("file").expect("the part has a name");
        let mut flash = part.flash;
        flash.geometry = GEOMETRY;
        let config = Config::new(link, flash, sizes.nodes, u64::from(id.get()));
        let limits = Limits {
            frame_bytes,
            entry_bytes: command_bytes,
            log_bytes: log_bytes_max(N, frame_bytes),
            snapshot_bytes: 64,
        };
        let cluster = ClusterId([1, 2, 3, 4]);
        let founding = Founding { cluster, node: id, members, limits, erase_anyway: false };
        node.start(Instant::ZERO, &config, Boot::Found(&founding)).expect("it fits");
        Self {
            node,
            frame: vec![0; frame_bytes.into()],
            buffer: vec![0; flash_buffer_bytes_min(frame_bytes)],
            flash: vec![GEOMETRY.erased; GEOMETRY.bytes() as usize],
            applied: 0,
            until: Instant::ZERO,
        }
    }

    fn drive(&mut self, now: Instant, link: &mut Link<NodeSet>, commands: &Commands) {
        loop {
            match self.node.poll_output(now, &mut self.frame, &mut self.buffer) {
                Output::Transmit { to, len } => {
                    link.send(to, to.len(), |frame| frame.extend_from_slice(&self.frame[..len]));
                }
                Output::Apply { len, .. } => {
                    commands.check(self.applied, &self.frame[..len]);
                    self.applied += 1;
                }
                Output::Flash(op) => {
                    self.perform(op);
                    self.node.handle_flash(now, FlashDone::Ok);
                }
                Output::TakeSnapshot { offset, at, .. } => {
                    let state = self.applied.to_le_bytes();
                    let rest = &state[offset as usize..];
                    self.buffer[at..at + rest.len()].copy_from_slice(rest);
                    self.node.handle_snapshot(rest.len());
                }
                Output::RestoreSnapshot { .. } => panic!("nobody falls behind here"),
                Output::ReadReady(_) | Output::Proposed { .. } => {}
                Output::Event(_) => {}
                Output::Wait { until } => {
                    self.until = until;
                    return;
                }
            }
        }
    }

    fn perform(&mut self, op: FlashOp) {
        let place = |offset: u32, len: u32| offset as usize..(offset + len) as usize;
        match op {
            FlashOp::Read { offset, len } => {
                self.buffer[..len as usize].copy_from_slice(&self.flash[place(offset, len)]);
            }
            FlashOp::Write { offset, len } => {
                self.flash[place(offset, len)].copy_from_slice(&self.buffer[..len as usize]);
            }
            FlashOp::Erase { offset, len } => {
                self.flash[place(offset, len)].fill(GEOMETRY.erased);
            }
        }
    }
}

/// Room for the longest log here several times over.
const GEOMETRY: Geometry = Geometry {
    word_bytes: 4,
    erased: 0xff,
    page_bytes: 4,
    block_bytes: 131_072,
    blocks_per_segment: 1,
    segments: 16,
};

impl<S: Storage> Cluster for Ours<S> {
    fn commit(&mut self, batch: u64) {
        let leader = &mut self.hosts[self.leader].node;
        for number in self.proposed..self.proposed + batch {
            leader.propose(self.commands.get(number)).expect("the leader takes proposals");
        }
        self.proposed += batch;
        self.hosts[self.leader].drive(self.now, &mut self.link, &self.commands);
        self.settle();
        for host in &self.hosts {
            assert_eq!(host.applied, self.proposed, "a node has not applied everything");
        }
    }

    fn sent(&self) -> Sent {
        self.link.sent
    }
}
