//! The head of a frame, field by field.
//!
//! What is near something that was told before is told as the difference: an index from the index before it, the
//! term of an entry from the message's. Yes and no share a byte with the sender.

use super::{COUNT_MAX, Envelope, Message, Reject, VERSION};
use crate::codec::{self, Coded};
use crate::identity::Identity;
use crate::types::{ClusterId, EntryId, Generation, Index, NodeId, NodeSet, Term};

/// Bits of the first byte that number the message; the version is above them.
const KIND_BITS: u32 = 5;
/// Bits of the second byte that hold the sender; the message's flags are above them.
const FROM_BITS: u32 = 5;
const KIND_MASK: u8 = (1 << KIND_BITS) - 1;
const FROM_MASK: u8 = (1 << FROM_BITS) - 1;
const FLAG_FIRST: u8 = 1 << FROM_BITS;

/// The version of a frame that begins with this byte.
pub(super) const fn version(first: u8) -> u8 {
    first.wrapping_shr(KIND_BITS)
}

/// The message without a term.
const JOIN: u8 = 7;

/// Messages by number, with their fields in the order in which they are written, behind the term. At most
/// three fields of a message are flags or may be absent.
macro_rules! messages {
    (@) => { Term::ZERO };
    (@ $term:ident) => { *$term };
    ($($kind:literal $name:ident $($term:ident)? { $($field:ident),* })*) => {
        const fn kind(message: &Message) -> u8 {
            match message {
                $(Message::$name { .. } => $kind,)*
            }
        }

        impl Message {
            /// The sender's term, or the one that is stood for.
            pub const fn term(&self) -> Term {
                match self {
                    $(Self::$name { $($term,)? .. } => messages!(@ $($term)?),)*
                }
            }
        }

        impl Field for Message {
            fn write(&self, out: &mut Writer<'_>) {
                if kind(self) != JOIN {
                    self.term().write(out);
                }
                match self {
                    $(Message::$name { $($field,)* .. } => {
                        $(Field::write($field, out);)*
                    })*
                }
            }

            fn read(from: &mut Reader<'_>) -> Self {
                let term = if from.kind == JOIN { Term::ZERO } else { Field::read(from) };
                match from.kind {
                    $($kind => Message::$name { $($term: term,)? $($field: Field::read(from)),* },)*
                    _ => {
                        from.bytes.bad = true;
                        Message::Join { nonce: 0 }
                    }
                }
            }
        }
    };
}

messages! {
    0 Append term { prev, commit }
    1 Heartbeat term { commit, round, reply }
    2 Reply term { matched, received, round, reject, room }
    3 VoteRequest term { last, commit, pre, transfer }
    4 VoteReply term { commit, pre, granted }
    5 Snapshot term { id, offset, bytes, check }
    6 SnapshotReply term { id, offset }
    7 Join { nonce }
    8 Admitted term { nonce, generation }
    9 TimeoutNow term {}
    10 Transfer term { to }
    11 ReadIndex term { context, lease }
    12 ReadIndexReply term { context, index }
    13 Propose term {}
}

/// Writes who says this, to whom, and the message to the front of `out`; how many bytes. `None` if it does not fit.
pub(super) fn write(
    own: &Identity,
    to: NodeSet,
    message: &Message,
    out: &mut [u8],
) -> Option<usize> {
    let Identity { cluster, node: from, generation } = *own;
    let first = VERSION.wrapping_shl(KIND_BITS) | kind(message);
    let mut writer = Writer {
        bytes: codec::Writer::new(out),
        flags: from.get(),
        flag: FLAG_FIRST,
        term: Term::ZERO,
        index: None,
    };
    // The second byte is known in the end.
    let ClusterId([a, b, c, d]) = cluster;
    writer.bytes.bytes(&[first, 0, a, b, c, d]);
    Field::write(&to, &mut writer);
    Field::write(&generation, &mut writer);
    message.write(&mut writer);
    let Writer { bytes, flags, .. } = writer;
    let written = bytes.end()?;
    if let [_, from, ..] = written {
        *from = flags;
    }
    Some(written.len())
}

/// Reads the envelope at the front of a frame of this version, and what follows it.
#[inline]
pub(super) fn read(bytes: &[u8]) -> Option<(Envelope, &[u8])> {
    let (&[first, second, a, b, c, d], rest) = bytes.split_first_chunk()?;
    let from = NodeId::new(second & FROM_MASK)?;
    let mut reader = Reader {
        bytes: codec::Reader::new(rest),
        kind: first & KIND_MASK,
        flags: second & !FROM_MASK,
        flag: FLAG_FIRST,
        term: Term::ZERO,
        index: None,
    };
    let to = Field::read(&mut reader);
    let generation = Field::read(&mut reader);
    let message = Field::read(&mut reader);
    let cluster = ClusterId([a, b, c, d]);
    let envelope = Envelope { cluster, to, from, generation, message };
    // Flags are left that the message has not.
    if reader.bytes.bad || reader.flags != 0 {
        return None;
    }
    Some((envelope, reader.bytes.rest))
}

struct Writer<'a> {
    bytes: codec::Writer<'a>,
    /// The second byte, and its next flag.
    flags: u8,
    flag: u8,
    /// What was told before.
    term: Term,
    index: Option<Index>,
}

impl Writer<'_> {
    fn flag(&mut self, set: bool) {
        if set {
            self.flags |= self.flag;
        }
        self.flag = self.flag.wrapping_shl(1);
    }
}

struct Reader<'a> {
    bytes: codec::Reader<'a>,
    kind: u8,
    /// Flags that are set and were not read yet, and which is next.
    flags: u8,
    flag: u8,
    term: Term,
    index: Option<Index>,
}

impl Reader<'_> {
    fn flag(&mut self) -> bool {
        let set = self.flags & self.flag != 0;
        self.flags &= !self.flag;
        self.flag = self.flag.wrapping_shl(1);
        set
    }
}

/// A field that knows its bytes.
trait Field: Sized {
    fn write(&self, to: &mut Writer<'_>);
    fn read(from: &mut Reader<'_>) -> Self;
}

impl Field for Term {
    fn write(&self, to: &mut Writer<'_>) {
        to.term = *self;
        to.bytes.number(self.0);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        from.term = Self(from.bytes.number(COUNT_MAX));
        from.term
    }
}

/// The first one as it is; differences near zero are short, whatever their sign.
impl Field for Index {
    fn write(&self, to: &mut Writer<'_>) {
        let number = match to.index.replace(*self) {
            None => self.0,
            Some(before) => {
                let ahead = self.0.wrapping_sub(before.0) as i64;
                (ahead.wrapping_shl(1) ^ ahead.wrapping_shr(63)) as u64
            }
        };
        to.bytes.number(number);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        let number = from.bytes.number(u64::MAX);
        let index = match from.index {
            None => number,
            Some(before) => {
                let ahead = number.wrapping_shr(1) ^ (number & 1).wrapping_neg();
                before.0.wrapping_add(ahead)
            }
        };
        from.bytes.bad |= index > COUNT_MAX;
        from.index = Some(Self(index));
        Self(index)
    }
}

/// No entry that is told of is of a later term than the message.
impl Field for EntryId {
    fn write(&self, to: &mut Writer<'_>) {
        self.index.write(to);
        to.bytes.number(to.term.0.wrapping_sub(self.term.0));
    }

    fn read(from: &mut Reader<'_>) -> Self {
        let index = Index::read(from);
        let behind = from.bytes.number(from.term.0);
        Self::new(index, Term(from.term.0.wrapping_sub(behind)))
    }
}

impl Field for Reject {
    fn write(&self, to: &mut Writer<'_>) {
        self.rejected.write(to);
        self.hint.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        Self { rejected: Field::read(from), hint: Field::read(from) }
    }
}

/// Fields that are told as they are.
macro_rules! plain {
    ($($name:ty),*) => {
        $(impl Field for $name {
            fn write(&self, to: &mut Writer<'_>) {
                Coded::write(self, &mut to.bytes);
            }

            fn read(from: &mut Reader<'_>) -> Self {
                Coded::read(&mut from.bytes)
            }
        })*
    };
}

plain!(u32, NodeId, NodeSet, Generation);

impl Field for bool {
    fn write(&self, to: &mut Writer<'_>) {
        to.flag(*self);
    }

    fn read(from: &mut Reader<'_>) -> Self {
        from.flag()
    }
}

impl<T: Field> Field for Option<T> {
    fn write(&self, to: &mut Writer<'_>) {
        to.flag(self.is_some());
        if let Some(value) = self {
            value.write(to);
        }
    }

    fn read(from: &mut Reader<'_>) -> Self {
        from.flag().then(|| T::read(from))
    }
}
