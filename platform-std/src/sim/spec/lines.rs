//! The lines of [`SpecEvents`](super::SpecEvents): field for field what etcd-io/raft's trace validation reads.

use quorate::raft::Role;
use quorate::{NodeId, NodeSet};
use serde::Serialize;

/// A board's term, vote and commit index. Numbers of boards are texts.
#[derive(Clone, Debug, Serialize)]
pub(super) struct State {
    term: u64,
    vote: String,
    commit: u64,
}

impl State {
    pub(super) fn new(term: u64, vote: u8, commit: u64) -> Self {
        Self { term, vote: vote.to_string(), commit }
    }
}

/// A message of the specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Msg {
    #[serde(rename = "type")]
    pub(super) name: &'static str,
    pub(super) term: u64,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) entries: u64,
    #[serde(rename = "logTerm")]
    pub(super) log_term: u64,
    pub(super) index: u64,
    pub(super) commit: u64,
    pub(super) vote: String,
    pub(super) reject: bool,
    #[serde(rename = "rejectHint")]
    pub(super) reject_hint: u64,
}

impl Msg {
    pub(super) fn new(name: &'static str, from: u8, to: u8, term: u64) -> Self {
        Self {
            name,
            term,
            from: from.to_string(),
            to: to.to_string(),
            entries: 0,
            log_term: 0,
            index: 0,
            commit: 0,
            vote: "0".to_owned(),
            reject: false,
            reject_hint: 0,
        }
    }

    pub(super) fn is(&self, name: &str, term: u64) -> bool {
        self.name == name && self.term == term
    }

    pub(super) fn sender(&self) -> u8 {
        self.from.parse().unwrap_or(0)
    }

    pub(super) fn receiver(&self) -> u8 {
        self.to.parse().unwrap_or(0)
    }
}

/// Something that happened at a board.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Event {
    name: &'static str,
    nid: String,
    state: State,
    role: &'static str,
    log: u64,
    conf: [Vec<String>; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    msg: Option<Msg>,
}

impl Event {
    pub(super) fn new(
        name: &'static str,
        board: u8,
        state: State,
        role: Role,
        log: u64,
        conf: &[NodeSet; 2],
        msg: Option<Msg>,
    ) -> Self {
        let names = |set: &NodeSet| set.iter().map(|id: NodeId| id.to_string()).collect();
        let (nid, role) = (board.to_string(), role_name(role));
        Self { name, nid, state, role, log, conf: conf.each_ref().map(names), msg }
    }
}

/// What the specification calls a role; it knows no pre-vote.
pub(super) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower | Role::PreCandidate => "StateFollower",
        Role::Candidate => "StateCandidate",
        Role::Leader => "StateLeader",
    }
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Where it stands: those that were put in later stand behind the line that they belong to.
    pub(super) place: (usize, bool),
    ms: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Event(Box<Event>),
    End(String),
}

/// Validation sorts by what stands behind the second colon, as text: that has to be a number of even width.
const FIRST_LINE: usize = 1_000_000_000;

#[derive(Serialize)]
struct Json<'a> {
    tag: &'static str,
    line: usize,
    ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a Event>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

impl Line {
    pub(super) fn event(place: usize, ms: u64, event: Event) -> Self {
        Self { place: (place, false), ms, what: What::Event(Box::new(event)) }
    }

    pub(super) fn end(place: usize, ms: u64, why: String) -> Self {
        Self { place: (place, false), ms, what: What::End(why) }
    }

    /// This line once more, behind itself.
    pub(super) fn again(&self) -> Self {
        Self { place: (self.place.0, true), ..self.clone() }
    }

    /// Another message, sent at the same place.
    pub(super) fn instead(&self, msg: Msg) -> Self {
        let mut line = self.again();
        if let What::Event(event) = &mut line.what {
            event.msg = Some(msg);
        }
        line
    }

    pub(super) fn to_json(&self, number: usize) -> String {
        let (tag, event, why) = match &self.what {
            What::Event(event) => ("trace", Some(&**event), None),
            What::End(why) => ("end", None, Some(why.as_str())),
        };
        let json = Json { tag, line: FIRST_LINE + number, ms: self.ms, event, why };
        // No field fails to be written.
        serde_json::to_string(&json).unwrap_or_default()
    }
}
