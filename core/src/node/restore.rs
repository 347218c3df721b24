//! Restoring a snapshot from flash, piece by piece: what the cluster is, its members, the application's state.

use super::poll::Flow;
use super::snapshot::{Head, Reading};
use super::{Node, Output, Phase};
use crate::codec::Coded;
use crate::event::Fault;
use crate::membership::Member;
use crate::storage::Storage;
use crate::types::EntryId;

impl<S: Storage> Node<[u8], S> {
    pub(super) fn restore_piece(
        &mut self,
        offset: u32,
        at: usize,
        piece: &[u8],
        frame: &[u8],
        flash: &[u8],
    ) -> Flow {
        let (Reading::Restore { mut members, mut state_at, .. }, Some(snapshot)) =
            (self.reading, self.storage.snapshot())
        else {
            return Flow::Again;
        };
        let end = offset.saturating_add(piece.len() as u32);
        let mut rest = piece;
        if members.is_none() {
            let Some((head, after)) = Head::take(rest) else {
                return self.unsound_snapshot();
            };
            (self.limits, self.generations) = (head.limits, head.generations);
            if !self.check_buffers(frame, flash) {
                return Flow::Again;
            }
            self.roster.clear();
            self.raft.set_membership(head.membership, &mut self.log);
            members = Some(head.members);
            rest = after;
        }
        while let Some(left) = members.filter(|left| *left > 0 && !rest.is_empty()) {
            let Some((member, after)) = Member::take(rest) else {
                return self.unsound_snapshot();
            };
            if self.roster.push(member).is_err() {
                return self.unsound_snapshot();
            }
            members = Some(left.saturating_sub(1));
            rest = after;
        }
        if members == Some(0) && state_at == 0 {
            state_at = end.saturating_sub(rest.len() as u32);
        }
        let last = end >= snapshot.bytes;
        if last {
            if members != Some(0) || (end > snapshot.bytes) || piece.is_empty() {
                return self.unsound_snapshot();
            }
            self.reading = Reading::None;
            let recovers = self.recovery.is_some();
            self.phase = if recovers { Phase::Recovering } else { Phase::Running };
            self.look_for_own_place();
            self.forward_restored();
        } else {
            self.reading = Reading::Restore { offset: end, members, state_at, asked: false };
        }
        // The snapshot of a founding has no state: the application is as it was made.
        let has_state = !rest.is_empty() || (last && snapshot.id != EntryId::ZERO);
        if !has_state || self.newer_schema.is_some() {
            return Flow::Again;
        }
        let len = rest.len();
        let at = at.saturating_add(piece.len()).saturating_sub(len);
        let offset = end.saturating_sub(len as u32).saturating_sub(state_at);
        Flow::Out(Output::RestoreSnapshot { offset, at, len, last })
    }

    fn unsound_snapshot(&mut self) -> Flow {
        self.stop(Fault::Snapshot);
        Flow::Again
    }
}
