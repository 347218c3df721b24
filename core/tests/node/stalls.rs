//! Snapshots that take long, above all on boards whose CPU stands still while flash is written: they hear nothing meanwhile, and say
//! nothing.

use crate::support::{Cluster, Host};
use quorate::Instant;
use quorate::config::{Config, Flash};
use quorate::event::Event;
use quorate::flash::FlashOp;

/// Slow as an EEPROM: a snapshot takes longer than any election timeout.
const WORD_US: u32 = 3200;
const ERASE_MS: u32 = 50;

fn cost_ms(op: FlashOp) -> u32 {
    match op {
        FlashOp::Write { len, .. } => (len.div_ceil(4) * WORD_US).div_ceil(1000),
        _ => ERASE_MS,
    }
}

/// Boards of which some stall, and a link that keeps no frame for who does not listen.
struct Stalling {
    cluster: Cluster,
    /// Until when each stands still, if it does.
    busy: Vec<Instant>,
    /// For how long each has stood still.
    busy_ms: [u32; 3],
}

impl Stalling {
    fn new() -> Self {
        let set = |config: &mut Config| {
            let flash =
                Flash { word_us: WORD_US, erase_ms_max: ERASE_MS, stalls: true, ..config.flash };
            *config = Config::new(config.link, flash, config.members_max, config.seed);
        };
        let mut cluster = Cluster::with(3, set);
        cluster.run(20_000);
        let busy = vec![Instant::ZERO; cluster.hosts.len()];
        Self { cluster, busy, busy_ms: [0; 3] }
    }

    fn is_busy(&self, at: usize) -> bool {
        self.cluster.hosts[at].held.is_some()
    }

    /// Everything that the board has to do, up to its next wait or flash operation, and what others do about it.
    fn drive(&mut self, at: usize) {
        let now = self.cluster.now;
        let frames = self.cluster.hosts[at].drive(now);
        if let Some(op) = self.cluster.hosts[at].held {
            self.busy[at] = now.after(cost_ms(op));
            self.busy_ms[at] += cost_ms(op);
        }
        for (to, frame) in frames {
            for to in to.iter().map(|id| usize::from(id.get()) - 1) {
                if !self.is_busy(to) {
                    self.cluster.hosts[to].node.handle_frame(now, &frame);
                    self.drive(to);
                }
            }
        }
    }

    fn run(&mut self, ms: u32) {
        for _ in 0..ms {
            self.cluster.now = self.cluster.now.after(1);
            let now = self.cluster.now;
            for at in 0..self.busy.len() {
                let host = &mut self.cluster.hosts[at];
                if host.held.is_some() && self.busy[at] <= now {
                    // The driver asks for the next output at once; it has not been told to wait.
                    host.let_go(now);
                    self.drive(at);
                } else if host.held.is_none() && host.until <= now {
                    host.node.handle_timeout(now);
                    self.drive(at);
                }
            }
        }
    }

    /// Is the last command applied on all boards, and has each the time to hear?
    fn is_everywhere(&self) -> bool {
        let hosts = &self.cluster.hosts;
        let last = hosts.iter().map(|host| host.node.status().last.index).max();
        let done = |host: &Host| Some(host.node.status().applied) == last;
        hosts.iter().all(|host| host.held.is_none() && done(host))
    }

    fn count(&self, which: impl Fn(&Event) -> bool) -> [usize; 3] {
        let count = |host: &Host| host.events.iter().filter(|event| which(event)).count();
        [0, 1, 2].map(|at| count(&self.cluster.hosts[at]))
    }
}

/// Commands come until each board has taken some snapshots, the last of which are long; for how many ms the longest command waited
/// while flash did not work.
fn keeps_its_leader(stalls: impl Fn(bool) -> bool) -> u32 {
    let mut boards = Stalling::new();
    let leader = boards.cluster.leader().expect("a leader");
    for (at, host) in boards.cluster.hosts.iter_mut().enumerate() {
        host.stalls = stalls(at == leader);
    }
    let became = |boards: &Stalling| boards.count(|event| matches!(event, Event::Became { .. }));
    let taken =
        |boards: &Stalling| boards.count(|event| matches!(event, Event::SnapshotTaken { .. }));
    let before = became(&boards);
    let mut longest_ms = (0, 0);
    while taken(&boards).iter().any(|taken| *taken < 4) {
        assert!(boards.cluster.hosts[leader].state.len() < 3000, "{:?}", taken(&boards));
        let (began, busy_ms) = (boards.cluster.now, boards.busy_ms);
        boards.cluster.hosts[leader].node.propose(&[7; 40]).expect("it leads");
        boards.drive(leader);
        boards.run(20);
        while !boards.is_everywhere() {
            boards.run(1);
            assert_eq!(became(&boards), before);
        }
        let worked = (0..3).map(|at| boards.busy_ms[at] - busy_ms[at]).max().unwrap_or(0);
        longest_ms = longest_ms.max((boards.cluster.now.since(began) as u32, worked));
    }
    // Else nothing was shown.
    let election_ms = boards.cluster.hosts[0].config.election_ms;
    let (took_ms, worked_ms) = longest_ms;
    assert!(worked_ms > 2 * election_ms, "{longest_ms:?} of {election_ms}");
    took_ms - worked_ms
}

#[test]
fn a_leader_that_stalls_is_heard_and_hears_while_it_takes_a_snapshot() {
    // It goes on with the answers, in the same millisecond.
    assert_eq!(keeps_its_leader(|leads| leads), 0);
}

#[test]
fn followers_that_stall_hear_their_leader_while_they_take_a_snapshot() {
    // They wait for a heartbeat between two pieces.
    let waited_ms = keeps_its_leader(|leads| !leads);
    assert!(waited_ms < 200, "{waited_ms}");
}

#[test]
fn boards_that_all_stall_keep_their_leader_while_they_take_snapshots() {
    assert_eq!(keeps_its_leader(|_| true), 0);
}

#[test]
fn a_log_that_ran_full_is_applied_before_the_next_snapshot_of_it_is_taken() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    let slow = (leader + 1) % 3;
    let taken = |cluster: &Cluster| {
        let events = &cluster.hosts[slow].events;
        events.iter().filter(|event| matches!(event, Event::SnapshotTaken { .. })).count()
    };
    let propose = |cluster: &mut Cluster| {
        cluster.hosts[leader].node.propose(&[7; 20]).unwrap();
        cluster.settle();
    };
    let full = |cluster: &Cluster| {
        let events = &cluster.hosts[slow].events;
        events.iter().any(|event| matches!(event, Event::LogFull { .. }))
    };
    // A state that takes long to write.
    (0..100).for_each(|_| propose(&mut cluster));
    let before = taken(&cluster);
    cluster.hosts[slow].holds = Some(0);
    while !full(&cluster) {
        assert_eq!(taken(&cluster), before);
        (0..4).for_each(|_| propose(&mut cluster));
        cluster.hosts[slow].let_go(cluster.now);
        cluster.settle();
    }
    // It hears nothing more, and there is nobody whom it could tell that it has room again.
    let now = cluster.now.after(10_000);
    cluster.hosts[slow].node.handle_timeout(now);
    (cluster.hosts[slow].holds, cluster.hosts[slow].stalls) = (None, true);
    while cluster.hosts[slow].held.is_some() {
        cluster.hosts[slow].let_go(now);
        let _ = cluster.hosts[slow].drive(now);
    }
    let status = cluster.hosts[slow].node.status();
    assert_eq!((status.snapshot.index, status.applied), (status.last.index, status.last.index));
    // The one that was under way, and one of all the rest.
    assert_eq!(taken(&cluster) - before, 2);
}
