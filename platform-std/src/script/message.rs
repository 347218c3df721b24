//! What is on its way between the nodes of a script, and from a node's apply thread to itself.

use quorate::entry::Kind;
use quorate::membership::Membership;
use quorate::wire::Message;
use quorate::{EntryId, Index, NodeId};

/// An application's state, and what goes with it.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// The last entry that it covers.
    pub(super) id: EntryId,
    /// The configuration as of that entry.
    pub(super) membership: Membership,
    /// What the application has appended.
    pub(super) content: Vec<u8>,
}

/// Something that will arrive, unless it is lost.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) content: Content,
}

/// What arrives.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A message of the protocol, with encoded entries.
    Message { message: Message, payload: Vec<u8> },
    /// A whole snapshot in one piece.
    Snapshot { message: Message, snapshot: Snapshot },
    /// A proposal that a follower hands on.
    Proposal { kind: Kind, data: Vec<u8> },
    /// To itself: entries up to here are applied.
    Applied { index: Index },
}

impl InFlight {
    /// From the apply thread to its own node: such news is never lost.
    pub(super) const fn is_local(&self) -> bool {
        matches!(self.content, Content::Applied { .. })
    }

    pub(super) const fn asks_for_a_vote(&self) -> bool {
        matches!(self.content, Content::Message { message: Message::VoteRequest { .. }, .. })
    }

    /// Is this what the original would send as a message of type `kind`? A reply is an answer to appends and to
    /// heartbeats at once; news of a commit is an append without entries there.
    pub(super) fn is_of(&self, kind: &str) -> bool {
        let kinds: &[&str] = match &self.content {
            Content::Message { message, .. } | Content::Snapshot { message, .. } => match message {
                Message::Append { .. } | Message::Heartbeat { reply: false, .. } => &["MsgApp"],
                Message::Heartbeat { .. } => &["MsgHeartbeat"],
                Message::Reply { .. } => &["MsgAppResp", "MsgHeartbeatResp"],
                Message::VoteRequest { pre: false, .. } => &["MsgVote"],
                Message::VoteRequest { .. } => &["MsgPreVote"],
                Message::VoteReply { pre: false, .. } => &["MsgVoteResp"],
                Message::VoteReply { .. } => &["MsgPreVoteResp"],
                Message::Snapshot { .. } => &["MsgSnap"],
                Message::SnapshotReply { .. } => {
                    &["MsgAppResp", "MsgHeartbeatResp", "MsgSnapStatus"]
                }
                Message::TimeoutNow { .. } => &["MsgTimeoutNow"],
                Message::Transfer { .. } => &["MsgTransferLeader"],
                Message::ReadIndex { .. } => &["MsgReadIndex"],
                Message::ReadIndexReply { .. } => &["MsgReadIndexResp"],
                // Said above the protocol.
                Message::Propose { .. } | Message::Join { .. } | Message::Admitted { .. } => &[],
            },
            Content::Proposal { .. } => &["MsgProp"],
            Content::Applied { .. } => &["MsgStorageApplyResp"],
        };
        kinds.contains(&kind)
    }
}
