//! Text that may be a secret: written as it is, or named by `env:NAME` or `file:PATH` and read when the network is
//! loaded. Debug never shows a resolved value.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What masks a secret or a sensitive value wherever it would be stored or shown.
pub const MASK: &str = "***";

/// A configured text that may refer to a secret kept elsewhere. What is stored and shown is the reference.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

/// Why a reference could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    /// `env:NAME` and there is no such variable.
    #[error("the environment variable {0} is not set; set it, or write file:PATH")]
    NoVariable(String),
    /// `file:PATH` and the file cannot be read.
    #[error("the file {path} cannot be read ({why}); check the path and its permissions")]
    NoFile {
        /// As configured.
        path: String,
        /// What the system said.
        why: String,
    },
}

impl SecretText {
    /// Whether this is a reference (`env:`, `file:`), so that its value must never be shown.
    #[must_use]
    pub fn is_reference(&self) -> bool {
        self.0.starts_with("env:") || self.0.starts_with("file:")
    }

    /// The value itself: the variable's, the file's without its last line break, or the text as it stands.
    ///
    /// # Errors
    /// When the variable or the file is not there.
    pub fn resolve(&self) -> Result<String, SecretFault> {
        if let Some(name) = self.0.strip_prefix("env:") {
            std::env::var(name).map_err(|_| SecretFault::NoVariable(name.to_owned()))
        } else if let Some(path) = self.0.strip_prefix("file:") {
            let text = std::fs::read_to_string(path)
                .map_err(|error| SecretFault::NoFile { path: path.to_owned(), why: error.to_string() })?;
            let line = text.strip_suffix('\n').unwrap_or(&text);
            Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
        } else {
            Ok(self.0.clone())
        }
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_reference() { &self.0 } else { MASK })
    }
}

/// Whether the value of a header with this name is taken for a secret whatever configured it: credentials, cookies,
/// and names that say so. (`Idempotency-Key` carries an id, not a secret.)
#[must_use]
pub fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if name == "idempotency-key" {
        return false;
    }
    matches!(name.as_str(), "authorization" | "proxy-authorization" | "cookie" | "set-cookie")
        || ["token", "secret", "key", "password"].iter().any(|word| name.contains(word))
}

/// Masks what may be a secret in a resource's document, for people to see. References (`env:`, `file:`) stay, since they
/// are names; so do templates of variables only.
pub fn mask_document(document: &mut Value) {
    if let Some(key) = document.get_mut("key") {
        mask(key);
    }
    members(document, "secrets").for_each(|(_, value)| mask(value));
    let Some(endpoint) = document.get_mut("endpoint") else { return };
    for url in members(endpoint, "auth").filter_map(|(_, value)| value.get_mut("token_url")) {
        mask_query(url);
    }
    let credentials = members(endpoint, "auth").filter_map(|(_, value)| value.as_object_mut()).flatten();
    credentials.filter(|(key, _)| !OPEN_CREDENTIALS.contains(&key.as_str())).for_each(|(_, value)| mask(value));
    members(endpoint, "headers").for_each(|(_, value)| mask(value));
    members(endpoint, "form").filter(|(name, _)| is_secret_header(name)).for_each(|(_, value)| mask(value));
    members(endpoint, "tls").filter(|(name, _)| *name == "key").for_each(|(_, value)| mask(value));
    for key in ["url", "backup_url"] {
        if let Some(url) = endpoint.get_mut(key) {
            mask_query(url);
        }
    }
}

/// A URL without what its query says.
fn mask_query(url: &mut Value) {
    if let Value::String(url) = url
        && let Some((address, _)) = url.split_once('?')
    {
        *url = format!("{address}?{MASK}");
    }
}

/// Keys of an endpoint's `auth` that hold no secret.
const OPEN_CREDENTIALS: [&str; 10] = [
    "name",
    "password_type",
    "timestamp",
    "grant",
    "client_auth",
    "client_id",
    "header",
    "scheme",
    "scope",
    "token_url",
];

fn members<'a>(value: &'a mut Value, table: &str) -> impl Iterator<Item = (&'a String, &'a mut Value)> {
    value.get_mut(table).and_then(Value::as_object_mut).into_iter().flatten()
}

fn mask(value: &mut Value) {
    match value {
        Value::String(text) if text.starts_with("env:") || text.starts_with("file:") || is_plain_template(text) => {}
        Value::String(text) => MASK.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Object(fields) => fields.values_mut().for_each(mask),
        _ => {}
    }
}

/// Whether a template holds variables only, and no text of its own that may be a secret.
#[must_use]
pub fn is_plain_template(text: &str) -> bool {
    let mut parts = text.split("{{");
    let no_text = |part: &str| !part.contains(char::is_alphanumeric);
    text.contains("{{")
        && parts.next().is_none_or(no_text)
        && parts.all(|part| {
            part.split_once("}}").is_some_and(|(inner, after)| !inner.contains(['"', '\'']) && no_text(after))
        })
}
