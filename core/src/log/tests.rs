//! The log against a list of entries, and what is told of bytes that are none.

use super::*;
use proptest::prelude::*;
use proptest::sample::Index as Pick;

const KEPT: usize = 6;

/// What the log is, as simply as can be.
#[derive(Clone, Debug, Default)]
struct Model {
    base: EntryId,
    entries: Vec<(EntryId, Kind, Vec<u8>)>,
    durable: u64,
    writing: u64,
    aside: Vec<u8>,
}

impl Model {
    fn last(&self) -> EntryId {
        self.entries.last().map_or(self.base, |e| e.0)
    }

    fn term(&self, index: u64) -> Option<Term> {
        if index == self.base.index.0 {
            return Some(self.base.term);
        }
        self.entries.iter().find(|e| e.0.index.0 == index).map(|e| e.0.term)
    }

    fn truncate(&mut self, last: u64) {
        self.entries.retain(|e| e.0.index.0 <= last);
        self.durable = self.durable.min(last);
        self.writing = self.writing.min(last);
    }

    fn compact(&mut self, index: u64) {
        if let Some(term) = self.term(index) {
            self.base = EntryId::new(Index(index), term);
            self.entries.retain(|e| e.0.index.0 > index);
            self.durable = self.durable.max(index);
            self.writing = self.writing.max(index);
        }
    }
}

/// The bytes of entries that follow one of term `before`.
fn encode(mut before: Term, entries: &[(EntryId, Kind, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (id, kind, data) in entries {
        let term = (id.term != before).then_some(id.term);
        let (head, len) = Head::encode(*kind, term, data.len() as u16);
        bytes.extend_from_slice(&head[..len]);
        bytes.extend_from_slice(data);
        before = id.term;
    }
    bytes
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        term_up: u64,
        data: Vec<u8>,
    },
    /// Entries from a leader: they follow entry `from`, agree for `same` entries, then are new.
    Take {
        from: Pick,
        same: usize,
        new: Vec<(u64, Vec<u8>)>,
        keep: Pick,
    },
    Compact(Pick),
    Reset {
        jump: u64,
    },
    WriteBegins(Pick),
    WriteEnds,
    Aside(Vec<u8>),
    DropAside,
    Look {
        from: Pick,
        to: Pick,
        bytes_max: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let data = || prop::collection::vec(any::<u8>(), 0..18);
    let step = prop_oneof![
        5 => (0u64..3, data()).prop_map(|(t, data)| Step::Append { term_up: t / 2, data }),
        5 => (any::<Pick>(), 0usize..4, prop::collection::vec((0u64..3, data()), 0..5), any::<Pick>())
            .prop_map(|(from, same, new, keep)| Step::Take { from, same, new, keep }),
        2 => any::<Pick>().prop_map(Step::Compact),
        1 => (0u64..1000).prop_map(|jump| Step::Reset { jump }),
        2 => any::<Pick>().prop_map(Step::WriteBegins),
        2 => Just(Step::WriteEnds),
        2 => data().prop_map(Step::Aside),
        1 => Just(Step::DropAside),
        3 => (any::<Pick>(), any::<Pick>(), 0usize..120)
            .prop_map(|(from, to, bytes_max)| Step::Look { from, to, bytes_max }),
    ];
    prop::collection::vec(step, 1..120)
}

fn pick(pick: &Pick, model: &Model) -> u64 {
    model.base.index.0 + pick.index(model.entries.len() + 1) as u64
}

fn take(log: &mut Log, model: &mut Model, from: u64, keep: u64, sent: &[(EntryId, Kind, Vec<u8>)]) {
    let prev = EntryId::new(Index(from), model.term(from).unwrap());
    let bytes = encode(prev.term, sent);
    let got = log.append_entries(Entries::new(prev, &bytes), Index(keep));
    let mut want = Appended::UpTo(sent.last().map_or(prev.index, |e| e.0.index));
    let mut upto = prev.index;
    for entry in sent {
        let index = entry.0.index;
        if index <= model.last().index {
            if model.term(index.0) == Some(entry.0.term) {
                upto = index;
                continue;
            }
            if index.0 <= keep {
                want = Appended::Conflict(index);
                break;
            }
            model.truncate(index.0 - 1);
        }
        let used = encode(model.base.term, &model.entries).len();
        let more = encode(model.last().term, std::slice::from_ref(entry)).len();
        if used + more > log.bytes_capacity() {
            want = Appended::FullAfter(upto);
            break;
        }
        model.entries.push(entry.clone());
        upto = index;
    }
    assert_eq!(got, want);
}

fn apply(log: &mut Log, model: &mut Model, step: &Step) {
    match step {
        Step::Append { term_up, data } => {
            let term = Term(model.last().term.0.max(1) + term_up);
            let id = EntryId::new(model.last().index.next(), term);
            let entry = (id, Kind::Command, data.clone());
            let used = encode(model.base.term, &model.entries).len();
            let needed = encode(model.last().term, std::slice::from_ref(&entry)).len();
            let free = log.bytes_capacity() - used;
            let got = log.append(term, Kind::Command, data);
            if needed <= free {
                assert_eq!(got, Ok(id));
                model.entries.push(entry);
            } else {
                assert_eq!(got, Err(Full { bytes_needed: needed, bytes_free: free }));
            }
        }
        Step::Take { from, same, new, keep } => {
            let from = pick(from, model);
            let keep = pick(keep, model);
            let here = model.entries.iter().filter(|e| e.0.index.0 > from);
            let mut sent: Vec<_> = here.take(*same).cloned().collect();
            for (up, data) in new {
                let before = sent.last().map_or(model.term(from).unwrap(), |e| e.0.term);
                let index = Index(from + sent.len() as u64 + 1);
                // Two entries of one index and term are the same entry (Log Matching).
                let mut term = Term(before.0.max(1) + up);
                if model.term(index.0) == Some(term) {
                    term = term.next();
                }
                sent.push((EntryId::new(index, term), Kind::Command, data.clone()));
            }
            take(log, model, from, keep, &sent);
        }
        Step::Compact(at) => {
            let index = pick(at, model);
            log.compact(Index(index));
            model.compact(index);
        }
        Step::Reset { jump } => {
            let base = EntryId::new(model.last().index.plus(*jump), model.last().term.next());
            log.reset(base);
            *model = Model {
                base,
                durable: base.index.0,
                writing: base.index.0,
                aside: std::mem::take(&mut model.aside),
                ..Model::default()
            };
        }
        Step::WriteBegins(last) => {
            let last = pick(last, model);
            log.write_begins(Index(last));
            model.writing = last;
        }
        Step::WriteEnds => {
            log.write_ends();
            model.durable = model.durable.max(model.writing);
        }
        Step::Aside(bytes) => {
            let fits = bytes.len() <= KEPT;
            assert_eq!(log.put_aside(bytes), fits);
            if fits {
                model.aside.clone_from(bytes);
            }
        }
        Step::DropAside => {
            log.drop_aside();
            model.aside.clear();
        }
        Step::Look { from, to, bytes_max } => {
            let (from, to) = (pick(from, model), pick(to, model));
            let here: Vec<_> =
                model.entries.iter().filter(|e| e.0.index.0 > from).cloned().collect();
            let before = model.term(from).unwrap();
            let fits = |n: &usize| encode(before, &here[..*n]).len() <= *bytes_max;
            let count = to.saturating_sub(from) as usize;
            let count = (0..=count).rev().find(fits).unwrap();
            let want = encode(before, &here[..count]);
            let (last, bytes) = log.fit(Index(from), Index(to), *bytes_max);
            assert_eq!((last.0, bytes), (from + count as u64, want.len()));
            let mut out = vec![0; bytes];
            assert_eq!(log.copy(Index(from), last, &mut out), Some(bytes));
            assert_eq!(out, want);
        }
    }
}

fn compare(log: &mut Log, model: &Model) {
    assert_eq!((log.base(), log.last()), (model.base, model.last()));
    assert_eq!(log.durable().0, model.durable);
    assert_eq!(log.count(), model.entries.len() as u64);
    let bytes = encode(model.base.term, &model.entries);
    assert_eq!(log.bytes_used(), bytes.len());
    assert_eq!(log.bytes_free(), log.bytes_capacity() - bytes.len());
    let (base, last) = (model.base.index.0, model.last().index.0);
    // Backwards too, so that no order of reading is the one that works.
    for index in (base.saturating_sub(1)..=last + 2).chain((base..=last).rev()) {
        assert_eq!(log.term(Index(index)), model.term(index), "term of {index}");
    }
    for (id, kind, data) in &model.entries {
        let mut out = [0; 18];
        assert_eq!(log.read(id.index, &mut out), Some((*kind, id.term, data.len())));
        assert_eq!(out[..data.len()], data[..]);
        assert_eq!(log.kind(id.index), Some((*kind, data.len())));
        assert!(log.holds(*id) && !log.holds(EntryId::new(id.index, id.term.next())));
    }
    for term in 0..=model.last().term.0 + 1 {
        for index in base..=last + 1 {
            let fits = |e: &EntryId| e.index.0 <= index && e.term.0 <= term;
            let ids = model.entries.iter().map(|e| e.0);
            let want = ids.rev().find(fits).unwrap_or(model.base);
            let id = EntryId::new(Index(index), Term(term));
            assert_eq!(log.find_conflict(id), want, "{id:?}");
        }
    }
    let mut aside = [0; KEPT];
    let len = log.read_aside(&mut aside).unwrap_or(0);
    assert_eq!(aside[..len], model.aside[..]);
    assert_eq!(log.read(Index(last + 1), &mut [0; 18]), None);
    assert_eq!(log.copy(Index(base), Index(last + 1), &mut [0; 400]), None);
}

fn check(log: &mut Log, steps: &[Step]) {
    let mut model = Model::default();
    log.keep_aside(KEPT);
    for step in steps {
        apply(log, &mut model, step);
        compare(log, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_log_of_any_size_does_what_a_list_of_entries_does(steps in steps(), size in 0usize..5) {
        match size {
            0 => check(&mut Log::<[u8; 23]>::new(), &steps),
            1 => check(&mut Log::<[u8; 64]>::new(), &steps),
            2 => check(&mut Log::<[u8; 97]>::new(), &steps),
            3 => check(&mut Log::<[u8; 131]>::new(), &steps),
            _ => check(&mut Log::<[u8; 257]>::new(), &steps),
        }
    }

    #[test]
    fn whatever_bytes_come_as_entries_the_log_stays_readable(
        bytes in prop::collection::vec(0u8..9, 0..60),
        term in 0u64..3,
        own in 0usize..4,
    ) {
        let mut log = Log::<[u8; 61]>::new();
        let log: &mut Log = &mut log;
        for _ in 0..own {
            log.append(Term(1), Kind::Command, b"abc").unwrap();
        }
        log.append_entries(Entries::new(EntryId::new(Index(own as u64), Term(term)), &bytes), Index::ZERO);
        let mut out = [0; 61];
        let len = log.copy(Index::ZERO, log.last().index, &mut out).unwrap();
        prop_assert_eq!(len, log.bytes_used());
        let all: Vec<_> = Entries::new(EntryId::ZERO, &out[..len]).map(|e| e.unwrap().id).collect();
        prop_assert_eq!(all.last().copied().unwrap_or(EntryId::ZERO), log.last());
    }
}

#[test]
fn an_overwritten_entry_is_not_durable_because_its_predecessor_was_written() {
    let mut log = Log::<[u8; 64]>::new();
    let log: &mut Log = &mut log;
    for _ in 0..3 {
        log.append(Term(1), Kind::Command, b"a").unwrap();
    }
    log.write_begins(Index(3));
    let other = (EntryId::new(Index(2), Term(2)), Kind::Command, b"b".to_vec());
    let one = EntryId::new(Index(1), Term(1));
    log.append_entries(Entries::new(one, &encode(Term(1), &[other])), Index(1));
    log.append(Term(2), Kind::Command, b"c").unwrap();
    log.write_ends();
    assert_eq!(log.durable(), Index(1), "entries 2 and 3 are others than those written");
    log.write_begins(Index(3));
    log.write_ends();
    assert_eq!(log.durable(), Index(3));
}

#[test]
fn entries_that_do_not_follow_the_log_are_not_taken() {
    let mut log = Log::<[u8; 64]>::new();
    let log: &mut Log = &mut log;
    log.append(Term(1), Kind::Command, b"a").unwrap();
    let next = |index, term| [(EntryId::new(Index(index), Term(term)), Kind::Command, vec![1])];
    for prev in [EntryId::new(Index(2), Term(1)), EntryId::new(Index(1), Term(2))] {
        let bytes = encode(prev.term, &next(prev.index.0 + 1, prev.term.0));
        let got = log.append_entries(Entries::new(prev, &bytes), Index::ZERO);
        assert_eq!((got, log.last().index), (Appended::Malformed, Index(1)), "{prev:?}");
    }
}

#[test]
fn what_is_put_aside_takes_what_is_kept_for_it_and_no_more() {
    let mut log = Log::<[u8; 32]>::new();
    let log: &mut Log = &mut log;
    assert!(!log.put_aside(&[7; 1]));
    log.keep_aside(10);
    assert!(log.put_aside(&[7; 10]) && !log.put_aside(&[9; 11]));
    assert_eq!(log.read_aside(&mut [0; 9]), None);
    while log.append(Term(1), Kind::Command, &[1]).is_ok() {}
    let mut out = [0; 10];
    assert_eq!((log.read_aside(&mut out), out), (Some(10), [7; 10]));
}

#[test]
fn an_entry_too_long_for_its_length_field_is_refused() {
    let mut log = Log::<[u8; 70_000]>::new();
    let log: &mut Log = &mut log;
    let longest = vec![5; crate::entry::DATA_BYTES_MAX];
    assert!(log.append(Term(1), Kind::Command, &longest).is_ok());
    log.reset(EntryId::ZERO);
    assert!(log.append(Term(1), Kind::Command, &[longest, vec![5]].concat()).is_err());
}
