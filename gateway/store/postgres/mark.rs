//! What became of a commit whose answer was lost.
//!
//! Each transaction leaves a mark in the row of its connection, in the table `committed`. Whoever wants to know reads that
//! row, by a write that waits for a transaction which still holds it, and that lets no later one through: what has not
//! been committed then never will be, though its statements may still lie in a buffer of the server. (The number of a
//! transaction is no such mark: after a crash the server gives numbers out again that it had not written down.)

use std::fmt;

use tokio_postgres::Error;
use uuid::Uuid;

use crate::clock;

macro_rules! leave {
    ($unless:literal) => {
        concat!(
            "INSERT INTO committed AS old (link, mark, settled)
     SELECT $1::uuid, $2::uuid, set_config('statement_timeout', '0', true) <> '0'",
            $unless,
            "
     ON CONFLICT (link) DO UPDATE
     SET mark = excluded.mark, at = now(), settled = 1 / (CASE WHEN old.settled THEN 0 ELSE 1 END) = 0"
        )
    };
}

/// Leaves a mark. Fails, and its transaction with it, once somebody has settled that nothing came of it.
///
/// It lifts the time-out from the COMMIT behind it: one that waits for a standby must not be cancelled, for it would be said
/// to have succeeded.
pub(super) const LEAVE: &str = leave!("");
/// The same, and changes counts of places: by so much each, if with those taken it does not pass its cap, and if so many of
/// which places are taken are still there; fails otherwise. The counts are locked already.
pub(super) const COUNT_AND_LEAVE: &str = concat!(
    "WITH counted AS (
     UPDATE place SET used = used + new.change + 0 / (CASE WHEN used + new.taken <= new.cap THEN 1 ELSE 0 END)
     FROM unnest($3::text[], $4::bigint[], $5::bigint[], $6::bigint[]) AS new (key, change, taken, cap)
     WHERE place.key = new.key RETURNING new.taken
 ) ",
    leave!(" OR 1 / (CASE WHEN (SELECT count(*) FROM counted WHERE taken > 0) = $7::bigint THEN 1 ELSE 0 END) = 0")
);
/// Reads it, for good. It waits for no standby: whoever asks may be asking because there is none, and a server that takes
/// over has none of the old one's transactions.
const SETTLE: &str = "INSERT INTO committed AS old (link, mark, settled)
     SELECT $1::uuid, $2::uuid, set_config('synchronous_commit', 'off', true) = 'off'
     ON CONFLICT (link) DO UPDATE SET settled = true, at = now() RETURNING mark";
/// Those of connections that are long gone.
pub(super) const FORGET: &str = "DELETE FROM committed WHERE at < now() - interval '1 day'";

/// The mark of one transaction on one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    /// Of the connection; every connection has another.
    pub(super) link: Uuid,
    /// Of the transaction.
    pub(super) mark: Uuid,
}

impl Mark {
    /// One for a transaction that is the only one of its kind on its connection.
    pub(super) fn alone() -> Self {
        Self { link: clock::random_uuid(), mark: clock::random_uuid() }
    }

    /// Whether its transaction was committed, by a connection that has nothing else under way. An error says that it cannot
    /// be said yet: ask again.
    pub(super) async fn is_committed(self, client: &tokio_postgres::Client) -> Result<bool, Error> {
        let row = client.query_one(SETTLE, &[&self.link, &Uuid::nil()]).await?;
        Ok(row.try_get::<_, Uuid>(0)? == self.mark)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mark)
    }
}
