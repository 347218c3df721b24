#![no_std]
#![no_main]
//! The same board by an async executor: the runner is one future, what is asked of it another, and who watches it a third.

use core::convert::Infallible;

use embassy_executor::Spawner;
use embassy_futures::join::join3;
use nrf51_pac::Peripherals;
use quorate::node::{ForwardError, Node, Outcome, flash_buffer_bytes_min};
use quorate::raft::Role;
use quorate::typed::ConfigMap;
use quorate_apps::{App, COMMAND_BYTES, MAP_BYTES, Panel};
use quorate_embedded::clock::{AsyncClock, Clock as _, CounterClock};
use quorate_embedded::flash::Partition;
use quorate_embedded::identity::Page;
use quorate_embedded::link::Serial;
use quorate_embedded::runner::{Commands, Desk, Handle, Parts, Runner, Shared};
use quorate_microbit::console::{COMMAND, Console};
use quorate_microbit::nvmc::Nvmc;
use quorate_microbit::panel::Pins;
use quorate_microbit::timer::Clock;
use quorate_microbit::uart::Uart;
use quorate_microbit::watch::WATCH;
use quorate_microbit::{FLASH, FRAME_BYTES, GEOMETRY, LOG, PAGE, panel, power, timer};
use static_cell::{ConstStaticCell, StaticCell};

static NODE: ConstStaticCell<Node<[u8; 2048]>> = ConstStaticCell::new(Node::new());
static MAP: ConstStaticCell<ConfigMap<[u8; MAP_BYTES]>> = ConstStaticCell::new(ConfigMap::new());
static LINE: ConstStaticCell<[u8; Serial::<Uart>::memory_bytes(FRAME_BYTES)]> =
    ConstStaticCell::new([0; _]);
static FRAME: ConstStaticCell<[u8; FRAME_BYTES]> = ConstStaticCell::new([0; _]);
static BUFFER: ConstStaticCell<[u8; flash_buffer_bytes_min(FRAME_BYTES as u16)]> =
    ConstStaticCell::new([0; _]);
static DESK: Desk<Commands<COMMAND_BYTES>> = Desk::new();
static APP: StaticCell<App<'static>> = StaticCell::new();
static SHARED: StaticCell<Shared<'static, App<'static>>> = StaticCell::new();

/// A command from the wire is tried for so long, and again after so long, in ms.
const ASK_MS: u32 = 20_000;
const AGAIN_MS: u32 = 20;

fn clock() -> Clock<CounterClock<fn() -> u32>> {
    Clock(CounterClock::new(timer::now_us as fn() -> u32, 32, 16_000_000, 16).unwrap())
}

#[embassy_executor::main]
async fn main(_spawner: Spawner) -> ! {
    let chip = Peripherals::take().unwrap();
    timer::start(chip.TIMER0);
    power::watch(chip.POWER);
    let mut pins = Pins::new(chip.GPIO);
    let desk: &'static Desk = &DESK;
    let app: &Shared<'_, App<'_>> =
        SHARED.init(Shared::new(APP.init(App::new(MAP.take()).unwrap())));
    let (flash, mut page_flash) = (Nvmc::new(&chip.NVMC), Nvmc::again());
    let parts = Parts {
        node: NODE.take(),
        app,
        link: Console::new(Serial::new(Uart::new(chip.UART0), LINE.take())),
        flash: Partition::new_async(flash, LOG, 0..quorate_embedded::program_end!(0), &GEOMETRY)
            .unwrap(),
        clock: clock(),
        frame: FRAME.take(),
        buffer: BUFFER.take(),
        power: Some(&power::SUPPLY),
    };
    let mut runner = Runner::new(parts, desk);
    let page = match Page::read(&mut page_flash, PAGE, GEOMETRY.erased) {
        Ok(page) => page,
        Err(error) => panel::halt("no identity", error),
    };
    let config = page.config(FLASH, panel::random(&chip.RNG).into());
    let nonce = panel::random(&chip.RNG);
    let mark = || Page::mark(&mut page_flash, PAGE, GEOMETRY.erased).is_ok();
    match runner.boot(&config, &page, nonce, mark).await {
        Ok(booted) => pins.booted(&page, booted),
        Err(error) => panel::halt("can't start", error),
    }
    runner.node().remember(power::reset_reason());
    let never =
        join3(runner.run(Pins::told), asked(desk.handle()), look(desk.handle(), app, &mut pins));
    match never.await.1 {}
}

/// What comes by the wire is proposed, whichever board leads.
async fn asked(handle: Handle<'_>) -> Infallible {
    let mut clock = clock();
    loop {
        let command = COMMAND.wait().await;
        WATCH.taken.count();
        loop {
            match handle.forward(&command, ASK_MS).await {
                Ok((_, Outcome::Applied { .. })) => break WATCH.done.count(),
                Err(ForwardError::Busy) => {
                    let until = clock.now().after(AGAIN_MS);
                    clock.wait_until(until).await;
                }
                _ => break WATCH.unknown.count(),
            }
        }
    }
}

/// Lets others see how far the board is, and shows the lamp.
async fn look(handle: Handle<'_>, app: &Shared<'_, App<'_>>, pins: &mut Pins) -> Infallible {
    let mut clock = clock();
    loop {
        power::look();
        let status = handle.status().await;
        WATCH.leads.set(u32::from(status.role == Role::Leader));
        WATCH.term.set(status.term.0 as u32);
        WATCH.applied.set(status.applied.0 as u32);
        app.with(|app| {
            WATCH.revision.set(app.map().revision() as u32);
            if let Some(settings) = app.poll_change() {
                pins.show(&settings);
            }
        });
        let until = clock.now().after(AGAIN_MS);
        clock.wait_until(until).await;
    }
}
