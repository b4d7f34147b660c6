//! The field types: how a text is read as each, and what its normalised form is.

use std::borrow::Cow;
use std::fmt::Display;
use std::net::IpAddr;

use jiff::civil::Date;
use rust_decimal::Decimal;
use url::Url;

use crate::model::lead::FieldValue;

use super::{Code, Wrong, email, phone, postcode};
use crate::model::phone::Region;

/// A field's type with what it needs to read a value.
#[derive(Debug)]
pub(in crate::intake) enum Kind {
    Text,
    Email,
    Phone(Option<Region>),
    Integer(Bounds<i64>),
    Decimal(Bounds<Decimal>),
    Date(Bounds<Date>),
    Boolean,
    OneOf(Vec<String>),
    Postcode(Option<String>),
    Url,
    Ip,
}

/// Least and greatest value.
#[derive(Debug, Clone, Copy)]
pub(in crate::intake) struct Bounds<T> {
    pub(super) min: Option<T>,
    pub(super) max: Option<T>,
}

impl<T: PartialOrd + Display> Bounds<T> {
    fn check(&self, value: &T) -> Result<(), Wrong> {
        match (&self.min, &self.max) {
            (Some(min), _) if value < min => Err((Code::Min, format!("must be at least {min}"))),
            (_, Some(max)) if value > max => Err((Code::Max, format!("must be at most {max}"))),
            _ => Ok(()),
        }
    }
}

impl Kind {
    /// Reads a trimmed text that is not empty.
    pub(super) fn read(&self, text: Cow<'_, str>) -> Result<FieldValue, Wrong> {
        let wrong = |message: &str| (Code::Type, message.to_owned());
        Ok(FieldValue::Text(match self {
            Self::Text => text.into_owned(),
            Self::Email => {
                email::normalise(&text).ok_or_else(|| wrong("must be an e-mail address, such as name@example.com"))?
            }
            Self::Phone(region) => phone::normalise(&text, *region).ok_or_else(|| match region {
                Some(region) => {
                    (Code::Type, format!("must be a valid telephone number, of {region} or with its country code"))
                }
                None => wrong("must be a valid telephone number with its country code, such as +442079460000"),
            })?,
            Self::Integer(bounds) => {
                let value = integer(&text).ok_or_else(|| wrong("must be a whole number, such as 42"))?;
                bounds.check(&value)?;
                return Ok(FieldValue::Integer(value));
            }
            Self::Decimal(bounds) => {
                let (plain, value) = decimal(&text).ok_or_else(|| {
                    wrong("must be a number of at most 28 digits, such as 12.50, without separators or exponent")
                })?;
                bounds.check(&value)?;
                plain
            }
            Self::Date(bounds) => {
                let value = date(&text).ok_or_else(|| wrong("must be a date written YYYY-MM-DD"))?;
                bounds.check(&value)?;
                text.into_owned()
            }
            Self::Boolean => {
                return flag(&text).map(FieldValue::Boolean).ok_or_else(|| wrong("must be true or false"));
            }
            Self::OneOf(values) => {
                one_of(values, &text).ok_or_else(|| (Code::OneOf, format!("must be {}", allowed(values))))?
            }
            Self::Postcode(country) => postcode::normalise(&text, country.as_deref()).ok_or_else(|| match country {
                Some(country) => (Code::Type, format!("must be a postcode of {country}")),
                None => wrong("must be a postcode"),
            })?,
            Self::Url => {
                if !is_web_address(&text) {
                    return Err(wrong("must be a whole web address, such as https://example.com/page"));
                }
                text.into_owned()
            }
            Self::Ip => match text.parse::<IpAddr>() {
                Ok(address) => address.to_string(),
                Err(_) => return Err(wrong("must be an IPv4 or IPv6 address")),
            },
        }))
    }
}

/// Yes or no as people and programs write it, whatever the case.
pub(in crate::intake) fn flag(text: &str) -> Option<bool> {
    let is_any = |words: [&str; 4]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    match () {
        () if is_any(["true", "1", "yes", "on"]) => Some(true),
        () if is_any(["false", "0", "no", "off"]) => Some(false),
        () => None,
    }
}

/// A sign and digits, within 64 bits.
pub(super) fn integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// A sign, digits, and a fraction → the plain text without plus sign and leading zeros, and its value. The digits of
/// the fraction are kept: `12.10` is not `12.1`.
pub(super) fn decimal(text: &str) -> Option<(String, Decimal)> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (digits, None),
    };
    let numeric = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !numeric(whole) || !fraction.is_none_or(numeric) {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let mut plain = match fraction {
        Some(fraction) => [whole, ".", fraction].concat(),
        None => whole.to_owned(),
    };
    let value = Decimal::from_str_exact(&plain).ok()?;
    if negative && !value.is_zero() {
        plain.insert(0, '-');
        return Some((plain, -value));
    }
    Some((plain, value))
}

/// `YYYY-MM-DD` and a day of the calendar.
pub(super) fn date(text: &str) -> Option<Date> {
    // jiff reads more of ISO 8601 than we want to keep as text.
    let shape = text.len() == 10
        && text.bytes().enumerate().all(|(at, b)| if matches!(at, 4 | 7) { b == b'-' } else { b.is_ascii_digit() });
    if shape { text.parse().ok() } else { None }
}

/// The allowed value that was meant: exactly, or else whatever its case.
fn one_of(values: &[String], text: &str) -> Option<String> {
    if values.iter().any(|value| value == text) {
        return Some(text.to_owned());
    }
    let folded = text.to_lowercase();
    values.iter().find(|value| value.to_lowercase() == folded).cloned()
}

/// The allowed values in words, the first few of a long list.
fn allowed(values: &[String]) -> String {
    const SHOWN: usize = 12;
    let quoted: Vec<_> = values.iter().take(SHOWN).map(|value| format!("`{value}`")).collect();
    let more = if values.len() > SHOWN { format!(" or one of {} others", values.len() - SHOWN) } else { String::new() };
    format!("one of {}{more}", quoted.join(", "))
}

/// An absolute http or https URL. It is kept as written; white space and controls, which URL parsers drop in silence,
/// are refused.
fn is_web_address(text: &str) -> bool {
    let rest = ["https://", "http://"].iter().find_map(|scheme| {
        let (start, rest) = text.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    });
    rest.is_some_and(|rest| !rest.starts_with('/'))
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
        && Url::parse(text).is_ok_and(|url| url.has_host())
}
