//! Redis servers.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lead_gateway::clock;
use tempfile::TempDir;

use super::signal;
use crate::harness::{free_port, free_port_from};

/// A server that starts has so long to answer; CI machines are slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Redis that runs; it ends when it is dropped.
pub struct Redis {
    child: Child,
    dir: TempDir,
    pub port: u16,
    arguments: Vec<String>,
    /// It speaks TLS alone, so the helpers below cannot talk to it.
    tls: bool,
}

impl Redis {
    /// An empty server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// As [`Redis::start`], with further options such as `--maxmemory 4mb`.
    pub fn with(options: &[&str]) -> Self {
        Self::launch(false, |port, dir| {
            let own = ["--port", &port.to_string()].map(str::to_owned);
            [own.to_vec(), options.iter().map(ToString::to_string).collect(), keeping_nothing(dir)].concat()
        })
    }

    /// A server that speaks TLS alone, with this certificate and key (PEM).
    pub fn with_tls(certificate: &Path, key: &Path) -> Self {
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        Self::launch(true, |port, dir| {
            let port = port.to_string();
            let own = ["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"];
            let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key];
            [own.map(str::to_owned).to_vec(), files.map(str::to_owned).to_vec(), keeping_nothing(dir)].concat()
        })
    }

    /// A sentinel that watches the master on `master`, and needs two of its kind to agree.
    pub fn sentinel(master: u16) -> Self {
        Self::launch(false, |port, dir| {
            let config = dir.join("sentinel.conf");
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor leads 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds leads 1000\nsentinel failover-timeout leads 5000\n",
                dir.display()
            );
            std::fs::write(&config, text).unwrap();
            vec![config.display().to_string(), "--sentinel".to_owned()]
        })
    }

    /// Tests run at once, and another may take the port in the last moment: then it is tried on the next.
    fn launch(tls: bool, arguments: impl Fn(u16, &Path) -> Vec<String>) -> Self {
        let mut port = free_port();
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let arguments = arguments(port, dir.path());
            let mut server = Self { child: spawn(&arguments), dir, port, arguments, tls };
            if server.answers() {
                return server;
            }
            port = free_port_from(port + 1);
        }
        panic!("redis-server does not start on any port")
    }

    /// Whether it is this one that answers on its port; `false` once it has ended, the port being another's.
    fn answers(&mut self) -> bool {
        let deadline = clock::instant() + PATIENCE;
        let own = format!("process_id:{}\r\n", self.child.id());
        loop {
            let up = if self.tls {
                TcpStream::connect(("127.0.0.1", self.port)).is_ok()
            } else {
                // One that wants a password says so instead.
                let told = self.try_command(&["INFO", "server"]);
                told.is_some_and(|told| told.contains(&own) || told.starts_with("NOAUTH"))
            };
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if up {
                return true;
            }
            assert!(clock::instant() < deadline, "redis-server on {} does not answer ({:?})", self.port, self.dir);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// SIGKILL, as a crash would end it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after [`Redis::kill`]: empty, for nothing was kept.
    pub fn restart(&mut self) {
        let deadline = clock::instant() + PATIENCE;
        loop {
            self.child = spawn(&self.arguments);
            if self.answers() {
                return;
            }
            assert!(clock::instant() < deadline, "redis-server does not start again on {}", self.port);
        }
    }

    /// Stops it in its tracks: connections stay, and nothing is answered.
    pub fn stop(&self) {
        signal("STOP", self.child.id());
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        signal("CONT", self.child.id());
    }

    /// A command's answer, as Redis writes it.
    pub fn command(&self, words: &[&str]) -> String {
        self.try_command(words).unwrap_or_else(|| panic!("redis on {} did not answer {words:?}", self.port))
    }

    /// As [`Redis::command`], of a server that wants a password.
    pub fn command_as(&self, password: &str, words: &[&str]) -> String {
        self.ask(&[&["AUTH", password], words]).unwrap_or_else(|| panic!("redis did not answer {words:?}"))
    }

    /// As [`Redis::command`]; `None` when the connection broke.
    pub fn try_command(&self, words: &[&str]) -> Option<String> {
        self.ask(&[words])
    }

    /// The last of several commands' answers.
    fn ask(&self, commands: &[&[&str]]) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        for words in commands {
            let bulk: Vec<String> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
            stream.write_all(format!("*{}\r\n{}", bulk.len(), bulk.concat()).as_bytes()).ok()?;
        }
        let mut replies = BufReader::new(stream);
        let mut answers: Vec<Option<String>> = commands.iter().map(|_| read_reply(&mut replies)).collect();
        answers.pop().flatten()
    }
}

fn keeping_nothing(dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", &dir].map(str::to_owned).to_vec()
}

fn spawn(arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server cannot be started ({error}); `make tools` installs it"))
}

/// One reply of the protocol (RESP2), flattened: the items of a list a line each.
fn read_reply(reader: &mut impl std::io::BufRead) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1)?;
    match kind {
        "+" | "-" | ":" => Some(rest.to_owned()),
        "$" => {
            let Ok(length) = rest.parse::<usize>() else { return Some(String::new()) };
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes).ok()?;
            bytes.truncate(length);
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" => {
            let many: i64 = rest.parse().ok()?;
            let items: Option<Vec<String>> = (0..many).map(|_| read_reply(reader)).collect();
            Some(items?.join("\n"))
        }
        _ => None,
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Three masters with all slots between them, and no replicas.
pub struct Cluster {
    pub nodes: Vec<Redis>,
}

impl Cluster {
    pub fn start() -> Self {
        let options =
            ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-config-file", "nodes.conf"];
        let node = || {
            Redis::launch(false, |port, dir| {
                // Nodes talk on a second port. By itself it would be one of those that the system gives to connections.
                let (port, bus) = (port.to_string(), free_port_from(port + 1).to_string());
                let own = ["--port", &port, "--cluster-port", &bus].map(str::to_owned);
                [own.to_vec(), options.map(str::to_owned).to_vec(), keeping_nothing(dir)].concat()
            })
        };
        let nodes: Vec<Redis> = (0..3).map(|_| node()).collect();
        for (nth, node) in nodes.iter().enumerate() {
            let (first, last) = (nth * 16384 / 3, (nth + 1) * 16384 / 3 - 1);
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(nth + 1).to_string()]);
        }
        for node in &nodes[1..] {
            let bus = node.arguments.iter().skip_while(|one| *one != "--cluster-port").nth(1).unwrap();
            nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus]);
        }
        let cluster = Self { nodes };
        let deadline = clock::instant() + PATIENCE;
        let ready = |node: &Redis| {
            let info = node.command(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        };
        while !cluster.nodes.iter().all(ready) {
            assert!(clock::instant() < deadline, "the cluster did not come together");
            std::thread::sleep(Duration::from_millis(20));
        }
        cluster
    }

    /// Moves the slot of `key`, with all that is in it, to the next node.
    pub fn move_slot_of(&self, key: &str) {
        let slot = self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]);
        let number: usize = slot.parse().unwrap();
        let id = |at: usize| self.nodes[at].command(&["CLUSTER", "MYID"]);
        let owner = (0..3).find(|at| self.owner(*at, number) == Some(id(*at))).unwrap();
        let to = (owner + 1) % 3;
        let (source, target) = (&self.nodes[owner], &self.nodes[to]);
        target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(owner)]);
        source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
        loop {
            let keys = source.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "3"]);
            if keys.is_empty() {
                break;
            }
            for key in keys.lines() {
                source.command(&["MIGRATE", "127.0.0.1", &target.port.to_string(), key, "0", "5000"]);
            }
        }
        for node in [target, source] {
            node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
        }
        // The next move waits until all know of this one: two masters that take the same epoch may each believe that
        // the slot is the other's, and then nobody has it.
        let deadline = clock::instant() + PATIENCE;
        let epoch = |node: &Redis| {
            let info = node.command(&["CLUSTER", "INFO"]);
            info.lines().find(|line| line.starts_with("cluster_current_epoch")).map(str::to_owned)
        };
        while !(0..3).all(|at| self.owner(at, number) == Some(id(to)) && epoch(&self.nodes[at]) == epoch(target)) {
            assert!(clock::instant() < deadline, "the nodes do not agree whose slot {slot} is");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The id of the node that has this slot, as node `at` sees it.
    fn owner(&self, at: usize, slot: usize) -> Option<String> {
        // `ID … connected 0-5460 12182`; what moves stands in brackets.
        let lines = self.nodes[at].command(&["CLUSTER", "NODES"]);
        let has = |line: &&str| {
            line.split(' ').skip(8).filter(|range| !range.starts_with('[')).any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                (first.parse().unwrap()..=last.parse().unwrap()).contains(&slot)
            })
        };
        lines.lines().find(has).and_then(|line| line.split(' ').next()).map(str::to_owned)
    }
}
