//! A link that always has another frame.

use crate::support::board::{App, COMMAND_BYTES, Setup, Tally};
use crate::support::flash::{Part, SimFlash};
use crate::support::{SimClock, World};
use quorate::NodeSet;
use quorate::node::{Boot, Node};
use quorate_embedded::flash::Partition;
use quorate_embedded::link::AsyncLink;
use quorate_embedded::runner::{Commands, Desk, Parts, Runner};
use std::cell::Cell;
use std::rc::Rc;

const FRAMES: u32 = 5_000;
const START: u32 = 16_384;

/// Noise, one frame after the other, and then silence.
struct Flood {
    frames: Rc<Cell<u32>>,
    noise: [u8; 20],
}

impl AsyncLink for Flood {
    async fn send(&mut self, _: NodeSet, _: &[u8]) {}

    async fn receive(&mut self) -> &[u8] {
        if self.frames.get() == FRAMES {
            std::future::pending().await
        }
        self.frames.set(self.frames.get() + 1);
        &self.noise
    }
}

#[test]
fn who_asks_is_answered_while_the_link_has_frame_after_frame() {
    let world = World::new(1, 1);
    let config = Setup::new(127, 127).config(0, 1);
    let part = Part::blank(2 * START as usize, 20, false);
    let driver = SimFlash { world: world.clone(), part, board: 0 };
    let geometry = &config.flash.geometry;
    let flash = Partition::new_async(driver, START, 0..START, geometry).unwrap();
    let frames: Rc<Cell<u32>> = Rc::default();
    let desk: &'static Desk = Box::leak(Box::new(Desk::<Commands<COMMAND_BYTES>>::new()));
    let node: &'static mut Node = Box::leak(Box::new(Node::<[u8; 1200]>::new()));
    let parts = Parts {
        node,
        app: App::new(Tally::new()),
        link: Flood { frames: frames.clone(), noise: [9; 20] },
        flash,
        clock: SimClock(world.clone()),
        frame: vec![0; 127].leak(),
        buffer: vec![0; 512].leak(),
        power: None,
    };
    let mut runner = Runner::new(parts, desk);
    runner.start(&config, Boot::Mount).unwrap();
    world.spawn(0, async move {
        runner.run(|_| {}).await;
    });
    let answered: Rc<Cell<u32>> = Rc::default();
    let seen = answered.clone();
    world.spawn(0, async move {
        for _ in 0..10 {
            desk.handle().status().await;
        }
        seen.set(frames.get());
    });
    world.run_ms(1_000);
    assert!((1..FRAMES / 10).contains(&answered.get()), "after {} frames", answered.get());
}
