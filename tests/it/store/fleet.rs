//! Leases and takeovers, as gateways on one database see them.

use std::time::Duration;

use lead_gateway::clock;
use lead_gateway::store::{ConnectOptions, Joined, Newcomer, Store};

use crate::servers::postgres::Postgres;

fn newcomer(name: &str) -> Newcomer {
    Newcomer { name: name.to_owned(), alone: false }
}

async fn connect(url: &str) -> Store {
    Store::connect(url, &ConnectOptions::default()).await.unwrap()
}

/// As if nothing had been heard of a gateway for longer than its lease.
fn let_lease_end(server: &Postgres, url: &str, name: &str) {
    server.psql(url, &format!("UPDATE gateway SET until = clock_timestamp() - interval '1 s' WHERE name = '{name}'"));
}

#[tokio::test]
async fn a_gateway_that_keeps_its_gate_to_itself_is_alone() {
    let server = Postgres::start();
    let url = server.database();
    let (one, other) = (connect(&url).await, connect(&url).await);
    let alone = |name: &str| Newcomer { alone: true, ..newcomer(name) };
    assert_eq!(one.join(&alone("one")).await.unwrap(), Joined::Member);
    assert_eq!(other.join(&newcomer("other")).await.unwrap(), Joined::Taken(vec!["one".to_owned()]));
    assert_eq!(other.join(&alone("other")).await.unwrap(), Joined::Taken(vec!["one".to_owned()]));
    one.leave().await.unwrap();
    assert_eq!(other.join(&newcomer("other")).await.unwrap(), Joined::Member);
    assert_eq!(one.join(&alone("one again")).await.unwrap(), Joined::Taken(vec!["other".to_owned()]));
}

#[tokio::test]
async fn what_has_no_lease_is_adopted_by_one_and_its_maker_goes_on_under_another_token() {
    let server = Postgres::start();
    let url = server.database();
    let stores = [connect(&url).await, connect(&url).await, connect(&url).await];
    for (store, name) in stores.iter().zip(["a", "b", "c"]) {
        assert!(store.send_before().unwrap() <= clock::uptime(), "nothing is sent before joining");
        assert_eq!(store.join(&newcomer(name)).await.unwrap(), Joined::Member);
        let before = store.send_before().unwrap();
        assert!(before > clock::uptime() && before < clock::uptime().after(Duration::from_secs(10)));
    }
    for store in &stores {
        assert_eq!(store.heartbeat(true).await.unwrap(), lead_gateway::store::Heartbeat::default());
        assert_eq!(store.gateways(), 3);
    }
    let_lease_end(&server, &url, "a");
    let (b, c) = (stores[1].heartbeat(true).await.unwrap(), stores[2].heartbeat(true).await.unwrap());
    assert_eq!((b.adopted, c.adopted), (1, 0), "one takes it, and the other finds it taken");
    assert_eq!(stores[1].gateways(), 2);
    let a = stores[0].heartbeat(true).await.unwrap();
    assert!(a.reborn);
    assert!(!stores[0].heartbeat(true).await.unwrap().reborn, "it goes on under its new token");
    assert_eq!(stores[0].gateways(), 3);
    // What was adopted is adopted again with its owner.
    let_lease_end(&server, &url, "b");
    assert_eq!(stores[2].heartbeat(true).await.unwrap().adopted, 2);
    // One that leaves is taken over at once.
    stores[0].leave().await.unwrap();
    assert_eq!(stores[2].heartbeat(true).await.unwrap().adopted, 1);
}

#[tokio::test]
async fn after_an_outage_nobody_takes_over_before_the_others_could_speak_up() {
    let server = Postgres::start();
    let url = server.database();
    let (one, other) = (connect(&url).await, connect(&url).await);
    one.join(&newcomer("one")).await.unwrap();
    other.join(&newcomer("other")).await.unwrap();
    // Neither could reach the database for longer than its lease.
    for name in ["one", "other"] {
        let_lease_end(&server, &url, name);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(one.heartbeat(true).await.unwrap().adopted, 0, "the other may still come");
    assert!(!other.heartbeat(true).await.unwrap().reborn);
    assert_eq!(one.heartbeat(true).await.unwrap().adopted, 0);
}
