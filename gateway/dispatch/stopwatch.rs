//! Where the time of one exchange goes, as far as reqwest lets it be seen.
//!
//! A connection is made inside the request that asked for it, so the marks travel in a task-local: the resolver, the
//! layer around the connector, and the TLS session store (the first thing that a handshake asks) leave theirs there.
//! Where a connection is finished for another request in the background there is no watch, and nothing is marked.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use tower::{Layer, Service};

use crate::clock;
use crate::model::exchange::Timings;

tokio::task_local! {
    static RUNNING: Arc<Stopwatch>;
}

/// The marks of one exchange.
#[derive(Debug)]
pub(super) struct Stopwatch {
    started: Instant,
    marks: Mutex<Marks>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Marks {
    looking_up: Option<Instant>,
    looked_up: Option<Duration>,
    connecting: Option<Instant>,
    shaking_hands: Option<Instant>,
    connected: Option<Instant>,
    first_byte: Option<Instant>,
}

impl Stopwatch {
    pub(super) fn start() -> Arc<Self> {
        Arc::new(Self { started: clock::instant(), marks: Mutex::default() })
    }

    /// Runs `exchange` with this watch in sight of the connector.
    pub(super) async fn watch<F: Future>(self: Arc<Self>, exchange: F) -> F::Output {
        RUNNING.scope(self, exchange).await
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// The reply's head is here.
    pub(super) fn first_byte(&self) {
        self.mark(|marks| marks.first_byte = Some(clock::instant()));
    }

    /// What the exchange was doing before its request could be written, in words.
    pub(super) fn stage(&self) -> &'static str {
        let marks = self.marks();
        if marks.connected.is_some() {
            "handing over the request"
        } else if marks.shaking_hands.is_some() {
            "in the TLS handshake"
        } else if marks.looking_up.is_some() && marks.looked_up.is_none() {
            "looking up its name"
        } else {
            "connecting"
        }
    }

    /// The timings, with now as the end.
    pub(super) fn timings(&self) -> Timings {
        let marks = self.marks();
        let connecting = marks.connecting.map(|from| from + marks.looked_up.unwrap_or_default());
        let since = |from: Option<Instant>, to: Option<Instant>| Some(millis(to?.saturating_duration_since(from?)));
        Timings {
            dns: marks.looked_up.map(millis),
            connect: since(connecting, marks.shaking_hands.or(marks.connected)),
            tls: since(marks.shaking_hands, marks.connected),
            first_byte: since(Some(self.started), marks.first_byte),
            total: millis(clock::instant().saturating_duration_since(self.started)),
        }
    }

    fn marks(&self) -> Marks {
        *self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, change: impl FnOnce(&mut Marks)) {
        change(&mut self.marks.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn mark(change: impl FnOnce(&mut Marks)) {
    // No watch is running where a connection is finished in the background.
    let _ = RUNNING.try_with(|watch| watch.mark(change));
}

/// Marks a name's look-up from now until the guard goes.
pub(super) fn looking_up() -> LookingUp {
    let from = clock::instant();
    mark(|marks| marks.looking_up = Some(from));
    LookingUp(from)
}

pub(super) struct LookingUp(Instant);

impl Drop for LookingUp {
    fn drop(&mut self) {
        let took = clock::instant().saturating_duration_since(self.0);
        mark(|marks| marks.looked_up = Some(took));
    }
}

/// Marks when a connection is begun and when it is there.
#[derive(Clone, Copy)]
pub(super) struct ConnectMarks;

impl<S> Layer<S> for ConnectMarks {
    type Service = Marked<S>;

    fn layer(&self, connector: S) -> Marked<S> {
        Marked(connector)
    }
}

/// A connector that leaves its marks.
#[derive(Clone)]
pub(super) struct Marked<S>(S);

impl<S, T> Service<T> for Marked<S>
where
    S: Service<T>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, target: T) -> Self::Future {
        let connecting = self.0.call(target);
        Box::pin(async move {
            mark(|marks| *marks = Marks { connecting: Some(clock::instant()), ..Marks::default() });
            let connection = connecting.await?;
            mark(|marks| marks.connected = Some(clock::instant()));
            Ok(connection)
        })
    }
}

/// The usual bounded store of TLS sessions, which also marks when a handshake begins.
#[derive(Debug)]
pub(super) struct SessionStore(ClientSessionMemoryCache);

impl SessionStore {
    /// Remembers the sessions of at most so many servers.
    pub(super) fn new(servers: usize) -> Self {
        Self(ClientSessionMemoryCache::new(servers))
    }
}

impl ClientSessionStore for SessionStore {
    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        mark(|marks| marks.shaking_hands = Some(clock::instant()));
        self.0.take_tls13_ticket(server)
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(server, value);
    }

    fn set_kx_hint(&self, server: ServerName<'static>, group: rustls::NamedGroup) {
        self.0.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.0.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(server, value);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.0.remove_tls12_session(server);
    }
}
