//! The HTTP API (CONTRACT 7): posts of sources, calls of staff, and what operators ask. What it answers is described
//! in `api/openapi.json`, which a test holds against the routes.

pub mod access;
pub mod import;
mod leads;
mod operators;
mod resources;
mod staff;
mod views;

pub use staff::{find_deliveries, redeliver_as};
pub use views::{Reveal, time};

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http::{HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::directory::Network;
use crate::intake::auth;
use crate::model::id::{RequestId, SourceId};
use crate::model::units::{Size, Span};
use crate::pipeline::Pipeline;
use crate::telemetry::Metrics;
use crate::web::problem::Problem;
use crate::web::room::Room;
use crate::web::server::{Answers, Client};
use crate::worker::Worker;
use access::Tokens;

/// What every call may need.
pub struct Api {
    /// The lead's life.
    pub pipeline: Arc<Pipeline>,
    /// For readiness.
    pub worker: Worker,
    /// Staff's tokens, read anew when one is made.
    pub tokens: ArcSwap<Tokens>,
    /// What `/metrics` answers.
    pub metrics: Metrics,
    /// Whether `/metrics` is served here, or on an address of its own.
    pub metrics_here: bool,
    /// The largest body of a post.
    pub body_limit: Size,
    /// How long a client may take to send a body.
    pub body_timeout: Span,
    /// A stop was asked for: readiness ends, and clients are told to come back on another connection.
    stopping: AtomicBool,
    /// Room for bodies.
    room: Room,
    /// Room for batches.
    batches: leads::batch::Room,
    /// Bounds the refused posts that are being kept while nobody waits for that.
    keeping: Arc<Semaphore>,
    /// Idempotency keys that are being worked on.
    in_progress: Mutex<HashSet<(SourceId, String)>>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

type Answer = Result<Response, Problem>;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl Api {
    /// An API over a pipeline.
    #[must_use]
    pub fn new(
        pipeline: Arc<Pipeline>,
        worker: Worker,
        tokens: Tokens,
        metrics: Metrics,
        metrics_here: bool,
        body_limit: Size,
        body_timeout: Span,
    ) -> Self {
        Self {
            pipeline,
            worker,
            tokens: ArcSwap::from_pointee(tokens),
            metrics,
            metrics_here,
            body_limit,
            body_timeout,
            stopping: AtomicBool::new(false),
            room: Room::new(body_limit.bytes()),
            batches: leads::batch::Room::default(),
            keeping: Arc::new(Semaphore::new(leads::refusal::KEPT_BEHIND)),
            in_progress: Mutex::default(),
        }
    }

    /// Announces the end: `/readyz` says so from now on, and every answer closes its connection.
    pub fn announce_stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the end was announced.
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The source whose key came in the headers.
    fn source(network: &Network, headers: &http::HeaderMap) -> Option<SourceId> {
        network.keys().find(&auth::credential(headers, None)?.key).cloned()
    }
}

/// The API, for a server.
#[derive(Debug, Clone)]
pub struct Face {
    api: Arc<Api>,
    routes: Router,
}

impl Face {
    /// Of an API, with every route.
    #[must_use]
    pub fn new(api: Arc<Api>) -> Self {
        Self { routes: router(Arc::clone(&api)), api }
    }
}

impl Answers for Face {
    async fn answer(self, request: Request, client: Client) -> Response {
        // What comes thousands of times a second does not ask every route; its answer is the same as by that way.
        match leads::campaign_posted_to(&request).map(str::to_owned) {
            Some(campaign) => {
                let id = RequestId(self.api.pipeline.clock.uuid());
                let answer = leads::post_to(&self.api, campaign, request, client, id).await;
                with_id(&self.api, id, answer.into_response())
            }
            None => self.routes.answer(request, client).await,
        }
    }
}

/// Every route. A server is given a [`Face`], which asks them only where it must.
pub fn router(api: Arc<Api>) -> Router {
    let mut router = Router::new()
        .route("/v1/campaigns/{campaign}/leads", post(leads::post))
        .route("/v1/campaigns/{campaign}/leads/batch", post(leads::batch::post))
        .route("/v1/leads", get(staff::leads))
        .route("/v1/leads/{id}", get(staff::lead))
        .route("/v1/deliveries", get(staff::deliveries))
        .route("/v1/deliveries/{id}", get(staff::delivery))
        .route("/v1/deliveries/{id}/redeliver", post(staff::redeliver))
        .route("/v1/deliveries/{id}/resolve", post(staff::resolve))
        .route("/v1/deliveries/{id}/cancel", post(staff::cancel))
        .route("/v1/refusals", get(staff::refusals))
        .route("/healthz", get(operators::health))
        .route("/readyz", get(operators::ready))
        .route("/openapi.json", get(operators::openapi));
    for kind in ["campaigns", "sources", "partners", "contracts"] {
        router = router
            .route(&format!("/v1/{kind}"), get(resources::list))
            .route(&format!("/v1/{kind}/{{id}}"), get(resources::one));
    }
    for kind in ["partners", "contracts", "sources"] {
        router = router
            .route(&format!("/v1/{kind}/{{id}}/pause"), post(staff::pause))
            .route(&format!("/v1/{kind}/{{id}}/resume"), post(staff::resume));
    }
    if api.metrics_here {
        router = router.route("/metrics", get(operators::metrics));
    }
    router
        .fallback(async || Problem::not_found("there is nothing here; /openapi.json lists what is"))
        .method_not_allowed_fallback(async || Problem::method_not_allowed("see /openapi.json for the methods"))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), with_request_id))
        .with_state(api)
}

/// What the framework refused before any handler saw it, in words of its own, as a problem.
fn unreadable(response: &Response) -> Option<Problem> {
    match response.status() {
        StatusCode::BAD_REQUEST => {
            Some(Problem::malformed("the request cannot be read; its path and query must be percent-encoded UTF-8"))
        }
        StatusCode::PAYLOAD_TOO_LARGE => Some(Problem::too_large("the body is larger than this call takes")),
        StatusCode::INTERNAL_SERVER_ERROR => Some(Problem::internal("the request could not be served")),
        _ => None,
    }
}

/// `/metrics` alone, for an address of its own.
pub fn metrics_router(api: Arc<Api>) -> Router {
    Router::new().route("/metrics", get(operators::metrics)).with_state(api)
}

/// Gives every request an id, and every answer that id: in its header and, where it is a problem, in its document.
async fn with_request_id(
    axum::extract::State(api): axum::extract::State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = RequestId(api.pipeline.clock.uuid());
    request.extensions_mut().insert(id);
    with_id(&api, id, next.run(request).await)
}

/// An answer with its request's id.
fn with_id(api: &Api, id: RequestId, response: Response) -> Response {
    let mut response = match response.extensions().get::<Arc<Problem>>() {
        Some(problem) if problem.request_id.is_none() => (**problem).clone().of(id).into_response(),
        Some(_) => response,
        None => match unreadable(&response) {
            Some(problem) => problem.of(id).into_response(),
            None => response,
        },
    };
    let mut text = Uuid::encode_buffer();
    if let Ok(value) = HeaderValue::from_str(id.0.as_hyphenated().encode_lower(&mut text)) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if api.is_stopping() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
