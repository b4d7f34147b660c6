//! How many a partner, contract, source or campaign may have in a period.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};

/// Upper bounds per period; `0` or absent means none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// In one calendar day of the owner's zone.
    #[serde(skip_serializing_if = "is_zero")]
    pub daily: u64,
    /// In one calendar month of the owner's zone.
    #[serde(skip_serializing_if = "is_zero")]
    pub monthly: u64,
    /// Ever.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Limits {
    /// Whether nothing is bounded.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The bound for one kind of period, if there is one.
    #[must_use]
    pub fn of(&self, period: Period) -> Option<u64> {
        let limit = match period {
            Period::Daily => self.daily,
            Period::Monthly => self.monthly,
            Period::Total => self.total,
        };
        (limit > 0).then_some(limit)
    }
}

/// The kinds of period that a limit can bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// A calendar day.
    Daily,
    /// A calendar month.
    Monthly,
    /// All time.
    Total,
}

impl Period {
    /// Every kind, shortest first.
    pub const ALL: [Self; 3] = [Self::Daily, Self::Monthly, Self::Total];
}

/// Whose places are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerKind {
    /// All contracts of a partner together.
    Partner,
    /// One contract.
    Contract,
    /// One source's leads.
    Source,
    /// One campaign's leads.
    Campaign,
}

/// One counter: places of one owner in one period, such as `partner/brightroof/d2026-11-21`.
/// Its text form is the key under which stores and gates keep it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlaceKey(std::sync::Arc<str>);

impl PlaceKey {
    /// The counter of `owner` for the period called `period` (`d2026-11-21`, `m2026-11`, `t`).
    #[must_use]
    pub fn new(kind: OwnerKind, owner: &str, period: &str) -> Self {
        let kind = match kind {
            OwnerKind::Partner => "partner",
            OwnerKind::Contract => "contract",
            OwnerKind::Source => "source",
            OwnerKind::Campaign => "campaign",
        };
        Self(format!("{kind}/{owner}/{period}").into())
    }

    /// A key read back from a store.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether its period has surely ended in every zone, so that nobody takes such a place any more, and its count may be
    /// forgotten.
    #[must_use]
    pub fn is_past(&self, now: Timestamp) -> bool {
        let name = self.0.rsplit('/').next().unwrap_or_default();
        let last_day = match name.split_at_checked(1) {
            Some(("d", day)) => day.parse::<Date>().ok(),
            Some(("m", month)) => format!("{month}-01").parse::<Date>().ok().map(Date::last_of_month),
            _ => None,
        };
        // A local day ends at most 26 hours after UTC's; two whole days leave no doubt.
        last_day.is_some_and(|day| day.saturating_add(2.days()) < TimeZone::UTC.to_datetime(now).date())
    }

    /// Whose places they are, in text: `partner/brightroof`.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(owner, _)| owner)
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PlaceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place to be taken: counted in any case, granted only while `used < limit` where there is a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The counter.
    pub key: PlaceKey,
    /// The bound, if any.
    pub limit: Option<u64>,
}
