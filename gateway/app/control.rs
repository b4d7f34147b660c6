//! How commands talk to a running gateway: HTTP over a socket in the data directory that only its owner can open, and
//! that therefore needs no token.

mod desk;
mod upload;

pub use desk::{Found, RedeliverRequest, Redelivered, Standing, StandingsRequest};

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tower::ServiceExt as _;

use super::apply::{Flags, Report};
use super::{App, open_store};
use crate::api::access::{Role, Tokens, hash_token, new_token};
use crate::api::import;
use crate::clock::Clock;
use crate::config::{Config, StorePlace};
use crate::directory::ResourceSet;
use crate::store::{Audit, Store, StoreError, TokenRecord};
use crate::web::problem::Problem;

/// A network of fifty thousand contracts fits.
const BODY_AT_MOST: usize = 512 << 20;

/// The socket of the gateway on this data directory.
#[must_use]
pub fn socket(directory: &Path) -> PathBuf {
    directory.join("control.sock")
}

/// Opens the socket, for its owner alone.
///
/// # Errors
/// When it cannot be made.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    // One that a crash left behind; the store's lock says that nobody else is there.
    let _ = std::fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("the control socket {} cannot be made", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// What can be asked.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/apply", post(apply))
        .route("/tokens", post(new_staff_token))
        .route("/resources", post(resources))
        .merge(desk::routes())
        .route("/import/target", post(import_target))
        .route("/import/rehearse", post(rehearse))
        .route("/import", post(import_rows))
        .layer(DefaultBodyLimit::max(BODY_AT_MOST))
        .with_state(app)
}

/// A token to be made.
#[derive(Debug, Serialize, Deserialize)]
pub struct TokenRequest {
    /// Whose.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// A new token; shown this once.
#[derive(Serialize, Deserialize)]
pub struct NewToken {
    /// The secret.
    pub token: String,
}

async fn apply(State(app): State<Arc<App>>, request: Body) -> Result<Json<Report>, Problem> {
    let (flags, files) = upload::read(request, app.pipeline.directory.network()).await?;
    Ok(Json(app.apply(files, flags, "apply").await?))
}

async fn import_target(
    State(app): State<Arc<App>>,
    Json(request): Json<import::TargetRequest>,
) -> Result<Json<import::Target>, Problem> {
    Ok(Json(import::target(&app.api, &request)?))
}

async fn rehearse(
    State(app): State<Arc<App>>,
    Json(request): Json<import::ImportRequest>,
) -> Result<Json<Vec<import::Rehearsed>>, Problem> {
    Ok(Json(import::rehearse(&app.api, &request)?))
}

async fn import_rows(
    State(app): State<Arc<App>>,
    Json(request): Json<import::ImportRequest>,
) -> Result<Json<Vec<import::RowAnswer>>, Problem> {
    Ok(Json(import::import(&app.api, &request).await?))
}

/// Every resource in the store: kind, id, document.
async fn resources(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    // Written down as it is read: the documents of a large network are in memory once.
    let mut list = app
        .pipeline
        .store
        .read_resources(Vec::new(), |list: &mut Vec<u8>, one| {
            list.push(if list.is_empty() { b'[' } else { b',' });
            // Texts into memory: this cannot fail.
            let _ = serde_json::to_writer(list, &(one.kind, one.id, one.document));
        })
        .await?;
    list.extend_from_slice(if list.is_empty() { b"[]" } else { b"]" });
    Ok(([(header::CONTENT_TYPE, "application/json")], list).into_response())
}

async fn new_staff_token(
    State(app): State<Arc<App>>,
    Json(request): Json<TokenRequest>,
) -> Result<Json<NewToken>, Problem> {
    let store = &app.pipeline.store;
    let Some(token) = make_token(store, &request, app.pipeline.clock.now()).await? else {
        return Err(Problem::conflict(format!(
            "there is a token called `{}` already; choose another name",
            request.name
        )));
    };
    app.api.tokens.store(Arc::new(Tokens::new(store.tokens().await?)));
    Ok(Json(NewToken { token }))
}

/// Makes a token in a store; `None` when the name is taken.
///
/// # Errors
/// When the store fails.
pub async fn make_token(
    store: &Store,
    request: &TokenRequest,
    now: jiff::Timestamp,
) -> Result<Option<String>, StoreError> {
    let token = new_token();
    let record =
        TokenRecord { name: request.name.clone(), hash: hash_token(&token), role: request.role.as_str().to_owned() };
    let audit =
        Audit { who: "cli".to_owned(), action: "token new", subject: format!("token/{}", request.name), reason: None };
    Ok(store.add_token(record, now, audit).await?.then_some(token))
}

/// A line to a gateway: the one that runs on the data directory, or one that is opened for the length of a command. The
/// second answers alike, delivers nothing, and leaves what it accepted to the next start.
pub struct Line(Way);

enum Way {
    Running(PathBuf),
    /// `watched`: gateways on the same store take up what is made here.
    Opened {
        app: Arc<App>,
        watched: bool,
    },
}

/// How a command gets at the store.
pub enum Reach {
    /// By the gateway that has it, over the socket in this directory.
    Gateway(PathBuf),
    /// Itself: no gateway runs on the directory, or the store is a database.
    Store(Store),
}

/// Finds out how a command gets at the configured store.
///
/// # Errors
/// When the store cannot be used.
pub async fn reach(config: &Config) -> anyhow::Result<Reach> {
    if let StorePlace::Directory(directory) = config.store.place()?
        && Store::is_in_use(&directory)
    {
        return Ok(Reach::Gateway(directory));
    }
    Ok(Reach::Store(open_store(config).await?))
}

impl Line {
    /// A line to the gateway that runs on the configured store; where none does, it is opened here.
    ///
    /// # Errors
    /// When the store or the network cannot be used.
    pub async fn open(config: Config) -> anyhow::Result<Self> {
        if let StorePlace::Directory(directory) = config.store.place()?
            && Store::is_in_use(&directory)
        {
            return Ok(Self(Way::Running(directory)));
        }
        let app = App::open(config, Clock::system()).await?;
        app.worker.stand_by().await?;
        let watched = app.pipeline.store.attend("a command").await?;
        Ok(Self(Way::Opened { app: Arc::new(app), watched }))
    }

    /// Whether somebody will deliver what is asked for now, and not at the next start only.
    #[must_use]
    pub fn is_running(&self) -> bool {
        match &self.0 {
            Way::Running(_) => true,
            Way::Opened { watched, .. } => *watched,
        }
    }

    /// Asks.
    ///
    /// # Errors
    /// When the gateway does not answer, or refuses.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(&self, path: &str, request: &Q) -> anyhow::Result<A> {
        match &self.0 {
            Way::Running(directory) => ask(directory, path, request).await,
            Way::Opened { app, .. } => {
                let request = posted(path, Full::new(Bytes::from(serde_json::to_vec(request)?)))?;
                let Ok(response) = router(Arc::clone(app)).oneshot(request.map(Body::new)).await;
                let status = response.status();
                answered(status, &response.into_body().collect().await?.to_bytes())
            }
        }
    }

    /// Ends what [`Line::open`] opened.
    pub async fn close(self) {
        if let Way::Opened { app, .. } = self.0 {
            // Nothing is under way but tasks that wait for a start.
            app.worker.drain(Duration::from_secs(5)).await;
        }
    }
}

/// Asks the gateway that runs on `directory`.
///
/// # Errors
/// When it does not answer, or refuses.
pub async fn ask<Q: Serialize, A: DeserializeOwned>(directory: &Path, path: &str, request: &Q) -> anyhow::Result<A> {
    exchange(directory, posted(path, Full::new(Bytes::from(serde_json::to_vec(request)?)))?).await
}

/// Has the gateway that runs on `directory` apply files; each document is written down when it is sent.
///
/// # Errors
/// When it does not answer, or refuses.
pub async fn ask_to_apply(directory: &Path, files: ResourceSet, flags: Flags) -> anyhow::Result<Report> {
    exchange(directory, posted("/apply", upload::Upload::of(files, flags)?)?).await
}

async fn exchange<A, B>(directory: &Path, request: Request<B>) -> anyhow::Result<A>
where
    A: DeserializeOwned,
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let socket = socket(directory);
    let stream = UnixStream::connect(&socket).await.with_context(|| {
        format!(
            "a gateway uses {} but does not answer at {}; is it starting or stopping?",
            directory.display(),
            socket.display()
        )
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let broke_off = "the gateway broke off; is it stopping?";
    let response = sender.send_request(request).await.context(broke_off)?;
    let status = response.status();
    answered(status, &response.into_body().collect().await.context(broke_off)?.to_bytes())
}

fn posted<B>(path: &str, body: B) -> Result<Request<B>, http::Error> {
    Request::post(path).header(header::HOST, "gateway").header(header::CONTENT_TYPE, "application/json").body(body)
}

fn answered<A: DeserializeOwned>(status: StatusCode, body: &[u8]) -> anyhow::Result<A> {
    if !status.is_success() {
        let problem: Value = serde_json::from_slice(body).unwrap_or_default();
        let Some(detail) = problem.get("detail").and_then(Value::as_str) else {
            bail!("the gateway answered {status}");
        };
        let errors = problem.get("errors").and_then(Value::as_array).into_iter().flatten();
        let lines: Vec<String> = errors
            .map(|error| {
                let text = |key| error.get(key).and_then(Value::as_str).unwrap_or_default();
                format!("\n  {}: {}", text("field"), text("message"))
            })
            .collect();
        bail!("{detail}{}", lines.concat());
    }
    Ok(serde_json::from_slice(body)?)
}
