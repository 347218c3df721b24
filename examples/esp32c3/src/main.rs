#![no_std]
#![no_main]
//! Quorate on an ESP32-C3: the log in the flash that the program runs from, the other boards by ESP-NOW.

mod air;
mod panel;

use core::cell::RefCell;

use air::Air;
use defmt::{info, unwrap};
use defmt_rtt as _;
use embassy_embedded_hal::flash::partition::BlockingPartition;
use embassy_sync::blocking_mutex::{Mutex, NoopMutex};
use embedded_storage::nor_flash::ReadNorFlash;
use esp_backtrace as _;
use esp_bootloader_esp_idf::partitions::{PARTITION_TABLE_MAX_LEN, read_partition_table};
use esp_hal::interrupt::software::SoftwareInterruptControl;
use esp_hal::rng::Rng;
use esp_hal::rtc_cntl::{Rtc, RwdtStage, SocResetReason};
use esp_hal::system::reset_reason;
use esp_hal::time::{Duration, Instant};
use esp_hal::timer::timg::TimerGroup;
use esp_storage::FlashStorage;
use panel::Pins;
use quorate::config::Flash;
use quorate::flash::Geometry;
use quorate::node::{Node, flash_buffer_bytes_min};
use quorate::typed::ConfigMap;
use quorate_apps::{App, MAP_BYTES, turn};
use quorate_embedded::clock::CounterClock;
use quorate_embedded::flash::Partition;
use quorate_embedded::identity::Page;
use quorate_embedded::link::PacketLink;
use quorate_embedded::power::reset;
use quorate_embedded::runner::{Parts, SuperLoop};
use static_cell::{ConstStaticCell, StaticCell};

esp_bootloader_esp_idf::esp_app_desc!();

const GEOMETRY: Geometry = Geometry {
    word_bytes: 4,
    erased: 0xff,
    page_bytes: 256,
    block_bytes: 4096,
    blocks_per_segment: 1,
    segments: 8,
};
const FLASH: Flash = Flash { geometry: GEOMETRY, word_us: 400, erase_ms_max: 400, stalls: true };
/// As long as a packet of the radio.
const FRAME_BYTES: usize = air::PACKET_BYTES;
/// Founding a cluster, the longest that a board does at once, erases eight blocks.
const WATCHDOG: Duration = Duration::from_secs(8);

static NODE: ConstStaticCell<Node<[u8; 4096]>> = ConstStaticCell::new(Node::new());
static MAP: ConstStaticCell<ConfigMap<[u8; MAP_BYTES]>> = ConstStaticCell::new(ConfigMap::new());
static PACKET: ConstStaticCell<[u8; FRAME_BYTES]> = ConstStaticCell::new([0; _]);
static FRAME: ConstStaticCell<[u8; FRAME_BYTES]> = ConstStaticCell::new([0; _]);
static BUFFER: ConstStaticCell<[u8; flash_buffer_bytes_min(FRAME_BYTES as u16)]> =
    ConstStaticCell::new([0; _]);
static CHIP: StaticCell<NoopMutex<RefCell<FlashStorage<'static>>>> = StaticCell::new();

/// Where a partition begins and ends, by the table in flash.
fn partition(flash: &mut FlashStorage<'_>, label: &str) -> Option<(u32, u32)> {
    let mut bytes = [0; PARTITION_TABLE_MAX_LEN];
    let table = read_partition_table(flash, &mut bytes).ok()?;
    let found = table.iter().find(|entry| entry.label_as_str() == label)?;
    Some((found.offset(), found.offset() + found.len()))
}

/// Why the chip was reset. A brown-out resets it without a warning.
fn why_reset() -> u16 {
    use SocResetReason as Soc;
    match reset_reason() {
        Some(Soc::SysBrownOut | Soc::CorePwrGlitch) => reset::BROWN_OUT,
        Some(Soc::SysClkGlitch) => reset::CLOCK,
        Some(Soc::CoreSw | Soc::Cpu0Sw) => reset::SOFTWARE,
        Some(Soc::CoreDeepSleep) => reset::WAKE,
        Some(Soc::CoreUsbUart | Soc::CoreUsbJtag) => reset::DEBUGGER,
        Some(Soc::ChipPowerOn | Soc::CoreEfuseCrc) | None => reset::POWER_ON,
        // All others are watchdogs.
        Some(_) => reset::WATCHDOG,
    }
}

#[esp_hal::main]
fn main() -> ! {
    let chip = esp_hal::init(esp_hal::Config::default());
    let mut watchdog = Rtc::new(chip.LPWR).rwdt;
    watchdog.set_timeout(RwdtStage::Stage0, WATCHDOG);
    watchdog.enable();
    // What the radio's driver needs: a heap, and tasks.
    esp_alloc::heap_allocator!(size: 72 * 1024);
    let interrupts = SoftwareInterruptControl::new(chip.SW_INTERRUPT);
    esp_rtos::start(TimerGroup::new(chip.TIMG0).timer0, interrupts.software_interrupt0);
    let Ok((_controller, interfaces)) = esp_radio::wifi::new(chip.WIFI, Default::default()) else {
        defmt::panic!("no radio");
    };
    let random = Rng::new();
    let mut pins = Pins::new(chip.GPIO7, chip.GPIO9);

    let mut storage = FlashStorage::new(chip.FLASH);
    let (_, program_end) = unwrap!(partition(&mut storage, "factory"));
    let (page_at, _) = unwrap!(partition(&mut storage, "identity"));
    let (log, log_end) = unwrap!(partition(&mut storage, "log"));
    let flash_bytes = storage.capacity() as u32;
    let storage = &*CHIP.init(Mutex::new(RefCell::new(storage)));
    let flash = |end| BlockingPartition::new(storage, 0, end);

    let page = unwrap!(Page::read(&mut flash(flash_bytes), page_at, GEOMETRY.erased));
    let count = || Instant::now().duration_since_epoch().as_micros() as u32;
    let mut board = SuperLoop::new(Parts {
        node: NODE.take(),
        app: unwrap!(App::new(MAP.take())),
        link: PacketLink::new(Air(interfaces.esp_now), PACKET.take()),
        // A log that is longer than its partition in the table is refused.
        flash: unwrap!(Partition::new(flash(log_end), log, 0..program_end, &GEOMETRY)),
        clock: unwrap!(CounterClock::new(count, 32, 1_000_000, 1)),
        frame: FRAME.take(),
        buffer: BUFFER.take(),
        power: None,
    });
    let fresh = u64::from(random.random()) << 32 | u64::from(random.random());
    let config = page.config(FLASH, fresh);
    let mark = || Page::mark(&mut flash(flash_bytes), page_at, GEOMETRY.erased).is_ok();
    let booted = unwrap!(board.boot(&config, &page, random.random(), mark));
    info!("board {} of cluster {}: {}", page.node, page.cluster, booted);
    board.node().remember(why_reset());
    loop {
        turn(&mut board, &mut pins);
        watchdog.feed();
    }
}
