//! What this board has to show and to press: a Pico's light, and a button from GPIO 15 to ground.

use defmt::info;
use embassy_rp::Peri;
use embassy_rp::gpio::{Input, Level, Output, Pull};
use embassy_rp::peripherals::{PIN_15, PIN_25};
use quorate::Instant;
use quorate::event::Event;
use quorate::node::Outcome;
use quorate_apps::{Button, Panel, Settings};

/// The pins.
pub struct Pins {
    lamp: Output<'static>,
    contact: Input<'static>,
    button: Button,
}

impl Pins {
    pub fn new(lamp: Peri<'static, PIN_25>, contact: Peri<'static, PIN_15>) -> Self {
        let (lamp, contact) = (Output::new(lamp, Level::Low), Input::new(contact, Pull::Up));
        Self { lamp, contact, button: Button::new() }
    }
}

impl Panel for Pins {
    fn show(&mut self, settings: &Settings) {
        self.lamp.set_level(settings.lamp.into());
    }

    fn tell(&mut self, event: Event) {
        info!("{}", event);
    }

    fn answer(&mut self, outcome: Outcome) {
        info!("pressed: {}", outcome);
    }

    fn is_pressed(&mut self, now: Instant) -> bool {
        self.button.is_pressed(self.contact.is_low(), now)
    }
}
