//! From a contract's endpoint to a [`Renderer`]: secrets resolved, templates loaded, headers in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use handlebars::Template;
use http::{HeaderName, HeaderValue as HttpValue};
use jiff::SignedDuration;

use super::context::Own;
use super::escape::Format;
use super::known::{Compiled, Known};
use super::load::{Loader, without_bom};
use super::program::Program;
use super::scope::Uses;
use super::soap::Version;
use super::wsse::Security;
use super::{RenderFault, Renderer, TemplateFault, basic, charset, form};
use crate::model::campaign::Campaign;
use crate::model::contract::{Auth, Charset, Contract, Endpoint, Method, PasswordType};
use crate::model::secret::{SecretText, is_secret_header};

/// The least length of a secret that is looked for in replies: shorter ones stand in every text by chance.
const SHORTEST_SECRET: usize = 4;

/// A part of a request that is rendered by itself.
pub(super) struct Piece {
    /// The template's path, or the endpoint's key.
    pub(super) name: String,
    /// It stands in the configuration, where a line number says nothing.
    pub(super) inline: bool,
    pub(super) format: Format,
    pub(super) text: Text,
    /// Masked as a whole.
    pub(super) secret: bool,
    /// Refers to a sensitive field or to a secret.
    pub(super) sensitive: bool,
    /// Parts of the request that it refers to.
    pub(super) request: BTreeSet<&'static str>,
    /// Tells the pieces of a request apart.
    pub(super) number: u32,
}

/// A piece's text.
pub(super) enum Text {
    /// The same for every lead.
    Fixed(String),
    /// With variables.
    Template(Arc<Loaded>),
}

/// A template that has been checked.
pub(super) struct Loaded {
    pub(super) template: Template,
    /// The same as steps, where it is of the usual kind.
    pub(super) program: Option<Program>,
}

impl Piece {
    pub(super) fn is_fixed(&self) -> bool {
        matches!(self.text, Text::Fixed(_))
    }

    /// Whether it is written without Handlebars.
    pub(super) fn is_by_steps(&self) -> bool {
        match &self.text {
            Text::Fixed(_) => true,
            Text::Template(loaded) => loaded.program.is_some(),
        }
    }

    pub(super) fn masks(&self) -> bool {
        self.secret || self.sensitive
    }

    /// Refers to the request's body.
    pub(super) fn uses_body(&self) -> bool {
        self.request.contains("body")
    }

    /// Refers to the URL, or to a part of it.
    pub(super) fn uses_url(&self) -> bool {
        ["path", "query", "url"].iter().any(|part| self.request.contains(part))
    }

    /// Refers to the URL with its query.
    pub(super) fn uses_query(&self) -> bool {
        self.request.contains("query") || self.request.contains("url")
    }

    pub(super) fn fault(&self, message: String) -> RenderFault {
        RenderFault { template: self.name.clone(), line: None, variable: None, message }
    }
}

/// Names and values, in the order they are sent.
pub(super) type Headers = Vec<(String, HeaderValue)>;

/// What a header carries.
pub(super) enum HeaderValue {
    Plain(Piece),
    Basic { username: Piece, password: Piece },
    Bearer { token: Piece },
    DeliveryId,
}

impl HeaderValue {
    pub(super) fn masks(&self) -> bool {
        match self {
            Self::Plain(piece) => piece.masks(),
            Self::Basic { .. } | Self::Bearer { .. } => true,
            Self::DeliveryId => false,
        }
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        let (one, two) = match self {
            Self::Plain(piece) | Self::Bearer { token: piece } => (Some(piece), None),
            Self::Basic { username, password } => (Some(username), Some(password)),
            Self::DeliveryId => (None, None),
        };
        one.into_iter().chain(two)
    }
}

/// What the request says.
pub(super) enum Content {
    /// Encoded names and their values, for a body or a query.
    Form(Vec<(String, Piece)>),
    Json(Piece),
    Xml(Piece),
    Soap {
        version: Version,
        security: Option<Box<Security>>,
        header: Option<Box<Piece>>,
        body: Piece,
    },
}

impl Content {
    pub(super) fn masks(&self) -> bool {
        match self {
            Self::Form(fields) => fields.iter().any(|(_, piece)| piece.masks()),
            Self::Json(piece) | Self::Xml(piece) => piece.masks(),
            Self::Soap { security, header, body, .. } => {
                security.is_some() || body.masks() || header.as_ref().is_some_and(|piece| piece.masks())
            }
        }
    }

    pub(super) fn pieces(&self) -> Vec<&Piece> {
        match self {
            Self::Form(fields) => fields.iter().map(|(_, piece)| piece).collect(),
            Self::Json(piece) | Self::Xml(piece) => vec![piece],
            Self::Soap { security, header, body, .. } => {
                security.iter().flat_map(|security| security.pieces()).chain(header.as_deref()).chain([body]).collect()
            }
        }
    }
}

pub(super) fn compile(
    contract: &Contract,
    campaign: &Campaign,
    templates: &dyn Fn(&str) -> Option<String>,
    known: &mut Known,
) -> Result<Renderer, Vec<TemplateFault>> {
    let loader = Loader {
        contract,
        campaign,
        templates,
        keys: BTreeMap::new(),
        signatures: 0,
        signs: false,
        faults: Vec::new(),
    };
    let mut compiler = Compiler { loader, known, uses: Arc::default(), secrets: Vec::new(), pieces: 0 };
    let endpoint = &contract.endpoint;
    let own_secrets = compiler.own_secrets(contract);
    compiler.settings(endpoint);
    let url = compiler.url("endpoint.url", &endpoint.url);
    let backup = endpoint.backup_url.as_ref().map(|url| compiler.url("endpoint.backup_url", url));
    let content = compiler.content(endpoint);
    let (headers, credentials) = compiler.headers(endpoint);
    if let Some(content) = &content {
        compiler.order(endpoint.method, &url, credentials.as_ref().map(|(_, piece)| piece), content);
    }
    let Compiler { loader, uses, secrets, .. } = compiler;
    match content {
        Some(content) if loader.faults.is_empty() => Ok(Renderer {
            method: endpoint.method,
            charset: endpoint.charset.unwrap_or_default(),
            url,
            backup,
            credentials,
            headers,
            content,
            uses,
            own: Own { secrets: own_secrets, ..own(contract, campaign) },
            partner: contract.partner.to_string(),
            maps: contract.maps.clone(),
            keys: loader.keys,
            secrets,
            shortcuts: true,
        }),
        _ => Err(loader.faults),
    }
}

fn own(contract: &Contract, campaign: &Campaign) -> Own {
    Own {
        campaign: [campaign.id.to_string(), campaign.title().to_owned()],
        contract: [contract.id.to_string(), contract.title().to_owned()],
        price: contract.price.clone(),
        secrets: BTreeMap::new(),
        sensitive: campaign.fields.iter().filter(|(_, field)| field.sensitive).map(|(name, _)| name.clone()).collect(),
    }
}

/// Adds what must not be stored.
pub(super) fn add_secret(secrets: &mut Vec<String>, secret: &str) {
    if secret.len() >= SHORTEST_SECRET && !secrets.iter().any(|known| known == secret) {
        secrets.push(secret.to_owned());
    }
}

/// Adds a piece's secret value; of a header's its last word too, for `Bearer abc…` may be echoed without its first.
pub(super) fn add_piece(secrets: &mut Vec<String>, format: Format, value: &str) {
    add_secret(secrets, value);
    if let (Format::Header, Some((_, word))) = (format, value.rsplit_once(' '))
        && word.len() >= 2 * SHORTEST_SECRET
    {
        add_secret(secrets, word);
    }
}

/// An absolute http or https URL with a host.
pub(super) fn check_url(text: &str) -> Result<(), String> {
    match url::Url::parse(text) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err("it holds a user name or a password, which would stand in captures: put them into `auth`".to_owned())
        }
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(()),
        _ => Err("not an http or https URL".to_owned()),
    }
}

struct Compiler<'a> {
    loader: Loader<'a>,
    known: &'a mut Known,
    uses: Arc<Uses>,
    secrets: Vec<String>,
    pieces: u32,
}

impl Compiler<'_> {
    fn fault(&mut self, key: &str, message: impl Into<String>) {
        self.loader.faults.push(TemplateFault { template: key.to_owned(), line: None, message: message.into() });
    }

    /// The contract's `secrets`, resolved; those of any use are looked for in replies.
    fn own_secrets(&mut self, contract: &Contract) -> BTreeMap<String, String> {
        let mut resolved = BTreeMap::new();
        for (name, secret) in &contract.secrets {
            let key = format!("secrets.{name}");
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if !name.chars().all(plain) || !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
                self.fault(&key, "a secret's name begins with a letter and holds letters, digits and _ only");
            }
            match secret.resolve() {
                Ok(value) => {
                    add_secret(&mut self.secrets, &value);
                    resolved.insert(name.clone(), value);
                }
                Err(fault) => self.fault(&key, fault.to_string()),
            }
        }
        resolved
    }

    /// Settings that do not fit the method.
    fn settings(&mut self, endpoint: &Endpoint) {
        let method = endpoint.method;
        let word = method.as_str();
        if method.is_form() {
            if endpoint.template.is_some() {
                self.fault("endpoint.template", format!("`{word}` has no template: list the fields in endpoint.form"));
            }
            if method == Method::Post && endpoint.form.is_empty() {
                self.fault("endpoint.form", "`post` needs the fields to send, each with a value or template");
            }
        } else {
            if endpoint.template.is_none() {
                self.fault(
                    "endpoint.template",
                    format!("`{word}` needs a template: a path below the templates directory"),
                );
            }
            if !endpoint.form.is_empty() {
                self.fault("endpoint.form", format!("`{word}` has no form: its body is endpoint.template"));
            }
        }
        if !method.is_soap() {
            for (key, given) in
                [("action", endpoint.action.is_some()), ("header_template", endpoint.header_template.is_some())]
            {
                if given {
                    self.fault(&format!("endpoint.{key}"), format!("`{word}` has no {key}; only soap11 and soap12 do"));
                }
            }
        }
        let action = endpoint.action.as_deref().unwrap_or_default();
        if !action.bytes().all(|b| b.is_ascii_graphic() && b != b'"') {
            self.fault("endpoint.action", "an action is a URI: no spaces, quotes or letters beyond ASCII");
        }
    }

    fn url(&mut self, key: &str, url: &SecretText) -> Piece {
        let piece = self.setting(key, url, Format::Url, false);
        if let Text::Fixed(text) = &piece.text
            && let Err(message) = check_url(text)
            && !self.loader.faults.iter().any(|fault| fault.template == key)
        {
            self.fault(key, message);
        }
        piece
    }

    /// Parts of a request may be made of parts that are rendered before them: the URL of the body, or the body of the
    /// URL, and headers of both.
    fn order(&mut self, method: Method, url: &Piece, credentials: Option<&Piece>, content: &Content) {
        if url.uses_url() {
            self.fault(
                "endpoint.url",
                "request.path, request.query and request.url are made of it; it cannot hold them",
            );
        }
        let url_of_body = url.uses_body() || credentials.is_some_and(Piece::uses_body);
        for piece in content.pieces() {
            let message = if piece.uses_body() && !method.is_form() {
                "request.body is made of it, so it cannot hold request.body: sign it in a header or in the url"
            } else if piece.uses_url() && url_of_body && method != Method::Get {
                "it refers to the url, and the url refers to request.body: neither can be rendered first"
            } else {
                continue;
            };
            self.fault(&piece.name, message);
        }
    }

    fn content(&mut self, endpoint: &Endpoint) -> Option<Content> {
        let charset = endpoint.charset.unwrap_or_default();
        if endpoint.method.is_form() {
            let fields = endpoint.form.iter().map(|(name, value)| {
                (
                    form::encode(name, charset),
                    self.setting(&format!("endpoint.form.{name}"), value, Format::Text, false),
                )
            });
            return Some(Content::Form(fields.collect()));
        }
        let format = if endpoint.method == Method::Json { Format::Json } else { Format::Xml };
        let path = endpoint.template.as_deref()?;
        let body = self.file("endpoint.template", path, format);
        if endpoint.method == Method::Xml {
            self.declaration(path, charset);
        }
        let header =
            endpoint.header_template.as_deref().map(|path| self.file("endpoint.header_template", path, format));
        Some(match Version::of(endpoint.method) {
            Some(version) => Content::Soap {
                version,
                security: self.security(endpoint).map(Box::new),
                header: header.flatten().map(Box::new),
                body: body?,
            },
            None if format == Format::Json => Content::Json(body?),
            None => Content::Xml(body?),
        })
    }

    /// An XML declaration must say what is sent.
    fn declaration(&mut self, path: &str, sent: Charset) {
        let text = (self.loader.templates)(path).unwrap_or_default();
        let name = sent.xml_name();
        let message = match charset::declared(without_bom(&text)) {
            Some("") if sent != Charset::Utf8 => {
                format!("the XML declaration needs encoding=\"{name}\", or leave it out")
            }
            Some(other) if !other.is_empty() && !other.eq_ignore_ascii_case(name) => {
                let word = other.chars().take(40).collect::<String>();
                format!("the XML declaration says {word}, but {name} is sent: correct it, or set endpoint.charset")
            }
            _ => return,
        };
        self.loader.faults.push(TemplateFault { template: path.to_owned(), line: Some(1), message });
    }

    /// The WS-Security header of a SOAP message.
    fn security(&mut self, endpoint: &Endpoint) -> Option<Security> {
        let Some(Auth::Wsse { username, password, password_type, timestamp, must_understand }) =
            endpoint.auth.as_deref()
        else {
            return None;
        };
        Some(Security {
            username: self.setting("endpoint.auth.wsse.username", username, Format::Text, false),
            password: self.setting("endpoint.auth.wsse.password", password, Format::Text, true),
            digest: *password_type == PasswordType::Digest,
            valid_for: timestamp.and_then(|span| SignedDuration::try_from(span.0).ok()),
            must_understand: *must_understand,
        })
    }

    /// A template file.
    fn file(&mut self, key: &str, path: &str, format: Format) -> Option<Piece> {
        let Some(text) = (self.loader.templates)(path) else {
            self.fault(key, format!("there is no template {path}; the path counts from the templates directory"));
            return None;
        };
        let Compiled { loaded, uses } = self.known.load(&mut self.loader, path, without_bom(&text), format, false);
        Some(self.piece(path, false, format, Text::Template(loaded), false, &uses))
    }

    /// A value of the configuration: a reference, which is resolved and sent as it is, or a template.
    fn setting(&mut self, key: &str, value: &SecretText, format: Format, secret: bool) -> Piece {
        let mut uses = Arc::default();
        let text = if value.is_reference() {
            match value.resolve() {
                Ok(text) => Text::Fixed(text),
                Err(fault) => {
                    self.fault(key, fault.to_string());
                    Text::Fixed(String::new())
                }
            }
        } else if value.0.contains("{{") {
            let compiled = self.known.load(&mut self.loader, key, &value.0, format, true);
            uses = compiled.uses;
            Text::Template(compiled.loaded)
        } else {
            Text::Fixed(value.0.clone())
        };
        let secret = secret || value.is_reference();
        if let (true, Text::Fixed(text)) = (secret, &text) {
            add_piece(&mut self.secrets, format, text);
        }
        self.piece(key, true, format, text, secret, &uses)
    }

    fn piece(&mut self, name: &str, inline: bool, format: Format, text: Text, secret: bool, uses: &Arc<Uses>) -> Piece {
        Uses::add(&mut self.uses, uses);
        self.pieces += 1;
        let sensitive = uses.masks();
        let request = uses.request.clone();
        Piece { name: name.to_owned(), inline, format, text, secret, sensitive, request, number: self.pieces }
    }

    /// The gateway's own headers, then the contract's; a configured one takes the place of one of the same name.
    fn headers(&mut self, endpoint: &Endpoint) -> (Headers, Option<(String, Piece)>) {
        let mut headers = Vec::new();
        for (name, value) in own_headers(endpoint) {
            let piece = self.piece(name, true, Format::Header, Text::Fixed(value), false, &Arc::default());
            headers.push((name.to_owned(), HeaderValue::Plain(piece)));
        }
        if let Some(name) = &endpoint.idempotency_header.0 {
            self.header_name("endpoint.idempotency_header", name);
            put(&mut headers, name, HeaderValue::DeliveryId);
        }
        for (name, value) in &endpoint.headers {
            let key = format!("endpoint.headers.{name}");
            self.header_name(&key, name);
            let carries_id =
                endpoint.idempotency_header.0.as_ref().is_some_and(|header| header.eq_ignore_ascii_case(name));
            let secret = is_secret_header(name) && !carries_id;
            let piece = self.header_value(&key, value, secret);
            self.content_type(&key, name, &piece, endpoint);
            put(&mut headers, name, HeaderValue::Plain(piece));
        }
        let credentials = self.auth(endpoint, &mut headers);
        headers.shrink_to_fit();
        (headers, credentials)
    }

    /// A configured content type must not say another charset than the one that the endpoint names.
    fn content_type(&mut self, key: &str, name: &str, piece: &Piece, endpoint: &Endpoint) {
        let (Text::Fixed(text), Some(charset)) = (&piece.text, endpoint.charset) else { return };
        let said = text.to_ascii_lowercase();
        let said = said.split_once("charset=").map(|(_, rest)| rest.trim_matches('"'));
        if name.eq_ignore_ascii_case("content-type") && said.is_some_and(|said| !said.starts_with(charset.as_str())) {
            self.fault(key, format!("it says another charset than endpoint.charset, which is {}", charset.as_str()));
        }
    }

    fn auth(&mut self, endpoint: &Endpoint, headers: &mut Headers) -> Option<(String, Piece)> {
        let (name, value) = match endpoint.auth.as_deref()? {
            Auth::Basic { username, password } => {
                // A user name is masked with the whole header, but is no secret to look for in replies.
                let username = self.setting("endpoint.auth.basic.username", username, Format::Text, false);
                let password = self.setting("endpoint.auth.basic.password", password, Format::Text, true);
                if let (Text::Fixed(username), Text::Fixed(password)) = (&username.text, &password.text) {
                    if username.contains(':') {
                        self.fault("endpoint.auth.basic.username", "a user name cannot hold a colon (RFC 7617)");
                    }
                    add_secret(&mut self.secrets, &basic(username, password));
                }
                ("Authorization", HeaderValue::Basic { username, password })
            }
            Auth::Bearer { token } => {
                let token = self.header_value("endpoint.auth.bearer.token", token, true);
                ("Authorization", HeaderValue::Bearer { token })
            }
            Auth::Header { name, value } => {
                self.header_name("endpoint.auth.header.name", name);
                let value = self.header_value("endpoint.auth.header.value", value, true);
                (name.as_str(), HeaderValue::Plain(value))
            }
            Auth::Query { name, value } => {
                let value = self.setting("endpoint.auth.query.value", value, Format::Text, true);
                return Some((form::encode(name, endpoint.charset.unwrap_or_default()), value));
            }
            // The token is fetched when there is something to send; only its place is looked at here.
            Auth::Oauth2(oauth2) => {
                self.header_name("endpoint.auth.oauth2.header", &oauth2.header);
                if HttpValue::try_from(oauth2.scheme.as_str()).is_err() {
                    self.fault("endpoint.auth.oauth2.scheme", "it holds a control character");
                }
                if endpoint.headers.keys().any(|other| other.eq_ignore_ascii_case(&oauth2.header)) {
                    let message = format!("endpoint.headers sets {} too: leave one of them out", oauth2.header);
                    self.fault("endpoint.auth", message);
                }
                return None;
            }
            // It stands in the message; see `security`.
            Auth::Wsse { .. } if endpoint.method.is_soap() => return None,
            Auth::Wsse { .. } => {
                let word = endpoint.method.as_str();
                self.fault("endpoint.auth.wsse", format!("`{word}` has no SOAP header; only soap11 and soap12 do"));
                return None;
            }
        };
        if endpoint.headers.keys().any(|other| other.eq_ignore_ascii_case(name)) {
            self.fault("endpoint.auth", format!("endpoint.headers sets {name} too: leave one of them out"));
        }
        put(headers, name, value);
        None
    }

    fn header_name(&mut self, key: &str, name: &str) {
        if HeaderName::try_from(name).is_err() {
            self.fault(key, format!("`{name}` is not a header name"));
        } else if ["content-length", "transfer-encoding", "connection", "te", "upgrade"]
            .contains(&name.to_ascii_lowercase().as_str())
        {
            self.fault(key, format!("{name} belongs to the connection; leave it to the gateway"));
        }
    }

    fn header_value(&mut self, key: &str, value: &SecretText, secret: bool) -> Piece {
        let piece = self.setting(key, value, Format::Header, secret);
        if let Text::Fixed(text) = &piece.text
            && HttpValue::try_from(text.as_str()).is_err()
        {
            self.fault(key, "the value holds a line break or another control character");
        }
        piece
    }
}

/// What the gateway sends of itself.
fn own_headers(endpoint: &Endpoint) -> Vec<(&'static str, String)> {
    let charset = endpoint.charset.unwrap_or_default();
    // Where a type implies UTF-8, another charset is named, and UTF-8 where the contract says it.
    let named = |media: &str| match endpoint.charset {
        Some(charset) => vec![("Content-Type", format!("{media}; charset={}", charset.as_str()))],
        None => vec![("Content-Type", media.to_owned())],
    };
    let mut headers = match (Version::of(endpoint.method), endpoint.method) {
        (Some(version), _) => version.headers(endpoint.action.as_deref(), charset),
        (None, Method::Xml) => vec![("Content-Type", format!("application/xml; charset={}", charset.as_str()))],
        (None, Method::Json) => named("application/json"),
        (None, Method::Post) => named("application/x-www-form-urlencoded"),
        (None, _) => Vec::new(),
    };
    headers.push(("User-Agent", concat!("lead-gateway/", env!("CARGO_PKG_VERSION")).to_owned()));
    headers
}

fn put(headers: &mut Headers, name: &str, value: HeaderValue) {
    match headers.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        Some(header) => *header = (name.to_owned(), value),
        None => headers.push((name.to_owned(), value)),
    }
}
