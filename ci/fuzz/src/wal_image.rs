//! Any bytes as a flash image, and real images with any damage. A mount ends, within a bounded number of operations, in a typed refusal or
//! in a log; and a log that was shown is there at the next mount.

use std::sync::OnceLock;

use quorate::Index;
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::log::Log;
use quorate::wal::{HardState, Mounted, Progress, Wal, Want};

use crate::board::{BUFFER_BYTES, Board, GEOMETRY, Nor};
use crate::input::Input;

/// Partitions of different kinds, small so that an input fills them.
const GEOMETRIES: &[Geometry] =
    &[part(1, 1, 2048, 4), part(4, 4, 2048, 3), part(8, 8, 2048, 8), part(32, 256, 2048, 4)];

const fn part(word_bytes: u8, page_bytes: u16, block_bytes: u32, segments: u8) -> Geometry {
    Geometry { word_bytes, erased: 0xFF, page_bytes, block_bytes, blocks_per_segment: 1, segments }
}

/// So many times its bytes a mount may read of the partition, whatever stands there: once or twice, but damage that
/// looks like cells which read now so and now so makes it begin anew, up to 32 times.
const READ_TIMES_MAX: u32 = 100;
/// A read has at least so many bytes: the head of a record, or what is left of the segment for one.
const READ_BYTES_MIN: u32 = 7;
/// Besides, it writes and erases, each segment a few times.
const CHANGES_MAX: u32 = 100;

/// Mounts the image, and what that has left, again.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let which = usize::from(input.byte());
    match GEOMETRIES.get(which) {
        Some(&geometry) => mount_twice(Nor::with(geometry, input.0), geometry),
        None => {
            let images = images();
            let mut image = images[which % images.len()].clone();
            while !input.is_empty() {
                damage(&mut image, &mut input);
            }
            mount_twice(Nor::with(GEOMETRY, &image), GEOMETRY);
        }
    }
}

/// What the flash of a board holds after a short and after a long life.
fn images() -> &'static [Vec<u8>] {
    static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let mut images = Vec::new();
        let mut board = Board::founded(1, 1);
        for command in 0..400u32 {
            if [0, 3, 40, 150, 399].contains(&command) {
                images.push(board.flash.bytes.clone());
            }
            board.pass(0);
            board.propose(&command.to_le_bytes().repeat(8));
            if command % 70 == 60 {
                board.reboot(0);
            }
        }
        assert!(board.applied > 200, "{:?}", board.status());
        images
    })
}

/// One piece of damage.
fn damage(image: &mut [u8], input: &mut Input<'_>) {
    let kind = input.byte();
    let at = usize::from(input.half()) % image.len();
    let segment = GEOMETRY.segment_bytes() as usize;
    match kind % 5 {
        0 => image[at] ^= 1 << (input.byte() % 8),
        1 => image[at..].iter_mut().zip(input.bytes()).for_each(|(place, byte)| *place = *byte),
        2 => image[at..].iter_mut().take(usize::from(input.half())).for_each(|b| *b = 0xFF),
        3 => image[at..].iter_mut().take(usize::from(input.byte())).for_each(|b| *b = 0),
        _ => {
            let (from, to) = (at / segment, usize::from(input.byte()) % (image.len() / segment));
            image.copy_within(from * segment..(from + 1) * segment, to * segment);
        }
    }
}

fn mount_twice(mut flash: Nor, geometry: Geometry) {
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
    let partition = flash.bytes.len() as u32;
    let mut bytes_read = 0;
    for _ in 0..READ_TIMES_MAX * partition / READ_BYTES_MIN + CHANGES_MAX {
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
                if let FlashOp::Read { offset, len } = op {
                    let rest = geometry.segment_bytes() - offset % geometry.segment_bytes();
                    assert!(len >= READ_BYTES_MIN.min(rest), "{op:?}");
                    bytes_read += len;
                    let bounded = bytes_read <= READ_TIMES_MAX * partition;
                    assert!(bounded, "{bytes_read} bytes were read of {partition}");
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
