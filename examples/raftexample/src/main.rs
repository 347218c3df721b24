//! A replicated key-value store behind HTTP: what etcd's raftexample is over etcd's raft, over this library.
//!
//! See README.md for how to run it.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;

use quorate::membership::Member;
use quorate::node::Founding;
use quorate::{ClusterId, NodeId};
use quorate_std::node::http::Server;
use quorate_std::node::sizes::Sizes;
use quorate_std::node::{Ended, IMAGE, Joining, Notice, Options, address, found, start};

/// Who and where: the members are numbered from 1 in the order of `--cluster`.
struct Args {
    id: NodeId,
    cluster: Vec<(NodeId, SocketAddr)>,
    port: u16,
    join: bool,
    found: bool,
}

fn args() -> Result<Args, Box<dyn Error>> {
    let id = |id: usize| u8::try_from(id).ok().and_then(NodeId::new).ok_or("a node is 1 to 31");
    let mut args = Args { id: id(1)?, cluster: Vec::new(), port: 9121, join: false, found: false };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let mut value = || given.next().ok_or(format!("{name} wants a value"));
        match name.trim_start_matches('-') {
            "id" => args.id = id(value()?.parse()?)?,
            "port" => args.port = value()?.parse()?,
            "cluster" => {
                for (at, peer) in value()?.split(',').enumerate() {
                    let address = peer.trim_start_matches("http://").parse()?;
                    args.cluster.push((id(at + 1)?, address));
                }
            }
            "join" => args.join = true,
            "found" => args.found = true,
            _ => return Err(format!("there is no {name}").into()),
        }
    }
    Ok(args)
}

fn data(id: NodeId) -> PathBuf {
    format!("raftexample-{id}").into()
}

/// The one act that makes voters: an image for each founding member. etcd's raftexample does this at each first start, so that a
/// member that lost its disk can vote a second time.
fn found_all(cluster: &[(NodeId, SocketAddr)]) -> Result<(), Box<dyn Error>> {
    let members: Vec<_> = cluster
        .iter()
        .map(|(id, at)| Member { address: address::encode(*at), ..Member::new(*id) })
        .collect();
    if cluster.is_empty() {
        return Err("--found wants --cluster".into());
    }
    if let Some((id, _)) = cluster.iter().find(|(id, _)| data(*id).join(IMAGE).exists()) {
        return Err(format!("node {id} is there already: a cluster is founded once").into());
    }
    let drawn = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), cluster) as u32;
    let sizes = Sizes::default();
    for (node, _) in cluster {
        let founding = Founding {
            cluster: ClusterId((drawn | 1).to_be_bytes()),
            node: *node,
            members: &members,
            limits: sizes.limits(),
            erase_anyway: false,
        };
        found(&data(*node), &founding)?;
        println!("node {node}: {}", data(*node).display());
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = args()?;
    if args.found {
        return found_all(&args.cluster);
    }
    let mut options = Options::new(args.id, data(args.id), args.cluster);
    options.join = args.join.then(Joining::default);
    let (node, mut running) = start(options).await?;

    // An application of its own would keep its state by what it is told here, as raftexample's kvstore does by its commits.
    let watching = node.clone();
    tokio::spawn(async move {
        let Some(mut watch) = watching.watch().await else { return };
        while let Some(notice) = watch.next().await {
            match notice {
                Notice::Set(item) => println!("{} = {}", item.key, item.value),
                Notice::Deleted { key, .. } => println!("{key} is gone"),
                Notice::Everything { revision } => println!("all is new, at revision {revision}"),
            }
        }
    });

    let server = Server::bind(([127, 0, 0, 1], args.port).into()).await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let until = async {
        let _ = stopped.await;
    };
    let serving = tokio::spawn(server.serve(node.clone(), until));
    tokio::select! {
        ended = running.ended() => match ended {
            Ended::Stopped | Ended::Removed => println!("{ended}"),
            failed => return Err(failed.into()),
        },
        _ = tokio::signal::ctrl_c() => {
            drop(stop);
            node.stop().await;
        }
    }
    serving.abort();
    Ok(())
}
