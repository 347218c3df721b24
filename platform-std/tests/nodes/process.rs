//! Nodes as processes of their own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use quorate_std::faults::FAULTS;
use serde_json::Value as Json;

use crate::proxy::Wires;

/// Far longer than anything takes that works.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Small, so that logs are compacted and segments erased while a test runs.
pub(crate) const SIZES: [&str; 6] =
    ["--log-bytes", "65536", "--map-bytes", "1048576", "--frame-bytes", "8192"];

/// So many, unless told otherwise: `QUORATE_ROUNDS=10 cargo test -p quorate-std --test nodes`.
pub(crate) fn rounds(usual: u64) -> u64 {
    std::env::var("QUORATE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
}

/// A free one. Each is of a loopback address of its own, where the system has more than one: so nobody's outgoing connection can
/// be given this port meanwhile.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % 254 + 1;
    let own = Ipv4Addr::new(127, high, low, number as u8);
    let listener = TcpListener::bind((own, 0)).or_else(|_| TcpListener::bind("127.0.0.1:0"));
    listener.unwrap().local_addr().unwrap()
}

pub(crate) fn quorate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

/// Standard output of a run that succeeds.
pub(crate) fn run(args: &[&str]) -> String {
    let output = quorate(args);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one line of a run that fails, and its exit code.
pub(crate) fn refused(args: &[&str]) -> (i32, String) {
    let output = quorate(args);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{args:?} succeeds");
    let error = told.lines().find(|line| line.starts_with("error: "));
    let error = error.unwrap_or_else(|| panic!("{args:?}: {told}"));
    (output.status.code().unwrap(), error.into())
}

/// A node's process, its addresses, and what else it is started with.
pub(crate) struct Process {
    pub(crate) id: u8,
    /// Where the others find it.
    pub(crate) peer: SocketAddr,
    /// Where it listens, if not there.
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) http: SocketAddr,
    pub(crate) data: PathBuf,
    /// What is to go wrong with its disk, and where it dies.
    pub(crate) faults: Option<String>,
    pub(crate) extra: Vec<String>,
    log: PathBuf,
    /// Where in its log its newest life begins.
    life_at: usize,
    child: Option<Child>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- node {}:\n{}", self.id, self.log());
        }
    }
}

impl Process {
    pub(crate) fn new(dir: &Path, id: u8, extra: &[&str]) -> Self {
        Self {
            id,
            peer: free_address(),
            listen: None,
            http: free_address(),
            data: dir.join(id.to_string()),
            faults: None,
            extra: extra.iter().map(|text| text.to_string()).collect(),
            log: dir.join(format!("{id}.log")),
            life_at: 0,
            child: None,
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn command(&self, cluster: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command
            .args(["node", "--id", &self.id.to_string(), "--cluster", cluster, "--data"])
            .arg(&self.data)
            .args(["--http", &self.http.to_string()])
            .args(["--heartbeat-ms", "50", "--election-ms", "500"])
            .args(self.listen.iter().flat_map(|at| ["--listen".into(), at.to_string()]))
            .args(&self.extra)
            .envs(self.faults.iter().map(|faults| (FAULTS, faults)))
            .stdin(Stdio::null());
        command
    }

    /// What it has told in its newest life.
    pub(crate) fn log_of_life(&self) -> String {
        self.log().split_off(self.life_at)
    }

    pub(crate) fn start(&mut self, cluster: &str) {
        self.life_at = self.log().len();
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let child = self.command(cluster).stderr(log).spawn().unwrap();
        self.child = Some(child);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// How it ended by itself, if it has.
    pub(crate) fn try_ended(&mut self) -> Option<i32> {
        let status = self.child.as_mut().unwrap().try_wait().unwrap()?;
        self.child = None;
        Some(status.code().unwrap_or(-1))
    }

    /// How it ends by itself.
    pub(crate) fn ended(&mut self) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(code) = self.try_ended() {
                return code;
            }
            assert!(began.elapsed() < LONG, "node {} does not end", self.id);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// One request; `None` if there is no answer.
    pub(crate) fn request(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, String)> {
        request(self.http, method, path, body)
    }

    pub(crate) fn json(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, Json)> {
        let (status, text) = self.request(method, path, body)?;
        let json = serde_json::from_str(&text);
        Some((status, json.unwrap_or_else(|_| panic!("{method} {path}: {text}"))))
    }

    pub(crate) fn status(&self) -> Option<Json> {
        self.json("GET", "/v1/status", b"").map(|(_, status)| status)
    }
}

pub(crate) fn request(
    at: SocketAddr,
    method: &str,
    path: &str,
    body: &[u8],
) -> Option<(u16, String)> {
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(20)))
        .build()
        .new_agent();
    let request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("http://{at}{path}"))
        .body(body)
        .unwrap();
    let mut response = agent.run(request).ok()?;
    let text = response.body_mut().read_to_string().ok()?;
    Some((response.status().as_u16(), text))
}

/// A cluster of processes.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Process>,
    pub(crate) dir: tempfile::TempDir,
}

impl Cluster {
    /// Founded and started.
    pub(crate) fn start(members: u8, extra: &[&str]) -> Self {
        let mut cluster = Self::found(members, extra);
        for at in 0..cluster.nodes.len() {
            cluster.start_node(at);
        }
        cluster.leader();
        cluster
    }

    /// The same, with a wire that can have faults.
    pub(crate) fn start_on_wires(members: u8) -> (Self, Wires) {
        Self::start_through(members, &[], Wires::new)
    }

    /// The same, with something between the nodes: it is told where they listen, and tells where they are reached.
    pub(crate) fn start_through<T>(
        members: u8,
        extra: &[&str],
        between: impl FnOnce(&[(u8, SocketAddr)]) -> (T, Vec<SocketAddr>),
    ) -> (Self, T) {
        let mut cluster = Self::new(members, extra);
        let at: Vec<_> = cluster.nodes.iter().map(|node| (node.id, node.peer)).collect();
        let (wires, addresses) = between(&at);
        for (node, address) in cluster.nodes.iter_mut().zip(addresses) {
            node.listen = Some(std::mem::replace(&mut node.peer, address));
        }
        cluster.init();
        for at in 0..cluster.nodes.len() {
            cluster.start_node(at);
        }
        cluster.leader();
        (cluster, wires)
    }

    fn new(members: u8, extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let nodes = (1..=members).map(|id| Process::new(dir.path(), id, extra)).collect();
        Self { nodes, dir }
    }

    pub(crate) fn found(members: u8, extra: &[&str]) -> Self {
        let cluster = Self::new(members, extra);
        cluster.init();
        cluster
    }

    fn init(&self) {
        let members = self.nodes.len();
        let peers = self.peers();
        let data = self.dir.path().to_str().unwrap();
        let told = run(&[&["init", "--cluster", &peers, "--data", data], &SIZES[..]].concat());
        assert_eq!(told.lines().count(), members + 1, "{told}");
    }

    pub(crate) fn peers(&self) -> String {
        let peers: Vec<_> =
            self.nodes.iter().map(|node| format!("{}={}", node.id, node.peer)).collect();
        peers.join(",")
    }

    pub(crate) fn start_node(&mut self, at: usize) {
        let peers = self.peers();
        self.nodes[at].start(&peers);
    }

    pub(crate) fn https(&self) -> String {
        let https: Vec<_> = self.nodes.iter().map(|node| node.http.to_string()).collect();
        https.join(",")
    }

    /// Where in `nodes` the leader is, once all that answer know one.
    pub(crate) fn leader(&self) -> usize {
        self.wait("a leader", || {
            let statuses: Vec<_> = self.nodes.iter().filter_map(Process::status).collect();
            let leads = |status: &&Json| status["role"] == "leader";
            let leader =
                statuses.iter().filter(leads).max_by_key(|status| status["term"].as_u64())?;
            let id = leader["id"].as_u64()?;
            self.nodes.iter().position(|node| u64::from(node.id) == id)
        })
    }

    pub(crate) fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            if began.elapsed() > LONG {
                let statuses: Vec<_> = self.nodes.iter().map(Process::status).collect();
                panic!("{what}: {statuses:#?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Until all nodes have applied the same; that revision.
    pub(crate) fn agree(&self) -> u64 {
        self.wait("nodes agree", || {
            let shown: Vec<_> = self
                .nodes
                .iter()
                .map(|node| {
                    let status = node.status()?;
                    let running = status["running"] == true;
                    running.then(|| {
                        [
                            status["applied"].clone(),
                            status["revision"].clone(),
                            status["hash"].clone(),
                        ]
                    })
                })
                .collect::<Option<_>>()?;
            let same = shown.windows(2).all(|pair| pair[0] == pair[1]);
            same.then(|| shown[0][1].as_u64().unwrap())
        })
    }
}
