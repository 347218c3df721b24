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

pub use config_map::{Change, Command, ConfigMap, Edit, Item, MapLimits, Migrate, Value};
pub use replicated::{MigrateValue, Replicated};

use core::fmt;

use crate::entry::{decode_varint, encode_varint};
use crate::log::copy;
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

    /// Takes a piece of a state, in order; `offset` 0 begins anew, with 32 bytes or more unless the whole
    /// state is smaller. What is shown until the `last` piece is the old state or an empty one, never a
    /// part of the new one.
    ///
    /// # Errors
    /// The bytes are no state that this board can hold; what is shown then is as before `last`.
    fn restore(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError>;
}

/// Does what an output asks of the application; `false` if it asks nothing of it. `frame` and `flash` are
/// the buffers that were given to `poll_output`.
///
/// A state that can't be restored is treated as one of a newer schema, 0 if it is none of any.
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
        Output::Flash(_) | Output::Transmit { .. } | Output::Event(_) | Output::Wait { .. } => {
            return false;
        }
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
    /// It is larger than this board's limits allow, in bytes.
    TooLarge {
        /// Bytes.
        given: u32,
        /// Bytes that there is room for.
        max: u32,
    },
    /// The bytes are not a state, or came out of order.
    Malformed,
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer(newer) => newer.fmt(f),
            Self::TooLarge { given, max } => {
                write!(f, "a state of {given} bytes, where {max} can be held")
            }
            Self::Malformed => f.write_str("not the bytes of a state"),
        }
    }
}

impl core::error::Error for RestoreError {}

impl From<NewerSchema> for RestoreError {
    fn from(newer: NewerSchema) -> Self {
        Self::Newer(newer)
    }
}

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

/// Outcomes kept for the application to ask for.
const OUTCOMES: usize = 4;

/// The outcomes of the last few commands; all zeros is none.
struct Outcomes {
    kept: [(EntryId, Outcome); OUTCOMES],
    next: u8,
}

impl Outcomes {
    const NONE: Self =
        Self { kept: [(EntryId::ZERO, Outcome::Done { revision: 0 }); OUTCOMES], next: 0 };

    fn keep(&mut self, id: EntryId, outcome: Outcome) {
        if let Some(place) = self.kept.get_mut(usize::from(self.next) % OUTCOMES) {
            *place = (id, outcome);
        }
        self.next = self.next.wrapping_add(1);
    }

    fn get(&self, id: EntryId) -> Option<Outcome> {
        let kept = self.kept.iter().find(|(kept, _)| *kept == id && *kept != EntryId::ZERO);
        kept.map(|(_, outcome)| *outcome)
    }
}

/// A command that can't be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum CommandError {
    /// The buffer is too small for it.
    BufferTooSmall {
        /// Bytes of the buffer.
        given: usize,
        /// Bytes that would do.
        needed: usize,
    },
    /// No map holds such a long key.
    KeyTooLong {
        /// Bytes.
        given: usize,
        /// The most.
        max: usize,
    },
    /// No map holds such a long value.
    ValueTooLong {
        /// Bytes.
        given: usize,
        /// The most.
        max: usize,
    },
    /// The type's own `Serialize` failed.
    Serialize,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BufferTooSmall { given, needed } => {
                write!(f, "a command of {needed} bytes in a buffer of {given}")
            }
            Self::KeyTooLong { given, max } => write!(f, "a key of {given} bytes: {max} can be"),
            Self::ValueTooLong { given, max } => {
                write!(f, "a value of {given} bytes: {max} can be")
            }
            Self::Serialize => f.write_str("the value can't be serialised"),
        }
    }
}

impl core::error::Error for CommandError {}

/// A state machine's buffer is smaller than the cluster's limits ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct BufferTooSmall {
    /// Bytes of the buffer.
    pub given: u32,
    /// Bytes that would do.
    pub needed: u32,
}

impl fmt::Display for BufferTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a buffer of {} bytes, where {} are needed", self.given, self.needed)
    }
}

impl core::error::Error for BufferTooSmall {}

/// The version of what follows in this folder's formats: the low half of their first byte.
const FORMAT: u8 = 1;

/// The first byte of each format, and the schema behind it. `Ok(None)`: the bytes are something else.
fn read_schema(kind: u8, own: u16, bytes: &[u8]) -> Result<Option<(u16, &[u8])>, NewerSchema> {
    let Some((&[tag, low, high], rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    if tag & 0xf0 != kind || tag == kind {
        return Ok(None);
    }
    let found = if tag & 0x0f > FORMAT { u16::MAX } else { u16::from_le_bytes([low, high]) };
    if found > own || tag & 0x0f > FORMAT {
        Err(NewerSchema { found })
    } else {
        Ok(Some((found, rest)))
    }
}

fn schema_bytes(kind: u8, schema: u16) -> [u8; 3] {
    let [low, high] = schema.to_le_bytes();
    [kind | FORMAT, low, high]
}

/// A revision takes six bytes: at one change in a microsecond they last nine years.
const REVISION_MAX: u64 = (1 << 48) - 1;

fn revision_bytes(revision: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = revision.min(REVISION_MAX).to_le_bytes();
    [a, b, c, d, e, f]
}

fn revision_from([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

fn revision_after(revision: u64) -> u64 {
    revision.saturating_add(1).min(REVISION_MAX)
}

/// An expected revision: none is 0, and each other one more than it is.
fn read_expected(bytes: &[u8]) -> Option<(Option<u64>, &[u8])> {
    decode_varint(bytes).map(|(expected, rest)| (expected.checked_sub(1), rest))
}

/// Writes into a buffer, and counts on where it ends.
struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        copy(self.out.get_mut(self.at..).unwrap_or_default(), bytes);
        self.at = self.at.saturating_add(bytes.len());
    }

    fn put_expected(&mut self, expected: Option<u64>) {
        let value = expected.map_or(0, |revision| revision.min(REVISION_MAX).saturating_add(1));
        encode_varint(value, self.out, &mut self.at);
    }

    fn finish(self) -> Result<usize, CommandError> {
        let (given, needed) = (self.out.len(), self.at);
        if needed > given {
            Err(CommandError::BufferTooSmall { given, needed })
        } else {
            Ok(needed)
        }
    }
}

/// Copies what `head` and then `body` have from `offset` on; how many bytes.
fn window(head: &[u8], body: &[u8], offset: u32, out: &mut [u8]) -> usize {
    let (mut skip, mut at) = (offset as usize, 0usize);
    for part in [head, body] {
        let rest = part.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(part.len());
        let room = out.get_mut(at..).unwrap_or_default();
        at = at.saturating_add(rest.len().min(room.len()));
        copy(room, rest);
    }
    at
}
