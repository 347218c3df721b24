//! Commands of any member, which take effect once however often they are sent (Raft §8; thesis §6.3).
//!
//! A board has one command on its way at a time. It goes to the leader, again with each heartbeat, and to the next
//! leader, until the board sees it applied. Each copy has the same tag: the number of the board's session and, in it, that
//! of the command; what is applied with a number that is not above the last one's of its session has no effect. A session is opened by
//! an entry of its own, and is named by that entry's index: commands of a life before, still on their way, belong to
//! another session. It is opened with the first command after a start.

use super::snapshot::Task;
use super::{Node, Output, Phase};
use crate::codec::Coded;
use crate::entry::Kind;
use crate::membership::Member;
use crate::raft::Role;
use crate::storage::Storage;
use crate::types::{EntryId, Instant, NodeId, NodeSet, Term};
use crate::wire::{self, Message};

/// The longest tag: member, session, number.
pub(super) const TAG_BYTES_MAX: usize = 1 + 5 + 5;

/// A command that was forwarded, in this life of the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ProposalId(u32);

/// What became of a forwarded command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Outcome {
    /// It took effect, once.
    Applied {
        /// As this entry; `None` if a snapshot covers it.
        id: Option<EntryId>,
    },
    /// The time is up: it may have taken effect, or may yet do so, once at most.
    Unknown,
}

/// Why a command was not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ForwardError {
    /// One is on its way already, or a snapshot is.
    Busy,
    /// The command is longer than this way allows.
    TooLarge {
        /// The longest, in bytes.
        bytes_max: u32,
    },
    /// This board is no member.
    NotMember,
    /// Another command was forwarded since, or it can't be told any more whether this one took effect.
    Forgotten,
    /// The node has not started, or has stopped.
    NotRunning,
}

impl core::fmt::Display for ForwardError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Busy => f.write_str("a command or a snapshot is on its way already"),
            Self::TooLarge { bytes_max } => {
                write!(f, "the command is too large to be forwarded: {bytes_max} bytes at most")
            }
            Self::NotMember => f.write_str("this board is no member"),
            Self::Forgotten => f.write_str("what became of that command is forgotten"),
            Self::NotRunning => f.write_str("the node is not running"),
        }
    }
}

impl core::error::Error for ForwardError {}

// With a number of its own, so that `Idle` is all zeros.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Idle,
    Waiting,
    /// To be told, under the number that it was given.
    Resolved(ProposalId, Outcome),
}

/// This board's own command.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Forward {
    step: Step,
    /// Counts the commands of this life.
    number: u32,
    /// 0: it has to be opened.
    session: u32,
    /// It is to be sent, or appended here; also in each new term.
    owed: bool,
    sent_in: Term,
    /// Its bytes are put aside in the log.
    has_bytes: bool,
    until: Instant,
    /// It has taken effect, as far as this board has applied the log, in whatever session.
    done: bool,
}

impl Forward {
    pub(super) const NONE: Self = Self {
        step: Step::Idle,
        number: 0,
        session: 0,
        owed: false,
        sent_in: Term::ZERO,
        has_bytes: false,
        until: Instant::ZERO,
        done: false,
    };

    /// Is there certainly nothing to say of it?
    pub(super) fn is_silent(&self) -> bool {
        self.step == Step::Idle
    }

    /// When it is given up.
    pub(super) fn deadline(&self) -> Instant {
        if self.step == Step::Waiting { self.until } else { Instant::FOREVER }
    }

    /// A piece of a snapshot takes the place of its bytes.
    pub(super) const fn give_way(&mut self) {
        self.has_bytes = false;
    }
}

/// What stands before a command: whose it is, in which session, and its number; session 0 opens one, and the number is
/// the opener's own.
#[derive(Clone, Copy)]
pub(crate) struct Tag {
    pub(crate) origin: NodeId,
    pub(crate) session: u32,
    pub(crate) number: u32,
}

impl<S: Storage> Node<[u8], S> {
    /// Has the leader propose a command, from any member, the leader too. It takes effect once, however often its frames
    /// are lost, repeated, or sent to another leader; [`Output::Proposed`] tells what became of it, by `until` at the latest.
    ///
    /// # Errors
    /// Typed refusals; nothing has happened then.
    pub fn forward(&mut self, command: &[u8], until: Instant) -> Result<ProposalId, ForwardError> {
        self.begin_forward(command, until)?;
        self.forward.number = self.forward.number.saturating_add(1);
        self.forward.done = false;
        Ok(ProposalId(self.forward.number))
    }

    /// The same command again, under its own number, when its outcome was unknown: it takes effect once at most.
    ///
    /// # Errors
    /// Typed refusals; nothing has happened then.
    pub fn forward_again(
        &mut self,
        id: ProposalId,
        command: &[u8],
        until: Instant,
    ) -> Result<(), ForwardError> {
        if id.0 != self.forward.number || id.0 == 0 {
            return Err(ForwardError::Forgotten);
        }
        self.begin_forward(command, until)?;
        self.look_for_own_command(None);
        Ok(())
    }

    fn begin_forward(&mut self, command: &[u8], until: Instant) -> Result<(), ForwardError> {
        if self.phase != Phase::Running {
            return Err(ForwardError::NotRunning);
        }
        let own = self.raft.id();
        if own.is_none_or(|own| !self.raft.membership().members().contains(own)) {
            return Err(ForwardError::NotMember);
        }
        let bytes_max = usize::from(self.limits.entry_bytes).saturating_sub(TAG_BYTES_MAX);
        if command.len() > bytes_max {
            return Err(ForwardError::TooLarge { bytes_max: bytes_max as u32 });
        }
        let receives = matches!(self.task, Task::Receive { piece, .. } if piece > 0);
        if self.forward.step != Step::Idle || receives || !self.log.put_aside(command) {
            return Err(ForwardError::Busy);
        }
        (self.forward.step, self.forward.until) = (Step::Waiting, until);
        (self.forward.owed, self.forward.has_bytes) = (true, true);
        Ok(())
    }

    fn resolve(&mut self, outcome: Outcome) {
        self.forward.step = Step::Resolved(ProposalId(self.forward.number), outcome);
        if core::mem::take(&mut self.forward.has_bytes) {
            self.log.drop_aside();
        }
    }

    /// Time is up for what nobody has applied.
    pub(super) fn give_up_forward(&mut self, now: Instant) {
        if now >= self.forward.deadline() {
            self.resolve(Outcome::Unknown);
        }
    }

    /// What became of this board's command, or what is to be sent for it.
    pub(super) fn poll_forward(&mut self, frame: &mut [u8]) -> Option<Output> {
        if let Step::Resolved(id, outcome) = self.forward.step {
            self.forward.step = Step::Idle;
            return Some(Output::Proposed { id, outcome });
        }
        let Forward { step: Step::Waiting, owed, sent_in, session, number, .. } = self.forward
        else {
            return None;
        };
        let term = self.raft.term();
        if !owed && sent_in == term {
            return None;
        }
        let origin = self.raft.id()?;
        let opens = session == 0;
        if !opens && !self.forward.has_bytes {
            return None;
        }
        let number = if opens { self.raft.life() } else { number };
        let tag = Tag { origin, session, number };
        let lead = self.raft.lead()?;
        let head = if lead == origin {
            0
        } else {
            wire::say(
                self.identity.as_ref()?,
                NodeSet::one(lead),
                &Message::Propose { term },
                frame,
            )?
        };
        // The frame buffer is as long as any entry.
        let place = frame.get_mut(head..)?;
        let tag_bytes = tag.put(place)?.len();
        let rest = place.get_mut(tag_bytes..)?;
        let len = if opens { 0 } else { self.log.read_aside(rest).unwrap_or(0) };
        let end = head.saturating_add(tag_bytes).saturating_add(len);
        self.forward.sent_in = term;
        if lead == origin {
            self.forward.owed = !self.accept_forwarded(origin, frame.get(..end)?);
            return None;
        }
        self.forward.owed = false;
        let len = wire::seal(frame, end)?;
        Some(Output::Transmit { to: NodeSet::one(lead), len })
    }

    /// A message has come, and was taken: is it a command, or a reason to send this board's own again?
    pub(super) fn handle_forwarded(&mut self, from: NodeId, message: &Message, payload: &[u8]) {
        match *message {
            Message::Heartbeat { reply: true, .. } => self.forward.owed = true,
            // Of this leader's term: a leader of an earlier one may have appended it already.
            Message::Propose { term } if term == self.raft.term() => {
                let member = self.raft.membership().members().contains(from);
                if member && self.raft.role() == Role::Leader {
                    self.accept_forwarded(from, payload);
                }
            }
            _ => {}
        }
    }

    /// A leader: a member's command, or the wish for a session; false if it can't be appended now, and has to be sent again.
    pub(super) fn accept_forwarded(&mut self, from: NodeId, data: &[u8]) -> bool {
        let Some((tag, command)) = Tag::take(data).filter(|(tag, _)| tag.origin == from) else {
            return false;
        };
        let tag_bytes = data.len().saturating_sub(command.len());
        if self.has_appended(&tag, data.get(..tag_bytes).unwrap_or_default()) {
            return true;
        }
        let too_large = data.len() > usize::from(self.limits.entry_bytes);
        self.phase == Phase::Running
            && !too_large
            && self.room_for(data.len()).is_ok()
            && self.raft.propose(Kind::Once, data, &mut self.log).is_ok()
    }

    /// Has it taken effect already, or does it stand in the log? Frames are repeated, and late ones come after newer ones.
    fn has_appended(&mut self, tag: &Tag, bytes: &[u8]) -> bool {
        let took_effect = |member: &Member| {
            let same = member.id == tag.origin && member.session == tag.session;
            same && member.commands >= tag.number
        };
        let opens = tag.session == 0;
        if !opens && self.roster.iter().any(took_effect) {
            return true;
        }
        // That a session was opened is known to its opener only once it has applied that.
        let mut at = if opens { self.log.base().index } else { self.raft.applied() };
        while at < self.log.last().index {
            at = at.next();
            if self.log.begins_with(at, Kind::Once, bytes) {
                return true;
            }
        }
        false
    }

    /// Applies an entry whose data is in `frame[..len]`; the bytes of the command that takes effect, which it puts there.
    pub(super) fn apply_once(
        &mut self,
        id: EntryId,
        len: usize,
        frame: &mut [u8],
    ) -> Option<usize> {
        let (tag, command) = Tag::take(frame.get(..len)?)?;
        let tag_bytes = len.saturating_sub(command.len());
        let own = self.raft.id() == Some(tag.origin);
        let member = self.roster.iter_mut().find(|member| member.id == tag.origin)?;
        if tag.session == 0 {
            // Not 0, which is none.
            (member.session, member.commands) = ((id.index.0 as u32).max(1), 0);
            if own {
                // Nothing of an earlier session takes effect from here on: with a new tag it still does so once.
                let ours = tag.number == self.raft.life();
                self.forward.session = if ours { member.session } else { 0 };
                self.forward.owed = true;
            }
            return None;
        }
        if member.session != tag.session || member.commands >= tag.number {
            return None;
        }
        member.commands = tag.number;
        if own {
            self.look_for_own_command(Some(id));
        }
        self.log.read_behind(id.index, tag_bytes, frame).map(|(.., command_bytes)| command_bytes)
    }

    /// Has this board's command been applied?
    fn look_for_own_command(&mut self, id: Option<EntryId>) {
        let own = self.raft.id();
        let Forward { session, number, .. } = self.forward;
        let applied =
            |m: &Member| Some(m.id) == own && m.session == session && m.commands >= number;
        // Remembered, for a session that is opened again tells nothing of what took effect before.
        self.forward.done |= session != 0 && self.roster.iter().any(applied);
        if self.forward.step == Step::Waiting && self.forward.done {
            self.resolve(Outcome::Applied { id });
        }
    }

    /// A snapshot has taken the place of entries, this board's command among them, perhaps.
    pub(super) fn forward_restored(&mut self) {
        self.look_for_own_command(None);
        let own = self.raft.id();
        let here = self.roster.iter().find(|member| Some(member.id) == own);
        let session = here.map_or(0, |member| member.session);
        if self.forward.session != 0 && self.forward.session != session {
            // Whether it took effect in that session is not to be known any more.
            self.forward.session = 0;
            if self.forward.step == Step::Waiting {
                self.resolve(Outcome::Unknown);
            }
            self.forward.number = self.forward.number.saturating_add(1);
        }
    }
}
