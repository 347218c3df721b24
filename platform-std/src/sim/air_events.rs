//! Frames from one board's driver to the others': waiting for the air, on it, and arriving.

use std::rc::Rc;

use super::radio::{Attempt, Place};
use super::world::{What, World};

/// Frames that a stranger remembers.
const HEARD_MAX: usize = 64;

/// A frame that is about to arrive.
#[derive(Clone, Debug)]
pub(super) struct Arriving {
    to: Place,
    from: Place,
    /// Which frame on the air it was.
    number: u64,
    frame: Rc<[u8]>,
    corrupted: bool,
    again: bool,
}

/// What was on the air.
#[derive(Debug)]
pub(super) struct AirLog {
    /// Frames so far.
    number: u64,
    /// The newest frame that arrived: by sender, by receiver.
    newest: Vec<Vec<u64>>,
    /// Of boards, with the time.
    pub(super) heard: Vec<(u64, Rc<[u8]>)>,
    oldest: usize,
    /// A partition was made, and has kept no frame from anybody yet.
    pub(super) partitioned: bool,
    /// The same of a cut direction.
    pub(super) one_way: bool,
    /// The same of links between single pairs.
    pub(super) partial: bool,
}

impl AirLog {
    pub(super) fn new(places: usize) -> Self {
        Self {
            number: 0,
            newest: vec![vec![0; places]; places],
            heard: Vec::new(),
            oldest: 0,
            partitioned: false,
            one_way: false,
            partial: false,
        }
    }

    fn hear(&mut self, now_us: u64, frame: &Rc<[u8]>) {
        let heard = (now_us, frame.clone());
        if self.heard.len() < HEARD_MAX {
            self.heard.push(heard);
        } else {
            self.heard[self.oldest] = heard;
            self.oldest = (self.oldest + 1) % HEARD_MAX;
        }
    }
}

impl World {
    /// Which life of a place an event was planned for; the stranger has one.
    pub(super) fn life(&self, place: Place) -> u32 {
        self.boards.get(place).map_or(0, |board| board.life)
    }

    /// Hands a frame to the radio of `place`.
    pub(super) fn send(&mut self, place: Place, to: quorate::NodeSet, frame: &[u8]) {
        let at_us = self.air.offer(place, frame, to, self.now_us, &mut self.dice.air);
        let life = self.life(place);
        self.plan(at_us, What::Attempt { place, life });
    }

    pub(super) fn attempt(&mut self, place: Place, life: u32) {
        if self.life(place) != life {
            return;
        }
        match self.air.attempt(place, self.now_us, &mut self.dice.air) {
            Attempt::Started { ends_us } => self.plan(ends_us, What::AirEnd { place, life }),
            Attempt::Busy { retry_us } => self.plan(retry_us, What::Attempt { place, life }),
            Attempt::Nothing => {}
        }
    }

    pub(super) fn air_end(&mut self, place: Place, life: u32) {
        if self.life(place) != life {
            return;
        }
        let Some((sent, next)) = self.air.end(place, self.now_us, &mut self.dice.air) else {
            return;
        };
        if let Some(at_us) = next {
            self.plan(at_us, What::Attempt { place, life });
        }
        self.air_log.number += 1;
        let number = self.air_log.number;
        if place < self.boards.len() {
            self.air_log.hear(self.now_us, &sent.frame);
        }
        let everybody = self.profile.link.broadcast && self.profile.promiscuous;
        let to = if everybody { self.others(place) } else { sent.to };
        if sent.collided {
            self.counters.frames_collided += to.len() as u64;
        } else {
            let places = to.iter().map(|id| Place::from(id.get()) - 1);
            let places = places.filter(|to| *to < self.boards.len() && *to != place);
            let places: Vec<_> = places.collect();
            let (arrivals, missed) =
                self.air.propagate(place, &sent.frame, places.into_iter(), &mut self.dice.air);
            self.counters.frames_lost += missed.lost;
            if missed.partitioned > 0 && std::mem::take(&mut self.air_log.partitioned) {
                self.counters.partitions += 1;
            }
            if missed.one_way > 0 && std::mem::take(&mut self.air_log.one_way) {
                self.counters.one_way_partitions += 1;
            }
            if missed.partial > 0 && std::mem::take(&mut self.air_log.partial) {
                self.counters.partial_partitions += 1;
            }
            for arrival in arrivals {
                let arriving = Arriving {
                    to: arrival.to,
                    from: place,
                    number,
                    frame: arrival.frame,
                    corrupted: arrival.corrupted,
                    again: arrival.again,
                };
                self.plan(self.now_us + arrival.delay_us, What::Arrive(arriving));
            }
        }
        if place < self.boards.len() {
            self.pump(place);
        }
    }

    pub(super) fn arrive(&mut self, arriving: &Arriving) {
        let Arriving { to, from, number, .. } = *arriving;
        let now_us = self.now_us;
        let (now, stranger) = (self.boards[to].clock(now_us), self.boards.len());
        let before = self.shown(to);
        let board = &mut self.boards[to];
        let hears = !board.is_deaf() && !self.air.is_speaking(to);
        let (name, Some(live)) = (board.number(), board.live.as_mut().filter(|_| hears)) else {
            self.counters.frames_unheard += 1;
            return;
        };
        let counters = &mut self.counters;
        counters.frames_corrupted += u64::from(arriving.corrupted);
        counters.frames_duplicated += u64::from(arriving.again);
        counters.frames_babbled += u64::from(from == stranger);
        let newest = &mut self.air_log.newest[from][to];
        counters.frames_reordered += u64::from(number < *newest);
        *newest = number.max(*newest);
        let hex = super::trace::Hex(&arriving.frame);
        self.trace.line(format_args!("{now_us} {name} < frame {hex}"));
        live.node.handle_frame(now, &arriving.frame);
        let after = self.shown(to);
        if let (Some(spec), Some(before), Some(after)) = (&mut self.spec, before, after) {
            spec.arrived(now_us / 1000, name, &arriving.frame, &before, &after);
        }
        self.pump(to);
    }
}
