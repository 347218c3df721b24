//! A fault model of one's own under the flash log, through the public API alone.
//!
//! The flash log does no I/O: it says which operation comes next, and is told how it ended. So whatever carries
//! the operations out can be as bad as one likes. Here it is a flash whose power fails in the middle of a
//! program or an erase: the word that was being programmed keeps some of its bits, and the erased bytes are a
//! mixture of old ones and blank ones.
//!
//! ```text
//! cargo run -p quorate --example own_fault_model
//! ```
//!
//! It asserts that every entry that was acknowledged is there after each power cut, and that no word is
//! programmed twice.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::unwrap_used)]

use quorate::entry::Kind;
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::log::Log;
use quorate::wal::{HardState, Progress, SNAP_DATA_AT, Wal, Want};
use quorate::{ClusterId, EntryId, Generation, Identity, Index, NodeId, Term};

/// As on an STM32L4: words of 8 bytes, pages of 2 KiB.
const GEOMETRY: Geometry = Geometry {
    word_bytes: 8,
    erased: 0xff,
    page_bytes: 8,
    block_bytes: 2048,
    blocks_per_segment: 1,
    segments: 4,
};
const WORD: usize = GEOMETRY.word_bytes as usize;

const CUTS: u32 = 2_000;

struct PowerLost;

/// The fault model: this is the part to replace.
struct BadFlash {
    bytes: Vec<u8>,
    /// Words that can't be programmed before they are erased to the end.
    used: Vec<bool>,
    /// Programs and erases until the power fails.
    left: u32,
    random: u32,
}

impl BadFlash {
    /// Xorshift: as good as any here.
    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }

    fn carry_out(&mut self, op: FlashOp, buffer: &mut [u8]) -> Result<FlashDone, PowerLost> {
        match op {
            FlashOp::Read { offset, len } => {
                let (offset, len) = (offset as usize, len as usize);
                buffer[..len].copy_from_slice(&self.bytes[offset..offset + len]);
                Ok(FlashDone::Ok)
            }
            FlashOp::Write { offset, len } => {
                self.program(offset as usize, &buffer[..len as usize])
            }
            FlashOp::Erase { offset, len } => self.erase(offset as usize, len as usize),
        }
    }

    fn power_fails(&mut self) -> bool {
        self.left -= 1;
        self.left == 0
    }

    fn program(&mut self, offset: usize, bytes: &[u8]) -> Result<FlashDone, PowerLost> {
        let words = bytes.len() / WORD;
        let whole = if self.power_fails() { self.random() as usize % words } else { words };
        for (i, new) in bytes.chunks(WORD).enumerate().take(whole + 1) {
            let at = offset + i * WORD;
            assert!(!self.used[at / WORD], "the word at {at} is programmed twice");
            let mut now = new.to_vec();
            if i == whole {
                // Programming clears bits; some are not cleared yet, but at least one is.
                now.iter_mut().for_each(|byte| *byte |= self.random() as u8);
                now[0] &= 0x7f;
            }
            self.bytes[at..at + WORD].copy_from_slice(&now);
            self.used[at / WORD] = true;
        }
        if whole < words { Err(PowerLost) } else { Ok(FlashDone::Ok) }
    }

    fn erase(&mut self, offset: usize, len: usize) -> Result<FlashDone, PowerLost> {
        let fails = self.power_fails();
        for at in offset..offset + len {
            self.bytes[at] |= if fails { self.random() as u8 } else { 0xff };
            self.used[at / WORD] = fails;
        }
        if fails { Err(PowerLost) } else { Ok(FlashDone::Ok) }
    }
}

/// A board with nothing but a log.
struct Board {
    wal: Wal,
    log: Box<Log>,
    buffer: [u8; 512],
    flash: BadFlash,
    want: Want,
}

impl Board {
    /// Polls the log and carries out what it says, until it says what is waited for.
    fn until(&mut self, awaited: fn(&Progress) -> bool) -> Result<Progress, PowerLost> {
        for _ in 0..10_000 {
            match self.wal.poll(&self.want, &mut self.log, &mut self.buffer) {
                Progress::Op(op) => {
                    let done = self.flash.carry_out(op, &mut self.buffer)?;
                    self.wal.handle(done);
                }
                Progress::Refused(error) => panic!("the flash is refused: {error}"),
                Progress::Fault(fault) => panic!("the log has stopped: {fault}"),
                other if awaited(&other) => return Ok(other),
                _ => {}
            }
        }
        panic!("the log does not get on: {:?}", self.wal.status());
    }

    /// Founds the log of a new board.
    fn found(&mut self) -> Result<(), PowerLost> {
        let identity = Identity {
            cluster: ClusterId(*b"demo"),
            node: NodeId::new(1).unwrap(),
            generation: Generation(1),
        };
        self.wal.format(GEOMETRY, self.buffer.len(), identity, false).unwrap();
        self.until(|progress| matches!(progress, Progress::Formatted))?;
        self.log.reset(EntryId::ZERO);
        self.take_snapshot(b"nothing yet")
    }

    /// A snapshot of all durable entries makes room in the ring and in RAM.
    fn take_snapshot(&mut self, content: &[u8]) -> Result<(), PowerLost> {
        let index = self.log.durable();
        self.wal.begin_snapshot(EntryId::new(index, self.log.term(index).unwrap()));
        self.buffer[SNAP_DATA_AT..SNAP_DATA_AT + content.len()].copy_from_slice(content);
        assert!(self.wal.put_chunk(0, content.len()));
        self.until(|progress| matches!(progress, Progress::ChunkWritten))?;
        self.wal.end_snapshot(false);
        self.until(|progress| matches!(progress, Progress::SnapshotDurable(_)))?;
        self.log.compact(index);
        Ok(())
    }

    /// A boot. What was acknowledged has to be here; so may be one entry more, whose write came to its end
    /// although nobody was told.
    fn boot(&mut self, acknowledged: u64) -> Result<u64, PowerLost> {
        self.wal.mount(GEOMETRY, self.buffer.len()).unwrap();
        let mounted = self.until(|progress| matches!(progress, Progress::Mounted(_)))?;
        if let Progress::Mounted(mounted) = mounted {
            self.want.hard_state = mounted.hard_state;
        }
        let (base, last) = (self.log.base().index.0, self.log.last().index.0);
        assert!((acknowledged..=acknowledged + 1).contains(&last), "{acknowledged}, {last}");
        for index in base + 1..=last {
            let mut data = [0; 8];
            let (_, _, len) = self.log.read(Index(index), &mut data).unwrap();
            assert_eq!(data[..len], index.to_le_bytes());
        }
        Ok(last)
    }

    /// A boot, and then one entry after another, until the power fails.
    fn live(&mut self, acknowledged: &mut u64) -> Result<(), PowerLost> {
        *acknowledged = self.boot(*acknowledged)?;
        loop {
            self.until(|progress| matches!(progress, Progress::Idle))?;
            if self.wal.wants_snapshot() || self.log.bytes_used() > 800 {
                self.take_snapshot(&acknowledged.to_le_bytes())?;
            }
            let next = *acknowledged + 1;
            self.log.append(Term(1), Kind::Command, &next.to_le_bytes()).unwrap();
            while self.log.durable() < Index(next) {
                self.until(|progress| matches!(progress, Progress::Durable))?;
            }
            *acknowledged = next;
        }
    }
}

fn main() {
    let bytes = GEOMETRY.bytes() as usize;
    let flash = BadFlash {
        bytes: vec![GEOMETRY.erased; bytes],
        used: vec![false; bytes / WORD],
        left: u32::MAX,
        random: 0x1234_5678,
    };
    let want = Want {
        hard_state: HardState::default(),
        commit_needed: Index::ZERO,
        idle: true,
        allow_erase: true,
    };
    let log = Box::new(Log::<[u8; 2048]>::new());
    let mut board = Board { wal: Wal::new(), log, buffer: [0; 512], flash, want };
    assert!(board.found().is_ok());
    let mut acknowledged = 0;
    for _ in 0..CUTS {
        board.flash.left = 1 + board.flash.random() % 40;
        assert!(board.live(&mut acknowledged).is_err());
    }
    println!("{CUTS} power cuts, {acknowledged} entries acknowledged, none lost");
}
