//! Messages, events and entries as text.

use crate::board::Record;
use quorate::entry::{Entries, Kind};
use quorate::event::Event;
use quorate::raft::Role;
use quorate::wire::Message;
use quorate::{EntryId, NodeId};

pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

pub(crate) fn data(kind: Kind, data: &[u8]) -> String {
    match kind {
        Kind::Command if data.len() > 24 => format!("{} bytes", data.len()),
        Kind::Command => format!("{:?}", String::from_utf8_lossy(data)),
        Kind::Empty => "empty".into(),
        Kind::Membership => "membership".into(),
        Kind::Once => "once".into(),
    }
}

pub(crate) fn record(record: &Record) -> String {
    format!("{:?} {}", record.id, data(record.kind, &record.data))
}

fn entries(prev: EntryId, payload: &[u8]) -> String {
    let text = |e: quorate::entry::Entry<'_>| format!("{:?} {}", e.id, data(e.kind, e.data));
    let all: Vec<String> = Entries::new(prev, payload).map(|e| text(e.unwrap())).collect();
    if all.is_empty() { "nothing".into() } else { all.join(", ") }
}

/// Entries are written term/index.
pub(crate) fn message(message: &Message, payload: &[u8]) -> String {
    match *message {
        Message::Append { term, prev, commit } => {
            format!("append t{term}: after {prev:?} {}; commit {commit}", entries(prev, payload))
        }
        Message::Heartbeat { term, commit, round, reply: true } => {
            format!("heartbeat t{term}: round {round}, commit {commit:?}")
        }
        Message::Heartbeat { term, commit, reply: false, .. } => {
            format!("news t{term}: commit {commit:?}")
        }
        Message::Reply { term, matched, received, round, reject, room } => {
            let mut text = format!("reply t{term}: holds {matched}");
            if received != matched {
                text += &format!(", received {received}");
            }
            if round != 0 {
                text += &format!(", round {round}");
            }
            if let Some(reject) = reject {
                text += &format!(", refused after {}, try {:?}", reject.rejected, reject.hint);
            }
            if let Some(room) = room {
                text += &format!(", room for {room} bytes");
            }
            text
        }
        Message::VoteRequest { term, last, pre, .. } => {
            let asks = if pre { "would you vote" } else { "vote" };
            format!("{asks} t{term}: last {last:?}")
        }
        Message::VoteReply { term, pre, granted, .. } => {
            let answer = match (pre, granted) {
                (true, true) => "would",
                (true, false) => "would not",
                (false, true) => "yes",
                (false, false) => "no",
            };
            format!("{answer} t{term}")
        }
        Message::Snapshot { term, id, offset, bytes, .. } => {
            format!(
                "snapshot t{term}: up to {id:?}, {} bytes at {offset} of {bytes}",
                payload.len()
            )
        }
        Message::SnapshotReply { term, id, offset } => {
            format!("snapshot reply t{term}: up to {id:?}, wants {offset}")
        }
        Message::TimeoutNow { term } => format!("stand t{term}"),
        Message::Transfer { term, to } => format!("let {} lead t{term}", name(to)),
        Message::ReadIndex { term, context, lease } => {
            format!("read t{term}: {context:08x}{}", if lease { ", by lease" } else { "" })
        }
        Message::ReadIndexReply { term, context, index } => {
            format!("read reply t{term}: {context:08x} up to {index}")
        }
        Message::Join { .. } | Message::Propose { .. } | Message::Admitted { .. } => {
            "of no concern here".to_owned()
        }
    }
}

fn name(id: NodeId) -> u8 {
    id.get()
}

pub(crate) fn event(event: &Event) -> String {
    match *event {
        Event::Became { role: r, term } => format!("becomes {} in t{term}", role(r)),
        Event::Follows { leader, term } => format!("follows {} in t{term}", name(leader)),
        Event::Voted { candidate, term } => format!("votes for {} in t{term}", name(candidate)),
        Event::LogFull { last } => format!("is full after {last}"),
        Event::ImpossibleFrame { from } => format!("takes no frame as {}'s", name(from)),
        other => format!("{other:?}"),
    }
}
