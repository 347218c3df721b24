//! Reads: what is asked while a linearizable one is under way goes along with the next one.

use quorate::node::{Node, ReadId};
use quorate::typed::ConfigMap;
use tokio::time::Instant;

use super::handle::{Item, Query, Read, ReadError, Shown};
use super::report::Counts;

#[derive(Default)]
pub(super) struct Reads {
    waiting: Vec<Read>,
    /// They were asked before the core began this one.
    begun: Option<(ReadId, Vec<Read>)>,
}

impl Reads {
    pub(super) fn put(&mut self, read: Read) {
        self.waiting.push(read);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.begun.as_ref().map_or(0, |(_, reads)| reads.len())
    }

    pub(super) fn advance(&mut self, node: &mut Node, now: quorate::Instant) {
        if self.begun.is_some() || self.waiting.is_empty() {
            return;
        }
        // Where those of followers take all places, or nothing is restored yet, it is for another time.
        if let Ok(id) = node.read(now, false) {
            self.begun = Some((id, std::mem::take(&mut self.waiting)));
        }
    }

    /// The state as it is now serves what was begun.
    pub(super) fn ready(&mut self, id: ReadId, map: &ConfigMap, counts: &mut Counts) {
        if let Some((_, reads)) = self.begun.take_if(|(begun, _)| *begun == id) {
            for read in reads {
                counts.reads_linearizable += 1;
                answer(read, map);
            }
        }
    }

    /// Gives up what has waited too long.
    pub(super) fn sweep(&mut self, node: &mut Node, now: Instant) {
        let over = |read: &mut Read| read.deadline <= now || read.answer.is_closed();
        let mut late: Vec<_> = self.waiting.extract_if(.., over).collect();
        if let Some((id, reads)) = &mut self.begun {
            late.extend(reads.extract_if(.., over));
            if reads.is_empty() {
                node.cancel_read(*id);
                self.begun = None;
            }
        }
        for read in late {
            let _ = read.answer.send(Err(ReadError::NoQuorum));
        }
    }
}

/// Answers a read with the state as it is now.
pub(super) fn answer(read: Read, map: &ConfigMap) {
    let items = match &read.query {
        Query::Key(key) => map.item(key).into_iter().map(item).collect(),
        Query::Prefix(prefix) => {
            map.iter().filter(|item| item.key.starts_with(prefix)).map(item).collect()
        }
    };
    let _ = read.answer.send(Ok(Shown { items, revision: map.revision() }));
}

pub(super) fn item(item: quorate::typed::Item<'_>) -> Item {
    Item { key: item.key.into(), value: item.value.into(), revision: item.revision }
}
