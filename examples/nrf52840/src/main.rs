#![no_std]
#![no_main]
//! Quorate on an nRF52840: the log in the chip's own flash, the other boards by its 802.15.4 radio.

mod power;
mod radio;

use core::cell::RefCell;

use defmt::{info, unwrap};
use defmt_rtt as _;
use embassy_embedded_hal::adapter::BlockingAsync;
use embassy_embedded_hal::flash::partition::BlockingPartition;
use embassy_executor::Spawner;
use embassy_futures::join::{join, join5};
use embassy_nrf::config::HfclkSource;
use embassy_nrf::gpio::{Input, Level, Output, OutputDrive, Pull};
use embassy_nrf::nvmc::{FLASH_SIZE, Nvmc};
use embassy_nrf::radio::ieee802154::Radio;
use embassy_nrf::rng::Rng;
use embassy_nrf::wdt::{self, HaltConfig, Watchdog};
use embassy_nrf::{bind_interrupts, peripherals};
use embassy_sync::blocking_mutex::{Mutex, NoopMutex};
use embassy_time::Timer;
use panic_probe as _;
use quorate::config::Flash;
use quorate::flash::Geometry;
use quorate::node::{Node, flash_buffer_bytes_min};
use quorate::typed::ConfigMap;
use quorate_apps::{App, COMMAND_BYTES, MAP_BYTES, follow, press};
use quorate_embedded::clock::EmbassyClock;
use quorate_embedded::flash::Partition;
use quorate_embedded::identity::Page;
use quorate_embedded::link::PacketLink;
use quorate_embedded::runner::{Commands, Desk, Parts, Runner, Shared};
use static_cell::{ConstStaticCell, StaticCell};

bind_interrupts!(struct Irqs {
    RADIO => embassy_nrf::radio::InterruptHandler<peripherals::RADIO>;
    CLOCK_POWER => power::Warning;
});

const PAGE: u32 = 0xF_7000;
const LOG: u32 = 0xF_8000;
const GEOMETRY: Geometry = Geometry {
    word_bytes: 4,
    erased: 0xff,
    page_bytes: 4,
    block_bytes: 4096,
    blocks_per_segment: 1,
    segments: 8,
};
const FLASH: Flash = Flash { geometry: GEOMETRY, word_us: 41, erase_ms_max: 90, stalls: true };
/// As long as a packet of the radio.
const FRAME_BYTES: usize = radio::PACKET_BYTES;
/// 8 s, of 1/32768 s. Founding a cluster, the longest that a board does at once, erases eight pages.
const WATCHDOG_TICKS: u32 = 8 * 32768;

static NODE: ConstStaticCell<Node<[u8; 4096]>> = ConstStaticCell::new(Node::new());
static MAP: ConstStaticCell<ConfigMap<[u8; MAP_BYTES]>> = ConstStaticCell::new(ConfigMap::new());
static PACKET: ConstStaticCell<[u8; FRAME_BYTES]> = ConstStaticCell::new([0; _]);
static FRAME: ConstStaticCell<[u8; FRAME_BYTES]> = ConstStaticCell::new([0; _]);
static BUFFER: ConstStaticCell<[u8; flash_buffer_bytes_min(FRAME_BYTES as u16)]> =
    ConstStaticCell::new([0; _]);
static NVMC: StaticCell<NoopMutex<RefCell<Nvmc<'static>>>> = StaticCell::new();
static DESK: Desk<Commands<COMMAND_BYTES>> = Desk::new();

#[embassy_executor::main]
async fn main(_spawner: Spawner) {
    let mut clocks = embassy_nrf::config::Config::default();
    clocks.hfclk_source = HfclkSource::ExternalXtal;
    let chip = embassy_nrf::init(clocks);
    let mut patience = wdt::Config::default();
    patience.timeout_ticks = WATCHDOG_TICKS;
    patience.action_during_debug_halt = HaltConfig::Pause;
    let Ok((_, [mut watchdog])) = Watchdog::try_new(chip.WDT, patience) else {
        defmt::panic!("the watchdog runs, and otherwise");
    };
    let mut random = Rng::new_blocking(chip.RNG);
    power::watch();
    let nvmc = &*NVMC.init(Mutex::new(RefCell::new(Nvmc::new(chip.NVMC))));
    let flash = || BlockingPartition::new(nvmc, 0, FLASH_SIZE as u32);

    let page = unwrap!(Page::read(&mut flash(), PAGE, GEOMETRY.erased));
    let (antenna, air) = radio::open(&page, random.blocking_next_u32());
    let mut app = unwrap!(App::new(MAP.take()));
    let app = Shared::new(&mut app);
    let desk: &Desk = &DESK;
    let program = 0..quorate_embedded::program_end!(0);
    let parts = Parts {
        node: NODE.take(),
        app: &app,
        link: PacketLink::new(antenna, PACKET.take()),
        flash: unwrap!(Partition::new_async(BlockingAsync::new(flash()), LOG, program, &GEOMETRY)),
        clock: EmbassyClock,
        frame: FRAME.take(),
        buffer: BUFFER.take(),
        power: Some(&power::SUPPLY),
    };
    let mut board = Runner::new(parts, desk);
    let config = page.config(FLASH, random.blocking_next_u64());
    let mark = || Page::mark(&mut flash(), PAGE, GEOMETRY.erased).is_ok();
    let booted = unwrap!(board.boot(&config, &page, random.blocking_next_u32(), mark).await);
    info!("board {} of cluster {}: {}", page.node, page.cluster, booted);
    board.node().remember(power::reset_reason());

    // LED 1 and button 1 of the development kit, both of which pull down.
    let mut lamp = Output::new(chip.P0_13, Level::High, OutputDrive::Standard);
    let mut button = Input::new(chip.P0_11, Pull::Up);
    let shows = follow(&app, |settings| lamp.set_level((!settings.lamp).into()));
    let asks = async {
        loop {
            button.wait_for_low().await;
            info!("pressed: {}", press(&app, desk.handle()).await);
            button.wait_for_high().await;
            Timer::after_millis(30).await;
        }
    };
    // Whoever runs the board answers, or the watchdog barks.
    let lives = async {
        loop {
            desk.handle().status().await;
            watchdog.pet();
            Timer::after_secs(1).await;
        }
    };
    let runs = board.run(|event| info!("{}", event));
    join5(runs, air.run(Radio::new(chip.RADIO, Irqs)), join(shows, lives), asks, power::recover())
        .await;
}
