//! From a directory and a few addresses to a node that runs.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use quorate::config::{Config, Link};
use quorate::flash::Geometry;
use quorate::membership::{MEMBERS_MAX, Member};
use quorate::node::{Boot, Founding, Limits, StartError as CoreError};
use quorate::typed::MapLimits;
use quorate::wal::BUFFER_BYTES_MAX;
use quorate::{ClusterId, NodeId};
use tokio::sync::mpsc;

use super::flash_thread::FlashThread;
use super::handle::{Handle, REQUESTS_MAX};
use super::link::{Arrived, Links, Map, Tcp, Udp, Wire, WireAddress, arrivals, ask_for_cluster};
use super::points::Points;
use super::runner::{Ended, Runner, State};
use super::{address, sizes};
use crate::boxed;
use crate::disk::Disk;
#[cfg(feature = "faults")]
use crate::faults::{Faults, Forgetful};
use crate::fit;
use crate::flash_file::{self, FlashFile, FlashFileError};
use crate::image::{self, ImageError};
use sizes::Sizes;

/// The image's name in a node's directory.
pub const IMAGE: &str = "node.qfl";
/// How often members are asked for their cluster until one answers.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The longest frame of any cluster.
const FRAME_BYTES_MAX: u16 = 65_000;

/// How members with socket addresses are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// By TCP.
    #[default]
    Tcp,
    /// By UDP.
    Udp,
}

/// How a node with blank flash gets into a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joining {
    /// Which cluster; `None`: ask the peers.
    pub cluster: Option<ClusterId>,
    /// What its file is made for: at least what the cluster was founded with.
    pub limits: Limits,
}

impl Default for Joining {
    fn default() -> Self {
        Self { cluster: None, limits: Sizes::default().limits() }
    }
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which member it is.
    pub id: NodeId,
    /// Its directory.
    pub data: PathBuf,
    /// Where members are, itself among them, that the membership tells no address of.
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// Where it listens, if not where its peers find it.
    pub listen: Option<SocketAddr>,
    /// How to reach those with an address.
    pub transport: Transport,
    /// A wire of boards, for those without.
    pub wire: Option<WireAddress>,
    /// What timeouts are reckoned for, if it is not a local network.
    pub link: Option<Link>,
    /// The most members that timeouts are reckoned for.
    pub members_max: u8,
    /// How it gets in, if its flash is blank.
    pub join: Option<Joining>,
    /// From one heartbeat to the next.
    pub heartbeat_ms: Option<u32>,
    /// How long a leader may be silent.
    pub election_ms: Option<u32>,
    /// What the map may hold, if it is not what follows from the cluster's limits, as on a wire of boards.
    pub map: Option<MapLimits>,
    /// The schema of its commands: that of the boards' firmware.
    pub schema: u16,
}

impl Options {
    /// A node on sockets, with the usual timeouts.
    pub fn new(id: NodeId, data: PathBuf, peers: Vec<(NodeId, SocketAddr)>) -> Self {
        Self {
            id,
            data,
            peers,
            listen: None,
            transport: Transport::Tcp,
            wire: None,
            link: None,
            members_max: MEMBERS_MAX as u8,
            join: None,
            heartbeat_ms: None,
            election_ms: None,
            map: None,
            schema: fit::SCHEMA,
        }
    }
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The image can't be opened or made.
    #[error(transparent)]
    File(#[from] FlashFileError),
    /// The image can't be read.
    #[error("{}: {source}", path.display())]
    Image {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: ImageError,
    },
    /// The identity page can't be used.
    #[error("{}: {what}", path.display())]
    Page {
        /// Which.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// There is no node in the directory.
    #[error(
        "{}: no node lives here yet: found a cluster with `quorate init`, or get a place in one with --join", .0.display()
    )]
    Nobody(PathBuf),
    /// There is nothing in its image.
    #[error(
        "{}: this image is blank: a node that has lost its flash gets its place back with --join; never found it a second time", .0.display()
    )]
    Blank(PathBuf),
    /// It is that of another node.
    #[error("{}: this is the image of node {found}, not of node {wanted}", path.display())]
    OtherNode {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        found: u8,
        /// Whose it should be.
        wanted: NodeId,
    },
    /// It is that of another cluster.
    #[error("{}: this node is of cluster {found:?}, not of {wanted:?}", path.display())]
    OtherCluster {
        /// Which.
        path: PathBuf,
        /// Which it is.
        found: ClusterId,
        /// Which was asked for.
        wanted: ClusterId,
    },
    /// It is not known where to listen.
    #[error("no address for node {0}: it has to be in --cluster, or the membership, or --listen")]
    NoAddress(NodeId),
    /// It can't listen there.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// What was asked for can't work.
    #[error("{0}")]
    Settings(String),
    /// The core refused.
    #[error("{0}")]
    Core(CoreError),
    /// The system refused.
    #[error("{doing}: {source}")]
    System {
        /// What was to be done.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A node that runs, until this is dropped or it ends by itself.
#[derive(Debug)]
pub struct Running {
    task: tokio::task::JoinHandle<Ended>,
}

impl Running {
    /// Waits for its end. May be dropped and called again.
    pub async fn ended(&mut self) -> Ended {
        match (&mut self.task).await {
            Ok(ended) => ended,
            Err(error) => Ended::Fault(format!("the node's task has ended: {error}")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is known of a node before it runs.
struct Known {
    cluster: ClusterId,
    geometry: Geometry,
    /// `None` for one that is to be told.
    limits: Option<Limits>,
    log_bytes: u32,
    members: Vec<Member>,
}

/// Makes the image of a member of a new cluster.
///
/// # Errors
/// There is one already, the disk is full, or the limits do not go together.
pub fn found(data: &Path, founding: &Founding<'_>) -> Result<(), StartError> {
    sizes::log_is_enough(&founding.limits).map_err(StartError::Settings)?;
    let geometry = sizes::geometry_for(&founding.limits).map_err(StartError::Settings)?;
    let flash = sizes::flash(geometry);
    let config = Config::new(sizes::socket_link(FRAME_BYTES_MAX), flash, MEMBERS_MAX as u8, 0);
    let boot = Boot::Found(founding);
    let mut node = boxed::node(founding.limits.log_bytes as usize);
    node.start(quorate::Instant::ZERO, &config, boot).map_err(StartError::Core)?;
    drop(node);
    let mut bytes = vec![geometry.erased; geometry.bytes() as usize];
    let path = data.join(IMAGE);
    image::boot(&mut bytes, geometry, boot, BUFFER_BYTES_MAX)
        .map_err(|fault| StartError::Settings(super::events::fault_in_words(&fault)))?;
    make_directory(data)?;
    Ok(flash_file::create(&path, &bytes)?)
}

fn make_directory(data: &Path) -> Result<(), StartError> {
    std::fs::create_dir_all(data).map_err(|source| {
        let doing = "can't make this directory";
        FlashFileError::Io { path: data.into(), doing, source }.into()
    })
}

/// Starts a node on its directory.
///
/// # Errors
/// It can't run, with what would help. Nothing is changed, but that a blank image may have been made.
pub async fn start(options: Options) -> Result<(Handle, Running), StartError> {
    let path = options.data.join(IMAGE);
    if !path.exists() {
        let Some(joining) = &options.join else { return Err(StartError::Nobody(path)) };
        make_directory(&options.data)?;
        let geometry = sizes::geometry_for(&joining.limits).map_err(StartError::Settings)?;
        flash_file::create_blank(&path, &geometry)?;
    }
    let flash = FlashFile::open(&path, 0xff)?;
    let known = look(&options, &path, &flash).await?;
    #[cfg(feature = "faults")]
    if let Some(faults) = Faults::from_environment().map_err(StartError::Settings)? {
        let disk = Forgetful::new(flash.into_disk(), faults);
        let flash = FlashFile::new(disk.clone(), 0xff);
        return start_on(options, flash, known, Points::on(disk)).await;
    }
    start_on(options, flash, known, Points::default()).await
}

/// Whose image it is.
async fn look(options: &Options, path: &Path, flash: &FlashFile) -> Result<Known, StartError> {
    let doing = "can't read the image";
    let bytes = flash.read_all().map_err(|source| StartError::System { doing, source })?;
    let wanted = options.join.and_then(|joining| joining.cluster);
    match (image::read(&bytes), &options.join) {
        (Ok(board), _) => {
            if board.id() != options.id.get() {
                let (found, wanted) = (board.id(), options.id);
                return Err(StartError::OtherNode { path: path.into(), found, wanted });
            }
            let found = board.status.cluster;
            if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
                return Err(StartError::OtherCluster { path: path.into(), found, wanted });
            }
            Ok(Known {
                cluster: found,
                geometry: sizes::on_disk(board.geometry),
                limits: Some(board.limits),
                log_bytes: board.limits.log_bytes,
                members: board.members,
            })
        }
        // Blank, or a place that was given and lost before it was written down.
        (Err(ImageError::Blank | ImageError::NotALog(_)), Some(joining)) => {
            let geometry = sizes::geometry_for(&joining.limits).map_err(StartError::Settings)?;
            if geometry.bytes() as usize != bytes.len() {
                let given = bytes.len();
                let what = format!(
                    "{}: this image of {given} bytes was made for other sizes",
                    path.display()
                );
                return Err(StartError::Settings(what));
            }
            let cluster = match wanted {
                Some(cluster) => cluster,
                None => ask_until_told(options).await?,
            };
            let log_bytes = joining.limits.log_bytes;
            Ok(Known { cluster, geometry, limits: None, log_bytes, members: Vec::new() })
        }
        (Err(ImageError::Blank), None) => Err(StartError::Blank(path.into())),
        (Err(source), _) => Err(StartError::Image { path: path.into(), source }),
    }
}

async fn ask_until_told(options: &Options) -> Result<ClusterId, StartError> {
    if options.transport == Transport::Udp || options.peers.iter().all(|(id, _)| *id == options.id)
    {
        let what =
            "which cluster to join can only be asked of members over TCP: say it with --cluster-id";
        return Err(StartError::Settings(what.into()));
    }
    let mut told = String::new();
    loop {
        match ask_for_cluster(options.id, &options.peers).await {
            Ok(cluster) => return Ok(cluster),
            Err(error) => {
                if error != told {
                    tracing::warn!("waiting to join: {error}");
                    told = error;
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }
}

async fn start_on<D: Disk + 'static>(
    options: Options,
    flash: FlashFile<D>,
    known: Known,
    points: Points,
) -> Result<(Handle, Running), StartError> {
    let flash = flash.with_erased(known.geometry.erased);
    let frame_bytes = known.limits.map(|limits| limits.frame_bytes);
    let (arrived, arrivals) = arrivals();
    let links = open_links(&options, &known, &arrived).await?;
    let link = match options.link {
        Some(link) => Link { frame_bytes: link.frame_bytes.max(frame_bytes.unwrap_or(0)), ..link },
        // Who is to be told the limits takes what comes.
        None => sizes::socket_link(frame_bytes.unwrap_or(FRAME_BYTES_MAX)),
    };
    let seed = getrandom::u64().map_err(|error| StartError::System {
        doing: "no randomness",
        source: io::Error::other(error.to_string()),
    })?;
    let planned = Config::new(link, sizes::flash(known.geometry), options.members_max, seed);
    let config = sizes::config(planned, options.heartbeat_ms, options.election_ms);
    // Until it is admitted nothing comes to a joining node's map.
    let limits = known.limits.or(options.join.map(|joining| joining.limits)).unwrap_or_default();
    let map_limits = match options.map {
        Some(map) => {
            sizes::map_fits(&map, &limits).map_err(StartError::Settings)?;
            map
        }
        None => sizes::map_limits(&limits),
    };
    let longest = Arc::new(RwLock::new(map_limits));
    let mut node = boxed::node(known.log_bytes as usize);
    let boot = match known.limits {
        Some(_) => Boot::Mount,
        None => {
            Boot::Join { cluster: known.cluster, node: options.id, nonce: (seed >> 32) as u32 | 1 }
        }
    };
    node.start(quorate::Instant::ZERO, &config, boot).map_err(StartError::Core)?;
    let doing = "can't start a thread";
    let flash = FlashThread::start(flash).map_err(|source| StartError::System { doing, source })?;
    let (requests, requested) = mpsc::channel(REQUESTS_MAX);
    let runner = Runner {
        own: options.id,
        node,
        map: fit::new_map(map_limits, options.schema),
        map_limits: options.map,
        schema: options.schema,
        longest: longest.clone(),
        links,
        flash,
        arrivals,
        requests: requested,
        static_peers: options.peers,
        began: std::time::Instant::now(),
        election_ms: config.election_ms,
        frame: vec![0; usize::from(u16::MAX)],
        buffer: vec![0; BUFFER_BYTES_MAX],
        points,
        state: State::new(),
    };
    let handle = Handle { requests, longest, schema: options.schema };
    Ok((handle, Running { task: tokio::spawn(runner.run()) }))
}

async fn open_links(
    options: &Options,
    known: &Known,
    arrived: &mpsc::Sender<Arrived>,
) -> Result<Links, StartError> {
    let wire = options.wire.clone().map(|wire| Wire::open(wire, options.link, arrived.clone()));
    let mut links = Links { wire, ..Links::default() };
    let own = options.peers.iter().find(|(id, _)| *id == options.id).map(|(_, address)| *address);
    let member = known.members.iter().find(|member| member.id == options.id);
    let told = member.and_then(|member| address::decode(&member.address));
    let Some(address) = options.listen.or(own).or(told) else {
        return if links.wire.is_some() {
            Ok(links)
        } else {
            Err(StartError::NoAddress(options.id))
        };
    };
    let listen = |source| StartError::Listen { address, source };
    match options.transport {
        Transport::Tcp => {
            let usual = known.limits.as_ref().map(sizes::map_limits);
            let map = Map { told: options.map, usual };
            let tcp = Tcp::listen(address, known.cluster, options.id, map, arrived.clone());
            links.tcp = Some(tcp.await.map_err(listen)?);
        }
        Transport::Udp => {
            let udp = Udp::bind(address, options.id, arrived.clone());
            links.udp = Some(udp.await.map_err(listen)?);
        }
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Value;
    use crate::node::{Consistency, WriteError};

    #[tokio::test]
    async fn a_disk_that_fails_stops_the_node_which_acknowledges_no_more() {
        let long = Duration::from_secs(30);
        let id = NodeId::new(1).unwrap();
        let sizes = Sizes { frame_bytes: 4096, log_bytes: 1 << 16, map_bytes: 1 << 16 };
        let cluster = ClusterId(*b"disk");
        let members = vec![Member::new(id)];
        let limits = sizes.limits();
        let founding =
            Founding { cluster, node: id, members: &members, limits, erase_anyway: false };
        let dir = tempfile::tempdir().unwrap();
        found(dir.path(), &founding).unwrap();
        let image = std::fs::read(dir.path().join(IMAGE)).unwrap();
        let disk = Forgetful::in_memory(image, 1);
        let geometry = sizes.geometry().unwrap();
        let log_bytes = sizes.log_bytes;
        let start_again = async || {
            let members = members.clone();
            let known = Known { cluster, geometry, limits: Some(limits), log_bytes, members };
            let listen = Some("127.0.0.1:0".parse().unwrap());
            let options = Options { listen, ..Options::new(id, dir.path().into(), Vec::new()) };
            let flash = FlashFile::new(disk.clone(), 0xff);
            start_on(options, flash, known, Points::default()).await.unwrap()
        };
        let (node, mut running) = start_again().await;
        for n in 0..20 {
            // Who would wait for ever may.
            node.put(&format!("k{n}"), &Value::Int(n), None, Duration::MAX).await.unwrap();
        }
        disk.fail_syncs(true);
        let refused = node.put("late", &Value::Int(0), None, long).await;
        assert_eq!(refused, Err(WriteError::Stopped));
        assert!(matches!(running.ended().await, Ended::Disk(_)));
        let read = node.get("k1", Consistency::Local, long).await;
        assert!(read.is_err());
        // It is all there once the disk works again.
        disk.lose_power().unwrap();
        disk.fail_syncs(false);
        let (node, _running) = start_again().await;
        let shown = node.list("k", Consistency::Linearizable, Duration::MAX).await.unwrap();
        assert_eq!(shown.items.len(), 20);
        node.transfer(id, Duration::MAX).await.unwrap();
    }
}
