//! The step `embedded`: the core on a Cortex-M0, linked without an allocator and without a panic.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::symbols::{Findings, inspect};
use crate::tools::{self, Context, Trouble, at, failed, output, quiet_output, read, run};

/// The Cortex-M0: no division, no atomics, the smallest there is.
pub(crate) const TARGET: &str = "thumbv6m-none-eabi";
/// The function of the probe that panics on purpose, if asked to.
const PLANTED: &str = "planted";

/// Debian's own compiler and the source of the library to build for any target.
const DEBIAN: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// What builds for a target.
pub(crate) struct Toolchain {
    target: &'static str,
    source: Source,
}

/// Where the library for the target comes from.
enum Source {
    /// From rustup, ready-made.
    Rustup,
    /// From Debian: its compiler builds the library too. The linker is rustup's.
    Debian { linker: PathBuf },
}

impl Toolchain {
    /// The first for the Cortex-M0 that this machine has or can get.
    pub(crate) fn find(context: &Context) -> Result<Self, Trouble> {
        Self::find_for(context, TARGET)
    }

    /// The same for another target.
    pub(crate) fn find_for(context: &Context, target: &'static str) -> Result<Self, Trouble> {
        let rustup = Self { target, source: Source::Rustup };
        if rustup_has(context, target) {
            return Ok(rustup);
        }
        println!("the target {target} is not installed: installing it with rustup");
        let added = run(context.command("rustup").args(["target", "add", target])).is_ok();
        if added && rustup_has(context, target) {
            return Ok(rustup);
        }
        println!("rustup can't get it: Debian's compiler can build it");
        let linker = rust_lld(context, target)?;
        tools::debian_packages(context, DEBIAN).map_err(|trouble| {
            Trouble::Missing(format!("type: rustup target add {target}\nor: {}", trouble.text()))
        })?;
        Ok(Self { target, source: Source::Debian { linker } })
    }

    /// `cargo` for the target.
    fn cargo(&self, context: &Context, arguments: &[&str]) -> Command {
        let folder = context.target.join("embedded");
        match &self.source {
            Source::Rustup => {
                let mut command = context.cargo(arguments);
                command.args(["--target", self.target]).env("CARGO_TARGET_DIR", folder);
                command
            }
            Source::Debian { linker } => {
                let mut command = context.command("/usr/bin/cargo");
                let path = format!("/usr/bin:{}", env::var("PATH").unwrap_or_default());
                // The driver of the ESP32's radio has a heap.
                let library = if self.target.starts_with("riscv") { "core,alloc" } else { "core" };
                let library = format!("-Zbuild-std={library}");
                command.args(arguments).args([&library, "--target", self.target]);
                command.env("PATH", path).env("RUSTC_BOOTSTRAP", "1");
                command.env_remove("RUSTC").env_remove("CARGO").env_remove("LD_LIBRARY_PATH");
                command.env(self.variable("LINKER"), linker);
                command.env("CARGO_TARGET_DIR", folder.with_extension("debian"));
                command
            }
        }
    }

    /// The variable that tells cargo the target's linker, or runner.
    fn variable(&self, what: &str) -> String {
        let target = self.target.to_uppercase().replace('-', "_");
        format!("CARGO_TARGET_{target}_{what}")
    }

    /// The compiler, by its version.
    pub(crate) fn compiler(&self, context: &Context) -> Result<String, Trouble> {
        let program = match self.source {
            Source::Rustup => "rustc",
            Source::Debian { .. } => "/usr/bin/rustc",
        };
        Ok(quiet_output(context.command(program).arg("--version"))?.out.trim().to_owned())
    }

    /// A firmware, linked: the folder of its images, which are unstripped.
    pub(crate) fn firmware(
        &self,
        context: &Context,
        arguments: &[&str],
    ) -> Result<PathBuf, Trouble> {
        self.firmware_with(context, arguments, &[])
    }

    /// The same, with variables set for its build.
    pub(crate) fn firmware_with(
        &self,
        context: &Context,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<PathBuf, Trouble> {
        let mut command = self.cargo(context, &[&["build", "--release"], arguments].concat());
        command.envs(variables.iter().copied());
        run(&mut command)?;
        let folder = command.get_envs().find(|(name, _)| *name == "CARGO_TARGET_DIR");
        let folder = folder.and_then(|(_, value)| value).map(PathBuf::from).unwrap_or_default();
        Ok(folder.join(self.target).join("release"))
    }

    /// `cargo run` in a firmware's folder knows which image is meant. Nothing runs it here.
    pub(crate) fn knows_what_to_run(
        &self,
        context: &Context,
        manifest: &str,
        variables: &[(&str, &str)],
    ) -> Result<(), Trouble> {
        let mut command = self.cargo(context, &["run", "--release", "--manifest-path", manifest]);
        command.env(self.variable("RUNNER"), "true");
        run(command.envs(variables.iter().copied()))
    }

    /// Clippy for a firmware, without a warning.
    pub(crate) fn lint(
        &self,
        context: &Context,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<(), Trouble> {
        if let Source::Debian { .. } = self.source {
            println!("no clippy for {}: it takes rustup's library for that target", self.target);
            return Ok(());
        }
        let mut command = self.cargo(context, &[&["clippy", "--release"], arguments].concat());
        command.args(["--", "-D", "warnings"]).envs(variables.iter().copied());
        run(&mut command)
    }

    /// The probe, linked. Its relocations are kept.
    fn probe(&self, context: &Context, features: &str) -> Result<Findings, Trouble> {
        let arguments = ["--manifest-path", "ci/probe/Cargo.toml", "--features", features];
        let image = self.firmware(context, &arguments)?.join("probe");
        let bytes = fs::read(&image).map_err(|error| at(&image, error))?;
        inspect(&bytes).map_err(|error| at(&image, error))
    }
}

fn rustup_has(context: &Context, target: &str) -> bool {
    let query = ["--print=target-libdir", "--target", target];
    quiet_output(context.command("rustc").args(query))
        .is_ok_and(|printed| Path::new(printed.out.trim()).exists())
}

/// The linker that rustup's toolchain brings along for itself.
fn rust_lld(context: &Context, target: &str) -> Result<PathBuf, Trouble> {
    let printed = output(context.command("rustc").args(["--print=target-libdir"]))?;
    let linker = PathBuf::from(printed.out.trim()).with_file_name("bin").join("rust-lld");
    if linker.exists() {
        return Ok(linker);
    }
    Err(Trouble::Missing(format!(
        "{} is missing; type: rustup target add {target}",
        linker.display()
    )))
}

/// `embedded`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    every_method_is_driven(context)?;
    let toolchain = Toolchain::find(context)?;
    let features = "quorate/defmt,quorate-embedded/defmt,quorate-embedded/embassy-time";
    let packages = ["build", "-p", "quorate", "-p", "quorate-embedded", "--features", features];
    run(&mut toolchain.cargo(context, &packages))?;
    let sound = toolchain.probe(context, "")?;
    if !sound.forbidden.is_empty() {
        return failed(format!(
            "the image can panic or allocate, through these symbols (<- from where):\n{}",
            sound.text()
        ));
    }
    // The probe has none of its own, and one other byte than zero would put a whole log into flash too.
    if !sound.initialized.is_empty() {
        return failed(format!("these do not begin as zeros: {:?}", sound.initialized));
    }
    // The check itself is checked: a panic in the probe is found, and the function that holds it named.
    let planted = toolchain.probe(context, "planted-panic")?;
    let caught = planted.forbidden.iter().any(|name| name.contains("core::panicking"))
        && planted
            .forbidden
            .iter()
            .any(|name| planted.culprits(name).iter().any(|name| name.contains(PLANTED)));
    if !caught {
        return failed(format!(
            "the panic planted in the probe was not found:\n{}",
            planted.text()
        ));
    }
    Ok(format!(
        "linked for {TARGET}: {} functions, no panic, no allocator; the planted panic was found",
        sound.functions
    ))
}

/// The source files whose public methods the probe has to call, each on opaque input.
const DRIVEN: &[&str] = &[
    "core/src/config.rs",
    "core/src/event.rs",
    "core/src/log",
    "core/src/membership.rs",
    "core/src/node",
    "core/src/raft",
    "core/src/typed",
    "core/src/wal/mod.rs",
    "core/src/wire.rs",
];

/// The probe proves nothing about what it does not call.
fn every_method_is_driven(context: &Context) -> Result<(), Trouble> {
    let files = context.files()?;
    let below = |folder: &str| {
        let folder = context.root.join(folder);
        files.iter().filter(move |path| path.starts_with(&folder))
    };
    let mut probe = String::new();
    for path in below("ci/probe/src") {
        probe.push_str(&read(path)?);
    }
    let mut missing = Vec::new();
    for path in DRIVEN.iter().flat_map(|part| below(part)) {
        let source = read(path)?;
        let left_out = public_methods(&source).filter(|name| !calls(&probe, name));
        let file = context.relative(path).display();
        missing.extend(left_out.map(|name| format!("{file}: {name}")));
    }
    if missing.is_empty() {
        return Ok(());
    }
    failed(format!("ci/probe does not drive these public methods:\n  {}", missing.join("\n  ")))
}

pub(crate) fn public_methods(source: &str) -> impl Iterator<Item = &str> {
    let source = source.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    source.lines().filter_map(|line| {
        let line = line.trim().strip_prefix("pub ")?;
        let name = line.trim_start_matches("const ").strip_prefix("fn ")?;
        name.split(|c: char| !c.is_alphanumeric() && c != '_').next()
    })
}

fn calls(probe: &str, name: &str) -> bool {
    probe.match_indices(name).any(|(at, _)| {
        let (before, after) = (&probe[..at], &probe[at + name.len()..]);
        let begins = !before.ends_with("fn ")
            && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        begins && after.starts_with(['(', ')', ',', ':'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_methods_are_seen_and_private_ones_are_not() {
        let source = "impl A {\n    pub const fn new() {}\n    pub fn go_on(&self) {}\n    pub(crate) fn inner() {}\n    \
                      fn own() {}\n}\n#[cfg(test)]\nmod tests {\n    pub fn helper() {}\n}\n";
        assert_eq!(public_methods(source).collect::<Vec<_>>(), ["new", "go_on"]);
    }

    #[test]
    fn a_call_is_a_whole_name() {
        assert!(calls("node.propose(x)", "propose"));
        assert!(calls("opaque(Log::reset)", "reset"));
        assert!(!calls("node.propose_all(x)", "propose"));
        assert!(!calls("fn propose(x: u8) {}", "propose"));
    }
}
