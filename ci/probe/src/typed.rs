//! Drives the typed layer: a map and a value as a node's application.

use quorate::node::{Node, Output};
use quorate::typed::{Command, ConfigMap, Edit, MapLimits, Replicated, StateMachine, Value, serve};
use quorate::{EntryId, Index, Term};
use serde::{Deserialize, Serialize};

use crate::port::{byte, fill, flag, half, show, some, some_mut, text, wide, word};

/// A value with something of everything that a firmware keeps.
#[derive(Serialize, Deserialize)]
struct Settings {
    name: [u8; 4],
    interval_ms: u32,
    threshold: i16,
    mode: Mode,
    limit: Option<u64>,
}

#[derive(Serialize, Deserialize)]
enum Mode {
    Off,
    Dimmed(u8),
    Timed { from: u16, to: u16 },
}

static mut MAP: ConfigMap<[u8; 1024]> = ConfigMap::new();
static mut VALUE: Replicated<Settings, [u8; 128]> = Replicated::new();

/// One call, chosen from outside.
#[inline(never)]
pub fn drive(node: &mut Node, output: &Output, frame: &mut [u8], flash: &mut [u8]) {
    // SAFETY: the only references to these while this function runs, which does not call itself.
    let (map, value): (&mut ConfigMap, &mut Replicated<Settings>) =
        unsafe { (&mut *(&raw mut MAP), &mut *(&raw mut VALUE)) };
    match byte() {
        0 => show(serve(node, map, output, frame, flash)),
        1 => show(serve(node, value, output, frame, flash)),
        2 => machine(map, frame),
        3 => machine(value, frame),
        4 => map_calls(map, frame),
        _ => value_calls(value, frame),
    }
}

fn entry_id() -> EntryId {
    EntryId::new(Index(wide()), Term(wide()))
}

fn machine(app: &mut (impl StateMachine + ?Sized), bytes: &mut [u8]) {
    fill(bytes);
    match byte() {
        0 => show(app.apply(entry_id(), some(bytes))),
        1 => show(app.snapshot(word(), some_mut(bytes))),
        _ => show(app.restore(word(), some(bytes), flag())),
    }
}

#[inline(never)]
fn map_calls(map: &mut ConfigMap, bytes: &mut [u8]) {
    fill(bytes);
    let (key, rest) = bytes.split_at_mut_checked(32).unwrap_or_default();
    let key = text(key);
    match byte() {
        0 => show(map.start(limits(), half(), flag().then_some(migrate as _))),
        1 => show((map.get(key), map.item(key))),
        2 => map.iter().for_each(show),
        3 => show((map.len(), map.is_empty(), map.revision(), map.schema(), map.bytes_free())),
        4 => show(map.hash()),
        5 => show(map.outcome(entry_id())),
        6 => show(map.fits(key, value(rest))),
        7 => show(map.poll_change()),
        8 => {
            let expected = flag().then(wide);
            let (from, to) = rest.split_at_mut_checked(32).unwrap_or_default();
            let command = match byte() {
                0 => Command::Set { key, value: value(from), expected },
                1 => Command::Delete { key, expected },
                _ => Command::Migrate,
            };
            show(command.encode(half(), to));
        }
        _ => show((limits().command_bytes_max(), limits().snapshot_bytes_max())),
    }
}

fn migrate(from: u16, map: &mut Edit<'_>) {
    let bytes = from.to_le_bytes();
    let key = text(&bytes);
    show(map.get(key));
    map.iter().for_each(show);
    show(map.set(key, value(&bytes)));
    show(map.delete(key));
}

fn value(bytes: &[u8]) -> Value<'_> {
    match byte() {
        0 => Value::Bool(flag()),
        1 => Value::Int(wide() as i64),
        2 => Value::Float(wide()),
        3 => Value::Str(text(bytes)),
        _ => Value::Bytes(some(bytes)),
    }
}

fn limits() -> MapLimits {
    MapLimits { keys: half(), key_bytes: byte(), value_bytes: half(), bytes: word() }
}

#[inline(never)]
fn value_calls(value: &mut Replicated<Settings>, bytes: &mut [u8]) {
    match byte() {
        0 => show(value.start(half(), half(), flag().then_some(convert as _))),
        1 => show(value.get()),
        2 => show((value.revision(), value.schema())),
        3 => show(value.poll_change()),
        4 => show(value.outcome(entry_id())),
        5 => show(value.encode(&settings(), flag().then(wide), some_mut(bytes))),
        _ => show((value.command_bytes_max(), value.snapshot_bytes_max())),
    }
}

fn convert(schema: u16, bytes: &[u8]) -> Option<Settings> {
    show((schema, bytes));
    flag().then(settings)
}

fn settings() -> Settings {
    let mode = match byte() {
        0 => Mode::Off,
        1 => Mode::Dimmed(byte()),
        _ => Mode::Timed { from: half(), to: half() },
    };
    let name = word().to_le_bytes();
    let limit = flag().then(wide);
    Settings { name, interval_ms: word(), threshold: half() as i16, mode, limit }
}
