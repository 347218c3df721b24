//! `cargo ci bench`: this library next to others that do the same, on the same ground, in one run.

mod logs;
mod mock;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

use crate::tools::{Context, Trouble};
use logs::{Contestant, Ours, Queue, Store};
use mock::{BLOCK, BLOCKS};

/// Entries that are appended before it counts, and that count.
const WARM_UP: u64 = 4_000;
const ENTRIES: u64 = 20_000;

/// One row: a log, words, entries and groups.
fn row(name: &str, word: usize, bytes: usize, group: u64, log: &mut dyn Contestant) -> Vec<String> {
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
    let each = |count: u64| count as f64 / ENTRIES as f64;
    let one = log.read_one();
    vec![
        name.to_owned(),
        word.to_string(),
        bytes.to_string(),
        group.to_string(),
        format!("{:.3}", counts.bytes_written as f64 / payload),
        format!("{:.2}", each(counts.writes)),
        counts.words_twice.to_string(),
        format!("{:.0}", counts.erases as f64 * (1 << 20) as f64 / payload),
        one.to_string(),
        log.mount().to_string(),
        format!("{:.2}", counts.nrf52840_ms() / ENTRIES as f64),
        format!("{:.2}", counts.rp2040_ms() / ENTRIES as f64),
    ]
}

fn rows<const W: usize>(table: &mut Table) {
    for (bytes, group) in [(16, 1), (16, 8), (64, 1), (64, 8), (256, 1), (256, 8)] {
        table.add_row(row("quorate", W, bytes, group, &mut Ours::<W>::new()));
        table.add_row(row("sequential-storage", W, bytes, group, &mut Queue::<W>::new()));
        if W == 4 && group == 8 {
            let keep = (BLOCK * BLOCKS / 4 / (bytes + 16)) as u64;
            table.add_row(row("ekv", W, bytes, group, &mut Store::new(keep)));
        }
    }
}

/// The flash log next to a queue and a key-value store, on the same flash: a ring of 16 blocks of 4 KiB.
pub(crate) fn flash() -> String {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header([
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
    rows::<1>(&mut table);
    rows::<4>(&mut table);
    rows::<8>(&mut table);
    rows::<32>(&mut table);
    for column in 1..12 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// `bench flash`.
pub(crate) fn step(_: &Context) -> Result<String, Trouble> {
    println!("{}", flash());
    Ok(format!("{ENTRIES} entries for each row"))
}
