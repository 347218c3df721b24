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
mod identity;
pub mod log;
mod types;
pub mod wal;
pub use identity::Identity;
pub use types::*;
