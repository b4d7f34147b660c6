//! JSON documents and JSONPath (RFC 9535).

use std::borrow::Cow;

use serde_json::Value;
use serde_json_path::JsonPath;

use super::Found;

/// The most `..` in one path: each further one multiplies the nodes visited by the depth of a hostile document.
const MAX_DESCENTS: usize = 2;

/// Parses a document; serde_json refuses more than 128 levels, so that nothing below recurses deeper.
pub(super) fn parse(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// Compiles a JSONPath, or says what is wrong with it.
pub(super) fn compile(text: &str) -> Result<JsonPath, String> {
    if text.matches("..").count() > MAX_DESCENTS {
        return Err(format!("has more than {MAX_DESCENTS} `..`: name the steps between"));
    }
    JsonPath::parse(text).map_err(|error| format!("is no JSONPath (RFC 9535): {error}"))
}

/// What the path selects, each value as text; null is there, but counts as nothing.
pub(super) fn select<'b>(path: &JsonPath, document: &'b Value) -> Found<'b> {
    Found::texts(path.query(document).into_iter().filter_map(as_text))
}

/// A text as it is, a scalar as JSON writes it, an object or an array as compact JSON.
fn as_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(Cow::Borrowed(text)),
        other => Some(Cow::Owned(other.to_string())),
    }
}
