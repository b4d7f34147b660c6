//! What a reply says beside its verdict: why, under which id, where the person should go, and what it pays.

use url::Url;

use crate::model::contract::{OneOrMore, ResponseRules, Rule as RuleConfig};
use crate::model::money::{Amount, Currency};

use super::price::{MAX_PRICE, Notation};
use super::rules::{Extractor, Faults, list_paths};
use super::select::Reading;

/// Longest reason kept, in characters.
pub(super) const MAX_REASON: usize = 500;
const MAX_REFERENCE: usize = 255;
/// Longest URL followed, in bytes; longer ones no browser takes reliably.
const MAX_URL: usize = 2048;

/// Each a list, of which the first that finds something counts.
#[derive(Debug)]
pub(super) struct Extractors {
    reason: Vec<Extractor>,
    reference: Vec<Extractor>,
    redirect_url: Vec<Extractor>,
    price: Vec<(Extractor, Notation)>,
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
        Self {
            reason: compile_list("response.reason", response.reason.as_ref(), faults),
            reference: compile_list("response.reference", response.reference.as_ref(), faults),
            redirect_url: compile_list("response.redirect_url", response.redirect_url.as_ref(), faults),
            price: compile_each("response.price", response.price.as_ref(), faults, |path, rule, faults| {
                let notation = Notation::compile(path, rule, faults);
                Some((Extractor::compile(path, rule, faults)?, notation))
            }),
            currency,
        }
    }

    pub(super) fn read(&self, reading: &Reading<'_>) -> Said {
        let price = |(extractor, notation): &(Extractor, Notation)| {
            first(extractor, reading, MAX_PRICE + 1).and_then(|text| notation.read(&text, self.currency))
        };
        Said {
            reason: first_of(&self.reason, reading, MAX_REASON),
            reference: first_of(&self.reference, reading, MAX_REFERENCE),
            redirect_url: self.redirect_url.iter().find_map(|one| web_url(&first(one, reading, MAX_URL + 1)?)),
            price: self.price.iter().find_map(price),
        }
    }
}

fn compile_list(path: &str, configs: Option<&OneOrMore<RuleConfig>>, faults: &mut Faults) -> Vec<Extractor> {
    compile_each(path, configs, faults, |path, rule, faults| {
        Notation::refuse(path, rule, faults);
        Extractor::compile(path, rule, faults)
    })
}

fn compile_each<T>(
    path: &str,
    configs: Option<&OneOrMore<RuleConfig>>,
    faults: &mut Faults,
    mut compile: impl FnMut(&str, &RuleConfig, &mut Faults) -> Option<T>,
) -> Vec<T> {
    let Some(configs) = configs else { return Vec::new() };
    list_paths(path, configs.0.len(), faults)
        .zip(&configs.0)
        .filter_map(|(path, config)| compile(&path, config, faults))
        .collect()
}

fn first_of(extractors: &[Extractor], reading: &Reading<'_>, max: usize) -> Option<String> {
    extractors.iter().find_map(|one| first(one, reading, max))
}

/// The first text that is not empty once tidied.
fn first(extractor: &Extractor, reading: &Reading<'_>, max: usize) -> Option<String> {
    extractor.texts(reading).into_iter().map(|text| tidy(&text, max)).find(|text| !text.is_empty())
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
