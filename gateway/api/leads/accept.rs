//! One lead, whether it came by itself or in a batch, from what can be said by looking at it to the answer of its source:
//! the later rows of CONTRACT 7's table, in its order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;

use super::super::views::SourceView;
use super::super::{Api, time};
use super::Arrival;
use crate::capture::Redactor;
use crate::directory::{CampaignEntry, LimitReached, Network, SourceEntry};
use crate::intake::{self, FieldError, Valid};
use crate::model::id::{LeadId, RequestId, SourceId};
use crate::model::lead::{Lead, LeadStatus, Meta};
use crate::model::source::SourceStatus;
use crate::pipeline::{Outcome, Posted, Receipt, Waiting};
use crate::store::{Accepted, DedupeKey, IdempotencyKey, Remembered, Trouble};
use crate::web::begun::Begun;
use crate::web::problem::{FieldProblem, Problem};
use crate::web::room::Held;

/// How long a post that comes during a start waits for its end.
const START_WITHIN: Duration = Duration::from_secs(2);

/// How long the store may take to make a lead durable before its source is told to post it again. Syncs of a slow disk take
/// tens of milliseconds; what takes seconds is a fault.
const STORED_WITHIN: Duration = Duration::from_secs(3);
/// When to post again.
const AGAIN_AFTER: u64 = 2;

/// What was read of a post, or of a line.
pub(super) struct Read<'a> {
    pub(super) request: RequestId,
    pub(super) posted: intake::Posted<'a>,
    /// The bytes as they came.
    pub(super) body: &'a Bytes,
    /// The room that they take up.
    pub(super) room: Option<Arc<Held>>,
    pub(super) key: Option<IdempotencyKey>,
}

/// A lead that was read, and is to be taken or refused.
pub(super) struct Incoming {
    request: RequestId,
    /// What is wrong with it is said when its turn comes: a replay comes first.
    valid: Result<Valid, Vec<FieldError>>,
    meta: Meta,
    dedupe: Vec<DedupeKey>,
    key: Option<IdempotencyKey>,
    content_type: String,
    /// The body as it is stored.
    body: Bytes,
    room: Option<Arc<Held>>,
}

/// A lead that was taken, now or before.
pub(super) struct Taken {
    /// How it went, for metrics.
    pub(super) word: &'static str,
    pub(super) status: StatusCode,
    pub(super) view: SourceView,
}

impl Incoming {
    /// Looks at what was posted: nothing is asked or stored.
    pub(super) fn new(campaign: &CampaignEntry, source: &SourceEntry, arrival: &Arrival, read: Read<'_>) -> Self {
        let Read { request, mut posted, body, room, key } = read;
        let mut body = body.clone();
        if source.source.key_in_body
            && let Some(key) = posted.take_key()
        {
            // Keys are kept as hashes only.
            body = Redactor::new(&[key]).redact(&body).into_owned().into();
        }
        match intake::query_test(arrival.query.as_deref()) {
            Ok(test) => posted.test |= test,
            Err(fault) => posted.faults.push(fault),
        }
        let mut meta = Meta::default();
        let valid = campaign.rules.validate(posted);
        let mut dedupe = Vec::new();
        if let Ok(valid) = &valid {
            dedupe = dedupe_keys(campaign, valid);
            meta = arrived_with(valid.meta.clone(), arrival);
        }
        Self {
            request,
            valid,
            meta,
            dedupe,
            key,
            content_type: header_text(&arrival.headers, &header::CONTENT_TYPE).unwrap_or_default(),
            body,
            room,
        }
    }

    /// By what this lead and another may be the same. Of two such leads the second must wait for the first.
    pub(super) fn marks(&self) -> impl Iterator<Item = String> + use<'_> {
        let keys = self.key.iter().map(|key| format!("key {}", key.key));
        keys.chain(self.dedupe.iter().map(|key| format!("person {}", key.text)))
    }
}

/// Takes a lead, or says why not. The store has [`STORED_WITHIN`] to answer; then the source is told to post again.
pub(super) async fn accept(
    api: &Arc<Api>,
    network: &Network,
    campaign: &Arc<CampaignEntry>,
    source: &Arc<SourceEntry>,
    incoming: Incoming,
    wait: Duration,
) -> Result<Taken, Problem> {
    let Incoming { request, valid, meta, dedupe, key, content_type, body, room } = incoming;
    // A line of a batch may have waited for its turn: its places are those of now.
    let (id, received_at) = (LeadId(api.pipeline.clock.uuid()), api.pipeline.clock.now());
    // Held to the answer: until then the key is in progress.
    let claim = match &key {
        Some(key) => {
            let claim = Claim::new(api, &source.source.id, &key.key)?;
            if hangs(api) {
                return Err(not_stored());
            }
            let remembered =
                api.pipeline.store.remembered(source.source.id.as_str(), &key.key, api.pipeline.clock.now());
            if let Some(remembered) =
                tokio::time::timeout(STORED_WITHIN, remembered).await.map_err(|_| not_stored())??
            {
                return replay(api, network, &remembered, key).await;
            }
            Some(Arc::new(claim))
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
    let valid = valid.map_err(invalid)?;
    if !ready {
        return Err(Problem::unavailable("the gateway is starting; try again in a moment").retry_after(1));
    }

    if hangs(api) {
        // One that fails is tried: it fails at once.
        return Err(not_stored());
    }

    let lead = Arc::new(Lead {
        id,
        campaign: campaign.campaign.id.clone(),
        source: source.source.id.clone(),
        received_at,
        test: valid.test,
        meta,
        fields: valid.fields,
    });
    let posted = Posted {
        dedupe,
        lookups: campaign.rules.lookup_keys(&lead.fields, &lead.meta),
        lead: Arc::clone(&lead),
        idempotency: key,
        content_type,
        body,
        request,
    };
    // Before the commit, so that no outcome can be missed.
    let waits = !wait.is_zero() && !lead.test;
    let waiting = waits.then(|| (wait, api.pipeline.outcomes.wait_for(lead.id)));
    let receipt = store(api, campaign, source, posted, (claim.clone(), room)).await?;
    if let Accepted::LimitReached(key) = &receipt.accepted {
        return Err(limit_reached(&campaign.limit_reached(source, key, received_at), received_at));
    }
    let answer = answer(api, network, source, &lead, receipt, waiting).await;
    drop(claim);
    answer
}

/// Makes a lead durable. That goes on where nobody waits any longer: what is stored after all must reach its queue. Until
/// then it keeps what is `held`, the claim of its key above all: posted again, it is *in progress*.
async fn store(
    api: &Arc<Api>,
    campaign: &Arc<CampaignEntry>,
    source: &Arc<SourceEntry>,
    posted: Posted,
    held: (Option<Arc<Claim>>, Option<Arc<Held>>),
) -> Result<Receipt, Problem> {
    let lead = posted.lead.id;
    let (pipeline, campaign, source) = (Arc::clone(&api.pipeline), Arc::clone(campaign), Arc::clone(source));
    let accepted = Begun::new(async move {
        let receipt = pipeline.accept(posted, &campaign, &source).await;
        drop(held);
        receipt
    });
    match tokio::time::timeout(STORED_WITHIN, accepted).await {
        Ok(Ok(Ok(receipt))) => Ok(receipt),
        Ok(Ok(Err(error))) => {
            tracing::error!(lead.id = %lead, store.error = %error, "a lead could not be made durable");
            Err(not_stored())
        }
        Ok(Err(_)) => Err(Problem::internal("the lead could not be taken; whether it was stored is not known")),
        Err(_) => {
            tracing::error!(lead.id = %lead, "a lead was not made durable in time; its source is told to post it again");
            Err(not_stored())
        }
    }
}

/// Whether a commit hangs: whoever waited for the next one would be told the same, only later.
fn hangs(api: &Api) -> bool {
    matches!(api.pipeline.store.trouble(), Some(Trouble::Hangs))
}

fn not_stored() -> Problem {
    Problem::unavailable("the lead could not be stored now; post it again, with the same Idempotency-Key if it has one")
        .retry_after(AGAIN_AFTER)
}

async fn answer(
    api: &Api,
    network: &Network,
    source: &SourceEntry,
    lead: &Lead,
    receipt: Receipt,
    waiting: Option<(Duration, Waiting)>,
) -> Result<Taken, Problem> {
    if let Accepted::KeyTaken(_) = receipt.accepted {
        return Err(Problem::idempotency_in_progress(
            "another request with this key has just been accepted; send it again for its answer",
        ));
    }
    // A source that does not wait is told that its lead is taken; what becomes of it, it looks up.
    let outcome = match waiting {
        _ if receipt.status == LeadStatus::Rejected || lead.test => Outcome::Decided,
        None => Outcome::Parked,
        Some(_) if receipt.status != LeadStatus::Pending => Outcome::Decided,
        Some((wait, mut waiting)) => tokio::time::timeout(wait, waiting.outcome()).await.unwrap_or(Outcome::Parked),
    };
    let decided = |status: LeadStatus, view| Ok(Taken { word: status.as_str(), status: StatusCode::OK, view });
    match outcome {
        Outcome::Sold { redirect_url } => {
            return decided(LeadStatus::Sold, SourceView::sold(network, lead, source.payout, redirect_url));
        }
        Outcome::Unsold { reason } => return decided(LeadStatus::Unsold, SourceView::unsold(lead, reason)),
        Outcome::Decided => {}
        Outcome::Parked => {
            return Ok(Taken { word: "accepted", status: StatusCode::ACCEPTED, view: SourceView::pending(lead) });
        }
    }
    let Some(standings) = api.pipeline.store.standings(lead.id).await? else {
        return Err(Problem::internal("the lead was stored, and is gone"));
    };
    let view = SourceView::new(network, &standings.record, &standings.deliveries);
    decided(standings.record.status, view)
}

async fn replay(api: &Api, network: &Network, remembered: &Remembered, key: &IdempotencyKey) -> Result<Taken, Problem> {
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
    Ok(Taken { word: "replayed", status, view })
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

fn invalid(errors: Vec<intake::FieldError>) -> Problem {
    let errors = errors.into_iter().map(|error| FieldProblem {
        field: error.field,
        code: error.code.as_str().to_owned(),
        message: error.message,
    });
    Problem::validation("correct the fields named in errors and post the lead again").with_errors(errors.collect())
}

fn arrived_with(mut meta: Meta, arrival: &Arrival) -> Meta {
    meta.ip = arrival.client.0.map(|address| address.ip().to_string());
    meta.user_agent = header_text(&arrival.headers, &header::USER_AGENT).map(|text| text.chars().take(255).collect());
    meta
}

/// A header's value as text.
pub(super) fn header_text(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn dedupe_keys(campaign: &CampaignEntry, valid: &Valid) -> Vec<DedupeKey> {
    let keys = campaign.rules.dedupe_keys(&valid.fields).into_iter();
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
            let problem = Problem::limit_reached(format!("{} is reached; it opens at {}", reached.what, time(opens)));
            if seconds <= 24 * 3600 { problem.retry_after(seconds) } else { problem }
        }
    }
}

/// Rounded up.
pub(super) fn whole_seconds(pause: Duration) -> u64 {
    pause.as_secs() + u64::from(pause.subsec_nanos() > 0)
}
