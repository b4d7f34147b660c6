//! Dispatch: sends one rendered request to a partner and says exactly what became of it.
//!
//! [`Dispatcher::send`] answers with a [`Sent`]: a whole reply, or a fault whose kind says whether the partner may have
//! the lead (promise 4). It reaches only where it may (promise 8), costs other partners nothing (promise 5), and
//! decides nothing: what a reply means is the verdict's, when to try again is told by [`retry`], whether to try at all
//! by [`breaker`].
//!
//! `client` is one exchange, `handover` the question "was it sent?", `target` where it may go.

pub mod breaker;
mod client;
mod handover;
mod reply;
pub mod retry;
mod stopwatch;
pub mod target;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use crate::model::contract::Endpoint;
use crate::model::exchange::{Outgoing, Sent};
use target::Egress;

/// How to build a [`Dispatcher`].
#[derive(Debug, Clone)]
pub struct DispatchConfig {
    /// Where it may reach.
    pub egress: Arc<Egress>,
    /// Certificates of private authorities, PEM, trusted beside the machine's own (see `SSL_CERT_FILE`).
    pub extra_roots_pem: Option<Vec<u8>>,
    /// At most so many bytes are read of a reply, and as many decompressed from it.
    pub reply_limit: usize,
    /// The `User-Agent` of requests that bring none.
    pub user_agent: String,
}

impl DispatchConfig {
    /// The defaults: 1 MiB of each reply, the machine's roots.
    #[must_use]
    pub fn new(egress: Egress) -> Self {
        Self {
            egress: Arc::new(egress),
            extra_roots_pem: None,
            reply_limit: 1024 * 1024,
            user_agent: concat!("lead-gateway/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Why a [`Dispatcher`] cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum DispatchFault {
    /// The extra roots are not certificates.
    #[error("the extra root certificates cannot be read ({0}); they must be PEM, one or more CERTIFICATE blocks")]
    ExtraRoots(String),
    /// TLS cannot be set up at all.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up ({0})")]
    Client(String),
}

/// The time that an exchange may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// Until the request can be handed over: name, connection and TLS. At most two minutes count.
    pub connect_timeout: Duration,
    /// For everything, to the last byte of the reply.
    pub timeout: Duration,
}

impl From<&Endpoint> for Transport {
    fn from(endpoint: &Endpoint) -> Self {
        Self { connect_timeout: endpoint.connect_timeout.0, timeout: endpoint.timeout.0 }
    }
}

/// Sends requests. Cheap to clone; the clones share their connections.
///
/// One client serves every endpoint: the time-outs are kept per exchange here, not by the client, for only so can a
/// time-out tell whether the request had been handed over.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    client: reqwest::Client,
    config: Arc<DispatchConfig>,
}

impl Dispatcher {
    /// Reads the machine's root certificates; do it once, at start.
    ///
    /// # Errors
    /// When the extra roots cannot be read, or TLS cannot be set up.
    pub fn new(config: DispatchConfig) -> Result<Self, DispatchFault> {
        Ok(Self { client: client::build(&config)?, config: Arc::new(config) })
    }

    /// The headers that [`Dispatcher::send`] adds to those of `outgoing`, for a capture that shows all that was sent.
    #[must_use]
    pub fn added_headers(&self, outgoing: &Outgoing) -> Vec<(String, String)> {
        client::added_headers(&self.config, outgoing)
    }

    /// Sends one request and reads the reply. Must run in a tokio runtime, and to its end: dropped half-way, it leaves
    /// an attempt whose outcome nobody knows.
    pub async fn send(&self, transport: &Transport, outgoing: &Outgoing) -> Sent {
        client::send(&self.client, &self.config, transport, outgoing).await
    }
}
