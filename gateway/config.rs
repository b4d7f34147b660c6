//! The process's configuration: `config/gateway.toml`, with `GATEWAY__SECTION__KEY` from the environment over it.
//! Every key has a default; its reason stands in the file.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

use crate::model::secret::SecretText;
use crate::model::units::{Size, Span};

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The HTTP server.
    pub server: Server,
    /// Where leads are kept.
    pub store: StoreConfig,
    /// Where limits and pauses are asked.
    pub gate: GateConfig,
    /// Campaigns, sources, partners and contracts.
    pub network: NetworkConfig,
    /// What partners may be reached.
    pub egress: Egress,
    /// What exchanges leave behind.
    pub capture: Capture,
    /// How long leads are kept.
    pub leads: Leads,
    /// The key for secrets typed into the API.
    pub secrets: Secrets,
    /// Logging.
    pub log: Log,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address and port for sources and staff.
    pub listen: SocketAddr,
    /// A second address for `/metrics` alone; where set, the first does not serve it.
    pub metrics_listen: Option<SocketAddr>,
    /// The largest body of a post.
    pub body_limit: Size,
    /// How long a client may take to send its request's head.
    pub header_timeout: Span,
    /// How long a client may take to send its request's body.
    pub body_timeout: Span,
    /// Connections at the same time.
    pub connections: usize,
    /// How long a stop is announced before connections are refused.
    pub stop_notice: Span,
    /// How long a stop waits for requests and attempts under way.
    pub drain_timeout: Span,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            metrics_listen: None,
            body_limit: Size(1 << 20),
            header_timeout: Span::seconds(10),
            body_timeout: Span::seconds(30),
            connections: 10_000,
            stop_notice: Span::seconds(0),
            drain_timeout: Span::seconds(30),
        }
    }
}

/// `[store]`
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `sqlite:DIRECTORY`, or `postgres://…`, which may be `env:NAME` or `file:PATH`.
    pub url: String,
}

/// Which store that is.
#[derive(Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// The embedded one, in a directory.
    Directory(PathBuf),
    /// A database of PostgreSQL, by its URL: hold it for connecting only, it may have a password.
    Database(String),
}

impl std::fmt::Debug for StorePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(directory) => write!(f, "Directory({})", directory.display()),
            Self::Database(url) => write!(f, "Database({})", without_password(url)),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { url: "sqlite:data".to_owned() }
    }
}

/// Where the store is, for people: without a password.
impl std::fmt::Display for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&without_password(&self.url))
    }
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoreConfig({self})")
    }
}

impl StoreConfig {
    /// Which store it is.
    ///
    /// # Errors
    /// When the URL names a store that this version does not have, or a variable or file that is not there.
    pub fn place(&self) -> Result<StorePlace, ConfigError> {
        let fault = |why: String| ConfigError::Value { key: "store.url", why };
        let text = SecretText(self.url.clone());
        let url = if text.is_reference() {
            text.resolve().map_err(|error| fault(error.to_string()))?
        } else {
            self.url.clone()
        };
        match url.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => return Ok(StorePlace::Directory(PathBuf::from(path))),
            _ => {}
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(StorePlace::Database(url));
        }
        // What a variable or a file holds is not shown.
        let shown = if text.is_reference() { self.url.clone() } else { without_password(&url) };
        Err(fault(format!(
            "`{shown}` is not a store this version has; write sqlite:DIRECTORY, or postgres://USER@HOST/DATABASE"
        )))
    }
}

/// `[gate]`
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GateConfig {
    /// `memory`, or one server: `redis://` or `rediss://`.
    pub url: String,
    /// Sentinels, instead of `url`.
    pub sentinel: Option<SentinelConfig>,
    /// Nodes of a cluster, instead of `url`.
    pub cluster: Vec<String>,
    /// The ACL user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretText>,
    /// A PEM file of certificate authorities to trust besides the machine's.
    pub ca: Option<PathBuf>,
    /// What every key begins with.
    pub prefix: String,
    /// How long an answer may take.
    pub call_timeout: Span,
}

/// `[gate] sentinel`
#[derive(Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SentinelConfig {
    /// What the sentinels call the master.
    pub service: String,
    /// Their addresses.
    pub nodes: Vec<String>,
    /// Their own ACL user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretText>,
}

/// The Redis servers of the gate, checked; URLs.
#[derive(Clone, PartialEq)]
pub enum GateServers {
    /// One server.
    One(String),
    /// Sentinels.
    Sentinel(SentinelConfig),
    /// Nodes of a cluster.
    Cluster(Vec<String>),
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            url: "memory".to_owned(),
            sentinel: None,
            cluster: Vec::new(),
            username: None,
            password: None,
            ca: None,
            prefix: "lead-gateway".to_owned(),
            call_timeout: Span(std::time::Duration::from_millis(250)),
        }
    }
}

impl std::fmt::Debug for GateConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GateConfig({self})")
    }
}

impl std::fmt::Debug for SentinelConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes: Vec<&str> = self.nodes.iter().map(|node| host_of(node)).collect();
        write!(f, "SentinelConfig({} at {})", self.service, nodes.join(", "))
    }
}

impl std::fmt::Debug for GateServers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(url) => f.write_str(host_of(url)),
            Self::Sentinel(sentinel) => sentinel.fmt(f),
            Self::Cluster(nodes) => f.debug_list().entries(nodes.iter().map(|node| host_of(node))).finish(),
        }
    }
}

/// Where the gate is, for people: without passwords.
impl std::fmt::Display for GateConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |nodes: &[String]| nodes.iter().map(|node| host_of(node)).collect::<Vec<_>>().join(", ");
        match &self.sentinel {
            Some(sentinel) => write!(f, "redis {} by sentinels {}", sentinel.service, list(&sentinel.nodes)),
            None if !self.cluster.is_empty() => write!(f, "redis cluster {}", list(&self.cluster)),
            None => f.write_str(&without_password(&self.url)),
        }
    }
}

/// A node's address without what stands before an `@`.
fn host_of(node: &str) -> &str {
    node.rsplit('@').next().unwrap_or_default()
}

impl GateConfig {
    /// The servers, or `None` for a gate in memory.
    ///
    /// # Errors
    /// When the keys contradict each other, or an address is none.
    pub fn servers(&self) -> Result<Option<GateServers>, ConfigError> {
        let wrong = |key: &'static str, why: &str| Err(ConfigError::Value { key, why: why.to_owned() });
        let in_memory = self.url == "memory";
        let ways =
            usize::from(!in_memory) + usize::from(self.sentinel.is_some()) + usize::from(!self.cluster.is_empty());
        if ways > 1 {
            return wrong("gate", "write one of `url`, `sentinel` and `cluster`, and leave the others out");
        }
        if ways == 0 {
            if self.username.is_some() || self.password.is_some() || self.ca.is_some() {
                return wrong("gate.url", "`username`, `password` and `ca` are for Redis; write redis://HOST:PORT");
            }
            return Ok(None);
        }
        if self.prefix.is_empty() || self.prefix.contains(['{', '}', ' ']) {
            return wrong("gate.prefix", "write some letters, without spaces and braces");
        }
        if self.call_timeout.0.is_zero() {
            return wrong("gate.call_timeout", "write at least 1ms");
        }
        if let Some(sentinel) = &self.sentinel {
            if sentinel.service.is_empty() || sentinel.nodes.is_empty() {
                let how = "write { service = \"mymaster\", nodes = [\"redis://HOST:26379\", …] }";
                return wrong("gate.sentinel", how);
            }
            let nodes = nodes("gate.sentinel", &sentinel.nodes)?;
            return Ok(Some(GateServers::Sentinel(SentinelConfig { nodes, ..sentinel.clone() })));
        }
        if !self.cluster.is_empty() {
            return nodes("gate.cluster", &self.cluster).map(|nodes| Some(GateServers::Cluster(nodes)));
        }
        match scheme(&self.url) {
            Some(_) => Ok(Some(GateServers::One(self.url.clone()))),
            None => Err(ConfigError::Value {
                key: "gate.url",
                why: format!(
                    "`{}` is not a gate this version has; write memory, redis://HOST:PORT or, for TLS, rediss://HOST:PORT",
                    without_password(&self.url)
                ),
            }),
        }
    }
}

/// The scheme of an address of Redis that has a host.
fn scheme(url: &str) -> Option<&str> {
    let parsed = url::Url::parse(url).ok()?;
    let scheme = ["redis", "rediss"].into_iter().find(|scheme| *scheme == parsed.scheme())?;
    parsed.has_host().then(|| url.get(..scheme.len())).flatten()
}

/// Addresses of one kind, `HOST:PORT` standing for `redis://HOST:PORT`.
fn nodes(key: &'static str, written: &[String]) -> Result<Vec<String>, ConfigError> {
    let whole = |node: &String| if node.contains("://") { node.clone() } else { format!("redis://{node}") };
    let nodes: Vec<String> = written.iter().map(whole).collect();
    if let Some(wrong) = nodes.iter().find(|node| scheme(node).is_none()) {
        return Err(ConfigError::Value {
            key,
            why: format!("`{}` is not an address; write HOST:PORT or, for TLS, rediss://HOST:PORT", host_of(wrong)),
        });
    }
    if nodes.iter().any(|node| scheme(node) != nodes.first().and_then(|first| scheme(first))) {
        return Err(ConfigError::Value { key, why: "some nodes have TLS and others not; write all alike".to_owned() });
    }
    Ok(nodes)
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// The resources' files.
    pub dir: PathBuf,
    /// The templates' directory.
    pub templates: PathBuf,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { dir: "config/network".into(), templates: "templates".into() }
    }
}

/// `[egress]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// Networks that partners may live on besides public ones.
    pub allow: Vec<IpNet>,
    /// A PEM file of certificate authorities to trust besides the public ones.
    pub extra_ca: Option<PathBuf>,
    /// Attempts under way at the same time, all contracts together.
    pub attempts: usize,
}

impl Default for Egress {
    fn default() -> Self {
        Self { allow: Vec::new(), extra_ca: None, attempts: 2_000 }
    }
}

/// `[capture]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capture {
    /// Kept of each request and response body.
    pub body_limit: Size,
    /// How long exchanges and refused posts are kept.
    pub retention: Span,
}

impl Default for Capture {
    fn default() -> Self {
        Self { body_limit: Size(64 << 10), retention: Span::seconds(90 * 86_400) }
    }
}

/// `[leads]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Leads {
    /// How long finished leads are kept.
    pub retention: Span,
}

impl Default for Leads {
    fn default() -> Self {
        Self { retention: Span::seconds(400 * 86_400) }
    }
}

/// `[secrets]`
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Secrets {
    /// Encrypts secrets that were typed into the console or API; may be unset until it is first needed.
    pub key: Option<SecretText>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// What to log, such as `info` or `lead_gateway=debug`.
    pub level: String,
    /// For people, or for machines.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path} cannot be read ({why}); give another with --config, or start from the one in the repository")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        why: String,
    },
    /// The text is not what it should be.
    #[error("{place}: {why}")]
    Text {
        /// The file with its line, or the environment.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// A key's value cannot be used.
    #[error("{key}: {why}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Config {
    /// Reads `path`, with the environment over it. Without the file, the defaults, if `path` is only the default one.
    ///
    /// # Errors
    /// When the file or a variable cannot be used; the message says where and what to do.
    pub fn load(path: &Path, must_exist: bool) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => String::new(),
            Err(error) => return Err(ConfigError::File { path: path.display().to_string(), why: error.to_string() }),
        };
        // What is not Unicode is none of ours, and must not stop us: `vars` would panic on it.
        let unicode = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        let variables = std::env::vars_os().filter_map(unicode).filter(|(name, _)| name.starts_with(PREFIX));
        Self::parse(&text, &path.display().to_string(), variables)
    }

    /// Reads `text`, which came from `origin`, with `variables` over it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(
        text: &str,
        origin: &str,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        // Once by itself, so that an error has its line …
        toml::from_str::<Self>(text).map_err(|error| ConfigError::Text {
            place: place(origin, text, error.span()),
            why: with_nearest(error.message()),
        })?;
        // … and once with the environment over it.
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Text {
            place: origin.to_owned(),
            why: error.message().to_owned(),
        })?;
        for (name, value) in variables {
            overlay(&mut table, &name, &value)?;
        }
        // Each part was read by itself before, so this cannot fail.
        table.try_into().map_err(|error: toml::de::Error| ConfigError::Text {
            place: "environment".to_owned(),
            why: with_nearest(error.message()),
        })
    }
}

const PREFIX: &str = "GATEWAY__";

fn overlay(table: &mut toml::Table, name: &str, value: &str) -> Result<(), ConfigError> {
    let path = name.strip_prefix(PREFIX).unwrap_or(name).to_lowercase();
    let Some((section, key)) = path.split_once("__") else {
        return Err(ConfigError::Text { place: name.to_owned(), why: "write GATEWAY__SECTION__KEY".to_owned() });
    };
    let alone = |value: toml::Value| -> Result<toml::Value, toml::de::Error> {
        let one = toml::Table::from_iter([(key.to_owned(), value.clone())]);
        Config::deserialize(toml::Table::from_iter([(section.to_owned(), toml::Value::Table(one))])).map(|_| value)
    };
    // As TOML writes it (a quoted text, a list, a number), or else the text as it stands; whichever the key takes. A
    // text first, for a secret may be all digits.
    let written = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut one| one.remove("v"));
    let plain = toml::Value::String(value.to_owned());
    let value = match written {
        Some(quoted @ toml::Value::String(_)) => alone(quoted),
        Some(written) => alone(plain).or_else(|_| alone(written)),
        None => alone(plain),
    }
    .map_err(|error| ConfigError::Text { place: name.to_owned(), why: with_nearest(error.message()) })?;
    let section = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let toml::Value::Table(section) = section {
        section.insert(key.to_owned(), value);
    }
    Ok(())
}

/// `file line 7`, where the error says where.
pub(crate) fn place(origin: &str, text: &str, span: Option<std::ops::Range<usize>>) -> String {
    match span.and_then(|span| text.get(..span.start)) {
        Some(before) => format!("{origin} line {}", before.matches('\n').count() + 1),
        None => origin.to_owned(),
    }
}

/// Adds the nearest known key to serde's "unknown field `x`, expected one of `a`, `b`".
pub(crate) fn with_nearest(message: &str) -> String {
    let message = message.trim();
    let Some(rest) = message.strip_prefix("unknown field `") else { return message.to_owned() };
    let Some((unknown, expected)) = rest.split_once('`') else { return message.to_owned() };
    let known = expected.split('`').skip(1).step_by(2);
    let nearest = known.map(|known| (strsim::damerau_levenshtein(unknown, known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= 1 + known.len() / 2 => {
            format!("unknown key `{unknown}`; did you mean `{known}`?")
        }
        _ => format!(
            "unknown key `{unknown}`{}",
            expected
                .strip_prefix(", expected")
                .map(|e| format!("; known are{}", e.trim_start_matches(" one of")))
                .unwrap_or_default()
        ),
    }
}

fn without_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}://***{}", &url[..scheme], &url[at..]),
        _ => url.to_owned(),
    }
}
