//! One request and its answer, for what the benchmark asks of gateways and sinks beside the load.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context as _;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer's status and body.
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Asks for a path; `token` stands in the Authorization header.
pub fn get(address: SocketAddr, path: &str, token: Option<&str>) -> anyhow::Result<Answer> {
    ask(address, "GET", path, token, "")
}

/// Posts JSON to a path.
pub fn post(address: SocketAddr, path: &str, token: Option<&str>, body: &str) -> anyhow::Result<Answer> {
    ask(address, "POST", path, token, body)
}

/// What a path answers with 200, as JSON.
pub fn json<T: serde::de::DeserializeOwned>(address: SocketAddr, path: &str, token: Option<&str>) -> anyhow::Result<T> {
    let answer = get(address, path, token)?;
    anyhow::ensure!(answer.status == 200, "{path} answered {}: {}", answer.status, answer.body);
    serde_json::from_str(&answer.body).with_context(|| format!("{path} did not answer what it should"))
}

fn ask(address: SocketAddr, method: &str, path: &str, token: Option<&str>, body: &str) -> anyhow::Result<Answer> {
    exchange(address, method, path, token, body).with_context(|| format!("{method} http://{address}{path} failed"))
}

fn exchange(address: SocketAddr, method: &str, path: &str, token: Option<&str>, body: &str) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: bench\r\n{token}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        if let Some(answer) = whole(&bytes)? {
            return Ok(answer);
        }
        match stream.read(&mut buffer)? {
            0 => anyhow::bail!("the connection ended before the answer did"),
            many => bytes.extend_from_slice(&buffer[..many]),
        }
    }
}

fn whole(bytes: &[u8]) -> anyhow::Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else { return Ok(None) };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length: usize = match length {
        Some(header) => std::str::from_utf8(header.value)?.parse()?,
        None => anyhow::bail!("the answer does not say how long it is"),
    };
    let Some(body) = bytes.get(head..head + length) else { return Ok(None) };
    Ok(Some(Answer { status: response.code.unwrap_or(0), body: String::from_utf8_lossy(body).into_owned() }))
}
