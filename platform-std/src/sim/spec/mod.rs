//! A run in the event form that the TLA+ trace validation of etcd-io/raft reads: `platform-std/docs/spec-events.md`.
//!
//! What boards are is what they show; which message of the specification a frame stands for, and which of its messages are
//! on their way, is kept count of here.

mod lines;
mod members;
mod mirror;
mod replies;
mod requests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use quorate::raft::Role;
use quorate::{EntryId, Index, NodeId};

use lines::{Event, Line, Msg, State};
use members::{Members, Registered};
pub(super) use mirror::Shown;
use mirror::{Durable, Mirror, Reply, Sent, Server};

/// The events of a run.
#[derive(Debug, Default)]
pub struct SpecEvents {
    lines: Vec<Line>,
    boards: BTreeMap<Server, Mirror>,
    messages: Vec<Sent>,
    replies: BTreeMap<(Server, Server), Vec<Reply>>,
    /// Where the messages are that a frame stands for, by its hash and receiver.
    frames: HashMap<(u64, u8), Vec<usize>>,
    /// With whom the cluster was founded.
    founded: Arc<Members>,
    /// Which server a board's life is, by number and generation.
    lives: BTreeMap<(u8, u16), Server>,
    /// Which of them each board is.
    here: BTreeMap<u8, Server>,
    /// Changes of membership by their entries' index and term.
    changes: BTreeMap<(u64, u64), Registered>,
    /// The lines in which leaders append, by index and term.
    appends: BTreeMap<(u64, u64), usize>,
    ended: bool,
}

impl SpecEvents {
    /// Events of a cluster of so many boards.
    pub fn new(boards: u8) -> Self {
        let ids = (1..=boards).filter_map(NodeId::new);
        let lives =
            ids.clone().map(|id| ((id.get(), 1), Server { board: id.get(), generation: 1 }));
        let founded = Arc::new(Members::founding(ids.clone().collect()));
        Self { founded, lives: lives.collect(), ..Self::default() }
    }

    /// The lines, one event each.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        lines.sort_by_key(|line| line.place);
        lines.into_iter().enumerate().map(|(number, line)| line.to_json(number))
    }

    /// At which millisecond, and why, the lines end before the run does, if so.
    pub fn ends_early(&self) -> Option<(u64, &str)> {
        self.lines.iter().find_map(Line::why)
    }

    /// What happens from here on is nothing that the specification has.
    fn end(&mut self, ms: u64, why: String) {
        if !self.ended {
            self.lines.push(Line::end(self.lines.len(), ms, why));
            self.ended = true;
        }
    }

    fn mirror(&mut self, server: Server) -> &mut Mirror {
        self.boards.entry(server).or_default()
    }

    /// What the board is, if it runs and the trace has not ended.
    fn running(&self, number: u8) -> Option<Server> {
        let server = self.here.get(&number).filter(|_| !self.ended)?;
        self.boards.get(server).filter(|mirror| mirror.runs).map(|_| *server)
    }

    /// Writes a line: what the board shows, with the specification's log and commit index where they are further.
    fn put(
        &mut self,
        ms: u64,
        name: &'static str,
        board: Server,
        shown: &Shown,
        msg: Option<Msg>,
    ) -> usize {
        let place = self.lines.len();
        let mirror = self.mirror(board);
        let (vote, commit) = (mirror.vote(shown), mirror.commit(shown));
        let state = State { term: shown.term, vote, commit };
        let (role, log, voters) = (shown.role, shown.last.index.0, mirror.now.members.voters());
        let event = Event::new(name, board, state, role, log, voters, msg);
        self.lines.push(Line::event(place, ms, event));
        place
    }

    /// The same in the midst of what one frame does: as the specification has it there.
    fn put_between(&mut self, ms: u64, name: &'static str, board: Server, shown: &Shown, msg: Msg) {
        let mirror = self.mirror(board).clone();
        let last = EntryId::new(Index(mirror.now.log.len() as u64), shown.last.term);
        let shown = Shown {
            role: mirror.role,
            term: mirror.now.term,
            vote: mirror.now.vote.board,
            commit: mirror.now.commit,
            last,
            ..shown.clone()
        };
        self.put(ms, name, board, &shown, Some(msg));
    }

    /// A board runs: for the first time, or again with what its flash held.
    pub(super) fn booted(&mut self, ms: u64, number: u8, shown: &Shown) {
        if self.ended {
            return;
        }
        let Some(board) = self.lives.get(&(number, shown.generation)).copied() else {
            return self
                .end(ms, format!("board {number} has a place that nobody was seen to give it"));
        };
        self.here.insert(number, board);
        let founded = self.founded.clone();
        let mirror = self.mirror(board);
        (mirror.runs, mirror.ran) = (true, true);
        if !mirror.known {
            mirror.known = true;
            // Who is a member is in a snapshot, which is read a little later.
            mirror.now.members = founded;
            mirror.durable = mirror.now.clone();
            self.put(ms, "InitState", board, shown, None);
            return;
        }
        let is = |kept: &Durable| {
            let last = shown.last;
            (kept.term, kept.vote.board) == (shown.term, shown.vote)
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
        (mirror.hidden, mirror.pending) = (0, 0);
        if shown.commit > mirror.now.commit {
            mirror.hidden = shown.commit;
        }
        for (_, replies) in self.replies.iter_mut().filter(|((from, _), _)| *from == board) {
            replies.retain(|reply| !reply.pending);
        }
        self.put(ms, "InitState", board, shown, None);
    }

    /// A board has lost its power.
    pub(super) fn cut(&mut self, number: u8) {
        if let Some(server) = self.here.get(&number).copied() {
            self.mirror(server).runs = false;
        }
    }

    /// All that the board has said so far is durable and on its way.
    fn ready(&mut self, ms: u64, board: Server, shown: &Shown) {
        for (_, replies) in self.replies.iter_mut().filter(|((from, _), _)| *from == board) {
            replies.iter_mut().for_each(|reply| reply.pending = false);
        }
        let mirror = self.mirror(board);
        mirror.durable = mirror.now.clone();
        self.put(ms, "Ready", board, shown, None);
    }

    /// Something was given to the board, or it was asked for an output: what it has become.
    pub(super) fn observe(&mut self, ms: u64, number: u8, shown: &Shown) {
        let Some(board) = self.running(number) else { return };
        self.apply_changes(ms, board, shown);
        if self.decides_otherwise(ms, board, shown) {
            return;
        }
        let Mirror { role, now: Durable { term, .. }, .. } = *self.mirror(board);
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
        (mirror.now.term, mirror.now.vote) = (shown.term, mirror.vote(shown));
        if shown.role == Role::Leader {
            self.leads(ms, board, shown);
            self.apply_changes(ms, board, shown);
        }
    }

    fn stands(&mut self, ms: u64, board: Server, shown: &Shown) {
        let mirror = self.mirror(board);
        (mirror.now.term, mirror.now.vote) = (shown.term, board);
        self.put(ms, "BecomeCandidate", board, shown, None);
        // It asks itself, as it asks the others.
        let msg = Msg::new("MsgVoteResp", board, board, shown.term);
        self.put(ms, "SendRequestVoteResponse", board, shown, Some(msg.clone()));
        self.reply(board, board, msg);
    }

    fn wins(&mut self, ms: u64, board: Server, shown: &Shown) {
        let candidate = Shown { role: Role::Candidate, ..shown.clone() };
        let before = self.mirror(board).now.log.len() as u64;
        let last = EntryId::new(Index(before), shown.last.term);
        self.own_vote(ms, board, &Shown { last, ..candidate });
        self.put(ms, "BecomeLeader", board, &Shown { last, ..shown.clone() }, None);
        let mirror = self.mirror(board);
        mirror.matched = BTreeMap::from([(board, before)]);
    }

    /// A leader: entries of its own, how far they are durable here, and what is committed by that.
    fn leads(&mut self, ms: u64, board: Server, shown: &Shown) {
        while (self.mirror(board).now.log.len() as u64) < shown.last.index.0 {
            let index = self.mirror(board).now.log.len() as u64;
            let at = |index| EntryId::new(Index(index), shown.last.term);
            let commit = self.mirror(board).now.commit;
            let before = Shown { last: at(index), commit, ..shown.clone() };
            let line = self.put(ms, "Replicate", board, &before, None);
            self.appends.insert((index + 1, shown.term), line);
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
}
