//! The step `exhaustive`: every short history of a log, with a cut at every operation and in every word.
//!
//! What a cut does to a history's last event is tried for every history; so, as every history is also the
//! beginning of longer ones, every event of each is cut. For the shorter ones the mount that follows is cut, too.

use comfy_table::{Table, presets};
use quorate::flash::Geometry;
use quorate_flash_lab::flash::{ERASE_STAGES, Pattern};
use quorate_flash_lab::history::{Event, Stage, Tried};

use super::watch::{on_all_cores, watched};
use crate::tools::{Context, Trouble, failed};

/// Events of the longest histories in a short run, and in a long one.
pub(crate) const LENGTH: u32 = 2;
pub(crate) const LENGTH_FULL: u32 = 3;

/// Where histories take place: the smallest rings, and one with several blocks to a segment.
fn stages() -> Vec<(String, Stage)> {
    let mut stages = Vec::new();
    for (word, page_bytes, segments) in [(1, 1, 3), (4, 4, 3), (4, 256, 4), (8, 8, 4), (32, 32, 3)]
    {
        for (idle, late) in [(false, false), (true, false), (false, true), (true, true)] {
            let geometry = Geometry {
                word_bytes: word,
                erased: if word == 8 { 0 } else { 0xff },
                page_bytes,
                block_bytes: if page_bytes == 256 { 256 } else { 128 },
                blocks_per_segment: if page_bytes == 256 { 7 } else { 10 },
                segments,
            };
            let name = format!(
                "{} bytes, {segments} segments{}{}",
                geometry.segment_bytes(),
                if late { ", nearly full" } else { "" },
                if idle { ", upkeep" } else { "" }
            );
            stages.push((name, Stage { geometry, buffer: 512, entry: 12, idle, late }));
        }
    }
    stages
}

/// `exhaustive`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let length = context.options.history_length;
    let stages = stages();
    // One item of work for each stage and beginning.
    let mut items = Vec::new();
    for at in 0..stages.len() {
        items.extend(Event::ALL.map(|event| (at, event)));
    }
    let results = on_all_cores(&items, |(at, first)| {
        let mut tried = Tried::default();
        let mut history = vec![*first];
        let ended = watched(|| every(&stages[*at].1, &mut history, length, &mut tried));
        (tried, ended.err().map(|broken| (history, broken)))
    });
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "word",
        "page",
        "segments",
        "histories",
        "operations",
        "cuts",
        "second cuts",
    ]);
    let (mut all, mut wrong) = (Tried::default(), Vec::new());
    for (at, (name, stage)) in stages.iter().enumerate() {
        let mut sum = Tried::default();
        let here = items.iter().zip(&results).filter(|((item, _), _)| *item == at);
        for (_, (tried, broken)) in here {
            sum.histories += tried.histories;
            sum.operations += tried.operations;
            sum.cuts += tried.cuts;
            sum.again += tried.again;
            if let Some((history, broken)) = broken {
                let text: String = broken.text.chars().take(400).collect();
                wrong.push(format!(
                    "{} violated after {history:?} on {stage:?}: {text}",
                    broken.rule
                ));
            }
        }
        let Geometry { word_bytes, page_bytes, .. } = stage.geometry;
        table.add_row([
            word_bytes.to_string(),
            page_bytes.to_string(),
            name.clone(),
            sum.histories.to_string(),
            sum.operations.to_string(),
            sum.cuts.to_string(),
            sum.again.to_string(),
        ]);
        all.histories += sum.histories;
        all.operations += sum.operations;
        all.cuts += sum.cuts;
        all.again += sum.again;
    }
    println!("{table}");
    println!(
        "each word as {:?}; an erase at each of {ERASE_STAGES} stages, the rest of its block likewise; second cuts: the mount \
         after each cut of the histories of less than {length} events, at each operation in the first and the last word",
        Pattern::ALL
    );
    let told = format!(
        "{} histories of up to {length} events, {} operations, {} cuts, {} second cuts",
        all.histories, all.operations, all.cuts, all.again
    );
    if wrong.is_empty() { Ok(told) } else { failed(format!("{told}\n{}", wrong.join("\n"))) }
}

/// Tries this history and all that go on from it. If it panics, `history` is the one.
fn every(stage: &Stage, history: &mut Vec<Event>, length: u32, tried: &mut Tried) {
    let again = history.len() < length as usize;
    stage.try_all(history, again, tried);
    if history.len() < length as usize {
        for event in Event::ALL {
            history.push(event);
            every(stage, history, length, tried);
            history.pop();
        }
    }
}
