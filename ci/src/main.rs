//! Everything that CI does, as one program: `cargo ci` runs it all, `cargo ci STEP…` some of it.

mod bench;
mod checks;
mod conformance;
mod cuts;
mod differential;
mod embedded;
mod fuzz;
mod parts;
mod planted;
mod qemu;
mod readme;
mod sim;
mod size;
mod steps;
mod symbols;
mod tidy;
mod tools;
mod trio;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use steps::{Options, Run};
use tools::{Context, Trouble};

/// Formats, lints, tests, builds for microcontrollers and simulates: what CI does, by hand.
#[derive(Parser)]
#[command(bin_name = "cargo ci", args_conflicts_with_subcommands = true)]
struct Cli {
    /// The steps to run; without any, all that CI runs.
    #[arg(value_parser = PossibleValuesParser::new(steps::names()))]
    steps: Vec<String>,
    /// Say what each step does, and run none.
    #[arg(long)]
    list: bool,
    #[command(subcommand)]
    command: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Everything, with long campaigns: every planted bug, fuzzing for minutes, wide sweeps.
    Full,
    /// Put this library next to others that do the same, on the same ground.
    Bench {
        /// What is compared.
        #[command(subcommand)]
        what: Bench,
    },
    /// Run a folder of scripts as etcd-io/raft publishes them: interaction/ with interaction-state/, quorum/, confchange/.
    Conformance {
        /// The folder.
        dir: PathBuf,
    },
    /// Cut the power of a board inside its flash operations, in every cell of word size and faults.
    Cuts(CutsArgs),
    /// Put the protocol next to the crate `raft` 0.7 by the same random schedules.
    Differential(DifferentialArgs),
    /// Try every short history of a flash log, with a cut at every operation and in every word.
    Exhaustive {
        /// Events of the longest histories.
        #[arg(long, default_value_t = cuts::exhaustive::LENGTH_FULL)]
        length: u32,
    },
    /// Flip every bit of flash images, one at a time.
    Flips,
    /// Fuzz the core with libFuzzer.
    Fuzz(FuzzArgs),
    /// Run three nodes in one program, here and on a Cortex-M0, and compare all that comes out of them.
    Hash(HashArgs),
    /// Plant bugs in a copy of the tree, one at a time, and see the simulator catch each.
    Planted(PlantedArgs),
    /// Run boards under QEMU, on a serial wire with faults, through resets and power cuts.
    Qemu(QemuArgs),
    /// Show three boards under QEMU to a person, as `cargo run` in examples/microbit does.
    Show {
        /// The firmware's image; without it, it is built.
        image: Option<PathBuf>,
    },
    /// Let places rot, one at a time, in the flash that random lives with power cuts leave.
    Rot(RotArgs),
    /// Measure what the core costs a board in code and RAM, and compare it with the budgets.
    Size(SizeArgs),
    /// Make the tables of figures in README.md and core/docs/figures.md anew.
    Readme {
        /// Change nothing; fail if a figure that must repeat differs.
        #[arg(long)]
        check: bool,
        /// This table alone, by the name at its head.
        #[arg(long)]
        table: Option<String>,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// A cluster in one process next to one of the crate `raft`: instructions, frames, bytes.
    Core,
    /// The flash log next to a queue and a key-value store.
    Flash,
    /// A cluster of real nodes next to one of etcd 3.4: requests per second, latencies, syncs.
    Node(NodeArgs),
}

#[derive(Args)]
struct NodeArgs {
    /// How long each load counts; it warms up before.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How many clients, each load after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,64", value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: Vec<u16>,
    /// How often each cluster takes its turn.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=100))]
    rounds: u32,
    /// A folder on the disk that it is about; without it, where cargo builds.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Args)]
struct CutsArgs {
    /// Cuts that land inside an operation, in every cell.
    #[arg(long, default_value_t = cuts::COUNT_FULL)]
    count: u64,
    /// What the seeds of all sessions follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The cells, by name or a part of it, as `4-prefix-decay-loop`; without any, all but those of `flicker`.
    #[arg(long = "cell")]
    cells: Vec<String>,
    /// This session of the cell alone, with every operation.
    #[arg(long)]
    session: Option<u64>,
}

#[derive(Args)]
struct DifferentialArgs {
    /// How many schedules.
    #[arg(long, default_value_t = differential::COUNT_FULL)]
    count: u64,
    /// The seed of the first; the others follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct FuzzArgs {
    /// How long each target is fuzzed.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// The targets; without any, all.
    targets: Vec<String>,
}

#[derive(Args)]
struct HashArgs {
    /// What chance follows from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// As many runs, each with the next seed.
    #[arg(long, default_value_t = trio::Campaign::SHORT.seeds)]
    seeds: u64,
}

#[derive(Args)]
struct QemuArgs {
    /// What chance follows from, as far as it is the host's.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// As many runs, each with the next seed.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Only three boards with PCs on their wire: one that votes, one that only follows.
    #[arg(long, conflicts_with = "boards")]
    pc: bool,
    /// How many boards; without it, three and then five, and then those with PCs.
    #[arg(long, value_parser = clap::value_parser!(u8).range(3..=7))]
    boards: Option<u8>,
    /// Power cuts of each run, beside those that every run has.
    #[arg(long, default_value_t = 12)]
    cuts: u32,
    /// Keep the boards' logs and flash images in this folder.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Args)]
struct RotArgs {
    /// How many lives.
    #[arg(long, default_value_t = cuts::rot::LIVES_FULL)]
    lives: u32,
    /// What they follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The life of this seed alone.
    #[arg(long)]
    life: Option<u64>,
}

#[derive(Args)]
struct SizeArgs {
    /// So many of the largest functions of an image, too.
    #[arg(long, default_value_t = 0)]
    functions: usize,
    /// That image.
    #[arg(long, default_value = "flash_log", value_parser = PossibleValuesParser::new(size::images()))]
    image: String,
    /// Set the budgets to what is measured.
    #[arg(long)]
    update: bool,
}

#[derive(Args)]
struct PlantedArgs {
    /// The most seeds that a bug may take to be caught.
    #[arg(long, default_value_t = planted::SEEDS_MAX)]
    seeds: u32,
    /// The patches, by name or a part of it; without any, all.
    patches: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.list {
        steps::list();
        return ExitCode::SUCCESS;
    }
    if let Some(Task::Show { image }) = &cli.command {
        return show(image.as_deref());
    }
    let (run, options) = match cli.command {
        None if cli.steps.is_empty() => (Run::Default, Options::default()),
        None => (Run::Named(cli.steps), Options::default()),
        Some(Task::Bench { what: Bench::Core }) => (Run::only("bench-core"), Options::default()),
        Some(Task::Bench { what: Bench::Flash }) => (Run::only("bench-flash"), Options::default()),
        Some(Task::Bench { what: Bench::Node(NodeArgs { seconds, clients, rounds, dir }) }) => {
            let clients = clients.into_iter().map(usize::from).collect();
            let bench_node = bench::NodeOptions { seconds, clients, rounds, dir };
            (Run::only("bench-node"), Options { bench_node, ..Options::default() })
        }
        Some(Task::Conformance { dir }) => {
            (Run::only("conformance"), Options { conformance: Some(dir), ..Options::default() })
        }
        // Dealt with before: it is no step.
        Some(Task::Show { .. }) => return ExitCode::FAILURE,
        Some(Task::Full) => (Run::Full, Options::full()),
        Some(Task::Cuts(args)) => {
            let CutsArgs { count, seed, cells, session } = args;
            let cuts = cuts::Campaign { count, seed, cells, session };
            (Run::only("cuts"), Options { cuts, ..Options::default() })
        }
        Some(Task::Differential(DifferentialArgs { count, seed })) => {
            let differential = differential::Campaign { count, seed };
            (Run::only("differential"), Options { differential, ..Options::default() })
        }
        Some(Task::Exhaustive { length }) => {
            (Run::only("exhaustive"), Options { history_length: length, ..Options::default() })
        }
        Some(Task::Flips) => (Run::only("flips"), Options::full()),
        Some(Task::Fuzz(args)) => (
            Run::only("fuzz"),
            Options {
                fuzz_seconds: args.seconds,
                fuzz_targets: args.targets,
                ..Options::default()
            },
        ),
        Some(Task::Hash(HashArgs { seed, seeds })) => {
            let hash = trio::Campaign { seed, seeds };
            (Run::only("hash"), Options { hash, ..Options::default() })
        }
        Some(Task::Planted(args)) => (
            Run::only("planted"),
            Options { planted_seeds: args.seeds, planted_names: args.patches, ..Options::full() },
        ),
        Some(Task::Qemu(QemuArgs { seed, seeds, boards, pc, cuts, keep })) => {
            let qemu = qemu::Campaign { seed, seeds, boards, pc, cuts, keep };
            (Run::only("qemu"), Options { qemu, ..Options::default() })
        }
        Some(Task::Rot(RotArgs { lives, seed, life })) => {
            let rot = cuts::rot::Campaign { lives, seed, life };
            (Run::only("rot"), Options { rot, ..Options::default() })
        }
        Some(Task::Size(SizeArgs { functions, image, update })) => {
            let size = size::Wishes { functions, image, update };
            (Run::only("size"), Options { size, ..Options::default() })
        }
        Some(Task::Readme { check, table }) => {
            let options =
                Options { readme_check: check, readme_table: table, ..Options::default() };
            (Run::only("readme"), options)
        }
    };
    match Context::new(options) {
        Ok(context) => steps::run(&context, &run),
        Err(trouble) => complain(&trouble),
    }
}

fn show(image: Option<&Path>) -> ExitCode {
    let shown = Context::new(Options::default()).and_then(|context| qemu::show(&context, image));
    shown.map_or_else(|trouble| complain(&trouble), |()| ExitCode::SUCCESS)
}

fn complain(trouble: &Trouble) -> ExitCode {
    eprintln!("cargo ci: {}", trouble.text());
    ExitCode::FAILURE
}
