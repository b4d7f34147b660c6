//! The gate that several gateways share: alone it passes the suite, and with others on one Redis, whatever happens to
//! that Redis, no more is granted than there are places, and no less than is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use lead_gateway::clock::Clock;
use lead_gateway::gate::{Gate, RedisGate, Servers, Settings};

use super::books::{Books, Subject};
use super::{Network, at, network, suite};
use crate::servers::redis::Redis;

/// Long enough that a busy machine breaks no circuit by itself.
const CALM: Duration = Duration::from_secs(20);

fn noon() -> Timestamp {
    at("2026-11-21T12:00:00Z") // a Saturday
}

fn settings(servers: Servers, prefix: &str, call_timeout: Duration) -> Settings {
    Settings {
        servers,
        username: None,
        password: None,
        ca_pem: None,
        prefix: prefix.to_owned(),
        call_timeout,
        reconcile_every: Duration::from_millis(200),
    }
}

async fn open(settings: Settings, books: &Arc<Books>, network: Network) -> Subject {
    let truth = Arc::clone(books);
    let gate = RedisGate::open(settings, truth, Clock::manual(noon())).await.unwrap();
    let gate = Gate::Redis(Box::new(gate));
    gate.install(network, 1).await;
    Subject::new(gate, Arc::clone(books))
}

#[test]
fn the_redis_gate_passes_the_suite() {
    let redis = Redis::start();
    let nth = AtomicUsize::new(0);
    suite::run(async |network| {
        // A gate of its own each, on the same server.
        let prefix = format!("suite{}", nth.fetch_add(1, Ordering::SeqCst));
        let mut settings = settings(Servers::One(redis.url()), &prefix, CALM);
        // The suite's places are granted by no store that could be asked.
        settings.reconcile_every = Duration::from_secs(3600);
        open(settings, &Arc::default(), network).await
    });
}
