//! Handing leadership to another member (Raft thesis §3.10).

use super::{Outgoing, Progress, Raft, Role};
use crate::log::Log;
use crate::types::{Instant, NodeId, NodeSet};
use crate::wire::Message;

/// A leader's attempt to hand over. Unlike an `Option` of it, none is all zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Transfer {
    to: Option<NodeId>,
    /// When it is given up.
    until: Instant,
    /// The target is to be told, as soon as its log is this one's.
    owed: bool,
}

impl Transfer {
    pub(super) const NONE: Self = Self { to: None, until: Instant::ZERO, owed: false };

    pub(super) const fn is_some(&self) -> bool {
        self.to.is_some()
    }
}

/// Why leadership is not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum TransferRefused {
    /// There is no leader to do it.
    NoLeader,
    /// That member leads already; an attempt to hand over to another one is given up.
    Leads,
    /// It is no voter, and could not lead.
    NotVoter,
    /// It is on its way already.
    Pending,
}

impl core::fmt::Display for TransferRefused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoLeader => "no leader is known",
            Self::Leads => "that member leads already",
            Self::NotVoter => "that member has no vote",
            Self::Pending => "leadership is being handed to that member already",
        })
    }
}

impl core::error::Error for TransferRefused {}

impl Raft {
    /// Hands leadership to a voter: brings its log up to date, then has it stand for election at once (EL8). Nothing is
    /// proposed meanwhile. It is given up after an election timeout, with the term, or when the target loses its vote.
    /// A follower passes the wish on to its leader, once: a lost frame loses it.
    ///
    /// # Errors
    /// It can't be done, or is done already.
    pub fn transfer_leader(&mut self, now: Instant, to: NodeId) -> Result<(), TransferRefused> {
        self.looks = true;
        if self.role != Role::Leader {
            self.lead.ok_or(TransferRefused::NoLeader)?;
            self.transfer_wanted = Some(to);
            return Ok(());
        }
        if !self.membership.voters().contains(to) {
            return Err(TransferRefused::NotVoter);
        }
        if self.transferring() == Some(to) {
            return Err(TransferRefused::Pending);
        }
        self.transfer = Transfer::NONE;
        if self.id == Some(to) {
            return Err(TransferRefused::Leads);
        }
        let until = now.after(self.options.election_ms);
        self.transfer = Transfer { to: Some(to), until, owed: true };
        self.owes_append.insert(to);
        Ok(())
    }

    /// Leader: whom leadership is being handed to.
    pub fn transferring(&self) -> Option<NodeId> {
        self.transfer.to
    }

    /// Time for an attempt that has led to nothing to be given up.
    pub(super) fn transfer_deadline(&self) -> Instant {
        if self.transfer.is_some() { self.transfer.until } else { Instant::FOREVER }
    }

    pub(super) fn give_up_transfer(&mut self, now: Instant) {
        if now >= self.transfer.until {
            self.transfer = Transfer::NONE;
        }
    }

    /// Who can't lead any more is not waited for (B5).
    pub(super) fn check_transfer(&mut self) {
        if self.transfer.to.is_some_and(|to| !self.membership.voters().contains(to)) {
            self.transfer = Transfer::NONE;
        }
    }

    /// Frames are lost: the target is told again with every round of heartbeats.
    pub(super) fn repeat_transfer(&mut self) {
        self.transfer.owed = true;
    }

    pub(super) fn poll_transfer(&mut self, log: &Log) -> Option<Outgoing> {
        let to = self.transfer.to.filter(|_| self.transfer.owed)?;
        let progress = self.progress.iter().find(|p| p.id == Some(to));
        if progress.map(Progress::matched) != Some(log.last().index) {
            return None;
        }
        self.transfer.owed = false;
        // From here on the target may lead at any time, whatever others have promised (O4).
        self.lease.void = true;
        Some(Outgoing::plain(NodeSet::one(to), Message::TimeoutNow { term: self.term }))
    }

    /// A follower's wish, on its way to the leader.
    pub(super) fn poll_transfer_wanted(&mut self) -> Option<Outgoing> {
        let to = self.transfer_wanted.take()?;
        let lead = self.lead.filter(|_| self.role == Role::Follower)?;
        let message = Message::Transfer { term: self.term, to };
        Some(Outgoing::plain(NodeSet::one(lead), message))
    }
}
