//! A bounded map from keys to values, with revisions, compare-and-set and change notices.
//!
//! All of it is one byte array. From its start, in the order of their keys, without gaps:
//! `key length u8 · kind u8 · value length u16 · revision u48 · key · value`. From its end backwards, in
//! what is free: keys that were deleted and not yet told of, `revision u48 · key length u8 · key`, the
//! newest last; they give way when the room is needed. The first part is the snapshot as it stands.

use super::{
    BufferTooSmall, CommandError, NewerSchema, Outcome, Outcomes, RestoreError, StateMachine,
    Writer, read_expected, read_schema, revision_after, revision_bytes, revision_from,
    schema_bytes, window,
};
use crate::log::copy;
use crate::types::EntryId;

/// The high half of the first byte of commands and snapshots.
const TAG: u8 = 0xc0;
const OP_MIGRATE: u8 = 0;
const OP_SET: u8 = 1;
const OP_DELETE: u8 = 2;

/// What an item takes beyond its key and value, in bytes.
const ITEM_BYTES: usize = 10;
/// What a deleted key takes beyond itself, in bytes.
const DELETED_BYTES: usize = 7;
/// What a snapshot has before its items: tag, schema, revision, keys, bytes.
const SNAPSHOT_BYTES: usize = 15;

/// What a map may hold: constants of the cluster, as each board must refuse the same commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MapLimits {
    /// Keys.
    pub keys: u16,
    /// Bytes of one key, in UTF-8.
    pub key_bytes: u8,
    /// Bytes of one value: 1 for a boolean, 1 to 8 for an integer, 8 for a float.
    pub value_bytes: u16,
    /// Bytes of all keys and values, and 10 for each key.
    pub bytes: u32,
}

impl MapLimits {
    /// The longest command, in bytes: what the cluster's limit for entries must allow.
    pub const fn command_bytes_max(&self) -> u32 {
        // Tag and schema, operation, expected revision, key length, kind.
        (3u32 + 1 + 7 + 1 + 1)
            .saturating_add(self.key_bytes as u32)
            .saturating_add(self.value_bytes as u32)
    }

    /// The largest snapshot, in bytes: what the cluster's limit for snapshots must allow.
    pub const fn snapshot_bytes_max(&self) -> u32 {
        self.bytes.saturating_add(SNAPSHOT_BYTES as u32)
    }
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl<'a> Value<'a> {
    /// Its kind and its bytes. An integer has the fewest that hold it, so that equal values are equal
    /// bytes.
    fn encode(self, scratch: &'a mut [u8; 8]) -> (u8, &'a [u8]) {
        match self {
            Self::Bool(value) => {
                *scratch = u64::from(value).to_le_bytes();
                (1, scratch.get(..1).unwrap_or_default())
            }
            Self::Int(value) => {
                *scratch = value.to_le_bytes();
                let mut rest: &[u8] = scratch;
                while let [shorter @ .., before, top] = rest {
                    if *top != sign_byte(*before) {
                        break;
                    }
                    rest = rest.get(..shorter.len().saturating_add(1)).unwrap_or_default();
                }
                (2, rest)
            }
            Self::Float(bits) => {
                *scratch = bits.to_le_bytes();
                (3, scratch)
            }
            Self::Str(text) => (4, text.as_bytes()),
            Self::Bytes(bytes) => (5, bytes),
        }
    }

    /// `None` unless the bytes are what [`Value::encode`] makes.
    fn decode(kind: u8, bytes: &'a [u8]) -> Option<Self> {
        match (kind, bytes) {
            (1, [value @ 0..=1]) => Some(Self::Bool(*value == 1)),
            (2, [.., before, top]) if *top == sign_byte(*before) => None,
            (2, [.., top]) if bytes.len() <= 8 => {
                let mut whole = [sign_byte(*top); 8];
                copy(&mut whole, bytes);
                Some(Self::Int(i64::from_le_bytes(whole)))
            }
            (3, _) => Some(Self::Float(u64::from_le_bytes(bytes.try_into().ok()?))),
            (4, _) => core::str::from_utf8(bytes).ok().map(Self::Str),
            (5, _) => Some(Self::Bytes(bytes)),
            _ => None,
        }
    }
}

/// The byte that goes on a number whose last byte is `top`.
const fn sign_byte(top: u8) -> u8 {
    if top & 0x80 == 0 { 0 } else { 0xff }
}

/// A change to a map, to be encoded and proposed.
///
/// `expected` is the revision that the key must have (0: it must not be there); `None`: any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Command<'a> {
    /// Gives `key` a value.
    Set {
        /// The key.
        key: &'a str,
        /// Its value.
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

impl<'a> Command<'a> {
    /// Writes the command as a firmware of this schema means it; how many bytes.
    ///
    /// # Errors
    /// The buffer is too small, or the key or value is too long for any map.
    pub fn encode(&self, schema: u16, out: &mut [u8]) -> Result<usize, CommandError> {
        let mut writer = Writer { out, at: 0 };
        writer.put(&schema_bytes(TAG, schema));
        match *self {
            Self::Migrate => writer.put(&[OP_MIGRATE]),
            Self::Set { key, value, expected } => {
                put_key(&mut writer, OP_SET, key, expected)?;
                let mut scratch = [0; 8];
                let (kind, bytes) = value.encode(&mut scratch);
                let (given, max) = (bytes.len(), usize::from(u16::MAX));
                if given > max {
                    return Err(CommandError::ValueTooLong { given, max });
                }
                writer.put(&[kind]);
                writer.put(bytes);
            }
            Self::Delete { key, expected } => put_key(&mut writer, OP_DELETE, key, expected)?,
        }
        writer.finish()
    }

    /// Reads what follows the schema.
    fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (op, rest) = bytes.split_first()?;
        if *op == OP_MIGRATE {
            return rest.is_empty().then_some(Self::Migrate);
        }
        let (expected, rest) = read_expected(rest)?;
        let (key_bytes, rest) = rest.split_first()?;
        let (key, rest) = rest.split_at_checked(usize::from(*key_bytes))?;
        let key = core::str::from_utf8(key).ok()?;
        match (*op, rest) {
            (OP_SET, [kind, value @ ..]) => {
                Some(Self::Set { key, value: Value::decode(*kind, value)?, expected })
            }
            (OP_DELETE, []) => Some(Self::Delete { key, expected }),
            _ => None,
        }
    }
}

fn put_key(
    writer: &mut Writer<'_>,
    op: u8,
    key: &str,
    expected: Option<u64>,
) -> Result<(), CommandError> {
    let (given, max) = (key.len(), usize::from(u8::MAX));
    if given > max {
        return Err(CommandError::KeyTooLong { given, max });
    }
    writer.put(&[op]);
    writer.put_expected(expected);
    writer.put(&[given as u8]);
    writer.put(key.as_bytes());
    Ok(())
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

/// An item as it lies in the array.
#[derive(Clone, Copy)]
struct Raw<'a> {
    at: usize,
    end: usize,
    /// Key length, kind, value length: with key and value they are the content.
    head: [u8; 4],
    key: &'a [u8],
    value: &'a [u8],
    revision: u64,
}

impl<'a> Raw<'a> {
    fn item(&self) -> Option<Item<'a>> {
        let [_, kind, ..] = self.head;
        let key = core::str::from_utf8(self.key).ok()?;
        Some(Item { key, value: Value::decode(kind, self.value)?, revision: self.revision })
    }
}

#[derive(Clone)]
struct Raws<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Raws<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Raw<'a>> {
        let (head, rest) = self.bytes.get(self.at..)?.split_first_chunk::<ITEM_BYTES>()?;
        let [key_bytes, kind, low, high, revision @ ..] = *head;
        let (key, rest) = rest.split_at_checked(usize::from(key_bytes))?;
        let value = rest.get(..usize::from(u16::from_le_bytes([low, high])))?;
        let at = self.at;
        self.at =
            at.saturating_add(ITEM_BYTES).saturating_add(key.len()).saturating_add(value.len());
        let head = [key_bytes, kind, low, high];
        Some(Raw { at, end: self.at, head, key, value, revision: revision_from(revision) })
    }
}

/// Deleted keys, the oldest first.
struct DeletedKeys<'a>(&'a [u8]);

impl<'a> Iterator for DeletedKeys<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[a, b, c, d, e, f, key_bytes], rest) = self.0.split_first_chunk::<DELETED_BYTES>()?;
        let (key, rest) = rest.split_at_checked(usize::from(key_bytes))?;
        self.0 = rest;
        Some((revision_from([a, b, c, d, e, f]), key))
    }
}

/// A snapshot of which the last piece is still to come.
#[derive(Clone, Copy)]
struct Restoring {
    schema: u16,
    keys: u16,
    revision: u64,
    bytes: u32,
    /// Bytes that are in the array already.
    at: u32,
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
    limits: Option<MapLimits>,
    migrate: Option<Migrate>,
    schema_own: u16,
    schema: u16,
    keys: u16,
    used: u32,
    deleted: u32,
    revision: u64,
    /// Changes up to this revision were told.
    told: u64,
    everything: bool,
    restoring: Option<Restoring>,
    outcomes: Outcomes,
    bytes: B,
}

impl<const N: usize> ConfigMap<[u8; N]> {
    /// An empty map, all zeros, that refuses everything until it is started.
    pub const fn new() -> Self {
        Self {
            limits: None,
            migrate: None,
            schema_own: 0,
            schema: 0,
            keys: 0,
            used: 0,
            deleted: 0,
            revision: 0,
            told: 0,
            everything: false,
            restoring: None,
            outcomes: Outcomes::NONE,
            bytes: [0; N],
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
    /// This board's array is smaller than the limits.
    pub fn start(
        &mut self,
        limits: MapLimits,
        schema: u16,
        migrate: Option<Migrate>,
    ) -> Result<(), BufferTooSmall> {
        let given = self.bytes.len() as u32;
        if limits.bytes > given {
            return Err(BufferTooSmall { given, needed: limits.bytes });
        }
        self.clear();
        self.limits = Some(limits);
        self.schema_own = schema;
        self.migrate = migrate;
        self.everything = false;
        Ok(())
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.item(key).map(|item| item.value)
    }

    /// `key` with its value and revision.
    pub fn item(&self, key: &str) -> Option<Item<'_>> {
        self.seek(key).1?.item()
    }

    /// All keys, in the order of their bytes.
    pub fn iter(&self) -> impl Iterator<Item = Item<'_>> {
        self.raws().filter_map(|raw| raw.item())
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
        self.revision
    }

    /// The schema of the content: that of the newest firmware that changed it.
    pub const fn schema(&self) -> u16 {
        self.schema
    }

    /// Bytes that are left for keys and values, and 10 for each new key.
    pub fn bytes_free(&self) -> u32 {
        self.limits.map_or(0, |limits| limits.bytes.saturating_sub(self.used))
    }

    /// A hash of keys and values (64-bit FNV-1a over their stored bytes), and of nothing else: not of
    /// revisions, order of changes, or capacity.
    pub fn hash(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for raw in self.raws() {
            for byte in raw.head.iter().chain(raw.key).chain(raw.value) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        hash
    }

    /// What came of the command with this id; `None` if it is not among the last four applied here.
    pub fn outcome(&self, id: EntryId) -> Option<Outcome> {
        self.outcomes.get(id)
    }

    /// Would the map take this, as it is now?
    ///
    /// # Errors
    /// What its outcome would be.
    pub fn fits(&self, key: &str, value: Value<'_>) -> Result<(), Outcome> {
        let old = self.seek(key).1;
        self.room(old.as_ref(), key, value.encode(&mut [0; 8]).1.len())
    }

    /// The next change that was not told of yet, in the order of revisions; each key's latest only.
    pub fn poll_change(&mut self) -> Option<Change<'_>> {
        if self.everything {
            self.everything = false;
            self.told = self.revision;
            return Some(Change::Everything);
        }
        if self.told == self.revision {
            return None;
        }
        let told = self.told;
        let set = self.raws().map(|raw| raw.revision).filter(|at| *at > told).min();
        let deleted = self.deleted().map(|(at, _)| at).find(|at| *at > told);
        self.told = set.into_iter().chain(deleted).min().unwrap_or(self.revision);
        if set == Some(self.told) {
            let mut raws = self.raws();
            return raws.find(|raw| raw.revision == self.told)?.item().map(Change::Set);
        }
        let (revision, key) = self.deleted().find(|(at, _)| *at == self.told)?;
        Some(Change::Deleted { key: core::str::from_utf8(key).ok()?, revision })
    }

    fn raws(&self) -> Raws<'_> {
        Raws { bytes: self.bytes.get(..self.used as usize).unwrap_or_default(), at: 0 }
    }

    fn deleted(&self) -> DeletedKeys<'_> {
        let start = self.bytes.len().saturating_sub(self.deleted as usize);
        DeletedKeys(self.bytes.get(start..).unwrap_or_default())
    }

    /// Where `key` is or would be, and its item.
    fn seek(&self, key: &str) -> (usize, Option<Raw<'_>>) {
        match self.raws().find(|raw| raw.key >= key.as_bytes()) {
            Some(raw) if raw.key == key.as_bytes() => (raw.at, Some(raw)),
            Some(raw) => (raw.at, None),
            None => (self.used as usize, None),
        }
    }

    fn room(&self, old: Option<&Raw<'_>>, key: &str, value_bytes: usize) -> Result<(), Outcome> {
        let Some(limits) = self.limits else {
            return Err(Outcome::TooManyKeys { max: 0 });
        };
        if key.len() > usize::from(limits.key_bytes) {
            return Err(Outcome::KeyTooLong { max: limits.key_bytes });
        }
        if value_bytes > usize::from(limits.value_bytes) {
            return Err(Outcome::ValueTooLong { max: limits.value_bytes });
        }
        if old.is_none() && self.keys >= limits.keys {
            return Err(Outcome::TooManyKeys { max: limits.keys });
        }
        let bytes_needed = item_bytes(key, value_bytes) as u32;
        let old_bytes = old.map_or(0, |old| old.end.saturating_sub(old.at)) as u32;
        let bytes_free = self.bytes_free().saturating_add(old_bytes);
        if bytes_needed > bytes_free {
            return Err(Outcome::Full { bytes_needed, bytes_free });
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: Value<'_>, expected: Option<u64>) -> Outcome {
        let mut scratch = [0; 8];
        let (kind, value) = value.encode(&mut scratch);
        let (at, old) = self.seek(key);
        let revision = old.map_or(0, |old| old.revision);
        if expected.is_some_and(|expected| expected != revision) {
            return Outcome::Mismatch { revision };
        }
        if old.is_some_and(|old| old.head.get(1) == Some(&kind) && old.value == value) {
            return Outcome::Unchanged { revision };
        }
        if let Err(refused) = self.room(old.as_ref(), key, value.len()) {
            return refused;
        }
        let old_bytes = old.map_or(0, |old| old.end.saturating_sub(old.at));
        if old.is_none() {
            self.keys = self.keys.saturating_add(1);
        }
        self.resize(at, old_bytes, item_bytes(key, value.len()));
        self.revision = revision_after(self.revision);
        let [low, high] = (value.len() as u16).to_le_bytes();
        let mut writer = Writer { out: &mut self.bytes, at };
        writer.put(&[key.len() as u8, kind, low, high]);
        writer.put(&revision_bytes(self.revision));
        writer.put(key.as_bytes());
        writer.put(value);
        Outcome::Done { revision: self.revision }
    }

    fn delete(&mut self, key: &str, expected: Option<u64>) -> Outcome {
        let (at, old) = self.seek(key);
        let revision = old.map_or(0, |old| old.revision);
        if expected.is_some_and(|expected| expected != revision) {
            return Outcome::Mismatch { revision };
        }
        let Some(old) = old else {
            return Outcome::Unchanged { revision };
        };
        let old_bytes = old.end.saturating_sub(old.at);
        self.keys = self.keys.saturating_sub(1);
        self.resize(at, old_bytes, 0);
        self.revision = revision_after(self.revision);
        self.note_deleted(key);
        Outcome::Done { revision: self.revision }
    }

    /// Makes the item of `old` bytes at `at` one of `new` bytes.
    fn resize(&mut self, at: usize, old: usize, new: usize) {
        let (from, to) = (at.saturating_add(old), at.saturating_add(new));
        let behind = (self.used as usize).saturating_sub(from);
        let used = to.saturating_add(behind);
        if used.saturating_add(self.deleted as usize) > self.bytes.len() {
            self.everything |= self.deleted().any(|(revision, _)| revision > self.told);
            self.deleted = 0;
        }
        shift(&mut self.bytes, from, to, behind);
        self.used = used as u32;
    }

    /// Keeps a deleted key until it is told of. The item just left more room than this takes.
    fn note_deleted(&mut self, key: &str) {
        let told = self.told;
        let whole = self.bytes.len();
        if self.deleted().all(|(revision, _)| revision <= told) {
            self.deleted = 0;
        }
        let more = DELETED_BYTES.saturating_add(key.len());
        let from = whole.saturating_sub(self.deleted as usize);
        shift(&mut self.bytes, from, from.saturating_sub(more), self.deleted as usize);
        self.deleted = self.deleted.saturating_add(more as u32);
        let mut writer = Writer { out: &mut self.bytes, at: whole.saturating_sub(more) };
        writer.put(&revision_bytes(self.revision));
        writer.put(&[key.len() as u8]);
        writer.put(key.as_bytes());
    }

    fn clear(&mut self) {
        (self.schema, self.keys, self.used, self.deleted) = (0, 0, 0, 0);
        (self.revision, self.told, self.everything) = (0, 0, true);
        self.restoring = None;
        self.outcomes = Outcomes::NONE;
    }

    /// Raises the map's schema step by step. An empty map has nothing to migrate.
    fn raise(&mut self, schema: u16) {
        while self.schema < schema {
            if let (Some(migrate), false) = (self.migrate, self.is_empty()) {
                migrate(self.schema, &mut Edit(self));
            }
            self.schema = self.schema.saturating_add(1);
        }
    }

    fn perform(&mut self, schema: u16, command: &[u8]) -> Outcome {
        let Some(command) = Command::decode(command) else {
            return Outcome::Malformed;
        };
        if schema < self.schema {
            return Outcome::Outdated { schema: self.schema };
        }
        self.raise(schema);
        match command {
            Command::Set { key, value, expected } => self.set(key, value, expected),
            Command::Delete { key, expected } => self.delete(key, expected),
            Command::Migrate => Outcome::Unchanged { revision: self.revision },
        }
    }

    fn restore_piece(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError> {
        let mut bytes = bytes;
        if offset == 0 {
            self.clear();
            let (restoring, rest) = self.restore_head(bytes)?;
            self.restoring = Some(restoring);
            bytes = rest;
        } else if self.restoring.map(|r| r.at.saturating_add(SNAPSHOT_BYTES as u32)) != Some(offset)
        {
            return Err(RestoreError::Malformed);
        }
        let restoring = self.restoring.as_mut().ok_or(RestoreError::Malformed)?;
        let free = self.bytes.get_mut(restoring.at as usize..restoring.bytes as usize);
        let free = free.and_then(|free| free.get_mut(..bytes.len()));
        copy(free.ok_or(RestoreError::Malformed)?, bytes);
        restoring.at = restoring.at.saturating_add(bytes.len() as u32);
        if !last {
            return Ok(());
        }
        let whole = *restoring;
        self.restoring = None;
        if whole.at != whole.bytes || !self.is_sound(&whole) {
            return Err(RestoreError::Malformed);
        }
        (self.schema, self.keys, self.used) = (whole.schema, whole.keys, whole.bytes);
        (self.revision, self.told) = (whole.revision, whole.revision);
        Ok(())
    }

    fn restore_head<'a>(&self, bytes: &'a [u8]) -> Result<(Restoring, &'a [u8]), RestoreError> {
        let malformed = RestoreError::Malformed;
        let (schema, rest) = read_schema(TAG, self.schema_own, bytes)?.ok_or(malformed)?;
        let (revision, rest) = rest.split_first_chunk().ok_or(malformed)?;
        let (keys, rest) = rest.split_first_chunk().ok_or(malformed)?;
        let (bytes, rest) = rest.split_first_chunk().ok_or(malformed)?;
        let (keys, given) = (u16::from_le_bytes(*keys), u32::from_le_bytes(*bytes));
        let max = self.limits.map_or(0, |limits| limits.bytes);
        if given > max {
            return Err(RestoreError::TooLarge { given, max });
        }
        let revision = revision_from(*revision);
        Ok((Restoring { schema, keys, revision, bytes: given, at: 0 }, rest))
    }

    /// Are the restored bytes what a map within the limits would have written?
    fn is_sound(&self, whole: &Restoring) -> bool {
        let Some((limits, bytes)) = self.limits.zip(self.bytes.get(..whole.bytes as usize)) else {
            return false;
        };
        let (mut raws, mut before, mut keys) = (Raws { bytes, at: 0 }, None, 0usize);
        for raw in raws.by_ref() {
            let fits = raw.key.len() <= usize::from(limits.key_bytes)
                && raw.value.len() <= usize::from(limits.value_bytes);
            let told = raw.revision > 0 && raw.revision <= whole.revision;
            if !fits || !told || before >= Some(raw.key) || raw.item().is_none() {
                return false;
            }
            before = Some(raw.key);
            keys = keys.saturating_add(1);
        }
        raws.at == bytes.len() && keys == usize::from(whole.keys) && whole.keys <= limits.keys
    }
}

impl StateMachine for ConfigMap {
    fn apply(&mut self, id: EntryId, command: &[u8]) -> Result<(), NewerSchema> {
        let outcome = match read_schema(TAG, self.schema_own, command)? {
            Some((schema, rest)) => self.perform(schema, rest),
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
        writer.put(&self.keys.to_le_bytes());
        writer.put(&self.used.to_le_bytes());
        let body = self.bytes.get(..self.used as usize).unwrap_or_default();
        window(&head, body, offset, out)
    }

    /// From the first piece until the last has been checked, and after an error, the map is empty.
    fn restore(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError> {
        let restored = self.restore_piece(offset, bytes, last);
        if restored.is_err() {
            self.clear();
        }
        restored
    }
}

/// A map on its way to a newer schema, in the hands of the application's [`Migrate`].
pub struct Edit<'a>(&'a mut ConfigMap);

impl Edit<'_> {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.0.get(key)
    }

    /// All keys, in the order of their bytes.
    pub fn iter(&self) -> impl Iterator<Item = Item<'_>> {
        self.0.iter()
    }

    /// Gives `key` a value; the outcome says if the map's limits refuse it.
    pub fn set(&mut self, key: &str, value: Value<'_>) -> Outcome {
        self.0.set(key, value, None)
    }

    /// Takes `key` out.
    pub fn delete(&mut self, key: &str) -> Outcome {
        self.0.delete(key, None)
    }
}

const fn item_bytes(key: &str, value_bytes: usize) -> usize {
    ITEM_BYTES.saturating_add(key.len()).saturating_add(value_bytes)
}

/// Moves `len` bytes; the two places may overlap.
fn shift(bytes: &mut [u8], from: usize, to: usize, len: usize) {
    for i in 0..len {
        let i = if to > from { len.saturating_sub(i).saturating_sub(1) } else { i };
        let byte = bytes.get(from.saturating_add(i)).copied().unwrap_or(0);
        if let Some(place) = bytes.get_mut(to.saturating_add(i)) {
            *place = byte;
        }
    }
}
