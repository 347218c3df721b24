//! Commands that come by the wire to this board alone: for tests and for whoever has no button. A frame that begins with [`MARK`] is no
//! frame of the cluster; the rest of it is a command, encoded.

use core::task::Poll;

use heapless::Vec;
use quorate::{Instant, NodeSet};
use quorate_apps::COMMAND_BYTES;
use quorate_embedded::link::Link;

/// No version of the wire format begins like that.
const MARK: u8 = 0xff;

/// A link that keeps such commands to itself.
pub struct Console<L> {
    link: L,
    command: Vec<u8, COMMAND_BYTES>,
}

impl<L> Console<L> {
    pub const fn new(link: L) -> Self {
        Self { link, command: Vec::new() }
    }

    /// The command that has come last.
    pub fn command(&self) -> Option<Vec<u8, COMMAND_BYTES>> {
        Some(&self.command).filter(|command| !command.is_empty()).cloned()
    }

    /// It is dealt with.
    pub fn clear(&mut self) {
        self.command.clear();
    }
}

impl<L: Link> Link for Console<L> {
    fn send(&mut self, now: Instant, to: NodeSet, frame: &[u8]) -> Poll<()> {
        self.link.send(now, to, frame)
    }

    fn receive(&mut self, now: Instant) -> Option<&[u8]> {
        let frame = self.link.receive(now)?;
        let Some((&MARK, command)) = frame.split_first() else {
            return Some(frame);
        };
        if self.command.is_empty() {
            // One that is too long is dropped.
            let _ = self.command.extend_from_slice(command);
        }
        None
    }

    fn is_busy(&self) -> bool {
        self.link.is_busy()
    }
}

/// A command that has come to the async runner's board.
#[cfg(feature = "async")]
pub static COMMAND: embassy_sync::signal::Signal<
    embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex,
    Vec<u8, COMMAND_BYTES>,
> = embassy_sync::signal::Signal::new();

#[cfg(feature = "async")]
impl<L: quorate_embedded::link::AsyncLink> quorate_embedded::link::AsyncLink for Console<L> {
    async fn send(&mut self, to: NodeSet, frame: &[u8]) {
        self.link.send(to, frame).await;
    }

    async fn receive(&mut self) -> &[u8] {
        let frame = self.link.receive().await;
        match frame.split_first() {
            Some((&MARK, command)) => {
                if let Ok(command) = Vec::from_slice(command) {
                    COMMAND.signal(command);
                }
                // No frame to the node: it is counted and forgotten.
                &[]
            }
            _ => frame,
        }
    }
}
