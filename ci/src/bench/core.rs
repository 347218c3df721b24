//! `cargo ci bench core`: a cluster of this library next to one of the crate `raft`, in one run.
//!
//! The program is `ci/bench-core`, a workspace of its own. It runs as it is for what it sends and how long it takes, and
//! under callgrind for its instructions: those of two lengths are taken from each other, so that what comes before and
//! after the entries does not count.

use std::process::Command;
use std::sync::Mutex;

use serde::Deserialize;

use super::table;
use crate::tools::{Context, Trouble, debian_packages, failed, quiet_output, run};

/// Entries of the shorter and of the longer run under callgrind.
const SHORT: u64 = 2_048;
const LONG: u64 = 2 * SHORT;
/// Entries before it counts, and that count, in a run as it is.
const ENTRIES: u64 = 12_288;
/// Runs of which the middle one tells the time.
const RUNS: usize = 7;
const MANIFEST: &str = "ci/bench-core/Cargo.toml";

/// Where this library has to be: bytes and frames for an entry of 64 bytes, one by one, on three nodes.
const BROADCAST_MAX: (f64, f64) = (170.0, 5.0);
const UNICAST_MAX: (f64, f64) = (240.0, 6.0);

#[derive(Clone, Copy, PartialEq, Eq)]
enum System {
    Quorate,
    /// With the flash log.
    Flash,
    Raft,
}

impl System {
    const fn argument(self) -> &'static str {
        match self {
            Self::Quorate => "quorate",
            Self::Flash => "flash",
            Self::Raft => "raft",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Quorate => "quorate",
            Self::Flash => "quorate, flash log",
            Self::Raft => "raft 0.7",
        }
    }
}

/// What a cluster does.
#[derive(Clone, Copy)]
struct Ground {
    nodes: u8,
    bytes: u16,
    batch: u64,
    /// KiB of a log of this library, and its longest frame.
    log: u32,
    frame: u16,
}

/// Three nodes with logs of 256 KiB, and frames that hold a batch.
const PLAIN: Ground = Ground { nodes: 3, bytes: 64, batch: 1, log: 256, frame: 60_000 };

/// What the program tells of a run.
#[derive(Clone, Copy, Deserialize)]
struct Taken {
    entries: u64,
    seconds: f64,
    allocations: u64,
    frames: u64,
    frame_bytes: u64,
    frames_unicast: u64,
    frame_bytes_unicast: u64,
}

/// One row, by the entry.
struct Row {
    system: System,
    ground: Ground,
    instructions: u64,
    /// With the check of frames.
    instructions_checked: u64,
    commits_per_second: u64,
    allocations: f64,
    frames: f64,
    frame_bytes: f64,
    frames_unicast: f64,
    frame_bytes_unicast: f64,
}

struct Bench<'a> {
    context: &'a Context,
    program: String,
}

impl<'a> Bench<'a> {
    fn new(context: &'a Context) -> Result<Self, Trouble> {
        debian_packages(context, &["valgrind"])?;
        run(&mut context.cargo(&["build", "--release", "--manifest-path", MANIFEST]))?;
        if context.options.full {
            let clippy = ["clippy", "--release", "--all-targets", "--manifest-path", MANIFEST];
            run(&mut context.cargo(&[&clippy[..], &["--", "-D", "warnings"]].concat()))?;
        }
        let program = context.target.join("release/bench-core").to_string_lossy().into_owned();
        Ok(Self { context, program })
    }

    fn arguments(system: System, ground: Ground) -> Vec<String> {
        let Ground { nodes, bytes, batch, log, frame } = ground;
        let options =
            format!("--nodes {nodes} --bytes {bytes} --batch {batch} --log {log} --frame {frame}");
        [system.argument().to_owned()]
            .into_iter()
            .chain(options.split(' ').map(str::to_owned))
            .collect()
    }

    /// Instructions of a whole run.
    fn run_counted(
        &self,
        arguments: &[String],
        entries: u64,
        checked: bool,
    ) -> Result<u64, Trouble> {
        let mut command = self.context.command("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        if !checked {
            // Counting stops where the function is entered, and goes on where it is left.
            command.args(["--toggle-collect=*quorate::wire::check*", "--collect-atstart=yes"]);
        }
        command.arg(&self.program).args(arguments).args(["--entries", &entries.to_string()]);
        // One `rep movsb` counts as an instruction for each byte: long copies are made as short ones are.
        let never = "=1000000000";
        command.env(
            "GLIBC_TUNABLES",
            format!(
                "glibc.cpu.x86_rep_movsb_threshold{never}:glibc.cpu.x86_rep_stosb_threshold{never}"
            ),
        );
        let printed = quiet_output(&mut command)?;
        let count = printed.err.lines().find_map(|line| line.split("Collected : ").nth(1));
        match count.and_then(|count| count.trim().parse().ok()) {
            Some(count) if printed.code == Some(0) => Ok(count),
            _ => failed(format!("callgrind has counted nothing:\n{}", printed.err)),
        }
    }

    fn instructions(&self, system: System, ground: Ground, checked: bool) -> Result<u64, Trouble> {
        let arguments = Self::arguments(system, ground);
        let short = self.run_counted(&arguments, SHORT, checked)?;
        let long = self.run_counted(&arguments, LONG, checked)?;
        Ok(long.saturating_sub(short) / (LONG - SHORT))
    }

    fn run_plain(&self, system: System, ground: Ground) -> Result<Taken, Trouble> {
        let mut command: Command = self.context.command(&self.program);
        command.args(Self::arguments(system, ground));
        let entries = ENTRIES.to_string();
        command.args(["--before", &entries, "--entries", &entries]);
        let printed = quiet_output(&mut command)?;
        match serde_json::from_str(&printed.out) {
            Ok(taken) if printed.code == Some(0) => Ok(taken),
            _ => failed(format!("the cluster has stopped:\n{}", printed.err)),
        }
    }

    fn row(&self, system: System, ground: Ground) -> Result<Row, Trouble> {
        let instructions = self.instructions(system, ground, false)?;
        // The opponent has no check.
        let instructions_checked = match system {
            System::Raft => instructions,
            _ => self.instructions(system, ground, true)?,
        };
        let runs = (0..RUNS).map(|_| self.run_plain(system, ground));
        let mut runs = runs.collect::<Result<Vec<_>, _>>()?;
        runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let taken = runs[RUNS / 2];
        let by_entry = |count: u64| count as f64 / taken.entries as f64;
        let row = Row {
            system,
            ground,
            instructions,
            instructions_checked,
            commits_per_second: (taken.entries as f64 / taken.seconds) as u64,
            allocations: by_entry(taken.allocations),
            frames: by_entry(taken.frames),
            frame_bytes: by_entry(taken.frame_bytes),
            frames_unicast: by_entry(taken.frames_unicast),
            frame_bytes_unicast: by_entry(taken.frame_bytes_unicast),
        };
        row.check()?;
        Ok(row)
    }

    /// Rows in their order, two at a time.
    fn rows(&self, wanted: &[(System, Ground)]) -> Result<Vec<Row>, Trouble> {
        let next = Mutex::new(wanted.iter().enumerate());
        let made = Mutex::new(Vec::new());
        let work = || {
            loop {
                let taken = next.lock().ok().and_then(|mut next| next.next());
                let Some((at, (system, ground))) = taken else { return };
                let row = self.row(*system, *ground);
                if let Ok(mut made) = made.lock() {
                    made.push((at, row));
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(work);
            scope.spawn(work);
        });
        let mut made = made.into_inner().unwrap_or_default();
        made.sort_by_key(|(at, _)| *at);
        made.into_iter().map(|(_, row)| row).collect()
    }
}

impl Row {
    /// What must not be lost again.
    fn check(&self) -> Result<(), Trouble> {
        if self.system == System::Raft {
            return Ok(());
        }
        if self.allocations > 0.0 {
            return failed(format!("{} allocates", self.system.name()));
        }
        // Or the function that is left out was not found: each byte is looked at where it is sent and where it comes in.
        if ((self.instructions_checked - self.instructions) as f64) < 2.0 * self.frame_bytes {
            return failed("the check of frames was not counted apart");
        }
        let Ground { nodes, bytes, batch, .. } = self.ground;
        if (nodes, bytes, batch) != (3, 64, 1) {
            return Ok(());
        }
        let broadcast = (self.frame_bytes, self.frames);
        let unicast = (self.frame_bytes_unicast, self.frames_unicast);
        for (is, max) in [(broadcast, BROADCAST_MAX), (unicast, UNICAST_MAX)] {
            if is.0 > max.0 || is.1 > max.1 {
                return failed(format!(
                    "bytes and frames for an entry are {is:.1?}, not {max:.1?}"
                ));
            }
        }
        Ok(())
    }

    fn head(&self) -> [String; 3] {
        let Ground { bytes, batch, .. } = self.ground;
        [self.system.name().to_owned(), bytes.to_string(), batch.to_string()]
    }

    /// How often these instructions go into those of the opponent.
    fn ratio(&self, opponent: &Self) -> String {
        format!("{:.1}", opponent.instructions as f64 / self.instructions as f64)
    }

    fn sent(&self) -> [String; 4] {
        let two = |number: f64| format!("{number:.2}");
        let one = |number: f64| format!("{number:.1}");
        [
            two(self.frames),
            one(self.frame_bytes),
            two(self.frames_unicast),
            one(self.frame_bytes_unicast),
        ]
    }
}

const GROUNDS: [(u16, u64); 4] = [(64, 1), (1024, 1), (64, 64), (1024, 64)];

fn plain(bytes: u16, batch: u64) -> Ground {
    Ground { bytes, batch, ..PLAIN }
}

/// What a reader wants to see first.
pub(crate) fn core_short(context: &Context) -> Result<String, Trouble> {
    let wanted = GROUNDS
        .map(|(bytes, batch)| [System::Quorate, System::Raft].map(|s| (s, plain(bytes, batch))));
    let rows = Bench::new(context)?.rows(wanted.as_flattened())?;
    let mut table = table(&[
        "three nodes",
        "entry B",
        "at once",
        "instructions per entry",
        "with the frame check",
        "allocations",
        "frames",
        "B sent",
    ]);
    for row in rows {
        let [frames, bytes, ..] = row.sent();
        let checked = match row.system {
            System::Raft => String::new(),
            _ => row.instructions_checked.to_string(),
        };
        let figures = [
            row.instructions.to_string(),
            checked,
            format!("{:.2}", row.allocations),
            frames,
            bytes,
        ];
        table.add_row(row.head().into_iter().chain(figures));
    }
    Ok(table.to_string())
}

/// All figures.
pub(crate) fn core(context: &Context) -> Result<String, Trouble> {
    let bench = Bench::new(context)?;
    let systems = [System::Quorate, System::Flash, System::Raft];
    let wanted = GROUNDS.map(|(bytes, batch)| systems.map(|s| (s, plain(bytes, batch))));
    let rows = bench.rows(wanted.as_flattened())?;
    let mut first = table(&[
        "three nodes",
        "entry B",
        "at once",
        "instructions",
        "raft 0.7 has times as many",
        "with the frame check",
        "commits in a second",
        "allocations",
        "frames",
        "B sent",
        "frames, one each",
        "B sent, one each",
    ]);
    for of_ground in rows.chunks(systems.len()) {
        for row in of_ground {
            let ratio = of_ground.last().map(|opponent| row.ratio(opponent));
            let figures = [
                row.instructions.to_string(),
                ratio.unwrap_or_default(),
                row.instructions_checked.to_string(),
                row.commits_per_second.to_string(),
                format!("{:.2}", row.allocations),
            ];
            first.add_row(row.head().into_iter().chain(figures).chain(row.sent()));
        }
    }
    let systems = [System::Quorate, System::Raft];
    let wanted = [5, 7].map(|nodes| systems.map(|s| (s, Ground { nodes, ..PLAIN })));
    let more = bench.rows(wanted.as_flattened())?;
    let three = rows.iter().filter(|row| row.system != System::Flash).take(systems.len());
    let mut second = table(&[
        "entries of 64 B, one by one",
        "nodes",
        "instructions",
        "frames",
        "B sent",
        "frames, one each",
        "B sent, one each",
    ]);
    for row in three.chain(&more) {
        let head = [row.system.name().to_owned(), row.ground.nodes.to_string()];
        let figures = head.into_iter().chain([row.instructions.to_string()]);
        second.add_row(figures.chain(row.sent()));
    }
    // A log of 1 KiB allows no longer frames.
    let wanted = [1, 16, 256].map(|log| (System::Quorate, Ground { log, frame: 128, ..PLAIN }));
    let rows = bench.rows(&wanted)?;
    let mut third = table(&["log KiB", "instructions", "with the frame check"]);
    for row in rows {
        let figures = [u64::from(row.ground.log), row.instructions, row.instructions_checked];
        third.add_row(figures.map(|figure| figure.to_string()));
    }
    Ok(format!("{first}\n\n{second}\n\n{third}"))
}

/// `bench core`.
pub(crate) fn core_step(context: &Context) -> Result<String, Trouble> {
    println!("{}", core(context)?);
    Ok(format!("instructions of {} entries in each row", LONG - SHORT))
}
