//! An exchange: what is sent to a partner and what comes back, before and after anybody judged it.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::{self, Clock, Uptime};
/// A rendered request, ready to be sent, with the masked twin that may be stored.
#[derive(Clone)]
pub struct Outgoing {
    /// `POST` or `GET`.
    pub http_method: &'static str,
    /// Where to.
    pub url: String,
    /// In the order they are sent.
    pub headers: Vec<(String, String)>,
    /// Empty for `GET`.
    pub body: Bytes,
    /// The same with secrets and sensitive fields masked; `None` where nothing needed it.
    pub masked: Option<Masked>,
    /// Resolved secrets that may be echoed in a reply, to be masked there too.
    pub secrets: Vec<String>,
    /// The same request to the endpoint's `backup_url`.
    pub backup: Option<Box<Outgoing>>,
    /// What ends before a byte of it may no longer be sent.
    pub send_before: Option<SendBefore>,
}

/// Until when a request may be handed over; looked at right before its first byte.
#[derive(Debug, Clone)]
pub struct SendBefore {
    /// The gateway's lease on the delivery, where there is one: others may have it afterwards.
    pub lease: Option<Uptime>,
    /// The partner's hours, and the period whose places it has taken, by the clock beside it.
    pub hours: Timestamp,
    /// The clock that hours go by.
    pub clock: Clock,
}

impl SendBefore {
    /// Why it may not be sent any more, if so.
    #[must_use]
    pub fn is_over(&self) -> Option<&'static str> {
        if self.lease.is_some_and(|lease| clock::uptime() >= lease) {
            return Some("this gateway's lease on its deliveries had ended");
        }
        (self.clock.now() >= self.hours).then_some("the hours or the period it was admitted in had ended")
    }
}

impl Outgoing {
    /// Not a byte of it, nor of its backup, may be sent after that.
    pub fn must_be_sent_before(&mut self, end: SendBefore) {
        if let Some(backup) = &mut self.backup {
            backup.send_before = Some(end.clone());
        }
        self.send_before = Some(end);
    }

    /// Adds a header whose value is a secret: masked in what is stored, and wherever a reply echoes it.
    pub fn add_secret_header(&mut self, name: &str, value: &str, secret: &str) {
        let masked = self.masked.get_or_insert_with(|| Masked {
            url: self.url.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
        });
        masked.headers.push((name.to_owned(), super::secret::MASK.to_owned()));
        self.headers.push((name.to_owned(), value.to_owned()));
        self.secrets.push(secret.to_owned());
        if let Some(backup) = &mut self.backup {
            backup.add_secret_header(name, value, secret);
        }
    }
}

/// What of a request may be stored and shown.
#[derive(Clone)]
pub struct Masked {
    /// Where to.
    pub url: String,
    /// In the order they are sent.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outgoing({}, {} bytes)", self.http_method, self.body.len())
    }
}

/// What came of sending a request.
#[derive(Debug)]
pub struct Sent {
    /// A whole reply, or how it failed.
    pub result: Result<Reply, SendFault>,
    /// Where the time went.
    pub timings: Timings,
}

impl Sent {
    /// Nothing was sent at all.
    #[must_use]
    pub fn not_sent(message: String) -> Self {
        let fault = SendFault { kind: SendFaultKind::NotSent, message, partial: None };
        Self { result: Err(fault), timings: Timings::default() }
    }
}

/// A whole reply.
#[derive(Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// In the order they came; bytes that are not UTF-8 replaced.
    pub headers: Vec<(String, String)>,
    /// The body with its content coding undone; charset as it came.
    pub body: Bytes,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reply({}, {} bytes)", self.status, self.body.len())
    }
}

impl Reply {
    /// The first header of this name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Why there is no whole reply.
#[derive(Debug, Clone)]
pub struct SendFault {
    /// What kind of trouble.
    pub kind: SendFaultKind,
    /// In words, without anything that was sent.
    pub message: String,
    /// What had arrived of the reply, to be captured.
    pub partial: Option<Reply>,
}

/// Kinds of sending trouble; all but `NotSent` and `NoToken` leave the outcome unknown (promise 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendFaultKind {
    /// No byte of the request was handed to a socket: DNS, vetting, connect, TLS.
    NotSent,
    /// None either, for it was too late for it when its turn came (see [`SendBefore`]): no fault of the partner's.
    TooLate,
    /// None either, for the access token that it needs was refused.
    NoToken,
    /// No whole reply in time.
    Timeout,
    /// The connection broke before a reply began.
    Reset,
    /// The reply broke off, could not be read, or was larger than we read.
    Incomplete,
}

/// Where the time of an exchange went, each in whole milliseconds from its start; `None` where it did not happen or
/// was not seen (a pooled connection has no `dns`, `connect`, `tls`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Looking up the name.
    pub dns: Option<u32>,
    /// Connecting.
    pub connect: Option<u32>,
    /// The TLS handshake.
    pub tls: Option<u32>,
    /// Until the reply's head.
    pub first_byte: Option<u32>,
    /// Until the end.
    pub total: u32,
}
