//! What the boards agree on, as an application sees it: a state machine that is fed committed
//! commands. Two are ready: [`ConfigMap`] (keys and values) and [`Replicated`] (one value of a type).
//!
//! A state machine is a function of the log: the same commands lead to the same state on every board.
//! So it reads no clock and no sensor, and what it refuses, it refuses everywhere.
//!
//! **Schemas.** Each command carries the schema version of the firmware that wrote it. A board that
//! meets a newer one than its own says [`NewerSchema`]: it goes on replicating and voting, applies
//! nothing, and its status tells so until its firmware is newer. What an older firmware wrote goes
//! through a hook of the application, see [`ConfigMap::start`] and [`Replicated::start`].

mod config_map;
mod replicated;
mod store;

pub use config_map::{Change, Command, ConfigMap, Edit, Item, MapLimits, Migrate, Value};
pub use replicated::{MigrateValue, Replicated};

use core::fmt;

use crate::node::{Node, Output};
use crate::types::EntryId;

/// What the cluster replicates: it is fed commands in the order of the log, each once after a boot or a
/// restored snapshot.
pub trait StateMachine {
    /// Takes a committed command. One that makes no sense is ignored, the same way on every board.
    ///
    /// # Errors
    /// A newer firmware wrote it. The state is unchanged, and nothing more is applied.
    fn apply(&mut self, id: EntryId, command: &[u8]) -> Result<(), NewerSchema>;

    /// Writes the bytes of the state from `offset` on into `out`; how many. Fewer than `out` holds: that
    /// was the end. Nothing is applied between the first piece and the last.
    fn snapshot(&self, offset: u32, out: &mut [u8]) -> usize;

    /// Takes a piece of a state, in order; `offset` 0 begins anew. What is shown until the `last` piece is
    /// the old state or an empty one, never a part of the new one.
    ///
    /// # Errors
    /// The bytes are no state that this board can hold; what is shown then is as before `last`.
    fn restore(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError>;
}

impl<T: StateMachine + ?Sized> StateMachine for &mut T {
    fn apply(&mut self, id: EntryId, command: &[u8]) -> Result<(), NewerSchema> {
        (**self).apply(id, command)
    }

    fn snapshot(&self, offset: u32, out: &mut [u8]) -> usize {
        (**self).snapshot(offset, out)
    }

    fn restore(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError> {
        (**self).restore(offset, bytes, last)
    }
}

/// Does what an output asks of the application; `false` if it asks nothing of it. `frame` and `flash` are
/// the buffers that were given to `poll_output`.
///
/// A state that can't be restored is treated as one of a newer schema, 0 if it is none of any.
#[inline(never)]
pub fn serve(
    node: &mut Node,
    app: &mut (impl StateMachine + ?Sized),
    output: &Output,
    frame: &[u8],
    flash: &mut [u8],
) -> bool {
    let refused = match *output {
        Output::Apply { id, len } => {
            let command = frame.get(..len).unwrap_or_default();
            app.apply(id, command).err().map(|newer| newer.found)
        }
        Output::TakeSnapshot { offset, at, len_max } => {
            let out = flash.get_mut(at..at.saturating_add(len_max)).unwrap_or_default();
            node.handle_snapshot(app.snapshot(offset, out));
            None
        }
        Output::RestoreSnapshot { offset, at, len, last } => {
            let bytes = flash.get(at..at.saturating_add(len)).unwrap_or_default();
            app.restore(offset, bytes, last).err().map(|error| match error {
                RestoreError::Newer(newer) => newer.found,
                _ => 0,
            })
        }
        Output::Flash(_)
        | Output::Transmit { .. }
        | Output::ReadReady(_)
        | Output::Proposed { .. }
        | Output::Event(_)
        | Output::Wait { .. } => return false,
    };
    if let Some(schema) = refused {
        node.refuse_apply(schema);
    }
    true
}

/// Written by a firmware with a newer schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct NewerSchema {
    /// Its schema; 65535 if the very format is newer than this library.
    pub found: u16,
}

impl fmt::Display for NewerSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "written with the newer schema {}", self.found)
    }
}

impl core::error::Error for NewerSchema {}

/// A state that can't be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RestoreError {
    /// A newer firmware wrote it.
    Newer(NewerSchema),
    /// It is larger than this board's limits allow.
    TooLarge(TooLarge),
    /// The bytes are not a state, or came out of order.
    Malformed,
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer(newer) => newer.fmt(f),
            Self::TooLarge(too_large) => too_large.fmt(f),
            Self::Malformed => f.write_str("not the bytes of a state"),
        }
    }
}

impl core::error::Error for RestoreError {}

/// Something has more bytes than there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TooLarge {
    /// Its bytes; `u32::MAX` for a value that can't be serialised at all.
    pub given: u32,
    /// Bytes that there is room for.
    pub max: u32,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, where there is room for {}", self.given, self.max)
    }
}

impl core::error::Error for TooLarge {}

/// What came of a command. It is the same on every board.
// Flat, so that `Done { 0 }` is all zeros, and a map in a `static` costs no flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Outcome {
    /// It took effect.
    Done {
        /// The revision that it made.
        revision: u64,
    },
    /// It was so already.
    Unchanged {
        /// The revision since when, 0 for a key that is not there.
        revision: u64,
    },
    /// The revision was not the one that the command expected.
    Mismatch {
        /// The revision that was found, 0 for a key that is not there.
        revision: u64,
    },
    /// The map has no place for one more key.
    TooManyKeys {
        /// Keys that there is place for.
        max: u16,
    },
    /// The key is too long.
    KeyTooLong {
        /// Bytes that a key may have.
        max: u8,
    },
    /// The value is too long.
    ValueTooLong {
        /// Bytes that a value may have.
        max: u16,
    },
    /// The map's bytes are used up.
    Full {
        /// Bytes that the change takes.
        bytes_needed: u32,
        /// Bytes that are free for it.
        bytes_free: u32,
    },
    /// An older firmware wrote it, and the state has moved on to this schema.
    Outdated {
        /// The schema of the state.
        schema: u16,
    },
    /// It is no command.
    Malformed,
}
