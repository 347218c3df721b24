//! What a leader knows of one member's log, and what it may send it (Raft §5.3; etcd's tracker).

use crate::types::{Index, NodeId};

/// Append frames that may be on their way to one member.
pub const INFLIGHT_MAX: usize = 4;

/// How entries are sent to a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ProgressState {
    /// Where the logs agree is not known yet: one append, then wait for its answer.
    #[default]
    Probe,
    /// The logs agree up to `matched`: appends follow each other, up to the window.
    Replicate,
    /// The entries wanted are compacted: a snapshot is on its way.
    Snapshot,
}

/// A member's progress. `matched < next` always (PR1).
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Progress {
    pub(crate) id: Option<NodeId>,
    pub(crate) state: ProgressState,
    /// A probe is out: nothing more until it is answered or a heartbeat is.
    pub(crate) paused: bool,
    /// Said to be full: bytes it can take, until it says otherwise.
    pub(crate) room: Option<u32>,
    pub(crate) matched: Index,
    /// The next entry to send; in `Snapshot` the one behind the snapshot.
    pub(crate) next: Index,
    /// The highest commit index that was sent.
    pub(crate) commit_sent: Index,
    inflight: [Index; INFLIGHT_MAX],
    inflight_count: u8,
    /// Where the next piece of the snapshot starts.
    pub(crate) snapshot_offset: u32,
}

impl Progress {
    pub(crate) const UNUSED: Self = Self {
        id: None,
        state: ProgressState::Probe,
        paused: false,
        room: None,
        matched: Index::ZERO,
        next: Index::ZERO,
        commit_sent: Index::ZERO,
        inflight: [Index::ZERO; INFLIGHT_MAX],
        inflight_count: 0,
        snapshot_offset: 0,
    };

    pub(crate) fn reset(&mut self, id: Option<NodeId>, next: Index) {
        *self = Self { id, next, ..Self::default() };
    }

    /// How entries are sent.
    pub const fn state(&self) -> ProgressState {
        self.state
    }

    /// The last entry known to be durable there.
    pub const fn matched(&self) -> Index {
        self.matched
    }

    /// The next entry to send.
    pub const fn next(&self) -> Index {
        self.next
    }

    pub(crate) fn become_probe(&mut self) {
        // A snapshot that was sent counts as received; a wrong guess costs one rejected probe (PR2).
        let next = match self.state {
            ProgressState::Snapshot => self.next.max(self.matched.next()),
            _ => self.matched.next(),
        };
        self.change(ProgressState::Probe, next);
    }

    /// Probes again from behind `received`, which the member said it has.
    pub(crate) fn become_probe_after(&mut self, received: Index) {
        self.change(ProgressState::Probe, received.max(self.matched).next());
    }

    pub(crate) fn become_replicate(&mut self) {
        self.change(ProgressState::Replicate, self.matched.next());
    }

    pub(crate) fn become_snapshot(&mut self, snapshot: Index) {
        self.change(ProgressState::Snapshot, snapshot.next());
    }

    fn change(&mut self, state: ProgressState, next: Index) {
        self.state = state;
        self.next = next;
        self.paused = false;
        self.inflight_count = 0;
        self.snapshot_offset = 0;
    }

    /// Entries up to `index` are durable there; false if that is no news.
    pub(crate) fn acknowledged(&mut self, index: Index) -> bool {
        if index <= self.matched {
            return false;
        }
        self.matched = index;
        self.next = self.next.max(index.next());
        self.paused = false;
        let count = usize::from(self.inflight_count);
        let acked = self.inflight.iter().take(count).filter(|last| **last <= index).count();
        self.inflight.rotate_left(acked.min(INFLIGHT_MAX));
        self.inflight_count = count.saturating_sub(acked) as u8;
        true
    }

    /// The append after `rejected` did not fit, the logs may agree up to `hint`; false if that is old
    /// news (PR4, B17).
    pub(crate) fn rejected(&mut self, rejected: Index, hint: Index) -> bool {
        match self.state {
            ProgressState::Replicate => {
                if rejected <= self.matched {
                    return false;
                }
                self.become_probe_after(hint.min(rejected.previous()));
            }
            _ => {
                if rejected != self.next.previous() {
                    return false;
                }
                self.next = rejected.min(hint.next()).max(self.matched.next());
                self.paused = false;
            }
        }
        true
    }

    /// Entries up to `last` have been sent.
    pub(crate) fn sent(&mut self, last: Index) {
        match self.state {
            ProgressState::Replicate => {
                if last >= self.next {
                    self.next = last.next();
                    if let Some(place) = self.inflight.get_mut(usize::from(self.inflight_count)) {
                        *place = last;
                        self.inflight_count = self.inflight_count.saturating_add(1);
                    }
                }
            }
            _ => self.paused = true,
        }
    }

    /// May an append be sent now?
    pub(crate) fn is_ready(&self) -> bool {
        match self.state {
            ProgressState::Probe => !self.paused,
            ProgressState::Replicate => usize::from(self.inflight_count) < INFLIGHT_MAX,
            ProgressState::Snapshot => false,
        }
    }
}
