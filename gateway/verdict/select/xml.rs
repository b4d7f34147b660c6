//! XML documents and XPath 1.0, in which a name matches in any namespace: partners change their prefixes, and nobody
//! writes namespaces into a rule.

use std::borrow::Cow;

use oxml::xpath::{EvalContext, EvalLimits, Value};
use oxml::{Document, Limits, NodeId, NodeKind, XPath};

use super::{Found, MAX_DOCUMENT_BYTES, html, repair};

/// What every honest reply keeps to, and every parser of this module with it.
pub(super) const MAX_DEPTH: usize = 128;
pub(super) const MAX_NODES: usize = 20_000;

/// What a body was parsed to.
pub(in crate::verdict) struct Tree {
    /// Several where a body has several roots.
    pub(in crate::verdict) documents: Vec<Document>,
    /// Read as it was sent. What had to be repaired, and a page where XML was expected, shows what is there, but proves
    /// nothing by what is missing: only nodes and texts count.
    is_exact: bool,
    /// How text is read.
    is_html: bool,
}

impl Tree {
    /// XML as it was sent, or if need be, repaired.
    pub(super) fn of_xml(text: &str) -> Option<Self> {
        if let Some(document) = text.starts_with('<').then(|| parse(text)).flatten() {
            return Some(Self { documents: vec![document], is_exact: true, is_html: false });
        }
        let documents: Option<Vec<_>> = repair::documents(text)?.iter().map(|text| parse(text)).collect();
        Some(Self { documents: documents?, is_exact: false, is_html: false })
    }

    /// A page, or a piece of one.
    pub(super) fn of_html(text: &str) -> Option<Self> {
        let document = html::parse(text)?;
        Some(Self { documents: vec![document], is_exact: html::is_page(text), is_html: true })
    }

    /// What the expression selects: the text of each node, or its one value. `lenient` where the rule may have expected
    /// something else than what came.
    pub(super) fn select<'b>(&'b self, xpath: &XPath, lenient: bool) -> Found<'b> {
        let mut all = Found { readable: self.is_exact && !lenient, ..Found::unreadable() };
        for document in &self.documents {
            let Ok(value) = xpath.evaluate_with(document, &EvalContext::new().with_limits(eval_limits())) else {
                // Too costly for what a reply may cost.
                return Found::unreadable();
            };
            let found = match value {
                Value::NodeSet(nodes) => Found::texts(nodes.into_iter().map(|id| self.node_text(document, id))),
                Value::String(text) if text.is_empty() && !all.readable => continue,
                Value::Boolean(_) | Value::Number(_) if !all.readable => continue,
                // `count(//Error) = 0` without a test means what XPath's boolean() makes of it.
                value => Found {
                    exists: value.to_boolean(),
                    ..Found::texts(std::iter::once(Cow::Owned(value.to_str(document).trim().to_owned())))
                },
            };
            all.add(found);
        }
        all
    }

    fn node_text<'b>(&self, document: &'b Document, id: NodeId) -> Cow<'b, str> {
        match document.kind(id) {
            Some(NodeKind::Attr(attribute)) => Cow::Borrowed(attribute.value.trim()),
            Some(NodeKind::Comment(text) | NodeKind::ProcessingInstruction { data: text, .. }) => {
                Cow::Borrowed(text.trim())
            }
            _ if self.is_html => Cow::Owned(html::text_of(document, id)),
            _ => match document.text_content(id) {
                Some(text) => Cow::Borrowed(text.trim()),
                None => Cow::Owned(document.text(id).trim().to_owned()),
            },
        }
    }
}

/// Parses a well-formed document within limits that every honest reply keeps; hardly any entities.
pub(super) fn parse(text: &str) -> Option<Document> {
    let mut limits = Limits::strict();
    limits.max_depth = MAX_DEPTH;
    limits.max_nodes = Some(MAX_NODES);
    limits.max_attributes_per_element = 256;
    limits.max_attribute_size = MAX_DOCUMENT_BYTES;
    limits.max_text_length = Some(MAX_DOCUMENT_BYTES);
    limits.max_entity_expansion = 10_000;
    oxml::parse_with(text, limits).ok()
}

/// Text as XML writes it, in an element or an attribute; what XML cannot carry is left out.
pub(super) fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => out.push(c),
            _ => {}
        }
    }
}

/// Compiles an XPath, or says what is wrong with it.
pub(super) fn compile(text: &str) -> Result<XPath, String> {
    let limits = Limits::strict();
    let plain = without_prefixes(text);
    let fault = |error| format!("is no XPath 1.0 expression: {error}");
    let as_written = XPath::compile_with_limits(&plain, &limits).map_err(fault)?;
    if let Some(variable) = as_written.variables().first() {
        return Err(format!("uses the variable ${}, but there are no variables", variable.local));
    }
    // The canonical form spells every axis, so that a name test is what follows a `::`.
    XPath::compile_with_limits(&in_any_namespace(&as_written.to_string()), &limits).map_err(fault)
}

/// The limits count the worst case of each step (a comparison counts the whole document), so they are generous: half a
/// second of real work at the very most, for an expression that visits the rest of the document from every node.
fn eval_limits() -> EvalLimits {
    let mut limits = EvalLimits::default();
    limits.max_work = 100_000_000;
    limits.max_string_bytes = 64 << 20;
    limits
}

/// `soap:Body/m:Result` → `Body/Result`: a prefix is the partner's choice and may be another tomorrow.
fn without_prefixes(expression: &str) -> String {
    let mut kept = String::with_capacity(expression.len());
    let mut quote = None;
    let mut rest = expression.chars().peekable();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ':') if rest.next_if_eq(&':').is_some() => kept.push(':'),
            (None, ':') => {
                let prefix_at = kept.trim_end_matches(is_name_char).len();
                // `*:name` needs no change, and a colon without a prefix is left for the parser to refuse.
                if prefix_at < kept.len() {
                    kept.truncate(prefix_at);
                    continue;
                }
            }
            _ => {}
        }
        kept.push(c);
    }
    kept
}

/// `child::Result` → `child::*:Result`, in an expression whose every step spells its axis.
fn in_any_namespace(canonical: &str) -> String {
    let mut widened = String::with_capacity(canonical.len() * 2);
    let mut quote = None;
    let mut rest = canonical;
    while let Some(c) = rest.chars().next() {
        match quote {
            Some(open) if c == open => quote = None,
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None if rest.starts_with("::") => {
                let test = rest.trim_start_matches(':');
                let after_name = test.trim_start_matches(is_name_char);
                // Not for `*`, `text()` and their like.
                let is_name = after_name.len() < test.len() && !after_name.starts_with('(');
                widened.push_str(if is_name { "::*:" } else { "::" });
                rest = test;
                continue;
            }
            _ => {}
        }
        widened.push(c);
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    widened
}

/// Enough of XML's `NameChar` to find where a name ends: what XPath itself uses is ASCII.
pub(super) fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.') || !c.is_ascii()
}
