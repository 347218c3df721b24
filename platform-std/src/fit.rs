//! Does a configuration fit the boards? Asked before anything starts, of the very code that the boards run.

use quorate::EntryId;
use quorate::typed::{Command, ConfigMap, MapLimits, Outcome, StateMachine};

use crate::boxed;
use crate::config_file::{ConfigFile, ConfigFileError};
use crate::content::{Change, Value};

/// Larger than those of any board.
pub(crate) const WIDEST: MapLimits = MapLimits {
    keys: u16::MAX,
    key_bytes: u8::MAX,
    value_bytes: u16::MAX,
    bytes: (boxed::BYTES_MAX - 64) as u32,
};

/// The schema of the commands that this program writes.
pub const SCHEMA: u16 = 1;

/// An empty map with these limits, or [`WIDEST`] where they are wider.
pub(crate) fn new_map(limits: MapLimits, schema: u16) -> Box<ConfigMap> {
    const { assert!(WIDEST.snapshot_bytes_max() as usize <= boxed::BYTES_MAX) };
    let bytes = limits.bytes.min(WIDEST.bytes);
    let limits = MapLimits { bytes, ..limits };
    let mut map = boxed::map(limits.snapshot_bytes_max() as usize);
    let started = map.start(limits, schema, None);
    debug_assert!(started.is_ok(), "the array holds a map of that size");
    map
}

/// The value as the boards know it.
pub(crate) fn board_value(value: &Value) -> quorate::typed::Value<'_> {
    match value {
        Value::Bool(value) => quorate::typed::Value::Bool(*value),
        Value::Int(value) => quorate::typed::Value::Int(*value),
        Value::Float(value) => quorate::typed::Value::from(*value),
        Value::Str(value) => quorate::typed::Value::Str(value),
        Value::Bytes(value) => quorate::typed::Value::Bytes(value),
    }
}

/// The command that makes this change, or why there can be none.
///
/// # Errors
/// Key or value are longer than any map can hold.
pub fn command(change: &Change) -> Result<Vec<u8>, quorate::typed::TooLarge> {
    let mut bytes = vec![0; 1 << 17];
    let command = match change {
        Change::Set(key, value) => Command::Set { key, value: board_value(value), expected: None },
        Change::Delete(key) => Command::Delete { key, expected: None },
    };
    let len = command.encode(SCHEMA, &mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// Fills a map like that of the boards with the file's content, in the order of the file.
///
/// # Errors
/// The first key that does not fit, with its place and both figures.
pub fn check(
    file: &ConfigFile,
    limits: &MapLimits,
    entry_bytes: u16,
) -> Result<(), ConfigFileError> {
    let mut map = new_map(*limits, SCHEMA);
    let content = file.content();
    for key in file.keys_in_order() {
        let Some(value) = content.get(key) else { continue };
        let short = shortened(key);
        let complain = |what: String| Err(file.complain(key, what));
        if let Err(outcome) = map.fits(key, board_value(value)) {
            return complain(match outcome {
                Outcome::TooManyKeys { max } => {
                    let given = content.len();
                    format!(
                        "{short} is one key too many: the file has {given}, a board holds {max}"
                    )
                }
                Outcome::KeyTooLong { max } => {
                    let given = key.len();
                    format!("the key {short} has {given} bytes: a board holds keys of up to {max}")
                }
                Outcome::ValueTooLong { max } => {
                    let given = value_bytes(value);
                    format!("the value of {short} has {given} bytes: a board holds up to {max}")
                }
                Outcome::Full { bytes_needed, bytes_free } => {
                    let bytes = limits.bytes;
                    format!(
                        "{short} takes {bytes_needed} bytes, of a board's {bytes} only {bytes_free} are left: shorten or remove something"
                    )
                }
                other => format!("{short} is refused: {other:?}"),
            });
        }
        let command = match command(&Change::Set(key.into(), value.clone())) {
            Ok(command) if command.len() <= usize::from(entry_bytes) => command,
            Ok(command) => {
                let given = command.len();
                return complain(format!(
                    "setting {short} takes a command of {given} bytes: one frame carries {entry_bytes}"
                ));
            }
            Err(error) => return complain(format!("{short}: {error}")),
        };
        // What fits is applied: a newer schema than one's own there is not.
        let _ = map.apply(EntryId::ZERO, &command);
    }
    Ok(())
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Bool(_) => 1,
        Value::Int(_) | Value::Float(_) => 8,
        Value::Str(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
    }
}

/// A key as an error shows it: whole if it is of a sane length.
fn shortened(key: &str) -> String {
    const CHARS: usize = 40;
    match key.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &key[..end]),
        None => key.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MapLimits = MapLimits { keys: 3, key_bytes: 8, value_bytes: 16, bytes: 70 };

    fn complaint(text: &str) -> String {
        let file = ConfigFile::parse("f.toml", text).unwrap();
        check(&file, &LIMITS, 40).map_or_else(|e| e.to_string(), |()| "fits".into())
    }

    #[test]
    fn what_fits_exactly_fits() {
        // Three keys: 3 × 10 and 24 bytes of keys leave 16 for values.
        assert_eq!(complaint("aaaaaaaa = \"12345678\"\nbbbbbbbb = 1.0\ncccccccc = \"\""), "fits");
        assert_eq!(complaint(""), "fits");
    }

    #[test]
    fn each_limit_is_named_with_the_place_and_both_figures() {
        for (text, expected) in [
            (
                "z = 1\nb = 1\nc = 1\na = 1\n",
                "f.toml:4:1: a is one key too many: the file has 4, a board holds 3",
            ),
            (
                "[t]\nwxyzwxy = 1\n",
                "f.toml:2:1: the key t.wxyzwxy has 9 bytes: a board holds keys of up to 8",
            ),
            (
                "k = \"12345678901234567\"",
                "f.toml:1:1: the value of k has 17 bytes: a board holds up to 16",
            ),
            (
                "a = \"1234567890123456\"\nb = \"1234567890123456\"\nc = \"1234567890123456\"\n",
                "f.toml:3:1: c takes 27 bytes, of a board's 70 only 16 are left",
            ),
        ] {
            let complaint = complaint(text);
            assert!(complaint.starts_with(expected), "{complaint}");
        }
    }

    #[test]
    fn a_command_that_no_frame_carries_is_refused() {
        let file = ConfigFile::parse("f.toml", "a = \"1234567890\"").unwrap();
        let change = Change::Set("a".into(), Value::Str("1234567890".into()));
        let bytes = command(&change).unwrap().len() as u16;
        let error = check(&file, &LIMITS, bytes - 1).unwrap_err().to_string();
        let max = bytes - 1;
        let expected = format!(
            "f.toml:1:1: setting a takes a command of {bytes} bytes: one frame carries {max}"
        );
        assert_eq!(error, expected);
        assert_eq!(check(&file, &LIMITS, bytes), Ok(()));
    }

    #[test]
    fn a_key_of_absurd_length_is_refused_and_not_printed_whole() {
        let complaint = complaint(&format!("{} = 1", "k".repeat(100_000)));
        assert!(complaint.contains("has 100000 bytes") && complaint.len() < 200, "{complaint}");
    }
}
