//! Whole nodes: what a power cut leaves of changes of membership that follow each other.

use crate::support::{Cluster, id};
use quorate::Index;
use quorate::change::{Step, Transition, What};

/// Three boards whose flash has words so short that nothing goes along for nothing.
fn boards() -> Cluster {
    let mut cluster = Cluster::with(3, |config| {
        (config.flash.geometry.word_bytes, config.flash.geometry.page_bytes) = (1, 1);
    });
    cluster.run(2000);
    cluster
}

#[test]
fn what_was_applied_while_flash_was_busy_is_known_there_before_the_next_change_is() {
    let mut cluster = boards();
    let leader = cluster.leader().unwrap();
    let slow = (leader + 1) % 3;
    let change = |cluster: &mut Cluster, what| {
        let step = [Step::new(what, id(4))];
        let node = &mut cluster.hosts[leader].node;
        node.change_members(Transition::Auto, &step, false).unwrap().index
    };
    // The first change becomes durable (it is written and read back), a command behind it is on its way to flash, and only then the change is committed.
    cluster.hosts[slow].holds = Some(2);
    let first = change(&mut cluster, What::AddLearner);
    cluster.drive(leader);
    cluster.hosts[leader].node.propose(b"a command").unwrap();
    cluster.settle();
    assert!(cluster.hosts[slow].node.status().applied >= first);
    assert!(cluster.hosts[slow].after_a_cut(cluster.now).node.status().commit < first);
    let second = change(&mut cluster, What::Remove);
    cluster.settle();
    let mut held = false;
    for _ in 0..12 {
        cluster.hosts[slow].let_go(cluster.now);
        cluster.settle();
        let board = cluster.hosts[slow].after_a_cut(cluster.now).node.status();
        held |= board.last.index >= second;
        assert!(board.last.index < second || board.commit >= first, "{board:?}");
    }
    assert!(held);
}

/// A follower's flash that is slow now and then, while changes and commands come: whenever it holds a change, it has to
/// know that the one before is committed. Else the board would stand with the members from before both.
#[test]
fn no_change_is_in_flash_before_it_is_known_there_that_the_one_before_is_committed() {
    for seed in 1..30u64 {
        let mut cluster = boards();
        let leader = cluster.leader().unwrap();
        let slow = (leader + 1) % 3;
        let mut dice = seed;
        let mut draw = |n: u64| {
            dice = dice.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            (dice >> 33) % n
        };
        let mut changes: Vec<Index> = vec![];
        let mut held = 0;
        for _ in 0..120 {
            let now = cluster.now;
            match draw(4) {
                0 => {
                    let learns = cluster.hosts[leader].node.members().len() == 3;
                    let what = if learns { What::AddLearner } else { What::Remove };
                    let step = [Step::new(what, id(4))];
                    let node = &mut cluster.hosts[leader].node;
                    changes.extend(
                        node.change_members(Transition::Auto, &step, false).map(|id| id.index),
                    );
                }
                1 => drop(cluster.hosts[leader].node.propose(b"a command")),
                2 => cluster.hosts[slow].holds = (draw(3) > 0).then_some(0),
                _ => cluster.hosts[slow].let_go(now),
            }
            cluster.settle();
            let board = cluster.hosts[slow].after_a_cut(now).node.status();
            for pair in changes.windows(2).filter(|pair| pair[1] <= board.last.index) {
                held += 1;
                assert!(board.commit >= pair[0], "{seed}: {board:?}, changes {changes:?}");
            }
        }
        assert!(held > 0, "{seed}: no change followed another in flash");
    }
}
