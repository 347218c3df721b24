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

impl NodeArgs {
    fn agent(&self, whole: bool) -> ureq::Agent {
        let within = Duration::from_millis(self.timeout_ms) + PATIENCE;
        ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
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
                Err(ureq::Error::Io(error))
                    if error.kind() == std::io::ErrorKind::ConnectionRefused =>
                {
                    refused += &format!("; {at}: {error}");
                }
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
        let mut response = self.request(method, path, body, true)?;
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string().map_err(Failure::new)?;
        let body = serde_json::from_str(&text)
            .map_err(|_| Failure::new("what answers there is no node"))?;
        Ok(Answered { status, body })
    }

    /// Asks for bytes.
    pub(crate) fn bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let mut response = self.request("GET", path, None, false)?;
        let body = response.body_mut();
        body.with_config().limit(1 << 30).read_to_vec().map_err(Failure::new)
    }

    /// Asks for lines that go on and on.
    pub(crate) fn lines(
        &self,
        path: &str,
    ) -> Result<impl Iterator<Item = std::io::Result<String>>, Failure> {
        let response = self.request("GET", path, None, false)?;
        Ok(BufReader::new(response.into_body().into_reader()).lines())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_a_path_is_encoded() {
        assert_eq!(encode("a/b.c-d"), "a/b.c-d");
        assert_eq!(encode("ä ?&%"), "%C3%A4%20%3F%26%25");
    }
}
