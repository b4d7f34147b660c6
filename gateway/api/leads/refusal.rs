//! Refused posts of known sources are kept with their answers, secrets and sensitive values masked, so that a telephone
//! call about one is short.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::Api;
use super::{Arrival, read};
use crate::capture::{self, Captured, Redactor};
use crate::directory::{CampaignEntry, Network, SourceEntry};
use crate::intake::{Format, PostedValue, auth};
use crate::model::id::RequestId;
use crate::model::secret::MASK;
use crate::store::{Head, Message, RefusalRecord};

/// What stands in a path as it is (RFC 3986, unreserved).
const IN_A_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// How long a refused post waits for being kept. Its answer matters more.
const KEPT_WITHIN: Duration = Duration::from_secs(1);
/// Refused posts that are being kept while their sources have their answers already.
pub(in crate::api) const KEPT_BEHIND: usize = 64;

/// What was refused: a post, or a line of a batch.
pub(super) struct Refused<'a> {
    pub(super) request: RequestId,
    /// `None` where it cannot be read by its type.
    pub(super) format: Option<Format>,
    pub(super) body: &'a [u8],
    /// The body is not all that was sent.
    pub(super) incomplete: bool,
    pub(super) status: u16,
    /// What was answered.
    pub(super) answer: String,
}

impl Refused<'_> {
    /// Keeps it.
    pub(super) async fn keep(self, api: &Api, network: &Network, source: &SourceEntry, arrival: &Arrival) {
        let (secrets, shown) = self.secrets(network, source, arrival);
        let campaign = utf8_percent_encode(&arrival.campaign, IN_A_PATH);
        let url = format!("/v1/campaigns/{campaign}/{}", arrival.call);
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
        if shown.len() < self.body.len() && !body.truncated {
            body.body.extend_from_slice(MASK.as_bytes());
        }
        let refusal = RefusalRecord {
            request_id: self.request,
            source: source.source.id.clone(),
            campaign: arrival.campaign.chars().take(64).collect(),
            at: api.pipeline.clock.now(),
            request: Message {
                head: serde_json::to_string(&head).unwrap_or_default(),
                body: body.body,
                truncated: body.truncated || shown.len() < self.body.len() || self.incomplete,
            },
            status: self.status,
            answer: self.answer,
        };
        let (store, source) = (api.pipeline.store.clone(), source.source.id.clone());
        let keep = async move {
            let why = match tokio::time::timeout(KEPT_WITHIN, store.refuse(refusal)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the store did not answer in time".to_owned(),
            };
            tracing::warn!(store.error = %why, source.id = %source, "a refused post could not be kept");
        };
        if self.status != StatusCode::SERVICE_UNAVAILABLE.as_u16() {
            return keep.await;
        }
        // The store is in trouble, most likely, and its source is to be told at once.
        let Ok(room) = Arc::clone(&api.keeping).try_acquire_owned() else { return };
        tokio::spawn(async move {
            keep.await;
            drop(room);
        });
    }

    /// What must not be kept: the source's key, wherever it stands, and sensitive fields. Beside it, how much of the
    /// body can be kept: where a sensitive value cannot be told from the rest, as in a body that cannot be read, only
    /// what comes before the first sensitive field's name.
    fn secrets(&self, network: &Network, source: &SourceEntry, arrival: &Arrival) -> (Vec<String>, &[u8]) {
        let mut secrets: Vec<String> = auth::credential(&arrival.headers, arrival.query.as_deref())
            .map(|credential| credential.key)
            .into_iter()
            .collect();
        let posted = self.format.and_then(|format| read(network, &arrival.campaign, format, self.body).ok());
        let mut findable = posted.is_some();
        let mut posted = posted.unwrap_or_default();
        if source.source.key_in_body {
            secrets.extend(posted.take_key());
        }
        let Some(campaign) = network.campaign(&source.source.campaign) else { return (secrets, self.body) };
        for (_, value) in posted.fields.iter().filter(|(name, _)| campaign.is_sensitive(name)) {
            findable &= add_values(value, &mut secrets);
        }
        let shown = if findable { self.body.len() } else { first_sensitive(campaign, self.body) };
        (secrets, self.body.get(..shown).unwrap_or_default())
    }
}

/// Adds the texts in a value to `secrets`; whether all of them can be found by it.
fn add_values(value: &PostedValue<'_>, secrets: &mut Vec<String>) -> bool {
    match value {
        PostedValue::Text(text) | PostedValue::Number(text) if capture::is_findable(text) => {
            secrets.push(text.clone().into_owned());
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
