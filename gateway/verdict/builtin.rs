//! What a reply or a sending fault means when no rule of the contract says so: the table of CONTRACT 6, "When no rule
//! matched", with words that a person at the support desk understands.

use crate::model::contract::{On5xx, Unmatched};
use crate::model::delivery::{Class, Explanation, Judgement, Verdict};
use crate::model::exchange::{SendFault, SendFaultKind};

use super::MAX_FOUND;
use super::extract::{MAX_REASON, tidy};
use super::fault::{Blame, SoapFault};

/// A verdict and why, before anything was read from the reply for the delivery itself.
pub(super) struct Meaning {
    pub(super) verdict: Verdict,
    pub(super) class: Class,
    pub(super) explanation: Explanation,
    pub(super) reason: Option<String>,
}

impl Meaning {
    pub(super) fn into_judgement(self) -> Judgement {
        Judgement {
            verdict: self.verdict,
            class: self.class,
            explanation: self.explanation,
            reason: self.reason,
            reference: None,
            redirect_url: None,
            price: None,
            retry_after: None,
        }
    }

    /// Only what was surely not sent may be sent again (promise 4).
    pub(super) fn of_send_fault(fault: &SendFault) -> Self {
        let (verdict, class) = match fault.kind {
            SendFaultKind::NotSent | SendFaultKind::TooLate => (Verdict::Retryable, Class::NotSent),
            SendFaultKind::NoToken => (Verdict::Retryable, Class::Configuration),
            SendFaultKind::Timeout => (Verdict::Unknown, Class::Timeout),
            SendFaultKind::Reset => (Verdict::Unknown, Class::Reset),
            SendFaultKind::Incomplete => (Verdict::Unknown, Class::Incomplete),
        };
        let rule = if fault.kind == SendFaultKind::NoToken { "no_token" } else { class.as_str() };
        let explanation = Explanation {
            rule: rule.to_owned(),
            selector: None,
            found: Some(tidy(&fault.message, MAX_FOUND)).filter(|text| !text.is_empty()),
        };
        let reason = Some(tidy(&fault.message, MAX_REASON)).filter(|text| !text.is_empty());
        Self { verdict, class, explanation, reason }
    }

    pub(super) fn of_soap_fault(fault: &SoapFault) -> Self {
        let (verdict, class) = match fault.blame {
            Blame::Sender => (Verdict::Rejected, Class::Response),
            Blame::Receiver => (Verdict::Retryable, Class::Response),
            Blame::Other => (Verdict::Retryable, Class::Configuration),
        };
        let explanation = Explanation {
            rule: "soap_fault".to_owned(),
            selector: Some(fault.selector.to_owned()),
            found: Some(tidy(&fault.code, MAX_FOUND)),
        };
        let said = tidy(&fault.reason, MAX_REASON);
        let reason = match (said.is_empty(), fault.code.is_empty()) {
            (false, _) => said,
            (true, false) => tidy(&format!("SOAP fault {} without a reason", fault.code), MAX_REASON),
            (true, true) => "SOAP fault without a code or a reason".to_owned(),
        };
        Self { verdict, class, explanation, reason: Some(reason) }
    }

    pub(super) fn of_status(status: u16, has_rules: bool, on_5xx: On5xx, unmatched: Unmatched) -> Self {
        let unmatched = match unmatched {
            Unmatched::Unknown => Verdict::Unknown,
            Unmatched::Rejected => Verdict::Rejected,
        };
        let failed = match on_5xx {
            On5xx::Unknown => Verdict::Unknown,
            On5xx::Retry => Verdict::Retryable,
        };
        let (verdict, class, rule) = match status {
            200..=299 if !has_rules => (Verdict::Accepted, Class::Response, "no_rules"),
            200..=299 => (unmatched, Class::Response, "unmatched"),
            408 | 425 | 429 | 503 => (Verdict::Retryable, Class::Response, "status"),
            300..=399 | 401 | 403 | 404 | 405 | 407 => (Verdict::Retryable, Class::Configuration, "status"),
            400..=499 => (Verdict::Rejected, Class::Response, "status"),
            500..=599 => (failed, Class::Response, "status"),
            // No final status at all (RFC 9110, section 15): nobody can say what it means.
            _ => (Verdict::Unknown, Class::Response, "status"),
        };
        let explanation =
            Explanation { rule: rule.to_owned(), selector: Some("status".to_owned()), found: Some(status.to_string()) };
        let reason = words(status, verdict).map(|why| format!("HTTP {status}: {why}"));
        Self { verdict, class, explanation, reason }
    }
}

/// A status in words; an acceptance needs none.
fn words(status: u16, verdict: Verdict) -> Option<&'static str> {
    Some(match (status, verdict) {
        (200..=299, Verdict::Accepted) => return None,
        (200..=299, _) => "no rule of the contract explains the reply",
        (300..=399, _) => "the partner redirects, which is not followed: its URL has changed",
        (401, _) => "the partner does not know our credentials",
        (403, _) => "the partner does not allow our credentials",
        (404, _) => "the partner's URL or our credentials are wrong",
        (405, _) => "the partner's URL or our method is wrong",
        (407, _) => "a proxy before the partner asks for credentials",
        (408, _) => "the partner did not get the request in time",
        (425, _) => "the partner wants the request again, later",
        (429, _) => "the partner gets too many requests from us",
        (400..=499, _) => "the partner refused the lead",
        (503, _) => "the partner cannot take leads at the moment",
        (500..=599, Verdict::Retryable) => "the partner failed",
        (500..=599, _) => "the partner failed, and may have the lead or not",
        _ => "this is no status that ends an exchange",
    })
}
