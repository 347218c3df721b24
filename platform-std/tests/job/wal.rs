//! `quorate wal`.

use std::fs;
use std::path::Path;

use crate::images::{at_work, lamps};
use crate::program::{Ran, quorate};
use quorate_std::boards::{self, BOARDS};
use quorate_std::config_file::ConfigFile;
use quorate_std::{image, replicate};
use serde_json::Value;

/// A directory with the image of a board that has done the main job.
fn job() -> (tempfile::TempDir, Vec<u8>) {
    let file = ConfigFile::parse("test", "a = 1\nb = 2\nc = \"three\"\n").unwrap();
    let images = replicate::run(file.content(), None, 5, &mut |_| {}).unwrap().images;
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("flash.img"), &images[0]).unwrap();
    (temp, images[0].clone())
}

fn wal(dir: &Path, args: &str) -> Ran {
    let args: Vec<_> = ["wal"].into_iter().chain(args.split_whitespace()).collect();
    quorate(dir, &args)
}

fn json(ran: &Ran, code: i32) -> Value {
    assert_eq!((ran.code, ran.err.as_str()), (code, ""), "{}", ran.out);
    serde_json::from_str(&ran.out).unwrap()
}

#[test]
fn inspect_tells_in_json_what_the_board_knows() {
    let (temp, bytes) = job();
    let known = image::read(&bytes).unwrap().status;
    let told = json(&wal(temp.path(), "inspect flash.img --json --records"), 0);
    assert_eq!(told["verdict"], "sound");
    assert_eq!(told["identity"]["board"], 1);
    assert_eq!(told["identity"]["cluster"], format!("{:?}", known.cluster));
    assert_eq!(told["hard_state"]["term"], known.term.0);
    assert_eq!(told["hard_state"]["commit"], known.commit.0);
    assert_eq!(told["log"]["last"]["index"], known.last.index.0);
    assert_eq!(told["snapshot"]["id"]["index"], known.snapshot.index.0);
    let geometry = boards::geometry();
    assert_eq!(told["geometry"]["segment_bytes"], geometry.segment_bytes());
    let segments = told["segments"].as_array().unwrap();
    assert_eq!(segments.len(), usize::from(geometry.segments));
    assert_eq!(segments.iter().filter(|it| it["newest"] == true).count(), 1);
    let records = told["records"].as_array().unwrap();
    assert_eq!(records.len() as u64, told["record_count"].as_u64().unwrap());
    let last = records.iter().filter_map(|it| it["entries"]["last"].as_u64()).max();
    assert_eq!(last, Some(known.last.index.0));
    let without = json(&wal(temp.path(), "inspect flash.img --json"), 0);
    assert_eq!(without["records"], Value::Null);
}

#[test]
fn inspect_draws_the_ring_and_lists_records_only_when_asked() {
    let (temp, _) = job();
    let short = wal(temp.path(), "inspect flash.img");
    assert_eq!((short.code, short.err.as_str()), (0, ""));
    for text in ["board 1 of cluster", "9 segments of 4096 bytes", "state: sound", "╭▶ ", "1*", "█"]
    {
        assert!(short.out.contains(text), "{text} is not in\n{}", short.out);
    }
    assert!(!short.out.contains('\u{1b}'), "colour without a terminal: {}", short.out);
    assert!(!short.out.contains("checkpoint"), "{}", short.out);
    let long = wal(temp.path(), "inspect flash.img --records");
    assert!(long.out.contains("checkpoint") && long.out.starts_with(&short.out));
}

#[test]
fn verify_ends_with_0_for_a_sound_image_and_1_for_a_damaged_one_with_the_place() {
    let (temp, bytes) = job();
    let sound = wal(temp.path(), "verify flash.img");
    assert_eq!((sound.code, sound.out.as_str()), (0, "flash.img: sound\n"));
    assert_eq!(json(&wal(temp.path(), "verify flash.img --json"), 0)["sound"], true);
    let told = json(&wal(temp.path(), "inspect flash.img --json --records"), 0);
    let chunk = (told["records"].as_array().unwrap().iter())
        .find(|it| it["kind"] == "group" && it["state"] == "live")
        .unwrap();
    let at = chunk["offset"].as_u64().unwrap();
    let mut damaged = bytes;
    damaged[at as usize + 8] ^= 4;
    fs::write(temp.path().join("flash.img"), &damaged).unwrap();
    let ran = wal(temp.path(), "verify flash.img");
    assert_eq!(ran.code, 1, "{}", ran.out);
    assert!(ran.out.starts_with(&format!("flash.img: damaged at byte {at} (")), "{}", ran.out);
    let told = json(&wal(temp.path(), "verify flash.img --json"), 1);
    assert_eq!((&told["verdict"], &told["sound"]), (&"damaged".into(), &false.into()));
    assert_eq!(told["damage"][0]["offset"], at);
    let shown = wal(temp.path(), "inspect flash.img");
    assert_eq!(shown.code, 0);
    assert!(shown.out.contains(&format!("damaged at byte {at} ")), "{}", shown.out);
    assert_eq!(fs::read(temp.path().join("flash.img")).unwrap(), damaged);
}

#[test]
fn verify_calls_an_image_with_a_torn_write_sound_and_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let mut torn = 0;
    for seed in 0..4 {
        let (mut world, from_us) = at_work(&lamps(100, 7), seed, 50_000);
        (0..BOARDS).for_each(|at| world.arm_cut(at));
        for at_us in (from_us..from_us + 500_000).step_by(100) {
            let cuts: Vec<_> = world.boards().iter().map(|board| board.cuts).collect();
            world.advance_to(at_us);
            for at in (0..BOARDS).filter(|at| world.boards()[*at].cuts > cuts[*at]) {
                let bytes = world.images()[at].clone();
                let known = image::read(&bytes).unwrap();
                fs::write(temp.path().join("flash.img"), bytes).unwrap();
                let told = json(&wal(temp.path(), "verify flash.img --json"), 0);
                assert_eq!((&told["sound"], known.torn), (&true.into(), told["torn_at"].is_u64()));
                let text = wal(temp.path(), "verify flash.img");
                assert_eq!((text.code, text.out.contains("torn write at byte")), (0, known.torn));
                torn += u32::from(known.torn);
            }
        }
    }
    assert!(torn >= 5, "only {torn} torn tails");
}

#[test]
fn what_is_no_log_is_no_sound_image_and_what_is_no_file_is_a_wrong_use() {
    let (temp, bytes) = job();
    let mut newer = bytes.clone();
    // Another version under a checksum of its own.
    let segment = 4096;
    let len = usize::from(u16::from_le_bytes([newer[segment + 4], newer[segment + 5]]));
    newer[segment + 7] = 9;
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let check = crc.checksum(&newer[segment + 4..segment + 7 + len]);
    newer[segment..segment + 4].copy_from_slice(&check.to_le_bytes());
    for (content, complaint) in [
        (vec![0xff; 32_768], "this flash is blank"),
        (vec![0x5a; 32_768], "the flash holds other data"),
        (bytes[..20_000].to_vec(), "9 segments of 4096 bytes; 20000 bytes are not the image"),
        (newer, "the newer format 9"),
    ] {
        fs::write(temp.path().join("flash.img"), content).unwrap();
        for command in ["verify", "inspect"] {
            let ran = wal(temp.path(), &format!("{command} flash.img"));
            let error = ran.error(1);
            assert!(
                error.starts_with("error: flash.img: ") && error.contains(complaint),
                "{error}"
            );
        }
        let told = json(&wal(temp.path(), "verify flash.img --json"), 1);
        assert_eq!(told["verdict"], "no log");
        assert!(told["fault"].as_str().unwrap().contains(complaint));
    }
    for args in ["verify no.img", "inspect no.img", "verify ."] {
        assert!(wal(temp.path(), args).error(2).contains("can't be read"), "{args}");
    }
    for args in ["verify", "inspect flash.img --what", "dump flash.img"] {
        assert_eq!(wal(temp.path(), args).code, 2, "{args}");
    }
}

fn size(args: &str) -> Ran {
    wal(Path::new("."), &format!("size --entry-bytes 64 --entries-per-day 1440 {args}"))
}

#[test]
fn size_tells_how_long_a_ring_lasts_and_how_long_a_ring_it_takes() {
    let told = json(&size("--part nrf52840 --json"), 0);
    assert_eq!((&told["cycles"], &told["ring_bytes"]), (&10_000.into(), &32_768.into()));
    let years = told["years"].as_f64().unwrap();
    // Three years or so, were it entries alone: seals and snapshots take half of it.
    assert!((2.0..5.0).contains(&years), "{years}");
    let text = size("--part nrf52840").out;
    assert!(text.contains(&format!("{years:.1} years")), "{text}");
    let longer = json(&size("--part nrf52840 --years 10 --json"), 0);
    assert!(longer["years"].as_f64().unwrap() >= 10.0);
    assert!(longer["ring_bytes"].as_u64().unwrap() > 65_536);
    let again = format!(
        "--cycles 10000 --json --ring-bytes {} --segment-bytes {}",
        longer["ring_bytes"], longer["segment_bytes"]
    );
    assert_eq!(json(&size(&again), 0)["years"], longer["years"]);
}

#[test]
fn size_knows_every_part_that_wears_and_refuses_what_can_not_be() {
    for part in quorate::plan::PARTS.iter().filter(|part| part.name != "file") {
        let told = json(&size(&format!("--part {} --json", part.name)), 0);
        assert_eq!((&told["part"], &told["cycles"]), (&part.name.into(), &part.cycles.into()));
        assert!(told["years"].as_f64().unwrap() > 0.0);
    }
    for (args, complaint) in [
        ("", "--part"),
        ("--part eeprom", "nrf52840"),
        ("--part file", "nrf52840"),
        (
            "--part nrf52840 --ring-bytes 10000",
            "3 to 32 segments of 4096 bytes are 12288 to 131072",
        ),
        ("--part nrf52840 --segment-bytes 5000", "an erase block has 4096 bytes"),
        ("--part nrf52840 --segment-bytes 268435456", "and a segment 65535 of them at most"),
        ("--part nrf52840 --log-bytes 262144", "and the log has less than 262144"),
        ("--part nrf52840 --ring-bytes 32768 --years 3", "cannot be used with"),
        ("--part nrf52840 --years 0", "more than 0"),
        ("--part nrf52840 --ring-bytes 12288 --snapshot-bytes 8000", "segments"),
        ("--part nrf52840 --batch 100", "a batch of 6800 bytes"),
    ] {
        let ran = size(args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args}");
        assert!(ran.err.contains(complaint), "{args}: {}", ran.err);
    }
}

#[test]
fn recover_says_what_may_be_lost_and_makes_a_cluster_of_one_board_only_if_that_is_accepted() {
    let (temp, bytes) = job();
    let dir = temp.path();
    let told = wal(dir, "recover flash.img");
    assert_eq!(told.code, 1);
    assert!(told.out.contains("are lost") && told.err.contains("--accept-loss"), "{}", told.out);
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1, "nothing is written");
    for half in ["recover flash.img --out new.img", "recover flash.img --accept-loss"] {
        assert_eq!(wal(dir, half).code, 2, "{half}");
    }

    let done = wal(dir, "recover flash.img --out new.img --accept-loss --cluster 00c0ffee");
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{}", done.out);
    assert_eq!(fs::read(dir.join("flash.img")).unwrap(), bytes, "the old image is as it was");
    let (old, new) = (image::read(&bytes).unwrap(), fs::read(dir.join("new.img")).unwrap());
    let new = image::read(&new).unwrap();
    assert_eq!((new.content, new.revisions, new.hash), (old.content, old.revisions, old.hash));
    assert_eq!(new.status.id, old.status.id);
    assert_eq!(format!("{:?}", new.status.cluster), "00c0ffee");
    assert_eq!(new.status.membership.members().len(), 1);
    assert_eq!(new.limits, old.limits);
    let longest = |image: &[u8]| {
        let log = quorate_std::wal_image::read(image).unwrap();
        log.records.iter().map(|record| record.says.all.record_max).max()
    };
    let written = fs::read(dir.join("new.img")).unwrap();
    assert_eq!(longest(&written), longest(&bytes), "the board's own buffer holds its records");
    assert_eq!(wal(dir, "verify new.img").code, 0);

    let again = wal(dir, "recover flash.img --out new.img --accept-loss");
    assert_eq!(again.code, 1, "no file is replaced");
    fs::write(dir.join("bad.img"), vec![7; 4096]).unwrap();
    assert_eq!(wal(dir, "recover bad.img").code, 1);
    assert_eq!(wal(dir, "recover none.img").code, 2);
}
