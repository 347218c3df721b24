//! A button whose contact bounces.

use quorate::Instant;

/// A contact has to stay as it is for so long, in ms, to be believed.
const BOUNCE_MS: u32 = 30;

/// Tells presses from bouncing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Button {
    down: bool,
    seen: bool,
    /// When the contact last changed.
    since: Instant,
}

impl Button {
    /// A button that is not pressed.
    pub const fn new() -> Self {
        Self { down: false, seen: false, since: Instant::ZERO }
    }

    /// Looks at the contact, often; `true` once for each press.
    pub fn is_pressed(&mut self, down: bool, now: Instant) -> bool {
        if down != self.seen {
            (self.seen, self.since) = (down, now);
        }
        let stays = now.since(self.since) >= u64::from(BOUNCE_MS);
        let pressed = stays && self.seen && !self.down;
        if stays {
            self.down = self.seen;
        }
        pressed
    }
}
