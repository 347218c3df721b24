#![no_std]
#![doc = "Draft."]
#[cfg(test)]
extern crate std;
#[cfg(test)]
use std::prelude::v1::*;
#[cfg(test)]
use std::vec;

pub mod entry;
pub mod flash;
pub mod log;
mod types;
pub use types::*;
