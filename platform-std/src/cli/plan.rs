//! `quorate plan`: timeouts for a link and a flash part, and what they cost.

use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use quorate::config::{Config, ElectionLimit, FRAME_BYTES_MIN, HeartbeatLimit, Link};
use quorate::membership::MEMBERS_MAX;
use quorate::plan::{self, LINKS, PARTS, Part, Plan};
use serde_json::json;

use super::{Failure, print, table};

/// Suggest timeouts for a link and a flash part, and show what they cost.
///
/// These are the shortest timeouts that the core accepts there. Longer ones save air and battery, and make the change
/// of a leader take longer.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The link: a number of baud for a serial line, or 802.15.4, esp-now, ble, lora-sf7, lora-sf9, lora-sf12,
    /// can-fd, udp or tcp
    #[arg(long, value_parser = parse_link)]
    link: NamedLink,
    /// Members of the cluster
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=MEMBERS_MAX as i64))]
    members: u8,
    /// The flash part that holds the log
    #[arg(long, value_name = "PART", value_parser = part_names().try_map(|name| part(&name)))]
    flash: &'static Part,
    /// The largest frame, if it is not the link's own [bytes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(i64::from(FRAME_BYTES_MIN)..))]
    frame_bytes: Option<u16>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone)]
pub(super) struct NamedLink {
    pub(super) name: String,
    pub(super) link: Link,
}

pub(super) fn parse_link(name: &str) -> Result<NamedLink, String> {
    let link = plan::link(name).ok_or_else(|| {
        let names: Vec<_> = LINKS.iter().map(|(name, _)| *name).collect();
        format!("there are {}, and any number of baud", names.join(", "))
    })?;
    Ok(NamedLink { name: name.into(), link })
}

fn part_names() -> PossibleValuesParser {
    PossibleValuesParser::new(PARTS.iter().map(|part| part.name))
}

fn part(name: &str) -> Result<&'static Part, &'static str> {
    plan::part(name).ok_or("no such part")
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let NamedLink { name, mut link } = args.link.clone();
    link.frame_bytes = args.frame_bytes.unwrap_or(link.frame_bytes);
    let flash = &args.flash.flash;
    // The timeouts are those of the plan: what can be wrong is the link.
    Config::new(link, *flash, args.members, 0)
        .check()
        .map_err(|error| Failure::usage(format!("--link {name}: {error}")))?;
    let plan = Plan::for_link(&link, args.members, flash);
    if args.json {
        let object = to_json(&name, &link, args, &plan);
        return print(&format!("{object:#}\n"));
    }
    print(&to_text(&name, &link, args, &plan))
}

fn to_json(name: &str, link: &Link, args: &Args, plan: &Plan) -> serde_json::Value {
    json!({
        "link": name,
        "members": args.members,
        "flash": args.flash.name,
        "frame_bytes": link.frame_bytes,
        "heartbeat_ms": plan.heartbeat_ms,
        "election_ms": plan.election_ms,
        "idle_air_permille": plan.idle_air_permille,
        "idle_leader_permille": plan.idle_leader_permille,
        "round_ms": plan.round_ms,
        "failover_ms": plan.failover_ms,
    })
}

fn to_text(name: &str, link: &Link, args: &Args, plan: &Plan) -> String {
    let serial = if name.parse::<u32>().is_ok() { " baud" } else { "" };
    let mut table = table(&["", "", "because"]);
    let rows = [
        ("heartbeat", millis(plan.heartbeat_ms), why_heartbeat(plan.heartbeat_why)),
        ("election timeout", millis(plan.election_ms), why_election(plan.election_why)),
        (
            "one round",
            millis(plan.round_ms),
            "a full frame to all, a flash write, all replies: about one commit",
        ),
        ("a new leader", millis(plan.failover_ms), "typically, after the loss of the old one"),
        (
            "idle air time",
            percent(plan.idle_air_permille),
            "heartbeats and replies, of the shared air",
        ),
        ("of it, the leader", percent(plan.idle_leader_permille), leader_limit(link)),
    ];
    for (what, figure, why) in rows {
        table.add_row([what, &figure, why]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    format!(
        "{} members over {name}{serial}, frames of {} bytes, log in {}\n\n{}\n",
        args.members,
        link.frame_bytes,
        args.flash.name,
        table.trim_fmt(),
    )
}

fn millis(ms: u32) -> String {
    if ms < 10_000 { format!("{ms} ms") } else { format!("{:.1} s", f64::from(ms) / 1000.0) }
}

fn percent(permille: u32) -> String {
    format!("{:.1} %", f64::from(permille) / 10.0)
}

fn why_heartbeat(why: HeartbeatLimit) -> &'static str {
    match why {
        HeartbeatLimit::Duty => "heartbeats take half of what the duty cycle allows",
        _ => "idle traffic takes a fifth of the air at most",
    }
}

fn why_election(why: ElectionLimit) -> &'static str {
    match why {
        ElectionLimit::Rounds => "four full rounds on this link",
        ElectionLimit::Erase => "three of the longest erases, in which the CPU stands still",
        _ => "ten heartbeats, so that some may be lost",
    }
}

fn leader_limit(link: &Link) -> &'static str {
    if link.duty_permille < 1000 { "of the time; the duty cycle limits it" } else { "of the time" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, Command};

    #[test]
    fn the_help_names_every_link() {
        let help = Args::augment_args(Command::new("plan")).render_long_help().to_string();
        for (name, _) in LINKS {
            assert!(help.contains(name), "{name} is not in\n{help}");
        }
    }
}
