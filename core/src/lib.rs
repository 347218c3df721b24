//! A Raft consensus core for microcontrollers: no operating system, no allocator, a log of fixed capacity in RAM, and a
//! write-ahead log in raw NOR flash that survives a power cut in the middle of a flash word.
//!
//! The core does no I/O and reads no clock. Bytes and the time go in, one [`Output`](node::Output) at a time comes out, and the
//! board carries it out. Nothing is said before it is durable: a vote or an acknowledgement is held back until the flash
//! write under it has been confirmed.
//!
//! ```
//! use quorate::flash::{FlashDone, FlashOp};
//! use quorate::node::{Node, Output};
//! use quorate::typed::{StateMachine, serve};
//! use quorate::{Instant, NodeSet};
//!
//! trait Board {
//!     fn now(&self) -> Instant;
//!     fn flash(&mut self, op: FlashOp, buffer: &mut [u8]) -> FlashDone;
//!     fn send(&mut self, to: NodeSet, frame: &[u8]);
//!     /// Sleeps until a frame is there, or until then.
//!     fn receive(&mut self, until: Instant, frame: &mut [u8]) -> Option<usize>;
//! }
//!
//! /// Again and again, after [`Node::start`].
//! fn turn(
//!     node: &mut Node,
//!     map: &mut impl StateMachine,
//!     board: &mut impl Board,
//!     frame: &mut [u8],
//!     flash: &mut [u8],
//! ) {
//!     match node.poll_output(board.now(), frame, flash) {
//!         Output::Flash(op) => {
//!             let done = board.flash(op, flash);
//!             node.handle_flash(board.now(), done);
//!         }
//!         Output::Transmit { to, len } => board.send(to, &frame[..len]),
//!         Output::Wait { until } => match board.receive(until, frame) {
//!             Some(len) => node.handle_frame(board.now(), &frame[..len]),
//!             None => node.handle_timeout(board.now()),
//!         },
//!         output => {
//!             serve(node, map, &output, frame, flash);
//!         }
//!     }
//! }
//!
//! // So many bytes of log; on a board in a `static`.
//! let mut node = Node::<[u8; 2048]>::new();
//! let node: &mut Node = &mut node;
//! ```
//!
//! # Layers
//!
//! Each is public and can be used without those above it.
//!
//! - [`typed`]: what an application replicates: keys and values, or one value of a type.
//! - [`node`]: a whole member: protocol, log and storage behind frames, flash operations and time. [`membership`] and
//!   [`change`] are who belongs to it, [`config`] and [`plan`] what suits a link and a flash part, [`event`] what it tells.
//! - [`raft`]: the protocol alone, which knows what is durable but not where.
//! - [`log`]: the log in RAM, of [`entry`]s. [`wire`]: what a frame holds.
//! - [`storage`]: what keeps all that, [`wal`] by default: the log in [`flash`]. [`check`]: the checksum of it all.
//!
//! # Features
//!
//! - `defmt`: `defmt::Format` on the public types. Off by default.
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

pub mod change;
pub mod check;
mod codec;
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
