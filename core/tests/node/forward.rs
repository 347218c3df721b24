//! Whole nodes: commands that any member forwards to the leader, and that take effect once.

use crate::support::{Cluster, id};
use quorate::NodeSet;
use quorate::node::{ForwardError, Outcome, ProposalId};
use quorate::wire;

fn started() -> (Cluster, usize) {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    (cluster, leader)
}

fn forward(cluster: &mut Cluster, host: usize, command: &[u8], ms: u32) -> ProposalId {
    let until = cluster.now.after(ms);
    cluster.hosts[host].node.forward(command, until).unwrap()
}

fn outcome(cluster: &Cluster, host: usize, of: ProposalId) -> Option<Outcome> {
    let told: Vec<_> = cluster.hosts[host].outcomes.iter().filter(|(id, _)| *id == of).collect();
    told.last().map(|(_, outcome)| *outcome)
}

fn times(cluster: &Cluster, host: usize, command: &[u8]) -> usize {
    cluster.hosts[host].applied.iter().filter(|(_, applied)| applied == command).count()
}

#[test]
fn a_command_from_any_member_takes_effect_and_its_board_is_told_where() {
    let (mut cluster, _) = started();
    for host in 0..3 {
        let command = [host as u8; 9];
        let proposal = forward(&mut cluster, host, &command, 5000);
        cluster.run(1000);
        let Some(Outcome::Applied { id: Some(entry) }) = outcome(&cluster, host, proposal) else {
            panic!("{:?}", cluster.hosts[host].outcomes);
        };
        let here = cluster.hosts[host].applied.iter().find(|(id, _)| *id == entry);
        assert_eq!(here.map(|(_, command)| command.as_slice()), Some(command.as_slice()));
    }
}

#[test]
fn whatever_is_lost_or_comes_twice_each_command_takes_effect_once() {
    let (mut cluster, _) = started();
    for seed in 1..100u64 {
        cluster.noise = seed;
        let host = (seed % 3) as usize;
        let command = seed.to_le_bytes();
        let proposal = forward(&mut cluster, host, &command, 60_000);
        // Now and then the leader is cut off while it has the command, or before, or after.
        cluster.run(seed as u32 % 5 * 3);
        let leader = cluster.leader().filter(|_| seed % 3 == 0);
        cluster.cut = leader.map(|i| id(i as u8 + 1)).into_iter().collect();
        cluster.run(2000);
        cluster.cut = NodeSet::EMPTY;
        for _ in 0..600 {
            cluster.run(100);
            if outcome(&cluster, host, proposal).is_some() {
                break;
            }
        }
        let told = outcome(&cluster, host, proposal);
        assert!(matches!(told, Some(Outcome::Applied { .. })), "{seed}: {told:?}");
    }
    cluster.noise = 0;
    cluster.run(3000);
    for host in 0..3 {
        for seed in 1..100u64 {
            assert_eq!(times(&cluster, host, &seed.to_le_bytes()), 1, "{seed} on {host}");
        }
    }
}

#[test]
fn a_leader_that_is_lost_after_it_took_a_command_makes_it_take_effect_no_second_time() {
    let (mut cluster, first) = started();
    let from = (first + 1) % 3;
    let opened = forward(&mut cluster, from, b"opens the session", 2000);
    cluster.run(500);
    assert!(matches!(outcome(&cluster, from, opened), Some(Outcome::Applied { .. })));
    let proposal = forward(&mut cluster, from, b"once", 30_000);
    // The leader commits it with the third, and is gone before the sender hears of it.
    let now = cluster.now;
    for (to, frame) in cluster.hosts[from].drive(now) {
        assert!(to.contains(id(first as u8 + 1)));
        cluster.hosts[first].node.handle_frame(now, &frame);
    }
    cluster.cut = NodeSet::one(id(from as u8 + 1));
    cluster.run(200);
    let third = 3 - first - from;
    assert_eq!(times(&cluster, third, b"once"), 1);
    cluster.cut = NodeSet::one(id(first as u8 + 1));
    cluster.run(5000);
    assert!(matches!(outcome(&cluster, from, proposal), Some(Outcome::Applied { .. })));
    assert_eq!((times(&cluster, from, b"once"), times(&cluster, third, b"once")), (1, 1));
}

#[test]
fn what_was_unknown_can_be_sent_again_under_its_own_number_and_takes_effect_once() {
    let (mut cluster, leader) = started();
    let from = (leader + 1) % 3;
    cluster.cut = NodeSet::one(id(from as u8 + 1));
    let proposal = forward(&mut cluster, from, b"late", 400);
    let busy = cluster.hosts[from].node.forward(b"another", cluster.now);
    assert_eq!(busy, Err(ForwardError::Busy));
    cluster.run(500);
    assert_eq!(outcome(&cluster, from, proposal), Some(Outcome::Unknown));
    cluster.cut = NodeSet::EMPTY;
    for _ in 0..3 {
        cluster.hosts[from].outcomes.clear();
        let until = cluster.now.after(5000);
        cluster.hosts[from].node.forward_again(proposal, b"late", until).unwrap();
        cluster.run(3000);
        assert!(matches!(outcome(&cluster, from, proposal), Some(Outcome::Applied { .. })));
    }
    assert_eq!(times(&cluster, leader, b"late"), 1);
    forward(&mut cluster, from, b"the next", 5000);
    cluster.run(1000);
    let until = cluster.now;
    let old = cluster.hosts[from].node.forward_again(proposal, b"late", until);
    assert_eq!(old, Err(ForwardError::Forgotten));
}

#[test]
fn a_restarted_board_opens_a_session_of_its_own_and_its_last_command_is_not_taken_for_the_next() {
    let (mut cluster, leader) = started();
    let from = (leader + 1) % 3;
    forward(&mut cluster, from, b"before", 5000);
    cluster.run(1000);
    cluster.hosts[from].restart(cluster.now);
    cluster.run(1000);
    for command in [b"after 1", b"after 2"] {
        let proposal = forward(&mut cluster, from, command, 5000);
        cluster.run(1000);
        assert!(matches!(outcome(&cluster, from, proposal), Some(Outcome::Applied { .. })));
    }
    for command in [b"before".as_slice(), b"after 1", b"after 2"] {
        assert_eq!(times(&cluster, leader, command), 1);
    }
}

/// The frame with which a board asks for its session, or sends its command.
fn asking(cluster: &mut Cluster, host: usize) -> Vec<u8> {
    let now = cluster.now;
    let frames = cluster.hosts[host].drive(now);
    let is_command = |frame: &&(NodeSet, Vec<u8>)| {
        let decoded = wire::decode(&frame.1).unwrap();
        matches!(decoded.envelope.message, wire::Message::Propose { .. })
    };
    frames.iter().find(is_command).unwrap().1.clone()
}

/// So many entries that a snapshot takes the place of what was in the log before.
fn move_on(cluster: &mut Cluster, leader: usize) {
    for round in 0..30u8 {
        cluster.hosts[leader].node.propose(&[round; 40]).unwrap();
        cluster.run(20);
    }
}

/// The leader is given a frame, and appends what it brings.
fn append(cluster: &mut Cluster, leader: usize, frame: &[u8]) {
    let node = &mut cluster.hosts[leader].node;
    let before = node.status().last.index;
    node.handle_frame(cluster.now, frame);
    assert_eq!(node.status().last.index, before.next());
}

/// The leader is given a frame that it has had, and appends nothing.
fn repeat(cluster: &mut Cluster, leader: usize, frame: &[u8]) {
    let node = &mut cluster.hosts[leader].node;
    let before = node.status().last;
    node.handle_frame(cluster.now, frame);
    assert_eq!(node.status().last, before);
}

#[test]
fn a_repeated_frame_is_not_appended_again_before_it_is_applied_nor_after() {
    let (mut cluster, leader) = started();
    let from = (leader + 1) % 3;
    forward(&mut cluster, from, b"opens", 5000);
    let opens = asking(&mut cluster, from);
    append(&mut cluster, leader, &opens);
    repeat(&mut cluster, leader, &opens);
    cluster.run(1000);
    repeat(&mut cluster, leader, &opens);
    forward(&mut cluster, from, b"command", 5000);
    let command = asking(&mut cluster, from);
    append(&mut cluster, leader, &command);
    repeat(&mut cluster, leader, &command);
    cluster.run(1000);
    repeat(&mut cluster, leader, &command);
}

#[test]
fn a_session_opened_a_second_time_by_a_late_frame_makes_no_command_take_effect_again() {
    let (mut cluster, leader) = started();
    let from = (leader + 1) % 3;
    forward(&mut cluster, from, b"opens", 5000);
    let late = asking(&mut cluster, from);
    let now = cluster.now;
    cluster.hosts[leader].node.handle_frame(now, &late);
    cluster.run(1000);
    // It takes effect, and its board has been told that nobody knows.
    let proposal = forward(&mut cluster, from, b"once", 400);
    let command = asking(&mut cluster, from);
    cluster.hosts[leader].node.handle_frame(now, &command);
    cluster.cut = NodeSet::one(id(from as u8 + 1));
    cluster.run(600);
    assert_eq!(outcome(&cluster, from, proposal), Some(Outcome::Unknown));
    cluster.cut = NodeSet::EMPTY;
    cluster.run(1000);
    assert_eq!(times(&cluster, from, b"once"), 1);
    move_on(&mut cluster, leader);
    append(&mut cluster, leader, &late);
    cluster.run(1000);
    let until = cluster.now.after(5000);
    cluster.hosts[from].node.forward_again(proposal, b"once", until).unwrap();
    cluster.run(3000);
    assert!(matches!(outcome(&cluster, from, proposal), Some(Outcome::Applied { .. })));
    assert_eq!(times(&cluster, leader, b"once"), 1);
}

#[test]
fn a_command_that_a_snapshot_leaves_unknown_is_told_under_the_number_that_it_was_given() {
    let (mut cluster, leader) = started();
    let from = (leader + 1) % 3;
    forward(&mut cluster, from, b"opens", 5000);
    let late = asking(&mut cluster, from);
    cluster.run(1000);
    move_on(&mut cluster, leader);
    let proposal = forward(&mut cluster, from, b"lost", 600_000);
    let now = cluster.now;
    cluster.hosts[from].drive(now);
    cluster.cut = NodeSet::one(id(from as u8 + 1));
    // Another session is opened meanwhile, and a snapshot is all that is left of it.
    append(&mut cluster, leader, &late);
    move_on(&mut cluster, leader);
    cluster.cut = NodeSet::EMPTY;
    cluster.run(5000);
    let told: Vec<_> = cluster.hosts[from].outcomes.iter().skip(1).collect();
    assert_eq!(told, [&(proposal, Outcome::Unknown)]);
    let until = cluster.now;
    let again = cluster.hosts[from].node.forward_again(proposal, b"lost", until);
    assert_eq!(again, Err(ForwardError::Forgotten));
}

#[test]
fn commands_that_are_too_long_are_refused_with_what_would_do() {
    let (mut cluster, _) = started();
    let until = cluster.now.after(1000);
    let refused = cluster.hosts[0].node.forward(&[0; 64], until);
    assert_eq!(refused, Err(ForwardError::TooLarge { bytes_max: 53 }));
    let longest = forward(&mut cluster, 0, &[7; 53], 5000);
    cluster.run(1000);
    assert!(matches!(outcome(&cluster, 0, longest), Some(Outcome::Applied { .. })));
}
