//! What clients may see: a plain map that takes the committed commands in order, and the promises made
//! to each client.

use std::collections::{BTreeMap, BTreeSet};

use quorate::entry::Kind;
use quorate::typed::{ConfigMap, Outcome, Value};
use quorate::{EntryId, Index, NodeId, NodeSet};

use super::protocol::entry_hash;
use super::rules::{Rule, Verdict};
use super::trace::Fnv;

/// What a client asks for. Values are numbers that are used once; deletions may be asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The key.
    pub key: String,
    /// Its new value; `None` deletes it.
    pub value: Option<i64>,
    /// The revision that the key must have.
    pub expected: Option<u64>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It made this revision.
    Done(u64),
    /// It was so already, since this revision.
    Unchanged(u64),
    /// The key has this revision, not the one expected.
    Mismatch(u64),
}

impl Effect {
    /// As a board tells it; `None` for an outcome that no request of this client can have.
    pub(super) const fn of(outcome: Outcome) -> Option<Self> {
        Some(match outcome {
            Outcome::Done { revision } => Self::Done(revision),
            Outcome::Unchanged { revision } => Self::Unchanged(revision),
            Outcome::Mismatch { revision } => Self::Mismatch(revision),
            _ => return None,
        })
    }
}

/// A state, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// Over keys, values and the revision of each key.
    pub hash: u64,
    /// Of the map.
    pub revision: u64,
}

impl Content {
    /// The content of a board.
    pub(super) fn of(map: &ConfigMap) -> Self {
        let mut hash = Fnv::default();
        for item in map.iter() {
            let value = match item.value {
                Value::Int(value) => value,
                // No client of the simulation writes anything else.
                _ => i64::MIN,
            };
            add(&mut hash, item.key, value, item.revision);
        }
        Self { hash: hash.0, revision: map.revision() }
    }
}

fn add(hash: &mut Fnv, key: &str, value: i64, revision: u64) {
    hash.add(&(key.len() as u32).to_le_bytes());
    hash.add(key.as_bytes());
    hash.add(&value.to_le_bytes());
    hash.add(&revision.to_le_bytes());
}

/// What became of a request.
#[derive(Clone, Debug)]
struct Known {
    request: Request,
    /// How often it was proposed and not refused.
    taken: usize,
    /// What was acknowledged before it was proposed for the first time.
    after: Index,
    applied_at: BTreeSet<Index>,
}

/// The reference: a plain map, and what every client was told.
#[derive(Clone, Debug)]
pub(super) struct Model {
    map: BTreeMap<String, (i64, u64)>,
    revision: u64,
    upto: Index,
    requests: BTreeMap<u64, Known>,
    effects: BTreeMap<Index, Effect>,
    contents: BTreeMap<Index, Content>,
    /// The last index that was acknowledged, and the revision that every read has to show by now.
    acknowledged: Index,
    promised: u64,
    /// Of each board in this life: the content last seen, the index it was seen after.
    boards: Vec<(Content, Option<Index>)>,
}

impl Model {
    /// An empty map on `boards` boards.
    pub(super) fn new(boards: u8) -> Self {
        let empty = Content { hash: Fnv::default().0, revision: 0 };
        Self {
            map: BTreeMap::new(),
            revision: 0,
            upto: Index::ZERO,
            requests: BTreeMap::new(),
            effects: BTreeMap::new(),
            contents: BTreeMap::from([(Index::ZERO, empty)]),
            acknowledged: Index::ZERO,
            promised: 0,
            boards: vec![(empty, Some(Index::ZERO)); usize::from(boards) + 1],
        }
    }

    /// A client is about to propose `request` as these bytes.
    pub(super) fn proposes(&mut self, command: &[u8], request: Request) {
        let after = self.acknowledged;
        let fresh = Known { request, taken: 0, after, applied_at: BTreeSet::new() };
        let hash = entry_hash(Kind::Command, command);
        self.requests.entry(hash).or_insert(fresh).taken += 1;
    }

    /// The proposal was refused: it must never take effect.
    pub(super) fn refused(&mut self, command: &[u8]) {
        let hash = entry_hash(Kind::Command, command);
        if let Some(known) = self.requests.get_mut(&hash) {
            known.taken -= 1;
        }
    }

    /// A board was handed the command of `id` to apply.
    pub(super) fn applies(
        &mut self,
        board: u8,
        id: EntryId,
        command: &[u8],
        verdict: &mut Verdict,
    ) {
        let hash = entry_hash(Kind::Command, command);
        let Some(known) = self.requests.get_mut(&hash) else {
            return verdict
                .red(Rule::C1, board, || format!("applies {id:?}, which no client proposed"));
        };
        known.applied_at.insert(id.index);
        if id.index <= known.after {
            let after = known.after;
            verdict.red(Rule::C1, board, || {
                format!("applies {id:?}, proposed when {after} was acknowledged already")
            });
        }
        if known.applied_at.len() > known.taken {
            let Known { taken, applied_at, .. } = known;
            verdict.red(Rule::C1, board, || {
                format!(
                    "applies at {applied_at:?} what a client proposed {taken} times with success"
                )
            });
        }
        if id.index > self.upto {
            self.upto = id.index;
            let request = known.request.clone();
            let effect = self.take(&request);
            self.effects.insert(id.index, effect);
            self.contents.insert(id.index, self.content());
        }
    }

    fn take(&mut self, request: &Request) -> Effect {
        let old = self.map.get(&request.key).copied();
        let revision = old.map_or(0, |(_, revision)| revision);
        if request.expected.is_some_and(|expected| expected != revision) {
            return Effect::Mismatch(revision);
        }
        if old.map(|(value, _)| value) == request.value {
            return Effect::Unchanged(revision);
        }
        self.revision += 1;
        match request.value {
            Some(value) => self.map.insert(request.key.clone(), (value, self.revision)),
            None => self.map.remove(&request.key),
        };
        Effect::Done(self.revision)
    }

    fn content(&self) -> Content {
        let mut hash = Fnv::default();
        for (key, (value, revision)) in &self.map {
            add(&mut hash, key, *value, *revision);
        }
        Content { hash: hash.0, revision: self.revision }
    }

    /// The content after everything up to `index`; `None` where no board has come yet.
    pub(super) fn content_at(&self, index: Index) -> Option<Content> {
        let found = self.contents.range(..=index).next_back();
        (index <= self.upto).then_some(found.map(|(_, content)| *content)).flatten()
    }

    /// The revision of `key` as committed so far, 0 if it is not there.
    pub(super) fn key_revision(&self, key: &str) -> u64 {
        self.map.get(key).map_or(0, |(_, revision)| *revision)
    }

    /// The revision that a read which begins now has to show at least.
    pub(super) const fn promised(&self) -> u64 {
        self.promised
    }

    /// A read that had to show revision `due` is answered on `board`.
    pub(super) fn read(&mut self, board: u8, due: u64, verdict: &mut Verdict) {
        let (content, index) = self.boards[usize::from(board)];
        if content.revision < due {
            verdict.red(Rule::C4, board, || {
                let shown = content.revision;
                format!("answers a read with revision {shown}, of index {index:?}, after {due} was acknowledged or read")
            });
        }
        self.promised = self.promised.max(content.revision);
    }

    /// A client was told that its command took effect, as entry `id` if that is known.
    pub(super) fn told_applied(
        &mut self,
        board: u8,
        command: &[u8],
        id: Option<EntryId>,
        verdict: &mut Verdict,
    ) {
        let known = self.requests.get(&entry_hash(Kind::Command, command));
        let applied_at = known.map(|known| &known.applied_at);
        let is_so = applied_at.is_some_and(|at| match id {
            Some(id) => at.contains(&id.index),
            None => !at.is_empty(),
        });
        if !is_so {
            verdict.red(Rule::C1, board, || {
                format!("tells that a command took effect as {id:?}, seen at {applied_at:?}")
            });
        }
        // Where that is not known, it may be any of the places where such a command was applied.
        let first = applied_at.and_then(|at| at.first()).copied();
        if let Some(index) = id.map(|id| id.index).or(first) {
            self.promise(index);
        }
    }

    fn promise(&mut self, index: Index) {
        self.acknowledged = self.acknowledged.max(index);
        let revision = self.content_at(index).map_or(0, |content| content.revision);
        self.promised = self.promised.max(revision);
    }

    /// Those of `members` that don't show the newest content.
    pub(super) fn behind(&self, members: NodeSet) -> Vec<u8> {
        let newest = self.content();
        let is_member = |at: usize| NodeId::new(at as u8).is_some_and(|id| members.contains(id));
        let boards = self.boards.iter().enumerate().filter(|(at, _)| is_member(*at));
        boards.filter(|(_, (content, _))| *content != newest).map(|(at, _)| at as u8).collect()
    }

    /// A board booted: it has nothing to show.
    pub(super) fn booted(&mut self, board: u8) {
        self.boards[usize::from(board)] = (self.contents[&Index::ZERO], Some(Index::ZERO));
    }

    /// A board shows `content` after it applied `index`, or after it restored a snapshot (`None`), which
    /// must be the content at some index.
    pub(super) fn shows(
        &mut self,
        board: u8,
        index: Option<Index>,
        content: Content,
        verdict: &mut Verdict,
    ) {
        let (before, _) = self.boards[usize::from(board)];
        if content.revision < before.revision {
            verdict.red(Rule::C2, board, || {
                format!("shows revision {} after {}", content.revision, before.revision)
            });
        }
        let right = match index {
            Some(index) => self.content_at(index) == Some(content),
            None => self.contents.values().any(|known| *known == content),
        };
        if !right {
            verdict.red(Rule::C3, board, || format!("shows a wrong content after index {index:?}"));
        }
        self.boards[usize::from(board)] = (content, index);
    }

    /// A board is about to apply `index`: was what it shows until now all that comes before?
    pub(super) fn follows(&self, board: u8, index: Index, verdict: &mut Verdict) {
        let (content, _) = self.boards[usize::from(board)];
        if self.content_at(index.previous()).is_some_and(|due| due != content) {
            verdict.red(Rule::C3, board, || {
                format!("applies index {index} to the content of another index")
            });
        }
    }

    /// A client was told how its request at `id` ended.
    pub(super) fn told(
        &mut self,
        board: u8,
        id: EntryId,
        effect: Option<Effect>,
        verdict: &mut Verdict,
    ) {
        let due = self.effects.get(&id.index).copied();
        if effect.is_none() || effect != due {
            verdict.red(Rule::C1, board, || {
                format!("tells the client of {id:?} {effect:?}, where {due:?} happened")
            });
        }
        self.promise(id.index);
        let shown = self.boards[usize::from(board)].0.revision;
        if let Some(Effect::Done(revision)) = effect
            && shown < revision
        {
            verdict.red(Rule::C2, board, || {
                format!("acknowledges revision {revision} and shows revision {shown}")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::Term;

    fn id(index: u64) -> EntryId {
        EntryId::new(Index(index), Term(1))
    }

    fn set(key: &str, value: i64, expected: Option<u64>) -> Request {
        Request { key: key.into(), value: Some(value), expected }
    }

    struct History {
        model: Model,
        verdict: Verdict,
    }

    impl History {
        fn new() -> Self {
            let mut model = Model::new(2);
            model.proposes(b"a=1", set("a", 1, None));
            model.proposes(b"b=2", set("b", 2, Some(0)));
            model.proposes(b"b=3", set("b", 3, Some(0)));
            model.proposes(b"-a", Request { key: "a".into(), value: None, expected: None });
            Self { model, verdict: Verdict::default() }
        }

        fn apply(&mut self, board: u8, index: u64, command: &[u8]) {
            self.model.applies(board, id(index), command, &mut self.verdict);
        }

        fn show(&mut self, board: u8, index: Option<u64>, content: Content) {
            self.model.shows(board, index.map(Index), content, &mut self.verdict);
        }

        fn tell(&mut self, index: u64, effect: Effect) {
            self.model.told(1, id(index), Some(effect), &mut self.verdict);
        }

        fn at(&self, index: u64) -> Content {
            self.model.content_at(Index(index)).unwrap()
        }

        fn rules(&self) -> Vec<Rule> {
            self.verdict.violations().iter().map(|violation| violation.rule).collect()
        }
    }

    #[test]
    fn a_sound_history_is_not_blamed() {
        let mut history = History::new();
        for board in [1, 2] {
            for (index, command) in [(2, b"a=1" as &[u8]), (3, b"b=2"), (5, b"b=3"), (6, b"-a")] {
                history.apply(board, index, command);
                history.show(board, Some(index), history.at(index));
            }
        }
        history.tell(2, Effect::Done(1));
        history.tell(3, Effect::Done(2));
        history.tell(5, Effect::Mismatch(2));
        history.tell(6, Effect::Done(3));
        assert_eq!(history.at(3), history.at(5));
        assert_eq!(history.rules(), []);
    }

    #[test]
    fn the_reference_agrees_with_the_map_that_boards_use() {
        use quorate::typed::{Command, MapLimits, StateMachine};
        let mut map = Box::new(ConfigMap::<[u8; 512]>::new());
        let map: &mut ConfigMap = &mut *map;
        let limits = MapLimits { keys: 4, key_bytes: 8, value_bytes: 8, bytes: 300 };
        map.start(limits, 1, None).unwrap();
        let mut model = Model::new(1);
        let mut dice = super::super::dice::Dice::new(5);
        for step in 1..400u64 {
            let key = dice.pick(&["a", "b", "c"]);
            let value = dice.chance(800).then_some(dice.below(5) as i64 - 2);
            let expected = dice.chance(300).then_some(dice.below(step));
            let command = match value {
                Some(value) => Command::Set { key, value: Value::Int(value), expected },
                None => Command::Delete { key, expected },
            };
            let mut bytes = [0; 64];
            let len = command.encode(1, &mut bytes).unwrap();
            map.apply(id(step), &bytes[..len]).unwrap();
            let effect = model.take(&Request { key: key.into(), value, expected });
            assert_eq!(Effect::of(map.outcome(id(step)).unwrap()), Some(effect), "{command:?}");
            assert_eq!(Content::of(map), model.content());
        }
    }

    #[test]
    fn a_content_that_the_commands_do_not_make_is_found() {
        let mut history = History::new();
        history.apply(1, 1, b"a=1");
        history.apply(1, 2, b"b=2");
        history.show(1, Some(1), history.at(2));
        assert_eq!(history.rules(), [Rule::C3]);
        let mut restored = History::new();
        restored.apply(1, 1, b"a=1");
        restored.show(2, None, Content { hash: 1, revision: 1 });
        assert_eq!(restored.rules(), [Rule::C3]);
    }

    #[test]
    fn a_command_applied_to_the_content_of_another_index_is_found() {
        let mut history = History::new();
        history.apply(1, 1, b"a=1");
        history.apply(1, 2, b"b=2");
        history.show(2, None, history.at(1));
        history.model.follows(2, Index(2), &mut history.verdict);
        assert_eq!(history.rules(), []);
        history.model.follows(2, Index(3), &mut history.verdict);
        assert_eq!(history.rules(), [Rule::C3]);
    }

    #[test]
    fn a_command_that_takes_effect_twice_or_was_refused_or_never_proposed_is_found() {
        let mut twice = History::new();
        twice.apply(1, 1, b"a=1");
        twice.apply(1, 2, b"a=1");
        assert_eq!(twice.rules(), [Rule::C1]);
        let mut refused = History::new();
        refused.model.refused(b"a=1");
        refused.apply(1, 1, b"a=1");
        assert_eq!(refused.rules(), [Rule::C1]);
        let mut unknown = History::new();
        unknown.apply(1, 1, b"z=1");
        assert_eq!(unknown.rules(), [Rule::C1]);
    }

    #[test]
    fn a_client_that_is_told_of_another_effect_is_found() {
        let mut history = History::new();
        history.apply(1, 1, b"b=2");
        history.apply(1, 2, b"b=3");
        history.tell(2, Effect::Unchanged(1));
        assert_eq!(history.rules(), [Rule::C1]);
    }

    #[test]
    fn an_acknowledged_write_that_its_board_does_not_show_is_found() {
        let mut history = History::new();
        history.apply(1, 1, b"a=1");
        history.tell(1, Effect::Done(1));
        assert_eq!(history.rules(), [Rule::C2]);
    }

    #[test]
    fn a_read_that_shows_less_than_was_acknowledged_or_read_before_it_began_is_found() {
        let mut history = History::new();
        history.apply(1, 1, b"a=1");
        history.show(1, Some(1), history.at(1));
        // Nothing was promised yet: board 2 may show nothing.
        assert_eq!(history.model.promised(), 0);
        history.model.read(2, 0, &mut history.verdict);
        history.tell(1, Effect::Done(1));
        let due = history.model.promised();
        history.model.read(1, due, &mut history.verdict);
        assert_eq!((due, history.rules()), (1, vec![]));
        history.model.read(2, due, &mut history.verdict);
        assert_eq!(history.rules(), [Rule::C4]);
        let mut read = History::new();
        read.apply(1, 1, b"a=1");
        read.show(1, Some(1), read.at(1));
        read.model.read(1, 0, &mut read.verdict);
        assert_eq!(read.model.promised(), 1);
    }

    #[test]
    fn a_forwarded_command_that_is_told_to_have_taken_effect_and_has_not_is_found() {
        let mut history = History::new();
        history.apply(1, 4, b"a=1");
        history.model.told_applied(1, b"a=1", Some(id(4)), &mut history.verdict);
        history.model.told_applied(1, b"a=1", None, &mut history.verdict);
        assert_eq!((history.model.promised(), history.rules()), (1, vec![]));
        history.model.told_applied(1, b"b=2", None, &mut history.verdict);
        assert_eq!(history.rules(), [Rule::C1]);
    }

    #[test]
    fn a_command_that_stands_before_what_was_acknowledged_when_it_was_proposed_is_found() {
        let mut history = History::new();
        history.apply(1, 3, b"a=1");
        history.show(1, Some(3), history.at(3));
        history.tell(3, Effect::Done(1));
        history
            .model
            .proposes(b"late", Request { key: "a".into(), value: Some(9), expected: None });
        history.apply(1, 2, b"late");
        assert!(history.rules().contains(&Rule::C1));
    }

    #[test]
    fn a_revision_that_goes_back_is_found() {
        let mut history = History::new();
        history.apply(1, 1, b"a=1");
        history.apply(1, 2, b"b=2");
        history.show(1, Some(2), history.at(2));
        history.show(1, None, history.at(1));
        assert_eq!(history.rules(), [Rule::C2]);
        let mut booted = History::new();
        booted.apply(1, 1, b"a=1");
        booted.show(1, Some(1), booted.at(1));
        booted.model.booted(1);
        booted.show(1, None, booted.at(0));
        assert_eq!(booted.rules(), []);
    }
}
