//! The load: clients that each send a request and wait for its answer, over connections that stay open. One and the same for
//! every server: what it sends is made before, and of an answer it reads the status and how long it is.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// Keys that are written, again and again.
const KEYS: usize = 1_000;
const VALUE_BYTES: usize = 256;
/// Each key in turn, with four values, so that no write repeats what is there.
const REQUESTS: usize = 4 * KEYS;
/// No answer takes as long.
const SILENCE_MAX: Duration = Duration::from_secs(20);
const HEADERS_MAX: usize = 32;

/// Whose HTTP is spoken: the JSON of each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum System {
    Quorate,
    Etcd,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Put,
    /// Linearizable.
    Get,
}

/// What clients send, each from another place on, round and round.
pub(super) struct Requests(Vec<Vec<u8>>);

impl Requests {
    pub(super) fn new(system: System, kind: Kind) -> Self {
        let request = |number| {
            let key = format!("bench-{:010}", number % KEYS);
            let value = value(number);
            let in_base64 = |text: &str| BASE64_STANDARD.encode(text);
            match (system, kind) {
                (System::Quorate, Kind::Put) => {
                    let body = format!("{{\"value\":\"{value}\"}}");
                    encode("PUT", &format!("/v1/keys/{key}"), &body)
                }
                (System::Quorate, Kind::Get) => encode("GET", &format!("/v1/keys/{key}"), ""),
                (System::Etcd, Kind::Put) => {
                    let (key, value) = (in_base64(&key), in_base64(&value));
                    let body = format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}");
                    encode("POST", "/v3/kv/put", &body)
                }
                (System::Etcd, Kind::Get) => {
                    let body = format!("{{\"key\":\"{}\"}}", in_base64(&key));
                    encode("POST", "/v3/kv/range", &body)
                }
            }
        };
        Self((0..REQUESTS).map(request).collect())
    }

    /// Sends one for each key, by a single client.
    pub(super) fn send_for_all_keys(&self, to: SocketAddr) -> io::Result<()> {
        let mut connection = Connection::open(to)?;
        self.0.iter().take(KEYS).try_for_each(|request| connection.ask(request).map(|_| ()))
    }
}

/// Letters and digits, other ones for each number.
fn value(number: usize) -> String {
    let mut state = number as u64;
    let letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        char::from(
            b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZab"
                [(state >> 58) as usize],
        )
    };
    (0..VALUE_BYTES).map(letter).collect()
}

pub(super) fn encode(method: &str, path: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A connection that stays open.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, SILENCE_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        Ok(Self { stream, buffer: Vec::with_capacity(1 << 14) })
    }

    /// Sends a request; the answer's body, if it tells of success.
    pub(super) fn ask(&mut self, request: &[u8]) -> io::Result<&[u8]> {
        self.stream.write_all(request)?;
        self.buffer.clear();
        let mut chunk = [0; 1 << 14];
        loop {
            if let Some((status, begin, end)) = look(&self.buffer)?
                && self.buffer.len() >= end
            {
                let body = &self.buffer[begin..end];
                if !(200..300).contains(&status) {
                    let body = String::from_utf8_lossy(body);
                    return Err(io::Error::other(format!("answered with {status}: {body}")));
                }
                return Ok(body);
            }
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                bytes => self.buffer.extend_from_slice(&chunk[..bytes]),
            }
        }
    }
}

/// The status, and from where to where the body goes, once all headers are there.
fn look(bytes: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(begin) = response.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let status = response.code.unwrap_or_default();
    let len = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let len = len.and_then(|len| std::str::from_utf8(len.value).ok()?.parse::<usize>().ok());
    let len = len.ok_or_else(|| io::Error::other("an answer does not tell its length"))?;
    Ok(Some((status, begin, begin + len)))
}

/// What clients saw.
#[derive(Clone, Default)]
pub(super) struct Seen {
    /// That it was looked at.
    pub(super) seconds: f64,
    /// From each request to its answer, ascending.
    micros: Vec<u32>,
    /// Answers, also those while it was warming up.
    pub(super) answers: u64,
}

impl Seen {
    pub(super) fn counted(&self) -> u64 {
        self.micros.len() as u64
    }

    pub(super) fn per_second(&self) -> f64 {
        self.micros.len() as f64 / self.seconds
    }

    /// So many of a hundred took no longer, in milliseconds.
    pub(super) fn percentile(&self, percent: usize) -> f64 {
        let at = (self.micros.len() * percent).div_ceil(100).saturating_sub(1);
        self.micros.get(at).map_or(f64::NAN, |micros| f64::from(*micros) / 1e3)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.answers += other.answers;
        self.micros.extend(&other.micros);
        self.micros.sort_unstable();
    }
}

/// Puts the load of that many clients on a server, at first for a while that does not count.
pub(super) fn put_on(
    to: SocketAddr,
    requests: &Requests,
    clients: usize,
    (warm_up, counted): (Duration, Duration),
) -> io::Result<Seen> {
    let connections: Vec<_> =
        (0..clients).map(|_| Connection::open(to)).collect::<Result<_, _>>()?;
    let from = Instant::now() + warm_up;
    let until = from + counted;
    let client = |number: usize, mut connection: Connection| -> io::Result<(u64, Vec<u32>)> {
        let (mut answers, mut micros) = (0, Vec::new());
        let first = number * requests.0.len() / clients;
        for request in requests.0.iter().cycle().skip(first) {
            let sent = Instant::now();
            if sent >= until {
                break;
            }
            connection.ask(request)?;
            let answered = Instant::now();
            answers += 1;
            if sent >= from && answered <= until {
                micros.push(u32::try_from((answered - sent).as_micros()).unwrap_or(u32::MAX));
            }
        }
        Ok((answers, micros))
    };
    let mut seen = Seen { seconds: counted.as_secs_f64(), ..Seen::default() };
    thread::scope(|scope| {
        let client = &client;
        let clients = connections.into_iter().enumerate();
        let clients: Vec<_> =
            clients.map(|(number, open)| scope.spawn(move || client(number, open))).collect();
        for client in clients {
            let ended = client.join().unwrap_or_else(|_| Err(io::Error::other("a client is gone")));
            let (answers, micros) = ended?;
            seen.answers += answers;
            seen.micros.extend(micros);
        }
        seen.micros.sort_unstable();
        Ok(seen)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_least_that_so_many_do_not_exceed() {
        let seen = Seen { micros: (1..=200).map(|ms| ms * 1000).collect(), ..Seen::default() };
        assert_eq!(
            [50, 90, 99, 100].map(|percent| seen.percentile(percent)),
            [100.0, 180.0, 198.0, 200.0]
        );
        let one = Seen { micros: vec![7000], ..Seen::default() };
        assert_eq!([50, 99].map(|percent| one.percentile(percent)), [7.0, 7.0]);
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        let answer = b"HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(look(answer).unwrap(), Some((204, 46, 49)));
        assert_eq!(look(&answer[..40]).unwrap(), None);
        assert!(look(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(look(b"garbage\r\n\r\n").is_err());
    }
}
