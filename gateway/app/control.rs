//! How commands talk to a running gateway: HTTP over a socket in the data directory that only its owner can open, and
//! that therefore needs no token.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use axum::{Json, Router};
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};

use super::App;
use super::apply::{Flags, Report};
use crate::api::access::{Role, Tokens, hash_token, new_token};
use crate::directory::ResourceSet;
use crate::store::{Audit, Kind, ResourceRecord, Store, StoreError, TokenRecord};
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
        .layer(DefaultBodyLimit::max(BODY_AT_MOST))
        .with_state(app)
}

/// Files to be applied, as documents.
#[derive(Debug, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// How.
    #[serde(flatten)]
    pub flags: Flags,
    /// Kind, id, document.
    pub documents: Vec<(Kind, String, String)>,
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

async fn apply(State(app): State<Arc<App>>, Json(request): Json<ApplyRequest>) -> Result<Json<Report>, Problem> {
    let records: Vec<ResourceRecord> = request
        .documents
        .into_iter()
        .map(|(kind, id, document)| ResourceRecord { kind, id, version: 0, document, applied: None })
        .collect();
    let set = ResourceSet::from_records(&records)
        .map_err(|faults| Problem::validation(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    Ok(Json(app.apply(&set, request.flags, "apply").await?))
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

/// Asks the gateway that runs on `directory`.
///
/// # Errors
/// When it does not answer, or refuses.
pub async fn ask<Q: Serialize, A: DeserializeOwned>(directory: &Path, path: &str, request: &Q) -> anyhow::Result<A> {
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
    let body = Full::new(bytes::Bytes::from(serde_json::to_vec(request)?));
    let request = Request::post(path)
        .header(header::HOST, "gateway")
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        match problem.get("detail").and_then(|detail| detail.as_str()) {
            Some(detail) => bail!("{detail}"),
            None => bail!("the gateway answered {status}"),
        }
    }
    Ok(serde_json::from_slice(&body)?)
}
