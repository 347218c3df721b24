//! Boards with the async runner, in virtual time: their radios, their flash, and futures that are dropped.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod cancel;
mod flash;
mod flood;
mod radio;
mod support;
