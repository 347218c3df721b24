//! A whole cluster in one process commits a number of commands, and tells what that took as JSON. `cargo ci bench core` runs
//! it, under callgrind as well.

mod count;
mod link;
mod memory;
mod ours;
mod theirs;

use clap::{Parser, ValueEnum};
use quorate::wal::Wal;
use serde::Serialize;
use std::time::Instant;

use link::Sent;
use memory::Memory;
use ours::{Ours, Sizes};
use theirs::Theirs;

#[global_allocator]
static ALLOCATOR: count::Counting = count::Counting;

/// A cluster that is driven until all of its nodes have applied, and compared, what was proposed.
trait Cluster {
    /// Proposes so many commands at once; they are applied by all nodes when it returns.
    fn commit(&mut self, batch: u64);

    /// What went over its link so far.
    fn sent(&self) -> Sent;
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum System {
    /// This library, with a storage in memory.
    Quorate,
    /// This library, with its flash log in NOR flash that is memory.
    Flash,
    /// The crate `raft`, with its storage in memory.
    Raft,
}

#[derive(Parser)]
struct Arguments {
    system: System,
    /// Commands that are committed.
    #[arg(long, default_value_t = 24_576)]
    entries: u64,
    /// Commands committed before it counts.
    #[arg(long, default_value_t = 0)]
    before: u64,
    /// Bytes of a command.
    #[arg(long, default_value_t = 64)]
    bytes: u16,
    /// Commands proposed at once.
    #[arg(long, default_value_t = 1)]
    batch: u64,
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// The log of a node, in KiB: 1, 16 or 256.
    #[arg(long, default_value_t = 256)]
    log: u32,
    /// The longest frame of the link.
    #[arg(long, default_value_t = 16_384)]
    frame: u16,
}

/// What committing them took.
#[derive(Serialize)]
struct Taken {
    entries: u64,
    seconds: f64,
    allocations: u64,
    frames: u64,
    frame_bytes: u64,
    frames_unicast: u64,
    frame_bytes_unicast: u64,
}

fn main() {
    let arguments = Arguments::parse();
    let mut cluster = cluster(&arguments);
    let batch = arguments.batch;
    let mut commit = |entries: u64| (0..entries / batch).for_each(|_| cluster.commit(batch));
    commit(arguments.before);
    let (sent, allocations, begun) = (cluster.sent(), count::allocations(), Instant::now());
    let mut commit = |entries: u64| (0..entries / batch).for_each(|_| cluster.commit(batch));
    commit(arguments.entries);
    let (seconds, now) = (begun.elapsed().as_secs_f64(), cluster.sent());
    let taken = Taken {
        entries: arguments.entries / batch * batch,
        seconds,
        allocations: count::allocations() - allocations,
        frames: now.frames - sent.frames,
        frame_bytes: now.bytes - sent.bytes,
        frames_unicast: now.frames_unicast - sent.frames_unicast,
        frame_bytes_unicast: now.bytes_unicast - sent.bytes_unicast,
    };
    println!("{}", serde_json::to_string(&taken).expect("numbers"));
}

fn cluster(arguments: &Arguments) -> Box<dyn Cluster> {
    let Arguments { nodes, bytes, frame, .. } = *arguments;
    let sizes = Sizes { nodes, command_bytes: bytes, frame_bytes: frame };
    match (arguments.system, arguments.log) {
        (System::Raft, _) => Box::new(Theirs::new(nodes.into(), bytes.into())),
        (System::Quorate, 1) => Box::new(Ours::<Memory>::new::<1024>(sizes)),
        (System::Quorate, 16) => Box::new(Ours::<Memory>::new::<16_384>(sizes)),
        (System::Quorate, _) => Box::new(Ours::<Memory>::new::<262_144>(sizes)),
        (System::Flash, 1) => Box::new(Ours::<Wal>::new::<1024>(sizes)),
        (System::Flash, 16) => Box::new(Ours::<Wal>::new::<16_384>(sizes)),
        (System::Flash, _) => Box::new(Ours::<Wal>::new::<262_144>(sizes)),
    }
}
