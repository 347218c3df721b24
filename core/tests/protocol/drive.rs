//! What a board owes, done: flash writes, messages, entries to apply, pieces of snapshots.

use crate::board::Record;
use crate::render;
use crate::support::{Cluster, Sent, id};
use quorate::entry::Kind;
use quorate::wire::{self, Envelope, Message};
use quorate::{ClusterId, EntryId, Generation, Instant, NodeId, NodeSet};

/// More messages than this in answer to one input are a loop without end.
const MESSAGES_MAX: usize = 60;
/// A snapshot of this host: so many bytes, sent in pieces.
const SNAPSHOT_BYTES: u32 = 40;
const PIECE_BYTES: u32 = 16;

impl Cluster {
    /// What a leader tells a board by its snapshot's pieces, up to the last.
    pub(crate) fn receive_snapshot(&mut self, n: u8, message: Message) {
        let Message::Snapshot { id: whole, offset, .. } = message else {
            panic!("{message:?} is no snapshot");
        };
        let board = self.board_mut(n);
        if board.receiving.is_none_or(|(id, _)| id != whole) {
            board.receiving = Some((whole, 0));
        }
        let Some((_, here)) = &mut board.receiving else { return };
        if offset == *here {
            *here = (*here + PIECE_BYTES).min(SNAPSHOT_BYTES);
        }
        let here = *here;
        if here < SNAPSHOT_BYTES {
            if let Some(lead) = self.board(n).raft.lead() {
                let term = self.board(n).raft.term();
                let message = Message::SnapshotReply { term, id: whole, offset: here };
                self.send(n, NodeSet::one(lead), message, &[]);
            }
            return;
        }
        let applied = self.checks.prefix(whole.index);
        let membership = self.checks.membership(whole).unwrap_or(self.first_membership());
        let board = self.board_mut(n);
        board.receiving = None;
        board.raft.restore(whole, membership, &mut board.log);
        board.applied = applied;
        board.disk.snapshot = whole;
        board.disk.membership = Some(membership);
        if board.disk.last().index <= whole.index || board.log.count() == 0 {
            board.disk.base = whole;
            board.disk.entries.clear();
        }
        board.disk.commit = board.disk.commit.max(whole.index);
        self.note(format!("{n} installed the snapshot up to {whole:?}"));
    }

    /// Does all that board `n` owes: flash writes (unless by hand), messages, entries to apply.
    pub(crate) fn pump(&mut self, n: u8) {
        let (mut messages, mut writes) = (0, 0);
        loop {
            self.note_events(n);
            let setup = self.setup;
            let board = self.board_mut(n);
            if !board.manual && board.is_dirty() {
                board.persist_begins();
                board.persist_ends();
                writes += 1;
                assert!(writes < MESSAGES_MAX, "{n} never ends writing: {:?}", self.board(n).disk);
                continue;
            }
            if let Some(outgoing) = board.raft.poll_message(&mut board.log) {
                let mut payload = vec![0; setup.frame_bytes];
                let mut len = 0;
                if let Message::Append { prev, .. } = outgoing.message {
                    let head = wire::APPEND_OVERHEAD_BYTES_MAX;
                    let room = (setup.frame_bytes - head).min(outgoing.entries_bytes_max);
                    let (last, bytes) = board.log.fit(prev.index, outgoing.entries_upto, room);
                    assert_eq!(board.log.copy(prev.index, last, &mut payload), Some(bytes));
                    board.raft.sent(outgoing.to, last);
                    len = bytes;
                }
                self.send(n, outgoing.to, outgoing.message, &payload[..len]);
                messages += 1;
                assert!(messages < MESSAGES_MAX, "{n} never ends: {:?}", outgoing.message);
                continue;
            }
            if let Some((to, offset)) = board.raft.poll_snapshot() {
                board.raft.snapshot_sent(to);
                let message = Message::Snapshot {
                    term: board.raft.term(),
                    id: board.disk.snapshot,
                    offset,
                    bytes: SNAPSHOT_BYTES,
                    check: 0,
                };
                let piece = [n; PIECE_BYTES as usize];
                let len = PIECE_BYTES.min(SNAPSHOT_BYTES - offset) as usize;
                self.send(n, NodeSet::one(to), message, &piece[..len]);
                continue;
            }
            if let Some(read) = board.raft.poll_read() {
                board.reads.push((read, board.commands().len()));
                continue;
            }
            let next = board.raft.applied().next();
            if !board.applies_later && next <= board.raft.commit().min(board.log.durable()) {
                let mut data = [0; 256];
                let (kind, term, len) = board.log.read(next, &mut data).unwrap();
                let record =
                    Record { id: EntryId::new(next, term), kind, data: data[..len].to_vec() };
                board.raft.set_applied(next);
                board.applied.push(record.clone());
                if kind == Kind::Membership {
                    let now = Instant::from_millis(board.now);
                    // One that can't be made is none.
                    let _ = board.raft.apply_change(
                        now,
                        &record.data,
                        &mut board.log,
                        &mut board.events,
                    );
                }
                self.checks.applied(n, &record);
                if kind == Kind::Command {
                    self.note(format!("{n} applies {}", render::record(&record)));
                }
                continue;
            }
            if setup.snapshots && board.log.bytes_free() < board.log.bytes_capacity() / 2 {
                let board = self.board(n);
                if board.raft.applied() > board.raft.snapshot().index {
                    self.snapshot(n);
                    self.board_mut(n).make_room(setup.log_bytes / 4);
                    continue;
                }
            }
            break;
        }
        let mut checks = std::mem::take(&mut self.checks);
        checks.board(self.board_mut(n));
        self.checks = checks;
    }

    fn note_events(&mut self, n: u8) {
        while let Some(event) = self.board_mut(n).events.pop() {
            self.checks.event(n, &event);
            self.note(format!("{n} {}", render::event(&event)));
        }
    }

    fn send(&mut self, from: u8, to: NodeSet, message: Message, payload: &[u8]) {
        assert!(!to.is_empty() && !to.contains(id(from)), "{message:?} to {to:?}");
        self.checks.said(&self.boards[usize::from(from) - 1], id(from), &message);
        let to_text: Vec<String> = to.iter().map(|id| id.to_string()).collect();
        self.note(format!("{from}->{} {}", to_text.join(","), render::message(&message, payload)));
        for receiver in to.iter() {
            let bytes = encode(from, receiver, message, payload);
            assert!(bytes.len() <= self.setup.frame_bytes, "{message:?} is too long");
            self.network.push(Sent { from: id(from), to: receiver, bytes });
        }
    }
}

pub(crate) fn encode(from: u8, to: NodeId, message: Message, payload: &[u8]) -> Vec<u8> {
    let envelope = Envelope {
        cluster: ClusterId(*b"test"),
        to: NodeSet::one(to),
        from: id(from),
        generation: Generation(1),
        message,
    };
    let mut frame = vec![0; payload.len() + 96];
    let head = wire::encode(&envelope, &mut frame).unwrap();
    frame[head..head + payload.len()].copy_from_slice(payload);
    let len = wire::seal(&mut frame, head + payload.len()).unwrap();
    frame.truncate(len);
    frame
}
