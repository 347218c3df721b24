//! The steps: what each event does, and where the specification does not allow it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Checked, Entry, Kept, Kind, Msg, Node, Spec, expect, number, text};

impl Spec {
    fn node(&mut self, nid: &str) -> &mut Node {
        self.nodes.get_mut(nid).expect("it was looked for")
    }

    pub(super) fn act(&mut self, name: &str, nid: &str, event: &Value) -> Checked {
        match name {
            "InitState" => {
                self.pending.retain(|msg| msg.from != nid);
                self.seen.restarts += 1;
                let node = self.node(nid);
                let Kept { term, vote, log, commit, conf } = node.kept.clone();
                node.log.truncate(log);
                (node.term, node.vote, node.commit) = (term, vote, commit);
                (node.conf, node.pending) = (conf, 0);
                node.role = "StateFollower".into();
                node.matched.clear();
            }
            "BecomeFollower" => {
                let node = self.node(nid);
                expect(node.role != "StateFollower", || "follows already".into())?;
                node.role = "StateFollower".into();
            }
            "BecomeCandidate" => {
                let node = self.node(nid);
                expect(node.role != "StateLeader", || "a leader stands for election".into())?;
                expect(node.conf.0.contains(nid), || "stands without a vote".into())?;
                let applied = node.changed().is_none_or(|(_, conf)| *conf == node.conf);
                expect(applied, || "stands before a committed change is in effect".into())?;
                (node.role, node.term) = ("StateCandidate".into(), node.term + 1);
                node.vote = nid.into();
                (node.responded, node.granted) = Default::default();
            }
            "BecomeLeader" => {
                let node = self.node(nid);
                expect(node.role == "StateCandidate", || "leads, and did not stand".into())?;
                let granted = &node.granted;
                expect(node.is_quorum(|id| granted.contains(id)), || {
                    format!("leads by the votes of {granted:?}")
                })?;
                node.role = "StateLeader".into();
                node.matched = BTreeMap::from([(nid.to_owned(), node.log.len() as u64)]);
            }
            "Replicate" => {
                let node = self.node(nid);
                expect(node.role == "StateLeader", || "appends, and does not lead".into())?;
                node.log.push(Entry { term: node.term, conf: None });
            }
            "Commit" => {
                let node = self.node(nid);
                expect(node.role == "StateLeader", || "commits, and does not lead".into())?;
                let held = |index: u64, id: &String| {
                    node.matched.get(id).is_some_and(|matched| *matched >= index)
                };
                let mut upto = (1..=node.log.len() as u64).rev();
                let agreed = upto.find(|index| node.is_quorum(|id| held(*index, id)));
                if let Some(index) = agreed
                    && node.log[index as usize - 1].term == node.term
                {
                    node.commit = node.commit.max(index);
                }
            }
            "Ready" => {
                let all = std::mem::take(&mut self.pending);
                let (sent, pending) = all.into_iter().partition(|msg| msg.from == nid);
                self.pending = pending;
                let sent: Vec<Msg> = sent;
                for msg in sent {
                    *self.on_their_way.entry(msg).or_default() += 1;
                }
                let node = self.node(nid);
                let (term, vote, log) = (node.term, node.vote.clone(), node.log.len());
                let conf = node.conf.clone();
                node.kept = Kept { term, vote, log, commit: node.commit, conf };
            }
            "ChangeConf" => return self.changes(nid, event),
            "ApplyConfChange" => {
                let node = self.node(nid);
                let (at, conf) = node.changed().ok_or("no change is committed")?;
                let conf = conf.clone();
                let shown = serde_json::from_value(event["prop"]["cc"]["newconf"].clone());
                let shown: BTreeSet<String> = shown.map_err(|e| e.to_string())?;
                expect(shown == conf.0, || format!("puts {shown:?} into effect, not {conf:?}"))?;
                self.shows(nid, event)?;
                let node = self.node(nid);
                node.conf = conf;
                if node.role == "StateLeader" && node.pending >= at {
                    node.pending = 0;
                }
                self.seen.applied += 1;
            }
            _ => return self.send(name, nid, event),
        }
        Ok(())
    }

    /// A leader appends a change of one member.
    fn changes(&mut self, nid: &str, event: &Value) -> Checked {
        let steps = event["prop"]["cc"]["changes"].as_array().ok_or("no changes")?;
        let [step] = steps.as_slice() else {
            return Err("is not a change of one member".into());
        };
        let (whom, action) = (text(step, "nid")?, text(step, "action")?);
        expect(self.nodes.contains_key(&whom), || format!("{whom} has not begun"))?;
        let node = self.node(nid);
        expect(node.role == "StateLeader", || "appends a change, and does not lead".into())?;
        expect(node.pending == 0, || format!("change {} is under way", node.pending))?;
        let (mut voters, mut learners) = node.conf.clone();
        let may = match action.as_str() {
            "AddNewServer" => voters.insert(whom),
            "AddLearner" => !voters.contains(&whom) && learners.insert(whom),
            "RemoveServer" => {
                let learned = learners.remove(&whom);
                voters.remove(&whom) || learned
            }
            _ => false,
        };
        expect(may, || format!("{action} can't be made"))?;
        node.log.push(Entry { term: node.term, conf: Some((voters, learners)) });
        node.pending = node.log.len();
        *self.seen.changes.entry(action).or_default() += 1;
        Ok(())
    }

    fn send(&mut self, name: &str, nid: &str, event: &Value) -> Checked {
        let line = &event["msg"];
        let (from, to) = (text(line, "from")?, text(line, "to")?);
        expect(from == nid, || "is sent by another".into())?;
        let own = from == to;
        let node = self.node(nid);
        let base = Msg { from, to: to.clone(), term: node.term, ..Msg::default() };
        let msg = match name {
            "SendRequestVoteRequest" | "SendRequestVoteResponse"
                if own || name.ends_with("Request") =>
            {
                expect(node.role == "StateCandidate", || "asks, and does not stand".into())?;
                expect(node.is_member(&to), || format!("asks {to}, who is no member"))?;
                expect(!node.responded.contains(&to), || format!("asks {to}, who has answered"))?;
                let (log_term, index) = node.last();
                match own {
                    true => Msg { kind: Kind::Vote, ok: true, ..base },
                    false => Msg { kind: Kind::AskVote, log_term, index, ..base },
                }
            }
            "SendAppendEntriesRequest" => {
                expect(node.role == "StateLeader", || "sends entries, and does not lead".into())?;
                expect(node.is_member(&to), || format!("sends to {to}, who is no member"))?;
                let (index, count) = (number(line, "index")?, number(line, "entries")?);
                let matched = node.matched.get(&to).copied().unwrap_or(0);
                expect(index >= matched && text(line, "type")? == "MsgApp", || {
                    format!("sends again what {to} has")
                })?;
                let last = index + count;
                expect(last <= node.log.len() as u64, || "sends what it lacks".into())?;
                self.seen.entries_max = self.seen.entries_max.max(count);
                let node = &self.nodes[nid];
                let log_term = match index {
                    0 => 0,
                    index => node.log[index as usize - 1].term,
                };
                let entries = node.log[index as usize..last as usize].to_vec();
                let (kind, commit) = (Kind::Append, node.commit.min(last));
                Msg { kind, index, log_term, entries, commit, ..base }
            }
            "SendAppendEntriesResponse" if own => {
                expect(node.role == "StateLeader", || "counts itself, and does not lead".into())?;
                let index = node.log.len() as u64;
                Msg { kind: Kind::Appended, index, ok: true, ..base }
            }
            // The specification makes each reply by itself.
            "SendAppendEntriesResponse" | "SendRequestVoteResponse" => return Ok(()),
            _ => return Err(format!("there is no event {name}")),
        };
        expect(is(&msg, line)?, || format!("is not the message {msg:?}"))?;
        self.pending.push(msg);
        Ok(())
    }

    pub(super) fn receive(&mut self, name: &str, nid: &str, event: &Value) -> Checked {
        let line = &event["msg"];
        let kind = match name {
            "ReceiveRequestVoteRequest" => Kind::AskVote,
            "ReceiveRequestVoteResponse" => Kind::Vote,
            "ReceiveAppendEntriesRequest" => Kind::Append,
            "ReceiveAppendEntriesResponse" => Kind::Appended,
            _ => return Err(format!("there is no event {name}")),
        };
        expect(text(line, "to")? == nid, || "is received by another".into())?;
        let mut found = None;
        for msg in self.on_their_way.keys().filter(|msg| msg.kind == kind && msg.to == nid) {
            if is(msg, line)? {
                found = Some(msg.clone());
                break;
            }
        }
        let msg = found.ok_or("no such message is on its way")?;
        let left = self.on_their_way.get_mut(&msg).expect("it was found");
        *left -= 1;
        if *left == 0 {
            self.on_their_way.remove(&msg);
        }
        let node = self.node(nid);
        if msg.term > node.term {
            node.follows(msg.term);
        }
        match kind {
            Kind::AskVote => self.is_asked(nid, &msg),
            Kind::Append => self.appends(nid, &msg),
            Kind::Vote if msg.term == node.term => {
                node.responded.insert(msg.from.clone());
                if msg.ok {
                    node.granted.insert(msg.from);
                }
            }
            Kind::Appended if msg.term == node.term && msg.ok => {
                let matched = node.matched.entry(msg.from).or_default();
                *matched = (*matched).max(msg.index);
            }
            _ => {}
        }
        Ok(())
    }

    fn reply(&mut self, kind: Kind, to: &Msg, index: u64, ok: bool) {
        let term = self.nodes[&to.to].term;
        let (from, to) = (to.to.clone(), to.from.clone());
        self.pending.push(Msg { kind, from, to, term, index, ok, ..Msg::default() });
    }

    fn is_asked(&mut self, nid: &str, msg: &Msg) {
        let node = self.node(nid);
        let free = node.vote == "0" || node.vote == msg.from;
        let grants = msg.term == node.term && free && (msg.log_term, msg.index) >= node.last();
        if grants {
            node.vote = msg.from.clone();
        }
        self.reply(Kind::Vote, msg, 0, grants);
    }

    fn appends(&mut self, nid: &str, msg: &Msg) {
        let node = self.node(nid);
        let prev = (msg.index as usize).checked_sub(1);
        let fits =
            prev.is_none_or(|prev| node.log.get(prev).is_some_and(|e| e.term == msg.log_term));
        if msg.term < node.term || (node.role == "StateFollower" && !fits) {
            return self.reply(Kind::Appended, msg, 0, false);
        }
        node.role = "StateFollower".into();
        if !fits {
            return self.reply(Kind::Appended, msg, 0, false);
        }
        if msg.index < node.commit {
            let commit = node.commit;
            return self.reply(Kind::Appended, msg, commit, true);
        }
        let last = msg.index + msg.entries.len() as u64;
        let mut truncated = 0;
        for (at, entry) in (msg.index as usize..).zip(&msg.entries) {
            if node.log.get(at).is_some_and(|here| here != entry) {
                node.log.truncate(at);
                truncated = 1;
            }
            if node.log.len() == at {
                node.log.push(entry.clone());
            }
        }
        node.commit = node.commit.max(msg.commit.min(last));
        self.seen.truncations += truncated;
        self.reply(Kind::Appended, msg, last, true);
    }
}

/// Is this the message of the line, by the fields that validation compares?
fn is(msg: &Msg, line: &Value) -> Checked<bool> {
    let name = match msg.kind {
        Kind::AskVote => "MsgVote",
        Kind::Vote => "MsgVoteResp",
        Kind::Append => "MsgApp",
        Kind::Appended => "MsgAppResp",
    };
    let same = text(line, "type")? == name
        && text(line, "from")? == msg.from
        && text(line, "to")? == msg.to
        && number(line, "term")? == msg.term;
    let (index, log_term) = (number(line, "index")?, number(line, "logTerm")?);
    let reject = line["reject"].as_bool().ok_or("no truth `reject`")?;
    let rest = match msg.kind {
        Kind::AskVote => (index, log_term) == (msg.index, msg.log_term),
        Kind::Vote => reject != msg.ok,
        Kind::Append => {
            (index, log_term) == (msg.index, msg.log_term)
                && number(line, "entries")? == msg.entries.len() as u64
                && number(line, "commit")? == msg.commit
        }
        Kind::Appended => reject != msg.ok && (reject || index == msg.index),
    };
    Ok(same && rest)
}
