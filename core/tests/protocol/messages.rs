//! Messages as other boards would send them, and a board to take them.

use crate::support::{Cluster, Setup};
use quorate::entry::Kind;
use quorate::log::Log;
use quorate::raft::Role;
use quorate::wire::Message;
use quorate::{EntryId, Index, Term};

pub(crate) fn append(term: u64, prev: EntryId, commit: u64) -> Message {
    Message::Append { term: Term(term), prev, commit: Index(commit) }
}

pub(crate) fn beat(term: u64, commit: EntryId) -> Message {
    Message::Heartbeat { term: Term(term), commit, round: 1, reply: true }
}

pub(crate) fn vote_request(term: u64, last: EntryId) -> Message {
    Message::VoteRequest {
        term: Term(term),
        last,
        commit: EntryId::ZERO,
        pre: false,
        transfer: false,
    }
}

pub(crate) fn vote(term: u64, granted: bool) -> Message {
    Message::VoteReply { term: Term(term), commit: EntryId::ZERO, pre: false, granted }
}

pub(crate) fn question(term: u64, last: EntryId) -> Message {
    Message::VoteRequest {
        term: Term(term),
        last,
        commit: EntryId::ZERO,
        pre: true,
        transfer: false,
    }
}

pub(crate) fn reply(term: u64, matched: u64) -> Message {
    let (matched, received) = (Index(matched), Index(matched));
    Message::Reply { term: Term(term), matched, received, round: 0, reject: None, room: None }
}

/// The encoded entries of these terms behind `prev`, each with data that tells term and index.
pub(crate) fn entries(prev: EntryId, terms: &[u64]) -> Vec<u8> {
    let mut log = Box::new(Log::<[u8; 1024]>::new());
    let log: &mut Log = &mut *log;
    log.reset(prev);
    for term in terms {
        let data = format!("{term}.{}", log.last().index.next());
        log.append(Term(*term), Kind::Command, data.as_bytes()).unwrap();
    }
    let mut bytes = vec![0; log.bytes_used()];
    log.copy(prev.index, log.last().index, &mut bytes).unwrap();
    bytes
}

/// Board 1 as follower, candidate or leader of term 1 in a cluster of three, with nothing on its way.
pub(crate) fn board_in(role: Role) -> Cluster {
    let mut cluster = Cluster::new(Setup::plain(3));
    match role {
        Role::Leader => {
            cluster.elect(1);
            cluster.beats(1);
        }
        Role::Candidate => cluster.campaign(1),
        _ => cluster.step(1, 2, beat(1, EntryId::ZERO), &[]),
    }
    cluster.network.clear();
    assert_eq!((cluster.board(1).raft.role(), cluster.board(1).raft.term()), (role, Term(1)));
    cluster
}

pub(crate) fn role(cluster: &Cluster, n: u8) -> (Role, u64) {
    (cluster.board(n).raft.role(), cluster.board(n).raft.term().0)
}

pub(crate) const ROLES: [Role; 3] = [Role::Follower, Role::Candidate, Role::Leader];
