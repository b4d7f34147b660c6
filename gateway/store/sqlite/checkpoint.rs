//! Moves the write-ahead log into the database beside the writer, so that no commit has to: copied and synced by a thread of
//! its own. The log begins anew before it grows large: by the writer itself, between two commits and when next to nothing
//! is left to be copied and synced, so that nobody waits for more than that. The file keeps its size: one that is cut would
//! have to be lengthened again with every sync.

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::Connection;

use super::connect;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many looks a little of it may wait for.
const LOOKS: u32 = 10;
/// Frames (pages) that wait for no look more: 32 MiB.
const MUCH: i64 = 4_096;
/// Frames from which on the log is to begin anew: 64 MiB.
const LONG: i64 = 8_192;
/// Frames from which on the writer is to begin it anew whatever is left: 512 MiB.
const TOO_LONG: i64 = 65_536;
/// Frames that may be left for the writer to move.
const REST: i64 = 256;
/// Rounds in which the rest is to become so small.
const ROUNDS: usize = 8;
/// How long searches are waited for; what they may still read cannot be overwritten.
const WAITS: Duration = Duration::from_millis(20);

/// Starts the thread that does it, until the sender is dropped. `database` is the file at `path`: to close it would take
/// SQLite's locks from this process, so it is kept open for as long as SQLite has it.
pub(super) fn start(
    path: &Path,
    database: Arc<File>,
    log_is_done: Arc<AtomicBool>,
) -> Result<(mpsc::Sender<()>, std::thread::JoinHandle<()>), String> {
    let conn = connect(path).map_err(|error| error.to_string())?;
    conn.busy_timeout(Duration::ZERO).map_err(|error| error.to_string())?;
    let (stop, stopped) = mpsc::channel::<()>();
    let thread = std::thread::Builder::new()
        .name("store-checkpoint".to_owned())
        .spawn(move || {
            let (mut failing, mut looks) = (false, 0);
            while stopped.recv_timeout(LOOK_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                let done = look(&conn, &database, &mut looks).map(|long| {
                    if long {
                        log_is_done.store(true, Ordering::Release);
                    }
                });
                if let Err(error) = &done
                    && !failing
                {
                    tracing::warn!(store.error = error, "checkpoints fail; the log grows until one succeeds");
                }
                failing = done.is_err();
            }
        })
        .map_err(|error| error.to_string())?;
    Ok((stop, thread))
}

/// Moves what there is, if it is much or has waited; whether the log is long, and as good as moved.
fn look(conn: &Connection, database: &File, looks: &mut u32) -> Result<bool, Box<dyn Error>> {
    let mut log = Log::after(conn, "NOOP")?;
    *looks += 1;
    if log.rest() < MUCH && *looks < LOOKS {
        return Ok(false);
    }
    *looks = 0;
    for _ in 0..ROUNDS {
        if log.rest() == 0 {
            break;
        }
        let before = log.rest();
        log = Log::after(conn, "PASSIVE")?;
        if log.frames < LONG || log.rest() <= REST || log.rest() >= before {
            break;
        }
    }
    if log.frames < LONG {
        return Ok(false);
    }
    // SQLite syncs the database only where it has moved all there is: while commits go on, that is the writer's own step. What
    // it would have to sync then, and all who wait for it, is synced here.
    database.sync_data()?;
    log = Log::after(conn, "PASSIVE")?;
    Ok(log.rest() <= REST || log.frames >= TOO_LONG)
}

/// Has the next commit begin the log anew, if nobody reads what is in it.
pub(super) fn begin_anew(conn: &Connection) {
    // What waits for the writer must not wait for a search.
    let _ = conn.busy_timeout(WAITS);
    if let Err(error) = Log::after(conn, "RESTART") {
        tracing::debug!(store.error = %error, "the log goes on");
    }
    let _ = conn.busy_timeout(super::BUSY_WITHIN);
}

/// How long the log is, and how much of it is in the database.
struct Log {
    frames: i64,
    moved: i64,
}

impl Log {
    /// As it is after a checkpoint.
    fn after(conn: &Connection, mode: &str) -> rusqlite::Result<Self> {
        conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
            Ok(Self { frames: row.get(1)?, moved: row.get(2)? })
        })
    }

    fn rest(&self) -> i64 {
        self.frames - self.moved
    }
}
