//! The same scripts over three stores: memory that forgets nothing by itself, the flash log on NOR flash, and the
//! storage of this crate. Whole nodes on a perfect link, and one text for all three.
//!
//! Each file of `tests/transcripts` is a script, `----`, and what must come of it. With `UPDATE_TRANSCRIPTS=1` the
//! second part is written anew, as memory has it; read what has changed before you keep it.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod cluster;
mod media;
#[path = "../fram/medium.rs"]
mod medium;
mod ram;
mod script;

use std::path::PathBuf;

const RULER: &str = "\n----\n";

fn files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let files = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|f| f.extension().is_some_and(|e| e == "txt")).collect();
    files.sort();
    files
}

/// Compares every transcript with what `run` makes of its script.
fn compare(run: impl Fn(&str) -> String) {
    let files = files();
    assert!(files.len() >= 16, "{} transcripts were found", files.len());
    let mut differ = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (script, want) = text.split_once(RULER).unwrap_or((&text, ""));
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        eprintln!("{name}");
        let got = run(script);
        if got != want {
            let at = got.lines().zip(want.lines()).take_while(|(a, b)| a == b).count();
            let line = |text: &str| text.lines().nth(at).unwrap_or("(the end)").to_owned();
            let (want, got) = (line(want), line(&got));
            differ.push(format!("{name}, line {}:\n  want {want}\n  got  {got}", at + 1));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn every_script_leads_to_what_its_transcript_says_in_memory() {
    if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        for file in files() {
            let text = std::fs::read_to_string(&file).unwrap();
            let script = text.split_once(RULER).map_or(&*text, |(script, _)| script);
            let got = script::run::<media::Memory>(script);
            std::fs::write(&file, format!("{}{RULER}{got}", script.trim_end())).unwrap();
        }
    }
    compare(script::run::<media::Memory>);
}

#[test]
fn every_script_leads_to_what_its_transcript_says_on_the_flash_log() {
    compare(script::run::<media::Nor>);
}

#[test]
fn every_script_leads_to_what_its_transcript_says_on_byte_writable_memory() {
    compare(script::run::<media::ByByte>);
}
