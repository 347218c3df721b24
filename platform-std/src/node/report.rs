//! A look at a node, for people and programs.

use quorate::NodeId;
use serde::Serialize;

use super::link::PeerHealth;

/// Everything that a status shows.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which member.
    pub id: u8,
    /// Its cluster, as hexadecimal digits.
    pub cluster: String,
    /// Which life of the member.
    pub generation: u16,
    /// Mounted, restored, and taking part.
    pub running: bool,
    /// `leader`, `follower`, `candidate` or `pre-candidate`; or `learner`, or `joining`.
    pub role: &'static str,
    /// Who leads.
    pub leader: Option<u8>,
    /// The newest term.
    pub term: u64,
    /// The last entry that is known to be committed.
    pub commit: u64,
    /// The last entry that was applied.
    pub applied: u64,
    /// The last entry.
    pub last: u64,
    /// The last entry that is durable here.
    pub durable: u64,
    /// The last entry that the newest snapshot covers.
    pub snapshot: u64,
    /// The map's revision.
    pub revision: u64,
    /// Its keys.
    pub keys: usize,
    /// A hash of all keys and values, as hexadecimal digits.
    pub hash: String,
    /// Bytes of the map that are free.
    pub map_bytes_free: u32,
    /// Bytes of the log in memory that are free.
    pub log_bytes_free: u32,
    /// The members, also those that are on their way out.
    pub members: Vec<MemberReport>,
    /// The connections to them.
    pub peers: Vec<PeerHealth>,
    /// What it was doing.
    pub counts: Counts,
    /// Seconds since it was started.
    pub up_s: f64,
    /// A command needs a newer program; nothing is applied until then.
    pub newer_schema: Option<u16>,
}

/// One member.
#[derive(Clone, Debug, Serialize)]
pub struct MemberReport {
    /// Its number.
    pub id: NodeId,
    /// Which life of it.
    pub generation: u16,
    /// It votes.
    pub voter: bool,
    /// Where it is reached, if it has a socket address.
    pub address: Option<String>,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counts {
    /// Commands applied.
    pub applied: u64,
    /// Writes that were answered as done, refused, and unknown.
    pub writes_done: u64,
    /// See `writes_done`.
    pub writes_refused: u64,
    /// See `writes_done`.
    pub writes_unknown: u64,
    /// Linearizable reads that were answered.
    pub reads_linearizable: u64,
    /// Local reads.
    pub reads_local: u64,
    /// Frames sent, one for each receiver.
    pub frames_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Frames that were refused.
    pub frames_refused: u64,
    /// Frames that a link did not take.
    pub frames_dropped: u64,
    /// Writes and erases of the flash file, each made durable.
    pub flash_syncs: u64,
    /// Bytes written to it.
    pub flash_bytes: u64,
    /// Erases.
    pub flash_erases: u64,
    /// Seconds that the flash file took for all of it.
    pub flash_seconds: f64,
    /// Snapshots taken.
    pub snapshots_taken: u64,
    /// Snapshots of a leader restored.
    pub snapshots_installed: u64,
}
