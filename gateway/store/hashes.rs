//! Keyed hashes of what leads are looked up and compared by, so that no table holds guessable hashes of personal data.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// What a value of a kind is looked up under.
pub(super) fn lookup_hash(key: &[u8; 32], kind: &str, value: &str) -> [u8; 16] {
    let digest = keyed(key, &[kind, value]);
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

/// A hash of several parts, none of which runs into the next.
pub(super) fn keyed(key: &[u8; 32], parts: &[&str]) -> [u8; 32] {
    // HMAC takes keys of any length, so this cannot fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    mac.finalize().into_bytes().into()
}
