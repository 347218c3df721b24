//! The step `rot`: random lives with power cuts, and rot anywhere in the flash that they leave.

use std::fmt::Write as _;

use comfy_table::{Table, presets};
use quorate_flash_lab::random::Random;
use quorate_flash_lab::rot::{Outcomes, life, rot};

use super::FAILURES_MAX;
use super::watch::{Broken, on_all_cores, watched};
use crate::tools::{Context, Trouble, failed};

/// Lives of a short run and of a long one.
const LIVES: u32 = 48;
pub(crate) const LIVES_FULL: u32 = 2_000;
/// Places that rot in each image.
const PLACES: u32 = 1_000;

/// What a run does.
#[derive(Clone)]
pub(crate) struct Campaign {
    pub(crate) lives: u32,
    /// What all lives follow from.
    pub(crate) seed: u64,
    /// One life alone.
    pub(crate) life: Option<u64>,
}

impl Campaign {
    pub(crate) const SHORT: Self = Self { lives: LIVES, seed: 1, life: None };
    pub(crate) const LONG: Self = Self { lives: LIVES_FULL, ..Self::SHORT };
}

/// `rot`.
pub(crate) fn step(context: &Context) -> Result<String, Trouble> {
    let campaign = &context.options.rot;
    let mut random = Random(campaign.seed);
    let seeds: Vec<u64> = match campaign.life {
        Some(seed) => vec![seed],
        None => (0..campaign.lives).map(|_| random.draw()).collect(),
    };
    let found = on_all_cores(&seeds, |seed| watched(|| one(*seed)).and_then(|found| found));
    let mut all = Outcomes::default();
    let mut text = String::new();
    let mut broken = 0;
    for (seed, found) in seeds.iter().zip(found) {
        match found {
            Ok(outcomes) => all.add(&outcomes),
            Err(Broken { rule, text: seen }) => {
                broken += 1;
                if broken <= FAILURES_MAX {
                    let seen: String = seen.chars().take(600).collect();
                    let _ = write!(text, "\n{rule} violated: cargo ci rot --life {seed}\n  {seen}");
                }
            }
        }
    }
    let Outcomes { harmless, corrupt, foreign, older } = all;
    let places = harmless + corrupt + foreign + older;
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "lives",
        "places",
        "harmless",
        "corrupt",
        "foreign",
        "snapshot gone",
        "lives with something silent",
    ]);
    let lives = seeds.len() as u32;
    table.add_row([lives, places, harmless, corrupt, foreign, older, broken as u32]);
    println!("{table}");
    if broken == 0 {
        Ok(format!("{places} rotten places in the flash of {lives} lives, none in silence"))
    } else {
        failed(format!("{broken} of {lives} lives lost something in silence{text}"))
    }
}

fn one(seed: u64) -> Result<Outcomes, Broken> {
    let life = life(seed);
    rot(&life, PLACES, &mut Random(!seed)).map_err(|text| Broken { rule: "I7".to_owned(), text })
}
