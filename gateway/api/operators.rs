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

/// It can take leads: recovery is done, and the store answers.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Response {
    if !api.worker.is_ready() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "recovering"}))).into_response();
    }
    if let Ok(Ok(())) = tokio::time::timeout(STORE_WITHIN, api.pipeline.store.check()).await {
        return Json(json!({"status": "ready", "store": "ok", "gate": "memory"})).into_response();
    }
    let detail = json!({"status": "unavailable", "store": "not answering", "gate": "memory"});
    (StatusCode::SERVICE_UNAVAILABLE, Json(detail)).into_response()
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
