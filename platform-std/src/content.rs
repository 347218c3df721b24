//! What a configuration holds: flat keys and their values, wherever they came from.

use std::collections::BTreeMap;
use std::fmt;

/// One value, owned. The boards hold the same kinds (see `quorate::typed`).
#[derive(Clone, Debug)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// Text.
    Str(String),
    /// Bytes that are not text. No configuration file holds them, but a board may.
    Bytes(Vec<u8>),
}

impl Value {
    /// What kind it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "boolean",
            Self::Int(_) => "integer",
            Self::Float(_) => "float",
            Self::Str(_) => "string",
            Self::Bytes(_) => "bytes",
        }
    }

    /// As JSON, where a float that JSON can't say (`nan`, `inf`) is a string, and bytes are hex digits.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Float(value) if value.is_finite() => (*value).into(),
            Self::Float(_) | Self::Bytes(_) => self.to_string().into(),
            Self::Str(value) => value.as_str().into(),
        }
    }

    /// As TOML, which has no bytes.
    fn to_toml(&self) -> Option<toml::Value> {
        Some(match self {
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Str(value) => value.as_str().into(),
            Self::Bytes(_) => return None,
        })
    }
}

/// What a board holds.
impl From<quorate::typed::Value<'_>> for Value {
    fn from(value: quorate::typed::Value<'_>) -> Self {
        match value {
            quorate::typed::Value::Bool(value) => Self::Bool(value),
            quorate::typed::Value::Int(value) => Self::Int(value),
            quorate::typed::Value::Float(bits) => Self::Float(f64::from_bits(bits)),
            quorate::typed::Value::Str(text) => Self::Str(text.into()),
            quorate::typed::Value::Bytes(bytes) => Self::Bytes(bytes.into()),
        }
    }
}

/// Floats are equal if their bits are: what a board holds is bits, and a NaN equals itself.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

/// As it would stand in a TOML file; bytes as hex digits.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.to_toml(), self) {
            (Some(value), _) => value.fmt(f),
            (None, Self::Bytes(bytes)) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            (None, _) => Ok(()),
        }
    }
}

/// A whole configuration: its values by their flat keys (`radio.channel`).
pub type Content = BTreeMap<String, Value>;

/// One step from one configuration to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key gets this value, whether it was there before or not.
    Set(String, Value),
    /// The key goes away.
    Delete(String),
}

/// The least changes that turn `old` into `new`: deletions, then what gets shorter, then what grows.
///
/// In this order no configuration in between needs more room than the larger of the two.
pub fn changes(old: &Content, new: &Content) -> Vec<Change> {
    let mut sets: Vec<_> = new.iter().filter(|(key, value)| old.get(*key) != Some(value)).collect();
    let bytes = |value: &Value| match value {
        Value::Str(text) => text.len() as i64,
        Value::Bytes(bytes) => bytes.len() as i64,
        Value::Bool(_) => 1,
        Value::Int(_) | Value::Float(_) => 8,
    };
    sets.sort_by_key(|(key, value)| match old.get(*key) {
        Some(before) => bytes(value) - bytes(before),
        None => key.len() as i64 + bytes(value),
    });
    let deletes = old.keys().filter(|key| !new.contains_key(*key)).cloned().map(Change::Delete);
    let sets = sets.into_iter().map(|(key, value)| Change::Set(key.clone(), value.clone()));
    deletes.chain(sets).collect()
}

/// As a TOML document with nested tables; with flat quoted keys where a key is also the beginning of another.
///
/// # Errors
/// The key whose value TOML can't say.
pub fn to_toml(content: &Content) -> Result<String, String> {
    let mut flat = toml::Table::new();
    for (key, value) in content {
        flat.insert(key.clone(), value.to_toml().ok_or_else(|| key.clone())?);
    }
    Ok(nested(&flat).unwrap_or(flat).to_string())
}

/// `None` if a key would be a value and a table at once.
fn nested(flat: &toml::Table) -> Option<toml::Table> {
    let mut root = toml::Table::new();
    for (key, value) in flat {
        let (tables, name) = match key.rsplit_once('.') {
            Some((tables, name)) => (Some(tables), name),
            None => (None, key.as_str()),
        };
        let mut table = &mut root;
        for part in tables.into_iter().flat_map(|tables| tables.split('.')) {
            let inner = table.entry(part).or_insert_with(|| toml::Table::new().into());
            table = inner.as_table_mut()?;
        }
        if table.insert(name.into(), value.clone()).is_some() {
            return None;
        }
    }
    Some(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(pairs: &[(&str, Value)]) -> Content {
        pairs.iter().map(|(key, value)| (key.to_string(), value.clone())).collect()
    }

    #[test]
    fn equal_configurations_need_no_change_even_with_a_nan() {
        let a = content(&[("x", Value::Float(f64::NAN)), ("y", Value::Int(1))]);
        assert_eq!(changes(&a, &a.clone()), []);
    }

    #[test]
    fn zero_and_minus_zero_and_one_and_true_and_one_point_zero_differ() {
        assert_ne!(Value::Float(0.0), Value::Float(-0.0));
        assert_ne!(Value::Int(1), Value::Float(1.0));
        assert_ne!(Value::Int(1), Value::Bool(true));
    }

    #[test]
    fn changes_delete_first_then_shrink_then_grow() {
        let text = |text: &str| Value::Str(text.into());
        let old = content(&[
            ("a", text("x")),
            ("b", text("long")),
            ("c", text("x")),
            ("d", text("same")),
        ]);
        let new = content(&[
            ("a", text("longer")),
            ("b", text("y")),
            ("d", text("same")),
            ("e", text("")),
        ]);
        let expected = [
            Change::Delete("c".into()),
            Change::Set("b".into(), text("y")),
            Change::Set("e".into(), text("")),
            Change::Set("a".into(), text("longer")),
        ];
        assert_eq!(changes(&old, &new), expected);
    }

    #[test]
    fn toml_is_nested_where_it_can_be_and_flat_where_it_cannot() {
        let one = || Value::Int(1);
        let document = to_toml(&content(&[("a.b", one()), ("a.c", one()), ("d", one())])).unwrap();
        assert_eq!(document, "d = 1\n\n[a]\nb = 1\nc = 1\n");
        for (first, second) in [("a", "a.b"), ("a.b", "a.b.c")] {
            let document = to_toml(&content(&[(first, one()), (second, one())])).unwrap();
            assert!(document.contains(&format!("\"{second}\" = 1")), "{document}");
        }
    }

    #[test]
    fn bytes_are_refused_in_toml_by_their_key() {
        assert_eq!(to_toml(&content(&[("k", Value::Bytes(vec![1, 255]))])), Err("k".into()));
        assert_eq!(Value::Bytes(vec![1, 255]).to_string(), "01ff");
    }

    #[test]
    fn json_says_numbers_as_numbers_and_what_it_has_no_number_for_as_text() {
        assert_eq!(Value::Float(0.5).to_json().to_string(), "0.5");
        assert_eq!(Value::Float(f64::INFINITY).to_json().to_string(), "\"inf\"");
        assert_eq!(Value::Int(i64::MIN).to_json().to_string(), i64::MIN.to_string());
    }
}
