//! A serial line to a wire of boards: the frames of `quorate_embedded::link::Serial`, over a device, or over a socket as
//! emulators have it. Everybody on the wire hears each frame, and one speaks at a time.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quorate::config::Link;
use quorate::plan;

use quorate_embedded::link::{Deframer, Serial, enframe};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_serial::SerialPortBuilderExt;

use super::{Arrived, Task};

/// Frames behind the one on the line: more of them would be old before they are sent.
const LANE_MAX: usize = 1;
/// A frame that found the line busy for so long is old.
const PATIENCE: Duration = Duration::from_millis(250);
const AGAIN: Duration = Duration::from_millis(500);
const FRAME_BYTES_MAX: usize = u16::MAX as usize;
const BAUD: u32 = 115_200;
/// How long the line has to be quiet before a frame: this, or up to eight times as much, as boards wait.
const QUIET: Duration = Duration::from_millis(2);

/// Where a wire is: `DEVICE[@BAUD]`, `unix:PATH` or `tcp:HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireAddress {
    /// A serial device.
    Device {
        /// Its path.
        path: String,
        /// Its rate.
        baud: u32,
    },
    /// A socket that stands for the line.
    Unix(String),
    /// The same, at `HOST:PORT`.
    Tcp(String),
}

impl FromStr for WireAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        if let Some(address) = text.strip_prefix("tcp:") {
            return Ok(Self::Tcp(address.into()));
        }
        let (path, baud) = match text.split_once('@') {
            Some((path, baud)) => {
                (path, baud.parse().map_err(|_| format!("{baud:?} is no number of baud"))?)
            }
            None => (text, BAUD),
        };
        if path.is_empty() {
            return Err("a wire is DEVICE[@BAUD], unix:PATH or tcp:HOST:PORT".into());
        }
        Ok(Self::Device { path: path.into(), baud })
    }
}

impl fmt::Display for WireAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { path, baud } => write!(f, "{path}@{baud}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// A wire of boards.
#[derive(Debug)]
pub struct Wire {
    lane: mpsc::Sender<Vec<u8>>,
    _task: Task,
}

impl Wire {
    /// Opens it, and opens it again whenever it is lost. `link` is what the wire is like; without it, a device is as its rate says, and a
    /// socket takes what comes.
    pub fn open(address: WireAddress, link: Option<Link>, arrived: mpsc::Sender<Arrived>) -> Self {
        let link = link.or(match &address {
            WireAddress::Device { baud, .. } => Some(plan::serial(*baud)),
            WireAddress::Unix(_) | WireAddress::Tcp(_) => None,
        });
        let (lane, frames) = mpsc::channel(LANE_MAX);
        Self { lane, _task: Task::spawn(keep_open(address, link, frames, arrived)) }
    }

    /// Never waits: what there is no room for is dropped, and `false`.
    pub(super) fn send(&self, frame: &[u8]) -> bool {
        let mut bytes = vec![0; Serial::<()>::memory_bytes(frame.len())];
        let len = enframe(frame, &mut bytes);
        bytes.truncate(len.unwrap_or(0));
        len.is_some() && self.lane.try_send(bytes).is_ok()
    }

    /// Is there room for a frame?
    pub(super) fn has_room(&self) -> bool {
        self.lane.capacity() > 0
    }

    /// Until there is.
    pub(super) async fn room(&self) {
        // The task lives as long as this does.
        let _ = self.lane.reserve().await;
    }
}

async fn keep_open(
    address: WireAddress,
    link: Option<Link>,
    mut frames: mpsc::Receiver<Vec<u8>>,
    arrived: mpsc::Sender<Arrived>,
) {
    let mut told = String::new();
    loop {
        let ended = match &address {
            WireAddress::Device { path, baud } => {
                match tokio_serial::new(path, *baud).open_native_async() {
                    Ok(port) => serve(port, link, &mut frames, &arrived).await,
                    Err(error) => error.into(),
                }
            }
            WireAddress::Tcp(at) => match without(&mut frames, TcpStream::connect(at)).await {
                Ok(stream) => {
                    // A line that waits for more to send is only slower.
                    let _ = stream.set_nodelay(true);
                    serve(stream, link, &mut frames, &arrived).await
                }
                Err(error) => error,
            },
            #[cfg(unix)]
            WireAddress::Unix(path) => match tokio::net::UnixStream::connect(path).await {
                Ok(stream) => serve(stream, link, &mut frames, &arrived).await,
                Err(error) => error,
            },
            #[cfg(not(unix))]
            WireAddress::Unix(_) => io::ErrorKind::Unsupported.into(),
        };
        if told != ended.to_string() {
            told = ended.to_string();
            tracing::warn!(wire = %address, "no wire: {told}");
        }
        without(&mut frames, tokio::time::sleep(AGAIN)).await;
    }
}

/// Until that is done, while there is no line: frames are lost, and the node does not wait for them.
async fn without<T>(frames: &mut mpsc::Receiver<Vec<u8>>, done: impl Future<Output = T>) -> T {
    tokio::pin!(done);
    loop {
        tokio::select! {
            done = &mut done => return done,
            Some(_) = frames.recv() => {}
        }
    }
}

/// When a line that others speak on is free.
struct Manners {
    link: Option<Link>,
    free_at: Mutex<Instant>,
}

impl Manners {
    fn new(link: Option<Link>) -> Self {
        Self { link, free_at: Mutex::new(Instant::now()) }
    }

    fn free_at(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.free_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody speaks, or has just spoken.
    fn heard(&self) {
        // Each waits for another time, or two begin at once again and again.
        let slots = getrandom::u32().unwrap_or(0) % 8 + 1;
        *self.free_at() = Instant::now() + QUIET * slots;
    }

    /// Until this node may speak; `false` if that takes too long.
    async fn turn(&self) -> bool {
        let late = Instant::now() + PATIENCE;
        loop {
            let (free_at, now) = (*self.free_at(), Instant::now());
            if self.link.is_none() || free_at <= now {
                return true;
            }
            if now >= late {
                return false;
            }
            tokio::time::sleep_until(free_at).await;
        }
    }

    /// For as long as the frame takes on the line, which has a buffer in front of it.
    async fn spoke(&self, bytes: usize) {
        if let Some(link) = &self.link {
            let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
            tokio::time::sleep(Duration::from_micros(link.air_us(bytes).into())).await;
            // Others may have been waiting.
            self.heard();
        }
    }
}

/// Until the line is lost.
async fn serve(
    line: impl AsyncRead + AsyncWrite,
    link: Option<Link>,
    frames: &mut mpsc::Receiver<Vec<u8>>,
    arrived: &mpsc::Sender<Arrived>,
) -> io::Error {
    let (read, write) = tokio::io::split(line);
    let manners = Manners::new(link);
    tokio::select! {
        error = receive(read, &manners, arrived) => error,
        error = send(write, &manners, frames) => error,
    }
}

async fn receive(
    mut read: impl AsyncRead + Unpin,
    manners: &Manners,
    arrived: &mpsc::Sender<Arrived>,
) -> io::Error {
    let mut memory = vec![0; FRAME_BYTES_MAX];
    let mut deframer = Deframer::new(&mut memory);
    let mut bytes = [0; 1024];
    loop {
        let len = match read.read(&mut bytes).await {
            Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(len) => len,
            Err(error) => return error,
        };
        manners.heard();
        for byte in &bytes[..len] {
            let Some(len) = deframer.push(*byte) else { continue };
            let frame = deframer.frame(len).to_vec();
            if arrived.send(Arrived::Frame(frame)).await.is_err() {
                return io::ErrorKind::BrokenPipe.into();
            }
        }
    }
}

async fn send(
    mut write: impl AsyncWrite + Unpin,
    manners: &Manners,
    frames: &mut mpsc::Receiver<Vec<u8>>,
) -> io::Error {
    while let Some(frame) = frames.recv().await {
        if !manners.turn().await {
            continue;
        }
        let written = async {
            write.write_all(&frame).await?;
            write.flush().await
        };
        if let Err(error) = written.await {
            return error;
        }
        manners.spoke(frame.len()).await;
    }
    io::ErrorKind::BrokenPipe.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_shown() {
        let device = |path: &str, baud| WireAddress::Device { path: path.into(), baud };
        for (text, address) in [
            ("/dev/ttyUSB0@9600", device("/dev/ttyUSB0", 9600)),
            ("unix:run/q.sock", WireAddress::Unix("run/q.sock".into())),
            ("tcp:127.0.0.1:4444", WireAddress::Tcp("127.0.0.1:4444".into())),
        ] {
            assert_eq!(text.parse(), Ok(address.clone()));
            assert_eq!(address.to_string(), text);
        }
        assert_eq!("COM3".parse(), Ok(device("COM3", BAUD)));
        assert!("@9600".parse::<WireAddress>().is_err());
        assert!("/dev/ttyUSB0@fast".parse::<WireAddress>().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_has_to_be_quiet_before_a_frame_and_one_that_never_is_gets_none() {
        let manners = Manners::new(Some(plan::serial(BAUD)));
        let begun = Instant::now();
        assert!(manners.turn().await);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for _ in 0..50 {
            manners.heard();
            let heard = Instant::now();
            assert!(manners.turn().await);
            let waited = heard.elapsed();
            assert!(
                QUIET <= waited && waited <= QUIET * 8 + Duration::from_millis(1),
                "{waited:?}"
            );
        }
        let babbles = async {
            loop {
                manners.heard();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        manners.heard();
        tokio::select! {
            () = babbles => {}
            turn = manners.turn() => assert!(!turn),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_takes_as_long_as_on_the_line_and_the_next_one_waits() {
        let link = plan::serial(BAUD);
        let (near, mut far) = tokio::io::duplex(1024);
        let (lane, mut frames) = mpsc::channel(2);
        let (arrived, _arrivals) = super::super::arrivals();
        let (mut ends, begun) = ([Duration::ZERO; 2], Instant::now());
        for _ in 0..2 {
            lane.try_send(vec![7; 100]).unwrap();
        }
        let reads = async {
            for end in &mut ends {
                far.read_exact(&mut [0; 100]).await.unwrap();
                *end = begun.elapsed();
            }
        };
        tokio::select! {
            error = serve(near, Some(link), &mut frames, &arrived) => panic!("{error}"),
            () = reads => {}
        }
        let air = Duration::from_micros(link.air_us(100).into());
        assert!(ends[1] - ends[0] >= air + QUIET, "{ends:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_line_that_is_not_there() {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = WireAddress::Tcp(gone.local_addr().unwrap().to_string());
        drop(gone);
        let (arrived, _arrivals) = super::super::arrivals();
        let wire = Wire::open(address, None, arrived);
        let begun = Instant::now();
        for _ in 0..20 {
            wire.room().await;
            assert!(wire.has_room() && wire.send(&[1]));
            assert!(!wire.has_room() && !wire.send(&[2]));
        }
        assert!(begun.elapsed() < AGAIN, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn frames_cross_a_wire_through_noise_and_a_lost_line() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = WireAddress::Tcp(listener.local_addr().unwrap().to_string());
        let (arrived, mut arrivals) = super::super::arrivals();
        let wire = Wire::open(address, None, arrived);
        for round in 0..2u8 {
            let (mut board, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 64];
            let frame = [round, 0, 2, 0, 0];
            let len = enframe(&frame, &mut bytes).unwrap();
            // Half a frame of before, then a whole one.
            board.write_all(b"noise").await.unwrap();
            board.write_all(&bytes[..len]).await.unwrap();
            match arrivals.recv().await {
                Some(Arrived::Frame(got)) => assert_eq!(got, frame),
                other => panic!("{other:?}"),
            }
            wire.send(&frame);
            let mut sent = vec![0; len];
            board.read_exact(&mut sent).await.unwrap();
            assert_eq!(sent, bytes[..len]);
        }
    }
}
