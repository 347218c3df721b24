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

mod checks;
mod paper;
mod render;
mod schedules;
mod script;
mod support;
mod transcripts;
