//! `POST /v1/campaigns/{campaign}/leads/batch`: a lead in each line (NDJSON), and a result in each line of the answer, in
//! the same order, each written after its lead's commit.
//!
//! The body is read whole before anything is answered, so that a batch that is too large is refused as a whole. Then its
//! lines are taken by tasks of their own, [`AT_ONCE`] at a time, so that they share commits. Two lines that may be the
//! same lead (one idempotency key, one person) are taken one after the other: the first is the one that counts. A client
//! that hangs up, or stops reading, ends the batch between two lines; those under way are taken to their end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Extension, Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Frame;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::super::views::SourceView;
use super::super::{Answer, Api};
use super::accept::{Incoming, Read, Taken, accept};
use super::refusal::Refused;
use super::{Arrival, authenticate, body, campaign_of, too_fast, unauthorized, uncompressed};
use crate::clock;
use crate::directory::{CampaignEntry, Network, SourceEntry};
use crate::intake::{Format, idempotency};
use crate::model::id::{RequestId, SourceId};
use crate::model::units::Size;
use crate::store::IdempotencyKey;
use crate::telemetry;
use crate::web::problem::{FieldProblem, Problem};
use crate::web::server::Client;

/// Bytes of a batch.
const LIMIT: Size = Size(16 << 20);
/// Lines of a batch, blank ones included.
const MAX_LINES: usize = 10_000;
/// A large body may take `[server] body_timeout` for each so many bytes.
const STRETCH: usize = 1 << 20;
/// Lines under way at the same time; half of what the writer takes in one commit, so that single posts find room.
const AT_ONCE: usize = 256;
/// Results that wait for the client to read them.
const UNREAD: usize = 256;
/// Batches at the same time: each may hold its body in memory.
const BATCHES: usize = 8;
/// Those of one source among them, so that one that waits for its rate leaves room for the others.
const OF_ONE_SOURCE: usize = 2;
/// How long a batch waits for another to end.
const ROOM_WITHIN: Duration = Duration::from_secs(10);
/// How long a line waits for its turn in the source's rate; others on the way would think the connection dead.
const TURN_WITHIN: Duration = Duration::from_secs(10);
/// How long all lines together may wait for their turns.
const TURNS_WITHIN: Duration = Duration::from_mins(10);

pub(in crate::api) async fn post(
    State(api): State<Arc<Api>>,
    Path(campaign): Path<String>,
    RawQuery(query): RawQuery,
    ConnectInfo(client): ConnectInfo<Client>,
    Extension(request): Extension<RequestId>,
    headers: HeaderMap,
    mut body: Body,
) -> Answer {
    let arrival = Arrival { request, campaign, call: "leads/batch", headers, query, client };
    let network = api.pipeline.directory.network();
    let Some(source) = authenticate(&network, &arrival, None) else {
        body::read_off(&mut body).await;
        return Err(unauthorized());
    };
    let mut kept = Bytes::new();
    match begin(&api, &network, &source, &arrival, body, &mut kept).await {
        Ok((campaign, permit)) => {
            let (results, unread) = mpsc::channel(UNREAD);
            let batch = Batch { api, began: View { network, campaign, source }, arrival, _permit: permit };
            // In a task of its own, for the answer begins before the work ends.
            tokio::spawn(Arc::new(batch).run(kept, results));
            let mut response = (StatusCode::OK, Body::new(Results(unread))).into_response();
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
            Ok::<Response, _>(response)
        }
        Err(problem) => {
            let problem = problem.of(request);
            telemetry::lead_answered(
                &source.counts,
                source.source.id.as_str(),
                source.source.campaign.as_str(),
                "refused",
            );
            let refused = Refused {
                request,
                format: None,
                body: &kept,
                incomplete: true,
                status: problem.status,
                answer: problem.document(),
            };
            refused.keep(&api, &network, &source, &arrival).await;
            Err(problem)
        }
    }
}

/// What can be said of the batch as a whole. Leaves what was read of the body in `kept`.
async fn begin(
    api: &Api,
    network: &Network,
    source: &SourceEntry,
    arrival: &Arrival,
    mut body: Body,
    kept: &mut Bytes,
) -> Result<(Arc<CampaignEntry>, Permit), Problem> {
    let checked = async {
        let campaign = campaign_of(network, source, arrival)?;
        if !is_ndjson(&arrival.headers) {
            return Err(Problem::unsupported_media_type(
                "send application/x-ndjson, in UTF-8: a JSON object in each line",
            ));
        }
        uncompressed(&arrival.headers)?;
        if arrival.headers.contains_key("idempotency-key") {
            return Err(Problem::malformed(
                "a batch has no Idempotency-Key of its own; give each line an `idempotency_key` instead",
            ));
        }
        Ok((campaign, api.batches.enter(&source.source.id).await?))
    };
    let begun = match checked.await {
        Ok(begun) => begun,
        Err(problem) => {
            body::read_off(&mut body).await;
            return Err(problem);
        }
    };
    let received = body::receive(body, api, None, LIMIT, "a batch", STRETCH).await;
    *kept = received.bytes;
    if let Some(problem) = received.incomplete {
        return Err(problem);
    }
    let lines = lines(kept).take(MAX_LINES + 1).count();
    if lines > MAX_LINES {
        return Err(Problem::too_large(format!("a batch may have {MAX_LINES} lines at most; send several")));
    }
    if kept.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::malformed("the batch is empty; send a JSON object in each line"));
    }
    Ok(begun)
}

/// Room for the batches that are being taken.
pub(in crate::api) struct Room {
    all: Arc<Semaphore>,
    by_source: Arc<Mutex<HashMap<SourceId, usize>>>,
}

/// A batch's place in the room; dropping it leaves.
struct Permit {
    _one: OwnedSemaphorePermit,
    source: SourceId,
    by_source: Arc<Mutex<HashMap<SourceId, usize>>>,
}

impl Default for Room {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(BATCHES)), by_source: Arc::default() }
    }
}

impl Room {
    async fn enter(&self, source: &SourceId) -> Result<Permit, Problem> {
        let of_one = |by_source: &HashMap<SourceId, usize>| by_source.get(source).copied().unwrap_or(0);
        let busy = || {
            let detail = format!("{OF_ONE_SOURCE} batches of {source} are being taken; send this one after them");
            Problem::rate_limited(detail).retry_after(10)
        };
        if of_one(&locked(&self.by_source)) >= OF_ONE_SOURCE {
            return Err(busy());
        }
        let Ok(Ok(one)) = tokio::time::timeout(ROOM_WITHIN, Arc::clone(&self.all).acquire_owned()).await else {
            return Err(Problem::unavailable("other batches are being taken; send this one again").retry_after(10));
        };
        let mut by_source = locked(&self.by_source);
        // Others of this source may have come in meanwhile.
        if of_one(&by_source) >= OF_ONE_SOURCE {
            return Err(busy());
        }
        *by_source.entry(source.clone()).or_default() += 1;
        drop(by_source);
        Ok(Permit { _one: one, source: source.clone(), by_source: Arc::clone(&self.by_source) })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut by_source = locked(&self.by_source);
        if let Some(count) = by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                by_source.remove(&self.source);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `application/x-ndjson` and its other names, in UTF-8.
fn is_ndjson(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (media, parameters) = value.split_once(';').unwrap_or((value, ""));
    let names = ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonl"];
    // The parameters are those of JSON: read as if it were that.
    names.iter().any(|name| name.eq_ignore_ascii_case(media.trim()))
        && Format::from_content_type(&format!("application/json;{parameters}")).is_some()
}

/// The lines with their numbers, from 1. A line break at the end begins no line.
fn lines(body: &Bytes) -> impl Iterator<Item = (usize, Bytes)> + Send + use<> {
    let mut rest = body.clone();
    let mut number = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        number += 1;
        let line = match memchr::memchr(b'\n', &rest) {
            Some(end) => {
                let line = rest.split_to(end);
                rest = rest.slice(1..);
                line
            }
            None => std::mem::take(&mut rest),
        };
        let length = line.strip_suffix(b"\r").map_or(line.len(), <[u8]>::len);
        Some((number, line.slice(..length)))
    })
}

/// A batch being taken.
struct Batch {
    api: Arc<Api>,
    /// What was in force when it began.
    began: View,
    arrival: Arrival,
    _permit: Permit,
}

/// What is in force for a line: a change governs the next one.
#[derive(Clone)]
struct View {
    network: Arc<Network>,
    campaign: Arc<CampaignEntry>,
    source: Arc<SourceEntry>,
}

/// The client has gone, or reads no more.
struct Gone;

impl Batch {
    async fn run(self: Arc<Self>, body: Bytes, results: mpsc::Sender<Bytes>) {
        if let Err(Gone) = self.take_all(&body, &results).await {
            tracing::debug!(source.id = %self.began.source.source.id, "a batch ended early: its answer was read no more");
        }
    }

    async fn take_all(self: &Arc<Self>, body: &Bytes, results: &mpsc::Sender<Bytes>) -> Result<(), Gone> {
        let mut under_way = UnderWay { tasks: VecDeque::new(), done: None, results, within: self.api.body_timeout.0 };
        // By what the lines under way may be the same as others.
        let mut marks = HashSet::new();
        let turns_end = clock::instant() + TURNS_WITHIN;
        for (number, line) in lines(body) {
            let turn = self.turn(turns_end, &mut under_way).await?;
            let view = turn.and_then(|()| self.view());
            let read = view.as_ref().map_err(Clone::clone).and_then(|view| self.read(view, number, &line));
            let view = view.unwrap_or_else(|_| self.began.clone());
            if let Ok(incoming) = &read {
                let mut same = false;
                for mark in incoming.marks() {
                    same |= !marks.insert(mark);
                }
                if same {
                    under_way.finish().await?;
                    marks = incoming.marks().collect();
                }
            }
            if under_way.tasks.len() >= AT_ONCE {
                under_way.first().await?;
            }
            if under_way.is_empty() {
                marks.clear();
                marks.extend(read.iter().flat_map(Incoming::marks));
            }
            let batch = Arc::clone(self);
            under_way
                .tasks
                .push_back((number, tokio::spawn(async move { batch.take(&view, number, &line, read).await })));
            under_way.send_finished().await?;
        }
        under_way.finish().await
    }

    /// What is in force now.
    fn view(&self) -> Result<View, Problem> {
        let network = self.api.pipeline.directory.network();
        let source = network.source(&self.began.source.source.id).cloned().ok_or_else(unauthorized)?;
        let campaign = campaign_of(&network, &source, &self.arrival)?;
        Ok(View { network, campaign, source })
    }

    /// Waits for the source's rate, while the results of earlier lines are sent on.
    async fn turn(&self, end: std::time::Instant, under_way: &mut UnderWay<'_>) -> Result<Result<(), Problem>, Gone> {
        let began = clock::instant();
        loop {
            let now = clock::instant();
            let view = match self.view() {
                Ok(view) => view,
                Err(problem) => return Ok(Err(problem)),
            };
            let Err(pause) = view.source.pace(now) else { return Ok(Ok(())) };
            if now + pause > (began + TURN_WITHIN).min(end) {
                return Ok(Err(too_fast(&view.source, pause)));
            }
            let sleep = tokio::time::sleep(pause);
            tokio::pin!(sleep);
            loop {
                tokio::select! {
                    () = &mut sleep => break,
                    sent = under_way.first(), if !under_way.is_empty() => sent?,
                }
            }
        }
    }

    /// Looks at a line: nothing is asked or stored.
    fn read(&self, view: &View, number: usize, line: &Bytes) -> Result<Incoming, Problem> {
        if line.len() > self.api.body_limit.bytes() {
            return Err(Problem::too_large(format!("a lead's line may have {} at most", self.api.body_limit)));
        }
        let malformed = |message: String| Problem::malformed(message);
        if line.trim_ascii().is_empty() {
            return Err(malformed(format!("line {number} is blank; send a JSON object in each line")));
        }
        let mut posted = view.campaign.rules.parse(Format::Json, line).map_err(|mut fault| {
            // Where it stands in the batch.
            fault.line = number;
            malformed(fault.to_string())
        })?;
        let key = posted
            .take("idempotency_key")
            .map_err(|fault| malformed(format!("line {number}: idempotency_key: {fault}")))?;
        if let Some(key) = &key {
            idempotency::check(key).map_err(|fault| malformed(format!("line {number}: {fault}")))?;
        }
        let key = key.map(|key| IdempotencyKey { key, fingerprint: idempotency::fingerprint(line) });
        let request = RequestId(self.api.pipeline.clock.uuid());
        let post = Read { request, posted, body: line, room: None, key };
        Ok(Incoming::new(&view.campaign, &view.source, &self.arrival, post))
    }

    /// Takes a line, or says why not; its result.
    async fn take(&self, view: &View, number: usize, line: &Bytes, read: Result<Incoming, Problem>) -> Bytes {
        let started = clock::instant();
        let taken = match read {
            // A batch does not wait for outcomes.
            Ok(incoming) => {
                accept(&self.api, &view.network, &view.campaign, &view.source, incoming, Duration::ZERO).await
            }
            Err(problem) => Err(problem),
        };
        telemetry::stage("intake", started.elapsed());
        let (id, campaign) = (view.source.source.id.as_str(), view.source.source.campaign.as_str());
        match taken {
            Ok(Taken { word, status, view: shown }) => {
                telemetry::lead_answered(&view.source.counts, id, campaign, word);
                document(&LineTaken { line: number, status_code: status.as_u16(), view: &shown })
            }
            Err(problem) => {
                telemetry::lead_answered(&view.source.counts, id, campaign, "refused");
                // Each under an id of its own, by which staff find it.
                let request = RequestId(self.api.pipeline.clock.uuid());
                let result = document(&LineRefused::new(number, &problem, Some(request)));
                let refused = Refused {
                    request,
                    format: Some(Format::Json),
                    body: line,
                    incomplete: false,
                    status: problem.status,
                    answer: String::from_utf8_lossy(result.trim_ascii_end()).into_owned(),
                };
                refused.keep(&self.api, &view.network, &view.source, &self.arrival).await;
                result
            }
        }
    }
}

/// The lines being taken, in their order.
struct UnderWay<'a> {
    /// Each with its number.
    tasks: VecDeque<(usize, JoinHandle<Bytes>)>,
    /// The result of the one before them, which is still to be sent.
    done: Option<Bytes>,
    results: &'a mpsc::Sender<Bytes>,
    /// How long the client may take to read a result.
    within: Duration,
}

impl UnderWay<'_> {
    fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.done.is_none()
    }

    /// Waits for the first and sends its result. Nothing is lost where this is dropped while it waits.
    async fn first(&mut self) -> Result<(), Gone> {
        if self.done.is_none() {
            let Some((number, task)) = self.tasks.front_mut() else { return Ok(()) };
            self.done = Some(match task.await {
                Ok(result) => result,
                Err(_) => broke_off(*number),
            });
            self.tasks.pop_front();
        }
        let room = tokio::time::timeout(self.within, self.results.reserve()).await;
        let Ok(Ok(room)) = room else { return Err(Gone) };
        if let Some(result) = self.done.take() {
            room.send(result);
        }
        Ok(())
    }

    /// Sends what is there already.
    async fn send_finished(&mut self) -> Result<(), Gone> {
        while self.done.is_some() || self.tasks.front().is_some_and(|(_, task)| task.is_finished()) {
            self.first().await?;
        }
        Ok(())
    }

    /// Waits for all and sends their results.
    async fn finish(&mut self) -> Result<(), Gone> {
        while !self.is_empty() {
            self.first().await?;
        }
        Ok(())
    }
}

/// The result of a line whose task panicked.
fn broke_off(line: usize) -> Bytes {
    let problem = Problem::internal("the line could not be served; whether its lead was stored is not known");
    document(&LineRefused::new(line, &problem, None))
}

#[derive(Serialize)]
struct LineTaken<'a> {
    line: usize,
    status_code: u16,
    #[serde(flatten)]
    view: &'a SourceView,
}

/// A problem as a line's result: its status is the `status_code`.
#[derive(Serialize)]
struct LineRefused<'a> {
    line: usize,
    status_code: u16,
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<RequestId>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldProblem],
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl<'a> LineRefused<'a> {
    fn new(line: usize, problem: &'a Problem, request_id: Option<RequestId>) -> Self {
        Self {
            line,
            status_code: problem.status,
            kind: problem.kind,
            title: problem.title,
            detail: &problem.detail,
            request_id,
            errors: &problem.errors,
            retry_after: problem.retry_after,
        }
    }
}

fn document(result: &impl Serialize) -> Bytes {
    // Texts and numbers only: this cannot fail.
    let mut line = serde_json::to_vec(result).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// The results as they come.
struct Results(mpsc::Receiver<Bytes>);

impl http_body::Body for Results {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|result| result.map(|result| Ok(Frame::data(result))))
    }
}
