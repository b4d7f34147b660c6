//! The connection to Redis: to which servers, whether it stands, and the circuit that keeps everybody from waiting for
//! one that does not.
//!
//! A call that fails or takes too long breaks the circuit: from then on nobody asks, until the link has connected anew
//! and written something. Each connection has a generation, so that what was believed of an earlier one can be doubted:
//! it may have led to a server that lost writes, or to another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::cluster::ClusterClient;
use ::redis::cluster_async::ClusterConnection;
use ::redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError,
    RedisResult, ServerErrorKind, TlsCertificates, TlsMode, Value,
};
use arc_swap::ArcSwapOption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Notify;

use crate::clock;

/// How long connecting may take, a look-up of the name and the TLS handshake included.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A connection is tried out this often, so that a dead one is seldom found by a delivery.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Pauses between attempts to connect, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Calls that may take their time before somebody has waited long enough: what is missing is loaded by some more.
const CALLS: u32 = 4;
/// A connection that broke before this is not tried again at once.
const STOOD: Duration = Duration::from_secs(5);

/// Which servers, and who we are to them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The servers.
    pub servers: Servers,
    /// Redis 6 calls it an ACL user; none = `default`.
    pub username: Option<String>,
    /// Its password, if any.
    pub password: Option<SecretString>,
    /// Certificate authorities to trust besides the machine's, as PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// What every key begins with.
    pub prefix: String,
    /// How long an answer may take before the gateway goes on without.
    pub call_timeout: Duration,
    /// How often counters are compared with the store.
    pub reconcile_every: Duration,
}

/// Where Redis is. Addresses are URLs, `redis://` or, for TLS, `rediss://`.
#[derive(Debug, Clone)]
pub enum Servers {
    /// One server.
    One(String),
    /// Whichever server the sentinels call the master of a service.
    Sentinel {
        /// The service's name, such as `mymaster`.
        service: String,
        /// The sentinels.
        nodes: Vec<String>,
        /// What the sentinels want to hear, if anything; often not what the servers do.
        login: (Option<String>, Option<SecretString>),
    },
    /// A cluster, found by any of these nodes.
    Cluster(Vec<String>),
}

/// Why a Redis gate cannot be opened, however long one waits.
#[derive(Debug, thiserror::Error)]
pub enum OpenFault {
    /// An address or certificate cannot be used.
    #[error("the gate's servers cannot be used: {0}")]
    Settings(String),
    /// The server does not let us in.
    #[error("Redis does not let the gateway in ({0}); check gate.username and gate.password")]
    Refused(String),
    /// The server is too old.
    #[error("Redis {0} is too old for the gate; it needs 6.2 or later, or Valkey")]
    TooOld(String),
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nothing was sent: the link is known to be down.
    Away,
    /// It may have been done, or not.
    Unclear,
    /// Nothing was done: the server does not know the script.
    NoScript,
}

/// The link. One per gate, kept up by [`Link::keep`].
pub(super) struct Link {
    client: tokio::sync::Mutex<Servant>,
    up: ArcSwapOption<Up>,
    generations: AtomicU64,
    lost: Notify,
    connected: Notify,
    probe: String,
    call: Duration,
}

/// A connection that stands.
pub(super) struct Up {
    conn: Conn,
    pub(super) generation: u64,
    since: Instant,
}

/// What makes connections.
enum Servant {
    One(Box<Client>),
    Sentinel(Box<SentinelClient>),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
enum Conn {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// How much longer somebody may wait for Redis, over all calls together.
pub(super) struct Patience(Duration);

impl Link {
    /// A link that has not connected yet.
    pub(super) fn new(settings: &Settings) -> Result<Self, OpenFault> {
        let servant = Servant::new(settings).map_err(|error| OpenFault::Settings(said(&error)))?;
        Ok(Self {
            client: tokio::sync::Mutex::new(servant),
            up: ArcSwapOption::empty(),
            generations: AtomicU64::new(0),
            lost: Notify::new(),
            connected: Notify::new(),
            probe: format!("{}:probe", settings.prefix),
            call: settings.call_timeout,
        })
    }

    /// Connects once, and looks whether the server will do.
    pub(super) async fn open(&self) -> Result<(), OpenFault> {
        match self.connect().await {
            Ok(conn) => {
                let version = conn.version().await;
                if let Some(version) = version.filter(|version| is_too_old(version)) {
                    return Err(OpenFault::TooOld(version));
                }
                self.stands(conn);
                Ok(())
            }
            Err(error) if is_refusal(&error) => Err(OpenFault::Refused(said(&error))),
            Err(error) => {
                tracing::warn!(gate.error = said(&error), "Redis cannot be reached; the store alone keeps the limits");
                self.lost.notify_one();
                Ok(())
            }
        }
    }

    /// Keeps the link up, for ever.
    pub(super) async fn keep(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(up) = self.up.load_full() {
                tokio::select! {
                    () = self.lost.notified() => {}
                    () = tokio::time::sleep(BEAT_EVERY) => {
                        if let Err(why) = self.beat(&up.conn).await {
                            self.broke(&up, &why);
                        }
                        continue;
                    }
                }
                if up.since.elapsed() < STOOD {
                    // One that answers just well enough to be called well is not asked again and again.
                    tokio::time::sleep(pause.mul_f64(0.5 + clock::draw() / 2.0)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                } else {
                    pause = FIRST_PAUSE;
                }
            }
            if self.up.load().is_some() {
                continue;
            }
            match self.connect().await {
                Ok(conn) => {
                    tracing::info!("Redis answers again");
                    self.stands(conn);
                }
                Err(error) => {
                    tracing::debug!(gate.error = said(&error), "Redis cannot be reached yet");
                    tokio::time::sleep(pause.mul_f64(0.5 + clock::draw() / 2.0)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// The connection, while one stands.
    pub(super) fn up(&self) -> Option<Arc<Up>> {
        self.up.load_full()
    }

    /// Returns at the next connection.
    pub(super) async fn connected(&self) {
        self.connected.notified().await;
    }

    /// Sends a command over `up` and waits for its answer.
    pub(super) async fn ask(&self, up: &Up, cmd: &Cmd, patience: &mut Patience) -> Result<Value, Failed> {
        if self.up.load().as_ref().is_none_or(|now| now.generation != up.generation) {
            return Err(Failed::Away);
        }
        let began = clock::instant();
        let within = patience.0.min(self.call);
        let answer = tokio::time::timeout(within, up.conn.query(cmd)).await;
        patience.0 = patience.0.saturating_sub(began.elapsed());
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => Err(Failed::NoScript),
            Ok(Err(error)) => {
                // A slot on its way to another node says so until it has arrived; the others are as well as ever.
                let moving = matches!(
                    error.kind(),
                    ErrorKind::Server(ServerErrorKind::TryAgain | ServerErrorKind::Ask | ServerErrorKind::Moved)
                );
                if !moving {
                    self.broke(up, &said(&error));
                }
                Err(Failed::Unclear)
            }
            Err(_) => {
                // Where this one had little time left, that says nothing about Redis.
                if within == self.call {
                    self.broke(up, "no answer in time");
                }
                Err(Failed::Unclear)
            }
        }
    }

    /// As long as one who asks may wait at all, whatever has to be loaded; for each answer as long as a call may take.
    pub(super) fn patience(&self) -> Patience {
        Patience(self.call * CALLS)
    }

    fn broke(&self, up: &Up, why: &str) {
        let before = self.up.rcu(|now| now.clone().filter(|now| now.generation != up.generation));
        if before.is_some_and(|before| before.generation == up.generation) {
            tracing::warn!(gate.error = why, "Redis does not answer; the store alone keeps the limits until it does");
            self.lost.notify_one();
        }
    }

    fn stands(&self, conn: Conn) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        self.up.store(Some(Arc::new(Up { conn, generation, since: clock::instant() })));
        self.connected.notify_one();
    }

    /// A connection over which something could be written.
    async fn connect(&self) -> RedisResult<Conn> {
        let connecting = async {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(CONNECT_WITHIN))
                // Ours is kept around each call.
                .set_response_timeout(None);
            match &mut *self.client.lock().await {
                Servant::One(client) => {
                    client.get_multiplexed_async_connection_with_config(&config).await.map(Conn::One)
                }
                Servant::Sentinel(client) => client.get_async_connection_with_config(&config).await.map(Conn::One),
                Servant::Cluster(client) => client.get_async_connection().await.map(Conn::Cluster),
            }
        };
        let slow = |_| RedisError::from((ErrorKind::Io, "connecting took too long"));
        let conn = tokio::time::timeout(CONNECT_WITHIN, connecting).await.map_err(slow)??;
        self.beat(&conn).await.map_err(|why| RedisError::from((ErrorKind::Io, "it does not take writes", why)))?;
        Ok(conn)
    }

    /// A server that takes no writes is of no use: a replica, one that is out of memory, one that is still loading.
    async fn beat(&self, conn: &Conn) -> Result<(), String> {
        let mut cmd = ::redis::cmd("SET");
        cmd.arg(&self.probe).arg("1").arg("EX").arg(60);
        // A second at least: a machine that is busy for a moment breaks no circuit by this.
        match tokio::time::timeout(self.call.max(Duration::from_secs(1)), conn.query(&cmd)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(said(&error)),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

impl Conn {
    async fn query(&self, cmd: &Cmd) -> RedisResult<Value> {
        match self {
            Self::One(conn) => cmd.query_async(&mut conn.clone()).await,
            Self::Cluster(conn) => cmd.query_async(&mut conn.clone()).await,
        }
    }

    /// The server's version; of a cluster any node's. `None` if it does not say, as where an ACL forbids it.
    async fn version(&self) -> Option<String> {
        let mut cmd = ::redis::cmd("INFO");
        cmd.arg("server");
        let info = tokio::time::timeout(CONNECT_WITHIN, self.query(&cmd)).await.ok()?.ok()?;
        line_after(&info, "redis_version:")
    }
}

/// What follows `label` on its line, in whatever text of the answer has it.
fn line_after(value: &Value, label: &str) -> Option<String> {
    let of = |text: &str| text.lines().find_map(|line| line.strip_prefix(label)).map(|rest| rest.trim().to_owned());
    match value {
        Value::BulkString(bytes) => of(&String::from_utf8_lossy(bytes)),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => of(text),
        Value::Array(items) => items.iter().find_map(|item| line_after(item, label)),
        Value::Map(pairs) => pairs.iter().find_map(|(_, item)| line_after(item, label)),
        _ => None,
    }
}

fn is_too_old(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (6, 2)
}

fn is_refusal(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
        // What the probe was told comes as a text.
        || ["NOAUTH", "WRONGPASS", "NOPERM"].iter().any(|code| error.to_string().contains(code))
}

/// An error as one line. The crate's texts hold addresses and what a server said, never a password.
fn said(error: &RedisError) -> String {
    error.to_string().lines().next().unwrap_or_default().chars().take(300).collect()
}

impl Servant {
    fn new(settings: &Settings) -> RedisResult<Self> {
        let certificates = settings.certificates()?;
        let node = |url: &str| settings.node(url);
        match &settings.servers {
            Servers::One(url) => {
                let info = node(url)?;
                Ok(Self::One(Box::new(match certificates.filter(|_| is_tls(info.addr())) {
                    Some(certificates) => Client::build_with_tls(info, certificates)?,
                    None => Client::open(info)?,
                })))
            }
            Servers::Sentinel { service, nodes, login } => {
                let infos = nodes.iter().map(|url| node(url)).collect::<RedisResult<Vec<_>>>()?;
                let tls = infos.iter().any(|info| is_tls(info.addr()));
                let first = infos.first().map(|info| info.redis_settings().clone()).unwrap_or_default();
                let addresses = infos.into_iter().map(|info| info.addr().clone());
                let mut builder = SentinelClientBuilder::new(addresses, service, SentinelServerType::Master)?
                    .set_client_to_redis_db(first.db());
                if let Some(username) = first.username() {
                    builder = builder.set_client_to_redis_username(username);
                }
                if let Some(password) = first.password() {
                    builder = builder.set_client_to_redis_password(password);
                }
                if let Some(username) = &login.0 {
                    builder = builder.set_client_to_sentinel_username(username);
                }
                if let Some(password) = &login.1 {
                    builder = builder.set_client_to_sentinel_password(password.expose_secret());
                }
                if tls {
                    builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
                }
                if let Some(certificates) = certificates.filter(|_| tls) {
                    builder = builder
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_certificates(certificates);
                }
                Ok(Self::Sentinel(Box::new(builder.build()?)))
            }
            Servers::Cluster(nodes) => {
                let infos = nodes.iter().map(|url| node(url)).collect::<RedisResult<Vec<_>>>()?;
                let tls = infos.iter().any(|info| is_tls(info.addr()));
                let mut builder = ClusterClient::builder(infos)
                    .connection_timeout(CONNECT_WITHIN)
                    // Ours is kept around each call; this one bounds what a call that was given up goes on to cost.
                    .response_timeout(settings.call_timeout.max(Duration::from_secs(1)));
                if let Some(certificates) = certificates.filter(|_| tls) {
                    builder = builder.certs(certificates);
                }
                Ok(Self::Cluster(Box::new(builder.build()?)))
            }
        }
    }
}

fn is_tls(address: &ConnectionAddr) -> bool {
    matches!(address, ConnectionAddr::TcpTls { .. })
}

impl Settings {
    /// A server's address with who we are to it.
    fn node(&self, url: &str) -> RedisResult<ConnectionInfo> {
        let info = url.into_connection_info()?;
        let mut login = info.redis_settings().clone();
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password.expose_secret());
        }
        Ok(info.set_redis_settings(login))
    }

    /// The machine's authorities and our own; `None` where ours are none, for then the machine's are the default.
    fn certificates(&self) -> RedisResult<Option<TlsCertificates>> {
        let Some(own) = &self.ca_pem else { return Ok(None) };
        let bad = |why: String| RedisError::from((ErrorKind::InvalidClientConfig, "gate.ca", why));
        let parsed: Vec<_> =
            CertificateDer::pem_slice_iter(own).collect::<Result<_, _>>().map_err(|error| bad(error.to_string()))?;
        if parsed.is_empty() {
            return Err(bad("it holds no certificate in PEM".to_owned()));
        }
        // The client takes either its own list or the machine's, so ours is put together here.
        let mut pem = Vec::new();
        for certificate in rustls_native_certs::load_native_certs().certs.iter().chain(&parsed) {
            write_pem(certificate, &mut pem);
        }
        Ok(Some(TlsCertificates { client_tls: None, root_cert: Some(pem) }))
    }
}

/// A certificate as PEM (RFC 7468).
fn write_pem(certificate: &CertificateDer<'_>, pem: &mut Vec<u8>) {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    pem.extend_from_slice(b"-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(b"-----END CERTIFICATE-----\n");
}
