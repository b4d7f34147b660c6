//! Campaigns, sources, partners and contracts, as they are stored.

use std::sync::Arc;

use axum::Json;
use axum::extract::{MatchedPath, Path, State};
use axum::response::IntoResponse as _;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};

use super::{Answer, Api};
use crate::model::secret::{MASK, is_secret_header};
use crate::store::{Kind, ResourceRecord};
use crate::web::problem::Problem;

pub(super) async fn list(State(api): State<Arc<Api>>, headers: HeaderMap, path: MatchedPath) -> Answer {
    api.staff(&headers)?;
    let kind = kind_of(path.as_str())?;
    let records = api.pipeline.store.resources().await?;
    let items: Vec<Value> = records.iter().filter(|record| record.kind == kind).map(shown).collect();
    Ok(Json(json!({"items": items, "next_cursor": null})).into_response())
}

pub(super) async fn one(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    path: MatchedPath,
    Path(id): Path<String>,
) -> Answer {
    api.staff(&headers)?;
    let kind = kind_of(path.as_str())?;
    let records = api.pipeline.store.resources().await?;
    let record = records.iter().find(|record| record.kind == kind && record.id == id);
    let record = record.ok_or_else(|| Problem::not_found(format!("there is no {kind} `{id}`")))?;
    let mut response = Json(shown(record)).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", record.version)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

fn kind_of(path: &str) -> Result<Kind, Problem> {
    match path.split('/').nth(2) {
        Some("campaigns") => Ok(Kind::Campaign),
        Some("sources") => Ok(Kind::Source),
        Some("partners") => Ok(Kind::Partner),
        Some("contracts") => Ok(Kind::Contract),
        _ => Err(Problem::not_found("there is no such kind of resource")),
    }
}

/// A resource's document, with what may be a secret masked. References (`env:`, `file:`) are shown: they are names.
fn shown(record: &ResourceRecord) -> Value {
    let mut document = serde_json::from_str(&record.document).unwrap_or(Value::Null);
    if let Some(key) = document.get_mut("key") {
        mask(key);
    }
    let Some(endpoint) = document.get_mut("endpoint") else { return document };
    if let Some(auth) = endpoint.get_mut("auth").and_then(Value::as_object_mut) {
        let credentials = auth.values_mut().filter_map(Value::as_object_mut).flatten();
        credentials.filter(|(key, _)| !PLAIN_IN_AUTH.contains(&key.as_str())).for_each(|(_, value)| mask(value));
    }
    if let Some(key) = endpoint.get_mut("tls").and_then(|tls| tls.get_mut("key")) {
        mask(key);
    }
    for (table, all) in [("headers", true), ("form", false)] {
        let values = endpoint.get_mut(table).and_then(Value::as_object_mut).into_iter().flatten();
        values.filter(|(name, _)| all || is_secret_header(name)).for_each(|(_, value)| mask(value));
    }
    for url in ["url", "backup_url"] {
        if let Some(Value::String(url)) = endpoint.get_mut(url)
            && let Some((path, _)) = url.split_once('?')
        {
            *url = format!("{path}?{MASK}");
        }
    }
    document
}

fn mask(value: &mut Value) {
    match value {
        Value::String(text) if text.starts_with("env:") || text.starts_with("file:") || is_plain_template(text) => {}
        Value::String(text) => MASK.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Object(fields) => fields.values_mut().for_each(mask),
        _ => {}
    }
}

/// What of an endpoint's `auth` is no secret.
const PLAIN_IN_AUTH: [&str; 8] =
    ["name", "grant", "client_auth", "client_id", "header", "scheme", "scope", "token_url"];

/// Whether a template holds variables only, and no text of its own that may be a secret.
fn is_plain_template(text: &str) -> bool {
    let mut parts = text.split("{{");
    let no_text = |part: &str| !part.contains(char::is_alphanumeric);
    text.contains("{{")
        && parts.next().is_none_or(no_text)
        && parts.all(|part| {
            part.split_once("}}").is_some_and(|(inner, after)| !inner.contains(['"', '\'']) && no_text(after))
        })
}
