//! A PostgreSQL of the benchmark's own. It syncs as it would in production, and has the memory that a machine of its own
//! would give it.

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use lead_gateway::clock;
use rustix::process::Signal;

use super::process::{Process, Scratch, free_port};

/// Fills some files of the log. After a checkpoint they are used again, as in a server that has run for a while; a new one
/// makes each when it is needed, in the middle of somebody's commit.
const FILL_LOG: &str = "DO $$ BEGIN FOR i IN 1..60 LOOP
         PERFORM pg_logical_emit_message(false, 'bench', ''); PERFORM pg_switch_wal();
     END LOOP; END $$";

/// A server that runs.
pub struct Postgres {
    pub process: Process,
    port: u16,
    programs: PathBuf,
    // Last: its files go after the server.
    _directory: Scratch,
}

impl Postgres {
    /// Makes a database in a directory of its own in `parent`, and starts its server.
    pub fn start(parent: &Path) -> anyhow::Result<Self> {
        let programs = programs()?;
        let user = unprivileged()?;
        // Not in the benchmark's directory: whoever runs the server may not be allowed in there.
        let directory = Scratch::new(parent, "bench-postgres-")?;
        if let Some((uid, gid)) = user {
            chown(directory.path(), Some(uid), Some(gid))?;
        }
        let data = directory.path().join("data");
        let mut initdb = as_user(&programs.join("initdb"), user);
        initdb.arg("-D").arg(&data).args(["--auth", "trust", "-U", "gateway", "--no-sync", "--locale", "C"]);
        let made = initdb.args(["-E", "UTF8"]).current_dir(directory.path()).output().context("initdb cannot run")?;
        anyhow::ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));

        let port = free_port()?;
        let log = directory.path().join("log");
        let mut server = as_user(&programs.join("postgres"), user);
        server.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "fsync=on",
            "synchronous_commit=on",
            "shared_buffers=256MB",
            "max_wal_size=4GB",
            "min_wal_size=1GB",
            "max_locks_per_transaction=256",
            "max_connections=100",
            "log_min_messages=warning",
        ] {
            server.args(["-c", setting]);
        }
        server.arg("-c").arg(format!("unix_socket_directories={}", directory.path().display()));
        server.current_dir(directory.path()).stdout(Stdio::null()).stderr(File::create(&log)?);
        // INT: at once for those connected, in order for what was committed.
        let mut process = Process::spawn("postgres", &mut server, Signal::INT, Signal::QUIT)?;
        let began = clock::instant();
        loop {
            let said = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            if said.lines().map(str::trim).next_back() == Some("ready") {
                let server = Self { process, port, programs, _directory: directory };
                query(&server.psql(), &server.url(), FILL_LOG)?;
                query(&server.psql(), &server.url(), "CHECKPOINT")?;
                return Ok(server);
            }
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            anyhow::ensure!(!process.has_ended(), "PostgreSQL did not start: {}", log());
            anyhow::ensure!(began.elapsed() < Duration::from_mins(1), "PostgreSQL is not ready: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn url(&self) -> String {
        format!("postgres://gateway@127.0.0.1:{}/postgres", self.port)
    }

    pub fn psql(&self) -> PathBuf {
        self.programs.join("psql")
    }
}

/// What a statement answers in the database at `url`: a line for each row, columns between `|`.
pub fn query(psql: &Path, url: &str, sql: &str) -> anyhow::Result<String> {
    let output =
        Command::new(psql).args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]).output();
    let output = output.context("psql cannot be started")?;
    anyhow::ensure!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// Where initdb, postgres and psql are: Debian keeps them out of the PATH, by version.
pub fn programs() -> anyhow::Result<PathBuf> {
    let found = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = found.map(|entry| entry.path().join("bin")).collect();
    places.sort();
    places.reverse();
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let all = |bin: &PathBuf| ["initdb", "postgres", "psql"].iter().all(|program| bin.join(program).exists());
    places.into_iter().find(all).context(
        "PostgreSQL is not installed; `make bench-peers` as root installs it (Debian: apt-get install postgresql)",
    )
}

/// Who runs the server when we are root, which it refuses: its user and group.
fn unprivileged() -> anyhow::Result<Option<(u32, u32)>> {
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let of = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2).map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    let user = of("postgres").or_else(|| of("nobody"));
    user.map(Some).context("PostgreSQL refuses root, and there is no user postgres or nobody")
}

fn as_user(program: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    // Whatever the environment says about other servers, time zones and languages does not concern this one.
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("TZ", "UTC");
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}
