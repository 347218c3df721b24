//! Replies: the specification makes them by itself, and one of ours stands for all that came before it.

use super::SpecEvents;
use super::lines::Msg;
use super::mirror::{REPLIES_MAX, Reply, Server, Shown};
use quorate::raft::Role;

impl SpecEvents {
    /// A candidate's own vote counts once flash holds it.
    pub(super) fn own_vote(&mut self, ms: u64, board: Server, shown: &Shown) {
        let term = shown.term;
        let own = |reply: &Reply| reply.msg.is("MsgVoteResp", term);
        if let Some(at) = self.find(board, board, own) {
            self.ready(ms, board, shown);
            self.hear(ms, "ReceiveRequestVoteResponse", board, board, shown, at);
        }
    }

    /// A leader hears how far a log is durable: of the specification's replies the one that says so.
    pub(super) fn acknowledged(
        &mut self,
        ms: u64,
        leader: Server,
        from: Server,
        index: u64,
        shown: &Shown,
    ) {
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

    pub(super) fn find(
        &self,
        from: Server,
        to: Server,
        fits: impl Fn(&Reply) -> bool,
    ) -> Option<usize> {
        self.replies.get(&(from, to))?.iter().position(fits)
    }

    /// A reply is received.
    pub(super) fn hear(
        &mut self,
        ms: u64,
        name: &'static str,
        from: Server,
        to: Server,
        shown: &Shown,
        at: usize,
    ) {
        if let Some(replies) = self.replies.get_mut(&(from, to)) {
            let msg = replies.remove(at).msg;
            self.put(ms, name, to, shown, Some(msg));
        }
    }

    /// What the specification answers by itself.
    pub(super) fn reply(&mut self, from: Server, to: Server, msg: Msg) {
        let replies = self.replies.entry((from, to)).or_default();
        if replies.len() >= REPLIES_MAX {
            replies.remove(0);
        }
        replies.push(Reply { msg, pending: true });
    }

    pub(super) fn answered(
        &mut self,
        ms: u64,
        board: Server,
        from: Server,
        term: u64,
        granted: bool,
        before: &Shown,
    ) {
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

    /// A leader or candidate of the past learns the term from an answer.
    pub(super) fn outdated(
        &mut self,
        ms: u64,
        board: Server,
        from: Server,
        term: u64,
        before: &Shown,
    ) {
        let fits = |reply: &Reply| reply.msg.is("MsgAppResp", term) && !reply.pending;
        if let Some(at) = self.find(from, board, fits) {
            self.hear(ms, "ReceiveAppendEntriesResponse", from, board, before, at);
            let mirror = self.mirror(board);
            (mirror.now.term, mirror.now.vote, mirror.role) =
                (term, Server::NOBODY, Role::Follower);
        }
    }
}
