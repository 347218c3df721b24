//! The link: a few frames on their way at once, which are lost, damaged, repeated and overtaken.

use quorate::{Instant, NodeId, NodeSet};

use crate::random::Random;

/// Frames on their way at once, and their bytes; what is more is lost.
const FRAMES: usize = 10;
const BYTES: usize = 480;

/// A frame on its way; its bytes stand in the order of the frames.
#[derive(Clone, Copy)]
struct Frame {
    due: Instant,
    to: NodeSet,
    len: u8,
}

/// What happened to frames, one for each receiver but for those that are damaged or repeated.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) frames: u32,
    pub(crate) lost: u32,
    pub(crate) damaged: u32,
    pub(crate) repeated: u32,
}

impl Sent {
    const NONE: Self = Self { frames: 0, lost: 0, damaged: 0, repeated: 0 };
}

/// The link.
pub(crate) struct Ether {
    frames: [Frame; FRAMES],
    count: usize,
    bytes: [u8; BYTES],
    /// Frames are lost, damaged, repeated and late.
    pub(crate) faulty: bool,
    /// A node that no frame reaches or leaves.
    pub(crate) away: Option<NodeId>,
    pub(crate) sent: Sent,
}

impl Ether {
    pub(crate) const fn new() -> Self {
        Self {
            frames: [Frame { due: Instant::ZERO, to: NodeSet::EMPTY, len: 0 }; FRAMES],
            count: 0,
            bytes: [0; BYTES],
            faulty: false,
            away: None,
            sent: Sent::NONE,
        }
    }

    /// As new.
    pub(crate) fn clear(&mut self) {
        (self.count, self.faulty, self.away, self.sent) = (0, false, None, Sent::NONE);
    }

    /// Sends a frame.
    #[inline(never)]
    pub(crate) fn send(
        &mut self,
        now: Instant,
        from: NodeId,
        to: NodeSet,
        frame: &[u8],
        random: &mut Random,
    ) {
        self.sent.frames += 1;
        let mut reached = NodeSet::EMPTY;
        for id in to.iter() {
            let away = self.away.is_some_and(|away| away == id || away == from);
            if away || self.faulty && random.one_in(12) {
                self.sent.lost += 1;
            } else {
                reached.insert(id);
            }
        }
        let again = self.faulty && random.one_in(24);
        self.sent.repeated += u32::from(again);
        for _ in 0..=u32::from(again) {
            self.put(now, reached, frame, random);
        }
    }

    fn put(&mut self, now: Instant, to: NodeSet, frame: &[u8], random: &mut Random) {
        if to.is_empty() {
            return;
        }
        let (at, len) = (self.start(self.count), frame.len());
        if self.count == FRAMES || at + len > BYTES {
            self.sent.lost += to.len() as u32;
            return;
        }
        let late = if self.faulty { random.below(6) } else { 0 };
        self.frames[self.count] = Frame { due: now.after(late), to, len: len as u8 };
        self.count += 1;
        let bytes = &mut self.bytes[at..at + len];
        bytes.copy_from_slice(frame);
        if self.faulty && random.one_in(48) {
            self.sent.damaged += 1;
            bytes[random.below(len as u32) as usize] ^= 1 << random.below(8);
        }
    }

    /// Where the bytes of a frame begin.
    fn start(&self, place: usize) -> usize {
        self.frames[..place].iter().map(|frame| usize::from(frame.len)).sum()
    }

    /// When the next frame is there.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.frames[..self.count].iter().map(|frame| frame.due).min()
    }

    /// The frame that is there by now, to be freed.
    pub(crate) fn due(&self, now: Instant) -> Option<usize> {
        let first = (0..self.count).min_by_key(|place| self.frames[*place].due);
        first.filter(|place| self.frames[*place].due <= now)
    }

    /// Whom a frame reaches.
    pub(crate) fn to(&self, place: usize) -> NodeSet {
        self.frames[place].to
    }

    pub(crate) fn frame(&self, place: usize) -> &[u8] {
        let start = self.start(place);
        &self.bytes[start..start + usize::from(self.frames[place].len)]
    }

    pub(crate) fn free(&mut self, place: usize) {
        let (start, end) = (self.start(place), self.start(self.count));
        self.bytes.copy_within(start + usize::from(self.frames[place].len)..end, start);
        self.frames.copy_within(place + 1..self.count, place);
        self.count -= 1;
    }
}
