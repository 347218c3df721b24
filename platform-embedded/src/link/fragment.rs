//! Radios whose packets are smaller than a frame: LoRa at its slowest, BLE, CAN-FD.
//!
//! A frame is cut into parts, all but the last as long as a packet allows, and each has three bytes before it: the sender (5 bits),
//! whether it is the last (1), the number of the frame (13), which part it is (5). Nothing is acknowledged or repeated: a frame with a
//! lost part is lost, and the core sends what is needed then.

#[cfg(feature = "async")]
use super::{AsyncLink, AsyncRadio};
use super::{Dest, Link, Radio, copy, next_dest, without};
use core::task::Poll;
use quorate::{Instant, NodeId, NodeSet};

/// Bytes that each part has before it.
pub const FRAGMENT_HEAD_BYTES: usize = 3;
/// The most parts that a frame can have.
pub const PARTS_MAX: usize = 32;
/// The most senders whose frames can come in at a time.
pub const SENDERS_MAX: usize = 8;

/// Frame numbers go round.
const NUMBER_MASK: u16 = 0x1fff;
/// A part of one of so many frames before the newest is late, one further back begins anew: its sender has started again.
const LATE_MAX: u16 = 64;

/// What stands before a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    from: NodeId,
    number: u16,
    part: u8,
    last: bool,
}

impl Head {
    fn encode(self) -> [u8; FRAGMENT_HEAD_BYTES] {
        let first =
            u32::from(self.from.get()).wrapping_shl(19) | u32::from(self.last).wrapping_shl(18);
        let number = u32::from(self.number & NUMBER_MASK).wrapping_shl(5);
        let [_, bytes @ ..] = (first | number | u32::from(self.part & 31)).to_be_bytes();
        bytes
    }

    fn decode([a, b, c]: [u8; FRAGMENT_HEAD_BYTES]) -> Option<Self> {
        let bits = u32::from_be_bytes([0, a, b, c]);
        Some(Self {
            from: NodeId::new(bits.wrapping_shr(19) as u8)?,
            last: bits.wrapping_shr(18) & 1 != 0,
            number: bits.wrapping_shr(5) as u16 & NUMBER_MASK,
            part: bits as u8 & 31,
        })
    }
}

/// A frame that comes in.
#[derive(Clone, Copy)]
struct Slot {
    from: NodeId,
    number: u16,
    /// Which parts are here.
    here: u32,
    /// How many there are, and bytes in all; 0 until the last one is here.
    parts: u8,
    bytes: usize,
    /// It was handed over.
    done: bool,
    /// When something of it came.
    used: u32,
}

/// Puts frames together in memory that it is given, a frame for each sender that is heard at a time.
struct Assembler<'a> {
    memory: &'a mut [u8],
    frame_bytes: usize,
    part_bytes: usize,
    slots: heapless::Vec<Slot, SENDERS_MAX>,
    slots_max: usize,
    /// Counts packets.
    turn: u32,
}

impl<'a> Assembler<'a> {
    fn new(memory: &'a mut [u8], frame_bytes: usize, part_bytes: usize) -> Self {
        let slots_max = memory.len().checked_div(frame_bytes).unwrap_or(0).min(SENDERS_MAX);
        Self { memory, frame_bytes, part_bytes, slots: heapless::Vec::new(), slots_max, turn: 0 }
    }

    /// Takes a packet, whatever it is; where in the memory a frame is that is whole with it.
    fn take(&mut self, packet: &[u8]) -> Option<(usize, usize)> {
        let (head, data) = packet.split_first_chunk::<FRAGMENT_HEAD_BYTES>()?;
        let head = Head::decode(*head)?;
        let whole = data.len() == self.part_bytes;
        let short = head.last && data.len() < self.part_bytes;
        let start = usize::from(head.part).checked_mul(self.part_bytes)?;
        let end = start.checked_add(data.len())?;
        if data.is_empty() || !(whole || short) || end > self.frame_bytes {
            return None;
        }
        self.turn = self.turn.wrapping_add(1);
        let at = self.slot(head)?;
        let base = at.checked_mul(self.frame_bytes)?;
        let slot = self.slots.get_mut(at)?;
        let bit = 1u32.wrapping_shl(head.part.into());
        let beyond = slot.parts != 0 && head.part >= slot.parts;
        if slot.done || slot.here & bit != 0 || beyond {
            return None;
        }
        if head.last {
            // Nothing of it can be behind the last part.
            let later = slot.here.checked_shr(head.part.into()).unwrap_or(0) != 0;
            if later || slot.parts != 0 {
                return None;
            }
            (slot.parts, slot.bytes) = (head.part.saturating_add(1), end);
        }
        copy(self.memory.get_mut(base.checked_add(start)?..base.checked_add(end)?)?, data);
        slot.here |= bit;
        slot.used = self.turn;
        let all = u32::MAX.wrapping_shr(32u32.saturating_sub(slot.parts.into()));
        slot.done = slot.parts != 0 && slot.here == all;
        slot.done.then_some((base, slot.bytes))
    }

    /// Where the parts of that frame go; `None` for one that is too late.
    fn slot(&mut self, head: Head) -> Option<usize> {
        let Head { from, number, .. } = head;
        let fresh =
            Slot { from, number, here: 0, parts: 0, bytes: 0, done: false, used: self.turn };
        let Some(at) = self.slots.iter().position(|slot| slot.from == from) else {
            if self.slots.len() < self.slots_max {
                self.slots.push(fresh).ok()?;
                return self.slots.len().checked_sub(1);
            }
            // Frames that are done give way first, then those that have waited the longest.
            let age = |slot: &Slot| (slot.done, self.turn.wrapping_sub(slot.used));
            let (at, slot) = self.slots.iter_mut().enumerate().max_by_key(|(_, s)| age(s))?;
            *slot = fresh;
            return Some(at);
        };
        let slot = self.slots.get_mut(at)?;
        match slot.number.wrapping_sub(number) & NUMBER_MASK {
            0 => {}
            late if late <= LATE_MAX => return None,
            _ => *slot = fresh,
        }
        Some(at)
    }
}

/// Cuts frames into packets and puts them together again: whole frames come out, or nothing.
///
/// All boards of a cluster have packets of the same length. Memory is bounded: one frame for each sender that is heard at a
/// time; of more senders than that, those that were not heard for longest lose what has come of theirs.
pub struct FragmentLink<'a, R> {
    radio: R,
    own: NodeId,
    number: u16,
    /// Who has to be sent to yet, and which part is next, while a frame is being sent.
    left: Option<(NodeSet, u8)>,
    packet: &'a mut [u8],
    assembler: Assembler<'a>,
}

impl<'a, R> FragmentLink<'a, R> {
    /// Bytes that a link takes for a radio with packets of `packet_bytes`, in a cluster with frames of `frame_bytes`, to hear
    /// `senders` at a time, up to [`SENDERS_MAX`]: the other members, or fewer.
    pub const fn memory_bytes(packet_bytes: usize, frame_bytes: usize, senders: usize) -> usize {
        packet_bytes.saturating_add(frame_bytes.saturating_mul(senders))
    }

    fn with_packets_of(
        packet_bytes: usize,
        radio: R,
        own: NodeId,
        seed: u16,
        frame_bytes: usize,
        memory: &'a mut [u8],
    ) -> Self {
        let (packet, memory) =
            memory.split_at_mut_checked(packet_bytes).unwrap_or((&mut [], &mut []));
        let part_bytes = packet.len().saturating_sub(FRAGMENT_HEAD_BYTES);
        let assembler = Assembler::new(memory, frame_bytes, part_bytes);
        Self { radio, own, number: seed, left: None, packet, assembler }
    }

    /// The radio's driver.
    pub const fn radio(&mut self) -> &mut R {
        &mut self.radio
    }

    /// How many parts a frame has; 0 if it can't be sent.
    fn parts(&self, frame: &[u8]) -> usize {
        let parts = frame.len().checked_add(self.assembler.part_bytes.wrapping_sub(1));
        let parts = parts.and_then(|n| n.checked_div(self.assembler.part_bytes)).unwrap_or(0);
        if parts > PARTS_MAX { 0 } else { parts }
    }

    /// Writes a part of the frame into the packet; its length.
    fn cut(&mut self, frame: &[u8], part: usize, parts: usize) -> usize {
        let last = part.saturating_add(1) == parts;
        let head = Head { from: self.own, number: self.number, part: part as u8, last };
        let Some((place, rest)) = self.packet.split_first_chunk_mut::<FRAGMENT_HEAD_BYTES>() else {
            return 0;
        };
        *place = head.encode();
        let start = part.saturating_mul(self.assembler.part_bytes);
        let bytes = copy(rest, frame.get(start..).unwrap_or_default());
        bytes.saturating_add(FRAGMENT_HEAD_BYTES)
    }

    /// The packet's first `len` bytes have come; the frame that is whole with them.
    fn take(&mut self, len: usize) -> Option<(usize, usize)> {
        self.assembler.take(self.packet.get(..len)?)
    }

    fn frame(&self, (at, bytes): (usize, usize)) -> Option<&[u8]> {
        self.assembler.memory.get(at..at.checked_add(bytes)?)
    }
}

impl<'a, R: Radio> FragmentLink<'a, R> {
    /// A link of `radio` for member `own`, with frames of up to `frame_bytes`. `seed` is different at each start, so that what was
    /// on its way before is not mixed with what comes now. `memory` is what [`FragmentLink::memory_bytes`] asks for.
    pub fn new(radio: R, own: NodeId, seed: u16, frame_bytes: usize, memory: &'a mut [u8]) -> Self {
        Self::with_packets_of(radio.packet_bytes(), radio, own, seed, frame_bytes, memory)
    }

    fn transmit(&mut self, dest: Dest, len: usize) -> Poll<()> {
        self.radio.transmit(dest, self.packet.get(..len).unwrap_or_default())
    }
}

impl<R: Radio> Link for FragmentLink<'_, R> {
    fn send(&mut self, _now: Instant, to: NodeSet, frame: &[u8]) -> Poll<()> {
        let parts = self.parts(frame);
        let (mut left, mut part) = self.left.unwrap_or_else(|| {
            self.number = self.number.wrapping_add(1);
            (to, 0)
        });
        while let Some(dest) = next_dest(left, R::BROADCAST) {
            while usize::from(part) < parts {
                let len = self.cut(frame, part.into(), parts);
                if self.transmit(dest, len).is_pending() {
                    self.left = Some((left, part));
                    return Poll::Pending;
                }
                part = part.saturating_add(1);
            }
            (left, part) = (without(left, dest), 0);
        }
        self.left = None;
        Poll::Ready(())
    }

    fn receive(&mut self, _now: Instant) -> Option<&[u8]> {
        let place = loop {
            let len = self.radio.receive(self.packet)?;
            if let Some(place) = self.take(len) {
                break place;
            }
        };
        self.frame(place)
    }
}

#[cfg(feature = "async")]
impl<'a, R: AsyncRadio> FragmentLink<'a, R> {
    /// As [`FragmentLink::new`], for an async driver.
    pub fn new_async(
        radio: R,
        own: NodeId,
        seed: u16,
        frame_bytes: usize,
        memory: &'a mut [u8],
    ) -> Self {
        Self::with_packets_of(radio.packet_bytes(), radio, own, seed, frame_bytes, memory)
    }
}

#[cfg(feature = "async")]
impl<R: AsyncRadio> AsyncLink for FragmentLink<'_, R> {
    async fn send(&mut self, to: NodeSet, frame: &[u8]) {
        let parts = self.parts(frame);
        self.number = self.number.wrapping_add(1);
        let mut left = to;
        while let Some(dest) = next_dest(left, R::BROADCAST) {
            for part in 0..parts {
                let len = self.cut(frame, part, parts);
                self.radio.transmit(dest, self.packet.get(..len).unwrap_or_default()).await;
            }
            left = without(left, dest);
        }
    }

    async fn receive(&mut self) -> &[u8] {
        let place = loop {
            let len = self.radio.receive(self.packet).await;
            if let Some(place) = self.take(len) {
                break place;
            }
        };
        self.frame(place).unwrap_or_default()
    }
}
