//! A lead: one person's request, as typed fields plus what is known about its arrival.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;

use jiff::Timestamp;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::id::{CampaignId, ContractId, LeadId, PartnerId, SourceId};

/// A field's value after normalising. Decimals, dates, phones and the like are their canonical text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FieldValue {
    /// `boolean` fields.
    Boolean(bool),
    /// `integer` fields.
    Integer(i64),
    /// Every other single value.
    Text(String),
    /// The entries of `list` fields: single values, or groups.
    List(Vec<FieldValue>),
    /// An entry of a list of groups: its members by name.
    Group(BTreeMap<String, FieldValue>),
}

impl FieldValue {
    /// The single values in it: itself, or those of its entries and their members.
    #[must_use]
    pub fn leaves(&self) -> Vec<&Self> {
        match self {
            Self::Boolean(_) | Self::Integer(_) | Self::Text(_) => vec![self],
            Self::List(entries) => entries.iter().flat_map(Self::leaves).collect(),
            Self::Group(members) => members.values().flat_map(Self::leaves).collect(),
        }
    }
}

impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
            // As it is stored and shown. Texts and numbers under text keys: this cannot fail.
            Self::List(_) | Self::Group(_) => f.write_str(&serde_json::to_string(self).unwrap_or_default()),
        }
    }
}

impl fmt::Debug for FieldValue {
    // Personal data: Debug output ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(super::secret::MASK)
    }
}

/// A lead's fields by name, in the order of their names; nested ones are dotted (`address.city`).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, FieldValue)>);

impl Fields {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.as_str().cmp(name))
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&FieldValue> {
        self.position(name).ok().and_then(|at| self.0.get(at)).map(|(_, value)| value)
    }

    /// Whether a field has a value.
    #[must_use]
    pub fn contains_key(&self, name: &str) -> bool {
        self.position(name).is_ok()
    }

    /// Gives a field a value, in place of the one that it had.
    pub fn insert(&mut self, name: String, value: FieldValue) {
        match self.position(&name) {
            // A position that was just found.
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    /// Every field with its value.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&String, &FieldValue)> + Clone {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl Index<&str> for Fields {
    type Output = FieldValue;

    /// As of a map: for those who know that the field has a value.
    #[expect(clippy::expect_used, reason = "what indexing is")]
    fn index(&self, name: &str) -> &FieldValue {
        self.get(name).expect("the field has a value")
    }
}

impl FromIterator<(String, FieldValue)> for Fields {
    /// Of a name that comes twice the last value counts.
    fn from_iter<I: IntoIterator<Item = (String, FieldValue)>>(fields: I) -> Self {
        let mut fields: Vec<_> = fields.into_iter().collect();
        if fields.is_sorted_by(|(one, _), (next, _)| one < next) {
            return Self(fields);
        }
        // Stable, so that of equal names the last comes first once it is turned round.
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        fields.reverse();
        fields.dedup_by(|(one, _), (kept, _)| one == kept);
        fields.reverse();
        Self(fields)
    }
}

impl<const N: usize> From<[(String, FieldValue); N]> for Fields {
    fn from(fields: [(String, FieldValue); N]) -> Self {
        fields.into_iter().collect()
    }
}

impl IntoIterator for Fields {
    type Item = (String, FieldValue);
    type IntoIter = std::vec::IntoIter<(String, FieldValue)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named;
        impl<'de> Visitor<'de> for Named {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields.into_iter().collect())
            }
        }
        deserializer.deserialize_map(Named)
    }
}

/// What came with a lead beside its fields.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// The source's own id of the lead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// The click that led to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub click_id: Option<String>,
    /// The publisher's sub ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub1: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[expect(missing_docs, reason = "see sub1")]
    pub sub2: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[expect(missing_docs, reason = "see sub1")]
    pub sub3: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[expect(missing_docs, reason = "see sub1")]
    pub sub4: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[expect(missing_docs, reason = "see sub1")]
    pub sub5: Option<String>,
    /// The address that posted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The client that posted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

impl fmt::Debug for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meta(***)")
    }
}

impl Meta {
    /// The value of a metadata name that a source may post, to be set.
    pub fn posted(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "external_id" => &mut self.external_id,
            "click_id" => &mut self.click_id,
            "sub1" => &mut self.sub1,
            "sub2" => &mut self.sub2,
            "sub3" => &mut self.sub3,
            "sub4" => &mut self.sub4,
            "sub5" => &mut self.sub5,
            _ => return None,
        })
    }

    /// Every name with its value, in a fixed order, empty where not given.
    #[must_use]
    pub fn entries(&self) -> [(&'static str, Option<&str>); 9] {
        [
            ("external_id", self.external_id.as_deref()),
            ("click_id", self.click_id.as_deref()),
            ("sub1", self.sub1.as_deref()),
            ("sub2", self.sub2.as_deref()),
            ("sub3", self.sub3.as_deref()),
            ("sub4", self.sub4.as_deref()),
            ("sub5", self.sub5.as_deref()),
            ("ip", self.ip.as_deref()),
            ("user_agent", self.user_agent.as_deref()),
        ]
    }
}

/// One received lead, as the stages after intake see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    /// Its id.
    pub id: LeadId,
    /// Where it was posted.
    pub campaign: CampaignId,
    /// Who posted it.
    pub source: SourceId,
    /// When its last byte had been read.
    pub received_at: Timestamp,
    /// Validated, routed and rendered, but never sent.
    pub test: bool,
    /// Its normalised fields.
    pub fields: Fields,
    /// What came with it.
    pub meta: Meta,
}

words! {
    /// Where a lead stands, as its source sees it.
    LeadStatus {
        /// Not yet known.
        Pending = "pending",
        /// A partner accepted it.
        Sold = "sold",
        /// Nobody took it.
        Unsold = "unsold",
        /// Refused by the gateway, such as a duplicate.
        Rejected = "rejected",
    }
}

words! {
    /// Why a lead is unsold or rejected, in the few words that a source may know.
    LeadReason {
        /// The campaign had this person already.
        Duplicate = "duplicate",
        /// No contract matched, was open, or accepted it.
        NoBuyer = "no_buyer",
        /// Refused for its content.
        Invalid = "invalid",
        /// On a suppression list.
        Suppressed = "suppressed",
        /// Waited too long.
        Expired = "expired",
    }
}

/// A contract that routing looked at for a lead, in order; kept with the lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The contract.
    pub contract: ContractId,
    /// Its partner.
    pub partner: PartnerId,
    /// Why its filters refused the lead, in words; `None` when they match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filtered: Option<String>,
}
