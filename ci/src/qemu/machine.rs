//! One board as a QEMU process: an image is started, stopped in the middle of whatever it does, looked into, and killed.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::tools::{self, Context, Trouble, at, failed, works};

/// The emulator, and the Debian package that has it.
pub(crate) const PROGRAM: &str = "qemu-system-arm";
const PACKAGE: &str = "qemu-system-arm";
/// An answer of QEMU's that takes longer does not come.
const ANSWER: Duration = Duration::from_secs(20);

/// Has QEMU, installed if it is missing.
pub(crate) fn install(context: &Context) -> Result<(), Trouble> {
    if works(context.command(PROGRAM).arg("--version")) {
        return Ok(());
    }
    tools::debian_packages(context, &[PACKAGE])
}

/// What a board is started with.
pub(crate) struct Start<'a> {
    /// The machine, as QEMU names it.
    pub(crate) machine: &'a str,
    /// The image, in ELF.
    pub(crate) image: &'a Path,
    /// Bytes that stand in memory besides, and where.
    pub(crate) load: Option<(&'a [u8], u32)>,
    /// Whom its UART talks to: a socket that somebody listens on.
    pub(crate) serial: Option<&'a Path>,
    /// Other arguments.
    pub(crate) more: &'a [&'a str],
    /// A folder for its files, and what they are called.
    pub(crate) folder: &'a Path,
    pub(crate) name: &'a str,
}

impl Start<'_> {
    /// The command line; what the board prints by semihosting goes to its standard output.
    fn command(&self) -> Result<Command, Trouble> {
        let mut command = Command::new(PROGRAM);
        command.args(["-M", self.machine, "-display", "none", "-monitor", "none"]);
        command.args(["-semihosting-config", "enable=on,target=native"]).args(self.more);
        command.arg("-kernel").arg(self.image);
        if let Some((bytes, address)) = self.load {
            let path = self.folder.join(format!("{}.load", self.name));
            fs::write(&path, bytes).map_err(|error| at(&path, error))?;
            let device = format!("loader,file={},addr={address:#x},force-raw=on", path.display());
            command.args(["-device", &device]);
        }
        match self.serial {
            Some(path) => command.args(["-serial", &format!("unix:{}", path.display())]),
            None => command.args(["-serial", "none"]),
        };
        command.stdin(Stdio::null());
        Ok(command)
    }
}

fn missing(error: &io::Error) -> Trouble {
    Trouble::Missing(format!("{PROGRAM} can't be run: {error}"))
}

/// A child that does not outlive what it was started for.
pub(super) struct Guarded(pub(super) Child);

impl Guarded {
    /// Has it ended?
    pub(super) fn has_ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A board that runs, under control.
pub(crate) struct Machine {
    child: Guarded,
    control: BufReader<UnixStream>,
    dump: PathBuf,
}

impl Machine {
    /// Starts it. What it prints is appended to `log`.
    pub(crate) fn start(start: &Start<'_>, log: &Path) -> Result<Self, Trouble> {
        let socket = start.folder.join(format!("{}.qmp", start.name));
        let _ = fs::remove_file(&socket);
        let out = File::options().append(true).create(true).open(log).map_err(|e| at(log, e))?;
        let mut command = start.command()?;
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        command.stdout(out).stderr(Stdio::null());
        let mut child = Guarded(command.spawn().map_err(|error| missing(&error))?);
        let begun = Instant::now();
        let control = loop {
            if let Ok(stream) = UnixStream::connect(&socket) {
                break stream;
            }
            if let Some(status) = child.0.try_wait().map_err(|error| missing(&error))? {
                return failed(format!("{PROGRAM} ended at once, with {status}"));
            }
            if begun.elapsed() > ANSWER {
                return failed(format!("{PROGRAM} does not listen on {}", socket.display()));
            }
            thread::sleep(Duration::from_millis(2));
        };
        control.set_read_timeout(Some(ANSWER)).map_err(|error| at(&socket, error))?;
        let dump = start.folder.join(format!("{}.dump", start.name));
        let mut machine = Self { child, control: BufReader::new(control), dump };
        machine.ask("qmp_capabilities", json!({}))?;
        Ok(machine)
    }

    /// Has QEMU do something, and waits until it is done.
    fn ask(&mut self, what: &str, arguments: Value) -> Result<(), Trouble> {
        let broken = |error: io::Error| Trouble::Failed(format!("{what}: QEMU is gone: {error}"));
        let line = format!("{}\n", json!({ "execute": what, "arguments": arguments }));
        self.control.get_mut().write_all(line.as_bytes()).map_err(broken)?;
        loop {
            let mut line = String::new();
            if self.control.read_line(&mut line).map_err(broken)? == 0 {
                return failed(format!("{what}: QEMU is gone"));
            }
            let answer: Value = serde_json::from_str(&line).unwrap_or_default();
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                return failed(format!("{what}: QEMU says {error}"));
            }
            // A greeting, or an event.
        }
    }

    /// The board stands still, and its time with it.
    pub(crate) fn stop(&mut self) -> Result<(), Trouble> {
        self.ask("stop", json!({}))
    }

    /// It goes on.
    pub(crate) fn go_on(&mut self) -> Result<(), Trouble> {
        self.ask("cont", json!({}))
    }

    /// Memory, as the CPU sees it.
    pub(crate) fn memory(&mut self, address: u32, bytes: usize) -> Result<Vec<u8>, Trouble> {
        let path = self.dump.clone();
        let filename = path.to_string_lossy();
        self.ask("memsave", json!({ "val": address, "size": bytes, "filename": filename }))?;
        fs::read(&path).map_err(|error| at(&path, error))
    }

    /// Has it ended, which it should not?
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.has_ended()
    }
}
