//! Filters: which leads a contract wants.
//!
//! How values are compared, after the lead's own were normalised:
//! - `equals`, `one_of` and `prefix` are exact, but e-mail addresses ignore case, and postcodes ignore case and spaces;
//! - `integer` and `decimal` fields are compared as numbers (`5` equals `5.0`), `boolean` ones as yes or no;
//! - `min` and `max` include the bound, and are numbers or, where the bound is a date, calendar days;
//! - `matches` looks anywhere in the text;
//! - of a list, one entry that passes every test is enough; the members of a list of groups are named `list.member`;
//! - a field that is missing or empty fails every test but `exists = false`, so that `not` of such a test passes.
//!
//! Why a filter refused a lead is said in the filter's own words, never with the lead's values: it is kept with the lead
//! and shown to people who may not see those.

mod compile;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::str::FromStr;

use jiff::civil::Date;
use regex::Regex;
use rust_decimal::Decimal;

use super::Fault;
use crate::model::campaign::{Campaign, FieldType};
use crate::model::contract::Filter;
use crate::model::lead::{FieldValue, Lead};

/// Values of a list, or parts of a filter, that a reason spells out.
const NAMED: usize = 5;
/// Characters of a reason.
const LONGEST: usize = 300;

/// A compiled filter.
#[derive(Debug, Clone)]
pub struct Filters(Node);

#[derive(Debug, Clone)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    /// Every test must pass.
    Tests(Subject, Vec<Test>),
}

#[derive(Debug, Clone)]
enum Subject {
    /// `None`: not declared, kept as text.
    Field(String, Option<FieldType>),
    /// A member of a list of groups: the list's name, the member's, both with the dot.
    Member {
        list: String,
        member: String,
        name: String,
        kind: Option<FieldType>,
    },
    Source,
}

#[derive(Debug, Clone)]
enum Test {
    OneOf(Vec<Value>),
    Prefix(Vec<String>),
    Matches(Regex),
    Min(Bound),
    Max(Bound),
    Exists(bool),
}

/// A configured value in the form in which the lead's is compared.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Number(Decimal),
    Boolean(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Bound {
    Number(Decimal),
    Day(Date),
}

impl Filters {
    /// Compiles a contract's filters against its campaign's fields.
    ///
    /// # Errors
    /// Every fault, each with its place: a field that the campaign refuses, no or several selectors, no test, a pattern
    /// or bound that cannot be read, a value that the field can never have.
    pub fn compile(filter: &Filter, campaign: &Campaign) -> Result<Self, Vec<Fault>> {
        compile::compile(filter, campaign).map(Self)
    }

    /// Whether the lead passes.
    ///
    /// # Errors
    /// Why not, in a few words such as `postcode does not start with SW or SE`.
    pub fn check(&self, lead: &Lead) -> Result<(), String> {
        if self.0.passes(lead) {
            return Ok(());
        }
        let mut reason = self.0.because(lead);
        if let Some((end, _)) = reason.char_indices().nth(LONGEST) {
            reason.truncate(end);
            reason.push('…');
        }
        Err(reason)
    }
}

impl Node {
    fn passes(&self, lead: &Lead) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.passes(lead)),
            Self::Any(nodes) => nodes.iter().any(|node| node.passes(lead)),
            Self::Not(node) => !node.passes(lead),
            Self::Tests(subject, tests) => {
                let found = subject.of(lead);
                let all = |value| tests.iter().all(|test| test.passes(value, subject));
                if found.is_empty() { all(None) } else { found.iter().any(|value| all(Some(value))) }
            }
        }
    }

    /// Why it passed or did not: the parts that decided it.
    fn because(&self, lead: &Lead) -> String {
        let outcome = self.passes(lead);
        // The few that came out as the whole did; where one was enough, that one.
        let those = |nodes: &[Self], enough: usize| {
            let which = nodes.iter().filter(|node| node.passes(lead) == outcome).take(enough);
            which.map(|node| node.because(lead)).collect::<Vec<_>>().join(" and ")
        };
        match self {
            Self::All(nodes) => those(nodes, if outcome { NAMED } else { 1 }),
            Self::Any(nodes) => those(nodes, if outcome { 1 } else { NAMED }),
            Self::Not(node) => node.because(lead),
            Self::Tests(subject, tests) => {
                let found = subject.of(lead);
                if found.is_empty() && !tests.iter().any(|test| matches!(test, Test::Exists(_))) {
                    return format!("{} is not given", subject.name());
                }
                let by_any = |test: &&Test| match found.as_slice() {
                    [] => test.passes(None, subject),
                    values => values.iter().any(|value| test.passes(Some(value), subject)),
                };
                let words = |test: &Test| test.words(outcome);
                let mut reasons: Vec<String> = tests.iter().filter(|test| by_any(test) == outcome).map(words).collect();
                if reasons.is_empty() {
                    // Each test has an entry that passes it, but no entry passes all.
                    reasons = tests.iter().map(words).collect();
                }
                format!("{} {}", subject.name(), reasons.join(" and "))
            }
        }
    }
}

impl Subject {
    fn name(&self) -> &str {
        match self {
            Self::Field(name, _) | Self::Member { name, .. } => name,
            Self::Source => "source",
        }
    }

    fn kind(&self) -> Option<FieldType> {
        match self {
            Self::Field(_, kind) | Self::Member { kind, .. } => *kind,
            Self::Source => None,
        }
    }

    /// The lead's values: of a list those of its entries; none where missing or empty.
    fn of<'a>(&self, lead: &'a Lead) -> Vec<Cow<'a, FieldValue>> {
        let entries = |name: &str| match lead.fields.get(name) {
            Some(FieldValue::Text(text)) if text.is_empty() => [].as_slice(),
            Some(FieldValue::List(entries)) => entries,
            Some(value) => std::slice::from_ref(value),
            None => &[],
        };
        match self {
            Self::Field(name, _) => entries(name).iter().map(Cow::Borrowed).collect(),
            Self::Member { list, member, .. } => {
                let of = |entry: &'a FieldValue| match entry {
                    FieldValue::Group(members) => members.get(member),
                    _ => None,
                };
                entries(list).iter().filter_map(of).map(Cow::Borrowed).collect()
            }
            Self::Source => vec![Cow::Owned(FieldValue::Text(lead.source.as_str().to_owned()))],
        }
    }
}

impl Test {
    fn passes(&self, found: Option<&Cow<'_, FieldValue>>, subject: &Subject) -> bool {
        let Some(found) = found.map(Cow::as_ref) else {
            return matches!(self, Self::Exists(false));
        };
        match self {
            Self::Exists(wanted) => *wanted,
            Self::OneOf(values) => values.iter().any(|value| value.is(found, subject.kind())),
            Self::Prefix(starts) => {
                let text = folded(&text_of(found), subject.kind()).into_owned();
                starts.iter().any(|start| text.starts_with(start))
            }
            Self::Matches(pattern) => pattern.is_match(&text_of(found)),
            Self::Min(bound) => bound.like(found).is_some_and(|value| value >= *bound),
            Self::Max(bound) => bound.like(found).is_some_and(|value| value <= *bound),
        }
    }

    /// The test in words, as it came out.
    fn words(&self, passed: bool) -> String {
        let not = |one: &'static str, other: &'static str| if passed { one } else { other };
        match self {
            Self::Exists(wanted) => (if *wanted == passed { "is given" } else { "is not given" }).to_owned(),
            Self::OneOf(values) => {
                let values: Vec<String> = values.iter().map(Value::to_string).collect();
                format!("{} {}", not("is", "is not"), either(&values))
            }
            Self::Prefix(starts) => format!("{} {}", not("starts with", "does not start with"), either(starts)),
            Self::Matches(pattern) => format!("{} /{pattern}/", not("matches", "does not match")),
            Self::Min(bound) => format!("{} {bound}", not("is at least", "is not at least")),
            Self::Max(bound) => format!("{} {bound}", not("is at most", "is not at most")),
        }
    }
}

impl Value {
    fn is(&self, found: &FieldValue, kind: Option<FieldType>) -> bool {
        match (self, found) {
            (Self::Boolean(wanted), FieldValue::Boolean(found)) => wanted == found,
            (Self::Number(wanted), FieldValue::Integer(found)) => *wanted == Decimal::from(*found),
            (Self::Number(wanted), found) => Decimal::from_str(&text_of(found)).is_ok_and(|found| found == *wanted),
            (Self::Text(wanted), found) => *wanted == folded(&text_of(found), kind),
            (Self::Boolean(_), _) => false,
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Boolean(value) => value.fmt(f),
        }
    }
}

impl Bound {
    /// The lead's value as what this bound is, if it can be read so.
    fn like(self, found: &FieldValue) -> Option<Self> {
        match (self, found) {
            (Self::Number(_), FieldValue::Integer(found)) => Some(Self::Number(Decimal::from(*found))),
            (Self::Number(_), FieldValue::Text(found)) => Decimal::from_str(found).ok().map(Self::Number),
            (Self::Day(_), FieldValue::Text(found)) => found.parse().ok().map(Self::Day),
            (_, FieldValue::Boolean(_) | FieldValue::List(_) | FieldValue::Group(_))
            | (Self::Day(_), FieldValue::Integer(_)) => None,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Day(day) => day.fmt(f),
        }
    }
}

fn text_of(value: &FieldValue) -> Cow<'_, str> {
    match value {
        FieldValue::Text(text) => Cow::Borrowed(text),
        _ => Cow::Owned(value.to_string()),
    }
}

/// What two texts of a type have in common when they are meant to be equal.
fn folded(text: &str, kind: Option<FieldType>) -> Cow<'_, str> {
    match kind {
        Some(FieldType::Email) => Cow::Owned(text.to_lowercase()),
        Some(FieldType::Postcode) => {
            Cow::Owned(text.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_uppercase).collect())
        }
        _ => Cow::Borrowed(text),
    }
}

/// `a`, `a or b`, `a, b or c`; of a long list the first few.
fn either(values: &[String]) -> String {
    let mut text = String::new();
    let named = values.len().min(NAMED);
    for (i, value) in values.iter().take(named).enumerate() {
        let between = if i == 0 {
            ""
        } else if i + 1 == values.len() {
            " or "
        } else {
            ", "
        };
        text.push_str(between);
        text.push_str(value);
    }
    if values.len() > named {
        let _ = write!(text, " or {} more", values.len() - named); // writing to a String cannot fail
    }
    text
}
