//! A PostgreSQL of a test's own. It syncs as it would in production: what is told durable has to be.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lead_gateway::clock;
use tempfile::TempDir;

use super::disk::SmallDisk;
use crate::harness::free_port;

/// How long a server may take to start or to stop; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server that may be killed, stopped and started again. It ends with this value.
pub struct Postgres {
    port: u16,
    programs: PathBuf,
    user: Option<(u32, u32)>,
    databases: AtomicU32,
    postmaster: Option<Child>,
    // Last: its files go after the server.
    dir: TempDir,
}

impl Postgres {
    /// Starts a server with no database but its own.
    pub fn start() -> Self {
        let programs = programs();
        let user = unprivileged();
        let dir = tempfile::tempdir().unwrap();
        copy(&template(&programs, user), &dir.path().join("data"), user);
        own(dir.path(), user);
        let mut server = Self { port: 0, programs, user, databases: AtomicU32::new(0), postmaster: None, dir };
        // Another test may take the port first.
        for _ in 0..20 {
            server.port = free_port();
            if server.run() {
                return server;
            }
            assert!(server.log().contains("could not bind"), "PostgreSQL did not start: {}", server.log());
        }
        panic!("PostgreSQL found no free port: {}", server.log());
    }

    /// The server's own database, for what concerns all of them.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// A new, empty database.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.psql(&self.url(), &format!("CREATE DATABASE {name}"));
        self.url_of(&name)
    }

    /// A small disk for a part of what it keeps; `None` where none may be mounted. (It outlives the server: drop it later.)
    pub fn small_disk(&self, mebibytes: u32) -> Option<SmallDisk> {
        let disk = SmallDisk::mount(&self.dir.path().join("small"), mebibytes)?;
        own(disk.path(), self.user);
        Some(disk)
    }

    /// A new, empty database whose tables are on `disk`.
    pub fn database_on(&self, disk: &SmallDisk) -> String {
        let tables = disk.path().join("tables");
        std::fs::create_dir(&tables).unwrap();
        own(&tables, self.user);
        self.psql(&self.url(), &format!("CREATE TABLESPACE small LOCATION '{}'", tables.display()));
        self.psql(&self.url(), "CREATE DATABASE small TABLESPACE small");
        self.url_of("small")
    }

    /// Keeps its log on `disk` from now on, where an operator would have put it for speed.
    pub fn keep_log_on(&mut self, disk: &SmallDisk) {
        self.stop();
        let (log, moved) = (self.data().join("pg_wal"), disk.path().join("log"));
        copy(&log, &moved, self.user);
        std::fs::remove_dir_all(&log).unwrap();
        std::os::unix::fs::symlink(&moved, &log).unwrap();
        self.restart();
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://gateway@127.0.0.1:{}/{database}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What a statement answers in the database at `url`: a line for each row, columns between `|`.
    pub fn psql(&self, url: &str, sql: &str) -> String {
        let output = Command::new(self.programs.join("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql])
            .env("PGCONNECT_TIMEOUT", "30")
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// As [`Postgres::psql`], beside the test.
    pub fn spawn_psql(&self, url: &str, sql: &str) -> Child {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Ends all of its processes at once, as a power loss would for all that they had not synced.
    pub fn kill9(&mut self) {
        let Some(mut postmaster) = self.postmaster.take() else { return };
        let mut all = children_of(postmaster.id());
        all.insert(0, postmaster.id());
        signal("KILL", &all);
        postmaster.wait().unwrap();
        // Those that were being started in that moment follow by themselves: their postmaster is gone.
        wait_until("the server's processes did not end", || {
            all[1..].iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        });
    }

    /// Stops it as an operator would: open transactions are rolled back.
    pub fn stop(&mut self) {
        self.end("INT");
    }

    /// Starts it again, at the same address and on the same files.
    pub fn restart(&mut self) {
        self.stop();
        let began = clock::instant();
        // After a kill the last of the old processes may still hold its memory.
        while !self.run() {
            assert!(began.elapsed() < PATIENCE, "PostgreSQL did not start again: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it wrote since it was last started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Runs the server until it takes connections; `false` when it ended instead.
    fn run(&mut self) -> bool {
        let log = File::create(self.dir.path().join("log")).unwrap();
        let mut command = as_user(&self.programs.join("postgres"), self.user);
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "fsync=on",
            "synchronous_commit=on",
            "shared_buffers=32MB",
            "max_connections=100",
            // A small machine that runs many servers at once.
            "max_parallel_workers=0",
            "log_min_messages=warning",
        ] {
            command.args(["-c", setting]);
        }
        command.arg("-c").arg(format!("unix_socket_directories={}", self.dir.path().display()));
        let mut postmaster = command
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let id = postmaster.id().to_string();
        let began = clock::instant();
        loop {
            if postmaster.try_wait().unwrap().is_some() {
                return false;
            }
            // Its own word in its own file: another server may be answering at this port.
            let said = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let mut lines = said.lines().map(str::trim);
            if lines.next() == Some(&id) && lines.next_back() == Some("ready") {
                self.postmaster = Some(postmaster);
                return true;
            }
            if began.elapsed() > PATIENCE {
                let _ = postmaster.kill();
                let _ = postmaster.wait();
                panic!("PostgreSQL was not ready in time: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(&mut self, with: &str) {
        let Some(mut postmaster) = self.postmaster.take() else { return };
        signal(with, &[postmaster.id()]);
        let began = clock::instant();
        while postmaster.try_wait().unwrap().is_none() {
            if began.elapsed() > PATIENCE {
                let _ = postmaster.kill();
                let _ = postmaster.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // QUIT: at once, but its processes and its shared memory with it.
        self.end("QUIT");
    }
}

/// Where initdb and postgres are: Debian keeps them out of the PATH.
fn programs() -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|found| found.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    let number = |bin: &Path| {
        bin.parent().and_then(Path::file_name).and_then(|name| name.to_str()?.parse::<u32>().ok()).unwrap_or(0)
    };
    versions.sort_by_key(|bin| std::cmp::Reverse(number(bin)));
    versions.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    versions
        .into_iter()
        .find(|bin| ["initdb", "postgres", "psql"].iter().all(|program| bin.join(program).exists()))
        .expect("PostgreSQL's initdb, postgres and psql are not there; `make tools` installs them (Debian: apt-get install postgresql)")
}

/// Who runs the server when we are root, which it refuses: its user and group.
fn unprivileged() -> Option<(u32, u32)> {
    // Who owns what we make is who we are.
    let me = tempfile::tempfile().unwrap();
    if std::os::unix::fs::MetadataExt::uid(&me.metadata().unwrap()) != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let of = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2).map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    Some(
        of("postgres")
            .or_else(|| of("nobody"))
            .expect("PostgreSQL refuses root, and there is no user postgres or nobody"),
    )
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

/// The files of a new server, made once and kept beside what the tests are built into.
fn template(programs: &Path, user: Option<(u32, u32)>) -> PathBuf {
    let version = Command::new(programs.join("postgres")).arg("--version").output().unwrap().stdout;
    let version: String = String::from_utf8_lossy(&version).chars().filter(char::is_ascii_alphanumeric).collect();
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(root).unwrap();
    let made = root.join(format!("postgres-{version}"));
    // Tests are processes of their own: one makes them, the others wait.
    let mut lock = File::options().create(true).append(true).open(root.join("postgres.lock")).unwrap();
    lock.lock().unwrap();
    if !made.exists() {
        // Not below the repository: the user who runs the server may not be allowed in there.
        let dir = tempfile::tempdir().unwrap();
        own(dir.path(), user);
        let data = dir.path().join("data");
        let mut command = as_user(&programs.join("initdb"), user);
        command.arg("-D").arg(&data);
        command.args(["--auth", "trust", "-U", "gateway", "--no-sync", "--locale", "C", "-E", "UTF8"]);
        // Small log files: the copies are many.
        command.args(["--wal-segsize", "1"]);
        let output = command.current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let half = root.join(format!("postgres-{version}.half"));
        let _ = std::fs::remove_dir_all(&half);
        copy(&data, &half, None);
        std::fs::rename(&half, &made).unwrap();
        writeln!(lock, "{version}").unwrap();
    }
    made
}

/// A directory with all that is in it.
fn copy(from: &Path, to: &Path, owner: Option<(u32, u32)>) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target, owner);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
            own(&target, owner);
        }
    }
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).unwrap();
    own(to, owner);
}

fn own(path: &Path, owner: Option<(u32, u32)>) {
    if let Some((uid, gid)) = owner {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

fn signal(signal: &str, processes: &[u32]) {
    let ids = processes.iter().map(u32::to_string);
    // One that has ended by itself is no trouble.
    let _ = Command::new("kill").arg(format!("-{signal}")).args(ids).stderr(Stdio::null()).status().unwrap();
}

fn children_of(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // "pid (name) state parent …"; the name may hold anything.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if rest.split_whitespace().nth(1) == Some(&parent.to_string()) {
            found.push(pid);
        }
    }
    found
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let began = clock::instant();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a power loss must not take: what was told durable is there after all processes were killed.
#[test]
fn a_server_that_is_killed_comes_back_with_what_it_committed() {
    let mut server = Postgres::start();
    let url = server.database();
    assert_ne!(server.database(), url, "each database is new");
    server.psql(&url, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)");
    assert_eq!(server.psql(&url, "SHOW fsync; SHOW synchronous_commit"), "on\non");
    server.kill9();
    server.restart();
    assert_eq!(server.psql(&url, "SELECT n FROM kept"), "7");
    server.stop();
    server.restart();
    assert_eq!(server.psql(&url, "SELECT n FROM kept"), "7");
}
