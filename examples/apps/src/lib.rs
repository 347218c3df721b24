#![no_std]
//! What the boards of the examples do, once for all of them. They agree on a lamp, how bright it is, and how often sensors report; each
//! board has a button that switches the lamp everywhere.
//!
//! | | |
//! |---|---|
//! | [`App`] | the state that is replicated, a `ConfigMap`, and the commands that change it |
//! | [`Settings`] | what it means to a board: with a default for what nobody has set, and within bounds |
//! | [`Button`] | presses of a contact that bounces |
//! | [`Panel`], [`turn`] | a board's own pins, and the loop of a board without an async executor |
//! | `follow`, `press` | the same for tasks beside an async runner, with the feature `async` |
//!
//! A board's wiring is in its own folder: it makes the parts and calls these.

mod button;
mod settings;
#[cfg(feature = "async")]
mod tasks;
mod turn;

pub use button::Button;
pub use settings::Settings;
#[cfg(feature = "async")]
pub use tasks::{follow, press};
pub use turn::{Panel, turn};

use quorate::node::{ForwardError, Node, ProposalId};
use quorate::typed::{
    Command, ConfigMap, MapLimits, NewerSchema, RestoreError, StateMachine, TooLarge, Value,
};
use quorate::{EntryId, Instant};

/// The version of what the keys mean.
pub const SCHEMA: u16 = 1;
/// What the map may hold, on every board.
pub const MAP_LIMITS: MapLimits =
    MapLimits { keys: 12, key_bytes: 12, value_bytes: 10, bytes: 300 };
/// Bytes of the map on each board, and of the largest snapshot of it.
pub const MAP_BYTES: usize = MAP_LIMITS.snapshot_bytes_max() as usize;
/// The longest command.
pub const COMMAND_BYTES: usize = MAP_LIMITS.command_bytes_max() as usize;
/// How long a press of the button is tried to be brought to the leader, in ms.
const PRESS_MS: u32 = 5_000;

/// Is the lamp on? A boolean.
pub const LAMP: &str = "lamp";
/// How bright it is, in percent.
pub const LEVEL: &str = "level";
/// How often sensors report, in seconds.
pub const REPORT: &str = "report_s";

/// What all boards agree on.
pub struct App<'a> {
    map: &'a mut ConfigMap,
    /// What was told last.
    told: Settings,
}

impl<'a> App<'a> {
    /// The application of a board that is about to start; `map` is `ConfigMap<[u8; MAP_BYTES]>` in a `static`.
    ///
    /// # Errors
    /// The map is smaller than [`MAP_BYTES`].
    pub fn new(map: &'a mut ConfigMap) -> Result<Self, TooLarge> {
        map.start(MAP_LIMITS, SCHEMA, None)?;
        Ok(Self { map, told: Settings::default() })
    }

    /// The keys and values themselves.
    pub fn map(&self) -> &ConfigMap {
        self.map
    }

    /// What they mean now.
    pub fn settings(&self) -> Settings {
        Settings::of(self.map)
    }

    /// What they mean, if that has changed since this was last asked; in the beginning it is as by default.
    #[inline(never)]
    pub fn poll_change(&mut self) -> Option<Settings> {
        let mut changed = false;
        while self.map.poll_change().is_some() {
            changed = true;
        }
        let settings = changed.then(|| self.settings()).filter(|now| *now != self.told)?;
        self.told = settings;
        Some(settings)
    }

    /// The button of this board was pressed: the lamp is switched, whichever board leads. If another board switches it at the same time,
    /// one of the two presses counts, and the lamp is not switched twice.
    ///
    /// # Errors
    /// This can't be asked for now; the button can be pressed again.
    #[inline(never)]
    pub fn press(&self, node: &mut Node, now: Instant) -> Result<ProposalId, ForwardError> {
        let mut bytes = [0; COMMAND_BYTES];
        node.forward(self.switch(&mut bytes)?, now.after(PRESS_MS))
    }

    /// Writes the command that switches the lamp from how it is now.
    fn switch<'b>(&self, bytes: &'b mut [u8; COMMAND_BYTES]) -> Result<&'b [u8], ForwardError> {
        let expected = self.map.item(LAMP).map_or(0, |lamp| lamp.revision);
        let on = !self.settings().lamp;
        let command = Command::Set { key: LAMP, value: Value::Bool(on), expected: Some(expected) };
        let too_large = |error: TooLarge| ForwardError::TooLarge { bytes_max: error.max };
        let len = command.encode(SCHEMA, bytes).map_err(too_large)?;
        Ok(bytes.get(..len).unwrap_or_default())
    }
}

impl StateMachine for App<'_> {
    fn apply(&mut self, id: EntryId, command: &[u8]) -> Result<(), NewerSchema> {
        self.map.apply(id, command)
    }

    fn snapshot(&self, offset: u32, out: &mut [u8]) -> usize {
        self.map.snapshot(offset, out)
    }

    fn restore(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError> {
        self.map.restore(offset, bytes, last)
    }
}
