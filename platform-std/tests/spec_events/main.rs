//! `quorate sim run --ndjson`: what it writes is taken by the rules of the published specification, and nothing that was
//! altered is.

mod spec;

use std::collections::BTreeMap;
use std::process::Command;

use quorate_std::sim::{Faults, Options, SpecEvents, Trace, run_observed};
use spec::{Seen, check};

fn events(seed: u64, boards: u8, faults: &str, virtual_seconds: u32) -> Vec<String> {
    let faults: Faults = faults.parse().expect("the faults have these names");
    events_of(&Options { boards, faults, virtual_seconds, ..Options::new(seed) }, true)
}

fn events_of(options: &Options, plain_changes: bool) -> Vec<String> {
    let Options { seed, boards, .. } = *options;
    let options = Options { pre_vote: false, plain_changes, ..*options };
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

#[test]
fn changes_of_single_members_are_taken_to_the_end() {
    let (mut ended, mut applied) = (Vec::new(), 0);
    let mut changes = BTreeMap::<String, u64>::new();
    for seed in 0..12 {
        let boards = if seed < 9 { 5 } else { 3 };
        let seen = checked(seed, boards, "membership,loss", 40);
        match seen.ended {
            Some(why) => ended.push((seed, why)),
            None => applied += seen.applied,
        }
        seen.changes.into_iter().for_each(|(what, n)| *changes.entry(what).or_default() += n);
    }
    // In a trace that is taken to its end, each change on each board that put it into effect.
    assert!(applied >= 200, "{applied} {ended:?}");
    for what in ["AddLearner", "AddNewServer", "RemoveServer"] {
        assert!(changes.get(what).is_some_and(|n| *n >= 10), "{what}: {changes:?}");
    }
    // Seeds may end early for what the page tells of, few of them and for nothing else.
    let told = ["a voter loses its vote and comes back", "decides with other members"];
    let told = |why: &String| told.iter().any(|reason| why.contains(reason));
    assert!(ended.len() <= 4 && ended.iter().all(|(_, why)| told(why)), "{ended:?}");
}

#[test]
fn what_the_specification_has_no_change_for_ends_a_trace() {
    let ends = |faults: &str, plain, why: &str| {
        let faults: Faults = faults.parse().expect("the faults have these names");
        (0..6).any(|seed| {
            let options = Options { boards: 5, faults, virtual_seconds: 40, ..Options::new(seed) };
            let seen = check(events_of(&options, plain).iter().map(String::as_str));
            let seen = seen.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            seen.ended.is_some_and(|ended| ended.starts_with(why))
        })
    };
    assert!(ends("membership", false, "a joint change"));
    assert!(ends("membership", false, "a voter is demoted"));
    assert!(ends("wipes", true, "a voter loses its vote and comes back in one step"));
}

#[test]
fn a_change_of_membership_that_was_altered_is_not_taken() {
    let lines = events(1, 5, "membership", 60);
    let has = |text: &'static str| move |line: &str| line.contains(text);
    let gone = |_: &str| None;
    let refused_by = |lines: &[String], why: &str| {
        let refusal = refused(lines);
        assert!(refusal.contains(why), "{refusal}");
    };
    let as_other =
        |from: &'static str, to: &'static str| move |line: &str| Some(line.replace(from, to));
    for number in [0, 1] {
        let change = altered(&lines, has("\"ChangeConf\""), number, gone);
        refused_by(&change, "is not the message");
        let twice =
            altered(&lines, has("\"ChangeConf\""), number, |line| Some(format!("{line}\n{line}")));
        let twice: Vec<String> =
            twice.iter().flat_map(|line| line.lines()).map(str::to_owned).collect();
        refused_by(&twice, "is under way");
        let value = as_other("\"ChangeConf\"", "\"Replicate\"");
        let value = altered(&lines, has("\"ChangeConf\""), number, value);
        refused_by(&value, if number == 0 { "no change is committed" } else { "into effect" });
        let vote = as_other("\"action\":\"AddLearner\"", "\"action\":\"AddNewServer\"");
        refused_by(&altered(&lines, has("\"AddLearner\""), number, vote), "into effect");
        let effect = altered(&lines, has("\"ApplyConfChange\""), number, gone);
        refused_by(&effect, "shows other members");
        let newconf = as_other("\"newconf\":[", "\"newconf\":[\"7\",");
        let newconf = altered(&lines, has("\"ApplyConfChange\""), number, newconf);
        refused_by(&newconf, "into effect");
        let begun =
            |line: &str| line.contains("\"InitState\"") && line.contains("\"conf\":[[],[]]");
        let unknown: Vec<String> = lines.iter().filter(|line| !begun(line)).cloned().collect();
        refused_by(&unknown, "has not begun");
    }
    let to = |text: &str| lines.iter().position(|line| line.contains(text)).expect("it is there");
    let field = |line: &str, name: &str| {
        let value = line.split(&format!("\"{name}\":\"")).nth(1).expect("the line has the field");
        value.split('"').next().expect("the text ends").to_owned()
    };
    let event = |name: &str, nid: &str, rest: &str| {
        format!("{{\"tag\":\"trace\",\"event\":{{\"name\":\"{name}\",\"nid\":\"{nid}\"{rest}}}}}")
    };
    // A follower stands where the next line puts a change into effect.
    let change = to("\"RemoveServer\"");
    let removed = field(lines[change].split("changes").nth(1).expect("it has steps"), "nid");
    let follows =
        |line: &String| line.contains("\"ApplyConfChange\"") && line.contains("StateFollower");
    let effect = lines.iter().position(follows).expect("followers put changes into effect");
    let mut stands = lines[..effect].to_vec();
    stands.push(event("BecomeCandidate", &field(&lines[effect], "nid"), ""));
    refused_by(&stands, "stands before a committed change is in effect");
    // A leader sends to whom it has just removed.
    let effect = to("\"ApplyConfChange\"");
    let leader = field(&lines[effect], "nid");
    let mut sends = lines[..=effect].to_vec();
    let msg = format!(",\"msg\":{{\"from\":\"{leader}\",\"to\":\"{removed}\"}}");
    sends.push(event("SendAppendEntriesRequest", &leader, &msg));
    refused_by(&sends, "who is no member");
}
