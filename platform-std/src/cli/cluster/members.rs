//! `quorate status`, `member`, `transfer`: the cluster itself.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use comfy_table::CellAlignment;
use quorate::NodeId;
use serde_json::{Value as Json, json};

use super::client::NodeArgs;
use super::peers::{address, node_id};
use crate::cli::{Failure, print, table};

/// How often a status is looked at that is watched.
const AGAIN: Duration = Duration::from_secs(1);
/// Enough of a hash to see by eye that two are the same, and to have a node's row on 80 columns.
const HASH_DIGITS: usize = 8;

/// Show how nodes are: each that is named in --node, and the members that it knows.
#[derive(clap::Args)]
pub(crate) struct Status {
    /// Again each second
    #[arg(long)]
    watch: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "watch")]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Change who is a member.
#[derive(Subcommand)]
pub(crate) enum Member {
    /// Add a member that gets a vote once it has caught up, or tell where one is now. Then start it with --join.
    Add {
        /// Its number
        #[arg(value_parser = node_id)]
        id: NodeId,
        /// Where the others reach it, HOST:PORT; none for a member on a wire of boards
        address: Option<String>,
        /// It never gets a vote by itself
        #[arg(long)]
        learner: bool,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Take a member out; it stops by itself when it learns of that.
    Remove {
        /// Its number
        #[arg(value_parser = node_id)]
        id: NodeId,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Give a learner a vote.
    Promote {
        /// Its number
        #[arg(value_parser = node_id)]
        id: NodeId,
        /// Also before it has caught up: no write is done until it has
        #[arg(long)]
        force: bool,
        /// Take this member out by the same change
        #[arg(long, value_name = "ID", value_parser = node_id)]
        in_place_of: Option<NodeId>,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Show the members.
    List {
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// Hand leadership to another node.
#[derive(clap::Args)]
pub(crate) struct Transfer {
    /// Which
    #[arg(value_parser = node_id)]
    to: NodeId,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) fn transfer(args: &Transfer) -> Result<ExitCode, Failure> {
    args.node.json("POST", &format!("/leader/{}", args.to), None)?.ok()?;
    print(&format!("node {} leads\n", args.to))
}

pub(crate) fn member(args: &Member) -> Result<ExitCode, Failure> {
    match args {
        Member::Add { id, address: at, learner, node } => {
            let at = at.as_deref().map(address).transpose().map_err(Failure::usage)?;
            let path = format!("/members/{id}?learner={learner}");
            let body = at.map_or(json!({}), |at| json!({ "address": at.to_string() }));
            node.json("PUT", &path, Some(&body))?.ok()?;
            let place = at.map_or("on the wire".to_owned(), |at| format!("at {at}"));
            print(&format!("node {id} is a member {place}\n"))
        }
        Member::Remove { id, node } => {
            node.json("DELETE", &format!("/members/{id}"), None)?.ok()?;
            print(&format!("node {id} is no member any more\n"))
        }
        Member::Promote { id, force, in_place_of, node } => {
            let mut path = format!("/members/{id}/promote?force={force}");
            let mut place = String::new();
            if let Some(old) = in_place_of {
                path += &format!("&in_place_of={old}");
                place = format!(" in place of node {old}");
            }
            node.json("POST", &path, None)?.ok()?;
            print(&format!("node {id} has a vote{place}\n"))
        }
        Member::List { node } => {
            let told = node.json("GET", "/members", None)?.ok()?;
            print(&format!("{}\n", members(&told["members"], &told["leader"])))
        }
    }
}

fn word(value: &Json) -> String {
    match value {
        Json::Null => "–".into(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn members(members: &Json, leader: &Json) -> String {
    let mut shown = table(&["member", "generation", "vote", "leads", "address"]);
    for member in members.as_array().into_iter().flatten() {
        let says = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        shown.add_row([
            word(&member["id"]),
            word(&member["generation"]),
            says(member["voter"] == json!(true)),
            says(&member["id"] == leader),
            word(&member["address"]),
        ]);
    }
    shown.trim_fmt()
}

pub(crate) fn status(args: &Status) -> Result<ExitCode, Failure> {
    if args.json {
        return print(&format!("{:#}\n", args.node.json("GET", "/status", None)?.ok()?));
    }
    loop {
        let (text, any) = look(&args.node);
        if !args.watch {
            print(&text)?;
            let code = if any { 0 } else { 1 };
            return Ok(ExitCode::from(code));
        }
        let terminal = console::Term::stdout();
        if terminal.is_term() {
            terminal.clear_screen().map_err(Failure::new)?;
        }
        print(&text)?;
        std::thread::sleep(AGAIN);
    }
}

/// A table of the nodes that were named, and of the members that the first of them knows.
fn look(nodes: &NodeArgs) -> (String, bool) {
    let mut shown = table(&[
        "node", "id", "role", "leader", "term", "commit", "applied", "revision", "keys", "hash",
    ]);
    for column in [1, 3, 4, 5, 6, 7, 8] {
        if let Some(column) = shown.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    shown.column_iter_mut().for_each(|column| {
        column.set_padding((0, 0));
    });
    let mut first: Option<Json> = None;
    for node in &nodes.nodes {
        let one = NodeArgs { nodes: vec![node.clone()], ..nodes.clone() };
        let told = one.json("GET", "/status", None).and_then(super::client::Answered::ok);
        let report = match told {
            Ok(report) => report,
            Err(_) => {
                shown.add_row([node.as_str(), "–", "no answer"]);
                continue;
            }
        };
        let mut row = vec![node.clone()];
        for field in
            ["id", "role", "leader", "term", "commit", "applied", "revision", "keys", "hash"]
        {
            row.push(word(&report[field]));
        }
        if let Some(hash) = row.last_mut() {
            hash.truncate(HASH_DIGITS);
        }
        shown.add_row(row);
        first.get_or_insert(report);
    }
    let mut text = format!("{}\n", shown.trim_fmt());
    if let Some(report) = &first {
        text += &format!(
            "\ncluster {}, as node {} knows it:\n\n{}\n",
            word(&report["cluster"]),
            word(&report["id"]),
            members(&report["members"], &report["leader"]),
        );
    }
    (text, first.is_some())
}
