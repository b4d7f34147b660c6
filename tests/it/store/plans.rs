//! How much PostgreSQL reads for what the gateway asks, by its own account (auto_explain): what waits, what is looked up and
//! what is forgotten must cost the same however much there is besides.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lead_gateway::clock;
use lead_gateway::model::delivery::DeliveryState;
use lead_gateway::model::id::LeadId;
use lead_gateway::store::{
    ConnectOptions, DeliverySearch, LeadSearch, Newcomer, Page, RefusalSearch, Store, StoreError,
};
use regex::Regex;

use super::suite::Case;
use crate::servers::postgres::Postgres;

/// A store with a history, whose server tells what it reads.
struct History {
    server: Postgres,
    store: Store,
    now: Timestamp,
}

/// Leads and deliveries of the history; of every hundred deliveries three wait, one is sent and one unknown.
const MANY: usize = 20_000;

impl History {
    async fn make() -> Self {
        let server = Postgres::start();
        let url = server.database();
        for setting in ["log_min_duration = 0", "log_analyze = on", "log_timing = off"] {
            server.psql(&url, &format!("ALTER DATABASE test_0 SET auto_explain.{setting}"));
        }
        server.psql(&url, "ALTER DATABASE test_0 SET session_preload_libraries = 'auto_explain'");
        let store = Store::connect(&url, &ConnectOptions::default()).await.unwrap();
        store.join(&Newcomer { name: "test".to_owned(), alone: false }).await.unwrap();
        let now: Timestamp = "2026-11-21T09:30:00Z".parse().unwrap();
        for days in [0, 3, 6] {
            let at = now - SignedDuration::from_hours(days * 24);
            store.tidy(at, Duration::from_hours(24 * 999), Duration::from_hours(24 * 999)).await.unwrap();
        }
        // A lead every 20 s of the last days; a delivery each; all of them looked up under the hash of the first, too.
        let first = store.clone();
        Case::new(Box::new(move || first.clone())).accept_one("all@example.com").await;
        let fill = format!(
            "CREATE TEMP TABLE history AS SELECT n, at,
                 (lpad(to_hex(at / 1000), 12, '0') || '7000a00000000000' || lpad(to_hex(n), 4, '0'))::uuid AS id,
                 to_char(to_timestamp(at / 1000000) AT TIME ZONE 'UTC', 'YYYYMMDD')::int AS day
             FROM (SELECT n, {end} - ({MANY} - n) * 20000000::bigint AS at FROM generate_series(1, {MANY}) n) leads;
             INSERT INTO lead SELECT id, 'solar', 'acme', 'sold', NULL, false, at, 1, NULL, '{{}}', '{{}}', '[]', 'text', '', id
             FROM history;
             INSERT INTO delivery (id, lead, gateway, campaign, source, partner, contract, received_at, state, waits, due_at,
                                   attempt_count, created_at, updated_at)
             SELECT id, id, (SELECT token FROM gateway), 'solar', 'acme', 'p', 'c' || n % 7, at,
                    CASE WHEN n % 100 < 3 THEN 'queued' WHEN n % 100 = 3 THEN 'sending' WHEN n % 100 = 4 THEN 'unknown'
                         ELSE 'accepted' END, false, CASE WHEN n % 100 = 0 THEN at END, 1, at, at
             FROM history;
             INSERT INTO attempt (delivery, number, gateway, started_at, send_before, deadline, exchange_day)
             SELECT id, 1, '00000000-0000-0000-0000-000000000000', at, at, at, day FROM history;
             INSERT INTO exchange SELECT day, id, 1, 0, '{{}}', '', false, NULL, NULL, false FROM history;
             INSERT INTO found_by SELECT day, id, hashes || lpad(to_hex(n), 32, '0')::uuid FROM history,
                 (SELECT hashes FROM found_by) AS of_all;
             INSERT INTO refusal SELECT day, id, 'acme', 'solar', at, '', '', false, 422, '' FROM history;
             ANALYZE",
            end = now.as_microsecond(),
        );
        server.psql(&url, &fill);
        Self { server, store, now }
    }

    /// Rows read of each table by the statements that have `marker` in them, in the last of several rounds: by then
    /// PostgreSQL may have settled on a plan for whatever it is asked.
    async fn reads<T>(
        &self,
        marker: &str,
        ask: impl AsyncFn() -> Result<T, StoreError>,
    ) -> (T, BTreeMap<String, usize>) {
        for _ in 0..7 {
            ask().await.unwrap();
        }
        // What has been told by then belongs to these.
        let before = self.told(marker, 7).await.len();
        let answer = ask().await.unwrap();
        let told = self.told(marker, 8).await.split_off(before);
        (answer, rows_read(&told))
    }

    /// What the server has told about statements with `marker` in them, once there are so many.
    async fn told(&self, marker: &str, at_least: usize) -> Vec<String> {
        let began = clock::instant();
        loop {
            let log = self.server.log();
            let told: Vec<String> =
                log.split("duration: ").skip(1).filter(|one| one.contains(marker)).map(str::to_owned).collect();
            if told.len() >= at_least {
                return told;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "nothing was told about {marker}: {log}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn rows_read(plans: &[String]) -> BTreeMap<String, usize> {
    let scan =
        Regex::new(r"(?:Seq|Index|Index Only|Bitmap Heap) Scan.* on (\w+).*\(actual rows=([0-9.]+) loops=(\d+)\)")
            .unwrap();
    let removed = Regex::new(r"Rows Removed by (?:Filter|Index Recheck): (\d+)").unwrap();
    let mut reads: BTreeMap<String, usize> = BTreeMap::new();
    for line in plans.iter().flat_map(|plan| plan.lines()) {
        if let Some(found) = scan.captures(line) {
            // Partitions are parts of their parent.
            let table = found[1].split('_').next().unwrap().to_owned();
            let loops: usize = found[3].parse().unwrap();
            let rows: f64 = found[2].parse().unwrap();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let rows = rows.ceil() as usize;
            *reads.entry(table).or_default() += rows * loops;
        } else if let Some(found) = removed.captures(line) {
            *reads.entry("removed".to_owned()).or_default() += found[1].parse::<usize>().unwrap();
        }
    }
    assert!(!reads.is_empty(), "no plan says what it reads: {plans:?}");
    reads
}

/// Nothing is read of other tables, and no more than so much of each of these.
#[track_caller]
fn at_most(reads: &BTreeMap<String, usize>, allowed: &[(&str, usize)]) {
    for (table, rows) in reads {
        let most = allowed.iter().find(|(name, _)| name == table).map_or(0, |(_, most)| *most);
        assert!(*rows <= most, "{rows} rows of {table} were read: {reads:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_queue_costs_what_is_on_it_and_no_more() {
    let history = History::make().await;
    let (store, now) = (&history.store, history.now);
    let contract = || "c3".parse().unwrap();

    let (page, reads) =
        history.reads("received_at, id) > ($3, $4)", || store.ready_page(contract(), None, now, 20)).await;
    assert_eq!(page.len(), 20);
    at_most(&reads, &[("delivery", 20)]);
    let after = page.last().map(|queued| (queued.received_at, queued.id));
    let (page, reads) =
        history.reads("received_at, id) > ($3, $4)", || store.ready_page(contract(), after, now, 20)).await;
    assert_eq!(page.len(), 20);
    at_most(&reads, &[("delivery", 20)]);

    let (page, reads) = history.reads("due_at, id) > ($3, $4)", || store.due_page(contract(), None, 10)).await;
    assert_eq!(page.len(), 10);
    at_most(&reads, &[("delivery", 10)]);

    let (page, reads) = history.reads("state = 'sending' AND id > ", || store.open_attempts(None, 10, now)).await;
    assert_eq!(page.len(), 10);
    at_most(&reads, &[("delivery", 10), ("attempt", 10)]);

    let (contracts, reads) = history.reads("WITH RECURSIVE", || store.contracts_with_queue()).await;
    assert_eq!(contracts.len(), 8, "the seven of the history, and that of the first lead");
    at_most(&reads, &[("delivery", 10), ("removed", 10)]);

    // What is counted is read, from the index of those alone.
    let (length, reads) =
        history.reads("AND gateway = ANY($1) AND contract = $2", || store.queue_length(contract())).await;
    assert!(length > 50);
    at_most(&reads, &[("delivery", usize::try_from(length).unwrap())]);
    let (unknown, reads) =
        history.reads("count(*) FROM delivery WHERE state = 'unknown'", || store.unknown_count()).await;
    assert_eq!(unknown, 200);
    at_most(&reads, &[("delivery", 200)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_staff_look_for_is_read_from_indexes_newest_first() {
    let history = History::make().await;
    let (store, now) = (&history.store, history.now);

    let (page, reads) = history
        .reads("FROM lead ORDER BY id DESC", || store.find_leads(LeadSearch { limit: 20, ..LeadSearch::default() }))
        .await;
    assert_eq!(page.items.len(), 20);
    at_most(&reads, &[("lead", 21)]);
    let id: LeadId = page.items[7].lead.id;

    let (_, reads) = history.reads("WHERE lead = ANY($1)", || store.standings(id)).await;
    at_most(&reads, &[("delivery", 1)]);
    let (found, reads) =
        history.reads("FROM exchange", || store.attempts(lead_gateway::model::id::DeliveryId(id.0))).await;
    assert!(found[0].exchange.is_some());
    at_most(&reads, &[("exchange", 1)]);

    let unknown =
        || DeliverySearch { state: Some(DeliveryState::Unknown), limit: 20, now, ..DeliverySearch::default() };
    let (page, reads) = history.reads("state = 'unknown' ORDER BY", || store.find_deliveries(unknown())).await;
    assert_eq!(page.items.len(), 20);
    at_most(&reads, &[("delivery", 21)]);

    let (page, reads): (Page<_>, _) = history
        .reads("FROM refusal", || store.find_refusals(RefusalSearch { limit: 20, ..RefusalSearch::default() }))
        .await;
    assert_eq!(page.items.len(), 20);
    // One of each day, to begin with.
    at_most(&reads, &[("refusal", 21 + 9)]);
    let request = page.items[3].request_id;
    let one = || RefusalSearch { request_id: Some(request), limit: 20, ..RefusalSearch::default() };
    let (_, reads) = history.reads("FROM refusal WHERE id = ", || store.find_refusals(one())).await;
    at_most(&reads, &[("refusal", 1)]);

    // By e-mail address, which nobody has; and under a hash that all have in common.
    let by_email = |email: &str| LeadSearch {
        lookups: vec![("email", vec![email.to_owned()])],
        limit: 20,
        ..LeadSearch::default()
    };
    let (page, reads) = history.reads("FROM found_by", || store.find_leads(by_email("nobody@example.com"))).await;
    assert_eq!(page.items.len(), 0);
    at_most(&reads, &[]);
    let (page, reads) = history.reads("FROM found_by", || store.find_leads(by_email("all@example.com"))).await;
    assert_eq!(page.items.len(), 20);
    // Each in the index, and in the table.
    at_most(&reads, &[("found", 2 * (MANY + 1))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn forgetting_reads_what_is_old_and_its_deliveries_alone() {
    let history = History::make().await;
    // Half a day of the oldest: about 2,000 leads, of which the unfinished stay.
    let age = SignedDuration::from_secs(20 * i64::try_from(MANY - 2_000).unwrap());
    let leads = Duration::try_from(age).unwrap();
    let forgotten = history.store.tidy(history.now, Duration::from_hours(24 * 999), leads).await.unwrap();
    assert!((1_850..=1_950).contains(&forgotten.leads), "{forgotten:?}");
    let told = history.told("NOT EXISTS (SELECT 1 FROM delivery", 4).await;
    let bites = told.iter().filter(|plan| plan.contains("FROM lead WHERE received_at")).cloned().collect::<Vec<_>>();
    let reads = rows_read(&bites[..1]);
    at_most(&reads, &[("lead", 600), ("delivery", 600), ("removed", 600)]);
}
