//! Reads that see every write that was acknowledged before they began.

use super::{Node, Output, Phase};
use crate::storage::Storage;
use crate::types::Instant;

/// A read that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ReadId(u32);

/// Why a read was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ReadError {
    /// As many as a node keeps are under way: [`READS_MAX`](crate::raft::READS_MAX).
    TooMany,
    /// The node has not started, or has stopped.
    NotRunning,
}

impl core::fmt::Display for ReadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooMany => {
                write!(f, "{} reads are under way already", crate::raft::READS_MAX)
            }
            Self::NotRunning => f.write_str("the node is not running"),
        }
    }
}

impl core::error::Error for ReadError {}

impl<S: Storage> Node<[u8], S> {
    /// Begins a linearizable read, on any member: [`Output::ReadReady`] tells when the application's state serves it. It waits
    /// for as long as there is no leader with a quorum, and where newer firmware wrote the state; [`Node::cancel_read`]
    /// ends that. With `lease` a leader that may trust its clock (`Config::lease_clock_error_permille`) answers at once;
    /// one that may not asks the others.
    ///
    /// # Errors
    /// Typed refusals; nothing has happened then.
    pub fn read(&mut self, now: Instant, lease: bool) -> Result<ReadId, ReadError> {
        if self.phase != Phase::Running {
            return Err(ReadError::NotRunning);
        }
        self.raft.read(now, lease).map(ReadId).map_err(|_| ReadError::TooMany)
    }

    /// Nobody waits for that read any more.
    pub fn cancel_read(&mut self, ReadId(context): ReadId) {
        self.raft.cancel_read(context);
    }

    /// The clock has stood still, as in a deep sleep: leases that were reckoned by it are void (Raft thesis §6.4.1).
    pub fn handle_clock_stopped(&mut self) {
        self.raft.clock_stopped();
    }

    pub(super) fn poll_read(&mut self) -> Option<Output> {
        // A snapshot counts as applied, also where the application could not take it: it has no state that serves anybody.
        if self.newer_schema.is_some() {
            return None;
        }
        self.raft.poll_read().map(|context| Output::ReadReady(ReadId(context)))
    }
}
