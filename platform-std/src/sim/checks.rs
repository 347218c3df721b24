//! Everything that is checked, in one place: it is told what boards do and say, and never asks them.

use quorate::membership::Membership;
use quorate::wire::Frame;
use quorate::{EntryId, Generation, Index, NodeId};

use super::dice::Dice;
use super::durability::{self, Durability, Held, Unmounted, inspect};
use super::flash::{Chip, Misuse};
use super::members::{Members, News};
use super::model::{Content, Effect, Model};
use super::protocol::Protocol;
use super::rules::{Rule, Verdict};

/// One new claim in this many is held against a copy of the flash at once.
const CLAIMS: u64 = 3;
/// One acknowledgement in this many is looked for on the flash of all boards at once.
const ACKNOWLEDGEMENTS: u64 = 16;

/// All checks of a run.
#[derive(Debug)]
pub(super) struct Checks {
    /// Raft's own properties.
    pub protocol: Protocol,
    /// What clients see; `None` in a world whose commands are not the simulation's own.
    pub model: Option<Model>,
    /// Who is a member.
    pub members: Members,
    /// What flash holds.
    pub durability: Durability,
    /// What was found.
    pub verdict: Verdict,
    /// Flash images mounted so far.
    pub images: u64,
    dice: Dice,
}

impl Checks {
    /// Checks for a world of `boards` boards, founded together.
    pub(super) fn new(boards: u8, own_clients: bool, dice: Dice) -> Self {
        let founders = (1..=boards).filter_map(NodeId::new).collect();
        Self {
            protocol: Protocol::default(),
            model: own_clients.then(|| Model::new(boards)),
            members: Members::new(founders, boards),
            durability: Durability::new(boards),
            verdict: Verdict::default(),
            images: 0,
            dice,
        }
    }

    /// A board sent a frame.
    pub(super) fn sent(&mut self, board: u8, frame: &Frame<'_>, chip: &Chip) {
        self.protocol.sent(board, frame, &mut self.verdict);
        if self.durability.sent(board, frame) && self.dice.below(CLAIMS) == 0 {
            self.image(board, chip);
        }
    }

    /// Mounts a copy of a board's flash, and holds it against what the board has said.
    pub(super) fn image(&mut self, board: u8, chip: &Chip) -> Option<Held> {
        self.images += 1;
        match inspect(chip) {
            Ok(held) => {
                durability::holds(board, &held, &mut self.protocol, &mut self.verdict);
                self.durability.check(board, &held, &self.protocol, &mut self.verdict);
                Some(held)
            }
            Err(error) => {
                let rule = match error {
                    Unmounted::Misused(_) => Rule::F1,
                    _ => Rule::F2,
                };
                self.verdict.red(rule, board, || match error {
                    Unmounted::Refused(error) => format!("its flash does not mount: {error}"),
                    Unmounted::Misused(misuse) => format!("mounting its flash: {misuse:?}"),
                    Unmounted::Endless => "mounting its flash does not end".into(),
                });
                None
            }
        }
    }

    /// A board booted.
    pub(super) fn booted(&mut self, board: u8) {
        self.protocol.booted(board);
        if let Some(model) = &mut self.model {
            model.booted(board);
        }
    }

    /// A board was handed a command to apply.
    pub(super) fn applies(&mut self, board: u8, id: EntryId, command: &[u8]) {
        self.protocol.applied(board, id, command, &mut self.verdict);
        if let Some(model) = &mut self.model {
            model.follows(board, id.index, &mut self.verdict);
            model.applies(board, id, command, &mut self.verdict);
        }
    }

    /// A board shows a content: after an index, or after a snapshot was restored.
    pub(super) fn shows(
        &mut self,
        board: u8,
        index: Option<Index>,
        content: impl FnOnce() -> Content,
    ) {
        if index.is_none() {
            self.protocol.restored(board);
        }
        if let Some(model) = &mut self.model {
            model.shows(board, index, content(), &mut self.verdict);
        }
    }

    /// A client was told that its command took effect; true if all flash is to be looked at for it.
    pub(super) fn acknowledges(
        &mut self,
        board: u8,
        id: EntryId,
        command: &[u8],
        effect: Option<Effect>,
    ) -> bool {
        self.durability.acknowledges(id, command);
        if let Some(model) = &mut self.model {
            model.told(board, id, effect, &mut self.verdict);
        }
        self.dice.below(ACKNOWLEDGEMENTS) == 0
    }

    /// Flash was misused.
    pub(super) fn misused(&mut self, board: u8, misuse: &Misuse) {
        self.verdict.red(Rule::F1, board, || format!("{misuse:?}"));
    }

    /// A board that has just started: which life of it that is, and whose members are in effect on it, is in its flash.
    pub(super) fn started(&mut self, board: u8, chip: &Chip) -> Option<Generation> {
        let held = self.image(board, chip)?;
        self.members.restored(board, held.snapshot.index);
        Some(held.generation)
    }

    /// A board tells that it has put a change of membership into effect, or one that can't be made.
    pub(super) fn members_changed(
        &mut self,
        board: u8,
        chip: &Chip,
        told: Option<Membership>,
    ) -> Option<News> {
        let held = self.image(board, chip)?;
        self.members.changed(board, &held, told, &mut self.verdict)
    }

    /// A board has lost its flash: what it has said is another life's.
    pub(super) fn wiped(&mut self, board: u8) {
        self.durability.forgets(board);
        self.members.restored(board, Index::ZERO);
    }

    /// Looks for every acknowledged write on the flash of all boards that have one.
    pub(super) fn majority<'a>(&mut self, chips: impl Iterator<Item = (NodeId, &'a Chip)>) {
        let images: Vec<_> = chips.map(|(id, chip)| (id, self.image(id.get(), chip))).collect();
        self.durability.check_majority(&images, self.members.latest(), &mut self.verdict);
        self.durability.check_applied(&self.protocol, &mut self.verdict);
    }
}
