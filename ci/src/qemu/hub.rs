//! The serial wire between the boards, kept by the host: what one board says all others hear, one frame at a time and as fast as a wire
//! of 115,200 baud is. Each direction between two boards can be cut, and loses, damages, cuts short, repeats and delays frames.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quorate::wire::{self, Message};
use quorate_embedded::link::Deframer;
use quorate_flash_lab::random::Random;

use crate::tools::{Trouble, at};

/// What a byte takes on the wire.
const BYTE: Duration = Duration::from_nanos(86_806);
/// How often the wire is looked at.
const STEP: Duration = Duration::from_micros(500);
/// A frame that is longer between two zeros is noise.
const RAW_BYTES_MAX: usize = 1024;

/// What a direction does to frames, each in ‰.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) lose: u64,
    pub(super) damage: u64,
    pub(super) shorten: u64,
    pub(super) repeat: u64,
    pub(super) delay: u64,
    /// The longest delay, in ms.
    pub(super) delay_ms: u64,
    /// Nothing comes through.
    pub(super) cut: bool,
}

/// What has happened on the wire.
#[derive(Clone, Default)]
pub(super) struct Counts {
    pub(super) frames: u64,
    pub(super) lost: u64,
    pub(super) damaged: u64,
    pub(super) shortened: u64,
    pub(super) repeated: u64,
    pub(super) delayed: u64,
    pub(super) cut: u64,
    /// Who spoke as the leader of a term: a member and its generation.
    pub(super) leaders: BTreeMap<u64, (u8, u16)>,
    /// What can't be: two leaders in a term.
    pub(super) wrong: Vec<String>,
}

struct Shared {
    /// By sender and receiver.
    faults: Vec<Vec<Faults>>,
    counts: Counts,
    random: Random,
    /// Bytes for a board alone.
    injected: Vec<(usize, Vec<u8>)>,
}

/// A frame on its way.
struct Underway {
    at: Instant,
    to: usize,
    bytes: Vec<u8>,
}

/// The wire.
pub(super) struct Hub {
    shared: Arc<Mutex<Shared>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    sockets: Vec<PathBuf>,
}

impl Hub {
    /// A wire with so many places, each a socket in `folder`.
    pub(super) fn new(places: usize, folder: &Path, seed: u64) -> Result<Self, Trouble> {
        let sockets: Vec<_> = (0..places).map(|n| folder.join(format!("serial-{n}"))).collect();
        let mut lines = Vec::new();
        for path in &sockets {
            let listener = UnixListener::bind(path).map_err(|error| at(path, error))?;
            listener.set_nonblocking(true).map_err(|error| at(path, error))?;
            lines.push(Line { listener, stream: None, raw: Vec::new() });
        }
        let shared = Arc::new(Mutex::new(Shared {
            faults: vec![vec![Faults::default(); places]; places],
            counts: Counts::default(),
            random: Random(seed),
            injected: Vec::new(),
        }));
        let ends = Arc::new(AtomicBool::new(false));
        let (wire, end) = (shared.clone(), ends.clone());
        let thread = thread::spawn(move || run(lines, &wire, &end));
        Ok(Self { shared, ends, thread: Some(thread), sockets })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Where a board plugs in.
    pub(super) fn socket(&self, place: usize) -> &Path {
        &self.sockets[place]
    }

    /// Sets what each direction does; it is told who sends and who receives.
    pub(super) fn set_faults(&self, faults: impl Fn(usize, usize) -> Faults) {
        let mut shared = self.lock();
        for (from, row) in shared.faults.iter_mut().enumerate() {
            row.iter_mut().enumerate().for_each(|(to, place)| *place = faults(from, to));
        }
    }

    /// Gives a command to one board, which the others do not hear.
    pub(super) fn command(&self, place: usize, command: &[u8]) {
        let frame = [&[0xff], command].concat();
        self.lock().injected.push((place, cobs::encode_vec_including_sentinels(&frame)));
    }

    /// What has happened.
    pub(super) fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A board's end of the wire.
struct Line {
    listener: UnixListener,
    stream: Option<UnixStream>,
    /// What came since the last zero.
    raw: Vec<u8>,
}

impl Line {
    /// Whole frames that came, as they were between their zeros.
    fn read(&mut self) -> Vec<Vec<u8>> {
        if let Ok((stream, _)) = self.listener.accept() {
            // The board was started anew: what it was saying is no frame.
            self.raw.clear();
            self.stream = Some(stream).filter(|stream| stream.set_nonblocking(true).is_ok());
        }
        let mut frames = Vec::new();
        let mut bytes = [0; 1024];
        while let Some(stream) = &mut self.stream {
            match stream.read(&mut bytes) {
                Ok(0) => self.stream = None,
                Ok(len) => {
                    for byte in &bytes[..len] {
                        match byte {
                            0 if self.raw.is_empty() => {}
                            0 => frames.push(std::mem::take(&mut self.raw)),
                            _ if self.raw.len() > RAW_BYTES_MAX => self.raw.clear(),
                            byte => self.raw.push(*byte),
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.stream = None,
            }
        }
        frames
    }

    /// What does not go through is lost, as on a wire.
    fn write(&mut self, bytes: &[u8]) {
        if let Some(stream) = &mut self.stream {
            let _ = stream.write_all(bytes);
        }
    }
}

fn framed(raw: &[u8]) -> Vec<u8> {
    [&[0], raw, &[0]].concat()
}

fn run(mut lines: Vec<Line>, shared: &Mutex<Shared>, ends: &AtomicBool) {
    let mut underway: Vec<Underway> = Vec::new();
    let mut free_at = Instant::now();
    while !ends.load(Ordering::Relaxed) {
        let now = Instant::now();
        let mut shared = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (to, bytes) in std::mem::take(&mut shared.injected) {
            lines[to].write(&bytes);
        }
        for from in 0..lines.len() {
            for raw in lines[from].read() {
                shared.counts.frames += 1;
                look(&raw, &mut shared.counts);
                // One speaks at a time.
                free_at = free_at.max(now) + BYTE * (raw.len() as u32 + 2);
                for to in (0..lines.len()).filter(|to| *to != from) {
                    let direction = shared.faults[from][to];
                    send(&raw, to, free_at, direction, &mut shared, &mut underway);
                }
            }
        }
        drop(shared);
        underway.sort_by_key(|frame| frame.at);
        let due = underway.partition_point(|frame| frame.at <= now);
        for frame in underway.drain(..due) {
            lines[frame.to].write(&frame.bytes);
        }
        thread::sleep(STEP);
    }
}

/// Puts a frame on its way in one direction.
fn send(
    raw: &[u8],
    to: usize,
    at: Instant,
    faults: Faults,
    shared: &mut Shared,
    underway: &mut Vec<Underway>,
) {
    let Shared { counts, random, .. } = shared;
    let mut happens = |permille: u64| random.below(1000) < permille;
    if faults.cut {
        counts.cut += 1;
        return;
    }
    if happens(faults.lose) {
        counts.lost += 1;
        return;
    }
    let (damage, shorten) = (happens(faults.damage), happens(faults.shorten));
    let (repeat, delay) = (happens(faults.repeat), happens(faults.delay));
    let mut bytes = framed(raw);
    if damage {
        let place = random.below(bytes.len() as u64) as usize;
        // Never to what it was.
        bytes[place] ^= 1 + random.below(255) as u8;
        counts.damaged += 1;
    }
    if shorten {
        // Its end is missing, and what comes next runs into it.
        bytes.truncate(1 + random.below(raw.len() as u64) as usize);
        counts.shortened += 1;
    }
    let late =
        Duration::from_millis(if delay { 1 + random.below(faults.delay_ms.max(1)) } else { 0 });
    counts.delayed += u64::from(delay);
    if repeat {
        counts.repeated += 1;
        let again = late + Duration::from_millis(1 + random.below(faults.delay_ms.max(1)));
        underway.push(Underway { at: at + again, to, bytes: bytes.clone() });
    }
    underway.push(Underway { at: at + late, to, bytes });
}

/// Sees who leads: whoever sends entries, heartbeats or a snapshot in a term.
fn look(raw: &[u8], counts: &mut Counts) {
    let mut memory = [0; RAW_BYTES_MAX];
    let mut deframer = Deframer::new(&mut memory);
    let mut len = None;
    for byte in framed(raw) {
        len = deframer.push(byte).or(len);
    }
    let Some(Ok(frame)) = len.map(|len| wire::decode(deframer.frame(len))) else {
        return;
    };
    let message = &frame.envelope.message;
    if !matches!(
        message,
        Message::Append { .. } | Message::Heartbeat { .. } | Message::Snapshot { .. }
    ) {
        return;
    }
    let who = (frame.envelope.from.get(), frame.envelope.generation.0);
    let term = message.term().0;
    let known = *counts.leaders.entry(term).or_insert(who);
    if known != who {
        counts.wrong.push(format!("term {term} has two leaders: {known:?} and {who:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::wire::Envelope;
    use quorate::{ClusterId, EntryId, Generation, NodeId, NodeSet, Term};

    /// A heartbeat of that leader's, as it goes over the wire.
    fn heartbeat(leader: u8, term: u64) -> Vec<u8> {
        let envelope = Envelope {
            cluster: ClusterId([1; 4]),
            to: NodeSet::ALL,
            from: NodeId::new(leader).unwrap(),
            generation: Generation(1),
            message: Message::Heartbeat {
                term: Term(term),
                commit: EntryId::ZERO,
                round: 1,
                reply: true,
            },
        };
        let mut frame = [0; 112];
        let head = wire::encode(&envelope, &mut frame).unwrap();
        let len = wire::seal(&mut frame, head).unwrap();
        cobs::encode_vec(&frame[..len])
    }

    #[test]
    fn two_leaders_in_a_term_are_told_and_two_terms_are_none() {
        let mut counts = Counts::default();
        look(&heartbeat(1, 5), &mut counts);
        look(&heartbeat(1, 5), &mut counts);
        look(&heartbeat(2, 6), &mut counts);
        look(&[1, 2, 3], &mut counts);
        assert_eq!((counts.leaders.len(), counts.wrong.len()), (2, 0));
        look(&heartbeat(3, 6), &mut counts);
        assert_eq!(counts.wrong.len(), 1);
    }

    fn plug(hub: &Hub, place: usize) -> UnixStream {
        let stream = UnixStream::connect(hub.socket(place)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// The next frame that comes.
    fn next(stream: &mut UnixStream) -> Vec<u8> {
        let (mut frame, mut byte) = (Vec::new(), [0]);
        loop {
            stream.read_exact(&mut byte).unwrap();
            match byte {
                [0] if frame.is_empty() => {}
                [0] => return frame,
                [byte] => frame.push(byte),
            }
        }
    }

    #[test]
    fn all_others_hear_a_frame_but_who_is_cut_off_and_a_command_is_for_one() {
        let folder = std::env::temp_dir().join(format!("quorate-hub-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let hub = Hub::new(3, &folder, 1).ok().unwrap();
        let [mut a, mut b, mut c] = [0, 1, 2].map(|place| plug(&hub, place));
        // Until the wire has all three, a frame may be lost: each says who it is, and hears the others.
        for line in [&mut b, &mut c] {
            line.write_all(&framed(b"here")).unwrap();
            assert_eq!(next(&mut a), b"here");
        }
        hub.set_faults(|from, to| Faults { cut: (from, to) == (0, 1), ..Faults::default() });
        a.write_all(&framed(b"one")).unwrap();
        while next(&mut c) != b"one" {}
        hub.set_faults(|_, _| Faults::default());
        hub.command(1, b"do");
        a.write_all(&framed(b"two")).unwrap();
        let mut heard = vec![next(&mut b)];
        while heard.last().is_some_and(|frame| frame != b"two") {
            heard.push(next(&mut b));
        }
        let command = cobs::encode_vec(&[&[0xff], &b"do"[..]].concat());
        assert!(heard.contains(&command) && !heard.contains(&b"one".to_vec()), "{heard:?}");
        assert_eq!(next(&mut c), b"two");
        assert_eq!(hub.counts().cut, 1);
        drop(hub);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn each_fault_happens_and_is_counted() {
        let all = Faults {
            lose: 300,
            damage: 300,
            shorten: 300,
            repeat: 300,
            delay: 300,
            delay_ms: 9,
            cut: false,
        };
        let mut shared = Shared {
            faults: vec![],
            counts: Counts::default(),
            random: Random(7),
            injected: vec![],
        };
        let (now, raw, mut underway) = (Instant::now(), heartbeat(1, 5), Vec::new());
        for _ in 0..1000 {
            send(&raw, 1, now, all, &mut shared, &mut underway);
        }
        let counts = &shared.counts;
        let whole = framed(&raw);
        let arrives = 1000 - counts.lost + counts.repeated;
        assert_eq!(underway.len() as u64, arrives);
        let late = underway.iter().filter(|frame| frame.at > now).count() as u64;
        assert!(late >= counts.delayed && late <= counts.delayed + counts.repeated);
        let short = underway.iter().filter(|frame| frame.bytes.len() < whole.len()).count() as u64;
        assert!(short >= counts.shortened && short <= 2 * counts.shortened);
        let damaged = underway.iter().filter(|frame| !whole.starts_with(&frame.bytes)).count();
        assert!(damaged as u64 > counts.damaged / 2);
        let each = [counts.lost, counts.damaged, counts.shortened, counts.repeated, counts.delayed];
        assert!(each.iter().all(|count| (100..500).contains(count)), "{each:?}");
    }
}
