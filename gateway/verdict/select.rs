//! Selectors: where in a reply to look, and what was found there.
//!
//! A body is decoded and parsed at most once, when a selector first asks, by what the selector reads and not by what
//! its Content-Type claims. A body that is not what a selector reads selects nothing.

use std::borrow::Cow;
use std::cell::OnceCell;

use oxml::XPath;
use regex::Regex;
use serde_json_path::JsonPath;

use crate::model::contract::{DocumentKind, Inside as InsideConfig, Rule as RuleConfig};
use crate::model::exchange::Reply;

use super::rules::Faults;

mod css;
mod html;
mod json;
mod repair;
mod text;
mod xml;

pub(super) use self::repair::UNDECLARED;
pub(super) use self::xml::Tree;

/// A larger body, or nested document, is not parsed; `regex` and `contains` still read it.
const MAX_DOCUMENT_BYTES: usize = 4 << 20;
/// The most that one selector may select: texts, and bytes in all of them.
const MAX_TEXTS: usize = 10_000;
const MAX_TEXT_BYTES: usize = 4 << 20;
/// The most matches of a `regex`, whose search may start anew for each.
const MAX_MATCHES: usize = 100;
/// The most nested documents that `inside` opens.
const MAX_NESTED: usize = 20;

/// A reply being read.
pub(super) struct Reading<'r> {
    reply: &'r Reply,
    body: Body<'r>,
}

impl<'r> Reading<'r> {
    pub(super) fn of(reply: &'r Reply) -> Self {
        Self { reply, body: Body { origin: Origin::Reply(reply), ..Body::default() } }
    }

    pub(super) fn body(&self) -> &Body<'r> {
        &self.body
    }
}

/// A body, or a document nested in one, with what it was parsed to.
#[derive(Default)]
pub(super) struct Body<'r> {
    origin: Origin<'r>,
    text: OnceCell<Cow<'r, str>>,
    json: OnceCell<Option<json::Documents>>,
    xml: OnceCell<Option<Tree>>,
    html: OnceCell<Option<Tree>>,
}

#[derive(Default)]
enum Origin<'r> {
    Reply(&'r Reply),
    /// The text stands in `Body::text` from the start, and the rule says what it is.
    Nested(DocumentKind),
    #[default]
    Nothing,
}

impl<'r> Body<'r> {
    fn nested(text: Cow<'r, str>, kind: DocumentKind) -> Self {
        Self { origin: Origin::Nested(kind), text: OnceCell::from(text), ..Self::default() }
    }

    pub(super) fn text(&self) -> &str {
        self.text.get_or_init(|| match self.origin {
            Origin::Reply(reply) => text::decode(&reply.body, reply.header("content-type")),
            Origin::Nested(_) | Origin::Nothing => Cow::default(),
        })
    }

    /// The text to be parsed, unless it is too large.
    fn parsable(&self) -> Option<&str> {
        Some(trimmed(self.text())).filter(|text| text.len() <= MAX_DOCUMENT_BYTES)
    }

    fn json(&self) -> Option<&json::Documents> {
        self.json.get_or_init(|| json::parse(self.parsable()?)).as_ref()
    }

    /// The body as XML, but not a page that says it is HTML, even where it is well-formed: one partner's page is and the
    /// next is not, and rules must read both alike.
    pub(super) fn xml(&self) -> Option<&Tree> {
        let parse = || self.parsable().filter(|text| !html::is_page(text)).and_then(Tree::of_xml);
        self.xml.get_or_init(parse).as_ref()
    }

    fn html(&self) -> Option<&Tree> {
        self.html.get_or_init(|| Tree::of_html(self.parsable()?)).as_ref()
    }

    /// Whether HTML is to be expected where it does not look like it.
    fn is_called_html(&self) -> bool {
        match self.origin {
            Origin::Reply(reply) => {
                reply.header("content-type").is_some_and(|kind| kind.to_ascii_lowercase().contains("html"))
            }
            Origin::Nested(kind) => kind == DocumentKind::Html,
            Origin::Nothing => false,
        }
    }

    fn by_xpath(&self, xpath: &XPath) -> Found<'_> {
        if matches!(self.origin, Origin::Nested(DocumentKind::Html)) {
            return self.by_css(xpath);
        }
        if let Some(tree) = self.xml() {
            return tree.select(xpath, false);
        }
        let is_html = self.is_called_html() || self.parsable().is_some_and(html::is_page);
        let page = if is_html { self.html() } else { None };
        page.map_or_else(Found::unreadable, |page| page.select(xpath, true))
    }

    fn by_css(&self, xpath: &XPath) -> Found<'_> {
        self.html().map_or_else(Found::unreadable, |page| page.select(xpath, false))
    }
}

/// Without white space, and byte order marks, which some write twice, around it.
fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// What a selector found.
pub(super) struct Found<'b> {
    /// Each selected thing as text. A JSON null has none.
    pub(super) texts: Vec<Cow<'b, str>>,
    /// Whether something was selected: not a JSON null, not an XPath expression that is neither nodes nor true.
    pub(super) exists: bool,
    /// Whether there was something to look in: a JSON document for a JSONPath, an XML document for an XPath.
    pub(super) readable: bool,
    /// Whether everything that was selected stands in `texts`: no null was left out, nothing was cut.
    pub(super) whole: bool,
}

impl<'b> Found<'b> {
    fn unreadable() -> Self {
        Self { texts: Vec::new(), exists: false, readable: false, whole: true }
    }

    /// As many of the texts as one selector may select.
    fn texts(all: impl Iterator<Item = Cow<'b, str>>) -> Self {
        let mut left = MAX_TEXT_BYTES;
        let mut texts = Vec::new();
        let mut whole = true;
        for text in all {
            let rest = left.checked_sub(text.len()).filter(|_| texts.len() < MAX_TEXTS);
            let Some(rest) = rest else {
                whole = false;
                break;
            };
            left = rest;
            texts.push(text);
        }
        Self { exists: !texts.is_empty(), texts, readable: true, whole }
    }

    /// Adds what was found in another document of the same body.
    fn add(&mut self, more: Self) {
        self.whole &= more.whole;
        self.exists |= more.exists;
        self.texts.extend(more.texts);
    }

    fn into_owned(self) -> Found<'static> {
        let texts = self.texts.into_iter().map(|text| Cow::Owned(text.into_owned())).collect();
        Found { texts, exists: self.exists, readable: self.readable, whole: self.whole }
    }
}

/// Where to look.
#[derive(Debug)]
pub(super) struct Selector {
    inside: Option<(Look, DocumentKind)>,
    look: Look,
    /// For explanations, such as `json $.code`.
    label: String,
}

#[derive(Debug)]
enum Look {
    Status,
    Header(String),
    Json(Box<JsonPath>),
    Xpath(Box<XPath>),
    /// Written as XPath.
    Css(Box<XPath>),
    Form(String),
    Regex(Regex),
    Contains(String),
    Body,
}

impl Selector {
    /// Where it looks, in the words of the configuration.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn select<'r>(&self, reading: &'r Reading<'_>) -> Found<'r> {
        let Some((inside, kind)) = &self.inside else {
            return self.look.at(reading.reply, &reading.body);
        };
        let outer = inside.at(reading.reply, &reading.body);
        let mut all = Found { whole: outer.whole && outer.texts.len() <= MAX_NESTED, ..Found::unreadable() };
        for text in outer.texts.into_iter().take(MAX_NESTED) {
            let found = self.look.at(reading.reply, &Body::nested(text, *kind)).into_owned();
            // A nested document that selects nothing passes no test.
            all.whole &= found.whole && !found.texts.is_empty();
            all.texts.extend(found.texts);
            all.exists |= found.exists;
            all.readable |= found.readable;
        }
        all
    }

    pub(super) fn compile(path: &str, config: &RuleConfig, faults: &mut Faults) -> Option<Self> {
        let texts = [
            ("header", &config.header),
            ("json", &config.json),
            ("xpath", &config.xpath),
            ("css", &config.css),
            ("form", &config.form),
            ("regex", &config.regex),
            ("contains", &config.contains),
        ];
        let switches = [("status", config.status), ("body", config.body)];
        let mut named: Vec<(&str, &str)> =
            switches.iter().filter_map(|(key, given)| given.map(|_| (*key, ""))).collect();
        named.extend(texts.iter().filter_map(|(key, text)| Some((*key, text.as_deref()?))));
        let (key, text) = match named.as_slice() {
            [one] => *one,
            [] => {
                let message = "has no selector: name status, header, json, xpath, css, form, regex, contains or body";
                faults.add(path, message);
                return None;
            }
            several => {
                let keys: Vec<_> = several.iter().map(|(key, _)| *key).collect();
                let message = format!("has {} selectors: keep one, or write `all = [...]`", keys.join(" and "));
                faults.add(path, message);
                return None;
            }
        };
        for (key, given) in switches {
            if given == Some(false) {
                faults.add(&format!("{path}.{key}"), format!("is false: write true to select the {key}"));
            }
        }
        // Both, so that neither hides the faults of the other.
        let attribute = config.attribute.as_deref();
        let look = Look::compile(&format!("{path}.{key}"), key, text, attribute, faults);
        let inside =
            config.inside.as_ref().map(|inside| compile_inside(&format!("{path}.inside"), inside, key, faults));
        let label = label(key, text, attribute);
        match inside {
            None => Some(Self { inside: None, look: look?, label }),
            Some(inside) => {
                let (inside, outer) = inside?;
                let kind = config.inside.as_ref().map_or(DocumentKind::Text, |inside| inside.kind);
                Some(Self { inside: Some((inside, kind)), look: look?, label: format!("{label} inside {outer}") })
            }
        }
    }
}

/// A selector in the words of the configuration, shortly: `css input[name=code] @value`.
fn label(key: &str, text: &str, attribute: Option<&str>) -> String {
    let mut label = key.to_owned();
    for (part, mark) in [(text, " "), (attribute.unwrap_or_default(), " @")] {
        if !part.is_empty() {
            label.push_str(mark);
            label.push_str(part);
        }
    }
    label
}

/// The selector of the nested document, and its label.
fn compile_inside(path: &str, config: &InsideConfig, key: &str, faults: &mut Faults) -> Option<(Look, String)> {
    let as_word = match config.kind {
        DocumentKind::Xml => "xml",
        DocumentKind::Html => "html",
        DocumentKind::Json => "json",
        DocumentKind::Form => "form",
        DocumentKind::Text => "text",
    };
    match (key, config.kind) {
        ("xpath", DocumentKind::Xml | DocumentKind::Html)
        | ("css", DocumentKind::Html)
        | ("json", DocumentKind::Json)
        | ("form", DocumentKind::Form)
        | ("regex" | "contains" | "body", _) => {}
        ("status" | "header", _) => {
            faults.add(path, format!("`{key}` stands outside the body: leave `inside` out"));
        }
        _ => faults.add(path, format!("`{key}` does not read a nested document that is `as = \"{as_word}\"`")),
    }
    let outer = [
        ("header", &config.header),
        ("json", &config.json),
        ("xpath", &config.xpath),
        ("css", &config.css),
        ("form", &config.form),
        ("regex", &config.regex),
    ];
    let named: Vec<_> = outer.iter().filter_map(|(key, text)| Some((*key, text.as_deref()?))).collect();
    if let [(key, text)] = named.as_slice() {
        let attribute = config.attribute.as_deref();
        let look = Look::compile(&format!("{path}.{key}"), key, text, attribute, faults)?;
        Some((look, format!("{} as {as_word}", label(key, text, attribute))))
    } else {
        faults.add(path, "needs exactly one of header, json, xpath, css, form and regex to find the nested document");
        None
    }
}

impl Look {
    fn compile(path: &str, key: &str, text: &str, attribute: Option<&str>, faults: &mut Faults) -> Option<Self> {
        if attribute.is_some() && key != "css" {
            faults.add(path, "has no use for `attribute`, which stands beside `css` alone: leave it out");
        }
        if text.is_empty() && !matches!(key, "status" | "body") {
            faults.add(path, "is empty");
            return None;
        }
        let compiled = match key {
            "status" => Ok(Self::Status),
            "body" => Ok(Self::Body),
            "header" if text.contains(|c: char| !c.is_ascii_graphic() || c == ':') => {
                Err("is not the name of a header".to_owned())
            }
            "header" => Ok(Self::Header(text.to_owned())),
            "json" => json::compile(text).map(|path| Self::Json(Box::new(path))),
            "xpath" => xml::compile(text).map(|xpath| Self::Xpath(Box::new(xpath))),
            "css" => css::to_xpath(text, attribute)
                .and_then(|xpath| xml::compile(&xpath))
                .map(|xpath| Self::Css(Box::new(xpath))),
            "form" => Ok(Self::Form(text.to_owned())),
            "regex" => Regex::new(text).map(Self::Regex).map_err(|error| format!("is no regular expression: {error}")),
            _ => Ok(Self::Contains(text.to_owned())),
        };
        compiled.map_err(|message| faults.add(path, message)).ok()
    }

    fn at<'b>(&self, reply: &'b Reply, body: &'b Body<'_>) -> Found<'b> {
        match self {
            Self::Status => Found::texts(std::iter::once(Cow::Owned(reply.status.to_string()))),
            Self::Header(name) => {
                let same_name = reply.headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
                Found::texts(same_name.map(|(_, value)| Cow::Borrowed(value.trim())))
            }
            Self::Json(path) => body.json().map_or_else(Found::unreadable, |all| all.select(path)),
            Self::Xpath(xpath) => body.by_xpath(xpath),
            Self::Css(xpath) => body.by_css(xpath),
            Self::Form(name) => {
                let text = trimmed(body.text());
                let pairs = form_urlencoded::parse(text.as_bytes());
                let found = Found::texts(pairs.filter(|(key, _)| key == name).map(|(_, value)| value));
                // A page, a JSON document or nothing at all is no form from which a field is missing.
                Found { readable: text.contains('=') && !text.starts_with(['<', '{', '[', '"']), ..found }
            }
            Self::Regex(regex) => {
                Found::texts(regex.captures_iter(body.text()).take(MAX_MATCHES).filter_map(|found| {
                    let part = found.get(1).or_else(|| found.get(0))?;
                    Some(Cow::Borrowed(part.as_str()))
                }))
            }
            Self::Body => {
                let text = trimmed(body.text());
                Found { exists: !text.is_empty(), ..Found::texts(std::iter::once(Cow::Borrowed(text))) }
            }
            Self::Contains(text) => {
                let there = body.text().contains(text.as_str());
                Found::texts(there.then(|| Cow::Owned(text.clone())).into_iter())
            }
        }
    }
}
