//! The command line of `quorate`. Each command is a module with its `Args` and a `run` that returns the exit
//! code, or the [`Failure`] that is told in one line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Agree on a configuration over a handful of boards, and keep it through power cuts.
///
/// Without a command, FILE is replicated entry by entry over five simulated boards with NOR flash and a lossy
/// half-duplex radio, while power cuts and a partition do their worst. Then each board's flash is read afresh and
/// compared with the file.
#[derive(Parser)]
#[command(name = "quorate", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {}

/// Why a command did not do what it was asked: one line that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failure(String);

/// Runs the program on the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result: Result<ExitCode, Failure> = match cli.command {
        None => Ok(ExitCode::SUCCESS),
        Some(command) => match command {},
    };
    result.unwrap_or_else(|failure| {
        eprintln!("error: {failure}");
        ExitCode::FAILURE
    })
}
