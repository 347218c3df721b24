#![no_std]
#![no_main]
//! Three nodes in one program on a Cortex-M0 with 16 KB of RAM: what `cargo ci hash` compares with the host, and what
//! `cargo ci readme` makes the table of instructions of. What to do is said on semihosting's command line:
//! `hash SEED`, or `cost SEEDS`.

mod stack;

use core::fmt;
use core::ptr;
use core::sync::atomic::{Ordering, compiler_fence};

use cortex_m_rt::entry;
use nrf51_pac::{NVMC, Peripherals, TIMER0};
use quorate_trio::{Board, CALLS, LOG_BYTES, Node, Trio, cost, faulty};
use semihosting::experimental::env::args;
use semihosting::println;
use semihosting::process::ExitCode;

/// Where the nodes' flash begins, and the unit of erasing.
const FLASH: u32 = 0x3_0000;
const PAGE_BYTES: usize = 1024;

static mut TRIO: Trio = Trio::new();

/// The chip: QEMU's flash and clock.
struct Chip {
    nvmc: NVMC,
    timer: TIMER0,
    /// Instructions that counting itself takes.
    idle: u32,
    /// Say how far the run is.
    tells: bool,
}

impl Chip {
    fn new(chip: Peripherals, tells: bool) -> Self {
        let timer = chip.TIMER0;
        timer.bitmode.write(|w| w.bitmode()._32bit());
        // SAFETY: 16 MHz, as it is.
        timer.prescaler.write(|w| unsafe { w.bits(0) });
        timer.tasks_start.write(|w| unsafe { w.bits(1) });
        let mut chip = Self { nvmc: chip.NVMC, timer, idle: 0, tells };
        (_, chip.idle) = chip.count(|| ());
        chip
    }

    /// Ticks of 62.5 ns.
    fn ticks(&self) -> u32 {
        compiler_fence(Ordering::SeqCst);
        // SAFETY: any write captures the counter.
        self.timer.tasks_capture[1].write(|w| unsafe { w.bits(1) });
        let ticks = self.timer.cc[1].read().bits();
        compiler_fence(Ordering::SeqCst);
        ticks
    }
}

/// With `-icount shift=10` an instruction takes 1,024 ns, 16.384 ticks: rounded, their number is exact.
fn instructions(ticks: u32) -> u32 {
    ((u64::from(ticks) * 125 + 1024) / 2048) as u32
}

impl Board for Chip {
    fn read(&mut self, at: u32, bytes: &mut [u8]) {
        for (at, byte) in (FLASH + at..).zip(bytes) {
            // SAFETY: an address of the flash. What is there changes: the compiler must look.
            *byte = unsafe { ptr::read_volatile(ptr::without_provenance::<u8>(at as usize)) };
        }
    }

    fn write(&mut self, at: u32, bytes: &[u8]) {
        self.nvmc.config.write(|w| w.wen().wen());
        for (at, word) in (FLASH + at..).step_by(4).zip(bytes.as_chunks::<4>().0) {
            // SAFETY: a word of the flash, behind the program.
            unsafe {
                let place = ptr::without_provenance_mut::<u32>(at as usize);
                ptr::write_volatile(place, u32::from_le_bytes(*word));
            }
        }
        self.nvmc.config.write(|w| w.wen().ren());
    }

    fn erase(&mut self, at: u32, bytes: u32) {
        self.nvmc.config.write(|w| w.wen().een());
        for page in (FLASH + at..FLASH + at + bytes).step_by(PAGE_BYTES) {
            // SAFETY: a page, behind the program.
            self.nvmc.erasepage().write(|w| unsafe { w.bits(page) });
        }
        self.nvmc.config.write(|w| w.wen().ren());
    }

    fn count<R>(&mut self, call: impl FnOnce() -> R) -> (R, u32) {
        let begun = self.ticks();
        let result = call();
        let ticks = self.ticks().wrapping_sub(begun);
        (result, instructions(ticks).saturating_sub(self.idle))
    }

    fn renew(&mut self, node: &mut Node<[u8; LOG_BYTES]>) {
        static NEW: Node<[u8; LOG_BYTES]> = Node::new();
        // SAFETY: one does not lie in the other, and a node owns nothing that a copy of it could not.
        unsafe { ptr::copy_nonoverlapping(&raw const NEW, node, 1) };
    }

    fn mark(&mut self, line: fmt::Arguments<'_>) {
        if self.tells {
            println!("{line}");
        }
    }
}

/// What to do.
enum Order {
    Hash(u64),
    Cost(u64),
}

/// It is off the stack afterwards.
#[inline(never)]
fn order() -> Order {
    let arguments = args::<64>().expect("semihosting has to be there");
    // The name of the program goes before.
    let mut arguments = (&arguments).skip(1).flatten();
    let what = arguments.next();
    let number = arguments.next().and_then(|text| text.parse().ok());
    match (what, number) {
        (Some("hash"), Some(seed)) => Order::Hash(seed),
        (Some("cost"), Some(seeds)) => Order::Cost(seeds),
        _ => panic!("hash SEED, or cost SEEDS"),
    }
}

#[entry]
fn main() -> ! {
    let order = order();
    let chip = Peripherals::take().expect("nobody has it");
    // SAFETY: the only reference to it, made once, on the only thread.
    let trio = unsafe { &mut *ptr::addr_of_mut!(TRIO) };
    match order {
        Order::Hash(seed) => hash(trio, &mut Chip::new(chip, true), seed),
        Order::Cost(seeds) => costs(trio, &mut Chip::new(chip, false), seeds),
    }
    println!("stack {} of {}", stack::depth(), stack::bytes());
    ExitCode::SUCCESS.exit_process()
}

#[inline(never)]
fn hash(trio: &mut Trio, chip: &mut Chip, seed: u64) {
    println!("{}", faulty(trio, chip, seed));
}

/// What is committed, and the worst of every call: lines of a name and figures.
#[inline(never)]
fn costs(trio: &mut Trio, chip: &mut Chip, seeds: u64) {
    for (bytes, batch) in [(16, 1), (16, 8), (64, 1), (64, 8)] {
        println!("entry {bytes} {batch} {}", cost(trio, chip, bytes, batch));
    }
    for seed in 1..=seeds {
        faulty(trio, chip, seed);
    }
    let costs = trio.costs();
    for (name, most) in CALLS.iter().zip(costs.most) {
        println!("call {name} {most}");
    }
    println!("mount {}", costs.mount);
}
