//! Serial lines: noise, cut frames, bytes that come in any pieces.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use core::task::Poll;
use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write, WriteReady};
use proptest::prelude::*;
use quorate::{Instant, NodeSet};
use quorate_embedded::link::{AsyncLink, Deframer, Link, Serial};
use std::collections::VecDeque;

const FRAME_BYTES: usize = 300;

/// What comes over the line.
#[derive(Clone, Debug)]
enum Item {
    Frame(Vec<u8>),
    Noise(Vec<u8>),
    /// A frame that ends after so many of its bytes.
    Cut(Vec<u8>, prop::sample::Index),
    /// A frame of which the first bytes were missed.
    Late(Vec<u8>, prop::sample::Index),
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0u8), any::<u8>(), Just(0xff)];
    prop_oneof![
        prop::collection::vec(byte, 1..40),
        prop::collection::vec(any::<u8>(), 1..=FRAME_BYTES),
        prop::collection::vec(1u8.., 250..=FRAME_BYTES),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    let noise = prop::collection::vec(prop_oneof![any::<u8>(), Just(0u8)], 0..400);
    prop_oneof![
        3 => frame().prop_map(Item::Frame),
        2 => noise.prop_map(Item::Noise),
        1 => (frame(), any::<prop::sample::Index>()).prop_map(|(f, at)| Item::Cut(f, at)),
        1 => (frame(), any::<prop::sample::Index>()).prop_map(|(f, at)| Item::Late(f, at)),
    ]
}

/// The bytes on the line, as a `Serial` writes them.
fn encoded(frame: &[u8]) -> Vec<u8> {
    let mut memory = vec![0; Serial::<Uart>::memory_bytes(FRAME_BYTES)];
    let mut serial = Serial::new(Uart::default(), &mut memory);
    let sent = serial.send(Instant::ZERO, NodeSet::ALL, frame);
    assert_eq!(sent, Poll::Ready(()));
    serial.uart().sent.clone()
}

#[test]
fn it_is_the_coding_that_others_speak_too() {
    for len in (1..600).chain([1016, 1017, 1018]) {
        for zero_every in [1, 3, 254, 255, 1000] {
            let frame: Vec<u8> =
                (1..=len).map(|at| if at % zero_every == 0 { 0 } else { at as u8 | 1 }).collect();
            let mut memory = vec![0; Serial::<Uart>::memory_bytes(len)];
            let mut serial = Serial::new(Uart::default(), &mut memory);
            assert!(serial.send(Instant::ZERO, NodeSet::ALL, &frame).is_ready());
            let mut expected = vec![0; len + len / 254 + 3];
            let count = cobs::encode_including_sentinels(&frame, &mut expected);
            assert_eq!(serial.uart().sent, expected[..count], "{len} {zero_every}");
        }
    }
}

/// The line's bytes, and the frames that are whole in them.
fn line(items: &[Item]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut bytes, mut frames) = (vec![], vec![]);
    for item in items {
        match item {
            Item::Frame(frame) => {
                bytes.extend(encoded(frame));
                frames.push(frame.clone());
            }
            Item::Noise(noise) => bytes.extend(noise),
            Item::Cut(frame, at) => {
                let whole = encoded(frame);
                bytes.extend(&whole[..at.index(whole.len())]);
            }
            Item::Late(frame, at) => {
                let whole = encoded(frame);
                bytes.extend(&whole[1 + at.index(whole.len() - 1)..]);
            }
        }
    }
    (bytes, frames)
}

fn is_subsequence(part: &[Vec<u8>], all: &[Vec<u8>]) -> bool {
    let mut all = all.iter();
    part.iter().all(|one| all.any(|other| other == one))
}

/// A UART with a buffer, which must not be read or written when it would wait.
#[derive(Default)]
struct Uart {
    /// `None` is an error: a byte that was lost.
    comes: VecDeque<Option<u8>>,
    sent: Vec<u8>,
    /// How many bytes it takes before it is full; `None` for any.
    room: Option<usize>,
    /// At most so many at a time.
    piece: usize,
}

impl ErrorType for Uart {
    type Error = ErrorKind;
}

impl Read for Uart {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, ErrorKind> {
        assert!(!self.comes.is_empty(), "it would wait");
        let mut count = 0;
        while count < bytes.len().min(self.piece.max(1)) {
            match self.comes.front() {
                Some(Some(byte)) => bytes[count] = *byte,
                Some(None) if count == 0 => {
                    self.comes.pop_front();
                    return Err(ErrorKind::Other);
                }
                _ => break,
            }
            self.comes.pop_front();
            count += 1;
        }
        Ok(count)
    }
}

impl ReadReady for Uart {
    fn read_ready(&mut self) -> Result<bool, ErrorKind> {
        Ok(!self.comes.is_empty())
    }
}

impl Write for Uart {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let some = bytes.len().min(self.room.unwrap_or(usize::MAX));
        assert!(some > 0, "it would wait");
        self.sent.extend(&bytes[..some]);
        self.room = self.room.map(|room| room - some);
        Ok(some)
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

impl WriteReady for Uart {
    fn write_ready(&mut self) -> Result<bool, ErrorKind> {
        Ok(self.room != Some(0))
    }
}

proptest! {
    #[test]
    fn whole_frames_come_through_whatever_is_around_them(
        items in prop::collection::vec(item(), 0..12),
    ) {
        let (bytes, frames) = line(&items);
        let mut memory = vec![0; FRAME_BYTES];
        let mut deframer = Deframer::new(&mut memory);
        let mut got = vec![];
        for byte in bytes {
            if let Some(len) = deframer.push(byte) {
                got.push(deframer.frame(len).to_vec());
            }
        }
        prop_assert!(is_subsequence(&frames, &got), "{:?} in {:?}", frames, got);
        prop_assert!(got.iter().all(|frame| !frame.is_empty() && frame.len() <= FRAME_BYTES));
    }

    #[test]
    fn a_uart_is_read_when_it_has_something_and_never_waited_for(
        items in prop::collection::vec(item(), 0..8),
        piece in 1usize..40,
        pieces in prop::collection::vec(1usize..200, 1..40),
    ) {
        let (bytes, frames) = line(&items);
        let mut memory = vec![0; Serial::<Uart>::memory_bytes(FRAME_BYTES)];
        let mut serial = Serial::new(Uart { piece, ..Uart::default() }, &mut memory);
        let (mut rest, mut got) = (&bytes[..], vec![]);
        for count in pieces.into_iter().cycle() {
            let (now, later) = rest.split_at(count.min(rest.len()));
            serial.uart().comes.extend(now.iter().map(|byte| Some(*byte)));
            rest = later;
            while !serial.uart().comes.is_empty() {
                while let Some(frame) = serial.receive(Instant::ZERO) {
                    got.push(frame.to_vec());
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(is_subsequence(&frames, &got), "{:?} in {:?}", frames, got);
    }

    #[test]
    fn a_full_uart_gets_the_frame_piece_by_piece(
        sent in prop::collection::vec(frame(), 1..5),
        rooms in prop::collection::vec(1usize..50, 1..20),
    ) {
        let mut memory = vec![0; Serial::<Uart>::memory_bytes(FRAME_BYTES)];
        let uart = Uart { room: Some(0), ..Uart::default() };
        let mut serial = Serial::new(uart, &mut memory);
        let mut rooms = rooms.into_iter().cycle();
        for frame in &sent {
            let mut pending = 0;
            while serial.send(Instant::ZERO, NodeSet::ALL, frame).is_pending() {
                pending += 1;
                prop_assert!(pending < 1000);
                serial.uart().room = rooms.next();
            }
        }
        while serial.is_busy() {
            serial.uart().room = rooms.next();
            prop_assert!(serial.receive(Instant::ZERO).is_none());
        }
        let (bytes, _) = line(&sent.into_iter().map(Item::Frame).collect::<Vec<_>>());
        prop_assert_eq!(&serial.uart().sent, &bytes);
    }

    #[test]
    fn a_lost_byte_costs_the_frame_it_belonged_to_and_no_other(
        sent in prop::collection::vec(frame(), 3),
        at in any::<prop::sample::Index>(),
    ) {
        let mut memory = vec![0; Serial::<Uart>::memory_bytes(FRAME_BYTES)];
        let mut serial = Serial::new(Uart { piece: 16, ..Uart::default() }, &mut memory);
        for (n, frame) in sent.iter().enumerate() {
            let mut bytes: Vec<_> = encoded(frame).into_iter().map(Some).collect();
            if n == 1 {
                // Not the zeros around it: they are frames' ends.
                let at = 1 + at.index(bytes.len() - 2);
                bytes[at] = None;
            }
            serial.uart().comes.extend(bytes);
        }
        let mut got = vec![];
        while !serial.uart().comes.is_empty() {
            while let Some(frame) = serial.receive(Instant::ZERO) {
                got.push(frame.to_vec());
            }
        }
        prop_assert_eq!(got, [sent[0].clone(), sent[2].clone()]);
    }
}

#[test]
fn what_is_longer_than_a_frame_is_dropped_on_both_ways() {
    let mut memory = vec![0; Serial::<Uart>::memory_bytes(40)];
    let mut serial = Serial::new(Uart { piece: 16, ..Uart::default() }, &mut memory);
    assert_eq!(serial.send(Instant::ZERO, NodeSet::ALL, &[1; 41]), Poll::Ready(()));
    assert!(serial.uart().sent.is_empty());
    serial.uart().comes.extend(encoded(&[1; 42]).into_iter().map(Some));
    serial.uart().comes.extend(encoded(&[2; 40]).into_iter().map(Some));
    while !serial.uart().comes.is_empty() {
        if let Some(frame) = serial.receive(Instant::ZERO) {
            assert_eq!(frame, [2; 40]);
            return;
        }
    }
    panic!("it did not come");
}

#[test]
fn on_a_shared_line_a_frame_waits_until_it_has_been_quiet() {
    let at = Instant::from_millis;
    let mut memory = vec![0; Serial::<Uart>::memory_bytes(40)];
    let mut serial = Serial::new_shared(Uart { piece: 16, ..Uart::default() }, &mut memory, 3);
    // Another board speaks until 100 ms.
    for ms in 0..=100 {
        serial.uart().comes.push_back(Some(7));
        serial.receive(at(ms));
        assert!(serial.send(at(ms), NodeSet::ALL, &[1; 8]).is_pending());
    }
    let sent = (100..200).find(|ms| serial.send(at(*ms), NodeSet::ALL, &[1; 8]).is_ready());
    assert!(sent.is_some_and(|ms| (102..=116).contains(&ms)), "{sent:?}");
    // And again behind its own frame, for others to have their turn.
    assert!(serial.send(at(sent.unwrap()), NodeSet::ALL, &[1; 8]).is_pending());
}

/// The same line for the async link: a byte each time it is polled twice.
#[derive(Default)]
struct AsyncUart {
    comes: VecDeque<u8>,
    ready: bool,
    sent: Vec<u8>,
}

impl ErrorType for AsyncUart {
    type Error = ErrorKind;
}

impl embedded_io_async::Read for AsyncUart {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, ErrorKind> {
        core::future::poll_fn(|_| {
            self.ready = !self.ready;
            match self.comes.front() {
                Some(byte) if self.ready => {
                    bytes[0] = *byte;
                    self.comes.pop_front();
                    Poll::Ready(Ok(1))
                }
                _ => Poll::Pending,
            }
        })
        .await
    }
}

impl embedded_io_async::Write for AsyncUart {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.sent.extend(&bytes[..bytes.len().min(7)]);
        Ok(bytes.len().min(7))
    }
    async fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

#[test]
fn a_wait_for_a_frame_that_is_dropped_loses_no_byte_of_it() {
    let sent: Vec<Vec<u8>> = (1..20).map(|n| vec![n; usize::from(n) * 7]).collect();
    let comes = sent.iter().flat_map(|frame| encoded(frame)).collect();
    let mut memory = vec![0; Serial::<AsyncUart>::memory_bytes(FRAME_BYTES)];
    let mut serial = Serial::new(AsyncUart { comes, ..AsyncUart::default() }, &mut memory);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut got: Vec<Vec<u8>> = vec![];
    for _ in 0..10_000 {
        // Polled once, and dropped.
        let receiving = core::pin::pin!(serial.receive());
        if let Poll::Ready(frame) = receiving.poll(&mut context) {
            got.push(frame.to_vec());
        }
    }
    assert_eq!(got, sent);
}

#[test]
fn both_links_put_the_same_bytes_on_the_line() {
    let mut memory = vec![0; Serial::<AsyncUart>::memory_bytes(FRAME_BYTES)];
    let mut serial = Serial::new(AsyncUart::default(), &mut memory);
    let mut expected = vec![];
    for len in [1, 7, 254, FRAME_BYTES] {
        let frame: Vec<u8> = (0..len).map(|at| at as u8).collect();
        embassy_futures::block_on(AsyncLink::send(&mut serial, NodeSet::ALL, &frame));
        expected.extend(encoded(&frame));
    }
    assert_eq!(serial.uart().sent, expected);
}
