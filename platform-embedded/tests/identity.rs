//! The identity page as a board reads it, and what the board does by it: found once, mount, or ask for its place.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash};
use quorate::config::{Config, Flash, Link};
use quorate::event::Fault;
use quorate::flash::Geometry;
use quorate::node::{Limits, Node};
use quorate::plan;
use quorate::typed::{ConfigMap, MapLimits};
use quorate::wal::MountError;
use quorate::{ClusterId, Generation, Instant, NodeId, NodeSet};
use quorate_embedded::clock::{AsyncClock, Clock, CounterClock};
use quorate_embedded::flash::Partition;
use quorate_embedded::identity::{PAGE_BYTES, Page, PageError};
use quorate_embedded::link::AsyncLink;
use quorate_embedded::runner::{BootError, Booted, Commands, Desk, Parts, Runner, SuperLoop};
use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;

/// Made by hand from `core/docs/identity-page.md`: board 2 of 1, 2 and 3, which founds.
#[rustfmt::skip]
const GOLDEN: [u8; 64] = [
    b'Q', b'I', b'D', b'P', 1, 2, 3, 5,
    0xca, 0xfe, 0xba, 0xbe,
    8, 7, 6, 5, 4, 3, 2, 1,
    0b111, 0, 0, 0,
    128, 0, 60, 0, 0x84, 0x03, 0, 0, 0x58, 0x02, 0, 0,
    0x00, 0x68, 0x01, 0x00, 0x68, 0x01, 0, 0,
    0x00, 0x01, 0, 0, 4, 0, 0xe8, 0x03,
    0, 0, 0, 0, 0xd0, 0x07, 0, 0,
    // The checksum.
    0, 0, 0, 0,
];
const PAGE: u32 = 0;
const START: u32 = 1024;
const GEOMETRY: Geometry = Geometry {
    word_bytes: 4,
    erased: 0xff,
    page_bytes: 4,
    block_bytes: 1024,
    blocks_per_segment: 2,
    segments: 8,
};
const FLASH: Flash = Flash { geometry: GEOMETRY, word_us: 46, erase_ms_max: 22, stalls: true };

fn sealed(mut page: [u8; 64]) -> [u8; PAGE_BYTES] {
    let check = quorate::check::checksum(0, &page[..60]);
    page[60..].copy_from_slice(&check.to_le_bytes());
    let mut whole = [0xff; PAGE_BYTES];
    whole[..64].copy_from_slice(&page);
    whole
}

fn golden() -> [u8; PAGE_BYTES] {
    sealed(GOLDEN)
}

/// The page of a board that is a cluster of its own, or asks for its place in one.
fn alone(node: u8, flags: u8) -> [u8; PAGE_BYTES] {
    let mut page = GOLDEN;
    (page[5], page[6], page[20]) = (node, flags, 1 << (node - 1));
    sealed(page)
}

#[test]
fn a_page_says_what_its_format_says() {
    let page = Page::parse(&golden(), 0xff).unwrap();
    assert_eq!(page.node, NodeId::new(2).unwrap());
    assert_eq!(page.cluster, ClusterId([0xca, 0xfe, 0xba, 0xbe]));
    let members: NodeSet = (1..=3).filter_map(NodeId::new).collect();
    assert_eq!((page.members, page.members_max), (members, 5));
    assert_eq!(page.entropy, 0x0102_0304_0506_0708);
    let limits = Limits { frame_bytes: 128, entry_bytes: 60, log_bytes: 900, snapshot_bytes: 600 };
    assert_eq!(page.limits, limits);
    let link = Link {
        bits_per_second: 92_160,
        frame_bytes: 256,
        fragment_bytes: 0,
        overhead_bytes: 4,
        turnaround_us: 360,
        duty_permille: 1000,
        broadcast: true,
    };
    assert_eq!((page.link, link), (plan::serial(115_200), plan::serial(115_200)));
    assert_eq!((page.heartbeat_ms, page.election_ms), (0, 2000));
    assert!(page.founds());
}

#[test]
fn blank_foreign_damaged_and_newer_pages_are_told_apart() {
    let parse = |bytes: [u8; PAGE_BYTES]| Page::parse(&bytes, 0xff).unwrap_err();
    assert_eq!(parse([0xff; PAGE_BYTES]), PageError::Blank);
    assert_eq!(parse([0; PAGE_BYTES]), PageError::Foreign);
    assert_eq!(Page::parse(&[0; PAGE_BYTES], 0).unwrap_err(), PageError::Blank);
    let with = |at: usize, byte: u8| {
        let mut page = GOLDEN;
        page[at] = byte;
        parse(sealed(page))
    };
    assert_eq!(with(4, 2), PageError::Newer { version: 2 });
    assert_eq!(with(4, 0), PageError::Malformed);
    for node in [0, 4, 32, 255] {
        assert_eq!(with(5, node), PageError::Malformed, "a founder that is no member: {node}");
    }
    let mut crowd = GOLDEN;
    (crowd[20], crowd[21]) = (0xff, 1);
    assert_eq!(parse(sealed(crowd)), PageError::Malformed, "nine founders");
    // Power went while it was put there.
    for len in 1..64 {
        let mut cut = golden();
        cut[len..].fill(0xff);
        let told = if len < 4 { PageError::Foreign } else { PageError::Damaged };
        assert_eq!(parse(cut), told, "{len}");
    }
}

#[test]
fn damage_to_any_byte_is_told() {
    let good = golden();
    let whole = Page::parse(&good, 0xff).unwrap();
    for at in 0..PAGE_BYTES {
        for byte in (0..=255u8).filter(|byte| *byte != good[at]) {
            let mut damaged = good;
            damaged[at] = byte;
            match Page::parse(&damaged, 0xff) {
                Err(PageError::Foreign) => assert!(at < 4),
                Err(PageError::Damaged) => assert!((4..64).contains(&at)),
                // In the mark: it counts as set, and the rest is as it was.
                Ok(page) => {
                    assert!(at >= 64 && !page.founds() && page != whole);
                    assert_eq!((page.node, page.limits), (whole.node, whole.limits));
                }
                other => panic!("{at}: {other:?}"),
            }
        }
    }
}

/// Flash that keeps all that it ever was, word by word.
#[derive(Clone)]
struct Memory {
    bytes: Rc<RefCell<Vec<u8>>>,
    past: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl ErrorType for Memory {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Memory {
    const READ_SIZE: usize = 4;
    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        let whole = self.bytes.borrow();
        let from = whole.get(offset as usize..).and_then(|rest| rest.get(..bytes.len()));
        bytes.copy_from_slice(from.ok_or(NorFlashErrorKind::OutOfBounds)?);
        Ok(())
    }
    fn capacity(&self) -> usize {
        self.bytes.borrow().len()
    }
}

impl NorFlash for Memory {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 1024;
    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        self.bytes.borrow_mut()[from as usize..to as usize].fill(0xff);
        Ok(())
    }
    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        for (at, word) in (offset as usize..).step_by(4).zip(bytes.chunks(4)) {
            self.past.borrow_mut().push(self.bytes.borrow().clone());
            let place = &mut self.bytes.borrow_mut()[at..][..4];
            assert!(place.iter().all(|byte| *byte == 0xff), "programmed twice at {at}");
            place.copy_from_slice(word);
        }
        Ok(())
    }
}

/// Flash with ECC: a word that power was cut in can't be read.
struct Torn {
    flash: Memory,
    word: u32,
}

impl ErrorType for Torn {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Torn {
    const READ_SIZE: usize = 4;
    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        if (offset..offset + bytes.len() as u32).contains(&self.word) {
            return Err(NorFlashErrorKind::Other);
        }
        ReadNorFlash::read(&mut self.flash, offset, bytes)
    }
    fn capacity(&self) -> usize {
        ReadNorFlash::capacity(&self.flash)
    }
}

#[test]
fn a_mark_that_is_torn_and_can_t_be_read_is_one() {
    for word in (0..PAGE_BYTES as u32).step_by(4) {
        let page = Page::read(&mut Torn { flash: chip(alone(2, 3)), word }, PAGE, 0xff);
        match page {
            Ok(page) => assert!(word >= 64 && !page.founds(), "{word}"),
            Err(error) => assert!(word < 64 && error == PageError::Unreadable, "{word} {error}"),
        }
    }
}

#[test]
fn a_heartbeat_that_is_told_brings_an_election_timeout_that_goes_with_it() {
    let mut page = GOLDEN;
    page[56..60].fill(0);
    for heartbeat_ms in [0u32, 100, 1000, u32::MAX] {
        page[52..56].copy_from_slice(&heartbeat_ms.to_le_bytes());
        let config = Page::parse(&sealed(page), 0xff).unwrap().config(FLASH, 0);
        assert_eq!(config.check(), Ok(()), "{heartbeat_ms}");
        let planned = Config::new(plan::serial(115_200), FLASH, 5, 0);
        let expected = planned.election_ms.max(heartbeat_ms.saturating_mul(10));
        assert_eq!(config.election_ms, expected);
    }
    // What is told is not made longer: the node refuses it.
    page[52..60].copy_from_slice(&[0xe8, 3, 0, 0, 0x10, 0x27, 0, 0]);
    let config = Page::parse(&sealed(page), 0xff).unwrap().config(FLASH, 0);
    assert_eq!((config.heartbeat_ms, config.election_ms), (1000, 10_000));
    page[57] = 0x26;
    let config = Page::parse(&sealed(page), 0xff).unwrap().config(FLASH, 0);
    assert_eq!(config.election_ms, 9744);
    assert!(config.check().is_err());
}

/// A link on which nobody is, that counts what was said.
#[derive(Clone, Default)]
struct Alone(Rc<RefCell<Vec<Vec<u8>>>>);

impl quorate_embedded::link::Link for Alone {
    fn send(&mut self, _: Instant, _: NodeSet, frame: &[u8]) -> Poll<()> {
        self.0.borrow_mut().push(frame.to_vec());
        Poll::Ready(())
    }
    fn receive(&mut self, _: Instant) -> Option<&[u8]> {
        None
    }
}

impl AsyncLink for Alone {
    async fn send(&mut self, _: NodeSet, frame: &[u8]) {
        self.0.borrow_mut().push(frame.to_vec());
    }
    async fn receive(&mut self) -> &[u8] {
        std::future::pending().await
    }
}

/// As the one above, for the async runner; its flash does all at once.
impl embedded_storage_async::nor_flash::ReadNorFlash for Memory {
    const READ_SIZE: usize = 4;
    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        ReadNorFlash::read(self, offset, bytes)
    }
    fn capacity(&self) -> usize {
        ReadNorFlash::capacity(self)
    }
}

impl embedded_storage_async::nor_flash::NorFlash for Memory {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 1024;
    async fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        NorFlash::erase(self, from, to)
    }
    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        NorFlash::write(self, offset, bytes)
    }
}

/// A millisecond passes with each look.
#[derive(Clone, Default)]
struct Looks(u64);

impl Clock for Looks {
    fn now(&mut self) -> Instant {
        self.0 += 1;
        Instant::from_millis(self.0)
    }
}

impl AsyncClock for Looks {
    async fn wait_until(&mut self, until: Instant) {
        while self.now() < until {
            embassy_futures::yield_now().await;
        }
    }
}

type Loop = SuperLoop<
    'static,
    &'static mut ConfigMap,
    Alone,
    Memory,
    CounterClock<Box<dyn FnMut() -> u32>>,
>;

struct Board {
    flash: Memory,
    run: Loop,
    said: Alone,
}

fn chip(page: [u8; PAGE_BYTES]) -> Memory {
    let mut bytes = vec![0xff; START as usize + GEOMETRY.bytes() as usize];
    bytes[..PAGE_BYTES].copy_from_slice(&page);
    Memory { bytes: Rc::new(RefCell::new(bytes)), past: Rc::default() }
}

/// Power comes.
fn power_on(flash: &Memory) -> Board {
    let app: &'static mut ConfigMap = Box::leak(Box::new(ConfigMap::<[u8; 600]>::new()));
    let limits = MapLimits { keys: 8, key_bytes: 12, value_bytes: 16, bytes: 500 };
    app.start(limits, 1, None).unwrap();
    let node: &'static mut Node = Box::leak(Box::new(Node::<[u8; 1200]>::new()));
    let part = Partition::new(flash.clone(), START, 0..START, &GEOMETRY).unwrap();
    let mut time = 0;
    let count: Box<dyn FnMut() -> u32> = Box::new(move || {
        time += 1;
        time
    });
    let clock = CounterClock::new(count, 24, 16_000_000, 16_000).unwrap();
    let leak = |bytes: usize| Vec::leak(vec![0; bytes]);
    let (frame, buffer) = (leak(256), leak(512));
    let said = Alone::default();
    let link = said.clone();
    let run =
        SuperLoop::new(Parts { node, app, link, flash: part, clock, frame, buffer, power: None });
    Board { flash: flash.clone(), run, said }
}

impl Board {
    /// Boots by the page in flash; whether it was marked.
    fn boot(&mut self, marks: bool) -> (Result<Booted, BootError>, bool) {
        let page = Page::read(&mut self.flash, PAGE, 0xff).unwrap();
        let config = page.config(FLASH, 0);
        let (mut flash, mut marked) = (self.flash.clone(), false);
        let said = self.said.clone();
        let booted = self.run.boot(&config, &page, 77, || {
            assert!(said.0.borrow().is_empty(), "it spoke before");
            marked = marks && Page::mark(&mut flash, PAGE, 0xff).is_ok();
            marked
        });
        (booted, marked)
    }
}

#[test]
fn a_founder_founds_once_then_mounts_and_never_founds_again() {
    let flash = chip(alone(2, 3));
    let (booted, marked) = power_on(&flash).boot(true);
    assert_eq!((booted, marked), (Ok(Booted::Founded), true));
    let mut board = power_on(&flash);
    assert_eq!(board.boot(true), (Ok(Booted::Mounted), false));
    assert_eq!(board.run.node().status().generation, Generation(1));
    // Its log is lost; the page is not.
    NorFlash::erase(&mut flash.clone(), START, START + GEOMETRY.bytes()).unwrap();
    let mut board = power_on(&flash);
    assert_eq!(board.boot(true), (Ok(Booted::Joins), false));
    let _ = board.run.poll();
    let status = board.run.node().status();
    assert!(!status.running && status.fault.is_none());
    assert_eq!(board.said.0.borrow().len(), 1, "it asks for its place");
}

#[test]
fn power_that_goes_anywhere_in_founding_leads_to_a_founded_and_marked_board() {
    let flash = chip(alone(2, 3));
    assert_eq!(power_on(&flash).boot(false), (Err(BootError::Mark), false));
    // Founded, and not marked: the log is mounted, and the page marked now.
    let founded = flash.bytes.borrow().clone();
    assert_eq!(power_on(&flash).boot(true), (Ok(Booted::Mounted), true));
    assert_eq!(power_on(&flash).boot(true), (Ok(Booted::Mounted), false));
    let past = flash.past.borrow().clone();
    let (mut founds, mut mounts) = (0, 0);
    for was in past.into_iter().chain([founded]) {
        let mut marks = was[64..PAGE_BYTES].iter().filter(|byte| **byte != 0xff);
        let cut_in_mark = marks.next().is_some();
        *flash.bytes.borrow_mut() = was;
        match power_on(&flash).boot(true) {
            (Ok(Booted::Founded), true) => founds += 1,
            (Ok(Booted::Mounted), marked) => {
                assert_ne!(marked, cut_in_mark, "half a mark is one");
                mounts += 1;
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(power_on(&flash).boot(true), (Ok(Booted::Mounted), false));
    }
    assert!(founds > 10 && mounts > 5, "{founds} {mounts}");
}

#[test]
fn a_log_of_another_board_or_cluster_is_refused() {
    let flash = chip(alone(2, 3));
    assert_eq!(power_on(&flash).boot(true), (Ok(Booted::Founded), true));
    flash.bytes.borrow_mut()[..PAGE_BYTES].copy_from_slice(&alone(3, 3));
    let other =
        BootError::OtherLog { node: NodeId::new(2), cluster: ClusterId([0xca, 0xfe, 0xba, 0xbe]) };
    assert_eq!(power_on(&flash).boot(true), (Err(other), false));
    let mut page = GOLDEN;
    (page[8], page[20]) = (0, 2);
    flash.bytes.borrow_mut()[..PAGE_BYTES].copy_from_slice(&sealed(page));
    assert_eq!(power_on(&flash).boot(true), (Err(other), false));
}

#[test]
fn other_data_in_the_place_of_the_log_is_not_touched() {
    let flash = chip(alone(2, 3));
    flash.bytes.borrow_mut()[START as usize + 5000] = 0;
    let before = flash.bytes.borrow().clone();
    let foreign = BootError::Stopped(Fault::Mount(MountError::Foreign));
    assert_eq!(power_on(&flash).boot(true), (Err(foreign), false));
    assert_eq!(*flash.bytes.borrow(), before);
}

#[test]
fn a_page_beyond_the_flash_can_t_be_read() {
    let mut flash = chip(alone(2, 3));
    let beyond = ReadNorFlash::capacity(&flash) as u32 - 32;
    assert_eq!(Page::read(&mut flash, beyond, 0xff), Err(PageError::Unreadable));
}

/// Power comes to a board with the async runner, which boots; what it came to, whether the page was marked, and what it says in the
/// first looks at its clock.
fn async_boot(flash: &Memory, marks: bool) -> (Result<Booted, BootError>, bool, usize) {
    let app: &'static mut ConfigMap = Box::leak(Box::new(ConfigMap::<[u8; 600]>::new()));
    let limits = MapLimits { keys: 8, key_bytes: 12, value_bytes: 16, bytes: 500 };
    app.start(limits, 1, None).unwrap();
    let node: &'static mut Node = Box::leak(Box::new(Node::<[u8; 1200]>::new()));
    let desk: &'static Desk = Box::leak(Box::new(Desk::<Commands<48>>::new()));
    let part = Partition::new_async(flash.clone(), START, 0..START, &GEOMETRY).unwrap();
    let leak = |bytes: usize| Vec::leak(vec![0; bytes]);
    let (frame, buffer) = (leak(256), leak(512));
    let (said, clock) = (Alone::default(), Looks::default());
    let link = said.clone();
    let parts = Parts { node, app, link, flash: part, clock, frame, buffer, power: None };
    let mut run = Runner::new(parts, desk);
    let page = Page::read(&mut flash.clone(), PAGE, 0xff).unwrap();
    let (config, mut marked) = (page.config(FLASH, 0), false);
    let mut own = flash.clone();
    let booted = embassy_futures::block_on(run.boot(&config, &page, 77, || {
        marked = marks && Page::mark(&mut own, PAGE, 0xff).is_ok();
        marked
    }));
    assert!(said.0.borrow().is_empty(), "it spoke before");
    if booted.is_ok() {
        let mut task = std::pin::pin!(run.run(|_| {}));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..10_000 {
            assert!(task.as_mut().poll(&mut context).is_pending());
        }
    }
    let said = said.0.borrow().len();
    (booted, marked, said)
}

#[test]
fn the_async_runner_boots_by_its_page_in_the_same_way() {
    // One of three, so that it has to speak to anybody.
    let flash = chip(golden());
    assert_eq!(async_boot(&flash, false), (Err(BootError::Mark), false, 0));
    let (booted, marked, said) = async_boot(&flash, true);
    assert_eq!((booted, marked), (Ok(Booted::Mounted), true));
    assert!(said > 0, "it stands for election");
    let (booted, marked, _) = async_boot(&flash, true);
    assert_eq!((booted, marked), (Ok(Booted::Mounted), false));
    // What one runner has founded the other one mounts.
    assert_eq!(power_on(&flash).boot(true), (Ok(Booted::Mounted), false));
    let fresh = chip(golden());
    let (booted, marked, said) = async_boot(&fresh, true);
    assert_eq!((booted, marked), (Ok(Booted::Founded), true));
    assert!(said > 0);
    NorFlash::erase(&mut flash.clone(), START, START + GEOMETRY.bytes()).unwrap();
    let (booted, marked, said) = async_boot(&flash, true);
    assert_eq!((booted, marked), (Ok(Booted::Joins), false));
    assert!(said > 0, "it asks for its place");
    fresh.bytes.borrow_mut()[..PAGE_BYTES].copy_from_slice(&alone(3, 3));
    let (booted, ..) = async_boot(&fresh, true);
    assert!(matches!(booted, Err(BootError::OtherLog { .. })));
}
