//! The body of a request, whole, in time, and no longer than any that makes sense.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;

/// So long a body may take: whoever is slower gives its place to others.
#[derive(Clone, Copy)]
pub(super) struct Within(pub(super) Duration);

/// It, or the status and the words with which the request is refused.
pub(super) struct Given(pub(super) Result<Bytes, (StatusCode, String)>);

impl<S: Send + Sync> FromRequest<S> for Given {
    type Rejection = Infallible;

    async fn from_request(request: Request, state: &S) -> Result<Self, Infallible> {
        let Within(within) = request.extensions().get().copied().unwrap_or(Within(super::BODY_MAX));
        let read = tokio::time::timeout(within, Bytes::from_request(request, state)).await;
        Ok(Self(match read {
            Ok(read) => read.map_err(|error| (error.status(), error.body_text())),
            Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body was too slow".into())),
        }))
    }
}
