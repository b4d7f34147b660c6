//! A partner: a company we buy leads from, sell leads to, or both.

use serde::{Deserialize, Serialize};

use super::id::PartnerId;
use super::limit::Limits;
use super::schedule::WeekTable;
use super::shared::Shared;

/// One partner, as configured, stored and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partner {
    /// Its id.
    pub id: PartnerId,
    /// Its name for people; the id where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which side of the trade it is on.
    pub kind: PartnerKind,
    /// IANA zone of its limits and hours, its contracts' included.
    pub timezone: String,
    /// How to reach it.
    #[serde(default, skip_serializing_if = "Contact::is_empty")]
    pub contact: Contact,
    /// How many leads it may have, all its contracts together.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// When it takes leads; none = always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Shared<WeekTable>>,
    /// Whole days on which it takes none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed_on: Vec<jiff::civil::Date>,
}

impl Partner {
    /// The name for people.
    #[must_use]
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(self.id.as_str())
    }
}

/// Which side of the trade a partner is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartnerKind {
    /// We buy from it.
    Introducer,
    /// We sell to it.
    Buyer,
    /// Both.
    Both,
}

/// How to reach a partner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contact {
    /// An e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// A telephone number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// Where calls may be transferred to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer_phone: Option<String>,
}

impl Contact {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
