//! `cargo ci bench node`: a cluster of three real nodes next to one of etcd 3.4, on the same disk, by the same load, in one run.

mod cluster;
mod load;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use comfy_table::Table;

use self::cluster::{Cluster, cpu_seconds};
use self::load::{Kind, Requests, Seen, System};
use super::table;
use crate::tools::{Context, Trouble, at, debian_packages, failed, quiet_output, run, works};

const SYSTEMS: [System; 2] = [System::Quorate, System::Etcd];
const WARM_UP: Duration = Duration::from_secs(2);
/// How long syncs are counted.
const COUNTING: Duration = Duration::from_secs(3);
/// Syncs that tell how fast the disk is just now, and what each makes durable.
const PROBES: usize = 101;
const PROBE_BYTES: usize = 512;

/// What a caller can set.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) seconds: u64,
    pub(crate) clients: Vec<usize>,
    pub(crate) rounds: u32,
    pub(crate) dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { seconds: 10, clients: vec![1, 64], rounds: 2, dir: None }
    }
}

impl System {
    const fn name(self) -> &'static str {
        match self {
            Self::Quorate => "quorate",
            Self::Etcd => "etcd",
        }
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

/// The load as clients make it.
type Load = (Kind, usize);

struct Bench<'a> {
    context: &'a Context,
    options: &'a Options,
    dir: PathBuf,
    rows: Table,
    seen: BTreeMap<(Load, System), Seen>,
}

impl Bench<'_> {
    /// One cluster through all loads.
    fn measure(&mut self, system: System, round: u32) -> Result<(), Trouble> {
        let mut cluster = Cluster::start(self.context, system, &self.dir, false)?;
        let leader = cluster.leader()?;
        let could_not = |error| measured(system, error);
        Requests::new(system, Kind::Put).send_for_all_keys(leader).map_err(could_not)?;
        for kind in [Kind::Put, Kind::Get] {
            let requests = Requests::new(system, kind);
            for clients in self.options.clients.iter().copied() {
                let disk = probe(&self.dir).map_err(|error| at(&self.dir, error))?;
                let before = (cluster.cpu_seconds(), cpu_seconds("self"));
                let times = (WARM_UP, Duration::from_secs(self.options.seconds));
                let seen = load::put_on(leader, &requests, clients, times).map_err(could_not)?;
                let after = (cluster.cpu_seconds(), cpu_seconds("self"));
                if seen.counted() == 0 {
                    return failed(format!("{} answered nothing in time", system.name()));
                }
                if cluster.leader()? != leader {
                    return failed(format!("{}: another node leads now; try again", system.name()));
                }
                let micros = |seconds: f64| format!("{:.0}", seconds * 1e6 / seen.answers as f64);
                let of_load = [kind.name().into(), clients.to_string(), system.name().into()];
                let of_costs = [
                    micros(after.0 - before.0),
                    micros(after.1 - before.1),
                    format!("{:.2}", disk.as_secs_f64() * 1e3),
                ];
                let cells = of_load.into_iter().chain([round.to_string()]);
                self.rows.add_row(cells.chain(figures(&seen)).chain(of_costs));
                self.seen.entry(((kind, clients), system)).or_default().add(&seen);
            }
        }
        Ok(())
    }

    /// Syncs of all three nodes for each put, in a run of its own.
    fn count_syncs(&self, system: System, clients: usize) -> Result<f64, Trouble> {
        let mut cluster = Cluster::start(self.context, system, &self.dir, true)?;
        let leader = cluster.leader()?;
        let requests = Requests::new(system, Kind::Put);
        let could_not = |error| measured(system, error);
        requests.send_for_all_keys(leader).map_err(could_not)?;
        let before = cluster.syncs()?;
        let times = (Duration::ZERO, COUNTING);
        let seen = load::put_on(leader, &requests, clients, times).map_err(could_not)?;
        match cluster.syncs()? - before {
            0 => failed(format!("strace saw no sync of {}", system.name())),
            syncs => Ok(syncs as f64 / seen.answers as f64),
        }
    }
}

fn measured(system: System, error: io::Error) -> Trouble {
    Trouble::Failed(format!("{} could not be measured: {error}", system.name()))
}

fn figures(seen: &Seen) -> [String; 4] {
    let ms = |percent| format!("{:.2}", seen.percentile(percent));
    [format!("{:.0}", seen.per_second()), ms(50), ms(90), ms(99)]
}

/// How long a sync takes on that disk, in the middle, with nothing else going on.
fn probe(dir: &Path) -> io::Result<Duration> {
    let path = dir.join("probe");
    let file = File::create(&path)?;
    let write = |number: usize, byte| {
        file.write_all_at(&[byte; PROBE_BYTES], (number * PROBE_BYTES) as u64)?;
        file.sync_data()
    };
    // At first room is made for all of it, as in a node's file.
    file.write_all_at(&vec![0; PROBES * PROBE_BYTES], 0)?;
    file.sync_all()?;
    let timed = |number| {
        let begun = Instant::now();
        write(number, 1).map(|()| begun.elapsed())
    };
    let mut took = (0..PROBES).map(timed).collect::<io::Result<Vec<_>>>()?;
    fs::remove_file(&path)?;
    took.sort_unstable();
    Ok(took[PROBES / 2])
}

/// The folder, on a disk that syncs mean something to, and that file system's name.
fn disk(context: &Context, given: Option<&Path>) -> Result<(PathBuf, String), Trouble> {
    let given = given.map_or_else(|| context.target.clone(), Path::to_owned);
    let dir = given.join("bench-node");
    fs::create_dir_all(&dir).map_err(|error| at(&dir, error))?;
    let told = quiet_output(context.command("stat").args(["-f", "-c", "%T"]).arg(&dir))?;
    let system = told.out.trim().to_owned();
    if system.is_empty() || ["tmpfs", "ramfs"].contains(&system.as_str()) {
        let _ = fs::remove_dir(&dir);
        let given = given.display();
        return failed(format!("{given} is no disk ({system}): give a folder on one with --dir"));
    }
    Ok((dir, system))
}

/// `bench node`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let (dir, file_system) = disk(context, context.options.bench_node.dir.as_deref())?;
    let ended = measure_all(context, &dir, &file_system);
    // Whatever came of it, also if there was nothing to measure with.
    let _ = fs::remove_dir_all(&dir);
    ended
}

fn measure_all(context: &Context, dir: &Path, file_system: &str) -> Result<String, Trouble> {
    let options = &context.options.bench_node;
    if !works(context.command("etcd").arg("--version")) {
        debian_packages(context, &["etcd-server"])?;
    }
    let version = quiet_output(context.command("etcd").arg("--version"))?.out;
    let version = version.lines().next().unwrap_or_default();
    if !version.contains(" 3.4.") {
        return failed(format!("etcd 3.4 is wanted, this is {version:?}"));
    }
    debian_packages(context, &["strace"])?;
    run(&mut context.cargo(&["build", "--release", "-p", "quorate-std"]))?;
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{version}; folder {} ({file_system}); load {}", dir.display(), load.trim());
    let columns =
        ["request", "clients", "cluster", "round", "per second", "p50 ms", "p90 ms", "p99 ms"];
    let costs = ["CPU µs", "client's CPU µs", "disk ms"];
    let rows = table(&[&columns[..], &costs[..]].concat());
    let mut bench = Bench { context, options, dir: dir.to_owned(), rows, seen: BTreeMap::new() };
    (1..=options.rounds).try_for_each(|round| {
        // Who comes first has what is left of the disk's cache; that goes back and forth.
        let mut systems = SYSTEMS;
        systems.rotate_left((round as usize + 1) % 2);
        systems.into_iter().try_for_each(|system| bench.measure(system, round))
    })?;
    println!("\n{}\n", bench.rows);
    let mut syncs = table(&["clients", "cluster", "syncs for each put"]);
    for clients in options.clients.iter().copied() {
        for system in SYSTEMS {
            let count = format!("{:.2}", bench.count_syncs(system, clients)?);
            syncs.add_row([clients.to_string(), system.name().into(), count]);
        }
    }
    println!(
        "Syncs ({}) of all three nodes, counted by strace in runs of their own:\n\n{syncs}\n",
        cluster::SYNCS.join(", ")
    );
    let note = ratios(&bench.seen);
    println!("{note}");
    Ok(note)
}

/// All rounds together, each next to the other, and whether that is what is aimed at; a line that sums it up.
fn ratios(seen: &BTreeMap<(Load, System), Seen>) -> String {
    let columns = ["request", "clients", "per second, quorate/etcd", "p50", "p90", "p99"];
    let mut ratios = table(&columns);
    let mut aims = Vec::new();
    for ((load, _), ours) in seen.iter().filter(|((_, system), _)| *system == System::Quorate) {
        let Some(theirs) = seen.get(&(*load, System::Etcd)) else { continue };
        let per_second = ours.per_second() / theirs.per_second();
        let slower = |percent| ours.percentile(percent) / theirs.percentile(percent);
        let (kind, clients) = *load;
        let cells = [per_second, slower(50), slower(90), slower(99)];
        let head = [kind.name().to_owned(), clients.to_string()];
        ratios.add_row(head.into_iter().chain(cells.map(|ratio| format!("{ratio:.2}"))));
        let (aim, ratio, reached) = match load {
            (Kind::Put, 1) => ("median latency of puts at 1 client", slower(50), slower(50) < 1.0),
            (Kind::Put, 64) => ("puts per second at 64 clients", per_second, per_second >= 1.0),
            _ => continue,
        };
        let reached = if reached { "reached" } else { "MISSED" };
        aims.push(format!("{aim}: {ratio:.2} of etcd's, aim {reached}"));
    }
    println!("All rounds together, this library's figure by etcd's:\n\n{ratios}\n");
    aims.join("; ")
}
