//! A whole gateway: opens the store, loads the network, starts the worker, serves until told to stop, drains.

pub mod apply;
pub mod control;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};

use crate::api::access::Tokens;
use crate::api::{self, Api};
use crate::clock::Clock;
use crate::config::Config;
use crate::directory::changes::{self, Difference};
use crate::directory::{Directory, Network, ResourceSet, files};
use crate::dispatch::target::Egress;
use crate::dispatch::{DispatchConfig, Dispatcher};
use crate::gate::Gate;
use crate::gate::memory::MemoryGate;
use crate::pipeline::Pipeline;
use crate::store::Store;
use crate::telemetry;
use crate::web::server::{self, Bounds};
use crate::worker::{Keep, Worker};

/// A gateway that is ready to serve.
pub struct App {
    /// How it is configured.
    pub config: Config,
    /// The lead's life.
    pub pipeline: Arc<Pipeline>,
    /// What drives it.
    pub worker: Worker,
    /// Its HTTP face.
    pub api: Arc<Api>,
    /// What the start found and did, for people.
    pub loaded: Loaded,
    /// One change of the network at a time.
    changing: Mutex<()>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("App")
    }
}

/// What a start loaded.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Campaigns, partners, sources, contracts.
    pub counts: [usize; 4],
    /// The store was empty, and the files were applied to it.
    pub first: bool,
    /// What files and store differ in.
    pub differences: Vec<Difference>,
    /// Files that cannot be read now; the store's resources are used.
    pub faults: Vec<crate::directory::Fault>,
}

impl App {
    /// Opens everything; nothing is served and nothing moves yet.
    ///
    /// # Errors
    /// When configuration, store or network cannot be used; says what to do.
    pub async fn open(config: Config, clock: Clock) -> anyhow::Result<Self> {
        if config.gate.url != "memory" {
            bail!("gate.url: this version has no gate but \"memory\"");
        }
        let metrics = telemetry::start_metrics();
        let store = Store::open(&config.store.directory()?)?;
        let (set, loaded) = load(&config, &store, &clock).await?;
        let network = Network::compile(&set, None).map_err(|faults| told("the network cannot be used", &faults))?;
        let gate = Gate::Memory(MemoryGate::new());
        gate.install(network.gate_rules());
        let dispatcher = dispatcher(&config)?;
        let turns: HashMap<_, _> = store.turns().await?.into_iter().collect();
        let tokens = Tokens::new(store.tokens().await?);
        let loaded = Loaded { counts: network.counts(), ..loaded };
        let capture_limit = config.capture.body_limit.bytes();
        let pipeline =
            Arc::new(Pipeline::new(clock, store, Directory::new(network), gate, dispatcher, turns, capture_limit));
        let keep = Keep { captures: config.capture.retention.0, leads: config.leads.retention.0 };
        let worker = Worker::new(Arc::clone(&pipeline), keep);
        let here = config.server.metrics_listen.is_none();
        let api = Api::new(
            Arc::clone(&pipeline),
            worker.clone(),
            tokens,
            metrics,
            here,
            config.server.body_limit,
            config.server.body_timeout,
        );
        Ok(Self { config, pipeline, worker, api: Arc::new(api), loaded, changing: Mutex::new(()) })
    }

    /// Serves on `listener` until `end` resolves; then takes no more, finishes what is under way, and returns.
    ///
    /// # Errors
    /// When an address cannot be used or the store cannot be read.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        end: impl Future<Output = ()> + Send,
    ) -> anyhow::Result<()> {
        let (stop, stopped) = watch::channel(false);
        let until_stop = || {
            let mut stopped = stopped.clone();
            async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            }
        };
        let drain = self.config.server.drain_timeout.0;
        let bounds = Bounds {
            connections: self.config.server.connections,
            header_timeout: self.config.server.header_timeout.0,
            drain,
        };
        let mut servers = tokio::task::JoinSet::new();
        // Served before recovery: /readyz says that it is under way, and posts are told to come back.
        servers.spawn(server::serve(listener, api::router(Arc::clone(&self.api)), bounds, until_stop()));
        if let Some(address) = self.config.server.metrics_listen {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("server.metrics_listen {address} cannot be used"))?;
            servers.spawn(server::serve(listener, api::metrics_router(Arc::clone(&self.api)), bounds, until_stop()));
        }
        let control = control::listen(&self.socket()?)?;
        servers.spawn(server::serve(control, control::router(Arc::clone(&self)), bounds, until_stop()));

        tokio::pin!(end);
        let recovered = tokio::select! {
            found = self.worker.recover() => Some(found?),
            () = &mut end => None,
        };
        let found = recovered.unwrap_or_default();
        if found.open_attempts > 0 {
            tracing::warn!(
                attempts = found.open_attempts,
                "attempts were open when the gateway last stopped; their outcome is unknown"
            );
        }
        tracing::info!(queues = found.queues, "ready");
        if recovered.is_some() {
            end.await;
        }
        tracing::info!("stopping: taking no more posts, finishing what is under way");
        stop.send_replace(true);
        while servers.join_next().await.is_some() {}
        if !self.worker.drain(drain).await {
            tracing::warn!(
                "some attempts were still open when the drain time was over; the next start finds them as unknown"
            );
        }
        let _ = std::fs::remove_file(self.socket()?);
        Ok(())
    }

    /// Where commands talk to a running gateway.
    fn socket(&self) -> anyhow::Result<PathBuf> {
        Ok(control::socket(&self.config.store.directory()?))
    }
}

/// What sends requests, as configured.
///
/// # Errors
/// When the extra authorities cannot be read.
pub fn dispatcher(config: &Config) -> anyhow::Result<Dispatcher> {
    let mut dispatch = DispatchConfig::new(Egress::new(config.egress.allow.clone()));
    if let Some(path) = &config.egress.extra_ca {
        let pem = std::fs::read(path).with_context(|| format!("egress.extra_ca: {} cannot be read", path.display()))?;
        dispatch.extra_roots_pem = Some(pem);
    }
    Ok(Dispatcher::new(dispatch)?)
}

/// The store's resources; an empty store takes those of the files.
async fn load(config: &Config, store: &Store, clock: &Clock) -> anyhow::Result<(ResourceSet, Loaded)> {
    let records = store.resources().await?;
    let read = files::read(&config.network.dir, &config.network.templates);
    if records.is_empty() {
        let set = read.map_err(|faults| told("the network's files cannot be used", &faults))?;
        // Compiled before they are stored, so that a first start with faults leaves nothing behind.
        Network::compile(&set, None).map_err(|faults| told("the network's files cannot be used", &faults))?;
        let all = changes::differences(&[], &set).into_iter().map(Difference::into_change).collect();
        store.apply(all, "first start".to_owned(), clock.now()).await?;
        return Ok((set, Loaded { first: true, ..Loaded::default() }));
    }
    let set =
        ResourceSet::from_records(&records).map_err(|faults| told("the stored network cannot be read", &faults))?;
    let loaded = match read {
        Ok(files) => Loaded { differences: changes::differences(&records, &files), ..Loaded::default() },
        Err(faults) => Loaded { faults, ..Loaded::default() },
    };
    Ok((set, loaded))
}

/// Faults as one error, a line each.
#[must_use]
pub fn told(what: &str, faults: &[crate::directory::Fault]) -> anyhow::Error {
    let lines: Vec<String> = faults.iter().map(|fault| format!("  {fault}")).collect();
    anyhow::anyhow!("{what}:\n{}", lines.join("\n"))
}
