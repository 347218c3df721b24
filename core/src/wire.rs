//! One frame, one message: what it says, sealed with a 32-bit check.
//!
//! Version and kind of message · flags and sender · `cluster` (4 bytes) · `to` · `generation` · the message's fields,
//! then the payload (entries, a piece of a snapshot), then CRC-32C over everything before it, little-endian.
//! See `core/docs/wire-format.md`.

mod fields;

use crate::check::checksum;
use crate::identity::Identity;
use crate::types::{ClusterId, EntryId, Generation, Index, NodeId, NodeSet, Term};

/// The version of this format, three bits. A frame of another version is refused.
pub const VERSION: u8 = 1;

/// The smallest frame that a cluster can be founded with.
pub const FRAME_BYTES_MIN: usize = 96;

/// The largest term and index: six bytes as a varint. An entry each millisecond reaches it in 139 years.
/// A frame that claims more is refused; a node at the end stands for no election and takes no entry, so that it never
/// says what others refuse.
pub const COUNT_MAX: u64 = (1 << 42) - 1;

/// The check behind each frame.
const CHECK_BYTES: usize = 4;

/// Everything in an append frame but its entries, at worst: version and kind, flags and sender, cluster, a set of
/// members, generation, three counters and the difference of two, check.
pub const APPEND_OVERHEAD_BYTES_MAX: usize = 1 + 1 + 4 + 5 + 3 + 3 * 6 + 7 + CHECK_BYTES;

/// Everything in a snapshot frame but its piece of the snapshot, at worst.
pub const SNAPSHOT_OVERHEAD_BYTES_MAX: usize = 1 + 1 + 4 + 5 + 3 + 3 * 6 + 3 * 5 + CHECK_BYTES;

/// What one node tells another. Fields are the paper's where it has them (Raft Figure 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Message {
    /// AppendEntries; the payload is the entries that follow `prev`. The same for every receiver.
    Append {
        /// The leader's term.
        term: Term,
        /// The entry before the first one sent.
        prev: EntryId,
        /// The leader's commit index.
        commit: Index,
    },
    /// The leader lives, and has committed so far. A receiver commits only what it holds with that term.
    Heartbeat {
        /// The leader's term.
        term: Term,
        /// The last committed entry.
        commit: EntryId,
        /// Numbers the leader's rounds, given back in the reply.
        round: u32,
        /// An answer is wanted; not so where only news of a commit is passed on.
        reply: bool,
    },
    /// A follower's state, as an answer to either of the above.
    Reply {
        /// The follower's term: a higher one ends the receiver's leadership.
        term: Term,
        /// The last entry that is the leader's and durable here.
        matched: Index,
        /// The last entry that is the leader's and in memory here.
        received: Index,
        /// The newest round heard of.
        round: u32,
        /// The entries did not fit on this log.
        reject: Option<Reject>,
        /// Said when memory is short: bytes of entries that can be taken.
        room: Option<u32>,
    },
    /// RequestVote, or the question whether one would be granted (Raft thesis §9.6).
    VoteRequest {
        /// The term that is stood for.
        term: Term,
        /// The candidate's last entry.
        last: EntryId,
        /// The last entry that the candidate knows to be committed: who holds it learns that much (O1).
        commit: EntryId,
        /// Only asking.
        pre: bool,
        /// The leader asked for this election: leases do not stand against it (Raft thesis §3.10).
        transfer: bool,
    },
    /// The answer to a vote request.
    VoteReply {
        /// The request's term if granted, else the voter's.
        term: Term,
        /// The last entry that the voter knows to be committed (O1).
        commit: EntryId,
        /// Answers a question only.
        pre: bool,
        /// Yes or no.
        granted: bool,
    },
    /// A piece of the leader's snapshot, which is the payload (Raft §7).
    Snapshot {
        /// The leader's term.
        term: Term,
        /// The last entry that the snapshot covers.
        id: EntryId,
        /// Where in the snapshot this piece belongs.
        offset: u32,
        /// Bytes of the whole snapshot.
        bytes: u32,
        /// CRC-32C of the whole snapshot.
        check: u32,
    },
    /// Which piece of a snapshot is wanted next.
    SnapshotReply {
        /// The follower's term.
        term: Term,
        /// Which snapshot.
        id: EntryId,
        /// Bytes that are durable here: the next piece starts there.
        offset: u32,
    },
    /// A board with blank flash asks for the place of the member whose number it has.
    Join {
        /// Drawn at random for this request.
        nonce: u32,
    },
    /// It has that place, as a learner; the payload is what the cluster's limits are.
    Admitted {
        /// The leader's term.
        term: Term,
        /// That of the request.
        nonce: u32,
        /// Which life of the member it is.
        generation: Generation,
    },
    /// The receiver is to stand for election at once (Raft thesis §3.10).
    TimeoutNow {
        /// The leader's term.
        term: Term,
    },
    /// A follower passes on that leadership is wanted elsewhere.
    Transfer {
        /// The follower's term.
        term: Term,
        /// Who is to lead.
        to: NodeId,
    },
    /// A follower wants to read: up to which entry must its state have been applied? (Raft thesis §6.4)
    ReadIndex {
        /// The follower's term.
        term: Term,
        /// The follower's name for this read.
        context: u32,
        /// The leader may trust its lease instead of a round of heartbeats.
        lease: bool,
    },
    /// The answer: up to there.
    ReadIndexReply {
        /// The leader's term.
        term: Term,
        /// That of the request.
        context: u32,
        /// What was committed when the request came, or more.
        index: Index,
    },
    /// A member's command for the leader; the payload is the entry's data.
    Propose {
        /// The sender's term.
        term: Term,
    },
}

/// Where a follower's log parts from the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Reject {
    /// The `prev` index that did not fit.
    pub rejected: Index,
    /// The follower's best guess of where the logs still agree.
    pub hint: EntryId,
}

impl Message {
    /// Only the leader of a term says that.
    pub(crate) const fn is_leaders(&self) -> bool {
        matches!(self, Self::Append { .. } | Self::Heartbeat { .. } | Self::Snapshot { .. })
    }

    /// What belongs together fits. That no counter is beyond [`COUNT_MAX`], and no entry of a later term than the
    /// message, follows from how they are written.
    const fn is_valid(&self) -> bool {
        match *self {
            Self::Reply { matched, received, .. } => matched.0 <= received.0,
            Self::Snapshot { offset, bytes, .. } => offset <= bytes,
            _ => true,
        }
    }
}

/// Who says it to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Envelope {
    /// The sender's cluster.
    pub cluster: ClusterId,
    /// Whom it is for: on a shared medium others hear it too.
    pub to: NodeSet,
    /// The sender.
    pub from: NodeId,
    /// Which life of the sender.
    pub generation: Generation,
    /// What it says.
    pub message: Message,
}

/// A frame that passed its check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Who says what to whom.
    pub envelope: Envelope,
    /// Entries or a piece of a snapshot.
    pub payload: &'a [u8],
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum FrameError {
    /// The check does not fit: noise, or a cut frame.
    Check,
    /// A sound frame of another version of this format.
    Version(u8),
    /// A sound check around something that is not a message.
    Malformed,
}

impl core::fmt::Display for FrameError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Check => f.write_str("the frame's check does not fit"),
            Self::Version(version) => write!(f, "wire format {version}, not {VERSION}"),
            Self::Malformed => f.write_str("not a message"),
        }
    }
}

impl core::error::Error for FrameError {}

/// Writes the envelope; the bytes it takes, or `None` if it does not fit. The payload goes behind it.
pub fn encode(envelope: &Envelope, frame: &mut [u8]) -> Option<usize> {
    let Envelope { cluster, to, from, generation, ref message } = *envelope;
    say(&Identity { cluster, node: from, generation }, to, message, frame)
}

/// The same of parts.
pub(crate) fn say(own: &Identity, to: NodeSet, message: &Message, out: &mut [u8]) -> Option<usize> {
    let room = out.len().checked_sub(CHECK_BYTES)?;
    fields::write(own, to, message, out.get_mut(..room)?)
}

/// Bytes that a payload can have behind an envelope of `envelope_bytes`.
pub const fn payload_bytes_max(frame_bytes: usize, envelope_bytes: usize) -> usize {
    frame_bytes.saturating_sub(envelope_bytes).saturating_sub(CHECK_BYTES)
}

/// A function of its own: `cargo ci bench core` tells what it costs from the rest.
#[inline(never)]
fn check(body: &[u8]) -> [u8; CHECK_BYTES] {
    checksum(0, body).to_le_bytes()
}

/// Seals the first `bytes` of the frame: the length to send. The outermost step, and the only one
/// that an authentication tag has to replace.
pub fn seal(frame: &mut [u8], bytes: usize) -> Option<usize> {
    let end = bytes.checked_add(CHECK_BYTES)?;
    let check = check(frame.get(..bytes)?);
    crate::log::copy(frame.get_mut(bytes..end)?, &check);
    Some(end)
}

/// Reads a frame, whatever the bytes are.
#[inline]
pub fn decode(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let (body, check) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(FrameError::Check)?;
    if self::check(body) != *check {
        return Err(FrameError::Check);
    }
    match body.first().map(|first| fields::version(*first)) {
        Some(VERSION) => {}
        Some(version) => return Err(FrameError::Version(version)),
        None => return Err(FrameError::Malformed),
    }
    let (envelope, payload) = fields::read(body).ok_or(FrameError::Malformed)?;
    if !envelope.message.is_valid() {
        return Err(FrameError::Malformed);
    }
    Ok(Frame { envelope, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn term() -> impl Strategy<Value = Term> {
        prop_oneof![0u64..4, 0..=COUNT_MAX, Just(COUNT_MAX)].prop_map(Term)
    }

    fn index() -> impl Strategy<Value = Index> {
        term().prop_map(|t| Index(t.0))
    }

    fn id() -> impl Strategy<Value = EntryId> {
        (index(), term()).prop_map(|(index, term)| EntryId::new(index, term))
    }

    fn message() -> impl Strategy<Value = Message> {
        let reject = (index(), id()).prop_map(|(rejected, hint)| Reject { rejected, hint });
        let reply = (
            (term(), index(), index(), any::<u32>()),
            (prop::option::of(reject), any::<Option<u32>>()),
        )
            .prop_map(|((term, matched, received, round), (reject, room))| {
                Message::Reply { term, matched, received, round, reject, room }
            });
        prop_oneof![
            (term(), id(), index()).prop_map(|(term, prev, commit)| Message::Append {
                term,
                prev,
                commit
            }),
            (term(), id(), any::<u32>(), any::<bool>()).prop_map(|(term, commit, round, reply)| {
                Message::Heartbeat { term, commit, round, reply }
            }),
            reply,
            (term(), id(), id(), any::<bool>(), any::<bool>()).prop_map(
                |(term, last, commit, pre, transfer)| {
                    Message::VoteRequest { term, last, commit, pre, transfer }
                }
            ),
            (term(), id(), any::<bool>(), any::<bool>()).prop_map(
                |(term, commit, pre, granted)| Message::VoteReply { term, commit, pre, granted }
            ),
            term().prop_map(|term| Message::TimeoutNow { term }),
            term().prop_map(|term| Message::Propose { term }),
            (term(), 1u8..=NodeId::MAX)
                .prop_map(|(term, to)| Message::Transfer { term, to: NodeId::new(to).unwrap() }),
            (term(), any::<u32>(), any::<bool>())
                .prop_map(|(term, context, lease)| Message::ReadIndex { term, context, lease }),
            (term(), any::<u32>(), index()).prop_map(|(term, context, index)| {
                Message::ReadIndexReply { term, context, index }
            }),
            (term(), id(), any::<[u32; 3]>()).prop_map(|(term, id, [offset, bytes, check])| {
                Message::Snapshot { term, id, offset, bytes, check }
            }),
            (term(), id(), any::<u32>()).prop_map(|(term, id, offset)| Message::SnapshotReply {
                term,
                id,
                offset
            }),
        ]
    }

    prop_compose! {
        fn envelope()(
            message in message(),
            to in 1u32..(1 << 31),
            from in 1u8..=NodeId::MAX,
            generation in any::<u16>(),
            cluster in any::<[u8; 4]>(),
        ) -> Envelope {
            let to = (1..=NodeId::MAX).filter(|n| to & (1 << (n - 1)) != 0).filter_map(NodeId::new);
            Envelope {
                cluster: ClusterId(cluster),
                to: to.collect(),
                from: NodeId::new(from).unwrap(),
                generation: Generation(generation),
                message,
            }
        }
    }

    fn frame(envelope: &Envelope, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 300];
        let head = encode(envelope, &mut frame).unwrap();
        frame[head..head + payload.len()].copy_from_slice(payload);
        let len = seal(&mut frame, head + payload.len()).unwrap();
        frame.truncate(len);
        frame
    }

    /// Said once more, not as the codec does it.
    fn can_be(message: &Message) -> bool {
        let term = message.term();
        let counts = |indexes: &[Index]| indexes.iter().all(|index| index.0 <= COUNT_MAX);
        let known = |id: EntryId| counts(&[id.index]) && id.term <= term;
        let fields = match *message {
            Message::Append { prev, commit, .. } => known(prev) && counts(&[commit]),
            Message::Heartbeat { commit, .. } => known(commit),
            Message::Reply { matched, received, reject, .. } => {
                matched <= received
                    && counts(&[received])
                    && reject.is_none_or(|r| counts(&[r.rejected]) && known(r.hint))
            }
            Message::VoteRequest { last, commit, .. } => known(last) && known(commit),
            Message::VoteReply { commit, .. } => known(commit),
            Message::ReadIndexReply { index, .. } => counts(&[index]),
            Message::Snapshot { id, offset, bytes, .. } => known(id) && offset <= bytes,
            Message::SnapshotReply { id, .. } => known(id),
            Message::Join { .. }
            | Message::Admitted { .. }
            | Message::TimeoutNow { .. }
            | Message::Transfer { .. }
            | Message::ReadIndex { .. }
            | Message::Propose { .. } => true,
        };
        fields && term.0 <= COUNT_MAX
    }

    fn payload_overhead_max(message: &Message) -> usize {
        match message {
            Message::Snapshot { .. } => SNAPSHOT_OVERHEAD_BYTES_MAX,
            Message::Append { .. } => APPEND_OVERHEAD_BYTES_MAX,
            _ => FRAME_BYTES_MIN,
        }
    }

    proptest! {
        #[test]
        fn a_frame_reads_back_as_it_was_written_or_says_what_cannot_be(
            envelope in envelope(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let bytes = frame(&envelope, &payload);
            if can_be(&envelope.message) {
                prop_assert_eq!(decode(&bytes), Ok(Frame { envelope, payload: &payload }));
            } else {
                prop_assert_eq!(decode(&bytes), Err(FrameError::Malformed));
            }
        }

        #[test]
        fn no_message_is_longer_than_its_bound(envelope in envelope()) {
            prop_assume!(can_be(&envelope.message));
            let bytes = frame(&envelope, &[]).len();
            prop_assert!(bytes <= payload_overhead_max(&envelope.message), "{}", bytes);
        }

        #[test]
        fn a_frame_with_one_changed_or_missing_byte_is_refused(
            envelope in envelope(),
            payload in prop::collection::vec(any::<u8>(), 0..40),
            change in 1u8..,
        ) {
            let good = frame(&envelope, &payload);
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= change;
                prop_assert_eq!(decode(&bad), Err(FrameError::Check), "changed at {}", at);
                prop_assert_eq!(decode(&good[..at]), Err(FrameError::Check), "cut at {}", at);
            }
        }

        #[test]
        fn sealed_noise_is_never_taken_for_counters_beyond_the_largest(
            mut bytes in prop::collection::vec(any::<u8>(), 4..80),
        ) {
            bytes[0] = (VERSION << 5) | (bytes[0] & 0x1f);
            let body = bytes.len() - CHECK_BYTES;
            seal(&mut bytes, body).unwrap();
            if let Ok(frame) = decode(&bytes) {
                prop_assert!(can_be(&frame.envelope.message));
            }
        }
    }

    fn largest(message: Message) -> Envelope {
        Envelope {
            cluster: ClusterId([255; 4]),
            to: NodeId::new(NodeId::MAX).into_iter().collect(),
            from: NodeId::new(NodeId::MAX).unwrap(),
            generation: Generation(u16::MAX),
            message,
        }
    }

    #[test]
    fn the_bounds_of_appends_and_snapshots_are_reached_and_not_passed() {
        // Differences are the longest where what they are taken from is farthest.
        let (term, id) = (Term(COUNT_MAX), EntryId::new(Index(COUNT_MAX), Term(0)));
        let append = Message::Append { term, prev: id, commit: Index(0) };
        let max = u32::MAX;
        let snapshot = Message::Snapshot { term, id, offset: max, bytes: max, check: max };
        assert_eq!(frame(&largest(append), &[]).len(), APPEND_OVERHEAD_BYTES_MAX);
        assert_eq!(frame(&largest(snapshot), &[]).len(), SNAPSHOT_OVERHEAD_BYTES_MAX);
    }

    #[test]
    fn the_longest_command_fits_one_frame_when_every_counter_has_its_largest_value() {
        for frame_bytes in [FRAME_BYTES_MIN as u16, 127, 250, 1472, u16::MAX] {
            let data = vec![7; usize::from(crate::node::entry_bytes_max(frame_bytes))];
            let mut log = crate::log::Log::<[u8; 70_000]>::new();
            let log: &mut crate::log::Log = &mut log;
            let prev = EntryId::new(Index(COUNT_MAX - 1), Term(COUNT_MAX - 1));
            log.reset(prev);
            let kind = crate::entry::Kind::Command;
            log.append(Term(COUNT_MAX), kind, &data).unwrap();
            let term = Term(COUNT_MAX);
            let envelope = largest(Message::Append { term, prev, commit: Index(COUNT_MAX) });
            let mut frame = vec![0; usize::from(frame_bytes)];
            let head = encode(&envelope, &mut frame).unwrap();
            let room = payload_bytes_max(frame.len(), head);
            let (last, bytes) = log.fit(prev.index, log.last().index, room);
            assert_eq!(last, Index(COUNT_MAX), "it fits");
            log.copy(prev.index, last, &mut frame[head..head + bytes]).unwrap();
            let len = seal(&mut frame, head + bytes).unwrap();
            let got = decode(&frame[..len]).unwrap();
            let mut entries = crate::entry::Entries::new(prev, got.payload);
            assert_eq!(entries.next().unwrap().unwrap().data, &data);
        }
    }

    #[test]
    fn another_version_is_named() {
        let message =
            Message::VoteReply { term: Term(1), commit: EntryId::ZERO, pre: false, granted: true };
        let mut other = frame(&largest(message), &[]);
        other[0] = ((VERSION + 1) << 5) | (other[0] & 0x1f);
        let body = other.len() - CHECK_BYTES;
        seal(&mut other, body).unwrap();
        assert_eq!(decode(&other), Err(FrameError::Version(VERSION + 1)));
    }

    #[test]
    fn a_frame_too_small_for_its_message_is_not_written() {
        let message =
            Message::VoteReply { term: Term(1), commit: EntryId::ZERO, pre: false, granted: true };
        let whole = frame(&largest(message), &[]).len();
        for len in 0..whole {
            assert_eq!(encode(&largest(message), &mut vec![0; len]), None, "{len}");
        }
    }
}
