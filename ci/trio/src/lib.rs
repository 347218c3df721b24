#![cfg_attr(not(test), no_std)]
//! Three nodes in one program that needs 16 KB of RAM and no standard library: the same run, by the same seed, on a desktop and
//! on a Cortex-M0, told by one hash over everything that comes out of the nodes. Time and the link are simulated here; the flash is
//! the machine's own, and so is the count of instructions.

mod app;
mod cost;
mod ether;
mod faulty;
mod meter;
mod random;
mod trace;
mod trio;

pub use cost::{Cost, cost};
pub use faulty::{Report, faulty};
pub use meter::{CALLS, Costs};
pub use quorate::node::Node;
pub use trio::Trio;

use core::fmt;

use quorate::config::{Config, Flash, Link};
use quorate::flash::Geometry;
use quorate::node::{Limits, flash_buffer_bytes_min, log_bytes_max};

/// Nodes.
pub const NODES: usize = 3;
/// Bytes of each node's log in RAM.
pub const LOG_BYTES: usize = 896;
/// The longest frame, in bytes.
pub const FRAME_BYTES: usize = 128;
/// The longest command, in bytes.
pub const ENTRY_BYTES: usize = 64;
/// What a forwarded command may have at most: its entry says whose it is, too.
const FORWARD_BYTES: usize = 40;
/// The application's state, in bytes: more than one piece of a snapshot.
const STATE_BYTES: usize = 96;

const BUFFER_BYTES: usize = flash_buffer_bytes_min(FRAME_BYTES as u16);

/// Each node's flash: words and pages as the nRF51 has them.
pub const GEOMETRY: Geometry = Geometry {
    word_bytes: 4,
    erased: 0xff,
    page_bytes: 4,
    block_bytes: 1024,
    blocks_per_segment: 2,
    segments: 8,
};

const LIMITS: Limits = Limits {
    frame_bytes: FRAME_BYTES as u16,
    entry_bytes: ENTRY_BYTES as u16,
    log_bytes: log_bytes_max(LOG_BYTES, FRAME_BYTES as u16),
    snapshot_bytes: STATE_BYTES as u32,
};

/// What each node is started with.
fn config(seed: u64) -> Config {
    let link = Link {
        bits_per_second: 1_000_000,
        frame_bytes: FRAME_BYTES as u16,
        fragment_bytes: 0,
        overhead_bytes: 4,
        turnaround_us: 500,
        duty_permille: 1000,
        broadcast: true,
    };
    let flash = Flash { geometry: GEOMETRY, word_us: 46, erase_ms_max: 22, stalls: true };
    Config::new(link, flash, NODES as u8, seed)
}

/// What the machine brings along.
pub trait Board {
    /// Reads flash, all nodes' one behind the other.
    fn read(&mut self, at: u32, bytes: &mut [u8]);
    /// Programs whole words: bits are cleared, never set.
    fn write(&mut self, at: u32, bytes: &[u8]);
    /// Erases whole blocks.
    fn erase(&mut self, at: u32, bytes: u32);
    /// Makes a call, and counts the instructions that it takes; zero where that can't be told.
    fn count<R>(&mut self, call: impl FnOnce() -> R) -> (R, u32) {
        (call(), 0)
    }
    /// Makes a node as new, off: without a stack that has room for one.
    fn renew(&mut self, node: &mut Node<[u8; LOG_BYTES]>) {
        *node = Node::new();
    }
    /// How far the run is, now and then: where two of them part is between two of these.
    fn mark(&mut self, line: fmt::Arguments<'_>);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flash that is memory, and refuses what flash can't do.
    pub(crate) struct Host(Vec<u8>);

    impl Host {
        pub(crate) fn new() -> Self {
            Self(vec![0; GEOMETRY.bytes() as usize * NODES])
        }
    }

    impl Board for Host {
        fn read(&mut self, at: u32, bytes: &mut [u8]) {
            let at = at as usize;
            bytes.copy_from_slice(&self.0[at..at + bytes.len()]);
        }

        fn write(&mut self, at: u32, bytes: &[u8]) {
            let at = at as usize;
            for (old, new) in self.0[at..].iter_mut().zip(bytes) {
                *old &= new;
            }
        }

        fn erase(&mut self, at: u32, bytes: u32) {
            self.0[at as usize..(at + bytes) as usize].fill(GEOMETRY.erased);
        }

        fn mark(&mut self, _: fmt::Arguments<'_>) {}
    }

    fn run(seed: u64) -> Report {
        faulty(&mut Trio::new(), &mut Host::new(), seed)
    }

    #[test]
    fn a_seed_leads_to_one_hash_and_another_to_another() {
        assert_eq!(run(1).hash, run(1).hash);
        assert_ne!(run(1).hash, run(2).hash);
    }

    #[test]
    fn everything_happens_and_all_agree() {
        let mut installed = 0;
        for seed in 1..=20 {
            let report = run(seed);
            assert_eq!(report.lacks(), None, "seed {seed}: {report}");
            assert!(report.agree && report.stopped() == 0, "seed {seed}: {report}");
            installed += report.installed();
        }
        assert!(installed > 0);
    }

    #[test]
    fn every_call_is_made() {
        let mut trio = Trio::new();
        let mut host = Host::new();
        for seed in 1..=3 {
            faulty(&mut trio, &mut host, seed);
        }
        let silent = CALLS.iter().zip(trio.costs().calls).find(|(_, calls)| *calls == 0);
        assert_eq!(silent, None);
    }
}
