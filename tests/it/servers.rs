//! Servers of others that the gateway needs: started by the test that needs them, on free ports of 127.0.0.1 and in a
//! directory of their own, and ended by their pid.

pub mod postgres;
pub mod proxy;
pub mod redis;

use std::process::Command;

/// Sends a signal to a process that this test started.
pub fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(sent.success(), "kill -{name} {pid}: {sent}");
}
