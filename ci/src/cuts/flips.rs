//! The step `flips`: every bit of a flash image is flipped, one at a time, and the image mounted.

use comfy_table::{Table, presets};
use quorate_flash_lab::image::{Flips, flips, last_record};

use super::watch::{on_all_cores, watched};
use crate::tools::{Context, Trouble, failed};

const WORDS: [u8; 6] = [1, 2, 4, 8, 16, 32];
/// A short run flips every so many'th bit: a number that has no factor in common with the bits of a word.
const STEP_SHORT: usize = 11;

/// `flips`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let step = if context.options.full { 1 } else { STEP_SHORT };
    let images: Vec<(u8, bool)> =
        WORDS.into_iter().flat_map(|word| [(word, true), (word, false)]).collect();
    let results = on_all_cores(&images, |(word, sealed)| {
        watched(|| {
            let (before, after) = last_record(*word, *sealed);
            flips(&before, &after, step)
        })
    });
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "word",
        "last record",
        "flips",
        "harmless",
        "reported",
        "older snapshot",
        "last record cut",
        "silent",
    ]);
    let (mut all, mut wrong) = (0, Vec::new());
    for ((word, sealed), result) in images.into_iter().zip(results) {
        let name = if sealed { "sealed" } else { "not sealed" };
        let found = match result {
            Ok(found) => found,
            Err(broken) => {
                wrong.push(format!(
                    "{} violated, word {word}, {name}: {}",
                    broken.rule, broken.text
                ));
                continue;
            }
        };
        let Flips { harmless, reported, older, last_record, silent } = found;
        let count = harmless + reported + older + last_record + silent.len() as u32;
        all += count;
        let numbers = [count, harmless, reported, older, last_record, silent.len() as u32];
        let cells = [word.to_string(), name.to_owned()];
        table.add_row(cells.into_iter().chain(numbers.map(|number| number.to_string())));
        if let Some(bit) = silent.first() {
            wrong.push(format!(
                "I7 violated, word {word}, {name}: {} flips were silent, the first that of bit {} of byte {}",
                silent.len(),
                bit % 8,
                bit / 8
            ));
        }
        if sealed && last_record > 0 {
            wrong.push(format!(
                "I7 violated, word {word}: a sealed record was cut {last_record} times"
            ));
        }
    }
    println!("{table}");
    if wrong.is_empty() {
        Ok(format!("{all} bits flipped, none in silence but in a last record without a seal"))
    } else {
        failed(wrong.join("\n"))
    }
}
