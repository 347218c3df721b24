#![no_std]
//! Draft.

pub mod clock;
pub mod faulty;
pub mod flash;
pub mod link;
pub mod power;
pub mod runner;
