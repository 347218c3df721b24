//! `quorate config`: what a board's flash holds.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use comfy_table::CellAlignment;
use serde_json::json;

use super::{Failure, print, table};
use crate::content;
use crate::image::{self, BoardImage};

/// A longer file is no flash image, bytes.
const IMAGE_BYTES_MAX: u64 = 256 << 20;

#[derive(Subcommand)]
pub(crate) enum Args {
    /// Print the configuration that a board's flash image holds.
    ///
    /// The flash log in the image is mounted on a copy, as the board would do it, and shows what it knows to be
    /// committed. Nothing but the image is needed, and it is not changed. A record that a power cut has torn was
    /// never acknowledged, and is left out; damage to one that had been written whole is an error.
    Dump(Dump),
}

#[derive(clap::Args)]
pub(crate) struct Dump {
    /// The flash image, as `quorate --data DIR` keeps it (`board-1.qfl`) or as it was read from a board.
    image: PathBuf,
    /// Print one JSON object: board, log and every key with its type, value and revision.
    #[arg(long, conflicts_with = "toml")]
    json: bool,
    /// Print a TOML document that `quorate FILE` can read.
    #[arg(long)]
    toml: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Args::Dump(args) = args;
    let failed = |what: String| Failure::new(format!("{}: {what}", args.image.display()));
    let bytes = read(&args.image).map_err(|e| failed(format!("can't be read: {e}")))?;
    let board = image::read(&bytes).map_err(|e| failed(e.to_string()))?;
    let text = if args.json {
        format!("{:#}\n", to_json(&board))
    } else if args.toml {
        content::to_toml(&board.content)
            .map_err(|key| failed(format!("{key} holds bytes, which TOML can't say: use --json")))?
    } else {
        to_text(&board)
    };
    print(&text)
}

pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(IMAGE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > IMAGE_BYTES_MAX {
        return Err(io::Error::other(format!("is longer than {IMAGE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn to_json(board: &BoardImage) -> serde_json::Value {
    let status = &board.status;
    let entries: Vec<_> = (board.content.iter())
        .map(|(key, value)| {
            let revision = board.revisions.get(key);
            json!({ "key": key, "type": value.kind(), "value": value.to_json(), "revision": revision })
        })
        .collect();
    json!({
        "board": board.id(),
        "generation": status.generation.0,
        "cluster": format!("{:?}", status.cluster),
        "term": status.term.0,
        "commit": status.commit.0,
        "applied": status.applied.0,
        "last": status.last.index.0,
        "snapshot": status.snapshot.index.0,
        "torn": board.torn,
        "voters": status.membership.voters().iter().map(|id| id.get()).collect::<Vec<_>>(),
        "flash": {
            "bytes": board.geometry.bytes(),
            "segments": board.geometry.segments,
            "word_bytes": board.geometry.word_bytes,
            "erases_max": status.flash.wear.most(),
        },
        "revision": board.revision,
        "hash": format!("{:016x}", board.hash),
        "entries": entries,
    })
}

fn to_text(board: &BoardImage) -> String {
    let status = &board.status;
    let mut entries = table(&["key", "type", "value", "revision"]);
    for (key, value) in &board.content {
        let revision = board.revisions.get(key).copied().unwrap_or_default();
        entries.add_row([key, value.kind(), &value.to_string(), &revision.to_string()]);
    }
    if let Some(column) = entries.column_mut(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let torn = if board.torn { ", a torn write cut off" } else { "" };
    format!(
        "board {} of cluster {:?}, generation {}, term {}\n\
         log: {} entries, {} committed, snapshot at {}{torn}\n\
         configuration: {} keys, revision {}, hash {:016x}\n\n{}\n",
        board.id(),
        status.cluster,
        status.generation.0,
        status.term,
        status.last.index,
        status.commit,
        status.snapshot.index,
        board.content.len(),
        board.revision,
        board.hash,
        entries.trim_fmt(),
    )
}

#[cfg(all(test, feature = "node"))]
mod tests {
    use super::*;
    use crate::node::sizes::Sizes;

    #[test]
    fn the_image_of_every_node_that_can_be_is_read() {
        for frame_bytes in [96, 32_768, 65_000] {
            let (log_bytes, map_bytes) = (Sizes::BYTES_MAX, Sizes::BYTES_MAX);
            let geometry = Sizes { frame_bytes, log_bytes, map_bytes }.geometry().unwrap();
            assert!(u64::from(geometry.bytes()) <= IMAGE_BYTES_MAX, "{geometry:?}");
        }
    }
}
