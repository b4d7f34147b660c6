//! What became of a commit whose answer was lost.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::{Answer, Job, Shared};
use crate::store::StoreError;
use crate::store::postgres::{describe, session};

/// Pauses between two questions: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A question that takes longer is asked again on another connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

impl Shared {
    /// Answers `batch` once the database has said what became of the transaction `xid`; beside the committer, which goes
    /// on.
    pub(super) async fn settle(self: &Arc<Self>, batch: Vec<Job>, answers: Vec<Answer>, xid: String) {
        tracing::warn!(
            store.xid = xid,
            store.jobs = batch.len(),
            "a commit was not answered; asking what became of it"
        );
        let shared = Arc::clone(self);
        // Never closed.
        let turn = Arc::clone(&self.unsettled).acquire_owned().await.ok();
        tokio::spawn(async move {
            if shared.is_committed(&xid).await {
                tracing::info!(store.xid = xid, "the commit had succeeded");
                shared.finish(batch, answers);
            } else {
                shared.fail(
                    batch,
                    &StoreError::Failed("the connection to the database broke; nothing was done".to_owned()),
                );
            }
            drop(turn);
        });
    }

    /// Asks until there is an answer.
    async fn is_committed(&self, xid: &str) -> bool {
        let (mut pause, longest) = PAUSES;
        loop {
            match tokio::time::timeout(ANSWER_WITHIN, self.ask(xid)).await {
                Ok(Ok(Some(committed))) => return committed,
                // Its session has not yet noticed that nobody is there any more.
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    tracing::debug!(store.error = describe(&error), store.xid = xid, "no answer about a commit yet");
                }
                Err(_) => tracing::debug!(store.xid = xid, "no answer about a commit in time"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Whether the transaction was committed; `None` while it is under way.
    async fn ask(&self, xid: &str) -> Result<Option<bool>, tokio_postgres::Error> {
        let client = session::for_writer(&self.address, &self.promise).await?;
        let asked = client.query_one("SELECT pg_xact_status($1::text::xid8)", &[&xid]).await;
        match asked {
            Ok(row) => Ok(match row.get::<_, Option<&str>>(0) {
                Some("committed") => Some(true),
                Some("aborted") => Some(false),
                _ => None,
            }),
            // The server has never heard of it: a standby took over that had not received it.
            Err(error) if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => Ok(Some(false)),
            Err(error) => Err(error),
        }
    }
}
