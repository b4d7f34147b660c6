//! What staff's commands ask: which deliveries there are, sending them again, where they stand. The answers are those of
//! the API, whose functions these are; whoever may open the socket needs no token and is called `cli`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::App;
use crate::api::{Reveal, find_deliveries, redeliver_as};
use crate::model::delivery::DeliveryState;
use crate::model::id::DeliveryId;
use crate::pipeline::RedeliverLimits;
use crate::web::problem::Problem;

/// Who is named in the audit.
const WHO: &str = "cli";
/// Deliveries whose standing may be asked for at a time.
const STANDINGS_AT_MOST: usize = 1_000;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/deliveries/find", post(find))
        .route("/deliveries/standings", post(standings))
        .route("/deliveries/redeliver", post(redeliver))
}

/// A page of deliveries, as `GET /v1/deliveries` has them, personal data masked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Found {
    /// Newest first.
    pub items: Vec<Value>,
    /// Where the next page begins.
    pub next_cursor: Option<String>,
}

async fn find(
    State(app): State<Arc<App>>,
    Json(parameters): Json<HashMap<String, String>>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(find_deliveries(&app.api, &parameters, Reveal::Masked).await?))
}

/// A delivery to be sent again.
#[derive(Debug, Serialize, Deserialize)]
pub struct RedeliverRequest {
    /// Which.
    pub delivery: DeliveryId,
    /// Whether it takes places.
    pub limits: Option<RedeliverLimits>,
    /// Why, in a person's words.
    pub reason: String,
}

/// What became of the wish.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redelivered {
    /// There is a new delivery.
    As(DeliveryId),
    /// There is none.
    Refused {
        /// As the API would have answered.
        status: u16,
        /// Why.
        detail: String,
    },
}

async fn redeliver(
    State(app): State<Arc<App>>,
    Json(request): Json<RedeliverRequest>,
) -> Result<Json<Redelivered>, Problem> {
    match redeliver_as(&app.api, request.delivery, request.limits, WHO, Some(request.reason)).await {
        Ok(new) => Ok(Json(Redelivered::As(new))),
        // The gateway's own trouble concerns every delivery, and not this one.
        Err(problem) if problem.status >= 500 => Err(problem),
        Err(problem) => Ok(Json(Redelivered::Refused { status: problem.status, detail: problem.detail })),
    }
}

/// Where do these stand?
#[derive(Debug, Serialize, Deserialize)]
pub struct StandingsRequest {
    /// Which.
    pub deliveries: Vec<DeliveryId>,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Standing {
    /// Which.
    pub delivery: DeliveryId,
    /// Its state's word.
    pub state: String,
    /// Nothing more happens to it by itself.
    pub ended: bool,
    /// Why it stands there.
    pub reason: Option<String>,
}

async fn standings(
    State(app): State<Arc<App>>,
    Json(request): Json<StandingsRequest>,
) -> Result<Json<Vec<Standing>>, Problem> {
    if request.deliveries.len() > STANDINGS_AT_MOST {
        return Err(Problem::validation(format!("ask for {STANDINGS_AT_MOST} deliveries at most")));
    }
    let mut standings = Vec::with_capacity(request.deliveries.len());
    for id in request.deliveries {
        let Some(record) = app.pipeline.store.delivery(id).await? else { continue };
        let state = record.delivery.state;
        standings.push(Standing {
            delivery: id,
            state: state.as_str().to_owned(),
            ended: state.is_final() || state == DeliveryState::Unknown,
            reason: record.delivery.reason,
        });
    }
    Ok(Json(standings))
}
