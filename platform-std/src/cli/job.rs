//! `quorate [FILE]`: a configuration file, replicated over five simulated boards, read back from their flash.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use comfy_table::CellAlignment;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, print, table};
use crate::boards::{self, BOARDS};
use crate::config_file::{ConfigFile, ConfigFileError};
use crate::content::Content;
use crate::data_dir::DataDir;
use crate::fit;
use crate::image::{self, BoardImage};
use crate::replicate::{self, BoardReport, News, Outcome};

/// What is replicated when no file is named.
const EXAMPLE: &str = "examples/config/greenhouse.toml";
const EXAMPLE_TEXT: &str = include_str!("../../../examples/config/greenhouse.toml");

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration: flat or nested TOML of strings, numbers and booleans
    /// [default: examples/config/greenhouse.toml]
    file: Option<PathBuf>,
    /// Keep the boards' flash images in DIR, as board-1.qfl to board-5.qfl, and start from those that are there:
    /// then only what changed in FILE is replicated. They are replaced only if all went well.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where chance comes from: when power fails, where flash tears, which frames are lost.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let file = read(args.file.as_deref()).map_err(Failure::new)?;
    let name = file.name();
    fit::check(&file, &boards::MAP_LIMITS, boards::LIMITS.entry_bytes).map_err(Failure::new)?;
    let mut dir = match &args.data {
        Some(path) => Some(DataDir::open(path, BOARDS).map_err(Failure::new)?),
        None => None,
    };
    let found = match &dir {
        Some(dir) => open_images(dir)?,
        None => None,
    };
    let mut display = Display::new();
    display.line(&format!(
        "{} keys of {name}, {BOARDS} boards {}, seed {}",
        file.content().len(),
        if found.is_some() { "with the flash of an earlier run" } else { "with blank flash" },
        args.seed
    ));
    let ended = replicate::run(file.content(), found, args.seed, &mut |news| display.news(news));
    display.finish();
    let seed = args.seed;
    let outcome = ended.map_err(|error| Failure::new(format!("{name}: {error} (seed {seed})")))?;

    let images = verify(&file, &outcome.images)?;
    if let Some(dir) = &mut dir {
        dir.store(&outcome.images).map_err(Failure::new)?;
    }
    display.line(&format!("done in {:.1} s", began.elapsed().as_secs_f64()));
    print(&format!("{}\n\n{}", summary_table(&outcome.boards, &images), verdict(name, &outcome)))
}

fn read(path: Option<&Path>) -> Result<ConfigFile, ConfigFileError> {
    match path {
        Some(path) => ConfigFile::read(path).map_err(|mut error| {
            // Whoever mistypes a command is taken to mean a file.
            if !path.exists() && path.components().count() == 1 && path.extension().is_none() {
                error.what += "; nor is there such a command: see --help";
            }
            error
        }),
        None if Path::new(EXAMPLE).exists() => ConfigFile::read(Path::new(EXAMPLE)),
        None => ConfigFile::parse(&format!("{EXAMPLE} (built in)"), EXAMPLE_TEXT),
    }
}

/// The images of an earlier run, each looked at before any of them is used.
fn open_images(dir: &DataDir) -> Result<Option<Vec<Vec<u8>>>, Failure> {
    let Some(images) = dir.images().map_err(Failure::new)? else {
        return Ok(None);
    };
    let mut first: Option<BoardImage> = None;
    for (id, image) in (1..).zip(&images) {
        let path = dir.image_path(id);
        let failed = |what: String| Failure::new(format!("{}: {what}", path.display()));
        let board = image::read(image).map_err(|error| failed(error.to_string()))?;
        if usize::from(board.id()) != id {
            return Err(failed(format!("this is the image of board {}", board.id())));
        }
        if board.limits != boards::LIMITS || board.geometry != boards::geometry() {
            return Err(failed(
                "this is the image of a board with other flash or other limits".into(),
            ));
        }
        let cluster = first.get_or_insert_with(|| board.clone()).status.cluster;
        if board.status.cluster != cluster {
            let other = dir.image_path(1);
            return Err(failed(format!(
                "this board is of cluster {:?}, that of {} of cluster {cluster:?}",
                board.status.cluster,
                other.display(),
            )));
        }
    }
    Ok(Some(images))
}

/// Reads each image afresh: every board must hold exactly the file.
fn verify(file: &ConfigFile, images: &[Vec<u8>]) -> Result<Vec<BoardImage>, Failure> {
    let mut boards = Vec::new();
    for (id, image) in (1..).zip(images) {
        let board = image::read(image).map_err(|error| {
            Failure::new(format!("board {id}: its flash can't be read: {error}"))
        })?;
        if let Some(difference) = difference(file.content(), &board.content) {
            let name = file.name();
            return Err(Failure::new(format!("board {id} does not hold {name}: {difference}")));
        }
        boards.push(board);
    }
    Ok(boards)
}

/// The first difference, in words.
fn difference(file: &Content, board: &Content) -> Option<String> {
    for (key, value) in file {
        match board.get(key) {
            None => return Some(format!("{key} is missing")),
            Some(found) if found != value => return Some(format!("{key} is {found}, not {value}")),
            Some(_) => {}
        }
    }
    let extra = board.keys().find(|key| !file.contains_key(*key))?;
    Some(format!("{extra} is not in the file"))
}

fn summary_table(reports: &[BoardReport], images: &[BoardImage]) -> String {
    let mut table = table(&[
        "board",
        "role",
        "term",
        "applied",
        "revision",
        "hash",
        "frames sent",
        "flash bytes",
        "erases",
        "power cuts",
    ]);
    for column in (0..10).filter(|column| ![1, 5].contains(column)) {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (report, image) in reports.iter().zip(images) {
        table.add_row([
            report.id.to_string(),
            report.role.into(),
            image.status.term.to_string(),
            image.status.applied.to_string(),
            image.revision.to_string(),
            format!("{:016x}", image.hash),
            report.frames_sent.to_string(),
            report.flash_bytes_written.to_string(),
            report.erases.to_string(),
            report.power_cuts.to_string(),
        ]);
    }
    table.trim_fmt()
}

fn verdict(name: &str, outcome: &Outcome) -> String {
    format!(
        "{} set, {} deleted, {} unchanged, in {:.1} s of the boards' time.\n\
         Each board's flash was mounted afresh and holds exactly {name}.\n",
        outcome.set,
        outcome.deleted,
        outcome.unchanged,
        outcome.virtual_us as f64 / 1e6,
    )
}

/// Progress: a bar with the news above it on a terminal, lines elsewhere.
struct Display {
    bar: Option<ProgressBar>,
    tenths: usize,
}

impl Display {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:40.cyan} {pos}/{len} changes  {msg}");
            let bar = ProgressBar::new(0);
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, tenths: 0 }
    }

    fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    fn news(&mut self, news: News<'_>) {
        match news {
            News::Event { at_us, what } => {
                self.line(&format!("{:>9.3} s  {what}", at_us as f64 / 1e6));
            }
            News::Progress { at_us, done, total } => match &self.bar {
                Some(bar) => {
                    bar.set_length(total as u64);
                    bar.set_position(done as u64);
                    bar.set_message(format!("{:.1} s", at_us as f64 / 1e6));
                }
                None => {
                    let tenths = (done * 10).checked_div(total).unwrap_or(10);
                    if tenths > self.tenths {
                        self.line(&format!(
                            "{:>9.3} s  {done} of {total} changes",
                            at_us as f64 / 1e6
                        ));
                    }
                    self.tenths = tenths;
                }
            },
        }
    }

    /// Takes the bar away: what is printed from now on is plain.
    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
