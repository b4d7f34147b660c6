//! `gateway demo`: a small trade in leads in one process, against partners that take nothing on trust.
//!
//! [`partners`] are the buyers' systems, as real HTTP servers; [`network`] is the configuration that sells to them;
//! [`leads`] are the people who ask for a quote, each with what must become of them. They are posted over HTTP, as a
//! source would, and what became of them is read over HTTP, as staff would.

mod client;
pub mod leads;
pub mod network;
pub mod partners;
mod result;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::api::access::{Role, Tokens};
use crate::app::App;
use crate::app::control::{TokenRequest, make_token};
use crate::clock::{self, Clock};
use crate::config::Config;
use client::{Answer, Client};
use leads::{DemoLead, LEADS};
use partners::Partners;
use result::LeadResult;

/// How long all is given to become as expected; a healthy demo needs less than two seconds.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs the demo. With `once` it ends after the table, and `Ok(false)` says that an outcome was not the expected one.
pub(super) async fn run(once: bool, json: bool) -> anyhow::Result<bool> {
    let began = clock::instant();
    let demo = Demo::start().await?;
    let results = demo.post_all().await?;
    if json {
        super::print_json(&results.iter().map(LeadResult::to_json).collect::<Vec<_>>())?;
    } else {
        table::show(&results, began.elapsed());
    }
    if !once {
        table::say_what_to_try(&demo.address, &demo.source_key, &demo.token, &results);
        let _ = tokio::signal::ctrl_c().await;
    }
    demo.stop().await?;
    Ok(results.iter().all(LeadResult::is_as_expected))
}

/// Everything of a running demo.
struct Demo {
    address: SocketAddr,
    source_key: String,
    token: String,
    client: Client,
    partners: Partners,
    stop: oneshot::Sender<()>,
    served: JoinHandle<anyhow::Result<()>>,
    /// Goes with everything in it when the demo ends.
    _directory: TempDir,
}

impl Demo {
    async fn start() -> anyhow::Result<Self> {
        let clock = Clock::system();
        let partners =
            Partners::start().await.context("the simulated partners cannot have a port each on 127.0.0.1")?;
        let directory =
            tempfile::tempdir().context("no temporary directory can be made; set TMPDIR to one that is writable")?;
        let source_key = network::new_source_key();
        let config = configure(&directory, &partners, &source_key, &clock)?;
        let listener = TcpListener::bind(config.server.listen).await.context("no port can be had on 127.0.0.1")?;
        let address = listener.local_addr()?;

        let app = Arc::new(App::open(config, clock).await?);
        let store = &app.pipeline.store;
        let request = TokenRequest { name: "demo".to_owned(), role: Role::Admin };
        let token = make_token(store, &request, app.pipeline.clock.now()).await?.context("the store is not new")?;
        app.api.tokens.store(Arc::new(Tokens::new(store.tokens().await?)));
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(Arc::clone(&app).serve(listener, async move {
            let _ = stopped.await;
        }));
        let client = Client::new(address);
        Ok(Self { address, source_key, token, client, partners, stop, served, _directory: directory })
    }

    /// Posts every lead in order, then waits until all is as it must be, or patience ends.
    async fn post_all(&self) -> anyhow::Result<Vec<LeadResult>> {
        self.wait_until_ready().await?;
        let mut posted = Vec::new();
        for lead in LEADS {
            posted.push((lead, self.post(lead).await?));
        }
        let began = clock::instant();
        loop {
            let mut results = Vec::new();
            for (lead, answer) in &posted {
                results.push(LeadResult::new(lead, answer, self.find(answer).await?));
            }
            if results.iter().all(LeadResult::is_as_expected) || began.elapsed() > PATIENCE {
                return Ok(results);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let began = clock::instant();
        while self.client.get("/readyz", None).await?.status != 200 {
            anyhow::ensure!(began.elapsed() < PATIENCE, "the gateway did not become ready");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn post(&self, lead: &DemoLead) -> anyhow::Result<Answer> {
        let path = format!("/v1/campaigns/{}/leads", network::CAMPAIGN);
        let wait = lead.waits.then_some("wait=5");
        self.client.post(&path, &self.source_key, lead.content_type, wait, lead.body).await
    }

    /// The lead as staff see it, with its deliveries' attempts; `None` where the post made none.
    async fn find(&self, answer: &Answer) -> anyhow::Result<Option<Value>> {
        let Some(id) = answer.lead_id() else { return Ok(None) };
        let mut lead = self.client.get(&format!("/v1/leads/{id}"), Some(&self.token)).await?.json()?;
        for delivery in lead.get_mut("deliveries").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(id) = delivery.get("id").and_then(Value::as_str) {
                *delivery = self.client.get(&format!("/v1/deliveries/{id}"), Some(&self.token)).await?.json()?;
            }
        }
        Ok(Some(lead))
    }

    async fn stop(self) -> anyhow::Result<()> {
        let _ = self.stop.send(());
        self.partners.stop().await;
        self.served.await?
    }
}

/// Writes the demo's network into its directory; gives the configuration that uses it.
fn configure(directory: &TempDir, partners: &Partners, source_key: &str, clock: &Clock) -> anyhow::Result<Config> {
    let root = directory.path();
    let mut config = Config::default();
    config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.server.drain_timeout = crate::model::units::Span::seconds(2);
    config.store.url = format!("sqlite:{}", root.join("data").display());
    config.network.dir = root.join("network");
    config.network.templates = root.join("templates");
    config.egress.allow = vec![network::EGRESS_ALLOW.parse()?];
    std::fs::create_dir_all(&config.network.dir)?;
    for file in network::files(&partners.addresses(), source_key, clock.now())? {
        std::fs::write(config.network.dir.join(file.name), file.text)?;
    }
    for (name, text) in network::TEMPLATES {
        let path = config.network.templates.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(root))?;
        std::fs::write(path, text)?;
    }
    Ok(config)
}
