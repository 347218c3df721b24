//! `quorate sim`: whole boards in a deterministic simulation, and what they do when everything fails.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Subcommand;

use super::{Failure, print};
use crate::sim::{
    self, BOARDS, COMMITS_MIN, Ending, Fault, Faults, Options, Report, SpecEvents, SweepReport,
    Trace, VIRTUAL_SECONDS,
};

/// The most boards that a cluster can have.
const BOARDS_MAX: u8 = quorate::membership::MEMBERS_MAX as u8;

#[derive(Subcommand)]
pub(crate) enum Args {
    /// Run one seed.
    ///
    /// Faults are at work for three quarters of the virtual time; then they are healed, and the cluster has to
    /// show that it lives and has lost nothing. Exit code 0: every invariant held; 1: one did not; 2: a fault that
    /// was asked for by its name had no effect, or the command line makes no sense.
    Run(Run),
    /// Run many seeds.
    ///
    /// Exit code 0: every invariant held in each; 1: one did not; 2: with all faults, fewer than half of the seeds
    /// crashed a leader and committed 20 entries amid faults, or a fault that was asked for by its name never had
    /// an effect.
    Sweep(Sweep),
    /// Run the trace of an earlier run again, and compare it line by line.
    ///
    /// Exit code 0: the same; 1: it differs, and the first difference is printed; 2: the file is no trace.
    Replay(Replay),
}

#[derive(clap::Args)]
struct World {
    /// Boards in the cluster.
    #[arg(long, default_value_t = BOARDS, value_parser = clap::value_parser!(u8).range(1..=i64::from(BOARDS_MAX)))]
    boards: u8,
    /// How long a run lasts in virtual seconds. By default it is long enough that with all faults a leader is cut
    /// and 20 entries are committed amid faults.
    #[arg(long, default_value_t = VIRTUAL_SECONDS, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    virtual_seconds: u32,
    /// Which faults may happen: all, none, or some of them, separated by commas.
    #[arg(long, default_value_t = Faults::ALL, long_help = faults_help())]
    faults: Faults,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct Run {
    /// Where all chance comes from: the same seed makes the same run on every machine.
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    world: World,
    /// Write every input and output of every board to FILE.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the run to FILE in the event form that the TLA+ trace validation of etcd-io/raft reads, one JSON object a
    /// line. That specification knows no pre-vote and no joint changes, so the boards do without them: the run is another one
    /// than without this.
    #[arg(long, value_name = "FILE")]
    ndjson: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct Sweep {
    /// The seeds, from A up to but not including B.
    #[arg(long, value_name = "A..B")]
    seeds: Seeds,
    #[command(flatten)]
    world: World,
    /// Runs at a time; by default one for each processor.
    #[arg(long)]
    jobs: Option<std::num::NonZeroUsize>,
}

#[derive(clap::Args)]
pub(crate) struct Replay {
    /// What `quorate sim run --trace FILE` wrote.
    file: PathBuf,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// A range of seeds.
#[derive(Clone, Debug)]
struct Seeds(Range<u64>);

impl FromStr for Seeds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "a range of seeds is two numbers, such as 0..1000";
        let (from, to) = text.split_once("..").ok_or(WANTED)?;
        let (from, to) = (from.parse().map_err(|_| WANTED)?, to.parse().map_err(|_| WANTED)?);
        if from < to { Ok(Self(from..to)) } else { Err("the range holds no seed") }
    }
}

fn faults_help() -> String {
    let names: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
    format!(
        "Which faults may happen: all, none, or some of these, separated by commas: {}",
        names.join(", ")
    )
}

impl World {
    fn options(&self, seed: u64) -> Options {
        let Self { boards, virtual_seconds, faults, .. } = *self;
        Options { boards, virtual_seconds, faults, ..Options::new(seed) }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match args {
        Args::Run(args) => run_one(args),
        Args::Sweep(args) => sweep(args),
        Args::Replay(args) => replay(args),
    }
}

fn run_one(args: &Run) -> Result<ExitCode, Failure> {
    let create = |path: &PathBuf| {
        let failed = |e| Failure::usage(format!("{}: can't be written: {e}", path.display()));
        Ok(BufWriter::new(File::create(path).map_err(failed)?))
    };
    let trace = match &args.trace {
        Some(path) => Trace::to(Box::new(create(path)?)),
        None => Trace::default(),
    };
    let ndjson = args.ndjson.as_ref().map(create).transpose()?;
    let mut options = args.world.options(args.seed);
    (options.pre_vote, options.plain_changes) = (ndjson.is_none(), ndjson.is_some());
    let events = ndjson.is_some().then(|| Box::new(SpecEvents::new(options.boards)));
    let (report, mut trace, events) = sim::run_observed(&options, trace, events);
    if let (Err(e), Some(path)) = (trace.finish(), &args.trace) {
        return Err(Failure::new(format!("{}: can't be written: {e}", path.display())));
    }
    if let (Some(mut file), Some(events), Some(path)) = (ndjson, events, &args.ndjson) {
        let written = events.lines().try_for_each(|line| writeln!(file, "{line}"));
        let failed = |e| Failure::new(format!("{}: can't be written: {e}", path.display()));
        written.and_then(|()| file.flush()).map_err(failed)?;
        if let Some((ms, why)) = events.ends_early() {
            eprintln!("{}: ends early, at {ms} ms: {why}", path.display());
        }
    }
    finish_run(&report, args.world.json)
}

fn finish_run(report: &Report, json: bool) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    if json {
        tell_violations(report, &mut |line| eprintln!("{line}"));
        text = to_json(report)?;
    } else {
        tell_violations(report, &mut |line| {
            let _ = writeln!(text, "{line}");
        });
        let _ = writeln!(text, "{}", counts(&report.counters.each().collect::<Vec<_>>(), None));
        let Report { seed, trace_hash, healed_ms, virtual_seconds, wall_seconds, .. } = report;
        let _ = writeln!(
            text,
            "seed {seed}: {virtual_seconds} s in {wall_seconds:.2} s, healed after {healed_ms} ms, trace {trace_hash}: {}",
            verdict(report.ending(), &report.without_effect)
        );
    }
    print(&text)?;
    Ok(ExitCode::from(report.ending() as u8))
}

fn verdict(ending: Ending, without_effect: &[&str]) -> String {
    match ending {
        Ending::Held => "every invariant held".into(),
        Ending::Violated => "VIOLATED".into(),
        Ending::Inconclusive if without_effect.is_empty() => {
            "inconclusive: too little happened".into()
        }
        Ending::Inconclusive => {
            format!("inconclusive: no effect of {}", without_effect.join(", "))
        }
    }
}

/// The violated rules, the last events before the first, and how to see it again.
fn tell_violations(report: &Report, line: &mut dyn FnMut(&str)) {
    if report.violated.is_empty() {
        return;
    }
    line(&format!("seed {}: the last events:", report.seed));
    report.tail.iter().for_each(|event| line(&format!("  {event}")));
    for violation in &report.violated {
        line(&format!("seed {}: {violation}", report.seed));
    }
}

fn to_json(report: &impl serde::Serialize) -> Result<String, Failure> {
    let mut json = serde_json::to_string(report).map_err(Failure::new)?;
    json.push('\n');
    Ok(json)
}

/// Each count with its name, in columns.
fn counts(each: &[(&'static str, u64)], medians: Option<&SweepReport>) -> String {
    let cell = |(name, count): &(&'static str, u64)| {
        let median = medians.and_then(|sweep| sweep.medians.get(name));
        let name = name.replace('_', " ");
        match median {
            Some(median) => format!("{count:>10} {:<36}", format!("{name} (median {median})")),
            None => format!("{count:>10} {name:<24}"),
        }
    };
    let lines = each.chunks(3).map(|row| row.iter().map(cell).collect::<String>());
    lines.map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn sweep(args: &Sweep) -> Result<ExitCode, Failure> {
    let options = args.world.options(0);
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok());
    let jobs = jobs.map_or(1, std::num::NonZeroUsize::get);
    let World { boards, virtual_seconds, faults, json } = &args.world;
    let report = sim::sweep(args.seeds.0.clone(), &options, jobs, |run| {
        tell_violations(run, &mut |line| eprintln!("{line}"));
        if !run.violated.is_empty() {
            let seed = run.seed;
            eprintln!(
                "again: quorate sim run --seed {seed} --boards {boards} --virtual-seconds {virtual_seconds} --faults {faults}"
            );
        }
    });
    if *json {
        print(&to_json(&report)?)?;
    } else {
        let counted = counts(&report.counters.each().collect::<Vec<_>>(), Some(&report));
        let SweepReport { runs, conclusive, healed_ms_max, wall_seconds, .. } = &report;
        print(&format!(
            "{counted}\nseeds {}, {boards} boards: {runs} runs in {wall_seconds:.1} s, {} violated; {conclusive} crashed a leader and committed {COMMITS_MIN} entries amid faults; the longest healing took {healed_ms_max} ms: {}\n",
            report.seeds,
            report.violations,
            verdict(report.ending(), &report.without_effect)
        ))?;
    }
    Ok(ExitCode::from(report.ending() as u8))
}

fn replay(args: &Replay) -> Result<ExitCode, Failure> {
    let path = args.file.display();
    let replayed = sim::replay(&args.file).map_err(|e| Failure::usage(format!("{path}: {e}")))?;
    let mut text = String::new();
    let code = match &replayed.difference {
        None => {
            let _ = writeln!(text, "{path}: the same, trace {}", replayed.report.trace_hash);
            ExitCode::SUCCESS
        }
        Some(difference) => {
            let sim::Difference { line, expected, found } = difference;
            let _ =
                writeln!(text, "{path}: line {line} differs\n  file: {expected}\n  run:  {found}");
            ExitCode::FAILURE
        }
    };
    if args.json {
        text.push_str(&to_json(&replayed.report)?);
    }
    print(&text)?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_seeds_is_two_numbers_that_rise() {
        assert_eq!("3..10".parse::<Seeds>().unwrap().0, 3..10);
        for text in ["3", "3..", "..3", "3..3", "10..3", "a..b", "3...5", "-1..5"] {
            assert!(text.parse::<Seeds>().is_err(), "{text}");
        }
    }
}
