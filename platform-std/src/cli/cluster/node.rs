//! `quorate node`: runs a node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use quorate::config::Link;
use quorate::{ClusterId, NodeId, plan};

use super::peers::{Peers, SizeArgs, address, cluster_id, node_id, peers};
use super::settings::{MapSettings, Settings};
use crate::cli::Failure;
use crate::node::http::Server;
use crate::node::link::WireAddress;
use crate::node::{Ended, Joining, Options, Transport, by_page, start};

/// Run a node of a cluster, in its directory, until it is stopped (SIGINT, SIGTERM).
///
/// The directory is made by `quorate init`, or, for a node that is to get a place in a cluster or lost its disk, by --join: it has
/// to be a member by then (`quorate member add`). On a wire of boards, with a page like theirs (`quorate provision`), there is
/// nothing else to make: --page, --wire and --config.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which member this is
    #[arg(long, value_parser = node_id, required_unless_present = "page")]
    id: Option<NodeId>,
    /// Its identity page, as a board has one: which member of which cluster it is, whether it founds it, and for what timeouts are
    /// reckoned
    #[arg(
        long,
        value_name = "FILE",
        requires = "config",
        conflicts_with_all = [
            "id", "join", "cluster_id", "link", "heartbeat_ms", "election_ms", "log_bytes", "map_bytes", "frame_bytes"
        ]
    )]
    page: Option<PathBuf>,
    /// Where the members are; what the membership itself says of them goes before
    #[arg(long, value_name = "ID=HOST:PORT,…", value_parser = peers)]
    cluster: Option<Peers>,
    /// The node's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Serve HTTP there: keys, a JSON API, health, metrics
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    http: Option<SocketAddr>,
    /// Listen there for other nodes, if that is not where they find this one
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    listen: Option<SocketAddr>,
    /// With blank flash, ask for this member's place. The members that --cluster names are asked: one is enough, by UDP it has to be the one that leads
    #[arg(long)]
    join: bool,
    /// The cluster to join, if no member can be asked over TCP
    #[arg(long, value_name = "HEX", value_parser = cluster_id, requires = "join")]
    cluster_id: Option<ClusterId>,
    /// How to reach members
    #[arg(long, value_enum, default_value_t = TransportArg::Tcp)]
    transport: TransportArg,
    /// A wire of boards: DEVICE[@BAUD], unix:PATH or tcp:HOST:PORT
    #[arg(long, value_name = "WIRE")]
    wire: Option<WireAddress>,
    /// What timeouts are reckoned for, by its name in `quorate plan`, or a number of baud [default: a local network]
    #[arg(long, value_name = "LINK", value_parser = link)]
    link: Option<Link>,
    /// From one heartbeat to the next [default: 100]
    #[arg(long, value_name = "MS")]
    heartbeat_ms: Option<u32>,
    /// How long a leader may be silent [default: ten heartbeats]
    #[arg(long, value_name = "MS")]
    election_ms: Option<u32>,
    /// More settings, in TOML: [map] keys, key_bytes, value_bytes, bytes and schema, as they are on a wire of boards; [sizes]
    /// log_bytes, map_bytes and frame_bytes, as the options of these names, which go before, for --join alone
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to tell on standard error
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    log: LogLevel,
    #[command(flatten)]
    sizes: SizeArgs,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum TransportArg {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

fn link(name: &str) -> Result<Link, String> {
    plan::link(name).ok_or_else(|| format!("there is no link {name:?}: see `quorate plan --help`"))
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let level = match args.log {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(console::colors_enabled_stderr())
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("can't start: {error}")))?;
    runtime.block_on(serve(args))
}

fn options(args: &Args) -> Result<Options, Failure> {
    let settings = Settings::of(args.config.as_deref())?;
    let sizes = args.sizes.or(settings.sizes);
    let peers = args.cluster.as_ref().map(|Peers(peers)| peers.clone()).unwrap_or_default();
    let options = match (&args.page, args.id) {
        (Some(page), _) => {
            if settings.map.is_none() {
                return Err(Failure::usage("--config has no [map], which --page asks for"));
            }
            if sizes.are_said() {
                return Err(Failure::usage("--config has [sizes], which the page says already"));
            }
            by_page(page, args.data.clone()).map_err(Failure::new)?
        }
        // In a file they may stand for `init` and for nodes that join, which share it.
        (None, Some(_)) if !args.join && args.sizes.are_said() => {
            return Err(Failure::usage(
                "--log-bytes, --map-bytes and --frame-bytes are for --join: a cluster's are chosen when it is founded",
            ));
        }
        (None, Some(id)) => Options {
            link: args.link,
            join: match args.join {
                true => {
                    let limits = sizes.limits().map_err(Failure::usage)?;
                    Some(Joining { cluster: args.cluster_id, limits })
                }
                false => None,
            },
            heartbeat_ms: args.heartbeat_ms,
            election_ms: args.election_ms,
            ..Options::new(id, args.data.clone(), Vec::new())
        },
        (None, None) => return Err(Failure::usage("--id or --page is missing")),
    };
    Ok(Options {
        peers,
        listen: args.listen,
        transport: match args.transport {
            TransportArg::Tcp => Transport::Tcp,
            TransportArg::Udp => Transport::Udp,
        },
        wire: args.wire.clone(),
        schema: settings.map.as_ref().and_then(|map| map.schema).unwrap_or(options.schema),
        map: settings.map.as_ref().map(MapSettings::limits),
        ..options
    })
}

async fn serve(args: &Args) -> Result<ExitCode, Failure> {
    let options = options(args)?;
    let id = options.id;
    // Whoever can't be asked anything is of no use: the port comes first.
    let server = match args.http {
        Some(address) => {
            let server = Server::bind(address).await.map_err(|error| {
                Failure::new(format!("can't listen for HTTP on {address}: {error}"))
            })?;
            let at = server.address().unwrap_or(address);
            tracing::info!("HTTP on http://{at}");
            Some(server)
        }
        None => None,
    };
    let starting = async { start(options).await.map_err(Failure::new) };
    let (node, mut running) = tokio::select! {
        started = starting => started?,
        // It may be waiting for somebody to join.
        () = signalled() => return Ok(ExitCode::SUCCESS),
    };
    tracing::info!("node {id} runs in {}", args.data.display());
    let (stop_http, http_stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = server.map(|server| {
        let stopped = async {
            // Also if the sender is gone.
            let _ = http_stopped.await;
        };
        tokio::spawn(server.serve(node.clone(), stopped))
    });
    let ended = tokio::select! {
        ended = running.ended() => ended,
        () = signalled() => {
            tracing::info!("stops");
            // What is under way comes to its end first, or its time is up.
            drop(stop_http);
            if let Some(serving) = serving {
                let _ = tokio::time::timeout(GRACE, serving).await;
            }
            node.stop().await;
            Ended::Stopped
        }
    };
    match ended {
        Ended::Stopped => Ok(ExitCode::SUCCESS),
        Ended::Removed => {
            tracing::info!("{ended}");
            Ok(ExitCode::SUCCESS)
        }
        failed => Err(Failure::new(failed)),
    }
}

/// How long requests under way are waited for at a stop.
const GRACE: std::time::Duration = std::time::Duration::from_secs(2);

/// Until the process is asked to stop.
async fn signalled() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = tokio::signal::ctrl_c() => {}
                }
            }
            Err(_) => {
                let _ = tokio::signal::ctrl_c().await;
            }
        }
    }
    #[cfg(not(unix))]
    let _ = tokio::signal::ctrl_c().await;
}
