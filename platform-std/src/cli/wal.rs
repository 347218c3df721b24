//! `quorate wal`: the flash log of an image, and how long a flash part will last.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use clap::builder::TypedValueParser;
use quorate::plan::Part;

use super::{Failure, config, print, wal_json, wal_recover, wal_size, wal_text};
use crate::wal_image::{self, Verdict, WalImage};

#[derive(Subcommand)]
pub(crate) enum Args {
    /// Show what is on a flash image: geometry, segments, records, and where it is torn or rotten.
    ///
    /// Nothing but the image is needed, and it is not changed. A damaged image is shown as far as it can be read;
    /// whether it is sound is told by `quorate wal verify`.
    Inspect(Inspect),
    /// Check that a flash image is sound: exit code 0 only if everything that the log needs can be read.
    ///
    /// A write that a power cut has torn was never acknowledged: such an image is sound. What can't be read and is
    /// not needed any more is not looked at. Exit codes: 0 sound, 1 damaged or no log, 2 it could not be looked at.
    Verify(Verify),
    Recover(wal_recover::Args),
    Size(wal_size::Args),
}

#[derive(clap::Args)]
pub(crate) struct Inspect {
    /// The flash image, as it was read from a board: the whole partition of the log
    image: PathBuf,
    /// The flash part, to tell how much of its life is left
    #[arg(long, value_parser = wal_size::part_names().try_map(|name| wal_size::part(&name)))]
    part: Option<&'static Part>,
    /// How often a block of it can be erased, if it is not what is known of the part
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cycles: Option<u32>,
    /// List every record
    #[arg(long)]
    records: bool,
    /// Print one JSON object; the records are in it with --records
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct Verify {
    /// The flash image, as it was read from a board: the whole partition of the log
    image: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match args {
        Args::Inspect(args) => {
            let image = look(&args.image)?.map_err(|e| failed(&args.image, e))?;
            let cycles = args.cycles.or(args.part.map(|part| part.cycles));
            if args.json {
                return print(&format!("{:#}\n", wal_json::image(&image, cycles, args.records)));
            }
            print(&wal_text::image(&image, cycles, args.records))
        }
        Args::Verify(args) => verify(args),
        Args::Recover(args) => wal_recover::run(args),
        Args::Size(args) => wal_size::run(args),
    }
}

fn failed(path: &Path, what: impl ToString) -> Failure {
    Failure::new(format!("{}: {}", path.display(), what.to_string()))
}

fn look(path: &Path) -> Result<Result<WalImage, crate::image::ImageError>, Failure> {
    let bytes = config::read(path)
        .map_err(|e| Failure::usage(format!("{}: can't be read: {e}", path.display())))?;
    Ok(wal_image::read(&bytes))
}

fn verify(args: &Verify) -> Result<ExitCode, Failure> {
    let image = look(&args.image)?;
    let sound = image
        .as_ref()
        .is_ok_and(|image| matches!(image.verdict, Verdict::Sound | Verdict::Torn { .. }));
    let told = if args.json {
        format!("{:#}\n", wal_json::verdict(&image))
    } else {
        let image = image.map_err(|e| failed(&args.image, e))?;
        format!("{}: {}\n", args.image.display(), wal_text::verdict(&image))
    };
    print(&told)?;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
