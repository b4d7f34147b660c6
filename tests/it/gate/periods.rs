//! Periods and places, by example and against the minute-by-minute diary.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use lead_gateway::gate::limits::{period, places};
use lead_gateway::model::limit::{Limits, OwnerKind, Period, PlaceKey};

use super::at;
use super::hours::Diary;

#[test]
fn a_period_is_the_local_date_and_ends_with_it() {
    let new_york = TimeZone::get("America/New_York").unwrap();
    let now = at("2026-12-01T04:59:59Z");
    let day = period(Period::Daily, &new_york, now);
    assert_eq!((day.name.as_str(), day.ends), ("d2026-11-30", Some(at("2026-12-01T05:00:00Z"))));
    let month = period(Period::Monthly, &new_york, now);
    assert_eq!((month.name.as_str(), month.ends), ("m2026-11", Some(at("2026-12-01T05:00:00Z"))));
    let total = period(Period::Total, &new_york, now);
    assert_eq!((total.name.as_str(), total.ends), ("t", None));
    // The day on which the clocks are set back has 25 hours.
    let long = period(Period::Daily, &new_york, at("2026-11-01T04:00:00Z"));
    assert_eq!((long.name.as_str(), long.ends), ("d2026-11-01", Some(at("2026-11-02T05:00:00Z"))));
}

#[test]
fn all_three_periods_are_counted_whether_limited_or_not() {
    let limits = Limits { daily: 0, monthly: 800, total: 0 };
    let taken = places(OwnerKind::Source, "acme-solar", &limits, &TimeZone::UTC, at("2026-11-21T09:30:00Z"));
    let taken: Vec<(&str, Option<u64>)> = taken.iter().map(|(place, _)| (place.key.as_str(), place.limit)).collect();
    assert_eq!(
        taken,
        [
            ("source/acme-solar/d2026-11-21", None),
            ("source/acme-solar/m2026-11", Some(800)),
            ("source/acme-solar/t", None)
        ]
    );
}

#[test]
fn a_period_is_past_only_when_it_has_ended_in_every_zone() {
    let key = |name: &str| PlaceKey::new(OwnerKind::Partner, "brightroof", name);
    assert!(!key("d2026-11-21").is_past(at("2026-11-22T12:00:00Z"))); // still that day on Baker Island
    assert!(key("d2026-11-21").is_past(at("2026-11-24T00:00:00Z")));
    assert!(!key("m2026-11").is_past(at("2026-12-01T12:00:00Z")));
    assert!(key("m2026-11").is_past(at("2026-12-03T00:00:00Z")));
    assert!(!key("t").is_past(at("2099-01-01T00:00:00Z")));
    assert!(!key("something else").is_past(at("2099-01-01T00:00:00Z")));
}

#[test]
fn days_and_months_of_whole_years_agree_with_a_diary() {
    for (zone, year) in [
        ("Europe/London", 2026),
        ("America/New_York", 2028),
        ("Australia/Lord_Howe", 2026),
        ("Asia/Kathmandu", 2026),
        ("America/Sao_Paulo", 2018),
        ("Pacific/Apia", 2011),
        ("America/St_Johns", 2010),
        ("Africa/Casablanca", 2026),
    ] {
        let diary = Diary::of(zone, year);
        let date = |minute: usize| -> Date {
            "1970-01-01".parse::<Date>().unwrap() + jiff::Span::new().days(diary.readings[minute].div_euclid(1440))
        };
        // Walked backwards, the next change is always known. The last month's end lies beyond the diary.
        let mut day_ends: Option<Timestamp> = None;
        let mut month_ends: Option<Timestamp> = None;
        let mut after = date(diary.readings.len() - 1);
        for minute in (0..diary.readings.len() - 1).rev() {
            let next = diary.readings[minute + 1].div_euclid(1440) != diary.readings[minute].div_euclid(1440);
            if next {
                let today = date(minute);
                day_ends = Some(diary.instant(minute + 1));
                if today.first_of_month() != after.first_of_month() {
                    month_ends = Some(diary.instant(minute + 1));
                }
                after = today;
            }
            // Every change of date and of clocks, and a sample of the rest.
            let jump = diary.readings[minute + 1] != diary.readings[minute] + 1;
            if !(next || jump || minute % 97 == 0) {
                continue;
            }
            let now = diary.instant(minute);
            if day_ends.is_some() {
                let day = period(Period::Daily, &diary.tz, now);
                assert_eq!((day.name, day.ends), (format!("d{after}"), day_ends), "{zone} at {now}");
            }
            if month_ends.is_some() {
                let month = period(Period::Monthly, &diary.tz, now);
                let name = after.strftime("m%Y-%m").to_string();
                assert_eq!((month.name, month.ends), (name, month_ends), "{zone} at {now}");
            }
        }
    }
}
