//! The tables that say which test stands for what name tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Names of all tests under `folder`, and the files there.
fn names(folder: &Path, into: &mut BTreeSet<String>) {
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            names(&path, into);
            continue;
        }
        into.insert(path.file_name().unwrap().to_string_lossy().into_owned());
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let tests = text.split("#[test]").skip(1);
        let tests = tests.filter_map(|rest| rest.split_once("fn ")?.1.split_once('('));
        into.extend(tests.map(|(name, _)| name.to_owned()));
    }
}

/// What stands between backquotes in the rows of tables and is long enough to be a test's name.
fn named(text: &str) -> Vec<&str> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let quoted = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    quoted.filter(|name| name.len() > 20 && name.contains('_')).collect()
}

#[test]
fn every_test_that_a_table_names_exists() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut exist = BTreeSet::new();
    names(&core.join("tests"), &mut exist);
    names(&core.join("src"), &mut exist);
    for (table, least) in [("tests/protocol/README.md", 150), ("docs/decisions.md", 40)] {
        let text = fs::read_to_string(core.join(table)).unwrap();
        let named = named(&text);
        assert!(named.len() >= least, "{table} names {} tests", named.len());
        let missing: Vec<_> = named.iter().filter(|name| !exist.contains(**name)).collect();
        assert!(missing.is_empty(), "{table} names what is not there: {missing:#?}");
    }
}

#[test]
fn every_test_of_a_finding_is_in_the_table_of_findings() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut exist = BTreeSet::new();
    names(&core.join("tests"), &mut exist);
    let is_finding = |name: &&String| {
        let (kind, rest) = name.split_at(1);
        matches!(kind, "b" | "o") && rest.as_bytes()[..2].iter().all(u8::is_ascii_digit)
    };
    let text = fs::read_to_string(core.join("docs/decisions.md")).unwrap();
    let named: BTreeSet<_> = named(&text).into_iter().collect();
    let findings: Vec<_> = exist.iter().filter(|n| n.len() > 3).filter(is_finding).collect();
    assert!(findings.len() > 40, "{findings:?}");
    let missing: Vec<_> = findings.iter().filter(|n| !named.contains(n.as_str())).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    let rows: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |")).collect();
    let all = (1..=37).map(|n| format!("B{n}")).chain((1..=13).map(|n| format!("O{n}")));
    for id in all {
        assert!(rows.iter().any(|(first, _)| *first == id), "no row for {id}");
    }
}
