//! `quorate sim run --ndjson`: what it writes is taken by the rules of the published specification, and nothing that was
//! altered is.

mod spec;

use std::process::Command;

use quorate_std::sim::{Faults, Options, SpecEvents, Trace, run_observed};
use spec::{Seen, check};

fn events(seed: u64, boards: u8, faults: &str, virtual_seconds: u32) -> Vec<String> {
    let faults: Faults = faults.parse().expect("the faults have these names");
    let options =
        Options { boards, faults, virtual_seconds, pre_vote: false, ..Options::new(seed) };
    let observer = Some(Box::new(SpecEvents::new(boards)));
    let (report, _, events) = run_observed(&options, Trace::default(), observer);
    assert_eq!(report.violated, [], "seed {seed}");
    events.expect("they were asked for").lines().collect()
}

fn checked(seed: u64, boards: u8, faults: &str, virtual_seconds: u32) -> Seen {
    let lines = events(seed, boards, faults, virtual_seconds);
    let seen = check(lines.iter().map(String::as_str));
    seen.unwrap_or_else(|why| panic!("seed {seed}, {boards} boards, {faults}: {why}"))
}

/// What several runs held, together.
#[derive(Default)]
struct Sum {
    elections: u64,
    commits: u64,
    truncations: u64,
    restarts: u64,
    entries_max: u64,
    ended: u64,
}

impl Sum {
    fn add(&mut self, seen: &Seen) {
        self.elections += seen.events["BecomeLeader"];
        self.commits += seen.events["Commit"];
        self.truncations += seen.truncations;
        self.restarts += seen.restarts;
        self.entries_max = self.entries_max.max(seen.entries_max);
        self.ended += u64::from(seen.ended.is_some());
    }
}

#[test]
fn runs_on_a_bad_link_are_taken_to_their_end() {
    let mut sum = Sum::default();
    for seed in 0..12 {
        let faults = "loss,reorder,duplication,corruption,partition,one-way,drift,babble,log-full";
        sum.add(&checked(seed, if seed % 2 == 0 { 3 } else { 5 }, faults, 60));
    }
    // A leader of the past may hear of a term by an answer that was computed after the term had risen.
    assert!(sum.ended <= 1, "{}", sum.ended);
    assert!(sum.elections > 12 && sum.commits > 240 && sum.truncations > 0, "{}", sum.truncations);
}

#[test]
fn a_snapshot_is_taken_for_the_append_of_what_it_stands_for() {
    let mut sum = Sum::default();
    (0..8).for_each(|seed| sum.add(&checked(seed, 3, "snapshots", 60)));
    assert!(sum.entries_max > 5, "{}", sum.entries_max);
}

#[test]
fn runs_with_power_cuts_are_taken_up_to_what_the_specification_lacks() {
    let mut sum = Sum::default();
    (0..16).for_each(|seed| sum.add(&checked(seed, 3, "all", 60)));
    assert!(sum.restarts > 12 && sum.commits > 100, "{} {}", sum.restarts, sum.commits);
}

#[test]
fn the_file_holds_one_event_a_line_in_the_order_of_its_numbers() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("events.ndjson");
    let file = path.to_str().expect("a temporary path is UTF-8");
    let arguments = ["sim", "run", "--seed", "7", "--boards", "3", "--virtual-seconds", "30"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    let output = command.args(arguments).args(["--faults", "loss", "--ndjson", file]).output();
    assert!(output.expect("the program starts").status.success());
    let text = std::fs::read_to_string(&path).expect("the file was written");
    let written: Vec<&str> = text.lines().collect();
    assert_eq!(written, events(7, 3, "loss", 30));
    // As the validation's own script sorts: by the text behind the second colon.
    let key = |line: &str| line.splitn(3, ':').last().map(str::to_owned);
    let mut sorted = written.clone();
    sorted.sort_by_key(|line| key(line));
    assert_eq!(sorted, written);
    check(written).expect("it is taken");
}

/// The lines with the `number`th line of this kind altered; nothing in place of a line takes it out.
fn altered(
    lines: &[String],
    fits: impl Fn(&str) -> bool,
    number: usize,
    alter: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let at = lines.iter().enumerate().filter(|(_, line)| fits(line)).nth(number);
    let (at, line) = at.expect("the run holds such a line");
    let mut lines = lines.to_vec();
    match alter(line) {
        Some(line) => lines[at] = line,
        None => _ = lines.remove(at),
    }
    lines
}

fn refused(lines: &[String]) -> String {
    check(lines.iter().map(String::as_str)).expect_err("an altered trace is not taken")
}

fn raised(line: &str, field: &str, by: i64) -> String {
    let name = format!("\"{field}\":");
    let at = line.find(&name).expect("the line has the field") + name.len();
    let rest = &line[at..];
    let end = rest.find([',', '}']).expect("the number ends");
    let number: i64 = rest[..end].parse().expect("it is a number");
    format!("{}{}{}", &line[..at], number + by, &rest[end..])
}

#[test]
fn a_trace_that_was_altered_is_not_taken() {
    // Three boards: a vote or an acknowledgement of another board decides.
    let lines = events(3, 3, "partition,loss", 40);
    let named =
        |name: &'static str| move |line: &str| line.contains(&format!("\"name\":\"{name}\""));
    let from_other = |line: &str| {
        let id = |field: &str| {
            line.split(&format!("\"{field}\":\"")).nth(1).and_then(|t| t.chars().next())
        };
        id("from") != id("to")
    };
    let gone = |_: &str| None;
    for number in [0, 5, 40] {
        // A message that was received was sent, and its sender was ready.
        let sent = altered(&lines, named("Replicate"), number, gone);
        assert!(refused(&sent).contains("line "));
        let commit =
            altered(&lines, named("Commit"), number, |line| Some(raised(line, "commit", 1)));
        assert!(refused(&commit).contains("shows commit"));
        let log = altered(&lines, named("SendAppendEntriesRequest"), number, |line| {
            Some(raised(line, "log", -1))
        });
        assert!(refused(&log).contains("shows log"));
        let term = altered(&lines, named("ReceiveAppendEntriesRequest"), number, |line| {
            Some(raised(line, "term", -1))
        });
        assert!(refused(&term).contains("shows term"));
        let entries = altered(&lines, named("ReceiveAppendEntriesRequest"), number, |line| {
            // More than any message has: with one more it may be another that is on its way.
            Some(raised(line, "entries", 7))
        });
        assert!(refused(&entries).contains("no such message"));
    }
    // Requests are repeated: only where none was sent, none can come.
    let asked = |line: &&String| !named("SendRequestVoteRequest")(line);
    let unasked: Vec<String> = lines.iter().filter(asked).cloned().collect();
    assert!(refused(&unasked).contains("no such message"));
    let vote = |line: &str| named("ReceiveRequestVoteResponse")(line) && from_other(line);
    assert!(refused(&altered(&lines, vote, 0, gone)).contains("leads by the votes of"));
    let ready = altered(&lines, named("Ready"), 0, gone);
    let ready = altered(&ready, named("Ready"), 0, gone);
    assert!(refused(&ready).contains("no such message"));
    let appended = |line: &str| named("ReceiveAppendEntriesResponse")(line) && from_other(line);
    assert!(refused(&altered(&lines, appended, 0, gone)).contains("shows commit"));
}
