//! Idempotency: what makes a repeated post the same post.

use http::HeaderMap;
use sha2::{Digest, Sha256};

/// Characters that a key may have.
pub const MAX_KEY: usize = 255;

/// What tells a replay from another body under the same key: SHA-256 of the body's bytes as they came.
#[must_use]
pub fn fingerprint(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

/// Why an idempotency key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Empty, too long, or not visible ASCII.
    #[error("an idempotency key is 1 to {MAX_KEY} visible ASCII characters, such as a UUID")]
    Form,
    /// Which one counts?
    #[error("the header Idempotency-Key stands more than once; send it once")]
    Repeated,
}

/// The request's `Idempotency-Key`, as it stands.
///
/// # Errors
/// When it is there and unusable: to ignore it would sell a lead twice that the source believes safe.
pub fn key(headers: &HeaderMap) -> Result<Option<&str>, BadKey> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(BadKey::Repeated);
    }
    check(value.to_str().map_err(|_| BadKey::Form)?).map(Some)
}

/// Checks a key that came another way, such as a batch line's `idempotency_key`.
///
/// # Errors
/// When it is empty, too long, or not visible ASCII.
pub fn check(key: &str) -> Result<&str, BadKey> {
    let fits = (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(key) } else { Err(BadKey::Form) }
}
