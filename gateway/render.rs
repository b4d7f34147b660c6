//! Rendering: a lead and a contract's endpoint become the request that its partner expects.
//!
//! A [`Renderer`] is an endpoint compiled once: URL, headers, credentials, and the body's template or form. Promise 7
//! (the body is well-formed whatever the lead contains) is kept three times over: values are escaped by the format of
//! the place where they stand (`escape.rs`), templates that put a value where no escaping helps are refused when they are
//! loaded (`position.rs`), and the result is parsed before it may be sent (`wellformed.rs`).
//!
//! Promise 6 is kept by rendering a second time, with secrets and sensitive fields masked, for storing.

mod compile;
mod context;
mod engine;
mod escape;
mod form;
mod helpers;
mod load;
mod position;
mod sample;
mod scope;
mod soap;
mod wellformed;

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use handlebars::{Context, RenderError, RenderErrorReason};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use self::compile::{Content, HeaderValue, Headers, Piece, Text};
use self::engine::{HelperFault, Run, Scene};
use self::scope::Uses;
use self::wellformed::{Broken, Xml};
use crate::model::campaign::Campaign;
use crate::model::contract::{Contract, Method};
use crate::model::exchange::{Masked, Outgoing};
use crate::model::id::DeliveryId;
use crate::model::lead::{FieldValue, Lead};
use crate::model::secret::MASK;

pub use self::sample::{hostile, sample};

/// A contract's endpoint, compiled: what renders its requests.
pub struct Renderer {
    method: Method,
    url: Piece,
    backup: Option<Piece>,
    /// A query parameter with credentials: its encoded name and its value.
    credentials: Option<(String, Piece)>,
    headers: Headers,
    content: Content,
    uses: Uses,
    own: context::Own,
    partner: String,
    maps: BTreeMap<String, BTreeMap<String, String>>,
    keys: BTreeMap<String, String>,
    /// Secrets that are the same in every request.
    secrets: Vec<String>,
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
        compile::compile(contract, campaign, templates)
    }

    /// The request for one attempt, with its masked twin for storing.
    ///
    /// # Errors
    /// When a value does not fit what a template asks of it, or the result is not well-formed. No attempt is made then.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<Outgoing, RenderFault> {
        let scene = Scene::new(input.delivery, input.attempt, input.now, input.timezone, &self.maps, &self.keys);
        let values = context::build(input, &self.own, &self.uses, false);
        let mut outgoing = self.render_to(&self.url, input, &scene, &values)?;
        if let Some(url) = &self.backup {
            outgoing.backup = Some(Box::new(self.render_to(url, input, &scene, &values)?));
        }
        Ok(outgoing)
    }

    fn render_to(
        &self,
        url: &Piece,
        input: &RenderInput<'_>,
        scene: &Scene<'_>,
        values: &Context,
    ) -> Result<Outgoing, RenderFault> {
        let mut run = Run::new(values, scene, &self.uses.scenic, false);
        let request = self.compose(url, &mut run, input)?;
        let secrets = self.secrets(&mut run, input)?;
        let masked = if self.masks() { Some(self.masked(url, scene, input, values, &request)?) } else { None };
        let Request { url, headers, body } = request;
        let http_method = if self.method == Method::Get { "GET" } else { "POST" };
        Ok(Outgoing { http_method, url, headers, body, masked, secrets, backup: None })
    }

    /// Renders a plain lead, a hostile one and one with required fields only, as `gateway check` does, and says what
    /// would fail.
    pub fn check(&self, campaign: &Campaign) -> Vec<TemplateFault> {
        sample::check(self, campaign)
    }

    fn compose<'rc>(
        &'rc self,
        url: &'rc Piece,
        run: &mut Run<'rc>,
        input: &RenderInput<'_>,
    ) -> Result<Request, RenderFault> {
        Ok(Request { url: self.url(url, run)?, headers: self.headers(run, input)?, body: self.body(run)? })
    }

    /// The request as it may be stored.
    fn masked(
        &self,
        url: &Piece,
        scene: &Scene<'_>,
        input: &RenderInput<'_>,
        values: &Context,
        real: &Request,
    ) -> Result<Masked, RenderFault> {
        let masked_values = self.uses.masks().then(|| context::build(input, &self.own, &self.uses, true));
        let mut run = Run::new(masked_values.as_ref().unwrap_or(values), scene, &self.uses.scenic, true);
        let body = if self.content.masks() { self.body(&mut run)? } else { real.body.clone() };
        Ok(Masked { url: self.url(url, &mut run)?, headers: self.headers(&mut run, input)?, body })
    }

    fn masks(&self) -> bool {
        self.uses.masks()
            || self.url.masks()
            || self.backup.as_ref().is_some_and(Piece::masks)
            || self.credentials.is_some()
            || self.headers.iter().any(|(_, value)| value.masks())
            || self.content.masks()
    }

    fn url<'rc>(&'rc self, url: &'rc Piece, run: &mut Run<'rc>) -> Result<String, RenderFault> {
        let mut query = String::new();
        if let (Method::Get, Content::Form(fields)) = (self.method, &self.content) {
            push_fields(&mut query, fields, run)?;
        }
        if let Some((name, value)) = &self.credentials {
            form::push(&mut query, name, &render(value, run)?);
        }
        let base = render(url, run)?;
        if !run.masking() && !url.is_fixed() {
            compile::check_url(&base).map_err(|message| url.fault(message))?;
        }
        Ok(form::with_query(&base, &query).into_owned())
    }

    fn headers<'rc>(
        &'rc self,
        run: &mut Run<'rc>,
        input: &RenderInput<'_>,
    ) -> Result<Vec<(String, String)>, RenderFault> {
        let value = |value: &'rc HeaderValue, run: &mut Run<'rc>| {
            Ok(match value {
                HeaderValue::Basic { .. } | HeaderValue::Bearer { .. } if run.masking() => MASK.to_owned(),
                HeaderValue::Basic { username, password } => {
                    format!("Basic {}", basic(&render(username, run)?, &render(password, run)?))
                }
                HeaderValue::Bearer { token } => format!("Bearer {}", render(token, run)?.trim()),
                // White space around a value is no part of it (RFC 9110, section 5.5).
                HeaderValue::Plain(piece) => render(piece, run)?.trim().to_owned(),
                HeaderValue::DeliveryId => input.delivery.to_string(),
            })
        };
        self.headers.iter().map(|(name, given)| Ok((name.clone(), value(given, run)?))).collect()
    }

    fn body<'rc>(&'rc self, run: &mut Run<'rc>) -> Result<Bytes, RenderFault> {
        let text = match &self.content {
            Content::Form(_) if self.method == Method::Get => String::new(),
            Content::Form(fields) => {
                let mut form = String::with_capacity(fields.len() * 32);
                push_fields(&mut form, fields, run)?;
                form
            }
            Content::Json(piece) => {
                let text = render(piece, run)?;
                check(wellformed::json(&text), piece, 0, run)?;
                text.into_owned()
            }
            Content::Xml(piece) => {
                let text = render(piece, run)?;
                // A declaration must be the very first.
                let document = text.trim_start();
                let cut = text.len() - document.len();
                check(wellformed::xml(document, Xml::Document), piece, cut, run)?;
                if cut == 0 { text.into_owned() } else { document.to_owned() }
            }
            Content::Soap { version, header, body } => {
                let header_text = header.as_ref().map(|piece| render(piece, run)).transpose()?;
                let envelope = version.envelope(header_text.as_deref(), &render(body, run)?);
                let children = 1 + usize::from(header.is_some());
                if let Err(broken) = wellformed::xml(&envelope.text, Xml::Envelope { children }) {
                    let (piece, start) = match header {
                        Some(header) if broken.offset < envelope.body_at => (header, envelope.header_at),
                        _ => (body, envelope.body_at),
                    };
                    let broken = Broken { offset: broken.offset.saturating_sub(start), ..broken };
                    check(Err(broken), piece, 0, run)?;
                }
                envelope.text
            }
        };
        Ok(text.into())
    }

    /// What a reply may echo and must not be stored: the secrets of this request and the lead's sensitive values.
    fn secrets<'rc>(&'rc self, run: &mut Run<'rc>, input: &RenderInput<'_>) -> Result<Vec<String>, RenderFault> {
        let mut secrets = self.secrets.clone();
        let headers = self.headers.iter().flat_map(|(_, value)| value.pieces());
        let templated = headers.chain(self.credentials.iter().map(|(_, piece)| piece));
        for piece in templated.filter(|piece| piece.secret && !piece.is_fixed()) {
            let value = render(piece, run)?;
            compile::add_piece(&mut secrets, piece.format, &value);
        }
        for derived in run.derived() {
            compile::add_secret(&mut secrets, &derived);
        }
        for field in &self.own.sensitive {
            match input.lead.fields.get(field) {
                Some(FieldValue::Text(value)) => compile::add_secret(&mut secrets, value),
                Some(FieldValue::Integer(value)) => compile::add_secret(&mut secrets, &value.to_string()),
                // `true` says nothing and stands in every other reply.
                Some(FieldValue::Boolean(_)) | None => {}
            }
        }
        Ok(secrets)
    }
}

/// A request being put together.
struct Request {
    url: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

fn push_fields<'rc>(form: &mut String, fields: &'rc [(String, Piece)], run: &mut Run<'rc>) -> Result<(), RenderFault> {
    for (name, piece) in fields {
        form::push(form, name, &render(piece, run)?);
    }
    Ok(())
}

/// Credentials of RFC 7617.
fn basic(username: &str, password: &str) -> String {
    STANDARD.encode(format!("{username}:{password}"))
}

fn render<'rc>(piece: &'rc Piece, run: &mut Run<'rc>) -> Result<std::borrow::Cow<'rc, str>, RenderFault> {
    if run.masking() && piece.secret {
        return Ok(MASK.into());
    }
    match &piece.text {
        Text::Fixed(text) => Ok(text.as_str().into()),
        Text::Template(template) => run
            .render(template, piece.format, piece.number)
            .map(Into::into)
            .map_err(|error| render_fault(piece, &error)),
    }
}

fn render_fault(piece: &Piece, error: &RenderError) -> RenderFault {
    let line = error.line_no.filter(|_| !piece.inline);
    let template = error.template_name.clone().unwrap_or_else(|| piece.name.clone());
    let (variable, message) = match error.reason() {
        RenderErrorReason::NestedError(inner) => match inner.downcast_ref::<HelperFault>() {
            Some(HelperFault { helper, variable: Some(variable), message }) => {
                (Some(variable.clone()), format!("{helper} {variable}: {message}"))
            }
            Some(fault) => (None, fault.to_string()),
            None => (None, "it cannot be rendered".to_owned()),
        },
        reason => (None, reason.to_string()),
    };
    RenderFault { template, line, variable, message }
}

/// Turns an offset in what was rendered into a line of the template. The masked copy is not sent and not checked: a
/// mask may stand where its format wants a number.
fn check<'rc>(
    result: Result<(), Broken>,
    piece: &'rc Piece,
    cut: usize,
    run: &mut Run<'rc>,
) -> Result<(), RenderFault> {
    let Err(broken) = result else { return Ok(()) };
    if run.masking() {
        return Ok(());
    }
    let line = if piece.inline { None } else { Some(line_of(piece, broken.offset + cut, run)) };
    Err(RenderFault { line, ..piece.fault(broken.message) })
}

fn line_of<'rc>(piece: &'rc Piece, offset: usize, run: &mut Run<'rc>) -> usize {
    let template = match &piece.text {
        Text::Fixed(text) => return 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count(),
        Text::Template(template) => template,
    };
    let places = run.outline(template, piece.format, piece.number);
    let at = places.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
    let Some((start, line)) = places.get(at).copied() else { return 1 };
    let Some(handlebars::template::TemplateElement::RawString(text)) = template.elements.get(at) else { return line };
    // Handlebars counts a text's line from its first character that is not white space.
    let blank = text.len() - text.trim_start().len();
    let breaks = |text: &str| text.bytes().filter(|b| *b == b'\n').count();
    let within = (offset - start).min(text.len());
    let before = breaks(text.get(..within).unwrap_or(text));
    (line + before).saturating_sub(breaks(text.get(..blank).unwrap_or_default())).max(1)
}
