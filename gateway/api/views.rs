//! What the API shows of leads, deliveries and refused posts (CONTRACT 7), by who is looking.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::capture;
use crate::directory::Network;
use crate::gate::Shut;
use crate::model::delivery::{DeliveryState, Explanation};
use crate::model::id::CampaignId;
use crate::model::lead::{Candidate, Lead, LeadReason, LeadStatus};
use crate::model::money::Amount;
use crate::model::secret::MASK;
use crate::store::{AttemptRecord, DeliveryRecord, Head, LeadRecord, Message, RefusalRecord};

/// How much of a person's data the viewer may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reveal {
    /// Everything that is stored.
    All,
    /// Personal data masked.
    Masked,
}

/// A lead as its source sees it.
#[derive(Debug, Serialize)]
pub(super) struct SourceView {
    lead_id: String,
    status: &'static str,
    payout: Option<String>,
    redirect_url: Option<String>,
    reason: Option<&'static str>,
    external_id: Option<String>,
    test: bool,
    received_at: String,
}

impl SourceView {
    /// The view of a stored lead; its deliveries tell where to send the person next.
    #[must_use]
    pub(super) fn new(network: &Network, record: &LeadRecord, deliveries: &[DeliveryRecord]) -> Self {
        let accepted = deliveries.iter().find(|record| record.delivery.state == DeliveryState::Accepted);
        let redirect_url = accepted.and_then(|record| record.delivery.redirect_url.clone());
        let payout = record.payout.filter(|_| record.status == LeadStatus::Sold);
        let payout = payout.map(|payout| amount(network, &record.lead.campaign, payout));
        Self { payout, redirect_url, ..Self::of(&record.lead, record.status, record.reason) }
    }

    /// The view of a lead that was sold while its source waited.
    #[must_use]
    pub(super) fn sold(network: &Network, lead: &Lead, payout: Option<Amount>, redirect_url: Option<String>) -> Self {
        let payout = payout.map(|payout| amount(network, &lead.campaign, payout));
        Self { payout, redirect_url, ..Self::of(lead, LeadStatus::Sold, None) }
    }

    /// The view of a lead that nobody wanted while its source waited.
    #[must_use]
    pub(super) fn unsold(lead: &Lead, reason: Option<LeadReason>) -> Self {
        Self::of(lead, LeadStatus::Unsold, reason)
    }

    /// The view of a lead whose outcome is not known yet.
    #[must_use]
    pub(super) fn pending(lead: &Lead) -> Self {
        Self::of(lead, LeadStatus::Pending, None)
    }

    /// What can be said of every lead.
    fn of(lead: &Lead, status: LeadStatus, reason: Option<LeadReason>) -> Self {
        Self {
            lead_id: lead.id.to_string(),
            status: status.as_str(),
            payout: None,
            redirect_url: None,
            reason: reason.map(LeadReason::as_str),
            external_id: lead.meta.external_id.clone(),
            test: lead.test,
            received_at: time(lead.received_at),
        }
    }

    /// The same as a small XML document, for sources that post XML.
    #[must_use]
    pub(super) fn to_xml(&self) -> String {
        use quick_xml::escape::escape;
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<lead>");
        let mut element = |name: &str, value: Option<&str>| match value {
            Some(value) => xml.extend(["<", name, ">", &escape(value), "</", name, ">"]),
            None => xml.extend(["<", name, "/>"]),
        };
        element("lead_id", Some(&self.lead_id));
        element("status", Some(self.status));
        element("payout", self.payout.as_deref());
        element("redirect_url", self.redirect_url.as_deref());
        element("reason", self.reason);
        element("external_id", self.external_id.as_deref());
        element("test", Some(if self.test { "true" } else { "false" }));
        element("received_at", Some(&self.received_at));
        xml.push_str("</lead>\n");
        xml
    }
}

/// RFC 3339 in UTC with microseconds.
#[must_use]
pub fn time(at: Timestamp) -> String {
    format!("{at:.6}")
}

fn amount(network: &Network, campaign: &CampaignId, amount: Amount) -> String {
    match network.campaign(campaign) {
        Some(entry) => amount.display(entry.campaign.currency),
        // A deleted campaign's currency is not known any more; nearly all have two decimals.
        None => format!("{}.{:02}", amount.0 / 100, (amount.0 % 100).abs()),
    }
}

/// A lead as staff see it.
#[must_use]
pub(super) fn lead(
    network: &Network,
    record: &LeadRecord,
    deliveries: &[DeliveryRecord],
    shut: &dyn Fn(&DeliveryRecord) -> Option<Shut>,
    reveal: Reveal,
) -> Value {
    let mut view = match serde_json::to_value(SourceView::new(network, record, deliveries)) {
        Ok(Value::Object(view)) => view,
        _ => Map::new(),
    };
    let lead = &record.lead;
    view.insert("campaign".to_owned(), json!(lead.campaign));
    view.insert("source".to_owned(), json!(lead.source));
    view.insert("fields".to_owned(), fields(network, record, reveal));
    view.insert("meta".to_owned(), meta(record, reveal));
    view.insert(
        "candidates".to_owned(),
        record.candidates.iter().map(|candidate| outcome(candidate, deliveries)).collect(),
    );
    view.insert(
        "deliveries".to_owned(),
        deliveries.iter().map(|record| delivery(network, record, shut(record).as_ref(), None, reveal)).collect(),
    );
    Value::Object(view)
}

fn fields(network: &Network, record: &LeadRecord, reveal: Reveal) -> Value {
    let campaign = network.campaign(&record.lead.campaign);
    let personal = |name: &str| campaign.is_none_or(|entry| entry.is_personal(name));
    let shown = record.lead.fields.iter().map(|(name, value)| {
        let masked = reveal == Reveal::Masked && personal(name);
        (name.clone(), if masked { json!(MASK) } else { json!(value) })
    });
    Value::Object(shown.collect())
}

fn meta(record: &LeadRecord, reveal: Reveal) -> Value {
    let shown = record.lead.meta.entries().into_iter().filter_map(|(name, value)| {
        let masked = reveal == Reveal::Masked && matches!(name, "ip" | "user_agent");
        value.map(|value| (name.to_owned(), json!(if masked { MASK } else { value })))
    });
    Value::Object(shown.collect())
}

/// A candidate: filtered out, never asked, or the state of its delivery.
fn outcome(candidate: &Candidate, deliveries: &[DeliveryRecord]) -> Value {
    let last = deliveries.iter().rev().find(|record| record.delivery.contract == candidate.contract);
    let (outcome, reason) = match (&candidate.filtered, last) {
        (_, Some(record)) => (record.delivery.state.as_str(), record.delivery.reason.clone()),
        (Some(why), None) => ("filtered", Some(why.clone())),
        (None, None) => {
            let same = deliveries.iter().any(|record| record.delivery.partner == candidate.partner);
            ("untried", same.then(|| "another contract of the same partner had it".to_owned()))
        }
    };
    json!({"contract": candidate.contract, "outcome": outcome, "reason": reason})
}

/// A delivery, with its attempts where they are given.
#[must_use]
pub(super) fn delivery(
    network: &Network,
    record: &DeliveryRecord,
    shut: Option<&Shut>,
    attempts: Option<&[AttemptRecord]>,
    reveal: Reveal,
) -> Value {
    let delivery = &record.delivery;
    let held =
        shut.map(|shut| json!({"reason": shut.reason, "until": shut.until.map(time), "timezone": shut.timezone}));
    let mut view = json!({
        "id": delivery.id,
        "lead_id": delivery.lead,
        "campaign": delivery.campaign,
        "source": delivery.source,
        "partner": delivery.partner,
        "contract": delivery.contract,
        "state": delivery.state,
        "held": held,
        "verdict": delivery.verdict,
        "reason": delivery.reason,
        "price": delivery.price.map(|price| amount(network, &delivery.campaign, price)),
        "reference": delivery.reference,
        "redirect_url": delivery.redirect_url,
        "attempt_count": delivery.attempt_count,
        "due_at": delivery.due_at.map(time),
        "redelivery_of": delivery.redelivery_of,
        "created_at": time(delivery.created_at),
        "updated_at": time(delivery.updated_at),
    });
    if let (Some(attempts), Value::Object(view)) = (attempts, &mut view) {
        view.insert("attempts".to_owned(), attempts.iter().map(|attempt| attempt_view(attempt, reveal)).collect());
    }
    view
}

fn attempt_view(record: &AttemptRecord, reveal: Reveal) -> Value {
    let attempt = &record.attempt;
    let exchange = record.exchange.as_ref();
    let mut view = json!({
        "number": attempt.number,
        "started_at": time(attempt.started_at),
        "ended_at": attempt.ended_at.map(time),
        "verdict": attempt.verdict,
        "class": attempt.class,
        "status_code": attempt.status_code,
        "latency_ms": attempt.latency_ms,
        "explanation": attempt.explanation.as_ref().map(|explanation| shown_explanation(explanation, reveal)),
        "timings_ms": attempt.timings,
        "request": exchange.map(|exchange| message(&exchange.request, reveal)),
        "response": exchange.and_then(|exchange| exchange.response.as_ref()).map(|response| message(response, reveal)),
    });
    if let (Some(exchange), Value::Object(view)) = (&record.token_exchange, &mut view) {
        let response = exchange.response.as_ref().map(|response| message(response, reveal));
        let both = json!({"request": message(&exchange.request, reveal), "response": response});
        view.insert("token_exchange".to_owned(), both);
    }
    view
}

/// What a rule found may be what the partner said of the person.
fn shown_explanation(explanation: &Explanation, reveal: Reveal) -> Explanation {
    let mut shown = explanation.clone();
    if reveal == Reveal::Masked && shown.found.is_some() {
        shown.found = Some(MASK.to_owned());
    }
    shown
}

fn message(message: &Message, reveal: Reveal) -> Value {
    let head: Head = serde_json::from_str(&message.head).unwrap_or_default();
    let mut view = Map::new();
    if let Some(method) = head.method {
        view.insert("method".to_owned(), json!(method));
    }
    if let Some(url) = head.url {
        // A GET carries the lead in its query.
        let shown = match (reveal, url.split_once('?')) {
            (Reveal::Masked, Some((path, _))) => format!("{path}?{MASK}"),
            _ => url,
        };
        view.insert("url".to_owned(), json!(shown));
    }
    if let Some(status) = head.status {
        view.insert("status".to_owned(), json!(status));
    }
    let mut headers = head.headers;
    if reveal == Reveal::Masked {
        headers.iter_mut().filter(|(name, _)| !is_impersonal(name)).for_each(|(_, value)| MASK.clone_into(value));
    }
    view.insert("headers".to_owned(), json!(headers));
    let (body, encoding) = match reveal {
        Reveal::All => capture::presentable(&message.body),
        Reveal::Masked => (MASK.to_owned(), "utf-8"),
    };
    view.insert("body".to_owned(), json!(body));
    view.insert("encoding".to_owned(), json!(encoding));
    view.insert("truncated".to_owned(), json!(message.truncated));
    Value::Object(view)
}

/// Whether a header's value never tells anything about the person; the values of others are templates, or echoes.
fn is_impersonal(name: &str) -> bool {
    let names =
        ["content-type", "content-length", "content-encoding", "date", "server", "retry-after", "idempotency-key"];
    names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// A refused post with its answer.
#[must_use]
pub(super) fn refusal(record: &RefusalRecord, reveal: Reveal) -> Value {
    let answer: Value = serde_json::from_str(&record.answer).unwrap_or(Value::Null);
    json!({
        "request_id": record.request_id,
        "source": record.source,
        "campaign": record.campaign,
        "received_at": time(record.at),
        "status": record.status,
        "request": message(&record.request, reveal),
        "answer": answer,
    })
}
