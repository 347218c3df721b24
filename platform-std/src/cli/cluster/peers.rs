//! Members and their addresses, and sizes, as a command line gives them.

use std::net::{SocketAddr, ToSocketAddrs};

use quorate::node::Limits;
use quorate::{ClusterId, NodeId};
use serde::Deserialize;

use crate::node::sizes::Sizes;

/// `ID=HOST:PORT,…`
#[derive(Clone, Debug)]
pub(crate) struct Peers(pub(crate) Vec<(NodeId, SocketAddr)>);

pub(crate) fn peers(text: &str) -> Result<Peers, String> {
    let mut peers: Vec<(NodeId, SocketAddr)> = Vec::new();
    for part in text.split(',') {
        let (id, at) = part
            .split_once('=')
            .ok_or_else(|| format!("{part:?} is not ID=HOST:PORT, as in 1=127.0.0.1:7001"))?;
        let id = node_id(id)?;
        if peers.iter().any(|(known, _)| *known == id) {
            return Err(format!("node {id} stands here twice"));
        }
        let at = address(at)?;
        if let Some((other, _)) = peers.iter().find(|(_, known)| *known == at) {
            return Err(format!("nodes {other} and {id} can't both be at {at}"));
        }
        peers.push((id, at));
    }
    Ok(Peers(peers))
}

pub(crate) fn node_id(text: &str) -> Result<NodeId, String> {
    let id = text.trim().parse().ok().and_then(NodeId::new);
    id.ok_or_else(|| format!("{text:?} is no number of a node: 1 to {}", NodeId::MAX))
}

pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.trim().parse() {
        return Ok(address);
    }
    let mut found = text
        .trim()
        .to_socket_addrs()
        .map_err(|error| format!("{text:?} is no HOST:PORT that can be found: {error}"))?;
    found.next().ok_or_else(|| format!("{text:?} has no address"))
}

pub(crate) fn cluster_id(text: &str) -> Result<ClusterId, String> {
    let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u32::from_str_radix(text, 16).ok().filter(|id| digits && *id != 0);
    let id = id.ok_or_else(|| format!("{text:?} is no cluster: eight hexadecimal digits"))?;
    Ok(ClusterId(id.to_be_bytes()))
}

/// What a cluster's nodes hold, by the command line or by `[sizes]` of a file. Constants of the cluster: they are chosen when it is founded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SizeArgs {
    /// Bytes of the log: it is compacted into a snapshot when half of it is applied [default: 1048576]
    #[arg(long, value_name = "BYTES")]
    log_bytes: Option<u32>,
    /// Bytes of all keys and values, with 10 for each: the largest snapshot [default: 1048576]
    #[arg(long, value_name = "BYTES")]
    map_bytes: Option<u32>,
    /// The largest frame between two nodes; a key and its value have to fit one [default: 32768]
    #[arg(long, value_name = "BYTES")]
    frame_bytes: Option<u16>,
}

impl SizeArgs {
    /// Is any of them said?
    pub(crate) fn are_said(&self) -> bool {
        *self != Self::default()
    }

    /// These, and what they don't say by others.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            log_bytes: self.log_bytes.or(other.log_bytes),
            map_bytes: self.map_bytes.or(other.map_bytes),
            frame_bytes: self.frame_bytes.or(other.frame_bytes),
        }
    }

    /// The cluster's constants, if some file holds them.
    pub(crate) fn limits(&self) -> Result<Limits, String> {
        let usual = Sizes::default();
        let sizes = Sizes {
            frame_bytes: self.frame_bytes.unwrap_or(usual.frame_bytes),
            log_bytes: self.log_bytes.unwrap_or(usual.log_bytes),
            map_bytes: self.map_bytes.unwrap_or(usual.map_bytes),
        };
        sizes.geometry().map(|_| sizes.limits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_and_what_is_wrong_with_them_is_told() {
        let read = peers("1=127.0.0.1:7001,31=[::1]:7002").unwrap();
        assert_eq!(read.0[1].0.get(), 31);
        for (text, part) in [
            ("127.0.0.1:7001", "is not ID=HOST:PORT"),
            ("0=127.0.0.1:7001", "is no number of a node"),
            ("1=127.0.0.1:1,1=127.0.0.1:2", "node 1 stands here twice"),
            ("1=127.0.0.1", "is no HOST:PORT"),
            ("1=127.0.0.1:1,2=127.0.0.1:1", "nodes 1 and 2 can't both be at 127.0.0.1:1"),
        ] {
            let error = peers(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(cluster_id("0a0B0c0d"), Ok(ClusterId([10, 11, 12, 13])));
        for bad in ["", "0a0b0c", "00000000", "0a0b0c0dd", "+a0b0c0d", "xyzxyzxy"] {
            assert!(cluster_id(bad).is_err(), "{bad}");
        }
    }
}
