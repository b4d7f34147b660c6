//! Campaigns, sources, partners and contracts, as they are stored.

use std::sync::Arc;

use axum::Json;
use axum::extract::{MatchedPath, Path, State};
use axum::response::IntoResponse as _;
use http::{HeaderMap, HeaderValue, header};
use serde_json::Value;

use super::{Answer, Api};
use crate::model::secret::mask_document;
use crate::store::{Kind, ResourceRecord, StoredResource};
use crate::web::problem::Problem;

/// A list's JSON before its first item, and after its last.
const BEGINNING: &[u8] = br#"{"items":["#;
const END: &[u8] = br#"],"next_cursor":null}"#;

pub(super) async fn list(State(api): State<Arc<Api>>, headers: HeaderMap, path: MatchedPath) -> Answer {
    api.staff(&headers)?;
    let kind = kind_of(path.as_str())?;
    // Written down as they are read: of a large network one after the other is in memory, and not all of them.
    let mut list = api
        .pipeline
        .store
        .read_resources(BEGINNING.to_vec(), move |list: &mut Vec<u8>, one| {
            if one.kind == kind {
                if list.len() > BEGINNING.len() {
                    list.push(b',');
                }
                // Into memory: this cannot fail.
                let _ = serde_json::to_writer(list, &shown(one.document));
            }
        })
        .await?;
    list.extend_from_slice(END);
    Ok(([(header::CONTENT_TYPE, "application/json")], list).into_response())
}

pub(super) async fn one(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    path: MatchedPath,
    Path(id): Path<String>,
) -> Answer {
    api.staff(&headers)?;
    let kind = kind_of(path.as_str())?;
    let wanted = id.clone();
    let find = move |found: &mut Option<ResourceRecord>, one: StoredResource<'_>| {
        if one.kind == kind && one.id == wanted {
            *found = Some(one.into());
        }
    };
    let record = api.pipeline.store.read_resources(None, find).await?;
    let record = record.ok_or_else(|| Problem::not_found(format!("there is no {kind} `{id}`")))?;
    let mut response = Json(shown(&record.document)).into_response();
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
fn shown(document: &str) -> Value {
    let mut document = serde_json::from_str(document).unwrap_or(Value::Null);
    mask_document(&mut document);
    document
}
