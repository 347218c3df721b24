//! Numbers and bytes in a row, as frames, snapshots and changes of membership hold them.
//!
//! The bytes are those that postcard makes of the same types: a number is a LEB128 varint, a yes or no is 1 or 0, an address
//! has its length before it. By hand, as serde's visitors would take 1.5 KB for what is here.

use crate::change::{Step, Transition, What};
use crate::entry::{decode_varint, encode_varint};
use crate::log::copy;
use crate::membership::{ADDRESS_BYTES_MAX, Address, Member, Membership};
use crate::node::{Head, Limits, Tag};
use crate::types::{Generation, NodeId, NodeSet};

/// Writes what there is room for, and counts the rest.
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    /// Bytes so far, also those that there was no room for.
    pub(crate) at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) const fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0 }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        copy(self.out.get_mut(self.at..).unwrap_or_default(), bytes);
        self.at = self.at.saturating_add(bytes.len());
    }

    pub(crate) fn number(&mut self, number: u64) {
        encode_varint(number, self.out, &mut self.at);
    }

    /// What was written; `None` if it did not fit.
    pub(crate) fn end(self) -> Option<&'a mut [u8]> {
        self.out.get_mut(..self.at)
    }
}

/// Reads on whatever comes; in the end it is looked whether that was sound.
pub(crate) struct Reader<'a> {
    pub(crate) rest: &'a [u8],
    pub(crate) bad: bool,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, bad: false }
    }

    /// Up to `max`; of what is no such number, zero.
    pub(crate) fn number(&mut self, max: u64) -> u64 {
        let number = match self.rest {
            [byte @ ..=0x7f, rest @ ..] => Some((u64::from(*byte), rest)),
            bytes => decode_varint(bytes),
        };
        match number {
            Some((number, rest)) if number <= max => {
                self.rest = rest;
                number
            }
            _ => {
                self.bad = true;
                0
            }
        }
    }

    /// So many bytes, or none.
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at_checked(len).unwrap_or_default();
        self.bad |= bytes.len() != len;
        self.rest = rest;
        bytes
    }
}

/// What knows its bytes.
pub(crate) trait Coded: Sized {
    fn write(&self, to: &mut Writer<'_>);
    fn read(from: &mut Reader<'_>) -> Self;

    /// Its bytes, at the front of `out`; `None` if they do not fit.
    fn put<'a>(&self, out: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let mut writer = Writer::new(out);
        self.write(&mut writer);
        writer.end()
    }

    /// What lies at the front of `bytes`, and what follows it.
    fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut reader = Reader::new(bytes);
        let value = Self::read(&mut reader);
        (!reader.bad).then_some((value, reader.rest))
    }
}

/// Fields in their order.
macro_rules! fields {
    ($($name:ident { $($field:tt),* })*) => {
        $(impl Coded for $name {
            fn write(&self, to: &mut Writer<'_>) {
                $(self.$field.write(to);)*
            }

            fn read(from: &mut Reader<'_>) -> Self {
                Self { $($field: Coded::read(from)),* }
            }
        })*
    };
}

fields! {
    Limits { frame_bytes, entry_bytes, log_bytes, snapshot_bytes }
    Membership { voters, outgoing, learners, learners_next, auto_leave }
    Member { id, generation, address, nonce, returning, session, commands }
    Head { limits, membership, generations, members }
    Step { id, what, address }
    Tag { origin, session, number }
    NodeSet { 0 }
    Generation { 0 }
}

/// What is written as a number, and is read as one up to the last that is named.
macro_rules! numbers {
    ($($name:ty: |$value:ident| $number:expr, ..=$max:expr => |$read:ident| $made:expr;)*) => {
        $(impl Coded for $name {
            fn write(&self, to: &mut Writer<'_>) {
                let $value = *self;
                to.number($number.into());
            }

            fn read(from: &mut Reader<'_>) -> Self {
                let $read = from.number($max.into());
                $made
            }
        })*
    };
}

numbers! {
    u8: |it| it, ..=u8::MAX => |number| number as Self;
    u16: |it| it, ..=u16::MAX => |number| number as Self;
    u32: |it| it, ..=u32::MAX => |number| number as Self;
    bool: |it| it, ..=1u8 => |number| number == 1;
    Transition: |it| it as u8, ..=2u8 => |number| match number {
        0 => Self::Auto,
        1 => Self::Implicit,
        _ => Self::Explicit,
    };
}

impl Coded for NodeId {
    fn write(&self, to: &mut Writer<'_>) {
        to.bytes(&[self.get()]);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        let id = Self::new(u8::read(from));
        from.bad |= id.is_none();
        id.unwrap_or(Self::LEAST)
    }
}

impl Coded for Address {
    fn write(&self, to: &mut Writer<'_>) {
        to.number(self.len() as u64);
        to.bytes(self);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        let len = from.number(ADDRESS_BYTES_MAX as u64);
        Self::from_slice(from.bytes(len as usize)).unwrap_or_default()
    }
}

impl Coded for What {
    fn write(&self, to: &mut Writer<'_>) {
        let (number, nonce) = match self {
            Self::AddVoter => (0, None),
            Self::AddLearner => (1, None),
            Self::Remove => (2, None),
            Self::Update => (3, None),
            Self::Admit { nonce } => (4, Some(nonce)),
        };
        to.number(number);
        nonce.into_iter().for_each(|nonce| nonce.write(to));
    }

    fn read(from: &mut Reader<'_>) -> Self {
        match from.number(4) {
            0 => Self::AddVoter,
            1 => Self::AddLearner,
            2 => Self::Remove,
            3 => Self::Update,
            _ => Self::Admit { nonce: u32::read(from) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    fn number() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..300, any::<u32>(), Just(u32::MAX)]
    }

    fn address() -> impl Strategy<Value = Address> {
        prop::collection::vec(any::<u8>(), 0..=ADDRESS_BYTES_MAX)
            .prop_map(|bytes| bytes.into_iter().collect())
    }

    fn what() -> impl Strategy<Value = What> {
        prop_oneof![
            Just(What::AddVoter),
            Just(What::AddLearner),
            Just(What::Remove),
            Just(What::Update),
            number().prop_map(|nonce| What::Admit { nonce }),
        ]
    }

    /// The bytes of both, and what both make of bytes that are cut short or changed.
    fn same<T: Coded + Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
        value: &T,
        cut: usize,
        change: u8,
    ) {
        let (mut own, mut theirs) = ([0; 80], [0; 80]);
        let theirs = postcard::to_slice(value, &mut theirs).unwrap();
        assert_eq!(value.put(&mut own), Some(&mut *theirs));
        assert_eq!(value.put(&mut own[..theirs.len() - 1]), None);
        let cut = cut % theirs.len();
        let read = |bytes: &[u8]| {
            let own = T::take(bytes).map(|(value, rest)| (value, rest.len()));
            let theirs = postcard::take_from_bytes::<T>(bytes).ok();
            assert_eq!(own, theirs.map(|(value, rest)| (value, rest.len())), "{bytes:?}");
        };
        read(theirs);
        read(&theirs[..cut]);
        theirs[cut] ^= change & 0x7f;
        read(theirs);
    }

    proptest! {
        #[test]
        fn what_is_written_and_read_by_hand_is_what_postcard_writes_and_reads(
            numbers in prop::array::uniform8(number()),
            id in 1..=NodeId::MAX,
            address in address(),
            what in what(),
            flag: bool,
            cut: usize,
            change: u8,
        ) {
            let [a, b, c, d, e, f, g, h] = numbers;
            let (small, id) = ((e as u16, f as u16), NodeId::new(id).unwrap());
            let limits =
                Limits { frame_bytes: small.0, entry_bytes: small.1, log_bytes: g, snapshot_bytes: h };
            same(&limits, cut, change);
            let [voters, outgoing, learners, learners_next] = [a, b, c, d].map(NodeSet);
            let membership = Membership { voters, outgoing, learners, learners_next, auto_leave: flag };
            same(&membership, cut, change);
            let generation = Generation(small.0);
            let member = Member {
                id, generation, address: address.clone(), nonce: a, returning: flag, session: b, commands: c,
            };
            same(&member, cut, change);
            same(&Head { limits, membership, generations: generation, members: h as u8 & 0x7f }, cut, change);
            same(&Step { id, what, address }, cut, change);
            for transition in [Transition::Auto, Transition::Implicit, Transition::Explicit] {
                same(&transition, cut, change);
            }
        }
    }
}
