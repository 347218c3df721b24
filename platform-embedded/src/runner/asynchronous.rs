//! The async runner.

use core::future::poll_fn;
use core::pin::pin;
use core::task::Poll;

use super::{BootError, Booted, Desk, POWER_AGAIN_MS, Parts, Sending, Starting};
use crate::clock::AsyncClock;
use crate::identity::Page;
use crate::link::AsyncLink;
use crate::power::PowerFail;
use embassy_futures::select::{Either, Either3, Either4, select, select3, select4};
use embassy_futures::yield_now;
use embedded_storage_async::nor_flash::NorFlash;
use quorate::Instant;
use quorate::config::Config;
use quorate::event::Event;
use quorate::flash::{FlashDone, FlashOp};
use quorate::node::{Boot, Node, Output};
use quorate::typed::{StateMachine, serve};

/// A board that runs as a task, and is asked by the [`Handle`](super::Handle)s of its [`Desk`].
///
/// While flash works it keeps receiving, sending and answering, if the driver lets it: on parts whose flash is off the core, or where
/// the driver waits for an interrupt. Where the CPU stalls the driver does not return meanwhile, and the timeouts allow for that
/// (`stalls` in [`quorate::config::Flash`]).
pub struct Runner<'a, A, L, F, C> {
    parts: Parts<'a, A, L, F, C>,
    desk: &'a Desk,
    /// What flash is at, so that it can be taken up again when the future that was at it has been dropped.
    op: Option<FlashOp>,
}

/// What can't be done at once.
enum Next {
    Flash(FlashOp),
    Send(Sending),
    /// It may be past; other tasks are to run all the same.
    Wait(Instant),
}

impl<'a, A, L, F, C> Runner<'a, A, L, F, C>
where
    A: StateMachine,
    L: AsyncLink,
    F: NorFlash,
    C: AsyncClock,
{
    /// A board that is off.
    pub const fn new(parts: Parts<'a, A, L, F, C>, desk: &'a Desk) -> Self {
        Self { parts, desk, op: None }
    }

    /// Starts the node. What comes of it is seen when the runner runs.
    ///
    /// # Errors
    /// The configuration can't work, with what would.
    pub fn start(&mut self, config: &Config, boot: Boot<'_>) -> Result<(), BootError> {
        self.parts.start(config, boot)
    }

    /// Starts the node as its identity page says, as [`SuperLoop::boot`](super::SuperLoop::boot) does. If the future is dropped, the
    /// board is not to run.
    ///
    /// # Errors
    /// The board is not to go on, and why.
    pub async fn boot(
        &mut self,
        config: &Config,
        page: &Page,
        nonce: u32,
        mark: impl FnOnce() -> bool,
    ) -> Result<Booted, BootError> {
        self.start(config, Boot::Mount)?;
        let mut booted = Booted::Mounted;
        loop {
            let (now, mut seen) = (self.parts.clock.now(), None);
            let next = self.next(now, &mut |event: &Event| match event {
                Event::Started { .. } | Event::Stopped(_) => seen = Some(*event),
                _ => {}
            });
            match seen.map_or(Ok(Starting::Goes), |event| Starting::by(&event, booted))? {
                Starting::WithoutLog => {
                    page.boot_without_log(nonce, |boot| self.start(config, boot))?;
                    booted = Booted::Founded;
                    if !page.founds() {
                        return Ok(Booted::Joins);
                    }
                    continue;
                }
                Starting::Done => {
                    // It restores its state next, when it runs; before, it has nothing to say.
                    if let Next::Flash(op) = next {
                        self.op = Some(op);
                    }
                    self.parts.started(page, mark)?;
                    return Ok(booted);
                }
                Starting::Goes => {}
            }
            match next {
                Next::Flash(op) => {
                    // Nothing happens beside it: the node does not run yet.
                    let done = self.work(op, &mut |_: &Event| {}).await;
                    self.parts.node.handle_flash(self.parts.clock.now(), done);
                }
                Next::Send(_) => {}
                Next::Wait(_) => self.parts.clock.wait_until(now.after(POWER_AGAIN_MS)).await,
            }
        }
    }

    /// The node, while it does not run.
    pub const fn node(&mut self) -> &mut Node {
        self.parts.node
    }

    /// The application, while it does not run.
    pub const fn app(&mut self) -> &mut A {
        &mut self.parts.app
    }

    /// The link, while it does not run.
    pub const fn link(&mut self) -> &mut L {
        &mut self.parts.link
    }

    /// Runs the board, for ever; each event is told.
    ///
    /// If the future is dropped, the board stands still, and goes on where it was with the next call: a flash operation that was under
    /// way is brought to its end ([`Partition::resume_async`](crate::flash::Partition::resume_async)), requests wait, and a frame that
    /// was being sent is lost, as any frame may be. An erase begins anew: do not drop run after run sooner than the part can erase.
    pub async fn run(&mut self, mut tell: impl FnMut(&Event)) -> ! {
        self.resume(&mut tell).await;
        loop {
            let now = self.parts.clock.now();
            let until = match self.next(now, &mut tell) {
                Next::Flash(op) => {
                    self.op = Some(op);
                    let done = self.work(op, &mut tell).await;
                    self.op = None;
                    self.parts.node.handle_flash(self.parts.clock.now(), done);
                    continue;
                }
                Next::Send(Sending { to, len }) => {
                    let frame = self.parts.frame.get(..len).unwrap_or_default();
                    self.parts.link.send(to, frame).await;
                    continue;
                }
                Next::Wait(until) => self.parts.until(now, until).max(now.after(1)),
            };
            let Parts { node, link, clock, frame, .. } = &mut self.parts;
            // A link may always have another frame: whoever asks comes first, and nobody can ask again meanwhile.
            match select3(self.desk.asked(), link.receive(), clock.wait_until(until)).await {
                Either3::First(at) => self.desk.carry_out(at, node, clock.now(), frame),
                Either3::Second(received) => {
                    node.handle_frame(clock.now(), received);
                    // So that others have their turn.
                    yield_now().await;
                }
                Either3::Third(()) => {}
            }
        }
    }

    fn next(&mut self, now: Instant, tell: &mut impl FnMut(&Event)) -> Next {
        let Parts { node, app, frame, buffer, power, .. } = &mut self.parts;
        advance(node, app, now, frame, buffer, *power, self.desk, tell)
    }

    /// Brings to its end what was under way when the last run was dropped.
    async fn resume(&mut self, tell: &mut impl FnMut(&Event)) {
        if let Some(op) = self.op {
            let done = match op {
                FlashOp::Write { .. } => self.parts.flash.resume_async(op, self.parts.buffer).await,
                // All of it is done anew, as if it had not begun: an erase not while power fails.
                FlashOp::Read { .. } | FlashOp::Erase { .. } => self.work(op, tell).await,
            };
            self.op = None;
            self.parts.node.handle_flash(self.parts.clock.now(), done);
        }
    }

    /// Carries out a flash operation, and everything that does not depend on it meanwhile.
    async fn work(&mut self, op: FlashOp, tell: &mut impl FnMut(&Event)) -> FlashDone {
        let Parts { node, app, link, flash, clock, frame, buffer, power } = &mut self.parts;
        let power = *power;
        let fails = || power.is_some_and(PowerFail::is_failing);
        let waits = || matches!(op, FlashOp::Erase { .. }) && fails();
        let mut work = pin!(async {
            // The warning may have come in this very moment.
            poll_fn(|_| if waits() { Poll::Pending } else { Poll::Ready(()) }).await;
            flash.perform_async(op, buffer).await
        });
        // Until it runs, nobody waits for it, and its first poll may ask for how large the buffer is.
        if !node.status().running {
            while waits() {
                let until = clock.now().after(POWER_AGAIN_MS);
                clock.wait_until(until).await;
            }
            return work.await;
        }
        loop {
            let now = clock.now();
            // The buffer is the operation's, and not looked at.
            match advance(node, app, now, frame, &mut [], power, self.desk, tell) {
                // There is one already.
                Next::Flash(_) => return work.await,
                Next::Send(Sending { to, len }) => {
                    let bytes = frame.get(..len).unwrap_or_default();
                    let mut send = pin!(link.send(to, bytes));
                    if let Either::First(done) = select(work.as_mut(), send.as_mut()).await {
                        // A run that is dropped here looks at what flash holds, and finds it done.
                        send.await;
                        return done;
                    }
                }
                Next::Wait(until) => {
                    let soon = if waits() { POWER_AGAIN_MS } else { clock.read_every_ms() };
                    let until = until.min(now.after(soon)).max(now.after(1));
                    let (asked, received) = (self.desk.asked(), link.receive());
                    match select4(work.as_mut(), asked, received, clock.wait_until(until)).await {
                        Either4::First(done) => return done,
                        Either4::Second(at) => {
                            self.desk.carry_out(at, node, clock.now(), frame);
                        }
                        Either4::Third(received) => {
                            node.handle_frame(clock.now(), received);
                            yield_now().await;
                        }
                        Either4::Fourth(()) => {}
                    }
                }
            }
        }
    }
}

/// Does all that can be done at once.
#[allow(clippy::too_many_arguments)] // Parts of a board, of which flash may have some.
fn advance<A: StateMachine>(
    node: &mut Node,
    app: &mut A,
    now: Instant,
    frame: &mut [u8],
    buffer: &mut [u8],
    power: Option<&PowerFail>,
    desk: &Desk,
    tell: &mut impl FnMut(&Event),
) -> Next {
    node.handle_timeout(now);
    loop {
        let fails = power.is_some_and(PowerFail::is_failing);
        node.hold_erases(fails);
        match node.poll_output(now, frame, buffer) {
            Output::Flash(op) => return Next::Flash(op),
            Output::Transmit { to, len } => return Next::Send(Sending { to, len }),
            // Nobody tells that power is good again.
            Output::Wait { until } if fails => {
                return Next::Wait(until.min(now.after(POWER_AGAIN_MS)));
            }
            Output::Wait { until } => return Next::Wait(until),
            Output::Event(event) => {
                if matches!(event, Event::Stopped(_)) {
                    desk.stopped();
                }
                tell(&event);
            }
            Output::ReadReady(id) => desk.read_ready(id),
            Output::Proposed { id, outcome } => desk.proposed(id, outcome),
            output @ (Output::Apply { .. }
            | Output::TakeSnapshot { .. }
            | Output::RestoreSnapshot { .. }) => {
                serve(node, app, &output, frame, buffer);
            }
        }
    }
}
