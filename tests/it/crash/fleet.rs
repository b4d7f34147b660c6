//! The gateways under fire: processes that are started, killed and started again. One on SQLite; a fleet is the same with
//! more of them.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lead_gateway::clock;

/// What the environment variable of `gateway/failpoint.rs` is called.
const VARIABLE: &str = "GATEWAY_TEST_POINT";
/// How long a start may take; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where the gateways answer now; `None` for one that is down.
pub type Addresses = Arc<Mutex<Vec<Option<SocketAddr>>>>;

/// How gateway `n` is started.
pub type Starter = Box<dyn Fn(usize) -> Command + Send + Sync>;

/// A client that keeps its connections and gives up after `timeout`.
pub fn client(timeout: Duration) -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(timeout).build().unwrap()
}

/// Some gateways on one store.
pub struct Fleet {
    starter: Starter,
    log: PathBuf,
    running: Vec<Option<Child>>,
    pub addresses: Addresses,
    client: reqwest::Client,
}

impl Fleet {
    /// So many gateways, none of them started.
    pub fn new(size: usize, log: PathBuf, starter: Starter) -> Self {
        Self {
            starter,
            log,
            running: (0..size).map(|_| None).collect(),
            addresses: Arc::new(Mutex::new(vec![None; size])),
            client: client(Duration::from_secs(10)),
        }
    }

    pub fn size(&self) -> usize {
        self.running.len()
    }

    pub fn is_up(&self, n: usize) -> bool {
        self.running[n].is_some()
    }

    /// Starts one, with named points armed, and waits until it is ready. `false` if it ended before that was seen, as it may
    /// when it was armed. It may have been ready for a moment, and have begun attempts: its end is noted like any other's, by
    /// [`Fleet::kill`].
    pub async fn start(&mut self, n: usize, armed: Option<&str>) -> bool {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = (self.starter)(n);
        if let Some(armed) = armed {
            command.env(VARIABLE, armed);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (told, address) = tokio::sync::oneshot::channel();
        // Reads on, so that its later lines do not block it.
        std::thread::spawn(move || {
            let mut told = Some(told);
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("gateway   http://")
                    && let Some(told) = told.take()
                {
                    let _ = told.send(address.parse::<SocketAddr>().unwrap());
                }
            }
        });
        self.running[n] = Some(child);
        let ready = match address.await {
            Ok(address) => self.becomes_ready(n, address).await,
            Err(_) => false,
        };
        assert!(ready || armed.is_some(), "a gateway did not start: {}", self.log());
        ready
    }

    async fn becomes_ready(&mut self, n: usize, address: SocketAddr) -> bool {
        let began = clock::instant();
        while self.ended(n).is_none() {
            // Leads may come before it is ready.
            self.addresses.lock().unwrap()[n] = Some(address);
            let asked = self.client.get(format!("http://{address}/readyz")).send().await;
            if asked.is_ok_and(|answer| answer.status().is_success()) {
                return true;
            }
            assert!(began.elapsed() < PATIENCE, "a gateway was not ready in time: {}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }

    /// How it ended, if it has.
    pub fn ended(&mut self, n: usize) -> Option<ExitStatus> {
        self.running[n].as_mut()?.try_wait().unwrap()
    }

    /// Returns once it has ended by itself; `false` if it does not in time.
    pub async fn ends(&mut self, n: usize, within: Duration) -> bool {
        let began = clock::instant();
        while began.elapsed() < within {
            if self.ended(n).is_some() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        false
    }

    /// Ends it with SIGKILL, if it has not ended before; its process, if there was one.
    pub fn kill(&mut self, n: usize) -> Option<u32> {
        self.addresses.lock().unwrap()[n] = None;
        let mut child = self.running[n].take()?;
        let _ = child.kill();
        child.wait().unwrap();
        Some(child.id())
    }

    /// Starts whichever are down.
    pub async fn start_all(&mut self) {
        for n in 0..self.size() {
            if !self.is_up(n) {
                self.start(n, None).await;
            }
        }
    }

    /// Ends all as an operator would.
    pub async fn stop(&mut self) {
        for n in 0..self.size() {
            let Some(mut child) = self.running[n].take() else { continue };
            self.addresses.lock().unwrap()[n] = None;
            let told = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
            assert!(told.success());
            let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
            assert!(status.success(), "a gateway ended with {status}: {}", self.log());
        }
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // A test that failed leaves none behind.
        for n in 0..self.size() {
            self.kill(n);
        }
    }
}
