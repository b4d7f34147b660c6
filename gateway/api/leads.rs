//! `POST /v1/campaigns/{campaign}/leads`: every check and answer of CONTRACT 7, in its order.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Extension, Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::views::SourceView;
use super::{Answer, Api};
use crate::capture::{self, Captured, Redactor};
use crate::directory::{CampaignEntry, LimitReached, Network, SourceEntry};
use crate::intake::{self, Format, PostedValue, auth, idempotency, wait};
use crate::model::id::{CampaignId, LeadId, RequestId, SourceId};
use crate::model::lead::{Lead, LeadStatus, Meta};
use crate::model::secret::MASK;
use crate::model::source::SourceStatus;
use crate::pipeline::{Outcome, Posted, Receipt};
use crate::store::{Accepted, DedupeKey, Head, IdempotencyKey, Message, RefusalRecord, Remembered};
use crate::telemetry;
use crate::web::problem::{FieldProblem, Problem};
use crate::web::server::Client;

/// A refused body is read off up to here, so that the client hears the answer.
const READ_OFF: usize = 16 << 20;
/// … and for so long.
const READ_OFF_WITHIN: Duration = Duration::from_secs(5);

/// How long a post that comes during a start waits for its end.
const START_WITHIN: Duration = Duration::from_secs(2);

/// What stands in a path as it is (RFC 3986, unreserved).
const IN_A_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A post as it came.
struct Arrival {
    request: RequestId,
    campaign: String,
    headers: HeaderMap,
    query: Option<String>,
    client: Client,
    body: Bytes,
    /// The body was larger than it may be, or did not come in time.
    incomplete: Option<Problem>,
}

pub(super) async fn post(
    State(api): State<Arc<Api>>,
    Path(campaign): Path<String>,
    RawQuery(query): RawQuery,
    ConnectInfo(client): ConnectInfo<Client>,
    Extension(request): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let (body, incomplete) = read_body(body, &api).await;
    let arrival = Arrival { request, campaign, headers, query, client, body, incomplete };
    let network = api.pipeline.directory.network();

    let Some(source) = authenticate(&network, &arrival) else {
        return Err(Problem::unauthorized("send your key as Authorization: Bearer KEY or as X-Api-Key: KEY"));
    };
    let started = crate::clock::instant();
    let answer = take(&api, &network, &source, &arrival).await;
    telemetry::stage("intake", started.elapsed());
    match answer {
        Ok((status, response)) => {
            telemetry::lead_answered(source.source.id.as_str(), source.source.campaign.as_str(), status);
            Ok(response)
        }
        Err(problem) => {
            telemetry::lead_answered(source.source.id.as_str(), source.source.campaign.as_str(), "refused");
            let problem = problem.of(arrival.request);
            keep_refusal(&api, &network, &source, &arrival, &problem).await;
            Err(problem)
        }
    }
}

/// Reads the body up to its limit; what goes beyond is read off, within bounds, and reported.
async fn read_body(mut body: Body, api: &Api) -> (Bytes, Option<Problem>) {
    let mut kept = BytesMut::new();
    let problem =
        match tokio::time::timeout(api.body_timeout.0, keep(&mut body, &mut kept, api.body_limit.bytes())).await {
            Ok(Ok(true)) => None,
            Ok(Ok(false)) => {
                // Whether it ends, breaks off or dawdles: the answer is the same.
                let _ = tokio::time::timeout(READ_OFF_WITHIN, read_off(&mut body)).await;
                Some(Problem::too_large(format!("a lead's body may have {} at most", api.body_limit)))
            }
            Ok(Err(_)) => Some(Problem::malformed("the body broke off")),
            Err(_) => Some(Problem::malformed(format!("the body did not come within {}", api.body_timeout))),
        };
    (kept.freeze(), problem)
}

/// Reads into `kept`, `limit` bytes at most; whether that was all.
async fn keep(body: &mut Body, kept: &mut BytesMut, limit: usize) -> Result<bool, axum::Error> {
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame?.into_data() else { continue };
        let fits = data.len() <= limit - kept.len();
        data.truncate(limit - kept.len());
        kept.extend_from_slice(&data);
        if !fits {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn read_off(body: &mut Body) {
    let mut dropped = 0;
    while let Some(Ok(frame)) = body.frame().await {
        dropped += frame.data_ref().map_or(0, Bytes::len);
        if dropped > READ_OFF {
            return;
        }
    }
}

/// Whose post this is: by a header, or, for sources that may, by a `key` in query or body.
fn authenticate(network: &Network, arrival: &Arrival) -> Option<Arc<SourceEntry>> {
    let find = |key: &str| network.keys().find(key).and_then(|id| network.source(id)).cloned();
    let allowed = |source: &Arc<SourceEntry>| source.source.key_in_body;
    if let Some(credential) = auth::credential(&arrival.headers, arrival.query.as_deref()) {
        return find(&credential.key).filter(|source| !credential.in_query || allowed(source));
    }
    let posted = parse(network, format_of(&arrival.headers)?, arrival);
    find(&posted.ok()?.take_key()?).filter(allowed)
}

/// Reads the body for the campaign that it was posted to, if there is one: a list is known by its campaign.
fn parse(network: &Network, format: Format, arrival: &Arrival) -> Result<intake::Posted, intake::Malformed> {
    match arrival.campaign.parse::<CampaignId>().ok().and_then(|id| network.campaign(&id)) {
        Some(campaign) => campaign.rules.parse(format, &arrival.body),
        None => intake::parse(format, &arrival.body),
    }
}

fn format_of(headers: &HeaderMap) -> Option<Format> {
    Format::from_content_type(headers.get(header::CONTENT_TYPE)?.to_str().ok()?)
}

/// The checks, in the contract's order. The word beside the response is for metrics.
async fn take(
    api: &Arc<Api>,
    network: &Network,
    source: &Arc<SourceEntry>,
    arrival: &Arrival,
) -> Result<(&'static str, Response), Problem> {
    let campaign = arrival.campaign.parse::<CampaignId>().ok().and_then(|id| network.campaign(&id).cloned());
    let Some(campaign) = campaign else {
        return Err(Problem::not_found(format!(
            "there is no campaign `{}`",
            arrival.campaign.chars().take(64).collect::<String>()
        )));
    };
    if source.source.campaign != campaign.campaign.id {
        return Err(Problem::forbidden(format!(
            "this key belongs to a source of another campaign than {}",
            campaign.campaign.id
        )));
    }
    if let Err(pause) = source.pace(crate::clock::instant()) {
        return Err(Problem::rate_limited(format!("{} may post {}", source.source.id, source.rate_in_words()))
            .retry_after(whole_seconds(pause)));
    }
    let Some(format) = format_of(&arrival.headers) else {
        return Err(Problem::unsupported_media_type(
            "send application/json, application/x-www-form-urlencoded, multipart/form-data with its boundary, or \
             application/xml, in UTF-8",
        ));
    };
    if let Some(problem) = &arrival.incomplete {
        return Err(problem.clone());
    }
    let mut posted =
        campaign.rules.parse(format, &arrival.body).map_err(|fault| Problem::malformed(fault.to_string()))?;
    let mut body = arrival.body.clone();
    if source.source.key_in_body
        && let Some(key) = posted.take_key()
    {
        // Keys are kept as hashes only.
        body = Redactor::new(&[key]).redact(&body).into_owned().into();
    }
    let usual = source.source.wait.map(|wait| wait.0);
    let wait = wait::wait(&arrival.headers, arrival.query.as_deref(), usual)
        .map_err(|fault| Problem::malformed(fault.to_string()))?;
    let wants_xml = wants_xml(format, &arrival.headers);

    let key = idempotency_key(arrival)?;
    let _claim = match &key {
        Some(key) => {
            let claim = Claim::new(api, &source.source.id, &key.key)?;
            if let Some(remembered) =
                api.pipeline.store.remembered(source.source.id.as_str(), &key.key, api.pipeline.clock.now()).await?
            {
                return replay(api, network, &remembered, key, wants_xml).await;
            }
            Some(claim)
        }
        None => None,
    };
    // Which sources are paused is known when the start is over; what is wrong with a post can be said before.
    let ready = api.worker.is_ready() || api.worker.becomes_ready(START_WITHIN).await;
    if source.source.status == SourceStatus::Ended {
        return Err(Problem::source_paused(format!("the agreement with {} has ended", source.source.id)));
    }
    if api.pipeline.directory.is_source_paused(source.source.id.as_str()) {
        return Err(Problem::source_paused(format!("{} is paused; ask us when it resumes", source.source.id)));
    }
    match intake::query_test(arrival.query.as_deref()) {
        Ok(test) => posted.test |= test,
        Err(fault) => posted.faults.push(fault),
    }
    let valid = campaign.rules.validate(posted).map_err(invalid)?;
    if !ready {
        return Err(Problem::unavailable("the gateway is starting; try again in a moment").retry_after(1));
    }

    let now = api.pipeline.clock.now();
    let lead = Arc::new(Lead {
        id: LeadId(api.pipeline.clock.uuid()),
        campaign: campaign.campaign.id.clone(),
        source: source.source.id.clone(),
        received_at: now,
        test: valid.test,
        meta: arrived_with(valid.meta, arrival),
        fields: valid.fields,
    });
    let posted = Posted {
        dedupe: dedupe_keys(&campaign, &lead),
        lookups: campaign.rules.lookup_keys(&lead.fields, &lead.meta),
        lead: Arc::clone(&lead),
        idempotency: key,
        content_type: header_text(&arrival.headers, &header::CONTENT_TYPE).unwrap_or_default(),
        body,
        request: arrival.request,
    };
    // Before the commit, so that no outcome can be missed.
    let waits = !wait.is_zero() && !lead.test;
    let waiting = waits.then(|| (wait, api.pipeline.outcomes.wait_for(lead.id)));
    let receipt = api.pipeline.accept(posted, &campaign, source).await.map_err(|error| {
        tracing::error!(store.error = %error, "a lead could not be made durable");
        Problem::unavailable("the lead could not be stored; it is safe to post it again").retry_after(2)
    })?;
    answer(api, network, &campaign, source, &lead, receipt, waiting, wants_xml, now).await
}

#[expect(clippy::too_many_arguments, reason = "one call, and each is a different thing")]
async fn answer(
    api: &Arc<Api>,
    network: &Network,
    campaign: &CampaignEntry,
    source: &SourceEntry,
    lead: &Lead,
    receipt: Receipt,
    waiting: Option<(Duration, crate::pipeline::Waiting)>,
    wants_xml: bool,
    now: Timestamp,
) -> Result<(&'static str, Response), Problem> {
    match receipt.accepted {
        Accepted::Stored | Accepted::Duplicate => {}
        Accepted::LimitReached(key) => return Err(limit_reached(&campaign.limit_reached(source, &key, now), now)),
        Accepted::KeyTaken(_) => {
            return Err(Problem::idempotency_in_progress(
                "another request with this key has just been accepted; send it again for its answer",
            ));
        }
    }
    // A source that does not wait is told that its lead is taken; what becomes of it, it looks up.
    let known = match waiting {
        _ if receipt.status == LeadStatus::Rejected || lead.test => true,
        None => false,
        Some(_) if receipt.status != LeadStatus::Pending => true,
        Some((wait, mut waiting)) => {
            matches!(tokio::time::timeout(wait, waiting.outcome()).await, Ok(Outcome::Decided))
        }
    };
    if !known {
        let body = SourceView::pending(lead);
        return Ok(("accepted", respond(StatusCode::ACCEPTED, &body, wants_xml)));
    }
    let Some(standings) = api.pipeline.store.standings(lead.id).await? else {
        return Err(Problem::internal("the lead was stored, and is gone"));
    };
    let view = SourceView::new(network, &standings.record, &standings.deliveries);
    Ok((standings.record.status.as_str(), respond(StatusCode::OK, &view, wants_xml)))
}

fn respond(status: StatusCode, view: &SourceView, xml: bool) -> Response {
    if xml {
        let mut response = (status, view.to_xml()).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml; charset=utf-8"));
        response
    } else {
        (status, axum::Json(view)).into_response()
    }
}

async fn replay(
    api: &Api,
    network: &Network,
    remembered: &Remembered,
    key: &IdempotencyKey,
    wants_xml: bool,
) -> Result<(&'static str, Response), Problem> {
    if remembered.fingerprint != key.fingerprint {
        return Err(Problem::idempotency_reused(
            "this Idempotency-Key came with another body before; use a new key for a new lead",
        ));
    }
    let Some(standings) = api.pipeline.store.standings(remembered.lead).await? else {
        return Err(Problem::not_found("the lead of this key is past its retention"));
    };
    let view = SourceView::new(network, &standings.record, &standings.deliveries);
    let status = if standings.record.status == LeadStatus::Pending { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok(("replayed", respond(status, &view, wants_xml)))
}

/// An idempotency key that is being worked on; leaving it frees the key.
struct Claim {
    api: Arc<Api>,
    key: (SourceId, String),
}

impl Claim {
    fn new(api: &Arc<Api>, source: &SourceId, key: &str) -> Result<Self, Problem> {
        let key = (source.clone(), key.to_owned());
        let mut claimed = api.in_progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !claimed.insert(key.clone()) {
            return Err(Problem::idempotency_in_progress(
                "a request with this Idempotency-Key is being worked on; try again in a moment",
            ));
        }
        drop(claimed);
        Ok(Self { api: Arc::clone(api), key })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.api.in_progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.key);
    }
}

fn idempotency_key(arrival: &Arrival) -> Result<Option<IdempotencyKey>, Problem> {
    let key = idempotency::key(&arrival.headers).map_err(|fault| Problem::malformed(fault.to_string()))?;
    Ok(key.map(|key| IdempotencyKey { key: key.to_owned(), fingerprint: idempotency::fingerprint(&arrival.body) }))
}

fn invalid(errors: Vec<intake::FieldError>) -> Problem {
    let errors = errors.into_iter().map(|error| FieldProblem {
        field: error.field,
        code: error.code.as_str().to_owned(),
        message: error.message,
    });
    Problem::validation("correct the fields named in errors and post the lead again").with_errors(errors.collect())
}

fn wants_xml(format: Format, headers: &HeaderMap) -> bool {
    let accept = header_text(headers, &header::ACCEPT).unwrap_or_default().to_ascii_lowercase();
    let names = |kind: &str| accept.contains(kind);
    match format {
        Format::Xml => names("xml") || !names("json"),
        _ => names("/xml") && !names("json"),
    }
}

fn arrived_with(mut meta: Meta, arrival: &Arrival) -> Meta {
    meta.ip = arrival.client.0.map(|address| address.ip().to_string());
    meta.user_agent = header_text(&arrival.headers, &header::USER_AGENT).map(|text| text.chars().take(255).collect());
    meta
}

fn header_text(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn dedupe_keys(campaign: &CampaignEntry, lead: &Lead) -> Vec<DedupeKey> {
    let keys = campaign.rules.dedupe_keys(&lead.fields).into_iter();
    keys.map(|key| DedupeKey { text: format!("{}\n{}", campaign.campaign.id, key.text), window: key.window }).collect()
}

fn limit_reached(reached: &LimitReached, now: Timestamp) -> Problem {
    match reached.opens {
        None => Problem {
            status: StatusCode::FORBIDDEN.as_u16(),
            ..Problem::limit_reached(format!("{} is used up", reached.what))
        },
        Some(opens) => {
            let seconds = whole_seconds(Duration::try_from(opens.duration_since(now)).unwrap_or_default());
            let problem =
                Problem::limit_reached(format!("{} is reached; it opens at {}", reached.what, super::time(opens)));
            if seconds <= 24 * 3600 { problem.retry_after(seconds) } else { problem }
        }
    }
}

fn whole_seconds(pause: Duration) -> u64 {
    pause.as_secs() + u64::from(pause.subsec_nanos() > 0)
}

/// Keeps a refused post with its answer, secrets masked.
async fn keep_refusal(api: &Api, network: &Network, source: &SourceEntry, arrival: &Arrival, problem: &Problem) {
    let (secrets, shown) = secrets_of(network, source, arrival);
    let campaign = utf8_percent_encode(&arrival.campaign, IN_A_PATH);
    let url = format!("/v1/campaigns/{campaign}/leads");
    let redactor = Redactor::new(&secrets);
    let headers: Vec<(String, String)> = arrival
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let head = Head {
        method: Some(Method::POST.to_string()),
        url: Some(url),
        status: None,
        headers: capture::redact_headers(&headers, &redactor),
    };
    let mut body = Captured::of(shown, &redactor, api.pipeline.capture_limit);
    if shown.len() < arrival.body.len() && !body.truncated {
        body.body.extend_from_slice(MASK.as_bytes());
    }
    let refusal = RefusalRecord {
        request_id: arrival.request,
        source: source.source.id.clone(),
        campaign: arrival.campaign.chars().take(64).collect(),
        at: api.pipeline.clock.now(),
        request: Message {
            head: serde_json::to_string(&head).unwrap_or_default(),
            body: body.body,
            truncated: body.truncated || shown.len() < arrival.body.len() || arrival.incomplete.is_some(),
        },
        status: problem.status,
        answer: problem.document(),
    };
    if let Err(error) = api.pipeline.store.refuse(refusal).await {
        tracing::warn!(store.error = %error, source.id = %source.source.id, "a refused post could not be kept");
    }
}

/// What must not be kept of a refused post: the source's key, wherever it stands, and sensitive fields. Beside it, how
/// much of the body can be kept: where a sensitive value cannot be told from the rest, as in a body that cannot be read,
/// only what comes before the first sensitive field's name.
fn secrets_of<'a>(network: &Network, source: &SourceEntry, arrival: &'a Arrival) -> (Vec<String>, &'a [u8]) {
    let mut secrets: Vec<String> = auth::credential(&arrival.headers, arrival.query.as_deref())
        .map(|credential| credential.key)
        .into_iter()
        .collect();
    let posted = format_of(&arrival.headers).and_then(|format| parse(network, format, arrival).ok());
    let mut findable = posted.is_some();
    let mut posted = posted.unwrap_or_default();
    if source.source.key_in_body {
        secrets.extend(posted.take_key());
    }
    let Some(campaign) = network.campaign(&source.source.campaign) else { return (secrets, &arrival.body) };
    for (_, value) in posted.fields.iter().filter(|(name, _)| campaign.is_sensitive(name)) {
        findable &= add_values(value, &mut secrets);
    }
    let shown = if findable { arrival.body.len() } else { first_sensitive(campaign, &arrival.body) };
    (secrets, arrival.body.get(..shown).unwrap_or_default())
}

/// Adds the texts in a value to `secrets`; whether all of them can be found by it.
fn add_values(value: &PostedValue, secrets: &mut Vec<String>) -> bool {
    match value {
        PostedValue::Text(text) | PostedValue::Number(text) if capture::is_findable(text) => {
            secrets.push(text.clone());
            true
        }
        PostedValue::Text(text) => text.is_empty(),
        // An array that no list reads may hold anything.
        PostedValue::List(entries) => {
            !entries.is_empty() && entries.iter().fold(true, |all, (_, entry)| add_values(entry, secrets) && all)
        }
        PostedValue::Group(members) => members.iter().fold(true, |all, (_, member)| add_values(member, secrets) && all),
        PostedValue::Number(_) | PostedValue::Boolean(_) => false,
    }
}

/// Where the name of a sensitive field first stands in `body`; its length if nowhere.
fn first_sensitive(campaign: &CampaignEntry, body: &[u8]) -> usize {
    let sensitive = campaign.campaign.fields.iter().filter(|(_, field)| field.sensitive);
    // The last part of a dotted name is what stands next to the value in every format.
    let names = sensitive.filter_map(|(name, _)| name.rsplit('.').next());
    names.filter_map(|name| memchr::memmem::find(body, name.as_bytes())).min().unwrap_or(body.len())
}
