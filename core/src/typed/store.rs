//! What the two state machines share: a state that lies in its array as the bytes of its snapshot,
//! `tag u8 · schema u16 · revision u48 · body`, and commands that begin with `tag u8 · schema u16`.

use serde::Serialize;

use super::{NewerSchema, Outcome, RestoreError, TooLarge};
use crate::encode::{size, to_slice};
use crate::log::copy;
use crate::types::EntryId;

/// Tag, schema, revision.
pub(super) const HEAD_BYTES: usize = 9;
/// Tag, schema.
pub(super) const COMMAND_HEAD_BYTES: usize = 3;
/// The version of all that follows the tag, in its low half; the high half says whose it is.
const FORMAT: u8 = 1;
/// A revision takes six bytes: at one change in a microsecond they last nine years.
const REVISION_MAX: u64 = (1 << 48) - 1;
/// Outcomes kept for the application to ask for.
const OUTCOMES: usize = 4;

pub(super) struct Store<B: ?Sized = [u8]> {
    tag: u8,
    outcome_next: u8,
    pub(super) schema_own: u16,
    pub(super) schema: u16,
    body_max: u32,
    pub(super) used: u32,
    /// Bytes of a snapshot whose last piece is still to come.
    taken: u32,
    pub(super) revision: u64,
    /// Changes up to this revision were told.
    pub(super) told: u64,
    outcomes: [(EntryId, Outcome); OUTCOMES],
    pub(super) bytes: B,
}

impl<const N: usize> Store<[u8; N]> {
    pub(super) const fn new() -> Self {
        Self {
            tag: 0,
            outcome_next: 0,
            schema_own: 0,
            schema: 0,
            body_max: 0,
            used: 0,
            taken: 0,
            revision: 0,
            told: 0,
            outcomes: [(EntryId::ZERO, Outcome::Done { revision: 0 }); OUTCOMES],
            bytes: [0; N],
        }
    }
}

impl Store {
    pub(super) fn start(&mut self, tag: u8, body_max: u32, schema: u16) -> Result<(), TooLarge> {
        let (given, max) = (body_max.saturating_add(HEAD_BYTES as u32), self.bytes.len() as u32);
        if given > max {
            return Err(TooLarge { given, max });
        }
        (self.tag, self.body_max, self.schema_own) = (tag, body_max, schema);
        self.clear();
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        (self.used, self.taken, self.revision, self.told) = (0, 0, 0, 0);
        self.outcomes = [(EntryId::ZERO, Outcome::Done { revision: 0 }); OUTCOMES];
        self.set_schema(0);
    }

    pub(super) fn body(&self) -> &[u8] {
        let end = HEAD_BYTES.saturating_add(self.used as usize);
        self.bytes.get(HEAD_BYTES..end).unwrap_or_default()
    }

    pub(super) fn set_schema(&mut self, schema: u16) {
        self.schema = schema;
        let [low, high] = schema.to_le_bytes();
        copy(&mut self.bytes, &[self.tag | FORMAT, low, high]);
        let revision = revision_bytes(self.revision);
        copy(self.bytes.get_mut(COMMAND_HEAD_BYTES..).unwrap_or_default(), &revision);
    }

    /// Counts a change.
    pub(super) fn change(&mut self) -> Outcome {
        self.revision = self.revision.saturating_add(1).min(REVISION_MAX);
        self.set_schema(self.schema);
        Outcome::Done { revision: self.revision }
    }

    /// The schema of a command or snapshot, and what follows it. `Ok(None)`: it is neither.
    pub(super) fn split_schema<'a>(
        &self,
        bytes: &'a [u8],
    ) -> Result<Option<(u16, &'a [u8])>, NewerSchema> {
        let Some((&[tag, low, high], rest)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        let schema = u16::from_le_bytes([low, high]);
        match tag.checked_sub(self.tag) {
            Some(FORMAT) if schema <= self.schema_own => Ok(Some((schema, rest))),
            Some(FORMAT) => Err(NewerSchema { found: schema }),
            Some(2..=15) => Err(NewerSchema { found: u16::MAX }),
            _ => Ok(None),
        }
    }

    pub(super) fn keep_outcome(&mut self, id: EntryId, outcome: Outcome) {
        if let Some(place) = self.outcomes.get_mut(usize::from(self.outcome_next) % OUTCOMES) {
            *place = (id, outcome);
        }
        self.outcome_next = self.outcome_next.wrapping_add(1);
    }

    pub(super) fn outcome(&self, id: EntryId) -> Option<Outcome> {
        let kept = self.outcomes.iter().find(|(kept, _)| *kept == id && id != EntryId::ZERO);
        kept.map(|(_, outcome)| *outcome)
    }

    pub(super) fn snapshot(&self, offset: u32, out: &mut [u8]) -> usize {
        let end = HEAD_BYTES.saturating_add(self.used as usize);
        let rest = self.bytes.get(offset as usize..end).unwrap_or_default();
        copy(out, rest);
        rest.len().min(out.len())
    }

    /// Takes a piece. The state is empty until the last one; then its body is for the caller to check.
    pub(super) fn restore(
        &mut self,
        offset: u32,
        bytes: &[u8],
        last: bool,
    ) -> Result<(), RestoreError> {
        if offset == 0 {
            self.clear();
        }
        let malformed = RestoreError::Malformed;
        let end = offset.saturating_add(bytes.len() as u32);
        let max = self.body_max.saturating_add(HEAD_BYTES as u32);
        if end > max {
            return Err(RestoreError::TooLarge(TooLarge { given: end, max }));
        }
        if offset != self.taken {
            return Err(malformed);
        }
        copy(self.bytes.get_mut(offset as usize..).unwrap_or_default(), bytes);
        self.taken = end;
        if !last {
            return Ok(());
        }
        let whole = self.bytes.get(..end as usize).unwrap_or_default();
        let (schema, rest) =
            self.split_schema(whole).map_err(RestoreError::Newer)?.ok_or(malformed)?;
        let (revision, body) = rest.split_first_chunk().ok_or(malformed)?;
        (self.used, self.revision) = (body.len() as u32, revision_from(*revision));
        (self.taken, self.schema) = (0, schema);
        Ok(())
    }
}

/// Encodes a command of a firmware with this schema; how many bytes.
pub(super) fn encode(
    tag: u8,
    schema: u16,
    command: &impl Serialize,
    out: &mut [u8],
) -> Result<usize, TooLarge> {
    let given = COMMAND_HEAD_BYTES.saturating_add(encoded_bytes(command));
    let too_large = TooLarge { given: given as u32, max: out.len() as u32 };
    let room = out.get_mut(..given).ok_or(too_large)?;
    let (head, body) = room.split_first_chunk_mut().ok_or(too_large)?;
    let [low, high] = schema.to_le_bytes();
    *head = [tag | FORMAT, low, high];
    to_slice(command, body).ok_or(too_large)?;
    Ok(given)
}

/// What postcard makes of it, in bytes; `u32::MAX` if it can't.
pub(super) fn encoded_bytes(value: &impl Serialize) -> usize {
    size(value).unwrap_or(u32::MAX as usize)
}

pub(super) fn revision_bytes(revision: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = revision.to_le_bytes();
    [a, b, c, d, e, f]
}

pub(super) fn revision_from([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}
