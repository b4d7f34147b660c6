//! What an exchange means: the partner's own rules first, whatever the status; then what every partner means alike.
//!
//! ```text
//! not sent, timeout, reset, incomplete ──────────────▶ retryable | unknown        (builtin.rs)
//! reply ─▶ duplicate, accepted, rejected, retryable ─▶ the first rule that holds  (rules.rs, select.rs)
//!       ─▶ SOAP fault, then the status ──────────────▶ the table of CONTRACT 6    (fault.rs, builtin.rs)
//!       ─▶ reason, reference, redirect_url, price                                 (extract.rs, price.rs)
//! ```
//!
//! A reply is hostile until proven otherwise: nothing here panics on one, recurses with its depth, or costs more than
//! the limits in `select.rs` allow. What cannot be read selects nothing, and what no rule explains is `unknown`, never
//! a guess.

use jiff::Timestamp;

use crate::model::contract::{Endpoint, Method, On5xx, Unmatched};
use crate::model::delivery::{Class, Explanation, Judgement, Verdict};
use crate::model::exchange::{Reply, SendFault};
use crate::model::money::Currency;

use self::builtin::Meaning;
use self::extract::Extractors;
use self::rules::{Faults, Hit, Rule};
use self::select::Reading;

mod builtin;
mod extract;
mod fault;
mod price;
mod retry_after;
mod rules;
mod select;

/// A contract's response rules, compiled once and shared by every thread that judges its replies.
#[derive(Debug)]
pub struct Rules {
    /// In the order they are tried: unauthorized, duplicate, accepted, rejected, retryable.
    verdicts: Vec<(&'static str, Verdict, Vec<Rule>)>,
    extractors: Extractors,
    method: Method,
    on_5xx: On5xx,
    unmatched: Unmatched,
}

/// What is wrong with a response rule, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct RuleFault {
    /// The key below the endpoint, such as `response.accepted[1].xpath`; lists count from 0.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl Rules {
    /// Compiles an endpoint's response rules. `currency` is the campaign's, in which a reply's price is read.
    ///
    /// # Errors
    /// Every fault of every rule at once.
    pub fn compile(endpoint: &Endpoint, currency: Currency) -> Result<Self, Vec<RuleFault>> {
        let response = &endpoint.response;
        let mut faults = Faults::default();
        let mut verdicts = Vec::new();
        for (key, verdict, configured) in [
            (UNAUTHORIZED, Verdict::Retryable, &response.unauthorized),
            ("duplicate", Verdict::Duplicate, &response.duplicate),
            ("accepted", Verdict::Accepted, &response.accepted),
            ("rejected", Verdict::Rejected, &response.rejected),
            ("retryable", Verdict::Retryable, &response.retryable),
        ] {
            if let Some(list) = configured {
                let compiled = rules::compile_list(&format!("response.{key}"), &list.0, &mut faults);
                verdicts.push((key, verdict, compiled));
            }
        }
        let extractors = Extractors::compile(response, currency, &mut faults);
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        let (method, on_5xx, unmatched) = (endpoint.method, endpoint.on_5xx, endpoint.unmatched);
        Ok(Self { verdicts, extractors, method, on_5xx, unmatched })
    }

    /// Judges what came of sending a request. `now` serves only a Retry-After that names a date in a reply that does
    /// not name its own.
    #[must_use]
    pub fn judge(&self, sent: &Result<Reply, SendFault>, now: Timestamp) -> Judgement {
        match sent {
            Ok(reply) => self.judge_reply(reply, now),
            Err(fault) => Meaning::of_send_fault(fault).into_judgement(),
        }
    }

    fn judge_reply(&self, reply: &Reply, now: Timestamp) -> Judgement {
        let reading = Reading::of(reply);
        let meaning = self
            .first_match(&reading)
            .or_else(|| fault::find(&reading, self.method).map(|fault| Meaning::of_soap_fault(&fault)))
            .unwrap_or_else(|| {
                // To say what a stranger is told says nothing of how a lead is taken.
                let has_rules = self.verdicts.iter().any(|(key, ..)| *key != UNAUTHORIZED);
                Meaning::of_status(reply.status, has_rules, self.on_5xx, self.unmatched)
            });
        let mut judgement = meaning.into_judgement();
        if judgement.verdict == Verdict::Retryable {
            judgement.retry_after = retry_after::of(reply, now);
        }
        let said = self.extractors.read(&reading);
        judgement.reason = said.reason.or(judgement.reason);
        judgement.reference = said.reference;
        judgement.redirect_url = said.redirect_url;
        judgement.price = said.price;
        judgement
    }

    fn first_match(&self, reading: &Reading<'_>) -> Option<Meaning> {
        self.verdicts.iter().find_map(|(key, verdict, any_of)| {
            let Hit { selector, found } = any_of.iter().find_map(|rule| rule.hit(reading))?;
            Some(Meaning {
                verdict: *verdict,
                class: if *key == UNAUTHORIZED { Class::Configuration } else { Class::Response },
                explanation: Explanation {
                    rule: (*key).to_owned(),
                    selector: Some(selector),
                    found: found.map(|text| extract::tidy(&text, MAX_FOUND)),
                },
                reason: None,
            })
        })
    }
}

/// The key of the rules by which a partner says that it does not know us.
pub const UNAUTHORIZED: &str = "unauthorized";

/// How much of what a rule found is kept in an explanation, in characters.
const MAX_FOUND: usize = 200;
