//! Compares what came of a script with what is expected of it.

use std::fmt;

use serde::Deserialize;

use super::Results;
use super::format::Misread;
use super::states::{Line, Progress, State};

/// What a comparison has found.
#[derive(Debug, Default)]
pub struct Report {
    /// Commands whose outcome was compared.
    pub compared: usize,
    /// Where it differs.
    pub differences: Vec<Difference>,
}

/// One thing that is not as expected.
#[derive(Debug)]
pub struct Difference {
    /// The line of the script.
    pub line: usize,
    /// Which node, where it is a node's.
    pub node: Option<u8>,
    /// What differs.
    pub field: &'static str,
    /// What it is here.
    pub here: String,
    /// What it should be.
    pub expected: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, node, field, here, expected } = self;
        write!(f, "{line}: ")?;
        if let Some(node) = node {
            write!(f, "node {node}: ")?;
        }
        write!(f, "{field} is {here}, expected {expected}")
    }
}

/// A line of a state file.
#[derive(Deserialize)]
struct Wanted {
    line: usize,
    quiescent: bool,
    #[serde(default)]
    schedule_unstable: Vec<String>,
    #[serde(default)]
    nodes: Vec<State>,
}

/// Why nothing could be compared.
#[derive(Debug)]
pub enum Unfit {
    /// The states can't be read, or are not those of this script; the line is the state file's.
    States(Misread),
    /// The script tells no expectations that could be compared.
    Script(&'static str),
}

/// Compares states at the lines where the state file says that everything was quiet: there no schedule can show. With
/// `progress` what leaders know of the other members, too.
///
/// # Errors
/// The state file can't be read, or is another script's.
pub fn states(lines: &[Line], text: &str, progress: bool) -> Result<Report, Unfit> {
    let misread = |at: usize, what: String| Unfit::States(Misread::new(at + 1, what));
    let mut report = Report::default();
    let mut left = lines.iter();
    for (at, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let wanted: Wanted = serde_json::from_str(text).map_err(|error| {
            // Each line is a document of its own: of its line 1 nobody wants to know.
            let (what, column) = (error.to_string(), error.column());
            let what = what.split(" at line ").next().unwrap_or_default();
            misread(at, format!("{what} (column {column})"))
        })?;
        let Some(line) = left.next().filter(|line| line.line == wanted.line) else {
            return Err(misread(
                at,
                format!("no command of the script that is next is on line {}", wanted.line),
            ));
        };
        if wanted.quiescent {
            report.compared += 1;
            compare(line, &wanted, progress, &mut report.differences);
        }
    }
    if let Some(line) = left.next() {
        let end = text.lines().count();
        return Err(misread(
            end,
            format!("the state behind line {} of the script is missing", line.line),
        ));
    }
    if report.compared == 0 {
        return Err(misread(0, "there is no quiescent line to compare".into()));
    }
    Ok(report)
}

fn compare(line: &Line, wanted: &Wanted, progress: bool, differences: &mut Vec<Difference>) {
    let ids = |states: &[State]| states.iter().map(|state| state.id).collect::<Vec<_>>();
    let mut differs = |node, field, here: String, expected: String| {
        differences.push(Difference { line: line.line, node, field, here, expected });
    };
    if ids(&line.nodes) != ids(&wanted.nodes) {
        let texts = (format!("{:?}", ids(&line.nodes)), format!("{:?}", ids(&wanted.nodes)));
        return differs(None, "the list of nodes", texts.0, texts.1);
    }
    let stable = |names: &[&str]| {
        !wanted.schedule_unstable.iter().any(|unstable| names.contains(&unstable.as_str()))
    };
    for (here, there) in line.nodes.iter().zip(&wanted.nodes) {
        let mut field = |names: &[&'static str], a: &dyn ToText, b: &dyn ToText| {
            let (a, b) = (a.to_text(), b.to_text());
            if a != b && stable(names) {
                differs(Some(here.id), names.first().copied().unwrap_or_default(), a, b);
            }
        };
        field(&["role"], &here.role, &there.role);
        field(&["term"], &here.term, &there.term);
        field(&["vote"], &here.vote, &there.vote);
        field(&["lead"], &here.lead, &there.lead);
        field(&["commit"], &here.commit, &there.commit);
        field(&["applied"], &here.applied, &there.applied);
        field(&["last_index"], &here.last_index, &there.last_index);
        field(&["last_term"], &here.last_term, &there.last_term);
        field(&["conf"], &here.conf, &there.conf);
        field(&["log", "stored_log"], &here.log, &there.log);
        if progress {
            // The original lists the leader itself.
            let others = |state: &State| -> Vec<Progress> {
                let own = state.id;
                state.progress.iter().filter(|member| member.id != own).cloned().collect()
            };
            field(&["progress"], &others(here), &others(there));
        }
    }
}

/// A field as it is told.
trait ToText {
    fn to_text(&self) -> String;
}

impl<T: serde::Serialize + ?Sized> ToText for T {
    fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Compares the answers of a script with what stands in it: the outcomes of a quorum script, the configurations of a
/// confchange script. Of an interaction script `raft-state` and `raft-log`: the rest are the original's words.
///
/// # Errors
/// There is nothing of that kind.
pub fn own(results: &Results) -> Result<Report, Unfit> {
    let mut report = Report::default();
    match results {
        Results::States(lines) => {
            // Where the original was told to be silent it says no more than that all went well.
            let told = |line: &&Line| line.answers && line.expected != "ok";
            for line in lines.iter().filter(told) {
                let here = line.result.join("\n");
                report.answer(line.line, here == line.expected, &here, &line.expected);
            }
        }
        Results::Outcomes(all) => {
            for one in all {
                let agrees = one.result.agrees(&one.expected);
                report.answer(one.line, agrees, &one.result, &one.expected);
            }
        }
        Results::Changes(all) => {
            for one in all {
                let agrees = one.result.agrees(&one.expected);
                report.answer(one.line, agrees, &one.result, &one.expected);
            }
        }
    }
    if report.compared == 0 {
        return Err(Unfit::Script("without a state file nothing in it can be compared"));
    }
    Ok(report)
}

impl Report {
    fn answer(&mut self, line: usize, agrees: bool, here: &dyn ToText, expected: &str) {
        self.compared += 1;
        if !agrees {
            let (here, expected) = (here.to_text(), expected.to_text());
            self.differences.push(Difference {
                line,
                node: None,
                field: "the answer",
                here,
                expected,
            });
        }
    }
}
