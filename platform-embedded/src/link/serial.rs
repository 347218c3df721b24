//! Serial lines: frames in COBS, with a zero before and behind each.

#[cfg(feature = "async")]
use super::AsyncLink;
use super::Link;
use cobs::{DecodeResult, DecoderState, EncoderState, PushResult};
use core::task::Poll;
use embedded_io::{Read, ReadReady, Write, WriteReady};
use quorate::{Instant, NodeSet};

/// Bytes that are taken from the UART at a time.
const CHUNK_BYTES: usize = 16;
/// Chunks that one call takes at most: noise that never ends must not keep the board from everything else.
const CHUNKS_MAX: usize = 16;
/// How long a shared line has to be quiet before a frame: this, or up to eight times as much.
const QUIET_MS: u32 = 2;

/// Finds frames in a stream of bytes.
///
/// Each frame stands between two zeros, and COBS keeps zeros out of it: a frame that is cut, or hit by noise, or begun before this
/// board was there, ends at the next zero at the latest, and what is between the zeros then is left to the frame's own check.
pub struct Deframer<'a> {
    decoder: DecoderState,
    bytes: &'a mut [u8],
    len: usize,
    /// What has come since the last zero is no frame: longer than any, or a byte of it was lost.
    spoilt: bool,
}

impl<'a> Deframer<'a> {
    /// Puts frames of up to so many bytes together.
    pub const fn new(bytes: &'a mut [u8]) -> Self {
        Self { decoder: DecoderState::Idle, bytes, len: 0, spoilt: false }
    }

    /// Takes a byte; the length of the frame that ends with it. [`Deframer::frame`] has it until the next byte.
    pub fn push(&mut self, byte: u8) -> Option<usize> {
        let mut whole = false;
        match self.decoder.feed(byte) {
            Ok(DecodeResult::DataStart) => self.len = 0,
            Ok(DecodeResult::DataContinue(byte)) => {
                match self.bytes.get_mut(self.len) {
                    Some(place) => *place = byte,
                    None => self.spoilt = true,
                }
                self.len = self.len.saturating_add(1);
            }
            Ok(DecodeResult::DataComplete) => whole = !self.spoilt && self.len > 0,
            Ok(DecodeResult::NoData) | Err(_) => {}
        }
        if byte == 0 {
            self.spoilt = false;
        }
        whole.then_some(self.len)
    }

    /// The frame of that length that has just ended.
    pub fn frame(&self, len: usize) -> &[u8] {
        self.bytes.get(..len).unwrap_or_default()
    }

    /// A byte was lost: what has come since the last zero is no frame.
    pub const fn spoil(&mut self) {
        self.spoilt = true;
    }
}

/// Writes a frame as it goes over a line, with a zero before and behind it; how many bytes, or `None` if there is no room.
pub fn enframe(frame: &[u8], out: &mut [u8]) -> Option<usize> {
    let (first, rest) = out.split_first_mut()?;
    *first = 0;
    let mut encoder = EncoderState::default();
    // Behind the place of the first code.
    let mut at = 1usize;
    let mut open = true;
    for byte in frame {
        if !open {
            at = at.checked_add(1)?;
        }
        open = true;
        let put = match encoder.push(*byte) {
            PushResult::AddSingle(byte) => byte,
            PushResult::ModifyFromStartAndSkip((code_at, code)) => {
                *rest.get_mut(code_at)? = code;
                0
            }
            PushResult::ModifyFromStartAndPushAndSkip((code_at, code, byte)) => {
                *rest.get_mut(code_at)? = code;
                // The place of the next code, unless this was the last byte.
                open = false;
                byte
            }
        };
        *rest.get_mut(at)? = put;
        at = at.checked_add(1)?;
    }
    if open {
        let (code_at, code) = encoder.finalize();
        *rest.get_mut(code_at)? = code;
    }
    *rest.get_mut(at)? = 0;
    at.checked_add(2)
}

/// A serial line, over a UART's `embedded-io` or `embedded-io-async`. All that are on it hear each frame.
///
/// The UART keeps what arrives while the board does something else, in a ring buffer behind an interrupt or DMA. What it can't keep is
/// lost, and costs the frame that it belonged to.
pub struct Serial<'a, U> {
    uart: U,
    deframer: Deframer<'a>,
    /// What has come from the UART and is not looked at yet.
    chunk: [u8; CHUNK_BYTES],
    chunk_at: usize,
    chunk_len: usize,
    /// An encoded frame, and how much of it has gone out.
    out: &'a mut [u8],
    out_at: usize,
    out_len: usize,
    shared: Option<Shared>,
}

/// Manners on a line on which one board speaks at a time.
#[derive(Clone, Copy)]
struct Shared {
    random: u32,
    /// The line has to be quiet until then.
    free_at: Instant,
}

impl Shared {
    fn heard(&mut self, now: Instant) {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let slots = self.random.wrapping_shr(29).wrapping_add(1);
        self.free_at = now.after(QUIET_MS.wrapping_mul(slots));
    }
}

impl<'a, U> Serial<'a, U> {
    /// Bytes that a line takes for frames of up to `frame_bytes`.
    pub const fn memory_bytes(frame_bytes: usize) -> usize {
        cobs::max_encoding_length(frame_bytes).saturating_mul(2).saturating_add(2)
    }

    /// A line between two boards, or one to a hub; `memory` is what [`Serial::memory_bytes`] asks for.
    pub fn new(uart: U, memory: &'a mut [u8]) -> Self {
        // The zeros around a frame stand where it is sent from.
        let (frame, out) = memory.split_at_mut(memory.len().saturating_sub(2) / 2);
        let deframer = Deframer::new(frame);
        let chunk = [0; CHUNK_BYTES];
        Self {
            uart,
            deframer,
            chunk,
            chunk_at: 0,
            chunk_len: 0,
            out,
            out_at: 0,
            out_len: 0,
            shared: None,
        }
    }

    /// A line that several boards share, one speaking at a time (RS-485): a frame waits until the line has been quiet for a while, drawn
    /// with `seed`, which is different on each board. For the blocking runner; an async UART has to do this itself.
    pub fn new_shared(uart: U, memory: &'a mut [u8], seed: u32) -> Self {
        let shared = Shared { random: seed, free_at: Instant::ZERO };
        Self { shared: Some(shared), ..Self::new(uart, memory) }
    }

    /// The UART.
    pub const fn uart(&mut self) -> &mut U {
        &mut self.uart
    }

    /// Takes what is there of the last chunk up to the end of a frame; its length.
    fn next_frame(&mut self) -> Option<usize> {
        let bytes = self.chunk.get(self.chunk_at..self.chunk_len).unwrap_or_default();
        for byte in bytes {
            self.chunk_at = self.chunk_at.saturating_add(1);
            if let Some(len) = self.deframer.push(*byte) {
                return Some(len);
            }
        }
        None
    }

    fn take_chunk(&mut self, len: usize) {
        (self.chunk_at, self.chunk_len) = (0, len.min(CHUNK_BYTES));
    }

    /// Encodes a frame to be sent; one that is too long is dropped.
    fn encode(&mut self, frame: &[u8]) {
        let encoded = enframe(frame, self.out);
        (self.out_at, self.out_len) = (0, encoded.unwrap_or(0));
    }

    fn unsent(&self) -> &[u8] {
        self.out.get(self.out_at..self.out_len).unwrap_or_default()
    }
}

impl<U: Read + ReadReady + Write + WriteReady> Serial<'_, U> {
    /// Writes as much as the UART takes without waiting.
    fn pump(&mut self) {
        while !self.unsent().is_empty() && self.uart.write_ready().unwrap_or(false) {
            let unsent = self.out.get(self.out_at..self.out_len).unwrap_or_default();
            match self.uart.write(unsent) {
                Ok(0) => break,
                Ok(some) => self.out_at = self.out_at.saturating_add(some),
                // The rest would be no frame.
                Err(_) => self.out_len = 0,
            }
        }
    }
}

impl<U: Read + ReadReady + Write + WriteReady> Link for Serial<'_, U> {
    fn send(&mut self, now: Instant, _to: NodeSet, frame: &[u8]) -> Poll<()> {
        self.pump();
        let speaks = self.shared.as_ref().is_some_and(|shared| now < shared.free_at);
        if !self.unsent().is_empty() || speaks {
            return Poll::Pending;
        }
        self.encode(frame);
        self.pump();
        if let Some(shared) = &mut self.shared {
            // Others may have been waiting.
            shared.heard(now);
        }
        Poll::Ready(())
    }

    fn receive(&mut self, now: Instant) -> Option<&[u8]> {
        self.pump();
        let mut chunks = 0usize;
        let len = loop {
            if let Some(len) = self.next_frame() {
                break len;
            }
            if chunks == CHUNKS_MAX {
                return None;
            }
            chunks = chunks.saturating_add(1);
            // An error means that bytes were lost, here or on the wire.
            let read = match self.uart.read_ready() {
                Ok(false) => return None,
                Ok(true) => self.uart.read(&mut self.chunk).map_err(|_| ()),
                Err(_) => Err(()),
            };
            match read {
                Ok(len) => self.take_chunk(len),
                Err(()) => self.deframer.spoil(),
            }
            if let Some(shared) = &mut self.shared {
                shared.heard(now);
            }
            if !matches!(read, Ok(1..)) {
                return None;
            }
        };
        Some(self.deframer.frame(len))
    }

    fn is_busy(&self) -> bool {
        !self.unsent().is_empty()
    }
}

#[cfg(feature = "async")]
impl<U: embedded_io_async::Read + embedded_io_async::Write> AsyncLink for Serial<'_, U> {
    async fn send(&mut self, _to: NodeSet, frame: &[u8]) {
        self.encode(frame);
        while !self.unsent().is_empty() {
            let unsent = self.out.get(self.out_at..self.out_len).unwrap_or_default();
            match self.uart.write(unsent).await {
                Ok(some @ 1..) => self.out_at = self.out_at.saturating_add(some),
                // The rest would be no frame.
                _ => self.out_len = 0,
            }
        }
        let _ = self.uart.flush().await;
    }

    /// As cancel-safe as the UART's `read`: those with a buffer of their own lose nothing.
    async fn receive(&mut self) -> &[u8] {
        let len = loop {
            if let Some(len) = self.next_frame() {
                break len;
            }
            match self.uart.read(&mut self.chunk).await {
                Ok(len @ 1..) => self.take_chunk(len),
                failed => {
                    if failed.is_err() {
                        self.deframer.spoil();
                    }
                    // It may go on like this, and other tasks shall run.
                    embassy_futures::yield_now().await;
                }
            }
        };
        self.deframer.frame(len)
    }
}
