#![no_std]
#![no_main]
//! Quorate on an RP2040: the log in the flash that the program runs from, the other boards on a serial wire.

mod panel;
mod wire;

use core::cell::RefCell;

use defmt::{info, unwrap};
use defmt_rtt as _;
use embassy_embedded_hal::flash::partition::BlockingPartition;
use embassy_executor::Spawner;
use embassy_rp::clocks::RoscRng;
use embassy_rp::flash::{Blocking, Flash as Qspi};
use embassy_rp::pac;
use embassy_rp::uart::{BufferedInterruptHandler, BufferedUart, Config as Baud};
use embassy_rp::watchdog::Watchdog;
use embassy_rp::{bind_interrupts, peripherals};
use embassy_sync::blocking_mutex::{Mutex, NoopMutex};
use embassy_time::{Duration, Timer};
use panel::Pins;
use panic_probe as _;
use quorate::config::Flash;
use quorate::flash::Geometry;
use quorate::node::{Node, flash_buffer_bytes_min};
use quorate::typed::ConfigMap;
use quorate_apps::{App, MAP_BYTES, turn};
use quorate_embedded::clock::EmbassyClock;
use quorate_embedded::flash::Partition;
use quorate_embedded::identity::Page;
use quorate_embedded::link::Serial;
use quorate_embedded::power::reset;
use quorate_embedded::runner::{Parts, SuperLoop};
use static_cell::{ConstStaticCell, StaticCell};
use wire::Wire;

bind_interrupts!(struct Irqs {
    UART0_IRQ => BufferedInterruptHandler<peripherals::UART0>;
});

/// Where flash is seen, and how much of it there is.
const XIP: u32 = 0x1000_0000;
const FLASH_BYTES: usize = 2 * 1024 * 1024;
const PAGE: u32 = 0x1f_7000;
const LOG: u32 = 0x1f_8000;
const GEOMETRY: Geometry = Geometry {
    word_bytes: 1,
    erased: 0xff,
    page_bytes: 256,
    block_bytes: 4096,
    blocks_per_segment: 1,
    segments: 8,
};
const FLASH: Flash = Flash { geometry: GEOMETRY, word_us: 400, erase_ms_max: 400, stalls: true };
/// The longest frame that a cluster of such boards can be founded with.
const FRAME_BYTES: usize = 128;
/// The wire and the button are looked at so often, in ms.
const LOOK_MS: u64 = 1;
/// Founding a cluster, the longest that a board does at once, erases eight blocks; the watchdog counts to 8.3 s.
const WATCHDOG: Duration = Duration::from_secs(8);

type Chip = Qspi<'static, peripherals::FLASH, Blocking, FLASH_BYTES>;

static NODE: ConstStaticCell<Node<[u8; 4096]>> = ConstStaticCell::new(Node::new());
static MAP: ConstStaticCell<ConfigMap<[u8; MAP_BYTES]>> = ConstStaticCell::new(ConfigMap::new());
static LINE: ConstStaticCell<[u8; Serial::<Wire>::memory_bytes(FRAME_BYTES)]> =
    ConstStaticCell::new([0; _]);
static COMES: ConstStaticCell<[u8; 512]> = ConstStaticCell::new([0; _]);
static GOES: ConstStaticCell<[u8; 256]> = ConstStaticCell::new([0; _]);
static FRAME: ConstStaticCell<[u8; FRAME_BYTES]> = ConstStaticCell::new([0; _]);
static BUFFER: ConstStaticCell<[u8; flash_buffer_bytes_min(FRAME_BYTES as u16)]> =
    ConstStaticCell::new([0; _]);
static CHIP: StaticCell<NoopMutex<RefCell<Chip>>> = StaticCell::new();

/// Why the chip was reset. The supply's detector resets it without a warning, and that looks as if power had just come.
fn reset_reason() -> u16 {
    let (chip, watchdog) =
        (pac::VREG_AND_CHIP_RESET.chip_reset().read(), pac::WATCHDOG.reason().read());
    reset::first([
        (watchdog.timer(), reset::WATCHDOG),
        (watchdog.force(), reset::SOFTWARE),
        (chip.had_psm_restart(), reset::DEBUGGER),
        (chip.had_run(), reset::PIN),
    ])
}

#[embassy_executor::main]
async fn main(_spawner: Spawner) {
    let chip = embassy_rp::init(Default::default());
    let mut watchdog = Watchdog::new(chip.WATCHDOG);
    watchdog.pause_on_debug(true);
    watchdog.start(WATCHDOG);
    let mut pins = Pins::new(chip.PIN_25, chip.PIN_15);
    let qspi = &*CHIP.init(Mutex::new(RefCell::new(Qspi::new_blocking(chip.FLASH))));
    let flash = || BlockingPartition::new(qspi, 0, FLASH_BYTES as u32);
    let (comes, goes) = (COMES.take(), GOES.take());
    let uart = (chip.UART0, chip.PIN_0, chip.PIN_1);
    let uart = BufferedUart::new(uart.0, uart.1, uart.2, Irqs, goes, comes, Baud::default());

    let page = unwrap!(Page::read(&mut flash(), PAGE, GEOMETRY.erased));
    let program = 0..quorate_embedded::program_end!(XIP);
    let mut board = SuperLoop::new(Parts {
        node: NODE.take(),
        app: unwrap!(App::new(MAP.take())),
        link: Serial::new_shared(Wire(uart), LINE.take(), RoscRng.next_u32()),
        flash: unwrap!(Partition::new(flash(), LOG, program, &GEOMETRY)),
        clock: EmbassyClock,
        frame: FRAME.take(),
        buffer: BUFFER.take(),
        power: None,
    });
    let config = page.config(FLASH, RoscRng.next_u64());
    let mark = || Page::mark(&mut flash(), PAGE, GEOMETRY.erased).is_ok();
    let booted = unwrap!(board.boot(&config, &page, RoscRng.next_u32(), mark));
    info!("board {} of cluster {}: {}", page.node, page.cluster, booted);
    board.node().remember(reset_reason());
    loop {
        let until = turn(&mut board, &mut pins);
        watchdog.feed(WATCHDOG);
        let wait = until.since(board.now()).min(LOOK_MS);
        Timer::after_millis(wait).await;
    }
}
