//! What both clusters have in common: a link that is a queue of bytes, and the commands.

use std::collections::VecDeque;

/// Frames on their way, first in, first out. Their buffers are used again, so that the link itself allocates nothing.
pub(crate) struct Link<To> {
    queue: VecDeque<(To, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    pub(crate) sent: Sent,
}

/// What went over a link.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sent {
    /// Frames and their bytes, one for several receivers counted once.
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    /// The same where each receiver gets a frame of its own.
    pub(crate) frames_unicast: u64,
    pub(crate) bytes_unicast: u64,
}

/// Frames that are on their way at once, at most.
const FRAMES_MAX: usize = 64;

impl<To> Link<To> {
    /// A link for frames that are seldom longer.
    pub(crate) fn new(frame_bytes: usize) -> Self {
        let spare = (0..FRAMES_MAX).map(|_| Vec::with_capacity(frame_bytes)).collect();
        Self { queue: VecDeque::with_capacity(FRAMES_MAX), spare, sent: Sent::default() }
    }

    /// Sends what `write` puts into an empty buffer.
    pub(crate) fn send(&mut self, to: To, receivers: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        write(&mut frame);
        let (bytes, receivers) = (frame.len() as u64, receivers as u64);
        self.sent.frames += 1;
        self.sent.bytes += bytes;
        self.sent.frames_unicast += receivers;
        self.sent.bytes_unicast += bytes * receivers;
        self.queue.push_back((to, frame));
    }

    /// The next frame.
    pub(crate) fn receive(&mut self) -> Option<(To, Vec<u8>)> {
        self.queue.pop_front()
    }

    /// The frame was dealt with.
    pub(crate) fn done(&mut self, frame: Vec<u8>) {
        self.spare.push(frame);
    }
}

/// The commands: each of them is another one, and known to whoever applies it.
pub(crate) struct Commands {
    next: Vec<u8>,
}

const NUMBER_BYTES: usize = 8;

impl Commands {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { next: (0..bytes).map(|at| ((at * 131) >> 3) as u8).collect() }
    }

    /// The command of this number.
    pub(crate) fn get(&mut self, number: u64) -> &[u8] {
        self.next[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
        &self.next
    }

    /// Is this the command of that number?
    pub(crate) fn check(&self, number: u64, command: &[u8]) {
        let (head, rest) = command.split_at(NUMBER_BYTES);
        assert_eq!(head, number.to_le_bytes(), "another command was applied");
        assert_eq!(rest, &self.next[NUMBER_BYTES..], "a command was changed");
    }
}
