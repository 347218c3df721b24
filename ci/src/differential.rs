//! The step `differential`: the protocol next to another implementation of it, by the same random schedules.
//!
//! The program is a workspace of its own, `ci/differential`: the other implementation takes its time to build.

use crate::tools::{Context, Trouble, run};

const MANIFEST: &str = "ci/differential/Cargo.toml";

/// How many schedules, and from which seed on.
pub(crate) struct Campaign {
    pub(crate) count: u64,
    pub(crate) seed: u64,
}

/// Schedules in `cargo ci full`.
pub(crate) const COUNT_FULL: u64 = 10_000;

impl Campaign {
    pub(crate) const SHORT: Self = Self { count: 500, seed: 1 };
    pub(crate) const LONG: Self = Self { count: COUNT_FULL, seed: 1 };
}

/// `differential`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let Campaign { count, seed } = context.options.differential;
    let own = ["--release", "--quiet", "--manifest-path", MANIFEST];
    if context.options.full {
        let clippy = [&["clippy"], &own[..], &["--all-targets", "--", "-D", "warnings"]].concat();
        run(&mut context.cargo(&clippy))?;
    }
    let (count, seed) = (count.to_string(), seed.to_string());
    let arguments = ["--", "--count", &count, "--seed", &seed];
    run(&mut context.cargo(&[&["run"], &own[..], &arguments].concat()))?;
    run(&mut context.cargo(&[&["test"], &own[..]].concat()))?;
    Ok(format!("{count} schedules: the same leaders and the same committed logs"))
}
