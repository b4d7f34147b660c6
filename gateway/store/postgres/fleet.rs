//! Leases and ownership in PostgreSQL: the table `gateway`, a row for each incarnation.
//!
//! Whoever adopts locks the table in EXCLUSIVE mode; the commit of an attempt holds it in ROW SHARE mode until its end
//! (`store/postgres/writer.rs`). So an attempt either was committed before the takeover, and is left alone until its
//! deadline, or finds another owner and is refused.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use deadpool_postgres::Transaction;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{Postgres, rows};
use crate::clock::{self, Uptime};
use crate::store::StoreError;
use crate::store::fleet::{Heartbeat, Joined, LEASE, Member, Newcomer, lease_from};

/// Living gateways: name, and whether its gate is its own alone.
const LIVING: &str =
    "SELECT name, gate FROM gateway WHERE owner = token AND until > clock_timestamp() ORDER BY started_at";
const ANY_LIVING: &str =
    "SELECT token FROM gateway WHERE owner = token AND until > clock_timestamp() ORDER BY random() LIMIT 1";
const ENTER: &str = "INSERT INTO gateway (token, name, gate, until, owner)
     VALUES ($1, $2, $3, clock_timestamp() + $4 * interval '1 ms', $1)";
const RENEW: &str = "UPDATE gateway SET until = clock_timestamp() + $2 * interval '1 ms', network = $3
     WHERE token = $1 AND owner = $1 AND until > '-infinity'";
const IN_FORCE: &str = "UPDATE gateway SET network = $2 WHERE token = $1";
const IN_FORCE_AT: &str = "SELECT count(*) FILTER (WHERE network >= $1), count(*) FROM gateway
     WHERE owner = token AND until > clock_timestamp()";
/// Those whose owner has no lease any more, or was forgotten.
const ADOPT: &str = "UPDATE gateway SET owner = $1 WHERE owner <> $1 AND NOT EXISTS (
     SELECT 1 FROM gateway other WHERE other.token = gateway.owner AND other.until > clock_timestamp())";
/// Everybody: token, mine, living, orphaned.
const EVERYBODY: &str = "SELECT token, owner = $1, owner = token AND until > clock_timestamp(),
            owner <> $1 AND NOT EXISTS (
                SELECT 1 FROM gateway other WHERE other.token = gateway.owner AND other.until > clock_timestamp())
     FROM gateway ORDER BY started_at";
/// For good: a heartbeat that is still on its way finds nothing to renew.
const LEAVE: &str = "UPDATE gateway SET until = '-infinity' WHERE token = $1";

const ALONE: &str = "memory";
const SHARED: &str = "shared";

impl Postgres {
    pub(in crate::store) async fn join(&self, newcomer: &Newcomer) -> Result<Joined, StoreError> {
        let token = self.fleet.member().token;
        let asked = clock::uptime();
        let mut session = self.vital_session().await?;
        let tx = session.transaction().await?;
        tx.batch_execute("LOCK TABLE gateway IN EXCLUSIVE MODE").await?;
        let living = tx.query(LIVING, &[]).await?;
        if !living.is_empty() && (newcomer.alone || living.iter().any(|row| row.get::<_, &str>(1) == ALONE)) {
            return Ok(Joined::Taken(living.iter().map(|row| row.get(0)).collect()));
        }
        enter(&tx, token, newcomer).await?;
        // Nothing is adopted yet: after an outage of the database those who live must have the time to say so.
        let everybody = tx.query(EVERYBODY, &[&token]).await?;
        tx.commit().await?;
        self.fleet.joined_as.store(Some(Arc::new(newcomer.clone())));
        self.fleet.set(member(token, &everybody, asked));
        Ok(Joined::Member)
    }

    pub(in crate::store) async fn attend(&self, name: &str) -> Result<bool, StoreError> {
        let session = self.vital_session().await?;
        let living = session.query_opt(ANY_LIVING, &[]).await?;
        let own = self.fleet.member();
        if let Some(row) = &living {
            self.fleet.set(Member { token: row.get(0), ..(*own).clone() });
        } else {
            // Without a lease from the beginning: whoever starts next has it.
            let none = 0.0;
            let values: [&(dyn ToSql + Sync); 4] = [&own.token, &name, &SHARED, &none];
            session.execute(ENTER, &values).await?;
        }
        Ok(living.is_some())
    }

    pub(in crate::store) async fn heartbeat(&self, adopt: bool) -> Result<Heartbeat, StoreError> {
        let before = self.fleet.member();
        let asked = clock::uptime();
        // After an outage of the database every lease has ended, and whoever comes first must not take all.
        let lapsed = before.until.is_none_or(|until| until <= asked);
        let mut session = self.vital_session().await?;
        if session.execute(RENEW, &[&before.token, &millis(), &self.network()]).await? == 0 {
            drop(session);
            return self.be_reborn().await;
        }
        let everybody = session.query(EVERYBODY, &[&before.token]).await?;
        // What was renewed holds, whatever becomes of the rest.
        let mut now = member(before.token, &everybody, asked);
        self.fleet.set(now.clone());
        if adopt && !lapsed && everybody.iter().any(|row| row.get(3)) {
            let tx = session.transaction().await?;
            tx.batch_execute("LOCK TABLE gateway IN EXCLUSIVE MODE").await?;
            tx.execute(ADOPT, &[&before.token]).await?;
            let everybody = tx.query(EVERYBODY, &[&before.token]).await?;
            tx.commit().await?;
            now = member(before.token, &everybody, asked);
        }
        let adopted = now.owned.iter().filter(|token| !before.owned.contains(token)).count();
        self.fleet.set(now);
        Ok(Heartbeat { adopted, reborn: false })
    }

    /// Another gateway took this one for dead, and has what it had. What is made from now on has a new token.
    async fn be_reborn(&self) -> Result<Heartbeat, StoreError> {
        let Some(newcomer) = self.fleet.joined_as.load_full() else { return Ok(Heartbeat::default()) };
        let token = clock::random_uuid();
        let asked = clock::uptime();
        let mut session = self.vital_session().await?;
        let tx = session.transaction().await?;
        tx.batch_execute("LOCK TABLE gateway IN EXCLUSIVE MODE").await?;
        let living = tx.query(LIVING, &[]).await?;
        if !living.is_empty() && (newcomer.alone || living.iter().any(|row| row.get::<_, &str>(1) == ALONE)) {
            return Err(StoreError::Failed(
                "another gateway has taken this store over, and gates of their own do not go together; stop one of them"
                    .to_owned(),
            ));
        }
        enter(&tx, token, &newcomer).await?;
        let everybody = tx.query(EVERYBODY, &[&token]).await?;
        tx.commit().await?;
        self.fleet.set(member(token, &everybody, asked));
        Ok(Heartbeat { adopted: 0, reborn: true })
    }

    pub(in crate::store) async fn in_force(&self, network: u64) -> Result<(), StoreError> {
        self.fleet.network.store(network, Ordering::Relaxed);
        let token = self.fleet.member().token;
        self.vital_session().await?.execute(IN_FORCE, &[&token, &self.network()]).await?;
        Ok(())
    }

    pub(in crate::store) async fn in_force_at(&self, network: u64) -> Result<(u64, u64), StoreError> {
        let wanted = i64::try_from(network).unwrap_or(i64::MAX);
        let row = self.vital_session().await?.query_one(IN_FORCE_AT, &[&wanted]).await?;
        Ok((rows::count(&row, 0)?, rows::count(&row, 1)?))
    }

    fn network(&self) -> i64 {
        i64::try_from(self.fleet.network.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
    }

    pub(in crate::store) async fn leave(&self) -> Result<(), StoreError> {
        // A command works under another's token, and has no lease to give up.
        if self.fleet.joined_as.load().is_some() {
            let token = self.fleet.member().token;
            self.vital_session().await?.execute(LEAVE, &[&token]).await?;
        }
        Ok(())
    }
}

async fn enter(tx: &Transaction<'_>, token: Uuid, newcomer: &Newcomer) -> Result<(), StoreError> {
    let gate = if newcomer.alone { ALONE } else { SHARED };
    let values: [&(dyn ToSql + Sync); 4] = [&token, &newcomer.name, &gate, &millis()];
    tx.execute(ENTER, &values).await?;
    Ok(())
}

/// What the rows of [`EVERYBODY`] make of the incarnation `token`, which asked for its lease at `asked`.
fn member(token: Uuid, everybody: &[tokio_postgres::Row], asked: Uptime) -> Member {
    let mine = everybody.iter().filter(|row| row.get(1)).map(|row| row.get(0)).filter(|other| *other != token);
    Member {
        token,
        owned: std::iter::once(token).chain(mine).collect(),
        until: Some(lease_from(asked)),
        live: everybody.iter().filter(|row| row.get(2)).count(),
    }
}

fn millis() -> f64 {
    LEASE.as_secs_f64() * 1000.0
}
