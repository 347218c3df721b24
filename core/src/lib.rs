#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable
    )
)]
#![doc = "Draft."]

pub mod change;
mod check;
pub mod config;
mod encode;
pub mod entry;
pub mod event;
pub mod flash;
mod identity;
pub mod log;
pub mod membership;
pub mod node;
pub mod plan;
pub mod raft;
pub mod storage;
pub mod typed;
mod types;
pub mod wal;
pub mod wire;
pub use identity::Identity;
pub use types::*;
