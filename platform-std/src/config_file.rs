//! Reading a configuration file: TOML of strings, numbers and booleans, flattened to keys (`radio.channel`)
//! whose places in the file are kept, so that every complaint can point at one.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::content::{Content, Value};

/// A longer file is refused before it is parsed, bytes. It is far more than a board can hold.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where something stands in a file; both count from one, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Place {
    /// The place of byte `at`.
    pub(crate) fn of(text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let column = before[line_start..].chars().count() + 1;
        Self { line: before.matches('\n').count() + 1, column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why a file is no configuration, as `file:line:column: what`, or `file: what`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {what}", place.map(|place| format!(":{place}")).unwrap_or_default())]
pub struct ConfigFileError {
    /// The file's name, as it was given.
    pub file: String,
    /// Where in it.
    pub place: Option<Place>,
    /// What is wrong, and what would do.
    pub what: String,
}

/// A configuration file that was read.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    name: String,
    content: Content,
    places: BTreeMap<String, Place>,
}

impl ConfigFile {
    /// Reads and parses the file.
    ///
    /// # Errors
    /// It can't be read, is not TOML, or holds what a board can't: an array, a date, an empty key.
    pub fn read(path: &Path) -> Result<Self, ConfigFileError> {
        Self::parse(&path.display().to_string(), &text(path)?)
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// As [`ConfigFile::read`].
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigFileError> {
        let mut file = Self { name: name.into(), content: Content::new(), places: BTreeMap::new() };
        match DeTable::parse(text) {
            Ok(table) => file.flatten(text, "", table.get_ref()).map(|()| file),
            Err(e) => Err(ConfigFileError {
                file: file.name,
                place: e.span().map(|span| Place::of(text, span.start)),
                what: format!("is not TOML: {}", e.message().replace('\n', ", ")),
            }),
        }
    }

    /// Keys and values.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The file's name, as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The keys in the order in which they stand in the file.
    pub fn keys_in_order(&self) -> Vec<&str> {
        let mut keys: Vec<_> = self.places.iter().collect();
        keys.sort_by_key(|(_, place)| **place);
        keys.into_iter().map(|(key, _)| key.as_str()).collect()
    }

    /// A complaint about the key's line.
    pub fn complain(&self, key: &str, what: String) -> ConfigFileError {
        ConfigFileError { file: self.name.clone(), place: self.places.get(key).copied(), what }
    }

    fn flatten(
        &mut self,
        text: &str,
        prefix: &str,
        table: &DeTable<'_>,
    ) -> Result<(), ConfigFileError> {
        for (name, value) in table {
            let place = Place::of(text, name.span().start);
            let error =
                |what| ConfigFileError { file: self.name.clone(), place: Some(place), what };
            let key = format!("{prefix}{}", name.get_ref());
            if key.split('.').any(str::is_empty) {
                return Err(error(format!("the key {key:?} has an empty part: name it")));
            }
            if let DeValue::Table(inner) = value.get_ref() {
                self.flatten(text, &format!("{key}."), inner)?;
                continue;
            }
            let value = scalar(value).map_err(|what| error(format!("{key} {what}")))?;
            if let Some(other) = self.places.get(&key) {
                return Err(error(format!("{key} stands at {other} already, written another way")));
            }
            self.places.insert(key.clone(), place);
            self.content.insert(key, value);
        }
        Ok(())
    }
}

/// The text of a file that is to be TOML.
pub(crate) fn text(path: &Path) -> Result<String, ConfigFileError> {
    let error =
        |place, what: String| ConfigFileError { file: path.display().to_string(), place, what };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|e| error(None, format!("can't be read: {e}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(error(None, format!("is longer than {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]);
        error(Some(Place::of(&valid, valid.len())), "is not TOML: not UTF-8 text".into())
    })
}

/// The value, or what is wrong with it.
fn scalar(value: &Spanned<DeValue<'_>>) -> Result<Value, String> {
    const DO: &str = "a board holds strings, numbers and booleans";
    match value.get_ref() {
        DeValue::Boolean(value) => Ok(Value::Bool(*value)),
        DeValue::String(value) => Ok(Value::Str(value.to_string())),
        DeValue::Integer(value) => {
            i64::from_str_radix(value.as_str(), value.radix()).map(Value::Int).map_err(|_| {
                format!("is out of range: whole numbers are {} to {}", i64::MIN, i64::MAX)
            })
        }
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(float) if float.is_finite() || number.as_str().contains(['i', 'n']) => {
                Ok(Value::Float(float))
            }
            _ => Err("is out of range: it doesn't fit 64 bits".into()),
        },
        DeValue::Datetime(_) => Err(format!("is a date or time: {DO}; write it as a string")),
        DeValue::Array(_) => Err(format!("is an array: {DO}; give each element its own key")),
        DeValue::Table(_) => Err(format!("is a table: {DO}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Content, String> {
        ConfigFile::parse("f.toml", text).map(|file| file.content).map_err(|e| e.to_string())
    }

    #[test]
    fn tables_dotted_keys_and_inline_tables_become_flat_keys() {
        let text = "a = 1\n[b]\nc = true\nd.e = \"x\"\n[b.f]\ng = { h = 0x10 }\n\"i.j\" = -0.5\n";
        let flat = [
            ("a".into(), Value::Int(1)),
            ("b.c".into(), Value::Bool(true)),
            ("b.d.e".into(), Value::Str("x".into())),
            ("b.f.g.h".into(), Value::Int(16)),
            ("b.f.i.j".into(), Value::Float(-0.5)),
        ];
        assert_eq!(parse(text), Ok(Content::from(flat)));
    }

    #[test]
    fn what_a_board_cannot_hold_is_named_with_file_line_column_and_key() {
        for (text, start) in [
            ("x = 1\n[a]\n  b = [1, 2]\n", "f.toml:3:3: a.b is an array: "),
            ("when = 2026-01-01\n", "f.toml:1:1: when is a date or time: "),
            ("[[lamp]]\nx = 1\n", "f.toml:1:3: lamp is an array: "),
            ("a = 9223372036854775808\n", "f.toml:1:1: a is out of range: "),
            ("\"é\" = { \"ü\" = 1e999 }\n", "f.toml:1:9: é.ü is out of range: "),
            ("\"\" = 1\n", "f.toml:1:1: the key \"\" has an empty part"),
            ("a.b = 1\n\"a.b\" = 2\n", "f.toml:2:1: a.b stands at 1:3 already"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(start), "{error}");
        }
    }

    #[test]
    fn what_is_not_toml_is_told_in_one_line_with_its_place() {
        for (text, start) in [
            ("a = 1\nb = \n", "f.toml:2:5: is not TOML: "),
            ("a = 1\na = 2\n", "f.toml:2:1: is not TOML: "),
            ("{\"a\": 1}\n", "f.toml:1:1: is not TOML: "),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(start) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn infinities_and_nan_are_floats() {
        let content = parse("a = inf\nb = -inf\nc = nan\n").unwrap();
        assert_eq!(content["a"], Value::Float(f64::INFINITY));
        assert_eq!(content["b"], Value::Float(f64::NEG_INFINITY));
        assert_eq!(content["c"], Value::Float(f64::NAN));
    }

    #[test]
    fn what_to_toml_writes_reads_back_the_same() {
        for text in [
            "a = 1\n\"a.b\" = 2\n",
            "\"a b\".c = \"x\\ny\\u0000\\\"\"\nd = nan\ne = -0.0\nf = 1e300\n",
            "[x.y]\nz = false\n[x]\nw = 9007199254740993\nv = 0.1\n",
        ] {
            let content = parse(text).unwrap();
            let document = crate::content::to_toml(&content).unwrap();
            assert_eq!(parse(&document).as_ref(), Ok(&content), "{document}");
        }
    }

    #[test]
    fn keys_come_in_the_order_of_the_file() {
        let file = ConfigFile::parse("f", "z = 1\na = 2\n[m]\ny = 3\nb = 4\n").unwrap();
        assert_eq!(file.keys_in_order(), ["z", "a", "m.y", "m.b"]);
    }

    #[test]
    fn a_file_that_is_no_text_or_too_long_or_missing_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            ConfigFile::read(&path).unwrap_err().to_string()
        };
        assert!(read(b"a = 1\nb = \"\xff\"").ends_with("c.toml:2:6: is not TOML: not UTF-8 text"));
        assert!(read(&vec![b'#'; (1 << 20) + 1]).contains("is longer than 1048576 bytes"));
        let missing = ConfigFile::read(&dir.path().join("no.toml")).unwrap_err().to_string();
        assert!(missing.contains("no.toml: can't be read: "), "{missing}");
    }
}
