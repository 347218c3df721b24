//! The chip's 802.15.4 radio as a link's: data frames with short addresses, which are the boards' numbers, in a PAN of the cluster's own.
//!
//! The driver has a future of its own, so that no packet is lost that comes while the board is at something else.

use embassy_futures::select::{Either, select};
use embassy_nrf::radio::ieee802154::{Packet, Radio};
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::channel::Channel;
use embassy_time::Timer;
use heapless::Vec;
use quorate_embedded::identity::Page;
use quorate_embedded::link::{AsyncRadio, Dest};

/// What a packet has beside the header.
pub const PACKET_BYTES: usize = Packet::CAPACITY as usize - HEADER_BYTES;

const HEADER_BYTES: usize = 9;
/// Data, to and from short addresses within one PAN.
const DATA: [u8; 2] = 0x8841u16.to_le_bytes();
const EVERYBODY: u16 = 0xffff;
/// How often a packet is tried to be sent while others are sending, and the unit of the waits in between, in µs: as the standard has it.
const TRIES: u32 = 5;
const BACKOFF_US: u32 = 320;

type Bytes = Vec<u8, { Packet::CAPACITY as usize }>;

static COMES: Channel<CriticalSectionRawMutex, Bytes, 4> = Channel::new();
static GOES: Channel<CriticalSectionRawMutex, Bytes, 1> = Channel::new();

/// The link's side.
pub struct Antenna {
    pan: [u8; 2],
    own: u16,
    number: u8,
}

/// The driver's side.
pub struct Air {
    pan: [u8; 2],
    own: u16,
    random: u32,
}

/// Both, for the board of that page.
pub fn open(page: &Page, seed: u32) -> (Antenna, Air) {
    let [a, b, ..] = page.cluster.0;
    let (pan, own) = ([a, b], page.node.get().into());
    (Antenna { pan, own, number: seed as u8 }, Air { pan, own, random: seed })
}

impl AsyncRadio for Antenna {
    fn packet_bytes(&self) -> usize {
        PACKET_BYTES
    }

    async fn transmit(&mut self, to: Dest, packet: &[u8]) {
        let to = match to {
            Dest::All => EVERYBODY,
            Dest::One(id) => id.get().into(),
        };
        self.number = self.number.wrapping_add(1);
        let mut bytes = Bytes::new();
        let (to, own) = (to.to_le_bytes(), self.own.to_le_bytes());
        for part in [&DATA[..], &[self.number], &self.pan, &to, &own, packet] {
            // There is room for what the link sends.
            let _ = bytes.extend_from_slice(part);
        }
        GOES.send(bytes).await;
    }

    async fn receive(&mut self, packet: &mut [u8]) -> usize {
        let bytes = COMES.receive().await;
        let data = bytes.get(HEADER_BYTES..).unwrap_or_default();
        let len = data.len().min(packet.len());
        packet[..len].copy_from_slice(&data[..len]);
        len
    }
}

impl Air {
    /// Sends and listens, for ever.
    pub async fn run(mut self, mut radio: Radio<'_>) -> ! {
        let mut packet = Packet::new();
        loop {
            match select(radio.receive(&mut packet), GOES.receive()).await {
                Either::First(Ok(())) if self.is_for_us(&packet) => {
                    // Without room it is lost, as if it had not been heard.
                    if let Ok(bytes) = Bytes::from_slice(&packet) {
                        let _ = COMES.try_send(bytes);
                    }
                }
                // Noise, or for others.
                Either::First(_) => {}
                Either::Second(bytes) => {
                    packet.copy_from_slice(&bytes);
                    self.send(&mut radio, &mut packet).await;
                }
            }
        }
    }

    async fn send(&mut self, radio: &mut Radio<'_>, packet: &mut Packet) {
        for attempt in 0..TRIES {
            self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Up to 7, 15, then 31 units.
            let units = self.random >> (29 - attempt.min(2));
            Timer::after_micros((units * BACKOFF_US).into()).await;
            if radio.try_send(packet).await.is_ok() {
                return;
            }
        }
    }

    fn is_for_us(&self, packet: &[u8]) -> bool {
        let (own, all) = (self.own.to_le_bytes(), EVERYBODY.to_le_bytes());
        let Some((header, _)) = packet.split_first_chunk::<HEADER_BYTES>() else { return false };
        let [f0, f1, _, p0, p1, to @ .., _, _] = *header;
        [f0, f1] == DATA && [p0, p1] == self.pan && (to == own || to == all)
    }
}
