//! The command line of `quorate`. Each command is a module with its `Args` and a `run` that returns the exit
//! code, or the failure that is told in one line.

#[cfg(feature = "node")]
mod cluster;
mod config;
mod job;
mod plan;
mod provision;
mod script;
mod sim;
mod wal;
mod wal_json;
mod wal_recover;
mod wal_ring;
mod wal_size;
mod wal_text;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use comfy_table::{ContentArrangement, Table, TableComponent, presets};

/// Agree on a configuration over a handful of boards, and keep it through power cuts.
///
/// Without a command, FILE is replicated entry by entry over five simulated boards with NOR flash and a lossy
/// half-duplex radio, while power cuts and a partition do their worst. Then each board's flash is read afresh and
/// compared with the file.
#[derive(Parser)]
#[command(name = "quorate", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    job: job::Args,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "node")]
    #[command(flatten)]
    Cluster(cluster::Command),
    /// Look at the configuration in a board's flash image.
    #[command(subcommand)]
    Config(config::Args),
    Plan(plan::Args),
    Provision(provision::Args),
    Script(script::Args),
    /// Run whole boards in a deterministic simulation, with every fault that boards meet.
    #[command(subcommand)]
    Sim(sim::Args),
    /// Look into the flash log of a board's image, or see how long a flash part will last.
    #[command(subcommand)]
    Wal(wal::Args),
}

/// Why a command did not do what it was asked: one line that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Failure {
    what: String,
    code: u8,
}

impl Failure {
    /// It was tried, and failed: exit code 1.
    pub(crate) fn new(what: impl ToString) -> Self {
        Self { what: what.to_string(), code: 1 }
    }

    /// The command line made no sense: exit code 2, as for what clap refuses.
    pub(crate) fn usage(what: impl ToString) -> Self {
        Self { what: what.to_string(), code: 2 }
    }
}

/// Runs the program on the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        None => job::run(&cli.job),
        #[cfg(feature = "node")]
        Some(Command::Cluster(command)) => cluster::run(command),
        Some(Command::Config(args)) => config::run(args),
        Some(Command::Plan(args)) => plan::run(args),
        Some(Command::Provision(args)) => provision::run(args),
        Some(Command::Script(args)) => script::run(args),
        Some(Command::Sim(args)) => sim::run(args),
        Some(Command::Wal(args)) => wal::run(args),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("error: {failure}");
        ExitCode::from(failure.code)
    })
}

/// Prints to standard output. A reader that has gone away (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("standard output: {e}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// A table with these headings, as wide as the terminal at most.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_style(TableComponent::HeaderLines, '─');
    table.set_style(TableComponent::MiddleHeaderIntersections, '─');
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(headings.iter().copied());
    table
}
