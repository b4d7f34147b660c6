//! The gateway that is measured: the released binary, in a directory of its own, on a port of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use lead_gateway::clock;
use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use serde_json::Value;
use uuid::Uuid;

use super::clock::nanos;
use super::network::{JSON_TEMPLATE, SOAP_TEMPLATE};
use super::process::Process;
use super::{machine, postgres, wire};

/// How long a start may take; only a broken one takes so long.
const START_WITHIN: Duration = Duration::from_mins(5);

/// A directory with configuration, network and templates.
pub struct World {
    pub directory: PathBuf,
    pub books: Books,
}

impl World {
    /// Writes one below `parent`. `store` and `gate` are URLs; without one, a directory of its own, and memory.
    pub fn new(
        parent: &Path,
        name: &str,
        network: &str,
        store: Option<(&str, PathBuf)>,
        gate: Option<&str>,
    ) -> anyhow::Result<Self> {
        let directory = parent.join(name);
        std::fs::create_dir_all(directory.join("network"))?;
        std::fs::create_dir_all(directory.join("templates"))?;
        let path = directory.display();
        let own = format!("sqlite:{path}/data");
        let url = store.as_ref().map_or(own.as_str(), |(url, _)| url);
        let gate = gate.unwrap_or("memory");
        std::fs::write(
            directory.join("gateway.toml"),
            format!(
                "[server]\nlisten = \"127.0.0.1:0\"\n[store]\nurl = \"{url}\"\n[gate]\nurl = \"{gate}\"\n\
                 [network]\ndir = \"{path}/network\"\ntemplates = \"{path}/templates\"\n\
                 [egress]\nallow = [\"127.0.0.0/8\"]\n"
            ),
        )?;
        std::fs::write(directory.join("network/network.toml"), network)?;
        std::fs::write(directory.join("templates/lead.json.hbs"), JSON_TEMPLATE)?;
        std::fs::write(directory.join("templates/lead.xml.hbs"), SOAP_TEMPLATE)?;
        let books = match store {
            Some((url, psql)) => Books::Postgres { url: url.to_owned(), psql },
            None => Books::Sqlite(directory.join("data/gateway.db")),
        };
        Ok(Self { directory, books })
    }

    /// The command line here.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
        command.arg("--config").arg(self.directory.join("gateway.toml")).args(arguments).current_dir(&self.directory);
        command
    }

    /// Runs the command line here; what it printed.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).output().context("the gateway cannot be started")?;
        let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(output.status.success(), "gateway {}: {said}{wrong}", arguments.join(" "));
        Ok(said.into_owned())
    }

    /// Starts the gateway here, and waits until it is ready. `name` tells it from others in the report.
    pub fn start(&self, name: &str) -> anyhow::Result<Gateway> {
        let log_path = self.directory.join("log");
        let log = std::fs::File::options().create(true).append(true).open(&log_path)?;
        let mut command = self.command(&["serve"]);
        command.stdout(Stdio::piped()).stderr(log);
        let spawned = nanos();
        let mut process = Process::spawn(name, &mut command, Signal::TERM, Signal::KILL)?;
        let mut lines = process.lines()?;
        let said = || std::fs::read_to_string(&log_path).unwrap_or_default();
        let address: SocketAddr = loop {
            let line = lines.next().with_context(|| format!("the gateway did not start: {}", said()))??;
            if let Some(address) = line.strip_prefix("gateway   http://") {
                break address.parse().context("the gateway printed an address that is none")?;
            }
        };
        // Its later lines must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        let began = clock::instant();
        while !wire::get(address, "/readyz", None).is_ok_and(|answer| answer.status == 200) {
            anyhow::ensure!(!process.has_ended(), "the gateway ended: {}", said());
            anyhow::ensure!(began.elapsed() < START_WITHIN, "the gateway is not ready: {}", said());
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Gateway { process, address, spawned, ready: nanos(), log: log_path })
    }

    /// A new staff token.
    pub fn token(&self) -> anyhow::Result<String> {
        let said = self.run(&["--json", "token", "new", "bench", "--role", "admin"])?;
        let made: Value = serde_json::from_str(&said)?;
        made["token"].as_str().map(str::to_owned).context("no token was made")
    }
}

/// A gateway that runs.
pub struct Gateway {
    pub process: Process,
    pub address: SocketAddr,
    /// When it was started, and when it was ready, on the machine's monotonic clock.
    pub spawned: u64,
    pub ready: u64,
    log: PathBuf,
}

/// Some of its counters since its start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    pub commits: f64,
    pub jobs: f64,
    pub commit_micros: f64,
}

impl Gateway {
    /// What it said last, if it has ended.
    pub fn last_words(&self) -> Option<String> {
        if machine::lives(self.process.pid()) {
            return None;
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        Some(last.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    /// They are refreshed every 5 s.
    pub fn counters(&self) -> anyhow::Result<Counters> {
        let text = wire::get(self.address, "/metrics", None)?.body;
        let sum = |name: &str| -> f64 {
            let lines = text.lines().filter_map(|line| line.strip_prefix(name));
            let values = lines.filter(|rest| rest.starts_with([' ', '{'])).filter_map(|rest| rest.rsplit(' ').next());
            values.filter_map(|value| value.parse::<f64>().ok()).sum()
        };
        Ok(Counters {
            commits: sum("gateway_store_commits_total"),
            jobs: sum("gateway_store_commit_jobs_total"),
            commit_micros: sum("gateway_store_commit_microseconds_total"),
        })
    }
}

/// What the store has, read beside the gateway.
#[derive(Debug, Clone)]
pub enum Books {
    Sqlite(PathBuf),
    Postgres { url: String, psql: PathBuf },
}

impl Books {
    /// How many deliveries younger than `since` are in each state; of contracts whose ids begin with `contracts`.
    pub fn states(&self, since: Uuid, contracts: &str) -> anyhow::Result<Vec<(String, u64)>> {
        let sql = |id: String| {
            format!(
                "SELECT state, count(*) FROM delivery WHERE id > {id} AND contract LIKE '{contracts}%' GROUP BY state"
            )
        };
        match self {
            Self::Sqlite(path) => {
                let conn = read_only(path)?;
                let mut select = conn.prepare(&sql(format!("x'{}'", since.simple())))?;
                let rows = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
                Ok(rows.collect::<Result<_, _>>()?)
            }
            Self::Postgres { url, psql } => {
                let text = postgres::query(psql, url, &sql(format!("'{since}'")))?;
                let rows = text.lines().filter_map(|line| line.split_once('|'));
                rows.map(|(state, count)| Ok((state.to_owned(), count.parse()?))).collect()
            }
        }
    }

    /// Whether a delivery of these contracts waits or is under way.
    pub fn is_working(&self, contracts: &str) -> anyhow::Result<bool> {
        let any =
            |state| format!("EXISTS (SELECT 1 FROM delivery WHERE state = '{state}' AND contract LIKE '{contracts}%')");
        let sql = format!("SELECT {} OR {}", any("queued"), any("sending"));
        match self {
            Self::Sqlite(path) => Ok(read_only(path)?.query_row(&sql, [], |row| row.get(0))?),
            Self::Postgres { url, psql } => Ok(postgres::query(psql, url, &sql)? == "t"),
        }
    }
}

fn read_only(path: &Path) -> anyhow::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX);
    let conn = conn.with_context(|| format!("{} cannot be read", path.display()))?;
    conn.busy_timeout(Duration::from_secs(10))?;
    Ok(conn)
}
