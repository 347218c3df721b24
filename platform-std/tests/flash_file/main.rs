//! What a node acknowledges survives a kill that takes everything along that was not synced, and no disk that fails makes it
//! say more than it has.

use quorate::config::{Config, Flash, Link};
use quorate::flash::{FlashOp, Geometry};
use quorate::membership::Member;
use quorate::node::{Boot, Founding, Limits, Node, Output, entry_bytes_max, log_bytes_max};
use quorate::{ClusterId, EntryId, Instant, NodeId};
use quorate_std::disk::Disk;
use quorate_std::faults;
use quorate_std::flash_file::FlashFile;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

const GEOMETRY: Geometry = Geometry {
    word_bytes: 8,
    erased: 0xff,
    page_bytes: 4096,
    block_bytes: 16_384,
    blocks_per_segment: 1,
    segments: 5,
};
const LOG_BYTES: usize = 4096;
const FRAME_BYTES: u16 = 512;
const LIMITS: Limits = Limits {
    frame_bytes: FRAME_BYTES,
    entry_bytes: entry_bytes_max(FRAME_BYTES),
    log_bytes: log_bytes_max(LOG_BYTES, FRAME_BYTES),
    snapshot_bytes: 8,
};

type Forgetful = faults::Forgetful<Vec<u8>>;

/// Why a life of a node ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Killed,
    Disk(String),
    Fault(String),
    /// It was left alone for long.
    Idle,
}

/// A cluster of one node, whose application is the number and the sum of the commands that it took.
struct Life {
    node: Box<Node>,
    flash: FlashFile<Forgetful>,
    now: Instant,
    state: [u32; 2],
    restored: Vec<u8>,
    /// The number of the last command that it said to be committed.
    acknowledged: u32,
    steps: u32,
}

impl Life {
    fn start(disk: Forgetful, boot: Boot<'_>) -> Self {
        let mut node: Box<Node> = Box::new(Node::<[u8; LOG_BYTES]>::new());
        let link = Link {
            bits_per_second: 100_000_000,
            frame_bytes: FRAME_BYTES,
            fragment_bytes: 0,
            overhead_bytes: 0,
            turnaround_us: 100,
            duty_permille: 1000,
            broadcast: false,
        };
        let flash = Flash { geometry: GEOMETRY, word_us: 100, erase_ms_max: 1, stalls: false };
        let config = Config::new(link, flash, 1, 1);
        node.start(Instant::ZERO, &config, boot).unwrap();
        Self {
            node,
            flash: FlashFile::new(disk, GEOMETRY.erased),
            now: Instant::ZERO,
            state: [0; 2],
            restored: Vec::new(),
            acknowledged: 0,
            steps: 0,
        }
    }

    /// Proposes commands, each as soon as the last one is applied, until something ends it. A kill comes at this flash operation, in
    /// its middle: what it wrote is not synced.
    fn run(&mut self, kill_at: u32, commands_max: u32, length: usize) -> End {
        let (mut frame, mut buffer) = (vec![0; 512], vec![0; 1024]);
        let mut proposed: Option<EntryId> = None;
        let mut idle = 0;
        loop {
            self.node.handle_timeout(self.now);
            let output = self.node.poll_output(self.now, &mut frame, &mut buffer);
            match output {
                Output::Flash(op) => {
                    self.steps += 1;
                    if self.steps == kill_at {
                        let blank = vec![GEOMETRY.erased; GEOMETRY.block_bytes as usize];
                        let (offset, bytes) = match op {
                            FlashOp::Write { offset, len } => (offset, &buffer[..len as usize]),
                            FlashOp::Erase { offset, len } => (offset, &blank[..len as usize]),
                            FlashOp::Read { .. } => return End::Killed,
                        };
                        self.flash.disk().write_at(offset.into(), bytes).unwrap();
                        return End::Killed;
                    }
                    match self.flash.perform(op, &mut buffer) {
                        Ok(done) => self.node.handle_flash(self.now, done),
                        Err(e) => return End::Disk(e.to_string()),
                    }
                }
                Output::Apply { id, len } => {
                    let number = u32::from_le_bytes(frame[..4].try_into().unwrap());
                    assert!(len >= 4);
                    self.state = [self.state[0] + 1, self.state[1].wrapping_add(number)];
                    if proposed == Some(id) {
                        self.acknowledged = number;
                        proposed = None;
                    }
                }
                Output::TakeSnapshot { offset, at, .. } => {
                    let bytes = self.state.map(u32::to_le_bytes).concat();
                    let rest = &bytes[offset as usize..];
                    buffer[at..at + rest.len()].copy_from_slice(rest);
                    self.node.handle_snapshot(rest.len());
                }
                Output::RestoreSnapshot { offset, at, len, last } => {
                    self.restored.truncate(offset as usize);
                    self.restored.extend(&buffer[at..at + len]);
                    if last {
                        let word =
                            |at| u32::from_le_bytes(self.restored[at..at + 4].try_into().unwrap());
                        self.state =
                            if self.restored.is_empty() { [0; 2] } else { [word(0), word(4)] };
                    }
                }
                Output::Wait { until } => {
                    if let Some(fault) = self.node.status().fault {
                        return End::Fault(format!("{fault:?}"));
                    }
                    idle += 1;
                    if idle > 200 {
                        return End::Idle;
                    }
                    let next = self.state[0] + 1;
                    if proposed.is_none() && next <= commands_max {
                        let mut command = vec![0; length];
                        command[..4].copy_from_slice(&next.to_le_bytes());
                        if let Ok(id) = self.node.propose(&command) {
                            (proposed, idle) = (Some(id), 0);
                            continue;
                        }
                    }
                    self.now = until.min(self.now.after(10_000)).max(self.now.after(1));
                }
                _ => {}
            }
        }
    }
}

fn founded() -> Vec<u8> {
    let disk = Forgetful::in_memory(vec![GEOMETRY.erased; GEOMETRY.bytes() as usize], 0);
    let member = [Member::new(NodeId::new(1).unwrap())];
    let founding = Founding {
        cluster: ClusterId(*b"disk"),
        node: member[0].id,
        members: &member,
        limits: LIMITS,
        erase_anyway: false,
    };
    let mut life = Life::start(disk.clone(), Boot::Found(&founding));
    assert_eq!(life.run(u32::MAX, 0, 4), End::Idle);
    disk.after_kill()
}

/// Kills one node again and again; what was wrong, if anything, and how often it was killed.
fn kill_again_and_again(seed: u64, ignore_syncs: bool) -> (Result<u32, String>, u32) {
    let mut dice = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut image = founded();
    let (mut acknowledged, mut kills) = (0, 0);
    for _ in 0..60 {
        let disk = Forgetful::in_memory(image, dice.next_u64());
        if ignore_syncs {
            disk.ignore_syncs();
        }
        let kill_at = 5 + dice.next_u64() as u32 % 120;
        let length = 4 + dice.next_u64() as usize % 400;
        let mut life = Life::start(disk.clone(), Boot::Mount);
        let end = life.run(kill_at, u32::MAX, length);
        if end != End::Killed {
            return (Err(format!("it stopped by itself: {end:?}")), kills);
        }
        kills += 1;
        let [count, sum] = life.state;
        // What it shows after a restart is what it took before, without gaps.
        if life.acknowledged > 0 {
            acknowledged = life.acknowledged.max(acknowledged);
        }
        if (1..=count).fold(0u32, |sum, number| sum.wrapping_add(number)) != sum {
            return (Err(format!("{count} commands have the sum {sum}")), kills);
        }
        image = disk.after_kill();
        let disk = Forgetful::in_memory(image.clone(), 0);
        let mut life = Life::start(disk, Boot::Mount);
        let end = life.run(u32::MAX, 0, 4);
        if end != End::Idle {
            return (Err(format!("it does not start again: {end:?}")), kills);
        }
        if life.state[0] < acknowledged {
            let count = life.state[0];
            return (Err(format!("{acknowledged} were acknowledged, {count} are there")), kills);
        }
    }
    (Ok(acknowledged), kills)
}

#[test]
fn what_was_acknowledged_survives_kills_that_discard_what_was_not_synced() {
    let mut most = 0;
    for seed in 1..=20 {
        let (result, kills) = kill_again_and_again(seed, false);
        assert_eq!(kills, 60);
        most += result.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
    assert!(most > 5000, "only {most} commands were acknowledged");
}

/// What the test above is worth: with syncs that do nothing it does not pass for any seed.
#[test]
fn without_syncs_acknowledged_commands_are_lost() {
    for seed in 1..=20 {
        let (result, _) = kill_again_and_again(seed, true);
        result.expect_err("nothing was lost");
    }
}

#[test]
fn a_disk_that_is_full_or_cannot_be_synced_stops_the_node_with_all_it_acknowledged() {
    for fill in [true, false] {
        let image = founded();
        let disk = Forgetful::in_memory(image, 7);
        let mut life = Life::start(disk.clone(), Boot::Mount);
        assert_eq!(life.run(u32::MAX, 40, 100), End::Idle);
        if fill {
            disk.fill_up_after(Some(3));
        } else {
            disk.fail_syncs(true);
        }
        let end = life.run(u32::MAX, u32::MAX, 100);
        assert!(matches!(end, End::Disk(_)), "{end:?}");
        let acknowledged = life.acknowledged;
        assert!(acknowledged >= 40);
        // Also once there is room again, nothing more is carried out.
        disk.fail_syncs(false);
        disk.fill_up_after(None);
        let again = life.flash.perform(FlashOp::Read { offset: 0, len: 8 }, &mut [0; 8]);
        assert!(again.is_err());
        let image = disk.after_kill();
        let mut life = Life::start(Forgetful::in_memory(image, 7), Boot::Mount);
        assert_eq!(life.run(u32::MAX, 0, 4), End::Idle);
        assert!(life.state[0] >= acknowledged, "{} < {acknowledged}", life.state[0]);
    }
}
