//! How frames get from board to board.
//!
//! A link may lose, repeat, reorder and corrupt frames: the core lives with all of it, and with a send that fails. So no
//! function here returns an error. What a link must not do is hand over a part of a frame as a whole one for long: each frame has
//! a 32-bit check of its own, which lets one in four billion through.

mod fragment;
mod packet;
mod serial;

pub use fragment::{FRAGMENT_HEAD_BYTES, FragmentLink, PARTS_MAX, SENDERS_MAX};
pub use packet::PacketLink;
pub use serial::{Deframer, Serial, enframe};

use core::task::Poll;
use quorate::{Instant, NodeId, NodeSet};

/// A link for the blocking runner: nothing here waits.
pub trait Link {
    /// Begins to send a frame to everybody in `to`, or goes on with it: to be called again with the same frame until it is
    /// [`Poll::Ready`]. A medium that all hear sends it once. What can't be sent is dropped.
    fn send(&mut self, now: Instant, to: NodeSet, frame: &[u8]) -> Poll<()>;

    /// The next frame that has come, if a whole one has. Called often; may go on with what is being sent.
    fn receive(&mut self, now: Instant) -> Option<&[u8]>;

    /// Has it something left to do that takes no frame, so that it wants to be called again at once?
    fn is_busy(&self) -> bool {
        false
    }
}

impl<T: Link + ?Sized> Link for &mut T {
    fn send(&mut self, now: Instant, to: NodeSet, frame: &[u8]) -> Poll<()> {
        (**self).send(now, to, frame)
    }

    fn receive(&mut self, now: Instant) -> Option<&[u8]> {
        (**self).receive(now)
    }

    fn is_busy(&self) -> bool {
        (**self).is_busy()
    }
}

/// A link for the async runner.
#[cfg(feature = "async")]
#[allow(async_fn_in_trait)] // As everywhere in embedded Rust: executors do not send tasks to other threads.
pub trait AsyncLink {
    /// Sends a frame to everybody in `to`. A medium that all hear sends it once. What can't be sent is dropped. If the future is
    /// dropped, the frame may have been sent to some, and a part of it is no frame to anybody.
    async fn send(&mut self, to: NodeSet, frame: &[u8]);

    /// The next frame. Dropping the future loses no frame and no part of one that had come.
    async fn receive(&mut self) -> &[u8];
}

#[cfg(feature = "async")]
impl<T: AsyncLink + ?Sized> AsyncLink for &mut T {
    async fn send(&mut self, to: NodeSet, frame: &[u8]) {
        (**self).send(to, frame).await;
    }

    async fn receive(&mut self) -> &[u8] {
        (**self).receive().await
    }
}

/// Whom a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Dest {
    /// Everybody in reach.
    All,
    /// One board; a radio that acknowledges what is for one can repeat it.
    One(NodeId),
}

/// What a packet radio's driver can do, for the blocking runner. Checksums are the radio's: what comes damaged is dropped there.
///
/// ```
/// use core::task::Poll;
/// use quorate_embedded::link::{Dest, Radio};
/// # struct Driver;
/// # impl Driver {
/// #     fn is_sending(&self) -> bool { false }
/// #     fn start_sending(&mut self, _: u16, _: &[u8]) {}
/// #     fn received(&mut self) -> Option<&[u8]> { None }
/// # }
/// struct Ieee802154 { driver: Driver }
///
/// impl Radio for Ieee802154 {
///     fn packet_bytes(&self) -> usize { 116 }
///
///     fn transmit(&mut self, to: Dest, packet: &[u8]) -> Poll<()> {
///         if self.driver.is_sending() {
///             return Poll::Pending;
///         }
///         let address = match to { Dest::All => 0xffff, Dest::One(id) => id.get().into() };
///         self.driver.start_sending(address, packet);
///         Poll::Ready(())
///     }
///
///     fn receive(&mut self, packet: &mut [u8]) -> Option<usize> {
///         let received = self.driver.received()?;
///         packet.get_mut(..received.len())?.copy_from_slice(received);
///         Some(received.len())
///     }
/// }
/// ```
pub trait Radio {
    /// One packet can reach everybody.
    const BROADCAST: bool = true;

    /// The longest packet, in bytes that its user has. A medium that pads packets (CAN-FD above 8 bytes) keeps one of them for the
    /// length.
    fn packet_bytes(&self) -> usize;

    /// Takes a packet to be sent, or is still busy with the last one; what can't be sent is dropped.
    fn transmit(&mut self, to: Dest, packet: &[u8]) -> Poll<()>;

    /// The next packet that has come: its length.
    fn receive(&mut self, packet: &mut [u8]) -> Option<usize>;
}

/// What a packet radio's driver can do, for the async runner.
#[cfg(feature = "async")]
#[allow(async_fn_in_trait)] // As everywhere in embedded Rust: executors do not send tasks to other threads.
pub trait AsyncRadio {
    /// One packet can reach everybody.
    const BROADCAST: bool = true;

    /// As [`Radio::packet_bytes`].
    fn packet_bytes(&self) -> usize;

    /// Sends a packet; what can't be sent is dropped.
    async fn transmit(&mut self, to: Dest, packet: &[u8]);

    /// The next packet: its length. Dropping the future loses no packet.
    async fn receive(&mut self, packet: &mut [u8]) -> usize;
}

/// The next receiver of a frame that is for those in `left`.
fn next_dest(left: NodeSet, broadcast: bool) -> Option<Dest> {
    let first = left.iter().next()?;
    Some(if broadcast && left.len() > 1 { Dest::All } else { Dest::One(first) })
}

/// Who is left when that one was sent to.
fn without(left: NodeSet, dest: Dest) -> NodeSet {
    match dest {
        Dest::All => NodeSet::EMPTY,
        Dest::One(id) => left.difference(NodeSet::one(id)),
    }
}

/// Copies as much as there is room for; how much.
pub(crate) fn copy(to: &mut [u8], from: &[u8]) -> usize {
    let len = to.len().min(from.len());
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    len
}
