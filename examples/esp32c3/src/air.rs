//! ESP-NOW as a link's packets. All are sent to everybody in reach: frames say for themselves whom they are for.

use core::task::Poll;

use esp_radio::esp_now::{BROADCAST_ADDRESS, EspNow};
use quorate_embedded::link::{Dest, Radio};

/// What a packet has.
pub const PACKET_BYTES: usize = 250;

/// The radio.
pub struct Air(pub EspNow<'static>);

impl Radio for Air {
    fn packet_bytes(&self) -> usize {
        PACKET_BYTES
    }

    fn transmit(&mut self, _to: Dest, packet: &[u8]) -> Poll<()> {
        // Waits until it is sent.
        let _ = self.0.send(&BROADCAST_ADDRESS, packet).map(|sending| sending.wait());
        Poll::Ready(())
    }

    fn receive(&mut self, packet: &mut [u8]) -> Option<usize> {
        let received = self.0.receive()?;
        packet.get_mut(..received.data().len())?.copy_from_slice(received.data());
        Some(received.data().len())
    }
}
