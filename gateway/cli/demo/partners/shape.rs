//! What the parts of a message may look like: a partner's posting specification as a table.

use super::Understood;

/// One part of a message, by the partner's own name.
pub(super) struct Part {
    name: &'static str,
    required: bool,
    fits: fn(&str) -> bool,
    /// What it must be, in words.
    must_be: &'static str,
}

impl Part {
    pub(super) const fn required(name: &'static str, fits: fn(&str) -> bool, must_be: &'static str) -> Self {
        Self { name, required: true, fits, must_be }
    }

    /// May be absent, or empty.
    pub(super) const fn optional(name: &'static str, fits: fn(&str) -> bool, must_be: &'static str) -> Self {
        Self { name, required: false, fits, must_be }
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.name == name
    }
}

/// Reads a message's parts; every fault at once, in words that hold no value.
pub(super) fn read<'a>(parts: &[Part], given: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Understood, String> {
    let mut understood = Understood::new();
    let mut faults = Vec::new();
    for (name, value) in given {
        match parts.iter().find(|part| part.name == name) {
            None => faults.push(format!("{} is not part of the specification", shorten(name))),
            Some(part) => {
                let empty = value.is_empty() && !part.required;
                if !empty && !(part.fits)(value) {
                    faults.push(format!("{name} must be {}", part.must_be));
                }
                if understood.insert(name.to_owned(), value.to_owned()).is_some() {
                    faults.push(format!("{name} is given more than once"));
                }
            }
        }
    }
    for part in parts.iter().filter(|part| part.required && !understood.contains_key(part.name)) {
        faults.push(format!("{} is missing", part.name));
    }
    if faults.is_empty() { Ok(understood) } else { Err(faults.join("; ")) }
}

fn shorten(name: &str) -> String {
    name.chars().take(40).collect()
}

/// A value that was read; empty where it was optional and absent.
pub(super) fn value<'a>(understood: &'a Understood, name: &str) -> &'a str {
    understood.get(name).map_or("", String::as_str)
}

/// Something other than white space, of a length that fits a column.
pub(super) fn is_text(value: &str) -> bool {
    !value.trim().is_empty() && value.chars().count() <= 1_000
}

/// `someone@somewhere.tld`.
pub(super) fn is_email(value: &str) -> bool {
    let Some((local, domain)) = value.split_once('@') else { return false };
    let printable = |text: &str| text.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '@');
    let labels = || domain.split('.');
    !local.is_empty()
        && printable(local)
        && labels().count() > 1
        && labels().all(|label| !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-'))
}

/// `+442079460000` (ITU-T E.164: up to 15 digits).
pub(super) fn is_e164(value: &str) -> bool {
    value
        .strip_prefix('+')
        .is_some_and(|digits| (8..=15).contains(&digits.len()) && !digits.starts_with('0') && are_digits(digits))
}

/// `020 7946 0000` or `07700 900123`.
pub(super) fn is_national_phone(value: &str) -> bool {
    let digits: String = value.chars().filter(|c| *c != ' ').collect();
    digits.starts_with('0') && (10..=11).contains(&digits.len()) && are_digits(&digits)
}

/// `SW1A 1AA`: an area, a district, a space, and the inward code.
pub(super) fn is_postcode(value: &str) -> bool {
    let Some((outward, inward)) = value.split_once(' ') else { return false };
    let capitals = |text: &str| text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    (2..=4).contains(&outward.len())
        && outward.starts_with(|c: char| c.is_ascii_uppercase())
        && inward.len() == 3
        && inward.starts_with(|c: char| c.is_ascii_digit())
        && capitals(outward)
        && capitals(inward)
}

/// `85` or `85.50`.
pub(super) fn is_amount(value: &str) -> bool {
    let (whole, pence) = value.split_once('.').unwrap_or((value, "00"));
    !whole.is_empty() && are_digits(whole) && (1..=2).contains(&pence.len()) && are_digits(pence)
}

/// `1974-08-30`, a day that exists.
pub(super) fn is_date(value: &str) -> bool {
    value.len() == 10 && value.parse::<jiff::civil::Date>().is_ok()
}

/// `yes` or `no`.
pub(super) fn is_yes_or_no(value: &str) -> bool {
    matches!(value, "yes" | "no")
}

fn are_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}
