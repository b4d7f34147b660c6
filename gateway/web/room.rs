//! Room for what clients send: the bytes that all requests together may hold in memory. Clients whose key is known have one
//! room and strangers another, a small one, so that whoever has no key cannot keep those out who have one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What bodies take, and give back, at a time: more than most leads have, so that most ask once.
const BLOCK: usize = 4 << 10;
/// Bytes of clients that are known. What is made of a body while it is read takes some more.
const KNOWN: usize = 128 << 20;
/// Bytes of strangers.
const STRANGERS: usize = 8 << 20;
/// The largest bodies of which there is room for so many at least, where those may be larger than is usual.
const AT_LEAST: usize = 8;
/// How long a body waits for room. Those that come fast make room fast.
const ROOM_WITHIN: Duration = Duration::from_secs(2);

/// Whose body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// A source or staff: their key was in the head of the request.
    Known,
    /// Nobody knows yet; the key may be in the body.
    Stranger,
}

/// The room of one server.
#[derive(Debug)]
pub struct Room {
    known: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

/// There is no room, and there was none for a while.
#[derive(Debug)]
pub struct NoRoom;

/// What one body takes up; dropping it makes room.
#[derive(Debug)]
pub struct Held {
    of: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Room for bodies of which each may have `largest` bytes.
    #[must_use]
    pub fn new(largest: usize) -> Self {
        let blocks = |bytes: usize| {
            let blocks = bytes.max(largest.saturating_mul(AT_LEAST)).div_ceil(BLOCK);
            Arc::new(Semaphore::new(blocks.min(Semaphore::MAX_PERMITS)))
        };
        Self { known: blocks(KNOWN), strangers: blocks(STRANGERS) }
    }

    /// A body that takes up nothing yet.
    #[must_use]
    pub fn enter(&self, from: From) -> Held {
        let of = match from {
            From::Known => &self.known,
            From::Stranger => &self.strangers,
        };
        Held { of: Arc::clone(of), taken: None }
    }
}

impl Held {
    /// Makes sure that `bytes` may be held, all in all; waits a little for others to leave.
    ///
    /// # Errors
    /// When there is no room.
    pub async fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let has = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let needs = bytes.div_ceil(BLOCK).saturating_sub(has);
        if needs == 0 {
            return Ok(());
        }
        let more = Arc::clone(&self.of).acquire_many_owned(u32::try_from(needs).unwrap_or(u32::MAX));
        let Ok(Ok(more)) = tokio::time::timeout(ROOM_WITHIN, more).await else { return Err(NoRoom) };
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        Ok(())
    }
}
