//! Who is a member: changes as leaders append them and boards put them into effect, in the specification's steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate::change::{self, Transition, What};
use quorate::entry::{Entries, Kind};
use quorate::raft::Role;
use quorate::{EntryId, Index, NodeId, NodeSet, Term};

use super::SpecEvents;
use super::lines::{Change, Event, Line, State, Step};
use super::mirror::{Mirror, Server, Shown};
use crate::sim::members::Configuration;

/// Members, and which server of the specification each of them is.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    now: Configuration,
    servers: BTreeMap<NodeId, Server>,
}

impl Members {
    pub(super) fn founding(ids: NodeSet) -> Self {
        let server = |id: NodeId| (id, Server { board: id.get(), generation: 1 });
        Self { now: Configuration::founding(ids), servers: ids.iter().map(server).collect() }
    }

    pub(super) fn server(&self, id: NodeId) -> Option<Server> {
        self.servers.get(&id).copied()
    }

    pub(super) fn has(&self, server: Server) -> bool {
        self.servers.values().any(|member| *member == server)
    }

    pub(super) fn voters(&self) -> Vec<Server> {
        self.now.membership.voters.iter().filter_map(|id| self.server(id)).collect()
    }
}

/// A change that a leader has appended.
#[derive(Clone, Debug)]
pub(super) struct Registered {
    members: Arc<Members>,
    /// The specification has a step for it; else it changes nothing that the specification knows, and is a value.
    is_step: bool,
}

/// What the specification has a change for.
enum Meaning {
    Step(&'static str, Server),
    Nothing,
    Lacks(&'static str),
}

impl SpecEvents {
    /// A leader sends entries for the first time: those that were taken for values and are changes of membership.
    pub(super) fn propose(&mut self, ms: u64, leader: Server, entries: Entries<'_>) {
        for entry in entries.flatten().filter(|entry| entry.kind == Kind::Membership) {
            if !self.ended && !self.changes.contains_key(&(entry.id.index.0, entry.id.term.0)) {
                self.register(ms, leader, entry.id, entry.data);
            }
        }
    }

    /// A leader has put a change into effect that it may not have sent: one that is alone need not.
    pub(in crate::sim) fn lacks_change(&self, number: u8, shown: &Shown) -> bool {
        let leads = self.running(number).filter(|_| shown.role == Role::Leader);
        let mirror = leads.and_then(|leader| self.boards.get(&leader));
        let known = mirror.map(|mirror| &mirror.now.members.now);
        known.is_some_and(|now| {
            let newest = now.generations.values().map(|life| life.0).max();
            (now.membership, newest) != (shown.membership, Some(shown.newest))
        })
    }

    /// Finds it among the entries that the leader's flash holds.
    pub(in crate::sim) fn find_changes(
        &mut self,
        ms: u64,
        number: u8,
        entries: &[(EntryId, Kind, Vec<u8>)],
    ) {
        let Some(leader) = self.running(number) else { return };
        for (id, _, data) in entries.iter().filter(|(_, kind, _)| *kind == Kind::Membership) {
            let key = (id.index.0, id.term.0);
            if self.appends.contains_key(&key) && !self.changes.contains_key(&key) {
                self.register(ms, leader, *id, data);
            }
        }
    }

    fn register(&mut self, ms: u64, leader: Server, id: EntryId, data: &[u8]) {
        let EntryId { index: Index(index), term: Term(term) } = id;
        let (Some(line), Ok(change)) =
            (self.appends.get(&(index, term)).copied(), change::Change::decode(data))
        else {
            return self.end(ms, format!("nobody was seen to append the change {id:?}"));
        };
        let (_, base) = self.members_at(leader, index - 1);
        let Some(now) = base.now.after(&change) else {
            return self.end(ms, format!("the change {id:?} can't be made"));
        };
        let mut members = Members { now, ..(*base).clone() };
        let meaning = self.meaning(&base, &mut members, &change);
        let is_step = match meaning {
            Meaning::Nothing => false,
            Meaning::Lacks(what) => return self.end(ms, format!("{what}: {id:?}")),
            Meaning::Step(action, nid) => {
                if !self.mirror(nid).known {
                    self.begins(ms, line, nid);
                }
                if !self.has_no_other(ms, leader, line, index) {
                    let why = "the specification waits for a change of an earlier term at";
                    return self.end(ms, format!("{why} board {leader}"));
                }
                let changes = vec![Step { nid, action }];
                self.lines[line].changes("ChangeConf", Change { changes, newconf: Vec::new() });
                true
            }
        };
        self.changes.insert((index, term), Registered { members: Arc::new(members), is_step });
    }

    /// The one step of a change, and whose place it gives to whom.
    fn meaning(
        &mut self,
        base: &Members,
        next: &mut Members,
        change: &change::Change<'_>,
    ) -> Meaning {
        let steps: Vec<_> = change.steps().flatten().collect();
        let [step] = steps.as_slice() else {
            return Meaning::Lacks("a joint change");
        };
        if change.transition != Transition::Auto {
            return Meaning::Lacks("a joint change");
        }
        let before = base.server(step.id);
        let voted = base.now.membership.voters.contains(step.id);
        let server = match (step.what, before) {
            (What::Update, _) | (What::Remove, None) => return Meaning::Nothing,
            (What::Remove, Some(server)) => {
                next.servers.remove(&step.id);
                return Meaning::Step("RemoveServer", server);
            }
            (What::AddVoter, Some(_)) if voted => return Meaning::Nothing,
            (What::AddVoter, Some(server)) => return Meaning::Step("AddNewServer", server),
            (What::AddLearner, Some(_)) if voted => return Meaning::Lacks("a voter is demoted"),
            (What::AddLearner, Some(_)) => return Meaning::Nothing,
            (What::Admit { .. }, Some(_)) if voted => {
                return Meaning::Lacks("a voter loses its vote and comes back in one step");
            }
            // A place that no board has taken yet is another's: who it is has no name before.
            (What::Admit { .. }, Some(server)) if !self.mirror(server).ran => server,
            (What::AddVoter | What::AddLearner | What::Admit { .. }, _) => {
                let generation = next.now.generations.get(&step.id).map_or(0, |life| life.0);
                Server { board: step.id.get(), generation }
            }
        };
        let generation = next.now.generations.get(&step.id).map_or(0, |life| life.0);
        self.lives.insert((step.id.get(), generation), server);
        next.servers.insert(step.id, server);
        match step.what {
            _ if before == Some(server) => Meaning::Nothing,
            What::AddVoter => Meaning::Step("AddNewServer", server),
            _ => Meaning::Step("AddLearner", server),
        }
    }

    /// A server that knows nobody begins, before the line in which it is given a place.
    fn begins(&mut self, ms: u64, line: usize, server: Server) {
        self.mirror(server).known = true;
        let state = State { term: 0, vote: Server::NOBODY, commit: 0 };
        let event = Event::new("InitState", server, state, Role::Follower, 0, Vec::new(), None);
        self.lines.push(Line::inserted(line - 1, ms, event));
    }

    /// The specification's leader has no other change under way. One that it appended in an earlier term, and put into effect
    /// when it did not lead, is put into effect once more: only a leader forgets about it.
    fn has_no_other(&mut self, ms: u64, leader: Server, line: usize, index: u64) -> bool {
        let Mirror { pending, now, .. } = self.mirror(leader).clone();
        if pending != 0 {
            let done = self.step_up_to(leader, now.commit);
            if done == 0 || done > pending || done > now.changed {
                return false;
            }
            let again = self.lines[line].instead_at(line - 1, ms);
            self.lines.push(again);
            let cc = Change { changes: Vec::new(), newconf: now.members.voters() };
            if let Some(again) = self.lines.last_mut() {
                again.changes("ApplyConfChange", cc);
            }
        }
        self.mirror(leader).pending = index;
        true
    }

    /// The last change up to `index` in the server's log, and the members that it leads to.
    fn members_at(&self, server: Server, index: u64) -> (u64, Arc<Members>) {
        let last = self.changes_of(server, index).next();
        last.map_or((0, self.founded.clone()), |(at, change)| (at, change.members.clone()))
    }

    /// The last change up to `index` in the server's log that is a step of the specification.
    fn step_up_to(&self, server: Server, index: u64) -> u64 {
        let mut changes = self.changes_of(server, index);
        changes.find(|(_, change)| change.is_step).map_or(0, |(at, _)| at)
    }

    /// Changes up to `index` in the server's log, the last one first.
    fn changes_of(&self, server: Server, index: u64) -> impl Iterator<Item = (u64, &Registered)> {
        let changes = self.changes.range(..=(index, u64::MAX)).rev();
        let log = self.boards.get(&server).map(|mirror| &mirror.now);
        changes
            .filter(move |((at, term), _)| log.is_some_and(|log| log.holds(*at, *term)))
            .map(|((at, _), change)| (*at, change))
    }

    /// Puts into effect what the board has put into effect. The specification takes the last change that is committed.
    pub(super) fn apply_changes(&mut self, ms: u64, board: Server, shown: &Shown) {
        let (commit, changed) = (self.mirror(board).now.commit, self.mirror(board).now.changed);
        let (at, members) = self.members_at(board, commit);
        if at <= changed || shown.applied < at {
            return;
        }
        let step = self.step_up_to(board, commit);
        if step == 0 && self.mirror(board).now.members.servers.is_empty() {
            // Who began as one that knows nobody learns of members by a step alone.
            return;
        }
        if step > changed {
            let mirror = self.mirror(board);
            let last = EntryId::new(Index(mirror.now.log.len() as u64), shown.last.term);
            let (term, role) = (mirror.now.term, mirror.role);
            let before = Shown { role, term, commit, last, ..shown.clone() };
            let line = self.put(ms, "ApplyConfChange", board, &before, None);
            let cc = Change { changes: Vec::new(), newconf: members.voters() };
            self.lines[line].changes("ApplyConfChange", cc);
            let mirror = self.mirror(board);
            if mirror.role == Role::Leader && mirror.pending >= step {
                mirror.pending = 0;
            }
        }
        let mirror = self.mirror(board);
        (mirror.now.members, mirror.now.changed) = (members, at);
    }

    /// A board that stands or leads counts other members than the specification does.
    pub(super) fn decides_otherwise(&mut self, ms: u64, board: Server, shown: &Shown) -> bool {
        let same = self.mirror(board).now.members.now.membership == shown.membership;
        let decides = matches!(shown.role, Role::Candidate | Role::Leader) && !same;
        if decides {
            self.end(
                ms,
                format!("board {board} decides with other members than the specification has"),
            );
        }
        decides
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_was_put_into_effect_without_leading_is_so_once_more_before_the_next() {
        let leader = Server { board: 1, generation: 1 };
        let mut events = SpecEvents::new(3);
        let members = events.founded.clone();
        for name in ["InitState", "Replicate", "Replicate"] {
            let state = State { term: 3, vote: leader, commit: 1 };
            let event = Event::new(name, leader, state, Role::Leader, 1, members.voters(), None);
            events.lines.push(Line::event(events.lines.len(), 0, event));
        }
        let mirror = events.mirror(leader);
        (mirror.now.log, mirror.now.commit, mirror.now.changed) = (vec![1, 3], 1, 1);
        (mirror.now.members, mirror.pending) = (members.clone(), 1);
        // The change of term 1 was overwritten: none is in effect that the specification could forget.
        assert!(!events.has_no_other(0, leader, 2, 2));
        events.changes.insert((1, 1), Registered { members, is_step: true });
        assert!(events.has_no_other(0, leader, 2, 2));
        assert_eq!(events.mirror(leader).pending, 2);
        let lines: Vec<String> = events.lines().collect();
        let again = r#""name":"ApplyConfChange","nid":"1""#;
        assert!(lines[2].contains(again) && lines[2].contains(r#""newconf":["1","2","3"]"#));
        assert!(lines[3].contains("Replicate") && lines.len() == 4, "{lines:?}");
    }
}
