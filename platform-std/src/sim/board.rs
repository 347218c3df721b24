//! One board: a node, the application on it, two buffers, a flash part and a clock of its own. A power
//! cut leaves the bytes in flash and what the factory gave it.

use quorate::node::{Boot, Founding, Limits, Node, ProposalId, ReadId, StartError};
use quorate::typed::{ConfigMap, MapLimits};
use quorate::{ClusterId, EntryId, Generation, Instant, NodeId};

use quorate::config::Config;
use quorate::membership::Member;

use super::dice::Dice;
use super::flash::Chip;
use super::profile::BoardProfile;

/// The schema of the simulated application.
pub const SCHEMA: u16 = 1;

/// What a board is at power on.
#[derive(Debug)]
pub struct Board {
    /// Its number.
    pub id: NodeId,
    /// What the factory made.
    pub profile: BoardProfile,
    /// Its flash.
    pub chip: Chip,
    /// What power keeps alive.
    pub live: Option<Live>,
    /// Counts boots and cuts: what was planned for an earlier life does not happen.
    pub life: u32,
    /// Power cuts so far.
    pub cuts: u64,
    /// Frames handed to the link.
    pub frames_sent: u64,
    /// The next program or erase operation is cut in the middle.
    pub armed: bool,
    /// Boots that will be cut as well.
    pub brown_outs: u32,
    /// It has run once with this flash: blank flash can't be its state any more.
    pub founded: bool,
    /// Blank flash is not to be founded: the board asks for its place.
    pub joins: bool,
    /// Which life of the member its flash is of; 0 before it has run with it.
    pub generation: Generation,
}

/// How a board is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From what its flash holds.
    Mount,
    /// By founding the cluster.
    Found,
    /// By asking for its place.
    Join {
        /// Drawn for this start.
        nonce: u32,
    },
}

/// What is gone after a power cut.
pub struct Live {
    /// The node.
    pub node: Box<Node>,
    /// The application.
    pub app: Box<ConfigMap>,
    /// The buffer for frames and commands.
    pub frame: Vec<u8>,
    /// The buffer for flash.
    pub flash: Vec<u8>,
    /// Power on, in µs of the world.
    pub booted_us: u64,
    /// What its clock said then, in ms.
    pub epoch_ms: u64,
    /// When the node wants to be called, in µs of the world.
    pub wake_us: u64,
    /// The next event that will look at that.
    pub timer_us: Option<u64>,
    /// Flash operations so far.
    pub operations: u32,
    /// Proposals taken here that wait for their entry to be applied.
    pub waiting: Vec<(EntryId, Vec<u8>)>,
    /// The node has begun to take part.
    pub is_running: bool,
    /// Since when it sleeps, and its clock with it, and until when.
    pub asleep_us: Option<(u64, u64)>,
    /// Reads begun here that are not answered yet.
    pub reads: Vec<Reading>,
    /// The command that this board has on its way to the leader.
    pub forwarding: Option<Forwarding>,
}

/// A read that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Its name on that board.
    pub id: ReadId,
    /// A leader may answer it by its lease.
    pub lease: bool,
    /// The revision that it has to show at least.
    pub due: u64,
}

/// A command that was forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// Its name on that board.
    pub id: ProposalId,
    /// Its bytes.
    pub command: Vec<u8>,
    /// How often it was sent again under its own number.
    pub again: u32,
    /// The board was told that nobody knows what became of it.
    pub is_unknown: bool,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("booted_us", &self.booted_us).finish_non_exhaustive()
    }
}

fn node(log_bytes: usize) -> Box<Node> {
    match log_bytes {
        0..=1024 => Box::new(Node::<[u8; 1024]>::new()),
        1025..=2048 => Box::new(Node::<[u8; 2048]>::new()),
        2049..=4096 => Box::new(Node::<[u8; 4096]>::new()),
        4097..=8192 => Box::new(Node::<[u8; 8192]>::new()),
        _ => Box::new(Node::<[u8; 32768]>::new()),
    }
}

/// What all boards of a cluster are founded with.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its identity.
    pub id: ClusterId,
    /// Its members.
    pub members: Vec<Member>,
    /// Its constants.
    pub limits: Limits,
    /// Limits of the application.
    pub map: MapLimits,
}

impl Board {
    /// A board that has no power.
    pub fn new(id: NodeId, profile: BoardProfile, image: Option<Vec<u8>>) -> Self {
        let founded = image.is_some();
        Self {
            id,
            chip: Chip::new(profile.part, image),
            profile,
            live: None,
            life: 0,
            cuts: 0,
            frames_sent: 0,
            armed: false,
            brown_outs: 0,
            founded,
            joins: false,
            generation: Generation(0),
        }
    }

    /// Its number.
    pub const fn number(&self) -> u8 {
        self.id.get()
    }

    /// The seed of its next boot. No two boots have the same: what a life has asked for is told from what the next one asks
    /// for by it.
    pub fn draw_seed(&self, dice: &mut Dice) -> u64 {
        let drawn = dice.bits();
        let counted = self.profile.entropy.wrapping_add(u64::from(self.life));
        if self.profile.has_hardware_random { drawn } else { counted }
    }

    /// Power on.
    ///
    /// # Errors
    /// The node does not start.
    pub fn boot(
        &mut self,
        now_us: u64,
        start: Start,
        cluster: &Cluster,
        config: &Config,
        dice: &mut Dice,
    ) -> Result<(), StartError> {
        let mut app: Box<ConfigMap> = Box::new(ConfigMap::<[u8; 16384]>::new());
        // The arena is larger than any limits of a simulation.
        let _ = app.start(cluster.map, SCHEMA, None);
        let mut live = Live {
            node: node(self.profile.log_bytes),
            app,
            frame: vec![0; usize::from(cluster.limits.frame_bytes)],
            flash: vec![0; self.profile.flash_buffer_bytes],
            booted_us: now_us,
            epoch_ms: dice.pick(&[0, 5, 1 << 20, 1 << 33]),
            wake_us: u64::MAX,
            timer_us: None,
            operations: 0,
            waiting: Vec::new(),
            is_running: false,
            asleep_us: None,
            reads: Vec::new(),
            forwarding: None,
        };
        let founding = Founding {
            cluster: cluster.id,
            node: self.id,
            members: &cluster.members,
            limits: cluster.limits,
            erase_anyway: false,
        };
        let boot = match start {
            Start::Mount => Boot::Mount,
            Start::Found => Boot::Found(&founding),
            Start::Join { nonce } => Boot::Join { cluster: cluster.id, node: self.id, nonce },
        };
        let now = Instant::from_millis(live.epoch_ms);
        live.node.start(now, config, boot)?;
        self.live = Some(live);
        Ok(())
    }

    /// What its clock says.
    pub fn clock(&self, now_us: u64) -> Instant {
        let Some(live) = &self.live else {
            return Instant::ZERO;
        };
        let rate = u128::from((1_000_000 + i64::from(self.profile.drift_ppm)) as u64);
        let passed = u128::from(now_us.saturating_sub(live.booted_us)) * rate / 1_000_000_000;
        Instant::from_millis(live.epoch_ms + passed as u64)
    }

    /// When its clock will say `until`, in µs of the world; after `now_us` in any case.
    pub fn time_of(&self, until: Instant, now_us: u64) -> u64 {
        let Some(live) = self.live.as_ref().filter(|_| until != Instant::FOREVER) else {
            return u64::MAX;
        };
        let rate = u128::from((1_000_000 + i64::from(self.profile.drift_ppm)) as u64);
        let ahead = u128::from(until.as_millis().saturating_sub(live.epoch_ms));
        let passed = (ahead * 1_000_000_000).div_ceil(rate);
        let at = u64::try_from(passed).map_or(u64::MAX, |us| live.booted_us.saturating_add(us));
        at.max(now_us + 20)
    }

    /// By how much its clock has gone wrong since it has power, in ms.
    pub fn drift_ms(&self, now_us: u64) -> u64 {
        let ppm = u64::from(self.profile.drift_ppm.unsigned_abs());
        let passed_us = self.live.as_ref().map_or(0, |live| now_us.saturating_sub(live.booted_us));
        passed_us / 1000 * ppm / 1_000_000
    }

    /// Does it sleep?
    pub fn is_asleep(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.asleep_us.is_some())
    }

    /// Does it hear nothing and do nothing, for its flash is at work, or for it sleeps?
    pub fn is_deaf(&self) -> bool {
        self.chip.stalls() || self.is_asleep()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::options::Options;
    use crate::sim::profile::Profile;

    #[test]
    fn a_clock_that_is_off_wakes_the_board_when_it_says_so_and_not_before() {
        let profile = Profile::draw(&Options::new(1), &mut Dice::new(1));
        let member = NodeId::new(1).unwrap();
        let cluster = Cluster {
            id: ClusterId([1; 4]),
            members: vec![Member::new(member)],
            limits: profile.limits,
            map: profile.map,
        };
        for drift_ppm in [-20_000, -1, 0, 7, 20_000] {
            let one = BoardProfile { drift_ppm, ..profile.boards[0].clone() };
            let mut board = Board::new(member, one, None);
            let config = profile.config(0, 1);
            board.boot(12_345, Start::Found, &cluster, &config, &mut Dice::new(3)).unwrap();
            for ms in [1, 999, 1_000_000] {
                let until = board.clock(12_345).after(ms);
                let at = board.time_of(until, 0);
                assert!(
                    board.clock(at) >= until && board.clock(at - 1) < until,
                    "{drift_ppm} {ms}"
                );
            }
            assert_eq!(board.time_of(Instant::FOREVER, 0), u64::MAX);
        }
    }
}
