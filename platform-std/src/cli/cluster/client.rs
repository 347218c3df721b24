//! Talking to a running node over HTTP.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde_json::Value as Json;

use super::peers::address;
use crate::cli::Failure;

/// Which node to ask.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NodeArgs {
    /// Where a node serves HTTP; with several, the first that answers
    #[arg(
        long = "node",
        value_name = "HOST:PORT,…",
        env = "QUORATE_NODE",
        default_value = "127.0.0.1:8001",
        value_delimiter = ','
    )]
    pub(crate) nodes: Vec<String>,
    /// How long to wait for the cluster; a node waits for 60000 at most
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    pub(crate) timeout_ms: u64,
}

/// Beyond what the cluster is given.
const PATIENCE: Duration = Duration::from_secs(3);
/// A node that does not even let itself be reached is not there. Less than what a request has at least, so that it is known for that.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A longer answer is none of a node's: a copy of its flash is, and so are all its keys in JSON, shorter.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// What a node answered.
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) body: Json,
}

impl Answered {
    /// The body of a success, or the failure in the node's own words.
    pub(crate) fn ok(self) -> Result<Json, Failure> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let error = self.body.get("error").and_then(Json::as_str);
        Err(Failure::new(error.unwrap_or("the node gives no reason")))
    }
}

/// A part of a path.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                out.push(byte.into());
            }
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

/// Is it certain that the node was not reached? Then another one can be asked, also for a write.
fn was_not_sent(error: &ureq::Error) -> bool {
    use std::io::ErrorKind;
    match error {
        ureq::Error::Timeout(ureq::Timeout::Connect) => true,
        // Of a connection that stands the system says so only long after any request has been given up.
        ureq::Error::Io(error) => matches!(
            error.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
        ),
        _ => false,
    }
}

impl NodeArgs {
    fn agent(&self, whole: bool) -> ureq::Agent {
        let within = Duration::from_millis(self.timeout_ms) + PATIENCE;
        ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_global(whole.then_some(within))
            .build()
            .new_agent()
    }

    /// Asks the first node that there is. One that was reached is asked alone: what it did with a request is for it to tell.
    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Json>,
        whole: bool,
    ) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        let agent = self.agent(whole);
        let mut refused = String::new();
        for node in &self.nodes {
            let at = address(node.trim_start_matches("http://").trim_end_matches('/'));
            let at = at.map_err(Failure::usage)?;
            let join = if path.contains('?') { '&' } else { '?' };
            let timeout =
                if whole { format!("{join}timeout_ms={}", self.timeout_ms) } else { String::new() };
            let request = ureq::http::Request::builder()
                .method(method)
                .uri(format!("http://{at}/v1{path}{timeout}"))
                .body(body.map(Json::to_string).unwrap_or_default())
                .map_err(Failure::new)?;
            match agent.run(request) {
                Ok(response) => return Ok(response),
                Err(error) if was_not_sent(&error) => refused += &format!("; {at}: {error}"),
                Err(error) => {
                    let unknown = if method == "GET" { "" } else { "unknown: " };
                    return Err(Failure::new(format!("{unknown}{at}: {error}")));
                }
            }
        }
        Err(Failure::new(format!(
            "no node answers there: start one with --http, or say where with --node{refused}"
        )))
    }

    /// Asks for JSON.
    pub(crate) fn json(
        &self,
        method: &str,
        path: &str,
        body: Option<&Json>,
    ) -> Result<Answered, Failure> {
        let response = self.request(method, path, body, true)?;
        // What was done is in the part that is missing.
        let unknown = if method == "GET" { "" } else { "unknown: " };
        Self::answered(response, unknown)
    }

    fn answered(
        mut response: ureq::http::Response<ureq::Body>,
        unknown: &str,
    ) -> Result<Answered, Failure> {
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_string();
        let text = text.map_err(|error| Failure::new(format!("{unknown}{error}")))?;
        let body = serde_json::from_str(&text)
            .map_err(|_| Failure::new("what answers there is no node"))?;
        Ok(Answered { status, body })
    }

    /// The answer to a question, if it is one; or the failure in the node's own words.
    fn body(&self, path: &str) -> Result<ureq::Body, Failure> {
        let response = self.request("GET", path, None, false)?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        Self::answered(response, "")?.ok()?;
        Err(Failure::new("what answers there is no node"))
    }

    /// Asks for bytes.
    pub(crate) fn bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let mut body = self.body(path)?;
        body.with_config().limit(BODY_BYTES_MAX).read_to_vec().map_err(Failure::new)
    }

    /// Asks for lines that go on and on.
    pub(crate) fn lines(
        &self,
        path: &str,
    ) -> Result<impl Iterator<Item = std::io::Result<String>>, Failure> {
        Ok(BufReader::new(self.body(path)?.into_reader()).lines())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    /// A host that answers no connection: as many as it queues are made, and nobody takes them.
    #[cfg(target_os = "linux")]
    fn silent_host() -> (tokio::net::TcpListener, Vec<TcpStream>) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let at = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&at, Duration::from_millis(500)) {
            queued.push(stream);
            assert!(queued.len() < 64, "it takes them all");
        }
        (listener, queued)
    }

    /// A node that gives that answer to whoever asks, once.
    fn node_that_says(answer: impl AsRef<[u8]> + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let head = BufReader::new(stream.try_clone().unwrap()).lines();
            head.map_while(Result::ok).find(String::is_empty);
            stream.write_all(answer.as_ref()).unwrap();
        });
        at
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_host_that_answers_no_connection_is_passed_over_and_one_that_hangs_up_is_not() {
        let (silent, _queued) = silent_host();
        let silent = silent.local_addr().unwrap();
        let good = node_that_says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        let asks = |nodes: [SocketAddr; 2]| NodeArgs {
            nodes: nodes.map(|at| at.to_string()).to_vec(),
            timeout_ms: 20_000,
        };
        let answered = asks([silent, good]).json("PUT", "/keys/k", None);
        assert_eq!(answered.map(|answered| answered.status).map_err(|e| e.to_string()), Ok(200));
        let hangs_up = node_that_says(b"");
        let good = node_that_says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        let unknown = asks([hangs_up, good]).json("PUT", "/keys/k", None).err().unwrap();
        assert!(unknown.to_string().starts_with("unknown: "), "{unknown}");
    }

    #[test]
    fn a_map_of_any_size_is_read_and_what_is_no_success_is_told() {
        let asks = |at: SocketAddr| NodeArgs { nodes: vec![at.to_string()], timeout_ms: 20_000 };
        // Each byte of the largest map may be six in JSON.
        let bytes = 6 << 24;
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n\"");
        answer.extend(std::iter::repeat_n('x', bytes - 2));
        answer.push('"');
        let read = asks(node_that_says(answer)).json("GET", "/keys", None);
        let len = read.map(|read| read.body.as_str().map(str::len)).map_err(|e| e.to_string());
        assert_eq!(len, Ok(Some(bytes - 2)));
        let full =
            b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 15\r\n\r\n{\"error\":\"why\"}";
        let told = asks(node_that_says(full)).bytes("/snapshot").err().unwrap();
        assert_eq!(told.to_string(), "why");
        let told = asks(node_that_says(full)).lines("/watch").err().unwrap();
        assert_eq!(told.to_string(), "why");
        let cut = node_that_says(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{");
        let unknown = asks(cut).json("PUT", "/keys/k", None).err().unwrap();
        assert!(unknown.to_string().starts_with("unknown: "), "{unknown}");
    }

    #[test]
    fn what_has_a_meaning_in_a_path_is_encoded() {
        assert_eq!(encode("a/b.c-d"), "a/b.c-d");
        assert_eq!(encode("ä ?&%"), "%C3%A4%20%3F%26%25");
    }
}
