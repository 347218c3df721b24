//! The lines of [`SpecEvents`](super::SpecEvents): field for field what etcd-io/raft's trace validation reads.

use quorate::raft::Role;
use serde::Serialize;

use super::mirror::Server;

/// A board's term, vote and commit index.
#[derive(Clone, Debug, Serialize)]
pub(super) struct State {
    pub(super) term: u64,
    pub(super) vote: Server,
    pub(super) commit: u64,
}

/// A message of the specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Msg {
    #[serde(rename = "type")]
    pub(super) name: &'static str,
    pub(super) term: u64,
    pub(super) from: Server,
    pub(super) to: Server,
    pub(super) entries: u64,
    #[serde(rename = "logTerm")]
    pub(super) log_term: u64,
    pub(super) index: u64,
    pub(super) commit: u64,
    pub(super) vote: Server,
    pub(super) reject: bool,
    #[serde(rename = "rejectHint")]
    pub(super) reject_hint: u64,
}

impl Msg {
    pub(super) fn new(name: &'static str, from: Server, to: Server, term: u64) -> Self {
        Self {
            name,
            term,
            from,
            to,
            entries: 0,
            log_term: 0,
            index: 0,
            commit: 0,
            vote: Server::NOBODY,
            reject: false,
            reject_hint: 0,
        }
    }

    pub(super) fn is(&self, name: &str, term: u64) -> bool {
        self.name == name && self.term == term
    }
}

/// What becomes of one member.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    pub(super) nid: Server,
    pub(super) action: &'static str,
}

/// A change of membership, or what it has led to.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Change {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) changes: Vec<Step>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) newconf: Vec<Server>,
}

#[derive(Clone, Debug, Serialize)]
struct Prop {
    cc: Change,
}

/// Something that happened at a board.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Event {
    name: &'static str,
    nid: Server,
    state: State,
    role: &'static str,
    log: u64,
    /// Voters; the second list is of those that are being left by a joint change, which the specification has no step for.
    conf: [Vec<Server>; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    msg: Option<Msg>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prop: Option<Prop>,
}

impl Event {
    pub(super) fn new(
        name: &'static str,
        nid: Server,
        state: State,
        role: Role,
        log: u64,
        voters: Vec<Server>,
        msg: Option<Msg>,
    ) -> Self {
        let conf = [voters, Vec::new()];
        Self { name, nid, state, role: role_name(role), log, conf, msg, prop: None }
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

    /// When and why the trace ends with it, if so.
    pub(super) fn why(&self) -> Option<(u64, &str)> {
        match &self.what {
            What::Event(_) => None,
            What::End(why) => Some((self.ms, why)),
        }
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

    /// What this board shows here, put in before the line after `place`.
    pub(super) fn instead_at(&self, place: usize, ms: u64) -> Self {
        Self { place: (place, true), ms, ..self.clone() }
    }

    /// What was taken for a value is a change of membership.
    pub(super) fn changes(&mut self, name: &'static str, cc: Change) {
        if let What::Event(event) = &mut self.what {
            (event.name, event.prop) = (name, Some(Prop { cc }));
        }
    }

    /// The board and state of another event, put in before the line after `place`.
    pub(super) fn inserted(place: usize, ms: u64, event: Event) -> Self {
        Self { place: (place, true), ms, what: What::Event(Box::new(event)) }
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
