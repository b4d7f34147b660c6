//! Digests, encodings and ids.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use hmac::{EagerHash, Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::super::engine::Scene;
use super::{Args, COMPUTED_KEY, Literals, Value};
use crate::model::contract::Contract;

const ALGORITHMS: [&str; 4] = ["md5", "sha1", "sha256", "sha512"];
const ENCODINGS: [&str; 3] = ["hex", "base64", "base64url"];
const KEY_ENCODINGS: [&str; 3] = ["text", "hex", "base64"];

/// Of an empty value there is no digest: receivers take one for a person whom nobody knows.
pub(super) fn hash<'v>(args: &Args<'_, 'v>, scene: &Scene<'_>) -> Result<Value<'v>, String> {
    let text = args.text(0);
    if text.is_empty() {
        return Ok("".into());
    }
    let bytes = scene.charset.encode(&text);
    let algorithm = args.setting(1, "algorithm");
    let digest = match algorithm.as_deref().unwrap_or("sha256") {
        "md5" => Md5::digest(&bytes).to_vec(),
        "sha1" => Sha1::digest(&bytes).to_vec(),
        "sha256" => Sha256::digest(&bytes).to_vec(),
        "sha512" => Sha512::digest(&bytes).to_vec(),
        _ => return Err(unknown_algorithm()),
    };
    encoded(&digest, args)
}

pub(super) fn check_hash(literals: &Literals<'_>, _: &Contract) -> Result<(), String> {
    literals.one_of(1, "algorithm", &ALGORITHMS)?;
    literals.one_of(usize::MAX, "encoding", &ENCODINGS)
}

pub(super) fn hmac<'v>(args: &Args<'_, 'v>, scene: &Scene<'_>) -> Result<Value<'v>, String> {
    let key = key(args, scene)?;
    let text = args.text(0);
    let bytes = scene.charset.encode(&text);
    let algorithm = args.setting(1, "algorithm");
    let digest = match algorithm.as_deref().unwrap_or("sha256") {
        "md5" => code::<Md5>(&key, &bytes),
        "sha1" => code::<Sha1>(&key, &bytes),
        "sha256" => code::<Sha256>(&key, &bytes),
        "sha512" => code::<Sha512>(&key, &bytes),
        _ => return Err(unknown_algorithm()),
    };
    encoded(&digest, args)
}

pub(super) fn check_hmac(literals: &Literals<'_>, _: &Contract) -> Result<(), String> {
    literals.one_of(1, "algorithm", &ALGORITHMS)?;
    literals.one_of(usize::MAX, "encoding", &ENCODINGS)?;
    literals.one_of(usize::MAX, "key_encoding", &KEY_ENCODINGS)?;
    match literals.key() {
        Ok(Some(key)) => key.resolve().map(drop).map_err(|fault| fault.to_string()),
        Ok(None) => Err("it needs a key: key=secret.NAME or key=\"env:NAME\"".to_owned()),
        Err(()) => Ok(()),
    }
}

/// The key's bytes. An empty one would sign for everybody, and is taken for a mistake.
fn key(args: &Args<'_, '_>, scene: &Scene<'_>) -> Result<Vec<u8>, String> {
    let given = args.setting(2, "key").unwrap_or_default();
    let key = match args.option(COMPUTED_KEY) {
        Some(_) => given.as_ref(),
        None => scene.keys.get(given.as_ref()).ok_or("the key was not read when the template was loaded")?,
    };
    let bytes = match args.option("key_encoding").as_deref() {
        None | Some("text") => key.as_bytes().to_vec(),
        Some("hex") => hex::decode(key.trim()).map_err(|_| "the key is not hexadecimal, as key_encoding says")?,
        Some("base64") => decode_base64(key).ok_or("the key is not base64, as key_encoding says")?,
        Some(_) => return Err(format!("key_encoding is not one of {}", KEY_ENCODINGS.join(", "))),
    };
    if bytes.is_empty() { Err("the key is empty".to_owned()) } else { Ok(bytes) }
}

/// Base64 of either alphabet, with or without its padding: keys are handed out in every kind.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let standard = text.trim().trim_end_matches('=').replace('-', "+").replace('_', "/");
    STANDARD_NO_PAD.decode(standard).ok()
}

fn encoded<'v>(digest: &[u8], args: &Args<'_, 'v>) -> Result<Value<'v>, String> {
    Ok(match args.option("encoding").as_deref() {
        None | Some("hex") => hex::encode(digest),
        Some("base64") => STANDARD.encode(digest),
        Some("base64url") => URL_SAFE_NO_PAD.encode(digest),
        Some(_) => return Err(format!("encoding is not one of {}", ENCODINGS.join(", "))),
    }
    .into())
}

fn unknown_algorithm() -> String {
    format!("the algorithm is not one of {}", ALGORITHMS.join(", "))
}

fn code<D: EagerHash>(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    // HMAC takes a key of any length (RFC 2104), so this is never the empty code.
    Hmac::<D>::new_from_slice(key)
        .map(|mut mac| {
            mac.update(bytes);
            mac.finalize().into_bytes().to_vec()
        })
        .unwrap_or_default()
}

/// Remembers what was made of a secret, and gives it as it is.
pub(super) fn derived<'v>(args: &Args<'_, 'v>, scene: &Scene<'_>) -> Result<Value<'v>, String> {
    scene.remember(&args.text(0));
    Ok(args.value(0).clone())
}

pub(super) fn base64<'v>(args: &Args<'_, 'v>, scene: &Scene<'_>) -> Result<Value<'v>, String> {
    let text = args.text(0);
    let bytes = scene.charset.encode(&text);
    let url_safe = args.option("url").is_some_and(|word| word == "true");
    Ok(if url_safe { URL_SAFE_NO_PAD.encode(bytes) } else { STANDARD.encode(bytes) }.into())
}

/// A version 5 UUID (RFC 9562) in the delivery's name space: rendering an attempt again gives the same ids.
pub(super) fn uuid<'v>(_: &Args<'_, 'v>, scene: &Scene<'_>) -> Result<Value<'v>, String> {
    let digest = Sha1::new().chain_update(scene.delivery.0.as_bytes()).chain_update(scene.next_id_name()).finalize();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    Ok(::uuid::Builder::from_sha1_bytes(bytes).into_uuid().to_string().into())
}
