//! The accept loop: bounded connections, a time limit on request heads, a graceful end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use super::begun::Begun;
use super::unread::Unread;

/// What is read of a connection before anybody asks for it, and the largest head of a request. (hyper's own bound is
/// 400 KiB, which ten thousand clients would fill.)
const BUFFER: usize = 32 << 10;

/// What keeps a server's clients in bounds.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at the same time; further ones wait to be accepted.
    pub connections: usize,
    /// For a request's head, and between two requests of a connection.
    pub header_timeout: Duration,
    /// How long requests under way may take once the end has come.
    pub drain: Duration,
}

/// Something that accepts connections.
pub trait Listener: Send {
    /// A connection.
    type Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static;

    /// The next connection, with the client's address where it has one.
    fn next(&mut self) -> impl Future<Output = io::Result<(Self::Stream, Option<std::net::SocketAddr>)>> + Send;
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&mut self) -> io::Result<(Self::Stream, Option<std::net::SocketAddr>)> {
        let (stream, address) = self.accept().await?;
        // Answers are small and complete: waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        Ok((stream, Some(address)))
    }
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&mut self) -> io::Result<(Self::Stream, Option<std::net::SocketAddr>)> {
        self.accept().await.map(|(stream, _)| (stream, None))
    }
}

/// The answer to a request whose handler panicked.
fn broke_off() -> Response {
    let mut response = Response::default();
    *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    response
}

/// The client's address, for handlers.
#[derive(Debug, Clone, Copy)]
pub struct Client(pub Option<std::net::SocketAddr>);

/// What answers the requests of a server.
pub trait Answers: Clone + Send + 'static {
    /// The answer to one.
    fn answer(self, request: http::Request<Body>, client: Client) -> impl Future<Output = Response> + Send + 'static;
}

impl Answers for Router {
    async fn answer(self, mut request: http::Request<Body>, client: Client) -> Response {
        request.extensions_mut().insert(ConnectInfo(client));
        self.oneshot(request).await.unwrap_or_else(|never| match never {})
    }
}

/// Lets `answers` serve until `end` resolves, then lets the requests under way finish.
pub async fn serve(mut listener: impl Listener, answers: impl Answers, bounds: Bounds, end: impl Future<Output = ()>) {
    let connections = Arc::new(Semaphore::new(bounds.connections));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.header_timeout).max_headers(100).max_buf_size(BUFFER);
    tokio::pin!(end);
    loop {
        let next = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.next().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = &mut end => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: a moment later some may be free.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let answers = answers.clone();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let unread = Unread::of(request.body());
            let request = request.map(|body| Body::new(unread.watch(body)));
            // A client that hangs up must not cut off what its request has begun.
            let answer = Begun::new(answers.clone().answer(request, Client(address)));
            async move {
                let mut answer = answer.await.unwrap_or_else(|_| broke_off());
                if unread.is_any() {
                    // hyper closes the connection then: a client that is not told would send its next request into that.
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(bounds.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were still under way when the drain time was over");
    }
}
