//! The file of `--config`.

use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::path::Path;

use quorate::typed::MapLimits;
use serde::Deserialize;

use super::peers::SizeArgs;
use crate::cli::Failure;
use crate::config_file::{self, ConfigFileError, Place};

/// What it may say; what it does not say is as it is without it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub(super) map: Option<MapSettings>,
    #[serde(default)]
    pub(super) sizes: SizeArgs,
}

/// A map without keys, or without a byte for one, holds nothing: whoever says so has mistyped something.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MapSettings {
    keys: NonZeroU16,
    key_bytes: NonZeroU8,
    value_bytes: u16,
    bytes: NonZeroU32,
    pub(super) schema: Option<u16>,
}

impl MapSettings {
    pub(super) fn limits(&self) -> MapLimits {
        MapLimits {
            keys: self.keys.get(),
            key_bytes: self.key_bytes.get(),
            value_bytes: self.value_bytes,
            bytes: self.bytes.get(),
        }
    }
}

impl Settings {
    /// Those of the file, if one is given.
    pub(super) fn of(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = config_file::text(path).map_err(Failure::usage)?;
        Self::parse(&path.display().to_string(), &text).map_err(Failure::usage)
    }

    fn parse(name: &str, text: &str) -> Result<Self, ConfigFileError> {
        toml::from_str(text).map_err(|error| ConfigFileError {
            file: name.into(),
            place: error.span().map(|span| Place::of(text, span.start)),
            what: error.message().replace('\n', ", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_the_command_line_goes_before_them() {
        let text = "[sizes]\nlog_bytes = 65536\nframe_bytes = 512\n";
        let settings = Settings::parse("f.toml", text).unwrap();
        let alone = SizeArgs::default().or(settings.sizes).limits().unwrap();
        assert_eq!((alone.log_bytes, alone.frame_bytes), (65_536, 512));
        let given = Settings::parse("f.toml", "sizes = { log_bytes = 131072 }").unwrap().sizes;
        let both = given.or(settings.sizes).limits().unwrap();
        assert_eq!((both.log_bytes, both.frame_bytes), (131_072, 512));
        assert_eq!(both.snapshot_bytes, SizeArgs::default().limits().unwrap().snapshot_bytes);
    }

    #[test]
    fn what_is_not_known_or_holds_nothing_is_refused_with_its_place() {
        let map = "[map]\nkeys = 12\nkey_bytes = 12\nvalue_bytes = 10\nbytes = 300\n";
        let read = Settings::parse("f.toml", map).unwrap().map.unwrap();
        let limits = MapLimits { keys: 12, key_bytes: 12, value_bytes: 10, bytes: 300 };
        assert_eq!(read.limits(), limits);
        for (text, told) in [
            (map.replace("keys = 12", "keys = 0"), "f.toml:2:8: invalid value: integer `0`, "),
            (
                map.replace("key_bytes = 12", "key_bytes = 0"),
                "f.toml:3:13: invalid value: integer `0`, expected a nonzero u8",
            ),
            (map.replace("\nbytes = 300", "\nbytes = 0"), "f.toml:5:9: invalid value: "),
            (map.replace("keys = 12\n", ""), "f.toml:1:1: missing field `keys`"),
            (format!("{map}size = 1\n"), "f.toml:6:1: unknown field `size`, expected one of "),
            ("log_bytes = 1".into(), "f.toml:1:1: unknown field `log_bytes`, expected `map` or"),
            ("\n[sizes]\nlog = 1".into(), "f.toml:3:1: unknown field `log`, "),
            ("[sizes]\nframe_bytes = 70000".into(), "f.toml:2:15: invalid value: "),
        ] {
            let error = Settings::parse("f.toml", &text).unwrap_err().to_string();
            assert!(error.starts_with(told) && !error.contains('\n'), "{told}: {error}");
        }
    }
}
