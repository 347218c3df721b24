//! `quorate put`, `get`, `delete`, `watch`, `snapshot`: what a running cluster holds.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value as Json, json};

use super::client::{NodeArgs, encode};
use crate::cli::{Failure, print};

/// Give a key a value, and wait until a quorum has it.
#[derive(clap::Args)]
pub(crate) struct Put {
    /// The key
    key: String,
    /// Its value: true, false and numbers are taken for such, all else for text
    #[arg(allow_negative_numbers = true)]
    value: String,
    /// Take the value for text, whatever it looks like
    #[arg(long)]
    text: bool,
    /// Only if the key has this revision (0: if it is not there)
    #[arg(long, value_name = "REVISION")]
    expected: Option<u64>,
    #[command(flatten)]
    node: NodeArgs,
}

/// Print a key's value, or all keys.
#[derive(clap::Args)]
pub(crate) struct Get {
    /// The key; without it, all keys
    key: Option<String>,
    /// All keys that begin like that
    #[arg(long, conflicts_with = "key")]
    prefix: Option<String>,
    /// What that one node has applied, without asking a quorum whether there is anything newer
    #[arg(long)]
    local: bool,
    /// Print JSON, with type and revision
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Take a key out.
#[derive(clap::Args)]
pub(crate) struct Delete {
    /// The key
    key: String,
    /// Only if the key has this revision
    #[arg(long, value_name = "REVISION")]
    expected: Option<u64>,
    #[command(flatten)]
    node: NodeArgs,
}

/// Print each change, as a line of JSON, for ever.
#[derive(clap::Args)]
pub(crate) struct Watch {
    /// Only keys that begin like that
    #[arg(default_value = "")]
    prefix: String,
    #[command(flatten)]
    node: NodeArgs,
}

/// Write a copy of a node's flash, for `config dump`, `wal inspect` and `wal recover`.
///
/// Never start a node from one while its cluster lives: it has forgotten what it promised since.
#[derive(clap::Args)]
pub(crate) struct Snapshot {
    /// The file to make
    file: PathBuf,
    #[command(flatten)]
    node: NodeArgs,
}

fn with_expected(path: String, expected: Option<u64>) -> String {
    match expected {
        Some(expected) => format!("{path}?expected={expected}"),
        None => path,
    }
}

fn value(args: &Put) -> Json {
    if !args.text
        && let Ok(value @ (Json::Bool(_) | Json::Number(_))) = serde_json::from_str(&args.value)
    {
        return value;
    }
    args.value.clone().into()
}

pub(crate) fn put(args: &Put) -> Result<ExitCode, Failure> {
    let path = with_expected(format!("/keys/{}", encode(&args.key)), args.expected);
    let body = json!({ "value": value(args) });
    let written = args.node.json("PUT", &path, Some(&body))?.ok()?;
    tell(&written)
}

pub(crate) fn delete(args: &Delete) -> Result<ExitCode, Failure> {
    let path = with_expected(format!("/keys/{}", encode(&args.key)), args.expected);
    let written = args.node.json("DELETE", &path, None)?.ok()?;
    tell(&written)
}

fn tell(written: &Json) -> Result<ExitCode, Failure> {
    let unchanged = if written["changed"] == json!(false) { "unchanged, " } else { "" };
    if written["revision"].is_null() {
        // A snapshot has come in between, on a wire of boards.
        return print("done; at which revision is not known any more\n");
    }
    print(&format!("{unchanged}revision {}\n", written["revision"]))
}

pub(crate) fn get(args: &Get) -> Result<ExitCode, Failure> {
    let consistency = if args.local { "local" } else { "linearizable" };
    let Some(key) = &args.key else {
        let prefix = encode(args.prefix.as_deref().unwrap_or_default());
        let path = format!("/keys?consistency={consistency}&prefix={prefix}");
        let found = args.node.json("GET", &path, None)?.ok()?;
        if args.json {
            return print(&format!("{found:#}\n"));
        }
        let keys = found["keys"].as_array().cloned().unwrap_or_default();
        let lines: Vec<_> = keys
            .iter()
            .map(|item| {
                format!("{} = {}\n", item["key"].as_str().unwrap_or_default(), item["value"])
            })
            .collect();
        return print(&lines.concat());
    };
    let path = format!("/keys/{}?consistency={consistency}", encode(key));
    let found = args.node.json("GET", &path, None)?;
    if found.status == 404 {
        return Err(Failure::new(format!("{key}: there is no such key")));
    }
    let found = found.ok()?;
    if args.json {
        return print(&format!("{found:#}\n"));
    }
    match found["value"].as_str() {
        Some(text) => print(&format!("{text}\n")),
        None => print(&format!("{}\n", found["value"])),
    }
}

pub(crate) fn watch(args: &Watch) -> Result<ExitCode, Failure> {
    let path = format!("/watch?prefix={}", encode(&args.prefix));
    for line in args.node.lines(&path)? {
        print(&format!("{}\n", line.map_err(Failure::new)?))?;
    }
    Err(Failure::new("the node has ended the watch"))
}

pub(crate) fn snapshot(args: &Snapshot) -> Result<ExitCode, Failure> {
    let image = args.node.bytes("/snapshot")?;
    let held = crate::image::read(&image)
        .map_err(|error| Failure::new(format!("what came is no image: {error}")))?;
    crate::flash_file::create(&args.file, &image).map_err(Failure::new)?;
    let (id, keys, applied) = (held.id(), held.content.len(), held.status.applied);
    print(&format!("{}: node {id}, {keys} keys, up to entry {applied}\n", args.file.display()))
}
