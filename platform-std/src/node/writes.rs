//! Writes from when they are asked for until it is known what became of them.
//!
//! A write waits for a leader; becomes an entry, by this node's own hand or by the leader's; and is answered when this node applies
//! that very entry. If another entry takes its place it is not in any log any more that could commit, and begins anew. What
//! may be an entry somewhere and is not seen in time is unknown: it is not sent again. Only where the leader can't be asked
//! (a wire of boards), the core itself sends it, again and again, and lets it take effect once (`Node::forward`).

use std::collections::{BTreeMap, HashMap, VecDeque};

use quorate::change::{Step, What};
use quorate::membership::Membership;
use quorate::node::{ForwardError, Node, Outcome as Forwarded, ProposalId};
use quorate::typed::Outcome;
use quorate::{EntryId, Index, NodeId, Term};
use tokio::time::Instant;

use super::handle::{ChangeError, Write, WriteError, Written};
use super::link::Links;
use super::question::{Answer, Leader, Question};
use super::report::Counts;

/// Outcomes that are kept for an answer that comes late.
const RECENT_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct Writes {
    /// In no log.
    waiting: VecDeque<Write>,
    /// That leader was asked.
    asked: HashMap<u64, (NodeId, Write)>,
    /// In a log as that entry.
    placed: BTreeMap<(Index, Term), Write>,
    /// In the core's hands.
    forwarded: Option<(ProposalId, Write)>,
    recent: VecDeque<(EntryId, Outcome)>,
    number: u64,
}

fn key(id: EntryId) -> (Index, Term) {
    (id.index, id.term)
}

impl Writes {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        let forwarded = usize::from(self.forwarded.is_some());
        self.waiting.len() + self.asked.len() + self.placed.len() + forwarded
    }

    pub(super) fn put(&mut self, write: Write) {
        self.waiting.push_back(write);
    }

    /// Gets those on their way that wait for it.
    pub(super) fn advance(
        &mut self,
        node: &mut Node,
        links: &mut Links,
        leader: Leader,
        now: quorate::Instant,
        counts: &mut Counts,
    ) {
        while let Some(write) = self.waiting.pop_front() {
            // Nobody waits for it any more, and it is in no log.
            if write.answer.is_closed() {
                continue;
            }
            let put_back = match leader {
                Leader::None => Some(write),
                Leader::Here => {
                    let answer = write.question.place(node);
                    self.answered(write, answer, counts)
                }
                Leader::There(id) if links.can_ask() => {
                    self.number += 1;
                    if links.ask(id, self.number, write.question.encode()) {
                        self.asked.insert(self.number, (id, write));
                        None
                    } else {
                        Some(write)
                    }
                }
                Leader::There(id) => self.forward(write, id.get(), node, now, counts),
            };
            if let Some(write) = put_back {
                self.waiting.push_front(write);
                return;
            }
        }
    }

    /// What has become of a write at first; the write itself if it has to wait.
    fn answered(&mut self, write: Write, answer: Answer, counts: &mut Counts) -> Option<Write> {
        match answer {
            Answer::Placed(id) => {
                self.placed.insert(key(id), write);
            }
            Answer::NotNow => return Some(write),
            Answer::TooLarge { bytes_max } => {
                let what = format!("a command has at most {bytes_max} bytes");
                resolve(write, Err(ChangeError::Write(WriteError::TooLarge { what })), counts);
            }
            Answer::Refused(why) => resolve(write, Err(ChangeError::Refused(why)), counts),
        }
        None
    }

    fn forward(
        &mut self,
        write: Write,
        leader: u8,
        node: &mut Node,
        now: quorate::Instant,
        counts: &mut Counts,
    ) -> Option<Write> {
        let Question::Command(command) = &write.question else {
            let own = node.status().id.map_or(0, NodeId::get);
            let why = format!(
                "this has to be asked of the leader, node {leader}; or of this one, once it leads (quorate transfer {own})"
            );
            resolve(write, Err(ChangeError::Refused(why)), counts);
            return None;
        };
        let left = write.deadline.saturating_duration_since(Instant::now());
        let until = now.after(u32::try_from(left.as_millis()).unwrap_or(u32::MAX));
        match node.forward(command, until) {
            Ok(id) => {
                self.forwarded = Some((id, write));
                None
            }
            Err(ForwardError::TooLarge { bytes_max }) => {
                self.answered(write, Answer::TooLarge { bytes_max }, counts)
            }
            // Its turn comes, or its time is up.
            Err(_) => Some(write),
        }
    }

    /// The leader has answered a question; the write goes on here, unless its time was up.
    pub(super) fn leader_answered(
        &mut self,
        number: u64,
        answer: Answer,
        applied: Index,
        counts: &mut Counts,
    ) {
        let Some((_, write)) = self.asked.remove(&number) else { return };
        if let Answer::Placed(id) = answer
            && id.index <= applied
        {
            // The entry was faster than the answer.
            return match self.outcome(id) {
                Some(outcome) => resolve(write, written(Some(id), outcome), counts),
                None => unknown(write, true, counts),
            };
        }
        if let Some(write) = self.answered(write, answer, counts) {
            self.waiting.push_back(write);
        }
    }

    /// The connection is gone, and with it the answers: what was asked may be an entry.
    pub(super) fn lost(&mut self, peer: NodeId, counts: &mut Counts) {
        for (_, (_, write)) in self.asked.extract_if(|_, (asked, _)| *asked == peer) {
            unknown(write, true, counts);
        }
    }

    /// What came of the entry with this id, if it was applied here not long ago.
    fn outcome(&self, id: EntryId) -> Option<Outcome> {
        let found = self.recent.iter().rev().find(|(recent, _)| *recent == id);
        found.map(|(_, outcome)| *outcome)
    }

    /// A command was applied.
    pub(super) fn applied(&mut self, id: EntryId, outcome: Outcome, counts: &mut Counts) {
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((id, outcome));
        if let Some(write) = self.placed.remove(&key(id)) {
            resolve(write, written(Some(id), outcome), counts);
        }
        self.displaced(id);
    }

    /// Others at the place of this entry are in no log that could commit.
    fn displaced(&mut self, id: EntryId) {
        let at = (id.index, Term::ZERO)..=(id.index, Term(u64::MAX));
        let others: Vec<_> = self.placed.range(at).map(|(key, _)| *key).collect();
        for other in others.into_iter().filter(|other| *other != key(id)) {
            self.waiting.extend(self.placed.remove(&other));
        }
    }

    /// Everything up to this entry was applied here, one entry after the other.
    pub(super) fn applied_up_to(
        &mut self,
        index: Index,
        membership: &Membership,
        counts: &mut Counts,
    ) {
        while let Some(entry) = self.placed.first_entry().filter(|entry| entry.key().0 <= index) {
            let (at, term) = *entry.key();
            let write = entry.remove();
            match &write.question {
                // The application was not handed it: another kind of entry stands there.
                Question::Command(_) => self.waiting.push_back(write),
                Question::Change { steps, .. } => {
                    let answer = if steps.iter().all(|step| is_as_wanted(step, membership)) {
                        let id = Some(EntryId::new(at, term));
                        Ok(Written { id, revision: None, changed: true })
                    } else {
                        let why = "it did not take effect: look at the members, and ask again";
                        Err(ChangeError::Refused(why.into()))
                    };
                    resolve(write, answer, counts);
                }
            }
        }
    }

    /// A snapshot covers entries that this node has not seen.
    pub(super) fn restored(&mut self, covered: Index, counts: &mut Counts) {
        self.recent.clear();
        while let Some(entry) = self.placed.first_entry().filter(|entry| entry.key().0 <= covered) {
            unknown(entry.remove(), true, counts);
        }
    }

    /// The core knows what became of what it forwarded.
    pub(super) fn core_answered(
        &mut self,
        id: ProposalId,
        outcome: Forwarded,
        counts: &mut Counts,
    ) {
        let Some((_, write)) = self.forwarded.take_if(|(forwarded, _)| *forwarded == id) else {
            return;
        };
        match outcome {
            Forwarded::Applied { id: Some(id) } => match self.outcome(id) {
                Some(outcome) => resolve(write, written(Some(id), outcome), counts),
                None => unknown(write, true, counts),
            },
            Forwarded::Applied { id: None } => {
                let written = Written { id: None, revision: None, changed: true };
                resolve(write, Ok(written), counts);
            }
            Forwarded::Unknown => unknown(write, true, counts),
        }
    }

    /// Gives up what was not seen in time.
    pub(super) fn sweep(&mut self, now: Instant, counts: &mut Counts) {
        let over = |write: &Write| write.deadline <= now || write.answer.is_closed();
        for _ in 0..self.waiting.len() {
            let Some(write) = self.waiting.pop_front() else { break };
            if over(&write) {
                unknown(write, false, counts);
            } else {
                self.waiting.push_back(write);
            }
        }
        let asked = self.asked.extract_if(|_, (_, write)| over(write));
        let mut given_up: Vec<_> = asked.map(|(_, (_, write))| write).collect();
        let late: Vec<_> =
            self.placed.iter().filter(|(_, write)| over(write)).map(|(key, _)| *key).collect();
        given_up.extend(late.into_iter().filter_map(|key| self.placed.remove(&key)));
        for write in given_up {
            unknown(write, true, counts);
        }
    }
}

/// Did this step take effect? In a joint configuration who is on the way out is so already.
fn is_as_wanted(step: &Step, membership: &Membership) -> bool {
    let voter = membership.voters.contains(step.id);
    let learner = membership.learners.union(membership.learners_next).contains(step.id);
    match step.what {
        What::AddVoter => voter,
        What::AddLearner => learner,
        What::Remove => !voter && !learner,
        What::Update | What::Admit { .. } => voter || learner,
    }
}

fn written(id: Option<EntryId>, outcome: Outcome) -> Result<Written, ChangeError> {
    match outcome {
        Outcome::Done { revision } => Ok(Written { id, revision: Some(revision), changed: true }),
        Outcome::Unchanged { revision } => {
            Ok(Written { id, revision: Some(revision), changed: false })
        }
        refused => Err(ChangeError::Write(WriteError::Refused(refused))),
    }
}

fn unknown(write: Write, proposed: bool, counts: &mut Counts) {
    resolve(write, Err(ChangeError::Write(WriteError::Unknown { proposed })), counts);
}

fn resolve(write: Write, answer: Result<Written, ChangeError>, counts: &mut Counts) {
    match &answer {
        Ok(_) => counts.writes_done += 1,
        Err(ChangeError::Write(WriteError::Unknown { .. })) => counts.writes_unknown += 1,
        Err(_) => counts.writes_refused += 1,
    }
    // Who asked may be gone.
    let _ = write.answer.send(answer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::NodeSet;
    use std::time::Duration;
    use tokio::sync::oneshot;

    type Answered = oneshot::Receiver<Result<Written, ChangeError>>;

    fn write(question: Question) -> (Write, Answered) {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(60);
        (Write { question, deadline, answer }, answered)
    }

    fn command() -> (Write, Answered) {
        write(Question::Command(b"x".to_vec()))
    }

    fn entry(index: u64, term: u64) -> EntryId {
        EntryId::new(Index(index), Term(term))
    }

    const DONE: Outcome = Outcome::Done { revision: 7 };

    fn unknown_error(proposed: bool) -> Result<Written, ChangeError> {
        Err(ChangeError::Write(WriteError::Unknown { proposed }))
    }

    #[test]
    fn a_write_is_answered_by_its_own_entry_and_begins_anew_where_another_stands() {
        let (mut writes, mut counts) = (Writes::default(), Counts::default());
        let (own, mut own_answer) = command();
        let (other, mut other_answer) = command();
        writes.placed.insert(key(entry(5, 2)), own);
        writes.placed.insert(key(entry(5, 1)), other);
        writes.applied(entry(5, 2), DONE, &mut counts);
        let written = Written { id: Some(entry(5, 2)), revision: Some(7), changed: true };
        assert_eq!(own_answer.try_recv(), Ok(Ok(written)));
        assert!(other_answer.try_recv().is_err());
        assert_eq!((writes.waiting.len(), writes.placed.len()), (1, 0));
        // The same where what stands there is no command.
        let (third, _third_answer) = command();
        writes.placed.insert(key(entry(6, 1)), third);
        writes.applied_up_to(Index(6), &Membership::default(), &mut counts);
        assert_eq!((writes.waiting.len(), writes.placed.len()), (2, 0));
    }

    #[test]
    fn what_the_leader_was_asked_is_unknown_when_its_connection_is_lost() {
        let (mut writes, mut counts) = (Writes::default(), Counts::default());
        let id = |id| NodeId::new(id).unwrap();
        let (lost, mut lost_answer) = command();
        let (kept, mut kept_answer) = command();
        writes.asked.insert(1, (id(2), lost));
        writes.asked.insert(2, (id(3), kept));
        writes.lost(id(2), &mut counts);
        assert_eq!(lost_answer.try_recv(), Ok(unknown_error(true)));
        assert!(kept_answer.try_recv().is_err());
        // Its answer, should it come after all, changes nothing.
        writes.leader_answered(1, Answer::NotNow, Index(0), &mut counts);
        assert_eq!((writes.waiting.len(), writes.asked.len()), (0, 1));
        // One that was certainly not appended is asked again.
        writes.leader_answered(2, Answer::NotNow, Index(0), &mut counts);
        assert_eq!((writes.waiting.len(), writes.asked.len()), (1, 0));
    }

    #[test]
    fn an_answer_that_comes_after_its_entry_still_tells_what_became_of_it() {
        let (mut writes, mut counts) = (Writes::default(), Counts::default());
        let leader = NodeId::new(2).unwrap();
        let (seen, mut seen_answer) = command();
        let (unseen, mut unseen_answer) = command();
        writes.asked.insert(1, (leader, seen));
        writes.asked.insert(2, (leader, unseen));
        writes.applied(entry(9, 3), DONE, &mut counts);
        writes.leader_answered(1, Answer::Placed(entry(9, 3)), Index(9), &mut counts);
        writes.leader_answered(2, Answer::Placed(entry(8, 3)), Index(9), &mut counts);
        assert!(matches!(seen_answer.try_recv(), Ok(Ok(written)) if written.revision == Some(7)));
        assert_eq!(unseen_answer.try_recv(), Ok(unknown_error(true)));
    }

    #[test]
    fn time_up_tells_whether_it_may_be_in_a_log_and_a_snapshot_hides_what_became_of_it() {
        let (mut writes, mut counts) = (Writes::default(), Counts::default());
        let (waits, mut waits_answer) = command();
        let (placed, mut placed_answer) = command();
        let (covered, mut covered_answer) = command();
        writes.put(waits);
        writes.placed.insert(key(entry(9, 1)), placed);
        writes.placed.insert(key(entry(3, 1)), covered);
        writes.restored(Index(5), &mut counts);
        assert_eq!(covered_answer.try_recv(), Ok(unknown_error(true)));
        writes.sweep(Instant::now(), &mut counts);
        assert_eq!(writes.len(), 2);
        writes.sweep(Instant::now() + Duration::from_secs(61), &mut counts);
        assert_eq!(waits_answer.try_recv(), Ok(unknown_error(false)));
        assert_eq!(placed_answer.try_recv(), Ok(unknown_error(true)));
        assert_eq!((writes.len(), counts.writes_unknown), (0, 3));
    }

    #[test]
    fn a_change_of_membership_is_done_only_if_the_members_are_as_wanted() {
        let (mut writes, mut counts) = (Writes::default(), Counts::default());
        let id = NodeId::new(4).unwrap();
        let change = |steps| write(Question::Change { steps, force: false });
        let (added, mut added_answer) = change(vec![Step::new(What::AddLearner, id)]);
        let (void, mut void_answer) = change(vec![Step::new(What::AddVoter, id)]);
        writes.placed.insert(key(entry(5, 1)), added);
        writes.placed.insert(key(entry(6, 1)), void);
        let mut membership = Membership::default();
        membership.learners.insert(id);
        writes.applied_up_to(Index(6), &membership, &mut counts);
        assert!(matches!(added_answer.try_recv(), Ok(Ok(_))));
        assert!(matches!(void_answer.try_recv(), Ok(Err(ChangeError::Refused(_)))));
        // One takes another's place: the joint configuration is not left yet.
        let old = NodeId::new(3).unwrap();
        let replace = || vec![Step::new(What::AddVoter, id), Step::new(What::Remove, old)];
        let (replaced, mut replaced_answer) = change(replace());
        let (stays, mut stays_answer) = change(replace());
        writes.placed.insert(key(entry(7, 1)), replaced);
        let mut joint = Membership::of_voters(NodeSet::one(id));
        joint.outgoing = NodeSet::one(old);
        writes.applied_up_to(Index(7), &joint, &mut counts);
        assert!(matches!(replaced_answer.try_recv(), Ok(Ok(_))));
        writes.placed.insert(key(entry(8, 1)), stays);
        joint.voters.insert(old);
        writes.applied_up_to(Index(8), &joint, &mut counts);
        assert!(matches!(stays_answer.try_recv(), Ok(Err(ChangeError::Refused(_)))));
    }
}
