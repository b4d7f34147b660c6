//! What operators and their machines ask.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::Api;

/// The description of the API.
const OPENAPI: &str = include_str!("openapi.json");

/// How long the store may take to say that it is there.
const STORE_WITHIN: Duration = Duration::from_secs(2);

/// The process runs.
pub(super) async fn health() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

/// It can take leads: recovery is done, and the store can be read and takes writes.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Response {
    let trouble = match api.pipeline.store.trouble() {
        Some(trouble) => Some(trouble.to_string()),
        None => match tokio::time::timeout(STORE_WITHIN, api.pipeline.store.check()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("not answering".to_owned()),
        },
    };
    let store = trouble.as_deref().unwrap_or("ok");
    // Leads are taken without it, too: the store alone keeps the limits then.
    let gate = match (api.pipeline.gate.kind(), api.pipeline.gate.is_up()) {
        (kind, true) => kind.to_owned(),
        (kind, false) => format!("{kind} not answering"),
    };
    let status = match &trouble {
        _ if api.is_stopping() => "stopping",
        _ if !api.worker.is_ready() => "recovering",
        Some(_) => "unavailable",
        None => "ready",
    };
    let detail = Json(json!({"status": status, "store": store, "gate": gate}));
    let code = if status == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, detail).into_response()
}

pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let mut response = api.metrics.render().into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

pub(super) async fn openapi() -> Response {
    let mut response = OPENAPI.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
