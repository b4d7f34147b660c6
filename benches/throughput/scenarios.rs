//! What is measured. Each scenario is one function; what it must reach, and what it should, stands in it.

#[path = "scenarios/crowded.rs"]
mod crowded;
#[path = "scenarios/steady.rs"]
mod steady;
#[path = "scenarios/stored.rs"]
mod stored;

use super::measure::Bench;
use super::report::Finding;

/// A scenario.
pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    pub must: &'static str,
    pub goal: &'static str,
    pub run: fn(&Bench, &Sizes) -> anyhow::Result<Finding>,
}

/// How large those scenarios are that are about size.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Sizes {
    pub burst: u64,
    pub stored: u64,
    pub waiting: u64,
    pub partners: u64,
}

/// All of them, in the order in which they are run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "async",
        about: "embedded store, 202 at once, one JSON partner, 1 KB leads, limits and hours on",
        must: "0.3 × nginx",
        goal: "0.5 × nginx",
        run: steady::asynchronous,
    },
    Scenario {
        name: "wait",
        about: "the same, each post waiting for its outcome",
        must: "0.25 × nginx",
        goal: "0.45 × nginx",
        run: steady::waiting,
    },
    Scenario {
        name: "soap",
        about: "SOAP 1.2 partner, 3 KB template, XPath verdict",
        must: "0.15 × nginx",
        goal: "0.3 × nginx",
        run: steady::soap,
    },
    Scenario {
        name: "redis",
        about: "Redis gate, embedded store",
        must: "0.2 × nginx",
        goal: "0.4 × nginx",
        run: steady::redis,
    },
    Scenario {
        name: "fleet",
        about: "Redis and PostgreSQL, two gateways, everything on this machine",
        must: "0.08 × nginx",
        goal: "0.16 × nginx",
        run: steady::fleet,
    },
    Scenario {
        name: "partners",
        about: "50 partners, 10 dead, 10 slow (5 s): the rate of the other 30",
        must: "0.9 × their rate alone",
        goal: "0.98 × their rate alone",
        run: crowded::partners,
    },
    Scenario {
        name: "burst",
        about: "many leads (--burst) as fast as they are taken",
        must: "none refused, RSS 256 MiB, drains at 0.9 × the steady rate",
        goal: "1.0 × the steady rate",
        run: crowded::burst,
    },
    Scenario {
        name: "half",
        about: "half of the maximum rate: p99 of acceptance",
        must: "3 × the disk's sync p99 + 2 ms",
        goal: "1.5 × + 1 ms",
        run: steady::half,
    },
    Scenario {
        name: "large",
        about: "many deliveries in the store (--stored), against an empty one; searches by e-mail",
        must: "0.9 × the empty store's rate, p95 200 ms",
        goal: "1.0 ×, p95 50 ms",
        run: stored::large,
    },
    Scenario {
        name: "start",
        about: "start with unfinished deliveries (--waiting)",
        must: "first delivery 2 s, ready 5 s",
        goal: "1 s",
        run: stored::start,
    },
    Scenario {
        name: "network",
        about: "many partners (--partners), five contracts and a source for each, against a network of five contracts",
        must: "0.95 × the same rate, apply 5 s, RSS 512 MiB",
        goal: "the same",
        run: crowded::network,
    },
];
