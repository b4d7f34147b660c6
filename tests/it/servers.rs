//! Servers of others that the gateway needs, and disks: started by the test that needs them, on free ports of 127.0.0.1 and in a
//! directory of their own, and ended by their pid.

pub mod disk;
pub mod postgres;
pub mod proxy;
pub mod redis;

use std::process::Command;

/// The state letter of a process, as /proc has it: `T` while it is stopped.
pub fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name before it is in parentheses and may hold anything.
    stat.rsplit(')').next().unwrap().trim().chars().next().unwrap()
}

/// Sends a signal to a process that this test started.
pub fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(sent.success(), "kill -{name} {pid}: {sent}");
}
