//! Rules compiled from configuration: a selector with a test, or `all` of several.

use std::borrow::Cow;

use regex::Regex;
use rust_decimal::Decimal;

use crate::model::campaign::Scalar;
use crate::model::contract::Rule as RuleConfig;

use super::RuleFault;
use super::price::Notation;
use super::select::{Found, Reading, Selector};

/// The faults found so far, so that a person gets all of them at once.
#[derive(Debug, Default)]
pub(super) struct Faults(pub(super) Vec<RuleFault>);

impl Faults {
    pub(super) fn add(&mut self, path: &str, message: impl Into<String>) {
        self.0.push(RuleFault { path: path.to_owned(), message: message.into() });
    }
}

/// A rule that says whether a reply is of its kind.
#[derive(Debug)]
pub(super) enum Rule {
    One { selector: Selector, test: Test },
    All(Vec<Rule>),
}

/// Why a rule holds.
pub(super) struct Hit {
    /// Where it looked.
    pub(super) selector: String,
    /// What it found there; nothing for a rule that holds because there is nothing.
    pub(super) found: Option<String>,
}

/// The path of each rule of a list, which may be a single one.
pub(super) fn list_paths(path: &str, len: usize, faults: &mut Faults) -> impl Iterator<Item = String> + use<> {
    if len == 0 {
        faults.add(path, "is an empty list: write at least one rule, or leave the key out");
    }
    let path = path.to_owned();
    (0..len).map(move |index| if len == 1 { path.clone() } else { format!("{path}[{index}]") })
}

/// Compiles a rule or a list of them (any). What cannot be compiled is left out of the result and stands in `faults`.
pub(super) fn compile_list(path: &str, configs: &[RuleConfig], faults: &mut Faults) -> Vec<Rule> {
    let paths = list_paths(path, configs.len(), faults);
    paths.zip(configs).filter_map(|(at, config)| Rule::compile(&at, config, faults)).collect()
}

impl Rule {
    fn compile(path: &str, config: &RuleConfig, faults: &mut Faults) -> Option<Self> {
        Notation::refuse(path, config, faults);
        let Some(members) = &config.all else {
            // Both, so that neither hides the faults of the other.
            let (selector, test) = (Selector::compile(path, config, faults), Test::compile(path, config, faults));
            return Some(Self::One { selector: selector?, test: test? });
        };
        if *config != (RuleConfig { all: config.all.clone(), ..RuleConfig::default() }) {
            faults.add(path, "`all` stands alone: move the selector and the test beside it into the list");
        }
        let path = format!("{path}.all");
        if members.is_empty() {
            faults.add(&path, "is an empty list: write at least one rule");
        }
        let mut compiled = Vec::with_capacity(members.len());
        for (index, member) in members.iter().enumerate() {
            compiled.extend(Self::compile(&format!("{path}[{index}]"), member, faults));
        }
        Some(Self::All(compiled))
    }

    /// Whether the rule holds, and why.
    pub(super) fn hit(&self, reading: &Reading<'_>) -> Option<Hit> {
        match self {
            Self::One { selector, test } => test.hit_by(&selector.select(reading), selector.label()),
            Self::All(rules) => {
                let hits = rules.iter().map(|rule| rule.hit(reading)).collect::<Option<Vec<_>>>()?;
                let selectors: Vec<_> = hits.iter().map(|hit| hit.selector.as_str()).collect();
                let found: Vec<_> = hits.iter().filter_map(|hit| hit.found.as_deref()).collect();
                let found = (!found.is_empty()).then(|| found.join(", "));
                Some(Hit { selector: selectors.join(" and "), found })
            }
        }
    }
}

/// A rule that reads something from a reply: its selector's texts that pass its test, if it has one.
#[derive(Debug)]
pub(super) struct Extractor {
    selector: Selector,
    test: Test,
}

impl Extractor {
    pub(super) fn compile(path: &str, config: &RuleConfig, faults: &mut Faults) -> Option<Self> {
        if config.all.is_some() {
            faults.add(path, "reads one thing: write a selector instead of `all`");
            return None;
        }
        if config.every.is_some() {
            faults.add(&format!("{path}.every"), "belongs to a verdict: what is read is the first text that passes");
        }
        if config.exists == Some(false) {
            faults.add(&format!("{path}.exists"), "where nothing exists there is nothing to read: leave `exists` out");
        }
        let (selector, test) = (Selector::compile(path, config, faults), Test::compile(path, config, faults));
        Some(Self { selector: selector?, test: test? })
    }

    pub(super) fn texts<'r>(&self, reading: &'r Reading<'_>) -> Vec<Cow<'r, str>> {
        let mut texts = self.selector.select(reading).texts;
        texts.retain(|text| self.test.checks.iter().all(|check| check.holds(text)));
        texts
    }
}

/// What must be true of what a selector found.
#[derive(Debug)]
pub(super) struct Test {
    exists: Option<bool>,
    /// All of them must hold for one and the same text.
    checks: Vec<Check>,
    /// They must hold for every text.
    every: bool,
}

#[derive(Debug)]
enum Check {
    OneOf(Vec<String>),
    Matches(Regex),
    Min(Decimal),
    Max(Decimal),
}

impl Test {
    fn compile(path: &str, config: &RuleConfig, faults: &mut Faults) -> Option<Self> {
        let before = faults.0.len();
        let mut checks = Vec::new();
        checks.extend(config.equals.as_ref().map(|text| Check::OneOf(vec![text.0.clone()])));
        if let Some(list) = &config.one_of {
            if list.is_empty() {
                faults.add(&format!("{path}.one_of"), "is an empty list, which nothing is one of");
            }
            checks.push(Check::OneOf(list.iter().map(|text| text.0.clone()).collect()));
        }
        if let Some(pattern) = &config.matches {
            match Regex::new(pattern) {
                Ok(regex) => checks.push(Check::Matches(regex)),
                Err(error) => faults.add(&format!("{path}.matches"), format!("is no regular expression: {error}")),
            }
        }
        let mut bound = |key: &str, limit: &Option<Scalar>, check: fn(Decimal) -> Check| {
            let Some(text) = limit else { return };
            match decimal(&text.0) {
                Some(number) => checks.push(check(number)),
                None => faults.add(&format!("{path}.{key}"), "is not a number: write one such as \"12.50\""),
            }
        };
        bound("min", &config.min, Check::Min);
        bound("max", &config.max, Check::Max);
        let every = config.every == Some(true);
        if every && checks.is_empty() {
            faults.add(&format!("{path}.every"), "needs a test that every text must pass, such as `equals`");
        }
        if config.exists == Some(false) && !checks.is_empty() {
            faults.add(&format!("{path}.exists"), "what does not exist passes no other test: keep one of them");
        }
        (faults.0.len() == before).then_some(Self { exists: config.exists, checks, every })
    }

    /// Whether what was found passes, and with which text.
    fn hit_by(&self, found: &Found<'_>, selector: &str) -> Option<Hit> {
        let passes = |text: &Cow<'_, str>| self.checks.iter().all(|check| check.holds(text));
        let (passed, text) = if self.exists == Some(false) {
            // A page that could not be read does not prove that something is missing from it.
            (found.readable && !found.exists, None)
        } else if self.checks.is_empty() {
            (found.exists, found.texts.first())
        } else if self.every {
            // A null, or a text beyond the limits, passes no test.
            let all = found.whole && !found.texts.is_empty() && found.texts.iter().all(passes);
            (all, found.texts.first())
        } else {
            let text = found.texts.iter().find(|text| passes(text));
            (text.is_some(), text)
        };
        passed.then(|| Hit { selector: selector.to_owned(), found: text.map(|text| text.clone().into_owned()) })
    }
}

impl Check {
    fn holds(&self, text: &str) -> bool {
        match self {
            Self::OneOf(list) => list.iter().any(|wanted| wanted == text),
            Self::Matches(regex) => regex.is_match(text),
            Self::Min(least) => decimal(text).is_some_and(|number| number >= *least),
            Self::Max(most) => decimal(text).is_some_and(|number| number <= *most),
        }
    }
}

/// A decimal such as `-4`, `31.00` or `1e3`.
fn decimal(text: &str) -> Option<Decimal> {
    let text = text.trim();
    text.parse().or_else(|_| Decimal::from_scientific(text)).ok()
}
