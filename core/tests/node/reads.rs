//! Whole nodes: reads that see every acknowledged write, by a round of heartbeats and by lease; transfers.

use crate::support::{Cluster, id};
use quorate::NodeSet;
use quorate::change::{Step, Transition, What};
use quorate::node::{ReadError, ReadId};
use quorate::raft::{READS_MAX, Role, TransferRefused};

fn started(of: u8) -> (Cluster, usize) {
    let mut cluster = Cluster::new(of);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    (cluster, leader)
}

fn read(cluster: &mut Cluster, host: usize) -> ReadId {
    let now = cluster.now;
    cluster.hosts[host].node.read(now, false).unwrap()
}

fn read_by_lease(cluster: &mut Cluster, host: usize) -> ReadId {
    let now = cluster.now;
    cluster.hosts[host].node.read(now, true).unwrap()
}

/// How many commands had been applied when the read was answered.
fn answered(cluster: &Cluster, host: usize, read: ReadId) -> Option<usize> {
    cluster.hosts[host].reads.iter().find(|(id, _)| *id == read).map(|(_, applied)| *applied)
}

fn cut_off(cluster: &mut Cluster, host: usize) {
    cluster.cut = NodeSet::one(id(host as u8 + 1));
}

#[test]
fn a_read_on_any_member_sees_what_was_committed_before() {
    let (mut cluster, leader) = started(3);
    cluster.hosts[leader].node.propose(b"one").unwrap();
    cluster.settle();
    for host in 0..3 {
        let read = read(&mut cluster, host);
        cluster.run(500);
        assert_eq!(answered(&cluster, host, read), Some(1), "board {host}");
    }
}

#[test]
fn a_board_with_older_firmware_than_its_state_answers_no_read() {
    let (mut cluster, leader) = started(3);
    let old = (leader + 1) % 3;
    // Its snapshot comes to cover all that is committed.
    for i in 0..30u8 {
        cluster.hosts[leader].node.propose(&[i; 40]).unwrap();
        cluster.run(200);
        if cluster.hosts[old].node.status().snapshot.index
            == cluster.hosts[leader].node.status().commit
        {
            break;
        }
    }
    let now = cluster.now;
    cluster.hosts[old].too_new = Some(9);
    cluster.hosts[old].restart(now);
    cluster.run(50);
    let (there, here) = (cluster.hosts[leader].node.status(), cluster.hosts[old].node.status());
    assert_eq!((here.newer_schema, there.role), (Some(9), Role::Leader));
    assert_eq!((here.snapshot.index, here.applied), (there.commit, there.commit));
    let asked = read(&mut cluster, old);
    cluster.run(500);
    assert_eq!(answered(&cluster, old, asked), None, "it has no state to read");
    let asked = read(&mut cluster, leader);
    cluster.run(500);
    assert!(answered(&cluster, leader, asked).is_some());
}

#[test]
fn a_leader_that_was_deposed_unknowingly_answers_no_read_and_then_by_the_new_one() {
    let (mut cluster, old) = started(3);
    cut_off(&mut cluster, old);
    // It leads yet, for all it knows; the others will elect another.
    let asked = read(&mut cluster, old);
    cluster.run(3000);
    let new = cluster.leader().unwrap();
    assert_ne!(new, old);
    cluster.hosts[new].node.propose(b"newer").unwrap();
    cluster.run(100);
    assert_eq!(answered(&cluster, old, asked), None);
    cluster.cut = NodeSet::EMPTY;
    cluster.run(3000);
    assert_eq!(answered(&cluster, old, asked), Some(1), "it sees what the new leader wrote");
}

#[test]
fn no_more_reads_are_kept_than_there_is_room_for_and_cancelled_ones_make_room() {
    let (mut cluster, leader) = started(3);
    cut_off(&mut cluster, leader);
    let now = cluster.now;
    let reads: Vec<_> = (0..READS_MAX).map(|_| read(&mut cluster, leader)).collect();
    assert_eq!(cluster.hosts[leader].node.read(now, false), Err(ReadError::TooMany));
    cluster.hosts[leader].node.cancel_read(reads[1]);
    let last = read(&mut cluster, leader);
    cluster.cut = NodeSet::EMPTY;
    cluster.run(500);
    let told = |id| answered(&cluster, leader, id).is_some();
    assert_eq!([told(reads[0]), told(reads[1]), told(last)], [true, false, true]);
}

#[test]
fn reads_complete_where_the_voters_shrink_to_the_leader_alone() {
    // O8
    let (mut cluster, leader) = started(2);
    let other = 1 - leader;
    let step = [Step::new(What::Remove, id(other as u8 + 1))];
    cluster.hosts[leader].node.change_members(Transition::Auto, &step, false).unwrap();
    let asked = read(&mut cluster, leader);
    // The change commits; no answer to the round of the read comes any more.
    let now = cluster.now;
    cluster.hosts[other].node.handle_timeout(now);
    cluster.run(400);
    assert_eq!(cluster.hosts[leader].node.status().membership.voters.len(), 1);
    assert!(answered(&cluster, leader, asked).is_some());
    let alone = read_by_lease(&mut cluster, leader);
    cluster.settle();
    assert!(answered(&cluster, leader, alone).is_some());
}

/// A cluster whose boards may trust their clocks to within a tenth.
fn with_leases() -> (Cluster, usize) {
    let mut cluster = Cluster::with(3, |config| config.lease_clock_error_permille = Some(100));
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    (cluster, leader)
}

#[test]
fn a_read_by_lease_asks_nobody_as_long_as_the_lease_lasts() {
    let (mut cluster, leader) = with_leases();
    cut_off(&mut cluster, leader);
    let now = read_by_lease(&mut cluster, leader);
    cluster.settle();
    assert_eq!(answered(&cluster, leader, now), Some(0), "at once");
    let election_ms = cluster.hosts[leader].config.election_ms;
    // No longer than others may still be waiting for it.
    cluster.now = cluster.now.after(election_ms * 8 / 10);
    let late = read_by_lease(&mut cluster, leader);
    cluster.settle();
    assert_eq!(answered(&cluster, leader, late), None);
}

#[test]
fn without_a_declared_clock_error_a_read_by_lease_asks_the_others() {
    let (mut cluster, leader) = started(3);
    cut_off(&mut cluster, leader);
    let asked = read_by_lease(&mut cluster, leader);
    cluster.settle();
    assert_eq!(answered(&cluster, leader, asked), None);
}

#[test]
fn a_clock_that_stood_still_ends_the_lease_until_a_newer_round_is_answered() {
    let (mut cluster, leader) = with_leases();
    cluster.hosts[leader].node.handle_clock_stopped();
    let cut = NodeSet::one(id(leader as u8 + 1));
    cluster.cut = cut;
    let asked = read_by_lease(&mut cluster, leader);
    cluster.settle();
    assert_eq!(answered(&cluster, leader, asked), None);
    cluster.cut = NodeSet::EMPTY;
    cluster.run(cluster.hosts[leader].config.heartbeat_ms * 2);
    cluster.cut = cut;
    let again = read_by_lease(&mut cluster, leader);
    cluster.settle();
    assert!(answered(&cluster, leader, again).is_some());
}

#[test]
fn a_lease_ends_with_the_request_to_take_over() {
    // O4
    let (mut cluster, leader) = with_leases();
    let to = (leader + 1) % 3;
    let now = cluster.now;
    cluster.hosts[leader].node.transfer_leader(now, id(to as u8 + 1)).unwrap();
    // It is told, and everybody is deaf from then on.
    let frames = cluster.hosts[leader].drive(now);
    assert!(!frames.is_empty());
    cut_off(&mut cluster, leader);
    let asked = read_by_lease(&mut cluster, leader);
    cluster.settle();
    assert_eq!(answered(&cluster, leader, asked), None);
}

#[test]
fn leadership_goes_where_it_is_wanted_from_the_leader_and_from_a_follower() {
    let (mut cluster, leader) = started(3);
    for from in [leader, (leader + 1) % 3] {
        let was = cluster.leader().unwrap();
        let to = (0..3).find(|i| *i != was && *i != from).unwrap_or((was + 1) % 3);
        let now = cluster.now;
        cluster.hosts[from].node.transfer_leader(now, id(to as u8 + 1)).unwrap();
        cluster.run(100);
        assert_eq!(cluster.leader(), Some(to));
        let refused = cluster.hosts[to].node.transfer_leader(cluster.now, id(to as u8 + 1));
        assert_eq!(refused, Err(TransferRefused::Leads));
    }
    let leader = cluster.leader().unwrap();
    let refused = cluster.hosts[leader].node.transfer_leader(cluster.now, id(9));
    assert_eq!(refused, Err(TransferRefused::NotVoter));
}

#[test]
fn a_board_that_was_just_restarted_votes_for_nobody_for_an_election_timeout() {
    // It may have heard a leader right before, and that leader may trust its lease (RI3).
    let (mut cluster, leader) = started(3);
    let election_ms = cluster.hosts[leader].config.election_ms;
    let (voter, candidate) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.cut = [leader, voter].map(|i| id(i as u8 + 1)).into_iter().collect();
    cluster.run(election_ms * 3);
    assert_eq!(cluster.hosts[candidate].node.status().role, Role::PreCandidate);
    cluster.hosts[voter].restart(cluster.now);
    cut_off(&mut cluster, leader);
    cluster.run(election_ms * 9 / 10);
    assert_eq!(cluster.leader(), None);
    cluster.run(election_ms * 3);
    assert!(cluster.leader().is_some());
}

#[test]
fn a_leader_that_steps_down_forgets_the_reads_of_others() {
    // O9
    let (mut cluster, leader) = started(3);
    let follower = (leader + 1) % 3;
    for _ in 0..READS_MAX {
        read(&mut cluster, follower);
    }
    let now = cluster.now;
    for (_, frame) in cluster.hosts[follower].drive(now) {
        cluster.hosts[leader].node.handle_frame(now, &frame);
    }
    assert_eq!(cluster.hosts[leader].node.read(now, false), Err(ReadError::TooMany));
    cut_off(&mut cluster, leader);
    cluster.run(3000);
    assert_ne!(cluster.hosts[leader].node.status().role, Role::Leader);
    for _ in 0..READS_MAX {
        read(&mut cluster, leader);
    }
}
