//! What this board has to show and to press: a light on GPIO 7, and the button BOOT that most boards have on GPIO 9.

use defmt::info;
use esp_hal::gpio::{Input, InputConfig, Level, Output, OutputConfig, Pull};
use esp_hal::peripherals::{GPIO7, GPIO9};
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
    pub fn new(lamp: GPIO7<'static>, contact: GPIO9<'static>) -> Self {
        let lamp = Output::new(lamp, Level::Low, OutputConfig::default());
        let contact = Input::new(contact, InputConfig::default().with_pull(Pull::Up));
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
