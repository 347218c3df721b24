//! One radio channel: who speaks is deaf, and two at once are heard by nobody.

use super::World;
use quorate_embedded::link::{AsyncRadio, Dest};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// What a radio keeps until it is asked.
const QUEUE_PACKETS: usize = 4;
/// Slots of a back-off.
const SLOTS: u64 = 8;

#[derive(Default)]
struct Receiver {
    queue: VecDeque<Vec<u8>>,
    waker: Option<Waker>,
    cut_off: bool,
}

struct OnAir {
    from: usize,
    start_us: u64,
    end_us: u64,
    collided: bool,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) sent: Cell<u64>,
    pub(crate) broadcasts: Cell<u64>,
    pub(crate) delivered: Cell<u64>,
    pub(crate) lost: Cell<u64>,
    pub(crate) collided: Cell<u64>,
    /// Came while the receiver spoke itself.
    pub(crate) unheard: Cell<u64>,
    /// Came while the CPU stood still.
    pub(crate) stalled: Cell<u64>,
    /// Were taken from a radio while that board's flash erased.
    pub(crate) heard_in_erase: Cell<u64>,
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

pub(crate) struct Medium {
    pub(crate) world: Rc<World>,
    pub(crate) packet_bytes: usize,
    pub(crate) byte_us: u64,
    pub(crate) overhead_us: u64,
    pub(crate) loss_permille: Cell<u64>,
    pub(crate) counters: Counters,
    receivers: RefCell<Vec<Receiver>>,
    air: RefCell<Vec<OnAir>>,
}

impl Medium {
    pub(crate) fn new(
        world: &Rc<World>,
        boards: usize,
        packet_bytes: usize,
        byte_us: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            world: world.clone(),
            packet_bytes,
            byte_us,
            overhead_us: 200,
            loss_permille: Cell::new(0),
            counters: Counters::default(),
            receivers: RefCell::new((0..boards).map(|_| Receiver::default()).collect()),
            air: RefCell::default(),
        })
    }

    pub(crate) fn cut_off(&self, board: usize, cut_off: bool) {
        self.receivers.borrow_mut()[board].cut_off = cut_off;
    }

    /// The board's power goes.
    pub(crate) fn forget(&self, board: usize) {
        self.receivers.borrow_mut()[board].queue.clear();
    }

    fn busy_until_us(&self) -> u64 {
        let mut air = self.air.borrow_mut();
        let now = self.world.now_us();
        air.retain(|one| one.end_us + 1_000_000 > now);
        air.iter().map(|one| one.end_us).max().unwrap_or(0)
    }

    fn begin(self: &Rc<Self>, from: usize, dest: Dest, packet: &[u8]) -> u64 {
        let start_us = self.world.now_us();
        let end_us = start_us + self.overhead_us + packet.len() as u64 * self.byte_us;
        let mut air = self.air.borrow_mut();
        let mut collided = false;
        for other in air.iter_mut().filter(|other| other.end_us > start_us) {
            (other.collided, collided) = (true, true);
        }
        air.push(OnAir { from, start_us, end_us, collided });
        count(&self.counters.sent);
        if dest == Dest::All {
            count(&self.counters.broadcasts);
        }
        let (medium, packet) = (self.clone(), packet.to_vec());
        self.world.at(end_us, move || medium.end(from, dest, start_us, end_us, &packet));
        end_us
    }

    fn end(&self, from: usize, dest: Dest, start_us: u64, end_us: u64, packet: &[u8]) {
        let air = self.air.borrow();
        let own = air.iter().find(|one| one.from == from && one.start_us == start_us).unwrap();
        if own.collided {
            return count(&self.counters.collided);
        }
        let mut receivers = self.receivers.borrow_mut();
        let cut_off = receivers[from].cut_off;
        for (to, receiver) in receivers.iter_mut().enumerate() {
            let for_it = match dest {
                Dest::All => to != from,
                Dest::One(id) => usize::from(id.get()) - 1 == to,
            };
            if !for_it || cut_off || receiver.cut_off {
                continue;
            }
            let overlaps = |one: &&OnAir| one.start_us < end_us && one.end_us > start_us;
            let speaks = air.iter().filter(overlaps).any(|one| one.from == to);
            if speaks {
                count(&self.counters.unheard);
            } else if self.world.stalled_until_us(to) > start_us {
                count(&self.counters.stalled);
            } else if self.world.dice.below(1000) < self.loss_permille.get()
                || receiver.queue.len() == QUEUE_PACKETS
            {
                count(&self.counters.lost);
            } else {
                count(&self.counters.delivered);
                receiver.queue.push_back(packet.to_vec());
                receiver.waker.take().into_iter().for_each(Waker::wake);
            }
        }
    }
}

/// A board's radio.
pub(crate) struct SimRadio {
    pub(crate) medium: Rc<Medium>,
    pub(crate) board: usize,
}

impl AsyncRadio for SimRadio {
    fn packet_bytes(&self) -> usize {
        self.medium.packet_bytes
    }

    async fn transmit(&mut self, to: Dest, packet: &[u8]) {
        assert!(!packet.is_empty() && packet.len() <= self.medium.packet_bytes);
        let world = &self.medium.world;
        loop {
            world.sleep_until(self.medium.busy_until_us()).await;
            world.sleep(world.dice.below(SLOTS) * self.medium.byte_us * 4).await;
            if self.medium.busy_until_us() <= world.now_us() {
                break;
            }
        }
        let end_us = self.medium.begin(self.board, to, packet);
        world.sleep_until(end_us).await;
    }

    async fn receive(&mut self, packet: &mut [u8]) -> usize {
        let next = std::future::poll_fn(|context| {
            let mut receivers = self.medium.receivers.borrow_mut();
            let receiver = &mut receivers[self.board];
            match receiver.queue.pop_front() {
                Some(next) => Poll::Ready(next),
                None => {
                    receiver.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        if self.medium.world.is_erasing(self.board) {
            count(&self.medium.counters.heard_in_erase);
        }
        packet[..next.len()].copy_from_slice(&next);
        next.len()
    }
}
