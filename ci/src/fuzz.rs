//! The step `fuzz`: libFuzzer on hostile frames, input sequences, flash images and what a flash log is asked for.
//!
//! The targets in `ci/fuzz` need no sanitizer, as the core has no unsafe code, and so no nightly
//! compiler; what counts is a panic, an overflow, an endless loop or a broken promise.

use std::fs;
use std::path::{Path, PathBuf};

use crate::tools::{Context, Trouble, at, failed, run, works};

/// The targets, by the names of their files in `ci/fuzz/fuzz_targets`.
const TARGETS: &[&str] = &["wire", "node", "wal_image", "wal_ops"];

/// `fuzz`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let cargo_fuzz = cargo_fuzz(context)?;
    let chosen = &context.options.fuzz_targets;
    if let Some(unknown) = chosen.iter().find(|name| !TARGETS.contains(&name.as_str())) {
        return failed(format!("no target {unknown}; there are {}", TARGETS.join(", ")));
    }
    let seconds = context.options.fuzz_seconds;
    let mut count = 0;
    for target in
        TARGETS.iter().filter(|name| chosen.is_empty() || chosen.iter().any(|n| n == *name))
    {
        fuzz(context, &cargo_fuzz, target, seconds)?;
        count += 1;
    }
    Ok(format!("{count} targets, {seconds} s each, nothing found"))
}

/// What is found grows a corpus below the target folder; the one in the repository is only read.
fn fuzz(context: &Context, cargo_fuzz: &Path, target: &str, seconds: u32) -> Result<(), Trouble> {
    let folder = context.target.join("fuzz");
    let (corpus, found) =
        (folder.join("corpus").join(target), folder.join("artifacts").join(target));
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).map_err(|error| at(folder, error))?;
    }
    let mut command = context.command(&cargo_fuzz.to_string_lossy());
    command.args(["fuzz", "run", "--fuzz-dir", "ci/fuzz", "--sanitizer", "none"]);
    command.args(["--features", "libfuzzer", target]);
    command.arg(corpus).arg(context.root.join("ci/fuzz/corpus").join(target));
    command.arg("--").arg(format!("-artifact_prefix={}/", found.display()));
    command.args([&format!("-max_total_time={seconds}"), "-timeout=10", "-max_len=4096"]);
    command.env("CARGO_PROFILE_RELEASE_LTO", "off");
    run(command.env("CARGO_TARGET_DIR", &folder)).map_err(|trouble| {
        Trouble::Failed(format!(
            "{target}: see the input under {}\n{}",
            found.display(),
            trouble.text()
        ))
    })
}

/// `cargo-fuzz`, installed below the target folder if it is missing.
fn cargo_fuzz(context: &Context) -> Result<PathBuf, Trouble> {
    let own = context.target.join("tools");
    for program in [PathBuf::from("cargo-fuzz"), own.join("bin/cargo-fuzz")] {
        if works(context.command(&program.to_string_lossy()).arg("--version")) {
            return Ok(program);
        }
    }
    println!("cargo-fuzz is not installed: installing it below {}", own.display());
    let mut install = context.cargo(&["install", "cargo-fuzz", "--locked", "--quiet", "--root"]);
    run(install.arg(&own)).map_err(|_| {
        Trouble::Missing(
            "cargo-fuzz could not be installed; type: cargo install cargo-fuzz --locked".to_owned(),
        )
    })?;
    Ok(own.join("bin/cargo-fuzz"))
}
