//! How long a partner asks to wait: `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3).

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use crate::model::exchange::Reply;

/// No partner may hold a delivery back for longer.
const LONGEST: Duration = Duration::from_hours(1);

/// What the reply asks for, at most an hour; `None` where it asks for nothing readable, for no time, or for a time past.
pub(super) fn of(reply: &Reply, now: Timestamp) -> Option<Duration> {
    let text = reply.header("retry-after")?.trim();
    let asked = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More seconds than 64 bits hold are still "long".
        text.parse().map_or(LONGEST, Duration::from_secs)
    } else {
        let until = httpdate::parse_http_date(text).ok()?;
        until.duration_since(partner_now(reply, now)).ok()?
    };
    (!asked.is_zero()).then_some(asked.min(LONGEST))
}

/// The partner's own clock where it tells it, so that its being wrong does not matter.
fn partner_now(reply: &Reply, now: Timestamp) -> SystemTime {
    reply
        .header("date")
        .and_then(|text| httpdate::parse_http_date(text.trim()).ok())
        .unwrap_or_else(|| SystemTime::from(now))
}
