//! A price as partners write it: with a sign or a code, with separators, in cents.
//!
//! What can be read in two ways is not read at all: the contract's own price then stands.

use crate::model::contract::Rule as RuleConfig;
use crate::model::money::{Amount, Currency};

use super::rules::Faults;

/// No amount of 64 bits needs more bytes, with its currency and its separators.
pub(super) const MAX_PRICE: usize = 60;

/// How a partner writes its prices.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Notation {
    /// In whole cents.
    minor_units: bool,
    /// What stands before the decimals, where the contract says so.
    decimal: Option<char>,
}

impl Notation {
    pub(super) fn compile(path: &str, config: &RuleConfig, faults: &mut Faults) -> Self {
        let decimal = match config.decimal.as_deref() {
            None => None,
            Some(".") => Some('.'),
            Some(",") => Some(','),
            Some(_) => {
                faults.add(&format!("{path}.decimal"), "is neither \".\" nor \",\"");
                None
            }
        };
        Self { minor_units: config.minor_units == Some(true), decimal }
    }

    /// Its keys stand in no other rule.
    pub(super) fn refuse(path: &str, config: &RuleConfig, faults: &mut Faults) {
        for (key, given) in [("minor_units", config.minor_units.is_some()), ("decimal", config.decimal.is_some())] {
            if given {
                faults.add(&format!("{path}.{key}"), "belongs to `price` alone: leave it out");
            }
        }
    }

    /// A price in the campaign's currency, whose sign or code may stand before or behind the number; never negative.
    pub(super) fn read(self, text: &str, currency: Currency) -> Option<Amount> {
        if text.len() > MAX_PRICE {
            return None;
        }
        let plain = self.plain(without_currency(text.trim(), currency))?;
        let amount = if self.minor_units {
            let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, "0"));
            // "3100.0" is a whole number; half a cent is nobody's price.
            let whole = whole.parse().ok()?;
            fraction.bytes().all(|digit| digit == b'0').then_some(Amount(whole))?
        } else {
            Amount::parse(&plain, currency).ok()?
        };
        (amount >= Amount(0)).then_some(amount)
    }

    /// Digits with a point before the decimals, without what parts the thousands.
    fn plain(self, number: &str) -> Option<String> {
        let decimal = self.decimal.unwrap_or('.');
        let (whole, fraction) = match number.split_once(decimal) {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (number, None),
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if fraction.is_some_and(|fraction| !digits(fraction)) {
            return None;
        }
        let mut plain = if digits(whole) {
            whole.to_owned()
        } else {
            let separator = whole.chars().find(|c| !c.is_ascii_digit())?;
            let groups: Vec<&str> = whole.split(separator).collect();
            let (first, rest) = groups.split_first()?;
            let in_groups =
                digits(first) && first.len() <= 3 && rest.iter().all(|part| digits(part) && part.len() == 3);
            let known = match separator {
                ' ' | '\u{a0}' | '\u{202f}' | '\'' | '\u{2019}' => true,
                // "1,200" is twelve hundred here and one point two there.
                ',' | '.' if separator != decimal => self.decimal.is_some() || fraction.is_some() || rest.len() > 1,
                _ => false,
            };
            if !known || !in_groups {
                return None;
            }
            groups.concat()
        };
        if let Some(fraction) = fraction {
            plain.push('.');
            plain.push_str(fraction);
        }
        Some(plain)
    }
}

/// Takes the currency's own code and sign away, each at most once; whatever else stands there makes no number.
fn without_currency(text: &str, currency: Currency) -> &str {
    let code = currency.as_str();
    let mut rest = text;
    for mark in std::iter::once(code).chain(signs(code).iter().copied()) {
        let bare = strip_ignoring_case(rest, mark);
        if let Some(bare) = bare {
            rest = bare;
            if mark != code {
                break;
            }
        }
    }
    rest
}

fn strip_ignoring_case<'t>(text: &'t str, mark: &str) -> Option<&'t str> {
    let same = |part: Option<&str>| part.is_some_and(|part| part.eq_ignore_ascii_case(mark));
    if same(text.get(..mark.len())) {
        return text.get(mark.len()..).map(str::trim);
    }
    let at = text.len().checked_sub(mark.len())?;
    if same(text.get(at..)) { text.get(..at).map(str::trim) } else { None }
}

/// The signs of a currency, the longest first. A sign that several share (`$`, `¥`, `kr`) is taken as the campaign's.
fn signs(code: &str) -> &'static [&'static str] {
    match code {
        "AUD" => &["AU$", "A$", "$"],
        "BRL" => &["R$"],
        "CAD" => &["CA$", "C$", "$"],
        "CHF" => &["SFr.", "Fr.", "Fr"],
        "CNY" => &["CN¥", "¥"],
        "CZK" => &["Kč"],
        "DKK" | "NOK" | "SEK" | "ISK" => &["kr.", "kr"],
        "EUR" => &["€"],
        "GBP" => &["£"],
        "HKD" => &["HK$", "$"],
        "HUF" => &["Ft"],
        "ILS" => &["₪"],
        "INR" => &["₹", "Rs.", "Rs"],
        "JPY" => &["JP¥", "¥"],
        "KRW" => &["₩"],
        "MXN" => &["MX$", "$"],
        "NGN" => &["₦"],
        "NZD" => &["NZ$", "$"],
        "PHP" => &["₱"],
        "PLN" => &["zł"],
        "RON" => &["lei"],
        "RUB" => &["₽"],
        "SGD" => &["S$", "$"],
        "THB" => &["฿"],
        "TRY" => &["₺"],
        "UAH" => &["₴"],
        "USD" => &["US$", "$"],
        "VND" => &["₫"],
        "ZAR" => &["R"],
        _ => &[],
    }
}
