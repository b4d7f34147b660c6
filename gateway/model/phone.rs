//! Telephone numbers, read and written by the metadata of Google's libphonenumber as the crate `phonenumber` holds it.
//!
//! The crate itself looks up each of the dozen expressions that a number is held against in one cache for the whole
//! process, under a lock, and compiles those anew that numbers of other countries have driven out. Numbers of digits alone,
//! which is what leads are, are therefore read here by the same steps with expressions that are compiled once
//! ([`plan`]); whatever else stands in a number is the crate's to read. Both must come to the same: the tests of
//! `tests/it/intake/phones.rs` hold them against each other.

mod plan;

use std::fmt;

use phonenumber::country;

use plan::Plan;

/// Digits of a national number (ITU-T E.164 has fewer; some countries do not keep to it).
const NATIONAL_DIGITS: std::ops::RangeInclusive<usize> = 2..=17;

/// A region whose numbers may be written without their country code.
#[derive(Clone, Copy)]
pub struct Region {
    id: country::Id,
    plan: &'static Plan,
}

impl Region {
    /// By ISO 3166 code, such as `GB`; `None` where no numbering plan is known.
    #[must_use]
    pub fn new(code: &str) -> Option<Self> {
        let id: country::Id = code.parse().ok()?;
        plan::of_region(id.as_ref()).map(|plan| Self { id, plan })
    }

    /// What follows the prefix for calls abroad, such as `00`, if a number begins with it.
    #[must_use]
    pub fn abroad<'d>(&self, digits: &'d str) -> Option<&'d str> {
        self.plan.without_prefix_abroad(digits)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id.as_ref())
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether this is a country's ISO 3166 code.
#[must_use]
pub fn is_country(code: &str) -> bool {
    code.parse::<country::Id>().is_ok()
}

/// A telephone number that could be read; it need not be valid.
#[derive(Clone, PartialEq, Eq)]
pub struct Number {
    /// The country code: 44.
    code: u16,
    /// The national number without trunk prefix, digits.
    national: String,
    /// What chose the carrier, or else the trunk prefix that was taken off; some countries' writing repeats it.
    carrier: Option<String>,
    extension: Option<String>,
}

impl fmt::Debug for Number {
    // Personal data: Debug output ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Number(+{} ***)", self.code)
    }
}

impl Number {
    /// Reads a number as people write it. Without a country code it is one of `region`; with one, the region has no say in it:
    /// its trunk prefix may be a part of another country's numbers.
    #[must_use]
    pub fn read(text: &str, region: Option<Region>) -> Option<Self> {
        let (plus, digits) = text.strip_prefix('+').map_or((false, text), |digits| (true, digits));
        let has_code = text.strip_prefix("tel:").unwrap_or(text).starts_with(['+', '\u{FF0B}']);
        let region = region.filter(|_| !has_code);
        if digits.bytes().all(|b| b.is_ascii_digit()) {
            return Self::dialled(plus, digits, region);
        }
        let number = phonenumber::parse(region.map(|region| region.id), text).ok()?;
        Some(Self {
            code: number.code().value(),
            national: number.national().to_string(),
            carrier: number.carrier().map(ToString::to_string),
            extension: number.extension().map(ToString::to_string),
        })
    }

    /// Reads a number of digits alone, which stand behind a plus sign or not: the steps of the crate's `parse`, in its
    /// order; but that a number which is dialled abroad is read by its own country's plan.
    #[must_use]
    pub fn dialled(plus: bool, digits: &str, region: Option<Region>) -> Option<Self> {
        if digits.len() < if plus { 3 } else { 2 } {
            return None;
        }
        let abroad = region.and_then(|region| region.abroad(digits));
        let (code, national, plan) = match (abroad, region) {
            (None, Some(Region { plan, .. })) if !plus => (plan.code(), plan.without_code(digits), Some(plan)),
            (None, None) if !plus => return None,
            (abroad, _) => {
                let (code, national) = plan::split_code(abroad.unwrap_or(digits))?;
                (code, national, plan::of_number(code, national.trim_start_matches('0')))
            }
        };
        let (national, carrier) = match plan.and_then(|plan| plan.without_trunk_prefix(national)) {
            Some((national, carrier)) => (national, carrier),
            None => (national.to_owned(), None),
        };
        let fits = NATIONAL_DIGITS.contains(&national.len())
            && national.trim_start_matches('0').parse().is_ok_and(|value: u64| value < 1 << 56);
        fits.then_some(Self { code, national, carrier, extension: None })
    }

    /// Whether such a number can have been given to somebody.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        plan::of_number(self.code, &self.national).is_some_and(|plan| plan.has(&self.national))
    }

    /// `+442079460018`
    #[must_use]
    pub fn e164(&self) -> String {
        format!("+{}{}", self.code, self.national)
    }

    /// `020 7946 0018`
    #[must_use]
    pub fn national(&self) -> String {
        let plan = plan::main(self.code);
        let written = plan.map(|plan| plan.national(&self.national, self.carrier.as_deref()));
        self.with_extension(written.unwrap_or_else(|| self.national.clone()), plan)
    }

    /// `+44 20 7946 0018`
    #[must_use]
    pub fn international(&self) -> String {
        let plan = plan::main(self.code);
        let written = plan.map(|plan| plan.international(&self.national));
        self.with_extension(format!("+{} {}", self.code, written.as_deref().unwrap_or(&self.national)), plan)
    }

    fn with_extension(&self, mut written: String, plan: Option<&Plan>) -> String {
        if let Some(extension) = &self.extension {
            written.push_str(plan.and_then(Plan::extension_prefix).unwrap_or(" ext. "));
            written.push_str(extension);
        }
        written
    }
}
