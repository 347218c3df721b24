//! The table of etcd's tests, crash points and bugs: what it names is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::deaths::POINTS;

/// The bugs of etcd around its raft that have to have a test or a decision.
const BUGS: [&str; 20] = [
    "W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "T1", "T2", "T3", "T4", "N1", "N2", "B-app1",
    "B-app2", "B-app3", "B-app4", "B-app5", "B-app6",
];

/// What the table's letters stand for, from this package's folder.
const FILES: [(&str, &[&str]); 11] = [
    ("W", &["../core/tests/wal"]),
    ("N", &["../core/tests/node"]),
    ("F", &["tests/flash_file", "src/flash_file.rs"]),
    ("I", &["tests/wal_image.rs", "tests/job"]),
    ("L", &["src/node/link"]),
    ("R", &["src/node"]),
    ("H", &["tests/nodes/handles.rs"]),
    ("P", &["tests/nodes/people.rs"]),
    ("C", &["tests/nodes/crashes.rs"]),
    ("D", &["tests/nodes/deaths.rs"]),
    ("X", &["tests/nodes/wires.rs"]),
];

fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.into()];
    }
    let inside = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    inside.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The tests in a source.
fn tests_in(source: &str) -> impl Iterator<Item = &str> {
    let mut is_next = false;
    source.lines().map(str::trim).filter_map(move |line| {
        if line == "#[test]" || line.starts_with("#[tokio::test") {
            is_next = true;
            return None;
        }
        let named = line.trim_start_matches("async ").strip_prefix("fn ")?;
        std::mem::take(&mut is_next).then(|| named.split('(').next().unwrap_or_default())
    })
}

/// The table, and its cells.
fn table() -> (PathBuf, String) {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    (home.into(), fs::read_to_string(home.join("docs/etcd-tests.md")).unwrap())
}

#[test]
fn each_test_that_the_table_names_is_where_it_says() {
    let (home, table) = table();
    let tests = FILES.map(|(letter, paths)| {
        let files = paths.iter().flat_map(|path| sources(&home.join(path)));
        let texts: Vec<_> = files.map(|file| fs::read_to_string(file).unwrap()).collect();
        let tests = texts.iter().flat_map(|text| tests_in(text)).map(str::to_owned);
        (letter, tests.collect::<BTreeSet<_>>())
    });
    let mut named = 0;
    // What stands in backquotes is every second part; a letter before it tells where that is, for all that follow.
    for line in table.lines() {
        let mut letter = "";
        let parts: Vec<_> = line.split('`').collect();
        for pair in parts.chunks_exact(2) {
            let before = pair[0].split(['|', ' ']).rfind(|word| !word.is_empty()).unwrap_or("");
            if FILES.iter().any(|(known, _)| *known == before) {
                letter = before;
            }
            let name = pair[1];
            let is_test = name.len() > 20
                && name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit());
            if is_test {
                // A name may begin a line whose letter ends the one before.
                let found = |(known, tests): &(&str, BTreeSet<String>)| {
                    (letter.is_empty() || *known == letter) && tests.contains(name)
                };
                assert!(tests.iter().any(found), "{letter} {name}");
                named += 1;
            }
        }
    }
    assert!(named > 70, "only {named} tests were found in the table");
}

#[test]
fn each_bug_and_each_crash_point_is_in_the_table() {
    let (_, table) = table();
    let rows: Vec<_> = table.lines().filter_map(|line| line.strip_prefix("| ")).collect();
    for bug in BUGS {
        let of_bug = |row: &&&str| row.split(' ').next() == Some(bug);
        let row = rows.iter().find(of_bug).unwrap_or_else(|| panic!("{bug} is not in the table"));
        let says = row.split('|').nth(1).unwrap();
        assert!(says.contains('`') || says.contains("decision: "), "{bug}: {says}");
    }
    let cells = rows.iter().filter_map(|row| row.split('|').nth(1));
    let words: BTreeSet<_> = cells
        .flat_map(|cell| cell.split(", "))
        .map(str::trim)
        .filter(|word| {
            (word.starts_with("Before") || word.starts_with("After")) && !word.contains(' ')
        })
        .collect();
    let points: BTreeSet<_> = POINTS.iter().map(|(point, ..)| *point).collect();
    assert_eq!(words, points);
    assert_eq!(rows.iter().filter(|row| row.starts_with("raft")).count(), 10);
}
