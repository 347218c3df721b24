//! The step `readme`: the tables of figures in README.md, each made by a program.
//!
//! A table stands between `<!-- figures:NAME -->` and `<!-- /figures -->`.

use std::fs;

use crate::sim;
use crate::tools::{Context, Trouble, at, failed, output, read};

/// Makes one table.
struct Generator {
    name: &'static str,
    /// The same on every machine: CI compares it.
    repeats: bool,
    make: fn(&Context) -> Result<String, Trouble>,
}

/// All tables, in the order of the README.
const GENERATORS: &[Generator] = &[Generator { name: "run", repeats: true, make: main_job }];

/// What the main job prints in the end.
fn main_job(context: &Context) -> Result<String, Trouble> {
    let program = sim::program(context)?;
    let printed = output(&mut context.command(&program.to_string_lossy()))?;
    match printed.code {
        Some(0) => Ok(format!("```text\n{}\n```", printed.out.trim_end())),
        code => failed(format!("the main job ended with {code:?}: {}", printed.err)),
    }
}

const END: &str = "<!-- /figures -->";

/// `readme`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let check = context.options.readme_check;
    let path = context.root.join("README.md");
    let text = read(&path)?;
    let made = regenerate(&text, |name| {
        let generator = GENERATORS.iter().find(|generator| generator.name == name);
        match generator {
            None => failed(format!("no generator makes the table {name}")),
            Some(generator) if check && !generator.repeats => Ok(None),
            Some(generator) => (generator.make)(context).map(Some),
        }
    })?;
    if let Some(absent) = GENERATORS.iter().find(|generator| !text.contains(&begin(generator.name)))
    {
        return failed(format!("README.md has no place for the table {}", absent.name));
    }
    if made == text {
        return Ok(format!("{} tables as they are", GENERATORS.len()));
    }
    if check {
        let differs = made.lines().zip(text.lines()).find(|(new, old)| new != old);
        let (new, old) = differs.unwrap_or_default();
        return failed(format!(
            "README.md differs; `cargo ci readme` makes it anew\n  stands:    {old}\n  should be: {new}"
        ));
    }
    fs::write(&path, made).map_err(|error| at(&path, error))?;
    Ok("README.md was made anew".to_owned())
}

fn begin(name: &str) -> String {
    format!("<!-- figures:{name} -->")
}

/// `text` with every table replaced by what `make` gives for its name; `None` leaves it as it is.
fn regenerate(
    text: &str,
    mut make: impl FnMut(&str) -> Result<Option<String>, Trouble>,
) -> Result<String, Trouble> {
    let (mut made, mut rest) = (String::new(), text);
    while let Some(start) = rest.find("<!-- figures:") {
        let (before, table) = rest.split_at(start);
        made.push_str(before);
        let name = table.trim_start_matches("<!-- figures:").split(' ').next().unwrap_or_default();
        let Some(end) = table.find(END) else {
            return failed(format!("the table {name} has no end mark"));
        };
        let (old, after) = table.split_at(end);
        match make(name)? {
            Some(new) => made.push_str(&format!("{}\n{}\n", begin(name), new.trim_end())),
            None => made.push_str(old),
        }
        made.push_str(END);
        rest = &after[END.len()..];
    }
    made.push_str(rest);
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a\n<!-- figures:x -->\nold\n<!-- /figures -->\nb\n";

    fn with(table: Option<&str>) -> String {
        regenerate(TEXT, |_| Ok(table.map(str::to_owned))).unwrap_or_default()
    }

    #[test]
    fn a_table_is_replaced_and_nothing_else() {
        assert_eq!(with(Some("new\n")), TEXT.replace("old", "new"));
    }

    #[test]
    fn a_table_that_is_not_made_stays() {
        assert_eq!(with(None), TEXT);
    }

    #[test]
    fn a_table_without_an_end_is_an_error() {
        assert!(regenerate("<!-- figures:x -->\nold", |_| Ok(None)).is_err());
    }
}
