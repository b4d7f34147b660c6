//! A campaign: what is being collected, and how its leads are shared out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::id::CampaignId;
use super::limit::Limits;
use super::money::Currency;
use super::shared::Shared;
use super::units::Span;

/// One campaign, as configured, stored and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Campaign {
    /// Its id; part of the URL that sources post to.
    pub id: CampaignId,
    /// A name for people; the id where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// IANA zone in which its limits and its sources' are counted.
    pub timezone: String,
    /// The one currency of its prices and payouts.
    pub currency: Currency,
    /// How candidates are ordered.
    #[serde(default)]
    pub distribution: Distribution,
    /// How many partners may have one lead; 0 = all that match.
    #[serde(default = "one")]
    pub sell_to: u32,
    /// What to do with posted fields that are not declared.
    #[serde(default)]
    pub unknown_fields: UnknownFields,
    /// A lead is a duplicate when any rule finds an earlier one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dedupe: Vec<DedupeRule>,
    /// How many leads it takes, in its own zone.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// The declared fields by (dotted) name.
    #[serde(default)]
    pub fields: Shared<BTreeMap<String, Field>>,
}

fn one() -> u32 {
    1
}

impl Campaign {
    /// The name for people.
    #[must_use]
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(self.id.as_str())
    }
}

/// How a campaign's candidates are ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// By `priority`, 1 first; ties drawn by `weight`.
    #[default]
    Priority,
    /// Drawn by `weight`.
    Weighted,
    /// Each in its turn.
    RoundRobin,
    /// `sell_to` of them at once.
    Broadcast,
    /// By bid (ping-post); reserved.
    Auction,
}

/// What becomes of fields that the campaign does not declare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownFields {
    /// Kept as text.
    #[default]
    Keep,
    /// A validation error.
    Refuse,
}

/// Two leads are the same person when all these fields are given and equal, within the window.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedupeRule {
    /// Declared field names.
    pub fields: Vec<String>,
    /// How far back to look.
    pub window: Span,
}

/// A declared field.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: FieldType,
    /// A lead without it is refused.
    #[serde(default, skip_serializing_if = "is_false")]
    pub required: bool,
    /// Taken where the lead gives none; validated like a given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Scalar>,
    /// What each entry of a `list` of values is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Box<Field>>,
    /// What each entry of a `list` of groups has, by name; single values only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Field>,
    /// Least value; for texts the least number of characters, for lists of entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Scalar>,
    /// Greatest value; for texts the greatest number of characters (1,000 unless said), for lists of entries (100
    /// unless said).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Scalar>,
    /// A regular expression that the whole normalised text must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The allowed values of `one_of`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// Home region of a `phone` without a country code (ISO 3166, `GB`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Country of a `postcode` (ISO 3166, `GB`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// Masked in what is captured and for viewers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sensitive: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_false(b: &bool) -> bool {
    !*b
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// Any text.
    Text,
    /// An e-mail address.
    Email,
    /// A telephone number, kept as E.164.
    Phone,
    /// A whole number of 64 bits.
    Integer,
    /// A decimal number, kept as its exact text.
    Decimal,
    /// A calendar date, kept as `YYYY-MM-DD`.
    Date,
    /// Yes or no.
    Boolean,
    /// One of `values`.
    OneOf,
    /// A postal code of `country`.
    Postcode,
    /// An absolute http or https URL.
    Url,
    /// An IPv4 or IPv6 address.
    Ip,
    /// Any number of values (`items`), or of groups of values (`fields`).
    List,
}

/// A scalar of a configuration, kept as text: `0`, `"0"` and `true` are all fine to write.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Scalar(pub String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl serde::de::Visitor<'_> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text, a number or true/false")
            }

            fn visit_str<E>(self, v: &str) -> Result<Scalar, E> {
                Ok(Scalar(v.to_owned()))
            }

            fn visit_i64<E>(self, v: i64) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }

            fn visit_u64<E>(self, v: u64) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }

            fn visit_f64<E>(self, v: f64) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }

            fn visit_bool<E>(self, v: bool) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
