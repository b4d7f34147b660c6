//! Searches by staff: newest first, a page at a time, by keyset (a page costs the same however deep it lies).
//!
//! Ids are UUIDv7, so the newest are those with the greatest ids, and a span of time is a range of ids.

use super::deliveries::DeliveryRecord;
use super::leads::LeadRecord;
use super::refusals::RefusalRecord;
use super::{Store, StoreError};
use crate::model::delivery::{DeliveryState, Verdict};
use crate::model::id::{CampaignId, ContractId, LeadId, PartnerId, RequestId, SourceId};
use crate::model::lead::LeadStatus;
use jiff::Timestamp;
use uuid::Uuid;

/// One page, and where the next begins.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// Newest first.
    pub items: Vec<T>,
    /// Pass it back for what follows; `None` at the end.
    pub next: Option<Uuid>,
}

/// A page of at most `limit` from one more than that.
pub(super) fn page<T>(mut items: Vec<T>, limit: u32, id: impl Fn(&T) -> Uuid) -> Page<T> {
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next = if more { items.last().map(id) } else { None };
    Page { items, next }
}

/// Which leads; every given condition must hold.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "each is the query parameter of the same name (CONTRACT 7)")]
pub struct LeadSearch {
    /// Kind and normalised values of everything it is looked up by: for each kind, any of the values.
    pub lookups: Vec<(&'static str, Vec<String>)>,
    pub source: Option<SourceId>,
    pub campaign: Option<CampaignId>,
    pub status: Option<LeadStatus>,
    pub test: Option<bool>,
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    pub cursor: Option<Uuid>,
    pub limit: u32,
}

/// Which deliveries; every given condition must hold.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "each is the query parameter of the same name (CONTRACT 7)")]
pub struct DeliverySearch {
    pub lead: Option<LeadId>,
    pub partner: Option<PartnerId>,
    pub contract: Option<ContractId>,
    pub campaign: Option<CampaignId>,
    pub source: Option<SourceId>,
    pub state: Option<DeliveryState>,
    pub verdict: Option<Verdict>,
    pub status_code: Option<u16>,
    pub reference: Option<String>,
    /// Part of the reason, whatever its case.
    pub reason: Option<String>,
    /// Waiting at one of these contracts, whose gates are shut; or (`held` = false) at none of them.
    pub held: Option<(bool, Vec<ContractId>)>,
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    /// The present moment: a retry that is not yet due is not held.
    pub now: Timestamp,
    pub cursor: Option<Uuid>,
    pub limit: u32,
}

/// Which refused posts; every given condition must hold.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "each is the query parameter of the same name (CONTRACT 7)")]
pub struct RefusalSearch {
    pub source: Option<SourceId>,
    pub request_id: Option<RequestId>,
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    pub cursor: Option<Uuid>,
    pub limit: u32,
}

impl Store {
    /// Leads, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn find_leads(&self, search: LeadSearch) -> Result<Page<LeadRecord>, StoreError> {
        on_engine!(self, db => db.find_leads(search).await)
    }

    /// Brings what leads are found by into the order in which it is searched, if there is enough of it; whether there may be
    /// more.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn sort_lookups(&self) -> Result<bool, StoreError> {
        match &*self.0 {
            super::Engine::Sqlite(db) => db.sort_lookups().await,
            super::Engine::Postgres(db) => db.sort_lookups().await,
        }
    }

    /// Deliveries, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn find_deliveries(&self, search: DeliverySearch) -> Result<Page<DeliveryRecord>, StoreError> {
        on_engine!(self, db => db.find_deliveries(search).await)
    }

    /// Refused posts, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn find_refusals(&self, search: RefusalSearch) -> Result<Page<RefusalRecord>, StoreError> {
        on_engine!(self, db => db.find_refusals(search).await)
    }
}
