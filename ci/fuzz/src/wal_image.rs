//! Any bytes as a flash image. A mount ends, within a bounded number of operations, in a typed refusal or
//! in a log; and a log that was shown is there at the next mount.

use quorate::Index;
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::log::Log;
use quorate::wal::{HardState, Mounted, Progress, Wal, Want};

use crate::board::{BUFFER_BYTES, Nor};
use crate::input::Input;

/// Partitions of different kinds, small so that an input fills them.
const GEOMETRIES: &[Geometry] =
    &[part(1, 1, 2048, 4), part(4, 4, 2048, 3), part(8, 8, 2048, 8), part(32, 256, 2048, 4)];

const fn part(word_bytes: u8, page_bytes: u16, block_bytes: u32, segments: u8) -> Geometry {
    Geometry { word_bytes, erased: 0xFF, page_bytes, block_bytes, blocks_per_segment: 1, segments }
}

/// Operations that one mount may take: each word read several times over would be less.
const OPERATIONS_MAX: u32 = 20_000;

/// Mounts the image, and what that has left, again.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let which = usize::from(input.byte());
    let Some(&geometry) = GEOMETRIES.get(which % GEOMETRIES.len()) else { return };
    let mut flash = Nor::with(geometry, input.0);
    let Some((mounted, entries)) = mount(&mut flash, geometry) else { return };
    let (again, same) = mount(&mut flash, geometry).expect("what was mounted can be mounted again");
    assert_eq!((again.identity, again.snapshot), (mounted.identity, mounted.snapshot));
    assert_eq!(
        (again.hard_state.term, again.hard_state.vote),
        (mounted.hard_state.term, mounted.hard_state.vote)
    );
    assert_eq!(same, entries, "entries that were shown have changed");
}

/// What a mount shows, with the entries as bytes.
fn mount(flash: &mut Nor, geometry: Geometry) -> Option<(Mounted, Vec<u8>)> {
    let mut log = Log::<[u8; 4096]>::new();
    let log: &mut Log = &mut log;
    let (mut wal, mut buffer) = (Wal::new(), [0; BUFFER_BYTES]);
    wal.mount(geometry, buffer.len()).expect("the geometry is sound");
    for _ in 0..OPERATIONS_MAX {
        let want = Want {
            hard_state: HardState::default(),
            commit_needed: Index::ZERO,
            idle: false,
            allow_erase: true,
        };
        match wal.poll(&want, log, &mut buffer) {
            Progress::Op(op) => {
                if let FlashOp::Read { offset, len } | FlashOp::Write { offset, len } = op {
                    assert!(offset as usize + len as usize <= flash.bytes.len(), "{op:?}");
                    assert!(len as usize <= buffer.len(), "{op:?}");
                }
                flash.carry_out(op, &mut buffer, None);
                wal.handle(FlashDone::Ok);
            }
            Progress::Mounted(mounted) => {
                let mut bytes = vec![0; log.bytes_used()];
                log.copy(log.base().index, log.last().index, &mut bytes);
                return Some((mounted, bytes));
            }
            Progress::Refused(_) => return None,
            other => panic!("a mount ends otherwise: {other:?}"),
        }
    }
    panic!("a mount without an end");
}
