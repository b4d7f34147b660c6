//! Moving on: after a lead was accepted, and after every end of one of its deliveries, who is offered it next, where it
//! waits, or how it ended (DESIGN "Moving on"; CONTRACT "When a contract is shut", "Selling").
//!
//! - A delivery that is queued, waiting, sending, unknown or accepted fills one of the lead's `sell_to` slots; an unknown
//!   one does not where its contract's owner accepted a double sale (`on_unknown = "next"`).
//! - `broadcast` fills all free slots at once. The other modes offer one after another: nobody new while a delivery of
//!   the lead is in motion.
//! - A partner that may have seen the lead is not offered it again through another contract.
//! - A shut contract is waited at, or passed over for the others, as its terms say. When everybody was passed over and
//!   slots are free, the lead waits where it opens first.

use std::collections::HashSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::model::campaign::Distribution;
use crate::model::contract::{Contract, WhenShut};
use crate::model::delivery::{DeliveryState, ShutReason};
use crate::model::id::{ContractId, PartnerId};
use crate::model::lead::{Candidate, LeadReason, LeadStatus};

/// Everything that decides a lead's next step.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Now.
    pub now: Timestamp,
    /// The campaign's.
    pub distribution: Distribution,
    /// How many partners may have the lead; 0 = all.
    pub sell_to: u32,
    /// In order, as [`super::candidates`] gave them.
    pub candidates: &'a [Candidate],
    /// The lead's deliveries so far, in any order; several of one contract where it was passed over or sent again.
    pub deliveries: &'a [Standing],
    /// A person's cancelling led here: it frees a slot and offers nobody else.
    pub cancelled: bool,
}

/// What matters here of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its contract.
    pub contract: ContractId,
    /// Its partner.
    pub partner: PartnerId,
    /// Where it stands.
    pub state: DeliveryState,
    /// It has had an attempt.
    pub attempted: bool,
    /// Queued or sending, and neither held nor waiting for a retry: its outcome is a matter of moments.
    pub in_motion: bool,
    /// Its contract's `on_unknown` is `next`.
    pub on_unknown_next: bool,
    /// Why it was passed over, if it was.
    pub skipped_for: Option<ShutReason>,
}

/// What a contract wants done while it is shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Outside its hours.
    pub when_closed: WhenShut,
    /// At a limit.
    pub when_full: WhenShut,
    /// While paused, or while its breaker is open.
    pub when_paused: WhenShut,
    /// How long a lead may wait.
    pub hold_for: Duration,
}

/// What the gate says of a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// It may have the lead now.
    Open,
    /// Not now.
    Shut {
        /// Why.
        reason: ShutReason,
        /// Its next opening, as far as known.
        until: Option<Timestamp>,
        /// No time will open it.
        never: bool,
    },
}

/// A delivery to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Try it now.
    Queue(ContractId),
    /// It waits there until it opens (which may be now), whatever the contract's `when_…` say.
    Hold(ContractId),
    /// Passed over: it ends as skipped, for this reason.
    Skip(ContractId, ShutReason),
}

/// What comes next for a lead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Next {
    /// Deliveries to make, in this order.
    pub moves: Vec<Move>,
    /// What the lead is now, for its source; `None` = still pending. A sold lead may still have moves, where more than
    /// one partner may have it.
    pub decided: Option<(LeadStatus, Option<LeadReason>)>,
}

/// Whether a delivery waits at a shut contract or is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtShut {
    /// It waits there.
    Wait,
    /// It is skipped, and the others are offered the lead.
    PassOver,
}

impl From<&Contract> for Terms {
    fn from(contract: &Contract) -> Self {
        Self {
            when_closed: contract.when_closed,
            when_full: contract.when_full,
            when_paused: contract.when_paused,
            hold_for: contract.hold_for.0,
        }
    }
}

impl Terms {
    /// What to do with a delivery that finds its contract shut at `now`. (One that was made to wait there, or that has an
    /// unknown attempt, is never passed over: do not ask for it.)
    #[must_use]
    pub fn at_shut(&self, reason: ShutReason, until: Option<Timestamp>, never: bool, now: Timestamp) -> AtShut {
        match self.when(reason) {
            None => AtShut::Wait, // not knowing is no reason to pass anybody over
            Some(WhenShut::Hold) if self.worth_waiting(until, never, now) => AtShut::Wait,
            Some(WhenShut::Hold | WhenShut::Next | WhenShut::Skip) => AtShut::PassOver,
        }
    }

    /// `None` when it is not known whether the contract is shut.
    fn when(&self, reason: ShutReason) -> Option<WhenShut> {
        match reason {
            ShutReason::Closed => Some(self.when_closed),
            ShutReason::Full => Some(self.when_full),
            ShutReason::Paused | ShutReason::Breaker => Some(self.when_paused),
            ShutReason::Unavailable => None,
        }
    }

    fn offers_others_only(&self, reason: ShutReason) -> bool {
        self.when(reason) == Some(WhenShut::Skip)
    }

    /// Nobody is waited for whose next opening is known to lie beyond `hold_for`.
    fn worth_waiting(&self, until: Option<Timestamp>, never: bool, now: Timestamp) -> bool {
        let patience = SignedDuration::try_from(self.hold_for).unwrap_or(SignedDuration::MAX);
        let last = now.checked_add(patience).unwrap_or(Timestamp::MAX);
        !never && until.is_none_or(|until| until <= last)
    }
}

impl<'a> Step<'a> {
    /// The contracts that [`advance`] may ask about in this step, in order: no others need be looked at.
    pub fn needed(&self) -> impl Iterator<Item = &'a ContractId> {
        let round = Round::new(self);
        let nobody = self.cancelled || !round.may_start();
        self.candidates
            .iter()
            .filter(move |candidate| !nobody && candidate.filtered.is_none() && round.past(candidate).is_some())
            .map(|candidate| &candidate.contract)
    }
}

impl Next {
    /// Who is offered the lead first: the one whose turn it was (see [`super::candidates`]).
    #[must_use]
    pub fn first_offered(&self) -> Option<&ContractId> {
        self.moves.iter().find_map(|made| match made {
            Move::Queue(contract) | Move::Hold(contract) => Some(contract),
            Move::Skip(..) => None,
        })
    }
}

/// Decides a lead's next step. `look` gives a contract's terms and what the gate says of it; `None` for one that is not
/// in the network any more, which is passed over without a delivery.
pub fn advance(step: &Step<'_>, look: &dyn Fn(&ContractId) -> Option<(Terms, View)>) -> Next {
    let mut round = Round::new(step);
    if !step.cancelled {
        let passed_over = round.offer(look);
        round.wait_where_it_opens_first(passed_over);
    }
    Next { decided: decided(step.deliveries, &round.moves), moves: round.moves }
}

fn decided(deliveries: &[Standing], moves: &[Move]) -> Option<(LeadStatus, Option<LeadReason>)> {
    let any = |state: DeliveryState| deliveries.iter().any(|delivery| delivery.state == state);
    if any(DeliveryState::Accepted) {
        return Some((LeadStatus::Sold, None));
    }
    let unfinished = deliveries.iter().any(|delivery| !delivery.state.is_final());
    if unfinished || moves.iter().any(|made| !matches!(made, Move::Skip(..))) {
        return None;
    }
    let reason = if any(DeliveryState::Expired) { LeadReason::Expired } else { LeadReason::NoBuyer };
    Some((LeadStatus::Unsold, Some(reason)))
}

/// One round of offers.
struct Round<'a> {
    step: &'a Step<'a>,
    /// Slots that are neither filled nor about to be.
    free: usize,
    in_motion: bool,
    /// Who may not be offered the lead (again).
    partners: HashSet<&'a PartnerId>,
    moves: Vec<Move>,
}

/// What a candidate that may still get the lead has been through.
enum Past {
    /// It was not offered it.
    Untried,
    /// It was passed over, for these reasons, and nothing else.
    PassedOver(Vec<ShutReason>),
}

/// A candidate that was passed over and may be waited at.
struct Waitable<'a> {
    candidate: &'a Candidate,
    view: View,
}

impl<'a> Round<'a> {
    fn new(step: &'a Step<'a>) -> Self {
        let fills = |delivery: &&Standing| match delivery.state {
            DeliveryState::Queued | DeliveryState::Sending | DeliveryState::Accepted => true,
            DeliveryState::Unknown => !delivery.on_unknown_next,
            _ => false,
        };
        let filled = step.deliveries.iter().filter(fills).count();
        let slots = match usize::try_from(step.sell_to) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(slots) => slots,
        };
        // One that was passed over has surely not taken it, whatever its attempts: see `past`.
        let may_have_seen_it = |delivery: &&Standing| match delivery.state {
            DeliveryState::Skipped => false,
            state => delivery.attempted || state == DeliveryState::Accepted || !state.is_final(),
        };
        Self {
            step,
            free: slots.saturating_sub(filled),
            in_motion: step.deliveries.iter().any(|delivery| delivery.in_motion && !delivery.state.is_final()),
            partners: step.deliveries.iter().filter(may_have_seen_it).map(|delivery| &delivery.partner).collect(),
            moves: Vec::new(),
        }
    }

    /// Whether anybody may be offered the lead now.
    fn may_start(&self) -> bool {
        self.free > 0 && (self.step.distribution == Distribution::Broadcast || !self.in_motion)
    }

    /// Goes through the candidates in order while slots are free. Gives those that were passed over, now or earlier, and
    /// may be waited at.
    fn offer(&mut self, look: &dyn Fn(&ContractId) -> Option<(Terms, View)>) -> Vec<Waitable<'a>> {
        let now = self.step.now;
        let mut passed_over = Vec::new();
        for candidate in self.step.candidates.iter().filter(|candidate| candidate.filtered.is_none()) {
            if !self.may_start() {
                break;
            }
            let Some(past) = self.past(candidate) else { continue };
            let Some((terms, view)) = look(&candidate.contract) else { continue };
            let others_only = |reason: &ShutReason| terms.offers_others_only(*reason);
            let waitable = match (past, view) {
                (Past::Untried, View::Open | View::Shut { reason: ShutReason::Unavailable, .. }) => {
                    self.queue(candidate);
                    false
                }
                (Past::Untried, View::Shut { reason, until, never }) => {
                    if terms.at_shut(reason, until, never, now) == AtShut::Wait {
                        self.hold(candidate);
                        false
                    } else {
                        self.moves.push(Move::Skip(candidate.contract.clone(), reason));
                        !others_only(&reason) && terms.worth_waiting(until, never, now)
                    }
                }
                (Past::PassedOver(reasons), View::Open) => !reasons.iter().any(others_only),
                (Past::PassedOver(reasons), View::Shut { reason, until, never }) => {
                    !reasons.iter().chain([&reason]).any(others_only) && terms.worth_waiting(until, never, now)
                }
            };
            if waitable {
                passed_over.push(Waitable { candidate, view });
            }
        }
        passed_over
    }

    /// Nobody is left to offer the lead to: it waits at those that open first, as many as slots are free.
    fn wait_where_it_opens_first(&mut self, mut passed_over: Vec<Waitable<'a>>) {
        // Stable: of two that open at once, or of which nobody knows when, the one that comes first.
        passed_over.sort_by_key(Waitable::opens);
        for Waitable { candidate, view } in passed_over {
            if !self.may_start() {
                break;
            }
            if self.partners.contains(&candidate.partner) {
                continue;
            }
            // Open by now, it goes at once; but as one that waits, so that it cannot be passed over time and again.
            self.in_motion |= view == View::Open;
            self.hold(candidate);
        }
    }

    fn queue(&mut self, candidate: &'a Candidate) {
        self.in_motion = true;
        self.fill(candidate, Move::Queue(candidate.contract.clone()));
    }

    fn hold(&mut self, candidate: &'a Candidate) {
        self.fill(candidate, Move::Hold(candidate.contract.clone()));
    }

    fn fill(&mut self, candidate: &'a Candidate, made: Move) {
        self.free -= 1; // only after `may_start`, which saw one free
        self.partners.insert(&candidate.partner);
        self.moves.push(made);
    }

    /// `None` for one that had its chance, or whose partner had.
    fn past(&self, candidate: &Candidate) -> Option<Past> {
        if self.partners.contains(&candidate.partner) {
            return None;
        }
        // Its attempts were all retryable, and so it may be waited at itself; but not asked through another contract.
        let asked_elsewhere = |delivery: &Standing| {
            delivery.attempted && delivery.partner == candidate.partner && delivery.contract != candidate.contract
        };
        if self.step.deliveries.iter().any(asked_elsewhere) {
            return None;
        }
        let mut passed_over = None;
        for delivery in self.step.deliveries.iter().filter(|delivery| delivery.contract == candidate.contract) {
            if delivery.state != DeliveryState::Skipped {
                return None;
            }
            passed_over.get_or_insert_with(Vec::new).extend(delivery.skipped_for);
        }
        Some(passed_over.map_or(Past::Untried, Past::PassedOver))
    }
}

impl Waitable<'_> {
    fn opens(&self) -> Timestamp {
        match self.view {
            View::Open => Timestamp::MIN,
            View::Shut { until, .. } => until.unwrap_or(Timestamp::MAX),
        }
    }
}
