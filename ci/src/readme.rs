//! The step `readme`: the tables of figures in README.md and in the documentation, each made by a program.
//!
//! A table stands between `<!-- figures:NAME -->` and `<!-- /figures -->`.

use std::fs;

use crate::tools::{Context, Trouble, at, failed, output, read};
use crate::{bench, qemu, sim, size, trio};

/// Makes one table.
struct Generator {
    name: &'static str,
    file: &'static str,
    /// The table; none if this machine can't make it, and what stands is to stay.
    make: fn(&Context) -> Result<Option<String>, Trouble>,
}

/// All tables, in the order of their files.
const GENERATORS: &[Generator] = &[
    Generator { name: "run", file: README, make: main_job },
    Generator { name: "core", file: README, make: |c| measured(c, bench::core_short) },
    Generator { name: "flash", file: README, make: |_| Ok(Some(bench::flash_short())) },
    Generator { name: "size", file: README, make: size::short },
    Generator { name: "application", file: README, make: |c| measured(c, qemu::application) },
    Generator { name: "flash-all", file: FIGURES, make: |_| Ok(Some(bench::flash())) },
    Generator { name: "size-all", file: FIGURES, make: size::long },
    Generator { name: "instructions", file: FIGURES, make: trio::instructions },
    Generator { name: "core-all", file: FIGURES, make: |c| measured(c, bench::core) },
];

const README: &str = "README.md";
const FIGURES: &str = "core/docs/figures.md";

/// What takes minutes, and differs from machine to machine, is made anew and not compared.
fn measured(
    context: &Context,
    make: fn(&Context) -> Result<String, Trouble>,
) -> Result<Option<String>, Trouble> {
    if context.options.readme_check { Ok(None) } else { make(context).map(Some) }
}

/// What the main job prints in the end.
fn main_job(context: &Context) -> Result<Option<String>, Trouble> {
    let program = sim::program(context)?;
    let printed = output(&mut context.command(&program.to_string_lossy()))?;
    match printed.code {
        Some(0) => Ok(Some(format!("```text\n{}\n```", printed.out.trim_end()))),
        code => failed(format!("the main job ended with {code:?}: {}", printed.err)),
    }
}

const END: &str = "<!-- /figures -->";

/// `readme`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let (mut anew, mut left) = (Vec::new(), Vec::new());
    let wanted = context.options.readme_table.as_deref();
    if let Some(name) = wanted.filter(|name| GENERATORS.iter().all(|it| it.name != *name)) {
        return failed(format!("there is no table {name}"));
    }
    for file in [README, FIGURES] {
        if make(context, file, &mut left)? {
            anew.push(file);
        }
    }
    let made = match anew[..] {
        [] => match wanted {
            Some(name) => format!("the table {name} as it is"),
            None => format!("{} tables as they are", GENERATORS.len()),
        },
        _ => format!("{} made anew", anew.join(", ")),
    };
    match left[..] {
        [] => Ok(made),
        _ => Ok(format!(
            "{made}; not compared, as measured or as of another compiler: {}",
            left.join(", ")
        )),
    }
}

/// Makes the tables of one file; true if it had to be written.
fn make(
    context: &Context,
    file: &'static str,
    left: &mut Vec<&'static str>,
) -> Result<bool, Trouble> {
    let path = context.root.join(file);
    let text = read(&path)?;
    let here = GENERATORS.iter().filter(|generator| generator.file == file);
    if let Some(absent) = here.clone().find(|generator| !text.contains(&begin(generator.name))) {
        return failed(format!("{file} has no place for the table {}", absent.name));
    }
    let made = regenerate(&text, |name| {
        let Some(generator) = here.clone().find(|generator| generator.name == name) else {
            return failed(format!("no generator makes the table {name} of {file}"));
        };
        if context.options.readme_table.as_ref().is_some_and(|wanted| wanted != name) {
            return Ok(None);
        }
        let table = (generator.make)(context)?;
        if table.is_none() {
            left.push(generator.name);
        }
        Ok(table)
    })?;
    if made == text {
        return Ok(false);
    }
    if context.options.readme_check {
        let differs = made.lines().zip(text.lines()).find(|(new, old)| new != old);
        let (new, old) = differs.unwrap_or_default();
        return failed(format!(
            "{file} differs; `cargo ci readme` makes it anew\n  stands:    {old}\n  should be: {new}"
        ));
    }
    fs::write(&path, made).map_err(|error| at(&path, error))?;
    Ok(true)
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
