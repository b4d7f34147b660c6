//! A delivery: one lead on its way to one contract, its attempts, and what they meant. `docs/delivery-states.md` draws
//! the machine.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::exchange::Timings;
use super::id::{CampaignId, ContractId, DeliveryId, LeadId, PartnerId, SourceId};
use super::money::Amount;

words! {
    /// Where a delivery stands.
    DeliveryState {
        /// Waiting: for its turn, its gate, or its next attempt.
        Queued = "queued",
        /// An attempt is open.
        Sending = "sending",
        /// The partner took it.
        Accepted = "accepted",
        /// The partner refused it.
        Rejected = "rejected",
        /// The partner has this person already.
        Duplicate = "duplicate",
        /// Attempts used up, or it could not be rendered.
        Failed = "failed",
        /// Nobody can say; a policy or a person decides.
        Unknown = "unknown",
        /// Passed over while its contract was shut.
        Skipped = "skipped",
        /// Waited longer than `hold_for`.
        Expired = "expired",
        /// Ended by a person.
        Cancelled = "cancelled",
    }
}

impl DeliveryState {
    /// Whether nothing more will happen to it by itself or by a person's answer.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Sending | Self::Unknown)
    }
}

words! {
    /// What an exchange means.
    Verdict {
        /// The partner took it.
        Accepted = "accepted",
        /// The partner refused it.
        Rejected = "rejected",
        /// The partner has this person already.
        Duplicate = "duplicate",
        /// Surely not taken; may be tried again.
        Retryable = "retryable",
        /// Nobody can say.
        Unknown = "unknown",
    }
}

words! {
    /// What a verdict rests on.
    Class {
        /// The partner's reply.
        Response = "response",
        /// A reply that says our settings are wrong.
        Configuration = "configuration",
        /// No byte of the request was sent.
        NotSent = "not_sent",
        /// No whole reply in time.
        Timeout = "timeout",
        /// The connection broke before a reply.
        Reset = "reset",
        /// The reply broke off or could not be read.
        Incomplete = "incomplete",
        /// The gateway stopped between sending and recording.
        Crash = "crash",
    }
}

words! {
    /// Why a contract's gate is shut.
    ShutReason {
        /// Outside the hours.
        Closed = "closed",
        /// A limit is reached.
        Full = "full",
        /// Paused by staff.
        Paused = "paused",
        /// The breaker is open.
        Breaker = "breaker",
        /// The gate or the store cannot answer now.
        Unavailable = "unavailable",
    }
}

impl ShutReason {
    /// The reason that a passed over delivery ends with: an open breaker counts as paused (CONTRACT 5).
    #[must_use]
    pub fn as_skipped(self) -> &'static str {
        match self {
            Self::Breaker => Self::Paused.as_str(),
            reason => reason.as_str(),
        }
    }
}

/// One lead on its way to one contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id, also its idempotency key with the partner.
    pub id: DeliveryId,
    /// The lead.
    pub lead: LeadId,
    /// The lead's campaign.
    pub campaign: CampaignId,
    /// The lead's source.
    pub source: SourceId,
    /// The buyer.
    pub partner: PartnerId,
    /// The contract.
    pub contract: ContractId,
    /// When the lead was received: its rank in the contract's queue.
    pub received_at: Timestamp,
    /// Where it stands.
    pub state: DeliveryState,
    /// Created to wait here whatever `when_closed`, `when_full` and `when_paused` say.
    pub waits: bool,
    /// Its last attempt's verdict, or what it was resolved to or counts as.
    pub verdict: Option<Verdict>,
    /// Why, in words.
    pub reason: Option<String>,
    /// The contract's price, or the partner's own where its reply gave one.
    pub price: Option<Amount>,
    /// The partner's id of the lead.
    pub reference: Option<String>,
    /// The page that the person should see next.
    pub redirect_url: Option<String>,
    /// Attempts so far.
    pub attempt_count: u32,
    /// When the first attempt started.
    pub first_attempt_at: Option<Timestamp>,
    /// An attempt of it is, or was, unknown: it keeps its places and is never passed over.
    pub had_unknown: bool,
    /// When the next attempt is due; `None` = as soon as the gate lets it.
    pub due_at: Option<Timestamp>,
    /// The delivery that a person sent again.
    pub redelivery_of: Option<DeliveryId>,
    /// A person let it pass the limits.
    pub bypass_limits: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// One try of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// 1 first.
    pub number: u32,
    /// Committed before the first byte.
    pub started_at: Timestamp,
    /// By then it has an outcome or is unknown.
    pub deadline: Timestamp,
    /// When its outcome was known.
    pub ended_at: Option<Timestamp>,
    /// What it meant.
    pub verdict: Option<Verdict>,
    /// What that rests on.
    pub class: Option<Class>,
    /// The reply's status.
    pub status_code: Option<u16>,
    /// Whole exchange, milliseconds.
    pub latency_ms: Option<u32>,
    /// Which rule said so.
    pub explanation: Option<Explanation>,
    /// Where the time went.
    pub timings: Option<Timings>,
}

/// Why a verdict is what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// `duplicate`, `accepted`, `rejected`, `retryable`; or the built-in rule: `soap_fault`, `status`, `no_rules`,
    /// `unmatched`, `not_sent`, `timeout`, `reset`, `incomplete`, `crash`.
    pub rule: String,
    /// Where it looked, such as `json $.code`.
    #[serde(default)]
    pub selector: Option<String>,
    /// What it found there, or the trouble in words.
    #[serde(default)]
    pub found: Option<String>,
}

/// The verdict on an exchange and what was read from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What it means.
    pub verdict: Verdict,
    /// What that rests on.
    pub class: Class,
    /// Which rule said so.
    pub explanation: Explanation,
    /// The partner's words.
    pub reason: Option<String>,
    /// The partner's id of the lead.
    pub reference: Option<String>,
    /// The page that the person should see next.
    pub redirect_url: Option<String>,
    /// The price that the reply gave, if readable.
    pub price: Option<Amount>,
    /// How long the partner asks to wait, at most an hour.
    pub retry_after: Option<std::time::Duration>,
}
