//! A whole gateway: opens the store, loads the network, starts the worker, serves until told to stop, drains.

pub mod apply;
pub mod control;
mod follow;
mod join;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};

use crate::api::access::Tokens;
use crate::api::{self, Api};
use crate::clock::Clock;
use crate::config::{Config, GateServers, StorePlace};
use crate::directory::changes::{Comparison, Difference};
use crate::directory::{Directory, Network, Reader, files};
use crate::dispatch::target::Egress;
use crate::dispatch::{DispatchConfig, Dispatcher};
use crate::gate::memory::MemoryGate;
use crate::gate::{Gate, RedisGate, Servers, Settings};
use crate::model::secret::SecretText;
use crate::pipeline::{Lanes, Pipeline, StoreTruth};
use crate::store::{Changes, ConnectOptions, Store};
use crate::tasks;
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
    /// Of the network in force.
    version: Arc<AtomicU64>,
    /// What the store had counted when it was opened.
    changes: Changes,
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
        let metrics = telemetry::start_metrics();
        let store = open_store(&config).await?;
        // Before what they count is read: a change in between is found by the first look for one.
        let changes = store.changes().await?;
        let (network, loaded) = load(&config, &store, &clock).await?;
        // The first start has counted one change, its own.
        let changes = Changes { network: changes.network + u64::from(loaded.first), ..changes };
        let version = Arc::new(AtomicU64::new(0));
        let gate = gate(&config, &store, &clock, Arc::clone(&version)).await?;
        let installed = next(&version, &store, changes, &clock);
        gate.install(network.gate_rules(), installed).await;
        let dispatcher = dispatcher(&config)?;
        let turns: HashMap<_, _> = store.turns().await?.into_iter().collect();
        let tokens = Tokens::new(store.tokens().await?);
        let loaded = Loaded { counts: network.counts(), ..loaded };
        let capture_limit = config.capture.body_limit.bytes();
        let lanes = Lanes::new(config.egress.attempts);
        let pipeline = Arc::new(Pipeline::new(
            clock,
            store,
            Directory::new(network),
            gate,
            dispatcher,
            turns,
            lanes,
            capture_limit,
        ));
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
        Ok(Self { config, pipeline, worker, api: Arc::new(api), loaded, changing: Mutex::new(()), version, changes })
    }

    /// Makes this gateway one of those on its store. Before it serves.
    ///
    /// # Errors
    /// When the store fails, or another gateway there does not go with this one.
    pub async fn join(&self) -> anyhow::Result<()> {
        join::join(&self.pipeline.store, self.pipeline.gate.kind() == "memory").await
    }

    /// Serves on `listener` until `end` resolves; then takes no more, finishes what is under way, and returns. It must have
    /// joined.
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
        servers.spawn(server::serve(listener, api::Face::new(Arc::clone(&self.api)), bounds, until_stop()));
        if let Some(address) = self.config.server.metrics_listen {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("server.metrics_listen {address} cannot be used"))?;
            servers.spawn(server::serve(listener, api::metrics_router(Arc::clone(&self.api)), bounds, until_stop()));
        }
        // On a database commands need no gateway to change what all of them have.
        let socket = self.socket()?;
        if let Some(socket) = &socket {
            let control = control::listen(socket)?;
            servers.spawn(server::serve(control, control::router(Arc::clone(&self)), bounds, until_stop()));
        }
        self.worker.keep_lease();
        let following = self.pipeline.store.is_shared().then(|| {
            // Aborted when it is dropped: at the end of this.
            let mut following = tokio::task::JoinSet::new();
            let (app, changes) = (Arc::downgrade(&self), self.changes);
            following.spawn(tasks::for_good("follow", move || follow::follow(app.clone(), changes)));
            following
        });

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
            tokio::select! {
                () = &mut end => {}
                // It ends only when it is told to. A gateway that nobody can reach must not look alive.
                _ = servers.join_next() => bail!("a server broke off, by a fault of the gateway's own; start it again"),
            }
        }
        self.api.announce_stop();
        let notice = self.config.server.stop_notice.0;
        if !notice.is_zero() {
            tracing::info!("stopping: taking posts for {notice:?} more, so that others can be asked in time");
            tokio::time::sleep(notice).await;
        }
        tracing::info!("stopping: taking no more posts, finishing what is under way");
        stop.send_replace(true);
        while servers.join_next().await.is_some() {}
        if !self.worker.drain(drain).await {
            tracing::warn!(
                "some attempts were still open when the drain time was over; the next start finds them as unknown"
            );
        }
        self.pipeline.gate.flush().await;
        drop(following);
        if let Some(socket) = socket {
            let _ = std::fs::remove_file(socket);
        }
        Ok(())
    }

    /// Where commands talk to a running gateway, if they do.
    fn socket(&self) -> anyhow::Result<Option<PathBuf>> {
        Ok(match self.config.store.place()? {
            StorePlace::Directory(directory) => Some(control::socket(&directory)),
            StorePlace::Database(_) => None,
        })
    }
}

/// The store, as configured.
///
/// # Errors
/// When it cannot be used; says what to do.
pub async fn open_store(config: &Config) -> anyhow::Result<Store> {
    Ok(match config.store.place()? {
        StorePlace::Directory(directory) => Store::open(&directory)?,
        StorePlace::Database(url) => Store::connect(&url, &ConnectOptions::default()).await?,
    })
}

/// The gate, as configured.
async fn gate(config: &Config, store: &Store, clock: &Clock, version: Arc<AtomicU64>) -> anyhow::Result<Gate> {
    let Some(servers) = config.gate.servers()? else { return Ok(Gate::Memory(MemoryGate::new())) };
    let config = &config.gate;
    let ca_pem = match &config.ca {
        Some(path) => Some(std::fs::read(path).with_context(|| format!("gate.ca: {} cannot be read", path.display()))?),
        None => None,
    };
    let secret = |key: &'static str, text: &Option<SecretText>| {
        let value = text.as_ref().map(SecretText::resolve).transpose();
        value.map(|value| value.map(SecretString::from)).with_context(|| format!("{key} cannot be used"))
    };
    let password = secret("gate.password", &config.password)?;
    let servers = match servers {
        GateServers::One(url) => Servers::One(url),
        GateServers::Cluster(nodes) => Servers::Cluster(nodes),
        GateServers::Sentinel(sentinel) => Servers::Sentinel {
            service: sentinel.service,
            nodes: sentinel.nodes,
            login: (sentinel.username, secret("gate.sentinel.password", &sentinel.password)?),
        },
    };
    let settings = Settings {
        servers,
        username: config.username.clone(),
        password,
        ca_pem,
        prefix: config.prefix.clone(),
        call_timeout: config.call_timeout.0,
        reconcile_every: COMPARE_EVERY,
    };
    let truth = Arc::new(StoreTruth::new(store.clone(), version));
    Ok(Gate::Redis(Box::new(RedisGate::open(settings, truth, clock.clone()).await?)))
}

/// How often a shared gate's counters are compared with the store.
const COMPARE_EVERY: Duration = Duration::from_secs(30);

/// The version of a network that is put in force here: what the store counts, where several gateways must agree; otherwise
/// one greater than every one before, over restarts too.
fn next(version: &AtomicU64, store: &Store, changes: Changes, clock: &Clock) -> u64 {
    if store.is_shared() {
        version.store(changes.network, Ordering::Release);
        return changes.network;
    }
    let now = u64::try_from(clock.now().as_microsecond()).unwrap_or(0);
    let greater = |before: u64| Some(now.max(before + 1));
    version.fetch_update(Ordering::AcqRel, Ordering::Acquire, greater).map_or(now, |before| now.max(before + 1))
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

/// The store's network; an empty store takes that of the files.
async fn load(config: &Config, store: &Store, clock: &Clock) -> anyhow::Result<(Network, Loaded)> {
    let (files, faults) = match files::read(&config.network.dir, &config.network.templates) {
        Ok(files) => (Arc::new(files), Vec::new()),
        Err(faults) => (Arc::default(), faults),
    };
    let looked_at = (Reader::default(), Comparison::with(Arc::clone(&files)));
    let (stored, compared) = store
        .read_resources(looked_at, |(reader, comparison), one| {
            reader.take_stored(one);
            let _ = comparison.see(one);
        })
        .await?;
    let stored = stored.finish().map_err(|faults| told("the stored network cannot be read", &faults))?;
    if stored.is_empty() {
        if !faults.is_empty() {
            return Err(told("the network's files cannot be used", &faults));
        }
        // Compiled before they are stored, so that a first start with faults leaves nothing behind.
        let network =
            Network::compile(&files, None).map_err(|faults| told("the network's files cannot be used", &faults))?;
        let all = compared.differences().into_iter().map(Difference::into_change).collect();
        if store.apply(all, "first start".to_owned(), clock.now()).await? {
            return Ok((network, Loaded { first: true, ..Loaded::default() }));
        }
        // Another gateway was first in the same moment.
        return Box::pin(load(config, store, clock)).await;
    }
    drop(files);
    let network = Network::compile(&stored, None).map_err(|faults| told("the network cannot be used", &faults))?;
    // Of files that cannot be read nobody knows how they differ.
    let differences = if faults.is_empty() { compared.differences() } else { Vec::new() };
    Ok((network, Loaded { differences, faults, ..Loaded::default() }))
}

/// Faults as one error, a line each.
#[must_use]
pub fn told(what: &str, faults: &[crate::directory::Fault]) -> anyhow::Error {
    let lines: Vec<String> = faults.iter().map(|fault| format!("  {fault}")).collect();
    anyhow::anyhow!("{what}:\n{}", lines.join("\n"))
}
