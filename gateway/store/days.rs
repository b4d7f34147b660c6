//! Days (UTC) as the stores number them: exchanges, look-ups and refusals are kept and dropped by the day.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use uuid::Uuid;

/// Between a row's own time and the time in its id lies less than this.
pub(super) const ID_SLACK_MICROS: i64 = 86_400_000_000;

/// The UTC day of an instant as `YYYYMMDD`.
pub(super) fn day_of(at: Timestamp) -> u32 {
    let date = at.to_zoned(TimeZone::UTC).date();
    let year = u32::try_from(date.year()).unwrap_or(0);
    year * 10_000 + u32::from(date.month().unsigned_abs()) * 100 + u32::from(date.day().unsigned_abs())
}

/// The day so many whole days before an instant.
pub(super) fn day_before(at: Timestamp, retention: std::time::Duration) -> u32 {
    let hours = i64::try_from(retention.as_secs() / 3600).unwrap_or(i64::MAX);
    at.checked_sub(hours.hours()).map_or(0, day_of)
}

/// The least UUIDv7 of a millisecond after `micros`: what is older has a lesser id.
pub(super) fn id_bound(micros: i64) -> Uuid {
    let millis = u64::try_from(micros / 1_000 + 1).unwrap_or(0);
    let mut id = [0; 16];
    id[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    Uuid::from_bytes(id)
}
