//! Putting a request together, part by part, so that a part may be made of those before it: a signature of the body in
//! a header, or of the other parameters in the last one.
//!
//! Order: the URL, then the body (or the other way round where the URL refers to the body), then the headers. Fields of a
//! form that refer to the form they stand in come last in it.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::ops::Range;

use bytes::Bytes;
use handlebars::{Context, RenderError, RenderErrorReason};
use serde_json::{Map, Value as Json};

use super::compile::{self, Content, HeaderValue, Loaded, Piece, Text};
use super::engine::{HelperFault, Run, Scene};
use super::escape::Format;
use super::program::{Program, Reader};
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
    /// Where in the body the steps of its program begin, where the masked twin may copy those that mask nothing.
    marks: Option<Marks>,
}

/// The text of the body's program in the body, and where in that text each of its steps begins.
struct Marks {
    text: Range<usize>,
    steps: Vec<usize>,
}

/// Puts one request together: the one that is sent, or its masked twin.
pub(super) struct Composer<'a> {
    renderer: &'a Renderer,
    /// The endpoint's `url`, or its `backup_url`.
    to: &'a Piece,
    input: &'a RenderInput<'a>,
    scene: &'a Scene<'a>,
    /// What Handlebars sees, but for the request's own parts; put together when it is first asked for something.
    values: OnceCell<Context>,
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
        Self { renderer, to, input, scene, values: OnceCell::new(), sent, known: Known::default() }
    }

    /// The request, and what a reply may echo of it and must not be stored.
    pub(super) fn compose(mut self) -> Result<(Request, Vec<String>), RenderFault> {
        let url_of_body = self.renderer.url_pieces().any(Piece::uses_body);
        let (url, body, marks);
        if url_of_body {
            (body, marks) = self.body()?;
            url = self.url()?;
        } else {
            url = self.url()?;
            (body, marks) = self.body()?;
        }
        let stage = self.stage();
        let headers = self.headers(&stage)?;
        let secrets = if self.masking() { Vec::new() } else { self.secrets(&stage)? };
        Ok((Request { url, headers, body, marks }, secrets))
    }

    fn masking(&self) -> bool {
        self.sent.is_some()
    }

    /// What Handlebars sees now.
    fn context(&self) -> Cow<'_, Context> {
        let values = self
            .values
            .get_or_init(|| context::build(self.input, &self.renderer.own, &self.renderer.uses, self.masking()));
        let uses = &self.renderer.uses.request;
        if uses.is_empty() {
            return Cow::Borrowed(values);
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
        let mut values = values.clone();
        if let Json::Object(root) = values.data_mut() {
            root.insert(REQUEST.to_owned(), parts.into());
        }
        Cow::Owned(values)
    }

    /// Pieces rendered by what is known now.
    fn stage(&self) -> Stage<'_> {
        Stage { composer: self, values: OnceCell::new() }
    }

    /// The mask in place of what holds something masked.
    fn part(&self, text: &str, masks: bool) -> String {
        if self.masking() && masks { MASK } else { text }.to_owned()
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
        let base = self.stage().render(self.to)?.into_owned();
        if !self.masking() && !self.to.is_fixed() {
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

    fn body(&mut self) -> Result<(Bytes, Option<Marks>), RenderFault> {
        let masks = self.renderer.masks_body();
        let (text, marks) = match self.sent {
            Some(sent) if !masks => return Ok((self.know_body(sent.body.clone(), masks), None)),
            _ => self.body_text()?,
        };
        let charset = self.renderer.charset;
        let body = if charset == Charset::Utf8 { text.into() } else { Bytes::from(charset.encode(&text).into_owned()) };
        Ok((self.know_body(body, masks), marks))
    }

    fn know_body(&mut self, body: Bytes, masks: bool) -> Bytes {
        if self.renderer.uses.request.contains("body") {
            self.known.body = self.part(&self.renderer.charset.decode(&body), masks);
        }
        body
    }

    fn body_text(&mut self) -> Result<(String, Option<Marks>), RenderFault> {
        let renderer = self.renderer;
        if let Content::Form(fields) = &renderer.content {
            let form = if renderer.method == Method::Get { String::new() } else { self.form(fields)? };
            return Ok((form, None));
        }
        let (stage, charset) = (self.stage(), renderer.charset);
        // Where the text is sent as it was rendered.
        let marked = |at: usize, length: usize, steps: Option<Vec<usize>>| {
            let steps = steps.filter(|_| charset == Charset::Utf8)?;
            Some(Marks { text: at..at + length, steps })
        };
        match &renderer.content {
            Content::Json(piece) => {
                let (text, steps) = stage.body(piece)?;
                let (tidy, commas) = wellformed::without_trailing_commas(&text);
                if !self.masking()
                    && let Err(broken) = wellformed::json(&tidy, renderer.shortcuts)
                {
                    // An offset in the template's own result: commas before it were left out.
                    let offset = commas.iter().fold(broken.offset, |at, comma| if *comma <= at { at + 1 } else { at });
                    return Err(stage.fault(Broken { offset, ..broken }, piece, 0));
                }
                let fitted = charset.fit(&tidy, Format::Json).map(as_changed);
                let changed = fitted.ok().flatten().or_else(|| as_changed(tidy));
                let marks = marked(0, text.len(), steps.filter(|_| changed.is_none()));
                Ok((changed.unwrap_or(text), marks))
            }
            Content::Xml(piece) => {
                let (text, steps) = stage.body(piece)?;
                // A declaration must be the very first.
                let document = text.trim_start();
                let cut = text.len() - document.len();
                if !self.masking() {
                    let what = Xml::Document { encoding: charset.xml_name() };
                    let checked = wellformed::xml(document, what, renderer.shortcuts);
                    checked.map_err(|broken| stage.fault(broken, piece, cut))?;
                }
                if charset == Charset::Utf8 && cut == 0 {
                    let marks = marked(0, text.len(), steps);
                    return Ok((text, marks));
                }
                let fitted = stage.fit(document, piece, cut)?;
                let declare = charset != Charset::Utf8 && !document.starts_with("<?xml");
                Ok(if declare {
                    (format!("<?xml version=\"1.0\" encoding=\"{}\"?>\n{fitted}", charset.xml_name()), None)
                } else {
                    (fitted.into_owned(), None)
                })
            }
            Content::Soap { version, security, header, body } => {
                let security_text = security.as_ref().map(|security| self.security(security, &stage)).transpose()?;
                let header_text = header.as_ref().map(|piece| stage.render(piece)).transpose()?;
                let (text, steps) = stage.body(body)?;
                let envelope = version.envelope(charset, security_text.as_deref(), header_text.as_deref(), &text);
                let children = 1 + usize::from(security.is_some() || header.is_some());
                if !self.masking()
                    && let Err(broken) = wellformed::xml(&envelope.text, Xml::Envelope { children }, renderer.shortcuts)
                {
                    let (piece, start): (&Piece, usize) = match header.as_deref() {
                        Some(header) if broken.offset < envelope.body_at => (header, envelope.header_at),
                        _ => (body, envelope.body_at),
                    };
                    let offset = broken.offset.saturating_sub(start);
                    return Err(stage.fault(Broken { offset, ..broken }, piece, 0));
                }
                let changed = as_changed(stage.fit(&envelope.text, body, 0)?);
                Ok((changed.unwrap_or(envelope.text), marked(envelope.body_at, text.len(), steps)))
            }
            Content::Form(_) => Ok((String::new(), None)),
        }
    }

    fn security(&self, security: &Security, stage: &Stage<'_>) -> Result<String, RenderFault> {
        let username = stage.render(&security.username)?;
        let proof = if self.masking() {
            Proof::masked()
        } else {
            let password = stage.render(&security.password)?;
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
        let stage = self.stage();
        for (name, piece) in fields {
            form::push(form, name, &stage.render(piece)?, self.renderer.charset);
        }
        Ok(())
    }

    fn headers(&self, stage: &Stage<'_>) -> Result<Vec<(String, String)>, RenderFault> {
        let value = |value: &HeaderValue| {
            Ok(match value {
                HeaderValue::Basic { .. } | HeaderValue::Bearer { .. } if self.masking() => MASK.to_owned(),
                HeaderValue::Basic { username, password } => {
                    format!("Basic {}", basic(&stage.render(username)?, &stage.render(password)?))
                }
                HeaderValue::Bearer { token } => format!("Bearer {}", stage.render(token)?.trim()),
                // White space around a value is no part of it (RFC 9110, section 5.5).
                HeaderValue::Plain(piece) => stage.render(piece)?.trim().to_owned(),
                HeaderValue::DeliveryId => self.input.delivery.to_string(),
            })
        };
        self.renderer.headers.iter().map(|(name, given)| Ok((name.clone(), value(given)?))).collect()
    }

    /// What a reply may echo and must not be stored: the secrets of this request and the lead's sensitive values.
    fn secrets(&self, stage: &Stage<'_>) -> Result<Vec<String>, RenderFault> {
        let mut secrets = self.renderer.secrets.clone();
        let headers = self.renderer.headers.iter().flat_map(|(_, value)| value.pieces());
        let templated = headers.chain(self.renderer.credentials.iter().map(|(_, piece)| piece));
        for piece in templated.filter(|piece| piece.secret && !piece.is_fixed()) {
            let value = stage.render(piece)?;
            compile::add_piece(&mut secrets, piece.format, &value);
        }
        for derived in self.scene.derived() {
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

/// Pieces rendered by what is known at one moment.
struct Stage<'s> {
    composer: &'s Composer<'s>,
    values: OnceCell<Cow<'s, Context>>,
}

impl<'s> Stage<'s> {
    fn render<'p>(&self, piece: &'p Piece) -> Result<Cow<'p, str>, RenderFault> {
        if self.composer.masking() && piece.secret {
            return Ok(MASK.into());
        }
        let loaded = match &piece.text {
            Text::Fixed(text) => return Ok(text.as_str().into()),
            Text::Template(loaded) => loaded,
        };
        if let Some(program) = self.program(loaded) {
            self.composer.scene.begin(piece.number);
            if let Ok(text) = program.render(&self.reader(piece), None) {
                return Ok(text.into());
            }
        }
        let rendered = self.run().render(&loaded.template, piece.format, piece.number);
        rendered.map(Into::into).map_err(|error| render_fault(piece, &error))
    }

    /// The piece that is the body, and where the steps of its program begin where the twin may copy them; of the twin, as
    /// much as may be copied.
    fn body(&self, piece: &Piece) -> Result<(String, Option<Vec<usize>>), RenderFault> {
        if let (Text::Template(loaded), true) = (&piece.text, piece.sensitive && !piece.secret)
            && let Some(program) = self.program(loaded)
        {
            self.composer.scene.begin(piece.number);
            let reader = self.reader(piece);
            match self.composer.sent {
                None => {
                    let mut steps = Vec::new();
                    if let Ok(text) = program.render(&reader, Some(&mut steps)) {
                        return Ok((text, program.may_be_copied(&reader).then_some(steps)));
                    }
                }
                Some(Request { body, marks: Some(marks), .. }) => {
                    let sent = body.get(marks.text.clone()).and_then(|text| std::str::from_utf8(text).ok());
                    if let Some(Ok(text)) = sent.map(|sent| program.copy(&reader, sent, &marks.steps)) {
                        return Ok((text, None));
                    }
                }
                Some(_) => {}
            }
        }
        Ok((self.render(piece)?.into_owned(), None))
    }

    fn program<'p>(&self, loaded: &'p Loaded) -> Option<&'p Program> {
        loaded.program.as_ref().filter(|_| self.composer.renderer.shortcuts)
    }

    fn reader(&self, piece: &Piece) -> Reader<'s> {
        let Composer { renderer, input, scene, .. } = self.composer;
        Reader {
            input,
            own: &renderer.own,
            scene,
            format: piece.format,
            charset: renderer.charset,
            masking: self.composer.masking(),
            saw_mask: Cell::new(false),
        }
    }

    /// Handlebars with the values of this moment.
    fn run(&self) -> Run<'_> {
        let values = self.values.get_or_init(|| self.composer.context());
        let Composer { renderer, scene, .. } = self.composer;
        Run::new(values, scene, &renderer.uses.scenic, self.composer.masking())
    }

    /// A document with what its charset lacks written as references. The masked copy is not sent: it may stay as it is.
    fn fit<'t>(&self, document: &'t str, piece: &Piece, cut: usize) -> Result<Cow<'t, str>, RenderFault> {
        match self.composer.renderer.charset.fit(document, Format::Xml) {
            Ok(fitted) => Ok(fitted),
            Err(_) if self.composer.masking() => Ok(document.into()),
            Err(broken) => Err(self.fault(broken, piece, cut)),
        }
    }

    /// What is broken in what a piece gave, behind the first `cut` bytes of it, with its line.
    fn fault(&self, broken: Broken, piece: &Piece, cut: usize) -> RenderFault {
        let line = if piece.inline { None } else { Some(self.line_of(piece, broken.offset + cut)) };
        RenderFault { line, ..piece.fault(broken.message) }
    }

    /// The line of the template that an offset in what was rendered comes from.
    fn line_of(&self, piece: &Piece, offset: usize) -> usize {
        let template = match &piece.text {
            Text::Fixed(text) => return 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count(),
            Text::Template(loaded) => &loaded.template,
        };
        let places = self.run().outline(template, piece.format, piece.number);
        let at = places.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        let Some((start, line)) = places.get(at).copied() else { return 1 };
        let Some(handlebars::template::TemplateElement::RawString(text)) = template.elements.get(at) else {
            return line;
        };
        // Handlebars counts a text's line from its first character that is not white space.
        let blank = text.len() - text.trim_start().len();
        let breaks = |text: &str| text.bytes().filter(|b| *b == b'\n').count();
        let within = (offset - start).min(text.len());
        let before = breaks(text.get(..within).unwrap_or(text));
        (line + before).saturating_sub(breaks(text.get(..blank).unwrap_or_default())).max(1)
    }
}

/// The text, if it is another one than before.
fn as_changed(text: Cow<'_, str>) -> Option<String> {
    match text {
        Cow::Borrowed(_) => None,
        Cow::Owned(text) => Some(text),
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
