//! What drives a node: its link, its flash, its clock and its application, in one loop.

#[cfg(feature = "async")]
mod asynchronous;
mod blocking;
#[cfg(feature = "async")]
mod desk;
#[cfg(feature = "async")]
mod shared;

#[cfg(feature = "async")]
pub use asynchronous::Runner;
pub use blocking::{News, SuperLoop};
#[cfg(feature = "async")]
pub use desk::{AnyCommands, Commands, Desk, Handle, REQUESTS_MAX};
#[cfg(feature = "async")]
pub use shared::Shared;

use core::fmt;

use crate::clock::Clock;
use crate::flash::Partition;
use crate::identity::Page;
use crate::power::PowerFail;
use quorate::config::Config;
use quorate::event::{Event, Fault};
use quorate::node::{Boot, Node, StartError};
use quorate::wal::MountError;
use quorate::{ClusterId, Instant, NodeId, NodeSet};

/// What a board is made of. `A` is the application: a `&mut` to its state machine, or a [`Shared`] one.
pub struct Parts<'a, A, L, F, C> {
    /// The node, off.
    pub node: &'a mut Node,
    /// The application.
    pub app: A,
    /// The link to the other boards.
    pub link: L,
    /// Where the log lies.
    pub flash: Partition<F>,
    /// The time.
    pub clock: C,
    /// For frames that are sent, and commands that are applied: as long as the cluster's frames.
    pub frame: &'a mut [u8],
    /// For flash: as long as [`flash_buffer_bytes_min`](quorate::node::flash_buffer_bytes_min) asks for, or longer.
    pub buffer: &'a mut [u8],
    /// The supply's warning, if the board has one.
    pub power: Option<&'a PowerFail>,
}

/// Why a board did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum BootError {
    /// The node refused.
    Node(StartError),
    /// The partition and the configuration are of different geometries.
    Partition,
    /// The node stopped before it had begun.
    Stopped(Fault),
    /// The log in flash is another board's than the identity page speaks of.
    OtherLog {
        /// Which member's.
        node: Option<NodeId>,
        /// Of which cluster.
        cluster: ClusterId,
    },
    /// The identity page could not be marked.
    Mark,
}

/// How a board came to its state, by its identity page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Booted {
    /// From the log in flash.
    Mounted,
    /// It has founded its cluster, with the others.
    Founded,
    /// It asks for its place.
    Joins,
}

/// What an event tells of a start by an identity page, on both runners.
pub(super) enum Starting {
    Goes,
    /// There is no log: the page says how to begin.
    WithoutLog,
    Done,
}

impl Starting {
    pub(super) fn by(event: &Event, booted: Booted) -> Result<Self, BootError> {
        match event {
            Event::Started { .. } => Ok(Self::Done),
            Event::Stopped(Fault::Mount(MountError::Unformatted)) if booted == Booted::Mounted => {
                Ok(Self::WithoutLog)
            }
            Event::Stopped(fault) => Err(BootError::Stopped(*fault)),
            _ => Ok(Self::Goes),
        }
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(error) => error.fmt(f),
            Self::Partition => {
                f.write_str("the partition has another geometry than the configuration")
            }
            Self::Stopped(fault) => write!(f, "the node stopped: {fault:?}"),
            Self::OtherLog { node: Some(node), cluster } => {
                write!(f, "the log in flash is that of board {node} of cluster {cluster:?}")
            }
            Self::OtherLog { .. } => f.write_str("the log in flash is nobody's"),
            Self::Mark => f.write_str("the identity page could not be marked"),
        }
    }
}

impl core::error::Error for BootError {}

impl<A, L, F, C: Clock> Parts<'_, A, L, F, C> {
    fn start(&mut self, config: &Config, boot: Boot<'_>) -> Result<(), BootError> {
        if *self.flash.geometry() != config.flash.geometry {
            return Err(BootError::Partition);
        }
        self.node.start(self.clock.now(), config, boot).map_err(BootError::Node)
    }

    /// The node has started from flash: is that this board's log? The page is marked where it has to be.
    fn started(&self, page: &Page, mark: impl FnOnce() -> bool) -> Result<(), BootError> {
        let status = self.node.status();
        if (status.id, status.cluster) != (Some(page.node), page.cluster) {
            return Err(BootError::OtherLog { node: status.id, cluster: status.cluster });
        }
        // Also where power went between the founding and this last time.
        if page.founds() && !mark() {
            return Err(BootError::Mark);
        }
        Ok(())
    }

    /// When the clock has to be read again, if nothing else is to be done before.
    fn until(&self, now: Instant, until: Instant) -> Instant {
        until.min(now.after(self.clock.read_every_ms()))
    }
}

/// A frame that is on its way out: `frame[..len]`.
#[derive(Clone, Copy)]
struct Sending {
    to: NodeSet,
    len: usize,
}

/// While power fails an erase has to wait, this long until it is looked at again.
const POWER_AGAIN_MS: u32 = 10;
