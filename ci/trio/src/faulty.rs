//! The run that is the same everywhere: commands and every other call, while frames are lost, damaged, repeated and overtaken, nodes
//! lose their power inside a write, and one is away for so long that it needs a snapshot.

use core::fmt;

use quorate::change::{Step, Transition, What};
use quorate::{Instant, NodeSet};

use crate::meter::Call;
use crate::trio::{Cut, Tally, Trio, id};
use crate::{Board, ENTRY_BYTES, FORWARD_BYTES, NODES};

/// Calls from outside.
const ACTIONS: u32 = 600;
/// Before these a node's power is made to fail in one of its next writes.
const CUTS: [u32; 4] = [90, 150, 420, 480];
/// While these a node is away.
const AWAY: core::ops::Range<u32> = 200..380;
/// From here on nothing fails any more.
const HEALED: u32 = 540;
/// A mark is made so often.
const MARK: u32 = 60;
/// The nodes have so long to agree in the end, in ms.
const PATIENCE_MS: u32 = 60_000;

/// What came of a run.
pub struct Report {
    /// Over everything that came out of the nodes, and the states they were in at the end.
    pub hash: u64,
    /// Virtual time.
    pub now: Instant,
    /// Commands that took effect.
    pub applied: u32,
    /// The nodes hold the same.
    pub agree: bool,
    pub(crate) frames: crate::ether::Sent,
    pub(crate) tally: Tally,
}

impl Report {
    /// Snapshots that were taken over from a leader: in most runs.
    pub fn installed(&self) -> u32 {
        self.tally.installed
    }

    /// Nodes that stopped with a fault.
    pub fn stopped(&self) -> u32 {
        self.tally.stopped
    }

    /// What did not happen: such a run proves nothing.
    pub fn lacks(&self) -> Option<&'static str> {
        let (frames, tally) = (&self.frames, &self.tally);
        let counts = [
            (self.applied, "command"),
            (frames.lost, "lost frame"),
            (frames.damaged, "damaged frame"),
            (frames.repeated, "repeated frame"),
            (tally.elections, "election"),
            (tally.cuts, "power cut inside a write"),
            (tally.torn, "torn word"),
            (tally.mounts, "mount"),
            (tally.taken, "snapshot"),
            (tally.changes, "change of membership"),
            (tally.reads, "read"),
            (tally.forwarded, "forwarded command"),
        ];
        counts.into_iter().find(|(count, _)| *count == 0).map(|(_, what)| what)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (frames, tally) = (&self.frames, &self.tally);
        write!(f, "hash {:016x} after {:?}: {} commands", self.hash, self.now, self.applied)?;
        write!(f, ", {} elections, {} changes", tally.elections, tally.changes)?;
        write!(f, ", {} reads, {} forwarded", tally.reads, tally.forwarded)?;
        write!(f, ", {} frames ({} lost", frames.frames, frames.lost)?;
        write!(f, ", {} damaged, {} repeated)", frames.damaged, frames.repeated)?;
        write!(f, ", {} power cuts inside a write, {} mounts", tally.cuts, tally.mounts)?;
        write!(f, ", {} snapshots taken, {} installed", tally.taken, tally.installed)?;
        write!(f, ", {} stopped, {}", tally.stopped, if self.agree { "agreed" } else { "apart" })
    }
}

/// Makes that run.
pub fn faulty(trio: &mut Trio, board: &mut impl Board, seed: u64) -> Report {
    trio.found(board, seed);
    trio.ether.faulty = true;
    for action in 0..ACTIONS {
        let pause = 1 + trio.random.below(40);
        trio.run(board, trio.now.after(pause));
        weather(trio, board, action);
        let at = trio.random.below(NODES as u32) as usize;
        if trio.is_on(at) {
            act(trio, board, at, action);
            trio.drive(board, at);
        }
        if action % MARK == 0 {
            board.mark(format_args!("action {action}: {:016x}", trio.trace.0));
        }
    }
    let agree = settle(trio, board);
    let applied = trio.apps[0].count();
    aftermath(trio, board);
    Report {
        hash: trio.trace.0,
        now: trio.now,
        applied,
        agree,
        frames: trio.ether.sent,
        tally: trio.tally,
    }
}

/// Faults come and go.
#[inline(never)]
fn weather(trio: &mut Trio, board: &mut impl Board, action: u32) {
    if CUTS.contains(&action) {
        // Whoever leads writes the most; any other does as well.
        let node = trio.leader().filter(|_| trio.random.one_in(2));
        let node = node.unwrap_or_else(|| trio.random.below(NODES as u32) as usize);
        trio.cut = Some(Cut { node, writes: trio.random.below(8) });
    }
    if action == AWAY.start {
        release(trio, board);
        // The others have to be a quorum.
        let drawn = id(trio.random.below(NODES as u32) as usize);
        let membership = trio.leader().map(|at| trio.node(at).raft().membership());
        let learner = membership.and_then(|membership| membership.learners.iter().next());
        trio.ether.away = Some(learner.unwrap_or(drawn));
    }
    if action == AWAY.end {
        trio.ether.away = None;
    }
    if action == HEALED {
        (trio.ether.faulty, trio.cut) = (false, None);
    }
}

/// A command: no two are the same.
fn command(number: u32, len: usize) -> [u8; ENTRY_BYTES] {
    let mut bytes = [len as u8; ENTRY_BYTES];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// One call of a node's.
#[inline(never)]
fn act(trio: &mut Trio, board: &mut impl Board, at: usize, action: u32) {
    let now = trio.now;
    let soon = now.after(1500);
    let draw = trio.random.draw() as u32;
    let other = id(draw as usize % NODES);
    match trio.random.below(18) {
        0..=7 => {
            // To the leader, as far as there is one.
            let at = trio.leader().unwrap_or(at);
            let len = 4 + draw as usize % (ENTRY_BYTES - 3);
            let command = command(action, len);
            let taken =
                trio.call(board, at, Call::Propose, |node, _, _| node.propose(&command[..len]));
            trio.trace.told(format_args!("{at} propose: {taken:?}"));
            trio.drive(board, at);
        }
        8 | 9 => {
            let command = command(action, FORWARD_BYTES);
            let taken = trio.call(board, at, Call::Forward, |node, _, _| {
                node.forward(&command[..FORWARD_BYTES], soon)
            });
            trio.trace.told(format_args!("{at} forward: {taken:?}"));
            trio.proposals[at] = taken.ok().or(trio.proposals[at]);
        }
        10 => {
            if let Some(id) = trio.proposals[at] {
                let command = command(action, FORWARD_BYTES);
                let taken = trio.call(board, at, Call::ForwardAgain, |node, _, _| {
                    node.forward_again(id, &command[..FORWARD_BYTES], soon)
                });
                trio.trace.told(format_args!("{at} forward again: {taken:?}"));
            }
        }
        11 | 12 => {
            let lease = draw.is_multiple_of(2);
            let read = trio.call(board, at, Call::Read, |node, _, _| node.read(now, lease));
            trio.trace.told(format_args!("{at} read: {read:?}"));
            if let Some(read) = read.ok().filter(|_| draw.is_multiple_of(5)) {
                trio.call(board, at, Call::CancelRead, |node, _, _| node.cancel_read(read));
            }
        }
        13 => {
            let done = trio.call(board, at, Call::TransferLeader, |node, _, _| {
                node.transfer_leader(now, other)
            });
            trio.trace.told(format_args!("{at} transfer: {done:?}"));
        }
        14 | 15 if !AWAY.contains(&action) => change(trio, board, other, draw),
        14 | 15 => {}
        16 => match draw % 3 {
            0 => trio.call(board, at, Call::HandleUnreachable, |node, _, _| {
                node.handle_unreachable(other);
            }),
            1 => trio.call(board, at, Call::HandleClockStopped, |node, _, _| {
                node.handle_clock_stopped();
            }),
            _ => trio.call(board, at, Call::Remember, |node, _, _| node.remember(draw as u16)),
        },
        _ => {
            // Seldom held, or snapshots would never end.
            let hold = !AWAY.contains(&action) && draw.is_multiple_of(4);
            trio.call(board, at, Call::HoldErases, |node, _, _| node.hold_erases(hold));
            tell(trio, board, at);
        }
    }
}

/// Demotes a voter, gives a vote, or both at once, by whoever leads.
#[inline(never)]
fn change(trio: &mut Trio, board: &mut impl Board, other: quorate::NodeId, draw: u32) {
    let Some(at) = trio.leader() else { return };
    let membership = *trio.node(at).raft().membership();
    let learner = membership.learners.iter().next();
    let back = learner.map(|learner| Step::new(What::AddVoter, learner));
    let down = Step::new(What::AddLearner, other);
    let steps = match (back, draw % 3) {
        (Some(back), 0) => [Some(back), Some(down)],
        (Some(back), _) => [Some(back), None],
        (None, _) => [Some(down), None],
    };
    let steps: [Step; 2] = steps.map(|step| step.unwrap_or(Step::new(What::Update, id(at))));
    let taken = trio.call(board, at, Call::ChangeMembers, |node, _, _| {
        node.change_members(Transition::Auto, &steps, false)
    });
    trio.trace.told(format_args!("{at} change: {taken:?}"));
    trio.drive(board, at);
}

/// All that a node says of itself.
#[inline(never)]
fn tell(trio: &mut Trio, board: &mut impl Board, at: usize) {
    let status = trio.call(board, at, Call::Status, |node, _, _| node.status());
    trio.trace.told(format_args!("{at}: {status:?}"));
}

/// Nobody holds erases back: a log that fills up would stop them all.
fn release(trio: &mut Trio, board: &mut impl Board) {
    for at in 0..NODES {
        trio.call(board, at, Call::HoldErases, |node, _, _| node.hold_erases(false));
        trio.drive(board, at);
    }
}

/// Without faults, all vote and hold the same after a while.
#[inline(never)]
fn settle(trio: &mut Trio, board: &mut impl Board) -> bool {
    release(trio, board);
    let end = trio.now.after(PATIENCE_MS);
    while trio.now < end {
        trio.run(board, trio.now.after(200));
        let Some(at) = trio.leader() else { continue };
        let membership = *trio.node(at).raft().membership();
        let all: NodeSet = (0..NODES).map(id).collect();
        if trio.agree() && membership.voters == all && membership.outgoing.is_empty() {
            return true;
        }
        if let Some(learner) = membership.learners.iter().next() {
            let steps = [Step::new(What::AddVoter, learner)];
            let _ = trio.call(board, at, Call::ChangeMembers, |node, _, _| {
                node.change_members(Transition::Auto, &steps, false)
            });
            trio.drive(board, at);
        }
    }
    false
}

/// One applies no more; all lose their power, and mount what they have.
#[inline(never)]
fn aftermath(trio: &mut Trio, board: &mut impl Board) {
    trio.call(board, 0, Call::RefuseApply, |node, _, _| node.refuse_apply(7));
    trio.drive(board, 0);
    for at in 0..NODES {
        tell(trio, board, at);
        trio.trace.bytes(trio.apps[at].bytes());
        trio.lose(board, at);
        trio.mount(board, at);
        tell(trio, board, at);
        trio.trace.bytes(trio.apps[at].bytes());
    }
}
