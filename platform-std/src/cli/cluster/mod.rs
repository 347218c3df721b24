//! Real nodes: founding them, running one, and talking to those that run.

mod client;
mod init;
mod keys;
mod members;
mod node;
mod peers;
mod settings;

use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::Failure;

#[derive(Subcommand)]
pub(crate) enum Command {
    Init(init::Args),
    Node(Box<node::Args>),
    Put(keys::Put),
    Get(keys::Get),
    Delete(keys::Delete),
    Watch(keys::Watch),
    Status(members::Status),
    #[command(subcommand)]
    Member(members::Member),
    Transfer(members::Transfer),
    Snapshot(keys::Snapshot),
}

pub(crate) fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Init(args) => init::run(args),
        Command::Node(args) => node::run(args),
        Command::Put(args) => keys::put(args),
        Command::Get(args) => keys::get(args),
        Command::Delete(args) => keys::delete(args),
        Command::Watch(args) => keys::watch(args),
        Command::Status(args) => members::status(args),
        Command::Member(args) => members::member(args),
        Command::Transfer(args) => members::transfer(args),
        Command::Snapshot(args) => keys::snapshot(args),
    }
}
