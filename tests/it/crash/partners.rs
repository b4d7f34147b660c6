//! Strict partners: each remembers every request, and what it made of it, so that what the gateways say can be held
//! against what really arrived. What a partner does with a person's n-th request follows from the seed alone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use lead_gateway::clock::Clock;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::dice::Dice;

/// What a partner made of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Took the lead and said so.
    Took,
    /// Took it, and said so late: kills find many of these open.
    TookLate,
    /// It had this delivery already.
    HadIt,
    /// Refused it.
    Refused,
    /// Wants it later (503).
    Later,
    /// Took it, and broke the connection instead of an answer.
    TookAndCut,
    /// Took it, and broke off within the answer.
    TookAndCutMidReply,
    /// Took it, and fell silent.
    TookAndHung,
    /// Took it, and answered 500.
    TookAndFailed,
}

impl Decision {
    /// Nobody but the partner can know what became of the lead.
    pub fn is_ambiguous(self) -> bool {
        matches!(self, Self::TookAndCut | Self::TookAndCutMidReply | Self::TookAndHung | Self::TookAndFailed)
    }

    /// The partner has the lead now.
    pub fn has_it(self) -> bool {
        !matches!(self, Self::Refused | Self::Later)
    }
}

/// One request that was read whole.
#[derive(Debug, Clone)]
pub struct Request {
    pub at: Timestamp,
    /// The path, which is the contract's id.
    pub contract: String,
    /// The `Idempotency-Key`.
    pub delivery: String,
    pub email: String,
    pub decision: Decision,
}

#[derive(Debug, Default)]
struct Seen {
    requests: Vec<Request>,
    /// Person → the delivery by which this partner has it.
    has: HashMap<String, String>,
    asked: HashMap<String, u64>,
    /// Connections that were broken with a request on the way, unread.
    cut_unread: usize,
    faults: Vec<String>,
}

/// One partner; it stops when it is dropped.
pub struct Partner {
    pub id: &'static str,
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    server: AbortHandle,
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Partner {
    pub async fn start(id: &'static str, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let server = tokio::spawn(serve(listener, id, seed, Arc::clone(&seen))).abort_handle();
        Self { id, address, seen, server }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().requests.clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().requests.len()
    }

    pub fn cut_unread(&self) -> usize {
        self.seen.lock().unwrap().cut_unread
    }

    /// What no gateway may do, whatever happens to it.
    pub fn faults(&self) -> Vec<String> {
        self.seen.lock().unwrap().faults.clone()
    }
}

async fn serve(listener: TcpListener, id: &'static str, seed: u64, seen: Arc<Mutex<Seen>>) {
    // Aborted with this task.
    let mut connections = JoinSet::new();
    let mut dice = Dice::new(seed, &format!("connections of {id}"));
    loop {
        let Ok((wire, _)) = listener.accept().await else { continue };
        let cut = dice.percent(2);
        let seen = Arc::clone(&seen);
        connections.spawn(async move {
            let mut wire = wire;
            if cut {
                // Something is on the way: then nobody but us can know that it was not read.
                if matches!(wire.peek(&mut [0]).await, Ok(1..)) {
                    seen.lock().unwrap().cut_unread += 1;
                    let _ = wire.set_zero_linger();
                }
                return;
            }
            while let Some((head, body)) = read(&mut wire).await {
                let decision = seen.lock().unwrap().decide(id, seed, &head, &body);
                if !answer(&mut wire, decision).await {
                    return;
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Seen {
    fn decide(&mut self, id: &str, seed: u64, head: &str, body: &[u8]) -> Decision {
        let contract = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let delivery = header(head, "idempotency-key").unwrap_or_default().to_owned();
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let email = body["email"].as_str().unwrap_or_default().to_owned();
        if email.is_empty() || delivery.is_empty() || body["delivery"].as_str() != Some(&*delivery) {
            self.faults.push(format!("{id} got a request that is not whole: {head} {body}"));
        }
        let nth = self.asked.entry(email.clone()).or_insert(0);
        *nth += 1;
        let mut dice = Dice::new(seed, &format!("{id} asked for {email} the {nth}. time"));
        let decision = match self.has.get(&email) {
            Some(by) if *by == delivery => Decision::HadIt,
            Some(by) => {
                self.faults.push(format!("{id} got {email} by the delivery {by}, and again by {delivery}"));
                Decision::HadIt
            }
            None => match dice.below(100) {
                0..60 => Decision::Took,
                60..74 => Decision::TookLate,
                74..88 => Decision::Refused,
                88..92 => Decision::Later,
                92..94 => Decision::TookAndCut,
                94..96 => Decision::TookAndCutMidReply,
                96..98 => Decision::TookAndFailed,
                _ => Decision::TookAndHung,
            },
        };
        if decision.has_it() {
            self.has.entry(email.clone()).or_insert_with(|| delivery.clone());
        }
        self.requests.push(Request { at: Clock::system().now(), contract, delivery, email, decision });
        decision
    }
}

/// Whether the connection is still of use.
async fn answer(wire: &mut TcpStream, decision: Decision) -> bool {
    let (status, word) = match decision {
        Decision::TookLate => {
            tokio::time::sleep(Duration::from_millis(150)).await;
            (200, "took")
        }
        Decision::Took | Decision::TookAndCutMidReply => (200, "took"),
        Decision::HadIt => (200, "had"),
        Decision::Refused => (200, "refused"),
        Decision::Later => (503, "later"),
        Decision::TookAndFailed => (500, "failed"),
        Decision::TookAndCut => {
            let _ = wire.set_zero_linger();
            return false;
        }
        Decision::TookAndHung => {
            // Until the other end goes.
            while matches!(wire.read(&mut [0; 64]).await, Ok(1..)) {}
            return false;
        }
    };
    let body = format!("{{\"answer\": \"{word}\"}}");
    let reply = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let bytes = match decision {
        Decision::TookAndCutMidReply => &reply.as_bytes()[..reply.len() - 8],
        _ => reply.as_bytes(),
    };
    let written = wire.write_all(bytes).await.is_ok();
    if decision == Decision::TookAndCutMidReply {
        let _ = wire.shutdown().await;
        return false;
    }
    written
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Reads one whole request; `None` at the end of the connection.
async fn read(wire: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let (mut raw, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    loop {
        if let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&raw[..end]).into_owned();
            let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
            if let Some(body) = raw.get(end + 4..end + 4 + length) {
                return Some((head, body.to_vec()));
            }
        }
        match wire.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => raw.extend_from_slice(&buffer[..read]),
        }
    }
}
