//! Dispatch: sends one rendered request to a partner and says exactly what became of it.
//!
//! [`Dispatcher::send`] answers with a [`Sent`]: a whole reply, or a fault whose kind says whether the partner may have
//! the lead (promise 4). It reaches only where it may (promise 8), costs other partners nothing (promise 5), and
//! decides nothing: what a reply means is the verdict's, when to try again is told by [`retry`], whether to try at all
//! by [`breaker`].
//!
//! `client` is one exchange, `handover` the question "was it sent?", `target` where it may go, `address` what can be said of
//! a URL without reading it anew, `token` the OAuth 2.0 tokens that some partners want first, `own` the clients of
//! endpoints with certificates or a `keep_alive` of their own.

mod address;
pub mod breaker;
mod client;
pub mod concurrency;
mod handover;
mod own;
mod reply;
pub mod retry;
mod stopwatch;
pub mod target;
mod tls;
pub mod token;

pub use own::OwnClient;

use std::sync::Arc;
use std::time::Duration;

use crate::model::contract::Endpoint;
use crate::model::exchange::{Outgoing, Sent};
use address::FixedUrls;
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

/// What is wrong with a setting of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct SettingFault {
    /// The key below the endpoint, such as `tls.certificate`.
    pub key: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// How an endpoint's exchanges travel, and the time that each may take.
#[derive(Debug, Clone)]
pub struct Transport {
    /// Until the request can be handed over: name, connection and TLS. At most two minutes count.
    pub connect_timeout: Duration,
    /// For everything, to the last byte of the reply.
    pub timeout: Duration,
    /// The endpoint's own client; `None` for the one that all others share.
    pub own: Option<Arc<OwnClient>>,
    /// The endpoint's URLs, as far as they are the same for every lead.
    fixed: FixedUrls,
}

impl Transport {
    /// By the shared client.
    #[must_use]
    pub fn shared(connect_timeout: Duration, timeout: Duration) -> Self {
        Self { connect_timeout, timeout, own: None, fixed: FixedUrls::default() }
    }

    /// An endpoint's. `before` is what it had until now, whose connections are kept where nothing changed.
    ///
    /// # Errors
    /// What is wrong with its certificates, and under which key.
    pub fn of(endpoint: &Endpoint, before: Option<&Self>) -> Result<Self, Vec<SettingFault>> {
        let own = OwnClient::of(endpoint)?.map(|own| match before.and_then(|before| before.own.as_ref()) {
            Some(known) if known.is_like(&own) => Arc::clone(known),
            _ => Arc::new(own),
        });
        Ok(Self {
            connect_timeout: endpoint.connect_timeout.0,
            timeout: endpoint.timeout.0,
            own,
            fixed: FixedUrls::of(endpoint),
        })
    }
}

/// Sends requests. Cheap to clone; the clones share their connections.
///
/// One client serves every endpoint that has no certificates and no `keep_alive` of its own: the time-outs are kept per exchange
/// here, not by the client, for only so can a time-out tell whether the request had been handed over.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    client: reqwest::Client,
    config: Arc<DispatchConfig>,
    roots: Arc<rustls::RootCertStore>,
}

impl Dispatcher {
    /// Reads the machine's root certificates; do it once, at start.
    ///
    /// # Errors
    /// When the extra roots cannot be read, or TLS cannot be set up.
    pub fn new(config: DispatchConfig) -> Result<Self, DispatchFault> {
        let roots = Arc::new(tls::roots(config.extra_roots_pem.as_deref())?);
        let client = client::build(&config, tls::config(Arc::clone(&roots))?, Endpoint::KEEP_ALIVE)?;
        Ok(Self { client, config: Arc::new(config), roots })
    }

    /// The headers that [`Dispatcher::send`] adds to those of `outgoing`, for a capture that shows all that was sent.
    #[must_use]
    pub fn added_headers(&self, outgoing: &Outgoing) -> Vec<(String, String)> {
        client::added_headers(&self.config, outgoing)
    }

    /// Sends one request and reads the reply. Must run in a tokio runtime, and to its end: dropped half-way, it leaves
    /// an attempt whose outcome nobody knows.
    pub async fn send(&self, transport: &Transport, outgoing: &Outgoing) -> Sent {
        let client = match &transport.own {
            None => &self.client,
            Some(own) => match own.client(&self.config, &self.roots) {
                Ok(client) => client,
                Err(fault) => return Sent::not_sent(fault.to_string()),
            },
        };
        client::send(client, &self.config, transport, outgoing).await
    }
}
