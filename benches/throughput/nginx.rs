//! The yardstick: nginx as a bare reverse proxy between the same load and a sink of its own, with the same bodies, and wrk
//! as a second load, so that it is measured with whichever gets more out of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use lead_gateway::clock;
use rustix::process::Signal;

use super::lead::{self, Regions, Target};
use super::load::Spec;
use super::machine;
use super::process::{Process, free_port, program};
use super::servers::{Load, Sink};

/// What nginx forwarded in one turn.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Turn {
    /// Requests a second by our load, and by wrk.
    pub own: f64,
    pub wrk: f64,
    /// Microseconds of nginx for each, under our load.
    pub cpu_micros: f64,
}

impl Turn {
    /// The rate that counts.
    pub fn best(&self) -> f64 {
        self.own.max(self.wrk)
    }
}

/// nginx and its sink, running.
pub struct Nginx {
    process: Process,
    sink: Sink,
    address: SocketAddr,
    directory: PathBuf,
    wrk: PathBuf,
    connections: usize,
}

impl Nginx {
    /// Starts both; `connections` are those of the load.
    pub fn start(directory: &Path, connections: usize) -> anyhow::Result<Self> {
        let wrk = program("wrk", "wrk")?;
        let sink = Sink::start("nginx's sink", false, Duration::ZERO)?;
        let port = free_port()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let directory = directory.join("nginx");
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("nginx.conf"), configuration(&directory, address, sink.address, connections))?;
        std::fs::write(directory.join("post.lua"), script())?;
        let log = directory.join("log");
        let mut command = Command::new(program("nginx", "nginx-light")?);
        command.arg("-c").arg(directory.join("nginx.conf")).arg("-e").arg(&log).arg("-p").arg(&directory);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::spawn("nginx", &mut command, Signal::TERM, Signal::TERM)?;
        let began = clock::instant();
        while std::net::TcpStream::connect(address).is_err() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            anyhow::ensure!(!process.has_ended(), "nginx does not start: {}", said());
            anyhow::ensure!(began.elapsed() < Duration::from_secs(20), "nginx does not answer: {}", said());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { process, sink, address, directory, wrk, connections })
    }

    /// Forwards for so many seconds under our load, and for as many under wrk.
    pub fn turn(&self, seconds: f64, run: u64) -> anyhow::Result<Turn> {
        let before = (self.sink.count()?.requests, machine::cpu_micros_of_all(self.process.pid()));
        let spec = Spec {
            addresses: vec![self.address],
            targets: vec![Target { path: "/leads".to_owned(), key: "bench-key-of-the-source".to_owned() }],
            regions: Regions { first: 0, count: 1 },
            connections: self.connections,
            seconds,
            posts: u64::MAX,
            rate: None,
            run,
        };
        let outcome = Load::start(&self.directory, &spec)?.outcome()?;
        let arrived = self.sink.count()?.requests - before.0;
        let cpu = machine::cpu_micros_of_all(self.process.pid()) - before.1;
        let fine = outcome.errors == 0 && outcome.refused() == 0 && arrived == outcome.posts;
        anyhow::ensure!(fine, "nginx did not forward everything: {arrived} arrived of {outcome:?}");
        let own = outcome.accepted() as f64 / outcome.seconds;
        Ok(Turn { own, wrk: self.wrk(seconds)?, cpu_micros: cpu / arrived.max(1) as f64 })
    }

    fn wrk(&self, seconds: f64) -> anyhow::Result<f64> {
        let mut command = Command::new(&self.wrk);
        command.args(["-t2", &format!("-c{}", self.connections), &format!("-d{}s", seconds.ceil()), "-s"]);
        command.arg(self.directory.join("post.lua")).arg(format!("http://{}/leads", self.address));
        let mut wrk = Process::spawn("wrk", command.stdout(Stdio::piped()), Signal::KILL, Signal::KILL)?;
        let said = wrk.lines()?.collect::<Result<Vec<_>, _>>()?.join("\n");
        wrk.wait()?;
        let failed = said.contains("Non-2xx") || said.contains("Socket errors");
        let rate = said.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
        rate.filter(|_| !failed).with_context(|| format!("wrk failed: {said}"))
    }
}

/// Nothing that a proxy does not need: no log, a pool of kept connections to the sink, a worker for each core.
fn configuration(directory: &Path, address: SocketAddr, sink: SocketAddr, connections: usize) -> String {
    let path = directory.display();
    // Workers of a root's nginx would be somebody who may not look into this directory.
    let user = if is_root() { "user root;" } else { "" };
    format!(
        "{user}
         daemon off; worker_processes auto; pid {path}/pid; error_log {path}/log error;
         events {{ worker_connections 4096; }}
         http {{
             access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 1h;
             client_body_buffer_size 16k;
             client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi;
             uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;
             upstream sink {{
                 server {sink};
                 keepalive {connections}; keepalive_requests 1000000000; keepalive_timeout 1h;
             }}
             server {{
                 listen {address};
                 location / {{ proxy_pass http://sink; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
             }}
         }}\n"
    )
}

/// For wrk: the same head and body as our load's, but always the same.
fn script() -> String {
    let body = lead::body(0);
    format!(
        "wrk.method = \"POST\"\nwrk.headers[\"Content-Type\"] = \"application/json\"\n\
         wrk.headers[\"Authorization\"] = \"Bearer bench-key-of-the-source\"\nwrk.body = [==[{body}]==]\n"
    )
}

/// Whether this process is root's: /proc/self belongs to whoever runs it.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}
