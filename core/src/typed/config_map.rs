//! A bounded map from keys to values, with revisions, compare-and-set and change notices.
//!
//! All of it is one byte array. From its start, the snapshot as it stands: the head and then the items in
//! the order of their keys, without gaps. From its end backwards, in what is free: the keys that were
//! deleted and not yet told of, the newest last; they give way when the room is needed.

use serde::{Deserialize, Serialize};

use super::store::{
    COMMAND_HEAD_BYTES, HEAD_BYTES, Store, encode, encoded_bytes, revision_bytes, revision_from,
};
use super::{NewerSchema, Outcome, RestoreError, StateMachine, TooLarge};
use crate::encode::to_slice;
use crate::types::EntryId;

/// Whose commands and snapshots these are.
const TAG: u8 = 0xc0;
/// Where an item's content begins, behind its revision.
const REVISION_BYTES: usize = 6;

/// What a map may hold: constants of the cluster, as each board must refuse the same commands.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MapLimits {
    /// Keys.
    pub keys: u16,
    /// Bytes of one key, in UTF-8.
    pub key_bytes: u8,
    /// Bytes of one text or byte string; other values are smaller than 11 bytes.
    pub value_bytes: u16,
    /// Bytes of everything: each key with its value, and about 10 more for each.
    pub bytes: u32,
}

impl MapLimits {
    /// The longest command, in bytes: what the cluster's limit for entries must allow.
    pub const fn command_bytes_max(&self) -> u32 {
        let value_bytes = if self.value_bytes < 10 { 10 } else { self.value_bytes as u32 };
        // Operation, key length, kind of value, value length, expected revision.
        const AROUND: u32 = 1 + 2 + 1 + 3 + 11;
        (COMMAND_HEAD_BYTES as u32)
            .saturating_add(AROUND)
            .saturating_add(self.key_bytes as u32)
            .saturating_add(value_bytes)
    }

    /// The largest snapshot, in bytes: what the cluster's limit for snapshots must allow, and what the
    /// map's array must hold.
    pub const fn snapshot_bytes_max(&self) -> u32 {
        self.bytes.saturating_add(HEAD_BYTES as u32)
    }
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Value<'a> {
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// The bits of an `f64`: a number that the core moves and never reckons with. Two that differ in
    /// their bits are different values, and a NaN is equal to itself.
    Float(u64),
    /// Text.
    Str(&'a str),
    /// Anything.
    Bytes(&'a [u8]),
}

impl From<f64> for Value<'_> {
    fn from(number: f64) -> Self {
        Self::Float(number.to_bits())
    }
}

/// A change to a map, to be encoded and proposed.
///
/// `expected` is the revision that the key must have (0: it must not be there); `None`: any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Command<'a> {
    /// Gives `key` a value.
    Set {
        /// The key.
        key: &'a str,
        /// Its value.
        #[serde(borrow)]
        value: Value<'a>,
        /// The revision that the key must have.
        expected: Option<u64>,
    },
    /// Takes `key` out.
    Delete {
        /// The key.
        key: &'a str,
        /// The revision that the key must have.
        expected: Option<u64>,
    },
    /// Changes nothing, but as every command takes the map to its schema.
    Migrate,
}

impl Command<'_> {
    /// Writes the command as a firmware of this schema means it; how many bytes.
    ///
    /// # Errors
    /// It is longer than the buffer.
    pub fn encode(&self, schema: u16, out: &mut [u8]) -> Result<usize, TooLarge> {
        encode(TAG, schema, self, out)
    }
}

/// A key with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Item<'a> {
    /// The key.
    pub key: &'a str,
    /// Its value.
    pub value: Value<'a>,
    /// The map's revision when it last changed.
    pub revision: u64,
}

/// What changed since it was last asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Change<'a> {
    /// A key has a new value; values that it had in between are left out.
    Set(Item<'a>),
    /// A key was taken out. It may be there again: then its new value follows.
    Deleted {
        /// The key.
        key: &'a str,
        /// The map's revision when that was.
        revision: u64,
    },
    /// Anything may have changed: read the whole map.
    Everything,
}

/// Takes a map from schema `from` to the next one, on every board in the same way: a later firmware keeps
/// the steps of the earlier ones as they were.
pub type Migrate = fn(from: u16, map: &mut Edit<'_>);

/// An item as it lies in the array; without a value it is a deleted key.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Stored<'a> {
    /// Of a fixed length, so that an item does not grow with the age of the map.
    revision: [u8; REVISION_BYTES],
    key: &'a str,
    #[serde(borrow)]
    value: Option<Value<'a>>,
}

impl<'a> Stored<'a> {
    fn item(self) -> Option<Item<'a>> {
        let revision = revision_from(self.revision);
        self.value.map(|value| Item { key: self.key, value, revision })
    }
}

/// A stored item, and where in the body it is.
#[derive(Clone, Copy)]
struct Place<'a> {
    at: usize,
    end: usize,
    stored: Stored<'a>,
}

struct Places<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Places<'a> {
    type Item = Place<'a>;

    fn next(&mut self) -> Option<Place<'a>> {
        let (stored, rest) = postcard::take_from_bytes(self.body.get(self.at..)?).ok()?;
        let at = self.at;
        self.at = self.body.len().saturating_sub(rest.len());
        Some(Place { at, end: self.at, stored })
    }
}

/// A bounded map from keys to values that all boards agree on.
///
/// Built as `ConfigMap<[u8; N]>` in a `static`, used as `ConfigMap`, and started with the limits of the
/// cluster. It is changed by committed [`Command`]s alone; whoever proposed one can ask for its
/// [`ConfigMap::outcome`].
///
/// The **revision** counts effective changes: setting a key to the value that it has is none. Each key has
/// the revision of its last change, which is what compare-and-set compares.
pub struct ConfigMap<B: ?Sized = [u8]> {
    limits: MapLimits,
    migrate: Option<Migrate>,
    keys: u16,
    deleted: u32,
    everything: bool,
    store: Store<B>,
}

impl<const N: usize> ConfigMap<[u8; N]> {
    /// An empty map, all zeros, that refuses everything until it is started.
    pub const fn new() -> Self {
        Self {
            limits: MapLimits { keys: 0, key_bytes: 0, value_bytes: 0, bytes: 0 },
            migrate: None,
            keys: 0,
            deleted: 0,
            everything: false,
            store: Store::new(),
        }
    }
}

impl<const N: usize> Default for ConfigMap<[u8; N]> {
    fn default() -> Self {
        Self::new()
    }
}

impl ConfigMap {
    /// Sets the cluster's limits and this firmware's schema, and empties the map: before the node starts.
    ///
    /// The map itself has a schema, which rises with the first command of a newer firmware. `migrate` is
    /// then called for each step between. From there on, commands of an older firmware are refused as
    /// [`Outcome::Outdated`], and boards that still run it stop applying and say so.
    ///
    /// # Errors
    /// This board's array is smaller than the limits ask for.
    pub fn start(
        &mut self,
        limits: MapLimits,
        schema: u16,
        migrate: Option<Migrate>,
    ) -> Result<(), TooLarge> {
        self.store.start(TAG, limits.bytes, schema)?;
        self.clear();
        (self.limits, self.migrate, self.everything) = (limits, migrate, false);
        Ok(())
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.item(key).map(|item| item.value)
    }

    /// `key` with its value and revision.
    pub fn item(&self, key: &str) -> Option<Item<'_>> {
        self.seek(key).2?.stored.item()
    }

    /// All keys, in the order of their bytes.
    pub fn iter(&self) -> impl Iterator<Item = Item<'_>> {
        self.places().filter_map(|place| place.stored.item())
    }

    /// Keys in the map.
    pub const fn len(&self) -> usize {
        self.keys as usize
    }

    /// Has it no key?
    pub const fn is_empty(&self) -> bool {
        self.keys == 0
    }

    /// Effective changes so far.
    pub const fn revision(&self) -> u64 {
        self.store.revision
    }

    /// The schema of the content: that of the newest firmware that changed it.
    pub const fn schema(&self) -> u16 {
        self.store.schema
    }

    /// Bytes that are left for keys and values.
    pub const fn bytes_free(&self) -> u32 {
        self.limits.bytes.saturating_sub(self.store.used)
    }

    /// A hash of keys and values (64-bit FNV-1a over their stored bytes), and of nothing else: not of
    /// revisions, order of changes, or capacity.
    pub fn hash(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for place in self.places() {
            let content = place.at.saturating_add(REVISION_BYTES)..place.end;
            for byte in self.store.body().get(content).unwrap_or_default() {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        hash
    }

    /// What came of the command with this id; `None` if it is not among the last four applied here.
    pub fn outcome(&self, id: EntryId) -> Option<Outcome> {
        self.store.outcome(id)
    }

    /// Would the map take this, as it is now?
    ///
    /// # Errors
    /// What its outcome would be.
    pub fn fits(&self, key: &str, value: Value<'_>) -> Result<(), Outcome> {
        let (at, end, old) = self.seek(key);
        self.room(key, value, end.saturating_sub(at), old.is_some()).map(|_| ())
    }

    /// The next change that was not told of yet, in the order of revisions; each key's latest only.
    pub fn poll_change(&mut self) -> Option<Change<'_>> {
        if self.everything {
            (self.everything, self.store.told) = (false, self.store.revision);
            return Some(Change::Everything);
        }
        if self.store.told == self.store.revision {
            return None;
        }
        let told = self.store.told;
        let revisions = self.changed().map(|stored| revision_from(stored.revision));
        self.store.told = revisions.filter(|at| *at > told).min().unwrap_or(self.store.revision);
        let next = revision_bytes(self.store.told);
        let stored = self.changed().find(|stored| stored.revision == next)?;
        let (key, revision) = (stored.key, self.store.told);
        Some(stored.item().map_or(Change::Deleted { key, revision }, Change::Set))
    }

    fn places(&self) -> Places<'_> {
        Places { body: self.store.body(), at: 0 }
    }

    fn deleted(&self) -> Places<'_> {
        let start = self.store.bytes.len().saturating_sub(self.deleted as usize);
        Places { body: self.store.bytes.get(start..).unwrap_or_default(), at: 0 }
    }

    fn changed(&self) -> impl Iterator<Item = Stored<'_>> {
        self.places().chain(self.deleted()).map(|place| place.stored)
    }

    /// From where to where `key` is, or would be, and its item.
    fn seek(&self, key: &str) -> (usize, usize, Option<Place<'_>>) {
        match self.places().find(|place| place.stored.key >= key) {
            Some(place) if place.stored.key == key => (place.at, place.end, Some(place)),
            Some(place) => (place.at, place.at, None),
            None => (self.store.used as usize, self.store.used as usize, None),
        }
    }

    /// The bytes that the item takes, if it may take the place of `old_bytes`.
    fn room(
        &self,
        key: &str,
        value: Value<'_>,
        old_bytes: usize,
        is_there: bool,
    ) -> Result<usize, Outcome> {
        let limits = &self.limits;
        if !key_fits(limits, key) {
            return Err(Outcome::KeyTooLong { max: limits.key_bytes });
        }
        if !value_fits(limits, value) {
            return Err(Outcome::ValueTooLong { max: limits.value_bytes });
        }
        if !is_there && self.keys >= limits.keys {
            return Err(Outcome::TooManyKeys { max: limits.keys });
        }
        let stored = Stored { revision: [0; REVISION_BYTES], key, value: Some(value) };
        let bytes = encoded_bytes(&stored);
        let (bytes_needed, bytes_free) =
            (bytes as u32, self.bytes_free().saturating_add(old_bytes as u32));
        if bytes_needed > bytes_free {
            return Err(Outcome::Full { bytes_needed, bytes_free });
        }
        Ok(bytes)
    }

    /// Gives `key` a value, or takes it out.
    fn change(&mut self, key: &str, value: Option<Value<'_>>, expected: Option<u64>) -> Outcome {
        let (at, end, old) = self.seek(key);
        let old = old.and_then(|old| old.stored.item());
        let revision = old.map_or(0, |old| old.revision);
        if expected.is_some_and(|expected| expected != revision) {
            return Outcome::Mismatch { revision };
        }
        if old.map(|old| old.value) == value {
            return Outcome::Unchanged { revision };
        }
        let was_there = u16::from(old.is_some());
        let bytes = match value {
            Some(value) => self.room(key, value, end.saturating_sub(at), was_there == 1),
            None => Ok(0),
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(refused) => return refused,
        };
        self.keys = self.keys.saturating_add(u16::from(value.is_some())).saturating_sub(was_there);
        self.resize(at, end, bytes);
        let done = self.store.change();
        let stored = Stored { revision: revision_bytes(self.store.revision), key, value };
        let place = match value {
            Some(_) => HEAD_BYTES.saturating_add(at),
            None => self.make_place_for_deleted(encoded_bytes(&stored)),
        };
        // It fits: its place was measured.
        let _ = to_slice(&stored, self.store.bytes.get_mut(place..).unwrap_or_default());
        done
    }

    /// Makes what lies from `at` to `end` in the body take `bytes`.
    fn resize(&mut self, at: usize, end: usize, bytes: usize) {
        let (from, to) = (HEAD_BYTES.saturating_add(end), HEAD_BYTES.saturating_add(at));
        let to = to.saturating_add(bytes);
        let behind = (self.store.used as usize).saturating_sub(end);
        if to.saturating_add(behind).saturating_add(self.deleted as usize) > self.store.bytes.len()
        {
            self.everything |= self.deleted_untold();
            self.deleted = 0;
        }
        shift(&mut self.store.bytes, from, to, behind);
        self.store.used = to.saturating_add(behind).saturating_sub(HEAD_BYTES) as u32;
    }

    /// The last bytes of the array. The item that was just deleted left more room than this takes.
    fn make_place_for_deleted(&mut self, bytes: usize) -> usize {
        let whole = self.store.bytes.len();
        if !self.deleted_untold() {
            self.deleted = 0;
        }
        let from = whole.saturating_sub(self.deleted as usize);
        shift(&mut self.store.bytes, from, from.saturating_sub(bytes), self.deleted as usize);
        self.deleted = self.deleted.saturating_add(bytes as u32);
        whole.saturating_sub(bytes)
    }

    fn deleted_untold(&self) -> bool {
        self.deleted().any(|place| revision_from(place.stored.revision) > self.store.told)
    }

    fn clear(&mut self) {
        self.store.clear();
        (self.keys, self.deleted, self.everything) = (0, 0, true);
    }

    /// Raises the map's schema step by step. An empty map has nothing to migrate.
    fn raise(&mut self, schema: u16) {
        while self.store.schema < schema {
            let from = self.store.schema;
            if let (Some(migrate), false) = (self.migrate, self.is_empty()) {
                migrate(from, &mut Edit(self));
            }
            self.store.set_schema(from.saturating_add(1));
        }
    }

    fn perform(&mut self, schema: u16, command: &[u8]) -> Outcome {
        let Ok((command, [])) = postcard::take_from_bytes::<Command<'_>>(command) else {
            return Outcome::Malformed;
        };
        if schema < self.store.schema {
            return Outcome::Outdated { schema: self.store.schema };
        }
        self.raise(schema);
        match command {
            Command::Set { key, value, expected } => self.change(key, Some(value), expected),
            Command::Delete { key, expected } => self.change(key, None, expected),
            Command::Migrate => Outcome::Unchanged { revision: self.store.revision },
        }
    }

    /// The keys of a restored body, if it is what a map within the limits would have written.
    fn count_sound(&self) -> Option<u16> {
        let (mut places, mut before, mut keys) = (self.places(), None, 0u16);
        for Place { at, end, stored } in places.by_ref() {
            let item = stored.item()?;
            let fits = key_fits(&self.limits, item.key) && value_fits(&self.limits, item.value);
            let shortest = end.saturating_sub(at) == encoded_bytes(&stored);
            let told = item.revision > 0 && item.revision <= self.store.revision;
            if !fits || !shortest || !told || before >= Some(item.key) || keys >= self.limits.keys {
                return None;
            }
            before = Some(item.key);
            keys = keys.saturating_add(1);
        }
        (places.at == places.body.len()).then_some(keys)
    }
}

impl StateMachine for ConfigMap {
    fn apply(&mut self, id: EntryId, command: &[u8]) -> Result<(), NewerSchema> {
        let outcome = match self.store.split_schema(command)? {
            Some((schema, rest)) => self.perform(schema, rest),
            None => Outcome::Malformed,
        };
        self.store.keep_outcome(id, outcome);
        Ok(())
    }

    fn snapshot(&self, offset: u32, out: &mut [u8]) -> usize {
        self.store.snapshot(offset, out)
    }

    /// From the first piece until the last has been checked, and after an error, the map is empty.
    fn restore(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError> {
        (self.deleted, self.everything) = (0, true);
        let restored = self.store.restore(offset, bytes, last);
        let keys = restored.and_then(|()| self.count_sound().ok_or(RestoreError::Malformed));
        match keys {
            Ok(keys) => self.keys = keys,
            Err(_) => self.clear(),
        }
        keys.map(|_| ())
    }
}

/// A map on its way to a newer schema, in the hands of the application's [`Migrate`].
pub struct Edit<'a>(&'a mut ConfigMap);

impl core::ops::Deref for Edit<'_> {
    type Target = ConfigMap;

    fn deref(&self) -> &ConfigMap {
        self.0
    }
}

impl Edit<'_> {
    /// Gives `key` a value; the outcome says if the map's limits refuse it.
    pub fn set(&mut self, key: &str, value: Value<'_>) -> Outcome {
        self.0.change(key, Some(value), None)
    }

    /// Takes `key` out.
    pub fn delete(&mut self, key: &str) -> Outcome {
        self.0.change(key, None, None)
    }
}

fn key_fits(limits: &MapLimits, key: &str) -> bool {
    key.len() <= usize::from(limits.key_bytes)
}

fn value_fits(limits: &MapLimits, value: Value<'_>) -> bool {
    let bytes = match value {
        Value::Str(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
    };
    bytes <= usize::from(limits.value_bytes)
}

/// Moves `len` bytes; the two places may overlap.
fn shift(bytes: &mut [u8], from: usize, to: usize, len: usize) {
    if from == to {
        return;
    }
    for i in 0..len {
        let i = if to > from { len.saturating_sub(i).saturating_sub(1) } else { i };
        let byte = bytes.get(from.saturating_add(i)).copied().unwrap_or(0);
        if let Some(place) = bytes.get_mut(to.saturating_add(i)) {
            *place = byte;
        }
    }
}
