//! `quorate sim` as a person or a CI job calls it: exit codes, the last line of JSON, traces and replays.

use std::path::Path;
use std::process::{Command, Output};

use quorate_std::sim::Fnv;

fn sim(arguments: &[&str]) -> Output {
    let program = Command::new(env!("CARGO_BIN_EXE_quorate")).arg("sim").args(arguments).output();
    program.expect("the program starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal ended it")
}

fn last_json(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).expect("the last line is JSON")
}

fn run(seed: &str, more: &[&str]) -> Output {
    let short = ["run", "--seed", seed, "--boards", "3", "--virtual-seconds", "30", "--json"];
    sim(&[&short[..], more].concat())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

#[test]
fn the_same_seed_gives_the_same_hash_and_another_seed_another_one() {
    let (one, again, other) = (run("7", &[]), run("7", &[]), run("8", &[]));
    for output in [&one, &again, &other] {
        assert_eq!(code(output), 0, "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(last_json(&one)["trace_hash"], last_json(&again)["trace_hash"]);
    assert_ne!(last_json(&one)["trace_hash"], last_json(&other)["trace_hash"]);
}

#[test]
fn the_hash_is_that_of_the_trace_file_and_the_file_replays_until_it_is_altered() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("trace");
    let traced = run("3", &["--trace", text(&path)]);
    assert_eq!(code(&traced), 0);
    let bytes = std::fs::read(&path).expect("the trace was written");
    let hash = format!("{:016x}", Fnv::of(&bytes));
    assert_eq!(last_json(&traced)["trace_hash"], hash.as_str());
    assert_eq!(last_json(&run("3", &[]))["trace_hash"], hash.as_str());

    let same = sim(&["replay", text(&path), "--json"]);
    assert_eq!(code(&same), 0);
    assert_eq!(last_json(&same)["trace_hash"], hash.as_str());

    let altered =
        String::from_utf8(bytes).expect("a trace is text").replacen("< boot", "< foot", 1);
    std::fs::write(&path, altered).expect("the trace can be written");
    let differs = sim(&["replay", text(&path)]);
    assert_eq!(code(&differs), 1);
    let told = String::from_utf8_lossy(&differs.stdout).into_owned();
    assert!(told.contains("line 3 differs") && told.contains("< foot"), "{told}");
}

#[test]
fn what_is_no_trace_and_what_is_no_option_are_usage_errors() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("no-trace");
    std::fs::write(&path, b"\xff\x00 no trace").expect("the file can be written");
    let missing = dir.path().join("missing");
    for arguments in [
        &["replay", text(&path)][..],
        &["replay", text(&missing)],
        &["run", "--seed", "1", "--faults", "loss,rain"],
        &["run", "--seed", "1", "--boards", "0"],
        &["run", "--seed", "x"],
        &["run"],
        &["sweep", "--seeds", "5..5"],
        &["run", "--seed", "1", "--trace", "/no/such/directory/trace"],
    ] {
        let output = sim(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_fault_that_can_not_take_effect_makes_the_run_inconclusive() {
    let alone = ["--seed", "1", "--boards", "1", "--virtual-seconds", "20", "--json"];
    let output = sim(&[&["run"][..], &alone, &["--faults", "cuts,partition"]].concat());
    assert_eq!(code(&output), 2);
    assert_eq!(last_json(&output)["without_effect"], serde_json::json!(["partition"]));
}

#[test]
fn a_sweep_sums_up_its_runs_and_gives_their_medians() {
    let output = sim(&["sweep", "--seeds", "0..4", "--boards", "3", "--jobs", "2", "--json"]);
    assert_eq!(code(&output), 0, "{}", String::from_utf8_lossy(&output.stderr));
    let json = last_json(&output);
    assert_eq!(json["seeds"], "0..4");
    assert_eq!(json["violations"], 0);
    assert_eq!(json["conclusive"], 4);
    let commits = json["commits"].as_u64().expect("a count");
    let median = json["medians"]["commits"].as_u64().expect("a count");
    assert!(median >= 20 && commits >= 2 * median, "{commits} {median}");
}

#[test]
fn a_sweep_of_runs_too_short_to_tell_anything_is_inconclusive() {
    let output =
        sim(&["sweep", "--seeds", "0..3", "--boards", "3", "--virtual-seconds", "1", "--json"]);
    assert_eq!(code(&output), 2, "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn events_that_end_before_the_run_say_so_beside_the_file_too() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("events");
    let mut seen = [false; 2];
    for seed in ["1", "2"] {
        let output = run(seed, &["--ndjson", text(&path)]);
        assert_eq!(code(&output), 0);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let events = std::fs::read_to_string(&path).expect("the events were written");
        let last: serde_json::Value =
            serde_json::from_str(events.lines().last().unwrap_or_default()).expect("JSON");
        let ends_early = last["tag"] == "end";
        seen[usize::from(ends_early)] = true;
        match last["why"].as_str() {
            Some(why) if ends_early => {
                let (ms, path) = (&last["ms"], text(&path));
                assert_eq!(told, format!("{path}: ends early, at {ms} ms: {why}\n"));
            }
            _ => assert_eq!(told, ""),
        }
    }
    assert_eq!(seen, [true, true], "other seeds show both");
}
