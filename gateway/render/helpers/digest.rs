//! Digests, encodings and ids.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{EagerHash, Hmac, KeyInit, Mac};
use md5::Md5;
use serde_json::Value as Json;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::super::engine::Scene;
use super::{Args, Literals};
use crate::model::contract::Contract;

const HASHES: [&str; 4] = ["md5", "sha1", "sha256", "sha512"];
const HMACS: [&str; 3] = ["sha1", "sha256", "sha512"];

/// Of an empty value there is no digest: receivers take one for a person whom nobody knows.
pub(super) fn hash(args: &Args<'_, '_>) -> Result<Json, String> {
    let text = args.text(0);
    if text.is_empty() {
        return Ok("".into());
    }
    let algorithm = args.setting(1, "algorithm");
    Ok(match algorithm.as_deref().unwrap_or("sha256") {
        "md5" => hex::encode(Md5::digest(text.as_bytes())),
        "sha1" => hex::encode(Sha1::digest(text.as_bytes())),
        "sha256" => hex::encode(Sha256::digest(text.as_bytes())),
        "sha512" => hex::encode(Sha512::digest(text.as_bytes())),
        _ => return Err(format!("the algorithm is not one of {}", HASHES.join(", "))),
    }
    .into())
}

pub(super) fn check_hash(literals: &Literals<'_>, _: &Contract) -> Result<(), String> {
    literals.one_of(1, "algorithm", &HASHES)
}

pub(super) fn hmac(args: &Args<'_, '_>, scene: &Scene<'_>) -> Result<Json, String> {
    let name = args.setting(2, "key").unwrap_or_default();
    let key = scene.keys.get(name.as_ref()).ok_or("the key was not read when the template was loaded")?;
    let text = args.text(0);
    let algorithm = args.setting(1, "algorithm");
    let code = match algorithm.as_deref().unwrap_or("sha256") {
        "sha1" => code::<Sha1>(key, &text),
        "sha256" => code::<Sha256>(key, &text),
        "sha512" => code::<Sha512>(key, &text),
        _ => return Err(format!("the algorithm is not one of {}", HMACS.join(", "))),
    };
    Ok(match args.option("encoding").as_deref() {
        Some("base64") => STANDARD.encode(code),
        _ => hex::encode(code),
    }
    .into())
}

pub(super) fn check_hmac(literals: &Literals<'_>, _: &Contract) -> Result<(), String> {
    literals.one_of(1, "algorithm", &HMACS)?;
    literals.one_of(usize::MAX, "encoding", &["hex", "base64"])?;
    match literals.key() {
        Some(key) => key.resolve().map(drop).map_err(|fault| fault.to_string()),
        None => Err("it needs a key that stands in the template: key=\"env:NAME\"".to_owned()),
    }
}

fn code<D: EagerHash>(key: &str, text: &str) -> Vec<u8> {
    // HMAC takes a key of any length (RFC 2104), so this is never the empty code.
    Hmac::<D>::new_from_slice(key.as_bytes())
        .map(|mut mac| {
            mac.update(text.as_bytes());
            mac.finalize().into_bytes().to_vec()
        })
        .unwrap_or_default()
}

/// Remembers what was made of a secret, and gives it as it is.
pub(super) fn derived(args: &Args<'_, '_>, scene: &Scene<'_>) -> Result<Json, String> {
    scene.remember(&args.text(0));
    Ok(args.value(0).clone())
}

pub(super) fn base64(args: &Args<'_, '_>) -> Result<Json, String> {
    let text = args.text(0);
    let url_safe = args.option("url").is_some_and(|word| word == "true");
    Ok(if url_safe { URL_SAFE_NO_PAD.encode(text.as_bytes()) } else { STANDARD.encode(text.as_bytes()) }.into())
}

/// A version 5 UUID (RFC 9562) in the delivery's name space: rendering an attempt again gives the same ids.
pub(super) fn uuid(_: &Args<'_, '_>, scene: &Scene<'_>) -> Result<Json, String> {
    let digest = Sha1::new().chain_update(scene.delivery.0.as_bytes()).chain_update(scene.next_id_name()).finalize();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    Ok(::uuid::Builder::from_sha1_bytes(bytes).into_uuid().to_string().into())
}
