//! `ConfigMap` against a model, and what it makes of bytes that mean it harm.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use quorate::typed::{
    Change, Command, ConfigMap, Edit, Item, MapLimits, NewerSchema, Outcome, RestoreError,
    StateMachine, TooLarge, Value,
};
use quorate::{EntryId, Index, Term};

const LIMITS: MapLimits = MapLimits { keys: 12, key_bytes: 8, value_bytes: 40, bytes: 300 };
const BYTES: usize = LIMITS.snapshot_bytes_max() as usize;

fn id(index: u64) -> EntryId {
    EntryId::new(Index(index), Term(1))
}

fn apply(map: &mut ConfigMap, schema: u16, command: Command<'_>) -> Result<Outcome, NewerSchema> {
    let mut bytes = [0; LIMITS.command_bytes_max() as usize + 400];
    let len = command.encode(schema, &mut bytes).unwrap();
    apply_bytes(map, &bytes[..len]).map(Option::unwrap)
}

fn apply_bytes(map: &mut ConfigMap, bytes: &[u8]) -> Result<Option<Outcome>, NewerSchema> {
    static INDEX: AtomicU64 = AtomicU64::new(1);
    let id = id(INDEX.fetch_add(1, Ordering::Relaxed));
    map.apply(id, bytes)?;
    Ok(map.outcome(id))
}

fn set(map: &mut ConfigMap, key: &str, value: Value<'_>) -> Outcome {
    apply(map, 0, Command::Set { key, value, expected: None }).unwrap()
}

fn delete(map: &mut ConfigMap, key: &str) -> Outcome {
    apply(map, 0, Command::Delete { key, expected: None }).unwrap()
}

fn snapshot(map: &ConfigMap) -> Vec<u8> {
    let mut bytes = vec![0; BYTES + 1];
    let len = map.snapshot(0, &mut bytes);
    bytes.truncate(len);
    bytes
}

/// A started map on the stack of the caller.
macro_rules! map {
    ($name:ident, $bytes:expr) => {
        let mut array = ConfigMap::<[u8; $bytes]>::new();
        let $name: &mut ConfigMap = &mut array;
        $name.start(LIMITS, 0, None).unwrap();
    };
}

#[test]
fn every_kind_of_value_reads_back() {
    map!(map, BYTES);
    let values = [
        Value::Bool(true),
        Value::Bool(false),
        Value::Int(i64::MIN),
        Value::Int(-1),
        Value::Int(i64::MAX),
        Value::from(f64::NAN),
        Value::from(-0.5),
        Value::Str("Grüße"),
        Value::Str(""),
        Value::Bytes(&[0, 255, 128]),
    ];
    for (revision, value) in (1..).zip(values) {
        assert_eq!(set(map, "key", value), Outcome::Done { revision });
        assert_eq!(map.item("key"), Some(Item { key: "key", value, revision }));
        assert_eq!(set(map, "key", value), Outcome::Unchanged { revision });
    }
    assert_eq!(map.get("kez"), None);
}

#[test]
fn compare_and_set_takes_the_expected_revision_only() {
    map!(map, BYTES);
    let mut cas = |key, expected| {
        let value = Value::Int(expected as i64);
        apply(map, 0, Command::Set { key, value, expected: Some(expected) }).unwrap()
    };
    assert_eq!(cas("a", 1), Outcome::Mismatch { revision: 0 });
    assert_eq!(cas("a", 0), Outcome::Done { revision: 1 });
    assert_eq!(cas("a", 0), Outcome::Mismatch { revision: 1 });
    assert_eq!(cas("b", 0), Outcome::Done { revision: 2 });
    assert_eq!(cas("a", 1), Outcome::Done { revision: 3 });
    let mut delete =
        |expected| apply(map, 0, Command::Delete { key: "a", expected: Some(expected) }).unwrap();
    assert_eq!(delete(1), Outcome::Mismatch { revision: 3 });
    assert_eq!(delete(3), Outcome::Done { revision: 4 });
    assert_eq!(delete(3), Outcome::Mismatch { revision: 0 });
    assert_eq!(delete(0), Outcome::Unchanged { revision: 0 });
}

#[test]
fn what_does_not_fit_is_refused_with_the_limit_and_changes_nothing() {
    map!(map, BYTES);
    let (most, long) = ("x".repeat(40), "x".repeat(41));
    assert_eq!(set(map, "ninechars", Value::Int(1)), Outcome::KeyTooLong { max: 8 });
    assert_eq!(set(map, "k", Value::Str(&long)), Outcome::ValueTooLong { max: 40 });
    assert_eq!(
        map.fits("k", Value::Bytes(long.as_bytes())),
        Err(Outcome::ValueTooLong { max: 40 })
    );
    for key in 0..12 {
        let fits = map.fits(&key.to_string(), Value::Bool(true));
        assert_eq!(
            (fits, set(map, &key.to_string(), Value::Bool(true))),
            (Ok(()), Outcome::Done { revision: key + 1 })
        );
    }
    assert_eq!(set(map, "more", Value::Bool(true)), Outcome::TooManyKeys { max: 12 });
    let before = (map.hash(), map.revision(), map.bytes_free());
    // The twelve items take 11 bytes each, two of them one more for their key.
    assert_eq!(before.2, 300 - 12 * 11 - 2);
    for (key, full) in [("1", None), ("2", None), ("3", None), ("4", None), ("5", Some(()))] {
        let outcome = set(map, key, Value::Str(&most));
        let refused = matches!(outcome, Outcome::Full { bytes_needed: 51, bytes_free: 17 });
        assert_eq!(refused, full.is_some(), "{key}: {outcome:?}");
        assert_eq!(map.fits(key, Value::Str(&most)).is_err(), full.is_some());
    }
    assert_eq!(map.get("5"), Some(Value::Bool(true)));
    assert_eq!(map.revision(), before.1 + 4);
}

#[test]
fn a_map_that_was_not_started_or_has_a_small_array_refuses_all() {
    let mut array = ConfigMap::<[u8; 100]>::new();
    let map: &mut ConfigMap = &mut array;
    assert_eq!(map.fits("a", Value::Int(1)), Err(Outcome::KeyTooLong { max: 0 }));
    let given = BYTES as u32;
    assert_eq!(map.start(LIMITS, 0, None), Err(TooLarge { given, max: 100 }));
}

#[test]
fn the_last_four_outcomes_are_kept_and_a_repeated_index_in_another_term_is_another_command() {
    map!(map, BYTES);
    let mut bytes = [0; 64];
    for index in 1..=5 {
        let value = Value::Int(index as i64);
        let command = Command::Set { key: "k", value, expected: None };
        let len = command.encode(0, &mut bytes).unwrap();
        map.apply(id(index), &bytes[..len]).unwrap();
    }
    assert_eq!(map.outcome(id(1)), None);
    assert_eq!(map.outcome(id(2)), Some(Outcome::Done { revision: 2 }));
    assert_eq!(map.outcome(id(5)), Some(Outcome::Done { revision: 5 }));
    assert_eq!(map.outcome(EntryId::new(Index(5), Term(2))), None);
    assert_eq!(map.outcome(EntryId::ZERO), None);
}

#[test]
fn notices_come_in_the_order_of_revisions_and_only_the_latest_of_each_key() {
    map!(map, BYTES);
    assert_eq!(map.poll_change(), None);
    set(map, "b", Value::Int(1));
    set(map, "a", Value::Int(2));
    set(map, "b", Value::Int(3));
    set(map, "c", Value::Int(4));
    delete(map, "c");
    let item = |key, value, revision| Item { key, value: Value::Int(value), revision };
    assert_eq!(map.poll_change(), Some(Change::Set(item("a", 2, 2))));
    assert_eq!(map.poll_change(), Some(Change::Set(item("b", 3, 3))));
    assert_eq!(map.poll_change(), Some(Change::Deleted { key: "c", revision: 5 }));
    assert_eq!(map.poll_change(), None);
}

#[test]
fn deletions_that_there_is_no_room_to_remember_become_everything() {
    map!(map, BYTES);
    for key in ["a", "b", "c", "d", "e"] {
        set(map, key, Value::Bytes(&[7; 40]));
    }
    while map.poll_change().is_some() {}
    delete(map, "a");
    delete(map, "b");
    for key in ["f", "g"] {
        assert!(matches!(set(map, key, Value::Bytes(&[7; 40])), Outcome::Done { .. }));
    }
    set(map, "h", Value::Str("thirty-one bytes of text, or so"));
    assert_eq!(map.poll_change(), Some(Change::Everything));
    assert_eq!(map.poll_change(), None);
    // Those that were told of are forgotten without a word.
    delete(map, "h");
    assert_eq!(map.poll_change(), Some(Change::Deleted { key: "h", revision: 11 }));
    set(map, "i", Value::Str("thirty-two bytes of text, or more"));
    assert!(matches!(map.poll_change(), Some(Change::Set(Item { key: "i", .. }))));
}

fn split_lamp(from: u16, map: &mut Edit<'_>) {
    match from {
        1 => {
            if let Some(Value::Bool(on)) = map.get("lamp") {
                map.set("level", Value::Int(if on { 100 } else { 0 }));
                map.delete("lamp");
            }
        }
        2 => {
            map.set("steps", Value::Int(map.len() as i64));
        }
        _ => {}
    }
}

#[test]
fn a_newer_firmwares_command_migrates_the_map_and_stops_the_older_firmware() {
    let (mut old, mut new) = (ConfigMap::<[u8; BYTES]>::new(), ConfigMap::<[u8; BYTES]>::new());
    let (old, new): (&mut ConfigMap, &mut ConfigMap) = (&mut old, &mut new);
    old.start(LIMITS, 1, None).unwrap();
    new.start(LIMITS, 3, Some(split_lamp)).unwrap();
    let lamp = Command::Set { key: "lamp", value: Value::Bool(true), expected: None };
    for map in [&mut *old, &mut *new] {
        assert_eq!(apply(map, 1, lamp), Ok(Outcome::Done { revision: 1 }));
        assert_eq!(map.schema(), 1);
    }
    assert_eq!(old.hash(), new.hash());
    assert_eq!(apply(old, 3, Command::Migrate), Err(NewerSchema { found: 3 }));
    assert_eq!((old.schema(), old.get("lamp")), (1, Some(Value::Bool(true))));
    assert_eq!(apply(new, 3, Command::Migrate), Ok(Outcome::Unchanged { revision: 4 }));
    let items: Vec<_> = new.iter().map(|item| (item.key, item.value)).collect();
    assert_eq!(items, [("level", Value::Int(100)), ("steps", Value::Int(1))]);
    assert_eq!(apply(new, 1, lamp), Ok(Outcome::Outdated { schema: 3 }));
    map!(empty, BYTES);
    empty.start(LIMITS, 3, Some(split_lamp)).unwrap();
    assert_eq!(apply(empty, 3, Command::Migrate), Ok(Outcome::Unchanged { revision: 0 }));
    assert_eq!((empty.schema(), empty.len()), (3, 0));
    let newer = RestoreError::Newer(NewerSchema { found: 3 });
    assert_eq!(old.restore(0, &snapshot(new), true), Err(newer));
}

#[test]
fn a_newer_format_stops_applying_and_foreign_bytes_do_not() {
    map!(map, BYTES);
    assert_eq!(map.apply(id(1), &[0xc2, 0, 0, 9]), Err(NewerSchema { found: u16::MAX }));
    for bytes in [&[][..], &[0xc1], &[0xc1, 0, 0], &[0xc0, 0, 0, 2], &[0xd1, 0, 0, 2], b"{\"a\":1}"]
    {
        assert_eq!(apply_bytes(map, bytes), Ok(Some(Outcome::Malformed)), "{bytes:?}");
    }
}

#[test]
fn a_half_restored_map_is_shown_empty_and_a_piece_out_of_order_ends_it() {
    map!(source, BYTES);
    set(source, "a", Value::Str("some text"));
    set(source, "b", Value::Str("some more"));
    let bytes = snapshot(source);
    map!(map, BYTES);
    set(map, "old", Value::Int(1));
    assert_eq!(map.restore(0, &bytes[..20], false), Ok(()));
    assert_eq!((map.len(), map.iter().count(), map.revision(), map.get("old")), (0, 0, 0, None));
    assert_eq!(map.restore(21, &bytes[21..], true), Err(RestoreError::Malformed));
    assert_eq!(map.restore(20, &bytes[20..], true), Err(RestoreError::Malformed));
    assert_eq!(map.restore(0, &bytes[..20], false), Ok(()));
    assert_eq!(map.restore(20, &bytes[20..], true), Ok(()));
    assert_eq!(map.get("b"), Some(Value::Str("some more")));
    assert_eq!(map.poll_change(), Some(Change::Everything));
}

#[test]
fn a_restored_map_tells_of_everything_and_of_nothing_that_it_held_before() {
    map!(map, BYTES);
    set(map, "a", Value::Int(1));
    let bytes = snapshot(map);
    delete(map, "a");
    assert_eq!(map.restore(0, &bytes, true), Ok(()));
    assert_eq!(map.poll_change(), Some(Change::Everything));
    assert_eq!(map.poll_change(), None);
    // Revision 2 was the deletion that the restored map knows nothing of.
    set(map, "b", Value::Int(2));
    set(map, "b", Value::Int(3));
    let item = Item { key: "b", value: Value::Int(3), revision: 3 };
    assert_eq!(map.poll_change(), Some(Change::Set(item)));
}

/// An item's bytes: `value` is its kind (2: integer, 4: text) and what follows.
fn item(revision: u8, key: &str, value: &[u8]) -> Vec<u8> {
    let value = [&[1], value].concat();
    [&[revision, 0, 0, 0, 0, 0, key.len() as u8], key.as_bytes(), &value].concat()
}

#[test]
fn a_snapshot_that_no_map_would_write_is_refused() {
    let head = [0xc1, 0, 0, 9, 0, 0, 0, 0, 0];
    let restore = |items: &[Vec<u8>]| {
        map!(map, BYTES + 50);
        map.restore(0, &[&head[..], &items.concat()].concat(), true)
    };
    let (a, b) = (item(8, "a", &[1, 2]), item(9, "b", &[1, 4]));
    assert_eq!(restore(&[a.clone(), b.clone()]), Ok(()));
    let long = "x".repeat(41);
    let text = [&[3, 41], long.as_bytes()].concat();
    let refused = [
        ("not in order", vec![b.clone(), a.clone()]),
        ("a key twice", vec![a.clone(), a.clone()]),
        ("revision 0", vec![item(0, "a", &[1, 2])]),
        ("a revision of the future", vec![item(10, "a", &[1, 2])]),
        ("a longer form of a number", vec![item(8, "a", &[1, 0x82, 0])]),
        ("a key that is too long", vec![item(8, "ninechars", &[1, 2])]),
        ("a text that is too long", vec![item(8, "a", &text)]),
        ("a deleted key", vec![[&[8, 0, 0, 0, 0, 0, 1], &b"a"[..], &[0]].concat()]),
        (
            "too many keys",
            (b'a'..=b'm').map(|key| item(8, &char::from(key).to_string(), &[1, 2])).collect(),
        ),
        ("half an item", vec![a, b[..8].to_vec()]),
    ];
    for (what, items) in refused {
        assert_eq!(restore(&items), Err(RestoreError::Malformed), "{what}");
    }
    let many: Vec<_> = (b'a'..=b'g')
        .map(|key| item(8, &char::from(key).to_string(), &[&[3, 35][..], &[b'x'; 35]].concat()))
        .collect();
    let given = 9 + 7 * 46;
    assert_eq!(restore(&many), Err(RestoreError::TooLarge(TooLarge { given, max: 309 })));
}

#[derive(Clone, Debug)]
enum Step {
    Set { key: u8, value: Model, expected: Option<u64> },
    Delete { key: u8, expected: Option<u64> },
    Look { notices: usize },
}

#[derive(Clone, Debug, PartialEq)]
enum Model {
    Int(i64),
    Str(String),
}

impl Model {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Int(number) => Value::Int(*number),
            Self::Str(text) => Value::Str(text),
        }
    }

    fn from(value: Value<'_>) -> Self {
        match value {
            Value::Int(number) => Self::Int(number),
            Value::Str(text) => Self::Str(text.into()),
            other => panic!("{other:?} was never set"),
        }
    }
}

fn key_name(key: u8) -> String {
    "k".repeat(usize::from(key % 3)) + &key.to_string()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop_oneof![(-3i64..300).prop_map(Model::Int), "[a-c]{0,44}".prop_map(Model::Str),];
    let expected = prop_oneof![3 => Just(None), 1 => (0u64..20).prop_map(Some)];
    let step = prop_oneof![
        5 => (0u8..16, value, expected.clone())
            .prop_map(|(key, value, expected)| Step::Set { key, value, expected }),
        3 => (0u8..16, expected).prop_map(|(key, expected)| Step::Delete { key, expected }),
        1 => (0usize..9).prop_map(|notices| Step::Look { notices }),
    ];
    vec(step, 0..80)
}

/// What somebody who only reads the notices believes.
fn look(map: &mut ConfigMap, mirror: &mut BTreeMap<String, Model>) -> bool {
    match map.poll_change() {
        None => return false,
        Some(Change::Set(item)) => {
            mirror.insert(item.key.into(), Model::from(item.value));
        }
        Some(Change::Deleted { key, .. }) => {
            mirror.remove(key);
        }
        Some(Change::Everything) => *mirror = content(map),
    }
    true
}

fn content(map: &ConfigMap) -> BTreeMap<String, Model> {
    map.iter().map(|item| (item.key.into(), Model::from(item.value))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn it_does_what_a_plain_map_does_and_its_notices_tell_all_of_it(steps in steps()) {
        map!(map, BYTES);
        // The same on a board with room to spare, whose array is used differently.
        map!(roomy, BYTES + 500);
        let mut model = BTreeMap::<String, (Model, u64)>::new();
        let (mut revision, mut mirror) = (0, BTreeMap::new());
        for step in steps {
            let (key, value, expected) = match step {
                Step::Look { notices } => {
                    (0..notices).for_each(|_| { look(map, &mut mirror); });
                    continue;
                }
                Step::Set { key, value, expected } => (key_name(key), Some(value), expected),
                Step::Delete { key, expected } => (key_name(key), None, expected),
            };
            let command = match &value {
                Some(value) => Command::Set { key: &key, value: value.value(), expected },
                None => Command::Delete { key: &key, expected },
            };
            let fits = value.as_ref().map(|value| map.fits(&key, value.value()));
            let outcome = apply(map, 0, command).unwrap();
            prop_assert_eq!(apply(roomy, 0, command).unwrap(), outcome);
            let old = model.get(&key).cloned();
            let at = old.as_ref().map_or(0, |(_, at)| *at);
            if expected.is_some_and(|expected| expected != at) {
                prop_assert_eq!(outcome, Outcome::Mismatch { revision: at });
            } else if old.map(|(value, _)| value) == value {
                prop_assert_eq!(outcome, Outcome::Unchanged { revision: at });
            } else if let Some(Err(refused)) = fits {
                prop_assert_eq!(outcome, refused);
            } else {
                revision += 1;
                prop_assert_eq!(outcome, Outcome::Done { revision });
                match value {
                    Some(value) => model.insert(key, (value, revision)),
                    None => model.remove(&key),
                };
            }
            prop_assert_eq!(map.revision(), revision);
            prop_assert_eq!(map.len(), model.len());
            let items: Vec<_> = map.iter().collect();
            let expected: Vec<_> = model
                .iter()
                .map(|(key, (value, revision))| Item { key, value: value.value(), revision: *revision })
                .collect();
            prop_assert_eq!(items, expected);
        }
        while look(map, &mut mirror) {}
        prop_assert_eq!(mirror, content(map));
        prop_assert_eq!(map.hash(), roomy.hash());
        prop_assert_eq!(snapshot(map), snapshot(roomy));
    }

    #[test]
    fn the_hash_tells_content_and_nothing_else(
        content in proptest::collection::btree_map("[a-z]{1,4}", -9i64..9, 0..8),
        detour in vec(("[a-z]{1,4}", 10i64..99), 0..4),
    ) {
        map!(straight, BYTES);
        for (key, value) in &content {
            set(straight, key, Value::Int(*value));
        }
        map!(winding, BYTES);
        for (key, value) in &detour {
            set(winding, key, Value::Int(*value));
        }
        for (key, value) in content.iter().rev() {
            set(winding, key, Value::Int(*value));
        }
        let differs = detour.iter().any(|(key, _)| !content.contains_key(key));
        prop_assert_eq!(straight.hash() != winding.hash(), differs);
        for (key, _) in detour.iter().filter(|(key, _)| !content.contains_key(key)) {
            delete(winding, key);
        }
        prop_assert_eq!(straight.hash(), winding.hash());
    }

    #[test]
    fn a_snapshot_taken_and_restored_in_pieces_of_any_size_is_the_same_map(
        content in proptest::collection::btree_map("[a-z]{0,8}", "[a-z]{0,12}", 0..8),
        take in 1usize..50,
        give in 1usize..50,
    ) {
        map!(map, BYTES);
        for (key, value) in &content {
            set(map, key, Value::Str(value));
        }
        let mut bytes = Vec::new();
        loop {
            let mut piece = vec![0; take];
            let len = map.snapshot(bytes.len() as u32, &mut piece);
            bytes.extend_from_slice(&piece[..len]);
            if len < take {
                break;
            }
        }
        prop_assert_eq!(&bytes, &snapshot(map));
        map!(restored, BYTES);
        set(restored, "zzz", Value::Int(1));
        for (n, piece) in bytes.chunks(give).enumerate() {
            let offset = n * give;
            let last = offset + piece.len() == bytes.len();
            prop_assert_eq!(restored.restore(offset as u32, piece, last), Ok(()));
        }
        prop_assert_eq!(snapshot(restored), bytes);
        prop_assert_eq!(restored.iter().collect::<Vec<_>>(), map.iter().collect::<Vec<_>>());
        prop_assert_eq!(restored.len(), map.len());
    }

    #[test]
    fn a_damaged_snapshot_is_refused_or_is_a_snapshot(
        at in 0usize..90, bits in 1u8.., cut in 0usize..90, random in vec(any::<u8>(), 0..60),
    ) {
        map!(map, BYTES);
        for key in ["a", "bb", "ccc", "dddd"] {
            set(map, key, Value::Str(key));
        }
        let whole = snapshot(map);
        let mut flipped = whole.clone();
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= bits;
        }
        let short = whole[..cut.min(whole.len() - 1)].to_vec();
        let long = [&whole[..], &[0]].concat();
        let foreign = [&whole[..9], &random[..]].concat();
        for bytes in [flipped, short, long, random, foreign] {
            match map.restore(0, &bytes, true) {
                Ok(()) => prop_assert_eq!(snapshot(map), bytes),
                Err(_) => prop_assert_eq!((map.len(), map.iter().count(), map.revision()), (0, 0, 0)),
            }
        }
    }

    #[test]
    fn a_damaged_command_does_something_or_nothing_but_never_harm(
        at in 0usize..20, bits in 1u8.., random in vec(any::<u8>(), 0..40),
    ) {
        map!(map, BYTES);
        set(map, "a", Value::Str("text"));
        let mut bytes = [0; 64];
        let command = Command::Set { key: "a", value: Value::Str("other"), expected: Some(1) };
        let len = command.encode(0, &mut bytes).unwrap();
        bytes[at.min(len - 1)] ^= bits;
        for bytes in [&bytes[..len], &[&[0xc1, 0, 0], &random[..]].concat(), &random] {
            let before = snapshot(map);
            let done = matches!(apply_bytes(map, bytes), Ok(Some(Outcome::Done { .. })));
            prop_assert!(snapshot(map) == before || done);
            let now = snapshot(map);
            prop_assert_eq!(map.restore(0, &now, true), Ok(()));
        }
    }
}
