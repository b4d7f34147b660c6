//! What a reply says beside its verdict: why, under which id, where the person should go, and what it pays.

use url::Url;

use crate::model::contract::{ResponseRules, Rule as RuleConfig};
use crate::model::money::{Amount, Currency};

use super::rules::{Extractor, Faults};
use super::select::Reading;

/// Longest reason kept, in characters.
pub(super) const MAX_REASON: usize = 500;
const MAX_REFERENCE: usize = 255;
/// Longest URL followed, in bytes; longer ones no browser takes reliably.
const MAX_URL: usize = 2048;
/// No amount of 64 bits needs more characters, with its currency.
const MAX_PRICE: usize = 40;

#[derive(Debug)]
pub(super) struct Extractors {
    reason: Option<Extractor>,
    reference: Option<Extractor>,
    redirect_url: Option<Extractor>,
    price: Option<Extractor>,
    currency: Currency,
}

/// What the extractors found.
pub(super) struct Said {
    pub(super) reason: Option<String>,
    pub(super) reference: Option<String>,
    pub(super) redirect_url: Option<String>,
    pub(super) price: Option<Amount>,
}

impl Extractors {
    pub(super) fn compile(response: &ResponseRules, currency: Currency, faults: &mut Faults) -> Self {
        let mut compile = |key: &str, rule: &Option<RuleConfig>| {
            rule.as_ref().and_then(|rule| Extractor::compile(&format!("response.{key}"), rule, faults))
        };
        Self {
            reason: compile("reason", &response.reason),
            reference: compile("reference", &response.reference),
            redirect_url: compile("redirect_url", &response.redirect_url),
            price: compile("price", &response.price),
            currency,
        }
    }

    pub(super) fn read(&self, reading: &Reading<'_>) -> Said {
        Said {
            reason: first(self.reason.as_ref(), reading, MAX_REASON),
            reference: first(self.reference.as_ref(), reading, MAX_REFERENCE),
            redirect_url: first(self.redirect_url.as_ref(), reading, MAX_URL + 1).and_then(|text| web_url(&text)),
            price: first(self.price.as_ref(), reading, MAX_PRICE + 1).and_then(|text| price(&text, self.currency)),
        }
    }
}

/// The first text that is not empty once tidied.
fn first(extractor: Option<&Extractor>, reading: &Reading<'_>, max: usize) -> Option<String> {
    extractor?.texts(reading).into_iter().map(|text| tidy(&text, max)).find(|text| !text.is_empty())
}

/// On one line, without control characters, at most `max` characters, without white space around it.
pub(super) fn tidy(text: &str, max: usize) -> String {
    let plain = text.trim().chars().filter_map(|c| match c {
        '\t' | '\n' | '\r' => Some(' '),
        c if c.is_control() => None,
        c => Some(c),
    });
    let kept: String = plain.take(max).collect();
    // Control characters may have hidden white space from the first trim, and the cut may have bared some.
    kept.trim().to_owned()
}

/// A URL that a browser may be sent to, written the standard way (so that quotes and spaces in it are escaped).
fn web_url(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let url = (matches!(url.scheme(), "http" | "https") && url.has_host()).then(|| String::from(url))?;
    (url.len() <= MAX_URL).then_some(url)
}

/// A price in the campaign's currency, which may stand before or behind the number; never negative.
fn price(text: &str, currency: Currency) -> Option<Amount> {
    if text.len() > MAX_PRICE {
        return None;
    }
    let code = currency.as_str();
    let number = text.strip_prefix(code).or_else(|| text.strip_suffix(code)).unwrap_or(text).trim();
    Amount::parse(number, currency).ok().filter(|amount| *amount >= Amount(0))
}
