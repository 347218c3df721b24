//! A run in the event form that the TLA+ trace validation of etcd-io/raft reads: `platform-std/docs/spec-events.md`.
//!
//! What boards are is what they show; which message of the specification a frame stands for, and which of its messages are
//! on their way, is kept count of here.

// Long because each step of the specification has its counterpart here, and all share what is kept of a board.

use std::collections::{BTreeMap, HashMap};

use quorate::entry::Entries;
use quorate::node::Node;
use quorate::raft::Role;
use quorate::wire::{self, Message};
use quorate::{EntryId, Index, NodeId, NodeSet};

use super::spec_lines::{Event, Line, Msg, State};
use super::trace::Fnv;

/// A board as it shows itself.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    role: Role,
    term: u64,
    vote: u8,
    commit: u64,
    last: EntryId,
    durable: u64,
    /// Members, and the voters of an outgoing configuration.
    conf: [NodeSet; 2],
}

impl Shown {
    pub(super) fn of(node: &Node) -> Self {
        let (raft, status) = (node.raft(), node.status());
        Self {
            role: raft.role(),
            term: raft.term().0,
            vote: raft.vote().map_or(0, NodeId::get),
            commit: raft.commit().0,
            last: status.last,
            durable: status.durable.0,
            conf: [raft.membership().members(), raft.membership().outgoing],
        }
    }
}

/// What the specification would have kept of a board: terms of its log by index.
#[derive(Clone, Debug, Default)]
struct Durable {
    term: u64,
    vote: u8,
    log: Vec<u64>,
    commit: u64,
}

impl Durable {
    fn holds(&self, index: u64, term: u64) -> bool {
        let at = (index as usize).checked_sub(1);
        at.is_none_or(|at| self.log.get(at) == Some(&term))
    }
}

/// A board as the specification has it.
#[derive(Clone, Debug, Default)]
struct Mirror {
    /// It has run before.
    known: bool,
    /// It runs.
    runs: bool,
    conf: [NodeSet; 2],
    role: Role,
    now: Durable,
    durable: Durable,
    matched: BTreeMap<u8, u64>,
    /// Up to here it knows what is committed by a vote's frame, or from who did: the specification's votes do not tell.
    hidden: u64,
}

impl Mirror {
    /// The commit index that the board shows, as the specification has it.
    fn commit(&self, shown: &Shown) -> u64 {
        if shown.commit <= self.hidden {
            self.now.commit
        } else {
            shown.commit.max(self.now.commit)
        }
    }
}

/// A request of the specification, which a frame stands for.
#[derive(Clone, Debug)]
struct Sent {
    msg: Msg,
    from: u8,
    to: u8,
    /// The term of its one entry.
    entry: Option<u64>,
    /// Received; another copy of the frame is another message.
    taken: bool,
    /// Its line.
    line: usize,
}

/// A reply of the specification, which it makes by itself.
#[derive(Clone, Debug)]
struct Reply {
    msg: Msg,
    /// Not on its way before the sender is ready.
    pending: bool,
}

/// Replies of one board to another that are remembered: of those on their way the newest tell most.
const REPLIES_MAX: usize = 256;

/// The events of a run.
#[derive(Debug, Default)]
pub struct SpecEvents {
    lines: Vec<Line>,
    boards: Vec<Mirror>,
    messages: Vec<Sent>,
    replies: BTreeMap<(u8, u8), Vec<Reply>>,
    /// Where the messages are that a frame stands for, by its hash and receiver.
    frames: HashMap<(u64, u8), Vec<usize>>,
    /// With whom the cluster was founded.
    founded: NodeSet,
    ended: bool,
}

impl SpecEvents {
    /// Events of a cluster of so many boards.
    pub fn new(boards: u8) -> Self {
        Self { founded: (1..=boards).filter_map(NodeId::new).collect(), ..Self::default() }
    }

    /// The lines, one event each.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        lines.sort_by_key(|line| line.place);
        lines.into_iter().enumerate().map(|(number, line)| line.to_json(number))
    }

    /// What happens from here on is nothing that the specification has.
    fn end(&mut self, ms: u64, why: String) {
        if !self.ended {
            self.lines.push(Line::end(self.lines.len(), ms, why));
            self.ended = true;
        }
    }

    fn mirror(&mut self, board: u8) -> &mut Mirror {
        let at = usize::from(board);
        if self.boards.len() <= at {
            self.boards.resize(at + 1, Mirror::default());
        }
        &mut self.boards[at]
    }

    /// Writes a line: what the board shows, with the specification's log and commit index where they are further.
    fn put(
        &mut self,
        ms: u64,
        name: &'static str,
        board: u8,
        shown: &Shown,
        msg: Option<Msg>,
    ) -> usize {
        let place = self.lines.len();
        let mirror = self.mirror(board);
        let state = State::new(shown.term, shown.vote, mirror.commit(shown));
        let (role, log, conf) = (shown.role, shown.last.index.0, mirror.conf);
        let event = Event::new(name, board, state, role, log, &conf, msg);
        self.lines.push(Line::event(place, ms, event));
        place
    }

    /// The same in the midst of what one frame does: as the specification has it there.
    fn put_between(&mut self, ms: u64, name: &'static str, board: u8, shown: &Shown, msg: Msg) {
        let mirror = self.mirror(board).clone();
        let last = EntryId::new(Index(mirror.now.log.len() as u64), shown.last.term);
        let shown = Shown {
            role: mirror.role,
            term: mirror.now.term,
            vote: mirror.now.vote,
            commit: mirror.now.commit,
            last,
            ..shown.clone()
        };
        self.put(ms, name, board, &shown, Some(msg));
    }

    /// A board runs: for the first time, or again with what its flash held.
    pub(super) fn booted(&mut self, ms: u64, board: u8, shown: &Shown) {
        if self.ended {
            return;
        }
        let founded = self.founded;
        let mirror = self.mirror(board);
        mirror.runs = true;
        if !mirror.known {
            mirror.known = true;
            // Who is a member is in a snapshot, which is read a little later.
            mirror.conf = [founded, NodeSet::EMPTY];
            self.put(ms, "InitState", board, shown, None);
            return;
        }
        let is = |kept: &Durable| {
            let last = shown.last;
            (kept.term, kept.vote) == (shown.term, shown.vote)
                && kept.log.len() as u64 == last.index.0
                && kept.log.last().is_none_or(|term| *term == last.term.0)
        };
        if !is(&mirror.durable) {
            if !is(&mirror.now) {
                let why = format!("board {board} comes back with a part of what it had");
                return self.end(ms, why);
            }
            // It was durable, and nothing was said since.
            let before = Shown { role: mirror.role, ..shown.clone() };
            self.ready(ms, board, &before);
        }
        let mirror = self.mirror(board);
        mirror.now = mirror.durable.clone();
        mirror.role = Role::Follower;
        mirror.matched.clear();
        mirror.hidden = 0;
        if shown.commit > mirror.now.commit {
            mirror.hidden = shown.commit;
        }
        for (_, replies) in self.replies.iter_mut().filter(|((from, _), _)| *from == board) {
            replies.retain(|reply| !reply.pending);
        }
        self.put(ms, "InitState", board, shown, None);
    }

    /// A board has lost its power.
    pub(super) fn cut(&mut self, board: u8) {
        self.mirror(board).runs = false;
    }

    /// All that the board has said so far is durable and on its way.
    fn ready(&mut self, ms: u64, board: u8, shown: &Shown) {
        for (_, replies) in self.replies.iter_mut().filter(|((from, _), _)| *from == board) {
            replies.iter_mut().for_each(|reply| reply.pending = false);
        }
        let mirror = self.mirror(board);
        mirror.durable = mirror.now.clone();
        self.put(ms, "Ready", board, shown, None);
    }

    /// Something was given to the board, or it was asked for an output: what it has become.
    pub(super) fn observe(&mut self, ms: u64, board: u8, shown: &Shown) {
        if self.ended || !self.mirror(board).runs {
            return;
        }
        let Mirror { role, conf, now: Durable { term, .. }, .. } = *self.mirror(board);
        if !shown.conf[0].is_empty() && shown.conf != conf {
            return self.end(ms, format!("board {board} has other members now"));
        }
        match shown.role {
            Role::Candidate if shown.term == term + 1 => self.stands(ms, board, shown),
            Role::Follower if shown.term == term && role != Role::Follower => {
                self.put(ms, "BecomeFollower", board, shown, None);
            }
            Role::Leader if role == Role::Candidate && shown.term == term => {
                self.wins(ms, board, shown);
            }
            _ if shown.term != term => {
                let why = format!("board {board} has heard of term {} otherwise", shown.term);
                return self.end(ms, why);
            }
            _ => {}
        }
        let mirror = self.mirror(board);
        mirror.role = shown.role;
        (mirror.now.term, mirror.now.vote) = (shown.term, shown.vote);
        if shown.role == Role::Leader {
            self.leads(ms, board, shown);
        }
    }

    fn stands(&mut self, ms: u64, board: u8, shown: &Shown) {
        let mirror = self.mirror(board);
        (mirror.now.term, mirror.now.vote) = (shown.term, shown.vote);
        self.put(ms, "BecomeCandidate", board, shown, None);
        // It asks itself, as it asks the others.
        let msg = Msg::new("MsgVoteResp", board, board, shown.term);
        self.put(ms, "SendRequestVoteResponse", board, shown, Some(msg.clone()));
        self.reply(board, board, msg);
    }

    /// A candidate's own vote counts once flash holds it.
    fn own_vote(&mut self, ms: u64, board: u8, shown: &Shown) {
        let term = shown.term;
        let own = |reply: &Reply| reply.msg.is("MsgVoteResp", term);
        if let Some(at) = self.find(board, board, own) {
            self.ready(ms, board, shown);
            self.hear(ms, "ReceiveRequestVoteResponse", board, board, shown, at);
        }
    }

    fn wins(&mut self, ms: u64, board: u8, shown: &Shown) {
        let candidate = Shown { role: Role::Candidate, ..shown.clone() };
        let before = self.mirror(board).now.log.len() as u64;
        let last = EntryId::new(Index(before), shown.last.term);
        self.own_vote(ms, board, &Shown { last, ..candidate });
        self.put(ms, "BecomeLeader", board, &Shown { last, ..shown.clone() }, None);
        let mirror = self.mirror(board);
        mirror.matched = BTreeMap::from([(board, before)]);
    }

    /// A leader: entries of its own, how far they are durable here, and what is committed by that.
    fn leads(&mut self, ms: u64, board: u8, shown: &Shown) {
        while (self.mirror(board).now.log.len() as u64) < shown.last.index.0 {
            let index = self.mirror(board).now.log.len() as u64;
            let at = |index| EntryId::new(Index(index), shown.last.term);
            let commit = self.mirror(board).now.commit;
            let before = Shown { last: at(index), commit, ..shown.clone() };
            self.put(ms, "Replicate", board, &before, None);
            self.mirror(board).now.log.push(shown.term);
            let msg = Msg { index: index + 1, ..Msg::new("MsgAppResp", board, board, shown.term) };
            let after = Shown { last: at(index + 1), ..before };
            self.put(ms, "SendAppendEntriesResponse", board, &after, Some(msg.clone()));
            self.reply(board, board, msg);
        }
        let before = Shown { commit: self.mirror(board).now.commit, ..shown.clone() };
        if shown.durable > self.mirror(board).matched.get(&board).copied().unwrap_or_default() {
            self.acknowledged(ms, board, board, shown.durable, &before);
        }
        if self.mirror(board).commit(shown) > before.commit {
            self.mirror(board).now.commit = shown.commit;
            self.put(ms, "Commit", board, shown, None);
        }
    }

    /// A leader hears how far a log is durable: of the specification's replies the one that says so.
    fn acknowledged(&mut self, ms: u64, leader: u8, from: u8, index: u64, shown: &Shown) {
        let known = self.mirror(leader).matched.get(&from).copied().unwrap_or_default();
        let fits = |reply: &Reply| {
            let said = reply.msg.is("MsgAppResp", shown.term) && !reply.msg.reject;
            said && reply.msg.index > known && reply.msg.index <= index
        };
        let replies = self.replies.get(&(from, leader)).into_iter().flatten().enumerate();
        let Some((at, reply)) =
            replies.filter(|(_, reply)| fits(reply)).max_by_key(|(_, reply)| reply.msg.index)
        else {
            return;
        };
        let (told, pending) = (reply.msg.index, reply.pending);
        if pending {
            self.ready(ms, from, shown);
        }
        self.mirror(leader).matched.insert(from, told);
        self.hear(ms, "ReceiveAppendEntriesResponse", from, leader, shown, at);
    }

    fn find(&self, from: u8, to: u8, fits: impl Fn(&Reply) -> bool) -> Option<usize> {
        self.replies.get(&(from, to))?.iter().position(fits)
    }

    /// A reply is received.
    fn hear(&mut self, ms: u64, name: &'static str, from: u8, to: u8, shown: &Shown, at: usize) {
        if let Some(replies) = self.replies.get_mut(&(from, to)) {
            let msg = replies.remove(at).msg;
            self.put(ms, name, to, shown, Some(msg));
        }
    }

    /// What the specification answers by itself.
    fn reply(&mut self, from: u8, to: u8, msg: Msg) {
        let replies = self.replies.entry((from, to)).or_default();
        if replies.len() >= REPLIES_MAX {
            replies.remove(0);
        }
        replies.push(Reply { msg, pending: true });
    }

    /// A board hands a frame to its link.
    pub(super) fn sent(&mut self, ms: u64, board: u8, bytes: &[u8], shown: &Shown) {
        let Ok(frame) = wire::decode(bytes) else { return };
        if self.ended || !self.mirror(board).runs {
            return;
        }
        let (hash, commit) = (Fnv::of(bytes), self.mirror(board).now.commit);
        let matched = self.mirror(board).matched.clone();
        let log = self.mirror(board).now.log.clone();
        for to in frame.envelope.to.iter().map(NodeId::get) {
            let matched = matched.get(&to).copied().unwrap_or_default();
            let append = |name, prev: EntryId, entries| Msg {
                log_term: prev.term.0,
                index: prev.index.0,
                commit: commit.min(prev.index.0 + entries),
                entries,
                ..Msg::new(name, board, to, shown.term)
            };
            // An append of nothing, whose receiver holds what it follows if it holds `id`.
            let nothing = |id: EntryId| {
                let index = Index(id.index.0.max(matched));
                let term = log.get((index.0 as usize).wrapping_sub(1)).copied().unwrap_or(0);
                append("MsgApp", EntryId::new(index, quorate::Term(term)), 0)
            };
            match frame.envelope.message {
                Message::VoteRequest { term, last, pre: false, .. } => {
                    let (log_term, index) = (last.term.0, last.index.0);
                    let msg = Msg { log_term, index, ..Msg::new("MsgVote", board, to, term.0) };
                    self.send(ms, "SendRequestVoteRequest", hash, msg, None, shown);
                }
                Message::Append { prev, .. } => {
                    let name = "SendAppendEntriesRequest";
                    let mut before = prev;
                    for entry in Entries::new(prev, frame.payload).flatten() {
                        let msg = append("MsgApp", before, 1);
                        self.send(ms, name, hash, msg, Some(entry.id.term.0), shown);
                        before = entry.id;
                    }
                    if before == prev {
                        self.send(ms, name, hash, append("MsgApp", prev, 0), None, shown);
                    }
                }
                Message::Heartbeat { commit: id, .. } | Message::Snapshot { id, .. } => {
                    let name = "SendAppendEntriesRequest";
                    self.send(ms, name, hash, nothing(id), None, shown);
                }
                Message::Reply { term, matched, reject, .. } => {
                    let (index, reject) = (matched.0, reject.is_some());
                    let msg = Msg { index, reject, ..Msg::new("MsgAppResp", board, to, term.0) };
                    self.put(ms, "SendAppendEntriesResponse", board, shown, Some(msg));
                }
                Message::VoteReply { term, granted, pre: false, .. } => {
                    let msg =
                        Msg { reject: !granted, ..Msg::new("MsgVoteResp", board, to, term.0) };
                    self.put(ms, "SendRequestVoteResponse", board, shown, Some(msg));
                }
                _ => return,
            }
        }
        self.ready(ms, board, shown);
        if shown.role == Role::Candidate {
            self.own_vote(ms, board, shown);
        }
    }

    fn send(
        &mut self,
        ms: u64,
        name: &'static str,
        frame: u64,
        msg: Msg,
        entry: Option<u64>,
        shown: &Shown,
    ) {
        let (from, to) = (msg.sender(), msg.receiver());
        let line = self.put(ms, name, from, shown, Some(msg.clone()));
        self.frames.entry((frame, to)).or_default().push(self.messages.len());
        self.messages.push(Sent { msg, from, to, entry, taken: false, line });
    }

    /// The messages that a frame stands for. One that has arrived before was sent twice.
    fn arriving(&mut self, bytes: &[u8], to: u8) -> Vec<usize> {
        let mut messages = self.frames.get(&(Fnv::of(bytes), to)).cloned().unwrap_or_default();
        // Equal frames were sent more than once: the newest that is on its way.
        if let Some(first) = messages.first().map(|at| self.messages[*at].msg.clone()) {
            let starts = messages.iter().filter(|at| self.messages[**at].msg == first).count();
            let each = messages.len() / starts.max(1);
            messages = messages.split_off(messages.len() - each);
        }
        messages
    }

    fn take(&mut self, at: usize) -> usize {
        let sent = self.messages[at].clone();
        if !sent.taken {
            return at;
        }
        let again = self.lines[sent.line].again();
        self.lines.push(again);
        self.messages.push(Sent { taken: false, ..sent });
        self.messages.len() - 1
    }

    /// A frame was given to the board, which showed itself as `before`, and now as `after`.
    pub(super) fn arrived(
        &mut self,
        ms: u64,
        board: u8,
        bytes: &[u8],
        before: &Shown,
        after: &Shown,
    ) {
        let Ok(frame) = wire::decode(bytes) else { return };
        let to_it = frame.envelope.to.iter().any(|to| to.get() == board);
        if self.ended || !self.mirror(board).runs || !to_it {
            return;
        }
        let from = frame.envelope.from.get();
        let hidden = match frame.envelope.message {
            Message::VoteRequest { .. } | Message::VoteReply { .. } => true,
            Message::Append { commit, .. } => commit.0 <= self.mirror(from).hidden,
            Message::Heartbeat { commit, .. } => commit.index.0 <= self.mirror(from).hidden,
            _ => false,
        };
        if hidden && after.commit > before.commit {
            self.mirror(board).hidden = after.commit;
        }
        match frame.envelope.message {
            Message::VoteRequest { pre: false, term, .. } => {
                let raised = after.term > before.term;
                // What it does not answer was not received: it hears a leader.
                if term.0 == after.term && (raised || after.vote == from) {
                    for at in self.arriving(bytes, board) {
                        self.asked(ms, board, before, at);
                    }
                }
            }
            Message::VoteReply { pre: false, term, granted, .. } => {
                self.answered(ms, board, from, term.0, granted, before);
            }
            Message::Append { .. } | Message::Heartbeat { .. } | Message::Snapshot { .. } => {
                for (number, at) in self.arriving(bytes, board).into_iter().enumerate() {
                    let Sent { msg, entry, .. } = &self.messages[at];
                    let (index, entries, log_term) = (msg.index, msg.entries, msg.log_term);
                    let more = entry.is_some() && index + entries > after.last.index.0;
                    // It would have been taken, but did not fit into the board's log any more.
                    let full = more && self.mirror(board).now.holds(index, log_term);
                    if full || !self.appended(ms, board, before, at, number > 0) {
                        break;
                    }
                }
            }
            Message::Reply { term, matched, .. } => {
                if term.0 == before.term && before.role == Role::Leader {
                    self.acknowledged(ms, board, from, matched.0, before);
                } else if term.0 > before.term {
                    self.outdated(ms, board, from, term.0, before);
                }
            }
            Message::SnapshotReply { term, .. } if term.0 > before.term => {
                self.outdated(ms, board, from, term.0, before);
            }
            _ => {}
        }
        self.observe(ms, board, after);
    }

    /// A vote is asked for (the specification's own rule, Raft §5.4.1).
    fn asked(&mut self, ms: u64, board: u8, before: &Shown, at: usize) {
        let at = self.take(at);
        self.messages[at].taken = true;
        let Sent { msg, from, .. } = self.messages[at].clone();
        self.put(ms, "ReceiveRequestVoteRequest", board, before, Some(msg.clone()));
        let mirror = self.mirror(board);
        if msg.term > mirror.now.term {
            (mirror.now.term, mirror.now.vote, mirror.role) = (msg.term, 0, Role::Follower);
        }
        let own = (mirror.now.log.last().copied().unwrap_or(0), mirror.now.log.len() as u64);
        let free = mirror.now.vote == 0 || mirror.now.vote == from;
        let grant = msg.term == mirror.now.term && free && (msg.log_term, msg.index) >= own;
        if grant {
            mirror.now.vote = from;
        }
        let term = mirror.now.term;
        self.reply(
            board,
            from,
            Msg { reject: !grant, ..Msg::new("MsgVoteResp", board, from, term) },
        );
    }

    fn answered(&mut self, ms: u64, board: u8, from: u8, term: u64, granted: bool, before: &Shown) {
        if before.role != Role::Candidate || term != before.term {
            return;
        }
        let fits = |reply: &Reply| {
            reply.msg.is("MsgVoteResp", term) && reply.msg.reject != granted && !reply.pending
        };
        if let Some(at) = self.find(from, board, fits) {
            self.hear(ms, "ReceiveRequestVoteResponse", from, board, before, at);
        }
    }

    /// An append arrives; whether it was taken.
    fn appended(&mut self, ms: u64, board: u8, before: &Shown, at: usize, between: bool) -> bool {
        let at = self.take(at);
        let name = "ReceiveAppendEntriesRequest";
        let Sent { msg, from, entry, .. } = self.messages[at].clone();
        self.messages[at].taken = true;
        if between {
            self.put_between(ms, name, board, before, msg.clone());
        } else {
            self.put(ms, name, board, before, Some(msg.clone()));
        }
        let mirror = self.mirror(board);
        if msg.term > mirror.now.term {
            (mirror.now.term, mirror.now.vote, mirror.role) = (msg.term, 0, Role::Follower);
        }
        let term = mirror.now.term;
        if mirror.role == Role::Candidate && msg.term == term {
            mirror.role = Role::Follower;
        }
        let fits = mirror.now.holds(msg.index, msg.log_term);
        let log = &mut mirror.now.log;
        if msg.term < term || !fits {
            self.reply(
                board,
                from,
                Msg { reject: true, ..Msg::new("MsgAppResp", board, from, term) },
            );
            return false;
        }
        let mut matched = mirror.now.commit;
        if msg.index + 1 > mirror.now.commit {
            matched = msg.index + msg.entries;
            if let Some(entry) = entry {
                let place = msg.index as usize;
                if log.get(place).is_some_and(|here| *here != entry) {
                    log.truncate(place);
                }
                if log.len() == place {
                    log.push(entry);
                }
            }
            mirror.now.commit = mirror.now.commit.max(msg.commit.min(matched));
        }
        self.reply(
            board,
            from,
            Msg { index: matched, ..Msg::new("MsgAppResp", board, from, term) },
        );
        true
    }

    /// A leader or candidate of the past learns the term from an answer.
    fn outdated(&mut self, ms: u64, board: u8, from: u8, term: u64, before: &Shown) {
        let fits = |reply: &Reply| reply.msg.is("MsgAppResp", term) && !reply.pending;
        if let Some(at) = self.find(from, board, fits) {
            self.hear(ms, "ReceiveAppendEntriesResponse", from, board, before, at);
            let mirror = self.mirror(board);
            (mirror.now.term, mirror.now.vote, mirror.role) = (term, 0, Role::Follower);
        }
    }

    /// A snapshot has taken the place of the board's log: the specification, whose logs are never compacted, appends what
    /// it stands for.
    pub(super) fn installed(&mut self, ms: u64, board: u8, id: EntryId, shown: &Shown) {
        if self.ended || !self.mirror(board).runs {
            return;
        }
        let whole = |sent: &&Sent| {
            sent.to == board && sent.msg.term == shown.term && sent.msg.index >= id.index.0
        };
        let Some(&Sent { from: leader, line, .. }) = self.messages.iter().rev().find(whole) else {
            return self.end(ms, format!("board {board} has a snapshot of a leader of the past"));
        };
        let entries = self.mirror(leader).now.log.clone();
        let known = self.mirror(leader).matched.get(&board).copied().unwrap_or_default();
        let prev = self.mirror(board).now.commit.max(known);
        let term_of = |index: u64| entries.get((index as usize).wrapping_sub(1)).copied();
        let msg = Msg {
            log_term: term_of(prev).unwrap_or(0),
            index: prev,
            commit: id.index.0,
            entries: id.index.0.saturating_sub(prev),
            ..Msg::new("MsgApp", leader, board, shown.term)
        };
        let sent = self.lines[line].instead(msg.clone());
        self.lines.push(sent);
        let mirror = self.mirror(board);
        let before = Shown {
            role: Role::Follower,
            commit: mirror.now.commit,
            last: EntryId::new(Index(mirror.now.log.len() as u64), id.term),
            ..shown.clone()
        };
        self.put(ms, "ReceiveAppendEntriesRequest", board, &before, Some(msg));
        let mirror = self.mirror(board);
        mirror.now.log.truncate(prev as usize);
        mirror.now.log.extend((prev + 1..=id.index.0).filter_map(term_of));
        mirror.now.commit = id.index.0;
        let term = shown.term;
        let done = Msg { index: id.index.0, ..Msg::new("MsgAppResp", board, leader, term) };
        self.reply(board, leader, done);
    }
}
