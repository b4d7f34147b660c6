//! Hours, by example and against a reference that walks a whole year minute by minute.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use lead_gateway::gate::schedule::{Hours, HoursAt};
use lead_gateway::model::schedule::WeekTable;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::at;

fn table(days: &[(&str, &str)]) -> WeekTable {
    WeekTable(days.iter().map(|(day, hours)| ((*day).to_owned(), (*hours).to_owned())).collect())
}

fn hours(zone: &str, days: &[(&str, &str)], closed_on: &[&str]) -> Hours {
    let closed_on: Vec<Date> = closed_on.iter().map(|day| day.parse().unwrap()).collect();
    Hours::compile(Some(&table(days)), &closed_on, &TimeZone::get(zone).unwrap()).unwrap()
}

fn open_until(text: &str) -> HoursAt {
    HoursAt::OpenUntil(Some(at(text)))
}

fn closed_until(text: &str) -> HoursAt {
    HoursAt::ClosedUntil(Some(at(text)))
}

#[test]
fn an_office_week_opens_and_closes_to_the_microsecond() {
    let hours = hours("Europe/London", &[("mon-fri", "09:00-12:00, 13:00-17:00"), ("sat", "10:00-14:00")], &[]);
    assert_eq!(hours.at(at("2026-11-23T08:59:59.999999Z")), closed_until("2026-11-23T09:00:00Z"));
    assert_eq!(hours.at(at("2026-11-23T09:00:00Z")), open_until("2026-11-23T12:00:00Z"));
    assert_eq!(hours.at(at("2026-11-23T12:00:00Z")), closed_until("2026-11-23T13:00:00Z"));
    assert_eq!(hours.at(at("2026-11-28T14:00:00Z")), closed_until("2026-11-30T09:00:00Z"));
    // Asked for an earlier time again, it does not answer from memory.
    assert_eq!(hours.at(at("2026-11-23T09:30:00Z")), open_until("2026-11-23T12:00:00Z"));
    // In summer the same hours are an hour earlier by UTC.
    assert_eq!(hours.at(at("2026-07-06T08:00:00Z")), open_until("2026-07-06T11:00:00Z"));
}

#[test]
fn no_table_is_always_open_but_for_closed_days() {
    let london = TimeZone::get("Europe/London").unwrap();
    let always = Hours::compile(None, &[], &london).unwrap();
    assert_eq!(always.at(at("2026-11-21T00:00:00Z")), HoursAt::OpenUntil(None));
    let christmas: Date = "2036-12-25".parse().unwrap();
    let closed_once = Hours::compile(None, &[christmas], &london).unwrap();
    assert_eq!(closed_once.at(at("2026-11-21T00:00:00Z")), open_until("2036-12-25T00:00:00Z"));
    assert_eq!(closed_once.at(at("2036-12-25T12:00:00Z")), closed_until("2036-12-26T00:00:00Z"));
    assert_eq!(closed_once.at(at("2036-12-26T00:00:00Z")), HoursAt::OpenUntil(None));
    // Every minute written out is the same as no table.
    let written = hours("Europe/London", &[("mon-sat", "00:00-24:00"), ("sun", "00:00-12:00, 12:00-24:00")], &[]);
    assert_eq!(written.at(at("2026-11-21T00:00:00Z")), HoursAt::OpenUntil(None));
}

#[test]
fn a_table_without_days_is_never_open() {
    let closed = hours("Europe/London", &[], &["2026-12-25", "9999-12-31"]);
    assert_eq!(closed.at(at("2026-11-21T00:00:00Z")), HoursAt::ClosedUntil(None));
}

#[test]
fn a_window_across_midnight_belongs_to_the_day_it_opens() {
    let hours = hours("Europe/London", &[("sat", "22:00-02:00"), ("sun", "02:00-03:00")], &[]);
    assert_eq!(hours.at(at("2026-11-21T23:59:00Z")), open_until("2026-11-22T03:00:00Z"));
    assert_eq!(hours.at(at("2026-11-22T22:30:00Z")), closed_until("2026-11-28T22:00:00Z"));
}

#[test]
fn a_range_of_days_may_wrap_around_the_week() {
    let hours = hours("Europe/London", &[("sat-mon", "10:00-11:00")], &[]);
    let from = at("2026-11-20T00:00:00Z");
    let open = hours.intervals(from, from + SignedDuration::from_hours(7 * 24));
    let days: Vec<String> = open.iter().map(|(opens, _)| opens.to_string()).collect();
    assert_eq!(days, ["2026-11-21T10:00:00Z", "2026-11-22T10:00:00Z", "2026-11-23T10:00:00Z"]);
}

#[test]
fn a_closed_day_ends_the_window_of_the_evening_before() {
    let hours = hours("Europe/London", &[("mon-sun", "20:00-02:00")], &["2026-12-25"]);
    assert_eq!(hours.at(at("2026-12-24T21:00:00Z")), open_until("2026-12-25T00:00:00Z"));
    // The window that would have opened on the closed day has its tail on the day after, which is not closed.
    assert_eq!(hours.at(at("2026-12-25T00:00:00Z")), closed_until("2026-12-26T00:00:00Z"));
    assert_eq!(hours.at(at("2026-12-26T00:00:00Z")), open_until("2026-12-26T02:00:00Z"));
}

#[test]
fn a_month_of_closed_days_is_waited_out() {
    let days: Vec<String> = (1..=31).map(|day| format!("2026-08-{day:02}")).collect();
    let days: Vec<&str> = days.iter().map(String::as_str).collect();
    let hours = hours("Europe/London", &[("fri", "09:00-10:00")], &days);
    assert_eq!(hours.at(at("2026-07-31T10:00:00Z")), closed_until("2026-09-04T08:00:00Z"));
}

#[test]
fn a_time_that_dst_skips_is_the_next_instant_that_exists() {
    // On 29 March 2026 London goes from 01:00 to 02:00 at 01:00 UTC.
    let opens_in_gap = hours("Europe/London", &[("sun", "01:30-05:00")], &[]);
    assert_eq!(opens_in_gap.at(at("2026-03-29T00:59:00Z")), closed_until("2026-03-29T01:00:00Z"));
    let closes_in_gap = hours("Europe/London", &[("sun", "00:00-01:30")], &[]);
    assert_eq!(closes_in_gap.at(at("2026-03-29T00:00:00Z")), open_until("2026-03-29T01:00:00Z"));
    let all_in_gap = hours("Europe/London", &[("sun", "01:15-01:45")], &[]);
    assert_eq!(all_in_gap.at(at("2026-03-28T12:00:00Z")), closed_until("2026-04-05T00:15:00Z"));
}

#[test]
fn a_time_that_dst_repeats_opens_at_its_first_and_closes_at_its_second_occurrence() {
    // On 25 October 2026 London lives the hour from 01:00 twice: from 00:00 and from 01:00 UTC.
    let hours = hours("Europe/London", &[("sun", "01:15-01:45")], &[]);
    assert_eq!(hours.at(at("2026-10-25T00:00:00Z")), closed_until("2026-10-25T00:15:00Z"));
    assert_eq!(hours.at(at("2026-10-25T00:15:00Z")), open_until("2026-10-25T01:45:00Z"));
}

#[test]
fn faults_name_the_day_and_the_text_and_come_all_at_once() {
    let faults = |days: &[(&str, &str)]| -> Vec<String> {
        let zone = TimeZone::get("Europe/London").unwrap();
        Hours::compile(Some(&table(days)), &[], &zone).unwrap_err().iter().map(ToString::to_string).collect()
    };
    for (days, expected) in [
        (&[("monday", "09:00-17:00")][..], &["schedule.monday: `monday` is not a day"][..]),
        (&[("mon-fr", "09:00-17:00")], &["schedule.mon-fr: `fr` is not a day"]),
        (&[("mon-mon", "09:00-17:00")], &["schedule.mon-mon: a range needs two different days"]),
        (&[("mon", "")], &["schedule.mon: the hours are empty"]),
        (&[("mon", "09:00-12:00,")], &["schedule.mon: the hours are empty"]),
        (&[("mon", "9:00-17:00")], &["schedule.mon: `9:00-17:00` is not a window"]),
        (&[("mon", "09:00-24:01")], &["schedule.mon: `09:00-24:01` is not a window"]),
        (&[("mon", "09:60-10:00")], &["schedule.mon: `09:60-10:00` is not a window"]),
        (&[("mon", "+9:00-10:00")], &["schedule.mon: `+9:00-10:00` is not a window"]),
        (&[("mon", "09:00")], &["schedule.mon: `09:00` is not a window"]),
        (&[("mon", "24:00-02:00")], &["schedule.mon: `24:00-02:00` opens at 24:00"]),
        (&[("mon", "09:00-09:00")], &["schedule.mon: `09:00-09:00` is empty"]),
        (
            &[("mon", "09:00-12:00, 11:00-13:00, x")],
            &["schedule.mon: `x` is not a window"], // overlaps are looked for once all windows can be read
        ),
        (&[("mon-fri", "09:00-12:00, 11:59-13:00")], &["schedule.mon-fri: `11:59-13:00` overlaps `09:00-12:00`"]),
        (
            &[("mon", "22:00-02:00"), ("tue", "01:00-03:00")],
            &["schedule.tue: `01:00-03:00` overlaps `22:00-02:00` of `mon`"],
        ),
        (
            &[("sun", "22:00-02:00"), ("mon", "01:00-03:00")],
            &["schedule.mon: `01:00-03:00` overlaps `22:00-02:00` of `sun`"],
        ),
        (
            &[("mon-wed", "09:00-17:00"), ("tue-thu", "18:00-19:00"), ("sat", "nine")],
            &[
                "schedule.sat: `nine` is not a window",
                "schedule.tue-thu: tue is also named by `mon-wed`",
                "schedule.tue-thu: wed is also named by `mon-wed`",
            ],
        ),
    ] {
        let found = faults(days);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found} instead of {expected}");
        }
    }
}

// ---- the reference ----

/// A stretch of time as its minutes' local clock readings: all that a person with a wall clock could note down.
pub struct Diary {
    pub tz: TimeZone,
    start: i64,
    /// Local minutes since 1970-01-01 00:00, one per minute of real time.
    pub readings: Vec<i64>,
    /// The first and the last minute at which a reading was seen.
    seen: HashMap<i64, (usize, usize)>,
}

impl Diary {
    /// From a week before the year to a week after it.
    pub fn of(zone: &str, year: i16) -> Self {
        let tz = TimeZone::get(zone).unwrap();
        let start = at(&format!("{year}-01-01T00:00:00Z")).as_second() / 60 - 7 * 1440;
        let readings: Vec<i64> = (start..start + 380 * 1440)
            .map(|minute| minute + i64::from(tz.to_offset(Timestamp::from_second(minute * 60).unwrap()).seconds() / 60))
            .collect();
        let mut seen: HashMap<i64, (usize, usize)> = HashMap::new();
        for (minute, reading) in readings.iter().enumerate() {
            seen.entry(*reading).and_modify(|(_, last)| *last = minute).or_insert((minute, minute));
        }
        Self { tz, start, readings, seen }
    }

    pub fn instant(&self, minute: usize) -> Timestamp {
        Timestamp::from_second((self.start + i64::try_from(minute).unwrap()) * 60).unwrap()
    }

    /// The minutes at which a reading opens and closes: a reading never seen stands for the next that was.
    fn opens_and_closes(&self, reading: i64) -> Option<(usize, usize)> {
        (reading..reading + 2 * 1440).find_map(|later| {
            let (first, last) = *self.seen.get(&later)?;
            Some(if later == reading { (first, last) } else { (first, first) })
        })
    }

    fn open_minutes(&self, windows: &BTreeMap<i64, Vec<(i64, i64)>>, closed_days: &BTreeSet<i64>) -> Vec<bool> {
        let mut open = vec![false; self.readings.len()];
        let days = self.readings[0] / 1440..self.readings[self.readings.len() - 1] / 1440;
        for day in days {
            // 1970-01-01 was a Thursday.
            for (opens, closes) in windows.get(&((day + 3) % 7)).into_iter().flatten() {
                let from = self.opens_and_closes(day * 1440 + opens);
                let to = self.opens_and_closes(day * 1440 + closes);
                if let (Some((from, _)), Some((_, to))) = (from, to)
                    && from < to
                {
                    open[from..to].fill(true);
                }
            }
        }
        for (open, reading) in open.iter_mut().zip(&self.readings) {
            *open &= !closed_days.contains(&reading.div_euclid(1440));
        }
        open
    }
}

/// Days since Monday → windows in minutes of that day, which neither touch nor overlap. Their times gather around
/// `critical` ones; an end before its start is on the next day.
fn any_week(critical: Vec<i64>) -> impl Strategy<Value = BTreeMap<i64, Vec<(i64, i64)>>> {
    let time = prop_oneof![3 => prop::sample::select(critical), 1 => 0..1440i64, 1 => Just(0), 1 => Just(1439)];
    let day = prop::collection::btree_set(time, 0..=3).prop_map(|times| {
        let times: Vec<i64> = times.into_iter().collect();
        match times[..] {
            [] => vec![],
            [at] => vec![(at, 1440)],
            [opens, closes] => vec![(opens, closes)],
            // Across midnight and well before the next day's first window could begin, or cut off there.
            [first, opens, closes, ..] => vec![(first, opens), (closes, 1440 + first.min(60))],
        }
    });
    prop::collection::vec(day, 7).prop_map(|days| {
        let mut week: BTreeMap<i64, Vec<(i64, i64)>> = (0..7).zip(days).collect();
        for day in 0..7 {
            let next_opens = week[&((day + 1) % 7)].first().map_or(1440, |(opens, _)| *opens);
            if let Some(last) = week.get_mut(&day).and_then(|windows| windows.last_mut()) {
                last.1 = last.1.min(1440 + next_opens);
            }
        }
        week
    })
}

fn as_table(week: &BTreeMap<i64, Vec<(i64, i64)>>) -> WeekTable {
    let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let clock = |minutes: i64| format!("{:02}:{:02}", minutes / 60, minutes % 60);
    let window = |&(opens, closes): &(i64, i64)| {
        format!("{}-{}", clock(opens), clock(if closes > 1440 { closes - 1440 } else { closes }))
    };
    WeekTable(
        week.iter()
            .filter(|(_, windows)| !windows.is_empty())
            .map(|(day, windows)| {
                let windows: Vec<String> = windows.iter().map(window).collect();
                (names[usize::try_from(*day).unwrap()].to_owned(), windows.join(", "))
            })
            .collect(),
    )
}

fn agrees_with_the_diary(zone: &str, year: i16) {
    let diary = Diary::of(zone, year);
    // The diary's own ends are cut: a window may have begun before the first page.
    let inner = 3 * 1440..diary.readings.len() - 3 * 1440;
    let days = diary.readings[inner.start] / 1440..diary.readings[inner.end] / 1440;
    let dates = prop_oneof![
        prop::collection::btree_set(days, 0..6),
        Just(dates_of_changes(&diary)), // closed just when the clocks change
    ];
    let mut runner = TestRunner::new(Config { cases: 12, ..Config::default() });
    runner
        .run(
            &(any_week(times_of_changes(&diary)), dates, prop::collection::vec(inner.clone(), 40)),
            |(week, closed_days, asked)| {
                let closed_on: Vec<Date> = closed_days.iter().map(|day| date(*day)).collect();
                let hours = Hours::compile(Some(&as_table(&week)), &closed_on, &diary.tz).unwrap();
                let open = diary.open_minutes(&week, &closed_days);
                let expected: Vec<(Timestamp, Timestamp)> = runs(&open, &inner)
                    .into_iter()
                    .map(|(from, to)| (diary.instant(from), diary.instant(to)))
                    .collect();
                let found = hours.intervals(diary.instant(inner.start), diary.instant(inner.end));
                prop_assert_eq!(&found, &expected, "{:?} closed on {:?}", as_table(&week), closed_on);
                for minute in asked {
                    let change = (minute..inner.end).find(|other| open[*other] != open[minute]);
                    let found = hours.at(diary.instant(minute));
                    prop_assert_eq!(found.is_open(), open[minute]);
                    match change {
                        Some(change) => prop_assert_eq!(found.until(), Some(diary.instant(change))),
                        None => prop_assert!(found.until().is_none_or(|until| until >= diary.instant(inner.end))),
                    }
                }
                Ok(())
            },
        )
        .unwrap_or_else(|error| panic!("{zone} {year}: {error}"));
}

fn date(day: i64) -> Date {
    "1970-01-01".parse::<Date>().unwrap() + jiff::Span::new().days(day)
}

/// Times of day just before, in and after every hour that was skipped or repeated, its exact bounds among them.
fn times_of_changes(diary: &Diary) -> Vec<i64> {
    let mut times: BTreeSet<i64> = [0].into();
    for pair in diary.readings.windows(2).filter(|pair| pair[1] != pair[0] + 1) {
        let (from, to) = ((pair[0] + 1).min(pair[1]), (pair[0] + 1).max(pair[1]));
        let within = (from..to).step_by(15).chain([from - 1, from + 1, to - 1, to, to + 1]);
        times.extend(within.map(|reading| reading.rem_euclid(1440)));
    }
    times.into_iter().collect()
}

/// The local dates on both sides of every change of the clocks.
fn dates_of_changes(diary: &Diary) -> BTreeSet<i64> {
    diary.readings.windows(2).filter(|pair| pair[1] != pair[0] + 1).map(|pair| pair[0].div_euclid(1440)).collect()
}

fn runs(open: &[bool], within: &std::ops::Range<usize>) -> Vec<(usize, usize)> {
    let mut runs = Vec::new();
    let mut since = None;
    for minute in within.clone() {
        match (open[minute], since) {
            (true, None) => since = Some(minute),
            (false, Some(from)) => {
                runs.push((from, minute));
                since = None;
            }
            _ => {}
        }
    }
    runs.extend(since.map(|from| (from, within.end)));
    runs
}

macro_rules! years {
    ($($name:ident: $zone:literal $year:literal),* $(,)?) => {$(
        #[test]
        fn $name() {
            agrees_with_the_diary($zone, $year);
        }
    )*};
}

years! {
    a_year_in_london_agrees_with_a_diary: "Europe/London" 2026,
    a_year_in_new_york_agrees_with_a_diary: "America/New_York" 2028,
    a_year_on_lord_howe_with_half_an_hour_of_dst_agrees_with_a_diary: "Australia/Lord_Howe" 2026,
    a_year_in_kathmandu_agrees_with_a_diary: "Asia/Kathmandu" 2026,
    a_year_in_sao_paulo_with_dst_at_midnight_agrees_with_a_diary: "America/Sao_Paulo" 2018,
    a_year_in_apia_that_lacks_a_day_agrees_with_a_diary: "Pacific/Apia" 2011,
    a_year_in_st_johns_with_clocks_set_back_across_midnight_agrees_with_a_diary: "America/St_Johns" 2010,
    a_year_in_casablanca_with_dst_for_ramadan_agrees_with_a_diary: "Africa/Casablanca" 2026,
}
