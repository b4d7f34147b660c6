//! The processes around the gateway, as the benchmark holds them: the sink, the load, Redis.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use lead_gateway::clock;
use rustix::process::Signal;

use super::load::{Line, Outcome, Spec};
use super::process::{Process, free_port, program};
use super::sink::{Count, Report};
use super::wire;

/// A partner that runs.
pub struct Sink {
    pub process: Process,
    pub address: SocketAddr,
}

impl Sink {
    /// `soap`: it answers with SOAP 1.2 envelopes; `delay`: so much later.
    pub fn start(name: &str, soap: bool, delay: Duration) -> anyhow::Result<Self> {
        let kind = if soap { "soap" } else { "json" };
        let mut process = Process::role(name, &["sink", kind, &delay.as_millis().to_string()])?;
        let first = process.lines()?.next().with_context(|| format!("{name} did not start"))??;
        let address = first.parse().with_context(|| format!("{name} said `{first}` instead of its address"))?;
        Ok(Self { process, address })
    }

    pub fn url(&self) -> String {
        format!("http://{}/leads", self.address)
    }

    pub fn count(&self) -> anyhow::Result<Count> {
        wire::json(self.address, "/-/count", None)
    }

    pub fn report(&self) -> anyhow::Result<Report> {
        wire::json(self.address, "/-/report", None)
    }
}

/// A load that runs.
pub struct Load {
    pub process: Process,
    accepted: Arc<AtomicU64>,
    reading: std::thread::JoinHandle<anyhow::Result<Outcome>>,
}

impl Load {
    /// Starts one; its specification is written into `directory`.
    pub fn start(directory: &Path, spec: &Spec) -> anyhow::Result<Self> {
        let path = directory.join(format!("load-{}.json", spec.run));
        std::fs::write(&path, serde_json::to_vec(spec)?)?;
        let mut process = Process::role("load", &["load", &path.display().to_string()])?;
        let lines = process.lines()?;
        let accepted = Arc::new(AtomicU64::new(0));
        let reading = std::thread::spawn({
            let accepted = Arc::clone(&accepted);
            move || {
                for line in lines {
                    match serde_json::from_str(&line?)? {
                        Line::Progress(progress) => accepted.store(progress.accepted, Ordering::Relaxed),
                        Line::Done(outcome) => return Ok(outcome),
                    }
                }
                anyhow::bail!("the load ended without an outcome")
            }
        });
        Ok(Self { process, accepted, reading })
    }

    /// Posts accepted so far, as of a moment ago.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub fn is_over(&self) -> bool {
        self.reading.is_finished()
    }

    /// Waits for its end.
    pub fn outcome(self) -> anyhow::Result<Outcome> {
        let outcome = self.reading.join().map_err(|_| anyhow::anyhow!("the load's reader broke off"))??;
        self.process.wait()?;
        Ok(outcome)
    }
}

/// A Redis that keeps nothing on disk.
pub struct Redis {
    pub process: Process,
    port: u16,
}

impl Redis {
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(program("redis-server", "redis-server")?);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
        command.arg(directory).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::spawn("redis", &mut command, Signal::TERM, Signal::KILL)?;
        let began = clock::instant();
        while !answers(port) {
            anyhow::ensure!(!process.has_ended(), "redis-server ended as soon as it was started");
            anyhow::ensure!(began.elapsed() < Duration::from_secs(20), "redis-server does not answer on {port}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { process, port })
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = [0; 5];
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut answer).is_ok() && answer == *b"+PONG"
}
