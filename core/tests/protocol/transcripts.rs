//! Each file of `tests/transcripts` is a script, `----`, and what must come of it. With
//! `UPDATE_TRANSCRIPTS=1` the second part is written anew; read what has changed before you keep it.

use crate::script;
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

#[test]
fn every_script_leads_to_what_its_transcript_says() {
    let update = std::env::var_os("UPDATE_TRANSCRIPTS").is_some();
    let files = files();
    assert!(files.len() >= 20, "{} transcripts were found", files.len());
    let mut differ = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (script, want) = text.split_once(RULER).unwrap_or((&text, ""));
        eprintln!("{}", file.display());
        let got = script::run(script);
        if update {
            std::fs::write(&file, format!("{}{RULER}{got}", script.trim_end())).unwrap();
        } else if got != want {
            let at = got.lines().zip(want.lines()).take_while(|(a, b)| a == b).count();
            let line = |text: &str| text.lines().nth(at).unwrap_or("(the end)").to_owned();
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            differ.push(format!(
                "{name}, line {}:\n  want {}\n  got  {}",
                at + 1,
                line(want),
                line(&got)
            ));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
