//! A source: an introducer's agreement with one campaign.

use serde::{Deserialize, Serialize};

use super::id::{CampaignId, PartnerId, SourceId};
use super::limit::Limits;
use super::secret::SecretText;
use super::units::{Rate, Span};

/// One source, as configured, stored and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its id.
    pub id: SourceId,
    /// A name for people; the id where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The campaign it posts to.
    pub campaign: CampaignId,
    /// The introducer.
    pub partner: PartnerId,
    /// What it authenticates with: one key, or several while rotating.
    pub key: Keys,
    /// Whether the key may also come as a body or query field called `key`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub key_in_body: bool,
    /// What it earns for a lead, in the campaign's currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payout: Option<String>,
    /// How fast it may post.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// How many leads it may send, in the campaign's zone.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// How long a post waits for its outcome unless it says otherwise; at most 60 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Span>,
    /// `live`, or `ended` for one that may post no more.
    #[serde(default)]
    pub status: SourceStatus,
}

impl Source {
    /// The name for people.
    #[must_use]
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(self.id.as_str())
    }
}

/// Whether a source's agreement runs. (A pause is state, not configuration.)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceStatus {
    /// It may post.
    #[default]
    Live,
    /// It is over.
    Ended,
}

/// One key or several. Each is `env:NAME`, `file:PATH`, `sha256:HEX`, or the key itself, which is stored as its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(pub Vec<SecretText>);

impl Serialize for Keys {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a key, or a list of keys")]
        enum OneOrMore {
            One(SecretText),
            More(Vec<SecretText>),
        }
        Ok(match OneOrMore::deserialize(deserializer)? {
            OneOrMore::One(key) => Self(vec![key]),
            OneOrMore::More(keys) => Self(keys),
        })
    }
}
