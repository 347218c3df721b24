//! Radio links and the async runner, on a half-duplex channel.

use crate::support::board::{CLUSTER, Cluster, Setup, id};
use quorate::event::Event;
use quorate::node::Boot;

/// Elects, commits, compacts; one board is cut off until it needs a snapshot; one comes back with blank flash.
fn a_life(setup: Setup) -> Cluster {
    let mut cluster = Cluster::new(setup);
    cluster.elect();
    let all: Vec<usize> = (0..setup.boards).collect();
    cluster.commit(0, 60, &all);
    cluster.counts_once(60);
    for at in 0..setup.boards {
        assert!(cluster.happened(at, |e| matches!(e, Event::SnapshotTaken { .. })) > 0);
    }
    let away = (cluster.elect() + 1) % setup.boards;
    let others: Vec<usize> = all.iter().copied().filter(|at| *at != away).collect();
    cluster.medium.cut_off(away, true);
    cluster.commit(60, 140, &others);
    assert!(cluster.boards[away].tally.counts.borrow()[70..].iter().all(|count| *count == 0));
    cluster.medium.cut_off(away, false);
    cluster.counts_once(140);
    assert!(cluster.boards[away].tally.restores.get() > 0, "it was brought up by a snapshot");
    // Another one loses its flash.
    let wiped = others[0];
    cluster.cut(wiped);
    cluster.boards[wiped].part.wipe();
    cluster.world.run_ms(10_000);
    cluster.start(wiped, Boot::Join { cluster: CLUSTER, node: id(wiped), nonce: 77 }, 0);
    let rest: Vec<usize> = all.iter().copied().filter(|at| *at != wiped).collect();
    cluster.commit(140, 150, &rest);
    cluster.counts_once(150);
    assert_eq!(cluster.happened(wiped, |e| matches!(e, Event::Admitted { .. })), 1);
    let counters = &cluster.medium.counters;
    assert!(counters.broadcasts.get() > 0 && counters.broadcasts.get() < counters.sent.get());
    if setup.loss_permille > 0 {
        assert!(counters.lost.get() > 100, "{}", counters.lost.get());
    }
    for at in all {
        assert_eq!(cluster.happened(at, |e| matches!(e, Event::Stopped(_))), 0);
    }
    cluster
}

#[test]
fn frames_of_96_bytes_in_fragments_of_51() {
    a_life(Setup { byte_us: 100, ..Setup::new(51, 96) });
}

#[test]
fn frames_of_96_bytes_in_fragments_of_51_with_loss() {
    a_life(Setup { byte_us: 100, loss_permille: 100, ..Setup::new(51, 96) });
}

#[test]
fn frames_of_96_bytes_with_loss() {
    a_life(Setup { loss_permille: 100, ..Setup::new(96, 96) });
}

#[test]
fn frames_of_127_bytes_with_loss() {
    a_life(Setup { loss_permille: 100, ..Setup::new(127, 127) });
}

#[test]
fn frames_of_250_bytes_with_loss() {
    a_life(Setup { byte_us: 8, loss_permille: 100, ..Setup::new(250, 250) });
}

#[test]
fn five_boards_with_frames_of_127_bytes_and_loss() {
    a_life(Setup { boards: 5, loss_permille: 50, ..Setup::new(127, 127) });
}
