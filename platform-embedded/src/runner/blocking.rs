//! The runner for super-loops and RTIC.

use super::{BootError, Booted, POWER_AGAIN_MS, Parts, Sending, Starting};
use crate::clock::Clock;
use crate::identity::Page;
use crate::link::Link;
use crate::power::PowerFail;
use core::task::Poll;
use embedded_storage::nor_flash::NorFlash;
use quorate::Instant;
use quorate::config::Config;
use quorate::event::Event;
use quorate::flash::FlashOp;
use quorate::node::{Boot, Node, Outcome, Output, ProposalId, ReadId};
use quorate::typed::{StateMachine, serve};

/// So many frames are taken in before the caller has its turn.
const FRAMES_IN_A_TURN: u8 = 16;

/// What came of a [`SuperLoop::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum News {
    /// Something happened.
    Event(Event),
    /// The application's state, as it is now, serves this read.
    ReadReady(ReadId),
    /// What became of a command that was forwarded.
    Proposed {
        /// Which one.
        id: ProposalId,
        /// It took effect, or may.
        outcome: Outcome,
    },
    /// All is done that can be done now. Call again then, or when the link has something, or after anything was asked of the
    /// node, whichever comes first; calls that are early do no harm.
    Wait {
        /// When.
        until: Instant,
    },
}

/// A board in a loop of its own, or in tasks of RTIC: call [`SuperLoop::poll`] again and again.
///
/// Nothing blocks but the flash driver. Between polls, [`SuperLoop::node`] takes proposals, and [`SuperLoop::app`] can be read.
pub struct SuperLoop<'a, A, L, F, C> {
    parts: Parts<'a, A, L, F, C>,
    sending: Option<Sending>,
    /// An erase that waits for power to recover.
    held: Option<FlashOp>,
}

impl<'a, A, L, F, C> SuperLoop<'a, A, L, F, C>
where
    A: StateMachine,
    L: Link,
    F: NorFlash,
    C: Clock,
{
    /// A board that is off.
    pub const fn new(parts: Parts<'a, A, L, F, C>) -> Self {
        Self { parts, sending: None, held: None }
    }

    /// Starts the node. The first poll then mounts the log: it reads all of it.
    ///
    /// # Errors
    /// The configuration can't work, with what would.
    pub fn start(&mut self, config: &Config, boot: Boot<'_>) -> Result<(), BootError> {
        self.parts.start(config, boot)
    }

    /// Starts the node as its identity page says, and stays until that is known: from the log in flash; without one, by founding
    /// or by asking for its place. `nonce` is drawn by hardware at random, anew at each start. Where the page is to be marked,
    /// `mark` does that ([`Page::mark`]), before anything is said, and tells whether it is done.
    ///
    /// # Errors
    /// The board is not to go on, and why.
    pub fn boot(
        &mut self,
        config: &Config,
        page: &Page,
        nonce: u32,
        mark: impl FnOnce() -> bool,
    ) -> Result<Booted, BootError> {
        self.start(config, Boot::Mount)?;
        let mut booted = Booted::Mounted;
        loop {
            let News::Event(event) = self.poll() else {
                continue;
            };
            match Starting::by(&event, booted)? {
                Starting::Done => break,
                Starting::WithoutLog => {
                    page.boot_without_log(nonce, |boot| self.start(config, boot))?;
                    booted = Booted::Founded;
                    if !page.founds() {
                        return Ok(Booted::Joins);
                    }
                }
                Starting::Goes => {}
            }
        }
        self.parts.started(page, mark)?;
        Ok(booted)
    }

    /// The node.
    pub const fn node(&mut self) -> &mut Node {
        self.parts.node
    }

    /// The application.
    pub const fn app(&mut self) -> &mut A {
        &mut self.parts.app
    }

    /// Both, for an application that proposes.
    pub const fn node_and_app(&mut self) -> (&mut Node, &mut A) {
        (self.parts.node, &mut self.parts.app)
    }

    /// The link.
    pub const fn link(&mut self) -> &mut L {
        &mut self.parts.link
    }

    /// The time.
    pub fn now(&mut self) -> Instant {
        self.parts.clock.now()
    }

    /// Does all that can be done now, up to the next piece of news; [`News::Wait`] is the last one. It waits for no longer than now
    /// where a link goes on bringing frames: the caller has its turn between some of them.
    pub fn poll(&mut self) -> News {
        let now = self.parts.clock.now();
        self.parts.node.handle_timeout(now);
        let mut frames_left = FRAMES_IN_A_TURN;
        loop {
            let now = self.parts.clock.now();
            let Parts { node, app, link, flash, clock, frame, buffer, power } = &mut self.parts;
            let power_fails = || power.is_some_and(PowerFail::is_failing);
            let received = match link.receive(now) {
                Some(frame) => {
                    node.handle_frame(now, frame);
                    frames_left = frames_left.wrapping_sub(1);
                    true
                }
                None => false,
            };
            if frames_left == 0 {
                return News::Wait { until: now };
            }
            // Until it is sent, the frame's buffer is lent to the link.
            if let Some(Sending { to, len }) = self.sending {
                if link.send(now, to, frame.get(..len).unwrap_or_default()).is_pending() {
                    if received {
                        continue;
                    }
                    return News::Wait { until: now };
                }
                self.sending = None;
            }
            let fails = power_fails();
            node.hold_erases(fails);
            if let Some(op) = self.held.filter(|_| !power_fails()) {
                self.held = None;
                let done = flash.perform(op, buffer);
                node.handle_flash(clock.now(), done);
            }
            // While an operation is out, its buffer is left alone.
            match node.poll_output(now, frame, buffer) {
                // The warning may have come in this very moment.
                Output::Flash(op @ FlashOp::Erase { .. }) if power_fails() => {
                    self.held = Some(op);
                }
                Output::Flash(op) => {
                    let done = flash.perform(op, buffer);
                    node.handle_flash(clock.now(), done);
                }
                Output::Transmit { to, len } => {
                    if link.send(now, to, frame.get(..len).unwrap_or_default()) == Poll::Pending {
                        self.sending = Some(Sending { to, len });
                    }
                }
                Output::Event(event) => return News::Event(event),
                Output::ReadReady(id) => return News::ReadReady(id),
                Output::Proposed { id, outcome } => return News::Proposed { id, outcome },
                Output::Wait { .. } if received => {}
                Output::Wait { until } => {
                    let until = self.parts.until(now, until);
                    return News::Wait { until: self.wake_at(now, until, fails) };
                }
                output @ (Output::Apply { .. }
                | Output::TakeSnapshot { .. }
                | Output::RestoreSnapshot { .. }) => {
                    serve(node, app, &output, frame, buffer);
                }
            }
        }
    }

    fn wake_at(&self, now: Instant, until: Instant, fails: bool) -> Instant {
        if self.parts.link.is_busy() {
            now
        } else if fails || self.held.is_some() {
            until.min(now.after(POWER_AGAIN_MS))
        } else {
            until
        }
    }
}
