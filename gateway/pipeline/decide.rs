//! All policy on how an attempt ends, in one place: from a judgement and the delivery's past to what the delivery
//! becomes. Pure; CONTRACT 6 has the rules, promise 4 the reason for those about unknown outcomes.

use jiff::Timestamp;

use crate::model::contract::OnUnknown;
use crate::model::delivery::{DeliveryState, Judgement, Verdict};
use crate::store::Change;

/// How an attempt ends for its delivery.
#[derive(Debug, Clone)]
pub struct Ending {
    /// What the delivery becomes.
    pub change: Change,
    /// Whether it may instead end as `failed` when a source waits and other candidates are untried.
    pub may_fail_over: bool,
}

/// What the delivery becomes after an attempt was judged. `again` is when it could be tried again, if it may; `had_unknown`
/// whether an earlier attempt of it is unknown.
#[must_use]
pub fn after_attempt(
    judgement: &Judgement,
    had_unknown: bool,
    on_unknown: OnUnknown,
    again: Result<Timestamp, String>,
) -> Ending {
    let mut change = Change {
        verdict: Some(judgement.verdict),
        reason: judgement.reason.clone(),
        price: judgement.price,
        reference: judgement.reference.clone(),
        redirect_url: judgement.redirect_url.clone(),
        ..Change::to(DeliveryState::Unknown)
    };
    let mut may_fail_over = false;
    match judgement.verdict {
        Verdict::Accepted => change.state = DeliveryState::Accepted,
        // The first, unknown attempt got through after all.
        Verdict::Duplicate if had_unknown => {
            change.state = DeliveryState::Accepted;
            change.verdict = Some(Verdict::Accepted);
        }
        Verdict::Rejected | Verdict::Duplicate if !had_unknown => {
            change.state =
                if judgement.verdict == Verdict::Rejected { DeliveryState::Rejected } else { DeliveryState::Duplicate };
            change.give_back = true;
        }
        Verdict::Retryable => match again {
            Ok(at) => {
                change.state = DeliveryState::Queued;
                change.due_at = Some(at);
                change.give_back = !had_unknown;
                may_fail_over = !had_unknown;
            }
            Err(why) if !had_unknown => {
                change.state = DeliveryState::Failed;
                change.give_back = true;
                change.reason = Some(match change.reason {
                    Some(reason) => format!("{why}; last: {reason}"),
                    None => why,
                });
            }
            // Every end after an unknown attempt but a yes leaves it to a person.
            Err(_) => {}
        },
        Verdict::Unknown => {
            change.unknown = true;
            if on_unknown == OnUnknown::Retry
                && let Ok(at) = again
            {
                change.state = DeliveryState::Queued;
                change.due_at = Some(at);
            }
        }
        // A definite no after an unknown attempt: the unknown one may still have been taken.
        Verdict::Rejected | Verdict::Duplicate => {}
    }
    Ending { change, may_fail_over }
}

/// What a delivery becomes that could not be rendered: no attempt was made.
#[must_use]
pub fn after_render_failure(why: String, had_unknown: bool) -> Change {
    let state = if had_unknown { DeliveryState::Unknown } else { DeliveryState::Failed };
    Change { reason: Some(why), give_back: !had_unknown, ..Change::to(state) }
}

/// What a delivery becomes that has waited longer than `hold_for`.
#[must_use]
pub fn after_hold(had_unknown: bool) -> Change {
    let state = if had_unknown { DeliveryState::Unknown } else { DeliveryState::Expired };
    Change { reason: Some("waited longer than hold_for".to_owned()), give_back: !had_unknown, ..Change::to(state) }
}
