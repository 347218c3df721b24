//! What a board keeps its state on.

use crate::medium::Medium as Bytes;
use crate::ram::{Content, MEMORY, Ram};
use quorate::config::Flash;
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::log::Log;
use quorate::storage::Storage;
use quorate::wal::{HardState, MountError, Progress, Wal, Want};
use quorate::{Index, config};
use quorate_flash_lab::flash::{self, Faults, Fuse, Leaves, Pattern};
use quorate_flash_lab::random::Random;
use quorate_fram::{Fram, part};

/// The power is gone.
pub(crate) struct Cut;

pub(crate) trait Medium {
    type Storage: Storage;

    fn new(board: u8) -> Self;

    /// What the board is told of it.
    fn part(&self) -> config::Flash;

    fn run(&mut self, op: FlashOp, buf: &mut [u8]) -> Result<FlashDone, Cut>;

    /// A write or an erase in which the power goes.
    fn cut(&mut self, op: FlashOp, buf: &mut [u8]);

    /// The power comes back.
    fn boot(&mut self) {}

    /// Something in it is not what it was.
    fn damage(&mut self);

    /// It is full of something else.
    fn fill(&mut self);
}

/// Flips bits until a mount can't do without what they said.
fn damage<M: Medium>(medium: &mut M, bits: usize, flip: impl Fn(&mut M, usize)) {
    for bit in 0..bits {
        flip(medium, bit);
        if matches!(mount(medium), Progress::Refused(MountError::Corrupt { .. })) {
            return;
        }
        flip(medium, bit);
    }
    panic!("nothing in it matters");
}

fn mount<M: Medium>(medium: &mut M) -> Progress {
    let mut storage = M::Storage::OFF;
    let mut log: Box<Log> = Box::new(Log::<[u8; 4096]>::new());
    let mut buf = [0; 256];
    let (hard_state, commit_needed) = (HardState::default(), Index::ZERO);
    let want = Want { hard_state, commit_needed, idle: false, allow_erase: false };
    storage.mount(medium.part().geometry, buf.len()).unwrap();
    loop {
        match storage.poll(&want, &mut log, &mut buf) {
            // Only what is read matters here.
            Progress::Op(op @ FlashOp::Read { .. }) => {
                let Ok(done) = medium.run(op, &mut buf) else {
                    panic!("nobody has cut the power");
                };
                storage.handle(done);
            }
            other => return other,
        }
    }
}

/// Memory that is replaced as a whole.
pub(crate) struct Memory(u8);

impl Memory {
    fn set(&self, content: Content) {
        MEMORY.with_borrow_mut(|memory| memory.insert(self.0, content));
    }
}

impl Medium for Memory {
    type Storage = Ram;

    fn new(board: u8) -> Self {
        let memory = Self(board);
        memory.set(Content::Blank);
        memory
    }

    fn part(&self) -> Flash {
        let part = part(1024, 1);
        Flash { geometry: Geometry { segments: self.0, ..part.geometry }, ..part }
    }

    fn run(&mut self, _: FlashOp, _: &mut [u8]) -> Result<FlashDone, Cut> {
        Ok(FlashDone::Ok)
    }

    fn cut(&mut self, _: FlashOp, _: &mut [u8]) {}

    fn damage(&mut self) {
        self.set(Content::Damaged);
    }

    fn fill(&mut self) {
        self.set(Content::Foreign);
    }
}

/// NOR flash: words of four bytes, eight segments.
pub(crate) struct Nor {
    flash: flash::Flash,
    random: Random,
}

impl Medium for Nor {
    type Storage = Wal;

    fn new(board: u8) -> Self {
        let geometry = Geometry {
            word_bytes: 4,
            erased: 0xff,
            page_bytes: 4,
            block_bytes: 4096,
            blocks_per_segment: 1,
            segments: 8,
        };
        let flash = flash::Flash::new(geometry, Faults::MILD);
        Self { flash, random: Random(u64::from(board)) }
    }

    fn part(&self) -> Flash {
        Flash { geometry: self.flash.geometry, word_us: 1, erase_ms_max: 0, stalls: false }
    }

    fn run(&mut self, op: FlashOp, buf: &mut [u8]) -> Result<FlashDone, Cut> {
        self.flash.run(op, buf, &mut self.random).map_err(|_| Cut)
    }

    fn cut(&mut self, op: FlashOp, buf: &mut [u8]) {
        // The first word is no whole one, so that nothing of a write is there.
        let leaves = Some(Leaves { word: 0, pattern: Pattern::Half });
        self.flash.fuse = Some(Fuse { after: 0, erases_only: false, leaves });
        let _ = self.run(op, buf);
    }

    fn boot(&mut self) {
        self.flash.boot(&mut self.random);
    }

    fn damage(&mut self) {
        let bits = self.flash.bytes.len() * 8;
        damage(self, bits, |nor, bit| nor.flash.bytes[bit / 8] ^= 1 << (bit % 8));
    }

    fn fill(&mut self) {
        self.flash.bytes.fill(b'!');
    }
}

/// Memory that is written byte by byte.
pub(crate) struct ByByte {
    bytes: Bytes,
    random: Random,
}

impl Medium for ByByte {
    type Storage = Fram;

    fn new(board: u8) -> Self {
        Self { bytes: Bytes::new(16 * 1024, 0), random: Random(u64::from(board)) }
    }

    fn part(&self) -> Flash {
        part(self.bytes.bytes.len() as u32, 1)
    }

    fn run(&mut self, op: FlashOp, buf: &mut [u8]) -> Result<FlashDone, Cut> {
        self.bytes.run(op, buf, &mut self.random).map_err(|_| Cut)
    }

    fn cut(&mut self, op: FlashOp, buf: &mut [u8]) {
        self.bytes.fuse = Some((0, 5));
        let _ = self.run(op, buf);
    }

    fn damage(&mut self) {
        let bits = self.bytes.bytes.len() * 8;
        damage(self, bits, |memory, bit| memory.bytes.bytes[bit / 8] ^= 1 << (bit % 8));
    }

    fn fill(&mut self) {
        self.bytes.bytes.fill(b'!');
    }
}
