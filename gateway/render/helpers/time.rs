//! Dates and times. A bare date or a time without a zone is taken in the zone that it is written in: the one asked
//! for, else the partner's.

use jiff::civil::DateTime;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::super::engine::Scene;
use super::{Args, Literals, Value, shorten};
use crate::model::contract::Contract;

pub(super) fn date<'v>(args: &Args<'_, 'v>, scene: &Scene<'_>) -> Result<Value<'v>, String> {
    let text = args.text(0);
    let text = text.trim();
    if text.is_empty() {
        return Ok("".into());
    }
    let zone = zone(args, scene)?;
    let moment = read(text, &zone).ok_or("not a date (2026-11-21) or a timestamp (2026-11-21T09:30:00Z)")?;
    let format = args.setting(1, "format");
    write(&moment, format.as_deref().unwrap_or("%Y-%m-%d"))
}

pub(super) fn now<'v>(args: &Args<'_, 'v>, scene: &Scene<'_>) -> Result<Value<'v>, String> {
    let format = args.setting(0, "format");
    match format {
        Some(format) => write(&scene.now.to_zoned(zone(args, scene)?), &format),
        None if args.option("timezone").is_some() => {
            write(&scene.now.to_zoned(zone(args, scene)?), "%Y-%m-%dT%H:%M:%S%:z")
        }
        None => Ok(scene.now.to_string().into()),
    }
}

pub(super) fn check_date(literals: &Literals<'_>, _: &Contract) -> Result<(), String> {
    check(literals, 1)
}

pub(super) fn check_now(literals: &Literals<'_>, _: &Contract) -> Result<(), String> {
    check(literals, 0)
}

fn check(literals: &Literals<'_>, format_at: usize) -> Result<(), String> {
    if let Ok(Some(name)) = literals.setting(usize::MAX, "timezone") {
        TimeZone::get(&name).map_err(|_| unknown_zone(&format!("`{}`", shorten(&name))))?;
    }
    if let Ok(Some(format)) = literals.setting(format_at, "format") {
        write(&Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC), &format)
            .map_err(|message| format!("`{}`: {message}", shorten(&format)))?;
    }
    Ok(())
}

fn zone(args: &Args<'_, '_>, scene: &Scene<'_>) -> Result<TimeZone, String> {
    match args.option("timezone") {
        // A name that is computed may be a value of the lead, which no message may show.
        Some(name) => TimeZone::get(&name).map_err(|_| unknown_zone("timezone")),
        None => Ok(scene.timezone.clone()),
    }
}

fn unknown_zone(what: &str) -> String {
    format!("{what} is not a time zone: use an IANA name such as \"Europe/London\"")
}

/// `2026-11-21`
const DATE_LENGTH: usize = 10;

fn read(text: &str, zone: &TimeZone) -> Option<Zoned> {
    // A timestamp has a time and an offset behind its date; to find that out is dear.
    if text.len() > DATE_LENGTH
        && let Ok(instant) = text.parse::<Timestamp>()
    {
        return Some(instant.to_zoned(zone.clone()));
    }
    text.parse::<DateTime>().ok()?.to_zoned(zone.clone()).ok()
}

fn write<'v>(moment: &Zoned, format: &str) -> Result<Value<'v>, String> {
    strtime::format(format, moment)
        .map(Value::from)
        .map_err(|_| "the format is not a strftime format, such as \"%d/%m/%Y\"".to_owned())
}
