//! NOR flash that takes its time: with the CPU standing still meanwhile, or beside it.

use super::World;
use embedded_storage_async::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

pub(crate) const WORD: usize = 4;
pub(crate) const BLOCK: usize = 1024;
const WORD_US: u64 = 41;

/// What stands in the part, with or without power.
pub(crate) struct Part {
    pub(crate) bytes: RefCell<Vec<u8>>,
    pub(crate) stalls: bool,
    pub(crate) erase_us: u64,
    pub(crate) erases: Cell<u64>,
    pub(crate) writes: Cell<u64>,
    /// Reads that fail, once each.
    pub(crate) unreadable: RefCell<Vec<usize>>,
    /// The part works until then.
    busy_until_us: Cell<u64>,
}

impl Part {
    pub(crate) fn blank(bytes: usize, erase_ms: u64, stalls: bool) -> Rc<Self> {
        Rc::new(Self {
            bytes: RefCell::new(vec![0xff; bytes]),
            stalls,
            erase_us: erase_ms * 1000,
            erases: Cell::new(0),
            writes: Cell::new(0),
            unreadable: RefCell::default(),
            busy_until_us: Cell::new(0),
        })
    }

    pub(crate) fn wipe(&self) {
        self.bytes.borrow_mut().fill(0xff);
    }
}

/// The part's driver.
#[derive(Clone)]
pub(crate) struct SimFlash {
    pub(crate) world: Rc<World>,
    pub(crate) part: Rc<Part>,
    pub(crate) board: usize,
}

#[derive(Debug)]
pub(crate) struct Unreadable;

impl NorFlashError for Unreadable {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

impl SimFlash {
    async fn ready(&self) {
        self.world.sleep_until(self.part.busy_until_us.get()).await;
    }

    /// The part is at work from now on, whoever waits for it.
    async fn take(&self, us: u64) {
        let until = self.world.now_us() + us;
        self.part.busy_until_us.set(until);
        if self.part.stalls {
            self.world.stall(self.board, until);
        }
        self.world.sleep_until(until).await;
    }
}

impl ErrorType for SimFlash {
    type Error = Unreadable;
}

impl ReadNorFlash for SimFlash {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Unreadable> {
        self.ready().await;
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        let mut unreadable = self.part.unreadable.borrow_mut();
        if let Some(at) = unreadable.iter().position(|place| (from..to).contains(place)) {
            unreadable.remove(at);
            return Err(Unreadable);
        }
        bytes.copy_from_slice(&self.part.bytes.borrow()[from..to]);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.part.bytes.borrow().len()
    }
}

impl NorFlash for SimFlash {
    const WRITE_SIZE: usize = WORD;
    const ERASE_SIZE: usize = BLOCK;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), Unreadable> {
        self.ready().await;
        let (from, to) = (from as usize, to as usize);
        assert!(from % BLOCK == 0 && to % BLOCK == 0 && from < to);
        self.part.erases.set(self.part.erases.get() + 1);
        self.part.bytes.borrow_mut()[from..to].fill(0xff);
        let us = self.part.erase_us * ((to - from) / BLOCK) as u64;
        self.world.erases(self.board, self.world.now_us() + us);
        self.take(us).await;
        Ok(())
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Unreadable> {
        self.part.writes.set(self.part.writes.get() + 1);
        assert!((offset as usize).is_multiple_of(WORD) && bytes.len().is_multiple_of(WORD));
        for (at, word) in (offset as usize..).step_by(WORD).zip(bytes.chunks(WORD)) {
            self.ready().await;
            {
                let mut part = self.part.bytes.borrow_mut();
                let place = &mut part[at..at + WORD];
                assert!(place.iter().all(|byte| *byte == 0xff), "word at {at} is programmed twice");
                place.copy_from_slice(word);
            }
            self.take(WORD_US).await;
        }
        Ok(())
    }
}
