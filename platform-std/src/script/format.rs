//! The data-driven format: commands with arguments and input, then `----`, then what is expected of them.
//!
//! ```text
//! # a comment
//! command word key=value key=(a,b)
//! input
//! ----
//! expected, up to an empty line
//! ```
//!
//! A line that ends with `\` goes on in the next one. Where what is expected has empty lines, it stands between
//! doubled lines of `----`.

use std::fmt;

/// What separates a command from what is expected of it.
const SEPARATOR: &str = "----";

/// One command of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directive {
    /// The line that it stands on, from 1.
    pub line: usize,
    /// Its first word.
    pub name: String,
    /// The other words.
    pub args: Vec<Arg>,
    /// The lines below it, up to the separator.
    pub input: String,
    /// The line that these begin on.
    pub input_line: usize,
    /// The lines behind the separator.
    pub expected: String,
}

/// `key`, `key=value` or `key=(value,value)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arg {
    /// What stands before `=`, or the whole word.
    pub key: String,
    /// What stands behind it; `None` without `=`.
    pub values: Option<Vec<String>>,
}

/// Something in a file that can't be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl Misread {
    /// `what` is wrong with `line`.
    pub fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

impl std::error::Error for Misread {}

/// Lines, numbered from 1.
struct Lines<'a> {
    rest: std::iter::Peekable<std::iter::Enumerate<std::str::Lines<'a>>>,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<(usize, &'a str)> {
        self.rest.next().map(|(i, line)| (i + 1, line.trim_end()))
    }

    fn peek(&mut self) -> Option<&'a str> {
        self.rest.peek().map(|(_, line)| line.trim_end())
    }
}

/// Reads a whole script.
///
/// # Errors
/// The first line that makes no sense.
pub(super) fn parse(text: &str) -> Result<Vec<Directive>, Misread> {
    let mut lines = Lines { rest: text.lines().enumerate().peekable() };
    let mut directives = Vec::new();
    while let Some((line, text)) = lines.next() {
        let text = text.trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (mut head, mut input_line) = (text.to_owned(), line + 1);
        while let Some(begun) = head.strip_suffix('\\') {
            let (_, next) = lines.next().ok_or_else(|| {
                Misread::new(line, "the command goes on in a line that is missing")
            })?;
            head = format!("{begun} {}", next.trim_start());
            input_line += 1;
        }
        let (name, args) = head_words(&head).map_err(|what| Misread::new(line, what))?;
        let input = input(&mut lines).ok_or_else(|| {
            Misread::new(line, format!("`{name}` is not followed by a line of `{SEPARATOR}`"))
        })?;
        let expected = expected(&mut lines).ok_or_else(|| {
            Misread::new(line, format!("what is expected of `{name}` has no end"))
        })?;
        directives.push(Directive { line, name, args, input, input_line, expected });
    }
    Ok(directives)
}

/// A command and its other words.
fn head_words(head: &str) -> Result<(String, Vec<Arg>), String> {
    let mut words = words(head)?.into_iter();
    let first = words.next().filter(|arg| arg.values.is_none());
    Ok((first.ok_or("a command was expected")?.key, words.collect()))
}

/// The words of a command; blanks within parentheses separate none.
fn words(line: &str) -> Result<Vec<Arg>, String> {
    let mut words = Vec::new();
    let (mut word, mut depth) = (String::new(), 0usize);
    for c in line.chars().chain([' ']) {
        match c {
            '(' => depth += 1,
            ')' => {
                depth = depth.checked_sub(1).ok_or("a parenthesis is closed that was not opened")?
            }
            _ => {}
        }
        if !c.is_whitespace() || depth > 0 {
            word.push(c);
        } else if !word.is_empty() {
            words.push(arg(&std::mem::take(&mut word)));
        }
    }
    if depth > 0 { Err("a parenthesis is not closed".into()) } else { Ok(words) }
}

fn arg(word: &str) -> Arg {
    let Some((key, value)) = word.split_once('=') else {
        return Arg { key: word.to_owned(), values: None };
    };
    let list = value.strip_prefix('(').and_then(|value| value.strip_suffix(')'));
    let values = match list.map(str::trim) {
        None => vec![value.to_owned()],
        Some("") => Vec::new(),
        Some(list) => list.split(',').map(|value| value.trim().to_owned()).collect(),
    };
    Arg { key: key.to_owned(), values: Some(values) }
}

/// The lines up to the separator; `None` if there is none before the next command.
fn input(lines: &mut Lines<'_>) -> Option<String> {
    let mut input = Vec::new();
    loop {
        match lines.next()?.1 {
            SEPARATOR => return Some(input.join("\n")),
            // Behind an empty line stands another command: it must not be taken for input.
            line if !line.is_empty() && input.last() == Some(&"") => return None,
            line => input.push(line),
        }
    }
}

fn expected(lines: &mut Lines<'_>) -> Option<String> {
    let mut expected = Vec::new();
    if lines.peek() == Some(SEPARATOR) {
        lines.next();
        loop {
            let (_, line) = lines.next()?;
            if line == SEPARATOR && lines.peek() == Some(SEPARATOR) {
                lines.next();
                break;
            }
            expected.push(line);
        }
    } else {
        while let Some((_, line)) = lines.next().filter(|(_, line)| !line.is_empty()) {
            expected.push(line);
        }
    }
    Some(expected.join("\n"))
}

impl Directive {
    /// The words without a value.
    pub(super) fn plain(&self) -> impl Iterator<Item = &str> {
        self.args.iter().filter(|arg| arg.values.is_none()).map(|arg| arg.key.as_str())
    }

    /// This one, and each line of its input, as commands without input.
    pub(super) fn commands(&self) -> Result<Vec<Self>, Misread> {
        let bare = |line, name, args| Self {
            line,
            name,
            args,
            input: String::new(),
            input_line: line + 1,
            expected: String::new(),
        };
        let mut all = vec![bare(self.line, self.name.clone(), self.args.clone())];
        let below = (self.input_line..).zip(self.input.lines());
        for (line, text) in below.filter(|(_, text)| !text.trim().is_empty()) {
            let (name, args) = head_words(text).map_err(|what| Misread::new(line, what))?;
            all.push(bare(line, name, args));
        }
        Ok(all)
    }

    /// This directive makes no sense.
    pub(super) fn misread(&self, what: impl fmt::Display) -> Misread {
        Misread::new(self.line, format!("`{}`: {what}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Directive {
        let mut all = parse(text).unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn a_command_has_words_lists_input_and_what_is_expected() {
        let got = one("\n# why\nset 3 of=(1, 2) as=one none=()\nfirst\nsecond\n----\nok\nsure\n\n");
        assert_eq!((got.line, got.name.as_str()), (3, "set"));
        assert_eq!((got.input.as_str(), got.expected.as_str()), ("first\nsecond", "ok\nsure"));
        let args: Vec<_> = got
            .args
            .iter()
            .map(|a| (a.key.as_str(), a.values.as_ref().map(|v| v.join("+"))))
            .collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            args,
            [("3", None), ("of", some("1+2")), ("as", some("one")), ("none", some(""))]
        );
        assert_eq!(got.args[3].values, Some(Vec::new()));
    }

    #[test]
    fn each_line_of_the_input_can_be_a_command_too() {
        let got = one("\nset 1 \\\n2\nget a=b\nput\n\n----\nok\n").commands().unwrap();
        let names: Vec<_> = got.iter().map(|one| (one.line, one.name.as_str())).collect();
        assert_eq!(names, [(2, "set"), (4, "get"), (5, "put")]);
        assert_eq!(got[0].plain().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(got[1].args, [Arg { key: "a".into(), values: Some(vec!["b".into()]) }]);
        let wrong = one("set 1\nget (\n----\n").commands().map_err(|wrong| wrong.line);
        assert_eq!(wrong, Err(2));
    }

    #[test]
    fn a_line_goes_on_behind_a_backslash() {
        let got = one("set 1 \\\n  2\n----\n");
        assert_eq!(got.plain().collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn doubled_separators_keep_empty_lines() {
        let text = "a\n----\n----\nx\n\n----\ny\n----\n----\n\nb\n----\nok\n";
        let got = parse(text).unwrap();
        assert_eq!(got.len(), 2);
        assert_eq!(got[0].expected, "x\n\n----\ny");
        assert_eq!((got[1].line, got[1].expected.as_str()), (11, "ok"));
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_line() {
        for (text, line) in [
            ("a\n----\nok\n\nb\n", 5),
            ("a\nin\n\nb\n----\nok\n", 1),
            ("\na (1\n----\n", 2),
            ("a 1)\n----\n", 1),
            ("a=1\n----\n", 1),
            ("a\n----\n----\nx\n", 1),
            ("a \\\n", 1),
        ] {
            assert_eq!(parse(text).map_err(|e| e.line), Err(line), "{text:?}");
        }
    }
}
