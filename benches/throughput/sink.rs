//! The partner: one thread that reads requests and answers them, at about the cost of a web server that returns a
//! constant. It counts requests, keeps the idempotency keys it saw, and measures how long ago each lead was posted.
//!
//! Paths below `/-/` are for the benchmark: `/-/reset`, `/-/count`, `/-/report`. Every other request is a lead.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use super::clock::nanos;
use super::histogram::{Histogram, Percentiles};
use super::lead::since_posted;

/// How many idempotency keys are kept; beyond it nothing is said about requests that came twice, which fails the
/// benchmark. Eight bytes each.
pub const KEYS_AT_MOST: usize = 32 << 20;

const LISTENER: Token = Token(usize::MAX);
/// The largest request it reads.
const REQUEST_AT_MOST: usize = 256 << 10;

/// What it has counted so far.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Count {
    pub requests: u64,
    /// When the first and the last came, on the machine's monotonic clock; 0 before.
    pub first_at: u64,
    pub last_at: u64,
}

/// What a benchmark wants to know at the end of a load.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Report {
    pub requests: u64,
    /// Different idempotency keys among them.
    pub distinct: u64,
    /// Requests without one.
    pub unkeyed: u64,
    /// Requests whose key could not be kept.
    pub unkept: u64,
    /// From the post to its arrival here, since the last report.
    pub since_posted: Percentiles,
}

/// The role: prints its address, and answers until it is ended. `soap`: with SOAP 1.2 envelopes instead of JSON.
pub fn run(soap: bool, delay: Duration) -> anyhow::Result<()> {
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).context("no port is free")?;
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("{}", listener.local_addr()?);
    let mut sink = Sink {
        answer: Answer::new(soap),
        delay: delay.as_nanos() as u64,
        connections: Vec::new(),
        free: Vec::new(),
        later: VecDeque::new(),
        books: Books::new()?,
    };
    sink.serve(poll, &listener)
}

struct Sink {
    answer: Answer,
    /// Nanoseconds.
    delay: u64,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Answers that are due later, in order: when, on which connection, and which of those that had its number.
    later: VecDeque<(u64, usize, u64)>,
    books: Books,
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    filled: usize,
    out: Vec<u8>,
    /// Tells it from an earlier connection with its number.
    opened: u64,
}

impl Sink {
    fn serve(&mut self, mut poll: Poll, listener: &TcpListener) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            let timeout = self.later.front().map(|(due, ..)| Duration::from_nanos(due.saturating_sub(nanos())));
            if let Err(error) = poll.poll(&mut events, timeout)
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(error).context("waiting for requests failed");
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(&poll, listener)?,
                    Token(number) => self.heard(number, event.is_writable()),
                }
            }
            self.answer_what_is_due();
        }
    }

    fn accept(&mut self, poll: &Poll, listener: &TcpListener) -> anyhow::Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("no connection can be accepted"),
            };
            stream.set_nodelay(true)?;
            let number = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
            let (request, out, opened) = (vec![0; 16 << 10], Vec::new(), nanos());
            self.connections[number] = Some(Connection { stream, request, filled: 0, out, opened });
            // What came with it is told by an event of its own.
        }
    }

    /// Something happened on a connection.
    fn heard(&mut self, number: usize, writable: bool) {
        let Some(mut connection) = self.connections[number].take() else { return };
        let fine = (!writable || connection.flush().is_ok()) && self.read(&mut connection, number);
        if fine {
            self.connections[number] = Some(connection);
        } else {
            self.free.push(number);
        }
    }

    /// Reads what is there and answers what is whole; `false` when the connection is done.
    fn read(&mut self, connection: &mut Connection, number: usize) -> bool {
        loop {
            if connection.filled == connection.request.len() {
                if connection.filled >= REQUEST_AT_MOST {
                    return false;
                }
                connection.request.resize(connection.filled * 2, 0);
            }
            let room = connection.request.len() - connection.filled;
            let many = match connection.stream.read(&mut connection.request[connection.filled..]) {
                Ok(0) => return false,
                Ok(many) => many,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            };
            connection.filled += many;
            let mut done = 0;
            loop {
                let Ok(found) = Request::parse(&connection.request[done..connection.filled]) else { return false };
                let Some(request) = found else { break };
                done += request.length;
                if let Some(what) = request.own {
                    let text = self.books.answer(what);
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                        text.len()
                    );
                    connection.out.extend_from_slice(head.as_bytes());
                    connection.out.extend_from_slice(text.as_bytes());
                } else {
                    let now = nanos();
                    self.books.enter(&request, now);
                    if self.delay == 0 {
                        self.answer.write(self.books.count.requests, &mut connection.out);
                    } else {
                        self.later.push_back((now + self.delay, number, connection.opened));
                    }
                }
            }
            connection.request.copy_within(done..connection.filled, 0);
            connection.filled -= done;
            if !connection.out.is_empty() && connection.flush().is_err() {
                return false;
            }
            // Less than there was room for: there is no more, and more will be told.
            if many < room {
                return true;
            }
        }
    }

    fn answer_what_is_due(&mut self) {
        while let Some((due, number, opened)) = self.later.front().copied()
            && due <= nanos()
        {
            self.later.pop_front();
            if let Some(Some(connection)) = self.connections.get_mut(number)
                && connection.opened == opened
            {
                self.answer.write(self.books.count.requests, &mut connection.out);
                // One that is gone is told by its own event.
                let _ = connection.flush();
            }
        }
    }
}

impl Connection {
    fn flush(&mut self) -> std::io::Result<()> {
        let mut written = 0;
        while written < self.out.len() {
            match self.stream.write(&self.out[written..]) {
                Ok(many) => written += many,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.out.drain(..written);
        Ok(())
    }
}

/// A request that is there as a whole.
struct Request<'b> {
    length: usize,
    /// The word behind `/-/`.
    own: Option<&'b str>,
    key: Option<&'b [u8]>,
    body: &'b [u8],
}

impl<'b> Request<'b> {
    fn parse(bytes: &'b [u8]) -> Result<Option<Self>, httparse::Error> {
        let mut headers = [httparse::EMPTY_HEADER; 48];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(head) = request.parse(bytes)? else { return Ok(None) };
        let (mut length, mut key) = (0, None);
        for header in request.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(header.value).ok();
                length = text.and_then(|text| text.parse().ok()).ok_or(httparse::Error::HeaderValue)?;
            } else if header.name.eq_ignore_ascii_case("idempotency-key") {
                key = Some(header.value);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                // Nobody here sends one.
                return Err(httparse::Error::HeaderName);
            }
        }
        let own = request.path.and_then(|path| path.strip_prefix("/-/"));
        let whole = head + length;
        Ok(bytes.get(head..whole).map(|body| Self { length: whole, own, key, body }))
    }
}

/// What is answered to every lead, but for the digits of its reference.
struct Answer {
    text: Vec<u8>,
    reference: usize,
}

impl Answer {
    fn new(soap: bool) -> Self {
        let (kind, body) = if soap {
            (
                "application/soap+xml; charset=utf-8",
                "<?xml version=\"1.0\" encoding=\"utf-8\"?><env:Envelope xmlns:env=\"http://www.w3.org/2003/05/soap-envelope\">\
                 <env:Body><SubmitLeadResponse xmlns=\"urn:partner:leads:1\"><Result><Status>OK</Status>\
                 <LeadRef>R000000000000</LeadRef><Message>accepted</Message></Result></SubmitLeadResponse></env:Body></env:Envelope>",
            )
        } else {
            ("application/json", "{\"ok\":true,\"ref\":\"R000000000000\",\"message\":\"accepted\"}")
        };
        let text = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let reference = text.find("R0000").map_or(0, |at| at + 1);
        Self { text: text.into_bytes(), reference }
    }

    fn write(&self, mut number: u64, out: &mut Vec<u8>) {
        let at = out.len() + self.reference;
        out.extend_from_slice(&self.text);
        for digit in out[at..at + 12].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
}

struct Books {
    count: Count,
    /// Hashes, 64 bits: that two of 30 million different keys have the same one is a matter of 1 in 40,000.
    keys: Vec<u64>,
    unkeyed: u64,
    unkept: u64,
    since_posted: Histogram,
}

impl Books {
    fn new() -> anyhow::Result<Self> {
        // Room for some minutes at once, for growing copies them all. What is not used costs no memory.
        let keys = Vec::with_capacity(8 << 20);
        Ok(Self { count: Count::default(), keys, unkeyed: 0, unkept: 0, since_posted: Histogram::new()? })
    }

    fn enter(&mut self, request: &Request<'_>, now: u64) {
        self.count.requests += 1;
        self.count.last_at = now;
        if self.count.first_at == 0 {
            self.count.first_at = now;
        }
        match request.key {
            None => self.unkeyed += 1,
            Some(_) if self.keys.len() >= KEYS_AT_MOST => self.unkept += 1,
            Some(key) => {
                let mut hasher = DefaultHasher::new();
                key.hash(&mut hasher);
                self.keys.push(hasher.finish());
            }
        }
        if let Some(took) = since_posted(request.body, now) {
            self.since_posted.record(took.as_nanos() as u64);
        }
    }

    fn answer(&mut self, what: &str) -> String {
        let told = match what {
            "count" => serde_json::to_string(&self.count),
            "report" => serde_json::to_string(&self.report()),
            "reset" => {
                self.reset();
                Ok("{}".to_owned())
            }
            _ => Ok("{\"error\":\"no such path\"}".to_owned()),
        };
        told.unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    fn reset(&mut self) {
        (self.count, self.unkeyed, self.unkept) = (Count::default(), 0, 0);
        self.keys.clear();
        self.since_posted.reset();
    }

    fn report(&mut self) -> Report {
        self.keys.sort_unstable();
        let twice = self.keys.windows(2).filter(|pair| pair[0] == pair[1]).count();
        let since_posted = self.since_posted.percentiles();
        self.since_posted.reset();
        Report {
            requests: self.count.requests,
            distinct: (self.keys.len() - twice) as u64,
            unkeyed: self.unkeyed,
            unkept: self.unkept,
            since_posted,
        }
    }
}
