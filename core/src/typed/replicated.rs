//! One value of a serde type, replaced as a whole.

use heapless::Vec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::store::{COMMAND_HEAD_BYTES, HEAD_BYTES, Store, encode, encoded_bytes};
use super::{NewerSchema, Outcome, RestoreError, StateMachine, TooLarge};
use crate::log::copy;
use crate::types::EntryId;

/// Whose commands and snapshots these are.
const TAG: u8 = 0xa0;

/// Reads the bytes of a value that was written with the older schema of the first argument.
pub type MigrateValue<T> = fn(u16, &[u8]) -> Option<T>;

/// A value that all boards agree on: any serde type, stored as postcard, replaced as a whole.
///
/// Built as `Replicated<T, [u8; N]>` in a `static`, used as `Replicated<T>`; N is what a snapshot takes,
/// the longest encoded value and 9 bytes. What is agreed on is the encoded bytes and the schema that
/// they were written with; the value is this firmware's view of them.
pub struct Replicated<T, B: ?Sized = [u8]> {
    /// One or none. Unlike an `Option`, none is all zeros whatever `T` is.
    value: Vec<T, 1>,
    migrate: Option<MigrateValue<T>>,
    bytes_max: u16,
    store: Store<B>,
}

impl<T, const N: usize> Replicated<T, [u8; N]> {
    /// No value yet; refuses everything until it is started.
    pub const fn new() -> Self {
        Self { value: Vec::new(), migrate: None, bytes_max: 0, store: Store::new() }
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
    /// the value is refused. Once a value of this schema is there, older ones are refused as
    /// [`Outcome::Outdated`].
    ///
    /// # Errors
    /// This board's array is smaller than that takes.
    pub fn start(
        &mut self,
        bytes_max: u16,
        schema: u16,
        migrate: Option<MigrateValue<T>>,
    ) -> Result<(), TooLarge> {
        self.store.start(TAG, u32::from(bytes_max), schema)?;
        (self.value, self.bytes_max, self.migrate) = (Vec::new(), bytes_max, migrate);
        Ok(())
    }

    /// The value; `None` until the first one is committed.
    pub fn get(&self) -> Option<&T> {
        self.value.first()
    }

    /// Effective changes so far.
    pub const fn revision(&self) -> u64 {
        self.store.revision
    }

    /// The schema that the value was written with.
    pub const fn schema(&self) -> u16 {
        self.store.schema
    }

    /// The value, if it changed since it was last asked for.
    pub fn poll_change(&mut self) -> Option<&T> {
        if self.store.told == self.store.revision {
            return None;
        }
        self.store.told = self.store.revision;
        self.value.first()
    }

    /// What came of the command with this id; `None` if it is not among the last four applied here.
    pub fn outcome(&self, id: EntryId) -> Option<Outcome> {
        self.store.outcome(id)
    }

    /// The longest command, in bytes: what the cluster's limit for entries must allow.
    pub const fn command_bytes_max(&self) -> u32 {
        // And an expected revision.
        (COMMAND_HEAD_BYTES as u32).saturating_add(11).saturating_add(self.bytes_max as u32)
    }

    /// The largest snapshot, in bytes: what the cluster's limit for snapshots must allow.
    pub const fn snapshot_bytes_max(&self) -> u32 {
        (HEAD_BYTES as u32).saturating_add(self.bytes_max as u32)
    }

    /// Writes the command that replaces the value, to be proposed; how many bytes. It takes effect only if
    /// the revision is the `expected` one (0: no value yet; `None`: any).
    ///
    /// # Errors
    /// The value is longer than the cluster's limit, or the command than the buffer.
    pub fn encode(
        &self,
        value: &T,
        expected: Option<u64>,
        out: &mut [u8],
    ) -> Result<usize, TooLarge> {
        let (given, max) = (encoded_bytes(value) as u32, u32::from(self.bytes_max));
        if given > max {
            return Err(TooLarge { given, max });
        }
        encode(TAG, self.store.schema_own, &(expected, value), out)
    }

    fn read(&self, schema: u16, bytes: &[u8]) -> Option<T> {
        if schema < self.store.schema_own {
            return self.migrate.and_then(|migrate| migrate(schema, bytes));
        }
        let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
        rest.is_empty().then_some(value)
    }

    fn replace(&mut self, schema: u16, command: &[u8]) -> Outcome {
        let Ok((expected, bytes)) = postcard::take_from_bytes::<Option<u64>>(command) else {
            return Outcome::Malformed;
        };
        let revision = self.store.revision;
        if schema < self.store.schema {
            return Outcome::Outdated { schema: self.store.schema };
        }
        if expected.is_some_and(|expected| expected != revision) {
            return Outcome::Mismatch { revision };
        }
        if revision > 0 && schema == self.store.schema && bytes == self.store.body() {
            return Outcome::Unchanged { revision };
        }
        if bytes.len() > usize::from(self.bytes_max) {
            return Outcome::ValueTooLong { max: self.bytes_max };
        }
        let Some(value) = self.read(schema, bytes) else {
            return Outcome::Malformed;
        };
        self.value.clear();
        let _ = self.value.push(value);
        copy(self.store.bytes.get_mut(HEAD_BYTES..).unwrap_or_default(), bytes);
        (self.store.schema, self.store.used) = (schema, bytes.len() as u32);
        self.store.change()
    }

    fn restore_piece(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError> {
        self.value.clear();
        self.store.restore(offset, bytes, last)?;
        let body = self.store.body();
        if self.store.revision > 0 {
            let value = self.read(self.store.schema, body).ok_or(RestoreError::Malformed)?;
            let _ = self.value.push(value);
        } else if !body.is_empty() {
            return Err(RestoreError::Malformed);
        }
        Ok(())
    }
}

impl<T: Serialize + DeserializeOwned> StateMachine for Replicated<T> {
    fn apply(&mut self, id: EntryId, command: &[u8]) -> Result<(), NewerSchema> {
        let outcome = match self.store.split_schema(command)? {
            Some((schema, rest)) => self.replace(schema, rest),
            None => Outcome::Malformed,
        };
        self.store.keep_outcome(id, outcome);
        Ok(())
    }

    fn snapshot(&self, offset: u32, out: &mut [u8]) -> usize {
        self.store.snapshot(offset, out)
    }

    /// From the first piece until the last has been read, and after an error, there is no value.
    fn restore(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError> {
        let restored = self.restore_piece(offset, bytes, last);
        if restored.is_err() {
            self.store.clear();
        }
        restored
    }
}
