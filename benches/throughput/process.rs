//! Processes that the benchmark starts: each is ended by its own pid, at the end of what needed it, after a failure, and
//! when somebody stops the benchmark.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use lead_gateway::clock;
use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to end when it was asked to.
const END_WITHIN: Duration = Duration::from_secs(45);

/// What lives, and what is to be removed: for the thread that hears the signal.
static LEFT: Mutex<Left> = Mutex::new(Left { processes: Vec::new(), directories: Vec::new() });

struct Left {
    /// Each with the signal that ends it at once.
    processes: Vec<(u32, Signal)>,
    directories: Vec<PathBuf>,
}

fn left() -> MutexGuard<'static, Left> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that ends with this value.
pub struct Process {
    pub name: String,
    child: Child,
    /// What asks it to end.
    asks: Signal,
}

impl Process {
    /// Starts a command; `asks` is the signal upon which it ends in order, `ends` the one upon which it ends at once
    /// with all of its own processes.
    pub fn spawn(name: &str, command: &mut Command, asks: Signal, ends: Signal) -> anyhow::Result<Self> {
        // Not with the terminal's Ctrl-C, but in order.
        std::os::unix::process::CommandExt::process_group(command, 0);
        let child = command.stdin(Stdio::null()).spawn().with_context(|| {
            let program = command.get_program().to_string_lossy();
            format!("{program} cannot be started; `make bench-peers` as root installs what the benchmark needs")
        })?;
        left().processes.push((child.id(), ends));
        Ok(Self { name: name.to_owned(), child, asks })
    }

    /// This program in another role.
    pub fn role(name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("the benchmark does not know where its own program is")?;
        let mut command = Command::new(own);
        command.args(arguments).stdout(Stdio::piped());
        Self::spawn(name, &mut command, Signal::KILL, Signal::KILL)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output by lines; to be asked for once.
    pub fn lines(&mut self) -> anyhow::Result<std::io::Lines<BufReader<std::process::ChildStdout>>> {
        let out = self.child.stdout.take().with_context(|| format!("{} says nothing", self.name))?;
        Ok(BufReader::new(out).lines())
    }

    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// Waits for its own end.
    pub fn wait(mut self) -> anyhow::Result<()> {
        let status = self.child.wait()?;
        self.forget();
        anyhow::ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it did not end well, or not in time.
    pub fn end(mut self) -> anyhow::Result<()> {
        signal(self.child.id(), self.asks);
        let began = clock::instant();
        while began.elapsed() < END_WITHIN {
            if let Some(status) = self.child.try_wait()? {
                self.forget();
                let fine = status.success() || self.asks == Signal::KILL;
                anyhow::ensure!(fine, "{} ended with {status}", self.name);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        anyhow::bail!("{} did not end within {} s", self.name, END_WITHIN.as_secs())
    }

    fn forget(&self) {
        left().processes.retain(|(pid, _)| *pid != self.child.id());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended() {
            return self.forget();
        }
        let ends = left().processes.iter().find(|(pid, _)| *pid == self.child.id()).map(|(_, ends)| *ends);
        signal(self.child.id(), ends.unwrap_or(Signal::KILL));
        let began = clock::instant();
        while !self.has_ended() {
            if began.elapsed() > Duration::from_secs(10) {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.forget();
    }
}

/// A directory that goes with this value.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one in `parent`.
    pub fn new(parent: &Path, prefix: &str) -> anyhow::Result<Self> {
        let made = tempfile::Builder::new().prefix(prefix).tempdir_in(parent);
        let path = made.with_context(|| format!("no directory can be made in {}", parent.display()))?.keep();
        left().directories.push(path.clone());
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        left().directories.retain(|one| *one != self.0);
    }
}

/// On SIGINT and SIGTERM: ends what was started, removes what was written, and ends the benchmark.
pub fn end_all_when_interrupted() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        // Held to the end: nobody starts another.
        let left = left();
        eprintln!("throughput: stopped; ending {} processes", left.processes.len());
        for (pid, ends) in left.processes.iter().rev() {
            signal_now(*pid, *ends);
        }
        // A database's own processes take a moment; their files are removed after them.
        std::thread::sleep(Duration::from_secs(1));
        for directory in &left.directories {
            let _ = std::fs::remove_dir_all(directory);
        }
        std::process::exit(130);
    })?;
    Ok(())
}

fn signal(pid: u32, signal: Signal) {
    signal_now(pid, signal);
}

/// To one process that this benchmark started; one that has ended by itself is no trouble.
fn signal_now(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends this process with the one that started it: for the roles that nobody else would end.
pub fn end_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
}

/// A port where nobody listens, for a server that must be told one: below those that the system gives to others.
pub fn free_port() -> anyhow::Result<u16> {
    let begin = std::process::id() % 10_000;
    (0..10_000_u32)
        .filter_map(|n| u16::try_from(20_000 + (begin + n) % 10_000).ok())
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no port between 20000 and 30000 is free")
}

/// A program that the benchmark needs, where it is installed, or how to install it.
pub fn program(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    places.extend(["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from));
    places.into_iter().map(|place| place.join(name)).find(|path| path.is_file()).with_context(|| {
        format!("{name} is not installed; `make bench-peers` as root installs it (Debian: apt-get install {package})")
    })
}
