//! The steps that run the desktop program: sweeps of the simulator, and the main job.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::tools::{Context, Printed, Trouble, at, failed, output, run};

/// Clusters that a plain `cargo ci` simulates; a full one adds the small and the large.
const BOARDS: &[u32] = &[3, 5];
const BOARDS_FULL: &[u32] = &[1, 2, 3, 5, 7];

/// What asks a node to die or its disk to fail, which is for tests alone (`platform-std/src/faults.rs`).
const FAULTS: &[u8] = b"QUORATE_FAULTS";

/// The desktop program, built as its users build it.
pub(crate) fn program(context: &Context) -> Result<PathBuf, Trouble> {
    run(&mut context.cargo(&["build", "--release", "-p", "quorate-std"]))?;
    let program = context.target.join("release/quorate");
    let bytes = fs::read(&program).map_err(|error| at(&program, error))?;
    if bytes.windows(FAULTS.len()).any(|window| window == FAULTS) {
        return failed("the faults of tests are in the program that users build");
    }
    Ok(program)
}

/// A sweep over the seeds from `from` to one before `to`, under all faults.
pub(crate) fn sweep_command(context: &Context, program: &Path, from: u32, to: u32) -> Command {
    let mut command = context.command(&program.to_string_lossy());
    command.args([
        "sim",
        "sweep",
        "--seeds",
        &format!("{from}..{to}"),
        "--faults",
        "all",
        "--json",
    ]);
    command
}

/// `sim`.
pub(crate) fn sweep(context: &Context) -> Result<String, Trouble> {
    let program = program(context)?;
    let seeds = context.options.sweep_seeds;
    let boards = if context.options.full { BOARDS_FULL } else { BOARDS };
    let mut wrong = Vec::new();
    for boards in boards {
        let mut command = sweep_command(context, &program, 0, seeds);
        let printed = output(command.args(["--boards", &boards.to_string()]))?;
        print!("{}{}", printed.err, printed.out);
        match printed.code {
            Some(0) => {}
            Some(2) => wrong.push(format!("{boards} boards: inconclusive")),
            code => wrong.push(format!("{boards} boards: violated (exit code {code:?})")),
        }
    }
    if wrong.is_empty() {
        Ok(format!("{seeds} seeds with {boards:?} boards held"))
    } else {
        failed(wrong.join("\n"))
    }
}

/// `job`: the second run starts from the images that the first one left.
pub(crate) fn job(context: &Context) -> Result<String, Trouble> {
    let program = program(context)?;
    let data = context.target.join("ci-job");
    if data.exists() {
        fs::remove_dir_all(&data).map_err(|error| at(&data, error))?;
    }
    for begins in ["blank", "from the images"] {
        let mut command = context.command(&program.to_string_lossy());
        let printed = output(command.arg("--data").arg(&data))?;
        println!("{}{}", printed.err, printed.out);
        if printed.code != Some(0) {
            return failed(format!("the main job, begun {begins}: exit code {:?}", printed.code));
        }
        let nothing_set = printed.out.contains("\n0 set, 0 deleted, ");
        if nothing_set != (begins == "from the images") {
            return failed(format!(
                "the main job, begun {begins}, has set the wrong number of keys"
            ));
        }
    }
    Ok("a blank start, and one from the images that has nothing to set".to_owned())
}

/// What a sweep found violated: seed and number, in the order of the seeds. A sweep that broke down
/// found nothing.
pub(crate) fn violations(printed: &Printed) -> Result<Vec<(u64, String)>, Trouble> {
    let last = printed.out.lines().last().unwrap_or_default();
    let report: Value = serde_json::from_str(last).map_err(|_| {
        let end: Vec<&str> = printed.err.lines().rev().take(3).collect();
        Trouble::Failed(format!("the sweep broke down (exit code {:?}): {end:?}", printed.code))
    })?;
    let mut found = Vec::new();
    for (seed, violations) in report["violated"].as_object().into_iter().flatten() {
        let numbers = violations.as_array().into_iter().flatten();
        for number in numbers.filter_map(|violation| violation["rule"].as_str()) {
            found.push((seed.parse().unwrap_or(u64::MAX), number.to_owned()));
        }
    }
    if (printed.code == Some(1)) == found.is_empty() {
        return failed(format!("exit code {:?} and {} violations", printed.code, found.len()));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(code: i32, out: &str) -> Printed {
        Printed { code: Some(code), out: out.to_owned(), err: String::new() }
    }

    #[test]
    fn violations_are_read_in_the_order_of_their_seeds() {
        let out = "some text\n{\"violations\":2,\"violated\":{\"12\":[{\"rule\":\"I5\"}],\"3\":[{\"rule\":\"I1\"}]}}\n";
        let found = violations(&sweep(1, out)).ok();
        assert_eq!(found, Some(vec![(3, "I1".to_owned()), (12, "I5".to_owned())]));
    }

    #[test]
    fn a_sweep_that_held_has_no_violations() {
        assert_eq!(violations(&sweep(0, "{\"violated\":{}}")).ok(), Some(Vec::new()));
    }

    #[test]
    fn a_sweep_that_broke_down_or_contradicts_itself_is_an_error() {
        assert!(violations(&sweep(101, "thread panicked")).is_err());
        assert!(violations(&sweep(1, "{\"violated\":{}}")).is_err());
    }
}
