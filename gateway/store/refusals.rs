//! Posts of known sources that were refused, with the answer they got, so that a telephone call about them is short.

use super::deliveries::Message;
use super::{Store, StoreError};
use crate::model::id::{RequestId, SourceId};
use jiff::Timestamp;

/// A refused post.
#[derive(Debug, Clone)]
pub struct RefusalRecord {
    /// Its request, as told to the source.
    pub request_id: RequestId,
    /// Who posted.
    pub source: SourceId,
    /// Where to, as in the URL (not a campaign's id where that was the trouble).
    pub campaign: String,
    /// When.
    pub at: Timestamp,
    /// What was posted, secrets masked, cut at the capture's size cap.
    pub request: Message,
    /// The answer's status.
    pub status: u16,
    /// The answer's problem document.
    pub answer: String,
}

impl Store {
    /// Keeps a refused post.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn refuse(&self, refusal: RefusalRecord) -> Result<(), StoreError> {
        on_engine!(self, db => db.refuse(refusal).await)
    }
}
