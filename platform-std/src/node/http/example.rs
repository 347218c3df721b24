//! The interface of etcd's raftexample: `PUT /KEY`, `GET /KEY`, `POST /ID` with an address, `DELETE /ID`.

use std::net::SocketAddr;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use quorate::NodeId;

use super::body::Given;
use super::{Query, Refusal, decode, members, text};
use crate::content::Value;
use crate::node::{ChangeError, Consistency, Handle, ReadError, WriteError, address};

pub(super) async fn serve(
    State(node): State<Handle>,
    method: Method,
    uri: Uri,
    body: Given,
) -> Response {
    let answered = async {
        let key = decode(uri.path().strip_prefix('/').unwrap_or_default()).map_err(bad)?;
        let query = Query::of(&uri).map_err(bad)?;
        match method {
            Method::PUT => put(&node, &key, &query, value(body)?).await,
            Method::GET => get(&node, &key, &query).await,
            Method::POST => add(&node, &key, &query, value(body)?).await,
            Method::DELETE => remove(&node, &key, &query).await,
            _ => {
                let mut refused =
                    refuse(StatusCode::METHOD_NOT_ALLOWED, "GET, PUT, POST or DELETE");
                let allow = HeaderValue::from_static("PUT, GET, POST, DELETE");
                refused.0.headers_mut().insert(header::ALLOW, allow);
                Err(refused)
            }
        }
    };
    answered.await.unwrap_or_else(Refusal::into_response)
}

fn bad(what: String) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, what)
}

fn refuse(status: StatusCode, what: impl Into<String>) -> Refusal {
    text(status, what).into()
}

fn value(body: Given) -> Result<Bytes, Refusal> {
    body.0.map_err(|(status, what)| refuse(status, what))
}

fn done() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

async fn put(node: &Handle, key: &str, query: &Query, body: Bytes) -> Result<Response, Refusal> {
    query.only(&["timeout_ms"]).map_err(bad)?;
    // Text where it is text: then `quorate get` shows it.
    let value = match String::from_utf8(body.to_vec()) {
        Ok(text) => Value::Str(text),
        Err(error) => Value::Bytes(error.into_bytes()),
    };
    let within = query.within().map_err(bad)?;
    match node.put(key, &value, None, within).await {
        Ok(_) => Ok(done()),
        Err(error) => Err(refuse(write_status(&error), error.to_string())),
    }
}

/// The status that goes with a write that is not known to be done.
pub(super) const fn write_status(error: &WriteError) -> StatusCode {
    match error {
        WriteError::Refused(outcome) => match outcome {
            quorate::typed::Outcome::Mismatch { .. } => StatusCode::CONFLICT,
            quorate::typed::Outcome::Full { .. } | quorate::typed::Outcome::TooManyKeys { .. } => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            _ => StatusCode::BAD_REQUEST,
        },
        WriteError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        WriteError::Busy => StatusCode::TOO_MANY_REQUESTS,
        WriteError::Unknown { .. } => StatusCode::GATEWAY_TIMEOUT,
        WriteError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
    }
}

pub(super) const fn read_status(error: &ReadError) -> StatusCode {
    match error {
        ReadError::NoQuorum => StatusCode::GATEWAY_TIMEOUT,
        ReadError::Busy => StatusCode::TOO_MANY_REQUESTS,
        ReadError::NotReady | ReadError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
    }
}

pub(super) const fn change_status(error: &ChangeError) -> StatusCode {
    match error {
        ChangeError::Refused(_) => StatusCode::CONFLICT,
        ChangeError::Write(error) => write_status(error),
    }
}

async fn get(node: &Handle, key: &str, query: &Query) -> Result<Response, Refusal> {
    query.only(&["local", "timeout_ms"]).map_err(bad)?;
    let consistency = match query.flag("local").map_err(bad)? {
        true => Consistency::Local,
        false => Consistency::Linearizable,
    };
    let within = query.within().map_err(bad)?;
    let shown = node.get(key, consistency, within).await;
    let shown = shown.map_err(|error| refuse(read_status(&error), error.to_string()))?;
    let Some(item) = shown.items.into_iter().next() else {
        return Err(refuse(StatusCode::NOT_FOUND, "there is no such key"));
    };
    let bytes = match item.value {
        Value::Str(text) => text.into_bytes(),
        Value::Bytes(bytes) => bytes,
        other => other.to_string().into_bytes(),
    };
    Ok(Response::new(Body::from(bytes)))
}

fn member(key: &str) -> Result<NodeId, Refusal> {
    let id = key.parse().ok().and_then(NodeId::new);
    id.ok_or_else(|| bad(format!("{key:?} is no number of a node: 1 to {}", NodeId::MAX)))
}

/// raftexample takes a URL; an address alone will do.
fn peer_address(body: &[u8]) -> Result<SocketAddr, String> {
    let given = std::str::from_utf8(body).unwrap_or_default().trim();
    let address = given.strip_prefix("http://").unwrap_or(given).trim_end_matches('/');
    let no_address = || format!("{given:?} is no address of a node: HOST:PORT");
    let mut found = std::net::ToSocketAddrs::to_socket_addrs(address).map_err(|_| no_address())?;
    found.next().filter(address::can_be_dialled).ok_or_else(no_address)
}

async fn add(node: &Handle, key: &str, query: &Query, body: Bytes) -> Result<Response, Refusal> {
    query.only(&["timeout_ms"]).map_err(bad)?;
    let id = member(key)?;
    let address = tokio::task::spawn_blocking(move || peer_address(&body)).await;
    let address = address.unwrap_or_else(|error| Err(error.to_string())).map_err(bad)?;
    let within = query.within().map_err(bad)?;
    let added = members::add(node.clone(), id, Some(address), false, within).await;
    added.map_err(|error| refuse(change_status(&error), error.to_string()))?;
    Ok(done())
}

async fn remove(node: &Handle, key: &str, query: &Query) -> Result<Response, Refusal> {
    query.only(&["timeout_ms"]).map_err(bad)?;
    let id = member(key)?;
    let removed = node.remove_member(id, query.within().map_err(bad)?).await;
    removed.map_err(|error| refuse(change_status(&error), error.to_string()))?;
    Ok(done())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_an_address_or_raftexamples_url() {
        let at: SocketAddr = "127.0.0.1:7004".parse().unwrap();
        for body in ["127.0.0.1:7004", "http://127.0.0.1:7004", "http://127.0.0.1:7004/\n"] {
            assert_eq!(peer_address(body.as_bytes()), Ok(at));
        }
        for body in ["", "7004", "http://", "\u{fffd}:x", "127.0.0.1:0", "0.0.0.0:7004"] {
            assert!(peer_address(body.as_bytes()).is_err(), "{body}");
        }
    }
}
