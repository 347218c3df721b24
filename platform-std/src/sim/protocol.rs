//! Raft's safety properties (Raft Figure 3), judged by what boards sent and what they applied.

use std::collections::{BTreeMap, BTreeSet};

use quorate::entry::{Entries, Entry, Kind};
use quorate::wire::{Frame, Message};
use quorate::{EntryId, Generation, Index, Term};

use super::rules::{Rule, Verdict};
use super::trace::Fnv;

/// What an entry is, wherever it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    hash: u64,
    /// The command that it hands out where it is applied.
    command: Option<u64>,
    /// `None` where the entry before was not in sight.
    prev_term: Option<Term>,
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    term: Term,
    /// Leaders of later terms than this must have it.
    in_term: Term,
}

/// What is at an index that some board has gone past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Command {
        term: Term,
        hash: u64,
    },
    /// A board applied what follows and nothing here: an entry of the protocol itself.
    PassedOver,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The last entry applied since the board's state was last set by a boot or a snapshot.
    applied: Option<Index>,
    /// Nothing at or below this may be applied again in this life.
    floor: Index,
}

/// What was seen of the protocol so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Protocol {
    leaders: BTreeMap<Term, u8>,
    /// Of each life of a board.
    votes: BTreeMap<(u8, Generation, Term), u8>,
    /// Terms in which a board stood for election because a leader asked it to.
    handed: BTreeSet<Term>,
    /// What the leader of a term said its log holds.
    said: BTreeMap<(Term, Index), (Term, Option<u64>)>,
    entries: BTreeMap<(Index, Term), Seen>,
    committed: BTreeMap<Index, Committed>,
    commit_said: BTreeMap<Term, Index>,
    places: BTreeMap<Index, Place>,
    boards: [Progress; 32],
    /// The newest index that any board has applied.
    frontier: Index,
    commits: u64,
}

/// The hash that stands for an entry.
pub(super) fn entry_hash(kind: Kind, data: &[u8]) -> u64 {
    let mut hash = Fnv::default();
    hash.add(&[kind as u8]);
    hash.add(data);
    hash.0
}

/// The hash of the command that an entry hands out, if it is one; what stands before a forwarded one is not part of it.
pub(super) fn command_hash(kind: Kind, data: &[u8]) -> Option<u64> {
    match kind {
        Kind::Command => Some(entry_hash(kind, data)),
        Kind::Once => {
            // Member, session, number: varints, the first one of a single byte.
            let varint =
                |data: &[u8]| data.iter().position(|byte| byte & 0x80 == 0).map(|at| at + 1);
            let session = data.get(1..)?;
            let number = session.get(varint(session)?..)?;
            let command = number.get(varint(number)?..)?;
            (session[0] != 0).then(|| entry_hash(Kind::Command, command))
        }
        _ => None,
    }
}

impl Protocol {
    /// The newest term with a leader, and who that is.
    pub(super) fn leader(&self) -> Option<(Term, u8)> {
        self.leaders.last_key_value().map(|(term, board)| (*term, *board))
    }

    /// Terms in which somebody led.
    pub(super) fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// Elections that leaders asked for, and that were won.
    pub(super) fn transfers(&self) -> u64 {
        self.handed.iter().filter(|term| self.leaders.contains_key(term)).count() as u64
    }

    /// The newest index that any board has applied.
    pub(super) const fn frontier(&self) -> Index {
        self.frontier
    }

    /// The command at `index`, if one was applied there: its term and hash.
    pub(super) fn command(&self, index: Index) -> Option<(Term, u64)> {
        match self.places.get(&index) {
            Some(Place::Command { term, hash }) => Some((*term, *hash)),
            _ => None,
        }
    }

    /// What the leader of `term` said is at `index`: the entry's term.
    pub(super) fn said(&self, term: Term, index: Index) -> Option<Term> {
        self.said.get(&(term, index)).map(|(term, _)| *term)
    }

    /// A board sent a frame.
    pub(super) fn sent(&mut self, board: u8, frame: &Frame<'_>, verdict: &mut Verdict) {
        let envelope = &frame.envelope;
        match envelope.message {
            Message::Append { term, prev, .. } => {
                self.leads(board, term, verdict);
                self.says(board, term, prev, None, None, verdict);
                let mut before = prev.term;
                for entry in Entries::new(prev, frame.payload) {
                    let Ok(Entry { id, kind, data }) = entry else {
                        verdict
                            .red(Rule::I3, board, || "sends an append of malformed entries".into());
                        break;
                    };
                    self.says(board, term, id, Some(before), Some((kind, data)), verdict);
                    before = id.term;
                }
            }
            Message::Heartbeat { term, commit, .. } => {
                self.leads(board, term, verdict);
                if commit.index > Index::ZERO {
                    self.says(board, term, commit, None, None, verdict);
                    self.says_committed(board, commit, term, verdict);
                }
            }
            Message::Snapshot { term, id, .. } => {
                self.leads(board, term, verdict);
                if id.index > Index::ZERO {
                    self.says_committed(board, id, term, verdict);
                }
            }
            Message::VoteRequest { term, pre: false, transfer, .. } => {
                if transfer {
                    self.handed.insert(term);
                }
                self.votes(board, envelope.generation, term, board, verdict);
            }
            Message::VoteReply { term, pre: false, granted: true, .. } => {
                for candidate in envelope.to.iter() {
                    self.votes(board, envelope.generation, term, candidate.get(), verdict);
                }
            }
            _ => {}
        }
    }

    /// A board acted as the leader of `term`.
    pub(super) fn leads(&mut self, board: u8, term: Term, verdict: &mut Verdict) {
        let leader = *self.leaders.entry(term).or_insert(board);
        if leader != board {
            verdict.red(Rule::I1, board, || format!("leads in {term:?}, as board {leader} does"));
        }
    }

    fn votes(
        &mut self,
        board: u8,
        life: Generation,
        term: Term,
        candidate: u8,
        verdict: &mut Verdict,
    ) {
        let first = *self.votes.entry((board, life, term)).or_insert(candidate);
        if first != candidate {
            verdict.red(Rule::I1, board, || {
                format!("votes for board {candidate} in {term:?}, after board {first}")
            });
        }
    }

    /// The leader of `term` says that its log holds `id`, with these bytes, behind an entry of `before`.
    fn says(
        &mut self,
        board: u8,
        term: Term,
        id: EntryId,
        before: Option<Term>,
        entry: Option<(Kind, &[u8])>,
        verdict: &mut Verdict,
    ) {
        if id.index == Index::ZERO {
            return;
        }
        let hash = entry.map(|(kind, data)| entry_hash(kind, data));
        let known = self.said.entry((term, id.index)).or_insert((id.term, hash));
        if known.0 != id.term || (known.1.is_some() && hash.is_some() && known.1 != hash) {
            let was = known.0;
            verdict.red(Rule::I2, board, || {
                format!(
                    "as leader of {term:?} says {id:?} where it said an entry of {was:?} before"
                )
            });
        }
        known.1 = known.1.or(hash);
        if let Some((kind, data)) = entry {
            self.holds(board, id, before, kind, data, verdict);
        }
        if let Some(committed) = self.committed.get(&id.index)
            && term > committed.in_term
            && committed.term != id.term
        {
            let Committed { term: was, in_term } = *committed;
            verdict.red(Rule::I4, board, || {
                format!("leads in {term:?} with {id:?}, but an entry of {was:?} was committed there in {in_term:?}")
            });
        }
    }

    /// A log holds an entry: what a leader sent, or what a flash image holds.
    pub(super) fn holds(
        &mut self,
        board: u8,
        id: EntryId,
        before: Option<Term>,
        kind: Kind,
        data: &[u8],
        verdict: &mut Verdict,
    ) {
        let (hash, command) = (entry_hash(kind, data), command_hash(kind, data));
        let seen = Seen { hash, command, prev_term: before };
        if let Some(Place::Command { term, hash }) = self.places.get(&id.index)
            && *term == id.term
            && command != Some(*hash)
        {
            verdict.red(Rule::I3, board, || format!("holds another entry {id:?} than was applied"));
        }
        let known = self.entries.entry((id.index, id.term)).or_insert(seen);
        let parted = |a: Option<Term>, b: Option<Term>| a.is_some() && b.is_some() && a != b;
        if known.hash != hash || parted(known.prev_term, before) {
            verdict.red(Rule::I3, board, || {
                format!("holds another entry {id:?} than was seen before")
            });
        }
        known.prev_term = known.prev_term.or(before);
    }

    /// `id` is committed, as the leader of `in_term` said or as a board showed by applying it.
    fn says_committed(&mut self, board: u8, id: EntryId, in_term: Term, verdict: &mut Verdict) {
        let said = self.commit_said.entry(in_term).or_default();
        *said = (*said).max(id.index);
        self.fixes(board, id, in_term, verdict);
    }

    fn fixes(&mut self, board: u8, id: EntryId, in_term: Term, verdict: &mut Verdict) {
        let fresh = Committed { term: id.term, in_term };
        let known = self.committed.entry(id.index).or_insert(fresh);
        if known.term != id.term {
            let was = known.term;
            verdict.red(Rule::I5, board, || {
                format!("takes {id:?} for committed, where an entry of {was:?} is committed")
            });
        }
        known.in_term = known.in_term.min(in_term);
    }

    /// A board booted: its state is empty.
    pub(super) fn booted(&mut self, board: u8) {
        self.boards[usize::from(board)] = Progress::default();
    }

    /// A board's state was replaced by a snapshot's.
    pub(super) fn restored(&mut self, board: u8) {
        let progress = &mut self.boards[usize::from(board)];
        progress.floor = progress.floor.max(progress.applied.unwrap_or_default());
        progress.applied = None;
    }

    /// A board applied the command `data`.
    pub(super) fn applied(&mut self, board: u8, id: EntryId, data: &[u8], verdict: &mut Verdict) {
        let hash = entry_hash(Kind::Command, data);
        let progress = &mut self.boards[usize::from(board)];
        let last = progress.applied.unwrap_or(progress.floor);
        if id.index <= last {
            verdict.red(Rule::I5, board, || format!("applies {id:?} after index {last}"));
        }
        let passed_from = progress.applied.map_or(id.index, |last| last.next());
        progress.applied = Some(id.index);
        for passed in passed_from.0..id.index.0 {
            let place = self.places.entry(Index(passed)).or_insert(Place::PassedOver);
            if *place != Place::PassedOver {
                verdict.red(Rule::I5, board, || {
                    format!("applies {id:?} and leaves out index {passed}")
                });
            }
        }
        let fresh = Place::Command { term: id.term, hash };
        self.commits += u64::from(!self.places.contains_key(&id.index));
        let place = *self.places.entry(id.index).or_insert(fresh);
        if place != fresh {
            verdict.red(Rule::I5, board, || {
                format!("applies {id:?}, where another board found {place:?}")
            });
        }
        self.frontier = self.frontier.max(id.index);
        let newest = self.leaders.keys().next_back().copied().unwrap_or(id.term);
        let said = self.commit_said.iter().find(|(_, upto)| **upto >= id.index);
        let in_term = said.map_or(newest, |(term, _)| *term).max(id.term);
        let seen = self.entries.get(&(id.index, id.term));
        if seen.is_some_and(|seen| seen.command != Some(hash)) {
            verdict.red(Rule::I3, board, || {
                format!("applies another entry {id:?} than was seen before")
            });
        }
        self.fixes(board, id, in_term, verdict);
    }

    /// Commands that some board has applied.
    pub(super) const fn commits(&self) -> u64 {
        self.commits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::wire::Envelope;
    use quorate::{ClusterId, NodeId, NodeSet};

    fn id(index: u64, term: u64) -> EntryId {
        EntryId::new(Index(index), Term(term))
    }

    /// An entry as it is encoded: a command of this data, with its term if it is given.
    fn raw(term: Option<u8>, data: &[u8]) -> Vec<u8> {
        let len = data.len() as u8;
        let head = term.map_or(vec![len], |term| vec![0x84, len, term]);
        [&head, data].concat()
    }

    #[derive(Default)]
    struct History {
        protocol: Protocol,
        verdict: Verdict,
    }

    impl History {
        fn send(&mut self, from: u8, to: u8, message: Message, payload: &[u8]) {
            let envelope = Envelope {
                cluster: ClusterId::default(),
                to: NodeSet::one(NodeId::new(to).unwrap()),
                from: NodeId::new(from).unwrap(),
                generation: Generation(1),
                message,
            };
            self.protocol.sent(from, &Frame { envelope, payload }, &mut self.verdict);
        }

        fn append(&mut self, from: u8, term: u64, prev: EntryId, payload: &[u8]) {
            let message = Message::Append { term: Term(term), prev, commit: Index::ZERO };
            self.send(from, 9, message, payload);
        }

        fn heartbeat(&mut self, from: u8, term: u64, commit: EntryId) {
            let message = Message::Heartbeat { term: Term(term), commit, round: 1, reply: true };
            self.send(from, 9, message, &[]);
        }

        fn vote(&mut self, from: u8, to: u8, term: u64, pre: bool) {
            self.send(
                from,
                to,
                Message::VoteReply { term: Term(term), commit: EntryId::ZERO, pre, granted: true },
                &[],
            );
        }

        fn apply(&mut self, board: u8, id: EntryId, data: &[u8]) {
            self.protocol.applied(board, id, data, &mut self.verdict);
        }

        fn rules(&self) -> Vec<Rule> {
            self.verdict.violations().iter().map(|violation| violation.rule).collect()
        }
    }

    #[test]
    fn a_sound_history_is_not_blamed() {
        let mut history = History::default();
        history.vote(2, 1, 1, false);
        history.vote(2, 1, 1, false);
        history.append(1, 1, id(0, 0), &[raw(Some(1), b"a"), raw(None, b"b")].concat());
        history.append(1, 1, id(1, 1), &raw(None, b"b"));
        history.heartbeat(1, 1, id(2, 1));
        for board in [1, 2] {
            history.apply(board, id(1, 1), b"a");
            history.apply(board, id(2, 1), b"b");
        }
        // A deposed leader's own entry, overwritten by the next leader before it was committed.
        history.append(1, 1, id(2, 1), &raw(None, b"gone"));
        history.append(2, 2, id(2, 1), &raw(Some(2), b"c"));
        history.apply(2, id(3, 2), b"c");
        history.append(1, 1, id(2, 1), &raw(None, b"gone"));
        // A board that boots applies again from its snapshot on.
        history.protocol.booted(1);
        history.protocol.restored(1);
        history.apply(1, id(3, 2), b"c");
        assert_eq!(history.rules(), []);
        assert_eq!(history.protocol.leader(), Some((Term(2), 2)));
        assert_eq!(history.protocol.frontier(), Index(3));
    }

    #[test]
    fn two_leaders_in_a_term_break_election_safety() {
        let mut history = History::default();
        history.heartbeat(1, 3, id(0, 0));
        history.heartbeat(2, 3, id(0, 0));
        assert_eq!(history.rules(), [Rule::I1]);
    }

    #[test]
    fn a_second_vote_in_a_term_breaks_election_safety_and_a_pre_vote_does_not() {
        let mut history = History::default();
        history.vote(3, 1, 2, false);
        history.vote(3, 2, 2, true);
        assert_eq!(history.rules(), []);
        history.vote(3, 2, 2, false);
        assert_eq!(history.rules(), [Rule::I1]);
        let mut candidate = History::default();
        let message = Message::VoteRequest {
            term: Term(2),
            last: id(0, 0),
            commit: EntryId::ZERO,
            pre: false,
            transfer: false,
        };
        candidate.send(3, 9, message, &[]);
        candidate.vote(3, 1, 2, false);
        assert_eq!(candidate.rules(), [Rule::I1]);
    }

    #[test]
    fn a_leader_that_changes_its_own_entry_breaks_append_only() {
        let mut history = History::default();
        history.append(1, 2, id(0, 0), &raw(Some(2), b"a"));
        history.append(1, 2, id(0, 0), &raw(Some(2), b"b"));
        assert!(history.rules().contains(&Rule::I2));
        let mut history = History::default();
        history.append(1, 3, id(1, 1), &raw(Some(3), b"a"));
        history.append(1, 3, id(1, 2), &raw(Some(3), b"a"));
        assert!(history.rules().contains(&Rule::I2));
    }

    #[test]
    fn one_id_for_two_entries_or_two_predecessors_breaks_log_matching() {
        let mut history = History::default();
        history.append(1, 1, id(1, 1), &raw(None, b"a"));
        history.append(2, 2, id(1, 1), &raw(None, b"b"));
        assert_eq!(history.rules(), [Rule::I3]);
        let mut history = History::default();
        history.append(1, 3, id(1, 1), &raw(Some(2), b"a"));
        history.append(2, 4, id(1, 0), &raw(Some(2), b"a"));
        assert_eq!(history.rules(), [Rule::I3]);
        let mut flash = History::default();
        flash.append(1, 1, id(0, 0), &raw(Some(1), b"a"));
        flash.protocol.holds(2, id(1, 1), None, Kind::Command, b"x", &mut flash.verdict);
        assert_eq!(flash.rules(), [Rule::I3]);
    }

    #[test]
    fn a_later_leader_without_a_committed_entry_breaks_completeness() {
        let mut history = History::default();
        history.append(1, 1, id(0, 0), &raw(Some(1), b"a"));
        history.heartbeat(1, 1, id(1, 1));
        history.append(2, 2, id(0, 0), &raw(Some(2), b"b"));
        assert_eq!(history.rules(), [Rule::I4]);
        // By an applied command alone, without any heartbeat.
        let mut history = History::default();
        history.append(1, 1, id(0, 0), &raw(Some(1), b"a"));
        history.apply(1, id(1, 1), b"a");
        history.append(2, 2, id(1, 2), &raw(None, b"c"));
        assert_eq!(history.rules(), [Rule::I4]);
    }

    #[test]
    fn two_commands_at_one_index_break_state_machine_safety() {
        let mut history = History::default();
        history.apply(1, id(1, 1), b"a");
        history.apply(2, id(1, 2), b"b");
        assert!(history.rules().contains(&Rule::I5));
    }

    #[test]
    fn applying_twice_or_out_of_order_or_with_a_gap_breaks_state_machine_safety() {
        let apply = |ids: &[(u8, u64)]| {
            let mut history = History::default();
            ids.iter().for_each(|(board, index)| history.apply(*board, id(*index, 1), b"a"));
            history.rules()
        };
        assert_eq!(apply(&[(1, 1), (1, 2)]), []);
        assert_eq!(apply(&[(1, 1), (1, 1)]), [Rule::I5]);
        assert_eq!(apply(&[(1, 2), (1, 1)]), [Rule::I5]);
        assert_eq!(apply(&[(1, 1), (1, 2), (1, 3), (2, 1), (2, 3)]), [Rule::I5]);
        assert_eq!(apply(&[(2, 1), (2, 3), (1, 1), (1, 2)]), [Rule::I5]);
    }

    #[test]
    fn a_restored_snapshot_does_not_allow_to_apply_again_what_was_applied_before() {
        let mut history = History::default();
        history.apply(1, id(1, 1), b"a");
        history.apply(1, id(2, 1), b"b");
        history.protocol.restored(1);
        history.apply(1, id(2, 1), b"b");
        assert_eq!(history.rules(), [Rule::I5]);
    }

    #[test]
    fn two_commit_claims_for_one_index_break_state_machine_safety() {
        let mut history = History::default();
        history.heartbeat(1, 2, id(4, 1));
        history.heartbeat(2, 3, id(4, 3));
        assert!(history.rules().contains(&Rule::I5));
    }
}
