//! The driver of each board: what happens to it, and its loop over the node's outputs.

use quorate::NodeSet;
use quorate::event::{Event, Fault};
use quorate::flash::FlashOp;
use quorate::membership::Membership;
use quorate::node::Output;
use quorate::typed::serve;
use quorate::wire::{self, Message};

use super::durability::inspect;
use super::model::Content;
use super::nemesis::Nemesis;
use super::rules::Rule;
use super::trace::Hex;
use super::world::{What, World};

/// Outputs in a row that count as endless.
const OUTPUTS_MAX: u32 = 100_000;

impl World {
    pub(super) fn timer(&mut self, at: usize) {
        let now_us = self.now_us;
        let deaf = self.boards[at].is_deaf();
        let Some(live) = &mut self.boards[at].live else {
            return;
        };
        if live.timer_us != Some(now_us) {
            return;
        }
        live.timer_us = None;
        if live.wake_us > now_us {
            let wake_us = live.wake_us;
            self.set_timer(at, wake_us);
        } else if !deaf {
            self.time_out(at);
            self.pump(at);
        }
    }

    fn time_out(&mut self, at: usize) {
        let now_us = self.now_us;
        let now = self.boards[at].clock(now_us);
        let number = self.boards[at].number();
        let Some(live) = &mut self.boards[at].live else {
            return;
        };
        live.wake_us = u64::MAX;
        self.trace.quiet(format_args!("{now_us} {number} < timeout {}", now.as_millis()));
        live.node.handle_timeout(now);
        self.observe(at);
    }

    fn set_timer(&mut self, at: usize, wake_us: u64) {
        let life = self.boards[at].life;
        let Some(live) = &mut self.boards[at].live else {
            return;
        };
        live.wake_us = wake_us;
        if wake_us != u64::MAX && live.timer_us.is_none_or(|planned| planned > wake_us) {
            live.timer_us = Some(wake_us);
            self.plan(wake_us, What::Timer { board: at, life });
        }
    }

    pub(super) fn flash_end(&mut self, at: usize) {
        if let Some(live) = &self.boards[at].live
            && let Some((_, wakes_us)) = live.asleep_us
        {
            let life = self.boards[at].life;
            return self.plan(wakes_us, What::FlashEnd { board: at, life });
        }
        self.flash_done(at);
        // A timer that went off while the CPU stood still.
        let now_us = self.now_us;
        if self.boards[at].live.as_ref().is_some_and(|live| live.wake_us <= now_us) {
            self.time_out(at);
        }
        self.pump(at);
    }

    fn flash_done(&mut self, at: usize) {
        let now_us = self.now_us;
        let now = self.boards[at].clock(now_us);
        let board = &mut self.boards[at];
        let number = board.number();
        let Some(live) = &mut board.live else {
            return;
        };
        let Some((op, done)) = board.chip.finish(&mut live.flash) else {
            return;
        };
        let read = match op {
            FlashOp::Read { len, .. } => &live.flash[..len as usize],
            _ => &[],
        };
        let what = format_args!("{now_us} {number} < flash {done:?} {}", Hex(read));
        if read.is_empty() {
            self.trace.line(what)
        } else {
            self.trace.quiet(what)
        }
        live.node.handle_flash(now, done);
    }

    /// The board's loop: takes outputs until there is nothing more to do, or it has to wait for the air
    /// or for a part that stalls it.
    pub(super) fn pump(&mut self, at: usize) {
        for _ in 0..OUTPUTS_MAX {
            let now = self.boards[at].clock(self.now_us);
            let board = &mut self.boards[at];
            if board.is_deaf() || self.air.is_sending(at) {
                return;
            }
            let Some(live) = &mut board.live else {
                return;
            };
            let output = live.node.poll_output(now, &mut live.frame, &mut live.flash);
            self.polled(at, &output);
            if let Output::Wait { until } = output {
                let board = &self.boards[at];
                let (now_us, number) = (self.now_us, board.number());
                let wake_us = board.time_of(until, now_us);
                self.trace.quiet(format_args!("{now_us} {number} > wait {}", until.as_millis()));
                self.set_timer(at, wake_us);
                return;
            }
            self.carry_out(at, &output);
        }
        let number = self.boards[at].number();
        self.checks.verdict.red(Rule::P1, number, || "yields outputs without end".into());
        self.cut(at, u64::MAX);
    }

    /// Tells the specification's events of an output, and of what the board has become.
    fn polled(&mut self, at: usize, output: &Output) {
        let (ms, number) = (self.now_us / 1000, self.boards[at].number());
        let (Some(shown), Some(spec)) = (self.shown(at), &mut self.spec) else {
            return;
        };
        if spec.lacks_change(number, &shown) {
            let held = inspect(&self.boards[at].chip).unwrap_or_default();
            spec.find_changes(ms, number, &held.entries);
        }
        match *output {
            Output::Event(Event::Started { .. }) => spec.booted(ms, number, &shown),
            Output::Event(Event::SnapshotInstalled { id }) => {
                spec.installed(ms, number, id, &shown);
            }
            _ => {}
        }
        spec.observe(ms, number, &shown);
        if let (Output::Transmit { len, .. }, Some(live)) = (output, &self.boards[at].live) {
            let frame = live.frame.get(..*len).unwrap_or(&[]);
            spec.sent(ms, number, frame, &shown);
        }
    }

    fn carry_out(&mut self, at: usize, output: &Output) {
        let now_us = self.now_us;
        let board = &mut self.boards[at];
        let number = board.number();
        let Some(live) = &mut board.live else {
            return;
        };
        match *output {
            Output::Flash(op) => {
                let written = match op {
                    FlashOp::Write { len, .. } => live.flash.get(..len as usize).unwrap_or(&[]),
                    _ => &[],
                };
                let what = format_args!("{now_us} {number} > {op:?} {}", Hex(written));
                if matches!(op, FlashOp::Read { .. }) {
                    self.trace.quiet(what)
                } else {
                    self.trace.line(what)
                }
                self.begin_flash(at, op);
            }
            Output::Transmit { to, len } => {
                let Some(frame) = live.frame.get(..len) else {
                    let what = || format!("sends {len} bytes of a smaller buffer");
                    return self.checks.verdict.red(Rule::P1, number, what);
                };
                let frame = frame.to_vec();
                self.trace
                    .line(format_args!("{now_us} {number} > transmit {to:?} {}", Hex(&frame)));
                self.transmit(at, to, &frame);
            }
            Output::Apply { id, len } => {
                let Some(command) = live.frame.get(..len) else {
                    let what = || format!("applies {len} bytes of a smaller buffer");
                    return self.checks.verdict.red(Rule::P1, number, what);
                };
                let command = command.to_vec();
                self.trace.line(format_args!("{now_us} {number} > apply {id:?} {}", Hex(&command)));
                self.checks.applies(number, id, &command);
                serve(&mut live.node, &mut *live.app, output, &live.frame, &mut live.flash);
                self.checks.shows(number, Some(id.index), || Content::of(&live.app));
                let commits = self.checks.protocol.commits();
                if commits > self.counters.commits {
                    self.counters.commits = commits;
                    self.counters.commits_amid_faults += u64::from(self.amid_faults);
                }
                self.answer_clients(at, id);
            }
            Output::TakeSnapshot { offset, at: place, len_max } => {
                serve(&mut live.node, &mut *live.app, output, &live.frame, &mut live.flash);
                let put = live.flash.get(place..place.saturating_add(len_max)).unwrap_or(&[]);
                self.trace.line(format_args!("{now_us} {number} > take {offset} {}", Hex(put)));
            }
            Output::RestoreSnapshot { offset, at: place, len, last } => {
                let put = live.flash.get(place..place.saturating_add(len)).unwrap_or(&[]);
                let put = Hex(put);
                self.trace.line(format_args!("{now_us} {number} > restore {offset} {last} {put}"));
                serve(&mut live.node, &mut *live.app, output, &live.frame, &mut live.flash);
                if last {
                    self.checks.shows(number, None, || Content::of(&live.app));
                }
            }
            Output::Event(event) => {
                self.trace.line(format_args!("{now_us} {number} > {event:?}"));
                self.hear_of(at, event);
            }
            Output::ReadReady(id) => {
                self.trace.line(format_args!("{now_us} {number} > {output:?}"));
                self.read_ready(at, id);
            }
            Output::Proposed { id, outcome } => {
                self.trace.line(format_args!("{now_us} {number} > {output:?}"));
                self.forwarded(at, id, outcome);
            }
            Output::Wait { .. } => {}
        }
    }

    fn hear_of(&mut self, at: usize, event: Event) {
        let board = &mut self.boards[at];
        let number = board.number();
        match event {
            Event::Started { .. } => {
                board.founded = true;
                if let Some(live) = &mut board.live {
                    live.is_running = true;
                }
                let life = self.checks.started(number, &board.chip);
                board.generation = life.unwrap_or(board.generation);
            }
            Event::SnapshotInstalled { id } => {
                self.checks.members.restored(number, id.index);
                self.counters.snapshots_installed += 1;
            }
            Event::SnapshotTaken { .. } => self.counters.snapshots_taken += 1,
            Event::MembershipChanged { membership } => self.members_changed(at, Some(membership)),
            Event::ChangeVoid { .. } => self.members_changed(at, None),
            // A person sees to it.
            Event::Stopped(Fault::Replaced) if self.is_displaced(at) => {}
            Event::Stopped(fault) => {
                self.checks.verdict.red(Rule::F2, number, || format!("stops: {fault:?}"));
            }
            _ => {}
        }
    }

    fn members_changed(&mut self, at: usize, told: Option<Membership>) {
        let board = &self.boards[at];
        let Some(news) = self.checks.members_changed(board.number(), &board.chip, told) else {
            return;
        };
        self.counters.membership_changes += 1;
        self.counters.joint_changes += u64::from(news.joint);
        self.counters.members_removed += news.removed.len() as u64;
        self.counters.boards_admitted += news.admitted.len() as u64;
    }

    fn begin_flash(&mut self, at: usize, op: FlashOp) {
        let now_us = self.now_us;
        let board = &mut self.boards[at];
        let (number, life) = (board.number(), board.life);
        let Some(live) = &mut board.live else {
            return;
        };
        let ends_us = match board.chip.begin(op, &live.flash, now_us, &mut self.dice.flash) {
            Ok(ends_us) => ends_us,
            Err(misuse) => {
                self.checks.misused(number, &misuse);
                return self.cut(at, u64::MAX);
            }
        };
        live.operations += 1;
        if ends_us == now_us {
            return self.flash_done(at);
        }
        let modifies = !matches!(op, FlashOp::Read { .. });
        self.plan(ends_us, What::FlashEnd { board: at, life });
        if !modifies {
            return;
        }
        let cut_us = self.dice.flash.within(now_us, ends_us);
        if let Some(off_us) = self.blackout_armed.take() {
            self.plan(cut_us, What::Blackout { off_us });
        } else if std::mem::take(&mut self.boards[at].armed) {
            let off_us = self.dice.flash.below(2 * self.profile.election_us());
            self.plan(cut_us, What::Cut { board: at, life, off_us });
        }
    }

    fn transmit(&mut self, at: usize, to: NodeSet, bytes: &[u8]) {
        let board = &mut self.boards[at];
        let number = board.number();
        board.frames_sent += 1;
        match wire::decode(bytes) {
            Ok(frame) if frame.envelope.from == board.id && frame.envelope.to == to => {
                let led = self.checks.protocol.leader();
                self.checks.sent(number, &frame, &board.chip);
                let leads_now = self.checks.protocol.leader() != led;
                if matches!(
                    frame.envelope.message,
                    Message::Append { .. } | Message::Heartbeat { .. }
                ) {
                    self.led_us[at] = Some(self.now_us);
                }
                if leads_now {
                    Nemesis::lie_in_wait(self, at);
                }
            }
            other => {
                let what = || format!("sends what is not its own frame: {other:?}");
                self.checks.verdict.red(Rule::P1, number, what);
            }
        }
        self.send(at, to, bytes);
    }
}
