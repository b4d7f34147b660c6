//! A change by staff whose commit was not answered: it is asked what became of it, and said so.

use std::time::Duration;

use lead_gateway::clock;
use lead_gateway::store::{ConnectOptions, Kind, PausedKind, ResourceChange, Store, StoreError, TokenRecord};

use super::suite::{Case, audit};
use crate::servers::postgres::Postgres;

/// Ends the session whose commit waits for a standby that there is not: it is durable by then, and nobody was told.
async fn end_the_waiting(server: &Postgres) {
    let began = clock::instant();
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    while server.psql(&server.url(), end) == "0" {
        assert!(began.elapsed() < Duration::from_secs(30), "no commit waits");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What is told of a change whose commit loses its answer.
async fn unanswered<T: Send + 'static>(
    server: &Postgres,
    change: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    let told = tokio::spawn(change);
    end_the_waiting(server).await;
    told.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_commit_is_not_answered_is_told_as_it_was() {
    let server = Postgres::start();
    let url = server.database();
    let store = Store::connect(&url, &ConnectOptions::default()).await.unwrap();
    let own = store.clone();
    let case = Case::new(Box::new(move || own.clone()));
    let now = case.now();
    server.psql(&server.url(), "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    server.psql(&server.url(), "SELECT pg_reload_conf()");

    let changes =
        vec![ResourceChange { kind: Kind::Partner, id: "a".to_owned(), from: None, document: Some("1".to_owned()) }];
    let own = store.clone();
    let applied = unanswered(&server, async move { own.apply(changes, "sam".to_owned(), now).await }).await;
    assert!(applied.unwrap());
    assert_eq!(store.resources().await.unwrap().len(), 1);

    let own = store.clone();
    let pause =
        async move { own.set_paused(PausedKind::Partner, "a".to_owned(), true, now, audit("pause", None)).await };
    unanswered(&server, pause).await.unwrap();
    assert_eq!(store.paused().await.unwrap(), [(PausedKind::Partner, "a".to_owned())]);

    let token = TokenRecord { name: "sam".to_owned(), hash: [9; 32], role: "viewer".to_owned() };
    let own = store.clone();
    assert!(unanswered(&server, async move { own.add_token(token, now, audit("token", None)).await }).await.unwrap());
    assert_eq!(store.tokens().await.unwrap().len(), 1);
}
