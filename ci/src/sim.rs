//! The steps that run the desktop program: sweeps of the simulator, and the main job.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::tools::{Context, Printed, Trouble, at, failed, output, run};

/// Clusters that a plain `cargo ci` simulates; a full one adds the small and the large.
const BOARDS: &[u32] = &[3, 5];
const BOARDS_FULL: &[u32] = &[1, 2, 3, 5, 7];

/// The desktop program, built as its users build it.
pub(crate) fn program(context: &Context) -> Result<PathBuf, Trouble> {
    run(&mut context.cargo(&["build", "--release", "-p", "quorate-std"]))?;
    Ok(context.target.join("release/quorate"))
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
    for _ in 0..2 {
        run(context.command(&program.to_string_lossy()).arg("--data").arg(&data))?;
    }
    Ok("a blank start, and one from the images".to_owned())
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
    for violation in report["violated"].as_array().into_iter().flatten() {
        if let (Some(seed), Some(number)) =
            (violation["seed"].as_u64(), violation["invariant"].as_str())
        {
            found.push((seed, number.to_owned()));
        }
    }
    if (printed.code == Some(1)) == found.is_empty() {
        return failed(format!("exit code {:?} and {} violations", printed.code, found.len()));
    }
    found.sort();
    Ok(found)
}
