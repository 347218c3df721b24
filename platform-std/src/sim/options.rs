//! What a run is asked to be, and the faults by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The default length of a run in virtual seconds: long enough that with all faults a leader is cut
/// and 20 entries are committed amid faults, on every link and part that a seed may draw.
pub const VIRTUAL_SECONDS: u32 = 240;

/// The default number of boards.
pub const BOARDS: u8 = 5;

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A kind of trouble.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $variant,)* }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

faults! {
    /// Frames are lost on the air, each receiver for itself.
    Loss = "loss",
    /// Frames arrive twice.
    Duplication = "duplication",
    /// Frames arrive late, behind newer ones.
    Reorder = "reorder",
    /// Bytes of a frame are changed, below the core's own check.
    Corruption = "corruption",
    /// The boards fall into sets that don't hear each other.
    Partition = "partition",
    /// A board is heard but does not hear, or the other way round.
    OneWay = "one-way",
    /// One board loses its power, most of the time inside a flash operation.
    Cuts = "cuts",
    /// The leader loses its power.
    LeaderCuts = "leader-cuts",
    /// All boards lose their power at one instant.
    CutAll = "cut-all",
    /// The word being programmed at a cut is left with arbitrary bits.
    TornWrites = "torn-writes",
    /// The block being erased at a cut is left in between.
    TornErases = "torn-erases",
    /// A word or block that a cut has left half done reads well once, and fails later.
    Decay = "decay",
    /// A board's power fails again and again while it boots.
    BrownOut = "brown-out",
    /// Clocks run fast or slow, by up to two percent.
    Drift = "drift",
    /// A stranger on the air sends random bytes and repeats what it has heard.
    Babble = "babble",
    /// Clients propose more than the logs hold.
    LogFull = "log-full",
    /// A board stays away so long that it has to be sent a snapshot.
    Snapshots = "snapshots",
    /// Links between single pairs of boards are cut, one way or both.
    PartialPartition = "partial",
    /// Members are demoted, promoted, removed and added again, one by one or several at once.
    Membership = "membership",
    /// Leadership is handed to another board, up to date or not.
    Transfers = "transfers",
    /// A board sleeps, and its clock with it.
    Sleep = "sleep",
    /// Boards lose their flash and ask for their place again.
    Wipes = "wipes",
}

/// A set of faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Faults(u32);

impl Faults {
    /// No faults.
    pub const NONE: Self = Self(0);
    /// Every fault.
    pub const ALL: Self = Self((1 << Fault::ALL.len()) - 1);

    /// With `fault`.
    #[must_use]
    pub const fn with(self, fault: Fault) -> Self {
        Self(self.0 | 1 << fault as u32)
    }

    /// Without `fault`.
    #[must_use]
    pub const fn without(self, fault: Fault) -> Self {
        Self(self.0 & !(1 << fault as u32))
    }

    /// Is `fault` among them?
    pub const fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u32) != 0
    }

    /// Those in the set, in the order of [`Fault::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.iter().copied().filter(move |fault| self.has(*fault))
    }
}

/// A fault's name that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no fault is called `{name}`; there are {}", names())]
pub struct UnknownFault {
    name: String,
}

fn names() -> String {
    Fault::ALL.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(", ")
}

impl FromStr for Faults {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        match text {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        text.split(',').map(str::trim).try_fold(Self::NONE, |set, name| {
            let fault = Fault::ALL.iter().copied().find(|fault| fault.name() == name);
            Ok(set.with(fault.ok_or_else(|| UnknownFault { name: name.into() })?))
        })
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => f.write_str("all"),
            Self::NONE => f.write_str("none"),
            some => {
                let names: Vec<_> = some.iter().map(Fault::name).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl TryFrom<String> for Faults {
    type Error = UnknownFault;

    fn try_from(text: String) -> Result<Self, UnknownFault> {
        text.parse()
    }
}

impl From<Faults> for String {
    fn from(faults: Faults) -> Self {
        faults.to_string()
    }
}

/// Everything that a run depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Where all chance comes from.
    pub seed: u64,
    /// Boards in the cluster, 1 to 8.
    pub boards: u8,
    /// How long it lasts: three quarters amid faults, the rest healed.
    pub virtual_seconds: u32,
    /// The faults that may happen.
    pub faults: Faults,
    /// Boards ask before they stand for election.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub pre_vote: bool,
    /// Members change one at a time, and no voter becomes a learner: never through a joint configuration.
    #[serde(default, skip_serializing_if = "is_no")]
    pub plain_changes: bool,
}

const fn yes() -> bool {
    true
}

const fn is_yes(yes: &bool) -> bool {
    *yes
}

const fn is_no(yes: &bool) -> bool {
    !*yes
}

impl Options {
    /// The default run of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            boards: BOARDS,
            virtual_seconds: VIRTUAL_SECONDS,
            faults: Faults::ALL,
            pre_vote: true,
            plain_changes: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_lists_read_back_as_they_were_written() {
        for text in ["all", "none", "loss", "loss,cuts,torn-erases"] {
            assert_eq!(text.parse::<Faults>().unwrap().to_string(), text);
        }
        let every = names().replace(' ', "").parse::<Faults>();
        assert_eq!(every, Ok(Faults::ALL));
    }

    #[test]
    fn an_unknown_fault_is_named_in_the_error_with_the_known_ones() {
        let error = "loss,rain".parse::<Faults>().unwrap_err().to_string();
        assert!(error.contains("`rain`") && error.contains("torn-writes"), "{error}");
    }
}
