//! `quorate wal` in words.

use std::fmt::Write;

use comfy_table::CellAlignment;
use quorate::event::Note;
use quorate::wal::inspect::Kind;

use super::wal_json::{kind_name, record_state_name, state_name};
use super::{table, wal_ring};
use crate::wal_image::{Found, Verdict, WalImage};

/// All that is known of an image, the picture of the ring among it.
pub(super) fn image(image: &WalImage, cycles: Option<u32>, records: bool) -> String {
    let mut text = heading(image, cycles);
    let _ = write!(text, "\n{}\n{}\n", wal_ring::draw(image), segments(image));
    if records {
        let _ = write!(text, "\n{}\n", record_table(image));
    }
    text
}

/// Whether it is sound, in one line for each place that is not.
pub(super) fn verdict(image: &WalImage) -> String {
    match &image.verdict {
        Verdict::Sound => "sound".into(),
        Verdict::Torn { offset } => format!(
            "sound, with a torn write at byte {offset}: it was never acknowledged, and the board will cut it off"
        ),
        Verdict::Damaged(damage) => {
            let places: Vec<_> = (damage.iter())
                .map(|it| {
                    format!("damaged at byte {} (segment {}): {}", it.offset, it.segment, it.what)
                })
                .collect();
            let outcome = match image.refused {
                Some(_) => {
                    "the board will not start. Take its flash for lost: an older copy has forgotten promises, a blank one gets its place back"
                }
                None => "the board starts all the same",
            };
            format!("{}\n{outcome}", places.join("\n"))
        }
        Verdict::Stopped(fault) => format!("can't be used: {fault}"),
    }
}

fn heading(image: &WalImage, cycles: Option<u32>) -> String {
    let geometry = &image.geometry;
    let mut text = match image.identity {
        Some(it) => {
            format!(
                "board {} of cluster {:?}, generation {}\n",
                it.node, it.cluster, it.generation.0
            )
        }
        None => "no board has been founded or admitted here\n".into(),
    };
    let _ = writeln!(
        text,
        "flash: {} segments of {} bytes, words of {}, erased to {:02x}",
        geometry.segments,
        geometry.segment_bytes(),
        geometry.word_bytes,
        geometry.erased
    );
    let _ = writeln!(text, "state: {}", verdict(image).replace('\n', "\n       "));
    for cut in &image.cuts {
        let _ =
            writeln!(text, "       a write at byte {cut} was cut short before an earlier start");
    }
    let state = &image.hard_state;
    let vote = state.vote.map_or("no vote".into(), |vote| format!("vote for {vote}"));
    let _ = writeln!(text, "term {}, {vote}, commit {}", state.term, state.commit);
    if let Some(it) = &image.snapshot {
        let from = if it.installed != 0 { ", from a leader" } else { "" };
        let _ = writeln!(
            text,
            "snapshot: up to entry {}, {} bytes{from}; it begins in segment {} at byte {}",
            it.id.index,
            it.bytes,
            it.first.segment,
            image.place(it.first.segment, it.first.offset)
        );
    }
    if let Some((last, bytes)) = image.log {
        let covered = image.snapshot.map_or(0, |it| it.id.index.0);
        let _ = if last.index.0 > covered {
            writeln!(text, "log: entries {} to {}, {bytes} bytes", covered + 1, last.index)
        } else {
            writeln!(text, "log: no entries behind the snapshot")
        };
    }
    if let Some((most, least)) = image.erases() {
        let _ = write!(text, "erases: {least} to {most} for each segment in use");
        let left = cycles.map(|cycles| (cycles, image.life_left_percent(cycles)));
        let _ = match left {
            Some((cycles, left)) => writeln!(text, "; {left} % of {cycles} are left"),
            None => writeln!(text),
        };
    }
    let note = Note(image.note);
    if let Some(fault) = note.fault() {
        let _ = writeln!(text, "last fault: {fault}");
    }
    if note.own() != 0 {
        let _ = writeln!(text, "note of the board: {}", note.own());
    }
    text
}

fn segments(image: &WalImage) -> String {
    let mut table =
        table(&["segment", "state", "order of use", "erases", "bytes used", "live", "records"]);
    let known = |number: Option<u32>| number.map_or("-".into(), |number| number.to_string());
    for it in &image.segments {
        let newest = if it.is_newest { ", written to" } else { "" };
        table.add_row([
            it.number.to_string(),
            format!("{}{newest}", state_name(it.state)),
            known(it.order),
            known(it.erases),
            it.bytes_used.to_string(),
            it.bytes_live.to_string(),
            it.records.to_string(),
        ]);
    }
    for column in [0, 2, 3, 4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn record_table(image: &WalImage) -> String {
    let mut table = table(&["byte", "segment", "bytes", "record", "state", "says"]);
    let mut records: Vec<_> = image.records.iter().collect();
    let order = |number: u8| image.segments.get(usize::from(number)).and_then(|it| it.order);
    records.sort_by_key(|it| (order(it.segment), it.segment, it.offset));
    for it in records {
        let at = image.place(it.segment, it.offset);
        table.add_row([
            at.to_string(),
            it.segment.to_string(),
            it.bytes.to_string(),
            kind_name(it.kind).to_owned(),
            record_state_name(it.state).to_owned(),
            says(image, it),
        ]);
    }
    for column in [0, 1, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn says(image: &WalImage, it: &Found) -> String {
    let (says, mut parts) = (&it.says, vec![]);
    match it.kind {
        Kind::Open => {
            parts.push(format!(
                "number {} in the order of use, erased {} times",
                says.seq, says.erases
            ));
            if let Some(before) = says.link.0.checked_sub(1) {
                let end = image.place(before, says.link.1);
                parts.push(format!("behind segment {before} up to byte {end}"));
            }
        }
        Kind::Boot => {
            let from = image.place(it.segment, says.from);
            parts.push(format!("a start; void from byte {from} on"));
        }
        Kind::Chunk => parts.push(format!(
            "of the snapshot up to {}: bytes {} to {}",
            says.snap.index,
            says.snap_at,
            says.snap_at as usize + it.data_bytes
        )),
        Kind::Checkpoint => parts.push(format!(
            "the snapshot up to {} is whole, {} bytes",
            says.all.checkpoint.id.index, says.all.checkpoint.bytes
        )),
        Kind::Note => parts.push(format!("note {}", says.all.note)),
        _ => {}
    }
    if it.tells_vote() {
        let vote =
            says.all.hard_state.vote.map_or("no vote".into(), |vote| format!("vote for {vote}"));
        parts.push(format!("term {}, {vote}", says.all.hard_state.term));
    }
    if it.tells_commit() {
        parts.push(format!("commit {}", says.all.hard_state.commit));
    }
    match it.entries {
        Some((prev, last)) if prev.index.next() == last.index => {
            parts.push(format!("entry {}", last.index));
        }
        Some((prev, last)) => {
            parts.push(format!("entries {} to {}", prev.index.next(), last.index))
        }
        None if it.kind != Kind::Chunk && it.data_bytes > 0 => {
            parts.push(format!("{} bytes of entries", it.data_bytes));
        }
        None => {}
    }
    parts.join(", ")
}
