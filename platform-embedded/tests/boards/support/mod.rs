//! Boards in one thread and virtual time: an executor that polls only what was woken, a half-duplex radio that all share, and
//! flash that takes as long as a real part.

pub(crate) mod board;
pub(crate) mod flash;
pub(crate) mod radio;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use quorate::Instant;
use quorate_embedded::clock::{AsyncClock, Clock};

/// Numbers that look drawn (SplitMix64).
pub(crate) struct Dice(Cell<u64>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub(crate) fn draw(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&self, n: u64) -> u64 {
        self.draw() % n
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task {
    board: usize,
    woken: Arc<Flag>,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

type Event = Box<dyn FnOnce()>;

/// Time, and what happens in it.
pub(crate) struct World {
    now_us: Cell<u64>,
    timers: RefCell<Vec<(u64, Waker)>>,
    events: RefCell<Vec<(u64, Event)>>,
    /// Until when each board's CPU stands still.
    stalled_us: RefCell<Vec<u64>>,
    /// Until when each board's flash erases.
    erasing_us: RefCell<Vec<u64>>,
    tasks: RefCell<Vec<Option<Task>>>,
    pub(crate) dice: Dice,
}

impl World {
    pub(crate) fn new(boards: usize, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            now_us: Cell::new(0),
            timers: RefCell::default(),
            events: RefCell::default(),
            stalled_us: RefCell::new(vec![0; boards]),
            erasing_us: RefCell::new(vec![0; boards]),
            tasks: RefCell::default(),
            dice: Dice::new(seed),
        })
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.now_us.get()
    }

    pub(crate) fn spawn(&self, board: usize, future: impl Future<Output = ()> + 'static) {
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        self.tasks.borrow_mut().push(Some(Task { board, woken, future: Box::pin(future) }));
    }

    /// The board's power goes: its tasks are gone.
    pub(crate) fn kill(&self, board: usize) {
        let mut tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        tasks.retain(|task| task.as_ref().is_some_and(|task| task.board != board));
        *self.tasks.borrow_mut() = tasks;
        self.stalled_us.borrow_mut()[board] = 0;
    }

    pub(crate) fn at(&self, us: u64, event: impl FnOnce() + 'static) {
        self.events.borrow_mut().push((us, Box::new(event)));
    }

    pub(crate) fn stall(&self, board: usize, until_us: u64) {
        self.stalled_us.borrow_mut()[board] = until_us;
    }

    pub(crate) fn stalled_until_us(&self, board: usize) -> u64 {
        self.stalled_us.borrow()[board]
    }

    pub(crate) fn erases(&self, board: usize, until_us: u64) {
        self.erasing_us.borrow_mut()[board] = until_us;
    }

    pub(crate) fn is_erasing(&self, board: usize) -> bool {
        self.erasing_us.borrow()[board] > self.now_us()
    }

    /// Lets time pass.
    pub(crate) fn run_ms(&self, ms: u64) {
        let end = self.now_us() + ms * 1000;
        self.run_until(ms, || false);
        assert_eq!(self.now_us(), end);
    }

    /// Lets time pass until `done`; false if that takes longer than `ms`.
    pub(crate) fn run_until(&self, ms: u64, mut done: impl FnMut() -> bool) -> bool {
        let end = self.now_us() + ms * 1000;
        loop {
            let mut turns = 0;
            while self.turn() {
                turns += 1;
                assert!(turns < 100_000, "tasks wake each other, and time stands still");
            }
            if done() {
                return true;
            }
            if !self.pass(end) {
                return false;
            }
        }
    }

    /// Polls each task that was woken; false if none was.
    fn turn(&self) -> bool {
        let mut any = false;
        let count = self.tasks.borrow().len();
        for at in 0..count {
            let Some(mut task) = self.tasks.borrow_mut()[at].take() else { continue };
            let runs = self.stalled_until_us(task.board) <= self.now_us();
            let mut over = false;
            if runs && task.woken.0.swap(false, Ordering::Relaxed) {
                any = true;
                let waker = Waker::from(task.woken.clone());
                over = task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
            }
            if !over {
                self.tasks.borrow_mut()[at] = Some(task);
            }
        }
        any
    }

    /// Goes to the next moment at which something happens, up to `end`; false if there is none.
    fn pass(&self, end: u64) -> bool {
        let now = self.now_us();
        let stalls = self.stalled_us.borrow().clone();
        let timers = self.timers.borrow().iter().map(|(us, _)| *us).min();
        let events = self.events.borrow().iter().map(|(us, _)| *us).min();
        let stalls = stalls.into_iter().filter(|us| *us > now).min();
        let next = timers.into_iter().chain(events).chain(stalls).min().unwrap_or(u64::MAX);
        if next > end {
            self.now_us.set(end);
            return false;
        }
        self.now_us.set(next.max(now));
        let now = self.now_us();
        let mut events = self.events.borrow_mut();
        let mut due = vec![];
        while let Some(at) = events.iter().position(|(us, _)| *us <= now) {
            due.push(events.remove(at));
        }
        drop(events);
        due.sort_by_key(|(us, _)| *us);
        due.into_iter().for_each(|(_, event)| event());
        self.timers.borrow_mut().retain(|(us, waker)| {
            if *us <= now {
                waker.wake_by_ref();
            }
            *us > now
        });
        true
    }

    pub(crate) async fn sleep_until(&self, us: u64) {
        std::future::poll_fn(|context| {
            if self.now_us() >= us {
                return Poll::Ready(());
            }
            self.timers.borrow_mut().push((us, context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    pub(crate) async fn sleep(&self, us: u64) {
        self.sleep_until(self.now_us() + us).await;
    }
}

/// The world's time, as each board has it.
#[derive(Clone)]
pub(crate) struct SimClock(pub(crate) Rc<World>);

impl Clock for SimClock {
    fn now(&mut self) -> Instant {
        Instant::from_millis(self.0.now_us() / 1000)
    }
}

impl AsyncClock for SimClock {
    async fn wait_until(&mut self, until: Instant) {
        self.0.sleep_until(until.as_millis().saturating_mul(1000)).await;
    }
}
