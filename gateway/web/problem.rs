//! Error answers: RFC 9457 problem details with the request's id, and every wrong field named.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::model::id::RequestId;

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldProblem {
    /// Its (dotted) name.
    pub field: String,
    /// A word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// An error answer.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// Which kind, such as `/problems/validation`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The kind in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong here, and what to do.
    pub detail: String,
    /// The request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// Every wrong field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
    /// Seconds, for the `Retry-After` header.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $kind:literal, $title:literal;)*) => {
        impl Problem {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(detail: impl Into<String>) -> Self {
                Self {
                    kind: concat!("/problems/", $kind),
                    title: $title,
                    status: StatusCode::$status.as_u16(),
                    detail: detail.into(),
                    request_id: None,
                    errors: Vec::new(),
                    retry_after: None,
                }
            })*
        }
    };
}

kinds! {
    /// 400: the request cannot be read.
    malformed = BAD_REQUEST, "malformed", "The request is malformed";
    /// 401: no key, or none that is known.
    unauthorized = UNAUTHORIZED, "unauthorized", "A valid key is needed";
    /// 403: the key may not do this.
    forbidden = FORBIDDEN, "forbidden", "This key may not do that";
    /// 403: the source may post no more.
    source_paused = FORBIDDEN, "source-paused", "The source is not live";
    /// 404: there is no such thing.
    not_found = NOT_FOUND, "not-found", "Not found";
    /// 405: the resource has no such method.
    method_not_allowed = METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not allowed here";
    /// 409: the state does not allow it.
    conflict = CONFLICT, "conflict", "The present state does not allow that";
    /// 409: the same idempotency key is being worked on.
    idempotency_in_progress = CONFLICT, "idempotency-in-progress", "A request with this key is in progress";
    /// 422: the idempotency key came with another body before.
    idempotency_reused = UNPROCESSABLE_ENTITY, "idempotency-reused", "The idempotency key was used for another body";
    /// 422: fields are wrong.
    validation = UNPROCESSABLE_ENTITY, "validation", "Some fields are wrong";
    /// 413: more than may be sent.
    too_large = PAYLOAD_TOO_LARGE, "too-large", "The body is too large";
    /// 415: a body of another type is needed.
    unsupported_media_type = UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The content type is not supported";
    /// 429: posted too fast.
    rate_limited = TOO_MANY_REQUESTS, "rate-limited", "Too many requests";
    /// 429: a limit of a period is reached.
    limit_reached = TOO_MANY_REQUESTS, "limit-reached", "A limit is reached";
    /// 500: our own fault.
    internal = INTERNAL_SERVER_ERROR, "internal", "The gateway failed";
    /// 503: cannot be made durable, or not ready.
    unavailable = SERVICE_UNAVAILABLE, "unavailable", "The gateway cannot do that now";
}

impl Problem {
    /// Names the request.
    #[must_use]
    pub fn of(mut self, request: RequestId) -> Self {
        self.request_id = Some(request);
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds.max(1));
        self
    }

    /// Names the wrong fields.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldProblem>) -> Self {
        self.errors = errors;
        self
    }

    /// Its JSON.
    #[must_use]
    pub fn document(&self) -> String {
        // Texts and numbers only: this cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl From<crate::store::StoreError> for Problem {
    fn from(error: crate::store::StoreError) -> Self {
        tracing::error!(store.error = %error, "a request could not be served");
        Self::unavailable("the store cannot answer now; try again in a moment").retry_after(2)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.document()));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED.as_u16() {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For the layer that knows the request's id.
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}
