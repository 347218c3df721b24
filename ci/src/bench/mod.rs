//! `cargo ci bench`: this library next to others that do the same, on the same ground, in one run.

mod core;
mod logs;
mod mock;
mod node;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

use crate::tools::{Context, Trouble};
pub(crate) use core::{core, core_short, core_step};
use logs::{Contestant, Ours, Queue, Store};
use mock::{BLOCK, BLOCKS};
pub(crate) use node::{Options as NodeOptions, step as node_step};

/// Entries that are appended before it counts, and that count.
const WARM_UP: u64 = 4_000;
const ENTRIES: u64 = 20_000;

/// What is compared, and under which name.
#[derive(Clone, Copy)]
enum Name {
    Ours,
    Queue,
    Store,
}

/// One row's ground: words of so many bytes, entries of so many, appended so many at once.
#[derive(Clone, Copy)]
struct Ground {
    word: usize,
    bytes: usize,
    group: u64,
}

/// One row.
struct Row {
    name: Name,
    ground: Ground,
    /// Bytes programmed for a byte of payload.
    programmed: f64,
    writes: f64,
    words_twice: u64,
    erases_per_mib: f64,
    read_one: u64,
    read_mount: u64,
    nrf52840_ms: f64,
    rp2040_ms: f64,
}

impl Row {
    fn new(name: Name, ground: Ground, log: &mut dyn Contestant) -> Self {
        let Ground { bytes, group, .. } = ground;
        // Data that differs, so that no log can hold it in less.
        let entry = |i: u64| (0..bytes as u64).map(|at| (i.wrapping_mul(131) ^ at) as u8).collect();
        let append = |log: &mut dyn Contestant, from: u64, to: u64| {
            for first in (from..to).step_by(group as usize) {
                let entries: Vec<Vec<u8>> = (first..first + group).map(entry).collect();
                log.append(&entries);
            }
        };
        append(log, 0, WARM_UP);
        let before = log.counts();
        append(log, WARM_UP, WARM_UP + ENTRIES);
        let counts = log.counts().since(before);
        let payload = (ENTRIES * bytes as u64) as f64;
        Self {
            name,
            ground,
            programmed: counts.bytes_written as f64 / payload,
            writes: counts.writes as f64 / ENTRIES as f64,
            words_twice: counts.words_twice,
            erases_per_mib: counts.erases as f64 * (1 << 20) as f64 / payload,
            read_one: log.read_one(),
            read_mount: log.mount(),
            nrf52840_ms: counts.nrf52840_ms() / ENTRIES as f64,
            rp2040_ms: counts.rp2040_ms() / ENTRIES as f64,
        }
    }

    fn head(&self) -> [String; 4] {
        let name = match self.name {
            Name::Ours => "quorate",
            Name::Queue => "sequential-storage",
            Name::Store => "ekv",
        };
        let Ground { word, bytes, group } = self.ground;
        [name.to_owned(), word.to_string(), bytes.to_string(), group.to_string()]
    }
}

/// The rows on one ground; ekv knows no words of other sizes, and is not made for single entries.
fn rows<const W: usize>(grounds: &[(usize, u64)], rows: &mut Vec<Row>) {
    for (bytes, group) in grounds.iter().copied() {
        let ground = Ground { word: W, bytes, group };
        rows.push(Row::new(Name::Ours, ground, &mut Ours::<W>::new()));
        rows.push(Row::new(Name::Queue, ground, &mut Queue::<W>::new()));
        if W == 4 && group == 8 {
            let keep = (BLOCK * BLOCKS / 4 / (bytes + 16)) as u64;
            rows.push(Row::new(Name::Store, ground, &mut Store::new(keep)));
        }
    }
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

/// What a reader wants to see first.
pub(crate) fn flash_short() -> String {
    let mut made = Vec::new();
    rows::<4>(&[(64, 1), (64, 8)], &mut made);
    rows::<32>(&[(16, 8)], &mut made);
    let mut table = table(&[
        "log",
        "word",
        "entry B",
        "at once",
        "B programmed per B",
        "writes per entry",
        "erases per MiB",
        "B read at a start",
    ]);
    for row in made {
        let figures = [
            format!("{:.3}", row.programmed),
            format!("{:.2}", row.writes),
            format!("{:.0}", row.erases_per_mib),
            row.read_mount.to_string(),
        ];
        table.add_row(row.head().into_iter().chain(figures));
    }
    table.to_string()
}

/// The flash log next to a queue and a key-value store, on the same flash: a ring of 16 blocks of 4 KiB.
pub(crate) fn flash() -> String {
    let grounds = [(16, 1), (16, 8), (64, 1), (64, 8), (256, 1), (256, 8)];
    let mut made = Vec::new();
    rows::<1>(&grounds, &mut made);
    rows::<4>(&grounds, &mut made);
    rows::<8>(&grounds, &mut made);
    rows::<32>(&grounds, &mut made);
    let mut table = table(&[
        "log",
        "word",
        "entry B",
        "at once",
        "B programmed per B",
        "writes per entry",
        "words twice",
        "erases per MiB",
        "B read for one entry",
        "B read at a start",
        "nRF52840 ms per entry",
        "RP2040 ms per entry",
    ]);
    for row in made {
        let figures = [
            format!("{:.3}", row.programmed),
            format!("{:.2}", row.writes),
            row.words_twice.to_string(),
            format!("{:.0}", row.erases_per_mib),
            row.read_one.to_string(),
            row.read_mount.to_string(),
            format!("{:.2}", row.nrf52840_ms),
            format!("{:.2}", row.rp2040_ms),
        ];
        table.add_row(row.head().into_iter().chain(figures));
    }
    table.to_string()
}

/// `bench flash`.
pub(crate) fn step(_: &Context) -> Result<String, Trouble> {
    println!("{}", flash());
    Ok(format!("{ENTRIES} entries for each row"))
}
