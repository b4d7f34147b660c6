//! What became of one of the demo's leads, and in what it differs from what must.

use serde_json::{Value, json};

use super::client::Answer;
use super::leads::{DemoLead, ExpectedDelivery};

/// One lead's outcome.
pub(super) struct LeadResult {
    pub(super) lead: &'static DemoLead,
    pub(super) status_code: u16,
    /// The answer to the post.
    pub(super) answer: Value,
    /// The lead as staff see it, its deliveries with their attempts.
    pub(super) record: Option<Value>,
    differences: Vec<String>,
}

/// The text at a JSON pointer; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl LeadResult {
    pub(super) fn new(lead: &'static DemoLead, answer: &Answer, record: Option<Value>) -> Self {
        let mut result = Self {
            lead,
            status_code: answer.status,
            answer: answer.json().unwrap_or(Value::Null),
            record,
            differences: Vec::new(),
        };
        result.differences = result.compare();
        result
    }

    pub(super) fn is_as_expected(&self) -> bool {
        self.differences.is_empty()
    }

    pub(super) fn differences(&self) -> &[String] {
        &self.differences
    }

    pub(super) fn deliveries(&self) -> &[Value] {
        self.record
            .as_ref()
            .and_then(|record| record.get("deliveries"))
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    /// The fields that the answer names as wrong, in alphabetical order.
    pub(super) fn wrong_fields(&self) -> Vec<&str> {
        let errors = self.answer.get("errors").and_then(Value::as_array);
        let mut fields: Vec<&str> = errors.into_iter().flatten().map(|error| text(error, "/field")).collect();
        fields.sort_unstable();
        fields.dedup();
        fields
    }

    fn compare(&self) -> Vec<String> {
        let expected = &self.lead.expected;
        let mut differences = Vec::new();
        let mut differ = |what: &str, found: &str, wanted: &str| {
            if found != wanted {
                differences.push(format!("{what} is {found:?}, not {wanted:?}"));
            }
        };
        differ("the answer", &self.status_code.to_string(), &expected.status_code.to_string());
        let record = self.record.as_ref().unwrap_or(&Value::Null);
        differ("the lead's status", text(record, "/status"), expected.lead.map_or("", |status| status.as_str()));
        differ("the lead's reason", text(record, "/reason"), expected.reason.map_or("", |reason| reason.as_str()));
        differ("the list of wrong fields", &self.wrong_fields().join(", "), &expected.wrong_fields.join(", "));
        let found: Vec<String> = self.deliveries().iter().map(found).collect();
        let wanted: Vec<String> = expected.deliveries.iter().map(wanted).collect();
        differ("the list of deliveries", &found.join("; "), &wanted.join("; "));
        differences
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "file": self.lead.file,
            "shows": self.lead.shows,
            "status_code": self.status_code,
            "as_expected": self.is_as_expected(),
            "differences": self.differences,
            "lead": self.record,
            "answer": self.answer,
        })
    }
}

fn found(delivery: &Value) -> String {
    let attempts = delivery.get("attempt_count").and_then(Value::as_u64).unwrap_or(0);
    let shut = match text(delivery, "/state") {
        "skipped" => text(delivery, "/reason"),
        _ => text(delivery, "/held/reason"),
    };
    format!(
        "{} {} {} {attempts} {shut}",
        text(delivery, "/contract"),
        text(delivery, "/state"),
        text(delivery, "/verdict")
    )
}

fn wanted(delivery: &ExpectedDelivery) -> String {
    let verdict = delivery.verdict.map_or("", |verdict| verdict.as_str());
    let shut = delivery.shut.map_or("", |shut| shut.as_str());
    format!("{} {} {verdict} {} {shut}", delivery.contract, delivery.state, delivery.attempts)
}
