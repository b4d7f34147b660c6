//! What staff ask and do: leads, deliveries, refused posts; redeliver, resolve, cancel, pause, resume.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Path, Query, State};
use axum::response::IntoResponse as _;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::access::{Role, Staff, bearer};
use super::views::{self, Reveal};
use super::{Answer, Api, leads};
use crate::directory::Network;
use crate::gate::Shut;
use crate::intake::identity;
use crate::model::delivery::{DeliveryState, Verdict};
use crate::model::id::{ContractId, DeliveryId, LeadId};
use crate::model::lead::LeadStatus;
use crate::model::units::Size;
use crate::pipeline::{ActFault, RedeliverLimits};
use crate::store::{DeliveryRecord, DeliverySearch, LeadSearch, Page, PausedKind, RefusalSearch};
use crate::web::problem::{FieldProblem, Problem};
use crate::web::room::From;

/// Items on a page, unless asked for otherwise, and at most.
const LIMIT: u32 = 50;
const LIMIT_MOST: u32 = 500;

type Params = Query<HashMap<String, String>>;

/// Query parameters, read one by one; every wrong one is named.
struct Reader<'a> {
    params: &'a HashMap<String, String>,
    known: Vec<&'static str>,
    errors: Vec<FieldProblem>,
}

impl<'a> Reader<'a> {
    fn new(params: &'a HashMap<String, String>) -> Self {
        Self { params, known: Vec::new(), errors: Vec::new() }
    }

    fn text(&mut self, name: &'static str) -> Option<&'a str> {
        self.known.push(name);
        self.params.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    fn read<T>(&mut self, name: &'static str, wanted: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let value = read(text);
        if value.is_none() {
            self.wrong(name, format!("must be {wanted}"));
        }
        value
    }

    fn parsed<T: FromStr>(&mut self, name: &'static str, wanted: &str) -> Option<T> {
        self.read(name, wanted, |text| text.parse().ok())
    }

    fn wrong(&mut self, field: &str, message: String) {
        self.errors.push(FieldProblem { field: field.to_owned(), code: "parameter".to_owned(), message });
    }

    fn limit(&mut self) -> u32 {
        let limit = self.read("limit", "a whole number from 1 to 500", |text| {
            text.parse().ok().filter(|limit| (1..=LIMIT_MOST).contains(limit))
        });
        limit.unwrap_or(LIMIT)
    }

    fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        self.parsed(name, "a time such as 2026-11-21T09:30:00Z")
    }

    fn finish(mut self) -> Result<(), Problem> {
        for name in self.params.keys() {
            if !self.known.contains(&name.as_str()) {
                let message = format!("is not a parameter here; known are {}", self.known.join(", "));
                self.errors.push(FieldProblem { field: name.clone(), code: "unknown".to_owned(), message });
            }
        }
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::malformed("some query parameters are wrong").with_errors(self.errors))
        }
    }
}

fn page<T>(page: &Page<T>, view: impl Fn(&T) -> Value) -> Value {
    json!({"items": page.items.iter().map(view).collect::<Vec<_>>(), "next_cursor": page.next})
}

/// Which gates are shut now, for everything on one page.
struct ShutGates {
    by_contract: HashMap<ContractId, Shut>,
    now: Timestamp,
}

impl ShutGates {
    async fn look(api: &Api, network: &Network) -> Self {
        let now = api.pipeline.clock.now();
        let mut by_contract = HashMap::new();
        for entry in network.contracts() {
            if let Some(shut) = api.pipeline.shut(entry, now).await {
                by_contract.insert(entry.contract.id.clone(), shut);
            }
        }
        Self { by_contract, now }
    }

    async fn look_at(api: &Api, network: &Network, deliveries: &[DeliveryRecord]) -> Self {
        let now = api.pipeline.clock.now();
        let mut by_contract = HashMap::new();
        for record in deliveries.iter().filter(|record| record.delivery.state == DeliveryState::Queued) {
            let contract = &record.delivery.contract;
            if by_contract.contains_key(contract) {
                continue;
            }
            if let Some(entry) = network.contract(contract)
                && let Some(shut) = api.pipeline.shut(entry, now).await
            {
                by_contract.insert(contract.clone(), shut);
            }
        }
        Self { by_contract, now }
    }

    /// Why this delivery is held, if it is.
    fn of(&self, record: &DeliveryRecord) -> Option<Shut> {
        let delivery = &record.delivery;
        let ready = delivery.state == DeliveryState::Queued && delivery.due_at.is_none_or(|due| due <= self.now);
        let shut = self.by_contract.get(&delivery.contract).filter(|_| ready)?;
        // A person's bypass passes limits.
        (!(delivery.bypass_limits && shut.reason == crate::model::delivery::ShutReason::Full)).then(|| shut.clone())
    }
}

pub(super) async fn leads(State(api): State<Arc<Api>>, headers: HeaderMap, Query(params): Params) -> Answer {
    let staff = api.staff(&headers)?;
    let network = api.pipeline.directory.network();
    let mut read = Reader::new(&params);
    let mut lookups = Vec::new();
    for kind in ["email", "phone", "external_id", "click_id"] {
        if let Some(text) = read.text(kind) {
            lookups.push((kind, looked_for(kind, text, network.phone_regions())));
        }
    }
    let search = LeadSearch {
        lookups,
        source: read.parsed("source", "a source's id"),
        campaign: read.parsed("campaign", "a campaign's id"),
        status: read.read("status", "pending, sold, unsold or rejected", LeadStatus::from_word),
        test: read.parsed("test", "true or false"),
        from: read.time("from"),
        to: read.time("to"),
        cursor: read.parsed("cursor", "a page's next_cursor"),
        limit: read.limit(),
    };
    read.finish()?;
    let found = api.pipeline.store.find_leads(search).await?;
    let ids = found.items.iter().map(|record| record.lead.id).collect();
    let deliveries = api.pipeline.store.deliveries_of(ids).await?;
    let all: Vec<DeliveryRecord> = deliveries.values().flatten().cloned().collect();
    let shut = ShutGates::look_at(&api, &network, &all).await;
    let none = Vec::new();
    let view = page(&found, |record| {
        let deliveries = deliveries.get(&record.lead.id).unwrap_or(&none);
        views::lead(&network, record, deliveries, &|record| shut.of(record), staff.reveal())
    });
    Ok(Json(view).into_response())
}

/// What a searched text may be stored as; a telephone number without its country may be one of any home region.
fn looked_for(kind: &'static str, text: &str, regions: &[String]) -> Vec<String> {
    let mut values: Vec<String> = regions
        .iter()
        .map(|region| Some(region.as_str()))
        .chain([None])
        .filter_map(|region| identity::normalise_lookup(kind, text, region))
        .collect();
    values.sort_unstable();
    values.dedup();
    values
}

pub(super) async fn lead(State(api): State<Arc<Api>>, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    let network = api.pipeline.directory.network();
    let staff = api.staff(&headers);
    let source = if staff.is_err() { Api::source(&network, &headers) } else { None };
    let missing = || Problem::not_found(format!("there is no lead {id}"));
    if source.is_none()
        && let Err(problem) = staff
    {
        return Err(problem);
    }
    let id: LeadId = id.parse().map_err(|_| missing())?;
    let standings = api.pipeline.store.standings(id).await?.ok_or_else(missing)?;
    if let Some(source) = source {
        // A source may see its own leads only, and not learn which others there are.
        if standings.record.lead.source != source {
            return Err(missing());
        }
        return Ok(Json(views::SourceView::new(&network, &standings.record, &standings.deliveries)).into_response());
    }
    let reveal = staff.map_or(Reveal::Masked, |staff| staff.reveal());
    let shut = ShutGates::look_at(&api, &network, &standings.deliveries).await;
    Ok(Json(views::lead(&network, &standings.record, &standings.deliveries, &|record| shut.of(record), reveal))
        .into_response())
}

pub(super) async fn deliveries(State(api): State<Arc<Api>>, headers: HeaderMap, Query(params): Params) -> Answer {
    let staff = api.staff(&headers)?;
    Ok(Json(find_deliveries(&api, &params, staff.reveal()).await?).into_response())
}

/// A page of deliveries by the parameters of `GET /v1/deliveries`.
///
/// # Errors
/// Every wrong parameter by its name; when the store cannot be read.
#[expect(clippy::implicit_hasher, reason = "it is what axum reads a query into")]
pub async fn find_deliveries(api: &Api, params: &HashMap<String, String>, reveal: Reveal) -> Result<Value, Problem> {
    let network = api.pipeline.directory.network();
    let shut = ShutGates::look(api, &network).await;
    let mut read = Reader::new(params);
    let held = read.parsed("held", "true or false");
    let search = DeliverySearch {
        lead: read.parsed("lead", "a lead's id"),
        partner: read.parsed("partner", "a partner's id"),
        contract: read.parsed("contract", "a contract's id"),
        campaign: read.parsed("campaign", "a campaign's id"),
        source: read.parsed("source", "a source's id"),
        state: read.read("state", "a delivery's state", DeliveryState::from_word),
        verdict: read.read("verdict", "a verdict", Verdict::from_word),
        status_code: read.parsed("status_code", "an HTTP status"),
        reference: read.text("reference").map(str::to_owned),
        reason: read.text("reason").map(str::to_owned),
        held: held.map(|held| (held, shut.by_contract.keys().cloned().collect())),
        from: read.time("from"),
        to: read.time("to"),
        now: shut.now,
        cursor: read.parsed::<Uuid>("cursor", "a page's next_cursor"),
        limit: read.limit(),
    };
    read.finish()?;
    let found = api.pipeline.store.find_deliveries(search).await?;
    Ok(page(&found, |record| views::delivery(&network, record, shut.of(record).as_ref(), None, reveal)))
}

pub(super) async fn delivery(State(api): State<Arc<Api>>, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    let staff = api.staff(&headers)?;
    let id = delivery_id(&id)?;
    Ok(Json(delivery_view(&api, id, staff.reveal()).await?).into_response())
}

fn delivery_id(text: &str) -> Result<DeliveryId, Problem> {
    text.parse().map_err(|_| no_delivery(text))
}

fn no_delivery(id: impl std::fmt::Display) -> Problem {
    Problem::not_found(format!("there is no delivery {id}"))
}

async fn delivery_view(api: &Api, id: DeliveryId, reveal: Reveal) -> Result<Value, Problem> {
    let network = api.pipeline.directory.network();
    let record = api.pipeline.store.delivery(id).await?.ok_or_else(|| no_delivery(id))?;
    let attempts = api.pipeline.store.attempts(id).await?;
    let shut = ShutGates::look_at(api, &network, std::slice::from_ref(&record)).await;
    Ok(views::delivery(&network, &record, shut.of(&record).as_ref(), Some(&attempts), reveal))
}

pub(super) async fn refusals(State(api): State<Arc<Api>>, headers: HeaderMap, Query(params): Params) -> Answer {
    let staff = api.staff(&headers)?;
    let mut read = Reader::new(&params);
    let search = RefusalSearch {
        source: read.parsed("source", "a source's id"),
        request_id: read.parsed::<Uuid>("request_id", "a request's id").map(crate::model::id::RequestId),
        from: read.time("from"),
        to: read.time("to"),
        cursor: read.parsed("cursor", "a page's next_cursor"),
        limit: read.limit(),
    };
    read.finish()?;
    let found = api.pipeline.store.find_refusals(search).await?;
    Ok(Json(page(&found, |record| views::refusal(record, staff.reveal()))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Redeliver {
    limits: Option<RedeliverLimits>,
    reason: Option<String>,
}

pub(super) async fn redeliver(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Answer {
    let staff = api.staff(&headers)?.must_be(Role::Support)?;
    let body = whole(&api, body).await?;
    let id = delivery_id(&id)?;
    let wish: Redeliver = body_of(&body)?;
    let new = redeliver_as(&api, id, wish.limits, &staff.name, wish.reason).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({"delivery_id": new}))).into_response())
}

/// Sends a finished delivery again in somebody's name; the new delivery's id.
///
/// # Errors
/// As `POST /v1/deliveries/{id}/redeliver` answers them.
pub async fn redeliver_as(
    api: &Api,
    id: DeliveryId,
    limits: Option<RedeliverLimits>,
    who: &str,
    reason: Option<String>,
) -> Result<DeliveryId, Problem> {
    api.pipeline.redeliver(id, limits, who, reason).await.map_err(|fault| refused(fault, id))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolve {
    verdict: Verdict,
    reason: Option<String>,
}

pub(super) async fn resolve(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Answer {
    let staff = api.staff(&headers)?.must_be(Role::Support)?;
    let body = whole(&api, body).await?;
    let id = delivery_id(&id)?;
    let wish: Resolve = body_of(&body)?;
    let accepted = match wish.verdict {
        Verdict::Accepted => true,
        Verdict::Rejected => false,
        _ => return Err(Problem::validation("verdict must be accepted or rejected")),
    };
    api.pipeline.resolve(id, accepted, &staff.name, wish.reason).await.map_err(|fault| refused(fault, id))?;
    Ok(Json(delivery_view(&api, id, staff.reveal()).await?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancel {
    reason: Option<String>,
}

pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Answer {
    let staff = api.staff(&headers)?.must_be(Role::Support)?;
    let body = whole(&api, body).await?;
    let id = delivery_id(&id)?;
    let wish: Cancel = body_of(&body)?;
    api.pipeline.cancel(id, &staff.name, wish.reason).await.map_err(|fault| refused(fault, id))?;
    Ok(Json(delivery_view(&api, id, staff.reveal()).await?).into_response())
}

/// The largest body of an act: a reason in words.
const ACT_AT_MOST: Size = Size(64 << 10);

/// Reads the body of an act, once its token is known to be good.
async fn whole(api: &Api, body: Body) -> Result<Bytes, Problem> {
    let room = api.room.enter(From::Known);
    let received = leads::body::receive(body, api, Some(room), ACT_AT_MOST, "an act's body", usize::MAX).await;
    received.incomplete.map_or(Ok(received.bytes), Err)
}

/// An empty body is an empty object.
fn body_of<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let body = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            Problem::validation(crate::config::with_nearest(&error.to_string()))
        } else {
            Problem::malformed(format!("the body is not JSON: {error}"))
        }
    })
}

fn refused(fault: ActFault, id: DeliveryId) -> Problem {
    match fault {
        ActFault::Missing => no_delivery(id),
        ActFault::State(why) => Problem::conflict(why),
        ActFault::Store(error) => error.into(),
    }
}

pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    route: MatchedPath,
    Path(id): Path<String>,
) -> Answer {
    set_paused(&api, &headers, &route, id, true).await
}

pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    route: MatchedPath,
    Path(id): Path<String>,
) -> Answer {
    set_paused(&api, &headers, &route, id, false).await
}

async fn set_paused(api: &Api, headers: &HeaderMap, route: &MatchedPath, id: String, paused: bool) -> Answer {
    // The kind is written out in each route.
    let kind = match route.as_str().split('/').nth(2) {
        Some("partners") => PausedKind::Partner,
        Some("contracts") => PausedKind::Contract,
        Some("sources") => PausedKind::Source,
        _ => return Err(Problem::not_found("only partners, contracts and sources can be paused")),
    };
    let staff: Staff = api.staff(headers)?.must_be(Role::Support)?;
    let network = api.pipeline.directory.network();
    if !network.has(kind, &id) {
        return Err(Problem::not_found(format!("there is no {kind} `{id}`")));
    }
    api.pipeline.set_paused(kind, &id, paused, &staff.name).await?;
    Ok(Json(json!({"id": id, "paused": paused})).into_response())
}

/// Whoever asks, by token.
impl Api {
    /// The member of staff, if the token is known.
    ///
    /// # Errors
    /// 401 otherwise.
    pub(super) fn staff(&self, headers: &HeaderMap) -> Result<Staff, Problem> {
        bearer(headers).and_then(|token| self.tokens.load().find(token)).ok_or_else(|| {
            Problem::unauthorized(
                "send a staff token as Authorization: Bearer TOKEN (gateway token new NAME --role ROLE makes one)",
            )
        })
    }
}
