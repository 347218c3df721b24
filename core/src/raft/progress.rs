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
    /// A probe is out: nothing more until it is answered or a heartbeat is. In `Replicate`, the next
    /// entry fits no frame.
    pub(crate) paused: bool,
    /// It has said so, and not otherwise since.
    pub(crate) is_full: bool,
    /// If so: bytes that it can take behind what it has received.
    pub(crate) room: u32,
    pub(crate) matched: Index,
    /// The next entry to send; in `Snapshot` the one behind the snapshot.
    pub(crate) next: Index,
    /// The last entry of each append that is on its way, as how far it is ahead of `matched`.
    inflight: [u32; INFLIGHT_MAX],
    inflight_count: u8,
    /// How many of them were sent before the heartbeat of `beat_round`; zero if none is being watched.
    beat_frames: u8,
    beat_round: u32,
    /// The newest round of heartbeats that it has answered.
    pub(crate) round_heard: u32,
    /// Where the next piece of the snapshot starts.
    pub(crate) snapshot_offset: u32,
}

impl Progress {
    pub(crate) const UNUSED: Self = Self {
        id: None,
        state: ProgressState::Probe,
        paused: false,
        is_full: false,
        room: 0,
        matched: Index::ZERO,
        next: Index::ZERO,
        inflight: [0; INFLIGHT_MAX],
        inflight_count: 0,
        beat_frames: 0,
        beat_round: 0,
        round_heard: 0,
        snapshot_offset: 0,
    };

    #[inline(never)]
    pub(crate) fn reset(&mut self, id: Option<NodeId>, next: Index) {
        *self = Self { id, next, ..Self::UNUSED };
    }

    /// Bytes of entries that it can take, if it is full.
    pub(crate) fn room(&self) -> Option<u32> {
        self.is_full.then_some(self.room)
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

    /// Probes again from behind `received`, which the member said it has.
    pub(crate) fn become_probe_after(&mut self, received: Index) {
        self.change(ProgressState::Probe, received.max(self.matched).next());
    }

    /// Sends on from behind `received`, which the member has in memory: as long as that is not durable
    /// there, it counts as on its way.
    pub(crate) fn become_replicate(&mut self, received: Index) {
        self.change(ProgressState::Replicate, self.matched.next());
        self.sent(received.max(self.matched));
        self.paused = false;
    }

    pub(crate) fn become_snapshot(&mut self, snapshot: Index) {
        self.change(ProgressState::Snapshot, snapshot.next());
    }

    fn change(&mut self, state: ProgressState, next: Index) {
        self.state = state;
        self.next = next;
        self.paused = false;
        self.inflight_count = 0;
        self.beat_frames = 0;
        self.snapshot_offset = 0;
    }

    /// Entries up to `index` are durable there; false if that is no news.
    pub(crate) fn acknowledged(&mut self, index: Index) -> bool {
        if index <= self.matched {
            return false;
        }
        let by = self.ahead(index);
        self.matched = index;
        self.next = self.next.max(index.next());
        self.paused = false;
        let sent = core::mem::take(&mut self.inflight_count);
        for ahead in self.inflight.into_iter().take(sent.into()) {
            match ahead.checked_sub(by) {
                Some(left) if left > 0 => self.watch(left),
                _ => self.beat_frames = self.beat_frames.saturating_sub(1),
            }
        }
        true
    }

    /// An append is on its way.
    #[inline(never)]
    fn watch(&mut self, ahead: u32) {
        if let Some(place) = self.inflight.get_mut(usize::from(self.inflight_count)) {
            *place = ahead;
            self.inflight_count = self.inflight_count.wrapping_add(1);
        }
    }

    /// How far an entry is ahead of what is known to be durable there.
    fn ahead(&self, index: Index) -> u32 {
        u32::try_from(index.since(self.matched)).unwrap_or(u32::MAX)
    }

    /// The heartbeat of `round` goes out behind the appends that are on their way.
    pub(crate) fn beat(&mut self, round: u32) {
        if self.state == ProgressState::Replicate {
            self.paused = false;
        }
        if self.beat_frames == 0 {
            self.beat_frames = self.inflight_count;
            self.beat_round = round;
        }
    }

    /// The member has heard the heartbeat of `round`, and has received entries up to `received`: have
    /// appends been lost that were sent before it?
    pub(crate) fn has_lost(&mut self, round: u32, received: Index) -> bool {
        let before_beat = usize::from(self.beat_frames).checked_sub(1);
        let Some(last) = before_beat.and_then(|i| self.inflight.get(i)) else {
            return false;
        };
        if round < self.beat_round {
            return false;
        }
        self.beat_frames = 0;
        self.ahead(received) < *last
    }

    /// The append after `rejected` did not fit, the logs may agree up to `hint`; false if that is old
    /// news (PR4, B17).
    pub(crate) fn rejected(&mut self, rejected: Index, hint: Index) -> bool {
        let is_news = rejected > self.matched
            && match self.state {
                ProgressState::Probe => rejected == self.next.previous(),
                ProgressState::Replicate => true,
                ProgressState::Snapshot => false,
            };
        if is_news {
            self.become_probe_after(hint.min(rejected.previous()));
        }
        is_news
    }

    /// Entries up to `last` have been sent.
    pub(crate) fn sent(&mut self, last: Index) {
        match self.state {
            ProgressState::Replicate => {
                if last >= self.next {
                    self.next = last.next();
                    self.watch(self.ahead(last));
                } else {
                    self.paused = true;
                }
            }
            _ => self.paused = true,
        }
    }

    /// May an append be sent now? One that is short of room gets a single one at a time.
    pub(crate) fn is_ready(&self) -> bool {
        let window = if self.is_full { 1 } else { INFLIGHT_MAX };
        match self.state {
            ProgressState::Probe => !self.paused,
            ProgressState::Replicate => !self.paused && usize::from(self.inflight_count) < window,
            ProgressState::Snapshot => false,
        }
    }
}
