//! A partner to test against: a raw TCP or TLS server on 127.0.0.1 that does exactly what its script says, however
//! ill-mannered, and remembers all it was sent. It stops when it is dropped.
//!
//! ```ignore
//! let partner = Stub::start(Behaviour::ok("{\"code\":1}")).await;          // the same for every request
//! let partner = Stub::script([Behaviour::reply(503, ""), Behaviour::ok("OK")]).await; // the last one repeats
//! send_to(partner.url("/leads")).await;
//! assert_eq!(partner.requests()[0].body, b"...");
//! ```
#![allow(dead_code, reason = "a box of tools: each stage's tests use some")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lead_gateway::clock;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// One step of what a partner does with a connection.
#[derive(Debug, Clone)]
pub enum Step {
    /// Reads one whole request and remembers it.
    Read,
    /// Waits until there is something to read, and leaves it unread.
    Await,
    /// Writes this.
    Write(Vec<u8>),
    /// Writes this again and again, as long as the other end takes it.
    WriteForever(Vec<u8>),
    /// Does nothing for so long.
    Pause(Duration),
    /// Does nothing until the test says so.
    Until(watch::Receiver<bool>),
    /// Does nothing for ever, with the connection open.
    Hang,
    /// Breaks the connection with a TCP reset.
    Reset,
    /// Closes the connection in good order, and waits for the other end to do the same.
    Close,
}

/// What a partner does with one request. Where the last step is neither `Hang`, `Reset` nor `Close`, the connection
/// stays open for the next request.
#[derive(Debug, Clone)]
pub struct Behaviour(pub Vec<Step>);

impl Behaviour {
    /// Reads the request, then writes these very bytes, and keeps the connection.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::Read, Step::Write(bytes.into())])
    }

    /// 200 with this body.
    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::reply(200, body)
    }

    /// This status and body.
    pub fn reply(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self::reply_with(status, &[], body)
    }

    /// This status, these headers beside `Content-Length`, and this body.
    pub fn reply_with(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let length = body.as_ref().len().to_string();
        let mut headers = headers.to_vec();
        headers.push(("Content-Length", &length));
        let mut bytes = head(status, &headers);
        bytes.extend_from_slice(body.as_ref());
        Self::raw(bytes)
    }

    /// The same, and `then` with the connection.
    #[must_use]
    pub fn then(mut self, then: Step) -> Self {
        self.0.push(then);
        self
    }

    /// The same, after doing this with the request that was read.
    #[must_use]
    pub fn after(mut self, first: Step) -> Self {
        self.0.insert(1, first);
        self
    }

    /// 302 to there.
    pub fn redirect(to: &str) -> Self {
        Self::reply_with(302, &[("Location", to)], "")
    }

    /// 200 with a body in chunks of this size.
    pub fn chunked(body: &[u8], size: usize) -> Self {
        let mut bytes = head(200, &[("Transfer-Encoding", "chunked")]);
        for chunk in body.chunks(size) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        Self::raw(bytes)
    }

    /// 200 without a length: the body ends where the connection does.
    pub fn close_delimited(body: &[u8]) -> Self {
        let mut bytes = head(200, &[("Connection", "close")]);
        bytes.extend_from_slice(body);
        Self::raw(bytes).then(Step::Close)
    }

    /// 100 Continue, and then 200.
    pub fn continue_first(body: &str) -> Self {
        let mut bytes = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
        bytes.extend_from_slice(&head(200, &[("Content-Length", &body.len().to_string())]));
        bytes.extend_from_slice(body.as_bytes());
        Self::raw(bytes)
    }

    /// 200 with a gzip body.
    pub fn gzip(content: &[u8]) -> Self {
        Self::reply_with(200, &[("Content-Encoding", "gzip")], gzip(content))
    }

    /// 200 with a small gzip body that decompresses to so many zeros.
    pub fn gzip_bomb(size: usize) -> Self {
        Self::gzip(&vec![0; size])
    }

    /// 200 with a body of so many bytes, declared.
    pub fn huge(size: usize) -> Self {
        let mut behaviour = Self::raw(head(200, &[("Content-Length", &size.to_string())]));
        let block = vec![b'x'; 64 * 1024];
        for _ in 0..size.div_ceil(block.len()) {
            behaviour.0.push(Step::Write(block.clone()));
        }
        behaviour.then(Step::Close)
    }

    /// 200 with a body that never ends.
    pub fn endless_body() -> Self {
        let mut chunk = b"1000\r\n".to_vec();
        chunk.extend_from_slice(&[b'x'; 0x1000]);
        chunk.extend_from_slice(b"\r\n");
        Self::raw(head(200, &[("Transfer-Encoding", "chunked")])).then(Step::WriteForever(chunk))
    }

    /// A head that never ends.
    pub fn endless_head() -> Self {
        Self::raw("HTTP/1.1 200 OK\r\n").then(Step::WriteForever(b"X-More: and more and more\r\n".to_vec()))
    }

    /// Accepts the connection and does nothing with it.
    pub fn hang_at_once() -> Self {
        Self(vec![Step::Hang])
    }

    /// Reads the request and never answers.
    pub fn hang_after_reading() -> Self {
        Self(vec![Step::Read, Step::Hang])
    }

    /// Begins the head and stops.
    pub fn hang_mid_head() -> Self {
        Self::raw("HTTP/1.1 200 OK\r\nContent-Ty").then(Step::Hang)
    }

    /// Sends the head and this much of a longer body, and stops.
    pub fn hang_mid_body(part: &str) -> Self {
        Self::part_of_body(part).then(Step::Hang)
    }

    /// Waits for the request, and resets the connection without reading it.
    pub fn reset_before_reading() -> Self {
        Self(vec![Step::Await, Step::Reset])
    }

    /// Reads the request and resets the connection.
    pub fn reset_after_reading() -> Self {
        Self(vec![Step::Read, Step::Reset])
    }

    /// Reads the request and closes the connection.
    pub fn close_after_reading() -> Self {
        Self(vec![Step::Read, Step::Close])
    }

    /// Begins the head and closes the connection.
    pub fn close_mid_head() -> Self {
        Self::raw("HTTP/1.1 200 OK\r\nContent-Ty").then(Step::Close)
    }

    /// Sends the head and this much of a longer body, and closes the connection.
    pub fn close_mid_body(part: &str) -> Self {
        Self::part_of_body(part).then(Step::Close)
    }

    /// Answers with what is not HTTP.
    pub fn malformed() -> Self {
        Self::raw("HTTP/1.1 OK 200\r\n\r\n").then(Step::Close)
    }

    fn part_of_body(part: &str) -> Self {
        let mut bytes = head(200, &[("Content-Length", &(part.len() + 100).to_string())]);
        bytes.extend_from_slice(part.as_bytes());
        Self::raw(bytes)
    }

    fn reads_first(&self) -> bool {
        matches!(self.0.first(), Some(Step::Read))
    }
}

fn head(status: u16, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Status\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// This, gzip-compressed.
pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    /// `POST`.
    pub method: String,
    /// `/leads?x=1`.
    pub target: String,
    /// In the order and spelling they came.
    pub headers: Vec<(String, String)>,
    /// Without its transfer coding.
    pub body: Vec<u8>,
    /// Every byte.
    pub raw: Vec<u8>,
    /// Which connection it came on, 0 first.
    pub connection: usize,
    /// When it was whole.
    pub at: Instant,
}

impl Received {
    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

#[derive(Debug, Default)]
struct Seen {
    requests: Vec<Received>,
    connections: usize,
    open: usize,
    /// Requests that were read and not answered yet, and the most there ever were.
    answering: usize,
    most: usize,
    /// Every byte that was read, of whole requests or not.
    bytes: usize,
}

/// A certificate authority of its own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its certificate, to be trusted.
    pub fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// A server's certificate for these names and addresses, signed by it.
    pub fn serve(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.serve_until(names, 2999)
    }

    /// One that has expired.
    pub fn serve_expired(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.serve_until(names, 2001)
    }

    fn serve_until(&self, names: &[&str], year: i32) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate: CertificateDer<'static> = params.signed_by(&key, &self.0).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Arc::new(config)
    }
}

/// The partner.
pub struct Stub {
    address: SocketAddr,
    tls: bool,
    seen: watch::Receiver<Seen>,
    server: AbortHandle,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Stub {
    /// Does the same with every request.
    pub async fn start(behaviour: Behaviour) -> Self {
        Self::script([behaviour]).await
    }

    /// Does these in turn, one per request, and then the last one again and again.
    pub async fn script(behaviours: impl IntoIterator<Item = Behaviour>) -> Self {
        Self::serve(behaviours.into_iter().collect(), None).await
    }

    /// The same over TLS.
    pub async fn start_tls(behaviour: Behaviour, tls: Arc<ServerConfig>) -> Self {
        Self::serve(vec![behaviour], Some(tls)).await
    }

    async fn serve(behaviours: Vec<Behaviour>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, seen) = watch::channel(Seen::default());
        let secure = tls.is_some();
        let server = tokio::spawn(accept_all(listener, Script::new(behaviours), tls, told)).abort_handle();
        Self { address, tls: secure, seen, server }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, such as `/leads?x=1`.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Received> {
        self.seen.borrow().requests.clone()
    }

    /// How many requests there were so far.
    pub fn count(&self) -> usize {
        self.seen.borrow().requests.len()
    }

    /// The most requests that were ever open at the same time.
    pub fn most_at_once(&self) -> usize {
        self.seen.borrow().most
    }

    /// The connections so far.
    pub fn connections(&self) -> usize {
        self.seen.borrow().connections
    }

    /// Every byte read so far (without TLS).
    pub fn bytes(&self) -> usize {
        self.seen.borrow().bytes
    }

    /// Returns when so many requests have come; fails after ten seconds.
    pub async fn wait_for_requests(&self, count: usize) {
        self.wait_for(|seen| seen.requests.len() >= count).await;
    }

    /// Returns when so many requests have come; fails after `within`.
    pub async fn wait_for_more_requests(&self, count: usize, within: Duration) {
        let mut seen = self.seen.clone();
        let come = seen.wait_for(|seen| seen.requests.len() >= count);
        tokio::time::timeout(within, come).await.expect("in time").unwrap();
    }

    /// Returns when so many connections have come; fails after ten seconds.
    pub async fn wait_for_connections(&self, count: usize) {
        self.wait_for(|seen| seen.connections >= count).await;
    }

    /// Returns when no connection is open any more, so that all that was sent has been seen; fails after ten seconds.
    pub async fn wait_until_idle(&self) {
        self.wait_for(|seen| seen.open == 0).await;
    }

    async fn wait_for(&self, wanted: impl FnMut(&Seen) -> bool) {
        let mut seen = self.seen.clone();
        tokio::time::timeout(Duration::from_secs(10), seen.wait_for(wanted)).await.expect("in ten seconds").unwrap();
    }
}

/// An address where nobody listens.
pub async fn refused() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// A listener whose queue is full, so that no further connection is ever made; keep it.
pub struct Unconnectable {
    /// Where it listens.
    pub address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Unconnectable {
    /// Fills its own queue.
    pub async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        // The kernel rounds the queue's length; a connection to oneself that takes this long will not come.
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            queued.push(stream);
        }
        Self { address, _listener: listener, _queued: queued }
    }
}

struct Script(Mutex<(Vec<Behaviour>, usize)>);

impl Script {
    fn new(behaviours: Vec<Behaviour>) -> Arc<Self> {
        assert!(!behaviours.is_empty(), "a stub needs something to do");
        Arc::new(Self(Mutex::new((behaviours, 0))))
    }

    /// The next behaviour, if it begins without reading.
    fn take_unless_reading(&self) -> Option<Behaviour> {
        let mut script = self.0.lock().unwrap();
        let next = script.0[script.1.min(script.0.len() - 1)].clone();
        if next.reads_first() {
            return None;
        }
        script.1 += 1;
        Some(next)
    }

    fn take(&self) -> Behaviour {
        let mut script = self.0.lock().unwrap();
        let next = script.0[script.1.min(script.0.len() - 1)].clone();
        script.1 += 1;
        next
    }
}

async fn accept_all(
    listener: TcpListener,
    script: Arc<Script>,
    tls: Option<Arc<ServerConfig>>,
    told: watch::Sender<Seen>,
) {
    let told = Arc::new(told);
    // Aborted with this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        let mut number = 0;
        told.send_modify(|seen| {
            number = seen.connections;
            seen.connections += 1;
            seen.open += 1;
        });
        let (script, tls, told) = (Arc::clone(&script), tls.clone(), Arc::clone(&told));
        connections.spawn(async move {
            match tls {
                None => serve_connection(tcp, &script, &told, number).await,
                Some(config) => {
                    if let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await {
                        serve_connection(tls, &script, &told, number).await;
                    }
                }
            }
            told.send_modify(|seen| seen.open -= 1);
        });
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for tokio_rustls::server::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

async fn serve_connection(mut wire: impl Wire, script: &Script, told: &watch::Sender<Seen>, number: usize) {
    if let Some(behaviour) = script.take_unless_reading()
        && !run(&mut wire, behaviour.0, told, number).await
    {
        return;
    }
    loop {
        if !read_request(&mut wire, told, number).await {
            return;
        }
        let mut steps = script.take().0;
        if matches!(steps.first(), Some(Step::Read)) {
            steps.remove(0);
        }
        // Open until it writes: what reads the reply may send its next request before we get on.
        let writes = |step: &Step| matches!(step, Step::Write(_) | Step::WriteForever(_));
        let reply = steps.split_off(steps.iter().position(writes).unwrap_or(steps.len()));
        told.send_modify(|seen| {
            seen.answering += 1;
            seen.most = seen.most.max(seen.answering);
        });
        let alive = run(&mut wire, steps, told, number).await;
        told.send_modify(|seen| seen.answering -= 1);
        if !alive || !run(&mut wire, reply, told, number).await {
            return;
        }
    }
}

/// Whether the connection is still to be used.
async fn run(wire: &mut impl Wire, steps: Vec<Step>, told: &watch::Sender<Seen>, number: usize) -> bool {
    for step in steps {
        let alive = match step {
            Step::Read => read_request(wire, told, number).await,
            // Not `readable`, which may be wrong once.
            Step::Await => matches!(wire.tcp().peek(&mut [0]).await, Ok(1..)),
            Step::Write(bytes) => wire.write_all(&bytes).await.is_ok() && wire.flush().await.is_ok(),
            Step::WriteForever(bytes) => {
                while wire.write_all(&bytes).await.is_ok() {}
                false
            }
            Step::Pause(pause) => {
                tokio::time::sleep(pause).await;
                true
            }
            Step::Until(mut told) => told.wait_for(|told| *told).await.is_ok(),
            Step::Hang => {
                drain(wire).await;
                false
            }
            Step::Reset => {
                let _ = wire.tcp().set_zero_linger();
                false
            }
            Step::Close => {
                let _ = wire.shutdown().await;
                drain(wire).await;
                false
            }
        };
        if !alive {
            return false;
        }
    }
    true
}

/// Reads until the other end goes, so that a test can wait for that.
async fn drain(wire: &mut impl Wire) {
    let mut sink = vec![0; 1024];
    while let Ok(1..) = wire.read(&mut sink).await {}
}

/// Reads one request; false at the end of the connection.
async fn read_request(wire: &mut impl Wire, told: &watch::Sender<Seen>, number: usize) -> bool {
    let mut raw = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if let Some(request) = whole_request(&raw, number) {
            told.send_modify(|seen| seen.requests.push(request));
            return true;
        }
        match wire.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(read) => {
                raw.extend_from_slice(&buffer[..read]);
                told.send_modify(|seen| seen.bytes += read);
            }
        }
    }
}

fn whole_request(raw: &[u8], connection: usize) -> Option<Received> {
    let head_end = raw.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&raw[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let rest = &raw[head_end + 4..];
    let mut request =
        Received { method, target, headers, body: Vec::new(), raw: raw.to_vec(), connection, at: clock::instant() };
    if request.header("transfer-encoding").is_some() {
        // The gateway never sends one; kept as it is, for a test to complain of.
        request.body = rest.strip_suffix(b"0\r\n\r\n")?.to_vec();
    } else {
        let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        request.body = rest.get(..length)?.to_vec();
    }
    Some(request)
}
