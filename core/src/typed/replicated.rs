//! One value of a serde type, replaced as a whole.

use postcard::ser_flavors::Size;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    BufferTooSmall, CommandError, NewerSchema, Outcome, Outcomes, RestoreError, StateMachine,
    Writer, read_expected, read_schema, revision_after, revision_bytes, revision_from,
    schema_bytes, window,
};
use crate::log::copy;
use crate::types::EntryId;

/// The high half of the first byte of commands and snapshots.
const TAG: u8 = 0xa0;
/// What a snapshot has before the value: tag, schema, revision.
const SNAPSHOT_BYTES: usize = 9;
/// What a command has before the value, at most: tag, schema, expected revision.
const COMMAND_BYTES: usize = 10;

/// Reads the bytes of a value that was written with the older schema of the first argument.
pub type MigrateValue<T> = fn(u16, &[u8]) -> Option<T>;

/// A value that all boards agree on: any serde type, stored as postcard, replaced as a whole.
///
/// Built as `Replicated<T, [u8; N]>` in a `static`, used as `Replicated<T>`. What is agreed on is the
/// encoded bytes and the schema that they were written with; the value is this firmware's view of them.
pub struct Replicated<T, B: ?Sized = [u8]> {
    value: Option<T>,
    migrate: Option<MigrateValue<T>>,
    bytes_max: u16,
    schema_own: u16,
    schema: u16,
    used: u16,
    revision: u64,
    told: u64,
    /// Schema and revision of a snapshot of which the last piece is still to come.
    restoring: Option<(u16, u64)>,
    outcomes: Outcomes,
    bytes: B,
}

impl<T, const N: usize> Replicated<T, [u8; N]> {
    /// No value yet; refuses everything until it is started.
    pub const fn new() -> Self {
        Self {
            value: None,
            migrate: None,
            bytes_max: 0,
            schema_own: 0,
            schema: 0,
            used: 0,
            revision: 0,
            told: 0,
            restoring: None,
            outcomes: Outcomes::NONE,
            bytes: [0; N],
        }
    }
}

impl<T, const N: usize> Default for Replicated<T, [u8; N]> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Serialize + DeserializeOwned> Replicated<T> {
    /// Sets the longest encoding of a value, a constant of the cluster, and this firmware's schema, and
    /// forgets the value: before the node starts.
    ///
    /// `migrate` must read all that an older firmware has accepted; where it is missing or yields `None`,
    /// the value is refused.
    ///
    /// # Errors
    /// This board's array is smaller than `bytes_max`.
    pub fn start(
        &mut self,
        bytes_max: u16,
        schema: u16,
        migrate: Option<MigrateValue<T>>,
    ) -> Result<(), BufferTooSmall> {
        let (given, needed) = (self.bytes.len() as u32, u32::from(bytes_max));
        if needed > given {
            return Err(BufferTooSmall { given, needed });
        }
        self.clear();
        self.bytes_max = bytes_max;
        self.schema_own = schema;
        self.migrate = migrate;
        Ok(())
    }

    /// The value; `None` until the first one is committed.
    pub const fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Effective changes so far.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The schema that the value was written with.
    pub const fn schema(&self) -> u16 {
        self.schema
    }

    /// The value, if it changed since it was last asked for.
    pub fn poll_change(&mut self) -> Option<&T> {
        if self.told == self.revision {
            return None;
        }
        self.told = self.revision;
        self.value.as_ref()
    }

    /// What came of the command with this id; `None` if it is not among the last four applied here.
    pub fn outcome(&self, id: EntryId) -> Option<Outcome> {
        self.outcomes.get(id)
    }

    /// The longest command, in bytes: what the cluster's limit for entries must allow.
    pub fn command_bytes_max(&self) -> u32 {
        u32::from(self.bytes_max).saturating_add(COMMAND_BYTES as u32)
    }

    /// Writes the command that replaces the value, to be proposed; how many bytes. It takes effect only if
    /// the revision is the `expected` one (0: no value yet; `None`: any).
    ///
    /// # Errors
    /// The value is longer than the cluster's limit, or the buffer too small for it.
    pub fn encode(
        &self,
        value: &T,
        expected: Option<u64>,
        out: &mut [u8],
    ) -> Result<usize, CommandError> {
        let size = postcard::serialize_with_flavor(value, Size::default());
        let (given, max) =
            (size.map_err(|_| CommandError::Serialize)?, usize::from(self.bytes_max));
        if given > max {
            return Err(CommandError::ValueTooLong { given, max });
        }
        let mut writer = Writer { out, at: 0 };
        writer.put(&schema_bytes(TAG, self.schema_own));
        writer.put_expected(expected);
        let room = writer.out.get_mut(writer.at..).unwrap_or_default();
        if room.len() >= given {
            postcard::to_slice(value, room).map_err(|_| CommandError::Serialize)?;
        }
        writer.at = writer.at.saturating_add(given);
        writer.finish()
    }

    fn clear(&mut self) {
        self.value = None;
        (self.schema, self.used, self.revision, self.told) = (0, 0, 0, 0);
        self.restoring = None;
        self.outcomes = Outcomes::NONE;
    }

    fn stored(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.used)).unwrap_or_default()
    }

    fn read(&self, schema: u16, bytes: &[u8]) -> Option<T> {
        if schema < self.schema_own {
            return self.migrate.and_then(|migrate| migrate(schema, bytes));
        }
        let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
        rest.is_empty().then_some(value)
    }

    fn replace(&mut self, schema: u16, command: &[u8]) -> Outcome {
        let Some((expected, bytes)) = read_expected(command) else {
            return Outcome::Malformed;
        };
        let revision = self.revision;
        if schema < self.schema {
            return Outcome::Outdated { schema: self.schema };
        }
        if expected.is_some_and(|expected| expected != revision) {
            return Outcome::Mismatch { revision };
        }
        if revision > 0 && schema == self.schema && bytes == self.stored() {
            return Outcome::Unchanged { revision };
        }
        if bytes.len() > usize::from(self.bytes_max) {
            return Outcome::ValueTooLong { max: self.bytes_max };
        }
        let Some(value) = self.read(schema, bytes) else {
            return Outcome::Malformed;
        };
        copy(&mut self.bytes, bytes);
        self.used = bytes.len() as u16;
        self.value = Some(value);
        self.schema = schema;
        self.revision = revision_after(revision);
        Outcome::Done { revision: self.revision }
    }

    fn restore_piece(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError> {
        let malformed = RestoreError::Malformed;
        let mut bytes = bytes;
        if offset == 0 {
            self.clear();
            let (schema, rest) = read_schema(TAG, self.schema_own, bytes)?.ok_or(malformed)?;
            let (revision, rest) = rest.split_first_chunk().ok_or(malformed)?;
            self.restoring = Some((schema, revision_from(*revision)));
            bytes = rest;
        } else if offset != u32::from(self.used).saturating_add(SNAPSHOT_BYTES as u32) {
            return Err(malformed);
        }
        let (schema, revision) = self.restoring.ok_or(malformed)?;
        let (at, max) = (usize::from(self.used), usize::from(self.bytes_max));
        let given = at.saturating_add(bytes.len());
        if given > max {
            return Err(RestoreError::TooLarge { given: given as u32, max: max as u32 });
        }
        copy(self.bytes.get_mut(at..).unwrap_or_default(), bytes);
        self.used = given as u16;
        if !last {
            return Ok(());
        }
        if revision > 0 {
            self.value = Some(self.read(schema, self.stored()).ok_or(malformed)?);
        } else if given > 0 {
            return Err(malformed);
        }
        self.restoring = None;
        (self.schema, self.revision) = (schema, revision);
        Ok(())
    }
}

impl<T: Serialize + DeserializeOwned> StateMachine for Replicated<T> {
    fn apply(&mut self, id: EntryId, command: &[u8]) -> Result<(), NewerSchema> {
        let outcome = match read_schema(TAG, self.schema_own, command)? {
            Some((schema, rest)) => self.replace(schema, rest),
            None => Outcome::Malformed,
        };
        self.outcomes.keep(id, outcome);
        Ok(())
    }

    fn snapshot(&self, offset: u32, out: &mut [u8]) -> usize {
        let mut head = [0; SNAPSHOT_BYTES];
        let mut writer = Writer { out: &mut head, at: 0 };
        writer.put(&schema_bytes(TAG, self.schema));
        writer.put(&revision_bytes(self.revision));
        window(&head, self.stored(), offset, out)
    }

    /// From the first piece until the last has been read, and after an error, there is no value.
    fn restore(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError> {
        let restored = self.restore_piece(offset, bytes, last);
        if restored.is_err() {
            self.clear();
        }
        restored
    }
}
