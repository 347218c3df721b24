//! The project's own scripts lead to the states that are kept beside them, and what is wrong is told with its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use quorate_std::script::check::{self, Report};
use quorate_std::script::{Results, Script};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/scripts")
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

fn names() -> Vec<String> {
    let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let scripts = files.filter(|path| path.extension().is_some_and(|e| e == "txt"));
    let mut names: Vec<String> =
        scripts.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn run(name: &str) -> Results {
    Script::parse(&read(&format!("{name}.txt"))).unwrap().run().unwrap()
}

fn compare(results: &Results, states: &str) -> Report {
    let Results::States(lines) = results else {
        panic!("these scripts are about nodes");
    };
    check::states(lines, states, true).unwrap()
}

fn told(report: &Report) -> Vec<String> {
    report.differences.iter().map(|difference| difference.to_string()).collect()
}

#[test]
fn every_script_leads_to_its_states_and_to_what_it_says_itself() {
    let names = names();
    assert!(names.len() >= 38, "{names:?}");
    let mut wrong = Vec::new();
    for name in &names {
        let results = run(name);
        let states = compare(&results, &read(&format!("{name}.jsonl")));
        let own = check::own(&results).unwrap();
        let all = told(&states).into_iter().chain(told(&own));
        wrong.extend(all.map(|difference| format!("{name}.txt:{difference}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_committed_but_not_written_is_applied_where_the_script_says_so() {
    // The leader's storage is slow; both others hold the entry.
    let applied = |option: &str| {
        let text = format!(
            "add-nodes 3 voters=(1,2,3) index=2 async-storage-writes=true {option}\ncampaign 1\nstabilize\n\
             propose 1 a\nprocess-ready 1\nstabilize 2 3\ndeliver-msgs 1\nprocess-ready 1\n\
             process-apply-thread 1\ndeliver-msgs 1\n----\nok\n"
        );
        let Results::States(lines) = Script::parse(&text).unwrap().run().unwrap() else {
            panic!("this script is about nodes");
        };
        assert_eq!((lines.len(), lines[0].nodes[0].commit), (1, 4));
        lines[0].nodes[0].applied
    };
    assert_eq!(applied(""), 3);
    assert_eq!(applied("async-storage-writes-nonlocal-quorum=true"), 4);
}

/// What a state file says of node 1 in the last line that is quiescent.
fn altered(states: &str, from: &str, to: &str) -> String {
    let mut lines: Vec<String> = states.lines().map(str::to_owned).collect();
    let last = lines.iter_mut().rfind(|line| line.contains(from)).unwrap();
    *last = last.replacen(from, to, 1);
    lines.join("\n")
}

#[test]
fn one_altered_field_is_a_difference() {
    let results = run("joint-changes");
    let states = read("joint-changes.jsonl");
    assert!(told(&compare(&results, &states)).is_empty());
    for (from, to, field) in [
        ("\"commit\":13", "\"commit\":12", "commit is 13, expected 12"),
        ("\"applied\":13", "\"applied\":12", "applied is"),
        ("\"term\":2", "\"term\":3", "term is"),
        ("\"vote\":2", "\"vote\":3", "vote is"),
        ("\"lead\":2", "\"lead\":1", "lead is"),
        ("\"Leader\"", "\"Follower\"", "role is"),
        ("\"last_index\":13", "\"last_index\":14", "last_index is"),
        ("\"last_term\":2", "\"last_term\":1", "last_term is"),
        ("\"learners\":[4]", "\"learners\":[]", "conf is"),
        ("\"auto_leave\":false", "\"auto_leave\":true", "conf is"),
        ("\"kind\":\"cc2e\"", "\"kind\":\"cc2\"", "log is"),
        ("\"data\":\"v3 l4\"", "\"data\":\"v3\"", "log is"),
        ("\"match\":13", "\"match\":12", "progress is"),
    ] {
        let told = told(&compare(&results, &altered(&states, from, to)));
        assert_eq!(told.len(), 1, "{from}: {told:?}");
        let line = run_line(&states);
        assert!(told[0].starts_with(&format!("{line}: node ")), "{told:?}");
        assert!(told[0].contains(field), "{told:?}");
    }
}

/// The script line that the last line of a state file is about.
fn run_line(states: &str) -> u64 {
    let last: serde_json::Value = serde_json::from_str(states.lines().last().unwrap()).unwrap();
    last["line"].as_u64().unwrap()
}

#[test]
fn what_is_unstable_or_not_quiescent_is_not_compared() {
    let results = run("joint-changes");
    let commit = altered(&read("joint-changes.jsonl"), "\"commit\":13", "\"commit\":12");
    for (from, to) in [
        ("\"quiescent\":true", "\"quiescent\":false"),
        ("\"quiescent\":true", "\"quiescent\":true,\"schedule_unstable\":[\"commit\"]"),
    ] {
        let states = altered(&commit, from, to);
        assert!(told(&compare(&results, &states)).is_empty(), "{to}");
    }
}

fn quorate(args: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate")).arg("script").args(args).output().unwrap()
}

/// A file of the test's own.
fn file(name: &str, text: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scripts");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_program_prints_states_and_compares_them() {
    let script = folder().join("single.txt");
    let printed = quorate(&[&script]);
    assert_eq!(printed.status.code(), Some(0));
    let lines: Vec<serde_json::Value> = String::from_utf8(printed.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = &lines.last().unwrap()["nodes"][0];
    assert_eq!((&last["role"], &last["commit"]), (&"Leader".into(), &7.into()));
    assert_eq!(last["log"][1]["data"], "a");

    let check = Path::new("--check");
    let states = folder().join("single.jsonl");
    assert_eq!(quorate(&[check, &states, &script]).status.code(), Some(0));
    assert_eq!(quorate(&[&script, check, &states]).status.code(), Some(0));
    assert_eq!(quorate(&[check, &script]).status.code(), Some(0));

    // As some editors write them.
    let marked = |name| file(name, &format!("\u{feff}{}", read(&name.replace("marked", "single"))));
    let checked = quorate(&[check, &marked("marked.jsonl"), &marked("marked.txt")]);
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stderr));

    let wrong = altered(&read("single.jsonl"), "\"commit\":7", "\"commit\":6");
    let checked = quorate(&[check, &file("altered.jsonl", &wrong), &script]);
    assert_eq!(checked.status.code(), Some(1));
    let out = String::from_utf8(checked.stdout).unwrap();
    assert!(out.contains("node 1: commit is 7, expected 6"), "{out}");
}

#[test]
fn the_program_answers_quorum_and_confchange_scripts() {
    let text = "vote cfg=(1,2) votes=(y,_)\n----\nVotePending\n\ncommitted cfg=(3) idx=(9)\n----\n9\n\ncommitted\n----\n∞\n";
    let script = file("quorum.txt", text);
    let printed = String::from_utf8(quorate(&[&script]).stdout).unwrap();
    let results: Vec<serde_json::Value> = printed
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["result"].clone())
        .collect();
    assert_eq!(results, [serde_json::json!("VotePending"), 9.into(), "∞".into()]);
    let check = Path::new("--check");
    assert_eq!(quorate(&[check, &script]).status.code(), Some(0));
    let script = file("wrong.txt", &text.replace("\n9\n", "\n8\n"));
    assert_eq!(quorate(&[check, &script]).status.code(), Some(1));

    let text = "simple\nv1\n----\nvoters=(1)\n1: StateProbe match=0 next=1\n";
    assert_eq!(quorate(&[check, &file("change.txt", text)]).status.code(), Some(0));
    let wrong = text.replace("voters=(1)", "voters=(2)");
    assert_eq!(quorate(&[check, &file("wrong-change.txt", &wrong)]).status.code(), Some(1));
}

#[test]
fn what_cannot_be_read_is_told_with_file_and_line() {
    let check = Path::new("--check");
    let script = folder().join("single.txt");
    let states = read("single.jsonl");
    let cut = states.lines().skip(1).collect::<Vec<_>>().join("\n");
    let short = states.lines().take(3).collect::<Vec<_>>().join("\n");
    let quiet = states.replace("\"quiescent\":true", "\"quiescent\":false");
    let cases = [
        (vec![file("unknown.txt", "\nfly 1\n----\n")], "unknown.txt:2: `fly`"),
        (vec![file("open.txt", "campaign 1\n")], "open.txt:1: "),
        (vec![file("absent.txt", "campaign 1\n----\n")], "absent.txt:1: `campaign`: node 1"),
        (vec![file("empty.txt", "# nothing\n")], "empty.txt:1: "),
        (vec![folder().join("none.txt")], "none.txt: can't be read"),
        (vec![check.into(), file("no.jsonl", "{\n"), script.clone()], "no.jsonl:1: "),
        (vec![check.into(), file("cut.jsonl", &cut), script.clone()], "cut.jsonl:1: "),
        (vec![check.into(), file("short.jsonl", &short), script.clone()], "short.jsonl:4: "),
        (vec![check.into(), file("quiet.jsonl", &quiet), script.clone()], "quiet.jsonl:1: "),
        (vec![check.into(), folder().join("none.jsonl"), script.clone()], "none.jsonl: can't"),
        (vec![check.into(), file("bare.txt", "log-level none\n----\nok\n")], "bare.txt: "),
    ];
    for (args, place) in cases {
        let args: Vec<&Path> = args.iter().map(PathBuf::as_path).collect();
        let output = quorate(&args);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(place), "{place}: {told}");
    }
}
