//! Sources that wait for their lead's outcome.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::model::id::LeadId;
use crate::model::lead::LeadReason;

/// What a waiting source is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The lead is sold, to the one who may have it.
    Sold {
        /// Where its buyer wants the person to go next.
        redirect_url: Option<String>,
    },
    /// Nobody has it, and nobody is left.
    Unsold {
        /// Why.
        reason: Option<LeadReason>,
    },
    /// The lead is sold or rejected, and more than one delivery may have a say in the answer: look it up.
    Decided,
    /// It waits for an opening, a retry or a person: no use in waiting longer.
    Parked,
}

/// Who waits for which lead. At most one request per lead: the one that posted it.
#[derive(Debug, Clone, Default)]
pub struct Outcomes(Arc<Mutex<HashMap<LeadId, oneshot::Sender<Outcome>>>>);

/// A wait; leaving it unregisters.
#[derive(Debug)]
pub struct Waiting {
    lead: LeadId,
    outcome: oneshot::Receiver<Outcome>,
    outcomes: Outcomes,
}

impl Outcomes {
    /// Begins to wait, before the lead is accepted, so that no outcome is missed.
    #[must_use]
    pub fn wait_for(&self, lead: LeadId) -> Waiting {
        let (sender, outcome) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(lead, sender);
        Waiting { lead, outcome, outcomes: self.clone() }
    }

    /// Whether a source waits for this lead.
    #[must_use]
    pub fn is_awaited(&self, lead: LeadId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&lead)
    }

    /// Tells whoever waits.
    pub fn tell(&self, lead: LeadId, outcome: Outcome) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&lead);
        if let Some(waiting) = waiting {
            // Gone in the same moment: nobody to tell.
            let _ = waiting.send(outcome);
        }
    }
}

impl Waiting {
    /// The outcome; `Parked` if the gateway stops.
    pub async fn outcome(&mut self) -> Outcome {
        (&mut self.outcome).await.unwrap_or(Outcome::Parked)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.outcomes.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.lead);
    }
}
