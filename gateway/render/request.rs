//! Putting a request together, part by part, so that a part may be made of those before it: a signature of the body in
//! a header, or of the other parameters in the last one.
//!
//! Order: the URL, then the body (or the other way round where the URL refers to the body), then the headers. Fields of a
//! form that refer to the form they stand in come last in it.

use std::borrow::Cow;

use bytes::Bytes;
use handlebars::{Context, RenderError, RenderErrorReason};
use serde_json::{Map, Value as Json};

use super::compile::{self, Content, HeaderValue, Piece, Text};
use super::engine::{HelperFault, Run, Scene};
use super::escape::Format;
use super::scope::REQUEST;
use super::wellformed::{self, Broken, Xml};
use super::wsse::{Proof, Security};
use super::{RenderFault, RenderInput, Renderer, basic, context, form};
use crate::clock;
use crate::model::contract::{Charset, Method};
use crate::model::lead::FieldValue;
use crate::model::secret::MASK;

/// A request put together.
pub(super) struct Request {
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

/// Puts one request together: the one that is sent, or its masked twin.
pub(super) struct Composer<'a> {
    renderer: &'a Renderer,
    /// The endpoint's `url`, or its `backup_url`.
    to: &'a Piece,
    input: &'a RenderInput<'a>,
    scene: &'a Scene<'a>,
    /// What templates see, but for the request's own parts.
    values: Context,
    /// The request as it is sent, when this is about its masked twin.
    sent: Option<&'a Request>,
    /// The parts that are rendered already.
    known: Known,
}

/// What `request.…` stands for. In the masked twin a part that holds anything masked is the mask as a whole.
#[derive(Default)]
struct Known {
    body: String,
    path: String,
    query: String,
    url: String,
}

impl<'a> Composer<'a> {
    pub(super) fn new(
        renderer: &'a Renderer,
        to: &'a Piece,
        input: &'a RenderInput<'a>,
        scene: &'a Scene<'a>,
        sent: Option<&'a Request>,
    ) -> Self {
        let values = context::build(input, &renderer.own, &renderer.uses, sent.is_some());
        Self { renderer, to, input, scene, values, sent, known: Known::default() }
    }

    /// The request, and what a reply may echo of it and must not be stored.
    pub(super) fn compose(mut self) -> Result<(Request, Vec<String>), RenderFault> {
        let url_of_body = self.renderer.url_pieces().any(Piece::uses_body);
        let (url, body);
        if url_of_body {
            body = self.body()?;
            url = self.url()?;
        } else {
            url = self.url()?;
            body = self.body()?;
        }
        let values = self.context();
        let mut run = self.run(&values);
        let headers = self.headers(&mut run)?;
        let secrets = if self.sent.is_some() { Vec::new() } else { self.secrets(&mut run)? };
        Ok((Request { url, headers, body }, secrets))
    }

    /// What templates see now.
    fn context(&self) -> Cow<'_, Context> {
        let uses = &self.renderer.uses.request;
        if uses.is_empty() {
            return Cow::Borrowed(&self.values);
        }
        let http_method = if self.renderer.method == Method::Get { "GET" } else { "POST" };
        let parts: Map<String, Json> = uses
            .iter()
            .map(|part| {
                let value = match *part {
                    "body" => self.known.body.as_str().into(),
                    "path" => self.known.path.as_str().into(),
                    "query" => self.known.query.as_str().into(),
                    "url" => self.known.url.as_str().into(),
                    "method" => http_method.into(),
                    _ => self.input.now.as_second().into(),
                };
                ((*part).to_owned(), value)
            })
            .collect();
        let mut values = self.values.clone();
        if let Json::Object(root) = values.data_mut() {
            root.insert(REQUEST.to_owned(), parts.into());
        }
        Cow::Owned(values)
    }

    fn run<'rc>(&'rc self, values: &'rc Context) -> Run<'rc> {
        Run::new(values, self.scene, &self.renderer.uses.scenic, self.sent.is_some())
    }

    /// The mask in place of what holds something masked.
    fn part(&self, text: &str, masks: bool) -> String {
        if self.sent.is_some() && masks { MASK } else { text }.to_owned()
    }

    /// Notes the URL as far as it goes, as it will be written on the wire.
    fn know_url(&mut self, url: &str) {
        if self.renderer.uses.request.is_empty() {
            return;
        }
        let Ok(url) = url::Url::parse(url) else { return };
        let masks = self.renderer.masks_url();
        self.known.path = self.part(url.path(), self.to.masks());
        self.known.query = self.part(url.query().unwrap_or_default(), masks);
        self.known.url = self.part(url.as_str(), masks);
    }

    fn url(&mut self) -> Result<String, RenderFault> {
        let renderer = self.renderer;
        let base = self.piece(self.to)?;
        if self.sent.is_none() && !self.to.is_fixed() {
            compile::check_url(&base).map_err(|message| self.to.fault(message))?;
        }
        self.know_url(&base);
        let fields = match (&renderer.content, renderer.method) {
            (Content::Form(fields), Method::Get) => fields.as_slice(),
            _ => &[],
        };
        let parameters = || fields.iter().chain(&renderer.credentials);
        let mut query = String::new();
        self.push_fields(&mut query, parameters().filter(|(_, piece)| !piece.uses_query()))?;
        let url = form::with_query(&base, &query).into_owned();
        self.know_url(&url);
        let mut last = String::new();
        self.push_fields(&mut last, parameters().filter(|(_, piece)| piece.uses_query()))?;
        if last.is_empty() {
            return Ok(url);
        }
        let url = form::with_query(&url, &last).into_owned();
        self.know_url(&url);
        Ok(url)
    }

    fn body(&mut self) -> Result<Bytes, RenderFault> {
        let masks = self.renderer.masks_body();
        let text = match self.sent {
            Some(sent) if !masks => return Ok(self.know_body(sent.body.clone(), masks)),
            _ => self.body_text()?,
        };
        let charset = self.renderer.charset;
        let body = if charset == Charset::Utf8 { text.into() } else { Bytes::from(charset.encode(&text).into_owned()) };
        Ok(self.know_body(body, masks))
    }

    fn know_body(&mut self, body: Bytes, masks: bool) -> Bytes {
        if self.renderer.uses.request.contains("body") {
            self.known.body = self.part(&self.renderer.charset.decode(&body), masks);
        }
        body
    }

    fn body_text(&mut self) -> Result<String, RenderFault> {
        let renderer = self.renderer;
        if let Content::Form(fields) = &renderer.content {
            return if renderer.method == Method::Get { Ok(String::new()) } else { self.form(fields) };
        }
        let values = self.context();
        let mut run = self.run(&values);
        match &renderer.content {
            Content::Json(piece) => {
                let text = render(piece, &mut run)?;
                let (tidy, commas) = wellformed::without_trailing_commas(&text);
                if let Err(broken) = wellformed::json(&tidy) {
                    // An offset in the template's own result: commas before it were left out.
                    let offset = commas.iter().fold(broken.offset, |at, comma| if *comma <= at { at + 1 } else { at });
                    check(Err(Broken { offset, ..broken }), piece, 0, &mut run)?;
                }
                Ok(renderer.charset.fit(&tidy, Format::Json).unwrap_or_else(|_| tidy.as_ref().into()).into_owned())
            }
            Content::Xml(piece) => {
                let text = render(piece, &mut run)?;
                // A declaration must be the very first.
                let document = text.trim_start();
                let cut = text.len() - document.len();
                let charset = renderer.charset;
                let what = Xml::Document { encoding: charset.xml_name() };
                check(wellformed::xml(document, what), piece, cut, &mut run)?;
                let fitted = self.fit(document, piece, cut, &mut run)?;
                Ok(if charset == Charset::Utf8 || document.starts_with("<?xml") {
                    fitted
                } else {
                    format!("<?xml version=\"1.0\" encoding=\"{}\"?>\n{fitted}", charset.xml_name())
                })
            }
            Content::Soap { version, security, header, body } => {
                let security_text = security.as_ref().map(|security| self.security(security, &mut run)).transpose()?;
                let header_text = header.as_ref().map(|piece| render(piece, &mut run)).transpose()?;
                let envelope = version.envelope(
                    renderer.charset,
                    security_text.as_deref(),
                    header_text.as_deref(),
                    &render(body, &mut run)?,
                );
                let children = 1 + usize::from(security.is_some() || header.is_some());
                if let Err(broken) = wellformed::xml(&envelope.text, Xml::Envelope { children }) {
                    let (piece, start): (&Piece, usize) = match header.as_deref() {
                        Some(header) if broken.offset < envelope.body_at => (header, envelope.header_at),
                        _ => (body, envelope.body_at),
                    };
                    let broken = Broken { offset: broken.offset.saturating_sub(start), ..broken };
                    check(Err(broken), piece, 0, &mut run)?;
                }
                self.fit(&envelope.text, body, 0, &mut run)
            }
            Content::Form(_) => Ok(String::new()),
        }
    }

    /// A document with what its charset lacks written as references.
    fn fit<'rc>(
        &self,
        document: &str,
        piece: &'rc Piece,
        cut: usize,
        run: &mut Run<'rc>,
    ) -> Result<String, RenderFault> {
        match self.renderer.charset.fit(document, Format::Xml) {
            Ok(fitted) => Ok(fitted.into_owned()),
            Err(broken) => check(Err(broken), piece, cut, run).map(|()| document.to_owned()),
        }
    }

    fn security<'rc>(&self, security: &'rc Security, run: &mut Run<'rc>) -> Result<String, RenderFault> {
        let username = render(&security.username, run)?;
        let proof = if run.masking() {
            Proof::masked()
        } else {
            let password = render(&security.password, run)?;
            let proof = security.proof(&password, clock::random_bytes(), self.input.now);
            // A fault may echo the header.
            [&password, &*proof.password, &proof.nonce].into_iter().for_each(|text| self.scene.remember(text));
            proof
        };
        Ok(security.block(&username, &proof, self.input.now))
    }

    /// A form's fields; those that refer to the form itself see it without them, and come last.
    fn form(&mut self, fields: &'a [(String, Piece)]) -> Result<String, RenderFault> {
        let mut form = String::with_capacity(fields.len() * 32);
        self.push_fields(&mut form, fields.iter().filter(|(_, piece)| !piece.uses_body()))?;
        if self.renderer.uses.request.contains("body") {
            self.known.body = self.part(&form, self.renderer.masks_body());
        }
        self.push_fields(&mut form, fields.iter().filter(|(_, piece)| piece.uses_body()))?;
        Ok(form)
    }

    fn push_fields<'p>(
        &self,
        form: &mut String,
        fields: impl Iterator<Item = &'p (String, Piece)>,
    ) -> Result<(), RenderFault>
    where
        'a: 'p,
    {
        let values = self.context();
        let mut run = self.run(&values);
        for (name, piece) in fields {
            form::push(form, name, &render(piece, &mut run)?, self.renderer.charset);
        }
        Ok(())
    }

    /// A piece with what is known now.
    fn piece(&self, piece: &Piece) -> Result<String, RenderFault> {
        let values = self.context();
        let mut run = self.run(&values);
        render(piece, &mut run).map(Cow::into_owned)
    }

    fn headers<'rc>(&'rc self, run: &mut Run<'rc>) -> Result<Vec<(String, String)>, RenderFault> {
        let value = |value: &'rc HeaderValue, run: &mut Run<'rc>| {
            Ok(match value {
                HeaderValue::Basic { .. } | HeaderValue::Bearer { .. } if run.masking() => MASK.to_owned(),
                HeaderValue::Basic { username, password } => {
                    format!("Basic {}", basic(&render(username, run)?, &render(password, run)?))
                }
                HeaderValue::Bearer { token } => format!("Bearer {}", render(token, run)?.trim()),
                // White space around a value is no part of it (RFC 9110, section 5.5).
                HeaderValue::Plain(piece) => render(piece, run)?.trim().to_owned(),
                HeaderValue::DeliveryId => self.input.delivery.to_string(),
            })
        };
        self.renderer.headers.iter().map(|(name, given)| Ok((name.clone(), value(given, run)?))).collect()
    }

    /// What a reply may echo and must not be stored: the secrets of this request and the lead's sensitive values.
    fn secrets<'rc>(&'rc self, run: &mut Run<'rc>) -> Result<Vec<String>, RenderFault> {
        let mut secrets = self.renderer.secrets.clone();
        let headers = self.renderer.headers.iter().flat_map(|(_, value)| value.pieces());
        let templated = headers.chain(self.renderer.credentials.iter().map(|(_, piece)| piece));
        for piece in templated.filter(|piece| piece.secret && !piece.is_fixed()) {
            let value = render(piece, run)?;
            compile::add_piece(&mut secrets, piece.format, &value);
        }
        for derived in run.derived() {
            compile::add_secret(&mut secrets, &derived);
        }
        for field in &self.renderer.own.sensitive {
            for value in self.input.lead.fields.get(field).map(FieldValue::leaves).unwrap_or_default() {
                match value {
                    FieldValue::Text(value) => compile::add_secret(&mut secrets, value),
                    FieldValue::Integer(value) => compile::add_secret(&mut secrets, &value.to_string()),
                    // `true` says nothing and stands in every other reply.
                    _ => {}
                }
            }
        }
        Ok(secrets)
    }
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
    let template = error.template_name.clone().unwrap_or_else(|| piece.name.clone());
    // What stands in the configuration has no lines, but a partial in it has.
    let line = error.line_no.filter(|_| !piece.inline || template != piece.name);
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
