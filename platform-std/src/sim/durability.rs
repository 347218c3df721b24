//! What flash holds against what was said and acknowledged: images are mounted afresh, by a path that
//! never saw the board that wrote them.

use std::collections::BTreeMap;

use quorate::entry::Kind;
use quorate::log::Log;
use quorate::wal::{HardState, MountError, Progress, Wal, Want};
use quorate::wire::{Frame, Message};
use quorate::{EntryId, Generation, Index, NodeId, NodeSet, Term};

use super::dice::Dice;
use super::flash::{Chip, Misuse};
use super::members::Configuration;
use super::protocol::{Protocol, command_hash, entry_hash};
use super::rules::{Rule, Verdict};

/// A log in RAM that is larger than that of any simulated board.
const LOG_BYTES: usize = 1 << 16;
/// A flash buffer for any record of any simulated board.
const BUFFER_BYTES: usize = 4096;
/// Steps after which a mount that has not ended counts as endless.
const STEPS_MAX: u32 = 1_000_000;

/// What a flash image holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// The term.
    pub term: Term,
    /// Who got the vote in it.
    pub vote: Option<u8>,
    /// Which life of the board it is of.
    pub generation: Generation,
    /// Known to be committed.
    pub commit: Index,
    /// The last entry that the snapshot covers.
    pub snapshot: EntryId,
    /// Each entry behind it.
    pub entries: Vec<(EntryId, Kind, Vec<u8>)>,
}

impl Held {
    /// The last entry.
    pub(super) fn last(&self) -> EntryId {
        self.entries.last().map_or(self.snapshot, |(id, ..)| *id)
    }

    /// The term of entry `index`: `None` if it is not here, or is covered by the snapshot.
    fn term(&self, index: Index) -> Option<Term> {
        self.entries.iter().find(|(id, ..)| id.index == index).map(|(id, ..)| id.term)
    }
}

/// Why an image did not mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unmounted {
    /// The flash log refuses it.
    Refused(MountError),
    /// Mounting it asks for what flash can't do.
    Misused(Misuse),
    /// Mounting it does not end.
    Endless,
}

/// Mounts a copy of `chip`.
///
/// # Errors
/// It does not mount.
pub(super) fn inspect(chip: &Chip) -> Result<Held, Unmounted> {
    let mut chip = chip.copy();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut log: Box<Log<[u8; LOG_BYTES]>> = Box::default();
    let log: &mut Log = &mut *log;
    let mut wal = Wal::new();
    // Everything takes no time here.
    let dice = &mut Dice::new(0);
    let want = Want {
        hard_state: HardState::default(),
        commit_needed: Index::ZERO,
        idle: false,
        allow_erase: true,
    };
    wal.mount(chip.part().geometry, buffer.len()).map_err(|_| Unmounted::Endless)?;
    for _ in 0..STEPS_MAX {
        match wal.poll(&want, log, &mut buffer) {
            Progress::Op(op) => {
                chip.begin(op, &buffer, 0, dice).map_err(Unmounted::Misused)?;
                let (_, done) = chip.finish(&mut buffer).ok_or(Unmounted::Endless)?;
                wal.handle(done);
            }
            Progress::Mounted(mounted) => {
                let mut held = Held {
                    term: mounted.hard_state.term,
                    vote: mounted.hard_state.vote.map(|id| id.get()),
                    generation: mounted.identity.generation,
                    commit: mounted.hard_state.commit,
                    snapshot: mounted.snapshot.id,
                    entries: Vec::new(),
                };
                for index in log.base().index.next().0..=log.last().index.0 {
                    let Some((kind, term, len)) = log.read(Index(index), &mut buffer) else {
                        return Err(Unmounted::Endless);
                    };
                    let id = EntryId::new(Index(index), term);
                    held.entries.push((id, kind, buffer[..len].to_vec()));
                }
                return Ok(held);
            }
            Progress::Refused(error) => return Err(Unmounted::Refused(error)),
            Progress::Idle => return Err(Unmounted::Endless),
            _ => {}
        }
    }
    Err(Unmounted::Endless)
}

/// What a board has last said of what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spoken {
    vote: Option<(Term, u8)>,
    /// In which term, up to where.
    matched: Option<(Term, Index)>,
}

/// What boards said and what clients were promised.
#[derive(Clone, Debug)]
pub(super) struct Durability {
    spoken: Vec<Spoken>,
    acknowledged: BTreeMap<Index, (Term, u64)>,
}

impl Durability {
    /// Nothing said, nothing promised.
    pub(super) fn new(boards: u8) -> Self {
        let spoken = vec![Spoken::default(); usize::from(boards) + 1];
        Self { spoken, acknowledged: BTreeMap::new() }
    }

    /// A board sent a frame; true if it said for the first time that flash holds something.
    pub(super) fn sent(&mut self, board: u8, frame: &Frame<'_>) -> bool {
        let spoken = &mut self.spoken[usize::from(board)];
        let before = *spoken;
        match frame.envelope.message {
            Message::VoteRequest { term, pre: false, .. } => spoken.vote = Some((term, board)),
            Message::VoteReply { term, pre: false, granted: true, .. } => {
                let candidate = frame.envelope.to.iter().next();
                spoken.vote = candidate.map(|id| (term, id.get()));
            }
            Message::Reply { term, matched, .. } if matched > Index::ZERO => {
                spoken.matched = Some((term, matched));
            }
            _ => {}
        }
        *spoken != before
    }

    /// Does the image of `board` hold what the board has said?
    pub(super) fn check(&self, board: u8, held: &Held, protocol: &Protocol, verdict: &mut Verdict) {
        let spoken = self.spoken[usize::from(board)];
        if let Some((term, candidate)) = spoken.vote {
            let kept = held.term > term || (held.term == term && held.vote == Some(candidate));
            if !kept {
                verdict.red(Rule::I7, board, || {
                    let Held { term: has, vote, .. } = held;
                    format!("voted for board {candidate} in {term:?}; its flash holds {has:?} and {vote:?}")
                });
            }
        }
        // A later leader may have replaced entries that an earlier one was told of.
        if let Some((term, matched)) = spoken.matched
            && held.term <= term
        {
            let parted = matched > held.snapshot.index
                && protocol
                    .said(term, matched)
                    .is_some_and(|said| held.term(matched).is_some_and(|has| has != said));
            if held.term < term || held.last().index < matched || parted {
                verdict.red(Rule::I7, board, || {
                    format!(
                        "acknowledged index {matched} in {term:?}; its flash holds {:?} and {:?}",
                        held.term,
                        held.last()
                    )
                });
            }
        }
    }

    /// A client was told that its command took effect.
    pub(super) fn acknowledges(&mut self, id: EntryId, command: &[u8]) {
        self.acknowledged.insert(id.index, (id.term, entry_hash(Kind::Command, command)));
    }

    /// Was the command at `id` acknowledged?
    pub(super) fn has_acknowledged(&self, id: EntryId) -> bool {
        self.acknowledged.get(&id.index).is_some_and(|(term, _)| *term == id.term)
    }

    /// Acknowledged writes so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    /// The board has lost its flash, and with it whatever it has said.
    pub(super) fn forgets(&mut self, board: u8) {
        self.spoken[usize::from(board)] = Spoken::default();
    }

    /// Could members elect a leader without anybody whose flash holds an acknowledged write? Flash of another life than the
    /// member's has no vote; of flash that does not mount it is not known what it has.
    pub(super) fn check_majority(
        &self,
        images: &[(NodeId, Option<Held>)],
        members: &Configuration,
        verdict: &mut Verdict,
    ) {
        let votes = |id, held: &Option<Held>| {
            held.as_ref().is_none_or(|held| members.counts(id, held.generation))
        };
        for (index, (term, hash)) in &self.acknowledged {
            let id = EntryId::new(*index, *term);
            let holds = |held: &Held| {
                let same = |(of, kind, data): &(EntryId, Kind, Vec<u8>)| {
                    *of == id && command_hash(*kind, data) == Some(*hash)
                };
                held.snapshot.index >= *index || held.entries.iter().any(same)
            };
            let lacks = images
                .iter()
                .filter(|(id, held)| votes(*id, held) && !held.as_ref().is_some_and(holds));
            let lacks: NodeSet = lacks.map(|(id, _)| *id).collect();
            if members.has_quorum(lacks) {
                verdict.red(Rule::I6, 0, || {
                    format!("{lacks:?} do not hold the acknowledged {id:?}, and are a quorum")
                });
            }
        }
    }

    /// Is what was applied at each acknowledged index the acknowledged command?
    pub(super) fn check_applied(&self, protocol: &Protocol, verdict: &mut Verdict) {
        for (index, (term, hash)) in &self.acknowledged {
            let applied = protocol.command(*index);
            if applied != Some((*term, *hash)) {
                verdict.red(Rule::I6, 0, || {
                    format!("acknowledged at index {index}, but applied there: {applied:?}")
                });
            }
        }
    }
}

/// Tells the protocol's checks what an image holds.
pub(super) fn holds(board: u8, held: &Held, protocol: &mut Protocol, verdict: &mut Verdict) {
    let mut before = held.snapshot.term;
    for (id, kind, data) in &held.entries {
        protocol.holds(board, *id, Some(before), *kind, data, verdict);
        before = id.term;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::ClusterId;
    use quorate::wire::Envelope;

    use super::super::members::Members;

    fn id(index: u64, term: u64) -> EntryId {
        EntryId::new(Index(index), Term(term))
    }

    fn held(term: u64, vote: Option<u8>, entries: &[(u64, u64, &[u8])]) -> Held {
        let commands =
            entries.iter().map(|(i, t, data)| (id(*i, *t), Kind::Command, data.to_vec()));
        let (term, generation) = (Term(term), Generation(1));
        Held { term, vote, generation, entries: commands.collect(), ..Held::default() }
    }

    fn says(message: Message) -> Durability {
        let envelope = Envelope {
            cluster: ClusterId::default(),
            to: NodeSet::one(NodeId::new(2).unwrap()),
            from: NodeId::new(1).unwrap(),
            generation: Generation(1),
            message,
        };
        let mut durability = Durability::new(3);
        assert!(durability.sent(1, &Frame { envelope, payload: &[] }));
        durability
    }

    fn check(durability: &Durability, held: &Held) -> Vec<Rule> {
        let mut verdict = Verdict::default();
        durability.check(1, held, &Protocol::default(), &mut verdict);
        verdict.violations().iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn a_vote_that_flash_does_not_hold_is_found() {
        let granted = says(Message::VoteReply {
            term: Term(4),
            commit: EntryId::ZERO,
            pre: false,
            granted: true,
        });
        assert_eq!(check(&granted, &held(4, Some(2), &[])), []);
        assert_eq!(check(&granted, &held(5, None, &[])), []);
        for bad in [held(3, Some(2), &[]), held(4, Some(3), &[]), held(4, None, &[])] {
            assert_eq!(check(&granted, &bad), [Rule::I7]);
        }
        let last = id(0, 0);
        let stands = says(Message::VoteRequest {
            term: Term(4),
            last,
            commit: EntryId::ZERO,
            pre: false,
            transfer: false,
        });
        assert_eq!(check(&stands, &held(4, Some(1), &[])), []);
        assert_eq!(check(&stands, &held(4, Some(2), &[])), [Rule::I7]);
    }

    #[test]
    fn an_acknowledged_entry_that_flash_does_not_hold_is_found() {
        let said = says(Message::Reply {
            term: Term(2),
            matched: Index(2),
            received: Index(2),
            round: 0,
            reject: None,
            room: None,
        });
        let whole = held(2, None, &[(1, 1, b"a"), (2, 2, b"b")]);
        assert_eq!(check(&said, &whole), []);
        assert_eq!(check(&said, &held(2, None, &[(1, 1, b"a")])), [Rule::I7]);
        assert_eq!(check(&said, &held(1, None, &[(1, 1, b"a"), (2, 1, b"b")])), [Rule::I7]);
        // The next leader may have cut it off.
        assert_eq!(check(&said, &held(3, None, &[(1, 1, b"a")])), []);
        let covered = Held { snapshot: id(7, 2), ..held(2, None, &[]) };
        assert_eq!(check(&said, &covered), []);
    }

    #[test]
    fn an_acknowledged_write_without_which_there_is_a_quorum_is_found() {
        let mut durability = Durability::new(3);
        durability.acknowledges(id(1, 1), b"a");
        let ids: Vec<NodeId> = (1..=3).filter_map(NodeId::new).collect();
        let members = Members::new(ids.iter().copied().collect(), 3);
        let check = |images: [Option<Held>; 3]| {
            let mut verdict = Verdict::default();
            let images: Vec<_> = ids.iter().copied().zip(images).collect();
            durability.check_majority(&images, members.latest(), &mut verdict);
            verdict.holds()
        };
        let has = || Some(held(1, None, &[(1, 1, b"a")]));
        let other = || Some(held(1, None, &[(1, 1, b"x")]));
        let covers = || Some(Held { snapshot: id(5, 2), ..held(2, None, &[]) });
        let once = vec![2, 9, 1, b'a'];
        let forwarded = || {
            let entries = vec![(id(1, 1), Kind::Once, once.clone())];
            Some(Held { entries, ..held(1, None, &[]) })
        };
        assert!(check([has(), has(), None]));
        assert!(check([has(), covers(), other()]));
        assert!(check([forwarded(), has(), None]));
        assert!(!check([has(), None, None]));
        assert!(!check([has(), other(), other()]));
        // Flash of another life has no vote.
        let stranger = Some(Held { generation: Generation(2), ..held(1, None, &[]) });
        assert!(check([has(), stranger, other()]));
    }

    #[test]
    fn an_acknowledged_write_that_was_replaced_is_found() {
        let mut durability = Durability::new(3);
        let mut verdict = Verdict::default();
        let mut protocol = Protocol::default();
        protocol.applied(1, id(1, 1), b"a", &mut verdict);
        durability.acknowledges(id(1, 1), b"a");
        durability.check_applied(&protocol, &mut verdict);
        assert!(verdict.holds());
        durability.acknowledges(id(2, 1), b"b");
        durability.check_applied(&protocol, &mut verdict);
        assert_eq!(verdict.violations()[0].rule, Rule::I6);
    }
}
