//! Instructions that the calls of a node take.

use crate::NODES;

/// The public calls of a node; those that only hand out a reference are not among them.
#[derive(Clone, Copy)]
pub(crate) enum Call {
    Start,
    PollOutput,
    HandleFrame,
    HandleTimeout,
    HandleFlash,
    HandleSnapshot,
    HandleUnreachable,
    HandleClockStopped,
    Propose,
    Forward,
    ForwardAgain,
    ChangeMembers,
    TransferLeader,
    Read,
    CancelRead,
    RefuseApply,
    Remember,
    HoldErases,
    Status,
}

/// Their names, in the same order.
pub const CALLS: [&str; 19] = [
    "start",
    "poll_output",
    "handle_frame",
    "handle_timeout",
    "handle_flash",
    "handle_snapshot",
    "handle_unreachable",
    "handle_clock_stopped",
    "propose",
    "forward",
    "forward_again",
    "change_members",
    "transfer_leader",
    "read",
    "cancel_read",
    "refuse_apply",
    "remember",
    "hold_erases",
    "status",
];

/// What was counted.
#[derive(Clone, Copy)]
pub struct Costs {
    /// The most that a call of each kind took, in the order of [`CALLS`].
    pub most: [u32; CALLS.len()],
    /// How many calls of each kind there were.
    pub calls: [u32; CALLS.len()],
    /// The most that a whole mount took, from `start` until the node waits for the others.
    pub mount: u32,
    /// All calls of each node.
    pub(crate) sums: [u32; NODES],
}

impl Costs {
    pub(crate) const NONE: Self =
        Self { most: [0; CALLS.len()], calls: [0; CALLS.len()], mount: 0, sums: [0; NODES] };

    pub(crate) fn add(&mut self, node: usize, call: Call, instructions: u32) {
        let most = &mut self.most[call as usize];
        *most = instructions.max(*most);
        self.calls[call as usize] += 1;
        self.sums[node] = self.sums[node].wrapping_add(instructions);
    }
}
