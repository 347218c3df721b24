//! What is right is judged by the boards' flash alone: each dump is mounted as a board would mount it.

use std::collections::BTreeMap;

use quorate_std::content::{Content, Value};
use quorate_std::image::{self, BoardImage, ImageError};
use quorate_std::wal_image;

use super::board::LOG;

/// What is known of a board from its dumps.
#[derive(Default)]
struct Seen {
    generation: u16,
    term: u64,
    vote: Option<u8>,
    commit: u64,
}

/// What was given to the boards, and what their dumps have shown.
#[derive(Default)]
pub(super) struct Judge {
    boards: BTreeMap<u8, Seen>,
    /// The content at each revision that a dump has shown.
    history: BTreeMap<u64, (u64, Content)>,
    /// Of each key, the value that was last known to have taken effect.
    known: BTreeMap<String, Value>,
    /// Values of which that is not known: they may have taken effect at any time since.
    unknown: BTreeMap<String, Vec<Value>>,
    pub(super) dumps: u32,
}

impl Judge {
    /// A change took effect: the board said so that was asked.
    pub(super) fn took_effect(&mut self, key: &str, value: Value) {
        self.known.insert(key.to_owned(), value);
    }

    /// Nobody knows whether it did.
    pub(super) fn may_take_effect(&mut self, key: &str, value: Value) {
        self.unknown.entry(key.to_owned()).or_default().push(value);
    }

    /// Mounts what a board's flash was at some instant, and compares it with all that is known. `None`: it has nothing yet.
    pub(super) fn look(&mut self, board: u8, flash: &[u8]) -> Result<Option<BoardImage>, String> {
        self.look_at_log(board, flash.get(LOG..).unwrap_or_default())
    }

    /// The same for a log alone, as a PC has it.
    pub(super) fn look_at_log(
        &mut self,
        board: u8,
        log: &[u8],
    ) -> Result<Option<BoardImage>, String> {
        self.dumps += 1;
        let mounted = match image::read(log) {
            Ok(mounted) => mounted,
            // Before it was founded or admitted, and only then.
            Err(ImageError::Blank | ImageError::NotALog(_))
                if !self.boards.contains_key(&board) =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(format!("board {board}: its flash can't be mounted: {error}"));
            }
        };
        if mounted.id() != board {
            return Err(format!("board {board} has the log of board {}", mounted.id()));
        }
        let inspected =
            wal_image::read(log).map_err(|error| format!("board {board}: inspected: {error}"))?;
        let (status, state) = (&mounted.status, inspected.hard_state);
        let (term, vote) = (state.term.0, state.vote.map(|id| id.get()));
        let (generation, commit) = (status.generation.0, status.commit.0);
        let seen = self.boards.entry(board).or_default();
        if generation > seen.generation {
            *seen = Seen { generation, ..Seen::default() };
        }
        if generation < seen.generation || term < seen.term || commit < seen.commit {
            return Err(format!(
                "board {board} has forgotten: generation {}, term {}, commit {} before, and then {generation}, {term}, {commit}",
                seen.generation, seen.term, seen.commit
            ));
        }
        if term == seen.term && seen.vote.is_some() && vote != seen.vote {
            return Err(format!(
                "board {board} voted twice in term {term}: for {:?}, then for {vote:?}",
                seen.vote
            ));
        }
        *seen = Seen { generation, term, vote, commit };
        let shown = (mounted.hash, mounted.content.clone());
        let known = self.history.entry(mounted.revision).or_insert_with(|| shown.clone());
        if *known != shown {
            return Err(format!(
                "board {board} holds another configuration at revision {} than a board before: {:?}, not {:?}",
                mounted.revision, shown.1, known.1
            ));
        }
        Ok(Some(mounted))
    }

    /// The flash of a board is gone, on purpose: it asks for its place, and has nothing until it is admitted.
    pub(super) fn wiped(&mut self, board: u8) {
        self.boards.remove(&board);
    }

    /// Does the configuration hold all that took effect, and nothing that was never given?
    pub(super) fn is_complete(&self, board: &BoardImage) -> Result<(), String> {
        let id = board.id();
        for (key, value) in &self.known {
            let found = board.content.get(key);
            let unknown = self.unknown.get(key).map_or(&[][..], Vec::as_slice);
            if found != Some(value) && !found.is_some_and(|found| unknown.contains(found)) {
                return Err(format!(
                    "board {id}: {key} is {found:?}: {value:?} took effect, and may have given way to {unknown:?} only"
                ));
            }
        }
        let given = |key: &String, value: &Value| {
            let unknown = self.unknown.get(key).is_some_and(|values| values.contains(value));
            unknown || self.known.get(key) == Some(value)
        };
        match board.content.iter().find(|(key, value)| !given(key, value)) {
            Some((key, value)) => Err(format!("board {id}: {key} is {value:?}, which is wrong")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_std::config_file::ConfigFile;
    use quorate_std::replicate;

    /// What the flash of five boards was at two times.
    fn images() -> [Vec<Vec<u8>>; 2] {
        let content = |text: &str| ConfigFile::parse("test", text).unwrap().content().clone();
        let run = |text, from| replicate::run(&content(text), from, 1, &mut |_| {}).unwrap().images;
        let first = run("a = 1\nb = 2\n", None);
        let second = run("a = 5\nb = 2\n", Some(first.clone()));
        [first, second]
            .map(|images| images.iter().map(|log| [&vec![0xff; LOG][..], log].concat()).collect())
    }

    #[test]
    fn what_is_forgotten_lost_or_wrong_is_told() {
        let [first, second] = images();
        let mut judge = Judge::default();
        judge.took_effect("a", Value::Int(1));
        judge.took_effect("b", Value::Int(2));
        for (id, flash) in (1..).zip(&first) {
            let board = judge.look(id, flash).unwrap().unwrap();
            assert_eq!(judge.is_complete(&board), Ok(()), "{id}");
        }
        let wrong = judge.look(1, &first[1]).unwrap_err();
        assert!(wrong.contains("has the log of board 2"), "{wrong}");

        let later = judge.look(1, &second[0]).unwrap().unwrap();
        let wrong = judge.is_complete(&later).unwrap_err();
        assert!(wrong.contains("a is Some(Int(5))"), "{wrong}");
        judge.may_take_effect("a", Value::Int(5));
        assert_eq!(judge.is_complete(&later), Ok(()), "it may have");
        judge.took_effect("c", Value::Int(1));
        let wrong = judge.is_complete(&later).unwrap_err();
        assert!(wrong.contains("c is None"), "{wrong}");

        let wrong = judge.look(1, &first[0]).unwrap_err();
        assert!(wrong.contains("board 1 has forgotten"), "{wrong}");
        assert_eq!(judge.dumps, 8);
    }

    #[test]
    fn a_board_that_had_a_log_must_have_one_unless_it_was_wiped() {
        let [first, _] = images();
        let blank = vec![0xff; first[0].len()];
        let mut judge = Judge::default();
        assert!(judge.look(1, &blank).unwrap().is_none(), "not founded yet");
        judge.look(1, &first[0]).unwrap();
        let wrong = judge.look(1, &blank).unwrap_err();
        assert!(wrong.contains("can't be mounted"), "{wrong}");
        judge.wiped(1);
        assert!(judge.look(1, &blank).unwrap().is_none());
        let mut rotten = first[1].clone();
        let used = rotten.iter().skip(LOG).position(|byte| *byte != 0xff).unwrap() + LOG;
        rotten[used + 20..used + 60].fill(0);
        assert!(judge.look(2, &rotten).is_err());
    }

    #[test]
    fn two_configurations_at_one_revision_are_told() {
        let content = |text: &str| ConfigFile::parse("test", text).unwrap().content().clone();
        let run = |text| replicate::run(&content(text), None, 1, &mut |_| {}).unwrap().images;
        let flash = |log: &[u8]| [&vec![0xff; LOG][..], log].concat();
        let mut judge = Judge::default();
        judge.look(1, &flash(&run("a = 1")[0])).unwrap();
        let wrong = judge.look(2, &flash(&run("a = 2")[1])).unwrap_err();
        assert!(wrong.contains("another configuration at revision 1"), "{wrong}");
    }
}
