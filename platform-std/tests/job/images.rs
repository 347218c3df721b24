//! Flash images that something happened to: a torn tail is no damage, damage is named, and nothing is ever made up.

use std::fs;
use std::path::Path;

use crate::program::quorate;
use quorate_std::boards::{self, BOARDS};
use quorate_std::config_file::ConfigFile;
use quorate_std::content::{Change, Content, changes};
use quorate_std::image::{self, ImageError};
use quorate_std::sim::{Dice, World};
use quorate_std::wal_image::{self, SegmentState};
use quorate_std::{fit, replicate};

fn content(text: &str) -> Content {
    ConfigFile::parse("test", text).unwrap().content().clone()
}

pub(crate) fn lamps(count: u32, level: u32) -> Content {
    content(&(0..count).map(|i| format!("lamp-{i}.level = {level}{i}\n")).collect::<String>())
}

fn store(dir: &Path, images: &[Vec<u8>]) {
    fs::create_dir_all(dir.join("data")).unwrap();
    for (id, image) in (1..).zip(images) {
        fs::write(dir.join(format!("data/board-{id}.qfl")), image).unwrap();
    }
}

fn stored(dir: &Path) -> Vec<Vec<u8>> {
    let read = |id| fs::read(dir.join(format!("data/board-{id}.qfl"))).unwrap();
    (1..=BOARDS).map(read).collect()
}

#[test]
fn a_flipped_byte_is_found_or_does_not_matter_and_never_makes_up_content() {
    let target = lamps(40, 1);
    let images = replicate::run(&target, None, 5, &mut |_| {}).unwrap().images;
    let image = &images[0];
    let sound = image::read(image).unwrap().content;
    let (mut damaged, mut torn, mut harmless) = (0, 0, 0);
    for at in (0..image.len()).filter(|at| image[*at] != 0xff) {
        let mut flipped = image.clone();
        flipped[at] ^= 0x10;
        match image::read(&flipped) {
            Ok(board) if board.content == sound => harmless += 1,
            // The last record can't be told from one that a power cut has torn: what it alone told is gone.
            Ok(board) => {
                assert!(board.torn, "byte {at}");
                assert!(board.content.iter().all(|(key, value)| sound.get(key) == Some(value)));
                assert!(board.content.len() + 1 >= sound.len(), "byte {at}");
                torn += 1;
            }
            Err(ImageError::Damaged { offset, .. }) => {
                assert!(offset as usize <= at, "byte {at} is said to be at {offset}");
                damaged += 1;
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    assert!(damaged > 300 && torn < 40, "{damaged} damaged, {torn} torn, {harmless} harmless");
}

/// An erase that was cut short may leave a segment full of zeros, and there may be more of these than of blank bytes.
#[test]
fn what_a_cut_erase_leaves_is_not_what_blank_flash_reads_as() {
    let images = replicate::run(&lamps(40, 1), None, 5, &mut |_| {}).unwrap().images;
    let (sound, log) = (image::read(&images[0]).unwrap(), wal_image::read(&images[0]).unwrap());
    let mut cut = images[0].clone();
    let segment = sound.geometry.segment_bytes() as usize;
    for it in log.segments.iter().filter(|it| it.state != SegmentState::Live) {
        cut[usize::from(it.number) * segment..][..segment].fill(0);
    }
    assert!(cut.iter().filter(|byte| **byte == 0).count() > cut.len() / 2);
    let board = image::read(&cut).unwrap();
    assert_eq!((board.geometry, board.torn), (sound.geometry, false));
    assert_eq!(board.content, sound.content);
}

#[test]
fn a_damaged_image_is_named_with_the_place_and_nothing_is_changed() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("my.toml"), "a = 1\n").unwrap();
    let mut images = replicate::run(&lamps(40, 1), None, 5, &mut |_| {}).unwrap().images;
    let damage = |image: &[u8]| {
        let mut flipped = image.to_vec();
        (0..image.len()).filter(|at| image[*at] != 0xff).find(|at| {
            flipped[*at] ^= 1;
            let error = image::read(&flipped).err();
            flipped[*at] ^= 1;
            matches!(error, Some(ImageError::Damaged { .. }))
        })
    };
    let at = damage(&images[3]).unwrap();
    images[3][at] ^= 1;
    store(temp.path(), &images);
    let ran = quorate(temp.path(), &["my.toml", "--data", "data"]);
    let error = ran.error(1);
    assert!(error.starts_with("error: data/board-4.qfl: damaged at byte "), "{error}");
    assert!(stored(temp.path()) == images);
    let dump = quorate(temp.path(), &["config", "dump", "data/board-4.qfl"]);
    assert!(dump.error(1).starts_with("error: data/board-4.qfl: damaged at byte "));
}

#[test]
fn images_in_the_wrong_place_or_of_another_cluster_are_named() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("my.toml"), "a = 1\n").unwrap();
    let run = |seed| replicate::run(&lamps(3, 1), None, seed, &mut |_| {}).unwrap().images;
    let (one, other) = (run(1), run(2));
    let refused = |images: &[Vec<u8>]| {
        store(temp.path(), images);
        quorate(temp.path(), &["my.toml", "--data", "data"]).error(1).to_string()
    };
    let mut images = one.clone();
    images.swap(1, 2);
    assert_eq!(refused(&images), "error: data/board-2.qfl: this is the image of board 3");
    let mut images = one;
    images[4] = other[4].clone();
    let error = refused(&images);
    assert!(error.starts_with("error: data/board-5.qfl: this board is of cluster "), "{error}");
}

/// Boards that work on `target`, until so long after the first election, and when that is, µs.
pub(crate) fn at_work(target: &Content, seed: u64, work_us: u64) -> (World, u64) {
    let mut world = boards::world(seed, None);
    let mut todo = changes(&Content::new(), target).into_iter();
    let (mut at_us, mut end_us) = (0, u64::MAX);
    while at_us < end_us {
        at_us += 500;
        world.advance_to(at_us);
        assert!(at_us < 10_000_000, "no leader");
        if world.leader().is_some() && end_us == u64::MAX {
            end_us = at_us + work_us;
        }
        if let Some(leader) = world.leader()
            && let Some(change) = todo.next()
        {
            // Some are refused, and some are lost: whatever gets through is good enough.
            let _ = world.propose(leader, &fit::command(&change).unwrap());
        }
    }
    assert_eq!(world.violations(), []);
    (world, at_us)
}

#[test]
fn a_torn_tail_is_no_damage() {
    let target = lamps(100, 7);
    let mut torn = 0;
    for seed in 0..12 {
        let (mut world, from_us) = at_work(&target, seed, 50_000);
        (0..BOARDS).for_each(|at| world.arm_cut(at));
        for at_us in (from_us..from_us + 500_000).step_by(100) {
            let cuts: Vec<_> = world.boards().iter().map(|board| board.cuts).collect();
            world.advance_to(at_us);
            for at in (0..BOARDS).filter(|at| world.boards()[*at].cuts > cuts[*at]) {
                let board = image::read(&world.images()[at]).unwrap();
                torn += u32::from(board.torn);
                for (key, value) in &board.content {
                    assert_eq!(target.get(key), Some(value), "seed {seed}");
                }
            }
        }
    }
    assert!(torn >= 20, "only {torn} torn tails");
}

#[test]
fn a_run_goes_on_from_boards_that_all_lost_power_in_the_middle_of_their_work() {
    let target = lamps(100, 7);
    for seed in 0..6 {
        let (mut world, _) = at_work(&target, seed, 10_000 + seed * 37_000);
        world.cut_all(1);
        let temp = tempfile::tempdir().unwrap();
        store(temp.path(), &world.images());
        fs::write(temp.path().join("my.toml"), "\"lamp-1.level\" = 71\nx = 2\n").unwrap();
        let ran = quorate(temp.path(), &["my.toml", "--data", "data"]);
        assert_eq!(ran.code, 0, "seed {seed}: {}", ran.err);
    }
}

#[test]
fn twelve_runs_in_a_row_each_add_exactly_what_changed() {
    for campaign in 0..3 {
        let mut dice = Dice::new(campaign);
        let (mut images, mut old, mut revision) = (None, Content::new(), 0);
        for round in 0..12 {
            let mut new = old.clone();
            for _ in 0..dice.pick(&[0, 1, 5, 30]) {
                let key = format!("k{}", dice.below(60));
                let text =
                    format!("{key} = {}", dice.pick(&["true", "17", "-0.5", "\"some text\""]));
                new.remove(&key);
                if dice.chance(700) {
                    new.extend(content(&text));
                }
            }
            let expected = changes(&old, &new);
            let seed = dice.within(0, u64::MAX - 1);
            let outcome = replicate::run(&new, images, seed, &mut |_| {})
                .unwrap_or_else(|error| panic!("campaign {campaign}, round {round}: {error}"));
            let set = expected.iter().filter(|change| matches!(change, Change::Set(..))).count();
            assert_eq!((outcome.set, outcome.deleted), (set, expected.len() - set));
            revision += expected.len() as u64;
            for image in &outcome.images {
                let board = image::read(image).unwrap();
                assert_eq!((&board.content, board.revision), (&new, revision));
            }
            (images, old) = (Some(outcome.images), new);
        }
    }
}
