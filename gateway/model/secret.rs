//! Text that may be a secret: written as it is, or named by `env:NAME` or `file:PATH` and read when the network is
//! loaded. Debug never shows a resolved value.

use std::fmt;

use serde::{Deserialize, Serialize};

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
