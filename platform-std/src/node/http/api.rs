//! The JSON API.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{get, post, put};
use axum::{Extension, Router};
use quorate::NodeId;
use serde_json::{Value as Json, json};

use super::body::Given;
use super::copies::Copies;
use super::example::{change_status, read_status, write_status};
use super::{Query, Refusal, Stopping, decode, hex_byte, members};
use crate::content::Value;
use crate::node::{
    ChangeError, Consistency, Handle, Item, Notice, TransferError, Watch, WriteError, address,
};

pub(super) fn routes() -> Router<Handle> {
    Router::new()
        .route("/status", get(status))
        .route("/keys", get(list))
        .route("/keys/", get(read).put(write).delete(delete))
        .route("/keys/{*key}", get(read).put(write).delete(delete))
        .route("/watch", get(watch))
        .route("/members", get(list_members))
        .route("/members/{id}", put(add).delete(remove))
        .route("/members/{id}/promote", post(promote))
        .route("/leader/{id}", post(transfer))
        .route("/snapshot", get(snapshot))
        .fallback(nothing)
        .method_not_allowed_fallback(async || {
            fail(StatusCode::METHOD_NOT_ALLOWED, "that can't be done with it: see Allow")
        })
}

pub(super) async fn nothing() -> Refusal {
    fail(StatusCode::NOT_FOUND, "there is no such thing in /v1")
}

type Answer = Result<Response, Refusal>;

fn ok(value: &Json) -> Response {
    super::json(StatusCode::OK, value)
}

fn fail(status: StatusCode, what: impl ToString) -> Refusal {
    super::json(status, &json!({ "error": what.to_string() })).into()
}

fn bad(what: impl ToString) -> Refusal {
    fail(StatusCode::BAD_REQUEST, what)
}

fn stopped() -> Refusal {
    fail(StatusCode::SERVICE_UNAVAILABLE, "the node has stopped")
}

/// The query, with nothing in it that is not known.
fn query(uri: &Uri, known: &[&str]) -> Result<(Query, Duration), Refusal> {
    let query = Query::of(uri).map_err(bad)?;
    query.only(known).map_err(bad)?;
    let within = query.within().map_err(bad)?;
    Ok((query, within))
}

fn consistency(query: &Query) -> Result<Consistency, Refusal> {
    match query.get("consistency") {
        None | Some("linearizable") => Ok(Consistency::Linearizable),
        Some("local") => Ok(Consistency::Local),
        Some(other) => Err(bad(format!("consistency is linearizable or local, not {other:?}"))),
    }
}

/// What stands behind `prefix` in the path, decoded.
fn rest<'a>(uri: &'a Uri, prefix: &str) -> Result<String, Refusal> {
    let path: &'a str = uri.path();
    let at = path.find(prefix).map_or(path.len(), |at| at + prefix.len());
    decode(&path[at..]).map_err(bad)
}

fn item(item: &Item) -> Json {
    json!({
        "key": item.key,
        "type": item.value.kind(),
        "value": item.value.to_json(),
        "revision": item.revision,
    })
}

async fn status(State(node): State<Handle>, uri: Uri) -> Answer {
    query(&uri, &["timeout_ms"])?;
    let report = node.status().await.ok_or_else(stopped)?;
    Ok(ok(&json!(report)))
}

async fn list(State(node): State<Handle>, uri: Uri) -> Answer {
    let (query, within) = query(&uri, &["prefix", "consistency", "timeout_ms"])?;
    let prefix = query.get("prefix").unwrap_or_default();
    let shown = node.list(prefix, consistency(&query)?, within).await;
    let shown = shown.map_err(|error| fail(read_status(&error), error))?;
    let items: Vec<_> = shown.items.iter().map(item).collect();
    Ok(ok(&json!({ "revision": shown.revision, "keys": items })))
}

async fn read(State(node): State<Handle>, uri: Uri) -> Answer {
    let (query, within) = query(&uri, &["consistency", "timeout_ms"])?;
    let key = rest(&uri, "/keys/")?;
    let shown = node.get(&key, consistency(&query)?, within).await;
    let shown = shown.map_err(|error| fail(read_status(&error), error))?;
    match shown.items.first() {
        Some(found) => Ok(ok(&item(found))),
        None => {
            let none = json!({ "error": "there is no such key", "revision": shown.revision });
            Err(super::json(StatusCode::NOT_FOUND, &none).into())
        }
    }
}

/// A value as a request gives it: JSON's own kinds, or `{"bytes": "hex"}`.
fn value(body: &Json) -> Result<Value, String> {
    match body {
        Json::Bool(value) => Ok(Value::Bool(*value)),
        Json::String(text) => Ok(Value::Str(text.clone())),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Ok(Value::Int(whole)),
            (None, Some(float)) if !number.is_u64() => Ok(Value::Float(float)),
            _ => Err(format!("{number} does not fit 64 bits with a sign")),
        },
        Json::Object(object) if object.len() == 1 => {
            let digits = object.get("bytes").and_then(Json::as_str);
            let digits = digits.filter(|digits| digits.len() % 2 == 0 && digits.is_ascii());
            let bytes = digits.and_then(|digits| {
                (0..digits.len()).step_by(2).map(|at| hex_byte(&digits[at..at + 2])).collect()
            });
            let bytes: Option<Vec<u8>> = bytes;
            bytes
                .map(Value::Bytes)
                .ok_or_else(|| "bytes are hexadecimal digits: {\"bytes\": \"00ff\"}".into())
        }
        _ => Err("a value is a string, a number, true, false or {\"bytes\": \"hex\"}".into()),
    }
}

fn written(result: Result<crate::node::Written, WriteError>) -> Answer {
    match result {
        Ok(written) => Ok(ok(&json!({
            "revision": written.revision,
            "changed": written.changed,
            "index": written.id.map(|id| id.index.0),
            "term": written.id.map(|id| id.term.0),
        }))),
        Err(error) => {
            let mut told = json!({ "error": error.to_string() });
            match &error {
                WriteError::Refused(quorate::typed::Outcome::Mismatch { revision }) => {
                    told["revision"] = json!(revision);
                }
                WriteError::Unknown { proposed } => {
                    told["unknown"] = json!(true);
                    told["proposed"] = json!(proposed);
                }
                WriteError::Stopped => told["unknown"] = json!(true),
                _ => {}
            }
            Err(super::json(write_status(&error), &told).into())
        }
    }
}

fn json_of(body: Given) -> Result<Json, Refusal> {
    let body = body.0.map_err(|(status, what)| fail(status, what))?;
    serde_json::from_slice(&body).map_err(|error| bad(format!("the body is no JSON: {error}")))
}

async fn write(State(node): State<Handle>, uri: Uri, body: Given) -> Answer {
    let (query, within) = query(&uri, &["expected", "timeout_ms"])?;
    let key = rest(&uri, "/keys/")?;
    let expected = query.number("expected").map_err(bad)?;
    let body = json_of(body)?;
    let object = body.as_object().filter(|object| object.len() == 1);
    let given = object.and_then(|object| object.get("value"));
    let given = given.ok_or_else(|| bad("the body is {\"value\": …}"))?;
    let value = value(given).map_err(bad)?;
    written(node.put(&key, &value, expected, within).await)
}

async fn delete(State(node): State<Handle>, uri: Uri) -> Answer {
    let (query, within) = query(&uri, &["expected", "timeout_ms"])?;
    let key = rest(&uri, "/keys/")?;
    let expected = query.number("expected").map_err(bad)?;
    written(node.delete(&key, expected, within).await)
}

async fn watch(
    State(node): State<Handle>,
    Extension(stopping): Extension<Stopping>,
    uri: Uri,
) -> Answer {
    let (query, _) = query(&uri, &["prefix"])?;
    let prefix = query.get("prefix").unwrap_or_default().to_owned();
    let watch = node.watch().await.ok_or_else(stopped)?;
    let (lines, body) = Lines::new();
    tokio::spawn(feed(watch, prefix, lines, stopping));
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Tells changes until the client or the node is gone, or the server is to stop.
async fn feed(watch: Watch, prefix: String, lines: Lines, mut stopping: Stopping) {
    tokio::select! {
        () = tell(watch, prefix, &lines) => {}
        () = lines.gone() => {}
        () = stopping.begins() => {}
    }
}

/// Tells changes, a line each.
async fn tell(mut watch: Watch, prefix: String, lines: &Lines) {
    let mut next = Some(json!({ "watching": true, "revision": watch.revision }));
    loop {
        if let Some(line) = next.take()
            && !lines.put(format!("{line}\n")).await
        {
            return;
        }
        next = match watch.next().await {
            None => return,
            Some(Notice::Set(set)) if set.key.starts_with(&prefix) => Some(item(&set)),
            Some(Notice::Deleted { key, revision }) if key.starts_with(&prefix) => {
                Some(json!({ "key": key, "deleted": true, "revision": revision }))
            }
            Some(Notice::Everything { revision }) => {
                Some(json!({ "everything": true, "revision": revision }))
            }
            Some(_) => None,
        };
    }
}

/// The lines of a body that is not at its end.
struct Lines(tokio::sync::mpsc::Sender<String>);

struct LinesBody(tokio::sync::mpsc::Receiver<String>);

impl Lines {
    fn new() -> (Self, Body) {
        let (lines, body) = tokio::sync::mpsc::channel(16);
        (Self(lines), Body::new(LinesBody(body)))
    }

    async fn put(&self, line: String) -> bool {
        self.0.send(line).await.is_ok()
    }

    async fn gone(&self) {
        self.0.closed().await;
    }
}

impl axum::body::HttpBody for LinesBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|line| line.map(|line| Ok(http_body::Frame::data(line.into()))))
    }
}

async fn list_members(State(node): State<Handle>, uri: Uri) -> Answer {
    query(&uri, &["timeout_ms"])?;
    let report = node.status().await.ok_or_else(stopped)?;
    Ok(ok(&json!({ "leader": report.leader, "members": report.members })))
}

fn member(uri: &Uri, prefix: &str) -> Result<NodeId, Refusal> {
    let rest = rest(uri, prefix)?;
    let given = rest.split('/').next().unwrap_or_default();
    let id = given.parse().ok().and_then(NodeId::new);
    id.ok_or_else(|| bad(format!("{given:?} is no number of a node: 1 to {}", NodeId::MAX)))
}

fn changed(result: Result<(), ChangeError>) -> Answer {
    match result {
        Ok(()) => Ok(ok(&json!({ "changed": true }))),
        Err(error) => {
            let unknown = matches!(
                error,
                ChangeError::Write(WriteError::Unknown { .. } | WriteError::Stopped)
            );
            let told = json!({ "error": error.to_string(), "unknown": unknown });
            Err(super::json(change_status(&error), &told).into())
        }
    }
}

async fn add(State(node): State<Handle>, uri: Uri, body: Given) -> Answer {
    let (query, within) = query(&uri, &["learner", "timeout_ms"])?;
    let id = member(&uri, "/members/")?;
    let stays_learner = query.flag("learner").map_err(bad)?;
    let body = json_of(body)?;
    let unknown = || bad("the body is {\"address\": \"IP:PORT\"}, or {} for a member on the wire");
    let told = |address: &Json| {
        let address = address.as_str().and_then(|at| at.parse().ok());
        address.filter(address::can_be_dialled)
    };
    // Whoever mistypes the name must not add a member that nobody can reach.
    let address: Option<SocketAddr> = match body.as_object().map(|body| (body.len(), body)) {
        Some((0, _)) => None,
        Some((1, body)) => Some(body.get("address").and_then(told).ok_or_else(unknown)?),
        _ => return Err(unknown()),
    };
    match members::add(node, id, address, stays_learner, within).await {
        Ok(changed) => Ok(ok(&json!({ "changed": changed }))),
        Err(error) => changed(Err(error)),
    }
}

async fn remove(State(node): State<Handle>, uri: Uri) -> Answer {
    let (_, within) = query(&uri, &["timeout_ms"])?;
    changed(node.remove_member(member(&uri, "/members/")?, within).await)
}

async fn promote(State(node): State<Handle>, uri: Uri) -> Answer {
    let (query, within) = query(&uri, &["force", "in_place_of", "timeout_ms"])?;
    let force = query.flag("force").map_err(bad)?;
    let id = member(&uri, "/members/")?;
    let Some(old) = query.get("in_place_of") else {
        return changed(node.promote(id, force, within).await);
    };
    let old = old.parse().ok().and_then(NodeId::new);
    let old = old.ok_or_else(|| bad("in_place_of: the number of a member, 1 to 31"))?;
    changed(node.replace_member(old, id, force, within).await)
}

async fn transfer(State(node): State<Handle>, uri: Uri) -> Answer {
    let (_, within) = query(&uri, &["timeout_ms"])?;
    let to = member(&uri, "/leader/")?;
    match node.transfer(to, within).await {
        Ok(()) => Ok(ok(&json!({ "leader": to }))),
        Err(error @ TransferError::Refused(_)) => Err(fail(StatusCode::CONFLICT, error)),
        Err(error @ TransferError::TimedOut) => Err(fail(StatusCode::GATEWAY_TIMEOUT, error)),
        Err(TransferError::Stopped) => Err(stopped()),
    }
}

async fn snapshot(
    State(node): State<Handle>,
    Extension(copies): Extension<Copies>,
    uri: Uri,
) -> Answer {
    query(&uri, &[])?;
    let place = copies.place().ok_or_else(|| {
        fail(StatusCode::TOO_MANY_REQUESTS, "others are being sent copies already: ask again")
    })?;
    let image = node.image().await;
    let image = image.map_err(|error| fail(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let mut response = Response::new(place.body(image));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_json_are_values_of_the_map_and_others_are_refused() {
        let of = |text: &str| value(&serde_json::from_str(text).unwrap());
        assert_eq!(of("true"), Ok(Value::Bool(true)));
        assert_eq!(of("-7"), Ok(Value::Int(-7)));
        assert_eq!(of("1.5"), Ok(Value::Float(1.5)));
        assert_eq!(of("\"x\""), Ok(Value::Str("x".into())));
        assert_eq!(of("{\"bytes\": \"00Ff\"}"), Ok(Value::Bytes(vec![0, 255])));
        for bad in [
            "null",
            "[1]",
            "{}",
            "{\"bytes\": \"0\"}",
            "{\"bytes\": \"zz\"}",
            "{\"bytes\": \"+f\"}",
            "18446744073709551615",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
