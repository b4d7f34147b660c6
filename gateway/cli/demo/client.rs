//! What the demo posts and asks with: plain HTTP to the gateway beside it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// A client of one gateway.
pub(super) struct Client {
    address: SocketAddr,
}

/// The gateway's answer.
pub(super) struct Answer {
    pub(super) status: u16,
    body: Bytes,
    is_xml: bool,
}

impl Answer {
    pub(super) fn json(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    /// The id of the lead that a post made, if it made one.
    pub(super) fn lead_id(&self) -> Option<String> {
        if self.is_xml {
            let text = String::from_utf8_lossy(&self.body);
            let (_, rest) = text.split_once("<lead_id>")?;
            return rest.split_once("</lead_id>").map(|(id, _)| id.to_owned());
        }
        Some(self.json().ok()?.get("lead_id")?.as_str()?.to_owned())
    }
}

impl Client {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    pub(super) async fn get(&self, path: &str, token: Option<&str>) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(Method::GET).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.send(request, Bytes::new()).await
    }

    pub(super) async fn post(
        &self,
        path: &str,
        key: &str,
        content_type: &str,
        prefer: Option<&str>,
        body: &'static [u8],
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .header(header::CONTENT_TYPE, content_type);
        if let Some(prefer) = prefer {
            request = request.header("prefer", prefer);
        }
        self.send(request, Bytes::from_static(body)).await
    }

    async fn send(&self, request: http::request::Builder, body: Bytes) -> anyhow::Result<Answer> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = request.header(header::HOST, self.address.to_string()).body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let is_xml = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/xml"));
        Ok(Answer { status, body: response.into_body().collect().await?.to_bytes(), is_xml })
    }
}
