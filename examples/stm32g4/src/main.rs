#![no_std]
#![no_main]
//! Quorate on an STM32G474: the log in the second bank of its flash, which has ECC; the other boards by CAN-FD.

mod bus;
mod ecc;
mod power;

use core::cell::RefCell;

use bus::{Bus, COMES, GOES};
use defmt::{info, unwrap};
use defmt_rtt as _;
use ecc::Ecc;
use embassy_embedded_hal::adapter::BlockingAsync;
use embassy_embedded_hal::flash::partition::BlockingPartition;
use embassy_executor::Spawner;
use embassy_futures::join::join4;
use embassy_stm32::can::{
    CanConfigurator, IT0InterruptHandler, IT1InterruptHandler, RxFdBuf, TxFdBuf,
};
use embassy_stm32::flash::{Blocking, FLASH_BASE, FLASH_SIZE, Flash as Chip};
use embassy_stm32::gpio::{Input, Level, Output, Pull, Speed};
use embassy_stm32::rcc::{Hse, HseMode, Sysclk, mux};
use embassy_stm32::rng::Rng;
use embassy_stm32::time::Hertz;
use embassy_stm32::wdg::IndependentWatchdog;
use embassy_stm32::{bind_interrupts, peripherals};
use embassy_sync::blocking_mutex::{Mutex, NoopMutex};
use embassy_time::Timer;
use panic_probe as _;
use quorate::config::Flash;
use quorate::flash::Geometry;
use quorate::node::{Node, flash_buffer_bytes_min};
use quorate::typed::ConfigMap;
use quorate_apps::{App, Button, COMMAND_BYTES, MAP_BYTES, follow, press};
use quorate_embedded::clock::{Clock, EmbassyClock};
use quorate_embedded::flash::Partition;
use quorate_embedded::identity::Page;
use quorate_embedded::link::{AsyncRadio, FragmentLink};
use quorate_embedded::runner::{Commands, Desk, Parts, Runner, Shared};
use static_cell::{ConstStaticCell, StaticCell};

bind_interrupts!(struct Irqs {
    FDCAN1_IT0 => IT0InterruptHandler<peripherals::FDCAN1>;
    FDCAN1_IT1 => IT1InterruptHandler<peripherals::FDCAN1>;
    RNG => embassy_stm32::rng::InterruptHandler<peripherals::RNG>;
    PVD_PVM => power::Crossing;
});

const PAGE: u32 = 0x7_7800;
const LOG: u32 = 0x7_8000;
const GEOMETRY: Geometry = Geometry {
    word_bytes: 8,
    erased: 0xff,
    page_bytes: 8,
    block_bytes: 2048,
    blocks_per_segment: 2,
    segments: 8,
};
/// Both banks can be at work at once, but the driver waits for the flash.
const FLASH: Flash = Flash { geometry: GEOMETRY, word_us: 90, erase_ms_max: 25, stalls: true };
/// The longest frame that a cluster of such boards can be founded with.
const FRAME_BYTES: usize = 240;
/// The packets of the bus, and how many boards are heard at a time.
const PACKET_BYTES: usize = 63;
const SENDERS: usize = 6;
/// Founding a cluster, the longest that a board does at once, erases sixteen pages: 0.4 s.
const WATCHDOG_US: u32 = 8_000_000;

static NODE: ConstStaticCell<Node<[u8; 4096]>> = ConstStaticCell::new(Node::new());
static MAP: ConstStaticCell<ConfigMap<[u8; MAP_BYTES]>> = ConstStaticCell::new(ConfigMap::new());
const LINK_BYTES: usize = FragmentLink::<Bus>::memory_bytes(PACKET_BYTES, FRAME_BYTES, SENDERS);
static LINK: ConstStaticCell<[u8; LINK_BYTES]> = ConstStaticCell::new([0; _]);
static CAN_GOES: ConstStaticCell<TxFdBuf<GOES>> = ConstStaticCell::new(TxFdBuf::new());
static CAN_COMES: ConstStaticCell<RxFdBuf<COMES>> = ConstStaticCell::new(RxFdBuf::new());
static FRAME: ConstStaticCell<[u8; FRAME_BYTES]> = ConstStaticCell::new([0; _]);
static BUFFER: ConstStaticCell<[u8; flash_buffer_bytes_min(FRAME_BYTES as u16)]> =
    ConstStaticCell::new([0; _]);
static CHIP: StaticCell<NoopMutex<RefCell<Ecc<Chip<'static, Blocking>>>>> = StaticCell::new();
static DESK: Desk<Commands<COMMAND_BYTES>> = Desk::new();

#[embassy_executor::main]
async fn main(_spawner: Spawner) {
    // The crystal of a Nucleo-64: what the chip has inside is not exact enough for CAN.
    let mut clocks = embassy_stm32::Config::default();
    clocks.rcc.hse = Some(Hse { freq: Hertz(24_000_000), mode: HseMode::Oscillator });
    clocks.rcc.sys = Sysclk::HSE;
    clocks.rcc.mux.fdcansel = mux::Fdcansel::HSE;
    let chip = embassy_stm32::init(clocks);
    power::watch();
    let mut watchdog = IndependentWatchdog::new(chip.IWDG, WATCHDOG_US);
    // A debugger that halts the chip halts it, too.
    embassy_stm32::pac::DBGMCU.apb1lfzr().modify(|w| w.set_iwdg(true));
    watchdog.unleash();
    let mut random = Rng::new(chip.RNG, Irqs);
    let bank = &*CHIP.init(Mutex::new(RefCell::new(Ecc(Chip::new_blocking(chip.FLASH)))));
    let flash = || BlockingPartition::new(bank, 0, FLASH_SIZE as u32);
    let mut can = CanConfigurator::new(chip.FDCAN1, chip.PA11, chip.PA12, Irqs);
    can.set_bitrate(500_000);
    can.set_fd_data_bitrate(2_000_000, true);
    let can = can.into_normal_mode().buffered_fd(CAN_GOES.take(), CAN_COMES.take());

    let page = unwrap!(Page::read(&mut flash(), PAGE, GEOMETRY.erased));
    let bus = Bus::new(can, page.node);
    assert!(bus.packet_bytes() == PACKET_BYTES);
    let seed = random.next_u32() as u16;
    let mut app = unwrap!(App::new(MAP.take()));
    let app = Shared::new(&mut app);
    let desk: &Desk = &DESK;
    let program = 0..quorate_embedded::program_end!(FLASH_BASE as u32);
    let parts = Parts {
        node: NODE.take(),
        app: &app,
        link: FragmentLink::new_async(bus, page.node, seed, FRAME_BYTES, LINK.take()),
        flash: unwrap!(Partition::new_async(BlockingAsync::new(flash()), LOG, program, &GEOMETRY)),
        clock: EmbassyClock,
        frame: FRAME.take(),
        buffer: BUFFER.take(),
        power: Some(&power::SUPPLY),
    };
    let mut board = Runner::new(parts, desk);
    let config = page.config(FLASH, random.next_u64());
    let mark = || Page::mark(&mut flash(), PAGE, GEOMETRY.erased).is_ok();
    let booted = unwrap!(board.boot(&config, &page, random.next_u32(), mark).await);
    info!("board {} of cluster {}: {}", page.node, page.cluster, booted);
    board.node().remember(power::reset_reason());

    // The user's light and button of a Nucleo-64, whose button pulls up.
    let mut lamp = Output::new(chip.PA5, Level::Low, Speed::Low);
    let contact = Input::new(chip.PC13, Pull::Down);
    let shows = follow(&app, |settings| lamp.set_level(settings.lamp.into()));
    let asks = async {
        let mut button = Button::new();
        loop {
            Timer::after_millis(10).await;
            if button.is_pressed(contact.is_high(), EmbassyClock.now()) {
                info!("pressed: {}", press(&app, desk.handle()).await);
            }
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
    join4(board.run(|event| info!("{}", event)), shows, asks, lives).await;
}
