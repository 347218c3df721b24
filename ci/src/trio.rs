//! `cargo ci hash`: three nodes in one program, here and on a Cortex-M0 under QEMU: the same seed leads to the same hash over all that
//! comes out of them. And what their calls cost that core, for the table of instructions in `core/docs/figures.md`.

use std::fmt::Arguments;
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use quorate_trio::{Board, GEOMETRY, NODES, Trio, faulty};

use crate::embedded::Toolchain;
use crate::qemu::machine;
use crate::size::{compiler_of_figures, thousands};
use crate::tools::{Context, Trouble, failed, output_within};

/// What a caller wants.
pub(crate) struct Campaign {
    pub(crate) seed: u64,
    pub(crate) seeds: u64,
}

impl Campaign {
    /// For a plain `cargo ci`.
    pub(crate) const SHORT: Self = Self { seed: 1, seeds: 5 };
    /// For a full one.
    pub(crate) const LONG: Self = Self { seed: 1, seeds: 100 };
}

/// The firmware's folder, and its image below the folder of built firmware.
const MANIFEST: &str = "ci/trio-board/Cargo.toml";
const IMAGE: &str = "trio-board";
/// A run is over long before.
const LIMIT: Duration = Duration::from_secs(300);
/// Seeds of the runs that the worst of every call is looked for in.
const COST_SEEDS: &str = "20";

/// The host: flash that is memory, and lines.
struct Host {
    flash: Vec<u8>,
    lines: Vec<String>,
}

impl Board for Host {
    fn read(&mut self, at: u32, bytes: &mut [u8]) {
        let at = at as usize;
        bytes.copy_from_slice(&self.flash[at..at + bytes.len()]);
    }

    fn write(&mut self, at: u32, bytes: &[u8]) {
        for (old, new) in self.flash[at as usize..].iter_mut().zip(bytes) {
            *old &= new;
        }
    }

    fn erase(&mut self, at: u32, bytes: u32) {
        self.flash[at as usize..(at + bytes) as usize].fill(GEOMETRY.erased);
    }

    fn mark(&mut self, line: Arguments<'_>) {
        self.lines.push(line.to_string());
    }
}

/// The lines of a run here, and the snapshots taken over from a leader; an error if not all happened that should.
fn here(seed: u64) -> Result<(Vec<String>, u32), Trouble> {
    let flash = vec![0; GEOMETRY.bytes() as usize * NODES];
    let mut host = Host { flash, lines: Vec::new() };
    let report = faulty(&mut Trio::new(), &mut host, seed);
    if let Some(what) = report.lacks() {
        return failed(format!("seed {seed}: there was no {what}: the run proves nothing"));
    }
    if !report.agree || report.stopped() > 0 {
        return failed(format!("seed {seed}: the nodes do not agree in the end: {report}"));
    }
    host.lines.push(report.to_string());
    Ok((host.lines, report.installed()))
}

/// The lines of a run of the image, without the last, which is about its stack.
fn there(context: &Context, image: &PathBuf, arguments: &[&str]) -> Result<Vec<String>, Trouble> {
    let mut command = context.command(machine::PROGRAM);
    command.args(["-M", "microbit", "-display", "none", "-monitor", "none", "-serial", "none"]);
    // An instruction takes 2^10 ns: what the image's timer is read for.
    command.args(["-icount", "shift=10"]);
    let mut semihosting = "enable=on,target=native,arg=trio".to_owned();
    arguments.iter().for_each(|argument| semihosting.push_str(&format!(",arg={argument}")));
    command.args(["-semihosting-config", &semihosting]).arg("-kernel").arg(image);
    let printed = output_within(command.stdin(std::process::Stdio::null()), LIMIT)?;
    let mut lines: Vec<String> = printed.out.lines().map(str::to_owned).collect();
    let stack = lines.pop().unwrap_or_default();
    let figures: Vec<usize> = stack.split(' ').filter_map(|word| word.parse().ok()).collect();
    match (printed.code, &figures[..]) {
        // A stack that was used up has grown into the variables.
        (Some(0), [deepest, all]) if deepest < all => {
            println!("the stack of all three and what drives them: {stack} bytes");
            Ok(lines)
        }
        (code, _) => {
            failed(format!("the image ended with {code:?}: {}{}", printed.out, printed.err))
        }
    }
}

/// The image, linked.
fn image(context: &Context) -> Result<PathBuf, Trouble> {
    machine::install(context)?;
    let toolchain = Toolchain::find(context)?;
    Ok(toolchain.firmware(context, &["--manifest-path", MANIFEST])?.join(IMAGE))
}

/// `hash`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let image = image(context)?;
    let Campaign { seed, seeds } = context.options.hash;
    let (mut reports, mut installed): (Vec<String>, u32) = (Vec::new(), 0);
    for seed in seed..seed.saturating_add(seeds) {
        let (here, of_leader) = here(seed)?;
        installed += of_leader;
        let there = there(context, &image, &["hash", &seed.to_string()])?;
        if let Some(parted) = parted(&here, &there) {
            return failed(format!("seed {seed}: {parted}"));
        }
        let report = here.last().cloned().unwrap_or_default();
        println!("seed {seed}: {report}");
        // What does not depend on the seed would be the same anywhere.
        if reports.contains(&report) {
            return failed(format!("seed {seed} leads to what another one did"));
        }
        reports.push(report);
    }
    // Not every seed leads to one.
    if seeds > 1 && installed == 0 {
        return failed("no snapshot was taken over from a leader: the runs prove little");
    }
    Ok(format!("{seeds} seeds, each with one hash here and on a Cortex-M0"))
}

/// Where two runs part, if they do.
fn parted(here: &[String], there: &[String]) -> Option<String> {
    let end = String::new();
    let line = |lines: &[String], at| lines.get(at).unwrap_or(&end).clone();
    let at = (0..here.len().max(there.len())).find(|at| here.get(*at) != there.get(*at))?;
    let before = at.checked_sub(1).map_or_else(String::new, |at| line(here, at));
    let (here, there) = (line(here, at), line(there, at));
    Some(format!(
        "the runs part after `{before}`\n  here:            {here}\n  on a Cortex-M0:  {there}"
    ))
}

/// The table of instructions.
pub(crate) fn instructions(context: &Context) -> Result<Option<String>, Trouble> {
    let compiler = Toolchain::find(context)?.compiler(context)?;
    if compiler != compiler_of_figures(context)? {
        return Ok(None);
    }
    let image = image(context)?;
    let lines = there(context, &image, &["cost", COST_SEEDS])?;
    let figures: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    let (mut entries, mut calls) =
        (table(&["entry B", "at once", "leader", "all three"]), table(&["call", "at most"]));
    let figure = |text: &str| thousands(text.parse().unwrap_or_default());
    for line in &figures {
        match line[..] {
            ["entry", bytes, batch, leader, all] => {
                entries.add_row([bytes, batch, &figure(leader), &figure(all)]);
            }
            ["call", name, most] => {
                calls.add_row([format!("`{name}`"), figure(most)]);
            }
            ["mount", most] => {
                calls.add_row(["a whole mount, call by call".to_owned(), figure(most)]);
            }
            _ => return failed(format!("the image says: {}", line.join(" "))),
        }
    }
    Ok(Some(format!("{compiler}\n\nFor a committed entry:\n\n{entries}\n\nOf a call:\n\n{calls}")))
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(header);
    for at in 1..header.len() {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use quorate_trio::CALLS;

    use super::*;
    use crate::embedded::public_methods;

    /// These hand out a reference, or are done before there is a node.
    const COST_NOTHING: &[&str] = &["new", "limits", "members", "raft"];

    #[test]
    fn every_call_of_a_node_is_measured() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/src/node");
        let mut calls = 0;
        for file in ["mod.rs", "forward.rs", "members.rs", "poll.rs", "read.rs"] {
            let source = std::fs::read_to_string(folder.join(file)).unwrap();
            for name in public_methods(&source).filter(|name| !COST_NOTHING.contains(name)) {
                assert!(CALLS.contains(&name), "{file}: {name}");
                calls += 1;
            }
        }
        assert_eq!(calls, CALLS.len());
    }

    fn lines(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn runs_part_where_a_line_differs_or_is_missing() {
        assert_eq!(parted(&lines("a b"), &lines("a b")), None);
        assert!(parted(&lines("a b"), &lines("a c")).is_some_and(|it| it.contains("after `a`")));
        assert!(parted(&lines("a b"), &lines("a")).is_some());
        assert!(parted(&lines("a"), &lines("a b")).is_some());
    }
}
