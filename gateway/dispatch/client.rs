//! One exchange with a partner, and what may be said of it when it fails.
//!
//! The failure policy in one place:
//!
//! | what happened | kind |
//! |---|---|
//! | the request is not one, the target is refused, no address, no connection, no TLS; or any trouble or time-out while the request could still be withdrawn | `NotSent` |
//! | its time was over when it was about to be handed over (the lease, the hours) | `TooLate` |
//! | handed over, and time ran out: before, in or after the head, or in the body | `Timeout` |
//! | handed over, and the connection broke before the reply's head was whole | `Reset` |
//! | the reply broke off in its body, could not be read, or was larger than we read | `Incomplete` |
//!
//! A pooled connection that the partner closed while it was idle is found dead before the request is handed over, and
//! hyper-util moves the request to another one by itself. A closing that is still on its way when we write cannot be
//! told from a partner that read the request and fell over: that is a `Reset`, and a short `keep_alive` keeps it rare. Nothing here
//! is ever sent twice: once handed over, a request is gone (its body is a stream that cannot be had again).

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Body, Client, Method, Request, Response};

use super::address::host_header;
use super::handover::{Handover, RequestBody};
use super::reply::{Reading, Unreadable};
use super::stopwatch::{ConnectMarks, Stopwatch};
use super::target::{Refused, VettingResolver};
use super::{DispatchConfig, DispatchFault, Transport};
use crate::model::exchange::{Outgoing, Reply, SendFault, SendFaultKind, Sent};

/// No attempt to connect outlives this, also one whose request has given up or found another connection.
const CONNECT_CEILING: Duration = Duration::from_mins(2);

/// The largest request head, in bytes. hyper buffers 400 KiB before it writes early; see `handover.rs`.
const HEAD_LIMIT: usize = 128 * 1024;

/// Headers that frame a request or change what its connection is: the gateway writes them itself.
const OURS: [&str; 6] = ["content-length", "transfer-encoding", "trailer", "te", "upgrade", "expect"];

/// A connector, whose idle connections are used again for `keep_alive`.
pub(super) fn build(
    config: &DispatchConfig,
    tls: rustls::ClientConfig,
    keep_alive: Duration,
) -> Result<Client, DispatchFault> {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .dns_resolver(VettingResolver::new(Arc::clone(&config.egress)))
        .connector_layer(ConnectMarks)
        .connect_timeout(CONNECT_CEILING)
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        // HTTP/1.1 keeps "was it sent?" answerable: one request at a time on a connection, no shared streams.
        .http1_only()
        // Old receivers were tested with `Content-Type`, not `content-type`.
        .http1_title_case_headers()
        // A sloppy head is no reason for an unknown outcome.
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .tcp_nodelay(true)
        .pool_idle_timeout(keep_alive)
        // None is idle that was not in use a `keep_alive` ago: its endpoints' concurrency bounds them. A smaller number
        // would close connections after each burst, to be made anew for the next one.
        .pool_max_idle_per_host(usize::MAX)
        .user_agent(config.user_agent.as_str())
        .build()
        .map_err(|error| DispatchFault::Client(root_cause(&error)))
}

/// A request that was found fit to be sent.
struct Admitted {
    request: Request,
    handover: Handover,
}

/// Why a request is none.
#[derive(Debug, thiserror::Error)]
enum NotAdmitted {
    #[error(transparent)]
    Target(#[from] Refused),
    #[error("{0} is not a method that the gateway sends")]
    Method(&'static str),
    #[error("header {position} has a name that HTTP does not allow")]
    HeaderName { position: usize },
    #[error("the value of the header {0} has characters that HTTP does not allow")]
    HeaderValue(HeaderName),
    #[error("the header {0} is written by the gateway itself; remove it from the endpoint")]
    Ours(HeaderName),
    #[error("the URL and the headers are {0} bytes together; at most {HEAD_LIMIT} can be sent")]
    HeadTooLarge(usize),
}

pub(super) async fn send(client: &Client, config: &DispatchConfig, transport: &Transport, outgoing: &Outgoing) -> Sent {
    let watch = Stopwatch::start();
    let result = match admit(config, transport, outgoing) {
        Ok(admitted) => {
            Arc::clone(&watch).watch(exchange(client, admitted, transport, config.reply_limit, &watch)).await
        }
        Err(why) => Err(fault(SendFaultKind::NotSent, why.to_string())),
    };
    Sent { result, timings: watch.timings() }
}

fn admit(config: &DispatchConfig, transport: &Transport, outgoing: &Outgoing) -> Result<Admitted, NotAdmitted> {
    let method = match outgoing.http_method {
        "POST" => Method::POST,
        "GET" => Method::GET,
        other => return Err(NotAdmitted::Method(other)),
    };
    let url = transport.fixed.read(&outgoing.url).map_err(Refused::NotAUrl)?;
    config.egress.vet_url(&url)?;

    let mut head = outgoing.url.len();
    let mut headers = HeaderMap::with_capacity(outgoing.headers.len() + 4);
    for (position, (name, value)) in (1..).zip(&outgoing.headers) {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| NotAdmitted::HeaderName { position })?;
        if OURS.contains(&name.as_str()) {
            return Err(NotAdmitted::Ours(name));
        }
        head += name.as_str().len() + value.len() + 4;
        match HeaderValue::from_bytes(value.as_bytes()) {
            Ok(value) => headers.append(name, value),
            Err(_) => return Err(NotAdmitted::HeaderValue(name)),
        };
    }
    if head > HEAD_LIMIT {
        return Err(NotAdmitted::HeadTooLarge(head));
    }

    let (handover, body): (_, RequestBody) = Handover::of(&method, outgoing.body.clone(), outgoing.send_before.clone());
    let mut request = Request::new(method, url);
    *request.headers_mut() = headers;
    *request.body_mut() = Some(Body::wrap(body));
    Ok(Admitted { request, handover })
}

/// What reqwest and hyper write beside the request's own headers; a test holds this against the wire.
pub(super) fn added_headers(config: &DispatchConfig, outgoing: &Outgoing) -> Vec<(String, String)> {
    let host = host_header(&outgoing.url);
    let length = (outgoing.http_method != "GET" || !outgoing.body.is_empty()).then(|| outgoing.body.len().to_string());
    [
        ("accept", Some("*/*".to_owned())),
        ("user-agent", Some(config.user_agent.clone())),
        ("host", host),
        ("content-length", length),
    ]
    .into_iter()
    .filter(|(name, _)| !outgoing.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)))
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect()
}

async fn exchange(
    client: &Client,
    admitted: Admitted,
    transport: &Transport,
    limit: usize,
    watch: &Stopwatch,
) -> Result<Reply, SendFault> {
    // Lets the runtime look at its sockets first, so that a pooled connection which the partner has closed is known to
    // be dead before it is chosen.
    tokio::task::yield_now().await;
    let mut response = head(client, admitted, transport, watch).await?;
    watch.first_byte();

    let mut reading = Reading::begin(&response, limit);
    match until(watch, transport.timeout, reading.read_on(&mut response)).await {
        Some(Ok(())) => reading.finish().map_err(|(why, partial)| unreadable(&why, partial)),
        Some(Err(why)) => Err(unreadable(&why, reading.partial())),
        None => Err(SendFault {
            kind: SendFaultKind::Timeout,
            message: format!("the reply was not whole within {:?}", transport.timeout),
            partial: Some(reading.partial()),
        }),
    }
}

/// Sends the request and waits for the reply's head.
async fn head(
    client: &Client,
    admitted: Admitted,
    transport: &Transport,
    watch: &Stopwatch,
) -> Result<Response, SendFault> {
    let Admitted { request, handover } = admitted;
    let mut sending = Box::pin(client.execute(request));

    let connect_by = transport.connect_timeout.min(transport.timeout);
    let mut outcome = until(watch, connect_by, &mut sending).await;
    if outcome.is_none() {
        if handover.withdraw() {
            let message = format!("no connection within {connect_by:?} ({})", watch.stage());
            return Err(fault(SendFaultKind::NotSent, message));
        }
        outcome = until(watch, transport.timeout, &mut sending).await;
    }
    match outcome {
        Some(Ok(response)) => Ok(response),
        Some(Err(error)) if handover.withdraw() => Err(match handover.withdrawn_too_late() {
            Some(why) => fault(SendFaultKind::TooLate, format!("not sent: {why}")),
            None => fault(SendFaultKind::NotSent, format!("not sent, {}: {}", watch.stage(), root_cause(&error))),
        }),
        Some(Err(error)) => Err(lost(&error)),
        None => Err(fault(SendFaultKind::Timeout, format!("no reply within {:?}", transport.timeout))),
    }
}

/// What `work` comes to, if it does before the exchange is `limit` old.
async fn until<F: Future>(watch: &Stopwatch, limit: Duration, work: F) -> Option<F::Output> {
    // A limit beyond the reach of the clock is none.
    match watch.started().checked_add(limit) {
        Some(end) => tokio::time::timeout_at(end.into(), work).await.ok(),
        None => Some(work.await),
    }
}

/// The fault of a request that was handed over and brought no reply's head.
fn lost(error: &reqwest::Error) -> SendFault {
    let unreadable = causes(error).filter_map(|cause| cause.downcast_ref::<hyper::Error>()).any(hyper::Error::is_parse);
    let why = root_cause(error);
    if unreadable {
        fault(SendFaultKind::Incomplete, format!("the head of the reply cannot be read ({why})"))
    } else {
        fault(SendFaultKind::Reset, format!("the connection broke before a reply ({why})"))
    }
}

fn unreadable(why: &Unreadable, partial: Reply) -> SendFault {
    SendFault { kind: SendFaultKind::Incomplete, message: why.to_string(), partial: Some(partial) }
}

fn fault(kind: SendFaultKind, message: String) -> SendFault {
    SendFault { kind, message, partial: None }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// The innermost cause in words. The outer layers only say where it passed through, and reqwest's would show the URL.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    causes(error).skip(1).last().map_or_else(|| "the request could not be made".to_owned(), ToString::to_string)
}
