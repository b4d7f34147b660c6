//! What an older version wrote into PostgreSQL.

use jiff::SignedDuration;
use lead_gateway::model::id::LeadId;
use lead_gateway::store::{ConnectOptions, LeadSearch, Newcomer, Store};
use std::time::Duration;

use super::suite::Case;
use crate::servers::postgres::Postgres;

async fn connect(url: &str) -> Store {
    let store = Store::connect(url, &ConnectOptions::default()).await.unwrap();
    store.join(&Newcomer { name: "test".to_owned(), alone: false }).await.unwrap();
    store
}

async fn found(store: &Store, lookups: &[(&'static str, &[&str])]) -> Vec<LeadId> {
    let lookups = lookups.iter().map(|(kind, any)| (*kind, any.iter().map(|&one| one.to_owned()).collect())).collect();
    let search = LeadSearch { lookups, limit: 100, ..LeadSearch::default() };
    let page = store.find_leads(search).await.unwrap();
    page.items.iter().map(|record| record.lead.id).collect()
}

/// As if the first version had written it: a row for each hash.
const AS_BEFORE: &str = "CREATE TABLE lookup_20261121 PARTITION OF lookup FOR VALUES FROM (20261121) TO (20261122);
     INSERT INTO lookup SELECT 20261121, uuid_send(hash), id FROM found_by, unnest(hashes) AS hash;
     DROP TABLE found_by; ALTER TABLE attempt RESET (fillfactor); DELETE FROM migration WHERE version > 1";

#[tokio::test(flavor = "multi_thread")]
async fn what_the_first_version_wrote_to_be_looked_up_is_found_beside_the_new_and_forgotten_in_its_time() {
    let server = Postgres::start();
    let url = server.database();
    let store = connect(&url).await;
    let opened = store.clone();
    let case = Case::new(Box::new(move || opened.clone()));
    let old = case.accept_one("same@example.com").await;
    case.pass(SignedDuration::from_hours(1));
    let other = case.accept_one("other@example.com").await;
    drop((store, case));
    server.psql(&url, AS_BEFORE);

    let store = connect(&url).await;
    let opened = store.clone();
    let case = Case::new(Box::new(move || opened.clone()));
    case.pass(SignedDuration::from_hours(2));
    let new = case.accept_one("same@example.com").await;
    for (looked_up, expected) in [
        (&[("email", &["same@example.com"][..])][..], vec![new, old]),
        (&[("email", &["other@example.com", "same@example.com"])], vec![new, other, old]),
        (&[("email", &["same@example.com"]), ("phone", &["same@example.com"])], vec![]),
        (&[("email", &["same@example.com"]), ("phone", &[])], vec![]),
    ] {
        assert_eq!(found(&store, looked_up).await, expected, "{looked_up:?}");
    }
    assert_eq!(server.psql(&url, "SELECT string_agg(version::text, ',' ORDER BY version) FROM migration"), "1,2");

    let later = case.now() + SignedDuration::from_hours(24 * 40);
    let keep = |days: u64| Duration::from_hours(24 * days);
    store.tidy(later, keep(90), keep(90)).await.unwrap();
    assert_eq!(server.psql(&url, "SELECT count(*) FROM lookup"), "2");
    store.tidy(later, keep(90), keep(30)).await.unwrap();
    assert_eq!(server.psql(&url, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'lookup'::regclass"), "0");
    assert_eq!(found(&store, &[("email", &["same@example.com"])]).await, []);
}
