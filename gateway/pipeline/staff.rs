//! What people may do to a delivery: send it again, say what became of it, end it; pause and resume.

use serde::{Deserialize, Serialize};

use super::{Conclusion, Pipeline, plan};
use crate::gate::Paused;
use crate::model::contract::Contract;
use crate::model::delivery::{DeliveryState, Verdict};
use crate::model::id::DeliveryId;
use crate::store::{Audit, Change, DeliveryRecord, NewDelivery, PausedKind, StoreError};

/// Whether a redelivery takes places and obeys limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedeliverLimits {
    /// Like any other delivery.
    Consume,
    /// It takes no place and no limit stops it: for a lead whose first delivery still keeps its place.
    Bypass,
}

/// Why an act could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ActFault {
    /// There is no such delivery.
    #[error("there is no such delivery")]
    Missing,
    /// Its state does not allow it.
    #[error("{0}")]
    State(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Pipeline {
    /// Sends a finished delivery's lead to its contract again, as a new delivery.
    ///
    /// # Errors
    /// When there is no such delivery, it is unfinished, its contract is gone, or the store fails.
    pub async fn redeliver(
        &self,
        id: DeliveryId,
        limits: Option<RedeliverLimits>,
        who: &str,
        reason: Option<String>,
    ) -> Result<DeliveryId, ActFault> {
        let old = self.find(id).await?;
        let unfinished = || ActFault::State(format!("delivery {id} is unfinished; resolve or cancel it first"));
        if !old.delivery.state.is_final() {
            return Err(unfinished());
        }
        let network = self.directory.network();
        let Some(entry) = network.contract(&old.delivery.contract) else {
            return Err(ActFault::State(format!("contract {} was deleted", old.delivery.contract)));
        };
        let Some(lead) = self.store.lead(old.delivery.lead).await? else { return Err(ActFault::Missing) };
        let keeps_place = !old.places.is_empty();
        let limits = limits.unwrap_or(if keeps_place { RedeliverLimits::Bypass } else { RedeliverLimits::Consume });
        let now = self.clock.now();
        let new = NewDelivery {
            id: DeliveryId(self.clock.uuid()),
            partner: entry.contract.partner.clone(),
            contract: entry.contract.id.clone(),
            state: DeliveryState::Queued,
            // A person chose this contract: it waits here whatever its policies say.
            waits: true,
            reason: None,
            price: entry.price,
            redelivery_of: Some(id),
            bypass_limits: limits == RedeliverLimits::Bypass,
        };
        let audit = Audit { who: who.to_owned(), action: "redeliver", subject: format!("delivery/{id}"), reason };
        if !self.store.redeliver(lead.lead.id, new.clone(), now, audit).await? {
            return Err(unfinished());
        }
        if let Some(queues) = self.queues() {
            // Without its lead: what is read again knows that it is a redelivery.
            queues.push(&new.contract, plan::queued(&new, &lead.lead, now), None);
        }
        Ok(new.id)
    }

    /// A person says what became of an unknown delivery.
    ///
    /// # Errors
    /// When there is no such delivery, it is not unknown, or the store fails.
    pub async fn resolve(
        &self,
        id: DeliveryId,
        accepted: bool,
        who: &str,
        reason: Option<String>,
    ) -> Result<(), ActFault> {
        let record = self.find(id).await?;
        let change = if accepted {
            Change { verdict: Some(Verdict::Accepted), ..Change::to(DeliveryState::Accepted) }
        } else {
            Change { verdict: Some(Verdict::Rejected), give_back: true, ..Change::to(DeliveryState::Rejected) }
        };
        let change = Change { reason: reason.clone(), ..change };
        let not_unknown = |state: DeliveryState| {
            ActFault::State(format!("delivery {id} is {state}; only an unknown one can be resolved"))
        };
        if record.delivery.state != DeliveryState::Unknown {
            return Err(not_unknown(record.delivery.state));
        }
        let audit = Audit { who: who.to_owned(), action: "resolve", subject: format!("delivery/{id}"), reason };
        let conclusion = Conclusion { audit: Some(audit), ..Conclusion::of(change) };
        match self.conclude(&record.delivery, DeliveryState::Unknown, conclusion).await? {
            Some(_) => Ok(()),
            None => Err(not_unknown(self.find(id).await?.delivery.state)),
        }
    }

    /// A person ends a waiting delivery. One that may already be with the partner becomes `unknown` instead.
    ///
    /// # Errors
    /// When there is no such delivery, it is not waiting, or the store fails.
    pub async fn cancel(&self, id: DeliveryId, who: &str, reason: Option<String>) -> Result<(), ActFault> {
        let record = self.find(id).await?;
        let delivery = &record.delivery;
        let refused = |state: DeliveryState| match state {
            DeliveryState::Unknown => ActFault::State(format!("delivery {id} is unknown; resolve it instead")),
            state => ActFault::State(format!("delivery {id} is {state}; only a waiting one can be cancelled")),
        };
        if delivery.state != DeliveryState::Queued {
            return Err(refused(delivery.state));
        }
        let state = if delivery.had_unknown { DeliveryState::Unknown } else { DeliveryState::Cancelled };
        let change = Change { reason: reason.clone(), give_back: !delivery.had_unknown, ..Change::to(state) };
        let audit = Audit { who: who.to_owned(), action: "cancel", subject: format!("delivery/{id}"), reason };
        let conclusion = Conclusion { audit: Some(audit), by_cancel: true, ..Conclusion::of(change) };
        match self.conclude(delivery, DeliveryState::Queued, conclusion).await? {
            Some(_) => Ok(()),
            None => Err(refused(self.find(id).await?.delivery.state)),
        }
    }

    async fn find(&self, id: DeliveryId) -> Result<DeliveryRecord, ActFault> {
        self.store.delivery(id).await?.ok_or(ActFault::Missing)
    }

    /// Pauses or resumes a partner, contract or source; in force for the next lead when this returns.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn set_paused(&self, kind: PausedKind, id: &str, paused: bool, who: &str) -> Result<(), StoreError> {
        // One after another, so that gate and store end with the same.
        let _one_at_a_time = self.pausing.lock().await;
        let action = if paused { "pause" } else { "resume" };
        let audit = Audit { who: who.to_owned(), action, subject: format!("{kind}/{id}"), reason: None };
        self.store.set_paused(kind, id.to_owned(), paused, self.clock.now(), audit).await?;
        self.mark_paused(kind, id, paused).await;
        self.network_changed();
        Ok(())
    }

    /// A new network is in force: whatever waits is looked at again.
    pub fn network_changed(&self) {
        if let Some(queues) = self.queues() {
            queues.changed();
        }
    }

    /// Tells the gate (or, for a source, the directory) what the store has just been told, for every gateway that shares
    /// the gate.
    pub async fn mark_paused(&self, kind: PausedKind, id: &str, paused: bool) {
        match who(kind, id) {
            Some(who) => self.gate.set_paused(who, paused).await,
            None => self.learn_paused(kind, id, paused),
        }
    }

    /// Partners and contracts that are paused as far as the gate has heard.
    #[must_use]
    pub fn believed_paused(&self) -> Vec<(PausedKind, String)> {
        let named = |who| match who {
            Paused::Partner(partner) => (PausedKind::Partner, partner.to_string()),
            Paused::Contract(contract) => (PausedKind::Contract, contract.to_string()),
        };
        self.gate.paused().into_iter().map(named).collect()
    }

    /// The store says that a contract or its partner is paused, and the gate did not: tells it what is so.
    pub(crate) async fn correct_pauses(&self, contract: &Contract) -> Result<(), StoreError> {
        let paused = self.store.paused().await?;
        for (kind, id) in
            [(PausedKind::Partner, contract.partner.as_str()), (PausedKind::Contract, contract.id.as_str())]
        {
            let is_paused = paused.iter().any(|(other, name)| *other == kind && name == id);
            self.mark_paused(kind, id, is_paused).await;
        }
        Ok(())
    }

    /// Tells the gate (or, for a source, the directory) of this process what the store has said.
    pub fn learn_paused(&self, kind: PausedKind, id: &str, paused: bool) {
        match (kind, who(kind, id)) {
            (PausedKind::Source, _) => self.directory.set_source_paused(id, paused),
            (_, Some(who)) => self.gate.learn_paused(who, paused),
            (_, None) => tracing::warn!("something with an impossible id is paused in the store"),
        }
    }
}

/// Whom the gate is to pause, if it is the gate's business and the id can be one.
fn who(kind: PausedKind, id: &str) -> Option<Paused> {
    match kind {
        PausedKind::Partner => id.parse().ok().map(Paused::Partner),
        PausedKind::Contract => id.parse().ok().map(Paused::Contract),
        PausedKind::Source => None,
    }
}
