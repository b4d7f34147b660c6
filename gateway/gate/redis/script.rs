//! The scripts that run in Redis, and what they are told and answer. What each does stands in its own file.

use std::fmt::Display;

use ::redis::{Cmd, Script, Value};

use super::link::{Failed, Link, Patience, Up};
use crate::gate::memory::Stamp;

/// A script, sent by its hash, and as a whole to a server that does not know it.
pub(super) struct Known {
    code: &'static str,
    hash: String,
}

/// Every script.
pub(super) struct Scripts {
    pub(super) take: Known,
    pub(super) load: Known,
    pub(super) give_back: Known,
    pub(super) correct: Known,
    pub(super) void: Known,
}

/// What a `take` or `look` was answered.
pub(super) enum Said {
    /// Open; with the counts, in the order of the keys.
    Open(Mark, Vec<u64>),
    Shut {
        mark: Mark,
        partner_paused: bool,
        contract_paused: bool,
        open: bool,
        counts: Vec<u64>,
    },
    Missing(Mark, Missing),
    /// The version that is in force.
    Behind(u64),
}

/// What must be loaded before a take can be answered.
pub(super) struct Missing {
    pub(super) state: bool,
    pub(super) partner_pause: bool,
    pub(super) contract_pause: bool,
    pub(super) rules: bool,
    /// For each counter.
    pub(super) counters: Vec<bool>,
}

/// A partner's shared state at the moment of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) epoch: u64,
    pub(super) given_back: u64,
    pub(super) changes: u64,
}

/// What a load was answered.
pub(super) enum Loaded {
    Done,
    /// Look it up again.
    Changed,
    /// A newer network is in force.
    Behind,
}

impl Default for Scripts {
    fn default() -> Self {
        let known = |code| Known { code, hash: Script::new(code).get_hash().to_owned() };
        Self {
            take: known(include_str!("take.lua")),
            load: known(include_str!("load.lua")),
            give_back: known(include_str!("give_back.lua")),
            correct: known(include_str!("correct.lua")),
            void: known(include_str!("void.lua")),
        }
    }
}

impl Known {
    /// Runs it. A server that does not know it (a new one, SCRIPT FLUSH) gets it as a whole, and knows it from then on.
    pub(super) async fn run(
        &self,
        link: &Link,
        up: &Up,
        keys: &[String],
        args: &[String],
        patience: &mut Patience,
    ) -> Result<Value, Failed> {
        let cmd = |name, script: &str| -> Cmd {
            let mut cmd = ::redis::cmd(name);
            cmd.arg(script).arg(keys.len()).arg(keys).arg(args);
            cmd
        };
        match link.ask(up, &cmd("EVALSHA", &self.hash), patience).await {
            Err(Failed::NoScript) => link.ask(up, &cmd("EVAL", self.code), patience).await,
            answer => answer,
        }
    }
}

/// Arguments as Redis takes them.
pub(super) fn args<const N: usize>(values: [&dyn Display; N]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

impl Mark {
    pub(super) fn stamp(self) -> Stamp {
        Stamp { epoch: self.epoch, changes: self.changes }
    }
}

/// Reads what take.lua answered; `None` if that is no answer of it.
pub(super) fn said(answer: &Value) -> Option<Said> {
    let Value::Array(items) = answer else { return None };
    let (what, rest) = items.split_first()?;
    let (mark, rest) = mark(rest)?;
    let flag = |at: usize| rest.get(at).and_then(number).map(|n| n == 1);
    let counts = |from: usize| rest.get(from..)?.iter().map(number).collect::<Option<Vec<u64>>>();
    Some(match text(what)?.as_str() {
        "open" => Said::Open(mark, counts(0)?),
        "shut" => {
            Said::Shut { mark, partner_paused: flag(0)?, contract_paused: flag(1)?, open: flag(2)?, counts: counts(3)? }
        }
        "missing" => Said::Missing(
            mark,
            Missing {
                state: flag(0)?,
                partner_pause: flag(1)?,
                contract_pause: flag(2)?,
                rules: flag(3)?,
                counters: counts(4)?.into_iter().map(|n| n == 1).collect(),
            },
        ),
        "behind" => Said::Behind(rest.first().and_then(number)?),
        _ => return None,
    })
}

/// Reads what load.lua answered.
pub(super) fn loaded(answer: &Value) -> Option<Loaded> {
    match text(answer)?.as_str() {
        "loaded" => Some(Loaded::Done),
        "changed" => Some(Loaded::Changed),
        version => version.parse::<u64>().ok().map(|_| Loaded::Behind),
    }
}

/// Reads the mark and the counts, where there are some, that give_back.lua and correct.lua answered.
pub(super) fn counts(answer: &Value) -> Option<(Mark, Vec<Option<u64>>)> {
    let Value::Array(items) = answer else { return None };
    let (mark, rest) = mark(items)?;
    Some((mark, rest.iter().map(number).collect()))
}

/// Numbers as they stand; what is not there is none.
pub(super) fn numbers(answer: &Value) -> Option<Vec<Option<u64>>> {
    let Value::Array(items) = answer else { return None };
    Some(items.iter().map(number).collect())
}

fn mark(items: &[Value]) -> Option<(Mark, &[Value])> {
    let [epoch, given_back, changes, rest @ ..] = items else { return None };
    Some((Mark { epoch: number(epoch)?, given_back: number(given_back)?, changes: number(changes)? }, rest))
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        value => text(value)?.parse().ok(),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}
