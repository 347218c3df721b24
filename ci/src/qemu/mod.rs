//! `cargo ci qemu`: the firmware of `examples/microbit` on boards that are QEMU processes, on one serial wire, through resets, power cuts
//! inside flash operations, partitions and a board that comes back blank; and with PCs on the wire, as real processes.
//!
//! QEMU's flash takes no time, so the firmware's driver waits as long as the part would; a board's power goes by pausing the process,
//! keeping the flash as it is at that instant, and killing it. QEMU copies what it was started with into the flash again at each reset, which no chip
//! does: a reset is a cut after which power is there at once.

mod board;
mod cluster;
mod hub;
mod image;
mod judge;
mod logs;
pub(crate) mod machine;
mod mirror;
mod mixed;
mod pc;
mod run;
mod show;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::embedded::Toolchain;
use crate::size;
use crate::tools::{self, Context, Trouble, at, failed};
use cluster::Tally;
use image::{Addresses, Firmware};
use run::{Plan, Report};

/// What a caller wants.
pub(crate) struct Campaign {
    pub(crate) seed: u64,
    pub(crate) seeds: u64,
    /// How many boards; without it, three and five, and three with PCs.
    pub(crate) boards: Option<u8>,
    /// Only those with PCs.
    pub(crate) pc: bool,
    /// Power cuts of a run, beside those that every run has.
    pub(crate) cuts: u32,
    /// Where logs and flash images are kept.
    pub(crate) keep: Option<PathBuf>,
}

impl Campaign {
    /// For a plain `cargo ci`.
    pub(crate) const SHORT: Self =
        Self { seed: 1, seeds: 1, boards: None, pc: false, cuts: 8, keep: None };
    /// For a full one.
    pub(crate) const LONG: Self =
        Self { seed: 1, seeds: 10, boards: None, pc: false, cuts: 16, keep: None };
}

/// The firmware's folder, and its images below the folder of built firmware: the loop, and the same by an executor.
pub(crate) const MANIFEST: &str = "examples/microbit/Cargo.toml";
const IMAGE: &str = "microbit";
const ASYNC_IMAGE: &str = "microbit-async";
/// What the firmware tells by defmt is a part of it.
pub(crate) const VARIABLES: &[(&str, &str)] = &[("DEFMT_LOG", "info")];

/// A firmware, linked.
fn firmware(context: &Context, image: &str, more: &[&str]) -> Result<PathBuf, Trouble> {
    let toolchain = Toolchain::find(context)?;
    let arguments = [&["--manifest-path", MANIFEST, "--bin", image], more].concat();
    let folder = toolchain.firmware_with(context, &arguments, VARIABLES)?;
    Ok(folder.join(image))
}

/// QEMU, and both firmwares for it: the loop, and the same by an executor.
fn firmwares(context: &Context) -> Result<[Firmware; 2], Trouble> {
    machine::install(context)?;
    let of_loop = Firmware::of(&firmware(context, IMAGE, &[])?)?;
    Toolchain::find(context)?.knows_what_to_run(context, MANIFEST, VARIABLES)?;
    let by_executor = firmware(context, ASYNC_IMAGE, &["--features", "async"])?;
    Ok([of_loop, Firmware::of(&by_executor)?])
}

/// `qemu`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let firmwares = firmwares(context)?;
    let campaign = &context.options.qemu;
    let (counts, with_pcs) = match campaign.boards {
        _ if campaign.pc => (vec![], true),
        Some(boards) => (vec![usize::from(boards)], false),
        None => (vec![3, 5], true),
    };
    if with_pcs {
        tools::run(&mut context.cargo(&["build", "--release", "-p", "quorate-std"]))?;
    }
    let (mut inside, mut runs, mut stack) = (0, 0, [0; 2]);
    let mut count = |tally: &Tally, of_run: [usize; 2]| {
        inside += tally.in_writes + tally.in_erases;
        for (deepest, stack) in stack.iter_mut().zip(of_run) {
            *deepest = stack.max(*deepest);
        }
        runs += 1;
    };
    for seed in campaign.seed..campaign.seed.saturating_add(campaign.seeds) {
        for boards in &counts {
            let plan = Plan { boards: *boards, seed, cuts: campaign.cuts };
            let report = one(context, &plan, &firmwares)?;
            count(&report.tally, report.stack);
        }
        if with_pcs {
            let report = with_a_pc(context, seed, &firmwares)?;
            count(&report.tally, report.stack);
        }
    }
    let [of_loop, by_executor] = &firmwares;
    println!(
        "{} (goals {FLASH_GOAL} and {RAM_GOAL})",
        footprint(IMAGE, &of_loop.addresses, stack[0])
    );
    println!("{}", footprint(ASYNC_IMAGE, &by_executor.addresses, stack[1]));
    Ok(format!("{runs} runs, {inside} power cuts inside flash operations"))
}

/// What the application is to take at most, in bytes: a goal, not enforced.
const FLASH_GOAL: u64 = 48 * 1024;
const RAM_GOAL: u64 = 8 * 1024;

/// What the whole application takes.
fn footprint(name: &str, addresses: &Addresses, stack: usize) -> String {
    let (flash, variables) = (addresses.flash, addresses.variables);
    let ram = variables + stack as u64;
    format!(
        "{name}, the whole application: {flash} bytes of flash, {ram} of RAM: {variables} of variables, {stack} of stack at the deepest"
    )
}

/// What each of the application's variables is for, by its name.
const BUFFERS: &[(&str, &str)] = &[
    ("NODE", "the node, its log of 2,048 B in it"),
    ("MAP", "the `ConfigMap`"),
    ("BUFFER", "the flash buffer"),
    ("BOARD", "the runner, with link, flash, clock and application"),
    ("LINE", "the serial line's two frames"),
    ("RING", "bytes that come in by the UART"),
    ("FRAME", "the frame buffer"),
];

/// The runs that tell how deep its stack gets.
const APPLICATION_SEEDS: std::ops::RangeInclusive<u64> = 11..=13;

/// The table of what the whole application takes: measured in runs with PCs on the wire, which have elections, a joint change, snapshots and
/// starts from flash in them.
pub(crate) fn application(context: &Context) -> Result<String, Trouble> {
    let firmwares = firmwares(context)?;
    tools::run(&mut context.cargo(&["build", "--release", "-p", "quorate-std"]))?;
    let mut stack = 0;
    for seed in APPLICATION_SEEDS {
        stack = with_a_pc(context, seed, &firmwares)?.stack[0].max(stack);
    }
    let (image, stack) = (&firmwares[0].addresses, stack as u64);
    let mut rows = vec![
        ("flash, the log's own not counted".to_owned(), image.flash),
        ("RAM".to_owned(), image.variables + stack),
        ("of it: the stack at its deepest".to_owned(), stack),
    ];
    let mut rest = image.variables;
    for (name, about) in BUFFERS {
        let is_it = |(variable, _): &&(String, u64)| variable.rsplit("::").next() == Some(*name);
        let Some((_, bytes)) = image.each_variable.iter().find(is_it) else {
            return failed(format!("the image has no variable {name}"));
        };
        rows.push((format!("of it: {about}"), *bytes));
        rest -= bytes;
    }
    rows.push(("of it: all others".to_owned(), rest));
    Ok(size::table_of(&["the microbit application", "B"], &rows))
}

/// One run of boards alone.
fn one(context: &Context, plan: &Plan, firmwares: &[Firmware; 2]) -> Result<Report, Trouble> {
    let (boards, seed) = (plan.boards, plan.seed);
    let wish = format!("--seed {seed} --boards {boards}");
    in_folder(context, &format!("{boards}-boards-seed-{seed}"), &wish, firmwares, |own, folder| {
        let report = run::run(plan, own, &context.root, folder)?;
        Ok((report.text(), report))
    })
}

/// One run with PCs on the wire.
fn with_a_pc(
    context: &Context,
    seed: u64,
    firmwares: &[Firmware; 2],
) -> Result<mixed::Report, Trouble> {
    let program = context.target.join("release/quorate");
    let wish = format!("--seed {seed} --pc");
    in_folder(context, &format!("pc-seed-{seed}"), &wish, firmwares, |own, folder| {
        let report = mixed::run(seed, own, &program, &context.root, folder)?;
        Ok((report.text(), report))
    })
}

/// A run in a folder of its own; `wish` is what has it run again.
fn in_folder<T>(
    context: &Context,
    name: &str,
    wish: &str,
    firmwares: &[Firmware; 2],
    run: impl FnOnce(&[Firmware; 2], &Path) -> Result<(String, T), Trouble>,
) -> Result<T, Trouble> {
    let folder = Folder::new(name, context.options.qemu.keep.as_deref())?;
    println!("{name} …");
    let begun = Instant::now();
    let [of_loop, by_executor] = firmwares;
    let own = [of_loop.copied(&folder.path)?, by_executor.copied(&folder.path)?];
    let ended = run(&own, &folder.path);
    let took = begun.elapsed().as_secs_f32();
    match ended {
        Ok((text, report)) => {
            println!("{text}  {took:.0} s");
            Ok(report)
        }
        Err(trouble) => failed(format!(
            "{}\n  again, with logs and images kept: cargo ci qemu {wish} --keep DIR",
            trouble.text()
        )),
    }
}

impl Report {
    fn text(&self) -> String {
        let Self { tally, wire, commits, dumps, stack } = self;
        format!(
            "  {} elections, {commits} commits, {} changes acknowledged, {} unknown; {dumps} flash dumps mounted\n  \
             {} resets, {} kills, {} starts from a dump; {} cuts inside a flash operation ({} writes, {} erases), {} left torn\n  \
             {} frames; each to the others: {} lost, {} damaged, {} cut short, {} repeated, {} delayed, {} cut off\n  \
             deepest stack {} bytes, by the executor {};",
            wire.leaders.len(),
            tally.done,
            tally.unknown,
            tally.resets,
            tally.kills,
            tally.reloads,
            tally.in_writes + tally.in_erases,
            tally.in_writes,
            tally.in_erases,
            tally.torn,
            wire.frames,
            wire.lost,
            wire.damaged,
            wire.shortened,
            wire.repeated,
            wire.delayed,
            wire.cut,
            stack[0],
            stack[1],
        )
    }
}

/// A folder for files of one run. Sockets have short paths: it lies where the system keeps what is temporary.
fn temporary(what: &str) -> Result<PathBuf, Trouble> {
    let path = std::env::temp_dir().join(format!("quorate-{}-{what}", std::process::id()));
    fs::create_dir(&path).map_err(|error| at(&path, error))?;
    Ok(path)
}

/// Shows boards to a person: with this image, or the firmware as it is.
pub(crate) fn show(context: &Context, image: Option<&Path>) -> Result<(), Trouble> {
    machine::install(context)?;
    match image {
        Some(image) => show::show(image),
        None => show::show(&firmware(context, IMAGE, &[])?),
    }
}

/// A run's files.
struct Folder {
    path: PathBuf,
    keep: Option<PathBuf>,
}

impl Folder {
    fn new(name: &str, keep: Option<&Path>) -> Result<Self, Trouble> {
        Ok(Self { path: temporary(name)?, keep: keep.map(|dir| dir.join(name)) })
    }

    fn keep(&self, dir: &Path) -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let kept = ["defmt", "load", "elf", "log"];
            if path.extension().is_some_and(|end| kept.iter().any(|kept| end == *kept)) {
                fs::copy(&path, dir.join(path.file_name().unwrap_or_default()))?;
            }
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(dir) = &self.keep
            && let Err(error) = self.keep(dir)
        {
            eprintln!("{}: {error}", dir.display());
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}
