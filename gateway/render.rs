//! Rendering: a lead and a contract's endpoint become the request that its partner expects.
//!
//! A [`Renderer`] is an endpoint compiled once: URL, headers, credentials, and the body's template or form. Promise 7
//! (the body is well-formed whatever the lead contains) is kept three times over: values are escaped by the format of
//! the place where they stand (`escape.rs`), templates that put a value where no escaping helps are refused when they are
//! loaded (`position.rs`), and the result is parsed before it may be sent (`wellformed.rs`).
//!
//! Promise 6 is kept by rendering a second time, with secrets and sensitive fields masked, for storing.

mod charset;
mod compile;
mod context;
mod engine;
mod escape;
mod form;
mod helpers;
mod known;
mod load;
mod position;
mod program;
mod request;
mod sample;
mod scope;
mod soap;
mod wellformed;
mod wsse;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use self::compile::{Content, Headers, Piece};
use self::engine::Scene;
use self::request::{Composer, Request};
use self::scope::Uses;
use crate::model::campaign::Campaign;
use crate::model::contract::{Charset, Contract, Maps, Method};
use crate::model::exchange::{Masked, Outgoing};
use crate::model::id::DeliveryId;
use crate::model::lead::Lead;
use crate::model::shared::Shared;

pub use self::known::Known;
pub use self::sample::{hostile, sample};

/// A contract's endpoint, compiled: what renders its requests.
pub struct Renderer {
    method: Method,
    charset: Charset,
    url: Piece,
    backup: Option<Piece>,
    /// A query parameter with credentials: its encoded name and its value.
    credentials: Option<(String, Piece)>,
    headers: Headers,
    content: Content,
    uses: Arc<Uses>,
    own: context::Own,
    partner: String,
    maps: Shared<Maps>,
    keys: BTreeMap<String, String>,
    /// Secrets that are the same in every request.
    secrets: Vec<String>,
    /// Templates are rendered, and results checked, the short way where there is one.
    shortcuts: bool,
}

impl fmt::Debug for Renderer {
    // Holds resolved secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Renderer({} {})", self.method.as_str(), self.own.contract[0])
    }
}

/// What a request is rendered from, beside the contract and its campaign.
pub struct RenderInput<'a> {
    /// The lead.
    pub lead: &'a Lead,
    /// Where it came from.
    pub source: Party<'a>,
    /// What the source earns for it, as the API shows amounts (`12.50`).
    pub payout: Option<&'a str>,
    /// The buyer.
    pub partner: Party<'a>,
    /// The delivery, whose id is the idempotency key.
    pub delivery: DeliveryId,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// When it is rendered.
    pub now: Timestamp,
    /// The partner's zone, in which dates are written unless a template says otherwise.
    pub timezone: &'a TimeZone,
}

/// A resource's id and its name for people.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
}

/// What is wrong with a contract's endpoint or templates; found when they are loaded or checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", at(.template, *.line, .message))]
pub struct TemplateFault {
    /// The template's path, or the key of the endpoint (`endpoint.headers.X-Ref`).
    pub template: String,
    /// Its line, 1 first, where it has lines.
    pub line: Option<usize>,
    /// What is wrong and what to do.
    pub message: String,
}

/// Why a lead could not be rendered: a value does not fit what a template asks of it. Never holds the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", at(.template, *.line, .message))]
pub struct RenderFault {
    /// The template's path, or the key of the endpoint.
    pub template: String,
    /// Its line, 1 first, where it has lines and the line is known.
    pub line: Option<usize>,
    /// The variable whose value does not fit, such as `lead.birth_date`.
    pub variable: Option<String>,
    /// What is wrong.
    pub message: String,
}

fn at(template: &str, line: Option<usize>, message: &str) -> String {
    match line {
        Some(line) => format!("{template} line {line}: {message}"),
        None => format!("{template}: {message}"),
    }
}

impl Renderer {
    /// Compiles a contract's endpoint. `templates` gives the text of a template by its path below the templates
    /// directory. References to secrets (`env:`, `file:`) are resolved here.
    ///
    /// # Errors
    /// Everything that is wrong with the endpoint, its templates and its references, at once.
    pub fn compile(
        contract: &Contract,
        campaign: &Campaign,
        templates: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<TemplateFault>> {
        Self::compile_among(contract, campaign, templates, &mut Known::default())
    }

    /// The same beside other contracts: templates that are equal are compiled once, and kept once. `known` holds those so
    /// far; `templates` must be the same for all of them.
    ///
    /// # Errors
    /// As [`Renderer::compile`].
    pub fn compile_among(
        contract: &Contract,
        campaign: &Campaign,
        templates: &dyn Fn(&str) -> Option<String>,
        known: &mut Known,
    ) -> Result<Self, Vec<TemplateFault>> {
        compile::compile(contract, campaign, templates, known)
    }

    /// Whether it holds no keys of signatures. (What else may stand behind references is the contract's to say:
    /// [`Contract::may_refer`].)
    #[must_use]
    pub fn is_self_contained(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether its body is written step by step, without Handlebars.
    #[must_use]
    pub fn is_by_steps(&self) -> bool {
        self.shortcuts && self.content.pieces().into_iter().all(Piece::is_by_steps)
    }

    /// The same, but all by Handlebars and by the full checks: what the short ways are compared with.
    #[must_use]
    pub fn without_shortcuts(self) -> Self {
        Self { shortcuts: false, ..self }
    }

    /// The request for one attempt, with its masked twin for storing.
    ///
    /// # Errors
    /// When a value does not fit what a template asks of it, or the result is not well-formed. No attempt is made then.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<Outgoing, RenderFault> {
        let scene =
            Scene::new(input.delivery, input.attempt, input.now, input.timezone, &self.maps, &self.keys, self.charset);
        let mut outgoing = self.render_to(&self.url, input, &scene)?;
        if let Some(url) = &self.backup {
            outgoing.backup = Some(Box::new(self.render_to(url, input, &scene)?));
        }
        Ok(outgoing)
    }

    fn render_to(&self, to: &Piece, input: &RenderInput<'_>, scene: &Scene<'_>) -> Result<Outgoing, RenderFault> {
        let (request, secrets) = Composer::new(self, to, input, scene, None).compose()?;
        let masked = if self.masks() {
            let (Request { url, headers, body, .. }, _) =
                Composer::new(self, to, input, scene, Some(&request)).compose()?;
            Some(Masked { url, headers, body })
        } else {
            None
        };
        let Request { url, headers, body, .. } = request;
        let http_method = if self.method == Method::Get { "GET" } else { "POST" };
        Ok(Outgoing { http_method, url, headers, body, masked, secrets, backup: None, send_before: None })
    }

    /// Renders a plain lead, a hostile one and one with required fields only, as `gateway check` does, and says what
    /// would fail.
    pub fn check(&self, campaign: &Campaign) -> Vec<TemplateFault> {
        sample::check(self, campaign)
    }

    fn masks(&self) -> bool {
        self.uses.masks()
            || self.masks_url()
            || self.masks_body()
            || self.headers.iter().any(|(_, value)| value.masks())
    }

    /// Something in the URL must not be stored.
    fn masks_url(&self) -> bool {
        let of_body = self.url_pieces().any(Piece::uses_body) && self.method != Method::Get;
        let content = self.method == Method::Get || of_body;
        self.urls().any(Piece::masks) || self.credentials.is_some() || (content && self.content.masks())
    }

    /// Something in the body must not be stored.
    fn masks_body(&self) -> bool {
        let of_url = self.content.pieces().iter().any(|piece| piece.uses_url());
        let url = || self.urls().any(Piece::masks) || self.credentials.is_some();
        self.method != Method::Get && (self.content.masks() || (of_url && url()))
    }

    /// The templates of `url` and `backup_url`.
    fn urls(&self) -> impl Iterator<Item = &Piece> {
        std::iter::once(&self.url).chain(&self.backup)
    }

    /// Those, and credentials in the query.
    fn url_pieces(&self) -> impl Iterator<Item = &Piece> {
        self.urls().chain(self.credentials.iter().map(|(_, piece)| piece))
    }
}

/// Credentials of RFC 7617.
fn basic(username: &str, password: &str) -> String {
    STANDARD.encode(format!("{username}:{password}"))
}
