//! The words of the protocol: who, when, which entry.

use core::fmt;
use serde::{Deserialize, Serialize};

/// A member's number, 1 to 31, so that a set of members is one `u32`.
///
/// A number may be used again by a replaced board; its [`Generation`] tells the two apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[serde(try_from = "u8", into = "u8")]
pub struct NodeId(core::num::NonZeroU8);

impl NodeId {
    /// The largest member number.
    pub const MAX: u8 = 31;
    pub(crate) const LEAST: Self = Self(core::num::NonZeroU8::MIN);

    /// `None` unless `id` is 1 to 31.
    pub const fn new(id: u8) -> Option<Self> {
        if id > Self::MAX {
            return None;
        }
        match core::num::NonZeroU8::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number itself.
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

impl From<NodeId> for u8 {
    fn from(id: NodeId) -> u8 {
        id.get()
    }
}

impl TryFrom<u8> for NodeId {
    type Error = &'static str;
    fn try_from(id: u8) -> Result<Self, Self::Error> {
        Self::new(id).ok_or("a node id is 1 to 31")
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.get())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// A set of members: bit `id - 1` for each, so that ids up to 7 travel in one byte.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct NodeSet(pub(crate) u32);

impl NodeSet {
    /// Nobody.
    pub const EMPTY: Self = Self(0);
    /// Every number that a member can have.
    pub const ALL: Self = Self(0x7fff_ffff);

    /// Just `id`.
    pub const fn one(id: NodeId) -> Self {
        Self(1u32.wrapping_shl(id.get().wrapping_sub(1) as u32))
    }

    /// Is `id` in the set?
    pub const fn contains(self, id: NodeId) -> bool {
        self.0 & Self::one(id).0 != 0
    }

    /// Adds `id`.
    pub fn insert(&mut self, id: NodeId) {
        self.0 |= Self::one(id).0;
    }

    /// Takes `id` out.
    pub fn remove(&mut self, id: NodeId) {
        self.0 &= !Self::one(id).0;
    }

    /// Members of either set.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Members of both sets.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Members of this set that are not in `other`.
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// How many members.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Is nobody in it?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Members in the order of their ids.
    pub fn iter(self) -> impl Iterator<Item = NodeId> + Clone {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let id = NodeId::new(rest.trailing_zeros().wrapping_add(1) as u8)?;
            rest &= rest.wrapping_sub(1);
            Some(id)
        })
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<T: IntoIterator<Item = NodeId>>(ids: T) -> Self {
        let mut set = Self::EMPTY;
        ids.into_iter().for_each(|id| set.insert(id));
        set
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $short:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        pub struct $name(pub u64);

        // What is not to be inlined: arithmetic of 64 bits takes 20 bytes on a small core, at each of a hundred places.
        impl $name {
            /// The later one.
            #[inline(never)]
            #[must_use]
            pub fn max(self, other: Self) -> Self {
                Ord::max(self, other)
            }

            /// The earlier one.
            #[inline(never)]
            #[must_use]
            pub fn min(self, other: Self) -> Self {
                Ord::min(self, other)
            }

            /// Before the first one.
            pub const ZERO: Self = Self(0);

            /// The one after this; the last of 2^64 has itself as its successor.
            #[inline(never)]
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// The one before this; zero has itself.
            #[must_use]
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }

            /// `n` further on, saturating.
            #[must_use]
            pub const fn plus(self, n: u64) -> Self {
                Self(self.0.saturating_add(n))
            }

            /// How many lie between `earlier` and this; zero if it is not earlier.
            #[must_use]
            pub const fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($short, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter!(
    /// A leader's reign (Raft §5.1).
    Term, "t"
);
counter!(
    /// An entry's place in the log; the first entry is 1 (Raft §5.3).
    Index, "i"
);

/// Which entry: two logs that hold the same `EntryId` are the same up to it (Raft §5.3, Log Matching).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct EntryId {
    /// Its place.
    pub index: Index,
    /// The term of the leader that made it.
    pub term: Term,
}

impl EntryId {
    /// Before the first entry.
    pub const ZERO: Self = Self { index: Index::ZERO, term: Term::ZERO };

    /// An entry's id.
    pub const fn new(index: Index, term: Term) -> Self {
        Self { index, term }
    }

    /// Is a log that ends here at least as up to date as one that ends at `other`? (Raft §5.4.1)
    pub fn is_up_to_date(self, other: Self) -> bool {
        (self.term, self.index) >= (other.term, other.index)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term.0, self.index.0)
    }
}

/// A moment, in milliseconds since a moment of the platform's choice. It never goes back.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Instant(u64);

impl Instant {
    /// The platform's beginning of time.
    pub const ZERO: Self = Self(0);
    /// Later than anything: nothing to wait for.
    pub const FOREVER: Self = Self(u64::MAX);

    /// `ms` after the beginning.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the beginning.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// `ms` later, saturating.
    #[must_use]
    pub const fn after(self, ms: u32) -> Self {
        Self(self.0.saturating_add(ms as u64))
    }

    /// Milliseconds from `earlier` to this; zero if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// Which cluster: drawn at random when it is founded, carried by every frame and every flash log.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ClusterId(pub [u8; 4]);

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// Which life of a member number: a board that comes back blank is a new generation of its id.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize,
)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Generation(pub u16);
