//! What the faces share: the HTTP server, and how errors are answered.

pub mod begun;
pub mod problem;
pub mod room;
pub mod server;
mod unread;
