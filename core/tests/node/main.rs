//! Whole nodes: bytes in, bytes out, with a storage in memory.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod basic;
mod changes;
mod forged;
mod forward;
mod lives;
mod members;
mod reads;
mod recovery;
mod stalls;
mod support;
