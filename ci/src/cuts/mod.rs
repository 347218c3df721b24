//! The step `cuts`: a board with a flash log lives on bad flash, and loses power inside operations.

mod cell;
pub(crate) mod exhaustive;
pub(crate) mod flips;
pub(crate) mod rot;
mod watch;

use std::fmt::Write as _;

use comfy_table::{Table, presets};
use quorate_flash_lab::life::Tally;

use crate::tools::{Context, Trouble, failed};
use cell::Cell;
use watch::{Broken, on_all_cores, watched};

/// Cuts in every cell, in a short campaign and in a long one.
const COUNT: u64 = 320;
pub(crate) const COUNT_FULL: u64 = 10_000;
/// After so many failures a cell is left.
const FAILURES_MAX: usize = 3;

/// What a campaign does.
#[derive(Clone)]
pub(crate) struct Campaign {
    /// Cuts inside an operation, in every cell.
    pub(crate) count: u64,
    /// What all seeds follow from.
    pub(crate) seed: u64,
    /// The cells, by their names or a part of them; without any, all but those of words that flicker.
    pub(crate) cells: Vec<String>,
    /// One session alone, with all that it does.
    pub(crate) session: Option<u64>,
}

impl Campaign {
    /// All cells, with so many cuts in each.
    const fn of(count: u64) -> Self {
        Self { count, seed: 1, cells: Vec::new(), session: None }
    }

    pub(crate) const SHORT: Self = Self::of(COUNT);
    pub(crate) const LONG: Self = Self::of(COUNT_FULL);
}

/// A session in which a rule did not hold.
struct Failure {
    cell: Cell,
    seed: u64,
    broken: Broken,
}

impl Failure {
    fn text(&self) -> String {
        let Self { cell, seed, broken } = self;
        let session = cell.session(*seed);
        let seen: String = broken.text.chars().take(600).collect();
        format!(
            "{} violated: cargo ci cuts --cell {cell} --session {seed}\n  {seen}\n  {:?}\n  buffer {}, {:?}, crash loops: {}",
            broken.rule, session.geometry, session.buffer, session.faults, session.crash_loops
        )
    }
}

/// `cuts`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let campaign = &context.options.cuts;
    let wanted = |cell: &Cell| cell.is_wanted(&campaign.cells);
    let cells: Vec<Cell> = cell::all().into_iter().filter(wanted).collect();
    if let Some(seed) = campaign.session {
        let &[cell] = &cells[..] else {
            return failed("--session needs the name of one --cell");
        };
        let session = cell.session(seed);
        println!("{session:#?}");
        return match watched(|| session.run(true)) {
            Ok(tally) => Ok(format!("{tally:?}")),
            Err(broken) => failed(Failure { cell, seed, broken }.text()),
        };
    }
    if cells.is_empty() {
        return failed("no cell of that name; one is 4-prefix-decay-loop");
    }
    let lived = on_all_cores(&cells, |cell| live(campaign, *cell));
    println!("{}", table(&cells, &lived));
    let mut all = Tally::default();
    lived.iter().for_each(|(tally, _)| all.add(tally));
    let least = lived.iter().map(|(tally, _)| tally.cuts()).min().unwrap_or_default();
    let broken: Vec<String> = lived.iter().flat_map(|(_, f)| f.iter().map(Failure::text)).collect();
    let told = format!(
        "{} cuts, {least} or more in each of {} cells; a torn tail was reported at {} of {} mounts; {} sessions violated a rule",
        all.cuts(),
        cells.len(),
        all.torn_tails,
        all.mounts,
        broken.len()
    );
    if broken.is_empty() { Ok(told) } else { failed(format!("{told}\n{}", broken.join("\n"))) }
}

/// As many sessions in one cell as the cuts take.
fn live(campaign: &Campaign, cell: Cell) -> (Tally, Vec<Failure>) {
    let (mut tally, mut failures) = (Tally::default(), Vec::new());
    let mut i = 0;
    while tally.cuts() < campaign.count && failures.len() < FAILURES_MAX {
        let seed = cell.seed(campaign.seed, i);
        match watched(|| cell.session(seed).run(false)) {
            Ok(lived) => tally.add(&lived),
            Err(broken) => failures.push(Failure { cell, seed, broken }),
        }
        i += 1;
    }
    (tally, failures)
}

/// One line for each word size and kind of cut erase, and one for all.
fn table(cells: &[Cell], lived: &[(Tally, Vec<Failure>)]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "word",
        "cut erase",
        "sessions",
        "cuts in writes",
        "in erases",
        "of all, in mounts",
        "in foundings",
        "mounts",
        "torn tails",
        "snapshots",
        "entries",
        "lies",
        "over a trace",
        "violated",
    ]);
    let mut sums: Vec<(String, String, Tally, usize)> = Vec::new();
    for (cell, (tally, failures)) in cells.iter().zip(lived) {
        let names = (cell.word.to_string(), cell.erase.to_owned());
        if sums.last().is_none_or(|(word, erase, ..)| (word, erase) != (&names.0, &names.1)) {
            sums.push((names.0, names.1, Tally::default(), 0));
        }
        if let Some((_, _, sum, broken)) = sums.last_mut() {
            sum.add(tally);
            *broken += failures.len();
        }
    }
    let mut all = ("all".to_owned(), String::new(), Tally::default(), 0);
    for (_, _, tally, broken) in &sums {
        all.2.add(tally);
        all.3 += broken;
    }
    for (word, erase, tally, broken) in sums.into_iter().chain([all]) {
        let numbers = [
            tally.sessions,
            tally.cuts_in_write,
            tally.cuts_in_erase,
            tally.cuts_in_mount,
            tally.cuts_in_founding,
            tally.mounts,
            tally.torn_tails,
            tally.snapshots,
            tally.entries,
            tally.lies,
            tally.hidden,
            broken as u64,
        ];
        table.add_row([word, erase].into_iter().chain(numbers.map(|number| number.to_string())));
    }
    let mut text = table.to_string();
    let _ = write!(
        text,
        "\n\"over a trace\": words programmed where a cut write had left nothing to see (flash-format.md)"
    );
    text
}
