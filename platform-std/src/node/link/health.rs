//! How the connection to a peer is.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate::NodeId;
use serde::Serialize;

/// A look at it.
#[derive(Clone, Debug, Serialize)]
pub struct PeerHealth {
    /// Which member.
    pub id: NodeId,
    /// Where it is dialled.
    pub address: SocketAddr,
    /// The connection stands.
    pub connected: bool,
    /// For how long it has stood, or not stood, in seconds.
    pub since_s: f64,
    /// The last round trip, in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Why there is no connection.
    pub error: Option<String>,
    /// Frames that it was not handed.
    pub frames_dropped: u64,
    /// Connections that were made so far.
    pub connections: u64,
}

#[derive(Debug)]
struct Inside {
    since: Instant,
    round_trip: Option<Duration>,
    error: Option<String>,
}

/// What the tasks of a connection write down.
#[derive(Debug)]
pub(super) struct Health {
    up: AtomicBool,
    dropped: AtomicU64,
    connections: AtomicU64,
    inside: Mutex<Inside>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            up: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            inside: Mutex::new(Inside { since: Instant::now(), round_trip: None, error: None }),
        }
    }

    fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    pub(super) fn connected(&self) {
        *self.inside() = Inside { since: Instant::now(), round_trip: None, error: None };
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.up.store(true, Ordering::Release);
    }

    /// There is no connection; is that, or why, news?
    pub(super) fn failed(&self, error: String) -> bool {
        let was_up = self.up.swap(false, Ordering::AcqRel);
        let mut inside = self.inside();
        if was_up {
            inside.since = Instant::now();
        }
        let news = was_up || inside.error.as_ref() != Some(&error);
        (inside.round_trip, inside.error) = (None, Some(error));
        news
    }

    pub(super) fn round_trip(&self, took: Duration) {
        self.inside().round_trip = Some(took);
    }

    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn look(&self, id: NodeId, address: SocketAddr) -> PeerHealth {
        let inside = self.inside();
        PeerHealth {
            id,
            address,
            connected: self.is_up(),
            since_s: inside.since.elapsed().as_secs_f64(),
            round_trip_ms: inside.round_trip.map(|took| took.as_secs_f64() * 1e3),
            error: inside.error.clone(),
            frames_dropped: self.dropped.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
        }
    }
}
