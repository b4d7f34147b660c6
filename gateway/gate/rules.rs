//! What the gate needs to know of one contract and its partner, compiled once when a network is loaded; and how
//! hours, limits and pause together make one answer.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::limits;
use super::schedule::{Hours, HoursAt};
use super::{AsOf, Fault, Shut, Ticket};
use crate::model::contract::Contract;
use crate::model::delivery::ShutReason;
use crate::model::id::{ContractId, PartnerId};
use crate::model::limit::{Limits, OwnerKind, Place, PlaceKey};
use crate::model::partner::Partner;

/// A partner's zone, hours and limits; shared by the rules of its contracts.
#[derive(Debug)]
pub struct PartnerRules {
    id: PartnerId,
    timezone: Arc<str>,
    tz: TimeZone,
    hours: Hours,
    limits: Limits,
}

/// One contract's hours and limits beside its partner's.
#[derive(Debug)]
pub struct GateRules {
    id: ContractId,
    partner: Arc<PartnerRules>,
    hours: Hours,
    limits: Limits,
    present: ArcSwapOption<Present>,
}

/// The places of the periods that `from..until` falls into.
#[derive(Debug)]
pub(super) struct Present {
    from: Timestamp,
    /// The earliest end of any of the periods.
    pub(super) until: Timestamp,
    /// Of the partner and of the contract, each with the end of its period.
    places: [[(Place, Option<Timestamp>); 3]; 2],
}

/// Whether any limit is reached, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    No,
    Until(Timestamp),
    Forever,
}

impl PartnerRules {
    /// Compiles a partner's zone, hours and limits.
    ///
    /// # Errors
    /// Every fault of its `timezone` and `schedule`.
    pub fn compile(partner: &Partner) -> Result<Self, Vec<Fault>> {
        // The hours are read even in a wrong zone, so that all faults are told at once.
        let zone = TimeZone::get(&partner.timezone).map_err(|_| Fault {
            at: "timezone".to_owned(),
            problem: format!(
                "`{}` is not an IANA time zone; write a name such as \"Europe/London\"",
                partner.timezone.chars().take(80).collect::<String>()
            ),
        });
        let tz = zone.clone().unwrap_or(TimeZone::UTC);
        match (zone, Hours::compile(partner.schedule.as_deref(), &partner.closed_on, &tz)) {
            (Ok(_), Ok(hours)) => Ok(Self {
                id: partner.id.clone(),
                timezone: partner.timezone.as_str().into(),
                tz,
                hours,
                limits: partner.limits,
            }),
            (zone, hours) => Err(zone.err().into_iter().chain(hours.err().into_iter().flatten()).collect()),
        }
    }
}

impl GateRules {
    /// Compiles a contract's own hours and limits, in its partner's zone.
    ///
    /// # Errors
    /// Every fault of its `schedule`.
    pub fn compile(partner: Arc<PartnerRules>, contract: &Contract) -> Result<Self, Vec<Fault>> {
        Ok(Self {
            id: contract.id.clone(),
            hours: Hours::compile(contract.schedule.as_deref(), &[], &partner.tz)?,
            limits: contract.limits,
            partner,
            present: ArcSwapOption::empty(),
        })
    }

    /// The contract's partner.
    #[must_use]
    pub fn partner(&self) -> &PartnerId {
        &self.partner.id
    }

    /// The contract.
    #[must_use]
    pub fn contract(&self) -> &ContractId {
        &self.id
    }

    /// Whether these are the same rules: of hours, zone and limits, of the contract and its partner.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        let partner =
            |rules: &Self| (rules.partner.id.clone(), rules.partner.limits, Arc::clone(&rules.partner.timezone));
        partner(self) == partner(other)
            && self.limits == other.limits
            && self.hours().iter().zip(other.hours()).all(|(one, other)| one.same_as(other))
    }

    /// The intervals within `from..to` in which partner and contract are both open, in order, as of [`Hours::intervals`].
    pub(super) fn intervals(&self, from: Timestamp, to: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let [partner, own] = self.hours().map(|hours| hours.intervals(from, to));
        let (mut both, mut i, mut k) = (Vec::new(), 0, 0);
        while let (Some(one), Some(other)) = (partner.get(i), own.get(k)) {
            let common = (one.0.max(other.0), one.1.min(other.1));
            if common.0 < common.1 {
                both.push(common);
            }
            if one.1 < other.1 { i += 1 } else { k += 1 }
        }
        both
    }

    /// The hours of the partner and of the contract: both must be open.
    #[must_use]
    pub fn hours(&self) -> [&Hours; 2] {
        [&self.partner.hours, &self.hours]
    }

    /// The places of one lead at `now`, remembered until a period ends.
    pub(super) fn present(&self, now: Timestamp) -> Arc<Present> {
        if let Some(present) = self.present.load_full()
            && present.from <= now
            && now < present.until
        {
            return present;
        }
        let of = |kind, owner, limits| limits::places(kind, owner, limits, &self.partner.tz, now);
        let places = [
            of(OwnerKind::Partner, self.partner.id.as_str(), &self.partner.limits),
            of(OwnerKind::Contract, self.id.as_str(), &self.limits),
        ];
        let until = places.iter().flatten().filter_map(|(_, ends)| *ends).min().unwrap_or(Timestamp::MAX);
        let present = Arc::new(Present { from: now, until, places });
        self.present.store(Some(Arc::clone(&present)));
        present
    }

    /// `Some(until)` while the hours of both are open at `now`; [`Timestamp::MAX`] where they never close.
    pub(super) fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.hours().into_iter().try_fold(Timestamp::MAX, |soonest, hours| match hours.at(now) {
            HoursAt::OpenUntil(until) => Some(until.unwrap_or(Timestamp::MAX).min(soonest)),
            HoursAt::ClosedUntil(_) => None,
        })
    }

    /// What to say when it is shut at `now` for `reason`: pause, hours and limits put together.
    pub(super) fn shut(&self, now: Timestamp, reason: ShutReason, full: Full) -> Shut {
        let opening = match full {
            Full::No => self.opening_from(now),
            Full::Until(ends) => self.opening_from(ends),
            Full::Forever => None,
        };
        Shut {
            reason,
            until: opening.filter(|_| reason != ShutReason::Paused),
            never: opening.is_none(),
            timezone: Arc::clone(&self.partner.timezone),
        }
    }

    /// The first instant from `then` on at which partner and contract are both open; `None` = never.
    fn opening_from(&self, then: Timestamp) -> Option<Timestamp> {
        let [partner, own] = self.hours();
        // Both repeat weekly but for closed days: what they have in common comes within this time or never.
        let last = then.checked_add(partner.opens_within()).unwrap_or(Timestamp::MAX);
        let mut at = then;
        while at <= last {
            match (partner.at_another_time(at), own.at_another_time(at)) {
                (HoursAt::OpenUntil(_), HoursAt::OpenUntil(_)) => return Some(at),
                (HoursAt::ClosedUntil(opens), HoursAt::OpenUntil(_))
                | (HoursAt::OpenUntil(_), HoursAt::ClosedUntil(opens)) => at = opens?,
                (HoursAt::ClosedUntil(one), HoursAt::ClosedUntil(other)) => at = one?.max(other?),
            }
        }
        None
    }
}

/// The first that applies; `None` = open.
pub(super) fn reason(paused: bool, open: bool, full: Full) -> Option<ShutReason> {
    match (paused, open, full) {
        (true, _, _) => Some(ShutReason::Paused),
        (false, false, _) => Some(ShutReason::Closed),
        (false, true, Full::Until(_) | Full::Forever) => Some(ShutReason::Full),
        (false, true, Full::No) => None,
    }
}

impl Present {
    /// Leave to make one attempt, while the hours last.
    pub(super) fn ticket(&self, hours_end: Timestamp, bypass_limits: bool, owned: &[PlaceKey], as_of: AsOf) -> Ticket {
        if bypass_limits {
            return Ticket { places: Vec::new(), owned: Vec::new(), valid_until: hours_end, as_of };
        }
        let places: Vec<Place> = self.places().cloned().collect();
        Ticket { places, owned: owned.to_vec(), valid_until: hours_end.min(self.until), as_of }
    }

    /// Every place of one lead.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().flatten().map(|(place, _)| place)
    }

    /// Whether a limit is reached, given how many are used of each counter.
    pub(super) fn full(&self, used: impl Fn(&PlaceKey) -> u64) -> Full {
        let mut full = Full::No;
        for (place, ends) in self.places.iter().flatten() {
            if place.limit.is_none_or(|limit| used(&place.key) < limit) {
                continue;
            }
            full = match (full, ends) {
                (Full::Forever, _) | (_, None) => Full::Forever,
                (Full::No, Some(ends)) => Full::Until(*ends),
                (Full::Until(other), Some(ends)) => Full::Until(other.max(*ends)),
            };
        }
        full
    }
}
