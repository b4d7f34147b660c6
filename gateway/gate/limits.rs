//! The periods that limits are counted in: their names, their bounds in the owner's time zone, and the places to take.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::model::limit::{Limits, OwnerKind, Period, Place, PlaceKey};

/// The period that an instant falls into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeriodAt {
    /// `d2026-11-21`, `m2026-11` or `t`.
    pub name: String,
    /// The first later instant that belongs to another period; `None` for `t`, which never ends.
    pub ends: Option<Timestamp>,
}

/// The period of a kind that `now` falls into: the one of its local date in `tz`.
#[must_use]
pub fn period(kind: Period, tz: &TimeZone, now: Timestamp) -> PeriodAt {
    let today = tz.to_datetime(now).date();
    match kind {
        Period::Daily => PeriodAt { name: format!("d{today}"), ends: end_of(tz, now, |date| date == today) },
        Period::Monthly => PeriodAt {
            name: format!("m{:04}-{:02}", today.year(), today.month()),
            ends: end_of(tz, now, |date| date.first_of_month() == today.first_of_month()),
        },
        Period::Total => PeriodAt { name: "t".to_owned(), ends: None },
    }
}

/// The places that one lead takes of an owner at `now`, one per kind of period in the order of [`Period::ALL`], each
/// with the end of its period. All three are counted, limited or not, so that a limit set later knows what was used.
#[must_use]
pub fn places(
    kind: OwnerKind,
    owner: &str,
    limits: &Limits,
    tz: &TimeZone,
    now: Timestamp,
) -> [(Place, Option<Timestamp>); 3] {
    Period::ALL.map(|each| {
        let period = period(each, tz, now);
        (Place { key: PlaceKey::new(kind, owner, &period.name), limit: limits.of(each) }, period.ends)
    })
}

/// The first instant after `now` whose local date is not `within`. Looks at one stretch of constant offset after the
/// other, because a change of offset may itself change the date.
fn end_of(tz: &TimeZone, now: Timestamp, within: impl Fn(Date) -> bool) -> Option<Timestamp> {
    let mut from = now;
    loop {
        let offset = tz.to_offset(from);
        let mut next_date = offset.to_datetime(from).date();
        while within(next_date) {
            next_date = next_date.checked_add(1.day()).ok()?;
        }
        let midnight = offset.to_timestamp(next_date.at(0, 0, 0, 0)).ok()?;
        match tz.following(from).map(|change| change.timestamp()).find(|change| *change > from) {
            // A change at that very midnight may set the clocks back into the day that was ending.
            Some(change) if change <= midnight => {
                if !within(tz.to_datetime(change).date()) {
                    return Some(change);
                }
                from = change;
            }
            _ => return Some(midnight),
        }
    }
}
