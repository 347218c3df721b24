//! Random schedules: time, losses, repetitions, reordering, power cuts, slow flash and full logs, in any
//! order. The checks hold at each step; and when the faults end, the cluster gets on.

use crate::support::{Cluster, Setup, id};
use quorate::Index;
use quorate::raft::Role;
use std::collections::VecDeque;

/// xorshift64*: the schedule is a function of its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

fn setup(dice: &mut Dice, seed: u64) -> Setup {
    let logs = [256, 512, 1024, 8192];
    Setup {
        log_bytes: logs[dice.roll(4) as usize],
        frame_bytes: [96, 128, 200][dice.roll(3) as usize],
        pre_vote: dice.roll(3) > 0,
        check_quorum: dice.roll(3) > 0,
        seed,
        snapshots: dice.roll(4) > 0,
        ..Setup::new([1, 2, 3, 3, 3, 4, 5, 5][dice.roll(8) as usize])
    }
}

/// What the schedules of a test did, so that one in which nothing happened is not taken for a success.
#[derive(Debug, Default)]
struct Sum {
    applied: u64,
    terms: u64,
    restarts: u64,
    refused: u64,
    installed: usize,
}

fn disturb(cluster: &mut Cluster, dice: &mut Dice, sum: &mut Sum) {
    let boards = u64::from(cluster.setup.boards);
    let n = 1 + dice.roll(boards) as u8;
    let m = 1 + dice.roll(boards) as u8;
    match dice.roll(400) {
        0..=99 => cluster.tick(n, dice.roll(130)),
        100..=319 if !cluster.network.is_empty() => {
            // Mostly the oldest, now and then any: radios reorder.
            let len = cluster.network.len() as u64;
            let i = if dice.roll(4) == 0 { dice.roll(len) } else { dice.roll(len.min(3)) };
            let sent = cluster.network.remove(i as usize);
            let again = sent.clone();
            cluster.deliver_one(&sent);
            if dice.roll(8) == 0 {
                cluster.network.push(again);
            }
        }
        320..=327 if !cluster.network.is_empty() => {
            let i = dice.roll(cluster.network.len() as u64);
            cluster.network.remove(i as usize);
        }
        328..=359 => {
            let len = 1 + dice.roll(30) as usize;
            let leader = if dice.roll(4) > 0 { cluster.leader().unwrap_or(n) } else { n };
            let data = vec![b'a' + dice.roll(26) as u8; len];
            if cluster.propose(leader, &data) == Err("the log is full") {
                sum.refused += 1;
            }
        }
        360 => cluster.board_mut(n).manual ^= true,
        361..=369 => cluster.persist_begins(n),
        370..=384 => cluster.persist_ends(n),
        385..=387 => {
            sum.restarts += 1;
            cluster.restart(n);
        }
        388 if n != m => {
            cluster.cuts.insert((id(n), id(m)));
        }
        389..=391 => cluster.cuts.clear(),
        392 => cluster.isolate(n),
        393..=396 if cluster.setup.snapshots => {
            cluster.snapshot(n);
        }
        397 => cluster.board_mut(n).raft.report_unreachable(id(m)),
        _ => {}
    }
}

/// After the faults: in bounded time one leader, and everything is the same everywhere.
///
/// Each frame takes `lag` rounds of 20 ms: a round trip may take longer than the heartbeat interval.
fn heal(cluster: &mut Cluster, lag: usize) {
    let mut on_air = VecDeque::new();
    cluster.cuts.clear();
    cluster.setup.snapshots = true;
    for n in 1..=cluster.setup.boards {
        cluster.board_mut(n).manual = false;
        cluster.persist(n);
    }
    let mut accepted: Option<(u32, Index)> = None;
    for round in 0..1200 {
        cluster.tick_all(20);
        on_air.push_back(cluster.take(None, None));
        if on_air.len() > lag {
            on_air.pop_front().into_iter().flatten().for_each(|s| _ = cluster.deliver_one(&s));
        }
        if let Some((since, index)) = accepted {
            if cluster.boards.iter().all(|b| b.raft.applied() >= index) {
                return;
            }
            if round < since + 100 {
                continue;
            }
        }
        if let Some(leader) = cluster.leader()
            && let Ok(id) = cluster.propose(leader, b"healed")
        {
            accepted = Some((round, id.index));
        }
    }
    let state = |n: u8| {
        let b = cluster.board(n);
        let peers: Vec<_> =
            (1..=cluster.setup.boards).map(|m| *b.raft.progress(id(m)).unwrap()).collect();
        let lines =
            if b.raft.role() == Role::Leader { format!("{peers:#?}") } else { String::new() };
        format!(
            "{n}: {:?} {:?} vote {:?} lead {:?} commit {:?} applied {:?} base {:?} durable {:?} last {:?} snapshot {:?} free {} {lines}\n",
            b.raft.role(),
            b.raft.term(),
            b.raft.vote(),
            b.raft.lead(),
            b.raft.commit(),
            b.raft.applied(),
            b.log.base(),
            b.log.durable(),
            b.log.last(),
            b.raft.snapshot(),
            b.log.bytes_free()
        )
    };
    let states: String = (1..=cluster.setup.boards).map(state).collect();
    let tail = cluster.out.len().saturating_sub(60);
    panic!(
        "no progress after healing: {:?}\n{states}{}",
        cluster.setup,
        cluster.out[tail..].join("\n")
    );
}

fn run(seed: u64, sum: &mut Sum) {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    (0..8).for_each(|_| _ = dice.roll(2));
    let mut cluster = Cluster::new(setup(&mut dice, seed));
    let steps = 300 + dice.roll(3000);
    for _ in 0..steps {
        disturb(&mut cluster, &mut dice, sum);
    }
    heal(&mut cluster, [0, 0, 2, 6][dice.roll(4) as usize]);
    sum.applied += cluster.checks.last_applied().index.0;
    sum.terms += cluster.checks.last_applied().term.0;
    sum.installed += cluster.out.iter().filter(|l| l.contains("installed the snapshot")).count();
    assert_eq!(cluster.checks.impossible_frames, 0, "seed {seed}");
}

#[test]
fn whatever_the_schedule_the_invariants_hold_and_the_cluster_recovers() {
    let number = |name, or| std::env::var(name).map_or(or, |n: String| n.parse().unwrap());
    let first = number("QUORATE_SCHEDULE", 0);
    let count = number("QUORATE_SCHEDULES", 200);
    let mut sum = Sum::default();
    for seed in first..first + count {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, &mut sum)));
        if let Err(why) = done {
            eprintln!("schedule {seed} failed");
            std::panic::resume_unwind(why);
        }
    }
    eprintln!("{sum:?}");
    if count >= 200 {
        assert!(sum.applied > 20 * count && sum.terms > 2 * count, "{sum:?}");
        assert!(sum.restarts > count && sum.refused > count / 4 && sum.installed > 10, "{sum:?}");
    }
}
