//! Source keys: only their SHA-256 is kept, and a presented key is compared by its hash in constant time.

use std::collections::HashMap;
use std::fmt;

use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::model::id::SourceId;

/// Characters that a configured key must have at least. Keys are drawn at random, so a plain hash keeps them safe.
pub const MIN_KEY: usize = 16;

const HASH_PREFIX: &str = "sha256:";

/// SHA-256 of a key.
#[must_use]
pub fn hash_key(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// The text form of a key's hash, in which it is configured and stored: `sha256:HEX`.
#[must_use]
pub fn hash_text(hash: &[u8; 32]) -> String {
    format!("{HASH_PREFIX}{}", hex::encode(hash))
}

/// The hash of a key as configured, once `env:` and `file:` are resolved: `sha256:HEX`, or the key itself.
///
/// # Errors
/// When the key is too short, could not stand in a header, or the text after `sha256:` is no hash.
pub fn configured_key(text: &str) -> Result<[u8; 32], KeyFault> {
    if let Some(digits) = text.strip_prefix(HASH_PREFIX) {
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash).map_err(|_| KeyFault::BadHash)?;
        return Ok(hash);
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(KeyFault::BadCharacter);
    }
    if text.len() < MIN_KEY {
        return Err(KeyFault::TooShort);
    }
    Ok(hash_key(text))
}

/// Why a configured key cannot be used. Never names the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Too easily guessed.
    #[error("the key is shorter than {MIN_KEY} characters; draw one with `openssl rand -hex 24`")]
    TooShort,
    /// Could not be presented.
    #[error("the key contains spaces or characters beyond visible ASCII, which no header can carry")]
    BadCharacter,
    /// Not a hash.
    #[error("after `sha256:` there must be 64 hexadecimal digits")]
    BadHash,
    /// A key tells who posts, so it can belong to one source only.
    #[error("the sources `{0}` and `{1}` have the same key; give each its own")]
    Shared(SourceId, SourceId),
}

/// Every source's keys, by hash.
#[derive(Default, Clone)]
pub struct KeyRing(HashMap<[u8; 32], SourceId>);

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys)", self.0.len())
    }
}

impl KeyRing {
    /// Builds the ring from hashes (see [`configured_key`]); a source may have several keys while rotating.
    ///
    /// # Errors
    /// Every key that two sources share.
    pub fn new(keys: impl IntoIterator<Item = (SourceId, [u8; 32])>) -> Result<Self, Vec<KeyFault>> {
        let mut ring: HashMap<_, SourceId> = HashMap::new();
        let mut faults = Vec::new();
        for (source, hash) in keys {
            match ring.get(&hash) {
                Some(other) if *other != source => faults.push(KeyFault::Shared(other.clone(), source)),
                _ => {
                    ring.insert(hash, source);
                }
            }
        }
        if faults.is_empty() { Ok(Self(ring)) } else { Err(faults) }
    }

    /// The source that a presented key belongs to.
    ///
    /// The look-up's own timing tells something about the hash of what was presented at most, and a hash cannot be
    /// approached guess by guess; the comparison that decides takes the same time whatever differs.
    #[must_use]
    pub fn find(&self, presented: &str) -> Option<&SourceId> {
        let hash = hash_key(presented);
        let (kept, source) = self.0.get_key_value(&hash)?;
        bool::from(kept.ct_eq(&hash)).then_some(source)
    }
}

/// A key that came with a request, before anybody knows whose it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The key as presented.
    pub key: String,
    /// It stood in the query, which only counts for sources that allow it
    /// ([`key_in_body`](crate::model::source::Source::key_in_body)).
    pub in_query: bool,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential(in_query: {})", self.in_query)
    }
}

/// The key of a request: `Authorization: Bearer KEY` (RFC 6750), `X-Api-Key: KEY`, or `?key=KEY`, the first that is
/// there. Where none is, the body may have one ([`Posted::take_key`](super::Posted::take_key)).
#[must_use]
pub fn credential(headers: &HeaderMap, query: Option<&str>) -> Option<Credential> {
    let bearer = || {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    };
    let header = bearer().or_else(|| headers.get("x-api-key")?.to_str().ok().map(str::trim));
    match header.filter(|key| !key.is_empty()) {
        Some(key) => Some(Credential { key: key.to_owned(), in_query: false }),
        None => {
            super::query_value(query, "key").filter(|key| !key.is_empty()).map(|key| Credential { key, in_query: true })
        }
    }
}
