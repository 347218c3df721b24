//! The states of the nodes after each command, as JSON.

use quorate::raft::{ProgressState, Role};
use quorate::{NodeId, NodeSet};
use serde::{Deserialize, Serialize};

use super::node::Node;
use super::storage::records;

/// What one command led to.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The line of the script.
    pub line: usize,
    /// The command.
    pub cmd: String,
    /// What came of it, where there is more to say than that it was done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub result: Vec<String>,
    /// It asks for logs or states, and for nothing else: the file has the same answer.
    #[serde(skip)]
    pub answers: bool,
    /// Nothing is on its way to a node that is there, and none has anything left to do.
    pub quiescent: bool,
    /// All nodes.
    pub nodes: Vec<State>,
    /// What the file expects.
    #[serde(skip)]
    pub expected: String,
}

/// A node's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Its number.
    pub id: u8,
    /// `Follower`, `PreCandidate`, `Candidate` or `Leader`.
    pub role: String,
    /// The newest term it knows.
    pub term: u64,
    /// Whom it voted for in it; 0 for nobody.
    pub vote: u8,
    /// The leader of that term; 0 if it knows none.
    pub lead: u8,
    /// The last entry known to be committed.
    pub commit: u64,
    /// The last entry that was applied.
    pub applied: u64,
    /// The last entry of the log.
    pub last_index: u64,
    /// The term of that.
    pub last_term: u64,
    /// The configuration in effect.
    pub conf: Conf,
    /// The entries behind the compacted ones. (State files of the original tell what is stored.)
    #[serde(alias = "stored_log", deserialize_with = "or_empty")]
    pub log: Vec<Entry>,
    /// What a leader knows of the members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub progress: Vec<Progress>,
}

/// Who votes, and who does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conf {
    /// Voters, of the incoming half in a joint configuration.
    #[serde(deserialize_with = "or_empty")]
    pub voters: Vec<u8>,
    /// Voters of the outgoing half.
    #[serde(deserialize_with = "or_empty")]
    pub outgoing: Vec<u8>,
    /// Members without a vote.
    #[serde(deserialize_with = "or_empty")]
    pub learners: Vec<u8>,
    /// Outgoing voters that become learners.
    #[serde(deserialize_with = "or_empty")]
    pub learners_next: Vec<u8>,
    /// The leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

/// An entry of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its term.
    pub t: u64,
    /// Its index.
    pub i: u64,
    /// `normal`; for a change of membership `cc1` in the first form, else `cc2`, `cc2i` or `cc2e` by transition.
    #[serde(default = "normal", alias = "y")]
    pub kind: String,
    /// The command, or the steps of the change.
    #[serde(default, alias = "d")]
    pub data: String,
}

/// What a leader knows of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Its number.
    pub id: u8,
    /// `Probe`, `Replicate` or `Snapshot`.
    pub state: String,
    /// The last entry known to be durable there.
    #[serde(rename = "match")]
    pub matched: u64,
}

fn normal() -> String {
    "normal".into()
}

/// A list may be written as null.
fn or_empty<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(from).map(Option::unwrap_or_default)
}

impl State {
    pub(super) fn of(node: &mut Node) -> Self {
        let raft = &node.raft;
        let number = |id: Option<NodeId>| id.map_or(0, NodeId::get);
        let last = node.log.last();
        let membership = raft.membership();
        Self {
            id: node.id.get(),
            role: format!("{:?}", raft.role()),
            term: raft.term().0,
            vote: number(raft.vote()),
            lead: number(raft.lead()),
            commit: raft.commit().0,
            applied: raft.applied().0,
            last_index: last.index.0,
            last_term: last.term.0,
            conf: Conf {
                voters: numbers(membership.voters),
                outgoing: numbers(membership.outgoing),
                learners: numbers(membership.learners),
                learners_next: numbers(membership.learners_next),
                auto_leave: membership.auto_leave,
            },
            progress: progress(node),
            log: records(&mut node.log)
                .iter()
                .map(|record| {
                    let (kind, data) = record.words();
                    let (t, i) = (record.id.term.0, record.id.index.0);
                    Entry { t, i, kind: kind.into(), data }
                })
                .collect(),
        }
    }
}

fn numbers(set: NodeSet) -> Vec<u8> {
    set.iter().map(NodeId::get).collect()
}

fn progress(node: &Node) -> Vec<Progress> {
    if node.raft.role() != Role::Leader {
        return Vec::new();
    }
    let members = node.raft.membership().members();
    let known = members.iter().filter_map(|id| Some((id, node.raft.progress(id)?)));
    known
        .map(|(id, progress)| Progress {
            id: id.get(),
            state: state_word(progress.state()).into(),
            matched: progress.matched().0,
        })
        .collect()
}

/// A progress state in a word.
pub(super) const fn state_word(state: ProgressState) -> &'static str {
    match state {
        ProgressState::Probe => "Probe",
        ProgressState::Replicate => "Replicate",
        ProgressState::Snapshot => "Snapshot",
    }
}
