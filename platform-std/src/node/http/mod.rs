//! The HTTP side of a node: the interface of etcd's raftexample at `/KEY`, a JSON API at `/v1/…`, health and metrics. The page about
//! it is `platform-std/docs/http.md`.

mod api;
mod body;
mod copies;
mod example;
mod members;
mod metrics;
mod places;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_io_timeout::TimeoutStream;

use super::Handle;
use places::{Places, Seated};

/// More than any command takes, also where each of its bytes is six in JSON, and as much again: a body that is not read to its end may cost
/// its sender the answer, which is a reset then.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Half of the descriptors that a process usually has.
const CONNECTIONS_MAX: usize = 512;
/// How long the head of a request may take, from the end of the request before it: whoever is silent for longer gives its place to others.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// How long the body of a request may take, from the end of its head.
const BODY_MAX: Duration = Duration::from_secs(30);
/// How long nothing of an answer may be taken, while there is more of it.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// How long a request waits for the cluster, if it does not say so itself.
const WITHIN: Duration = Duration::from_secs(5);
const WITHIN_MAX: Duration = Duration::from_secs(60);
/// Copies of the flash at a time.
const COPIES_MAX: usize = 4;

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    connections_max: usize,
    head_max: Duration,
    body_max: Duration,
    taken_within: Duration,
    copies_max: usize,
}

impl Server {
    /// Listens there.
    ///
    /// # Errors
    /// The address is in use, or none of this machine's.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            listener,
            connections_max: CONNECTIONS_MAX,
            head_max: HEAD_MAX,
            body_max: BODY_MAX,
            taken_within: TAKEN_WITHIN,
            copies_max: COPIES_MAX,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves the node until `stop` is done, and what is under way then to its end. Watches end at once: they have no end of their own.
    pub async fn serve(self, node: Handle, stop: impl Future<Output = ()> + Send + 'static) {
        let (serves, stopping) = watch::channel(());
        let app = Router::new()
            .nest("/v1", api::routes())
            .route("/v1/", any(api::nothing))
            .route("/health", get(metrics::health))
            .route("/metrics", get(metrics::metrics))
            .fallback(example::serve)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .layer(Extension(Stopping(stopping)))
            .layer(Extension(body::Within(self.body_max)))
            .layer(Extension(copies::Copies::new(self.copies_max)))
            .with_state(node);
        let app = TowerToHyperService::new(app);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(self.head_max);
        let mut places = Places::new(self.listener, self.connections_max);
        let connections = GracefulShutdown::new();
        let mut stop = pin!(stop);
        loop {
            let Seated { stream, place } = tokio::select! {
                seated = places.accept() => seated,
                () = &mut stop => break,
            };
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(self.taken_within));
            let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), app.clone());
            let connection = connections.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!("an HTTP connection ended: {error}");
                }
                drop(place);
            });
        }
        // Who comes now is turned away, and waits for nobody.
        drop(places);
        drop(serves);
        connections.shutdown().await;
    }
}

/// When the server is to stop.
#[derive(Clone)]
struct Stopping(watch::Receiver<()>);

impl Stopping {
    async fn begins(&mut self) {
        // Nothing is ever sent: the sender goes.
        let _ = self.0.changed().await;
    }
}

/// An answer that is no success, on its way out of whatever found that out.
struct Refusal(Box<Response>);

impl From<Response> for Refusal {
    fn from(response: Response) -> Self {
        Self(Box::new(response))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        *self.0
    }
}

/// An answer in words.
fn text(status: StatusCode, text: impl Into<String>) -> Response {
    respond(status, "text/plain; charset=utf-8", text.into() + "\n")
}

/// An answer in JSON.
fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    respond(status, "application/json", value.to_string() + "\n")
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// What stands behind the `?`, each name with its value.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(uri: &Uri) -> Result<Self, String> {
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
            Ok((decode(name)?, decode(value)?))
        });
        pairs.collect::<Result<_, String>>().map(Self)
    }

    /// Nothing is ignored: whoever mistypes a condition must not do without it.
    fn only(&self, known: &[&str]) -> Result<(), String> {
        let unknown = self.0.iter().find(|(name, _)| !known.contains(&name.as_str()));
        let Some((name, _)) = unknown else { return self.once() };
        let known = match known {
            [] => "nothing is asked in a query".into(),
            known => known.join(", "),
        };
        Err(format!("there is no {name:?} here: {known}"))
    }

    fn once(&self) -> Result<(), String> {
        let mut names: Vec<_> = self.0.iter().map(|(name, _)| name).collect();
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("{:?} is said twice", pair[0])),
            None => Ok(()),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn flag(&self, name: &str) -> Result<bool, String> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true" | "") => Ok(true),
            Some(other) => Err(format!("{name} is true or false, not {other:?}")),
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let number =
            |text: &str| text.parse().map_err(|_| format!("{name} is no number: {text:?}"));
        self.get(name).map(number).transpose()
    }

    fn within(&self) -> Result<Duration, String> {
        let max = WITHIN_MAX.as_millis();
        match self.number("timeout_ms")? {
            None => Ok(WITHIN),
            Some(ms) if u128::from(ms) <= max => Ok(Duration::from_millis(ms)),
            Some(ms) => Err(format!("timeout_ms is {max} at most, not {ms}")),
        }
    }
}

/// A part of a path or a query, with its `%xx` decoded.
fn decode(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte == b'%' {
            let hex = text.get(at + 1..at + 3).and_then(hex_byte);
            out.push(hex.ok_or_else(|| format!("{text:?} has a % that no two digits follow"))?);
            at += 3;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    String::from_utf8(out).map_err(|_| format!("{text:?} is not UTF-8"))
}

/// Two hexadecimal digits. (A sign, which `from_str_radix` takes, is none.)
fn hex_byte(digits: &str) -> Option<u8> {
    let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    u8::from_str_radix(digits?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::{Arc, RwLock};

    use quorate::typed::MapLimits;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::{broadcast, mpsc};
    use tokio::time::timeout;

    use crate::node::Notice;
    use crate::node::handle::Request;

    /// Far longer than anything takes that works.
    const LONG: Duration = Duration::from_secs(30);

    /// More than two sockets hold between them.
    const IMAGE_BYTES: usize = 64 << 20;

    /// A server of two places, of a node that knows nothing but how to be watched and copied, and when it is to stop. A head may take so long, a body too, and an answer that nobody
    /// takes.
    async fn serving(
        part_max: Duration,
    ) -> (SocketAddr, broadcast::Sender<Notice>, tokio::task::JoinHandle<()>, mpsc::Sender<()>)
    {
        let (requests, mut asked) = mpsc::channel(4);
        let longest = Arc::new(RwLock::new(MapLimits::default()));
        let node = Handle { requests, longest, schema: 1 };
        let (notices, _) = broadcast::channel(4);
        let told = notices.clone();
        tokio::spawn(async move {
            while let Some(request) = asked.recv().await {
                match request {
                    Request::Watch(answer) => {
                        let _ = answer.send((0, told.subscribe()));
                    }
                    Request::Image(answer) => {
                        let _ = answer.send(Ok(vec![7; IMAGE_BYTES]));
                    }
                    _ => {}
                }
            }
        });
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let at = server.address().unwrap();
        let server = Server {
            connections_max: 2,
            head_max: part_max,
            body_max: part_max,
            taken_within: part_max,
            copies_max: 1,
            ..server
        };
        let (stop, mut stopped) = mpsc::channel(1);
        let stopped = async move {
            stopped.recv().await;
        };
        (at, notices, tokio::spawn(server.serve(node, stopped)), stop)
    }

    async fn dial(at: SocketAddr, sent: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(sent).await.unwrap();
        stream
    }

    /// What comes until it holds that, or the end.
    async fn read_until(stream: &mut TcpStream, part: &str) -> String {
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains(part) {
            let read = timeout(LONG, stream.read_buf(&mut text)).await;
            if read.expect("something comes, or the end").unwrap_or(0) == 0 {
                break;
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";

    #[tokio::test]
    async fn who_is_silent_or_slow_with_a_head_gives_its_place_to_others() {
        let (at, _notices, _serving, _stop) = serving(Duration::from_millis(200)).await;
        for slow in [&b""[..], b"GET /hea", HEALTH] {
            let _slow = [dial(at, slow).await, dial(at, slow).await];
            let answer = read_until(&mut dial(at, HEALTH).await, "stopped").await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        }
    }

    #[tokio::test]
    async fn who_is_silent_or_slow_with_a_body_is_told_and_gives_its_place_to_others() {
        let (at, _notices, _serving, _stop) = serving(Duration::from_millis(200)).await;
        for path in ["/k", "/v1/keys/k", "/v1/members/4"] {
            let head = format!("PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{{");
            let mut slow = [dial(at, head.as_bytes()).await, dial(at, head.as_bytes()).await];
            let answer = read_until(&mut dial(at, HEALTH).await, "stopped").await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{path}: {answer}");
            // The end comes with it.
            let told = read_until(&mut slow[0], "no end but its end").await;
            assert!(told.starts_with("HTTP/1.1 408") && told.contains("too slow"), "{told}");
        }
    }

    #[tokio::test]
    async fn a_copy_that_is_not_read_leaves_no_room_for_another_and_comes_whole_in_the_end() {
        let (at, _notices, _serving, _stop) = serving(LONG).await;
        let ask = b"GET /v1/snapshot HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        for _ in 0..2 {
            let mut slow = dial(at, ask).await;
            let mut begun = [0; 12];
            slow.read_exact(&mut begun).await.unwrap();
            assert_eq!(&begun, b"HTTP/1.1 200");
            let told = read_until(&mut dial(at, ask).await, "no end but its end").await;
            assert!(told.starts_with("HTTP/1.1 429"), "{told}");
            let mut rest = Vec::new();
            timeout(LONG, slow.read_to_end(&mut rest)).await.unwrap().unwrap();
            assert!(rest[rest.len() - IMAGE_BYTES..].iter().all(|byte| *byte == 7));
        }
    }

    #[tokio::test]
    async fn who_takes_nothing_of_an_answer_gives_its_place_to_others() {
        let (at, _notices, _serving, _stop) = serving(Duration::from_millis(200)).await;
        let ask = b"GET /v1/snapshot HTTP/1.1\r\nhost: x\r\n\r\n";
        let _deaf = dial(at, ask).await;
        // Its copy is gone with it.
        let another = async {
            while !read_until(&mut dial(at, ask).await, "\r\n").await.starts_with("HTTP/1.1 200") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG, another).await.expect("a copy for who takes it");
        let answer = read_until(&mut dial(at, HEALTH).await, "stopped").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }

    #[tokio::test]
    async fn who_watches_may_be_silent() {
        let head_max = Duration::from_millis(50);
        let (at, notices, _serving, _stop) = serving(head_max).await;
        let mut watching = dial(at, b"GET /v1/watch HTTP/1.1\r\nhost: x\r\n\r\n").await;
        read_until(&mut watching, "watching").await;
        tokio::time::sleep(10 * head_max).await;
        let deleted = Notice::Deleted { key: "a".into(), revision: 7 };
        assert_eq!(notices.send(deleted).unwrap(), 1);
        let told = read_until(&mut watching, "deleted").await;
        assert!(told.contains("\"revision\":7"), "{told}");
    }

    #[tokio::test]
    async fn who_watches_does_not_hold_up_the_end() {
        let (at, notices, serving, stop) = serving(LONG).await;
        let mut watching = dial(at, b"GET /v1/watch HTTP/1.1\r\nhost: x\r\n\r\n").await;
        read_until(&mut watching, "watching").await;
        stop.send(()).await.unwrap();
        timeout(LONG, serving).await.expect("it ends").unwrap();
        // The node itself is not at its end.
        assert_eq!(notices.receiver_count(), 0);
        let rest = read_until(&mut watching, "\r\n0\r\n").await;
        assert!(rest.ends_with("0\r\n\r\n"), "a whole body: {rest:?}");
    }

    #[tokio::test]
    async fn what_no_request_of_that_kind_has_is_refused() {
        let (at, _notices, _serving, _stop) = serving(LONG).await;
        for path in [
            "/v1/status?pretty",
            "/v1/members?all=1",
            "/v1/snapshot?x",
            "/v1/watch?prefx=a",
            "/v1/keys/k?timeout_ms=60001",
            "/k?timeout_ms=60001",
        ] {
            let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let answer =
                read_until(&mut dial(at, head.as_bytes()).await, "no end but its end").await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
        }
    }

    #[test]
    fn a_query_is_decoded_and_what_is_not_known_is_refused() {
        let query = Query::of(&"/x?expected=7&a%20b=%C3%A4&local".parse().unwrap()).unwrap();
        assert_eq!(query.number("expected"), Ok(Some(7)));
        assert_eq!(query.get("a b"), Some("ä"));
        assert_eq!(query.flag("local"), Ok(true));
        assert_eq!(query.flag("other"), Ok(false));
        assert!(query.only(&["expected", "a b", "local"]).is_ok());
        assert_eq!(
            query.only(&["expected", "local"]).unwrap_err(),
            "there is no \"a b\" here: expected, local"
        );
        for bad in ["%", "%4", "%zz", "%+4", "%ff"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
        let query = Query::of(&"/x?timeout_ms=soon".parse().unwrap()).unwrap();
        assert_eq!(query.within().unwrap_err(), "timeout_ms is no number: \"soon\"");
        let within = |ms: u32| Query::of(&format!("/x?timeout_ms={ms}").parse().unwrap())?.within();
        assert_eq!(within(60_000), Ok(WITHIN_MAX));
        assert_eq!(within(60_001).unwrap_err(), "timeout_ms is 60000 at most, not 60001");
        let twice = Query::of(&"/x?a=1&b=2&a=3".parse().unwrap()).unwrap();
        assert_eq!(twice.only(&["a", "b"]).unwrap_err(), "\"a\" is said twice");
        let none = Query::of(&"/x?y".parse().unwrap()).unwrap().only(&[]);
        assert_eq!(none.unwrap_err(), "there is no \"y\" here: nothing is asked in a query");
    }
}
