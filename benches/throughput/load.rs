//! Those who post: one thread over many keep-alive connections, each with one post under way. It does no more for a post
//! than write it and read the answer's head, so that what is measured is the other side.
//!
//! *Closed*: each connection posts again as soon as it was answered. At a *rate*: posts are due at even intervals, go out
//! on whichever connection is free, and their latency counts from when they were due. Nothing is posted again, and no
//! answer is a reason to post less: what was refused is counted by its status.
//!
//! On standard output: a line of JSON every quarter of a second, and one with the outcome at the end.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::clock::nanos;
use super::histogram::{Histogram, Percentiles};
use super::lead::{Posts, Regions, Target};
use super::machine::cpu_micros;

/// How often it says how far it is.
const SAY_EVERY: u64 = 250_000_000;
/// How long after its end the answers may take that are still to come: as long as the gateway may wait for a partner.
const GRACE: u64 = 70_000_000_000;
/// The token of the timer; connections have theirs by number.
const TIMER: Token = Token(usize::MAX - 1);

/// What to post, where, and for how long.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Connections are spread over them.
    pub addresses: Vec<SocketAddr>,
    pub targets: Vec<Target>,
    pub regions: Regions,
    pub connections: usize,
    /// No post begins after so many seconds …
    pub seconds: f64,
    /// … or after so many.
    pub posts: u64,
    /// A second; closed without.
    pub rate: Option<f64>,
    /// Makes these leads others than those of every other load.
    pub run: u64,
}

/// How far it is.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    pub accepted: u64,
}

/// What came of it.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// When the first post went out, on the machine's monotonic clock.
    pub began_at: u64,
    /// From the first post to the last answer, or to the end where that is later.
    pub seconds: f64,
    pub posts: u64,
    pub statuses: BTreeMap<u16, u64>,
    /// Posts without an answer: the connection broke, or it took too long.
    pub errors: u64,
    /// An answer that was not 2xx.
    pub refusal: Option<String>,
    /// Of the 2xx.
    pub latency: Percentiles,
    /// Microseconds that the load itself has had.
    pub cpu_micros: f64,
}

impl Outcome {
    pub fn accepted(&self) -> u64 {
        self.statuses.iter().filter(|(status, _)| (200..300).contains(*status)).map(|(_, count)| count).sum()
    }

    pub fn refused(&self) -> u64 {
        self.statuses.values().sum::<u64>() - self.accepted()
    }
}

/// A line of what it says.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Progress(Progress),
    Done(Outcome),
}

/// The role: reads its specification from a file.
pub fn run(spec: &Path) -> anyhow::Result<()> {
    let text = std::fs::read(spec).with_context(|| format!("{} cannot be read", spec.display()))?;
    let spec: Spec = serde_json::from_slice(&text).with_context(|| format!("{} is no load", spec.display()))?;
    let outcome = Load::start(spec)?.run()?;
    println!("{}", serde_json::to_string(&Line::Done(outcome))?);
    Ok(())
}

struct Load {
    spec: Spec,
    posts: Posts,
    poll: Poll,
    timer: OwnedFd,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    began: u64,
    /// When the last answer came.
    ended: u64,
    outcome: Outcome,
    latency: Histogram,
}

struct Connection {
    stream: TcpStream,
    post: Vec<u8>,
    written: usize,
    answer: Vec<u8>,
    filled: usize,
    /// When the post under way was due, or sent; `None` when it waits for one.
    since: Option<u64>,
}

impl Load {
    fn start(spec: Spec) -> anyhow::Result<Self> {
        anyhow::ensure!(!spec.addresses.is_empty() && !spec.targets.is_empty(), "a load needs somewhere to post to");
        let poll = Poll::new()?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let connections = (0..spec.connections)
            .map(|number| Connection::open(poll.registry(), number, address(&spec, number)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            posts: Posts::new(&spec.targets, spec.regions, spec.run),
            idle: (0..connections.len()).collect(),
            spec,
            poll,
            timer,
            connections,
            began: 0,
            ended: 0,
            outcome: Outcome::default(),
            latency: Histogram::new()?,
        })
    }

    fn run(mut self) -> anyhow::Result<Outcome> {
        self.began = nanos();
        let end = self.began + (self.spec.seconds * 1e9) as u64;
        let mut events = Events::with_capacity(1024);
        let mut say = self.began + SAY_EVERY;
        loop {
            let now = nanos();
            let over = now >= end || self.outcome.posts >= self.spec.posts;
            if over && self.idle.len() == self.connections.len() {
                break;
            }
            if now >= end + GRACE {
                self.outcome.errors += (self.connections.len() - self.idle.len()) as u64;
                break;
            }
            if !over {
                self.post_what_is_due(now)?;
            }
            if now >= say {
                let progress = Progress { accepted: self.outcome.accepted() };
                println!("{}", serde_json::to_string(&Line::Progress(progress))?);
                say += SAY_EVERY;
            }
            if let Err(error) = self.poll.poll(&mut events, Some(Duration::from_millis(50)))
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(error).context("waiting for answers failed");
            }
            for event in &events {
                if event.token() == TIMER {
                    let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                } else {
                    self.heard(event.token().0, end)?;
                }
            }
        }
        let until = if self.outcome.posts >= self.spec.posts { self.ended } else { self.ended.max(end) };
        self.outcome.began_at = self.began;
        self.outcome.seconds = until.saturating_sub(self.began) as f64 / 1e9;
        self.outcome.latency = self.latency.percentiles();
        self.outcome.cpu_micros = cpu_micros(std::process::id());
        Ok(self.outcome)
    }

    /// Posts on idle connections, at a rate only what is due; sets the timer for the next.
    fn post_what_is_due(&mut self, now: u64) -> anyhow::Result<()> {
        while self.outcome.posts < self.spec.posts && !self.idle.is_empty() {
            let due = match self.spec.rate {
                Some(rate) => self.began + (self.outcome.posts as f64 * 1e9 / rate) as u64,
                None => now,
            };
            if due > now {
                let at = Timespec { tv_sec: (due / 1_000_000_000) as i64, tv_nsec: (due % 1_000_000_000) as i64 };
                let none = Timespec { tv_sec: 0, tv_nsec: 0 };
                let once = Itimerspec { it_interval: none, it_value: at };
                timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
                return Ok(());
            }
            let Some(number) = self.idle.pop_front() else { return Ok(()) };
            self.post(number, due, now)?;
        }
        Ok(())
    }

    fn post(&mut self, number: usize, due: u64, now: u64) -> anyhow::Result<()> {
        let connection = &mut self.connections[number];
        self.posts.write(self.outcome.posts, now, &mut connection.post);
        self.outcome.posts += 1;
        (connection.written, connection.filled, connection.since) = (0, 0, Some(due));
        if connection.write().is_err() {
            self.broken(number)?;
        }
        Ok(())
    }

    /// Something happened on a connection.
    fn heard(&mut self, number: usize, end: u64) -> anyhow::Result<()> {
        let connection = &mut self.connections[number];
        if connection.written < connection.post.len() && connection.since.is_some() && connection.write().is_err() {
            return self.broken(number);
        }
        let status = match connection.read() {
            Ok(Some(status)) => status,
            Ok(None) => return Ok(()),
            Err(_) => return self.broken(number),
        };
        let Some(since) = connection.since.take() else { return self.broken(number) };
        let now = nanos();
        if (200..300).contains(&status) {
            self.latency.record(now.saturating_sub(since));
        } else if self.outcome.refusal.is_none() {
            let text = String::from_utf8_lossy(&connection.answer[..connection.filled]);
            self.outcome.refusal = Some(text.chars().take(600).collect());
        }
        *self.outcome.statuses.entry(status).or_default() += 1;
        self.ended = now;
        if self.spec.rate.is_none() && now < end && self.outcome.posts < self.spec.posts {
            return self.post(number, now, now);
        }
        self.idle.push_back(number);
        Ok(())
    }

    /// The connection is gone; a post without an answer is an error, and another connection takes its place.
    fn broken(&mut self, number: usize) -> anyhow::Result<()> {
        if self.connections[number].since.is_some() {
            self.outcome.errors += 1;
            self.idle.push_back(number);
        }
        anyhow::ensure!(self.outcome.errors < 100_000, "nearly every post is left without an answer");
        let address = address(&self.spec, number);
        self.connections[number] = Connection::open(self.poll.registry(), number, address)?;
        Ok(())
    }
}

fn address(spec: &Spec, connection: usize) -> SocketAddr {
    spec.addresses[connection % spec.addresses.len()]
}

impl Connection {
    fn open(registry: &Registry, number: usize, address: SocketAddr) -> anyhow::Result<Self> {
        let stream = std::net::TcpStream::connect(address).with_context(|| format!("{address} cannot be reached"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        registry.register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, post: Vec::new(), written: 0, answer: vec![0; 16 << 10], filled: 0, since: None })
    }

    fn write(&mut self) -> std::io::Result<()> {
        while self.written < self.post.len() {
            match self.stream.write(&self.post[self.written..]) {
                Ok(many) => self.written += many,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The status of the answer, once all of it is there.
    fn read(&mut self) -> std::io::Result<Option<u16>> {
        loop {
            if self.filled == self.answer.len() {
                return Err(ErrorKind::InvalidData.into());
            }
            let room = self.answer.len() - self.filled;
            let many = match self.stream.read(&mut self.answer[self.filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(many) => many,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            self.filled += many;
            if let Some(status) = whole(&self.answer[..self.filled])? {
                return Ok(Some(status));
            }
            // Less than there was room for: there is no more, and more will be told.
            if many < room {
                return Ok(None);
            }
        }
    }
}

/// The status of an answer that is there as a whole.
fn whole(bytes: &[u8]) -> std::io::Result<Option<u16>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let bad = || std::io::Error::from(ErrorKind::InvalidData);
    let httparse::Status::Complete(head) = response.parse(bytes).map_err(|_| bad())? else { return Ok(None) };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let length = length.ok_or_else(bad)?;
    Ok(if bytes.len() >= head + length { response.code } else { None })
}
