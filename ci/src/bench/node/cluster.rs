//! Three nodes as processes on loopback, of this project or of etcd, with what either starts with by itself.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::load::{Connection, System, encode};
use crate::tools::{Context, Trouble, at, failed, quiet_output};

const NODES: usize = 3;
/// Far longer than an election takes.
const LEADER_MAX: Duration = Duration::from_secs(60);
/// Ticks of the clock in /proc/PID/stat, in each second: part of Linux's interface.
const TICKS: f64 = 100.0;
/// What makes a file durable.
pub(super) const SYNCS: [&str; 5] = ["fdatasync", "fsync", "msync", "sync_file_range", "syncfs"];

struct Process {
    child: Child,
    http: SocketAddr,
    /// Where strace writes down calls, if it is there.
    calls: PathBuf,
}

/// A cluster, until this is dropped.
pub(super) struct Cluster {
    system: System,
    processes: Vec<Process>,
    dir: PathBuf,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has ended by itself needs no end.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

impl Cluster {
    /// Starts one in a folder of its own; `counted`: under strace, which writes down each call that syncs.
    pub(super) fn start(
        context: &Context,
        system: System,
        dir: &Path,
        counted: bool,
    ) -> Result<Self, Trouble> {
        let dir = dir.join(match system {
            System::Quorate => "quorate",
            System::Etcd => "etcd",
        });
        // What a run left that was killed.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(|error| at(&dir, error))?;
        let mut cluster = Self { system, processes: Vec::new(), dir };
        let addresses = (0..2 * NODES).map(|_| free_address()).collect::<io::Result<Vec<_>>>();
        let addresses = addresses.map_err(|error| at(Path::new("127.0.0.1"), error))?;
        let (peers, https) = addresses.split_at(NODES);
        let members = |scheme: &str| {
            let members = peers.iter().zip(1..);
            let members: Vec<_> = members.map(|(at, id)| format!("{id}={scheme}{at}")).collect();
            members.join(",")
        };
        let quorate = context.target.join("release/quorate");
        let data = cluster.dir.to_string_lossy().into_owned();
        if system == System::Quorate {
            let mut init = context.command(&quorate.to_string_lossy());
            let made =
                quiet_output(init.args(["init", "--cluster", &members(""), "--data", &data]))?;
            if made.code != Some(0) {
                return failed(format!("`quorate init`: {}", made.err));
            }
        }
        for (id, (peer, http)) in (1..).zip(peers.iter().zip(https)) {
            let id = id.to_string();
            let data = format!("{data}/{id}");
            let (program, arguments) = match system {
                System::Quorate => (
                    quorate.to_string_lossy().into_owned(),
                    vec![
                        "node".into(),
                        format!("--id={id}"),
                        format!("--cluster={}", members("")),
                        format!("--data={data}"),
                        format!("--http={http}"),
                    ],
                ),
                System::Etcd => (
                    "etcd".into(),
                    vec![
                        format!("--name={id}"),
                        format!("--data-dir={data}"),
                        format!("--initial-cluster={}", members("http://")),
                        format!("--listen-peer-urls=http://{peer}"),
                        format!("--initial-advertise-peer-urls=http://{peer}"),
                        format!("--listen-client-urls=http://{http}"),
                        format!("--advertise-client-urls=http://{http}"),
                        "--initial-cluster-state=new".into(),
                        "--logger=zap".into(),
                    ],
                ),
            };
            let calls = cluster.dir.join(format!("{id}.calls"));
            let child = cluster.spawn(&id, &program, &arguments, counted.then_some(&calls))?;
            cluster.processes.push(Process { child, http: *http, calls });
        }
        Ok(cluster)
    }

    /// A process that ends with this one, whatever ends this one.
    fn spawn(
        &self,
        id: &str,
        program: &str,
        arguments: &[String],
        calls: Option<&PathBuf>,
    ) -> Result<Child, Trouble> {
        let log = self.dir.join(format!("{id}.log"));
        let log = File::create(&log).map_err(|error| at(&log, error))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Some(calls) = calls {
            // It stands beside the process (-D), which so is the one that is ended here; a filter in the kernel
            // (--seccomp-bpf) spares it every other call.
            command.args(["strace", "-D", "-f", "--seccomp-bpf", "-e"]);
            command.arg(format!("trace={}", SYNCS.join(","))).arg("-o").arg(calls);
        }
        command.arg(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        for (name, _) in std::env::vars_os() {
            if ["ETCD_", "QUORATE_"].iter().any(|own| name.to_string_lossy().starts_with(own)) {
                command.env_remove(name);
            }
        }
        command
            .spawn()
            .map_err(|error| Trouble::Missing(format!("{program} can't be started: {error}")))
    }

    /// Who leads, once somebody does.
    pub(super) fn leader(&mut self) -> Result<SocketAddr, Trouble> {
        let begun = Instant::now();
        while begun.elapsed() < LEADER_MAX {
            for (id, process) in (1..).zip(&mut self.processes) {
                if leads(self.system, process.http).unwrap_or(false) {
                    return Ok(process.http);
                }
                if let Ok(Some(status)) = process.child.try_wait() {
                    let log = self.dir.join(format!("{id}.log"));
                    let log = fs::read_to_string(log).unwrap_or_default();
                    let last: Vec<_> = log.lines().rev().take(5).collect();
                    return failed(format!(
                        "node {id} has ended with {status}: {}",
                        last.join("\n")
                    ));
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
        failed(format!("nobody leads after {} s", LEADER_MAX.as_secs()))
    }

    /// Seconds of processor time that its processes have taken.
    pub(super) fn cpu_seconds(&self) -> f64 {
        self.processes.iter().map(|process| cpu_seconds(&process.child.id().to_string())).sum()
    }

    /// Calls that make files durable, of all three, since they were started under strace.
    pub(super) fn syncs(&self) -> Result<u64, Trouble> {
        let of = |process: &Process| {
            let calls = fs::read_to_string(&process.calls).map_err(|e| at(&process.calls, e))?;
            // One that another thread's call interrupts has two lines, and the second no bracket behind its name.
            let is_sync =
                |line: &&str| SYNCS.iter().any(|call| line.contains(&format!(" {call}(")));
            Ok(calls.lines().filter(is_sync).count() as u64)
        };
        self.processes.iter().map(of).sum()
    }
}

fn leads(system: System, http: SocketAddr) -> Option<bool> {
    let mut connection = Connection::open(http).ok()?;
    let mut json = |method, path, body| -> Option<Json> {
        serde_json::from_slice(connection.ask(&encode(method, path, body)).ok()?).ok()
    };
    match system {
        System::Quorate => {
            let status = json("GET", "/v1/status", "")?;
            Some(status["role"] == "leader" && status["running"] == true)
        }
        System::Etcd => {
            let status = json("POST", "/v3/maintenance/status", "{}")?;
            Some(status["leader"].is_string() && status["leader"] == status["header"]["member_id"])
        }
    }
}

/// Of the process with this number, or `self`.
pub(super) fn cpu_seconds(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in brackets may hold anything; user and system time are the 12th and 13th field behind it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS
}
