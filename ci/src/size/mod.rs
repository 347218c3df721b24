//! `cargo ci size`: what the core costs a board, measured on linked images, and whether that is within the budgets.
//!
//! The images are the programs of `ci/size`. Figures repeat with the same compiler, and only then.

mod budgets;
mod image;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

use crate::embedded::{TARGET, Toolchain};
use crate::tools::{Context, Trouble, at, failed};
use budgets::Budgets;
use image::Image;

/// What a caller wants to see or done.
#[derive(Default)]
pub(crate) struct Wishes {
    pub(crate) functions: usize,
    pub(crate) image: String,
    pub(crate) update: bool,
}

/// The targets that are measured beside the Cortex-M0.
const ELSEWHERE: &[&str] = &["thumbv7em-none-eabi", "riscv32imc-unknown-none-elf"];

/// The images, and what each holds beyond [`EMPTY`].
const IMAGES: &[(&str, &str)] = &[
    ("log", "log in RAM"),
    ("flash_log", "flash log, with the log in RAM"),
    ("raft", "protocol, with the log in RAM"),
    ("wire", "wire format"),
    ("node", "whole node"),
    ("node_config_map", "whole node with a ConfigMap"),
];
const EMPTY: &str = "empty";
/// The image with everything.
const WHOLE: &str = "node_config_map";
/// The image with a variable of each type, and what they are.
const RAM: &str = "ram";
const TYPES: &[(&str, &str)] = &[
    ("WAL", "Wal, the flash log"),
    ("LOG_0", "Log, without its bytes"),
    ("RAFT", "Raft, the protocol"),
    ("EVENTS", "Events, the queue of them"),
    ("NODE_0", "Node, all of the above and more, without its log's bytes"),
    ("CONFIG_MAP_0", "ConfigMap, without its bytes"),
    ("OUTPUT", "Output, what a node yields"),
    ("PROGRESS", "Progress, what a flash log yields"),
    ("EVENT", "Event"),
    ("ENVELOPE", "Envelope, a frame taken apart"),
    ("STATUS", "Status"),
];

/// The images by name.
pub(crate) fn images() -> Vec<&'static str> {
    IMAGES.iter().map(|(name, _)| *name).collect()
}

/// What was measured.
struct Measured {
    compiler: String,
    images: BTreeMap<&'static str, Image>,
}

impl Measured {
    fn new(context: &Context, target: &'static str) -> Result<Self, Trouble> {
        let toolchain = Toolchain::find_for(context, target)?;
        let compiler = toolchain.compiler(context)?;
        let folder = toolchain.firmware(context, &["--manifest-path", "ci/size/Cargo.toml"])?;
        let mut images = BTreeMap::new();
        for name in images_all() {
            let path = folder.join(name);
            let bytes = fs::read(&path).map_err(|error| at(&path, error))?;
            images.insert(name, Image::parse(&bytes).map_err(|error| at(&path, error))?);
        }
        Ok(Self { compiler, images })
    }

    /// Flash beyond an empty image.
    fn beyond(&self, name: &str) -> u64 {
        let bytes = |name| self.images.get(name).map_or(0, Image::bytes);
        bytes(name).saturating_sub(bytes(EMPTY))
    }

    fn size_of(&self, variable: &str) -> u64 {
        let variables = self.images.get(RAM).map_or(&[][..], |image| &image.variables);
        variables.iter().find(|symbol| symbol.name == variable).map_or(0, |symbol| symbol.bytes)
    }

    /// All that has a budget: what, how much, and what it is called.
    fn figures(&self) -> Budgets {
        let code = IMAGES.iter().map(|(name, _)| ((*name).to_owned(), self.beyond(name)));
        let ram = TYPES.iter().map(|(name, _)| (name.to_lowercase(), self.size_of(name)));
        let (code, ram) = (code.collect(), ram.collect());
        Budgets { compiler: self.compiler.clone(), code, ram, elsewhere: BTreeMap::new() }
    }

    fn code_table(&self, budgets: &Budgets) -> Table {
        let mut table = table(&["image", "code", "constants", "beyond an empty image", "budget"]);
        for (name, about) in IMAGES {
            let Some(image) = self.images.get(name) else { continue };
            let budget = budgets.code.get(*name).copied().unwrap_or_default();
            let figures = [image.text, image.constants, self.beyond(name), budget];
            add(&mut table, about, &figures);
        }
        table
    }

    fn ram_table(&self) -> Table {
        let mut table = table(&["type", "RAM"]);
        for (name, about) in TYPES {
            add(&mut table, about, &[self.size_of(name)]);
        }
        table
    }

    /// What each layer adds: differences between images.
    fn layer_table(&self) -> Table {
        let beyond = |name| self.beyond(name);
        let log = beyond("log");
        let parts = [
            ("log in RAM", log),
            ("flash log", beyond("flash_log").saturating_sub(log)),
            ("protocol", beyond("raft").saturating_sub(log)),
            ("wire format", beyond("wire")),
        ];
        let parts_sum: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
        let rest = beyond("node").saturating_sub(parts_sum);
        let map = beyond(WHOLE).saturating_sub(beyond("node"));
        let own = [("node's own: intake, snapshots, membership, limits", rest), ("ConfigMap", map)];
        let mut table = table(&["layer", "code and constants"]);
        for (layer, bytes) in parts.into_iter().chain(own) {
            add(&mut table, layer, &[bytes]);
        }
        table
    }
}

fn images_all() -> impl Iterator<Item = &'static str> {
    IMAGES.iter().map(|(name, _)| *name).chain([EMPTY, RAM])
}

fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(columns);
    for column in 1..columns.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A table of names and figures.
pub(crate) fn table_of(columns: &[&str], rows: &[(String, u64)]) -> String {
    let mut table = table(columns);
    rows.iter().for_each(|(about, figure)| add(&mut table, about, &[*figure]));
    table.to_string()
}

fn add(table: &mut Table, about: &str, figures: &[u64]) {
    let figures = figures.iter().map(|figure| thousands(*figure));
    table.add_row([about.to_owned()].into_iter().chain(figures));
}

/// A figure as people read it.
pub(crate) fn thousands(figure: u64) -> String {
    match figure {
        0..1000 => figure.to_string(),
        _ => format!("{},{:03}", figure / 1000, figure % 1000),
    }
}

/// A few of the figures, for the README; none with another compiler than that of the budgets.
pub(crate) fn short(context: &Context) -> Result<Option<String>, Trouble> {
    let measured = Measured::new(context, TARGET)?;
    if Budgets::read(context)?.compiler != measured.compiler {
        return Ok(None);
    }
    let mut table = table(&["on a Cortex-M0", "code and constants, B", "RAM, B"]);
    let row = |table: &mut Table, about: &str, image: &str, ram: &[&str]| {
        let ram = ram.iter().map(|name| measured.size_of(name)).sum();
        add(table, about, &[measured.beyond(image), ram]);
    };
    row(&mut table, "flash log, with the log in RAM", "flash_log", &["WAL", "LOG_0"]);
    row(&mut table, "protocol, with the log in RAM", "raft", &["RAFT", "LOG_0", "EVENTS"]);
    row(&mut table, "whole node", "node", &["NODE_0"]);
    row(&mut table, "whole node with a ConfigMap", WHOLE, &["NODE_0", "CONFIG_MAP_0"]);
    Ok(Some(table.to_string()))
}

/// The compiler that the figures of the documentation are of.
pub(crate) fn compiler_of_figures(context: &Context) -> Result<String, Trouble> {
    Ok(Budgets::read(context)?.compiler)
}

/// All tables, for the documentation; none with another compiler than that of the budgets.
pub(crate) fn long(context: &Context) -> Result<Option<String>, Trouble> {
    let (measured, budgets) = (Measured::new(context, TARGET)?, Budgets::read(context)?);
    if budgets.compiler != measured.compiler {
        return Ok(None);
    }
    Ok(Some(measured.text(&budgets)))
}

impl Measured {
    /// All tables.
    fn text(&self, budgets: &Budgets) -> String {
        let mut text = format!("{TARGET}, {}\n\nBytes of flash:\n\n", self.compiler);
        let _ = writeln!(text, "{}\n", self.code_table(budgets));
        for (image, aim) in budgets::AIMS {
            let measured = self.beyond(image);
            let reached = if measured <= *aim { "reached" } else { "not reached" };
            let _ = writeln!(text, "The aim for `{image}` is {}: {reached}.\n", thousands(*aim));
        }
        let _ = writeln!(text, "Bytes of RAM:\n\n{}\n", self.ram_table());
        let _ = write!(text, "Bytes of flash by layer:\n\n{}", self.layer_table());
        text
    }
}

/// The figures of other targets, by target.
fn elsewhere(figures: &Budgets, budgets: &Budgets) -> Option<Table> {
    let mut columns = vec!["beyond an empty image".to_owned()];
    for target in figures.elsewhere.keys() {
        columns.extend([target.clone(), "budget".to_owned()]);
    }
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = table(&columns);
    for (name, about) in IMAGES {
        let of = |all: &BTreeMap<String, u64>| all.get(*name).copied().unwrap_or_default();
        let row = figures.elsewhere.iter().flat_map(|(target, code)| {
            [of(code), budgets.elsewhere.get(target).map(of).unwrap_or_default()]
        });
        add(&mut table, about, &row.collect::<Vec<_>>());
    }
    (columns.len() > 1).then_some(table)
}

/// `size`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let wishes = &context.options.size;
    let measured = Measured::new(context, TARGET)?;
    let mut figures = measured.figures();
    for target in ELSEWHERE {
        let other = Measured::new(context, target)?.figures();
        if other.ram != figures.ram {
            return failed(format!(
                "types on {target} are not as large as on {TARGET}:\n{other:?}"
            ));
        }
        figures.elsewhere.insert((*target).to_owned(), other.code);
    }
    if wishes.update {
        figures.clone().with_room().write(context)?;
    }
    let budgets = Budgets::read(context)?;
    println!("{}", measured.text(&budgets));
    if let Some(table) = elsewhere(&figures, &budgets) {
        println!("\nBytes of flash on other targets:\n\n{table}");
    }
    if let Some(image) = measured.images.get(wishes.image.as_str()).filter(|_| wishes.functions > 0)
    {
        println!("\nThe largest functions of `{}`, of {}:", wishes.image, image.functions.len());
        for symbol in image.functions.iter().take(wishes.functions) {
            println!("{:>7}  {}", symbol.bytes, symbol.name);
        }
    }
    let same = budgets.compiler == measured.compiler;
    if !same {
        println!("\nThe budgets were measured with {}: 5 % more is let pass.", budgets.compiler);
    }
    let over = budgets.exceeded(&figures, if same { 0 } else { 5 });
    if !over.is_empty() {
        return failed(format!(
            "over budget ({}):\n  {}\nfind the cause, or raise the budget with `cargo ci size --update` and say why",
            budgets::FILE,
            over.join("\n  ")
        ));
    }
    Ok(format!(
        "flash log {} B, whole node {} B, within budget{}",
        thousands(measured.beyond("flash_log")),
        thousands(measured.beyond("node")),
        if same { "" } else { " (another compiler)" }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 12_034].map(thousands), ["0", "999", "1,000", "12,034"]);
    }
}
