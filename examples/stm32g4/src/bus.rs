//! CAN-FD as a link's packets. A board's number is its frames' identifier, so that no two boards send the same one at once.

use embassy_stm32::can::BufferedCanFd;
use embassy_stm32::can::frame::{FdFrame, Header};
use embassy_time::{Duration, with_timeout};
use embedded_can::StandardId;
use quorate::NodeId;
use quorate_embedded::link::{AsyncRadio, Dest};

/// Lengths that a frame can have beyond eight bytes; shorter ones are padded.
const SIZES: [usize; 7] = [12, 16, 20, 24, 32, 48, 64];
/// A bus on which nobody acknowledges takes nothing: what it has not taken by then, in ms, is dropped.
const PATIENCE_MS: u64 = 20;

/// Frames that are kept on their way out and in.
pub const GOES: usize = 4;
pub const COMES: usize = 16;

/// The bus.
pub struct Bus {
    can: BufferedCanFd<'static, GOES, COMES>,
    id: StandardId,
}

impl Bus {
    pub fn new(can: BufferedCanFd<'static, GOES, COMES>, own: NodeId) -> Self {
        let id = StandardId::new(own.get().into()).unwrap_or(StandardId::MAX);
        Self { can, id }
    }
}

impl AsyncRadio for Bus {
    /// One byte of a frame is for its length.
    fn packet_bytes(&self) -> usize {
        63
    }

    async fn transmit(&mut self, _to: Dest, packet: &[u8]) {
        let mut bytes = [0; 64];
        let Some(size) = SIZES.into_iter().find(|size| packet.len() < *size) else { return };
        bytes[0] = packet.len() as u8;
        bytes[1..][..packet.len()].copy_from_slice(packet);
        let header = Header::new_fd(self.id.into(), size as u8, false, true);
        if let Ok(frame) = FdFrame::new(header, &bytes[..size]) {
            let _ = with_timeout(Duration::from_millis(PATIENCE_MS), self.can.write(frame)).await;
        }
    }

    async fn receive(&mut self, packet: &mut [u8]) -> usize {
        loop {
            // Errors of the bus are for its controller to deal with.
            let Ok(received) = self.can.read().await else { continue };
            let Some((len, bytes)) = received.frame.data().split_first() else { continue };
            let len = usize::from(*len);
            if let (Some(to), Some(from)) = (packet.get_mut(..len), bytes.get(..len)) {
                to.copy_from_slice(from);
                return len;
            }
        }
    }
}
