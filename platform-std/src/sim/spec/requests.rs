//! Requests: what the frames stand for that boards hand to their links and receive, and snapshots.

use quorate::entry::Entries;
use quorate::raft::Role;
use quorate::wire::{self, Message};
use quorate::{EntryId, Index};

use super::SpecEvents;
use super::lines::Msg;
use super::mirror::{Sent, Server, Shown};
use crate::sim::trace::Fnv;

impl SpecEvents {
    /// A board hands a frame to its link.
    pub(in crate::sim) fn sent(&mut self, ms: u64, number: u8, bytes: &[u8], shown: &Shown) {
        let (Ok(frame), Some(board)) = (wire::decode(bytes), self.running(number)) else { return };
        if let Message::Append { prev, .. } = frame.envelope.message {
            self.propose(ms, board, Entries::new(prev, frame.payload));
        }
        if self.ended {
            return;
        }
        let members = self.mirror(board).now.members.clone();
        let (hash, commit) = (Fnv::of(bytes), self.mirror(board).now.commit);
        let matched = self.mirror(board).matched.clone();
        let log = self.mirror(board).now.log.clone();
        for id in frame.envelope.to.iter() {
            // Answers are the specification's own, whomever they are to.
            let Some(to) = members.server(id).or_else(|| self.here.get(&id.get()).copied()) else {
                continue;
            };
            let is_member = members.has(to);
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
                Message::VoteRequest { term, last, pre: false, .. } if is_member => {
                    let (log_term, index) = (last.term.0, last.index.0);
                    let msg = Msg { log_term, index, ..Msg::new("MsgVote", board, to, term.0) };
                    self.send(ms, "SendRequestVoteRequest", hash, msg, None, shown);
                }
                Message::Append { prev, .. } if is_member => {
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
                Message::Heartbeat { commit: id, .. } | Message::Snapshot { id, .. }
                    if is_member =>
                {
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

    pub(super) fn send(
        &mut self,
        ms: u64,
        name: &'static str,
        frame: u64,
        msg: Msg,
        entry: Option<u64>,
        shown: &Shown,
    ) {
        let (from, to) = (msg.from, msg.to);
        let line = self.put(ms, name, from, shown, Some(msg.clone()));
        self.frames.entry((frame, to.board)).or_default().push(self.messages.len());
        self.messages.push(Sent { msg, from, to, entry, taken: false, line });
    }

    /// The messages that a frame stands for. One that has arrived before was sent twice.
    pub(super) fn arriving(&mut self, bytes: &[u8], to: Server) -> Vec<usize> {
        let frames = self.frames.get(&(Fnv::of(bytes), to.board));
        let mut messages = frames.cloned().unwrap_or_default();
        messages.retain(|at| self.messages[*at].msg.to == to);
        // Equal frames were sent more than once: the newest that is on its way.
        if let Some(first) = messages.first().map(|at| self.messages[*at].msg.clone()) {
            let starts = messages.iter().filter(|at| self.messages[**at].msg == first).count();
            let each = messages.len() / starts.max(1);
            messages = messages.split_off(messages.len() - each);
        }
        messages
    }

    /// The sender means another life of this board.
    fn is_for_another(&self, bytes: &[u8], to: Server) -> bool {
        let messages = self.frames.get(&(Fnv::of(bytes), to.board)).into_iter().flatten();
        let mut of_board = messages.map(|at| self.messages[*at].msg.to).peekable();
        of_board.peek().is_some() && of_board.all(|other| other != to)
    }

    pub(super) fn take(&mut self, at: usize) -> usize {
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
    pub(in crate::sim) fn arrived(
        &mut self,
        ms: u64,
        number: u8,
        bytes: &[u8],
        before: &Shown,
        after: &Shown,
    ) {
        let (Ok(frame), Some(board)) = (wire::decode(bytes), self.running(number)) else { return };
        let life = (frame.envelope.from.get(), frame.envelope.generation.0);
        let Some(from) = self.lives.get(&life).copied() else {
            // A board without a place asks for one.
            return self.observe(ms, number, after);
        };
        if !frame.envelope.to.iter().any(|to| to.get() == number) {
            return;
        }
        if self.is_for_another(bytes, board) {
            // Nobody hears of it what becomes of it.
            let mirror = self.mirror(board);
            (mirror.displaced, mirror.runs) = (true, false);
            return;
        }
        if self.mirror(from).displaced
            && self.mirror(board).now.members.has(from)
            && matches!(frame.envelope.message, Message::Reply { .. } | Message::VoteReply { .. })
        {
            return self.end(ms, format!("board {board} hears {from}, whose place is another's"));
        }
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
                if term.0 == after.term && (raised || after.vote == from.board) {
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
        self.observe(ms, number, after);
    }

    /// A vote is asked for (the specification's own rule, Raft §5.4.1).
    pub(super) fn asked(&mut self, ms: u64, board: Server, before: &Shown, at: usize) {
        let at = self.take(at);
        self.messages[at].taken = true;
        let Sent { msg, from, .. } = self.messages[at].clone();
        self.put(ms, "ReceiveRequestVoteRequest", board, before, Some(msg.clone()));
        let mirror = self.mirror(board);
        if msg.term > mirror.now.term {
            (mirror.now.term, mirror.now.vote, mirror.role) =
                (msg.term, Server::NOBODY, Role::Follower);
        }
        let own = (mirror.now.log.last().copied().unwrap_or(0), mirror.now.log.len() as u64);
        let free = mirror.now.vote == Server::NOBODY || mirror.now.vote == from;
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

    /// An append arrives; whether it was taken.
    pub(super) fn appended(
        &mut self,
        ms: u64,
        board: Server,
        before: &Shown,
        at: usize,
        between: bool,
    ) -> bool {
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
            (mirror.now.term, mirror.now.vote, mirror.role) =
                (msg.term, Server::NOBODY, Role::Follower);
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

    /// A snapshot has taken the place of the board's log: the specification, whose logs are never compacted, appends what
    /// it stands for.
    pub(in crate::sim) fn installed(&mut self, ms: u64, number: u8, id: EntryId, shown: &Shown) {
        let Some(board) = self.running(number) else { return };
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
