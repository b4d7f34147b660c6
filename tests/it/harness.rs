//! A gateway of a test's own: the real binary in a directory of its own on a port of its own, or the same inside the
#![allow(dead_code, reason = "each test file uses its own part")]
//! test's process under a clock that the test holds. All traffic stays on 127.0.0.1.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use lead_gateway::api::access::{Role, Tokens};
use lead_gateway::app::App;
use lead_gateway::app::control::{TokenRequest, make_token};
use lead_gateway::clock::{self, Clock};
use lead_gateway::config::Config;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// The key of the source `acme` that every test network has.
pub const KEY: &str = "test-key-of-acme-0001";

/// How long to wait for what must come; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with configuration, network and templates.
pub struct World {
    dir: TempDir,
    /// `[store] url`; without one, a directory of this world.
    store: Option<String>,
    /// `[gate]` and what belongs to it; without it, the gateway's own.
    gate: Option<String>,
}

impl World {
    /// A world whose network is `network` beside the campaign `solar`, the introducer `media` and its source `acme`.
    pub fn new(network: &str) -> Self {
        Self::with_base(&base("", ""), network)
    }

    /// As [`World::new`], with more keys for the campaign and the source.
    pub fn with(campaign: &str, source: &str, network: &str) -> Self {
        Self::with_base(&base(campaign, source), network)
    }

    /// As [`World::new`], for several gateways: on the database at `store`, with the gate that the keys `gate` describe.
    pub fn shared(network: &str, store: &str, gate: &str) -> Self {
        let (store, gate) = (Some(store.to_owned()), Some(gate.to_owned()));
        Self::made_of(&base("", ""), network, store, gate)
    }

    fn with_base(base: &str, network: &str) -> Self {
        Self::made_of(base, network, None, None)
    }

    fn made_of(base: &str, network: &str, store: Option<String>, gate: Option<String>) -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap(), store, gate };
        std::fs::create_dir_all(world.path("network")).unwrap();
        std::fs::create_dir_all(world.path("templates")).unwrap();
        world.configure("");
        world.write("network/base.toml", base);
        world.write("network/buyers.toml", network);
        world.write(
            "templates/lead.json.hbs",
            "{\"email\": \"{{lead.email}}\", \"name\": \"{{lead.name}}\", \"delivery\": \"{{delivery.id}}\"}",
        );
        world
    }

    /// Writes the configuration, with `more` at its end.
    pub fn configure(&self, more: &str) {
        let root = self.dir.path().display();
        let store = self.store.clone().unwrap_or_else(|| format!("sqlite:{root}/data"));
        let gate = self.gate.as_ref().map(|keys| format!("[gate]\n{keys}\n")).unwrap_or_default();
        self.write(
            "gateway.toml",
            &format!(
                "[server]\nlisten = \"127.0.0.1:0\"\ndrain_timeout = \"10s\"\n[store]\nurl = \"{store}\"\n{gate}\
                 [network]\ndir = \"{root}/network\"\ntemplates = \"{root}/templates\"\n[egress]\nallow = [\"127.0.0.0/8\"]\n{more}\n"
            ),
        );
    }

    /// `[store] url`, where it is not a directory of this world.
    pub fn store_url(&self) -> String {
        self.store.clone().unwrap()
    }

    /// Adds keys to `[server]`.
    pub fn configure_server(&self, keys: &str) {
        let text = std::fs::read_to_string(self.path("gateway.toml")).unwrap();
        self.write("gateway.toml", &text.replacen("[server]\n", &format!("[server]\n{keys}\n"), 1));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Runs the command line here and waits for its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The command line, with this world's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_under(&[], arguments)
    }

    /// As [`World::command`], started by another program such as `strace`.
    pub fn command_under(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let words = [wrapper, &[env!("CARGO_BIN_EXE_gateway")]].concat();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg("--config")
            .arg(self.path("gateway.toml"))
            .args(arguments)
            .current_dir(self.dir.path());
        command
    }

    /// Starts the binary here and waits until it is ready.
    pub async fn start(&self) -> Gateway {
        self.start_as(self.command(&["serve"])).await
    }

    /// As [`World::start`], by this command.
    pub async fn start_as(&self, mut command: Command) -> Gateway {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let Some(Ok(line)) = lines.next() else { panic!("the gateway did not start: {}", self.log()) };
            if let Some(address) = line.strip_prefix("gateway   http://") {
                break address.parse().unwrap();
            }
        };
        // Its later lines must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        let token = std::fs::read_to_string(self.path("token")).unwrap_or_default();
        let mut gateway = Gateway { address, token, client: client(), process: Process::Binary(child) };
        gateway.wait_until_ready().await;
        if gateway.token.is_empty() {
            gateway.token = self.new_token("tester", "admin");
            self.write("token", &gateway.token);
        }
        gateway.wait_until_known().await;
        gateway
    }

    /// A staff token, made by the command line.
    pub fn new_token(&self, name: &str, role: &str) -> String {
        let output = self.run(&["--json", "token", "new", name, "--role", role]);
        let made: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        made["token"].as_str().unwrap().to_owned()
    }

    /// Starts a gateway inside this process, under `clock`.
    pub async fn start_inside(&self, clock: Clock) -> Gateway {
        let config = Config::load(&self.path("gateway.toml"), true).unwrap();
        let listener = tokio::net::TcpListener::bind(config.server.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Arc::new(App::open(config, clock.clone()).await.unwrap_or_else(|error| panic!("{error:#}")));
        app.join().await.unwrap();
        let request = TokenRequest { name: format!("tester-{}", clock.uuid()), role: Role::Admin };
        let store = &app.pipeline.store;
        let token = make_token(store, &request, clock.now()).await.unwrap().unwrap();
        app.api.tokens.store(Arc::new(Tokens::new(store.tokens().await.unwrap())));
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(Arc::clone(&app).serve(listener, async move {
            let _ = stopped.await;
        }));
        let gateway = Gateway { address, token, client: client(), process: Process::Inside { app, stop, served } };
        gateway.wait_until_ready().await;
        gateway
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

/// The part of the network that every test has; `campaign` and `source` add keys to those two.
fn base(campaign: &str, source: &str) -> String {
    format!(
        r#"
[[campaign]]
id = "solar"
timezone = "Europe/London"
currency = "GBP"
{campaign}
[campaign.fields]
email = {{ type = "email", required = true }}
name = {{ type = "text" }}
phone = {{ type = "phone", region = "GB" }}
postcode = {{ type = "postcode", country = "GB" }}
bill = {{ type = "decimal", min = "0" }}
birth_date = {{ type = "date", sensitive = true }}

[[partner]]
id = "media"
kind = "introducer"
timezone = "Europe/London"

[[source]]
id = "acme"
campaign = "solar"
partner = "media"
key = "{KEY}"
payout = "12.50"
{source}
"#
    )
}

/// A buyer `id` with one JSON contract `id` whose endpoint is at `url`; `partner`, `contract` and `endpoint` add keys.
pub fn buyer(id: &str, url: &str, partner: &str, contract: &str, endpoint: &str) -> String {
    format!(
        r#"
[[partner]]
id = "{id}"
kind = "buyer"
timezone = "Europe/London"
{partner}

[[contract]]
id = "{id}"
partner = "{id}"
campaign = "solar"
price = "31.00"
{contract}

[contract.endpoint]
method = "json"
url = "{url}"
template = "lead.json.hbs"
{endpoint}
"#
    )
}

fn client() -> reqwest::Client {
    // Tests that need no TLS from this client do not set a provider up for it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A connection that the gateway is about to close as idle (10 s) is not used again.
    let builder = reqwest::Client::builder().no_proxy().pool_idle_timeout(Duration::from_secs(5));
    builder.timeout(Duration::from_secs(90)).build().unwrap()
}

/// reqwest's own `json` would need a feature that the gateway does without.
pub trait JsonBody {
    fn json_body(self, body: &Value) -> Self;
}

impl JsonBody for reqwest::RequestBuilder {
    fn json_body(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }
}

/// A gateway that runs.
pub struct Gateway {
    pub address: SocketAddr,
    pub token: String,
    pub client: reqwest::Client,
    process: Process,
}

enum Process {
    Binary(Child),
    Inside { app: Arc<App>, stop: oneshot::Sender<()>, served: tokio::task::JoinHandle<anyhow::Result<()>> },
    Ended,
}

/// An answer of the gateway.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    /// The value at a JSON pointer, as text.
    pub fn at(&self, pointer: &str) -> String {
        text_at(&self.json(), pointer)
    }
}

/// The value at a JSON pointer, as text; `null` where there is none.
pub fn text_at(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "null".to_owned(),
    }
}

impl Gateway {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The gateway inside this process.
    pub fn app(&self) -> &Arc<App> {
        match &self.process {
            Process::Inside { app, .. } => app,
            _ => panic!("this gateway is a process of its own"),
        }
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        match &self.process {
            Process::Binary(child) => child.id(),
            _ => panic!("this gateway is no process of its own"),
        }
    }

    async fn wait_until_ready(&self) {
        let began = clock::instant();
        loop {
            if let Ok(answer) = self.client.get(self.url("/readyz")).send().await
                && answer.status().is_success()
            {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "the gateway was not ready in time");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What others write to a store of several gateways is known here within a second, a token too.
    async fn wait_until_known(&self) {
        let began = clock::instant();
        while self.send(self.client.get(self.url("/v1/leads?limit=1")).bearer_auth(&self.token)).await.status == 401 {
            assert!(began.elapsed() < PATIENCE, "the gateway did not hear of the token");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends any request.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await.unwrap(),
        }
    }

    /// Posts a lead as JSON.
    pub async fn post(&self, lead: &Value) -> Answer {
        self.post_to("/v1/campaigns/solar/leads", lead).await
    }

    /// Posts a lead as JSON to a path with a query.
    pub async fn post_to(&self, path: &str, lead: &Value) -> Answer {
        self.send(self.client.post(self.url(path)).bearer_auth(KEY).json_body(lead)).await
    }

    /// Posts a lead and waits for its outcome.
    pub async fn post_and_wait(&self, lead: &Value) -> Answer {
        self.post_to("/v1/campaigns/solar/leads?wait=30", lead).await
    }

    /// What staff get.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.send(self.client.get(self.url(path)).bearer_auth(&self.token)).await;
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text);
        answer.json()
    }

    /// What anybody gets, whatever its status.
    pub async fn get_open(&self, path: &str) -> Value {
        self.send(self.client.get(self.url(path))).await.json()
    }

    /// What staff do.
    pub async fn act(&self, path: &str, body: &Value) -> Answer {
        self.send(self.client.request(Method::POST, self.url(path)).bearer_auth(&self.token).json_body(body)).await
    }

    /// A lead as staff see it.
    pub async fn lead(&self, id: &str) -> Value {
        self.get(&format!("/v1/leads/{id}")).await
    }

    /// Asks until `done` says that what it sees is what must come.
    pub async fn eventually(&self, path: &str, done: impl Fn(&Value) -> bool) -> Value {
        let began = clock::instant();
        loop {
            let seen = self.get(path).await;
            if done(&seen) {
                return seen;
            }
            assert!(began.elapsed() < PATIENCE, "{path} never became what it must: {seen:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the lead has this status.
    pub async fn lead_becomes(&self, id: &str, status: &str) -> Value {
        self.eventually(&format!("/v1/leads/{id}"), |lead| text_at(lead, "/status") == status).await
    }

    /// Waits until the lead's last delivery is in this state.
    pub async fn last_delivery_becomes(&self, lead: &str, state: &str) -> Value {
        let path = format!("/v1/leads/{lead}");
        let lead = self
            .eventually(&path, |lead| last(lead).is_some_and(|delivery| text_at(delivery, "/state") == state))
            .await;
        let id = text_at(last(&lead).unwrap(), "/id");
        self.get(&format!("/v1/deliveries/{id}")).await
    }

    /// Ends the process at once, as a crash would.
    pub fn kill(mut self) {
        match std::mem::replace(&mut self.process, Process::Ended) {
            Process::Binary(mut child) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            _ => panic!("only a process of its own can be killed"),
        }
    }

    /// Stops it as an operator would; it must drain and end well.
    pub async fn stop(mut self) {
        match std::mem::replace(&mut self.process, Process::Ended) {
            Process::Binary(mut child) => {
                let kill = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
                assert!(kill.success());
                let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
                assert!(status.success(), "the gateway ended with {status}");
            }
            Process::Inside { app, stop, served } => {
                drop(app);
                let _ = stop.send(());
                served.await.unwrap().unwrap();
            }
            Process::Ended => {}
        }
    }

    /// Stops it, after making sure that no delivery is left over.
    pub async fn finish(self) {
        for state in ["queued", "sending", "unknown"] {
            let left = self.get(&format!("/v1/deliveries?state={state}")).await;
            assert_eq!(left["items"], json!([]), "a delivery was left {state}");
        }
        self.stop().await;
    }
}

fn last(lead: &Value) -> Option<&Value> {
    lead["deliveries"].as_array()?.last()
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // A test that failed: do not leave its gateway behind.
        if let Process::Binary(child) = &mut self.process {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port where nobody listens, for a server that must be told one: below those that the system gives to connections and to
/// listeners that ask for any, so that nobody takes it in the meantime.
pub fn free_port() -> u16 {
    // Tests run as processes of their own: each begins to look somewhere else, and not right behind its neighbour.
    free_port_from(u16::try_from(u64::from(std::process::id()) * 61 % 10_000).unwrap())
}

/// As [`free_port`], beginning to look at this one: for a second one beside it, or another one instead of it.
pub fn free_port_from(begin: u16) -> u16 {
    (0..10_000)
        .map(|n| 20_000 + (begin % 10_000 + n) % 10_000)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("some port is free")
}

/// An instant, from its text.
pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A lead with this e-mail address.
pub fn lead(email: &str) -> Value {
    json!({"email": email, "name": "Zoë O'Neil & Sons"})
}

/// Everything below `dir`, as one text; for looking for what must not be there.
pub fn all_bytes(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            bytes.extend(std::fs::read(path).unwrap_or_default());
        }
    }
    bytes
}

/// A line of /proc/PID/status in bytes.
pub fn memory(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
