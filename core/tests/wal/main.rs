//! The flash log on flash that is sound, cut short, worn or rotten.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod basic;
mod cuts;
mod flicker;
mod golden;
mod holes;
mod rot;
mod wear;

use quorate_flash_lab::{board, flash, image, life, random};
