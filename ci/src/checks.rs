//! The steps that are a few cargo commands each.

use crate::tidy;
use crate::tools::{Context, Trouble, run, toolchain};

/// The oldest Rust that the packages declare.
pub(crate) const MSRV: &str = env!("CARGO_PKG_RUST_VERSION");

/// `fmt`: also what is not a member of the main workspace.
pub(crate) fn format(context: &Context) -> Result<String, Trouble> {
    run(&mut context.cargo(&["fmt", "--all", "--check"]))?;
    let apart = context.own_workspaces()?;
    for manifest in &apart {
        let path = context.relative(manifest).to_string_lossy();
        run(&mut context.cargo(&["fmt", "--all", "--check", "--manifest-path", &path]))?;
    }
    Ok(format!("the main workspace and {} of their own", apart.len()))
}

/// `lint`: clippy without a warning, once more with the core's option, and the project's own rules.
pub(crate) fn lint(context: &Context) -> Result<String, Trouble> {
    let deny = ["--", "-D", "warnings"];
    let all = ["clippy", "--workspace", "--all-targets"];
    run(&mut context.cargo(&[&all[..], &deny].concat()))?;
    let defmt = ["clippy", "-p", "quorate", "--features", "defmt"];
    run(&mut context.cargo(&[&defmt[..], &deny].concat()))?;
    tidy::check(context)
}

/// `test`.
pub(crate) fn test(context: &Context) -> Result<String, Trouble> {
    run(&mut context.cargo(&["test", "--workspace"]))?;
    Ok("all packages".to_owned())
}

/// `doc`: the packages that others build on.
pub(crate) fn doc(context: &Context) -> Result<String, Trouble> {
    let packages = ["-p", "quorate", "-p", "quorate-std", "-p", "quorate-embedded"];
    let mut command = context.cargo(&["doc", "--no-deps", "--lib", "-p", "quorate-fram"]);
    run(command.args(packages).env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok("no warning, no dead link".to_owned())
}

/// `msrv`: in a folder of its own, as another compiler shares nothing.
pub(crate) fn msrv(context: &Context) -> Result<String, Trouble> {
    toolchain(context, MSRV)?;
    let build = ["cargo", "build", "-p", "quorate", "--features", "defmt"];
    let mut command = context.command("rustup");
    command.args(["run", MSRV]).args(build);
    run(command.env("CARGO_TARGET_DIR", context.target.join("msrv")))?;
    Ok(format!("the core builds with Rust {MSRV}"))
}
