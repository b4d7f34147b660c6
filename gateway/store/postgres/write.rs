//! The rare writes of people and housekeeping: a transaction of its own, and an outcome that is never guessed.

use std::time::Duration;

use deadpool_postgres::{Object, Transaction};

use super::{Postgres, rows};
use crate::clock;
use crate::store::StoreError;

/// How long it is asked what became of a commit whose answer was lost.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);
/// How long to wait between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A transaction that knows its number. Dropped without [`Write::commit`], it is rolled back.
pub(super) struct Write<'a> {
    pub(super) tx: Transaction<'a>,
    number: String,
}

impl<'a> Write<'a> {
    pub(super) async fn begin(session: &'a mut Object) -> Result<Self, StoreError> {
        let tx = session.transaction().await?;
        let statement = tx.prepare_cached("SELECT pg_current_xact_id()::text").await?;
        let number = tx.query_one(&statement, &[]).await?.try_get(0)?;
        Ok(Self { tx, number })
    }

    /// Commits. Where the answer is lost, another session asks what became of it.
    ///
    /// # Errors
    /// When nothing of it was done; or, as its message says, when that cannot be found out.
    pub(super) async fn commit(self, db: &Postgres) -> Result<(), StoreError> {
        let Self { tx, number } = self;
        match tx.commit().await {
            Ok(()) => Ok(()),
            Err(error) => match settle(db, &number).await {
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
async fn settle(db: &Postgres, number: &str) -> Option<bool> {
    let began = clock::instant();
    loop {
        // Its own session may not have noticed yet that nobody listens: then it is still in progress.
        if let Ok(Some(committed)) = ask(db, number).await {
            return Some(committed);
        }
        if began.elapsed() > SETTLE_WITHIN {
            return None;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn ask(db: &Postgres, number: &str) -> Result<Option<bool>, StoreError> {
    let session = db.session().await?;
    let row = rows::query_opt(&session, "SELECT pg_xact_status($1::text::xid8)", &[&number]).await?;
    let status: Option<String> = row.map(|row| row.try_get(0)).transpose()?.flatten();
    Ok(match status.as_deref() {
        Some("committed") => Some(true),
        Some("aborted") => Some(false),
        _ => None,
    })
}
