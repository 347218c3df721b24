//! An application that the runner and other tasks share.
#![allow(clippy::unwrap_used)]

use core::task::{Context, Poll, Waker};
use quorate::typed::{Command, ConfigMap, MapLimits, StateMachine, Value};
use quorate::{EntryId, Index, Term};
use quorate_embedded::runner::Shared;

const MAP: MapLimits = MapLimits { keys: 4, key_bytes: 8, value_bytes: 8, bytes: 100 };

fn start(map: &mut ConfigMap) -> &mut ConfigMap {
    map.start(MAP, 1, None).unwrap();
    map
}

#[test]
fn what_the_runner_applies_is_seen_and_told_of() {
    let mut map = ConfigMap::<[u8; 120]>::new();
    let shared = Shared::new(start(&mut map));
    let mut context = Context::from_waker(Waker::noop());
    let mut changed = core::pin::pin!(shared.changed());
    assert!(changed.as_mut().poll(&mut context).is_pending());
    let mut bytes = [0; 40];
    let command = Command::Set { key: "lamp", value: Value::Int(5), expected: None };
    let len = command.encode(1, &mut bytes).unwrap();
    let mut runners = &shared;
    let id = EntryId::new(Index(1), Term(1));
    StateMachine::apply(&mut runners, id, bytes.get(..len).unwrap()).unwrap();
    assert_eq!(changed.poll(&mut context), Poll::Ready(()));
    let seen = shared.with(|map| map.get("lamp") == Some(Value::Int(5)));
    assert_eq!(seen, Some(true));
    // From within itself it is left alone.
    assert_eq!(shared.with(|_| shared.with(|map| map.len())), Some(None));
}

#[test]
fn a_state_goes_from_one_to_the_other() {
    let (mut one, mut other) = (ConfigMap::<[u8; 120]>::new(), ConfigMap::<[u8; 120]>::new());
    let (one, other) = (Shared::new(start(&mut one)), Shared::new(start(&mut other)));
    let mut bytes = [0; 120];
    let command = Command::Set { key: "lamp", value: Value::Int(5), expected: None };
    let len = command.encode(1, &mut bytes).unwrap();
    let id = EntryId::new(Index(1), Term(1));
    StateMachine::apply(&mut &one, id, bytes.get(..len).unwrap()).unwrap();
    let len = StateMachine::snapshot(&&one, 0, &mut bytes);
    let mut context = Context::from_waker(Waker::noop());
    StateMachine::restore(&mut &other, 0, bytes.get(..4).unwrap(), false).unwrap();
    assert!(core::pin::pin!(other.changed()).poll(&mut context).is_pending());
    StateMachine::restore(&mut &other, 4, bytes.get(4..len).unwrap(), true).unwrap();
    assert!(core::pin::pin!(other.changed()).poll(&mut context).is_ready());
    assert_eq!(other.with(|map| map.get("lamp") == Some(Value::Int(5))), Some(true));
}
