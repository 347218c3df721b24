//! Where things are, running other programs, and getting those that a machine lacks.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::steps::Options;

/// Why a step did not pass.
pub(crate) enum Trouble {
    /// It found something wrong.
    Failed(String),
    /// It could not run on this machine: the text says what to type. Under CI that is a failure.
    Missing(String),
}

impl Trouble {
    /// What went wrong.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Failed(text) | Self::Missing(text) => text,
        }
    }

    /// How the step ended.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Failed(_) => "FAILED",
            Self::Missing(_) => "COULD NOT RUN",
        }
    }
}

/// A failure with a text.
pub(crate) fn failed<T>(text: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Failed(text.into()))
}

/// Where this run takes place, and with which options.
pub(crate) struct Context {
    /// The repository.
    pub(crate) root: PathBuf,
    /// Cargo's folder for what is built, shared by all steps.
    pub(crate) target: PathBuf,
    /// A step that can't run fails: `CI=true` is set. One that was asked for by its name does so anyway.
    pub(crate) strict: bool,
    pub(crate) options: Options,
}

impl Context {
    /// Looks around.
    pub(crate) fn new(options: Options) -> Result<Self, Trouble> {
        let root = match env::var_os("CARGO_MANIFEST_DIR") {
            Some(package) => PathBuf::from(package).parent().map(Path::to_owned),
            None => env::current_dir().ok(),
        };
        let Some(root) = root.filter(|root| root.join("core/Cargo.toml").exists()) else {
            return failed("run this as `cargo ci`, inside the repository");
        };
        let target = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |dir| root.join(dir));
        let strict = env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1");
        Ok(Self { root, target, strict, options })
    }

    /// A command that runs in the repository, without what the `cargo run` above it has set.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        command
    }

    /// `cargo` with these arguments, in the toolchain that runs this program.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("cargo");
        command.args(arguments).env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// `path` below the repository, as a person would type it.
    pub(crate) fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }

    /// The files of the repository, sorted: all but what is built, hidden, or ignored as a flash image.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, Trouble> {
        let mut files = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).map_err(|error| at(&folder, error))?;
            for entry in entries {
                let path = entry.map_err(|error| at(&folder, error))?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let built = path.is_dir() && (name == "target" || name.starts_with("target-"));
                if built || name == ".git" || name.ends_with(".qfl") || path.is_symlink() {
                    continue;
                }
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        Ok(files)
    }

    /// The manifests of workspaces beside the main one: what is built for other targets or otherwise.
    pub(crate) fn own_workspaces(&self) -> Result<Vec<PathBuf>, Trouble> {
        let mut found = Vec::new();
        for path in self.files()? {
            let apart = path.ends_with("Cargo.toml") && path.parent() != Some(&self.root);
            if apart && read(&path)?.lines().any(|line| line.trim() == "[workspace]") {
                found.push(path);
            }
        }
        Ok(found)
    }
}

/// Says what is run, as it could be typed, and runs it with its output passed on.
pub(crate) fn run(command: &mut Command) -> Result<(), Trouble> {
    let line = spelled(command);
    println!("$ {line}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => failed(format!("`{line}` ended with {status}")),
        Err(error) => Err(Trouble::Missing(format!("`{line}` can't be run: {error}"))),
    }
}

/// What a command printed, both ways, and whether it succeeded.
pub(crate) struct Printed {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Says what is run and keeps its output.
pub(crate) fn output(command: &mut Command) -> Result<Printed, Trouble> {
    let line = spelled(command);
    println!("$ {line}");
    quiet_output(command)
}

/// Keeps the output of a command that is of no interest to a reader.
pub(crate) fn quiet_output(command: &mut Command) -> Result<Printed, Trouble> {
    let output = command.output().map_err(|error| {
        Trouble::Missing(format!("`{}` can't be run: {error}", spelled(command)))
    })?;
    Ok(Printed {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Does this program start and end well?
pub(crate) fn works(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn spelled(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        let quote =
            if argument.is_empty() || argument.contains([' ', '*', '$']) { "'" } else { "" };
        let _ = write!(line, " {quote}{argument}{quote}");
    }
    line
}

/// An error with the path that it came from.
pub(crate) fn at(path: &Path, error: impl std::fmt::Display) -> Trouble {
    Trouble::Failed(format!("{}: {error}", path.display()))
}

/// A text file.
pub(crate) fn read(path: &Path) -> Result<String, Trouble> {
    fs::read_to_string(path).map_err(|error| at(path, error))
}

/// The toolchain `version` of rustup, installed if it is missing.
pub(crate) fn toolchain(context: &Context, version: &str) -> Result<(), Trouble> {
    if works(context.command("rustup").args(["run", version, "rustc", "--version"])) {
        return Ok(());
    }
    println!("Rust {version} is not installed: installing it with rustup");
    let arguments = ["toolchain", "install", version, "--profile", "minimal", "--no-self-update"];
    run(context.command("rustup").args(arguments)).map_err(|_| {
        Trouble::Missing(format!(
            "Rust {version} could not be installed; type: rustup {}",
            arguments.join(" ")
        ))
    })
}

/// Debian packages, installed if this is Debian and root runs it.
pub(crate) fn debian_packages(context: &Context, packages: &[&str]) -> Result<(), Trouble> {
    let installed = |package: &&str| {
        let query = ["-W", "-f=${Status}", package];
        quiet_output(context.command("dpkg-query").args(query))
            .is_ok_and(|printed| printed.out.ends_with("ok installed"))
    };
    if packages.iter().all(installed) {
        return Ok(());
    }
    println!("installing the Debian packages {}", packages.join(" "));
    let missing = |_| {
        Trouble::Missing(format!(
            "packages could not be installed; type, as root: apt-get update && apt-get install -y {}",
            packages.join(" ")
        ))
    };
    run(context.command("apt-get").args(["update", "-q"])).map_err(missing)?;
    let mut install = context.command("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(packages);
    run(&mut install).map_err(missing)
}

/// Keeps the output of a command that may take at most this long.
pub(crate) fn output_within(command: &mut Command, limit: Duration) -> Result<Printed, Trouble> {
    let line = spelled(command);
    println!("$ {line}");
    let missing = |error| Trouble::Missing(format!("`{line}` can't be run: {error}"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(missing)?;
    let drain = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = drain(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let err = drain(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let begun = Instant::now();
    let code = loop {
        if let Some(status) = child.try_wait().map_err(missing)? {
            break status.code();
        }
        if begun.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            return failed(format!("`{line}` did not end within {} s", limit.as_secs()));
        }
        thread::sleep(Duration::from_millis(20));
    };
    let text = |handle: thread::JoinHandle<String>| handle.join().unwrap_or_default();
    Ok(Printed { code, out: text(out), err: text(err) })
}
