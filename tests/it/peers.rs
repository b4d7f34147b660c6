//! Servers that are not ours: what we say is understood by stacks that nobody wrote to please us.
//!
//! They stand in tests/peers/ and are Python; `make tools` installs what they need into target/peers.

mod oauth2;
mod soap;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A peer that runs; it ends when it is dropped.
struct Peer {
    child: Child,
    port: u16,
}

impl Peer {
    /// Starts `tests/peers/{script}`, which prints its port.
    fn start(script: &str, arguments: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("target/peers/bin/python");
        assert!(python.exists(), "{} is not there; `make tools` installs it", python.display());
        let mut child = Command::new(python)
            .arg(root.join("tests/peers").join(script))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().and_then(Result::ok).unwrap_or_default();
        std::thread::spawn(move || lines.for_each(drop));
        let port = first.parse().unwrap_or_else(|_| panic!("{script} did not start: `{first}`; try `make tools`"));
        Self { child, port }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
