//! Rows of an imported file: each goes through the checks of a post, and is answered like one (CONTRACT 7). The control
//! socket is the only way here; whoever can open it needs no key.

use std::sync::Arc;

use http::StatusCode;
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Api, leads};
use crate::directory::{CampaignEntry, Network, SourceEntry};
use crate::intake::Format;
use crate::model::campaign::{FieldType, UnknownFields};
use crate::model::id::{RequestId, SourceId};
use crate::telemetry;
use crate::web::problem::Problem;

/// Rows in one call: bounds what is asked again after a crash in mid-call.
pub const ROWS_AT_MOST: usize = 50;

/// What a file's columns may be mapped to, for one source.
#[derive(Debug, Serialize, Deserialize)]
pub struct Target {
    /// The source's campaign.
    pub campaign: String,
    /// The campaign's declared fields.
    pub fields: Vec<String>,
    /// Those of them that take several values, or groups of values.
    #[serde(default)]
    pub lists: Vec<String>,
    /// Those of them without which a lead is refused.
    pub required: Vec<String>,
    /// Whether other fields are refused.
    pub refuses_unknown: bool,
}

/// Asks for a [`Target`].
#[derive(Debug, Serialize, Deserialize)]
pub struct TargetRequest {
    /// The source's id.
    pub source: String,
}

/// Rows to be taken as leads.
#[derive(Debug, Serialize, Deserialize)]
pub struct ImportRequest {
    /// Whose leads they are.
    pub source: String,
    /// Whether this is only a rehearsal.
    pub test: bool,
    /// In order; [`ROWS_AT_MOST`].
    pub rows: Vec<Row>,
}

/// A row: what a form would post.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// Makes a repeated row the same row.
    pub key: String,
    /// Names and values; `application/x-www-form-urlencoded`.
    pub form: String,
}

/// What became of a row.
#[derive(Debug, Serialize, Deserialize)]
pub struct RowAnswer {
    /// As HTTP would have answered.
    pub status: u16,
    /// The lead as its source sees it, or a problem.
    pub body: Value,
    /// Seconds until it may be tried again.
    pub retry_after: Option<u64>,
}

/// How a row would be read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rehearsed {
    /// Its fields and metadata, normalised, with defaults.
    Valid(Vec<(String, String)>),
    /// What is wrong with it: field and message.
    Wrong(Vec<(String, String)>),
}

/// What the columns of a file for `request.source` may be mapped to.
///
/// # Errors
/// When there is no such source.
pub fn target(api: &Api, request: &TargetRequest) -> Result<Target, Problem> {
    let network = api.pipeline.directory.network();
    let (_, campaign) = find(&network, &request.source)?;
    let fields = &campaign.campaign.fields;
    Ok(Target {
        campaign: campaign.campaign.id.to_string(),
        fields: fields.keys().cloned().collect(),
        lists: fields.iter().filter(|(_, field)| field.kind == FieldType::List).map(|(name, _)| name.clone()).collect(),
        required: fields
            .iter()
            .filter(|(_, field)| field.required && field.default.is_none())
            .map(|(name, _)| name.clone())
            .collect(),
        refuses_unknown: campaign.campaign.unknown_fields == UnknownFields::Refuse,
    })
}

fn find(network: &Network, source: &str) -> Result<(Arc<SourceEntry>, Arc<CampaignEntry>), Problem> {
    let source = source.parse::<SourceId>().ok().and_then(|id| network.source(&id).cloned()).ok_or_else(|| {
        Problem::not_found(format!("there is no source `{source}`; give the id of one in the network"))
    })?;
    let campaign = network.campaign(&source.source.campaign).cloned();
    let campaign = campaign.ok_or_else(|| Problem::internal("the source's campaign is gone"))?;
    Ok((source, campaign))
}

/// Reads rows as posts of the source would be read, and takes none.
///
/// # Errors
/// When there is no such source, or too many rows.
pub fn rehearse(api: &Api, request: &ImportRequest) -> Result<Vec<Rehearsed>, Problem> {
    bounded(request)?;
    let network = api.pipeline.directory.network();
    let (source, campaign) = find(&network, &request.source)?;
    let rehearsed = request.rows.iter().map(|row| {
        let posted = match campaign.rules.parse(Format::Form, row.form.as_bytes()) {
            Ok(mut posted) => {
                if source.source.key_in_body {
                    posted.take_key();
                }
                posted
            }
            Err(fault) => return Rehearsed::Wrong(vec![(String::new(), fault.message)]),
        };
        match campaign.rules.validate(posted) {
            Ok(valid) => {
                let given = |(name, value): (&str, Option<&str>)| Some((name.to_owned(), value?.to_owned()));
                let meta = valid.meta.entries().into_iter().filter_map(given);
                let fields = valid.fields.iter().map(|(name, value)| (name.clone(), value.to_string()));
                Rehearsed::Valid(fields.chain(meta).collect())
            }
            Err(errors) => Rehearsed::Wrong(errors.into_iter().map(|error| (error.field, error.message)).collect()),
        }
    });
    Ok(rehearsed.collect())
}

fn bounded(request: &ImportRequest) -> Result<(), Problem> {
    if request.rows.len() <= ROWS_AT_MOST {
        return Ok(());
    }
    Err(Problem::validation(format!("ask for {ROWS_AT_MOST} rows at most")))
}

/// Takes rows, one after another, so that of two rows with one person the earlier is kept. Ends with the first row that
/// was neither taken nor wrong by itself, such as one at a limit: there are then fewer answers than rows.
///
/// # Errors
/// When there is no such source, or too many rows.
pub async fn import(api: &Arc<Api>, request: &ImportRequest) -> Result<Vec<RowAnswer>, Problem> {
    bounded(request)?;
    let mut answers = Vec::with_capacity(request.rows.len());
    for row in &request.rows {
        // The network as it is for this row: a pause or an apply governs the next one.
        let network = api.pipeline.directory.network();
        let (source, campaign) = find(&network, &request.source)?;
        let answer = if row.form.len() > api.body_limit.bytes() {
            Err(Problem::too_large(format!("a lead may have {} at most", api.body_limit)))
        } else {
            leads::take_row(api, &network, &source, row, request.test).await
        };
        let word = match &answer {
            Ok((word, _)) => word,
            Err(_) => "refused",
        };
        telemetry::lead_answered(&source.counts, source.source.id.as_str(), campaign.campaign.id.as_str(), word);
        let answer = answered(api, answer.map(|(_, response)| response)).await;
        let goes_on = answer.status < 300 || answer.is_about_the_row();
        answers.push(answer);
        if !goes_on {
            break;
        }
    }
    Ok(answers)
}

async fn answered(api: &Api, answer: super::Answer) -> RowAnswer {
    match answer {
        Ok(response) => {
            let status = response.status();
            // Made in this process: it has come already.
            let body =
                response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            RowAnswer {
                status: status.as_u16(),
                body: serde_json::from_slice(&body).unwrap_or_default(),
                retry_after: None,
            }
        }
        Err(problem) => {
            let problem = problem.of(RequestId(api.pipeline.clock.uuid()));
            RowAnswer {
                status: problem.status,
                retry_after: problem.retry_after,
                body: serde_json::to_value(&problem).unwrap_or_default(),
            }
        }
    }
}

impl RowAnswer {
    /// Whether the row itself is what is wrong, so that the next one may be fine.
    #[must_use]
    pub fn is_about_the_row(&self) -> bool {
        ["validation", "malformed", "too-large", "idempotency-reused"].iter().any(|kind| self.is_problem(kind))
    }

    /// Whether this is a problem of that kind.
    #[must_use]
    pub fn is_problem(&self, kind: &str) -> bool {
        self.text("type").strip_prefix("/problems/") == Some(kind)
    }

    /// A text of the body; empty where there is none.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.body.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// What is wrong, every field at once.
    #[must_use]
    pub fn reasons(&self) -> String {
        let errors = self.body.get("errors").and_then(Value::as_array).into_iter().flatten();
        let reasons: Vec<String> = errors
            .map(|error| {
                let text = |key| error.get(key).and_then(Value::as_str).unwrap_or_default();
                format!("{} {}", text("field"), text("message"))
            })
            .collect();
        if reasons.is_empty() { self.text("detail").to_owned() } else { reasons.join("; ") }
    }

    /// Whether the lead was a duplicate.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.status == StatusCode::OK.as_u16() && self.text("reason") == "duplicate"
    }
}
