//! `quorate wal size`: how long a ring of flash lasts.

use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use quorate::flash::Geometry;
use quorate::plan::{self, PARTS, Part};
use serde_json::json;

use super::{Failure, print, table};
use crate::wal_life::{self, Life, Load};

/// A ring of the part that the figures are for when only --cycles is given.
const USUAL: &str = "nrf52840";
/// A ring has no more segments.
const SEGMENTS_MAX: u32 = 32;

/// How long a flash log of a given size lasts, or how large it has to be.
///
/// The flash log itself is run on flash that counts, until it has come around several times: heads, padding, seals and
/// snapshots are in the figures. Starts and elections are not: each start writes one record more.
///
/// The cycles of a part are what its maker or its users state: 10,000 for nRF52 (product specification), 20,000 for
/// nRF51 (Zephyr); those of STM32 (10,000) and of SPI NOR (100,000) are usual figures, not confirmed. Look
/// into the data sheet of yours, and give --cycles.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bytes of an entry
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32_768))]
    entry_bytes: u16,
    /// Entries in a day
    #[arg(long, value_name = "N", value_parser = positive)]
    entries_per_day: f64,
    /// The flash part
    #[arg(long, required_unless_present = "cycles", value_parser = part_names().try_map(|name| part(&name)))]
    part: Option<&'static Part>,
    /// How often a block can be erased, if it is not what is known of the part
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cycles: Option<u32>,
    /// Bytes of the partition, if it is not as long as usual on the part
    #[arg(long, value_name = "N", conflicts_with = "years")]
    ring_bytes: Option<u32>,
    /// Bytes of a segment, a multiple of the part's erase block
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    segment_bytes: Option<u32>,
    /// The smallest ring that lasts so long is looked for
    #[arg(long, value_name = "Y", value_parser = positive)]
    years: Option<f64>,
    /// Entries that come together, in one record
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Bytes of the log in RAM: whenever half of it is full, a snapshot is taken
    #[arg(long, value_name = "N", default_value_t = 4096)]
    log_bytes: u32,
    /// Bytes of a snapshot
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(..=16 << 20))]
    snapshot_bytes: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn positive(text: &str) -> Result<f64, &'static str> {
    let number: f64 = text.parse().map_err(|_| "not a number")?;
    let fits = number.is_finite() && (1e-6..=1e12).contains(&number);
    if fits { Ok(number) } else { Err("must be more than 0, and not absurd") }
}

/// The parts that wear.
pub(super) fn part_names() -> PossibleValuesParser {
    PossibleValuesParser::new(
        PARTS.iter().filter(|part| part.cycles < u32::MAX).map(|part| part.name),
    )
}

pub(super) fn part(name: &str) -> Result<&'static Part, &'static str> {
    plan::part(name).ok_or("no such part")
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let like = args.part.or(plan::part(USUAL)).ok_or_else(|| Failure::new("no such part"))?;
    let cycles = args.cycles.unwrap_or(like.cycles);
    let load = Load {
        entry_bytes: args.entry_bytes.into(),
        batch: args.batch.into(),
        entries_per_day: args.entries_per_day,
        log_bytes: args.log_bytes as usize,
        snapshot_bytes: args.snapshot_bytes as usize,
    };
    let geometry = ring(args, like.flash.geometry).map_err(Failure::usage)?;
    let life = match args.years {
        Some(years) => wal_life::smallest(geometry, &load, cycles, years),
        None => wal_life::measure(geometry, &load, cycles),
    };
    let life = life.map_err(Failure::usage)?;
    if args.json {
        return print(&format!("{:#}\n", to_json(args, cycles, &life)));
    }
    print(&to_text(args, cycles, &life))
}

/// The ring that is asked for.
fn ring(args: &Args, usual: Geometry) -> Result<Geometry, String> {
    let block = usual.block_bytes;
    let blocks = match args.segment_bytes {
        None => usual.blocks_per_segment,
        Some(bytes) => (bytes.is_multiple_of(block))
            .then_some(bytes / block)
            .and_then(|blocks| u16::try_from(blocks).ok())
            .ok_or(format!(
                "--segment-bytes {bytes}: an erase block has {block} bytes, and a segment {} of them at most",
                u16::MAX
            ))?,
    };
    let mut geometry = Geometry { blocks_per_segment: blocks, ..usual };
    let Some(bytes) = args.ring_bytes else {
        return Ok(geometry);
    };
    // Longer segments where there would be too many.
    while args.segment_bytes.is_none() && bytes.div_ceil(geometry.segment_bytes()) > SEGMENTS_MAX {
        geometry.blocks_per_segment = geometry.blocks_per_segment.saturating_mul(2);
    }
    let segment = geometry.segment_bytes();
    match u8::try_from(bytes / segment) {
        Ok(segments) if bytes.is_multiple_of(segment) => Ok(Geometry { segments, ..geometry }),
        _ => Err(format!(
            "--ring-bytes {bytes}: 3 to {SEGMENTS_MAX} segments of {segment} bytes are {} to {}; or give --segment-bytes",
            3 * segment,
            segment.saturating_mul(SEGMENTS_MAX)
        )),
    }
}

fn name(args: &Args) -> &'static str {
    args.part.map_or("flash of words of 4 bytes", |part| part.name)
}

fn to_json(args: &Args, cycles: u32, life: &Life) -> serde_json::Value {
    json!({
        "part": args.part.map(|part| part.name),
        "cycles": cycles,
        "ring_bytes": life.geometry.bytes(),
        "segments": life.geometry.segments,
        "segment_bytes": life.geometry.segment_bytes(),
        "word_bytes": life.geometry.word_bytes,
        "entry_bytes": args.entry_bytes,
        "entries_per_day": args.entries_per_day,
        "batch": args.batch,
        "log_bytes": args.log_bytes,
        "snapshot_bytes": args.snapshot_bytes,
        "years": life.years,
        "erases_per_day": life.erases_per_day,
        "entries_per_erase": 1.0 / life.erases_per_entry,
        "bytes_programmed_per_byte": life.bytes_per_byte,
        "entries_per_snapshot": life.entries_per_snapshot,
    })
}

fn to_text(args: &Args, cycles: u32, life: &Life) -> String {
    let (geometry, mut table) = (&life.geometry, table(&["", "", "which is"]));
    let needed = args.years.map(|years| {
        (
            "ring needed",
            format!("{} bytes", geometry.bytes()),
            format!("the smallest that lasts {}", time(years)),
        )
    });
    let rows = [
        (
            "lasts",
            time(life.years),
            format!("the time until each segment has been erased {cycles} times"),
        ),
        (
            "erases",
            format!("{} a day", figure(life.erases_per_day)),
            format!("one of a segment for {} entries", figure(1.0 / life.erases_per_entry)),
        ),
        (
            "programmed",
            format!("{:.2} bytes", life.bytes_per_byte),
            "what each byte of an entry costs in all".into(),
        ),
        (
            "a snapshot",
            format!("each {} entries", figure(life.entries_per_snapshot)),
            format!(
                "{} bytes, when half of the {} bytes of log in RAM are full",
                args.snapshot_bytes, args.log_bytes
            ),
        ),
    ];
    for (what, figure, why) in needed.into_iter().chain(rows) {
        table.add_row([what, &figure, &why]);
    }
    format!(
        "{} segments of {} bytes, {} in all, in {}\n{} entries a day of {} bytes, {} to a record\n\n{}\n",
        geometry.segments,
        geometry.segment_bytes(),
        geometry.bytes(),
        name(args),
        figure(args.entries_per_day),
        args.entry_bytes,
        args.batch,
        table.trim_fmt(),
    )
}

fn time(years: f64) -> String {
    match years {
        years if years >= 1000.0 => "more than 1000 years".into(),
        years if years >= 2.0 => format!("{years:.1} years"),
        years => format!("{:.0} days", years * 365.25),
    }
}

/// Three digits are enough.
fn figure(number: f64) -> String {
    match number {
        number if number >= 100.0 => format!("{number:.0}"),
        number if number >= 10.0 => format!("{number:.1}"),
        number => format!("{number:.2}"),
    }
}
