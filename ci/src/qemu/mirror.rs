//! What a node that only follows tells of changes, as they come (`quorate watch`): each once, in order, and as whoever made it was told.

use std::io::{BufRead, BufReader};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use quorate_std::content::Value;
use serde_json::Value as Json;

use super::pc::{self, Pc};
use crate::tools::{Trouble, failed};

/// A change: revision, key and value.
pub(super) type Written = (u64, String, Value);

/// A watch that goes on.
pub(super) struct Mirror {
    lines: Arc<Mutex<Vec<Json>>>,
    /// Until this is gone.
    _watching: pc::Asked,
}

impl Mirror {
    /// From now on.
    pub(super) fn of(pc: &Pc) -> Result<Self, Trouble> {
        let mut watching = pc.ask(&["watch"])?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (told, out) = (lines.clone(), watching.out());
        thread::spawn(move || {
            // Ends with the node, at the latest.
            for line in out.into_iter().flat_map(|out| BufReader::new(out).lines()) {
                let Ok(line) = line else { return };
                let json = serde_json::from_str(&line).unwrap_or(Json::String(line));
                told.lock().unwrap_or_else(PoisonError::into_inner).push(json);
            }
        });
        let begun = Instant::now();
        let mirror = Self { lines, _watching: watching };
        while mirror.lines().is_empty() {
            if begun.elapsed() > Duration::from_secs(10) {
                return failed("`quorate watch` says nothing");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(mirror)
    }

    /// What it has told so far.
    pub(super) fn lines(&self) -> Vec<Json> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Each change came once, in order, and those that a client was told of are among them, unless a snapshot stands for them. How many came.
pub(super) fn check(lines: &[Json], acknowledged: &[Written]) -> Result<usize, String> {
    let mut lines = lines.iter();
    let Some(mut at) = lines.next().and_then(|line| line["revision"].as_u64()) else {
        return Err("the follower told nothing".into());
    };
    let mut changes: Vec<Written> = Vec::new();
    for line in lines {
        let told = || Some((line["revision"].as_u64()?, line["key"].as_str(), &line["value"]));
        let before = at;
        match told() {
            // A snapshot was restored: what it holds is not told one by one.
            Some((revision, None, _)) if line["everything"] == true => at = revision,
            Some((revision, Some(key), value)) if revision == at + 1 => {
                let value = pc::value(value).ok_or_else(|| format!("a strange value: {line}"))?;
                if changes.iter().any(|(_, other, set)| (other.as_str(), set) == (key, &value)) {
                    return Err(format!("{key} got {value:?} twice"));
                }
                changes.push((revision, key.to_owned(), value));
                at = revision;
            }
            _ => {
                return Err(format!("the follower was at revision {before}, and then told {line}"));
            }
        }
    }
    let differs = |written: &&Written| {
        changes.iter().any(|change| change.0 == written.0) && !changes.contains(written)
    };
    match acknowledged.iter().find(differs) {
        Some(written) => {
            Err(format!("the PC was told {written:?}, and the follower of another change"))
        }
        None => Ok(changes.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(changes: &[(u64, &str, i64)]) -> Vec<Json> {
        let line = |(revision, key, value): &(u64, &str, i64)| json!({ "revision": revision, "key": key, "type": "integer", "value": value });
        let begin = json!({ "watching": true, "revision": 4 });
        std::iter::once(begin).chain(changes.iter().map(line)).collect()
    }

    #[test]
    fn changes_that_come_once_and_in_order_are_counted() {
        let told = lines(&[(5, "a", 1), (6, "b", 2), (7, "a", 3)]);
        let own = |value| (7, "a".to_owned(), Value::Int(value));
        assert_eq!(check(&told, &[own(3)]), Ok(3));
        let other = check(&told, &[own(2)]).unwrap_err();
        assert!(other.contains("of another change"), "{other}");
        let mut with_snapshot = lines(&[(5, "a", 1)]);
        with_snapshot.push(json!({ "everything": true, "revision": 8 }));
        assert_eq!(check(&with_snapshot, &[own(2)]), Ok(1), "the snapshot stands for it");
    }

    #[test]
    fn one_that_is_missing_or_comes_twice_is_told() {
        let missing = check(&lines(&[(5, "a", 1), (7, "a", 2)]), &[]).unwrap_err();
        assert!(missing.contains("was at revision 5"), "{missing}");
        let again = check(&lines(&[(5, "a", 1), (5, "a", 1)]), &[]).unwrap_err();
        assert!(again.contains("was at revision 5"), "{again}");
        let twice = check(&lines(&[(5, "a", 1), (6, "a", 2), (7, "a", 1)]), &[]).unwrap_err();
        assert_eq!(twice, "a got Int(1) twice");
        assert!(check(&[], &[]).is_err());
    }
}
