//! The commands of every day: export, redeliver and import (CONTRACT 8), by the real binary.

mod export;
mod import;
mod redeliver;

use std::process::Output;

use crate::harness::World;

/// Exit code, and everything that was printed.
fn told(output: &Output) -> (i32, String) {
    let text = [&*output.stdout, &*output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(text).unwrap())
}

/// Runs a command that must end with this code; what it printed.
fn run(world: &World, code: i32, arguments: &[&str]) -> String {
    let (ended, text) = told(&world.run(arguments));
    assert_eq!(ended, code, "{arguments:?}: {text}");
    text
}
