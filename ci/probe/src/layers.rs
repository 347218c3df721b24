//! Drives the layers below [`Node`](quorate::node::Node) on their own: the log in RAM, the flash log,
//! the protocol, the wire and membership.

use quorate::change::Change;
use quorate::entry::{Entries, Kind};
use quorate::event::{Event, Events, Fault};
use quorate::flash::FlashDone;
use quorate::log::Log;
use quorate::membership::Membership;
use quorate::raft::{Options, Raft, Restored};
use quorate::wal::{HardState, Wal, Want};
use quorate::wire::{self, Envelope};
use quorate::{ClusterId, EntryId, Generation, Identity, Index, Term};

use crate::drive::{geometry, id, instant, set, step, transition};
use crate::port::{byte, fill, flag, half, show, size, some, some_mut, wide, word};

static mut LOG: Log<[u8; 1024]> = Log::new();
static mut RAFT: Raft = Raft::new();
static mut WAL: Wal = Wal::new();
static mut EVENTS: Events = Events::new();

/// One call of one layer, chosen from outside.
#[inline(never)]
pub fn drive(bytes: &mut [u8]) {
    fill(bytes);
    // SAFETY: the only references to these while this function runs, which does not call itself.
    let (log, raft, wal, events): (&mut Log, _, _, _) = unsafe {
        (&mut *(&raw mut LOG), &mut *(&raw mut RAFT), &mut *(&raw mut WAL), &mut *(&raw mut EVENTS))
    };
    match byte() {
        0 => log_calls(log, bytes),
        1 => wal_calls(wal, log, bytes),
        2 => raft_calls(raft, log, events, bytes),
        3 => events_calls(events),
        4 => membership_calls(),
        5 => change_calls(bytes),
        _ => wire_calls(bytes),
    }
}

fn index() -> Index {
    Index(wide())
}

fn entry_id() -> EntryId {
    EntryId::new(index(), Term(wide()))
}

fn kind() -> Kind {
    match byte() {
        0 => Kind::Command,
        1 => Kind::Empty,
        2 => Kind::Once,
        _ => Kind::Membership,
    }
}

#[inline(never)]
fn log_calls(log: &mut Log, bytes: &mut [u8]) {
    match byte() {
        0 => log.reset(entry_id()),
        1 => show((log.base(), log.last(), log.durable(), log.count())),
        2 => show((log.bytes_capacity(), log.bytes_used(), log.bytes_free())),
        3 => show(log.term(index())),
        4 => show((log.holds(entry_id()), log.find_conflict(entry_id()))),
        5 => show(log.append(Term(wide()), kind(), some(bytes))),
        6 => show(log.append_entries(Entries::new(entry_id(), some(bytes)), index())),
        7 => log.compact(index()),
        8 => show(log.fit(index(), index(), size())),
        9 => show(log.copy(index(), index(), some_mut(bytes))),
        10 => show(log.read(index(), some_mut(bytes))),
        11 => show((log.kind(index()), log.bytes_up_to(index()))),
        12 => log.write_begins(index()),
        13 => log.write_ends(),
        14 => show(log.put_aside(some(bytes))),
        15 => {
            show(log.read_aside(some_mut(bytes)));
            log.drop_aside();
        }
        16 => log.keep_aside(size()),
        17 => show((log.due(), log.bytes_behind(index()))),
        18 => show(log.append_whole(&Entries::new(entry_id(), some(bytes)), entry_id())),
        19 => show(log.copy_fit(index(), index(), some_mut(bytes))),
        _ => {
            let entries = Entries::new(entry_id(), some(bytes));
            show(entries.prev());
            entries.for_each(show);
        }
    }
}

#[inline(never)]
fn wal_calls(wal: &mut Wal, log: &mut Log, bytes: &mut [u8]) {
    match byte() {
        0 => show(wal.mount(geometry(), size())),
        1 => show(wal.format(geometry(), size(), identity(), flag())),
        2 => show(wal.poll(&want(), log, some_mut(bytes))),
        3 => wal.handle(if flag() { FlashDone::Ok } else { FlashDone::Failed }),
        4 => show((wal.is_busy(), wal.durable(), wal.snapshot(), wal.status(), wal.begun_crc())),
        5 => wal.begin_snapshot(entry_id()),
        6 => show((wal.chunk_bytes_max(), wal.put_chunk(word(), size()))),
        7 => wal.end_snapshot(flag()),
        8 => wal.abort_snapshot(),
        9 => wal.read_snapshot(word(), size()),
        10 => wal.set_note(word()),
        11 => show((wal.note(), wal.is_noted(), Wal::check(&geometry(), size(), word()))),
        12 => wal.reserve(word()),
        _ => show((wal.wants_snapshot(), wal.bytes_until_pressure())),
    }
}

fn identity() -> Identity {
    let cluster = ClusterId(word().to_le_bytes());
    Identity { cluster, node: id(), generation: Generation(half()) }
}

fn want() -> Want {
    let vote = flag().then(id);
    let hard_state = HardState { term: Term(wide()), vote, commit: index() };
    Want { hard_state, commit_needed: index(), idle: flag(), allow_erase: flag() }
}

#[inline(never)]
fn raft_calls(raft: &mut Raft, log: &mut Log, events: &mut Events, bytes: &mut [u8]) {
    let now = instant();
    match byte() {
        0 => raft.start(now, id(), options(), &restored(), log),
        1 => raft.handle_timeout(now, log, events),
        2 => {
            if let Ok(frame) = wire::decode(bytes) {
                let message = &frame.envelope.message;
                show(raft.step(now, id(), message, frame.payload, log, events));
            }
        }
        3 => raft.set_durable(now, Term(wide()), flag().then(id), log, events),
        4 => show(raft.propose(kind(), some(bytes), log)),
        5 => raft.set_applied(index()),
        6 => raft.set_snapshot(entry_id()),
        7 => raft.restore(entry_id(), membership(), log),
        8 => raft.set_membership(membership(), log),
        9 => show(raft.poll_message(log)),
        10 => raft.sent(set(), index()),
        11 => show(raft.poll_snapshot()),
        12 => raft.snapshot_sent(id()),
        13 => raft.campaign(now, log, events),
        14 => raft.report_unreachable(id()),
        15 => show(raft.propose_change(some(bytes), log)),
        16 => show(raft.apply_change(now, some(bytes), log, events)),
        17 => raft.forget_member(id(), log),
        18 => show((raft.active(), raft.has_caught_up(id()))),
        19 => show((raft.transfer_leader(now, id()), raft.transferring())),
        20 => show((raft.read(now, flag()), raft.poll_read())),
        21 => raft.cancel_read(word()),
        22 => raft.clock_stopped(),
        23 => show(raft.forget_leader()),
        24 => raft.set_election_timeout(word()),
        _ => look(raft),
    }
}

/// Everything that a node lets its user see of the protocol.
#[inline(never)]
pub fn look(raft: &Raft) {
    show((raft.id(), raft.role(), raft.term(), raft.vote(), raft.lead()));
    show((raft.commit(), raft.applied(), raft.snapshot(), raft.deadline()));
    show(raft.membership());
    if let Some(progress) = raft.progress(id()) {
        show((progress.state(), progress.matched(), progress.next()));
    }
}

fn options() -> Options {
    Options {
        election_ms: word(),
        heartbeat_ms: word(),
        pre_vote: flag(),
        check_quorum: flag(),
        step_down_on_removal: flag(),
        check_changes: flag(),
        lease_ms: word(),
        silent_ms: word(),
        seed: wide(),
    }
}

fn restored() -> Restored {
    Restored {
        term: Term(wide()),
        vote: flag().then(id),
        commit: index(),
        applied: index(),
        membership: membership(),
    }
}

fn membership() -> Membership {
    Membership {
        voters: set(),
        outgoing: set(),
        learners: set(),
        learners_next: set(),
        auto_leave: flag(),
    }
}

#[inline(never)]
fn events_calls(events: &mut Events) {
    match byte() {
        0 => events.push(Event::Stopped(Fault::Invariant(byte()))),
        1 => show(events.pop()),
        _ => show(events.lost()),
    }
}

#[inline(never)]
fn membership_calls() {
    let membership = if flag() { Membership::of_voters(set()) } else { membership() };
    show((membership.members(), membership.voters(), membership.is_joint()));
    show((membership.vote_result(set(), set()), membership.has_quorum(set())));
    show(membership.committed(|_| index()));
}

#[inline(never)]
fn change_calls(bytes: &mut [u8]) {
    show(Change::encode(transition(), &[step(), step()], some_mut(bytes)));
    match Change::decode(some(bytes)) {
        Ok(change) => {
            show((change.transition, change.leaves(), change.apply(&membership())));
            change.steps().for_each(show);
        }
        Err(error) => show(error),
    }
    let steps = || core::iter::once((step().what, id()));
    show((membership().changed_at_once(steps()), membership().changed(transition(), steps())));
}

#[inline(never)]
fn wire_calls(bytes: &mut [u8]) {
    match wire::decode(some(bytes)) {
        Ok(frame) => {
            let envelope: Envelope = frame.envelope;
            show((envelope.message.term(), frame.payload));
            let used = wire::encode(&envelope, some_mut(bytes)).unwrap_or_default();
            show(wire::payload_bytes_max(size(), used));
            show(wire::seal(some_mut(bytes), used));
        }
        Err(error) => show(error),
    }
}
