//! `quorate init`: founds a cluster of nodes.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use quorate::membership::{MEMBERS_MAX, Member};
use quorate::node::Founding;
use quorate::{ClusterId, NodeId};

use super::peers::{Peers, SizeArgs, cluster_id, node_id, peers};
use super::settings::Settings;
use crate::cli::{Failure, print};
use crate::flash_file::FlashFileError;
use crate::node::{IMAGE, address, found};

/// Found a cluster: the one act that makes nodes voters.
///
/// It draws an identity for the cluster and writes the image of each founding member, DIR/1/node.qfl, DIR/2/node.qfl and on: give each
/// node its own directory. Or, with --id, on each machine the image of that member alone, DIR/node.qfl, where all but the
/// first are told the identity. Never found a member twice: one that lost its disk comes back with `quorate node --join`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The founding members and their addresses, as in 1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003
    #[arg(long, value_name = "ID=HOST:PORT,…", value_parser = peers)]
    cluster: Peers,
    /// Where to write
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Only this member
    #[arg(long, value_parser = node_id)]
    id: Option<NodeId>,
    /// The identity that was drawn for the first member: eight hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = cluster_id, requires = "id")]
    cluster_id: Option<ClusterId>,
    /// A file with [sizes]: log_bytes, map_bytes and frame_bytes, as the options of these names, which go before
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    sizes: SizeArgs,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Peers(peers) = &args.cluster;
    if peers.len() > MEMBERS_MAX {
        return Err(Failure::usage(format!("a cluster has {MEMBERS_MAX} members at most")));
    }
    let cluster = match args.cluster_id {
        Some(cluster) => cluster,
        None => draw()?,
    };
    let members: Vec<_> = peers
        .iter()
        .map(|(id, at)| Member { address: address::encode(*at), ..Member::new(*id) })
        .collect();
    let settings = Settings::of(args.config.as_deref())?;
    let limits = args.sizes.or(settings.sizes).limits().map_err(Failure::usage)?;
    let mut told = format!("cluster {cluster:?}\n");
    let only = |id: &NodeId| args.id.is_none_or(|only| only == *id);
    if !peers.iter().any(|(id, _)| only(id)) {
        return Err(Failure::usage("--id is none of --cluster"));
    }
    if let Some((id, at)) = peers.iter().find(|(_, at)| !address::can_be_dialled(at)) {
        return Err(Failure::usage(format!("nobody could find node {id} at {at}")));
    }
    let data = |id: &NodeId| match args.id {
        Some(_) => args.data.clone(),
        None => args.data.join(id.to_string()),
    };
    // All or none: half of them would be members of a cluster that can't be.
    let images = peers.iter().filter(|(id, _)| only(id)).map(|(id, _)| data(id).join(IMAGE));
    if let Some(image) = images.into_iter().find(|image| image.exists()) {
        return Err(Failure::new(FlashFileError::Exists(image)));
    }
    let mut made = Vec::new();
    for (id, at) in peers.iter().filter(|(id, _)| only(id)) {
        let data = data(id);
        let founding =
            Founding { cluster, node: *id, members: &members, limits, erase_anyway: false };
        if let Err(error) = found(&data, &founding) {
            for image in made {
                // Whoever can't even take it away is told of what stood in the way at first.
                let _ = std::fs::remove_file(image);
            }
            return Err(Failure::new(error));
        }
        made.push(data.join(IMAGE));
        // A string takes whatever is written to it.
        let _ = writeln!(told, "node {id} at {at}: {}", data.display());
    }
    print(&told)
}

/// An identity that is not zero.
fn draw() -> Result<ClusterId, Failure> {
    loop {
        let id = getrandom::u32().map_err(|e| Failure::new(format!("no randomness: {e}")))?;
        if id != 0 {
            return Ok(ClusterId(id.to_be_bytes()));
        }
    }
}
