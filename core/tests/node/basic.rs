//! Whole nodes: proposals, snapshots, refusals, notes.

use crate::support::{Cluster, FRAME_BYTES, Host, LIMITS, config, forged, id};
use quorate::event::{Event, Fault, FrameRefusal, Note};
use quorate::flash::{FlashDone, FlashOp};
use quorate::membership::Member;
use quorate::node::{Boot, Founding, Limits, Node, Output, ProposeError, StartError, Status};
use quorate::wal::{MountError, Wal};
use quorate::wire::Message;
use quorate::{ClusterId, EntryId, Generation, Index, Instant, NodeSet, Term};

fn same_everywhere(cluster: &Cluster) {
    for host in &cluster.hosts {
        assert_eq!(host.state, cluster.hosts[0].state, "{:?}", host.node.status());
    }
}

#[test]
fn three_nodes_elect_a_leader_and_apply_its_commands_with_four_frames_each() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    let frames = cluster.frames;
    for i in 0..20u8 {
        cluster.hosts[leader].node.propose(&[i; 16]).unwrap();
        cluster.settle();
    }
    assert_eq!(cluster.frames - frames, 80);
    for host in &cluster.hosts {
        assert_eq!(host.applied.len(), 20);
        assert!(host.applied.iter().zip(0u8..).all(|((_, c), i)| *c == [i; 16]));
    }
}

#[test]
fn a_log_that_fills_up_is_compacted_and_goes_on() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    for i in 0..200u32 {
        cluster.hosts[leader].node.propose(&i.to_le_bytes()).unwrap();
        cluster.settle();
    }
    assert!(cluster.hosts[leader].node.status().snapshot.index.0 > 100);
    same_everywhere(&cluster);
    assert_eq!(cluster.hosts[leader].applied.len(), 200);
}

#[test]
fn while_erases_are_held_none_is_begun_and_what_finds_no_room_waits() {
    let mut cluster = Cluster::new(1);
    cluster.run(2000);
    let propose = |cluster: &mut Cluster| {
        let proposed = cluster.hosts[0].node.propose(&[7; 64]);
        cluster.run(1000);
        // Or it outgrows its snapshot.
        cluster.hosts[0].state.clear();
        proposed
    };
    // Once around the ring: from here on each segment has to be erased again.
    let founding = cluster.hosts[0].erases;
    while cluster.hosts[0].erases < founding + 20 {
        propose(&mut cluster).unwrap();
    }
    let erases = cluster.hosts[0].erases;
    cluster.hosts[0].node.hold_erases(true);
    let taken = (0..2000).take_while(|_| propose(&mut cluster).is_ok()).count();
    assert!(taken > 0 && taken < 2000, "{taken}");
    let status = cluster.hosts[0].node.status();
    assert_eq!((cluster.hosts[0].erases, status.fault), (erases, None));
    assert!(status.durable < status.last.index, "{status:?}");
    cluster.hosts[0].node.hold_erases(false);
    cluster.run(3000);
    propose(&mut cluster).unwrap();
    let status = cluster.hosts[0].node.status();
    assert_eq!(status.applied, status.last.index);
    assert!(cluster.hosts[0].erases > erases);
}

#[test]
fn a_node_that_was_away_too_long_gets_a_snapshot() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    let away = (leader + 1) % 3;
    cluster.cut = NodeSet::one(id(away as u8 + 1));
    for i in 0..200u32 {
        let leader = cluster.leader().expect("a leader");
        cluster.hosts[leader].node.propose(&i.to_le_bytes()).unwrap();
        cluster.settle();
    }
    assert!(cluster.hosts[away].applied.is_empty());
    cluster.cut = NodeSet::EMPTY;
    cluster.run(3000);
    same_everywhere(&cluster);
    assert!(cluster.hosts[away].applied.len() < 200);
}

#[test]
fn without_a_quorum_a_full_log_refuses_and_recovers_by_itself() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    cluster.cut = (0..3).filter(|i| *i != leader).map(|i| id(i as u8 + 1)).collect();
    let mut taken = 0u32;
    let refused = loop {
        match cluster.hosts[leader].node.propose(&taken.to_le_bytes()) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 1000);
    };
    assert!(matches!(refused, ProposeError::LogFull { bytes_free: 0..4 }), "{refused:?}");
    cluster.cut = NodeSet::EMPTY;
    cluster.run(3000);
    same_everywhere(&cluster);
    let leader = cluster.leader().expect("a leader");
    assert!(cluster.hosts[leader].node.propose(b"more").is_ok());
}

/// How a board takes this founding.
fn founded(members: &[Member], limits: Limits) -> Result<(), StartError> {
    let cluster = ClusterId([1, 2, 3, 4]);
    let founding = Founding { cluster, node: id(1), members, limits, erase_anyway: false };
    Host::off().node.start(Instant::ZERO, &config(1), Boot::Found(&founding))
}

#[test]
fn a_founding_that_could_not_work_is_refused_with_the_bound() {
    let members = [Member::new(id(1)), Member::new(id(2))];
    assert_eq!(founded(&members, LIMITS), Ok(()));
    // Proposals would stop before half of the log is applied, when a snapshot is due.
    let small = Limits { log_bytes: 600, ..LIMITS };
    assert!(matches!(founded(&members, small), Err(StartError::Limits { limit: "log_bytes", .. })));
    let returned = Member { generation: Generation(2), ..Member::new(id(2)) };
    let refused = Err(StartError::Members { max: 5 });
    assert_eq!(founded(&[Member::new(id(1)), returned], LIMITS), refused);
    // Timeouts were reckoned for five members.
    let six: Vec<_> = (1..=6).map(|n| Member::new(id(n))).collect();
    assert_eq!(founded(&six, LIMITS), refused);
}

#[test]
fn only_the_leader_takes_a_proposal_and_others_name_it() {
    let mut cluster = Cluster::new(3);
    let refused = cluster.hosts[0].node.propose(b"x");
    assert_eq!(refused, Err(ProposeError::NotRunning));
    cluster.settle();
    let refused = cluster.hosts[0].node.propose(b"x");
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    let refused = cluster.hosts[(leader + 1) % 3].node.propose(b"x");
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(id(leader as u8 + 1)) }));
    let bytes_max = u32::from(LIMITS.entry_bytes);
    let too_large = cluster.hosts[leader].node.propose(&[0; 65]);
    assert_eq!(too_large, Err(ProposeError::TooLarge { bytes_max }));
    assert_eq!(cluster.hosts[leader].node.propose(b"x").map(|entry| entry.term.0), Ok(1));
}

#[test]
fn a_node_starts_once() {
    let mut cluster = Cluster::new(1);
    let again = cluster.hosts[0].node.start(Instant::ZERO, &config(1), Boot::Mount);
    assert_eq!(again, Err(StartError::Started));
}

#[test]
fn a_node_that_found_no_log_can_be_started_anew_and_founds_or_joins() {
    let members = [1].map(|n| Member::new(id(n)));
    let founding = Founding {
        cluster: ClusterId([7; 4]),
        node: id(1),
        members: &members,
        limits: LIMITS,
        erase_anyway: false,
    };
    let cluster = ClusterId([7; 4]);
    let join = Boot::Join { cluster, node: id(1), nonce: 9 };
    let recover = Boot::Recover { cluster: ClusterId([8; 4]) };
    for (first, then, runs) in [
        (Boot::Mount, Boot::Found(&founding), true),
        (recover, Boot::Found(&founding), true),
        (Boot::Mount, join, false),
    ] {
        let (mut host, now) = (Host::off(), Instant::ZERO);
        host.node.start(now, &config(1), first).unwrap();
        assert!(host.drive(now).is_empty());
        let fault = Some(Fault::Mount(MountError::Unformatted));
        assert_eq!(host.node.status().fault, fault);
        host.node.start(now, &config(1), then).unwrap();
        let said = host.drive(now);
        let status = host.node.status();
        assert_eq!((status.fault, status.running), (None, runs));
        assert_eq!(status.cluster, cluster);
        assert_eq!(said.is_empty(), runs, "it asks for its place");
        // Now it is somebody.
        assert_eq!(host.node.start(now, &config(1), then), Err(StartError::Started));
    }
    // Whatever else it stopped with stays.
    let mut host = Host::found(1, 1, Instant::ZERO, |_| {});
    host.drive(Instant::ZERO);
    let node = Node::<[u8; 1024]>::new();
    host.node = Box::new(node);
    host.node.start(Instant::ZERO, &config(1), Boot::Found(&founding)).unwrap();
    host.drive(Instant::ZERO);
    assert_eq!(host.node.status().fault, Some(Fault::Mount(MountError::NotBlank)));
    let again = host.node.start(Instant::ZERO, &config(1), Boot::Mount);
    assert_eq!(again, Err(StartError::Started));
}

#[test]
fn frames_longer_than_the_limit_and_snapshots_that_are_none_do_no_harm() {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let now = cluster.now;
    let member = id;
    let id = EntryId::new(Index(500), Term(70));
    let heartbeat = Message::Heartbeat { term: Term(70), commit: id, round: 1, reply: true };
    let host = &mut cluster.hosts[0];
    host.node.handle_frame(now, &forged((member(2), 1), member(1), heartbeat, &[0; 200]));
    let _ = host.drive(now);
    let refused = Event::FrameRefused { why: FrameRefusal::TooLong };
    assert!(host.events.contains(&refused), "{:?}", host.events);
    // All of a snapshot in one piece, its check right, and nothing in it that could be restored.
    let nonsense = [0xa5; 30];
    let check = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&nonsense);
    let snapshot = Message::Snapshot { term: Term(70), id, offset: 0, bytes: 30, check };
    host.node.handle_frame(now, &forged((member(2), 1), member(1), snapshot, &nonsense));
    let _ = host.drive(now);
    assert_eq!(host.node.status().fault, None);
    assert!(host.node.status().running);
    cluster.run(3000);
    same_everywhere(&cluster);
}

/// A board with flash of its own, whose reads can be made to fail.
struct Flashed {
    node: Box<Node<[u8], Wal>>,
    flash: Vec<u8>,
    /// The snapshot can't be read when it is to be restored.
    unlucky: bool,
    unreadable: bool,
}

impl Flashed {
    fn start(flash: Vec<u8>, boot: Boot<'_>) -> Self {
        let mut node: Box<Node<[u8], Wal>> = Box::new(Node::<[u8; 1024], Wal>::new());
        let config = config(1);
        node.start(Instant::ZERO, &config, boot).unwrap();
        Self { node, flash, unlucky: false, unreadable: false }
    }

    /// Does what there is to do; the flash operations that were carried out.
    fn drive(&mut self, now: Instant) -> u32 {
        let (mut frame, mut buffer) = ([0; FRAME_BYTES as usize], [0; 512]);
        let mut ops = 0;
        loop {
            match self.node.poll_output(now, &mut frame, &mut buffer) {
                Output::Flash(op) => {
                    ops += 1;
                    let done = match op {
                        FlashOp::Read { .. } if self.unreadable => FlashDone::Failed,
                        FlashOp::Read { offset, len } => {
                            buffer[..len as usize]
                                .copy_from_slice(&self.flash[offset as usize..][..len as usize]);
                            FlashDone::Ok
                        }
                        FlashOp::Write { offset, len } => {
                            self.flash[offset as usize..][..len as usize]
                                .copy_from_slice(&buffer[..len as usize]);
                            FlashDone::Ok
                        }
                        FlashOp::Erase { offset, len } => {
                            self.flash[offset as usize..][..len as usize].fill(0xff);
                            FlashDone::Ok
                        }
                    };
                    self.node.handle_flash(now, done);
                }
                Output::TakeSnapshot { .. } => self.node.handle_snapshot(0),
                Output::Event(Event::Started { .. }) => self.unreadable = self.unlucky,
                Output::Event(Event::Stopped(_)) => self.unreadable = false,
                Output::Wait { .. } => return ops,
                _ => {}
            }
        }
    }
}

#[test]
fn why_a_board_stopped_and_was_reset_is_remembered_in_flash() {
    let members = [Member::new(id(1))];
    let cluster = ClusterId([1, 2, 3, 4]);
    let founding =
        Founding { cluster, node: id(1), members: &members, limits: LIMITS, erase_anyway: false };
    let mut board = Flashed::start(vec![0xff; 16 * 2048], Boot::Found(&founding));
    board.drive(Instant::ZERO);
    assert_eq!(board.node.status().note, Note(0));

    let mut board = Flashed::start(board.flash, Boot::Mount);
    board.unlucky = true;
    board.drive(Instant::ZERO);
    assert_eq!(board.node.status().fault, Some(Fault::Snapshot));
    // Stopped, and quiet for good.
    assert_eq!(board.drive(Instant::FOREVER), 0);

    let mut board = Flashed::start(board.flash, Boot::Mount);
    board.drive(Instant::ZERO);
    let Status { fault, note, running, .. } = board.node.status();
    assert!(running && fault.is_none(), "{fault:?}");
    assert_eq!(note.fault(), Some("its snapshot could not be restored"));
    // Why it was reset, told before its log is mounted or later, does not hide the fault.
    for (early, own) in [(false, 7), (true, 8)] {
        if early {
            board = Flashed::start(board.flash, Boot::Mount);
        }
        board.node.remember(own);
        board.drive(Instant::ZERO);
        board = Flashed::start(board.flash, Boot::Mount);
        board.drive(Instant::ZERO);
        let note = board.node.status().note;
        assert!(note.fault().is_some() && note.own() == own, "{note:?}");
    }
}
