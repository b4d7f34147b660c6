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
    let value = |name: &str, value: &FieldValue| match value {
        FieldValue::Text(text) if text.is_empty() => Json::from(""),
        _ if masking && own.is_sensitive(name) => Json::from(MASK),
        FieldValue::Boolean(truth) => Json::from(*truth),
        FieldValue::Integer(number) => Json::from(*number),
        FieldValue::Text(text) => Json::from(text.as_str()),
    };
    if uses.whole_lead {
        lead.fields.iter().map(|(name, given)| (name.clone(), value(name, given))).collect()
    } else {
        let given = |name: &String| lead.fields.get(name).map_or_else(|| Json::from(""), |given| value(name, given));
        uses.fields.iter().map(|name| (name.clone(), given(name))).collect()
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
