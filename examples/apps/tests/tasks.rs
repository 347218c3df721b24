//! The application beside an async runner: a board alone, its button pressed by a task, its lamp shown by another.

use std::cell::RefCell;
use std::convert::Infallible;

use embassy_futures::select::{Either3, select3};
use embassy_futures::{block_on, yield_now};
use embedded_storage_async::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use quorate::config::{Config, Flash};
use quorate::flash::Geometry;
use quorate::membership::Member;
use quorate::node::{Boot, ForwardError, Founding, Limits, Node, Outcome};
use quorate::plan;
use quorate::typed::ConfigMap;
use quorate::{ClusterId, Instant, NodeId, NodeSet};
use quorate_apps::{App, COMMAND_BYTES, MAP_BYTES, Settings, follow, press};
use quorate_embedded::clock::{AsyncClock, Clock};
use quorate_embedded::flash::Partition;
use quorate_embedded::link::AsyncLink;
use quorate_embedded::runner::{Commands, Desk, Parts, Runner, Shared};

const GEOMETRY: Geometry = Geometry {
    word_bytes: 4,
    erased: 0xff,
    page_bytes: 4,
    block_bytes: 1024,
    blocks_per_segment: 2,
    segments: 8,
};
const FLASH: Flash = Flash { geometry: GEOMETRY, word_us: 46, erase_ms_max: 22, stalls: true };

struct Memory(Vec<u8>);

impl ErrorType for Memory {
    type Error = Infallible;
}

impl ReadNorFlash for Memory {
    const READ_SIZE: usize = 1;
    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
        Ok(())
    }
    fn capacity(&self) -> usize {
        self.0.len()
    }
}

impl NorFlash for Memory {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 1024;
    async fn erase(&mut self, from: u32, to: u32) -> Result<(), Infallible> {
        self.0[from as usize..to as usize].fill(0xff);
        Ok(())
    }
    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Infallible> {
        self.0[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// Nobody is there.
struct Silence;

impl AsyncLink for Silence {
    async fn send(&mut self, _: NodeSet, _: &[u8]) {}
    async fn receive(&mut self) -> &[u8] {
        std::future::pending().await
    }
}

/// Time that passes as it is waited for.
struct Passing(u64);

impl Clock for Passing {
    fn now(&mut self) -> Instant {
        Instant::from_millis(self.0)
    }
}

impl AsyncClock for Passing {
    async fn wait_until(&mut self, until: Instant) {
        yield_now().await;
        self.0 = self.0.max(until.as_millis());
    }
}

#[test]
fn a_press_switches_the_lamp_and_each_change_is_shown_once() {
    let mut map = ConfigMap::<[u8; MAP_BYTES]>::new();
    let mut app = App::new(&mut map).unwrap();
    let app = Shared::new(&mut app);
    let desk = Desk::<Commands<COMMAND_BYTES>>::new();
    let desk: &Desk = &desk;
    let mut node = Node::<[u8; 1200]>::new();
    let flash = Memory(vec![0xff; GEOMETRY.bytes() as usize]);
    let (mut frame, mut buffer) = ([0; 112], [0; 256]);
    let parts = Parts {
        node: &mut node,
        app: &app,
        link: Silence,
        flash: Partition::new_async(flash, 0, 0..0, &GEOMETRY).unwrap(),
        clock: Passing(0),
        frame: &mut frame,
        buffer: &mut buffer,
        power: None,
    };
    let mut board = Runner::new(parts, desk);
    let node = NodeId::new(1).unwrap();
    let founding = Founding {
        cluster: ClusterId([1; 4]),
        node,
        members: &[Member::new(node)],
        limits: Limits {
            frame_bytes: 112,
            entry_bytes: 59,
            log_bytes: 900,
            snapshot_bytes: MAP_BYTES as u32,
        },
        erase_anyway: false,
    };
    let config = Config::new(plan::serial(115_200), FLASH, 2, 1);
    let shown = RefCell::new(Vec::<Settings>::new());
    let presses = async {
        // Not running yet: nothing has happened, and the button can be pressed again.
        let mut outcomes = Vec::new();
        while outcomes.len() < 3 {
            match press(&app, desk.handle()).await {
                Ok(outcome) => outcomes.push(matches!(outcome, Outcome::Applied { .. })),
                Err(error) => assert_eq!(error, ForwardError::NotRunning),
            }
            // Who shows has its turn.
            yield_now().await;
        }
        outcomes
    };
    let outcomes = block_on(async {
        board.start(&config, Boot::Found(&founding)).unwrap();
        let shows = follow(&app, |settings| shown.borrow_mut().push(*settings));
        match select3(board.run(|_| {}), shows, presses).await {
            Either3::Third(outcomes) => outcomes,
            _ => unreachable!(),
        }
    });
    assert_eq!(outcomes, [true; 3]);
    let lamps: Vec<bool> = shown.borrow().iter().map(|settings| settings.lamp).collect();
    assert_eq!(lamps, [true, false, true]);
    assert!(app.with(|app| app.settings().lamp).unwrap());
}
