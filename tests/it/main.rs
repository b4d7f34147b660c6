//! The integration tests: one binary, a file per stage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]
#![allow(
    clippy::items_after_statements,
    clippy::from_iter_instead_of_collect,
    clippy::assigning_clones,
    clippy::match_bool
)]

mod acts;
mod answers;
mod backlog;
mod batch;
mod capture;
mod commands;
mod config;
mod cost;
mod crash;
mod deliveries;
mod demo;
mod demo_partners;
mod desk;
mod dispatch;
mod durability;
mod faults;
mod fleet;
mod fuzz;
mod gate;
mod harness;
mod intake;
mod late;
mod layering;
mod model;
mod openapi;
mod overload;
mod partner_faults;
mod partner_stub;
mod peers;
mod power_loss;
mod receivers;
mod render;
mod repository;
mod routing;
mod selling;
mod servers;
mod staff;
mod stalls;
mod store;
mod tokens;
mod transport;
mod verdict;
mod waiting;
