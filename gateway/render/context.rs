//! The values that templates see, put together as JSON: only what the contract's templates refer to.

use std::collections::BTreeMap;

use handlebars::Context;
use serde_json::{Map, Value as Json};

use super::scope::{SECRET, Uses};
use super::{Party, RenderInput};
use crate::model::lead::{FieldValue, Lead};
use crate::model::secret::MASK;

/// The contract's and campaign's own variables, which no lead changes.
#[derive(Clone)]
pub(super) struct Own {
    pub(super) campaign: [String; 2],
    pub(super) contract: [String; 2],
    pub(super) price: Option<String>,
    /// The contract's secrets, resolved.
    pub(super) secrets: BTreeMap<String, String>,
    /// Names of the campaign's sensitive fields.
    pub(super) sensitive: Vec<String>,
}

impl Own {
    fn is_sensitive(&self, field: &str) -> bool {
        self.sensitive.iter().any(|name| name == field)
    }
}

/// The variables for one rendering. What was not given is left out or `""`: templates see an empty
/// value either way. `masking` puts the mask where a sensitive field was given, and for every secret.
pub(super) fn build(input: &RenderInput<'_>, own: &Own, uses: &Uses, masking: bool) -> Context {
    let mut root = Map::with_capacity(uses.groups.len() + 1);
    if uses.whole_lead || !uses.fields.is_empty() {
        root.insert("lead".to_owned(), Json::Object(lead(input.lead, own, uses, masking)));
    }
    if !uses.secrets.is_empty() {
        root.insert(SECRET.to_owned(), secrets(own, uses, masking));
    }
    for group in &uses.groups {
        let value = match *group {
            "now" => input.now.to_string().into(),
            "meta" => meta(input.lead),
            "source" => party(&input.source, ("payout", input.payout)),
            "partner" => party(&input.partner, ("", None)),
            "campaign" => named(&own.campaign, ("", None)),
            "contract" => named(&own.contract, ("price", own.price.as_deref())),
            "delivery" => object([("id", Json::from(input.delivery.to_string()))]),
            "attempt" => object([("number", Json::from(input.attempt))]),
            _ => continue,
        };
        root.insert((*group).to_owned(), value);
    }
    Context::from(Json::Object(root))
}

fn lead(lead: &Lead, own: &Own, uses: &Uses, masking: bool) -> Map<String, Json> {
    let value = |name: &str, given: &FieldValue| value(given, masking && own.is_sensitive(name));
    // A list that was not given is one without entries.
    let absent = |name: &String| if uses.lists.contains(name) { Json::Array(Vec::new()) } else { Json::from("") };
    if uses.whole_lead {
        let mut all: Map<String, Json> =
            lead.fields.iter().map(|(name, given)| (name.clone(), value(name, given))).collect();
        for name in uses.lists.iter().filter(|name| !lead.fields.contains_key(name)) {
            all.insert(name.clone(), absent(name));
        }
        return all;
    }
    let given = |name: &String| match lead.fields.get(name) {
        // Posted before the field became a list.
        Some(given) if uses.lists.contains(name) && !matches!(given, FieldValue::List(_)) => {
            Json::Array(vec![value(name, given)])
        }
        Some(given) => value(name, given),
        None => absent(name),
    };
    uses.fields.iter().map(|name| (name.clone(), given(name))).collect()
}

fn value(given: &FieldValue, masked: bool) -> Json {
    match given {
        FieldValue::Text(text) if text.is_empty() => Json::from(""),
        FieldValue::List(entries) => entries.iter().map(|entry| value(entry, masked)).collect(),
        FieldValue::Group(members) => {
            Json::Object(members.iter().map(|(name, member)| (name.clone(), value(member, masked))).collect())
        }
        _ if masked => Json::from(MASK),
        FieldValue::Boolean(truth) => Json::from(*truth),
        FieldValue::Integer(number) => Json::from(*number),
        FieldValue::Text(text) => Json::from(text.as_str()),
    }
}

fn secrets(own: &Own, uses: &Uses, masking: bool) -> Json {
    let named = uses.secrets.iter().filter_map(|name| Some((name.as_str(), own.secrets.get(name)?)));
    object(named.map(|(name, value)| (name, Json::from(if masking { MASK } else { value }))))
}

fn meta(lead: &Lead) -> Json {
    let given = lead.meta.entries().into_iter().filter_map(|(name, value)| Some((name, Json::from(value?))));
    object(given.chain([("received_at", Json::from(lead.received_at.to_string()))]))
}

fn party(party: &Party<'_>, more: (&str, Option<&str>)) -> Json {
    object(
        [("id", Json::from(party.id)), ("name", Json::from(party.name))]
            .into_iter()
            .chain(more.1.map(|value| (more.0, Json::from(value)))),
    )
}

fn named([id, name]: &[String; 2], more: (&str, Option<&str>)) -> Json {
    party(&Party { id, name }, more)
}

fn object<'a>(members: impl IntoIterator<Item = (&'a str, Json)>) -> Json {
    Json::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
