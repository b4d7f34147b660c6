//! Partners that read what they are sent and decide on it: one server for a whole network, a path for each contract.
//! A test says how they reply, may keep them from replying, and sees who was sent what, in order.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use jiff::Timestamp;
use lead_gateway::app::apply::Flags;
use lead_gateway::directory::files;
use lead_gateway::model::limit::PlaceKey;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::{Answer, Gateway, JsonBody as _, KEY, World, text_at};

/// One lead, sent to one contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    pub contract: String,
    pub email: String,
    /// How often this contract was sent this lead before.
    pub before: usize,
}

/// What a partner says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Yes,
    No,
    Known,
    /// 503: surely not taken, and a sign of trouble to the breaker.
    Busy,
    /// 429: surely not taken.
    Later,
    /// 500: nobody can say.
    Broken,
}

/// The server.
pub struct Desk {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: tokio::task::AbortHandle,
}

struct Shared {
    reply: Box<dyn Fn(&Visit) -> Reply + Send + Sync>,
    visits: watch::Sender<Vec<Visit>>,
    /// Contracts that do not reply yet.
    silent: watch::Sender<HashSet<String>>,
    /// Leads that somebody has open now, and how many had one open at once.
    open: Mutex<BTreeMap<String, (usize, usize)>>,
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Desk {
    /// Partners that take everything.
    pub async fn willing() -> Self {
        Self::start(|_| Reply::Yes).await
    }

    pub async fn start(reply: impl Fn(&Visit) -> Reply + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            reply: Box::new(reply),
            visits: watch::Sender::new(Vec::new()),
            silent: watch::Sender::new(HashSet::new()),
            open: Mutex::default(),
        });
        let router = Router::new().route("/{contract}", axum::routing::post(visit)).with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }).abort_handle();
        Self { address, shared, server }
    }

    /// The contract `id` of `partner`, with more keys for it and its endpoint.
    pub fn contract(&self, id: &str, partner: &str, contract: &str, endpoint: &str) -> String {
        format!(
            r#"
[[contract]]
id = "{id}"
partner = "{partner}"
campaign = "solar"
price = "31.00"
{contract}
[contract.endpoint]
method = "json"
url = "http://{}/{id}"
template = "lead.json.hbs"
{endpoint}
[contract.endpoint.response]
accepted = {{ json = "$.says", equals = "yes" }}
rejected = {{ json = "$.says", equals = "no" }}
duplicate = {{ json = "$.says", equals = "known" }}
reason = {{ json = "$.why" }}
"#,
            self.address
        )
    }

    /// A partner in London, and its one contract of the same name.
    pub fn buyer(&self, id: &str, of_partner: &str, contract: &str) -> String {
        self.buyer_with(id, of_partner, contract, "")
    }

    pub fn buyer_with(&self, id: &str, of_partner: &str, contract: &str, endpoint: &str) -> String {
        let zone = if of_partner.contains("timezone") { "" } else { "timezone = \"Europe/London\"" };
        partner(id, &format!("{zone}\n{of_partner}")) + &self.contract(id, id, contract, endpoint)
    }

    /// From now on these reply only when they are released.
    pub fn silence(&self, contracts: &[&str]) {
        self.shared.silent.send_modify(|silent| silent.extend(contracts.iter().map(ToString::to_string)));
    }

    pub fn release(&self, contracts: &[&str]) {
        self.shared.silent.send_modify(|silent| silent.retain(|one| !contracts.contains(&one.as_str())));
    }

    /// Everything so far, in order.
    pub fn visits(&self) -> Vec<Visit> {
        self.shared.visits.borrow().clone()
    }

    /// The leads that this contract was sent, in order.
    pub fn sent_to(&self, contract: &str) -> Vec<String> {
        self.visits().into_iter().filter(|visit| visit.contract == contract).map(|visit| visit.email).collect()
    }

    /// How many each contract was sent.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for visit in self.visits() {
            *counts.entry(visit.contract).or_default() += 1;
        }
        counts
    }

    /// The most partners that had one lead open at the same time.
    pub fn most_at_once(&self) -> usize {
        self.shared.open.lock().unwrap().values().map(|(_, most)| *most).max().unwrap_or(0)
    }

    /// Returns when so many leads have been sent.
    pub async fn wait_for(&self, visits: usize) {
        let mut seen = self.shared.visits.subscribe();
        let waited = tokio::time::timeout(Duration::from_secs(20), seen.wait_for(|seen| seen.len() >= visits)).await;
        assert!(waited.is_ok(), "{} of {visits} were sent", self.visits().len());
    }
}

async fn visit(State(shared): State<Arc<Shared>>, Path(contract): Path<String>, body: bytes::Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let email = text_at(&body, "/email");
    let mut visit = Visit { contract, email, before: 0 };
    shared.visits.send_modify(|visits| {
        visit.before =
            visits.iter().filter(|seen| seen.contract == visit.contract && seen.email == visit.email).count();
        visits.push(visit.clone());
    });
    {
        let mut open = shared.open.lock().unwrap();
        let (now, most) = open.entry(visit.email.clone()).or_default();
        *now += 1;
        *most = (*most).max(*now);
    }
    let _ = shared.silent.subscribe().wait_for(|silent| !silent.contains(&visit.contract)).await;
    shared.open.lock().unwrap().get_mut(&visit.email).unwrap().0 -= 1;
    match (shared.reply)(&visit) {
        Reply::Yes => axum::Json(json!({"says": "yes"})).into_response(),
        Reply::No => axum::Json(json!({"says": "no", "why": "not for us"})).into_response(),
        Reply::Known => axum::Json(json!({"says": "known"})).into_response(),
        Reply::Busy => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Reply::Later => StatusCode::TOO_MANY_REQUESTS.into_response(),
        Reply::Broken => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A partner without contracts.
pub fn partner(id: &str, keys: &str) -> String {
    format!("\n[[partner]]\nid = \"{id}\"\nkind = \"buyer\"\n{keys}\n")
}

/// A lead of this number.
pub fn numbered(number: usize) -> Value {
    crate::harness::lead(&format!("n{number}@example.com"))
}

/// The number of the lead with this address.
pub fn number_of(email: &str) -> usize {
    email.trim_start_matches('n').split('@').next().unwrap().parse().unwrap()
}

/// Posts all of them at once; the answers in the same order.
pub async fn post_all(gateway: &Gateway, leads: impl IntoIterator<Item = Value>) -> Vec<Answer> {
    let mut posts = JoinSet::new();
    for (index, lead) in leads.into_iter().enumerate() {
        let request = gateway.client.post(gateway.url("/v1/campaigns/solar/leads")).bearer_auth(KEY).json_body(&lead);
        posts.spawn(async move {
            let response = request.send().await.unwrap();
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            (index, Answer { status, headers, text: response.text().await.unwrap() })
        });
    }
    let mut answers = posts.join_all().await;
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Posts one that must be stored; its id.
pub async fn posted(gateway: &Gateway, lead: &Value) -> String {
    let answer = gateway.post(lead).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    answer.at("/lead_id")
}

/// Waits until no delivery is on its way: each is finished, unknown, held, or to be tried again later.
pub async fn settled(gateway: &Gateway) {
    gateway.eventually("/v1/deliveries?state=sending&limit=500", |page| page["items"] == json!([])).await;
    let at_rest = |item: &Value| !item["held"].is_null() || !item["due_at"].is_null();
    for _ in 0..2 {
        gateway
            .eventually("/v1/deliveries?state=queued&limit=500", |page| {
                page["items"].as_array().unwrap().iter().all(at_rest)
            })
            .await;
        gateway.eventually("/v1/deliveries?state=sending&limit=500", |page| page["items"] == json!([])).await;
    }
}

/// How many deliveries are in this state.
pub async fn in_state(gateway: &Gateway, state: &str) -> usize {
    gateway.get(&format!("/v1/deliveries?state={state}&limit=500")).await["items"].as_array().unwrap().len()
}

/// What is counted is what deliveries own, and the gate believes the same of every limit. With nothing on its way.
pub async fn assert_places_agree(gateway: &Gateway) {
    let pipeline = &gateway.app().pipeline;
    let counted: BTreeMap<PlaceKey, u64> = pipeline
        .store
        .all_places()
        .await
        .unwrap()
        .into_iter()
        .filter(|(key, _)| key.as_str().starts_with("partner/") || key.as_str().starts_with("contract/"))
        .collect();
    let owned: BTreeMap<PlaceKey, u64> = pipeline.store.recount_places().await.unwrap().into_iter().collect();
    assert_eq!(counted, owned, "the counts are not what the deliveries own");
    let now = pipeline.clock.now();
    for entry in pipeline.directory.network().contracts() {
        let left = entry
            .places(now)
            .into_iter()
            .filter_map(|place| Some(place.limit?.saturating_sub(counted.get(&place.key).copied().unwrap_or(0))))
            .min();
        let believed = pipeline.gate.left(&entry.contract.id, now).unwrap();
        assert_eq!(believed, left, "the gate is wrong about {}", entry.contract.id);
    }
}

/// The count under a key, such as `partner/a/d2026-06-15`.
pub async fn count(gateway: &Gateway, key: &str) -> u64 {
    let places = gateway.app().pipeline.store.places(vec![PlaceKey::from_text(key)]).await.unwrap();
    places.first().map_or(0, |(_, used)| *used)
}

/// Puts other buyers into force.
pub async fn apply(world: &World, gateway: &Gateway, buyers: &str) {
    world.write("network/buyers.toml", buyers);
    let set = files::read(&world.path("network"), &world.path("templates")).unwrap();
    let report = gateway.app().apply(set, Flags::default(), "tester").await.unwrap();
    assert!(report.refused.is_empty() && report.applied > 0, "{report:?}");
}

/// Contract and outcome of each candidate of a lead, such as `a rejected`.
pub fn outcomes(lead: &Value) -> Vec<String> {
    let candidates = lead["candidates"].as_array().unwrap();
    candidates.iter().map(|one| format!("{} {}", text_at(one, "/contract"), text_at(one, "/outcome"))).collect()
}

/// Contract and state of each delivery of a lead, such as `a skipped closed`.
pub fn steps(lead: &Value) -> Vec<String> {
    let of = |one: &Value| {
        let (contract, state) = (text_at(one, "/contract"), text_at(one, "/state"));
        match (state.as_str(), one["held"].is_null()) {
            ("skipped", _) => format!("{contract} skipped {}", text_at(one, "/reason")),
            ("queued", false) => format!("{contract} held {}", text_at(one, "/held/reason")),
            _ => format!("{contract} {state}"),
        }
    };
    lead["deliveries"].as_array().unwrap().iter().map(of).collect()
}

/// An instant, shown as the API shows it.
pub fn shown(at: Timestamp) -> String {
    lead_gateway::api::time(at)
}
