//! The step `fuzz`: libFuzzer on hostile frames, input sequences and flash images.
//!
//! The targets in `ci/fuzz` need no sanitizer, as the core has no unsafe code, and so no nightly
//! compiler; what counts is a panic, an overflow, an endless loop or a broken promise.

use std::path::PathBuf;

use crate::tools::{Context, Trouble, failed, run, works};

/// The targets, by the names of their files in `ci/fuzz/fuzz_targets`.
const TARGETS: &[&str] = &["wire", "node", "wal_image"];

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
        let mut command = context.command(&cargo_fuzz.to_string_lossy());
        command.args(["fuzz", "run", "--fuzz-dir", "ci/fuzz", "--sanitizer", "none", target]);
        command.args(["--", &format!("-max_total_time={seconds}"), "-timeout=10", "-max_len=4096"]);
        run(command.env("CARGO_TARGET_DIR", context.target.join("fuzz")))?;
        count += 1;
    }
    Ok(format!("{count} targets, {seconds} s each, nothing found"))
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
