//! `Replicated`: one value of a type, replaced as a whole.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use quorate::typed::{NewerSchema, Outcome, Replicated, RestoreError, StateMachine, TooLarge};
use quorate::{EntryId, Index, Term};
use serde::{Deserialize, Serialize};

const MAX: u16 = 24;
const BYTES: usize = MAX as usize + 9;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Lamp {
    name: heapless::String<26>,
    level: u8,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct OldLamp {
    on: bool,
}

fn lamp(name: &str, level: u8) -> Lamp {
    Lamp { name: name.try_into().unwrap(), level }
}

fn read_old(from: u16, bytes: &[u8]) -> Option<Lamp> {
    let old: OldLamp = (from == 1).then(|| postcard::from_bytes(bytes).ok())??;
    Some(lamp("old", if old.on { 100 } else { 0 }))
}

fn id(index: u64) -> EntryId {
    EntryId::new(Index(index), Term(1))
}

fn replace<T: Serialize + serde::de::DeserializeOwned>(
    state: &mut Replicated<T>,
    index: u64,
    value: &T,
    expected: Option<u64>,
) -> Outcome {
    let mut bytes = [0; 64];
    let len = state.encode(value, expected, &mut bytes).unwrap();
    state.apply(id(index), &bytes[..len]).unwrap();
    state.outcome(id(index)).unwrap()
}

fn snapshot<T: Serialize + serde::de::DeserializeOwned>(state: &Replicated<T>) -> Vec<u8> {
    let mut bytes = vec![0; BYTES + 1];
    let len = state.snapshot(0, &mut bytes);
    bytes.truncate(len);
    bytes
}

macro_rules! replicated {
    ($name:ident, $type:ty, $schema:expr, $migrate:expr) => {
        let mut array = Replicated::<$type, [u8; BYTES]>::new();
        let $name: &mut Replicated<$type> = &mut array;
        $name.start(MAX, $schema, $migrate).unwrap();
    };
}

#[test]
fn a_value_is_there_once_committed_and_each_replacement_is_told_once() {
    replicated!(state, Lamp, 0, None);
    assert_eq!(state.get(), None);
    assert_eq!(state.poll_change(), None);
    assert_eq!(replace(state, 1, &lamp("hall", 7), None), Outcome::Done { revision: 1 });
    assert_eq!(replace(state, 2, &lamp("hall", 9), Some(1)), Outcome::Done { revision: 2 });
    assert_eq!(state.get(), Some(&lamp("hall", 9)));
    assert_eq!(state.poll_change(), Some(&lamp("hall", 9)));
    assert_eq!(replace(state, 3, &lamp("hall", 9), None), Outcome::Unchanged { revision: 2 });
    assert_eq!(state.poll_change(), None);
    assert_eq!(replace(state, 4, &lamp("stair", 9), Some(1)), Outcome::Mismatch { revision: 2 });
    assert_eq!(replace(state, 5, &lamp("stair", 9), Some(0)), Outcome::Mismatch { revision: 2 });
    assert_eq!(state.get(), Some(&lamp("hall", 9)));
}

#[test]
fn a_value_beyond_the_limit_is_refused_before_and_after_it_is_proposed() {
    replicated!(state, Lamp, 0, None);
    let long = lamp("a name of twenty-six bytes", 1);
    let mut bytes = [0; 64];
    assert_eq!(state.encode(&long, None, &mut bytes), Err(TooLarge { given: 28, max: 24 }));
    let short = state.encode(&lamp("a", 1), None, &mut bytes[..6]);
    assert_eq!(short, Err(TooLarge { given: 7, max: 6 }));
    let mut wide = Replicated::<Lamp, [u8; 100]>::new();
    let wide: &mut Replicated<Lamp> = &mut wide;
    assert_eq!(wide.start(92, 0, None), Err(TooLarge { given: 101, max: 100 }));
    wide.start(50, 0, None).unwrap();
    let len = wide.encode(&long, None, &mut bytes).unwrap();
    state.apply(id(1), &bytes[..len]).unwrap();
    assert_eq!(state.outcome(id(1)), Some(Outcome::ValueTooLong { max: 24 }));
    assert_eq!(state.get(), None);
}

#[test]
fn an_older_firmwares_value_is_migrated_and_a_newer_ones_stops_applying() {
    replicated!(old, OldLamp, 1, None);
    replicated!(new, Lamp, 2, Some(read_old));
    let mut bytes = [0; 64];
    let len = old.encode(&OldLamp { on: true }, None, &mut bytes).unwrap();
    old.apply(id(1), &bytes[..len]).unwrap();
    new.apply(id(1), &bytes[..len]).unwrap();
    assert_eq!(new.get(), Some(&lamp("old", 100)));
    assert_eq!((new.schema(), snapshot(new)), (1, snapshot(old)));
    let restored = snapshot(new);
    assert_eq!(new.restore(0, &restored, true), Ok(()));
    assert_eq!(new.get(), Some(&lamp("old", 100)));

    assert_eq!(replace(new, 2, &lamp("new", 50), None), Outcome::Done { revision: 2 });
    new.apply(id(3), &bytes[..len]).unwrap();
    assert_eq!(new.outcome(id(3)), Some(Outcome::Outdated { schema: 2 }));
    let len = new.encode(&lamp("new", 51), None, &mut bytes).unwrap();
    assert_eq!(old.apply(id(2), &bytes[..len]), Err(NewerSchema { found: 2 }));
    assert_eq!((old.get(), old.revision()), (Some(&OldLamp { on: true }), 1));
    let newer = RestoreError::Newer(NewerSchema { found: 2 });
    assert_eq!(old.restore(0, &snapshot(new), true), Err(newer));
}

#[test]
fn the_same_bytes_in_a_newer_schema_are_a_new_value() {
    let read: quorate::typed::MigrateValue<u8> = |_, bytes| bytes.first().map(|byte| byte + 100);
    replicated!(state, u8, 2, Some(read));
    for (index, schema, value) in [(1, 1, 105), (2, 2, 5)] {
        state.apply(id(index), &[0xa1, schema, 0, 0, 5]).unwrap();
        assert_eq!(state.outcome(id(index)), Some(Outcome::Done { revision: index }));
        assert_eq!((state.get(), state.schema()), (Some(&value), u16::from(schema)));
    }
}

#[test]
fn bytes_around_a_value_are_refused() {
    replicated!(state, u8, 0, None);
    for command in
        [&[0xa1, 0, 0, 0, 5, 5][..], &[0xa1, 0, 0, 0], &[0xa1, 0, 0], &[0xb1, 0, 0, 0, 5]]
    {
        state.apply(id(1), command).unwrap();
        assert_eq!(state.outcome(id(1)), Some(Outcome::Malformed), "{command:?}");
    }
    let head = |revision| [0xa1, 0, 0, revision, 0, 0, 0, 0, 0];
    let malformed = Err(RestoreError::Malformed);
    assert_eq!(state.restore(0, &[&head(0)[..], &[5]].concat(), true), malformed);
    assert_eq!(state.restore(0, &head(1), true), malformed);
    assert_eq!(state.restore(0, &[&head(1)[..], &[5, 5]].concat(), true), malformed);
    assert_eq!(state.restore(0, &[&head(1)[..], &[5]].concat(), true), Ok(()));
    assert_eq!(state.poll_change(), Some(&5));
    assert_eq!(state.poll_change(), None);
    assert_eq!(state.restore(0, &head(0), true), Ok(()));
    assert_eq!((state.get(), state.revision()), (None, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_snapshot_in_pieces_of_any_size_is_the_same_value(
        name in "[a-z]{0,20}", level: u8, empty: bool, take in 1usize..40, give in 1usize..40,
    ) {
        replicated!(state, Lamp, 0, None);
        if !empty {
            replace(state, 1, &lamp(&name, level), None);
        }
        let mut bytes = Vec::new();
        loop {
            let mut piece = vec![0; take];
            let len = state.snapshot(bytes.len() as u32, &mut piece);
            bytes.extend_from_slice(&piece[..len]);
            if len < take {
                break;
            }
        }
        replicated!(restored, Lamp, 0, None);
        replace(restored, 1, &lamp("before", 1), None);
        for (n, piece) in bytes.chunks(give).enumerate() {
            let last = n * give + piece.len() == bytes.len();
            prop_assert_eq!(restored.restore((n * give) as u32, piece, last), Ok(()));
            prop_assert!(last || restored.get().is_none());
        }
        prop_assert_eq!(restored.get(), state.get());
        prop_assert_eq!((restored.revision(), snapshot(restored)), (state.revision(), bytes));
    }

    #[test]
    fn hostile_bytes_are_refused_or_a_value(
        mut bytes in vec(any::<u8>(), 0..60), tag in prop_oneof![Just(0xa1u8), any::<u8>()], zero: bool,
    ) {
        replicated!(state, Lamp, 0, None);
        if let Some(first) = bytes.first_mut() {
            *first = tag;
        }
        if zero {
            bytes.iter_mut().skip(1).take(2).for_each(|byte| *byte = 0);
        }
        if state.apply(id(1), &bytes).is_ok() {
            let done = state.outcome(id(1)) == Some(Outcome::Done { revision: 1 });
            prop_assert_eq!(done, state.get().is_some());
        }
        match state.restore(0, &bytes, true) {
            Ok(()) => prop_assert_eq!(snapshot(state), bytes),
            Err(_) => prop_assert_eq!((state.get(), state.revision()), (None, 0)),
        }
    }
}
