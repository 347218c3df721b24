//! What a script's node has in storage, entry by entry.

use quorate::change::{Change, Transition};
use quorate::entry::{Entries, Kind};
use quorate::log::Log;
use quorate::raft::Raft;
use quorate::{EntryId, Index, NodeId, Term};

use super::command::{ConfChange, steps_text};

/// The address by which an entry remembers that it was proposed in the first form: the core keeps addresses, and
/// makes no difference between the two.
const FIRST_FORM: &[u8] = b"v1";
/// The longest change of membership, encoded.
const CHANGE_BYTES_MAX: usize = 1 << 10;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: EntryId,
    pub(super) kind: Kind,
    pub(super) data: Vec<u8>,
}

/// What storage holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) term: Term,
    pub(super) vote: Option<NodeId>,
    commit: Index,
    base: EntryId,
    entries: Vec<Record>,
}

impl Disk {
    /// All that a node has in RAM.
    pub(super) fn of(raft: &Raft, log: &mut Log) -> Self {
        Self {
            term: raft.term(),
            vote: raft.vote(),
            commit: raft.commit(),
            base: log.base(),
            entries: records(log),
        }
    }

    /// A leader's snapshot takes the place of everything.
    pub(super) fn restored(self, base: EntryId) -> Self {
        Self { base, entries: Vec::new(), ..self }
    }

    /// Up to here it holds the same entries as the log, as far as they are not compacted (Log Matching).
    pub(super) fn agrees_up_to(&self, log: &mut Log) -> Index {
        let same = self.entries.iter().rfind(|record| log.holds(record.id));
        same.map_or(self.base.index, |record| record.id.index)
    }

    /// An entry in a line, as scripts have it.
    pub(super) fn text(&self) -> Vec<String> {
        if self.entries.is_empty() {
            let last = self.base.index;
            return vec![format!("log is empty: first index={}, last index={last}", last.next())];
        }
        let text = |record: &Record| {
            let (kind, data) = record.words();
            let EntryId { index, term } = record.id;
            match kind {
                "normal" => format!("{term}/{index} EntryNormal {data:?}"),
                "cc1" => format!("{term}/{index} EntryConfChange {data}"),
                _ => format!("{term}/{index} EntryConfChangeV2 {data}").trim_end().to_owned(),
            }
        };
        self.entries.iter().map(text).collect()
    }

    pub(super) fn compact(&mut self, index: Index) {
        if let Some(at) = self.entries.iter().position(|record| record.id.index == index) {
            self.base = self.entries[at].id;
            self.entries.drain(..=at);
        }
    }
}

/// The entries of a log.
pub(super) fn records(log: &mut Log) -> Vec<Record> {
    let (base, last) = (log.base(), log.last());
    let mut bytes = vec![0; log.bytes_used()];
    let len = log.copy(base.index, last.index, &mut bytes).unwrap_or(0);
    let entries = Entries::new(base, bytes.get(..len).unwrap_or_default());
    let record = |entry: quorate::entry::Entry<'_>| Record {
        id: entry.id,
        kind: entry.kind,
        data: entry.data.to_vec(),
    };
    entries.flatten().map(record).collect()
}

/// Bytes of an entry as the original counts them for its limits: protobuf, without a field for data that is not there.
pub(super) fn entry_bytes(record: &Record) -> u64 {
    let varint = |value: u64| u64::from((64 - (value | 1).leading_zeros()).div_ceil(7));
    let data = match record.data.len() as u64 {
        0 => 0,
        len => 1 + varint(len) + len,
    };
    2 + 1 + varint(record.id.term.0) + 1 + varint(record.id.index.0) + data
}

/// A change as an entry's data.
pub(super) fn encode(change: &ConfChange) -> Option<Vec<u8>> {
    if change.steps.is_empty() && change.transition == Transition::Auto {
        return Some(Vec::new());
    }
    let mut steps = change.steps.clone();
    if change.v1 {
        steps.iter_mut().try_for_each(|step| step.address.extend_from_slice(FIRST_FORM)).ok()?;
    }
    let mut data = vec![0; CHANGE_BYTES_MAX];
    let len = Change::encode(change.transition, &steps, &mut data)?;
    data.truncate(len);
    Some(data)
}

impl Record {
    /// What it is, in the words of the state files: `normal`, `cc1`, and `cc2`, `cc2i`, `cc2e` by transition; and its data
    /// as a script writes it.
    pub(super) fn words(&self) -> (&'static str, String) {
        if self.kind != Kind::Membership {
            return ("normal", String::from_utf8_lossy(&self.data).into_owned());
        }
        let Ok(change) = Change::decode(&self.data) else {
            return ("unreadable", String::new());
        };
        let first_form = |address: &[u8]| address == FIRST_FORM;
        let kind = match change.transition {
            Transition::Auto if change.steps().flatten().any(|step| first_form(&step.address)) => {
                "cc1"
            }
            Transition::Auto => "cc2",
            Transition::Implicit => "cc2i",
            Transition::Explicit => "cc2e",
        };
        (kind, steps_text(change.steps().flatten()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::command;

    #[test]
    fn a_change_keeps_its_form_and_its_words() {
        let cases = [
            (true, Transition::Auto, "v3", "cc1"),
            (false, Transition::Auto, "v3", "cc2"),
            (false, Transition::Implicit, "v3 r1", "cc2i"),
            (false, Transition::Explicit, "", "cc2e"),
            (false, Transition::Auto, "", "cc2"),
        ];
        for (v1, transition, text, kind) in cases {
            let steps = command::steps(text).unwrap();
            let data = encode(&ConfChange { v1, transition, steps }).unwrap();
            let record = Record { id: EntryId::ZERO, kind: Kind::Membership, data };
            assert_eq!(record.words(), (kind, text.to_owned()));
        }
    }

    #[test]
    fn an_entry_counts_as_many_bytes_as_its_encoding_has() {
        let record = |index, len| Record {
            id: EntryId::new(Index(index), Term(1)),
            kind: Kind::Command,
            data: vec![0; len],
        };
        assert_eq!(entry_bytes(&record(1, 0)), 6);
        assert_eq!(entry_bytes(&record(127, 3)), 6 + 5);
        assert_eq!(entry_bytes(&record(128, 200)), 7 + 203);
    }
}
