//! The deterministic simulator of whole boards: a pure function of a seed and options.
//!
//! Boards share nothing but bytes on the air. A power cut leaves the bytes in flash and what the
//! factory gave the board. [`run`] lives through faults and healing and checks the numbered invariants
//! after every step; [`World`] is the same without its own clients and faults, for who wants to decide
//! himself what happens.

mod air_events;
mod babbler;
mod board;
mod checks;
mod churn;
mod client;
mod dice;
mod durability;
mod flash;
mod members;
mod model;
mod nemesis;
mod options;
mod partial;
mod power;
mod profile;
mod protocol;
mod radio;
mod replay;
mod report;
mod requests;
mod rules;
mod run;
mod spec;
mod step;
mod sweep;
mod trace;
mod upkeep;
mod world;

pub use board::{Board, Forwarding, Live, Reading, SCHEMA, Start};
pub use dice::Dice;
pub use flash::{Chip, Part};
pub use options::{BOARDS, Fault, Faults, Options, UnknownFault, VIRTUAL_SECONDS};
pub use profile::{BoardProfile, NRF52840, Profile};
pub use radio::Weather;
pub use replay::{ReplayError, Replayed, replay};
pub use report::{COMMITS_MIN, Counters, Ending, Report, SweepReport};
pub use rules::{Rule, Violation};
pub use run::{run, run_observed};
pub use spec::SpecEvents;
pub use sweep::sweep;
pub use trace::{Difference, Fnv, Trace};
pub use world::World;
