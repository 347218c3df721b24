//! Images of flash that are kept for ever: what a log has written once is read by every later one. For each there is the
//! flash (`*.image`) and a text of what it holds (`*.txt`), in `tests/wal/golden`.
//!
//! Images are only ever added. `NEW_GOLDEN_IMAGES=1` writes those of [`recipes`] that do not exist yet, and
//! tells what to add to [`KEPT`]; it touches no other.

mod recipes;

use crate::board::{Board, Version, held};
use crate::flash::{Faults, Flash};
use crate::life::works;
use quorate::flash::Geometry;
use quorate::wal::{Mounted, Progress};
use quorate::{EntryId, Index};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// All that are kept: name, and checksum of flash and text.
const KEPT: &[(&str, u32)] = &[
    ("v1-01-founded-word-4", 0x7f83_9fd4),
    ("v1-02-conflict-word-1", 0x8d48_3c1a),
    ("v1-03-conflict-word-32", 0xd54c_f5b8),
    ("v1-04-wrapped-word-8", 0xca5c_bdf7),
    ("v1-05-wrapped-word-16", 0x1d6a_ad62),
    ("v1-06-torn-tail-word-4", 0x2ac5_d651),
    ("v1-07-torn-tail-page-64", 0x0842_d267),
    ("v1-08-boot-word-4", 0x1643_fa8d),
    ("v1-09-boot-in-a-segment-of-its-own-word-32", 0x2935_344e),
    ("v1-10-retired-word-4", 0xd39c_3b14),
    ("v1-11-note-word-4-blank-00", 0x36e2_5559),
    ("v1-12-installed-word-8-blank-00", 0x5746_8980),
    ("v1-13-snapshot-under-way-word-1", 0x530b_36d3),
    ("v1-14-sealed-word-4", 0x3cb9_c96e),
    ("v1-15-newest-snapshot-rotten-word-4", 0x6c66_d920),
    ("v1-16-torn-first-record-word-8", 0xf4af_e5c5),
    ("v1-17-older-snapshot-of-a-wrapped-ring-word-4", 0x6831_1ccf),
];

/// Bytes of the flash in one line of an image.
const ROW_BYTES: usize = 32;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wal/golden")
}

/// The flash as text: its layout, then rows of bytes, but for those that are blank.
fn to_image(flash: &Flash) -> String {
    let Geometry { word_bytes, erased, page_bytes, block_bytes, blocks_per_segment, segments } =
        flash.geometry;
    let mut text = format!(
        "word {word_bytes} blank {erased} page {page_bytes} block {block_bytes} \
         blocks {blocks_per_segment} segments {segments}\n"
    );
    for (i, row) in flash.bytes.chunks(ROW_BYTES).enumerate() {
        if row.iter().any(|byte| *byte != erased) {
            let hex: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "{:06x} {hex}", i * ROW_BYTES).unwrap();
        }
    }
    text
}

fn from_image(text: &str) -> Flash {
    let (head, rows) = text.split_once('\n').unwrap();
    let number = |name: &str| -> u32 {
        let mut words = head.split(' ').skip_while(|word| *word != name);
        words.nth(1).unwrap().parse().unwrap()
    };
    let geometry = Geometry {
        word_bytes: number("word") as u8,
        erased: number("blank") as u8,
        page_bytes: number("page") as u16,
        block_bytes: number("block"),
        blocks_per_segment: number("blocks") as u16,
        segments: number("segments") as u8,
    };
    let mut bytes = vec![geometry.erased; geometry.bytes() as usize];
    for row in rows.lines() {
        let (at, hex) = row.split_once(' ').unwrap();
        let at = usize::from_str_radix(at, 16).unwrap();
        for (place, digits) in bytes[at..].iter_mut().zip(hex.as_bytes().chunks(2)) {
            *place = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        }
    }
    Flash::holding(geometry, Faults::MILD, &bytes)
}

/// Mounts this flash. What it shows is from now on what the board may not forget.
fn mounted(flash: Flash) -> (Board, Mounted, Vec<u8>) {
    let mut board = Board::new(flash, 512, 1);
    board.wal.mount(board.geometry(), board.buf.len()).unwrap();
    let mounted = match board.step() {
        Ok(Progress::Mounted(mounted)) => mounted,
        other => panic!("it does not mount: {other:?}"),
    };
    let shown = mounted.hard_state;
    board.want.hard_state = shown;
    let mut content = vec![];
    while content.len() < mounted.snapshot.bytes as usize {
        board.wal.read_snapshot(content.len() as u32, usize::MAX);
        match board.step().unwrap() {
            Progress::ChunkRead { at, len, .. } if len > 0 => {
                content.extend_from_slice(&board.buf[at..at + len]);
            }
            other => panic!("the snapshot can't be read: {other:?}"),
        }
    }
    board.commit = shown.commit;
    board.hard_states = vec![(shown.term.0, shown.vote)];
    board.notes = vec![board.wal.note()];
    board.snapshots = vec![mounted.snapshot];
    board.contents.insert((mounted.snapshot.id.index.0, mounted.snapshot.crc), content.clone());
    board.committed = mounted.snapshot.id.index.0;
    let entries = held(&mut board.log);
    board.versions = vec![Version { min: board.log.last().index.0, entries }];
    (board, mounted, content)
}

/// What this flash holds, in words.
fn told(flash: Flash) -> String {
    let (mut board, mounted, content) = mounted(flash);
    let Mounted { identity, hard_state, snapshot, tail } = mounted;
    let mut text = String::new();
    let cluster: String = identity.cluster.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let vote = hard_state.vote.map_or("nobody".to_owned(), |id| format!("node {}", id.get()));
    let id = snapshot.id;
    writeln!(
        text,
        "identity: node {} of cluster {cluster}, generation {}\n\
         hard state: term {}, vote for {vote}, commit {}\n\
         snapshot: up to entry {} of term {}, {} bytes, CRC-32C {:08x}\n  {}\n\
         note: {}\nretired segments: {}\ntail: {tail:?}\nentries: {}",
        identity.node.get(),
        identity.generation.0,
        hard_state.term.0,
        hard_state.commit.0,
        id.index.0,
        id.term.0,
        snapshot.bytes,
        snapshot.crc,
        content.escape_ascii(),
        board.wal.note(),
        board.wal.status().segments_retired,
        board.log.last().index.0 - id.index.0,
    )
    .unwrap();
    for index in id.index.0 + 1..=board.log.last().index.0 {
        let mut data = vec![0; 512];
        let (kind, term, len) = board.log.read(Index(index), &mut data).unwrap();
        writeln!(text, "  {index}: term {}, {kind:?}, {}", term.0, data[..len].escape_ascii())
            .unwrap();
    }
    text
}

fn checksum(image: &str, text: &str) -> u32 {
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    crc.checksum(format!("{image}{text}").as_bytes())
}

/// Keeps an image; one that exists is refused.
fn keep(folder: &Path, name: &str, image: &str, text: &str) -> std::io::Result<()> {
    for (ending, content) in [("image", image), ("txt", text)] {
        let path = folder.join(format!("{name}.{ending}"));
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(content.as_bytes())?;
    }
    Ok(())
}

fn read(name: &str) -> (String, String) {
    let file = |ending| {
        let path = folder().join(format!("{name}.{ending}"));
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    (file("image"), file("txt"))
}

#[test]
fn every_image_that_was_ever_kept_is_there_unchanged() {
    if std::env::var_os("NEW_GOLDEN_IMAGES").is_some() {
        for (name, flash) in recipes::all() {
            let (image, text) = (to_image(&flash), told(flash));
            match keep(&folder(), name, &image, &text) {
                Ok(()) => eprintln!("    (\"{name}\", 0x{:08x}),", checksum(&image, &text)),
                Err(error) => eprintln!("{name}: {error}"),
            }
        }
    }
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "image"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    let names: Vec<&str> = KEPT.iter().map(|(name, _)| *name).collect();
    assert_eq!(files, names, "the images that are there, and those that are kept");
    assert!(names.len() >= 14, "{names:?}");
    for (name, sum) in KEPT {
        let (image, text) = read(name);
        assert_eq!(checksum(&image, &text), *sum, "{name} is not what it was");
    }
}

#[test]
fn every_kept_image_mounts_and_holds_what_its_text_says() {
    for (name, _) in KEPT {
        let (image, text) = read(name);
        assert_eq!(told(from_image(&image)), text, "{name}");
    }
}

#[test]
fn on_every_kept_image_the_log_goes_on() {
    for (name, _) in KEPT {
        let (mut board, _, _) = mounted(from_image(&read(name).0));
        eprintln!("{name}");
        for round in 0..40u8 {
            board.want.idle = round % 2 == 0;
            works(&mut board).unwrap();
            if board.wal.wants_snapshot() || board.log.bytes_used() > 300 {
                let id = EntryId::new(board.log.durable(), board.log.last().term);
                assert!(board.take_snapshot(id, b"it goes on", false).unwrap(), "{name}");
            }
            if round % 5 == 0 {
                board.mount().unwrap();
                board.read_snapshot().unwrap();
            }
        }
    }
}

#[test]
fn what_makes_an_image_still_makes_one_that_mounts() {
    // How many records it takes, and how a log ends, may change within a version.
    let lasting = |text: &str| -> Vec<String> {
        let begins = ["identity", "hard state", "note", "retired"];
        let lasts = |line: &&str| begins.iter().any(|name| line.starts_with(name));
        text.lines().filter(lasts).map(str::to_owned).collect()
    };
    for (name, flash) in recipes::all() {
        assert_eq!(lasting(&told(flash)), lasting(&read(name).1), "{name}");
    }
}

#[test]
fn an_image_that_is_kept_is_never_written_again() {
    let folder = std::env::temp_dir().join(format!("quorate-golden-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    keep(&folder, "one", "flash", "text").unwrap();
    let refused = keep(&folder, "one", "other flash", "other text").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(folder.join("one.image")).unwrap(), "flash");
    std::fs::remove_dir_all(&folder).unwrap();
}
