//! The main job from end to end: what is in the file is on every board, and a second run adds what changed.

use std::fs;
use std::path::Path;

use crate::program::{Ran, quorate};
use serde_json::Value;

/// Board `id` as `quorate config dump --json` shows it.
fn dump(dir: &Path, id: u8) -> Value {
    let ran = quorate(dir, &["config", "dump", &format!("data/board-{id}.qfl"), "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).expect("JSON")
}

/// Runs the job on `text`, and sees that all five images hold the same; board 1 as its dump shows it.
fn run(dir: &Path, text: &str, seed: u32) -> (Ran, Value) {
    fs::write(dir.join("my.toml"), text).unwrap();
    let ran = quorate(dir, &["my.toml", "--data", "data", "--seed", &seed.to_string()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let first = dump(dir, 1);
    for id in 2..=5 {
        let other = dump(dir, id);
        assert_eq!(other["board"], id);
        for same in ["cluster", "hash", "revision", "entries", "commit"] {
            assert_eq!(other[same], first[same], "{same} of board {id}");
        }
    }
    (ran, first)
}

fn pairs(board: &Value) -> Vec<(String, String)> {
    let entries = board["entries"].as_array().unwrap();
    let text = |entry: &Value, field: &str| entry[field].to_string();
    entries.iter().map(|e| (text(e, "key"), text(e, "value"))).collect()
}

/// The table's rows: one for each board, split into cells.
fn rows(ran: &Ran) -> Vec<Vec<&str>> {
    let lines = ran.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|row| row.len() == 10 && row[0].parse::<u8>().is_ok()).collect()
}

const TEXT: &str = "site = \"attic\"\n[lamp]\non = true\nlevel = 40\nwarmth = 0.25\n\"a b\" = -7\n";

#[test]
fn every_board_holds_the_file_and_has_survived_a_power_cut() {
    let temp = tempfile::tempdir().unwrap();
    let (ran, board) = run(temp.path(), TEXT, 1);
    let expected = [
        ("\"lamp.a b\"", "-7"),
        ("\"lamp.level\"", "40"),
        ("\"lamp.on\"", "true"),
        ("\"lamp.warmth\"", "0.25"),
        ("\"site\"", "\"attic\""),
    ];
    let expected = expected.map(|(key, value)| (key.to_string(), value.to_string()));
    assert_eq!(pairs(&board), expected);
    assert_eq!(board["revision"], 5);

    let rows = rows(&ran);
    assert_eq!(rows.len(), 5, "{}", ran.out);
    for row in &rows {
        assert_eq!(row[5], board["hash"].as_str().unwrap());
        assert!(row[6].parse::<u64>().unwrap() > 0, "no frames sent: {row:?}");
        assert!(row[7].parse::<u64>().unwrap() > 0, "no flash written: {row:?}");
        assert!(row[9].parse::<u64>().unwrap() > 0, "no power cut: {row:?}");
    }
    assert_eq!(rows.iter().filter(|row| row[1] == "leader").count(), 1, "{}", ran.out);
    for happened in ["the leader, board ", "loses power", "partition"] {
        assert!(ran.err.contains(happened), "{happened}: {}", ran.err);
    }
}

#[test]
fn a_second_run_adds_exactly_what_changed() {
    let temp = tempfile::tempdir().unwrap();
    let (_, before) = run(temp.path(), TEXT, 1);
    let changed = TEXT.replace("40", "41").replace("on = true\n", "");
    let (ran, after) = run(temp.path(), &(changed + "new = \"key\"\n"), 2);
    assert!(ran.out.contains("2 set, 1 deleted, 3 unchanged"), "{}", ran.out);
    assert_eq!(after["cluster"], before["cluster"]);
    assert_eq!(after["revision"], 8);
    let keys: Vec<_> = pairs(&after).into_iter().map(|(key, _)| key).collect();
    let expected =
        ["\"lamp.a b\"", "\"lamp.level\"", "\"lamp.new\"", "\"lamp.warmth\"", "\"site\""];
    assert_eq!(keys, expected);
    // What did not change has the revision that it had.
    assert_eq!(after["entries"][0], before["entries"][0]);
}

#[test]
fn a_second_run_on_the_same_file_changes_nothing_but_still_survives_its_faults() {
    let temp = tempfile::tempdir().unwrap();
    let (_, before) = run(temp.path(), TEXT, 1);
    let (ran, after) = run(temp.path(), TEXT, 3);
    assert!(ran.out.contains("0 set, 0 deleted, 5 unchanged"), "{}", ran.out);
    assert_eq!(after["entries"], before["entries"]);
    assert_eq!(after["revision"], before["revision"]);
    assert!(after["term"].as_u64() > before["term"].as_u64());
    assert!(rows(&ran).iter().all(|row| row[9].parse::<u64>().unwrap() > 0), "{}", ran.out);
}

#[test]
fn an_emptied_file_empties_the_boards_and_can_be_filled_again() {
    let temp = tempfile::tempdir().unwrap();
    run(temp.path(), TEXT, 1);
    let (_, empty) = run(temp.path(), "", 2);
    assert_eq!(pairs(&empty), []);
    assert_eq!(empty["revision"], 10);
    let (_, full) = run(temp.path(), TEXT, 3);
    assert_eq!(full["revision"], 15);
}

#[test]
fn the_same_seed_gives_the_same_images_and_another_one_others() {
    let images = |seed| {
        let temp = tempfile::tempdir().unwrap();
        let (ran, _) = run(temp.path(), TEXT, seed);
        let images: Vec<_> = (1..=5)
            .map(|id| fs::read(temp.path().join(format!("data/board-{id}.qfl"))).unwrap())
            .collect();
        (ran.out, images)
    };
    let first = images(7);
    assert!(first == images(7));
    assert!(first.1 != images(8).1);
}

#[test]
fn many_seeds_end_well() {
    for seed in 100..120 {
        let temp = tempfile::tempdir().unwrap();
        run(temp.path(), TEXT, seed);
    }
}

#[test]
fn the_toml_that_is_dumped_is_the_configuration_again() {
    let temp = tempfile::tempdir().unwrap();
    let (_, before) = run(temp.path(), TEXT, 1);
    let dumped = quorate(temp.path(), &["config", "dump", "data/board-2.qfl", "--toml"]);
    let (ran, after) = run(temp.path(), &dumped.out, 2);
    assert!(ran.out.contains("0 set, 0 deleted, 5 unchanged"), "{}", ran.out);
    assert_eq!(after["hash"], before["hash"]);
}

#[test]
fn without_a_file_the_example_is_replicated_within_ten_seconds() {
    let temp = tempfile::tempdir().unwrap();
    let began = std::time::Instant::now();
    let ran = quorate(temp.path(), &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(began.elapsed().as_secs() < 10);
    assert!(ran.out.contains("42 set, 0 deleted, 0 unchanged"), "{}", ran.out);
}
