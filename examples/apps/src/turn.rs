//! The loop of a board without an async executor.

use embedded_storage::nor_flash::NorFlash;
use quorate::Instant;
use quorate::event::Event;
use quorate::node::Outcome;
use quorate_embedded::clock::Clock;
use quorate_embedded::link::Link;
use quorate_embedded::runner::{News, SuperLoop};

use crate::{App, Settings};

/// What a board has to show and to press. All of it may be left out.
pub trait Panel {
    /// Switches the lamp, and sets the sensors.
    fn show(&mut self, settings: &Settings) {
        let _ = settings;
    }

    /// Something happened inside the node.
    fn tell(&mut self, event: Event) {
        let _ = event;
    }

    /// What became of a command of this board.
    fn answer(&mut self, outcome: Outcome) {
        let _ = outcome;
    }

    /// Was the button pressed? Asked at each turn.
    fn is_pressed(&mut self, now: Instant) -> bool {
        let _ = now;
        false
    }
}

/// Does all that can be done now; the board may sleep until the time that is returned, or until its link or its button wakes it.
pub fn turn<L: Link, F: NorFlash, C: Clock>(
    board: &mut SuperLoop<'_, App<'_>, L, F, C>,
    panel: &mut impl Panel,
) -> Instant {
    let now = board.now();
    if panel.is_pressed(now) {
        let (node, app) = board.node_and_app();
        // Refused while another command is on its way: the button can be pressed again.
        let _ = app.press(node, now);
    }
    let until = loop {
        match board.poll() {
            News::Event(event) => panel.tell(event),
            News::Proposed { outcome, .. } => panel.answer(outcome),
            News::ReadReady(_) => {}
            News::Wait { until } => break until,
        }
    };
    if let Some(settings) = board.app().poll_change() {
        panel.show(&settings);
    }
    until
}
