//! Weekly hours in a time zone: is it open at an instant, and when does that change?
//!
//! Every window `09:00-17:00` of a day is turned into two instants, by three rules (CONTRACT, "Schedules"):
//! a time that DST skips is the next instant that exists; a time that DST repeats opens at its first and closes at its
//! second occurrence; the end is exclusive. Windows that come to touch or overlap are one. Days of `closed_on` are then
//! cut out, instant by instant: where the local date is such a day it is closed, the rest of a window that opened the
//! evening before included.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

use super::Fault;
use crate::model::schedule::WeekTable;

const DAY_MINUTES: u16 = 24 * 60;
const WEEK_MINUTES: u16 = 7 * DAY_MINUTES;

/// Compiled hours. Asking is cheap while the answer stays the same: the present state is remembered.
#[derive(Debug)]
pub struct Hours {
    tz: TimeZone,
    /// `None` = every minute of the week.
    week: Option<Box<Week>>,
    /// In order.
    closed_on: Vec<Date>,
    present: ArcSwapOption<Present>,
}

/// Open or closed at an instant, and the first later instant at which that changes (`None` = never).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoursAt {
    /// Open, until then.
    OpenUntil(Option<Timestamp>),
    /// Closed, until then.
    ClosedUntil(Option<Timestamp>),
}

/// A state that holds from `from` (inclusive) until it changes.
#[derive(Debug, Clone, Copy)]
struct Present {
    from: Timestamp,
    state: HoursAt,
}

/// Minutes since the midnight that starts the day it opens; `closes` may lie in the day after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    opens: u16,
    closes: u16,
}

/// The windows of each day, by days since Monday.
type Week = [Vec<Window>; 7];

impl Hours {
    /// Compiles a table (`None` = always open) and the whole days on which it is closed nevertheless.
    ///
    /// # Errors
    /// Every fault of the table, each with its day as written and what to write instead.
    pub fn compile(table: Option<&WeekTable>, closed_on: &[Date], tz: &TimeZone) -> Result<Self, Vec<Fault>> {
        let week = table.map(read_week).transpose()?.flatten();
        let mut closed_on = closed_on.to_vec();
        closed_on.sort_unstable();
        closed_on.dedup();
        Ok(Self { tz: tz.clone(), week, closed_on, present: ArcSwapOption::empty() })
    }

    /// Whether these are the same hours.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.tz == other.tz && self.week == other.week && self.closed_on == other.closed_on
    }

    /// Whether it is open at `now`, and until when.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> HoursAt {
        if let Some(present) = self.present.load().as_deref()
            && present.from <= now
            && present.state.until().is_none_or(|until| now < until)
        {
            return present.state;
        }
        let present = self.look_up(now);
        self.present.store(Some(Arc::new(present)));
        present.state
    }

    /// As [`Hours::at`], for an instant that is not now: leaves the remembered state alone.
    #[must_use]
    pub fn at_another_time(&self, then: Timestamp) -> HoursAt {
        self.look_up(then).state
    }

    /// If it is open at any time of its week at all, it is so within this long after any instant.
    #[must_use]
    pub fn opens_within(&self) -> SignedDuration {
        // A closed day hides the week's only opening at most once. Three weeks more, because DST can skip one too.
        let weeks = i64::try_from(self.closed_on.len()).unwrap_or(i64::MAX).saturating_add(3).min(500_000);
        SignedDuration::from_hours(weeks * 7 * 24)
    }

    /// The open intervals within `from..to`, in order, neither touching nor overlapping; each start inclusive, end
    /// exclusive.
    #[must_use]
    pub fn intervals(&self, from: Timestamp, to: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        if from >= to {
            return Vec::new();
        }
        let open = match &self.week {
            None => vec![(from, to)],
            Some(week) => self.windows_within(week, from, to),
        };
        self.closed_within(from, to).fold(open, |open, day| {
            spans_of(day, &self.tz).into_iter().fold(open, |open, closed| without(&open, closed))
        })
    }

    /// Hours change state within the week; only closed days, and a week without hours or without end, can make a state
    /// last longer. So: look at two days, and at twice as many until the change is found or none can come.
    fn look_up(&self, now: Timestamp) -> Present {
        let from = later(now, SignedDuration::from_hours(-24));
        let last = match (&self.week, self.closed_on.last()) {
            (Some(_), _) | (None, None) => later(now, self.opens_within()),
            (None, Some(day)) => later(now.max(end_of(*day, &self.tz)), self.opens_within()),
        };
        let mut days = 2;
        loop {
            let to = later(now, SignedDuration::from_hours(24 * days)).min(last);
            let open = self.intervals(from, to);
            let next = open.partition_point(|(_, closes)| *closes <= now);
            let closed_since = next.checked_sub(1).and_then(|i| open.get(i)).map_or(from, |(_, closes)| *closes);
            let present = match open.get(next) {
                Some(&(opens, closes)) if opens <= now => {
                    Present { from: opens, state: HoursAt::OpenUntil((closes < to).then_some(closes)) }
                }
                Some(&(opens, _)) => Present { from: closed_since, state: HoursAt::ClosedUntil(Some(opens)) },
                None => Present { from: closed_since, state: HoursAt::ClosedUntil(None) },
            };
            if present.state.until().is_some() || to >= last {
                return present;
            }
            days *= 2;
        }
    }

    fn windows_within(&self, week: &Week, from: Timestamp, to: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let mut open: Vec<(Timestamp, Timestamp)> = Vec::new();
        // A window is shorter than a day and no change of a zone's offset was longer than one.
        let first = self.tz.to_datetime(from).date().saturating_sub(3.days());
        let last = self.tz.to_datetime(to).date().saturating_add(1.day());
        for date in first.series(1.day()).take_while(|date| *date <= last) {
            for window in windows_of(week, date.weekday()) {
                let opens = opening(date, window.opens, &self.tz).max(from);
                let closes = closing(date, window.closes, &self.tz).min(to);
                if opens >= closes {
                    continue; // outside, or skipped by DST as a whole
                }
                match open.last_mut() {
                    Some(before) if before.1 >= opens => before.1 = before.1.max(closes),
                    _ => open.push((opens, closes)),
                }
            }
        }
        open
    }

    fn closed_within(&self, from: Timestamp, to: Timestamp) -> impl Iterator<Item = Date> {
        let first = self.tz.to_datetime(from).date().saturating_sub(1.day());
        let last = self.tz.to_datetime(to).date().saturating_add(1.day());
        let start = self.closed_on.partition_point(|day| *day < first);
        self.closed_on.iter().skip(start).copied().take_while(move |day| *day <= last)
    }
}

impl HoursAt {
    /// When it changes; `None` = never.
    #[must_use]
    pub fn until(self) -> Option<Timestamp> {
        match self {
            Self::OpenUntil(until) | Self::ClosedUntil(until) => until,
        }
    }

    /// Whether it is open.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::OpenUntil(_))
    }
}

// ---- local time → instants ----

fn opening(date: Date, minutes: u16, tz: &TimeZone) -> Timestamp {
    local(date, minutes).map_or(Timestamp::MAX, |at| instant(at, tz, |before, _| before))
}

fn closing(date: Date, minutes: u16, tz: &TimeZone) -> Timestamp {
    local(date, minutes).map_or(Timestamp::MAX, |at| instant(at, tz, |_, after| after))
}

fn end_of(date: Date, tz: &TimeZone) -> Timestamp {
    closing(date, DAY_MINUTES, tz)
}

/// `None` beyond the year 9999.
fn local(date: Date, minutes: u16) -> Option<DateTime> {
    date.at(0, 0, 0, 0).checked_add(i64::from(minutes).minutes()).ok()
}

/// The instant of a local time. Of a repeated one, `choose` picks the offset before or after the clocks were set back;
/// of a skipped one it is the moment at which the clocks were set forward.
fn instant(at: DateTime, tz: &TimeZone, choose: fn(Offset, Offset) -> Offset) -> Timestamp {
    let with = |offset: Offset| offset.to_timestamp(at).unwrap_or(Timestamp::MAX);
    match tz.to_ambiguous_timestamp(at).offset() {
        AmbiguousOffset::Unambiguous { offset } => with(offset),
        AmbiguousOffset::Fold { before, after } => with(choose(before, after)),
        AmbiguousOffset::Gap { before, after } => {
            let early = with(after);
            tz.following(early)
                .map(|change| change.timestamp())
                .take_while(|change| *change <= with(before))
                .find(|change| *change > early && tz.to_datetime(*change) > at)
                .unwrap_or_else(|| with(before))
        }
    }
}

/// The instants whose local date is `day`: one span, or more where the clocks were set back across its midnight
/// (St John's did so at 00:01), or none (Apia had no 30 December 2011).
fn spans_of(day: Date, tz: &TimeZone) -> Vec<(Timestamp, Timestamp)> {
    let whole = (opening(day, 0, tz), end_of(day, tz));
    let mut spans = Vec::with_capacity(1);
    let mut from = whole.0;
    while from < whole.1 {
        let offset = tz.to_offset(from);
        let change = tz.following(from).map(|change| change.timestamp()).find(|change| *change > from);
        let to = change.map_or(whole.1, |change| change.min(whole.1));
        let with = |at: Option<DateTime>| at.and_then(|at| offset.to_timestamp(at).ok()).unwrap_or(Timestamp::MAX);
        let span = (with(local(day, 0)).max(from), with(local(day, DAY_MINUTES)).min(to));
        if span.0 < span.1 {
            spans.push(span);
        }
        from = to;
    }
    spans
}

fn without(open: &[(Timestamp, Timestamp)], closed: (Timestamp, Timestamp)) -> Vec<(Timestamp, Timestamp)> {
    open.iter()
        .flat_map(|&(opens, closes)| [(opens, closes.min(closed.0)), (opens.max(closed.1), closes)])
        .filter(|(opens, closes)| opens < closes)
        .collect()
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX })
}

fn windows_of(week: &Week, day: Weekday) -> &[Window] {
    week.get(usize::from(day.to_monday_zero_offset().unsigned_abs())).map_or(&[], Vec::as_slice)
}

// ---- the table as people write it ----

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A window as written, with where it stands in the week.
struct Written<'a> {
    key: &'a str,
    text: &'a str,
    day: u16,
    window: Window,
}

impl Written<'_> {
    fn opens(&self) -> u16 {
        self.day * DAY_MINUTES + self.window.opens
    }

    fn closes(&self) -> u16 {
        self.day * DAY_MINUTES + self.window.closes
    }
}

/// `None` when the windows cover every minute of the week.
fn read_week(table: &WeekTable) -> Result<Option<Box<Week>>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut named_by: [Option<&str>; 7] = [None; 7];
    let mut written: Vec<Written<'_>> = Vec::new();
    for (key, hours) in &table.0 {
        let days = read_days(key).unwrap_or_else(|problem| {
            faults.push(fault(key, problem));
            Vec::new()
        });
        let windows = read_windows(hours, |problem| faults.push(fault(key, problem)));
        for (index, name) in days {
            match named_by.get_mut(index) {
                Some(Some(other)) => faults.push(fault(
                    key,
                    format!("{name} is also named by `{other}`; name every day once, with all its hours"),
                )),
                Some(free) => *free = Some(key),
                None => {}
            }
            let day = u16::try_from(index).unwrap_or(0);
            written.extend(windows.iter().map(|&(text, window)| Written { key, text, day, window }));
        }
    }
    written.sort_by_key(Written::opens);
    if faults.is_empty() {
        faults.extend(overlaps(&written));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    if written.iter().map(|w| w.window.closes - w.window.opens).sum::<u16>() == WEEK_MINUTES {
        return Ok(None);
    }
    let mut week: Box<Week> = Box::default();
    for w in written {
        if let Some(day) = week.get_mut(usize::from(w.day)) {
            day.push(w.window);
        }
    }
    Ok(Some(week))
}

/// Windows that share a minute; the week's last may reach into its first.
fn overlaps(written: &[Written<'_>]) -> Vec<Fault> {
    let clash = |one: &Written<'_>, other: &Written<'_>| {
        let (here, there) = (&one.text, &other.text);
        fault(other.key, format!("`{there}` overlaps `{here}` of `{}`; write them as one or shorten one", one.key))
    };
    let mut found: Vec<Fault> = Vec::new();
    let Some(first) = written.first() else { return found };
    let mut widest = first;
    for other in written.iter().skip(1) {
        if widest.closes() > other.opens() {
            found.push(clash(widest, other));
        }
        if other.closes() > widest.closes() {
            widest = other;
        }
    }
    if widest.closes() > first.opens() + WEEK_MINUTES {
        found.push(clash(widest, first));
    }
    // A range of days repeats the same clash every day.
    found.dedup();
    found
}

/// `mon`, `mon-fri`, `sat-mon` → (days since Monday, name) in order.
fn read_days(key: &str) -> Result<Vec<(usize, &'static str)>, String> {
    let day = |name: &str| DAYS.iter().position(|day| *day == name.trim()).ok_or_else(|| bad_day(name));
    let (first, last) = match key.split_once('-') {
        None => (day(key)?, day(key)?),
        Some((first, last)) => (day(first)?, day(last)?),
    };
    if first == last && key.contains('-') {
        return Err("a range needs two different days; write one day by its name alone".to_owned());
    }
    let count = (last + 7 - first) % 7 + 1;
    Ok(DAYS.iter().copied().enumerate().cycle().skip(first).take(count).collect())
}

fn bad_day(name: &str) -> String {
    format!("`{name}` is not a day; write mon, tue, wed, thu, fri, sat, sun, or a range such as mon-fri")
}

fn read_windows(hours: &str, mut fault: impl FnMut(String)) -> Vec<(&str, Window)> {
    let mut windows = Vec::new();
    for text in hours.split(',').map(str::trim) {
        match read_window(text) {
            Ok(window) => windows.push((text, window)),
            Err(problem) => fault(problem),
        }
    }
    windows
}

fn read_window(text: &str) -> Result<Window, String> {
    if text.is_empty() {
        return Err("the hours are empty; write such as \"09:00-17:00\", or leave the day out to close it".to_owned());
    }
    let bad = || format!("`{text}` is not a window; write HH:MM-HH:MM, from 00:00 to 24:00");
    let (opens, closes) = text.split_once('-').ok_or_else(bad)?;
    let (opens, closes) = (read_time(opens).ok_or_else(bad)?, read_time(closes).ok_or_else(bad)?);
    if opens == DAY_MINUTES {
        return Err(format!("`{text}` opens at 24:00; write it on the day after, from 00:00"));
    }
    if opens == closes {
        return Err(format!("`{text}` is empty; write 00:00-24:00 for the whole day, or leave it out"));
    }
    let closes = if closes < opens { closes + DAY_MINUTES } else { closes };
    Ok(Window { opens, closes })
}

/// Minutes since midnight.
fn read_time(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let two_digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !two_digits(hour) || !two_digits(minute) {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    (minute < 60 && hour * 60 + minute <= DAY_MINUTES).then_some(hour * 60 + minute)
}

fn fault(key: &str, problem: String) -> Fault {
    Fault { at: format!("schedule.{key}"), problem }
}
