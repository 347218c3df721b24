//! The rules by which the published specification (etcd-io/raft, `tla/etcdraft.tla`) takes a trace, in a few lines: for each
//! event the one step that it allows, or why it allows none.

mod steps;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    #[default]
    AskVote,
    Vote,
    Append,
    Appended,
}

/// Voters, and who learns.
type Conf = (BTreeSet<String>, BTreeSet<String>);

/// An entry: its term, and the members that it makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    term: u64,
    conf: Option<Conf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Msg {
    kind: Kind,
    from: String,
    to: String,
    term: u64,
    /// The entry before; the candidate's last; what is acknowledged.
    index: u64,
    log_term: u64,
    entries: Vec<Entry>,
    commit: u64,
    ok: bool,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    term: u64,
    vote: String,
    log: usize,
    commit: u64,
    conf: Conf,
}

#[derive(Clone, Debug, Default)]
struct Node {
    role: String,
    term: u64,
    vote: String,
    log: Vec<Entry>,
    commit: u64,
    conf: Conf,
    /// The change that it appended and has not put into effect as a leader.
    pending: usize,
    responded: BTreeSet<String>,
    granted: BTreeSet<String>,
    matched: BTreeMap<String, u64>,
    kept: Kept,
}

impl Node {
    fn is_quorum(&self, of: impl Fn(&String) -> bool) -> bool {
        2 * self.conf.0.iter().filter(|id| of(id)).count() > self.conf.0.len()
    }

    fn follows(&mut self, term: u64) {
        if self.term != term {
            self.vote = "0".into();
        }
        (self.term, self.role) = (term, "StateFollower".into());
    }

    /// The last change that is committed.
    fn changed(&self) -> Option<(usize, &Conf)> {
        let committed = self.log.iter().take(self.commit as usize).enumerate();
        let mut changes =
            committed.filter_map(|(at, entry)| entry.conf.as_ref().map(|c| (at + 1, c)));
        changes.next_back()
    }

    fn is_member(&self, id: &String) -> bool {
        self.conf.0.contains(id) || self.conf.1.contains(id)
    }

    fn last(&self) -> (u64, u64) {
        (self.log.last().map_or(0, |entry| entry.term), self.log.len() as u64)
    }
}

/// What a trace held.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) events: BTreeMap<String, u64>,
    pub(crate) truncations: u64,
    pub(crate) restarts: u64,
    /// Changes of membership that a leader put into effect, by what they were.
    pub(crate) changes: BTreeMap<String, u64>,
    /// Times that a server put one into effect.
    pub(crate) applied: u64,
    /// Entries that one append carried beyond the first: what a snapshot stands for.
    pub(crate) entries_max: u64,
    pub(crate) ended: Option<String>,
}

#[derive(Default)]
struct Spec {
    nodes: BTreeMap<String, Node>,
    on_their_way: BTreeMap<Msg, u64>,
    pending: Vec<Msg>,
    /// Each committed entry's term, and the term in which it was committed.
    committed: Vec<(Entry, u64)>,
    leaders: BTreeMap<u64, String>,
    seen: Seen,
}

type Checked<T = ()> = Result<T, String>;

fn number(value: &Value, field: &str) -> Checked<u64> {
    value[field].as_u64().ok_or_else(|| format!("no number `{field}` in {value}"))
}

fn text(value: &Value, field: &str) -> Checked<String> {
    value[field].as_str().map(str::to_owned).ok_or_else(|| format!("no text `{field}` in {value}"))
}

fn expect(holds: bool, what: impl Fn() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

/// Checks a whole trace.
pub(crate) fn check<'a>(lines: impl IntoIterator<Item = &'a str>) -> Checked<Seen> {
    let mut spec = Spec::default();
    for (number, line) in lines.into_iter().enumerate() {
        spec.line(line).map_err(|why| format!("line {}: {why}\n{line}", number + 1))?;
    }
    Ok(spec.seen)
}

impl Spec {
    fn line(&mut self, line: &str) -> Checked {
        let json: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
        expect(self.seen.ended.is_none(), || "goes on behind its end".into())?;
        if json["tag"] == "end" {
            self.seen.ended = Some(text(&json, "why")?);
            return Ok(());
        }
        expect(json["tag"] == "trace", || "is no event".into())?;
        let event = &json["event"];
        let (name, nid) = (text(event, "name")?, text(event, "nid")?);
        *self.seen.events.entry(name.clone()).or_default() += 1;
        if name == "InitState" && !self.nodes.contains_key(&nid) {
            return self.founded(nid, event);
        }
        expect(self.nodes.contains_key(&nid), || "of a node that has not begun".into())?;
        let before = self.nodes[&nid].term;
        if name.starts_with("Receive") {
            self.shows(&nid, event)?;
            self.receive(&name, &nid, event)?;
        } else {
            self.act(&name, &nid, event)?;
            // As the validation does: these tell nothing of the state behind them.
            if !["Ready", "Replicate", "ChangeConf", "ApplyConfChange"].contains(&name.as_str()) {
                self.shows(&nid, event)?;
            }
        }
        self.holds(&nid, before, name == "InitState")
    }

    fn founded(&mut self, nid: String, event: &Value) -> Checked {
        // Who is not there when the cluster is founded begins as one that knows nobody.
        let [voters, outgoing] = conf(event)?;
        let is_first = self.nodes.is_empty();
        let others = self.nodes.values().all(|node| voters.is_empty() || node.conf.0 == voters);
        let founds = outgoing.is_empty() && others && !(is_first && voters.is_empty());
        expect(number(event, "log")? == 0 && founds, || {
            "begins with a log, or other members".into()
        })?;
        let conf = (voters, BTreeSet::new());
        let (role, vote) = ("StateFollower".to_owned(), "0".to_owned());
        let kept = Kept { vote: vote.clone(), conf: conf.clone(), ..Kept::default() };
        self.nodes.insert(nid.clone(), Node { conf, role, vote, kept, ..Node::default() });
        self.shows(&nid, event)
    }

    /// The node is what the event shows.
    fn shows(&self, nid: &str, event: &Value) -> Checked {
        let node = &self.nodes[nid];
        let state = &event["state"];
        let is = [
            ("term", number(state, "term")?, node.term),
            ("commit", number(state, "commit")?, node.commit),
            ("log", number(event, "log")?, node.log.len() as u64),
        ];
        for (what, shown, is) in is {
            expect(shown == is, || format!("shows {what} {shown}, which is {is}"))?;
        }
        let (role, vote) = (text(event, "role")?, text(state, "vote")?);
        expect(role == node.role, || format!("shows {role}, which is {}", node.role))?;
        expect(vote == node.vote, || format!("shows vote {vote}, which is {}", node.vote))?;
        let conf = conf(event)?;
        expect(conf[0] == node.conf.0 && conf[1].is_empty(), || {
            format!("shows other members than {:?}", node.conf)
        })
    }

    /// What never may be, whatever the step was.
    fn holds(&mut self, nid: &str, term_before: u64, restarted: bool) -> Checked {
        let node = &self.nodes[nid];
        expect(restarted || node.term >= term_before, || "its term fell".into())?;
        expect(node.commit <= node.log.len() as u64, || "has committed what it lacks".into())?;
        for (at, entry) in node.log.iter().take(node.commit as usize).enumerate() {
            match self.committed.get(at) {
                Some((first, _)) => {
                    expect(first == entry, || format!("commits another entry {}", at + 1))?
                }
                None => self.committed.push((entry.clone(), node.term)),
            }
        }
        if node.role == "StateLeader" {
            let first = self.leaders.entry(node.term).or_insert_with(|| nid.to_owned());
            expect(first == nid, || format!("leads in term {} as {first} does", node.term))?;
            let older = self.committed.iter().take_while(|(_, in_term)| *in_term < node.term);
            let lacks = older.enumerate().find(|(at, (entry, _))| node.log.get(*at) != Some(entry));
            expect(lacks.is_none(), || format!("leads without a committed entry: {lacks:?}"))?;
            expect(node.commit <= node.kept.log as u64, || "commits what it may forget".into())?;
        }
        Ok(())
    }
}

fn conf(event: &Value) -> Checked<[BTreeSet<String>; 2]> {
    serde_json::from_value(event["conf"].clone()).map_err(|e| e.to_string())
}
