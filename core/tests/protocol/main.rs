//! The protocol, tested as a whole: `Raft` and `Log` on a few boards whose frames are encoded and decoded,
//! whose flash acknowledges when it is told to, and whose clocks are their own.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod board;
mod campaigns;
mod checks;
mod drive;
mod durability;
mod elections;
mod flow;
mod joint;
mod learners;
mod membership;
mod messages;
mod prevote;
mod reads;
mod render;
mod replication;
mod schedules;
mod script;
mod snapshots;
mod support;
mod tables;
mod transcripts;
mod transfer;
