//! The demo's five buyers: real HTTP servers on 127.0.0.1 that read what they get as strictly as the best of the
//! field, and answer each in a format of its own.
//!
//! | partner | takes | at | says no by |
//! |---|---|---|---|
//! | BrightRoof | SOAP 1.2, basic authentication | `POST /leads` | a code in the reply; faults with 400 and 500 |
//! | SolarNow | JSON, API key | `POST /api/v1/leads` | 401, 409, 422; 503 while busy |
//! | LeadHouse | a form, or the query of a GET | `POST /submit.php`, `GET /callback.php` | a number in a 200 |
//! | GreenQuote | XML, bearer token | `POST /import` | a word in a 200 |
//! | Slate & Sons | SOAP 1.1 with a header block | `POST /enquiries.asmx` | XML inside a string; faults with 500; or it never answers |
//!
//! A partner's own file is a function from a request to an answer; the serving and the writing down happen here.

mod book;
mod brightroof;
mod greenquote;
mod leadhouse;
mod shape;
mod slate_sons;
mod soap;
mod solarnow;
mod xml;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use brightroof::{KNOWN_TO_BRIGHTROOF, OUT_OF_ORDER_FOR};
pub use slate_sons::SILENT_FOR;
pub use solarnow::BUSY_FIRST_FOR;

/// The most that a partner reads of one request, in bytes.
const BODY_LIMIT: usize = 1 << 20;

/// How many requests are remembered; older ones are forgotten.
const REMEMBERED: usize = 1_000;

/// How long a stop waits for requests under way.
const PATIENCE: Duration = Duration::from_secs(2);

/// The header in which the gateway sends a delivery's id (its default name for it).
const DELIVERY_HEADER: &str = "idempotency-key";

/// The names and values of a lead as a partner understood them, under the partner's own names.
pub type Understood = BTreeMap<String, String>;

/// The five partners, serving until they are stopped or dropped.
#[derive(Debug)]
pub struct Partners {
    addresses: Addresses,
    journal: Journal,
    /// Dropping it tells every server to stop.
    stop: watch::Sender<()>,
    servers: Vec<JoinHandle<io::Result<()>>>,
}

/// Where each partner listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// SOAP 1.2.
    pub brightroof: SocketAddr,
    /// JSON.
    pub solarnow: SocketAddr,
    /// Form.
    pub leadhouse: SocketAddr,
    /// XML.
    pub greenquote: SocketAddr,
    /// SOAP 1.1.
    pub slate_sons: SocketAddr,
}

/// One request as a partner received it, and what it made of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Received {
    /// The partner's id in the demo's network.
    pub partner: &'static str,
    /// The HTTP method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The headers as they came.
    pub headers: HeaderMap,
    /// The body as it came.
    pub body: Bytes,
    /// What the `Idempotency-Key` header said.
    pub delivery_id: Option<String>,
    /// The lead, where the request could be read as one; values exactly as parsed.
    pub lead: Option<Understood>,
    /// The status of the answer; `None` where the partner never answers.
    pub answered: Option<StatusCode>,
}

impl std::fmt::Debug for Received {
    // Bodies and leads are personal data, and headers hold keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Received({} {} {:?} {:?})", self.partner, self.method, self.delivery_id, self.answered)
    }
}

impl Partners {
    /// Starts all five, each on a free port.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> io::Result<Self> {
        let mut start = Start { journal: Journal::default(), stop: watch::Sender::new(()), servers: Vec::new() };
        let addresses = Addresses {
            brightroof: start.serve(brightroof::BrightRoof::default()).await?,
            solarnow: start.serve(solarnow::SolarNow::default()).await?,
            leadhouse: start.serve(leadhouse::LeadHouse::default()).await?,
            greenquote: start.serve(greenquote::GreenQuote::default()).await?,
            slate_sons: start.serve(slate_sons::SlateSons::default()).await?,
        };
        Ok(Self { addresses, journal: start.journal, stop: start.stop, servers: start.servers })
    }

    /// Where they listen.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What they received so far, oldest first: the last thousand requests.
    pub fn received(&self) -> Vec<Received> {
        self.journal.all()
    }

    /// What one of them received so far, oldest first.
    pub fn received_by(&self, partner: &str) -> Vec<Received> {
        self.journal.all().into_iter().filter(|received| received.partner == partner).collect()
    }

    /// Stops all of them, and returns once they have let go of their ports.
    pub async fn stop(self) {
        drop(self.stop);
        for mut server in self.servers {
            if tokio::time::timeout(PATIENCE, &mut server).await.is_err() {
                server.abort();
            }
        }
    }
}

/// A partner's system: reads a request, remembers what it needs to, and answers.
trait Simulated: Send + 'static {
    /// Its id in the demo's network.
    const NAME: &'static str;

    fn answer(&mut self, call: &Call<'_>) -> Heard;
}

/// One request, read to its end.
struct Call<'a> {
    method: &'a Method,
    path: &'a str,
    query: &'a str,
    headers: &'a HeaderMap,
    body: &'a [u8],
}

impl Call<'_> {
    /// A header's value as text; `None` where there is none, or more than one.
    fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(first)
    }

    /// The media type of the body.
    fn media_type(&self) -> Option<mime::Mime> {
        self.header(header::CONTENT_TYPE.as_str())?.parse().ok()
    }

    /// Whether the body says that it is one of these types, in UTF-8 as far as it says.
    fn is_of_type(&self, types: &[&str]) -> bool {
        self.media_type().is_some_and(|given| {
            types.contains(&given.essence_str()) && given.get_param(mime::CHARSET).is_none_or(|set| set == mime::UTF_8)
        })
    }

    /// The answer to a call of the wrong path or method; `None` where both are right.
    fn misdirected(&self, method: &Method, path: &str) -> Option<Heard> {
        let status = if self.path != path {
            StatusCode::NOT_FOUND
        } else if self.method != method {
            StatusCode::METHOD_NOT_ALLOWED
        } else {
            return None;
        };
        Some(Heard::nothing(Answer::new(status, "text/plain", "")))
    }
}

/// What a partner made of a request.
struct Heard {
    lead: Option<Understood>,
    /// `None` = it keeps silent.
    answer: Option<Answer>,
}

impl Heard {
    /// A request that could not be read as a lead.
    fn nothing(answer: Answer) -> Self {
        Self { lead: None, answer: Some(answer) }
    }

    fn lead(lead: Understood, answer: Answer) -> Self {
        Self { lead: Some(lead), answer: Some(answer) }
    }
}

struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: String,
}

impl Answer {
    fn new(status: StatusCode, content_type: &'static str, body: impl Into<String>) -> Self {
        let content_type = (header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self { status, headers: vec![content_type], body: body.into() }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }
}

/// What is put together while the partners start.
struct Start {
    journal: Journal,
    stop: watch::Sender<()>,
    servers: Vec<JoinHandle<io::Result<()>>>,
}

impl Start {
    async fn serve<P: Simulated>(&mut self, partner: P) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut stopped = self.stop.subscribe();
        let desk =
            Desk { partner: Arc::new(Mutex::new(partner)), journal: self.journal.clone(), stopped: stopped.clone() };
        let app = Router::new().fallback(receive::<P>).with_state(desk);
        let server = axum::serve(listener, app).with_graceful_shutdown(async move {
            // Nothing is ever sent: it ends when the sender is dropped.
            let _ = stopped.changed().await;
        });
        self.servers.push(tokio::spawn(server.into_future()));
        Ok(address)
    }
}

/// What the requests to one partner share.
struct Desk<P> {
    partner: Arc<Mutex<P>>,
    journal: Journal,
    stopped: watch::Receiver<()>,
}

impl<P> Clone for Desk<P> {
    fn clone(&self) -> Self {
        Self { partner: self.partner.clone(), journal: self.journal.clone(), stopped: self.stopped.clone() }
    }
}

async fn receive<P: Simulated>(State(mut desk): State<Desk<P>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_LIMIT).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let call = Call {
        method: &head.method,
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        headers: &head.headers,
        body: &body,
    };
    let heard = desk.partner.lock().unwrap_or_else(PoisonError::into_inner).answer(&call);
    let delivery_id = call.header(DELIVERY_HEADER).map(str::to_owned);
    desk.journal.enter(Received {
        partner: P::NAME,
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        method: head.method,
        headers: head.headers,
        body,
        delivery_id,
        lead: heard.lead,
        answered: heard.answer.as_ref().map(|answer| answer.status),
    });
    let Some(answer) = heard.answer else {
        // Silent until the caller hangs up (the server then drops us) or the demo ends.
        let _ = desk.stopped.changed().await;
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().extend(answer.headers);
    response
}

/// What all of them received.
#[derive(Debug, Clone, Default)]
struct Journal(Arc<Mutex<VecDeque<Received>>>);

impl Journal {
    fn enter(&self, received: Received) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == REMEMBERED {
            entries.pop_front();
        }
        entries.push_back(received);
    }

    fn all(&self) -> Vec<Received> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
