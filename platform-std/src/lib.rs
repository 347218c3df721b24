//! Quorate on a PC: real nodes (`node`), the deterministic simulator of whole boards ([`sim`]), and the `quorate` program.

pub mod boards;
mod boxed;
pub mod cli;
pub mod config_file;
pub mod content;
pub mod data_dir;
pub mod disk;
#[cfg(feature = "faults")]
pub mod faults;
pub mod fit;
pub mod flash_file;
pub mod image;
#[cfg(feature = "node")]
pub mod node;
pub mod provision;
pub mod recover;
pub mod replicate;
pub mod script;
pub mod sim;
pub mod wal_image;
mod wal_layout;
pub mod wal_life;
mod wal_walk;
