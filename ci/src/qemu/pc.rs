//! A PC on the wire of the boards: a process of `quorate node`, and the `quorate` program that asks it, as a person would.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use quorate_std::content::Value;
use serde_json::Value as Json;

use super::machine::Guarded;
use crate::tools::{Trouble, at, failed};

/// What its map may hold: the boards' firmware says so.
pub(super) const CONFIG: &str = "examples/apps/gateway.toml";

/// One PC, through all its lives.
pub(super) struct Pc {
    pub(super) id: u8,
    program: PathBuf,
    config: PathBuf,
    page: PathBuf,
    wire: PathBuf,
    data: PathBuf,
    log: PathBuf,
    http: SocketAddr,
    child: Option<Guarded>,
}

/// What a command has come to.
pub(super) struct Told {
    pub(super) succeeds: bool,
    pub(super) out: String,
    pub(super) err: String,
}

impl Pc {
    /// One that is off.
    pub(super) fn new(
        id: u8,
        program: &Path,
        root: &Path,
        page: PathBuf,
        wire: &Path,
        folder: &Path,
    ) -> Result<Self, Trouble> {
        // A loopback address of its own, where there are more: nobody's outgoing connection is given its port then.
        let [.., high, low] = std::process::id().to_be_bytes();
        let listener = TcpListener::bind((Ipv4Addr::new(127, high, low, id), 0))
            .or_else(|_| TcpListener::bind("127.0.0.1:0"))
            .and_then(|listener| listener.local_addr());
        Ok(Self {
            id,
            program: program.to_owned(),
            config: root.join(CONFIG),
            page,
            wire: wire.to_owned(),
            data: folder.join(format!("pc-{id}")),
            log: folder.join(format!("pc-{id}.log")),
            http: listener.map_err(|error| Trouble::Missing(format!("no port: {error}")))?,
            child: None,
        })
    }

    /// Starts it on its directory. What it tells is appended to its log.
    pub(super) fn start(&mut self) -> Result<(), Trouble> {
        let log = File::options().append(true).create(true).open(&self.log);
        let log = log.map_err(|error| at(&self.log, error))?;
        let mut command = Command::new(&self.program);
        command.arg("node").arg("--page").arg(&self.page).arg("--data").arg(&self.data);
        command.arg("--wire").arg(format!("unix:{}", self.wire.display()));
        command.arg("--config").arg(&self.config).arg("--http").arg(self.http.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(|error| at(&self.program, error))?;
        self.child = Some(Guarded(child));
        Ok(())
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.child = None;
    }

    /// Has it ended by itself?
    pub(super) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(Guarded::has_ended)
    }

    /// It has not.
    pub(super) fn runs(&mut self) -> Result<(), Trouble> {
        if !self.has_ended() {
            return Ok(());
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().last().unwrap_or_default();
        failed(format!("node {} on the PC has ended: {last}", self.id))
    }

    /// Its image, as it lies on disk.
    pub(super) fn image(&self) -> Result<Vec<u8>, Trouble> {
        let path = self.data.join("node.qfl");
        std::fs::read(&path).map_err(|error| at(&path, error))
    }

    /// `quorate ARGUMENTS --node` this one, under way.
    pub(super) fn ask(&self, arguments: &[&str]) -> Result<Asked, Trouble> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--node").arg(self.http.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| at(&self.program, error))?;
        Ok(Asked(Guarded(child)))
    }

    /// The same, to its end.
    pub(super) fn told(&self, arguments: &[&str]) -> Result<Told, Trouble> {
        self.ask(arguments)?.told()
    }

    /// How it is; `None` if it does not answer.
    pub(super) fn status(&self) -> Result<Option<Json>, Trouble> {
        let told = self.told(&["status", "--json"])?;
        Ok(serde_json::from_str(&told.out).ok().filter(|_| told.succeeds))
    }

    /// The value of a key, linearizable or as this node has it; `None` if it can't be told, or there is none.
    pub(super) fn get(&self, key: &str, local: bool) -> Result<Option<Value>, Trouble> {
        let more: &[&str] = if local { &["--local"] } else { &[] };
        let told = self.told(&[&["get", key, "--json"], more].concat())?;
        let item: Json = serde_json::from_str(&told.out).unwrap_or_default();
        Ok(value(&item["value"]).filter(|_| told.succeeds))
    }
}

/// The values that a run gives.
pub(super) fn value(json: &Json) -> Option<Value> {
    json.as_bool().map(Value::Bool).or(json.as_i64().map(Value::Int))
}

/// A command under way.
pub(super) struct Asked(Guarded);

impl Asked {
    /// Has it come to its end?
    pub(super) fn has_ended(&mut self) -> bool {
        self.0.has_ended()
    }

    /// What it prints, for a reader of its own.
    pub(super) fn out(&mut self) -> Option<std::process::ChildStdout> {
        self.0.0.stdout.take()
    }

    /// What it told; waits for its end.
    pub(super) fn told(mut self) -> Result<Told, Trouble> {
        fn text(from: Option<impl std::io::Read>) -> String {
            let mut bytes = Vec::new();
            // What can't be read was not told.
            let _ = from.map(|mut from| from.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        }
        let child: &mut Child = &mut self.0.0;
        let (out, err) = (text(child.stdout.take()), text(child.stderr.take()));
        match child.wait() {
            Ok(status) => Ok(Told { succeeds: status.success(), out, err }),
            Err(error) => failed(format!("quorate: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_apps::{MAP_LIMITS, SCHEMA};

    #[test]
    fn a_gateway_is_told_what_the_boards_maps_hold() {
        let text = include_str!("../../../examples/apps/gateway.toml");
        let map = &toml::from_str::<toml::Table>(text).unwrap()["map"];
        let limit = |name: &str| map[name].as_integer().unwrap() as u32;
        let boards = [
            ("keys", MAP_LIMITS.keys.into()),
            ("key_bytes", MAP_LIMITS.key_bytes.into()),
            ("value_bytes", MAP_LIMITS.value_bytes.into()),
            ("bytes", MAP_LIMITS.bytes),
            ("schema", SCHEMA.into()),
        ];
        for (name, expected) in boards {
            assert_eq!(limit(name), expected, "{name}");
        }
    }
}
