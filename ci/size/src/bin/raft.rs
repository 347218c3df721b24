//! The protocol, with the log in RAM that it works on: for a board with another storage and wire.

#![no_std]
#![no_main]

use quorate::event::Events;
use quorate::raft::Raft;

size::keep_log!();
size::keep![
    Events::pop,
    Raft::start,
    Raft::handle_timeout,
    Raft::step,
    Raft::set_durable,
    Raft::propose,
    Raft::set_applied,
    Raft::set_snapshot,
    Raft::restore,
    Raft::set_membership,
    Raft::poll_message,
    Raft::sent,
    Raft::poll_snapshot,
    Raft::snapshot_sent,
    Raft::report_unreachable,
    Raft::deadline,
];
