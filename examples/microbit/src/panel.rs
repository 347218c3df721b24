//! What this board has to show and to press: a row of its lights, button A, the log, and the words of [`crate::watch`].

use nrf51_pac::{GPIO, RNG};
use quorate::Instant;
use quorate::event::Event;
use quorate::node::{ForwardError, Node, Outcome};
use quorate::raft::Role;
use quorate_apps::{App, Button, Panel, Settings};
use quorate_embedded::identity::Page;
use quorate_embedded::link::Link;
use quorate_embedded::runner::{Booted, SuperLoop};

use crate::console::Console;
use crate::watch::WATCH;

/// The anode of the first row of lights, and the cathodes of all columns.
const ROW: u32 = 1 << 13;
const COLUMNS: u32 = 0x1ff << 4;
/// Button A, which pulls down.
const BUTTON: u32 = 1 << 17;
/// A command from the wire is tried for so long, in ms.
const ASK_MS: u32 = 20_000;

/// A line of the log; nothing without the feature.
macro_rules! log {
    ($($what:tt)*) => {{
        #[cfg(feature = "log")]
        defmt::info!($($what)*);
    }};
}

/// The pins.
pub struct Pins {
    gpio: GPIO,
    button: Button,
}

impl Pins {
    pub fn new(gpio: GPIO) -> Self {
        // SAFETY: outputs of the lights, low; button A is an input as it is.
        unsafe {
            gpio.dirset.write(|w| w.bits(ROW | COLUMNS));
            gpio.outclr.write(|w| w.bits(ROW | COLUMNS));
            gpio.pin_cnf[17].write(|w| w.bits(0));
        }
        Self { gpio, button: Button::new() }
    }

    /// The board runs.
    pub fn booted(&mut self, page: &Page, booted: Booted) {
        WATCH.state.set(1);
        log!("board {} of cluster {}: {}", page.node.get(), page.cluster.0, booted);
        let _ = (page, booted);
    }

    /// An event of the node's.
    pub fn told(event: &Event) {
        if let Event::Stopped(_) = event {
            WATCH.state.set(2);
        }
        // Frames that noise has hit are nothing to tell.
        if !matches!(event, Event::FrameRefused { .. }) {
            log!("{}", event);
        }
    }

    /// Lets others see how far the board is.
    pub fn look(&mut self, (node, app): (&mut Node, &mut App<'_>)) {
        let raft = node.raft();
        WATCH.leads.set(u32::from(raft.role() == Role::Leader));
        WATCH.term.set(raft.term().0 as u32);
        WATCH.applied.set(raft.applied().0 as u32);
        WATCH.revision.set(app.map().revision() as u32);
    }

    /// Has a command that came by the wire proposed, whichever board leads.
    #[inline(never)]
    pub fn ask<
        L: Link,
        F: embedded_storage::nor_flash::NorFlash,
        C: quorate_embedded::clock::Clock,
    >(
        &mut self,
        board: &mut SuperLoop<'_, App<'_>, Console<L>, F, C>,
        now: Instant,
    ) {
        let Some(command) = board.link().command() else {
            return;
        };
        // While another is on its way, this one is tried again.
        if board.node().forward(&command, now.after(ASK_MS)) != Err(ForwardError::Busy) {
            board.link().clear();
            WATCH.taken.count();
        }
    }
}

impl Panel for Pins {
    fn show(&mut self, settings: &Settings) {
        log!(
            "lamp {}, {} %, reports every {} s",
            settings.lamp,
            settings.level_percent,
            settings.report_every_s
        );
        // SAFETY: outputs of the lights.
        unsafe {
            if settings.lamp {
                self.gpio.outset.write(|w| w.bits(ROW));
            } else {
                self.gpio.outclr.write(|w| w.bits(ROW));
            }
        }
    }

    fn tell(&mut self, event: Event) {
        Self::told(&event);
    }

    fn answer(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Applied { .. } => WATCH.done.count(),
            Outcome::Unknown => WATCH.unknown.count(),
        }
    }

    fn is_pressed(&mut self, now: Instant) -> bool {
        let down = self.gpio.in_.read().bits() & BUTTON == 0;
        // QEMU's pins read low: nobody is there to press.
        self.button.is_pressed(down && !cfg!(feature = "emulated-flash"), now)
    }
}

/// A random number of the chip's own.
pub fn random(rng: &RNG) -> u32 {
    rng.tasks_start.write(|w| unsafe { w.bits(1) });
    let byte = || {
        rng.events_valrdy.reset();
        while rng.events_valrdy.read().bits() == 0 {}
        rng.value.read().bits() as u8
    };
    u32::from_le_bytes([byte(), byte(), byte(), byte()])
}

/// The board can't be what it should: it says why, and is silent.
#[cfg(feature = "log")]
pub fn halt(what: &str, error: impl defmt::Format) -> ! {
    defmt::error!("{}: {}", what, error);
    stop(2)
}

/// As above, without a log.
#[cfg(not(feature = "log"))]
pub fn halt<E>(_: &str, _: E) -> ! {
    stop(2)
}

fn stop(state: u32) -> ! {
    WATCH.state.set(state);
    loop {
        cortex_m::asm::wfi();
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    cortex_m::interrupt::disable();
    #[cfg(feature = "log")]
    defmt::error!("{}", defmt::Display2Format(_info));
    stop(3)
}

#[cfg(feature = "log")]
mod logging {
    use defmt_semihosting as _;

    defmt::timestamp!("{=u32:ms}", crate::timer::now_us() / 1000);
}
