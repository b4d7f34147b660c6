//! XML documents and XPath 1.0, in which a name matches in any namespace: partners change their prefixes, and nobody
//! writes namespaces into a rule.

use std::borrow::Cow;

use oxml::xpath::{EvalContext, EvalLimits};
use oxml::{Document, Limits, NodeId, NodeKind, XPath};

use super::{Found, MAX_DOCUMENT_BYTES};

/// Parses a document within limits that every honest reply keeps: 128 levels, 20,000 nodes, hardly any entities.
pub(super) fn parse(text: &str) -> Option<Document> {
    if !text.starts_with('<') {
        return None;
    }
    let mut limits = Limits::strict();
    limits.max_depth = 128;
    limits.max_nodes = Some(20_000);
    limits.max_attributes_per_element = 256;
    limits.max_attribute_size = MAX_DOCUMENT_BYTES;
    limits.max_text_length = Some(MAX_DOCUMENT_BYTES);
    limits.max_entity_expansion = 10_000;
    oxml::parse_with(text, limits).ok()
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

/// What the expression selects: the text of each node, or its one value.
pub(super) fn select<'b>(xpath: &XPath, document: &'b Document) -> Found<'b> {
    let Ok(value) = xpath.evaluate_with(document, &EvalContext::new().with_limits(eval_limits())) else {
        // Too costly for what a reply may cost.
        return Found::unreadable();
    };
    if let Some(nodes) = value.nodes() {
        return Found::texts(nodes.iter().map(|id| node_text(document, *id)));
    }
    let texts = std::iter::once(Cow::Owned(value.to_str(document).trim().to_owned()));
    // `count(//Error) = 0` without a test means what XPath's boolean() makes of it.
    Found { exists: value.to_boolean(), ..Found::texts(texts) }
}

/// The limits count the worst case of each step (a comparison counts the whole document), so they are generous: half a
/// second of real work at the very most, for an expression that visits the rest of the document from every node.
fn eval_limits() -> EvalLimits {
    let mut limits = EvalLimits::default();
    limits.max_work = 100_000_000;
    limits.max_string_bytes = 64 << 20;
    limits
}

fn node_text(document: &Document, id: NodeId) -> Cow<'_, str> {
    if let Some(text) = document.text_content(id) {
        return Cow::Borrowed(text.trim());
    }
    match document.kind(id) {
        Some(NodeKind::Attr(attribute)) => Cow::Borrowed(attribute.value.trim()),
        Some(NodeKind::Comment(text) | NodeKind::ProcessingInstruction { data: text, .. }) => {
            Cow::Borrowed(text.trim())
        }
        _ => Cow::Owned(document.text(id).trim().to_owned()),
    }
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
fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.') || !c.is_ascii()
}
