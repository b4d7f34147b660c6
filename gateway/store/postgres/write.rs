//! The rare writes of people and housekeeping: a transaction of its own, and an outcome that is never guessed.

use std::time::Duration;

use deadpool_postgres::{Object, Transaction};

use super::Postgres;
use super::mark::{self, Mark};
use crate::clock;
use crate::store::StoreError;

/// How long it is asked what became of a commit whose answer was lost.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);
/// How long to wait between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A transaction that leaves a mark. Dropped without [`Write::commit`], it is rolled back.
pub(super) struct Write<'a> {
    pub(super) tx: Transaction<'a>,
}

impl<'a> Write<'a> {
    pub(super) async fn begin(session: &'a mut Object) -> Result<Self, StoreError> {
        Ok(Self { tx: session.transaction().await? })
    }

    /// Commits. Where the answer is lost, another session asks what became of it.
    ///
    /// # Errors
    /// When nothing of it was done; or, as its message says, when that cannot be found out.
    pub(super) async fn commit(self, db: &Postgres) -> Result<(), StoreError> {
        let mark = Mark::alone();
        let leave = self.tx.prepare_cached(mark::LEAVE).await?;
        self.tx.execute(&leave, &[&mark.link, &mark.mark]).await?;
        match self.tx.commit().await {
            Ok(()) => Ok(()),
            Err(error) => match settle(db, mark).await {
                Some(true) => Ok(()),
                Some(false) => Err(error.into()),
                None => Err(StoreError::Failed(
                    "the connection was lost during a commit, and the database does not say what became of it; look before \
                     you do it again"
                        .to_owned(),
                )),
            },
        }
    }
}

/// Whether a transaction was committed; `None` when it cannot be found out in time.
async fn settle(db: &Postgres, mark: Mark) -> Option<bool> {
    let began = clock::instant();
    loop {
        // Its own session may not have noticed yet that nobody listens, and holds the mark.
        if let Ok(committed) = ask(db, mark).await {
            return Some(committed);
        }
        if began.elapsed() > SETTLE_WITHIN {
            return None;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn ask(db: &Postgres, mark: Mark) -> Result<bool, StoreError> {
    let session = db.session().await?;
    Ok(mark.is_committed(&session).await?)
}
