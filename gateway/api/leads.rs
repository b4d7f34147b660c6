//! `POST /v1/campaigns/{campaign}/leads`: the checks and answers of CONTRACT 7, in its order. What a post shares with the
//! lines of a [`batch`] stands in [`accept`].

mod accept;
pub(super) mod batch;
pub(super) mod body;
pub(super) mod refusal;

use std::sync::Arc;

use axum::extract::{ConnectInfo, Extension, Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::views::SourceView;
use super::{Answer, Api};
use crate::directory::{CampaignEntry, Network, SourceEntry};
use crate::intake::{self, Format, Malformed, auth, idempotency, wait};
use crate::model::id::{CampaignId, RequestId};
use crate::store::IdempotencyKey;
use crate::telemetry;
use crate::web::problem::Problem;
use crate::web::room;
use crate::web::server::Client;
use accept::{Incoming, Read, accept, header_text, whole_seconds};
use body::Received;
use refusal::Refused;

/// A request as it came, but for its body.
struct Arrival {
    request: RequestId,
    campaign: String,
    /// The path's end, behind the campaign.
    call: &'static str,
    headers: HeaderMap,
    query: Option<String>,
    client: Client,
}

/// The campaign that a lead is posted to, where the path says so plainly; percent-encoded ones are left to the router.
pub(super) fn campaign_posted_to(request: &Request) -> Option<&str> {
    if request.method() != Method::POST {
        return None;
    }
    let campaign = request.uri().path().strip_prefix("/v1/campaigns/")?.strip_suffix("/leads")?;
    let plain = !campaign.is_empty() && !campaign.contains(['/', '%']);
    plain.then_some(campaign)
}

pub(super) async fn post(
    State(api): State<Arc<Api>>,
    Path(campaign): Path<String>,
    ConnectInfo(client): ConnectInfo<Client>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Answer {
    post_to(&api, campaign, request, client, id).await
}

/// A lead is posted to `campaign`.
pub(super) async fn post_to(
    api: &Arc<Api>,
    campaign: String,
    request: Request,
    client: Client,
    id: RequestId,
) -> Answer {
    let (head, mut body) = request.into_parts();
    let query = head.uri.query().map(str::to_owned);
    let arrival = Arrival { request: id, campaign, call: "leads", headers: head.headers, query, client };
    let before = api.pipeline.directory.network();
    let known = authenticate(&before, &arrival, None);
    if known.is_none() && auth::credential(&arrival.headers, arrival.query.as_deref()).is_some() {
        // Whatever is in the body: the key that counts is wrong.
        body::read_off(&mut body).await;
        return Err(unauthorized());
    }
    let room = api.room.enter(if known.is_some() { room::From::Known } else { room::From::Stranger });
    let received = body::receive(body, api, Some(room), api.body_limit, "a lead's body", usize::MAX).await;
    // As it is now: the body may have taken its time.
    let network = api.pipeline.directory.network();
    let source = match known {
        Some(source) if Arc::ptr_eq(&before, &network) => Some(source),
        _ => authenticate(&network, &arrival, Some(&received)),
    };
    let Some(source) = source else {
        // A key may be in what found no room.
        let no_room = received.incomplete.filter(|problem| problem.status == StatusCode::SERVICE_UNAVAILABLE.as_u16());
        return Err(no_room.unwrap_or_else(unauthorized));
    };
    let started = crate::clock::instant();
    let answer = take(api, &network, &source, &arrival, &received).await;
    telemetry::stage("intake", started.elapsed());
    let word = answer.as_ref().map_or("refused", |(word, _)| word);
    telemetry::lead_answered(&source.counts, source.source.id.as_str(), source.source.campaign.as_str(), word);
    match answer {
        Ok((_, response)) => Ok(response),
        Err(problem) => {
            let problem = problem.of(id);
            let refused = Refused {
                request: id,
                format: format_of(&arrival.headers),
                body: &received.bytes,
                incomplete: received.incomplete.is_some(),
                status: problem.status,
                answer: problem.document(),
            };
            refused.keep(api, &network, &source, &arrival).await;
            Err(problem)
        }
    }
}

/// Takes a row of an imported file as if its source had posted it as a form. The word beside the response is for metrics.
pub(super) async fn take_row(
    api: &Arc<Api>,
    network: &Network,
    source: &Arc<SourceEntry>,
    row: &super::import::Row,
    test: bool,
) -> Result<(&'static str, Response), Problem> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    let key = HeaderValue::from_str(&row.key).map_err(|_| Problem::malformed("the row's key cannot be used"))?;
    headers.insert("idempotency-key", key);
    let arrival = Arrival {
        request: RequestId(api.pipeline.clock.uuid()),
        campaign: source.source.campaign.to_string(),
        call: "import",
        headers,
        // Nobody waits for the outcome of a row, whatever the source's posts do.
        query: Some(if test { "wait=0&test=true" } else { "wait=0" }.to_owned()),
        client: Client(None),
    };
    let received = Received { bytes: row.form.clone().into(), incomplete: None, room: None };
    take(api, network, source, &arrival, &received).await
}

fn unauthorized() -> Problem {
    Problem::unauthorized("send your key as Authorization: Bearer KEY or as X-Api-Key: KEY")
}

/// Whose request this is: by a header, or, for sources that may, by a `key` in query or body.
fn authenticate(network: &Network, arrival: &Arrival, received: Option<&Received>) -> Option<Arc<SourceEntry>> {
    let find = |key: &str| network.keys().find(key).and_then(|id| network.source(id)).cloned();
    let allowed = |source: &Arc<SourceEntry>| source.source.key_in_body;
    if let Some(credential) = auth::credential(&arrival.headers, arrival.query.as_deref()) {
        return find(&credential.key).filter(|source| !credential.in_query || allowed(source));
    }
    let posted = read(network, &arrival.campaign, format_of(&arrival.headers)?, &received?.bytes);
    find(&posted.ok()?.take_key()?).filter(allowed)
}

/// Reads a body for the campaign that it was posted to, if there is one: a list is known by its campaign.
fn read<'b>(
    network: &Network,
    campaign: &str,
    format: Format,
    body: &'b [u8],
) -> Result<intake::Posted<'b>, Malformed> {
    match campaign.parse::<CampaignId>().ok().and_then(|id| network.campaign(&id)) {
        Some(campaign) => campaign.rules.parse(format, body),
        None => intake::parse(format, body),
    }
}

fn format_of(headers: &HeaderMap) -> Option<Format> {
    Format::from_content_type(headers.get(header::CONTENT_TYPE)?.to_str().ok()?)
}

/// The campaign that was posted to, if it is the source's.
fn campaign_of(network: &Network, source: &SourceEntry, arrival: &Arrival) -> Result<Arc<CampaignEntry>, Problem> {
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
    Ok(campaign)
}

/// The checks, in the contract's order. The word beside the response is for metrics.
async fn take(
    api: &Arc<Api>,
    network: &Network,
    source: &Arc<SourceEntry>,
    arrival: &Arrival,
    received: &Received,
) -> Result<(&'static str, Response), Problem> {
    let campaign = campaign_of(network, source, arrival)?;
    if let Err(pause) = source.pace(crate::clock::instant()) {
        return Err(too_fast(source, pause));
    }
    let Some(format) = format_of(&arrival.headers) else {
        return Err(Problem::unsupported_media_type(
            "send application/json, application/x-www-form-urlencoded, multipart/form-data with its boundary, or \
             application/xml, in UTF-8",
        ));
    };
    uncompressed(&arrival.headers)?;
    if let Some(problem) = &received.incomplete {
        return Err(problem.clone());
    }
    let posted =
        campaign.rules.parse(format, &received.bytes).map_err(|fault| Problem::malformed(fault.to_string()))?;
    let usual = source.source.wait.map(|wait| wait.0);
    let wait = wait::wait(&arrival.headers, arrival.query.as_deref(), usual)
        .map_err(|fault| Problem::malformed(fault.to_string()))?;
    let key = idempotency::key(&arrival.headers).map_err(|fault| Problem::malformed(fault.to_string()))?;
    let key =
        key.map(|key| IdempotencyKey { key: key.to_owned(), fingerprint: idempotency::fingerprint(&received.bytes) });
    let room = received.room.clone();
    let post = Read { request: arrival.request, posted, body: &received.bytes, room, key };
    let incoming = Incoming::new(&campaign, source, arrival, post);
    let taken = accept(api, network, &campaign, source, incoming, wait).await?;
    Ok((taken.word, respond(taken.status, &taken.view, wants_xml(format, &arrival.headers))))
}

/// A compressed body is not read, and must not be taken for a broken one.
fn uncompressed(headers: &HeaderMap) -> Result<(), Problem> {
    let coding = header_text(headers, &header::CONTENT_ENCODING).unwrap_or_default();
    if coding.is_empty() || coding.trim().eq_ignore_ascii_case("identity") {
        return Ok(());
    }
    Err(Problem::unsupported_media_type("a Content-Encoding is not taken: send the body uncompressed"))
}

/// A source posts faster than was agreed.
fn too_fast(source: &SourceEntry, pause: std::time::Duration) -> Problem {
    Problem::rate_limited(format!("{} may post {}", source.source.id, source.rate_in_words()))
        .retry_after(whole_seconds(pause))
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

fn wants_xml(format: Format, headers: &HeaderMap) -> bool {
    let accept = header_text(headers, &header::ACCEPT).unwrap_or_default().to_ascii_lowercase();
    let names = |kind: &str| accept.contains(kind);
    match format {
        Format::Xml => names("xml") || !names("json"),
        _ => names("/xml") && !names("json"),
    }
}
