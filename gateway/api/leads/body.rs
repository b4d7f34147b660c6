//! Reading bodies: within their bounds, and off where they are refused, so that the client hears the answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;

use super::super::Api;
use crate::model::units::Size;
use crate::web::problem::Problem;
use crate::web::room::Held;

/// A refused body is read off up to here, so that the client hears the answer.
const READ_OFF: usize = 16 << 20;
/// … and for so long.
const READ_OFF_WITHIN: Duration = Duration::from_secs(5);

/// What came of a body.
pub(in crate::api) struct Received {
    pub(in crate::api) bytes: Bytes,
    /// It was larger than it may be, did not come in time, or found no room.
    pub(in crate::api) incomplete: Option<Problem>,
    /// The room that it takes up, for as long as it is held.
    pub(in crate::api) room: Option<Arc<Held>>,
}

/// Reads a body of `limit` at most; what goes beyond is read off, within bounds, and reported. `what` may be so large, in
/// words. Each `stretch` of it may take `[server] body_timeout`. What is kept of it takes up `room`, if it has to.
pub(in crate::api) async fn receive(
    mut body: Body,
    api: &Api,
    mut room: Option<Held>,
    limit: Size,
    what: &str,
    stretch: usize,
) -> Received {
    let mut kept = BytesMut::new();
    let mut incomplete = None;
    while incomplete.is_none() {
        let most = kept.len().saturating_add(stretch).min(limit.bytes());
        let end =
            match tokio::time::timeout(api.body_timeout.0, keep(&mut body, &mut kept, &mut room, most, limit.bytes()))
                .await
            {
                Ok(Ok(end)) => end,
                Ok(Err(_)) => {
                    incomplete = Some(Problem::malformed("the body broke off"));
                    break;
                }
                Err(_) => {
                    let within = api.body_timeout;
                    incomplete = Some(Problem::malformed(format!("the body did not come within {within}")));
                    break;
                }
            };
        match end {
            Stop::All => break,
            Stop::Stretch => {}
            Stop::NoRoom => {
                read_off(&mut body).await;
                let problem = Problem::unavailable("too much is being posted at the same time; post this again");
                incomplete = Some(problem.retry_after(2));
            }
            Stop::Limit => {
                read_off(&mut body).await;
                incomplete = Some(Problem::too_large(format!("{what} may have {limit} at most")));
            }
        }
    }
    Received { bytes: kept.freeze(), incomplete, room: room.map(Arc::new) }
}

/// Why [`keep`] stopped.
enum Stop {
    All,
    Stretch,
    Limit,
    NoRoom,
}

/// Reads into `kept` until it has `most` bytes, and never more than `limit`.
async fn keep(
    body: &mut Body,
    kept: &mut BytesMut,
    room: &mut Option<Held>,
    most: usize,
    limit: usize,
) -> Result<Stop, axum::Error> {
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame?.into_data() else { continue };
        let fits = data.len() <= limit - kept.len();
        data.truncate(limit - kept.len());
        if let Some(room) = room
            && room.grow(grown(kept, data.len())).await.is_err()
        {
            return Ok(Stop::NoRoom);
        }
        kept.extend_from_slice(&data);
        if !fits {
            return Ok(Stop::Limit);
        }
        if kept.len() >= most && most < limit {
            return Ok(Stop::Stretch);
        }
    }
    Ok(Stop::All)
}

/// What `kept` takes up once it has grown by so much: it doubles where it has to.
fn grown(kept: &BytesMut, more: usize) -> usize {
    let needed = kept.len() + more;
    if needed <= kept.capacity() { kept.capacity() } else { needed.max(kept.capacity() * 2) }
}

/// Reads off a body that nobody wants. Whether it ends, breaks off or dawdles: the answer is the same.
pub(in crate::api) async fn read_off(body: &mut Body) {
    let drop_all = async {
        let mut dropped = 0;
        while let Some(Ok(frame)) = body.frame().await {
            dropped += frame.data_ref().map_or(0, Bytes::len);
            if dropped > READ_OFF {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(READ_OFF_WITHIN, drop_all).await;
}
