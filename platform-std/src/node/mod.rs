//! A real node: the core on a PC, with a file for flash and sockets for radio.
//!
//! ```text
//!  sockets ── link ──▶ frames ─┐                      ┌─▶ flash thread ──▶ node.qfl
//!                              ├─▶ runner (the Node) ─┤
//!  Handle ──────────▶ requests ┘                      └─▶ link ──▶ sockets
//! ```
//!
//! One task owns the node. All that comes to it, and all that it hands on, goes through bounded queues; nothing else is
//! shared. [`start()`] makes a node from its directory and gives a [`Handle`], by which any task asks: the `quorate` program does
//! all that it does by one.

pub mod address;
mod events;
mod flash_thread;
mod handle;
pub mod http;
pub mod link;
mod page;
mod points;
mod question;
mod reads;
mod report;
mod runner;
pub mod sizes;
mod start;
mod writes;

pub use handle::{
    ChangeError, Consistency, Handle, Item, Notice, ReadError, Shown, TransferError, Watch,
    WriteError, Written, outcome_in_words,
};
pub use page::by_page;
pub use report::{Counts, MemberReport, Report};
pub use runner::Ended;
pub use start::{IMAGE, Joining, Options, Running, StartError, Transport, found, start};
