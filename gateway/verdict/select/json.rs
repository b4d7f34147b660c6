//! JSON documents and JSONPath (RFC 9535).
//!
//! A number is compared and read as it was written: `31.00` is not `31.0`, and no digit of an id of thirty digits is
//! lost. serde_json's `arbitrary_precision` would do that for the whole crate and change how every number is
//! deserialised; here the numbers that serde_json writes otherwise are remembered beside the document instead.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;
use serde_json_path::JsonPath;

use super::Found;

/// The most `..` in one path: each further one multiplies the nodes visited by the depth of a hostile document.
const MAX_DESCENTS: usize = 2;
/// The most documents in one body, one after another.
const MAX_DOCUMENTS: usize = 10_000;

/// What a body holds: mostly one document; several where a partner writes one per line (NDJSON).
pub(super) struct Documents {
    all: Vec<Value>,
    /// The numbers that serde_json would write otherwise, as they were written, by where their value lies in `all`, which
    /// is never changed.
    as_written: HashMap<usize, String>,
}

/// Parses a body: one document, several, or one in a call of JSONP. serde_json refuses more than 128 levels, so that
/// nothing below recurses deeper.
pub(super) fn parse(text: &str) -> Option<Documents> {
    if let Ok(one) = serde_json::from_str(text) {
        return Some(Documents::of(vec![one], text));
    }
    if let Some((inner, one)) = unwrapped(text).and_then(|inner| Some((inner, serde_json::from_str(inner).ok()?))) {
        return Some(Documents::of(vec![one], inner));
    }
    // Only objects and lists: `200 "OK"` is a text.
    if !text.starts_with(['{', '[']) {
        return None;
    }
    let mut all = Vec::new();
    for document in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let document = document.ok().filter(|it| all.len() < MAX_DOCUMENTS && (it.is_object() || it.is_array()))?;
        all.push(document);
    }
    Some(Documents::of(all, text))
}

/// What stands in `callback({...});`, or behind the `)]}'` that keeps a browser from running it.
fn unwrapped(text: &str) -> Option<&str> {
    static CALL: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r#"^(?:/\*\*/)?\s*(?:typeof [\w$.]{1,100} === 'function' && )?[A-Za-z_$][\w$.\["'\]]{0,100}\s*\("#)
            .ok()
    });
    if let Some(rest) = text.strip_prefix(")]}'") {
        return Some(rest.trim_start_matches(','));
    }
    let head = CALL.as_ref()?.find(text)?;
    text.get(head.end()..)?.trim_end().trim_end_matches(';').trim_end().strip_suffix(')')
}

/// Compiles a JSONPath, or says what is wrong with it.
pub(super) fn compile(text: &str) -> Result<JsonPath, String> {
    if text.matches("..").count() > MAX_DESCENTS {
        return Err(format!("has more than {MAX_DESCENTS} `..`: name the steps between"));
    }
    JsonPath::parse(text).map_err(|error| format!("is no JSONPath (RFC 9535): {error}"))
}

impl Documents {
    /// `text` is what `all` was parsed from.
    fn of(all: Vec<Value>, text: &str) -> Self {
        let tokens = number_tokens(text);
        let mut numbers = Vec::with_capacity(tokens.len());
        all.iter().for_each(|document| collect_numbers(document, &mut numbers));
        let mut as_written = HashMap::new();
        // Where a key stands twice, one value is lost and the count differs; then numbers are as serde_json writes them.
        if numbers.len() == tokens.len() {
            for (value, token) in numbers.into_iter().zip(tokens) {
                let plain = token.len() < 18 && token.bytes().all(|byte| byte.is_ascii_digit());
                let usual = if plain { token.to_owned() } else { value.to_string() };
                if usual != token {
                    as_written.insert(address(value), token.to_owned());
                }
            }
        }
        Self { all, as_written }
    }

    /// What the path selects, each value as text; null is there, but counts as nothing.
    pub(super) fn select<'b>(&'b self, path: &JsonPath) -> Found<'b> {
        let mut nulls = false;
        let selected = self.all.iter().flat_map(|document| path.query(document).all());
        let found = Found::texts(selected.filter_map(|value| {
            nulls |= value.is_null();
            self.text_of(value)
        }));
        Found { whole: found.whole && !nulls, ..found }
    }

    /// A text as it is, a scalar as the reply writes it, an object or a list as compact JSON.
    fn text_of<'b>(&'b self, value: &'b Value) -> Option<Cow<'b, str>> {
        match value {
            Value::Null => None,
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Number(number) => Some(
                self.as_written
                    .get(&address(value))
                    .map_or_else(|| Cow::Owned(number.to_string()), |text| Cow::Borrowed(text.as_str())),
            ),
            Value::Array(_) | Value::Object(_) if !self.as_written.is_empty() => {
                let mut text = String::new();
                self.write(value, &mut text);
                Some(Cow::Owned(text))
            }
            other => Some(Cow::Owned(other.to_string())),
        }
    }

    fn write(&self, value: &Value, out: &mut String) {
        match value {
            Value::Number(_) => out.push_str(&self.text_of(value).unwrap_or_default()),
            Value::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    self.write(item, out);
                }
                out.push(']');
            }
            Value::Object(members) => {
                out.push('{');
                for (index, (key, member)) in members.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    out.push_str(&Value::String(key.clone()).to_string());
                    out.push(':');
                    self.write(member, out);
                }
                out.push('}');
            }
            other => out.push_str(&other.to_string()),
        }
    }
}

/// Where a value lies tells it from every other value of its document.
fn address(value: &Value) -> usize {
    std::ptr::from_ref(value).addr()
}

/// The numbers of a document in the order in which they were written (the crate keeps the order of keys).
fn collect_numbers<'v>(value: &'v Value, into: &mut Vec<&'v Value>) {
    match value {
        Value::Number(_) => into.push(value),
        Value::Array(items) => items.iter().for_each(|item| collect_numbers(item, into)),
        Value::Object(members) => members.values().for_each(|member| collect_numbers(member, into)),
        _ => {}
    }
}

/// The number tokens of a text that is known to be JSON.
fn number_tokens(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let begin = at;
        at += 1;
        match byte {
            b'"' => {
                while let Some(byte) = bytes.get(at) {
                    at += if *byte == b'\\' { 2 } else { 1 };
                    if *byte == b'"' {
                        break;
                    }
                }
            }
            b'-' | b'0'..=b'9' => {
                while bytes.get(at).is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) {
                    at += 1;
                }
                tokens.extend(text.get(begin..at));
            }
            _ => {}
        }
    }
    tokens
}
