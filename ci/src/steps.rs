//! The list of steps, and the loop that runs them, times them and sums them up.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::tools::{Context, Trouble};
use crate::{
    bench, checks, conformance, cuts, differential, embedded, fuzz, parts, planted, qemu, readme,
    sim, size, trio,
};

/// When a step belongs to a run that names no step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// In `cargo ci`, and in `cargo ci full`.
    Always,
    /// In `cargo ci full` alone.
    Full,
    /// In neither: it takes what is not in the repository, or a machine that does nothing else.
    Asked,
}

/// One step: it ends with a line for the summary, or with what went wrong.
struct Step {
    name: &'static str,
    about: &'static str,
    when: When,
    run: fn(&Context) -> Result<String, Trouble>,
}

/// Cheap and telling ones first.
const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        about: "every Rust file is formatted",
        when: When::Always,
        run: checks::format,
    },
    Step {
        name: "lint",
        about: "clippy, and this project's own rules for its files",
        when: When::Always,
        run: checks::lint,
    },
    Step {
        name: "test",
        about: "the tests of all packages",
        when: When::Always,
        run: checks::test,
    },
    Step {
        name: "doc",
        about: "the documentation of the library packages, without a warning",
        when: When::Always,
        run: checks::doc,
    },
    Step {
        name: "embedded",
        about: "the core links for a Cortex-M0 without a panic or an allocator",
        when: When::Always,
        run: embedded::step,
    },
    Step {
        name: "size",
        about: "code and RAM on a Cortex-M0, and code on a Cortex-M4 and RISC-V, are within their budgets",
        when: When::Always,
        run: size::step,
    },
    Step {
        name: "parts",
        about: "firmware for parts that many own links: nRF52840 and RP2040, in a full run STM32G4 and ESP32-C3 too; clippy finds nothing in the micro:bit's, in a full run in any",
        when: When::Always,
        run: parts::step,
    },
    Step {
        name: "msrv",
        about: "the core builds with the oldest Rust that it declares",
        when: When::Always,
        run: checks::msrv,
    },
    Step {
        name: "sim",
        about: "sweeps of simulated clusters under all faults",
        when: When::Always,
        run: sim::sweep,
    },
    Step {
        name: "job",
        about: "the main job, and again from the images that it left",
        when: When::Always,
        run: sim::job,
    },
    Step {
        name: "qemu",
        about: "boards under QEMU hold what they agreed on, through power cuts and a wire with faults",
        when: When::Always,
        run: qemu::step,
    },
    Step {
        name: "hash",
        about: "a seed leads to one trace here and on a Cortex-M0",
        when: When::Always,
        run: trio::step,
    },
    Step {
        name: "conformance",
        about: "published scripts lead to the published states",
        when: When::Asked,
        run: conformance::step,
    },
    Step {
        name: "cuts",
        about: "power cuts inside flash operations lose nothing",
        when: When::Always,
        run: cuts::step,
    },
    Step {
        name: "exhaustive",
        about: "every short history of a flash log, cut everywhere",
        when: When::Always,
        run: cuts::exhaustive::step,
    },
    Step {
        name: "flips",
        about: "every flipped bit of a flash image is harmless or reported",
        when: When::Always,
        run: cuts::flips::step,
    },
    Step {
        name: "rot",
        about: "rot anywhere in the flash of random lives is harmless or reported",
        when: When::Always,
        run: cuts::rot::step,
    },
    Step {
        name: "differential",
        about: "the same leaders and committed logs as the crate raft 0.7, by the same schedules",
        when: When::Always,
        run: differential::step,
    },
    Step {
        name: "bench-core",
        about: "a cluster next to one of the crate raft: instructions, frames, bytes",
        when: When::Full,
        run: bench::core_step,
    },
    Step {
        name: "bench-flash",
        about: "the flash log next to a queue and a key-value store",
        when: When::Full,
        run: bench::step,
    },
    Step {
        name: "bench-node",
        about: "a cluster of real nodes next to one of etcd 3.4: requests per second, latencies, syncs",
        when: When::Asked,
        run: bench::node_step,
    },
    Step {
        name: "fuzz",
        about: "hostile frames, inputs and flash images",
        when: When::Full,
        run: fuzz::step,
    },
    Step {
        name: "planted",
        about: "bugs planted in a copy of the tree are caught",
        when: When::Always,
        run: planted::step,
    },
    Step {
        name: "readme",
        about: "the figures in README.md and core/docs are those of this tree",
        when: When::Always,
        run: readme::step,
    },
];

/// What a caller can set about the steps.
pub(crate) struct Options {
    pub(crate) bench_node: bench::NodeOptions,
    pub(crate) cuts: cuts::Campaign,
    /// The folder of published scripts.
    pub(crate) conformance: Option<PathBuf>,
    pub(crate) differential: differential::Campaign,
    /// Events of the longest histories that are tried.
    pub(crate) history_length: u32,
    pub(crate) hash: trio::Campaign,
    pub(crate) fuzz_seconds: u32,
    pub(crate) fuzz_targets: Vec<String>,
    pub(crate) planted_seeds: u32,
    pub(crate) planted_names: Vec<String>,
    pub(crate) qemu: qemu::Campaign,
    pub(crate) readme_check: bool,
    /// The table that is made; without it, all.
    pub(crate) readme_table: Option<String>,
    pub(crate) rot: cuts::rot::Campaign,
    pub(crate) size: size::Wishes,
    pub(crate) sweep_seeds: u32,
    /// Every planted bug, not just the quick ones.
    pub(crate) full: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bench_node: bench::NodeOptions::default(),
            cuts: cuts::Campaign::SHORT,
            conformance: None,
            differential: differential::Campaign::SHORT,
            history_length: cuts::exhaustive::LENGTH,
            hash: trio::Campaign::SHORT,
            fuzz_seconds: 30,
            fuzz_targets: Vec::new(),
            planted_seeds: planted::SEEDS_MAX,
            planted_names: Vec::new(),
            qemu: qemu::Campaign::SHORT,
            readme_check: true,
            readme_table: None,
            rot: cuts::rot::Campaign::SHORT,
            size: size::Wishes::default(),
            sweep_seeds: 100,
            full: false,
        }
    }
}

impl Options {
    /// For long campaigns.
    pub(crate) fn full() -> Self {
        Self {
            cuts: cuts::Campaign::LONG,
            differential: differential::Campaign::LONG,
            history_length: cuts::exhaustive::LENGTH_FULL,
            hash: trio::Campaign::LONG,
            fuzz_seconds: 300,
            qemu: qemu::Campaign::LONG,
            rot: cuts::rot::Campaign::LONG,
            sweep_seeds: 1000,
            full: true,
            ..Self::default()
        }
    }
}

/// Which steps to run.
pub(crate) enum Run {
    Default,
    Full,
    Named(Vec<String>),
}

impl Run {
    pub(crate) fn only(name: &str) -> Self {
        Self::Named(vec![name.to_owned()])
    }

    fn takes(&self, step: &Step) -> bool {
        match self {
            Self::Default => step.when == When::Always,
            Self::Full => step.when != When::Asked,
            Self::Named(names) => names.iter().any(|name| name == step.name),
        }
    }
}

/// The names of all steps.
pub(crate) fn names() -> Vec<&'static str> {
    STEPS.iter().map(|step| step.name).collect()
}

/// Prints what each step does.
pub(crate) fn list() {
    for step in STEPS {
        let note = match step.when {
            When::Always => "",
            When::Full => " (not in a plain `cargo ci`)",
            When::Asked => " (by itself alone)",
        };
        println!("{:<11} {}{note}", step.name, step.about);
    }
}

/// How one step ended.
struct Ended {
    name: &'static str,
    result: Result<String, Trouble>,
    took: Duration,
}

/// Runs the steps that `run` takes, all of them whatever fails, and prints the summary.
pub(crate) fn run(context: &Context, run: &Run) -> ExitCode {
    let begun = Instant::now();
    let mut ended = Vec::new();
    for step in STEPS.iter().filter(|step| run.takes(step)) {
        println!("\n=== {}: {}", step.name, step.about);
        let begun = Instant::now();
        let result = (step.run)(context);
        let took = begun.elapsed();
        match &result {
            Ok(note) => println!("--- {} passed in {:.1} s: {note}", step.name, took.as_secs_f32()),
            Err(trouble) => {
                let took = took.as_secs_f32();
                println!(
                    "!!! {} {} after {took:.1} s\n{}",
                    step.name,
                    trouble.word(),
                    trouble.text()
                );
            }
        }
        ended.push(Ended { name: step.name, result, took });
    }
    // Who asks for a step by its name is told if there was none.
    let strict = context.strict || matches!(run, Run::Named(_));
    summary(strict, &ended, begun.elapsed())
}

fn summary(strict: bool, ended: &[Ended], took: Duration) -> ExitCode {
    println!("\n=== summary, {:.1} s", took.as_secs_f32());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for step in ended {
        let (word, note) = match &step.result {
            Ok(note) => {
                passed += 1;
                ("passed", note.as_str())
            }
            Err(trouble @ Trouble::Missing(_)) if !strict => {
                skipped += 1;
                ("SKIPPED", trouble.text())
            }
            Err(trouble) => {
                failed += 1;
                ("FAILED", trouble.text())
            }
        };
        let note = note.lines().next().unwrap_or_default();
        println!("{:<11} {word:<8} {:>7.1} s  {note}", step.name, step.took.as_secs_f32());
    }
    println!();
    match skipped {
        0 => println!("{passed} passed, {failed} failed"),
        _ => println!("{passed} passed, {failed} failed, {skipped} skipped"),
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
