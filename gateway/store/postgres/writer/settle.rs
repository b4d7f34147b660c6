//! What became of a commit whose answer was lost.

use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Job, Shared};
use crate::store::StoreError;
use crate::store::postgres::mark::Mark;
use crate::store::postgres::{describe, session};

/// Pauses between two questions: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A question that takes longer is asked again on another connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

impl Shared {
    /// Answers `batch` once the database has said what became of the transaction with this mark; beside the committer, which
    /// goes on.
    pub(super) async fn settle(self: &Arc<Self>, lane: usize, batch: Vec<Job>, answers: Vec<Answer>, mark: Mark) {
        tracing::warn!(
            store.mark = %mark,
            store.jobs = batch.len(),
            "a commit was not answered; asking what became of it"
        );
        let shared = Arc::clone(self);
        // Never closed.
        let turn = Arc::clone(&self.unsettled).acquire_owned().await.ok();
        tokio::spawn(async move {
            if shared.is_committed(mark).await {
                tracing::info!(store.mark = %mark, "the commit had succeeded");
                shared.finish(lane, batch, answers);
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
    async fn is_committed(&self, mark: Mark) -> bool {
        let (mut pause, longest) = PAUSES;
        loop {
            match tokio::time::timeout(ANSWER_WITHIN, self.ask(mark)).await {
                Ok(Ok(committed)) => return committed,
                // Or its session has not yet noticed that nobody is there any more, and holds the mark.
                Ok(Err(error)) => {
                    tracing::debug!(store.error = describe(&error), store.mark = %mark, "no answer about a commit yet");
                }
                Err(_) => tracing::debug!(store.mark = %mark, "no answer about a commit in time"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn ask(&self, mark: Mark) -> Result<bool, tokio_postgres::Error> {
        mark.is_committed(&session::for_writer(&self.address, &self.promise).await?).await
    }
}
