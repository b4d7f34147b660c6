//! The lead delivery gateway: takes sales leads in, decides which partner may have each one now, speaks that
//! partner's language, and can prove afterwards what was said.
//!
//! Start at [`pipeline`]: it reads like the life of a delivery. `docs/ARCHITECTURE.md` has the map and the rules of
//! who may know whom.

// The life of a lead, from the post to the partner's reply.
pub mod capture;
pub mod dispatch;
pub mod gate;
pub mod intake;
pub mod pipeline;
pub mod render;
pub mod routing;
pub mod store;
pub mod verdict;
pub mod worker;

// What it works with.
pub mod clock;
pub mod directory;
pub mod failpoint;
pub mod model;
pub mod pace;
pub mod tasks;

// Its faces.
pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod telemetry;
pub mod web;
