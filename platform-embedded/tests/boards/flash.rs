//! Partitions and their bounds, flash that takes its time, flash that fails.

use crate::support::board::{Cluster, Setup, command};
use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash};
use quorate::event::Event;
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::node::Outcome;
use quorate_embedded::flash::{Partition, PartitionError};

const CAPACITY: usize = 64 * 1024;

/// Flash without surprises, that notes where it was touched.
struct Plain {
    bytes: Vec<u8>,
    touched: Vec<(u32, u32)>,
    fails: bool,
}

impl Plain {
    fn new() -> Self {
        Self { bytes: vec![0xff; CAPACITY], touched: vec![], fails: false }
    }

    fn touch(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        self.touched.push((from, to));
        if self.fails { Err(NorFlashErrorKind::Other) } else { Ok(()) }
    }
}

impl ErrorType for Plain {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Plain {
    const READ_SIZE: usize = 4;
    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        self.touch(offset, offset + bytes.len() as u32)?;
        bytes.copy_from_slice(&self.bytes[offset as usize..][..bytes.len()]);
        Ok(())
    }
    fn capacity(&self) -> usize {
        CAPACITY
    }
}

impl NorFlash for Plain {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 1024;
    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        self.touch(from, to)?;
        self.bytes[from as usize..to as usize].fill(0xff);
        Ok(())
    }
    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        self.touch(offset, offset + bytes.len() as u32)?;
        self.bytes[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

const GEOMETRY: Geometry = Geometry {
    word_bytes: 4,
    erased: 0xff,
    page_bytes: 4,
    block_bytes: 1024,
    blocks_per_segment: 2,
    segments: 8,
};
const START: u32 = 48 * 1024;

fn open(
    start: u32,
    program: core::ops::Range<u32>,
    geometry: &Geometry,
) -> Result<(), PartitionError> {
    Partition::new(Plain::new(), start, program, geometry).map(|_| ())
}

#[test]
fn a_partition_lies_in_the_flash_on_its_blocks_and_beside_the_program() {
    assert_eq!(open(START, 0..START, &GEOMETRY), Ok(()));
    let beyond = PartitionError::Capacity { end: 65 * 1024, capacity: 64 * 1024 };
    assert_eq!(open(START + 1024, 0..START, &GEOMETRY), Err(beyond));
    let end = u64::from(u32::MAX - 1023) + 16 * 1024;
    let far = PartitionError::Capacity { end, capacity: 64 * 1024 };
    assert_eq!(open(u32::MAX - 1023, 0..0, &GEOMETRY), Err(far));
    let empty = Geometry { segments: 0, ..GEOMETRY };
    assert!(matches!(open(START, 0..0, &empty), Err(PartitionError::Capacity { .. })));
    let off = PartitionError::Block { start: START - 512, block: 1024, erase: 1024 };
    assert_eq!(open(START - 512, 0..0, &GEOMETRY), Err(off));
    let small = Geometry { block_bytes: 512, blocks_per_segment: 4, ..GEOMETRY };
    let off = PartitionError::Block { start: START, block: 512, erase: 1024 };
    assert_eq!(open(START, 0..0, &small), Err(off));
    let half = Geometry { word_bytes: 2, ..GEOMETRY };
    assert_eq!(open(START, 0..0, &half), Err(PartitionError::Word { given: 2, unit: 4 }));
    assert_eq!(open(START, 0..0, &Geometry { word_bytes: 8, ..GEOMETRY }), Ok(()));
}

#[test]
fn a_program_that_has_grown_by_one_byte_closes_the_partition() {
    let grown = PartitionError::Program { program_end: START + 1, start: START };
    assert_eq!(open(START, 0..START + 1, &GEOMETRY), Err(grown));
    assert_eq!(open(START, 0..u32::MAX, &GEOMETRY).map_err(|_| ()), Err(()));
    // A program behind the partition.
    assert_eq!(open(0, 16 * 1024..CAPACITY as u32, &GEOMETRY), Ok(()));
    let inside = PartitionError::Program { program_end: CAPACITY as u32, start: 0 };
    assert_eq!(open(0, 16 * 1024 - 1..CAPACITY as u32, &GEOMETRY), Err(inside));
    // A partition around a program.
    let around = PartitionError::Program { program_end: START + 8, start: START };
    assert_eq!(open(START, START + 4..START + 8, &GEOMETRY), Err(around));
}

#[test]
fn nothing_outside_of_the_partition_is_touched_whatever_is_asked() {
    let mut partition = Partition::new(Plain::new(), START, 0..START, &GEOMETRY).unwrap();
    let mut buffer = [0u8; 64];
    let ends = [0, 4, 60, 64, 68, 16 * 1024 - 4, 16 * 1024, u32::MAX - 3, u32::MAX];
    let mut done = 0;
    for offset in ends {
        for len in ends {
            for op in [
                FlashOp::Read { offset, len },
                FlashOp::Write { offset, len },
                FlashOp::Erase { offset, len },
            ] {
                let fits = u64::from(offset) + u64::from(len) <= 16 * 1024
                    && (len <= 64 || matches!(op, FlashOp::Erase { .. }));
                let expected = if fits { FlashDone::Ok } else { FlashDone::Failed };
                assert_eq!(partition.perform(op, &mut buffer), expected, "{op:?}");
                done += u32::from(fits);
            }
        }
    }
    let flash = partition.into_inner();
    assert_eq!(flash.touched.len(), done as usize);
    assert!(flash.touched.iter().all(|(from, to)| *from >= START && *to <= CAPACITY as u32));
}

#[test]
fn an_error_of_the_flash_is_an_answer() {
    let mut partition = Partition::new(Plain::new(), START, 0..0, &GEOMETRY).unwrap();
    let mut buffer = [0u8; 64];
    let read = FlashOp::Read { offset: 0, len: 64 };
    assert_eq!(partition.perform(read, &mut buffer), FlashDone::Ok);
    let fails = Plain { fails: true, ..Plain::new() };
    let mut partition = Partition::new(fails, START, 0..0, &GEOMETRY).unwrap();
    assert_eq!(partition.perform(read, &mut buffer), FlashDone::Failed);
}

/// Runs boards long enough for their rings to go round; the leader's terms at the beginning and the end.
fn steady(setup: Setup) -> (Cluster, u64, u64) {
    let cluster = Cluster::new(setup);
    let leader = cluster.elect();
    let before = cluster.status(leader).term.0;
    cluster.commit(0, 390, &[0, 1, 2]);
    cluster.counts_once(390);
    for (at, board) in cluster.boards.iter().enumerate() {
        // Beyond those of the founding.
        assert!(board.part.erases.get() > 12, "{at}: {}", board.part.erases.get());
        assert_eq!(cluster.happened(at, |e| matches!(e, Event::Stopped(_))), 0);
    }
    let after = cluster.status(leader).term.0;
    (cluster, before, after)
}

#[test]
fn erases_of_85_ms_off_the_core_are_received_through_and_depose_nobody() {
    let (cluster, before, after) =
        steady(Setup { erase_ms: 85, loss_permille: 20, ..Setup::new(127, 127) });
    assert_eq!(before, after);
    let counters = &cluster.medium.counters;
    assert!(counters.heard_in_erase.get() > 20, "{}", counters.heard_in_erase.get());
    assert_eq!(counters.stalled.get(), 0);
}

/// A radio so fast that an election timeout without regard to flash is shorter than an erase.
fn fast(stalls_planned: bool) -> Setup {
    Setup {
        byte_us: 4,
        turnaround_us: 300,
        erase_ms: 85,
        stalls: true,
        stalls_planned,
        loss_permille: 20,
        ..Setup::new(127, 127)
    }
}

#[test]
fn erases_of_85_ms_that_stall_the_cpu_are_allowed_for_by_the_timeouts() {
    let (cluster, before, after) = steady(fast(true));
    assert_eq!(before, after);
    assert!(
        cluster.medium.counters.stalled.get() > 20,
        "{}",
        cluster.medium.counters.stalled.get()
    );
}

#[test]
fn without_that_allowance_erases_depose_leaders_and_nothing_worse() {
    let (_, before, after) = steady(fast(false));
    assert!(after > before, "{before} {after}");
}

#[test]
fn while_power_fails_no_erase_is_begun_and_all_goes_on_behind_it() {
    let cluster = Cluster::new(Setup::new(127, 127));
    cluster.elect();
    cluster.commit(0, 200, &[0, 1, 2]);
    // A follower: the others are two of three.
    let failing = (cluster.elect() + 1) % 3;
    let others = [(failing + 1) % 3, (failing + 2) % 3];
    let erases = |at: usize| cluster.boards[at].part.erases.get();
    cluster.boards[failing].power.set_failing(true);
    let (before, before_other) = (erases(failing), erases(others[0]));
    // What finds room is written all the same, also behind pauses in which flash would be erased ahead.
    for n in 200..204 {
        cluster.commit(n, n + 1, &others);
        cluster.world.run_ms(5_000);
        let status = cluster.status(failing);
        assert_eq!(status.durable, status.last.index, "{n}");
    }
    cluster.commit(204, 390, &others);
    let status = cluster.status(failing);
    assert!(status.durable < status.last.index, "it waits: {status:?}");
    assert_eq!(erases(failing), before);
    assert!(erases(others[0]) > before_other + 2);
    cluster.boards[failing].power.set_failing(false);
    cluster.counts_once(390);
    assert!(erases(failing) > before);
}

#[test]
fn an_erase_whose_run_was_dropped_is_not_begun_anew_while_power_fails() {
    // Runs are dropped behind 40 ms on average, erases take 20.
    let cluster = Cluster::dropping(Setup::new(127, 127), 80_000);
    cluster.elect();
    let handle = cluster.handle(0);
    let asked = cluster.ask(0, async move {
        for n in 0..390 {
            while !matches!(handle.forward(&command(n), 60_000).await, Ok((_, outcome)) if outcome != Outcome::Unknown) {
                handle.status().await;
            }
        }
    });
    for at in (0..3).cycle().take(12) {
        let (board, world) = (&cluster.boards[at], &cluster.world);
        let before = board.part.erases.get();
        assert!(world.run_until(600_000, || board.part.erases.get() > before));
        board.power.set_failing(true);
        world.run_ms(500);
        assert_eq!(board.part.erases.get(), before + 1, "{at}");
        board.power.set_failing(false);
    }
    assert!(cluster.world.run_until(600_000, || asked.borrow().is_some()));
    cluster.counts_once(390);
}

#[test]
fn boards_that_found_while_power_fails_go_on_when_it_is_good_again() {
    let cluster = Cluster::new(Setup::new(127, 127));
    cluster.boards.iter().for_each(|board| board.power.set_failing(true));
    cluster.world.run_ms(5_000);
    assert!(cluster.boards.iter().all(|board| board.part.erases.get() == 0));
    cluster.boards.iter().for_each(|board| board.power.set_failing(false));
    // Nobody asks them for anything.
    cluster.world.run_ms(5_000);
    for at in 0..3 {
        assert_eq!(cluster.happened(at, |e| matches!(e, Event::Started { .. })), 1, "{at}");
    }
}

#[test]
fn words_that_cannot_be_read_cost_no_board_its_life() {
    let mut cluster = Cluster::new(Setup::new(127, 127));
    cluster.elect();
    cluster.commit(0, 60, &[0, 1, 2]);
    cluster.cut(1);
    // Where each segment's records end, a word can't be read: what a torn write leaves where there is ECC.
    let bytes = cluster.boards[1].part.bytes.borrow().clone();
    let half = bytes.len() / 2;
    let blank = |at: &usize| bytes[*at..*at + 16] == [0xff; 16];
    let ends = (half..2 * half).step_by(2048).map(|at| (at..at + 2032).step_by(4).find(blank));
    let ends: Vec<usize> = ends.flatten().collect();
    let there = ends.len();
    *cluster.boards[1].part.unreadable.borrow_mut() = ends;
    cluster.start(1, quorate::node::Boot::Mount, 0);
    cluster.commit(60, 90, &[0, 1, 2]);
    cluster.counts_once(90);
    assert!(cluster.boards[1].part.unreadable.borrow().len() < there, "one was read");
    assert_eq!(cluster.happened(1, |e| matches!(e, Event::Stopped(_))), 0);
}
