//! Whole nodes: frames that nobody sent, with every field at its ends. What a node takes in never makes it say what others
//! refuse, stops it, or keeps it from going on.

use crate::support::{Cluster, FRAME_BYTES, Host, LIMITS, forged, id};
use proptest::prelude::*;
use quorate::entry::Entries;
use quorate::event::Event;
use quorate::node::Status;
use quorate::raft::Role;
use quorate::wire::{self, COUNT_MAX, Message, Reject};
use quorate::{ClusterId, EntryId, Generation, Index, Instant, Term};
use std::sync::OnceLock;

/// A whole snapshot of the cluster, as its leader sent it.
struct Snapshot {
    pieces: Vec<Vec<u8>>,
    bytes: u32,
    check: u32,
}

/// All pieces of a leader's snapshot, as it sends them to a member that asks.
fn snapshot() -> &'static Snapshot {
    static SNAPSHOT: OnceLock<Snapshot> = OnceLock::new();
    SNAPSHOT.get_or_init(|| {
        let (mut cluster, leader) = started();
        for i in 0..100u8 {
            cluster.hosts[leader].node.propose(&[i; 8]).unwrap();
            cluster.settle();
        }
        let (now, host) = (cluster.now, &mut cluster.hosts[leader]);
        let Status { id: own, term, .. } = host.node.status();
        let other = id((leader as u8 + 1) % 3 + 1);
        let (mut taken, mut wanted) = (EntryId::ZERO, 0);
        let mut all = Snapshot { pieces: vec![], bytes: 1, check: 0 };
        while wanted < all.bytes {
            let reply = Message::SnapshotReply { term, id: taken, offset: wanted };
            host.node.handle_frame(now, &forged((other, 1), own.unwrap(), reply, &[]));
            for (_, frame) in host.drive(now) {
                let frame = wire::decode(&frame).unwrap();
                let Message::Snapshot { id, offset, bytes, check, .. } = frame.envelope.message
                else {
                    continue;
                };
                assert_eq!(offset, wanted);
                (taken, all.bytes, all.check) = (id, bytes, check);
                wanted += frame.payload.len() as u32;
                all.pieces.push(frame.payload.to_vec());
            }
        }
        all
    })
}

fn started() -> (Cluster, usize) {
    let mut cluster = Cluster::new(3);
    cluster.run(2000);
    let leader = cluster.leader().expect("a leader");
    (cluster, leader)
}

/// A board among frames of members that are not there.
struct Alone {
    host: Host,
    own: u8,
    now: Instant,
    asked: Option<(Term, bool)>,
}

impl Alone {
    /// A leader, or one of its followers.
    fn of_three(leads: bool) -> Self {
        let (mut cluster, leader) = started();
        let own = if leads { leader } else { (leader + 1) % 3 };
        Self {
            host: cluster.hosts.swap_remove(own),
            own: own as u8 + 1,
            now: cluster.now,
            asked: None,
        }
    }

    /// One that has just been given a place, and knows nobody.
    fn admitted() -> Self {
        let host = Host::join(1, 7, Instant::ZERO);
        let mut alone = Self { host, own: 1, now: Instant::ZERO, asked: None };
        alone.drive();
        alone.hear(2, ADMITTED, &bytes_of(&LIMITS));
        assert!(alone.status().running);
        alone
    }

    fn status(&self) -> Status {
        self.host.node.status()
    }

    fn hear(&mut self, from: u8, message: Message, payload: &[u8]) -> Vec<Message> {
        self.host
            .node
            .handle_frame(self.now, &forged((id(from), 1), id(self.own), message, payload));
        self.drive()
    }

    fn pass(&mut self, ms: u32) -> Vec<Message> {
        self.now = self.now.after(ms);
        let mut said = vec![];
        // What is due may follow from what was due before.
        for _ in 0..4 {
            self.host.node.handle_timeout(self.now);
            said.extend(self.drive());
            if self.host.until > self.now {
                return said;
            }
        }
        panic!("it waits for what is past");
    }

    /// All pieces of a snapshot, as of this entry.
    fn install(&mut self, from: u8, term: Term, id: EntryId) {
        let Snapshot { pieces, bytes, check } = snapshot();
        let mut offset = 0;
        for piece in pieces {
            let message = Message::Snapshot { term, id, offset, bytes: *bytes, check: *check };
            self.hear(from, message, piece);
            offset += piece.len() as u32;
        }
    }

    /// Does what there is to do; what it says, which others can read.
    fn drive(&mut self) -> Vec<Message> {
        let frames = self.host.drive(self.now);
        let fault = self.status().fault;
        assert!(fault.is_none(), "stopped by what it heard: {fault:?}");
        let said: Vec<_> = frames.iter().map(|(_, frame)| said(frame)).collect();
        for message in &said {
            if let Message::VoteRequest { term, pre, .. } = *message {
                self.asked = Some((term, pre));
            }
        }
        said
    }

    fn is_voted_for(&mut self) {
        if let Some((term, pre)) = self.asked.take() {
            let from = if self.own == 2 { 3 } else { 2 };
            let commit = EntryId::ZERO;
            self.hear(from, Message::VoteReply { term, commit, pre, granted: true }, &[]);
        }
    }
}

/// A frame that a member takes as a whole.
fn said(frame: &[u8]) -> Message {
    assert!(frame.len() <= usize::from(FRAME_BYTES));
    let frame = wire::decode(frame).expect("others read what is said");
    if let Message::Append { term, prev, .. } = frame.envelope.message {
        for entry in Entries::new(prev, frame.payload) {
            assert!(entry.expect("others read its entries").id.term <= term);
        }
    }
    frame.envelope.message
}

/// The answer to the request of a board that asks with 7; the payload is the cluster's limits.
const ADMITTED: Message = Message::Admitted { term: Term(0), nonce: 7, generation: Generation(1) };

fn bytes_of(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_slice(value, &mut [0; 64]).unwrap().to_vec()
}

/// A counter: from where it begins, from where the board is, or from its end.
#[derive(Clone, Copy, Debug)]
enum Count {
    First(u64),
    Here(i64),
    Last(u64),
}

fn count() -> impl Strategy<Value = Count> {
    prop_oneof![
        1 => (0u64..3).prop_map(Count::First),
        4 => (-2i64..3).prop_map(Count::Here),
        3 => (0u64..3).prop_map(Count::Last),
    ]
}

impl Count {
    fn at(self, here: u64) -> u64 {
        match self {
            Self::First(count) => count,
            Self::Here(ahead) => here.saturating_add_signed(ahead).min(COUNT_MAX),
            Self::Last(before) => COUNT_MAX - before,
        }
    }
}

/// Numbers that end with their type.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..4, (0u32..4).prop_map(|n| u32::MAX - n), any::<u32>()]
}

/// What a message is made of, whatever kind it is.
#[derive(Clone, Copy, Debug)]
struct Said {
    kind: u8,
    term: Count,
    indexes: [Count; 3],
    terms: [Count; 2],
    numbers: [u32; 3],
    flags: [bool; 3],
    member: u8,
    generation: u16,
}

prop_compose! {
    fn message()(
        kind in 0u8..14,
        (term, indexes, terms) in (count(), [count(), count(), count()], [count(), count()]),
        numbers in [number(), number(), number()],
        flags in any::<[bool; 3]>(),
        member in 1u8..=31,
        generation in prop_oneof![0u16..3, Just(u16::MAX)],
    ) -> Said {
        Said { kind, term, indexes, terms, numbers, flags, member, generation }
    }
}

impl Said {
    /// The message, with what depends on another field no further than that.
    fn to(self, board: &Status) -> Message {
        let term = Term(self.term.at(board.term.0));
        let [a, b, c] = self.indexes.map(|count| Index(count.at(board.last.index.0)));
        let [t, u] = self.terms.map(|count| Term(count.at(board.last.term.0)).min(term));
        let ([x, y, z], [f, g, h]) = (self.numbers, self.flags);
        let (first, second) = (EntryId::new(a, t), EntryId::new(b, u));
        match self.kind {
            0 => Message::Append { term, prev: first, commit: b },
            1 => Message::Heartbeat { term, commit: first, round: x, reply: f },
            2 => Message::Reply {
                term,
                matched: a.min(b),
                received: b,
                round: x,
                reject: f.then_some(Reject { rejected: c, hint: second }),
                room: g.then_some(y),
            },
            3 => Message::VoteRequest { term, last: first, commit: second, pre: f, transfer: g },
            4 => Message::VoteReply { term, commit: first, pre: f, granted: g || h },
            5 => Message::Snapshot { term, id: first, offset: x.min(y), bytes: y, check: z },
            6 => {
                // That of the leader's own snapshot, or another.
                let id = if f { board.snapshot } else { first };
                Message::SnapshotReply { term: term.max(id.term), id, offset: x }
            }
            7 => Message::Join { nonce: x },
            8 => {
                let generation = Generation(self.generation);
                Message::Admitted { term, nonce: x, generation }
            }
            9 => Message::TimeoutNow { term },
            10 => Message::Transfer { term, to: id(self.member) },
            11 => Message::ReadIndex { term, context: x, lease: f },
            12 => Message::ReadIndexReply { term, context: x, index: a },
            _ => Message::Propose { term },
        }
    }
}

/// An entry behind another: its kind, whether it is of the message's term or of the one before, its data.
type Behind = (u8, bool, Vec<u8>);

fn entries(prev: Term, term: Term, behind: &[Behind]) -> Vec<u8> {
    let (mut before, mut bytes) = (prev, vec![]);
    for (kind, rises, data) in behind {
        let rises = *rises && before < term;
        if *kind == 0 && !rises {
            bytes.push(data.len() as u8);
        } else {
            let tag = 0x80 | (kind % 4) | if rises { 4 } else { 0 };
            bytes.extend([tag, data.len() as u8]);
        }
        if rises {
            before = term;
            bytes.extend(bytes_of(&term.0));
        }
        bytes.extend(data);
    }
    bytes
}

#[derive(Clone, Debug)]
enum Step {
    Hears(u8, Said, Vec<Behind>),
    Installs(Count, Count, Count),
    Passes(u32),
    /// The last vote that it asked for is given to it.
    IsVotedFor,
    Proposes(usize),
    Forwards(usize),
    Reads(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let data = prop::collection::vec(any::<u8>(), 0..12);
    let behind = prop::collection::vec((0u8..4, any::<bool>(), data), 0..4);
    let step = prop_oneof![
        10 => (2u8..=3, message(), behind).prop_map(|(f, m, b)| Step::Hears(f, m, b)),
        1 => (count(), count(), count()).prop_map(|(term, i, t)| Step::Installs(term, i, t)),
        4 => prop_oneof![0u32..50, 1000u32..3000].prop_map(Step::Passes),
        3 => Just(Step::IsVotedFor),
        2 => (0usize..20).prop_map(Step::Proposes),
        1 => (0usize..20).prop_map(Step::Forwards),
        1 => any::<bool>().prop_map(Step::Reads),
    ];
    prop::collection::vec(step, 1..40)
}

fn live(mut board: Alone, steps: &[Step]) {
    // Members 2 and 3 are those that it is not.
    let member = |own: u8, n: u8| if n == own { 1 } else { n };
    for step in steps {
        let (status, now) = (board.status(), board.now);
        match step {
            Step::Hears(from, said, behind) => {
                let message = said.to(&status);
                let payload = match message {
                    Message::Append { term, prev, .. } => entries(prev.term, term, behind),
                    Message::Admitted { .. } => bytes_of(&LIMITS),
                    _ => behind.iter().flat_map(|(.., data)| data.clone()).collect(),
                };
                board.hear(member(board.own, *from), message, &payload);
            }
            Step::Installs(term, index, of) => {
                let term = Term(term.at(status.term.0));
                let of = Term(of.at(status.last.term.0)).min(term);
                let from = status.leader.map_or(2, |lead| lead.get());
                let index = Index(index.at(status.last.index.0));
                board.install(member(board.own, from), term, EntryId::new(index, of));
            }
            Step::Passes(ms) => _ = board.pass(*ms),
            Step::IsVotedFor => board.is_voted_for(),
            Step::Proposes(len) => _ = board.host.node.propose(&vec![1; *len]),
            Step::Forwards(len) => {
                _ = board.host.node.forward(&vec![2; *len], now.after(500));
            }
            Step::Reads(lease) => _ = board.host.node.read(now, *lease),
        }
        board.drive();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_a_follower_hears_others_can_read_what_it_says(steps in steps()) {
        live(Alone::of_three(false), &steps);
    }

    #[test]
    fn whatever_a_leader_hears_others_can_read_what_it_says(steps in steps()) {
        live(Alone::of_three(true), &steps);
    }

    #[test]
    fn whatever_a_board_that_knows_nobody_hears_others_can_read_what_it_says(steps in steps()) {
        live(Alone::admitted(), &steps);
    }
}

#[test]
fn at_the_last_term_a_board_stands_for_nothing_and_takes_part_in_all_else() {
    let mut board = Alone::of_three(false);
    let asks = |said: &[Message]| said.iter().any(|m| matches!(m, Message::VoteRequest { .. }));
    // The one before the last has a successor.
    let said = board.hear(3, Message::TimeoutNow { term: Term(COUNT_MAX - 1) }, &[]);
    assert!(asks(&said) && board.status().term == Term(COUNT_MAX), "{said:?}");
    board.pass(10_000);
    let said = board.hear(3, Message::TimeoutNow { term: Term(COUNT_MAX) }, &[]);
    assert!(!asks(&said), "{said:?}");

    let mut board = Alone::of_three(false);
    let (term, Status { last, .. }) = (Term(COUNT_MAX), board.status());
    let vote = Message::VoteRequest { term, last, commit: last, pre: false, transfer: true };
    let said = board.hear(3, vote, &[]);
    assert!(matches!(said[..], [Message::VoteReply { granted: true, .. }]), "{said:?}");
    for _ in 0..10 {
        let said = board.pass(10_000);
        assert!(!asks(&said), "{said:?}");
        assert!(board.host.until < board.now.after(10_000), "it wakes as others do");
    }
    let beat = Message::Heartbeat { term, commit: last, round: 5, reply: true };
    let said = board.hear(3, beat, &[]);
    assert!(matches!(said[..], [Message::Reply { round: 5, .. }]), "{said:?}");
}

#[test]
fn a_cluster_that_is_founded_anew_out_of_a_board_begins_with_the_first_term() {
    let mut board = Alone::of_three(false);
    board.hear(3, Message::TimeoutNow { term: Term(COUNT_MAX) }, &[]);
    assert_eq!(board.status().term, Term(COUNT_MAX));
    board.host.recover(board.now, ClusterId([9; 4]));
    board.drive();
    board.pass(10_000);
    let Status { role, term, .. } = board.status();
    assert_eq!((role, term), (Role::Leader, Term(1)));
}

#[test]
fn behind_the_last_index_no_entry_is_taken_or_made() {
    let installed = |index| {
        let mut board = Alone::of_three(false);
        let Status { term, leader, .. } = board.status();
        let (lead, id) = (leader.unwrap().get(), EntryId::new(Index(index), term));
        board.install(lead, term, id);
        assert_eq!(board.status().last, id);
        (board, lead, id)
    };
    let append = |prev: EntryId| Message::Append { term: prev.term, prev, commit: prev.index };
    let made = |board: &mut Alone, lead: u8, term: Term| {
        board.hear(lead, Message::TimeoutNow { term }, &[]);
        board.is_voted_for();
        let Status { role, last, .. } = board.status();
        (role, last.index.0)
    };

    let (mut board, lead, id) = installed(COUNT_MAX - 1);
    board.hear(lead, append(id), &entries(id.term, id.term, &[(0, false, vec![1])]));
    assert_eq!(board.status().last.index.0, COUNT_MAX);
    let (mut board, lead, id) = installed(COUNT_MAX - 1);
    assert_eq!(made(&mut board, lead, id.term), (Role::Leader, COUNT_MAX));

    let (mut board, lead, id) = installed(COUNT_MAX);
    board.host.events.clear();
    board.hear(lead, append(id), &entries(id.term, id.term, &[(0, false, vec![1])]));
    let impossible = |event: &Event| matches!(event, Event::ImpossibleFrame { .. });
    assert!(board.host.events.iter().any(impossible), "{:?}", board.host.events);
    assert_eq!(board.status().last, id);
    assert_eq!(made(&mut board, lead, id.term), (Role::Follower, COUNT_MAX));
}

#[test]
fn an_answer_to_a_round_that_was_not_begun_confirms_no_read() {
    let mut board = Alone::of_three(true);
    let Status { term, last, .. } = board.status();
    let from = if board.own == 2 { 3 } else { 2 };
    let answer = |round| {
        let (matched, received) = (last.index, last.index);
        Message::Reply { term, matched, received, round, reject: None, room: None }
    };
    for round in [u32::MAX, 1 << 20] {
        board.hear(from, answer(round), &[]);
        board.host.node.read(board.now, false).unwrap();
        board.drive();
        board.hear(from, answer(round), &[]);
        assert!(board.host.reads.is_empty(), "{round}");
    }
    let said = board.pass(1000);
    let begun = said.iter().rev().find_map(|message| match *message {
        Message::Heartbeat { round, .. } => Some(round),
        _ => None,
    });
    board.hear(from, answer(begun.unwrap()), &[]);
    assert_eq!(board.host.reads.len(), 2);
}

#[test]
fn a_member_that_is_said_to_be_behind_the_end_of_a_snapshot_is_sent_it_anew() {
    let mut board = Alone::of_three(true);
    let term = board.status().term;
    let from = if board.own == 2 { 3 } else { 2 };
    let piece = |said: &[Message]| {
        said.iter().find_map(|message| match *message {
            Message::Snapshot { id, offset, bytes, .. } => Some((id, offset, bytes)),
            _ => None,
        })
    };
    let wanted = |id, offset| Message::SnapshotReply { term, id, offset };
    let (id, first, bytes) = piece(&board.hear(from, wanted(EntryId::ZERO, 0), &[])).unwrap();
    assert_eq!(first, 0);
    for offset in [u32::MAX, bytes] {
        board.hear(from, wanted(id, offset), &[]);
        let ms = board.host.config.heartbeat_ms;
        let again = (0..3).find_map(|_| piece(&board.pass(ms)));
        assert_eq!(again, Some((id, 0, bytes)), "{offset}");
    }
}
