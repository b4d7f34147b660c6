//! Sessions: what every one of them is set to, and what the server must promise before it gets a single lead.

use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::Client;

use super::address::{Address, CONNECT_WITHIN};
use super::describe;
use crate::store::StoreError;

/// The oldest server that has what is asked of it (`pg_current_xact_id`).
const OLDEST: i32 = 130_000;
/// How long a read waits for a session.
const SESSION_WITHIN: Duration = Duration::from_secs(5);

/// Applies to every session. PostgreSQL settles on the plan of a prepared statement early, and in a young store, while a table
/// is a page or two, that would be to read the whole of it, for hours: all that the flow asks has an index.
///
/// A gateway that stops in the middle of a transaction holds nobody up for longer than this, and
/// nobody waits longer than this for it.
const EVERY_SESSION: &str = "SET idle_in_transaction_session_timeout = '2s'; SET lock_timeout = '3s';
    SET timezone = 'UTC'; SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off;
    SET client_encoding = 'UTF8'; SET standard_conforming_strings = on; SET enable_seqscan = off; SET jit = off";
/// A page of a search, a refill of a queue, a bite of retention.
const READER: &str = "SET statement_timeout = '30s'";
/// A step of a commit. Who queues behind it waits two seconds at most: it steps over what somebody holds before that. Its
/// statements look a few rows up by their keys, always: they are planned once.
const WRITER: &str = "SET statement_timeout = '5s'; SET lock_timeout = '1s'; SET plan_cache_mode = force_generic_plan;
    SET enable_hashjoin = off; SET enable_mergejoin = off";
/// Another gateway may be at it, and an index over many rows takes its time.
const SETUP: &str = "SET statement_timeout = 0; SET lock_timeout = '10min'";

/// What `synchronous_commit` was when it was checked: each session is pinned to it, so that no later change of the server's
/// settings makes a commit less than durable.
#[derive(Clone)]
pub(super) struct Promise(String);

/// A first session, for the schema; and what the server promises.
pub(super) async fn check(address: &Address) -> Result<(Client, Promise), StoreError> {
    let client = address.connect().await.map_err(|error| {
        address.refused(format!(
            "{}; check that the server runs, and the URL's host, user, password and database",
            describe(&error)
        ))
    })?;
    let asked = client
        .query_one(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
                    current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
                    current_setting('fsync'), current_setting('server_encoding'), current_setting('full_page_writes')",
            &[],
        )
        .await;
    let row = asked.map_err(|error| address.refused(describe(&error)))?;
    let synchronous_commit: String = row.get(2);
    let unfit = unfit(
        (row.get(0), row.get(1)),
        (&synchronous_commit, row.get::<_, &str>(3)),
        (row.get::<_, &str>(4), row.get::<_, &str>(6)),
        row.get::<_, &str>(5),
    );
    if let Some(why) = unfit {
        return Err(address.refused(why));
    }
    let promise = Promise(synchronous_commit);
    prepare(&client, &promise, SETUP).await.map_err(|error| address.refused(describe(&error)))?;
    Ok((client, promise))
}

/// Why the server cannot be trusted with leads.
fn unfit(
    (version, shown): (i32, &str),
    (synchronous_commit, standbys): (&str, &str),
    (fsync, full_page_writes): (&str, &str),
    encoding: &str,
) -> Option<String> {
    if version < OLDEST {
        return Some(format!("it is PostgreSQL {shown}; version 13 or newer is needed"));
    }
    if fsync != "on" {
        return Some("it has `fsync = off`, with which a power failure loses leads; set `fsync = on`".to_owned());
    }
    if full_page_writes != "on" {
        return Some(
            "it has `full_page_writes = off`, with which a power failure can tear a page and lose leads; set \
             `full_page_writes = on`"
                .to_owned(),
        );
    }
    if synchronous_commit == "off" {
        return Some(
            "it has `synchronous_commit = off`, with which a crash loses leads that were promised; set it to `on`, for \
             the gateway's user at least: ALTER ROLE … SET synchronous_commit = on"
                .to_owned(),
        );
    }
    if synchronous_commit == "local" && !standbys.is_empty() {
        return Some(
            "it has synchronous standbys, but `synchronous_commit = local` does not wait for them, and a failover would \
             lose leads that were promised; set it to `on`, for the gateway's user at least: ALTER ROLE … SET \
             synchronous_commit = on"
                .to_owned(),
        );
    }
    (encoding != "UTF8").then(|| format!("it is encoded in {encoding}; make a database with ENCODING 'UTF8'"))
}

/// A session of the writer's own.
pub(super) async fn for_writer(address: &Address, promise: &Promise) -> Result<Client, tokio_postgres::Error> {
    let client = address.connect().await?;
    prepare(&client, promise, WRITER).await?;
    Ok(client)
}

async fn prepare(client: &Client, promise: &Promise, own: &str) -> Result<(), tokio_postgres::Error> {
    // A word of PostgreSQL's own, as the server said it.
    client.batch_execute(&format!("{EVERY_SESSION}; {own}; SET synchronous_commit = '{}'", promise.0)).await
}

/// Sessions for reads and rare writes, made when they are needed.
pub(super) fn pool(address: &Address, promise: &Promise, size: usize) -> Result<Pool, String> {
    let manager = Manager::from_config(
        address.config.clone(),
        address.tls.clone(),
        // One that the server closed says so by itself.
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    let promise = promise.clone();
    Pool::builder(manager)
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(SESSION_WITHIN))
        .create_timeout(Some(CONNECT_WITHIN))
        .recycle_timeout(Some(CONNECT_WITHIN))
        .post_create(Hook::async_fn(move |session, _| {
            let promise = promise.clone();
            Box::pin(async move { prepare(session, &promise, READER).await.map_err(HookError::Backend) })
        }))
        .build()
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::unfit;

    #[test]
    fn a_server_that_may_lose_a_commit_is_refused() {
        let server = |commit, standbys, fsync| unfit((150_000, "15.0"), (commit, standbys), (fsync, "on"), "UTF8");
        for (commit, standbys) in [("on", ""), ("on", "a"), ("local", ""), ("remote_write", "a"), ("remote_apply", "a")]
        {
            assert_eq!(server(commit, standbys, "on"), None, "{commit}");
        }
        for (commit, standbys) in [("off", ""), ("local", "a")] {
            assert!(server(commit, standbys, "on").is_some_and(|why| why.contains("synchronous_commit")), "{commit}");
        }
        assert!(server("on", "", "off").is_some_and(|why| why.contains("fsync")));
        let on = ("on", "on");
        assert!(unfit((120_005, "12.5"), ("on", ""), on, "UTF8").is_some_and(|why| why.contains("12.5")));
        assert!(unfit((150_000, "15.0"), ("on", ""), on, "LATIN1").is_some_and(|why| why.contains("UTF8")));
        let torn = unfit((150_000, "15.0"), ("on", ""), ("on", "off"), "UTF8");
        assert!(torn.is_some_and(|why| why.contains("full_page_writes")));
    }
}
