//! What the keys of the map mean to a board.

use quorate::typed::{ConfigMap, Value};

use crate::{LAMP, LEVEL, REPORT};

/// What a board goes by. What nobody has set, or has set to something that is none, is as it is by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The lamp is on.
    pub lamp: bool,
    /// How bright it is, 0 to 100 %.
    pub level_percent: u8,
    /// Sensors report this often, in s; at least every day, at most every second.
    pub report_every_s: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lamp: false, level_percent: 100, report_every_s: 60 }
    }
}

impl Settings {
    /// Out of the map.
    pub fn of(map: &ConfigMap) -> Self {
        let default = Self::default();
        let number = |key, least: i64, most: i64| match map.get(key) {
            Some(Value::Int(number)) => Some(number.clamp(least, most)),
            _ => None,
        };
        Self {
            lamp: match map.get(LAMP) {
                Some(Value::Bool(on)) => on,
                _ => default.lamp,
            },
            level_percent: number(LEVEL, 0, 100).map_or(default.level_percent, |n| n as u8),
            report_every_s: number(REPORT, 1, 86_400).map_or(default.report_every_s, |n| n as u32),
        }
    }
}
