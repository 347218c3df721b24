//! `quorate script`: scripts in etcd-io/raft's data-driven format.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Failure, print};
use crate::script::check::{self, Report, Unfit};
use crate::script::{Kind, Misread, Results, Script};

/// Run a script in etcd-io/raft's data-driven format on this core's protocol.
///
/// Prints one JSON object for each command: of an interaction script the states of all nodes, of a quorum script the
/// outcome, of a confchange script the configuration.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The script.
    #[arg(required_unless_present = "check")]
    file: Option<PathBuf>,
    /// Compare, and say where it differs: the states of an interaction script with those in STATES, at the lines that
    /// are quiescent there, less the fields that are listed as unstable. Without STATES, with what stands in the script.
    #[arg(long, value_name = "STATES", num_args = 0..=1)]
    check: Option<Option<PathBuf>>,
    /// Leave the nodes out where they are not quiescent: that is what a state file needs.
    #[arg(long, conflicts_with = "check")]
    quiescent: bool,
    /// Compare what leaders know of the other members, too: in which state, and what they are known to hold.
    #[arg(long, requires = "check")]
    progress: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let (file, check) = match (&args.file, &args.check) {
        (Some(file), None) => (file, None),
        (Some(file), Some(states)) => (file, Some(states.as_deref())),
        // What stands behind `--check` is the script where nothing else is.
        (None, Some(Some(file))) => (file, Some(None)),
        (None, _) => return Err(Failure::usage("a script is missing: see --help")),
    };
    let misread = |misread: Misread| Failure::usage(format!("{}:{misread}", file.display()));
    let script = Script::parse(&read(file)?).map_err(misread)?;
    let mut results = script.run().map_err(misread)?;
    if args.quiescent {
        results.leave_out_unrest();
    }
    match check {
        None => print(&(results.to_json_lines().join("\n") + "\n")),
        Some(states) => {
            let report = compare(file, states, args.progress, script.kind(), &results)?;
            tell(file, &report)
        }
    }
}

fn compare(
    file: &Path,
    states: Option<&Path>,
    progress: bool,
    kind: Kind,
    results: &Results,
) -> Result<Report, Failure> {
    let report = match (results, states) {
        (Results::States(lines), Some(states)) => check::states(lines, &read(states)?, progress),
        (_, None) => check::own(results),
        (_, Some(_)) => {
            Err(Unfit::Script("what is expected of it stands in it, not in a state file"))
        }
    };
    report.map_err(|unfit| match (unfit, states) {
        (Unfit::States(misread), Some(states)) => {
            Failure::usage(format!("{}:{misread}", states.display()))
        }
        (Unfit::States(misread), None) => Failure::usage(misread),
        (Unfit::Script(what), _) => {
            Failure::usage(format!("{}: this is a script of kind {kind:?}: {what}", file.display()))
        }
    })
}

fn tell(file: &Path, report: &Report) -> Result<ExitCode, Failure> {
    let file = file.display();
    let lines: Vec<String> =
        report.differences.iter().map(|difference| format!("{file}:{difference}\n")).collect();
    print(&lines.concat())?;
    let (compared, differ) = (report.compared, report.differences.len());
    if differ > 0 {
        return Err(Failure::new(format!(
            "{file}: {compared} commands compared, {differ} differences"
        )));
    }
    print(&format!("{file}: {compared} commands compared, all agree\n"))
}

fn read(path: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{}: can't be read: {error}", path.display())))?;
    // Some editors put a byte-order mark before it.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}
