#![no_std]
#![no_main]
//! Quorate on a BBC micro:bit: the log in the chip's own flash, the other boards on a serial wire.

use cortex_m_rt::entry;
use nrf51_pac::{Peripherals, RNG};
use quorate::node::{Node, flash_buffer_bytes_min};
use quorate::typed::ConfigMap;
use quorate_apps::{App, MAP_BYTES, turn};
use quorate_embedded::clock::CounterClock;
use quorate_embedded::flash::Partition;
use quorate_embedded::identity::Page;
use quorate_embedded::link::Serial;
use quorate_embedded::runner::{Parts, SuperLoop};
use quorate_microbit::console::Console;
use quorate_microbit::nvmc::Nvmc;
use quorate_microbit::panel::Pins;
use quorate_microbit::uart::Uart;
use quorate_microbit::{FLASH, FRAME_BYTES, GEOMETRY, LOG, PAGE, panel, power, timer, uart};
use static_cell::{ConstStaticCell, StaticCell};

static NODE: ConstStaticCell<Node<[u8; 2048]>> = ConstStaticCell::new(Node::new());
static MAP: ConstStaticCell<ConfigMap<[u8; MAP_BYTES]>> = ConstStaticCell::new(ConfigMap::new());
static LINE: ConstStaticCell<[u8; Serial::<Uart>::memory_bytes(FRAME_BYTES)]> =
    ConstStaticCell::new([0; _]);
static FRAME: ConstStaticCell<[u8; FRAME_BYTES]> = ConstStaticCell::new([0; _]);
static BUFFER: ConstStaticCell<[u8; flash_buffer_bytes_min(FRAME_BYTES as u16)]> =
    ConstStaticCell::new([0; _]);

static BOARD: StaticCell<Board> = StaticCell::new();

type Board = SuperLoop<
    'static,
    App<'static>,
    Console<Serial<'static, Uart>>,
    Nvmc,
    CounterClock<fn() -> u32>,
>;

/// What the board is made of. What that takes is off the stack afterwards.
#[inline(never)]
fn make() -> (&'static mut Board, Pins, RNG) {
    let chip = Peripherals::take().unwrap();
    timer::start(chip.TIMER0);
    power::watch(chip.POWER);
    let flash = Nvmc::new(&chip.NVMC);
    let seed = panel::random(&chip.RNG);
    let board = BOARD.init(SuperLoop::new(Parts {
        node: NODE.take(),
        app: App::new(MAP.take()).unwrap(),
        link: Console::new(Serial::new_shared(Uart::new(chip.UART0), LINE.take(), seed)),
        flash: Partition::new(flash, LOG, 0..quorate_embedded::program_end!(0), &GEOMETRY).unwrap(),
        clock: CounterClock::new(timer::now_us as fn() -> u32, 32, 16_000_000, 16).unwrap(),
        frame: FRAME.take(),
        buffer: BUFFER.take(),
        power: Some(&power::SUPPLY),
    }));
    (board, Pins::new(chip.GPIO), chip.RNG)
}

#[inline(never)]
fn identity(flash: &mut Nvmc) -> Page {
    Page::read(flash, PAGE, GEOMETRY.erased)
        .unwrap_or_else(|error| panel::halt("no identity", error))
}

/// Becomes who the identity page says.
#[inline(never)]
fn boot(board: &mut Board, pins: &mut Pins, rng: &RNG) {
    let mut flash = Nvmc::again();
    let page = identity(&mut flash);
    let config = page.config(FLASH, panel::random(rng).into());
    let mark = || Page::mark(&mut flash, PAGE, GEOMETRY.erased).is_ok();
    match board.boot(&config, &page, panel::random(rng), mark) {
        Ok(booted) => pins.booted(&page, booted),
        Err(error) => panel::halt("can't start", error),
    }
    board.node().remember(power::reset_reason());
}

#[entry]
fn main() -> ! {
    let (board, mut pins, rng) = make();
    boot(board, &mut pins, &rng);
    run(board, pins)
}

#[inline(never)]
fn run(board: &mut Board, mut pins: Pins) -> ! {
    loop {
        let until = turn(board, &mut pins);
        pins.look(board.node_and_app());
        power::look();
        let now = board.now();
        pins.ask(board, now);
        timer::sleep(until.since(now), uart::has_come);
    }
}
