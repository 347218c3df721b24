//! Radios whose packets hold a whole frame: 802.15.4, ESP-NOW.

#[cfg(feature = "async")]
use super::{AsyncLink, AsyncRadio};
use super::{Link, Radio, next_dest, without};
use core::task::Poll;
use quorate::{Instant, NodeSet};

/// One frame is one packet. The cluster's frames must not be longer than the radio's packets.
pub struct PacketLink<'a, R> {
    radio: R,
    packet: &'a mut [u8],
    /// Who has to be sent to yet, while a frame is being sent.
    left: Option<NodeSet>,
}

impl<'a, R> PacketLink<'a, R> {
    /// A link of `radio`; `packet` holds what is received, as many bytes as the radio's packets have.
    pub const fn new(radio: R, packet: &'a mut [u8]) -> Self {
        Self { radio, packet, left: None }
    }

    /// The radio's driver.
    pub const fn radio(&mut self) -> &mut R {
        &mut self.radio
    }
}

impl<R: Radio> Link for PacketLink<'_, R> {
    fn send(&mut self, _now: Instant, to: NodeSet, frame: &[u8]) -> Poll<()> {
        let mut left = self.left.unwrap_or(to);
        if frame.len() > self.radio.packet_bytes() {
            left = NodeSet::EMPTY;
        }
        while let Some(dest) = next_dest(left, R::BROADCAST) {
            if self.radio.transmit(dest, frame).is_pending() {
                self.left = Some(left);
                return Poll::Pending;
            }
            left = without(left, dest);
        }
        self.left = None;
        Poll::Ready(())
    }

    fn receive(&mut self, _now: Instant) -> Option<&[u8]> {
        let len = self.radio.receive(self.packet)?;
        self.packet.get(..len)
    }
}

#[cfg(feature = "async")]
impl<R: AsyncRadio> AsyncLink for PacketLink<'_, R> {
    async fn send(&mut self, to: NodeSet, frame: &[u8]) {
        let mut left = to;
        if frame.len() > self.radio.packet_bytes() {
            return;
        }
        while let Some(dest) = next_dest(left, R::BROADCAST) {
            self.radio.transmit(dest, frame).await;
            left = without(left, dest);
        }
    }

    async fn receive(&mut self) -> &[u8] {
        let len = self.radio.receive(self.packet).await;
        self.packet.get(..len).unwrap_or_default()
    }
}
