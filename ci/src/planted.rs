//! The step `planted`: bugs planted in a copy of the tree, each caught by the simulator, by a campaign
//! of the flash log, by a script, or by a test of the core.
//!
//! A patch under `ci/planted/` is one bug; `ci/planted/README.md` has the format.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use diffy::patch_set::{FileOperation, ParseOptions, PatchSet};

use crate::sim;
use crate::tools::{Context, Trouble, at, failed, output_within, read, run};

/// The most seeds that a bug may take to be caught.
pub(crate) const SEEDS_MAX: u32 = 1_000;
/// Cuts in each cell of campaigns that are run until one catches the bug.
const CUTS: &[u32] = &[20, 100, 500, 2_500];
/// How long a bug may keep the simulator busy over one lot of seeds: some bugs never end a run.
const SWEEP_MAX: Duration = Duration::from_secs(600);

/// What is built of the copy, below the target folder.
const BUILT: &str = "planted/target";

/// One bug.
struct Planted {
    name: String,
    /// What the bug is, in a sentence.
    bug: String,
    /// The invariants and client checks that it has to turn red.
    expect: BTreeSet<String>,
    /// What is added to the sweep's command line.
    sweep: Vec<String>,
    /// The command of `cargo ci` that catches it, if it is not the simulator.
    campaign: Vec<String>,
    /// The script that catches it, if it is neither.
    script: Option<String>,
    /// The test of the core that does, if it is none of these: the program, and the test's name.
    test: Vec<String>,
    /// Caught so soon that every `cargo ci` plants it.
    quick: bool,
    diff: String,
}

impl Planted {
    /// Reads a patch file: head lines `Name: value`, then a unified diff.
    fn parse(name: &str, text: &str) -> Result<Self, String> {
        let start = text.find("\n--- ").ok_or("holds no diff")? + 1;
        let (head, diff) = text.split_at(start);
        let mut patch = Self {
            name: name.to_owned(),
            bug: String::new(),
            expect: BTreeSet::new(),
            sweep: Vec::new(),
            campaign: Vec::new(),
            script: None,
            test: Vec::new(),
            quick: false,
            diff: diff.to_owned(),
        };
        for line in head.lines().filter(|line| !line.trim().is_empty()) {
            let (field, value) =
                line.split_once(':').ok_or_else(|| format!("head line `{line}`"))?;
            let words = value.split_whitespace().map(str::to_owned);
            match field {
                "Bug" => patch.bug = value.trim().to_owned(),
                "Expect" => patch.expect = words.collect(),
                "Sweep" => patch.sweep = words.collect(),
                "Campaign" => patch.campaign = words.collect(),
                "Script" => patch.script = Some(value.trim().to_owned()),
                "Test" => patch.test = words.collect(),
                "Quick" => patch.quick = value.trim() == "yes",
                _ => return Err(format!("head line `{field}:` is not known")),
            }
        }
        let ways = [!patch.expect.is_empty(), patch.script.is_some(), !patch.test.is_empty()];
        if patch.bug.is_empty() || ways.iter().filter(|way| **way).count() != 1 {
            return Err("the head needs `Bug:`, and `Expect:`, `Script:` or `Test:`".to_owned());
        }
        Ok(patch)
    }

    /// What the patched files hold, by their path in the tree. Every hunk has to fit.
    fn apply(&self, tree: &Path) -> Result<Vec<(PathBuf, String)>, String> {
        let mut files = Vec::new();
        for patch in PatchSet::parse(self.diff.as_str(), ParseOptions::unidiff()) {
            let patch = patch.map_err(|error| error.to_string())?;
            let operation = patch.operation().strip_prefix(1);
            let FileOperation::Modify { original, modified } = &operation else {
                return Err("only changes of files are understood".to_owned());
            };
            if original != modified {
                return Err(format!("{original} would be renamed"));
            }
            let path = PathBuf::from(original.as_ref());
            let text = fs::read_to_string(tree.join(&path))
                .map_err(|error| format!("no longer applies: {original}: {error}"))?;
            let diff = patch.patch().as_text().ok_or("not a text")?;
            let text = diffy::apply(&text, diff)
                .map_err(|error| format!("no longer applies: {original}: {error}"))?;
            files.push((path, text));
        }
        if files.is_empty() {
            return Err("holds no diff".to_owned());
        }
        Ok(files)
    }
}

/// All patches, by name.
fn load(context: &Context) -> Result<Vec<Planted>, Trouble> {
    let (mut patches, mut wrong) = (Vec::new(), String::new());
    for path in context.files()? {
        if path.extension().is_some_and(|extension| extension == "patch") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let parsed = Planted::parse(&name, &read(&path)?);
            let checked = parsed.and_then(|patch| patch.apply(&context.root).map(|_| patch));
            match checked {
                Ok(patch) => patches.push(patch),
                Err(error) => drop(writeln!(wrong, "{name}.patch: {error}")),
            }
        }
    }
    if wrong.is_empty() { Ok(patches) } else { failed(wrong) }
}

/// The numbers that `core/docs/invariants.md` gives to invariants and client checks: what stands first
/// in a row of a table or in a heading.
fn numbered(text: &str) -> BTreeSet<String> {
    let head = |line: &str| {
        let line = line.trim_start_matches(['#', '|', '*', '-', '`', ' ']);
        line.split([' ', '|', '*', '`', ':', '.']).next().unwrap_or_default().to_owned()
    };
    let is_number = |word: &String| {
        let digits = word.trim_start_matches(|c: char| c.is_ascii_uppercase());
        word.len() == digits.len() + 1
            && !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit())
    };
    let marked = |line: &&str| line.starts_with(['#', '|', '*', '-']);
    text.lines().filter(marked).map(head).filter(is_number).collect()
}

/// How a bug ended.
struct Caught {
    /// The first seed that turned an expected number red, or the campaign.
    by: String,
    /// Every number that was red up to there.
    red: BTreeSet<String>,
}

/// `planted`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let patches = load(context)?;
    every_number_is_expected(context, &patches)?;
    let names = &context.options.planted_names;
    let chosen: Vec<&Planted> = patches
        .iter()
        .filter(|patch| context.options.full || patch.quick)
        .filter(|patch| names.is_empty() || names.iter().any(|name| patch.name.contains(name)))
        .collect();
    if chosen.is_empty() {
        return failed("no patch of that name");
    }
    let tree = Tree::new(context);
    let mut table = String::new();
    let mut escaped = 0;
    for patch in &chosen {
        println!("\nplanting {}: {}", patch.name, patch.bug);
        let result = tree.plant(patch).and_then(|program| match &patch.script {
            Some(name) => script(name, &program, &tree.root),
            None if !patch.test.is_empty() => tree.test(patch),
            None if patch.campaign.is_empty() => hunt(context, patch, &program),
            None => campaign(context, patch, &program, &tree.root),
        });
        let row = match result {
            Ok(caught) => {
                let red: Vec<String> = caught.red.into_iter().collect();
                format!("{:<34} {:<18} {}", patch.name, caught.by, red.join(" "))
            }
            Err(trouble) => {
                escaped += 1;
                format!("{:<34} ESCAPED    {}", patch.name, trouble.text())
            }
        };
        println!("{row}");
        let _ = writeln!(table, "{row}");
    }
    println!("\n{table}");
    match escaped {
        0 => Ok(format!("{} of {} bugs planted, all caught", chosen.len(), patches.len())),
        _ => failed(format!("{escaped} of {} planted bugs were not caught", chosen.len())),
    }
}

/// What nobody plants, nobody knows to be checked.
fn every_number_is_expected(context: &Context, patches: &[Planted]) -> Result<(), Trouble> {
    let numbers = numbered(&read(&context.root.join("core/docs/invariants.md"))?);
    let expected: BTreeSet<String> =
        patches.iter().flat_map(|patch| patch.expect.iter().cloned()).collect();
    let list = |set: BTreeSet<&String>| set.into_iter().cloned().collect::<Vec<_>>().join(" ");
    let unplanted = list(numbers.difference(&expected).collect());
    let unknown = list(expected.difference(&numbers).collect());
    if !unknown.is_empty() {
        return failed(format!(
            "patches expect numbers that invariants.md does not give: {unknown}"
        ));
    }
    if !unplanted.is_empty() {
        return failed(format!("no patch turns these red: {unplanted}"));
    }
    Ok(())
}

/// Sweeps over lots of seeds, few first, until every expected number was red.
fn hunt(context: &Context, patch: &Planted, program: &Path) -> Result<Caught, Trouble> {
    let mut red = BTreeSet::new();
    let (mut from, mut lot) = (0, 8);
    while from < context.options.planted_seeds {
        let to = (from + lot).min(context.options.planted_seeds);
        let mut command = sim::sweep_command(context, program, from, to);
        command.args(&patch.sweep);
        let printed = output_within(&mut command, SWEEP_MAX)?;
        let violations = sim::violations(&printed)?;
        for (seed, number) in violations {
            red.insert(number);
            if patch.expect.is_subset(&red) {
                return Ok(Caught { by: format!("seed {seed:>4}"), red });
            }
        }
        (from, lot) = (to, lot * 4);
    }
    let missed: Vec<&String> = patch.expect.difference(&red).collect();
    failed(format!("{missed:?} stayed green over {from} seeds; red: {red:?}"))
}

/// Runs the patch's campaign, a short one of cuts first, until every expected number was red.
fn campaign(
    context: &Context,
    patch: &Planted,
    program: &Path,
    tree: &Path,
) -> Result<Caught, Trouble> {
    let name = patch.campaign.join(" ");
    let mut red = BTreeSet::new();
    let counts = if name.starts_with("cuts") { CUTS } else { &[0] };
    for count in counts {
        let mut command = context.command(&program.to_string_lossy());
        command.current_dir(tree).args(&patch.campaign);
        // What a campaign builds besides is kept, as the tree is not.
        command.env("CARGO_TARGET_DIR", context.target.join(BUILT));
        if *count > 0 {
            command.args(["--count", &count.to_string()]);
        }
        let printed = output_within(&mut command, SWEEP_MAX)?;
        red.extend(printed.out.lines().filter_map(violated).map(str::to_owned));
        if (printed.code == Some(0)) != red.is_empty() {
            let code = printed.code;
            return failed(format!("`{name}`: exit code {code:?} and {red:?}\n{}", printed.err));
        }
        if patch.expect.is_subset(&red) {
            let count = if *count > 0 { format!(" {count}") } else { String::new() };
            return Ok(Caught { by: format!("{name}{count}"), red });
        }
    }
    let missed: Vec<&String> = patch.expect.difference(&red).collect();
    failed(format!("{missed:?} stayed green in `{name}`; red: {red:?}"))
}

/// Runs the script that the bug has to lead to other states. Each holds without the bug, as the tests tell.
fn script(name: &str, program: &Path, tree: &Path) -> Result<Caught, Trouble> {
    let file = |extension| tree.join("core/tests/scripts").join(name).with_extension(extension);
    let mut command = Command::new(program);
    command.args(["script", "--progress", "--check"]).arg(file("jsonl")).arg(file("txt"));
    let printed = output_within(&mut command, SWEEP_MAX)?;
    print!("{}", printed.out);
    match printed.code {
        Some(1) => Ok(Caught { by: format!("script {name}"), red: BTreeSet::new() }),
        Some(0) => failed(format!("the script {name} stayed green")),
        code => failed(format!("the script {name}: exit code {code:?}\n{}", printed.err)),
    }
}

/// The number that a line of a campaign tells to be violated.
fn violated(line: &str) -> Option<&str> {
    let (rule, _) = line.split_once(" violated")?;
    Some(rule).filter(|rule| rule.len() == 2)
}

/// The copy of the tree that bugs are planted in, and what is built of it.
struct Tree<'a> {
    context: &'a Context,
    root: PathBuf,
}

impl<'a> Tree<'a> {
    fn new(context: &'a Context) -> Self {
        Self { context, root: context.target.join("planted/tree") }
    }

    /// A fresh copy with this one bug in it, built: the program. What is built of other packages is kept.
    fn plant(&self, patch: &Planted) -> Result<PathBuf, Trouble> {
        if self.root.exists() {
            fs::remove_dir_all(&self.root).map_err(|error| at(&self.root, error))?;
        }
        for path in self.context.files()? {
            self.put(
                self.context.relative(&path),
                &fs::read(&path).map_err(|error| at(&path, error))?,
            )?;
        }
        for (path, text) in patch.apply(&self.root).map_err(Trouble::Failed)? {
            self.put(&path, text.as_bytes())?;
        }
        let folder = self.context.target.join(BUILT);
        if !patch.test.is_empty() {
            return Ok(folder);
        }
        // Only what the bug touches is built again, and without the last optimisations.
        let (package, program) = match patch.campaign.is_empty() {
            true => ("quorate-std", "release/quorate"),
            false => ("ci", "release/ci"),
        };
        let mut build = self.context.cargo(&["build", "--release", "-q", "-p", package]);
        if package == "quorate-std" {
            // The simulator alone.
            build.arg("--no-default-features");
        }
        build.current_dir(&self.root).env("CARGO_TARGET_DIR", &folder);
        build.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        build.env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true");
        build.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        run(&mut build)?;
        Ok(folder.join(program))
    }

    /// Runs the test that the bug has to turn red.
    fn test(&self, patch: &Planted) -> Result<Caught, Trouble> {
        let mut command = self.context.cargo(&["test", "-q", "-p", "quorate", "--test"]);
        command.args(&patch.test).args(["--", "--exact"]).current_dir(&self.root);
        command.env("CARGO_TARGET_DIR", self.context.target.join(BUILT));
        let printed = output_within(&mut command, SWEEP_MAX)?;
        let name = patch.test.join(" ");
        // It may also not have been built, or be of another name.
        if printed.out.contains("test result: FAILED. 0 passed; 1 failed") {
            return Ok(Caught { by: format!("test {name}"), red: BTreeSet::new() });
        }
        failed(format!("the test {name} did not turn red\n{}{}", printed.out, printed.err))
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), Trouble> {
        let path = self.root.join(path);
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(|error| at(folder, error))?;
        fs::write(&path, bytes).map_err(|error| at(&path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "Bug: it forgets\nExpect: I1 C2\nSweep: --boards 3\nQuick: yes\n\n\
        --- a/core/x.rs\n+++ b/core/x.rs\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";

    fn tree(text: &str) -> PathBuf {
        let name = format!("planted-{}-{:x}", std::process::id(), text.len());
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(root.join("core")).unwrap();
        fs::write(root.join("core/x.rs"), text).unwrap();
        root
    }

    #[test]
    fn the_head_of_a_patch_is_read() {
        let patch = Planted::parse("forgets", PATCH).unwrap();
        assert_eq!(patch.bug, "it forgets");
        assert_eq!(patch.expect.into_iter().collect::<Vec<_>>(), ["C2", "I1"]);
        assert_eq!(patch.sweep, ["--boards", "3"]);
        assert!(patch.quick);
    }

    #[test]
    fn a_campaign_tells_what_is_violated() {
        let patch = PATCH.replace("Sweep: --boards 3", "Campaign: cuts --cell 4-");
        assert_eq!(Planted::parse("x", &patch).unwrap().campaign, ["cuts", "--cell", "4-"]);
        assert_eq!(violated("F2 violated: cargo ci cuts --cell 4-bits"), Some("F2"));
        assert_eq!(violated("100 cuts; 3 sessions violated a rule"), None);
    }

    #[test]
    fn a_script_stands_in_for_numbers() {
        let patch = PATCH.replace("Expect: I1 C2\nSweep: --boards 3", "Script: forgetting");
        let patch = Planted::parse("x", &patch).unwrap();
        assert_eq!(patch.script.as_deref(), Some("forgetting"));
        assert!(Planted::parse("x", &PATCH.replace("Sweep: --boards 3", "Script: it")).is_err());
    }

    #[test]
    fn a_test_stands_in_for_numbers() {
        let patch = PATCH.replace("Expect: I1 C2\nSweep: --boards 3", "Test: wal wear::it_lasts");
        assert_eq!(Planted::parse("x", &patch).unwrap().test, ["wal", "wear::it_lasts"]);
        let both = patch.replace("Test:", "Script: it\nTest:");
        assert!(Planted::parse("x", &both).is_err());
    }

    #[test]
    fn a_patch_without_a_head_is_refused() {
        assert!(Planted::parse("x", &PATCH.replace("Expect", "Expects")).is_err());
        assert!(Planted::parse("x", &PATCH.replace("Bug: it forgets\n", "")).is_err());
        assert!(Planted::parse("x", "Bug: none\nExpect: I1\n").is_err());
    }

    #[test]
    fn a_patch_applies_to_its_tree() {
        let root = tree("zero\none\ntwo\nthree\n");
        let files = Planted::parse("x", PATCH).unwrap().apply(&root).unwrap();
        assert_eq!(files, [(PathBuf::from("core/x.rs"), "zero\none\n2\nthree\n".to_owned())]);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_patch_that_no_longer_applies_is_refused() {
        let root = tree("one\nTWO\nthree\n");
        let error = Planted::parse("x", PATCH).unwrap().apply(&root).unwrap_err();
        assert!(error.contains("no longer applies"), "{error}");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn numbers_stand_at_the_head_of_a_row_or_a_heading() {
        let text = "# Invariants\n| I1 | one leader |\n| no | x |\n## F1: no word twice\nI9 is prose\n- **C12** x\n";
        assert_eq!(numbered(text).into_iter().collect::<Vec<_>>(), ["C12", "F1", "I1"]);
    }
}
