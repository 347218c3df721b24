//! What must hold at every step, whatever the script: numbers as in `core/docs/invariants.md`.

use crate::board::{Board, Record};
use quorate::event::Event;
use quorate::membership::Membership;
use quorate::raft::{ProgressState, Role};
use quorate::wire::Message;
use quorate::{EntryId, Index, NodeId, Term};
use std::collections::BTreeMap;

#[derive(Default)]
pub(crate) struct Checks {
    leaders: BTreeMap<Term, u8>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    applied: BTreeMap<Index, Record>,
    /// The log of each term's leader, which only grows (I2).
    leader_logs: BTreeMap<Term, Vec<Record>>,
    /// The configuration as of each snapshot.
    memberships: BTreeMap<Index, Membership>,
    pub(crate) impossible_frames: usize,
}

impl Checks {
    /// Everything that was applied anywhere up to `index`.
    pub(crate) fn prefix(&self, index: Index) -> Vec<Record> {
        self.applied.range(..=index).map(|(_, r)| r.clone()).collect()
    }

    /// What a snapshot says of the members.
    pub(crate) fn membership(&self, snapshot: EntryId) -> Option<Membership> {
        self.memberships.get(&snapshot.index).copied()
    }

    /// All that have applied the same entries have the same members (CC2).
    pub(crate) fn snapshot(&mut self, id: EntryId, membership: Membership) {
        let first = self.memberships.entry(id.index).or_insert(membership);
        assert_eq!(*first, membership, "I5: the members as of {id:?}");
    }

    /// State Machine Safety (I5; Raft §5.4.3).
    pub(crate) fn applied(&mut self, n: u8, record: &Record) {
        let first = self.applied.entry(record.id.index).or_insert_with(|| record.clone());
        assert_eq!(first, record, "I5: {n} applies another entry");
    }

    /// Election Safety (I1; Raft §5.2).
    pub(crate) fn event(&mut self, n: u8, event: &Event) {
        match *event {
            Event::Became { role: Role::Leader, term } => {
                let leader = *self.leaders.entry(term).or_insert(n);
                assert_eq!(leader, n, "I1: two leaders in {term:?}");
            }
            Event::ImpossibleFrame { .. } => self.impossible_frames += 1,
            _ => {}
        }
    }

    /// Durability before speech (I7), and one vote a term (I1).
    pub(crate) fn said(&mut self, board: &Board, from: NodeId, message: &Message) {
        let disk = &board.disk;
        match *message {
            Message::VoteRequest { term, last, pre, .. } => {
                assert!(disk.last().is_up_to_date(last), "I7: {from:?} claims {last:?}");
                assert!(
                    pre || (disk.term, disk.vote) == (term, Some(from)),
                    "I7: {from:?} stands before it is durable"
                );
            }
            Message::VoteReply { term, pre: false, granted: true, .. } => {
                assert!(disk.term == term && disk.vote.is_some(), "I7: {from:?} votes");
            }
            Message::Reply { term, matched, .. } if matched > Index::ZERO => {
                assert_eq!(disk.term, term, "I7: {from:?} acknowledges in a term");
                assert!(matched <= disk.last().index, "I7: {from:?} acknowledges {matched:?}");
            }
            _ => {}
        }
        if let (Message::VoteReply { pre: false, granted: true, term, .. }, Some(vote)) =
            (*message, disk.vote)
        {
            let first = *self.votes.entry((from, term)).or_insert(vote);
            assert_eq!(first, vote, "I1: {from:?} votes twice in {term:?}");
        }
    }

    /// What a board is, after each step.
    pub(crate) fn board(&mut self, board: &mut Board) {
        let (commit, applied) = (board.raft.commit(), board.raft.applied());
        let (base, last) = (board.log.base(), board.log.last());
        assert!(base.index <= board.raft.snapshot().index, "the log is cut behind {base:?}");
        assert!(applied <= commit && commit <= last.index, "{applied:?} {commit:?} {last:?}");
        assert!(base.index <= board.log.durable() && board.log.durable() <= last.index);
        assert!(last.term <= board.raft.term(), "{last:?} in {:?}", board.raft.term());
        let entries = board.entries();
        for record in entries.iter().filter(|r| r.id.index <= commit) {
            // What is committed here is what was applied anywhere (I4, I5).
            if let Some(first) = self.applied.get(&record.id.index) {
                assert_eq!(first, record, "I4: committed, but not what was applied");
            }
        }
        if board.raft.role() != Role::Leader {
            return;
        }
        for (index, first) in &self.applied {
            if *index > base.index {
                let here = entries.iter().find(|r| r.id.index == *index);
                // An old leader need not have what its successors committed.
                let newest = self.leaders.keys().next_back() == Some(&board.raft.term());
                assert!(!newest || here == Some(first), "I4: the leader lacks {:?}", first.id);
            }
        }
        let seen = self.leader_logs.entry(board.raft.term()).or_default();
        for record in &entries {
            match seen.iter().find(|r| r.id.index == record.id.index) {
                Some(first) => assert_eq!(first, record, "I2: a leader overwrote its log"),
                None => seen.push(record.clone()),
            }
        }
        let newest = seen.iter().map(|r| r.id.index).max().unwrap_or_default();
        assert!(entries.is_empty() || last.index >= newest, "I2: a leader cut its log");
        let own = board.raft.id();
        for member in board.raft.membership().members().iter().filter(|id| Some(*id) != own) {
            let progress = board.raft.progress(member).unwrap();
            let snapshot = board.raft.snapshot();
            assert!(
                progress.matched() < progress.next(),
                "PR1: {progress:?}; log behind {base:?}, snapshot {snapshot:?}"
            );
            assert!(progress.matched() <= last.index, "PR1: {progress:?}");
            if progress.state() != ProgressState::Snapshot {
                assert!(progress.next() <= last.index.next(), "PR1: {progress:?}");
            }
        }
    }

    /// The last entry that was applied anywhere.
    pub(crate) fn last_applied(&self) -> EntryId {
        self.applied.values().next_back().map_or(EntryId::ZERO, |r| r.id)
    }
}
