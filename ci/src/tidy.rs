//! The project's own rules for its files, which no linter knows.

use std::ffi::OsStr;
use std::path::Path;

use crate::tools::{Context, Trouble, failed, read};

/// Lines of a source file, less its unit tests: more need a line that begins with [`REASON`].
const FILE_LINES_MAX: usize = 600;
const REASON: &str = "// Long because ";
/// Lines of code of the whole core: no blank lines, no comments, no tests. The goal is 5,000; until it is
/// reached the core may only shrink (`core/docs/decisions.md`, D16).
const CORE_LINES_MAX: usize = 10_037;
const CORE_LINES_GOAL: usize = 5_000;

/// In no text file. (Spelled in halves, so that this file passes.)
const BANNED: &[&str] = &[
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("#[ig", "nore"),
    concat!("allow(dead", "_code)"),
    concat!("/wo", "rk/"),
    concat!("/tm", "p/q"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
];

const TEXT: &[&str] = &["rs", "md", "toml", "sh", "x", "txt", "html", "patch", "run"];

/// Looks at every text file of the repository.
pub(crate) fn check(context: &Context) -> Result<String, Trouble> {
    let mut complaints = Vec::new();
    let (mut files, mut core_lines) = (0, 0);
    for path in context.files()? {
        let extension = path.extension().or(path.file_name()).and_then(OsStr::to_str);
        if !extension.is_some_and(|extension| TEXT.contains(&extension)) {
            continue;
        }
        files += 1;
        let name = context.relative(&path);
        let text = read(&path)?;
        complaints.extend(words(&text).map(|word| format!("{}: holds `{word}`", name.display())));
        if extension == Some("rs") {
            complaints.extend(source(name, &text));
            // Unit tests may have a file of their own.
            if name.starts_with("core/src") && !name.ends_with("tests.rs") {
                core_lines += code_lines(&text);
            }
        }
    }
    if core_lines > CORE_LINES_MAX {
        complaints
            .push(format!("the core has {core_lines} lines of code, {CORE_LINES_MAX} at most"));
    }
    if complaints.is_empty() {
        return Ok(format!(
            "{files} files in order; the core has {core_lines} lines of code, the goal is {CORE_LINES_GOAL}"
        ));
    }
    failed(complaints.join("\n"))
}

fn words(text: &str) -> impl Iterator<Item = &'static str> {
    BANNED.iter().copied().filter(move |word| text.contains(word))
}

/// What is wrong with one Rust file.
fn source(name: &Path, text: &str) -> Option<String> {
    let is_doc = |line: &str| line.starts_with("//!") || line.starts_with("#![doc");
    let documented = text.lines().any(is_doc);
    if !documented {
        return Some(format!(
            "{}: has no line at its head that says what it is for",
            name.display()
        ));
    }
    let lines = without_tests(text).count();
    let in_src = name.components().any(|part| part.as_os_str() == "src");
    if in_src && lines > FILE_LINES_MAX && !text.lines().any(|line| line.starts_with(REASON)) {
        return Some(format!(
            "{}: {lines} lines without tests; split it, or say `{REASON}…`",
            name.display()
        ));
    }
    None
}

/// The lines before the unit tests, which stand at the end.
fn without_tests(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].lines()
}

fn code_lines(text: &str) -> usize {
    without_tests(text)
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banned_word_is_found() {
        let text = format!("a\n// {} later", BANNED[0]);
        assert_eq!(words(&text).collect::<Vec<_>>(), [BANNED[0]]);
        assert_eq!(words("nothing to fix").count(), 0);
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        let name = Path::new("core/src/a.rs");
        assert!(source(name, "#![no_std]\n//! Words.\nfn a() {}\n").is_none());
        assert!(source(name, "use core::fmt;\n/// Words.\nfn a() {}\n").is_some());
    }

    #[test]
    fn a_long_file_has_a_reason_and_its_tests_do_not_count() {
        let name = Path::new("core/src/a.rs");
        let head = "//! Words.\n";
        let code = "fn a() {}\n".repeat(FILE_LINES_MAX);
        assert!(source(name, &format!("{head}{code}")).is_some());
        assert!(source(name, &format!("{head}{REASON}it is a table\n{code}")).is_none());
        let tested = format!("{head}fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert!(source(name, &tested).is_none());
    }

    #[test]
    fn blank_lines_comments_and_tests_are_no_code() {
        let text = "//! Doc.\n\n/// A.\nfn a() {\n    // why\n}\n\n#[cfg(test)]\nmod tests {}\n";
        assert_eq!(code_lines(text), 2);
    }
}
