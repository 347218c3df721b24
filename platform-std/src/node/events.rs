//! What happens in the core, in words.

use quorate::event::{Event, Fault};
use quorate::raft::Role;
use quorate::wal::MountError;

/// Is it worth a line in a log that a person reads?
pub(super) const fn is_noteworthy(event: &Event) -> bool {
    !matches!(
        event,
        Event::Voted { .. }
            | Event::FrameRefused { .. }
            | Event::SnapshotTaken { .. }
            | Event::LogFull { .. }
            | Event::Became { role: Role::PreCandidate, .. }
    )
}

pub(super) fn in_words(event: &Event) -> String {
    match event {
        Event::Started { last, torn } => {
            let torn = if *torn { "; a torn write was cut off" } else { "" };
            format!("started, with the log up to entry {}{torn}", last.index)
        }
        Event::Became { role, term } => match role {
            Role::Leader => format!("leads in term {term}"),
            Role::Candidate => format!("stands for election in term {term}"),
            Role::PreCandidate => format!("asks whether it would be elected, in term {term}"),
            Role::Follower => format!("follows in term {term}"),
        },
        Event::Follows { leader, term } => format!("follows node {leader} in term {term}"),
        Event::SnapshotInstalled { id } => {
            format!("restored the leader's snapshot up to entry {}", id.index)
        }
        Event::MembershipChanged { membership } => {
            let ids = |set: quorate::NodeSet| {
                let ids: Vec<_> = set.iter().map(|id| id.to_string()).collect();
                ids.join(", ")
            };
            let learners = match membership.members().difference(membership.voters()) {
                none if none.is_empty() => String::new(),
                learners => format!(", learners {}", ids(learners)),
            };
            format!("members now: voters {}{learners}", ids(membership.voters()))
        }
        Event::ChangeVoid { error } => format!("a change of membership has no effect: {error}"),
        Event::Knocks { id } => {
            format!(
                "node {id} asks for a place and is no member: `quorate member add {id} ADDRESS`"
            )
        }
        Event::NoQuorumWithout { id } => {
            format!("node {id} asks for a place, and without it there is no quorum to decide")
        }
        Event::Admitted { generation } => {
            format!("was given its place, as generation {}", generation.0)
        }
        Event::Displaced { generation } => {
            format!("another node has this one's place, as generation {}", generation.0)
        }
        Event::NewerSchema { found } => {
            format!(
                "a command needs schema {found}: nothing is applied until this program is newer"
            )
        }
        Event::SnapshotTooLarge { bytes_max } => {
            format!("the state has outgrown the {bytes_max} bytes of a snapshot")
        }
        Event::Stopped(fault) => fault_in_words(fault),
        other => format!("{other:?}"),
    }
}

pub(super) fn fault_in_words(fault: &Fault) -> String {
    match fault {
        Fault::Mount(MountError::LogTooSmall { bytes_needed }) => {
            format!("the log in memory is too small: it has to hold {bytes_needed} bytes")
        }
        Fault::Mount(error) => format!("the image can't be used: {error}"),
        Fault::Geometry(error) => format!("the file can't hold such a log: {error}"),
        Fault::Flash(error) => format!("the log has failed: {error}"),
        Fault::Snapshot => "the snapshot in the image can't be restored".into(),
        Fault::Replaced => "another node was given this one's place".into(),
        Fault::Invariant(number) => {
            format!("invariant {number} did not hold: please report this, with the image")
        }
        Fault::Buffers { bytes_given, bytes_needed } => format!(
            "this cluster needs a log of {bytes_needed} bytes, this node has {bytes_given}: start it anew with a larger --log-bytes"
        ),
        other => format!("{other:?}"),
    }
}
