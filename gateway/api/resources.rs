//! Campaigns, sources, partners and contracts, as they are stored.

use std::sync::Arc;

use axum::Json;
use axum::extract::{MatchedPath, Path, State};
use axum::response::IntoResponse as _;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};

use super::{Answer, Api};
use crate::model::secret::mask_document;
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
    mask_document(&mut document);
    document
}
