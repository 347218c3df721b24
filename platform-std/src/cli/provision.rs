//! `quorate provision`: identity pages, so that one firmware image serves all boards of a cluster.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use quorate::config::{FRAME_BYTES_MIN, Link};
use quorate::node::{Limits, entry_bytes_max};
use quorate::{ClusterId, NodeId};

use super::plan::{NamedLink, parse_link};
use super::wal_recover::parse_cluster;
use super::{Failure, print};
use crate::provision::{Provision, log_bytes_min, node_id};

/// Make the identity pages of a cluster's boards: which member each is, of which cluster, over which link.
///
/// A page is a file of 96 bytes that goes to the beginning of an erased block of the board's flash, where the firmware reads it
/// at boot; where that is, the firmware says. The same firmware image serves every board.
///
/// A cluster is founded by its first pages, one for each member, all made in one go: keep them from being used twice. For a
/// board that is added or replaced later, make a page with --join.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the pages are put, as board-1.page and so on; none of them may be there already
    dir: PathBuf,
    /// The members, as 1,2,3: with --join, those that the cluster has
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true, value_parser = node_id)]
    members: Vec<NodeId>,
    /// The link: a number of baud for a serial line, or 802.15.4, esp-now, ble, lora-sf7, lora-sf9, lora-sf12,
    /// can-fd, udp or tcp
    #[arg(long, value_parser = parse_link)]
    link: NamedLink,
    /// A page for this board alone, which asks for its place in the cluster that --cluster names
    #[arg(long, value_name = "MEMBER", requires = "cluster", value_parser = node_id)]
    join: Option<NodeId>,
    /// The cluster's identity, eight hex digits; drawn at random if it is not given
    #[arg(long, value_name = "HEX", value_parser = parse_cluster)]
    cluster: Option<ClusterId>,
    /// The cluster's largest frame [default: the link's, 256 at most] [bytes]
    #[arg(long, value_name = "N")]
    frame_bytes: Option<u16>,
    /// The cluster's longest command [default: what fits a frame, 128 at most] [bytes]
    #[arg(long, value_name = "N")]
    entry_bytes: Option<u16>,
    /// What each board's log in RAM holds at least [default: the least that can be, or 1024] [bytes]
    #[arg(long, value_name = "N")]
    log_bytes: Option<u32>,
    /// The largest state of the application [bytes]
    #[arg(long, value_name = "N", default_value_t = 1024)]
    snapshot_bytes: u32,
    /// The most members there will be [default: as many as there are]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=31))]
    members_max: Option<u8>,
    /// From one heartbeat to the next, if it is not the shortest [ms]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    heartbeat_ms: Option<u32>,
    /// The election timeout, if it is not the shortest [ms]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    election_ms: Option<u32>,
    /// What an erased byte of the boards' flash reads as: ff, or 00 on STM32L0 and L1
    #[arg(long, value_name = "HEX", default_value = "ff", value_parser = ["ff", "00"])]
    erased: String,
    /// Draw nothing at random: the same number makes the same pages, and the same cluster. For tests
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut source = Source(args.seed);
    let provision = provision(args, &mut source)?;
    provision.check().map_err(Failure::usage)?;
    let (boards, founds) = match args.join {
        Some(node) if !provision.members.contains(&node) => {
            return Err(Failure::usage(format!("--join {node}: it is not among --members")));
        }
        Some(node) => (vec![node], false),
        None => (provision.members.clone(), true),
    };
    let erased = if args.erased == "00" { 0x00 } else { 0xff };
    fs::create_dir_all(&args.dir).map_err(|e| failed(&args.dir, e))?;
    let path = |node: NodeId| args.dir.join(format!("board-{node}.page"));
    // All or none: half a cluster's pages are of no use.
    if let Some(there) = boards.iter().map(|node| path(*node)).find(|path| path.exists()) {
        return Err(Failure::new(format!("{}: is there already", there.display())));
    }
    let mut told = String::new();
    for node in boards {
        let page = provision.page(node, founds, source.draw()?, erased);
        let path = path(node);
        File::create_new(&path)
            .and_then(|mut file| file.write_all(&page).and_then(|()| file.sync_all()))
            .map_err(|e| failed(&path, e))?;
        let what = if founds { "founds" } else { "joins" };
        told += &format!("{}: board {node} {what} it\n", path.display());
    }
    print(&format!("cluster {:?} of {} members\n{told}", provision.cluster, args.members.len()))
}

fn failed(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(format!("{}: can't be written: {error}", path.display()))
}

fn provision(args: &Args, source: &mut Source) -> Result<Provision, Failure> {
    let link: Link = args.link.link;
    let cluster = match args.cluster {
        Some(cluster) => cluster,
        // The upper half of a number is as good as the lower. Zero is nobody's.
        None => ClusterId(((source.draw()? >> 32) as u32).max(1).to_be_bytes()),
    };
    let frame_bytes = args.frame_bytes.unwrap_or(link.frame_bytes.min(256));
    let fits = entry_bytes_max(frame_bytes.max(FRAME_BYTES_MIN));
    let entry_bytes = args.entry_bytes.unwrap_or(fits.min(128));
    let log_bytes = args.log_bytes.unwrap_or(log_bytes_min(entry_bytes).max(1024));
    let snapshot_bytes = args.snapshot_bytes;
    Ok(Provision {
        cluster,
        members: args.members.clone(),
        members_max: args.members_max.unwrap_or(args.members.len().min(31) as u8),
        limits: Limits { frame_bytes, entry_bytes, log_bytes, snapshot_bytes },
        link,
        heartbeat_ms: args.heartbeat_ms,
        election_ms: args.election_ms,
    })
}

/// Where random numbers come from: the system, or a seed.
struct Source(Option<u64>);

impl Source {
    fn draw(&mut self) -> Result<u64, Failure> {
        let Some(state) = &mut self.0 else {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes)
                .map_err(|e| Failure::new(format!("no random number can be had: {e}")))?;
            return Ok(u64::from_le_bytes(bytes));
        };
        // SplitMix64.
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(mixed ^ (mixed >> 31))
    }
}
