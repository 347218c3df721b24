//! The step `conformance`: a folder of scripts as etcd-io/raft publishes them, each of which has to agree.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sim;
use crate::tools::{Context, Trouble, at, failed, output};

/// Scripts of nodes, and the states that they lead to.
const SCRIPTS: &str = "interaction";
const STATES: &str = "interaction-state";
/// Scripts that tell themselves what is expected.
const TELLING: &[&str] = &["quorum", "confchange"];

/// One comparison: the script, and the states if it takes any.
#[derive(Debug, PartialEq, Eq)]
struct Case {
    script: PathBuf,
    states: Option<PathBuf>,
}

/// `conformance DIR`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let Some(folder) = &context.options.conformance else {
        return failed("name the folder: cargo ci conformance DIR");
    };
    let cases = cases(folder)?;
    let program = sim::program(context)?;
    let mut wrong = Vec::new();
    for case in &cases {
        let mut command = Command::new(&program);
        command.args(["script", "--check"]).args(&case.states).arg(&case.script);
        let printed = output(&mut command)?;
        print!("{}{}", printed.out, printed.err);
        if printed.code != Some(0) {
            wrong.push(format!("{}: exit code {:?}", case.script.display(), printed.code));
        }
    }
    match wrong.as_slice() {
        [] => Ok(format!("{} scripts agree", cases.len())),
        wrong => failed(format!(
            "{} of {} scripts do not agree\n{}",
            wrong.len(),
            cases.len(),
            wrong.join("\n")
        )),
    }
}

/// What there is to run. A script without its states, or states without a script, would go unnoticed.
fn cases(folder: &Path) -> Result<Vec<Case>, Trouble> {
    fs::read_dir(folder).map_err(|error| at(folder, error))?;
    let scripts = stems(&folder.join(SCRIPTS), "txt")?;
    let states = stems(&folder.join(STATES), "jsonl")?;
    let alone: Vec<_> = scripts.symmetric_difference(&states).cloned().collect();
    if !alone.is_empty() {
        return failed(format!("script or states are missing of: {}", alone.join(" ")));
    }
    let with_states = scripts.iter().map(|name| Case {
        script: folder.join(SCRIPTS).join(format!("{name}.txt")),
        states: Some(folder.join(STATES).join(format!("{name}.jsonl"))),
    });
    let mut cases: Vec<Case> = with_states.collect();
    for kind in TELLING {
        let names = stems(&folder.join(kind), "txt")?;
        cases.extend(names.iter().map(|name| Case {
            script: folder.join(kind).join(format!("{name}.txt")),
            states: None,
        }));
    }
    if cases.is_empty() {
        return failed(format!("{} holds no scripts", folder.display()));
    }
    Ok(cases)
}

/// The names of the files with this extension; a folder that is not there has none.
fn stems(folder: &Path, extension: &str) -> Result<BTreeSet<String>, Trouble> {
    if !folder.exists() {
        return Ok(BTreeSet::new());
    }
    let mut stems = BTreeSet::new();
    for file in fs::read_dir(folder).map_err(|error| at(folder, error))? {
        let path = file.map_err(|error| at(folder, error))?.path();
        if path.extension().is_some_and(|found| found == extension) {
            stems.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    Ok(stems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, files: &[&str]) -> PathBuf {
        let name = format!("conformance-{name}-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(&root).unwrap();
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        root
    }

    #[test]
    fn every_script_of_a_folder_is_run() {
        let files = &[
            "interaction/a.txt",
            "interaction-state/a.jsonl",
            "quorum/b.txt",
            "confchange/c.txt",
            "README.md",
        ];
        let root = folder("whole", files);
        let cases = cases(&root).ok().unwrap();
        let names: Vec<_> =
            cases.iter().map(|case| case.script.strip_prefix(&root).unwrap()).collect();
        assert_eq!(names, ["interaction/a.txt", "quorum/b.txt", "confchange/c.txt"].map(Path::new));
        assert_eq!(cases[0].states, Some(root.join("interaction-state/a.jsonl")));
        assert!(cases[1].states.is_none() && cases[2].states.is_none());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_folder_that_is_missing_or_has_nothing_to_run_fails() {
        assert!(cases(Path::new("no/such/folder")).is_err());
        for (name, files) in [
            ("empty", &[][..]),
            ("other", &["README.md", "quorum/readme.md"]),
            ("stateless", &["interaction/a.txt", "quorum/b.txt"]),
            ("scriptless", &["interaction-state/a.jsonl", "quorum/b.txt"]),
        ] {
            let root = folder(name, files);
            assert!(cases(&root).is_err(), "{name}");
            fs::remove_dir_all(root).unwrap();
        }
    }
}
